//! The log into the archive, with a real log and real files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use foldline_batch_layer::{Archive, ArchiveError, Archiver, ArchiverHandle, ArchiverSettings, RollReason};
use foldline_event_log::{
    Clock, EmbeddedLog, EmbeddedSettings, EventLog, NewRecord, Offset, RecordTime, SystemClock, Tick, TopicPartition,
};
use foldline_sql::{Stream, UniqueKey};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use crate::clicks::{DAY_US, MAY_US, stream};
use crate::faulty::{Fault, Faulty};

const CUT_EVERY_MS: i64 = 50;
/// Longer than any test.
const NEVER_MS: u64 = 3_600_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// A log, a store, and a stream between them.
struct Site {
    _folder: tempfile::TempDir,
    log: Arc<EmbeddedLog>,
    store: Faulty,
    stream: Arc<Stream>,
}

struct Running {
    handle: ArchiverHandle,
    cancel: CancellationToken,
}

impl Running {
    async fn end(self) -> ArchiverHandle {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.handle.ended()).await.unwrap();
        self.handle
    }
}

fn settings() -> ArchiverSettings {
    ArchiverSettings {
        roll_age_ms: NEVER_MS,
        roll_bytes: usize::MAX,
        memory_bytes: 256 << 20,
        cut_every_ms: CUT_EVERY_MS,
    }
}

impl Site {
    async fn new(partitions: u32) -> Self {
        let mut declared = stream();
        declared.partitions = partitions;
        Self::of(declared).await
    }

