//! One foldline of several processes over Apache Kafka (`make test-services`): roles apart, processes that are killed,
//! stopped, started, and partitions that move meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::crashes::Dice;
use crate::installation::{Folder, Running};
use crate::kafka::{PATIENCE, ask, ask_until, brokers, delete_records, produce, visits};

pub(crate) const SHORT: &str =
    "[speed]\ncut_every_ms = 250\n[archive]\nroll_age_ms = 500\n[serve]\nlongest_query_ms = 5000\n";
pub(crate) const BY_HAND: &str = "[batch]\nschedule = \"\"\n";
const REBALANCE_EVERY: Duration = Duration::from_secs(2);
const ROUNDS: u64 = 4;
const ROUNDS_SOAK: u64 = 50;
const TOTAL: &str = "{\"sql\":\"SELECT sum(visits) AS n FROM pages\"}";

/// A process of `folder` with `roles`, which keeps its data under `name`.
pub(crate) fn node(folder: &Folder, name: &str, roles: &str) -> Running {
    folder.start_with(&["run", "--role", roles, "--data-dir", name])
}

/// A command to the process `name`.
pub(crate) fn ok(folder: &Folder, name: &str, arguments: &[&str]) -> String {
    folder.ok(&[arguments, &["--data-dir", name]].concat())
}

pub(crate) fn send(collector: &Running, range: std::ops::Range<usize>) {
    send_rows(collector, &visits(range));
}

