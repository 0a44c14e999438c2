//! SUM and AVG: one answer in any order, rounded or checked for range once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionConfig;
use foldline_sql::{Class, Fold, Partial};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::rows::{self, fold, view};

/// `rows` with `column` in the place of the one called `name`, nothing in them a duplicate.
fn with_column(rows: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let mut columns = rows.columns().to_vec();
    columns[rows.schema().index_of(name).unwrap()] = column;
    let judged = arrow::array::BooleanArray::from(vec![false; rows.num_rows()]);
    columns[rows.schema().index_of("_duplicate").unwrap()] = Arc::new(judged);
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}

fn with_doubles(count: usize, mut make: impl FnMut(usize) -> Option<f64>) -> RecordBatch {
    let doubles: Float64Array = (0..count).map(&mut make).collect();
    with_column(&rows::random(7, count), "ratio", Arc::new(doubles))
}

fn with_bigs(bigs: &[i64]) -> RecordBatch {
    let column = Int64Array::from(bigs.to_vec());
    with_column(&rows::random(7, bigs.len()), "big", Arc::new(column))
}

/// The rows in another order, and the partials of a split of them, through bytes, merged as a tree.
async fn shuffled(fold: &Fold, rows: &RecordBatch, seed: u64) -> (RecordBatch, Vec<Partial>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut single: Vec<RecordBatch> = (0..rows.num_rows()).map(|row| rows.slice(row, 1)).collect();
    single.shuffle(&mut random);
    let rows = concat_batches(&rows.schema(), &single).unwrap();
    let mut partials = Vec::new();
    let mut from = 0;
    while from < rows.num_rows() {
        let length = random.random_range(1..=rows.num_rows() - from);
        let partial = fold.partial(&rows.slice(from, length)).await.unwrap();
        partials.push(Partial::decode(&partial.encode().unwrap(), fold).unwrap());
        from += length;
    }
    partials.shuffle(&mut random);
    while partials.len() > 2 {
        let some = partials.split_off(partials.len() - 2);
        partials.insert(
            random.random_range(0..=partials.len()),
            fold.merge(&some).await.unwrap(),
        );
    }
    (rows, partials)
}

/// The answer of `query` over `rows` as a plain query.
async fn queried(query: &str, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let context = foldline_sql::session_context(SessionConfig::new());
    context.register_batch("events", rows.clone())?;
    let batches = context.sql(query).await?.collect().await?;
    Ok(concat_batches(&batches[0].schema(), &batches)?)
}

/// What a double column holds, bit by bit.
fn bits(batch: &RecordBatch, column: usize) -> Vec<Option<u64>> {
    let values = batch.column(column).as_primitive::<Float64Type>();
    values.iter().map(|value| value.map(f64::to_bits)).collect()
}

/// Shewchuk's partials: the sum of finite doubles, none of whose sums overflow.
fn fsum(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut partials: Vec<f64> = Vec::new();
    for mut value in values {
        let mut kept = Vec::new();
        for mut partial in partials {
            if value.abs() < partial.abs() {
                (value, partial) = (partial, value);
            }
            let sum = value + partial;
            let error = partial - (sum - value);
            if error != 0.0 {
                kept.push(error);
            }
            value = sum;
        }
        kept.push(value);
        partials = kept;
    }
    let mut sum = partials.pop().unwrap_or(0.0);
    while let Some(partial) = partials.pop() {
        let before = sum;
        sum = before + partial;
        let error = partial - (sum - before);
        if error != 0.0 {
            // Half of a last place goes where what is still below points to.
            if partials.last().is_some_and(|below| (*below < 0.0) == (error < 0.0)) {
                let twice = error * 2.0;
                let further = sum + twice;
                if twice == further - sum {
                    sum = further;
                }
            }
            break;
        }
    }
    sum
}

