//! What writers leave behind that nobody named, or that comes later than anybody thought: it is in no answer, and it goes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{Cut, TopicPartition};
use foldline_speed_layer::shared::memory::MemoryStore;
use foldline_speed_layer::shared::{
    HEADS, Head, Rank, SharedStore, StoreError, Stored, Versions, Wanted, Writer, WriterSettings,
};
use foldline_speed_layer::{Gaps, Snapshot};
use uuid::Uuid;

use super::faults::no_reply;
use super::{Node, PATIENCE, Watcher, reader, writer_settings};
use crate::world::{SESSIONS, STREAM, VIEWS, World};

/// A sum comes back to what it was.
const SUMS: &str = "CREATE VIEW sums AS SELECT user_id, sum(amount) AS total FROM clicks GROUP BY user_id;";
const KEPT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Records {
    Pass,
    Refuse,
    /// Not stored until they are let go, and nobody knows.
    HoldBack,
}

/// A store in memory that does as it is told.
#[derive(Debug)]
struct Gate {
    inner: MemoryStore,
    records: Mutex<Records>,
    held_back: Mutex<Vec<(TopicPartition, Head, Vec<u8>)>>,
    /// So many writes more are made.
    writes: AtomicI64,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::default(),
            records: Mutex::new(Records::Pass),
            held_back: Mutex::default(),
            writes: AtomicI64::new(i64::MAX),
        })
    }

    fn set(&self, records: Records) {
        *self.records.lock().unwrap() = records;
    }

    async fn let_go(&self) {
        self.set(Records::Pass);
        let held_back = std::mem::take(&mut *self.held_back.lock().unwrap());
        for (partition, head, says) in held_back {
            self.inner.cover(&partition, &head, &says).await.unwrap();
        }
    }

    /// Whether all that is stored is of segments that the newest records name, or list as garbage.
    async fn all_spoken_of(&self, world: &World) -> bool {
        let spoken_of = self.spoken_of(world, &["segments", "garbage"]).await;
        self.inner.segments().is_subset(&spoken_of)
    }

    /// The segments in these lists of the newest records; none where there is no record.
    async fn spoken_of(&self, world: &World, lists: &[&str]) -> BTreeSet<Uuid> {
        let mut spoken_of = BTreeSet::new();
        for partition in world.partitions() {
            let Some(head) = self.inner.heads(&partition).await.unwrap().first().copied() else {
                continue;
            };
            let says = self.inner.record(&partition, &head).await.unwrap().unwrap();
            let says: serde_json::Value = serde_json::from_slice(&says).unwrap();
            for list in lists {
                let ids = says["record"][list].as_array().unwrap().iter();
                spoken_of.extend(ids.map(|one| one["id"].as_str().unwrap().parse::<Uuid>().unwrap()));
            }
        }
        spoken_of
    }
}

#[async_trait]
impl SharedStore for Gate {
    async fn write(&self, versions: &Versions) -> Result<(), StoreError> {
        if self.writes.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(StoreError::Damaged("no more".to_owned()));
        }
        self.inner.write(versions).await
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Vec<Stored>, StoreError> {
        self.inner.read(wanted).await
    }

    async fn remove(&self, view: &str, buckets: &[i32], segment: Uuid) -> Result<(), StoreError> {
        self.inner.remove(view, buckets, segment).await
    }

    async fn heads(&self, partition: &TopicPartition) -> Result<Vec<Head>, StoreError> {
        self.inner.heads(partition).await
    }

    async fn record(&self, partition: &TopicPartition, head: &Head) -> Result<Option<Bytes>, StoreError> {
        self.inner.record(partition, head).await
    }

    async fn cover(&self, partition: &TopicPartition, head: &Head, says: &[u8]) -> Result<(), StoreError> {
        let records = *self.records.lock().unwrap();
        match records {
            Records::Pass => self.inner.cover(partition, head, says).await,
            Records::Refuse => Err(no_reply()),
            Records::HoldBack => {
                let held_back = (partition.clone(), *head, says.to_vec());
                self.held_back.lock().unwrap().push(held_back);
                Err(no_reply())
            }
        }
    }

    async fn retire(&self, partition: &TopicPartition, rank: Rank) -> Result<(), StoreError> {
        self.inner.retire(partition, rank).await
    }
}

async fn world(seed: u64, views: &str) -> World {
    let stream = STREAM.replace("partitions = 3", "partitions = 1");
    World::new(&format!("{stream}{views}"), seed).await
}

async fn node(world: &World, gate: &Arc<Gate>, name: &str) -> Node {
    let store: Arc<dyn SharedStore> = Arc::clone(gate) as _;
    let mut node = Node::start(world, &store, name, &Cut::default()).await;
    let settings = WriterSettings {
        kept: KEPT,
        ..writer_settings()
    };
    let clock = Arc::new(world.clock.clone());
    node.writer = Writer::new(store, &world.catalog, Gaps::new(), clock, settings);
    node
}

/// On a busy machine a flush may take longer than it is believed.
async fn flushed(writer: &mut Writer, snapshot: &Snapshot) {
    let since = Instant::now();
    while !writer.flush(snapshot).await {
        assert!(since.elapsed() < PATIENCE);
    }
}

fn watcher(world: &World, gate: &Arc<Gate>) -> Watcher {
    let store: Arc<dyn SharedStore> = Arc::clone(gate) as _;
    Watcher::new(reader(world, &store))
}

