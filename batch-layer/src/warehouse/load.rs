//! One generation into a warehouse: what differs from the ledger, slice by slice, the marker last.
//!
//! ```text
//! first:           _foldline ── as this foldline left it?
//! for each table:  open plans of earlier loads ── settled (or this very plan: gone on with)
//!                  not there, or of other columns ── a plan that says so ── made
//!                  rows ── hashes ── differ from the ledger's ── plan written ── overtaken? ── slices loaded ── done
//! then:            _foldline, by the same steps
//! ```
//!
//! Dying between any two steps leaves a plan that the next load settles or goes on with. What a process that was asleep
//! still wants to load was settled by whoever came later, and is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::error::ArrowError;
use async_trait::async_trait;
use foldline_event_log::{Clock, Cut, with_causes};
use foldline_sql::{Stream, View};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::ledger::{Done, Job, LoadLedger, Loaded, Plan, TableRecords};
use super::tables::{self, Tables};
use super::{
    LoadName, LoadNumber, MARKER, Prepared, Settled, Slice, SliceRows, Table, Warehouse, WarehouseError, events,
    hash_of, shaped,
};
use crate::{Archive, Generation, GenerationNumber, RunKind};

/// Slices loaded at the same time.
const AT_ONCE: usize = 4;
/// Slices of one plan: so many are settled at most after a death.
const PLAN_JOBS_MAX: usize = 64;
/// An operation is tried this often before its failure is told.
const TRIES: u32 = 8;
/// Wait after the first failed try; doubles with every further one.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Plans of one load of a table, and looks at its ledger, before it gives up on others that keep coming.
const ROUNDS_MAX: usize = 1_000;

/// Why there are no rows of a view.
#[derive(Debug, thiserror::Error)]
pub enum NoRows {
    /// The generation has no batch half of it: its table stays as it is.
    #[error("{0}")]
    Building(String),
    /// They could not be made, or are too many to be held.
    #[error("{0}")]
    Failed(String),
}

/// Gives the finished rows of views. The crate does not know who makes them.
#[async_trait]
pub trait FinishedRows: Send + Sync {
    /// Every row of `view` in `generation`, in any order.
    async fn rows(&self, view: &Arc<View>, generation: &Arc<Generation>) -> Result<Vec<RecordBatch>, NoRows>;
}

/// What became of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// Its name.
    pub table: String,
    /// Its slices; 0 where nobody had to look.
    pub slices: u64,
    /// Slices that were loaded.
    pub loaded: u64,
    /// Rows of these.
    pub rows: u64,
    /// Why it does not hold this generation, if it does not.
    pub error: Option<String>,
}

/// What a load did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The generation that was to be loaded.
    pub generation: GenerationNumber,
    /// Tables, the marker last.
    pub tables: Vec<TableReport>,
    /// Milliseconds that it took.
    pub elapsed_ms: u64,
}

impl LoadReport {
    /// What keeps the warehouse from holding the generation; `None`: the marker names it.
    pub fn complaint(&self) -> Option<String> {
        let failed = self.tables.iter().filter_map(|table| table.error.as_ref());
        let failed: Vec<&str> = failed.map(String::as_str).collect();
        (!failed.is_empty()).then(|| failed.join("; "))
    }

    /// Slices that were loaded, without the marker.
    pub fn loaded(&self) -> u64 {
        let tables = self.tables.iter().filter(|table| table.table != MARKER);
        tables.map(|table| table.loaded).sum()
    }
}

/// Loads generations into a warehouse.
#[derive(Debug, Clone)]
pub struct Loader {
    pub(super) warehouse: Arc<dyn Warehouse>,
    pub(super) ledger: LoadLedger,
    pub(super) tables: Tables,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) archive: Option<Archive>,
    first_retry: Duration,
}

/// A table with its rows.
pub(super) struct Wanted {
    pub(super) table: Table,
    pub(super) slices: BTreeMap<Slice, Piece>,
    pub(super) made_of: Option<String>,
    /// Slices loaded at the same time.
    pub(super) at_once: usize,
    /// Slices of one plan: a load that is cut short may begin so many anew.
    pub(super) plan_jobs: usize,
}

