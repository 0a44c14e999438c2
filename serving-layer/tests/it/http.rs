//! HTTP round trips with a real server.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use foldline_serving_layer::status::{GenerationStatus, MemoryStatus, PartitionStatus, StreamStatus};
use foldline_serving_layer::{Count, Status, StatusSource};
use object_store::ObjectStoreExt;
use serde_json::Value;

use crate::platform::{PIPELINE, Platform, at, random_log, rows};

#[derive(Debug, Default)]
struct Shown(Mutex<Status>);

impl StatusSource for Shown {
    fn status(&self) -> Status {
        self.0.lock().unwrap().clone()
    }

    fn counts(&self) -> Vec<Count> {
        let count = |reason: &str, value| Count {
            name: "archive_rolls",
            help: "Commits by what caused them",
            labels: vec![("reason", reason.to_owned())],
            value,
        };
        vec![count("age", 2.0), count("size", 3.0)]
    }
}

struct Server {
    platform: Platform,
    status: Arc<Shown>,
    address: String,
    client: reqwest::Client,
}

impl Server {
    async fn start(platform: Platform) -> Self {
        let status = Arc::new(Shown::default());
        let router = foldline_serving_layer::http::router(Arc::new(platform.serving.clone()), status.clone());
        Self {
            platform,
            status,
            address: listen(router).await,
            client: reqwest::Client::new(),
        }
    }

