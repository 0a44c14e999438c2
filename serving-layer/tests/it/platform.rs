//! Both halves by hand: rows of three partitions of each stream, a generation at any cut, segments behind it.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, NaiveDate};
use foldline_batch_layer::{BatchView, DatePartial, Draft, Generation, Generations, RunKind};
use foldline_event_log::{Cut, ManualClock, MarkState, Offset, PartitionCut, RecordTime, Tick, Topic, TopicPartition};
use foldline_serving_layer::{Limits, ServedTopic, Serving, ServingParts};
use foldline_speed_layer::{Partials, PartitionView, RealtimeStore, Segment, Snapshot};
use foldline_sql::{Catalog, Fold, SourceFile, Stream, ViewKind, system_columns};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

pub(crate) const PARTITIONS: u32 = 3;
pub(crate) const ORIGIN: u64 = 5;
/// 2024-01-10T00:00:00Z in milliseconds.
pub(crate) const START_MS: i64 = 1_704_844_800_000;

pub(crate) const PIPELINE: &str = "
CREATE STREAM events (
  user_id TEXT NOT NULL, kind TEXT, amount BIGINT, price DECIMAL(20, 2), at TIMESTAMPTZ NOT NULL
) WITH (topic = 'events', event_time = 'at', lateness = '1 hour', partitions = 3);
CREATE VIEW users AS
SELECT user_id, count(*) AS n, sum(amount) AS total, sum(price) AS revenue, max(at) AS newest,
       last_value(kind ORDER BY at) AS last_kind
FROM events GROUP BY user_id;
CREATE VIEW days AS
SELECT user_id, tumble(at, INTERVAL '1 day') AS day, count(*) AS n, avg(amount) AS average
FROM events GROUP BY 1, 2;
CREATE VIEW kinds AS SELECT kind, count(DISTINCT user_id) AS users FROM events GROUP BY kind;
CREATE VIEW everything AS SELECT count(*) AS n, min(amount) AS lowest, max(price) AS dearest FROM events;
CREATE VIEW actions AS SELECT user_id, array_agg(kind ORDER BY at) AS kinds FROM events GROUP BY user_id;
CREATE VIEW recent WITH (retention = '24 hours') AS
SELECT tumble(at, INTERVAL '1 hour') AS hour, count(*) AS n FROM events GROUP BY 1;
CREATE VIEW active AS SELECT n, count(*) AS users, max(total) AS most FROM users GROUP BY n;
";

/// Rows of each partition in offset order. The partitions of all streams are counted on: those of the first stream are 0,
/// 1 and 2, those of the second 3, 4 and 5.
pub(crate) type Log = BTreeMap<u32, RecordBatch>;

#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Snapshot>);

impl RealtimeStore for Held {
    fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap().clone()
    }
}

pub(crate) struct Platform {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) store: Arc<InMemory>,
    pub(crate) generations: Generations,
    pub(crate) realtime: Arc<Held>,
    pub(crate) serving: Serving,
}

impl Platform {
    pub(crate) async fn new(pipeline: &str) -> Self {
        Self::with_limits(pipeline, Limits::default()).await
    }

    pub(crate) async fn with_limits(pipeline: &str, limits: Limits) -> Self {
        let file = SourceFile {
            name: "test.sql".to_owned(),
            text: pipeline.to_owned(),
        };
        let catalog = Arc::new(
            Catalog::compile(&[file])
                .await
                .unwrap_or_else(|refusals| panic!("{}", refusals[0])),
        );
        let store = Arc::new(InMemory::new());
        let clock = ManualClock::new(START_MS + 86_400_000);
        let generations = Generations::new(store.clone(), Arc::new(clock.clone()), 60_000, 10);
        let realtime = Arc::new(Held::default());
        let topic = |stream: &Arc<Stream>| Topic {
            name: stream.topic.clone(),
            incarnation: Uuid::from_u128(1),
            partitions: PARTITIONS,
        };
        let topics: Vec<Topic> = catalog.streams().iter().map(topic).collect();
        let served = catalog
            .streams()
            .iter()
            .zip(&topics)
            .map(|(stream, topic)| ServedTopic {
                stream: Arc::clone(stream),
                topic: topic.clone(),
                origins: vec![Offset(ORIGIN); PARTITIONS as usize],
            });
        let serving = Serving::new(ServingParts {
            catalog: Arc::clone(&catalog),
            topics: served.collect(),
            generations: generations.clone(),
            realtime: realtime.clone(),
            archive: None,
            clock: Arc::new(clock.clone()),
            limits,
            workers: None,
        });
        Self {
            catalog,
            topics,
            store,
            generations,
            realtime,
            serving,
        }
    }