/// A slice as it should be.
pub(super) struct Piece {
    pub(super) rows: Arc<dyn SliceRows>,
    /// Of the rows, or of what they are made of: where it is the same, so are the rows.
    pub(super) hash: String,
}

impl Loader {
    /// Into `warehouse`; the ledger lies in `store`.
    pub fn new(
        warehouse: Arc<dyn Warehouse>,
        store: Arc<dyn ObjectStore>,
        tables: Tables,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            ledger: LoadLedger::new(store, &warehouse.place()),
            warehouse,
            tables,
            clock,
            archive: None,
            first_retry: FIRST_RETRY,
        }
    }

    /// With a ledger by another key than the place, where that moves with `store`.
    pub fn known_as(self, store: Arc<dyn ObjectStore>, key: &str) -> Self {
        Self {
            ledger: LoadLedger::new(store, key),
            ..self
        }
    }

    /// With the archive that the streams of [`super::TableOptions::events`] are loaded from.
    pub fn with_archive(self, archive: Archive) -> Self {
        Self {
            archive: Some(archive),
            ..self
        }
    }

    /// With another wait after a failed try.
    pub fn retrying_after(self, first_retry: Duration) -> Self {
        Self { first_retry, ..self }
    }

    /// Where it loads to.
    pub fn place(&self) -> String {
        self.warehouse.place()
    }

    /// The generation that the marker names; `None` before the first load has ended.
    pub async fn holds(&self) -> Result<Option<GenerationNumber>, WarehouseError> {
        Ok(self.ledger.read(MARKER).await?.done.and_then(|done| done.holds))
    }

    /// Makes the tables hold `generation`: slices whose rows differ from what the ledger says, or with `full` all of
    /// them, and whatever else lies there is removed. What fails of a table is told in the report, and the other tables are
    /// loaded all the same; then the marker stays as it was. Another load of the same generation may go on at the same time.
    /// Dropped at any moment, the next load goes on from there.
    pub async fn load(
        &self,
        generation: &Arc<Generation>,
        rows: &dyn FinishedRows,
        full: bool,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<LoadReport, WarehouseError> {
        let started_ms = self.clock.now_ms();
        let owner = self.ledger.owner().await?;
        if !full {
            self.refuse_changed(owner).await?;
        }
        let mut reports = Vec::new();
        let mut keep = |name: &str, outcome: Result<TableReport, WarehouseError>| match outcome {
            // Who came later loads the rest; what is away for one table is so for the next.
            Err(error) if ends_all(&error) => Err(error),
            outcome => {
                reports.push(outcome.unwrap_or_else(|error| failure(name, &error)));
                Ok(())
            }
        };
        for view in self.tables.views() {
            progress(&view.name);
            keep(&view.name, self.view(view, generation, rows, owner, full).await)?;
        }
        for stream in self.tables.streams() {
            progress(&stream.name);
            keep(&stream.name, self.events(stream, generation, owner, full).await)?;
        }
        if reports.iter().all(|table| table.error.is_none()) {
            progress(MARKER);
            match self.mark(generation, owner, full).await {
                Err(error) if ends_all(&error) => return Err(error),
                outcome => reports.push(outcome.unwrap_or_else(|error| failure(MARKER, &error))),
            }
        }
        Ok(LoadReport {
            generation: generation.number,
            tables: reports,
            elapsed_ms: u64::try_from(self.clock.now_ms() - started_ms).unwrap_or_default(),
        })
    }

    async fn view(
        &self,
        view: &Arc<View>,
        generation: &Arc<Generation>,
        rows: &dyn FinishedRows,
        owner: Uuid,
        full: bool,
    ) -> Result<TableReport, WarehouseError> {
        let table = self.tables.table(view, owner)?;
        let made_of = self.tables.made_of(view, generation);
        // What is loaded hangs on these, too.
        let made_of = made_of.map(|made_of| format!("{made_of} {:?} {:?}", table.day, table.expire_ms));
        if !full && self.is_unchanged(&table, generation, made_of.as_deref()).await? {
            return Ok(TableReport {
                table: table.name,
                ..TableReport::default()
            });
        }
        let made = rows.rows(view, generation).await;
        let made = match made {
            Ok(made) => made,
            // Like answers, the table waits for a generation that has the view.
            Err(NoRows::Building(_)) => {
                return Ok(TableReport {
                    table: table.name,
                    ..TableReport::default()
                });
            }
            Err(NoRows::Failed(reason)) => return Err(unfit(&table, reason)),
        };
        let wanted = wanted(table, made, made_of).map_err(|error| unfit_arrow(&view.name, &error))?;
        self.replace(wanted, generation.number, full).await
    }

    /// The archived events of `stream` below the cut of `generation`.
    async fn events(
        &self,
        stream: &Arc<Stream>,
        generation: &Arc<Generation>,
        owner: Uuid,
        full: bool,
    ) -> Result<TableReport, WarehouseError> {
        let wanted = events::wanted(self, stream, generation, owner).await?;
        if !full
            && self
                .is_unchanged(&wanted.table, generation, wanted.made_of.as_deref())
                .await?
        {
            return Ok(TableReport {
                table: wanted.table.name,
                ..TableReport::default()
            });
        }
        self.replace(wanted, generation.number, full).await
    }

    /// Of two foldlines with copies of one store each would take the other's rows for what it loaded itself: so the marker
    /// must be what this one wrote last, as far as that is known.
    async fn refuse_changed(&self, owner: Uuid) -> Result<(), WarehouseError> {
        loop {
            let records = self.ledger.read(MARKER).await?;
            let Some(done) = records.done.filter(|_| records.open.is_empty()) else {
                return Ok(());
            };
            let table = marker_table(owner);
            let left = done.slices.get(&Slice::Whole).and_then(|loaded| loaded.hash.as_ref());
            let Some(left) = left.filter(|_| done.shape == table.shape()) else {
                return Ok(());
            };
            if !self.tries(|| self.warehouse.exists(&table)).await? {
                return Ok(());
            }
            let rows = self.tries(|| self.warehouse.rows(&table, Slice::Whole)).await?;
            if hash_of(&rows).map_err(|error| unfit_arrow(MARKER, &error))? == *left {
                return Ok(());
            }
            // Another process of this foldline may have loaded meanwhile.
            if self.ledger.read(MARKER).await?.newest == Some(done.number) {
                return Err(WarehouseError::Changed { table: table.name });
            }
        }
    }

    /// Whether `table` holds what it should already, as far as can be told without its rows.
    async fn is_unchanged(
        &self,
        table: &Table,
        generation: &Generation,
        made_of: Option<&str>,
    ) -> Result<bool, WarehouseError> {
        let records = self.ledger.read(&table.name).await?;
        overtaken(&records, table, generation.number)?;
        // Of a rollback every table gets a record: without one, a load of what it takes back could still come.
        if generation.kind == RunKind::Rollback
            && records
                .newest
                .is_none_or(|newest| newest.generation != generation.number)
        {
            return Ok(false);
        }
        let Some(done) = records.done.filter(|_| records.open.is_empty()) else {
            return Ok(false);
        };
        let table = match done.slices.contains_key(&Slice::Whole) {
            true => &tables::undivided(table.clone()),
            false => table,
        };
        let now_ms = self.clock.now_ms();
        Ok(done.shape == table.shape()
            && made_of.is_some()
            && done.made_of.as_deref() == made_of
            && !done.slices.keys().any(|slice| table.expired(*slice, now_ms))
            // Removed by somebody: it is made again, and must be filled.
            && self.tries(|| self.warehouse.exists(table)).await?)
    }

    /// Loads the table that names what the others hold.
    async fn mark(&self, generation: &Arc<Generation>, owner: Uuid, full: bool) -> Result<TableReport, WarehouseError> {
        let views = self.tables.views().map(|view| &view.name);
        let mut held = Vec::new();
        for name in views.chain(self.tables.streams().map(|stream| &stream.name)) {
            if let Some(done) = self.ledger.read(name).await?.done
                && let Some(holds) = done.holds
            {
                let rows: u64 = done.slices.values().map(|slice| slice.rows).sum();
                held.push((name.clone(), holds, rows));
            }
        }
        let rows = marker_rows(generation, &held).map_err(|error| unfit_arrow(MARKER, &error))?;
        let wanted = wanted(marker_table(owner), vec![rows], None).map_err(|error| unfit_arrow(MARKER, &error))?;
        self.replace(wanted, generation.number, full).await
    }

    /// Replaces what differs, in plans of bounded size.
    async fn replace(
        &self,
        mut wanted: Wanted,
        generation: GenerationNumber,
        full: bool,
    ) -> Result<TableReport, WarehouseError> {
        let now_ms = self.clock.now_ms();
        let table = wanted.table.clone();
        wanted.slices.retain(|slice, _| !table.expired(*slice, now_ms));
        let mut report = TableReport {
            table: table.name.clone(),
            slices: wanted.slices.len() as u64,
            ..TableReport::default()
        };
        self.make_ready(&table, generation).await?;
        let mut forced: BTreeSet<Slice> = BTreeSet::new();
        if full {
            // Also what the ledger knows nothing of.
            let there = self.tries(|| self.warehouse.slices(&table)).await?;
            let there = there.into_iter().filter(|slice| !table.expired(*slice, now_ms));
            forced.extend(wanted.slices.keys().copied().chain(there));
        }
        for _ in 0..ROUNDS_MAX {
            let records = self.ledger.read(&table.name).await?;
            overtaken(&records, &table, generation)?;
            if let Some(plan) = records.open.first() {
                let last = records.open.len() == 1 && plan.number.generation == generation;
                if last && forced.is_empty() && wanted.fits(plan) {
                    self.run(&wanted, plan, records.done.as_ref(), &mut report).await?;
                } else {
                    self.settle(&table, records.done.as_ref(), plan).await?;
                }
                continue;
            }
            let mut held = records
                .done
                .as_ref()
                .map(|done| done.slices.clone())
                .unwrap_or_default();
            let expired: Vec<Slice> = held
                .keys()
                .copied()
                .filter(|slice| table.expired(*slice, now_ms))
                .collect();
            if !expired.is_empty() {
                self.tries(|| self.warehouse.expire(&table, &expired)).await?;
                held.retain(|slice, _| !expired.contains(slice));
            }
            let mut jobs = wanted.differs_from(&held, &forced);
            let last = jobs.len() <= wanted.plan_jobs;
            jobs.truncate(wanted.plan_jobs);
            let finished = records.done.as_ref().is_some_and(|done| {
                done.holds == Some(generation) && done.made_of == wanted.made_of && done.slices == held
            });
            if jobs.is_empty() && finished {
                return Ok(report);
            }
            let plan = Plan {
                jobs,
                ..empty_plan(&table, &records, generation)
            };
            if !self.ledger.plan(&table.name, &plan).await? {
                continue;
            }
            // Somebody came meanwhile: a later load, another one of this generation, or an earlier one between the look at
            // the ledger and this plan, which may be loading or have ended. The next round tells.
            let now = self.ledger.read(&table.name).await?;
            let alone = now.open.iter().all(|open| open.number == plan.number);
            if now.newest != Some(plan.number) || !alone || now.done != records.done {
                continue;
            }
            let before = Done {
                version: 1,
                attempt: plan.attempt,
                number: plan.number,
                shape: table.shape(),
                slices: held,
                holds: records.done.and_then(|done| done.holds),
                made_of: None,
            };
            for job in &plan.jobs {
                forced.remove(&job.slice);
            }
            if last {
                self.run_last(&wanted, &plan, &before, &mut report).await?;
                return Ok(report);
            }
            self.run(&wanted, &plan, Some(&before), &mut report).await?;
        }
        Err(others_load(&table))
    }

    /// Prepares the table; where it is not there, or has other columns than what is loaded, it is made anew. That it is
    /// empty stands in the ledger before: whoever dies behind that leaves a table that the next load makes anew and fills.
    async fn make_ready(&self, table: &Table, generation: GenerationNumber) -> Result<(), WarehouseError> {
        let mut removed = false;
        for _ in 0..ROUNDS_MAX {
            let records = self.ledger.read(&table.name).await?;
            overtaken(&records, table, generation)?;
            let shapes = records.open.iter().map(|plan| &plan.shape);
            let mut shapes = shapes.chain(records.done.iter().map(|done| &done.shape));
            let reshaped = shapes.any(|shape| *shape != table.shape());
            // Of an open plan that empties the table nobody knows how far it came.
            let remove = removed || reshaped || records.open.iter().any(|plan| plan.emptied);
            let there = self.tries(|| self.warehouse.exists(table)).await?;
            if there && !remove && self.tries(|| self.warehouse.prepare(table)).await? == Prepared::There {
                return Ok(());
            }
            let plan = Plan {
                emptied: true,
                ..empty_plan(table, &records, generation)
            };
            let stands = |now: TableRecords| {
                now.newest == Some(plan.number) && now.open.iter().any(|open| open.number == plan.number)
            };
            if records.newest.is_some() {
                // What is under way may not come to lie in the new table.
                for open in &records.open {
                    self.settle_jobs(table, open).await?;
                }
                // Where somebody else plans, too, it is looked again.
                if !self.ledger.plan(&table.name, &plan).await? || !stands(self.ledger.read(&table.name).await?) {
                    continue;
                }
            }
            if remove {
                removed = true;
                self.tries(|| self.warehouse.remove(table)).await?;
            }
            self.tries(|| self.warehouse.prepare(table)).await?;
            // Whoever took the plan for done meanwhile may have loaded what was removed.
            if records.newest.is_none() || stands(self.ledger.read(&table.name).await?) {
                return Ok(());
            }
        }
        Err(others_load(table))
    }

    /// Loads the slices of `plan`, after which the table holds the generation.
    async fn run_last(
        &self,
        wanted: &Wanted,
        plan: &Plan,
        before: &Done,
        report: &mut TableReport,
    ) -> Result<(), WarehouseError> {
        let mut done = self.run_jobs(wanted, plan, Some(before), report).await?;
        done.holds = Some(plan.number.generation);
        done.made_of.clone_from(&wanted.made_of);
        Ok(self.ledger.done(&wanted.table.name, &done).await?)
    }

    async fn run(
        &self,
        wanted: &Wanted,
        plan: &Plan,
        before: Option<&Done>,
        report: &mut TableReport,
    ) -> Result<(), WarehouseError> {
        let done = self.run_jobs(wanted, plan, before, report).await?;
        Ok(self.ledger.done(&wanted.table.name, &done).await?)
    }

    async fn run_jobs(
        &self,
        wanted: &Wanted,
        plan: &Plan,
        before: Option<&Done>,
        report: &mut TableReport,
    ) -> Result<Done, WarehouseError> {
        let table = &wanted.table;
        let empty = RecordBatch::new_empty(Arc::clone(&table.schema));
        let loads = plan.jobs.iter().map(|job| {
            let rows: &dyn SliceRows = match wanted.slices.get(&job.slice) {
                Some(piece) => piece.rows.as_ref(),
                None => &empty,
            };
            let name = name_of(table, plan, job.slice);
            async move { self.tries(|| self.warehouse.load(table, &name, rows)).await }.boxed()
        });
        let loads: Vec<BoxFuture<'_, Result<(), WarehouseError>>> = loads.collect();
        let loads: Vec<()> = futures::stream::iter(loads)
            .buffer_unordered(wanted.at_once)
            .try_collect()
            .await?;
        report.loaded += loads.len() as u64;
        report.rows += plan.jobs.iter().map(|job| job.rows).sum::<u64>();
        let mut done = after(plan, before);
        for job in &plan.jobs {
            set(&mut done.slices, job);
        }
        Ok(done)
    }

    /// Ends what an earlier load may still do, and writes what came of it.
    async fn settle(&self, table: &Table, before: Option<&Done>, plan: &Plan) -> Result<(), WarehouseError> {
        tracing::info!(
            table = table.name,
            generation = plan.number.generation.0,
            "settling a load that did not end"
        );
        let settled = self.settle_jobs(table, plan).await?;
        let mut done = after(plan, before);
        for (job, settled) in settled {
            match settled {
                Settled::Loaded => set(&mut done.slices, job),
                Settled::Nothing => {}
                Settled::Unknown => {
                    let unknown = Loaded { hash: None, rows: 0 };
                    done.slices.insert(job.slice, unknown);
                }
            }
        }
        Ok(self.ledger.done(&table.name, &done).await?)
    }

    /// When this returns, none of them is under way or will ever come.
    async fn settle_jobs<'a>(&self, table: &Table, plan: &'a Plan) -> Result<Vec<(&'a Job, Settled)>, WarehouseError> {
        let settling = plan.jobs.iter().map(|job| {
            let name = name_of(table, plan, job.slice);
            async move {
                let settled = self.tries(|| self.warehouse.settle(table, &name)).await?;
                Ok((job, settled))
            }
            .boxed()
        });
        let settling: Vec<BoxFuture<'_, Result<(&Job, Settled), WarehouseError>>> = settling.collect();
        futures::stream::iter(settling)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Tries `operation` until it works, or trying again does not help.
    pub(super) async fn tries<T, F>(&self, operation: impl Fn() -> F + Send) -> Result<T, WarehouseError>
    where
        F: Future<Output = Result<T, WarehouseError>> + Send,
    {
        let mut failed = 0;
        loop {
            match operation().await {
                Err(error) if error.again() && failed + 1 < TRIES => {
                    tracing::warn!(failed, error = &error as &dyn std::error::Error, "trying again");
                    tokio::time::sleep(self.first_retry * (1 << failed)).await;
                    failed += 1;
                }
                outcome => return outcome,
            }
        }
    }
}

