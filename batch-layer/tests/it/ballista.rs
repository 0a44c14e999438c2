//! Runs on Ballista against runs in one process: the same bytes, or an error, whoever is away or of another kind.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::NaiveDate;
use foldline_batch_layer::ballista::{self, Ballista, ExecutorSettings};
use foldline_batch_layer::{Generation, Recompute, RecomputeError, RunKind, RunReport};
use foldline_event_log::{ManualClock, Tick};
use foldline_sql::SourceFile;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::clicks::CUT_EVERY_MS;
use crate::world::{STREAM, VIEWS, World, catalog, everything_is_complete, files_of, topic};

/// Besides those of every world, views of each class.
const MORE_VIEWS: &str = "
CREATE VIEW cents AS
SELECT amount % 4 AS kind, sum(CAST(amount AS DECIMAL(20, 2))) AS total, avg(CAST(amount AS DECIMAL(20, 2))) AS mean
FROM clicks GROUP BY 1;
CREATE VIEW ratios AS
SELECT amount % 3 AS kind, sum(amount / CAST(7 AS DOUBLE)) AS total, avg(amount / CAST(7 AS DOUBLE)) AS mean,
       stddev(amount) AS spread FROM clicks GROUP BY 1;
CREATE VIEW sketches AS
SELECT amount % 3 AS kind, approx_percentile_cont(amount, 0.9) AS p90, approx_median(amount) AS middle,
       approx_distinct(id) AS ids FROM clicks GROUP BY 1;
CREATE VIEW middles AS
SELECT amount % 6 AS kind, median(amount) AS middle, percentile_cont(0.25) WITHIN GROUP (ORDER BY amount) AS p25
FROM clicks GROUP BY 1;
CREATE VIEW weeks AS
SELECT hop(at, INTERVAL '1 day', INTERVAL '7 days') AS week, count(*) AS clicks, count(DISTINCT amount) AS amounts
FROM clicks GROUP BY 1;
CREATE VIEW visits AS
SELECT amount % 7 AS who, session(at, INTERVAL '2 hours') AS visit, window_end(session(at, INTERVAL '2 hours')) AS until,
       count(*) AS clicks, array_agg(id ORDER BY at) AS ids FROM clicks GROUP BY 1, 2;
CREATE VIEW singles WITH (key = 'id') AS SELECT id, at, amount FROM clicks;
";
/// Those whose states list values in the order of a hash table or of arrival: other bytes of one meaning, also of two runs
/// in one process.
const OF_NO_ORDER: [&str; 3] = ["kinds", "middles", "weeks"];
/// What executors may hold unless a test says otherwise.
const PLENTY: usize = 1 << 30;

/// A scheduler and executors in this process.
struct Cluster {
    scheduler: SocketAddr,
    running: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// Executors on `stores`, which hold so many bytes each.
    async fn over(stores: &[Arc<dyn ObjectStore>], memory_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scheduler = free_address();
        let mut running = vec![tokio::spawn(async move {
            drop(ballista::scheduler(scheduler, None).await);
        })];
        for store in stores {
            let address = free_address();
            let settings = ExecutorSettings {
                scheduler: ("127.0.0.1".to_owned(), scheduler.port()),
                address,
                advertise: None,
                folder: folder.path().join(address.port().to_string()),
                tasks: 2,
                memory_bytes,
                store: Arc::clone(store),
                clock: Arc::new(ManualClock::new(0)),
                work: Handle::current(),
            };
            running.push(tokio::spawn(async move {
                ballista::executor(settings).await.unwrap();
            }));
        }
        let cluster = Self {
            scheduler,
            running,
            _folder: folder,
        };
        cluster.has(stores.len()).await;
        cluster
    }

    /// Two executors on the store of `world`.
    async fn of(world: &World) -> Self {
        Self::over(&[store_of(world), store_of(world)], PLENTY).await
    }

