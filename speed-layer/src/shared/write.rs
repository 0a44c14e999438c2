//! From what is folded here to the shared store.
//!
//! Every flush of a partition begins with the newest record that is there, whoever wrote it, and never with what this
//! process remembers to have written: a checkpoint, an acknowledgement or a lost reply may say more or less than the
//! store. Then it writes versions, all of them acknowledged, then the record.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, BinaryArray, UInt64Array};
use arrow::compute::take;
use foldline_event_log::{Clock, Offset, TopicPartition, with_causes};
use foldline_sql::{Catalog, Fold, KeyedRows, Partial};
use futures::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::plan::{SPREAD_KEYS, Step, plan};
use super::record::{Garbage, Record, StoredSegment, StoredView};
use super::{HEADS, Head, Rank, SharedStore, StoreError, Versions, bucket_of, buckets, chained, folds_of};
use crate::{Gaps, PartitionView, Segment, Snapshot, SpeedLayer};

/// Keys written at once.
const KEYS_AT_ONCE: usize = 16_384;
/// Tries of one write, and the time before the second one; each further one waits twice as long.
const WRITE_ATTEMPTS: u32 = 6;
const AGAIN_AFTER: Duration = Duration::from_millis(5);
/// Records of a partition below the newest ones go once there are so many new ones.
const RETIRE_EVERY: i64 = 16;

/// Settings of a writer.
#[derive(Debug, Clone)]
pub struct WriterSettings {
    /// Time between flushes.
    pub every: Duration,
    /// A record is written at least this often, so that readers see that somebody writes.
    pub alive: Duration,
    /// What no record names any more is kept for so long: longer than any read goes on.
    pub kept: Duration,
    /// Segments older than this are written anew, by the wall clock, before the store's own expiry may take them.
    pub rewrite_after: Duration,
}

/// What was written since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Versions of keys.
    pub versions: u64,
    /// Bytes of their keys and states.
    pub bytes: u64,
    /// Coverage records.
    pub records: u64,
    /// Segments removed.
    pub removed: u64,
    /// Flushes of a partition that failed.
    pub failures: u64,
}

/// Writes the partitions that are folded here.
#[derive(Debug)]
pub struct Writer {
    store: Arc<dyn SharedStore>,
    folds: HashMap<String, Arc<Fold>>,
    gaps: Gaps,
    clock: Arc<dyn Clock>,
    settings: WriterSettings,
    partitions: BTreeMap<TopicPartition, Partition>,
    written: Written,
}

/// What is known of a partition in the store. Never more than what makes flushes cheap.
#[derive(Debug, Default)]
struct Partition {
    /// The newest record when last looked at.
    known: Option<(Head, Arc<Record>)>,
    /// What the segment holds that ends the record, if this process wrote it.
    base: Option<Base>,
    /// A record that may be there or not.
    pending: Option<Pending>,
    /// What was written for records that are not there; they may come yet, and so it is garbage only below a record that
    /// ranks above.
    orphans: Vec<(Option<Rank>, Garbage)>,
    /// When garbage of the known record may go.
    due: HashMap<Uuid, Instant>,
    /// What was shown when the known record was written here, and when that was.
    flushed: Option<(Arc<PartitionView>, Instant)>,
    failing: bool,
    written: Written,
}

/// What the store holds of the last segment.
#[derive(Debug, Clone)]
struct Base {
    segment: Uuid,
    views: HashMap<String, Held>,
}

/// What the store holds of a view in the last segment: every key of `partials`.
#[derive(Debug, Clone)]
struct Held {
    partials: Vec<Partial>,
    rows: Arc<KeyedRows>,
}

#[derive(Debug)]
struct Pending {
    head: Head,
    record: Arc<Record>,
    says: Vec<u8>,
    base: Option<Base>,
    /// Segments that it alone names.
    new: Vec<Garbage>,
    removed: Vec<Uuid>,
    view: Arc<PartitionView>,
}

