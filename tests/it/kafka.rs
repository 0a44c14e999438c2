//! Whole installations over Apache Kafka, on the brokers that `FOLDLINE_TEST_KAFKA` names (`make test-services`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::cli::{text, write};
use crate::crashes;
use crate::installation::{Folder, kafka_settings};

const SHORT: &str = "[speed]\ncut_every_ms = 50\n[archive]\nroll_age_ms = 200\n[batch]\nschedule = \"\"\n\
                     [serve]\nlongest_query_ms = 5000\n";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn brokers() -> Option<String> {
    let brokers = std::env::var("FOLDLINE_TEST_KAFKA")
        .ok()
        .filter(|brokers| !brokers.is_empty());
    if brokers.is_none() {
        eprintln!("skipped: FOLDLINE_TEST_KAFKA names no brokers");
    }
    brokers
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

fn wait<T>(done: T) -> T::Output
where
    T: Future,
{
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(done)
}

/// An answer of the foldline at `address`: its status and its body.
pub(crate) fn ask(address: &str, request: &str, headers: &str, body: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return (0, String::new());
    };
    let length = body.len();
    write!(
        stream,
        "{request} HTTP/1.0\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    if stream.read_to_string(&mut answer).is_err() {
        return (0, answer);
    }
    let status = answer
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, answer)
}

