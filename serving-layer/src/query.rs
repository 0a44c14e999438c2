//! Read-only SQL over the views, all at one closed seam.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, ScalarUDF, cast, lit, not};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use foldline_batch_layer::{ArchiveError, GenerationError};
use foldline_event_log::with_causes;
use foldline_speed_layer::shared::StoreError;
use foldline_sql::bounds::{check_plan, on_deep_stack};
use foldline_sql::{
    Class, Derived, Fold, FoldError, MULTIPLYING_FUNCTIONS, Stream, View, ViewKind, own_bytes, system_columns,
};
use futures::StreamExt;

use crate::fence::{self, Fenced, Refused};
use crate::finish::FinishError;
use crate::merge::MergeError;
use crate::seam::{Mode, Seam, SeamError};
use crate::serving::{Answer, Inner, Serving};
use crate::tables::{AsOf, FoldTable, StreamTable};

/// What a question can meet instead of an answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// No such view.
    #[error("there is no view \"{name}\"; there are: {}", .known.join(", "))]
    UnknownView {
        /// Asked name.
        name: String,
        /// Names that exist.
        known: Vec<String>,
    },
    /// No such table.
    #[error("there is no view or stream \"{name}\"; there are: {}", .known.join(", "))]
    UnknownTable {
        /// Asked name.
        name: String,
        /// Names that exist.
        known: Vec<String>,
    },
    /// No such column.
    #[error("view \"{view}\" has no column \"{column}\"; it has: {}", .valid.join(", "))]
    UnknownColumn {
        /// Name of the view.
        view: String,
        /// Asked column.
        column: String,
        /// Columns that it has.
        valid: Vec<String>,
    },
    /// A literal that is none of the column's type.
    #[error("\"{value}\" does not fit column \"{column}\" of type {data_type}: {reason}")]
    BadValue {
        /// Column.
        column: String,
        /// Its type.
        data_type: String,
        /// The literal.
        value: String,
        /// Why.
        reason: String,
    },
    /// A view that leaves no late rows out, or not those of one stream.
    #[error("late_rows('{view}') has no answer: {reason}")]
    NoLateRows {
        /// Name of the view.
        view: String,
        /// Why.
        reason: String,
    },
    /// A parameter that makes no sense.
    #[error("bad parameter \"{parameter}\": {reason}")]
    BadParameter {
        /// Which one.
        parameter: &'static str,
        /// Why, and what to write.
        reason: String,
    },
    /// The fence.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// SQL that cannot be planned: an unknown column or function, types that do not fit.
    #[error("cannot plan the query: {0}")]
    Plan(DataFusionError),
    /// SQL that failed when it ran: a division by zero, a cast of what does not fit.
    #[error("the query failed: {0}")]
    Run(DataFusionError),
    /// Comparing, sorting or taking columns failed.
    #[error("cannot filter or order the rows")]
    Columns(#[source] ArrowError),
    /// A query over streams where the archive cannot be read.
    #[error(
        "stream \"{0}\" cannot be queried here: this process does not read the archive; query its views, or ask one \
         that runs the batch role"
    )]
    NoArchive(String),
    /// A stream in a question about speed alone.
    #[error("stream \"{0}\" is answered from the archive, in batch only: leave out speed_only")]
    StreamInSpeed(String),
    /// The bound of an answer.
    #[error("the answer is larger than {what}; aggregate more, or add a LIMIT")]
    TooLarge {
        /// Which bound.
        what: String,
    },
    /// The memory bound of queries.
    #[error("the query needs more memory than queries may hold; aggregate more, filter more, or try again later")]
    OutOfMemory(#[source] DataFusionError),
    /// The longest query time.
    #[error("the query took longer than {} seconds", .limit.as_secs_f64())]
    TimedOut {
        /// The bound.
        limit: Duration,
    },
    /// A defect; the log has its trace.
    #[error("the query met a defect in foldline or DataFusion and was stopped; the log says where")]
    Panicked,
    /// There is no generation yet.
    #[error("there is no generation yet, so there is no batch half; ask without batch_only")]
    NoGeneration,
    /// The seam is open.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// A half is missing, or partials cannot be read.
    #[error(transparent)]
    Merge(MergeError),
    /// Finishing failed.
    #[error(transparent)]
    Finish(#[from] FinishError),
    /// A generation could not be read.
    #[error(transparent)]
    Generation(GenerationError),
    /// Archived rows could not be read.
    #[error(transparent)]
    Archive(ArchiveError),
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        Self::from_datafusion(error, Self::Plan)
    }
}

