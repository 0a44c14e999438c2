//! A view compiled: rows to partials, partials to partials, partials to answer.
//!
//! ```text
//!                  DataFusion's plan of the view          what a fold keeps of it
//!
//!                  Projection, HAVING                     top:     finished rows -> answer
//!                      |
//!                  Aggregate (one, whole)                 partial: rows -> state    (Partial)
//!                      |                                  merge:   state -> state   (PartialReduce)
//!                  Sort, Projection, WHERE                finish:  state -> values  (Final)
//!                      |
//!                  rows of the stream                     input:   columns that go in
//! ```
//!
//! The three are the same `AggregateExec`, rebuilt in another mode; so batch, speed and serving run one definition.

mod describe;
mod plain;
mod search;

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, collect};

use crate::explain::WindowKind;
use crate::partial::{sorted_by_key, with_schema};
use crate::regroup::Regroup;
use crate::session::{Rows, task_context, with_rows};
use crate::windows::{Regrouping, SESSION_TIME, carry_session_end, names_regrouped, regrouping, windows_of};
use crate::{Partial, Stream, system_columns};

/// Number of the layout and meaning of stored partials. Raise it when either changes: state under another number is
/// rebuilt from the archive.
pub const FOLD_FORMAT: u32 = 3;

/// How exact an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Byte for byte the answer of plain SQL.
    Exact,
    /// Differs from plain SQL by the rounding of doubles only.
    Rounding,
    /// A sketch.
    Approximate,
}

/// What folding can run into.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// DataFusion could not run the fold; a value out of range at finish is one of these.
    #[error("cannot {step} view \"{view}\"")]
    Run {
        /// `fold`, `merge` or `finish`.
        step: &'static str,
        /// Name of the view.
        view: String,
        /// Cause.
        source: DataFusionError,
    },
    /// Rows or state whose columns are not those of this fold.
    #[error("cannot use {what} for view \"{view}\": {reason}")]
    Shape {
        /// What was offered.
        what: &'static str,
        /// Name of the view.
        view: String,
        /// What does not fit.
        reason: String,
    },
    /// The columns of a partial could not be searched or written.
    #[error("cannot use the columns of a partial")]
    Columns {
        /// Cause.
        source: ArrowError,
    },
}

/// A compiled view over one stream. Cheap to clone behind an `Arc`; every method may run on many threads at once.
///
/// Everything here is CPU work without IO: call it from a worker thread or a runtime that may be busy.
#[derive(Debug)]
pub struct Fold {
    view: String,
    stream: Arc<Stream>,
    windowed: bool,
    /// Columns that [`Fold::partial`] reads: those of the plan's rows, then the marks it filters by.
    input_columns: Vec<String>,
    /// The whole aggregation over [`Rows`].
    whole: Arc<dyn ExecutionPlan>,
    /// Rows to state, over [`Rows`].
    partial: Arc<AggregateExec>,
    /// State to state, over [`Rows`].
    merging: Arc<dyn ExecutionPlan>,
    /// State to values, over [`Rows`].
    finishing: Arc<dyn ExecutionPlan>,
    /// The plan above the aggregation, over the aggregation as it stands in `whole`.
    top: Arc<dyn ExecutionPlan>,
    /// The same over [`Rows`] of values.
    above: Arc<dyn ExecutionPlan>,
    state_schema: SchemaRef,
    output_schema: SchemaRef,
    key_columns: usize,
    /// For windows that are put together from states: hops and sessions.
    regroup: Option<Regroup>,
    /// The windows of the GROUP BY.
    windows: Vec<WindowKind>,
}

