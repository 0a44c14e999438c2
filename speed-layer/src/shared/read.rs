//! From the shared store to answers: who folded it, and whether they live, does not matter.
//!
//! A reader polls the newest record of every partition and shows what it names as a [`Snapshot`], without any partial.
//! Those are fetched when an answer asks for them: of a few keys a few rows, of all keys whole segments, which are kept
//! within a bound, as what a record names never changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldline_event_log::{Offset, TopicPartition, with_causes};
use foldline_sql::{Catalog, Fold, KeyLookup, KeySpan, Partial};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::record::{Record, StoredSegment, StoredView};
use super::{Head, Room, SharedStore, StoreError, Stored, Wanted, bucket_of, buckets, chained, folds_of};
use crate::{Partials, PartitionView, RealtimeStore, Segment, Snapshot};

/// Reads of one fetch that are under way at once.
const READS_AT_ONCE: usize = 16;
/// Segments that one read asks for.
const SEGMENTS_AT_ONCE: usize = 100;

/// Settings of a reader.
#[derive(Debug, Clone)]
pub struct ReaderSettings {
    /// Time between two looks for new records.
    pub every: Duration,
    /// A partition whose record does not change for so long is shown as one that nobody writes.
    pub silent: Duration,
    /// Bytes of partials that are kept.
    pub cache_bytes: usize,
}

/// Shows what a shared store holds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn SharedStore>,
    folds: HashMap<String, Arc<Fold>>,
    settings: ReaderSettings,
    partitions: Mutex<BTreeMap<TopicPartition, Shown>>,
    snapshot: RwLock<Snapshot>,
    cache: Mutex<Cache>,
    began: Instant,
}

/// What is known of a partition.
#[derive(Debug, Clone, Default)]
struct Shown {
    newest: Option<Newest>,
    /// Why it is not shown.
    refused: Option<String>,
}

#[derive(Debug, Clone)]
struct Newest {
    head: Head,
    view: PartitionView,
    segments: HashMap<(Uuid, Offset), Arc<Segment>>,
    confirmed: Arc<Confirmed>,
    changed: Instant,
}

/// When a partition's record was last known to be the newest: milliseconds since the reader began.
#[derive(Debug)]
struct Confirmed {
    partition: TopicPartition,
    at_ms: AtomicU64,
    kept_ms: AtomicU64,
}

/// The partials of a view in a segment of a shared store.
#[derive(Debug)]
pub struct StoredPartials {
    shared: Arc<Shared>,
    view: String,
    segment: Uuid,
    until: Offset,
    stored: StoredView,
    confirmed: Arc<Confirmed>,
}

