//! What a group holds for SUM and AVG: an exact total of doubles, of integers or of decimals, and how it is finished.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Float64Array, Int64Array,
    PrimitiveArray, PrimitiveBuilder, UInt64Array,
};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Decimal128Type, Decimal256Type, DecimalType, Float64Type, i256};
use datafusion::common::{Result, exec_datafusion_err, exec_err, internal_err};
use datafusion::error::DataFusionError;

use super::exact::{ExactSum, nearest_quotient};
use crate::arithmetic::{rank_of, value_of};

/// How totals become values.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    /// The aggregate as the plan names it.
    pub(super) name: String,
    /// AVG, else SUM.
    pub(super) average: bool,
    /// Type of the argument, as coerced.
    pub(super) input: DataType,
    /// Type of the value.
    pub(super) output: DataType,
}

impl Finish {
    fn out_of_range(&self, total: impl Display) -> DataFusionError {
        let data_type = match &self.output {
            DataType::Int64 => "BIGINT".to_owned(),
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                format!("DECIMAL({precision}, {scale})")
            }
            other => other.to_string(),
        };
        exec_datafusion_err!(
            "{} is {total}, which is out of range for {data_type}: aggregate a wider type, such as CAST(x AS DECIMAL(38, 0))",
            self.name
        )
    }
}

/// An exact total: adding and merging have no order.
pub(super) trait Total: Debug + Default + Send + Sync + 'static {
    /// What is added.
    type Value: Copy;
    /// Array of states.
    type States: Array + 'static;

    /// Calls `take` with the row and value of each row that has one and is not filtered out.
    fn each(arguments: &[ArrayRef], filter: Option<&BooleanArray>, take: impl FnMut(usize, Self::Value)) -> Result<()>;

    /// Returns the bytes that this allocated.
    fn add(&mut self, value: Self::Value) -> usize;
    /// Takes away a value that was added.
    fn remove(&mut self, value: Self::Value) -> usize;
    /// Returns the bytes that this allocated.
    fn merge(&mut self, states: &Self::States, row: usize) -> Result<usize>;
    /// Bytes on the heap.
    fn heap(&self) -> usize {
        0
    }

    fn state_type() -> DataType;
    /// One state per total, NULL for none. Equal values give equal states.
    fn states<'a>(totals: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef;
    /// One value per total of so many values, NULL for none.
    fn values<'a>(totals: impl Iterator<Item = Option<(&'a Self, u64)>>, finish: &Finish) -> Result<ArrayRef>;
}

/// A total of values of one column, of which DISTINCT takes equal ones once.
pub(super) trait Distinguishing: Total {
    /// Type of the column.
    type Input: ArrowPrimitiveType;
    /// Equal for values that are taken as one.
    type Key: Debug + Copy + Eq + Hash + Ord + Send + Sync;

    fn key(value: Self::Value) -> Self::Key;
    fn value(key: Self::Key) -> Self::Value;
    fn column(values: impl Iterator<Item = Self::Value>) -> PrimitiveArray<Self::Input>;
}

/// What `encode` appends for each of `totals`, NULL for none.
pub(super) fn encoded<'a, T: 'a>(
    totals: impl Iterator<Item = Option<&'a T>>,
    encode: impl Fn(&T, &mut Vec<u8>),
) -> ArrayRef {
    let mut states = BinaryBuilder::new();
    let mut bytes = Vec::new();
    for total in totals {
        bytes.clear();
        match total {
            Some(total) => {
                encode(total, &mut bytes);
                states.append_value(&bytes);
            }
            None => states.append_null(),
        }
    }
    Arc::new(states.finish())
}

impl Total for ExactSum {
    type Value = f64;
    type States = BinaryArray;

    fn each(arguments: &[ArrayRef], filter: Option<&BooleanArray>, take: impl FnMut(usize, f64)) -> Result<()> {
        each_value::<Float64Type>(&arguments[0], filter, take)
    }

    #[inline]
    fn add(&mut self, value: f64) -> usize {
        self.add(value)
    }

    fn remove(&mut self, value: f64) -> usize {
        self.remove(value)
    }

