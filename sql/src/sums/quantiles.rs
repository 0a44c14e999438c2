//! Approximate percentiles: counts of values by buckets, which have no order.
//!
//! A bucket holds the doubles that agree in sign, exponent and the first 7 bits of the fraction (DataDog's DDSketch has
//! buckets of equal ratio instead, and merges as this does: by adding counts). Its value is the one next to zero: less than
//! 1/128 of the size of any other away, and exact for whole numbers up to 256.

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use super::exact::{Damaged, ExactSum};
use super::moments::{Of, stated};
use super::totals::{Finish, Total, encoded};
use crate::arithmetic::{rank_of, value_of};

/// Bits of a double that do not tell buckets apart.
const WITHIN_A_BUCKET: u32 = 45;

/// The aggregate whose value is a sketch.
pub(crate) const SKETCH: &str = "quantile_sketch";

/// The aggregate and the scalar function that stand for an approximate percentile, with the arguments of the latter behind
/// the sketch.
pub(crate) fn parts(function: &AggregateFunction) -> Result<(Expr, ScalarUDF, Expr)> {
    let name = function.func.name();
    let params = &function.params;
    let (values, percentile) = match params.args.as_slice() {
        [values] => (values, lit(0.5)),
        [values, percentile] if percentile.column_refs().is_empty() => {
            let descending = params.order_by.first().is_some_and(|order| !order.asc);
            let percentile = percentile.clone();
            (values, if descending { lit(1.0) - percentile } else { percentile })
        }
        [_, _] => return plan_err!("the percentile of {name} is a number from 0 to 1 and no column"),
        _ => return plan_err!("{name} takes no number of centroids: the size of its buckets is fixed"),
    };
    if params.distinct {
        return plan_err!("{name} takes no DISTINCT");
    }
    let params = AggregateFunctionParams {
        args: vec![values.clone()],
        order_by: Vec::new(),
        ..params.clone()
    };
    let func = stated(Of::Buckets);
    let sketch = Expr::AggregateFunction(AggregateFunction { func, params });
    Ok((sketch, ScalarUDF::from(Quantile::default()), percentile))
}

/// How many values each bucket has, by buckets.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    counts: Vec<(i32, u64)>,
}

impl Buckets {
    fn add_to(&mut self, bucket: i32, count: u64) -> usize {
        let before = self.counts.capacity();
        match self.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(found) => self.counts[found].1 = self.counts[found].1.saturating_add(count),
            Err(place) => self.counts.insert(place, (bucket, count)),
        }
        (self.counts.capacity() - before) * size_of::<(i32, u64)>()
    }

    /// Appends the distance of each bucket to the one before and its count, both in bytes of 7 bits.
    fn encode(&self, bytes: &mut Vec<u8>) {
        let mut before = i64::from(i32::MIN);
        for (bucket, count) in &self.counts {
            let distance = i64::from(*bucket) - before;
            before = i64::from(*bucket);
            for mut number in [distance.unsigned_abs(), *count] {
                while number > 0x7f {
                    bytes.push(number as u8 | 0x80);
                    number >>= 7;
                }
                bytes.push(number as u8);
            }
        }
    }

    fn add_encoded(&mut self, encoded: &[u8]) -> Result<usize, Damaged> {
        let damaged = || Damaged { bytes: encoded.len() };
        let mut rest = encoded.iter();
        let mut number = || {
            let mut number = 0_u64;
            for shift in (0..64).step_by(7) {
                let byte = rest.next()?;
                number |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return Some(number);
                }
            }
            None
        };
        let mut bucket = i64::from(i32::MIN);
        let mut allocated = 0;
        while let Some(distance) = number() {
            let count = number().ok_or_else(damaged)?;
            let distance = i64::try_from(distance).map_err(|_| damaged())?;
            bucket = bucket.checked_add(distance).ok_or_else(damaged)?;
            allocated += self.add_to(i32::try_from(bucket).map_err(|_| damaged())?, count);
        }
        Ok(allocated)
    }

    /// Of n values in their order that in the place `percentile * (n - 1)`, counted from 0 and rounded.
    fn quantile(&self, percentile: f64) -> Option<f64> {
        let total = (self.counts.iter()).fold(0_u64, |total, (_, count)| total.saturating_add(*count));
        let wanted = (percentile * total.checked_sub(1)? as f64).round() as u64;
        let mut passed = 0_u64;
        let found = self.counts.iter().find(|(_, count)| {
            passed = passed.saturating_add(*count);
            passed > wanted
        });
        found.map(|(bucket, _)| value_of_bucket(*bucket))
    }
}

