//! Aggregates that give one answer, whatever the batches, the threads and the ties (laws 1 and 2).
//!
//! * An aggregate that looks at order (`first_value`, `last_value`, `array_agg`) gets log order behind its own ORDER
//!   BY, or alone where it has none: `_partition`, then `_offset`.
//! * SUM and AVG are our own ([`crate::sums`]): DataFusion itself wraps sums, averages integers as doubles and rounds
//!   doubles in the order of rows. So are the sums that variances, covariances and regressions are computed from.
//! * MIN and MAX of doubles run over their ranks ([`crate::arithmetic::float_rank`]): NaN has one place in the order.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, NullTreatment, Sort};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, cast};
use datafusion::optimizer::analyzer::AnalyzerRule;

use crate::arithmetic::{float_of_rank, float_rank};
use crate::sums::{moments, quantiles};
use crate::{Class, system_columns, total_order};

/// How an aggregate folds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folding {
    /// One answer, whatever the batches.
    Exact,
    /// The same; but as a window function it rounds by the order of rows.
    ExactUnlessOver,
    /// A sketch whose states merge to one answer in any order.
    Approximate,
    /// Not taken: why, and what to write instead.
    Refused(&'static str, &'static str),
}

/// How the state of one key grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// As large after any number of rows.
    Constant,
    /// With the different values of a key.
    DistinctValues,
    /// With the buckets that the values of a key lie in.
    Buckets,
    /// With the rows of a key.
    Rows,
}

/// Every aggregate that DataFusion ships, and how its state grows without DISTINCT; a test compares this with its
/// registry.
pub(crate) const AGGREGATES: &[(&str, Folding, Growth)] = &[
    ("any_value", Folding::Exact, Growth::Constant),
    ("approx_distinct", Folding::Approximate, Growth::Constant),
    ("approx_median", Folding::Approximate, Growth::Buckets),
    ("approx_percentile_cont", Folding::Approximate, Growth::Buckets),
    (
        "approx_percentile_cont_with_weight",
        Folding::Refused(T_DIGEST.0, T_DIGEST.1),
        Growth::Constant,
    ),
    ("array_agg", Folding::Exact, Growth::Rows),
    ("avg", Folding::Exact, Growth::Constant),
    ("bit_and", Folding::Exact, Growth::Constant),
    ("bit_or", Folding::Exact, Growth::Constant),
    ("bit_xor", Folding::Exact, Growth::Constant),
    ("bool_and", Folding::Exact, Growth::Constant),
    ("bool_or", Folding::Exact, Growth::Constant),
    ("corr", Folding::ExactUnlessOver, Growth::Constant),
    ("count", Folding::Exact, Growth::Constant),
    ("covar_pop", Folding::ExactUnlessOver, Growth::Constant),
    ("covar_samp", Folding::ExactUnlessOver, Growth::Constant),
    ("first_value", Folding::Exact, Growth::Constant),
    ("grouping", Folding::Exact, Growth::Constant),
    ("last_value", Folding::Exact, Growth::Constant),
    ("max", Folding::Exact, Growth::Constant),
    ("median", Folding::Exact, Growth::Rows),
    ("min", Folding::Exact, Growth::Constant),
    // The first n rows of every partial: a merge keeps them all.
    ("nth_value", Folding::Exact, Growth::Rows),
    ("percentile_cont", Folding::Exact, Growth::Rows),
    ("regr_avgx", Folding::ExactUnlessOver, Growth::Constant),
    ("regr_avgy", Folding::ExactUnlessOver, Growth::Constant),
    ("regr_count", Folding::Exact, Growth::Constant),
    ("regr_intercept", Folding::ExactUnlessOver, Growth::Constant),
    ("regr_r2", Folding::ExactUnlessOver, Growth::Constant),
    ("regr_slope", Folding::ExactUnlessOver, Growth::Constant),
    ("regr_sxx", Folding::ExactUnlessOver, Growth::Constant),
    ("regr_sxy", Folding::ExactUnlessOver, Growth::Constant),
    ("regr_syy", Folding::ExactUnlessOver, Growth::Constant),
    ("stddev", Folding::ExactUnlessOver, Growth::Constant),
    ("stddev_pop", Folding::ExactUnlessOver, Growth::Constant),
    ("string_agg", Folding::Exact, Growth::Rows),
    ("sum", Folding::Exact, Growth::Constant),
    ("var", Folding::ExactUnlessOver, Growth::Constant),
    ("var_pop", Folding::ExactUnlessOver, Growth::Constant),
];

const T_DIGEST: (&str, &str) = (
    "its digest depends on the order in which states are merged",
    "write approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY x), or percentile_cont, which is exact",
);

