//! A stream of clicks, and batches of it made by hand.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use foldline_event_log::{DeadLetter, EventBatch, MarkState, Offset, Partition, RecordTime, Tick, TopicPartition};
use foldline_sql::{Column, EventTimeFormat, Stream};
use uuid::Uuid;

pub(crate) const CUT_EVERY_MS: i64 = 1000;
pub(crate) const DAY_US: i64 = 86_400_000_000;
/// 2024-05-01T00:00:00Z, microseconds.
pub(crate) const MAY_US: i64 = 1_714_521_600_000_000;

pub(crate) fn column(name: &str, data_type: DataType, nullable: bool) -> Column {
    Column {
        name: name.to_owned(),
        data_type,
        nullable,
    }
}

pub(crate) fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(crate) fn stream() -> Stream {
    Stream {
        name: "clicks".to_owned(),
        topic: "clicks".to_owned(),
        columns: vec![
            column("id", DataType::Utf8, false),
            column("at", instant(), false),
            column("amount", DataType::Int64, true),
        ],
        partitions: 1,
        key: None,
        event_time: Some("at".to_owned()),
        event_time_format: EventTimeFormat::Iso8601,
        timezone: None,
        lateness_ms: None,
        max_skew_ms: 3_600_000,
        unique: None,
        archive_raw: true,
    }
}

pub(crate) fn partition_of(stream: &Stream, number: u32) -> TopicPartition {
    TopicPartition {
        topic: stream.topic.clone(),
        incarnation: Uuid::from_u128(77),
        partition: Partition(number),
    }
}

/// A record of a partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Click {
    pub(crate) offset: u64,
    /// The running maximum.
    pub(crate) record_time: i64,
    pub(crate) at_us: i64,
    pub(crate) malformed: bool,
    pub(crate) late: bool,
    pub(crate) duplicate: bool,
}

impl Click {
    pub(crate) fn new(offset: u64, record_time: i64, at_us: i64) -> Self {
        Self {
            offset,
            record_time,
            at_us,
            ..Self::default()
        }
    }

    pub(crate) fn id(&self) -> String {
        format!("click-{}", self.offset)
    }

    pub(crate) fn json(&self) -> String {
        let at = chrono::DateTime::from_timestamp_micros(self.at_us).unwrap();
        format!(
            r#"{{"id":"{}","at":"{}","amount":{},"extra":"x{}"}}"#,
            self.id(),
            at.to_rfc3339(),
            self.offset,
            self.offset
        )
    }
}

/// The marks after `clicks`, by a plain loop.
pub(crate) fn marks(clicks: &[Click]) -> MarkState {
    let mut marks = MarkState::default();
    for click in clicks {
        marks.record_time = marks.record_time.max(Some(RecordTime(click.record_time)));
        if !click.malformed {
            marks.max_event_time = marks.max_event_time.max(Some(click.at_us));
        }
    }
    marks
}

/// `clicks` as a reader hands them out from `start` on: split at ticks, and every `rows_max` records.
pub(crate) fn batches(
    stream: &Stream,
    partition: &TopicPartition,
    start: u64,
    clicks: &[Click],
    rows_max: usize,
) -> Vec<EventBatch> {
    let tick = |click: &Click| Tick::at(RecordTime(click.record_time), CUT_EVERY_MS);
    let mut batches = Vec::new();
    let mut from = 0;
    let mut next = start;
    while from < clicks.len() {
        let mut until = from + 1;
        while until < clicks.len() && until - from < rows_max && tick(&clicks[until]) == tick(&clicks[from]) {
            until += 1;
        }
        let end = clicks[until - 1].offset + 1;
        batches.push(EventBatch {
            partition: partition.clone(),
            offsets: Offset(next)..Offset(end),
            tick: tick(&clicks[from]),
            rows: rows(stream, partition, &clicks[from..until]),
            dead_letters: clicks[from..until]
                .iter()
                .filter(|click| click.malformed)
                .map(letter)
                .collect(),
            nulled: vec![("amount".to_owned(), 1)],
            marks: marks(&clicks[..until]),
            raw_bytes: clicks[from..until].iter().map(|click| click.json().len()).sum(),
        });
        next = end;
        from = until;
    }
    batches
}

pub(crate) fn letter(click: &Click) -> DeadLetter {
    DeadLetter {
        offset: Offset(click.offset),
        timestamp_ms: click.record_time,
        key: click.offset.is_multiple_of(2).then(|| Bytes::from(click.id())),
        raw: Bytes::from(vec![b'{', 0xff, 0]),
        reason: format!("not JSON: rubbish at {}", click.offset),
    }
}

fn rows(stream: &Stream, partition: &TopicPartition, clicks: &[Click]) -> RecordBatch {
    let good: Vec<&Click> = clicks.iter().filter(|click| !click.malformed).collect();
    let count = good.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(good.iter().map(|click| click.id()))),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(good.iter().map(|click| click.at_us)).with_timezone("UTC"),
        ),
        Arc::new(Int64Array::from_iter_values(
            good.iter().map(|click| click.offset.cast_signed()),
        )),
        Arc::new(StringArray::from(vec![partition.topic.as_str(); count])),
        Arc::new(Int32Array::from(vec![partition.partition.0.cast_signed(); count])),
        Arc::new(Int64Array::from_iter_values(
            good.iter().map(|click| click.offset.cast_signed()),
        )),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(good.iter().map(|click| click.record_time * 1000))
                .with_timezone("UTC"),
        ),
        Arc::new(BinaryArray::from_iter(
            good.iter()
                .map(|click| click.offset.is_multiple_of(2).then(|| click.id())),
        )),
        Arc::new(BooleanArray::from_iter(good.iter().map(|click| Some(click.late)))),
        Arc::new(BooleanArray::from_iter(good.iter().map(|click| Some(click.duplicate)))),
        Arc::new(Int64Array::from_iter_values(good.iter().map(|click| click.record_time))),
        Arc::new(BinaryArray::from_iter_values(good.iter().map(|click| click.json()))),
    ];
    let mut fields: Vec<Arc<Field>> = stream.table_schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("_record_time_max", DataType::Int64, false)));
    fields.push(Arc::new(Field::new("_raw", DataType::Binary, false)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}