impl From<MergeError> for QueryError {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Speed {
                source: StoreError::NoRoom { source, .. },
                ..
            } => Self::OutOfMemory(DataFusionError::External(source)),
            error => Self::Merge(error),
        }
    }
}

impl QueryError {
    /// Whether stored or folded state cannot be used: somebody has to look.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Merge(MergeError::Building { .. }) => false,
            // The store is away: that says nothing about what lies in it.
            Self::Merge(MergeError::Batch {
                source: GenerationError::Store { .. },
                ..
            }) => false,
            Self::Merge(MergeError::Speed {
                source: StoreError::Unavailable { .. } | StoreError::TooSlow(_) | StoreError::Unfit(_),
                ..
            }) => false,
            Self::Generation(GenerationError::Store { .. }) => false,
            Self::Merge(_) | Self::Generation(_) | Self::Archive(_) => true,
            Self::Finish(FinishError::Fold(FoldError::Run { .. })) => false, // A value out of range: the view's matter.
            Self::Finish(_) => true,
            _ => false,
        }
    }

    /// The message with those of its causes.
    pub fn chain(&self) -> String {
        with_causes(self)
    }

    /// What DataFusion says, as what it means here. `otherwise` makes the error where it is DataFusion's own.
    fn from_datafusion(error: DataFusionError, otherwise: fn(DataFusionError) -> Self) -> Self {
        if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
            return Self::OutOfMemory(error);
        }
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Self>() {
                Ok(own) => *own,
                Err(inner) => otherwise(DataFusionError::External(inner)),
            },
            DataFusionError::Context(context, inner) => match *inner {
                inner @ (DataFusionError::External(_) | DataFusionError::Context(..)) => {
                    Self::from_datafusion(inner, otherwise)
                }
                inner => otherwise(DataFusionError::Context(context, Box::new(inner))),
            },
            error => otherwise(error),
        }
    }
}

impl Serving {
    /// The answer of a read-only query over views and, in batch only, streams.
    pub async fn sql(&self, text: &str, mode: Mode) -> Result<Answer, QueryError> {
        let since = Instant::now();
        let fenced = fence::fence(text, self.inner.parts.limits.sql_bytes)?;
        let inner = Arc::clone(&self.inner);
        self.run(async move { inner.sql(fenced, mode, since).await }).await
    }
}

/// What the tables of a query stand for.
struct Sources {
    streams: Vec<String>,
    queries_streams: bool,
    class: Class,
}

