//! Garbage collection: never what is named, always what is not, beside runs and rollbacks at the same time.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use foldline_batch_layer::archive::path::FileName;
use foldline_batch_layer::{ArchiveError, GarbageReport, GenerationError, Generations, Ledger, RunKind, garbage};
use foldline_event_log::Offset;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::world::{LONGEST_QUERY_MS, World, files_of, number};

async fn collect(world: &World) -> GarbageReport {
    let ledger = Ledger::new(Arc::new(world.store.clone()));
    let report = garbage::collect(&world.fresh_generations(), &ledger).await.unwrap();
    let of_archive = garbage::collect_archive(&world.archive).await.unwrap();
    GarbageReport {
        archive_files: of_archive.archive_files,
        bytes: report.bytes + of_archive.bytes,
        ..report
    }
}

#[tokio::test]
async fn what_is_named_stays_and_what_is_not_goes() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new().await;
        world.fill(&mut random, 20).await;
        world.run(RunKind::Incremental, world.end_tick()).await.unwrap();
        let mut pinned = BTreeSet::new();
        for step in 0..40 {
            let listed = world.fresh_generations().list().await.unwrap();
            let some = listed[random.random_range(0..listed.len())].0.number;
            match random.random_range(0..8) {
                0 | 1 => {
                    world.archive_more(&mut random, step % 2, 4).await;
                    world.run(RunKind::Incremental, world.end_tick()).await.unwrap();
                }
                2 => {
                    world.generations.refresh().await.unwrap();
                    let tick = world
                        .end_tick()
                        .max(world.generations.current().unwrap().cut.tick.unwrap());
                    world.run(RunKind::Full, tick).await.unwrap();
                }
                3 => {
                    world.generations.rollback(some).await.unwrap();
                }
                4 => {
                    world.generations.pin(some).await.unwrap();
                    pinned.insert(some);
                }
                5 => {
                    world.generations.unpin(some).await.unwrap();
                    pinned.remove(&some);
                }
                6 => world.clock.advance(random.random_range(0..LONGEST_QUERY_MS * 3 / 2)),
                _ => {
                    let before = world.fresh_generations();
                    before.refresh().await.unwrap();
                    let last_three: Vec<_> = before
                        .list()
                        .await
                        .unwrap()
                        .into_iter()
                        .take(3)
                        .map(|(generation, _)| generation)
                        .collect();
                    collect(&world).await;
                    let after = world.fresh_generations();
                    for generation in before.readable().iter().chain(&last_three) {
                        assert_eq!(after.get(generation.number).await.unwrap(), *generation);
                    }
                    for &number in &pinned {
                        after.get(number).await.unwrap();
                    }
                    for (generation, _) in after.list().await.unwrap() {
                        world.agrees(&generation).await;
                    }
                }
            }
        }
        // A lost run's files, then enough time for everything to be forgotten.
        world.clock.advance(10 * LONGEST_QUERY_MS);
        collect(&world).await;
        let left = world.fresh_generations().list().await.unwrap();
        assert!(left.len() <= 3 + pinned.len());
        let named: BTreeSet<String> = left.iter().flat_map(|(generation, _)| files_of(generation)).collect();
        assert_eq!(world.paths("views").await, named.into_iter().collect::<Vec<_>>());
        assert_eq!(
            collect(&world).await,
            GarbageReport::default(),
            "a second collection finds nothing"
        );
    }
}

#[tokio::test]
async fn orphans_go_and_files_of_a_run_under_way_stay() {
    let world = World::filled(3, 30).await;
    world.run(RunKind::Full, world.end_tick()).await.unwrap();
    let view = &world.catalog.view("days").unwrap().id;
    let name = |number: u64| {
        let attempt = Uuid::new_v4();
        Path::from(format!("views/{view}/date=2024-05-01/{number:020}-{attempt}.partial"))
    };
    let (orphan, under_way, stranger) = (name(1), name(2), Path::from("views/readme.txt"));
    for path in [&orphan, &under_way, &stranger] {
        world.store.put(path, PutPayload::from_static(b"12345")).await.unwrap();
    }
    let report = collect(&world).await;
    assert_eq!((report.view_files, report.bytes, report.generations), (1, 5, 0));
    assert!(world.store.head(&orphan).await.is_err());
    world.store.head(&under_way).await.unwrap();
    world.store.head(&stranger).await.unwrap();
    // The number is taken by another run: the one under way has lost.
    world.run(RunKind::Full, world.end_tick()).await.unwrap();
    assert_eq!(collect(&world).await.view_files, 1);
    assert!(world.store.head(&under_way).await.is_err());
}

