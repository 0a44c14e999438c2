//! `foldline batch run` and `foldline batch history`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::Setting;
use crate::failure::Failure;
use crate::instance::Instance;
use crate::output::{self, Format, Row};
use crate::platform::Role;
use crate::progress;

/// Recompute the batch views now, or list past runs
#[derive(Debug, Args)]
pub(crate) struct Batch {
    #[command(subcommand)]
    command: BatchCommand,
}

#[derive(Debug, Subcommand)]
enum BatchCommand {
    Run(BatchRun),
    History(BatchHistory),
}

/// One recompute now, at the newest tick, waiting for the archive to reach it; exit code 1 if a view failed
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  foldline batch run\n  foldline batch run --full --until 2026-01-31T00:00:00Z")]
struct BatchRun {
    /// From every archived row, instead of from the last generation on
    #[arg(long)]
    full: bool,
    /// Cut at the last kept tick that is not after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Past runs, newest first
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline batch history --format json")]
struct BatchHistory {
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

const HISTORY_COLUMNS: [&str; 6] = ["started", "scheduled", "caught_up", "finished", "state", "warehouse"];
const RUN_COLUMNS: [&str; 8] = [
    "generation",
    "published_now",
    "kind",
    "based_on",
    "cut_at",
    "rows",
    "files",
    "elapsed_ms",
];

impl Batch {
    /// Runs or lists.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        match self.command {
            BatchCommand::Run(run) => run.run(setting).await,
            BatchCommand::History(history) => {
                output::print_from(
                    &setting,
                    &[Role::Batch],
                    "/v1/admin/batch/runs",
                    &HISTORY_COLUMNS,
                    history.format,
                )
                .await
            }
        }
    }
}

impl BatchRun {
    async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let until_ms = self.until.as_deref().map(parse_time).transpose()?;
        let instance = Instance::open(&setting, &[Role::Archive, Role::Batch]).await?;
        let bar = progress::bar("recompute");
        let body = json!({ "full": self.full, "until_ms": until_ms });
        let done = instance
            .client()
            .follow("/v1/admin/batch/runs", &body, |line| progress::show(&bar, line))
            .await;
        bar.finish_and_clear();
        instance.close().await;
        let rows: Vec<Row> = match done? {
            Value::Object(row) => vec![row],
            _ => Vec::new(),
        };
        output::print(&RUN_COLUMNS, &rows, self.format);
        let warehouse = rows.iter().find_map(|row| row.get("warehouse")?["error"].as_str());
        if let Some(error) = warehouse {
            eprintln!("the warehouse is behind: {error}");
        }
        let complaint = rows.iter().find_map(|row| row.get("complaint")?.as_str());
        match complaint {
            Some(complaint) => Err(Failure::No(complaint.to_owned()).into()),
            None => Ok(()),
        }
    }
}

fn parse_time(text: &str) -> Result<i64, Failure> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|error| Failure::Usage(format!("--until {text}: {error}; write it like 2026-01-31T12:00:00Z")))
}
