//! `foldline bench`: figures of the whole way of an event, on this machine.
//!
//! Events are clicks of about 600 bytes of JSON with 13 fields, a million users among them. Each step prints what it
//! did per second of wall clock and per second of one core (the processor time of the whole process).

#[cfg(feature = "kafka")]
mod kafka;
mod realtime;
mod sums;
mod views;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use arrow::array::BinaryArray;
use clap::Args;
use foldline_batch_layer::{Archive, Archiver, ArchiverHandle, ArchiverSettings, Generations, Recompute, RunKind};
use foldline_event_log::decode::Decoder;
use foldline_event_log::embedded::EmbeddedSettings;
use foldline_event_log::{
    Clock, Cut, EmbeddedLog, EventLog, MarkState, NewRecord, Offset, Progress, ReaderStart, RecordTime, StreamReader,
    SystemClock, Tick, Topic,
};
use foldline_serving_layer::read::{Filter, ReadRequest};
use foldline_serving_layer::seam::Mode;
use foldline_serving_layer::{Limits, ServedTopic, Serving, ServingParts};
use foldline_speed_layer::{SpeedLayer, SpeedSettings};
use foldline_sql::{Catalog, Fold, Partial, SourceFile, Stream};
use tokio_util::sync::CancellationToken;

use crate::Setting;
use crate::config::RealtimeStoreKind;
use crate::output::say;

const PIPELINE: &str = "
CREATE STREAM clicks (
  session_id TEXT NOT NULL, event TEXT NOT NULL, partner_id TEXT, partner_name TEXT, cart_amount BIGINT, country TEXT,
  user_id TEXT NOT NULL, version TEXT, language TEXT, date TIMESTAMPTZ NOT NULL, category TEXT[], referrer TEXT,
  current_url TEXT, user_agent TEXT
) WITH (partitions = 1, key = 'user_id', event_time = 'date', event_time_format = 'unix_ms', lateness = '1 hour',
        max_skew = '36500 days');

CREATE VIEW partner_days AS
SELECT partner_id, tumble(date, INTERVAL '1 day') AS day, count(*) AS events, sum(cart_amount) AS amount
FROM clicks GROUP BY 1, 2;

CREATE VIEW users AS
SELECT user_id, count(*) AS events, sum(cart_amount) AS amount, max(date) AS last_visit FROM clicks GROUP BY user_id;
";

/// Users that the events come from.
const USERS: u64 = 1_000_000;
/// Records of one append.
const APPEND: usize = 10_000;
/// Records decoded at once.
const DECODE: usize = 8_192;
/// Bytes read from the log at once.
const READ_BYTES: usize = 4 << 20;
/// Point reads that are timed.
const READS: usize = 4_000;
const CUT_EVERY_MS: i64 = 1_000;
/// So long the peak input is measured.
const PEAK_SECONDS: f64 = 8.0;
/// Events by which the log may be ahead of the layers meanwhile.
const LAG_MAX: u64 = 400_000;

/// Print figures of this machine: decode, fold, log, views, sums, archive, recompute, replay, point reads
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline bench --events 1500000")]
pub(crate) struct Bench {
    /// Events
    #[arg(long, default_value_t = 1_500_000)]
    events: usize,

    /// Leave out the figures of single folds and sums
    #[arg(long)]
    short: bool,

    /// Instead: Kafka to views and to the archive, on the brokers of the configuration
    #[cfg(feature = "kafka")]
    #[arg(long)]
    kafka: bool,

    /// Instead: realtime views on these nodes of Cassandra ("host:port", several with commas), in keyspaces of its own, which
    /// stay there
    #[arg(long, value_name = "NODES")]
    realtime: Option<String>,
}