/// What a flush did with the segments that it names.
#[derive(Debug, Default)]
struct Stretch {
    segments: Vec<StoredSegment>,
    new: Vec<Garbage>,
    base: Option<Base>,
}

impl Writer {
    /// For the views of `catalog`; `gaps` are those that the archive has accepted.
    pub fn new(
        store: Arc<dyn SharedStore>,
        catalog: &Catalog,
        gaps: Gaps,
        clock: Arc<dyn Clock>,
        settings: WriterSettings,
    ) -> Self {
        Self {
            store,
            folds: folds_of(catalog),
            gaps,
            clock,
            settings,
            partitions: BTreeMap::new(),
            written: Written::default(),
        }
    }

    /// Flushes what `speed` folds, again and again, until `stop` fires; then once more.
    pub async fn run(mut self, speed: SpeedLayer, stop: CancellationToken) {
        loop {
            let ended = stop.is_cancelled();
            self.flush(&speed.snapshot()).await;
            if ended {
                return;
            }
            stop.run_until_cancelled(tokio::time::sleep(self.settings.every)).await;
        }
    }

    /// What was written since the start.
    pub fn written(&self) -> Written {
        self.written
    }

    /// Brings the store to `snapshot`: partitions at once, each by itself. One that fails is tried again by the next
    /// flush. True if none failed.
    pub async fn flush(&mut self, snapshot: &Snapshot) -> bool {
        // Somebody else's now: what is known of them grows old.
        self.partitions
            .retain(|partition, _| snapshot.partitions.contains_key(partition));
        for partition in snapshot.partitions.keys() {
            self.partitions.entry(partition.clone()).or_default();
        }
        let context = Context {
            store: self.store.as_ref(),
            folds: &self.folds,
            settings: &self.settings,
            now_ms: self.clock.now_ms(),
        };
        let gaps = &self.gaps;
        let flushes = self.partitions.iter_mut().map(|(partition, state)| {
            let view = &snapshot.partitions[partition];
            let gaps = gaps.get(partition).map_or(&[][..], Vec::as_slice);
            let context = &context;
            async move {
                let flushed = context.flush(partition, state, view, gaps).await;
                state.note(partition, flushed)
            }
        });
        let fine = join_all(flushes).await.into_iter().all(|fine| fine);
        for state in self.partitions.values_mut() {
            self.written.add(std::mem::take(&mut state.written));
        }
        fine
    }
}

impl Written {
    fn add(&mut self, other: Self) {
        self.versions += other.versions;
        self.bytes += other.bytes;
        self.records += other.records;
        self.removed += other.removed;
        self.failures += other.failures;
    }
}

impl Partition {
    fn note(&mut self, partition: &TopicPartition, flushed: Result<(), StoreError>) -> bool {
        match flushed {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(%partition, "the shared store has the realtime view again");
                }
                true
            }
            Err(error) => {
                self.written.failures += 1;
                if !std::mem::replace(&mut self.failing, true) {
                    let error = with_causes(&error);
                    tracing::warn!(%partition, error, "the shared store does not have the newest realtime view");
                }
                false
            }
        }
    }

    /// The pending record is there.
    fn acknowledge(&mut self, pending: Pending, kept: Duration) {
        let now = Instant::now();
        let due = std::mem::take(&mut self.due);
        let garbage = pending.record.garbage.iter();
        self.due = garbage
            .map(|garbage| (garbage.id, due.get(&garbage.id).copied().unwrap_or(now + kept)))
            .collect();
        self.orphans.retain(|(_, orphan)| !self.due.contains_key(&orphan.id));
        self.known = Some((pending.head, pending.record));
        self.base = pending.base;
        self.flushed = Some((pending.view, now));
        self.written.records += 1;
        self.written.removed += pending.removed.len() as u64;
    }

    /// The pending record never will be the newest.
    fn abandon(&mut self) {
        if let Some(pending) = self.pending.take() {
            let rank = Some(pending.head.rank);
            self.orphans.extend(pending.new.into_iter().map(|new| (rank, new)));
        }
        self.base = None;
    }
}

