//! What goes wrong with simpler ways to keep realtime views in a shared store, and that the same checks find it: counters,
//! rows that are overwritten, and flushes of what changed since a checkpoint.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray};
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{Cut, Offset, TopicPartition};
use foldline_speed_layer::Gaps;
use foldline_speed_layer::shared::memory::MemoryStore;
use foldline_speed_layer::shared::{
    Cell, Head, Rank, Reader, ReaderSettings, SharedStore, StoreError, Stored, Versions, Wanted, Writer, WriterSettings,
};
use foldline_sql::{Fold, KeyLookup, Partial, ViewKind};
use uuid::Uuid;

use super::faults::no_reply;
use super::{Node, PATIENCE, Watcher, writer_settings};
use crate::world::{STREAM, VIEWS, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// As it is.
    Versions,
    /// One row for each key and segment, which every flush overwrites.
    Overwritten,
    /// The same, to which every flush adds what is new.
    Counters,
    /// After a start, only what changed since the checkpoint is written.
    SinceCheckpoint,
    /// Each session is a row of its own, under the start that it has.
    StartInKey,
}

/// A store as it would be for a variant: rows are changed on their way in.
struct Varied {
    world: Arc<World>,
    variant: Variant,
    inner: MemoryStore,
    /// What the newest record covers.
    covered: Mutex<Offset>,
    checkpoint: Mutex<Option<Offset>>,
    lose_replies: AtomicBool,
    refuse_records: AtomicBool,
}

impl std::fmt::Debug for Varied {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.variant)
    }
}

impl Varied {
    fn new(world: &Arc<World>, variant: Variant) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            variant,
            inner: MemoryStore::default(),
            covered: Mutex::new(Offset(0)),
            checkpoint: Mutex::new(None),
            lose_replies: AtomicBool::new(false),
            refuse_records: AtomicBool::new(false),
        })
    }

    fn fold(&self, id: &str) -> Arc<Fold> {
        let view = self.world.catalog.views().iter().find(|view| view.id == id).unwrap();
        match &view.kind {
            ViewKind::Fold(fold) => Arc::clone(fold),
            ViewKind::Derived(_) => panic!("no fold"),
        }
    }

    /// What of a user's sessions came last under each start: at every offset that one of them was written at, all that
    /// there are by then, as a reader of such rows would gather them.
    async fn sessions(&self, versions: &[Stored], fold: &Fold) -> Vec<Stored> {
        let mut users: BTreeMap<(Uuid, Bytes), BTreeMap<Offset, BTreeMap<i64, Bytes>>> = BTreeMap::new();
        for version in versions {
            let partial = Partial::from_rows(fold, [version.cell.state.as_ref()]).unwrap();
            let starts = partial
                .batch()
                .column_by_name(fold.state_schema().field(1).name())
                .unwrap();
            let starts = starts.as_primitive::<TimestampMicrosecondType>().clone();
            let user = users.entry((version.segment, version.cell.key.clone())).or_default();
            for row in 0..partial.keys() {
                let one = KeyLookup::new(vec![(1, partial.batch().column(1).slice(row, 1))]).unwrap();
                let one = partial.lookup(&one).unwrap().unwrap().to_rows(fold).unwrap();
                let state = Bytes::copy_from_slice(one.states.value(0));
                user.entry(version.until).or_default().insert(starts.value(row), state);
            }
        }
        let mut gathered = Vec::new();
        for ((segment, key), by_until) in users {
            let mut newest: BTreeMap<i64, Bytes> = BTreeMap::new();
            for (until, sessions) in by_until {
                newest.extend(sessions);
                let partial = Partial::from_rows(fold, newest.values().map(Bytes::as_ref)).unwrap();
                let rows = partial.to_rows(fold).unwrap();
                gathered.push(Stored {
                    segment,
                    until,
                    cell: Cell {
                        bucket: versions[0].cell.bucket,
                        key: key.clone(),
                        chunk: 0,
                        chunks: 1,
                        state: Bytes::copy_from_slice(rows.states.value(0)),
                    },
                });
            }
        }
        gathered
    }

    /// The partial of the rows `from..until` of the only partition.
    async fn partial(&self, fold: &Fold, from: Offset, until: Offset) -> Partial {
        let partition = &self.world.partitions()[0];
        let mut partials = vec![Partial::empty(fold)];
        for batch in self.world.batches(partition).await.iter() {
            let offsets = batch.rows.column_by_name("_offset").unwrap();
            let bound = |offset: Offset| arrow::array::Int64Array::new_scalar(offset.0 as i64);
            let after = arrow::compute::kernels::cmp::gt_eq(offsets, &bound(from)).unwrap();
            let before = arrow::compute::kernels::cmp::lt(offsets, &bound(until)).unwrap();
            let rows = filter_record_batch(&batch.rows, &and(&after, &before).unwrap()).unwrap();
            partials.push(fold.partial(&rows).await.unwrap());
        }
        fold.merge(&partials).await.unwrap()
    }

    async fn overwrite(&self, versions: &Versions) -> Result<(), StoreError> {
        let overwriting = Versions {
            until: Offset(0),
            ..versions.clone()
        };
        self.inner.write(&overwriting).await
    }

    async fn count(&self, versions: &Versions) -> Result<(), StoreError> {
        let fold = self.fold(&versions.view);
        let covered = *self.covered.lock().unwrap();
        let new = self.partial(&fold, covered, versions.until).await;
        let new = new.to_rows(&fold).unwrap();
        let mut cells: Vec<Cell> = Vec::new();
        for cell in &versions.cells {
            let behind = [&cell.key, &[0][..]].concat();
            let wanted = Wanted {
                view: &versions.view,
                bucket: cell.bucket,
                segments: &[versions.segment],
                from: &cell.key,
                until: &behind,
                cell_bytes: 1 << 20,
            };
            let held = self.inner.read(wanted).await?;
            let state = match held.first() {
                None => cell.state.clone(),
                Some(held) => {
                    let mut partials = vec![Partial::from_rows(&fold, [held.cell.state.as_ref()]).unwrap()];
                    if let Some(at) = (0..new.keys.len()).find(|at| new.keys.value(*at) == cell.key) {
                        partials.push(Partial::from_rows(&fold, [new.states.value(at)]).unwrap());
                    }
                    let sum = fold.merge(&partials).await.unwrap().to_rows(&fold).unwrap();
                    sum.states.value(0).to_vec().into()
                }
            };
            cells.push(Cell { state, ..cell.clone() });
        }
        let counted = Versions {
            until: Offset(0),
            cells,
            ..versions.clone()
        };
        self.inner.write(&counted).await
    }

    async fn write_since(&self, versions: &Versions) -> Result<(), StoreError> {
        let checkpoint = *self.checkpoint.lock().unwrap();
        let Some(checkpoint) = checkpoint else {
            return self.inner.write(versions).await;
        };
        let fold = self.fold(&versions.view);
        let new = self.partial(&fold, checkpoint, versions.until).await;
        let new = new.to_rows(&fold).unwrap();
        let changed: HashSet<&[u8]> = new.keys.iter().flatten().collect();
        let mut some = versions.clone();
        some.cells.retain(|cell| changed.contains(cell.key.as_ref()));
        self.inner.write(&some).await
    }
}

