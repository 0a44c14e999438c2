//! The checks that every log passes. They panic with what is wrong, as tests do, and promise nothing of their own:
//! each check is one sentence of [`crate::log`], and none knows which log it runs on.
//!
//! Every check makes topics of its own, so that all of them can run on one broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::GenericBinaryType;
use bytes::Bytes;
use uuid::Uuid;

use crate::{
    Appended, EventLog, LogError, NewRecord, Offset, Partition, ProducerSequence, Records, Topic, TopicPartition,
};

/// Longer than any log takes to show what was appended.
const PATIENCE: Duration = Duration::from_secs(30);
const MANY_BYTES: usize = 1 << 20;

/// Runs every check; `make` gives the log, a fresh one or each time the same.
pub async fn check_all<L: EventLog + 'static>(make: impl AsyncFn() -> Arc<L>) {
    topics_are_created_once_and_grow(&*make().await).await;
    another_life_is_refused(&*make().await).await;
    records_come_back_in_order(&*make().await).await;
    reading_starts_at_any_offset(&*make().await).await;
    reading_at_the_end_waits_and_wakes(make().await).await;
    a_small_limit_still_gives_a_record(&*make().await).await;
    outside_offsets_are_refused(&*make().await).await;
    keys_decide_the_partition(&*make().await).await;
    records_without_a_key_stay_together(&*make().await).await;
    keys_values_and_headers_come_back(&*make().await).await;
    an_append_is_readable_when_it_returns(&*make().await).await;
    a_sequence_is_stored_once(&*make().await).await;
    concurrent_repeats_are_stored_once(make().await).await;
    concurrent_appends_all_arrive(make().await).await;
    released_records_above_the_floor_stay(&*make().await).await;
    complete_to_is_kept(make().await).await;
}

/// `ensure_topic` creates, keeps, grows, and never shrinks.
pub async fn topics_are_created_once_and_grow(log: &dyn EventLog) {
    let name = fresh_name("topics");
    match log.topic(&name).await {
        Err(LogError::UnknownTopic(unknown)) => assert_eq!(unknown, name),
        other => panic!("an unknown topic gave {other:?}"),
    }
    match log.append(&name, vec![valued("x")], None).await {
        Err(LogError::UnknownTopic(_)) => {}
        other => panic!("an append to an unknown topic gave {other:?}"),
    }
    let created = log.ensure_topic(&name, 2).await.expect("the topic is created");
    assert_eq!((created.name.as_str(), created.partitions), (name.as_str(), 2));
    assert_eq!(log.topic(&name).await.expect("the topic is there"), created);
    assert_eq!(log.ensure_topic(&name, 2).await.expect("twice is once"), created);
    log.append(&name, vec![keyed("k", "before")], None)
        .await
        .expect("appended before growth");

    let grown = log.ensure_topic(&name, 5).await.expect("the topic grows");
    assert_eq!(
        grown,
        Topic {
            partitions: 5,
            ..created.clone()
        },
        "growth keeps the incarnation"
    );
    assert_eq!(
        log.ensure_topic(&name, 3)
            .await
            .expect("fewer partitions than there are"),
        grown
    );
    for partition in grown.all_partitions().iter().skip(2) {
        assert_eq!(log.span(partition).await.expect("a new partition").end, Offset(0));
    }
    assert_eq!(everything(log, &grown).await, ["before"], "growth keeps records");
    for number in 0..64 {
        let key = format!("k{number}");
        log.append(&name, vec![keyed(&key, "after")], None)
            .await
            .expect("appended after growth");
    }
    for partition in grown.all_partitions() {
        let end = log.span(&partition).await.expect("a partition").end;
        assert!(end > Offset(0), "64 keys leave {partition} of 5 partitions empty");
    }
}

