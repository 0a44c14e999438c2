//! `foldline status`: partitions, lag, cut, coverage, generation, freshness per view.

use clap::Args;
use serde_json::{Value, json};

use crate::Setting;
use crate::instance::Instance;
use crate::output::say;
use crate::output::{self, Format, Row};
use crate::platform::Role;

/// Show partitions, lag, generation, and coverage and freshness per view
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline status")]
pub(crate) struct Status {
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

const PARTITION_COLUMNS: [&str; 10] = [
    "stream",
    "partition",
    "earliest",
    "end",
    "archived_until",
    "speed_until",
    "lag",
    "lag_seconds",
    "segments",
    "bytes",
];
const VIEW_COLUMNS: [&str; 7] = [
    "view",
    "state",
    "class",
    "generation",
    "as_of",
    "freshness_seconds",
    "reason",
];

impl Status {
    /// Asks and prints.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let instance = Instance::open(&setting, &[Role::Speed, Role::Serve]).await?;
        let status = self.ask(&instance).await;
        instance.close().await;
        let status = status?;
        match self.format {
            Format::Json => say!("{}", serde_json::to_string_pretty(&status)?),
            Format::Csv => output::print(&PARTITION_COLUMNS, &partitions(&status), self.format),
            Format::Table => {
                output::print(&PARTITION_COLUMNS, &partitions(&status), self.format);
                say!("");
                output::print(&VIEW_COLUMNS, &views(&status), self.format);
                say!("");
                if let Some(warehouse) = status["warehouse"].as_object() {
                    let holds = warehouse["generation"]
                        .as_u64()
                        .map(|number| format!("generation {number}"));
                    let place = warehouse["place"].as_str().unwrap_or_default();
                    say!("warehouse: {} in {place}", holds.as_deref().unwrap_or("nothing yet"));
                    if let Some(error) = warehouse["error"].as_str() {
                        say!("  {error}");
                    }
                }
                say!("ready: {}", status["ready"]);
                for reason in status["reasons"].as_array().into_iter().flatten() {
                    say!("  {}", reason.as_str().unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    async fn ask(&self, instance: &Instance) -> anyhow::Result<Value> {
        if instance.is_ours() {
            instance.catch_up().await?;
        }
        instance.client().get_json("/v1/status").await
    }
}

fn partitions(status: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for stream in status["streams"].as_array().into_iter().flatten() {
        for partition in stream["partitions"].as_array().into_iter().flatten() {
            let mut row = Row::new();
            row.insert("stream".to_owned(), stream["name"].clone());
            for name in &PARTITION_COLUMNS[1..] {
                row.insert((*name).to_owned(), partition[*name].clone());
            }
            rows.push(row);
        }
    }
    rows
}

fn views(status: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for view in status["views"].as_array().into_iter().flatten() {
        let coverage = &view["coverage"];
        let columns = [
            ("view", view["name"].clone()),
            ("state", view["state"].clone()),
            ("class", view["class"].clone()),
            ("generation", coverage["generation"].clone()),
            ("as_of", coverage["as_of"].clone()),
            ("freshness_seconds", coverage["freshness_seconds"].clone()),
            ("reason", view.get("reason").cloned().unwrap_or(json!(null))),
        ];
        rows.push(
            columns
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        );
    }
    rows
}
