//! The speed half: each partition of the log folded into segments as it grows (design D7).
//!
//! In the order of an event's way: [`ingest`] reads judged rows, [`accumulate`] folds them into the open segment's
//! partials, [`segment`] is what readers see, [`checkpoint`] makes a restart short, [`retire`] drops what lies below
//! the oldest readable cut. The crate knows nothing of archives or generations: it is told the cuts to keep.

pub mod accumulate;
pub mod checkpoint;
pub mod ingest;
pub mod retire;
pub mod segment;

pub use ingest::{PartitionStatus, SpeedError, SpeedLayer, SpeedSettings};
pub use segment::{PartitionView, RealtimeStore, Segment, Snapshot};
