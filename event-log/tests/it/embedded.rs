//! What only the embedded log promises: files, crashes, retention, the lock.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldline_event_log::{
    Appended, Clock, EmbeddedLog, EmbeddedSettings, EventLog, LogError, ManualClock, NewRecord, Offset,
    ProducerSequence, Records, SystemClock, Topic, TopicPartition, contract,
};
use rand::RngExt;

const MANY_BYTES: usize = 1 << 24;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn open(folder: &Path, clock: impl Clock + 'static) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(EmbeddedSettings::new(folder), Arc::new(clock)).unwrap()
}

fn record(value: impl Into<String>) -> NewRecord {
    let value: String = value.into();
    NewRecord {
        value: value.into(),
        ..NewRecord::default()
    }
}

fn keyed(key: impl Into<String>, value: impl Into<String>) -> NewRecord {
    let key: String = key.into();
    NewRecord {
        key: Some(key.into()),
        ..record(value)
    }
}

fn values(records: &Records) -> Vec<String> {
    records
        .values
        .iter()
        .map(|value| String::from_utf8(value.unwrap().to_vec()).unwrap())
        .collect()
}

async fn read_all(log: &EmbeddedLog, partition: &TopicPartition) -> Vec<(Offset, i64, String)> {
    let span = log.span(partition).await.unwrap();
    let mut next = span.earliest;
    let mut all = Vec::new();
    while next < span.end {
        let records = log.read(partition, next, MANY_BYTES, Duration::ZERO).await.unwrap();
        for (index, value) in values(&records).into_iter().enumerate() {
            all.push((
                Offset(records.offsets[index] as u64),
                records.timestamps_ms[index],
                value,
            ));
        }
        next = records.next;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_of_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), SystemClock);
    contract::check_all(async || Arc::clone(&log)).await;
}

#[tokio::test]
async fn a_reopened_log_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), ManualClock::new(1_000));
    let topic = log.ensure_topic("t", 2).await.unwrap();
    let sequence = ProducerSequence {
        producer: "import/f/s".to_owned(),
        sequence: 7,
    };
    log.append(
        "t",
        vec![keyed("a", "1"), keyed("b", "2"), keyed("a", "3")],
        Some(sequence.clone()),
    )
    .await
    .unwrap();
    let before: Vec<_> = [
        read_all(&log, &topic.partition(0)).await,
        read_all(&log, &topic.partition(1)).await,
    ]
    .concat();
    assert_eq!(before.len(), 3);
    drop(log);

    let log = open(folder.path(), ManualClock::new(1_000));
    assert_eq!(log.topic("t").await.unwrap(), topic, "same incarnation");
    let after: Vec<_> = [
        read_all(&log, &topic.partition(0)).await,
        read_all(&log, &topic.partition(1)).await,
    ]
    .concat();
    assert_eq!(after, before);
    assert_eq!(log.last_sequence("import/f/s").await.unwrap(), Some(7));
    let again = log.append("t", vec![keyed("a", "4")], Some(sequence)).await.unwrap();
    assert_eq!(again, Appended::Already);
    log.append("t", vec![keyed("a", "4")], None).await.unwrap();
    let grown = log.ensure_topic("t", 3).await.unwrap();
    drop(log);

    let log = open(folder.path(), ManualClock::new(1_000));
    assert_eq!(log.topic("t").await.unwrap(), grown);
    let mut all = Vec::new();
    for partition in grown.all_partitions() {
        let records = read_all(&log, &partition).await;
        let offsets: Vec<u64> = records.iter().map(|record| record.0.0).collect();
        assert_eq!(offsets, (0..records.len() as u64).collect::<Vec<_>>());
        all.extend(records.into_iter().map(|record| (record.1, record.2)));
    }
    all.sort();
    let at = |value: &str| (1_000, value.to_owned());
    assert_eq!(
        all,
        [at("1"), at("2"), at("3"), at("4")],
        "a clean close leaves the time as it was"
    );
}

#[tokio::test]
async fn one_log_at_a_time_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), SystemClock);
    let second = EmbeddedLog::open(EmbeddedSettings::new(folder.path()), Arc::new(SystemClock)).unwrap_err();
    assert!(matches!(&second, LogError::Locked(_)), "{second:?}");
    assert!(
        second.to_string().contains(&folder.path().display().to_string()),
        "{second}"
    );
    drop(log);
    open(folder.path(), SystemClock);
}

