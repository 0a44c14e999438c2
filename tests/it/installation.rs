//! The command on data of its own: import, answers, batch runs, the audit, damage, and restarts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::cli::{command, text, write};

const STREAMS: &str = "CREATE STREAM visits (
  visit_id TEXT NOT NULL, page TEXT, seconds INT, at TIMESTAMPTZ NOT NULL
) WITH (
  topic = 'visits', format = 'json', partitions = 3, key = 'page', event_time = 'at', lateness = '1 day',
  unique_key = 'visit_id', unique_within = '1 day'
);\n";
const VIEWS: &str =
    "CREATE VIEW pages AS SELECT page, count(*) AS visits, sum(seconds) AS seconds FROM visits GROUP BY page;
CREATE VIEW page_days AS SELECT page, tumble(at, INTERVAL '1 day') AS day, count(*) AS visits FROM visits GROUP BY 1, 2;
CREATE VIEW days AS SELECT day, sum(visits) AS visits FROM page_days GROUP BY 1;\n";

/// The log on these brokers, with little patience.
pub(crate) fn kafka_settings(brokers: &str) -> String {
    format!(
        "[log]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\nclock_skew_ms = 50\n\
         [log.kafka]\n\"fetch.wait.max.ms\" = 10\n"
    )
}

/// A folder with a pipeline and short intervals.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
    /// Where its objects lie; empty: in the folder.
    store: String,
    /// Variables of its commands.
    environment: Vec<(String, String)>,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self::on_store("", &[])
    }

    /// One whose objects lie at the URL `store`, and whose commands see `environment`.
    pub(crate) fn on_store(store: &str, environment: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "sql/pipelines/web/streams.sql", STREAMS);
        write(folder.path(), "sql/pipelines/web/views.sql", VIEWS);
        let environment = environment.iter();
        let folder = Self {
            folder,
            store: store.to_owned(),
            environment: environment
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        folder.set("[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"\"\n");
        folder
    }

    /// The same over Kafka, with topics of its own.
    pub(crate) fn on_kafka(brokers: &str, settings: &str) -> Self {
        let folder = Self::new();
        let topic = format!("visits-{:x}", rand::random::<u64>());
        let streams = STREAMS.replace("topic = 'visits'", &format!("topic = '{topic}'"));
        write(folder.path(), "sql/pipelines/web/streams.sql", &streams);
        folder.set(&format!("{}{settings}", kafka_settings(brokers)));
        folder
    }

    /// The same, and its objects where several processes find them.
    pub(crate) fn on_cluster(brokers: &str, settings: &str) -> Self {
        let mut folder = Self::on_kafka(brokers, "");
        folder.store = format!("file://{}/shared", folder.path().display());
        folder.set_cluster(brokers, settings);
        folder
    }

    /// Writes the configuration file of a cluster.
    pub(crate) fn set_cluster(&self, brokers: &str, settings: &str) {
        let name = self.topic();
        self.set(&format!(
            "{}\"session.timeout.ms\" = 6000\n[cluster]\nname = \"{name}\"\n{settings}",
            kafka_settings(brokers)
        ));
    }

    /// Gives the topic that is not there yet so many partitions.
    pub(crate) fn with_partitions(&self, partitions: u32) {
        let file = "sql/pipelines/web/streams.sql";
        let streams = std::fs::read_to_string(self.path().join(file)).unwrap();
        let streams = streams.replace("partitions = 3", &format!("partitions = {partitions}"));
        write(self.path(), file, &streams);
    }

    /// Name of the topic of `visits`.
    pub(crate) fn topic(&self) -> String {
        let streams = std::fs::read_to_string(self.path().join("sql/pipelines/web/streams.sql")).unwrap();
        streams
            .split("topic = '")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap()
            .to_owned()
    }

    /// Writes the configuration file.
    pub(crate) fn set(&self, settings: &str) {
        write(
            self.path(),
            "foldline.toml",
            &format!(
                "{settings}[http]\nlisten = \"127.0.0.1:0\"\n[store]\nurl = \"{}\"\nretries_ms = 2000\n",
                self.store
            ),
        );
    }

    /// 300 visits of 3 days in order, every tenth one twice, then two malformed ones.
    fn with_visits() -> Self {
        let folder = Self::new();
        folder.import_visits();
        folder
    }

    /// Imports what [`Folder::with_visits`] has.
    pub(crate) fn import_visits(&self) {
        self.write_visits();
        self.ok(&["import", "visits.ndjson", "--stream", "visits", "--wait"]);
    }

    /// Writes the file `visits.ndjson` with them.
    pub(crate) fn write_visits(&self) {
        let mut lines = String::new();
        for visit in 0..300 {
            let (page, day) = (visit % 7, 1 + visit / 100);
            let line = format!(
                "{{\"visit_id\":\"v{visit}\",\"page\":\"/{page}\",\"seconds\":{visit},\"at\":\"2026-03-0{day}T10:00:00Z\"}}\n"
            );
            lines += &line.repeat(if visit % 10 == 0 { 2 } else { 1 });
        }
        lines += "{\"page\":\"/0\",\"at\":\"2026-03-03T10:00:00Z\"}\n{\"visit_id\":\"v9\",\"page\":\"/0\",\"at\":\"soon\"}\n";
        write(self.path(), "visits.ndjson", &lines);
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The command in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.path(), arguments);
        let environment = self.environment.iter();
        command.envs(environment.map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Output of a command that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Output of a command that must say "no".
    pub(crate) fn no(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let both = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {both}");
        both
    }

    /// Files under `data/objects` whose path contains `part`.
    fn objects(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path().join("foldline-data/objects")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().contains(part) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with(&["run"])
    }

    pub(crate) fn start_with(&self, arguments: &[&str]) -> Running {
        let mut child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("listening on http://127.0.0.1:"), "{line}");
        let address = line.rsplit("http://").next().unwrap().split_whitespace().next();
        Running {
            address: address.unwrap().to_owned(),
            child,
        }
    }
}

