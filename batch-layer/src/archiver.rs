//! Log to archive: one memory budget over all partitions, rolls by age and size.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldline_event_log::{EventLog, Offset, RecordTime, Tick, TopicPartition};
use foldline_sql::Stream;

use crate::{Archive, ArchiveError};

/// Settings of the archiver.
#[derive(Debug, Clone)]
pub struct ArchiverSettings {
    /// Roll a partition's rows when the oldest has been held this long, milliseconds.
    pub roll_age_ms: u64,
    /// Roll a partition's rows at this many raw bytes.
    pub roll_bytes: usize,
    /// All partitions together hold at most this many raw bytes; beyond it the largest is rolled early.
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
pub struct ArchiverHandle {}

impl Archiver {
    /// Starts archiving every partition of `streams` on the current runtime; ends when `cancel` fires.
    pub async fn start(
        _log: Arc<dyn EventLog>,
        _archive: Archive,
        _streams: Vec<Arc<Stream>>,
        _settings: ArchiverSettings,
        _cancel: tokio_util::sync::CancellationToken,
    ) -> Result<ArchiverHandle, ArchiveError> {
        todo!()
    }
}

impl ArchiverHandle {
    /// Returns when everything before `tick` is archived in every partition, rolling early what is held. Returns the
    /// position of each partition.
    pub async fn reach(&self, _tick: Tick) -> Result<BTreeMap<TopicPartition, ArchiverPosition>, ArchiveError> {
        todo!()
    }

    /// The position of each partition now.
    pub fn positions(&self) -> BTreeMap<TopicPartition, ArchiverPosition> {
        todo!()
    }
}
