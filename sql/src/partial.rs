//! A partial: key columns and state columns, one row per key, sorted by key.

mod lookup;
mod rows;

use std::cmp::Ordering;
use std::io::Cursor;
use std::sync::{Arc, OnceLock, Weak};

use arrow::array::{Array, ArrayRef, BooleanArray, DynComparator, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{SortOptions, filter_record_batch, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::row::{RowConverter, SortField};

use self::lookup::{FILTER_BYTES_PER_KEY, KeyFilter};
pub use self::lookup::{KeyLookup, KeyRange};
pub use self::rows::{KeySpan, KeyedRows};
use crate::fold::FOLD_FORMAT;
use crate::{Fold, FoldError};

/// First bytes of an encoded partial, followed by the fold format as a little-endian `u32`.
const MAGIC: &[u8; 4] = b"FLDP";

/// State of a fold that can be merged. Sorted by its key columns (ascending, NULLs first), one row per key.
/// Cloning shares the columns.
#[derive(Debug, Clone)]
pub struct Partial {
    batch: RecordBatch,
    key_columns: usize,
    /// Made by the first lookup.
    filter: Arc<OnceLock<KeyFilter>>,
}

impl Partial {
    fn new(batch: RecordBatch, key_columns: usize) -> Self {
        Self {
            batch,
            key_columns,
            filter: Arc::default(),
        }
    }

    /// The neutral element: no keys.
    pub fn empty(fold: &Fold) -> Self {
        Self::new(
            RecordBatch::new_empty(Arc::clone(fold.state_schema())),
            fold.key_columns(),
        )
    }

    /// Sorts `batches`, which hold each key once over all of them.
    pub(crate) fn sorted(schema: &SchemaRef, key_columns: usize, batches: &[RecordBatch]) -> Result<Self, ArrowError> {
        Ok(Self::new(sorted_by_key(schema, key_columns, batches)?, key_columns))
    }

    /// Key columns, then state columns.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Which partial this is: equal for clones alone, also once all of them are gone. Holds no column.
    pub fn identity(&self) -> PartialIdentity {
        PartialIdentity(Arc::downgrade(&self.filter))
    }

    /// Tells partials apart without looking at their columns: the same for clones, and no other's while one of them lives.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.filter).addr()
    }

    /// Number of keys.
    pub fn keys(&self) -> usize {
        self.batch.num_rows()
    }

    /// Bytes that the columns take, and what makes lookups fast.
    pub fn bytes(&self) -> usize {
        own_bytes(&self.batch) + self.keys() * FILTER_BYTES_PER_KEY
    }

    /// The rows whose key `key` means; `None` where there are none. A binary search where its columns are a prefix of the
    /// key, else one pass over the columns. Copies the rows found, so that the answer does not hold on to the
    /// whole partial.
    pub fn lookup(&self, key: &KeyLookup) -> Result<Option<Self>, FoldError> {
        let positions = key.columns.iter().map(|(position, _)| *position);
        let mut positions = positions.chain(key.range.iter().map(|range| range.position));
        if let Some(position) = positions.find(|position| *position >= self.key_columns) {
            let columns = self.key_columns;
            let reason = format!("key column {position} of {columns} was asked for");
            return Err(FoldError::Columns {
                source: ArrowError::InvalidArgumentError(reason),
            });
        }
        if !key.may_be_in(self.filter()?) {
            return Ok(None);
        }
        let found = if key.is_prefix() {
            self.search(key)
        } else {
            self.scan(key)
        };
        let found = found.map_err(|source| FoldError::Columns { source })?;
        Ok((found.num_rows() > 0).then(|| Self::new(found, self.key_columns)))
    }

    /// Whether something was looked up in it, so that what it becomes part of will be asked, too.
    pub(crate) fn is_looked_up(&self) -> bool {
        self.filter.get().is_some()
    }

    /// Does what the first lookup would do, and whoever asks would wait for.
    pub(crate) fn prepare_lookups(&self) -> Result<(), FoldError> {
        self.filter().map(|_| ())
    }

    fn filter(&self) -> Result<&KeyFilter, FoldError> {
        if let Some(filter) = self.filter.get() {
            return Ok(filter);
        }
        let keys = self.batch.columns()[..self.key_columns].first();
        let filter = KeyFilter::over(keys)?;
        Ok(self.filter.get_or_init(|| filter))
    }

    fn search(&self, key: &KeyLookup) -> Result<RecordBatch, ArrowError> {
        let options = SortOptions {
            descending: false,
            nulls_first: true,
        };
        let comparator = |position: usize, value: &ArrayRef| {
            arrow::array::make_comparator(self.batch.column(position), value, options)
        };
        let fixed = key.columns.iter().map(|(position, value)| comparator(*position, value));
        let fixed = fixed.collect::<Result<Vec<_>, _>>()?;
        let bound = |bound: fn(&KeyRange) -> Option<&ArrayRef>| {
            let range = key.range.as_ref();
            let found = range.and_then(|range| Some(comparator(range.position, bound(range)?)));
            found.transpose()
        };
        let (lower, upper) = (
            bound(|range| range.lower.as_ref())?,
            bound(|range| range.upper.as_ref())?,
        );
        let compare = |row: usize, bound: &Option<DynComparator>| {
            let mut orders = fixed.iter().chain(bound).map(|compare| compare(row, 0));
            orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        };
        let start = first_row(0, self.keys(), |row| compare(row, &lower).is_ge());
        let until = first_row(start, self.keys(), |row| compare(row, &upper).is_gt());
        let rows = UInt64Array::from_iter_values(start as u64..until as u64);
        take_record_batch(&self.batch, &rows)
    }

    fn scan(&self, key: &KeyLookup) -> Result<RecordBatch, ArrowError> {
        let mut wanted = BooleanArray::from(vec![true; self.keys()]);
        for (position, value) in &key.columns {
            let value = arrow::array::Scalar::new(Arc::clone(value));
            let equal = arrow::compute::kernels::cmp::not_distinct(self.batch.column(*position), &value)?;
            wanted = arrow::compute::and(&wanted, &equal)?;
        }
        filter_record_batch(&self.batch, &wanted)
    }

    /// Bytes for storage: fold-format number, columns with their names and types (Arrow IPC).
    pub fn encode(&self) -> Result<Vec<u8>, FoldError> {
        let encode = || -> Result<Vec<u8>, ArrowError> {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(FOLD_FORMAT.to_le_bytes());
            let mut writer = StreamWriter::try_new(bytes, self.batch.schema_ref())?;
            writer.write(&self.batch)?;
            writer.into_inner()
        };
        encode().map_err(|error| FoldError::Columns { source: error })
    }

    /// Reads what [`Partial::encode`] wrote. An unknown format number or another schema is an error.
    pub fn decode(bytes: &[u8], fold: &Fold) -> Result<Self, FoldError> {
        let refuse = |reason: String| FoldError::Shape {
            what: "stored partial",
            view: fold.view().to_owned(),
            reason,
        };
        let Some((header, columns)) = bytes.split_at_checked(8) else {
            return Err(refuse(format!("it has only {} bytes", bytes.len())));
        };
        if &header[..4] != MAGIC {
            return Err(refuse("it does not begin as a partial does".to_owned()));
        }
        let format = u32::from_le_bytes(header[4..].try_into().expect("four bytes"));
        if format != FOLD_FORMAT {
            return Err(refuse(format!("its fold format is {format}, not {FOLD_FORMAT}")));
        }
        let reader = StreamReader::try_new(Cursor::new(columns), None).map_err(|error| refuse(error.to_string()))?;
        if types(&reader.schema()) != types(fold.state_schema()) {
            let (has, wants) = (types(&reader.schema()), types(fold.state_schema()));
            return Err(refuse(format!("its columns are {has:?}, not {wants:?}")));
        }
        let batches: Vec<RecordBatch> = reader
            .collect::<Result<_, _>>()
            .map_err(|error| refuse(error.to_string()))?;
        let [batch] = batches.as_slice() else {
            return Err(refuse(format!("it holds {} batches instead of one", batches.len())));
        };
        let batch = with_schema(batch, fold.state_schema()).map_err(|error| refuse(error.to_string()))?;
        Ok(Self::new(batch, fold.key_columns()))
    }
}

/// See [`Partial::identity`].
#[derive(Debug, Clone)]
pub struct PartialIdentity(Weak<OnceLock<KeyFilter>>);

impl PartialEq for PartialIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

/// Bytes of the values of `batch` itself: batches that are pieces of one buffer would each count it whole.
pub fn own_bytes(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    // An array that cannot tell is counted by the buffers that it holds.
    let bytes = columns.map(|column| {
        let slice = column.to_data().get_slice_memory_size();
        slice.unwrap_or_else(|_| column.get_array_memory_size())
    });
    bytes.sum()
}

fn types(schema: &Schema) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect()
}

