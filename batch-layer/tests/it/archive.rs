//! Files, commit records, cuts, and what damage does to them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use chrono::NaiveDate;
use foldline_batch_layer::{Archive, ArchiveError, Commit};
use foldline_event_log::{EventBatch, Horizon, HorizonError, Offset, RecordTime, Tick, TopicPartition};
use foldline_sql::Stream;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::clicks::{CUT_EVERY_MS, Click, DAY_US, MAY_US, batches, column, letter, marks, partition_of, stream};
use crate::faulty::{Fault, Faulty};

struct Fixture {
    _folder: tempfile::TempDir,
    store: Faulty,
    archive: Archive,
    stream: Arc<Stream>,
    partition: TopicPartition,
}

impl Fixture {
    fn new() -> Self {
        Self::of(stream())
    }

    fn of(stream: Stream) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Faulty::new(foldline_batch_layer::store::local(folder.path()).unwrap());
        Self {
            archive: Archive::new(Arc::new(store.clone())),
            store,
            _folder: folder,
            partition: partition_of(&stream, 3),
            stream: Arc::new(stream),
        }
    }

    /// An archive that has read nothing yet.
    fn fresh(&self) -> Archive {
        Archive::new(Arc::new(self.store.clone()))
    }

    async fn append(&self, batches: &[EventBatch]) -> Result<Arc<Commit>, ArchiveError> {
        let batches = Arc::new(batches.to_vec());
        self.archive.append(&self.stream, batches, Uuid::new_v4()).await
    }

    /// Archives `clicks` from `start` on, `per_commit` batches a commit.
    async fn archived(&self, start: u64, clicks: &[Click], per_commit: usize) {
        self.archive.origin(&self.partition, Offset(start)).await.unwrap();
        for batches in batches(&self.stream, &self.partition, start, clicks, 7).chunks(per_commit) {
            self.append(batches).await.unwrap();
        }
    }

    async fn rows(&self, offsets: Range<u64>, columns: &[&str]) -> Result<Vec<(NaiveDate, RecordBatch)>, ArchiveError> {
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        let offsets = Offset(offsets.start)..Offset(offsets.end);
        self.fresh()
            .rows(&self.stream, &self.partition, offsets, &columns)
            .try_collect()
            .await
    }
}

/// Clicks over a few days, with holes, malformed, late and duplicate ones, and idle ticks.
fn many_clicks(seed: u64, start: u64, count: usize) -> Vec<Click> {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut offset = start;
    let mut time = 5_500;
    (0..count)
        .map(|_| {
            offset += if random.random_bool(0.1) {
                random.random_range(1..4)
            } else {
                0
            };
            time += [0, 0, 1, 400, 3000][random.random_range(0..5)];
            let mut click = Click::new(offset, time, MAY_US + random.random_range(-2 * DAY_US..2 * DAY_US));
            click.malformed = random.random_bool(0.1);
            click.late = !click.malformed && random.random_bool(0.2);
            click.duplicate = !click.malformed && random.random_bool(0.2);
            offset += 1;
            click
        })
        .collect()
}

fn offsets_of(rows: &[(NaiveDate, RecordBatch)]) -> Vec<u64> {
    let offsets = rows.iter().flat_map(|(_, rows)| {
        let values = rows["_offset"].as_primitive::<Int64Type>().values().to_vec();
        values.into_iter().map(i64::cast_unsigned)
    });
    offsets.collect()
}

