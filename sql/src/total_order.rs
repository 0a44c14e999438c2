//! Orders above the aggregation, completed (law 2): rows that a view's or query's own ORDER BY leaves equal are ordered by
//! all their columns, so that nothing hangs on how the planner joins, groups or splits.
//!
//! Completed are ORDER BY, the functions that look at a single row's place (`row_number`, `lag`, `lead`, `ntile`, frames
//! in ROWS, and `first_value`), and ordered aggregates over rows that are no stream's. Functions of peers (`rank`,
//! RANGE frames) give equal rows equal values as they stand.
//!
//! An OFFSET below something else becomes a condition on `row_number`: where rows are sorted once more above it, DataFusion
//! 55 moves that sort below the OFFSET, keeping as many rows as LIMIT says, of which OFFSET then takes its own.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result, plan_err};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::{Sort as SortKey, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Expr, FetchType, Limit, LogicalPlan, LogicalPlanBuilder, Projection, SkipType, Sort, Window, WindowFrame,
    WindowFrameBound, WindowFrameUnits, lit,
};
use datafusion::optimizer::analyzer::AnalyzerRule;
use datafusion::scalar::ScalarValue;

/// Window functions that give each row a value by its own place.
const BY_PLACE: &[&str] = &["row_number", "lag", "lead", "ntile"];
/// Window functions that give equal rows the same value.
const BY_PEERS: &[&str] = &["rank", "dense_rank", "percent_rank", "cume_dist"];

/// The rule that completes orders. Applying it twice changes nothing.
#[derive(Debug)]
pub(crate) struct TotalOrder;

impl AnalyzerRule for TotalOrder {
    fn name(&self) -> &str {
        "total_order"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let completed = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Sort(mut sort) => {
                let before = sort.expr.len();
                complete(&mut sort.expr, sort.input.schema());
                let changed = sort.expr.len() > before;
                Ok(Transformed::new_transformed(LogicalPlan::Sort(sort), changed))
            }
            LogicalPlan::Window(window) => {
                let schema = Arc::clone(window.input.schema());
                let input = Arc::clone(&window.input);
                let node = LogicalPlan::Window(window);
                let names = NamePreserver::new(&node);
                let completed = node.map_expressions(|expression| {
                    let name = names.save(&expression);
                    let completed = expression.transform_up(|expression| match expression {
                        Expr::WindowFunction(function) => completed(*function, &schema),
                        other => Ok(Transformed::no(other)),
                    })?;
                    Ok(completed.update_data(|expression| name.restore(expression)))
                })?;
                if !completed.transformed {
                    return Ok(completed);
                }
                Ok(Transformed::yes(by_order(completed.data.expressions(), input)?))
            }
            other => Ok(Transformed::no(other)),
        })?;
        let mut outermost = true;
        let numbered = completed.data.transform_down_with_subqueries(|node| {
            let of_answer = outermost;
            outermost &= matches!(node, LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_));
            match node {
                LogicalPlan::Limit(limit) if !of_answer => numbered(limit),
                other => Ok(Transformed::no(other)),
            }
        })?;
        Ok(numbered.data)
    }
}

/// LIMIT with OFFSET over sorted rows as a condition on their numbers.
fn numbered(limit: Limit) -> Result<Transformed<LogicalPlan>> {
    let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?) else {
        return Ok(Transformed::no(LogicalPlan::Limit(limit)));
    };
    if skip == 0 {
        return Ok(Transformed::no(LogicalPlan::Limit(limit)));
    }
    match limit.input.as_ref() {
        LogicalPlan::Projection(projection) => {
            let below = Limit {
                input: Arc::clone(&projection.input),
                ..limit.clone()
            };
            let below = numbered(below)?;
            if !below.transformed {
                return Ok(Transformed::no(LogicalPlan::Limit(limit)));
            }
            let projection = Projection::try_new(projection.expr.clone(), Arc::new(below.data))?;
            Ok(Transformed::yes(LogicalPlan::Projection(projection)))
        }
        LogicalPlan::Sort(sort) => {
            let Expr::WindowFunction(mut number) = row_number() else {
                unreachable!("row_number is a window function");
            };
            number.params.order_by.clone_from(&sort.expr);
            number.params.window_frame = WindowFrame::new_bounds(
                WindowFrameUnits::Rows,
                WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                WindowFrameBound::CurrentRow,
            );
            let number = Expr::WindowFunction(number);
            let place = Expr::Column(Column::new_unqualified(number.schema_name().to_string()));
            let bound = |rows: usize| lit(u64::try_from(rows).unwrap_or(u64::MAX));
            let mut taken = place.clone().gt(bound(skip));
            if let Some(fetch) = fetch {
                taken = taken.and(place.lt_eq(bound(skip.saturating_add(fetch))));
            }
            let columns = sort.input.schema().columns().into_iter().map(Expr::Column);
            let rows = LogicalPlanBuilder::from(Arc::clone(&sort.input))
                .window([number])?
                .filter(taken)?
                .project(columns.collect::<Vec<_>>())?
                .build()?;
            let sort = Sort {
                expr: sort.expr.clone(),
                input: Arc::new(rows),
                fetch: None,
            };
            Ok(Transformed::yes(LogicalPlan::Sort(sort)))
        }
        _ => Ok(Transformed::no(LogicalPlan::Limit(limit))),
    }
}