#[tokio::test]
async fn sums_of_doubles_have_no_order_and_are_the_nearest_double() {
    let queries = [
        "SELECT count(*) AS n, sum(ratio) AS s, avg(ratio) AS a, sum(ratio) FILTER (WHERE amount > 0) AS f, \
         sum(DISTINCT ratio) AS ds, avg(DISTINCT ratio) AS da FROM events",
        "SELECT kind, sum(ratio) AS s, avg(ratio) AS a, sum(ratio) FILTER (WHERE amount > 0) AS f, \
         sum(DISTINCT ratio) AS ds, avg(DISTINCT ratio) AS da FROM events GROUP BY kind",
        "SELECT hop(at, INTERVAL '1 hour', INTERVAL '5 hours') AS w, sum(ratio) AS s, avg(ratio) AS a FROM events GROUP BY 1",
        "SELECT session(at, INTERVAL '3 hours') AS w, user_id, sum(ratio) AS s, avg(ratio) AS a FROM events GROUP BY 1, 2",
        "SELECT kind, user_id, sum(ratio) AS s, avg(ratio) AS a FROM events GROUP BY ROLLUP (kind, user_id)",
    ];
    let mut random = StdRng::seed_from_u64(1);
    let rows = with_doubles(150, |row| {
        // Sizes from 1e-20 to 1e20, few of them different.
        let value = (random.random_range(-1.0..1.0_f64) * 1e6).round() / 1e6;
        (row % 9 != 0).then(|| value * 10_f64.powi(random.random_range(-20..20)))
    });
    for query in queries {
        let view = view(query).await;
        assert_eq!(view.class, Class::Exact, "{query}");
        let fold = fold(&view);
        let plain = fold.plain(std::slice::from_ref(&rows)).await.unwrap();
        let whole = fold.merge(&[fold.partial(&rows).await.unwrap()]).await.unwrap();
        for seed in 0..6 {
            let (rows, partials) = shuffled(&fold, &rows, seed).await;
            assert_eq!(fold.plain(&[rows]).await.unwrap(), plain, "seed {seed}: {query}");
            assert_eq!(fold.finish(&partials).await.unwrap(), plain, "seed {seed}: {query}");
            let merged = fold.merge(&partials).await.unwrap();
            assert_eq!(
                merged.batch(),
                whole.batch(),
                "seed {seed}: equal sums have equal states: {query}"
            );
        }
    }
    let fold = fold(&view(queries[0]).await);
    let answer = fold.plain(std::slice::from_ref(&rows)).await.unwrap();
    let ratios = rows.column_by_name("ratio").unwrap().as_primitive::<Float64Type>();
    let all: Vec<f64> = ratios.iter().flatten().collect();
    assert_eq!(bits(&answer, 1), [Some(fsum(all.iter().copied()).to_bits())]);
    // The nearest of a sum and of that by 128 differ in the exponent alone, unlike by 133.
    let average = answer.column(2).as_primitive::<Float64Type>().value(0);
    let rounded_twice = fsum(all.iter().copied()) / all.len() as f64;
    assert!((average - rounded_twice).abs() <= rounded_twice.abs() * f64::EPSILON);
    let mut different = all.clone();
    different.sort_by(f64::total_cmp);
    different.dedup();
    assert_eq!(bits(&answer, 4), [Some(fsum(different).to_bits())]);
    let reals = all.iter().map(|value| f64::from(*value as f32));
    let sum_of_reals = crate::rows::fold(&view("SELECT sum(CAST(ratio AS REAL)) AS r FROM events").await);
    let answer = sum_of_reals.plain(&[rows]).await.unwrap();
    assert_eq!(bits(&answer, 0), [Some(fsum(reals).to_bits())]);
}

