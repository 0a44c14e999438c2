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
//! A segment is written by one process, which never goes on with it after a flush that failed: so every version up to a
//! record's `until` was named by some record, and what was never named is in no answer. A process that takes over writes
//! the last segment anew. A state that is too large for one cell is stored in **chunks**, each of which says how many there
//! are; a reader that finds fewer says so.
//!
//! Removed is only what no record names any more, after longer than any reader may go on with an older record, and once
//! the newest [`HEADS`] records all follow the one that gave it up; whoever reads for longer is refused, by its own clock.
//! Removals name a whole segment, so that none can hide a later row.

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

/// A state is stored in chunks of at most so many bytes: databases want cells and mutations of a few MiB at most.
pub const CHUNK_BYTES: usize = 1 << 20;

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
    /// Whoever asks may not hold so much.
    #[error("{bytes} more bytes of realtime views do not fit into memory")]
    NoRoom {
        /// What was asked for.
        bytes: usize,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
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

/// Versions of keys of one view in one segment, or chunks of some.
#[derive(Debug, Clone)]
pub struct Versions {
    /// Id of the view.
    pub view: String,
    /// The segment.
    pub segment: Uuid,
    /// Where the states end.
    pub until: Offset,
    /// What is stored of them: no chunk of a key twice.
    pub cells: Vec<Cell>,
}

/// A state, or a chunk of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The bucket of the key.
    pub bucket: i32,
    /// Key.
    pub key: Bytes,
    /// Which chunk of the state this is, from 0 on.
    pub chunk: u32,
    /// How many chunks the state has.
    pub chunks: u32,
    /// The bytes of the chunk.
    pub state: Bytes,
}

/// A cell as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The segment.
    pub segment: Uuid,
    /// Where the state ends.
    pub until: Offset,
    /// The cell.
    pub cell: Cell,
}

/// Which cells are read: all chunks of all versions in `segments` of the keys `from..until` of one bucket of a view.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Id of the view.
    pub view: &'a str,
    /// The bucket.
    pub bucket: i32,
    /// The segments.
    pub segments: &'a [Uuid],
    /// Smallest key.
    pub from: &'a [u8],
    /// What all keys lie below.
    pub until: &'a [u8],
    /// No cell has more bytes than this: how much a page may hold follows from it.
    pub cell_bytes: usize,
}

/// Where the memory of a read comes from. Everything that was taken is given back by whoever asks, when the partials are
/// used up.
pub trait Room: Send + Sync {
    /// Takes so many bytes more, or refuses with [`StoreError::NoRoom`].
    fn take(&self, bytes: usize) -> Result<(), StoreError>;
    /// Gives so many of the bytes taken back.
    fn give_back(&self, bytes: usize);
}

/// A store of realtime views that several processes may open.
///
/// Acknowledged means durable, and seen by every read that begins later. Every write may be made again, in any order and
/// by anybody: the same once more changes nothing. No call is atomic over more than one cell or record.
#[async_trait]
pub trait SharedStore: Send + Sync + fmt::Debug {
    /// Stores cells. Of one that is stored already nothing changes, as whoever writes it writes the same.
    async fn write(&self, versions: &Versions) -> Result<(), StoreError>;

    /// Every cell that is wanted, in any order: also of a version of which only some were written.
    async fn read(&self, wanted: Wanted<'_>) -> Result<Vec<Stored>, StoreError>;

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

/// Whether the newest records were each made from the one below, and none of them ranks below `rank`. Then whatever comes
/// late, and was made from a record below `rank`, is not [`chained`] to them: nobody believes it.
fn all_follow(heads: &[Head], rank: Rank) -> bool {
    let follow = |pair: &[Head]| pair[0].previous == Some(pair[1].id);
    heads.len() == HEADS && heads.windows(2).all(follow) && heads[HEADS - 1].rank >= rank
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
    let folds = catalog.views_and_parts().iter().filter_map(|view| match &view.kind {
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
