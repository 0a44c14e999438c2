//! The archive: Parquet files by event date, and the commit records that alone say what is in it (design D5).
//!
//! ```text
//! archive/<topic>/date=2024-05-01/<incarnation>-<partition>-<first offset>-<attempt>.parquet   rows
//!                 _dead_letters/<incarnation>-<partition>-<first offset>-<attempt>.parquet     malformed records
//!                 _commits/<incarnation>/<partition>/<first offset>.json                       what is in it
//!                 _origins/<incarnation>/<partition>.json                                      where it begins
//! ```
//!
//! Files are written first, then the commit record of their offset range, create-only. So a range is archived wholly
//! or not at all, whichever dates it fans out to; of two writers one wins; and a file that no commit lists does not
//! exist for any reader. The commits of a partition form a chain: each begins where the one before it ends, the first
//! at the origin. A gap or overlap in the chain is an error, never fewer rows.
//!
//! `path` names things, `encode` turns judged rows into files, `publish` writes them and their commit, `cut` finds the
//! offset that belongs to a tick, `dates` tells what there is of each date, `rows` reads back (`later` what was declared later), `audit` proves that every offset is there once.

mod audit;
mod carry;
mod cut;
mod dates;
mod encode;
mod later;
pub mod path;
mod publish;
mod rows;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use foldline_event_log::{KeysOnDisk, MarkState, Offset, ReadError, ReaderStart, RecordTime, Tick, TopicPartition};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use audit::{AuditFinding, AuditReport, PartitionAudit};
pub use dates::DateRows;

use crate::store::{self, Created, Record, StoreError};

/// Format number of commit records and origins.
const VERSION: u32 = 1;
/// Commit records read at the same time.
const COMMIT_READS: usize = 16;
/// Column of archived rows: the record time, that is the running maximum of the timestamps, in milliseconds.
pub(crate) const RECORD_TIME_MAX: &str = "_record_time_max";
/// Column of archived rows: the bytes as they arrived.
pub(crate) const RAW: &str = "_raw";

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
    /// Offsets that it stands for: from the end of the commit before, holes included, until one past its last record.
    pub offsets: Range<Offset>,
    /// Tick of its first record.
    pub first_tick: Tick,
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
    /// Why the whole range is missing, where somebody acknowledged that it is: see [`Archive::accept_gap`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
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
    #[error("the archive of {partition} ends at offset {until}, record time {}; tick {} is not reached", .reached.map_or("none".to_owned(), |time| time.0.to_string()), .tick.0)]
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
    /// The archive does not hold these offsets.
    #[error(
        "the archive of {partition} holds offsets {}..{}, not {}..{}",
        .holds.start, .holds.end, .asked.start, .asked.end
    )]
    NotCovered {
        /// Partition.
        partition: TopicPartition,
        /// From the origin to the end of the last commit.
        holds: Range<Offset>,
        /// What was asked for.
        asked: Range<Offset>,
    },
    /// The stream declares no such column.
    #[error("stream \"{stream}\" has no column \"{column}\"")]
    UnknownColumn {
        /// Stream.
        stream: String,
        /// Column.
        column: String,
    },
    /// No boundary was recorded at this tick: it was archived with longer ticks.
    #[error(
        "the archive of {partition} has no boundary at tick {} among offsets {}..{}: they were archived with a longer \
             `cut_every`; a later tick, or a multiple of the longer one, works",
        .tick.0, .offsets.start, .offsets.end
    )]
    NoBoundary {
        /// Partition.
        partition: TopicPartition,
        /// Asked tick.
        tick: Tick,
        /// Offsets of the commit that the tick lies in.
        offsets: Range<Offset>,
    },
    /// Offsets that the log no longer has, but the archiver may.
    #[error(
        "offsets {}..{} of {partition} left the log, but the archiver has not stopped for them: it may still hold them; \
         try again when foldline status says that it has", .offsets.start, .offsets.end
    )]
    MayBeHeld {
        /// Partition.
        partition: TopicPartition,
        /// From the end of the archive to the beginning of the log.
        offsets: Range<Offset>,
    },
    /// The archiver does not archive this partition any more.
    #[error("archiving {partition} has stopped: {reason}")]
    Stopped {
        /// Partition.
        partition: TopicPartition,
        /// Why.
        reason: String,
    },
    /// The log did not give what is to be archived.
    #[error("cannot read the log in order to archive it")]
    Read(#[from] ReadError),
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

/// The archive in an object store. Cheap to clone; clones share what they have read of the commits.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    keys_on_disk: Option<KeysOnDisk>,
    known: Arc<Mutex<HashMap<TopicPartition, Arc<tokio::sync::Mutex<Known>>>>>,
}

