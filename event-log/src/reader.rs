//! A partition read as judged rows: bytes in, [`EventBatch`]es out.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use foldline_sql::Stream;

use crate::{EventLog, Horizon, LogError, MarkState, Offset, RecordTime, Tick, TopicPartition};

/// A run of one partition's records, decoded and judged. It never crosses a tick: all of its records lie in `tick`.
#[derive(Debug, Clone)]
pub struct EventBatch {
    /// Where it comes from.
    pub partition: TopicPartition,
    /// Offsets that it stands for: from where the last batch ended until one past its last record (holes inside are
    /// covered). Batches of a partition follow each other without a gap.
    pub offsets: Range<Offset>,
    /// The tick of its records.
    pub tick: Tick,
    /// Good rows in offset order, late and duplicate ones included and marked. Columns: the ones asked for and the
    /// stream's judging columns, in the order of the declaration; then the system columns; then `_record_time_max`
    /// (Int64, the record time in milliseconds); then, if the reader was asked for it, `_raw` (Binary).
    pub rows: RecordBatch,
    /// Malformed records.
    pub dead_letters: Vec<DeadLetter>,
    /// Values that became NULL because they did not fit their column: (column, count).
    pub nulled: Vec<(String, u64)>,
    /// State of the marks after the last record.
    pub marks: MarkState,
    /// Bytes of keys and values as they arrived.
    pub raw_bytes: usize,
}

/// A malformed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp as stored, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its bytes.
    pub raw: Bytes,
    /// Why it is malformed.
    pub reason: String,
}

/// What a read brought.
#[derive(Debug)]
pub enum Progress {
    /// Rows.
    Batch(EventBatch),
    /// The end was reached: every record with a record time before `complete_to` has been handed out.
    End {
        /// See above.
        complete_to: RecordTime,
        /// Offset that the next record gets.
        end: Offset,
    },
}

/// Reads one partition of a stream from an offset on.
#[derive(Debug)]
pub struct StreamReader {
    _log: Arc<dyn EventLog>,
}

/// How a [`StreamReader`] starts.
#[derive(Debug, Clone)]
pub struct ReaderStart {
    /// Where to read first.
    pub next: Offset,
    /// State of the marks there.
    pub marks: MarkState,
}

/// What a [`StreamReader`] can run into.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log did not give the records.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The keys of the duplicate horizon could not be read back.
    #[error("cannot read the duplicate horizon of {partition} before offset {until}")]
    Horizon {
        /// Partition.
        partition: TopicPartition,
        /// Offset.
        until: Offset,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The decoder could not be built for the declaration.
    #[error("cannot decode stream \"{stream}\": {reason}")]
    Decode {
        /// Stream.
        stream: String,
        /// Why.
        reason: String,
    },
}

impl StreamReader {
    /// Opens `partition` of `stream` at `start`. Reads back the duplicate horizon where the stream has a unique key.
    /// `columns`: declared columns wanted beside the judging ones; `raw`: whether `_raw` is wanted.
    #[allow(
        clippy::too_many_arguments,
        reason = "every one is a different thing, named by its type"
    )]
    pub async fn open(
        _log: Arc<dyn EventLog>,
        _stream: Arc<Stream>,
        _partition: TopicPartition,
        _start: ReaderStart,
        _columns: &[String],
        _raw: bool,
        _cut_every_ms: i64,
        _horizon: &dyn Horizon,
    ) -> Result<Self, ReadError> {
        todo!()
    }

    /// The next batch: at most about `max_bytes` of records, waiting up to `wait` at the end of the log.
    /// Cancel-safe: a dropped call loses nothing.
    pub async fn next(&mut self, _max_bytes: usize, _wait: Duration) -> Result<Progress, ReadError> {
        todo!()
    }

    /// Bytes that the duplicate horizon holds in memory.
    pub fn horizon_bytes(&self) -> usize {
        todo!()
    }
}
