//! `foldline generations list|rollback|pin|unpin`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::Setting;
use crate::instance::Instance;
use crate::output::say;
use crate::output::{self, Format};
use crate::platform::Role;

/// Published generations
#[derive(Debug, Args)]
pub(crate) struct GenerationsCommand {
    #[command(subcommand)]
    command: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// List stored generations, newest first
    #[command(after_help = "Example:\n  foldline generations list --format csv")]
    List {
        /// Format of the output
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Publish an older generation anew; the speed layer covers the rest
    #[command(after_help = "Example:\n  foldline generations rollback 3")]
    Rollback {
        /// Its number
        generation: u64,
    },
    /// Keep a generation until it is unpinned
    #[command(after_help = "Example:\n  foldline generations pin 3")]
    Pin {
        /// Its number
        generation: u64,
    },
    /// Take a pin away
    #[command(after_help = "Example:\n  foldline generations unpin 3")]
    Unpin {
        /// Its number
        generation: u64,
    },
}

const COLUMNS: [&str; 10] = [
    "generation",
    "kind",
    "based_on",
    "cut_at",
    "published",
    "views",
    "keys",
    "current",
    "readable",
    "pinned",
];

impl GenerationsCommand {
    /// Lists or acts.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let (generation, act) = match self.command {
            Act::List { format } => {
                return output::print_from(&setting, &[Role::Batch], "/v1/admin/generations", &COLUMNS, format).await;
            }
            Act::Rollback { generation } => (generation, "rollback"),
            Act::Pin { generation } => (generation, "pin"),
            Act::Unpin { generation } => (generation, "unpin"),
        };
        let instance = Instance::open(&setting, &[Role::Batch]).await?;
        let path = format!("/v1/admin/generations/{generation}/{act}");
        let done = instance.client().post_json::<Value>(&path, &json!({})).await;
        instance.close().await;
        let done = done?;
        match act {
            "rollback" => say!(
                "generation {} is current: it names the files of {generation}",
                done["generation"]
            ),
            "pin" => say!("generation {generation} is pinned"),
            _ => say!("generation {generation} is no longer pinned"),
        }
        Ok(())
    }
}