impl Inner {
    async fn sql(self: &Arc<Self>, fenced: Fenced, mode: Mode, since: Instant) -> Result<Answer, QueryError> {
        let turn = Arc::clone(&self.queries).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        let mut late_rows = Vec::with_capacity(fenced.late_rows.len());
        for (table, view) in &fenced.late_rows {
            late_rows.push((table.as_str(), self.late_rows_of(view)?));
        }
        let stands_for = |table: &String| {
            let late = late_rows.iter().find(|(name, _)| name == table);
            late.map_or_else(|| table.clone(), |(_, stream)| stream.name.clone())
        };
        let sources = self.sources(&fenced.tables.iter().map(stands_for).collect::<Vec<_>>())?;
        let mode = match mode {
            Mode::Merged if sources.queries_streams => Mode::BatchOnly,
            Mode::SpeedOnly if sources.queries_streams => {
                return Err(QueryError::StreamInSpeed(fenced.tables.join("\", \"")));
            }
            mode => mode,
        };
        let seam = self.close(&sources.streams, mode).await?;
        let session = self.session(&seam, &fenced.tables).await?;
        for (table, stream) in late_rows {
            self.register_late_rows(&session, table, stream, &seam)?;
        }
        let (state, statement) = (session.state(), fenced.statement);
        // It may take a while, and the threads that answer have others to answer. It cannot be stopped, so it keeps its turn.
        let planning = move || {
            let plan = on_deep_stack(|| futures::executor::block_on(state.statement_to_plan(statement)));
            (plan, turn)
        };
        let (plan, _turn) = match tokio::task::spawn_blocking(planning).await {
            Ok(planned) => planned,
            Err(failure) => std::panic::resume_unwind(Box::new(failure)),
        };
        let plan = plan.map_err(|error| QueryError::from_datafusion(error, QueryError::Plan))?;
        let only_reads = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        only_reads.verify_plan(&plan).map_err(QueryError::Plan)?;
        check_plan(&plan).map_err(QueryError::Plan)?;
        let frame = DataFrame::new(session.state(), plan);
        let schema = Arc::clone(frame.schema().inner());
        let batches = self.collect(frame).await?;
        let schema = batches.first().map_or(schema, RecordBatch::schema);
        Ok(self.answer(schema, batches, &seam, sources.class, since))
    }

    fn sources(&self, tables: &[String]) -> Result<Sources, QueryError> {
        let catalog = &self.parts.catalog;
        let mut sources = Sources {
            streams: Vec::new(),
            queries_streams: false,
            class: Class::Exact,
        };
        for table in tables {
            if let Some(view) = catalog.view(table) {
                self.streams_under(view, &mut sources.streams);
                sources.class = sources.class.max(view.class);
            } else if let Some(stream) = catalog.stream(table) {
                if self.parts.archive.is_none() {
                    return Err(QueryError::NoArchive(table.clone()));
                }
                sources.queries_streams = true;
                if !sources.streams.contains(&stream.name) {
                    sources.streams.push(stream.name.clone());
                }
            } else {
                let views = catalog.views().iter().map(|view| view.name.clone());
                let streams = catalog.streams().iter().map(|stream| stream.name.clone());
                return Err(QueryError::UnknownTable {
                    name: table.clone(),
                    known: views.chain(streams).collect(),
                });
            }
        }
        Ok(sources)
    }

    /// The stream whose late rows `name` leaves out.
    fn late_rows_of(&self, name: &str) -> Result<&Arc<Stream>, QueryError> {
        let view = self.view(name)?;
        let mut folds = Vec::new();
        self.folds_under(&view, &mut folds);
        let mut windowed = folds.iter().filter(|fold| fold.windowed()).map(|fold| fold.stream());
        let refused = |reason: &str| QueryError::NoLateRows {
            view: name.to_owned(),
            reason: reason.to_owned(),
        };
        let stream = windowed
            .next()
            .ok_or_else(|| refused("the view has no window, or keeps late rows"))?;
        if windowed.any(|other| other.name != stream.name) {
            return Err(refused(
                "the view reads several streams; ask for a view over one of them",
            ));
        }
        let stream = self.parts.catalog.stream(&stream.name);
        Ok(stream.expect("a view reads streams of its catalog"))
    }

    fn folds_under(&self, view: &View, folds: &mut Vec<Arc<Fold>>) {
        match &view.kind {
            ViewKind::Fold(fold) => folds.push(Arc::clone(fold)),
            ViewKind::Derived(_) => {
                for below in view.reads.iter().filter_map(|name| self.parts.catalog.view(name)) {
                    self.folds_under(below, folds);
                }
            }
        }
    }

