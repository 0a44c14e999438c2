//! Appends, each whole or not at all.
//!
//! One task takes everything that waits, stores it in one transaction, waits until readers can see it, and
//! acknowledges. So the cost of a transaction (five to ten milliseconds) is shared by everyone who waits for it, and
//! the numbers of producers lie in the same transaction as their records.
//!
//! What an error says of the records: before the commit was sent, they are certainly not stored (the brokers abort
//! what is left open, at the latest when the next transaction begins). Behind that, they may be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::{mpsc, oneshot};

use super::client::{ASK_WITHIN, Clients, Context, KafkaSettings};
use super::ends::Ends;
use super::producers::{self, Producers};
use super::topics::Topics;
use crate::embedded::partitioner::partition_of;
use crate::{Appended, LogError, NewRecord, Offset, ProducerSequence, Topic, TopicPartition};

/// About so much goes into one transaction.
const GROUP_BYTES: usize = 16 << 20;
/// Weight of a record beside its bytes.
const RECORD_OVERHEAD: usize = 128;
/// How long a commit is tried before its outcome is left open.
const COMMIT_WITHIN: Duration = Duration::from_secs(60);
const TRY_WITHIN: Duration = Duration::from_secs(5);
/// How long readers may take to see what was committed: first before the next transaction begins, then behind it.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
const SEEN_AT_LAST: Duration = Duration::from_secs(30);

/// Takes appends.
#[derive(Debug)]
pub(super) struct Appender {
    clients: Arc<Clients>,
    topics: Arc<Topics>,
    queue: mpsc::UnboundedSender<Order>,
    waiting_bytes: Arc<AtomicUsize>,
    unsettled: Arc<AtomicBool>,
    /// Where the records without a key of the next append go.
    turn: AtomicU32,
}

/// What the committer is asked for.
enum Order {
    Append(Pending),
    /// To end what an earlier process left open under our name.
    Settle(oneshot::Sender<Result<(), String>>),
}

/// An append that waits.
struct Pending {
    topic: Topic,
    records: Vec<(u32, NewRecord)>,
    sequence: Option<ProducerSequence>,
    weight: Weight,
    done: oneshot::Sender<Result<Appended, LogError>>,
}

/// Bytes that wait; given back when it goes.
struct Weight {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Appender {
    pub(super) fn start(
        clients: Arc<Clients>,
        topics: Arc<Topics>,
        ends: Arc<Ends>,
        producers: Arc<Producers>,
    ) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let unsettled = Arc::new(AtomicBool::new(true));
        let committer = Committer {
            clients: Arc::clone(&clients),
            ends,
            producers,
            session: None,
            unsettled: Arc::clone(&unsettled),
        };
        tokio::spawn(committer.run(waiting));
        Self {
            clients,
            topics,
            queue,
            waiting_bytes: Arc::default(),
            unsettled,
            turn: AtomicU32::new(0),
        }
    }

    pub(super) async fn append(
        &self,
        name: &str,
        records: Vec<NewRecord>,
        sequence: Option<ProducerSequence>,
    ) -> Result<Appended, LogError> {
        let topic = self.topics.recent(name).await?;
        if records.is_empty() && sequence.is_none() {
            return Ok(Appended::Stored);
        }
        if let Some(sequence) = &sequence {
            Producers::check(sequence)?;
        }
        let max = self.topics.record_bytes_max(name);
        let mut bytes = RECORD_OVERHEAD;
        for record in &records {
            let record_bytes = weight_of(record);
            if record_bytes > max {
                return Err(LogError::TooLarge {
                    bytes: record_bytes,
                    max,
                });
            }
            bytes += record_bytes + RECORD_OVERHEAD;
        }
        let weight = self.weigh(bytes)?;
        let keyless = self.turn.fetch_add(1, Ordering::Relaxed) % topic.partitions;
        let records = records.into_iter().map(|record| {
            let place = record
                .key
                .as_ref()
                .map_or(keyless, |key| partition_of(key, topic.partitions));
            (place, record)
        });
        let (done, outcome) = oneshot::channel();
        let pending = Pending {
            records: records.collect(),
            topic,
            sequence,
            weight,
            done,
        };
        if self.queue.send(Order::Append(pending)).is_err() {
            return Err(LogError::Closed("its task has ended".into()));
        }
        outcome.await.unwrap_or_else(|_| {
            let attempt = format!("appending to \"{name}\"");
            Err(self.clients.failed(attempt, &"the log ended before it acknowledged"))
        })
    }

