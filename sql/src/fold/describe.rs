//! A fold for people to read.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};

use super::Fold;
use crate::Growth;
use crate::aggregates::{class_of_fold, growth};
use crate::explain::{Aggregate, Bytes, FoldPlan, Key, SearchedBy, StateColumn, Window, lines, tidy};
use crate::windows::Regrouping;

impl Fold {
    pub(crate) fn describe(&self) -> Result<FoldPlan> {
        // Among the columns of the aggregation, its values stand behind the keys.
        let values = self.whole.schema().fields().len() - self.partial.aggr_expr().len();
        let fields = self.state_schema.fields();
        let (keys, states) = fields.split_at(self.key_columns);
        let keys: Vec<Key> = keys
            .iter()
            .enumerate()
            .map(|(index, field)| Key {
                column: StateColumn::new(field.name(), field.data_type()),
                gives: if index < values {
                    self.outputs_of(index)
                } else {
                    Vec::new()
                },
                bytes: Bytes::of(field.data_type()),
            })
            .collect();
        let mut states = states.iter();
        let mut aggregates = Vec::new();
        for (index, aggregate) in self.partial.aggr_expr().iter().enumerate() {
            let growth = growth_of(aggregate)?;
            let mut bytes = Bytes::default();
            let mut state = Vec::new();
            for field in states.by_ref().take(aggregate.state_fields()?.len()) {
                let name = aggregate.fun().name();
                bytes = bytes.and(Bytes::of_state(name, growth, field.name(), field.data_type()));
                state.push(StateColumn::new(field.name(), field.data_type()));
            }
            aggregates.push(Aggregate {
                name: tidy(aggregate.name()),
                gives: self.outputs_of(values + index),
                class: class_of_fold(aggregate.fun().name()),
                growth,
                state,
                bytes,
            });
        }
        let weights = keys.iter().map(|key| key.bytes);
        let weights = weights.chain(aggregates.iter().map(|aggregate| aggregate.bytes));
        let mut left_out = vec!["duplicate rows"];
        left_out.extend(self.windowed.then_some("late rows"));
        let partial: Arc<dyn ExecutionPlan> = Arc::clone(&self.partial) as _;
        let mut finish = lines(&displayable(self.top.as_ref()).indent(false));
        let above = finish.iter().position(|line| line.contains("AggregateExec"));
        finish.truncate(above.unwrap_or(finish.len()));
        let indent = "  ".repeat(finish.len());
        let (merge, last) = match self.regroup.as_ref().map(|regroup| &regroup.by) {
            Some(Regrouping::Session(_)) => ("fragments united to sessions, then ", ""),
            Some(Regrouping::Hop(_)) => ("", ", over panes fanned out to hops"),
            None => ("", ""),
        };
        let merge = format!("{merge}the same aggregates over states, by key");
        finish.push(format!("{indent}Aggregate: final, in key order{last}"));
        let outputs = self.output_schema.fields().iter();
        let mut searched_by: Vec<SearchedBy> = outputs
            .filter_map(|field| {
                self.searched_key(field.name()).map(|key| SearchedBy {
                    column: field.name().clone(),
                    key: key + 1,
                })
            })
            .collect();
        searched_by.sort_by_key(|searched| searched.key);
        Ok(FoldPlan {
            stream: self.stream.name.clone(),
            columns_read: self.input_columns.clone(),
            left_out,
            windows: self.windows.iter().cloned().map(Window::new).collect(),
            partial: lines(&displayable(partial.as_ref()).indent(false)),
            bytes_per_key: weights.fold(Bytes::default(), Bytes::and),
            keys,
            aggregates,
            merge,
            finish,
            searched_by,
        })
    }

    /// The columns of the answer that column `index` of the aggregation goes into.
    fn outputs_of(&self, index: usize) -> Vec<String> {
        let outputs = self.output_schema.fields().iter().enumerate();
        outputs
            .filter(|(output, _)| below(&self.top, &self.whole, *output).contains(&index))
            .map(|(_, field)| field.name().clone())
            .collect()
    }
}

/// The columns of `whole` that column `index` of `plan`, which stands above it, is made of.
fn below(plan: &Arc<dyn ExecutionPlan>, whole: &Arc<dyn ExecutionPlan>, index: usize) -> BTreeSet<usize> {
    if Arc::ptr_eq(plan, whole) {
        return BTreeSet::from([index]);
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let columns = projection.expr().get(index).map(|column| collect_columns(&column.expr));
        let columns = columns.into_iter().flatten();
        return columns
            .flat_map(|column| below(projection.input(), whole, column.index()))
            .collect();
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let kept = filter.projection().as_ref();
        let index = kept.map_or(Some(index), |kept| kept.get(index).copied());
        return index.map_or_else(BTreeSet::new, |index| below(filter.input(), whole, index));
    }
    match plan.children().as_slice() {
        [input] if input.schema().fields().len() == plan.schema().fields().len() => below(input, whole, index),
        _ => BTreeSet::new(),
    }
}

fn growth_of(aggregate: &AggregateFunctionExpr) -> Result<Growth> {
    let growth = growth(aggregate.fun().name());
    if !aggregate.is_distinct() {
        return Ok(growth);
    }
    // Extremes and the like are the same with DISTINCT, and keep no values.
    let value = aggregate.field();
    let state = aggregate.state_fields()?;
    let keeps = |data_type: &DataType| matches!(data_type, DataType::List(_)) && data_type != value.data_type();
    Ok(match growth {
        Growth::Constant if state.iter().any(|field| keeps(field.data_type())) => Growth::DistinctValues,
        Growth::Rows => Growth::DistinctValues,
        other => other,
    })
}
