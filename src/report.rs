//! What the platform says about itself in `/v1/status`, on the page and in `/metrics`.
//!
//! Asking does no IO: maintenance looks at the log and the stored generations every second and leaves here what it saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use foldline_batch_layer::{Generation, GenerationError, RunKind};
use foldline_event_log::{LogError, Span, TopicPartition};
use foldline_serving_layer::Count;
use foldline_serving_layer::coverage::rfc3339_millis;
use foldline_serving_layer::status::{
    BatchStatus, GenerationStatus, MemoryStatus, PartitionStatus, Status, StatusSource, StreamStatus,
};
use foldline_speed_layer::RealtimeStore;

use crate::audit::Finding;
use crate::counts::counts;
use crate::platform::Core;

/// The last look at what takes IO to look at.
#[derive(Debug, Default)]
struct Seen {
    spans: BTreeMap<TopicPartition, Span>,
    generations: Vec<GenerationStatus>,
    next_run_ms: Option<i64>,
    /// What is wrong, by what looked.
    problems: BTreeMap<String, String>,
}

/// The status of a [`Core`].
#[derive(Debug, Default)]
pub(crate) struct Report {
    core: OnceLock<Weak<Core>>,
    started_ms: OnceLock<i64>,
    seen: Mutex<Seen>,
}

impl Report {
    /// Reports on `core` from now on.
    pub(crate) fn on(&self, core: &Arc<Core>) {
        let _ = self.core.set(Arc::downgrade(core));
        let _ = self.started_ms.set(core.clock.now_ms());
    }

    /// Looks at the log and at what is stored.
    pub(crate) async fn look(&self, core: &Core) -> anyhow::Result<()> {
        // At once: a log on brokers then asks them once for all.
        let looks = core.partitions().into_iter().map(|partition| async move {
            let span = core.log.span(&partition).await?;
            Ok::<_, LogError>((partition, span))
        });
        let spans: BTreeMap<_, _> = futures::future::try_join_all(looks).await?.into_iter().collect();
        let readable = core.generations.readable();
        let current = core.generations.current().map(|current| current.number);
        // A manifest never changes, and can be large: each is read once.
        let known: BTreeMap<u64, GenerationStatus> = {
            let seen = self.lock();
            let known = seen.generations.iter();
            known.map(|row| (row.number, row.clone())).collect()
        };
        let mut generations = Vec::new();
        for (number, pinned) in core.generations.numbers().await? {
            let row = match known.get(&number.0) {
                Some(known) => known.clone(),
                None => match core.generations.get(number).await {
                    Ok(generation) => unchanging(&generation),
                    // Collected since its name was read.
                    Err(GenerationError::Unknown(_)) => continue,
                    Err(error) => return Err(error.into()),
                },
            };
            generations.push(GenerationStatus {
                current: current == Some(number),
                readable: readable.iter().any(|readable| readable.number == number),
                pinned,
                ..row
            });
        }
        let mut seen = self.lock();
        seen.spans = spans;
        seen.generations = generations;
        Ok(())
    }

    /// When the schedule is due next.
    pub(crate) fn next_run(&self, at_ms: Option<i64>) {
        self.lock().next_run_ms = at_ms;
    }

    /// What an audit found: a view that is wrong keeps the platform from being ready until an audit finds it right. One
    /// that could not be audited says nothing either way.
    pub(crate) fn audited(&self, findings: &[Finding]) {
        let mut seen = self.lock();
        for finding in findings {
            let name = format!("audit of view \"{}\"", finding.view);
            match finding.equal {
                Some(false) => {
                    let difference = finding.difference.as_deref().unwrap_or("differs");
                    let problem = format!("{name} failed: {difference}; run foldline verify {}", finding.view);
                    seen.problems.insert(name, problem);
                }
                Some(true) => {
                    seen.problems.remove(&name);
                }
                // Nothing was compared: what was known before stands.
                None => {}
            }
        }
    }

