//! Loads of a warehouse: the contract on each, what a load replaces, kills at each step, lost replies, and BigQuery's own
//! answers.

mod fake;
mod faulty;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use foldline_batch_layer::warehouse::{
    BigQuery, BigQuerySettings, Difference, FinishedRows, LoadName, LoadNumber, LoadReport, Loader, LocalWarehouse,
    MARKER, MemoryWarehouse, NoRows, RowsHash, Slice, SliceRows, Table, TableOptions, Tables, Warehouse,
    WarehouseError, contract, hash_of, verify,
};
use foldline_batch_layer::{Archive, Generation, GenerationNumber, Generations, RunKind, store};
use foldline_event_log::Clock;
use foldline_sql::View;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use uuid::Uuid;

use crate::faulty::{Fault, Faulty};
use crate::world::{World, catalog, fold_of};
use fake::FakeBigQuery;
use faulty::FaultyWarehouse;

/// Days, hours of days, sessions that change days that their events are not of, what has no day, and days that come and go.
const VIEWS: &str = "
CREATE VIEW days AS
SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS clicks, sum(amount) AS amount FROM clicks GROUP BY 1;
CREATE VIEW kinds AS
SELECT amount % 5 AS kind, tumble(at, INTERVAL '6 hours') AS six, array_agg(amount ORDER BY at DESC) AS amounts
FROM clicks GROUP BY 1, 2;
CREATE VIEW visits AS
SELECT amount % 3 AS visitor, session(at, INTERVAL '2 hours') AS visit, count(*) AS clicks FROM clicks GROUP BY 1, 2;
CREATE VIEW totals AS SELECT count(*) AS clicks, max(at) AS newest FROM clicks;
CREATE VIEW even AS
SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS clicks FROM clicks GROUP BY 1 HAVING count(*) % 2 = 0;
";

/// Rows of the folds of a world, as serving would finish them.
struct Finished {
    generations: Generations,
}

#[async_trait]
impl FinishedRows for Finished {
    async fn rows(&self, view: &Arc<View>, generation: &Arc<Generation>) -> Result<Vec<RecordBatch>, NoRows> {
        let fold = fold_of(view);
        let partials = self.generations.partials(generation, &view.id, &fold).await;
        let partials = partials.map_err(|error| NoRows::Failed(error.to_string()))?;
        let Some(partials) = partials else {
            return Err(NoRows::Building("not yet".into()));
        };
        let partials: Vec<_> = partials.iter().map(|(_, partial)| partial.clone()).collect();
        Ok(vec![fold.finish(&partials).await.unwrap()])
    }
}

/// A world with two generations of views with and without days.
struct Scene {
    world: World,
    random: StdRng,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let mut world = World::new().await;
        world.catalog = catalog(VIEWS).await;
        let mut random = StdRng::seed_from_u64(seed);
        world.fill(&mut random, 150).await;
        Self { world, random }
    }

    /// More clicks, and a generation with them.
    async fn next(&mut self) -> Arc<Generation> {
        self.world.fill(&mut self.random, 12).await;
        let tick = self.world.end_tick();
        let report = self.world.run(RunKind::Incremental, tick).await.unwrap();
        assert!(report.published);
        report.generation
    }

    fn rows(&self) -> Finished {
        Finished {
            generations: self.world.fresh_generations(),
        }
    }

    fn loader(&self, warehouse: Arc<dyn Warehouse>, options: TableOptions) -> Loader {
        self.loader_with(warehouse, Arc::new(self.world.store.clone()), options)
    }

    /// One whose ledger lies in `store`.
    fn loader_with(&self, warehouse: Arc<dyn Warehouse>, store: Arc<dyn ObjectStore>, options: TableOptions) -> Loader {
        // As another process reads it: without what was read before.
        let archive = Archive::new(Arc::new(self.world.store.clone()));
        let tables = Tables {
            catalog: Arc::clone(&self.world.catalog),
            options,
        };
        let clock: Arc<dyn Clock> = Arc::new(self.world.clock.clone());
        let loader = Loader::new(warehouse, store, tables, clock).with_archive(archive);
        loader.retrying_after(Duration::from_millis(1))
    }

    fn plain_loader(&self, warehouse: &Arc<dyn Warehouse>) -> Loader {
        self.loader(Arc::clone(warehouse), TableOptions::default())
    }

    /// A new loader into `warehouse`, whose ledger lies in `store`.
    fn loader_in(&self, warehouse: &Arc<dyn Warehouse>, store: &Arc<dyn ObjectStore>) -> Loader {
        self.loader_with(Arc::clone(warehouse), Arc::clone(store), TableOptions::default())
    }

    /// The same, of views and events.
    fn events_loader_in(&self, warehouse: &Arc<dyn Warehouse>, store: &Arc<dyn ObjectStore>) -> Loader {
        self.loader_with(Arc::clone(warehouse), Arc::clone(store), events_too())
    }

    /// Three generations, each with more.
    async fn three(&mut self) -> [Arc<Generation>; 3] {
        [self.next().await, self.next().await, self.next().await]
    }

    /// Loads `generation` to its end, and finds it there.
    async fn load(&self, loader: &Loader, generation: &Arc<Generation>) -> LoadReport {
        let report = loader.load(generation, &self.rows(), false, &|_| {}).await.unwrap();
        assert_eq!(report.complaint(), None);
        self.verify(loader, generation).await;
        report
    }

    /// Eight tries that all fail are rare, and what the next load is for.
    async fn load_in_the_end(&self, loader: &Loader, generation: &Arc<Generation>) {
        while !loader
            .load(generation, &self.rows(), false, &|_| {})
            .await
            .is_ok_and(|report| report.complaint().is_none())
        {}
    }

    async fn verify(&self, loader: &Loader, generation: &Arc<Generation>) {
        for found in self.differences(loader, generation).await {
            assert_eq!(found.equal, Some(true), "{found:?}");
        }
    }

    async fn differences(&self, loader: &Loader, generation: &Arc<Generation>) -> Vec<Difference> {
        verify(loader, generation, &self.rows(), &|_| {}).await.unwrap()
    }
}

fn events_too() -> TableOptions {
    TableOptions {
        events: BTreeSet::from(["clicks".to_owned()]),
        ..TableOptions::default()
    }
}

fn memory() -> (MemoryWarehouse, Arc<dyn Warehouse>) {
    let memory = MemoryWarehouse::new();
    (memory.clone(), Arc::new(memory))
}

async fn bigquery() -> (FakeBigQuery, Arc<dyn Warehouse>) {
    let fake = FakeBigQuery::start().await;
    let opened = BigQuery::new(bigquery_at(&fake.endpoint)).unwrap().shared();
    (fake, opened)
}

fn bigquery_at(endpoint: &str) -> BigQuerySettings {
    BigQuerySettings {
        endpoint: endpoint.to_owned(),
        project: "test".into(),
        dataset: "warehouse".to_owned(),
        location: String::new(),
        credentials: String::new(),
        request: Duration::from_secs(60),
        days_are_tables: false,
    }
}

fn loaded(report: &LoadReport) -> BTreeMap<&str, u64> {
    report
        .tables
        .iter()
        .map(|table| (table.table.as_str(), table.loaded))
        .collect()
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let (_, warehouse) = memory();
    contract::check_all(&warehouse).await;
    contract::a_settled_load_never_happens(&warehouse).await;
    contract::days_are_told(&warehouse).await;
    contract::precise_values_come_back(&warehouse).await;
}

