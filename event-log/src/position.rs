//! Words for places in a log: partition, offset, record time, tick, coverage, cut.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A Kafka partition, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u32);

/// The next place to read in a partition, never the last one seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

/// The running maximum, per partition, of the records' timestamps: milliseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordTime(pub i64);

/// A multiple of `cut_every` in record time, in milliseconds. A record lies in the tick `[tick, tick + cut_every)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(pub i64);

impl Tick {
    /// The newest tick not after `time`. `cut_every_ms` is positive.
    pub fn at(time: RecordTime, cut_every_ms: i64) -> Self {
        Self(time.0.div_euclid(cut_every_ms) * cut_every_ms)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A partition of one life of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: String,
    /// Which life of the topic.
    pub incarnation: Uuid,
    /// Partition.
    pub partition: Partition,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.topic, self.partition)
    }
}

/// Half-open ranges `from..until` per partition that a partial or an answer contains.
pub type Coverage = BTreeMap<TopicPartition, std::ops::Range<Offset>>;

/// Where batch ends and speed begins: one entry per partition. A partition that it does not name stands at its origin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// The tick that was cut at; `None` for the cut before everything.
    pub tick: Option<Tick>,
    /// By partition, in order. (A list: JSON has no structured keys.)
    pub partitions: Vec<PartitionCut>,
}

/// The cut of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionCut {
    /// Which partition.
    #[serde(flatten)]
    pub partition: TopicPartition,
    /// Next offset to read: one past the last record whose record time lies before the tick.
    pub next: Offset,
    /// State of the marks at `next`.
    pub marks: crate::MarkState,
}

impl Cut {
    /// The entry of `partition`.
    pub fn of(&self, partition: &TopicPartition) -> Option<&PartitionCut> {
        self.partitions.iter().find(|cut| cut.partition == *partition)
    }

    /// The largest clamped event time below the cut, microseconds since 1970.
    pub fn max_event_time(&self) -> Option<i64> {
        self.partitions.iter().filter_map(|cut| cut.marks.max_event_time).max()
    }
}

/// Boundaries of this many ticks stay at each level of [`keeps_boundary`].
const BOUNDARIES_PER_LEVEL: i64 = 24;
/// Each level of [`keeps_boundary`] is this many times coarser than the one before.
const LEVEL_FACTOR: i64 = 8;

/// Whether the boundary at `tick` is still kept when `newest` is the newest tick of the partition: the 24 newest ticks
/// are, then of multiples of 8 ticks the 24 newest, of 64 ticks, and so on up to 4096 ticks, whose multiples stay for
/// ever. So a day of 10-second ticks leaves about 80 boundaries, and a run by hand can cut close to now (design D3).
pub fn keeps_boundary(tick: Tick, newest: Tick, cut_every_ms: i64) -> bool {
    let mut step = cut_every_ms;
    for _ in 0..4 {
        if tick.0 % step == 0 && tick.0 > newest.0 - BOUNDARIES_PER_LEVEL * step {
            return true;
        }
        step *= LEVEL_FACTOR;
    }
    tick.0 % step == 0
}
