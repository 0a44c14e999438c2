//! What goes wrong with simpler ways to keep realtime views in a shared store, and that the same checks find it: counters,
//! rows that are overwritten, and flushes of what changed since a checkpoint.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, BinaryArray};
use arrow::compute::{and, filter_record_batch};
use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{Cut, Offset, TopicPartition};
use foldline_speed_layer::shared::memory::MemoryStore;
use foldline_speed_layer::shared::{Head, Rank, Reader, ReaderSettings, SharedStore, StoreError, Stored, Versions};
use foldline_sql::{Fold, Partial, ViewKind};
use uuid::Uuid;

use super::{Node, PATIENCE, Watcher};
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
}

/// A store as it would be for a variant: rows are changed on their way in.
struct Varied {
    world: Arc<World>,
    variant: Variant,
    inner: MemoryStore,
    /// What the newest record covers.
    covered: Mutex<Offset>,
    seen: Mutex<HashSet<Uuid>>,
    checkpoint: Mutex<Option<Offset>>,
    lose_replies: AtomicBool,
    refuse_records: AtomicBool,
}

impl std::fmt::Debug for Varied {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.variant)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no reply came")]
struct NoReply;

fn no_reply() -> StoreError {
    StoreError::Unavailable {
        attempted: "do what was asked",
        source: Box::new(NoReply),
    }
}

impl Varied {
    fn new(world: &Arc<World>, variant: Variant) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            variant,
            inner: MemoryStore::default(),
            covered: Mutex::new(Offset(0)),
            seen: Mutex::default(),
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
        let new = self.partial(&fold, covered, versions.until).await.to_rows().unwrap();
        let mut states: Vec<Vec<u8>> = Vec::new();
        for row in 0..versions.keys.len() {
            let key = versions.keys.value(row);
            let behind = [key, &[0]].concat();
            let segment = [versions.segment];
            let held = self
                .inner
                .read(&versions.view, versions.buckets[row], &segment, key, &behind)
                .await?;
            let state = match held.first() {
                None => versions.states.value(row).to_vec(),
                Some(held) => {
                    let mut partials = vec![Partial::from_rows(&fold, [held.state.as_ref()]).unwrap()];
                    if let Some(at) = (0..new.keys.len()).find(|at| new.keys.value(*at) == key) {
                        partials.push(Partial::from_rows(&fold, [new.states.value(at)]).unwrap());
                    }
                    let sum = fold.merge(&partials).await.unwrap().to_rows().unwrap();
                    sum.states.value(0).to_vec()
                }
            };
            states.push(state);
        }
        let counted = Versions {
            until: Offset(0),
            states: BinaryArray::from_iter_values(states),
            ..versions.clone()
        };
        self.inner.write(&counted).await
    }

    async fn write_since(&self, versions: &Versions) -> Result<(), StoreError> {
        let checkpoint = *self.checkpoint.lock().unwrap();
        let Some(checkpoint) = checkpoint.filter(|_| self.seen.lock().unwrap().contains(&versions.segment)) else {
            return self.inner.write(versions).await;
        };
        let fold = self.fold(&versions.view);
        let new = self.partial(&fold, checkpoint, versions.until).await.to_rows().unwrap();
        let changed: HashSet<&[u8]> = new.keys.iter().flatten().collect();
        let rows: Vec<usize> = (0..versions.keys.len())
            .filter(|row| changed.contains(versions.keys.value(*row)))
            .collect();
        let some = Versions {
            buckets: rows.iter().map(|row| versions.buckets[*row]).collect(),
            keys: BinaryArray::from_iter_values(rows.iter().map(|row| versions.keys.value(*row))),
            states: BinaryArray::from_iter_values(rows.iter().map(|row| versions.states.value(*row))),
            ..versions.clone()
        };
        self.inner.write(&some).await
    }
}

#[async_trait]
impl SharedStore for Varied {
    async fn write(&self, versions: &Versions) -> Result<(), StoreError> {
        match self.variant {
            Variant::Versions => self.inner.write(versions).await?,
            Variant::Overwritten => self.overwrite(versions).await?,
            Variant::Counters => self.count(versions).await?,
            Variant::SinceCheckpoint => self.write_since(versions).await?,
        }
        if self.checkpoint.lock().unwrap().is_none() {
            self.seen.lock().unwrap().insert(versions.segment);
        }
        match self.lose_replies.load(Ordering::SeqCst) {
            true => Err(no_reply()),
            false => Ok(()),
        }
    }

    async fn read(
        &self,
        view: &str,
        bucket: i32,
        segments: &[Uuid],
        from: &[u8],
        until: &[u8],
    ) -> Result<Vec<Stored>, StoreError> {
        self.inner.read(view, bucket, segments, from, until).await
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

/// What happens to every store. Panics where an answer is none of a prefix of the log.
async fn happens(world: Arc<World>, varied: Arc<Varied>, trouble: bool) {
    let cut = Cut::default();
    let store: Arc<dyn SharedStore> = Arc::clone(&varied) as _;
    let mut node = Node::start(&world, &store, "one", &cut).await;
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
