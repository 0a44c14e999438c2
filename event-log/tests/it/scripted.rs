//! A log that gives what a test wrote into it, holes and broken promises included, and the streams that it holds.

use std::sync::Mutex;
use std::time::Duration;

use arrow::array::BinaryArray;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, TimeUnit};
use async_trait::async_trait;
use foldline_event_log::{
    Appended, EventLog, LogError, NewRecord, Offset, ProducerSequence, RecordTime, Records, Span, Topic, TopicPartition,
};
use foldline_sql::{Column, EventTimeFormat, Stream, UniqueKey};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) offset: u64,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
}

pub(crate) fn record(offset: u64, timestamp_ms: i64, value: &str) -> Record {
    Record {
        offset,
        timestamp_ms,
        key: None,
        value: Some(value.as_bytes().to_vec()),
    }
}

/// Gives at most `max_bytes` *records* at once, so that tests say exactly where reads are cut.
#[derive(Debug)]
pub(crate) struct ScriptedLog {
    pub(crate) records: Mutex<Vec<Record>>,
    pub(crate) end: Mutex<u64>,
    /// Answers that are given instead, first one first.
    pub(crate) lies: Mutex<Vec<Records>>,
}

impl ScriptedLog {
    pub(crate) fn new(records: Vec<Record>, end: u64) -> Self {
        Self {
            records: Mutex::new(records),
            end: Mutex::new(end),
            lies: Mutex::default(),
        }
    }

    /// Every record with a time before this is there.
    pub(crate) fn complete_to(&self) -> RecordTime {
        let records = self.records.lock().unwrap();
        RecordTime(records.iter().map(|record| record.timestamp_ms).max().unwrap_or(0))
    }
}

pub(crate) fn partition() -> TopicPartition {
    Topic {
        name: "clicks".to_owned(),
        incarnation: Uuid::nil(),
        partitions: 1,
    }
    .partition(0)
}

pub(crate) fn records_of(chosen: &[Record], next: u64, span: Span) -> Records {
    Records {
        offsets: ScalarBuffer::from_iter(chosen.iter().map(|record| i64::try_from(record.offset).unwrap())),
        timestamps_ms: ScalarBuffer::from_iter(chosen.iter().map(|record| record.timestamp_ms)),
        keys: BinaryArray::from_iter(chosen.iter().map(|record| record.key.as_deref())),
        values: BinaryArray::from_iter(chosen.iter().map(|record| record.value.as_deref())),
        headers: None,
        next: Offset(next),
        span,
    }
}

#[async_trait]
impl EventLog for ScriptedLog {
    async fn ensure_topic(&self, _name: &str, _partitions: u32) -> Result<Topic, LogError> {
        unreachable!("the topic is there")
    }

    async fn topic(&self, _name: &str) -> Result<Topic, LogError> {
        unreachable!("the topic is there")
    }

    async fn span(&self, _partition: &TopicPartition) -> Result<Span, LogError> {
        Ok(Span {
            earliest: Offset(0),
            end: Offset(*self.end.lock().unwrap()),
            complete_to: self.complete_to(),
        })
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        _wait: Duration,
    ) -> Result<Records, LogError> {
        // A reader that does not survive being dropped here loses something.
        tokio::task::yield_now().await;
        let lie = {
            let mut lies = self.lies.lock().unwrap();
            (!lies.is_empty()).then(|| lies.remove(0))
        };
        if let Some(lie) = lie {
            return Ok(lie);
        }
        let span = self.span(partition).await?;
        let records = self.records.lock().unwrap();
        let left: Vec<Record> = records
            .iter()
            .filter(|record| record.offset >= from.0)
            .cloned()
            .collect();
        let given = &left[..left.len().min(max_bytes)];
        let next = match left.get(given.len()) {
            // Sometimes the log knows that a hole follows and sometimes not.
            Some(following) if following.offset % 2 == 0 => following.offset,
            Some(_) => given.last().unwrap().offset + 1,
            None => span.end.0,
        };
        Ok(records_of(given, next, span))
    }

    async fn append(
        &self,
        _topic: &str,
        _records: Vec<NewRecord>,
        _sequence: Option<ProducerSequence>,
    ) -> Result<Appended, LogError> {
        unreachable!("the test wrote the records")
    }

    async fn last_sequence(&self, _producer: &str) -> Result<Option<u64>, LogError> {
        unreachable!("there are no producers")
    }

    async fn release(&self, _partition: &TopicPartition, _floor: Offset) -> Result<(), LogError> {
        unreachable!("nothing is removed")
    }
}

pub(crate) fn column(name: &str, data_type: DataType, nullable: bool) -> Column {
    Column {
        name: name.to_owned(),
        data_type,
        nullable,
    }
}

pub(crate) fn timestamptz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A stream without event time and unique key.
pub(crate) fn stream(columns: Vec<Column>) -> Stream {
    Stream {
        name: "clicks".to_owned(),
        topic: "clicks".to_owned(),
        columns,
        partitions: 1,
        key: None,
        event_time: None,
        event_time_format: EventTimeFormat::Iso8601,
        timezone: None,
        lateness_ms: None,
        max_skew_ms: 3_600_000,
        unique: None,
        archive_raw: true,
    }
}

/// Clicks with id, time and user; judged by id and time.
pub(crate) fn clicks(lateness_ms: Option<i64>, max_skew_ms: i64, within_ms: Option<i64>) -> Stream {
    Stream {
        event_time: Some("at".to_owned()),
        event_time_format: EventTimeFormat::UnixMillis,
        lateness_ms,
        max_skew_ms,
        unique: within_ms.map(|within_ms| UniqueKey {
            columns: vec!["id".to_owned()],
            within_ms,
        }),
        ..stream(vec![
            column("id", DataType::Utf8, true),
            column("user", DataType::Int32, true),
            column("at", timestamptz(), true),
        ])
    }
}
