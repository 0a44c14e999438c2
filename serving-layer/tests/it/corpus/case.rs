//! A file of the corpus: streams, views, and what its comments say.
//!
//! ```text
//! -- events: shop records=60 seed=7                 a generator of `events.rs` with its settings
//! -- event 0: {"user_id": "u1", "at": "..."}        or events by hand: partition, JSON; they arrive in this order, each
//! -- event 2 @2024-01-10T00:00:00Z: {...}           at its event time, or at the time behind @
//! -- plain VIEW: SELECT ...                         the view in plain SQL, where it has functions of foldline's own;
//! -- duckdb VIEW: SELECT ...                        and in DuckDB's dialect, or `none`
//! -- fails VIEW: out of range                       over all events the view is an error that says so
//! ```
//!
//! A line that begins with `--` and three spaces goes on with the one before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::DateTime;
use serde_json::Value;

use super::events::{self, Record};

/// One file.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) text: String,
    /// In the order of their arrival.
    pub(crate) records: Vec<Record>,
    /// Plain SQL by view.
    pub(crate) plain: BTreeMap<String, String>,
    /// DuckDB's SQL by view.
    pub(crate) duckdb: BTreeMap<String, String>,
    /// Part of the error by view.
    pub(crate) fails: BTreeMap<String, String>,
}

/// The folder of the corpus.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/agreement")
}

/// The `.sql` files of `folder` in the order of their names, with their texts.
pub(crate) fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

impl Case {
    pub(crate) fn new(name: String, text: String) -> Self {
        let mut case = Self {
            name,
            records: Vec::new(),
            plain: BTreeMap::new(),
            duckdb: BTreeMap::new(),
            fails: BTreeMap::new(),
            text,
        };
        for (head, body) in directives(&case.text.clone()) {
            let words: Vec<&str> = head.split(' ').collect();
            match words.as_slice() {
                ["events"] => case.records.extend(events::generated(&body)),
                ["event", partition, at @ ..] => {
                    let at = at.first().map(|at| at.trim_start_matches('@'));
                    case.records
                        .push(by_hand(&case.text, partition.parse().unwrap(), at, body));
                }
                ["plain", view] => drop(case.plain.insert((*view).to_owned(), body)),
                ["duckdb", view] => drop(case.duckdb.insert((*view).to_owned(), body)),
                ["fails", view] => drop(case.fails.insert((*view).to_owned(), body)),
                other => panic!("{}: {other:?} is no directive", case.name),
            }
        }
        case
    }

    /// The declaration of `view`, up to its SELECT.
    fn options(&self, view: &str) -> &str {
        let (_, declared) = self.text.split_once(&format!("CREATE VIEW {view} ")).unwrap();
        declared.split_once("AS").unwrap().0
    }

    /// Whether late rows are left out of `view`, whose query is `sql`.
    pub(crate) fn drops_late(&self, view: &str, sql: &str) -> bool {
        let windowed = ["tumble(", "hop(", "session("]
            .iter()
            .any(|window| sql.contains(window));
        windowed && sql.contains("GROUP BY") && !self.options(view).contains("late = 'keep'")
    }
}

/// What stands before and behind the first colon of each directive.
fn directives(text: &str) -> Vec<(String, String)> {
    let mut directives: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if let (true, Some(more), Some((_, body))) = (open, line.strip_prefix("--   "), directives.last_mut()) {
            *body = format!("{body} {}", more.trim());
            continue;
        }
        let known = ["-- events:", "-- event ", "-- plain ", "-- duckdb ", "-- fails "];
        open = known.iter().any(|start| line.starts_with(start));
        if open {
            let (head, body) = line[3..].split_once(": ").unwrap();
            directives.push((head.to_owned(), body.to_owned()));
        }
    }
    directives
}

/// An event of the first stream of `text`.
fn by_hand(text: &str, partition: u32, at: Option<&str>, json: String) -> Record {
    let (_, stream) = text.split_once("CREATE STREAM ").unwrap();
    let stream = stream.split([' ', '(']).next().unwrap();
    let event: Value = serde_json::from_str(&json).unwrap();
    let column = text
        .split_once("event_time = '")
        .map(|(_, rest)| rest.split('\'').next().unwrap());
    let at = at
        .or_else(|| event.get(column?)?.as_str())
        .expect("an event has a time");
    Record {
        stream: stream.to_owned(),
        partition,
        timestamp_ms: DateTime::parse_from_rfc3339(at).unwrap().timestamp_millis(),
        json,
    }
}
