//! What a run reads, for which views, and where it cuts.

use std::ops::Range;
use std::sync::Arc;

use foldline_event_log::{Cut, Offset, RecordTime, Tick, Topic, TopicPartition};
use foldline_sql::{Catalog, Fold, Stream, View, ViewKind};

use super::{RecomputeError, RunKind};
use crate::generations::refuse_behind;
use crate::{Archive, Commit, DatePartial, Generation};

/// A view to compute.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) view: Arc<View>,
    pub(super) fold: Arc<Fold>,
    /// Partials of the generation that the run starts from; none for a view computed from its origin.
    pub(super) previous: Vec<DatePartial>,
    from_origin: bool,
    /// The generation that the run starts from was computed without it, because it failed.
    failed_before: bool,
}

/// Views that read the same offsets of the same stream, and the columns that they need together.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) stream: Arc<Stream>,
    pub(super) columns: Vec<String>,
    /// Positions in [`Plan::jobs`].
    pub(super) jobs: Vec<usize>,
    from_origin: bool,
}

/// A stretch of one partition, read for one pass.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) pass: usize,
    pub(super) partition: TopicPartition,
    pub(super) offsets: Range<Offset>,
}

/// A run before it starts.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) cut: Cut,
    pub(super) jobs: Vec<Job>,
    pub(super) passes: Vec<Pass>,
    pub(super) units: Vec<Unit>,
    /// Rows in `units`, about: a unit may begin or end inside a file.
    pub(super) rows: u64,
    /// Files in `units`.
    pub(super) files: u64,
    /// The cut does not move, no view is new, and the run is not a full one.
    pub(super) nothing_new: bool,
}

#[cfg(feature = "ballista")]
impl Job {
    /// What an executor needs to know of a job.
    pub(super) fn ordered(view: Arc<View>, fold: Arc<Fold>, previous: Vec<DatePartial>) -> Self {
        Self {
            view,
            fold,
            from_origin: previous.is_empty(),
            previous,
            failed_before: false,
        }
    }
}

#[cfg(feature = "ballista")]
impl Pass {
    /// What an executor needs to know of a pass.
    pub(super) fn ordered(stream: Arc<Stream>, columns: Vec<String>, jobs: Vec<usize>) -> Self {
        Self {
            stream,
            columns,
            jobs,
            from_origin: false,
        }
    }
}

impl Plan {
    /// The piece of a plan that reads `units`.
    #[cfg(feature = "ballista")]
    pub(super) fn piece(jobs: Vec<Job>, passes: Vec<Pass>, units: Vec<Unit>) -> Self {
        Self {
            cut: Cut::default(),
            jobs,
            passes,
            units,
            rows: 0,
            files: 0,
            nothing_new: false,
        }
    }

    pub(super) async fn make(
        catalog: &Catalog,
        archive: &Archive,
        base: Option<&Generation>,
        kind: RunKind,
        tick: Tick,
        topics: &[(Topic, Vec<RecordTime>)],
        unit_rows: u64,
    ) -> Result<Self, RecomputeError> {
        let cut = match base.filter(|base| kind == RunKind::Incremental && Some(tick) <= base.cut.tick) {
            Some(base) => base.cut.clone(),
            None => cut(catalog, archive, base, tick, topics).await?,
        };
        if let Some(base) = base {
            refuse_behind(base, &cut)?;
        }
        let jobs = jobs(catalog, base, kind);
        let passes = passes(catalog, &jobs);
        let mut plan = Self {
            nothing_new: kind == RunKind::Incremental
                && base.is_some_and(|base| same_offsets(base, &cut))
                && jobs.iter().all(|job| !job.from_origin || job.failed_before),
            cut,
            jobs,
            passes,
            units: Vec::new(),
            rows: 0,
            files: 0,
        };
        if !plan.nothing_new {
            plan.find_units(archive, base, unit_rows).await?;
        }
        Ok(plan)
    }

    async fn find_units(
        &mut self,
        archive: &Archive,
        base: Option<&Generation>,
        unit_rows: u64,
    ) -> Result<(), RecomputeError> {
        for (index, pass) in self.passes.iter().enumerate() {
            let of_stream =
                |partition: &&foldline_event_log::PartitionCut| partition.partition.topic == pass.stream.topic;
            for entry in self.cut.partitions.iter().filter(of_stream) {
                let partition = &entry.partition;
                let commits = archive.commits(partition).await?;
                let origin = commits.first().map_or(entry.next, |first| first.offsets.start);
                let previous = base
                    .filter(|_| !pass.from_origin)
                    .and_then(|base| base.cut.of(partition));
                let from = previous.map_or(origin, |previous| previous.next);
                for (offsets, rows, files) in stretches(&commits, &(from..entry.next), unit_rows) {
                    self.rows += rows;
                    self.files += files;
                    self.units.push(Unit {
                        pass: index,
                        partition: partition.clone(),
                        offsets,
                    });
                }
            }
        }
        Ok(())
    }
}

