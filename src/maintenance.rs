//! What goes on by itself beside the layers: adopting generations, giving free what nobody needs, scheduled runs.

use std::sync::Arc;
use std::time::Duration;

use foldline_batch_layer::garbage;
use foldline_batch_layer::scheduler::{Schedule, Scheduler};
use foldline_event_log::{LogError, Offset, SystemClock};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::batch_runs;
use crate::failure::{self, Failure};
use crate::platform::{Core, Role, Start};
use crate::warehouse::WarehouseRuns;

/// New generations are adopted within this.
const ADOPT_EVERY: Duration = Duration::from_secs(1);
/// `/v1/status` shows the ends of the log as of so long ago at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Generations and batch views that nobody needs are looked for this often.
const COLLECT_EVERY: Duration = Duration::from_secs(300);
/// Archive files that no commit lists are looked for this often: only writers that lost leave any, and every file of
/// the archive is looked at.
const COLLECT_ARCHIVE_EVERY: Duration = Duration::from_secs(24 * 3_600);
const OF_GENERATIONS: &str = "collecting garbage of generations";
const OF_ARCHIVE: &str = "collecting garbage of the archive";
/// What failed is tried again after this, however rarely it is done: whoever waits for readiness waits for it.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// It is looked this often whether topics grew, or live another life.
const TOPICS_EVERY: Duration = Duration::from_secs(5);
/// It is looked this often whether batch runs are led here.
const LEAD_EVERY: Duration = Duration::from_secs(1);
/// The log is told what it may forget this often.
const RELEASE_EVERY: Duration = Duration::from_secs(30);

/// Starts it on the work runtime; it ends when `stop` fires. What stays also collects garbage, and runs by the schedule.
pub(crate) fn start(core: &Arc<Core>, start: &Start, stop: &CancellationToken) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut tasks = vec![
        every(core, LOOK_EVERY, stop, "looking at what is stored", look),
        every(core, ADOPT_EVERY, stop, "adopting generations", adopt),
        every(core, RELEASE_EVERY, stop, "releasing the log", release),
        every(core, TOPICS_EVERY, stop, "looking at the topics", look_at_topics),
    ];
    if start.stays {
        tasks.push(every(core, COLLECT_EVERY, stop, OF_GENERATIONS, collect_garbage));
        tasks.push(every(
            core,
            COLLECT_ARCHIVE_EVERY,
            stop,
            OF_ARCHIVE,
            collect_archive_garbage,
        ));
    }
    if start.stays && core.warehouse.is_some() {
        tasks.push(core.work.spawn(WarehouseRuns::follow(Arc::clone(core), stop.clone())));
    }
    let settings = &core.settings.batch;
    if start.stays && start.roles.contains(&Role::Batch) && !settings.schedule.is_empty() {
        let schedule = Schedule::parse(&settings.schedule, Some(&settings.timezone))
            .map_err(|error| Failure::Usage(format!("settings batch.schedule and batch.timezone: {error}")))?;
        tasks.push(
            core.work
                .spawn(run_while_leading(schedule, Arc::clone(core), stop.clone())),
        );
    }
    Ok(tasks)
}

fn every<F>(
    core: &Arc<Core>,
    period: Duration,
    stop: &CancellationToken,
    what: &'static str,
    step: fn(Arc<Core>) -> F,
) -> JoinHandle<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (core, stop) = (Arc::clone(core), stop.clone());
    core.work.clone().spawn(async move {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // Every step may end anywhere: what it did until then is as good as ever.
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = step(Arc::clone(&core)) => outcome,
            };
            // Until a failure is made good, more is kept than needed, never less.
            if outcome.is_err() {
                ticks.reset_after(period.min(TRY_AGAIN_AFTER));
            }
            let problem = outcome.err().map(|error| failure::sentence(&error));
            if core.report.problem(what, problem.clone())
                && let Some(problem) = problem
            {
                tracing::error!(problem, "{what} failed");
            }
        }
    })
}

