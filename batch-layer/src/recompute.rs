//! Archive to partials per event date to a generation (design D6).
//!
//! ```text
//!                       cut of n          cut of n+1
//! archive  ──────────────┤  rows read once  ├────────►
//!                        └─► partials of the dates they fall on (old dates too: late rows)
//! generation n   05-01 05-02 05-03              │ merged onto those of n
//! generation n+1 05-01 05-02'05-03'05-04 ◄──────┘ 05-01 is the file of n
//! ```
//!
//! `plan` decides what is read for which view, `accumulate` folds and merges while rows stream by, and this file ties
//! them together and publishes. What a run holds in memory is bounded: beyond a budget the partials of the largest dates go
//! to the store, and come back when their date is merged. A date of a view is merged whole, so that much is held in any
//! case.
//!
//! All of it happens in this process, or on Ballista's executors (`ballista`), which run the same code on pieces of the
//! plan.

mod accumulate;
#[cfg(feature = "ballista")]
pub mod ballista;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use foldline_event_log::{Clock, Tick, Topic};
use foldline_sql::{Catalog, Fold, FoldError, Partial};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::generations::{self, Draft};
use crate::{
    Archive, ArchiveError, BatchView, DatePartial, Generation, GenerationError, GenerationNumber, Generations,
};
use accumulate::{Accumulator, DateBuffer};
use plan::{Job, Plan, Unit};

/// Where partials lie.
pub(crate) const VIEWS_FOLDER: &str = "views";
/// How their names end.
pub(crate) const EXTENSION: &str = ".partial";
/// How the names of orders to Ballista's executors end.
pub(crate) const ORDER_EXTENSION: &str = ".order";

/// How a generation came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Rows since the last cut, merged onto its partials.
    Incremental,
    /// Every row, from raw.
    Full,
    /// Names the files of an older generation.
    Rollback,
}

/// What a run did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunReport {
    /// The generation that it published; the current one if it published nothing.
    pub generation: Arc<Generation>,
    /// False when there was nothing new: the cut would not move and no view is new.
    pub published: bool,
    /// Rows that it folded.
    pub rows: u64,
    /// Files that it read.
    pub files: u64,
    /// Partials that went to the store because memory ran out, and came back.
    pub spilled: u64,
    /// Milliseconds that it took.
    pub elapsed_ms: u64,
    /// Of these, milliseconds for reading and folding rows; the rest goes into plan, merging, writing and publishing.
    pub fold_ms: u64,
    /// Views that `generation` was computed without, by name, and why.
    pub failed: BTreeMap<String, String>,
    /// The tick that the run was asked for lies before that of `generation`, so that it could not go on from there.
    pub behind: bool,
}

/// What a run can run into.
#[derive(Debug, thiserror::Error)]
pub enum RecomputeError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Generations.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A fold.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// A stream of the catalog whose topic was not given, or given with another number of partitions.
    #[error("cannot cut stream \"{stream}\": {reason}")]
    Topic {
        /// Stream.
        stream: String,
        /// What is missing.
        reason: String,
    },
    /// The program is ending.
    #[error("the run was stopped because the program is ending")]
    Stopped,
    /// Ballista did not do all of its part. Nothing was published.
    #[error("cannot recompute on Ballista: {reason}")]
    #[cfg(feature = "ballista")]
    Ballista {
        /// What happened, and where.
        reason: String,
    },
}

/// A unit of work has at least this many rows, if its partition has: so small commits are read in one go.
const UNIT_ROWS: u64 = 131_072;
/// Rows of one date that are folded at once.
const FOLD_ROWS: usize = 65_536;

const DELETES_AT_ONCE: usize = 16;
/// What a run gathers in memory unless told otherwise.
const MEMORY_BYTES: usize = 1 << 30;

/// Recomputes the views of a catalog.
#[derive(Debug, Clone)]
pub struct Recompute {
    catalog: Arc<Catalog>,
    archive: Archive,
    generations: Generations,
    clock: Arc<dyn Clock>,
    unit_rows: u64,
    fold_rows: usize,
    memory_bytes: usize,
    #[cfg(feature = "ballista")]
    ballista: Option<ballista::Ballista>,
}

/// A run under way: all of it, or the piece of it that an executor does.
#[derive(Debug)]
struct Run<'a> {
    recompute: &'a Recompute,
    plan: &'a Plan,
    number: GenerationNumber,
    attempt: Uuid,
    at_once: usize,
    spilling: tokio::sync::Mutex<()>,
    spilled: AtomicU64,
}

