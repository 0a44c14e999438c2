//! From what is folded here to the shared store.
//!
//! Every flush of a partition begins with the newest record that is there, whoever wrote it, and never with what this
//! process remembers to have written: a checkpoint, an acknowledgement or a lost reply may say more or less than the
//! store. Then it writes versions, all of them acknowledged, then the record.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arrow::array::{Array, LargeBinaryArray};
use arrow::buffer::Buffer;
use bytes::Bytes;
use foldline_event_log::{Clock, Offset, TopicPartition, with_causes};
use foldline_sql::{Catalog, Fold, KeyedRows, Partial, PartialIdentity};
use futures::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::plan::{SPREAD_KEYS, Step, plan};
use super::record::{Garbage, Record, StoredSegment, StoredView};
use super::{
    Cell, HEADS, Head, Rank, SharedStore, StoreError, Versions, all_follow, bucket_of, buckets, chained, folds_of,
};
use crate::{Gaps, MemoryShare, PartitionView, Segment, Snapshot, SpeedLayer};

/// Cells written at once, and their bytes.
const CELLS_AT_ONCE: usize = 16_384;
const BYTES_AT_ONCE: usize = 8 << 20;
/// Tries of one write, and the time before the second one; each further one waits twice as long.
const WRITE_ATTEMPTS: u32 = 6;
const AGAIN_AFTER: Duration = Duration::from_millis(5);
/// Segments that nobody names: where so many cannot be removed nothing more is written, as each failed flush adds one.
const UNNAMED_MAX: usize = 16;
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
    /// States that have more bytes are stored in chunks of so many.
    pub chunk_bytes: usize,
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
    /// What it holds counts as what the layer holds whose views it writes.
    share: Option<Arc<MemoryShare>>,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Segments of partitions that are somebody else's now, which no record ever named.
    unnamed: Vec<Garbage>,
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
    /// What was written for a flush that failed: no record names it, and none will.
    unnamed: Vec<Garbage>,
    /// Segments of this process that a record names or gives up.
    ours: BTreeMap<Uuid, Garbage>,
    /// What records name that other ones outrank, with their ranks. They may come yet, or be gone on from by others: so it
    /// is garbage only below a record that ranks above.
    outranked: Vec<(Rank, Garbage)>,
    /// Garbage of the known record.
    due: HashMap<Uuid, Due>,
    /// What was shown when the known record was written here, and when that was.
    flushed: Option<(Weak<PartitionView>, Instant)>,
    failing: bool,
    written: Written,
}

/// When garbage may go: then, and once only records are looked at that follow one which does not name it.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    given_up: Rank,
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
    partials: Vec<PartialIdentity>,
    rows: Arc<Encoded>,
}

/// Rows, which weigh.
#[derive(Debug)]
struct Encoded {
    rows: KeyedRows,
    _weight: Option<Weight>,
}

/// Bytes that count until this goes.
#[derive(Debug)]
struct Weight {
    share: Arc<MemoryShare>,
    bytes: usize,
}

impl Weight {
    fn of(share: Option<&Arc<MemoryShare>>, bytes: usize) -> Option<Self> {
        let share = Arc::clone(share?);
        share.change(0, bytes);
        Some(Self { share, bytes })
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.share.change(self.bytes, 0);
    }
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
    view: Weak<PartitionView>,
}

