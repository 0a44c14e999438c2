//! Point reads of views above folds, by plans that were made for the first read of their kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::execution::TaskContext;
use foldline_sql::{PointPlan, View, ViewKind};

use crate::finish::retain;
use crate::merge::{Keys, MergeError};
use crate::query::QueryError;
use crate::read::Condition;
use crate::seam::Seam;
use crate::serving::Inner;

/// Plans that are kept; which columns are asked for is the asker's choice.
const PLANS_MAX: usize = 1000;

/// A view's name and the columns that a read fixes.
type Kind = (String, Vec<String>);

/// The plans that were made, and for which kinds of reads there is none.
#[derive(Debug, Default)]
pub(crate) struct PointPlans {
    made: Mutex<HashMap<Kind, Option<Arc<PointPlan>>>>,
}

impl Inner {
    /// The plan for reads of `view` under `conditions`, if such reads need not look at whole folds.
    pub(crate) async fn point_plan(&self, view: &View, conditions: &[Condition]) -> Option<Arc<PointPlan>> {
        let fixed = conditions.iter().filter(|condition| condition.fixes());
        let mut columns: Vec<String> = fixed.map(|condition| condition.column().to_owned()).collect();
        columns.sort_unstable();
        columns.dedup();
        if columns.is_empty() {
            return None;
        }
        let kind = (view.name.clone(), columns);
        let made = || self.points.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made().get(&kind) {
            return known.clone();
        }
        // What cannot be planned with placeholders is planned without, and says there what is wrong.
        let plan = self.parts.catalog.point_plan(view, &kind.1).await;
        let plan = plan.ok().flatten().map(Arc::new);
        let mut made = made();
        if made.len() >= PLANS_MAX {
            made.clear();
        }
        made.insert(kind, plan.clone());
        plan
    }

    /// The rows of `view` that fulfil `conditions`, and maybe others.
    pub(crate) async fn point_rows(
        &self,
        view: &View,
        point: &PointPlan,
        seam: &Seam,
        conditions: &[Condition],
    ) -> Result<RecordBatch, QueryError> {
        let mut rows = BTreeMap::new();
        for (name, columns) in point.folds() {
            let below = self.view(name)?;
            let ViewKind::Fold(fold) = &below.kind else { continue };
            let mut filters = Vec::new();
            for column in columns {
                let fixing = conditions
                    .iter()
                    .filter(|condition| condition.fixes() && condition.column() == column.of_view);
                for condition in fixing {
                    filters.push(condition.expression_over(&column.of_fold)?);
                }
            }
            let keys = Keys::left_by(fold, &filters).map_err(MergeError::Fold)?;
            rows.insert(name.clone(), self.rows_of(&below, fold, seam, &keys).await?);
        }
        let plan = point.over(&rows).map_err(QueryError::Plan)?;
        let schema = plan.schema();
        let context = TaskContext::default()
            .with_session_config(foldline_sql::execution_config())
            .with_runtime(Arc::clone(&self.runtime));
        let batches = self.collect_plan(plan, Arc::new(context)).await?;
        let rows = concat_batches(&schema, &batches).map_err(QueryError::Columns)?;
        Ok(retain(view, rows, self.as_of(view, seam))?)
    }
}