    /// The rows of `stream` that windows leave out, as `table`.
    fn register_late_rows(
        &self,
        session: &SessionContext,
        table: &str,
        stream: &Arc<Stream>,
        seam: &Arc<Seam>,
    ) -> Result<(), QueryError> {
        let archive = self.parts.archive.as_ref();
        let rows = StreamTable {
            archive: archive
                .ok_or_else(|| QueryError::NoArchive(stream.name.clone()))?
                .clone(),
            stream: Arc::clone(stream),
            seam: Arc::clone(seam),
        };
        let mark = |name: &str| Expr::Column(Column::new_unqualified(name));
        let left_out = mark(system_columns::LATE).and(not(mark(system_columns::DUPLICATE)));
        let rows = session
            .read_table(Arc::new(rows))
            .and_then(|rows| rows.filter(left_out));
        register(session, table, rows.map_err(QueryError::Plan)?.into_view())
    }

    /// A session that knows `tables` at `seam`, and can do nothing but compute.
    pub(crate) async fn session(
        self: &Arc<Self>,
        seam: &Arc<Seam>,
        tables: &[String],
    ) -> Result<SessionContext, QueryError> {
        // The session in which views were compiled, so that a view over views means here what it means there; without
        // all that could reach a file, or make much out of little.
        let state = foldline_sql::session_context(SessionConfig::new()).state();
        let mut functions: Vec<_> = state.scalar_functions().values().cloned().collect();
        functions.retain(|function| !MULTIPLYING_FUNCTIONS.contains(&function.name()));
        functions.push(Arc::new(ScalarUDF::from(AsOf::new(seam.as_of()))));
        let state = SessionStateBuilder::new_from_existing(state)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_scalar_functions(functions)
            .with_table_function_list(Vec::new())
            .with_table_factories(HashMap::new())
            .with_file_formats(Vec::new())
            .build();
        let session = SessionContext::new_with_state(state);
        for view in self
            .parts
            .catalog
            .views()
            .iter()
            .filter(|view| tables.contains(&view.name))
        {
            self.register_view(&session, view, seam)?;
        }
        for stream in self.parts.catalog.streams() {
            if let Some(archive) = &self.parts.archive
                && tables.contains(&stream.name)
            {
                let table = StreamTable {
                    archive: archive.clone(),
                    stream: Arc::clone(stream),
                    seam: Arc::clone(seam),
                };
                register(&session, &stream.name, Arc::new(table))?;
            }
        }
        Ok(session)
    }

    fn register_view(
        self: &Arc<Self>,
        session: &SessionContext,
        view: &Arc<View>,
        seam: &Arc<Seam>,
    ) -> Result<(), QueryError> {
        match &view.kind {
            ViewKind::Fold(fold) => register(session, &view.name, self.fold_table(view, fold, seam)),
            ViewKind::Derived(derived) => {
                let frame = self.derived_frame(session, view, derived, seam)?;
                register(session, &view.name, frame.into_view())
            }
        }
    }

    fn fold_table(self: &Arc<Self>, view: &Arc<View>, fold: &Arc<Fold>, seam: &Arc<Seam>) -> Arc<FoldTable> {
        Arc::new(FoldTable {
            inner: Arc::clone(self),
            view: Arc::clone(view),
            fold: Arc::clone(fold),
            seam: Arc::clone(seam),
        })
    }

    /// The rows of a view above folds, without what its retention hides.
    pub(crate) fn derived_frame(
        self: &Arc<Self>,
        session: &SessionContext,
        view: &View,
        derived: &Derived,
        seam: &Arc<Seam>,
    ) -> Result<DataFrame, QueryError> {
        let plan = derived.over(&mut |name| {
            let below = self
                .parts
                .catalog
                .view(name)
                .expect("a view reads views of its catalog");
            match &below.kind {
                ViewKind::Fold(fold) => {
                    let source = provider_as_source(self.fold_table(below, fold, seam));
                    let scan = LogicalPlanBuilder::scan(TableReference::bare(name), source, None);
                    Ok::<_, QueryError>(scan?.build()?)
                }
                ViewKind::Derived(derived) => {
                    let frame = self.derived_frame(session, below, derived, seam)?;
                    Ok(frame.into_unoptimized_plan())
                }
            }
        })?;
        check_plan(&plan).map_err(QueryError::Plan)?;
        let frame = DataFrame::new(session.state(), plan);
        let (Some((retention_ms, column)), Some(as_of)) = (&view.retention, self.as_of(view, seam)) else {
            return Ok(frame);
        };
        let oldest = as_of.saturating_sub(retention_ms.saturating_mul(1000));
        let window = Expr::Column(Column::new_unqualified(column));
        let instant = cast(window.clone(), DataType::Timestamp(TimeUnit::Microsecond, None));
        let oldest = lit(ScalarValue::TimestampMicrosecond(Some(oldest), None));
        let young = instant.gt_eq(oldest).or(window.is_null());
        frame.filter(young).map_err(QueryError::Plan)
    }

