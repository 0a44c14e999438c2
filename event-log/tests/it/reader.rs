//! What a reader hands out: columns, boundaries, ends, and errors where the log breaks its promises.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use foldline_event_log::{
    DeadLetter, EmbeddedLog, EmbeddedSettings, EventBatch, EventLog, ManualClock, MarkState, NewRecord, NoHorizon,
    Offset, Progress, ReadError, ReaderStart, RecordTime, Records, Span, StreamReader, Tick,
};
use foldline_sql::Stream;

use crate::scripted::{Record, ScriptedLog, clicks, column, partition, record, records_of, stream};

fn plain() -> Stream {
    stream(vec![
        column("a", DataType::Int32, true),
        column("b", DataType::Utf8, true),
        column("c", DataType::Int32, true),
    ])
}

async fn open(log: &Arc<ScriptedLog>, stream: Stream, columns: &[&str], raw: bool) -> StreamReader {
    let start = ReaderStart {
        next: Offset(0),
        marks: MarkState::default(),
    };
    open_at(log, stream, columns, raw, start).await.unwrap()
}

async fn open_at(
    log: &Arc<ScriptedLog>,
    stream: Stream,
    columns: &[&str],
    raw: bool,
    start: ReaderStart,
) -> Result<StreamReader, ReadError> {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let log: Arc<dyn EventLog> = Arc::<ScriptedLog>::clone(log);
    StreamReader::open(log, Arc::new(stream), partition(), start, &columns, raw, 10, &NoHorizon).await
}

async fn batch(reader: &mut StreamReader) -> EventBatch {
    match reader.next(100, Duration::ZERO).await.unwrap() {
        Progress::Batch(batch) => batch,
        end @ Progress::End { .. } => panic!("{end:?} where a batch must follow"),
    }
}

async fn end(reader: &mut StreamReader) -> (RecordTime, Offset) {
    match reader.next(100, Duration::ZERO).await.unwrap() {
        Progress::End { complete_to, end } => (complete_to, end),
        Progress::Batch(batch) => panic!("{batch:?} where the end must follow"),
    }
}

