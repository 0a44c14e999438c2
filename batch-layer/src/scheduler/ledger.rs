//! The persisted record of runs: what was started when and for which scheduled time, and how it ended.
//!
//! ```text
//! runs/first_start.json                                     when scheduling began here
//!      <scheduled ms>-<try>.started.json                    claim of a scheduled time, create-only
//!      <scheduled ms>-<try>.finished.json                   how it ended, create-only
//!      <started ms>-<attempt>.started.json, .finished.json  a run by hand
//!      loads/<generation>.failed.json                       why its first load into the warehouse failed, if it did
//!                        .loaded.json                       that the warehouse holds it
//! ```
//!
//! A run that was started and never finished died (unless it is under way in this very process); its scheduled time may
//! then be claimed again, as the next try. One process at a time schedules on a store; when there are two all the same,
//! a claim has one winner, and generations are published create-only anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::{self, Created, StoreError};

const FOLDER: &str = "runs";
const FIRST_START: &str = "runs/first_start.json";
const STARTED: &str = ".started.json";
const FINISHED: &str = ".finished.json";
const LOADS: &str = "runs/loads";
const LOADED: &str = "loaded.json";
const FAILED: &str = "failed.json";
/// Records read at the same time.
const READS: usize = 16;
/// Runs that are remembered.
pub(crate) const RUNS_KEPT: usize = 1_000;

/// What the ledger can run into.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store failed, or a record does not read as written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run was finished by somebody else, or twice with different outcomes.
    #[error("run {0} is finished already, by another attempt")]
    FinishedByOther(String),
}

/// The claim of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// Format of this record: 1.
    pub version: u32,
    /// Random id of the run.
    pub attempt: Uuid,
    /// The scheduled time that it stands for, milliseconds since 1970; `None` for a run by hand.
    pub scheduled_ms: Option<i64>,
    /// The first scheduled time that it stands for: earlier than `scheduled_ms` when it catches up on several.
    pub first_scheduled_ms: Option<i64>,
    /// How many scheduled times before `scheduled_ms` were skipped and are made good by it (counted up to a thousand).
    pub skipped: u64,
    /// Which try of that scheduled time this is, from 0.
    #[serde(rename = "try")]
    pub tried: u32,
    /// When it started, milliseconds since 1970.
    pub started_ms: i64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It published this generation.
    Published(u64),
    /// There was nothing new to publish.
    NothingNew,
    /// It failed, for this reason.
    Failed(String),
    /// It was stopped before its end, because the process ended. Caught up at the next start.
    Stopped,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Under way in this process.
    Running,
    /// Started, never finished: its process ended without a word. Caught up.
    Died,
    /// Ended like this.
    Finished(Outcome),
}

/// A run as `batch history` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// How it started.
    pub started: Started,
    /// When it ended, milliseconds since 1970.
    pub finished_ms: Option<i64>,
    /// What became of it.
    pub state: RunState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finished {
    version: u32,
    attempt: Uuid,
    finished_ms: i64,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstStart {
    version: u32,
    attempt: Uuid,
    at_ms: i64,
}

/// What became of the load of a generation into the warehouse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    /// Format of this record: 1.
    pub version: u32,
    /// Random id of the attempt that wrote it.
    pub attempt: Uuid,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// Why it failed, for the first time; `None`: the warehouse holds it.
    pub error: Option<String>,
}

store::records!(Started, Finished, FirstStart, Loaded);

/// The runs in a store. Cheap to clone; clones share what is under way.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Arc<dyn ObjectStore>,
    /// Attempts under way in this process.
    running: Arc<Mutex<BTreeSet<Uuid>>>,
    gate: Arc<tokio::sync::Mutex<()>>,
}

impl Started {
    fn stem(&self) -> String {
        match self.scheduled_ms {
            Some(scheduled) => format!("{scheduled:020}-{:010}", self.tried),
            None => format!("{:020}-{}", self.started_ms, self.attempt),
        }
    }
}