#[tokio::test]
async fn local_files_keep_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let files = store::local(folder.path()).unwrap();
    let warehouse: Arc<dyn Warehouse> = Arc::new(LocalWarehouse::new(files, "file:///there"));
    contract::check_all(&warehouse).await;
    contract::days_are_told(&warehouse).await;
    contract::precise_values_come_back(&warehouse).await;
}

#[tokio::test]
async fn files_whose_puts_fail_are_put_again() {
    let mut scene = Scene::new(10).await;
    let first = scene.next().await;
    let files = Faulty::new(ledger());
    let warehouse: Arc<dyn Warehouse> = Arc::new(LocalWarehouse::new(Arc::new(files.clone()), "memory:///there"));
    let loader = scene.plain_loader(&warehouse);
    files.plan(
        "rows.parquet",
        &[Fault::FailedBefore, Fault::LostReply, Fault::FailedBefore],
    );
    scene.load(&loader, &first).await;
    assert_eq!(files.faults_left(), 0);
    scene.verify(&loader, &first).await;
}

#[tokio::test]
async fn a_warehouse_that_loses_replies_keeps_the_contract() {
    let (_, warehouse) = memory();
    let faulty: Arc<dyn Warehouse> = Arc::new(FaultyWarehouse::new(warehouse, 20, 3));
    contract::check_all(&faulty).await;
    contract::a_settled_load_never_happens(&faulty).await;
    contract::days_are_told(&faulty).await;
}

#[tokio::test]
async fn bigquery_keeps_the_contract() {
    let (fake, warehouse) = bigquery().await;
    contract::check_all(&warehouse).await;
    contract::a_settled_load_never_happens(&warehouse).await;
    contract::days_are_told(&warehouse).await;
    contract::precise_values_come_back(&warehouse).await;
    fake.lose(20);
    contract::check_all(&warehouse).await;
    contract::a_settled_load_never_happens(&warehouse).await;
    contract::days_are_told(&warehouse).await;
    contract::precise_values_come_back(&warehouse).await;
}

/// Where FOLDLINE_TEST_BIGQUERY names a stand-in: its days are tables of their own, and it takes used ids for new ones.
#[tokio::test]
async fn servers_bigquery_keeps_the_contract() {
    let Ok(endpoint) = std::env::var("FOLDLINE_TEST_BIGQUERY") else {
        return;
    };
    let settings = BigQuerySettings {
        days_are_tables: true,
        ..bigquery_at(&endpoint)
    };
    let warehouse = BigQuery::new(settings).unwrap().shared();
    contract::check_all(&warehouse).await;
    println!("{endpoint} keeps the contract");
}

#[tokio::test]
async fn only_what_differs_is_loaded_whichever_day_the_event_is_of() {
    let mut scene = Scene::new(1).await;
    let first = scene.next().await;
    let (memory, warehouse) = memory();
    let loader = scene.plain_loader(&warehouse);
    let all = scene.load(&loader, &first).await;
    assert!(all.loaded() > 10, "{all:?}");
    assert_eq!(loader.holds().await.unwrap(), Some(first.number));
    let before = memory.replaced().len();
    scene.load(&loader, &first).await;
    assert_eq!(memory.replaced().len(), before, "nothing is loaded twice");

    let second = scene.next().await;
    // What differs, by the rows themselves.
    let mut expected: BTreeMap<String, BTreeSet<Slice>> = BTreeMap::new();
    for view in scene.world.catalog.views() {
        let (old, new) = (
            day_hashes(&scene, view, &first).await,
            day_hashes(&scene, view, &second).await,
        );
        let slices: BTreeSet<Slice> = old.keys().chain(new.keys()).copied().collect();
        let changed = slices.into_iter().filter(|slice| old.get(slice) != new.get(slice));
        expected.insert(view.name.clone(), changed.collect());
    }
    scene.load(&loader, &second).await;
    let mut found: BTreeMap<String, BTreeSet<Slice>> = BTreeMap::new();
    for name in memory.replaced().split_off(before) {
        assert!(found.entry(name.table).or_default().insert(name.slice), "twice");
    }
    assert_eq!(found.remove(MARKER), Some(BTreeSet::from([Slice::Whole])));
    expected.retain(|_, slices| !slices.is_empty());
    assert_eq!(found, expected);
    assert!(found["days"].len() < all.tables[0].slices as usize, "{found:?}");
    assert_eq!(memory.replaced().last().unwrap().table, MARKER, "written last");
}

/// The hash of the rows of each day of a view.
async fn day_hashes(scene: &Scene, view: &Arc<View>, generation: &Arc<Generation>) -> BTreeMap<Slice, String> {
    let (_, warehouse) = memory();
    let mut options = TableOptions::default();
    options.views.insert(view.name.clone());
    let loader = scene.loader_with(Arc::clone(&warehouse), ledger(), options);
    loader.load(generation, &scene.rows(), false, &|_| {}).await.unwrap();
    let table = table_of(view);
    let mut hashes = BTreeMap::new();
    for slice in warehouse.slices(&table).await.unwrap() {
        let rows = warehouse.rows(&table, slice).await.unwrap();
        hashes.insert(slice, hash_of(&rows).unwrap());
    }
    hashes
}

/// Enough of a table to ask for its rows.
fn table_of(view: &View) -> Table {
    Table {
        name: view.name.clone(),
        description: String::new(),
        schema: foldline_batch_layer::warehouse::shaped_schema(&view.schema).unwrap(),
        day: None,
        cluster: Vec::new(),
        expire_ms: None,
        owner: Uuid::nil(),
    }
}

#[tokio::test]
async fn windows_are_days_and_the_rest_is_whole() {
    let mut scene = Scene::new(2).await;
    let first = scene.next().await;
    let (_, warehouse) = memory();
    scene.load(&scene.plain_loader(&warehouse), &first).await;
    for view in scene.world.catalog.views() {
        let slices = warehouse.slices(&table_of(view)).await.unwrap();
        let whole = slices == [Slice::Whole];
        assert_eq!(whole, view.name == "totals", "{}: {slices:?}", view.name);
    }
}

#[tokio::test]
async fn a_load_killed_at_any_step_is_made_good_by_the_next() {
    let mut scene = Scene::new(3).await;
    let [first, second, third] = scene.three().await;
    let rows = scene.rows();
    let mut killed = 0;
    for after in [false, true] {
        for step in 1.. {
            let store = ledger();
            let (memory, warehouse) = memory();
            let faulty = FaultyWarehouse::new(Arc::clone(&warehouse), 0, 0);
            let loader = scene.loader_in(&(Arc::new(faulty.clone()) as Arc<dyn Warehouse>), &store);
            loader.load(&first, &rows, false, &|_| {}).await.unwrap();
            faulty.dies_in(step, after);
            let died = tokio::select! {
                report = loader.load(&second, &rows, false, &|_| {}) => {
                    assert_eq!(report.unwrap().complaint(), None);
                    false
                }
                () = faulty.died() => true,
            };
            faulty.dies_in(0, false);
            if !died {
                break;
            }
            killed += 1;
            assert_eq!(
                loader.holds().await.unwrap(),
                Some(first.number),
                "the marker is written last"
            );
            // The same generation goes on, or a later one comes first.
            let next = if step % 2 == 0 { &second } else { &third };
            scene.load(&scene.loader_in(&warehouse, &store), next).await;
            once(&memory.replaced());
        }
    }
    assert!(killed > 20, "only {killed} kills");
}

fn ledger() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// No load happened twice.
fn once(replaced: &[LoadName]) {
    let different: BTreeSet<&LoadName> = replaced.iter().collect();
    assert_eq!(different.len(), replaced.len(), "{replaced:?}");
}

