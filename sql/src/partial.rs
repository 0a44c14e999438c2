//! A partial: key columns and state columns, one row per key, sorted by key.

use arrow::array::{ArrayRef, RecordBatch};

use crate::{Fold, FoldError};

/// State of a fold that can be merged. Sorted by its key columns (ascending, NULLs first), one row per key.
/// Cloning shares the columns.
#[derive(Debug, Clone)]
pub struct Partial {
    batch: RecordBatch,
}

impl Partial {
    /// The neutral element: no keys.
    pub fn empty(_fold: &Fold) -> Self {
        todo!()
    }

    /// Key columns, then state columns.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Number of keys.
    pub fn keys(&self) -> usize {
        self.batch.num_rows()
    }

    /// Bytes of memory that the columns hold.
    pub fn bytes(&self) -> usize {
        self.batch.get_array_memory_size()
    }

    /// The rows whose key equals `key`: pairs of key position and an array of one value of that key column's type.
    /// A binary search where the positions are a prefix of the key, else one pass over the columns. Copies the rows
    /// found, so that the answer does not hold on to the whole partial.
    pub fn lookup(&self, _key: &[(usize, ArrayRef)]) -> Result<Self, FoldError> {
        todo!()
    }

    /// Bytes for storage: fold-format number, view's state schema, columns (Arrow IPC).
    pub fn encode(&self) -> Result<Vec<u8>, FoldError> {
        todo!()
    }

    /// Reads what [`Partial::encode`] wrote. An unknown format number or another schema is an error.
    pub fn decode(_bytes: &[u8], _fold: &Fold) -> Result<Self, FoldError> {
        todo!()
    }
}
