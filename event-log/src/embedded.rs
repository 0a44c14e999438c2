//! The log on this machine's disk, on `fjall`.
//!
//! An append is acknowledged when it is synced, and readers see only what is synced. One thread commits: it takes all
//! waiting appends, gives them offsets and one timestamp, stores them as *frames* (many records as columns) in one
//! batch, syncs once, shows them to readers and acknowledges. So the cost of a sync is shared by everyone who waits,
//! and a batch is on disk whole or not at all.
//!
//! Files: [`frame`] what is stored, [`store`] where, [`timeline`] when, [`commit`] the writing thread, [`producers`]
//! appends that happen once, [`read`] back to records, [`retention`] removal.

mod commit;
mod frame;
pub(crate) mod partitioner;
mod producers;
mod read;
mod retention;
mod store;
mod timeline;
mod topic;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::{
    Appended, Clock, EventLog, LogError, NewRecord, Offset, ProducerSequence, RecordTime, Records, Span, Topic,
    TopicPartition,
};
use commit::{APPEND_OVERHEAD, Pending, Queue, RECORD_OVERHEAD};
use store::{Store, TopicRecord, damaged, failed};
use timeline::{Promise, Timeline};
use topic::{PartitionState, TopicState};

/// Name of the file that one process at a time locks.
const LOCK_FILE: &str = "lock";
/// A folder that is locked is tried again for so long.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Name of the folder that `fjall` has.
const STORE_FOLDER: &str = "store";

/// How an [`EmbeddedLog`] is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// Folder of this machine; created when it is not there.
    pub folder: PathBuf,
    /// Records older than this may be removed once they are released; `None`: age removes nothing.
    pub retention_ms: Option<i64>,
    /// Each partition keeps at least this much of what is released; `None`: size removes nothing.
    pub retention_bytes: Option<u64>,
    /// The largest record (key, value and headers).
    pub record_bytes_max: usize,
    /// When more than this waits to be synced, an append is refused with [`LogError::Full`].
    pub pending_bytes_max: usize,
}

impl EmbeddedSettings {
    /// The default settings: nothing is removed, records up to 16 MiB, 64 MiB waiting.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            retention_ms: None,
            retention_bytes: None,
            record_bytes_max: 16 * 1024 * 1024,
            pending_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// A log in one folder of this machine. Dropping it (or [`EmbeddedLog::close`]) writes what is waiting.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

/// What the log and its committer share. The lock file goes last.
struct Shared {
    settings: EmbeddedSettings,
    clock: Arc<dyn Clock>,
    timeline: Timeline,
    topics: RwLock<HashMap<String, Arc<TopicState>>>,
    queue: Queue,
    store: Store,
    /// Topics are created and grow one at a time.
    declaring: Mutex<()>,
    _lock: File,
}

impl std::fmt::Debug for EmbeddedLog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EmbeddedLog")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log in `settings.folder`, or creates it. One process at a time: [`LogError::Locked`].
    pub fn open(settings: EmbeddedSettings, clock: Arc<dyn Clock>) -> Result<Arc<Self>, LogError> {
        let folder = &settings.folder;
        std::fs::create_dir_all(folder)
            .map_err(|cause| failed(format!("creating the folder {}", folder.display()), cause))?;
        let lock = lock(folder)?;
        let store = Store::open(&folder.join(STORE_FOLDER))?;
        let (topics, newest) = load_topics(&store)?;
        let last = newest.max(store.lease()?);
        let shared = Arc::new(Shared {
            timeline: Timeline::new(Arc::clone(&clock), last),
            settings,
            clock,
            topics: RwLock::new(topics),
            queue: Queue::default(),
            store,
            declaring: Mutex::default(),
            _lock: lock,
        });
        let committing = Arc::clone(&shared);
        let committer = std::thread::Builder::new()
            .name("log-committer".to_owned())
            .spawn(move || commit::run(&committing))
            .map_err(|cause| failed("starting the committer", cause))?;
        Ok(Arc::new(Self {
            shared,
            committer: Mutex::new(Some(committer)),
        }))
    }

    /// Commits what is waiting and takes no more appends. The folder is free for another process when the last handle
    /// is dropped. Blocks for as long as a commit takes; a second call does nothing.
    pub fn close(&self) {
        self.shared.queue.close();
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(committer) = committer
            && committer.join().is_err()
        {
            tracing::error!("the committer of the log panicked");
        }
    }

