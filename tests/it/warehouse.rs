//! The warehouse of a whole installation: loaded after batch runs, compared, mended; away, it holds nobody up.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{text, write};
use crate::installation::Folder;

const QUICK: &str = "[archive]\nroll_age_ms = 100\n[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"\"\n";

/// The Parquet files of the local warehouse below `table`, in order.
fn files(folder: &Folder, table: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.path().join("foldline-data/warehouse").join(table)];
    while let Some(inner) = folders.pop() {
        for entry in std::fs::read_dir(inner).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|end| end == "parquet") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Which tables were loaded, and how many slices of each.
fn loaded(report: &str) -> Vec<(String, u64)> {
    let tables = json(report);
    let tables = tables.as_array().unwrap().iter();
    tables
        .map(|table| {
            (
                table["table"].as_str().unwrap().to_owned(),
                table["loaded"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_batch_run_is_followed_by_its_load() {
    let folder = Folder::new();
    folder.import_visits();
    folder.ok(&["batch", "run"]);
    folder.ok(&["warehouse", "verify"]);
    // Three days of a fold, three of what stands above it, and one table without a day.
    let counts = ["page_days", "days", "pages", "_foldline"].map(|table| files(&folder, table).len());
    assert_eq!(counts, [3, 3, 1, 1]);
    let status = json(&folder.ok(&["warehouse", "status", "--format", "json"]));
    assert_eq!(
        (&status[0]["generation"], &status[0]["error"]),
        (&Value::from(1), &Value::Null)
    );
    let again = loaded(&folder.ok(&["warehouse", "load", "--format", "json"]));
    assert!(
        again.len() == 4 && again.iter().all(|(_, loaded)| *loaded == 0),
        "nothing differs: {again:?}"
    );

    // A late visit of the second day: that day alone is written again.
    let before: Vec<_> = files(&folder, "page_days")
        .iter()
        .map(|path| std::fs::metadata(path).unwrap().modified().unwrap())
        .collect();
    let late = "{\"visit_id\":\"new\",\"page\":\"/0\",\"seconds\":1,\"at\":\"2026-03-02T23:00:00Z\"}\n";
    write(folder.path(), "late.ndjson", late);
    folder.ok(&["import", "late.ndjson", "--stream", "visits", "--wait"]);
    folder.ok(&["batch", "run"]);
    let after: Vec<_> = files(&folder, "page_days")
        .iter()
        .map(|path| std::fs::metadata(path).unwrap().modified().unwrap())
        .collect();
    let changed: Vec<bool> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| before != after)
        .collect();
    assert_eq!(changed, [false, true, false]);
    folder.ok(&["warehouse", "verify"]);

    // Damage is told with its day; nothing differs from the ledger, so only a full load mends it.
    let victim = &files(&folder, "page_days")[2];
    std::fs::write(victim, b"PAR1").unwrap();
    let told = folder.no(&["warehouse", "verify"]);
    assert!(
        told.contains("could not be compared: page_days: cannot read page_days/_day=2026-03-03/rows.parquet"),
        "{told}"
    );
    std::fs::copy(&files(&folder, "page_days")[0], victim).unwrap();
    let told = folder.no(&["warehouse", "verify"]);
    assert!(
        told.contains("not what generation 2 has: page_days: 2026-03-03: 7 rows, and other values"),
        "{told}"
    );
    let full = folder.ok(&["warehouse", "load", "--full", "--format", "json"]);
    assert_eq!(
        loaded(&full),
        [
            ("pages".into(), 1),
            ("page_days".into(), 3),
            ("days".into(), 3),
            ("_foldline".into(), 1)
        ]
    );
    folder.ok(&["warehouse", "verify"]);
}

#[test]
fn a_running_foldline_loads_what_it_publishes() {
    let folder = Folder::new();
    folder.set("[archive]\nroll_age_ms = 100\n[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"* * * * * *\"\n");
    let running = folder.start().ready();
    folder.import_visits();
    let since = Instant::now();
    while files(&folder, "page_days").len() < 3 || !running.get("/metrics").contains("foldline_warehouse_generation") {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "{}",
            running.get("/v1/status")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    folder.ok(&["warehouse", "load"]);
    folder.ok(&["warehouse", "verify"]);
    let history = json(&folder.ok(&["batch", "history", "--format", "json"]));
    let told = history.as_array().unwrap().iter().map(|run| &run["warehouse"]);
    assert!(told.clone().any(|told| told == "loaded"), "{history}");
    let metrics = running.get("/metrics");
    assert!(metrics.contains("\nfoldline_warehouse_complaint 0"), "{metrics}");
    assert!(
        metrics.contains("foldline_warehouse_loads_total{outcome=\"ended\"}"),
        "{metrics}"
    );
    assert!(folder.ok(&["status"]).contains("warehouse: generation"));
    running.terminate();
}

#[test]
fn a_warehouse_that_is_away_is_told_and_fails_no_batch_run() {
    let folder = Folder::new();
    let away = "[warehouse]\nkind = \"bigquery\"\nproject = \"p\"\ndataset = \"d\"\nlocation = \"US\"\nendpoint = \"http://127.0.0.1:9\"\n";
    folder.set(&format!("{QUICK}{away}"));
    let running = folder.start().ready();
    folder.import_visits();
    let run = folder.run(&["batch", "run"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let since = Instant::now();
    // The sample, not the help above it.
    while !running.get("/metrics").contains("\nfoldline_warehouse_complaint 1") {
        assert!(since.elapsed() < Duration::from_secs(60), "{}", running.get("/metrics"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let history = json(&folder.ok(&["batch", "history", "--format", "json"]));
    let told = history[0]["warehouse"].as_str().unwrap();
    assert!(
        told.starts_with("not loaded: ") && told.contains("Connection refused"),
        "{history}"
    );
    assert!(
        running.get("/v1/status").contains("Connection refused"),
        "{}",
        running.get("/v1/status")
    );
    assert!(running.get("/readyz").contains(" 200 "));
    folder.no(&["warehouse", "verify"]);
    running.terminate();

    folder.set(&format!("{QUICK}[warehouse]\nkind = \"none\"\n"));
    assert!(folder.no(&["warehouse", "status"]).contains("warehouse.kind is none"));
    assert!(files(&folder, "").is_empty());
}

/// A warehouse that takes every connection and answers nothing.
#[test]
fn a_warehouse_that_hangs_holds_up_no_batch_run() {
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new();
    let place = hanging.local_addr().unwrap();
    let hangs = format!(
        "[warehouse]\nkind = \"bigquery\"\nproject = \"p\"\ndataset = \"d\"\nlocation = \"US\"\nendpoint = \"http://{place}\"\n"
    );
    folder.set(&format!("{QUICK}{hangs}"));
    let running = folder.start().ready();
    folder.import_visits();
    let since = Instant::now();
    folder.ok(&["batch", "run"]);
    // Behind it the load begins, and hangs.
    let (asking, _) = hanging.accept().unwrap();
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    assert!(running.get("/readyz").contains(" 200 "));
    drop(asking);
    running.terminate();
}

#[test]
fn a_warehouse_moves_with_its_data() {
    let folder = Folder::new();
    folder.import_visits();
    folder.ok(&["batch", "run"]);
    let moved = Folder::new();
    std::fs::rename(folder.path().join("foldline-data"), moved.path().join("foldline-data")).unwrap();
    moved.ok(&["warehouse", "verify"]);
    let again = loaded(&moved.ok(&["warehouse", "load", "--format", "json"]));
    assert!(again.iter().all(|(_, loaded)| *loaded == 0), "{again:?}");
    let late = "{\"visit_id\":\"new\",\"page\":\"/0\",\"seconds\":1,\"at\":\"2026-03-02T23:00:00Z\"}\n";
    write(moved.path(), "late.ndjson", late);
    moved.ok(&["import", "late.ndjson", "--stream", "visits", "--wait"]);
    moved.ok(&["batch", "run"]);
    moved.ok(&["warehouse", "verify"]);
}

#[test]
fn archived_events_are_tables_where_that_is_wanted() {
    let folder = Folder::new();
    folder.set(&format!("{QUICK}[warehouse]\nevents = \"visits\"\n"));
    folder.import_visits();
    folder.ok(&["batch", "run"]);
    folder.ok(&["warehouse", "verify"]);
    let days = files(&folder, "visits");
    assert_eq!(days.len(), 3, "{days:?}");
    let written = |files: &[PathBuf]| -> Vec<std::time::SystemTime> {
        let times = files
            .iter()
            .map(|path| std::fs::metadata(path).unwrap().modified().unwrap());
        times.collect()
    };
    let before = written(&days);
    let late = "{\"visit_id\":\"new\",\"page\":\"/0\",\"seconds\":1,\"at\":\"2026-03-02T23:00:00Z\"}\n";
    write(folder.path(), "late.ndjson", late);
    folder.ok(&["import", "late.ndjson", "--stream", "visits", "--wait"]);
    folder.ok(&["batch", "run"]);
    folder.ok(&["warehouse", "verify"]);
    let after = written(&files(&folder, "visits"));
    let changed: Vec<bool> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| before != after)
        .collect();
    assert_eq!(changed, [false, true, false]);

    std::fs::copy(&days[0], &days[2]).unwrap();
    let told = folder.no(&["warehouse", "verify"]);
    assert!(told.contains("visits: 2026-03-03: "), "{told}");
    folder.ok(&["warehouse", "load", "--full"]);
    folder.ok(&["warehouse", "verify"]);
}

#[test]
fn settings_of_the_warehouse_name_what_there_is() {
    let folder = Folder::new();
    for (settings, told) in [
        (
            "views = \"pages, paegs\"",
            "there is no view \"paegs\"; there are: pages, page_days, days",
        ),
        ("events = \"vists\"", "there is no stream \"vists\"; there are: visits"),
        (
            "day_of = \"page_days: page\"",
            "no column \"page\" of type DATE or TIMESTAMP",
        ),
        ("day_of = \"page_days\"", "\"view: value\""),
        ("expire = \"soon\"", "write \"3 days\", \"48 hours\" or \"none\""),
        (
            "kind = \"bigquery\"\nproject = \"p\"",
            "setting \"warehouse.dataset\" must name",
        ),
        (
            "kind = \"bigquery\"\nproject = \"p/x\"\ndataset = \"d\"\nlocation = \"US\"",
            "setting \"warehouse.project\" must name",
        ),
        ("url = \"s3://a:b@c/d\"", "may hold no name or password"),
    ] {
        folder.set(&format!("{QUICK}[warehouse]\n{settings}\n"));
        let output = folder.run(&["warehouse", "status"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{settings}: {said}");
        assert!(said.contains(told), "{settings}: {said}");
    }
    let settings = "views = \"page_days, pages\"\nexpire_of = \"page_days: 48 hours\"\nday_of = \"page_days: none\"";
    folder.set(&format!("{QUICK}[warehouse]\n{settings}\n"));
    folder.import_visits();
    folder.ok(&["batch", "run"]);
    assert_eq!(
        ["page_days", "days", "pages"].map(|table| files(&folder, table).len()),
        [1, 0, 1]
    );
    // Another division: the table is made anew, without a batch run.
    let one = "views = \"page_days\"\n";
    folder.set(&format!("{QUICK}[warehouse]\n{one}"));
    folder.ok(&["warehouse", "load"]);
    folder.ok(&["warehouse", "verify"]);
    assert_eq!(files(&folder, "page_days").len(), 3);
    // These days ended long ago.
    folder.set(&format!("{QUICK}[warehouse]\n{one}expire = \"2 days\"\n"));
    folder.ok(&["warehouse", "load"]);
    folder.ok(&["warehouse", "verify"]);
    assert!(files(&folder, "page_days").is_empty());
    folder.set(&format!("{QUICK}[warehouse]\n{one}"));
    folder.ok(&["warehouse", "load"]);
    assert_eq!(files(&folder, "page_days").len(), 3);
}

/// Where FOLDLINE_TEST_BIGQUERY names a stand-in.
#[test]
fn servers_bigquery_takes_an_installation() {
    let Ok(endpoint) = std::env::var("FOLDLINE_TEST_BIGQUERY") else {
        return;
    };
    let folder = Folder::new();
    let bigquery = format!(
        "[warehouse]\nkind = \"bigquery\"\nproject = \"test\"\ndataset = \"warehouse\"\nlocation = \"US\"\nendpoint = \"{endpoint}\"\n"
    );
    folder.set(&format!("{QUICK}{bigquery}"));
    folder.import_visits();
    folder.ok(&["batch", "run"]);
    folder.ok(&["warehouse", "verify"]);
    let late = "{\"visit_id\":\"new\",\"page\":\"/0\",\"seconds\":1,\"at\":\"2026-03-02T23:00:00Z\"}\n";
    write(folder.path(), "late.ndjson", late);
    folder.ok(&["import", "late.ndjson", "--stream", "visits", "--wait"]);
    folder.ok(&["batch", "run"]);
    folder.ok(&["warehouse", "verify"]);
    let full = loaded(&folder.ok(&["warehouse", "load", "--full", "--format", "json"]));
    assert_eq!(
        full[..3],
        [("pages".into(), 1), ("page_days".into(), 3), ("days".into(), 3)]
    );
    folder.ok(&["warehouse", "verify"]);
    println!("{endpoint} takes an installation");
}
