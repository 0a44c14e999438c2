//! The one DataFusion session in which views are planned and folds run: one thread of execution per plan, strings as
//! Utf8, UTC, the functions of windows, and aggregates that do not depend on ties, batches or threads.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::common::config::Dialect;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::optimizer::analyzer::{Analyzer, AnalyzerRule};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
};
use datafusion::prelude::{Expr, SessionConfig, SessionContext};

use crate::Stream;
use crate::aggregates::OrderFreeAggregates;
use crate::arithmetic::CheckedArithmetic;
use crate::total_order::TotalOrder;
use crate::{percentile, sums, windows};

/// Rows per batch inside a plan.
const BATCH_ROWS: usize = 16_384;

/// A session with foldline's functions and rules and without tables: for planning views, and for queries over them.
pub fn session_context(config: SessionConfig) -> SessionContext {
    let mut config = config
        .with_target_partitions(1)
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(false);
    let options = config.options_mut();
    // The dialect that views are parsed in, so that a query over them means what it would mean in a view.
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    options.execution.time_zone = Some("+00:00".to_owned());
    // They tie a plan to one run of it.
    let optimizer = &mut options.optimizer;
    optimizer.enable_dynamic_filter_pushdown = false;
    optimizer.enable_topk_dynamic_filter_pushdown = false;
    optimizer.enable_join_dynamic_filter_pushdown = false;
    optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // A partial that gives up merging would hold a key twice.
    options.execution.skip_partial_aggregation_probe_rows_threshold = usize::MAX;
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(CheckedArithmetic)];
    rules.extend(Analyzer::new().rules);
    rules.push(Arc::new(OrderFreeAggregates));
    rules.push(Arc::new(TotalOrder));
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_analyzer_rules(rules)
        .build();
    let context = SessionContext::new_with_state(state);
    for function in windows::functions() {
        context.register_udf(function);
    }
    for function in sums::functions() {
        context.register_udaf(function);
    }
    context.register_udaf(percentile::function());
    // Two levels of GROUP BY instead of one would make the lower one the fold.
    context.remove_optimizer_rule("single_distinct_aggregation_to_group_by");
    context
}

/// The settings of a task that runs what [`session_context`] planned.
pub fn execution_config() -> SessionConfig {
    task_context().session_config().clone()
}

/// A session in which every stream is a table without rows.
pub(crate) fn planning_context(streams: &[Arc<Stream>]) -> SessionContext {
    let context = session_context(SessionConfig::new());
    for stream in streams {
        let table = Arc::new(RowlessTable {
            schema: stream.table_schema(),
        });
        context
            .register_table(TableReference::bare(stream.name.as_str()), table)
            .expect("names of streams are unique");
    }
    context
}

/// The task context that folds run in.
pub(crate) fn task_context() -> Arc<TaskContext> {
    static CONTEXT: LazyLock<Arc<TaskContext>> = LazyLock::new(|| session_context(SessionConfig::new()).task_ctx());
    Arc::clone(&CONTEXT)
}

/// A table that is planned over and never run; nothing is known about its rows, so no rule can plan them away.
#[derive(Debug)]
pub(crate) struct RowlessTable {
    pub(crate) schema: SchemaRef,
}

#[async_trait]
impl TableProvider for RowlessTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        Ok(Arc::new(Rows::new(schema)))
    }
}

/// The place in a compiled plan where rows go in.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The table that they are of; of a fold's own plans nobody asks.
    pub(crate) table: String,
    /// Which columns of the table; all of them where it is not said.
    pub(crate) projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
    held: Option<Vec<RecordBatch>>,
}

impl Rows {
    pub(crate) fn new(schema: SchemaRef) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            table: String::new(),
            projection: None,
            properties: Arc::new(properties),
            held: None,
        }
    }

    /// The columns `projection` of `table`, which has `schema`.
    pub(crate) fn of_table(table: &str, schema: &SchemaRef, projection: Option<&Vec<usize>>) -> Result<Self> {
        let schema = match projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => Arc::clone(schema),
        };
        Ok(Self {
            table: table.to_owned(),
            projection: projection.cloned(),
            ..Self::new(schema)
        })
    }

    fn holding(&self, batches: Vec<RecordBatch>) -> Self {
        Self {
            table: self.table.clone(),
            projection: self.projection.clone(),
            properties: Arc::clone(&self.properties),
            held: Some(batches),
        }
    }
}

/// `plan`, which may run many times and on many threads, with what `rows` gives in the place of its [`Rows`]. Nothing is
/// planned: what the planner found out about the rows holds for these as well. Nothing is left of an earlier run: plans
/// keep state and metrics after one.
pub(crate) fn with_rows(
    plan: &Arc<dyn ExecutionPlan>,
    rows: &dyn Fn(&Rows) -> Result<Vec<RecordBatch>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(place) = plan.downcast_ref::<Rows>() {
        return Ok(Arc::new(place.holding(rows(place)?)));
    }
    let children = plan.children().into_iter().map(|child| with_rows(child, rows));
    let keep = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    Arc::clone(plan)
        .replace_children(children.collect::<Result<_>>()?, keep)?
        .reset_state()
}

impl DisplayAs for Rows {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter) -> fmt::Result {
        let names: Vec<String> = self
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        write!(formatter, "Rows: columns=[{}]", names.join(", "))
    }
}

impl ExecutionPlan for Rows {
    fn name(&self) -> &str {
        "Rows"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(batches) = self.held.clone() else {
            return Err(DataFusionError::Internal(
                "a compiled plan was run without rows".to_owned(),
            ));
        };
        let rows = MemoryStream::try_new(batches, self.schema(), None)?;
        Ok(Box::pin(cooperative(rows)))
    }
}