#[tokio::test]
async fn every_offset_comes_back_once_with_its_date() {
    let fixture = Fixture::new();
    let clicks = many_clicks(1, 10, 400);
    fixture.archived(10, &clicks, 6).await;
    let end = clicks.last().unwrap().offset + 1;

    for range in [10..end, 10..11, end - 1..end, 57..203, 100..100] {
        let columns = [
            "amount",
            "id",
            "_offset",
            "_late",
            "_topic",
            "_partition",
            "_key",
            "_record_time",
            "at",
        ];
        let rows = fixture.rows(range.clone(), &columns).await.unwrap();
        let expected: BTreeSet<u64> = clicks
            .iter()
            .filter(|click| !click.malformed && range.contains(&click.offset))
            .map(|click| click.offset)
            .collect();
        let found = offsets_of(&rows);
        assert_eq!(found.len(), expected.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        for (date, rows) in &rows {
            assert_eq!(rows.num_columns(), columns.len() + 1);
            let schema = rows.schema();
            assert_eq!(schema.field(columns.len()).name(), "_record_time_max");
            for row in 0..rows.num_rows() {
                let offset = rows["_offset"].as_primitive::<Int64Type>().value(row).cast_unsigned();
                let click = clicks.iter().find(|click| click.offset == offset).unwrap();
                let at = chrono::DateTime::from_timestamp_micros(click.at_us).unwrap();
                assert_eq!(*date, at.date_naive());
                assert_eq!(rows["id"].as_string::<i32>().value(row), click.id());
                assert_eq!(rows["_topic"].as_string::<i32>().value(row), "clicks");
                assert_eq!(rows["_late"].as_boolean().value(row), click.late);
                let time = rows["_record_time_max"].as_primitive::<Int64Type>().value(row);
                assert_eq!(time, click.record_time);
            }
        }
        let letters: Vec<_> = fixture
            .fresh()
            .dead_letters(&fixture.partition, Offset(range.start)..Offset(range.end))
            .try_collect()
            .await
            .unwrap();
        let malformed = clicks
            .iter()
            .filter(|click| click.malformed && range.contains(&click.offset));
        assert_eq!(letters, malformed.map(letter).collect::<Vec<_>>());
    }

    let report = fixture
        .archive
        .audit(std::slice::from_ref(&fixture.partition))
        .await
        .unwrap();
    assert!(report.complete(), "{report:?}");
    let audit = &report.partitions[0];
    assert_eq!(audit.offsets, Offset(10)..Offset(end));
    assert_eq!(audit.rows + audit.dead_letters, 400);
    assert_eq!(audit.rows + audit.dead_letters + audit.holes, end - 10);
}

#[tokio::test]
async fn a_commit_says_what_it_holds() {
    let fixture = Fixture::new();
    let mut clicks = vec![
        Click::new(5, 1000, MAY_US),
        Click::new(6, 1001, MAY_US + DAY_US - 1),
        Click::new(9, 2500, MAY_US - 1),
        Click::new(10, 4000, MAY_US),
    ];
    clicks[1].late = true;
    clicks[2].duplicate = true;
    clicks[3].malformed = true;
    fixture.archived(4, &clicks, 10).await;
    let commits = fixture.fresh().commits(&fixture.partition).await.unwrap();
    let commit = &commits[0];
    assert_eq!(commit.offsets, Offset(4)..Offset(11));
    assert_eq!(commit.holes, vec![Offset(4)..Offset(5), Offset(7)..Offset(9)]);
    assert_eq!((commit.late, commit.duplicates, commit.nulled["amount"]), (1, 1, 3));
    assert_eq!(commit.first_tick, Tick(1000));
    let meetings: Vec<_> = commit
        .boundaries
        .iter()
        .map(|boundary| (boundary.before.0, boundary.after.0, boundary.next.0))
        .collect();
    assert_eq!(meetings, vec![(1001, 2000, 7), (2500, 4000, 10)]);
    assert_eq!(commit.marks, marks(&clicks));
    let dates: Vec<_> = commit
        .files
        .iter()
        .map(|file| {
            (
                file.date.unwrap().to_string(),
                file.rows,
                file.first_offset.0,
                file.event_times.unwrap(),
            )
        })
        .collect();
    assert_eq!(
        dates,
        vec![
            ("2024-04-30".to_owned(), 1, 9, (MAY_US - 1, MAY_US - 1)),
            ("2024-05-01".to_owned(), 2, 5, (MAY_US, MAY_US + DAY_US - 1)),
        ]
    );
    let file = &commit.files[0].path;
    assert!(
        file.starts_with("archive/clicks/date=2024-04-30/00000000-0000-0000-0000-00000000004d-3-"),
        "{file}"
    );
}

#[tokio::test]
async fn without_an_event_time_the_record_time_gives_the_date() {
    let mut declared = stream();
    declared.event_time = None;
    let fixture = Fixture::of(declared);
    let day_ms = DAY_US / 1000;
    fixture
        .archived(
            0,
            &[Click::new(0, day_ms - 1, MAY_US), Click::new(1, day_ms, MAY_US)],
            5,
        )
        .await;
    let rows = fixture.rows(0..2, &["_offset"]).await.unwrap();
    let dates: Vec<String> = rows.iter().map(|(date, _)| date.to_string()).collect();
    assert_eq!(dates, vec!["1970-01-01", "1970-01-02"]);
}

#[tokio::test]
async fn the_cut_at_every_tick_is_that_of_a_plain_loop() {
    for (seed, per_commit) in [(2, 1), (3, 2), (4, 5), (5, 1000)] {
        let fixture = Fixture::new();
        let clicks = many_clicks(seed, 40, 120);
        fixture.archived(40, &clicks, per_commit).await;
        let last = clicks.last().unwrap().record_time;
        let archive = fixture.fresh();
        let mut tick = -CUT_EVERY_MS;
        while tick <= last + 5 * CUT_EVERY_MS {
            let before = clicks.iter().filter(|click| click.record_time < tick).count();
            let next = before.checked_sub(1).map_or(40, |index| clicks[index].offset + 1);
            let complete_to = RecordTime(last + 3 * CUT_EVERY_MS);
            let cut = archive.cut_at(&fixture.partition, Tick(tick), complete_to).await;
            if tick > complete_to.0 {
                let error = cut.unwrap_err();
                assert!(matches!(error, ArchiveError::NotReached { .. }), "{error}");
                assert!(
                    error.to_string().contains(&format!("tick {tick} is not reached")),
                    "{error}"
                );
            } else {
                let cut = cut.unwrap();
                assert_eq!(cut.next.0, next, "tick {tick}");
                assert_eq!(cut.marks, marks(&clicks[..before]), "tick {tick}");
            }
            // Without word of how far the log is complete, the archive's own records must reach the tick.
            let alone = archive
                .cut_at(&fixture.partition, Tick(tick), RecordTime(i64::MIN))
                .await;
            assert_eq!(alone.is_ok(), tick <= last, "tick {tick}");
            tick += CUT_EVERY_MS;
        }
    }
}

#[tokio::test]
async fn cuts_of_partitions_without_records() {
    let fixture = Fixture::new();
    let cut = |archive: Archive, complete_to: i64| {
        let partition = fixture.partition.clone();
        async move { archive.cut_at(&partition, Tick(5000), RecordTime(complete_to)).await }
    };
    // Never started: nothing is known, whatever anybody says.
    assert!(matches!(
        cut(fixture.fresh(), 9000).await,
        Err(ArchiveError::NotReached { .. })
    ));
    fixture.archive.origin(&fixture.partition, Offset(12)).await.unwrap();
    assert!(matches!(
        cut(fixture.fresh(), 4999).await,
        Err(ArchiveError::NotReached { .. })
    ));
    let at_origin = cut(fixture.fresh(), 5000).await.unwrap();
    assert_eq!((at_origin.next, at_origin.marks), (Offset(12), Default::default()));
}

#[tokio::test]
async fn a_tick_inside_a_longer_tick_is_refused_not_guessed() {
    let fixture = Fixture::new();
    fixture
        .archived(0, &[Click::new(0, 1100, MAY_US), Click::new(1, 1700, MAY_US)], 5)
        .await;
    let error = fixture
        .archive
        .cut_at(&fixture.partition, Tick(1500), RecordTime(9000))
        .await
        .unwrap_err();
    assert!(matches!(error, ArchiveError::NoBoundary { .. }), "{error}");
}

#[tokio::test]
async fn an_origin_is_written_once() {
    let fixture = Fixture::new();
    assert!(fixture.archive.resume(&fixture.partition).await.unwrap().is_none());
    assert_eq!(
        fixture.archive.origin(&fixture.partition, Offset(8)).await.unwrap(),
        Offset(8)
    );
    assert_eq!(
        fixture.fresh().origin(&fixture.partition, Offset(20)).await.unwrap(),
        Offset(8)
    );
    assert_eq!(
        fixture.fresh().resume(&fixture.partition).await.unwrap().unwrap().next,
        Offset(8)
    );
}

#[tokio::test]
async fn the_second_commit_of_a_range_loses_and_changes_nothing() {
    let fixture = Fixture::new();
    let clicks = many_clicks(6, 0, 60);
    fixture.archive.origin(&fixture.partition, Offset(0)).await.unwrap();
    let all = batches(&fixture.stream, &fixture.partition, 0, &clicks, 7);
    // A second archiver that has seen nothing of the first one's commit.
    let zombie = fixture.fresh();
    zombie.commits(&fixture.partition).await.unwrap();
    let won = fixture.append(&all[..3]).await.unwrap();
    for rival in [zombie, fixture.archive.clone()] {
        let lost = rival
            .append(&fixture.stream, Arc::new(all[..5].to_vec()), Uuid::new_v4())
            .await
            .unwrap_err();
        assert!(
            matches!(lost, ArchiveError::Lost { first: Offset(0), winner, .. } if winner == won.attempt),
            "{lost}"
        );
    }
    let commits = fixture.fresh().commits(&fixture.partition).await.unwrap();
    assert_eq!(commits.len(), 1);
    assert_eq!(commits[0], won);
    // Neither a gap nor an overlap can be committed.
    for (from, what) in [(4, "gap"), (2, "overlap")] {
        let error = fixture.append(&all[from..]).await.unwrap_err();
        assert!(
            matches!(error, ArchiveError::Chain { what: found, .. } if found == what),
            "{error}"
        );
    }
    fixture.append(&all[3..]).await.unwrap();
}

#[tokio::test]
async fn a_lost_reply_to_a_commit_is_no_loss() {
    let fixture = Fixture::new();
    fixture.store.plan("_commits", &[Fault::LostReply]);
    fixture.archived(0, &[Click::new(0, 10, MAY_US)], 1).await;
    assert_eq!(fixture.store.faults_left(), 0);
    assert_eq!(fixture.fresh().commits(&fixture.partition).await.unwrap().len(), 1);
}

#[tokio::test]
async fn rows_that_share_an_offset_or_leave_it_are_not_committed() {
    let fixture = Fixture::new();
    fixture.archive.origin(&fixture.partition, Offset(0)).await.unwrap();
    let good = batches(
        &fixture.stream,
        &fixture.partition,
        0,
        &[Click::new(0, 10, MAY_US), Click::new(1, 10, MAY_US)],
        7,
    );
    let mut twice = good[0].clone();
    twice.dead_letters.push(letter(&Click::new(1, 10, MAY_US)));
    let mut outside = good[0].clone();
    outside.offsets.end = Offset(1);
    for wrong in [twice, outside] {
        let error = fixture.append(&[wrong]).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Encode { .. }), "{error}");
    }
    fixture.append(&good).await.unwrap();
}

