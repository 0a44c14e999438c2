//! Kafka to a view of few groups, to one of many, and to the archive: processor seconds per million events.
//!
//! On the brokers of the settings, with topics of its own, which stay there until somebody deletes them. Processor time is that of
//! this process; the brokers' is not in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

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
            for (what, view) in [
                ("daily view, few groups", FEW),
                ("a group for every second event", MANY),
            ] {
                to_view(&log, &topic, view, &folder, &format!("Kafka ({compression}) to {what}")).await?;
            }
            to_archive(&log, &topic, &folder, &format!("Kafka ({compression}) to archive")).await
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
    let catalog = catalog(topic, view).await?;
    let ends = ends(log, topic).await?;
    let stream = Arc::clone(&catalog.streams()[0]);
    let settings = SpeedSettings {
        cut_every_ms: PATIENCE_MS,
        memory_bytes: 4 << 30,
        batch_bytes: READ_BYTES,
        checkpoint_every_ms: 0,
        checkpoints: folder.join("checkpoints"),
    };
    let cancel = CancellationToken::new();
    let timer = Timer::start();
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
    speed.wait_until(&ends).await?;
    let status = speed.status();
    let events: u64 = status.iter().map(|one| one.events).sum();
    let bytes: u64 = status.iter().map(|one| one.counters.raw_bytes).sum();
    report(&timer, what, events, bytes)?;
    cancel.cancel();
    speed.ended().await;
    Ok(())
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