impl Bench {
    /// Runs it in a folder of its own under `data_dir`, which goes afterwards.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let folder = Path::new(&setting.merged.settings.data_dir).join("bench");
        let outcome = self.measure_in(&folder, &setting).await;
        drop(std::fs::remove_dir_all(&folder));
        outcome
    }

    async fn measure_in(&self, folder: &Path, setting: &Setting) -> anyhow::Result<()> {
        #[cfg(feature = "kafka")]
        if self.kafka {
            return kafka::measure(setting, folder, self.events).await;
        }
        self.measure(folder, setting).await
    }

    async fn measure(&self, folder: &Path, setting: &Setting) -> anyhow::Result<()> {
        let file = SourceFile {
            name: "bench.sql".into(),
            text: PIPELINE.into(),
        };
        let catalog = Catalog::compile(&[file])
            .await
            .map_err(|refusals| anyhow!("{}", refusals[0]))?;
        let catalog = Arc::new(catalog);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (log_settings, log_clock) = (EmbeddedSettings::new(folder.join("log")), Arc::clone(&clock));
        let opening = setting
            .work
            .spawn_blocking(move || EmbeddedLog::open(log_settings, log_clock));
        let log = opening.await??;
        let stream = Arc::clone(&catalog.streams()[0]);
        let topic = log.ensure_topic(&stream.topic, stream.partitions).await?;
        let work = Work {
            log,
            stream,
            topic,
            catalog,
            clock,
            events: self.events,
        };
        let threads = std::thread::available_parallelism().map_or(0, usize::from);
        say!("{} events, {threads} cores, {} build", self.events, build());

        if let Some(nodes) = &self.realtime {
            let (folder, mut settings) = (folder.to_owned(), setting.merged.settings.clone());
            settings.realtime.store = RealtimeStoreKind::Cassandra;
            settings.realtime.nodes = nodes.clone();
            let answers = setting.answers.clone();
            let measured = async move { realtime::measure(&work, &settings, &folder, answers).await };
            return setting.work.spawn(measured).await?;
        }
        work.decode()?;
        work.append().await?;
        work.read().await?;
        if !self.short {
            views::measure(&work).await?;
            sums::measure().await?;
        }
        // The steps that use many threads run where they run in an installation.
        let folder = folder.to_owned();
        let answers = setting.answers.clone();
        setting
            .work
            .spawn(async move { work.layers(&folder, answers).await })
            .await?
    }
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// What every step works on.
#[derive(Debug, Clone)]
struct Work {
    log: Arc<EmbeddedLog>,
    stream: Arc<Stream>,
    topic: Topic,
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    events: usize,
}