/// The same of visits that are written out.
pub(crate) fn send_rows(collector: &Running, rows: &str) {
    let json = "Content-Type: application/x-ndjson\r\n";
    let since = Instant::now();
    loop {
        let (status, answer) = ask(&collector.address, "POST /v1/streams/visits/events", json, rows);
        if status == 202 {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{status}: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// All visits that the foldline at `address` counts, unless it refuses.
pub(crate) fn total(address: &str) -> Option<u64> {
    let (status, answer) = ask(address, "POST /v1/query", "Content-Type: application/json\r\n", TOTAL);
    if status != 200 {
        return None;
    }
    let n = answer.split("\"n\":").nth(1)?;
    let digits: String = n
        .chars()
        .skip_while(|c| *c == '"')
        .take_while(char::is_ascii_digit)
        .collect();
    Some(digits.parse().unwrap_or(0))
}

pub(crate) fn await_total(address: &str, wanted: u64) {
    let since = Instant::now();
    loop {
        let counted = total(address);
        if counted == Some(wanted) {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{counted:?} visits, not {wanted}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs a batch on `name` as soon as that one leads.
pub(crate) fn batch(folder: &Folder, name: &str, arguments: &[&str]) {
    let since = Instant::now();
    loop {
        let run = folder.run(&[&["batch", "run", "--data-dir", name], arguments].concat());
        if run.status.success() {
            return;
        }
        let said = crate::cli::text(&run.stderr);
        assert!(since.elapsed() < 2 * PATIENCE, "{said}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Asks for the total every 50 ms: it may be refused, but what was sent is never counted twice, and what was counted
/// stays counted.
pub(crate) struct Reader {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Reader {
    pub(crate) fn of(address: &str, sent: &Arc<AtomicU64>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let (address, sent, stopped, answered) = (
            address.to_owned(),
            Arc::clone(sent),
            Arc::clone(&stop),
            Arc::clone(&answers),
        );
        let thread = std::thread::spawn(move || {
            let mut before = 0;
            while !stopped.load(Ordering::Relaxed) {
                if let Some(now) = total(&address) {
                    assert!(now >= before, "{before} visits were counted, and {now} now");
                    let sent = sent.load(Ordering::SeqCst);
                    assert!(now <= sent, "{sent} visits were sent, {now} are counted");
                    before = now;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, answers, thread }
    }

    /// Its number of answers.
    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.answers.load(Ordering::Relaxed)
    }
}

/// Every row once, in the archive and in the answers.
pub(crate) fn assert_whole(folder: &Folder, serve: &Running, serve_name: &str, batch_name: &str, sent: u64) {
    await_total(&serve.address, sent);
    ok(folder, serve_name, &["verify", "--all"]);
    batch(folder, batch_name, &["--full"]);
    await_total(&serve.address, sent);
    ok(folder, serve_name, &["verify", "--all"]);
    ok(folder, serve_name, &["archive", "audit"]);
    // Unique keys hide a row that was archived twice: the raw rows tell, once the generation of that run is adopted.
    let (raw, wanted) = (
        "SELECT count(*) AS n, count(DISTINCT visit_id) AS ids FROM visits",
        format!("n,ids\n{sent},{sent}\n"),
    );
    let since = Instant::now();
    loop {
        let raw = ok(folder, serve_name, &["query", raw, "--format", "csv"]);
        if raw == wanted {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{raw} instead of {wanted}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn kafka_roles_apart_answer_as_one() {
    let Some(brokers) = brokers() else { return };
    let folder = Folder::on_cluster(&brokers, &format!("{SHORT}{BY_HAND}"));
    let collect = node(&folder, "collect", "collect");
    let archive = ["archive-a", "archive-b"].map(|name| node(&folder, name, "archive"));
    let [speed_a, speed_b] = ["speed-a", "speed-b"].map(|name| node(&folder, name, "speed"));
    let leader = node(&folder, "batch-a", "batch");
    let [serve_a, serve_b] = ["serve-a", "serve-b"].map(|name| node(&folder, name, "serve"));

    let sent = Arc::new(AtomicU64::new(500));
    let readers = [&serve_a, &serve_b].map(|serve| Reader::of(&serve.address, &sent));
    send(&collect, 0..500);
    await_total(&serve_a.address, 500);
    await_total(&serve_b.address, 500);
    // Nothing of another role is answered, everything of every process.
    assert_eq!(ask(&collect.address, "GET /v1/views", "", "").0, 404);
    for process in [&collect, &archive[0], &speed_a, &leader] {
        ask_until(&process.address, "GET /readyz", |status, _| status == 200);
        let (_, metrics) = ask(&process.address, "GET /metrics", "", "");
        assert!(metrics.contains("# EOF"), "{metrics}");
    }
    batch(&folder, "batch-a", &[]);
    sent.store(600, Ordering::SeqCst);
    send(&collect, 500..600);
    await_total(&serve_a.address, 600);
    ok(&folder, "serve-a", &["verify", "--all"]);

    // Only one leads, and another one says who.
    let heir = node(&folder, "batch-b", "batch");
    ask_until(&heir.address, "GET /readyz", |status, _| status == 200);
    let refused = folder.no(&["batch", "run", "--data-dir", "batch-b"]);
    assert!(
        refused.contains(&format!("are led by the foldline at http://{}", leader.address)),
        "{refused}"
    );
    // A gap may only be accepted where nobody shows what was folded of it.
    let refused = folder.no(&["gaps", "accept", "visits", "--data-dir", "archive-a"]);
    assert!(refused.contains("in a cluster gaps are accepted while"), "{refused}");

    // A speed node, an archiver and the leader die; others take over, and answers go on meanwhile.
    speed_a.kill_minus_9();
    let [archive_a, archive_b] = archive;
    archive_a.kill_minus_9();
    leader.kill_minus_9();
    assert_eq!(total(&serve_a.address), Some(600), "what it showed stays");
    sent.store(900, Ordering::SeqCst);
    send(&collect, 600..900);
    await_total(&serve_a.address, 900);
    await_total(&serve_b.address, 900);
    batch(&folder, "batch-b", &[]);
    let answers: Vec<u64> = readers.into_iter().map(Reader::end).collect();
    assert!(answers.iter().all(|answers| *answers > 20), "{answers:?}");

    // A serving node that was not there yet.
    let serve_c = node(&folder, "serve-c", "serve");
    await_total(&serve_c.address, 900);
    assert_whole(&folder, &serve_c, "serve-c", "batch-b", 900);
    for process in [collect, archive_b, speed_b, heir, serve_a, serve_b, serve_c] {
        process.terminate();
    }
}

#[test]
fn kafka_cluster_soak_of_kills_loses_and_repeats_nothing() {
    let Some(brokers) = brokers() else { return };
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
    let folder = Folder::on_cluster(
        &brokers,
        &format!("{settings}[batch]\nkeep = 2\nschedule = \"*/2 * * * * *\"\n"),
    );
    let collect = node(&folder, "collect", "collect");
    let keep = node(&folder, "keep", "serve");
    let roles = [
        ("a", "archive,speed"),
        ("b", "archive,speed"),
        ("c", "batch"),
        ("d", "batch,serve"),
    ];
    let mut nodes = roles.map(|(name, roles)| Some(node(&folder, name, roles)));
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
        let dies = usize::try_from(dice.below(4)).unwrap();
        let (name, roles) = roles[dies];
        println!("round {round}: {name} ({roles}) dies");
        nodes[dies].take().unwrap().kill_minus_9();
        std::thread::sleep(Duration::from_millis(dice.below(2_000)));
        nodes[dies] = Some(node(&folder, name, roles));
        if round % 2 == 1 {
            await_total(&keep.address, next as u64);
            ok(&folder, "keep", &["verify", "--all"]);
        }
    }
    await_total(&keep.address, next as u64);
    let answers = reader.end();
    assert!(answers > 20, "{answers} answers meanwhile");
    // A scheduled run would only be in the way of the one by hand.
    let [a, b, c, d] = nodes.map(Option::unwrap);
    c.terminate();
    d.terminate();
    folder.set_cluster(&brokers, &format!("{settings}{BY_HAND}"));
    let leader = node(&folder, "c", "batch");
    assert_whole(&folder, &keep, "keep", "c", next as u64);
    for process in [collect, keep, a, b, leader] {
        process.terminate();
    }
}

#[test]
fn kafka_cluster_rebalances_without_end_and_stays_exact() {
    let Some(brokers) = brokers() else { return };
    let for_long = if std::env::var_os("FOLDLINE_SOAK").is_some() {
        Duration::from_secs(300)
    } else {
        Duration::from_secs(20)
    };
    let folder = Folder::on_cluster(&brokers, &format!("{SHORT}{BY_HAND}"));
    folder.with_partitions(16);
    let collect = node(&folder, "collect", "collect");
    let serve = node(&folder, "serve", "serve");
    let leader = node(&folder, "batch", "batch");
    let names = ["a", "b", "c", "d"];
    let mut nodes = names.map(|name| Some(node(&folder, name, "archive,speed")));
    let sent = Arc::new(AtomicU64::new(0));
    let reader = Reader::of(&serve.address, &sent);
    let (since, mut next, mut moves) = (Instant::now(), 0, 0);
    while since.elapsed() < for_long {
        let moving = moves % names.len();
        nodes[moving].take().unwrap().terminate();
        sent.store(next as u64 + 200, Ordering::SeqCst);
        send(&collect, next..next + 200);
        next += 200;
        nodes[moving] = Some(node(&folder, names[moving], "archive,speed"));
        moves += 1;
        std::thread::sleep((REBALANCE_EVERY * moves as u32).saturating_sub(since.elapsed()));
    }
    println!("{moves} processes left and came again");
    assert_whole(&folder, &serve, "serve", "batch", next as u64);
    let answers = reader.end();
    assert!(answers > 20, "{answers} answers meanwhile");
    for process in nodes.into_iter().flatten().chain([collect, serve, leader]) {
        process.terminate();
    }
}

#[test]
fn kafka_archivers_that_sleep_past_their_heirs_commit_nothing_twice() {
    let Some(brokers) = brokers() else { return };
    // It holds rows in memory when it falls asleep, and wakes up to commit them.
    let settings = SHORT.replace("roll_age_ms = 500", "roll_age_ms = 20000");
    let folder = Folder::on_cluster(&brokers, &format!("{settings}{BY_HAND}"));
    let collect = node(&folder, "collect", "collect");
    let serve = node(&folder, "serve", "serve,speed");
    let leader = node(&folder, "batch", "batch");
    let sleeper = node(&folder, "sleeper", "archive");
    send(&collect, 0..300);
    await_total(&serve.address, 300);
    batch(&folder, "batch", &[]);
    send(&collect, 300..600);
    await_total(&serve.address, 600);
    std::thread::sleep(Duration::from_millis(500));
    sleeper.signal("-STOP");
    let heir = node(&folder, "heir", "archive");
    // Only the heir can archive up to here.
    batch(&folder, "batch", &[]);
    send(&collect, 600..700);
    sleeper.signal("-CONT");
    await_total(&serve.address, 700);
    batch(&folder, "batch", &[]);
    // It tries to commit what its heir had.
    ask_until(&sleeper.address, "GET /metrics", |_, metrics| {
        let lost = metrics
            .lines()
            .find(|line| line.starts_with("foldline_archive_lost_commits_total"));
        lost.is_some_and(|line| !line.ends_with(" 0.0") && !line.ends_with(" 0"))
    });
    assert_whole(&folder, &serve, "serve", "batch", 700);
    for process in [collect, serve, leader, sleeper, heir] {
        process.terminate();
    }
}

#[test]
fn kafka_cluster_gaps_are_accepted_where_nobody_shows_what_is_lost() {
    let Some(brokers) = brokers() else { return };
    let folder = Folder::on_cluster(&brokers, &format!("{SHORT}{BY_HAND}"));
    let roles = "archive,speed,batch,serve";
    let all = node(&folder, "all", roles);
    produce(&brokers, &folder.topic(), 0..300, 1);
    await_total(&all.address, 300);
    batch(&folder, "all", &[]);
    all.terminate();
    // While nobody archives, records come and go.
    produce(&brokers, &folder.topic(), 300..400, 1);
    delete_records(&brokers, &folder.topic());
    let all = node(&folder, "all", roles);
    ask_until(&all.address, "GET /readyz", |status, answer| {
        status == 503 && answer.contains("foldline gaps accept")
    });
    let refused = folder.no(&["gaps", "accept", "visits", "--data-dir", "all"]);
    assert!(refused.contains("in a cluster gaps are accepted while"), "{refused}");
    // Nor beside it.
    let refused = folder.no(&["gaps", "accept", "visits", "--data-dir", "beside"]);
    assert!(
        refused.contains(&format!("one is at http://{}", all.address)),
        "{refused}"
    );
    all.terminate();
    let accepted = ok(&folder, "all", &["gaps", "accept", "visits"]);
    assert!(accepted.contains("1 gaps accepted"), "{accepted}");
    let all = node(&folder, "all", roles);
    produce(&brokers, &folder.topic(), 400..450, 1);
    batch(&folder, "all", &[]);
    await_total(&all.address, 350);
    ok(&folder, "all", &["verify", "--all"]);
    all.terminate();
}