/// A partition of another incarnation, or beyond the number of partitions, is refused.
pub async fn another_life_is_refused(log: &dyn EventLog) {
    let topic = fresh_topic(log, "lives", 1).await;
    let other = TopicPartition {
        incarnation: Uuid::new_v4(),
        ..topic.partition(0)
    };
    let beyond = TopicPartition {
        partition: Partition(1),
        ..topic.partition(0)
    };
    for partition in [other, beyond] {
        let outcomes = [
            log.span(&partition).await.err(),
            log.read(&partition, Offset(0), MANY_BYTES, Duration::ZERO).await.err(),
            log.release(&partition, Offset(0)).await.err(),
        ];
        for outcome in outcomes {
            assert!(
                matches!(outcome, Some(LogError::TopicMismatch { .. })),
                "{partition} gave {outcome:?}"
            );
        }
    }
}

/// Records of a partition come back in the order of the appends, with ascending offsets and the right `next`.
pub async fn records_come_back_in_order(log: &dyn EventLog) {
    let topic = fresh_topic(log, "order", 1).await;
    let mut appended = Vec::new();
    for append in 0..20 {
        let values: Vec<String> = (0..=append).map(|number| format!("{append}-{number}")).collect();
        log.append(&topic.name, values.iter().map(|value| valued(value)).collect(), None)
            .await
            .expect("appended");
        appended.extend(values);
    }
    let partition = topic.partition(0);
    let mut read = Vec::new();
    let mut next = Offset(0);
    let mut newest = i64::MIN;
    while read.len() < appended.len() {
        let records = log.read(&partition, next, 50, PATIENCE).await.expect("records");
        assert!(!records.is_empty(), "{} of {} records came", read.len(), appended.len());
        assert!(records.offsets.is_sorted_by(|one, two| one < two), "offsets ascend");
        assert!(records.offsets[0] as u64 >= next.0, "offsets start where asked");
        assert!(
            records.next.0 > records.offsets[records.len() - 1] as u64,
            "`next` lies past the last record"
        );
        assert!(
            records.next <= records.span.end && records.span.earliest <= next,
            "the span holds what was read"
        );
        assert_eq!(records.timestamps_ms.len(), records.len());
        for time in records.timestamps_ms.iter() {
            assert!(*time >= newest, "timestamps that the log gives never go back");
            newest = *time;
        }
        read.extend(values(&records));
        next = records.next;
    }
    assert_eq!(read, appended);
}

/// A read starts at exactly the record asked for, wherever the appends were cut.
pub async fn reading_starts_at_any_offset(log: &dyn EventLog) {
    let topic = fresh_topic(log, "from", 1).await;
    for append in 0..4 {
        let records = (0..5)
            .map(|number| valued(&format!("{}", append * 5 + number)))
            .collect();
        log.append(&topic.name, records, None).await.expect("appended");
    }
    let every = all_of(log, &topic.partition(0)).await;
    let offsets: Vec<Offset> = every.iter().map(|(offset, _)| *offset).collect();
    for (place, offset) in offsets.iter().enumerate() {
        let records = log
            .read(&topic.partition(0), *offset, MANY_BYTES, PATIENCE)
            .await
            .expect("records");
        assert_eq!(records.offsets[0] as u64, offset.0);
        assert_eq!(values(&records)[0], format!("{place}"));
    }
}

/// At the end a read waits, gives nothing when nothing comes, and wakes when something does.
pub async fn reading_at_the_end_waits_and_wakes<L: EventLog + 'static>(log: Arc<L>) {
    let topic = fresh_topic(&*log, "wait", 1).await;
    let partition = topic.partition(0);
    let nothing = log
        .read(&partition, Offset(0), MANY_BYTES, Duration::ZERO)
        .await
        .expect("nothing is fine");
    assert!(nothing.is_empty());
    assert_eq!((nothing.next, nothing.span.end), (Offset(0), Offset(0)));

    let (waiting_log, waiting_partition) = (Arc::clone(&log), partition.clone());
    let waiting = tokio::spawn(async move {
        waiting_log
            .read(&waiting_partition, Offset(0), MANY_BYTES, PATIENCE)
            .await
    });
    tokio::task::yield_now().await;
    log.append(&topic.name, vec![valued("woken")], None)
        .await
        .expect("appended");
    let woken = tokio::time::timeout(PATIENCE / 2, waiting)
        .await
        .expect("the reader wakes long before its wait is over");
    let woken = woken.expect("the reader did not panic").expect("records");
    assert_eq!(values(&woken), ["woken"]);

    let end = log.span(&partition).await.expect("a span").end;
    let nothing = log
        .read(&partition, end, MANY_BYTES, Duration::from_millis(20))
        .await
        .expect("nothing is fine");
    assert!(nothing.is_empty() && nothing.next == end, "nothing more came");
}

