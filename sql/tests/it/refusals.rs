//! What does not fold is refused with its position, the reason and what to write instead.

use std::fmt::Write as _;

use foldline_sql::{Catalog, SourceFile};

use crate::rows::STREAM;

/// Every refusal of `refusals.txt` in the form it is shown: run with `REWRITE=1` to write it anew, then read it.
#[tokio::test]
async fn refusals_say_where_why_and_what_instead() {
    let path = format!("{}/tests/it/refusals.txt", env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read_to_string(&path).unwrap();
    let mut found = String::new();
    for case in golden.split("\n\n").filter(|case| !case.trim().is_empty()) {
        let sql: Vec<&str> = case.lines().filter(|line| !line.starts_with("-> ")).collect();
        let sql = sql.join("\n");
        let text = if sql.contains("CREATE STREAM") {
            sql.clone()
        } else {
            format!("{}{sql}", STREAM.replace('\n', " "))
        };
        let file = SourceFile {
            name: "a.sql".into(),
            text,
        };
        let refusals = Catalog::compile(&[file]).await.err().unwrap_or_default();
        writeln!(found, "{sql}").unwrap();
        for refusal in refusals {
            writeln!(found, "-> {refusal}").unwrap();
        }
        found.push('\n');
    }
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, found.trim_end().to_owned() + "\n").unwrap();
        return;
    }
    assert_eq!(found.trim_end(), golden.trim_end());
    let cases = golden.split("\n\n").count();
    assert!(golden.matches("-> a.sql:").count() >= cases, "every case is refused");
}

#[tokio::test]
async fn all_refusals_of_all_files_come_at_once() {
    let file = |name: &str, text: &str| SourceFile {
        name: name.into(),
        text: text.into(),
    };
    let refusals = Catalog::compile(&[
        file(
            "a.sql",
            "SELECT 1; CREATE STREAM s (a INT) WITH (topic = 's');\nDROP TABLE x;",
        ),
        file("b.sql", "CREATE VIEW v AS SELECT a, rank() OVER () FROM s;"),
    ])
    .await
    .unwrap_err();
    let places: Vec<String> = refusals
        .iter()
        .map(|refusal| format!("{}:{}", refusal.file, refusal.line))
        .collect();
    assert_eq!(places, ["a.sql:1", "a.sql:2", "b.sql:1"]);
}