impl Recompute {
    /// Over `archive`, publishing to `generations`.
    pub fn new(catalog: Arc<Catalog>, archive: Archive, generations: Generations, clock: Arc<dyn Clock>) -> Self {
        Self {
            catalog,
            archive,
            generations,
            clock,
            unit_rows: UNIT_ROWS,
            fold_rows: FOLD_ROWS,
            memory_bytes: MEMORY_BYTES,
            #[cfg(feature = "ballista")]
            ballista: None,
        }
    }

    /// Folds and merges on Ballista's executors instead of in this process.
    #[cfg(feature = "ballista")]
    pub fn on_ballista(self, ballista: ballista::Ballista) -> Self {
        Self {
            ballista: Some(ballista),
            ..self
        }
    }

    /// The partials that a run gathers hold about this many bytes at most, before it puts some into the store.
    pub fn bounded(self, memory_bytes: usize) -> Self {
        Self { memory_bytes, ..self }
    }

    /// Reads in units of at least `unit_rows` rows, as many at the same time as there are cores, and folds `fold_rows`
    /// rows of a date at once. Less needs less memory and more work.
    pub fn sized(self, unit_rows: u64, fold_rows: usize) -> Self {
        Self {
            unit_rows,
            fold_rows,
            ..self
        }
    }

    /// One run at `tick`. `topics`: the topics of the catalog's streams as the log knows them, with how far each
    /// partition's archive is complete (from the archiver). `progress` is called with (rows done, rows to do).
    ///
    /// An incremental run publishes nothing when neither the cut would move nor a view is new. One at a tick that is
    /// not beyond that of the current generation keeps the current cut, and computes new views up to it. A full run
    /// computes every view from the first archived row, and always publishes.
    pub async fn run(
        &self,
        kind: RunKind,
        tick: Tick,
        topics: &[(Topic, Vec<foldline_event_log::RecordTime>)],
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<RunReport, RecomputeError> {
        let started_ms = self.clock.now_ms();
        self.generations.refresh().await?;
        let base = self.generations.current();
        let plan = Plan::make(
            &self.catalog,
            &self.archive,
            base.as_deref(),
            kind,
            tick,
            topics,
            self.unit_rows,
        )
        .await?;
        if let (Some(base), true) = (&base, plan.nothing_new) {
            return Ok(RunReport {
                generation: Arc::clone(base),
                published: false,
                rows: 0,
                files: 0,
                spilled: 0,
                elapsed_ms: self.since(started_ms),
                fold_ms: 0,
                failed: self.names(&base.failed),
                behind: Some(tick) < base.cut.tick,
            });
        }
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let run = Run::new(self, &plan, generations::successor(base.as_deref()), at_once);
        let Computed {
            rows,
            spilled,
            fold_ms,
            dates,
            failed,
        } = run.compute(progress).await?;
        let (views, failed) = run.views(dates, failed);
        let draft = Draft {
            attempt: run.attempt,
            cut: plan.cut.clone(),
            views,
            failed,
            kind,
            based_on: base.as_ref().map(|base| base.number),
        };
        let generation = self.generations.publish(base.as_deref(), draft).await?;
        let report = RunReport {
            published: true,
            rows,
            files: plan.files,
            spilled,
            elapsed_ms: self.since(started_ms),
            fold_ms,
            failed: self.names(&generation.failed),
            behind: Some(tick) < generation.cut.tick,
            generation,
        };
        tracing::info!(
            generation = report.generation.number.0,
            rows,
            files = report.files,
            elapsed_ms = report.elapsed_ms,
            "generation published"
        );
        Ok(report)
    }

    /// Views that failed, by name instead of id.
    fn names(&self, failed: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let views = self.catalog.views().iter();
        views
            .filter_map(|view| Some((view.name.clone(), failed.get(&view.id)?.clone())))
            .collect()
    }

    fn since(&self, started_ms: i64) -> u64 {
        u64::try_from(self.clock.now_ms() - started_ms).unwrap_or(0)
    }
}

/// A date of a view (its position among the jobs) that changed; no file where no key is left.
type Written = (usize, chrono::NaiveDate, Option<DatePartial>);

/// What a run computed.
#[derive(Debug)]
struct Computed {
    rows: u64,
    spilled: u64,
    fold_ms: u64,
    dates: Vec<Written>,
    /// Why views failed, by the positions of their jobs.
    failed: BTreeMap<usize, String>,
}

impl<'a> Run<'a> {
    fn new(recompute: &'a Recompute, plan: &'a Plan, number: GenerationNumber, at_once: usize) -> Self {
        Self {
            recompute,
            plan,
            number,
            attempt: Uuid::new_v4(),
            at_once,
            spilling: tokio::sync::Mutex::default(),
            spilled: AtomicU64::new(0),
        }
    }

    fn accumulator(&self) -> Accumulator {
        Accumulator::new(self.plan.jobs.iter().map(|job| Arc::clone(&job.fold)).collect())
    }

