//! Realtime views in a store that several processes share (design D7).
//!
//! Nothing that is read is ever overwritten. What the store holds of a partition is a chain of **stored segments**, each
//! with an id that is never used again; in a segment every key has one or more **versions**: the absolute state of that
//! key from where the segment begins until the offset `until`. Which segments make up the partition, and until where, says
//! a **coverage record**, written once all that it names is acknowledged:
//!
//! ```text
//!  record 7: until 1702, after record 6     segments a 0..812, b 812..1640, c 1640..1702
//!
//!  segment c    key    until 1660   until 1690   until 1702   until 1710 (beyond the record: not seen)
//!               B001   3 visits                  5 visits
//!               B002                1 visit                   2 visits
//! ```
//!
//! A reader takes the newest record first, then of every key the newest version not beyond the record's `until`. So it
//! does not matter who else writes meanwhile: a version is what the log says, whoever folded it, and a writer that goes
//! on from a record writes every key that changed since *that record*. [`write`](Writer) writes, [`read`](Reader) reads,
//! `plan` says which segments a new record names, [`memory`] is a store for tests, [`contract`] the checks of all of
//! them, and `cassandra` the store on Apache Cassandra or ScyllaDB.
//!
//! Removed is only what no record names any more, after longer than any reader may go on with an older record; whoever
//! reads for longer is refused, by its own clock. Removals name a whole segment, so that none can hide a later row.

#[cfg(feature = "cassandra")]
pub mod cassandra;
pub mod contract;
pub mod memory;
mod plan;
mod read;
mod record;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::BinaryArray;
use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{Offset, TopicPartition};
use foldline_sql::{Catalog, Fold, ViewKind};
use uuid::Uuid;

pub use read::{Reader, ReaderSettings, StoredPartials};
pub use write::{Writer, WriterSettings, Written};

/// Buckets of a view in a segment with many keys. Part of the format of stores: another number reads nothing back.
pub const BUCKETS: i32 = 64;
/// The one bucket of a view in a segment with few keys.
pub const ONE_BUCKET: i32 = -1;
/// A reader or writer looks at this many of the newest records of a partition; the one before the newest must be among
/// them.
pub const HEADS: usize = 8;

/// Versions that nobody removed may expire after this, where a store can do that.
pub const EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);
/// Records expire after this, and segments are written anew when they are older: before what a record names expires.
pub const REWRITE_AFTER: Duration = Duration::from_secs(EXPIRY.as_secs() / 4);

/// What a shared store can run into. A write that failed may have happened, or happen yet: it is made again as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or not in time.
    #[error("cannot {attempted} in the shared store of realtime views")]
    Unavailable {
        /// What was attempted.
        attempted: &'static str,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What it holds is not what was written.
    #[error("the shared store of realtime views is damaged: {0}")]
    Damaged(String),
    /// The reader held on to a record for longer than what it names is kept.
    #[error("the read took longer than what it reads is kept for: {0}")]
    TooSlow(String),
    /// It is not fit for this use as it is set up.
    #[error("{0}")]
    Unfit(String),
    /// Partials.
    #[error("partials cannot be stored or read back")]
    Partial(#[from] foldline_sql::FoldError),
}

/// Which record is newer: by era, then by offset, then by number. Of two that are alike in these, either will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Begins anew, with everything written anew, when what was before cannot be gone on from.
    pub era: i64,
    /// End of the coverage.
    pub until: Offset,
    /// One more than that of the record before.
    pub number: i64,
}

impl fmt::Display for Rank {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (era {}, until {})", self.number, self.era, self.until)
    }
}

/// A coverage record without what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its place.
    pub rank: Rank,
    /// Random.
    pub id: Uuid,
    /// The record that it was made from; `None` where everything that it names was written for it.
    pub previous: Option<Uuid>,
}

/// Versions of keys of one view in one segment.
#[derive(Debug, Clone)]
pub struct Versions {
    /// Id of the view.
    pub view: String,
    /// The segment.
    pub segment: Uuid,
    /// Where the states end.
    pub until: Offset,
    /// The bucket of each key.
    pub buckets: Vec<i32>,
    /// Keys, none of them twice.
    pub keys: BinaryArray,
    /// State of each key.
    pub states: BinaryArray,
}

/// A version as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The segment.
    pub segment: Uuid,
    /// Key.
    pub key: Bytes,
    /// Where the state ends.
    pub until: Offset,
    /// State.
    pub state: Bytes,
}

/// A store of realtime views that several processes may open.
///
/// Acknowledged means durable, and seen by every read that begins later. Every write may be made again, in any order and
/// by anybody: the same once more changes nothing. No call is atomic over more than one version or record.
#[async_trait]
pub trait SharedStore: Send + Sync + fmt::Debug {
    /// Stores versions. Of one that is stored already nothing changes, as whoever writes it writes the same.
    async fn write(&self, versions: &Versions) -> Result<(), StoreError>;

    /// Every version in `segments` of the keys `from..until` of one bucket, in any order.
    async fn read(
        &self,
        view: &str,
        bucket: i32,
        segments: &[Uuid],
        from: &[u8],
        until: &[u8],
    ) -> Result<Vec<Stored>, StoreError>;

    /// Removes a segment's versions of a view from `buckets`. What is written to that segment afterwards may be there or
    /// not; nothing else is touched, whenever it was or will be written.
    async fn remove(&self, view: &str, buckets: &[i32], segment: Uuid) -> Result<(), StoreError>;

    /// The newest records of `partition`, newest first, at most [`HEADS`].
    async fn heads(&self, partition: &TopicPartition) -> Result<Vec<Head>, StoreError>;

    /// What a record says; `None` if it is not there.
    async fn record(&self, partition: &TopicPartition, head: &Head) -> Result<Option<Bytes>, StoreError>;

    /// Stores a record beside those that there are.
    async fn cover(&self, partition: &TopicPartition, head: &Head, says: &[u8]) -> Result<(), StoreError>;

    /// Removes the records that rank below `rank`.
    async fn retire(&self, partition: &TopicPartition, rank: Rank) -> Result<(), StoreError>;
}

/// Whether the record that the newest of `heads` was made from is there.
fn chained(heads: &[Head]) -> bool {
    heads.split_first().is_none_or(|(newest, older)| {
        newest
            .previous
            .is_none_or(|previous| older.iter().any(|head| head.id == previous))
    })
}

/// The folds of `catalog` by id of their views.
fn folds_of(catalog: &Catalog) -> HashMap<String, Arc<Fold>> {
    let folds = catalog.views().iter().filter_map(|view| match &view.kind {
        ViewKind::Fold(fold) => Some((view.id.clone(), Arc::clone(fold))),
        ViewKind::Derived(_) => None,
    });
    folds.collect()
}

/// The bucket of a key of `group`.
fn bucket_of(group: u64, spread: bool) -> i32 {
    if spread {
        i32::try_from(group % BUCKETS as u64).expect("less than the number of buckets")
    } else {
        ONE_BUCKET
    }
}

/// Every bucket that may hold keys.
fn buckets(spread: bool) -> Vec<i32> {
    if spread {
        (0..BUCKETS).collect()
    } else {
        vec![ONE_BUCKET]
    }
}