#[tokio::test]
async fn a_closed_log_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), SystemClock);
    let topic = log.ensure_topic("t", 1).await.unwrap();
    log.append("t", vec![record("x")], None).await.unwrap();
    log.close();
    log.close();
    let refused = log.append("t", vec![record("y")], None).await;
    assert!(matches!(refused, Err(LogError::Closed(_))), "{refused:?}");
    assert_eq!(
        values(
            &log.read(&topic.partition(0), Offset(0), 10, Duration::ZERO)
                .await
                .unwrap()
        ),
        ["x"]
    );
}

#[tokio::test]
async fn bounds_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings {
        record_bytes_max: 1_000,
        pending_bytes_max: 10_000,
        ..EmbeddedSettings::new(folder.path())
    };
    let log = EmbeddedLog::open(settings, Arc::new(SystemClock)).unwrap();
    let topic = log.ensure_topic("t", 1).await.unwrap();
    log.append("t", vec![record("x".repeat(1_000))], None).await.unwrap();
    let refused = log
        .append("t", vec![record("fits"), keyed("k", "x".repeat(1_000))], None)
        .await;
    assert!(
        matches!(
            refused,
            Err(LogError::TooLarge {
                bytes: 1_001,
                max: 1_000
            })
        ),
        "{refused:?}"
    );
    assert_eq!(
        log.span(&topic.partition(0)).await.unwrap().end,
        Offset(1),
        "nothing of it was stored"
    );

    // The futures are polled one after another on this thread: nobody is acknowledged in between.
    let appends = (0..200).map(|_| log.append("t", vec![record("y".repeat(900))], None));
    let outcomes = futures::future::join_all(appends).await;
    let full = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(LogError::Full(_))))
        .count();
    let stored = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Ok(Appended::Stored)))
        .count();
    assert_eq!(full + stored, 200);
    assert!(full > 0, "the queue has no bound");
    assert_eq!(
        log.span(&topic.partition(0)).await.unwrap().end,
        Offset(1 + stored as u64)
    );
}

#[tokio::test]
async fn time_never_goes_back_when_the_clock_does() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(10_000);
    let log = open(folder.path(), clock.clone());
    let partition = log.ensure_topic("t", 1).await.unwrap().partition(0);
    log.append("t", vec![record("a")], None).await.unwrap();
    clock.set(5_000);
    log.append("t", vec![record("b")], None).await.unwrap();
    clock.set(20_000);
    assert_eq!(log.span(&partition).await.unwrap().complete_to.0, 20_000);
    clock.set(15_000);
    assert_eq!(log.span(&partition).await.unwrap().complete_to.0, 20_000);
    log.append("t", vec![record("c")], None).await.unwrap();
    drop(log);
    clock.set(1_000);
    let log = open(folder.path(), clock.clone());
    log.append("t", vec![record("d")], None).await.unwrap();
    let times: Vec<i64> = read_all(&log, &partition).await.iter().map(|record| record.1).collect();
    assert_eq!(times, [10_000, 10_000, 20_000, 20_000]);
}

#[tokio::test]
async fn requests_are_forgotten_after_a_day_and_files_never() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(DAY_MS);
    let log = open(folder.path(), clock.clone());
    log.ensure_topic("t", 1).await.unwrap();
    let append = async |producer: &str, sequence: u64| {
        let sequence = ProducerSequence {
            producer: producer.to_owned(),
            sequence,
        };
        log.append("t", vec![record("x")], Some(sequence)).await.unwrap()
    };
    append("request/s/one", 5).await;
    append("request/s/two", 5).await;
    append("import/f/s", 5).await;
    clock.advance(DAY_MS / 2);
    append("request/s/three", 5).await;
    for other in [4, 6] {
        let outcome = append("request/s/two", other).await;
        assert_eq!(outcome, Appended::Already, "a request appends once");
    }
    clock.advance(DAY_MS / 2 + 1);
    assert_eq!(log.last_sequence("request/s/one").await.unwrap(), None);
    assert_eq!(append("request/s/three", 5).await, Appended::Already);
    assert_eq!(append("request/s/two", 4).await, Appended::Stored, "it is forgotten");
    clock.advance(DAY_MS / 2);
    append("request/s/four", 5).await;
    assert_eq!(log.last_sequence("import/f/s").await.unwrap(), Some(5));
    drop(log);
    // Nothing of it is left in the store either.
    let (_, producers) = open_store(folder.path(), "producers");
    let left: Vec<_> = producers.iter().map(|entry| entry.key().unwrap()).collect();
    let left = left
        .iter()
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect::<Vec<_>>();
    for (request, entries) in [("one", 0), ("two", 2), ("three", 0), ("four", 2)] {
        let name = format!("request/s/{request}");
        let found = left.iter().filter(|key| key.contains(&name)).count();
        assert_eq!(found, entries, "{name}: {left:?}");
    }
    assert!(left.iter().any(|key| key.contains("import/f/s")), "{left:?}");
}

