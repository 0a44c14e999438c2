//! Late and duplicate rows against a plain loop over the records, across reads, batches and restarts.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use foldline_event_log::marks::Marks;
use foldline_event_log::{
    EventBatch, Horizon, HorizonError, KeysOnDisk, MarkState, Offset, Progress, ReaderStart, RecordTime, StreamReader,
    TakeKept, Tick, TopicPartition,
};
use foldline_sql::Stream;
use proptest::prelude::*;

use crate::scripted::{Record, ScriptedLog, clicks, partition};

/// A record of a random log: malformed, or an event time and a key.
#[derive(Debug, Clone)]
struct Sample {
    hole: u64,
    step_ms: i64,
    click: Option<(i64, u8)>,
}

/// What the plain loop says of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    offset: u64,
    record_time: i64,
    max_event_time: Option<i64>,
    /// Late, duplicate; `None` for a malformed record.
    marks: Option<(bool, bool)>,
}

/// 2024-01-01, milliseconds.
const START_MS: i64 = 1_704_067_200_000;

fn log_of(samples: &[Sample]) -> (Vec<Record>, Vec<Option<(i64, u8)>>) {
    let (mut offset, mut now) = (0, START_MS);
    let mut records = Vec::new();
    for sample in samples {
        offset += sample.hole;
        now += sample.step_ms;
        let value = match sample.click {
            Some((at, id)) => format!(r#"{{"at":{},"id":"{id}","user":1}}"#, START_MS + at),
            None => r#"{"id":"1"}"#.to_owned(),
        };
        records.push(Record {
            offset,
            timestamp_ms: now,
            key: (offset % 3 == 0).then(|| b"k".to_vec()),
            value: Some(value.into_bytes()),
        });
        offset += 1;
    }
    (records, samples.iter().map(|sample| sample.click).collect())
}

/// Design D4, word by word, in quadratic time.
fn oracle(stream: &Stream, records: &[Record], clicks: &[Option<(i64, u8)>]) -> Vec<Expected> {
    let record_time = |until: usize| {
        records[..=until]
            .iter()
            .map(|record| record.timestamp_ms)
            .max()
            .unwrap()
    };
    let clamped = |record: usize| {
        let (at, _) = clicks[record]?;
        Some((START_MS + at).min(record_time(record) + stream.max_skew_ms))
    };
    let mut kept: Vec<(u8, i64)> = Vec::new();
    let mut expected = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let now = record_time(index);
        let marks = clicks[index].map(|(at, id)| {
            let largest_before = (0..index).filter_map(clamped).max();
            let late = match (stream.lateness_ms, largest_before) {
                (Some(lateness), Some(largest)) => START_MS + at < largest - lateness,
                _ => false,
            };
            let within = stream.unique.as_ref().map(|unique| unique.within_ms);
            let repeats = |(key, then): &(u8, i64)| within.is_some_and(|within| *key == id && now - then < within);
            let duplicate = kept.iter().any(repeats);
            if !duplicate {
                kept.push((id, now));
            }
            (late, duplicate)
        });
        expected.push(Expected {
            offset: record.offset,
            record_time: now,
            max_event_time: (0..=index).filter_map(clamped).max().map(|time| time * 1000),
            marks,
        });
    }
    expected
}

/// Keeps the rows of earlier batches, as the archive does.
#[derive(Debug)]
struct Kept {
    batches: Vec<EventBatch>,
    narrow: bool,
    /// Most keys lie on disk.
    on_disk: bool,
}