fn bucket_of(value: f64) -> i32 {
    (rank_of(value) >> WITHIN_A_BUCKET) as i32
}

fn value_of_bucket(bucket: i32) -> f64 {
    let first = i64::from(bucket) << WITHIN_A_BUCKET;
    // Below zero it is the last that is next to zero.
    let nearest = if bucket < 0 {
        first | ((1 << WITHIN_A_BUCKET) - 1)
    } else {
        first
    };
    value_of(nearest) + 0.0
}

impl Total for Buckets {
    type Value = f64;
    type States = BinaryArray;

    fn each(arguments: &[ArrayRef], filter: Option<&BooleanArray>, take: impl FnMut(usize, f64)) -> Result<()> {
        ExactSum::each(arguments, filter, take)
    }

    fn add(&mut self, value: f64) -> usize {
        self.add_to(bucket_of(value), 1)
    }

    fn remove(&mut self, value: f64) -> usize {
        let found = self
            .counts
            .binary_search_by_key(&bucket_of(value), |(bucket, _)| *bucket);
        if let Ok(found) = found {
            self.counts[found].1 -= 1;
            self.counts.retain(|(_, count)| *count > 0);
        }
        0
    }

    fn merge(&mut self, states: &BinaryArray, row: usize) -> Result<usize> {
        let merged = self.add_encoded(states.value(row));
        merged.map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn heap(&self) -> usize {
        self.counts.capacity() * size_of::<(i32, u64)>()
    }

    fn state_type() -> DataType {
        DataType::Binary
    }

    fn states<'a>(totals: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        encoded(totals, Self::encode)
    }

    fn values<'a>(totals: impl Iterator<Item = Option<(&'a Self, u64)>>, _: &Finish) -> Result<ArrayRef> {
        Ok(Self::states(totals.map(|total| total.map(|(total, _)| total))))
    }
}

/// A quantile of a sketch.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Quantile {
    signature: Signature,
}

impl Default for Quantile {
    fn default() -> Self {
        Self {
            signature: Signature::exact(vec![DataType::Binary, DataType::Float64], Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Quantile {
    fn name(&self) -> &str {
        "quantile_of_sketch"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let [sketches, percentiles] = columns.as_slice() else {
            return exec_err!("{} takes a sketch and a percentile", self.name());
        };
        let (sketches, percentiles) = (sketches.as_binary::<i32>(), percentiles.as_primitive::<Float64Type>());
        let value = |row: usize| -> Result<Option<f64>> {
            if !(0.0..=1.0).contains(&percentiles.value(row)) || percentiles.is_null(row) {
                return plan_err!(
                    "a percentile is a number from 0 to 1, and not {}",
                    percentiles.value(row)
                );
            }
            if sketches.is_null(row) {
                return Ok(None);
            }
            let mut buckets = Buckets::default();
            buckets.merge(sketches, row)?;
            Ok(buckets.quantile(percentiles.value(row)))
        };
        let values: Float64Array = (0..sketches.len()).map(value).collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_are_within_a_128th_of_their_size_and_towards_zero(bits: u64) {
            let value = f64::from_bits(bits);
            let found = value_of_bucket(bucket_of(value));
            if !value.is_finite() || value.is_subnormal() {
                prop_assert!(found.is_nan() == value.is_nan() && (value.is_subnormal() || found.is_infinite() != value.is_nan()));
            } else {
                prop_assert!(found.abs() <= value.abs() && (value - found).abs() * 128.0 < value.abs(), "{} of {}", found, value);
            }
        }

        #[test]
        fn damaged_bytes_are_an_error_or_a_sketch_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut buckets = Buckets::default();
            if buckets.add_encoded(&bytes).is_ok() {
                buckets.quantile(0.5);
            }
        }
    }

    #[test]
    fn small_whole_numbers_and_the_ends_are_exact() {
        for value in (-256..=256)
            .map(f64::from)
            .chain([0.5, -0.75, f64::INFINITY, f64::NEG_INFINITY])
        {
            assert_eq!(value_of_bucket(bucket_of(value)), value);
        }
        let mut buckets = Buckets::default();
        assert_eq!(buckets.quantile(0.5), None);
        for value in [7.0, -0.0, 3.0, 5.0] {
            buckets.add(value);
        }
        let found = [0.0, 0.33, 0.34, 0.99, 1.0].map(|percentile| buckets.quantile(percentile));
        assert_eq!(found, [0.0, 3.0, 3.0, 7.0, 7.0].map(Some));
    }
}