/// `max_bytes` bounds a read, but never to nothing.
pub async fn a_small_limit_still_gives_a_record(log: &dyn EventLog) {
    let topic = fresh_topic(log, "limit", 1).await;
    let large = "x".repeat(100_000);
    let records = (0..10).map(|_| valued(&large)).collect();
    log.append(&topic.name, records, None).await.expect("appended");
    let one = log
        .read(&topic.partition(0), Offset(0), 1, PATIENCE)
        .await
        .expect("a record");
    assert_eq!(
        values(&one),
        std::slice::from_ref(&large),
        "one record although it is larger than the limit"
    );
    let some = log
        .read(&topic.partition(0), Offset(0), 250_000, PATIENCE)
        .await
        .expect("records");
    assert!(
        (1..=4).contains(&some.len()),
        "about 250 kB, not {} records of 100 kB",
        some.len()
    );
}

/// Offsets outside of the span are refused, with the span.
pub async fn outside_offsets_are_refused(log: &dyn EventLog) {
    let topic = fresh_topic(log, "outside", 1).await;
    log.append(&topic.name, vec![valued("one")], None)
        .await
        .expect("appended");
    let span = log.span(&topic.partition(0)).await.expect("a span");
    let mut outside = vec![Offset(span.end.0 + 1), Offset(span.end.0 + 1_000_000)];
    if span.earliest > Offset(0) {
        outside.push(Offset(span.earliest.0 - 1));
    }
    for asked_for in outside {
        match log
            .read(&topic.partition(0), asked_for, MANY_BYTES, Duration::ZERO)
            .await
        {
            Err(LogError::OutOfRange { asked, span: told, .. }) => {
                assert_eq!((asked, told.earliest, told.end), (asked_for, span.earliest, span.end));
            }
            other => panic!("reading at {asked_for} gave {other:?}"),
        }
    }
}

/// The partition follows from the key as in Kafka: these places are Kafka's.
pub async fn keys_decide_the_partition(log: &dyn EventLog) {
    let topic = fresh_topic(log, "keys", 8).await;
    // murmur2 of Kafka's own tests, made positive, modulo 8.
    let places = [
        ("21", 4),
        ("foobar", 6),
        ("a-little-bit-long-string", 0),
        ("a-little-bit-longer-string", 3),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 5),
        ("abc", 3),
    ];
    let records = places.iter().map(|(key, _)| keyed(key, key)).collect();
    log.append(&topic.name, records, None).await.expect("appended");
    for (key, place) in places {
        let found = all_of(log, &topic.partition(place)).await;
        assert!(
            found.iter().any(|(_, value)| value == key),
            "\"{key}\" belongs to partition {place}"
        );
    }
}

/// Records without a key go to one partition per append, and over many appends to all.
pub async fn records_without_a_key_stay_together(log: &dyn EventLog) {
    let topic = fresh_topic(log, "keyless", 3).await;
    for append in 0..60 {
        let records = (0..5).map(|_| valued(&format!("{append}"))).collect();
        log.append(&topic.name, records, None).await.expect("appended");
    }
    let mut together = 0;
    for partition in topic.all_partitions() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, value) in all_of(log, &partition).await {
            *counts.entry(value).or_default() += 1;
        }
        assert!(!counts.is_empty(), "no append without keys went to {partition}");
        assert!(
            counts.values().all(|count| *count == 5),
            "an append was torn: {counts:?}"
        );
        together += counts.len();
    }
    assert_eq!(together, 60);
}