    /// Bytes that the log takes on disk.
    pub fn disk_bytes(&self) -> Result<u64, LogError> {
        self.shared
            .store
            .database
            .disk_space()
            .map_err(|cause| failed("weighing the log", cause))
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.close();
        // A read whose caller has gone may still run for a moment; only after it is the folder free.
        for _ in 0..5_000 {
            if Arc::strong_count(&self.shared) == 1 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn ensure_topic(&self, name: &str, partitions: u32) -> Result<Topic, LogError> {
        check_topic_name(name, partitions)?;
        let shared = Arc::clone(&self.shared);
        let name = name.to_owned();
        blocking(move || shared.ensure_topic(&name, partitions)).await
    }

    async fn topic(&self, name: &str) -> Result<Topic, LogError> {
        Ok(self.shared.topic(name)?.describe())
    }

    async fn span(&self, partition: &TopicPartition) -> Result<Span, LogError> {
        let (_, state) = self.shared.resolve(partition)?;
        let complete_to = self.shared.complete_to().await;
        Ok(span_of(&state, complete_to))
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Records, LogError> {
        let deadline = Instant::now() + wait;
        let (topic, state) = self.shared.resolve(partition)?;
        let mut end = state.end.subscribe();
        loop {
            let complete_to = self.shared.complete_to().await;
            end.borrow_and_update();
            let span = span_of(&state, complete_to);
            if from < span.earliest || from > span.end {
                return Err(LogError::OutOfRange {
                    partition: partition.clone(),
                    asked: from,
                    span,
                });
            }
            if from < span.end {
                return self.read_some(&topic, &state, partition, from, max_bytes, span).await;
            }
            if timeout_at(deadline, end.changed()).await.is_err() {
                let complete_to = self.shared.complete_to().await;
                let span = span_of(&state, complete_to);
                if from == span.end {
                    return Ok(read::Columns::new(from.0).finish(span));
                }
            }
        }
    }

    async fn append(
        &self,
        topic: &str,
        records: Vec<NewRecord>,
        sequence: Option<ProducerSequence>,
    ) -> Result<Appended, LogError> {
        let topic = self.shared.topic(topic)?;
        if records.is_empty() && sequence.is_none() {
            return Ok(Appended::Stored);
        }
        let producer_bytes = sequence.as_ref().map_or(0, |sequence| sequence.producer.len());
        if producer_bytes > producers::NAME_BYTES_MAX {
            return Err(LogError::TooLarge {
                bytes: producer_bytes,
                max: producers::NAME_BYTES_MAX,
            });
        }
        let max = self.shared.settings.record_bytes_max;
        let mut bytes = APPEND_OVERHEAD + producer_bytes + records.len() * RECORD_OVERHEAD;
        for record in &records {
            let record_bytes = frame::record_bytes(record);
            if record_bytes > max {
                return Err(LogError::TooLarge {
                    bytes: record_bytes,
                    max,
                });
            }
            bytes += record_bytes;
        }
        let (done, outcome) = oneshot::channel();
        let partitions = topic.assign(&records);
        let name = topic.name.clone();
        let pending = Pending {
            topic,
            records,
            partitions,
            sequence,
            bytes,
            done,
        };
        self.shared
            .queue
            .push(pending, self.shared.settings.pending_bytes_max)?;
        outcome.await.unwrap_or_else(|_| {
            let attempt = format!("appending to \"{name}\"");
            Err(failed(attempt, "the log ended before it acknowledged"))
        })
    }

    async fn last_sequence(&self, producer: &str) -> Result<Option<u64>, LogError> {
        let shared = Arc::clone(&self.shared);
        let producer = producer.to_owned();
        blocking(move || producers::last_sequence(&shared.store, &producer, shared.clock.now_ms())).await
    }

    async fn release(&self, partition: &TopicPartition, floor: Offset) -> Result<(), LogError> {
        let (topic, state) = self.shared.resolve(partition)?;
        state.extent().floor = Some(floor.0);
        if let Some(trimmed) = self.shared.queue.ask_for_trim(topic, state) {
            _ = trimmed.await;
        }
        Ok(())
    }
}

impl EmbeddedLog {
    async fn read_some(
        &self,
        topic: &Arc<TopicState>,
        state: &Arc<PartitionState>,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        span: Span,
    ) -> Result<Records, LogError> {
        let (shared, topic, index) = (Arc::clone(&self.shared), Arc::clone(topic), state.index);
        let columns = blocking(move || {
            let range = read::Range {
                topic: &topic.name,
                partition: index,
                from: from.0,
                until: span.end.0,
                max_bytes,
            };
            let columns = read::read(&topic.frames, &range);
            drop(shared);
            columns
        })
        .await?;
        if let Some(columns) = columns {
            return Ok(columns.finish(span));
        }
        let now = Span {
            earliest: Offset(state.extent().earliest),
            ..span
        };
        if from < now.earliest {
            return Err(LogError::OutOfRange {
                partition: partition.clone(),
                asked: from,
                span: now,
            });
        }
        let reason = format!(
            "its record is missing although the partition holds {}..{}",
            now.earliest, now.end
        );
        Err(damaged(&partition.topic, index, from.0, reason))
    }
}

impl Shared {
    fn topic(&self, name: &str) -> Result<Arc<TopicState>, LogError> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics
            .get(name)
            .cloned()
            .ok_or_else(|| LogError::UnknownTopic(name.to_owned()))
    }

    fn topics(&self) -> Vec<Arc<TopicState>> {
        self.topics
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    fn resolve(&self, partition: &TopicPartition) -> Result<(Arc<TopicState>, Arc<PartitionState>), LogError> {
        let topic = self.topic(&partition.topic)?;
        let mismatch = |reason| {
            Err(LogError::TopicMismatch {
                topic: partition.topic.clone(),
                reason,
            })
        };
        if topic.incarnation != partition.incarnation {
            return mismatch(format!(
                "incarnation {} was asked for, it lives as {} now",
                partition.incarnation, topic.incarnation
            ));
        }
        match topic.partition(partition.partition.0) {
            Some(state) => Ok((topic, state)),
            None => mismatch(format!(
                "partition {} was asked for, it has {}",
                partition.partition,
                topic.len()
            )),
        }
    }

    fn ensure_topic(&self, name: &str, partitions: u32) -> Result<Topic, LogError> {
        let _declaring = self.declaring.lock().unwrap_or_else(PoisonError::into_inner);
        let existing = self.topic(name).ok();
        if let Some(topic) = &existing
            && topic.len() >= partitions
        {
            return Ok(topic.describe());
        }
        let topic = match existing {
            Some(topic) => topic,
            None => {
                let incarnation = Uuid::new_v4();
                Arc::new(TopicState::new(
                    name.to_owned(),
                    incarnation,
                    self.store.frames(incarnation)?,
                ))
            }
        };
        let incarnation = topic.incarnation;
        self.store.put_topic(
            name,
            &TopicRecord {
                incarnation,
                partitions,
            },
        )?;
        for index in topic.len()..partitions {
            topic.add_partition(self.store.find(name, incarnation, &topic.frames, index)?);
        }
        let described = topic.describe();
        self.topics
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), topic);
        Ok(described)
    }

    /// Every append from now on gets a timestamp of at least this. Call it before looking at an end.
    async fn complete_to(&self) -> RecordTime {
        if let Promise::Given(time) = self.timeline.promise() {
            return RecordTime(time);
        }
        if let Some(leased) = self.queue.ask_for_lease() {
            _ = leased.await;
        }
        match self.timeline.promise() {
            Promise::Given(time) | Promise::Leased(time) => RecordTime(time),
        }
    }
}

fn span_of(state: &PartitionState, complete_to: RecordTime) -> Span {
    let earliest = Offset(state.extent().earliest);
    Span {
        earliest,
        end: Offset(state.end()),
        complete_to,
    }
}

fn lock(folder: &Path) -> Result<File, LogError> {
    let path = folder.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|cause| failed(format!("opening {}", path.display()), cause))?;
    let since = std::time::Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A process that is just ending, or a child of it that was forked a moment ago, may hold it still.
            Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(LogError::Locked(format!(
                    "the log in {} is open in another foldline: stop that one, or let it do the work",
                    folder.display()
                )));
            }
            Err(TryLockError::Error(cause)) => return Err(failed(format!("locking {}", path.display()), cause)),
        }
    }
}

