//! The HTTP collector, over real HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::Array;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use foldline_event_log::collect::chunk;
use foldline_event_log::collect::http::{Collector, CollectorCounters, router};
use foldline_event_log::{
    Appended, EmbeddedLog, EmbeddedSettings, EventLog, LogError, NewRecord, Offset, ProducerSequence, Records, Span,
    SystemClock, Topic, TopicPartition,
};
use foldline_sql::{Column, EventTimeFormat, Stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) fn column(name: &str, data_type: DataType, nullable: bool) -> Column {
    Column {
        name: name.to_owned(),
        data_type,
        nullable,
    }
}

pub(crate) fn stream(name: &str, key: &str, columns: Vec<Column>) -> Stream {
    Stream {
        name: name.to_owned(),
        topic: format!("{name}-topic"),
        columns,
        partitions: 1,
        key: Some(key.to_owned()),
        event_time: None,
        event_time_format: EventTimeFormat::Iso8601,
        timezone: None,
        lateness_ms: None,
        max_skew_ms: 3_600_000,
        unique: None,
        archive_raw: true,
    }
}

struct Served {
    log: Arc<EmbeddedLog>,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

fn clicks() -> Arc<Stream> {
    Arc::new(stream("clicks", "user", vec![column("user", DataType::Utf8, false)]))
}

/// A collector that waits for nobody, and what it counts.
async fn counted(log: Arc<dyn EventLog>) -> (SocketAddr, Collector) {
    let collector = Collector::new(log, [clicks()]);
    (listen(collector.clone()).await, collector)
}

async fn serve(adjust: impl FnOnce(Collector) -> Collector) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(EmbeddedSettings::new(folder.path()), Arc::new(SystemClock)).unwrap();
    let collector = adjust(Collector::new(Arc::clone(&log) as Arc<dyn EventLog>, [clicks()]));
    Served {
        log,
        address: listen(collector).await,
        _folder: folder,
    }
}

async fn listen(collector: Collector) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(collector)).await.unwrap() });
    address
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

async fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let length = if headers.contains("chunked") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}{headers}\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    // A refused body may not be read to its end.
    _ = connection.write_all(body).await;
    let mut answer = Vec::new();
    _ = connection.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}

impl Served {
    async fn post(&self, body: impl AsRef<[u8]>) -> Answer {
        self.post_with("", body).await
    }

    async fn post_with(&self, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        send(
            self.address,
            "POST",
            "/v1/streams/clicks/events",
            headers,
            body.as_ref(),
        )
        .await
    }

    async fn stored(&self) -> Vec<(Option<String>, String)> {
        stored(&self.log, "clicks-topic").await
    }
}

pub(crate) async fn stored(log: &EmbeddedLog, topic: &str) -> Vec<(Option<String>, String)> {
    let Ok(topic) = log.topic(topic).await else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for partition in topic.all_partitions() {
        let end = log.span(&partition).await.unwrap().end;
        let mut next = Offset(0);
        while next < end {
            let records = log.read(&partition, next, 1 << 24, Duration::ZERO).await.unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            for index in 0..records.len() {
                let key = records.keys.is_valid(index).then(|| text(records.keys.value(index)));
                all.push((key, text(records.values.value(index))));
            }
            next = records.next;
        }
    }
    all
}

fn pair(key: Option<&str>, value: &str) -> (Option<String>, String) {
    (key.map(str::to_owned), value.to_owned())
}