impl Wanted {
    /// What must be loaded over `held`, and the slices of `forced`.
    fn differs_from(&self, held: &BTreeMap<Slice, Loaded>, forced: &BTreeSet<Slice>) -> Vec<Job> {
        let differs = |slice: &Slice, hash: &String| {
            forced.contains(slice) || held.get(slice).is_none_or(|held| held.hash.as_ref() != Some(hash))
        };
        let changed = self.slices.iter().filter(|(slice, piece)| differs(slice, &piece.hash));
        let changed = changed.map(|(slice, piece)| Job {
            slice: *slice,
            hash: Some(piece.hash.clone()),
            rows: piece.rows.count(),
        });
        let known: BTreeSet<&Slice> = held.keys().chain(forced).collect();
        let gone = known.into_iter().filter(|slice| !self.slices.contains_key(slice));
        let gone = gone.map(|slice| Job {
            slice: *slice,
            hash: None,
            rows: 0,
        });
        changed.chain(gone).collect()
    }

    /// Whether `plan` loads these very rows.
    fn fits(&self, plan: &Plan) -> bool {
        plan.shape == self.table.shape()
            && plan.jobs.iter().all(|job| {
                let hash = self.slices.get(&job.slice).map(|piece| &piece.hash);
                job.hash.as_ref() == hash
            })
    }
}

