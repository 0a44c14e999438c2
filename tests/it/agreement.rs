//! Law 2 from end to end: over generated events, at every cut of small logs and at random cuts of a larger one, batch
//! alone, speed alone and their merge give the answers of plain loops over the bytes in the log ([`oracle`]), for every
//! view of the pipelines that come with foldline.
//!
//! Everything is real (embedded log, archiver, batch runs, generations on disk, speed layer with checkpoints, serving)
//! but the clock, which is moved by hand.

mod events;
mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use foldline_batch_layer::{
    Archive, Archiver, ArchiverHandle, ArchiverSettings, Generation, Generations, Recompute, RunKind,
};
use foldline_event_log::embedded::EmbeddedSettings;
use foldline_event_log::{Clock, Cut, EmbeddedLog, EventLog, ManualClock, NewRecord, Offset, RecordTime, Tick, Topic};
use foldline_serving_layer::{Answer, Limits, Mode, ReadRequest, ServedTopic, Serving, ServingParts};
use foldline_speed_layer::{SpeedLayer, SpeedSettings};
use foldline_sql::{Catalog, SourceFile, Stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use events::{Events, START_MS, Step};
use oracle::{Answers, Judgements, Oracle, REVIEW_TOPIC, Record, Row, SHOP_TOPIC, Untils};

const CUT_EVERY_MS: i64 = 1000;
const LONGEST_QUERY_MS: i64 = 60_000;

/// A log, its archive and its generations, in a folder.
struct Installation {
    folder: tempfile::TempDir,
    clock: ManualClock,
    log: Arc<dyn EventLog>,
    catalog: Arc<Catalog>,
    topics: Vec<(Arc<Stream>, Topic, Vec<Offset>)>,
    archive: Archive,
    archiver: ArchiverHandle,
    generations: Generations,
    recompute: Recompute,
}

/// A speed layer, and what answers with it.
struct Running {
    speed: SpeedLayer,
    serving: Serving,
    cancel: CancellationToken,
}

impl Running {
    async fn end(self) {
        self.cancel.cancel();
        self.speed.ended().await;
    }
}

impl Installation {
    async fn new(roll_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(START_MS);
        let settings = EmbeddedSettings::new(folder.path().join("log"));
        let log: Arc<dyn EventLog> = EmbeddedLog::open(settings, Arc::new(clock.clone())).unwrap();
        let catalog = Arc::new(Catalog::compile(&pipelines()).await.unwrap());
        let store = foldline_batch_layer::store::local(&folder.path().join("objects")).unwrap();
        let archive = Archive::new(Arc::clone(&store));
        let mut topics = Vec::new();
        for stream in catalog.streams() {
            let topic = log.ensure_topic(&stream.topic, stream.partitions).await.unwrap();
            let mut origins = Vec::new();
            for partition in topic.all_partitions() {
                let earliest = log.span(&partition).await.unwrap().earliest;
                origins.push(archive.origin(&partition, earliest).await.unwrap());
            }
            topics.push((Arc::clone(stream), topic, origins));
        }
        let settings = ArchiverSettings {
            roll_age_ms: 600_000,
            roll_bytes,
            memory_bytes: 256 << 20,
            cut_every_ms: CUT_EVERY_MS,
        };
        let streams = catalog.streams().to_vec();
        let archiver = Archiver::start(
            Arc::clone(&log),
            archive.clone(),
            streams,
            settings,
            CancellationToken::new(),
        );
        let generations = Generations::new(store, Arc::new(clock.clone()), LONGEST_QUERY_MS, 10);
        let recompute = Recompute::new(
            Arc::clone(&catalog),
            archive.clone(),
            generations.clone(),
            Arc::new(clock.clone()),
        );
        Self {
            archiver: archiver.await.unwrap(),
            folder,
            clock,
            log,
            catalog,
            topics,
            archive,
            generations,
            recompute,
        }
    }

    fn advance_to(&self, now_ms: i64) {
        self.clock.set(self.clock.now_ms().max(now_ms));
    }

    async fn append(&self, step: Step) {
        self.advance_to(step.at_ms);
        for (topic, records) in [(REVIEW_TOPIC, step.reviews), (SHOP_TOPIC, step.shop)] {
            // Without a key one partition takes all records of an append, so each gets its own.
            let (keyed, keyless): (Vec<NewRecord>, _) = records.into_iter().partition(|record| record.key.is_some());
            for records in [keyed, keyless] {
                if !records.is_empty() {
                    self.log.append(topic, records, None).await.unwrap();
                }
            }
        }
    }

    /// What is in the log, byte for byte.
    async fn records(&self) -> BTreeMap<&'static str, Vec<Record>> {
        let mut topics = BTreeMap::from([(REVIEW_TOPIC, Vec::new()), (SHOP_TOPIC, Vec::new())]);
        for (_, topic, _) in &self.topics {
            let found = topics.get_mut(topic.name.as_str()).unwrap();
            for partition in topic.all_partitions() {
                let mut next = Offset(0);
                while next < self.log.span(&partition).await.unwrap().end {
                    let records = self.log.read(&partition, next, 1 << 20, Duration::ZERO).await.unwrap();
                    for index in 0..records.len() {
                        found.push(Record {
                            partition: partition.partition.0,
                            offset: records.offsets[index] as u64,
                            timestamp_ms: records.timestamps_ms[index],
                            bytes: records.values.value(index).to_vec(),
                        });
                    }
                    next = records.next;
                }
            }
        }
        topics
    }

    /// A batch run; `None` if there was nothing new.
    async fn run(&self, kind: RunKind, tick: Tick) -> Option<Arc<Generation>> {
        self.advance_to(tick.0);
        let positions = self.archiver.reach(tick).await.unwrap();
        let complete_to = |topic: &Topic| -> Vec<RecordTime> {
            let partitions = topic.all_partitions();
            partitions
                .iter()
                .map(|partition| positions[partition].complete_to)
                .collect()
        };
        let topics: Vec<_> = self
            .topics
            .iter()
            .map(|(_, topic, _)| (topic.clone(), complete_to(topic)))
            .collect();
        let report = self.recompute.run(kind, tick, &topics, &|_, _| {}).await.unwrap();
        self.generations.refresh().await.unwrap();
        report.published.then_some(report.generation)
    }

    /// Starts a speed layer over `generations`. It replays in batches of `batch_bytes`.
    async fn start(&self, generations: &Generations, checkpoints: &str, batch_bytes: usize) -> Running {
        let settings = SpeedSettings {
            cut_every_ms: CUT_EVERY_MS,
            memory_bytes: 1 << 30,
            batch_bytes,
            checkpoint_every_ms: if checkpoints.is_empty() { 0 } else { 500 },
            checkpoints: self.folder.path().join(checkpoints),
        };
        let cancel = CancellationToken::new();
        let speed = SpeedLayer::open(
            Arc::clone(&self.log),
            Arc::clone(&self.catalog),
            self.topics.clone(),
            floor(generations),
            Default::default(),
            Arc::new(self.archive.clone()),
            settings,
            cancel.clone(),
        );
        let speed = speed.await.unwrap();
        speed.assign_all().await;
        let served = self.topics.iter().map(|(stream, topic, origins)| ServedTopic {
            stream: Arc::clone(stream),
            topic: topic.clone(),
            origins: origins.clone(),
        });
        let serving = Serving::new(ServingParts {
            catalog: Arc::clone(&self.catalog),
            topics: served.collect(),
            generations: generations.clone(),
            realtime: Arc::new(speed.clone()),
            archive: Some(self.archive.clone()),
            clock: Arc::new(self.clock.clone()),
            limits: Limits::default(),
            workers: None,
        });
        Running { speed, serving, cancel }
    }

    /// Speed without any generation, from the origin on.
    async fn start_alone(&self, batch_bytes: usize) -> Running {
        let store = Arc::new(object_store::memory::InMemory::new());
        let none = Generations::new(store, Arc::new(self.clock.clone()), LONGEST_QUERY_MS, 10);
        self.start(&none, "", batch_bytes).await
    }

    /// Tells the speed layer what to keep: what lies behind the oldest readable cut, and the boundaries at readable
    /// cuts and at `planned` ones.
    fn retain(&self, running: &Running, planned: &[Tick]) {
        let readable = self.generations.readable();
        let mut protected: Vec<Tick> = readable.iter().filter_map(|generation| generation.cut.tick).collect();
        protected.extend(planned);
        running.speed.retain(&floor(&self.generations), &protected);
    }

    /// Waits until everything in the log is folded.
    async fn caught_up(&self, running: &Running) {
        let mut ends = BTreeMap::new();
        for partition in self.topics.iter().flat_map(|(_, topic, _)| topic.all_partitions()) {
            let end = self.log.span(&partition).await.unwrap().end;
            ends.insert(partition, end);
        }
        running.speed.wait_until(&ends).await.unwrap();
    }

    /// The cut is where the oracle says.
    fn assert_cut(&self, generation: &Generation, expected: &Untils, context: &str) {
        for (_, topic, _) in &self.topics {
            for partition in topic.all_partitions() {
                let found = generation.cut.of(&partition).map_or(0, |cut| cut.next.0);
                let number = partition.partition.0;
                let expected = expected
                    .iter()
                    .find(|((name, of), _)| *name == topic.name && *of == number);
                let expected = expected.map_or(0, |(_, until)| *until);
                assert_eq!(found, expected, "{context}: cut of {partition}");
            }
        }
    }
}

