//! What a case must answer: late and duplicate rows judged by loops over all earlier records, views as one plan of plain
//! SQL over all counted rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch};
use arrow::array::{StringArray, TimestampMicrosecondArray};
use arrow::compute::{concat_batches, filter_record_batch, not, or};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use foldline_event_log::MarkState;
use foldline_event_log::decode::Decoder;
use foldline_event_log::marks::Marks;
use foldline_sql::{Catalog, Class, Stream};
use serde_json::Value;

use super::case::Case;
use super::events::Record;
use crate::platform::{Log, ORIGIN, PARTITIONS, between, event_times};

/// A place in the log, by partition of [`Log`].
pub(crate) type Untils = BTreeMap<u32, u64>;

/// The records of a case in the log.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) log: Log,
    /// Partition and offset of each record, in the order of arrival.
    pub(crate) arrivals: Vec<(u32, u64)>,
    /// The JSON of each record.
    pub(crate) json: Vec<String>,
}

impl Logged {
    /// Decodes and judges as the platform does, and checks every verdict.
    pub(crate) fn new(case: &Case, catalog: &Catalog) -> Self {
        let numbers = |record: &Record| {
            let stream = catalog.streams().iter().position(|stream| stream.name == record.stream);
            stream.map(|stream| stream as u32 * PARTITIONS + record.partition)
        };
        let mut logged = Self {
            log: Log::new(),
            arrivals: Vec::new(),
            json: Vec::new(),
        };
        let mut records: BTreeMap<u32, Vec<(u64, &Record)>> = BTreeMap::new();
        for number in 0..catalog.streams().len() as u32 * PARTITIONS {
            records.insert(number, Vec::new());
        }
        for (index, record) in case.records.iter().enumerate() {
            let Some(number) = numbers(record) else { continue };
            let of_partition = records.get_mut(&number).unwrap();
            // Control records leave holes.
            let hole = u64::from(index % 7 == 3);
            let offset = of_partition.last().map_or(ORIGIN, |(last, _)| last + 1) + hole;
            of_partition.push((offset, record));
            logged.arrivals.push((number, offset));
            logged.json.push(record.json.clone());
        }
        for (number, records) in records {
            let stream = &catalog.streams()[(number / PARTITIONS) as usize];
            let rows = judged(stream, number % PARTITIONS, &records, &case.name);
            logged.log.insert(number, rows);
        }
        logged
    }

    /// Behind the first `count` records that arrived.
    pub(crate) fn untils(&self, count: usize) -> Untils {
        let mut untils: Untils = self.log.keys().map(|number| (*number, ORIGIN)).collect();
        for (number, offset) in &self.arrivals[..count] {
            untils.insert(*number, offset + 1);
        }
        untils
    }

    /// All rows of `stream` below `untils`.
    pub(crate) fn rows(&self, stream: usize, untils: &Untils) -> RecordBatch {
        let first = stream as u32 * PARTITIONS;
        let batches: Vec<RecordBatch> = (first..first + PARTITIONS)
            .map(|number| between(&self.log[&number], 0..untils[&number]))
            .collect();
        concat_batches(&batches[0].schema(), &batches).unwrap()
    }
}

