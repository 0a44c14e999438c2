//! Generations: one published set of batch views, all computed at one cut, with the cut in the same write.
//!
//! ```text
//! views/<view id>/date=2024-05-01/<number>-<attempt>.partial    written first, never changed
//! generations/<number>.json                                     names them and the cut, create-only: this publishes
//! ```
//!
//! The highest number is current. A run that started from generation n may create n+1 and nothing else, so of two runs
//! one wins, and a reader sees the old files with the old cut or the new files with the new cut, never a mixture. A
//! crash before the last write leaves files that nobody names; the next run starts afresh.
//!
//! Rolling back is publishing too: n+1 names the files and the cut of an older generation. [`crate::garbage`] may be
//! about to remove just those, so a rollback goes in this order: write a *hold* (a copy of the old manifest), check
//! that the manifest is still stored and every file there, publish, take the hold away. Garbage collection removes
//! manifests first and looks for whatever names files only afterwards: holds and pins, then manifests.

mod cache;
mod stored;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use foldline_event_log::{Clock, Cut};
use foldline_sql::{Fold, Partial};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use cache::load as load_partial;
pub(crate) use stored::{Stored, everything, manifest_path};

use crate::RunKind;
use crate::store::{self, Created, StoreError};
use cache::PartialCache;
use stored::Hold;

/// Format number of manifests.
const VERSION: u32 = 1;
/// A listing during which a generation disappeared is done again this often.
const LISTINGS_MAX: usize = 10;
/// Files looked at at the same time before a rollback.
const HEADS: usize = 16;
/// A rollback that takes longer than this between its hold and its publication gives up.
const ROLLBACK_MS_MAX: i64 = 60 * 60 * 1_000;
/// A hold older than this is of a rollback that died.
pub(crate) const HOLD_MS_MAX: i64 = 24 * ROLLBACK_MS_MAX;

/// Number of a generation, from 1. The highest that exists is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationNumber(pub u64);

/// A published generation. Written create-only; never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Format of this record: 1. Another number is refused.
    pub version: u32,
    /// Its number.
    pub number: GenerationNumber,
    /// Random id of the attempt that wrote it.
    pub attempt: Uuid,
    /// Where batch ends.
    pub cut: Cut,
    /// Batch views by view id.
    pub views: BTreeMap<String, BatchView>,
    /// Why views are missing in `views`, by view id: their SQL failed on a row. They are computed again by every run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, String>,
    /// The generation that it started from, or rolled back to.
    pub based_on: Option<GenerationNumber>,
    /// How it came to be: `incremental`, `full` or `rollback`.
    pub kind: crate::RunKind,
    /// When it was published, milliseconds since 1970.
    pub published_ms: i64,
}

/// The batch half of a view in a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchView {
    /// Name of the view when it was computed.
    pub name: String,
    /// One partial per event date that has rows.
    pub dates: Vec<DatePartial>,
}

/// A partial of one event date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatePartial {
    /// UTC date of the event times.
    pub date: chrono::NaiveDate,
    /// Path in the store.
    pub path: String,
    /// Keys.
    pub keys: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 of the file.
    pub crc32: u32,
}

/// What generations can answer instead.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The store did not answer or not well.
    #[error("the object store failed while {attempt}")]
    Store {
        /// What was attempted.
        attempt: String,
        /// Cause.
        source: object_store::Error,
    },
    /// A record or partial that does not read as written.
    #[error("cannot read {path}: {reason}")]
    Damaged {
        /// Path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// What is stored changed under every look at it.
    #[error("generations changed during each of {looks} looks at them; try again")]
    Restless {
        /// How often it was looked.
        looks: u64,
    },
    /// A rollback that took too long to be safe.
    #[error("the rollback to generation {} took longer than an hour and was given up; try again", .0 .0)]
    TooSlow(GenerationNumber),
    /// No such generation.
    #[error("generation {} does not exist; `foldline generations list` shows those that do", .0 .0)]
    Unknown(GenerationNumber),
    /// Another run published this number first.
    #[error("lost generation {} to another run (attempt {winner})", .number.0)]
    Lost {
        /// Number.
        number: GenerationNumber,
        /// The attempt that won.
        winner: Uuid,
    },
    /// A cut below that of the generation it is based on.
    #[error("refused to publish generation {}: {reason}", .number.0)]
    Behind {
        /// Number.
        number: GenerationNumber,
        /// Both ends, named.
        reason: String,
    },
}