    /// Ends what an earlier process or a failed commit left open under our name: until then nobody sees what it stored.
    pub(super) async fn settle(&self) -> Result<(), LogError> {
        if !self.unsettled.load(Ordering::Acquire) {
            return Ok(());
        }
        let (done, settled) = oneshot::channel();
        // The committer ends with this.
        let _ = self.queue.send(Order::Settle(done));
        let settled = settled.await.unwrap_or_else(|_| Err("the log ended".to_owned()));
        settled.map_err(|reason| self.clients.failed("ending what an earlier process left open", &reason))
    }

    fn weigh(&self, bytes: usize) -> Result<Weight, LogError> {
        let max = self.clients.settings().pending_bytes_max;
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let weight = Weight {
            bytes,
            all: Arc::clone(&self.waiting_bytes),
        };
        // A large append is taken when nothing else waits.
        if before > 0 && before + bytes > max {
            return Err(LogError::Full(format!(
                "{before} bytes wait for Kafka at {}, the bound is {max}",
                self.clients.settings().brokers
            )));
        }
        Ok(weight)
    }
}

fn weight_of(record: &NewRecord) -> usize {
    let headers = record.headers.iter().map(|(name, value)| name.len() + value.len());
    record.key.as_ref().map_or(0, Bytes::len) + record.value.len() + headers.sum::<usize>()
}

/// Stores what waits.
struct Committer {
    clients: Arc<Clients>,
    ends: Arc<Ends>,
    producers: Arc<Producers>,
    /// A producer that can begin a transaction.
    session: Option<Session>,
    /// A transaction under our name may be open that no session here goes on with.
    unsettled: Arc<AtomicBool>,
}

/// What became of a transaction.
enum Outcome {
    /// It is stored; the last offset in every partition.
    Stored(BTreeMap<(String, i32), i64>),
    /// Certainly nothing is.
    Not(Refusal),
    /// Nobody knows.
    Unknown(String),
}

/// Why nothing was stored.
#[derive(Debug, Clone)]
enum Refusal {
    TooLarge,
    NoTopic,
    Other(String),
}

