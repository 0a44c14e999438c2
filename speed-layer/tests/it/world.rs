//! A log, a catalog, and the oracle: the log's rows read whole and answered by plain SQL.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{and, filter_record_batch, not};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::embedded::EmbeddedSettings;
use foldline_event_log::{
    Appended, Cut, EmbeddedLog, EventBatch, EventLog, Horizon, HorizonError, LogError, ManualClock, MarkState,
    NewRecord, Offset, PartitionCut, ProducerSequence, Progress, ReaderStart, RecordTime, Records, Span, StreamReader,
    TakeKept, Tick, Topic, TopicPartition,
};
use foldline_speed_layer::{Gaps, PartitionStatus, PartitionView, Segment, Snapshot, SpeedLayer, SpeedSettings};
use foldline_sql::{Catalog, SourceFile, Stream, ViewKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

pub const CUT_EVERY_MS: i64 = 10_000;
pub const START_MS: i64 = 1_700_000_000_000;

pub const STREAM: &str = "
CREATE STREAM clicks (
  click_id TEXT, user_id TEXT NOT NULL, page TEXT, amount BIGINT, at TIMESTAMP NOT NULL
) WITH (topic = 'clicks', format = 'json', partitions = 3, key = 'user_id',
        event_time = 'at', lateness = '20 seconds', max_skew = '5 seconds',
        unique_key = 'click_id', unique_within = '2 minutes');
";

pub const VIEWS: &str = "
CREATE VIEW users AS SELECT user_id, count(*) AS n, sum(amount) AS total, max(at) AS newest FROM clicks GROUP BY user_id;
CREATE VIEW pages AS SELECT tumble(at, INTERVAL '1 minute') AS minute, page, count(*) AS n, avg(amount) AS mean
  FROM clicks GROUP BY 1, 2;
CREATE VIEW trails AS SELECT user_id, array_agg(page ORDER BY at) AS trail, last_value(page ORDER BY at) AS last_page
  FROM clicks GROUP BY user_id;
CREATE VIEW whole AS SELECT count(*) AS n, count(DISTINCT user_id) AS users FROM clicks;
";

/// Sessions: of users, whichever way round they are grouped, and of all partitions together. They span ticks and cuts, and
/// rows come out of order that begin them earlier or join two of them. The last view is folded in parts.
pub const SESSIONS: &str = "
CREATE VIEW visits AS SELECT user_id, session(at, INTERVAL '9 seconds') AS visit, count(*) AS n, sum(amount) AS total
  FROM clicks GROUP BY 1, 2;
CREATE VIEW page_visits AS SELECT session(at, INTERVAL '15 seconds') AS visit, page, user_id, count(*) AS n,
  array_agg(amount ORDER BY at) AS amounts, window_end(session(at, INTERVAL '15 seconds')) AS ended
  FROM clicks GROUP BY 1, 2, 3;
CREATE VIEW bursts AS SELECT session(at, INTERVAL '400 milliseconds') AS burst, count(*) AS n FROM clicks GROUP BY 1;
CREATE VIEW ranks AS SELECT user_id, n, rank() OVER (ORDER BY n DESC) AS place
  FROM (SELECT user_id, count(*) AS n FROM clicks GROUP BY 1) AS counts;
";

pub async fn catalog(sql: &str) -> Arc<Catalog> {
    let file = SourceFile {
        name: "views.sql".to_owned(),
        text: sql.to_owned(),
    };
    Arc::new(Catalog::compile(&[file]).await.unwrap())
}

pub struct World {
    pub folder: tempfile::TempDir,
    pub clock: ManualClock,
    pub log: Arc<dyn EventLog>,
    pub catalog: Arc<Catalog>,
    pub topic: Topic,
    pub horizon: Arc<LogHorizon>,
    pub random: Mutex<StdRng>,
    events: AtomicU64,
    judged: Mutex<BTreeMap<TopicPartition, Arc<Vec<EventBatch>>>>,
}

impl World {
    pub async fn new(sql: &str, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(START_MS);
        let settings = EmbeddedSettings {
            // Whatever is released goes.
            retention_bytes: Some(0),
            ..EmbeddedSettings::new(folder.path().join("log"))
        };
        let log: Arc<dyn EventLog> = EmbeddedLog::open(settings, Arc::new(clock.clone())).unwrap();
        let catalog = catalog(sql).await;
        let stream = Arc::clone(&catalog.streams()[0]);
        let topic = log.ensure_topic(&stream.topic, stream.partitions).await.unwrap();
        println!("seed {seed}");
        Self {
            folder,
            clock,
            horizon: Arc::new(LogHorizon {
                log: Arc::clone(&log),
                stream,
                reaches: Mutex::new(None),
            }),
            log,
            catalog,
            topic,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            events: AtomicU64::new(0),
            judged: Mutex::default(),
        }
    }

    pub fn stream(&self) -> Arc<Stream> {
        Arc::clone(&self.catalog.streams()[0])
    }

    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.topic.all_partitions()
    }

    /// `appends` appends of a few events each, at most `step_ms` apart: late, repeated, malformed, with NULLs.
    pub async fn append(&self, appends: usize, step_ms: i64) {
        for _ in 0..appends {
            let records = self.some_records(step_ms);
            self.log.append(&self.topic.name, records, None).await.unwrap();
        }
    }

    fn some_records(&self, step_ms: i64) -> Vec<NewRecord> {
        let mut random = self.random.lock().unwrap();
        self.clock.advance(random.random_range(0..=step_ms));
        let records = random.random_range(1..12);
        let mut record = || {
            let id = self.events.fetch_add(1, Ordering::Relaxed);
            let id = if random.random_bool(0.1) {
                id.saturating_sub(random.random_range(0..60))
            } else {
                id
            };
            let user = format!("user-{}", random.random_range(0..12));
            let late = if random.random_bool(0.1) {
                random.random_range(0..90_000)
            } else {
                random.random_range(-6_000..4_000)
            };
            let at = chrono::DateTime::from_timestamp_millis(foldline_event_log::Clock::now_ms(&self.clock) - late);
            let at = at.unwrap().format("%Y-%m-%dT%H:%M:%S%.3f");
            let page = if random.random_bool(0.1) {
                "null".to_owned()
            } else {
                format!("\"/{}\"", random.random_range(0..5))
            };
            let amount = random.random_range(-5..100);
            let value = if random.random_bool(0.04) {
                format!("{{\"click_id\":\"{id}\",\"user_id\":")
            } else {
                format!(
                    "{{\"click_id\":\"{id}\",\"user_id\":\"{user}\",\"page\":{page},\"amount\":{amount},\"at\":\"{at}\"}}"
                )
            };
            self.record(&user, value)
        };
        (0..records).map(|_| record()).collect()
    }

    pub fn record(&self, key: &str, value: String) -> NewRecord {
        NewRecord {
            key: Some(Bytes::from(key.to_owned())),
            value: Bytes::from(value),
            headers: Vec::new(),
        }
    }

    pub fn settings(&self) -> SpeedSettings {
        SpeedSettings {
            cut_every_ms: CUT_EVERY_MS,
            memory_bytes: 1 << 30,
            batch_bytes: self.random.lock().unwrap().random_range(100..20_000),
            checkpoint_every_ms: 0,
            checkpoints: self.folder.path().join("checkpoints"),
        }
    }

    pub async fn start(&self, cut: &Cut, settings: SpeedSettings) -> Running {
        self.start_with(Arc::clone(&self.catalog), cut, settings).await
    }

    pub async fn start_with(&self, catalog: Arc<Catalog>, cut: &Cut, settings: SpeedSettings) -> Running {
        self.start_on(Arc::clone(&self.log), catalog, cut, settings).await
    }

    /// On another log than the world's own.
    pub async fn start_on(
        &self,
        log: Arc<dyn EventLog>,
        catalog: Arc<Catalog>,
        cut: &Cut,
        settings: SpeedSettings,
    ) -> Running {
        self.start_behind(Gaps::new(), log, catalog, cut, settings).await
    }

    /// With accepted gaps.
    pub async fn start_behind(
        &self,
        gaps: Gaps,
        log: Arc<dyn EventLog>,
        catalog: Arc<Catalog>,
        cut: &Cut,
        settings: SpeedSettings,
    ) -> Running {
        let cancel = CancellationToken::new();
        let origins = vec![Offset(0); self.topic.partitions as usize];
        let stream = Arc::clone(&catalog.streams()[0]);
        let layer = SpeedLayer::open(
            log,
            catalog,
            vec![(stream, self.topic.clone(), origins)],
            cut.clone(),
            gaps,
            Arc::clone(&self.horizon) as _,
            settings,
            cancel.clone(),
        );
        let layer = layer.await.unwrap();
        layer.assign_all().await;
        Running { layer, cancel }
    }

    pub async fn ends(&self) -> BTreeMap<TopicPartition, Offset> {
        let mut ends = BTreeMap::new();
        for partition in self.partitions() {
            let end = self.log.span(&partition).await.unwrap().end;
            ends.insert(partition, end);
        }
        ends
    }

    /// The whole partition, judged from its origin on.
    pub async fn batches(&self, partition: &TopicPartition) -> Arc<Vec<EventBatch>> {
        let end = self.log.span(partition).await.unwrap().end;
        let known = self.judged.lock().unwrap().get(partition).cloned();
        if let Some(batches) = known.filter(|batches| batches.last().map_or(Offset(0), |last| last.offsets.end) == end)
        {
            return batches;
        }
        let batches = Arc::new(read_all(&self.log, &self.stream(), partition, &self.all_columns()).await);
        self.judged
            .lock()
            .unwrap()
            .insert(partition.clone(), Arc::clone(&batches));
        batches
    }

    /// All rows of the partition; `None` if there are none.
    async fn rows(&self, partition: &TopicPartition) -> Option<RecordBatch> {
        let batches = self.batches(partition).await;
        let schema = batches.first()?.rows.schema();
        Some(arrow::compute::concat_batches(&schema, batches.iter().map(|batch| &batch.rows)).unwrap())
    }

    fn all_columns(&self) -> Vec<String> {
        self.stream().columns.iter().map(|column| column.name.clone()).collect()
    }

    /// The cut at `tick`, from what is in the log.
    pub async fn cut_at(&self, tick: Tick) -> Cut {
        let mut partitions = Vec::new();
        for partition in self.partitions() {
            let batches = self.batches(&partition).await;
            let below = batches.iter().rfind(|batch| batch.tick < tick);
            partitions.push(PartitionCut {
                partition,
                next: below.map_or(Offset(0), |batch| batch.offsets.end),
                marks: below.map_or(MarkState::default(), |batch| batch.marks),
            });
        }
        Cut {
            tick: Some(tick),
            partitions,
        }
    }

    /// A tick between the start of the log and now.
    pub fn some_tick(&self) -> Tick {
        let now = foldline_event_log::Clock::now_ms(&self.clock);
        let at = self.random.lock().unwrap().random_range(START_MS..=now);
        Tick::at(RecordTime(at), CUT_EVERY_MS)
    }

    pub fn newest_tick(&self) -> Tick {
        Tick::at(RecordTime(foldline_event_log::Clock::now_ms(&self.clock)), CUT_EVERY_MS)
    }

    /// Law 2 for every view: the rows below `cut`, merged with the chain of segments from there on, give the answer of
    /// plain SQL over the rows below `until`.
    pub async fn assert_agrees(&self, snapshot: &Snapshot, cut: &Cut) {
        for view in self.catalog.views_and_parts() {
            let ViewKind::Fold(fold) = &view.kind else { continue };
            let (mut partials, mut rows) = (Vec::new(), Vec::new());
            for partition in self.partitions() {
                let speed = &snapshot.partitions[&partition];
                let next = next_of(cut, &partition);
                let Some(all) = self.rows(&partition).await else {
                    continue;
                };
                // What batch covers and speed has not reached yet is in the answer.
                rows.push(below(&all, speed.until.max(next)));
                partials.push(fold.partial(&below(&all, next)).await.unwrap());
                for segment in
                    chain(speed, next).unwrap_or_else(|| panic!("no chain at {next} of {partition}: {speed:?}"))
                {
                    partials.extend(segment.views[&view.id].held().unwrap().iter().cloned());
                }
            }
            let merged = fold.finish(&partials).await.unwrap();
            let plain = fold.plain(&rows).await.unwrap();
            assert_eq!(merged, plain, "view {} at cut {:?}", view.name, cut.tick);
        }
    }

    /// Waits until everything in the log is folded, then checks the answer from `cut` on.
    pub async fn assert_catches_up(&self, running: &Running, cut: &Cut) {
        running.layer.wait_until(&self.ends().await).await.unwrap();
        self.assert_agrees(&running.layer.snapshot(), cut).await;
    }
}