/// What another process wrote and never named lies beside what this one goes on with; and a key that came back to the state
/// that the store has of it is not written again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_writer_never_named_is_in_no_answer() {
    let (world, gate) = (world(91, SUMS).await, Gate::new());
    let (mut one, mut two) = (node(&world, &gate, "one").await, node(&world, &gate, "two").await);
    let mut watcher = watcher(&world, &gate);
    let append = async |id: &str, amount: i64| {
        let value =
            format!("{{\"click_id\":\"{id}\",\"user_id\":\"u\",\"amount\":{amount},\"at\":\"2023-11-14T22:13:20\"}}");
        let record = world.record("u", value);
        world.log.append(&world.topic.name, vec![record], None).await.unwrap();
    };
    append("a", 1).await;
    one.catch_up(&world).await;
    assert!(one.flush().await);
    append("b", 5).await;
    two.catch_up(&world).await;
    gate.set(Records::Refuse);
    assert!(!two.flush().await);
    gate.set(Records::Pass);
    append("c", -5).await;
    one.catch_up(&world).await;
    assert!(one.flush().await);
    assert!(watcher.look(&world, &Cut::default()).await);
    assert_eq!(watcher.seen, world.ends().await);
    for node in [one, two] {
        node.running.end().await;
    }
}

/// A record that was on its way for longer than anything is kept: either what it names is there still, or it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_comes_late_brings_back_nothing_that_was_removed() {
    for records in [1, HEADS + 2] {
        let (world, gate) = (world(92, VIEWS).await, Gate::new());
        let (mut slow, mut heir) = (node(&world, &gate, "slow").await, node(&world, &gate, "heir").await);
        let mut watcher = watcher(&world, &gate);
        world.append(6, 10).await;
        slow.catch_up(&world).await;
        assert!(slow.flush().await);
        world.append(1, 10).await;
        heir.catch_up(&world).await;
        let behind = heir.running.layer.snapshot();
        world.append(6, 10).await;
        slow.catch_up(&world).await;
        gate.set(Records::HoldBack);
        assert!(!slow.flush().await);
        slow.running.end().await;
        gate.set(Records::Pass);
        flushed(&mut heir.writer, &behind).await;
        assert!(watcher.look(&world, &Cut::default()).await);
        tokio::time::sleep(KEPT).await;
        for _ in 0..records {
            flushed(&mut heir.writer, &behind).await;
        }
        let removed = heir.writer.written().removed;
        assert_eq!(
            removed > 0,
            records > HEADS,
            "{removed} segments after {records} records"
        );
        gate.let_go().await;
        let seen = watcher.look(&world, &Cut::default()).await;
        assert_eq!(seen, records == 1, "{:?}", watcher.reader.refused());
        heir.catch_up(&world).await;
        heir.is_flushed().await;
        assert!(
            watcher.look(&world, &Cut::default()).await,
            "{:?}",
            watcher.reader.refused()
        );
        assert_eq!(watcher.seen, world.ends().await);
        heir.running.end().await;
    }
}

/// Segments of flushes that failed halfway, of partitions that were given up, and of records that others outranked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_and_never_named_is_removed() {
    let (world, gate) = (world(93, &format!("{VIEWS}{SESSIONS}")).await, Gate::new());
    let mut one = node(&world, &gate, "one").await;
    let fail = async |node: &mut Node, writes: i64| {
        world.append(10, 15_000).await;
        node.catch_up(&world).await;
        gate.writes.store(writes, Ordering::SeqCst);
        assert!(!node.flush().await);
        gate.writes.store(i64::MAX, Ordering::SeqCst);
    };
    for writes in [1, 3, 9] {
        fail(&mut one, writes).await;
        assert!(!gate.all_spoken_of(&world).await, "after {writes} writes");
        one.is_flushed().await;
        assert!(gate.all_spoken_of(&world).await, "after {writes} writes");
    }
    // Half a flush, and the partition goes.
    fail(&mut one, 5).await;
    assert!(!gate.all_spoken_of(&world).await);
    one.writer.flush(&Snapshot::default()).await;
    assert!(gate.all_spoken_of(&world).await);

    // Two write upon the same record; the one whose record comes late is outranked.
    let mut two = node(&world, &gate, "two").await;
    two.catch_up(&world).await;
    gate.set(Records::HoldBack);
    assert!(!one.flush().await);
    gate.set(Records::Pass);
    two.is_flushed().await;
    two.is_flushed().await;
    gate.let_go().await;
    assert!(!gate.all_spoken_of(&world).await, "two have written the same");
    one.is_flushed().await;
    tokio::time::sleep(KEPT).await;
    for _ in 0..=HEADS {
        one.is_flushed().await;
    }
    let named = gate.spoken_of(&world, &["segments"]).await;
    assert!(gate.inner.segments().is_subset(&named), "what was garbage is gone, too");
    for node in [one, two] {
        node.running.end().await;
    }
}

/// A record of which nobody knows whether it is there is made again as it was, and gone on from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_did_not_arrive_is_made_again_and_nothing_else() {
    let (world, gate) = (world(94, VIEWS).await, Gate::new());
    let mut one = node(&world, &gate, "one").await;
    for _ in 0..3 {
        world.append(6, 10).await;
        one.catch_up(&world).await;
        gate.set(Records::Refuse);
        assert!(!one.flush().await);
        gate.set(Records::Pass);
        let before = one.writer.written();
        one.is_flushed().await;
        assert_eq!(one.writer.written().versions, before.versions, "it was all written");
    }
    let heads = gate.heads(&world.partitions()[0]).await.unwrap();
    assert!(heads.iter().all(|head| head.rank.era == 0), "{heads:?}");
    one.running.end().await;
}