    async fn has(&self, executors: usize) {
        let since = Instant::now();
        let ready = format!("http://{}/readyz", self.scheduler);
        loop {
            let answer = reqwest::get(&ready).await;
            let said = match answer {
                Ok(answer) => answer.text().await.unwrap(),
                Err(error) => error.to_string(),
            };
            let wanted = format!("ready: {executors} executors");
            if said.contains(&wanted) || (executors == 0 && said.contains("not ready")) {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(30), "{said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The runs of `world` on it.
    fn recompute(&self, world: &World, views: &str) -> Recompute {
        let ballista = Ballista::new(self.scheduler.to_string(), files(views));
        world.recompute().on_ballista(ballista)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for running in &self.running {
            running.abort();
        }
    }
}

/// An address whose next port is free, too.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let place = NEXT.fetch_add(2, Ordering::Relaxed) + (std::process::id() % 400) as u16 * 2;
        let port = 21_000 + place % 900;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

fn store_of(world: &World) -> Arc<dyn ObjectStore> {
    Arc::new(world.store.clone())
}

fn files(views: &str) -> Vec<SourceFile> {
    vec![SourceFile {
        name: "clicks.sql".to_owned(),
        text: format!("{STREAM}{views}"),
    }]
}

fn all_views() -> String {
    format!("{VIEWS}{MORE_VIEWS}")
}

/// One with `clicks` in each of two partitions, and views of each class.
async fn world(seed: u64, clicks: usize) -> World {
    let mut world = World::new().await;
    world.catalog = catalog(&all_views()).await;
    world.fill(&mut StdRng::seed_from_u64(seed), clicks).await;
    world
}

async fn run(recompute: &Recompute, kind: RunKind, tick: Tick) -> Result<RunReport, RecomputeError> {
    let topics = [(topic(), everything_is_complete())];
    recompute.run(kind, tick, &topics, &|_, _| {}).await
}

/// The bytes of every partial, by view and date.
async fn bytes_of(world: &World, generation: &Generation) -> BTreeMap<(String, NaiveDate), Bytes> {
    let mut all = BTreeMap::new();
    for view in generation.views.values() {
        for file in &view.dates {
            let bytes = world.store.get(&Path::from(file.path.as_str())).await.unwrap();
            all.insert((view.name.clone(), file.date), bytes.bytes().await.unwrap());
        }
    }
    all
}

async fn same_answers(world: &World, one: &Generation, other: &Generation) {
    for view in world.catalog.views() {
        let generations = world.fresh_generations();
        assert_eq!(
            world.finished(&generations, one, view).await.unwrap(),
            world.finished(&generations, other, view).await.unwrap(),
            "{}",
            view.name
        );
    }
}

/// Nothing is in the folder of views but what generations name.
async fn nothing_is_left(world: &World) {
    let generations = world.generations.list().await.unwrap();
    let mut named: Vec<String> = generations
        .iter()
        .flat_map(|(generation, _)| files_of(generation))
        .collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(world.paths("views").await, named);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ballista_stores_the_bytes_of_a_run_in_one_process() {
    let world = world(1, 800).await;
    let cluster = Cluster::of(&world).await;
    let sized = |recompute: Recompute| recompute.sized(60, 20);
    let here = sized(world.recompute());
    let there = sized(cluster.recompute(&world, &all_views()));
    let middle = Tick(world.end_tick().0 / 2 / CUT_EVERY_MS * CUT_EVERY_MS);
    let mut compared = 0;
    for (kind, tick) in [
        (RunKind::Incremental, middle),
        (RunKind::Incremental, world.end_tick()),
        (RunKind::Full, world.end_tick()),
    ] {
        let on_ballista = run(&there, kind, tick).await.unwrap();
        assert!(on_ballista.published && on_ballista.failed.is_empty());
        world.agrees(&on_ballista.generation).await;
        let alone = run(&here, RunKind::Full, tick).await.unwrap();
        same_answers(&world, &on_ballista.generation, &alone.generation).await;
        if kind == RunKind::Full {
            assert_eq!(on_ballista.rows, alone.rows);
        }
        let one = bytes_of(&world, &on_ballista.generation).await;
        let other = bytes_of(&world, &alone.generation).await;
        assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
        for (place, bytes) in one
            .iter()
            .filter(|((view, _), _)| !OF_NO_ORDER.contains(&view.as_str()))
        {
            assert!(*bytes == other[place], "{place:?}");
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} partials");
    nothing_is_left(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn executors_of_little_memory_put_partials_aside_and_clear_up() {
    let world = world(2, 1_000).await;
    let cluster = Cluster::over(&[store_of(&world), store_of(&world)], 40_000).await;
    let recompute = cluster.recompute(&world, &all_views());
    let report = run(&recompute, RunKind::Full, world.end_tick()).await.unwrap();
    assert!(report.spilled > 0);
    world.agrees(&report.generation).await;
    nothing_is_left(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_program_of_another_version_is_refused() {
    let world = world(3, 60).await;
    let cluster = Cluster::of(&world).await;
    let other = Ballista::new(cluster.scheduler.to_string(), files(&all_views())).claiming("foldline 9.9.9");
    let recompute = world.recompute().on_ballista(other);
    let refused = run(&recompute, RunKind::Full, world.end_tick())
        .await
        .unwrap_err()
        .to_string();
    let here = concat!("this is foldline ", env!("CARGO_PKG_VERSION"));
    assert!(
        refused.contains("started by foldline 9.9.9") && refused.contains(here),
        "{refused}"
    );
    assert!(world.generations.list().await.unwrap().is_empty());
    nothing_is_left(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pipelines_of_another_meaning_are_refused() {
    let world = world(4, 60).await;
    let cluster = Cluster::of(&world).await;
    for (views, said) in [
        (
            all_views().replace("amount % 50 = 0", "amount % 51 = 0"),
            "another catalog",
        ),
        ("CREATE VIEW nothing AS SELEC".to_owned(), "do not compile"),
    ] {
        let recompute = cluster.recompute(&world, &views);
        let refused = run(&recompute, RunKind::Full, world.end_tick())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(said) && refused.contains("executor 127.0.0.1:"),
            "{refused}"
        );
    }
    assert!(world.generations.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_executor_of_another_store_computes_nothing() {
    let world = world(5, 200).await;
    let elsewhere: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cluster = Cluster::over(&[store_of(&world), elsewhere], PLENTY).await;
    let recompute = cluster.recompute(&world, &all_views());
    let refused = run(&recompute, RunKind::Full, world.end_tick())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("_orders/") && refused.contains("missing"), "{refused}");
    assert!(world.generations.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_stops_a_run_in_one_process_stops_it_on_ballista() {
    let mut world = world(6, 300).await;
    // A view that some rows fail is left out, for the same reason.
    let failing = format!(
        "{VIEWS}CREATE VIEW inverse AS SELECT amount % 2 AS k, sum(10 / (amount % 9)) AS s FROM clicks GROUP BY 1;"
    );
    world.catalog = catalog(&failing).await;
    let cluster = Cluster::of(&world).await;
    let there = cluster.recompute(&world, &failing);
    let on_ballista = run(&there, RunKind::Full, world.end_tick()).await.unwrap();
    let alone = run(&world.recompute(), RunKind::Full, world.end_tick()).await.unwrap();
    assert_eq!(on_ballista.failed, alone.failed);
    assert!(alone.failed["inverse"].contains("zero"), "{:?}", alone.failed);
    let names = |report: &RunReport| {
        report
            .generation
            .views
            .values()
            .map(|view| view.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&on_ballista), names(&alone));

    let archived = world.paths("archive/clicks").await;
    let victim = archived.iter().find(|path| path.contains("/date=")).unwrap();
    let damage = PutPayload::from_static(b"not what it was");
    world.store.put(&Path::from(victim.as_str()), damage).await.unwrap();
    let refused = run(&there, RunKind::Full, world.end_tick())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(victim.as_str()) && refused.contains("damaged"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_there_is_told_at_once() {
    let world = world(7, 60).await;
    let cluster = Cluster::over(&[], PLENTY).await;
    let recompute = cluster.recompute(&world, &all_views());
    let refused = run(&recompute, RunKind::Full, world.end_tick())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("0/1 executors") && refused.contains("ballista executor"),
        "{refused}"
    );
    let nowhere = free_address();
    let recompute = world
        .recompute()
        .on_ballista(Ballista::new(nowhere.to_string(), files(&all_views())));
    let refused = run(&recompute, RunKind::Full, world.end_tick())
        .await
        .unwrap_err()
        .to_string();
    let said = format!("no scheduler answers at {nowhere}");
    assert!(
        refused.contains(&said) && refused.contains("ballista scheduler"),
        "{refused}"
    );
}