#[tokio::test]
async fn old_frames_go_but_never_above_the_floor() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(0);
    let settings = EmbeddedSettings {
        retention_ms: Some(1_000),
        ..EmbeddedSettings::new(folder.path())
    };
    let log = EmbeddedLog::open(settings.clone(), Arc::new(clock.clone())).unwrap();
    let partition = log.ensure_topic("t", 1).await.unwrap().partition(0);
    for number in 0..10 {
        log.append(
            "t",
            vec![record(format!("{number}a")), record(format!("{number}b"))],
            None,
        )
        .await
        .unwrap();
        clock.advance(100);
    }
    let earliest = async |log: &EmbeddedLog| log.span(&partition).await.unwrap().earliest.0;
    clock.set(10_000);
    assert_eq!(earliest(&log).await, 0, "without a floor nothing goes");
    log.release(&partition, Offset(7)).await.unwrap();
    assert_eq!(earliest(&log).await, 6, "whole frames, and nothing at or above 7");
    match log.read(&partition, Offset(5), MANY_BYTES, Duration::ZERO).await {
        Err(LogError::OutOfRange {
            asked: Offset(5), span, ..
        }) => assert_eq!(span.earliest, Offset(6)),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        values(&log.read(&partition, Offset(7), 1, Duration::ZERO).await.unwrap()),
        ["3b"]
    );
    clock.set(1_650);
    log.release(&partition, Offset(20)).await.unwrap();
    assert_eq!(earliest(&log).await, 14, "frames of 650 and younger are not old enough");
    clock.set(100_000);
    log.release(&partition, Offset(20)).await.unwrap();
    assert_eq!(earliest(&log).await, 20);
    drop(log);

    let log = EmbeddedLog::open(settings, Arc::new(clock)).unwrap();
    let span = log.span(&partition).await.unwrap();
    assert_eq!(
        (span.earliest, span.end),
        (Offset(20), Offset(20)),
        "an empty partition knows where it ended"
    );
    log.append("t", vec![record("more")], None).await.unwrap();
    let more = log
        .read(&partition, Offset(20), MANY_BYTES, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!((more.offsets[0], values(&more)), (20, vec!["more".to_owned()]));
}

