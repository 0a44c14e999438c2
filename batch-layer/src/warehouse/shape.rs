//! The shape of rows in a warehouse: few types, the same in every one, and the hash of rows that have it.
//!
//! | of a view | in a warehouse |
//! | --- | --- |
//! | BOOLEAN, DATE, TEXT, BYTEA | the same |
//! | integers | INT64; one that does not fit is an error |
//! | REAL, DOUBLE | FLOAT64 |
//! | DECIMAL of up to 38 digits | the same |
//! | DECIMAL of more digits, intervals | TEXT, as no reader but ours has them all |
//! | TIME, TIMESTAMP, TIMESTAMPTZ | microseconds; the latter in UTC |
//! | arrays, structs | the same of these |

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, ListArray, RecordBatch, StructArray};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use sha2::{Digest, Sha256};

/// Digits that every reader of decimals has.
const DIGITS_MAX: u8 = 38;

/// The columns of a view as those of its table. Refuses what no warehouse takes, with the column's name.
pub fn shaped_schema(schema: &Schema) -> Result<SchemaRef, String> {
    let fields = schema.fields().iter().map(|field| {
        let data_type = shaped_type(field.data_type())
            .ok_or_else(|| format!("column \"{}\" has type {}", field.name(), field.data_type()))?;
        Ok(Field::new(field.name(), data_type, true))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, String>>()?)))
}

fn shaped_type(data_type: &DataType) -> Option<DataType> {
    use DataType as T;
    Some(match data_type {
        T::Boolean | T::Date32 => data_type.clone(),
        T::Int8 | T::Int16 | T::Int32 | T::Int64 => T::Int64,
        // Ranks and counts. SQL has no type for them, so no view declares one that is larger.
        T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => T::Int64,
        T::Float16 | T::Float32 | T::Float64 => T::Float64,
        T::Null | T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Interval(_) | T::Duration(_) => T::Utf8,
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::Binary,
        T::Decimal32(digits, scale) | T::Decimal64(digits, scale) | T::Decimal128(digits, scale)
            if *scale >= 0 && *digits <= DIGITS_MAX =>
        {
            T::Decimal128(*digits, *scale)
        }
        T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => T::Utf8,
        T::Date64 => T::Timestamp(TimeUnit::Microsecond, None),
        T::Time32(_) | T::Time64(_) => T::Time64(TimeUnit::Microsecond),
        T::Timestamp(_, zone) => T::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into())),
        T::List(item) | T::LargeList(item) | T::ListView(item) | T::FixedSizeList(item, _) => {
            T::List(Arc::new(Field::new("element", shaped_type(item.data_type())?, true)))
        }
        T::Struct(fields) => {
            let fields = fields
                .iter()
                .map(|field| Some(Field::new(field.name(), shaped_type(field.data_type())?, true)));
            T::Struct(fields.collect::<Option<Vec<_>>>()?.into())
        }
        T::Dictionary(_, values) => shaped_type(values)?,
        _ => return None,
    })
}

/// `batches` in the columns `schema`, as one. A value that does not fit is an error, never another value; of times, what is
/// finer than a microsecond goes.
pub fn shaped(batches: &[RecordBatch], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let shaped = batches.iter().map(|batch| {
        let columns = batch.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| cast_with_options(column, field.data_type(), &options));
        RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
    });
    concat_batches(schema, &shaped.collect::<Result<Vec<_>, _>>()?)
}

/// The hash of rows in any order: of their columns and types, and of every value. NaN is one value, and so is zero.
pub fn hash_of(rows: &RecordBatch) -> Result<String, ArrowError> {
    let encoded = encoded(rows)?;
    let mut sorted: Vec<_> = encoded.iter().collect();
    sorted.sort_unstable();
    let mut hash = Sha256::new();
    for field in rows.schema().fields() {
        hash.update(format!("{} {}\n", field.name(), field.data_type()));
    }
    for row in sorted {
        let bytes: &[u8] = row.as_ref();
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Ok(hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The hash of rows in any order and any batches, of which none is kept: the sum of the hashes of rows. For those that are
/// too many to be sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowsHash {
    sum: [u64; 4],
    /// How many they are.
    pub rows: u64,
}

impl RowsHash {
    /// Counts `rows` in.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        for row in &encoded(rows)? {
            let hash = Sha256::digest(row);
            for (sum, part) in self.sum.iter_mut().zip(hash.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*part));
            }
        }
        self.rows += rows.num_rows() as u64;
        Ok(())
    }
}

