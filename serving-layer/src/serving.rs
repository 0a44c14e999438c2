//! The stores of both halves, and what one answer takes from them.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use foldline_batch_layer::{Archive, Generations};
use foldline_event_log::{Clock, Offset, Topic};
use foldline_speed_layer::RealtimeStore;
use foldline_sql::{Catalog, Class, Fold, Stream, View, ViewKind};
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::coverage::AnswerCoverage;
use crate::finish::{self, Finished, FinishedKey};
use crate::merge::{self, Keys};
use crate::points::PointPlans;
use crate::query::QueryError;
use crate::room::QueryRoom;
use crate::seam::{self, Mode, Place, Seam};

/// So long a view counts as damaged after a read that failed, if nobody asks again: a process that is not ready is
/// asked by nobody.
const DAMAGED_FOR: Duration = Duration::from_secs(60);

/// Bounds of what queries may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest query time; superseded generations stay readable for as long.
    pub query_time: Duration,
    /// Bytes that all running SQL queries together may hold.
    pub query_memory_bytes: usize,
    /// SQL queries that run at once; more of them wait, within their query time.
    pub queries_at_once: usize,
    /// Rows of one answer.
    pub answer_rows: usize,
    /// Bytes of one answer in memory.
    pub answer_bytes: usize,
    /// Bytes of a query's text.
    pub sql_bytes: usize,
    /// Bytes of whole answers that are kept for those who ask again.
    pub finished_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            query_time: Duration::from_secs(60),
            query_memory_bytes: 1 << 30,
            queries_at_once: 8,
            answer_rows: 1_000_000,
            answer_bytes: 256 << 20,
            sql_bytes: 64 << 10,
            finished_bytes: 128 << 20,
        }
    }
}

/// A stream's topic as the log knows it.
#[derive(Debug, Clone)]
pub struct ServedTopic {
    /// The stream.
    pub stream: Arc<Stream>,
    /// Its topic.
    pub topic: Topic,
    /// Origin of each partition, in order.
    pub origins: Vec<Offset>,
}

impl ServedTopic {
    /// The partitions that an answer over the stream covers.
    pub fn places(&self) -> Vec<Place> {
        let partitions = self.topic.all_partitions().into_iter();
        partitions
            .zip(&self.origins)
            .map(|(partition, origin)| Place {
                partition,
                origin: *origin,
            })
            .collect()
    }
}

/// What the serving layer is built from.
#[derive(Debug, Clone)]
pub struct ServingParts {
    /// Streams and views.
    pub catalog: Arc<Catalog>,
    /// Topic of every stream of the catalog.
    pub topics: Vec<ServedTopic>,
    /// The batch half.
    pub generations: Generations,
    /// The speed half.
    pub realtime: Arc<dyn RealtimeStore>,
    /// The archived rows, where this process can read them: then streams are tables, too, in batch only.
    pub archive: Option<Archive>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Bounds.
    pub limits: Limits,
    /// Where answers are computed, except those of point reads; `None` for the runtime that asks. Finishing is CPU work:
    /// give a runtime of its own to a server, so that it goes on accepting.
    pub workers: Option<Handle>,
}

/// Rows, and what they cover.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Columns.
    pub schema: SchemaRef,
    /// Rows.
    pub batches: Vec<RecordBatch>,
    /// What the rows contain.
    pub coverage: AnswerCoverage,
    /// Time that it took.
    pub elapsed: Duration,
}

impl Answer {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// How a view can be answered now.
#[derive(Debug, Clone)]
pub enum ViewState {
    /// The seam is closed.
    Ready(AnswerCoverage),
    /// A half is missing that the next generation brings.
    Building(String),
    /// The seam is open, or its partials cannot be read.
    Broken(String),
}

/// Answers questions over the views of a catalog. Cheap to clone.
#[derive(Clone)]
pub struct Serving {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Serving")
            .field("limits", &self.inner.parts.limits)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) parts: ServingParts,
    pub(crate) runtime: Arc<RuntimeEnv>,
    pub(crate) queries: Arc<Semaphore>,
    finished: Finished,
    pub(crate) points: PointPlans,
    /// Views whose partials could not be read or finished when last asked for, why, and when that was.
    damaged: Mutex<BTreeMap<String, (String, Instant)>>,
}