/// The pipelines that come with foldline.
fn pipelines() -> Vec<SourceFile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/pipelines");
    let file = |name: &str| SourceFile {
        name: name.to_owned(),
        text: std::fs::read_to_string(folder.join(name)).unwrap(),
    };
    [
        "reviews/streams.sql",
        "reviews/views.sql",
        "shop/streams.sql",
        "shop/views.sql",
    ]
    .map(file)
    .to_vec()
}

/// The cut of the oldest readable generation. (Without rollbacks that is the lowest one.)
fn floor(generations: &Generations) -> Cut {
    let readable = generations.readable();
    let oldest = readable.iter().min_by_key(|generation| generation.number);
    oldest.map(|generation| generation.cut.clone()).unwrap_or_default()
}

fn cell(column: &dyn Array, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    match column.data_type() {
        DataType::Utf8 => oracle::quoted(Some(column.as_string::<i32>().value(row))),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        // As short as it can be and still the same double: equal text is equal bits.
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => {
            format!("{}e-{scale}", column.as_primitive::<Decimal128Type>().value(row))
        }
        DataType::Date32 => oracle::date(column.as_primitive::<Date32Type>().value(row).into()),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            oracle::time(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            oracle::list((0..items.len()).map(|item| cell(&items, item)))
        }
        other => panic!("no view has a column of type {other}"),
    }
}

