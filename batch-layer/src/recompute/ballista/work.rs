//! What an executor does: the steps of a run on pieces of its plan, with the very code of a run in one process.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, LargeBinaryArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt32Type};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use foldline_event_log::{Clock, with_causes};
use foldline_sql::{Catalog, FoldError, Partial};
use futures::StreamExt;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::super::plan::{Job, Pass};
use super::super::{Recompute, RecomputeError, Run, Written, merge_and_encode};
use super::exchange::{Arrivals, Outgoing, Parcel};
use super::nodes::{REPORT, Step};
use super::order::{self, Order, Ticket};
use super::{BEGINS, ENDS};
use crate::store::StoreError;
use crate::{Archive, Generations};

/// Batches that wait to be sent.
const AHEAD: usize = 2;
/// Dates in one row of a report, which must fit into a message.
const DATES_OF_A_REPORT: usize = 1_000;

/// What became of a part. Comes in several rows where there are many dates.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) part: u32,
    pub(super) dates: Vec<Written>,
    /// In the last row of the part.
    pub(super) end: Option<ReportEnd>,
}

/// The last row about a part.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReportEnd {
    /// How many dates there were in all rows about the part.
    pub(super) dates: u64,
    /// How many rows each task folded.
    pub(super) rows: Vec<u64>,
    /// Why views failed, by the positions of their jobs.
    pub(super) failed: BTreeMap<usize, String>,
    /// Files that are not needed any more.
    pub(super) put_aside: Vec<String>,
}

/// Does the steps of an executor.
#[derive(Debug)]
pub(super) struct Worker {
    /// As people find it: where it listens.
    name: String,
    made_by: String,
    store: Arc<dyn ObjectStore>,
    archive: Archive,
    clock: Arc<dyn Clock>,
    work: Handle,
    /// For the partials of one task.
    memory_bytes: usize,
    /// The run that it does, or did last.
    prepared: tokio::sync::Mutex<Option<Arc<Prepared>>>,
}

