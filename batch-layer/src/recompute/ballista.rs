//! A run on Ballista: the same folds, on executors of other processes and machines.
//!
//! ```text
//! driver      Plan ──► order (an object in the store) ──► plan of two steps ──► scheduler
//! executors   fold     each task some units of the plan: archive ──► partials ──► parts
//! executors   merge    each task some parts: partials of all tasks, and the previous ones ──► files of the store
//! driver      reports of every part ──► generation, published as ever
//! ```
//!
//! DataFusion could carry a fold's plan over the wire only as far as it knows its nodes: our aggregates, our rows and the
//! marks of the archive it does not. So what travels is what a view *is*, its SQL, and executors compile and run it with
//! the code of a run in one process (`Run` of the module above). Nothing is computed in another way, so partials are the
//! same, byte for byte but where a state lists values in no order (DISTINCT, medians), as in any two runs.
//!
//! What can go wrong with work elsewhere must not become a number: driver and executors are of one version (`order`), every
//! part was sent by every task and merged once (`exchange`, and [`Ballista`] for the reports), and only the driver
//! publishes. Ballista tries again what an executor had when it died; files of such attempts are named by nobody.

mod exchange;
mod nodes;
mod order;
mod processes;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ballista_core::config as names;
use ballista_core::execution_plans::execute_physical_plan;
use ballista_core::extension::SessionConfigExt;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::PhysicalPlanNode;
use foldline_event_log::with_causes;
use foldline_sql::SourceFile;
use futures::TryStreamExt;
use uuid::Uuid;

pub use processes::{ExecutorSettings, ProcessError, executor, scheduler};

use super::{Computed, RecomputeError, Run};
use crate::store::StoreError;
use nodes::StepCodec;
use order::{Order, Ticket};
use work::Report;

/// Rows of a batch in a shuffle; a row has up to a mebibyte.
const SHUFFLE_ROWS: &str = "8";
/// What a task holds of its shuffle before it goes to disk.
const SHUFFLE_BYTES: &str = "67108864";
/// How long a scheduler may take to say whether it is ready.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Around what a task says of an error, so that it can be told from what Ballista says around it.
const BEGINS: &str = "<<foldline: ";
const ENDS: &str = " :foldline>>";

/// Where runs are computed, and from which pipelines.
#[derive(Debug, Clone)]
pub struct Ballista {
    scheduler: String,
    files: Vec<SourceFile>,
    made_by: String,
}

impl Ballista {
    /// By the executors of the scheduler at `scheduler` (`host:port`). `files`: what the catalog was compiled from.
    pub fn new(scheduler: impl Into<String>, files: Vec<SourceFile>) -> Self {
        Self {
            scheduler: scheduler.into(),
            files,
            made_by: order::made_by(),
        }
    }

    /// Says that the program is `made_by`, whatever it is; executors refuse what they are not.
    pub fn claiming(self, made_by: impl Into<String>) -> Self {
        let made_by = made_by.into();
        Self { made_by, ..self }
    }

    pub(super) async fn compute(
        &self,
        run: &Run<'_>,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Computed, RecomputeError> {
        let since_ms = run.recompute.clock.now_ms();
        let total = run.plan.rows;
        progress(0, total);
        self.refuse_unready().await?;
        let order = Order::of(run, &self.files);
        let ticket = order.put(run, &self.made_by).await.map_err(refused_by_store)?;
        let reports = self.submit(&order, &ticket).await;
        run.remove(vec![ticket.path]).await;
        let gathered = gather(&order, reports?).map_err(|reason| RecomputeError::Ballista { reason })?;
        let spilled = gathered.put_aside.len() as u64;
        run.remove(gathered.put_aside).await;
        progress(total, total);
        Ok(Computed {
            rows: gathered.rows,
            spilled,
            fold_ms: run.recompute.since(since_ms),
            dates: gathered.dates,
            failed: gathered.failed,
        })
    }

