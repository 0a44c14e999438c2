//! Partials key by key: what is stored reads back, keys are in the order of their columns, and both encodings stay as
//! they are.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use foldline_sql::{KeyLookup, KeyRange, Partial};

use crate::rows::{fold, random, view};

/// Keys of every kind, states of every shape.
const QUERIES: [&str; 8] = [
    "SELECT count(*) AS n, count(DISTINCT user_id) AS users FROM events",
    "SELECT user_id, kind, sum(amount) AS s, avg(big) AS m FROM events GROUP BY 1, 2",
    "SELECT big, min(kind) AS a, max(price) AS b FROM events GROUP BY 1",
    "SELECT ratio, price, bool_or(amount > 3) AS a FROM events GROUP BY 1, 2",
    "SELECT tumble(at, INTERVAL '1 hour') AS hour, user_id, array_agg(kind ORDER BY at) AS k FROM events GROUP BY 1, 2",
    "SELECT user_id, last_value(price ORDER BY at) AS p, stddev(ratio) AS d, avg(price) AS v FROM events GROUP BY 1",
    "SELECT amount > 3 AS large, CAST(at AS DATE) AS day, approx_distinct(user_id) AS u FROM events GROUP BY 1, 2",
    "SELECT session(at, INTERVAL '10 minutes') AS s, user_id, count(*) AS n FROM events GROUP BY 1, 2",
];

async fn partials() -> Vec<(Arc<foldline_sql::Fold>, Partial)> {
    let mut partials = Vec::new();
    for (seed, query) in (0..).zip(QUERIES) {
        let fold = fold(&view(query).await);
        for count in [0, 1, 400] {
            let partial = fold.partial(&random(seed, count)).await.unwrap();
            partials.push((Arc::clone(&fold), partial));
        }
    }
    partials
}

#[tokio::test]
async fn every_partial_reads_back_from_its_rows() {
    for (fold, partial) in partials().await {
        let rows = partial.to_rows().unwrap();
        assert_eq!((rows.keys.len(), rows.groups.len()), (partial.keys(), partial.keys()));
        // In any order.
        let states: Vec<&[u8]> = rows.states.iter().flatten().rev().collect();
        let read = Partial::from_rows(&fold, states).unwrap();
        assert_eq!(read.batch(), partial.batch());
    }
}

#[tokio::test]
async fn keys_are_in_the_order_of_their_columns() {
    for (_, partial) in partials().await {
        let rows = partial.to_rows().unwrap();
        let keys: Vec<&[u8]> = rows.keys.iter().flatten().collect();
        assert!(
            keys.is_sorted_by(|one, other| one < other),
            "{:?}",
            partial.batch().schema()
        );
    }
}