#[tokio::test]
async fn extremes_of_doubles_sum_as_their_exact_sum_rounds() {
    let fold = fold(&view("SELECT sum(ratio) AS s, avg(ratio) AS a, sum(DISTINCT ratio) AS d FROM events").await);
    let (max, tiny, inf, nan) = (f64::MAX, f64::from_bits(1), f64::INFINITY, f64::NAN);
    for (values, sum, average, different) in [
        (vec![Some(1e308), Some(1e308), Some(-1e308)], 1e308, 1e308 / 3.0, 0.0),
        (vec![Some(max), Some(max)], inf, max, max),
        (vec![Some(tiny), Some(tiny), Some(tiny), None], 3.0 * tiny, tiny, tiny),
        (vec![Some(max), Some(tiny), Some(-max)], tiny, 0.0, tiny),
        (vec![Some(-0.0), Some(0.0), Some(-0.0)], 0.0, 0.0, 0.0),
        (vec![Some(inf), Some(1.0)], inf, inf, inf),
        (vec![Some(inf), Some(-inf), Some(1.0)], nan, nan, nan),
        (vec![Some(nan), Some(-nan), Some(-inf)], nan, nan, nan),
    ] {
        let rows = with_doubles(values.len(), |row| values[row]);
        for seed in 0..4 {
            let (_, partials) = shuffled(&fold, &rows, seed).await;
            let answer = fold.finish(&partials).await.unwrap();
            assert_eq!(answer, fold.plain(std::slice::from_ref(&rows)).await.unwrap());
            for (column, expected) in [sum, average, different].into_iter().enumerate() {
                assert_eq!(
                    bits(&answer, column),
                    [Some(expected.to_bits())],
                    "{values:?}, column {column}"
                );
            }
        }
    }
    let nothing = with_doubles(3, |_| None);
    let answer = fold.finish(&[fold.partial(&nothing).await.unwrap()]).await.unwrap();
    assert!((0..3).all(|column| answer.column(column).is_null(0)));
}

#[tokio::test]
async fn frames_that_slide_leave_nothing_behind() {
    let values = [0.1, 1e300, 1.0, f64::INFINITY, 2.0, f64::NAN, 3.0, 3.0, 1e-300];
    let rows = with_doubles(values.len(), |row| Some(values[row]));
    let query = "SELECT _offset, ratio, sum(ratio) OVER w, avg(ratio) OVER w FROM events \
                 WINDOW w AS (ORDER BY _partition, _offset ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) \
                 ORDER BY _partition, _offset";
    let answer = queried(query, &rows).await.unwrap();
    let doubles = |column: usize| answer.column(column).as_primitive::<Float64Type>().values().to_vec();
    let text = |values: Vec<f64>| values.iter().map(f64::to_string).collect::<Vec<_>>();
    assert_eq!(text(doubles(1)), text(values.to_vec()), "the rows are in log order");
    let pairs = |of: fn(f64, f64) -> f64| {
        let mut frames = vec![values[0]];
        frames.extend(values.windows(2).map(|pair| of(pair[0], pair[1])));
        text(frames)
    };
    assert_eq!(text(doubles(2)), pairs(|one, other| one + other));
    assert_eq!(text(doubles(3)), pairs(|one, other| one / 2.0 + other / 2.0));
}

#[tokio::test]
async fn sums_of_integers_are_checked_for_range_only_when_all_is_merged() {
    let exact = fold(&view("SELECT sum(big) AS s, avg(big) AS a, sum(DISTINCT big) AS d FROM events").await);
    let bigs = [i64::MAX, i64::MAX, 5, -i64::MAX, -i64::MAX, i64::MIN, i64::MAX];
    let rows = with_bigs(&bigs);
    for seed in 0..6 {
        let (rows, partials) = shuffled(&exact, &rows, seed).await;
        let answer = exact.finish(&partials).await.unwrap();
        assert_eq!(answer, exact.plain(&[rows]).await.unwrap());
        assert_eq!(answer.column(0).as_primitive::<Int64Type>().value(0), 4);
        assert_eq!(bits(&answer, 1), [Some((4.0_f64 / 7.0).to_bits())]);
        assert_eq!(answer.column(2).as_primitive::<Int64Type>().value(0), 5 + i64::MIN);
    }
    let halves = with_bigs(&[i64::MAX, i64::MAX - 1]);
    let average = exact.finish(&[exact.partial(&halves).await.unwrap()]).await;
    let error = format!("{:?}", average.unwrap_err());
    assert!(
        error.contains("sum(events.big) is 18446744073709551613, which is out of range for BIGINT"),
        "{error}"
    );
    let frames = "SELECT sum(big) OVER (ORDER BY _offset) FROM events";
    let error = format!("{:?}", queried(frames, &halves).await.unwrap_err());
    assert!(error.contains("out of range for BIGINT"), "{error}");
}

