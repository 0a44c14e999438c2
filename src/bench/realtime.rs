//! Realtime views in a shared store: what folding costs with it, how fast states are written, and point reads that merge what
//! lies there with a batch view.
//!
//! A tenth of the events is in the batch view, the others in the realtime view: of 1,000,000 users as many as they are of.
//! Processor time is that of this process; the store's is not in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use foldline_batch_layer::{Archive, Archiver, ArchiverSettings, Generations, Recompute, RunKind};
use foldline_event_log::{Cut, EventLog, NewRecord, RecordTime, Tick};
use foldline_serving_layer::{Limits, ServedTopic, Serving, ServingParts};
use foldline_speed_layer::shared::{Reader, ReaderSettings, SharedStore, Writer};
use foldline_speed_layer::{RealtimeStore, SpeedLayer};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{APPEND, CUT_EVERY_MS, Events, Timer, Work, reads};
use crate::cluster::stored;
use crate::config::Settings;
use crate::output::say;

/// The store is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A read asks the store, and must not wait for the one before.
const SLOWER: u32 = 4;
/// Nobody is told that nobody writes.
const SILENT: Duration = Duration::from_secs(3_600);

/// Runs all of it.
pub(super) async fn measure(work: &Work, settings: &Settings, folder: &Path, answers: Handle) -> anyhow::Result<()> {
    let (archive, generations) = batch_view(work, folder).await?;
    let cut = generations.current().context("the run has published")?.cut.clone();
    let events = work.events - work.events / 10;
    append(work, events, 2).await?;

    let (cancel, timer) = (CancellationToken::new(), Timer::start());
    let speed = fold_all(work, &cut, folder, &cancel).await?;
    report(&timer, "replay, both views, in memory alone", events);

    // Everything at once: whatever is written is new there.
    let mut at_once = writer(work, open(settings, "at_once").await?, settings);
    let timer = Timer::start();
    anyhow::ensure!(
        at_once.flush(&speed.snapshot()).await,
        "a flush failed; the log says why"
    );
    let written = at_once.written();
    let (wall, processor) = timer.elapsed();
    let states = written.versions as f64;
    say!(
        "{:<44} {:>9.0} states/s, {:.1} processor seconds per million, {} states of {} MB",
        "states into the shared store",
        states / wall,
        processor / (states / 1e6),
        written.versions,
        written.bytes / 1_000_000,
    );
    cancel.cancel();
    speed.ended().await;
    drop((speed, at_once));

    let store = open(settings, "flushed").await?;
    let reader = reader(work, &store, settings);
    let (cancel, timer) = (CancellationToken::new(), Timer::start());
    let speed = work.speed(cut, folder, cancel.clone()).await?;
    let writing = writer(work, store, settings).run(speed.clone(), cancel.clone());
    let writing = tokio::spawn(writing);
    await_all(work, &reader).await?;
    report(&timer, "replay, both views, into the shared store", events);
    let shown = reader.snapshot();
    let segments: usize = shown.partitions.values().map(|view| view.segments.len()).sum();
    say!("{:<44} {segments:>9}", "segments in the shared store");

    let polling = tokio::spawn(reader.clone().run(cancel.clone()));
    let serving = serving(work, archive, generations, reader, answers.clone());
    // As who asks by HTTP: from a thread that gives way to nobody.
    let asker = answers.spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(reads(&serving, 0.0, SLOWER))
    });
    asker.await??;
    cancel.cancel();
    speed.ended().await;
    writing.await?;
    polling.await?;
    Ok(())
}

async fn open(settings: &Settings, what: &str) -> anyhow::Result<Arc<dyn SharedStore>> {
    let mut settings = settings.clone();
    settings.realtime.keyspace = format!("bench_{what}_{}", uuid::Uuid::new_v4().simple());
    stored::open(&settings)
        .await?
        .context("the settings name a shared store")
}

