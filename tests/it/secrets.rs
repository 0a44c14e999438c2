//! Planted secrets appear nowhere: not in what commands print, not in a log at the level debug, not in metrics.

use std::process::{Command, Stdio};

use crate::cli::text;
use crate::installation::Folder;

const PLANTED: &str = "hush-hush";

/// Every secret of a cloud that foldline may be given, planted.
fn planted() -> Vec<(&'static str, String)> {
    let key = format!(
        "{{\"type\": \"service_account\", \"client_email\": \"a@b.c\", \"private_key_id\": \"{PLANTED}\", \
         \"private_key\": \"-----BEGIN PRIVATE KEY-----\\n{PLANTED}\\n-----END PRIVATE KEY-----\\n\"}}"
    );
    vec![
        ("AWS_ENDPOINT", "http://127.0.0.1:9".into()),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", "known".into()),
        ("AWS_SECRET_ACCESS_KEY", format!("{PLANTED}-key")),
        ("AWS_SESSION_TOKEN", format!("{PLANTED}-token")),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", key),
        ("AZURE_STORAGE_ACCOUNT_NAME", "known".into()),
        ("AZURE_STORAGE_ACCOUNT_KEY", "aHVzaC1odXNo".into()),
        ("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9".into()),
    ]
}

/// Whether `said` holds what was planted, as it is or in base64.
fn assert_hushed(said: &str, what: &str) {
    for secret in [PLANTED, "aHVzaC1odXNo"] {
        let line = said.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{what}: {}", line.unwrap_or_default());
    }
}

fn loudly(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = folder.command(arguments);
    command.env("RUST_LOG", "debug");
    command
}

#[test]
fn secrets_of_stores_that_are_away_or_refuse_them_are_not_told() {
    for store in ["s3://bucket/x", "gs://bucket/x", "az://container/x"] {
        let folder = Folder::on_store(store, &planted());
        for arguments in [&["status"][..], &["config"], &["run"]] {
            let output = loudly(&folder, arguments).output().unwrap();
            let said = text(&output.stdout) + &text(&output.stderr);
            assert_hushed(&said, &format!("{store} {arguments:?}"));
            assert!(
                arguments == ["config"] || !output.status.success(),
                "{store} {arguments:?}: {said}"
            );
        }
    }
    // Where people put them although there is no place for them.
    let folder = Folder::on_store(&format!("s3://known:{PLANTED}@bucket/x"), &planted());
    for arguments in [&["status"][..], &["config"]] {
        let output = loudly(&folder, arguments).output().unwrap();
        assert_hushed(
            &(text(&output.stdout) + &text(&output.stderr)),
            &format!("{arguments:?}"),
        );
    }
}

#[test]
fn the_key_of_a_warehouse_is_not_told() {
    let (_, key) = planted()
        .into_iter()
        .find(|(name, _)| *name == "GOOGLE_SERVICE_ACCOUNT_KEY")
        .unwrap();
    for (credentials, environment) in [
        ("key.json", Vec::new()),
        ("", vec![("GOOGLE_SERVICE_ACCOUNT_KEY", key.clone())]),
    ] {
        let folder = Folder::on_store("", &environment);
        crate::cli::write(folder.path(), "key.json", &key);
        folder.set(&format!(
            "[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"\"\n[warehouse]\nkind = \"bigquery\"\nproject = \"p\"\n\
             dataset = \"d\"\nlocation = \"US\"\nendpoint = \"https://127.0.0.1:9\"\ncredentials = \"{credentials}\"\n"
        ));
        folder.write_visits();
        for arguments in [
            &["import", "visits.ndjson", "--stream", "visits"][..],
            &["batch", "run"],
            &["warehouse", "load"],
            &["warehouse", "status"],
            &["config"],
        ] {
            let output = loudly(&folder, arguments).output().unwrap();
            let said = text(&output.stdout) + &text(&output.stderr);
            assert_hushed(&said, &format!("{arguments:?}"));
        }
    }
}

#[test]
fn servers_and_their_secrets_are_not_told() {
    let stores = std::env::var("FOLDLINE_TEST_STORES").unwrap_or_default();
    let Some(store) = stores.split_whitespace().find(|store| store.starts_with("s3://")) else {
        return;
    };
    let secret = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap();
    let folder = Folder::on_store(&format!("{store}/{}", uuid::Uuid::new_v4()), &[]);
    folder.set("[archive]\nroll_age_ms = 100\n[speed]\ncut_every_ms = 50\n[batch]\nschedule = \"* * * * * *\"\n");
    folder.write_visits();
    let log = folder.path().join("log");
    let mut child = loudly(&folder, &["run"])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut said = String::new();
    for arguments in [
        &["import", "visits.ndjson", "--stream", "visits", "--wait"][..],
        &["verify", "--all"],
        &["status"],
        &["config"],
        &["archive", "audit"],
    ] {
        let output = loudly(&folder, arguments).output().unwrap();
        said += &(text(&output.stdout) + &text(&output.stderr));
    }
    let address = std::fs::read_to_string(folder.path().join("foldline-data/address")).unwrap();
    let host = address.split("http://").nth(1).unwrap().split('"').next().unwrap();
    for path in ["GET /metrics", "GET /v1/status", "GET /readyz"] {
        said += &crate::kafka::ask(host, path, "", "").1;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    said += &std::fs::read_to_string(&log).unwrap();
    assert!(said.len() > 10_000, "the log is loud: {} bytes", said.len());
    let line = said.lines().find(|line| line.contains(&secret));
    assert!(line.is_none(), "{line:?}");
}
