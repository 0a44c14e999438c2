//! What `infra/` names, the software has: metrics on the dashboard and in alerts, settings and roles in containers.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::{command, foldline, text, write};
use crate::installation::Folder;

/// Shown only where the log does not wait for whoever reads it, as an embedded one does.
const OF_KAFKA: [&str; 2] = ["foldline_retention_alarm", "foldline_retention_used"];

/// The file at `path` of this repository.
fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every word of `text` that begins with `prefix`.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let of_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(of_word))
        .map(|(at, _)| {
            let rest = &text[at..];
            &rest[..rest.find(|letter: char| !of_word(letter)).unwrap_or(rest.len())]
        })
        .collect()
}

#[test]
fn dashboard_and_alerts_name_metrics_that_there_are() {
    let declared = file("serving-layer/src/http/metrics.rs");
    for name in OF_KAFKA {
        let name = name.trim_start_matches("foldline_");
        assert!(declared.contains(&format!("\"{name}\"")), "{name}");
    }
    let files = file("infra/grafana/dashboards/foldline.json")
        + &file("infra/prometheus/alerts.yml")
        + &file("infra/prometheus/alerts_test.yml")
        + &file("infra/prometheus/prometheus.yml");
    let named = words(&files, "foldline_");
    assert!(named.len() > 30, "only {named:?}");

    let folder = Folder::new();
    folder.set("[archive]\nroll_age_ms = 200\n[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"\"\n");
    let running = folder.start().ready();
    // With dead letters and repeated rows; and a value that does not fit, which is counted, too.
    folder.import_visits();
    let unfit = "{\"visit_id\":\"unfit\",\"page\":\"/0\",\"seconds\":\"many\",\"at\":\"2026-03-03T10:00:00Z\"}\n";
    write(folder.path(), "unfit.ndjson", unfit);
    folder.ok(&["import", "unfit.ndjson", "--stream", "visits", "--wait"]);
    folder.ok(&["batch", "run"]);
    folder.ok(&["query", "SELECT count(*) AS pages FROM pages"]);
    let since = Instant::now();
    loop {
        let metrics = running.get("/metrics");
        let lines = metrics.lines().filter(|line| !line.starts_with('#'));
        let shown: BTreeSet<&str> = lines.filter_map(|line| line.split(['{', ' ']).next()).collect();
        let absent: Vec<_> = named
            .iter()
            .filter(|name| !shown.contains(**name) && !OF_KAFKA.contains(*name))
            .collect();
        if absent.is_empty() {
            break;
        }
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "after a minute still without {absent:?}: {metrics}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    running.terminate();
}

#[test]
fn containers_are_given_settings_that_there_are() {
    let files = file("infra/compose.yaml") + &file("infra/Dockerfile");
    let variables = words(&files, "FOLDLINE__");
    assert!(variables.len() > 5, "only {variables:?}");
    let folder = tempfile::tempdir().unwrap();
    let mut config = command(folder.path(), &["config", "--format", "csv"]);
    for variable in &variables {
        // What a script makes up when it runs is an address.
        let value = files
            .lines()
            .find_map(|line| line.trim().strip_prefix(variable)?.strip_prefix(": "));
        config.env(variable, value.unwrap_or("http://speed-1:8080").trim_matches('"'));
    }
    let output = config.output().unwrap();
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for variable in variables {
        let origin = format!(",{variable}");
        assert!(shown.lines().any(|line| line.ends_with(&origin)), "{variable}: {shown}");
    }
}

#[test]
fn containers_are_given_roles_that_there_are() {
    let compose = file("infra/compose.yaml");
    // "--role x" of a script and "--role, x," of a list.
    let roles: BTreeSet<&str> = compose
        .split("--role")
        .skip(1)
        .filter_map(|rest| rest.split([' ', ',']).find(|word| !word.is_empty()))
        .collect();
    assert_eq!(roles, BTreeSet::from(["archive", "batch", "collect", "serve", "speed"]));
    let folder = tempfile::tempdir().unwrap();
    for role in roles {
        // It gets as far as to look for its pipelines.
        let output = foldline(folder.path(), &["run", "--role", role, "--pipelines", "nowhere"]);
        let refused = text(&output.stderr);
        assert!(refused.contains("nowhere"), "{role}: {refused}");
    }
}