/// Batch runs by the schedule, as long as they are led here.
async fn run_while_leading(schedule: Schedule, core: Arc<Core>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if core.runs.leads() {
            let term = stop.child_token();
            let lost = async {
                while core.runs.leads() {
                    tokio::time::sleep(LEAD_EVERY).await;
                }
                term.cancel();
            };
            let runs = run_by(schedule.clone(), Arc::clone(&core), term.clone());
            tokio::pin!(runs);
            tokio::select! {
                () = &mut runs => {}
                () = lost => runs.await,
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(LEAD_EVERY)).await;
    }
}

/// Batch runs by the schedule, with one run for what was missed.
async fn run_by(schedule: Schedule, core: Arc<Core>, stop: CancellationToken) {
    let tell_next = |core: &Core| core.report.next_run(schedule.next_after(core.clock.now_ms()));
    tell_next(&core);
    let scheduler = Scheduler::new(schedule.clone(), core.ledger.clone(), Arc::new(SystemClock));
    let job = |_| {
        let core = Arc::clone(&core);
        async move {
            let outcome = core.runs.run_scheduled().await;
            tell_next(&core);
            outcome
        }
    };
    scheduler.run(stop, job).await;
}

async fn look(core: Arc<Core>) -> anyhow::Result<()> {
    core.report.look(&core).await
}

/// What is not what this foldline was started with is said; more partitions are read after a new start.
async fn look_at_topics(core: Arc<Core>) -> anyhow::Result<()> {
    for (_, known, _) in &core.topics {
        let name = &known.name;
        let now = match core.log.topic(name).await {
            Err(LogError::UnknownTopic(_)) => anyhow::bail!("topic \"{name}\" was deleted"),
            now => now?,
        };
        if now.incarnation != known.incarnation {
            let (before, now) = (known.incarnation, now.incarnation);
            anyhow::bail!("topic \"{name}\" was deleted and created again: it was {before} and is {now} now");
        }
        if now.partitions > known.partitions {
            let (before, now) = (known.partitions, now.partitions);
            core.grown.notify_one();
            anyhow::bail!("topic \"{name}\" has {now} partitions, {before} are read; starting anew");
        }
    }
    Ok(())
}

async fn adopt(core: Arc<Core>) -> anyhow::Result<()> {
    let elsewhere = core.runs.under_way_elsewhere();
    if core.generations.refresh().await? {
        tracing::info!(
            generation = core.generations.current().map(|current| current.number.0),
            "generation adopted"
        );
    }
    core.runs.retain_with(elsewhere);
    Ok(())
}

/// The log may forget what is archived and below every readable cut.
async fn release(core: Arc<Core>) -> anyhow::Result<()> {
    let _floors = core.floors.lock().await;
    let floor = batch_runs::floor(&core.generations.readable());
    for (_, topic, origins) in &core.topics {
        for (partition, origin) in topic.all_partitions().iter().zip(origins) {
            let archived = core
                .archive
                .resume(partition)
                .await?
                .map_or(*origin, |resume| resume.next);
            let below_cut = floor.of(partition).map_or(*origin, |cut| cut.next);
            core.log.release(partition, Offset(archived.0.min(below_cut.0))).await?;
        }
    }
    Ok(())
}

/// Waits until batch runs are led here: garbage is for one process to collect.
async fn until_leading(core: &Core, what: &str) {
    if !core.runs.leads() {
        core.report.problem(what, None);
    }
    while !core.runs.leads() {
        tokio::time::sleep(LEAD_EVERY).await;
    }
}

async fn collect_garbage(core: Arc<Core>) -> anyhow::Result<()> {
    until_leading(&core, OF_GENERATIONS).await;
    garbage::collect(&core.generations, &core.ledger).await?;
    Ok(())
}

async fn collect_archive_garbage(core: Arc<Core>) -> anyhow::Result<()> {
    until_leading(&core, OF_ARCHIVE).await;
    garbage::collect_archive(&core.archive).await?;
    Ok(())
}