#[tokio::test]
async fn lines_are_stored_as_their_bytes() {
    let served = serve(|collector| collector).await;
    let body =
        "{\"user\":\"u1\", \"n\": 1.0}\r\n\n  {\"n\":2}\nnot json\n42\n{\"user\":7}\u{2028}\n{\"user\":\"u\u{2028}2\"}";
    let answer = served.post(body).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body["accepted"], 4);
    let rejected = answer.body["rejected"].as_array().unwrap();
    assert_eq!(
        rejected
            .iter()
            .map(|one| one["line"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [4, 6]
    );
    assert!(
        rejected[0]["reason"].as_str().unwrap().starts_with("not JSON: "),
        "{rejected:?}"
    );
    assert_eq!(
        served.stored().await,
        [
            pair(Some("u1"), "{\"user\":\"u1\", \"n\": 1.0}"),
            pair(None, "  {\"n\":2}"),
            pair(None, "42"),
            pair(Some("u\u{2028}2"), "{\"user\":\"u\u{2028}2\"}"),
        ]
    );
}

#[tokio::test]
async fn arrays_are_stored_element_by_element() {
    let served = serve(|collector| collector).await;
    let answer = served
        .post(" [ {\"user\" : 9007199254740993} ,{\"user\":null}, \"x\" ]\n")
        .await;
    assert_eq!(
        (answer.status, answer.body),
        (202, json!({"accepted": 3, "rejected": []}))
    );
    assert_eq!(
        served.stored().await,
        [
            pair(Some("9007199254740993"), "{\"user\" : 9007199254740993}"),
            pair(None, "{\"user\":null}"),
            pair(None, "\"x\""),
        ]
    );
    let answer = served.post("[{\"user\":1},").await;
    assert_eq!(
        (answer.status, &answer.body["type"]),
        (400, &json!("https://foldline.dev/problems/not-json"))
    );
    let answer = served
        .post_with("Content-Type: application/x-ndjson\r\n", "[1]\n[2,\n")
        .await;
    assert_eq!(
        (
            answer.status,
            &answer.body["accepted"],
            &answer.body["rejected"][0]["line"]
        ),
        (202, &json!(1), &json!(2))
    );
    assert_eq!(served.stored().await.len(), 4);
}

#[tokio::test]
async fn empty_bodies_are_fine() {
    let served = serve(|collector| collector).await;
    for body in ["", "\n\r\n", "[]"] {
        let answer = served.post(body).await;
        assert_eq!(
            (answer.status, answer.body),
            (202, json!({"accepted": 0, "rejected": []})),
            "{body:?}"
        );
    }
    assert!(served.stored().await.is_empty());
}

#[tokio::test]
async fn deep_nesting_and_wrong_bytes_harm_nobody() {
    let served = serve(|collector| collector).await;
    let deep = format!(
        "{{\"x\":{}{},\"user\":\"u\"}}\n",
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let mut body = deep.clone().into_bytes();
    body.extend_from_slice(b"{\"user\":\"\xff\"}\n");
    let answer = served.post(body).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(1)));
    assert_eq!(
        answer.body["rejected"],
        json!([{"line": 2, "reason": "not UTF-8: a wrong byte at position 9"}])
    );
    assert_eq!(served.stored().await, [pair(Some("u"), deep.trim_end())]);
}

#[tokio::test]
async fn a_request_with_an_idempotency_key_happens_once() {
    let served = serve(|collector| collector).await;
    let body = "{\"user\":\"u\"}\nbroken\n";
    let key = "Idempotency-Key: abc 1\r\n";
    let first = served.post_with(key, body).await;
    let second = served.post_with(key, body).await;
    assert_eq!((first.status, second.status), (202, 202));
    assert_eq!(first.body, second.body);
    assert_eq!(served.stored().await.len(), 1);
    let other = served.post_with(key, "{\"user\":\"other\"}\n").await;
    assert_eq!(
        (other.status, &other.body["type"]),
        (422, &json!("https://foldline.dev/problems/idempotency-key-reused"))
    );
    assert_eq!(
        served.stored().await.len(),
        1,
        "another body under the same key is not stored"
    );
    served.post_with("Idempotency-Key: abc 2\r\n", body).await;
    assert_eq!(served.stored().await.len(), 2);
    let long = format!("Idempotency-Key: {}\r\n", "x".repeat(256));
    assert_eq!(served.post_with(&long, body).await.status, 400);
}