/// The cut at `tick` of every partition of every stream. Partitions of topics that no stream declares any more keep
/// their place: nothing below it is read or forgotten by this run.
async fn cut(
    catalog: &Catalog,
    archive: &Archive,
    base: Option<&Generation>,
    tick: Tick,
    topics: &[(Topic, Vec<RecordTime>)],
) -> Result<Cut, RecomputeError> {
    let mut partitions = Vec::new();
    for stream in catalog.streams() {
        let missing = |reason: String| RecomputeError::Topic {
            stream: stream.name.clone(),
            reason,
        };
        let (topic, complete_to) = topics
            .iter()
            .find(|(topic, _)| topic.name == stream.topic)
            .ok_or_else(|| missing(format!("its topic \"{}\" is not among those of the log", stream.topic)))?;
        if complete_to.len() != topic.partitions as usize {
            return Err(missing(format!(
                "topic \"{}\" has {} partitions, but the archive of {} is known",
                topic.name,
                topic.partitions,
                complete_to.len()
            )));
        }
        for (partition, &complete_to) in topic.all_partitions().iter().zip(complete_to) {
            partitions.push(archive.cut_at(partition, tick, complete_to).await?);
        }
    }
    let declared = |topic: &str| catalog.streams().iter().any(|stream| stream.topic == topic);
    let kept = base.into_iter().flat_map(|base| &base.cut.partitions);
    partitions.extend(kept.filter(|kept| !declared(&kept.partition.topic)).cloned());
    partitions.sort_by(|one, other| one.partition.cmp(&other.partition));
    partitions.dedup();
    Ok(Cut {
        tick: Some(tick),
        partitions,
    })
}

fn jobs(catalog: &Catalog, base: Option<&Generation>, kind: RunKind) -> Vec<Job> {
    let mut jobs = Vec::new();
    for view in catalog.views_and_parts() {
        let ViewKind::Fold(fold) = &view.kind else { continue };
        // Views of one meaning have one id, and share its files whatever they are called.
        if jobs.iter().any(|job: &Job| job.view.id == view.id) {
            continue;
        }
        let incremental = base.filter(|_| kind == RunKind::Incremental);
        let previous = incremental.and_then(|base| base.views.get(&view.id));
        jobs.push(Job {
            view: Arc::clone(view),
            fold: Arc::clone(fold),
            previous: previous.map(|view| view.dates.clone()).unwrap_or_default(),
            from_origin: previous.is_none(),
            failed_before: base.is_some_and(|base| base.failed.contains_key(&view.id)),
        });
    }
    jobs
}

/// Per stream one pass for the views that go on, and one for those that begin.
fn passes(catalog: &Catalog, jobs: &[Job]) -> Vec<Pass> {
    let mut passes = Vec::new();
    for stream in catalog.streams() {
        for from_origin in [false, true] {
            let together: Vec<usize> = (0..jobs.len())
                .filter(|&index| jobs[index].fold.stream().name == stream.name)
                .filter(|&index| jobs[index].from_origin == from_origin)
                .collect();
            if together.is_empty() {
                continue;
            }
            let mut columns: Vec<String> = together
                .iter()
                .flat_map(|&index| jobs[index].fold.input_columns().iter().cloned())
                .collect();
            columns.sort_unstable();
            columns.dedup();
            passes.push(Pass {
                stream: Arc::clone(stream),
                columns,
                jobs: together,
                from_origin,
            });
        }
    }
    passes
}

/// Whether no partition of `cut` stands beyond its place in `base`. (One that `base` does not name stands at its
/// origin; that its cut may be its origin too is not worth a look: such a generation names it.)
fn same_offsets(base: &Generation, cut: &Cut) -> bool {
    cut.partitions
        .iter()
        .all(|new| base.cut.of(&new.partition).is_some_and(|old| old.next == new.next))
}

/// `offsets` in stretches of whole commits, with about how many rows and files each has.
fn stretches(commits: &[Arc<Commit>], offsets: &Range<Offset>, unit_rows: u64) -> Vec<(Range<Offset>, u64, u64)> {
    let mut stretches: Vec<(Range<Offset>, u64, u64)> = Vec::new();
    if offsets.start >= offsets.end {
        return stretches;
    }
    let first = commits.partition_point(|commit| commit.offsets.end <= offsets.start);
    let until = commits.partition_point(|commit| commit.offsets.start < offsets.end);
    let mut from = offsets.start;
    let (mut rows, mut files) = (0, 0);
    for commit in &commits[first..until] {
        let touched =
            |file: &&crate::archive::ArchivedFile| file.first_offset < offsets.end && file.last_offset >= offsets.start;
        rows += commit.files.iter().filter(touched).map(|file| file.rows).sum::<u64>();
        files += commit.files.iter().filter(touched).count() as u64;
        if rows >= unit_rows {
            let end = commit.offsets.end.min(offsets.end);
            stretches.push((from..end, rows, files));
            (from, rows, files) = (end, 0, 0);
        }
    }
    if from < offsets.end {
        // Reaches to the end of what is asked for even beyond the last commit: reading it then says what is missing.
        stretches.push((from..offsets.end, rows, files));
    }
    stretches
}
