//! The shared store on Apache Cassandra, on the node that `FOLDLINE_TEST_CASSANDRA` names (`make test-services` starts
//! one).

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use foldline_event_log::Cut;
use foldline_speed_layer::Gaps;
use foldline_speed_layer::shared::cassandra::{CassandraSettings, CassandraStore, Consistency, TimestampGenerator};
use foldline_speed_layer::shared::{CHUNK_BYTES, SharedStore, StoreError, Writer, WriterSettings, contract};
use uuid::Uuid;

use super::faults::{Faulty, Rates};
use super::{Node, PATIENCE, Watcher, live, reader, writer_settings};
use crate::world::{SESSIONS, STREAM, VIEWS, World};

const STEPS: u64 = 40;

/// The node, if there is one for tests.
pub fn node() -> Option<String> {
    let node = std::env::var("FOLDLINE_TEST_CASSANDRA")
        .ok()
        .filter(|node| !node.is_empty());
    if node.is_none() {
        eprintln!("skipped: FOLDLINE_TEST_CASSANDRA names no node");
    }
    node
}

pub fn settings(node: &str) -> CassandraSettings {
    CassandraSettings {
        nodes: vec![node.to_owned()],
        keyspace: format!("test_{}", Uuid::new_v4().simple()),
        replication: 1,
        consistency: Consistency::Quorum,
        user: String::new(),
        password: String::new(),
        request: Duration::from_secs(10),
        in_flight: 64,
        accept_periodic_sync: false,
        timestamps: None,
    }
}

async fn store(settings: CassandraSettings) -> Arc<dyn SharedStore> {
    Arc::new(CassandraStore::open(settings).await.unwrap())
}

/// An hour behind, then an hour ahead, and back again.
#[derive(Debug, Default)]
struct Wrong(AtomicI64);

