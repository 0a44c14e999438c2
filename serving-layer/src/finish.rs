//! Partials to the rows of an answer: finish, hide what `retention` hides, and keep the last whole answers.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{cast, filter_record_batch, is_null, or_kleene};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use foldline_event_log::{Offset, TopicPartition};
use foldline_sql::{Fold, FoldError, Partial, View};
use uuid::Uuid;

use crate::seam::Seam;

/// What finishing can run into.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// The fold.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The window column of a retention is not one of times.
    #[error("cannot apply the retention of view \"{view}\" by column \"{column}\"")]
    Retention {
        /// Name of the view.
        view: String,
        /// Window column.
        column: String,
        /// Cause.
        source: ArrowError,
    },
}

/// The rows of the answer: merged, finished, and without the windows that the view's retention hides at `as_of`
/// (microseconds since 1970).
pub async fn finish(
    view: &View,
    fold: &Fold,
    partials: &[Partial],
    as_of: Option<i64>,
) -> Result<RecordBatch, FinishError> {
    let rows = fold.finish(partials).await?;
    retain(view, rows, as_of)
}

/// Hides the windows of `rows` that begin before `as_of` less the view's retention. Without `as_of` nothing was seen,
/// so nothing is old.
pub fn retain(view: &View, rows: RecordBatch, as_of: Option<i64>) -> Result<RecordBatch, FinishError> {
    let (Some((retention_ms, column)), Some(as_of)) = (&view.retention, as_of) else {
        return Ok(rows);
    };
    let oldest = as_of.saturating_sub(retention_ms.saturating_mul(1000));
    let kept = kept_windows(&rows, column, oldest);
    let kept = kept.and_then(|kept| filter_record_batch(&rows, &kept));
    kept.map_err(|source| FinishError::Retention {
        view: view.name.clone(),
        column: column.clone(),
        source,
    })
}

fn kept_windows(rows: &RecordBatch, column: &str, oldest: i64) -> Result<BooleanArray, ArrowError> {
    let windows = rows
        .column_by_name(column)
        .ok_or_else(|| ArrowError::SchemaError("there is no such column in the answer".to_owned()))?;
    if !matches!(windows.data_type(), DataType::Date32 | DataType::Timestamp(_, _)) {
        return Err(ArrowError::SchemaError(format!(
            "it is of type {}",
            windows.data_type()
        )));
    }
    // Through a plain timestamp: what matters is the instant, and a date is its midnight in UTC.
    let instants = cast(windows, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let young = cmp::gt_eq(&instants, &TimestampMicrosecondArray::new_scalar(oldest))?;
    or_kleene(&young, &is_null(windows)?)
}

/// What a whole finished answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedKey {
    view_id: String,
    generation: Option<Uuid>,
    with_batch: bool,
    ends: Vec<(TopicPartition, Offset, Offset)>,
}

impl FinishedKey {
    /// The key of `view` over `seam`.
    pub fn of(view: &View, seam: &Seam) -> Self {
        let ends = seam.partitions.iter();
        Self {
            view_id: view.id.clone(),
            generation: seam.generation.as_ref().map(|generation| generation.attempt),
            with_batch: seam.with_batch,
            ends: ends
                .map(|(partition, closed)| (partition.clone(), closed.cut, closed.until))
                .collect(),
        }
    }
}

/// The whole answers that were finished last: a page and a dashboard ask for the same ones again and again.
#[derive(Debug)]
pub struct Finished {
    bytes_max: usize,
    kept: Mutex<VecDeque<(FinishedKey, RecordBatch)>>,
}

impl Finished {
    /// Keeps at most `bytes_max` bytes of answers.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            kept: Mutex::new(VecDeque::new()),
        }
    }

    /// The answer of `key`, if it is kept.
    pub fn get(&self, key: &FinishedKey) -> Option<RecordBatch> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.iter().position(|(other, _)| other == key)?;
        let entry = kept.remove(index)?;
        let rows = entry.1.clone();
        kept.push_front(entry);
        Some(rows)
    }

    /// Keeps an answer; older ones make room. Another answer of the same view and generation is replaced: the log has
    /// moved on, nobody asks for it again.
    pub fn put(&self, key: FinishedKey, rows: &RecordBatch) {
        if rows.get_array_memory_size() > self.bytes_max {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let superseded = |other: &FinishedKey| {
            other.view_id == key.view_id && other.generation == key.generation && other.with_batch == key.with_batch
        };
        kept.retain(|(other, _)| !superseded(other));
        kept.push_front((key, rows.clone()));
        let mut bytes = 0;
        kept.retain(|(_, rows)| {
            bytes += rows.get_array_memory_size();
            bytes <= self.bytes_max
        });
    }
}
