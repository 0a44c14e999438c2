//! Realtime views in a shared store: any prefix of the log, never anything else, whatever fails or overlaps.

mod cassandra;
mod faults;
mod leftovers;
mod variants;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StringArray};
use foldline_event_log::{Cut, Offset, Tick, TopicPartition};
use foldline_speed_layer::shared::memory::MemoryStore;
use foldline_speed_layer::shared::{
    ONE_BUCKET, Reader, ReaderSettings, Room, SharedStore, StoreError, StoredPartials, Writer, WriterSettings, contract,
};
use foldline_speed_layer::{Gaps, Partials, PartitionView, RealtimeStore, Segment, Snapshot, SpeedSettings};
use foldline_sql::{Catalog, KeyLookup, ViewKind};
use rand::RngExt;

use self::faults::{Faulty, Patient, Rates};
use crate::world::{Running, SESSIONS, STREAM, VIEWS, World};

const STEPS: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(60);

fn writer_settings() -> WriterSettings {
    WriterSettings {
        every: Duration::from_millis(20),
        alive: Duration::ZERO,
        kept: Duration::from_secs(3),
        rewrite_after: Duration::from_secs(7 * 24 * 3600),
        // Most states are larger.
        chunk_bytes: 24,
    }
}

/// As much as there is.
struct Endless;

impl Room for Endless {
    fn take(&self, _: usize) -> Result<(), StoreError> {
        Ok(())
    }

    fn give_back(&self, _: usize) {}
}

fn writer(world: &World, store: &Arc<dyn SharedStore>, gaps: Gaps) -> Writer {
    let clock = Arc::new(world.clock.clone());
    Writer::new(Arc::clone(store), &world.catalog, gaps, clock, writer_settings())
}

fn reader(world: &World, store: &Arc<dyn SharedStore>) -> Reader {
    let settings = ReaderSettings {
        every: Duration::from_millis(50),
        silent: PATIENCE,
        // Not all of it: what is kept is not asked for again.
        cache_bytes: 8 << 10,
    };
    Reader::new(Arc::clone(store), &world.catalog, world.partitions(), settings)
}

/// `snapshot` with all partials in memory.
async fn held(snapshot: &Snapshot) -> Result<Snapshot, StoreError> {
    let mut partitions = BTreeMap::new();
    for (partition, view) in &snapshot.partitions {
        let mut segments = Vec::new();
        for segment in &view.segments {
            let mut whole = Segment::clone(segment);
            for partials in whole.views.values_mut() {
                let Partials::Stored(stored) = &*partials else {
                    panic!("a shared store holds nothing in memory")
                };
                let fetched = StoredPartials::fetch(&[Arc::clone(stored)], &[KeyLookup::default()], &Endless).await?;
                *partials = Partials::Held(fetched);
            }
            segments.push(Arc::new(whole));
        }
        let view = PartitionView {
            segments,
            ..PartitionView::clone(view)
        };
        partitions.insert(partition.clone(), Arc::new(view));
    }
    Ok(Snapshot { partitions })
}

/// What is fetched for one user is what is looked up in everything.
async fn assert_points_agree(catalog: &Catalog, snapshot: &Snapshot, held: &Snapshot) -> Result<(), StoreError> {
    for view in catalog.views() {
        let ViewKind::Fold(fold) = &view.kind else { continue };
        let Some(place) = fold.key_of_output("user_id") else {
            continue;
        };
        let one =
            |user: &str| KeyLookup::new(vec![(place, Arc::new(StringArray::from(vec![user])) as ArrayRef)]).unwrap();
        for keys in [vec![one("user-3")], vec![one("user-0"), one("user-7"), one("nobody")]] {
            let (mut stored, mut wanted) = (Vec::new(), Vec::new());
            for (partition, view_of) in &snapshot.partitions {
                for (segment, whole) in view_of.segments.iter().zip(&held.partitions[partition].segments) {
                    let Partials::Stored(partials) = &segment.views[&view.id] else {
                        panic!()
                    };
                    stored.push(Arc::clone(partials));
                    for partial in whole.views[&view.id].held().unwrap() {
                        wanted.extend(keys.iter().filter_map(|key| partial.lookup(key).unwrap()));
                    }
                }
            }
            let fetched = StoredPartials::fetch(&stored, &keys, &Endless).await?;
            let found: Vec<_> = fetched
                .iter()
                .flat_map(|partial| keys.iter().filter_map(|key| partial.lookup(key).unwrap()))
                .collect();
            assert_eq!(
                fold.finish(&found).await.unwrap(),
                fold.finish(&wanted).await.unwrap(),
                "{keys:?}"
            );
        }
    }
    Ok(())
}