#[tokio::test]
async fn of_two_bodies_under_one_idempotency_key_one_is_stored_and_the_other_refused() {
    let served = serve(|collector| collector).await;
    let mut accepted = Vec::new();
    for round in 0..20 {
        let key = format!("Idempotency-Key: {round}\r\n");
        let bodies: Vec<String> = (0..4).map(|user| format!("{{\"user\":\"{round}-{user}\"}}")).collect();
        // At once: none of them is stored when the others are looked up.
        let answers = futures::future::join_all(bodies.iter().map(|body| served.post_with(&key, body))).await;
        let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        let taken = statuses.iter().position(|status| *status == 202).unwrap();
        accepted.push(bodies[taken].clone());
        statuses.sort_unstable();
        assert_eq!(statuses, [202, 422, 422, 422]);
    }
    let mut stored: Vec<String> = served.stored().await.into_iter().map(|record| record.1).collect();
    stored.sort_unstable();
    accepted.sort_unstable();
    assert_eq!(stored, accepted, "what was accepted is stored, and nothing else");
}

#[tokio::test]
async fn unknown_streams_and_large_bodies_are_refused() {
    let served = serve(|collector| collector.with_body_bytes_max(1_000).with_record_bytes_max(100)).await;
    let answer = send(served.address, "POST", "/v1/streams/nope/events", "", b"{}").await;
    assert_eq!(
        (answer.status, &answer.body["type"]),
        (404, &json!("https://foldline.dev/problems/unknown-stream"))
    );
    assert!(
        answer.head.contains("content-type: application/problem+json"),
        "{}",
        answer.head
    );
    assert!(
        answer.body["detail"].as_str().unwrap().contains("clicks"),
        "{}",
        answer.body
    );

    let line = "{\"user\":\"u\"}\n";
    let answer = served.post(line.repeat(80)).await;
    assert_eq!(
        (answer.status, &answer.body["type"]),
        (413, &json!("https://foldline.dev/problems/body-too-large"))
    );
    let mut chunked = Vec::new();
    for _ in 0..80 {
        chunked.extend_from_slice(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes());
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answer = served.post_with("Transfer-Encoding: chunked\r\n", &chunked).await;
    assert_eq!(answer.status, 413, "also when the length is not announced");
    assert!(served.stored().await.is_empty());

    let large = format!("{line}{{\"user\":\"{}\"}}\n{line}", "x".repeat(100));
    let answer = served.post(large).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(2)));
    assert_eq!(answer.body["rejected"][0]["line"], 2);
    assert_eq!(served.stored().await.len(), 2);
}

/// A log that cannot take more.
#[derive(Debug)]
struct FullLog(Arc<EmbeddedLog>);

#[async_trait]
impl EventLog for FullLog {
    async fn ensure_topic(&self, name: &str, partitions: u32) -> Result<Topic, LogError> {
        self.0.ensure_topic(name, partitions).await
    }
    async fn topic(&self, name: &str) -> Result<Topic, LogError> {
        self.0.topic(name).await
    }
    async fn span(&self, partition: &TopicPartition) -> Result<Span, LogError> {
        self.0.span(partition).await
    }
    async fn read(&self, of: &TopicPartition, from: Offset, max: usize, wait: Duration) -> Result<Records, LogError> {
        self.0.read(of, from, max, wait).await
    }
    async fn append(
        &self,
        _topic: &str,
        _records: Vec<NewRecord>,
        _sequence: Option<ProducerSequence>,
    ) -> Result<Appended, LogError> {
        Err(LogError::Full("5 bytes wait".to_owned()))
    }
    async fn last_sequence(&self, producer: &str) -> Result<Option<u64>, LogError> {
        self.0.last_sequence(producer).await
    }
    async fn release(&self, partition: &TopicPartition, floor: Offset) -> Result<(), LogError> {
        self.0.release(partition, floor).await
    }
}

