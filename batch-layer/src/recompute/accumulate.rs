//! Rows to partials as they stream by, merged geometrically.
//!
//! Row batches of one date are gathered until folding them is worth a plan of its own. Partials of one view and date
//! form runs that grow geometrically, like those of an LSM tree: a new partial is merged with runs of about its own
//! size once there are several. So every key is merged a logarithmic number of times, and the runs of a view and date
//! together weigh a few times what the merged partial will.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use chrono::NaiveDate;
use foldline_sql::{Fold, FoldError, Partial};

use super::{RecomputeError, beside};
use crate::DatePartial;

/// All dates of a unit together gather at most this many bytes; beyond it the largest is folded early.
const GATHERED_BYTES_MAX: usize = 32 << 20;
/// Runs of about one size that are merged into one.
const FAN_IN: usize = 4;

/// Rows of a unit that wait until there are enough of their date.
#[derive(Debug, Default)]
pub(super) struct DateBuffer {
    dates: BTreeMap<NaiveDate, Gathered>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Gathered {
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl DateBuffer {
    pub(super) fn push(&mut self, date: NaiveDate, batch: RecordBatch) {
        let bytes = batch.get_array_memory_size();
        let gathered = self.dates.entry(date).or_default();
        gathered.rows += batch.num_rows();
        gathered.bytes += bytes;
        gathered.batches.push(batch);
        self.bytes += bytes;
    }

    /// A date that has enough rows, or the largest if there is too much of all.
    pub(super) fn take_full(&mut self, fold_rows: usize) -> Option<(NaiveDate, Vec<RecordBatch>)> {
        let largest = self.dates.iter().max_by_key(|(_, gathered)| gathered.rows);
        let (&date, gathered) = largest?;
        if gathered.rows < fold_rows && self.bytes <= GATHERED_BYTES_MAX {
            return None;
        }
        let gathered = self.dates.remove(&date)?;
        self.bytes -= gathered.bytes;
        Some((date, gathered.batches))
    }

    pub(super) fn take_rest(self) -> impl Iterator<Item = (NaiveDate, Vec<RecordBatch>)> {
        self.dates.into_iter().map(|(date, gathered)| (date, gathered.batches))
    }
}

/// View (its position among the folds) and event date.
pub(super) type Place = (usize, NaiveDate);

/// What there is of each view and date.
#[derive(Debug, Default)]
struct Runs {
    held: HashMap<Place, Vec<Partial>>,
    /// Of those held.
    bytes: usize,
    /// What went to the store meanwhile.
    spilled: BTreeMap<Place, Vec<DatePartial>>,
}

/// What is to be merged for a view and date at the end: from memory, and from the store.
pub(super) type Rest = (Place, (Vec<Partial>, Vec<DatePartial>));

/// Partials of all views and dates of a run.
#[derive(Debug)]
pub(super) struct Accumulator {
    folds: Vec<Arc<Fold>>,
    runs: Mutex<Runs>,
    /// Why folds failed, by their position: a row that one view's SQL cannot take holds up no other view.
    failed: Mutex<BTreeMap<usize, FoldError>>,
}

impl Accumulator {
    pub(super) fn new(folds: Vec<Arc<Fold>>) -> Self {
        Self {
            folds,
            runs: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Whether every one of the folds at `views` has failed: then their rows need not be read.
    pub(super) fn all_failed(&self, views: &[usize]) -> bool {
        let failed = self.failed();
        views.iter().all(|view| failed.contains_key(view))
    }

    /// Leaves the fold at `view` out from now on.
    pub(super) fn fail(&self, view: usize, error: FoldError) {
        self.failed().entry(view).or_insert(error);
    }

    /// Why folds failed, by their position.
    pub(super) fn reasons(&self) -> BTreeMap<usize, String> {
        let failed = self.failed();
        failed
            .iter()
            .map(|(view, error)| (*view, foldline_event_log::with_causes(error)))
            .collect()
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<usize, FoldError>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Folds rows of one date for the folds at `views`.
    pub(super) async fn fold(
        &self,
        views: &[usize],
        date: NaiveDate,
        batches: Vec<RecordBatch>,
    ) -> Result<(), RecomputeError> {
        let Some(first) = batches.first() else { return Ok(()) };
        let schema = first.schema();
        let views: Vec<usize> = {
            let failed = self.failed();
            views
                .iter()
                .copied()
                .filter(|view| !failed.contains_key(view))
                .collect()
        };
        let folds: Vec<Arc<Fold>> = views.iter().map(|&view| Arc::clone(&self.folds[view])).collect();
        let partials = beside(async move {
            let rows = concat_batches(&schema, &batches).map_err(|error| FoldError::Shape {
                what: "archived rows",
                view: folds.iter().map(|fold| fold.view()).collect::<Vec<_>>().join(", "),
                reason: error.to_string(),
            })?;
            drop(batches);
            let mut partials = Vec::with_capacity(folds.len());
            for fold in &folds {
                partials.push(fold.partial(&rows).await);
            }
            Ok::<_, FoldError>(partials)
        })
        .await??;
        for (view, partial) in views.into_iter().zip(partials) {
            let added = match partial {
                Ok(partial) => self.add((view, date), partial).await?,
                Err(error) => Err(error),
            };
            if let Err(error) = added {
                self.fail(view, error);
            }
        }
        Ok(())
    }

    /// What there is for each view and date, to be merged once more.
    pub(super) fn take_rest(&self) -> impl Iterator<Item = Rest> + use<> {
        let Runs { held, mut spilled, .. } = std::mem::take(&mut *self.runs());
        // In order, so that a run stores its files in an order that can be repeated.
        let mut rest: BTreeMap<Place, _> = BTreeMap::new();
        for (place, partials) in held {
            rest.insert(place, (partials, spilled.remove(&place).unwrap_or_default()));
        }
        rest.extend(spilled.into_iter().map(|(place, files)| (place, (Vec::new(), files))));
        rest.into_iter()
    }

    /// The largest of what is held, to go to the store, where more than `bytes_max` is held: as much as leaves half of
    /// that.
    pub(super) fn take_beyond(&self, bytes_max: usize) -> Vec<(Place, Vec<Partial>)> {
        let mut runs = self.runs();
        if runs.bytes <= bytes_max {
            return Vec::new();
        }
        let weight = |partials: &Vec<Partial>| partials.iter().map(Partial::bytes).sum::<usize>();
        let mut largest: Vec<(usize, Place)> = runs
            .held
            .iter()
            .map(|(place, partials)| (weight(partials), *place))
            .collect();
        largest.sort_unstable();
        let mut taken = Vec::new();
        while runs.bytes > bytes_max / 2
            && let Some((bytes, place)) = largest.pop()
        {
            runs.bytes -= bytes;
            taken.extend(runs.held.remove(&place).map(|partials| (place, partials)));
        }
        taken
    }

    /// Notes that `file` holds some of `place`.
    pub(super) fn spilled(&self, place: Place, file: DatePartial) {
        self.runs().spilled.entry(place).or_default().push(file);
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a partial. The inner error is the fold's own.
    pub(super) async fn add(
        &self,
        place: Place,
        mut partial: Partial,
    ) -> Result<Result<(), FoldError>, RecomputeError> {
        if partial.keys() == 0 {
            return Ok(Ok(()));
        }
        while let Some(alike) = self.push_or_take_alike(place, &partial) {
            let fold = Arc::clone(&self.folds[place.0]);
            partial = match beside(async move { fold.merge(&alike).await }).await? {
                Ok(merged) => merged,
                Err(error) => return Ok(Err(error)),
            };
        }
        Ok(Ok(()))
    }

    /// Keeps `partial`, or hands it back together with enough runs of its size to be merged. Merging happens outside
    /// of the lock; what others add meanwhile finds the remaining runs.
    fn push_or_take_alike(&self, place: Place, partial: &Partial) -> Option<Vec<Partial>> {
        let mut all = self.runs();
        let all = &mut *all;
        let runs = all.held.entry(place).or_default();
        let alike = |run: &Partial| run.keys() <= partial.keys().saturating_mul(2);
        let partial = partial.clone();
        if runs.iter().filter(|run| alike(run)).count() + 1 < FAN_IN {
            all.bytes += partial.bytes();
            runs.push(partial);
            return None;
        }
        let (mut taken, kept): (Vec<_>, Vec<_>) = runs.drain(..).partition(alike);
        *runs = kept;
        all.bytes -= taken.iter().map(Partial::bytes).sum::<usize>();
        taken.push(partial);
        Some(taken)
    }
}