/// `made` as the slices of `table`.
pub(super) fn wanted(mut table: Table, made: Vec<RecordBatch>, made_of: Option<String>) -> Result<Wanted, ArrowError> {
    let rows = shaped(&made, &table.schema)?;
    drop(made);
    let slices = tables::divided(&mut table, rows)?;
    let slices = slices.into_iter().map(|(slice, rows)| {
        let hash = hash_of(&rows)?;
        let rows: Arc<dyn SliceRows> = Arc::new(rows);
        Ok((slice, Piece { rows, hash }))
    });
    Ok(Wanted {
        slices: slices.collect::<Result<_, ArrowError>>()?,
        table,
        made_of,
        at_once: AT_ONCE,
        plan_jobs: PLAN_JOBS_MAX,
    })
}

/// A plan of nothing, after every record that is there.
fn empty_plan(table: &Table, records: &TableRecords, generation: GenerationNumber) -> Plan {
    Plan {
        version: 1,
        attempt: Uuid::new_v4(),
        number: next(records.newest, generation),
        shape: table.shape(),
        jobs: Vec::new(),
        emptied: false,
    }
}

fn others_load(table: &Table) -> WarehouseError {
    WarehouseError::Unclear {
        attempt: format!("loading table \"{}\"", table.name),
        reason: "others load it again and again".to_owned(),
    }
}