impl Fold {
    /// Builds the fold of the analysed `plan`, which has one aggregation over `stream`.
    pub(crate) async fn compile(
        view: &str,
        stream: Arc<Stream>,
        plan: &LogicalPlan,
        output_schema: &SchemaRef,
        windowed: bool,
        state: &SessionState,
    ) -> Result<Self> {
        let plan = carry_session_end(plan.clone())?;
        let top = state.create_physical_plan(&plan).await?;
        let (whole, aggregate) = only_aggregate(&top)?;
        let aggregate = aggregate_of(&aggregate)?;
        let input = aggregate.input();
        let partial = AggregateExec::try_new(
            AggregateMode::Partial,
            aggregate.group_expr().clone(),
            aggregate.aggr_expr().to_vec(),
            aggregate.filter_expr().to_vec(),
            Arc::clone(input),
            aggregate.input_schema(),
        )?;
        let key_columns = aggregate.group_expr().num_group_exprs();
        let regroup = regroup_of(&plan, aggregate, key_columns)?;
        let mut input_columns: Vec<String> = rows_schema(input)?
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let marks = [
            Some(system_columns::DUPLICATE),
            windowed.then_some(system_columns::LATE),
        ];
        for mark in marks.into_iter().flatten() {
            if !input_columns.iter().any(|column| column == mark) {
                input_columns.push(mark.to_owned());
            }
        }
        let state_schema = nullable(&partial.schema());
        let values: Arc<dyn ExecutionPlan> = Arc::new(Rows::new(whole.schema()));
        let fold = Self {
            view: view.to_owned(),
            stream,
            windowed,
            input_columns,
            merging: over_state(&partial, AggregateMode::PartialReduce, &state_schema)?,
            finishing: over_state(&partial, AggregateMode::Final, &state_schema)?,
            above: replace(&top, &whole, values)?,
            state_schema,
            output_schema: Arc::clone(output_schema),
            key_columns,
            regroup,
            windows: windows_of(&plan)?,
            partial: Arc::new(partial),
            whole,
            top,
        };
        fold.probe().await?;
        Ok(fold)
    }