impl Serving {
    /// Over `parts`.
    pub fn new(parts: ServingParts) -> Self {
        let pool = GreedyMemoryPool::new(parts.limits.query_memory_bytes);
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(disk)
            .build_arc()
            .expect("a runtime without a disk needs nothing that can fail");
        // The fence: not even by a way that nobody thought of does a query reach this machine's files.
        let _ = runtime.deregister_object_store(ObjectStoreUrl::local_filesystem().as_ref());
        let inner = Inner {
            runtime,
            queries: Arc::new(Semaphore::new(parts.limits.queries_at_once)),
            finished: Finished::new(parts.limits.finished_bytes),
            points: PointPlans::default(),
            damaged: Mutex::new(BTreeMap::new()),
            parts,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The streams and views that it answers for.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.inner.parts.catalog
    }

    /// Memory of queries, for whoever gathers as they do.
    pub fn room(&self) -> QueryRoom {
        QueryRoom::new(&self.inner.runtime.memory_pool)
    }

    /// How `view` can be answered now. Reads no partials.
    pub fn state(&self, view: &View) -> ViewState {
        self.inner.state(view)
    }

    /// Runs `work` where answers are computed, within the longest query time.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, QueryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, QueryError>> + Send + 'static,
    {
        let limit = self.inner.parts.limits.query_time;
        let workers = self.inner.parts.workers.clone().unwrap_or_else(Handle::current);
        // Bounded on both sides: the inner bound stops the work where it gives way, the outer one answers in any case.
        let mut task = AbortOnDrop(workers.spawn(tokio::time::timeout(limit, work)));
        match tokio::time::timeout(limit, &mut task.0).await {
            Ok(Ok(Ok(result))) => result,
            Ok(Ok(Err(_))) | Err(_) => Err(QueryError::TimedOut { limit }),
            Ok(Err(_)) => Err(QueryError::Panicked),
        }
    }

    /// Runs `work` on the thread that asks, within the longest query time: for what is known to be short, as waking
    /// another thread and being woken by it take longer than a point read.
    pub(crate) async fn run_here<T>(&self, work: impl Future<Output = Result<T, QueryError>>) -> Result<T, QueryError> {
        let limit = self.inner.parts.limits.query_time;
        match tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(QueryError::Panicked),
            Err(_) => Err(QueryError::TimedOut { limit }),
        }
    }
}

