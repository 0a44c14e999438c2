//! Law 2 at the reader: whatever the cut, the merged answer is that of plain SQL over the rows up to `until`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionConfig;
use foldline_serving_layer::{Answer, Mode, ReadRequest, Sort};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::platform::{ORIGIN, PARTITIONS, PIPELINE, Platform, at, random_log};

pub(crate) fn everything() -> ReadRequest {
    ReadRequest {
        limit: Some(1_000_000),
        ..ReadRequest::default()
    }
}

pub(crate) fn one_batch(answer: &Answer) -> RecordBatch {
    concat_batches(&answer.schema, &answer.batches).unwrap()
}

/// Columns only: plans disagree on what may be NULL.
pub(crate) fn assert_same(one: &RecordBatch, other: &RecordBatch, context: &str) {
    assert_eq!(one.num_rows(), other.num_rows(), "{context}");
    assert_eq!(one.num_columns(), other.num_columns(), "{context}");
    for index in 0..one.num_columns() {
        let (one, other) = (one.column(index).to_data(), other.column(index).to_data());
        assert_eq!(one, other, "{context}, column {index}");
    }
}

const FOLDS: &[&str] = &["users", "days", "kinds", "everything", "actions"];

#[tokio::test]
async fn the_merged_answer_is_plain_sql_at_every_random_cut() {
    for seed in 0..12 {
        let platform = Platform::new(PIPELINE).await;
        let (log, ends) = random_log(&platform.catalog, seed, 60, 7);
        let mut random = StdRng::seed_from_u64(seed);
        let mut cuts = BTreeMap::new();
        for partition in 0..PARTITIONS {
            // Sometimes a partition is not named: then it stands at its origin. Ends are places to cut, too.
            match random.random_range(0..6) {
                0 => {}
                1 => drop(cuts.insert(partition, ends[&partition])),
                2 => drop(cuts.insert(partition, ORIGIN)),
                _ => drop(cuts.insert(partition, random.random_range(ORIGIN..=ends[&partition]))),
            }
        }
        if cuts.is_empty() {
            cuts = at(&[(0, 20)]);
        }
        platform.seam_at(&log, &cuts, &ends, seed).await;
        for view in FOLDS {
            let context = format!("seed {seed}, view {view}, cuts {cuts:?}");
            let answer = platform
                .serving
                .read_view(view, everything(), Mode::Merged)
                .await
                .unwrap();
            assert_same(&one_batch(&answer), &platform.plain(view, &log, &ends).await, &context);
            assert_eq!(answer.coverage.generation, Some(1));

            let answer = platform
                .serving
                .read_view(view, everything(), Mode::BatchOnly)
                .await
                .unwrap();
            assert_same(&one_batch(&answer), &platform.plain(view, &log, &cuts).await, &context);
        }
    }
}

#[tokio::test]
async fn without_a_generation_speed_alone_is_plain_sql() {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 3, 50, 5);
    let bounds = ends.iter().map(|(partition, end)| (*partition, vec![ORIGIN, 20, *end]));
    platform.fold_speed(&log, &bounds.collect(), &[]).await;
    for view in FOLDS {
        let answer = platform
            .serving
            .read_view(view, everything(), Mode::Merged)
            .await
            .unwrap();
        assert_same(&one_batch(&answer), &platform.plain(view, &log, &ends).await, view);
        assert_eq!(answer.coverage.generation, None);
    }
    let error = platform
        .serving
        .read_view("users", everything(), Mode::BatchOnly)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no generation yet"), "{error}");
}

#[tokio::test]
async fn an_old_generation_answers_at_its_cut() {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 4, 50, 5);
    let first = at(&[(0, 20), (1, 30), (2, 10)]);
    let second = at(&[(0, 40), (1, 30), (2, 35)]);
    let one = platform.publish(&log, &first, &[]).await;
    platform.seam_at(&log, &second, &ends, 1).await;
    let answer = platform
        .serving
        .read_view("users", everything(), Mode::At(one.number))
        .await
        .unwrap();
    assert_same(
        &one_batch(&answer),
        &platform.plain("users", &log, &first).await,
        "at 1",
    );
    assert_eq!(answer.coverage.until["events/1"], 30);
    let answer = platform
        .serving
        .read_view("users", everything(), Mode::Merged)
        .await
        .unwrap();
    assert_eq!(answer.coverage.generation, Some(2));
}