/// What became of a record whose fate was unknown, if there was one.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    /// It was there, or never will be the newest.
    Already,
    /// It is there now.
    Written,
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
            share: None,
            partitions: BTreeMap::new(),
            unnamed: Vec::new(),
            written: Written::default(),
        }
    }

    /// The same, and what it holds of encoded states counts towards the memory of `speed`, which stops reading at its bound.
    pub fn within(self, speed: &SpeedLayer) -> Self {
        Self {
            share: Some(Arc::new(speed.memory_share())),
            ..self
        }
    }

    /// Flushes what `speed` folds, again and again, until `stop` fires; then once more.
    pub async fn run(self, speed: SpeedLayer, stop: CancellationToken) {
        let mut writer = self.within(&speed);
        loop {
            let ended = stop.is_cancelled();
            writer.flush(&speed.snapshot()).await;
            if ended {
                // What was begun and not named.
                writer.flush(&Snapshot::default()).await;
                return;
            }
            stop.run_until_cancelled(tokio::time::sleep(writer.settings.every))
                .await;
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
        let others = |partition: &TopicPartition, _: &mut Partition| !snapshot.partitions.contains_key(partition);
        for (_, given_up) in self.partitions.extract_if(.., others) {
            self.unnamed.extend(given_up.unnamed);
        }
        for partition in snapshot.partitions.keys() {
            self.partitions.entry(partition.clone()).or_default();
        }
        let context = Context {
            store: self.store.as_ref(),
            folds: &self.folds,
            settings: &self.settings,
            share: self.share.as_ref(),
            now_ms: self.clock.now_ms(),
        };
        self.written.removed += context.remove_all(&mut self.unnamed).await.0;
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
        let new = Due {
            at: now + kept,
            given_up: pending.head.rank,
        };
        self.due = garbage
            .map(|garbage| (garbage.id, due.get(&garbage.id).copied().unwrap_or(new)))
            .collect();
        self.outranked.retain(|(_, one)| !self.due.contains_key(&one.id));
        self.ours.extend(pending.new.into_iter().map(|new| (new.id, new)));
        self.ours.retain(|id, _| !pending.removed.contains(id));
        self.known = Some((pending.head, pending.record));
        self.base = pending.base;
        self.flushed = Some((pending.view, now));
        self.written.records += 1;
        self.written.removed += pending.removed.len() as u64;
    }

    /// The pending record never will be the newest.
    fn abandon(&mut self) {
        if let Some(pending) = self.pending.take() {
            let rank = pending.head.rank;
            self.outranked.extend(pending.new.into_iter().map(|new| (rank, new)));
        }
        self.base = None;
    }

    /// Another record than the known one is the newest. What this process wrote and the new one knows nothing of is
    /// nobody's, unless somebody goes on from the record that names it.
    fn take_over(&mut self, newest: Head, record: Record, kept: Duration) {
        if let Some((known, _)) = self.known.take() {
            let segments = record.segments.iter().map(|segment| segment.id);
            let spoken_of: HashSet<Uuid> = segments.chain(record.garbage.iter().map(|one| one.id)).collect();
            let lost = self.ours.extract_if(.., |id, _| !spoken_of.contains(id));
            self.outranked.extend(lost.map(|(_, one)| (known.rank, one)));
        }
        // As if it became garbage only now: nobody here knows since when it is.
        let due = Due {
            at: Instant::now() + kept,
            given_up: newest.rank,
        };
        self.due = record.garbage.iter().map(|garbage| (garbage.id, due)).collect();
        self.known = Some((newest, Arc::new(record)));
        self.base = None;
        self.flushed = None;
    }
}