    async fn of(stream: Stream) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(EmbeddedSettings::new(folder.path().join("log")), Arc::new(SystemClock)).unwrap();
        log.ensure_topic(&stream.topic, stream.partitions).await.unwrap();
        let store = Faulty::new(foldline_batch_layer::store::local(&folder.path().join("objects")).unwrap());
        Self {
            log,
            store,
            stream: Arc::new(stream),
            _folder: folder,
        }
    }

    fn archive(&self) -> Archive {
        Archive::new(Arc::new(self.store.clone()))
    }

    async fn start(&self, settings: ArchiverSettings) -> Running {
        self.start_as(Arc::clone(&self.stream), settings).await
    }

    async fn start_as(&self, stream: Arc<Stream>, settings: ArchiverSettings) -> Running {
        let cancel = CancellationToken::new();
        let log = Arc::clone(&self.log) as Arc<dyn EventLog>;
        let handle = Archiver::start(log, self.archive(), vec![stream], settings, cancel.clone())
            .await
            .unwrap();
        Running { handle, cancel }
    }

    async fn append(&self, from: u64, count: u64) {
        let records = (from..from + count).map(event).collect();
        self.log.append(&self.stream.topic, records, None).await.unwrap();
    }

    async fn partitions(&self) -> Vec<TopicPartition> {
        self.log.topic(&self.stream.topic).await.unwrap().all_partitions()
    }

    /// Waits until every partition is archived up to the end of the log.
    async fn archived(&self, handle: &ArchiverHandle) {
        let all = async {
            loop {
                let positions = handle.positions();
                let mut behind = positions.is_empty();
                for (partition, position) in positions {
                    behind |= position.until < self.log.span(&partition).await.unwrap().end;
                }
                if !behind {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, all).await;
        assert!(waited.is_ok(), "{:?} {:?}", handle.positions(), handle.counters());
    }

    /// Compares the archive with the log, offset by offset. Returns rows and dead letters.
    async fn exactly_once(&self) -> (usize, usize) {
        let (mut rows_in_all, mut letters_in_all) = (0, 0);
        let archive = self.archive();
        for partition in self.partitions().await {
            let mut logged = BTreeMap::new();
            let mut next = Offset(0);
            loop {
                let read = self.log.read(&partition, next, 1 << 20, Duration::ZERO).await.unwrap();
                for (index, offset) in read.offsets.iter().enumerate() {
                    logged.insert(offset.cast_unsigned(), Bytes::copy_from_slice(read.values.value(index)));
                }
                if read.is_empty() {
                    break;
                }
                next = read.next;
            }
            let all = Offset(0)..archive.resume(&partition).await.unwrap().unwrap().next;
            assert_eq!(
                all.end.0,
                logged.keys().last().map_or(0, |last| last + 1),
                "{partition}"
            );
            let mut archived: BTreeMap<u64, Option<String>> = BTreeMap::new();
            let columns = ["_offset".to_owned(), "id".to_owned()];
            let mut batches = archive.rows(&self.stream, &partition, all.clone(), &columns);
            while let Some((_, rows)) = batches.try_next().await.unwrap() {
                rows_in_all += rows.num_rows();
                for row in 0..rows.num_rows() {
                    let offset = rows["_offset"].as_primitive::<Int64Type>().value(row).cast_unsigned();
                    let id = rows["id"].as_string::<i32>().value(row).to_owned();
                    assert_eq!(archived.insert(offset, Some(id)), None, "{partition} {offset} twice");
                }
            }
            let letters: Vec<_> = archive.dead_letters(&partition, all).try_collect().await.unwrap();
            for letter in letters {
                letters_in_all += 1;
                assert_eq!(logged[&letter.offset.0], letter.raw);
                assert_eq!(
                    archived.insert(letter.offset.0, None),
                    None,
                    "{partition} {} twice",
                    letter.offset
                );
            }
            let of_log: BTreeMap<u64, Option<String>> = logged
                .into_iter()
                .map(|(offset, value)| (offset, id_of(&value)))
                .collect();
            assert_eq!(archived, of_log, "{partition}");
        }
        let report = archive.audit(&self.partitions().await).await.unwrap();
        assert!(report.complete(), "{report:?}");
        (rows_in_all, letters_in_all)
    }
}

/// Event `number`: some three weeks of dates, every 13th is cut off.
fn event(number: u64) -> NewRecord {
    let at = chrono::DateTime::from_timestamp_micros(MAY_US + (number % 21).cast_signed() * DAY_US).unwrap();
    let value = format!(
        r#"{{"id":"e{number}","at":"{}","amount":{number},"text":"{}"}}"#,
        at.to_rfc3339(),
        "lorem ipsum ".repeat(5)
    );
    let end = if malformed(number) {
        value.len() / 2
    } else {
        value.len()
    };
    NewRecord {
        key: Some(Bytes::from(number.to_string())),
        value: Bytes::from(value[..end].to_owned()),
        headers: Vec::new(),
    }
}

fn malformed(number: u64) -> bool {
    number % 13 == 5
}

fn id_of(value: &[u8]) -> Option<String> {
    let event: serde_json::Value = serde_json::from_slice(value).ok()?;
    Some(event["id"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_appended_is_archived_exactly_once() {
    let site = Site::new(8).await;
    site.append(0, 500).await;
    let running = site
        .start(ArchiverSettings {
            roll_bytes: 20_000,
            ..settings()
        })
        .await;
    for round in 1..6 {
        site.append(round * 500, 500).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The end rolls what was read, not what is still in the log.
    let next = Tick::at(RecordTime(SystemClock.now_ms() + CUT_EVERY_MS), CUT_EVERY_MS);
    running.handle.reach(next).await.unwrap();
    let counters = running.end().await.counters();
    let (rows, letters) = site.exactly_once().await;
    let cut_off = (0..3000).filter(|&number| malformed(number)).count();
    assert_eq!((rows, letters), (3000 - cut_off, cut_off));
    assert_eq!(counters.rows, rows as u64);
    assert_eq!(counters.dead_letters.values().sum::<u64>(), letters as u64);
    assert!(counters.rolls[&RollReason::Size] >= 8, "{counters:?}");
    assert_eq!(counters.commits, counters.rolls.values().sum::<u64>());
    assert_eq!((counters.lost, counters.retries, counters.held_bytes), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_topic_is_rolled_by_age() {
    let site = Site::new(2).await;
    let running = site
        .start(ArchiverSettings {
            roll_age_ms: 200,
            ..settings()
        })
        .await;
    site.append(0, 50).await;
    // Nothing else ever comes.
    site.archived(&running.handle).await;
    let counters = running.handle.counters();
    assert_eq!(counters.rolls.keys().collect::<Vec<_>>(), vec![&RollReason::Age]);
    assert_eq!(counters.commits, 2);
    // An idle partition is complete up to now.
    let now = Tick::at(RecordTime(SystemClock.now_ms()), CUT_EVERY_MS);
    let positions = tokio::time::timeout(PATIENCE, running.handle.reach(now))
        .await
        .unwrap()
        .unwrap();
    assert!(positions.values().all(|position| position.complete_to.0 >= now.0));
    running.end().await;
    site.exactly_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_memory_budget_holds_for_16_partitions() {
    let site = Site::new(16).await;
    for round in 0..20 {
        site.append(round * 2000, 2000).await;
    }
    let memory_bytes = 2 << 20;
    // Only running out of memory causes rolls.
    let running = site
        .start(ArchiverSettings {
            memory_bytes,
            ..settings()
        })
        .await;
    let handle = running.handle.clone();
    let watching = tokio::spawn(async move {
        let mut most = 0;
        loop {
            most = most.max(handle.counters().held_bytes);
            tokio::time::sleep(Duration::from_millis(1)).await;
            if handle.positions().values().all(|position| position.stopped.is_some()) {
                return most;
            }
            if handle.counters().raw_bytes > 4 << 20 {
                return most;
            }
        }
    });
    let most = tokio::time::timeout(PATIENCE, watching).await.unwrap().unwrap();
    assert!(most <= memory_bytes as u64 && most > memory_bytes as u64 / 4, "{most}");
    let counters = running.end().await.counters();
    assert!(counters.rolls[&RollReason::Memory] > 3, "{counters:?}");
    // The largest rolls, not everybody: the commits are not tiny.
    assert!(counters.raw_bytes / counters.commits > 20_000, "{counters:?}");
    let running = site.start(settings()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    running.handle.reach(Tick(SystemClock.now_ms())).await.unwrap();
    running.end().await;
    site.exactly_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_archivers_one_wins_each_range_and_the_other_says_so() {
    let site = Site::new(4).await;
    let often = ArchiverSettings {
        roll_age_ms: 20,
        ..settings()
    };
    let (one, two) = (site.start(often.clone()).await, site.start(often).await);
    for round in 0..30 {
        site.append(round * 100, 100).await;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    site.archived(&one.handle).await;
    site.archived(&two.handle).await;
    let (one, two) = (one.end().await.counters(), two.end().await.counters());
    let (rows, letters) = site.exactly_once().await;
    assert_eq!(rows + letters, 3000);
    assert_eq!(
        one.rows + two.rows,
        rows as u64,
        "each row is counted by the one that committed it"
    );
    assert!(one.lost + two.lost > 0, "{one:?} {two:?}");
}

/// Stops an archiver dead at `fault`, as `kill -9` does, then starts another one.
async fn killed_at(at: &str, healthy: usize, fault: Fault) {
    let site = Site::new(3).await;
    site.append(0, 300).await;
    let mut faults = vec![Fault::None; healthy];
    // Whatever comes after it hangs too: a killed process does nothing more.
    faults.push(fault);
    faults.extend([Fault::HangBefore; 1000]);
    site.store.plan(at, &faults);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let victim = ArchiverSettings {
        roll_age_ms: 10,
        ..settings()
    };
    let (log, archive, stream) = (Arc::clone(&site.log), site.archive(), Arc::clone(&site.stream));
    let handle = runtime
        .spawn(async move { Archiver::start(log, archive, vec![stream], victim, CancellationToken::new()).await })
        .await
        .unwrap()
        .unwrap();
    let met = async {
        while site.store.puts() <= healthy {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tokio::time::timeout(PATIENCE, met).await.unwrap();
    drop(handle);
    runtime.shutdown_background();
    site.store.plan("", &[]);
    site.append(300, 100).await;
    let heir = site
        .start(ArchiverSettings {
            roll_age_ms: 10,
            ..settings()
        })
        .await;
    site.archived(&heir.handle).await;
    heir.end().await;
    let (rows, letters) = site.exactly_once().await;
    assert_eq!(rows + letters, 400, "{at} {healthy} {fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_files_and_commit_loses_and_doubles_nothing() {
    killed_at(".parquet", 0, Fault::HangBefore).await;
    killed_at(".parquet", 5, Fault::HangAfter).await;
    killed_at("_commits", 0, Fault::HangBefore).await;
    killed_at("_commits", 0, Fault::HangAfter).await;
    killed_at("_commits", 2, Fault::HangAfter).await;
    killed_at("_origins", 0, Fault::HangBefore).await;
    killed_at("_origins", 1, Fault::HangAfter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for() {
    // Eight files at a time share the faults.
    for (at, faults) in [("_commits", 15), (".parquet", 100), ("_origins", 15)] {
        let site = Site::new(1).await;
        site.append(0, 20).await;
        site.store.plan(at, &vec![Fault::FailedBefore; faults]);
        let running = site
            .start(ArchiverSettings {
                roll_age_ms: 10,
                ..settings()
            })
            .await;
        let mut seen = false;
        let says = async {
            while site.store.faults_left() > 0 {
                let positions = running.handle.positions();
                let stopped = positions.into_values().find_map(|position| position.stopped);
                seen |= stopped
                    .is_some_and(|reason| reason.contains("trying again") && reason.contains("connection reset"));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, says).await.unwrap();
        assert!(seen, "{at}");
        site.archived(&running.handle).await;
        assert!(
            running
                .handle
                .positions()
                .values()
                .all(|position| position.stopped.is_none())
        );
        let counters = running.end().await.counters();
        assert!(counters.retries > 0 && counters.lost == 0, "{at}: {counters:?}");
        site.exactly_once().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_replies_were_all_lost_is_not_lost() {
    let site = Site::new(1).await;
    site.append(0, 20).await;
    // Stored at the first try, and not a word of it for longer than one attempt asks.
    let mut faults = vec![Fault::LostReply];
    faults.extend([Fault::FailedBefore; 8]);
    site.store.plan("_commits", &faults);
    let running = site
        .start(ArchiverSettings {
            roll_age_ms: 10,
            ..settings()
        })
        .await;
    site.archived(&running.handle).await;
    let counters = running.end().await.counters();
    assert_eq!(
        (counters.lost, counters.commits, counters.rows),
        (0, 1, 18),
        "{counters:?}"
    );
    site.exactly_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reaching_a_tick_makes_the_cut_there_that_of_the_log() {
    let site = Site::new(4).await;
    let running = site.start(settings()).await;
    for round in 0..5 {
        site.append(round * 40, 40).await;
        // The next records lie in a later tick.
        tokio::time::sleep(Duration::from_millis(70)).await;
        let tick = Tick::at(RecordTime(SystemClock.now_ms()), CUT_EVERY_MS);
        let reached = tokio::time::timeout(PATIENCE, running.handle.reach(tick))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reached.len(), 4);
        site.append(round * 40 + 10_000, 3).await;
        let archive = site.archive();
        for (partition, position) in reached {
            let cut = archive.cut_at(&partition, tick, position.complete_to).await.unwrap();
            let mut next = Offset(0);
            let mut time = i64::MIN;
            let read = site
                .log
                .read(&partition, Offset(0), 1 << 20, Duration::ZERO)
                .await
                .unwrap();
            for (offset, timestamp) in read.offsets.iter().zip(read.timestamps_ms.iter()) {
                time = time.max(*timestamp);
                if time < tick.0 {
                    next = Offset(offset.cast_unsigned() + 1);
                }
            }
            assert_eq!(cut.next, next, "{partition} at {}", tick.0);
        }
    }
    let counters = running.end().await.counters();
    assert!(counters.rolls.contains_key(&RollReason::Reach), "{counters:?}");
    site.exactly_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_added_to_the_topic_is_archived_too() {
    let site = Site::new(1).await;
    let running = site.start(settings()).await;
    site.log.ensure_topic("clicks", 3).await.unwrap();
    site.append(0, 100).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let tick = Tick(SystemClock.now_ms());
    let reached = tokio::time::timeout(PATIENCE, running.handle.reach(tick))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reached.len(), 3);
    running.end().await;
    let (rows, letters) = site.exactly_once().await;
    assert_eq!(rows + letters, 100);
}

async fn stopped_with(running: &Running, reason: &str) {
    let error = tokio::time::timeout(PATIENCE, running.handle.reach(Tick(i64::MAX)))
        .await
        .unwrap()
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ArchiveError::Stopped { .. }), "{text}");
    assert!(text.contains("clicks/0") && text.contains(reason), "{text}");
    let positions = running.handle.positions();
    let stopped = positions.values().next().unwrap().stopped.clone().unwrap();
    assert!(stopped.contains(reason), "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_trying_again_does_not_cure_stops_the_partition_and_stays_visible() {
    let site = Site::new(1).await;
    site.append(0, 20).await;
    let partition = site.partitions().await.remove(0);
    // Archived now, under this declaration.
    let running = site.start(settings()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.handle.reach(Tick(SystemClock.now_ms())).await.unwrap();
    running.end().await;
    let mut judged = (*site.stream).clone();
    judged.lateness_ms = Some(5);
    let rejudging = site.start_as(Arc::new(judged), settings()).await;
    stopped_with(&rejudging, "declare a new stream").await;
    rejudging.end().await;

    // A commit of a version that this program does not know.
    let path = format!("archive/clicks/_commits/{}/0/{:020}.json", partition.incarnation, 0);
    let path = Path::parse(path).unwrap();
    let json = site.store.get(&path).await.unwrap().bytes().await.unwrap();
    let newer = String::from_utf8(json.to_vec())
        .unwrap()
        .replace(r#""version":1"#, r#""version":9"#);
    site.store.put(&path, newer.into()).await.unwrap();
    let newer = site.start(settings()).await;
    stopped_with(&newer, "format version 9").await;
    newer.end().await;
    site.store.put(&path, json.into()).await.unwrap();
    site.exactly_once().await;

    // An origin beyond the end of the log: another log's archive.
    let other = Site::new(1).await;
    other.append(0, 5).await;
    let partition = other.partitions().await.remove(0);
    other.archive().origin(&partition, Offset(1000)).await.unwrap();
    let out_of_range = other.start(settings()).await;
    stopped_with(&out_of_range, "offset 1000").await;
    out_of_range.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_known_across_restarts() {
    let mut declared = stream();
    declared.unique = Some(UniqueKey {
        columns: vec!["id".to_owned()],
        within_ms: 3_600_000,
    });
    let site = Site::of(declared).await;
    for _ in 0..3 {
        // The same events again, each time for a new archiver.
        site.append(0, 100).await;
        let running = site
            .start(ArchiverSettings {
                roll_age_ms: 10,
                ..settings()
            })
            .await;
        site.archived(&running.handle).await;
        running.end().await;
    }
    let partition = site.partitions().await.remove(0);
    let commits = site.archive().commits(&partition).await.unwrap();
    let duplicates: u64 = commits.iter().map(|commit| commit.duplicates).sum();
    let good = (0..100).filter(|&number| !malformed(number)).count() as u64;
    assert_eq!(duplicates, 2 * good);
    site.exactly_once().await;
}

#[tokio::test]
async fn a_commit_lists_no_folder() {
    let mut world = crate::world::World::new().await;
    let mut random = StdRng::seed_from_u64(1);
    world.archive_more(&mut random, 0, 5).await;
    let before = world.store.lists();
    world.archive_more(&mut random, 0, 200).await;
    assert_eq!(world.store.lists(), before, "the name of the next commit is known");
    // Another process finds what this one wrote, one commit after the other.
    let partition = crate::world::topic().partition(0);
    let other = Archive::new(Arc::new(world.store.clone()));
    let listed = other.commits(&partition).await.unwrap().len();
    world.archive_more(&mut random, 0, 50).await;
    let ours = world.archive.commits(&partition).await.unwrap();
    assert!(ours.len() > listed);
    assert_eq!(other.commits(&partition).await.unwrap(), ours);
}