    /// Folds and finishes one row, because some functions look at their arguments only when they run: what they then
    /// refuse would stop the view at its first event. What depends on the values of the row is none of its business.
    async fn probe(&self) -> Result<()> {
        let schema = rows_schema(self.partial.input())?;
        let columns = schema.fields().iter().map(|field| {
            let value = match field.is_nullable() {
                true => ScalarValue::try_from(field.data_type()),
                false => ScalarValue::new_default(field.data_type()),
            };
            value?.to_array()
        });
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let row = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let probed = async {
            let partial = self.state_of(row).await?;
            self.try_finish(&[self.try_merge(&[&partial, &partial]).await?]).await
        };
        match probed.await {
            Err(error) if refuses(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Name of the view.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// The stream that this folds.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Whether a window is in the GROUP BY, so that late rows are left out.
    pub fn windowed(&self) -> bool {
        self.windowed
    }

    /// Columns of [`Stream::table_schema`] that [`Fold::partial`] reads, `_late` and `_duplicate` included.
    pub fn input_columns(&self) -> &[String] {
        &self.input_columns
    }

    /// Key columns, then state columns: the columns of a [`Partial`] of this fold.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// How many of the first columns of [`Fold::state_schema`] are the key.
    pub fn key_columns(&self) -> usize {
        self.key_columns
    }

    /// Position of the key column that merging changes: the start of a session does when an earlier event comes.
    pub(crate) fn session_key(&self) -> Option<usize> {
        let regroup = self.regroup.as_ref()?;
        matches!(regroup.by, Regrouping::Session(_)).then_some(regroup.window)
    }

    /// Columns of the answer.
    pub fn output_schema(&self) -> &SchemaRef {
        &self.output_schema
    }

    /// Position in the key of the output column `name`, where the output column is that key column unchanged.
    pub fn key_of_output(&self, name: &str) -> Option<usize> {
        let index = self.output_schema.index_of(name).ok()?;
        let stored = |key: &usize| self.regroup.as_ref().is_none_or(|regroup| regroup.window != *key);
        trace_to_key(&self.top, index).filter(|key| *key < self.key_columns && stored(key))
    }

    /// Folds rows into a partial. `rows` holds at least [`Fold::input_columns`], found by name; duplicates, and late
    /// rows where the view is windowed, are left out here.
    pub async fn partial(&self, rows: &RecordBatch) -> Result<Partial, FoldError> {
        self.try_partial(rows)
            .await
            .map_err(|source| self.failed("fold", source))
    }

    async fn try_partial(&self, rows: &RecordBatch) -> Result<Partial> {
        let counted = self.counted(rows)?;
        if counted.num_rows() == 0 {
            return Ok(Partial::empty(self));
        }
        self.state_of(counted).await
    }

    async fn state_of(&self, rows: RecordBatch) -> Result<Partial> {
        let partial: Arc<dyn ExecutionPlan> = Arc::clone(&self.partial) as _;
        let batches = run(&partial, vec![rows]).await?;
        let partial = Partial::sorted(&self.state_schema, self.key_columns, &batches)?;
        match &self.regroup {
            // Moments become fragments at once: state grows with sessions and not with events.
            Some(regroup) if matches!(regroup.by, Regrouping::Session(_)) => self.try_merge(&[&partial]).await,
            _ => Ok(partial),
        }
    }

    /// Merges partials, in any order, into one. An empty slice gives the empty partial.
    pub async fn merge(&self, partials: &[Partial]) -> Result<Partial, FoldError> {
        let partials: Vec<&Partial> = partials.iter().filter(|partial| partial.keys() > 0).collect();
        match partials.as_slice() {
            [] => Ok(Partial::empty(self)),
            [one] => Ok((*one).clone()),
            several => {
                let merged = self.try_merge(several).await;
                let merged = merged.map_err(|source| self.failed("merge", source))?;
                if several.iter().any(|partial| partial.is_looked_up()) {
                    merged.prepare_lookups()?;
                }
                Ok(merged)
            }
        }
    }

    async fn try_merge(&self, partials: &[&Partial]) -> Result<Partial> {
        let states = batches_of(partials);
        let states = match &self.regroup {
            Some(regroup) => regroup.before_merge(&self.state_schema, states)?,
            None => states,
        };
        let batches = run(&self.merging, states).await?;
        Ok(Partial::sorted(&self.state_schema, self.key_columns, &batches)?)
    }

    /// Merges and finishes: the rows of the answer, in key order.
    pub async fn finish(&self, partials: &[Partial]) -> Result<RecordBatch, FoldError> {
        self.try_finish(partials)
            .await
            .map_err(|source| self.failed("finish", source))
    }

    async fn try_finish(&self, partials: &[Partial]) -> Result<RecordBatch> {
        let partials: Vec<&Partial> = partials.iter().filter(|partial| partial.keys() > 0).collect();
        let values = if partials.is_empty() {
            // Without a GROUP BY there is an answer over no rows, too: count(*) is 0.
            run(&self.whole, Vec::new()).await?
        } else {
            self.values_of(batches_of(&partials)).await?
        };
        self.answer(&values).await
    }

    /// States, merged and finished to the values of the aggregation.
    async fn values_of(&self, states: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let states = match &self.regroup {
            Some(regroup) => regroup.before_finish(&self.state_schema, states)?,
            None => states,
        };
        run(&self.finishing, states).await
    }

    /// The answer of the view's plain SQL over `rows` in log order, by one ordinary aggregation without partials:
    /// what [`Fold::finish`] must equal. Rows are those of [`Fold::partial`]; the answer is in key order.
    pub async fn plain(&self, rows: &[RecordBatch]) -> Result<RecordBatch, FoldError> {
        self.try_plain(rows)
            .await
            .map_err(|source| self.failed("finish", source))
    }

    async fn try_plain(&self, rows: &[RecordBatch]) -> Result<RecordBatch> {
        let counted: Vec<RecordBatch> = rows.iter().map(|batch| self.counted(batch)).collect::<Result<_>>()?;
        let source = MemorySourceConfig::try_new_exec(&[counted], rows_schema(self.partial.input())?, None)?;
        self.plain_over(&(source as _), task_context()).await
    }

    /// The answer of plain SQL over `source`, the rows that count.
    async fn plain_over(&self, source: &Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<RecordBatch> {
        let values = match &self.regroup {
            None => collect(over_source(Arc::clone(&self.whole), source)?, context).await?,
            Some(_) => {
                let states = collect(over_source(Arc::clone(&self.partial) as _, source)?, context).await?;
                let states = states.iter().map(|states| with_schema(states, &self.state_schema));
                self.values_of(states.collect::<Result<_, _>>()?).await?
            }
        };
        self.answer(&values).await
    }

    /// Aggregated values to the rows of the answer, in key order.
    async fn answer(&self, values: &[RecordBatch]) -> Result<RecordBatch> {
        let values = sorted_by_key(&self.whole.schema(), self.key_columns, values)?;
        let batches = run(&self.above, vec![values]).await?;
        let batches: Vec<RecordBatch> = batches
            .iter()
            .map(|batch| {
                // Behind the view's columns may stand the end of its sessions.
                let shown: Vec<usize> = (0..self.output_schema.fields().len()).collect();
                with_schema(&batch.project(&shown)?, &self.output_schema)
            })
            .collect::<Result<_, _>>()?;
        Ok(arrow::compute::concat_batches(&self.output_schema, &batches)?)
    }

    /// The rows that the view counts, with the columns that its plan reads.
    fn counted(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut counted: Option<BooleanArray> = None;
        for (mark, judged) in [(system_columns::DUPLICATE, true), (system_columns::LATE, self.windowed)] {
            if !judged {
                continue;
            }
            let marked = rows.column_by_name(mark).ok_or_else(|| missing(mark))?.as_boolean();
            if marked.true_count() > 0 {
                let kept = not(marked)?;
                counted = Some(match counted {
                    Some(before) => arrow::compute::and(&before, &kept)?,
                    None => kept,
                });
            }
        }
        let schema = rows_schema(self.partial.input())?;
        let columns = schema.fields().iter().map(|field| {
            let column = rows.column_by_name(field.name()).ok_or_else(|| missing(field.name()))?;
            Ok(Arc::clone(column))
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let read = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok(match counted {
            Some(counted) => filter_record_batch(&read, &counted)?,
            None => read,
        })
    }

    fn failed(&self, step: &'static str, source: DataFusionError) -> FoldError {
        FoldError::Run {
            step,
            view: self.view.clone(),
            source,
        }
    }
}

/// What `plan` makes of `batches`.
async fn run(plan: &Arc<dyn ExecutionPlan>, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let plan = with_rows(plan, &|_| Ok(batches.clone()))?;
    collect(plan, task_context()).await
}

/// The aggregation of `partial` over its states, in `mode`.
fn over_state(partial: &AggregateExec, mode: AggregateMode, states: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
    let aggregates = order_free(partial.aggr_expr())?;
    let no_filters = aggregates.iter().map(|_| None).collect();
    let group = partial.group_expr().as_final();
    let source = Arc::new(Rows::new(Arc::clone(states)));
    let merge = AggregateExec::try_new(mode, group, aggregates, no_filters, source, partial.input_schema())?;
    Ok(Arc::new(merge))
}

/// The aggregates without trust in the order of their input: over rows that were sorted for another aggregate,
/// `last_value` takes the last it meets, which among states is that of the last partial. (`array_agg` always sorts, and
/// merges sorted states.)
fn order_free(aggregates: &[Arc<AggregateFunctionExpr>]) -> Result<Vec<Arc<AggregateFunctionExpr>>> {
    let free = aggregates.iter().map(|aggregate| {
        if !matches!(aggregate.fun().name(), "first_value" | "last_value") {
            return Ok(Arc::clone(aggregate));
        }
        let free = Arc::clone(aggregate).with_beneficial_ordering(false)?;
        Ok(free.map_or_else(|| Arc::clone(aggregate), Arc::new))
    });
    free.collect()
}

/// Whether `error` is about the query and not about the values that it met.
fn refuses(error: &DataFusionError) -> bool {
    let root = error.find_root();
    matches!(
        root,
        DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) | DataFusionError::Internal(_)
    )
}

fn missing(column: &str) -> DataFusionError {
    DataFusionError::Execution(format!("the rows lack column \"{column}\""))
}

fn batches_of(partials: &[&Partial]) -> Vec<RecordBatch> {
    partials.iter().map(|partial| partial.batch().clone()).collect()
}

/// The regrouping that the GROUP BY of `plan`, planned as `aggregate`, asks for.
fn regroup_of(plan: &LogicalPlan, aggregate: &AggregateExec, key_columns: usize) -> Result<Option<Regroup>> {
    let mut by = None;
    plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            for group in &aggregate.group_expr {
                if let Some(found) = regrouping(group)? {
                    if by.is_some() {
                        return plan_err!("a GROUP BY has one hop or session");
                    }
                    by = Some(found);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let Some(by) = by else { return Ok(None) };
    let groups = aggregate.group_expr();
    let window = groups.expr().iter().position(|(_, name)| names_regrouped(name));
    let Some(window) = window.filter(|_| !groups.has_grouping_set()) else {
        return plan_err!("hop and session stand in a plain GROUP BY, under a name that the planner keeps");
    };
    let mut end = key_columns;
    if matches!(by, Regrouping::Session(_)) {
        let last = |aggregate: &&Arc<AggregateFunctionExpr>| {
            let mut arguments = aggregate.expressions().into_iter();
            arguments.any(|argument| {
                let function = argument.downcast_ref::<ScalarFunctionExpr>();
                function.is_some_and(|function| function.name() == SESSION_TIME)
            })
        };
        let found = aggregate.aggr_expr().iter().position(|aggregate| last(&aggregate));
        let Some(found) = found else {
            return Err(DataFusionError::Internal("a session without its end".to_owned()));
        };
        for before in &aggregate.aggr_expr()[..found] {
            end += before.state_fields()?.len();
        }
    }
    Ok(Some(Regroup {
        by,
        window,
        key_columns,
        end,
    }))
}

pub(crate) fn nullable(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// The aggregation of `plan`: the node that gives its values, and the one that takes its rows. That is one node, or two
/// where DataFusion plans it in two steps itself (grouping sets).
fn only_aggregate(plan: &Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, Arc<dyn ExecutionPlan>)> {
    let mut found: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    plan.apply(|node| {
        if node.downcast_ref::<AggregateExec>().is_some() {
            found.push(Arc::clone(node));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mode = |node: &Arc<dyn ExecutionPlan>| aggregate_of(node).map(|aggregate| *aggregate.mode());
    match found.as_slice() {
        [one] if matches!(mode(one)?, AggregateMode::Single | AggregateMode::SinglePartitioned) => {
            Ok((Arc::clone(one), Arc::clone(one)))
        }
        [values, rows]
            if matches!(mode(values)?, AggregateMode::Final | AggregateMode::FinalPartitioned)
                && mode(rows)? == AggregateMode::Partial =>
        {
            Ok((Arc::clone(values), Arc::clone(rows)))
        }
        _ => Err(DataFusionError::Plan(format!(
            "a fold has one aggregation, and this query plans {}",
            found.len()
        ))),
    }
}

fn aggregate_of(plan: &Arc<dyn ExecutionPlan>) -> Result<&AggregateExec> {
    plan.downcast_ref::<AggregateExec>()
        .ok_or_else(|| DataFusionError::Internal(format!("{} is no aggregation", plan.name())))
}

/// Columns of the [`Rows`] that `plan` reads.
fn rows_schema(plan: &Arc<dyn ExecutionPlan>) -> Result<SchemaRef> {
    let mut schema = None;
    plan.apply(|node| {
        if node.downcast_ref::<Rows>().is_some() {
            schema = Some(node.schema());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    schema.ok_or_else(|| DataFusionError::Plan("the query reads no rows".to_owned()))
}

/// `plan` with `source` in the place of its [`Rows`], and no state of an earlier run.
fn over_source(plan: Arc<dyn ExecutionPlan>, source: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let replaced = plan.transform_up(|node| {
        if node.downcast_ref::<Rows>().is_none() {
            return Ok(Transformed::no(node));
        }
        Ok(Transformed::yes(Arc::clone(source)))
    })?;
    Ok(replaced.data)
}

/// `plan` with `new` in the place of `old`.
fn replace(
    plan: &Arc<dyn ExecutionPlan>,
    old: &Arc<dyn ExecutionPlan>,
    new: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let replaced = Arc::clone(plan).transform_down(|node| {
        if Arc::ptr_eq(&node, old) {
            Ok(Transformed::new(Arc::clone(&new), true, TreeNodeRecursion::Jump))
        } else {
            Ok(Transformed::no(node))
        }
    })?;
    Ok(replaced.data)
}

/// The column of the aggregation that column `index` of `plan` is, unchanged.
fn trace_to_key(plan: &Arc<dyn ExecutionPlan>, index: usize) -> Option<usize> {
    if plan.downcast_ref::<AggregateExec>().is_some() {
        return Some(index);
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let column = projection.expr().get(index)?.expr.downcast_ref::<Column>()?;
        return trace_to_key(projection.input(), column.index());
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let index = match filter.projection() {
            Some(projection) => *projection.get(index)?,
            None => index,
        };
        return trace_to_key(filter.input(), index);
    }
    None
}
