//! Hops and sessions against naive loops that know neither panes nor fragments.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

use crate::rows::{self, fold, view};

const HOUR: i64 = 3_600_000_000;

/// User and time of the rows that count, in the order of time.
fn events(rows: &RecordBatch) -> Vec<(Option<String>, i64)> {
    let mark = |name: &str| rows.column_by_name(name).unwrap().as_boolean();
    let users = rows.column_by_name("user_id").unwrap().as_string::<i32>();
    let times = rows
        .column_by_name("at")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>();
    let kept = (0..rows.num_rows()).filter(|row| !mark("_duplicate").value(*row) && !mark("_late").value(*row));
    let mut events: Vec<_> = kept
        .map(|row| {
            (
                users.is_valid(row).then(|| users.value(row).to_owned()),
                times.value(row),
            )
        })
        .collect();
    events.sort_by_key(|event| event.1);
    events
}

type Found = BTreeMap<(Option<String>, i64), (i64, i64)>;

/// `SELECT user_id, w, e, n`.
fn found(answer: &RecordBatch) -> Found {
    let users = answer.column(0).as_string::<i32>();
    let starts = answer.column(1).as_primitive::<TimestampMicrosecondType>();
    let ends = answer.column(2).as_primitive::<TimestampMicrosecondType>();
    let counts = answer.column(3).as_primitive::<Int64Type>();
    let row = |row: usize| {
        let user = users.is_valid(row).then(|| users.value(row).to_owned());
        ((user, starts.value(row)), (ends.value(row), counts.value(row)))
    };
    let found: Found = (0..answer.num_rows()).map(row).collect();
    assert_eq!(found.len(), answer.num_rows(), "no window twice");
    found
}

#[tokio::test]
async fn hops_count_what_lies_in_them() {
    for (slide, size) in [(1, 5), (3, 4), (6, 6), (5, 2)] {
        let window = format!("hop(at, INTERVAL '{slide} hours', INTERVAL '{size} hours')");
        let query = format!(
            "SELECT user_id, {window} AS w, window_end({window}) AS e, count(*) AS n FROM events GROUP BY 1, 2"
        );
        let fold = fold(&view(&query).await);
        for seed in 0..4 {
            let rows = rows::random(seed, 150);
            let mut expected = Found::new();
            for (user, time) in events(&rows) {
                // Every multiple of the slide, far enough around the event.
                let near = time.div_euclid(slide * HOUR);
                for start in (near - 20..near + 20).map(|slides| slides * slide * HOUR) {
                    if start <= time && time < start + size * HOUR {
                        let window = expected
                            .entry((user.clone(), start))
                            .or_insert((start + size * HOUR, 0));
                        window.1 += 1;
                    }
                }
            }
            let mut partials = Vec::new();
            for piece in 0..5 {
                partials.push(fold.partial(&rows.slice(piece * 30, 30)).await.unwrap());
            }
            partials.reverse();
            assert_eq!(
                found(&fold.finish(&partials).await.unwrap()),
                expected,
                "{query}, seed {seed}"
            );
        }
    }
}

#[tokio::test]
async fn sessions_end_where_nothing_came_for_a_gap() {
    for gap in [1, 2, 5, 30] {
        let window = format!("session(at, INTERVAL '{gap} hours')");
        let query = format!(
            "SELECT user_id, {window} AS w, window_end({window}) AS e, count(*) AS n FROM events GROUP BY 1, 2"
        );
        let fold = fold(&view(&query).await);
        for seed in 0..6 {
            let rows = rows::random(seed, 150);
            let mut open: BTreeMap<Option<String>, (i64, i64, i64)> = BTreeMap::new();
            let mut expected = Found::new();
            for (user, time) in events(&rows) {
                let session = open.entry(user.clone()).or_insert((time, time, 0));
                // Exactly one gap later is another session.
                if time - session.1 >= gap * HOUR {
                    *session = (time, time, 0);
                }
                *session = (session.0, time, session.2 + 1);
                expected.insert((user, session.0), (time + gap * HOUR, session.2));
            }
            // One row a partial, merged from both ends: every bridge is found late.
            let mut partials = Vec::new();
            for row in 0..rows.num_rows() {
                partials.push(fold.partial(&rows.slice(row, 1)).await.unwrap());
            }
            let later = partials.split_off(70);
            let halves = [fold.merge(&later).await.unwrap(), fold.merge(&partials).await.unwrap()];
            assert_eq!(
                found(&fold.finish(&halves).await.unwrap()),
                expected,
                "{query}, seed {seed}"
            );
        }
    }
}
