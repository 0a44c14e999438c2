//! `foldline explain` in its three formats against the texts in `explain/`. `REWRITE=1` writes them anew.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cli::{foldline, text, write};

const PIPELINE: &str = r#"
CREATE STREAM clicks (user_id TEXT, page TEXT, price DOUBLE, ms BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', partitions = 2);

CREATE VIEW tumbling WITH (retention = '48 hours') AS
SELECT page, tumble(at, INTERVAL '1 day', timezone => 'Europe/Berlin') AS day, count(*) AS clicks,
       avg(price) AS avg_price, approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY ms) AS p90
FROM clicks WHERE page <> 'a "quoted" \ page' GROUP BY 1, 2 HAVING count(*) > 1;

CREATE VIEW hopping AS
SELECT page, hop(at, INTERVAL '10 seconds', INTERVAL '10 minutes') AS w, count(DISTINCT user_id) AS users,
       median(price) AS middle
FROM clicks GROUP BY 1, 2;

CREATE VIEW sessions AS
SELECT user_id, session(at, INTERVAL '30 minutes') AS began, window_end(session(at, INTERVAL '30 minutes')) AS ended,
       array_agg(page) AS pages
FROM clicks GROUP BY 1, 2;

CREATE VIEW derived AS
SELECT t.page, t.clicks, u.users
FROM tumbling t
JOIN (SELECT page, count(DISTINCT user_id) AS users FROM clicks GROUP BY page) u ON u.page = t.page
WHERE t.page = 'home' ORDER BY u.users DESC LIMIT 3;
"#;

const VIEWS: [&str; 4] = ["tumbling", "hopping", "sessions", "derived"];

fn explain(view: &str, format: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "sql/pipelines/web/views.sql", PIPELINE);
    let output = foldline(folder.path(), &["explain", view, "--format", format]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The ids of views are hashes that a new fold format changes, too.
fn without_ids(mut text: String, json: &serde_json::Value) -> String {
    for view in std::iter::once(json).chain(json["below"].as_array().unwrap()) {
        text = text.replace(view["id"].as_str().unwrap(), "ID");
    }
    text
}

#[test]
fn views_are_drawn_as_the_golden_texts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/explain");
    for view in VIEWS {
        let json = serde_json::from_str(&explain(view, "json")).unwrap();
        for (format, ending) in [("text", "txt"), ("json", "json"), ("dot", "dot")] {
            let drawn = without_ids(explain(view, format), &json);
            let path = folder.join(format!("{view}.{ending}"));
            if std::env::var_os("REWRITE").is_some() {
                std::fs::write(&path, drawn).unwrap();
                continue;
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(drawn, golden, "{}: REWRITE=1 writes it anew", path.display());
        }
    }
}

#[test]
fn text_is_the_default_and_other_formats_are_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "sql/pipelines/web/views.sql", PIPELINE);
    let plain = foldline(folder.path(), &["explain", "hopping"]);
    assert_eq!(text(&plain.stdout), explain("hopping", "text"));
    let unknown = foldline(folder.path(), &["explain", "hopping", "--format", "svg"]);
    assert_eq!(unknown.status.code(), Some(2));
    let sentence = text(&unknown.stderr);
    assert!(
        sentence.contains("text") && sentence.contains("json") && sentence.contains("dot"),
        "{sentence}"
    );
}