impl Ledger {
    /// The runs under `runs/` of `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            running: Arc::default(),
            gate: Arc::default(),
        }
    }

    /// Waits until no run is under way in this process, and keeps others from starting while the answer is held. A run
    /// by hand takes it around [`Ledger::start_by_hand`] and [`Ledger::finish`].
    pub async fn gate(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.gate).lock_owned().await
    }

    /// Up to when every scheduled time has been run or stood for: the newest scheduled run that ended by itself, else
    /// the first start of scheduling here, which is now (`now_ms`) if it has never been. Never after now: a clock that
    /// was ahead when runs were recorded does not stop scheduling until it is that late again.
    pub async fn done_until(&self, now_ms: i64) -> Result<i64, LedgerError> {
        let mine = FirstStart {
            version: 1,
            attempt: Uuid::new_v4(),
            at_ms: now_ms,
        };
        let first_start = match store::create_only(&*self.store, &Path::from(FIRST_START), &mine).await? {
            Created::Mine => mine,
            Created::Theirs(theirs) => theirs,
        };
        let newest = self.newest_ended().await?;
        let done_until = newest.map_or(first_start.at_ms, |newest| newest.max(first_start.at_ms));
        Ok(done_until.min(now_ms))
    }

    /// The newest scheduled time whose run ended by itself.
    async fn newest_ended(&self) -> Result<Option<i64>, LedgerError> {
        let ended_itself = |run: &Run| match &run.state {
            RunState::Finished(Outcome::Stopped) | RunState::Died | RunState::Running => None,
            RunState::Finished(_) => run.started.scheduled_ms,
        };
        let runs = self.history(usize::MAX).await?;
        Ok(runs.iter().filter_map(ended_itself).max())
    }

    /// Claims the try `tried` of the scheduled time `last_ms`, standing for those since `first_ms` (`skipped` of them
    /// before it) too. `None` when another scheduler has it.
    pub(super) async fn claim(
        &self,
        first_ms: i64,
        last_ms: i64,
        skipped: u64,
        tried: u32,
        now_ms: i64,
    ) -> Result<Option<Started>, LedgerError> {
        let started = Started {
            version: 1,
            attempt: Uuid::new_v4(),
            scheduled_ms: Some(last_ms),
            first_scheduled_ms: Some(first_ms),
            skipped,
            tried,
            started_ms: now_ms,
        };
        self.start(started).await
    }

    /// Records the start of a run by hand.
    pub async fn start_by_hand(&self, now_ms: i64) -> Result<Started, LedgerError> {
        let started = Started {
            version: 1,
            attempt: Uuid::new_v4(),
            scheduled_ms: None,
            first_scheduled_ms: None,
            skipped: 0,
            tried: 0,
            started_ms: now_ms,
        };
        let stem = started.stem();
        self.start(started).await?.ok_or(LedgerError::FinishedByOther(stem))
    }

    /// Records how a run ended.
    pub async fn finish(&self, started: &Started, outcome: Outcome, now_ms: i64) -> Result<(), LedgerError> {
        let finished = Finished {
            version: 1,
            attempt: started.attempt,
            finished_ms: now_ms,
            outcome,
        };
        let stored = store::create_only(&*self.store, &path(&started.stem(), FINISHED), &finished).await;
        self.running().remove(&started.attempt);
        match stored? {
            Created::Mine => Ok(()),
            Created::Theirs(_) => Err(LedgerError::FinishedByOther(started.stem())),
        }
    }

    /// Records what became of a load of `generation`: that it worked, or why it failed, of which the first reason stays.
    pub async fn load_ended(&self, generation: u64, error: Option<String>, now_ms: i64) -> Result<(), LedgerError> {
        let kind = if error.is_some() { FAILED } else { LOADED };
        let ended = Loaded {
            version: 1,
            attempt: Uuid::new_v4(),
            at_ms: now_ms,
            error,
        };
        let path = Path::from(format!("{LOADS}/{generation:020}.{kind}"));
        Ok(store::create_only(&*self.store, &path, &ended).await.map(drop)?)
    }

    /// What became of the loads of the newest `limit` generations of which that is recorded.
    pub async fn loads(&self, limit: usize) -> Result<BTreeMap<u64, Loaded>, LedgerError> {
        let newest = self.load_records().await?.into_iter().rev().take(limit);
        let read = newest.map(|(generation, paths)| async move {
            // "loaded" sorts behind "failed": the last word.
            let Some(path) = paths.last() else {
                return Ok::<_, LedgerError>(None);
            };
            match store::read_json::<Loaded>(&*self.store, path).await {
                Ok(load) => Ok(Some((generation, load))),
                Err(StoreError::Missing { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
        let read = futures::stream::iter(read).buffered(READS).try_collect::<Vec<_>>();
        Ok(read.await?.into_iter().flatten().collect())
    }

    /// The records of loads by generation, in order.
    async fn load_records(&self) -> Result<BTreeMap<u64, Vec<Path>>, LedgerError> {
        let mut found: BTreeMap<u64, Vec<Path>> = BTreeMap::new();
        for object in store::list(&*self.store, &Path::from(LOADS)).await? {
            let name = object.location.filename().and_then(|name| name.split_once('.'));
            if let Some(generation) = name.and_then(|(generation, _)| generation.parse().ok()) {
                found.entry(generation).or_default().push(object.location);
            }
        }
        found.values_mut().for_each(|paths| paths.sort_unstable());
        Ok(found)
    }

    /// The newest `limit` runs, newest first.
    pub async fn history(&self, limit: usize) -> Result<Vec<Run>, LedgerError> {
        let stems: Vec<(String, bool)> = self.stems().await?.into_iter().rev().take(limit).collect();
        let runs = futures::stream::iter(stems)
            .map(|(stem, finished)| self.read(stem, finished))
            .buffered(READS)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(runs.into_iter().flatten().collect())
    }

    /// Forgets all but the newest `keep` runs; returns how many objects that removed. The newest scheduled run that
    /// ended by itself is never forgotten: catch-up begins there.
    pub async fn prune(&self, keep: usize) -> Result<u64, LedgerError> {
        let mut removed = 0;
        for path in self.load_records().await?.into_values().rev().skip(keep).flatten() {
            removed += self.delete(&path).await?;
        }
        let stems = self.stems().await?;
        let Some(excess) = stems.len().checked_sub(keep).filter(|&excess| excess > 0) else {
            return Ok(removed);
        };
        let newest_ended = self.newest_ended().await?.map(|newest| format!("{newest:020}-"));
        for (stem, finished) in stems.into_iter().take(excess) {
            if newest_ended.as_ref().is_some_and(|newest| stem.starts_with(newest)) {
                continue;
            }
            // The claim goes last: the runs are listed by their claims, so nothing is left behind by a crash.
            for ending in [finished.then_some(FINISHED), Some(STARTED)].into_iter().flatten() {
                removed += self.delete(&path(&stem, ending)).await?;
            }
        }
        Ok(removed)
    }

    /// How many objects that removed: one, or none.
    async fn delete(&self, path: &Path) -> Result<u64, LedgerError> {
        match self.store.delete(path).await {
            Ok(()) => Ok(1),
            Err(object_store::Error::NotFound { .. }) => Ok(0),
            Err(source) => {
                let attempt = format!("deleting {path}");
                Err(StoreError::Failed { attempt, source }.into())
            }
        }
    }

    async fn start(&self, started: Started) -> Result<Option<Started>, LedgerError> {
        self.running().insert(started.attempt);
        let claimed = store::create_only(&*self.store, &path(&started.stem(), STARTED), &started).await;
        if !matches!(claimed, Ok(Created::Mine)) {
            self.running().remove(&started.attempt);
        }
        match claimed? {
            Created::Mine => Ok(Some(started)),
            Created::Theirs(_) => Ok(None),
        }
    }

    /// How many tries of a scheduled time are over without having ended by themselves: the number of the next try.
    pub(super) async fn tries_over(&self, scheduled_ms: i64) -> Result<u32, LedgerError> {
        let prefix = format!("{scheduled_ms:020}-");
        let mut over = 0;
        for (stem, finished) in self.stems().await? {
            let tried = stem.strip_prefix(&prefix).and_then(|tried| tried.parse::<u32>().ok());
            let Some(tried) = tried else { continue };
            let Some(run) = self.read(stem, finished).await? else {
                continue;
            };
            if matches!(run.state, RunState::Died | RunState::Finished(Outcome::Stopped)) {
                over = over.max(tried + 1);
            }
        }
        Ok(over)
    }

    /// Names of the runs, oldest first, with whether they are finished.
    async fn stems(&self) -> Result<BTreeMap<String, bool>, LedgerError> {
        let folder = Path::from(FOLDER);
        let names: Vec<Path> = self
            .store
            .list(Some(&folder))
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .map_err(|source| StoreError::Failed {
                attempt: format!("listing {folder}"),
                source,
            })?;
        let mut stems = BTreeMap::new();
        for name in names.iter().filter_map(Path::filename) {
            if let Some(stem) = name.strip_suffix(STARTED) {
                stems.entry(stem.to_owned()).or_insert(false);
            }
        }
        for name in names.iter().filter_map(Path::filename) {
            if let Some(stem) = name.strip_suffix(FINISHED)
                && let Some(finished) = stems.get_mut(stem)
            {
                *finished = true;
            }
        }
        Ok(stems)
    }

    /// `None` when it was forgotten meanwhile.
    async fn read(&self, stem: String, finished: bool) -> Result<Option<Run>, LedgerError> {
        let started: Started = match store::read_json(&*self.store, &path(&stem, STARTED)).await {
            Ok(started) => started,
            Err(StoreError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !finished {
            let state = match self.running().contains(&started.attempt) {
                true => RunState::Running,
                false => RunState::Died,
            };
            return Ok(Some(Run {
                started,
                finished_ms: None,
                state,
            }));
        }
        match store::read_json::<Finished>(&*self.store, &path(&stem, FINISHED)).await {
            Ok(end) => Ok(Some(Run {
                started,
                finished_ms: Some(end.finished_ms),
                state: RunState::Finished(end.outcome),
            })),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeSet<Uuid>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path(stem: &str, ending: &str) -> Path {
    Path::from(format!("{FOLDER}/{stem}{ending}"))
}