/// A run that an executor knows.
#[derive(Debug)]
struct Prepared {
    ticket: Ticket,
    order: Order,
    jobs: Vec<Job>,
    passes: Vec<Pass>,
    recompute: Recompute,
}

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error(transparent)]
    Run(#[from] RecomputeError),
    #[error(transparent)]
    Order(#[from] StoreError),
    #[error("{0}")]
    Refused(String),
    #[error("cannot read what other tasks sent")]
    Input(#[from] DataFusionError),
    #[error("nobody waits for it any more")]
    Unheard,
}

impl Worker {
    pub(super) fn new(
        name: String,
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        work: Handle,
        memory_bytes: usize,
    ) -> Self {
        Self {
            name,
            made_by: order::made_by(),
            archive: Archive::new(Arc::clone(&store)),
            store,
            clock,
            work,
            memory_bytes,
            prepared: tokio::sync::Mutex::default(),
        }
    }

    /// Does `step` over `input`, on threads of its own: deep plans need their stacks. Stops when nobody listens.
    pub(super) fn run(
        self: Arc<Self>,
        step: Step,
        ticket: Ticket,
        input: SendableRecordBatchStream,
        schema: SchemaRef,
    ) -> SendableRecordBatchStream {
        let (out, rows) = mpsc::channel(AHEAD);
        let work = self.work.clone();
        let working = work.spawn(async move {
            let done = match step {
                Step::Fold => self.fold(&ticket, input, &out).await,
                Step::Merge => self.merge(&ticket, input, &out).await,
            };
            done.map_err(|error| self.told(error))
        });
        let working = Some(AbortOnDropHandle::new(working));
        let rows = futures::stream::unfold((rows, working), |(mut rows, working)| async move {
            if let Some(row) = rows.recv().await {
                return Some((Ok(row), (rows, working)));
            }
            // The end of the channel is the end of the work only if it came to its end.
            let ended = match working?.await {
                Ok(ended) => ended,
                Err(panic) => Err(DataFusionError::Execution(format!(
                    "{BEGINS}a task panicked: {panic}{ENDS}"
                ))),
            };
            ended.err().map(|error| (Err(error), (rows, None)))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    /// An error of a task as Ballista passes it on.
    fn told(&self, error: TaskError) -> DataFusionError {
        // What Ballista repairs by doing the task before once more must stay what it is.
        if let TaskError::Input(error) = error {
            return error;
        }
        let error = with_causes(&error);
        tracing::error!(error, "a task failed");
        DataFusionError::Execution(format!("{BEGINS}executor {}: {error}{ENDS}", self.name))
    }

    async fn prepare(&self, ticket: &Ticket) -> Result<Arc<Prepared>, TaskError> {
        if ticket.made_by != self.made_by {
            return Err(TaskError::Refused(format!(
                "the run was started by {}, and this is {}; stop the executors and start them with the program that \
                 starts runs",
                ticket.made_by, self.made_by
            )));
        }
        // Whoever comes meanwhile waits, and compiles nothing.
        let mut known = self.prepared.lock().await;
        if let Some(prepared) = known.as_ref().filter(|prepared| prepared.ticket == *ticket) {
            return Ok(Arc::clone(prepared));
        }
        let order = Order::read(self.store.as_ref(), ticket).await.map_err(not_here)?;
        let (jobs, passes) = order.compile().await.map_err(TaskError::Refused)?;
        // Of generations only the store is asked.
        let generations = Generations::new(Arc::clone(&self.store), Arc::clone(&self.clock), 0, 1);
        let catalog = Arc::new(Catalog::default());
        let recompute = Recompute::new(catalog, self.archive.clone(), generations, Arc::clone(&self.clock));
        let recompute = recompute.sized(0, order.fold_rows).bounded(self.memory_bytes);
        let prepared = Arc::new(Prepared {
            ticket: ticket.clone(),
            order,
            jobs,
            passes,
            recompute,
        });
        *known = Some(Arc::clone(&prepared));
        Ok(prepared)
    }

    /// Folds what the tasks in `input` read, and sends partials to the parts.
    async fn fold(
        &self,
        ticket: &Ticket,
        mut input: SendableRecordBatchStream,
        out: &mpsc::Sender<RecordBatch>,
    ) -> Result<(), TaskError> {
        let prepared = self.prepare(ticket).await?;
        while let Some(tasks) = input.next().await.transpose()? {
            for task in tasks.column(0).as_primitive::<UInt32Type>().values() {
                prepared.fold(*task, out).await?;
            }
        }
        Ok(())
    }

    /// Merges the partials of the parts in `input` onto the previous ones, stores them, and reports.
    async fn merge(
        &self,
        ticket: &Ticket,
        input: SendableRecordBatchStream,
        out: &mpsc::Sender<RecordBatch>,
    ) -> Result<(), TaskError> {
        let prepared = self.prepare(ticket).await?;
        prepared.merge(input, out).await
    }
}

impl Prepared {
    async fn fold(&self, task: u32, out: &mpsc::Sender<RecordBatch>) -> Result<(), TaskError> {
        let order = &self.order;
        let Some(units) = order.units(task) else {
            return Err(TaskError::Refused(format!("the order has no task {task}")));
        };
        let plan = order::piece(&self.jobs, &self.passes, units);
        let run = Run::new(&self.recompute, &plan, order.number, 1);
        let accumulator = run.accumulator();
        let rows = run.fold_rows(&accumulator, &|_, _| ()).await?;
        let mut parts: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (place, rest) in accumulator.take_rest() {
            parts.entry(order.part_of(place)).or_default().push((place, rest));
        }
        for part in 0..order.parts() {
            let mut outgoing = Outgoing::new(task, part);
            for ((job, date), (partials, put_aside)) in parts.remove(&part).unwrap_or_default() {
                if accumulator.all_failed(&[job]) {
                    continue;
                }
                if !partials.is_empty() {
                    let fold = Arc::clone(&plan.jobs[job].fold);
                    match merge_and_encode(fold, partials).await? {
                        Ok((_, bytes, _)) => {
                            send(out, outgoing.send(&Parcel::Partial { job, date }, &bytes)).await?;
                        }
                        Err(error) => accumulator.fail(job, error),
                    }
                }
                for file in put_aside {
                    send(out, outgoing.send(&Parcel::PutAside { job, file }, &[])).await?;
                }
            }
            // What fails for a later part is told there.
            for (job, reason) in accumulator.reasons() {
                send(out, outgoing.send(&Parcel::Failed { job, reason }, &[])).await?;
            }
            send(out, outgoing.end(rows)).await?;
        }
        Ok(())
    }

    async fn merge(
        &self,
        mut input: SendableRecordBatchStream,
        out: &mpsc::Sender<RecordBatch>,
    ) -> Result<(), TaskError> {
        let order = &self.order;
        let plan = order::piece(&self.jobs, &self.passes, Vec::new());
        let run = Run::new(&self.recompute, &plan, order.number, 1);
        let accumulator = run.accumulator();
        let mut arrivals = Arrivals::of(order.tasks());
        let mut failed: BTreeMap<usize, String> = BTreeMap::new();
        while let Some(rows) = input.next().await.transpose()? {
            for (parcel, held) in arrivals.take(&rows).map_err(TaskError::Refused)? {
                match parcel {
                    Parcel::Partial { job, .. } | Parcel::PutAside { job, .. } if failed.contains_key(&job) => {}
                    Parcel::Partial { job, date } => {
                        let fold = &plan.jobs.get(job).ok_or_else(|| no_job(job))?.fold;
                        let partial = Partial::decode(&held, fold).map_err(RecomputeError::from)?;
                        if let Err(error) = accumulator.add((job, date), partial).await? {
                            accumulator.fail(job, error);
                        }
                        run.spill(&accumulator).await?;
                    }
                    Parcel::PutAside { job, file } => accumulator.spilled((job, file.date), file),
                    Parcel::Failed { job, reason } => drop(failed.insert(job, reason)),
                    Parcel::Rows(_) => {}
                }
            }
        }
        let parts = arrivals.end().map_err(TaskError::Refused)?;
        let (written, mut put_aside) = run.write_dates(&accumulator).await?;
        failed.extend(accumulator.reasons());
        let mut dates: BTreeMap<u32, Vec<Written>> = BTreeMap::new();
        for written in written {
            let part = order.part_of((written.0, written.1));
            dates.entry(part).or_default().push(written);
        }
        for (part, rows) in parts {
            let dates = dates.remove(&part).unwrap_or_default();
            for dates in dates.chunks(DATES_OF_A_REPORT) {
                let dates = dates.to_vec();
                send(out, vec![report(&Report { part, dates, end: None })]).await?;
            }
            let end = ReportEnd {
                dates: dates.len() as u64,
                rows,
                failed: failed.clone(),
                put_aside: std::mem::take(&mut put_aside),
            };
            let dates = Vec::new();
            send(
                out,
                vec![report(&Report {
                    part,
                    dates,
                    end: Some(end),
                })],
            )
            .await?;
        }
        match dates.first_key_value() {
            Some((part, _)) => Err(TaskError::Refused(format!(
                "there are partials of part {part}, which never came"
            ))),
            None => Ok(()),
        }
    }
}

fn not_here(error: StoreError) -> TaskError {
    match error {
        StoreError::Missing { path } => TaskError::Refused(format!(
            "{path} is missing in the store of this executor; its store.url must be that of whoever starts runs"
        )),
        error => error.into(),
    }
}

fn no_job(job: usize) -> RecomputeError {
    RecomputeError::Fold(FoldError::Shape {
        what: "a partial of another task",
        view: format!("number {job}"),
        reason: "the run has no such view".to_owned(),
    })
}

fn report(report: &Report) -> RecordBatch {
    let text = serde_json::to_vec(report).expect("a report is plain data");
    let column = LargeBinaryArray::from_vec(vec![text.as_slice()]);
    RecordBatch::try_new(Arc::clone(&REPORT), vec![Arc::new(column)]).expect("the column is that of the schema")
}

/// Reads what [`report`] wrote.
pub(super) fn reports(rows: &RecordBatch) -> Result<Vec<Report>, String> {
    let texts = rows
        .column(0)
        .as_binary_opt::<i64>()
        .filter(|texts| texts.null_count() == 0);
    let texts = texts.ok_or_else(|| format!("a report has columns {:?}", rows.schema()))?;
    let read = |text: Option<&[u8]>| serde_json::from_slice(text.unwrap_or_default());
    let reports: Result<Vec<Report>, _> = texts.iter().map(read).collect();
    reports.map_err(|error| format!("a report does not read: {error}"))
}

async fn send(out: &mpsc::Sender<RecordBatch>, rows: Vec<RecordBatch>) -> Result<(), TaskError> {
    for rows in rows {
        out.send(rows).await.map_err(|_| TaskError::Unheard)?;
    }
    Ok(())
}