impl Committer {
    async fn run(mut self, mut waiting: mpsc::UnboundedReceiver<Order>) {
        while let Some(first) = waiting.recv().await {
            let (mut bytes, mut group, mut settle) = (0, Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Append(pending) => {
                        bytes += pending.weight.bytes;
                        group.push(pending);
                    }
                    Order::Settle(done) => settle.push(done),
                }
                next = if bytes < GROUP_BYTES {
                    waiting.try_recv().ok()
                } else {
                    None
                };
            }
            for done in settle {
                let opened = self.open().await.map(|session| self.session = Some(session));
                drop(done.send(opened));
            }
            if !group.is_empty() {
                self.store(group).await;
            }
        }
    }

    /// Stores `group`, and says so to everyone.
    async fn store(&mut self, group: Vec<Pending>) {
        let mut retry = Vec::new();
        let several = group.len() > 1;
        let Some((taken, later, outcome)) = self.take(group).await else {
            return;
        };
        match outcome {
            Outcome::Stored(ends) => self.acknowledge(taken, ends).await,
            // One append may spoil the transaction for all: each for itself, then.
            Outcome::Not(Refusal::TooLarge | Refusal::NoTopic) if several => retry = taken,
            Outcome::Not(refusal) => {
                for pending in taken {
                    let error = self.refused(&pending, &refusal);
                    drop(pending.done.send(Err(error)));
                }
            }
            Outcome::Unknown(reason) => {
                for pending in taken {
                    let attempt = format!("committing an append to \"{}\"", pending.topic.name);
                    drop(pending.done.send(Err(self.clients.failed(attempt, &reason))));
                }
            }
        }
        for pending in retry {
            Box::pin(self.store(vec![pending])).await;
        }
        if !later.is_empty() {
            Box::pin(self.store(later)).await;
        }
    }

    /// Runs the transaction of those of `group` that are new: these, those that must wait for its outcome because
    /// their producer is among them, and the outcome. `None`: everybody has an answer.
    async fn take(&mut self, group: Vec<Pending>) -> Option<(Vec<Pending>, Vec<Pending>, Outcome)> {
        let mut progress: Vec<(String, Option<u64>)> = Vec::new();
        let mut new = group;
        let mut later = Vec::new();
        let session = match self.open().await {
            Ok(session) => session,
            Err(reason) => return Some((new, later, Outcome::Not(Refusal::Other(reason)))),
        };
        if new.iter().any(|pending| pending.sequence.is_some()) {
            let caught_up = self.producers.caught_up().await;
            let mut kept = Vec::new();
            for pending in new {
                let Some(sequence) = &pending.sequence else {
                    kept.push(pending);
                    continue;
                };
                let caught_up = match &caught_up {
                    Ok(state) => state,
                    Err(error) => {
                        let refused = self.refused(&pending, &Refusal::Other(crate::with_causes(error)));
                        drop(pending.done.send(Err(refused)));
                        continue;
                    }
                };
                let name = producers::name_of(pending.topic.incarnation, &sequence.producer);
                if !caught_up.is_new(pending.topic.incarnation, sequence) {
                    drop(pending.done.send(Ok(Appended::Already)));
                } else if progress.iter().any(|(noted, _)| *noted == name) {
                    later.push(pending);
                } else {
                    progress.push((name, Some(sequence.sequence)));
                    kept.push(pending);
                }
            }
            new = kept;
            if new.is_empty() {
                drop(caught_up);
                self.session = Some(session);
                return None;
            }
            if let Ok(mut state) = caught_up {
                let forgotten = state.tombstones(&progress);
                progress.extend(forgotten.into_iter().map(|producer| (producer, None)));
            }
        }
        let outgoing: Vec<Outgoing> = new
            .iter()
            .flat_map(outgoing)
            .chain(progress.iter().map(|number| noted(self.clients.settings(), number)))
            .collect();
        let outcome = self.transact(session, outgoing).await;
        Some((new, later, outcome))
    }

    /// A session: the last one, or a new one where that could not be used again. A new one settles what the one before
    /// left open: only then do readers see the numbers of a transaction whose outcome was not known.
    async fn open(&mut self) -> Result<Session, String> {
        if let Some(session) = self.session.take() {
            return Ok(session);
        }
        let clients = Arc::clone(&self.clients);
        let opened = tokio::task::spawn_blocking(move || Session::open(&clients)).await;
        let opened = opened.map_err(|panic| panic.to_string())?;
        let session = opened.map_err(|error| crate::with_causes(&error))?;
        self.unsettled.store(false, Ordering::Release);
        Ok(session)
    }

    /// One transaction, on a thread that may wait.
    async fn transact(&mut self, session: Session, outgoing: Vec<Outgoing>) -> Outcome {
        let ran = tokio::task::spawn_blocking(move || {
            let (usable, outcome) = session.transact(&outgoing);
            (usable.then_some(session), outcome)
        });
        let (session, outcome) = ran
            .await
            .unwrap_or_else(|panic| (None, Outcome::Unknown(panic.to_string())));
        self.unsettled.store(session.is_none(), Ordering::Release);
        self.session = session;
        outcome
    }

    /// Says that `stored` is, once readers can see it.
    async fn acknowledge(&self, stored: Vec<Pending>, ends: BTreeMap<(String, i32), i64>) {
        let mut places: Vec<(TopicPartition, Offset)> = Vec::new();
        for ((name, partition), last) in ends {
            let topic = stored
                .iter()
                .map(|pending| &pending.topic)
                .find(|topic| topic.name == name);
            if let Some(topic) = topic {
                let end = Offset(last.cast_unsigned() + 1);
                places.push((topic.partition(partition.cast_unsigned()), end));
            }
        }
        let seen = seen(&self.ends, &places, SEEN_WITHIN).await;
        let acknowledge = |stored: Vec<Pending>| {
            for pending in stored {
                drop(pending.done.send(Ok(Appended::Stored)));
            }
        };
        if seen {
            return acknowledge(stored);
        }
        let ends = Arc::clone(&self.ends);
        tokio::spawn(async move {
            if !self::seen(&ends, &places, SEEN_AT_LAST).await {
                tracing::warn!("records are stored, but hidden behind an open transaction of another producer");
            }
            acknowledge(stored);
        });
    }

    fn refused(&self, pending: &Pending, refusal: &Refusal) -> LogError {
        match refusal {
            Refusal::TooLarge => {
                let bytes = pending
                    .records
                    .iter()
                    .map(|(_, record)| weight_of(record))
                    .max()
                    .unwrap_or(0);
                // The brokers do not say what they take.
                LogError::TooLarge {
                    bytes,
                    max: bytes.saturating_sub(1),
                }
            }
            Refusal::NoTopic => LogError::UnknownTopic(pending.topic.name.clone()),
            Refusal::Other(reason) => LogError::Full(format!(
                "Kafka at {} takes no records: {reason}",
                self.clients.settings().brokers
            )),
        }
    }
}

