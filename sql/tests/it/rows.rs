//! Hand-made rows of a stream, in log order.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use foldline_sql::{Catalog, Fold, SourceFile, View, ViewKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const STREAM: &str = "
CREATE STREAM events (
  user_id TEXT, kind TEXT, amount INT, big BIGINT, price DECIMAL(12, 2), ratio DOUBLE, at TIMESTAMPTZ NOT NULL
) WITH (event_time = 'at', lateness = '1 hour', partitions = 4);
";

/// The view `v` whose query is `query`, over [`STREAM`].
pub(crate) async fn view(query: &str) -> Arc<View> {
    let text = format!("{STREAM} CREATE VIEW v AS {query};");
    let catalog = Catalog::compile(&[SourceFile {
        name: "v.sql".into(),
        text,
    }])
    .await;
    Arc::clone(
        &catalog
            .unwrap_or_else(|refusals| panic!("{query}: {}", refusals[0]))
            .views()[0],
    )
}

pub(crate) fn fold(view: &Arc<View>) -> Arc<Fold> {
    match &view.kind {
        ViewKind::Fold(fold) => Arc::clone(fold),
        ViewKind::Derived(_) => panic!("not a fold"),
    }
}

/// `count` rows over 4 partitions: few users, many equal times, NULLs, extremes, late rows and duplicates.
pub(crate) fn random(seed: u64, count: usize) -> RecordBatch {
    if count == 0 {
        return random(seed, 1).slice(0, 0);
    }
    let mut numbers = StdRng::seed_from_u64(seed);
    let mut pick = |below: u32| numbers.random_range(0..below);
    let mut rows: Vec<(i32, [u32; 9])> = (0..count)
        .map(|_| (pick(4) as i32, std::array::from_fn(|_| pick(1000))))
        .collect();
    rows.sort_by_key(|row| row.0);
    let column =
        |make: &dyn Fn(&[u32; 9]) -> ArrayRef| -> Vec<ArrayRef> { rows.iter().map(|row| make(&row.1)).collect() };
    let concat = |parts: Vec<ArrayRef>| {
        arrow::compute::concat(&parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>()).unwrap()
    };
    let null = |value: u32| value.is_multiple_of(7);
    let user = column(&|r| Arc::new(StringArray::from(vec![(!null(r[0])).then(|| format!("u{}", r[0] % 5))])));
    let kind = column(&|r| {
        Arc::new(StringArray::from(vec![
            (!null(r[1])).then(|| ["view", "cart", "buy"][r[1] as usize % 3]),
        ]))
    });
    let amount = column(&|r| Arc::new(Int32Array::from(vec![(!null(r[2])).then(|| r[2] as i32 - 500)])));
    let big = column(&|r| {
        let value = if r[3] % 3 == 0 { i64::MAX / 2 } else { i64::MIN / 3 };
        Arc::new(Int64Array::from(vec![(!null(r[3])).then_some(value)]))
    });
    let price = column(&|r| {
        let value = (!null(r[4])).then(|| i128::from(r[4]) * 101);
        Arc::new(
            Decimal128Array::from(vec![value])
                .with_precision_and_scale(12, 2)
                .unwrap(),
        )
    });
    let ratio = column(&|r| Arc::new(Float64Array::from(vec![(!null(r[5])).then(|| f64::from(r[5]) / 8.0)])));
    let at = column(&|r| {
        let time = 1_700_000_000_000_000 + i64::from(r[6] % 20) * 7_200_000_000;
        Arc::new(TimestampMicrosecondArray::from(vec![time]).with_timezone("UTC"))
    });
    let mut next = [0i64; 4];
    let offsets: Vec<i64> = rows
        .iter()
        .map(|row| {
            next[row.0 as usize] += 1 + i64::from(row.1[7] % 3);
            next[row.0 as usize]
        })
        .collect();
    let schema: SchemaRef = {
        let catalog = futures::executor::block_on(Catalog::compile(&[SourceFile {
            name: "s".into(),
            text: STREAM.into(),
        }]));
        catalog.unwrap().streams()[0].table_schema()
    };
    let mut columns: Vec<ArrayRef> = [user, kind, amount, big, price, ratio, at]
        .into_iter()
        .map(concat)
        .collect();
    columns.push(Arc::new(StringArray::from(vec!["events"; count])));
    columns.push(Arc::new(Int32Array::from(
        rows.iter().map(|row| row.0).collect::<Vec<_>>(),
    )));
    columns.push(Arc::new(Int64Array::from(offsets)));
    columns.push(Arc::new(
        TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; count]).with_timezone("UTC"),
    ));
    columns.push(Arc::new(BinaryArray::from(vec![None; count])));
    columns.push(Arc::new(BooleanArray::from(
        rows.iter().map(|row| row.1[7] % 11 == 0).collect::<Vec<_>>(),
    )));
    columns.push(Arc::new(BooleanArray::from(
        rows.iter().map(|row| row.1[8] % 13 == 0).collect::<Vec<_>>(),
    )));
    RecordBatch::try_new(schema, columns).unwrap()
}
