//! Batch runs on Ballista, as processes: a scheduler, executors, and a kill in the midst.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::cli::{text, write};
use crate::installation::Folder;

const VIEWS: &str =
    "CREATE VIEW pages AS SELECT page, count(*) AS visits, sum(seconds) AS seconds FROM visits GROUP BY page;
CREATE VIEW page_days AS
SELECT page, tumble(at, INTERVAL '1 day') AS day, count(*) AS visits, count(DISTINCT seconds) AS lengths,
       array_agg(visit_id ORDER BY at DESC) AS ids FROM visits GROUP BY 1, 2;
CREATE VIEW stays AS
SELECT page, session(at, INTERVAL '1 hour') AS stay, count(*) AS visits, sum(seconds / 7.0) AS sevenths
FROM visits GROUP BY 1, 2;
CREATE VIEW lengths AS SELECT page, approx_median(seconds) AS middle, avg(seconds) AS mean FROM visits GROUP BY 1;
CREATE VIEW days AS SELECT day, sum(visits) AS visits FROM page_days GROUP BY 1;\n";
const QUERIES: [&str; 5] = [
    "SELECT * FROM pages ORDER BY page",
    "SELECT * FROM page_days ORDER BY page, day",
    "SELECT * FROM stays ORDER BY page, stay",
    "SELECT * FROM lengths ORDER BY page",
    "SELECT * FROM days ORDER BY day",
];
/// A secret of the environment, which no process may say.
const HUSH: &str = "hush-hush-hush";

/// A scheduler or an executor; killed at the end.
struct Process {
    child: Child,
    log: PathBuf,
    /// Of an executor: what tasks send each other.
    shuffles: PathBuf,
}