/// What flushes of all partitions share.
#[derive(Debug)]
struct Context<'a> {
    store: &'a dyn SharedStore,
    folds: &'a HashMap<String, Arc<Fold>>,
    settings: &'a WriterSettings,
    now_ms: i64,
}

impl Context<'_> {
    async fn flush(
        &self,
        partition: &TopicPartition,
        state: &mut Partition,
        view: &Arc<PartitionView>,
        gaps: &[std::ops::Range<Offset>],
    ) -> Result<(), StoreError> {
        let looked = Instant::now();
        let heads = self.store.heads(partition).await?;
        self.settle(partition, state, &heads, looked).await?;
        let era = self.adopt(partition, state, &heads, gaps).await?;
        let old = state.known.as_ref().filter(|_| era.is_none());
        let old = old.map(|(_, record)| Arc::clone(record));
        let behind = old.as_ref().filter(|old| old.until > view.until);
        let alive = state
            .flushed
            .as_ref()
            .is_none_or(|(_, at)| at.elapsed() >= self.settings.alive);
        let same = state
            .flushed
            .as_ref()
            .is_some_and(|(flushed, _)| Arc::ptr_eq(flushed, view));
        let removable = removable(state);
        if era.is_none() && !alive && (same || behind.is_some()) && removable.is_empty() {
            return Ok(());
        }
        let stretch = match behind {
            Some(ahead) => Stretch {
                segments: ahead.segments.clone(),
                ..Stretch::default()
            },
            None => self.write(state, old.as_deref(), view).await?,
        };
        for garbage in &removable {
            self.remove(garbage).await?;
        }
        let before = heads.first();
        let until = behind.map_or(view.until, |ahead| ahead.until);
        let head = Head {
            rank: Rank {
                era: era.unwrap_or_else(|| before.map_or(0, |before| before.rank.era)),
                until,
                number: before.map_or(0, |before| before.rank.number) + 1,
            },
            id: Uuid::new_v4(),
            previous: before.filter(|_| old.is_some()).map(|before| before.id),
        };
        let removed: Vec<Uuid> = removable.iter().map(|garbage| garbage.id).collect();
        // What was complete once is so for good, as far as it is still covered.
        let was = old.as_deref();
        let record = Arc::new(Record {
            partition: partition.clone(),
            garbage: garbage(state, head.rank, &stretch.segments, &removed),
            segments: stretch.segments,
            kept_ms: self.settings.kept.as_millis() as u64,
            until,
            read_to: view.read_to.max(until).max(was.map_or(until, |was| was.read_to)),
            end: view.end.max(until),
            complete_to: view.complete_to.max(was.and_then(|was| was.complete_to)),
            replaying_to: behind.map(|ahead| ahead.until).or(view.replaying_to),
            stopped: view.stopped.clone(),
        });
        state.pending = Some(Pending {
            says: record.encode(),
            record,
            head,
            base: stretch.base,
            new: stretch.new,
            removed,
            view: Arc::clone(view),
        });
        self.settle(partition, state, &heads, looked).await?;
        if head.rank.number % RETIRE_EVERY == 0 && heads.len() == HEADS {
            self.store.retire(partition, heads[HEADS - 1].rank).await?;
        }
        Ok(())
    }

    /// Finishes a record whose fate is unknown: it is there, or is written as it is as long as nobody wrote another one,
    /// or will never be the newest.
    async fn settle(
        &self,
        partition: &TopicPartition,
        state: &mut Partition,
        heads: &[Head],
        looked: Instant,
    ) -> Result<(), StoreError> {
        let Some(pending) = &state.pending else { return Ok(()) };
        let there = heads.iter().any(|head| head.id == pending.head.id);
        let next = match heads.first() {
            Some(newest) => newest.rank.number + 1 == pending.head.rank.number && newest.rank < pending.head.rank,
            None => pending.head.rank.number == 1,
        };
        if !there && !next {
            state.abandon();
            return Ok(());
        }
        if !there {
            if looked.elapsed() > self.settings.kept / 2 {
                return Err(StoreError::TooSlow(format!(
                    "a flush of {partition} took {} s",
                    looked.elapsed().as_secs()
                )));
            }
            self.store.cover(partition, &pending.head, &pending.says).await?;
        }
        if let Some(pending) = state.pending.take() {
            state.acknowledge(pending, self.settings.kept);
        }
        Ok(())
    }

    /// Takes over the newest record, if it is another one than is known. Where it cannot be gone on from, the number of
    /// the era that begins.
    async fn adopt(
        &self,
        partition: &TopicPartition,
        state: &mut Partition,
        heads: &[Head],
        gaps: &[std::ops::Range<Offset>],
    ) -> Result<Option<i64>, StoreError> {
        let Some(newest) = heads.first() else {
            if state.known.is_some() {
                tracing::error!(%partition, "the shared store lost the realtime view; writing it anew");
            }
            let lost = state.known.take().map(|(head, _)| head.rank.era + 1);
            state.base = None;
            return Ok(lost);
        };
        let known = state.known.as_ref();
        if known.is_some_and(|(head, _)| head.rank > newest.rank) {
            // Acknowledged, and gone: so may be versions that were.
            let era = known.map_or(0, |(head, _)| head.rank.era.max(newest.rank.era)) + 1;
            return Ok(Some(begin_anew(
                partition,
                state,
                "it lost a coverage record that it had acknowledged",
                era,
            )));
        }
        if !chained(heads) {
            let reason = "it lost the coverage record before the newest one";
            return Ok(Some(begin_anew(partition, state, reason, newest.rank.era + 1)));
        }
        if known.is_none_or(|(head, _)| head.id != newest.id) {
            state.base = None;
            let says = self.store.record(partition, newest).await?;
            let says =
                says.ok_or_else(|| StoreError::Damaged(format!("a coverage record of {partition} is not there")))?;
            let record = Record::decode(&says, partition)?;
            // As if it became garbage only now: nobody here knows since when it is.
            let due = Instant::now() + self.settings.kept;
            state.due = record.garbage.iter().map(|garbage| (garbage.id, due)).collect();
            state.known = Some((*newest, Arc::new(record)));
            state.flushed = None;
        }
        let (_, record) = state.known.as_ref().expect("a record is known now");
        let judged_by = |gap: &std::ops::Range<Offset>| record.start() < gap.end && record.until > gap.start;
        if gaps.iter().any(judged_by) {
            let reason = "it holds what was folded of a gap that was accepted";
            return Ok(Some(begin_anew(partition, state, reason, newest.rank.era + 1)));
        }
        Ok(None)
    }

    /// Writes what is new in `view`.
    async fn write(
        &self,
        state: &mut Partition,
        old: Option<&Record>,
        view: &PartitionView,
    ) -> Result<Stretch, StoreError> {
        let stored = old.map_or(&[][..], |old| old.segments.as_slice());
        let oldest_ms = self.now_ms - self.settings.rewrite_after.as_millis() as i64;
        let steps = plan(stored, view, oldest_ms);
        let base = state.base.take();
        let (mut stretch, last) = (Stretch::default(), steps.len().saturating_sub(1));
        for (at, step) in steps.into_iter().enumerate() {
            let outcome = match step {
                Step::Keep(segment) => {
                    if at == last {
                        stretch.base = base.clone().filter(|base| base.segment == segment.id);
                    }
                    stretch.segments.push(segment);
                    continue;
                }
                Step::Extend(before, segment) => {
                    let base = base.as_ref().filter(|base| base.segment == before.id);
                    self.write_segment(Some(&before), &segment, base, &mut state.written)
                        .await
                }
                Step::Write(segment) => self.write_segment(None, &segment, None, &mut state.written).await,
            };
            match outcome {
                Ok((segment, base)) => {
                    if !stored.iter().any(|stored| stored.id == segment.id) {
                        stretch.new.push(segment.garbage());
                    }
                    stretch.segments.push(segment);
                    if at == last {
                        stretch.base = Some(base);
                    }
                }
                Err((error, begun)) => {
                    let begun = stretch.new.into_iter().chain(begun);
                    state.orphans.extend(begun.map(|one| (None, one)));
                    return Err(error);
                }
            }
        }
        Ok(stretch)
    }

    /// Writes what changed in a segment since `base`, or everything where nothing is known of it.
    async fn write_segment(
        &self,
        before: Option<&StoredSegment>,
        segment: &Segment,
        base: Option<&Base>,
        written: &mut Written,
    ) -> Result<(StoredSegment, Base), (StoreError, Option<Garbage>)> {
        let id = before.map_or_else(Uuid::new_v4, |before| before.id);
        let ids = segment.views.keys().filter(|id| self.folds.contains_key(*id));
        let views = ids.map(|view| {
            let (before, held) = (
                before.and_then(|before| before.views.get(view)),
                base.and_then(|base| base.views.get(view)),
            );
            async move {
                self.write_view(view, id, before, segment, held)
                    .await
                    .map(|done| (view, done))
            }
        });
        let begun = || {
            // How far it came is not known, so both kinds of buckets.
            before.is_none().then(|| Garbage {
                id,
                views: segment.views.keys().map(|view| (view.clone(), true)).collect(),
            })
        };
        let done = try_join_all(views).await.map_err(|error| (error, begun()))?;
        let (mut stored, mut holds) = (BTreeMap::new(), HashMap::new());
        for (view, (now, held, wrote)) in done {
            written.add(wrote);
            stored.insert(view.clone(), now);
            holds.insert(view.clone(), held);
        }
        let stored = StoredSegment {
            id,
            offsets: segment.offsets.clone(),
            ticks: segment.ticks,
            marks: segment.marks,
            views: stored,
            failed: segment.failed.clone().into_iter().collect(),
            since_ms: before.map_or(self.now_ms, |before| before.since_ms),
        };
        let base = Base {
            segment: id,
            views: holds,
        };
        Ok((stored, base))
    }

    async fn write_view(
        &self,
        view: &str,
        id: Uuid,
        before: Option<&StoredView>,
        segment: &Segment,
        held: Option<&Held>,
    ) -> Result<(StoredView, Held, Written), StoreError> {
        let fold = &self.folds[view];
        let partials = segment.views[view].held();
        let partials =
            partials.ok_or_else(|| StoreError::Unfit("what is stored already cannot be written".to_owned()))?;
        if let Some(held) = held
            && is_same(&held.partials, partials)
            && let Some(before) = before
        {
            return Ok((before.clone(), held.clone(), Written::default()));
        }
        let whole = fold.merge(partials).await?;
        let rows = Arc::new(whole.to_rows()?);
        let spread = before.map_or(rows.keys.len() as u64 > SPREAD_KEYS, |before| before.spread);
        let changed = match held {
            Some(held) => changed_since(&held.rows, &rows),
            None => (0..rows.keys.len() as u64).collect(),
        };
        let mut written = Written::default();
        for some in changed.chunks(KEYS_AT_ONCE) {
            let versions = versions_of(view, id, segment.offsets.end, spread, &rows, some)?;
            self.write_versions(&versions).await?;
            written.versions += some.len() as u64;
            written.bytes += (versions.keys.value_data().len() + versions.states.value_data().len()) as u64;
        }
        let stored = StoredView {
            keys: rows.keys.len() as u64,
            versions: before.map_or(0, |before| before.versions) + written.versions,
            spread,
        };
        let held = Held {
            partials: partials.to_vec(),
            rows,
        };
        Ok((stored, held, written))
    }

    /// A reply that is lost costs one request and not the whole flush: a version that is stored again changes nothing.
    async fn write_versions(&self, versions: &Versions) -> Result<(), StoreError> {
        let mut wait = AGAIN_AFTER;
        for _ in 1..WRITE_ATTEMPTS {
            match self.store.write(versions).await {
                Err(StoreError::Unavailable { .. }) => tokio::time::sleep(wait).await,
                outcome => return outcome,
            }
            wait *= 2;
        }
        self.store.write(versions).await
    }

    async fn remove(&self, garbage: &Garbage) -> Result<(), StoreError> {
        let removals = garbage.views.iter().map(|(view, spread)| async move {
            let mut all = buckets(false);
            if *spread {
                all.extend(buckets(true));
            }
            self.store.remove(view, &all, garbage.id).await
        });
        try_join_all(removals).await.map(drop)
    }
}

