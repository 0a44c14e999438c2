//! Attempts to do more than read.

use foldline_serving_layer::fence::{Refused, fence};

fn refused(sql: &str) -> String {
    match fence(sql, 65_536) {
        Ok(_) => panic!("{sql} passed the fence"),
        Err(refused) => refused.to_string(),
    }
}

#[test]
fn queries_pass_and_say_what_they_read() {
    let tables = |sql: &str| fence(sql, 65_536).unwrap().tables;
    assert_eq!(tables("SELECT 1"), Vec::<String>::new());
    assert_eq!(tables("select * from Product_Days;"), ["product_days"]);
    assert_eq!(tables("SELECT * FROM \"Odd Name\""), ["Odd Name"]);
    assert_eq!(
        tables(
            "WITH t AS (SELECT * FROM a) SELECT * FROM t JOIN (SELECT * FROM b WHERE x IN (SELECT y FROM c)) USING (x)"
        ),
        ["a", "b", "c"]
    );
    assert_eq!(tables("EXPLAIN SELECT * FROM a"), ["a"]);
    assert_eq!(tables("EXPLAIN ANALYZE SELECT * FROM a"), ["a"]);
    assert_eq!(tables("VALUES (1), (2)"), Vec::<String>::new());
    assert_eq!(tables("SELECT * FROM a UNION ALL SELECT * FROM b"), ["a", "b"]);
    assert_eq!(tables("SELECT * FROM unnest([1, 2])"), Vec::<String>::new());
}

#[test]
fn statements_that_do_more_than_read_are_refused() {
    for sql in [
        "CREATE TABLE t (a INT)",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "CREATE SCHEMA s",
        "CREATE DATABASE d",
        "DROP TABLE product_days",
        "DROP VIEW product_days",
        "ALTER TABLE product_days ADD COLUMN a INT",
        "INSERT INTO product_days VALUES (1)",
        "INSERT INTO product_days SELECT * FROM product_days",
        "UPDATE product_days SET reviews = 1",
        "DELETE FROM product_days",
        "TRUNCATE TABLE product_days",
        "MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN DELETE",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "COPY product_days TO 'x.parquet' STORED AS PARQUET",
        "COPY product_days FROM '/etc/passwd'",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "SHOW ALL",
        "SHOW TABLES",
        "SHOW CREATE TABLE a",
        "DESCRIBE a",
        "BEGIN",
        "COMMIT",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "USE other",
        "GRANT SELECT ON a TO b",
        "CALL f()",
        "KILL 1",
        "LOAD DATA INPATH 'x' INTO TABLE a",
        "INSTALL httpfs",
        "ATTACH 'x.db'",
        "PRAGMA x",
        "EXPLAIN INSERT INTO a VALUES (1)",
        "EXPLAIN COPY a TO 'x.csv'",
        "EXPLAIN ANALYZE DELETE FROM a",
        "EXPLAIN CREATE TABLE t (a INT)",
    ] {
        refused(sql);
    }
    assert!(refused("DROP TABLE product_days").contains("DROP TABLE is refused"));
}

#[test]
fn parts_that_do_more_than_read_are_refused() {
    for (sql, says) in [
        ("SELECT * INTO t FROM a", "INTO"),
        (
            "WITH x AS (INSERT INTO a VALUES (1) RETURNING 1) SELECT * FROM x",
            "INSERT",
        ),
        ("WITH x AS (DELETE FROM a RETURNING 1) SELECT * FROM x", "DELETE"),
        ("WITH x AS (UPDATE a SET b = 1 RETURNING 1) SELECT * FROM x", "UPDATE"),
        ("WITH x AS (SELECT 1) INSERT INTO a SELECT * FROM x", "INSERT"),
        ("SELECT * FROM a FOR UPDATE", "FOR UPDATE"),
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv"),
        ("SELECT * FROM generate_series(1, 1000000000)", "generate_series"),
        ("SELECT * FROM TABLE(range(1, 10))", "table"),
        ("SELECT (SELECT 1 FROM parquet_scan('x'))", "parquet_scan"),
        ("SELECT * FROM information_schema.tables", "information_schema.tables"),
        ("SELECT * FROM datafusion.public.a", "datafusion.public.a"),
        ("SELECT 1; DROP TABLE a", "2"),
        ("SELECT 1; SELECT 2", "2"),
        ("", "0"),
        ("-- nothing", "0"),
        ("SELEC 1", "parse"),
    ] {
        let text = refused(sql);
        assert!(text.contains(says), "{sql}: {text}");
    }
}