    /// Runs `frame`, within the bounds of an answer.
    pub(crate) async fn collect(&self, frame: DataFrame) -> Result<Vec<RecordBatch>, QueryError> {
        let limits = &self.parts.limits;
        collect_within(frame, limits.answer_rows, limits.answer_bytes).await
    }

    /// Runs `frame` for as many rows as there are, within `bytes_max`.
    pub(crate) async fn collect_whole(
        &self,
        frame: DataFrame,
        bytes_max: usize,
    ) -> Result<Vec<RecordBatch>, QueryError> {
        collect_within(frame, usize::MAX, bytes_max).await
    }

    /// Runs `plan`, within the bounds of an answer.
    pub(crate) async fn collect_plan(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>, QueryError> {
        let limits = &self.parts.limits;
        run_within(plan, context, limits.answer_rows, limits.answer_bytes).await
    }
}

async fn collect_within(frame: DataFrame, rows_max: usize, bytes_max: usize) -> Result<Vec<RecordBatch>, QueryError> {
    let planned = |error| QueryError::from_datafusion(error, plan_or_run);
    let context = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await.map_err(planned)?;
    run_within(plan, context, rows_max, bytes_max).await
}

async fn run_within(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    rows_max: usize,
    bytes_max: usize,
) -> Result<Vec<RecordBatch>, QueryError> {
    let failed = |error| QueryError::from_datafusion(error, QueryError::Run);
    let planned = |error| QueryError::from_datafusion(error, plan_or_run);
    let plan = cooperative(plan).map_err(planned)?;
    let mut stream = execute_stream(plan, context).map_err(planned)?;
    let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failed)?;
        rows += batch.num_rows();
        bytes += own_bytes(&batch);
        if rows > rows_max {
            let what = format!("{rows_max} rows");
            return Err(QueryError::TooLarge { what });
        }
        if bytes > bytes_max {
            let what = format!("{bytes_max} bytes");
            return Err(QueryError::TooLarge { what });
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// Makes what multiplies rows give way after every few batches. A join goes on for hours without asking its inputs for
/// more, and a task that never gives way cannot be stopped at the longest query time.
fn cooperative(plan: Arc<dyn ExecutionPlan>) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    let wrapped = plan.transform_up(|node| {
        let multiplies = node.children().len() > 1 || node.name() == "UnnestExec";
        if !multiplies {
            return Ok(Transformed::no(node));
        }
        Ok(Transformed::yes(
            Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>
        ))
    })?;
    Ok(wrapped.data)
}

/// Planning goes on until the first row is asked for, and constants are computed while planning.
fn plan_or_run(error: DataFusionError) -> QueryError {
    match error.find_root() {
        DataFusionError::Plan(_) | DataFusionError::SchemaError(..) | DataFusionError::NotImplemented(_) => {
            QueryError::Plan(error)
        }
        _ => QueryError::Run(error),
    }
}

fn register(
    session: &SessionContext,
    name: &str,
    table: Arc<dyn datafusion::catalog::TableProvider>,
) -> Result<(), QueryError> {
    let reference = datafusion::common::TableReference::bare(name);
    session.register_table(reference, table).map_err(QueryError::Plan)?;
    Ok(())
}