#[tokio::test]
async fn sums_of_decimals_are_checked_for_range_only_when_all_is_merged() {
    // 20 digits and more are summed in 256 bits: three of these are beyond 128.
    let wide = fold(
        &view(
            "SELECT sum(CAST(big AS DECIMAL(38, 0)) * CAST(10000000000000000000 AS DECIMAL(20, 0))) AS s FROM events",
        )
        .await,
    );
    let nine = 9_000_000_000_000_000_000_i64;
    let rows = with_bigs(&[nine, nine, nine, -nine, -nine, -1]);
    for seed in 0..6 {
        let (rows, partials) = shuffled(&wide, &rows, seed).await;
        let answer = wide.finish(&partials).await.unwrap();
        assert_eq!(answer, wide.plain(&[rows]).await.unwrap());
        let sum = answer.column(0).as_primitive::<Decimal128Type>().value(0);
        assert_eq!(sum, i128::from(nine - 1) * 10_i128.pow(19));
    }
    let beyond = with_bigs(&[nine, nine]);
    let error = wide.finish(&[wide.partial(&beyond).await.unwrap()]).await.unwrap_err();
    let error = format!("{error:?}");
    assert!(
        error.contains("is 180000000000000000000000000000000000000, which is out of range for DECIMAL(38, 0)"),
        "{error}"
    );

    let halves = fold(&view("SELECT avg(CAST(big AS DECIMAL(5, 0))) AS a FROM events").await);
    for (bigs, average) in [
        (vec![1, 1, 0], 6_667),
        (vec![-1, -1, 0], -6_667),
        (vec![1, 0, 0], 3_333),
        (vec![7], 70_000),
        ([vec![1], vec![0; 31]].concat(), 313),
        ([vec![-1], vec![0; 31]].concat(), -313),
    ] {
        let rows = with_bigs(&bigs);
        let answer = halves.finish(&[halves.partial(&rows).await.unwrap()]).await.unwrap();
        assert_eq!(
            answer.column(0).as_primitive::<Decimal128Type>().value(0),
            average,
            "{bigs:?}"
        );
        assert_eq!(answer.column(0).data_type().to_string(), "Decimal128(9, 4)");
    }
}

#[tokio::test]
async fn a_million_amounts_are_right_to_the_cent() {
    let count = 1_000_000;
    let fold = fold(&view("SELECT sum(CAST(price AS DECIMAL(18, 2))) AS s, sum(ratio) AS d FROM events").await);
    let rows = rows::random(7, 1_000);
    let (mut cents, mut units, mut partials) = (0_i128, 0_i128, Vec::new());
    for batch in 0..count / 1_000 {
        let prices = (0..1_000_i128).map(|row| (batch * 7_919 + row * 104_729) % 10_i128.pow(12) - 3);
        let prices: Decimal128Array = prices.inspect(|price| cents += price).map(Some).collect();
        let ratios = (0..1_000_i128).map(|row| (batch * 31 + row) % 1_000);
        let ratios: Float64Array = ratios
            .inspect(|ratio| units += ratio)
            .map(|ratio| Some(ratio as f64 * 0.5))
            .collect();
        let rows = with_column(
            &rows,
            "price",
            Arc::new(prices.with_precision_and_scale(12, 2).unwrap()),
        );
        partials.push(
            fold.partial(&with_column(&rows, "ratio", Arc::new(ratios)))
                .await
                .unwrap(),
        );
    }
    let answer = fold.finish(&partials).await.unwrap();
    assert_eq!(answer.column(0).as_primitive::<Decimal128Type>().value(0), cents);
    assert_eq!(bits(&answer, 1), [Some((units as f64 * 0.5).to_bits())]);
}