impl Process {
    fn start(folder: &Folder, name: &str, arguments: &[&str]) -> Self {
        let log = folder.path().join(format!("{name}.log"));
        let mut command = folder.command(&[&["ballista"], arguments].concat());
        let child = command
            .env("AWS_SECRET_ACCESS_KEY", HUSH)
            .env("RUST_LOG", "debug")
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn();
        Self {
            child: child.unwrap(),
            log,
            shuffles: folder.path().join(name),
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn kill_minus_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How many files of tasks that ended are there.
    fn shuffled(&self) -> usize {
        let mut files = 0;
        let mut folders = vec![self.shuffles.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.metadata().is_ok_and(|file| file.len() > 0) {
                    files += 1;
                }
            }
        }
        files
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port whose neighbours are free, too.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let place = NEXT.fetch_add(6, Ordering::Relaxed) + (std::process::id() % 140) as u16 * 6;
        let port = 21_100 + place % 840;
        if (port..port + 6).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
}

struct Cluster {
    scheduler: Process,
    executors: Vec<Process>,
    port: u16,
}

impl Cluster {
    fn start(folder: &Folder, executors: u16) -> Self {
        let port = free_port();
        let at = format!("127.0.0.1:{port}");
        let scheduler = Process::start(folder, "scheduler", &["scheduler", "--address", &at]);
        let mut cluster = Self {
            scheduler,
            executors: Vec::new(),
            port,
        };
        for executor in 0..executors {
            cluster.add(folder, executor);
        }
        cluster.wait_for(executors);
        cluster
    }

    fn add(&mut self, folder: &Folder, executor: u16) {
        let name = format!("executor-{executor}");
        let (scheduler, address) = (
            format!("127.0.0.1:{}", self.port),
            format!("127.0.0.1:{}", self.port + 2 + 2 * executor),
        );
        let place = folder.path().join(&name).display().to_string();
        let arguments = [
            "executor",
            "--scheduler",
            &scheduler,
            "--address",
            &address,
            "--folder",
            &place,
            "--tasks",
            "1",
        ];
        self.executors.push(Process::start(folder, &name, &arguments));
    }

    fn wait_for(&self, executors: u16) {
        let since = Instant::now();
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        loop {
            let said = runtime.block_on(async { reqwest::get(&url).await?.text().await });
            if said
                .as_ref()
                .is_ok_and(|said| said.contains(&format!("ready: {executors} executors")))
            {
                return;
            }
            let logs: Vec<String> = self.executors.iter().map(Process::said).collect();
            assert!(
                since.elapsed() < Duration::from_secs(30),
                "{said:?} {} {logs:?}",
                self.scheduler.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn settings(&self) -> String {
        format!(
            "[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"\"\nengine = \"ballista\"\nballista = \"127.0.0.1:{}\"\n",
            self.port
        )
    }
}

/// `rows` visits of 20 days, not in order, over three partitions.
fn with_visits(rows: u32) -> Folder {
    let folder = Folder::new();
    write(folder.path(), "sql/pipelines/web/views.sql", VIEWS);
    let mut lines = String::new();
    for visit in 0..rows {
        let (page, day, minute) = (visit % 11, 1 + visit % 20, visit / 7 % 60);
        let hour = visit / 420 % 24;
        lines += &format!(
            "{{\"visit_id\":\"v{visit}\",\"page\":\"/{page}\",\"seconds\":{},\"at\":\"2026-03-{day:02}T{hour:02}:{minute:02}:00Z\"}}\n",
            visit % 1_000
        );
    }
    write(folder.path(), "visits.ndjson", &lines);
    let streams = std::fs::read_to_string(folder.path().join("sql/pipelines/web/streams.sql")).unwrap();
    let streams = streams.replace("lateness = '1 day'", "lateness = '60 days'");
    write(folder.path(), "sql/pipelines/web/streams.sql", &streams);
    folder.ok(&["import", "visits.ndjson", "--stream", "visits", "--wait"]);
    folder
}

/// Number and rows of what a run published.
fn published(run: &str) -> (&str, &str) {
    let line: Vec<&str> = run.lines().nth(1).unwrap().split(',').collect();
    assert_eq!(line[1], "true", "{run}");
    (line[0], line[5])
}

fn answers(folder: &Folder) -> Vec<String> {
    let query = |sql: &&str| folder.ok(&["query", sql, "--format", "csv", "--batch-only"]);
    QUERIES.iter().map(query).collect()
}

#[test]
fn ballista_answers_as_one_process_does_also_when_an_executor_is_killed() {
    let folder = with_visits(60_000);
    folder.ok(&["batch", "run", "--full"]);
    let alone = answers(&folder);
    assert!(alone[1].lines().count() > 200, "{}", alone[1]);

    let mut cluster = Cluster::start(&folder, 2);
    folder.set(&cluster.settings());
    let run = folder.ok(&["batch", "run", "--full", "--format", "csv"]);
    assert_eq!(published(&run), ("2", "60000"), "{run}");
    assert_eq!(answers(&folder), alone);
    let took_part = cluster.executors.iter().all(|executor| executor.shuffled() > 0);
    assert!(took_part, "both took part");

    // A third one, and a kill as soon as it has done a task.
    cluster.add(&folder, 2);
    cluster.executors.remove(0).kill_minus_9();
    let before = cluster.executors[0].shuffled();
    let mut running = folder.command(&["batch", "run", "--full", "--format", "csv"]);
    running.env("AWS_SECRET_ACCESS_KEY", HUSH);
    let running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    while cluster.executors[0].shuffled() == before {
        assert!(
            since.elapsed() < Duration::from_secs(120),
            "{}",
            cluster.executors[0].said()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    cluster.executors[0].kill_minus_9();
    let killed = since.elapsed();
    let ended = running.wait_with_output().unwrap();
    println!(
        "killed {killed:?} after the start, ended {:?} after it",
        since.elapsed()
    );
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let run = text(&ended.stdout);
    assert_eq!(published(&run), ("3", "60000"), "{run}");
    assert_eq!(answers(&folder), alone);
    let verified = folder.ok(&["verify", "--all", "--format", "csv"]);
    assert!(verified.contains("page_days,true,exact"), "{verified}");

    // All of them: an error, and the generation before stays.
    for executor in &mut cluster.executors {
        executor.kill_minus_9();
    }
    let refused = folder.run(&["batch", "run", "--full"]);
    assert!(!refused.status.success());
    let refused = text(&refused.stderr);
    assert!(refused.contains("cannot recompute on Ballista"), "{refused}");
    assert_eq!(answers(&folder), alone);
    for process in cluster.executors.iter().chain([&cluster.scheduler]) {
        let said = process.said();
        assert!(said.contains("ballista_") && !said.contains(HUSH), "{said}");
    }
}

#[test]
fn ballista_needs_an_address_and_a_free_port() {
    let folder = Folder::new();
    for process in ["scheduler", "executor"] {
        let help = folder.ok(&["ballista", process, "--help"]);
        assert!(help.contains("Example:") && help.contains("--address"), "{help}");
    }
    folder.set("[batch]\nengine = \"ballista\"\n");
    let refused = folder.run(&["batch", "run"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("batch.ballista"),
        "{}",
        text(&refused.stderr)
    );
    folder.set("");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [
        ["ballista", "scheduler", "--address", &address],
        ["ballista", "executor", "--address", &address],
    ] {
        let refused = folder.run(&arguments);
        assert_eq!(refused.status.code(), Some(2));
        let said = text(&refused.stderr);
        assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
    }
    let refused = folder.run(&["ballista", "executor", "--scheduler", "nowhere"]);
    assert!(text(&refused.stderr).contains("HOST:PORT"), "{}", text(&refused.stderr));
}
