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

/// The files of `infra/kubernetes/base`, which every pod is made of.
fn manifests() -> String {
    let names = [
        "account", "archive", "batch", "collect", "network", "pod", "serve", "speed",
    ];
    names
        .map(|name| file(&format!("infra/kubernetes/base/{name}.yaml")))
        .concat()
}

#[test]
fn pods_are_given_settings_that_there_are() {
    let files = manifests();
    let variables = words(&files, "FOLDLINE__");
    assert!(variables.len() > 7, "only {variables:?}");
    let folder = tempfile::tempdir().unwrap();
    let settings = format!("{}/infra/kubernetes/example/foldline.toml", env!("CARGO_MANIFEST_DIR"));
    let mut config = command(folder.path(), &["config", "--format", "csv", "--config", &settings]);
    for variable in variables.iter().filter(|variable| !variable.contains("__KAFKA__")) {
        // `{ name: X, value: "1" }`, or the value on the next line; others come from the pod: its address, its memory.
        let said = files.split(&format!("name: {variable}")).nth(1).unwrap();
        let said = said.split_once("value: ").filter(|(between, _)| between.len() < 30);
        let value = said.map(|(_, rest)| rest.split(['\n', '}']).next().unwrap().trim().trim_matches('"'));
        config.env(variable, value.unwrap_or("4294967296"));
    }
    let output = config.output().unwrap();
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for variable in variables.iter().filter(|variable| !variable.contains("__KAFKA__")) {
        let origin = format!(",{variable}");
        assert!(shown.lines().any(|line| line.ends_with(&origin)), "{variable}: {shown}");
    }
    assert!(shown.contains("log.brokers,kafka-bootstrap.kafka.svc:9092"), "{shown}");
}

#[test]
fn pods_are_given_arguments_and_asked_for_paths_that_there_are() {
    let files = manifests();
    let folder = Folder::new();
    let mut roles = BTreeSet::new();
    for line in files.lines().filter_map(|line| line.trim().strip_prefix("args: [")) {
        let arguments: Vec<&str> = line
            .trim_end_matches(']')
            .split(',')
            .map(|word| word.trim().trim_matches('"'))
            .collect();
        let role = arguments.iter().position(|word| *word == "--role").unwrap();
        roles.insert(arguments[role + 1].to_owned());
        // It gets as far as to look for its settings; and with those, for its pipelines.
        let refused = text(&foldline(folder.path(), &arguments).stderr);
        assert!(
            refused.contains("/etc/foldline/settings/foldline.toml"),
            "{arguments:?}: {refused}"
        );
        let there: Vec<&str> = arguments
            .iter()
            .take_while(|word| **word != "--config")
            .copied()
            .collect();
        let refused = text(&foldline(folder.path(), &[there.as_slice(), &["--pipelines", "nowhere"]].concat()).stderr);
        assert!(refused.contains("nowhere"), "{there:?}: {refused}");
    }
    assert_eq!(
        roles.iter().map(String::as_str).collect::<Vec<_>>(),
        ["archive", "batch", "collect", "serve", "speed"]
    );

    folder.set("[batch]\nschedule = \"\"\n");
    let running = folder.start().ready();
    let asked: BTreeSet<&str> = files
        .match_indices("httpGet: { path: ")
        .map(|(at, found)| files[at + found.len()..].split(',').next().unwrap())
        .collect();
    assert_eq!(asked, BTreeSet::from(["/healthz", "/readyz"]));
    for path in asked {
        assert!(running.get(path).contains(" 200 "), "{path}");
    }
    running.terminate();
}

/// As Kubernetes mounts a ConfigMap: links into a hidden folder, which is a link, too.
#[test]
fn pipelines_of_a_config_map_are_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipelines = folder.path().join("pipelines");
    let hidden = pipelines.join("..2026_03_01_10_00_00.1");
    std::fs::create_dir_all(&hidden).unwrap();
    std::os::unix::fs::symlink(hidden.file_name().unwrap(), pipelines.join("..data")).unwrap();
    for name in ["streams.sql", "views.sql"] {
        let example = file(&format!("infra/kubernetes/example/pipelines/{name}"));
        std::fs::write(hidden.join(name), example).unwrap();
        std::os::unix::fs::symlink(format!("..data/{name}"), pipelines.join(name)).unwrap();
    }
    let output = foldline(folder.path(), &["check", "pipelines"]);
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert!(text(&output.stdout).contains("page_days"), "{}", text(&output.stdout));
}
