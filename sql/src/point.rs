//! Point reads of views above folds: planned once, run with the rows of the keys that are asked for.
//!
//! The plan that runs is that of the whole view; only the rows that go in are fewer. Which ones may be left out is the
//! planner's knowledge: the conditions of a read, with placeholders for their values, are pushed down once, and what
//! arrives at a fold is noted. Rows of other keys that come out all the same do not fulfil the conditions, which are
//! looked at once more at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, TableReference, plan_err};
use datafusion::datasource::{TableType, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{
    BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator, TableProviderFilterPushDown,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::prelude::SessionConfig;

use crate::bounds::check_plan;
use crate::session::{Rows, session_context, with_rows};
use crate::{Catalog, Derived, Fold, View, ViewKind};

/// A view above folds, planned for reads that fix some of its columns.
#[derive(Debug)]
pub struct PointPlan {
    plan: Arc<dyn ExecutionPlan>,
    folds: BTreeMap<String, Vec<FixedColumn>>,
}

/// A column of a fold's answer that has only values of a column of the view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FixedColumn {
    /// Of the fold.
    pub of_fold: String,
    /// Of the view.
    pub of_view: String,
}

impl PointPlan {
    /// The folds that the view reads, by name, and by which of their columns.
    pub fn folds(&self) -> &BTreeMap<String, Vec<FixedColumn>> {
        &self.folds
    }

    /// The plan over `rows`, those of each fold that the fixed columns leave, or more of them. To be run once.
    pub fn over(&self, rows: &BTreeMap<String, RecordBatch>) -> Result<Arc<dyn ExecutionPlan>> {
        with_rows(&self.plan, &|place| {
            let Some(rows) = rows.get(&place.table) else {
                return plan_err!("the rows of \"{}\" are missing", place.table);
            };
            Ok(vec![match &place.projection {
                Some(columns) => rows.project(columns)?,
                None => rows.clone(),
            }])
        })
    }
}

impl Catalog {
    /// Plans reads of `view` that fix `columns`. `None` where that would not spare any of its folds, or not all of them,
    /// from being read whole.
    pub async fn point_plan(&self, view: &View, columns: &[String]) -> Result<Option<PointPlan>> {
        static STATE: LazyLock<SessionState> = LazyLock::new(|| session_context(SessionConfig::new()).state());
        let ViewKind::Derived(derived) = &view.kind else {
            return Ok(None);
        };
        let Some(whole) = self.written_out(derived)? else {
            return Ok(None);
        };
        check_plan(&whole)?;
        let mut point = LogicalPlanBuilder::from(whole.clone());
        for column in columns {
            let field = view.schema.field_with_name(column)?.clone();
            let value = Expr::Placeholder(Placeholder::new_with_field(column.clone(), Some(Arc::new(field))));
            point = point.filter(Expr::Column(Column::new_unqualified(column)).eq(value))?;
        }
        let Some(folds) = fixed(&STATE.optimize(&point.build()?)?)? else {
            return Ok(None);
        };
        let plan = STATE.create_physical_plan(&whole).await?;
        let mut runs_often = true;
        plan.apply(|node| {
            // The runs of one plan would share the results of its subqueries.
            runs_often &= !node.is::<ScalarSubqueryExec>();
            runs_often &= node
                .downcast_ref::<Rows>()
                .is_none_or(|rows| folds.contains_key(&rows.table));
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(runs_often.then_some(PointPlan { plan, folds }))
    }

    /// The plan of `derived` over folds alone. `None` where a view below it hides old windows.
    fn written_out(&self, derived: &Derived) -> Result<Option<LogicalPlan>> {
        let mut hides = false;
        let plan = derived.over::<DataFusionError>(&mut |name| {
            let Some(below) = self.view(name) else {
                return plan_err!("there is no view \"{name}\"");
            };
            match &below.kind {
                ViewKind::Fold(fold) => {
                    let rows = Arc::new(FoldRows {
                        name: name.to_owned(),
                        fold: Arc::clone(fold),
                    });
                    LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(rows), None)?.build()
                }
                ViewKind::Derived(derived) => {
                    hides |= below.retention.is_some();
                    match self.written_out(derived)? {
                        Some(plan) => Ok(plan),
                        None => {
                            hides = true;
                            LogicalPlanBuilder::empty(false).build()
                        }
                    }
                }
            }
        });
        match hides {
            true => Ok(None),
            false => plan.map(Some),
        }
    }
}

/// What every scan of `plan` is left by: the same for each scan of one fold, and something for each fold.
fn fixed(plan: &LogicalPlan) -> Result<Option<BTreeMap<String, Vec<FixedColumn>>>> {
    let mut folds: BTreeMap<String, Vec<FixedColumn>> = BTreeMap::new();
    let mut each = true;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let mut columns: Vec<FixedColumn> = scan.filters.iter().filter_map(fixed_column).collect();
            columns.sort();
            columns.dedup();
            let name = scan.table_name.table().to_owned();
            each &= !columns.is_empty() && folds.get(&name).is_none_or(|others| *others == columns);
            folds.insert(name, columns);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok((each && !folds.is_empty()).then_some(folds))
}

/// `column = placeholder`, whichever way round.
fn fixed_column(filter: &Expr) -> Option<FixedColumn> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = filter
    else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Placeholder(value)) | (Expr::Placeholder(value), Expr::Column(column)) => {
            Some(FixedColumn {
                of_fold: column.name.clone(),
                of_view: value.id.clone(),
            })
        }
        _ => None,
    }
}

/// The answer of a fold as a table that is planned over.
#[derive(Debug)]
struct FoldRows {
    name: String,
    fold: Arc<Fold>,
}

impl FoldRows {
    fn is_searched_by(&self, filter: &Expr) -> bool {
        let schema = self.fold.output_schema();
        let type_of = |column: &str| {
            schema
                .field_with_name(column)
                .ok()
                .map(|field| field.data_type().clone())
        };
        let same_type = |column: &FixedColumn, placeholder: &Expr| {
            let wanted: Option<DataType> = match placeholder {
                Expr::Placeholder(value) => value.field.as_ref().map(|field| field.data_type().clone()),
                _ => None,
            };
            wanted.is_some() && wanted == type_of(&column.of_fold)
        };
        let Expr::BinaryExpr(BinaryExpr { left, right, .. }) = filter else {
            return false;
        };
        fixed_column(filter).is_some_and(|column| {
            self.fold.searched_key(&column.of_fold).is_some() && (same_type(&column, left) || same_type(&column, right))
        })
    }
}

#[async_trait]
impl TableProvider for FoldRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.fold.output_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match self.is_searched_by(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Rows::of_table(&self.name, &self.schema(), projection)?))
    }
}