#[tokio::test]
async fn a_full_log_says_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(EmbeddedSettings::new(folder.path()), Arc::new(SystemClock)).unwrap();
    let address = listen(Collector::new(Arc::new(FullLog(log)), [clicks()])).await;
    let answer = send(address, "POST", "/v1/streams/clicks/events", "", b"{}").await;
    assert_eq!(
        (answer.status, &answer.body["type"]),
        (503, &json!("https://foldline.dev/problems/log-is-full"))
    );
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
}

#[tokio::test]
async fn what_becomes_of_requests_and_events_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(EmbeddedSettings::new(folder.path()), Arc::new(SystemClock)).unwrap();
    let (address, collector) = counted(Arc::clone(&log) as _).await;
    let events = "/v1/streams/clicks/events";
    let key = "Content-Type: application/x-ndjson\r\nIdempotency-Key: 1\r\n";
    for _ in 0..2 {
        send(address, "POST", events, key, b"{\"user\":\"u\"}\n{}\nbroken\n").await;
    }
    send(address, "POST", "/v1/streams/others/events", "", b"{}").await;
    let chunk = chunk::encode(&[NewRecord {
        value: "x,y".into(),
        ..NewRecord::default()
    }]);
    send(address, "POST", "/v1/streams/clicks/import/0123abcd/1", "", &chunk).await;
    let expected = CollectorCounters {
        stored: 3,
        repeats: 1,
        busy: 0,
        refused: 1,
        events: 3,
        bytes: 17,
        rejected: 2,
    };
    assert_eq!(collector.counters(), expected);

    let (address, collector) = counted(Arc::new(FullLog(log))).await;
    send(address, "POST", events, "", b"{}").await;
    let expected = CollectorCounters {
        busy: 1,
        ..CollectorCounters::default()
    };
    assert_eq!(collector.counters(), expected);
}

#[tokio::test]
async fn memory_for_bodies_is_bounded() {
    let served = serve(|collector| collector.with_body_bytes_max(100_000)).await;
    let head = "POST /v1/streams/clicks/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut connection = TcpStream::connect(served.address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(b"{\"user\":").await.unwrap();
        slow.push(connection);
    }
    let mut refused = None;
    for _ in 0..200 {
        let answer = served.post(" ".repeat(100_000)).await;
        if answer.status == 503 {
            refused = Some(answer);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        refused.is_some_and(|answer| answer.head.contains("retry-after")),
        "eight slow bodies fill the memory"
    );
    drop(slow);
    for _ in 0..200 {
        if served.post(" ".repeat(100_000)).await.status == 202 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the memory of ended requests is never given back");
}

#[tokio::test]
async fn importers_hand_over_chunks() {
    let served = serve(|collector| collector).await;
    let path = "/v1/streams/clicks/import/0123abcd";
    let answer = send(served.address, "GET", path, "", b"").await;
    assert_eq!((answer.status, answer.body), (200, json!({"last_sequence": null})));
    let record = NewRecord {
        key: Some("k".into()),
        value: "raw \n line".into(),
        headers: Vec::new(),
    };
    let body = chunk::encode(&[
        record,
        NewRecord {
            value: "x".into(),
            ..NewRecord::default()
        },
    ]);
    for outcome in ["stored", "already"] {
        let answer = send(served.address, "POST", &format!("{path}/41"), "", &body).await;
        assert_eq!((answer.status, answer.body), (200, json!({ "outcome": outcome })));
    }
    assert_eq!(served.stored().await, [pair(Some("k"), "raw \n line"), pair(None, "x")]);
    let answer = send(served.address, "GET", path, "", b"").await;
    assert_eq!(answer.body, json!({"last_sequence": 41}));
    assert_eq!(
        served.log.last_sequence("import/0123abcd/clicks").await.unwrap(),
        Some(41)
    );
    let answer = send(served.address, "POST", &format!("{path}/42"), "", &body[..5]).await;
    assert_eq!(
        (answer.status, &answer.body["type"]),
        (400, &json!("https://foldline.dev/problems/not-records"))
    );
    assert_eq!(
        send(served.address, "GET", "/v1/streams/clicks/import/a%2Fb", "", b"")
            .await
            .status,
        400
    );
}