fn rows(answer: &Answer) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in &answer.batches {
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|column| cell(column, row)).collect());
        }
    }
    rows.sort();
    rows
}

fn assert_rows(found: &[Row], expected: &[Row], context: &str) {
    let places = 0..found.len().max(expected.len());
    for place in places {
        let (found, expected) = (found.get(place), expected.get(place));
        assert!(
            found == expected,
            "{context}: row {place} in order differs\n  answer: {found:?}\n  oracle: {expected:?}"
        );
    }
}

/// What an answer must say at `untils`.
struct Expected<'o> {
    oracle: &'o Oracle,
    untils: Untils,
    answers: Answers,
}

impl<'o> Expected<'o> {
    fn new(oracle: &'o Oracle, untils: Untils) -> Self {
        Self {
            oracle,
            answers: oracle.answers(&untils),
            untils,
        }
    }

    /// Whether `answer` covers all of it.
    fn covered_by(&self, answer: &Answer) -> bool {
        let mut untils = self.untils.iter();
        untils.all(|((topic, partition), until)| {
            let found = answer.coverage.until.get(&format!("{topic}/{partition}"));
            found.is_none_or(|found| found == until)
        })
    }

    /// What the oracle says about just what `answer` says it covers.
    fn as_covered(&self, answer: &Answer) -> Answers {
        let covered = |(topic, partition): &(&'static str, u32)| {
            let found = answer.coverage.until.get(&format!("{topic}/{partition}"));
            ((*topic, *partition), found.copied().unwrap_or(0))
        };
        self.oracle.answers(&self.untils.keys().map(covered).collect())
    }