    async fn compute(&self, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<Computed, RecomputeError> {
        #[cfg(feature = "ballista")]
        if let Some(ballista) = self.recompute.ballista.as_ref().filter(|_| !self.plan.units.is_empty()) {
            return ballista.compute(self, progress).await;
        }
        let accumulator = self.accumulator();
        let since_ms = self.recompute.clock.now_ms();
        let rows = self.fold_rows(&accumulator, progress).await?;
        let fold_ms = self.recompute.since(since_ms);
        let (dates, put_aside) = self.write_dates(&accumulator).await?;
        self.remove(put_aside).await;
        Ok(Computed {
            rows,
            spilled: self.spilled.load(Ordering::Relaxed),
            fold_ms,
            dates,
            failed: accumulator.reasons(),
        })
    }

    /// Folds every row of the plan into `accumulator`; returns how many there were.
    async fn fold_rows(
        &self,
        accumulator: &Accumulator,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<u64, RecomputeError> {
        let (done, total) = (AtomicU64::new(0), self.plan.rows);
        progress(0, total);
        let advance = |rows: u64| {
            let before = done.fetch_add(rows, Ordering::Relaxed);
            progress((before + rows).min(total), total);
        };
        let units: Vec<_> = self
            .plan
            .units
            .iter()
            .map(|unit| self.fold_unit(unit, accumulator, &advance))
            .collect();
        futures::stream::iter(units)
            .buffer_unordered(self.at_once)
            .try_collect::<()>()
            .await?;
        progress(total, total);
        Ok(done.into_inner())
    }

    async fn fold_unit(
        &self,
        unit: &Unit,
        accumulator: &Accumulator,
        advance: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RecomputeError> {
        let pass = &self.plan.passes[unit.pass];
        let archive = &self.recompute.archive;
        let mut rows = archive.rows(&pass.stream, &unit.partition, unit.offsets.clone(), &pass.columns);
        let mut buffer = DateBuffer::default();
        while let Some((date, batch)) = rows.try_next().await? {
            if accumulator.all_failed(&pass.jobs) {
                return Ok(());
            }
            let count = batch.num_rows() as u64;
            buffer.push(date, batch);
            while let Some((date, batches)) = buffer.take_full(self.recompute.fold_rows) {
                accumulator.fold(&pass.jobs, date, batches).await?;
                self.spill(accumulator).await?;
            }
            advance(count);
        }
        for (date, batches) in buffer.take_rest() {
            accumulator.fold(&pass.jobs, date, batches).await?;
            self.spill(accumulator).await?;
        }
        Ok(())
    }

    /// Puts into the store what is too much for memory.
    async fn spill(&self, accumulator: &Accumulator) -> Result<(), RecomputeError> {
        // One at a time: whoever finds too much waits until the other one has put it away.
        let _turn = self.spilling.lock().await;
        for ((index, date), partials) in accumulator.take_beyond(self.recompute.memory_bytes) {
            if accumulator.all_failed(&[index]) {
                continue;
            }
            match self
                .store_merged(&self.plan.jobs[index], date, partials, Uuid::new_v4())
                .await?
            {
                Ok(Some(file)) => {
                    self.spilled.fetch_add(1, Ordering::Relaxed);
                    accumulator.spilled((index, date), file);
                }
                Ok(None) => {}
                Err(error) => accumulator.fail(index, error),
            }
        }
        Ok(())
    }

    /// Merges what was accumulated onto the previous partials, and stores what changed; beside it the files that went to
    /// the store meanwhile, and are not needed any more.
    async fn write_dates(&self, accumulator: &Accumulator) -> Result<(Vec<Written>, Vec<String>), RecomputeError> {
        let jobs = &self.plan.jobs;
        let by_date = |job: &Job| job.previous.iter().map(|file| (file.date, file.clone())).collect();
        let previous: Vec<BTreeMap<chrono::NaiveDate, DatePartial>> = jobs.iter().map(by_date).collect();
        let mut put_aside = Vec::new();
        let changed: Vec<_> = accumulator
            .take_rest()
            .map(|((index, date), (partials, mut stored))| {
                put_aside.extend(stored.iter().map(|file| file.path.clone()));
                stored.extend(previous[index].get(&date).cloned());
                async move {
                    if accumulator.all_failed(&[index]) {
                        return Ok((index, date, None));
                    }
                    let written = self.write_date(&jobs[index], date, stored, partials).await?;
                    let file = written.unwrap_or_else(|error| {
                        accumulator.fail(index, error);
                        None
                    });
                    Ok::<_, RecomputeError>((index, date, file))
                }
            })
            .collect();
        let written = futures::stream::iter(changed).buffer_unordered(self.at_once);
        Ok((written.try_collect().await?, put_aside))
    }

    /// Removes files that nobody names. Where this fails the garbage collector does it.
    async fn remove(&self, files: Vec<String>) {
        let store = self.recompute.generations.store();
        let delete = |path: String| async move { drop(store.delete(&Path::from(path)).await) };
        futures::stream::iter(files)
            .for_each_concurrent(DELETES_AT_ONCE, delete)
            .await;
    }

    /// The views of the generation: the previous partials with `written` in their places; beside them why views failed,
    /// by view id.
    fn views(
        &self,
        written: Vec<Written>,
        mut failures: BTreeMap<usize, String>,
    ) -> (BTreeMap<String, BatchView>, BTreeMap<String, String>) {
        let jobs = &self.plan.jobs;
        let mut dates: Vec<BTreeMap<chrono::NaiveDate, DatePartial>> = jobs
            .iter()
            .map(|job| job.previous.iter().map(|file| (file.date, file.clone())).collect())
            .collect();
        for (index, date, file) in written {
            match file {
                Some(file) => dates[index].insert(date, file),
                None => dates[index].remove(&date),
            };
        }
        let (mut views, mut failed) = (BTreeMap::new(), BTreeMap::new());
        for (index, (job, dates)) in jobs.iter().zip(dates).enumerate() {
            let id = job.view.id.clone();
            if let Some(reason) = failures.remove(&index) {
                tracing::error!(
                    view = job.view.name,
                    reason,
                    "a view failed and is left out of the generation"
                );
                failed.insert(id, reason);
                continue;
            }
            let view = BatchView {
                name: job.view.name.clone(),
                dates: dates.into_values().collect(),
            };
            views.insert(id, view);
        }
        (views, failed)
    }

    /// Merges `partials` with those in `stored`: what went to the store in this run, and the previous generation's. `None`
    /// when no key is left. The inner error is the view's own.
    async fn write_date(
        &self,
        job: &Job,
        date: chrono::NaiveDate,
        stored: Vec<DatePartial>,
        mut partials: Vec<Partial>,
    ) -> Result<Result<Option<DatePartial>, FoldError>, RecomputeError> {
        let store = self.recompute.generations.store().as_ref();
        for file in &stored {
            partials.push(generations::load_partial(store, file, &job.fold).await?);
            // What was put aside piece by piece must not come back all at once.
            if partials.len() > 1 && partials.iter().map(Partial::bytes).sum::<usize>() > self.recompute.memory_bytes {
                let fold = Arc::clone(&job.fold);
                match beside(async move { fold.merge(&partials).await }).await? {
                    Ok(merged) => partials = vec![merged],
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
        self.store_merged(job, date, partials, self.attempt).await
    }

    async fn store_merged(
        &self,
        job: &Job,
        date: chrono::NaiveDate,
        partials: Vec<Partial>,
        attempt: Uuid,
    ) -> Result<Result<Option<DatePartial>, FoldError>, RecomputeError> {
        let store = self.recompute.generations.store().as_ref();
        let (keys, bytes, crc32) = match merge_and_encode(Arc::clone(&job.fold), partials).await? {
            Ok(merged) if merged.0 > 0 => merged,
            Ok(_) => return Ok(Ok(None)),
            Err(error) => return Ok(Err(error)),
        };
        let path = Path::from(format!(
            "{}/{}/date={date}/{:020}-{}{EXTENSION}",
            VIEWS_FOLDER, job.view.id, self.number.0, attempt
        ));
        let size = bytes.len() as u64;
        crate::store::put_own(store, &path, bytes)
            .await
            .map_err(GenerationError::from)?;
        Ok(Ok(Some(DatePartial {
            date,
            path: path.to_string(),
            keys,
            bytes: size,
            crc32,
        })))
    }
}

async fn merge_and_encode(
    fold: Arc<Fold>,
    partials: Vec<Partial>,
) -> Result<Result<(u64, Bytes, u32), FoldError>, RecomputeError> {
    beside(async move {
        let merged = fold.merge(&partials).await?;
        drop(partials);
        let bytes = Bytes::from(merged.encode()?);
        let crc32 = crc32fast::hash(&bytes);
        Ok::<_, FoldError>((merged.keys() as u64, bytes, crc32))
    })
    .await
}

/// Runs CPU work on a thread of its own, so that a long merge does not hold up what shares the runtime (answers).
async fn beside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, RecomputeError> {
    let runtime = tokio::runtime::Handle::current();
    let running = tokio::task::spawn_blocking(move || runtime.block_on(work));
    match running.await {
        Ok(outcome) => Ok(outcome),
        Err(failure) => match failure.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(RecomputeError::Stopped),
        },
    }
}
