//! The command as people type it: exit codes, refusals, and what needs no data.

use std::path::Path;
use std::process::{Command, Output};

const STREAM: &str = "CREATE STREAM clicks (id TEXT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (topic = 'clicks', format = 'json', partitions = 2, key = 'id', event_time = 'at');\n";

/// The command in `folder`, with nothing configured from outside.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foldline"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FOLDLINE__")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments);
    command
}

/// Runs the command in `folder`.
pub(crate) fn foldline(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn every_subcommand_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    let subcommands: [&[&str]; 20] = [
        &["demo"],
        &["run"],
        &["check"],
        &["explain"],
        &["import"],
        &["query"],
        &["batch", "run"],
        &["batch", "history"],
        &["generations", "list"],
        &["generations", "rollback"],
        &["generations", "pin"],
        &["generations", "unpin"],
        &["verify"],
        &["archive", "audit"],
        &["archive", "dead-letters"],
        &["status"],
        &["warehouse", "load"],
        &["warehouse", "verify"],
        &["warehouse", "status"],
        &["config"],
    ];
    for subcommand in subcommands {
        let help = foldline(folder.path(), &[subcommand, &["--help"]].concat());
        assert_eq!(help.status.code(), Some(0), "{subcommand:?}");
        let help = text(&help.stdout);
        assert!(
            help.contains("Example") && help.contains("foldline "),
            "{subcommand:?}: {help}"
        );
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(foldline(folder.path(), &["no-such-command"]).status.code(), Some(2));
    write(folder.path(), "foldline.toml", "[speed]\ncut_evry_ms = 1\n");
    let refused = foldline(folder.path(), &["config"]);
    assert_eq!(refused.status.code(), Some(2));
    let sentence = text(&refused.stderr);
    assert!(
        sentence.contains("\"speed.cut_evry_ms\" in foldline.toml"),
        "{sentence}"
    );
    assert_eq!(sentence.lines().count(), 1, "one sentence: {sentence}");
}

#[test]
fn flags_override_the_environment_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_foldline"))
        .current_dir(folder.path())
        .env("FOLDLINE__DATA_DIR", "/from/environment")
        .env("FOLDLINE__BATCH__KEEP", "3")
        .args(["config", "--format", "csv", "--data-dir", "/from/flag"])
        .output()
        .unwrap();
    let lines = text(&output.stdout);
    assert!(lines.contains("data_dir,/from/flag,--data-dir"), "{lines}");
    assert!(lines.contains("batch.keep,3,FOLDLINE__BATCH__KEEP"), "{lines}");
    assert!(lines.contains("batch.timezone,UTC,default"), "{lines}");
}

#[test]
fn check_prints_what_is_declared() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "sql/pipelines/web/streams.sql", STREAM);
    let view = "CREATE VIEW per_id AS SELECT id, count(*) AS clicks FROM clicks GROUP BY id;";
    write(folder.path(), "sql/pipelines/web/views.sql", view);
    let output = foldline(folder.path(), &["check", "--format", "csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    assert!(lines.contains("stream,clicks"), "{lines}");
    assert!(lines.contains("view,per_id,exact,clicks,2"), "{lines}");
    let explained = foldline(folder.path(), &["explain", "per_id"]);
    assert!(
        text(&explained.stdout).contains("AggregateExec"),
        "{}",
        text(&explained.stdout)
    );
    let unknown = foldline(folder.path(), &["explain", "per_it"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        text(&unknown.stderr).contains("there are: per_id"),
        "{}",
        text(&unknown.stderr)
    );
}

#[test]
fn check_names_the_place_of_every_refusal() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "p/web/streams.sql", STREAM);
    let views = "CREATE VIEW a AS SELECT id, count(*) AS c FROM clicks GROUP BY id;
CREATE VIEW b AS SELECT id, random() AS r, count(*) AS c FROM clicks GROUP BY id;\n";
    write(folder.path(), "p/web/views.sql", views);
    let output = foldline(folder.path(), &["check", "p"]);
    assert_eq!(output.status.code(), Some(1));
    let lines = text(&output.stdout);
    assert!(lines.contains("p/web/views.sql:2:"), "{lines}");
}

#[test]
fn a_name_declared_by_two_pipelines_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "p/one/streams.sql", STREAM);
    write(folder.path(), "p/two/streams.sql", STREAM);
    let output = foldline(folder.path(), &["check", "p"]);
    assert_eq!(output.status.code(), Some(1));
    let lines = text(&output.stdout);
    assert!(
        lines.contains("p/two/streams.sql:1:") && lines.contains("clicks"),
        "{lines}"
    );
}
