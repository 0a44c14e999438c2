//! The log on Apache Kafka, on the brokers that `FOLDLINE_TEST_KAFKA` names (`make test-services` starts some).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{
    Appended, Clock, EventLog, KafkaLog, KafkaSettings, LogError, NewRecord, Offset, ProducerSequence, Records, Span,
    SystemClock, Topic, TopicPartition, contract,
};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);
const MANY_BYTES: usize = 1 << 20;

/// The brokers, if there are any for tests.
fn brokers() -> Option<String> {
    let brokers = std::env::var("FOLDLINE_TEST_KAFKA")
        .ok()
        .filter(|brokers| !brokers.is_empty());
    if brokers.is_none() {
        eprintln!("skipped: FOLDLINE_TEST_KAFKA names no brokers");
    }
    brokers
}

fn settings(brokers: &str) -> KafkaSettings {
    let mut settings = KafkaSettings::new(brokers, format!("foldline-test-{}", Uuid::new_v4()));
    settings.clock_skew_ms = 50;
    if let Ok(debug) = std::env::var("KDEBUG") {
        settings.librdkafka.insert("debug".into(), debug);
    }
    // Tests read from the beginning again and again.
    settings.librdkafka.insert("fetch.wait.max.ms".into(), "10".into());
    settings
}

fn open(settings: KafkaSettings) -> Arc<KafkaLog> {
    KafkaLog::open(settings, Arc::new(SystemClock)).expect("the settings fit")
}

fn fresh(name: &str) -> String {
    format!("test-{name}-{}", Uuid::new_v4().simple())
}

fn valued(value: &str) -> NewRecord {
    NewRecord {
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..NewRecord::default()
    }
}