#[tokio::test]
async fn states_of_sums_are_as_small_as_their_numbers() {
    let fold = fold(&view("SELECT _offset, _partition, sum(ratio) AS s FROM events GROUP BY 1, 2").await);
    let rows = with_doubles(1_000, |row| Some(row as f64 / 100.0));
    let partial = fold.partial(&rows).await.unwrap();
    let state = partial.batch().column(2).as_binary::<i32>();
    let bytes = state.value_data().len() / state.len();
    assert!(bytes <= 10, "{bytes} bytes beside the offset of 4");
}

/// Two columns of small integers, some NULL, as `ratio` and `big`, and the rows that have both.
fn pairs(count: usize, seed: u64) -> (RecordBatch, Vec<(i128, i128)>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut value =
        |row: usize, every: usize| (!row.is_multiple_of(every)).then(|| random.random_range(-500..1_000_i64));
    let (xs, ys): (Vec<_>, Vec<_>) = (0..count).map(|row| (value(row, 7), value(row, 5))).unzip();
    let rows = with_doubles(count, |row| xs[row].map(|x| x as f64));
    let both = xs.iter().zip(&ys).filter_map(|(x, y)| Some((x.as_ref()?, y.as_ref()?)));
    let both = both.map(|(x, y)| (i128::from(*x), i128::from(*y))).collect();
    let ys: Int64Array = ys.into_iter().collect();
    (with_column(&rows, "big", Arc::new(ys)), both)
}

#[tokio::test]
async fn variances_and_regressions_are_those_of_exact_sums() {
    let query = "SELECT covar_samp(ratio, big) AS cs, covar_pop(ratio, big) AS cp, corr(ratio, big) AS c, \
                 regr_slope(big, ratio) AS m, regr_intercept(big, ratio) AS i, regr_r2(big, ratio) AS r2, \
                 regr_avgx(big, ratio) AS ax, regr_avgy(big, ratio) AS ay, regr_sxx(big, ratio) AS sxx, \
                 regr_syy(big, ratio) AS syy, regr_sxy(big, ratio) AS sxy, var(ratio) AS v, var_pop(ratio) AS vp, \
                 stddev(ratio) AS d, stddev_pop(ratio) FILTER (WHERE big IS NOT NULL) AS dp, \
                 var_pop(DISTINCT big) AS vd FROM events";
    let view = view(query).await;
    assert_eq!(view.class, Class::Exact);
    let fold = fold(&view);
    for (count, seed) in [(400, 1), (37, 2), (12, 3)] {
        let (rows, both) = pairs(count, seed);
        let plain = fold.plain(std::slice::from_ref(&rows)).await.unwrap();
        for seed in 0..4 {
            let (rows, partials) = shuffled(&fold, &rows, seed).await;
            assert_eq!(fold.plain(&[rows]).await.unwrap(), plain);
            assert_eq!(fold.finish(&partials).await.unwrap(), plain);
        }
        let centred = |pairs: &[(i128, i128)]| {
            let sum = |of: &dyn Fn(&(i128, i128)) -> i128| pairs.iter().map(of).sum::<i128>();
            let n = pairs.len() as i128;
            // Small enough to be exact as doubles.
            (n * sum(&|(a, b)| a * b) - sum(&|(a, _)| *a) * sum(&|(_, b)| *b)) as f64
        };
        let twice = |values: Vec<i128>| values.into_iter().map(|value| (value, value)).collect::<Vec<_>>();
        let (xx, yy, xy) = (
            centred(&twice(both.iter().map(|pair| pair.0).collect())),
            centred(&twice(both.iter().map(|pair| pair.1).collect())),
            centred(&both),
        );
        let xs = rows.column_by_name("ratio").unwrap().as_primitive::<Float64Type>();
        let xs = twice(xs.iter().flatten().map(|x| x as i128).collect());
        let ys = rows.column_by_name("big").unwrap().as_primitive::<Int64Type>();
        let mut ys: Vec<i128> = ys.iter().flatten().map(i128::from).collect();
        ys.sort_unstable();
        ys.dedup();
        let ys = twice(ys);
        let n = both.len() as f64;
        let (all, different) = (xs.len() as f64, ys.len() as f64);
        let mean = |of: &dyn Fn(&(i128, i128)) -> i128| both.iter().map(of).sum::<i128>() as f64 / n;
        let slope = (xy / n) / (xx / n);
        let expected = [
            xy / (n * (n - 1.0)),
            xy / (n * n),
            (xy / n) / ((xx / n) * (yy / n)).sqrt(),
            slope,
            mean(&|pair| pair.1) - slope * mean(&|pair| pair.0),
            (xy / n) / (xx / n) * ((xy / n) / (yy / n)),
            mean(&|pair| pair.0),
            mean(&|pair| pair.1),
            xx / n,
            yy / n,
            xy / n,
            centred(&xs) / (all * (all - 1.0)),
            centred(&xs) / (all * all),
            (centred(&xs) / (all * (all - 1.0))).sqrt(),
            (xx / (n * n)).sqrt(),
            centred(&ys) / (different * different),
        ];
        for (column, expected) in expected.into_iter().enumerate() {
            let name = plain.schema().field(column).name().clone();
            assert_eq!(
                bits(&plain, column),
                [Some(expected.to_bits())],
                "{name} of {count} rows"
            );
        }
    }
}

