//! The speed layer as others hold it: started, told what to keep, asked for snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use foldline_event_log::{Cut, EventLog, Horizon, Offset, RecordTime, Tick, Topic, TopicPartition};
use foldline_sql::{Catalog, Stream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accumulate::Folds;
use crate::ingest::{Ingest, Sources};
use crate::retire::{Gaps, Retention};
use crate::{PartitionView, RealtimeStore, Snapshot};

/// Settings of the speed layer.
#[derive(Debug, Clone)]
pub struct SpeedSettings {
    /// Tick length, milliseconds.
    pub cut_every_ms: i64,
    /// The partials of all partitions together hold about this many bytes; then reading stops. A batch already read
    /// is still folded. The keys of the duplicate horizon come on top.
    pub memory_bytes: usize,
    /// At most this many raw bytes are folded at once.
    pub batch_bytes: usize,
    /// Milliseconds between checkpoints; 0 for none, neither read nor written.
    pub checkpoint_every_ms: u64,
    /// Folder of the checkpoints.
    pub checkpoints: PathBuf,
}

/// What the speed layer can run into. What stops one partition is no error here: it stands in its status.
#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// The folder of the checkpoints cannot be used.
    #[error("cannot use {path} for checkpoints")]
    Checkpoints {
        /// Path.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A partition that was waited for stands still.
    #[error("the speed layer stopped at offset {until} of {partition}, before {target}: {reason}")]
    Stopped {
        /// Partition.
        partition: TopicPartition,
        /// Where it stands.
        until: Offset,
        /// What was waited for.
        target: Offset,
        /// Why it stopped.
        reason: String,
    },
    /// A partition that the layer does not fold.
    #[error(
        "the speed layer does not fold {0}; it folds those that existed when it was started and are assigned to it"
    )]
    Unknown(TopicPartition),
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records folded, malformed ones included.
    pub events: u64,
    /// Of these, rows marked late.
    pub late: u64,
    /// Rows marked duplicate.
    pub duplicates: u64,
    /// Malformed records.
    pub dead_letters: u64,
    /// Values that became NULL because they did not fit their column.
    pub nulled: u64,
    /// Batches folded.
    pub batches: u64,
    /// Records that were in the log already when their partition was opened.
    pub replayed: u64,
    /// Bytes of keys and values as they arrived.
    pub raw_bytes: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
}

/// State of one partition, for `status` and `/metrics`.
#[derive(Debug, Clone)]
pub struct PartitionStatus {
    /// Which partition.
    pub partition: TopicPartition,
    /// Events folded since the start.
    pub events: u64,
    /// Bytes that its partials hold.
    pub bytes: usize,
    /// Segments.
    pub segments: usize,
    /// Why it stands still, if it does.
    pub stopped: Option<String>,
    /// Where its segments begin.
    pub from: Offset,
    /// Next offset to fold.
    pub until: Offset,
    /// End of the log when last looked at: `end - until` is the lag in offsets.
    pub end: Offset,
    /// Everything before this record time is folded.
    pub complete_to: Option<RecordTime>,
    /// While it replays: where that ends, see [`PartitionView::replaying_to`].
    pub replaying_to: Option<Offset>,
    /// Bytes that the duplicate horizon holds.
    pub horizon_bytes: usize,
    /// What was counted.
    pub counters: Counters,
}

/// The running speed layer. Cheap to clone. Folding goes on until the token given to [`SpeedLayer::open`] fires,
/// whether anybody holds this or not.
#[derive(Debug, Clone)]
pub struct SpeedLayer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    folding: RwLock<Arc<BTreeMap<TopicPartition, Folding>>>,
    /// The tasks of partitions that were given up, which may still write checkpoints.
    ending: Mutex<BTreeMap<TopicPartition, JoinHandle<()>>>,
    /// Held while partitions are taken.
    assigning: tokio::sync::Mutex<()>,
    retention: watch::Sender<Arc<Retention>>,
    tasks: TaskTracker,
}

/// What every partition's task is made from.
#[derive(Debug)]
struct Parts {
    log: Arc<dyn EventLog>,
    catalog: Arc<Catalog>,
    topics: Vec<(Arc<Stream>, Topic, Vec<Offset>)>,
    horizon: Arc<dyn Horizon>,
    settings: Arc<SpeedSettings>,
    budget: Arc<Budget>,
    cancel: CancellationToken,
}

