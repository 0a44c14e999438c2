//! What the platform says about itself. The binary fills it in; `/v1/status`, the page and `/metrics` show it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Gives the status of the whole process. Called for every request that shows it: no IO, no long lock.
pub trait StatusSource: Send + Sync + std::fmt::Debug {
    /// The status now.
    fn status(&self) -> Status;

    /// What was counted since the start, for `/metrics`.
    fn counts(&self) -> Vec<Count>;
}

/// Something that is counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Count {
    /// What; counts of the same name differ in the values of their labels.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Labels, in order.
    pub labels: Vec<(&'static str, String)>,
    /// How much, since the start.
    pub value: f64,
}

/// The whole process at one moment. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of foldline.
    pub version: String,
    /// When the process started.
    pub started: Option<String>,
    /// Streams, in the order of their declaration.
    pub streams: Vec<StreamStatus>,
    /// Stored generations, newest first.
    pub generations: Vec<GenerationStatus>,
    /// The batch layer.
    pub batch: BatchStatus,
    /// Who holds how much memory.
    pub memory: Vec<MemoryStatus>,
    /// Where analysts read batch views, where this process loads it.
    pub warehouse: Option<WarehouseStatus>,
    /// What keeps the platform from being ready beside open seams and stopped partitions: a damaged file, an audit
    /// that failed. Each says what is wrong and what to do.
    pub problems: Vec<String>,
}

/// A stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamStatus {
    /// Name in SQL.
    pub name: String,
    /// Topic in the log.
    pub topic: String,
    /// Incarnation of the topic.
    pub incarnation: String,
    /// Partitions, in order.
    pub partitions: Vec<PartitionStatus>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PartitionStatus {
    /// Number, from 0.
    pub partition: u32,
    /// First offset that the log still holds.
    pub earliest: u64,
    /// Offset that the next record gets.
    pub end: u64,
    /// Next offset to archive.
    pub archived_until: Option<u64>,
    /// Next offset behind what the current generation covers.
    pub cut: Option<u64>,
    /// Every record before this is archived.
    pub archived_to: Option<String>,
    /// Why the archive stands still, if it does.
    pub archive_stopped: Option<String>,
    /// How much of the time for which the log keeps records the oldest one that is not archived has spent in it: at 1 it
    /// may leave the log unread. Only where the log does not wait for readers.
    pub retention_used: Option<f64>,
    /// Next offset to fold.
    pub speed_until: Option<u64>,
    /// Every record before this is folded.
    pub folded_to: Option<String>,
    /// While speed replays the log after a start or a rollback: the offset where that ends.
    pub speed_replaying_to: Option<u64>,
    /// Records of the log that are not folded yet.
    pub lag: Option<u64>,
    /// Seconds from `folded_to` until now.
    pub lag_seconds: Option<f64>,
    /// Segments.
    pub segments: Option<u64>,
    /// Bytes that its partials hold.
    pub bytes: Option<u64>,
    /// Events folded since the start.
    pub events: Option<u64>,
    /// Why speed stands still, if it does.
    pub speed_stopped: Option<String>,
    /// Why what answers show of it grows old although others fold it, or is not shown: readers of a shared store say so.
    /// Answers stay right, so it is no reason not to be ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime_stale: Option<String>,
}

/// A generation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GenerationStatus {
    /// Its number.
    pub number: u64,
    /// `incremental`, `full` or `rollback`.
    pub kind: String,
    /// When it was published.
    pub published: Option<String>,
    /// The tick that it was cut at.
    pub cut_at: Option<String>,
    /// Whether it is the current one.
    pub current: bool,
    /// Whether it is readable.
    pub readable: bool,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// The batch layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchStatus {
    /// When the next run is due.
    pub next_run: Option<String>,
    /// What a run under way is doing, if there is one.
    pub running: Option<String>,
    /// When the last run ended.
    pub last_run: Option<String>,
    /// Why the last run failed, if it did.
    pub last_error: Option<String>,
}

/// The warehouse. One that is away or behind keeps nobody from answering.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WarehouseStatus {
    /// Where it is.
    pub place: String,
    /// The generation that it holds.
    pub generation: Option<u64>,
    /// When this process last saw that it holds it.
    pub loaded: Option<String>,
    /// Why it does not hold the current one, if a load failed.
    pub error: Option<String>,
}

/// A holder of memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemoryStatus {
    /// Who.
    pub name: String,
    /// Bytes held.
    pub bytes: u64,
    /// Its budget, if it has one.
    pub bytes_max: Option<u64>,
}

impl Status {
    /// Every reason for not being ready that the status knows of.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = self.problems.clone();
        for stream in &self.streams {
            for partition in &stream.partitions {
                let name = format!("{}/{}", stream.topic, partition.partition);
                if let Some(stopped) = &partition.speed_stopped {
                    reasons.push(format!("speed stands still in {name}: {stopped}"));
                }
                if let (Some(to), Some(until)) = (partition.speed_replaying_to, partition.speed_until) {
                    reasons.push(format!("speed replays {name}: it is at offset {until} of {to}"));
                }
                if let Some(stopped) = &partition.archive_stopped {
                    reasons.push(format!("the archive stands still in {name}: {stopped}"));
                }
            }
        }
        reasons
    }
}