#[tokio::test]
async fn variances_keep_their_digits_beside_large_means_and_know_few_rows() {
    let query = "SELECT var(ratio) AS v, stddev_pop(ratio) AS d, corr(ratio, -ratio) AS c, regr_slope(ratio, ratio) AS m, \
                 var_pop(ratio) AS p FROM events";
    let fold = fold(&view(query).await);
    let (third, nan) = ((2.0_f64 / 3.0).sqrt(), Some(f64::NAN));
    for (values, expected) in [
        (
            vec![1e15, 1e15 + 1.0, 1e15 + 2.0],
            [Some(1.0), Some(third), Some(-1.0), Some(1.0), Some(2.0 / 3.0)],
        ),
        (vec![3.0], [None, Some(0.0), None, None, Some(0.0)]),
        (vec![], [None; 5]),
        (vec![0.1, 0.1, 0.1], [Some(0.0), Some(0.0), None, None, Some(0.0)]),
        (vec![1.0, f64::NAN], [nan; 5]),
        (vec![1.0, f64::INFINITY], [nan; 5]),
        (vec![1e200, -1e200], [nan; 5]),
        (vec![1e-200, -1e-200], [Some(0.0), Some(0.0), None, None, Some(0.0)]),
    ] {
        let rows = with_doubles(values.len().max(1), |row| values.get(row).copied());
        let answer = fold.finish(&[fold.partial(&rows).await.unwrap()]).await.unwrap();
        for (column, expected) in expected.into_iter().enumerate() {
            let found = answer.column(column).as_primitive::<Float64Type>();
            let found = found.is_valid(0).then(|| found.value(0));
            assert_eq!(
                format!("{found:?}"),
                format!("{expected:?}"),
                "{values:?}, column {column}"
            );
        }
    }
}

#[tokio::test]
async fn approximate_percentiles_are_near_and_have_no_order() {
    let query = "SELECT approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY ratio) AS hi, \
                 approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY ratio DESC) AS lo, approx_median(ratio) AS m, \
                 approx_percentile_cont(ratio, 1) AS most FROM events";
    let view = view(query).await;
    assert_eq!(view.class, Class::Approximate);
    let fold = fold(&view);
    let rows = with_doubles(1_001, |row| Some((row as f64 * 379.0) % 1_001.0 - 300.0));
    let plain = fold.plain(std::slice::from_ref(&rows)).await.unwrap();
    for seed in 0..4 {
        let (_, partials) = shuffled(&fold, &rows, seed).await;
        assert_eq!(fold.finish(&partials).await.unwrap(), plain);
    }
    let states = fold.partial(&rows).await.unwrap();
    assert_eq!(
        states.batch().num_columns(),
        1,
        "one sketch serves all percentiles of a column"
    );
    for (column, exact) in [600.0_f64, -200.0, 200.0, 700.0].into_iter().enumerate() {
        let found = plain.column(column).as_primitive::<Float64Type>().value(0);
        assert!((found - exact).abs() * 128.0 <= exact.abs(), "{found} for {exact}");
    }
}