/// What was read of a partition. The lock is held while reading on, so that two callers do not read the same twice.
#[derive(Debug, Default)]
struct Known {
    origin: Option<Offset>,
    commits: Arc<Vec<Arc<Commit>>>,
    /// Whether the commits were listed once. From then on the name of the next one is known.
    listed: bool,
}

/// Where a partition began for us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    version: u32,
    attempt: Uuid,
    partition: TopicPartition,
    offset: Offset,
}

impl Record for Origin {
    const VERSION: u32 = VERSION;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

impl Record for Commit {
    const VERSION: u32 = VERSION;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

impl From<StoreError> for ArchiveError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Failed { attempt, source } => Self::Store { attempt, source },
            StoreError::Missing { path } => Self::Format {
                path,
                reason: "it is missing".to_owned(),
            },
            StoreError::Damaged { path, reason } => Self::Format { path, reason },
        }
    }
}

impl Archive {
    /// The archive under `archive/` of `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            keys_on_disk: None,
            known: Arc::default(),
        }
    }

    /// Who judges rows by this archive keeps keys of the duplicate horizon there that are too many for memory.
    pub fn with_keys_on_disk(self, keys_on_disk: KeysOnDisk) -> Self {
        Self {
            keys_on_disk: Some(keys_on_disk),
            ..self
        }
    }

    /// The store that it lies in.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Where the partition began for us: written once, create-only, at the first start; `earliest` is used then.
    pub async fn origin(&self, partition: &TopicPartition, earliest: Offset) -> Result<Offset, ArchiveError> {
        let known = self.known(partition);
        let mut known = known.lock().await;
        if let Some(origin) = self.read_origin(partition, &mut known).await? {
            return Ok(origin);
        }
        let path = path::origin(partition);
        let mine = Origin {
            version: VERSION,
            attempt: Uuid::new_v4(),
            partition: partition.clone(),
            offset: earliest,
        };
        let origin = match store::create_only(&*self.store, &path, &mine).await? {
            Created::Mine => mine,
            Created::Theirs(theirs) => theirs,
        };
        checked_partition(&path, partition, &origin.partition)?;
        known.origin = Some(origin.offset);
        Ok(origin.offset)
    }

    /// Where the partition began for us; `None` before the first start.
    pub async fn known_origin(&self, partition: &TopicPartition) -> Result<Option<Offset>, ArchiveError> {
        let known = self.known(partition);
        let mut known = known.lock().await;
        self.read_origin(partition, &mut known).await
    }

    /// The commits of `partition`, in offset order, from its origin on without gap or overlap; else an error.
    /// Lists them the first time; from then on it asks for the next one by its name.
    pub async fn commits(&self, partition: &TopicPartition) -> Result<Arc<Vec<Arc<Commit>>>, ArchiveError> {
        let known = self.known(partition);
        let mut known = known.lock().await;
        self.read_on(partition, &mut known).await?;
        Ok(Arc::clone(&known.commits))
    }

    /// Lives of the topic other than `incarnation` that rows were archived from.
    pub async fn other_lives(&self, topic: &str, incarnation: Uuid) -> Result<Vec<Uuid>, ArchiveError> {
        let folder = path::origins(topic);
        let listed = self.store.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|source| ArchiveError::Store {
            attempt: format!("listing {folder}"),
            source,
        })?;
        let lives = listed
            .common_prefixes
            .iter()
            .filter_map(|life| life.filename()?.parse().ok());
        Ok(lives.filter(|life| *life != incarnation).collect())
    }

    /// Where reading the log goes on behind the archive: the end of the last commit, else the origin; `None` before
    /// the first start.
    pub async fn resume(&self, partition: &TopicPartition) -> Result<Option<ReaderStart>, ArchiveError> {
        let (origin, commits) = self.chain(partition).await?;
        Ok(origin.map(|origin| match commits.last() {
            Some(last) => ReaderStart {
                next: last.offsets.end,
                marks: last.marks,
            },
            None => ReaderStart {
                next: origin,
                marks: MarkState::default(),
            },
        }))
    }

    /// Origin and commits, read at one moment.
    async fn chain(&self, partition: &TopicPartition) -> Result<(Option<Offset>, Arc<Vec<Arc<Commit>>>), ArchiveError> {
        let known = self.known(partition);
        let mut known = known.lock().await;
        self.read_on(partition, &mut known).await?;
        Ok((known.origin, Arc::clone(&known.commits)))
    }

    /// The commits that hold rows of `offsets`. Fails unless the archive covers `offsets` whole.
    async fn covering(
        &self,
        partition: &TopicPartition,
        offsets: &Range<Offset>,
    ) -> Result<Vec<Arc<Commit>>, ArchiveError> {
        if offsets.start >= offsets.end {
            return Ok(Vec::new());
        }
        let (origin, commits) = self.chain(partition).await?;
        let start = origin.unwrap_or(Offset(0));
        let holds = start..commits.last().map_or(start, |last| last.offsets.end);
        if offsets.start < holds.start || offsets.end > holds.end {
            return Err(ArchiveError::NotCovered {
                partition: partition.clone(),
                holds,
                asked: offsets.clone(),
            });
        }
        let first = commits.partition_point(|commit| commit.offsets.end <= offsets.start);
        let until = commits.partition_point(|commit| commit.offsets.start < offsets.end);
        Ok(commits[first..until].to_vec())
    }

    fn known(&self, partition: &TopicPartition) -> Arc<tokio::sync::Mutex<Known>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(partition.clone()).or_default())
    }

    async fn read_origin(&self, partition: &TopicPartition, known: &mut Known) -> Result<Option<Offset>, ArchiveError> {
        if known.origin.is_none() {
            let path = path::origin(partition);
            match store::read_json::<Origin>(&*self.store, &path).await {
                Ok(origin) => {
                    checked_partition(&path, partition, &origin.partition)?;
                    known.origin = Some(origin.offset);
                }
                Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(known.origin)
    }

    /// Reads the commits behind those that are known.
    async fn read_on(&self, partition: &TopicPartition, known: &mut Known) -> Result<(), ArchiveError> {
        if !known.listed {
            self.read_all_commits(partition, known).await?;
            known.listed = true;
            return Ok(());
        }
        let Some(origin) = self.read_origin(partition, known).await? else {
            return Ok(());
        };
        loop {
            let next = known.commits.last().map_or(origin, |last| last.offsets.end);
            match self.read_commit(partition, &path::commit(partition, next)).await {
                Ok(commit) => Arc::make_mut(&mut known.commits).push(Arc::new(commit)),
                Err(StoreError::Missing { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn read_all_commits(&self, partition: &TopicPartition, known: &mut Known) -> Result<(), ArchiveError> {
        let found = self.list_commits(partition).await?;
        let Some(first) = found.first() else {
            self.read_origin(partition, known).await?;
            return Ok(());
        };
        let Some(origin) = self.read_origin(partition, known).await? else {
            return Err(ArchiveError::Format {
                path: path::origin(partition).to_string(),
                reason: format!("it is missing, although there are commits, the first of them {first}"),
            });
        };
        let read: Vec<Commit> = futures::stream::iter(found)
            .map(|path| async move { self.read_commit(partition, &path).await })
            .buffered(COMMIT_READS)
            .try_collect()
            .await?;
        let mut end = origin;
        for commit in &read {
            follows(partition, end, commit.offsets.start)?;
            end = commit.offsets.end;
        }
        known.commits = Arc::new(read.into_iter().map(Arc::new).collect());
        Ok(())
    }

    /// Paths of the commits, in offset order.
    async fn list_commits(&self, partition: &TopicPartition) -> Result<Vec<Path>, ArchiveError> {
        let folder = path::commits(partition);
        let mut found: Vec<Path> = self
            .store
            .list(Some(&folder))
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .map_err(|source| ArchiveError::Store {
                attempt: format!("listing {folder}"),
                source,
            })?;
        // Names are offsets of a fixed width: the order of names is that of offsets.
        found.sort_unstable();
        Ok(found)
    }

    async fn read_commit(&self, partition: &TopicPartition, path: &Path) -> Result<Commit, StoreError> {
        let commit: Commit = store::read_json(&*self.store, path).await?;
        checked_partition(path, partition, &commit.partition)?;
        let format = |reason: String| StoreError::Damaged {
            path: path.to_string(),
            reason,
        };
        if *path != path::commit(partition, commit.offsets.start) {
            return Err(format(format!(
                "it says that it begins at offset {}",
                commit.offsets.start
            )));
        }
        if commit.offsets.end <= commit.offsets.start {
            return Err(format(format!(
                "it says that it holds offsets {}..{}",
                commit.offsets.start, commit.offsets.end
            )));
        }
        Ok(commit)
    }
}

/// Whether a commit that begins at `begins` follows one that ends at `ends`.
fn follows(partition: &TopicPartition, ends: Offset, begins: Offset) -> Result<(), ArchiveError> {
    let what = match begins.cmp(&ends) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Greater => "gap",
        std::cmp::Ordering::Less => "overlap",
    };
    Err(ArchiveError::Chain {
        partition: partition.clone(),
        what,
        ends,
        begins,
    })
}

fn checked_partition(path: &Path, expected: &TopicPartition, found: &TopicPartition) -> Result<(), StoreError> {
    if expected == found {
        return Ok(());
    }
    Err(StoreError::Damaged {
        path: path.to_string(),
        reason: format!("it is about {found} of incarnation {}", found.incarnation),
    })
}
