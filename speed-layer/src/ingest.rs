//! Log to segments, partition by partition, under one memory budget.

use std::path::PathBuf;
use std::sync::Arc;

use foldline_event_log::{Cut, EventLog, Horizon, Tick, Topic, TopicPartition};
use foldline_sql::{Catalog, Stream};

use crate::Snapshot;

/// Settings of the speed layer.
#[derive(Debug, Clone)]
pub struct SpeedSettings {
    /// Tick length, milliseconds.
    pub cut_every_ms: i64,
    /// Partials of all partitions together hold at most this many bytes; beyond it reading stops.
    pub memory_bytes: usize,
    /// At most this many raw bytes are folded at once.
    pub batch_bytes: usize,
    /// Milliseconds between checkpoints; 0 for none.
    pub checkpoint_every_ms: u64,
    /// Folder of the checkpoints.
    pub checkpoints: PathBuf,
}

/// What the speed layer can run into at start.
#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// A partition could not be opened.
    #[error("cannot start {partition}")]
    Open {
        /// Partition.
        partition: TopicPartition,
        /// Cause.
        source: foldline_event_log::ReadError,
    },
    /// A checkpoint could not be written or read for reasons other than its age or format.
    #[error("checkpoint {path} failed")]
    Checkpoint {
        /// Path.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}

/// State of one partition, for `status` and `/metrics`.
#[derive(Debug, Clone)]
pub struct PartitionStatus {
    /// Which partition.
    pub partition: TopicPartition,
    /// Events folded since the start.
    pub events: u64,
    /// Bytes that its partials hold.
    pub bytes: usize,
    /// Segments.
    pub segments: usize,
    /// Why it stands still, if it does.
    pub stopped: Option<String>,
}

/// The running speed layer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SpeedLayer {}

impl SpeedLayer {
    /// Starts folding every partition of `topics` on the current runtime, from a checkpoint where one fits, else from
    /// `cut` (the cut of the oldest readable generation; partitions that it does not name start at `origins`).
    /// Ends when `cancel` fires, with a last checkpoint.
    #[allow(
        clippy::too_many_arguments,
        reason = "every one is a different thing, named by its type"
    )]
    pub async fn start(
        _log: Arc<dyn EventLog>,
        _catalog: Arc<Catalog>,
        _topics: Vec<(Arc<Stream>, Topic, Vec<foldline_event_log::Offset>)>,
        _cut: Cut,
        _horizon: Arc<dyn Horizon>,
        _settings: SpeedSettings,
        _cancel: tokio_util::sync::CancellationToken,
    ) -> Result<Self, SpeedError> {
        todo!()
    }

    /// Drops what lies below `floor` (the cut of the oldest readable generation), and keeps the boundaries at the
    /// ticks `protected` (cuts of readable generations, and of runs under way) whatever their age.
    pub fn retain(&self, _floor: &Cut, _protected: &[Tick]) {
        todo!()
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }

    /// State of every partition.
    pub fn status(&self) -> Vec<PartitionStatus> {
        todo!()
    }
}
