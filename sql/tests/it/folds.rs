//! The laws of folds: any split, any order, any tree of merges, through bytes or not, gives the answer of plain SQL.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Decimal128Type, Float64Type, Int32Type, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use foldline_sql::{Fold, FoldError, KeyLookup, KeyRange, Partial};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

use crate::rows::{self, fold, view};

fn pieces(rows: &RecordBatch, random: &mut StdRng) -> Vec<RecordBatch> {
    let mut pieces = Vec::new();
    let mut from = 0;
    while from < rows.num_rows() {
        let length = random
            .random_range(1..=rows.num_rows() / 4 + 1)
            .min(rows.num_rows() - from);
        pieces.push(rows.slice(from, length));
        from += length;
    }
    pieces
}

/// Folds each piece, passes the partials through bytes, and merges them as a random tree.
async fn folded(fold: &Fold, rows: &RecordBatch, random: &mut StdRng) -> Vec<Partial> {
    let mut partials = Vec::new();
    for piece in pieces(rows, random) {
        let partial = fold.partial(&piece).await.unwrap();
        partials.push(Partial::decode(&partial.encode().unwrap(), fold).unwrap());
    }
    partials.shuffle(random);
    while partials.len() > 3 {
        let some = partials.split_off(partials.len() - random.random_range(2..=3));
        let merged = fold.merge(&some).await.unwrap();
        partials.insert(random.random_range(0..=partials.len()), merged);
    }
    partials
}