/// A tenth of the events, archived and computed.
async fn batch_view(work: &Work, folder: &Path) -> anyhow::Result<(Archive, Generations)> {
    append(work, work.events / 10, 1).await?;
    let store = foldline_batch_layer::store::local(&folder.join("store"))?;
    let archive = Archive::new(Arc::clone(&store));
    let generations = Generations::new(store, Arc::clone(&work.clock), 60_000, 4);
    let settings = ArchiverSettings {
        roll_age_ms: 60_000,
        roll_bytes: 64 << 20,
        memory_bytes: 512 << 20,
        cut_every_ms: CUT_EVERY_MS,
    };
    let cancel = CancellationToken::new();
    let streams = vec![Arc::clone(&work.stream)];
    let archiver = Archiver::start(work.log(), archive.clone(), streams, settings, cancel.clone()).await?;
    let tick = Tick::at(RecordTime(work.clock.now_ms() + CUT_EVERY_MS), CUT_EVERY_MS);
    let complete_to: Vec<RecordTime> = archiver
        .reach(tick)
        .await?
        .values()
        .map(|position| position.complete_to)
        .collect();
    let recompute = Recompute::new(
        Arc::clone(&work.catalog),
        archive.clone(),
        generations.clone(),
        Arc::clone(&work.clock),
    );
    let topics = [(work.topic.clone(), complete_to)];
    recompute.run(RunKind::Full, tick, &topics, &|_, _| {}).await?;
    generations.refresh().await?;
    cancel.cancel();
    archiver.ended().await;
    Ok((archive, generations))
}

async fn append(work: &Work, count: usize, seed: u64) -> anyhow::Result<()> {
    let mut events = Events::new(seed);
    let mut left = count;
    while left > 0 {
        let some = left.min(APPEND);
        let records: Vec<NewRecord> = (0..some).map(|_| events.next()).collect();
        work.log.append(&work.topic.name, records, None).await?;
        left -= some;
    }
    Ok(())
}

async fn fold_all(work: &Work, cut: &Cut, folder: &Path, cancel: &CancellationToken) -> anyhow::Result<SpeedLayer> {
    let partition = work.topic.partition(0);
    let end = work.log.span(&partition).await?.end;
    let speed = work.speed(cut.clone(), folder, cancel.clone()).await?;
    speed.wait_until(&BTreeMap::from([(partition, end)])).await?;
    Ok(speed)
}

/// Returns when readers of the store see the whole log.
async fn await_all(work: &Work, reader: &Reader) -> anyhow::Result<()> {
    let partition = work.topic.partition(0);
    let end = work.log.span(&partition).await?.end;
    let since = Instant::now();
    loop {
        reader.poll().await?;
        let until = reader.snapshot().partitions.get(&partition).map(|view| view.until);
        if until == Some(end) {
            return Ok(());
        }
        anyhow::ensure!(since.elapsed() < SILENT, "the store has {until:?} of {end}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn writer(work: &Work, store: Arc<dyn SharedStore>, settings: &Settings) -> Writer {
    stored::writer(
        store,
        &work.catalog,
        Default::default(),
        Arc::clone(&work.clock),
        settings,
    )
}

fn reader(work: &Work, store: &Arc<dyn SharedStore>, settings: &Settings) -> Reader {
    let reading = ReaderSettings {
        every: Duration::from_millis(settings.realtime.poll_ms),
        silent: SILENT,
        cache_bytes: settings.realtime.cache_bytes,
    };
    Reader::new(Arc::clone(store), &work.catalog, [work.topic.partition(0)], reading)
}

fn serving(work: &Work, archive: Archive, generations: Generations, reader: Reader, answers: Handle) -> Serving {
    Serving::new(ServingParts {
        catalog: Arc::clone(&work.catalog),
        topics: vec![ServedTopic {
            stream: Arc::clone(&work.stream),
            topic: work.topic.clone(),
            origins: vec![foldline_event_log::Offset(0)],
        }],
        generations,
        realtime: Arc::new(reader),
        archive: Some(archive),
        clock: Arc::clone(&work.clock),
        limits: Limits::default(),
        workers: Some(answers),
    })
}

fn report(timer: &Timer, what: &str, events: usize) {
    let (_, processor) = timer.elapsed();
    let bytes = Events::new(1).next().value.len() * events;
    timer.stop(what, events, bytes);
    say!(
        "{:<44} {:>9.2} processor seconds per million events",
        "",
        processor / (events as f64 / 1e6)
    );
}