#[async_trait]
impl Horizon for Kept {
    async fn kept_rows(
        &self,
        _partition: &TopicPartition,
        until: Offset,
        since: RecordTime,
        columns: &[String],
        take: TakeKept<'_>,
    ) -> Result<(), HorizonError> {
        for batch in &self.batches {
            assert!(batch.offsets.end <= until, "the reader asks below its start");
            let mask = not(batch.rows["_duplicate"].as_boolean())?;
            let rows = filter_record_batch(&batch.rows, &mask)?;
            let times = rows["_record_time_max"].as_primitive::<Int64Type>();
            let recent = times.iter().map(|time| Some(time.unwrap() >= since.0)).collect();
            let rows = if self.narrow {
                filter_record_batch(&rows, &recent)?
            } else {
                rows
            };
            let mut wanted: Vec<&str> = columns.iter().map(String::as_str).collect();
            wanted.push("_record_time_max");
            let indices: Vec<usize> = wanted
                .iter()
                .map(|name| rows.schema().index_of(name).unwrap())
                .collect();
            take(&rows.project(&indices)?)?;
        }
        Ok(())
    }

    fn keys_on_disk(&self) -> Option<KeysOnDisk> {
        let folder = std::env::temp_dir();
        self.on_disk.then_some(KeysOnDisk {
            folder,
            keys_in_memory: 2,
        })
    }
}

const CUT_EVERY_MS: i64 = 10;

/// Reads from `start` to the end, `reads` records at a time.
async fn read_all(
    stream: &Stream,
    records: &[Record],
    start: ReaderStart,
    kept: &Kept,
    reads: usize,
) -> Vec<EventBatch> {
    let end = records.last().map_or(5, |record| record.offset + 3);
    let log = Arc::new(ScriptedLog::new(records.to_vec(), end));
    let mut reader = StreamReader::open(
        log,
        Arc::new(stream.clone()),
        partition(),
        start,
        &[],
        false,
        CUT_EVERY_MS,
        kept,
    )
    .await
    .unwrap();
    let mut batches = Vec::new();
    loop {
        match reader.next(reads, Duration::ZERO).await.unwrap() {
            Progress::Batch(batch) => batches.push(batch),
            Progress::End { end: told, .. } => {
                assert_eq!(told, Offset(end));
                return batches;
            }
        }
    }
}

/// Checks batches against the oracle, and their boundaries; returns where each one ends.
fn agree(expected: &[Expected], batches: &[EventBatch], start: u64) {
    let mut next = Offset(start);
    let mut left = expected;
    for batch in batches {
        assert_eq!(batch.offsets.start, next, "batches follow each other");
        let here = left.partition_point(|expected| expected.offset < batch.offsets.end.0);
        let (here, rest) = left.split_at(here);
        left = rest;
        next = batch.offsets.end;
        let last = here.last().expect("a batch has records");
        assert_eq!(next, Offset(last.offset + 1), "a batch ends one past its last record");
        for expected in here {
            assert_eq!(Tick::at(RecordTime(expected.record_time), CUT_EVERY_MS), batch.tick);
        }
        let state = MarkState {
            record_time: Some(RecordTime(last.record_time)),
            max_event_time: last.max_event_time,
        };
        assert_eq!(batch.marks, state);
        let good: Vec<&Expected> = here.iter().filter(|expected| expected.marks.is_some()).collect();
        let offsets: Vec<i64> = batch.rows["_offset"].as_primitive::<Int64Type>().values().to_vec();
        let flags = |name: &str| -> Vec<bool> { batch.rows[name].as_boolean().iter().map(Option::unwrap).collect() };
        let (late, duplicate) = (flags("_late"), flags("_duplicate"));
        let times = batch.rows["_record_time_max"].as_primitive::<Int64Type>();
        assert_eq!(offsets.len(), good.len());
        for (row, expected) in good.iter().enumerate() {
            assert_eq!(offsets[row], i64::try_from(expected.offset).unwrap());
            assert_eq!(times.value(row), expected.record_time);
            assert_eq!(
                Some((late[row], duplicate[row])),
                expected.marks,
                "offset {}",
                expected.offset
            );
        }
        let letters: Vec<u64> = batch.dead_letters.iter().map(|letter| letter.offset.0).collect();
        let bad = here.iter().filter(|expected| expected.marks.is_none());
        assert_eq!(letters, bad.map(|expected| expected.offset).collect::<Vec<_>>());
    }
    assert_eq!(left, [], "every record is in a batch");
}