impl TimestampGenerator for Wrong {
    fn next_timestamp(&self) -> i64 {
        let hours = [-1, 1, 0][usize::try_from(self.0.fetch_add(1, Ordering::Relaxed) / 50 % 3).unwrap()];
        chrono::Utc::now().timestamp_micros() + hours * 3_600_000_000
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cassandra_keeps_the_contract() {
    let Some(node) = node() else { return };
    let settings = settings(&node);
    let store = store(settings.clone()).await;
    contract::check_all(store).await;
    // Again on what is there, by a clock that is wrong.
    let wrong = CassandraSettings {
        timestamps: Some(Arc::new(Wrong::default())),
        ..settings
    };
    contract::versions_come_back(&*self::store(wrong.clone()).await).await;
    contract::heads_come_newest_first(&*self::store(wrong.clone()).await).await;
    contract::the_same_once_more_changes_nothing(&*self::store(wrong).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cassandra_readers_see_prefixes_of_the_log_whatever_is_lost_and_whatever_the_clock_says() {
    let Some(node) = node() else { return };
    let settings = CassandraSettings {
        timestamps: Some(Arc::new(Wrong::default())),
        ..settings(&node)
    };
    let world = World::new(&format!("{STREAM}{VIEWS}{SESSIONS}"), 81).await;
    let faulty = Faulty::over(store(settings).await, Rates::HARD, 81);
    let answers = live(&world, faulty, STEPS).await;
    assert!(answers > 0);
}

/// One key whose state is larger than a mutation of Cassandra may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cassandra_keeps_a_state_that_is_larger_than_a_mutation() {
    const PAGE_BYTES: usize = 600_000;
    const MUTATION_BYTES: u64 = 16 << 20;
    let Some(node) = node() else { return };
    let view = "CREATE VIEW all_pages AS SELECT count(*) AS n, array_agg(page ORDER BY at) AS pages FROM clicks;";
    let stream = STREAM.replace("partitions = 3", "partitions = 1");
    let world = World::new(&format!("{stream}{view}"), 83).await;
    let store = store(settings(&node)).await;
    let mut node = Node::start(&world, &store, "one", &Cut::default()).await;
    let settings = WriterSettings {
        chunk_bytes: CHUNK_BYTES,
        kept: PATIENCE,
        ..writer_settings()
    };
    let clock = Arc::new(world.clock.clone());
    node.writer = Writer::new(Arc::clone(&store), &world.catalog, Gaps::new(), clock, settings);
    let mut watcher = Watcher::new(reader(&world, &store));
    for round in 0..2 {
        for click in 0..16 {
            let page = format!("{round}{click:02}").repeat(PAGE_BYTES / 3);
            let value = format!(
                "{{\"click_id\":\"{round}-{click}\",\"user_id\":\"u\",\"page\":\"{page}\",\"at\":\"2023-11-14T22:13:20\"}}"
            );
            let record = world.record("u", value);
            world.log.append(&world.topic.name, vec![record], None).await.unwrap();
        }
        node.catch_up(&world).await;
        let before = node.writer.written();
        assert!(node.flush().await);
        assert!(
            watcher.look(&world, &Cut::default()).await,
            "{:?}",
            watcher.reader.refused()
        );
        let written = node.writer.written();
        assert_eq!(written.versions - before.versions, 1, "one key");
        assert!(
            round == 0 || written.bytes - before.bytes > MUTATION_BYTES,
            "{written:?}"
        );
    }
    node.running.end().await;
}

/// Nothing is made that is there, nodes are remembered, and tables of another layout are left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cassandra_is_opened_again_as_it_was_made_and_not_in_another_format() {
    let Some(node) = node() else { return };
    let settings = settings(&node);
    drop(store(settings.clone()).await);
    let session = scylla::client::session_builder::SessionBuilder::new().known_node(&node);
    let session = session.build().await.unwrap();
    let keyspace = &settings.keyspace;
    let schema = async || {
        let asked = "SELECT table_name, id FROM system_schema.tables WHERE keyspace_name = ?";
        let rows = session.query_unpaged(asked, (keyspace,)).await.unwrap();
        let rows = rows.into_rows_result().unwrap();
        let rows = rows.rows::<(String, Uuid)>().unwrap().map(Result::unwrap);
        rows.collect::<BTreeMap<_, _>>()
    };
    let made = schema().await;
    assert_eq!(made.keys().collect::<Vec<_>>(), ["coverage", "format", "state"]);
    let format = async || {
        let rows = session
            .query_unpaged(format!("SELECT name, value FROM {keyspace}.format"), ())
            .await
            .unwrap();
        let rows = rows.into_rows_result().unwrap();
        let rows = rows.rows::<(String, String)>().unwrap().map(Result::unwrap);
        rows.collect::<BTreeMap<_, _>>()
    };
    let noted = format().await;
    let synced = noted.iter().filter(|(name, _)| name.starts_with("commitlog_sync of "));
    let synced: Vec<&str> = synced.map(|(_, sync)| sync.as_str()).collect();
    assert!(matches!(synced[..], ["group" | "batch"]), "{noted:?}");
    // A table that was lost is made, the others are not touched.
    session
        .query_unpaged(format!("DROP TABLE {keyspace}.state"), ())
        .await
        .unwrap();
    drop(store(settings.clone()).await);
    let again = schema().await;
    assert_eq!(
        (&again["coverage"], &again["format"]),
        (&made["coverage"], &made["format"])
    );
    assert_ne!(again["state"], made["state"]);
    let other = format!("UPDATE {keyspace}.format SET value = '1' WHERE name = 'tables'");
    session.query_unpaged(other, ()).await.unwrap();
    match CassandraStore::open(settings.clone()).await {
        Err(StoreError::Unfit(reason)) => {
            assert!(reason.contains("format 1") && reason.contains("writes 2"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(format().await["tables"], "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cassandra_is_refused_where_reads_may_miss_what_was_acknowledged() {
    let Some(node) = node() else { return };
    let settings = settings(&node);
    let several = CassandraSettings {
        replication: 3,
        consistency: Consistency::One,
        ..settings.clone()
    };
    match CassandraStore::open(several).await {
        Err(StoreError::Unfit(reason)) => assert!(reason.contains("quorum"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let misnamed = CassandraSettings {
        keyspace: "x; DROP KEYSPACE y".to_owned(),
        ..settings.clone()
    };
    assert!(matches!(
        CassandraStore::open(misnamed).await,
        Err(StoreError::Unfit(_))
    ));
    assert!(!format!("{settings:?}").contains("password"));
}

/// Kills and starts the node of these tests.
fn server(signal: &str) -> Option<bool> {
    let folder = std::env::var("FOLDLINE_TEST_CASSANDRA_DIR").ok()?;
    let (_, port) = std::env::var("FOLDLINE_TEST_CASSANDRA")
        .ok()?
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))?;
    if signal == "start" {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/services/cassandra.sh");
        return Some(
            Command::new(script)
                .args(["start", &folder, &port])
                .status()
                .unwrap()
                .success(),
        );
    }
    let pid = std::fs::read_to_string(format!("{folder}/pid")).unwrap();
    let killed = Command::new("kill")
        .args([signal, pid.trim()])
        .status()
        .unwrap()
        .success();
    while std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
        && signal == "-KILL"
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(killed)
}

/// A node that is down stops nobody, once it was asked how it syncs. Alone: the node that the others use says that there is
/// one more, where nothing listens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "others would miss the node that is not there: run it by itself"]
async fn cassandra_that_lacks_a_node_is_used_by_who_knows_how_it_syncs() {
    let Some(node) = node() else { return };
    let settings = settings(&node);
    let keyspace = &settings.keyspace;
    drop(store(settings.clone()).await);
    let session = scylla::client::session_builder::SessionBuilder::new().known_node(&node);
    let session = session.build().await.unwrap();
    let missing = Uuid::new_v4();
    let run = async |statement: String| drop(session.query_unpaged(statement, ()).await.unwrap());
    run(format!(
        "INSERT INTO system.peers (peer, host_id, rpc_address, data_center, rack, tokens) \
         VALUES ('127.0.0.9', {missing}, '127.0.0.9', 'datacenter1', 'rack1', {{'42'}})"
    ))
    .await;
    let said = async |sync: &str| {
        let name = format!("commitlog_sync of {missing}");
        run(format!(
            "INSERT INTO {keyspace}.format (name, value) VALUES ('{name}', '{sync}')"
        ))
        .await;
    };
    let refused = async || match CassandraStore::open(settings.clone()).await {
        Err(StoreError::Unfit(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let unknown = refused().await;
    said("group").await;
    let opened = CassandraStore::open(settings.clone()).await;
    said("periodic").await;
    let late = refused().await;
    run("DELETE FROM system.peers WHERE peer = '127.0.0.9'".to_owned()).await;
    assert!(
        unknown.contains("127.0.0.9") && unknown.contains("nobody knows yet how it syncs"),
        "{unknown}"
    );
    assert!(late.contains("127.0.0.9") && late.contains("periodic"), "{late}");
    contract::versions_come_back(&opened.unwrap()).await;
}

/// Alone: it kills the server that the others use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "kills the server that other tests use: run it by itself"]
async fn cassandra_that_is_killed_comes_back_with_what_it_acknowledged() {
    let Some(address) = node() else { return };
    let world = World::new(&format!("{STREAM}{VIEWS}"), 82).await;
    let store = store(settings(&address)).await;
    let cut = Cut::default();
    let mut node = Node::start(&world, &store, "one", &cut).await;
    let mut watcher = Watcher::new(reader(&world, &store));
    for round in 0..3 {
        world.append(20, 2_000).await;
        node.catch_up(&world).await;
        watcher
            .until_everything_is_seen(&world, &cut, std::slice::from_mut(&mut node))
            .await;
        world.append(20, 2_000).await;
        node.catch_up(&world).await;
        // In the middle of a flush.
        let killed = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(round * 7));
            server("-KILL")
        });
        node.flush().await;
        if killed.join().unwrap().is_none() {
            return;
        }
        assert!(!node.flush().await, "nothing answers");
        // In a thread of its own: it waits until the server is ready.
        assert_eq!(
            tokio::task::spawn_blocking(|| server("start")).await.unwrap(),
            Some(true)
        );
        let since = Instant::now();
        while !node.flush().await {
            assert!(since.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        watcher
            .until_everything_is_seen(&world, &cut, std::slice::from_mut(&mut node))
            .await;
        assert!(watcher.reader.refused().is_empty(), "{:?}", watcher.reader.refused());
    }
    let eras = store.heads(&world.partitions()[0]).await.unwrap();
    assert!(
        eras.iter().all(|head| head.rank.era == 0),
        "nothing had to be written anew: {eras:?}"
    );
    node.running.end().await;
}
