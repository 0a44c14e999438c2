//! Log to archive: one memory budget over all partitions, rolls by age and size.
//!
//! Each partition has a task that reads the log behind its archive and holds what it read. When the oldest held record
//! is old enough (a timer: the topic may have gone idle), enough bytes are held, memory runs out, or somebody wants
//! the archive to reach a tick, everything held becomes one commit, while reading goes on. Where an archiver is after
//! a crash, or after another one committed first, follows from the commit records alone.

mod budget;
mod counters;
mod partition;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldline_event_log::{EventLog, Offset, ReadError, RecordTime, Tick, TopicPartition};
use foldline_sql::Stream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Archive, ArchiveError};
use budget::Budget;
pub use counters::{ArchiverCounters, RollReason};
use partition::{PartitionArchiver, Standing, Stop};

/// New partitions of a topic are noticed this often.
const GROWTH_CHECK_SECONDS: u64 = 10;
/// [`ArchiverHandle::reach`] waits this long for a partition whose store or log is down.
const REACH_PATIENCE_SECONDS: u64 = 30;
/// How long [`ArchiverHandle::gap`] waits for a partition to stop at its gap.
const GAP_PATIENCE_SECONDS: u64 = 10;
/// Bounds of what one read of the log asks for.
const READ_BYTES_MIN: usize = 16 << 10;
const READ_BYTES_MAX: usize = 1 << 20;
/// What is read weighs about this many times its raw bytes: bytes as they arrived, and columns.
const WEIGHT_OF_READ: usize = 3;

/// Settings of the archiver.
#[derive(Debug, Clone)]
pub struct ArchiverSettings {
    /// Roll a partition's rows when the oldest has been held this long, milliseconds.
    pub roll_age_ms: u64,
    /// Roll a partition's rows at this many raw bytes.
    pub roll_bytes: usize,
    /// All partitions together hold at most this many bytes, raw bytes and columns counted; beyond it the largest is
    /// rolled early, and reading pauses until memory is free.
    pub memory_bytes: usize,
    /// Tick length, milliseconds.
    pub cut_every_ms: i64,
}

/// Archives the partitions of streams until it is cancelled.
#[derive(Debug)]
pub struct Archiver {}

/// How far a partition's archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiverPosition {
    /// Next offset to archive.
    pub until: Offset,
    /// End of the log when last looked at.
    pub end: Offset,
    /// Every record before this is archived.
    pub complete_to: RecordTime,
    /// Why the partition stands still, if it does.
    pub stopped: Option<String>,
}

/// Talks to a running [`Archiver`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ArchiverHandle {
    shared: Arc<Shared>,
}