/// A partition that is folded.
#[derive(Debug, Clone)]
struct Folding {
    slot: Arc<Slot>,
    stop: CancellationToken,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl SpeedLayer {
    /// Makes the layer, which folds nothing until [`SpeedLayer::assign`] or [`SpeedLayer::assign_all`] says what; on the
    /// current runtime, from a checkpoint where one fits, else from `cut` (the cut of the oldest readable generation;
    /// partitions that it does not name start at `origins`). Ends when `cancel` fires, with a last checkpoint;
    /// [`SpeedLayer::ended`] waits for that.
    ///
    /// `topics`: each stream with its topic and the origin of each partition, which says how many partitions there are.
    /// `gaps`: those that the archive has accepted.
    #[allow(
        clippy::too_many_arguments,
        reason = "every one is a different thing, named by its type"
    )]
    pub async fn open(
        log: Arc<dyn EventLog>,
        catalog: Arc<Catalog>,
        topics: Vec<(Arc<Stream>, Topic, Vec<Offset>)>,
        cut: Cut,
        gaps: Gaps,
        horizon: Arc<dyn Horizon>,
        settings: SpeedSettings,
        cancel: CancellationToken,
    ) -> Result<Self, SpeedError> {
        if settings.checkpoint_every_ms > 0 {
            let path = &settings.checkpoints;
            let created = tokio::fs::create_dir_all(path).await;
            created.map_err(|source| SpeedError::Checkpoints {
                path: path.clone(),
                source,
            })?;
        }
        let retention = Retention {
            floor: cut,
            protected: None,
            gaps,
        };
        let tasks = TaskTracker::new();
        tasks.close();
        let inner = Inner {
            parts: Parts {
                log,
                catalog,
                topics,
                horizon,
                budget: Arc::new(Budget::new(settings.memory_bytes)),
                settings: Arc::new(settings),
                cancel,
            },
            folding: RwLock::default(),
            ending: Mutex::default(),
            assigning: tokio::sync::Mutex::default(),
            retention: watch::Sender::new(Arc::new(retention)),
            tasks,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Folds every partition of the topics.
    pub async fn assign_all(&self) {
        let topics = self.inner.parts.topics.iter();
        let all = topics.flat_map(|(_, topic, _)| topic.all_partitions()).collect();
        self.assign(&all).await;
    }

    /// Folds `partitions` from now on and no others: those no longer named end with a last checkpoint and leave the
    /// snapshot. Returns when the checkpoints of new ones are read; replay goes on behind.
    pub async fn assign(&self, partitions: &BTreeSet<TopicPartition>) {
        let _assigning = self.inner.assigning.lock().await;
        self.give_up(partitions);
        let folding = self.folding();
        let mut opening = Vec::new();
        for (stream, topic, origins) in &self.inner.parts.topics {
            let new = |partition: &TopicPartition| partitions.contains(partition) && !folding.contains_key(partition);
            let all = topic.all_partitions().into_iter().zip(origins);
            let folds = Arc::new(self.inner.parts.catalog.folds_of(&stream.name));
            for (partition, origin) in all.filter(|(partition, _)| new(partition)) {
                let before = self.inner.ending().remove(&partition);
                let sources = self.inner.sources(stream, partition, *origin, &folds);
                opening.push(async move {
                    if let Some(before) = before {
                        drop(before.await);
                    }
                    let stop = sources.cancel.clone();
                    (Ingest::restore(sources).await, stop)
                });
            }
        }
        let mut folding = BTreeMap::clone(&folding);
        for (ingest, stop) in futures::future::join_all(opening).await {
            let (partition, slot) = (ingest.partition().clone(), ingest.slot());
            let task = Arc::new(Mutex::new(Some(self.inner.tasks.spawn(ingest.run()))));
            folding.insert(partition, Folding { slot, stop, task });
        }
        self.show(folding);
    }

    /// Ends every partition that is not among `kept`, and returns what it showed last.
    pub fn give_up(&self, kept: &BTreeSet<TopicPartition>) -> Vec<(TopicPartition, Arc<PartitionView>)> {
        let mut showed = Vec::new();
        let mut folding = self.inner.folding.write().unwrap_or_else(PoisonError::into_inner);
        let mut left = BTreeMap::clone(&folding);
        for (partition, given_up) in left.extract_if(.., |partition, _| !kept.contains(partition)) {
            given_up.stop.cancel();
            let task = given_up.task.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.inner.ending().extend(task.map(|task| (partition.clone(), task)));
            showed.push((partition, given_up.slot.view()));
        }
        *folding = Arc::new(left);
        showed
    }

    fn folding(&self) -> Arc<BTreeMap<TopicPartition, Folding>> {
        Arc::clone(&self.inner.folding.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn show(&self, folding: BTreeMap<TopicPartition, Folding>) {
        *self.inner.folding.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(folding);
    }

    /// Drops what lies below `floor` (the cut of the oldest readable generation), and keeps the boundaries at the
    /// ticks `protected` (cuts of readable generations, and of runs under way) whatever their age. Until the first
    /// call every boundary stays. A partition that `floor` does not name stands at its origin.
    ///
    /// Cheap, and the same call twice does nothing; the partitions' own tasks do the work soon after.
    ///
    /// | where the floor lies | the partition |
    /// | --- | --- |
    /// | at a boundary | drops the segments below it |
    /// | within a segment | keeps that segment; if no protected tick above has a boundary either, it replays from the floor |
    /// | far beyond what is folded, or what is next is gone from the log | jumps there |
    /// | below its first segment (after a rollback) | replays from there, if the log still reaches that far |
    pub fn retain(&self, floor: &Cut, protected: &[Tick]) {
        let protected: BTreeSet<Tick> = protected.iter().copied().collect();
        self.inner.retention.send_if_modified(|retention| {
            let same = retention.floor == *floor && retention.protected.as_ref() == Some(&protected);
            if !same {
                *retention = Arc::new(Retention {
                    floor: floor.clone(),
                    protected: Some(protected),
                    gaps: retention.gaps.clone(),
                });
            }
            !same
        });
    }

    /// Forgets, soon after, what was folded of `gap` and behind it, as the archive holds nothing of it and judges
    /// late and repeated rows behind it accordingly. Say so before the archive takes the gap for accepted. The partition
    /// stands still until [`SpeedLayer::retain`] names a cut behind the gap.
    pub fn lose(&self, partition: &TopicPartition, gap: Range<Offset>) {
        self.inner.retention.send_modify(|retention| {
            let gaps = &mut Arc::make_mut(retention).gaps;
            gaps.entry(partition.clone()).or_default().push(gap);
        });
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Snapshot {
        let folding = self.folding();
        let views = folding.iter();
        Snapshot {
            partitions: views
                .map(|(partition, folding)| (partition.clone(), folding.slot.view()))
                .collect(),
        }
    }

    /// For whoever holds something more because of what is folded here: it counts towards the budget.
    pub fn memory_share(&self) -> MemoryShare {
        MemoryShare {
            budget: Arc::clone(&self.inner.parts.budget),
        }
    }

    /// Bytes that partials hold, and whoever has a [`SpeedLayer::memory_share`].
    pub fn held_bytes(&self) -> usize {
        self.inner.parts.budget.held.load(Ordering::Relaxed)
    }

    /// State of every partition.
    pub fn status(&self) -> Vec<PartitionStatus> {
        let folding = self.folding();
        let status = folding
            .iter()
            .map(|(partition, folding)| folding.slot.status(partition));
        status.collect()
    }

    /// Waits until every partition of `targets` is folded up to its offset. Fails as soon as one that is not stands
    /// still (budget, error, end of the layer): then nobody knows when it will be.
    pub async fn wait_until(&self, targets: &BTreeMap<TopicPartition, Offset>) -> Result<(), SpeedError> {
        for (partition, target) in targets {
            let slot = self.folding().get(partition).map(|folding| Arc::clone(&folding.slot));
            let slot = slot.ok_or_else(|| SpeedError::Unknown(partition.clone()))?;
            let mut views = slot.view.subscribe();
            let view = views
                .wait_for(|view| view.read_to >= *target || view.stopped.is_some())
                .await
                .expect("the slot that sends is held")
                .clone();
            if let Some(reason) = view.stopped.clone().filter(|_| view.read_to < *target) {
                return Err(SpeedError::Stopped {
                    partition: partition.clone(),
                    until: view.until,
                    target: *target,
                    reason,
                });
            }
        }
        Ok(())
    }

    /// Returns when every partition has ended after the token given to [`SpeedLayer::open`] fired, and its last
    /// checkpoint is written.
    pub async fn ended(&self) {
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    fn ending(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, JoinHandle<()>>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self, stream: &Arc<Stream>, partition: TopicPartition, origin: Offset, folds: &Folds) -> Sources {
        let parts = &self.parts;
        Sources {
            log: Arc::clone(&parts.log),
            stream: Arc::clone(stream),
            partition,
            origin,
            folds: Arc::clone(folds),
            horizon: Arc::clone(&parts.horizon),
            settings: Arc::clone(&parts.settings),
            retention: self.retention.subscribe(),
            budget: Arc::clone(&parts.budget),
            cancel: parts.cancel.child_token(),
        }
    }
}

impl RealtimeStore for SpeedLayer {
    fn snapshot(&self) -> Snapshot {
        SpeedLayer::snapshot(self)
    }
}

/// What a partition's task shows to others.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Swapped whole: a reader sees all views of the partition at one `until`.
    view: watch::Sender<Arc<PartitionView>>,
    bytes: AtomicUsize,
    horizon_bytes: AtomicUsize,
    pub(crate) counted: Counted,
}

#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) events: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) dead_letters: AtomicU64,
    pub(crate) nulled: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) replayed: AtomicU64,
    pub(crate) raw_bytes: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
}

impl Slot {
    pub(crate) fn new(view: PartitionView) -> Self {
        Self {
            view: watch::Sender::new(Arc::new(view)),
            bytes: AtomicUsize::new(0),
            horizon_bytes: AtomicUsize::new(0),
            counted: Counted::default(),
        }
    }

    pub(crate) fn view(&self) -> Arc<PartitionView> {
        Arc::clone(&self.view.borrow())
    }

    pub(crate) fn publish(&self, view: PartitionView) {
        self.view.send_replace(Arc::new(view));
    }

    pub(crate) fn weigh(&self, bytes: usize, horizon_bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.horizon_bytes.store(horizon_bytes, Ordering::Relaxed);
    }

    fn status(&self, partition: &TopicPartition) -> PartitionStatus {
        let view = self.view();
        let counters = self.counted.read();
        PartitionStatus {
            partition: partition.clone(),
            events: counters.events,
            bytes: self.bytes.load(Ordering::Relaxed),
            segments: view.segments.len(),
            stopped: view.stopped.clone(),
            from: view
                .segments
                .first()
                .map_or(view.until, |segment| segment.offsets.start),
            until: view.read_to,
            end: view.end,
            complete_to: view.complete_to,
            replaying_to: view.replaying_to,
            horizon_bytes: self.horizon_bytes.load(Ordering::Relaxed),
            counters,
        }
    }
}

impl Counted {
    fn read(&self) -> Counters {
        Counters {
            events: self.events.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
            duplicates: self.duplicates.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
            nulled: self.nulled.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            replayed: self.replayed.load(Ordering::Relaxed),
            raw_bytes: self.raw_bytes.load(Ordering::Relaxed),
            checkpoints: self.checkpoints.load(Ordering::Relaxed),
        }
    }
}

/// A holder of memory under the budget of a [`SpeedLayer`], beside its partitions.
#[derive(Debug)]
pub struct MemoryShare {
    budget: Arc<Budget>,
}

impl MemoryShare {
    /// Something that held `before` bytes holds `after` now.
    pub fn change(&self, before: usize, after: usize) {
        self.budget.change(before, after);
    }
}

/// The memory of all partitions together.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: usize,
    held: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            held: AtomicUsize::new(0),
        }
    }

    /// A partition that held `before` holds `after` now.
    pub(crate) fn change(&self, before: usize, after: usize) {
        if after >= before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Why reading may not go on, if it may not. Who has stopped goes on only below 90 % of the budget, so that
    /// reading does not stutter at its edge.
    pub(crate) fn refuses(&self, stopped: bool) -> Option<String> {
        let held = self.held.load(Ordering::Relaxed);
        let bound = if stopped { self.bytes / 10 * 9 } else { self.bytes };
        (held >= bound).then(|| {
            let bytes = self.bytes;
            format!("memory budget of {bytes} bytes reached, {held} held; a batch run frees what it covers")
        })
    }
}
