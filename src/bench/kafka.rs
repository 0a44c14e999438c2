//! Kafka to a view of few groups, to one of many, and to the archive: processor seconds per million events.
//!
//! On the brokers of the settings, with topics of its own, which stay there until somebody deletes them. Processor time is that of
//! this process; the brokers' is not in it.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use foldline_batch_layer::{Archive, Archiver, ArchiverSettings};
use foldline_event_log::{Clock, Cut, EventLog, NewRecord, Offset, RecordTime, SystemClock, Tick, Topic};
use foldline_speed_layer::{SpeedLayer, SpeedSettings};
use foldline_sql::{Catalog, SourceFile};
use tokio_util::sync::CancellationToken;

use super::{APPEND, CUT_EVERY_MS, Events, READ_BYTES, Timer};
use crate::Setting;
use crate::log;
use crate::output::say;

const STREAM: &str = "CREATE STREAM clicks (
  session_id TEXT NOT NULL, event TEXT NOT NULL, partner_id TEXT, partner_name TEXT, cart_amount BIGINT, country TEXT,
  user_id TEXT NOT NULL, version TEXT, language TEXT, date TIMESTAMPTZ NOT NULL, category TEXT[], referrer TEXT,
  current_url TEXT, user_agent TEXT
) WITH (topic = 'TOPIC', partitions = 8, key = 'user_id', event_time = 'date', event_time_format = 'unix_ms');
";
/// Four kinds of events on as many days as events take: 48 groups with 12 days.
const FEW: &str = "CREATE VIEW daily AS SELECT event, tumble(date, INTERVAL '1 day') AS day, count(*) AS events,
  sum(cart_amount) AS amount FROM clicks GROUP BY 1, 2;";
const MANY: &str = "CREATE VIEW users AS SELECT user_id, count(*) AS events, sum(cart_amount) AS amount FROM clicks
  GROUP BY user_id;";
const PATIENCE_MS: i64 = 600_000;
/// The rate that is kept up with is looked for as long.
const PEAK: Duration = Duration::from_secs(8);
/// Then appends go so many events ahead of the view.
const AHEAD_MAX: u64 = 100_000;
/// Freshness is looked at for as long, in an append every so often.
const FRESHNESS: Duration = Duration::from_secs(20);
const APPEND_EVERY: Duration = Duration::from_millis(20);

/// Runs the three jobs for each compression.
pub(super) async fn measure(setting: &Setting, folder: &Path, events: usize) -> anyhow::Result<()> {
    for compression in ["none", "lz4", "zstd"] {
        let mut settings = setting.merged.settings.clone();
        settings
            .log
            .kafka
            .0
            .insert("compression.type".into(), compression.into());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let opening = setting.work.spawn_blocking(move || log::kafka(&settings, clock));
        let log: Arc<dyn EventLog> = opening.await??;
        let name = format!("bench-{compression}-{}", uuid::Uuid::new_v4().simple());
        let work = setting.work.clone();
        let folder = folder.join(compression);
        work.spawn(async move {
            let topic = fill(&log, &name, events, compression).await?;
            // The first of these is also what a restart replays.
            for (what, view) in [
                ("daily view, few groups", FEW),
                ("a group for every second event", MANY),
            ] {
                to_view(&log, &topic, view, &folder, &format!("Kafka ({compression}) to {what}")).await?;
            }
            to_archive(&log, &topic, &folder, &format!("Kafka ({compression}) to archive")).await?;
            freshness(&log, &format!("{name}-fresh"), &folder, compression).await
        })
        .await??;
    }
    Ok(())
}

async fn fill(log: &Arc<dyn EventLog>, name: &str, count: usize, compression: &str) -> anyhow::Result<Topic> {
    let topic = log.ensure_topic(name, 8).await?;
    // So many users that every second event is a new one.
    let users = (count as u64 / 2).max(1);
    let (mut events, mut bytes) = (Events::new(1), 0);
    let mut timer = Timer::start();
    for _ in 0..count.div_ceil(APPEND) {
        let making = Timer::start();
        let records: Vec<NewRecord> = (0..APPEND).map(|_| events.next_of(users)).collect();
        bytes += records.iter().map(|record| record.value.len()).sum::<usize>();
        timer.leave_out(&making);
        log.append(name, records, None).await?;
    }
    timer.stop(
        &format!("append to Kafka ({compression}), {APPEND} at once"),
        count,
        bytes,
    );
    Ok(topic)
}

async fn catalog(topic: &Topic, view: &str) -> anyhow::Result<Arc<Catalog>> {
    let file = SourceFile {
        name: "bench.sql".into(),
        text: STREAM.replace("TOPIC", &topic.name) + view,
    };
    let compiled = Catalog::compile(&[file]).await;
    Ok(Arc::new(compiled.map_err(|refusals| anyhow!("{}", refusals[0]))?))
}

/// What the topic holds: offsets to reach, and records.
async fn ends(
    log: &Arc<dyn EventLog>,
    topic: &Topic,
) -> anyhow::Result<BTreeMap<foldline_event_log::TopicPartition, Offset>> {
    let mut ends = BTreeMap::new();
    for partition in topic.all_partitions() {
        let end = log.span(&partition).await?.end;
        ends.insert(partition, end);
    }
    Ok(ends)
}

async fn to_view(log: &Arc<dyn EventLog>, topic: &Topic, view: &str, folder: &Path, what: &str) -> anyhow::Result<()> {
    let ends = ends(log, topic).await?;
    let cancel = CancellationToken::new();
    let timer = Timer::start();
    let speed = fold(log, topic, view, folder, &cancel).await?;
    speed.wait_until(&ends).await?;
    let status = speed.status();
    let events: u64 = status.iter().map(|one| one.events).sum();
    let bytes: u64 = status.iter().map(|one| one.counters.raw_bytes).sum();
    report(&timer, what, events, bytes)?;
    cancel.cancel();
    speed.ended().await;
    Ok(())
}

