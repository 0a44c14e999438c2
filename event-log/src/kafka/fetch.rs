//! Records out of the brokers.
//!
//! A *lane* is a consumer that all partitions share; a *cursor* is one partition on one lane, at the offset where its
//! reader goes on. Readers of the same partition at different offsets (archiver, speed layer, audit) take different
//! lanes. What is fetched waits in librdkafka, bounded per cursor, until its reader comes; a cursor that nobody reads
//! is given up after a while, so that nothing waits for nobody.
//!
//! Nothing is lost when a reader goes away in the middle of a read: what was taken out of the queue stays with the
//! cursor until a read returns it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use super::client::{ASK_WITHIN, Clients, Context};
use super::columns::Columns;
use super::ends::Ends;
use super::ffi::{Message, PartitionQueue};
use super::topics::Topics;
use crate::{LogError, Offset, RecordTime, Records, Span, TopicPartition};

/// So many readers of one partition keep their places.
const LANES: usize = 4;
/// A cursor that nobody reads for so long is given up.
const IDLE: Duration = Duration::from_secs(30);
/// There are more records, and none came for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether there are more, once the wait is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a lane waits for events in one go.
const POLL: Duration = Duration::from_millis(100);

/// All lanes and cursors.
#[derive(Debug)]
pub(super) struct Fetcher {
    clients: Arc<Clients>,
    topics: Arc<Topics>,
    ends: Arc<Ends>,
    lanes: [OnceLock<Arc<Lane>>; LANES],
    cursors: Mutex<HashMap<TopicPartition, [Arc<tokio::sync::Mutex<Cursor>>; LANES]>>,
}

/// A consumer, and the partitions that it is assigned.
struct Lane {
    consumer: Arc<BaseConsumer<Context>>,
    assigned: Mutex<HashSet<(String, i32)>>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lane").finish_non_exhaustive()
    }
}

/// The place of one reader in one partition.
#[derive(Default)]
struct Cursor {
    open: Option<Open>,
    used: Option<Instant>,
}

struct Open {
    /// Where the records in `columns` were asked for.
    from: i64,
    /// Where the partition goes on behind them.
    next: i64,
    columns: Columns,
    /// When something was taken out of the queue last.
    taken: Instant,
    /// The largest timestamp of what was returned.
    newest_ms: i64,
    /// Taken out of the queue, but not in `columns` yet.
    waiting: VecDeque<Message>,
    /// What came instead of records.
    failed: Option<(RDKafkaErrorCode, String)>,
    queue: PartitionQueue<Context>,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Cursor")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    /// On the current runtime, until the last handle is dropped.
    pub(super) fn start(clients: Arc<Clients>, topics: Arc<Topics>, ends: Arc<Ends>) -> Arc<Self> {
        let fetcher = Arc::new(Self {
            clients,
            topics,
            ends,
            lanes: Default::default(),
            cursors: Mutex::default(),
        });
        tokio::spawn(give_up_idle(Arc::downgrade(&fetcher)));
        fetcher
    }

    /// See [`crate::EventLog::read`].
    pub(super) async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Records, LogError> {
        let began = Instant::now();
        let mut look_at = began + wait;
        self.topics.resolve(partition).await?;
        let (lane, mut cursor) = self.cursor(partition, from.0.cast_signed()).await;
        cursor.used = Some(began);
        if cursor
            .open
            .as_ref()
            .is_none_or(|open| open.from != from.0.cast_signed())
        {
            cursor.open = None;
            // What it holds before it reads: outside of that there is nothing to wait for.
            let span = self.ends.now(partition).await?;
            self.within(partition, from, span, began).await?;
            cursor.open = Some(self.open(lane, partition, from.0.cast_signed()).await?);
        }
        loop {
            let open = cursor
                .open
                .as_mut()
                .expect("it was opened above, and what closes it returns");
            open.take(max_bytes);
            if !open.columns.is_empty() || open.next > open.from {
                // Only now, behind what was taken: librdkafka would read on in another life of the topic.
                self.topics.lives(partition, open.taken).await?;
                return Ok(self.finish(partition, cursor.open.as_mut().expect("it is open")));
            }
            if let Some(failure) = open.failed.take() {
                cursor.open = None;
                return Err(self.explain(partition, from, failure).await);
            }
            let arrived = Arc::clone(open.queue.arrived());
            if timeout_at(look_at, arrived.notified()).await.is_ok() {
                continue;
            }
            let span = self.ends.since(partition, began).await?;
            let looked = Instant::now();
            if span.end == from {
                self.topics.lives(partition, began).await?;
                return Ok(nothing(from, span, open.newest_ms));
            }
            if let Err(outside) = self.within(partition, from, span, began).await {
                cursor.open = None;
                return Err(outside);
            }
            if looked.duration_since(began) > PATIENCE + wait {
                cursor.open = None;
                let reason = format!(
                    "nothing came for {PATIENCE:?}, though the partition ends at {}",
                    span.end
                );
                return Err(self.clients.failed(reading(partition, from), &reason));
            }
            look_at = looked + LOOK_EVERY;
        }
    }