impl Work {
    fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(&self.log) as _
    }

    fn fold(&self, index: usize) -> Arc<Fold> {
        Arc::clone(&self.catalog.folds_of(&self.stream.name)[index].1)
    }

    fn decode(&self) -> anyhow::Result<()> {
        let mut events = Events::new(0);
        let count = self.events.min(200_000);
        let batches: Vec<BinaryArray> = (0..count.div_ceil(DECODE))
            .map(|_| BinaryArray::from_iter_values((0..DECODE).map(|_| events.next().value)))
            .collect();
        let rows = batches.len() * DECODE;
        let bytes: usize = batches.iter().map(|batch| batch.value_data().len()).sum();
        say!("an event has {} bytes", bytes / rows);
        let all: Vec<String> = self.stream.columns.iter().map(|column| column.name.clone()).collect();
        for (what, columns) in [
            ("all columns", all),
            ("columns of a view", self.fold(0).input_columns().to_vec()),
        ] {
            let mut decoder = Decoder::new(&self.stream, &declared(&self.stream, &columns))?;
            let timer = Timer::start();
            let passes = self.events.div_ceil(rows);
            for batch in batches.iter().cycle().take(passes * batches.len()) {
                anyhow::ensure!(
                    decoder.decode(batch)?.good.len() == DECODE,
                    "an event of the bench is malformed"
                );
            }
            timer.stop(&format!("decode, {what}"), passes * rows, passes * bytes);
        }
        Ok(())
    }

    async fn append(&self) -> anyhow::Result<()> {
        let mut events = Events::new(1);
        let mut bytes = 0;
        let mut timer = Timer::start();
        for _ in 0..self.events.div_ceil(APPEND) {
            let making = Timer::start();
            let records: Vec<NewRecord> = (0..APPEND).map(|_| events.next()).collect();
            bytes += records.iter().map(|record| record.value.len()).sum::<usize>();
            timer.leave_out(&making);
            self.log.append(&self.topic.name, records, None).await?;
        }
        timer.stop(&format!("log append, synced, {APPEND} at once"), self.events, bytes);
        Ok(())
    }

    async fn read(&self) -> anyhow::Result<()> {
        let partition = self.topic.partition(0);
        let timer = Timer::start();
        let (mut next, mut rows, mut bytes) = (Offset(0), 0, 0);
        loop {
            let records = self.log.read(&partition, next, READ_BYTES, Duration::ZERO).await?;
            if records.is_empty() {
                break;
            }
            rows += records.len();
            bytes += records.values.value_data().len();
            next = records.next;
        }
        timer.stop("log read", rows, bytes);
        for (index, what) in ["by partner and day", "by user"].into_iter().enumerate() {
            self.read_and_fold(&self.fold(index), &format!("read, decode, judge, fold {what}"))
                .await?;
        }
        Ok(())
    }

    /// One task, as for one partition of the speed layer: read, decode, judge, fold, merge.
    async fn read_and_fold(&self, fold: &Fold, what: &str) -> anyhow::Result<Partial> {
        let start = ReaderStart {
            next: Offset(0),
            marks: MarkState::default(),
        };
        let mut reader = StreamReader::open(
            self.log(),
            Arc::clone(&self.stream),
            self.topic.partition(0),
            start,
            &declared(&self.stream, fold.input_columns()),
            false,
            CUT_EVERY_MS,
            &foldline_event_log::NoHorizon,
        )
        .await?;
        let timer = Timer::start();
        let (mut rows, mut bytes) = (0, 0);
        // Runs, largest first, as in a segment.
        let mut runs: Vec<Partial> = Vec::new();
        while let Progress::Batch(batch) = reader.next(READ_BYTES, Duration::ZERO).await? {
            rows += batch.rows.num_rows();
            bytes += batch.raw_bytes;
            runs.push(fold.partial(&batch.rows).await?);
            while let [.., larger, smaller] = runs.as_slice()
                && larger.keys() <= 2 * smaller.keys()
            {
                let merged = fold.merge(&[larger.clone(), smaller.clone()]).await?;
                runs.truncate(runs.len() - 2);
                runs.push(merged);
            }
        }
        let state = fold.merge(&runs).await?;
        timer.stop(what, rows, bytes);
        Ok(state)
    }

    async fn layers(&self, folder: &Path, answers: tokio::runtime::Handle) -> anyhow::Result<()> {
        let store = foldline_batch_layer::store::local(&folder.join("store"))?;
        let archive = Archive::new(Arc::clone(&store));
        let generations = Generations::new(store, Arc::clone(&self.clock), 60_000, 4);
        let cancel = CancellationToken::new();
        let span = self.log.span(&self.topic.partition(0)).await?;

        let timer = Timer::start();
        let settings = ArchiverSettings {
            roll_age_ms: 60_000,
            roll_bytes: 64 << 20,
            memory_bytes: 512 << 20,
            cut_every_ms: CUT_EVERY_MS,
        };
        let streams = vec![Arc::clone(&self.stream)];
        let archiver = Archiver::start(self.log(), archive.clone(), streams, settings, cancel.clone()).await?;
        let tick = Tick::at(RecordTime(self.clock.now_ms() + CUT_EVERY_MS), CUT_EVERY_MS);
        let positions = archiver.reach(tick).await?;
        timer.stop("archive, _raw kept", self.events, self.json_bytes());
        let complete_to: Vec<RecordTime> = positions.values().map(|position| position.complete_to).collect();

        let recompute = Recompute::new(
            Arc::clone(&self.catalog),
            archive.clone(),
            generations.clone(),
            Arc::clone(&self.clock),
        );
        let timer = Timer::start();
        let topics = [(self.topic.clone(), complete_to)];
        let report = recompute.run(RunKind::Full, tick, &topics, &|_, _| {}).await?;
        timer.stop(
            "recompute of both views",
            usize::try_from(report.rows)?,
            self.json_bytes(),
        );
        generations.refresh().await?;

        let timer = Timer::start();
        let speed = self.speed(Cut::default(), folder, cancel.clone()).await?;
        speed
            .wait_until(&BTreeMap::from([(self.topic.partition(0), span.end)]))
            .await?;
        timer.stop("restart replay, both views", self.events, self.json_bytes());
        let bytes: usize = speed.status().iter().map(|status| status.bytes).sum();
        say!(
            "{:<44} {:>8} MiB for {} users",
            "memory of the realtime views",
            bytes >> 20,
            USERS
        );

        let serving = Serving::new(ServingParts {
            catalog: Arc::clone(&self.catalog),
            topics: vec![ServedTopic {
                stream: Arc::clone(&self.stream),
                topic: self.topic.clone(),
                origins: vec![Offset(0)],
            }],
            generations: generations.clone(),
            realtime: Arc::new(speed.clone()),
            archive: None,
            clock: Arc::clone(&self.clock),
            limits: Limits::default(),
            workers: Some(answers.clone()),
        });
        let cut = generations.current().context("the run has published")?.cut.clone();
        speed.retain(&cut, &[tick]);
        let peak = self.peak_input(&archiver, &speed).await?;
        let loaded = Arc::new(AtomicBool::new(true));
        let load = tokio::spawn(self.clone().load(peak / 2.0, Arc::clone(&loaded)));
        tokio::time::sleep(Duration::from_secs(2)).await;
        // As who asks by HTTP: from a thread that gives way to nobody.
        let asker = answers.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(reads(&serving, peak / 2.0, 1))
        });
        asker.await??;
        loaded.store(false, Ordering::Relaxed);
        load.await??;
        cancel.cancel();
        archiver.ended().await;
        speed.ended().await;
        Ok(())
    }

    /// Appends for a while, at most [`LAG_MAX`] events ahead of the archiver and of the speed layer, until both have
    /// them all: the events per second that log, archive and realtime views keep up with together.
    async fn peak_input(&self, archiver: &ArchiverHandle, speed: &SpeedLayer) -> anyhow::Result<f64> {
        let partition = self.topic.partition(0);
        let reached = || {
            let archived = archiver
                .positions()
                .get(&partition)
                .map_or(0, |position| position.until.0);
            let folded = speed
                .snapshot()
                .partitions
                .get(&partition)
                .map_or(0, |view| view.until.0);
            archived.min(folded)
        };
        let mut events = Events::new(3);
        let mut timer = Timer::start();
        let (mut count, mut bytes) = (0, 0);
        while timer.elapsed().0 < PEAK_SECONDS {
            let end = self.log.span(&partition).await?.end;
            if end.0.saturating_sub(reached()) > LAG_MAX {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            let making = Timer::start();
            let records: Vec<NewRecord> = (0..APPEND).map(|_| events.next()).collect();
            timer.leave_out(&making);
            count += records.len();
            bytes += records.iter().map(|record| record.value.len()).sum::<usize>();
            self.log.append(&self.topic.name, records, None).await?;
        }
        let end = self.log.span(&partition).await?.end;
        archiver
            .reach(Tick::at(RecordTime(self.clock.now_ms() + CUT_EVERY_MS), CUT_EVERY_MS))
            .await?;
        speed.wait_until(&BTreeMap::from([(partition.clone(), end)])).await?;
        Ok(timer.stop("peak input: append, archive, both views", count, bytes))
    }

    fn json_bytes(&self) -> usize {
        let mut events = Events::new(1);
        let sample: usize = (0..1_000).map(|_| events.next().value.len()).sum();
        sample * self.events / 1_000
    }

    async fn speed(&self, cut: Cut, folder: &Path, cancel: CancellationToken) -> anyhow::Result<SpeedLayer> {
        let settings = SpeedSettings {
            cut_every_ms: CUT_EVERY_MS,
            memory_bytes: 4 << 30,
            batch_bytes: READ_BYTES,
            checkpoint_every_ms: 0,
            checkpoints: folder.join("checkpoints"),
        };
        let topics = vec![(Arc::clone(&self.stream), self.topic.clone(), vec![Offset(0)])];
        let horizon = Arc::new(foldline_event_log::NoHorizon);
        let speed = SpeedLayer::open(
            self.log(),
            Arc::clone(&self.catalog),
            topics,
            cut,
            Default::default(),
            horizon,
            settings,
            cancel,
        )
        .await?;
        speed.assign_all().await;
        Ok(speed)
    }

    /// Appends `per_second` events until `on` is false.
    async fn load(self, per_second: f64, on: Arc<AtomicBool>) -> anyhow::Result<()> {
        let mut events = Events::new(2);
        let mut timer = tokio::time::interval(Duration::from_millis(50));
        while on.load(Ordering::Relaxed) {
            timer.tick().await;
            let records = (0..(per_second / 20.0) as usize).map(|_| events.next()).collect();
            self.log.append(&self.topic.name, records, None).await?;
        }
        Ok(())
    }
}