fn names(batch: &EventBatch) -> Vec<String> {
    let schema = batch.rows.schema();
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

const SYSTEM: [&str; 8] = [
    "_topic",
    "_partition",
    "_offset",
    "_record_time",
    "_key",
    "_late",
    "_duplicate",
    "_record_time_max",
];

#[tokio::test]
async fn rows_have_the_asked_the_judging_and_the_system_columns() {
    let mut first = record(3, 1000, r#"{"user":7,"id":"x","at":1704067200000,"more":1}"#);
    first.key = Some(b"key".to_vec());
    let second = record(4, 999, r#"{"user":"?","id":"y","at":1704067200000}"#);
    let raw_bytes = 3 + first.value.as_ref().unwrap().len() + second.value.as_ref().unwrap().len();
    let log = Arc::new(ScriptedLog::new(vec![first.clone(), second], 9));

    let mut reader = open(&log, clicks(None, 0, Some(5)), &["user", "_offset", "at"], true).await;
    let batch = batch(&mut reader).await;
    let mut expected = vec!["id", "user", "at"];
    expected.extend(SYSTEM);
    expected.push("_raw");
    assert_eq!(names(&batch), expected);
    let table = clicks(None, 0, Some(5)).table_schema();
    assert_eq!(batch.rows.schema().fields()[..10], table.fields()[..]);
    assert_eq!(
        batch.offsets,
        Offset(0)..Offset(5),
        "the hole before a record is its batch's"
    );
    assert_eq!(batch.tick, Tick(1000));
    assert_eq!(batch.nulled, [("user".to_owned(), 1)]);
    assert_eq!(batch.raw_bytes, raw_bytes);
    let rows = &batch.rows;
    assert_eq!(rows["_topic"].as_string::<i32>().value(1), "clicks");
    assert_eq!(rows["_partition"].as_primitive::<Int32Type>().values(), &[0, 0]);
    assert_eq!(rows["_offset"].as_primitive::<Int64Type>().values(), &[3, 4]);
    let times = rows["_record_time"].as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.values(), &[1_000_000, 999_000], "the raw timestamp");
    assert_eq!(
        rows["_record_time_max"].as_primitive::<Int64Type>().values(),
        &[1000, 1000]
    );
    assert_eq!(
        rows["_key"].as_binary::<i32>().iter().collect::<Vec<_>>(),
        [Some(&b"key"[..]), None]
    );
    assert_eq!(rows["_raw"].as_binary::<i32>().value(0), first.value.unwrap());

    let mut reader = open(&log, clicks(None, 0, None), &[], false).await;
    let judging = self::batch(&mut reader).await;
    assert_eq!(names(&judging)[..2], ["at", "_topic"]);
    assert_eq!(judging.nulled, [], "only asked columns are counted");
    let mut reader = open(&log, plain(), &["c", "a"], false).await;
    assert_eq!(names(&self::batch(&mut reader).await)[..3], ["a", "c", "_topic"]);
}

#[tokio::test]
async fn an_unknown_column_is_refused() {
    let log = Arc::new(ScriptedLog::new(Vec::new(), 0));
    let start = ReaderStart {
        next: Offset(0),
        marks: MarkState::default(),
    };
    let refused = open_at(&log, plain(), &["nope"], false, start).await.unwrap_err();
    assert!(refused.to_string().contains(r#"no column "nope""#), "{refused}");
}

#[tokio::test]
async fn batches_never_cross_a_tick_and_dead_letters_and_nulls_stay_with_theirs() {
    let log = Arc::new(ScriptedLog::new(
        vec![
            record(0, 101, r#"{"a":"x"}"#),
            record(1, 109, "broken"),
            record(4, 110, "broken too"),
            record(5, 105, r#"{"a":"y"}"#),
            record(6, 1000, r#"{"a":1}"#),
            record(7, 1001, r#"{"a":"z"}"#),
        ],
        10,
    ));
    let mut reader = open(&log, plain(), &["a"], true).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let batch = batch(&mut reader).await;
        let letters: Vec<u64> = batch.dead_letters.iter().map(|letter| letter.offset.0).collect();
        let offsets = batch.rows["_offset"].as_primitive::<Int64Type>().values().to_vec();
        let nulled = batch.nulled.first().map_or(0, |(_, count)| *count);
        assert_eq!(batch.rows["_raw"].len(), offsets.len());
        seen.push((batch.offsets, batch.tick.0, offsets, letters, nulled));
    }
    assert_eq!(
        seen,
        [
            (Offset(0)..Offset(2), 100, vec![0], vec![1], 1),
            (Offset(2)..Offset(6), 110, vec![5], vec![4], 1),
            (Offset(6)..Offset(8), 1000, vec![6, 7], vec![], 1),
        ]
    );
    assert_eq!(
        end(&mut reader).await,
        (RecordTime(1000).max(log.complete_to()), Offset(10))
    );
}

#[tokio::test]
async fn a_dead_letter_carries_everything() {
    let bad = Record {
        offset: 7,
        timestamp_ms: 55,
        key: Some(b"k".to_vec()),
        value: Some(b"\xffnot json".to_vec()),
    };
    let tombstone = Record {
        offset: 8,
        timestamp_ms: 56,
        key: None,
        value: None,
    };
    let log = Arc::new(ScriptedLog::new(vec![bad, tombstone], 9));
    let mut reader = open(&log, plain(), &["a"], false).await;
    let batch = batch(&mut reader).await;
    assert_eq!(batch.rows.num_rows(), 0);
    assert_eq!(
        batch.marks.record_time,
        Some(RecordTime(56)),
        "malformed records move the record time"
    );
    assert_eq!(batch.marks.max_event_time, None, "and nothing else");
    let reasons = [
        "not one JSON object: invalid utf-8 sequence of 1 bytes from index 0",
        "the record has no value (a tombstone)",
    ];
    assert_eq!(
        batch.dead_letters,
        [
            DeadLetter {
                offset: Offset(7),
                timestamp_ms: 55,
                key: Some(Bytes::from_static(b"k")),
                raw: Bytes::from_static(b"\xffnot json"),
                reason: reasons[0].to_owned(),
            },
            DeadLetter {
                offset: Offset(8),
                timestamp_ms: 56,
                key: None,
                raw: Bytes::new(),
                reason: reasons[1].to_owned(),
            },
        ]
    );
}

#[tokio::test]
async fn the_end_is_told_after_the_last_record_and_after_waiting_in_vain() {
    let log = Arc::new(ScriptedLog::new(vec![record(0, 100, "{}"), record(1, 101, "{}")], 2));
    let mut reader = open(&log, plain(), &[], false).await;
    // One record at a time: the log has not ended after the first one.
    for offset in 1..3 {
        let progress = reader.next(1, Duration::ZERO).await.unwrap();
        assert!(matches!(progress, Progress::Batch(batch) if batch.offsets.end == Offset(offset)));
    }
    assert_eq!(end(&mut reader).await, (RecordTime(101), Offset(2)));
    assert_eq!(end(&mut reader).await, (RecordTime(101), Offset(2)));
    log.records.lock().unwrap().push(record(5, 102, "{}"));
    *log.end.lock().unwrap() = 6;
    assert_eq!(batch(&mut reader).await.offsets, Offset(2)..Offset(6));
    assert_eq!(end(&mut reader).await, (RecordTime(102), Offset(6)));
}

#[tokio::test]
async fn a_trailing_hole_belongs_to_the_batch_after_it() {
    let log = Arc::new(ScriptedLog::new(vec![record(0, 100, "{}")], 5));
    let mut reader = open(&log, plain(), &[], false).await;
    assert_eq!(batch(&mut reader).await.offsets, Offset(0)..Offset(1));
    assert_eq!(end(&mut reader).await.1, Offset(5));
    log.records.lock().unwrap().push(record(5, 100, "{}"));
    *log.end.lock().unwrap() = 6;
    assert_eq!(batch(&mut reader).await.offsets, Offset(1)..Offset(6));
}

#[tokio::test]
async fn a_dropped_call_loses_nothing() {
    let records: Vec<Record> = (0..20).map(|offset| record(offset, 100, "{}")).collect();
    let log = Arc::new(ScriptedLog::new(records, 20));
    let mut reader = open(&log, plain(), &[], false).await;
    let mut next = Offset(0);
    while next != Offset(20) {
        // Polls once and drops: the log yields before it answers.
        let dropped = futures::FutureExt::now_or_never(reader.next(3, Duration::ZERO));
        assert!(dropped.is_none() || next > Offset(0), "nothing is ready at first");
        let progress = match dropped {
            Some(progress) => progress,
            None => reader.next(3, Duration::ZERO).await,
        };
        if let Progress::Batch(batch) = progress.unwrap() {
            assert_eq!(batch.offsets.start, next);
            next = batch.offsets.end;
        }
    }
}

fn lie(offsets: &[u64], next: u64, end: u64) -> Records {
    let records: Vec<Record> = offsets.iter().map(|offset| record(*offset, 100, "{}")).collect();
    let span = Span {
        earliest: Offset(0),
        end: Offset(end),
        complete_to: RecordTime(0),
    };
    records_of(&records, next, span)
}

#[tokio::test]
async fn records_that_do_not_follow_are_an_error() {
    for (offsets, next, end, found) in [
        (&[4][..], 5, 9, "a record at 4 where 5 or later must follow"),
        (&[5, 7, 6], 8, 9, "a record at 6 where 8 or later must follow"),
        (&[5, 5], 6, 9, "a record at 5 where 6 or later must follow"),
        (&[5, 6], 6, 9, "records until 7, to go on at 6"),
        (&[5], 10, 9, "to go on at 10, of a log that ends at 9"),
        (&[], 4, 9, "records until 5, to go on at 4"),
        (&[], 3, 3, "records until 5, to go on at 3"),
    ] {
        let log = Arc::new(ScriptedLog::new(vec![record(5, 100, "{}")], 6));
        log.lies.lock().unwrap().push(lie(offsets, next, end));
        let start = ReaderStart {
            next: Offset(5),
            marks: MarkState::default(),
        };
        let mut reader = open_at(&log, plain(), &[], false, start).await.unwrap();
        let error = reader.next(10, Duration::ZERO).await.unwrap_err();
        assert!(
            matches!(&error, ReadError::Disorder { asked: Offset(5), .. }),
            "{error}"
        );
        assert!(error.to_string().contains(found), "{error}");
        // The lie changed nothing.
        assert_eq!(batch(&mut reader).await.offsets, Offset(5)..Offset(6));
    }
}

#[tokio::test]
async fn a_log_that_has_more_but_gives_nothing_is_an_error_in_the_end() {
    let log = Arc::new(ScriptedLog::new(vec![record(0, 100, "{}")], 1));
    // A few times are the race of an append with the end of the wait.
    log.lies.lock().unwrap().extend([lie(&[], 0, 1), lie(&[], 0, 1)]);
    let mut reader = open(&log, plain(), &[], false).await;
    assert_eq!(batch(&mut reader).await.offsets, Offset(0)..Offset(1));
    assert_eq!(end(&mut reader).await.1, Offset(1));
    log.lies
        .lock()
        .unwrap()
        .extend(std::iter::repeat_n(lie(&[], 1, 2), 100));
    let error = reader.next(10, Duration::ZERO).await.unwrap_err();
    assert!(
        error.to_string().contains("nothing, though the log ends at 2"),
        "{error}"
    );
}

#[tokio::test]
async fn a_known_hole_moves_the_place_to_read_but_not_the_boundary() {
    let log = Arc::new(ScriptedLog::new(vec![record(8, 100, "{}")], 9));
    log.lies.lock().unwrap().push(lie(&[], 6, 9));
    let mut reader = open(&log, plain(), &[], false).await;
    assert_eq!(batch(&mut reader).await.offsets, Offset(0)..Offset(9));
}

#[tokio::test]
async fn reads_the_embedded_log() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_704_067_200_000);
    let log = EmbeddedLog::open(EmbeddedSettings::new(folder.path()), Arc::new(clock.clone())).unwrap();
    let topic = log.ensure_topic("clicks", 1).await.unwrap();
    for run in 0..3 {
        let events = (0..100).map(|event| NewRecord {
            key: None,
            value: Bytes::from(match event {
                50 => "broken".to_owned(),
                _ => format!(r#"{{"id":"{run}/{event}","user":{event},"at":1704067200000}}"#),
            }),
            headers: Vec::new(),
        });
        log.append("clicks", events.collect(), None).await.unwrap();
        clock.advance(1000);
    }
    let end = log.span(&topic.partition(0)).await.unwrap().end;
    let start = ReaderStart {
        next: Offset(0),
        marks: MarkState::default(),
    };
    let stream = Arc::new(clicks(Some(1000), 1000, Some(60_000)));
    let shared: Arc<dyn EventLog> = Arc::<EmbeddedLog>::clone(&log);
    let columns = ["user".to_owned()];
    let mut reader = StreamReader::open(
        shared,
        stream,
        topic.partition(0),
        start,
        &columns,
        true,
        1000,
        &NoHorizon,
    )
    .await
    .unwrap();
    let (mut rows, mut letters, mut next) = (0, 0, Offset(0));
    loop {
        match reader.next(1000, Duration::ZERO).await.unwrap() {
            Progress::Batch(batch) => {
                assert_eq!(batch.offsets.start, next);
                next = batch.offsets.end;
                rows += batch.rows.num_rows();
                letters += batch.dead_letters.len();
            }
            Progress::End { end: told, .. } => {
                assert_eq!((told, next), (end, end));
                break;
            }
        }
    }
    assert_eq!((rows, letters), (297, 3));
    assert!(reader.horizon_bytes() >= 297 * size_of::<u128>());
    log.close();
}