    /// Refuses an offset that `span` does not hold, naming both ends.
    async fn within(
        &self,
        partition: &TopicPartition,
        from: Offset,
        span: Span,
        since: Instant,
    ) -> Result<(), LogError> {
        if (span.earliest..=span.end).contains(&from) {
            return Ok(());
        }
        // The offsets are those of the name: they say nothing if it has another life now.
        self.topics.lives(partition, since).await?;
        Err(LogError::OutOfRange {
            partition: partition.clone(),
            asked: from,
            span,
        })
    }

    /// The cursor that stands at `from`, or one that is free to go there.
    async fn cursor(&self, partition: &TopicPartition, from: i64) -> (usize, OwnedMutexGuard<Cursor>) {
        let cursors = {
            let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            cursors.entry(partition.clone()).or_default().clone()
        };
        let mut best: Option<(usize, OwnedMutexGuard<Cursor>)> = None;
        for (lane, cursor) in cursors.iter().enumerate() {
            let Ok(cursor) = Arc::clone(cursor).try_lock_owned() else {
                continue;
            };
            if cursor.open.as_ref().is_some_and(|open| open.from == from) {
                return (lane, cursor);
            }
            let worth = |cursor: &Cursor| cursor.open.as_ref().and(cursor.used);
            if best.as_ref().is_none_or(|(_, best)| worth(&cursor) < worth(best)) {
                best = Some((lane, cursor));
            }
        }
        match best {
            Some(best) => best,
            None => (LANES - 1, Arc::clone(&cursors[LANES - 1]).lock_owned().await),
        }
    }

    async fn open(&self, lane: usize, partition: &TopicPartition, from: i64) -> Result<Open, LogError> {
        let attempt = reading(partition, Offset(from.cast_unsigned()));
        let lane = self.lane(lane)?;
        let (topic, index) = (partition.topic.clone(), partition.partition.0.cast_signed());
        let opened = tokio::task::spawn_blocking(move || lane.assign(&topic, index, from)).await;
        let queue = match opened {
            Ok(Ok(queue)) => queue,
            Ok(Err(reason)) => return Err(self.clients.failed(attempt, &reason)),
            Err(panic) => return Err(self.clients.failed(attempt, &panic)),
        };
        Ok(Open {
            from,
            next: from,
            columns: Columns::default(),
            taken: Instant::now(),
            newest_ms: i64::MIN,
            waiting: VecDeque::new(),
            failed: None,
            queue,
        })
    }

    fn lane(&self, index: usize) -> Result<Arc<Lane>, LogError> {
        if let Some(lane) = self.lanes[index].get() {
            return Ok(Arc::clone(lane));
        }
        let lane = Lane::start(Arc::new(self.clients.consumer()?));
        let lane = lane.map_err(|cause| self.clients.failed("starting a thread for a consumer", &cause))?;
        Ok(Arc::clone(self.lanes[index].get_or_init(|| lane)))
    }

    /// What was taken, with what the partition is known to hold.
    fn finish(&self, partition: &TopicPartition, open: &mut Open) -> Records {
        let following = Columns::following(&open.columns);
        let columns = std::mem::replace(&mut open.columns, following);
        open.newest_ms = open.newest_ms.max(columns.max_timestamp_ms().unwrap_or(i64::MIN));
        let asked = open.from.cast_unsigned();
        let next = Offset(open.next.cast_unsigned());
        open.from = open.next;
        let last = self.ends.last(partition);
        let end = last.map_or(next, |last| last.end.max(next));
        // The running maximum holds only for what was returned; a time that was said before holds for ever.
        let read_to = if end == next { open.newest_ms } else { i64::MIN };
        let said = last.map_or(i64::MIN, |last| last.complete_to.0);
        columns.finish(
            next,
            Span {
                earliest: last.map_or(Offset(asked), |last| last.earliest.min(Offset(asked))),
                end,
                complete_to: RecordTime(said.max(read_to)),
            },
        )
    }

    /// What an error means to who reads.
    async fn explain(
        &self,
        partition: &TopicPartition,
        from: Offset,
        (code, reason): (RDKafkaErrorCode, String),
    ) -> LogError {
        let since = Instant::now();
        if let Err(error) = self.topics.lives(partition, since).await {
            return error;
        }
        match self.ends.now(partition).await {
            Err(error) => error,
            Ok(span) => match self.within(partition, from, span, since).await {
                Err(error) => error,
                Ok(()) => self
                    .clients
                    .failed(reading(partition, from), &format!("{reason} ({code})")),
            },
        }
    }
}