    /// The stream of a partition of a [`Log`].
    pub(crate) fn stream(&self, partition: u32) -> &Arc<Stream> {
        &self.catalog.streams()[(partition / PARTITIONS) as usize]
    }

    pub(crate) fn fold(&self, view: &str) -> Arc<Fold> {
        match &self.catalog.view(view).unwrap().kind {
            ViewKind::Fold(fold) => Arc::clone(fold),
            ViewKind::Derived(_) => panic!("{view} is no fold"),
        }
    }

    /// Id, name and fold of every view over `stream`.
    fn folds(&self, stream: &Stream) -> Vec<(String, String, Arc<Fold>)> {
        let folds = self.catalog.folds_of(&stream.name).into_iter();
        folds
            .map(|(view, fold)| (view.id.clone(), view.name.clone(), fold))
            .collect()
    }

    pub(crate) fn partition(&self, number: u32) -> TopicPartition {
        self.topics[(number / PARTITIONS) as usize].partition(number % PARTITIONS)
    }

    /// Publishes a generation at `cuts`, with one partial per event date, but for the views called `without`.
    pub(crate) async fn publish(&self, log: &Log, cuts: &BTreeMap<u32, u64>, without: &[&str]) -> Arc<Generation> {
        let mut below: BTreeMap<&str, Vec<RecordBatch>> = BTreeMap::new();
        for (partition, cut) in cuts {
            let rows = between(&log[partition], 0..*cut);
            below.entry(&self.stream(*partition).name).or_default().push(rows);
        }
        let streams = self.catalog.streams().iter();
        let folds = streams.flat_map(|stream| self.folds(stream));
        let mut views = BTreeMap::new();
        for (id, name, fold) in folds.filter(|(_, name, _)| !without.contains(&name.as_str())) {
            let mut dates = Vec::new();
            let below = below.get(fold.stream().name.as_str());
            for (date, rows) in below.map(|below| by_date(fold.stream(), below)).unwrap_or_default() {
                let bytes = fold.partial(&rows).await.unwrap();
                let keys = bytes.keys() as u64;
                let bytes = bytes.encode().unwrap();
                let path = format!("views/{}/{}", name, Uuid::new_v4());
                let (size, crc32) = (bytes.len() as u64, crc32fast::hash(&bytes));
                self.store.put(&path.as_str().into(), bytes.into()).await.unwrap();
                dates.push(DatePartial {
                    date,
                    path,
                    keys,
                    bytes: size,
                    crc32,
                });
            }
            views.insert(id, BatchView { name, dates });
        }
        let partitions = cuts.iter().map(|(partition, cut)| PartitionCut {
            partition: self.partition(*partition),
            next: Offset(*cut),
            marks: marks(self.stream(*partition), &log[partition], *cut),
        });
        let draft = Draft {
            attempt: Uuid::new_v4(),
            cut: Cut {
                tick: Some(Tick(START_MS)),
                partitions: partitions.collect(),
            },
            views,
            failed: BTreeMap::new(),
            kind: RunKind::Full,
            based_on: None,
        };
        let base = self.generations.current();
        self.generations.publish(base.as_deref(), draft).await.unwrap()
    }