#[tokio::test]
async fn what_a_lookup_means_lies_in_its_span() {
    for (_, partial) in partials().await {
        let (rows, columns) = (partial.to_rows().unwrap(), partial.batch().columns());
        let key_columns = partial.batch().num_columns().min(2);
        for row in (0..partial.keys()).step_by(7) {
            let value = |position: usize| columns[position].slice(row, 1);
            let fixed: [Vec<(usize, ArrayRef)>; 4] = [
                vec![],
                vec![(0, value(0))],
                (0..key_columns).map(|position| (position, value(position))).collect(),
                vec![(key_columns - 1, value(key_columns - 1))],
            ];
            let range = |position| KeyRange {
                position,
                lower: Some(value(position)),
                upper: Some(value(position)),
            };
            for fixed in fixed {
                for ranges in [vec![], vec![range(0)], vec![range(key_columns - 1)]] {
                    let lookup = KeyLookup::new(fixed.clone()).unwrap().within(&ranges);
                    // A view without keys, or with one: there is nothing to look up there.
                    let Ok(found) = partial.lookup(&lookup) else { continue };
                    let span = lookup.span().unwrap();
                    let inside = (0..rows.keys.len()).filter(|row| {
                        let key = rows.keys.value(*row);
                        *span.from <= *key
                            && *key < *span.until
                            && span.group.is_none_or(|group| group == rows.groups[*row])
                    });
                    let inside: Vec<&[u8]> = inside.map(|row| rows.keys.value(row)).collect();
                    for key in found.unwrap().to_rows().unwrap().keys.iter().flatten() {
                        assert!(inside.contains(&key), "{lookup:?} means {key:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_range_is_as_narrow_as_its_column_allows() {
    let fold = fold(&view("SELECT user_id, big, count(*) AS n FROM events GROUP BY 1, 2").await);
    let partial = fold.partial(&random(3, 400)).await.unwrap();
    let user: ArrayRef = Arc::new(StringArray::from(vec!["u1"]));
    let bound = |value: i64| Some(Arc::new(Int64Array::from(vec![value])) as ArrayRef);
    let range = KeyRange {
        position: 1,
        lower: bound(-5),
        upper: bound(1_000),
    };
    let lookup = KeyLookup::new(vec![(0, user)]).unwrap().within(&[range]);
    let span = lookup.span().unwrap();
    let rows = partial.to_rows().unwrap();
    let inside = rows
        .keys
        .iter()
        .flatten()
        .filter(|key| *span.from <= **key && **key < *span.until)
        .count();
    assert_eq!(inside, partial.lookup(&lookup).unwrap().map_or(0, |found| found.keys()));
}

#[tokio::test]
async fn damaged_and_foreign_states_are_refused() {
    let fold = fold(&view(QUERIES[4]).await);
    let partial = fold.partial(&random(4, 60)).await.unwrap();
    let rows = partial.to_rows().unwrap();
    let state = rows.states.value(0);
    assert!(Partial::from_rows(&fold, [state]).is_ok());
    let mut other = state.to_vec();
    other[0] = 2;
    assert!(Partial::from_rows(&fold, [other.as_slice()]).is_err());
    for length in 0..state.len() {
        assert!(
            Partial::from_rows(&fold, [&state[..length]]).is_err(),
            "cut off at {length}"
        );
    }
    let longer = [state, &[0]].concat();
    assert!(Partial::from_rows(&fold, [longer.as_slice()]).is_err());
}

/// The bytes of format 1. Whoever changes them raises the format.
#[tokio::test]
async fn keys_and_states_are_encoded_as_ever() {
    let golden = |array: ArrayRef| {
        let lookup = KeyLookup::new(vec![(0, array)]).unwrap().span().unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        (hex(&lookup.from), lookup.group.map(|group| format!("{group:016x}")))
    };
    let keys: [(ArrayRef, &str); 8] = [
        (Arc::new(Int32Array::from(vec![-1])), "01017fffffff"),
        (Arc::new(Int64Array::from(vec![258])), "01018000000000000102"),
        (Arc::new(Int64Array::from(vec![None])), "0100"),
        (Arc::new(StringArray::from(vec!["a\0b"])), "01016100ff6200"),
        (Arc::new(Float64Array::from(vec![-2.0])), "01013fffffffffffffff"),
        (Arc::new(Float64Array::from(vec![2.0])), "0101c000000000000000"),
        (
            Arc::new(
                Decimal128Array::from(vec![1_i128])
                    .with_precision_and_scale(12, 2)
                    .unwrap(),
            ),
            "010180000000000000000000000000000001",
        ),
        (
            Arc::new(TimestampMicrosecondArray::from(vec![1])),
            "01018000000000000001",
        ),
    ];
    for (array, wanted) in keys {
        assert_eq!(golden(array).0, wanted);
    }
    let group = golden(Arc::new(StringArray::from(vec!["B001"]))).1;
    assert_eq!(group.as_deref(), Some("902a0f816db866ba"));

    let fold = fold(&view("SELECT kind, count(*) AS n, max(kind) AS m FROM events GROUP BY 1").await);
    let partial = fold.partial(&random(5, 40)).await.unwrap();
    let rows = partial.to_rows().unwrap();
    let hex: String = rows.states.value(1).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "0101036275790104000000000000000103627579");
}
