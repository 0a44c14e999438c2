//! One foldline of several processes whose realtime views lie on Apache Cassandra, over Apache Kafka (`make test-services`
//! starts both): serving nodes fold nothing and follow nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::cli::write;
use crate::cluster::{BY_HAND, Reader, SHORT, assert_whole, await_total, batch, node, ok, send_rows, total};
use crate::crashes::Dice;
use crate::installation::{Folder, Running};
use crate::kafka::{PATIENCE, ask, ask_until, brokers};

/// Sessions of a page, which follow each other through the day and the night; of all pages, that is of all partitions, together;
/// and a view whose fold is a part of it.
const SESSIONS: &str =
    "CREATE VIEW stays AS SELECT page, session(at, INTERVAL '7 minutes') AS stay, count(*) AS visits,
  sum(seconds) AS seconds FROM visits GROUP BY 1, 2;
CREATE VIEW rushes AS SELECT session(at, INTERVAL '90 seconds') AS rush,
  window_end(session(at, INTERVAL '90 seconds')) AS ended, count(*) AS visits FROM visits GROUP BY 1;
CREATE VIEW ranks AS SELECT page, visits, rank() OVER (ORDER BY visits DESC) AS place
  FROM (SELECT page, count(*) AS visits FROM visits GROUP BY 1) AS counts;\n";
/// Visits are at any of so many minutes, in no order: they begin sessions earlier, and join them.
const MINUTES: usize = 1_300;

const ROUNDS: u64 = 4;
const ROUNDS_SOAK: u64 = 50;

/// Brokers, and a node of Cassandra.
fn servers() -> Option<(String, String)> {
    let cassandra = std::env::var("FOLDLINE_TEST_CASSANDRA")
        .ok()
        .filter(|node| !node.is_empty());
    if cassandra.is_none() {
        eprintln!("skipped: FOLDLINE_TEST_CASSANDRA names no node");
    }
    Some((brokers()?, cassandra?))
}

/// Settings of a store of its own.
fn realtime(cassandra: &str) -> String {
    let keyspace = format!("test_{}", Uuid::new_v4().simple());
    format!(
        "[realtime]\nstore = \"cassandra\"\nnodes = \"{cassandra}\"\nkeyspace = \"{keyspace}\"\nreplication = 1\n\
         flush_ms = 100\npoll_ms = 50\n"
    )
}

/// A folder with sessions among its views.
fn folder(brokers: &str, settings: &str) -> Folder {
    let folder = Folder::on_cluster(brokers, settings);
    write(folder.path(), "sql/pipelines/web/sessions.sql", SESSIONS);
    folder
}

/// Sends visits from one afternoon to the next.
fn send(collector: &Running, range: std::ops::Range<usize>) {
    let visit = |number: usize| {
        let minute = 15 * 60 + number * 613 % MINUTES;
        let (day, hour, minute) = (2 + minute / 1_440, minute / 60 % 24, minute % 60);
        let page = number % 7;
        format!(
            "{{\"visit_id\":\"v{number}\",\"page\":\"/{page}\",\"seconds\":1,\"at\":\"2026-03-0{day}T{hour:02}:{minute:02}:00Z\"}}\n"
        )
    };
    send_rows(collector, &range.map(visit).collect::<String>());
}

/// What the foldline at `address` says of partitions that grow old.
fn stale(address: &str) -> Vec<String> {
    let (_, status) = ask(address, "GET /v1/status", "", "");
    let parts = status.split("\"realtime_stale\":\"").skip(1);
    parts
        .map(|rest| rest.split('"').next().unwrap_or_default().to_owned())
        .collect()
}

/// The visits of the rows of an answer, which are of several sessions.
fn counted(answer: &str) -> usize {
    let rows = answer.split("\"visits\":").skip(1).map(|rest| {
        let digits = rest
            .chars()
            .skip_while(|letter| *letter == '"')
            .take_while(char::is_ascii_digit);
        let digits: String = digits.collect();
        digits.parse::<usize>().unwrap_or_default()
    });
    let rows: Vec<usize> = rows.collect();
    assert!(rows.len() > 5, "{answer}");
    rows.iter().sum()
}

