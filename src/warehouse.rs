//! Loads into the warehouse: after every publication by whoever leads batch runs, and by hand.
//!
//! A load is no part of its batch run: a warehouse that is away keeps nobody from publishing or answering. What it says is
//! in the status, in the metrics and beside the run in the history, and it is tried again until it holds the current
//! generation. Loads and batch runs take turns ([`crate::turns`]), so that one at a time holds rows in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use arrow::array::RecordBatch;
use async_trait::async_trait;
use foldline_batch_layer::store;
use foldline_batch_layer::warehouse::{
    self, Difference, FinishedRows, LoadReport, Loader, LocalWarehouse, NoRows, TableOptions, Tables, Warehouse,
    parse_expiration,
};
use foldline_batch_layer::{Archive, Generation, GenerationNumber};
use foldline_event_log::{Clock, with_causes};
use foldline_serving_layer::coverage::rfc3339_millis;
use foldline_serving_layer::merge::MergeError;
use foldline_serving_layer::status::WarehouseStatus;
use foldline_serving_layer::{QueryError, Serving};
use foldline_sql::{Catalog, View};
use tokio_util::sync::CancellationToken;

use crate::config::{Settings, WarehouseKind};
use crate::failure::{self, Failure};
use crate::platform::Core;
use crate::turns::Turns;

/// It is looked this often whether there is something to load.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a load that failed the next one waits this long, then longer and longer.
const AGAIN_FIRST: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// The finished rows of a view may weigh this part of `batch.memory_bytes`: they are there as they were made, in the columns
/// of the table, divided by day, and as files.
const COPIES: usize = 4;

/// Loads of this process, one at a time.
#[derive(Debug)]
pub(crate) struct WarehouseRuns {
    loader: Loader,
    rows: Rows,
    one_at_a_time: tokio::sync::Mutex<()>,
    turns: Arc<Turns>,
    known: Mutex<Known>,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thoroughness {
    /// Nothing, where the warehouse holds the current generation.
    Behind,
    /// What differs from what is loaded: settings may have changed.
    Differing,
    /// Everything is loaded again.
    Full,
}

/// What is known of the warehouse.
#[derive(Debug, Clone, Default)]
struct Known {
    holds: Option<GenerationNumber>,
    /// When that was seen.
    at_ms: Option<i64>,
    error: Option<String>,
    tally: Tally,
}

/// The loads of this process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) ended: u64,
    pub(crate) failed: u64,
    /// Slices that were replaced.
    pub(crate) slices: u64,
    /// Rows of these.
    pub(crate) rows: u64,
    /// Milliseconds that they took.
    pub(crate) elapsed_ms: u64,
}

/// Finished rows as the serving layer makes them.
#[derive(Debug)]
struct Rows {
    serving: Arc<Serving>,
    tables: Tables,
    bytes_max: usize,
}

#[async_trait]
impl FinishedRows for Rows {
    async fn rows(&self, view: &Arc<View>, generation: &Arc<Generation>) -> Result<Vec<RecordBatch>, NoRows> {
        let bytes = self.tables.bytes_of(view, generation);
        if bytes > self.bytes_max as u64 {
            let most = self.most();
            return Err(NoRows::Failed(format!(
                "what its rows are made of weighs {bytes} bytes, more than {most}"
            )));
        }
        let rows = self.serving.whole(&view.name, generation.number, self.bytes_max).await;
        rows.map_err(|error| match error {
            QueryError::Merge(building @ MergeError::Building { .. }) => NoRows::Building(building.to_string()),
            QueryError::TooLarge { .. } => NoRows::Failed(format!("its rows weigh more than {}", self.most())),
            other => NoRows::Failed(with_causes(&other)),
        })
    }
}

impl Rows {
    fn most(&self) -> String {
        let bytes_max = self.bytes_max;
        format!(
            "the {bytes_max} bytes that are one in {COPIES} of batch.memory_bytes: give it more, or choose views by warehouse.views"
        )
    }
}

impl WarehouseRuns {
    /// The warehouse that the settings name, if any. Asks it nothing. Its ledger lies in the store of `archive`.
    pub(crate) fn open(
        settings: &Settings,
        catalog: &Arc<Catalog>,
        archive: &Archive,
        serving: &Arc<Serving>,
        clock: &Arc<dyn Clock>,
        turns: Arc<Turns>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(warehouse) = warehouse(settings)? else {
            return Ok(None);
        };
        let options = options(settings)?;
        options
            .check(catalog)
            .map_err(|reason| Failure::Usage(format!("settings of the warehouse: {reason}")))?;
        let tables = Tables {
            catalog: Arc::clone(catalog),
            options,
        };
        let store = archive.store();
        let mut loader = Loader::new(warehouse, Arc::clone(store), tables.clone(), Arc::clone(clock));
        if let Some(key) = settings.warehouse_key() {
            loader = loader.known_as(Arc::clone(store), key);
        }
        Ok(Some(Self {
            loader: loader.with_archive(archive.clone()),
            rows: Rows {
                serving: Arc::clone(serving),
                tables,
                bytes_max: settings.batch.memory_bytes / COPIES,
            },
            one_at_a_time: tokio::sync::Mutex::default(),
            turns,
            known: Mutex::default(),
        }))
    }