/// A log of which nothing is read while it is shut.
#[derive(Debug)]
pub struct Gated {
    log: Arc<dyn EventLog>,
    open: tokio::sync::watch::Sender<bool>,
}

impl Gated {
    pub fn new(log: &Arc<dyn EventLog>, open: bool) -> Arc<Self> {
        Arc::new(Self {
            log: Arc::clone(log),
            open: tokio::sync::watch::Sender::new(open),
        })
    }

    pub fn set(&self, open: bool) {
        self.open.send_replace(open);
    }
}

#[async_trait]
impl EventLog for Gated {
    async fn ensure_topic(&self, name: &str, partitions: u32) -> Result<Topic, LogError> {
        self.log.ensure_topic(name, partitions).await
    }

    async fn topic(&self, name: &str) -> Result<Topic, LogError> {
        self.log.topic(name).await
    }

    async fn span(&self, partition: &TopicPartition) -> Result<Span, LogError> {
        self.log.span(partition).await
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Records, LogError> {
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.log.read(partition, from, max_bytes, wait).await
    }

    async fn append(
        &self,
        topic: &str,
        records: Vec<NewRecord>,
        sequence: Option<ProducerSequence>,
    ) -> Result<Appended, LogError> {
        self.log.append(topic, records, sequence).await
    }

    async fn last_sequence(&self, producer: &str) -> Result<Option<u64>, LogError> {
        self.log.last_sequence(producer).await
    }

    async fn release(&self, partition: &TopicPartition, floor: Offset) -> Result<(), LogError> {
        self.log.release(partition, floor).await
    }
}

pub struct Running {
    pub layer: SpeedLayer,
    pub cancel: CancellationToken,
}

impl Running {
    pub async fn end(self) -> Vec<PartitionStatus> {
        self.cancel.cancel();
        self.layer.ended().await;
        self.layer.status()
    }

