//! Figures of the shared store on Cassandra: FOLDLINE_KEYS (1,000,000) keys over 8 partitions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, new_null_array};
use foldline_event_log::{ManualClock, MarkState, Offset, Partition, Tick, TopicPartition};
use foldline_speed_layer::shared::cassandra::CassandraStore;
use foldline_speed_layer::shared::{Reader, ReaderSettings, StoredPartials, Writer, WriterSettings};
use foldline_speed_layer::{Gaps, Partials, PartitionView, RealtimeStore, Segment, Snapshot};
use foldline_sql::{Fold, KeyLookup, ViewKind};
use uuid::Uuid;

use super::writer_settings;
use crate::world::{START_MS, STREAM, catalog};

const PARTITIONS: u32 = 8;
const READS: usize = 2_000;
const VIEW: &str =
    "CREATE VIEW users AS SELECT user_id, count(*) AS n, sum(amount) AS total FROM clicks GROUP BY user_id;";

/// One row for each of `users`.
fn rows(fold: &Fold, users: std::ops::Range<usize>) -> RecordBatch {
    let stream = fold.stream().table_schema();
    let count = users.len();
    let columns = fold.input_columns().iter().map(|name| {
        let array: ArrayRef = match name.as_str() {
            "user_id" => Arc::new(StringArray::from_iter_values(
                users.clone().map(|user| format!("user-{user:08}")),
            )),
            "amount" => Arc::new(Int64Array::from_iter_values(users.clone().map(|user| user as i64))),
            "_late" | "_duplicate" => Arc::new(BooleanArray::from(vec![false; count])),
            other => new_null_array(stream.field_with_name(other).unwrap().data_type(), count),
        };
        (name.as_str(), array)
    });
    RecordBatch::try_from_iter(columns).unwrap()
}

fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn percentile(times: &mut [Duration], of: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * of) as usize]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, which take minutes"]
async fn cassandra_figures() {
    let Some(node) = super::cassandra::node() else { return };
    let keys: usize = std::env::var("FOLDLINE_KEYS").map_or(1_000_000, |keys| keys.parse().unwrap());
    let catalog = catalog(&format!("{STREAM}{VIEW}")).await;
    let view = Arc::clone(&catalog.views()[0]);
    let ViewKind::Fold(fold) = &view.kind else {
        panic!("a fold")
    };
    let store = CassandraStore::open(super::cassandra::settings(&node)).await.unwrap();
    let store: Arc<dyn foldline_speed_layer::shared::SharedStore> = Arc::new(store);
    let incarnation = Uuid::new_v4();
    let mut snapshot = Snapshot::default();
    let each = keys / PARTITIONS as usize;
    for number in 0..PARTITIONS {
        let from = number as usize * each;
        let partial = fold.partial(&rows(fold, from..from + each)).await.unwrap();
        let until = Offset(each as u64);
        let segment = Segment {
            offsets: Offset(0)..until,
            ticks: (Tick(START_MS), Tick(START_MS)),
            views: [(view.id.clone(), Partials::Held(vec![partial]))].into(),
            failed: Default::default(),
            marks: MarkState::default(),
        };
        let partition = TopicPartition {
            topic: "clicks".to_owned(),
            incarnation,
            partition: Partition(number),
        };
        let view = PartitionView {
            segments: vec![Arc::new(segment)],
            until,
            read_to: until,
            end: until,
            complete_to: None,
            replaying_to: None,
            stopped: None,
        };
        snapshot.partitions.insert(partition, Arc::new(view));
    }
    let clock = Arc::new(ManualClock::new(START_MS));
    let settings = WriterSettings {
        kept: Duration::from_secs(3_600),
        ..writer_settings()
    };
    let mut writer = Writer::new(Arc::clone(&store), &catalog, Gaps::new(), clock, settings);
    let (since, before) = (Instant::now(), processor_seconds());
    assert!(writer.flush(&snapshot).await);
    let (took, spent) = (since.elapsed().as_secs_f64(), processor_seconds() - before);
    let written = writer.written();
    println!(
        "{} states, {} MB, in {took:.1} s: {:.0}/s; {:.1} processor seconds per million states, client",
        written.versions,
        written.bytes / 1_000_000,
        written.versions as f64 / took,
        spent * 1e6 / written.versions as f64,
    );

    let settings = ReaderSettings {
        every: Duration::from_millis(250),
        silent: Duration::from_secs(3_600),
        cache_bytes: 1 << 30,
    };
    let reader = Reader::new(
        Arc::clone(&store),
        &catalog,
        snapshot.partitions.keys().cloned(),
        settings,
    );
    reader.poll().await.unwrap();
    let shown = reader.snapshot();
    let stored: Vec<_> = shown
        .partitions
        .values()
        .flat_map(|view| &view.segments)
        .map(|segment| match &segment.views[&view.id] {
            Partials::Stored(stored) => Arc::clone(stored),
            Partials::Held(_) => panic!("stored"),
        })
        .collect();
    let mut times = Vec::new();
    for read in 0..READS {
        reader.poll().await.unwrap();
        let user = (read * 7_919 + 13) % (each * PARTITIONS as usize);
        let key = KeyLookup::new(vec![(
            0,
            Arc::new(StringArray::from(vec![format!("user-{user:08}")])) as ArrayRef,
        )]);
        let since = Instant::now();
        let found = StoredPartials::fetch(&stored, &[key.unwrap()]).await.unwrap();
        let rows = fold.finish(&found).await.unwrap();
        times.push(since.elapsed());
        assert_eq!(rows.num_rows(), 1);
    }
    // The first ones warm the server up.
    let warm = &mut times[READS / 4..];
    let (p50, p99) = (percentile(warm, 0.5), percentile(warm, 0.99));
    println!("point read over {} segments: p50 {p50:?}, p99 {p99:?}", stored.len());
    let since = Instant::now();
    let all = StoredPartials::fetch(&stored, &[KeyLookup::default()]).await.unwrap();
    let found: usize = all.iter().map(foldline_sql::Partial::keys).sum();
    println!("all {found} keys in {:.1} s", since.elapsed().as_secs_f64());
    let since = Instant::now();
    StoredPartials::fetch(&stored, &[KeyLookup::default()]).await.unwrap();
    println!("again, from memory, in {:?}", since.elapsed());
}