    /// Reads until everything is covered. After its start the speed layer may go back behind its checkpoint, to where
    /// the archive has the keys of the duplicate horizon: until then answers cover less, and say just that.
    async fn assert_view(&self, view: &str, context: &str, read: impl AsyncFn() -> Answer) {
        for _ in 0..3000 {
            let answer = read().await;
            if self.covered_by(&answer) {
                return assert_rows(&rows(&answer), &self.answers[view], context);
            }
            let context = format!("{context}, as it covers only {:?}", answer.coverage.until);
            assert_rows(&rows(&answer), &self.as_covered(&answer)[view], &context);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{context}: not all of {:?} is covered within 30 s", self.untils);
    }

    /// Every view, read as a whole.
    async fn assert_views(&self, serving: &Serving, mode: Mode, context: &str) {
        for view in self.answers.keys() {
            let context = format!("view {view}, {mode:?}, {context}");
            let read = async || {
                let request = ReadRequest {
                    limit: Some(1_000_000),
                    ..ReadRequest::default()
                };
                let answer = serving.read_view(view, request, mode).await;
                answer.unwrap_or_else(|error| panic!("{context}: {error}"))
            };
            self.assert_view(view, &context, read).await;
        }
    }

    /// The rows that windows leave out.
    async fn assert_late_rows(&self, serving: &Serving, context: &str) {
        let sql = "SELECT _partition, _offset FROM late_rows('product_days')";
        let answer = serving.sql(sql, Mode::BatchOnly).await;
        let answer = answer.unwrap_or_else(|error| panic!("{context}: {error}"));
        let late = self.oracle.late_reviews(&self.untils);
        assert_rows(&rows(&answer), &late, &format!("late rows, {context}"));
        let explained = serving.sql(&format!("EXPLAIN {sql}"), Mode::BatchOnly).await;
        let explained = explained.unwrap_or_else(|error| panic!("{context}: {error}"));
        let plan = rows(&explained).concat().concat();
        assert!(plan.contains("late_rows('product_days')"), "{context}: {plan}");
    }

    /// The same by SQL.
    async fn assert_sql(&self, serving: &Serving, mode: Mode, context: &str) {
        for view in self.answers.keys() {
            let context = format!("view {view} by SQL, {mode:?}, {context}");
            let read = async || {
                let answer = serving.sql(&format!("SELECT * FROM {view}"), mode).await;
                answer.unwrap_or_else(|error| panic!("{context}: {error}"))
            };
            self.assert_view(view, &context, read).await;
        }
    }
}

/// One log and its cuts.
struct Plan {
    seed: u64,
    steps: usize,
    events_per_step: usize,
    keys: usize,
    /// Whether events go on coming between the cuts, or all of them are there before the first one.
    live: bool,
    /// Random cuts; `None` for every one.
    cuts: Option<usize>,
    /// Every how many cuts a run is a full one, the speed layer starts anew, and views are read by SQL.
    full_every: usize,
    restart_every: usize,
    sql_every: usize,
}

/// What was looked at.
#[derive(Debug, Default)]
struct Seen {
    cuts: usize,
    full: usize,
    restarts: usize,
    judged: Judgements,
}

impl Plan {
    /// The ticks to cut at, ascending. Each step belongs to the tick that it lies in: the next one cuts behind it.
    fn ticks(&self, steps: &[Step], random: &mut StdRng) -> Vec<Tick> {
        let behind = |step: &Step| Tick::at(RecordTime(step.at_ms + CUT_EVERY_MS), CUT_EVERY_MS);
        let mut ticks: BTreeSet<Tick> = steps.iter().map(behind).collect();
        ticks.insert(Tick::at(RecordTime(steps[0].at_ms), CUT_EVERY_MS));
        let mut ticks: Vec<Tick> = ticks.into_iter().collect();
        while self.cuts.is_some_and(|cuts| ticks.len() > cuts) {
            ticks.remove(random.random_range(0..ticks.len()));
        }
        ticks
    }