    /// A job without executors would wait for them for ever.
    async fn refuse_unready(&self) -> Result<(), RecomputeError> {
        // What the environment says of proxies is for the internet.
        let client = reqwest::Client::builder().no_proxy().build();
        let asked = match client {
            Ok(client) => {
                let asked = client.get(format!("http://{}/readyz", self.scheduler));
                asked.timeout(ANSWERS_WITHIN).send().await
            }
            Err(error) => Err(error),
        };
        let reason = match asked {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let said = answer.text().await.unwrap_or_default();
                format!("the scheduler at {} says {status}: {}", self.scheduler, said.trim())
            }
            Err(error) => format!("no scheduler answers at {}: {}", self.scheduler, with_causes(&error)),
        };
        let help = "start it with `foldline ballista scheduler`, and executors with `foldline ballista executor`";
        Err(RecomputeError::Ballista {
            reason: format!("{reason}; {help}"),
        })
    }

    async fn submit(&self, order: &Order, ticket: &Ticket) -> Result<Vec<Report>, RecomputeError> {
        let config = settings(order);
        let job = async {
            let rows = execute_physical_plan::<PhysicalPlanNode>(
                format!("http://{}", self.scheduler),
                &config.ballista_config(),
                nodes::plan(order, ticket)?,
                &StepCodec::default(),
                Uuid::new_v4().to_string(),
                config.clone(),
            )
            .await?;
            rows.try_collect::<Vec<_>>().await
        };
        let rows = job
            .await
            .map_err(|error| RecomputeError::Ballista { reason: said(&error) })?;
        let reports: Result<Vec<Vec<Report>>, String> = rows.iter().map(work::reports).collect();
        let reports = reports.map_err(|reason| RecomputeError::Ballista { reason })?;
        Ok(reports.into_iter().flatten().collect())
    }
}

fn refused_by_store(error: StoreError) -> RecomputeError {
    RecomputeError::Generation(error.into())
}

fn settings(order: &Order) -> SessionConfig {
    let job = format!("foldline generation {}", order.number.0);
    SessionConfig::new_with_ballista()
        .with_ballista_job_name(&job)
        // What an executor loses when it dies is one task.
        .set_str(names::BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, "1")
        .set_str(names::BALLISTA_SHUFFLE_SORT_BASED_BATCH_SIZE, SHUFFLE_ROWS)
        .set_str(
            names::BALLISTA_SHUFFLE_SORT_BASED_MEMORY_LIMIT_PER_TASK_BYTES,
            SHUFFLE_BYTES,
        )
}

/// What a task said, where it was one of ours; else all that Ballista says.
fn said(error: &DataFusionError) -> String {
    let text = error.to_string();
    let ours = text.split_once(BEGINS).and_then(|(_, rest)| rest.split_once(ENDS));
    // Ballista quotes it on its way, once or more often.
    ours.map_or(text.clone(), |(ours, _)| ours.replace('\\', ""))
}

/// What all parts report together.
#[derive(Debug, Default)]
struct Gathered {
    rows: u64,
    dates: Vec<super::Written>,
    failed: BTreeMap<usize, String>,
    put_aside: Vec<String>,
}