    /// Shows segments that meet at `bounds` in each partition, but for the views called `without`.
    pub(crate) async fn fold_speed(&self, log: &Log, bounds: &BTreeMap<u32, Vec<u64>>, without: &[&str]) {
        let mut partitions = BTreeMap::new();
        for (partition, bounds) in bounds {
            let mut segments = Vec::new();
            for pair in bounds.windows(2) {
                let rows = between(&log[partition], pair[0]..pair[1]);
                let half = rows.num_rows() / 2;
                let mut views = std::collections::HashMap::new();
                for (id, name, fold) in self.folds(self.stream(*partition)) {
                    if without.contains(&name.as_str()) {
                        continue;
                    }
                    let mut partials = Vec::new();
                    for rows in [rows.slice(0, half), rows.slice(half, rows.num_rows() - half)] {
                        if rows.num_rows() > 0 {
                            partials.push(fold.partial(&rows).await.unwrap());
                        }
                    }
                    views.insert(id, Partials::Held(partials));
                }
                segments.push(Arc::new(Segment {
                    offsets: Offset(pair[0])..Offset(pair[1]),
                    ticks: (Tick(START_MS), Tick(START_MS)),
                    views,
                    failed: std::collections::HashMap::new(),
                    marks: marks(self.stream(*partition), &log[partition], pair[1]),
                }));
            }
            let until = Offset(*bounds.last().unwrap());
            let view = PartitionView {
                segments,
                until,
                read_to: until,
                end: until,
                complete_to: Some(RecordTime(START_MS + 86_400_000 - 1500)),
                replaying_to: None,
                stopped: None,
            };
            partitions.insert(self.partition(*partition), Arc::new(view));
        }
        *self.realtime.0.lock().unwrap() = Snapshot { partitions };
    }

    /// Says why `view` is missing in every segment that it is missing in.
    pub(crate) fn fail_in_speed(&self, view: &str, reason: &str) {
        let id = &self.catalog.view(view).unwrap().id;
        let mut snapshot = self.realtime.0.lock().unwrap();
        for partition in snapshot.partitions.values_mut() {
            for segment in &mut Arc::make_mut(partition).segments {
                if !segment.views.contains_key(id) {
                    Arc::make_mut(segment).failed.insert(id.clone(), reason.to_owned());
                }
            }
        }
    }

    /// A generation at `cuts`, and behind it a chain of segments up to `untils`; some below it, too.
    pub(crate) async fn seam_at(&self, log: &Log, cuts: &BTreeMap<u32, u64>, untils: &BTreeMap<u32, u64>, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bounds = BTreeMap::new();
        for (partition, until) in untils {
            let cut = cuts.get(partition).copied().unwrap_or(ORIGIN);
            let mut at = vec![cut, *until];
            for _ in 0..random.random_range(0..4) {
                at.push(random.random_range(cut..=*until));
            }
            if cut > ORIGIN {
                at.push(random.random_range(ORIGIN..=cut));
            }
            at.sort_unstable();
            at.dedup();
            bounds.insert(*partition, at);
        }
        self.publish(log, cuts, &[]).await;
        self.fold_speed(log, &bounds, &[]).await;
    }

    /// What plain SQL says about the rows below `untils`.
    pub(crate) async fn plain(&self, view: &str, log: &Log, untils: &BTreeMap<u32, u64>) -> RecordBatch {
        let rows: Vec<RecordBatch> = untils
            .iter()
            .map(|(partition, until)| between(&log[partition], 0..*until))
            .collect();
        self.fold(view).plain(&rows).await.unwrap()
    }
}

pub(crate) fn at(pairs: &[(u32, u64)]) -> BTreeMap<u32, u64> {
    pairs.iter().copied().collect()
}

