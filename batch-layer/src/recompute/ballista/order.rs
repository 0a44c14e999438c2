//! What executors are told of a run: the *order*, an object in the store that the run shares with them, and the *ticket*
//! that travels in Ballista's plans and says where the order lies.
//!
//! An order holds the SQL of the pipelines, so executors compile folds themselves and know no catalog of their own, and
//! what of the archive each task reads. It holds no settings and no credentials. Since it is found in the store that an executor
//! was configured with, an executor of another store finds nothing, and does nothing.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foldline_event_log::{Offset, TopicPartition};
use foldline_sql::{Catalog, FOLD_FORMAT, Fold, SourceFile, ViewKind};
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::super::accumulate::Place;
use super::super::plan::{Job, Pass, Plan, Unit};
use super::super::{ORDER_EXTENSION, Run, VIEWS_FOLDER};
use crate::store::{self, StoreError};
use crate::{DatePartial, GenerationNumber};

/// Format of orders, and of what tasks send each other.
const FORMAT: u32 = 1;
/// A task reads one unit, until there are so many tasks; from then on several, up to `UNITS`.
const TASKS: usize = 64;
const UNITS: usize = 8;
/// There are no more tasks than this, however many units each of them reads then.
const TASKS_MAX: usize = 1024;
/// Tasks that merge, at most.
const MERGES_MAX: usize = 32;
/// Parts for each of them, so that a hash spreads them evenly.
const PARTS: usize = 4;

/// What must be the same in driver and executors for their partials to be the same.
pub(super) fn made_by() -> String {
    format!(
        "foldline {}, fold format {FOLD_FORMAT}, orders {FORMAT}, DataFusion {}, time zones {}",
        env!("CARGO_PKG_VERSION"),
        datafusion::DATAFUSION_VERSION,
        chrono_tz::IANA_TZDB_VERSION
    )
}

/// Where the order of a run lies, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ticket {
    /// Who made it, as [`made_by`] says.
    pub(super) made_by: String,
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

