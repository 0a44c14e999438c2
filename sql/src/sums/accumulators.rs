//! Totals as DataFusion accumulates them: by groups, for one group, and for the different values of one.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, UInt64Type};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::totals::{Distinguishing, Finish, Total};

#[derive(Debug, Default)]
struct Group<T> {
    total: T,
    /// Values in the total. Of a merged SUM only whether there are any.
    count: u64,
}

impl<T: Total> Group<T> {
    fn some(&self) -> Option<&T> {
        (self.count > 0).then_some(&self.total)
    }
}

/// Values of the groups.
fn values<T: Total>(groups: &[Group<T>], finish: &Finish) -> Result<ArrayRef> {
    T::values(groups.iter().map(|group| Some((group.some()?, group.count))), finish)
}

/// State columns: the total, and for AVG the count.
fn state<T: Total>(groups: &[Group<T>], finish: &Finish) -> Vec<ArrayRef> {
    let mut state = vec![T::states(groups.iter().map(Group::some))];
    if finish.average {
        let counts = UInt64Array::from_iter_values(groups.iter().map(|group| group.count));
        state.push(Arc::new(counts));
    }
    state
}

/// Calls `merge` with every state that is not NULL, its row and its count.
fn each_state<T: Total>(
    state: &[ArrayRef],
    finish: &Finish,
    mut merge: impl FnMut(&T::States, usize, u64) -> Result<()>,
) -> Result<()> {
    let (totals, counts) = match (state, finish.average) {
        ([totals], false) => (totals, None),
        ([totals, counts], true) => (totals, Some(counts.as_primitive::<UInt64Type>())),
        _ => return internal_err!("{} has {} state columns", finish.name, state.len()),
    };
    let Some(states) = totals.as_any().downcast_ref::<T::States>() else {
        return internal_err!("the state of {} is {}", finish.name, totals.data_type());
    };
    for row in 0..states.len() {
        if states.is_valid(row) {
            merge(states, row, counts.map_or(1, |counts| counts.value(row)))?;
        }
    }
    Ok(())
}

/// The totals of all groups.
#[derive(Debug)]
pub(super) struct Groups<T> {
    groups: Vec<Group<T>>,
    heap: usize,
    finish: Finish,
}

impl<T: Total> Groups<T> {
    pub(super) fn new(finish: Finish) -> Self {
        Self {
            groups: Vec::new(),
            heap: 0,
            finish,
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Group<T>> {
        let taken = emit_to.take_needed(&mut self.groups);
        self.heap -= taken.iter().map(|group| group.total.heap()).sum::<usize>();
        taken
    }
}

impl<T: Total> GroupsAccumulator for Groups<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Group::default);
        let (groups, heap) = (&mut self.groups, &mut self.heap);
        T::each(values, opt_filter, |row, value| {
            let group = &mut groups[group_indices[row]];
            group.count += 1;
            *heap += group.total.add(value);
        })
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.groups.resize_with(total_num_groups, Group::default);
        let (groups, heap) = (&mut self.groups, &mut self.heap);
        each_state::<T>(values, &self.finish, |states, row, count| {
            let group = &mut groups[group_indices[row]];
            group.count += count;
            *heap += group.total.merge(states, row)?;
            Ok(())
        })
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.take(emit_to);
        values(&groups, &self.finish)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.take(emit_to);
        Ok(state(&groups, &self.finish))
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows: Vec<usize> = (0..values[0].len()).collect();
        let mut each_its_own = Self::new(self.finish.clone());
        each_its_own.update_batch(values, &rows, opt_filter, rows.len())?;
        each_its_own.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Group<T>>() + self.heap
    }
}

/// The total of one group, or of the frame that slides over a window's rows.
#[derive(Debug)]
pub(super) struct One<T> {
    group: Group<T>,
    finish: Finish,
}

impl<T: Total> One<T> {
    pub(super) fn new(finish: Finish) -> Self {
        Self {
            group: Group::default(),
            finish,
        }
    }
}

impl<T: Total> Accumulator for One<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        T::each(values, None, |_, value| {
            self.group.count += 1;
            self.group.total.add(value);
        })
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        T::each(values, None, |_, value| {
            self.group.count -= 1;
            self.group.total.remove(value);
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let group = &mut self.group;
        each_state::<T>(states, &self.finish, |states, row, count| {
            group.count += count;
            group.total.merge(states, row)?;
            Ok(())
        })
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&values(std::slice::from_ref(&self.group), &self.finish)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let state = state(std::slice::from_ref(&self.group), &self.finish);
        state
            .iter()
            .map(|column| ScalarValue::try_from_array(column, 0))
            .collect()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.group.total.heap()
    }
}

/// The different values of one group, each with how often it is there.
#[derive(Debug)]
pub(super) struct Different<T: Distinguishing> {
    times: HashMap<T::Key, u64>,
    finish: Finish,
}

impl<T: Distinguishing> Different<T> {
    pub(super) fn new(finish: Finish) -> Self {
        Self {
            times: HashMap::new(),
            finish,
        }
    }

    fn add(&mut self, values: &[ArrayRef]) -> Result<()> {
        T::each(values, None, |_, value| {
            *self.times.entry(T::key(value)).or_default() += 1;
        })
    }
}

impl<T: Distinguishing> Accumulator for Different<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        T::each(values, None, |_, value| {
            let key = T::key(value);
            match self.times.get_mut(&key) {
                Some(times) if *times > 1 => *times -= 1,
                _ => drop(self.times.remove(&key)),
            }
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for values in states[0].as_list::<i32>().iter().flatten() {
            self.add(&[values])?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut group = Group::<T>::default();
        for key in self.times.keys() {
            group.count += 1;
            group.total.add(T::value(*key));
        }
        ScalarValue::try_from_array(&values(&[group], &self.finish)?, 0)
    }

    /// The values in their order.
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut keys: Vec<T::Key> = self.times.keys().copied().collect();
        keys.sort_unstable();
        let values = T::column(keys.into_iter().map(T::value));
        let values: ArrayRef = match self.finish.input.is_decimal() {
            true => Arc::new(values.with_data_type(self.finish.input.clone())),
            false => arrow::compute::cast(&values, &self.finish.input)?,
        };
        let item = Field::new_list_field(self.finish.input.clone(), true);
        let list = ListArray::new(Arc::new(item), OffsetBuffer::from_lengths([values.len()]), values, None);
        Ok(vec![ScalarValue::List(Arc::new(list))])
    }

    fn size(&self) -> usize {
        // A table keeps a byte beside each entry.
        size_of::<Self>() + self.times.capacity() * (size_of::<(T::Key, u64)>() + 1)
    }
}