/// Asks until the answer is as wanted.
pub(crate) fn ask_until(address: &str, request: &str, wanted: impl Fn(u16, &str) -> bool) -> String {
    let since = Instant::now();
    loop {
        let (status, answer) = ask(address, request, "", "");
        if wanted(status, &answer) {
            return answer;
        }
        assert!(since.elapsed() < PATIENCE, "{request}: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn visit(visit: usize, day: usize) -> String {
    let page = visit % 7;
    format!("{{\"visit_id\":\"v{visit}\",\"page\":\"/{page}\",\"seconds\":1,\"at\":\"2026-03-0{day}T10:00:00Z\"}}\n")
}

pub(crate) fn visits(range: std::ops::Range<usize>) -> String {
    range.map(|number| visit(number, 1 + number % 3)).collect()
}

fn visits_counted(folder: &Folder) -> u64 {
    let counted = folder.ok(&["query", "SELECT sum(visits) AS n FROM pages", "--format", "csv"]);
    counted.lines().nth(1).unwrap().parse().unwrap_or(0)
}

fn import(folder: &Folder, name: &str, range: std::ops::Range<usize>) -> String {
    write(folder.path(), name, &visits(range));
    folder.ok(&["import", name, "--stream", "visits", "--wait", "--format", "csv"])
}

/// The pipelines of the shop, with topics of their own.
fn shop(brokers: &str) -> Folder {
    let folder = Folder::on_kafka(brokers, SHORT);
    let unique = folder.topic();
    for pipeline in ["shop", "reviews"] {
        for file in ["streams.sql", "views.sql"] {
            let path = format!("sql/pipelines/{pipeline}/{file}");
            let sql = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap();
            write(
                folder.path(),
                &path,
                &sql.replace("topic = '", &format!("topic = '{unique}-")),
            );
        }
    }
    std::fs::remove_dir_all(folder.path().join("sql/pipelines/web")).unwrap();
    folder
}

fn shop_events(range: std::ops::Range<usize>) -> String {
    let event = |number: usize| {
        let (user, product, kind) = (number % 50, number % 30, ["view", "cart", "purchase"][number % 3]);
        let (hour, minute) = (number / 60 % 24, number % 60);
        format!(
            "{{\"event_id\":\"e{number}\",\"user_id\":\"u{user}\",\"session_id\":\"s{user}\",\"event_type\":\"{kind}\",\
             \"product_id\":\"p{product}\",\"category\":\"c{}\",\"price\":\"{product}.25\",\"quantity\":2,\
             \"event_time\":\"2026-03-01T{hour:02}:{minute:02}:00Z\"}}\n",
            product % 4
        )
    };
    range.map(event).collect()
}

fn reviews(range: std::ops::Range<usize>) -> String {
    let review = |number: usize| {
        format!(
            "{{\"review_id\":\"r{number}\",\"product_id\":\"p{}\",\"customer_id\":\"u{}\",\"star_rating\":{},\
             \"helpful_votes\":1,\"total_votes\":2,\"verified_purchase\":\"Y\",\"review_headline\":\"h\",\
             \"review_body\":\"b\",\"review_date\":\"2026-03-0{}\"}}\n",
            number % 30,
            number % 50,
            1 + number % 5,
            1 + number % 9
        )
    };
    range.map(review).collect()
}

#[test]
fn kafka_carries_both_pipelines_by_configuration_alone() {
    let Some(brokers) = brokers() else { return };
    let folder = shop(&brokers);
    let created = folder.ok(&["topics", "create"]);
    assert!(
        created.contains("-shop_events: 8 partitions") && created.contains("-reviews: 8 partitions"),
        "{created}"
    );
    assert_eq!(folder.ok(&["topics", "create"]), created, "nothing twice");

    let running = folder.start().ready();
    let (address, path) = (running.address.clone(), "POST /v1/streams/shop_events/events");
    let json = "Content-Type: application/x-ndjson\r\n";
    let keyed = format!("{json}Idempotency-Key: first\r\n");
    let (status, answer) = ask(&address, path, &keyed, &shop_events(0..1000));
    assert_eq!(status, 202, "{answer}");
    let (status, answer) = ask(&address, path, &keyed, &shop_events(0..1000));
    assert_eq!(status, 202, "the same answer, and nothing twice: {answer}");
    write(folder.path(), "reviews.ndjson", &reviews(0..500));
    folder.ok(&["import", "reviews.ndjson", "--stream", "reviews", "--wait"]);
    let again = folder.ok(&[
        "import",
        "reviews.ndjson",
        "--stream",
        "reviews",
        "--wait",
        "--format",
        "csv",
    ]);
    assert!(again.contains("reviews.ndjson,0,"), "nothing twice: {again}");
    folder.ok(&["batch", "run"]);
    let (status, answer) = ask(&address, path, json, &shop_events(900..1500));
    assert_eq!(status, 202, "{answer}");
    let events = "SELECT sum(events) AS n FROM session_events";
    let since = Instant::now();
    // 1000, and 600 of which 100 repeat, which the unique key hides.
    while !folder.ok(&["query", events, "--format", "csv"]).contains("\n1500\n") {
        assert!(
            since.elapsed() < PATIENCE,
            "{}",
            folder.ok(&["query", events, "--format", "csv"])
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let verified = folder.ok(&["verify", "--all", "--format", "csv"]);
    assert!(
        verified.lines().count() == 8 && !verified.contains(",false,"),
        "{verified}"
    );
    running.terminate();

    // A start again: from the checkpoints, the archive and the log.
    let running = folder.start().ready();
    let verified = folder.ok(&["verify", "--all", "--format", "csv"]);
    assert!(!verified.contains(",false,"), "{verified}");
    folder.ok(&["batch", "run", "--full"]);
    folder.ok(&["verify", "--all"]);
    let audit = folder.ok(&["archive", "audit", "--format", "csv"]);
    let sum = |at: usize| -> u64 {
        audit
            .lines()
            .skip(1)
            .map(|line| line.split(',').nth(at).unwrap().parse::<u64>().unwrap())
            .sum()
    };
    assert_eq!((sum(5), sum(9)), (2100, 0), "rows and faults: {audit}");
    running.terminate();
}

#[test]
fn kafka_topics_that_grow_are_read_whole() {
    let Some(brokers) = brokers() else { return };
    let folder = Folder::on_kafka(&brokers, SHORT);
    let running = folder.start().ready();
    import(&folder, "one.ndjson", 0..300);
    folder.ok(&["batch", "run"]);
    let topic = folder.topic();
    let wanted = NewPartitions::new(&topic, 6);
    wait(admin(&brokers).create_partitions([&wanted], &AdminOptions::new())).unwrap();
    // It starts anew by itself, on another free port.
    let since = Instant::now();
    while !text(&folder.run(&["status", "--format", "csv"]).stdout)
        .lines()
        .any(|line| line.starts_with("visits,5,"))
    {
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(200));
    }
    import(&folder, "two.ndjson", 300..900);
    assert_eq!(visits_counted(&folder), 900);
    folder.ok(&["verify", "--all"]);
    folder.ok(&["batch", "run"]);
    assert_eq!(visits_counted(&folder), 900);
    folder.ok(&["verify", "--all"]);
    running.terminate();
}

#[test]
fn kafka_records_that_are_deleted_unread_are_a_gap_that_somebody_accepts() {
    let Some(brokers) = brokers() else { return };
    let folder = Folder::on_kafka(&brokers, SHORT);
    import(&folder, "one.ndjson", 0..300);
    folder.ok(&["batch", "run"]);
    // While nobody archives, records come and go.
    produce(&brokers, &folder.topic(), 300..400, 1);
    delete_records(&brokers, &folder.topic());

    let running = folder.start();
    let address = running.address.clone();
    ask_until(&address, "GET /readyz", |status, answer| {
        status == 503 && answer.contains("foldline gaps accept")
    });
    ask_until(&address, "GET /metrics", |_, answer| {
        answer
            .lines()
            .any(|line| line.contains("stopped") && line.contains("archive") && line.contains("} 1"))
    });
    let open = folder.ok(&["gaps", "list", "--format", "csv"]);
    assert!(open.contains("visits,0,") && open.contains(",open,"), "{open}");
    let verified = folder.run(&["verify", "--all"]);
    assert_eq!(
        verified.status.code(),
        Some(1),
        "{}{}",
        text(&verified.stdout),
        text(&verified.stderr)
    );
    let accepted = folder.ok(&["gaps", "accept", "visits"]);
    assert!(accepted.contains("1 gaps accepted"), "{accepted}");
    batch_run_until_done(&folder);
    ask_until(&address, "GET /readyz", |status, _| status == 200);
    import(&folder, "two.ndjson", 400..500);
    assert_eq!(
        visits_counted(&folder),
        400,
        "the hundred that were deleted are in no answer"
    );
    folder.ok(&["verify", "--all"]);
    folder.ok(&["batch", "run", "--full"]);
    assert_eq!(visits_counted(&folder), 400);
    folder.ok(&["verify", "--all"]);
    folder.ok(&["archive", "audit"]);
    let listed = folder.ok(&["gaps", "list", "--format", "csv"]);
    assert!(listed.contains(",accepted,") && !listed.contains(",open,"), "{listed}");
    running.terminate();
}

/// Runs the batch layer, which fails until the archive has gone on behind an accepted gap.
fn batch_run_until_done(folder: &Folder) {
    let since = Instant::now();
    while !folder.run(&["batch", "run"]).status.success() {
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Visits on `day` from a producer of somebody else, in partition 0.
pub(crate) fn produce(brokers: &str, topic: &str, range: std::ops::Range<usize>, day: usize) {
    let producer: rdkafka::producer::BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    for number in range {
        let value = visit(number, day);
        let record = rdkafka::producer::BaseRecord::<(), str>::to(topic)
            .partition(0)
            .payload(value.trim());
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    rdkafka::producer::Producer::flush(&producer, PATIENCE).unwrap();
}

/// Deletes what partition 0 holds.
pub(crate) fn delete_records(brokers: &str, topic: &str) {
    let mut until = TopicPartitionList::new();
    until.add_partition_offset(topic, 0, Offset::End).unwrap();
    wait(admin(brokers).delete_records(&until, &AdminOptions::new())).unwrap();
}

#[test]
fn kafka_gaps_cost_only_what_nobody_holds_and_judge_nothing_behind_them() {
    let Some(brokers) = brokers() else { return };
    let settings = SHORT
        .replace("roll_age_ms = 200", "roll_age_ms = 600000")
        .replace("cut_every_ms = 50", "cut_every_ms = 50\ncheckpoint_every_ms = 100");
    let folder = Folder::on_kafka(&brokers, &settings);
    // Without a unique key: a checkpoint beyond the archive could not be gone on from.
    let file = folder.path().join("sql/pipelines/web/streams.sql");
    let streams = std::fs::read_to_string(&file).unwrap();
    let unique = streams.find(",\n  unique_key").unwrap();
    std::fs::write(&file, format!("{}\n);\n", &streams[..unique])).unwrap();
    let count_until = |wanted: u64| {
        let since = Instant::now();
        loop {
            // Without those that came late.
            let counted = folder.ok(&["query", "SELECT sum(visits) AS n FROM days", "--format", "csv"]);
            let counted = counted.lines().nth(1).unwrap().parse().unwrap_or(0);
            if counted == wanted {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{counted} visits, not {wanted}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let running = folder.start().ready();
    produce(&brokers, &folder.topic(), 0..300, 1);
    count_until(300);
    folder.ok(&["batch", "run"]);
    // The archiver holds these in memory when they leave the log.
    produce(&brokers, &folder.topic(), 300..400, 1);
    count_until(400);
    delete_records(&brokers, &folder.topic());
    let refused = folder.run(&["gaps", "accept", "visits"]);
    let said = text(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("may still hold them"),
        "{said}"
    );
    folder.ok(&["batch", "run"]);
    count_until(400);
    folder.ok(&["verify", "--all"]);

    // These are in the speed layer's checkpoint and nowhere else.
    produce(&brokers, &folder.topic(), 400..500, 5);
    count_until(500);
    std::thread::sleep(Duration::from_secs(1));
    running.kill_minus_9();
    delete_records(&brokers, &folder.topic());
    let running = folder.start();
    ask_until(&running.address, "GET /readyz", |_, answer| {
        answer.contains("foldline gaps accept")
    });
    count_until(500);
    let accepted = folder.ok(&["gaps", "accept", "visits"]);
    assert!(accepted.contains("1 gaps accepted"), "{accepted}");
    count_until(400);
    // Beside the visits of the gap these would be late.
    produce(&brokers, &folder.topic(), 500..550, 1);
    batch_run_until_done(&folder);
    ask_until(&running.address, "GET /readyz", |status, _| status == 200);
    count_until(450);
    produce(&brokers, &folder.topic(), 550..560, 1);
    count_until(460);
    folder.ok(&["verify", "--all"]);
    folder.ok(&["batch", "run"]);
    count_until(460);
    folder.ok(&["verify", "--all"]);
    running.terminate();
}

#[test]
fn kafka_lag_beyond_half_of_the_retention_raises_an_alarm() {
    let Some(brokers) = brokers() else { return };
    let folder = Folder::on_kafka(&brokers, &SHORT.replace("roll_age_ms = 200", "roll_age_ms = 600000"));
    let name = folder.topic();
    let topic = NewTopic::new(&name, 3, TopicReplication::Fixed(1));
    // No segment is full so soon, so nothing leaves.
    let topic = topic
        .set("message.timestamp.type", "LogAppendTime")
        .set("retention.ms", "6000");
    wait(admin(&brokers).create_topics([&topic], &AdminOptions::new())).unwrap();
    let running = folder.start().ready();
    let alarm = |raised: &str| {
        let line = format!(
            "foldline_retention_alarm{{topic=\"{}\",partition=\"0\"}} {raised}",
            folder.topic()
        );
        ask_until(&running.address, "GET /metrics", |_, answer| answer.contains(&line));
    };
    alarm("0.0");
    produce(&brokers, &folder.topic(), 0..10, 1);
    alarm("1.0");
    folder.ok(&["batch", "run"]);
    alarm("0.0");
}

#[test]
fn kafka_topics_that_are_created_again_are_refused() {
    let Some(brokers) = brokers() else { return };
    let folder = Folder::on_kafka(&brokers, SHORT);
    let running = folder.start().ready();
    import(&folder, "one.ndjson", 0..300);
    folder.ok(&["batch", "run"]);
    let topic = folder.topic();
    wait(admin(&brokers).delete_topics(&[&topic], &AdminOptions::new())).unwrap();
    ask_until(&running.address, "GET /readyz", |status, answer| {
        status == 503 && answer.contains(&topic)
    });
    std::thread::sleep(Duration::from_millis(500));
    let again = NewTopic::new(&topic, 3, TopicReplication::Fixed(1)).set("message.timestamp.type", "LogAppendTime");
    wait(admin(&brokers).create_topics([&again], &AdminOptions::new())).unwrap();
    ask_until(&running.address, "GET /readyz", |status, answer| {
        status == 503 && answer.contains("created again")
    });
    running.terminate();
    let refused = folder.run(&["query", "SELECT * FROM pages"]);
    assert!(
        text(&refused.stderr).contains("was deleted and created again"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn kafka_settings_are_passed_on_and_their_secrets_hidden() {
    let folder = Folder::new();
    let away = kafka_settings("127.0.0.1:9") + "\"sasl.password\" = \"hush-hush\"\n\"debug\" = \"all\"\n";
    folder.set(&away);
    let shown = folder.ok(&["config"]);
    assert!(shown.contains("sasl.password") && !shown.contains("hush"), "{shown}");
    let away = foldline_logged(&folder, &["status"]);
    assert!(away.contains("127.0.0.1:9") && !away.contains("hush"), "{away}");
    folder.set(&(kafka_settings("127.0.0.1:9") + "\"auto.offset.reset\" = \"latest\"\n"));
    let refused = folder.run(&["status"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("auto.offset.reset"),
        "{}",
        text(&refused.stderr)
    );
}

/// All that a command says with every log line.
fn foldline_logged(folder: &Folder, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_foldline"))
        .current_dir(folder.path())
        .env("RUST_LOG", "debug")
        .args(arguments)
        .output()
        .unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn kafka_soak_of_kills_loses_and_repeats_nothing() {
    let Some(brokers) = brokers() else { return };
    let folder = Folder::on_kafka(&brokers, "");
    crashes::soak(&folder, &kafka_settings(&brokers));
}

/// A broker of the test's own.
struct Broker {
    folder: tempfile::TempDir,
    port: u16,
}

impl Broker {
    fn new(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // After a kill a broker waits for the end of its own session.
        let quick = "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n";
        write(folder.path(), "extra.properties", quick);
        Self::started(folder, port)
    }

    fn started(folder: tempfile::TempDir, port: u16) -> Self {
        let broker = Self { folder, port };
        broker.act("start");
        broker
    }

    fn act(&self, act: &str) {
        let lib = std::env::var("FOLDLINE_TEST_KAFKA_LIB").unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/services/kafka.sh");
        let done = Command::new(script)
            .args([act, &self.folder.path().display().to_string(), &self.port.to_string()])
            .env("KAFKA_LIB", lib)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(done.success(), "{act}");
    }

    fn kill_minus_9(&self) {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).unwrap();
        assert!(
            Command::new("kill")
                .args(["-9", pid.trim()])
                .status()
                .unwrap()
                .success()
        );
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.act("stop");
        } else if self.folder.path().join("pid").exists() {
            self.kill_minus_9();
        }
    }
}

#[test]
fn kafka_brokers_that_are_killed_are_named_and_come_back() {
    if std::env::var_os("FOLDLINE_TEST_KAFKA_LIB").is_none() {
        return;
    }
    let broker = Broker::new(19_492);
    let folder = Folder::on_kafka(&broker.address(), SHORT);
    let running = folder.start().ready();
    let address = running.address.clone();
    let path = "POST /v1/streams/visits/events";
    let json = "Content-Type: application/x-ndjson\r\n";
    let mut accepted = 0;
    for round in 0..2 {
        let stored = |from: usize| ask(&address, path, json, &visits(from..from + 50)).0;
        assert_eq!(stored(accepted), 202);
        accepted += 50;
        folder.ok(&["batch", "run"]);
        broker.kill_minus_9();
        let named = ask_until(&address, "GET /readyz", |status, _| status == 503);
        assert!(named.contains(&broker.address()), "{named}");
        let refused = stored(accepted);
        assert!(refused == 503 || refused == 500, "round {round}: {refused}");
        broker.act("start");
        ask_until(&address, "GET /readyz", |status, _| status == 200);
        // A repeat of what may have been stored: the unique key hides it.
        let since = Instant::now();
        while stored(accepted) != 202 {
            assert!(since.elapsed() < PATIENCE, "round {round}");
            std::thread::sleep(Duration::from_millis(200));
        }
        accepted += 50;
        let since = Instant::now();
        while visits_counted(&folder) != accepted as u64 {
            assert!(since.elapsed() < PATIENCE, "{} of {accepted}", visits_counted(&folder));
            std::thread::sleep(Duration::from_millis(200));
        }
        folder.ok(&["verify", "--all"]);
    }
    folder.ok(&["batch", "run", "--full"]);
    folder.ok(&["verify", "--all"]);
    running.terminate();
}

/// A broker that also listens by TLS on the port two above, to users with a password.
#[cfg(feature = "kafka-tls")]
fn broker_with_tls(port: u16, user: &str, password: &str) -> Broker {
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).current_dir(&folder).args(arguments).output();
        let done = done.unwrap();
        assert!(
            done.status.success(),
            "{program}: {}{}",
            text(&done.stdout),
            text(&done.stderr)
        );
    };
    let of_store = [
        "-keystore",
        "broker.p12",
        "-storepass",
        "of-the-broker",
        "-alias",
        "broker",
    ];
    let named = [
        "-dname",
        "CN=broker",
        "-ext",
        "SAN=ip:127.0.0.1",
        "-keyalg",
        "RSA",
        "-validity",
        "2",
    ];
    run("keytool", &[&["-genkeypair"], &of_store[..], &named[..]].concat());
    run(
        "keytool",
        &[&["-exportcert", "-rfc", "-file", "broker.pem"], &of_store[..]].concat(),
    );
    let tls = port + 2;
    let properties = format!(
        "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{},SASL_SSL://127.0.0.1:{tls}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{tls}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL\n\
         ssl.keystore.location={}\nssl.keystore.password=of-the-broker\nssl.keystore.type=PKCS12\n\
         sasl.enabled.mechanisms=SCRAM-SHA-512\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;\n",
        port + 1,
        folder.path().join("broker.p12").display()
    );
    write(folder.path(), "extra.properties", &properties);
    let broker = Broker::started(folder, port);
    let lib = std::env::var("FOLDLINE_TEST_KAFKA_LIB").unwrap();
    let config = format!("SCRAM-SHA-512=[password={password}]");
    let mut configs = Command::new("java");
    configs.args([
        "-cp",
        &format!("{lib}/*"),
        "kafka.admin.ConfigCommand",
        "--bootstrap-server",
    ]);
    configs.args([
        &broker.address(),
        "--alter",
        "--add-config",
        &config,
        "--entity-type",
        "users",
    ]);
    let done = configs.args(["--entity-name", user]).output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    broker
}

#[cfg(feature = "kafka-tls")]
#[test]
fn kafka_is_reached_by_tls_with_a_password() {
    if std::env::var_os("FOLDLINE_TEST_KAFKA_LIB").is_none() {
        return;
    }
    let broker = broker_with_tls(19_892, "foldline", "planted-password");
    let address = format!("127.0.0.1:{}", broker.port + 2);
    let folder_with = |certificate: &str, password: &str| {
        let certificate = broker.folder.path().join(certificate);
        let certificate = certificate.display();
        Folder::on_kafka(
            &address,
            &format!(
                "\"security.protocol\" = \"sasl_ssl\"\n\"ssl.ca.location\" = \"{certificate}\"\n\
                 \"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \"foldline\"\n\
                 \"sasl.password\" = \"{password}\"\n{SHORT}"
            ),
        )
    };
    let folder = folder_with("broker.pem", "planted-password");
    let running = folder.start().ready();
    folder.import_visits();
    folder.ok(&["batch", "run"]);
    folder.ok(&["verify", "--all"]);
    running.terminate();

    // Whom nobody vouches for is not talked to, and who says the wrong password is told so; nobody hears the password.
    let store = [
        "-genkeypair",
        "-keystore",
        "other.p12",
        "-storepass",
        "of-another",
        "-dname",
        "CN=other",
    ];
    let more = ["-keyalg", "RSA", "-alias", "other"];
    let export = [
        "-exportcert",
        "-rfc",
        "-file",
        "other.pem",
        "-keystore",
        "other.p12",
        "-storepass",
        "of-another",
    ];
    for arguments in [
        [&store[..], &more[..]].concat(),
        [&export[..], &["-alias", "other"]].concat(),
    ] {
        let done = Command::new("keytool")
            .current_dir(&broker.folder)
            .args(arguments)
            .output();
        assert!(done.unwrap().status.success());
    }
    for (certificate, password, said) in [
        ("other.pem", "planted-password", "certificate"),
        ("broker.pem", "wrong-planted-password", "Authentication failed"),
    ] {
        let refused = folder_with(certificate, password);
        let output = refused.command(&["topics", "create"]).output().unwrap();
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success() && told.contains(said), "{told}");
        assert!(!told.contains("planted"), "{told}");
    }
}

/// First and next offset of every partition of `topic`.
fn held(brokers: &str, topic: &str) -> Vec<(i64, i64)> {
    let admin = admin(brokers);
    let held = (0..3).map(|partition| admin.inner().fetch_watermarks(topic, partition, PATIENCE));
    held.collect::<Result<_, _>>().unwrap()
}

#[test]
fn kafka_takes_an_embedded_installation_over() {
    let Some(brokers) = brokers() else { return };
    // Of one whose log has forgotten its beginning, with late, repeated and malformed rows, and what is not archived yet.
    let folder = Folder::on_kafka(&brokers, "");
    let topic = folder.topic();
    folder.set(&format!("[log]\nretention_ms = 1\n{SHORT}"));
    folder.import_visits();
    folder.ok(&["batch", "run"]);
    let running = folder.start().ready();
    let released = |answer: &str| answer.split("\"earliest\":").skip(1).any(|rest| !rest.starts_with('0'));
    let since = Instant::now();
    while !released(&running.get("/v1/status")) {
        assert!(since.elapsed() < PATIENCE, "{}", running.get("/v1/status"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let post = "POST /v1/streams/visits/events";
    let json = "Content-Type: application/x-ndjson\r\n";
    assert_eq!(ask(&running.address, post, json, &visits(1_000..1_040)).0, 202);
    running.terminate();
    let queries = [
        "SELECT * FROM pages ORDER BY page",
        "SELECT * FROM page_days ORDER BY page, day",
    ];
    let answers = |arguments: &[&str]| {
        let ask = |query: &&str| folder.ok(&[arguments, &["query", query, "--format", "csv"]].concat());
        queries.iter().map(ask).collect::<Vec<_>>()
    };
    let before = answers(&[]);

    let target = format!("data_dir = \"kafka-data\"\n{}{SHORT}", kafka_settings(&brokers));
    write(folder.path(), "kafka.toml", &target);
    // Killed again and again, a little later each time, it goes on where it was.
    let migrate = ["migrate", "--to", "kafka.toml", "--format", "csv"];
    let mut killed = 0;
    let table = loop {
        let mut started = folder
            .command(&migrate)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(400 * (killed + 1)));
        if killed < 12 && started.try_wait().unwrap().is_none() {
            started.kill().unwrap();
            started.wait().unwrap();
            killed += 1;
            continue;
        }
        let output = started.wait_with_output().unwrap();
        let told = text(&output.stderr);
        // Killed between its topics and its note that it made them: as it tells people to.
        if told.contains("is on Kafka already") && killed > 0 {
            wait(admin(&brokers).delete_topics(&[&topic], &AdminOptions::new())).unwrap();
            continue;
        }
        assert!(output.status.success(), "{told}");
        break text(&output.stdout);
    };
    println!("killed {killed} times; {table}");
    let refused = folder.no(&["status"]);
    assert!(refused.contains("was migrated to Kafka"), "{refused}");
    let held = held(&brokers, &topic);
    assert!(
        held.iter().any(|(earliest, end)| 0 < *earliest && earliest < end),
        "{held:?}"
    );
    for (partition, (_, end)) in held.into_iter().enumerate() {
        let row = format!("{topic}/{partition},0,{end},");
        // Killed behind its last step it has told nobody.
        let told = table.contains(&row) || table.contains("was carried and audited before");
        assert!(told, "{row}: {table}");
    }

    let kafka = ["--config", "kafka.toml"];
    let ok = |arguments: &[&str]| folder.ok(&[&kafka, arguments].concat());
    ok(&["batch", "run"]);
    assert_eq!(answers(&kafka), before);
    ok(&["verify", "--all"]);
    ok(&["archive", "audit"]);
    // What was kept before is known: of these rows, which came in the day before, none counts again.
    ok(&["import", "visits.ndjson", "--stream", "visits", "--wait"]);
    assert_eq!(answers(&kafka), before);
    ok(&["batch", "run", "--full"]);
    assert_eq!(answers(&kafka), before);
    ok(&["verify", "--all"]);
    ok(&["archive", "audit"]);
}
