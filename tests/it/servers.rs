//! Whole installations on real servers, where FOLDLINE_TEST_STORES names buckets, separated by spaces. `make test-services`
//! starts the servers and says where they are; without it these tests have nothing to do.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::cli::text;
use crate::crashes::{Dice, kill_and_verify};
use crate::installation::Folder;
use crate::memory::{MIB, held_at_most};

/// A folder of its own in each bucket.
fn stores() -> Vec<String> {
    let urls = std::env::var("FOLDLINE_TEST_STORES").unwrap_or_default();
    urls.split_whitespace()
        .map(|url| format!("{url}/{}", Uuid::new_v4()))
        .collect()
}

/// What the commands that people ask for answers print.
fn answers(folder: &Folder) -> Vec<String> {
    folder.import_visits();
    folder.ok(&["batch", "run"]);
    let mut answers = Vec::new();
    for (view, order) in [("pages", "page"), ("page_days", "page, day"), ("days", "day")] {
        let query = format!("SELECT * FROM {view} ORDER BY {order}");
        for mode in [&[][..], &["--batch-only"][..]] {
            answers.push(folder.ok(&[&["query", &query, "--format", "csv"], mode].concat()));
        }
    }
    folder.ok(&["batch", "run", "--full"]);
    folder.ok(&["verify", "--all"]);
    folder.ok(&["archive", "audit"]);
    folder.ok(&["generations", "rollback", "1"]);
    folder.ok(&["verify", "--all"]);
    answers
}

#[test]
fn servers_give_the_answers_of_local_files() {
    let stores = stores();
    if stores.is_empty() {
        return;
    }
    let expected = answers(&Folder::new());
    for store in stores {
        assert_eq!(answers(&Folder::on_store(&store, &[])), expected, "{store}");
        println!("{store} gives the answers of local files");
    }
}

#[test]
fn servers_survive_kills() {
    for store in stores() {
        kill_and_verify(&Folder::on_store(&store, &[]), "", 4, &mut Dice(7));
    }
}

#[test]
fn servers_that_lose_replies_lose_no_data() {
    for store in stores() {
        let Some(proxy) = Proxy::before(&store) else { continue };
        proxy.faults.lose_every.store(5, Ordering::Relaxed);
        kill_and_verify(&Folder::on_store(&store, &[proxy.variable()]), "", 2, &mut Dice(8));
        let lost = proxy.faults.lost.load(Ordering::Relaxed);
        assert!(lost > 10, "only {lost} replies were lost");
        println!("{store}: {lost} replies of puts were lost");
    }
}

#[test]
fn servers_that_are_away_are_named_and_waited_for() {
    for store in stores() {
        let Some(proxy) = Proxy::before(&store) else { continue };
        let folder = Folder::on_store(&store, &[proxy.variable()]);
        folder.set("[archive]\nroll_age_ms = 200\n[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"\"\n");
        folder.write_visits();
        let running = folder.start().ready();
        proxy.faults.away(true);
        folder.ok(&["import", "visits.ndjson", "--stream", "visits"]);
        let named = until(|| running.get("/readyz"), |answer| answer.contains("127.0.0.1"));
        assert!(named.contains(" 503 "), "{named}");
        proxy.faults.away(false);
        let running = running.ready();
        folder.ok(&["batch", "run"]);
        folder.ok(&["verify", "--all"]);
        folder.ok(&["archive", "audit"]);
        running.terminate();

        proxy.faults.away(true);
        let refused = folder.run(&["batch", "run"]);
        let told = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(3), "{told}");
        assert!(told.contains(&store), "{told}");
    }
}