#[test]
fn paths_are_names_of_no_table() {
    // The catalog decides about names; here they only come through as what they are.
    let tables = fence("SELECT * FROM '/etc/passwd'", 65_536).map(|fenced| fenced.tables);
    assert!(matches!(&tables, Ok(tables) if tables == &["/etc/passwd"]) || tables.is_err());
}

#[test]
fn size_and_depth_are_bounded() {
    let deep = format!("SELECT {}1{}", "(".repeat(200), ")".repeat(200));
    refused(&deep);
    let deep = format!("SELECT {} true", "NOT ".repeat(500));
    refused(&deep);
    let nested = format!("{}SELECT 1{}", "SELECT * FROM (".repeat(60), ")".repeat(60));
    refused(&nested);
    for chain in [
        " + 1",
        " OR true",
        " || 'a'",
        "::BIGINT",
        " IS NULL",
        " UNION SELECT 1",
        " - -1",
    ] {
        let long = format!("SELECT 1{}", chain.repeat(5_000));
        assert!(matches!(fence(&long, 1 << 20), Err(Refused::TooLarge(_))), "{chain}");
        // As long as the bound lets it be, it must not exhaust the stack of an ordinary thread.
        let longest = format!("SELECT 1{}", chain.repeat(450));
        let _ = fence(&longest, 1 << 20);
    }
    // Whoever explains an explanation recurses.
    let explained = format!("{}SELECT 1", "EXPLAIN ".repeat(5_000));
    assert!(matches!(fence(&explained, 1 << 20), Err(Refused::TooLarge(_))));
    // The parser's time doubles with each of these.
    let nested = format!("SELECT {}1{}", "coalesce(".repeat(40), ", 1)".repeat(40));
    assert!(matches!(fence(&nested, 65_536), Err(Refused::TooLarge(_))));
    let ended = format!("SELECT {}1{}", "coalesce(1 AS end, (".repeat(20), "))".repeat(20));
    assert!(matches!(fence(&ended, 65_536), Err(Refused::TooLarge(_))));
    // And the planner's with each of these.
    let doubled: Vec<String> = (1..14)
        .map(|n| format!("t{n} AS (SELECT a.x FROM t{} AS a, t{} AS b)", n - 1, n - 1))
        .collect();
    let doubled = format!("WITH t0 AS (SELECT 1 AS x), {} SELECT * FROM t13", doubled.join(", "));
    let refused = fence(&doubled, 65_536).unwrap_err().to_string();
    assert!(refused.contains("written out"), "{refused}");
    let values: Vec<String> = (0..5_000).map(|value| format!("'{value}'")).collect();
    fence(&format!("SELECT 1 WHERE 'a' IN ({})", values.join(", ")), 65_536).unwrap();
    assert!(matches!(fence("SELECT 1", 7), Err(Refused::TooLarge(_))));
    let joins = format!("SELECT 1 FROM a{}", ", a".repeat(40));
    assert!(matches!(fence(&joins, 65_536), Err(Refused::TooLarge(_))));
}

#[test]
fn rubbish_is_refused_and_nothing_worse() {
    for sql in [
        "\0",
        "SELECT \u{0}",
        "'",
        "\"",
        "/*",
        "SELECT 'a",
        "💥",
        "SELECT * FROM \"\"",
        ";;;",
        "((((",
    ] {
        let _ = fence(sql, 65_536);
    }
}