fn judged(stream: &Stream, partition: u32, records: &[(u64, &Record)], case: &str) -> RecordBatch {
    let columns: Vec<String> = stream.columns.iter().map(|column| column.name.clone()).collect();
    let values: BinaryArray = records.iter().map(|(_, record)| Some(record.json.as_bytes())).collect();
    let decoded = Decoder::new(stream, &columns).unwrap().decode(&values).unwrap();
    assert!(decoded.malformed.is_empty(), "{case}: {:?}", decoded.malformed);
    assert!(decoded.nulled.is_empty(), "{case}: {:?}", decoded.nulled);
    let timestamps: Vec<i64> = records.iter().map(|(_, record)| record.timestamp_ms).collect();
    let unique = stream.unique.iter().flat_map(|unique| &unique.columns);
    let keys: Vec<ArrayRef> = unique
        .map(|name| Arc::clone(decoded.rows.column_by_name(name).unwrap()))
        .collect();
    let all: Vec<usize> = (0..records.len()).collect();
    let mut marks = Marks::new(stream, MarkState::default(), None);
    let judged = marks
        .judge(&timestamps, &all, decoded.event_times.as_deref(), &keys)
        .unwrap();
    let mut columns: Vec<ArrayRef> = decoded.rows.columns().to_vec();
    let micros = timestamps.iter().map(|ms| ms * 1000);
    columns.push(Arc::new(StringArray::from(vec![stream.topic.as_str(); records.len()])));
    columns.push(Arc::new(Int32Array::from(vec![partition as i32; records.len()])));
    columns.push(Arc::new(Int64Array::from_iter_values(
        records.iter().map(|(offset, _)| *offset as i64),
    )));
    columns.push(Arc::new(
        TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"),
    ));
    columns.push(Arc::new(BinaryArray::from(vec![None; records.len()])));
    columns.push(Arc::new(BooleanArray::from(judged.late.clone())));
    columns.push(Arc::new(BooleanArray::from(judged.duplicate.clone())));
    let rows = RecordBatch::try_new(stream.table_schema(), columns).unwrap();
    let (late, duplicate) = naive(stream, &rows, records);
    assert_eq!((judged.late, judged.duplicate), (late, duplicate), "{case}");
    rows
}

/// Which rows are late and which are duplicates, as design D4 says.
fn naive(stream: &Stream, rows: &RecordBatch, records: &[(u64, &Record)]) -> (Vec<bool>, Vec<bool>) {
    let times = event_times(stream, rows);
    let record_time = |row: usize| {
        records[..=row]
            .iter()
            .map(|(_, record)| record.timestamp_ms)
            .max()
            .unwrap()
    };
    let key = |row: usize| {
        let event: Value = serde_json::from_str(&records[row].1.json).unwrap();
        let columns = stream.unique.iter().flat_map(|unique| &unique.columns);
        columns.map(|name| event[name].to_string()).collect::<Vec<_>>()
    };
    let (mut late, mut duplicate): (Vec<bool>, Vec<bool>) = (Vec::new(), Vec::new());
    for row in 0..records.len() {
        let clamped = |row: usize| times[row].min((record_time(row) + stream.max_skew_ms) * 1000);
        let largest = (0..row).map(clamped).max();
        late.push(match (stream.lateness_ms, largest) {
            (Some(lateness), Some(largest)) => times[row] < largest - lateness * 1000,
            _ => false,
        });
        duplicate.push(stream.unique.as_ref().is_some_and(|unique| {
            (0..row).any(|other| {
                !duplicate[other] && key(other) == key(row) && record_time(row) - record_time(other) < unique.within_ms
            })
        }));
    }
    (late, duplicate)
}

/// The rows of `rows` that count.
pub(crate) fn counted(rows: &RecordBatch, drops_late: bool) -> RecordBatch {
    let mark = |name: &str| rows.column_by_name(name).unwrap().as_boolean().clone();
    let left_out = match drops_late {
        true => or(&mark("_duplicate"), &mark("_late")).unwrap(),
        false => mark("_duplicate"),
    };
    filter_record_batch(rows, &not(&left_out).unwrap()).unwrap()
}

/// What plain SQL says for a view: rows, or an error such as a sum that is out of range.
pub(crate) type Said = Result<Answer, String>;

/// What plain SQL says for every view of `case` over the rows below `untils`. Beside each stream stands the table
/// `stream_log` with every row of it.
pub(crate) async fn answers(
    case: &Case,
    catalog: &Catalog,
    logged: &Logged,
    untils: &Untils,
) -> BTreeMap<String, Said> {
    let session = foldline_sql::session_context(SessionConfig::new());
    let mut answers = BTreeMap::new();
    for view in catalog.views() {
        let drops_late = case.drops_late(&view.name, &view.sql);
        for (index, stream) in catalog.streams().iter().enumerate() {
            let rows = logged.rows(index, untils);
            register(&session, &stream.name, counted(&rows, drops_late));
            register(&session, &format!("{}_log", stream.name), rows);
        }
        let written = case.plain.get(&view.name).unwrap_or(&view.sql);
        let said = match run(&session, &positional(written)).await {
            Ok(rows) => {
                let answer = Answer::new(&rows, view.class);
                register(&session, &view.name, rows);
                Ok(answer)
            }
            Err(error) => Err(format!("plain SQL of {}: {error}", view.name)),
        };
        answers.insert(view.name.clone(), said);
    }
    answers
}

