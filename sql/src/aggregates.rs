//! Aggregates that give one answer, whatever the batches, the threads and the ties (laws 1 and 2).
//!
//! * An aggregate that looks at order (`first_value`, `last_value`, `array_agg`) gets log order behind its own ORDER
//!   BY, or alone where it has none: `_partition`, then `_offset`.
//! * SUM and AVG of integers run over DECIMAL(38,0), 128 bits, and are brought back to their type above the
//!   aggregation: DataFusion itself wraps sums and averages integers as doubles, so that its answer would depend on how
//!   rows were batched. A sum that does not fit BIGINT is an error at finish.
//! * MIN and MAX of doubles run over their ranks ([`crate::arithmetic::float_rank`]): NaN has one place in the order.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::functions_aggregate::{count::count_udaf, sum::sum_udaf};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Sort};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, cast};
use datafusion::optimizer::analyzer::AnalyzerRule;

use crate::arithmetic::{float_of_rank, float_rank};
use crate::system_columns;

/// Aggregates whose answer depends on the order of rows.
pub(crate) const ORDER_SENSITIVE: &[&str] = &["first_value", "last_value", "array_agg"];

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
    match function.func.name() {
        name if ORDER_SENSITIVE.contains(&name) => Ok(complete_order(function, aggregate)),
        "sum" => integer_sum(function, aggregate),
        "avg" => integer_average(function, aggregate),
        "min" | "max" => float_extreme(function, aggregate),
        _ => Ok(None),
    }
}

fn complete_order(function: &AggregateFunction, aggregate: &Aggregate) -> Option<Parts> {
    let schema = aggregate.input.schema();
    let column = |name| {
        let found = schema.iter().find(|(_, field)| field.name() == name)?;
        Some(Expr::Column(Column::from(found)))
    };
    let log_order = [column(system_columns::PARTITION)?, column(system_columns::OFFSET)?];
    let mut params = function.params.clone();
    if params
        .order_by
        .iter()
        .rev()
        .zip(log_order.iter().rev())
        .filter(|(have, want)| have.expr == **want)
        .count()
        == 2
    {
        return None;
    }
    params.order_by.extend(log_order.map(|expr| Sort {
        expr,
        asc: true,
        nulls_first: false,
    }));
    let completed = AggregateFunction {
        func: Arc::clone(&function.func),
        params,
    };
    Some(Parts {
        aggregates: vec![Expr::AggregateFunction(completed)],
        finish: Box::new(|mut columns| columns.remove(0)),
    })
}

/// The argument as DECIMAL(38,0), if it is an integer and the aggregate is a plain one.
fn integer_argument(function: &AggregateFunction, aggregate: &Aggregate) -> Result<Option<Expr>> {
    let [argument] = function.params.args.as_slice() else {
        return Ok(None);
    };
    let data_type = argument.get_type(aggregate.input.schema())?;
    // AVG comes here with its argument already coerced to a double.
    let argument = match argument {
        Expr::Cast(coerced) if data_type == DataType::Float64 => &*coerced.expr,
        other => other,
    };
    let integer = argument.get_type(aggregate.input.schema())?.is_integer();
    Ok((integer && !function.params.distinct).then(|| cast(argument.clone(), DataType::Decimal128(38, 0))))
}

fn sum_of(argument: Expr, params: &AggregateFunctionParams) -> Expr {
    let params = AggregateFunctionParams {
        args: vec![argument],
        ..params.clone()
    };
    Expr::AggregateFunction(AggregateFunction {
        func: sum_udaf(),
        params,
    })
}

fn integer_sum(function: &AggregateFunction, aggregate: &Aggregate) -> Result<Option<Parts>> {
    let Some(argument) = integer_argument(function, aggregate)? else {
        return Ok(None);
    };
    let data_type = Expr::AggregateFunction(function.clone()).get_type(aggregate.input.schema())?;
    Ok(Some(Parts {
        aggregates: vec![sum_of(argument, &function.params)],
        finish: Box::new(move |mut columns| cast(columns.remove(0), data_type)),
    }))
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

fn integer_average(function: &AggregateFunction, aggregate: &Aggregate) -> Result<Option<Parts>> {
    let Some(argument) = integer_argument(function, aggregate)? else {
        return Ok(None);
    };
    let counted = AggregateFunctionParams {
        args: vec![argument.clone()],
        ..function.params.clone()
    };
    let count = Expr::AggregateFunction(AggregateFunction {
        func: count_udaf(),
        params: counted,
    });
    Ok(Some(Parts {
        aggregates: vec![sum_of(argument, &function.params), count],
        finish: Box::new(|mut columns| {
            let count = cast(columns.remove(1), DataType::Float64);
            cast(columns.remove(0), DataType::Float64) / count
        }),
    }))
}