/// A query whose asker went away stops.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inner {
    /// The names of the streams under `view`, through the views that it reads.
    pub(crate) fn streams_under(&self, view: &View, streams: &mut Vec<String>) {
        for name in &view.reads {
            if let Some(below) = self.parts.catalog.view(name) {
                self.streams_under(below, streams);
            } else if !streams.contains(name) {
                streams.push(name.clone());
            }
        }
    }

    /// Largest event time that `seam` covers of the streams under `view`.
    pub(crate) fn as_of(&self, view: &View, seam: &Seam) -> Option<i64> {
        let mut streams = Vec::new();
        self.streams_under(view, &mut streams);
        let streams = streams.iter().filter_map(|name| self.parts.catalog.stream(name));
        streams.filter_map(|stream| seam.as_of_topic(&stream.topic)).max()
    }

    /// The partitions of `streams`.
    fn places(&self, streams: &[String]) -> Vec<Place> {
        let topics = self.parts.topics.iter();
        topics
            .filter(|topic| streams.contains(&topic.stream.name))
            .flat_map(ServedTopic::places)
            .collect()
    }

    /// Closes the seam over `streams`.
    pub(crate) async fn close(&self, streams: &[String], mode: Mode) -> Result<Arc<Seam>, QueryError> {
        let generations = &self.parts.generations;
        let seam = match mode {
            Mode::At(number) => {
                let generation = generations.get(number).await.map_err(QueryError::Generation)?;
                seam::at_cut(&generation, &self.places(streams))?
            }
            Mode::Merged | Mode::SpeedOnly | Mode::BatchOnly => self.close_now(streams, mode)?,
        };
        Ok(Arc::new(seam))
    }

    /// Closes the seam with what is in memory; [`Mode::At`] counts as the current generation.
    fn close_now(&self, streams: &[String], mode: Mode) -> Result<Seam, QueryError> {
        let places = self.places(streams);
        if matches!(mode, Mode::BatchOnly | Mode::At(_)) {
            let current = self.parts.generations.current().ok_or(QueryError::NoGeneration)?;
            return Ok(seam::at_cut(&current, &places)?);
        }
        // Generations first: what is superseded between the two looks is still in the newer snapshot, for speed keeps
        // everything behind the cut of the oldest readable one.
        let readable = self.parts.generations.readable();
        let snapshot = self.parts.realtime.snapshot();
        let mut seam = seam::close(&readable, &snapshot, &places)?;
        seam.with_batch = mode != Mode::SpeedOnly;
        Ok(seam)
    }

    /// The whole answer of a fold view over `seam`, or the part of it that has `keys`.
    pub(crate) async fn rows_of(
        &self,
        view: &View,
        fold: &Arc<Fold>,
        seam: &Seam,
        keys: &Keys,
    ) -> Result<RecordBatch, QueryError> {
        let key = keys.is_all().then(|| FinishedKey::of(view, seam));
        if let Some(rows) = key.as_ref().and_then(|key| self.finished.get(key)) {
            return Ok(rows);
        }
        let rows = self.finish_rows(view, fold, seam, keys).await;
        if self.is_current(seam) {
            self.remember(view, &rows);
        }
        let rows = rows?;
        if let Some(key) = key {
            self.finished.put(key, &rows);
        }
        Ok(rows)
    }

    /// The same, and nothing is kept of it.
    pub(crate) async fn finish_rows(
        &self,
        view: &View,
        fold: &Arc<Fold>,
        seam: &Seam,
        keys: &Keys,
    ) -> Result<RecordBatch, QueryError> {
        // Until the rows are finished.
        let room = QueryRoom::new(&self.runtime.memory_pool);
        let partials = merge::gather(view, fold, seam, &self.parts.generations, keys, &room).await?;
        Ok(finish::finish(view, fold, &partials, self.as_of(view, seam)).await?)
    }

    /// Whether `seam` is over the current generation: what an older one lacks says nothing about the answers of now.
    fn is_current(&self, seam: &Seam) -> bool {
        let current = self.parts.generations.current().map(|current| current.number);
        seam.generation.as_ref().map(|generation| generation.number) == current
    }

    /// Keeps the last failure of a view's partials for `status` and `/readyz`, until they can be read again.
    fn remember<T>(&self, view: &View, outcome: &Result<T, QueryError>) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = view.part_of.as_ref().unwrap_or(&view.name);
        match outcome {
            Ok(_) => {
                damaged.remove(shown);
            }
            Err(error) if error.is_damage() => {
                damaged.insert(shown.clone(), (error.chain(), Instant::now()));
            }
            Err(_) => {}
        }
    }

    fn state(&self, view: &View) -> ViewState {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((reason, at)) = damaged.get(&view.name)
            && at.elapsed() < DAMAGED_FOR
        {
            return ViewState::Broken(reason.clone());
        }
        drop(damaged);
        let mut streams = Vec::new();
        self.streams_under(view, &mut streams);
        let seam = match self.close_now(&streams, Mode::Merged) {
            Ok(seam) => seam,
            Err(error) => return ViewState::Broken(error.chain()),
        };
        match self.building_under(view, &seam) {
            Err(building) => ViewState::Building(building.to_string()),
            Ok(()) => ViewState::Ready(AnswerCoverage::of(&seam, view.class, self.parts.clock.now_ms())),
        }
    }

    /// What of `view` is missing in `seam`, if anything.
    pub(crate) fn building_under(&self, view: &View, seam: &Seam) -> Result<(), merge::MergeError> {
        match &view.kind {
            ViewKind::Fold(fold) => merge::building(view, fold, seam),
            ViewKind::Derived(_) => {
                for name in &view.reads {
                    if let Some(below) = self.parts.catalog.view(name) {
                        self.building_under(below, seam)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// An answer over `seam`.
    pub(crate) fn answer(
        &self,
        schema: SchemaRef,
        batches: Vec<RecordBatch>,
        seam: &Seam,
        class: Class,
        since: Instant,
    ) -> Answer {
        Answer {
            schema,
            batches,
            coverage: AnswerCoverage::of(seam, class, self.parts.clock.now_ms()),
            elapsed: since.elapsed(),
        }
    }
}
