//! The contract of a log. It fits Kafka: what is promised here, Kafka promises too, and no more.
//!
//! `contract` has the checks that every implementation passes.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::{Offset, Partition, RecordTime, TopicPartition};

/// A topic as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: String,
    /// Which life of the topic: another one after it was deleted and created again.
    pub incarnation: Uuid,
    /// Number of partitions; may grow.
    pub partitions: u32,
}

impl Topic {
    /// One partition of this topic.
    pub fn partition(&self, partition: u32) -> TopicPartition {
        TopicPartition {
            topic: self.name.clone(),
            incarnation: self.incarnation,
            partition: Partition(partition),
        }
    }

    /// Every partition of this topic, in order.
    pub fn all_partitions(&self) -> Vec<TopicPartition> {
        (0..self.partitions)
            .map(|partition| self.partition(partition))
            .collect()
    }
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First offset that can still be read.
    pub earliest: Offset,
    /// Where readers end: the next record that they see gets this offset or a later one.
    pub end: Offset,
    /// Every record with a record time before this lies below `end`, now and for ever.
    pub complete_to: RecordTime,
}

/// Records of one partition in offset order, as columns. Offsets may have holes. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Records {
    /// Offsets, ascending.
    pub offsets: ScalarBuffer<i64>,
    /// Timestamps as stored (Kafka's), milliseconds since 1970; not necessarily ascending.
    pub timestamps_ms: ScalarBuffer<i64>,
    /// Keys; NULL where a record has none.
    pub keys: BinaryArray,
    /// Values; NULL for a tombstone.
    pub values: BinaryArray,
    /// Headers per record, a list of (name, value) structs, or `None` where no record has any.
    pub headers: Option<ArrayRef>,
    /// Where to read next: past the last record, and past holes known to follow it.
    pub next: Offset,
    /// What the partition held when this was read.
    pub span: Span,
}

impl Records {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

/// The item field and the struct fields of [`Records::headers`]: a list of (name, value), the value NULL where Kafka
/// has none.
pub fn header_fields() -> (FieldRef, Fields) {
    let fields = Fields::from(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ]);
    (
        Arc::new(Field::new("item", DataType::Struct(fields.clone()), false)),
        fields,
    )
}

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewRecord {
    /// Decides the partition: `murmur2(key) & 0x7fff_ffff % partitions`, as Kafka's default partitioner. Without a
    /// key the log chooses one partition for all such records of an append.
    pub key: Option<Bytes>,
    /// The event.
    pub value: Bytes,
    /// Headers.
    pub headers: Vec<(String, Bytes)>,
}

/// Makes an append happen at most once, as long as one process at a time appends for a producer: an append whose `sequence` is not beyond the last one stored for `producer`
/// changes nothing. A producer `request/...` appends only once: then whatever other sequence changes nothing either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerSequence {
    /// Who appends: `import/<hash of the file>/<stream>`, `request/<stream>/<idempotency key>`.
    pub producer: String,
    /// Ascending number of this append, from 0.
    pub sequence: u64,
}

/// Outcome of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The records are stored and synced.
    Stored,
    /// An earlier append with this sequence, a later one, or the only one of a request is stored; nothing was done.
    Already,
}

/// What a log can answer instead. The variants say whether anything can have been stored.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such topic.
    #[error("unknown topic \"{0}\"")]
    UnknownTopic(String),
    /// The topic exists with other properties, or lives another life now.
    #[error("topic \"{topic}\" is not as expected: {reason}")]
    TopicMismatch {
        /// Topic.
        topic: String,
        /// Both sides, named.
        reason: String,
    },
    /// The asked offset is not there: retention overtook the reader, or it is beyond the end.
    #[error("cannot read {partition} at offset {asked}: it holds {}..{}", .span.earliest, .span.end)]
    OutOfRange {
        /// Partition.
        partition: TopicPartition,
        /// Asked offset.
        asked: Offset,
        /// What is there.
        span: Span,
    },
    /// Another process holds the log.
    #[error("{0}")]
    Locked(String),
    /// The log cannot take more now; certainly nothing was stored. Try again later.
    #[error("the log is full: {0}")]
    Full(String),
    /// The log was closed, or its storage failed earlier; certainly nothing was stored.
    #[error("the log takes no more: {0}")]
    Closed(String),
    /// A record larger than the log takes; certainly nothing was stored.
    #[error("record of {bytes} bytes is larger than {max} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// What is stored does not read as written: unknown format version or damaged bytes.
    #[error("the log is damaged at {at}: {reason}")]
    Damaged {
        /// Where.
        at: String,
        /// What is wrong.
        reason: String,
    },
    /// Storage failed; an append *may* have happened.
    #[error("the log's storage failed while {attempt}")]
    Storage {
        /// What was attempted.
        attempt: String,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A log of topics. Implementations are shared behind an `Arc` and used from many tasks.
#[async_trait]
pub trait EventLog: Send + Sync + std::fmt::Debug {
    /// Creates the topic if it does not exist. Exists with fewer partitions than asked: it grows. With more: it stays.
    async fn ensure_topic(&self, name: &str, partitions: u32) -> Result<Topic, LogError>;

    /// The topic as it is now.
    async fn topic(&self, name: &str) -> Result<Topic, LogError>;

    /// What a partition holds now. Fails for another incarnation than the current one.
    async fn span(&self, partition: &TopicPartition) -> Result<Span, LogError>;

    /// Reads from `from` (next to read) up to about `max_bytes` of keys and values, at least one record if there is
    /// one. At the end, waits up to `wait` for more and then returns no records. Sees only what is synced.
    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Records, LogError>;

    /// Appends all records or none, and returns when they are synced and readable.
    async fn append(
        &self,
        topic: &str,
        records: Vec<NewRecord>,
        sequence: Option<ProducerSequence>,
    ) -> Result<Appended, LogError>;

    /// The last sequence stored for `producer`, if any.
    async fn last_sequence(&self, producer: &str) -> Result<Option<u64>, LogError>;

    /// Says that no reader needs anything below `floor` any more. The log's own retention (time and bytes) never removes
    /// at or above the floor, and a partition without a floor is not trimmed at all. Where retention is somebody else's
    /// (Kafka's topics have their own), this does nothing, and records can be gone that somebody still needs: reading
    /// them is [`LogError::OutOfRange`].
    async fn release(&self, partition: &TopicPartition, floor: Offset) -> Result<(), LogError>;

    /// Milliseconds that a topic, once ensured, keeps records whether anybody has read them or not; `None`: nothing
    /// leaves by its age before its floor has passed it.
    fn keeps_ms(&self, _topic: &str) -> Option<u64> {
        None
    }
}