fn encoded(rows: &RecordBatch) -> Result<Rows, ArrowError> {
    let columns: Vec<ArrayRef> = rows.columns().iter().map(canonical).collect::<Result<_, _>>()?;
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
    RowConverter::new(fields.collect())?.convert_columns(&columns)
}

/// The same values with one NaN and one zero.
fn canonical(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(match column.data_type() {
        DataType::Float64 => {
            let one = |value: f64| if value.is_nan() { f64::NAN } else { value + 0.0 };
            let values: Float64Array = column.as_primitive::<Float64Type>().unary(one);
            Arc::new(values)
        }
        DataType::List(item) if holds_doubles(item) => {
            let list = column.as_list::<i32>();
            let values = canonical(list.values())?;
            Arc::new(ListArray::try_new(
                Arc::clone(item),
                list.offsets().clone(),
                values,
                list.nulls().cloned(),
            )?)
        }
        DataType::Struct(fields) if fields.iter().any(holds_doubles) => {
            let parts = column.as_struct();
            let columns = parts.columns().iter().map(canonical).collect::<Result<Vec<_>, _>>()?;
            Arc::new(StructArray::try_new(fields.clone(), columns, parts.nulls().cloned())?)
        }
        _ => Arc::clone(column),
    })
}

fn holds_doubles(field: &FieldRef) -> bool {
    match field.data_type() {
        DataType::Float64 => true,
        DataType::List(item) => holds_doubles(item),
        DataType::Struct(fields) => fields.iter().any(holds_doubles),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal256Array, Int32Array, UInt64Array};
    use arrow::datatypes::i256;

    use super::*;

    fn doubles(values: &[f64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        RecordBatch::try_from_iter([("x", column)]).unwrap()
    }

    #[test]
    fn the_hash_hangs_on_values_and_not_on_their_order() {
        let hash = |values: &[f64]| hash_of(&doubles(values)).unwrap();
        assert_eq!(hash(&[1.0, 2.0, 2.0]), hash(&[2.0, 1.0, 2.0]));
        assert_ne!(hash(&[1.0, 2.0, 2.0]), hash(&[1.0, 1.0, 2.0]), "rows are counted");
        assert_ne!(hash(&[]), hash(&[0.0]));
        assert_eq!(hash(&[f64::NAN, -0.0]), hash(&[0.0, -f64::NAN]));
        let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        let renamed = RecordBatch::try_from_iter([("y", column)]).unwrap();
        assert_ne!(hash(&[1.0]), hash_of(&renamed).unwrap());
    }

    #[test]
    fn a_sum_of_hashes_hangs_on_values_and_their_number() {
        let hash = |batches: &[&[f64]]| {
            let mut hash = RowsHash::default();
            for batch in batches {
                hash.add(&doubles(batch)).unwrap();
            }
            hash
        };
        assert_eq!(hash(&[&[1.0, 2.0], &[2.0]]), hash(&[&[2.0], &[], &[2.0, 1.0]]));
        assert_ne!(hash(&[&[1.0, 2.0]]), hash(&[&[1.0, 2.0, 2.0]]));
        assert_ne!(hash(&[&[1.0, 2.0, 2.0]]), hash(&[&[1.0, 1.0, 2.0]]));
        assert_eq!(hash(&[&[f64::NAN, -0.0]]), hash(&[&[0.0, -f64::NAN]]));
    }

    #[test]
    fn no_digit_is_lost_by_the_shape() {
        let wide = Decimal256Array::from(vec![i256::from_i128(i128::MAX)])
            .with_precision_and_scale(60, 2)
            .unwrap();
        let columns: [(&str, ArrayRef); 3] = [
            ("wide", Arc::new(wide)),
            ("rank", Arc::new(UInt64Array::from(vec![7]))),
            ("small", Arc::new(Int32Array::from(vec![7]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let schema = shaped_schema(&batch.schema()).unwrap();
        let rows = shaped(&[batch], &schema).unwrap();
        let text = arrow::util::display::array_value_to_string(rows.column(0), 0).unwrap();
        assert_eq!(text, "1701411834604692317316873037158841057.27");
        assert!(
            schema.fields()[1..]
                .iter()
                .all(|field| *field.data_type() == DataType::Int64)
        );

        let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let batch = RecordBatch::try_from_iter([("rank", large)]).unwrap();
        let schema = shaped_schema(&batch.schema()).unwrap();
        assert!(shaped(&[batch], &schema).is_err(), "an error, and not another number");
    }
}