/// How the aggregate called `name` folds.
pub(crate) fn folding(name: &str) -> Option<Folding> {
    let found = AGGREGATES.iter().find(|(known, ..)| *known == name);
    found.map(|(_, folding, _)| *folding)
}

/// How the state of the aggregate called `name` grows, one of [`AGGREGATES`] or of those that stand for them.
pub(crate) fn growth(name: &str) -> Growth {
    let found = AGGREGATES.iter().find(|(known, ..)| *known == name);
    match found {
        Some((.., growth)) => *growth,
        None if name == quantiles::SKETCH => Growth::Buckets,
        None => Growth::Constant,
    }
}

/// Aggregates whose answer depends on the order of rows.
pub(crate) const ORDER_SENSITIVE: &[&str] = &[
    "any_value",
    "array_agg",
    "first_value",
    "last_value",
    "nth_value",
    "string_agg",
];

/// How exact the value of `expression` is.
pub(crate) fn class_of(expression: &Expr) -> Class {
    match expression {
        Expr::AggregateFunction(function) => class_of_fold(function.func.name()),
        Expr::WindowFunction(function) => match folding(function.fun.name()) {
            Some(Folding::ExactUnlessOver) => Class::Rounding,
            _ => class_of_fold(function.fun.name()),
        },
        _ => Class::Exact,
    }
}

/// How exact the aggregate called `name` is when it folds.
pub(crate) fn class_of_fold(name: &str) -> Class {
    match folding(name) {
        Some(Folding::Approximate) => Class::Approximate,
        // What is left of an approximate percentile below its projection.
        None if name == quantiles::SKETCH => Class::Approximate,
        _ => Class::Exact,
    }
}

/// The rule that makes aggregates independent of order and batching. Applying it twice changes nothing.
#[derive(Debug)]
pub(crate) struct OrderFreeAggregates;

impl AnalyzerRule for OrderFreeAggregates {
    fn name(&self) -> &str {
        "order_free_aggregates"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Aggregate(aggregate) => rewrite(aggregate),
            // Types and names stay as they were, but what may be NULL can differ.
            other => Ok(Transformed::no(other.recompute_schema()?)),
        })?;
        Ok(rewritten.data)
    }
}

