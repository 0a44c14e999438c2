//! Another log's records to a topic, each to the partition, the offset and the timestamp that it has there.
//!
//! A new topic begins at offset 0. Where the other log begins later, empty records stand for what it no longer has, and
//! are deleted again as soon as they have moved the offsets on. While records are carried the topic lets its producers set
//! timestamps, and keeps everything; from then on it is as any topic that foldline makes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, StructArray};
use rdkafka::admin::{AlterConfig, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::KafkaLog;
use super::client::{Clients, Context};
use crate::{EventLog, LogError, Offset, Records, Topic, TopicPartition};

/// Bytes read from the other log at once.
const READ_BYTES: usize = 4 << 20;
/// Empty records sent between two looks at what became of them.
const EMPTY_AT_ONCE: u64 = 100_000;
/// A record that is there is read within this.
const COMPARE_WAIT: Duration = Duration::from_secs(10);
/// Nothing delivered for this long is a failure.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// While it is carried to, a topic takes the timestamps of the other log, and keeps records of any age.
const CARRYING: [(&str, &str); 3] = [
    ("message.timestamp.type", "CreateTime"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("retention.ms", "-1"),
];

impl KafkaLog {
    /// Creates the topic `name`, to be carried to. One that is there stays as it is.
    pub async fn create_for_carrying(&self, name: &str, partitions: u32) -> Result<Topic, LogError> {
        self.topics.create_with(name, partitions, &CARRYING).await
    }

    /// Makes `topic`, which [`KafkaLog::create_for_carrying`] made, fit to be carried to, also if it was
    /// [`KafkaLog::carried`].
    pub async fn carrying(&self, topic: &Topic) -> Result<(), LogError> {
        self.alter(topic, &CARRYING).await
    }

    /// Carries the records of `from`, a partition of `other`, to the partition of that number of `to`, from where that one
    /// ends; its offsets are those of `from` then. `progress` is told how many were sent. `from` must not change meanwhile
    /// but at its end, and nobody else may write to `to`.
    pub async fn carry(
        &self,
        other: &dyn EventLog,
        from: &TopicPartition,
        to: &Topic,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), LogError> {
        let to = to.partition(from.partition.0);
        let (held, carried) = (other.span(from).await?, self.span(&to).await?);
        let mismatch = |reason| {
            Err(LogError::TopicMismatch {
                topic: to.topic.clone(),
                reason,
            })
        };
        if carried.end > held.end {
            return mismatch(format!(
                "partition {} ends at {}, beyond the one that is carried to it, which ends at {}",
                to.partition, carried.end, held.end
            ));
        }
        let mut carrier = Carrier::open(&self.clients, &to)?;
        let mut next = carried.end;
        while next < held.earliest {
            let until = Offset(held.earliest.0.min(next.0 + EMPTY_AT_ONCE));
            carrier = carrier
                .send(move |carrier| (next.0..until.0).try_for_each(|offset| carrier.empty(offset)))
                .await?;
            progress(until.0 - next.0);
            next = until;
        }
        carrier = carrier.send(Carrier::delivered).await?;
        if held.earliest > carried.earliest {
            self.delete_below(&to, held.earliest).await?;
        }
        while next < held.end {
            let records = other.read(from, next, READ_BYTES, Duration::ZERO).await?;
            let dense = records
                .offsets
                .iter()
                .copied()
                .eq(next.0.cast_signed()..records.next.0.cast_signed());
            if records.is_empty() || !dense {
                let after = records.next;
                return mismatch(format!(
                    "{from} has a hole between {next} and {after}, which a topic cannot have"
                ));
            }
            let count = records.len() as u64;
            next = records.next;
            carrier = carrier.send(move |carrier| carrier.records(&records)).await?;
            progress(count);
        }
        carrier.send(Carrier::delivered).await?;
        Ok(())
    }

    /// Reads what was carried of `from` back, record by record, and refuses what is not the same: somebody else may have
    /// written to the topic, or a producer that was killed have stored something after all.
    pub async fn compare_carried(
        &self,
        other: &dyn EventLog,
        from: &TopicPartition,
        to: &Topic,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), LogError> {
        let to = to.partition(from.partition.0);
        let (held, carried) = (other.span(from).await?, self.span(&to).await?);
        let mismatch = |what: String| {
            Err(LogError::TopicMismatch {
                topic: to.topic.clone(),
                reason: format!(
                    "partition {} is not what was carried to it ({what}): delete the topic and begin anew with another store",
                    to.partition
                ),
            })
        };
        if carried.end != held.end {
            return mismatch(format!("it ends at {}, not at {}", carried.end, held.end));
        }
        let mut next = held.earliest;
        while next < held.end {
            let theirs = other.read(from, next, READ_BYTES, Duration::ZERO).await?;
            let mut compared = 0;
            while compared < theirs.len() {
                let at = Offset(theirs.offsets[compared].cast_unsigned());
                let ours = self.read(&to, at, READ_BYTES, COMPARE_WAIT).await?;
                let count = ours.len().min(theirs.len() - compared);
                if count == 0 || !same(&theirs, compared, &ours, count) {
                    return mismatch(format!("from offset {at} on"));
                }
                compared += count;
                progress(count as u64);
            }
            next = theirs.next;
        }
        Ok(())
    }

    /// Makes `topic` as any other that foldline makes: nothing is carried to it any more.
    pub async fn carried(&self, topic: &Topic) -> Result<(), LogError> {
        self.alter(topic, &[]).await
    }

    async fn alter(&self, topic: &Topic, other: &[(&'static str, &str)]) -> Result<(), LogError> {
        let attempt = || format!("changing the settings of the topic \"{}\"", topic.name);
        let settings = self.topics.settings_of_new(other);
        let mut altered = AlterConfig::new(ResourceSpecifier::Topic(&topic.name));
        for (key, value) in &settings {
            altered = altered.set(key, value);
        }
        let options = self.clients.admin_options();
        let outcomes = self.clients.admin().alter_configs([&altered], &options).await;
        let outcomes = outcomes.map_err(|cause| self.clients.failed(attempt(), &cause))?;
        for outcome in outcomes {
            outcome.map_err(|(_, code)| self.clients.failed(attempt(), &code))?;
        }
        Ok(())
    }

    async fn delete_below(&self, partition: &TopicPartition, earliest: Offset) -> Result<(), LogError> {
        let attempt = format!("deleting what lies below offset {earliest} of {partition}");
        let failed = |cause: &dyn std::fmt::Display| self.clients.failed(attempt.clone(), cause);
        let mut below = TopicPartitionList::new();
        let (number, offset) = (partition.partition.0.cast_signed(), earliest.0.cast_signed());
        below
            .add_partition_offset(&partition.topic, number, KafkaOffset::Offset(offset))
            .map_err(|cause| failed(&cause))?;
        let options = self.clients.admin_options();
        let deleted = self.clients.admin().delete_records(&below, &options).await;
        for outcome in deleted.map_err(|cause| failed(&cause))?.elements() {
            outcome.error().map_err(|cause| failed(&cause))?;
        }
        Ok(())
    }
}

/// Whether `count` records of `one` from `first` on are the first ones of `other`.
fn same(one: &Records, first: usize, other: &Records, count: usize) -> bool {
    let headers = |records: &Records, row: usize| {
        let pairs = records
            .headers
            .as_ref()
            .map(|headers| headers.as_list::<i32>().value(row));
        pairs.filter(|pairs| !pairs.is_empty())
    };
    one.offsets[first..first + count] == other.offsets[..count]
        && one.timestamps_ms[first..first + count] == other.timestamps_ms[..count]
        && one.keys.slice(first, count) == other.keys.slice(0, count)
        && one.values.slice(first, count) == other.values.slice(0, count)
        && (0..count).all(|row| match (headers(one, first + row), headers(other, row)) {
            (Some(one), Some(other)) => one == other,
            (None, None) => true,
            _ => false,
        })
}

/// A producer that writes one partition in order, without gaps.
struct Carrier {
    producer: ThreadedProducer<Delivery>,
    clients: Arc<Clients>,
    to: TopicPartition,
}

#[derive(Debug, Clone)]
struct Delivery {
    context: Context,
    /// What first went wrong.
    failed: Arc<Mutex<Option<String>>>,
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
    /// The offset that the record must get.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, expected: usize) {
        let wrong = match result {
            Ok(message) if usize::try_from(message.offset()) == Ok(expected) => return,
            Ok(message) => format!(
                "the record of offset {expected} was stored at {}: somebody else writes to the topic; delete it and begin anew",
                message.offset()
            ),
            Err((error, _)) => error.to_string(),
        };
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(wrong);
    }
}

impl Carrier {
    fn open(clients: &Arc<Clients>, to: &TopicPartition) -> Result<Self, LogError> {
        let context = Delivery {
            context: clients.context(),
            failed: Arc::default(),
        };
        let producer = ThreadedProducer::from_config_and_context(&clients.carrier(), context);
        Ok(Self {
            producer: producer.map_err(|cause| clients.failed("making a producer", &cause))?,
            clients: Arc::clone(clients),
            to: to.clone(),
        })
    }

    /// Does `what` where it may block.
    async fn send(self, what: impl FnOnce(&Self) -> Result<(), LogError> + Send + 'static) -> Result<Self, LogError> {
        let clients = Arc::clone(&self.clients);
        let done = tokio::task::spawn_blocking(move || what(&self).map(|()| self)).await;
        done.map_err(|cause| clients.failed("carrying records", &cause))?
    }

    fn empty(&self, offset: u64) -> Result<(), LogError> {
        self.put(offset, |record| record)
    }

    fn records(&self, records: &Records) -> Result<(), LogError> {
        for row in 0..records.len() {
            let headers = records
                .headers
                .as_ref()
                .map(|headers| headers.as_list::<i32>().value(row));
            let headers = headers.filter(|headers| !headers.is_empty());
            self.put(records.offsets[row].cast_unsigned(), |mut record| {
                record = record.timestamp(records.timestamps_ms[row]);
                if records.keys.is_valid(row) {
                    record = record.key(records.keys.value(row));
                }
                if records.values.is_valid(row) {
                    record = record.payload(records.values.value(row));
                }
                match &headers {
                    Some(headers) => record.headers(headers_of(headers)),
                    None => record,
                }
            })?;
        }
        Ok(())
    }

    /// Sends the record of `offset`, which `fill` completes, as soon as there is room for it.
    fn put<'a>(
        &'a self,
        offset: u64,
        fill: impl Fn(BaseRecord<'a, [u8], [u8], usize>) -> BaseRecord<'a, [u8], [u8], usize>,
    ) -> Result<(), LogError> {
        let since = Instant::now();
        let partition = self.to.partition.0.cast_signed();
        loop {
            let record = BaseRecord::with_opaque_to(&self.to.topic, offset as usize).partition(partition);
            let Err((error, _)) = self.producer.send(fill(record)) else {
                return self.check();
            };
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !full || since.elapsed() > STUCK_AFTER {
                return Err(self.failed(&error));
            }
            self.check()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns when everything that was sent is stored.
    fn delivered(&self) -> Result<(), LogError> {
        let (mut waiting, mut since) = (self.producer.in_flight_count(), Instant::now());
        while waiting > 0 {
            self.check()?;
            std::thread::sleep(Duration::from_millis(1));
            let now = self.producer.in_flight_count();
            if now < waiting {
                (waiting, since) = (now, Instant::now());
            }
            if since.elapsed() > STUCK_AFTER {
                return Err(self.failed(&format!("{waiting} records were not stored")));
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), LogError> {
        let context = self.producer.context();
        let failed = context.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().map_or(Ok(()), |reason| Err(self.failed(reason)))
    }

    fn failed(&self, cause: &dyn std::fmt::Display) -> LogError {
        self.clients.failed(format!("carrying records to {}", self.to), cause)
    }
}

fn headers_of(pairs: &dyn Array) -> OwnedHeaders {
    let pairs: &StructArray = pairs.as_struct();
    let (names, values) = (pairs.column(0).as_string::<i32>(), pairs.column(1).as_binary::<i32>());
    let headers = OwnedHeaders::new_with_capacity(pairs.len());
    (0..pairs.len()).fold(headers, |headers, pair| {
        headers.insert(Header {
            key: names.value(pair),
            value: values.is_valid(pair).then(|| values.value(pair)),
        })
    })
}