/// `count` random rows in each partition, from the origin on, with holes in the offsets. Returns the ends as well.
pub(crate) fn random_log(catalog: &Catalog, seed: u64, count: usize, users: u32) -> (Log, BTreeMap<u32, u64>) {
    let mut random = StdRng::seed_from_u64(seed);
    let schema = catalog.streams()[0].table_schema();
    let (mut log, mut ends) = (Log::new(), BTreeMap::new());
    for partition in 0..PARTITIONS {
        let mut offset = ORIGIN;
        let mut lines = String::new();
        for _ in 0..count {
            offset += u64::from(random.random_range(0..20u32) == 0);
            lines.push_str(&line(&mut random, partition, offset, users));
            offset += 1;
        }
        log.insert(partition, rows(&schema, &lines));
        ends.insert(partition, offset);
    }
    (log, ends)
}

fn line(random: &mut StdRng, partition: u32, offset: u64, users: u32) -> String {
    let mut pick = |below: u32| random.random_range(0..below);
    let (user, kind, amount, price) = (pick(users), pick(5), pick(9), pick(1000));
    let second = pick(3 * 86_400) / 600 * 600;
    let at = DateTime::from_timestamp_millis(START_MS + i64::from(second) * 1000).unwrap();
    let amount = match amount {
        0 => "null".to_owned(),
        1 => (i64::MAX / 1000).to_string(),
        amount => (i64::from(amount) * 1001 - 4000).to_string(),
    };
    let kind = match kind {
        0 => "null".to_owned(),
        kind => format!("\"{}\"", ["", "view", "cart", "buy", "it's"][kind as usize]),
    };
    let (late, duplicate) = (pick(9) == 0, pick(11) == 0);
    format!(
        "{{\"user_id\":\"u{user}\",\"kind\":{kind},\"amount\":{amount},\"price\":\"{}.{:02}\",\"at\":\"{}\",\
         \"_topic\":\"events\",\"_partition\":{partition},\"_offset\":{offset},\"_record_time\":\"2024-01-10T00:00:00Z\",\
         \"_late\":{late},\"_duplicate\":{duplicate}}}\n",
        u64::from(price) * 1_000_000_000,
        price % 100,
        at.to_rfc3339(),
    )
}

pub(crate) fn rows(schema: &SchemaRef, lines: &str) -> RecordBatch {
    let reader = arrow_json::ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(1 << 20)
        .build(Cursor::new(lines))
        .unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    concat_batches(schema, &batches).unwrap()
}

pub(crate) fn between(rows: &RecordBatch, offsets: Range<u64>) -> RecordBatch {
    let column = rows.column_by_name("_offset").unwrap().as_primitive::<Int64Type>();
    let wanted = column
        .iter()
        .map(|offset| offset.map(|offset| offsets.contains(&(offset as u64))));
    filter_record_batch(rows, &wanted.collect()).unwrap()
}

fn marks(stream: &Stream, rows: &RecordBatch, until: u64) -> MarkState {
    let below = between(rows, 0..until);
    MarkState {
        record_time: None,
        max_event_time: event_times(stream, &below).into_iter().max(),
    }
}

/// Microseconds since 1970.
pub(crate) fn event_times(stream: &Stream, rows: &RecordBatch) -> Vec<i64> {
    let name = stream.event_time.as_deref().unwrap_or(system_columns::RECORD_TIME);
    let times = cast(
        rows.column_by_name(name).unwrap(),
        &DataType::Timestamp(TimeUnit::Microsecond, None),
    );
    times
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>()
        .values()
        .to_vec()
}

fn by_date(stream: &Stream, batches: &[RecordBatch]) -> BTreeMap<NaiveDate, RecordBatch> {
    let all = concat_batches(&batches[0].schema(), batches).unwrap();
    let date = |micros: &i64| DateTime::from_timestamp_micros(*micros).unwrap().date_naive();
    let dates_of_rows: Vec<NaiveDate> = event_times(stream, &all).iter().map(date).collect();
    let dates: std::collections::BTreeSet<NaiveDate> = dates_of_rows.iter().copied().collect();
    let of_date = |wanted: NaiveDate| {
        let wanted = dates_of_rows.iter().map(|date| Some(*date == wanted)).collect();
        filter_record_batch(&all, &wanted).unwrap()
    };
    dates.into_iter().map(|date| (date, of_date(date))).collect()
}