impl From<StoreError> for GenerationError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Failed { attempt, source } => Self::Store { attempt, source },
            StoreError::Missing { path } => Self::Damaged {
                path,
                reason: "it is missing".to_owned(),
            },
            StoreError::Damaged { path, reason } => Self::Damaged { path, reason },
        }
    }
}

/// What [`Generations::publish`] makes a generation of.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Random id of the attempt: the same for every try to publish this draft.
    pub attempt: Uuid,
    /// Where batch ends.
    pub cut: Cut,
    /// Batch views by view id; their files are stored already.
    pub views: BTreeMap<String, BatchView>,
    /// Why views are missing in `views`, by view id.
    pub failed: BTreeMap<String, String>,
    /// How it came to be. A rollback alone may lower the cut.
    pub kind: RunKind,
    /// The generation that it started from, or rolled back to.
    pub based_on: Option<GenerationNumber>,
}

/// A new generation is adopted after this, whether its partials are in memory or not.
const PREPARE_WITHIN: Duration = Duration::from_secs(5);

/// The published generations in a store. Cheap to clone; clones share what they know and hold in memory.
#[derive(Debug, Clone)]
pub struct Generations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    longest_query_ms: i64,
    keep: usize,
    /// Those that were readable when last looked, the current one among them.
    known: RwLock<BTreeMap<GenerationNumber, Arc<Generation>>>,
    refreshing: tokio::sync::Mutex<()>,
    cache: PartialCache,
}