async fn seen(ends: &Ends, places: &[(TopicPartition, Offset)], within: Duration) -> bool {
    let deadline = Instant::now() + within;
    for (partition, end) in places {
        let left = deadline.saturating_duration_since(Instant::now());
        if !ends.await_end(partition, *end, left).await {
            return false;
        }
    }
    true
}

/// A record on its way.
struct Outgoing {
    topic: String,
    partition: i32,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Bytes)>,
}

fn outgoing(pending: &Pending) -> impl Iterator<Item = Outgoing> {
    pending.records.iter().map(|(partition, record)| Outgoing {
        topic: pending.topic.name.clone(),
        partition: partition.cast_signed(),
        key: record.key.clone(),
        value: Some(record.value.clone()),
        headers: record.headers.clone(),
    })
}

fn noted(settings: &KafkaSettings, (producer, sequence): &(String, Option<u64>)) -> Outgoing {
    Outgoing {
        topic: settings.progress_topic.clone(),
        partition: 0,
        key: Some(Bytes::copy_from_slice(producer.as_bytes())),
        value: sequence.map(|sequence| Bytes::from(sequence.to_string())),
        headers: Vec::new(),
    }
}

/// A producer of transactions. Blocks.
struct Session {
    producer: ThreadedProducer<Delivery>,
    delivered: Arc<Mutex<Delivered>>,
}

/// What the brokers said of records.
#[derive(Debug, Default)]
struct Delivered {
    last: BTreeMap<(String, i32), i64>,
    failed: Option<RDKafkaErrorCode>,
}

struct Delivery {
    context: Context,
    delivered: Arc<Mutex<Delivered>>,
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.context.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                let place = (message.topic().to_owned(), message.partition());
                let last = delivered.last.entry(place).or_insert(-1);
                *last = (*last).max(message.offset());
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                // A record that is purged says nothing of why.
                let purged = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
                if delivered.failed.is_none() && !purged {
                    delivered.failed = Some(code);
                }
            }
        }
    }
}

impl Session {
    /// Ends what an earlier process left open under our name, and shuts it out.
    fn open(clients: &Clients) -> Result<Self, LogError> {
        let delivered = Arc::<Mutex<Delivered>>::default();
        let context = Delivery {
            context: clients.context(),
            delivered: Arc::clone(&delivered),
        };
        let producer = ThreadedProducer::from_config_and_context(&clients.producer(), context);
        let producer = producer.map_err(|cause| clients.failed("making a producer", &cause))?;
        producer
            .init_transactions(TRY_WITHIN)
            .map_err(|cause| clients.failed("beginning transactions", &cause))?;
        Ok(Self { producer, delivered })
    }