    /// Loads the current generation; `None` where there is nothing to do.
    pub(crate) async fn load(
        &self,
        core: &Core,
        thoroughness: Thoroughness,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> anyhow::Result<Option<LoadReport>> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let (current, outcome) = loop {
            let Some(current) = core.generations.current() else {
                return Ok(None);
            };
            let load = self.try_load(&current, thoroughness, progress);
            match self.turns.load(load).await {
                Some(outcome) => break (current, outcome),
                // From the beginning again and again it would never end.
                None if thoroughness == Thoroughness::Full => anyhow::bail!(
                    "a batch run came before the end of a full load; try it again when none is due for longer than it takes"
                ),
                // What is loaded stays so, and the rest is of the generation that the run publishes.
                None => tracing::info!(
                    generation = current.number.0,
                    "a batch run came before the rest of a load"
                ),
            }
        };
        self.record(core, &current, &outcome).await;
        let mut known = self.known();
        known.error = match &outcome {
            Err(error) => Some(failure::sentence(error)),
            Ok(report) => report.as_ref().and_then(LoadReport::complaint),
        };
        match (&known.error, &outcome) {
            (Some(_), _) => known.tally.failed += 1,
            (None, Ok(Some(_))) => known.tally.ended += 1,
            _ => {}
        }
        if known.error.is_none() {
            known.holds = Some(current.number);
            known.at_ms = Some(core.clock.now_ms());
        }
        if let Ok(Some(report)) = &outcome {
            known.tally.slices += report.loaded();
            known.tally.rows += report.tables.iter().map(|table| table.rows).sum::<u64>();
            known.tally.elapsed_ms += report.elapsed_ms;
        }
        outcome
    }

    /// Beside the runs. It is told in the status, too: what cannot be recorded now is no failure of the load.
    async fn record(&self, core: &Core, current: &Generation, outcome: &anyhow::Result<Option<LoadReport>>) {
        let error = match outcome {
            Ok(None) => return,
            Ok(Some(report)) => report.complaint(),
            Err(error) => Some(failure::sentence(error)),
        };
        let recorded = core.ledger.load_ended(current.number.0, error, core.clock.now_ms());
        if let Err(error) = recorded.await {
            tracing::warn!(error = with_causes(&error), "what became of a load was not recorded");
        }
    }