/// A run, for whoever does a piece of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    pub(super) number: GenerationNumber,
    pub(super) fold_rows: usize,
    /// Name and text of every file of the pipelines.
    files: Vec<(String, String)>,
    jobs: Vec<OrderedJob>,
    passes: Vec<OrderedPass>,
    tasks: Vec<Vec<OrderedUnit>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderedJob {
    view: String,
    state: String,
    previous: Vec<DatePartial>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderedPass {
    stream: String,
    columns: Vec<String>,
    jobs: Vec<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderedUnit {
    pass: usize,
    partition: TopicPartition,
    offsets: Range<Offset>,
}

impl Order {
    /// The order of `run`, whose catalog was compiled from `files`.
    pub(super) fn of(run: &Run<'_>, files: &[SourceFile]) -> Self {
        let plan = run.plan;
        let jobs = plan.jobs.iter().map(|job| OrderedJob {
            view: job.view.id.clone(),
            state: state_of(&job.fold),
            previous: job.previous.clone(),
        });
        let passes = plan.passes.iter().map(|pass| OrderedPass {
            stream: pass.stream.name.clone(),
            columns: pass.columns.clone(),
            jobs: pass.jobs.clone(),
        });
        let unit = |unit: &Unit| OrderedUnit {
            pass: unit.pass,
            partition: unit.partition.clone(),
            offsets: unit.offsets.clone(),
        };
        let tasks = plan.units.chunks(units_of_a_task(plan.units.len()));
        Self {
            number: run.number,
            fold_rows: run.recompute.fold_rows,
            files: files
                .iter()
                .map(|file| (file.name.clone(), file.text.clone()))
                .collect(),
            jobs: jobs.collect(),
            passes: passes.collect(),
            tasks: tasks.map(|units| units.iter().map(unit).collect()).collect(),
        }
    }

    /// Tasks that fold.
    pub(super) fn tasks(&self) -> u32 {
        self.tasks.len() as u32
    }

    /// Tasks that merge.
    pub(super) fn merges(&self) -> usize {
        self.tasks.len().clamp(1, MERGES_MAX)
    }

    /// Parts that they merge.
    pub(super) fn parts(&self) -> u32 {
        (self.merges() * PARTS) as u32
    }

    /// The part that a date of a view belongs to.
    pub(super) fn part_of(&self, (job, date): Place) -> u32 {
        let day = i64::from(chrono::Datelike::num_days_from_ce(&date));
        (job as i64 + day).rem_euclid(i64::from(self.parts())) as u32
    }

    /// Puts it into the store.
    pub(super) async fn put(&self, run: &Run<'_>, made_by: &str) -> Result<Ticket, StoreError> {
        let path = format!(
            "{VIEWS_FOLDER}/_orders/{:020}-{}{ORDER_EXTENSION}",
            run.number.0, run.attempt
        );
        let bytes = Bytes::from(serde_json::to_vec(self).expect("an order is plain data"));
        let ticket = Ticket {
            made_by: made_by.to_owned(),
            bytes: bytes.len() as u64,
            crc32: crc32fast::hash(&bytes),
            path,
        };
        let store = run.recompute.generations.store().as_ref();
        store::put_own(store, &Path::from(ticket.path.as_str()), bytes).await?;
        Ok(ticket)
    }

    /// Reads the one that `ticket` means.
    pub(super) async fn read(store: &dyn ObjectStore, ticket: &Ticket) -> Result<Self, StoreError> {
        let path = Path::from(ticket.path.as_str());
        let bytes = store::read_file(store, &path, ticket.bytes, ticket.crc32).await?;
        serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
            path: ticket.path.clone(),
            reason: error.to_string(),
        })
    }

    /// Jobs and passes, compiled from the SQL that came with it. The error says what it compiles to otherwise.
    pub(super) async fn compile(&self) -> Result<(Vec<Job>, Vec<Pass>), String> {
        let files = self.files.iter().map(|(name, text)| SourceFile {
            name: name.clone(),
            text: text.clone(),
        });
        let files: Vec<SourceFile> = files.collect();
        let catalog = Catalog::compile(&files).await;
        let catalog =
            catalog.map_err(|refusals| format!("the pipelines of the run do not compile: {}", refusals[0]))?;
        let mut jobs = Vec::new();
        for job in &self.jobs {
            let view = catalog.views_and_parts().iter().find(|view| view.id == job.view);
            let Some((view, ViewKind::Fold(fold))) = view.map(|view| (view, &view.kind)) else {
                return Err(format!(
                    "the pipelines of the run compile to another catalog here: there is no fold {}",
                    job.view
                ));
            };
            if state_of(fold) != job.state {
                return Err(format!(
                    "view \"{}\" has state columns {} here, and {} where the run was started",
                    view.name,
                    state_of(fold),
                    job.state
                ));
            }
            jobs.push(Job::ordered(Arc::clone(view), Arc::clone(fold), job.previous.clone()));
        }
        let mut passes = Vec::new();
        for pass in &self.passes {
            let Some(stream) = catalog.stream(&pass.stream) else {
                return Err(format!(
                    "the pipelines of the run have no stream \"{}\" here",
                    pass.stream
                ));
            };
            passes.push(Pass::ordered(
                Arc::clone(stream),
                pass.columns.clone(),
                pass.jobs.clone(),
            ));
        }
        Ok((jobs, passes))
    }

    /// What `task` reads; `None` if there is no such task.
    pub(super) fn units(&self, task: u32) -> Option<Vec<Unit>> {
        let units = self.tasks.get(task as usize)?.iter();
        let unit = |unit: &OrderedUnit| Unit {
            pass: unit.pass,
            partition: unit.partition.clone(),
            offsets: unit.offsets.clone(),
        };
        Some(units.map(unit).collect())
    }
}

/// Of how many units a task consists where there are `units` in all.
fn units_of_a_task(units: usize) -> usize {
    (units / TASKS).clamp(1, UNITS).max(units.div_ceil(TASKS_MAX))
}

/// Names and types of the state columns.
fn state_of(fold: &Fold) -> String {
    let fields = fold.state_schema().fields().iter();
    let columns: Vec<String> = fields
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect();
    columns.join(", ")
}

/// The plan of a piece that reads `units`.
pub(super) fn piece(jobs: &[Job], passes: &[Pass], units: Vec<Unit>) -> Plan {
    Plan::piece(jobs.to_vec(), passes.to_vec(), units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_grow_before_they_become_too_many() {
        for (units, of_a_task) in [
            (1, 1),
            (64, 1),
            (127, 1),
            (128, 2),
            (1_000, 8),
            (8_192, 8),
            (100_000, 98),
        ] {
            assert_eq!(units_of_a_task(units), of_a_task, "{units} units");
            assert!(units.div_ceil(of_a_task) <= TASKS_MAX);
        }
    }
}