/// What the partitions of an archiver share.
#[derive(Debug)]
struct Shared {
    log: Arc<dyn EventLog>,
    archive: Archive,
    streams: Vec<Arc<Stream>>,
    settings: ArchiverSettings,
    read_bytes: usize,
    budget: Arc<Budget>,
    counters: Mutex<ArchiverCounters>,
    /// Commits that are encoded and stored at the same time.
    rolls: Semaphore,
    /// Those that are archived here; `None`: all.
    assigned: Mutex<Option<BTreeSet<TopicPartition>>>,
    partitions: Mutex<BTreeMap<TopicPartition, Tracked>>,
    /// The tasks of partitions that were given up, which may still commit what they hold.
    ending: Mutex<BTreeMap<TopicPartition, JoinHandle<()>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// A partition's task, seen from outside.
#[derive(Debug)]
struct Tracked {
    standing: watch::Receiver<Standing>,
    target: watch::Sender<Option<Tick>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Archiver {
    /// Starts archiving every partition of `streams` on the current runtime; ends when `cancel` fires, after a last
    /// commit of what is held ([`ArchiverHandle::ended`] waits for it). Fails when a topic is not there.
    pub async fn start(
        log: Arc<dyn EventLog>,
        archive: Archive,
        streams: Vec<Arc<Stream>>,
        settings: ArchiverSettings,
        cancel: CancellationToken,
    ) -> Result<ArchiverHandle, ArchiveError> {
        Self::begin(log, archive, streams, settings, None, cancel).await
    }

    /// The same without a partition: [`ArchiverHandle::assign`] says which it archives.
    pub async fn idle(
        log: Arc<dyn EventLog>,
        archive: Archive,
        streams: Vec<Arc<Stream>>,
        settings: ArchiverSettings,
        cancel: CancellationToken,
    ) -> Result<ArchiverHandle, ArchiveError> {
        Self::begin(log, archive, streams, settings, Some(BTreeSet::new()), cancel).await
    }

    async fn begin(
        log: Arc<dyn EventLog>,
        archive: Archive,
        streams: Vec<Arc<Stream>>,
        settings: ArchiverSettings,
        assigned: Option<BTreeSet<TopicPartition>>,
        cancel: CancellationToken,
    ) -> Result<ArchiverHandle, ArchiveError> {
        let mut partitions = 0;
        for stream in &streams {
            partitions += log.topic(&stream.topic).await.map_err(ReadError::from)?.partitions as usize;
        }
        // Every partition can have one read under way that the budget does not know yet: that much is kept free.
        let partitions = partitions.max(1);
        let read_bytes =
            (settings.memory_bytes / (4 * WEIGHT_OF_READ * partitions)).clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        let spare = read_bytes * WEIGHT_OF_READ * partitions;
        let budget = Budget::new(settings.memory_bytes.saturating_sub(spare).max(read_bytes));
        let rolls = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) + 1;
        let handle = ArchiverHandle {
            shared: Arc::new(Shared {
                log,
                archive,
                streams,
                settings,
                read_bytes,
                budget: Arc::new(budget),
                counters: Mutex::default(),
                rolls: Semaphore::new(rolls),
                assigned: Mutex::new(assigned),
                partitions: Mutex::default(),
                ending: Mutex::default(),
                tasks: TaskTracker::new(),
                cancel,
            }),
        };
        handle.shared.start_partitions().await?;
        handle.shared.tasks.spawn(watch_growth(Arc::clone(&handle.shared)));
        Ok(handle)
    }
}

impl ArchiverHandle {
    /// Returns when everything before `tick` is archived in every partition, rolling early what is held. Returns the
    /// position of each partition. Fails, naming the partition, when one has stopped for good, or its store or log
    /// stays away for half a minute.
    pub async fn reach(&self, tick: Tick) -> Result<BTreeMap<TopicPartition, ArchiverPosition>, ArchiveError> {
        self.shared.start_partitions().await?;
        self.want(tick);
        let waits = self.shared.standings();
        // All at once: one partition may stand still only because of another one's failing rolls.
        let waits = waits.into_iter().map(|(partition, standing)| async move {
            let position = reached_by(&partition, standing, tick).await?;
            Ok::<_, ArchiveError>((partition, position))
        });
        Ok(futures::future::try_join_all(waits).await?.into_iter().collect())
    }

    /// Rolls early, in every partition, what is held before `tick`: [`ArchiverHandle::positions`] shows when it is there.
    pub fn want(&self, tick: Tick) {
        for tracked in self.shared.tracked().values() {
            tracked.target.send_if_modified(|target| {
                let further = target.is_none_or(|target| target < tick);
                *target = (*target).max(Some(tick));
                further
            });
        }
    }

    /// Archives `partitions` from now on and no others. What is held of others is committed soon, unless somebody else
    /// does it first.
    pub async fn assign(&self, partitions: BTreeSet<TopicPartition>) -> Result<(), ArchiveError> {
        // First, so that nobody who looks for new partitions starts one that is given up.
        *self.shared.assigned() = Some(partitions.clone());
        self.shared.give_up(&partitions);
        self.shared.start_partitions().await
    }

    /// The offsets of `partition` that left the log before they were archived, if there are any. Fails where they may
    /// yet be archived: only who has stopped for the gap holds nothing of it in memory.
    pub async fn gap(&self, partition: &TopicPartition) -> Result<Option<Range<Offset>>, ArchiveError> {
        let Shared { log, archive, .. } = &*self.shared;
        let gap = async || {
            let earliest = log.span(partition).await.map_err(ReadError::from)?.earliest;
            let archived = archive.resume(partition).await?.map(|resume| resume.next);
            let archived = archived.filter(|archived| *archived < earliest);
            Ok::<_, ArchiveError>(archived.map(|archived| archived..earliest))
        };
        let Some(before) = gap().await? else {
            return Ok(None);
        };
        let standing = self
            .shared
            .tracked()
            .get(partition)
            .map(|tracked| tracked.standing.clone());
        let stopped = async {
            let gone = |standing: &Standing| matches!(standing.stop, Some(Stop::Gone(_)));
            standing?.wait_for(gone).await.ok().map(drop)
        };
        match tokio::time::timeout(Duration::from_secs(GAP_PATIENCE_SECONDS), stopped).await {
            // What was held may have been archived meanwhile.
            Ok(Some(())) => gap().await,
            _ => Err(ArchiveError::MayBeHeld {
                partition: partition.clone(),
                offsets: before,
            }),
        }
    }