#[tokio::test]
async fn another_judgement_is_refused() {
    let fixture = Fixture::new();
    fixture.archived(0, &[Click::new(0, 10, MAY_US)], 1).await;
    let mut judged = stream();
    judged.lateness_ms = Some(1);
    let more = batches(&judged, &fixture.partition, 1, &[Click::new(1, 10, MAY_US)], 7);
    let error = fixture
        .archive
        .append(&Arc::new(judged), Arc::new(more), Uuid::new_v4())
        .await
        .unwrap_err();
    assert!(matches!(error, ArchiveError::Rejudged { .. }), "{error}");
}

#[tokio::test]
async fn topics_with_odd_names_have_archives_of_their_own() {
    let fixture = Fixture::new();
    let names = ["a/b", "..", "a b", "a%2Fb", "#1", "_commits", "ключ", "date=2024-05-01"];
    for name in names {
        let mut declared = stream();
        declared.topic = name.to_owned();
        let partition = partition_of(&declared, 0);
        fixture.archive.origin(&partition, Offset(0)).await.unwrap();
        let batches = batches(&declared, &partition, 0, &[Click::new(0, 10, MAY_US)], 7);
        let declared = Arc::new(declared);
        fixture
            .archive
            .append(&declared, Arc::new(batches), Uuid::new_v4())
            .await
            .unwrap();
        let rows: Vec<_> = fixture
            .fresh()
            .rows(&declared, &partition, Offset(0)..Offset(1), &["_topic".to_owned()])
            .try_collect()
            .await
            .unwrap();
        assert_eq!(rows[0].1["_topic"].as_string::<i32>().value(0), name);
        assert!(fixture.archive.audit(&[partition]).await.unwrap().complete());
    }
}

