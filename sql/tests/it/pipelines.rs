//! The pipelines that foldline ships compile, and mean what their comments say.

use foldline_sql::{Catalog, Class, SourceFile, ViewKind};

pub(crate) fn sources(pipeline: &str) -> Vec<SourceFile> {
    ["streams.sql", "views.sql"]
        .map(|name| {
            let path = format!("{}/pipelines/{pipeline}/{name}", env!("CARGO_MANIFEST_DIR"));
            SourceFile {
                text: std::fs::read_to_string(&path).unwrap(),
                name: path,
            }
        })
        .to_vec()
}

async fn catalog(pipeline: &str) -> Catalog {
    Catalog::compile(&sources(pipeline)).await.unwrap()
}

#[tokio::test]
async fn reviews_compile() {
    let catalog = catalog("reviews").await;
    let stream = catalog.stream("reviews").unwrap();
    assert_eq!(stream.judging_columns(), ["review_id", "product_id", "review_date"]);
    assert_eq!(stream.lateness_ms, Some(2 * 86_400_000));
    let days = catalog.view("product_days").unwrap();
    assert_eq!(days.class, Class::Exact);
    let ViewKind::Fold(fold) = &days.kind else {
        panic!("a fold")
    };
    assert!(fold.windowed());
    assert_eq!(fold.key_of_output("product_id"), Some(0));
    assert_eq!(fold.key_of_output("day"), Some(1));
    assert_eq!(fold.key_of_output("reviews"), None);
    let ViewKind::Fold(fold) = &catalog.view("products").unwrap().kind else {
        panic!("a fold")
    };
    assert!(!fold.windowed());
    assert!(!fold.input_columns().contains(&"_late".to_owned()));
    assert!(matches!(
        catalog.view("product_seasons").unwrap().kind,
        ViewKind::Derived(_)
    ));
}

#[tokio::test]
async fn clicklog_compiles() {
    let catalog = catalog("clicklog").await;
    let kinds: Vec<(&str, bool)> = catalog
        .views()
        .iter()
        .map(|view| (view.name.as_str(), matches!(view.kind, ViewKind::Fold(_))))
        .collect();
    let expected = [
        ("top_destinations", false),
        ("second_hotels", false),
        ("visits", true),
        ("market_months", true),
        ("clicks_of_users", true),
    ];
    assert_eq!(kinds, expected);
    assert!(catalog.views().iter().all(|view| view.class == Class::Exact));
    let ViewKind::Fold(fold) = &catalog.view("clicks_of_users").unwrap().kind else {
        panic!("a fold")
    };
    assert_eq!(fold.key_of_output("user_id"), Some(0));
    assert!(!fold.windowed());
}

#[tokio::test]
async fn shop_compiles() {
    let catalog = catalog("shop").await;
    let names: Vec<&str> = catalog.views().iter().map(|view| view.name.as_str()).collect();
    assert_eq!(
        names,
        ["user_profiles", "product_activity", "new_users", "session_events"]
    );
    let ViewKind::Fold(fold) = &catalog.view("session_events").unwrap().kind else {
        panic!("a fold")
    };
    assert_eq!(
        (fold.key_of_output("user_id"), fold.key_of_output("session_id")),
        (Some(0), Some(1))
    );
}

#[tokio::test]
async fn the_id_of_a_view_changes_with_its_meaning_only() {
    let id = async |stream: &str, view: &str| {
        let text = format!("CREATE STREAM s (a INT, b INT, t TIMESTAMP NOT NULL) WITH ({stream}); {view}");
        let catalog = Catalog::compile(&[SourceFile {
            name: "s.sql".into(),
            text,
        }])
        .await
        .unwrap();
        catalog.views()[0].id.clone()
    };
    let (stream, view) = (
        "event_time = 't'",
        "CREATE VIEW v AS SELECT a, count(*) AS n FROM s GROUP BY a",
    );
    let first = id(stream, view).await;
    assert_eq!(
        first,
        id(
            stream,
            "CREATE VIEW v AS\n  select a, count(*) as n -- counted\n from s group by a"
        )
        .await
    );
    assert_ne!(
        first,
        id(stream, "CREATE VIEW v AS SELECT a, count(b) AS n FROM s GROUP BY a").await
    );
    assert_ne!(first, id("event_time = 't', lateness = '1 day'", view).await);
}
