//! Rows by key and range.

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use foldline_serving_layer::{Filter, Mode, QueryError, ReadRequest, Sort};

use crate::agreement::{assert_same, everything, one_batch};
use crate::platform::{PIPELINE, Platform, at, random_log};

async fn platform() -> Platform {
    let platform = Platform::new(PIPELINE).await;
    let (log, ends) = random_log(&platform.catalog, 11, 120, 12);
    platform
        .seam_at(&log, &at(&[(0, 60), (1, 70), (2, 30)]), &ends, 3)
        .await;
    platform
}

async fn read(platform: &Platform, view: &str, filters: &[(&str, &str)]) -> Result<RecordBatch, QueryError> {
    let mut request = everything();
    request.filters = filters
        .iter()
        .map(|(column, value)| Filter::parse(column, value))
        .collect();
    let answer = platform.serving.read_view(view, request, Mode::Merged).await?;
    Ok(one_batch(&answer))
}

fn where_user(rows: &RecordBatch, wanted: impl Fn(&str) -> bool) -> RecordBatch {
    let users = rows.column_by_name("user_id").unwrap();
    let users = users.as_any().downcast_ref::<StringArray>().unwrap();
    filter_record_batch(rows, &users.iter().map(|user| user.map(&wanted)).collect()).unwrap()
}

#[tokio::test]
async fn a_range_read_is_those_rows_of_the_whole_answer() {
    let platform = platform().await;
    let users = |user: &str| ("u3".."u6").contains(&user);
    for view in ["users", "days", "actions"] {
        let all = read(&platform, view, &[]).await.unwrap();
        let expected = where_user(&all, users);
        assert!(0 < expected.num_rows() && expected.num_rows() < all.num_rows());
        let found = read(&platform, view, &[("user_id", "gte.u3"), ("user_id", "lt.u6")]).await;
        assert_same(&found.unwrap(), &expected, view);
        let found = read(
            &platform,
            view,
            &[("user_id", "lte.u5"), ("user_id", "gt.u2"), ("user_id", "lt.u9")],
        )
        .await;
        assert_same(&found.unwrap(), &expected, view);
        let sql = format!("SELECT * FROM {view} WHERE user_id >= 'u3' AND 'u6' > user_id");
        let found = platform.serving.sql(&sql, Mode::Merged).await.unwrap();
        assert_same(&one_batch(&found), &expected, &sql);
    }
    let all = read(&platform, "days", &[("user_id", "u3")]).await.unwrap();
    let days = all.column_by_name("day").unwrap();
    let days = days.as_primitive::<TimestampMicrosecondType>();
    let (first, last) = (days.value(1), days.value(days.len() - 1));
    let kept = days
        .iter()
        .map(|day| day.map(|day| first <= day && day < last))
        .collect();
    let expected = filter_record_batch(&all, &kept).unwrap();
    assert!(0 < expected.num_rows() && expected.num_rows() < all.num_rows() - 1);
    let written = |micros: i64| chrono::DateTime::from_timestamp_micros(micros).unwrap().to_rfc3339();
    let (from, until) = (format!("gte.{}", written(first)), format!("lt.{}", written(last)));
    let found = read(&platform, "days", &[("user_id", "u3"), ("day", &from), ("day", &until)]).await;
    assert_same(&found.unwrap(), &expected, "days of a user");
}