fn overtaken(records: &TableRecords, table: &Table, generation: GenerationNumber) -> Result<(), WarehouseError> {
    match records.newest {
        Some(newest) if newest.generation > generation => Err(WarehouseError::Superseded {
            table: table.name.clone(),
        }),
        _ => Ok(()),
    }
}

/// The number after every one that was used.
fn next(newest: Option<LoadNumber>, generation: GenerationNumber) -> LoadNumber {
    let again = newest.filter(|newest| newest.generation == generation);
    LoadNumber {
        generation,
        again: again.map_or(0, |newest| newest.again + 1),
    }
}

fn name_of(table: &Table, plan: &Plan, slice: Slice) -> LoadName {
    LoadName {
        owner: table.owner,
        table: table.name.clone(),
        slice,
        number: plan.number,
        plan: plan.attempt,
    }
}

/// What the ledger says after `plan`, before its jobs are counted in. A table of another shape was emptied, too.
fn after(plan: &Plan, before: Option<&Done>) -> Done {
    let same = before.filter(|before| before.shape == plan.shape && !plan.emptied);
    Done {
        version: 1,
        attempt: Uuid::new_v4(),
        number: plan.number,
        shape: plan.shape.clone(),
        slices: same.map(|before| before.slices.clone()).unwrap_or_default(),
        holds: before.and_then(|before| before.holds),
        made_of: None,
    }
}