impl Open {
    /// Takes records out of the queue: about `max_bytes`, or what is there.
    fn take(&mut self, max_bytes: usize) {
        loop {
            while let Some(message) = self.waiting.front() {
                match message.error() {
                    None if message.offset() < self.next => {}
                    None if !self.columns.has_room(message, max_bytes) => return,
                    None => {
                        self.columns.push(message);
                        self.next = message.offset() + 1;
                    }
                    // The offset of the end lies past what no reader sees.
                    Some((RDKafkaErrorCode::PartitionEOF, _)) => self.next = self.next.max(message.offset()),
                    Some(_) if !self.columns.is_empty() || self.next > self.from => return,
                    Some(failure) => {
                        self.failed = Some(failure);
                        self.waiting.pop_front();
                        return;
                    }
                }
                self.waiting.pop_front();
            }
            self.queue.take(&mut self.waiting);
            if self.waiting.is_empty() {
                return;
            }
            self.taken = Instant::now();
        }
    }
}

impl Lane {
    fn start(consumer: Arc<BaseConsumer<Context>>) -> std::io::Result<Arc<Self>> {
        let stop = Arc::new(AtomicBool::new(false));
        let (polled, until) = (Arc::downgrade(&consumer), Arc::clone(&stop));
        // Every partition has a queue of its own: what is left are events, which only move on when somebody asks.
        std::thread::Builder::new()
            .name("kafka-lane".to_owned())
            .spawn(move || {
                while !until.load(Ordering::Relaxed)
                    && let Some(consumer) = Weak::upgrade(&polled)
                {
                    if let Some(Err(error)) = consumer.poll(POLL) {
                        tracing::debug!(%error, "consumer");
                    }
                }
            })?;
        Ok(Arc::new(Self {
            consumer,
            assigned: Mutex::default(),
            stop,
        }))
    }

    /// Reads `partition` from `from` on. Blocks for moments.
    fn assign(&self, topic: &str, partition: i32, from: i64) -> Result<PartitionQueue<Context>, String> {
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (topic.to_owned(), partition);
        if assigned.contains(&place) {
            self.unassign(topic, partition)?;
            assigned.remove(&place);
        }
        // A partition that was added is not known to the consumer before it has asked.
        self.consumer
            .fetch_metadata(Some(topic), ASK_WITHIN)
            .map_err(|error| error.to_string())?;
        let queue = PartitionQueue::split(&self.consumer, topic, partition, Arc::new(Notify::new()))
            .ok_or_else(|| "librdkafka gave no queue".to_owned())?;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, partition, KafkaOffset::Offset(from))
            .map_err(|error| error.to_string())?;
        self.consumer
            .incremental_assign(&list)
            .map_err(|error| error.to_string())?;
        assigned.insert(place);
        Ok(queue)
    }

    fn unassign(&self, topic: &str, partition: i32) -> Result<(), String> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, partition);
        self.consumer
            .incremental_unassign(&list)
            .map_err(|error| error.to_string())
    }

    /// Reads `partition` no more. Blocks for moments.
    fn release(&self, topic: &str, partition: i32) {
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        if assigned.remove(&(topic.to_owned(), partition))
            && let Err(error) = self.unassign(topic, partition)
        {
            tracing::debug!(topic, partition, error, "could not give a partition up");
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Gives cursors up that nobody reads.
async fn give_up_idle(fetcher: Weak<Fetcher>) {
    loop {
        tokio::time::sleep(IDLE / 6).await;
        let Some(fetcher) = fetcher.upgrade() else { return };
        let all: Vec<_> = {
            let cursors = fetcher.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            cursors
                .iter()
                .map(|(partition, cursors)| (partition.clone(), cursors.clone()))
                .collect()
        };
        for (partition, cursors) in all {
            for (lane, cursor) in cursors.into_iter().enumerate() {
                let Ok(mut cursor) = cursor.try_lock_owned() else {
                    continue;
                };
                if cursor.open.is_none() || cursor.used.is_some_and(|used| used.elapsed() < IDLE) {
                    continue;
                }
                cursor.open = None;
                if let Some(lane) = fetcher.lanes[lane].get().cloned() {
                    let (topic, index) = (partition.topic.clone(), partition.partition.0.cast_signed());
                    drop(tokio::task::spawn_blocking(move || lane.release(&topic, index)).await);
                }
            }
        }
    }
}

/// Nothing more, at the end.
fn nothing(from: Offset, span: Span, newest_ms: i64) -> Records {
    let complete_to = RecordTime(span.complete_to.0.max(newest_ms));
    Columns::default().finish(from, Span { complete_to, ..span })
}

fn reading(partition: &TopicPartition, from: Offset) -> String {
    format!("reading {partition} at offset {from}")
}