#[tokio::test]
async fn a_point_read_is_the_row_of_the_whole_answer() {
    let platform = platform().await;
    for view in ["users", "days", "actions"] {
        let all = read(&platform, view, &[]).await.unwrap();
        for user in 0..13 {
            let user = format!("u{user}");
            let expected = where_user(&all, |other| other == user);
            let found = read(&platform, view, &[("user_id", &user)]).await.unwrap();
            assert_same(&found, &expected, &format!("{view} {user}"));
            let found = read(&platform, view, &[("user_id", &format!("eq.{user}"))])
                .await
                .unwrap();
            assert_same(&found, &expected, &format!("{view} {user}"));
        }
        let expected = where_user(&all, |user| user == "u1" || user == "u7");
        let found = read(&platform, view, &[("user_id", "in.(u7,u1,u7,\"u1\",nobody)")])
            .await
            .unwrap();
        assert_same(&found, &expected, "a key named twice counts once");
    }
    let all = read(&platform, "days", &[]).await.unwrap();
    let found = read(&platform, "days", &[("day", "2024-01-11")]).await.unwrap();
    assert!(
        found.num_rows() > 0 && found.num_rows() < all.num_rows(),
        "a key that is no prefix"
    );
    let found = read(&platform, "days", &[("day", "2024-01-11"), ("user_id", "u3")])
        .await
        .unwrap();
    assert_eq!(found.num_rows(), 1);
    let found = read(&platform, "days", &[("user_id", "u3"), ("user_id", "u4")])
        .await
        .unwrap();
    assert_eq!(found.num_rows(), 0, "both hold, or neither");
}

#[tokio::test]
async fn conditions_are_those_of_sql() {
    let platform = platform().await;
    for (filters, condition) in [
        (&[("n", "gte.20")][..], "n >= 20"),
        (&[("n", "gt.20"), ("n", "lte.30")], "n > 20 AND n <= 30"),
        (&[("n", "lt.25"), ("user_id", "neq.u3")], "n < 25 AND user_id <> 'u3'"),
        (&[("last_kind", "is.null")], "last_kind IS NULL"),
        (&[("last_kind", "not.is.null")], "last_kind IS NOT NULL"),
        (&[("last_kind", "neq.buy")], "last_kind <> 'buy'"),
        (&[("last_kind", "it's")], "last_kind = 'it''s'"),
        (&[("user_id", "like.u1*")], "user_id LIKE 'u1%'"),
        (&[("revenue", "gt.5000000000000.5")], "revenue > 5000000000000.5"),
        (
            &[("newest", "lt.2024-01-12T23:00:00Z")],
            "newest < TIMESTAMP '2024-01-12T23:00:00Z'",
        ),
        (&[("n", "in.(20,21,22,23,24)")], "n IN (20, 21, 22, 23, 24)"),
        (
            &[("user_id", "in.(u1,u2)"), ("n", "gt.1")],
            "user_id IN ('u1', 'u2') AND n > 1",
        ),
    ] {
        let found = read(&platform, "users", filters).await.unwrap();
        let sql = format!("SELECT * FROM users WHERE {condition} ORDER BY user_id");
        let answer = platform.serving.sql(&sql, Mode::Merged).await.unwrap();
        assert_same(&found, &one_batch(&answer), condition);
    }
}

#[tokio::test]
async fn order_limit_offset_and_columns() {
    let platform = platform().await;
    let request = ReadRequest {
        filters: Vec::new(),
        order: Sort::parse("last_kind.desc,n").unwrap(),
        limit: Some(5),
        offset: 2,
        columns: Some(vec!["n".to_owned(), "last_kind".to_owned()]),
    };
    let answer = platform
        .serving
        .read_view("users", request, Mode::Merged)
        .await
        .unwrap();
    let sql = "SELECT n, last_kind FROM users ORDER BY last_kind DESC NULLS FIRST, n, user_id LIMIT 5 OFFSET 2";
    let expected = platform.serving.sql(sql, Mode::Merged).await.unwrap();
    assert_same(&one_batch(&answer), &one_batch(&expected), "ordered");

    let mut request = everything();
    request.limit = None;
    let answer = platform
        .serving
        .read_view("days", request.clone(), Mode::Merged)
        .await
        .unwrap();
    assert!(answer.rows() <= foldline_serving_layer::read::LIMIT_DEFAULT);
    request.offset = 1_000_000;
    let answer = platform.serving.read_view("days", request, Mode::Merged).await.unwrap();
    assert_eq!(answer.rows(), 0);
}

