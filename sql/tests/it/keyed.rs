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
        let rows = partial.to_rows(&fold).unwrap();
        assert_eq!(
            (rows.states.len(), rows.groups.len()),
            (rows.keys.len(), rows.keys.len())
        );
        assert!(rows.keys.len() <= partial.keys());
        // In any order.
        let states: Vec<&[u8]> = rows.states.iter().flatten().rev().collect();
        let read = Partial::from_rows(&fold, states).unwrap();
        assert_eq!(read.batch(), partial.batch());
    }
}

#[tokio::test]
async fn keys_are_in_the_order_of_their_columns() {
    for (fold, partial) in partials().await {
        let rows = partial.to_rows(&fold).unwrap();
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
    for (fold, partial) in partials().await {
        let (rows, columns) = (partial.to_rows(&fold).unwrap(), partial.batch().columns());
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
                    let span = lookup.span(&fold).unwrap();
                    let inside = (0..rows.keys.len()).filter(|row| {
                        let key = rows.keys.value(*row);
                        *span.from <= *key
                            && *key < *span.until
                            && span.group.is_none_or(|group| group == rows.groups[*row])
                    });
                    let inside: Vec<&[u8]> = inside.map(|row| rows.keys.value(row)).collect();
                    for key in found.unwrap().to_rows(&fold).unwrap().keys.iter().flatten() {
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
    let span = lookup.span(&fold).unwrap();
    let rows = partial.to_rows(&fold).unwrap();
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
    let rows = partial.to_rows(&fold).unwrap();
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
    let fold = fold(&view("SELECT kind, count(*) AS n, max(kind) AS m FROM events GROUP BY 1").await);
    let golden = |array: ArrayRef| {
        let lookup = KeyLookup::new(vec![(0, array)]).unwrap().span(&fold).unwrap();
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

    let partial = fold.partial(&random(5, 40)).await.unwrap();
    let rows = partial.to_rows(&fold).unwrap();
    let hex: String = rows.states.value(1).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "0101036275790104000000000000000103627579");
}

/// All sessions of a user are one row under the user, wherever the session stands in the GROUP BY, so that none of them
/// is left behind under a start that it had.
#[tokio::test]
async fn the_sessions_of_a_key_are_one_row_and_its_state_is_whole_or_refused() {
    let orders = [
        "SELECT user_id, session(at, INTERVAL '10 minutes') AS s, kind, count(*) AS n FROM events GROUP BY 1, 2, 3",
        "SELECT session(at, INTERVAL '10 minutes') AS s, user_id, kind, count(*) AS n FROM events GROUP BY 1, 2, 3",
    ];
    for (order, query) in orders.into_iter().enumerate() {
        let fold = fold(&view(query).await);
        let partial = fold.partial(&random(9, 400)).await.unwrap();
        let rows = partial.to_rows(&fold).unwrap();
        assert!(
            3 * rows.keys.len() < partial.keys(),
            "{} of {}",
            rows.keys.len(),
            partial.keys()
        );
        let user: ArrayRef = Arc::new(StringArray::from(vec!["u1"]));
        let span = KeyLookup::new(vec![(order, user)]).unwrap().span(&fold).unwrap();
        let inside = |row: &usize| (span.from.as_slice()..span.until.as_slice()).contains(&rows.keys.value(*row));
        let inside: Vec<usize> = (0..rows.keys.len()).filter(inside).collect();
        assert!((1..=4).contains(&inside.len()), "kinds of one user: {inside:?}");
        assert!(inside.iter().all(|row| span.group == Some(rows.groups[*row])));

        let largest = (0..rows.states.len()).max_by_key(|row| rows.states.value(*row).len());
        let state = rows.states.value(largest.unwrap());
        assert!(Partial::from_rows(&fold, [state]).unwrap().keys() > 3);
        for length in 0..state.len() {
            assert!(
                Partial::from_rows(&fold, [&state[..length]]).is_err(),
                "cut off at {length}, maybe between two sessions"
            );
        }
    }
}

/// The bytes of format 1 of sessions.
#[tokio::test]
async fn sessions_are_encoded_as_ever() {
    let query = "SELECT session(at, INTERVAL '10 minutes') AS s, kind, count(*) AS n FROM events GROUP BY 1, 2";
    let fold = fold(&view(query).await);
    let rows = fold.partial(&random(5, 12)).await.unwrap().to_rows(&fold).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (key, one) = (
        "010162757900",
        "0100a0f535380a060001036275790101000000000000000100a0f535380a0600",
    );
    assert_eq!(
        (hex(rows.keys.value(1)), hex(rows.states.value(1))),
        (key.to_owned(), format!("0101{one}"))
    );

    let two = format!("0102{one}{}", one.replace("f535", "f536"));
    let bytes = (0..two.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&two[at..at + 2], 16).unwrap());
    let read = Partial::from_rows(&fold, [bytes.collect::<Vec<u8>>().as_slice()]).unwrap();
    assert_eq!(read.keys(), 2);
    let rows = read.to_rows(&fold).unwrap();
    assert_eq!(
        (hex(rows.keys.value(0)), hex(rows.states.value(0))),
        (key.to_owned(), two)
    );
}