fn declared(stream: &Stream, columns: &[String]) -> Vec<String> {
    columns
        .iter()
        .filter(|name| stream.columns.iter().any(|column| column.name == **name))
        .cloned()
        .collect()
}

/// `slower` times as far apart as reads from memory, and so many times fewer.
async fn reads(serving: &Serving, load: f64, slower: u32) -> anyhow::Result<()> {
    let mut random = Random(42);
    let mut point = |_| vec![Filter::parse("user_id", &user(random.next(), USERS))];
    let first = Instant::now();
    read(serving, point(0)).await?;
    let first = first.elapsed().as_secs_f64() * 1e3;
    say!("{:<44} {first:.0} ms", "the first read, which loads the batch view");
    timed_reads(
        serving,
        "merged point read",
        READS / slower as usize,
        Duration::from_millis(5) * slower,
        load,
        point,
    )
    .await?;
    // Users are numbered in hexadecimal: 4 * (1 + 16 + 256) of them begin with these three digits.
    let range = |number: usize| {
        let digit = number % 15;
        vec![
            Filter::parse("user_id", &format!("gte.{digit:x}a8")),
            Filter::parse("user_id", &format!("lt.{digit:x}ac")),
        ]
    };
    timed_reads(
        serving,
        "1000 merged rows",
        READS / 10 / slower as usize,
        Duration::from_millis(10) * slower,
        load,
        range,
    )
    .await
}

