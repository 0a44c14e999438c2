//! `foldline archive audit|dead-letters`.

use anyhow::Context;
use clap::{Args, Subcommand};
use foldline_batch_layer::archive::PartitionAudit;
use serde::Deserialize;
use serde_json::json;

use crate::Setting;
use crate::client;
use crate::failure::Failure;
use crate::instance::Instance;
use crate::output::{self, Format, Row};
use crate::platform::Role;
use crate::progress;

/// The archive: completeness, dead letters
#[derive(Debug, Args)]
pub(crate) struct ArchiveCommand {
    #[command(subcommand)]
    command: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Read every file and account for every offset; exit code 1 if anything is wrong
    #[command(after_help = "Example:\n  foldline archive audit")]
    Audit {
        /// Format of the output
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// List malformed records with their reasons, newest first
    #[command(
        after_help = "Examples:\n  foldline archive dead-letters --stream reviews --limit 20\n  \
                      foldline archive dead-letters --stream reviews --partition 0 --from 81234"
    )]
    DeadLetters {
        /// Of this stream alone
        #[arg(long)]
        stream: Option<String>,
        /// Of this partition alone
        #[arg(long, requires = "stream")]
        partition: Option<u32>,
        /// From this offset of the partition on downwards
        #[arg(long, value_name = "OFFSET", requires = "partition")]
        from: Option<u64>,
        /// At most so many; no more than 1000
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Format of the output
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
}

const AUDIT_COLUMNS: [&str; 10] = [
    "partition",
    "from",
    "until",
    "commits",
    "files",
    "rows",
    "dead_letters",
    "holes",
    "gaps",
    "faults",
];
const LETTER_COLUMNS: [&str; 7] = ["stream", "partition", "offset", "record_time", "reason", "bytes", "raw"];

impl ArchiveCommand {
    /// Audits or lists.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        match self.command {
            Act::Audit { format } => audit(&setting, format).await,
            Act::DeadLetters {
                stream,
                partition,
                from,
                limit,
                format,
            } => {
                let given = [
                    Some(("limit", limit.to_string())),
                    stream.map(|stream| ("stream", stream)),
                    partition.map(|partition| ("partition", partition.to_string())),
                    from.map(|from| ("from", from.to_string())),
                ];
                let given: Vec<(&str, String)> = given.into_iter().flatten().collect();
                dead_letters(&setting, &given, format).await
            }
        }
    }
}

async fn dead_letters(setting: &Setting, given: &[(&str, String)], format: Format) -> anyhow::Result<()> {
    let instance = Instance::open(setting, &[Role::Archive]).await?;
    let request = instance.client().get("/v1/admin/archive/dead-letters").query(given);
    let letters = async {
        client::send(request)
            .await?
            .json()
            .await
            .context("cannot read the dead letters")
    }
    .await;
    instance.close().await;
    let letters: Letters = letters?;
    output::print(&LETTER_COLUMNS, &letters.rows, format);
    if letters.more {
        eprintln!("there are older ones; read on with --stream, --partition and --from, or a larger --limit");
    }
    Ok(())
}

/// What `/v1/admin/archive/dead-letters` answers.
#[derive(Debug, Deserialize)]
struct Letters {
    rows: Vec<Row>,
    more: bool,
}

async fn audit(setting: &Setting, format: Format) -> anyhow::Result<()> {
    let instance = Instance::open(setting, &[Role::Archive]).await?;
    let spinner = progress::spinner("auditing");
    let client = instance.client();
    let done = client
        .follow("/v1/admin/archive/audit", &json!({}), |line| {
            progress::show(&spinner, line)
        })
        .await;
    spinner.finish_and_clear();
    instance.close().await;
    let audits: Vec<PartitionAudit> = serde_json::from_value(done?).context("cannot read the audit")?;
    let rows: Vec<Row> = audits.iter().map(row).collect();
    output::print(&AUDIT_COLUMNS, &rows, format);
    for audit in &audits {
        for finding in &audit.findings {
            let path = finding.path.as_deref().unwrap_or("no file");
            eprintln!("{}: {} ({path})", audit.partition, finding.what);
        }
    }
    let wrong: u64 = audits.iter().map(|audit| audit.findings_in_all).sum();
    if wrong > 0 {
        return Err(Failure::No(format!("the archive has {wrong} faults")).into());
    }
    Ok(())
}

fn row(audit: &PartitionAudit) -> Row {
    let columns = [
        ("partition", json!(audit.partition.to_string())),
        ("from", json!(audit.offsets.start)),
        ("until", json!(audit.offsets.end)),
        ("commits", json!(audit.commits)),
        ("files", json!(audit.files)),
        ("rows", json!(audit.rows)),
        ("dead_letters", json!(audit.dead_letters)),
        ("holes", json!(audit.holes)),
        ("gaps", json!(audit.gaps)),
        ("faults", json!(audit.findings_in_all)),
    ];
    columns
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
