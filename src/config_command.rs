//! `foldline config`: the merged configuration with the origin of each value.

use clap::Args;
use serde_json::json;

use crate::Setting;
use crate::output::{self, Format, Row};

/// Print the merged configuration with the origin of each value; secrets are hidden
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  FOLDLINE__BATCH__KEEP=3 foldline config")]
pub(crate) struct ConfigCommand {
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

impl ConfigCommand {
    /// Prints it.
    pub(crate) fn run(self, setting: &Setting) -> anyhow::Result<()> {
        let rows: Vec<Row> = setting
            .merged
            .origins
            .iter()
            .map(|origin| {
                let columns = [
                    ("setting", &origin.key),
                    ("value", &origin.value),
                    ("origin", &origin.origin),
                ];
                columns
                    .into_iter()
                    .map(|(name, text)| (name.to_owned(), json!(text)))
                    .collect()
            })
            .collect();
        output::print(&["setting", "value", "origin"], &rows, self.format);
        Ok(())
    }
}
