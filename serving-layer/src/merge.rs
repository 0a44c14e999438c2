//! Gathering the partials of both halves, all of them or the ones of some keys.
//!
//! Nothing is merged here: [`foldline_sql::Fold::finish`] merges what it is given. A point read looks its key up in
//! every partial first, so that a handful of rows reach the finish instead of all of them.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use foldline_batch_layer::{GenerationError, Generations};
use foldline_speed_layer::Partials;
use foldline_speed_layer::shared::{Room, StoreError, StoredPartials};
use foldline_sql::{Fold, FoldError, KeyLookup, KeyRange, Partial, View};

use crate::seam::Seam;

/// A key with more alternatives than this is read in full and filtered.
const ALTERNATIVES_MAX: usize = 256;

/// Which keys are wanted: alternatives that exclude each other, each fixing some key columns. Without any alternative
/// nothing is wanted; with one that fixes no column, everything.
#[derive(Debug, Clone)]
pub struct Keys {
    alternatives: Vec<KeyLookup>,
}

impl Keys {
    /// Every key.
    pub fn all() -> Self {
        Self {
            alternatives: vec![KeyLookup::default()],
        }
    }

    /// The keys of `fold` that `filters` over its answer leave, or more of them.
    pub fn left_by(fold: &Fold, filters: &[Expr]) -> Result<Self, FoldError> {
        let columns = filters.iter().filter_map(|filter| fold.keys_of(filter)).collect();
        let ranges = filters.iter().filter_map(|filter| fold.range_of(filter)).collect();
        Self::any_of(columns, &bounds(ranges))
    }

    /// The keys that have one of the values in each of the columns (pairs of key position and arrays of one value), and
    /// at least those of them within `ranges`. Repeated values count once: a row found twice would be counted twice.
    fn any_of(columns: Vec<(usize, Vec<ArrayRef>)>, ranges: &[KeyRange]) -> Result<Self, FoldError> {
        let mut alternatives: Vec<Vec<(usize, ArrayRef)>> = vec![Vec::new()];
        for (position, values) in columns {
            let values = distinct(values);
            let fixed = |alternative: &Vec<(usize, ArrayRef)>| alternative.iter().any(|(fixed, _)| *fixed == position);
            if alternatives.len() * values.len() > ALTERNATIVES_MAX || alternatives.iter().any(fixed) {
                continue;
            }
            let longer = alternatives.iter().flat_map(|alternative| {
                let with = |value: &ArrayRef| {
                    let mut longer = alternative.clone();
                    longer.push((position, Arc::clone(value)));
                    longer
                };
                values.iter().map(with).collect::<Vec<_>>()
            });
            alternatives = longer.collect();
        }
        let within = |columns| Ok(KeyLookup::new(columns)?.within(ranges));
        let alternatives = alternatives.into_iter().map(within);
        Ok(Self {
            alternatives: alternatives.collect::<Result<_, FoldError>>()?,
        })
    }

    /// Whether every key is wanted.
    pub fn is_all(&self) -> bool {
        self.alternatives.iter().any(KeyLookup::is_everything)
    }

    /// Adds the wanted rows of `partial` to `found`.
    fn take(&self, partial: &Partial, found: &mut Vec<Partial>) -> Result<(), FoldError> {
        if partial.keys() == 0 {
            return Ok(());
        }
        if self.is_all() {
            found.push(partial.clone());
            return Ok(());
        }
        for alternative in &self.alternatives {
            found.extend(partial.lookup(alternative)?);
        }
        Ok(())
    }
}

/// One range for each position: a lower bound and an upper one, of those that there are.
fn bounds(ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    let mut joined: Vec<KeyRange> = Vec::new();
    for range in ranges {
        match joined.iter_mut().find(|other| other.position == range.position) {
            Some(other) => {
                other.lower = other.lower.take().or(range.lower);
                other.upper = other.upper.take().or(range.upper);
            }
            None => joined.push(range),
        }
    }
    joined
}