/// Says why what the store holds cannot be gone on from; everything that it names becomes garbage.
fn begin_anew(partition: &TopicPartition, state: &mut Partition, reason: &str, era: i64) -> i64 {
    tracing::error!(%partition, reason, era, "the shared store cannot be gone on from; writing the realtime view anew");
    state.base = None;
    state.flushed = None;
    era
}

/// Garbage of the known record whose time has come.
fn removable(state: &Partition) -> Vec<Garbage> {
    let now = Instant::now();
    let garbage = state.known.iter().flat_map(|(_, record)| &record.garbage);
    let is_due = |garbage: &&Garbage| state.due.get(&garbage.id).is_some_and(|due| *due <= now);
    garbage.filter(is_due).cloned().collect()
}

/// What is named now and not by `segments`, what was garbage and is not `removed`, and what never was named.
fn garbage(state: &Partition, rank: Rank, segments: &[StoredSegment], removed: &[Uuid]) -> Vec<Garbage> {
    let mut garbage: BTreeMap<Uuid, Garbage> = BTreeMap::new();
    if let Some((_, record)) = &state.known {
        let gone = record.segments.iter().map(StoredSegment::garbage);
        garbage.extend(gone.chain(record.garbage.iter().cloned()).map(|one| (one.id, one)));
    }
    let orphans = state.orphans.iter().filter(|(of, _)| *of < Some(rank));
    garbage.extend(orphans.map(|(_, one)| (one.id, one.clone())));
    garbage.retain(|id, _| !removed.contains(id) && !segments.iter().any(|segment| segment.id == *id));
    garbage.into_values().collect()
}

