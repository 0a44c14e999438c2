//! What stands above folds: each view, taken apart and put together over a random cut, says what its SQL says over all
//! rows in one plan.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, not, or};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::SortExpr;
use datafusion::prelude::{DataFrame, SessionConfig, ident};
use foldline_serving_layer::Mode;

use crate::agreement::{assert_same, everything, one_batch};
use crate::platform::{Log, PIPELINE, Platform, at, between, random_log};

const QUERIES: &[&str] = &[
    "SELECT user_id, count(*) AS n FROM events GROUP BY user_id ORDER BY n DESC LIMIT 3",
    "SELECT n, count(*) AS users FROM (SELECT user_id, count(*) AS n FROM events GROUP BY user_id) GROUP BY n",
    "WITH a AS (SELECT user_id, count(*) AS n FROM events GROUP BY 1), b AS (SELECT user_id, sum(amount) AS s FROM \
     events WHERE kind = 'buy' GROUP BY 1) SELECT a.user_id, n, s FROM a LEFT JOIN b ON a.user_id = b.user_id",
    "SELECT user_id, kind, n, row_number() OVER (PARTITION BY user_id ORDER BY n DESC) AS place FROM (SELECT user_id, \
     kind, count(*) AS n FROM events GROUP BY 1, 2)",
    "SELECT user_id, kind, first FROM (SELECT user_id, kind, min(at) AS first FROM events GROUP BY 1, 2) QUALIFY \
     row_number() OVER (PARTITION BY user_id ORDER BY first) = 2",
    "SELECT user_id, n, rank() OVER (ORDER BY n) AS r, lag(n) OVER (ORDER BY n) AS before, sum(n) OVER (ORDER BY user_id \
     ROWS UNBOUNDED PRECEDING) AS running FROM (SELECT user_id, count(*) AS n FROM events GROUP BY 1)",
    "SELECT user_id, 'much' AS what FROM events GROUP BY 1 HAVING count(*) > 12 UNION ALL SELECT user_id, 'rich' FROM \
     events GROUP BY 1 HAVING sum(amount) > 100",
    "SELECT user_id FROM events GROUP BY 1 EXCEPT SELECT user_id FROM events GROUP BY 1 HAVING \
     count(*) > 25",
    "SELECT user_id, n FROM (SELECT user_id, count(*) AS n FROM events GROUP BY 1) WHERE n > (SELECT count(*) / \
     count(DISTINCT user_id) FROM events)",
    "SELECT user_id, n FROM (SELECT user_id, count(*) AS n FROM events GROUP BY 1) WHERE user_id IN (SELECT user_id FROM \
     events WHERE amount > 0 GROUP BY 1)",
    "SELECT DISTINCT kind FROM events",
    "SELECT DISTINCT n FROM (SELECT user_id, count(*) AS n FROM events GROUP BY 1)",
    "SELECT day, array_agg(user_id) AS users, string_agg(kind, ',' ORDER BY n) AS kinds FROM (SELECT tumble(at, INTERVAL \
     '1 day') AS day, user_id, kind, count(*) AS n FROM events GROUP BY 1, 2, 3) GROUP BY day",
    "SELECT kind, user_id, n, total FROM (SELECT kind, user_id, count(*) AS n, sum(amount) AS total FROM events GROUP BY \
     ROLLUP (kind, user_id)) WHERE n > 1",
    "SELECT user_id, kind, amount, at FROM events WHERE amount IS NOT NULL",
];

fn counted(log: &Log, ends: &std::collections::BTreeMap<u32, u64>, windowed: bool) -> RecordBatch {
    let batches: Vec<RecordBatch> = ends
        .iter()
        .map(|(partition, end)| between(&log[partition], 0..*end))
        .collect();
    let all = concat_batches(&batches[0].schema(), &batches).unwrap();
    let mark = |name: &str| all.column_by_name(name).unwrap().as_boolean().clone();
    let left_out = match windowed {
        true => or(&mark("_duplicate"), &mark("_late")).unwrap(),
        false => mark("_duplicate"),
    };
    filter_record_batch(&all, &not(&left_out).unwrap()).unwrap()
}

async fn in_order(frame: DataFrame) -> RecordBatch {
    let fields = frame.schema().fields().clone();
    let order: Vec<SortExpr> = fields
        .iter()
        .filter(|field| !field.data_type().is_nested())
        .map(|field| ident(field.name()).sort(true, true))
        .collect();
    let schema = Arc::clone(frame.schema().inner());
    let batches = frame.sort(order).unwrap().collect().await.unwrap();
    concat_batches(&batches.first().map_or(schema, RecordBatch::schema), &batches).unwrap()
}

#[tokio::test]
async fn views_above_folds_say_what_their_sql_says_over_all_rows() {
    let stream = PIPELINE.split("CREATE VIEW").next().unwrap();
    for query in QUERIES {
        for seed in 0..3 {
            let platform = Platform::new(&format!("{stream} CREATE VIEW v AS {query};")).await;
            let (log, ends) = random_log(&platform.catalog, seed, 60, 7);
            let cuts = [at(&[(0, 30), (1, 50)]), at(&[(2, 40)]), ends.clone()];
            platform.seam_at(&log, &cuts[seed as usize], &ends, seed).await;
            let session = foldline_sql::session_context(SessionConfig::new());
            let rows = counted(&log, &ends, query.contains("tumble"));
            let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
            session.register_table("events", Arc::new(table)).unwrap();
            let expected = in_order(session.sql(query).await.unwrap()).await;
            let mut request = everything();
            let names: Vec<String> = expected
                .schema()
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect();
            let nested = |name: &&String| !expected.column_by_name(name).unwrap().data_type().is_nested();
            let order: Vec<String> = names
                .iter()
                .filter(nested)
                .map(|name| format!("{name}.asc.nullsfirst"))
                .collect();
            request.order = foldline_serving_layer::Sort::parse(&order.join(",")).unwrap();
            let answer = platform.serving.read_view("v", request, Mode::Merged).await;
            let answer = answer.unwrap_or_else(|error| panic!("{query}: {}", error.chain()));
            assert!(expected.num_rows() > 0, "{query}");
            assert_same(&one_batch(&answer), &expected, &format!("seed {seed}: {query}"));
        }
    }
}