/// The topics, and the newest timestamp in any of them.
fn load_topics(store: &Store) -> Result<(HashMap<String, Arc<TopicState>>, i64), LogError> {
    let mut topics = HashMap::new();
    let mut newest = 0;
    for (name, record) in store.topics()? {
        let topic = TopicState::new(name.clone(), record.incarnation, store.frames(record.incarnation)?);
        for index in 0..record.partitions {
            let found = store.find(&name, record.incarnation, &topic.frames, index)?;
            newest = newest.max(found.timestamp_ms);
            topic.add_partition(found);
        }
        topics.insert(name, Arc::new(topic));
    }
    Ok((topics, newest))
}

/// Kafka's rules, so that a pipeline can move there.
fn check_topic_name(name: &str, partitions: u32) -> Result<(), LogError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let reason = if name.is_empty() || name.len() > 249 || name == "." || name == ".." || !name.bytes().all(legal) {
        "a topic's name has 1 to 249 letters, digits, dots, underscores and hyphens"
    } else if !(1..=10_000).contains(&partitions) {
        "a topic has 1 to 10000 partitions"
    } else {
        return Ok(());
    };
    Err(LogError::TopicMismatch {
        topic: name.to_owned(),
        reason: reason.to_owned(),
    })
}

/// Runs what may wait for the disk where it blocks nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(cause) => Err(failed("running storage work", cause)),
    }
}
