//! Rows to partials, partials to segments: the state of one partition.
//!
//! Every batch becomes one partial per view and is appended to the segment of its tick. A segment keeps a short list of
//! partials per view, like the runs of an LSM tree: a run is merged with the next larger one while that one is at most
//! twice as large, so a segment of n keys has O(log n) runs and a key is merged O(log n) times.
//!
//! ```text
//! tick 10:00:00          tick 10:00:10          tick 10:00:20 (grows)
//! offsets 0..812         812..1640              1640..1702
//! [ 700 keys | 90 | 12 ] [ 640 | 102 ]          [ 55 ]
//! ```

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use foldline_event_log::{EventBatch, MarkState, Offset, Tick, TopicPartition, with_causes};
use foldline_sql::{Fold, FoldError, Partial, View, system_columns};

use crate::checkpoint::StoredPlace;
use crate::{Partials, Segment};

use crate::retire::{Retention, boundary_stays};

/// The folds of one stream with their views.
pub(crate) type Folds = Arc<Vec<(Arc<View>, Arc<Fold>)>>;

/// What folding a partition can run into. Nothing of the batch was taken then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccumulateError {
    /// Partials of a view cannot be merged.
    #[error("cannot merge offsets {}..{} of {partition} in view \"{view}\"", .offsets.start, .offsets.end)]
    Merge {
        partition: TopicPartition,
        offsets: Range<Offset>,
        view: String,
        source: Box<FoldError>,
    },
    /// A batch does not begin where the last one ended, or goes back in ticks.
    #[error(
        "the reader of {partition} handed out offsets {}..{} of tick {} where offset {expected} of tick {after:?} or \
         later was next", .offsets.start, .offsets.end, .tick.0
    )]
    Chain {
        partition: TopicPartition,
        offsets: Range<Offset>,
        tick: Tick,
        expected: Offset,
        after: Option<Tick>,
    },
}

/// A partial of a segment, with what is known about it. Cloning shares the columns.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) partial: Partial,
    pub(crate) bytes: usize,
    /// Where a checkpoint holds it, once one does.
    pub(crate) stored: StoredPlace,
}

impl Part {
    pub(crate) fn new(partial: Partial) -> Self {
        let bytes = partial.bytes();
        Self {
            partial,
            bytes,
            stored: StoredPlace::default(),
        }
    }
}

/// A segment while it is worked on.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) offsets: Range<Offset>,
    pub(crate) ticks: (Tick, Tick),
    /// State of the marks at the end.
    pub(crate) marks: MarkState,
    /// Parts by view id, largest first once even.
    pub(crate) views: BTreeMap<String, Vec<Part>>,
    /// Why views are not among them, by view id.
    pub(crate) failed: BTreeMap<String, String>,
    /// Whether the lists may hold runs to merge.
    pub(crate) uneven: bool,
    shown: OnceLock<Arc<Segment>>,
}

impl Piece {
    pub(crate) fn new(
        offsets: Range<Offset>,
        ticks: (Tick, Tick),
        marks: MarkState,
        views: BTreeMap<String, Vec<Part>>,
        failed: BTreeMap<String, String>,
    ) -> Self {
        Self {
            offsets,
            ticks,
            marks,
            views,
            failed,
            uneven: true,
            shown: OnceLock::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.views.values().flatten().map(|part| part.bytes).sum()
    }

    /// Takes in what follows: `next` begins where this ends.
    fn extend(&mut self, next: Piece) {
        debug_assert_eq!(self.offsets.end, next.offsets.start, "segments follow each other");
        self.offsets.end = next.offsets.end;
        self.ticks.1 = next.ticks.1;
        self.marks = next.marks;
        for (view, parts) in next.views {
            self.views.entry(view).or_default().extend(parts);
        }
        for (view, reason) in next.failed {
            self.failed.entry(view).or_insert(reason);
        }
        self.views.retain(|view, _| !self.failed.contains_key(view));
        self.uneven = true;
        self.shown = OnceLock::new();
    }

    fn segment(&self) -> Arc<Segment> {
        Arc::clone(self.shown.get_or_init(|| {
            let partials = |parts: &Vec<Part>| Partials::Held(parts.iter().map(|part| part.partial.clone()).collect());
            let views = self.views.iter().map(|(view, parts)| (view.clone(), partials(parts)));
            Arc::new(Segment {
                offsets: self.offsets.clone(),
                ticks: self.ticks,
                views: views.collect::<HashMap<_, _>>(),
                failed: self.failed.clone().into_iter().collect(),
                marks: self.marks,
            })
        }))
    }
}

/// Where a partition's coverage begins: the cut it was started at, or the end of the last segment dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) next: Offset,
    pub(crate) marks: MarkState,
}

