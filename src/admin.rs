//! The side door for the commands of this binary: `/v1/admin/...`.
//!
//! Long work answers with lines of JSON while it goes on, `{"rows": n, "of": m}` and the like, and ends with
//! `{"done": ...}` or `{"error": "..."}`; so a command can show progress, and knows an answer that broke off.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use foldline_batch_layer::scheduler::{Loaded, Outcome, Run, RunState};
use foldline_batch_layer::{Generation, GenerationError, GenerationNumber, RunKind};
use foldline_event_log::{DeadLetter, Offset, RecordTime, TopicPartition};
use foldline_serving_layer::coverage::rfc3339_millis;
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::failure::{self, Failure};
use crate::platform::Core;
use crate::warehouse::{Thoroughness, WarehouseRuns};
use crate::{audit, batch_runs, gaps};

/// Lines of progress that wait for a slow reader; more are dropped, since the next one says more.
const LINES_AHEAD: usize = 64;
/// Dead letters and runs listed at once, at most.
const LISTED_MAX: usize = 1_000;
/// Of a dead letter's bytes so many are shown.
const RAW_SHOWN_MAX: usize = 200;

type Shared = Arc<Core>;

/// The routes.
pub(crate) fn router(core: Shared) -> Router {
    Router::new()
        .route("/v1/admin/instance", get(instance))
        .route("/v1/admin/caught-up", post(caught_up))
        .route("/v1/admin/batch/runs", get(history).post(run_batch))
        .route("/v1/admin/generations", get(list_generations))
        .route("/v1/admin/generations/{number}/{act}", post(act_on_generation))
        .route("/v1/admin/verify", post(verify))
        .route("/v1/admin/archive/audit", post(audit_archive))
        .route("/v1/admin/archive/dead-letters", get(dead_letters))
        .route("/v1/admin/warehouse", get(warehouse_status))
        .route("/v1/admin/warehouse/load", post(load_warehouse))
        .route("/v1/admin/warehouse/verify", post(verify_warehouse))
        .route("/v1/admin/gaps", get(list_gaps).post(accept_gaps))
        .with_state(core)
}

async fn instance(State(core): State<Shared>) -> Json<Value> {
    Json(json!({ "instance": core.instance, "version": env!("CARGO_PKG_VERSION") }))
}

/// A refused request, as an RFC 9457 problem document.
struct Refused(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.downcast_ref::<Failure>() {
            Some(Failure::Usage(_)) => StatusCode::BAD_REQUEST,
            Some(Failure::No(_)) => StatusCode::CONFLICT,
            Some(Failure::Unreachable(_)) => StatusCode::SERVICE_UNAVAILABLE,
            None => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": failure::sentence(&self.0),
        });
        (
            status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            problem.to_string(),
        )
            .into_response()
    }
}

/// Where long work tells how far it is.
#[derive(Debug, Clone)]
struct Lines(mpsc::Sender<Value>);

impl Lines {
    fn tell(&self, line: Value) {
        // Full: the reader is slow, and the next line says more. Closed: the reader went away, the work goes on.
        drop(self.0.try_send(line));
    }
}

/// Runs `work` on the work runtime; the answer is its lines. The work goes on when the reader goes away.
fn long_work<F>(core: &Shared, work: impl FnOnce(Shared, Lines) -> F) -> Response
where
    F: Future<Output = anyhow::Result<Value>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    let work = work(Arc::clone(core), Lines(sender.clone()));
    core.work.spawn(async move {
        let last = match work.await {
            Ok(done) => json!({ "done": done }),
            Err(error) => json!({ "error": failure::sentence(&error) }),
        };
        drop(sender.send(last).await);
    });
    let lines = futures::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Bytes::from(line.to_string() + "\n")), receiver))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// Answers when what is in the log now is folded.