#[tokio::test]
async fn asking_beyond_the_archive_is_an_error_not_fewer_rows() {
    let fixture = Fixture::new();
    let clicks: Vec<Click> = (10..20).map(|offset| Click::new(offset, 10, MAY_US)).collect();
    fixture.archived(10, &clicks, 1).await;
    for range in [9..12, 15..21, 0..5, 30..40] {
        let error = fixture.rows(range.clone(), &["id"]).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ArchiveError::NotCovered { .. }), "{text}");
        assert!(
            text.contains("10..20") && text.contains(&format!("{}..{}", range.start, range.end)),
            "{text}"
        );
    }
    assert!(matches!(
        fixture.rows(10..12, &["nix"]).await.unwrap_err(),
        ArchiveError::UnknownColumn { .. }
    ));
}

/// Overwrites an object, as only damage does.
async fn overwrite(store: &dyn ObjectStore, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = Path::parse(path).unwrap();
    let mut bytes = store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    change(&mut bytes);
    store.put(&path, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn damage_is_named_and_never_read_past() {
    let clicks: Vec<Click> = (0..40).map(|offset| Click::new(offset, 10, MAY_US)).collect();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage, &str); 3] = [
        ("flipped byte", |bytes| bytes[100] ^= 1, "CRC-32"),
        ("cut off", |bytes| bytes.truncate(200), "200 bytes instead of"),
        ("swapped", |bytes| *bytes = b"PAR1".to_vec(), "4 bytes instead of"),
    ];
    for (name, damage, reason) in damages {
        let fixture = Fixture::new();
        fixture.archived(0, &clicks, 2).await;
        let commits = fixture.archive.commits(&fixture.partition).await.unwrap();
        let file = &commits[1].files[0];
        overwrite(&fixture.store, &file.path, damage).await;
        let error = fixture.rows(0..40, &["id"]).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ArchiveError::Damaged { .. }), "{name}: {text}");
        assert!(
            text.contains(&file.path) && text.contains("14..=27") && text.contains(reason),
            "{name}: {text}"
        );
        let kept = kept_rows(&fixture.archive, &fixture.partition, 40, 0).await;
        assert!(kept.unwrap_err().to_string().contains(&file.path));
        let report = fixture
            .archive
            .audit(std::slice::from_ref(&fixture.partition))
            .await
            .unwrap();
        let finding = &report.partitions[0].findings[0];
        assert_eq!(finding.path.as_ref(), Some(&file.path));
        assert_eq!(finding.offsets, Some(Offset(14)..Offset(28)));
        assert!(!report.complete());
        // What does not touch the damage still reads.
        assert_eq!(offsets_of(&fixture.rows(0..14, &["_offset"]).await.unwrap()).len(), 14);
    }
}

