//! The checks that every warehouse passes. They panic with what is wrong, as tests do, and none knows which warehouse it
//! runs on.
//!
//! Every check makes tables of its own, so that all of them can run in one dataset.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};
use chrono::NaiveDate;
use uuid::Uuid;

use super::{LoadName, LoadNumber, Prepared, Slice, Table, Warehouse, WarehouseError, hash_of};
use crate::GenerationNumber;

/// 2024-05-01.
const MAY: i32 = 19_844;
/// One in that day, the first one that BigQuery has, and none.
const TIMES: [Option<i64>; 3] = [Some(1_714_521_600_000_001), Some(-62_135_596_800_000_000), None];

/// Runs every check.
pub async fn check_all(warehouse: &Arc<dyn Warehouse>) {
    a_table_is_made_once(warehouse).await;
    a_load_replaces_its_slice_alone(warehouse).await;
    a_load_is_done_once_under_its_name(warehouse).await;
    values_come_back(warehouse).await;
    a_removed_table_is_made_anew(warehouse).await;
    another_ones_table_is_left_alone(warehouse).await;
}

/// A name that no other run has.
fn some_table(rows: &RecordBatch, day: Option<&str>) -> Table {
    let name = format!("check_{}", Uuid::new_v4().simple());
    Table {
        name,
        description: "made by a check".to_owned(),
        schema: rows.schema(),
        day: day.map(str::to_owned),
        cluster: Vec::new(),
        expire_ms: None,
        owner: Uuid::new_v4(),
    }
}

fn slice(day: i32) -> Slice {
    Slice::Day(
        NaiveDate::from_ymd_opt(2024, 5, 1).expect("a date") + chrono::Days::new((day - MAY).unsigned_abs().into()),
    )
}

fn name(table: &Table, slice: Slice, generation: u64) -> LoadName {
    LoadName {
        owner: table.owner,
        table: table.name.clone(),
        slice,
        number: LoadNumber {
            generation: GenerationNumber(generation),
            again: 0,
        },
        plan: Uuid::from_u128(generation.into()),
    }
}

/// One row for each count, all of one day.
fn counts(day: i32, counts: &[i64]) -> RecordBatch {
    let days: ArrayRef = Arc::new(Date32Array::from(vec![day; counts.len()]));
    let counts: ArrayRef = Arc::new(Int64Array::from(counts.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("day", days, true), ("count", counts, true)]).expect("rows")
}

async fn load(warehouse: &Arc<dyn Warehouse>, table: &Table, name: &LoadName, rows: &RecordBatch) {
    eventually(|| warehouse.load(table, name, rows)).await.expect("loaded");
}

async fn holds(warehouse: &Arc<dyn Warehouse>, table: &Table, slice: Slice, rows: &RecordBatch) {
    let held = eventually(|| warehouse.rows(table, slice)).await.expect("rows");
    assert_eq!(
        hash_of(&held).expect("hash"),
        hash_of(rows).expect("hash"),
        "{slice} of {} holds {held:?} instead of {rows:?}",
        table.name
    );
}

/// Every operation may be tried again: what fails for a while must work in the end.
async fn eventually<T, F>(operation: impl Fn() -> F) -> Result<T, WarehouseError>
where
    F: Future<Output = Result<T, WarehouseError>>,
{
    for _ in 0..30 {
        match operation().await {
            Err(error) if error.again() => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            outcome => return outcome,
        }
    }
    operation().await
}

/// The first who prepares a table makes it, and it stays.
pub async fn a_table_is_made_once(warehouse: &Arc<dyn Warehouse>) {
    let table = some_table(&counts(MAY, &[1]), Some("day"));
    assert!(!eventually(|| warehouse.exists(&table)).await.expect("asked"));
    // Where a reply was lost the second try finds the table there.
    eventually(|| warehouse.prepare(&table)).await.expect("made");
    assert_eq!(
        eventually(|| warehouse.prepare(&table)).await.expect("there"),
        Prepared::There
    );
    assert!(eventually(|| warehouse.exists(&table)).await.expect("asked"));
    let described = Table {
        description: "another text".to_owned(),
        expire_ms: Some(i64::from(i32::MAX) * 1_000),
        ..table
    };
    assert_eq!(
        eventually(|| warehouse.prepare(&described)).await.expect("there"),
        Prepared::There
    );
}

