//! What is said about a fold is what the fold does.

use foldline_sql::explain::{Explanation, FoldPlan, ViewShape};
use foldline_sql::{Catalog, Class, Growth, SourceFile};

use crate::rows::{self, STREAM, fold, view};

async fn explained(query: &str) -> FoldPlan {
    let text = format!("{STREAM} CREATE VIEW v AS {query};");
    let file = SourceFile {
        name: "v.sql".into(),
        text,
    };
    let catalog = Catalog::compile(&[file]).await.unwrap();
    let explanation = Explanation::new(&catalog, catalog.view("v").unwrap()).unwrap();
    match explanation.view.plan {
        ViewShape::Fold(plan) => *plan,
        ViewShape::Derived(_) => panic!("{query} is one fold"),
    }
}

#[tokio::test]
async fn state_grows_as_the_aggregate_says() {
    for (aggregate, growth) in [
        ("count(*)", Growth::Constant),
        ("avg(ratio)", Growth::Constant),
        ("max(DISTINCT kind)", Growth::Constant),
        ("first_value(kind)", Growth::Constant),
        ("approx_distinct(kind)", Growth::Constant),
        ("stddev(amount)", Growth::Constant),
        ("count(DISTINCT kind)", Growth::DistinctValues),
        ("sum(DISTINCT amount)", Growth::DistinctValues),
        ("array_agg(DISTINCT kind)", Growth::DistinctValues),
        ("approx_median(ratio)", Growth::Buckets),
        ("median(ratio)", Growth::Rows),
        ("percentile_cont(0.9) WITHIN GROUP (ORDER BY amount)", Growth::Rows),
        ("array_agg(kind)", Growth::Rows),
        ("string_agg(kind, ',')", Growth::Rows),
        ("nth_value(kind, 2)", Growth::Rows),
    ] {
        let plan = explained(&format!("SELECT user_id, {aggregate} AS value FROM events GROUP BY 1")).await;
        let grown = plan.aggregates.iter().map(|aggregate| aggregate.growth);
        let most = grown.max_by_key(|growth| *growth != Growth::Constant);
        assert_eq!(most, Some(growth), "{aggregate}");
        let per_item = plan.bytes_per_key.per_item;
        assert_eq!(
            per_item > 0,
            growth != Growth::Constant,
            "{aggregate}: {per_item} bytes"
        );
        assert!(
            plan.aggregates.iter().all(|part| part.gives == ["value"]),
            "{aggregate}: {plan:?}"
        );
        let approximate = aggregate.starts_with("approx");
        assert!(
            plan.aggregates
                .iter()
                .all(|part| (part.class == Class::Approximate) == approximate),
            "{aggregate}"
        );
    }
}

#[tokio::test]
async fn keys_and_state_are_those_of_the_partial() {
    for query in [
        "SELECT user_id, kind, count(*), sum(ratio) FROM events GROUP BY ROLLUP (user_id, kind)",
        "SELECT hop(at, INTERVAL '2 hours', INTERVAL '3 hours') AS w, count(*) FROM events GROUP BY 1",
        "SELECT user_id, session(at, INTERVAL '1 hour') AS s, corr(ratio, amount) FROM events GROUP BY 1, 2",
        "SELECT count(*) FROM events",
    ] {
        let plan = explained(query).await;
        let fold = fold(&view(query).await);
        let described = plan.keys.iter().map(|key| &key.column);
        let described = described.chain(plan.aggregates.iter().flat_map(|aggregate| &aggregate.state));
        let described: Vec<_> = described
            .map(|column| (column.name.clone(), column.data_type.clone()))
            .collect();
        let fields = fold.state_schema().fields().iter();
        let stored: Vec<_> = fields
            .map(|field| (field.name().clone(), field.data_type().to_string()))
            .collect();
        assert_eq!(described, stored, "{query}");
        assert_eq!(plan.keys.len(), fold.key_columns(), "{query}");
        assert_eq!(plan.columns_read, fold.input_columns(), "{query}");
    }
}

#[tokio::test]
async fn stored_keys_are_searched_by_what_is_said() {
    let searched = async |query: &str| {
        let searched = explained(query).await.searched_by;
        let searched = searched
            .into_iter()
            .map(|searched| format!("{} {}", searched.column, searched.key));
        searched.collect::<Vec<_>>().join(", ")
    };
    let query = "SELECT tumble(at, INTERVAL '1 day') AS day, user_id AS who, count(*) FROM events GROUP BY user_id, 1";
    assert_eq!(searched(query).await, "who 1, day 2");
    let query =
        "SELECT user_id, hop(at, INTERVAL '1 hour', INTERVAL '2 hours') AS w, count(*) FROM events GROUP BY 1, 2";
    assert_eq!(searched(query).await, "user_id 1", "panes are stored and no windows");
    // Doubles have equal values of different bytes, and what is computed is not stored.
    let query = "SELECT ratio, upper(kind) || 'x' AS k, count(*) FROM events GROUP BY ratio, kind";
    assert_eq!(searched(query).await, "");
}

#[tokio::test]
async fn bytes_of_constant_state_are_about_those_of_a_partial() {
    let query = "SELECT amount, count(*), sum(big), max(at), avg(price) FROM events GROUP BY amount";
    let said = explained(query).await.bytes_per_key;
    let fold = fold(&view(query).await);
    let partial = fold.partial(&rows::random(1, 2_000)).await.unwrap();
    let weighed = foldline_sql::own_bytes(partial.batch()) as u64 / partial.keys() as u64;
    assert!(
        weighed.abs_diff(said.fixed) <= 2,
        "{weighed} bytes per key instead of {}",
        said.fixed
    );
}