    /// Stores all of `outgoing` or nothing. Says also whether another transaction can follow.
    fn transact(&self, outgoing: &[Outgoing]) -> (bool, Outcome) {
        *self.delivered() = Delivered::default();
        if let Err(error) = self.producer.begin_transaction() {
            return (false, Outcome::Not(Refusal::Other(error.to_string())));
        }
        for record in outgoing {
            if let Err(refusal) = self.send(record) {
                return self.abort(refusal);
            }
        }
        self.commit()
    }

    fn send(&self, record: &Outgoing) -> Result<(), Refusal> {
        let deadline = Instant::now() + COMMIT_WITHIN;
        let mut asked = false;
        loop {
            let mut outgoing: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&record.topic).partition(record.partition);
            if let Some(key) = &record.key {
                outgoing = outgoing.key(key);
            }
            if let Some(value) = &record.value {
                outgoing = outgoing.payload(value);
            }
            if !record.headers.is_empty() {
                let headers = OwnedHeaders::new_with_capacity(record.headers.len());
                let headers = record.headers.iter().fold(headers, |headers, (name, value)| {
                    headers.insert(Header {
                        key: name,
                        value: Some(&value[..]),
                    })
                });
                outgoing = outgoing.headers(headers);
            }
            let Err((error, _)) = self.producer.send(outgoing) else {
                return Ok(());
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // A partition that was added since the producer looked.
                Some(RDKafkaErrorCode::UnknownPartition) if !asked => {
                    asked = true;
                    drop(self.producer.client().fetch_metadata(Some(&record.topic), ASK_WITHIN));
                }
                Some(code) => return Err(refusal(code)),
                None => return Err(Refusal::Other(error.to_string())),
            }
        }
    }

    fn commit(&self) -> (bool, Outcome) {
        let deadline = Instant::now() + COMMIT_WITHIN;
        // A commit flushes, and `flush` of the crate looks every 100 ms.
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(500));
        }
        loop {
            let error = match self.producer.commit_transaction(TRY_WITHIN) {
                Ok(()) => return (true, Outcome::Stored(std::mem::take(&mut self.delivered().last))),
                Err(error) => error,
            };
            let later = Instant::now() >= deadline;
            match error {
                KafkaError::Transaction(error) if error.txn_requires_abort() => {
                    let failed = self.delivered().failed;
                    let (usable, aborted) = self.abort(refusal(failed.unwrap_or_else(|| error.code())));
                    // Where every record was taken the commit may have been sent, and its answer lost.
                    let not_sent = failed.is_some() || !matches!(aborted, Outcome::Not(Refusal::Other(_)));
                    return match not_sent {
                        true => (usable, aborted),
                        false => (usable, Outcome::Unknown(error.string())),
                    };
                }
                KafkaError::Transaction(error) if error.is_retriable() && !later => {}
                // Records are still on their way: the commit was not sent.
                KafkaError::Flush(_) if !later => {}
                KafkaError::Flush(code) => return self.abort(refusal(code)),
                error => return (false, Outcome::Unknown(error.to_string())),
            }
        }
    }

    /// Nothing shall be stored. Where the brokers do not hear that, they hear it when the next session opens.
    fn abort(&self, refusal: Refusal) -> (bool, Outcome) {
        let aborted = self.producer.abort_transaction(TRY_WITHIN).is_ok();
        // A record that was refused leaves a hole in the producer's numbers, at which its next transaction may fail, too.
        let usable = aborted && self.delivered().failed.is_none();
        (usable, Outcome::Not(refusal))
    }

    fn delivered(&self) -> std::sync::MutexGuard<'_, Delivered> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(code: RDKafkaErrorCode) -> Refusal {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => Refusal::TooLarge,
        RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition => Refusal::NoTopic,
        code => Refusal::Other(code.to_string()),
    }
}