#[tokio::test]
async fn a_load_killed_at_any_record_of_the_ledger_is_made_good_by_the_next() {
    let mut scene = Scene::new(4).await;
    let [first, second, third] = scene.three().await;
    let rows = scene.rows();
    let mut killed = 0;
    for fault in [Fault::HangBefore, Fault::HangAfter] {
        for step in 0.. {
            let faulty = Faulty::new(ledger());
            let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
            let (memory, warehouse) = memory();
            let loader = scene.loader_in(&warehouse, &store);
            loader.load(&first, &rows, false, &|_| {}).await.unwrap();
            let mut faults = vec![Fault::None; step];
            faults.push(fault);
            faulty.plan("loads/", &faults);
            let load = loader.load(&second, &rows, false, &|_| {});
            let met = async {
                while faulty.faults_left() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            let died = tokio::select! {
                biased;
                report = load => {
                    assert_eq!(report.unwrap().complaint(), None);
                    false
                }
                () = met => true,
            };
            faulty.plan("nowhere", &[]);
            if !died {
                break;
            }
            killed += 1;
            let next = if step % 2 == 0 { &second } else { &third };
            scene.load(&scene.loader_in(&warehouse, &store), next).await;
            once(&memory.replaced());
        }
    }
    assert!(killed > 10, "only {killed} kills");
}

#[tokio::test]
async fn lost_replies_load_nothing_twice() {
    for seed in 0..4 {
        let mut scene = Scene::new(5).await;
        let (memory, warehouse) = memory();
        let faulty: Arc<dyn Warehouse> = Arc::new(FaultyWarehouse::new(warehouse, 20, seed));
        scene.world.store.lose_every(5);
        let loader = scene.plain_loader(&faulty);
        for _ in 0..3 {
            let generation = scene.next().await;
            scene.load_in_the_end(&loader, &generation).await;
            scene.verify(&loader, &generation).await;
        }
        once(&memory.replaced());
    }
}

#[tokio::test]
async fn who_slept_through_a_later_load_changes_nothing() {
    let mut scene = Scene::new(6).await;
    let [first, second, third] = scene.three().await;
    let mut slept = 0;
    for step in [4, 5, 6, 8, 10, 12] {
        let (_, warehouse) = memory();
        let store = ledger();
        let awake = scene.loader_in(&warehouse, &store);
        scene.load(&awake, &first).await;
        let gate = Arc::new(Sleepy::new(Arc::clone(&warehouse), step));
        let asleep = scene.loader_in(&(Arc::clone(&gate) as Arc<dyn Warehouse>), &store);
        let (rows, generation) = (scene.rows(), Arc::clone(&second));
        let sleeper = tokio::spawn(async move { asleep.load(&generation, &rows, false, &|_| {}).await });
        gate.fell_asleep.notified().await;
        scene.load(&awake, &third).await;
        gate.wake.notify_one();
        let outcome = sleeper.await.unwrap();
        assert!(
            matches!(outcome, Err(WarehouseError::Superseded { .. })),
            "step {step}: {outcome:?}"
        );
        scene.verify(&awake, &third).await;
        slept += 1;
    }
    assert_eq!(slept, 6);
}

/// A process that falls asleep before an operation, and wakes up when it is told to.
#[derive(Debug)]
struct Sleepy {
    warehouse: Arc<dyn Warehouse>,
    operations: std::sync::atomic::AtomicUsize,
    at: usize,
    fell_asleep: tokio::sync::Notify,
    wake: tokio::sync::Notify,
}

impl Sleepy {
    fn new(warehouse: Arc<dyn Warehouse>, at: usize) -> Self {
        Self {
            warehouse,
            operations: Default::default(),
            at,
            fell_asleep: Default::default(),
            wake: Default::default(),
        }
    }

    async fn pass(&self) {
        let number = self.operations.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if number == self.at {
            self.fell_asleep.notify_one();
            self.wake.notified().await;
        }
    }
}

#[async_trait]
impl Warehouse for Sleepy {
    fn place(&self) -> String {
        self.warehouse.place()
    }

    async fn exists(&self, table: &Table) -> Result<bool, WarehouseError> {
        self.pass().await;
        self.warehouse.exists(table).await
    }

    async fn prepare(&self, table: &Table) -> Result<foldline_batch_layer::warehouse::Prepared, WarehouseError> {
        self.pass().await;
        self.warehouse.prepare(table).await
    }

    async fn load(&self, table: &Table, name: &LoadName, rows: &dyn SliceRows) -> Result<(), WarehouseError> {
        self.pass().await;
        self.warehouse.load(table, name, rows).await
    }

    async fn settle(
        &self,
        table: &Table,
        name: &LoadName,
    ) -> Result<foldline_batch_layer::warehouse::Settled, WarehouseError> {
        self.pass().await;
        self.warehouse.settle(table, name).await
    }

    async fn remove(&self, table: &Table) -> Result<(), WarehouseError> {
        self.pass().await;
        self.warehouse.remove(table).await
    }

    async fn expire(&self, table: &Table, slices: &[Slice]) -> Result<(), WarehouseError> {
        self.pass().await;
        self.warehouse.expire(table, slices).await
    }

    fn batches<'a>(&'a self, table: &'a Table, slice: Slice) -> BoxStream<'a, Result<RecordBatch, WarehouseError>> {
        self.warehouse.batches(table, slice)
    }

    async fn slices(&self, table: &Table) -> Result<Vec<Slice>, WarehouseError> {
        self.warehouse.slices(table).await
    }
}

#[tokio::test]
async fn two_that_load_one_generation_share_the_work() {
    let mut scene = Scene::new(7).await;
    let first = scene.next().await;
    let (memory, warehouse) = memory();
    let (one, other) = (scene.plain_loader(&warehouse), scene.plain_loader(&warehouse));
    let rows = scene.rows();
    let (one, other) = tokio::join!(
        one.load(&first, &rows, false, &|_| {}),
        other.load(&first, &rows, false, &|_| {})
    );
    assert_eq!((one.unwrap().complaint(), other.unwrap().complaint()), (None, None));
    scene.verify(&scene.plain_loader(&warehouse), &first).await;
    once(&memory.replaced());
}

#[tokio::test]
async fn a_view_with_other_columns_gets_a_new_table() {
    let mut scene = Scene::new(8).await;
    let first = scene.next().await;
    let (_, warehouse) = memory();
    let loader = scene.plain_loader(&warehouse);
    scene.load(&loader, &first).await;
    let changed = VIEWS.replace(
        "sum(amount) AS amount FROM",
        "CAST(sum(amount) AS TEXT) AS amount, 1 AS more FROM",
    );
    scene.world.catalog = catalog(&changed).await;
    let loader = scene.plain_loader(&warehouse);
    let report = loader.load(&first, &scene.rows(), false, &|_| {}).await.unwrap();
    assert_eq!(
        report.complaint(),
        None,
        "as long as the generation lacks the view its table stays"
    );
    assert_eq!(loaded(&report)["days"], 0);
    let second = scene.next().await;
    scene.load(&loader, &second).await;
    assert_eq!(
        warehouse
            .rows(&table_of(&scene.world.catalog.views()[0]), Slice::Whole)
            .await
            .unwrap()
            .num_columns(),
        4
    );
}

#[tokio::test]
async fn expired_days_are_neither_loaded_nor_compared() {
    const DAY_MS: i64 = 86_400_000;
    let mut scene = Scene::new(9).await;
    let first = scene.next().await;
    let (_, warehouse) = memory();
    let days = day_hashes(&scene, &scene.world.catalog.views()[0], &first).await;
    let Some((Slice::Day(oldest), _)) = days.first_key_value() else {
        panic!("{days:?}");
    };
    // At noon of the third day.
    let midnight = oldest.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis();
    scene.world.clock.set(midnight + 2 * DAY_MS + DAY_MS / 2);
    let options = TableOptions {
        expire_ms: Some(2 * DAY_MS),
        expire_of: BTreeMap::from([("visits".to_owned(), None)]),
        ..TableOptions::default()
    };
    let loader = scene.loader(Arc::clone(&warehouse), options);
    scene.load(&loader, &first).await;
    let there = |scene: &Scene, view: usize| {
        let (warehouse, table) = (Arc::clone(&warehouse), table_of(&scene.world.catalog.views()[view]));
        async move { warehouse.slices(&table).await.unwrap() }
    };
    assert!(
        !there(&scene, 0).await.contains(&Slice::Day(*oldest)),
        "two days are over"
    );
    assert!(
        there(&scene, 0).await.contains(&Slice::Day(oldest.succ_opt().unwrap())),
        "one and a half are not"
    );
    assert!(
        there(&scene, 2).await.contains(&Slice::Day(*oldest)),
        "none of these expires"
    );
    scene.world.clock.set(midnight + 3 * DAY_MS + 1);
    scene.verify(&loader, &first).await;
    scene.load(&loader, &first).await;
    assert!(!there(&scene, 0).await.contains(&Slice::Day(oldest.succ_opt().unwrap())));
}

#[tokio::test]
async fn a_wrong_warehouse_is_told_with_the_day() {
    let mut scene = Scene::new(10).await;
    let first = scene.next().await;
    let folder = tempfile::tempdir().unwrap();
    let files = store::local(folder.path()).unwrap();
    let warehouse: Arc<dyn Warehouse> = Arc::new(LocalWarehouse::new(Arc::clone(&files), "file:///there"));
    let loader = scene.plain_loader(&warehouse);
    scene.load(&loader, &first).await;
    let of = |found: &[Difference], table: &str| found.iter().find(|found| found.table == table).unwrap().clone();
    let days = store::list(files.as_ref(), &"days".into()).await.unwrap();
    let day = days
        .iter()
        .find(|object| object.location.as_ref().ends_with(".parquet"))
        .unwrap();
    let name = day
        .location
        .as_ref()
        .split('/')
        .nth(1)
        .unwrap()
        .trim_start_matches("_day=")
        .to_owned();

    let whole = files.get(&day.location).await.unwrap().bytes().await.unwrap();
    files.delete(&day.location).await.unwrap();
    let found = of(&scene.differences(&loader, &first).await, "days");
    assert_eq!(found.equal, Some(false));
    assert!(found.difference.unwrap().starts_with(&format!("{name}: 0 rows")));

    let other = days
        .iter()
        .rfind(|object| object.location.as_ref().ends_with(".parquet"))
        .unwrap();
    let bytes = files.get(&other.location).await.unwrap().bytes().await.unwrap();
    files.put(&day.location, bytes.into()).await.unwrap();
    let found = of(&scene.differences(&loader, &first).await, "days");
    assert!(
        found
            .difference
            .unwrap()
            .contains(&format!("{name}: 1 rows, and other values"))
    );

    let bytes = files.get(&other.location).await.unwrap().bytes().await.unwrap();
    let extra = "days/_day=2031-01-01/rows.parquet".into();
    files.put(&extra, bytes.into()).await.unwrap();
    files.put(&day.location, whole.into()).await.unwrap();
    let found = of(&scene.differences(&loader, &first).await, "days");
    assert!(
        found
            .difference
            .unwrap()
            .starts_with("2031-01-01: 1 rows, and the generation has 0")
    );
    loader.load(&first, &scene.rows(), true, &|_| {}).await.unwrap();
    scene.verify(&loader, &first).await;
}

#[tokio::test]
async fn a_table_that_somebody_removed_is_filled_again() {
    let mut scene = Scene::new(11).await;
    let first = scene.next().await;
    let (fake, warehouse) = bigquery().await;
    let loader = scene.plain_loader(&warehouse);
    scene.load(&loader, &first).await;
    let client = reqwest::Client::new();
    let url = format!(
        "{}/bigquery/v2/projects/test/datasets/warehouse/tables/days",
        fake.endpoint
    );
    client.delete(url).send().await.unwrap().error_for_status().unwrap();
    let second = scene.next().await;
    scene.load(&loader, &second).await;
}

#[tokio::test]
async fn a_rollback_is_loaded_too() {
    let mut scene = Scene::new(12).await;
    let (memory, warehouse) = memory();
    let loader = scene.plain_loader(&warehouse);
    let first = scene.next().await;
    scene.load(&loader, &first).await;
    let second = scene.next().await;
    scene.load(&loader, &second).await;
    let back = scene.world.generations.rollback(first.number).await.unwrap();
    scene.load(&loader, &back).await;
    let late = loader.load(&second, &scene.rows(), false, &|_| {}).await;
    assert!(matches!(late, Err(WarehouseError::Superseded { .. })), "{late:?}");
    once(&memory.replaced());
}

/// Also where the rollback found every table as it should be.
#[tokio::test]
async fn nothing_of_what_a_rollback_takes_back_comes_behind_it() {
    let mut scene = Scene::new(19).await;
    let (_, warehouse) = memory();
    let store = ledger();
    let first = scene.next().await;
    scene.load(&scene.loader_in(&warehouse, &store), &first).await;
    let second = scene.next().await;
    let back = scene.world.generations.rollback(first.number).await.unwrap();
    scene.load(&scene.loader_in(&warehouse, &store), &back).await;
    let late = scene.loader_in(&warehouse, &store);
    let late = late.load(&second, &scene.rows(), false, &|_| {}).await;
    assert!(matches!(late, Err(WarehouseError::Superseded { .. })), "{late:?}");
    scene.verify(&scene.loader_in(&warehouse, &store), &back).await;
}

#[tokio::test]
async fn bigquery_replaces_exactly_the_partitions_that_changed() {
    let mut scene = Scene::new(13).await;
    let (fake, warehouse) = bigquery().await;
    fake.polls(2);
    let options = TableOptions {
        expire_ms: Some(i64::from(i32::MAX) * 1_000),
        ..TableOptions::default()
    };
    let loader = scene.loader(Arc::clone(&warehouse), options);
    let first = scene.next().await;
    scene.load(&loader, &first).await;
    let described = fake.described("visits");
    assert_eq!(described["timePartitioning"]["type"], "DAY");
    assert_eq!(described["timePartitioning"]["field"], "visit");
    assert_eq!(described["timePartitioning"]["expirationMs"], "2147483647000");
    assert_eq!(described["clustering"]["fields"], serde_json::json!(["visitor"]));
    assert!(described["description"].as_str().unwrap().contains("session(at"));
    let partitions = fake.partitions("visits");
    assert!(partitions.len() > 3, "{partitions:?}");
    let jobs = fake.applied().len();
    let second = scene.next().await;
    let report = scene.load(&loader, &second).await;
    assert_eq!(
        fake.applied().len() - jobs,
        report.loaded() as usize + 1,
        "one job for each, and one for the marker"
    );

    // Without expiration from now on: brought up to date without a load.
    let loader = scene.plain_loader(&warehouse);
    let third = scene.next().await;
    scene.load(&loader, &third).await;
    assert!(fake.described("visits")["timePartitioning"]["expirationMs"].is_null());
}

#[tokio::test]
async fn bigquery_jobs_that_fail_in_passing_are_followed_by_the_next_attempt() {
    let mut scene = Scene::new(14).await;
    let (fake, warehouse) = bigquery().await;
    let loader = scene.plain_loader(&warehouse);
    let first = scene.next().await;
    fake.next_jobs(&[
        Some("backendError"),
        None,
        Some("rateLimitExceeded"),
        Some("internalError"),
    ]);
    fake.refuse(&[
        (429, "rateLimitExceeded"),
        (403, "rateLimitExceeded"),
        (503, "backendError"),
    ]);
    scene.load(&loader, &first).await;
    let attempt = |id: &String| id.rsplit('-').next().unwrap().parse::<u32>().unwrap();
    let again: u32 = fake.applied().iter().map(|id| attempt(id) - 1).sum();
    assert_eq!(again, 3, "{:?}", fake.applied());

    // A quota of the day: told at once, made good by a later load.
    let second = scene.next().await;
    fake.refuse(&[(403, "quotaExceeded")]);
    let report = loader.load(&second, &scene.rows(), false, &|_| {}).await.unwrap();
    assert!(report.complaint().unwrap().contains("quotaExceeded"), "{report:?}");
    assert_eq!(loader.holds().await.unwrap(), Some(first.number));
    scene.load(&loader, &second).await;

    let third = scene.next().await;
    fake.next_jobs(&[Some("quotaExceeded")]);
    let report = loader.load(&third, &scene.rows(), false, &|_| {}).await.unwrap();
    assert!(report.complaint().unwrap().contains("quotaExceeded"), "{report:?}");
    scene.load(&loader, &third).await;
}

#[tokio::test]
async fn bigquery_that_loses_replies_loads_nothing_twice() {
    let mut scene = Scene::new(15).await;
    let (fake, warehouse) = bigquery().await;
    fake.lose(20);
    let loader = scene.plain_loader(&warehouse);
    for _ in 0..3 {
        let generation = scene.next().await;
        scene.load_in_the_end(&loader, &generation).await;
        scene.verify(&loader, &generation).await;
    }
    let loads = fake.applied();
    // Without the attempt, which follows a failed one only.
    let stems: BTreeSet<&str> = loads.iter().map(|id| id.rsplit_once('-').unwrap().0).collect();
    assert_eq!(stems.len(), loads.len(), "{loads:?}");
}

#[tokio::test]
async fn bigquery_loads_killed_at_any_step_are_made_good_by_the_next() {
    let mut scene = Scene::new(16).await;
    let [first, second, _] = scene.three().await;
    let rows = scene.rows();
    let mut killed = 0;
    for after in [false, true] {
        for step in (1..).step_by(3) {
            let (fake, warehouse) = bigquery().await;
            let store = ledger();
            let faulty = FaultyWarehouse::new(Arc::clone(&warehouse), 0, 0);
            let loader = scene.loader_in(&(Arc::new(faulty.clone()) as Arc<dyn Warehouse>), &store);
            faulty.dies_in(step, after);
            let died = tokio::select! {
                _ = loader.load(&first, &rows, false, &|_| {}) => false,
                () = faulty.died() => true,
            };
            if !died {
                break;
            }
            killed += 1;
            let next = if step % 2 == 0 { &first } else { &second };
            scene.load(&scene.loader_in(&warehouse, &store), next).await;
            let loads = fake.applied();
            assert_eq!(loads.iter().collect::<BTreeSet<_>>().len(), loads.len());
        }
    }
    assert!(killed > 10, "only {killed} kills");
}

/// The insert of a job is under way for long: whoever comes later uses its id up, and the late one meets 409.
#[tokio::test]
async fn bigquery_takes_no_job_whose_id_was_used_up() {
    let (fake, warehouse) = bigquery().await;
    contract::a_settled_load_never_happens(&warehouse).await;
    let rows = contract::rows_of_most_types();
    let table = Table {
        name: "burnt".into(),
        schema: rows.schema(),
        ..table_like(&rows)
    };
    warehouse.prepare(&table).await.unwrap();
    let name = LoadName {
        owner: table.owner,
        table: table.name.clone(),
        slice: Slice::Whole,
        number: LoadNumber {
            generation: GenerationNumber(1),
            again: 0,
        },
        plan: Uuid::nil(),
    };
    // A failed first attempt does not hide that the second was settled.
    fake.next_jobs(&[Some("invalid")]);
    assert!(warehouse.load(&table, &name, &rows).await.is_err());
    warehouse.settle(&table, &name).await.unwrap();
    let refused = warehouse.load(&table, &name, &rows).await;
    assert!(matches!(refused, Err(WarehouseError::Superseded { .. })), "{refused:?}");
}

fn table_like(rows: &RecordBatch) -> Table {
    Table {
        name: "like".into(),
        description: String::new(),
        schema: rows.schema(),
        day: None,
        cluster: Vec::new(),
        expire_ms: None,
        owner: Uuid::new_v4(),
    }
}

#[tokio::test]
async fn bigquery_takes_arrays_with_nulls_and_strange_names() {
    let (_, warehouse) = bigquery().await;
    let item = Arc::new(Field::new("element", DataType::Int64, true));
    let list = ListArray::try_new(
        Arc::clone(&item),
        OffsetBuffer::from_lengths([2, 0, 0]),
        Arc::new(Int64Array::from(vec![Some(1), None])),
        Some(NullBuffer::from(vec![true, true, false])),
    );
    let list: ArrayRef = Arc::new(list.unwrap());
    let lists = ListArray::try_new(
        Arc::new(Field::new("element", list.data_type().clone(), true)),
        OffsetBuffer::from_lengths([1, 2, 0]),
        Arc::clone(&list),
        None,
    );
    let number: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let columns = [
        ("items", list, true),
        ("lists", Arc::new(lists.unwrap()) as ArrayRef, true),
        ("count(*)", Arc::clone(&number), true),
        ("Count(+)", Arc::clone(&number), true),
        ("_PARTITIONTIME", Arc::clone(&number), true),
        ("2nd", number, true),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let table = Table {
        name: "wie heißt \"das\"".into(),
        ..table_like(&rows)
    };
    warehouse.prepare(&table).await.unwrap();
    let name = LoadName {
        owner: table.owner,
        table: table.name.clone(),
        slice: Slice::Whole,
        number: LoadNumber {
            generation: GenerationNumber(1),
            again: 0,
        },
        plan: Uuid::nil(),
    };
    warehouse.load(&table, &name, &rows).await.unwrap();
    let back = warehouse.rows(&table, Slice::Whole).await.unwrap();
    assert_eq!(hash_of(&back).unwrap(), hash_of(&rows).unwrap());
}

#[tokio::test]
async fn bigquery_tables_that_somebody_changed_are_refused_with_what_they_are() {
    let mut scene = Scene::new(17).await;
    let (fake, warehouse) = bigquery().await;
    let loader = scene.plain_loader(&warehouse);
    let first = scene.next().await;
    scene.load(&loader, &first).await;
    fake.tamper("days", |table| table["schema"]["fields"][1]["type"] = "STRING".into());
    fake.tamper("kinds", |table| table["labels"] = serde_json::json!({}));
    let second = scene.next().await;
    let report = loader.load(&second, &scene.rows(), false, &|_| {}).await.unwrap();
    let error = |table: &str| {
        report
            .tables
            .iter()
            .find(|told| told.table == table)
            .unwrap()
            .error
            .clone()
            .unwrap()
    };
    assert!(error("days").contains("clicks STRING"), "{report:?}");
    assert!(error("kinds").contains("label \"foldline\" is not there"), "{report:?}");
    assert_eq!(loader.holds().await.unwrap(), Some(first.number));
}

#[tokio::test]
async fn a_load_that_dies_behind_a_table_made_anew_leaves_it_to_the_next() {
    let mut scene = Scene::new(20).await;
    let [first, second, third] = scene.three().await;
    let rows = scene.rows();
    let days = table_of(&scene.world.catalog.views()[0]);
    let mut killed = 0;
    for after in [false, true] {
        for step in (1..).step_by(9) {
            let store = ledger();
            let (_, warehouse) = memory();
            let faulty = FaultyWarehouse::new(Arc::clone(&warehouse), 0, 0);
            let loader = scene.events_loader_in(&(Arc::new(faulty.clone()) as Arc<dyn Warehouse>), &store);
            loader.load(&first, &rows, false, &|_| {}).await.unwrap();
            let owner = owner_of(&store, "memory").await;
            warehouse.remove(&Table { owner, ..days.clone() }).await.unwrap();
            faulty.dies_in(step, after);
            let died = tokio::select! {
                _ = loader.load(&second, &rows, false, &|_| {}) => false,
                () = faulty.died() => true,
            };
            faulty.dies_in(0, false);
            if !died {
                break;
            }
            killed += 1;
            let next = if step % 2 == 0 { &second } else { &third };
            scene.load(&scene.events_loader_in(&warehouse, &store), next).await;
        }
    }
    assert!(killed > 8, "only {killed} kills");
}

/// Where a view has other columns, its table is removed and made: nothing of the old one may be left, whoever dies on the way.
#[tokio::test]
async fn a_load_that_dies_while_a_table_gets_other_columns_leaves_nothing_of_the_old_ones() {
    let mut scene = Scene::new(30).await;
    let first = scene.next().await;
    let old = Arc::clone(&scene.world.catalog);
    let changed = VIEWS.replace("HAVING count(*) % 2 = 0", "HAVING count(*) % 2 = 1");
    let changed = changed.replace(
        "count(*) AS clicks FROM clicks GROUP BY 1 HAVING",
        "count(*) AS n FROM clicks GROUP BY 1 HAVING",
    );
    let new = catalog(&changed).await;
    scene.world.catalog = Arc::clone(&new);
    let second = scene.next().await;
    let rows = scene.rows();
    let mut killed = 0;
    for after in [false, true] {
        for step in (1..40).step_by(3) {
            let warehouse: Arc<dyn Warehouse> = Arc::new(LocalWarehouse::new(ledger(), "memory:///there"));
            let store = ledger();
            scene.world.catalog = Arc::clone(&old);
            scene.load(&scene.loader_in(&warehouse, &store), &first).await;
            scene.world.catalog = Arc::clone(&new);
            // It dies twice, the second time at any step of what makes good.
            let mut died = false;
            for step in [step, 1 + step / 3] {
                let faulty = FaultyWarehouse::new(Arc::clone(&warehouse), 0, 0);
                let loader = scene.loader_in(&(Arc::new(faulty.clone()) as Arc<dyn Warehouse>), &store);
                faulty.dies_in(step, after);
                died |= tokio::select! {
                    _ = loader.load(&second, &rows, false, &|_| {}) => false,
                    () = faulty.died() => true,
                };
            }
            if !died {
                break;
            }
            killed += 1;
            scene.load(&scene.loader_in(&warehouse, &store), &second).await;
        }
    }
    assert!(killed > 20, "only {killed} kills");
}

/// Whose the tables of a ledger are.
async fn owner_of(store: &Arc<dyn ObjectStore>, place: &str) -> Uuid {
    let ledger = foldline_batch_layer::warehouse::ledger::LoadLedger::new(Arc::clone(store), place);
    ledger.owner().await.unwrap()
}

/// The same where the death comes between two records of the ledger.
#[tokio::test]
async fn a_load_that_dies_at_a_record_of_a_table_made_anew_leaves_it_to_the_next() {
    let mut scene = Scene::new(21).await;
    let [first, second, third] = scene.three().await;
    let rows = scene.rows();
    let days = table_of(&scene.world.catalog.views()[0]);
    let mut killed = 0;
    for fault in [Fault::HangBefore, Fault::HangAfter] {
        for step in 0..4 {
            let faulty = Faulty::new(ledger());
            let store: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
            let (_, warehouse) = memory();
            let loader = scene.loader_in(&warehouse, &store);
            loader.load(&first, &rows, false, &|_| {}).await.unwrap();
            let owner = owner_of(&store, "memory").await;
            warehouse.remove(&Table { owner, ..days.clone() }).await.unwrap();
            let mut faults = vec![Fault::None; step];
            faults.push(fault);
            faulty.plan("/days/", &faults);
            let met = async {
                while faulty.faults_left() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            let died = tokio::select! {
                biased;
                _ = loader.load(&second, &rows, false, &|_| {}) => false,
                () = met => true,
            };
            faulty.plan("nowhere", &[]);
            killed += usize::from(died);
            let next = if step % 2 == 0 { &second } else { &third };
            scene.load(&scene.loader_in(&warehouse, &store), next).await;
        }
    }
    assert!(killed > 6, "only {killed} kills");
}

#[tokio::test]
async fn the_marker_is_verified_and_loaded_anew_in_full() {
    let mut scene = Scene::new(22).await;
    let [first, second, _] = scene.three().await;
    let folder = tempfile::tempdir().unwrap();
    let files = store::local(folder.path()).unwrap();
    let warehouse: Arc<dyn Warehouse> = Arc::new(LocalWarehouse::new(Arc::clone(&files), "file:///there"));
    let loader = scene.plain_loader(&warehouse);
    let path = "_foldline/rows.parquet".into();
    scene.load(&loader, &first).await;
    let old = files.get(&path).await.unwrap().bytes().await.unwrap();
    scene.load(&loader, &second).await;
    let marker = |found: Vec<Difference>| found.into_iter().next().unwrap();
    // An older marker, and none.
    files.put(&path, old.into()).await.unwrap();
    let found = marker(scene.differences(&loader, &second).await);
    assert_eq!((found.table.as_str(), found.equal), (MARKER, Some(false)));
    assert!(found.difference.unwrap().contains("other values than were loaded"));
    files.delete(&path).await.unwrap();
    let found = marker(scene.differences(&loader, &second).await);
    assert!(found.difference.unwrap().starts_with("0 rows, and 5 were loaded"));
    loader.load(&second, &scene.rows(), true, &|_| {}).await.unwrap();
    scene.verify(&loader, &second).await;
}

/// Two ledgers with the same past that load into the same tables: whoever comes behind the other one's load is told.
#[tokio::test]
async fn a_copy_of_a_store_does_not_load_into_the_same_tables_unnoticed() {
    let mut scene = Scene::new(23).await;
    let [first, second, third] = scene.three().await;
    for (_, warehouse) in [memory(), (MemoryWarehouse::new(), bigquery().await.1)] {
        let original = Arc::new(InMemory::new());
        let mine: Arc<dyn ObjectStore> = Arc::clone(&original) as _;
        let mine = scene.loader_in(&warehouse, &mine);
        scene.load(&mine, &first).await;
        let theirs: Arc<dyn ObjectStore> = Arc::new(original.fork());
        let theirs = scene.loader_in(&warehouse, &theirs);
        scene.load(&theirs, &second).await;
        for generation in [&second, &third] {
            let refused = mine.load(generation, &scene.rows(), false, &|_| {}).await;
            assert!(matches!(refused, Err(WarehouseError::Changed { .. })), "{refused:?}");
        }
        scene.verify(&theirs, &second).await;
        // One says that it is the one.
        mine.load(&third, &scene.rows(), true, &|_| {}).await.unwrap();
        scene.verify(&mine, &third).await;
        let refused = theirs.load(&third, &scene.rows(), false, &|_| {}).await;
        assert!(matches!(refused, Err(WarehouseError::Changed { .. })), "{refused:?}");
    }
}

/// Jobs of one ledger are not taken for those of another one with the same past, which loads other rows under the same number.
#[tokio::test]
async fn bigquery_jobs_are_those_of_one_plan() {
    let (fake, warehouse) = bigquery().await;
    let rows = contract::rows_of_most_types();
    let table = table_like(&rows);
    warehouse.prepare(&table).await.unwrap();
    let name = |plan: u128| LoadName {
        owner: table.owner,
        table: table.name.clone(),
        slice: Slice::Whole,
        number: LoadNumber {
            generation: GenerationNumber(1),
            again: 0,
        },
        plan: Uuid::from_u128(plan << 96),
    };
    warehouse.load(&table, &name(1), &rows).await.unwrap();
    warehouse.load(&table, &name(1), &rows).await.unwrap();
    assert_eq!(fake.applied().len(), 1);
    warehouse.load(&table, &name(2), &rows.slice(0, 1)).await.unwrap();
    assert_eq!(warehouse.rows(&table, Slice::Whole).await.unwrap().num_rows(), 1);
}

/// A store in which somebody else does something just before a record is written.
#[derive(Debug, Clone)]
struct Between {
    store: Arc<dyn ObjectStore>,
    at: Arc<std::sync::Mutex<Option<String>>>,
    reached: Arc<tokio::sync::Notify>,
    go_on: Arc<tokio::sync::Notify>,
}

impl std::fmt::Display for Between {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Between {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        let here = {
            let mut at = self.at.lock().unwrap();
            let here = at.as_ref().is_some_and(|at| location.as_ref().contains(at));
            here.then(|| at.take()).is_some()
        };
        if here {
            self.reached.notify_one();
            self.go_on.notified().await;
        }
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.store.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// Between the look at the ledger and the plan of a rollback the load that it takes back begins and ends: what that one
/// changed is no difference to what the rollback saw.
#[tokio::test]
async fn an_earlier_load_that_came_and_ended_meanwhile_is_seen() {
    let mut scene = Scene::new(24).await;
    let (_, warehouse) = memory();
    let between = Between {
        store: ledger(),
        at: Arc::default(),
        reached: Arc::default(),
        go_on: Arc::default(),
    };
    let store: Arc<dyn ObjectStore> = Arc::new(between.clone());
    let first = scene.next().await;
    scene.load(&scene.loader_in(&warehouse, &store), &first).await;
    let second = scene.next().await;
    let back = scene.world.generations.rollback(first.number).await.unwrap();
    let plan = format!("/days/{:020}-", back.number.0);
    *between.at.lock().unwrap() = Some(plan);
    let (loader, rows, generation) = (scene.loader_in(&warehouse, &store), scene.rows(), Arc::clone(&back));
    let later = tokio::spawn(async move { loader.load(&generation, &rows, false, &|_| {}).await });
    between.reached.notified().await;
    let earlier = scene.loader_in(&warehouse, &store);
    let report = earlier.load(&second, &scene.rows(), false, &|_| {}).await.unwrap();
    assert!(loaded(&report)["days"] > 0, "{report:?}");
    between.go_on.notify_one();
    later.await.unwrap().unwrap();
    scene.verify(&scene.loader_in(&warehouse, &store), &back).await;
}

#[tokio::test]
async fn bigquery_jobs_say_what_the_service_must_know() {
    let mut scene = Scene::new(25).await;
    let (fake, warehouse) = bigquery().await;
    let first = scene.next().await;
    scene.load(&scene.events_loader_in(&warehouse, &ledger()), &first).await;
    for job in fake.told() {
        let load = &job["configuration"]["load"];
        assert_eq!(load["createDisposition"], "CREATE_NEVER");
        assert_eq!(load["decimalTargetTypes"], serde_json::json!(["NUMERIC", "BIGNUMERIC"]));
        assert_eq!(load["parquetOptions"]["enableListInference"], false);
    }
    // Removed by somebody while it is loaded: no job makes a table of nobody.
    let rows = contract::rows_of_most_types();
    let table = table_like(&rows);
    let name = LoadName {
        owner: table.owner,
        table: table.name.clone(),
        slice: Slice::Whole,
        number: LoadNumber {
            generation: GenerationNumber(1),
            again: 0,
        },
        plan: Uuid::nil(),
    };
    let refused = warehouse.load(&table, &name, &rows).await;
    assert!(matches!(refused, Err(WarehouseError::Refused { .. })), "{refused:?}");
    assert!(!warehouse.exists(&table).await.unwrap());
}

/// Rows that make a file of several pieces.
fn large() -> RecordBatch {
    let mut random = StdRng::seed_from_u64(26);
    let texts = (0..20_000).map(|_| {
        let mut bytes = [0u8; 1024];
        rand::Rng::fill_bytes(&mut random, &mut bytes);
        bytes
    });
    let bytes: ArrayRef = Arc::new(arrow::array::BinaryArray::from_iter_values(texts));
    RecordBatch::try_from_iter_with_nullable([("bytes", bytes, true)]).unwrap()
}

#[tokio::test]
async fn large_files_go_in_pieces() {
    let rows = large();
    let folder = tempfile::tempdir().unwrap();
    let files = store::local(folder.path()).unwrap();
    let local: Arc<dyn Warehouse> = Arc::new(LocalWarehouse::new(files, "file:///there"));
    let (fake, bigquery) = bigquery().await;
    // One of three pieces, and one of two: with what the service takes of each.
    for (warehouse, rows) in [(local, rows.clone()), (bigquery, rows.slice(0, 10_000))] {
        let table = table_like(&rows);
        warehouse.prepare(&table).await.unwrap();
        for (plan, rows) in [(1, &rows), (2, &rows.slice(7, rows.num_rows() - 500))] {
            let name = LoadName {
                owner: table.owner,
                table: table.name.clone(),
                slice: Slice::Whole,
                number: LoadNumber {
                    generation: GenerationNumber(plan),
                    again: 0,
                },
                plan: Uuid::nil(),
            };
            warehouse.load(&table, &name, rows).await.unwrap();
            let mut held = RowsHash::default();
            held.add(&warehouse.rows(&table, Slice::Whole).await.unwrap()).unwrap();
            let mut wanted = RowsHash::default();
            wanted.add(rows).unwrap();
            assert_eq!(held, wanted);
        }
    }
    assert_eq!(fake.resumed(), 2);
    let staged = std::fs::read_dir(folder.path().join(".staging")).unwrap();
    assert_eq!(staged.count(), 0, "nothing is left behind");
}

/// Every row of the events' table, as the log has them.
async fn events_of(scene: &Scene, warehouse: &Arc<dyn Warehouse>, store: &Arc<dyn ObjectStore>) -> Vec<RecordBatch> {
    let stream = scene.world.stream();
    let table_schema = stream.table_schema();
    let names = [
        "id",
        "at",
        "amount",
        "_partition",
        "_offset",
        "_record_time",
        "_late",
        "_duplicate",
    ];
    let fields = names.map(|name| table_schema.field_with_name(name).unwrap().clone());
    let schema = Arc::new(arrow::datatypes::Schema::new(fields.to_vec()));
    let table = Table {
        name: stream.name.clone(),
        schema: foldline_batch_layer::warehouse::shaped_schema(&schema).unwrap(),
        day: Some("at".into()),
        owner: owner_of(store, &warehouse.place()).await,
        ..table_like(&RecordBatch::new_empty(Arc::clone(&schema)))
    };
    let mut batches = Vec::new();
    for slice in warehouse.slices(&table).await.unwrap() {
        let rows = warehouse.rows(&table, slice).await.unwrap();
        let days = arrow::compute::cast(rows.column(1), &DataType::Date32).unwrap();
        let days = days.as_primitive::<arrow::datatypes::Date32Type>();
        for day in days.values() {
            let day = chrono::DateTime::from_timestamp(i64::from(*day) * 86_400, 0).unwrap();
            assert_eq!(slice, Slice::Day(day.date_naive()));
        }
        batches.push(rows);
    }
    let rows = arrow::compute::concat_batches(&table.schema, &batches).unwrap();
    let columns = rows.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| arrow::compute::cast(column, field.data_type()).unwrap());
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap();
    // In log order, one batch for each partition.
    let partitions = rows.column(3).as_primitive::<arrow::datatypes::Int32Type>();
    let partition = |partition: i32| {
        let mask = partitions.iter().map(|of| Some(of == Some(partition))).collect();
        let rows = arrow::compute::filter_record_batch(&rows, &mask).unwrap();
        let order = arrow::compute::sort_to_indices(rows.column(4), None, None).unwrap();
        arrow::compute::take_record_batch(&rows, &order).unwrap()
    };
    vec![partition(0), partition(1)]
}

#[tokio::test]
async fn a_table_of_events_has_every_row_below_the_cut_once_and_its_sql_is_the_views() {
    let mut scene = Scene::new(27).await;
    let folder = tempfile::tempdir().unwrap();
    let files = store::local(folder.path()).unwrap();
    let local: Arc<dyn Warehouse> = Arc::new(LocalWarehouse::new(files, "file:///there"));
    let warehouses = [memory().1, bigquery().await.1, local];
    let stores = [ledger(), ledger(), ledger()];
    for round in 0..4 {
        // The archive goes on behind the cut, and files lie across it.
        let generation = match round {
            0 => scene.next().await,
            _ => {
                let tick = scene.world.complete_tick();
                scene.world.fill(&mut scene.random, 30).await;
                scene.world.run(RunKind::Incremental, tick).await.unwrap().generation
            }
        };
        for (warehouse, store) in warehouses.iter().zip(&stores) {
            let loader = scene.events_loader_in(warehouse, store);
            scene.load(&loader, &generation).await;
            let found = events_of(&scene, warehouse, store).await;
            let places = |batches: &[RecordBatch]| -> Vec<(i32, i64, bool, bool)> {
                let mut places = Vec::new();
                for batch in batches {
                    let int = |name| batch.column_by_name(name).unwrap();
                    let partitions = int("_partition").as_primitive::<arrow::datatypes::Int32Type>();
                    let offsets = int("_offset").as_primitive::<arrow::datatypes::Int64Type>();
                    let (late, duplicate) = (int("_late").as_boolean(), int("_duplicate").as_boolean());
                    places.extend((0..batch.num_rows()).map(|row| {
                        (
                            partitions.value(row),
                            offsets.value(row),
                            late.value(row),
                            duplicate.value(row),
                        )
                    }));
                }
                places
            };
            let expected = places(&scene.world.rows_below(&generation.cut));
            assert_eq!(places(&found), expected);
            assert!(expected.iter().any(|place| place.2) && expected.iter().any(|place| place.3));
            for view in scene.world.catalog.views() {
                let finished = scene.rows().rows(view, &generation).await.unwrap();
                let plain = fold_of(view).plain(&found).await.unwrap();
                assert_eq!(
                    plain, finished[0],
                    "{} at generation {}",
                    view.name, generation.number.0
                );
            }
        }
    }
}

#[tokio::test]
async fn only_days_whose_files_changed_are_loaded_of_events() {
    let mut scene = Scene::new(28).await;
    let first = scene.next().await;
    let (memory, warehouse) = memory();
    let store = ledger();
    scene.load(&scene.events_loader_in(&warehouse, &store), &first).await;
    let slices = |replaced: &[LoadName]| -> BTreeSet<Slice> {
        let events = replaced.iter().filter(|name| name.table == "clicks");
        events.map(|name| name.slice).collect()
    };
    let all = slices(&memory.replaced());
    let before = memory.replaced().len();
    let cut = first.cut.clone();
    let second = scene.next().await;
    scene.load(&scene.events_loader_in(&warehouse, &store), &second).await;
    let mut days = BTreeSet::new();
    for (batch, below) in [(&second.cut, true), (&cut, false)] {
        let rows = scene.world.rows_below(batch);
        for batch in &rows {
            let partition = batch.column_by_name("_partition").unwrap();
            let partitions = partition.as_primitive::<arrow::datatypes::Int32Type>().clone();
            let offsets = batch.column_by_name("_offset").unwrap();
            let offsets = offsets.as_primitive::<arrow::datatypes::Int64Type>().clone();
            let at = arrow::compute::cast(batch.column_by_name("at").unwrap(), &DataType::Date32).unwrap();
            let at = at.as_primitive::<arrow::datatypes::Date32Type>().clone();
            for row in 0..batch.num_rows() {
                let cut = cut
                    .partitions
                    .iter()
                    .find(|cut| cut.partition.partition.0 as i32 == partitions.value(row));
                let new = cut.is_none_or(|cut| offsets.value(row) >= cut.next.0 as i64);
                if below && new {
                    let day = chrono::DateTime::from_timestamp(i64::from(at.value(row)) * 86_400, 0).unwrap();
                    days.insert(Slice::Day(day.date_naive()));
                }
            }
        }
    }
    let found = slices(&memory.replaced()[before..]);
    assert_eq!(found, days);
    assert!(found.len() < all.len(), "{found:?} of {all:?}");
    // Nothing new: no row of the archive is read, and none of the warehouse is written.
    let before = memory.replaced().len();
    let report = scene.load(&scene.events_loader_in(&warehouse, &store), &second).await;
    assert_eq!((memory.replaced().len(), loaded(&report)["clicks"]), (before, 0));
}

#[tokio::test]
async fn events_that_are_lost_or_damaged_are_told() {
    let mut scene = Scene::new(29).await;
    let first = scene.next().await;
    let folder = tempfile::tempdir().unwrap();
    let files = store::local(folder.path()).unwrap();
    let warehouse: Arc<dyn Warehouse> = Arc::new(LocalWarehouse::new(Arc::clone(&files), "file:///there"));
    let loader = scene.events_loader_in(&warehouse, &ledger());
    scene.load(&loader, &first).await;
    let of_clicks = |found: Vec<Difference>| found.into_iter().find(|found| found.table == "clicks").unwrap();
    let days = store::list(files.as_ref(), &"clicks".into()).await.unwrap();
    let mut days = days
        .iter()
        .filter(|object| object.location.as_ref().ends_with(".parquet"));
    let (one, other) = (days.next().unwrap(), days.next().unwrap());
    let bytes = files.get(&one.location).await.unwrap().bytes().await.unwrap();
    files.put(&other.location, bytes.into()).await.unwrap();
    let found = of_clicks(scene.differences(&loader, &first).await);
    assert_eq!(found.equal, Some(false), "{found:?}");

    // A row of the archive that is not there any more is no smaller table.
    let archived = scene.world.paths("archive").await;
    let victim = archived.iter().find(|path| path.contains("/date=")).unwrap();
    scene.world.store.delete(&victim.as_str().into()).await.unwrap();
    let loader = scene.events_loader_in(&warehouse, &ledger());
    let report = loader.load(&first, &scene.rows(), true, &|_| {}).await.unwrap();
    let told = report.tables.iter().find(|table| table.table == "clicks").unwrap();
    assert!(told.error.is_some(), "{report:?}");
    assert!(
        report.tables.iter().all(|table| table.table != MARKER),
        "the marker stays"
    );
}