    /// Looks again and again, as `retain` is carried out soon, not at once.
    pub async fn wait_for(&self, what: &str, reached: impl Fn(&[PartitionStatus]) -> bool) {
        let waiting = async {
            while !reached(&self.layer.status()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(waited.is_ok(), "not within 30 s: {what}; {:#?}", self.layer.status());
    }
}

pub fn next_of(cut: &Cut, partition: &TopicPartition) -> Offset {
    cut.of(partition).map_or(Offset(0), |cut| cut.next)
}

/// The segments that lead on from `next` without gap or overlap up to `until`.
pub fn chain(view: &PartitionView, next: Offset) -> Option<Vec<Arc<Segment>>> {
    let segments: Vec<_> = view
        .segments
        .iter()
        .filter(|segment| segment.offsets.end > next)
        .cloned()
        .collect();
    let mut until = next;
    for segment in &segments {
        if segment.offsets.start != until {
            return None;
        }
        until = segment.offsets.end;
    }
    (until == view.until || segments.is_empty() && view.until <= next).then_some(segments)
}

pub fn below(rows: &RecordBatch, until: Offset) -> RecordBatch {
    let offsets = rows.column_by_name("_offset").unwrap().as_primitive::<Int64Type>();
    let kept = BooleanArray::from_unary(offsets, |offset| (offset as u64) < until.0);
    filter_record_batch(rows, &kept).unwrap()
}

async fn read_all(
    log: &Arc<dyn EventLog>,
    stream: &Arc<Stream>,
    partition: &TopicPartition,
    columns: &[String],
) -> Vec<EventBatch> {
    let end = log.span(partition).await.unwrap().end;
    let start = ReaderStart {
        next: Offset(0),
        marks: MarkState::default(),
    };
    let (log, stream) = (Arc::clone(log), Arc::clone(stream));
    let reader = StreamReader::open(
        log,
        stream,
        partition.clone(),
        start,
        columns,
        false,
        CUT_EVERY_MS,
        &NoHorizon,
    );
    let mut reader = reader.await.unwrap();
    let mut batches = Vec::new();
    while batches.last().map_or(Offset(0), |batch: &EventBatch| batch.offsets.end) < end {
        if let Progress::Batch(batch) = reader.next(1 << 20, Duration::ZERO).await.unwrap() {
            batches.push(batch);
        }
    }
    batches
}

/// Nothing below offset 0.
#[derive(Debug)]
struct NoHorizon;

#[async_trait]
impl Horizon for NoHorizon {
    async fn kept_rows(
        &self,
        _: &TopicPartition,
        until: Offset,
        _: RecordTime,
        _: &[String],
        _: TakeKept<'_>,
    ) -> Result<(), HorizonError> {
        assert_eq!(until, Offset(0));
        Ok(())
    }
}

/// The horizon's keys out of the log itself, as an archive would give them: up to where it reaches.
#[derive(Debug)]
pub struct LogHorizon {
    log: Arc<dyn EventLog>,
    stream: Arc<Stream>,
    pub reaches: Mutex<Option<BTreeMap<TopicPartition, Offset>>>,
}

#[async_trait]
impl Horizon for LogHorizon {
    async fn kept_rows(
        &self,
        partition: &TopicPartition,
        until: Offset,
        since: RecordTime,
        columns: &[String],
        take: TakeKept<'_>,
    ) -> Result<(), HorizonError> {
        let reaches = self
            .reaches
            .lock()
            .unwrap()
            .as_ref()
            .map_or(Offset(u64::MAX), |reaches| reaches[partition]);
        if until > reaches {
            return Err(format!("the archive ends at {reaches}").into());
        }
        for batch in read_all(&self.log, &self.stream, partition, columns).await {
            let rows = below(&batch.rows, until);
            let times = rows
                .column_by_name("_record_time_max")
                .unwrap()
                .as_primitive::<Int64Type>();
            let young = BooleanArray::from_unary(times as &Int64Array, |time| time >= since.0);
            let first = not(rows.column_by_name("_duplicate").unwrap().as_boolean())?;
            let rows = filter_record_batch(&rows, &and(&young, &first)?)?;
            let names = columns.iter().map(String::as_str).chain(["_record_time_max"]);
            let places: Vec<usize> = names.map(|name| rows.schema().index_of(name).unwrap()).collect();
            take(&rows.project(&places)?)?;
        }
        Ok(())
    }
}
