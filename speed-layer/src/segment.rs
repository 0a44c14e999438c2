//! The realtime view as readers see it: immutable snapshots of segments.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use foldline_event_log::{MarkState, Offset, RecordTime, Tick, TopicPartition};
use foldline_sql::Partial;

use crate::shared::StoredPartials;

/// A piece of the realtime view of one partition, with its own coverage. Immutable.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Offsets that it contains.
    pub offsets: Range<Offset>,
    /// Ticks that it contains: from the first to the last, both included.
    pub ticks: (Tick, Tick),
    /// Partials by view id. A view that is missing here was not folded (it is still `building`, or failed).
    pub views: HashMap<String, Partials>,
    /// Why a view is missing that a row failed, by view id.
    pub failed: HashMap<String, String>,
    /// State of the marks at its end.
    pub marks: MarkState,
}

/// The partials of a view in a segment, to be merged by the reader.
#[derive(Debug, Clone)]
pub enum Partials {
    /// In memory: a short list; an empty one where there are no keys.
    Held(Vec<Partial>),
    /// In a shared store, to be fetched.
    Stored(Arc<StoredPartials>),
}

impl Partials {
    /// Those in memory; `None` where they have to be fetched.
    pub fn held(&self) -> Option<&[Partial]> {
        match self {
            Self::Held(partials) => Some(partials),
            Self::Stored(_) => None,
        }
    }
}

/// One partition's segments at one moment.
#[derive(Debug, Clone)]
pub struct PartitionView {
    /// Segments in offset order; each begins where the one before ends. The last may still be growing; readers of this
    /// snapshot see it as it was.
    pub segments: Vec<Arc<Segment>>,
    /// Next offset to fold: the end of the last segment, or where the partition started.
    pub until: Offset,
    /// Every record before this is folded: `until`, or beyond it where the offsets behind it hold no record.
    pub read_to: Offset,
    /// End of the log when last looked at.
    pub end: Offset,
    /// Everything before this record time is folded.
    pub complete_to: Option<RecordTime>,
    /// While the layer folds again what was in the log before it started, or what it had folded before it went back:
    /// the offset where that ends.
    pub replaying_to: Option<Offset>,
    /// Why the partition stands still, if it does (budget, error).
    pub stopped: Option<String>,
}

/// Every partition at one moment: what one answer is computed from. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By partition.
    pub partitions: BTreeMap<TopicPartition, Arc<PartitionView>>,
}

/// Where readers find the realtime view.
pub trait RealtimeStore: Send + Sync + std::fmt::Debug {
    /// The newest snapshot. Does no IO and takes no lock for longer than a pointer copy.
    fn snapshot(&self) -> Snapshot;
}