async fn run(session: &SessionContext, sql: &str) -> datafusion::common::Result<RecordBatch> {
    collected(session.sql(sql).await?).await
}

/// What `plan` gives in `session`.
pub(crate) async fn run_plan(session: &SessionContext, plan: LogicalPlan) -> datafusion::common::Result<RecordBatch> {
    collected(DataFrame::new(session.state(), plan)).await
}

async fn collected(frame: DataFrame) -> datafusion::common::Result<RecordBatch> {
    let schema = Arc::clone(frame.schema().inner());
    let batches = frame.collect().await?;
    let schema = batches.first().map_or(schema, RecordBatch::schema);
    Ok(concat_batches(&schema, &batches)?)
}

fn register(session: &SessionContext, name: &str, rows: RecordBatch) {
    session.deregister_table(name).unwrap();
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
    session.register_table(name, Arc::new(table)).unwrap();
}

/// The named zone of a window is not DataFusion's SQL: in its place.
fn positional(sql: &str) -> String {
    sql.replace(", timezone => ", ", INTERVAL '0 seconds', ")
}

/// Rows to compare, as texts, in an order of their own.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    /// Which columns are doubles that may differ in their last digits.
    rounded: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Answer {
    pub(crate) fn new(rows: &RecordBatch, class: Class) -> Self {
        let options = FormatOptions::default().with_null("NULL");
        let double = |column: &ArrayRef| *column.data_type() == DataType::Float64;
        let columns: Vec<Vec<String>> = rows
            .columns()
            .iter()
            .map(|column| match column.as_primitive_opt::<Float64Type>() {
                // With the sign of a zero.
                Some(doubles) => doubles
                    .iter()
                    .map(|value| value.map_or_else(|| "NULL".to_owned(), |value| format!("{value:?}")))
                    .collect(),
                None => {
                    let formatter = ArrayFormatter::try_new(column, &options).unwrap();
                    (0..column.len()).map(|row| formatter.value(row).to_string()).collect()
                }
            })
            .collect();
        let rounded: Vec<bool> = rows
            .columns()
            .iter()
            .map(|column| class == Class::Rounding && double(column))
            .collect();
        let mut rows: Vec<Vec<String>> = (0..rows.num_rows())
            .map(|row| columns.iter().map(|column| column[row].clone()).collect())
            .collect();
        rows.sort_by_cached_key(|row| {
            let (last, first): (Vec<_>, Vec<_>) = row.clone().into_iter().zip(&rounded).partition(|(_, last)| **last);
            (first, last)
        });
        Self { rounded, rows }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As [`Answer::must_be`], where either may be an error; then both must.
    pub(crate) fn compare(found: &Said, expected: &Said, what: &str) -> Result<(), String> {
        match (found, expected) {
            (Ok(found), Ok(expected)) => found.must_be(expected, what),
            (Err(_), Err(_)) => Ok(()),
            (Ok(_), Err(error)) => Err(format!("{what}: an answer where there is none: {error}")),
            (Err(error), Ok(_)) => Err(format!("{what}: {error}")),
        }
    }

    /// An error that shows the first difference.
    fn must_be(&self, expected: &Self, what: &str) -> Result<(), String> {
        let same = |one: &str, other: &str, rounded: bool| {
            one == other
                || rounded
                    && match (one.parse::<f64>(), other.parse::<f64>()) {
                        (Ok(one), Ok(other)) => (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1e-3),
                        _ => false,
                    }
        };
        let alike = |one: &[String], other: &[String]| {
            one.len() == other.len()
                && (one.iter().zip(other).zip(&self.rounded)).all(|((one, other), rounded)| same(one, other, *rounded))
        };
        let length = self.rows.len().max(expected.rows.len());
        for row in 0..length {
            let (one, other) = (self.rows.get(row), expected.rows.get(row));
            if !matches!((one, other), (Some(one), Some(other)) if alike(one, other)) {
                return Err(format!(
                    "{what}: {} rows, expected {}; row {row} is {one:?}, expected {other:?}",
                    self.rows.len(),
                    expected.rows.len()
                ));
            }
        }
        Ok(())
    }
}