    async fn check(&self) -> Seen {
        let started = Instant::now();
        let mut random = StdRng::seed_from_u64(self.seed);
        let steps = Events::new(self.seed, self.keys).steps(self.steps, self.events_per_step);
        let ticks = self.ticks(&steps, &mut random);
        let installation = Installation::new(random.random_range(2_000..20_000)).await;
        let mut steps = steps.into_iter().peekable();
        let mut seen = Seen::default();
        if !self.live {
            for step in steps.by_ref() {
                installation.append(step).await;
            }
        }
        let mut running = installation.start(&installation.generations, "checkpoints", 500).await;
        let mut alone = installation.start_alone(random.random_range(200..20_000)).await;
        let mut oracle = Oracle::new(installation.records().await);
        let all = Expected::new(&oracle, oracle.ends());
        let alone_context = format!("seed {}, speed alone", self.seed);
        installation.caught_up(&alone).await;
        all.assert_views(&alone.serving, Mode::Merged, &alone_context).await;
        let mut answers = all.answers;

        for (index, tick) in ticks.iter().enumerate() {
            let context = format!("seed {}, cut {index} at {}", self.seed, tick.0);
            if self.live {
                // What comes before the tick, and perhaps some of what comes after it.
                let ahead = tick.0 + random.random_range(0..4000);
                while let Some(step) = steps.next_if(|step| step.at_ms < ahead) {
                    installation.append(step).await;
                }
                oracle = Oracle::new(installation.records().await);
                answers = oracle.answers(&oracle.ends());
            }
            let whole = Expected {
                oracle: &oracle,
                untils: oracle.ends(),
                answers: answers.clone(),
            };
            if self.live || index % 50 == 49 {
                if !self.live {
                    alone.end().await;
                    alone = installation.start_alone(random.random_range(200..20_000)).await;
                }
                installation.caught_up(&alone).await;
                whole
                    .assert_views(&alone.serving, Mode::Merged, &format!("{context}, speed alone"))
                    .await;
            }
            installation.retain(&running, &ticks[index..]);
            let full = index % self.full_every == self.full_every - 1;
            let kind = if full { RunKind::Full } else { RunKind::Incremental };
            let before = installation.generations.current();
            let below = Expected::new(&oracle, oracle.cut(tick.0));
            if let Some(generation) = installation.run(kind, *tick).await {
                installation.assert_cut(&generation, &below.untils, &context);
                seen.cuts += 1;
                seen.full += usize::from(full);
            }
            installation.retain(&running, &ticks[index..]);
            if index % self.restart_every == self.restart_every - 1 {
                running.end().await;
                // From the checkpoint, or without one from the oldest readable cut.
                if random.random_bool(0.5) {
                    std::fs::remove_dir_all(installation.folder.path().join("checkpoints")).unwrap();
                }
                let batch_bytes = random.random_range(200..20_000);
                running = installation
                    .start(&installation.generations, "checkpoints", batch_bytes)
                    .await;
                seen.restarts += 1;
            }
            installation.caught_up(&running).await;

            below.assert_views(&running.serving, Mode::BatchOnly, &context).await;
            whole.assert_views(&running.serving, Mode::Merged, &context).await;
            if index % self.sql_every == self.sql_every - 1 {
                below.assert_sql(&running.serving, Mode::BatchOnly, &context).await;
                below.assert_late_rows(&running.serving, &context).await;
                whole.assert_sql(&running.serving, Mode::Merged, &context).await;
                if let Some(before) = before.filter(|_| !full) {
                    let below = Expected::new(&oracle, oracle.cut(before.cut.tick.unwrap().0));
                    below
                        .assert_views(&running.serving, Mode::At(before.number), &context)
                        .await;
                }
            }
            if index % 50 == 49 {
                println!("{context}: checked after {:.1} s", started.elapsed().as_secs_f64());
            }
            if !self.live {
                // Superseded generations become unreadable one after the other.
                installation.clock.advance(random.random_range(0..LONGEST_QUERY_MS));
            }
        }
        running.end().await;
        alone.end().await;
        seen.judged = oracle.judgements();
        println!("seed {}: {seen:?}, {:.1} s", self.seed, started.elapsed().as_secs_f64());
        seen
    }
}

/// A log in which nothing is late, repeated or malformed would prove little.
fn assert_varied(judged: &Judgements, least: usize) {
    let Judgements {
        malformed,
        late,
        duplicates,
        again,
        ..
    } = *judged;
    for (what, count) in [
        ("malformed", malformed),
        ("late", late),
        ("duplicate", duplicates),
        ("repeated after the horizon", again),
    ] {
        assert!(count >= least, "{count} {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_agrees_with_plain_loops_at_every_cut_of_small_logs() {
    let mut sum = Judgements::default();
    for seed in 0..2 {
        let plan = Plan {
            seed,
            steps: 36,
            events_per_step: 4,
            keys: 4,
            live: seed % 2 == 0,
            cuts: None,
            full_every: 4,
            restart_every: 5,
            sql_every: 6,
        };
        let seen = plan.check().await;
        assert!(seen.cuts > 15 && seen.full > 2 && seen.restarts > 2, "{seen:?}");
        sum.malformed += seen.judged.malformed;
        sum.late += seen.judged.late;
        sum.duplicates += seen.judged.duplicates;
        sum.again += seen.judged.again;
    }
    assert_varied(&sum, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_agrees_with_plain_loops_at_random_cuts_of_a_larger_log() {
    let plan = Plan {
        seed: 100,
        steps: 500,
        events_per_step: 7,
        keys: 12,
        live: false,
        cuts: Some(200),
        full_every: 20,
        restart_every: 20,
        sql_every: 40,
    };
    let seen = plan.check().await;
    assert!(seen.cuts >= 195, "{seen:?}");
    assert_varied(&seen.judged, 10);
}