/// A day is replaced, emptied and left alone by loads of other days.
pub async fn a_load_replaces_its_slice_alone(warehouse: &Arc<dyn Warehouse>) {
    let (first, second) = (counts(MAY, &[1, 2, 2]), counts(MAY + 1, &[7]));
    let table = some_table(&first, Some("day"));
    eventually(|| warehouse.prepare(&table)).await.expect("made");
    holds(warehouse, &table, slice(MAY), &counts(MAY, &[])).await;
    load(warehouse, &table, &name(&table, slice(MAY), 1), &first).await;
    load(warehouse, &table, &name(&table, slice(MAY + 1), 1), &second).await;
    holds(warehouse, &table, slice(MAY), &first).await;
    let changed = counts(MAY, &[5]);
    load(warehouse, &table, &name(&table, slice(MAY), 2), &changed).await;
    holds(warehouse, &table, slice(MAY), &changed).await;
    holds(warehouse, &table, slice(MAY + 1), &second).await;
    load(warehouse, &table, &name(&table, slice(MAY), 3), &counts(MAY, &[])).await;
    holds(warehouse, &table, slice(MAY), &counts(MAY, &[])).await;
    holds(warehouse, &table, slice(MAY + 1), &second).await;

    let whole = some_table(&first, None);
    eventually(|| warehouse.prepare(&whole)).await.expect("made");
    load(warehouse, &whole, &name(&whole, Slice::Whole, 1), &first).await;
    load(warehouse, &whole, &name(&whole, Slice::Whole, 2), &second).await;
    holds(warehouse, &whole, Slice::Whole, &second).await;
}

/// The same load again changes nothing.
pub async fn a_load_is_done_once_under_its_name(warehouse: &Arc<dyn Warehouse>) {
    let rows = counts(MAY, &[1, 1, 4]);
    let table = some_table(&rows, Some("day"));
    eventually(|| warehouse.prepare(&table)).await.expect("made");
    for _ in 0..3 {
        load(warehouse, &table, &name(&table, slice(MAY), 9), &rows).await;
        holds(warehouse, &table, slice(MAY), &rows).await;
    }
}

/// Values of most types come back as they were, at their ends and as NULL.
pub async fn values_come_back(warehouse: &Arc<dyn Warehouse>) {
    comes_back(warehouse, &rows_of_most_types()).await;
}

/// Decimals of every size come back with all of their digits, any bytes, and times of day and without a zone. Not from the
/// stand-in of BigQuery, which makes 0 of decimals that lie in Parquet, other times of these, and text of bytes.
pub async fn precise_values_come_back(warehouse: &Arc<dyn Warehouse>) {
    let decimal = |values: [i128; 2], digits, scale| -> ArrayRef {
        let values = Decimal128Array::from(vec![Some(values[0]), Some(values[1]), None]);
        Arc::new(values.with_precision_and_scale(digits, scale).expect("a decimal"))
    };
    let columns = [
        ("money", decimal([123_456_789, -1], 20, 2)),
        ("fine", decimal([10_i128.pow(37), -(10_i128.pow(37))], 38, 20)),
        ("whole", decimal([10_i128.pow(38) - 1, 0], 38, 0)),
        ("fraction", decimal([10_i128.pow(38) - 1, 1 - 10_i128.pow(38)], 38, 38)),
    ];
    let times: [(&str, ArrayRef); 3] = [
        (
            "clock",
            Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])),
        ),
        ("local", Arc::new(TimestampMicrosecondArray::from(TIMES.to_vec()))),
        (
            "bytes",
            Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), Some(b""), None])),
        ),
    ];
    comes_back(warehouse, &nullable([columns.to_vec(), times.to_vec()].concat())).await;
}

async fn comes_back(warehouse: &Arc<dyn Warehouse>, rows: &RecordBatch) {
    let table = some_table(rows, None);
    eventually(|| warehouse.prepare(&table)).await.expect("made");
    load(warehouse, &table, &name(&table, Slice::Whole, 1), rows).await;
    let held = eventually(|| warehouse.rows(&table, Slice::Whole)).await.expect("rows");
    for (at, field) in rows.schema().fields().iter().enumerate() {
        let hash = |rows: &RecordBatch| hash_of(&rows.project(&[at]).expect("a column")).expect("hash");
        let (held_values, values) = (held.column(at), rows.column(at));
        assert_eq!(
            hash(&held),
            hash(rows),
            "{}: {held_values:?} instead of {values:?}",
            field.name()
        );
    }
    holds(warehouse, &table, Slice::Whole, rows).await;
}

fn nullable(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("rows")
}