    fn merge(&mut self, states: &BinaryArray, row: usize) -> Result<usize> {
        self.add_encoded(states.value(row))
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn heap(&self) -> usize {
        self.heap()
    }

    fn state_type() -> DataType {
        DataType::Binary
    }

    fn states<'a>(totals: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        encoded(totals, Self::encode)
    }

    fn values<'a>(totals: impl Iterator<Item = Option<(&'a Self, u64)>>, finish: &Finish) -> Result<ArrayRef> {
        if finish.output == DataType::Binary {
            return Ok(Self::states(totals.map(|total| total.map(|(total, _)| total))));
        }
        let value = |(total, count): (&Self, u64)| match finish.average {
            true => total.divided(count),
            false => total.rounded(),
        };
        let values: Float64Array = totals.map(|total| total.map(value)).collect();
        Ok(Arc::new(values))
    }
}

impl Distinguishing for ExactSum {
    type Input = Float64Type;
    type Key = i64;

    fn key(value: f64) -> i64 {
        rank_of(value)
    }

    fn value(key: i64) -> f64 {
        value_of(key)
    }

    fn column(values: impl Iterator<Item = f64>) -> Float64Array {
        Float64Array::from_iter_values(values)
    }
}

/// What is multiplied.
pub(super) trait Factors: Debug + Default + Send + Sync + 'static {
    /// As [`Total::Value`].
    type Value: Copy;

    /// As [`Total::each`].
    fn each(arguments: &[ArrayRef], filter: Option<&BooleanArray>, take: impl FnMut(usize, Self::Value)) -> Result<()>;
    fn factors(value: Self::Value) -> (f64, f64);
}

/// A value, twice.
#[derive(Debug, Default)]
pub(super) struct Square;

impl Factors for Square {
    type Value = f64;

    fn each(arguments: &[ArrayRef], filter: Option<&BooleanArray>, take: impl FnMut(usize, f64)) -> Result<()> {
        ExactSum::each(arguments, filter, take)
    }

    fn factors(value: f64) -> (f64, f64) {
        (value, value)
    }
}

/// The values of two columns.
#[derive(Debug, Default)]
pub(super) struct Pair;

impl Factors for Pair {
    type Value = (f64, f64);

    fn each(
        arguments: &[ArrayRef],
        filter: Option<&BooleanArray>,
        mut take: impl FnMut(usize, (f64, f64)),
    ) -> Result<()> {
        let other = input::<Float64Type>(&arguments[1])?;
        each_value::<Float64Type>(&arguments[0], filter, |row, one| {
            if other.is_valid(row) {
                take(row, (one, other.value(row)));
            }
        })
    }

    fn factors(value: (f64, f64)) -> (f64, f64) {
        value
    }
}

/// The exact sum of products.
#[derive(Debug, Default)]
pub(super) struct SumOfProducts<F> {
    sum: ExactSum,
    factors: PhantomData<F>,
}

pub(super) type Squares = SumOfProducts<Square>;
pub(super) type Products = SumOfProducts<Pair>;

impl<F: Factors> Total for SumOfProducts<F> {
    type Value = F::Value;
    type States = BinaryArray;

    fn each(arguments: &[ArrayRef], filter: Option<&BooleanArray>, take: impl FnMut(usize, F::Value)) -> Result<()> {
        F::each(arguments, filter, take)
    }

    fn add(&mut self, value: F::Value) -> usize {
        let (one, other) = F::factors(value);
        self.sum.add_product(one, other)
    }

    fn remove(&mut self, value: F::Value) -> usize {
        let (one, other) = F::factors(value);
        self.sum.remove_product(one, other)
    }

    fn merge(&mut self, states: &BinaryArray, row: usize) -> Result<usize> {
        self.sum.merge(states, row)
    }

    fn heap(&self) -> usize {
        self.sum.heap()
    }

    fn state_type() -> DataType {
        ExactSum::state_type()
    }

    fn states<'a>(totals: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        ExactSum::states(totals.map(|total| total.map(|total| &total.sum)))
    }

    fn values<'a>(totals: impl Iterator<Item = Option<(&'a Self, u64)>>, finish: &Finish) -> Result<ArrayRef> {
        ExactSum::values(
            totals.map(|total| total.map(|(total, count)| (&total.sum, count))),
            finish,
        )
    }
}