/// Of the status of the foldline in `folder`: records that are not archived yet.
pub(crate) fn not_archived(folder: &Folder) -> u64 {
    let status = folder.ok(&["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let partitions = status["streams"][0]["partitions"].as_array().unwrap();
    let behind = |partition: &serde_json::Value| {
        partition["end"].as_u64().unwrap() - partition["archived_until"].as_u64().unwrap_or(0)
    };
    partitions.iter().map(behind).sum()
}

/// For ten minutes and at the rate of `FOLDLINE_RATE` with `FOLDLINE_SOAK`.
#[test]
fn servers_that_are_away_for_long_do_not_fill_the_memory() {
    let soak = std::env::var_os("FOLDLINE_SOAK").is_some();
    let rate = std::env::var("FOLDLINE_RATE").ok().and_then(|rate| rate.parse().ok());
    let rate: u64 = rate.unwrap_or(2_000);
    let away = Duration::from_secs(if soak { 600 } else { 12 });
    for store in stores() {
        let Some(proxy) = Proxy::before(&store) else { continue };
        let folder = Folder::on_store(&store, &[proxy.variable()]);
        folder.set(&format!(
            "memory_bytes = {}\n[archive]\nroll_age_ms = 1000\n[speed]\ncut_every_ms = 1000\n[batch]\nschedule = \"\"\n",
            512 * MIB
        ));
        let rows = rate * (away.as_secs() * 2 + 20);
        let file = std::fs::File::create(folder.path().join("visits.ndjson")).unwrap();
        let mut file = std::io::BufWriter::new(file);
        let padding = "x".repeat(500);
        for row in 0..rows {
            let (page, day) = (row % 997, 1 + row / (rows / 3 + 1));
            writeln!(
                file,
                "{{\"visit_id\":\"v{row}\",\"page\":\"/{page}\",\"seconds\":1,\"at\":\"2026-03-0{day}T10:00:00Z\",\"more\":\"{padding}\"}}"
            )
            .unwrap();
        }
        drop(file);
        let running = folder.start().ready();
        let arguments = [
            "import",
            "visits.ndjson",
            "--stream",
            "visits",
            "--rate",
            &rate.to_string(),
        ];
        let mut import = folder.command(&arguments).stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_secs(4));
        let before = held_at_most(&running) / MIB;
        proxy.faults.away(true);
        thread::sleep(away);
        proxy.faults.away(false);
        let (since, behind) = (Instant::now(), not_archived(&folder));
        while not_archived(&folder) > 2 * rate {
            assert!(since.elapsed() < away, "it does not catch up with {behind} records");
            thread::sleep(Duration::from_millis(100));
        }
        let took = since.elapsed().as_secs_f64();
        let caught_up = behind as f64 / took + rate as f64;
        let held = held_at_most(&running) / MIB;
        println!(
            "{store}: away for {} s at {rate} records/s: {before} MiB before, {held} MiB at most; {behind} records caught up \
             with in {took:.1} s, {:.1} times the input rate",
            away.as_secs(),
            caught_up / rate as f64
        );
        assert!(held < 512, "{held} MiB");
        assert!(caught_up >= 3.0 * rate as f64, "{caught_up} records/s");
        assert!(import.wait().unwrap().success());
        folder.ok(&["batch", "run"]);
        folder.ok(&["verify", "--all"]);
        folder.ok(&["archive", "audit"]);
        running.terminate();
    }
}

/// Asks until the answer is as wanted.
fn until(mut ask: impl FnMut() -> String, wanted: impl Fn(&str) -> bool) -> String {
    let since = Instant::now();
    loop {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "after a minute still {answer}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

/// What a [`Proxy`] does to its connections.
#[derive(Debug, Default)]
struct Faults {
    away: AtomicBool,
    /// Of so many puts, one gets no reply; 0: all get theirs.
    lose_every: AtomicU64,
    puts: AtomicU64,
    lost: AtomicU64,
    /// By their number.
    open: Mutex<HashMap<u64, [TcpStream; 2]>>,
}

impl Faults {
    /// Ends every connection and takes no new one, or takes them again.
    fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().values().flatten() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Whether the reply that comes now gets lost.
    fn loses(&self) -> bool {
        let every = self.lose_every.load(Ordering::Relaxed);
        let put = self.puts.fetch_add(1, Ordering::Relaxed) + 1;
        let loses = every > 0 && put.is_multiple_of(every);
        if loses {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        loses
    }
}

/// Stands between foldline and a server, and lets replies or the whole server get lost: what really happened there, happened.
struct Proxy {
    /// What names the server, and what names this instead.
    variable: (&'static str, String),
    faults: Arc<Faults>,
}

impl Proxy {
    /// One before the server of `store`.
    fn before(store: &str) -> Option<Self> {
        let name = match store.split_once("://")?.0 {
            "s3" => "AWS_ENDPOINT",
            "gs" => "GOOGLE_SERVICE_ACCOUNT_KEY",
            _ => return None,
        };
        let named = std::env::var(name).ok()?;
        let (_, server) = named.split_once("http://")?;
        let end = server.find(|found: char| !found.is_ascii_digit() && !matches!(found, '.' | ':'));
        let server = server[..end.unwrap_or(server.len())].to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let variable = (name, named.replace(&server, &address));
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        thread::spawn(move || {
            for (number, client) in (0..).zip(listener.incoming()) {
                let client = client.unwrap();
                if shared.away.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(&server).unwrap();
                let both = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                shared.open.lock().unwrap().insert(number, both);
                pass(number, client, server, &shared);
            }
        });
        Some(Self { variable, faults })
    }

    fn variable(&self) -> (&'static str, String) {
        self.variable.clone()
    }
}

/// Passes bytes on in both directions. A request begins where bytes come from the client after a reply.
fn pass(number: u64, client: TcpStream, server: TcpStream, faults: &Arc<Faults>) {
    let put = Arc::new(AtomicBool::new(false));
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let seen = Arc::clone(&put);
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if bytes.starts_with(b"PUT ") {
                seen.store(true, Ordering::SeqCst);
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
    });
    let (mut from, mut to, faults) = (server, client, Arc::clone(faults));
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            // Whoever asks whether to send the body has not sent it yet.
            let reply = !bytes.starts_with(b"HTTP/1.1 100");
            if reply && put.swap(false, Ordering::SeqCst) && faults.loses() {
                break;
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
        faults.open.lock().unwrap().remove(&number);
    });
}