/// Looks, and holds what is seen against plain SQL over the log.
#[derive(Debug)]
struct Watcher {
    reader: Reader,
    seen: BTreeMap<TopicPartition, Offset>,
    answers: u64,
}

impl Watcher {
    fn new(reader: Reader) -> Self {
        Self {
            reader,
            seen: BTreeMap::new(),
            answers: 0,
        }
    }

    /// True if there was an answer.
    async fn look(&mut self, world: &World, cut: &Cut) -> bool {
        drop(self.reader.poll().await);
        let snapshot = self.reader.snapshot();
        for (partition, view) in &snapshot.partitions {
            let before = self.seen.insert(partition.clone(), view.until).unwrap_or(Offset(0));
            assert!(
                before <= view.until,
                "coverage of {partition} went from {before} back to {}",
                view.until
            );
        }
        if snapshot.partitions.len() < world.partitions().len() {
            return false;
        }
        let whole = match held(&snapshot).await {
            Ok(whole) => whole,
            Err(StoreError::Unavailable { .. } | StoreError::TooSlow(_)) => return false,
            Err(error) => panic!("{error}"),
        };
        match assert_points_agree(&world.catalog, &snapshot, &whole).await {
            Ok(()) | Err(StoreError::Unavailable { .. } | StoreError::TooSlow(_)) => {}
            Err(error) => panic!("{error}"),
        }
        let closes = |partition: &TopicPartition| {
            let next = crate::world::next_of(cut, partition);
            let view = &whole.partitions[partition];
            view.until < next || crate::world::chain(view, next).is_some()
        };
        if !world.partitions().iter().all(closes) {
            return false;
        }
        world.assert_agrees(&whole, cut).await;
        self.answers += 1;
        true
    }

    async fn until_everything_is_seen(&mut self, world: &World, cut: &Cut, nodes: &mut [Node]) {
        let since = Instant::now();
        loop {
            for node in nodes.iter_mut() {
                node.flush().await;
            }
            let seen = self.look(world, cut).await;
            if seen && self.seen == world.ends().await {
                return;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "{:?} of {:?}",
                self.seen,
                world.ends().await
            );
        }
    }
}

/// A speed node.
struct Node {
    running: Running,
    writer: Writer,
    settings: SpeedSettings,
}

impl Node {
    async fn start(world: &World, store: &Arc<dyn SharedStore>, name: &str, cut: &Cut) -> Self {
        let settings = SpeedSettings {
            checkpoint_every_ms: 1,
            checkpoints: world.folder.path().join(name),
            ..world.settings()
        };
        Self {
            running: world.start(cut, settings.clone()).await,
            writer: writer(world, store, Gaps::new()),
            settings,
        }
    }

    async fn flush(&mut self) -> bool {
        self.writer.flush(&self.running.layer.snapshot()).await
    }

    /// On a busy machine a flush may take longer than it is believed.
    async fn is_flushed(&mut self) {
        let since = Instant::now();
        while !self.flush().await {
            assert!(since.elapsed() < PATIENCE);
        }
    }

    /// Ends it without a flush; it comes back from its checkpoint, or from `checkpoints` in its stead.
    async fn crash(self, world: &World, store: &Arc<dyn SharedStore>, cut: &Cut, checkpoints: Option<PathBuf>) -> Self {
        self.running.end().await;
        let mut settings = self.settings;
        settings.checkpoints = checkpoints.unwrap_or(settings.checkpoints);
        Self {
            running: world.start(cut, settings.clone()).await,
            writer: writer(world, store, Gaps::new()),
            settings,
        }
    }

    async fn catch_up(&self, world: &World) {
        self.running.layer.wait_until(&world.ends().await).await.unwrap();
    }
}