/// Rows of most types, two values and a NULL of each.
pub fn rows_of_most_types() -> RecordBatch {
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None]));
    let parts = StructArray::from(vec![
        (Arc::new(Field::new("n", DataType::Int64, true)), inner),
        (Arc::new(Field::new("t", DataType::Utf8, true)), text),
    ]);
    nullable(vec![
        (
            "flag",
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        ),
        (
            "number",
            Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(i64::MIN), None])),
        ),
        (
            "double",
            Arc::new(Float64Array::from(vec![Some(0.1), Some(-1.5e300), None])),
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some("näme \"x\"\n"), Some(""), None])),
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from(vec![Some(&b"\x00\x7f"[..]), Some(b""), None])),
        ),
        (
            "day",
            Arc::new(Date32Array::from(vec![Some(MAY), Some(-719_162), None])),
        ),
        (
            "instant",
            Arc::new(TimestampMicrosecondArray::from(TIMES.to_vec()).with_timezone("UTC")),
        ),
        ("parts", Arc::new(parts)),
    ])
}

/// What was removed is gone, and can be made with other columns.
pub async fn a_removed_table_is_made_anew(warehouse: &Arc<dyn Warehouse>) {
    let rows = counts(MAY, &[3]);
    let table = some_table(&rows, Some("day"));
    eventually(|| warehouse.prepare(&table)).await.expect("made");
    load(warehouse, &table, &name(&table, slice(MAY), 1), &rows).await;
    eventually(|| warehouse.remove(&table)).await.expect("removed");
    eventually(|| warehouse.remove(&table))
        .await
        .expect("removing what is gone is no error");
    assert!(!eventually(|| warehouse.exists(&table)).await.expect("asked"));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let rows = RecordBatch::try_from_iter_with_nullable([("other", text, true)]).expect("rows");
    let other = Table {
        schema: rows.schema(),
        day: None,
        ..table
    };
    eventually(|| warehouse.prepare(&other)).await.expect("made");
    load(warehouse, &other, &name(&other, Slice::Whole, 2), &rows).await;
    holds(warehouse, &other, Slice::Whole, &rows).await;
}

/// A table of another owner is neither prepared nor removed.
pub async fn another_ones_table_is_left_alone(warehouse: &Arc<dyn Warehouse>) {
    let table = some_table(&counts(MAY, &[1]), None);
    eventually(|| warehouse.prepare(&table)).await.expect("made");
    let theirs = Table {
        owner: Uuid::new_v4(),
        ..table.clone()
    };
    for refused in [
        eventually(|| warehouse.prepare(&theirs)).await.map(drop),
        eventually(|| warehouse.remove(&theirs)).await,
        eventually(|| warehouse.exists(&theirs)).await.map(drop),
    ] {
        assert!(matches!(refused, Err(WarehouseError::Foreign { .. })), "{refused:?}");
    }
    assert!(eventually(|| warehouse.exists(&table)).await.expect("asked"));
}

/// Of a load that was settled without having happened nothing comes any more; one that is done stays so. Not on a
/// warehouse that cannot tell.
pub async fn a_settled_load_never_happens(warehouse: &Arc<dyn Warehouse>) {
    let (old, new) = (counts(MAY, &[1]), counts(MAY, &[2]));
    let table = some_table(&old, Some("day"));
    eventually(|| warehouse.prepare(&table)).await.expect("made");
    let (early, late) = (name(&table, slice(MAY), 1), name(&table, slice(MAY), 2));
    assert_eq!(
        eventually(|| warehouse.settle(&table, &early)).await.expect("settled"),
        super::Settled::Nothing
    );
    load(warehouse, &table, &late, &new).await;
    let refused = eventually(|| warehouse.load(&table, &early, &old)).await;
    assert!(matches!(refused, Err(WarehouseError::Superseded { .. })), "{refused:?}");
    assert_eq!(
        eventually(|| warehouse.settle(&table, &late)).await.expect("settled"),
        super::Settled::Loaded
    );
    holds(warehouse, &table, slice(MAY), &new).await;
}

/// The days that have rows are told, and no other. Not where days are tables of their own.
pub async fn days_are_told(warehouse: &Arc<dyn Warehouse>) {
    let table = some_table(&counts(MAY, &[1]), Some("day"));
    eventually(|| warehouse.prepare(&table)).await.expect("made");
    assert_eq!(eventually(|| warehouse.slices(&table)).await.expect("slices"), []);
    load(warehouse, &table, &name(&table, slice(MAY), 1), &counts(MAY, &[1])).await;
    load(
        warehouse,
        &table,
        &name(&table, slice(MAY + 2), 1),
        &counts(MAY + 2, &[1]),
    )
    .await;
    assert_eq!(
        eventually(|| warehouse.slices(&table)).await.expect("slices"),
        [slice(MAY), slice(MAY + 2)]
    );
    load(warehouse, &table, &name(&table, slice(MAY), 2), &counts(MAY, &[])).await;
    assert_eq!(
        eventually(|| warehouse.slices(&table)).await.expect("slices"),
        [slice(MAY + 2)]
    );
}