fn sample() -> impl Strategy<Value = Sample> {
    let click = prop_oneof![1 => Just(None), 6 => (-60..60_i64, 0..4_u8).prop_map(Some)];
    // Timestamps mostly rise, sometimes stand, sometimes go back.
    let step_ms = prop_oneof![3 => 0..6_i64, 1 => Just(0), 1 => -12..30_i64];
    let hole = prop_oneof![4 => Just(0_u64), 1 => 1..4_u64];
    (hole, step_ms, click).prop_map(|(hole, step_ms, click)| Sample { hole, step_ms, click })
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn marks_are_those_of_the_plain_loop(
        samples in proptest::collection::vec(sample(), 1..40),
        lateness in proptest::option::of(0..40_i64),
        skew in 0..30_i64,
        within in proptest::option::of(1..40_i64),
        reads in 1..12_usize,
        restart in any::<proptest::sample::Index>(),
        narrow in any::<bool>(),
        on_disk in any::<bool>(),
    ) {
        let stream = clicks(lateness, skew, within);
        let (records, truth) = log_of(&samples);
        let expected = oracle(&stream, &records, &truth);
        let none = Kept { batches: Vec::new(), narrow, on_disk };
        let origin = ReaderStart { next: Offset(0), marks: MarkState::default() };
        let whole = block_on(read_all(&stream, &records, origin, &none, reads));
        agree(&expected, &whole, 0);

        // Stop after any batch and go on with nothing but its state and the kept rows.
        let stop = restart.index(whole.len());
        let start = ReaderStart { next: whole[stop].offsets.end, marks: whole[stop].marks };
        let from = start.next;
        let kept = Kept { batches: whole[..=stop].to_vec(), narrow, on_disk };
        let rest = block_on(read_all(&stream, &records, start, &kept, reads * 2));
        let left: Vec<Expected> = expected.into_iter().filter(|expected| expected.offset >= from.0).collect();
        agree(&left, &rest, from.0);
    }
}

#[test]
fn the_example_of_the_module() {
    let stream = clicks(Some(10_000), 5_000, Some(60_000));
    let mut marks = Marks::new(&stream, MarkState::default(), None);
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "a", "a"]));
    let seconds = |values: &[i64]| -> Vec<i64> { values.iter().map(|value| value * 1000).collect() };
    let event_times: Vec<i64> = seconds(&seconds(&[98, 500, 95, 96]));
    let judged = marks
        .judge(
            &seconds(&[100, 101, 102, 160]),
            &[0, 1, 2, 3],
            Some(&event_times),
            &[ids],
        )
        .unwrap();
    assert_eq!(judged.late, [false, false, true, false]);
    assert_eq!(judged.duplicate, [false, false, true, false]);
    assert_eq!(marks.state().max_event_time, Some(106_000_000));
    assert!(marks.horizon_bytes() > 0);
}

#[test]
fn without_event_time_the_record_time_is_the_event_time() {
    let stream = Stream {
        event_time: None,
        ..clicks(None, 5, None)
    };
    let mut marks = Marks::new(&stream, MarkState::default(), None);
    let judged = marks.judge(&[100, 90, 110], &[0, 1, 2], None, &[]).unwrap();
    assert_eq!(judged.record_times, [100, 100, 110]);
    assert_eq!(judged.max_event_times, [Some(100_000), Some(100_000), Some(110_000)]);
}

#[test]
fn timestamps_at_the_ends_of_their_range_do_not_overflow() {
    let stream = clicks(Some(i64::MAX), i64::MAX, Some(i64::MAX));
    let mut marks = Marks::new(&stream, MarkState::default(), None);
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a", "a"]));
    let times = [i64::MIN / 1000, i64::MAX / 1000];
    let judged = marks
        .judge(&[i64::MIN, i64::MAX], &[0, 1], Some(&times), &[ids])
        .unwrap();
    assert_eq!(judged.late, [false, false]);
    assert_eq!(judged.record_times, [i64::MIN, i64::MAX]);
}