/// What flushes of all partitions share.
#[derive(Debug)]
struct Context<'a> {
    store: &'a dyn SharedStore,
    folds: &'a HashMap<String, Arc<Fold>>,
    settings: &'a WriterSettings,
    share: Option<&'a Arc<MemoryShare>>,
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
        let (removed, failure) = self.remove_all(&mut state.unnamed).await;
        state.written.removed += removed;
        if let Some(error) = failure
            && state.unnamed.len() >= UNNAMED_MAX
        {
            return Err(error);
        }
        let looked = Instant::now();
        let mut heads = self.store.heads(partition).await?;
        if self.settle(partition, state, &heads, looked).await? == Settled::Written {
            // Without it these would look as if it was lost.
            heads = self.store.heads(partition).await?;
        }
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
            .is_some_and(|(flushed, _)| std::ptr::eq(flushed.as_ptr(), Arc::as_ptr(view)));
        // What became garbage by a record that was lost may be named by those that others wrote instead.
        let mut removable = match era {
            Some(_) => Vec::new(),
            None => removable(state, &heads),
        };
        let wanted: Vec<Uuid> = removable.iter().map(|garbage| garbage.id).collect();
        // What cannot be removed now stays garbage.
        self.remove_all(&mut removable).await;
        let left: HashSet<Uuid> = removable.iter().map(|garbage| garbage.id).collect();
        let removed: Vec<Uuid> = wanted.into_iter().filter(|id| !left.contains(id)).collect();
        if era.is_none() && !alive && (same || behind.is_some()) && removed.is_empty() {
            return Ok(());
        }
        let stretch = match behind {
            Some(ahead) => Stretch {
                segments: ahead.segments.clone(),
                ..Stretch::default()
            },
            None => self.write(state, old.as_deref(), view).await?,
        };
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
            view: Arc::downgrade(view),
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
    ) -> Result<Settled, StoreError> {
        let Some(pending) = &state.pending else {
            return Ok(Settled::Already);
        };
        let there = heads.iter().any(|head| head.id == pending.head.id);
        let next = match heads.first() {
            Some(newest) => newest.rank.number + 1 == pending.head.rank.number && newest.rank < pending.head.rank,
            None => pending.head.rank.number == 1,
        };
        if !there && !next {
            state.abandon();
            return Ok(Settled::Already);
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
        Ok(if there { Settled::Already } else { Settled::Written })
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
            let lost = state.known.take().map(|(head, _)| head.rank);
            if let Some(rank) = lost {
                let ours = std::mem::take(&mut state.ours).into_values();
                state.outranked.extend(ours.map(|one| (rank, one)));
            }
            state.base = None;
            return Ok(lost.map(|rank| rank.era + 1));
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
            let says = self.store.record(partition, newest).await?;
            let says =
                says.ok_or_else(|| StoreError::Damaged(format!("a coverage record of {partition} is not there")))?;
            state.take_over(*newest, Record::decode(&says, partition)?, self.settings.kept);
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
        let base = state.base.take();
        let steps = plan(stored, view, oldest_ms, base.as_ref().map(|base| base.segment));
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
                    state.unnamed.extend(stretch.new.into_iter().chain(begun));
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
        let identities: Vec<PartialIdentity> = partials.iter().map(Partial::identity).collect();
        if let Some(held) = held
            && held.partials == identities
            && let Some(before) = before
        {
            return Ok((before.clone(), held.clone(), Written::default()));
        }
        let whole = fold.merge(partials).await?;
        let merging = Weight::of(self.share, whole.bytes());
        let rows = whole.to_rows(fold)?;
        drop((whole, merging));
        let rows = Arc::new(Encoded {
            _weight: Weight::of(self.share, rows.bytes()),
            rows,
        });
        let keys = rows.rows.keys.len();
        let spread = before.map_or(keys as u64 > SPREAD_KEYS, |before| before.spread);
        let changed = match held {
            Some(held) => changed_since(&held.rows.rows, &rows.rows),
            None => (0..keys).collect(),
        };
        let cells = Cells::new(&rows.rows, spread, self.settings.chunk_bytes.max(1));
        let mut stored = StoredView {
            keys: keys as u64,
            spread,
            ..before.cloned().unwrap_or_default()
        };
        let (mut some, mut bytes) = (Vec::new(), 0);
        let mut written = Written::default();
        for row in changed {
            stored.versions += 1;
            written.versions += 1;
            for cell in cells.of(row) {
                let cell_bytes = cell.key.len() + cell.state.len();
                stored.cell_bytes = stored.cell_bytes.max(cell_bytes as u64);
                stored.bytes += cell_bytes as u64;
                written.bytes += cell_bytes as u64;
                bytes += cell_bytes;
                some.push(cell);
                if some.len() == CELLS_AT_ONCE || bytes >= BYTES_AT_ONCE {
                    self.write_cells(view, id, segment.offsets.end, std::mem::take(&mut some))
                        .await?;
                    bytes = 0;
                }
            }
        }
        self.write_cells(view, id, segment.offsets.end, some).await?;
        let held = Held {
            partials: identities,
            rows,
        };
        Ok((stored, held, written))
    }

    async fn write_cells(&self, view: &str, segment: Uuid, until: Offset, cells: Vec<Cell>) -> Result<(), StoreError> {
        if cells.is_empty() {
            return Ok(());
        }
        let view = view.to_owned();
        let versions = Versions {
            view,
            segment,
            until,
            cells,
        };
        self.write_versions(&versions).await
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

    /// Removes what nobody names, until that fails; the rest stays in the list. Returns how many went, and the failure.
    async fn remove_all(&self, unnamed: &mut Vec<Garbage>) -> (u64, Option<StoreError>) {
        let mut removed = 0;
        while let Some(garbage) = unnamed.pop() {
            if let Err(error) = self.remove(&garbage).await {
                unnamed.push(garbage);
                return (removed, Some(error));
            }
            removed += 1;
        }
        (removed, None)
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
fn removable(state: &Partition, heads: &[Head]) -> Vec<Garbage> {
    let now = Instant::now();
    let garbage = state.known.iter().flat_map(|(_, record)| &record.garbage);
    let due = |garbage: &&Garbage| {
        let due = state.due.get(&garbage.id);
        due.is_some_and(|due| due.at <= now && all_follow(heads, due.given_up))
    };
    garbage.filter(due).cloned().collect()
}

/// What is named now and not by `segments`, what was garbage and is not `removed`, and what only outranked records name.
fn garbage(state: &Partition, rank: Rank, segments: &[StoredSegment], removed: &[Uuid]) -> Vec<Garbage> {
    let mut garbage: BTreeMap<Uuid, Garbage> = BTreeMap::new();
    if let Some((_, record)) = &state.known {
        let gone = record.segments.iter().map(StoredSegment::garbage);
        garbage.extend(gone.chain(record.garbage.iter().cloned()).map(|one| (one.id, one)));
    }
    let outranked = state.outranked.iter().filter(|(of, _)| *of < rank);
    garbage.extend(outranked.map(|(_, one)| (one.id, one.clone())));
    garbage.retain(|id, _| !removed.contains(id) && !segments.iter().any(|segment| segment.id == *id));
    garbage.into_values().collect()
}

/// Places in `rows` of keys that `before` does not have, or has with another state.
fn changed_since(before: &KeyedRows, rows: &KeyedRows) -> Vec<usize> {
    let known: HashMap<&[u8], &[u8]> = pairs(before).collect();
    let changed = (0..)
        .zip(pairs(rows))
        .filter(|(_, (key, state))| known.get(key) != Some(state));
    changed.map(|(at, _)| at).collect()
}

fn pairs(rows: &KeyedRows) -> impl Iterator<Item = (&[u8], &[u8])> {
    (0..rows.keys.len()).map(|row| (rows.keys.value(row), rows.states.value(row)))
}

/// Cells out of rows, of which they share the bytes.
struct Cells<'a> {
    rows: &'a KeyedRows,
    keys: Bytes,
    states: Bytes,
    spread: bool,
    chunk_bytes: usize,
}

impl<'a> Cells<'a> {
    fn new(rows: &'a KeyedRows, spread: bool, chunk_bytes: usize) -> Self {
        Self {
            rows,
            keys: shared(rows.keys.values()),
            states: shared(rows.states.values()),
            spread,
            chunk_bytes,
        }
    }

    /// The chunks of a row's state.
    fn of(&self, row: usize) -> impl Iterator<Item = Cell> {
        let bytes = |all: &Bytes, column: &LargeBinaryArray| {
            let offsets = column.value_offsets();
            all.slice(offsets[row] as usize..offsets[row + 1] as usize)
        };
        let key = bytes(&self.keys, &self.rows.keys);
        let state = bytes(&self.states, &self.rows.states);
        let chunks = u32::try_from(state.len().div_ceil(self.chunk_bytes).max(1)).expect("fewer chunks than 2^32");
        let bucket = bucket_of(self.rows.groups[row], self.spread);
        (0..chunks).map(move |chunk| {
            let from = chunk as usize * self.chunk_bytes;
            Cell {
                bucket,
                key: key.clone(),
                chunk,
                chunks,
                state: state.slice(from..state.len().min(from + self.chunk_bytes)),
            }
        })
    }
}

fn shared(buffer: &Buffer) -> Bytes {
    struct Owner(Buffer);

    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    Bytes::from_owner(Owner(buffer.clone()))
}