    /// Keeps or clears what is wrong with `what`; true if that is news.
    pub(crate) fn problem(&self, what: &str, problem: Option<String>) -> bool {
        let mut seen = self.lock();
        match problem {
            Some(problem) => {
                let problem = format!("{what}: {problem}");
                let before = seen.problems.insert(what.to_owned(), problem.clone());
                before != Some(problem)
            }
            None => seen.problems.remove(what).is_some(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatusSource for Report {
    fn status(&self) -> Status {
        let Some(core) = self.core.get().and_then(Weak::upgrade) else {
            return Status::default();
        };
        let seen = self.lock();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started_ms.get().copied().and_then(rfc3339_millis),
            streams: streams(&core, &seen),
            generations: seen.generations.clone(),
            batch: batch(&core, &seen),
            memory: memory(&core),
            // What it holds is the concern of who loads it.
            warehouse: core
                .warehouse
                .as_ref()
                .filter(|_| core.runs.leads())
                .map(|warehouse| warehouse.status()),
            problems: seen.problems.values().cloned().collect(),
        }
    }

    fn counts(&self) -> Vec<Count> {
        let core = self.core.get().and_then(Weak::upgrade);
        core.map(|core| counts(&core)).unwrap_or_default()
    }
}

/// What of a generation's row never changes.
fn unchanging(generation: &Generation) -> GenerationStatus {
    GenerationStatus {
        number: generation.number.0,
        kind: kind_name(generation.kind).to_owned(),
        published: rfc3339_millis(generation.published_ms),
        cut_at: generation.cut.tick.and_then(|tick| rfc3339_millis(tick.0)),
        ..GenerationStatus::default()
    }
}

fn streams(core: &Core, seen: &Seen) -> Vec<StreamStatus> {
    let now_ms = core.clock.now_ms();
    let archived = core
        .archiver
        .as_ref()
        .map(|archiver| archiver.positions())
        .unwrap_or_default();
    let current = core.generations.current();
    let folded: BTreeMap<TopicPartition, _> = core
        .speed
        .iter()
        .flat_map(|speed| speed.status())
        .map(|status| (status.partition.clone(), status))
        .collect();
    // Where others fold, what this process shows of it.
    let shown = core.shared.as_ref().map(|shared| shared.snapshot()).unwrap_or_default();
    let stale = core.shared.as_ref().map(|shared| shared.stale()).unwrap_or_default();
    let of_partition = |partition: TopicPartition| {
        let keeps_ms = core.log.keeps_ms(&partition.topic).filter(|keeps_ms| *keeps_ms > 0);
        let span = seen.spans.get(&partition);
        let archived = archived.get(&partition);
        let folded = folded.get(&partition);
        let shown = shown.partitions.get(&partition);
        let ends = [
            span.map(|span| span.end),
            archived.map(|position| position.end),
            folded.map(|status| status.end),
        ];
        let end = ends.into_iter().flatten().max().map_or(0, |end| end.0);
        let speed_until = shown.map(|view| view.read_to).or(folded.map(|status| status.until));
        let folded_to = shown.map_or(folded.and_then(|status| status.complete_to), |view| view.complete_to);
        let archived_to = archived
            .map(|position| position.complete_to.0)
            .filter(|to| *to > i64::MIN);
        let waits_ms = archived.zip(archived_to).map(|(position, to)| {
            if position.until.0 < end {
                (now_ms - to).max(0)
            } else {
                0
            }
        });
        PartitionStatus {
            partition: partition.partition.0,
            earliest: span.map_or(0, |span| span.earliest.0),
            end,
            archived_until: archived.map(|position| position.until.0),
            cut: current
                .as_ref()
                .and_then(|current| current.cut.of(&partition))
                .map(|cut| cut.next.0),
            archived_to: archived_to.and_then(rfc3339_millis),
            archive_stopped: archived.and_then(|position| position.stopped.clone()),
            retention_used: waits_ms.zip(keeps_ms).map(|(waits, keeps)| waits as f64 / keeps as f64),
            speed_until: speed_until.map(|until| until.0),
            folded_to: folded_to.and_then(|time| rfc3339_millis(time.0)),
            speed_replaying_to: folded.and_then(|status| status.replaying_to).map(|to| to.0),
            lag: speed_until.map(|until| end.saturating_sub(until.0)),
            lag_seconds: folded_to.map(|time| (now_ms - time.0).max(0) as f64 / 1000.0),
            segments: folded.map(|status| status.segments as u64),
            bytes: folded.map(|status| status.bytes as u64),
            events: folded.map(|status| status.events),
            speed_stopped: folded.and_then(|status| status.stopped.clone()),
            realtime_stale: stale.get(&partition).cloned(),
        }
    };
    let streams = core.topics.iter();
    streams
        .map(|(stream, topic, _)| StreamStatus {
            name: stream.name.clone(),
            topic: topic.name.clone(),
            incarnation: topic.incarnation.to_string(),
            partitions: topic.all_partitions().into_iter().map(of_partition).collect(),
        })
        .collect()
}

fn batch(core: &Core, seen: &Seen) -> BatchStatus {
    // What became of runs is the concern of who leads them.
    if !core.runs.leads() {
        return BatchStatus::default();
    }
    let last = core.runs.last();
    let running = core.runs.under_way().map(|run| {
        let since = rfc3339_millis(run.since_ms).unwrap_or_default();
        format!("a run at tick {} since {since}", run.tick.0)
    });
    BatchStatus {
        next_run: seen.next_run_ms.and_then(rfc3339_millis),
        running,
        last_run: last.as_ref().and_then(|ended| rfc3339_millis(ended.at_ms)),
        last_error: last.and_then(|ended| ended.error),
    }
}

fn memory(core: &Core) -> Vec<MemoryStatus> {
    let row = |name: &str, bytes: usize, bytes_max: Option<usize>| MemoryStatus {
        name: name.to_owned(),
        bytes: bytes as u64,
        bytes_max: bytes_max.map(|bytes| bytes as u64),
    };
    let mut rows = Vec::new();
    if let Some(speed) = &core.speed {
        let status = speed.status();
        // Partials, and the encoded states that a shared store holds of them.
        rows.push(row("speed", speed.held_bytes(), Some(core.settings.speed.memory_bytes)));
        let horizon = status.iter().map(|one| one.horizon_bytes).sum();
        rows.push(row("speed horizon", horizon, None));
    }
    if let Some(archiver) = &core.archiver {
        let held = usize::try_from(archiver.counters().held_bytes).unwrap_or(usize::MAX);
        rows.push(row("archive", held, Some(core.settings.archive.memory_bytes)));
    }
    let (cached, bound) = core.generations.cached_bytes();
    rows.push(row("batch views", cached, Some(bound)));
    rows
}

/// As in JSON.
fn kind_name(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Incremental => "incremental",
        RunKind::Full => "full",
        RunKind::Rollback => "rollback",
    }
}