#[test]
fn what_leaves_the_horizon_leaves_the_memory() {
    let stream = clicks(None, 0, Some(10));
    let mut marks = Marks::new(&stream, MarkState::default(), None);
    for part in 0..100_usize {
        let names = (0..1_000).map(|id| format!("burst/{part}/{id}"));
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(names));
        let good: Vec<usize> = (0..1_000).collect();
        marks.judge(&[-10; 1_000], &good, Some(&[0; 1_000]), &[ids]).unwrap();
        let a_key = marks.horizon_bytes() / ((part + 1) * 1_000);
        assert!((25..=58).contains(&a_key), "{a_key} bytes a key");
    }
    for round in 0..200_i64 {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..50).map(|id| format!("{round}/{id}"))));
        let good: Vec<usize> = (0..50).collect();
        let judged = marks
            .judge(&vec![round * 10; 50], &good, Some(&[0; 50]), &[ids])
            .unwrap();
        assert_eq!(judged.duplicate, [false; 50]);
    }
    assert!(
        marks.horizon_bytes() < 20_000,
        "{} bytes for 50 keys",
        marks.horizon_bytes()
    );
}

#[test]
fn a_horizon_that_cannot_be_is_refused() {
    let stream = clicks(None, 0, Some(10));
    let at = |time: i64| {
        Marks::new(
            &stream,
            MarkState {
                record_time: Some(RecordTime(time)),
                max_event_time: None,
            },
            None,
        )
    };
    let columns = ["id".to_owned()];
    let rows = |ids: &[&str], times: &[i64]| {
        let ids: ArrayRef = Arc::new(StringArray::from(ids.to_vec()));
        let times: ArrayRef = Arc::new(arrow::array::Int64Array::from(times.to_vec()));
        RecordBatch::try_from_iter([("id", ids), ("_record_time_max", times)]).unwrap()
    };
    assert!(at(100).restore(&rows(&["a", "b"], &[95, 100]), &columns).is_ok());
    let future = at(100).restore(&rows(&["a"], &[101]), &columns);
    assert!(future.unwrap_err().to_string().contains("record time 101"));
    let back = at(100).restore(&rows(&["a", "b"], &[99, 98]), &columns);
    assert!(back.unwrap_err().to_string().contains("go back from 99 to 98"));
    let twice = at(100).restore(&rows(&["a", "a"], &[95, 96]), &columns);
    assert!(twice.unwrap_err().to_string().contains("two rows with one key"));
    let missing = at(100).restore(&rows(&["a"], &[95]), &["nope".to_owned()]);
    assert!(missing.unwrap_err().to_string().contains("no column \"nope\""));
    let untimed = rows(&["a"], &[95]).project(&[0]).unwrap();
    assert!(at(100).restore(&untimed, &columns).is_err());
}

#[test]
fn the_horizon_reaches_back_to_the_oldest_row_that_can_still_be_repeated() {
    let stream = clicks(None, 0, Some(10));
    let state = MarkState {
        record_time: Some(RecordTime(100)),
        max_event_time: None,
    };
    let mut marks = Marks::new(&stream, state, None);
    assert_eq!(marks.horizon_since(), Some(RecordTime(91)));
    let ids = |ids: &[&str]| -> ArrayRef { Arc::new(StringArray::from(ids.to_vec())) };
    let times: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![90, 91]));
    let rows = RecordBatch::try_from_iter([("id", ids(&["old", "new"])), ("_record_time_max", times)]).unwrap();
    marks.restore(&rows, &["id".to_owned()]).unwrap();
    let judged = marks.judge(&[100, 100], &[0, 1], Some(&[0, 0]), &[ids(&["old", "new"])]);
    assert_eq!(judged.unwrap().duplicate, [false, true]);
    assert_eq!(
        Marks::new(&stream, MarkState::default(), None).horizon_since(),
        None,
        "nothing was kept yet"
    );
    assert_eq!(
        Marks::new(&clicks(None, 0, None), state, None).horizon_since(),
        None,
        "no unique key"
    );
}