async fn caught_up(State(core): State<Shared>) -> Result<Response, Refused> {
    let mut targets: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
    for partition in core.partitions() {
        let end = core.log.span(&partition).await?.end;
        targets.insert(partition, end);
    }
    let (shared, speed) = (core.shared.clone(), core.speed.clone());
    if shared.is_none() && (speed.is_none() || core.cluster.is_some()) {
        return Err(Failure::No("this foldline runs without the roles that fold and answer".into()).into());
    }
    Ok(long_work(&core, |_, _| async move {
        match (shared, speed) {
            (Some(shared), _) => shared.wait_until(&targets).await?,
            (None, Some(speed)) => speed.wait_until(&targets).await?,
            (None, None) => {}
        }
        Ok(Value::Null)
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    #[serde(default)]
    full: bool,
    until_ms: Option<i64>,
}

async fn run_batch(State(core): State<Shared>, Json(request): Json<RunRequest>) -> Response {
    long_work(&core, |core, lines| async move {
        let kind = if request.full {
            RunKind::Full
        } else {
            RunKind::Incremental
        };
        let told = |rows, of| lines.tell(json!({ "rows": rows, "of": of }));
        let report = core
            .runs
            .run_by_hand(kind, request.until_ms.map(RecordTime), &told)
            .await?;
        let mut done = generation_row(&report.generation, &core, false);
        done["published_now"] = json!(report.published);
        done["rows"] = json!(report.rows);
        done["files"] = json!(report.files);
        done["elapsed_ms"] = json!(report.elapsed_ms);
        done["complaint"] = json!(batch_runs::complaint(&report));
        if let Some(warehouse) = &core.warehouse {
            // Who stays loads by itself, again and again until it works; behind a command alone nobody would.
            if !core.stays {
                drop(warehouse.load(&core, Thoroughness::Behind, &|_| {}).await);
            }
            done["warehouse"] = json!(warehouse.status());
        }
        Ok(done)
    })
}

fn warehouse_of(core: &Core) -> Result<&WarehouseRuns, Failure> {
    let missing = "there is no warehouse here: warehouse.kind is none, or this foldline runs without the role batch";
    core.warehouse.as_ref().ok_or_else(|| Failure::No(missing.into()))
}

async fn warehouse_status(State(core): State<Shared>) -> Result<Json<Value>, Refused> {
    let warehouse = warehouse_of(&core)?;
    warehouse.look().await?;
    let mut row = serde_json::to_value(warehouse.status())?;
    row["current"] = json!(core.generations.current().map(|current| current.number.0));
    Ok(Json(json!([row])))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadRequest {
    full: bool,
}

async fn load_warehouse(State(core): State<Shared>, Json(request): Json<LoadRequest>) -> Result<Response, Refused> {
    warehouse_of(&core)?;
    Ok(long_work(&core, |core, lines| async move {
        let told = |table: &str| lines.tell(json!({ "step": table }));
        let thoroughness = match request.full {
            true => Thoroughness::Full,
            false => Thoroughness::Differing,
        };
        let report = warehouse_of(&core)?.load(&core, thoroughness, &told).await?;
        Ok(serde_json::to_value(report)?)
    }))
}

async fn verify_warehouse(
    State(core): State<Shared>,
    // A body of JSON is what a page of another site cannot send unasked.
    Json(_): Json<Value>,
) -> Result<Response, Refused> {
    warehouse_of(&core)?;
    Ok(long_work(&core, |core, lines| async move {
        let told = |table: &str| lines.tell(json!({ "step": table }));
        let found = warehouse_of(&core)?.verify(&core, &told).await?;
        Ok(serde_json::to_value(found)?)
    }))
}

/// What became of the load behind a run.
fn loads_of(run: &Run, loads: &BTreeMap<u64, Loaded>) -> Option<String> {
    let RunState::Finished(Outcome::Published(generation)) = &run.state else {
        return None;
    };
    loads.get(generation).map(|load| match &load.error {
        None => "loaded".to_owned(),
        Some(error) => format!("not loaded: {error}"),
    })
}

async fn history(State(core): State<Shared>) -> Result<Json<Value>, Refused> {
    let runs = core.runs.history(LISTED_MAX).await?;
    let loads = core.ledger.loads(LISTED_MAX).await?;
    let rows = runs.iter().map(|run| {
        json!({
            "started": rfc3339_millis(run.started.started_ms),
            "scheduled": run.started.scheduled_ms.and_then(rfc3339_millis),
            "caught_up": run.started.skipped,
            "finished": run.finished_ms.and_then(rfc3339_millis),
            "state": run.state,
            "warehouse": loads_of(run, &loads),
        })
    });
    Ok(Json(rows.collect()))
}

async fn list_generations(State(core): State<Shared>) -> Result<Json<Value>, Refused> {
    let stored = core.generations.list().await?;
    Ok(Json(
        stored
            .iter()
            .map(|(generation, pinned)| generation_row(generation, &core, *pinned))
            .collect(),
    ))
}

fn generation_row(generation: &Generation, core: &Core, pinned: bool) -> Value {
    let number = generation.number;
    let keys: u64 = generation
        .views
        .values()
        .flat_map(|view| &view.dates)
        .map(|date| date.keys)
        .sum();
    json!({
        "generation": number.0,
        "kind": generation.kind,
        "based_on": generation.based_on.map(|number| number.0),
        "cut_at": generation.cut.tick.and_then(|tick| rfc3339_millis(tick.0)),
        "published": rfc3339_millis(generation.published_ms),
        "views": generation.views.len(),
        "keys": keys,
        "current": core.generations.current().is_some_and(|current| current.number == number),
        "readable": core.generations.readable().iter().any(|readable| readable.number == number),
        "pinned": pinned,
    })
}

async fn act_on_generation(
    State(core): State<Shared>,
    Path((number, act)): Path<(u64, String)>,
    // A body of JSON is what a page of another site cannot send unasked.
    Json(_): Json<Value>,
) -> Result<Json<Value>, Refused> {
    let number = GenerationNumber(number);
    let usage = |error: GenerationError| match error {
        GenerationError::Unknown(_) => anyhow::Error::from(Failure::Usage(error.to_string())),
        other => other.into(),
    };
    match act.as_str() {
        "pin" => core.generations.pin(number).await.map_err(usage)?,
        "unpin" => core.generations.unpin(number).await.map_err(usage)?,
        "rollback" => return Ok(Json(roll_back(&core, number).await?)),
        other => return Err(Failure::Usage(format!("unknown act \"{other}\": pin, unpin, rollback")).into()),
    }
    let generation = core.generations.get(number).await.map_err(usage)?;
    Ok(Json(generation_row(&generation, &core, act == "pin")))
}

/// Publishes the older generation anew, unless the log no longer reaches back to its cut.
async fn roll_back(core: &Core, number: GenerationNumber) -> anyhow::Result<Value> {
    let _floors = core.floors.lock().await;
    let floor = batch_runs::floor(&core.generations.readable());
    let to = core
        .generations
        .get(number)
        .await
        .map_err(|error| Failure::Usage(error.to_string()))?;
    for (_, topic, origins) in &core.topics {
        for (partition, origin) in topic.all_partitions().iter().zip(origins) {
            let next = to.cut.of(partition).map_or(*origin, |cut| cut.next);
            // Before the look at where the log begins, and before publishing: nothing is trimmed in between. Should the
            // rollback fail, the next release raises the floor again.
            let needed = floor.of(partition).map_or(*origin, |cut| cut.next);
            core.log.release(partition, next.min(needed)).await?;
            let earliest = core.log.span(partition).await?.earliest;
            if next < earliest {
                let sentence = format!(
                    "cannot roll back to generation {}: it ends at offset {next} of {partition}, and the log begins at {earliest}",
                    number.0
                );
                return Err(Failure::No(sentence).into());
            }
        }
    }
    let published = core.generations.rollback(number).await?;
    core.generations.refresh().await?;
    core.runs.retain();
    Ok(generation_row(&published, core, false))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyRequest {
    /// All of them without a name.
    view: Option<String>,
}

async fn verify(State(core): State<Shared>, Json(request): Json<VerifyRequest>) -> Result<Response, Refused> {
    let views = match &request.view {
        None => core.catalog.views().to_vec(),
        Some(name) => vec![core.catalog.view(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = core.catalog.views().iter().map(|view| view.name.as_str()).collect();
            Failure::Usage(format!("there is no view \"{name}\"; there are: {}", known.join(", ")))
        })?],
    };
    Ok(long_work(&core, |core, lines| async move {
        let mut findings = Vec::new();
        for view in views {
            let told = |rows: u64| lines.tell(json!({ "step": view.name, "raw_rows": rows }));
            told(0);
            findings.push(audit::audit(&core, &view, &told).await);
        }
        core.report.audited(&findings);
        Ok(serde_json::to_value(findings)?)
    }))
}

async fn audit_archive(State(core): State<Shared>) -> Response {
    long_work(&core, |core, lines| async move {
        let mut partitions = Vec::new();
        for partition in core.partitions() {
            lines.tell(json!({ "step": format!("auditing {partition}") }));
            partitions.extend(core.archive.audit(std::slice::from_ref(&partition)).await?.partitions);
        }
        let faults: u64 = partitions.iter().map(|partition| partition.findings_in_all).sum();
        let problem = format!("{faults} faults; run foldline archive audit");
        core.report
            .problem("audit of the archive", (faults > 0).then_some(problem));
        Ok(serde_json::to_value(partitions)?)
    })
}

async fn list_gaps(State(core): State<Shared>) -> Result<Json<Value>, Refused> {
    Ok(Json(serde_json::to_value(gaps::list(&core).await?)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GapRequest {
    stream: String,
}

async fn accept_gaps(State(core): State<Shared>, Json(request): Json<GapRequest>) -> Result<Json<Value>, Refused> {
    // To its end, whoever asks goes away or not.
    let accepting = tokio::spawn(async move { gaps::accept(&core, &request.stream).await });
    Ok(Json(serde_json::to_value(accepting.await??)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadLetterRequest {
    stream: Option<String>,
    partition: Option<u32>,
    /// Newest first, from this offset on downwards.
    from: Option<u64>,
    limit: usize,
}

/// The newest dead letters first, and whether there are older ones.
async fn dead_letters(
    State(core): State<Shared>,
    Query(request): Query<DeadLetterRequest>,
) -> Result<Json<Value>, Refused> {
    if let Some(stream) = &request.stream
        && core.catalog.stream(stream).is_none()
    {
        return Err(Failure::Usage(format!("there is no stream \"{stream}\"")).into());
    }
    let limit = request.limit;
    if limit > LISTED_MAX {
        let sentence = format!("--limit {limit}: at most {LISTED_MAX} at once; read on with --partition and --from");
        return Err(Failure::Usage(sentence).into());
    }
    let mut rows = Vec::new();
    for (stream, topic, origins) in &core.topics {
        if request.stream.as_ref().is_some_and(|wanted| *wanted != stream.name) {
            continue;
        }
        for (partition, origin) in topic.all_partitions().iter().zip(origins) {
            if request.partition.is_some_and(|wanted| wanted != partition.partition.0) {
                continue;
            }
            let below = request
                .from
                .map_or(Offset(u64::MAX), |from| Offset(from.saturating_add(1)));
            for letter in newest_letters(&core, partition, *origin, below, limit + 1).await? {
                let shown = &letter.raw[..letter.raw.len().min(RAW_SHOWN_MAX)];
                let row = json!({
                    "stream": stream.name,
                    "partition": partition.partition,
                    "offset": letter.offset,
                    "record_time": rfc3339_millis(letter.timestamp_ms),
                    "reason": letter.reason,
                    "bytes": letter.raw.len(),
                    "raw": String::from_utf8_lossy(shown),
                });
                rows.push((letter.timestamp_ms, row));
            }
        }
    }
    // Stable: those of one partition keep their order.
    rows.sort_by_key(|(timestamp_ms, _)| Reverse(*timestamp_ms));
    let more = rows.len() > limit;
    let rows: Vec<Value> = rows.into_iter().take(limit).map(|(_, row)| row).collect();
    Ok(Json(json!({ "rows": rows, "more": more })))
}

/// At most `count` dead letters of `partition` below `below`, the newest first, read back commit by commit.
async fn newest_letters(
    core: &Core,
    partition: &TopicPartition,
    origin: Offset,
    below: Offset,
    count: usize,
) -> anyhow::Result<Vec<DeadLetter>> {
    let mut newest = Vec::new();
    for commit in core.archive.commits(partition).await?.iter().rev() {
        let offsets = commit.offsets.start.max(origin)..commit.offsets.end.min(below);
        if commit.dead_letters.is_none() || offsets.start >= offsets.end {
            continue;
        }
        let letters = core.archive.dead_letters(partition, offsets);
        let letters: Vec<DeadLetter> = letters.try_collect().await?;
        newest.extend(letters.into_iter().rev());
        if newest.len() >= count {
            break;
        }
    }
    newest.truncate(count);
    Ok(newest)
}