#[tokio::test]
async fn a_missing_file_is_damage() {
    let fixture = Fixture::new();
    let clicks: Vec<Click> = (0..40).map(|offset| Click::new(offset, 10, MAY_US)).collect();
    fixture.archived(0, &clicks, 2).await;
    let path = fixture.archive.commits(&fixture.partition).await.unwrap()[1].files[0]
        .path
        .clone();
    fixture.store.delete(&Path::parse(&path).unwrap()).await.unwrap();
    let text = fixture.rows(0..40, &["id"]).await.unwrap_err().to_string();
    assert!(
        text.contains(&path) && text.contains("14..=27") && text.contains("missing"),
        "{text}"
    );
    let report = fixture
        .archive
        .audit(std::slice::from_ref(&fixture.partition))
        .await
        .unwrap();
    assert_eq!(report.partitions[0].findings[0].path, Some(path));
}

#[tokio::test]
async fn a_damaged_chain_is_named() {
    let clicks: Vec<Click> = (0..42).map(|offset| Click::new(offset, 10, MAY_US)).collect();
    let commit = |fixture: &Fixture, first: u64| {
        format!(
            "archive/clicks/_commits/{}/3/{first:020}.json",
            fixture.partition.incarnation
        )
    };
    let edit = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *bytes = text.replace(from, to).into_bytes();
        }
    };

    // A hole: the second of three commits is gone.
    let fixture = Fixture::new();
    fixture.archived(0, &clicks, 2).await;
    let gone = Path::parse(commit(&fixture, 14)).unwrap();
    fixture.store.delete(&gone).await.unwrap();
    let error = fixture.rows(0..42, &["id"]).await.unwrap_err();
    assert!(
        matches!(
            error,
            ArchiveError::Chain {
                what: "gap",
                ends: Offset(14),
                begins: Offset(28),
                ..
            }
        ),
        "{error}"
    );
    let report = fixture
        .archive
        .audit(std::slice::from_ref(&fixture.partition))
        .await
        .unwrap();
    assert_eq!(report.partitions[0].findings[0].offsets, Some(Offset(14)..Offset(28)));

    // An overlap, an unknown version, a record under another's name, rubbish.
    type Edit = Box<dyn Fn(&mut Vec<u8>)>;
    let edits: [(Edit, &str); 5] = [
        (
            Box::new(edit(r#""end":28"#, r#""end":29"#)),
            "overlap: a commit ends at 29, the next begins at 28",
        ),
        (Box::new(edit(r#""version":1"#, r#""version":2"#)), "format version 2"),
        (Box::new(edit(r#""start":14"#, r#""start":13"#)), "begins at offset 13"),
        (Box::new(edit(r#""first_tick""#, r#""first_tock""#)), "first_tock"),
        (Box::new(|bytes: &mut Vec<u8>| bytes.clear()), "not a record"),
    ];
    for (edit, reason) in edits {
        let fixture = Fixture::new();
        fixture.archived(0, &clicks, 2).await;
        let path = commit(&fixture, 14);
        overwrite(&fixture.store, &path, |bytes| edit(bytes)).await;
        let error = fixture.fresh().resume(&fixture.partition).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(reason), "{text}");
        assert!(
            matches!(error, ArchiveError::Chain { .. }) || text.contains(&path),
            "{text}"
        );
        assert!(
            !fixture
                .archive
                .audit(std::slice::from_ref(&fixture.partition))
                .await
                .unwrap()
                .complete()
        );
    }
}

#[tokio::test]
async fn a_commit_that_lies_about_its_offsets_is_found_by_the_audit() {
    let fixture = Fixture::new();
    let clicks: Vec<Click> = [0, 1, 4, 5].map(|offset| Click::new(offset, 10, MAY_US)).to_vec();
    fixture.archived(0, &clicks, 2).await;
    let path = format!(
        "archive/clicks/_commits/{}/3/{:020}.json",
        fixture.partition.incarnation, 0
    );
    for (from, to, what, offsets) in [
        (
            r#""holes":[{"start":2,"end":4}]"#,
            r#""holes":[{"start":2,"end":3}]"#,
            "missing",
            3..4,
        ),
        (
            r#""holes":[{"start":2,"end":3}]"#,
            r#""holes":[{"start":1,"end":4}]"#,
            "twice",
            1..2,
        ),
    ] {
        overwrite(&fixture.store, &path, |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{text}");
            *bytes = text.replace(from, to).into_bytes();
        })
        .await;
        let report = fixture
            .archive
            .audit(std::slice::from_ref(&fixture.partition))
            .await
            .unwrap();
        let finding = &report.partitions[0].findings[0];
        assert_eq!(
            finding.offsets,
            Some(Offset(offsets.start)..Offset(offsets.end)),
            "{report:?}"
        );
        assert!(finding.what.contains(what), "{report:?}");
    }
}

#[tokio::test]
async fn a_whole_file_with_other_rows_than_its_commit_says_is_damage() {
    let fixture = Fixture::new();
    let clicks: Vec<Click> = (0..5).map(|offset| Click::new(offset, 10, MAY_US)).collect();
    fixture.archived(0, &clicks, 1).await;
    let path = format!(
        "archive/clicks/_commits/{}/3/{:020}.json",
        fixture.partition.incarnation, 0
    );
    overwrite(&fixture.store, &path, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace(r#""rows":5"#, r#""rows":6"#).into_bytes();
    })
    .await;
    let error = fixture.rows(0..5, &["id"]).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("5 rows instead of 6"), "{error}");
    assert!(
        !fixture
            .archive
            .audit(std::slice::from_ref(&fixture.partition))
            .await
            .unwrap()
            .complete()
    );
}

#[tokio::test]
async fn commits_are_seen_by_archives_that_have_read_before() {
    let fixture = Fixture::new();
    let clicks = many_clicks(8, 0, 60);
    fixture.archive.origin(&fixture.partition, Offset(0)).await.unwrap();
    let reader = fixture.fresh();
    let all = batches(&fixture.stream, &fixture.partition, 0, &clicks, 7);
    for (index, batch) in all.iter().enumerate() {
        fixture.append(std::slice::from_ref(batch)).await.unwrap();
        let commits = reader.commits(&fixture.partition).await.unwrap();
        assert_eq!(commits.len(), index + 1);
        assert_eq!(
            reader.resume(&fixture.partition).await.unwrap().unwrap().next,
            batch.offsets.end
        );
    }
}

async fn kept_rows(
    archive: &Archive,
    partition: &TopicPartition,
    until: u64,
    since: i64,
) -> Result<Vec<RecordBatch>, HorizonError> {
    let mut kept = Vec::new();
    let mut take = |rows: &RecordBatch| {
        kept.push(rows.clone());
        Ok(())
    };
    let (until, since) = (Offset(until), RecordTime(since));
    archive
        .kept_rows(partition, until, since, &["id".to_owned()], &mut take)
        .await?;
    Ok(kept)
}

#[tokio::test]
async fn the_horizon_is_what_was_kept() {
    let fixture = Fixture::new();
    let clicks = many_clicks(9, 100, 300);
    fixture.archived(100, &clicks, 3).await;
    let end = clicks.last().unwrap().offset + 1;
    for (until, since) in [(end, 0), (end, 90_000), (250, 60_000), (end, i64::MAX), (100, 0)] {
        let kept = kept_rows(&fixture.fresh(), &fixture.partition, until, since)
            .await
            .unwrap();
        let found: Vec<(String, i64)> = kept
            .iter()
            .flat_map(|rows| {
                assert_eq!(rows.num_columns(), 2);
                let times = rows["_record_time_max"].as_primitive::<Int64Type>();
                let ids = rows["id"].as_string::<i32>();
                (0..rows.num_rows())
                    .map(|row| (ids.value(row).to_owned(), times.value(row)))
                    .collect::<Vec<_>>()
            })
            .collect();
        let expected: Vec<(String, i64)> = clicks
            .iter()
            .filter(|click| !click.malformed && !click.duplicate)
            .filter(|click| click.offset < until && click.record_time >= since)
            .map(|click| (click.id(), click.record_time))
            .collect();
        assert_eq!(found, expected, "until {until}, since {since}");
    }
    for since in [0, i64::MAX] {
        kept_rows(&fixture.fresh(), &fixture.partition, end + 1, since)
            .await
            .unwrap_err();
    }
}

#[tokio::test]
async fn columns_declared_later_are_read_out_of_the_bytes() {
    let mut fixture = Fixture::new();
    let clicks = many_clicks(10, 0, 60);
    fixture.archived(0, &clicks, 5).await;
    let end = clicks.last().unwrap().offset + 1;
    let mut declared = stream();
    // A new column; one that was never sent; and another type for an old one.
    declared.columns.insert(1, column("extra", DataType::Utf8, true));
    declared.columns.push(column("never", DataType::Int64, true));
    declared.columns[3].data_type = DataType::Utf8;
    fixture.stream = Arc::new(declared);
    for range in [0..end, 20..40] {
        let rows = fixture
            .rows(range, &["never", "extra", "_offset", "amount", "id"])
            .await
            .unwrap();
        assert!(!rows.is_empty());
        for (_, rows) in &rows {
            assert_eq!(rows["never"].null_count(), rows.num_rows());
            for row in 0..rows.num_rows() {
                let offset = rows["_offset"].as_primitive::<Int64Type>().value(row);
                assert_eq!(rows["extra"].as_string::<i32>().value(row), format!("x{offset}"));
                assert_eq!(rows["amount"].as_string::<i32>().value(row), offset.to_string());
                assert_eq!(rows["id"].as_string::<i32>().value(row), format!("click-{offset}"));
            }
        }
    }
}

#[tokio::test]
async fn columns_declared_later_are_null_where_no_bytes_are_kept() {
    let mut declared = stream();
    declared.archive_raw = false;
    let mut fixture = Fixture::of(declared.clone());
    fixture.archived(0, &many_clicks(11, 0, 30), 5).await;
    let end = fixture
        .archive
        .resume(&fixture.partition)
        .await
        .unwrap()
        .unwrap()
        .next
        .0;
    declared.columns.push(column("extra", DataType::Utf8, true));
    fixture.stream = Arc::new(declared.clone());
    let rows = fixture.rows(0..end, &["extra", "amount"]).await.unwrap();
    for (_, rows) in &rows {
        assert_eq!(rows["extra"].null_count(), rows.num_rows());
        assert_eq!(rows["amount"].null_count(), 0);
    }
    // Another type is not another column: what was archived cannot become it.
    declared.columns[2].data_type = DataType::Utf8;
    fixture.stream = Arc::new(declared);
    let text = fixture.rows(0..end, &["amount"]).await.unwrap_err().to_string();
    assert!(
        text.contains("\"amount\" was archived as Int64 and is now declared Utf8"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "prints figures"]
async fn figures_of_600_byte_events() {
    let mut random = StdRng::seed_from_u64(1);
    let text: String = (0..600).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
    let clicks: Vec<Click> = (0..200_000).map(|offset| Click::new(offset, 10, MAY_US)).collect();
    let fixture = Fixture::new();
    let mut all = batches(&fixture.stream, &fixture.partition, 0, &clicks, 2000);
    let mut raw_bytes = 0;
    for batch in &mut all {
        let raws: arrow::array::BinaryArray = (0..batch.rows.num_rows())
            .map(|_| {
                // Field names and a few words repeat, ids and numbers do not: some 600 bytes.
                let (from, number) = (random.random_range(0..500), random.random::<u64>());
                let mut json = format!(
                    r#"{{"id":"{number:016x}","user_id":"u{}","product":"p{}","price":{},"text":"{}","#,
                    random.random_range(0..100_000),
                    random.random_range(0..5000),
                    random.random_range(100..99_999),
                    &text[from..from + 100]
                );
                while json.len() < 590 {
                    json.push_str(&format!(
                        r#""field_{}":"{:x}","#,
                        json.len() / 40,
                        random.random::<u32>()
                    ));
                }
                Some(json.into_bytes())
            })
            .collect();
        batch.raw_bytes = raws.value_data().len();
        raw_bytes += batch.raw_bytes;
        let mut columns = batch.rows.columns().to_vec();
        *columns.last_mut().unwrap() = Arc::new(raws);
        batch.rows = RecordBatch::try_new(batch.rows.schema(), columns).unwrap();
    }
    fixture.archive.origin(&fixture.partition, Offset(0)).await.unwrap();
    let started = std::time::Instant::now();
    let commit = fixture.append(&all).await.unwrap();
    let write = started.elapsed().as_secs_f64();
    let started = std::time::Instant::now();
    let rows = fixture.rows(0..200_000, &["amount", "id"]).await.unwrap();
    let read = started.elapsed().as_secs_f64();
    assert_eq!(rows.iter().map(|(_, rows)| rows.num_rows()).sum::<usize>(), 200_000);
    println!(
        "archived {:.0} MB/s of JSON ({:.1} MB to {:.1} MB), read back {:.0} k rows/s",
        raw_bytes as f64 / 1e6 / write,
        raw_bytes as f64 / 1e6,
        commit.files[0].bytes as f64 / 1e6,
        200.0 / read
    );
}