#[tokio::test]
async fn large_partitions_shrink_to_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings {
        retention_bytes: Some(50_000),
        ..EmbeddedSettings::new(folder.path())
    };
    let log = EmbeddedLog::open(settings.clone(), Arc::new(SystemClock)).unwrap();
    let topic = log.ensure_topic("t", 2).await.unwrap();
    for _ in 0..200 {
        // murmur2 puts both keys of a pair into different partitions, or the check of ends below fails.
        log.append(
            "t",
            vec![
                keyed("21", "x".repeat(1_000)),
                keyed("a-little-bit-longer-string", "y".repeat(100)),
            ],
            None,
        )
        .await
        .unwrap();
    }
    let (large, small) = (topic.partition(0), topic.partition(1));
    for partition in [&large, &small] {
        assert_eq!(log.span(partition).await.unwrap().end, Offset(200));
        log.release(partition, Offset(200)).await.unwrap();
    }
    let earliest = log.span(&large).await.unwrap().earliest.0;
    assert!(
        (150..=155).contains(&earliest),
        "about 50 kB of 1 kB records stay, not {}",
        200 - earliest
    );
    assert_eq!(
        log.span(&small).await.unwrap().earliest,
        Offset(0),
        "34 kB are not too much"
    );
    drop(log);
    let log = EmbeddedLog::open(settings, Arc::new(SystemClock)).unwrap();
    assert_eq!(log.span(&large).await.unwrap().earliest.0, earliest);
    assert_eq!(read_all(&log, &large).await.len() as u64, 200 - earliest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_on_while_much_is_trimmed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings {
        retention_bytes: Some(0),
        ..EmbeddedSettings::new(folder.path())
    };
    let log = EmbeddedLog::open(settings, Arc::new(SystemClock)).unwrap();
    let partition = log.ensure_topic("t", 1).await.unwrap().partition(0);
    // Frames of 1 MiB: of a piece there are a few only.
    log.append("t", vec![record("x".repeat(1024 * 1024)); 48], None)
        .await
        .unwrap();
    let release = log.release(&partition, Offset(48));
    let mut release = std::pin::pin!(release);
    let mut appended = 0;
    loop {
        tokio::select! {
            biased;
            released = &mut release => break released.unwrap(),
            outcome = log.append("t", vec![record("small")], None) => { outcome.unwrap(); }
        }
        appended += 1;
    }
    assert!(appended >= 4, "{appended} appends while six pieces were removed");
    assert_eq!(log.span(&partition).await.unwrap().earliest, Offset(48));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_trim_removes_is_out_of_range_and_never_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings {
        retention_bytes: Some(0),
        ..EmbeddedSettings::new(folder.path())
    };
    let log = EmbeddedLog::open(settings, Arc::new(SystemClock)).unwrap();
    let partition = log.ensure_topic("t", 1).await.unwrap().partition(0);
    for _ in 0..300 {
        log.append("t", vec![record("x")], None).await.unwrap();
    }
    let reads = (0..4).map(|_| {
        let (log, partition) = (Arc::clone(&log), partition.clone());
        tokio::spawn(async move {
            let mut from = Offset(0);
            while from < Offset(300) {
                match log.read(&partition, from, 1, Duration::ZERO).await {
                    Ok(_) => {}
                    Err(LogError::OutOfRange { span, .. }) => from = span.earliest,
                    Err(other) => panic!("at {from}: {other}"),
                }
            }
        })
    });
    let reads: Vec<_> = reads.collect();
    for floor in 1..=300 {
        log.release(&partition, Offset(floor)).await.unwrap();
    }
    for read in reads {
        read.await.unwrap();
    }
}

/// The keyspace `name` (or the only one that starts so) of a log that is closed.
fn open_store(folder: &Path, name: &str) -> (fjall::Database, fjall::Keyspace) {
    let database = fjall::Database::builder(folder.join("store")).open().unwrap();
    let names = database.list_keyspace_names();
    let name = names.iter().find(|one| one.starts_with(name)).unwrap().to_string();
    let keyspace = database.keyspace(&name, fjall::KeyspaceCreateOptions::default).unwrap();
    (database, keyspace)
}

#[tokio::test]
async fn damage_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), SystemClock);
    let partition = log.ensure_topic("t", 1).await.unwrap().partition(0);
    for number in 0..7 {
        log.append(
            "t",
            vec![record(format!("{number}a")), record(format!("{number}b"))],
            None,
        )
        .await
        .unwrap();
    }
    drop(log);
    {
        let (database, frames) = open_store(folder.path(), "frames-");
        let all: Vec<_> = frames.iter().map(|entry| entry.into_inner().unwrap()).collect();
        assert_eq!(all.len(), 7);
        let mut bit = all[1].1.to_vec();
        bit[50] ^= 1;
        frames.insert(&*all[1].0, bit).unwrap();
        let mut version = all[3].1.to_vec();
        version[0] = 9;
        frames.insert(&*all[3].0, version).unwrap();
        frames.remove(&*all[5].0).unwrap();
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let log = open(folder.path(), SystemClock);
    let read = async |offset| log.read(&partition, Offset(offset), 1, Duration::ZERO).await;
    assert_eq!(values(&read(1).await.unwrap()), ["0b"]);
    assert_eq!(values(&read(12).await.unwrap()), ["6a"]);
    for (offset, place, what) in [
        (2, "t/0 offset 2", "checksum"),
        (7, "t/0 offset 6", "frame version 9"),
        (10, "t/0 offset 10", "missing"),
    ] {
        match read(offset).await {
            Err(LogError::Damaged { at, reason }) => {
                assert_eq!(at, place);
                assert!(reason.contains(what), "{reason}");
            }
            other => panic!("offset {offset} gave {other:?}"),
        }
    }
    // A read over the hole does not hide it either.
    match log.read(&partition, Offset(8), MANY_BYTES, Duration::ZERO).await {
        Err(LogError::Damaged { reason, .. }) => assert!(reason.contains("12..14 but 10 is to follow"), "{reason}"),
        other => panic!("{other:?}"),
    }
    drop(log);
    {
        let (database, frames) = open_store(folder.path(), "frames-");
        let (key, value) = frames.iter().next_back().unwrap().into_inner().unwrap();
        frames.insert(key, &value[..value.len() - 1]).unwrap();
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let refused = EmbeddedLog::open(EmbeddedSettings::new(folder.path()), Arc::new(SystemClock)).unwrap_err();
    assert!(refused.to_string().contains("t/0 offset 12"), "{refused}");
}

#[tokio::test]
async fn large_appends_are_cut_into_frames_and_read_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), SystemClock);
    let partition = log.ensure_topic("t", 1).await.unwrap().partition(0);
    let large = Bytes::from("z".repeat(3_000_000));
    let mut records: Vec<NewRecord> = (0..9_000).map(|number| record(format!("{number:0500}"))).collect();
    records.insert(
        4_500,
        NewRecord {
            value: large,
            ..NewRecord::default()
        },
    );
    log.append("t", records.clone(), None).await.unwrap();
    drop(log);
    let log = open(folder.path(), SystemClock);
    let mut next = Offset(0);
    while next.0 < 9_001 {
        let read = log.read(&partition, next, 333_333, Duration::ZERO).await.unwrap();
        let bytes: usize = read.values.iter().map(|value| value.unwrap().len()).sum();
        assert!(bytes <= 333_333 || read.len() == 1);
        for (offset, value) in read.offsets.iter().zip(read.values.iter()) {
            assert_eq!(value.unwrap(), &records[*offset as usize].value[..]);
        }
        next = read.next;
    }
    assert_eq!(next, Offset(9_001));
}