fn set(slices: &mut BTreeMap<Slice, Loaded>, job: &Job) {
    match &job.hash {
        None => drop(slices.remove(&job.slice)),
        Some(hash) => {
            let loaded = Loaded {
                hash: Some(hash.clone()),
                rows: job.rows,
            };
            slices.insert(job.slice, loaded);
        }
    }
}

/// The table that names what the others hold.
pub(super) fn marker_table(owner: Uuid) -> Table {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let schema = Schema::new(vec![
        field("generation", DataType::Int64),
        field("cut_at", time.clone()),
        field("cut", DataType::Utf8),
        field("published", time),
        field("table_name", DataType::Utf8),
        field("table_generation", DataType::Int64),
        field("table_rows", DataType::Int64),
    ]);
    Table {
        name: MARKER.to_owned(),
        description: "What the tables of foldline hold: written when all of them do".to_owned(),
        schema: Arc::new(schema),
        day: None,
        cluster: Vec::new(),
        expire_ms: None,
        owner,
    }
}

/// One row for each table: what it holds, and at which cut that generation ends.
pub(super) fn marker_rows(
    generation: &Generation,
    held: &[(String, GenerationNumber, u64)],
) -> Result<RecordBatch, ArrowError> {
    let rows = held.len();
    let times = |ms: Option<i64>| -> ArrayRef {
        let values: TimestampMicrosecondArray = std::iter::repeat_n(ms.map(|ms| ms * 1000), rows).collect();
        Arc::new(values.with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![generation.number.0.cast_signed(); rows])),
        times(generation.cut.tick.map(|tick| tick.0)),
        Arc::new(StringArray::from(vec![cut_json(&generation.cut); rows])),
        times(Some(generation.published_ms)),
        Arc::new(StringArray::from_iter_values(held.iter().map(|(name, ..)| name))),
        Arc::new(Int64Array::from_iter_values(
            held.iter().map(|(_, held, _)| held.0.cast_signed()),
        )),
        Arc::new(Int64Array::from_iter_values(
            held.iter().map(|(.., rows)| rows.cast_signed()),
        )),
    ];
    RecordBatch::try_new(marker_table(Uuid::nil()).schema, columns)
}

/// `{"topic/0": 17}`: the next offset of each partition.
fn cut_json(cut: &Cut) -> String {
    let partitions = cut.partitions.iter();
    let next: Map<String, Value> = partitions
        .map(|cut| (cut.partition.to_string(), Value::from(cut.next.0)))
        .collect();
    Value::Object(next).to_string()
}

fn ends_all(error: &WarehouseError) -> bool {
    error.again() || matches!(error, WarehouseError::Superseded { .. })
}

fn failure(table: &str, error: &WarehouseError) -> TableReport {
    TableReport {
        table: table.to_owned(),
        error: Some(with_causes(error)),
        ..TableReport::default()
    }
}

fn unfit(table: &Table, reason: String) -> WarehouseError {
    WarehouseError::Unfit {
        table: table.name.clone(),
        reason,
    }
}

pub(super) fn unfit_arrow(table: &str, error: &ArrowError) -> WarehouseError {
    WarehouseError::Unfit {
        table: table.to_owned(),
        reason: error.to_string(),
    }
}
