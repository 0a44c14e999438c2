//! Removes what no generation, commit or reader can still name.
//!
//! What goes, and what proves that nobody needs it:
//!
//! | what | when |
//! | --- | --- |
//! | manifest of a generation | not among the last `keep`, not pinned, superseded for the longest query time |
//! | file of a batch view | named by no manifest, pin or hold, and of a number up to the current one |
//! | order of a run on Ballista | the same: none is ever named, and a run removes its own |
//! | file of the archive | the commit of its range is there and does not list it |
//! | hold of a rollback | so old that its rollback must have died (or given up) |
//! | record of a run | not among the last thousand |
//!
//! The order makes it safe beside a run and a rollback that happen at the same time:
//!
//! ```text
//! 1. remove manifests          a rollback to one of these finds it gone and refuses, or has its hold written already
//! 2. list files of views       a run that publishes after this: its files are not in the list, or of a higher number
//! 3. list pins and holds,      a rollback that took its hold away before this has published before this
//!    then manifests            what was published before this is seen here
//! 4. remove files of 2 that nothing of 3 names
//! ```
//!
//! A crash anywhere leaves files that the next collection finds. Files of a run under way carry the number that it
//! hopes for, which is beyond the current one, and are left alone; those of a run that lost or died carry a number that
//! is taken sooner or later, and go then. Numbers are never used again: the current generation always stays.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use foldline_event_log::Offset;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::archive::path::FileName;
use crate::generations::{self, HOLD_MS_MAX, Stored};
use crate::recompute::{EXTENSION, ORDER_EXTENSION, VIEWS_FOLDER};
use crate::scheduler::{Ledger, LedgerError, RUNS_KEPT};
use crate::store::{self, StoreError};
use crate::{Archive, ArchiveError, Commit, GenerationError, GenerationNumber, Generations};

/// Objects being deleted at the same time.
const DELETES: usize = 16;
const ARCHIVE_FOLDER: &str = "archive";

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GarbageReport {
    /// Manifests of generations.
    pub generations: u64,
    /// Files of batch views.
    pub view_files: u64,
    /// Files of the archive.
    pub archive_files: u64,
    /// Records of runs.
    pub run_records: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// What a collection can run into. What it removed until then was garbage.
#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
    /// Generations could not be read: without them nothing is known to be garbage.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// Commits could not be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Collects generations, batch views and records of runs once, by the clock and the settings of `generations`. May run
/// at any time beside everything else.
pub async fn collect(generations: &Generations, ledger: &Ledger) -> Result<GarbageReport, GarbageError> {
    let mut report = GarbageReport::default();
    collect_generations(generations, &mut report).await?;
    report.run_records = ledger.prune(RUNS_KEPT).await?;
    told(report)
}

fn told(report: GarbageReport) -> Result<GarbageReport, GarbageError> {
    if report != GarbageReport::default() {
        tracing::info!(?report, "garbage collected");
    }
    Ok(report)
}

async fn collect_generations(generations: &Generations, report: &mut GarbageReport) -> Result<(), GarbageError> {
    let store = generations.store().as_ref();
    let mut before = generations::everything(store).await?;
    let alive = |held_ms: i64| generations.now_ms().saturating_sub(held_ms) <= HOLD_MS_MAX;
    let (holds, dead): (Vec<_>, Vec<_>) = before.holds.into_iter().partition(|(_, hold)| alive(hold.held_ms));
    before.holds = holds;
    delete(store, dead.into_iter().map(|(path, _)| path).collect()).await?;
    let manifests = removable(&before, generations)
        .into_iter()
        .map(generations::manifest_path)
        .collect();
    report.generations = delete(store, manifests).await?;

    let files = store::list(store, &Path::from(VIEWS_FOLDER)).await?;
    let stored = generations::everything(store).await?;
    let Some((&current, _)) = stored.manifests.last_key_value() else {
        return Ok(());
    };
    let named: HashSet<&str> = stored
        .generations()
        .flat_map(|generation| generation.views.values())
        .flat_map(|view| &view.dates)
        .map(|file| file.path.as_str())
        .collect();
    let garbage: Vec<ObjectMeta> = files
        .into_iter()
        .filter(|file| !named.contains(file.location.as_ref()))
        .filter(|file| number_of(&file.location).is_some_and(|number| number <= current))
        .collect();
    report.bytes += garbage.iter().map(|file| file.size).sum::<u64>();
    report.view_files = delete(store, locations(garbage)).await?;
    Ok(())
}

/// Numbers of the manifests that nothing keeps.
fn removable(stored: &Stored, generations: &Generations) -> Vec<GenerationNumber> {
    let numbers: Vec<GenerationNumber> = stored.manifests.keys().copied().collect();
    // The current one stays whatever `keep` says: a number that is taken must never become free.
    let kept = numbers.len().saturating_sub(generations.keep().max(1));
    numbers
        .windows(2)
        .take(kept)
        .filter(|pair| generations.gone_by(&stored.manifests[&pair[1]]))
        .map(|pair| pair[0])
        .filter(|number| !stored.pins.contains_key(number))
        .filter(|number| stored.holds.iter().all(|(_, hold)| hold.generation.number != *number))
        .collect()
}

/// The generation that a file of a batch view, or the order of a run, was written for.
fn number_of(path: &Path) -> Option<GenerationNumber> {
    let name = path.filename()?;
    let name = name.strip_suffix(EXTENSION).or(name.strip_suffix(ORDER_EXTENSION))?;
    let (number, attempt) = name.split_once('-')?;
    Uuid::parse_str(attempt).ok()?;
    number.parse().ok().map(GenerationNumber)
}

/// A partition as the paths of its files spell it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Folder {
    topic: Path,
    incarnation: Uuid,
    partition: u32,
}