impl Distinguishing for Squares {
    type Input = Float64Type;
    type Key = i64;

    fn key(value: f64) -> i64 {
        ExactSum::key(value)
    }

    fn value(key: i64) -> f64 {
        ExactSum::value(key)
    }

    fn column(values: impl Iterator<Item = f64>) -> Float64Array {
        ExactSum::column(values)
    }
}

/// A total of integers `I` as an integer of the width of `S`, which no number of rows can overflow.
#[derive(Debug)]
pub(super) struct Whole<I, S: DecimalType> {
    total: S::Native,
    input: PhantomData<fn(I)>,
}

impl<I, S: DecimalType> Default for Whole<I, S> {
    fn default() -> Self {
        Self {
            total: S::Native::ZERO,
            input: PhantomData,
        }
    }
}

impl<I, S> Total for Whole<I, S>
where
    I: ArrowPrimitiveType + Debug,
    I::Native: Into<S::Native> + Eq + Hash + Ord,
    S: DecimalType + Debug,
    S::Native: Into<i256> + Display,
{
    type Value = I::Native;
    type States = PrimitiveArray<S>;

    fn each(arguments: &[ArrayRef], filter: Option<&BooleanArray>, take: impl FnMut(usize, I::Native)) -> Result<()> {
        each_value::<I>(&arguments[0], filter, take)
    }

    #[inline]
    fn add(&mut self, value: I::Native) -> usize {
        self.total = self.total.add_wrapping(value.into());
        0
    }

    fn remove(&mut self, value: I::Native) -> usize {
        self.total = self.total.sub_wrapping(value.into());
        0
    }

    fn merge(&mut self, states: &PrimitiveArray<S>, row: usize) -> Result<usize> {
        self.total = self.total.add_wrapping(states.value(row));
        Ok(0)
    }

    fn state_type() -> DataType {
        S::TYPE_CONSTRUCTOR(S::MAX_PRECISION, 0)
    }

    fn states<'a>(totals: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        let totals: PrimitiveArray<S> = totals.map(|total| total.map(|total| total.total)).collect();
        Arc::new(totals.with_data_type(Self::state_type()))
    }

    fn values<'a>(totals: impl Iterator<Item = Option<(&'a Self, u64)>>, finish: &Finish) -> Result<ArrayRef> {
        let totals = totals.map(|total| total.map(|(total, count)| (total.total, count)));
        if !finish.average {
            return in_range(totals.map(|total| Ok(total.map(|(total, _)| total.into()))), finish);
        }
        match (&finish.input, &finish.output) {
            (_, DataType::Float64) => {
                let average = |(total, count): (S::Native, u64)| {
                    // Integers that are averaged to a double are summed in 128 bits.
                    let total = total.into().as_i128();
                    nearest_quotient(total, count)
                };
                let values: Float64Array = totals.map(|total| total.map(average)).collect();
                Ok(Arc::new(values))
            }
            (
                DataType::Decimal128(_, from) | DataType::Decimal256(_, from),
                DataType::Decimal128(_, to) | DataType::Decimal256(_, to),
            ) => in_range(
                totals.map(|total| average(total, (to - from).unsigned_abs(), finish)),
                finish,
            ),
            _ => in_range(totals.map(|total| average(total, 0, finish)), finish),
        }
    }
}

impl<I, S> Distinguishing for Whole<I, S>
where
    Self: Total<Value = I::Native>,
    I: ArrowPrimitiveType,
    I::Native: Eq + Hash + Ord,
    S: DecimalType,
{
    type Input = I;
    type Key = I::Native;

    fn key(value: I::Native) -> I::Native {
        value
    }

    fn value(key: I::Native) -> I::Native {
        key
    }

    fn column(values: impl Iterator<Item = I::Native>) -> PrimitiveArray<I> {
        PrimitiveArray::from_iter_values(values)
    }
}