#[test]
fn graphs_are_dot_and_their_edges_join_declared_nodes() {
    for view in VIEWS {
        let graph = graph(&explain(view, "dot")).unwrap_or_else(|wrong| panic!("{view}: {wrong}"));
        let (nodes, edges) = (&graph.nodes, &graph.edges);
        assert!(nodes.contains("stream clicks"), "{nodes:?}");
        let mut reached = BTreeSet::from([format!("view {view}")]);
        for _ in nodes {
            for (from, to) in edges {
                assert!(nodes.contains(from) && nodes.contains(to), "{from} -> {to}");
                if reached.contains(to) {
                    reached.insert(from.clone());
                }
            }
        }
        assert_eq!(&reached, nodes, "everything leads to the view");
    }
    let derived = graph(&explain("derived", "dot")).unwrap();
    for node in ["view tumbling", "view derived.1", "merge derived.1", "finish derived"] {
        assert!(derived.nodes.contains(node), "{node}");
    }
    for wrong in [
        "digraph \"a\" {",
        "digraph \"a\" { \"b\" -> ; }",
        "digraph \"a\" { \"b\" [label=\"\"c\"]; }",
    ] {
        assert!(graph(wrong).is_err(), "{wrong}");
    }
}

#[derive(Debug, Default)]
struct Graph {
    nodes: BTreeSet<String>,
    edges: Vec<(String, String)>,
}

/// As much of Graphviz's language as is written: nodes and edges, each with attributes, names and labels in quotes.
fn graph(dot: &str) -> Result<Graph, String> {
    let mut tokens = tokens(dot)?.into_iter();
    let mut next = move || tokens.next().unwrap_or(Token::End);
    let expect = |token: Token, wanted: &str| match token {
        Token::Word(word) if word == wanted => Ok(()),
        other => Err(format!("{other:?} instead of {wanted}")),
    };
    expect(next(), "digraph")?;
    let Token::Quoted(_) = next() else {
        return Err("a graph without a name".to_owned());
    };
    expect(next(), "{")?;
    let mut graph = Graph::default();
    loop {
        let name = match next() {
            Token::Word(word) if word == "}" => break,
            Token::Word(word) if word == "node" => None,
            Token::Quoted(name) => Some(name),
            other => return Err(format!("{other:?} where a statement begins")),
        };
        let mut token = next();
        if token == Token::Word("->".to_owned()) {
            match (name, next()) {
                (Some(from), Token::Quoted(to)) => graph.edges.push((from, to)),
                other => return Err(format!("an edge of {other:?}")),
            }
            token = next();
        } else if let Some(name) = name
            && !graph.nodes.insert(name.clone())
        {
            return Err(format!("{name} is declared twice"));
        }
        if token == Token::Word("[".to_owned()) {
            loop {
                let Token::Word(_) = next() else {
                    return Err("an attribute without a name".to_owned());
                };
                expect(next(), "=")?;
                next();
                match next() {
                    Token::Word(word) if word == "," => {}
                    closing => break expect(closing, "]")?,
                }
            }
            token = next();
        }
        expect(token, ";")?;
    }
    match next() {
        Token::End => Ok(graph),
        other => Err(format!("{other:?} behind the graph")),
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    End,
}

fn tokens(dot: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut characters = dot.chars().peekable();
    while let Some(first) = characters.next() {
        if first == '"' {
            let mut text = String::new();
            loop {
                match characters.next() {
                    None => return Err("a quote that does not end".to_owned()),
                    Some('"') => break,
                    Some('\n') => return Err("a line that ends in quotes".to_owned()),
                    Some('\\') => match characters.next() {
                        Some(escaped @ ('"' | '\\')) => text.push(escaped),
                        Some('l' | 'n') => text.push('\n'),
                        other => return Err(format!("an escape of {other:?}")),
                    },
                    Some(other) => text.push(other),
                }
            }
            tokens.push(Token::Quoted(text));
        } else if first.is_ascii_alphabetic() {
            let mut word = String::from(first);
            while let Some(more) = characters.next_if(char::is_ascii_alphanumeric) {
                word.push(more);
            }
            tokens.push(Token::Word(word));
        } else if first == '-' && characters.next_if_eq(&'>').is_some() {
            tokens.push(Token::Word("->".to_owned()));
        } else if "{}[]=,;".contains(first) {
            tokens.push(Token::Word(first.to_string()));
        } else if !first.is_whitespace() {
            return Err(format!("{first:?} outside of quotes"));
        }
    }
    Ok(tokens)
}