    /// The position of each partition now.
    pub fn positions(&self) -> BTreeMap<TopicPartition, ArchiverPosition> {
        let tracked = self.shared.tracked();
        tracked
            .iter()
            .map(|(partition, tracked)| (partition.clone(), tracked.standing.borrow().position()))
            .collect()
    }

    /// What was archived since the start.
    pub fn counters(&self) -> ArchiverCounters {
        let mut counters = self.shared.counters().clone();
        counters.held_bytes = self.shared.budget.used() as u64;
        counters
    }

    /// Returns when the archiver has ended: it was cancelled, and what it held is committed or could not be.
    pub async fn ended(&self) {
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    /// Starts a task for every partition that has none. Topics may grow.
    async fn start_partitions(self: &Arc<Self>) -> Result<(), ArchiveError> {
        for stream in &self.streams {
            let topic = self.log.topic(&stream.topic).await.map_err(ReadError::from)?;
            for partition in topic.all_partitions() {
                self.start_partition(stream, partition);
            }
        }
        Ok(())
    }

    fn start_partition(self: &Arc<Self>, stream: &Arc<Stream>, partition: TopicPartition) {
        let mut tracked = self.tracked();
        // Another incarnation of a topic starts anew with the process: views and cuts would not know it.
        let recreated = tracked
            .keys()
            .any(|known| known.topic == partition.topic && known.incarnation != partition.incarnation);
        let ours = self
            .assigned()
            .as_ref()
            .is_none_or(|assigned| assigned.contains(&partition));
        if recreated || !ours || tracked.contains_key(&partition) || self.cancel.is_cancelled() {
            return;
        }
        let (standing, seen) = watch::channel(Standing::default());
        let (target, wanted) = watch::channel(None);
        let stop = self.cancel.child_token();
        let archiver = PartitionArchiver::new(
            Arc::clone(self),
            Arc::clone(stream),
            partition.clone(),
            standing,
            wanted,
            stop.clone(),
        );
        let before = self
            .ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&partition);
        let task = self.tasks.spawn(async move {
            if let Some(before) = before {
                drop(before.await);
            }
            archiver.run().await;
        });
        let one = Tracked {
            standing: seen,
            target,
            stop,
            task,
        };
        tracked.insert(partition, one);
    }

    fn standings(&self) -> Vec<(TopicPartition, watch::Receiver<Standing>)> {
        let tracked = self.tracked();
        let standings = tracked.iter();
        standings
            .map(|(partition, tracked)| (partition.clone(), tracked.standing.clone()))
            .collect()
    }

    /// Ends every partition that is not among `kept`.
    fn give_up(&self, kept: &BTreeSet<TopicPartition>) {
        let mut tracked = self.tracked();
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, tracked) in tracked.extract_if(.., |partition, _| !kept.contains(partition)) {
            tracked.stop.cancel();
            ending.insert(partition, tracked.task);
        }
    }

    fn assigned(&self) -> std::sync::MutexGuard<'_, Option<BTreeSet<TopicPartition>>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tracked(&self) -> std::sync::MutexGuard<'_, BTreeMap<TopicPartition, Tracked>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(&self) -> std::sync::MutexGuard<'_, ArchiverCounters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn watch_growth(shared: Arc<Shared>) {
    let every = Duration::from_secs(GROWTH_CHECK_SECONDS);
    while shared
        .cancel
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        if let Err(error) = shared.start_partitions().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot look for new partitions"
            );
        }
    }
    shared.tasks.close();
}

async fn reached_by(
    partition: &TopicPartition,
    mut standing: watch::Receiver<Standing>,
    tick: Tick,
) -> Result<ArchiverPosition, ArchiveError> {
    let stopped = |reason: String| ArchiveError::Stopped {
        partition: partition.clone(),
        reason,
    };
    let patience = tokio::time::sleep(Duration::from_secs(REACH_PATIENCE_SECONDS));
    tokio::pin!(patience);
    loop {
        let now = standing.borrow_and_update().clone();
        if now.complete_to.is_some_and(|complete| complete.0 >= tick.0) {
            return Ok(now.position());
        }
        let down = match now.stop {
            Some(Stop::ForGood(reason)) => return Err(stopped(reason)),
            Some(Stop::Passing(reason) | Stop::Gone(reason)) => Some(reason),
            None => None,
        };
        if down.is_none() {
            let fresh = tokio::time::Instant::now() + Duration::from_secs(REACH_PATIENCE_SECONDS);
            patience.as_mut().reset(fresh);
        }
        tokio::select! {
            changed = standing.changed() => if changed.is_err() {
                return Err(stopped("the archiver has ended".to_owned()));
            },
            () = &mut patience, if down.is_some() => return Err(stopped(down.unwrap_or_default())),
        }
    }
}