impl Reader {
    /// For `partitions` and the views of `catalog`. Shows nothing until it has polled.
    pub fn new(
        store: Arc<dyn SharedStore>,
        catalog: &Catalog,
        partitions: impl IntoIterator<Item = TopicPartition>,
        settings: ReaderSettings,
    ) -> Self {
        let partitions = partitions.into_iter().map(|partition| (partition, Shown::default()));
        let shared = Shared {
            store,
            folds: folds_of(catalog),
            cache: Mutex::new(Cache::new(settings.cache_bytes)),
            settings,
            partitions: Mutex::new(partitions.collect()),
            snapshot: RwLock::default(),
            began: Instant::now(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Polls until `stop` fires.
    pub async fn run(self, stop: CancellationToken) {
        let mut failing = false;
        while !stop.is_cancelled() {
            match self.poll().await {
                Ok(()) => failing = false,
                Err(error) if !std::mem::replace(&mut failing, true) => {
                    let error = with_causes(&error);
                    tracing::warn!(
                        error,
                        "the shared store of realtime views cannot be read; showing what it held"
                    );
                }
                Err(_) => {}
            }
            stop.run_until_cancelled(tokio::time::sleep(self.shared.settings.every))
                .await;
        }
    }

    /// Looks for the newest record of every partition. An error of one leaves out none of the others.
    pub async fn poll(&self) -> Result<(), StoreError> {
        let known = self.partitions().clone();
        let looks = known.into_iter().map(|(partition, shown)| async move {
            let looked = self.shared.look(&partition, &shown).await;
            (partition, shown, looked)
        });
        let mut failed = None;
        let mut partitions = BTreeMap::new();
        for (partition, before, looked) in join_all(looks).await {
            let shown = looked.unwrap_or_else(|error| {
                failed = Some(error);
                before
            });
            partitions.insert(partition, shown);
        }
        let views = partitions.iter().filter_map(|(partition, shown)| {
            let view = self.shared.view_of(shown)?;
            Some((partition.clone(), Arc::new(view)))
        });
        let snapshot = Snapshot {
            partitions: views.collect(),
        };
        *self.partitions() = partitions;
        *self.shared.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        failed.map_or(Ok(()), Err)
    }

    /// The partitions that are not shown although the store holds something of them, with the reasons.
    pub fn refused(&self) -> BTreeMap<TopicPartition, String> {
        let partitions = self.partitions();
        let refused = partitions.iter().filter_map(|(partition, shown)| {
            let reason = shown.refused.clone()?;
            Some((partition.clone(), reason))
        });
        refused.collect()
    }

    fn partitions(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Shown>> {
        self.shared.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RealtimeStore for Reader {
    fn snapshot(&self) -> Snapshot {
        self.shared
            .snapshot
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Shared {
    async fn look(self: &Arc<Self>, partition: &TopicPartition, shown: &Shown) -> Result<Shown, StoreError> {
        let asked = self.began.elapsed();
        let heads = self.store.heads(partition).await?;
        let refuse = |reason: &str| {
            if shown.refused.as_deref() != Some(reason) {
                tracing::error!(%partition, reason, "the realtime view is not shown");
            }
            Ok(Shown {
                newest: shown.newest.clone(),
                refused: Some(reason.to_owned()),
            })
        };
        let Some(newest) = heads.first() else {
            return match shown.newest {
                Some(_) => refuse("the shared store lost it; whoever folds it writes it anew"),
                None => Ok(shown.clone()),
            };
        };
        if let Some(before) = &shown.newest {
            if before.head.id == newest.id {
                before.confirmed.confirm(asked);
                return Ok(Shown {
                    refused: None,
                    ..shown.clone()
                });
            }
            if newest.rank < before.head.rank {
                return refuse(
                    "the shared store lost a coverage record that it had shown; whoever folds it writes it anew",
                );
            }
            if newest.rank.until < before.head.rank.until {
                return refuse("it is written anew and has not come as far as it was shown");
            }
        }
        if !chained(&heads) {
            return refuse(
                "the shared store lost the coverage record before the newest one; whoever folds it writes it anew",
            );
        }
        // Superseded and removed since: the next look finds another one.
        let Some(says) = self.store.record(partition, newest).await? else {
            return Ok(shown.clone());
        };
        let record = Record::decode(&says, partition)?;
        Ok(Shown {
            newest: Some(self.newest(*newest, record, shown.newest.as_ref(), asked)),
            refused: None,
        })
    }

    fn newest(self: &Arc<Self>, head: Head, record: Record, before: Option<&Newest>, asked: Duration) -> Newest {
        // Of segments that it no longer names this would be too long: so those get another one.
        let same = before.filter(|before| names_all(&record, before));
        let confirmed = same.map(|before| Arc::clone(&before.confirmed)).unwrap_or_else(|| {
            Arc::new(Confirmed {
                partition: record.partition.clone(),
                at_ms: AtomicU64::new(0),
                kept_ms: AtomicU64::new(0),
            })
        });
        confirmed.kept_ms.store(record.kept_ms, Ordering::Relaxed);
        confirmed.confirm(asked);
        let mut segments = HashMap::with_capacity(record.segments.len());
        for stored in record.segments {
            let key = (stored.id, stored.offsets.end);
            let known = before.and_then(|before| before.segments.get(&key));
            let known = known.filter(|_| before.is_some_and(|before| Arc::ptr_eq(&before.confirmed, &confirmed)));
            let segment = match known {
                Some(known) => Arc::clone(known),
                None => Arc::new(self.segment(stored, &confirmed)),
            };
            segments.insert(key, segment);
        }
        let mut in_order: Vec<_> = segments.values().cloned().collect();
        in_order.sort_by_key(|segment| segment.offsets.start);
        Newest {
            head,
            view: PartitionView {
                segments: in_order,
                until: record.until,
                read_to: record.read_to,
                end: record.end,
                complete_to: record.complete_to,
                replaying_to: record.replaying_to,
                stopped: record.stopped,
            },
            segments,
            confirmed,
            changed: Instant::now(),
        }
    }

    fn segment(self: &Arc<Self>, stored: StoredSegment, confirmed: &Arc<Confirmed>) -> Segment {
        let known = stored.views.into_iter().filter(|(id, _)| self.folds.contains_key(id));
        let views = known.map(|(id, view)| {
            let partials = StoredPartials {
                shared: Arc::clone(self),
                view: id.clone(),
                segment: stored.id,
                until: stored.offsets.end,
                stored: view,
                confirmed: Arc::clone(confirmed),
            };
            (id, Partials::Stored(Arc::new(partials)))
        });
        Segment {
            views: views.collect(),
            offsets: stored.offsets,
            ticks: stored.ticks,
            failed: stored.failed.into_iter().collect(),
            marks: stored.marks,
        }
    }

    /// What readers are shown of a partition.
    fn view_of(&self, shown: &Shown) -> Option<PartitionView> {
        let newest = shown.newest.as_ref().filter(|_| shown.refused.is_none())?;
        let mut view = newest.view.clone();
        let (silent, unread) = (newest.changed.elapsed(), newest.confirmed.age(self.began));
        if view.stopped.is_none() && unread > self.settings.silent {
            view.stopped = Some(format!("the shared store could not be read for {} s", unread.as_secs()));
        } else if view.stopped.is_none() && silent > self.settings.silent {
            view.stopped = Some("no process with the role speed writes it".to_owned());
        }
        Some(view)
    }
}

/// Whether all that was named before is named still, at the same or a later version.
fn names_all(record: &Record, before: &Newest) -> bool {
    let named: HashSet<Uuid> = record.segments.iter().map(|segment| segment.id).collect();
    before.segments.keys().all(|(id, _)| named.contains(id))
}

impl Confirmed {
    fn confirm(&self, asked: Duration) {
        self.at_ms.fetch_max(asked.as_millis() as u64, Ordering::Relaxed);
    }

    fn age(&self, began: Instant) -> Duration {
        let at = Duration::from_millis(self.at_ms.load(Ordering::Relaxed));
        began.elapsed().saturating_sub(at)
    }
}

impl StoredPartials {
    /// The partials of one view in several segments, as far as `keys` may mean their keys: a list of alternatives, of
    /// which the caller picks. Nothing is there twice. What they take, the cache's apart, is taken from `room`.
    pub async fn fetch(wanted: &[Arc<Self>], keys: &[KeyLookup], room: &dyn Room) -> Result<Vec<Partial>, StoreError> {
        let Some(shared) = wanted.first().map(|one| &one.shared) else {
            return Ok(Vec::new());
        };
        let everything = keys.iter().any(KeyLookup::is_everything);
        let mut found = Vec::with_capacity(wanted.len());
        let mut missing = Vec::new();
        for one in wanted.iter().filter(|one| one.stored.keys > 0) {
            match shared.cache().get(&one.place()) {
                Some(partial) => found.push(partial),
                None => missing.push(one),
            }
        }
        let Some(fold) = missing.first().and_then(|one| shared.folds.get(&one.view)) else {
            return Ok(found);
        };
        let spans: Vec<KeySpan> = match everything {
            true => vec![KeyLookup::default().span(fold)?],
            false => {
                let spans = keys
                    .iter()
                    .map(|key| key.span(fold))
                    .collect::<Result<BTreeSet<_>, _>>()?;
                spans.into_iter().collect()
            }
        };
        // Whole segments weigh what their records say, whatever their superseded versions are good for.
        let whole: u64 = missing.iter().map(|one| one.stored.bytes).sum();
        let gathering = Taken::new(
            room,
            if everything {
                usize::try_from(whole).unwrap_or(usize::MAX)
            } else {
                0
            },
        )?;
        let mut rows = shared
            .rows(&missing, &spans, (!everything).then_some(&gathering))
            .await?;
        for one in &missing {
            let rows = rows.remove(&one.segment).unwrap_or_default();
            if everything && rows.len() as u64 != one.stored.keys {
                return Err(one.damaged(&format!("{} of {} keys", rows.len(), one.stored.keys)));
            }
            let states = rows.into_values().map(|version| version.state(one));
            let states = states.collect::<Result<Vec<Bytes>, _>>()?;
            let partial = Partial::from_rows(fold, states.iter().map(Bytes::as_ref))?;
            room.take(partial.bytes())?;
            if everything {
                shared.cache().put(one.place(), &partial);
            }
            found.push(partial);
        }
        // Last: what was read until here was not removed yet.
        missing.iter().try_for_each(|one| one.in_time())?;
        Ok(found)
    }

    fn place(&self) -> Place {
        (self.view.clone(), self.segment, self.until)
    }

    fn damaged(&self, has: &str) -> StoreError {
        let (partition, until) = (&self.confirmed.partition, self.until);
        StoreError::Damaged(format!(
            "the segment of {partition} that ends at offset {until} has {has}"
        ))
    }

    fn in_time(&self) -> Result<(), StoreError> {
        let age = self.confirmed.age(self.shared.began);
        let kept = Duration::from_millis(self.confirmed.kept_ms.load(Ordering::Relaxed));
        if age < kept {
            return Ok(());
        }
        let (partition, age, kept) = (&self.confirmed.partition, age.as_secs(), kept.as_secs());
        Err(StoreError::TooSlow(format!(
            "coverage of {partition} was read {age} s ago, and what it names is kept for {kept} s"
        )))
    }
}

/// Bytes that are taken until this goes.
struct Taken<'a> {
    room: &'a dyn Room,
    bytes: AtomicUsize,
}

impl<'a> Taken<'a> {
    fn new(room: &'a dyn Room, bytes: usize) -> Result<Self, StoreError> {
        room.take(bytes)?;
        let bytes = AtomicUsize::new(bytes);
        Ok(Self { room, bytes })
    }

    fn more(&self, bytes: usize) -> Result<(), StoreError> {
        self.room.take(bytes)?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.room.give_back(self.bytes.load(Ordering::Relaxed));
    }
}

type Rows = BTreeMap<Bytes, Version>;

/// What a row that was read takes beside its key and its state.
const ROW_BYTES: usize = size_of::<Stored>() + size_of::<(Bytes, Version)>();

/// The newest version of a key that was read so far.
#[derive(Debug)]
struct Version {
    until: Offset,
    chunks: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Whole(Bytes),
    /// By number.
    Chunks(BTreeMap<u32, Bytes>),
}

impl Version {
    fn of(stored: Stored) -> Self {
        let cell = stored.cell;
        Self {
            until: stored.until,
            chunks: cell.chunks,
            state: match cell.chunks {
                1 => State::Whole(cell.state),
                _ => State::Chunks([(cell.chunk, cell.state)].into()),
            },
        }
    }

    fn take(&mut self, stored: Stored) {
        if stored.until > self.until {
            *self = Self::of(stored);
        } else if let State::Chunks(chunks) = &mut self.state
            && stored.until == self.until
        {
            chunks.insert(stored.cell.chunk, stored.cell.state);
        }
    }

    /// All of it: whoever wrote the record had all chunks acknowledged, so a missing one was lost.
    fn state(self, of: &StoredPartials) -> Result<Bytes, StoreError> {
        let chunks = match self.state {
            State::Whole(state) => return Ok(state),
            State::Chunks(chunks) => chunks,
        };
        let all = chunks.keys().copied().eq(0..self.chunks);
        if !all {
            return Err(of.damaged(&format!("{} of {} chunks of a state", chunks.len(), self.chunks)));
        }
        let mut state = Vec::with_capacity(chunks.values().map(Bytes::len).sum());
        chunks.values().for_each(|chunk| state.extend_from_slice(chunk));
        Ok(state.into())
    }
}

impl Shared {
    /// Of each key the newest version that is not beyond what is wanted, by segment. What comes is taken from `room`.
    async fn rows(
        &self,
        wanted: &[&Arc<StoredPartials>],
        spans: &[KeySpan],
        room: Option<&Taken<'_>>,
    ) -> Result<HashMap<Uuid, Rows>, StoreError> {
        let view = &wanted[0].view;
        let cell_bytes = wanted.iter().map(|one| one.stored.cell_bytes).max().unwrap_or_default();
        let cell_bytes = usize::try_from(cell_bytes).unwrap_or(usize::MAX);
        let untils: HashMap<Uuid, Offset> = wanted.iter().map(|one| (one.segment, one.until)).collect();
        let mut reads = Vec::new();
        for spread in [false, true] {
            let segments: Vec<Uuid> = wanted
                .iter()
                .filter(|one| one.stored.spread == spread)
                .map(|one| one.segment)
                .collect();
            for some in segments.chunks(SEGMENTS_AT_ONCE) {
                for span in spans {
                    let all = span
                        .group
                        .map_or_else(|| buckets(spread), |group| vec![bucket_of(group, spread)]);
                    reads.extend(all.into_iter().map(|bucket| (bucket, some.to_vec(), span)));
                }
            }
        }
        let read = |(bucket, segments, span): (i32, Vec<Uuid>, &'_ KeySpan)| {
            let (from, until) = (span.from.clone(), span.until.clone());
            async move {
                let wanted = Wanted {
                    view,
                    bucket,
                    segments: &segments,
                    from: &from,
                    until: &until,
                    cell_bytes,
                };
                self.store.read(wanted).await
            }
        };
        let reads: Vec<_> = reads.into_iter().map(read).collect();
        let mut answers = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        let mut rows: HashMap<Uuid, Rows> = HashMap::new();
        while let Some(found) = answers.try_next().await? {
            if let Some(room) = room {
                let held = |one: &Stored| ROW_BYTES + one.cell.key.len() + one.cell.state.len();
                room.more(found.iter().map(held).sum())?;
            }
            for stored in found {
                // What is beyond it nobody has named yet: it may be there in part.
                if stored.until > untils[&stored.segment] {
                    continue;
                }
                let of_segment = rows.entry(stored.segment).or_default();
                match of_segment.get_mut(&stored.cell.key) {
                    Some(newest) => newest.take(stored),
                    None => drop(of_segment.insert(stored.cell.key.clone(), Version::of(stored))),
                }
            }
        }
        Ok(rows)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// View, segment, until.
type Place = (String, Uuid, Offset);

/// Whole segments that were read last. What a record names never changes, so nothing here grows old.
#[derive(Debug)]
struct Cache {
    bytes_max: usize,
    bytes: usize,
    turn: u64,
    kept: HashMap<Place, (Partial, usize, u64)>,
    turns: BTreeMap<u64, Place>,
}

impl Cache {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            turn: 0,
            kept: HashMap::new(),
            turns: BTreeMap::new(),
        }
    }

    fn get(&mut self, place: &Place) -> Option<Partial> {
        let (partial, _, turn) = self.kept.get_mut(place)?;
        self.turn += 1;
        self.turns.remove(&std::mem::replace(turn, self.turn));
        self.turns.insert(self.turn, place.clone());
        Some(partial.clone())
    }

    fn put(&mut self, place: Place, partial: &Partial) {
        let bytes = partial.bytes();
        if bytes > self.bytes_max || self.kept.contains_key(&place) {
            return;
        }
        self.turn += 1;
        self.bytes += bytes;
        self.turns.insert(self.turn, place.clone());
        self.kept.insert(place, (partial.clone(), bytes, self.turn));
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.turns.pop_first() else {
                return;
            };
            if let Some((_, bytes, _)) = self.kept.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
    }
}
