//! The speed half: each partition of the log folded into segments as it grows (design D7).
//!
//! In the order of an event's way: [`layer`] starts one task per partition and is what others hold, `ingest` is that
//! task and reads judged rows, `accumulate` folds them into the open segment's partials, [`segment`] is what readers
//! see, `checkpoint` makes a restart short, `retire` drops what lies below the oldest readable cut and thins out
//! boundaries, [`wire`] brings segments to readers in other processes, [`shared`] keeps them where others read them. The crate knows nothing of archives or generations: it is told the cuts to keep.

mod accumulate;
mod checkpoint;
mod ingest;
pub mod layer;
mod retire;
pub mod segment;
pub mod shared;
pub mod wire;

pub use layer::{Counters, MemoryShare, PartitionStatus, SpeedError, SpeedLayer, SpeedSettings};
pub use retire::Gaps;
pub use segment::{Partials, PartitionView, RealtimeStore, Segment, Snapshot};
