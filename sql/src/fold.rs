//! A view compiled: rows to partials, partials to partials, partials to answer.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::{Partial, Stream};

/// How exact an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Byte for byte the answer of plain SQL.
    Exact,
    /// Differs from plain SQL by the rounding of doubles only.
    Rounding,
    /// A sketch.
    Approximate,
}

/// What folding can run into.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// DataFusion could not plan or run the fold; a value out of range at finish is one of these.
    #[error("cannot {step} view \"{view}\"")]
    Run {
        /// `fold`, `merge` or `finish`.
        step: &'static str,
        /// Name of the view.
        view: String,
        /// Cause.
        source: datafusion::error::DataFusionError,
    },
    /// Rows or state whose columns are not those of this fold.
    #[error("cannot use {what} for view \"{view}\": {reason}")]
    Shape {
        /// What was offered.
        what: &'static str,
        /// Name of the view.
        view: String,
        /// What does not fit.
        reason: String,
    },
}

/// A compiled view over one stream. Cheap to clone behind an `Arc`; every method may run on many threads at once.
///
/// Everything here is CPU work without IO: call it from a worker thread or a runtime that may be busy.
#[derive(Debug)]
pub struct Fold {
    stream: Arc<Stream>,
}

impl Fold {
    /// The stream that this folds.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Columns of [`Stream::table_schema`] that [`Fold::partial`] reads, `_late` and `_duplicate` included.
    pub fn input_columns(&self) -> &[String] {
        todo!()
    }

    /// Key columns, then state columns: the columns of a [`Partial`] of this fold.
    pub fn state_schema(&self) -> &SchemaRef {
        todo!()
    }

    /// How many of the first columns of [`Fold::state_schema`] are the key.
    pub fn key_columns(&self) -> usize {
        todo!()
    }

    /// Columns of the answer.
    pub fn output_schema(&self) -> &SchemaRef {
        todo!()
    }

    /// Position in the key of the output column `name`, where the output column is that key column unchanged.
    pub fn key_of_output(&self, _name: &str) -> Option<usize> {
        todo!()
    }

    /// Folds rows into a partial. `rows` holds at least [`Fold::input_columns`], found by name; duplicates, and late
    /// rows where the view is windowed, are left out here.
    pub async fn partial(&self, _rows: &RecordBatch) -> Result<Partial, FoldError> {
        todo!()
    }

    /// Merges partials, in any order, into one. An empty slice gives the empty partial.
    pub async fn merge(&self, _partials: &[Partial]) -> Result<Partial, FoldError> {
        todo!()
    }

    /// Merges and finishes: the rows of the answer, in key order.
    pub async fn finish(&self, _partials: &[Partial]) -> Result<RecordBatch, FoldError> {
        todo!()
    }

    /// The answer of the view's plain SQL over `rows` in log order, by one ordinary aggregation without partials:
    /// what [`Fold::finish`] must equal. Rows are those of [`Fold::partial`]; the answer is in key order.
    pub async fn plain(&self, _rows: &[RecordBatch]) -> Result<RecordBatch, FoldError> {
        todo!()
    }
}
