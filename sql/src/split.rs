//! A view's plan taken apart: every lowest aggregation over a stream becomes a fold of its own, what stands above is
//! finished when the view is read, over merged values.
//!
//! ```text
//!   Limit                                  Limit
//!     Window                                 Window
//!       Join                       =>          Join
//!         Aggregate   Aggregate                  v.1   v.2          + the folds v.1 and v.2
//!           clicks      clicks
//! ```

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, plan_err};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, LogicalPlan, LogicalPlanBuilder, Projection};

use crate::session::RowlessTable;

/// A fold below a view.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) stream: String,
    /// The aggregation, under a projection that names its columns `c0`, `c1`, ...
    pub(crate) plan: LogicalPlan,
}

/// `SELECT DISTINCT` over a stream as the GROUP BY that it is.
pub(crate) fn distinct_as_groups(plan: LogicalPlan, streams: &dyn Fn(&str) -> bool) -> Result<LogicalPlan> {
    let grouped = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Distinct(Distinct::All(input)) if stream_of(&input, streams).is_some() => {
            let groups = input.schema().columns().into_iter().map(Expr::Column).collect();
            let aggregate = Aggregate::try_new(input, groups, Vec::new())?;
            Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(grouped.data)
}

/// The stream whose rows `plan` filters and computes with, one by one.
pub(crate) fn stream_of(plan: &LogicalPlan, streams: &dyn Fn(&str) -> bool) -> Option<String> {
    let input = match plan {
        LogicalPlan::Projection(projection) => &projection.input,
        LogicalPlan::Filter(filter) => &filter.input,
        LogicalPlan::SubqueryAlias(alias) => &alias.input,
        LogicalPlan::TableScan(scan) => {
            let name = scan.table_name.table();
            return streams(name).then(|| name.to_owned());
        }
        _ => return None,
    };
    if reads_elsewhere(plan) {
        None
    } else {
        stream_of(input, streams)
    }
}

/// Whether an expression of `plan` itself reads other rows than its input's.
fn reads_elsewhere(plan: &LogicalPlan) -> bool {
    plan.expressions().iter().any(|expression| {
        let elsewhere = |expression: &Expr| {
            Ok(matches!(
                expression,
                Expr::OuterReferenceColumn(..)
                    | Expr::ScalarSubquery(_)
                    | Expr::InSubquery(_)
                    | Expr::Exists(_)
                    | Expr::SetComparison(_)
            ))
        };
        expression.exists(elsewhere).unwrap_or(true)
    })
}

/// The stream that `plan` aggregates once, with nothing above but projections and filters: then it is one fold whole.
pub(crate) fn single_fold(plan: &LogicalPlan, streams: &dyn Fn(&str) -> bool) -> Option<String> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => folds(aggregate, streams),
        LogicalPlan::Projection(projection) if !reads_elsewhere(plan) => single_fold(&projection.input, streams),
        LogicalPlan::Filter(filter) if !reads_elsewhere(plan) => single_fold(&filter.input, streams),
        LogicalPlan::SubqueryAlias(alias) => single_fold(&alias.input, streams),
        _ => None,
    }
}

fn folds(aggregate: &Aggregate, streams: &dyn Fn(&str) -> bool) -> Option<String> {
    let plan = LogicalPlan::Aggregate(aggregate.clone());
    if reads_elsewhere(&plan) {
        None
    } else {
        stream_of(&aggregate.input, streams)
    }
}

/// Takes `plan` of `view` apart: what stands above the folds, over tables of their names, and the folds.
pub(crate) fn split(plan: LogicalPlan, view: &str, streams: &dyn Fn(&str) -> bool) -> Result<(LogicalPlan, Vec<Part>)> {
    let mut parts: Vec<Part> = Vec::new();
    let above = plan.transform_down_with_subqueries(|node| {
        let LogicalPlan::Aggregate(aggregate) = &node else {
            return Ok(Transformed::no(node));
        };
        let Some(stream) = folds(aggregate, streams) else {
            return Ok(Transformed::no(node));
        };
        let named = (0..)
            .zip(node.schema().columns())
            .map(|(index, column)| Expr::Column(column).alias(format!("c{index}")));
        let named: Vec<Expr> = named.collect();
        let fold = LogicalPlan::Projection(Projection::try_new(named, Arc::new(node.clone()))?);
        let same = parts.iter().position(|part: &Part| part.plan == fold);
        let index = same.unwrap_or(parts.len());
        let name = format!("{view}.{}", index + 1);
        let table = Arc::new(RowlessTable {
            schema: crate::fold::nullable(fold.schema().as_arrow()),
        });
        if same.is_none() {
            parts.push(Part {
                name: name.clone(),
                stream,
                plan: fold,
            });
        }
        let reference = datafusion::common::TableReference::bare(name);
        let scan = LogicalPlanBuilder::scan(reference.clone(), provider_as_source(table), None)?.build()?;
        let columns = node.schema().iter().enumerate().map(|(index, (qualifier, field))| {
            let column = Column::new(Some(reference.clone()), format!("c{index}"));
            Expr::Column(column).alias_qualified(qualifier.cloned(), field.name())
        });
        let columns = columns.collect();
        let replaced = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(scan))?);
        Ok(Transformed::new(replaced, true, TreeNodeRecursion::Jump))
    })?;
    let above = above.data;
    above.apply_with_subqueries(|node| match node {
        LogicalPlan::TableScan(scan) if streams(scan.table_name.table()) => plan_err!(
            "rows of stream \"{}\" are joined, sorted or ranked one by one: aggregate them first, or make them a view of \
             rows with WITH (key = ...) and read that",
            scan.table_name.table()
        ),
        _ => Ok(TreeNodeRecursion::Continue),
    })?;
    Ok((above, parts))
}