#[tokio::test]
async fn a_view_over_views_is_read_by_key_too() {
    let platform = platform().await;
    let all = read(&platform, "active", &[]).await.unwrap();
    let n = all.column(0).as_primitive::<Int64Type>().value(0);
    let found = read(&platform, "active", &[("n", &n.to_string())]).await.unwrap();
    assert_eq!(found.num_rows(), 1);
    assert!(!found.column(1).is_null(0));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let platform = platform().await;
    for (view, column, value, says) in [
        (
            "users",
            "nope",
            "1",
            "it has: user_id, n, total, revenue, newest, last_kind",
        ),
        (
            "users",
            "n",
            "gte.many",
            "\"many\" does not fit column \"n\" of type BIGINT",
        ),
        ("users", "n", "1.5", "column \"n\" of type BIGINT"),
        ("users", "revenue", "1.005", "more digits"),
        (
            "users",
            "newest",
            "gt.yesterday",
            "column \"newest\" of type TIMESTAMPTZ",
        ),
        ("users", "n", "like.1%", "like needs"),
        ("active", "nope", "1", "it has: n, users, most"),
        (
            "nope",
            "n",
            "1",
            "there are: users, days, kinds, everything, actions, recent, active",
        ),
    ] {
        let error = read(&platform, view, &[(column, value)]).await.unwrap_err().to_string();
        assert!(error.contains(says), "{view}.{column}={value}: {error}");
    }
    let mut request = everything();
    request.order = Sort::parse("nope.desc").unwrap();
    let error = platform
        .serving
        .read_view("users", request, Mode::Merged)
        .await
        .unwrap_err();
    assert!(matches!(error, QueryError::UnknownColumn { .. }));
    let mut request = everything();
    request.limit = Some(usize::MAX);
    assert!(
        platform
            .serving
            .read_view("users", request, Mode::Merged)
            .await
            .is_err()
    );
}

