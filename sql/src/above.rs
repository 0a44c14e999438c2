//! Hops and sessions over rows that are no stream's: those of views and subqueries, which are finished when they are read.
//! There are no states to put together; both are written out in the plan.
//!
//! ```text
//!   GROUP BY key, hop(t, ...)        GROUP BY key, start           over  UNNEST of the starts of all hops that t lies in
//!   GROUP BY key, session(t, gap)    GROUP BY key, number          over  a running number that grows where t is not
//!                                    with min(t) as its start            closer than the gap to the one before
//! ```

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::functions_window::expr_fn::lag;
use datafusion::logical_expr::expr::{Sort, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Aggregate, Case, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, WindowFrame, WindowFrameBound,
    WindowFrameUnits, WindowFunctionDefinition, cast, lit,
};

use crate::arithmetic::float_rank;
use crate::windows::{hop_starts, session_gap};

const MOMENT: &str = "__moment";
const BEGINS: &str = "__begins";

/// Writes the hops and sessions of `plan` out that are not over rows of a stream. Runs before types are coerced.
pub(crate) fn written_out(plan: LogicalPlan, over_stream: &dyn Fn(&LogicalPlan) -> bool) -> Result<LogicalPlan> {
    let written = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) if !over_stream(&aggregate.input) => {
            let window = aggregate
                .group_expr
                .iter()
                .enumerate()
                .find_map(|(index, group)| match group {
                    Expr::ScalarFunction(function) if matches!(function.name(), "hop" | "session") => {
                        Some((index, function.name() == "hop", function.args.clone()))
                    }
                    _ => None,
                });
            Ok(match window {
                Some((index, true, arguments)) => Transformed::yes(hops(aggregate, index, arguments)?),
                Some((index, false, arguments)) => Transformed::yes(sessions(aggregate, index, &arguments)?),
                None => Transformed::no(LogicalPlan::Aggregate(aggregate)),
            })
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(written.data)
}

fn hops(aggregate: Aggregate, index: usize, arguments: Vec<Expr>) -> Result<LogicalPlan> {
    let name = aggregate.group_expr[index].schema_name().to_string();
    let with_starts = with_column(&aggregate.input, hop_starts(arguments).alias(&name))?;
    let rows = LogicalPlanBuilder::from(with_starts).unnest_column(Column::new_unqualified(&name))?;
    let mut groups = aggregate.group_expr;
    groups[index] = Expr::Column(Column::new_unqualified(name));
    let aggregate = Aggregate::try_new(Arc::new(rows.build()?), groups, aggregate.aggr_expr)?;
    Ok(LogicalPlan::Aggregate(aggregate))
}

fn sessions(aggregate: Aggregate, index: usize, arguments: &[Expr]) -> Result<LogicalPlan> {
    let (gap, time) = (session_gap(arguments)?, &arguments[0]);
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let micros = cast(time.clone(), DataType::Timestamp(TimeUnit::Microsecond, None));
    let rows = with_column(&aggregate.input, cast(micros, DataType::Int64).alias(MOMENT))?;
    let mut by = vec![column(MOMENT).is_null()];
    for (_, other) in aggregate
        .group_expr
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != index)
    {
        // As GROUP BY does, with one zero.
        by.push(match other.get_type(rows.schema())? {
            DataType::Float64 => float_rank(other.clone()),
            _ => other.clone(),
        });
    }
    let over = |function: WindowFunctionDefinition, argument: Expr| {
        let until_here = WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
            WindowFrameBound::CurrentRow,
        );
        Expr::from(WindowFunction {
            fun: function,
            params: WindowFunctionParams {
                args: vec![argument],
                partition_by: by.clone(),
                order_by: vec![Sort {
                    expr: column(MOMENT),
                    asc: true,
                    nulls_first: true,
                }],
                window_frame: until_here,
                filter: None,
                null_treatment: None,
                distinct: false,
            },
        })
    };
    let Expr::WindowFunction(before) = lag(column(MOMENT), Some(1), None) else {
        unreachable!("lag is a window function");
    };
    let before = over(before.fun, column(MOMENT));
    let rows = LogicalPlanBuilder::from(rows).window([before.clone()])?.build()?;
    let since = column(MOMENT) - column(&before.schema_name().to_string());
    let goes_on = column(MOMENT).is_null().or(since.lt(lit(gap)));
    let begins = Expr::Case(Case::new(
        None,
        vec![(Box::new(goes_on), Box::new(lit(0_i64)))],
        Some(Box::new(lit(1_i64))),
    ));
    let rows = with_column(&rows, begins.alias(BEGINS))?;
    let sum = WindowFunctionDefinition::AggregateUDF(datafusion::functions_aggregate::sum::sum_udaf());
    let number = over(sum, column(BEGINS));
    let rows = LogicalPlanBuilder::from(rows).window([number.clone()])?.build()?;

    let name = aggregate.group_expr[index].schema_name().to_string();
    let mut groups = aggregate.group_expr;
    groups[index] = column(&number.schema_name().to_string());
    let mut aggregates = aggregate.aggr_expr;
    aggregates.push(min(time.clone()).alias(&name));
    let aggregate = Aggregate::try_new(Arc::new(rows), groups, aggregates)?;
    let mut columns: Vec<Expr> = aggregate.schema.columns().into_iter().map(Expr::Column).collect();
    let start = columns.pop();
    columns[index] = start.expect("the start of the session is the last column");
    let projection = Projection::try_new(columns, Arc::new(LogicalPlan::Aggregate(aggregate)))?;
    Ok(LogicalPlan::Projection(projection))
}

/// `plan` with one more column.
fn with_column(plan: &LogicalPlan, column: Expr) -> Result<LogicalPlan> {
    let mut columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(column);
    let projection = Projection::try_new(columns, Arc::new(plan.clone()))?;
    Ok(LogicalPlan::Projection(projection))
}