/// `total / count` with `digits` more digits than the total has, halves away from zero.
fn average<N: Into<i256> + Display>(total: Option<(N, u64)>, digits: u8, finish: &Finish) -> Result<Option<i256>> {
    let Some((total, count)) = total else {
        return Ok(None);
    };
    let total: i256 = total.into();
    let ten = i256::from_i128(10);
    let scaled = total.checked_mul(ten.wrapping_pow(u32::from(digits)));
    let scaled = scaled.ok_or_else(|| finish.out_of_range(format!("{total} / {count}")))?;
    let quotient = match scaled.to_i128() {
        Some(scaled) => i256::from_i128(halves_away(scaled, i128::from(count), scaled.signum())),
        None => halves_away(scaled, i256::from_i128(count.into()), scaled.signum()),
    };
    Ok(Some(quotient))
}

fn halves_away<N: ArrowNativeTypeOp>(total: N, count: N, sign: N) -> N {
    let quotient = total.div_wrapping(count);
    let rest = total.mod_wrapping(count).mul_wrapping(sign);
    // Not twice the rest, which could overflow.
    if rest.is_ge(count.sub_wrapping(rest)) {
        quotient.add_wrapping(sign)
    } else {
        quotient
    }
}

/// The integers as values of the type of the output.
fn in_range(values: impl Iterator<Item = Result<Option<i256>>>, finish: &Finish) -> Result<ArrayRef> {
    fn collected<P: ArrowPrimitiveType>(
        values: impl Iterator<Item = Result<Option<i256>>>,
        fit: impl Fn(i256) -> Option<P::Native>,
        finish: &Finish,
    ) -> Result<PrimitiveArray<P>> {
        let mut collected = PrimitiveBuilder::<P>::with_capacity(values.size_hint().0);
        for value in values {
            let fitted = match value? {
                Some(value) => Some(fit(value).ok_or_else(|| finish.out_of_range(value))?),
                None => None,
            };
            collected.append_option(fitted);
        }
        Ok(collected.finish())
    }
    let decimal = finish.output.clone();
    Ok(match &finish.output {
        DataType::Int64 => {
            let values: Int64Array = collected(values, |value| i64::try_from(value.to_i128()?).ok(), finish)?;
            Arc::new(values)
        }
        DataType::UInt64 => {
            let values: UInt64Array = collected(values, |value| u64::try_from(value.to_i128()?).ok(), finish)?;
            Arc::new(values)
        }
        DataType::Duration(_) => {
            let values: Int64Array = collected(values, |value| i64::try_from(value.to_i128()?).ok(), finish)?;
            arrow::compute::cast(&values, &finish.output)?
        }
        DataType::Decimal128(precision, _) => {
            let fit = |value: i256| {
                let value = value.to_i128()?;
                Decimal128Type::is_valid_decimal_precision(value, *precision).then_some(value)
            };
            Arc::new(collected::<Decimal128Type>(values, fit, finish)?.with_data_type(decimal))
        }
        DataType::Decimal256(precision, _) => {
            let fit = |value: i256| Decimal256Type::is_valid_decimal_precision(value, *precision).then_some(value);
            Arc::new(collected::<Decimal256Type>(values, fit, finish)?.with_data_type(decimal))
        }
        other => return internal_err!("{} of integers is no {other}", finish.name),
    })
}

/// An argument as the totals take it: durations are integers.
fn input<P: ArrowPrimitiveType>(values: &ArrayRef) -> Result<PrimitiveArray<P>> {
    let values = match values.data_type() {
        DataType::Duration(_) => arrow::compute::cast(values, &DataType::Int64)?,
        _ => Arc::clone(values),
    };
    match values.as_primitive_opt::<P>() {
        Some(values) => Ok(values.clone()),
        None => exec_err!("a sum of {} met {}", P::DATA_TYPE, values.data_type()),
    }
}

/// Calls `take` with the row and value of every value that is not NULL and not filtered out.
fn each_value<P: ArrowPrimitiveType>(
    values: &ArrayRef,
    filter: Option<&BooleanArray>,
    mut take: impl FnMut(usize, P::Native),
) -> Result<()> {
    let values = input::<P>(values)?;
    if values.null_count() == 0 && filter.is_none() {
        for (row, value) in values.values().iter().enumerate() {
            take(row, *value);
        }
        return Ok(());
    }
    for (row, value) in values.iter().enumerate() {
        let kept = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        if let Some(value) = value
            && kept
        {
            take(row, value);
        }
    }
    Ok(())
}
