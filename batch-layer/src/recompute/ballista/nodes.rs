//! The two steps of a run as nodes of a plan of Ballista, and how they travel.
//!
//! ```text
//! Merge                one row of report for every part, and more where there are many dates
//!   Repartition        by part: Ballista's shuffle
//!     Fold             what `exchange` makes of the partials
//!       DataSource     the numbers of tasks, one in each partition
//! ```
//!
//! The numbers are rows of a table, because a table in memory is what Ballista knows how to hand out piece by piece. A
//! node carries its step and the ticket of the order, nothing else.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use serde::{Deserialize, Serialize};

use super::exchange;
use super::order::{Order, Ticket};
use super::work::Worker;

/// Begins an encoded node. No message of Ballista's does: as a Protobuf key its first byte has no valid type.
const MAGIC: &[u8] = b"foldline\n";

/// The column of task numbers.
static TASK: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("task", DataType::UInt32, false)])));
/// What merging says: a report in JSON.
pub(super) static REPORT: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("report", DataType::LargeBinary, false)])));

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    /// Rows of the archive to partials.
    Fold,
    /// Partials to files.
    Merge,
}

/// One step of a run.
#[derive(Debug)]
pub(super) struct StepExec {
    step: Step,
    ticket: Ticket,
    input: Arc<dyn ExecutionPlan>,
    /// Who does it: in an executor. Scheduler and driver only pass it on.
    worker: Option<Arc<Worker>>,
    properties: Arc<PlanProperties>,
}

impl StepExec {
    fn new(step: Step, ticket: Ticket, input: Arc<dyn ExecutionPlan>, worker: Option<Arc<Worker>>) -> Self {
        let schema = match step {
            Step::Fold => &exchange::SCHEMA,
            Step::Merge => &REPORT,
        };
        let partitions = input.properties().output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            step,
            ticket,
            input,
            worker,
            properties: Arc::new(properties),
        }
    }

    fn over(&self, mut inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (inputs.pop(), inputs.pop()) {
            (Some(input), None) => {
                let (ticket, worker) = (self.ticket.clone(), self.worker.clone());
                Ok(Arc::new(Self::new(self.step, ticket, input, worker)))
            }
            _ => Err(DataFusionError::Internal("a step of a run has one input".to_owned())),
        }
    }
}

/// The plan of a run whose `order` lies where `ticket` says.
pub(super) fn plan(order: &Order, ticket: &Ticket) -> Result<Arc<dyn ExecutionPlan>> {
    let numbered = |task: u32| RecordBatch::try_new(Arc::clone(&TASK), vec![Arc::new(UInt32Array::from(vec![task]))]);
    let mut tasks = Vec::new();
    for task in 0..order.tasks() {
        tasks.push(vec![numbered(task)?]);
    }
    let tasks = MemorySourceConfig::try_new_exec(&tasks, Arc::clone(&TASK), None)?;
    let fold = StepExec::new(Step::Fold, ticket.clone(), tasks, None);
    let by_part: Arc<dyn PhysicalExpr> = Arc::new(Column::new("part", 0));
    let by_part = Partitioning::Hash(vec![by_part], order.merges());
    let shuffle = RepartitionExec::try_new(Arc::new(fold), by_part)?;
    Ok(Arc::new(StepExec::new(
        Step::Merge,
        ticket.clone(),
        Arc::new(shuffle),
        None,
    )))
}

impl DisplayAs for StepExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}: order={}", self.name(), self.ticket.path)
    }
}

impl ExecutionPlan for StepExec {
    fn name(&self) -> &str {
        match self.step {
            Step::Fold => "Fold",
            Step::Merge => "Merge",
        }
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// What is handed out to tasks must not be shared out anew.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.over(inputs)
    }

    fn with_new_children(self: Arc<Self>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.over(inputs)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(worker) = &self.worker else {
            let nobody = "a step of a run was started outside of foldline's own executors";
            return Err(DataFusionError::Execution(nobody.to_owned()));
        };
        let input = self.input.execute(partition, context)?;
        let worker = Arc::clone(worker);
        Ok(worker.run(self.step, self.ticket.clone(), input, self.schema()))
    }
}

/// Foldline's steps and Ballista's own nodes.
#[derive(Debug, Default)]
pub(super) struct StepCodec {
    ballista: BallistaPhysicalExtensionCodec,
    worker: Option<Arc<Worker>>,
}

impl StepCodec {
    /// That of an executor, whose steps `worker` does.
    pub(super) fn of(worker: Arc<Worker>) -> Self {
        Self {
            worker: Some(worker),
            ..Self::default()
        }
    }
}

impl PhysicalExtensionCodec for StepCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(text) = bytes.strip_prefix(MAGIC) else {
            return self.ballista.try_decode(bytes, inputs, context, converter);
        };
        let unreadable = |reason: String| {
            let what = "a step of a run does not read, so it comes from another version of foldline";
            DataFusionError::Execution(format!("{what}: {reason}"))
        };
        let (step, ticket) =
            serde_json::from_slice::<(Step, Ticket)>(text).map_err(|error| unreadable(error.to_string()))?;
        let [input] = inputs else {
            return Err(unreadable(format!("it has {} inputs", inputs.len())));
        };
        let worker = self.worker.clone();
        Ok(Arc::new(StepExec::new(step, ticket, Arc::clone(input), worker)))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(step) = node.downcast_ref::<StepExec>() else {
            return self.ballista.try_encode(node, bytes, converter);
        };
        bytes.extend_from_slice(MAGIC);
        let text = serde_json::to_vec(&(step.step, &step.ticket)).expect("a ticket is plain data");
        bytes.extend(text);
        Ok(())
    }
}
