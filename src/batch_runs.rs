//! Batch runs in a running platform: one at a time, at a tick that the speed layer keeps for them.
//!
//! A run cuts at a tick. Speed thins its boundaries out with age, so the tick is protected *before* the run starts and
//! until its generation is adopted: the generation finds the boundary that it needs, however long the run takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use foldline_batch_layer::scheduler::{Ledger, LedgerError, Outcome, Run};
use foldline_batch_layer::{ArchiverHandle, Generation, Generations, Recompute, RunKind, RunReport};
use foldline_event_log::{Clock, Cut, PartitionCut, RecordTime, Tick, Topic, TopicPartition, keeps_boundary};
use foldline_serving_layer::coverage::rfc3339_millis;
use foldline_speed_layer::SpeedLayer;

use crate::cluster::Cluster;
use crate::failure::{self, Failure};
use crate::turns::Turns;

/// A search for a kept tick looks back at most this far: the coarsest boundaries are 4096 ticks apart.
const TICKS_LOOKED_BACK: i64 = 4_096;

/// What runs need.
#[derive(Debug)]
pub(crate) struct BatchParts {
    /// Archives the log in this process, if it has that role.
    pub(crate) archiver: Option<ArchiverHandle>,
    /// This process among others, if there may be any.
    pub(crate) cluster: Option<Cluster>,
    /// Wall clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Tick length.
    pub(crate) cut_every_ms: i64,
    /// What became of every run.
    pub(crate) ledger: Ledger,
    /// Where they are published.
    pub(crate) generations: Generations,
    /// What computes them.
    pub(crate) recompute: Recompute,
    /// Folds the log in this process, if it has that role.
    pub(crate) speed: Option<SpeedLayer>,
    /// Topics of the catalog's streams.
    pub(crate) topics: Vec<Topic>,
    /// Shared with the loads of the warehouse.
    pub(crate) turns: Arc<Turns>,
}

/// Starts runs, one at a time.
#[derive(Debug)]
pub(crate) struct BatchRuns {
    parts: BatchParts,
    under_way: Mutex<Option<UnderWay>>,
    last: Mutex<Option<Ended>>,
    tally: Mutex<Tally>,
}

/// A run under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnderWay {
    /// Where it cuts.
    pub(crate) tick: Tick,
    /// When it started.
    pub(crate) since_ms: i64,
}

/// How the last run of this process ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// When.
    pub(crate) at_ms: i64,
    /// Why it failed, if it did, or what it could not do.
    pub(crate) error: Option<String>,
}

/// The runs of this process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) published: u64,
    pub(crate) nothing_new: u64,
    pub(crate) failed: u64,
    /// Rows that they folded.
    pub(crate) rows: u64,
    /// Milliseconds that they took.
    pub(crate) elapsed_ms: u64,
    /// Of runs that did not fail, by step: until the archive reached the tick; reading and folding; merging, writing and
    /// publishing.
    pub(crate) archive_ms: u64,
    pub(crate) fold_ms: u64,
    pub(crate) write_ms: u64,
}

/// A run on the books; comes off them however it ends.
struct Booked<'a>(&'a BatchRuns);

impl Drop for Booked<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        if let Some(cluster) = &self.0.parts.cluster {
            cluster.lease.forget();
        }
        self.0.retain();
    }
}

impl BatchRuns {
    /// With `parts`.
    pub(crate) fn new(parts: BatchParts) -> Self {
        Self {
            parts,
            under_way: Mutex::new(None),
            last: Mutex::new(None),
            tally: Mutex::default(),
        }
    }

