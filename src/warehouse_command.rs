//! `foldline warehouse load|verify|status`.

use anyhow::Context;
use clap::{Args, Subcommand};
use foldline_batch_layer::warehouse::{Difference, LoadReport};
use serde_json::{Value, json};

use crate::Setting;
use crate::failure::Failure;
use crate::instance::Instance;
use crate::output::say;
use crate::output::{self, Format, Row};
use crate::platform::Role;
use crate::progress;

/// Finished rows where analysts read them: BigQuery, or Parquet files
#[derive(Debug, Args)]
pub(crate) struct WarehouseCommand {
    #[command(subcommand)]
    command: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Load the current generation: what differs from what is loaded; exit code 1 if a table could not be
    #[command(after_help = "Examples:\n  foldline warehouse load\n  foldline warehouse load --full")]
    Load {
        /// Every day of every table, whatever is loaded
        #[arg(long)]
        full: bool,
        /// Format of the output
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Read the warehouse back and compare it with its generation: exit code 1 if any table differs
    #[command(after_help = "Example:\n  foldline warehouse verify --format json")]
    Verify {
        /// Format of the output
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Where it is, and which generation it holds
    #[command(after_help = "Example:\n  foldline warehouse status --format json")]
    Status {
        /// Format of the output
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
}

const LOAD_COLUMNS: [&str; 5] = ["table", "slices", "loaded", "rows", "error"];
const VERIFY_COLUMNS: [&str; 5] = ["table", "equal", "slices", "rows", "difference"];
const STATUS_COLUMNS: [&str; 5] = ["place", "generation", "current", "loaded", "error"];

impl WarehouseCommand {
    /// Loads, compares or tells.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        match self.command {
            Act::Load { full, format } => load(&setting, full, format).await,
            Act::Verify { format } => verify(&setting, format).await,
            Act::Status { format } => {
                output::print_from(&setting, &[Role::Batch], "/v1/admin/warehouse", &STATUS_COLUMNS, format).await
            }
        }
    }
}

async fn follow(setting: &Setting, path: &str, body: &Value, what: &'static str) -> anyhow::Result<Value> {
    let instance = Instance::open(setting, &[Role::Batch]).await?;
    let spinner = progress::spinner(what);
    let told = |line: &Value| progress::show(&spinner, line);
    let done = instance.client().follow(path, body, told).await;
    spinner.finish_and_clear();
    instance.close().await;
    done
}

fn rows_of<T: serde::Serialize>(rows: &[T]) -> anyhow::Result<Vec<Row>> {
    serde_json::from_value(serde_json::to_value(rows)?).context("cannot print what came back")
}

async fn load(setting: &Setting, full: bool, format: Format) -> anyhow::Result<()> {
    let done = follow(
        setting,
        "/v1/admin/warehouse/load",
        &json!({ "full": full }),
        "loading the warehouse",
    )
    .await?;
    let report: Option<LoadReport> = serde_json::from_value(done).context("cannot read the report")?;
    let tables = report
        .as_ref()
        .map(|report| report.tables.as_slice())
        .unwrap_or_default();
    output::print(&LOAD_COLUMNS, &rows_of(tables)?, format);
    match &report {
        None if format == Format::Table => say!("nothing to load: there is no generation yet"),
        Some(report) if format == Format::Table => {
            say!("generation {}, {} ms", report.generation.0, report.elapsed_ms);
        }
        _ => {}
    }
    match report.and_then(|report| report.complaint()) {
        None => Ok(()),
        Some(complaint) => Err(Failure::No(complaint).into()),
    }
}

async fn verify(setting: &Setting, format: Format) -> anyhow::Result<()> {
    let done = follow(
        setting,
        "/v1/admin/warehouse/verify",
        &json!({}),
        "reading the warehouse",
    )
    .await?;
    let (generation, found): (u64, Vec<Difference>) =
        serde_json::from_value(done).context("cannot read the findings")?;
    output::print(&VERIFY_COLUMNS, &rows_of(&found)?, format);
    let named = |equal: Option<bool>| {
        let alike = found.iter().filter(|found| found.equal == equal);
        let told = alike.map(|found| format!("{}: {}", found.table, found.difference.as_deref().unwrap_or_default()));
        told.collect::<Vec<_>>().join("; ")
    };
    let (wrong, unread) = (named(Some(false)), named(None));
    let mut sentences = Vec::new();
    if !wrong.is_empty() {
        sentences.push(format!("not what generation {generation} has: {wrong}"));
    }
    if !unread.is_empty() {
        sentences.push(format!("could not be compared: {unread}"));
    }
    match sentences.as_slice() {
        [] => Ok(()),
        _ => Err(Failure::No(sentences.join("; ")).into()),
    }
}