/// Folds `view` over all of `topic` until `cancel` fires.
async fn fold(
    log: &Arc<dyn EventLog>,
    topic: &Topic,
    view: &str,
    folder: &Path,
    cancel: &CancellationToken,
) -> anyhow::Result<SpeedLayer> {
    let catalog = catalog(topic, view).await?;
    let stream = Arc::clone(&catalog.streams()[0]);
    let settings = SpeedSettings {
        cut_every_ms: PATIENCE_MS,
        memory_bytes: 4 << 30,
        batch_bytes: READ_BYTES,
        checkpoint_every_ms: 0,
        checkpoints: folder.join("checkpoints"),
    };
    let speed = SpeedLayer::open(
        Arc::clone(log),
        catalog,
        vec![(stream, topic.clone(), vec![Offset(0); 8])],
        Cut::default(),
        Default::default(),
        Arc::new(foldline_event_log::NoHorizon),
        settings,
        cancel.clone(),
    )
    .await?;
    speed.assign_all().await;
    Ok(speed)
}

/// How old events are when a snapshot has them: first the rate that Kafka and the daily view keep up with together, while
/// this process makes the events, too, then the time from before an append to the snapshot with its events, at half of that
/// rate.
async fn freshness(log: &Arc<dyn EventLog>, name: &str, folder: &Path, compression: &str) -> anyhow::Result<()> {
    let topic = log.ensure_topic(name, 8).await?;
    let cancel = CancellationToken::new();
    let speed = fold(log, &topic, FEW, folder, &cancel).await?;
    let folded = || speed.status().iter().map(|one| one.events).sum::<u64>();
    let (mut events, mut sent) = (Events::new(1), 0);
    let since = Instant::now();
    while since.elapsed() < PEAK {
        if sent - folded() > AHEAD_MAX {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        sent += append(log, name, &mut events, APPEND).await?;
    }
    while folded() < sent {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let peak = sent as f64 / since.elapsed().as_secs_f64();

    let waiting = Mutex::new(VecDeque::new());
    let (mut ages_ms, done) = (Vec::new(), AtomicBool::new(false));
    let append_all = async {
        let mut timer = tokio::time::interval(APPEND_EVERY);
        let at_once = (peak / 2.0 * APPEND_EVERY.as_secs_f64()) as usize;
        for _ in 0..FRESHNESS.as_millis() / APPEND_EVERY.as_millis() {
            timer.tick().await;
            let before = Instant::now();
            sent += append(log, name, &mut events, at_once).await?;
            lock(&waiting).push_back((sent, before));
        }
        done.store(true, Ordering::Release);
        anyhow::Ok(())
    };
    let look = async {
        loop {
            let ended = done.load(Ordering::Acquire);
            let seen = folded();
            let left = {
                let mut waiting = lock(&waiting);
                while let Some((_, before)) = waiting.front().filter(|(sent, _)| *sent <= seen) {
                    ages_ms.push(before.elapsed().as_secs_f64() * 1e3);
                    waiting.pop_front();
                }
                waiting.len()
            };
            if ended && left == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (appended, ()) = tokio::join!(append_all, look);
    appended?;
    ages_ms.sort_unstable_by(f64::total_cmp);
    let percentile = |share: f64| ages_ms[((ages_ms.len() - 1) as f64 * share) as usize];
    say!(
        "{:<44} p50 {:.0} ms, p99 {:.0} ms, at {:.0} events/s, half of what it keeps up with",
        format!("freshness over Kafka ({compression})"),
        percentile(0.5),
        percentile(0.99),
        peak / 2.0
    );
    cancel.cancel();
    speed.ended().await;
    Ok(())
}

async fn append(log: &Arc<dyn EventLog>, name: &str, events: &mut Events, count: usize) -> anyhow::Result<u64> {
    let records: Vec<NewRecord> = (0..count).map(|_| events.next()).collect();
    log.append(name, records, None).await?;
    Ok(count as u64)
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn to_archive(log: &Arc<dyn EventLog>, topic: &Topic, folder: &Path, what: &str) -> anyhow::Result<()> {
    let catalog = catalog(topic, FEW).await?;
    let ends = ends(log, topic).await?;
    let archive = Archive::new(foldline_batch_layer::store::local(&folder.join("store"))?);
    let settings = ArchiverSettings {
        roll_age_ms: 60_000,
        roll_bytes: 64 << 20,
        memory_bytes: 512 << 20,
        cut_every_ms: CUT_EVERY_MS,
    };
    let tick = Tick::at(RecordTime(SystemClock.now_ms()), CUT_EVERY_MS);
    let cancel = CancellationToken::new();
    let timer = Timer::start();
    let streams = catalog.streams().to_vec();
    let archiver = Archiver::start(Arc::clone(log), archive, streams, settings, cancel.clone()).await?;
    archiver.reach(tick).await?;
    let counters = archiver.counters();
    let reached = archiver
        .positions()
        .values()
        .all(|position| ends.values().any(|end| position.until <= *end));
    anyhow::ensure!(reached, "the archive went beyond the topic");
    report(&timer, what, counters.rows, counters.raw_bytes)?;
    cancel.cancel();
    archiver.ended().await;
    Ok(())
}

fn report(timer: &Timer, what: &str, events: u64, bytes: u64) -> anyhow::Result<()> {
    let (_, processor) = timer.elapsed();
    timer.stop(what, usize::try_from(events)?, usize::try_from(bytes)?);
    say!(
        "{:<44} {:>9.2} processor seconds per million events",
        "",
        processor / (events as f64 / 1e6)
    );
    Ok(())
}