#[async_trait]
impl SharedStore for Varied {
    async fn write(&self, versions: &Versions) -> Result<(), StoreError> {
        match self.variant {
            Variant::Versions | Variant::StartInKey => self.inner.write(versions).await?,
            Variant::Overwritten => self.overwrite(versions).await?,
            Variant::Counters => self.count(versions).await?,
            Variant::SinceCheckpoint => self.write_since(versions).await?,
        }
        match self.lose_replies.load(Ordering::SeqCst) {
            true => Err(no_reply()),
            false => Ok(()),
        }
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Vec<Stored>, StoreError> {
        let found = self.inner.read(wanted).await?;
        match self.variant {
            Variant::StartInKey => Ok(self.sessions(&found, &self.fold(wanted.view)).await),
            _ => Ok(found),
        }
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
        if self.refuse_records.load(Ordering::SeqCst) {
            return Err(no_reply());
        }
        self.inner.cover(partition, head, says).await?;
        *self.covered.lock().unwrap() = head.rank.until;
        Ok(())
    }

    async fn retire(&self, partition: &TopicPartition, rank: Rank) -> Result<(), StoreError> {
        self.inner.retire(partition, rank).await
    }
}

/// Variants take whole states alone.
fn writer(world: &World, store: &Arc<dyn SharedStore>) -> Writer {
    let settings = WriterSettings {
        chunk_bytes: 1 << 20,
        ..writer_settings()
    };
    let clock = Arc::new(world.clock.clone());
    Writer::new(Arc::clone(store), &world.catalog, Gaps::new(), clock, settings)
}

/// What happens to every store. Panics where an answer is none of a prefix of the log.
async fn happens(world: Arc<World>, varied: Arc<Varied>, trouble: bool) {
    let cut = Cut::default();
    let store: Arc<dyn SharedStore> = Arc::clone(&varied) as _;
    let mut node = Node::start(&world, &store, "one", &cut).await;
    node.writer = writer(&world, &store);
    let settings = ReaderSettings {
        every: PATIENCE,
        silent: PATIENCE,
        cache_bytes: 0,
    };
    let reader = Reader::new(Arc::clone(&store), &world.catalog, world.partitions(), settings);
    let mut watcher = Watcher::new(reader);
    let more = async |node: &Node| {
        world.append(6, 20).await;
        node.catch_up(&world).await;
    };
    for _ in 0..3 {
        more(&node).await;
        node.flush().await;
        watcher.look(&world, &cut).await;
    }
    if !trouble {
        return drop(node.running.end().await);
    }
    // A reader between the rows and the record.
    more(&node).await;
    varied.refuse_records.store(true, Ordering::SeqCst);
    assert!(!node.flush().await);
    varied.refuse_records.store(false, Ordering::SeqCst);
    watcher.look(&world, &cut).await;
    node.flush().await;
    watcher.look(&world, &cut).await;
    // Done, and nobody says so.
    more(&node).await;
    varied.lose_replies.store(true, Ordering::SeqCst);
    assert!(!node.flush().await);
    varied.lose_replies.store(false, Ordering::SeqCst);
    node.flush().await;
    watcher.look(&world, &cut).await;
    // A checkpoint that is further than the store.
    more(&node).await;
    let until = world.ends().await[&world.partitions()[0]];
    let mut node = node.crash(&world, &store, &cut, None).await;
    node.writer = writer(&world, &store);
    *varied.checkpoint.lock().unwrap() = Some(until);
    world.append(1, 20).await;
    node.catch_up(&world).await;
    node.flush().await;
    watcher.look(&world, &cut).await;
    node.running.end().await;
}

/// What was found, if something was.
async fn found(variant: Variant, trouble: bool) -> Option<String> {
    let stream = STREAM.replace("partitions = 3", "partitions = 1");
    let world = Arc::new(World::new(&format!("{stream}{VIEWS}"), 71).await);
    let varied = Varied::new(&world, variant);
    let ended = tokio::spawn(happens(world, varied, trouble)).await;
    let panicked = ended.err()?.into_panic();
    Some(*panicked.downcast::<String>().expect("a check says what is wrong"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simpler_ways_are_found_out() {
    assert_eq!(found(Variant::Versions, true).await, None);
    for variant in [Variant::Overwritten, Variant::Counters, Variant::SinceCheckpoint] {
        assert_eq!(
            found(variant, false).await,
            None,
            "{variant:?} is right as long as nothing happens"
        );
        let said = found(variant, true)
            .await
            .unwrap_or_else(|| panic!("{variant:?} is not found out"));
        assert!(said.contains("at cut") || said.contains(" keys"), "{variant:?}: {said}");
    }
}

const VISITS: &str = "CREATE VIEW visits AS SELECT user_id, session(at, INTERVAL '5 seconds') AS visit, count(*) AS n
  FROM clicks GROUP BY 1, 2;";

/// Three clicks of a user, flushed one by one at these seconds. Panics where an answer is none of a prefix of the log.
async fn clicks_at(variant: Variant, seconds: [u32; 3]) {
    let stream = STREAM.replace("partitions = 3", "partitions = 1");
    let world = Arc::new(World::new(&format!("{stream}{VISITS}"), 72).await);
    let varied = Varied::new(&world, variant);
    let cut = Cut::default();
    let store: Arc<dyn SharedStore> = Arc::clone(&varied) as _;
    let mut node = Node::start(&world, &store, "one", &cut).await;
    node.writer = writer(&world, &store);
    let mut watcher = Watcher::new(super::reader(&world, &store));
    for second in seconds {
        let value = format!(
            "{{\"click_id\":\"{second}\",\"user_id\":\"u\",\"amount\":1,\"at\":\"2023-11-14T22:13:{second:02}\"}}"
        );
        let record = world.record("u", value);
        world.log.append(&world.topic.name, vec![record], None).await.unwrap();
        node.catch_up(&world).await;
        assert!(node.flush().await);
        assert!(watcher.look(&world, &cut).await);
    }
    node.running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_under_their_starts_are_found_out() {
    // In order; one that begins earlier than it seemed; two that become one.
    for seconds in [[10, 13, 20], [20, 16, 13], [10, 18, 14]] {
        clicks_at(Variant::Versions, seconds).await;
        let ended = tokio::spawn(clicks_at(Variant::StartInKey, seconds)).await;
        assert_eq!(ended.is_err(), !seconds.is_sorted(), "{seconds:?}");
        if let Err(panicked) = ended {
            let said = panicked.into_panic().downcast::<String>();
            assert!(said.is_ok_and(|said| said.contains("view visits")), "{seconds:?}");
        }
    }
}