/// Keys, values and headers come back as they are, the absent ones absent and the empty ones empty.
pub async fn keys_values_and_headers_come_back(log: &dyn EventLog) {
    let topic = fresh_topic(log, "bytes", 1).await;
    let headers = vec![
        ("trace".to_owned(), Bytes::from_static(b"\0\xff")),
        ("trace".to_owned(), Bytes::new()),
    ];
    let appended = vec![
        NewRecord {
            key: None,
            value: Bytes::from_static(b"\xff\xfe not text"),
            headers: Vec::new(),
        },
        NewRecord {
            key: Some(Bytes::new()),
            value: Bytes::new(),
            headers: headers.clone(),
        },
        NewRecord {
            key: Some(Bytes::from_static(b"\0k")),
            value: Bytes::from_static(b"v"),
            headers: Vec::new(),
        },
    ];
    // One append each, too: absent things must also come back beside records of other appends.
    log.append(&topic.name, appended.clone(), None).await.expect("appended");
    for record in &appended {
        log.append(&topic.name, vec![record.clone()], None)
            .await
            .expect("appended");
    }
    let expected: Vec<NewRecord> = appended.iter().chain(&appended).cloned().collect();
    let mut read = Vec::new();
    let mut next = Offset(0);
    while read.len() < expected.len() {
        let records = log
            .read(&topic.partition(0), next, MANY_BYTES, PATIENCE)
            .await
            .expect("records");
        assert!(!records.is_empty(), "{} of {} records came", read.len(), expected.len());
        (0..records.len()).for_each(|index| read.push(record_at(&records, index)));
        next = records.next;
    }
    assert_eq!(read, expected);
}

/// When an append returns, all of its records can be read, in every partition.
pub async fn an_append_is_readable_when_it_returns(log: &dyn EventLog) {
    let topic = fresh_topic(log, "atomic", 4).await;
    for append in 1..=10 {
        let records = (0..100)
            .map(|number| keyed(&format!("{number}"), &format!("{append}/{number}")))
            .collect();
        let outcome = log.append(&topic.name, records, None).await.expect("appended");
        assert_eq!(outcome, Appended::Stored);
        let mut count = 0;
        for partition in topic.all_partitions() {
            count += all_of(log, &partition).await.len();
        }
        assert_eq!(count, append * 100);
    }
    assert_eq!(
        log.append(&topic.name, Vec::new(), None)
            .await
            .expect("nothing to append"),
        Appended::Stored
    );
}

/// A sequence that is not beyond the last one of its producer stores nothing.
pub async fn a_sequence_is_stored_once(log: &dyn EventLog) {
    let topic = fresh_topic(log, "sequence", 2).await;
    let producer = format!("import/{}/x", Uuid::new_v4());
    let append = async |sequence: u64, value: &str| {
        let sequence = ProducerSequence {
            producer: producer.clone(),
            sequence,
        };
        log.append(&topic.name, vec![keyed(value, value)], Some(sequence))
            .await
            .expect("an outcome")
    };
    assert_eq!(log.last_sequence(&producer).await.expect("none yet"), None);
    assert_eq!(append(0, "a").await, Appended::Stored);
    assert_eq!(append(0, "b").await, Appended::Already);
    assert_eq!(append(1, "c").await, Appended::Stored);
    assert_eq!(append(0, "d").await, Appended::Already);
    assert_eq!(append(5, "e").await, Appended::Stored);
    assert_eq!(append(4, "f").await, Appended::Already);
    assert_eq!(log.last_sequence(&producer).await.expect("known"), Some(5));
    assert_eq!(
        log.last_sequence(&format!("{producer}y"))
            .await
            .expect("another producer"),
        None
    );
    let mut values = everything(log, &topic).await;
    values.sort();
    assert_eq!(values, ["a", "c", "e"]);
}