/// First row of `from..until` for which `reached` holds, which it does for all later ones; `until` if for none.
fn first_row(from: usize, until: usize, reached: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (from, until);
    while low < high {
        let middle = low + (high - low) / 2;
        if reached(middle) {
            high = middle
        } else {
            low = middle + 1
        }
    }
    low
}

/// The same columns under `schema`, whose types they have.
pub(crate) fn with_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
}

/// All rows of `batches` in one, in the order of their first `key_columns` columns, ascending, NULLs first.
pub(crate) fn sorted_by_key(
    schema: &SchemaRef,
    key_columns: usize,
    batches: &[RecordBatch],
) -> Result<RecordBatch, ArrowError> {
    let batches: Vec<RecordBatch> = batches
        .iter()
        .map(|batch| with_schema(batch, schema))
        .collect::<Result<_, _>>()?;
    let batch = arrow::compute::concat_batches(schema, &batches)?;
    if key_columns == 0 || batch.num_rows() < 2 {
        return Ok(batch);
    }
    let options = SortOptions {
        descending: false,
        nulls_first: true,
    };
    let keys = &batch.columns()[..key_columns];
    let order = if let [key] = keys
        && !key.data_type().is_nested()
    {
        arrow::compute::sort_to_indices(key, Some(options), None)?
    } else {
        let fields = keys
            .iter()
            .map(|key| SortField::new_with_options(key.data_type().clone(), options))
            .collect();
        let rows = RowConverter::new(fields)?.convert_columns(keys)?;
        let mut order: Vec<u32> =
            (0..u32::try_from(batch.num_rows()).expect("a batch has fewer than 2^32 rows")).collect();
        order.sort_unstable_by(|left, right| rows.row(*left as usize).cmp(&rows.row(*right as usize)));
        order.into()
    };
    take_record_batch(&batch, &order)
}