impl Generations {
    /// The generations under `generations/` of `store`, their partials under `views/`. A superseded generation stays
    /// readable for `longest_query_ms`; the last `keep` and pinned ones stay stored.
    pub fn new(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>, longest_query_ms: i64, keep: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                clock,
                longest_query_ms,
                keep,
                known: RwLock::default(),
                refreshing: tokio::sync::Mutex::default(),
                cache: PartialCache::new(usize::MAX),
            }),
        }
    }

    /// Holds at most about `bytes_max` bytes of partials in memory.
    ///
    /// # Panics
    ///
    /// When there are clones already.
    pub fn caching(mut self, bytes_max: usize) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("set before it is shared");
        inner.cache = PartialCache::new(bytes_max);
        self
    }

    /// Bytes of partials in memory, and their bound.
    pub fn cached_bytes(&self) -> (usize, usize) {
        (self.inner.cache.bytes(), self.inner.cache.bytes_max())
    }

    /// The store that they lie in.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.store
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }

    pub(crate) fn keep(&self) -> usize {
        self.inner.keep
    }

    /// Looks for newer generations in the store; true if there are any. [`Generations::readable`] shows them then, once
    /// the newest one's partials of the views that were asked for are in memory.
    /// Partials that no readable generation names leave the memory.
    pub async fn refresh(&self) -> Result<bool, GenerationError> {
        let _one_at_a_time = self.inner.refreshing.lock().await;
        let before = self.current().map(|current| current.number);
        for _ in 0..LISTINGS_MAX {
            let Some(newer) = self.read_newer(before).await? else {
                continue;
            };
            if let (Some(current), Some(next)) = (before, newer.first()) {
                let (store, cache) = (self.store().as_ref(), &self.inner.cache);
                // What is not there in time, the first reader waits for.
                drop(tokio::time::timeout(PREPARE_WITHIN, cache.prepare(store, current, next)).await);
            }
            self.learn(newer);
            let readable = self.readable();
            if let Some(oldest) = readable.last() {
                let mut known = self.known_mut();
                *known = known.split_off(&oldest.number);
            }
            self.inner.cache.retain(&readable);
            return Ok(self.current().map(|current| current.number) > before);
        }
        Err(GenerationError::Restless {
            looks: LISTINGS_MAX as u64,
        })
    }

    /// Readable generations, newest first: the current one, and those superseded less than the longest query time
    /// ago. Empty before the first publication. Does no IO.
    pub fn readable(&self) -> Vec<Arc<Generation>> {
        let mut readable: Vec<Arc<Generation>> = Vec::new();
        for generation in self.known().values().rev() {
            // Publication times never descend: what stands before an unreadable one is unreadable.
            if readable.last().is_some_and(|successor| self.gone_by(successor)) {
                break;
            }
            readable.push(Arc::clone(generation));
        }
        readable
    }

    /// The current generation, if any. Does no IO.
    pub fn current(&self) -> Option<Arc<Generation>> {
        self.known().last_key_value().map(|(_, current)| Arc::clone(current))
    }

    /// A stored generation by number.
    pub async fn get(&self, number: GenerationNumber) -> Result<Arc<Generation>, GenerationError> {
        if let Some(known) = self.known().get(&number) {
            return Ok(Arc::clone(known));
        }
        for path in [stored::manifest_path(number), stored::pin_path(number)] {
            if let Some(found) = stored::read(self.store().as_ref(), &path, number).await? {
                return Ok(Arc::new(found));
            }
        }
        Err(GenerationError::Unknown(number))
    }

    /// Every stored generation, newest first, with whether it is pinned.
    pub async fn list(&self) -> Result<Vec<(Arc<Generation>, bool)>, GenerationError> {
        let Stored { manifests, pins, .. } = everything(self.store().as_ref()).await?;
        let mut all = manifests;
        all.extend(pins.iter().map(|(number, pinned)| (*number, Arc::clone(pinned))));
        let marked = all.into_iter().rev();
        Ok(marked
            .map(|(number, generation)| (generation, pins.contains_key(&number)))
            .collect())
    }

    /// The numbers of every stored generation, newest first, with whether it is pinned. Reads names alone.
    pub async fn numbers(&self) -> Result<Vec<(GenerationNumber, bool)>, GenerationError> {
        let store = self.store().as_ref();
        let pins = stored::pinned(store).await?;
        let mut all: BTreeMap<GenerationNumber, bool> = pins.into_iter().map(|number| (number, true)).collect();
        for number in stored::numbers_after(store, None).await? {
            all.entry(number).or_insert(false);
        }
        Ok(all.into_iter().rev().collect())
    }

    /// The partials of a batch view, checked against size and checksum, shared between callers and kept in memory
    /// while there is room. `None` where the generation has no such view (it is still `building`).
    pub async fn partials(
        &self,
        generation: &Generation,
        view_id: &str,
        fold: &Arc<Fold>,
    ) -> Result<Option<Arc<Vec<(chrono::NaiveDate, Partial)>>>, GenerationError> {
        let Some(view) = generation.views.get(view_id) else {
            return Ok(None);
        };
        let (store, cache) = (self.store().as_ref(), &self.inner.cache);
        cache.partials(store, generation, view_id, view, fold).await.map(Some)
    }

    /// Whether nothing needs to be loaded for an answer of a batch view of the current generation.
    pub fn holds(&self, view_id: &str) -> bool {
        let current = self.current();
        current.is_none_or(|current| {
            !current.views.contains_key(view_id) || self.inner.cache.holds(current.number, view_id)
        })
    }

    /// Publishes `draft` as the successor of `base` (the first generation, if there is none).
    ///
    /// | number after `base` | outcome |
    /// | --- | --- |
    /// | free | published |
    /// | this attempt's | published (an earlier reply was lost) |
    /// | another attempt's, or free again behind newer ones | `Lost`, nothing changed |
    /// | unless a rollback: any partition of `base`'s cut lower or missing in the draft's | `Behind`, nothing changed |
    pub async fn publish(&self, base: Option<&Generation>, draft: Draft) -> Result<Arc<Generation>, GenerationError> {
        let number = successor(base);
        if let (Some(base), RunKind::Incremental | RunKind::Full) = (base, draft.kind) {
            refuse_behind(base, &draft.cut)?;
        }
        let newer = stored::numbers_after(self.store().as_ref(), base.map(|base| base.number)).await?;
        if let Some(&winner) = newer.first().filter(|&&newer| newer > number) {
            // The number is free again because garbage collection removed it: nobody would ever see ours.
            let winner = self.get(winner).await?.attempt;
            return Err(GenerationError::Lost { number, winner });
        }
        // Never before its predecessor's: what is readable depends on the order.
        let published_ms = base.map_or(i64::MIN, |base| base.published_ms).max(self.now_ms());
        let generation = Generation {
            version: VERSION,
            number,
            attempt: draft.attempt,
            cut: draft.cut,
            views: draft.views,
            failed: draft.failed,
            based_on: draft.based_on,
            kind: draft.kind,
            published_ms,
        };
        let path = stored::manifest_path(number);
        match store::create_only(self.store().as_ref(), &path, &generation).await? {
            Created::Theirs(theirs) => Err(GenerationError::Lost {
                number,
                winner: theirs.attempt,
            }),
            Created::Mine => {
                // Read back: an earlier try of this attempt may have stored another publication time. It is published
                // in any case.
                let stored = stored::read(self.store().as_ref(), &path, number).await;
                let generation = Arc::new(stored.ok().flatten().unwrap_or(generation));
                self.learn(vec![Arc::clone(&generation)]);
                Ok(generation)
            }
        }
    }

    /// Publishes n+1 that names the files of `to`, and so lowers the cut.
    pub async fn rollback(&self, to: GenerationNumber) -> Result<Arc<Generation>, GenerationError> {
        self.refresh().await?;
        let current = self.current().ok_or(GenerationError::Unknown(to))?;
        let older = self.get(to).await?;
        let hold = Hold {
            version: 1,
            attempt: Uuid::new_v4(),
            held_ms: self.now_ms(),
            generation: Generation::clone(&older),
        };
        let hold_path = stored::hold_path(to, hold.attempt);
        store::create_only(self.store().as_ref(), &hold_path, &hold).await?;
        let outcome = self.roll_back_held(&current, &hold).await;
        match &outcome {
            // The manifest may be stored yet, or arrive late: its files stay held until garbage collection gives up on
            // the hold.
            Err(GenerationError::Store { .. }) => {}
            _ => self.delete(&hold_path).await?,
        }
        outcome
    }

    async fn roll_back_held(&self, current: &Generation, hold: &Hold) -> Result<Arc<Generation>, GenerationError> {
        let older = &hold.generation;
        if !self.still_stored(older.number).await? {
            return Err(GenerationError::Unknown(older.number));
        }
        self.files_exist(older).await?;
        if self.now_ms().saturating_sub(hold.held_ms) > ROLLBACK_MS_MAX {
            return Err(GenerationError::TooSlow(older.number));
        }
        let draft = Draft {
            attempt: hold.attempt,
            cut: older.cut.clone(),
            views: older.views.clone(),
            failed: older.failed.clone(),
            kind: RunKind::Rollback,
            based_on: Some(older.number),
        };
        self.publish(Some(current), draft).await
    }

    /// Pins a generation: it is kept until it is unpinned.
    pub async fn pin(&self, number: GenerationNumber) -> Result<(), GenerationError> {
        let path = stored::pin_path(number);
        if stored::read(self.store().as_ref(), &path, number).await?.is_some() {
            return Ok(());
        }
        let generation = self.get(number).await?;
        let json = serde_json::to_vec(&*generation).map_err(|error| GenerationError::Damaged {
            path: path.to_string(),
            reason: format!("the record does not encode: {error}"),
        })?;
        let put = self.store().put(&path, PutPayload::from(json)).await;
        put.map_err(|source| GenerationError::Store {
            attempt: format!("storing {path}"),
            source,
        })?;
        // Garbage collection that removed the manifest before may have looked for pins before ours.
        let manifest = stored::manifest_path(number);
        if stored::read(self.store().as_ref(), &manifest, number).await?.is_none() {
            self.delete(&path).await?;
            return Err(GenerationError::Unknown(number));
        }
        Ok(())
    }

    /// Takes a pin away. A generation that is not pinned stays as it is.
    pub async fn unpin(&self, number: GenerationNumber) -> Result<(), GenerationError> {
        self.get(number).await?;
        self.delete(&stored::pin_path(number)).await
    }

    /// The generations after `after` that are readable; `None` when one disappeared meanwhile.
    async fn read_newer(
        &self,
        after: Option<GenerationNumber>,
    ) -> Result<Option<Vec<Arc<Generation>>>, GenerationError> {
        let numbers = stored::numbers_after(self.store().as_ref(), after).await?;
        let mut read: Vec<Arc<Generation>> = Vec::new();
        for number in numbers.into_iter().rev() {
            if read.last().is_some_and(|successor| self.gone_by(successor)) {
                break;
            }
            let path = stored::manifest_path(number);
            match stored::read(self.store().as_ref(), &path, number).await? {
                Some(generation) => read.push(Arc::new(generation)),
                None => return Ok(None),
            }
        }
        Ok(Some(read))
    }

    /// Whether what `successor` superseded is no longer readable.
    pub(crate) fn gone_by(&self, successor: &Generation) -> bool {
        self.now_ms().saturating_sub(successor.published_ms) >= self.inner.longest_query_ms
    }

    async fn still_stored(&self, number: GenerationNumber) -> Result<bool, GenerationError> {
        for path in [stored::manifest_path(number), stored::pin_path(number)] {
            if stored::read(self.store().as_ref(), &path, number).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fails naming the first file that is missing or has another size.
    async fn files_exist(&self, generation: &Generation) -> Result<(), GenerationError> {
        let files: Vec<&DatePartial> = generation.views.values().flat_map(|view| &view.dates).collect();
        let checks: Vec<_> = files.into_iter().map(|file| self.file_exists(file)).collect();
        futures::stream::iter(checks)
            .buffer_unordered(HEADS)
            .try_collect()
            .await
    }

    async fn file_exists(&self, file: &DatePartial) -> Result<(), GenerationError> {
        let damaged = |reason: String| GenerationError::Damaged {
            path: file.path.clone(),
            reason,
        };
        let path = Path::parse(&file.path).map_err(|error| damaged(error.to_string()))?;
        match self.store().head(&path).await {
            Ok(object) if object.size == file.bytes => Ok(()),
            Ok(object) => Err(damaged(format!(
                "it has {} bytes instead of {}",
                object.size, file.bytes
            ))),
            Err(object_store::Error::NotFound { .. }) => Err(damaged("it is missing".to_owned())),
            Err(source) => Err(GenerationError::Store {
                attempt: format!("looking at {path}"),
                source,
            }),
        }
    }

    async fn delete(&self, path: &Path) -> Result<(), GenerationError> {
        match self.store().delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(GenerationError::Store {
                attempt: format!("deleting {path}"),
                source,
            }),
        }
    }

    fn learn(&self, generations: Vec<Arc<Generation>>) {
        let named = generations
            .into_iter()
            .map(|generation| (generation.number, generation));
        self.known_mut().extend(named);
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<GenerationNumber, Arc<Generation>>> {
        self.inner.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<GenerationNumber, Arc<Generation>>> {
        self.inner.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The only number that a run based on `base` may create.
pub(crate) fn successor(base: Option<&Generation>) -> GenerationNumber {
    GenerationNumber(base.map_or(1, |base| base.number.0 + 1))
}

/// Fails when `cut` lies anywhere below the cut of `base`, naming both ends.
pub(crate) fn refuse_behind(base: &Generation, cut: &Cut) -> Result<(), GenerationError> {
    let behind = |reason: String| {
        Err(GenerationError::Behind {
            number: successor(Some(base)),
            reason,
        })
    };
    let n = base.number.0;
    for old in &base.cut.partitions {
        let partition = &old.partition;
        match cut.of(partition) {
            Some(new) if new.next >= old.next => {}
            Some(new) => {
                return behind(format!(
                    "its cut of {partition} is offset {}, that of generation {n} is offset {}",
                    new.next, old.next
                ));
            }
            None => {
                return behind(format!(
                    "its cut does not name {partition} of incarnation {}, whose cut in generation {n} is offset {}",
                    partition.incarnation, old.next
                ));
            }
        }
    }
    if let (Some(old), new) = (base.cut.tick, cut.tick)
        && new < Some(old)
    {
        let new = new.map_or_else(|| "before everything".to_owned(), |tick| format!("tick {}", tick.0));
        return behind(format!("it is cut at {new}, generation {n} at tick {}", old.0));
    }
    Ok(())
}