fn rewrite(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let mut inner: Vec<Expr> = Vec::new();
    let mut outer = Vec::new();
    let mut changed = false;
    for expression in &aggregate.aggr_expr {
        let name = expression.schema_name().to_string();
        let Some(parts) = order_free(expression, &aggregate)? else {
            outer.push(Expr::Column(Column::new_unqualified(name)));
            inner.push(expression.clone());
            continue;
        };
        changed = true;
        let mut columns = Vec::new();
        for part in parts.aggregates {
            // A schema name leaves out casts, so it would not tell count(a) from count(CAST(a AS DECIMAL)).
            let part_name = part.to_string();
            columns.push(Expr::Column(Column::new_unqualified(&part_name)));
            let part = part.alias(part_name);
            if !inner.contains(&part) {
                inner.push(part);
            }
        }
        outer.push((parts.finish)(columns).alias(name));
    }
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let groups = aggregate.group_expr_len()?;
    let inner = Aggregate::try_new(Arc::clone(&aggregate.input), aggregate.group_expr.clone(), inner)?;
    let keys = inner.schema.columns().into_iter().take(groups).map(Expr::Column);
    let columns = keys.chain(outer).collect();
    let projection = Projection::try_new(columns, Arc::new(LogicalPlan::Aggregate(inner)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}

/// What stands for an aggregate: other aggregates, and how their columns make its value.
struct Parts {
    aggregates: Vec<Expr>,
    finish: Box<dyn FnOnce(Vec<Expr>) -> Expr>,
}

fn order_free(expression: &Expr, aggregate: &Aggregate) -> Result<Option<Parts>> {
    // Rules that ran before keep the name of what they change as an alias.
    let expression = expression.clone().unalias_nested().data;
    let Expr::AggregateFunction(function) = &expression else {
        return Ok(None);
    };
    let function = &match with_one_zero(function, aggregate)? {
        Some(function) => function,
        None => function.clone(),
    };
    let parts = match function.func.name() {
        name if ORDER_SENSITIVE.contains(&name) => Ok(complete_order(function, aggregate)),
        "min" | "max" => float_extreme(function, aggregate),
        "approx_median" | "approx_percentile_cont" => {
            let data_type = Expr::AggregateFunction(function.clone()).get_type(aggregate.input.schema())?;
            let (sketch, quantile, percentile) = quantiles::parts(function)?;
            Ok(Some(Parts {
                aggregates: vec![sketch],
                finish: Box::new(move |mut columns| {
                    cast(quantile.call(vec![columns.remove(0), percentile]), data_type)
                }),
            }))
        }
        _ => Ok(moments::parts(function)?.map(|(aggregates, value)| Parts {
            aggregates,
            finish: Box::new(move |columns| value.call(columns)),
        })),
    }?;
    let changed = Expr::AggregateFunction(function.clone()) != expression;
    Ok(parts.or_else(|| {
        changed.then(|| Parts {
            aggregates: vec![Expr::AggregateFunction(function.clone())],
            finish: Box::new(|mut columns| columns.remove(0)),
        })
    }))
}

/// An aggregate that tells doubles apart, with -0.0 taken as 0.0, as GROUP BY and comparisons do.
fn with_one_zero(function: &AggregateFunction, aggregate: &Aggregate) -> Result<Option<AggregateFunction>> {
    let tells_apart = function.params.distinct || function.func.name() == "approx_distinct";
    let Some(value) = function.params.args.first().filter(|_| tells_apart) else {
        return Ok(None);
    };
    let done = matches!(value, Expr::ScalarFunction(rank) if rank.name() == "float_of_rank");
    if done || value.get_type(aggregate.input.schema())? != DataType::Float64 {
        return Ok(None);
    }
    let mut function = function.clone();
    function.params.args[0] = float_of_rank(float_rank(value.clone()));
    Ok(Some(function))
}

fn complete_order(function: &AggregateFunction, aggregate: &Aggregate) -> Option<Parts> {
    let schema = aggregate.input.schema();
    if function.params.distinct {
        // Different values have no other place than their own.
        let value = function.params.args.first()?.clone();
        return function
            .params
            .order_by
            .is_empty()
            .then(|| ordered(function, vec![ascending(value)]));
    }
    if schema.iter().all(|(_, field)| field.name() != system_columns::OFFSET) {
        let mut order = function.params.order_by.clone();
        total_order::complete(&mut order, schema);
        return (order.len() > function.params.order_by.len()).then(|| ordered(function, order));
    }
    let column = |name| {
        let found = schema.iter().find(|(_, field)| field.name() == name)?;
        Some(Expr::Column(Column::from(found)))
    };
    let mut order = function.params.order_by.clone();
    for key in &mut order {
        // States are merged in the order of their keys: -0.0 and 0.0 must be as equal there as everywhere else.
        if key.expr.get_type(schema).ok() == Some(DataType::Float64) {
            key.expr = float_rank(key.expr.clone());
        }
    }
    for place in [column(system_columns::PARTITION)?, column(system_columns::OFFSET)?] {
        if order.iter().all(|key| key.expr != place) {
            order.push(ascending(place));
        }
    }
    let complete = order == function.params.order_by && function.func.name() != "any_value";
    (!complete).then(|| ordered(function, order))
}

fn ascending(expr: Expr) -> Sort {
    Sort {
        expr,
        asc: true,
        nulls_first: false,
    }
}

/// The aggregate over rows in `order`. Any value is the first: one must be the answer.
fn ordered(function: &AggregateFunction, order: Vec<Sort>) -> Parts {
    let func = match function.func.name() {
        "any_value" => first_value_udaf(),
        _ => Arc::clone(&function.func),
    };
    let null_treatment = match function.func.name() {
        "any_value" => Some(NullTreatment::IgnoreNulls),
        _ => function.params.null_treatment,
    };
    let params = AggregateFunctionParams {
        order_by: order,
        null_treatment,
        ..function.params.clone()
    };
    Parts {
        aggregates: vec![Expr::AggregateFunction(AggregateFunction { func, params })],
        finish: Box::new(|mut columns| columns.remove(0)),
    }
}

fn float_extreme(function: &AggregateFunction, aggregate: &Aggregate) -> Result<Option<Parts>> {
    let [argument] = function.params.args.as_slice() else {
        return Ok(None);
    };
    if argument.get_type(aggregate.input.schema())? != DataType::Float64 {
        return Ok(None);
    }
    let ranked = AggregateFunction {
        func: Arc::clone(&function.func),
        params: AggregateFunctionParams {
            args: vec![float_rank(argument.clone())],
            ..function.params.clone()
        },
    };
    Ok(Some(Parts {
        aggregates: vec![Expr::AggregateFunction(ranked)],
        finish: Box::new(|mut columns| float_of_rank(columns.remove(0))),
    }))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionConfig;

    use super::*;

    #[test]
    fn every_aggregate_of_the_registry_is_classed() {
        let state = crate::session_context(SessionConfig::new()).state();
        let mut shipped: Vec<&str> = state.aggregate_functions().values().map(|known| known.name()).collect();
        shipped.sort_unstable();
        shipped.dedup();
        let mut classed: Vec<&str> = AGGREGATES.iter().map(|(name, ..)| *name).collect();
        classed.sort_unstable();
        assert_eq!(shipped, classed);
    }
}