/// What the commits of a partition say. They never change, so it holds however old it is: of a range committed later
/// nothing is known here, and nothing of it is garbage.
#[derive(Debug, Default)]
struct Committed {
    ranges: BTreeSet<Offset>,
    files: HashSet<String>,
}

/// Collects the archive's files once, a folder at a time: every file of the archive is looked at. May run at any time
/// beside everything else.
pub async fn collect_archive(archive: &Archive) -> Result<GarbageReport, GarbageError> {
    let store = archive.store().as_ref();
    let mut report = GarbageReport::default();
    let mut committed: BTreeMap<Folder, Committed> = BTreeMap::new();
    for topic in folders(store, &Path::from(ARCHIVE_FOLDER)).await? {
        for folder in folders(store, &topic).await? {
            let mut garbage = Vec::new();
            for file in store::list(store, &folder).await? {
                let Some(name) = FileName::parse(&file.location) else {
                    continue;
                };
                let place = Folder {
                    topic: topic.clone(),
                    incarnation: name.incarnation,
                    partition: name.partition.0,
                };
                let known = match committed.entry(place) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let known = commits_of(archive, new.key()).await?;
                        new.insert(known)
                    }
                };
                if known.ranges.contains(&name.first) && !known.files.contains(file.location.as_ref()) {
                    garbage.push(file);
                }
            }
            report.bytes += garbage.iter().map(|file| file.size).sum::<u64>();
            report.archive_files += delete(store, locations(garbage)).await?;
        }
    }
    told(report)
}

async fn commits_of(archive: &Archive, folder: &Folder) -> Result<Committed, GarbageError> {
    let store = archive.store().as_ref();
    let Folder {
        topic,
        incarnation,
        partition,
    } = folder;
    let commits = Path::parse(format!("{topic}/_commits/{incarnation}/{partition}"))
        .expect("a folder of a path that the store listed");
    let listed = store.list(Some(&commits)).try_next().await;
    let Some(any) = listed.map_err(|source| store::listing_failed(&commits, source))? else {
        return Ok(Committed::default());
    };
    // The path spells the topic in the store's way; a commit knows its name.
    let partition = store::read_json::<Commit>(store, &any.location).await?.partition;
    let commits = archive.commits(&partition).await?;
    let files = commits
        .iter()
        .flat_map(|commit| commit.files.iter().chain(&commit.dead_letters));
    Ok(Committed {
        ranges: commits.iter().map(|commit| commit.offsets.start).collect(),
        files: files.map(|file| file.path.clone()).collect(),
    })
}

/// The folders in `folder`.
async fn folders(store: &dyn ObjectStore, folder: &Path) -> Result<Vec<Path>, StoreError> {
    let listing = store.list_with_delimiter(Some(folder)).await;
    let listing = listing.map_err(|source| store::listing_failed(folder, source))?;
    Ok(listing.common_prefixes)
}

fn locations(files: Vec<ObjectMeta>) -> Vec<Path> {
    files.into_iter().map(|file| file.location).collect()
}

/// Returns how many there were; what is gone already does not count.
async fn delete(store: &dyn ObjectStore, paths: Vec<Path>) -> Result<u64, StoreError> {
    let deletions: Vec<_> = paths
        .into_iter()
        .map(|path| async move {
            match store.delete(&path).await {
                Ok(()) => Ok(1),
                Err(object_store::Error::NotFound { .. }) => Ok(0),
                Err(source) => Err(StoreError::Failed {
                    attempt: format!("deleting {path}"),
                    source,
                }),
            }
        })
        .collect();
    let deleted: Vec<u64> = futures::stream::iter(deletions)
        .buffer_unordered(DELETES)
        .try_collect()
        .await?;
    Ok(deleted.into_iter().sum())
}