/// Everything folded of one partition.
#[derive(Debug)]
pub(crate) struct Accumulator {
    partition: TopicPartition,
    folds: Folds,
    start: Start,
    /// In offset order, without gap, from `start` on. The last one is open.
    pieces: Vec<Piece>,
    /// Tick of the last batch folded.
    newest: Option<Tick>,
}

impl Accumulator {
    pub(crate) fn new(partition: TopicPartition, folds: Folds, start: Start) -> Self {
        Self {
            partition,
            folds,
            start,
            pieces: Vec::new(),
            newest: None,
        }
    }

    /// Goes on from `pieces`, which follow each other from `start` on.
    pub(crate) fn restored(
        partition: TopicPartition,
        folds: Folds,
        start: Start,
        pieces: Vec<Piece>,
        newest: Option<Tick>,
    ) -> Self {
        Self {
            partition,
            folds,
            start,
            pieces,
            newest,
        }
    }

    pub(crate) fn folds(&self) -> &Folds {
        &self.folds
    }

    pub(crate) fn start(&self) -> Start {
        self.start
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(crate) fn newest(&self) -> Option<Tick> {
        self.newest
    }

    /// Next offset to fold.
    pub(crate) fn until(&self) -> Offset {
        self.pieces.last().map_or(self.start.next, |piece| piece.offsets.end)
    }

    /// State of the marks at [`Accumulator::until`].
    pub(crate) fn marks(&self) -> MarkState {
        self.pieces.last().map_or(self.start.marks, |piece| piece.marks)
    }

    /// Bytes that all partials hold.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(Piece::bytes).sum()
    }