/// Views above folds, and whether a read that fixes the first column is planned once; of the others that is the planner's
/// affair.
const ABOVE: &[(&str, &str, Option<bool>)] = &[
    (
        "joined",
        "SELECT u.user_id, u.n, d.day, d.n AS of_day FROM users AS u JOIN days AS d ON u.user_id = d.user_id",
        Some(true),
    ),
    (
        "beside",
        "SELECT u.user_id, u.n, a.kinds, a.user_id AS other FROM users AS u LEFT JOIN (SELECT user_id, kinds FROM actions \
         WHERE user_id > 'u3') AS a ON u.user_id = a.user_id",
        None,
    ),
    (
        "ranked",
        "SELECT user_id, day, n, row_number() OVER (PARTITION BY user_id ORDER BY n DESC) AS place FROM days",
        Some(true),
    ),
    (
        "both",
        "SELECT user_id, n FROM users UNION ALL SELECT user_id, count(*) FROM days GROUP BY user_id",
        Some(true),
    ),
    (
        "rare",
        "SELECT user_id FROM users EXCEPT SELECT user_id FROM days WHERE n > 3",
        None,
    ),
    (
        "steps",
        "WITH a AS (SELECT user_id, day, n FROM ranked WHERE place <= 3), b AS (SELECT user_id, sum(n) AS n FROM a GROUP BY \
         user_id) SELECT b.user_id AS who, b.n, j.of_day FROM b JOIN joined AS j USING (user_id)",
        None,
    ),
    (
        "shares",
        "SELECT user_id, n, n * 1.0 / sum(n) OVER () AS share FROM users",
        Some(false),
    ),
    (
        "first",
        "SELECT user_id, n FROM users ORDER BY n DESC LIMIT 4",
        Some(false),
    ),
    (
        "valued",
        "SELECT user_id, n FROM users WHERE n > (SELECT min(x) FROM (SELECT 0 AS x UNION ALL SELECT 1) AS v)",
        Some(false),
    ),
    (
        "placed",
        "SELECT user_id, n, row_number() OVER (ORDER BY n) AS place FROM users",
        Some(false),
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_point_read_of_a_view_above_folds_is_planned_once_and_stays_right() {
    let views: Vec<String> = ABOVE
        .iter()
        .map(|(name, query, _)| format!("CREATE VIEW {name} AS {query};\n"))
        .collect();
    let platform = Platform::new(&format!("{PIPELINE}{}", views.concat())).await;
    let (log, ends) = random_log(&platform.catalog, 11, 120, 12);
    for (name, _, planned) in ABOVE {
        let view = platform.catalog.view(name).unwrap();
        let by = [view.schema.field(0).name().clone()];
        let plan = platform.catalog.point_plan(view, &by).await.unwrap();
        assert!(
            planned.is_none_or(|planned| planned == plan.is_some()),
            "{name}: {plan:?}"
        );
        // What is no key spares nothing.
        let plan = platform.catalog.point_plan(view, &["n".to_owned()]).await;
        assert!(plan.is_err() || plan.unwrap().is_none(), "{name} by n");
    }
    // The second seam is over another generation, with the same plans.
    for (cuts, until, seed) in [([20, 25, 15], [35, 30, 35], 3), ([30, 28, 34], [1000, 1000, 1000], 4)] {
        let numbered = |numbers: [u64; 3]| at(&[(0, numbers[0]), (1, numbers[1]), (2, numbers[2])]);
        let mut untils = numbered(until);
        for (partition, end) in &ends {
            let until = untils.get_mut(partition).unwrap();
            *until = (*until).min(*end);
        }
        platform.seam_at(&log, &numbered(cuts), &untils, seed).await;
        for (name, ..) in ABOVE {
            let all = read(&platform, name, &[]).await.unwrap();
            assert!(all.num_rows() > 0 || *name == "rare", "{name}");
            let by = all.schema().field(0).name().clone();
            let key = |user: &str| {
                let users = all.column(0).as_string::<i32>();
                let equal = users.iter().map(|other| Some(other == Some(user))).collect();
                filter_record_batch(&all, &equal).unwrap()
            };
            let reads = (0..13).map(|user| {
                let (platform, by) = (&platform, &by);
                async move {
                    let user = format!("u{user}");
                    let found = read(platform, name, &[(by, &user)]).await.unwrap();
                    let few = read(
                        platform,
                        name,
                        &[(by, &format!("in.({user},u5)")), (by, &format!("neq.{user}"))],
                    )
                    .await;
                    (user, found, few.unwrap())
                }
            });
            // All at once, and each kind of them again and again.
            for (user, found, few) in futures::future::join_all(reads).await {
                assert_same(&found, &key(&user), &format!("{name} {user}"));
                let expected = if user == "u5" { key("nobody") } else { key("u5") };
                assert_same(&few, &expected, &format!("{name} {user} and u5"));
            }
        }
    }
}

/// Zeros of both signs are one value, wherever a view is put together.
#[tokio::test]
async fn a_condition_takes_zeros_of_both_signs() {
    let platform = Platform::new(&format!(
        "{PIPELINE} CREATE VIEW zeros AS SELECT user_id, first_value(CAST(amount AS DOUBLE) * -0.0) AS zero FROM events \
         GROUP BY user_id; CREATE VIEW zeros_above AS SELECT user_id, zero FROM zeros;"
    ))
    .await;
    let (log, ends) = random_log(&platform.catalog, 11, 120, 12);
    platform
        .seam_at(&log, &at(&[(0, 60), (1, 70), (2, 30)]), &ends, 3)
        .await;
    let sql = "SELECT count(*) AS n FROM zeros WHERE zero = 0";
    let counted = platform.serving.sql(sql, Mode::Merged).await.unwrap();
    let counted = one_batch(&counted).column(0).as_primitive::<Int64Type>().value(0);
    for view in ["zeros", "zeros_above"] {
        for zero in ["0", "-0.0", "gte.0"] {
            let found = read(&platform, view, &[("zero", zero)]).await.unwrap();
            assert_eq!(found.num_rows() as i64, counted, "{view} {zero}");
        }
    }
    assert!(counted > 3, "{counted}");
}