/// Two nodes fold the same partitions, flush when they like, crash, forget; cuts move on; a reader looks in between.
async fn live(world: &World, store: Arc<dyn SharedStore>, steps: u64) -> u64 {
    let mut cut = Cut::default();
    let mut nodes = [
        Node::start(world, &store, "one", &cut).await,
        Node::start(world, &store, "two", &cut).await,
    ];
    let mut watcher = Watcher::new(reader(world, &store));
    let dice = |sides: u32| world.random.lock().unwrap().random_range(0..sides);
    for step in 0..steps {
        match dice(12) {
            0..5 => world.append(1 + dice(6) as usize, 4_000).await,
            5..9 => {
                nodes[dice(2) as usize].flush().await;
            }
            9 => {
                let one = dice(2) as usize;
                let fresh = (dice(2) == 0).then(|| world.folder.path().join(format!("fresh-{step}")));
                let [first, second] = nodes;
                nodes = match one {
                    0 => [first.crash(world, &store, &cut, fresh).await, second],
                    _ => [first, second.crash(world, &store, &cut, fresh).await],
                };
            }
            10 => {
                nodes[0].catch_up(world).await;
                nodes[0].flush().await;
            }
            _ => {
                let tick = world.some_tick();
                if cut.tick.is_none_or(|before| before < tick) && dice(3) == 0 {
                    cut = world.cut_at(tick).await;
                    for node in &nodes {
                        node.running.layer.retain(&cut, &[tick, Tick(tick.0 + 50_000)]);
                    }
                }
            }
        }
        watcher.look(world, &cut).await;
    }
    watcher.until_everything_is_seen(world, &cut, &mut nodes).await;
    for node in nodes {
        node.running.end().await;
    }
    watcher.answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_memory_keeps_the_contract() {
    contract::check_all(Arc::new(MemoryStore::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_keeps_the_contract_for_whoever_tries_again() {
    let faulty = Faulty::over(Arc::new(MemoryStore::default()), Rates { late: 0, ..Rates::HARD }, 1);
    contract::check_all(Arc::new(Patient(faulty))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_prefixes_of_the_log_while_nodes_overlap_and_crash() {
    let world = World::new(&format!("{STREAM}{VIEWS}{SESSIONS}"), 61).await;
    let answers = live(&world, Arc::new(MemoryStore::default()), STEPS).await;
    assert!(answers > STEPS / 3, "only {answers} answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_prefixes_of_the_log_whatever_is_lost_late_or_refused() {
    let world = World::new(&format!("{STREAM}{VIEWS}{SESSIONS}"), 62).await;
    let faulty = Faulty::over(Arc::new(MemoryStore::default()), Rates::HARD, 62);
    let answers = live(&world, faulty, STEPS).await;
    assert!(answers > STEPS / 20, "only {answers} answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_changed_keys_are_written_and_what_nobody_names_goes() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 64).await;
    let memory = Arc::new(MemoryStore::default());
    let store: Arc<dyn SharedStore> = Arc::clone(&memory) as _;
    let mut node = Node::start(&world, &store, "one", &Cut::default()).await;
    world.append(60, 100).await;
    node.catch_up(&world).await;
    assert!(node.flush().await);
    let all = node.writer.written();
    assert!(all.versions > 40, "{all:?}");
    assert!(node.flush().await);
    assert_eq!(node.writer.written().versions, all.versions, "nothing changed");
    let one = world.record(
        "user-1",
        "{\"click_id\":\"x\",\"user_id\":\"user-1\",\"amount\":1,\"at\":\"2023-11-14T22:13:20\"}".into(),
    );
    world.log.append(&world.topic.name, vec![one], None).await.unwrap();
    node.catch_up(&world).await;
    assert!(node.flush().await);
    let more = node.writer.written().versions - all.versions;
    assert!(
        (1..=4).contains(&more),
        "one user changed in four views, and {more} versions were written"
    );

    // A day of ticks, while boundaries thin out and a cut goes past most of it.
    let mut watcher = Watcher::new(reader(&world, &store));
    for round in 0..40 {
        world.append(8, 20_000).await;
        node.catch_up(&world).await;
        node.running.layer.retain(&Cut::default(), &[]);
        node.is_flushed().await;
        if round % 10 == 9 {
            watcher.look(&world, &Cut::default()).await;
        }
    }
    let cut = world.cut_at(world.newest_tick()).await;
    node.running.layer.retain(&cut, &[]);
    let floor = |partition: &TopicPartition| crate::world::next_of(&cut, partition);
    node.running
        .wait_for("what lies below the cut is dropped", |status| {
            status.iter().all(|one| one.from >= floor(&one.partition))
        })
        .await;
    let since = Instant::now();
    while memory.cells() > 2_400 {
        node.is_flushed().await;
        assert!(since.elapsed() < PATIENCE, "{} cells are left", memory.cells());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(node.writer.written().removed > 30, "{:?}", node.writer.written());
    while !watcher.look(&world, &cut).await {
        assert!(since.elapsed() < 2 * PATIENCE);
    }
    node.running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_lost_is_refused_until_all_is_written_anew() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 65).await;
    let memory = Arc::new(MemoryStore::default());
    let store: Arc<dyn SharedStore> = Arc::clone(&memory) as _;
    let mut node = Node::start(&world, &store, "one", &Cut::default()).await;
    let mut watcher = Watcher::new(reader(&world, &store));
    for _ in 0..3 {
        world.append(20, 1_000).await;
        node.catch_up(&world).await;
        assert!(node.flush().await);
        assert!(watcher.look(&world, &Cut::default()).await);
    }
    let lost = &world.partitions()[1];
    memory.lose_record(lost, 0);
    assert!(!watcher.look(&world, &Cut::default()).await);
    let refused = watcher.reader.refused();
    assert_eq!(refused.keys().collect::<Vec<_>>(), [lost], "{refused:?}");
    assert!(node.flush().await);
    assert!(
        watcher.look(&world, &Cut::default()).await,
        "{:?}",
        watcher.reader.refused()
    );
    let era = async || store.heads(lost).await.unwrap()[0].rank.era;
    assert_eq!(era().await, 1);

    // A writer went on before anybody noticed: what the newest record names may lack what was lost.
    for _ in 0..2 {
        world.append(20, 1_000).await;
        node.catch_up(&world).await;
        assert!(node.flush().await);
    }
    memory.lose_record(lost, 1);
    let mut fresh = Watcher::new(reader(&world, &store));
    assert!(!fresh.look(&world, &Cut::default()).await);
    let refused = fresh.reader.refused();
    assert_eq!(refused.keys().collect::<Vec<_>>(), [lost], "{refused:?}");
    assert!(node.flush().await);
    assert_eq!(era().await, 2);
    for watcher in [&mut fresh, &mut watcher] {
        assert!(
            watcher.look(&world, &Cut::default()).await,
            "{:?}",
            watcher.reader.refused()
        );
    }

    // A writer that knows nothing goes on from what is there, and the one that knows more does not believe it.
    memory.lose_record(lost, 0);
    let mut other = Node::start(&world, &store, "two", &Cut::default()).await;
    world.append(20, 1_000).await;
    other.catch_up(&world).await;
    assert!(other.flush().await);
    node.catch_up(&world).await;
    for watcher in [&mut fresh, &mut watcher] {
        let mut nodes = [&mut node, &mut other];
        let since = Instant::now();
        while !watcher.look(&world, &Cut::default()).await || watcher.seen != world.ends().await {
            for node in &mut nodes {
                node.flush().await;
            }
            assert!(since.elapsed() < PATIENCE, "{:?}", watcher.reader.refused());
        }
    }
    for node in [node, other] {
        node.running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_gone_from_under_a_record_are_no_smaller_number() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 68).await;
    let store: Arc<dyn SharedStore> = Arc::new(MemoryStore::default());
    let mut node = Node::start(&world, &store, "one", &Cut::default()).await;
    world.append(20, 1_000).await;
    node.catch_up(&world).await;
    assert!(node.flush().await);
    let reader = reader(&world, &store);
    reader.poll().await.unwrap();
    let partition = &world.partitions()[2];
    let head = store.heads(partition).await.unwrap()[0];
    let says = store.record(partition, &head).await.unwrap().unwrap();
    let says: serde_json::Value = serde_json::from_slice(&says).unwrap();
    let segment = says["record"]["segments"][0]["id"].as_str().unwrap().parse().unwrap();
    let users = &world.catalog.view("users").unwrap().id;
    store.remove(users, &[ONE_BUCKET], segment).await.unwrap();
    match held(&reader.snapshot()).await {
        Err(StoreError::Damaged(reason)) => assert!(reason.contains("has 0 of"), "{reason}"),
        other => panic!("{other:?}"),
    }
    node.running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_is_gone_is_no_smaller_state() {
    let world = World::new(&format!("{STREAM}{VIEWS}{SESSIONS}"), 69).await;
    let memory = Arc::new(MemoryStore::default());
    let store: Arc<dyn SharedStore> = Arc::clone(&memory) as _;
    let mut node = Node::start(&world, &store, "one", &Cut::default()).await;
    world.append(20, 1_000).await;
    node.catch_up(&world).await;
    assert!(node.flush().await);
    let reader = reader(&world, &store);
    reader.poll().await.unwrap();
    let snapshot = reader.snapshot();
    let whole = held(&snapshot).await.unwrap();
    memory.lose_last_chunks();
    // Another one, which has kept nothing of it.
    let reader = self::reader(&world, &store);
    reader.poll().await.unwrap();
    let snapshot = reader.snapshot();
    for outcome in [
        held(&snapshot).await.map(drop),
        assert_points_agree(&world.catalog, &snapshot, &whole).await,
    ] {
        match outcome {
            Err(StoreError::Damaged(reason)) => assert!(reason.contains("chunks of a state"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    node.running.end().await;
}

/// So many bytes and no more.
#[derive(Debug)]
struct Bounded {
    bytes: usize,
    held: AtomicUsize,
    most: AtomicUsize,
}

impl Bounded {
    fn new(bytes: usize) -> Self {
        Self {
            bytes,
            held: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }
}

impl Room for Bounded {
    fn take(&self, bytes: usize) -> Result<(), StoreError> {
        let held = self.held.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if held > self.bytes {
            self.give_back(bytes);
            return Err(StoreError::NoRoom {
                bytes,
                source: "it is full".into(),
            });
        }
        self.most.fetch_max(held, Ordering::SeqCst);
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reads_gather_is_bounded() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 70).await;
    let store: Arc<dyn SharedStore> = Arc::new(MemoryStore::default());
    let mut node = Node::start(&world, &store, "one", &Cut::default()).await;
    world.append(120, 1_000).await;
    node.catch_up(&world).await;
    assert!(node.flush().await);
    let settings = ReaderSettings {
        every: PATIENCE,
        silent: PATIENCE,
        cache_bytes: 0,
    };
    let reader = Reader::new(Arc::clone(&store), &world.catalog, world.partitions(), settings);
    reader.poll().await.unwrap();
    let view = world.catalog.view("trails").unwrap();
    let snapshot = reader.snapshot();
    let segments = snapshot.partitions.values().flat_map(|view| &view.segments);
    let stored = segments.map(|segment| match &segment.views[&view.id] {
        Partials::Stored(stored) => Arc::clone(stored),
        Partials::Held(_) => panic!("stored"),
    });
    let stored: Vec<_> = stored.collect();
    let user = Arc::new(StringArray::from(vec!["user-3"])) as ArrayRef;
    let one = KeyLookup::new(vec![(0, user)]).unwrap();
    let mut whole = 0;
    for lookup in [KeyLookup::default(), one] {
        let keys = [lookup];
        let endless = Bounded::new(usize::MAX);
        let found = StoredPartials::fetch(&stored, &keys, &endless).await.unwrap();
        let bytes: usize = found.iter().map(foldline_sql::Partial::bytes).sum();
        let most = endless.most.load(Ordering::SeqCst);
        assert_eq!(
            endless.held.load(Ordering::SeqCst),
            bytes,
            "what is held in the end is what was found"
        );
        assert!(most > bytes, "{most} bytes at most, of which {bytes} stay");
        for bound in [most - 1, most / 2, 0] {
            let small = Bounded::new(bound);
            match StoredPartials::fetch(&stored, &keys, &small).await {
                Err(StoreError::NoRoom { .. }) => {}
                other => panic!("{bound} of {most} bytes: {other:?}"),
            }
        }
        assert!(StoredPartials::fetch(&stored, &keys, &Bounded::new(most)).await.is_ok());
        whole = whole.max(most);
        assert!(
            most == whole || most < whole / 2,
            "one key of many: {most} of {whole} bytes"
        );
    }
    node.running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_writer_holds_counts_as_what_is_folded() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 73).await;
    let store: Arc<dyn SharedStore> = Arc::new(MemoryStore::default());
    // One segment, which is open.
    world.append(60, 10).await;
    let running = world.start(&Cut::default(), world.settings()).await;
    running.layer.wait_until(&world.ends().await).await.unwrap();
    let partials = || running.layer.status().iter().map(|one| one.bytes).sum::<usize>();
    assert_eq!(running.layer.held_bytes(), partials());
    let mut writer = writer(&world, &store, Gaps::new()).within(&running.layer);
    for round in 0..2 {
        assert!(writer.flush(&running.layer.snapshot()).await);
        let held = running.layer.held_bytes();
        assert!(
            held > partials() * 3 / 2,
            "{held} bytes with {} of partials",
            partials()
        );
        if round == 0 {
            writer.flush(&Snapshot::default()).await;
            assert_eq!(running.layer.held_bytes(), partials(), "given up");
        }
        world.append(3, 10).await;
        running.layer.wait_until(&world.ends().await).await.unwrap();
    }
    drop(writer);
    assert_eq!(running.layer.held_bytes(), partials());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_longer_than_anything_is_kept_is_refused() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 66).await;
    let store: Arc<dyn SharedStore> = Arc::new(MemoryStore::default());
    let mut node = Node::start(&world, &store, "one", &Cut::default()).await;
    world.append(20, 1_000).await;
    node.catch_up(&world).await;
    assert!(node.flush().await);
    let reader = reader(&world, &store);
    reader.poll().await.unwrap();
    let snapshot = reader.snapshot();
    assert!(held(&snapshot).await.is_ok());
    // Another reader, as this one has kept everything that it read.
    let slow = self::reader(&world, &store);
    slow.poll().await.unwrap();
    let snapshot = slow.snapshot();
    tokio::time::sleep(writer_settings().kept).await;
    match held(&snapshot).await {
        Err(StoreError::TooSlow(_)) => {}
        other => panic!("{other:?}"),
    }
    node.running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_writing_shows_and_an_accepted_gap_begins_anew() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 67).await;
    let store: Arc<dyn SharedStore> = Arc::new(MemoryStore::default());
    let mut node = Node::start(&world, &store, "one", &Cut::default()).await;
    world.append(60, 1_000).await;
    node.catch_up(&world).await;
    assert!(node.flush().await);
    let settings = ReaderSettings {
        every: Duration::from_millis(5),
        silent: Duration::from_millis(30),
        cache_bytes: 0,
    };
    let reader = Reader::new(Arc::clone(&store), &world.catalog, world.partitions(), settings);
    reader.poll().await.unwrap();
    let stopped = |reader: &Reader| -> BTreeSet<Option<String>> {
        reader
            .snapshot()
            .partitions
            .values()
            .map(|view| view.stopped.clone())
            .collect()
    };
    assert_eq!(stopped(&reader), BTreeSet::from([None]));
    tokio::time::sleep(Duration::from_millis(40)).await;
    reader.poll().await.unwrap();
    assert!(stopped(&reader).iter().all(Option::is_some), "nobody writes");
    world.append(1, 10).await;
    node.catch_up(&world).await;
    assert!(node.flush().await);
    reader.poll().await.unwrap();
    assert_eq!(stopped(&reader), BTreeSet::from([None]));
    node.running.end().await;

    // What was folded of a gap is not gone on from: the era tells.
    let partition = world.partitions()[0].clone();
    let gaps = Gaps::from([(partition.clone(), vec![Offset(1)..Offset(3)])]);
    let cut = Cut::default();
    let settings = world.settings();
    let running = world
        .start_behind(
            gaps.clone(),
            Arc::clone(&world.log),
            Arc::clone(&world.catalog),
            &cut,
            settings,
        )
        .await;
    let before = store.heads(&partition).await.unwrap()[0].rank;
    running
        .wait_for("the gap is forgotten", |status| status[1].until > Offset(0))
        .await;
    let mut writer = writer(&world, &store, gaps);
    assert!(writer.flush(&running.layer.snapshot()).await);
    let after = store.heads(&partition).await.unwrap()[0];
    assert_eq!((after.rank.era, after.previous), (before.era + 1, None));
    running.end().await;
}