#[test]
fn cassandra_holds_what_speed_nodes_fold_whoever_dies() {
    let Some((brokers, cassandra)) = servers() else { return };
    let folder = folder(&brokers, &format!("{SHORT}{BY_HAND}{}", realtime(&cassandra)));
    let collect = node(&folder, "collect", "collect");
    let archive = node(&folder, "archive", "archive");
    let [speed_a, speed_b] = ["speed-a", "speed-b"].map(|name| node(&folder, name, "speed"));
    let leader = node(&folder, "batch", "batch");
    let [serve_a, serve_b] = ["serve-a", "serve-b"].map(|name| node(&folder, name, "serve"));
    let sent = Arc::new(AtomicU64::new(500));
    let readers = [&serve_a, &serve_b].map(|serve| Reader::of(&serve.address, &sent));
    send(&collect, 0..500);
    await_total(&serve_a.address, 500);
    await_total(&serve_b.address, 500);
    // Nobody sends realtime views to anybody.
    assert_eq!(ask(&speed_a.address, "GET /v1/realtime", "", "").0, 404);
    batch(&folder, "batch", &[]);
    sent.store(600, Ordering::SeqCst);
    send(&collect, 500..600);
    await_total(&serve_a.address, 600);
    ok(&folder, "serve-a", &["verify", "--all"]);
    // One key, as a point read.
    let (status, page) = ask(&serve_a.address, "GET /v1/views/pages?page=/0", "", "");
    assert_eq!(status, 200, "{page}");
    // And the sessions of one, whose rows are one cell of each segment.
    let (status, stays) = ask(&serve_a.address, "GET /v1/views/stays?page=/3&limit=1000", "", "");
    assert_eq!(status, 200, "{stays}");
    assert_eq!(
        counted(&stays),
        (0..600).filter(|number| number % 7 == 3).count(),
        "{stays}"
    );

    // A speed node dies, its partitions move.
    speed_a.kill_minus_9();
    assert_eq!(total(&serve_b.address), Some(600), "what it wrote stays");
    sent.store(900, Ordering::SeqCst);
    send(&collect, 600..900);
    await_total(&serve_a.address, 900);
    await_total(&serve_b.address, 900);

    // All die: answers stay, and say of which partitions nobody writes.
    speed_b.kill_minus_9();
    let serve_c = node(&folder, "serve-c", "serve");
    await_total(&serve_c.address, 900);
    let since = Instant::now();
    while stale(&serve_a.address).len() < 3 {
        assert!(since.elapsed() < PATIENCE, "{:?}", stale(&serve_a.address));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(
        stale(&serve_a.address)
            .iter()
            .all(|reason| reason.contains("role speed"))
    );
    assert_eq!(total(&serve_a.address), Some(900));
    ask_until(&serve_a.address, "GET /readyz", |status, _| status == 200);

    let speed_c = node(&folder, "speed-c", "speed");
    sent.store(1000, Ordering::SeqCst);
    send(&collect, 900..1000);
    await_total(&serve_a.address, 1000);
    let since = Instant::now();
    while !stale(&serve_a.address).is_empty() {
        assert!(since.elapsed() < PATIENCE, "{:?}", stale(&serve_a.address));
        std::thread::sleep(Duration::from_millis(200));
    }
    let answers: Vec<u64> = readers.into_iter().map(Reader::end).collect();
    assert!(answers.iter().all(|answers| *answers > 20), "{answers:?}");
    assert_whole(&folder, &serve_c, "serve-c", "batch", 1000);
    for process in [collect, archive, speed_c, leader, serve_a, serve_b, serve_c] {
        process.terminate();
    }
}

#[test]
fn cassandra_soak_of_kills_and_rebalances_loses_and_repeats_nothing() {
    let Some((brokers, cassandra)) = servers() else { return };
    let rounds = if std::env::var_os("FOLDLINE_SOAK").is_some() {
        ROUNDS_SOAK
    } else {
        ROUNDS
    };
    let seed = std::env::var("FOLDLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("FOLDLINE_SEED={seed}");
    let mut dice = Dice(seed);
    let settings = SHORT.replace("cut_every_ms = 250", "cut_every_ms = 250\ncheckpoint_every_ms = 500");
    let scheduled = "[batch]\nkeep = 2\nschedule = \"*/3 * * * * *\"\n";
    let realtime = realtime(&cassandra);
    let folder = folder(&brokers, &format!("{settings}{scheduled}{realtime}"));
    let collect = node(&folder, "collect", "collect");
    let keep = node(&folder, "keep", "serve");
    let leader = node(&folder, "batch", "batch");
    let names = ["a", "b"];
    let mut nodes = names.map(|name| Some(node(&folder, name, "archive,speed")));
    let sent = Arc::new(AtomicU64::new(0));
    let reader = Reader::of(&keep.address, &sent);
    let mut next = 0;
    for round in 0..rounds {
        for _ in 0..4 {
            sent.store(next as u64 + 100, Ordering::SeqCst);
            send(&collect, next..next + 100);
            next += 100;
            std::thread::sleep(Duration::from_millis(dice.below(700)));
        }
        let one = usize::try_from(dice.below(2)).unwrap();
        let process: Running = nodes[one].take().unwrap();
        match dice.below(3) {
            0 => process.terminate(),
            _ => process.kill_minus_9(),
        }
        std::thread::sleep(Duration::from_millis(dice.below(2_000)));
        nodes[one] = Some(node(&folder, names[one], "archive,speed"));
        if round % 2 == 1 {
            await_total(&keep.address, next as u64);
            ok(&folder, "keep", &["verify", "--all"]);
        }
    }
    await_total(&keep.address, next as u64);
    let answers = reader.end();
    assert!(answers > 20, "{answers} answers meanwhile");
    leader.terminate();
    folder.set_cluster(&brokers, &format!("{settings}{BY_HAND}{realtime}"));
    let leader = node(&folder, "batch", "batch");
    assert_whole(&folder, &keep, "keep", "batch", next as u64);
    for process in nodes.into_iter().flatten().chain([collect, keep, leader]) {
        process.terminate();
    }
}