/// Of many equal appends at the same time exactly one stores.
pub async fn concurrent_repeats_are_stored_once<L: EventLog + 'static>(log: Arc<L>) {
    let topic = fresh_topic(&*log, "repeats", 2).await;
    let producer = format!("import/{}/x", Uuid::new_v4());
    for sequence in 0..10 {
        let repeats: Vec<_> = (0..16)
            .map(|repeat| {
                let (log, name) = (Arc::clone(&log), topic.name.clone());
                let sequence = ProducerSequence {
                    producer: producer.clone(),
                    sequence,
                };
                let record = keyed(&format!("{repeat}"), &format!("{}", sequence.sequence));
                tokio::spawn(async move { log.append(&name, vec![record], Some(sequence)).await })
            })
            .collect();
        let mut stored = 0;
        for repeat in repeats {
            let outcome = repeat.await.expect("no panic").expect("an outcome");
            stored += usize::from(outcome == Appended::Stored);
        }
        assert_eq!(stored, 1, "sequence {sequence}");
    }
    let mut values = everything(&*log, &topic).await;
    values.sort();
    assert_eq!(values, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// 32 appenders at once: every record is there exactly once, those of one appender in its order.
pub async fn concurrent_appends_all_arrive<L: EventLog + 'static>(log: Arc<L>) {
    const APPENDERS: usize = 32;
    const APPENDS: usize = 20;
    let topic = fresh_topic(&*log, "crowd", 4).await;
    let appenders: Vec<_> = (0..APPENDERS)
        .map(|appender| {
            let (log, name) = (Arc::clone(&log), topic.name.clone());
            tokio::spawn(async move {
                for append in 0..APPENDS {
                    let record = |part: usize| keyed(&format!("{appender}"), &format!("{appender}:{append}.{part}"));
                    log.append(&name, (0..3).map(record).collect(), None)
                        .await
                        .expect("appended");
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.await.expect("no panic");
    }
    let mut by_appender: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for partition in topic.all_partitions() {
        let mut offsets = Vec::new();
        for (offset, value) in all_of(&*log, &partition).await {
            offsets.push(offset);
            let (appender, rest) = value.split_once(':').expect("as written");
            by_appender
                .entry(appender.parse().expect("as written"))
                .or_default()
                .push(rest.to_owned());
        }
        assert!(offsets.is_sorted_by(|one, two| one < two));
    }
    let expected: Vec<String> = (0..APPENDS)
        .flat_map(|append| (0..3).map(move |part| format!("{append}.{part}")))
        .collect();
    assert_eq!(by_appender.len(), APPENDERS);
    for (appender, values) in by_appender {
        assert_eq!(values, expected, "appender {appender}");
    }
}

/// Whatever is released, records at and above the floor stay readable.
pub async fn released_records_above_the_floor_stay(log: &dyn EventLog) {
    let topic = fresh_topic(log, "floor", 1).await;
    for number in 0..10 {
        log.append(&topic.name, vec![valued(&format!("{number}"))], None)
            .await
            .expect("appended");
    }
    let partition = topic.partition(0);
    let every = all_of(log, &partition).await;
    let floor = every[5].0;
    log.release(&partition, floor).await.expect("released");
    log.append(&topic.name, vec![valued("10")], None)
        .await
        .expect("appended");
    let span = log.span(&partition).await.expect("a span");
    assert!(
        span.earliest <= floor,
        "trimmed to {}, above the floor {floor}",
        span.earliest
    );
    let records = log
        .read(&partition, floor, MANY_BYTES, PATIENCE)
        .await
        .expect("the floor is readable");
    assert_eq!(values(&records)[0], "5");
}

/// No record that lies at or above a span's end is older than its `complete_to`, while many append.
pub async fn complete_to_is_kept<L: EventLog + 'static>(log: Arc<L>) {
    let topic = fresh_topic(&*log, "complete", 2).await;
    let appenders: Vec<_> = (0..8)
        .map(|appender| {
            let (log, name) = (Arc::clone(&log), topic.name.clone());
            tokio::spawn(async move {
                for append in 0..40 {
                    let records = vec![keyed(&format!("{appender}{append}"), "x")];
                    log.append(&name, records, None).await.expect("appended");
                }
            })
        })
        .collect();
    let mut promises = Vec::new();
    while !appenders.iter().all(|appender| appender.is_finished()) {
        for partition in topic.all_partitions() {
            promises.push((partition.clone(), log.span(&partition).await.expect("a span")));
            let from = promises[promises.len() - 1].1.end;
            let records = log
                .read(&partition, from, MANY_BYTES, Duration::from_millis(1))
                .await
                .expect("records");
            promises.push((partition.clone(), records.span));
        }
    }
    for appender in appenders {
        appender.await.expect("no panic");
    }
    log.append(
        &topic.name,
        (0..50).map(|number| keyed(&format!("{number}"), "last")).collect(),
        None,
    )
    .await
    .expect("appended");
    for partition in topic.all_partitions() {
        let times = times_of(&*log, &partition).await;
        let last = promises
            .iter()
            .rfind(|(of, _)| *of == partition)
            .expect("spans were taken");
        assert!(last.1.complete_to.0 > 0, "`complete_to` moves on");
        for (_, span) in promises.iter().filter(|(of, _)| *of == partition) {
            let broken = times
                .iter()
                .find(|(offset, time)| *offset >= span.end && *time < span.complete_to.0);
            assert!(
                broken.is_none(),
                "{partition}: {span:?} was promised, then came {broken:?}"
            );
        }
    }
}

fn fresh_name(check: &str) -> String {
    format!("contract-{check}-{}", Uuid::new_v4().simple())
}

async fn fresh_topic(log: &dyn EventLog, check: &str, partitions: u32) -> Topic {
    log.ensure_topic(&fresh_name(check), partitions)
        .await
        .expect("the topic is created")
}

fn valued(value: &str) -> NewRecord {
    NewRecord {
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..NewRecord::default()
    }
}

fn keyed(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        ..valued(value)
    }
}

fn values(records: &Records) -> Vec<String> {
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.expect("a value")).into_owned();
    records.values.iter().map(text).collect()
}

fn record_at(records: &Records, index: usize) -> NewRecord {
    let mut headers = Vec::new();
    if let Some(list) = &records.headers {
        let pairs = list.as_list::<i32>().value(index);
        let pairs = pairs.as_struct();
        let names = pairs.column(0).as_string::<i32>();
        let bytes = pairs.column(1).as_bytes::<GenericBinaryType<i32>>();
        for place in 0..pairs.len() {
            headers.push((
                names.value(place).to_owned(),
                Bytes::copy_from_slice(bytes.value(place)),
            ));
        }
    }
    NewRecord {
        key: records
            .keys
            .is_valid(index)
            .then(|| Bytes::copy_from_slice(records.keys.value(index))),
        value: Bytes::copy_from_slice(records.values.value(index)),
        headers,
    }
}

/// Every record of a partition: offset and value.
async fn all_of(log: &dyn EventLog, partition: &TopicPartition) -> Vec<(Offset, String)> {
    let mut all = Vec::new();
    let span = log.span(partition).await.expect("a span");
    let mut next = span.earliest;
    while next < span.end {
        let records = log.read(partition, next, MANY_BYTES, PATIENCE).await.expect("records");
        let offsets = records.offsets.iter().map(|offset| Offset(*offset as u64));
        all.extend(offsets.zip(values(&records)));
        next = records.next;
    }
    all
}

async fn times_of(log: &dyn EventLog, partition: &TopicPartition) -> Vec<(Offset, i64)> {
    let mut all = Vec::new();
    let span = log.span(partition).await.expect("a span");
    let mut next = span.earliest;
    while next < span.end {
        let records = log.read(partition, next, MANY_BYTES, PATIENCE).await.expect("records");
        let offsets = records.offsets.iter().map(|offset| Offset(*offset as u64));
        all.extend(offsets.zip(records.timestamps_ms.iter().copied()));
        next = records.next;
    }
    all
}

async fn everything(log: &dyn EventLog, topic: &Topic) -> Vec<String> {
    let mut all = Vec::new();
    for partition in topic.all_partitions() {
        all.extend(all_of(log, &partition).await.into_iter().map(|(_, value)| value));
    }
    all
}