async fn read(serving: &Serving, filters: Vec<Filter>) -> anyhow::Result<()> {
    let request = ReadRequest {
        filters,
        limit: Some(1_000),
        ..ReadRequest::default()
    };
    serving.read_view("users", request, Mode::Merged).await?;
    Ok(())
}

/// Times `count` reads of what `filters` says of each, one `every` so often.
async fn timed_reads(
    serving: &Serving,
    what: &str,
    count: usize,
    every: Duration,
    load: f64,
    mut filters: impl FnMut(usize) -> Vec<Filter>,
) -> anyhow::Result<()> {
    let mut times = Vec::with_capacity(count);
    let (before, mut due) = (stolen_seconds(), Instant::now());
    for number in 0..count {
        // One after the other at a steady rate; a read that has to wait for the one before counts from when it was due.
        due += every;
        let early = due.saturating_duration_since(Instant::now());
        std::thread::sleep(early);
        let since = if early.is_zero() { due } else { Instant::now() };
        read(serving, filters(number)).await?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    let at = |share: f64| times[((count as f64 * share) as usize).min(count - 1)].as_secs_f64() * 1e3;
    say!(
        "{:<44} p50 {:.2} ms, p99 {:.2} ms, all within {:.0} ms, at {:.0} reads/s and {load:.0} events/s, while the host \
         took {:.2} s of the processors",
        format!("{what}, {USERS} keys"),
        at(0.5),
        at(0.99),
        at(1.0).ceil(),
        1.0 / every.as_secs_f64(),
        stolen_seconds() - before,
    );
    Ok(())
}

/// Seeded events.
struct Events {
    random: Random,
    number: u64,
}

impl Events {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(88_172_645_463_325_252 ^ seed),
            number: 0,
        }
    }

    fn next(&mut self) -> NewRecord {
        self.next_of(USERS)
    }

    /// One of so many users.
    fn next_of(&mut self, users: u64) -> NewRecord {
        let x = self.random.next();
        let kind = ["page_view", "add_to_cart", "purchase", "wishlist"][(x % 4) as usize];
        let user = user(x, users);
        // 30 days of event time, going on with the log.
        let time = 1_510_758_058_000 + self.number * 1_728;
        self.number += 1;
        let value = format!(
            r#"{{"session_id":"995a888d-69a9-3779-9c91-{:012x}_1510761641","event":"{kind}","partner_id":"{:05}","partner_name":"example","cart_amount":{},"country":"TR","user_id":"{user}","version":"1.0","language":"tr_TR","date":{time},"category":["Kız Bebek","Tişört, Body ve Atlet"],"referrer":"http://www.example.com/tr-TR/TR","current_url":"http://www.example.com/tr-TR/TR/p/{}","user_agent":"Mozilla/5.0 (Linux; Android 6.0.1; SAMSUNG SM-J700F Build/MMB29K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/5.4 Chrome/51.0.2704.106 Mobile Safari/537.36"}}"#,
            x % 200_000,
            x % 500,
            (x >> 20) % 10_000,
            x % 5_000,
        );
        NewRecord {
            key: Some(user.into()),
            value: value.into(),
            headers: Vec::new(),
        }
    }
}