fn is_same(before: &[Partial], now: &[Partial]) -> bool {
    before.len() == now.len()
        && before
            .iter()
            .zip(now)
            .all(|(one, other)| one.address() == other.address())
}

/// Places in `rows` of keys that `before` does not have, or has with another state.
fn changed_since(before: &KeyedRows, rows: &KeyedRows) -> Vec<u64> {
    let known: HashMap<&[u8], &[u8]> = pairs(before).collect();
    let changed = (0..)
        .zip(pairs(rows))
        .filter(|(_, (key, state))| known.get(key) != Some(state));
    changed.map(|(at, _)| at).collect()
}

fn pairs(rows: &KeyedRows) -> impl Iterator<Item = (&[u8], &[u8])> {
    (0..rows.keys.len()).map(|row| (rows.keys.value(row), rows.states.value(row)))
}

fn versions_of(
    view: &str,
    segment: Uuid,
    until: Offset,
    spread: bool,
    rows: &KeyedRows,
    places: &[u64],
) -> Result<Versions, StoreError> {
    let at = UInt64Array::from(places.to_vec());
    let some = |column: &BinaryArray| -> Result<BinaryArray, foldline_sql::FoldError> {
        let taken = take(column, &at, None).map_err(|source| foldline_sql::FoldError::Columns { source })?;
        Ok(taken.as_binary::<i32>().clone())
    };
    Ok(Versions {
        view: view.to_owned(),
        segment,
        until,
        buckets: places
            .iter()
            .map(|at| bucket_of(rows.groups[*at as usize], spread))
            .collect(),
        keys: some(&rows.keys)?,
        states: some(&rows.states)?,
    })
}