#[tokio::test]
async fn without_any_generation_nothing_is_collected() {
    let world = World::new().await;
    let path = format!("views/v/date=2024-05-01/{:020}-{}.partial", 1, Uuid::new_v4());
    world
        .store
        .put(&Path::from(path.clone()), PutPayload::from_static(b"1"))
        .await
        .unwrap();
    assert_eq!(collect(&world).await, GarbageReport::default());
    assert_eq!(world.paths("views").await, [path]);
}

#[tokio::test]
async fn a_damaged_manifest_stops_the_collection() {
    let world = World::filled(3, 30).await;
    for _ in 0..5 {
        world.run(RunKind::Full, world.end_tick()).await.unwrap();
    }
    world.clock.advance(2 * LONGEST_QUERY_MS);
    let damaged = Path::from("generations/00000000000000000005.json");
    world.store.put(&damaged, PutPayload::from_static(b"{}")).await.unwrap();
    let before = world.paths("views").await;
    let ledger = Ledger::new(Arc::new(world.store.clone()));
    let outcome = garbage::collect(&world.fresh_generations(), &ledger).await;
    assert!(outcome.unwrap_err().to_string().contains(damaged.as_ref()));
    assert_eq!(world.paths("views").await, before);
}

#[tokio::test]
async fn archive_files_go_only_when_the_commit_of_their_range_does_not_list_them() {
    let mut world = World::new().await;
    let mut random = StdRng::seed_from_u64(1);
    world.archive_more(&mut random, 0, 30).await;
    let (stream, batches) = (Arc::clone(world.stream()), world.log[0].0.clone());
    let good = world.paths("archive").await;

    // A zombie archives the same range again: it loses, and its files are orphans. (A store that forgets the commits
    // while the zombie looks makes it write.)
    let commit = world.archive.commits(&batches[0].partition).await.unwrap()[0].clone();
    let listed = commit.files[0].clone();
    let name = FileName::parse(&Path::parse(&listed.path).unwrap()).unwrap();
    let orphan = FileName {
        attempt: Uuid::new_v4(),
        ..name
    };
    let end = batches.last().unwrap().offsets.end;
    let under_way = FileName { first: end, ..orphan };
    let elsewhere = FileName {
        incarnation: Uuid::from_u128(1),
        ..orphan
    };
    let date = listed.date.unwrap();
    for path in [
        orphan.rows("clicks", date),
        orphan.dead_letters("clicks"),
        under_way.rows("clicks", date),
        elsewhere.rows("clicks", date),
        orphan.rows("other", date),
    ] {
        world.store.put(&path, PutPayload::from_static(b"123")).await.unwrap();
    }
    let report = collect(&world).await;
    assert_eq!((report.archive_files, report.bytes), (2, 6));
    let left = world.paths("archive").await;
    assert!(
        good.iter().all(|path| left.contains(path)),
        "nothing that a commit lists is gone"
    );
    assert_eq!(left.len(), good.len() + 3);
    let audit = world.archive.audit(&[batches[0].partition.clone()]).await.unwrap();
    assert!(audit.complete());

    // A real second writer, from an archive object that looked before the first commit.
    let lost = world
        .archive
        .append(&stream, Arc::new(batches[..1].to_vec()), Uuid::new_v4())
        .await;
    assert!(matches!(lost, Err(ArchiveError::Lost { first: Offset(0), .. })));
    assert!(collect(&world).await.archive_files > 0);
    assert_eq!(world.paths("archive").await, left);
}

/// Lets others run before each call, a random number of times.
#[derive(Debug)]
struct Jittery {
    store: Arc<InMemory>,
    random: Mutex<StdRng>,
}

