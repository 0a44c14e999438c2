//! The archive: Parquet files by event date, and the commit records that alone say what is in it (design D5).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use foldline_event_log::{MarkState, Offset, PartitionCut, ReaderStart, RecordTime, Tick, TopicPartition};
use foldline_sql::Stream;
use futures::stream::BoxStream;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One committed offset range of a partition. Written create-only under its first offset; never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Format of this record: 1. Another number is refused.
    pub version: u32,
    /// Random id of the attempt that wrote it.
    pub attempt: Uuid,
    /// Which partition.
    pub partition: TopicPartition,
    /// Offsets that it stands for.
    pub offsets: Range<Offset>,
    /// Judging identity of the stream's declaration that marked the rows.
    pub judged_by: String,
    /// Row files, at most one per event date.
    pub files: Vec<ArchivedFile>,
    /// File of malformed records, if there are any.
    pub dead_letters: Option<ArchivedFile>,
    /// Offsets in the range that hold no record, as ranges.
    pub holes: Vec<Range<Offset>>,
    /// Boundaries between ticks inside the range, in order.
    pub boundaries: Vec<Boundary>,
    /// State of the marks at the end of the range.
    pub marks: MarkState,
    /// Rows marked late; rows marked duplicate.
    pub late: u64,
    /// See `late`.
    pub duplicates: u64,
    /// Values that became NULL because they did not fit, by column.
    pub nulled: BTreeMap<String, u64>,
}

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFile {
    /// Path in the store.
    pub path: String,
    /// UTC date of the rows' event times, `YYYY-MM-DD`; `None` for dead letters.
    pub date: Option<chrono::NaiveDate>,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 of the whole file.
    pub crc32: u32,
    /// First and last offset of its rows (both included: they are rows, not bounds).
    pub first_offset: Offset,
    /// See `first_offset`.
    pub last_offset: Offset,
    /// Smallest and largest event time of its rows, microseconds since 1970; `None` for dead letters.
    pub event_times: Option<(i64, i64)>,
}

/// Where ticks meet: for every tick T with `before < T <= after`, the cut of the partition is `next`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boundary {
    /// Record time of the last record below `next`.
    pub before: RecordTime,
    /// Tick of the first record at or above `next`.
    pub after: Tick,
    /// Next offset to read.
    pub next: Offset,
    /// State of the marks at `next`.
    pub marks: MarkState,
}

/// What the archive can answer instead.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store did not answer or not well.
    #[error("the object store failed while {attempt}")]
    Store {
        /// What was attempted.
        attempt: String,
        /// Cause.
        source: object_store::Error,
    },
    /// The offsets of the commits do not follow each other.
    #[error("the archive of {partition} has a {what}: a commit ends at {ends}, the next begins at {begins}")]
    Chain {
        /// Partition.
        partition: TopicPartition,
        /// `gap` or `overlap`.
        what: &'static str,
        /// One end.
        ends: Offset,
        /// The other.
        begins: Offset,
    },
    /// A file that a commit names is missing, or is not what the commit says.
    #[error("archive file {path} (offsets {}..={} of {partition}) is damaged: {reason}", .first.0, .last.0)]
    Damaged {
        /// Path.
        path: String,
        /// Partition.
        partition: TopicPartition,
        /// First offset of its rows.
        first: Offset,
        /// Last offset of its rows.
        last: Offset,
        /// What is wrong.
        reason: String,
    },
    /// A record of unknown version, or that does not parse.
    #[error("cannot read {path}: {reason}")]
    Format {
        /// Path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The archive does not reach that far.
    #[error("the archive of {partition} ends at offset {until}, record time {reached:?}; tick {tick:?} is not reached")]
    NotReached {
        /// Partition.
        partition: TopicPartition,
        /// Where it ends.
        until: Offset,
        /// Record time there.
        reached: Option<RecordTime>,
        /// Asked tick.
        tick: Tick,
    },
    /// Another writer committed this range first.
    #[error("lost the commit of {partition} at offset {first}: attempt {winner} stands there")]
    Lost {
        /// Partition.
        partition: TopicPartition,
        /// First offset of the range.
        first: Offset,
        /// The attempt that won.
        winner: Uuid,
    },
    /// The stream's declaration would judge archived rows anew.
    #[error(
        "stream \"{stream}\" was archived under another declaration of event time, lateness, skew, unique key or NOT NULL; \
             these may not change under a stream with data: declare a new stream with a new topic instead"
    )]
    Rejudged {
        /// Stream.
        stream: String,
    },
    /// Parquet or Arrow would not write.
    #[error("cannot write rows of {partition} as Parquet")]
    Encode {
        /// Partition.
        partition: TopicPartition,
        /// Cause.
        source: parquet::errors::ParquetError,
    },
}

/// The archive in an object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    _store: Arc<dyn ObjectStore>,
}

impl Archive {
    /// The archive under `archive/` of `store`.
    pub fn new(_store: Arc<dyn ObjectStore>) -> Self {
        todo!()
    }

    /// Where the partition began for us: written once, create-only, at the first start; `earliest` is used then.
    pub async fn origin(&self, _partition: &TopicPartition, _earliest: Offset) -> Result<Offset, ArchiveError> {
        todo!()
    }

    /// The commits of `partition`, in offset order, from its origin on without gap or overlap; else an error.
    /// Keeps what it has read and lists only what is new.
    pub async fn commits(&self, _partition: &TopicPartition) -> Result<Arc<Vec<Commit>>, ArchiveError> {
        todo!()
    }

    /// Where reading the log goes on behind the archive: the end of the last commit, else the origin; `None` before
    /// the first start.
    pub async fn resume(&self, _partition: &TopicPartition) -> Result<Option<ReaderStart>, ArchiveError> {
        todo!()
    }

    /// The cut of `partition` at `tick`: one past the last record before the tick. `complete_to` is how far the
    /// archiver has seen the log to be complete: with it an idle partition's cut is the archive's end.
    pub async fn cut_at(
        &self,
        _partition: &TopicPartition,
        _tick: Tick,
        _complete_to: RecordTime,
    ) -> Result<PartitionCut, ArchiveError> {
        todo!()
    }

    /// The archived rows of `partition` within `offsets`, file by file (not in offset order across dates), with the
    /// date of each batch: the columns `columns` of the stream's table schema by name, then `_record_time_max`.
    /// A column declared later than a file was written is read out of `_raw`. Each file's size and checksum are
    /// checked before its first row is handed out. Fails unless the commits cover `offsets` whole.
    pub fn rows(
        &self,
        _stream: &Arc<Stream>,
        _partition: &TopicPartition,
        _offsets: Range<Offset>,
        _columns: &[String],
    ) -> BoxStream<'static, Result<(chrono::NaiveDate, RecordBatch), ArchiveError>> {
        todo!()
    }
}
