//! The arrows between the crates: who may know whom, read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// For each crate of the workspace, the crates of the workspace that it may depend on.
const ARROWS: [(&str, &[&str]); 6] = [
    ("foldline-sql", &[]),
    ("foldline-event-log", &["foldline-sql"]),
    ("foldline-speed-layer", &["foldline-event-log", "foldline-sql"]),
    ("foldline-batch-layer", &["foldline-event-log", "foldline-sql"]),
    (
        "foldline-serving-layer",
        &[
            "foldline-batch-layer",
            "foldline-event-log",
            "foldline-speed-layer",
            "foldline-sql",
        ],
    ),
    (
        "foldline",
        &[
            "foldline-batch-layer",
            "foldline-event-log",
            "foldline-serving-layer",
            "foldline-speed-layer",
            "foldline-sql",
        ],
    ),
];

/// Outside systems: each at home in one crate only.
const HOMES: [(&str, &str); 7] = [
    ("ballista-core", "foldline-batch-layer"),
    ("ballista-executor", "foldline-batch-layer"),
    ("ballista-scheduler", "foldline-batch-layer"),
    ("fjall", "foldline-event-log"),
    ("rdkafka", "foldline-event-log"),
    ("scylla", "foldline-speed-layer"),
    ("prometheus-client", "foldline-serving-layer"),
];

/// What `sql` would need to do IO.
const IO: [&str; 9] = [
    "axum",
    "fjall",
    "hyper",
    "object_store",
    "parquet",
    "rdkafka",
    "reqwest",
    "tokio",
    "tokio-util",
];

/// Normal (not test) dependencies of every crate of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().unwrap().iter();
            let normal = normal.filter(|dependency| dependency["kind"].is_null());
            (
                text(&package["name"]),
                normal.map(|dependency| text(&dependency["name"])).collect(),
            )
        })
        .collect()
}

#[test]
fn every_arrow_is_one_of_the_design() {
    let dependencies = dependencies();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    assert_eq!(
        dependencies.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        allowed.keys().copied().collect(),
        "a crate was added or removed: say here what it may know"
    );
    for (name, dependencies) in &dependencies {
        for dependency in dependencies
            .iter()
            .filter(|dependency| allowed.contains_key(dependency.as_str()))
        {
            assert!(
                allowed[name.as_str()].contains(&dependency.as_str()),
                "{name} may not know {dependency}"
            );
        }
    }
}

#[test]
fn sql_does_no_io() {
    let dependencies = dependencies();
    let found: Vec<&str> = IO
        .into_iter()
        .filter(|name| dependencies["foldline-sql"].contains(*name))
        .collect();
    assert!(found.is_empty(), "foldline-sql depends on {found:?}");
}

#[test]
fn each_outside_system_has_one_home() {
    for (dependency, home) in HOMES {
        let users: Vec<String> = dependencies()
            .into_iter()
            .filter(|(_, dependencies)| dependencies.contains(dependency))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(users, [home], "who depends on {dependency}");
    }
}