/// `windows` over `input`, those of one order together: a node of the plan has one.
fn by_order(windows: Vec<Expr>, input: Arc<LogicalPlan>) -> Result<LogicalPlan> {
    let mut groups: Vec<(Vec<SortKey>, Vec<Expr>, Vec<Expr>)> = Vec::new();
    for window in windows {
        let bare = window.clone().unalias_nested().data;
        let (order, partition) = match &bare {
            Expr::WindowFunction(function) => (function.params.order_by.clone(), function.params.partition_by.clone()),
            _ => (Vec::new(), Vec::new()),
        };
        let found = groups
            .iter_mut()
            .find(|(other, by, _)| *other == order && *by == partition);
        match found {
            Some((_, _, together)) => together.push(window),
            None => groups.push((order, partition, vec![window])),
        }
    }
    let mut plan = input;
    for (_, _, together) in groups {
        plan = Arc::new(LogicalPlan::Window(Window::try_new(together, plan)?));
    }
    Ok(Arc::unwrap_or_clone(plan))
}

fn completed(mut function: WindowFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let name = function.fun.name().to_owned();
    let frame = &function.params.window_frame;
    let by_rows = frame.units == WindowFrameUnits::Rows;
    let completes = match name.as_str() {
        name if BY_PEERS.contains(&name) => false,
        name if BY_PLACE.contains(&name) => true,
        "first_value" if !by_rows && from_the_beginning(frame) => {
            // The first row of the frame is the same however its end counts peers.
            function.params.window_frame = WindowFrame::new_bounds(
                WindowFrameUnits::Rows,
                WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                WindowFrameBound::CurrentRow,
            );
            true
        }
        "first_value" | "last_value" | "nth_value" if !by_rows && !whole(frame) => {
            return plan_err!(
                "{name} over a frame in {} has several answers where rows are equal: write ROWS BETWEEN ...",
                frame.units
            );
        }
        "first_value" | "last_value" | "nth_value" => {
            if !by_rows {
                function.params.window_frame = WindowFrame::new_bounds(
                    WindowFrameUnits::Rows,
                    WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                    WindowFrameBound::Following(ScalarValue::UInt64(None)),
                );
            }
            true
        }
        _ => by_rows && !whole(frame),
    };
    let before = function.params.order_by.len();
    if completes {
        complete(&mut function.params.order_by, schema);
    }
    let changed = function.params.order_by.len() > before;
    Ok(Transformed::new_transformed(Expr::from(function), changed))
}

fn from_the_beginning(frame: &WindowFrame) -> bool {
    frame.start_bound.is_unbounded()
}

/// Whether every row sees the whole partition.
fn whole(frame: &WindowFrame) -> bool {
    frame.start_bound.is_unbounded() && frame.end_bound.is_unbounded()
}

/// Appends every column of `schema` that is not there yet, arrays and the like behind the others.
pub(crate) fn complete(order: &mut Vec<SortKey>, schema: &DFSchema) {
    let (nested, plain): (Vec<_>, Vec<_>) = schema.iter().partition(|(_, field)| field.data_type().is_nested());
    for (qualifier, field) in plain.into_iter().chain(nested) {
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        if order.iter().any(|key| key.expr == column) {
            continue;
        }
        order.push(SortKey {
            expr: column,
            asc: true,
            nulls_first: true,
        });
    }
}