/// One report of every part, each of rows that every task folded; every date of a view once. The error says what is
/// missing or too much.
fn gather(order: &Order, reports: Vec<Report>) -> Result<Gathered, String> {
    let mut gathered = Gathered::default();
    let mut dates: BTreeMap<u32, u64> = BTreeMap::new();
    let mut places = BTreeSet::new();
    let mut ended = BTreeMap::new();
    for report in reports {
        for written in report.dates {
            let place = (written.0, written.1);
            if order.part_of(place) != report.part || !places.insert(place) {
                return Err(format!("{} of view number {} was merged twice", written.1, written.0));
            }
            *dates.entry(report.part).or_default() += 1;
            gathered.dates.push(written);
        }
        let Some(end) = report.end else { continue };
        gathered.put_aside.extend(end.put_aside);
        // Whichever part tells it first: a view that failed is left out whatever the others say.
        for (job, reason) in end.failed {
            gathered.failed.entry(job).or_insert(reason);
        }
        if ended.insert(report.part, (end.dates, end.rows)).is_some() {
            return Err(format!("part {} was merged twice", report.part));
        }
    }
    for part in 0..order.parts() {
        let Some((sent, rows)) = ended.remove(&part) else {
            return Err(format!("part {part} of {} was not merged", order.parts()));
        };
        let arrived = dates.get(&part).copied().unwrap_or(0);
        if sent != arrived {
            return Err(format!("part {part} merged {sent} dates, and reports on {arrived}"));
        }
        let folded: u64 = rows.iter().sum();
        if rows.len() as u64 != u64::from(order.tasks()) || (part > 0 && folded != gathered.rows) {
            return Err(format!(
                "part {part} has {folded} rows of {} tasks, part 0 has {} of {}",
                rows.len(),
                gathered.rows,
                order.tasks()
            ));
        }
        gathered.rows = folded;
    }
    match ended.first_key_value() {
        Some((part, _)) => Err(format!("part {part} was merged, of {}", order.parts())),
        None => Ok(gathered),
    }
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;
    use work::ReportEnd;

    /// Of two tasks.
    fn order() -> Order {
        let order = r#"{"number":1,"fold_rows":1,"files":[],"jobs":[],"passes":[],"tasks":[[],[]]}"#;
        serde_json::from_str(order).unwrap()
    }

    fn end(dates: u64, rows: [u64; 2]) -> Option<ReportEnd> {
        Some(ReportEnd {
            dates,
            rows: rows.to_vec(),
            failed: BTreeMap::new(),
            put_aside: vec!["aside".to_owned()],
        })
    }

    /// Every part, and in one of them a date.
    fn reports(order: &Order) -> Vec<Report> {
        let date = NaiveDate::from_ymd_opt(2024, 5, 1).unwrap();
        let part = order.part_of((0, date));
        let others = (0..order.parts()).filter(|other| *other != part);
        let mut reports: Vec<Report> = others
            .map(|part| Report {
                part,
                dates: Vec::new(),
                end: end(0, [3, 4]),
            })
            .collect();
        reports.push(Report {
            part,
            dates: vec![(0, date, None)],
            end: None,
        });
        reports.push(Report {
            part,
            dates: Vec::new(),
            end: end(1, [3, 4]),
        });
        reports
    }

    #[test]
    fn every_part_reports_once() {
        let order = order();
        let gathered = gather(&order, reports(&order)).unwrap();
        assert_eq!((gathered.rows, gathered.dates.len()), (7, 1));
        assert_eq!(gathered.put_aside.len(), order.parts() as usize);
        for lost in 0..reports(&order).len() {
            let mut some = reports(&order);
            some.remove(lost);
            gather(&order, some).unwrap_err();
            let mut more = reports(&order);
            more.push(reports(&order).remove(lost));
            let error = gather(&order, more).unwrap_err();
            assert!(error.contains("merged twice"), "{error}");
        }
    }

    #[test]
    fn parts_of_other_rows_do_not_belong_together() {
        let order = order();
        let mut others = reports(&order);
        others[2].end = end(0, [3, 5]);
        assert!(gather(&order, others).unwrap_err().contains("8 rows of 2 tasks"));
        let mut beyond = reports(&order);
        beyond.push(Report {
            part: order.parts(),
            dates: Vec::new(),
            end: end(0, [3, 4]),
        });
        assert!(gather(&order, beyond).unwrap_err().contains("was merged, of"));
    }

    #[test]
    fn what_a_task_said_is_found_in_what_ballista_says() {
        let ours = format!("{BEGINS}executor a:1: view \"v\" is odd{ENDS}");
        let error = DataFusionError::Execution(format!("Job 1 failed: {:?}", DataFusionError::Execution(ours)));
        assert_eq!(said(&error), "executor a:1: view \"v\" is odd");
        let theirs = DataFusionError::Execution("Stream closed".to_owned());
        assert!(said(&theirs).contains("Stream closed"));
    }
}