    /// What readers see.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.pieces.iter().map(Piece::segment).collect()
    }

    /// Folds `batch` into every view. A view that a row fails is left out of this segment, with the reason: the row
    /// harms no other view. With the next segment it begins anew, so it is whole again once a generation covers the row.
    /// True if `batch` began a segment.
    pub(crate) async fn append(&mut self, batch: &EventBatch) -> Result<bool, AccumulateError> {
        if batch.offsets.start != self.until() || self.newest.is_some_and(|newest| batch.tick < newest) {
            return Err(AccumulateError::Chain {
                partition: self.partition.clone(),
                offsets: batch.offsets.clone(),
                tick: batch.tick,
                expected: self.until(),
                after: self.newest,
            });
        }
        let open = self.pieces.last().filter(|open| open.ticks.1 == batch.tick);
        let (mut views, mut failed) = (BTreeMap::new(), BTreeMap::new());
        for (view, fold) in self.folds.iter() {
            if open.is_some_and(|open| open.failed.contains_key(&view.id)) {
                continue;
            }
            let mut parts = Vec::new();
            if batch.rows.num_rows() > 0 {
                match fold.partial(&batch.rows).await {
                    Ok(partial) if partial.keys() > 0 => parts.push(Part::new(partial)),
                    Ok(_) => {}
                    Err(error) => {
                        let (partition, offset) = (&self.partition, first_failing(fold, &batch.rows).await);
                        let reason = format!(
                            "the row at offset {offset} of {partition} fails it ({}); change its SQL so that it takes \
                             such a row",
                            with_causes(&error)
                        );
                        tracing::error!(%partition, offset, view = view.name, reason, "view left out of a segment");
                        failed.insert(view.id.clone(), reason);
                        continue;
                    }
                }
            }
            views.insert(view.id.clone(), parts);
        }
        let ticks = (batch.tick, batch.tick);
        let piece = Piece::new(batch.offsets.clone(), ticks, batch.marks, views, failed);
        self.newest = Some(batch.tick);
        match self.pieces.last_mut() {
            Some(open) if open.ticks.1 == batch.tick => {
                open.extend(piece);
                Ok(false)
            }
            _ => {
                self.pieces.push(piece);
                Ok(true)
            }
        }
    }

    /// Merges runs of similar size in every segment that has some. True if there were any.
    pub(crate) async fn compact(&mut self) -> Result<bool, AccumulateError> {
        let mut merged = false;
        for at in 0..self.pieces.len() {
            if self.pieces[at].uneven {
                merged |= self.compact_piece(at).await?;
            }
        }
        Ok(merged)
    }

    async fn compact_piece(&mut self, at: usize) -> Result<bool, AccumulateError> {
        let mut merged = false;
        for (view, fold) in self.folds.iter() {
            let offsets = self.pieces[at].offsets.clone();
            let Some(parts) = self.pieces[at].views.get_mut(&view.id) else {
                continue;
            };
            parts.sort_by_key(|part| std::cmp::Reverse(part.partial.keys()));
            while let Some(first) = run_to_merge(parts) {
                let partials: Vec<_> = parts[first..].iter().map(|part| part.partial.clone()).collect();
                let whole = fold.merge(&partials).await.map_err(|source| AccumulateError::Merge {
                    partition: self.partition.clone(),
                    offsets: offsets.clone(),
                    view: view.name.clone(),
                    source: Box::new(source),
                })?;
                parts.truncate(first);
                parts.push(Part::new(whole));
                merged = true;
            }
        }
        let piece = &mut self.pieces[at];
        piece.uneven = false;
        if merged {
            piece.shown = OnceLock::new();
        }
        Ok(merged)
    }

    /// Drops the segments that lie wholly below `floor`. True if there were any.
    pub(crate) fn drop_below(&mut self, floor: Offset) -> bool {
        let dropped = self.pieces.partition_point(|piece| piece.offsets.end <= floor);
        if let Some(last) = self.pieces[..dropped].last() {
            self.start = Start {
                next: last.offsets.end,
                marks: last.marks,
            };
        }
        self.pieces.drain(..dropped);
        dropped > 0
    }

    /// Forgets the last `count` segments: they will be read again.
    pub(crate) fn forget_last(&mut self, count: usize) {
        self.pieces.truncate(self.pieces.len().saturating_sub(count));
        self.newest = self.pieces.last().map(|piece| piece.ticks.1);
    }

    /// Forgets what was folded of `gap` and behind it: the archive judges what follows the gap as if it had held
    /// nothing. What began behind it was judged so.
    pub(crate) fn forget_through(&mut self, gap: &Range<Offset>) {
        while self.start.next < gap.end && self.until() > gap.start && !self.pieces.is_empty() {
            self.forget_last(1);
        }
    }

    /// Forgets everything and begins at `start`.
    pub(crate) fn begin_at(&mut self, start: Start) {
        self.start = start;
        self.pieces.clear();
        self.newest = None;
    }

    /// Whether a segment boundary, or an end of the coverage, lies at `offset`.
    pub(crate) fn has_boundary_at(&self, offset: Offset) -> bool {
        offset == self.start.next || self.pieces.iter().any(|piece| piece.offsets.end == offset)
    }

    /// Whether a chain of segments can begin at the cut of `tick`: a boundary lies there.
    pub(crate) fn has_boundary_at_tick(&self, tick: Tick) -> bool {
        !self
            .pieces
            .iter()
            .any(|piece| piece.ticks.0 < tick && tick <= piece.ticks.1)
    }

    /// Joins up to `joins_max` pairs of closed segments whose boundary need not stay. True if any were joined.
    pub(crate) fn thin(&mut self, retention: &Retention, floor: Offset, cut_every_ms: i64, joins_max: usize) -> bool {
        let Some(newest) = self.newest else {
            return false;
        };
        let mut joins = 0;
        let mut at = 0;
        // The last segment is open: the boundary before it is younger than any that may go.
        while at + 2 < self.pieces.len() && joins < joins_max {
            let (before, after) = (&self.pieces[at], &self.pieces[at + 1]);
            let stays = after.offsets.start == floor
                || boundary_stays(before.ticks.1, after.ticks.0, newest, cut_every_ms, retention);
            if stays {
                at += 1;
                continue;
            }
            let next = self.pieces.remove(at + 1);
            self.pieces[at].extend(next);
            joins += 1;
        }
        joins > 0
    }
}

/// Offset of the first row of `rows` that `fold` fails on: the last one of the shortest run that fails.
async fn first_failing(fold: &Fold, rows: &RecordBatch) -> i64 {
    let (mut good, mut failing) = (0, rows.num_rows());
    while failing - good > 1 {
        let middle = good.midpoint(failing);
        match fold.partial(&rows.slice(0, middle)).await {
            Ok(_) => good = middle,
            Err(_) => failing = middle,
        }
    }
    rows[system_columns::OFFSET].as_primitive::<Int64Type>().value(good)
}

/// Where the run of parts to merge begins, in a list sorted largest first: from the end on, each part that is at most
/// twice as large as all behind it together. `None` when the list is short enough as it is.
fn run_to_merge(parts: &[Part]) -> Option<usize> {
    let mut first = parts.len().checked_sub(1)?;
    let mut keys = parts[first].partial.keys();
    while first > 0 && parts[first - 1].partial.keys() <= 2 * keys {
        first -= 1;
        keys += parts[first].partial.keys();
    }
    (first + 1 < parts.len()).then_some(first)
}

#[cfg(test)]
mod tests;