async fn append(log: &KafkaLog, topic: &str, value: &str) {
    log.append(topic, vec![valued(value)], None).await.expect("appended");
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

/// A producer of another program, in transactions.
fn other(brokers: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", Uuid::new_v4().to_string())
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

fn send(producer: &BaseProducer, topic: &str, value: &str) {
    let record = BaseRecord::<(), str>::to(topic).partition(0).payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    // Else an abort takes it back before it leaves.
    producer.flush(PATIENCE).unwrap();
}

/// Reads to the stable end: values, and the last answer.
async fn read_to_end(log: &KafkaLog, partition: &TopicPartition) -> (Vec<String>, Records) {
    let (mut values, mut next) = (Vec::new(), Offset(0));
    loop {
        let records = log
            .read(partition, next, MANY_BYTES, Duration::from_millis(50))
            .await
            .expect("records");
        values.extend((0..records.len()).map(|at| String::from_utf8_lossy(records.values.value(at)).into_owned()));
        assert!(records.next <= records.span.end);
        next = records.next;
        if records.is_empty() && next == records.span.end {
            return (values, records);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let Some(brokers) = brokers() else { return };
    let log = open(settings(&brokers));
    contract::check_all(async || Arc::clone(&log)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_records_and_markers_are_holes() {
    let Some(brokers) = brokers() else { return };
    let log = open(settings(&brokers));
    let topic = log.ensure_topic(&fresh("aborted"), 1).await.unwrap();
    let producer = other(&brokers);
    for (value, commits) in [("a", true), ("not b", false), ("c", true), ("not d", false)] {
        producer.begin_transaction().unwrap();
        send(&producer, &topic.name, value);
        if commits {
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            producer.abort_transaction(PATIENCE).unwrap();
        }
    }
    let (values, last) = read_to_end(&log, &topic.partition(0)).await;
    assert_eq!(values, ["a", "c"]);
    // Each transaction leaves a record and a marker.
    assert_eq!(last.next, Offset(8), "the reader stands behind what nobody sees");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_hides_what_follows_and_stops_the_time() {
    let Some(brokers) = brokers() else { return };
    let log = open(settings(&brokers));
    let topic = log.ensure_topic(&fresh("open"), 1).await.unwrap();
    let partition = topic.partition(0);
    append(&log, &topic.name, "before").await;
    let producer = other(&brokers);
    producer.begin_transaction().unwrap();
    let sent_ms = SystemClock.now_ms();
    send(&producer, &topic.name, "inside");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (values, hidden) = read_to_end(&log, &partition).await;
    assert_eq!(values, ["before"]);
    let promised = log.span(&partition).await.unwrap();
    for span in [hidden.span, promised] {
        assert!(
            span.complete_to.0 <= sent_ms + 50,
            "{span:?} is complete behind {sent_ms}, when a record was stamped"
        );
    }
    producer.commit_transaction(PATIENCE).unwrap();
    let (values, _) = read_to_end(&log, &partition).await;
    assert_eq!(values, ["before", "inside"]);
    let began = Instant::now();
    while log.span(&partition).await.unwrap().complete_to.0 <= sent_ms + 300 {
        assert!(began.elapsed() < PATIENCE, "the time moves on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_are_out_of_range_with_both_ends() {
    let Some(brokers) = brokers() else { return };
    let log = open(settings(&brokers));
    let topic = log.ensure_topic(&fresh("deleted"), 1).await.unwrap();
    let partition = topic.partition(0);
    for value in 0..10 {
        append(&log, &topic.name, &value.to_string()).await;
    }
    // A reader that stands in the middle, and one that has not begun.
    let first = log.read(&partition, Offset(0), 1, PATIENCE).await.unwrap();
    let mut until = TopicPartitionList::new();
    until
        .add_partition_offset(&topic.name, 0, KafkaOffset::Offset(12))
        .unwrap();
    admin(&brokers)
        .delete_records(&until, &AdminOptions::new())
        .await
        .unwrap();
    let began = Instant::now();
    let refused = loop {
        match log.read(&partition, Offset(0), 1, Duration::from_millis(100)).await {
            Err(error) => break error,
            // What was fetched before the deletion may still come.
            Ok(_) => assert!(began.elapsed() < PATIENCE),
        }
    };
    let LogError::OutOfRange { asked, span, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!((*asked, span.earliest, span.end), (Offset(0), Offset(12), Offset(20)));
    let (mut next, mut count) = (Offset(12), 0);
    while next < Offset(20) {
        let records = log.read(&partition, next, MANY_BYTES, PATIENCE).await.unwrap();
        count += records.len();
        next = records.next;
    }
    assert_eq!(count, 4);
    assert!(first.next > Offset(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_life_of_a_topic_is_never_read_for_the_first() {
    let Some(brokers) = brokers() else { return };
    let log = open(settings(&brokers));
    let name = fresh("lives");
    let before = log.ensure_topic(&name, 1).await.unwrap();
    let partition = before.partition(0);
    append(&log, &name, "first life").await;
    let (values, last) = read_to_end(&log, &partition).await;
    assert_eq!(values, ["first life"]);

    let (waiting_log, waiting) = (Arc::clone(&log), partition.clone());
    let waits = tokio::spawn(async move { waiting_log.read(&waiting, last.next, MANY_BYTES, PATIENCE).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    admin(&brokers)
        .delete_topics(&[&name], &AdminOptions::new())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = open(settings(&brokers)).ensure_topic(&name, 1).await.unwrap();
    assert_ne!(after.incarnation, before.incarnation);
    // More records than the first life had: its offsets are there again.
    let second = open(settings(&brokers));
    for value in 0..10 {
        append(&second, &name, &value.to_string()).await;
    }
    let refused = waits.await.unwrap().expect_err("a record of another life");
    assert!(
        matches!(refused, LogError::TopicMismatch { .. } | LogError::UnknownTopic(_)),
        "{refused}"
    );
    for _ in 0..20 {
        let refused = log
            .read(&partition, last.next, MANY_BYTES, Duration::from_millis(100))
            .await;
        let refused = refused.expect_err("a record of another life");
        assert!(matches!(refused, LogError::TopicMismatch { .. }), "{refused}");
        assert!(matches!(
            log.span(&partition).await,
            Err(LogError::TopicMismatch { .. })
        ));
    }
    assert_eq!(read_to_end(&log, &after.partition(0)).await.0.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_lose_records_or_time_are_refused_unless_accepted() {
    let Some(brokers) = brokers() else { return };
    let cases: [(&[(&str, &str)], bool); 4] = [
        (
            &[
                ("cleanup.policy", "compact"),
                ("message.timestamp.type", "LogAppendTime"),
            ],
            false,
        ),
        (
            &[
                ("cleanup.policy", "compact,delete"),
                ("message.timestamp.type", "LogAppendTime"),
            ],
            false,
        ),
        (&[("message.timestamp.type", "CreateTime")], false),
        (
            &[
                ("message.timestamp.type", "CreateTime"),
                ("message.timestamp.before.max.ms", "60000"),
            ],
            true,
        ),
    ];
    for (made_with, fits) in cases {
        let name = fresh("refused");
        let mut new = NewTopic::new(&name, 1, TopicReplication::Fixed(1));
        for (key, value) in made_with {
            new = new.set(key, value);
        }
        admin(&brokers)
            .create_topics([&new], &AdminOptions::new())
            .await
            .unwrap();
        let outcome = open(settings(&brokers)).ensure_topic(&name, 1).await;
        assert_eq!(outcome.is_ok(), fits, "{made_with:?}: {outcome:?}");
        if let Err(refused) = outcome {
            assert!(refused.to_string().contains("log.accept_"), "{refused}");
            let mut accepting = settings(&brokers);
            accepting.accept_compacted = vec![name.clone()];
            accepting.accept_create_time = vec![name.clone()];
            open(accepting).ensure_topic(&name, 1).await.expect("it is accepted");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_outlive_the_process() {
    let Some(brokers) = brokers() else { return };
    let settings = settings(&brokers);
    let log = open(settings.clone());
    let topic = log.ensure_topic(&fresh("sequences"), 1).await.unwrap();
    let sequence = |producer: &str, sequence: u64| {
        Some(ProducerSequence {
            producer: producer.to_owned(),
            sequence,
        })
    };
    let (import, request) = (fresh("import/x"), format!("request/{}", Uuid::new_v4()));
    for number in 0..3 {
        let stored = log
            .append(&topic.name, vec![valued("i")], sequence(&import, number))
            .await
            .unwrap();
        assert_eq!(stored, Appended::Stored);
    }
    let stored = log
        .append(&topic.name, vec![valued("r")], sequence(&request, 77))
        .await
        .unwrap();
    assert_eq!(stored, Appended::Stored);
    drop(log);
    let log = open(settings);
    log.ensure_topic(&topic.name, 1).await.unwrap();
    assert_eq!(log.last_sequence(&import).await.unwrap(), Some(2));
    for (producer, number) in [(&import, 2), (&request, 77), (&request, 78)] {
        let again = log
            .append(&topic.name, vec![valued("again")], sequence(producer, number))
            .await
            .unwrap();
        assert_eq!(again, Appended::Already, "{producer} {number}");
    }
    assert_eq!(read_to_end(&log, &topic.partition(0)).await.0, ["i", "i", "i", "r"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_is_trusted_while_another_ones_transaction_may_hide_it() {
    let Some(brokers) = brokers() else { return };
    let mut settings = settings(&brokers);
    settings.progress_topic = fresh("progress");
    let log = open(settings.clone());
    let topic = log.ensure_topic(&fresh("hidden"), 1).await.unwrap();
    let numbered = async |log: &KafkaLog, sequence: u64| {
        let producer = "import/x".to_owned();
        let sequence = ProducerSequence { producer, sequence };
        log.append(&topic.name, vec![valued("numbered")], Some(sequence)).await
    };
    assert_eq!(numbered(&log, 0).await.unwrap(), Appended::Stored);
    let producer = other(&brokers);
    producer.begin_transaction().unwrap();
    let record = BaseRecord::to(&settings.progress_topic).partition(0);
    let record = record.key("somebody else").payload("9");
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    let refused = numbered(&log, 1).await;
    assert!(matches!(refused, Err(LogError::Full(_))), "{refused:?}");
    append(&log, &topic.name, "without a number").await;
    producer.abort_transaction(PATIENCE).unwrap();
    assert_eq!(numbered(&log, 1).await.unwrap(), Appended::Stored);
    assert_eq!(numbered(&log, 1).await.unwrap(), Appended::Already);
    let (values, _) = read_to_end(&log, &topic.partition(0)).await;
    assert_eq!(values, ["numbered", "without a number", "numbered"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_spoils_no_other() {
    let Some(brokers) = brokers() else { return };
    let name = fresh("large");
    let new = NewTopic::new(&name, 1, TopicReplication::Fixed(1))
        .set("message.timestamp.type", "LogAppendTime")
        .set("max.message.bytes", "20000");
    admin(&brokers)
        .create_topics([&new], &AdminOptions::new())
        .await
        .unwrap();
    let mut plain = settings(&brokers);
    plain.librdkafka.insert("compression.type".into(), "none".into());
    let log = open(plain);
    while log.topic(&name).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nobody looked at the topic's settings: only the broker knows its bound.
    let appends: Vec<_> = (0..10)
        .map(|number| {
            let (log, name) = (Arc::clone(&log), name.clone());
            let value = if number == 5 {
                "x".repeat(30_000)
            } else {
                number.to_string()
            };
            tokio::spawn(async move { log.append(&name, vec![valued(&value)], None).await })
        })
        .collect();
    for (number, append) in appends.into_iter().enumerate() {
        match append.await.unwrap() {
            Ok(stored) => assert!(stored == Appended::Stored && number != 5),
            Err(error) => assert!(
                number == 5 && matches!(error, LogError::TooLarge { .. }),
                "{number}: {error}"
            ),
        }
    }
    let topic = log.topic(&name).await.unwrap();
    assert_eq!(read_to_end(&log, &topic.partition(0)).await.0.len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_away_are_named() {
    // Nothing listens there; needs no broker.
    let mut settings = settings("127.0.0.1:9");
    settings.librdkafka.insert("sasl.password".into(), "hush-hush".into());
    let log = open(settings);
    let began = Instant::now();
    let partition = Topic {
        name: "nowhere".into(),
        incarnation: Uuid::new_v4(),
        partitions: 1,
    }
    .partition(0);
    let errors = [
        log.read(&partition, Offset(0), 1, Duration::ZERO).await.unwrap_err(),
        log.span(&partition).await.unwrap_err(),
        log.append("nowhere", vec![valued("x")], None).await.unwrap_err(),
        log.last_sequence("import/x").await.unwrap_err(),
        log.ensure_topic("nowhere", 1).await.unwrap_err(),
    ];
    for error in errors {
        let text = foldline_event_log::with_causes(&error);
        assert!(
            matches!(error, LogError::Storage { .. }) && text.contains("127.0.0.1:9"),
            "{text}"
        );
        assert!(!text.contains("hush"), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn settings_that_make_answers_inexact_and_unknown_ones_are_refused() {
    for (key, value, said) in [
        ("isolation.level", "read_uncommitted", "foldline sets it itself"),
        ("auto.offset.reset", "latest", "foldline sets it itself"),
        ("no.such.setting", "1", "no.such.setting"),
        ("compression.type", "tighter", "compression.type"),
        #[cfg(not(feature = "kafka-tls"))]
        ("security.protocol", "SASL_SSL", "--features kafka-tls"),
        #[cfg(not(feature = "kafka-tls"))]
        ("sasl.mechanism", "SCRAM-SHA-512", "--features kafka-tls"),
    ] {
        let mut settings = settings("127.0.0.1:9");
        settings.librdkafka.insert(key.into(), value.into());
        let refused = settings.check().unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
    let mut secret = settings("127.0.0.1:9");
    secret.librdkafka.insert("sasl.password".into(), "hush-hush".into());
    assert!(!format!("{secret:?}").contains("hush"));
}

/// librdkafka's own brokers of straw. They make topics when they are told to, do not let them grow, know no aborts.
#[derive(Debug)]
struct OnMock {
    log: Arc<KafkaLog>,
    make: std::sync::mpsc::Sender<(String, u32, std::sync::mpsc::Sender<()>)>,
}

#[async_trait]
impl EventLog for OnMock {
    async fn ensure_topic(&self, name: &str, partitions: u32) -> Result<Topic, LogError> {
        if self.log.topic(name).await.is_err() {
            let (made, wait) = std::sync::mpsc::channel();
            self.make.send((name.to_owned(), partitions, made)).unwrap();
            wait.recv().unwrap();
        }
        self.log.topic(name).await
    }

    async fn topic(&self, name: &str) -> Result<Topic, LogError> {
        self.log.topic(name).await
    }

    async fn span(&self, partition: &TopicPartition) -> Result<Span, LogError> {
        self.log.span(partition).await
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Records, LogError> {
        self.log.read(partition, from, max_bytes, wait).await
    }

    async fn append(
        &self,
        topic: &str,
        records: Vec<NewRecord>,
        sequence: Option<ProducerSequence>,
    ) -> Result<Appended, LogError> {
        self.log.append(topic, records, sequence).await
    }

    async fn last_sequence(&self, producer: &str) -> Result<Option<u64>, LogError> {
        self.log.last_sequence(producer).await
    }

    async fn release(&self, partition: &TopicPartition, floor: Offset) -> Result<(), LogError> {
        self.log.release(partition, floor).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_on_the_mock_cluster() {
    let (tell, told) = std::sync::mpsc::channel();
    let (make, orders) = std::sync::mpsc::channel::<(String, u32, std::sync::mpsc::Sender<()>)>();
    // A mock cluster stays on the thread that made it.
    std::thread::spawn(move || {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("foldline-progress", 1, 1).unwrap();
        tell.send(cluster.bootstrap_servers()).unwrap();
        for (name, partitions, made) in orders {
            cluster.create_topic(&name, partitions as i32, 1).unwrap();
            made.send(()).unwrap();
        }
    });
    let mut settings = settings(&told.recv().unwrap());
    settings
        .librdkafka
        .insert("allow.auto.create.topics".into(), "false".into());
    let log = Arc::new(OnMock {
        log: open(settings),
        make,
    });
    // Not growth, which the mock has not, nor the time of an idle partition: its topics have no settings that say who
    // sets timestamps, so that only records move the time.
    contract::another_life_is_refused(&*log).await;
    contract::records_come_back_in_order(&*log).await;
    contract::reading_starts_at_any_offset(&*log).await;
    contract::reading_at_the_end_waits_and_wakes(Arc::clone(&log)).await;
    contract::a_small_limit_still_gives_a_record(&*log).await;
    contract::outside_offsets_are_refused(&*log).await;
    contract::keys_decide_the_partition(&*log).await;
    contract::records_without_a_key_stay_together(&*log).await;
    contract::keys_values_and_headers_come_back(&*log).await;
    contract::an_append_is_readable_when_it_returns(&*log).await;
    contract::a_sequence_is_stored_once(&*log).await;
    contract::concurrent_repeats_are_stored_once(Arc::clone(&log)).await;
    contract::concurrent_appends_all_arrive(Arc::clone(&log)).await;
    contract::released_records_above_the_floor_stay(&*log).await;
}
