//! `foldline query`: read-only SQL over merged answers.

use anyhow::Context;
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::Setting;
use crate::client::{self, Client};
use crate::failure::Failure;
use crate::instance::Instance;
use crate::output::say;
use crate::output::{self, Format, Row};
use crate::platform::Role;

/// Ask the merged views in SQL
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline query \"SELECT * FROM product_days ORDER BY reviews DESC LIMIT 5\"")]
pub(crate) struct Query {
    /// One SELECT statement
    sql: String,
    /// Answer at the cut of this generation, without speed
    #[arg(long, value_name = "GENERATION", conflicts_with_all = ["batch_only", "speed_only"])]
    at: Option<u64>,
    /// The current generation alone
    #[arg(long, conflicts_with = "speed_only")]
    batch_only: bool,
    /// Only what lies behind the cut
    #[arg(long)]
    speed_only: bool,
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

impl Query {
    /// Asks and prints.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let instance = Instance::open(&setting, &[Role::Speed, Role::Serve]).await?;
        if instance.is_ours() && self.at.is_none() && !self.batch_only {
            instance.catch_up().await?;
        }
        let outcome = self.ask(instance.client()).await;
        instance.close().await;
        outcome
    }

    async fn ask(&self, client: &Client) -> anyhow::Result<()> {
        let mut body = json!({ "sql": self.sql });
        if let Some(generation) = self.at {
            body["at"] = json!(generation);
        }
        if self.batch_only {
            body["batch_only"] = json!(true);
        }
        if self.speed_only {
            body["speed_only"] = json!(true);
        }
        let accept = match self.format {
            Format::Csv => "text/csv",
            Format::Json | Format::Table => "application/json",
        };
        let answer = client::send(client.post("/v1/query").header("accept", accept).json(&body)).await?;
        if self.format == Format::Table {
            let answer: Value = answer.json().await.context("cannot read the answer")?;
            print_table(&answer);
            return Ok(());
        }
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Failure::Unreachable(format!("the answer broke off: {error}")))?;
            output::write(&chunk);
        }
        if self.format == Format::Json {
            say!("");
        }
        Ok(())
    }
}

/// The rows, then in one line what they cover.
fn print_table(answer: &Value) {
    let list = |key: &str| answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let meta = list("meta");
    let columns: Vec<&str> = meta.iter().filter_map(|column| column["name"].as_str()).collect();
    let rows: Vec<Row> = list("data").iter().filter_map(|row| row.as_object().cloned()).collect();
    output::print(&columns, &rows, Format::Table);
    let coverage = &answer["coverage"];
    say!(
        "generation {}, as of {}, {}",
        coverage["generation"],
        coverage["as_of"].as_str().unwrap_or("the beginning"),
        coverage["class"].as_str().unwrap_or("class unknown"),
    );
}