#[tokio::test]
async fn plain_sql_over_rows_that_stream_by_is_bounded() {
    // What does not fit in the pool is an error, never another answer.
    let query = "SELECT _partition, _offset, count(*) AS n, array_agg(kind ORDER BY at) AS k FROM events GROUP BY 1, 2";
    let fold = fold(&view(query).await);
    let rows = rows::random(4, 2_000);
    let plain = fold.plain(std::slice::from_ref(&rows)).await.unwrap();
    for (bytes, fits) in [(64 << 20, true), (1 << 10, false)] {
        let bounded = RuntimeEnvBuilder::new()
            .with_memory_limit(bytes, 1.0)
            .build_arc()
            .unwrap();
        let pieces = futures::stream::iter([rows.slice(0, 900), rows.slice(900, 1_100)]);
        match fold.plain_stream(pieces, bounded).await {
            Ok(streamed) => assert_eq!((streamed, fits), (plain.clone(), true)),
            Err(FoldError::Run { source, .. }) => {
                let exhausted = matches!(source.find_root(), DataFusionError::ResourcesExhausted(_));
                assert!(exhausted && !fits, "{source}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn order_is_completed_by_the_log_and_not_by_the_batches() {
    // All events of user u1 have equal times: the log alone decides which is first and last.
    let fold = fold(&view(
        "SELECT count(*) AS n, first_value(_offset ORDER BY big * 0) AS f, last_value(_partition ORDER BY big * 0) AS l, \
         array_agg(_partition * 1000 + _offset ORDER BY big * 0) AS all_of_them FROM events WHERE big IS NOT NULL",
    ).await);
    let rows = rows::random(5, 200);
    let backwards: Vec<RecordBatch> = (0..200).rev().map(|row| rows.slice(row, 1)).collect();
    let reversed = fold.plain(&backwards).await.unwrap();
    let mut partials = Vec::new();
    for row in &backwards {
        partials.push(fold.partial(row).await.unwrap());
    }
    let mut merged = reversed.clone();
    for seed in 0..8 {
        partials.shuffle(&mut StdRng::seed_from_u64(seed));
        merged = fold.finish(&partials).await.unwrap();
        assert_eq!(merged, reversed, "seed {seed}");
    }
    assert_eq!(
        merged.column(2).as_primitive::<arrow::datatypes::Int32Type>().value(0),
        3
    );
    let order = merged.column(3).as_list::<i32>().value(0);
    let order = order.as_primitive::<Int64Type>().values().to_vec();
    assert!(
        order.is_sorted(),
        "log order is by partition, then by offset: {order:?}"
    );
}

#[tokio::test]
async fn sums_of_integers_neither_wrap_nor_round_and_are_checked_at_finish() {
    let rows = rows::random(3, 400);
    let average = fold(&view("SELECT count(big) AS n, avg(big) AS a, min(big) AS lo FROM events").await);
    let answer = average.plain(std::slice::from_ref(&rows)).await.unwrap();
    let bigs = rows.column_by_name("big").unwrap().as_primitive::<Int64Type>();
    let duplicate = rows.column_by_name("_duplicate").unwrap().as_boolean();
    let values: Vec<i128> = (0..400)
        .filter(|row| !duplicate.value(*row) && bigs.is_valid(*row))
        .map(|row| bigs.value(row).into())
        .collect();
    let sum: i128 = values.iter().sum();
    assert_eq!(
        answer.column(1).as_primitive::<Float64Type>().value(0),
        sum as f64 / values.len() as f64
    );

    // The sum lies beyond BIGINT: an error at finish, not a wrapped number, and not before everything is merged.
    let sum = fold(&view("SELECT sum(big) AS s FROM events WHERE big > 0").await);
    let partial = sum.partial(&rows).await.unwrap();
    let error = sum.finish(&[partial]).await.unwrap_err();
    assert!(format!("{error:?}").contains("out of range for BIGINT"), "{error:?}");
    let balanced = fold(&view("SELECT sum(big) + sum(-big) AS s FROM events").await);
    let pieces = folded(&balanced, &rows.slice(0, 2), &mut StdRng::seed_from_u64(1)).await;
    balanced.finish(&pieces).await.unwrap();
}

#[tokio::test]
async fn arithmetic_of_integers_is_computed_in_bigint_and_never_wraps() {
    let rows = rows::random(4, 300);
    let product = fold(&view("SELECT sum(amount * 2000000000) AS s FROM events").await);
    let answer = product.plain(std::slice::from_ref(&rows)).await.unwrap();
    let duplicate = rows.column_by_name("_duplicate").unwrap().as_boolean();
    let amounts = rows.column_by_name("amount").unwrap().as_primitive::<Int32Type>();
    let sum: i64 = (0..300)
        .filter(|row| !duplicate.value(*row) && amounts.is_valid(*row))
        .map(|row| i64::from(amounts.value(row)) * 2_000_000_000)
        .sum();
    assert_eq!(answer.column(0).as_primitive::<Int64Type>().value(0), sum);
    let beyond = fold(&view("SELECT sum(big * 1000000) AS s FROM events").await);
    let error = beyond.partial(&rows).await.unwrap_err();
    assert!(format!("{error:?}").contains("Overflow"), "{error:?}");
}

#[tokio::test]
async fn extremes_of_doubles_have_one_place_for_nan_and_one_zero() {
    // 0/0 is NaN, which is above everything, wherever it stands.
    let nan = "CAST(amount % 5 AS DOUBLE) / CAST(amount % 5 AS DOUBLE)";
    let fold = fold(&view(&format!("SELECT max({nan}) AS hi, min({nan}) AS lo FROM events")).await);
    let rows = rows::random(2, 60);
    let plain = fold.plain(std::slice::from_ref(&rows)).await.unwrap();
    assert!(plain.column(0).as_primitive::<Float64Type>().value(0).is_nan());
    assert_eq!(plain.column(1).as_primitive::<Float64Type>().value(0), 1.0);
    for seed in 0..6 {
        let partials = folded(&fold, &rows, &mut StdRng::seed_from_u64(seed)).await;
        let merged = fold.finish(&partials).await.unwrap();
        assert!(
            merged.column(0).as_primitive::<Float64Type>().value(0).is_nan(),
            "seed {seed}"
        );
        assert_eq!(merged.column(1), plain.column(1), "seed {seed}");
    }
}

#[tokio::test]
async fn money_keeps_every_cent() {
    let fold = fold(&view("SELECT sum(price) AS s FROM events").await);
    let rows = rows::random(9, 300);
    let answer = fold.plain(std::slice::from_ref(&rows)).await.unwrap();
    let prices = rows.column_by_name("price").unwrap().as_primitive::<Decimal128Type>();
    let duplicate = rows.column_by_name("_duplicate").unwrap().as_boolean();
    let sum: i128 = (0..300)
        .filter(|row| !duplicate.value(*row) && prices.is_valid(*row))
        .map(|row| prices.value(row))
        .sum();
    assert_eq!(answer.column(0).as_primitive::<Decimal128Type>().value(0), sum);
}

#[tokio::test]
async fn windowed_views_leave_late_rows_out_and_others_do_not() {
    let rows = rows::random(4, 300);
    let count = async |query: &str| {
        let fold = fold(&view(query).await);
        let answer = fold.finish(&[fold.partial(&rows).await.unwrap()]).await.unwrap();
        answer
            .column_by_name("n")
            .unwrap()
            .as_primitive::<Int64Type>()
            .iter()
            .flatten()
            .sum::<i64>()
    };
    let marks = |name: &str| rows.column_by_name(name).unwrap().as_boolean().clone();
    let (late, duplicate) = (marks("_late"), marks("_duplicate"));
    let kept = (0..300).filter(|row| !duplicate.value(*row)).count() as i64;
    let in_time = (0..300)
        .filter(|row| !duplicate.value(*row) && !late.value(*row))
        .count() as i64;
    assert!(in_time < kept && kept < 300);
    assert_eq!(
        count("SELECT user_id, count(*) AS n FROM events GROUP BY 1").await,
        kept
    );
    assert_eq!(
        count("SELECT tumble(at, INTERVAL '1 hour') AS h, count(*) AS n FROM events GROUP BY 1").await,
        in_time
    );
}

#[tokio::test]
async fn a_lookup_finds_what_a_filter_finds() {
    let fold = fold(&view("SELECT user_id, kind, count(*) AS n FROM events GROUP BY 1, 2").await);
    let partial = fold.partial(&rows::random(2, 300)).await.unwrap();
    let text = |value: Option<&str>| Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let matching = |position: usize, value: Option<&str>| {
        let column = partial.batch().column(position).as_string::<i32>();
        column.iter().filter(|found| *found == value).count()
    };
    let found = |key: Vec<(usize, ArrayRef)>| {
        let found = partial.lookup(&KeyLookup::new(key).unwrap());
        found.map(|found| found.map_or(0, |found| found.keys()))
    };
    for user in [Some("u0"), Some("u3"), Some("nobody"), None] {
        assert_eq!(found(vec![(0, text(user))]).unwrap(), matching(0, user));
    }
    for kind in [Some("buy"), Some("zzz"), None] {
        assert_eq!(found(vec![(1, text(kind))]).unwrap(), matching(1, kind));
    }
    assert_eq!(found(vec![(1, text(Some("buy"))), (0, text(Some("u3")))]).unwrap(), 1);
    assert!(found(vec![(2, text(None))]).is_err());

    let within = |key: Vec<(usize, ArrayRef)>, position: usize, lower: Option<&str>, upper: Option<&str>| {
        let bound = |value: Option<&str>| value.map(|value| text(Some(value)));
        let (lower, upper) = (bound(lower), bound(upper));
        let key = KeyLookup::new(key)
            .unwrap()
            .within(&[KeyRange { position, lower, upper }]);
        partial.lookup(&key).unwrap().map_or(0, |found| found.keys())
    };
    let users = partial.batch().column(0).as_string::<i32>();
    let between = users
        .iter()
        .filter(|user| user.is_some_and(|user| ("u1"..="u3").contains(&user)));
    assert_eq!(within(vec![], 0, Some("u1"), Some("u3")), between.count());
    let below = users.iter().filter(|user| *user <= Some("u3"));
    assert_eq!(
        within(vec![], 0, None, Some("u3")),
        below.count(),
        "NULL is smaller than any"
    );
    let of_user = matching(0, Some("u3"));
    assert_eq!(within(vec![(0, text(Some("u3")))], 1, Some("buy"), Some("buy")), 1);
    assert_eq!(within(vec![(0, text(Some("u3")))], 1, Some("zzz"), None), 0);
    assert_eq!(
        within(vec![(0, text(Some("u3")))], 0, Some("zzz"), None),
        of_user,
        "not searchable"
    );
}

#[tokio::test]
async fn every_key_of_a_large_partial_is_found() {
    let fold = fold(&view("SELECT amount, count(*) AS n FROM events GROUP BY 1").await);
    let partial = fold.partial(&rows::random(2, 5_000)).await.unwrap();
    let keys = partial.batch().column(0);
    assert!(keys.len() > 64, "too few keys for a filter");
    for row in 0..keys.len() {
        let key = KeyLookup::new(vec![(0, keys.slice(row, 1))]).unwrap();
        assert_eq!(
            partial.lookup(&key).unwrap().map(|found| found.keys()),
            Some(1),
            "key {row}"
        );
    }
}

#[tokio::test]
async fn an_aggregate_without_groups_answers_over_no_rows() {
    let fold = fold(&view("SELECT count(*) AS n, max(amount) AS hi FROM events").await);
    let answer = fold.finish(&[]).await.unwrap();
    assert_eq!(
        (answer.num_rows(), answer.column(0).as_primitive::<Int64Type>().value(0)),
        (1, 0)
    );
    assert!(answer.column(1).is_null(0));
}

#[tokio::test]
async fn stored_state_of_another_format_or_view_is_refused() {
    let one = fold(&view("SELECT user_id, count(*) AS n FROM events GROUP BY 1").await);
    let other = fold(&view("SELECT amount, count(*) AS n FROM events GROUP BY 1").await);
    let bytes = one.partial(&rows::random(1, 50)).await.unwrap().encode().unwrap();
    assert!(
        Partial::decode(&bytes, &other)
            .unwrap_err()
            .to_string()
            .contains("columns are")
    );
    let mut newer = bytes.clone();
    newer[4] = 99;
    assert!(
        Partial::decode(&newer, &one)
            .unwrap_err()
            .to_string()
            .contains("fold format is 99, not 3")
    );
    for cut in [0, 3, 8, 20, bytes.len() / 2] {
        assert!(Partial::decode(&bytes[..cut], &one).is_err(), "{cut} bytes");
    }
}