/// A clock that is wrong by a fixed amount.
#[derive(Debug)]
struct WrongClock(i64);

impl Clock for WrongClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.0
    }
}

const CHILD_FOLDER: &str = "FOLDLINE_TEST_CHILD_FOLDER";
const CHILD_RUN: &str = "FOLDLINE_TEST_CHILD_RUN";
const PART: usize = 5;

/// Not a test of its own: what the child process of the next test does, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_appends_until_killed() {
    let (Ok(folder), Ok(run)) = (std::env::var(CHILD_FOLDER), std::env::var(CHILD_RUN)) else {
        return;
    };
    // Every run's clock is further behind than the one before.
    let log = open(folder.as_ref(), WrongClock(-20_000 * run.parse::<i64>().unwrap()));
    let topic = log.ensure_topic("t", 3).await.unwrap();
    let say = |line: String| std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    let appenders = (0..4).map(|appender| {
        let (log, topic, run) = (Arc::clone(&log), topic.clone(), run.clone());
        tokio::spawn(async move {
            for append in 0.. {
                let id = format!("{run}.{appender}.{append}");
                let records = (0..PART)
                    .map(|part| keyed(format!("{id}{part}"), format!("{id}/{part}")))
                    .collect();
                let sequence = ProducerSequence {
                    producer: format!("import/{id}/s"),
                    sequence: 0,
                };
                log.append("t", records, Some(sequence)).await.unwrap();
                say(format!("acked {id}\n"));
                let partition = topic.partition(append % 3);
                let span = log.span(&partition).await.unwrap();
                say(format!(
                    "promised {} {} {}\n",
                    partition.partition, span.end, span.complete_to.0
                ));
            }
        })
    });
    futures::future::join_all(appenders.collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_killed_log_has_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut acked: Vec<String> = Vec::new();
    let mut promised: Vec<(u32, u64, i64)> = Vec::new();
    let mut random = rand::rng();
    for run in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "embedded::child_appends_until_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD_FOLDER, folder.path())
            .env(CHILD_RUN, run.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let started = Instant::now();
        let reader = std::thread::spawn(move || {
            let mut lines = Vec::new();
            let mut line = String::new();
            while out.read_line(&mut line).unwrap() > 0 {
                lines.push(std::mem::take(&mut line));
            }
            lines
        });
        std::thread::sleep(Duration::from_millis(random.random_range(150..600)));
        child.kill().unwrap();
        child.wait().unwrap();
        let lines = reader.join().unwrap();
        println!("run {run}: killed after {:?}, {} lines", started.elapsed(), lines.len());
        for line in lines.iter().filter_map(|line| line.strip_suffix('\n')) {
            // The harness may print before the first line without ending its own.
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                [.., "acked", id] => acked.push(id.to_owned()),
                [.., "promised", partition, end, time] => {
                    promised.push((partition.parse().unwrap(), end.parse().unwrap(), time.parse().unwrap()));
                }
                _ => {}
            }
        }
        // Not in every run, so that logs are also recovered that were recovered before and killed again.
        if run % 3 == 2 {
            let log = open(folder.path(), WrongClock(-20_000 * run));
            // On a busy machine every child so far may have been killed before it came to this.
            let topic = log.ensure_topic("t", 3).await.unwrap();
            check_after_kill(&log, &topic, &acked, &promised).await;
        }
    }
    assert!(
        acked.len() > 100,
        "only {} appends were acknowledged: the test tests nothing",
        acked.len()
    );
    assert!(promised.len() > 100);
}