/// Whether the foldline at `address` answers over all that it replays.
fn ready(address: &str) -> bool {
    get(address, "/readyz").contains(" 200 ")
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A `foldline run`; killed at the end.
pub(crate) struct Running {
    pub(crate) address: String,
    child: Child,
}

impl Running {
    /// Its answer to a GET, with status and headers.
    pub(crate) fn get(&self, path: &str) -> String {
        get(&self.address, path)
    }

    /// Waits until its answers are over all that it replays.
    pub(crate) fn ready(self) -> Self {
        let since = Instant::now();
        while !ready(&self.address) {
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "after a minute still {}",
                self.get("/readyz")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn kill_minus_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(mut self) {
        self.signal("-TERM");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const TOTALS: &str = "SELECT count(*) AS pages, sum(visits) AS visits, sum(seconds) AS seconds FROM pages";
/// 7 pages, 300 visits (each counted once), 0 + 1 + ... + 299 seconds.
const EXPECTED: &str = "pages,visits,seconds\n7,300,44850\n";

#[test]
fn commands_work_without_a_running_foldline() {
    let folder = Folder::with_visits();
    assert_eq!(folder.ok(&["query", TOTALS, "--format", "csv"]), EXPECTED);
    let again = folder.ok(&["import", "visits.ndjson", "--stream", "visits", "--format", "csv"]);
    assert!(again.contains("visits.ndjson,0,"), "nothing twice: {again}");
    let run = folder.ok(&["batch", "run", "--format", "csv"]);
    assert!(run.contains("\n1,true,incremental,"), "{run}");
    assert_eq!(
        folder.ok(&["query", TOTALS, "--format", "csv"]),
        EXPECTED,
        "the answer does not jump"
    );
    assert_eq!(
        folder.ok(&["query", TOTALS, "--format", "csv", "--batch-only"]),
        EXPECTED
    );
    assert_eq!(folder.ok(&["query", TOTALS, "--format", "csv", "--at", "1"]), EXPECTED);
    let nothing = folder.ok(&[
        "query",
        "SELECT count(*) AS pages FROM pages",
        "--format",
        "csv",
        "--speed-only",
    ]);
    assert_eq!(nothing, "pages\n0\n", "all of it is below the cut");

    let verified = folder.ok(&["verify", "--all", "--format", "csv"]);
    assert!(verified.contains("pages,true,exact,7,330,1"), "{verified}");
    assert!(verified.contains("days,true,exact,3,330,1"), "{verified}");
    let audit = folder.ok(&["archive", "audit", "--format", "csv"]);
    let column = |line: &str, at: usize| line.split(',').nth(at).unwrap().parse::<u64>().unwrap();
    let sum = |at: usize| audit.lines().skip(1).map(|line| column(line, at)).sum::<u64>();
    assert_eq!(
        (sum(5), sum(6), sum(8)),
        (330, 2, 0),
        "rows, dead letters, faults: {audit}"
    );
    let letters = folder.ok(&["archive", "dead-letters", "--format", "csv"]);
    assert!(letters.contains("soon") && letters.contains("visit_id"), "{letters}");
    let history = folder.ok(&["batch", "history", "--format", "csv"]);
    assert!(history.contains("published"), "{history}");

    folder.ok(&["generations", "pin", "1"]);
    let full = folder.ok(&["batch", "run", "--full", "--format", "csv"]);
    assert!(full.contains("\n2,true,full,1,"), "{full}");
    folder.ok(&["generations", "rollback", "1"]);
    let generations = folder.ok(&["generations", "list", "--format", "csv"]);
    assert!(
        generations.contains("\n3,rollback,") && generations.contains("\n1,incremental,"),
        "{generations}"
    );
    assert_eq!(folder.ok(&["query", TOTALS, "--format", "csv"]), EXPECTED);
    let unknown = folder.run(&["generations", "pin", "9"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown.stderr));
    let unknown = folder.run(&["query", "SELECT nothing FROM pages"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown.stderr));
}

#[test]
fn a_running_foldline_is_asked_and_a_killed_one_is_not() {
    let folder = Folder::with_visits();
    let running = folder.start().ready();
    assert_eq!(folder.ok(&["query", TOTALS, "--format", "csv"]), EXPECTED);
    let second = folder.no(&["run"]);
    assert!(second.contains("another foldline"), "{second}");
    write(
        folder.path(),
        "more.ndjson",
        "{\"visit_id\":\"x\",\"page\":\"/new\",\"seconds\":1,\"at\":\"2026-03-03T11:00:00Z\"}\n",
    );
    folder.ok(&["import", "more.ndjson", "--stream", "visits", "--wait"]);
    let expected = "pages,visits,seconds\n8,301,44851\n";
    assert_eq!(folder.ok(&["query", TOTALS, "--format", "csv"]), expected);
    let status = folder.ok(&["status", "--format", "json"]);
    assert!(status.contains("\"ready\": true"), "{status}");

    running.kill_minus_9();
    assert!(folder.path().join("foldline-data/address").exists(), "nobody tidied up");
    assert_eq!(folder.ok(&["query", TOTALS, "--format", "csv"]), expected);
    let running = folder.start();
    folder.ok(&["batch", "run"]);
    assert_eq!(folder.ok(&["query", TOTALS, "--format", "csv"]), expected);
    folder.ok(&["verify", "--all"]);
    running.terminate();
    assert!(!folder.path().join("foldline-data/address").exists(), "it tidied up");
    folder.ok(&["verify", "--all"]);
}

#[test]
fn a_query_joins_views_of_two_streams() {
    let folder = Folder::with_visits();
    let sales = "CREATE STREAM sales (page TEXT, cents INT, at TIMESTAMPTZ NOT NULL)
WITH (topic = 'sales', partitions = 2, key = 'page', event_time = 'at');
CREATE VIEW page_sales WITH (retention = '2 days') AS
SELECT page, tumble(at, INTERVAL '1 day') AS day, sum(cents) AS cents FROM sales GROUP BY 1, 2;\n";
    write(folder.path(), "sql/pipelines/shop/all.sql", sales);
    // Two years before the visits: what they cover must not age what the sales cover.
    write(
        folder.path(),
        "sales.ndjson",
        "{\"page\":\"/1\",\"cents\":5,\"at\":\"2024-03-03T11:00:00Z\"}\n{\"page\":\"/1\",\"cents\":7,\"at\":\"2024-03-03T12:00:00Z\"}\n",
    );
    folder.ok(&["import", "sales.ndjson", "--stream", "sales", "--wait"]);
    let join = "SELECT pages.page, visits, cents FROM pages JOIN page_sales ON pages.page = page_sales.page";
    let expected = "page,visits,cents\n/1,43,12\n";
    assert_eq!(folder.ok(&["query", join, "--format", "csv"]), expected);
    folder.ok(&["batch", "run"]);
    folder.ok(&["import", "sales.ndjson", "--stream", "sales", "--wait", "--again"]);
    let expected = "page,visits,cents\n/1,43,24\n";
    assert_eq!(folder.ok(&["query", join, "--format", "csv"]), expected);
    folder.ok(&["verify", "--all"]);
}

#[test]
fn damage_in_the_archive_is_named() {
    let folder = Folder::with_visits();
    folder.ok(&["batch", "run"]);
    let file = &folder.objects("archive/visits/date=2026-03-02")[0];
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let whole = std::fs::read(file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [Some(flipped), None] {
        match &damaged {
            Some(bytes) => std::fs::write(file, bytes).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
        let verified = folder.no(&["verify", "--all"]);
        assert!(verified.contains(&name) && verified.contains("offsets"), "{verified}");
        let audit = folder.no(&["archive", "audit"]);
        assert!(audit.contains(&name), "{audit}");
        let full = folder.no(&["batch", "run", "--full"]);
        assert!(full.contains(&name), "{full}");
    }
    std::fs::write(file, &whole).unwrap();
    let running = folder.start();
    folder.ok(&["verify", "--all"]);
    std::fs::remove_file(file).unwrap();
    folder.no(&["verify", "pages"]);
    let status = folder.ok(&["status"]);
    assert!(status.contains("ready: false") && status.contains(&name), "{status}");
    std::fs::write(file, &whole).unwrap();
    folder.ok(&["verify", "--all"]);
    let status = folder.ok(&["status"]);
    assert!(status.contains("ready: true"), "{status}");
    running.terminate();
}

#[test]
fn a_wrong_partial_is_found_with_its_key_and_date() {
    let folder = Folder::with_visits();
    folder.ok(&["batch", "run"]);
    folder.ok(&["verify", "--all"]);
    // The second day of every view names the partial of the first: well formed, checksum and all, and wrong.
    let manifest = &folder.objects("generations/")[0];
    let mut generation: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    for view in generation["views"].as_object_mut().unwrap().values_mut() {
        let mut first = view["dates"][0].clone();
        first["date"] = view["dates"][1]["date"].clone();
        view["dates"][1] = first;
    }
    std::fs::write(manifest, generation.to_string()).unwrap();
    let verified = folder.no(&["verify", "--all"]);
    assert!(verified.contains("pages: key (page = /0): column"), "{verified}");
    assert!(
        verified.contains("wrong in date 2026-03-02 of generation 1"),
        "{verified}"
    );
    assert!(verified.contains("page_days: key"), "{verified}");
    assert!(
        verified.contains("days: key"),
        "the view over it is wrong too: {verified}"
    );
}

#[test]
fn what_judges_rows_may_not_change_under_data() {
    let folder = Folder::with_visits();
    folder.ok(&["batch", "run"]);
    write(
        folder.path(),
        "sql/pipelines/web/streams.sql",
        &STREAMS.replace("'1 day'", "'2 days'"),
    );
    let refused = folder.no(&["query", TOTALS]);
    assert!(
        refused.contains("\"visits\"") && refused.contains("may not change"),
        "{refused}"
    );
    write(
        folder.path(),
        "sql/pipelines/web/streams.sql",
        &STREAMS.replace("seconds INT", "seconds INT, device TEXT"),
    );
    assert_eq!(
        folder.ok(&["query", TOTALS, "--format", "csv"]),
        EXPECTED,
        "a new nullable column judges nothing"
    );
    let other = folder.run(&["query", TOTALS, "--format", "csv"]);
    assert!(other.status.success());
    folder.set("[speed]\ncut_every_ms = 70\n");
    let refused = folder.run(&["query", TOTALS]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("speed.cut_every_ms = 50"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn a_view_that_is_building_is_neither_right_nor_wrong() {
    let folder = Folder::with_visits();
    folder.ok(&["batch", "run"]);
    let running = folder.start();
    folder.ok(&["batch", "run"]);
    running.terminate();
    let views = format!("{VIEWS}CREATE VIEW seconds AS SELECT seconds, count(*) AS visits FROM visits GROUP BY 1;\n");
    write(folder.path(), "sql/pipelines/web/views.sql", &views);
    let running = folder.start();
    let verified = folder.no(&["verify", "--all"]);
    assert!(verified.contains("could not be audited: seconds"), "{verified}");
    assert!(
        verified.contains("seconds: view \"seconds\" is still building"),
        "{verified}"
    );
    assert!(!verified.contains("not equal"), "{verified}");
    let status = folder.ok(&["status"]);
    assert!(status.contains("ready: true"), "{status}");
    folder.ok(&["batch", "run"]);
    folder.ok(&["verify", "--all"]);
    running.terminate();
}

#[test]
fn a_view_that_fails_on_a_row_is_named_and_the_others_go_on() {
    let folder = Folder::with_visits();
    let views = format!(
        "{VIEWS}CREATE VIEW rates AS SELECT page, sum(100 / (seconds - 299)) AS rate FROM visits GROUP BY 1;\n"
    );
    write(folder.path(), "sql/pipelines/web/views.sql", &views);
    let run = folder.no(&["batch", "run", "--format", "csv"]);
    assert!(run.contains("\n1,true,incremental,"), "{run}");
    assert!(
        run.contains("generation 1 is without the views that failed") && run.contains("\"rates\": "),
        "{run}"
    );
    assert_eq!(
        folder.ok(&["query", TOTALS, "--format", "csv", "--batch-only"]),
        EXPECTED
    );
    let refused = folder.run(&["query", "SELECT * FROM rates", "--batch-only"]);
    assert_eq!(refused.status.code(), Some(3), "as long as a view is building");
    let refused = text(&refused.stderr);
    assert!(refused.contains("computed without it, because it failed"), "{refused}");
}

/// Visits `from..until`, one second each, of pages of their own.
fn more_visits(folder: &Folder, from: usize, until: usize) {
    let padding = "x".repeat(400);
    let line = |visit| {
        format!(
            "{{\"visit_id\":\"m{visit}\",\"page\":\"/m{}\",\"seconds\":1,\"at\":\"2026-03-03T10:00:00Z\",\"note\":\"{padding}\"}}\n",
            visit % 9
        )
    };
    let name = format!("more-{from}.ndjson");
    write(folder.path(), &name, &(from..until).map(line).collect::<String>());
    folder.ok(&["import", &name, "--stream", "visits", "--wait"]);
}

/// The answer must come from the log and the generations alone.
fn forget_checkpoints(folder: &Folder) {
    drop(std::fs::remove_dir_all(folder.path().join("foldline-data/checkpoints")));
}

fn earliest(folder: &Folder) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&folder.ok(&["status", "--format", "json"])).unwrap();
    let partitions = status["streams"][0]["partitions"].as_array().unwrap();
    partitions
        .iter()
        .map(|partition| partition["earliest"].as_u64().unwrap())
        .sum()
}

#[test]
fn the_log_keeps_what_readable_generations_need_and_what_a_rollback_needs() {
    let settings = |bytes: u64| {
        format!(
            "[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"\"\n[serve]\nlongest_query_ms = 4000\n[log]\nretention_bytes = {bytes}\n"
        )
    };
    let visits = |folder: &Folder| {
        let totals = "SELECT sum(visits) AS visits FROM pages";
        folder
            .ok(&["query", totals, "--format", "csv"])
            .lines()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let folder = Folder::with_visits();
    folder.ok(&["batch", "run"]);
    more_visits(&folder, 0, 300);
    // Archived, and not below any cut: nothing of it may go, however little the log is told to keep.
    folder.set(&settings(1));
    assert_eq!(visits(&folder), 600);
    let trimmed = earliest(&folder);
    assert!(trimmed > 0, "what is below the cut goes");
    forget_checkpoints(&folder);
    assert_eq!(visits(&folder), 600, "what is behind it stays");

    // The second generation raises the floor; the log has room, and trims nothing yet.
    folder.set(&settings(600_000));
    folder.ok(&["batch", "run"]);
    let superseded = || std::thread::sleep(std::time::Duration::from_millis(4_100));
    superseded();
    let running = folder.start();
    assert_eq!(earliest(&folder), trimmed);
    folder.ok(&["generations", "rollback", "1"]);
    // Now there is no room, and the trimmer comes by every few seconds: what the first one needs stays all the same.
    more_visits(&folder, 300, 4_300);
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert_eq!(earliest(&folder), trimmed);
    running.kill_minus_9();
    forget_checkpoints(&folder);
    assert_eq!(visits(&folder), 4_600, "nothing is lost after a rollback and a restart");

    // Once the log has gone on, there is no way back.
    folder.ok(&["batch", "run"]);
    superseded();
    folder.set(&settings(1));
    assert_eq!(visits(&folder), 4_600);
    assert!(earliest(&folder) > trimmed);
    let refused = folder.no(&["generations", "rollback", "1"]);
    assert!(refused.contains("and the log begins at"), "{refused}");
    assert_eq!(visits(&folder), 4_600);
}

#[test]
fn dead_letters_come_newest_first_and_in_pages() {
    let folder = Folder::new();
    let lines: String = (0..30).map(|line| format!("rubbish {line}\n")).collect();
    write(folder.path(), "rubbish.ndjson", &lines);
    folder.ok(&["import", "rubbish.ndjson", "--stream", "visits", "--wait"]);
    folder.ok(&["batch", "run"]);
    let listed = |arguments: &[&str]| {
        let output = folder.run(
            &[
                &["archive", "dead-letters", "--stream", "visits", "--format", "csv"],
                arguments,
            ]
            .concat(),
        );
        assert!(output.status.success(), "{}", text(&output.stderr));
        let offsets = text(&output.stdout);
        let offsets = offsets
            .lines()
            .skip(1)
            .map(|line| line.split(',').nth(2).unwrap().parse().unwrap());
        (
            offsets.collect::<Vec<u64>>(),
            text(&output.stderr).contains("there are older ones"),
        )
    };
    assert_eq!(listed(&[]).0.len(), 30);
    let (all, more) = listed(&["--partition", "0"]);
    assert!(
        !more && all.len() > 4 && all.is_sorted_by(|one, other| one > other),
        "{all:?}"
    );
    let (page, more) = listed(&["--partition", "0", "--limit", "2"]);
    assert_eq!((page.as_slice(), more), (&all[..2], true));
    let from = all[2].to_string();
    let (page, more) = listed(&["--partition", "0", "--from", &from, "--limit", "2"]);
    assert_eq!((page.as_slice(), more), (&all[2..4], all.len() > 4));
    let refused = folder.run(&["archive", "dead-letters", "--limit", "1001"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
}