fn distinct(values: Vec<ArrayRef>) -> Vec<ArrayRef> {
    let mut seen = HashSet::new();
    let mut kept = Vec::with_capacity(values.len());
    for value in values {
        let new = match ScalarValue::try_from_array(&value, 0) {
            Ok(scalar) => seen.insert(scalar),
            Err(_) => true,
        };
        if new {
            kept.push(value);
        }
    }
    kept
}

/// What gathering can run into.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A half of the view does not exist yet.
    #[error("view \"{view}\" is still building: {missing}")]
    Building {
        /// Name of the view.
        view: String,
        /// What is missing.
        missing: String,
    },
    /// The batch half could not be read.
    #[error("cannot read the batch half of view \"{view}\"")]
    Batch {
        /// Name of the view.
        view: String,
        /// Cause.
        source: GenerationError,
    },
    /// The speed half could not be read.
    #[error("cannot read the speed half of view \"{view}\"")]
    Speed {
        /// Name of the view.
        view: String,
        /// Cause.
        source: StoreError,
    },
    /// The fold.
    #[error(transparent)]
    Fold(#[from] FoldError),
}

/// What of `view` is missing in `seam`, if anything: then it is still building, and an answer would be too small.
pub fn building(view: &View, fold: &Fold, seam: &Seam) -> Result<(), MergeError> {
    let missing = |missing: String| MergeError::Building {
        view: view.name.clone(),
        missing,
    };
    if let Some(generation) = &seam.generation
        && seam.with_batch
        && !seam.batch_is_empty()
        && !generation.views.contains_key(&view.id)
    {
        let number = generation.number.0;
        return Err(missing(match generation.failed.get(&view.id) {
            Some(reason) => format!("generation {number} was computed without it, because it failed: {reason}"),
            None => format!("generation {number} has no batch half of it; the next one will"),
        }));
    }
    for (partition, closed) in seam.of_topic(&fold.stream().topic) {
        for segment in &closed.chain {
            if let Some(reason) = segment.failed.get(&view.id) {
                return Err(missing(reason.clone()));
            }
            if !segment.views.contains_key(&view.id) {
                return Err(missing(format!(
                    "offsets {}..{} of {partition} are not folded for it",
                    segment.offsets.start, segment.offsets.end
                )));
            }
        }
    }
    Ok(())
}

/// The partials of `view` in `seam`, batch first, without empty ones. What has to be fetched for them, and is nobody else's, is
/// taken from `room`.
pub async fn gather(
    view: &View,
    fold: &Arc<Fold>,
    seam: &Seam,
    generations: &Generations,
    keys: &Keys,
    room: &dyn Room,
) -> Result<Vec<Partial>, MergeError> {
    building(view, fold, seam)?;
    let mut found = Vec::new();
    if let Some(generation) = &seam.generation
        && seam.with_batch
        && !seam.batch_is_empty()
    {
        let read = generations.partials(generation, &view.id, fold).await;
        let dates = read.map_err(|source| MergeError::Batch {
            view: view.name.clone(),
            source,
        })?;
        let dates = dates.ok_or_else(|| MergeError::Building {
            view: view.name.clone(),
            missing: format!("generation {} has no batch half of it", generation.number.0),
        })?;
        for (_, partial) in dates.iter() {
            keys.take(partial, &mut found)?;
        }
    }
    let chains = seam
        .of_topic(&fold.stream().topic)
        .flat_map(|(_, closed)| &closed.chain);
    let mut stored = Vec::new();
    for partials in chains.filter_map(|segment| segment.views.get(&view.id)) {
        match partials {
            Partials::Held(partials) => partials.iter().try_for_each(|partial| keys.take(partial, &mut found))?,
            Partials::Stored(partials) => stored.push(Arc::clone(partials)),
        }
    }
    let fetched = StoredPartials::fetch(&stored, &keys.alternatives, room).await;
    let fetched = fetched.map_err(|source| MergeError::Speed {
        view: view.name.clone(),
        source,
    })?;
    for partial in &fetched {
        keys.take(partial, &mut found)?;
    }
    Ok(found)
}