async fn check_after_kill(log: &EmbeddedLog, topic: &Topic, acked: &[String], promised: &[(u32, u64, i64)]) {
    let mut parts: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for partition in topic.all_partitions() {
        let records = read_all(log, &partition).await;
        let span = log.span(&partition).await.unwrap();
        assert_eq!(records.len() as u64, span.end.0, "offsets have no holes");
        assert!(records.is_sorted_by_key(|record| record.1), "timestamps go back");
        for (_, end, complete_to) in promised.iter().filter(|promise| promise.0 == partition.partition.0) {
            assert!(
                *end <= span.end.0,
                "{partition}: {end} was visible, now it ends at {}",
                span.end
            );
            if let Some(next) = records.get(*end as usize) {
                assert!(
                    next.1 >= *complete_to,
                    "{partition}: {complete_to} was promised at {end}, then came {next:?}"
                );
            }
        }
        for (_, _, value) in records {
            let (id, part) = value.split_once('/').unwrap();
            parts.entry(id.to_owned()).or_default().push(part.parse().unwrap());
        }
    }
    for (id, parts) in &mut parts {
        parts.sort_unstable();
        assert_eq!(
            *parts,
            (0..PART).collect::<Vec<_>>(),
            "append {id} is not there exactly once"
        );
        let sequence = log.last_sequence(&format!("import/{id}/s")).await.unwrap();
        assert_eq!(sequence, Some(0), "append {id} and its sequence are stored together");
    }
    for id in acked {
        assert!(parts.contains_key(id), "append {id} was acknowledged and is not there");
    }
}

/// Figures, by hand: `cargo test --workspace --test it -- --ignored --nocapture speed`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn speed() {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let log = open(folder.path(), SystemClock);
    let topic = log.ensure_topic("t", 4).await.unwrap();
    const APPENDS: usize = 200;
    const RECORDS: usize = 5_000;
    let body = Bytes::from(
        (0..600)
            .map(|byte| b"abcdefghijklmnopqrstuvwxyz0123456789"[byte * 7 % 36])
            .collect::<Vec<_>>(),
    );
    let started = Instant::now();
    let appenders: Vec<_> = (0..4)
        .map(|appender| {
            let (log, body) = (Arc::clone(&log), body.clone());
            tokio::spawn(async move {
                for append in 0..APPENDS / 4 {
                    let record = |number: usize| NewRecord {
                        key: Some(Bytes::from(format!("{appender}-{append}-{number}"))),
                        value: body.clone(),
                        headers: Vec::new(),
                    };
                    let records: Vec<NewRecord> = (0..RECORDS).map(record).collect();
                    while let Err(error) = log.append("t", records.clone(), None).await {
                        assert!(matches!(error, LogError::Full(_)), "{error}");
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.await.unwrap();
    }
    let took = started.elapsed();
    let count = (APPENDS * RECORDS) as f64;
    println!(
        "appended {:.0} records/s of 600 bytes ({took:?})",
        count / took.as_secs_f64()
    );
    let started = Instant::now();
    let mut read = 0;
    for partition in topic.all_partitions() {
        let end = log.span(&partition).await.unwrap().end;
        let mut next = Offset(0);
        while next < end {
            let records = log.read(&partition, next, 8 << 20, Duration::ZERO).await.unwrap();
            read += records.len();
            next = records.next;
        }
    }
    assert_eq!(read as f64, count);
    println!(
        "read {:.0} records/s ({:?})",
        count / started.elapsed().as_secs_f64(),
        started.elapsed()
    );
    let started = Instant::now();
    let singles = 500;
    for number in 0..singles {
        log.append("t", vec![record(number.to_string())], None).await.unwrap();
    }
    println!("one record and one sync: {:?}", started.elapsed() / singles);
    drop(log);
    let started = Instant::now();
    drop(open(folder.path(), SystemClock));
    println!("opened and closed in {:?}", started.elapsed());
}