    /// One run by hand, on the ledger: at the newest tick, or at the last kept one that is not after `until`. Refused
    /// while another one runs.
    pub(crate) async fn run_by_hand(
        &self,
        kind: RunKind,
        until: Option<RecordTime>,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> anyhow::Result<RunReport> {
        self.refuse_second()?;
        let _gate = self.parts.ledger.gate().await;
        let started = self.parts.ledger.start_by_hand(self.now_ms()).await?;
        let report = self.run(kind, until, progress).await;
        self.parts
            .ledger
            .finish(&started, outcome(&report), self.now_ms())
            .await?;
        report
    }

    /// A run that the schedule asked for.
    pub(crate) async fn run_scheduled(&self) -> Outcome {
        let report = self.run(RunKind::Incremental, None, &|_, _| {}).await;
        if let Err(error) = &report {
            tracing::error!(error = %failure::sentence(error), "scheduled batch run failed");
        }
        outcome(&report)
    }

    /// The newest runs, newest first.
    pub(crate) async fn history(&self, limit: usize) -> Result<Vec<Run>, LedgerError> {
        self.parts.ledger.history(limit).await
    }

    /// The run under way, if there is one.
    pub(crate) fn under_way(&self) -> Option<UnderWay> {
        *self.lock()
    }

    /// How the last run ended, if there was one since the start.
    pub(crate) fn last(&self) -> Option<Ended> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn run(
        &self,
        kind: RunKind,
        until: Option<RecordTime>,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> anyhow::Result<RunReport> {
        let started_ms = self.now_ms();
        let report = self.try_run(kind, until, progress).await;
        self.count(&report, started_ms);
        let ended = Ended {
            at_ms: self.now_ms(),
            error: match &report {
                Ok(report) => complaint(report),
                Err(error) => Some(failure::sentence(error)),
            },
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        report
    }

    /// The runs since the start.
    pub(crate) fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, report: &anyhow::Result<RunReport>, started_ms: i64) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match report {
            Ok(report) if report.published => tally.published += 1,
            Ok(_) => tally.nothing_new += 1,
            Err(_) => tally.failed += 1,
        }
        let elapsed_ms = u64::try_from(self.now_ms() - started_ms).unwrap_or_default();
        tally.elapsed_ms += elapsed_ms;
        if let Ok(report) = report {
            tally.rows += report.rows;
            tally.archive_ms += elapsed_ms.saturating_sub(report.elapsed_ms);
            tally.fold_ms += report.fold_ms;
            tally.write_ms += report.elapsed_ms.saturating_sub(report.fold_ms);
        }
    }

    async fn try_run(
        &self,
        kind: RunKind,
        until: Option<RecordTime>,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> anyhow::Result<RunReport> {
        let (tick, _booked) = self.book(until)?;
        let report = match &self.parts.cluster {
            None => self.run_at(tick, kind, progress).await,
            Some(cluster) => {
                if !cluster.lease.announce(tick).await? {
                    return Err(led_by(cluster).into());
                }
                self.run_at(tick, kind, progress).await
            }
        }?;
        self.parts.generations.refresh().await?;
        if let Some(complaint) = complaint(&report) {
            tracing::warn!(complaint, "batch run");
        }
        Ok(report)
    }

    async fn run_at(
        &self,
        tick: Tick,
        kind: RunKind,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> anyhow::Result<RunReport> {
        let reached = self.reach(tick).await?;
        let mut topics = Vec::new();
        for topic in &self.parts.topics {
            let mut complete_to = Vec::new();
            for partition in topic.all_partitions() {
                let reached = reached.get(&partition);
                let reached = reached.with_context(|| format!("{partition} is not archived by this foldline"))?;
                complete_to.push(*reached);
            }
            topics.push((topic.clone(), complete_to));
        }
        let _turn = self.parts.turns.run().await;
        Ok(self.parts.recompute.run(kind, tick, &topics, progress).await?)
    }

    /// Waits until every partition is archived up to `tick`. How far each is.
    async fn reach(&self, tick: Tick) -> anyhow::Result<BTreeMap<TopicPartition, RecordTime>> {
        match (&self.parts.cluster, &self.parts.archiver) {
            (Some(cluster), _) => {
                let all = self.parts.topics.iter().flat_map(Topic::all_partitions).collect();
                cluster.reach(tick, &all).await
            }
            (None, Some(archiver)) => {
                let positions = archiver
                    .reach(tick)
                    .await
                    .context("the archive did not reach the tick")?;
                let reached = positions.into_iter();
                Ok(reached
                    .map(|(partition, position)| (partition, position.complete_to))
                    .collect())
            }
            (None, None) => Err(no_archiver().into()),
        }
    }

    /// Whether this process leads batch runs.
    pub(crate) fn leads(&self) -> bool {
        self.parts
            .cluster
            .as_ref()
            .is_none_or(|cluster| cluster.lease.board().ours)
    }

    /// Tells the speed layer what to keep: everything behind the lowest readable cut, and the boundaries at readable
    /// cuts and at the tick of a run under way.
    pub(crate) fn retain(&self) {
        self.retain_with(self.under_way_elsewhere());
    }

    /// Where a run of another process cuts. To be asked before the generations are looked at: a run that ends in between is
    /// then in one of the two.
    pub(crate) fn under_way_elsewhere(&self) -> Option<Tick> {
        self.parts
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.lease.board().tick)
    }

    /// The same, where a run of another process cuts at `elsewhere`.
    pub(crate) fn retain_with(&self, elsewhere: Option<Tick>) {
        let Some(speed) = &self.parts.speed else { return };
        let under_way = self.lock();
        let readable = self.parts.generations.readable();
        let mut protected: Vec<Tick> = readable.iter().filter_map(|generation| generation.cut.tick).collect();
        protected.extend(under_way.iter().map(|run| run.tick));
        protected.extend(elsewhere);
        speed.retain(&floor(&readable), &protected);
    }

    /// Chooses the tick, and has it kept before anything else happens.
    fn book(&self, until: Option<RecordTime>) -> Result<(Tick, Booked<'_>), Failure> {
        self.refuse_second()?;
        if self.parts.archiver.is_none() && self.parts.cluster.is_none() {
            return Err(no_archiver());
        }
        let since_ms = self.now_ms();
        // Of the partitions of other processes it is not known: there the clock alone counts.
        let here = self.parts.archiver.as_ref().filter(|_| self.parts.cluster.is_none());
        let positions = here.map(ArchiverHandle::positions).unwrap_or_default();
        let complete_to = positions.into_values().map(|position| position.complete_to);
        let newest = newest(RecordTime(since_ms), complete_to);
        let mut under_way = self.lock();
        let tick = choose_tick(newest, until, self.parts.cut_every_ms)?;
        *under_way = Some(UnderWay { tick, since_ms });
        drop(under_way);
        self.retain();
        Ok((tick, Booked(self)))
    }

    fn refuse_second(&self) -> Result<(), Failure> {
        if let Some(cluster) = self.parts.cluster.as_ref().filter(|_| !self.leads()) {
            return Err(led_by(cluster));
        }
        let Some(run) = self.under_way() else { return Ok(()) };
        let since_ms = self.now_ms() - run.since_ms;
        let tick = run.tick.0;
        Err(Failure::No(format!(
            "a batch run at tick {tick} is under way for {since_ms} ms; wait for it"
        )))
    }

    fn now_ms(&self) -> i64 {
        self.parts.clock.now_ms()
    }

    fn lock(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_archiver() -> Failure {
    Failure::No("a batch run needs the archiver, and this foldline runs without the role archive".into())
}

fn led_by(cluster: &Cluster) -> Failure {
    let url = cluster.lease.board().url;
    let leader = match url.as_str() {
        "" => "nobody yet; try again in some seconds".to_owned(),
        url => format!("the foldline at {url}; ask that one"),
    };
    Failure::No(format!(
        "batch runs of cluster \"{}\" are led by {leader}",
        cluster.name
    ))
}

fn outcome(report: &anyhow::Result<RunReport>) -> Outcome {
    match report {
        Ok(report) if report.published => Outcome::Published(report.generation.number.0),
        Ok(_) => Outcome::NothingNew,
        Err(error) => Outcome::Failed(failure::sentence(error)),
    }
}

/// What a run that did not fail could not do, and what helps.
pub(crate) fn complaint(report: &RunReport) -> Option<String> {
    let number = report.generation.number.0;
    if report.behind && !report.published {
        let at = report.generation.cut.tick.and_then(|tick| rfc3339_millis(tick.0));
        return Some(format!(
            "nothing was published: generation {number} is cut at {}, later than this run; if the clock was set back, \
             runs go on once it has passed that time",
            at.unwrap_or_default()
        ));
    }
    let failed = report
        .failed
        .iter()
        .map(|(view, reason)| format!("\"{view}\": {reason}"));
    let failed: Vec<String> = failed.collect();
    (!failed.is_empty()).then(|| {
        format!(
            "generation {number} is without the views that failed, which answer nothing until their SQL takes every \
             row: {}",
            failed.join("; ")
        )
    })
}

/// Where a run may cut: now, or what every partition is archived to already, if that is later. Record times never go
/// back; clocks do.
fn newest(now: RecordTime, complete_to: impl Iterator<Item = RecordTime>) -> RecordTime {
    complete_to.min().unwrap_or(now).max(now)
}

/// The newest tick that is not after `until` (nor now) and still has its boundary.
fn choose_tick(now: RecordTime, until: Option<RecordTime>, cut_every_ms: i64) -> Result<Tick, Failure> {
    let newest = Tick::at(now, cut_every_ms);
    let Some(until) = until.filter(|until| *until < now) else {
        return Ok(newest);
    };
    // One tick ahead: a boundary that is being thinned out right now does not count as kept.
    let ahead = Tick(newest.0 + cut_every_ms);
    let last = Tick::at(until, cut_every_ms);
    (0..TICKS_LOOKED_BACK)
        .map(|back| Tick(last.0 - back * cut_every_ms))
        .find(|tick| keeps_boundary(*tick, ahead, cut_every_ms))
        .ok_or_else(|| Failure::Usage(format!("no tick is kept at or before {} ms", until.0)))
}

/// The lowest cut of each partition among the readable generations. A partition that one of them does not name stands
/// at its origin there, and so is not named here. (A rollback publishes a newer generation with a lower cut: the
/// oldest is not always the lowest.)
pub(crate) fn floor(readable: &[Arc<Generation>]) -> Cut {
    let Some((first, others)) = readable.split_first() else {
        return Cut::default();
    };
    let lowest = |cut: &PartitionCut| {
        let mut lowest = cut.clone();
        for other in others {
            let other = other.cut.of(&cut.partition)?;
            if other.next < lowest.next {
                lowest = other.clone();
            }
        }
        Some(lowest)
    };
    Cut {
        tick: readable.iter().map(|generation| generation.cut.tick).min().flatten(),
        partitions: first.cut.partitions.iter().filter_map(lowest).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use foldline_batch_layer::GenerationNumber;
    use foldline_event_log::{MarkState, Offset, Partition, TopicPartition};
    use uuid::Uuid;

    use super::*;

    fn generation(number: u64, tick: i64, cuts: &[(u32, u64)]) -> Arc<Generation> {
        let partitions = cuts.iter().map(|(partition, next)| PartitionCut {
            partition: TopicPartition {
                topic: "t".into(),
                incarnation: Uuid::nil(),
                partition: Partition(*partition),
            },
            next: Offset(*next),
            marks: MarkState::default(),
        });
        Arc::new(Generation {
            version: 1,
            number: GenerationNumber(number),
            attempt: Uuid::nil(),
            cut: Cut {
                tick: Some(Tick(tick)),
                partitions: partitions.collect(),
            },
            views: BTreeMap::new(),
            failed: BTreeMap::new(),
            based_on: None,
            kind: RunKind::Full,
            published_ms: 0,
        })
    }

    fn cuts(cut: &Cut) -> Vec<(u32, u64)> {
        cut.partitions
            .iter()
            .map(|cut| (cut.partition.partition.0, cut.next.0))
            .collect()
    }

    #[test]
    fn the_floor_is_the_lowest_readable_cut_of_each_partition() {
        assert_eq!(floor(&[]), Cut::default());
        let readable = [
            generation(3, 20, &[(0, 70), (1, 9)]),
            generation(2, 30, &[(0, 90), (1, 8)]),
        ];
        let floor = floor(&readable);
        assert_eq!(cuts(&floor), [(0, 70), (1, 8)]);
        assert_eq!(floor.tick, Some(Tick(20)));
    }

    #[test]
    fn a_partition_that_one_generation_does_not_name_keeps_everything() {
        let readable = [generation(2, 20, &[(0, 70), (1, 9)]), generation(1, 10, &[(0, 60)])];
        assert_eq!(cuts(&floor(&readable)), [(0, 60)]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_lower_the_tick() {
        let now = RecordTime(1_000);
        let newest = |complete_to: &[i64]| newest(now, complete_to.iter().copied().map(RecordTime));
        assert_eq!(newest(&[]), now);
        assert_eq!(newest(&[900, i64::MIN]), now);
        assert_eq!(newest(&[5_000, 4_000]), RecordTime(4_000));
    }

    #[test]
    fn the_tick_is_the_newest_kept_one_not_after_until() {
        let now = RecordTime(1_000_009);
        assert_eq!(choose_tick(now, None, 10).unwrap(), Tick(1_000_000));
        assert_eq!(
            choose_tick(now, Some(RecordTime(2_000_000)), 10).unwrap(),
            Tick(1_000_000),
            "the future"
        );
        assert_eq!(choose_tick(now, Some(RecordTime(999_999)), 10).unwrap(), Tick(999_990));
        let old = choose_tick(now, Some(RecordTime(990_000)), 10).unwrap();
        assert!(old.0 <= 990_000 && keeps_boundary(old, Tick(1_000_000), 10), "{old:?}");
        assert!(
            !keeps_boundary(Tick(990_000), Tick(1_000_000), 10),
            "the case is worth a test"
        );
    }
}