#[tokio::test]
async fn views_over_views_and_sql_say_the_same_as_the_views_below() {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 5, 80, 9);
    platform
        .seam_at(&log, &at(&[(0, 20), (1, 50), (2, 60)]), &ends, 2)
        .await;

    let users = platform.plain("users", &log, &ends).await;
    let session = foldline_sql::session_context(SessionConfig::new());
    let table = MemTable::try_new(users.schema(), vec![vec![users.clone()]]).unwrap();
    session.register_table("users", Arc::new(table)).unwrap();
    let sql = &platform.catalog.view("active").unwrap().sql;
    let expected = session
        .sql(sql)
        .await
        .unwrap()
        .sort_by(vec![datafusion::prelude::col("n")])
        .unwrap();
    let expected = expected.collect().await.unwrap();
    let expected = concat_batches(&expected[0].schema(), &expected).unwrap();

    let mut request = everything();
    request.order = Sort::parse("n").unwrap();
    let answer = platform
        .serving
        .read_view("active", request, Mode::Merged)
        .await
        .unwrap();
    assert_same(&one_batch(&answer), &expected, "active");
    assert!(answer.rows() > 1);

    let answer = platform
        .serving
        .sql("SELECT * FROM active ORDER BY n", Mode::Merged)
        .await
        .unwrap();
    assert_same(&one_batch(&answer), &expected, "active by SQL");
    let answer = platform
        .serving
        .sql("SELECT * FROM users ORDER BY user_id", Mode::Merged)
        .await
        .unwrap();
    assert_same(&one_batch(&answer), &users, "users by SQL");
}

#[tokio::test]
async fn retention_hides_windows_by_the_event_time_covered() {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 6, 80, 5);
    platform
        .seam_at(&log, &at(&[(0, 40), (1, 50), (2, 60)]), &ends, 2)
        .await;
    let plain = platform.plain("recent", &log, &ends).await;
    let newest = log.values().flat_map(|rows| {
        let times = rows
            .column_by_name("at")
            .unwrap()
            .as_primitive::<TimestampMicrosecondType>();
        times.values().to_vec()
    });
    let oldest = newest.max().unwrap() - 24 * 3_600_000_000;
    let hours = plain.column(0).as_primitive::<TimestampMicrosecondType>();
    let young = hours.iter().map(|hour| hour.map(|hour| hour >= oldest)).collect();
    let expected = filter_record_batch(&plain, &young).unwrap();
    assert!(expected.num_rows() < plain.num_rows());

    let answer = platform
        .serving
        .read_view("recent", everything(), Mode::Merged)
        .await
        .unwrap();
    assert_same(&one_batch(&answer), &expected, "recent");
    let answer = platform
        .serving
        .sql("SELECT * FROM recent ORDER BY 1", Mode::Merged)
        .await
        .unwrap();
    assert_same(&one_batch(&answer), &expected, "recent by SQL");
}

#[tokio::test]
async fn kept_answers_do_not_outlive_what_they_cover() {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 7, 50, 5);
    platform.publish(&log, &at(&[(0, 20), (1, 30), (2, 10)]), &[]).await;
    for untils in [
        at(&[(0, 30), (1, 40), (2, 40)]),
        ends.clone(),
        at(&[(0, 30), (1, 40), (2, 40)]),
    ] {
        let bounds = untils.iter().map(|(partition, until)| {
            let cut = [20, 30, 10][*partition as usize];
            (*partition, vec![cut, *until])
        });
        platform.fold_speed(&log, &bounds.collect(), &[]).await;
        for _ in 0..2 {
            let answer = platform
                .serving
                .read_view("users", everything(), Mode::Merged)
                .await
                .unwrap();
            assert_same(
                &one_batch(&answer),
                &platform.plain("users", &log, &untils).await,
                "users",
            );
        }
    }
}

#[tokio::test]
async fn a_view_without_one_of_its_halves_is_building() {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 8, 50, 5);
    let cuts = at(&[(0, 20), (1, 30), (2, 10)]);
    let bounds: BTreeMap<u32, Vec<u64>> = cuts.iter().map(|(p, cut)| (*p, vec![*cut, ends[p]])).collect();
    platform.publish(&log, &cuts, &["days", "users"]).await;
    platform.fold_speed(&log, &bounds, &["kinds"]).await;
    let read = async |view: &str, mode: Mode| platform.serving.read_view(view, everything(), mode).await;
    for view in ["days", "kinds", "active"] {
        let error = read(view, Mode::Merged).await.unwrap_err();
        assert!(error.to_string().contains("still building"), "{view}: {error}");
    }
    assert!(read("days", Mode::BatchOnly).await.is_err());
    platform.fail_in_speed("kinds", "the row at offset 31 fails it");
    let error = read("kinds", Mode::Merged).await.unwrap_err();
    assert!(error.to_string().contains("the row at offset 31 fails it"), "{error}");
    read("everything", Mode::Merged).await.unwrap();
    read("kinds", Mode::BatchOnly).await.unwrap();
}