impl Jittery {
    fn pauses(&self) -> impl Future<Output = ()> + Send + 'static {
        let pauses = {
            let mut random = self.random.lock().unwrap();
            if random.random_range(0..4) == 0 {
                random.random_range(0..60)
            } else {
                0
            }
        };
        async move {
            for _ in 0..pauses {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl fmt::Display for Jittery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "jittery {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for Jittery {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.pauses().await;
        self.store.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pauses().await;
        self.store.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = Arc::clone(&self.store);
        self.pauses()
            .into_stream()
            .flat_map(move |()| futures::stream::empty())
            .chain(store.delete_stream(locations))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (Arc::clone(&self.store), prefix.cloned());
        let listing = self.pauses().map(move |()| store.list(prefix.as_ref()));
        futures::stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_rollback_beside_collections_keeps_its_files_or_is_refused() {
    let (mut done, mut refused, mut pinned) = (0, 0, 0);
    // The same stored state for every seed: five generations, of which two are due to be forgotten.
    let world = World::filled(21, 12).await;
    for _ in 0..5 {
        world.run(RunKind::Full, world.end_tick()).await.unwrap();
    }
    world.clock.advance(2 * LONGEST_QUERY_MS);
    for seed in 0..200 {
        let store = Arc::new(InMemory::new());
        for path in world.paths("").await {
            let path = Path::parse(path).unwrap();
            let bytes = world.store.get(&path).await.unwrap().bytes().await.unwrap();
            store.put(&path, PutPayload::from(bytes)).await.unwrap();
        }
        let process = |seed: u64| {
            let store: Arc<dyn ObjectStore> = Arc::new(Jittery {
                store: Arc::clone(&store),
                random: Mutex::new(StdRng::seed_from_u64(seed)),
            });
            let clock = Arc::new(world.clock.clone());
            let generations = Generations::new(Arc::clone(&store), clock, LONGEST_QUERY_MS, 3);
            (generations, Ledger::new(store))
        };
        let (roller, _) = process(seed * 4);
        let (pinner, _) = process(seed * 4 + 1);
        let collectors = [process(seed * 4 + 2), process(seed * 4 + 3)];
        let collections = collectors.iter().map(|(generations, ledger)| async move {
            garbage::collect(generations, ledger).await.unwrap();
            garbage::collect(generations, ledger).await.unwrap();
        });
        let (rolled, pin, _) = tokio::join!(
            roller.rollback(number(1)),
            pinner.pin(number(2)),
            futures::future::join_all(collections)
        );
        let reader = Generations::new(store.clone(), Arc::new(world.clock.clone()), LONGEST_QUERY_MS, 3);
        reader.refresh().await.unwrap();
        match rolled {
            Ok(generation) => {
                done += 1;
                assert_eq!(reader.current().unwrap(), generation, "seed {seed}");
                for path in files_of(&generation) {
                    let there = store.head(&Path::parse(&path).unwrap()).await;
                    assert!(there.is_ok(), "seed {seed}: {path} of the current generation is gone");
                }
            }
            Err(GenerationError::Unknown(_) | GenerationError::Damaged { .. }) => {
                refused += 1;
                assert_eq!(reader.current().unwrap().number.0, 5, "seed {seed}");
            }
            Err(other) => panic!("seed {seed}: {other}"),
        }
        if pin.is_ok() {
            pinned += 1;
            for path in files_of(&reader.get(number(2)).await.unwrap()) {
                let there = store.head(&Path::parse(&path).unwrap()).await;
                assert!(there.is_ok(), "seed {seed}: {path} of the pinned generation is gone");
            }
        }
    }
    println!("{done} rolled back, {refused} refused, {pinned} pinned");
    assert!(
        done > 20 && refused > 20 && pinned > 20,
        "{done} rolled back, {refused} refused, {pinned} pinned"
    );
}

#[tokio::test]
async fn a_hold_of_a_dead_rollback_expires() {
    let world = World::filled(22, 12).await;
    for _ in 0..5 {
        world.run(RunKind::Full, world.end_tick()).await.unwrap();
    }
    // The rollback dies between its hold and its publication.
    world
        .store
        .plan("generations/00000000000000000006", &[crate::faulty::Fault::HangBefore]);
    {
        let rollback = world.generations.rollback(number(1));
        let died = async {
            while world.store.faults_left() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = rollback => panic!("it hangs"),
            () = died => {}
        }
    }
    world.clock.advance(2 * LONGEST_QUERY_MS);
    let first = world.generations.get(number(1)).await.unwrap();
    collect(&world).await;
    for path in files_of(&first) {
        world.store.head(&Path::parse(&path).unwrap()).await.unwrap();
    }
    world.clock.advance(25 * 60 * 60 * 1000);
    collect(&world).await;
    assert!(world.paths("generations/holds").await.is_empty());
    for path in files_of(&first) {
        assert!(world.store.head(&Path::parse(&path).unwrap()).await.is_err());
    }
}
