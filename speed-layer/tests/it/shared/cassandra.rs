//! The shared store on Apache Cassandra, on the node that `FOLDLINE_TEST_CASSANDRA` names (`make test-services` starts
//! one).

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use foldline_event_log::Cut;
use foldline_speed_layer::shared::cassandra::{CassandraSettings, CassandraStore, Consistency, TimestampGenerator};
use foldline_speed_layer::shared::{SharedStore, StoreError, contract};
use uuid::Uuid;

use super::faults::{Faulty, Rates};
use super::{Node, PATIENCE, Watcher, live, reader};
use crate::world::{STREAM, VIEWS, World};

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
    let world = World::new(&format!("{STREAM}{VIEWS}"), 81).await;
    let faulty = Faulty::over(store(settings).await, Rates::HARD, 81);
    let answers = live(&world, faulty, STEPS).await;
    assert!(answers > 0);
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
        assert!(node.flush().await);
        assert!(watcher.look(&world, &cut).await);
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