    async fn try_load(
        &self,
        current: &Arc<Generation>,
        thoroughness: Thoroughness,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> anyhow::Result<Option<LoadReport>> {
        if thoroughness == Thoroughness::Behind && self.loader.holds().await? == Some(current.number) {
            return Ok(None);
        }
        let full = thoroughness == Thoroughness::Full;
        Ok(Some(self.loader.load(current, &self.rows, full, progress).await?))
    }

    /// Compares it with the generation that its marker names, or where that is not stored with the current one.
    pub(crate) async fn verify(
        &self,
        core: &Core,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> anyhow::Result<(GenerationNumber, Vec<Difference>)> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let held = match self.loader.holds().await? {
            Some(number) => core.generations.get(number).await.ok(),
            None => None,
        };
        let generation = held.or_else(|| core.generations.current());
        let generation = generation.context("there is no generation yet; run foldline batch run")?;
        let found = warehouse::verify(&self.loader, &generation, &self.rows, progress).await?;
        Ok((generation.number, found))
    }

    /// What is known of it, without asking.
    pub(crate) fn status(&self) -> WarehouseStatus {
        let known = self.known();
        WarehouseStatus {
            place: self.loader.place(),
            generation: known.holds.map(|number| number.0),
            loaded: known.at_ms.and_then(rfc3339_millis),
            error: known.error.clone(),
        }
    }

    /// Asks it what it holds, for the status.
    pub(crate) async fn look(&self) -> anyhow::Result<()> {
        let holds = self.loader.holds().await?;
        self.known().holds = holds;
        Ok(())
    }

    /// The loads since the start.
    pub(crate) fn tally(&self) -> Tally {
        self.known().tally
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads what is published, as long as batch runs are led here; ends when `stop` fires.
    pub(crate) async fn follow(core: Arc<Core>, stop: CancellationToken) {
        let Some(runs) = &core.warehouse else { return };
        let mut again = AGAIN_FIRST;
        let mut loaded: Option<GenerationNumber> = None;
        // The settings may name other tables than when the generation was loaded.
        let mut thoroughness = Thoroughness::Differing;
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let current = core.generations.current().map(|current| current.number);
            if !core.runs.leads() || current.is_none() || current == loaded {
                continue;
            }
            // Every step may end anywhere: the next load goes on from there.
            let Some(outcome) = stop.run_until_cancelled(runs.load(&core, thoroughness, &|_| {})).await else {
                return;
            };
            let error = match outcome {
                Err(error) => Some(failure::sentence(&error)),
                Ok(report) => {
                    if let Some(report) = &report {
                        let (slices, elapsed_ms) = (report.loaded(), report.elapsed_ms);
                        tracing::info!(generation = report.generation.0, slices, elapsed_ms, "warehouse loaded");
                    }
                    report.and_then(|report| report.complaint())
                }
            };
            match error {
                None => {
                    (loaded, again) = (current, AGAIN_FIRST);
                    thoroughness = Thoroughness::Behind;
                }
                Some(error) => {
                    tracing::warn!(error, again_in_s = again.as_secs(), "the warehouse was not loaded");
                    stop.run_until_cancelled(tokio::time::sleep(again)).await;
                    again = (again * 2).min(AGAIN_MAX);
                }
            }
        }
    }
}

/// What the settings say of tables.
fn options(settings: &Settings) -> anyhow::Result<TableOptions> {
    let said = &settings.warehouse;
    let expiration = |text: &str| {
        parse_expiration(text).ok_or_else(|| {
            Failure::Usage(format!(
                "setting of the warehouse: \"{text}\" is no expiration; write \"3 days\", \"48 hours\" or \"none\""
            ))
        })
    };
    let mut expire_of = BTreeMap::new();
    for (view, text) in pairs("warehouse.expire_of", &said.expire_of)? {
        expire_of.insert(view, expiration(&text)?);
    }
    let day_of = pairs("warehouse.day_of", &said.day_of)?.into_iter();
    let names = |text: &str| -> BTreeSet<String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    Ok(TableOptions {
        views: names(&said.views),
        events: names(&said.events),
        expire_ms: expiration(&said.expire)?,
        expire_of,
        day_of: day_of
            .map(|(view, column)| (view, Some(column).filter(|column| column != "none")))
            .collect(),
    })
}

/// `view: value, other: value`
fn pairs(key: &str, text: &str) -> Result<Vec<(String, String)>, Failure> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (view, value) = item.split_once(':').ok_or_else(|| {
            Failure::Usage(format!(
                "setting \"{key}\": \"{item}\" is not \"view: value\", several with commas"
            ))
        })?;
        Ok((view.trim().to_owned(), value.trim().to_owned()))
    };
    items.map(pair).collect()
}

fn warehouse(settings: &Settings) -> anyhow::Result<Option<Arc<dyn Warehouse>>> {
    match settings.warehouse.kind {
        WarehouseKind::None => Ok(None),
        WarehouseKind::Local => {
            let url = settings.warehouse_url()?;
            let store = store::open(&url, settings.patience());
            let store = store.map_err(|error| Failure::Usage(with_causes(&error)))?;
            Ok(Some(Arc::new(LocalWarehouse::new(store, &url))))
        }
        WarehouseKind::Bigquery => bigquery(settings).map(Some),
    }
}

#[cfg(feature = "cloud")]
fn bigquery(settings: &Settings) -> anyhow::Result<Arc<dyn Warehouse>> {
    use foldline_batch_layer::warehouse::{BigQuery, BigQuerySettings};

    let said = &settings.warehouse;
    let opened = BigQuery::new(BigQuerySettings {
        endpoint: said.endpoint.clone(),
        project: said.project.clone(),
        dataset: said.dataset.clone(),
        location: said.location.clone(),
        credentials: said.credentials.clone(),
        request: Duration::from_millis(said.request_ms),
        days_are_tables: !said.endpoint.starts_with("https://"),
    });
    Ok(opened.map_err(|error| Failure::Usage(with_causes(&error)))?.shared())
}

#[cfg(not(feature = "cloud"))]
fn bigquery(_: &Settings) -> anyhow::Result<Arc<dyn Warehouse>> {
    let sentence = "warehouse.kind = \"bigquery\" needs a program that is built with the feature \"cloud\"";
    Err(Failure::Usage(sentence.into()).into())
}