    async fn filled() -> Self {
        let platform = Platform::new(PIPELINE).await;
        let (log, ends) = random_log(&platform.catalog, 31, 60, 6);
        platform
            .seam_at(&log, &at(&[(0, 30), (1, 40), (2, 20)]), &ends, 3)
            .await;
        Self::start(platform).await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.client.get(format!("{}{path}", self.address)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn query(&self, body: &str) -> (u16, String) {
        let request = self
            .client
            .post(format!("{}/v1/query", self.address))
            .body(body.to_owned());
        let response = request.header("content-type", "application/json").send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

/// Serves `router`, and says where.
async fn listen(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn an_answer_has_the_shape_of_the_interface() {
    let server = Server::filled().await;
    let answer = server
        .json("/v1/views/days?user_id=u1&day=gte.2024-01-11&order=day.desc&limit=2")
        .await;
    assert_eq!(
        answer["meta"][0],
        serde_json::json!({"name": "user_id", "type": "TEXT"})
    );
    assert_eq!(answer["meta"][1]["type"], "TIMESTAMPTZ");
    assert_eq!(answer["rows"], 2);
    assert_eq!(answer["data"][0]["user_id"], "u1");
    assert_eq!(answer["data"][0]["day"], "2024-01-12T00:00:00Z");
    assert!(answer["statistics"]["elapsed_ms"].is_number());
    let coverage = &answer["coverage"];
    assert_eq!(coverage["generation"], 1);
    assert_eq!(coverage["cut"]["events/1"], 40);
    assert!(coverage["until"]["events/1"].as_u64().unwrap() > 60);
    assert!(coverage["as_of"].as_str().unwrap().starts_with("2024-01-1"));
    assert_eq!(coverage["freshness_seconds"], 1.5);
    assert_eq!(coverage["class"], "exact");

    let (status, text) = server.query(r#"{"sql":"SELECT count(*) AS n FROM users"}"#).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &answer["data"][0]["n"]), (200, &serde_json::json!(6)));

    let empty = server.json("/v1/views/users?user_id=nobody").await;
    assert_eq!(
        (&empty["rows"], &empty["data"]),
        (&serde_json::json!(0), &serde_json::json!([]))
    );
    let batch = server.json("/v1/views/everything?batch_only=true").await;
    assert_eq!(batch["coverage"]["cut"], batch["coverage"]["until"]);
    assert_eq!(batch, {
        let mut at = server.json("/v1/views/everything?at=1").await;
        at["statistics"] = batch["statistics"].clone();
        at
    });
    let speed = server.json("/v1/views/everything?speed_only=true").await;
    let merged = server.json("/v1/views/everything").await;
    let n = |answer: &Value| answer["data"][0]["n"].as_u64().unwrap();
    assert_eq!(n(&batch) + n(&speed), n(&merged));
}

#[tokio::test]
async fn every_format_carries_the_same_rows() {
    let server = Server::filled().await;
    let rows = server.json("/v1/views/users").await["rows"].as_u64().unwrap() as usize;
    let ask = async |accept: &str, path: &str| {
        let request = server
            .client
            .get(format!("{}{path}", server.address))
            .header("accept", accept);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{accept}");
        assert_eq!(response.headers()["content-type"], accept);
        let coverage = response.headers()["foldline-coverage"].to_str().unwrap().to_owned();
        let coverage: Value = serde_json::from_str(&coverage).unwrap();
        assert_eq!(coverage["generation"], 1);
        response.bytes().await.unwrap()
    };
    let lines = ask("application/x-ndjson", "/v1/views/users").await;
    let lines: Vec<Value> = lines
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines.len(), rows);
    let csv = String::from_utf8(ask("text/csv", "/v1/views/users").await.to_vec()).unwrap();
    assert_eq!(csv.lines().count(), rows + 1);
    assert!(
        csv.starts_with("user_id,n,total,revenue,newest,last_kind\nu0,"),
        "{csv}"
    );
    assert!(csv.lines().nth(1).unwrap().contains("Z,"), "{csv}");
    let csv = String::from_utf8(ask("text/csv", "/v1/views/actions").await.to_vec()).unwrap();
    assert!(csv.contains("[\"\""), "a list is JSON text: {csv}");
    let stream = ask("application/vnd.apache.arrow.stream", "/v1/views/users").await;
    let reader = arrow::ipc::reader::StreamReader::try_new(Cursor::new(stream), None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), rows);
    let file = ask("application/vnd.apache.parquet", "/v1/views/users").await;
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1000).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), rows);

    let request = server
        .client
        .get(format!("{}/v1/views/users", server.address))
        .header("accept", "image/png");
    assert_eq!(request.send().await.unwrap().status(), 406);
    let csv = String::from_utf8(ask("text/csv", "/v1/views/users?user_id=nobody").await.to_vec()).unwrap();
    assert_eq!(csv.trim(), "user_id,n,total,revenue,newest,last_kind");
}

#[tokio::test]
async fn digits_are_kept() {
    let platform = Platform::new(PIPELINE).await;
    let schema = platform.catalog.streams()[0].table_schema();
    let line = |offset: u64, amount: &str, price: &str| {
        format!(
            "{{\"user_id\":\"u{offset}\",\"amount\":{amount},\"price\":\"{price}\",\"at\":\"2024-01-10T10:00:00.000001Z\",\
             \"_topic\":\"events\",\"_partition\":0,\"_offset\":{offset},\"_record_time\":\"2024-01-10T00:00:00Z\",\
             \"_late\":false,\"_duplicate\":false}}\n"
        )
    };
    let lines = line(5, "9223372036854775807", "123456789012345678.91") + &line(6, "-9223372036854775808", "-0.01");
    let none = rows(&schema, "");
    let log = [(0, rows(&schema, &lines)), (1, none.clone()), (2, none)]
        .into_iter()
        .collect();
    let bounds = [(0, vec![5, 7]), (1, vec![5]), (2, vec![5])].into_iter().collect();
    platform.fold_speed(&log, &bounds, &[]).await;
    let server = Server::start(platform).await;
    let (_, text) = server.get("/v1/views/users").await;
    for exact in [
        "\"total\":9223372036854775807,",
        "\"total\":-9223372036854775808,",
        "\"revenue\":123456789012345678.91,",
        "\"revenue\":-0.01,",
        "\"newest\":\"2024-01-10T10:00:00.000001Z\"",
        "\"last_kind\":null",
    ] {
        assert!(text.contains(exact), "{exact} in {text}");
    }
    let sql = "SELECT CAST('NaN' AS DOUBLE) AS a, CAST('inf' AS DOUBLE) AS b, DATE '2024-02-29' AS c, \
               TIMESTAMP '2024-02-29 10:00:00' AS d, 1.10 AS e, 0.1 + 0.2 AS f, X'00ff' AS g";
    let (status, text) = server.query(&serde_json::json!({ "sql": sql }).to_string()).await;
    assert_eq!(status, 200, "{text}");
    assert!(
        text.contains("\"a\":null,\"b\":null,\"c\":\"2024-02-29\",\"d\":\"2024-02-29T10:00:00Z\""),
        "{text}"
    );
    assert!(text.contains("\"g\":\"00ff\""), "{text}");
}

#[tokio::test]
async fn errors_are_problem_documents() {
    let server = Server::filled().await;
    for (path, status, kind, says) in [
        ("/v1/views/nope", 404, "unknown-view", "there are: users"),
        ("/v1/views/users?nope=1", 400, "unknown-column", "it has: user_id, n,"),
        (
            "/v1/views/users?n=many",
            400,
            "bad-value",
            "\"many\" does not fit column \"n\" of type BIGINT",
        ),
        ("/v1/views/users?limit=-1", 400, "bad-parameter", "limit"),
        ("/v1/views/users?at=99", 404, "unknown-generation", "generation 99"),
        (
            "/v1/views/users?at=1&speed_only=true",
            400,
            "bad-parameter",
            "batch alone",
        ),
        ("/v1/views/users?select=nope", 400, "unknown-column", "nope"),
    ] {
        let response = server
            .client
            .get(format!("{}{path}", server.address))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(problem["type"], format!("urn:foldline:problem:{kind}"), "{path}");
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    }
    for (body, status, kind) in [
        (r#"{"sql":"DROP TABLE users"}"#, 400, "refused"),
        (r#"{"sql":"SELECT nope FROM users"}"#, 400, "bad-query"),
        (r#"{"sql":"SELECT * FROM '/etc/passwd'"}"#, 400, "unknown-table"),
        (r#"{"sql":"SELECT * FROM events"}"#, 400, "no-archive"),
        (r#"{"sql":"SELECT 1","nope":1}"#, 422, "bad-request"),
        (r"{", 400, "bad-request"),
    ] {
        let (found, text) = server.query(body).await;
        assert_eq!(found, status, "{body}: {text}");
        assert!(text.contains(&format!("urn:foldline:problem:{kind}")), "{body}: {text}");
    }
}

#[tokio::test]
async fn readiness_follows_the_seam() {
    let server = Server::filled().await;
    let (status, text) = server.get("/readyz").await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(server.get("/healthz").await.0, 200);

    server.status.0.lock().unwrap().streams = vec![StreamStatus {
        topic: "events".to_owned(),
        partitions: vec![PartitionStatus {
            speed_stopped: Some("its budget is used up".to_owned()),
            ..PartitionStatus::default()
        }],
        ..StreamStatus::default()
    }];
    let (status, text) = server.get("/readyz").await;
    assert!(status == 503 && text.contains("budget"), "{text}");
    server.status.0.lock().unwrap().streams[0].partitions = vec![PartitionStatus {
        speed_until: Some(7),
        speed_replaying_to: Some(20),
        ..PartitionStatus::default()
    }];
    let (status, text) = server.get("/readyz").await;
    assert!(
        status == 503 && text.contains("events/0: it is at offset 7 of 20"),
        "{text}"
    );
    server.status.0.lock().unwrap().streams.clear();

    // A hole: speed begins behind the cut.
    let (log, ends) = random_log(&server.platform.catalog, 31, 60, 6);
    let bounds = [
        (0, vec![31, ends[&0]]),
        (1, vec![40, ends[&1]]),
        (2, vec![20, ends[&2]]),
    ];
    server
        .platform
        .fold_speed(&log, &bounds.into_iter().collect(), &[])
        .await;
    let (status, text) = server.get("/readyz").await;
    assert!(status == 503 && text.contains("events/0: batch ends at 30"), "{text}");

    // No concern of a process that answers nothing.
    let serving = Arc::new(server.platform.serving.clone());
    let without = foldline_serving_layer::http::router_without_views(serving, server.status.clone());
    let address = listen(without).await;
    for (path, expected) in [
        ("/readyz", 200),
        ("/healthz", 200),
        ("/v1/status", 200),
        ("/metrics", 200),
        ("/v1/views", 404),
    ] {
        let response = server.client.get(format!("{address}{path}")).send().await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{path}");
    }
    let (status, text) = server.get("/v1/views/users").await;
    assert!(
        status == 503 && text.contains("urn:foldline:problem:open-seam"),
        "{text}"
    );
    let shown = server.json("/v1/status").await;
    assert_eq!(shown["views"][0]["state"], "broken");
    assert_eq!(shown["ready"], false);
}

#[tokio::test]
async fn a_building_view_does_not_make_the_platform_unready() {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 32, 60, 6);
    let cuts = at(&[(0, 30), (1, 40), (2, 20)]);
    platform.publish(&log, &cuts, &["days"]).await;
    let bounds = cuts
        .iter()
        .map(|(partition, cut)| (*partition, vec![*cut, ends[partition]]));
    platform.fold_speed(&log, &bounds.collect(), &[]).await;
    let server = Server::start(platform).await;
    let (status, text) = server.get("/readyz").await;
    assert_eq!(status, 200, "{text}");
    let (status, text) = server.get("/v1/views/days").await;
    assert!(
        status == 503 && text.contains("urn:foldline:problem:view-building"),
        "{text}"
    );
}

#[tokio::test]
async fn a_flipped_byte_in_a_partial_is_an_error_that_readiness_shows() {
    let server = Server::filled().await;
    let generation = server.platform.generations.current().unwrap();
    let view = server.platform.catalog.view("users").unwrap();
    let path = generation.views[&view.id].dates[0].path.as_str().into();
    let store = &server.platform.store;
    let mut bytes = store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.put(&path, bytes.into()).await.unwrap();
    let (status, text) = server.get("/v1/views/users").await;
    assert!(status == 500 && text.contains("urn:foldline:problem:damaged"), "{text}");
    assert!(text.contains(path.as_ref()), "{text}");
    let (status, text) = server.get("/readyz").await;
    assert!(status == 503 && text.contains("users"), "{text}");
    assert_eq!(server.get("/v1/views/days").await.0, 200, "others go on");
}

#[tokio::test]
async fn the_rest_answers() {
    let server = Server::filled().await;
    server.status.0.lock().unwrap().generations = vec![GenerationStatus {
        number: 1,
        current: true,
        published: Some("2024-01-01T00:00:00Z".to_owned()),
        ..GenerationStatus::default()
    }];
    let views = server.json("/v1/views").await;
    assert_eq!(views["views"][0]["name"], "users");
    assert_eq!(
        views["views"][0]["columns"][3],
        serde_json::json!({"name": "revenue", "type": "DECIMAL(30,2)"})
    );
    assert_eq!(views["views"][6]["reads"], serde_json::json!(["users"]));
    assert_eq!(views["views"][0]["state"], "ready");
    let described = server.json("/openapi.json").await;
    for path in [
        "/v1/views",
        "/v1/views/{view}",
        "/v1/query",
        "/v1/status",
        "/healthz",
        "/readyz",
        "/metrics",
    ] {
        assert!(described["paths"][path].is_object(), "{path}");
    }
    server.get("/v1/views/users").await;
    {
        let mut status = server.status.0.lock().unwrap();
        status.memory = vec![MemoryStatus {
            name: "speed".to_owned(),
            bytes: 5,
            bytes_max: Some(10),
        }];
        status.batch.last_run = Some("2024-01-12T00:00:00Z".to_owned());
        status.batch.last_error = Some("the store is away".to_owned());
    }
    let (_, text) = server.get("/metrics").await;
    for line in [
        "foldline_questions_total{way=\"view\",outcome=\"answered\"} 1",
        "foldline_answer_seconds_count{way=\"view\"} 1",
        "foldline_generation 1.0",
        "foldline_freshness_seconds{view=\"users\"} 1.5",
        "foldline_problems 0.0",
        "foldline_memory_bytes{holder=\"speed\"} 5.0",
        "foldline_memory_bytes_max{holder=\"speed\"} 10.0",
        "foldline_batch_running 0.0",
        "foldline_batch_complaint 1.0",
        "# TYPE foldline_archive_rolls counter",
        "foldline_archive_rolls_total{reason=\"age\"} 2.0",
        "foldline_archive_rolls_total{reason=\"size\"} 3.0",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let (status, page) = server.get("/").await;
    assert_eq!(status, 200);
    assert!(page.contains("<title>foldline</title>"));
    assert!(
        !page.contains("src=\"http") && !page.contains("href=\"http"),
        "the page needs nothing else"
    );
}
