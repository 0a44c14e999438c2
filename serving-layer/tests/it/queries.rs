//! SQL behind the fence: what runs, what the session cannot do, and its bounds.

use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use foldline_serving_layer::{Limits, Mode, QueryError};

use crate::agreement::one_batch;
use crate::platform::{PIPELINE, Platform, at, random_log};

async fn platform(limits: Limits) -> Platform {
    let platform = Platform::with_limits(PIPELINE, limits).await;
    let (log, ends) = random_log(&platform.catalog, 21, 120, 12);
    platform
        .seam_at(&log, &at(&[(0, 60), (1, 70), (2, 30)]), &ends, 3)
        .await;
    platform
}

async fn run(platform: &Platform, sql: &str) -> Result<RecordBatch, QueryError> {
    platform
        .serving
        .sql(sql, Mode::Merged)
        .await
        .map(|answer| one_batch(&answer))
}

#[tokio::test]
async fn one_seam_for_the_whole_query() {
    let platform = platform(Limits::default()).await;
    let answer = run(
        &platform,
        "SELECT (SELECT sum(n) FROM users) - (SELECT n FROM everything) AS difference, \
                (SELECT max(newest) FROM users) = as_of() AS newest, now() > as_of() AS past",
    );
    let answer = answer.await.unwrap();
    assert_eq!(answer.column(0).as_primitive::<Int64Type>().value(0), 0);
    assert!(
        answer.column(1).as_boolean().value(0),
        "as_of() is the largest event time covered"
    );
    assert!(answer.column(2).as_boolean().value(0));
    let rows = run(&platform, "SELECT * FROM days WHERE day > as_of() - INTERVAL '1 day'")
        .await
        .unwrap();
    assert!(rows.num_rows() > 0);
    run(
        &platform,
        "SELECT user_id, sum(n) FROM days GROUP BY 1 HAVING sum(n) > 3 ORDER BY 2 LIMIT 3",
    )
    .await
    .unwrap();
    run(
        &platform,
        "SELECT * FROM users JOIN days USING (user_id) WHERE users.user_id = 'u1'",
    )
    .await
    .unwrap();
    run(&platform, "SELECT row_number() OVER (ORDER BY n) FROM users")
        .await
        .unwrap();
    run(&platform, "EXPLAIN SELECT * FROM users WHERE user_id = 'u1'")
        .await
        .unwrap();
    assert_eq!(run(&platform, "SELECT 1 WHERE false").await.unwrap().num_rows(), 0);
}

#[tokio::test]
async fn keys_reach_the_partials_and_change_nothing() {
    let platform = platform(Limits::default()).await;
    for condition in [
        "user_id = 'u1'",
        "'u1' = user_id",
        "user_id IN ('u1', 'u2', 'u1', 'u3', 'u4', 'u5')",
        "user_id = 'u1' OR user_id = 'u2'",
        "user_id = 'u1' AND user_id = 'u2'",
        "user_id = 'u1' OR n > 20",
        "user_id NOT IN ('u1', 'u2')",
        "user_id = 'u1' AND day = TIMESTAMP '2024-01-11T00:00:00Z'",
        "day = '2024-01-11'",
        "user_id IS NULL",
    ] {
        let pushed = format!("SELECT count(*), sum(n) FROM days WHERE {condition}");
        // LIMIT keeps filters above it.
        let above =
            format!("SELECT count(*), sum(n) FROM (SELECT * FROM days LIMIT 1000000) AS days WHERE {condition}");
        let (pushed, above) = (
            run(&platform, &pushed).await.unwrap(),
            run(&platform, &above).await.unwrap(),
        );
        assert_eq!(pushed.columns(), above.columns(), "{condition}");
    }
}

#[tokio::test]
async fn what_the_session_does_not_know_is_refused() {
    let platform = platform(Limits::default()).await;
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'x.csv'",
        "SELECT * FROM \"file:///etc/passwd\"",
        "SELECT * FROM nope",
        "SELECT nope FROM users",
        "SELECT nope(1)",
        "SELECT read_file('/etc/passwd')",
        "SELECT repeat('x', 1000000000000)",
        "SELECT range(0, 1000000000000)",
        "SELECT array_repeat(1, 1000000000000)",
        "SELECT lpad('x', 2000000000)",
        "SELECT count(*) FROM users WHERE user_id + 1 > 'a' AND x",
        "SELECT $1",
    ] {
        let error = run(&platform, sql).await.map(|_| ()).unwrap_err();
        assert!(
            matches!(
                error,
                QueryError::UnknownTable { .. } | QueryError::Plan(_) | QueryError::Refused(_) | QueryError::Run(_)
            ),
            "{sql}: {error:?}"
        );
    }
    let error = run(&platform, "SELECT * FROM nope").await.unwrap_err().to_string();
    assert!(error.contains("there are: users, days"), "{error}");
    let error = run(&platform, "SELECT * FROM events").await.unwrap_err();
    assert!(matches!(error, QueryError::NoArchive(_)), "{error}");
    let error = run(&platform, "SELECT 1 / 0").await.unwrap_err();
    assert!(matches!(error, QueryError::Run(_) | QueryError::Plan(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_and_rows_are_bounded() {
    let platform = platform(Limits {
        query_time: Duration::from_millis(700),
        answer_rows: 100,
        ..Limits::default()
    })
    .await;
    let since = Instant::now();
    let big = "users AS a, users AS b, users AS c, users AS d, users AS e, users AS f, users AS g, users AS h";
    let error = run(
        &platform,
        &format!("SELECT count(*) FROM {big} WHERE a.n + b.n + c.n + d.n + h.n < 0"),
    )
    .await;
    assert!(matches!(error.unwrap_err(), QueryError::TimedOut { .. }));
    let endless = "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r";
    let error = run(&platform, endless).await.unwrap_err();
    assert!(
        matches!(error, QueryError::TimedOut { .. } | QueryError::OutOfMemory(_)),
        "{error:?}"
    );
    assert!(since.elapsed() < Duration::from_secs(20));

    let error = run(&platform, "SELECT a.n FROM users AS a, users AS b")
        .await
        .unwrap_err();
    assert!(matches!(error, QueryError::TooLarge { .. }), "{error:?}");
    // And afterwards everything is as before.
    run(&platform, "SELECT * FROM users").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded() {
    let platform = platform(Limits {
        query_memory_bytes: 1 << 20,
        ..Limits::default()
    })
    .await;
    let wide = "SELECT a.user_id || b.user_id || c.user_id || d.user_id || e.user_id AS k, count(*) FROM users AS a, \
                users AS b, users AS c, users AS d, users AS e GROUP BY 1";
    let error = run(&platform, wide).await.unwrap_err();
    assert!(matches!(error, QueryError::OutOfMemory(_)), "{error:?}");
    // And afterwards everything is as before.
    run(&platform, "SELECT * FROM users").await.unwrap();
}
