//! `percentile_cont` to the last digit. DataFusion's own counts the place between two values in millionths of their
//! distance; its states, which are all values, are kept, and only the last step is another.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions_aggregate::percentile_cont::percentile_cont_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, EmitTo, GroupsAccumulator, Signature,
};

use crate::arithmetic::rank_of;

/// The function, under the names of DataFusion's own.
pub(crate) fn function() -> AggregateUDF {
    AggregateUDF::from(Percentile {
        inner: percentile_cont_udaf(),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Percentile {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Percentile {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let place = Place::of(&args)?;
        let inner = self.inner.accumulator(args)?;
        Ok(match place {
            Some(place) => Box::new(Values { inner, place }),
            None => inner,
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let place = Place::of(&args)?;
        let inner = self.inner.create_groups_accumulator(args)?;
        Ok(match place {
            Some(place) => Box::new(Values { inner, place }),
            None => inner,
        })
    }

    fn supports_within_group_clause(&self) -> bool {
        true
    }
}

/// Which share of the values lies before the answer.
#[derive(Debug, Clone, Copy)]
struct Place {
    share: f64,
    descending: bool,
}

impl Place {
    /// `None` for values that are no doubles, such as a NULL without a type.
    fn of(args: &AccumulatorArgs<'_>) -> Result<Option<Self>> {
        if *args.expr_fields[0].data_type() != DataType::Float64 {
            return Ok(None);
        }
        let none = RecordBatch::new_empty(Arc::new(args.schema.clone()));
        let ColumnarValue::Scalar(ScalarValue::Float64(Some(share))) = args.exprs[1].evaluate(&none)? else {
            return plan_err!("percentile_cont takes a constant share between 0 and 1");
        };
        let descending = args.order_bys.first().is_some_and(|key| key.options.descending);
        Ok(Some(Self { share, descending }))
    }

    /// The value at this place of `values`, or between the two around it.
    fn among(self, values: &dyn Array) -> Option<f64> {
        let mut values: Vec<f64> = values.as_primitive::<Float64Type>().iter().flatten().collect();
        values.sort_unstable_by_key(|value| rank_of(*value));
        if self.descending {
            values.reverse();
        }
        let place = self.share * values.len().checked_sub(1)? as f64;
        let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
        // Between equal infinities there is nothing.
        Some(if low == high {
            low
        } else {
            low + (high - low) * place.fract()
        })
    }

    /// The same for each list of `states`.
    fn of_lists(self, states: &[ArrayRef]) -> Float64Array {
        let lists = states[0].as_list::<i32>().iter();
        lists.map(|values| self.among(&values?)).collect()
    }
}

/// All values, and which of them is asked for.
#[derive(Debug)]
struct Values<A> {
    inner: A,
    place: Place,
}

impl Accumulator for Values<Box<dyn Accumulator>> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        // One by one: the inner one takes the first only.
        (0..states[0].len()).try_for_each(|row| self.inner.merge_batch(&[states[0].slice(row, 1)]))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let states = self.state()?;
        let states = states.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>>>()?;
        // Giving the state away emptied the inner one, and a window function goes on with it.
        self.merge_batch(&states)?;
        ScalarValue::try_from_array(&self.place.of_lists(&states), 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

impl GroupsAccumulator for Values<Box<dyn GroupsAccumulator>> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.inner.update_batch(values, groups, filter, total)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.inner.merge_batch(states, groups, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let states = self.inner.state(emit_to)?;
        Ok(Arc::new(self.place.of_lists(&states)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