fn user(x: u64, users: u64) -> String {
    format!("{:x}.4126983939a", (x >> 8) % users)
}

/// Xorshift, so that a bench is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Wall clock and processor time.
struct Timer {
    wall: Instant,
    processor: f64,
    left_out: (f64, f64),
}

impl Timer {
    fn start() -> Self {
        Self {
            wall: Instant::now(),
            processor: processor_seconds(),
            left_out: (0.0, 0.0),
        }
    }

    fn elapsed(&self) -> (f64, f64) {
        let (wall, processor) = self.left_out;
        (
            self.wall.elapsed().as_secs_f64() - wall,
            processor_seconds() - self.processor - processor,
        )
    }

    fn leave_out(&mut self, other: &Self) {
        let (wall, processor) = other.elapsed();
        self.left_out = (self.left_out.0 + wall, self.left_out.1 + processor);
    }

    /// Prints the figures, and returns events per second of wall clock.
    fn stop(&self, what: &str, events: usize, bytes: usize) -> f64 {
        let (wall, processor) = self.elapsed();
        let (events, megabytes) = (events as f64, bytes as f64 / 1e6);
        say!(
            "{what:<44} {:>9.0} events/s {:>6.0} MB/s;  per core {:>9.0} events/s {:>6.0} MB/s",
            events / wall,
            megabytes / wall,
            events / processor,
            megabytes / processor,
        );
        events / wall
    }
}

/// Seconds in which a virtual machine's processors were somebody else's since it was started; 0 without `/proc`.
fn stolen_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let stolen = stat
        .split_whitespace()
        .nth(8)
        .and_then(|ticks| ticks.parse::<f64>().ok());
    stolen.unwrap_or(0.0) / TICKS_PER_SECOND
}

/// Linux counts in hundredths of a second towards programs, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of this process in seconds; without `/proc`, wall-clock time since its first call.
fn processor_seconds() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        return START.elapsed().as_secs_f64();
    };
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_SECOND
}
