//! `foldline verify`: the audit of views. See [`crate::audit`] for how.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::Setting;
use crate::audit::Finding;
use crate::failure::Failure;
use crate::gaps::{self, Gap};
use crate::instance::Instance;
use crate::output::say;
use crate::output::{self, Format, Row};
use crate::platform::Role;
use crate::progress;

/// Recompute views from the raw log and compare: exit code 1 if any answer differs or could not be compared
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  foldline verify product_days\n  foldline verify --all --format json")]
pub(crate) struct Verify {
    /// Name of a view
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    view: Option<String>,
    /// Every view
    #[arg(long)]
    all: bool,
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

const COLUMNS: [&str; 8] = [
    "view",
    "equal",
    "class",
    "rows",
    "raw_rows",
    "generation",
    "difference",
    "part",
];

impl Verify {
    /// Audits and prints.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let instance = Instance::open(&setting, &[Role::Speed, Role::Serve]).await?;
        let outcome = self.audit(&instance).await;
        let gaps = gaps::ask(&instance).await;
        instance.close().await;
        let (findings, gaps) = (outcome?, gaps?);
        let rows: Vec<Row> = findings.iter().map(row).collect();
        output::print(&COLUMNS, &rows, self.format);
        if self.format == Format::Table {
            let unequal = findings.iter().filter(|finding| finding.equal != Some(true));
            unequal.for_each(tell);
        }
        let names = |equal: Option<bool>| {
            let alike = findings.iter().filter(|finding| finding.equal == equal);
            alike
                .map(|finding| finding.view.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (wrong, unaudited) = (names(Some(false)), names(None));
        let mut sentences = Vec::new();
        if !wrong.is_empty() {
            sentences.push(format!("not equal to plain SQL over the raw log: {wrong}"));
        }
        if !unaudited.is_empty() {
            sentences.push(format!(
                "could not be audited: {unaudited}; the reason stands with each"
            ));
        }
        let (open, accepted): (Vec<&Gap>, Vec<&Gap>) = gaps.iter().partition(|gap| gap.is_open());
        let named = |gaps: &[&Gap]| gaps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !accepted.is_empty() {
            eprintln!("lost, and in no answer: {}", named(&accepted));
        }
        if !open.is_empty() {
            sentences.push(format!(
                "gone from the log unread: {}; foldline gaps accept",
                named(&open)
            ));
        }
        match sentences.as_slice() {
            [] => Ok(()),
            _ => Err(Failure::No(sentences.join("; ")).into()),
        }
    }

    async fn audit(&self, instance: &Instance) -> anyhow::Result<Vec<Finding>> {
        if instance.is_ours() {
            instance.catch_up().await?;
        }
        let spinner = progress::spinner("reading the raw log");
        let body = json!({ "view": self.view });
        let done = instance.client().follow("/v1/admin/verify", &body, |line| {
            let view = line["step"].as_str().unwrap_or_default();
            spinner.set_message(format!("{view}: {} raw rows", line["raw_rows"]));
        });
        let done = done.await;
        spinner.finish_and_clear();
        serde_json::from_value(done?).context("cannot read the findings")
    }
}

fn row(finding: &Finding) -> Row {
    let coverage = finding.coverage.as_ref();
    let columns = [
        ("view", json!(finding.view)),
        ("equal", json!(finding.equal)),
        ("class", json!(coverage.map(|coverage| coverage.class))),
        ("rows", json!(finding.rows)),
        ("raw_rows", json!(finding.raw_rows)),
        ("generation", json!(coverage.and_then(|coverage| coverage.generation))),
        ("difference", json!(finding.difference)),
        ("part", json!(finding.part)),
    ];
    columns
        .into_iter()
        .map(|(name, value): (&str, Value)| (name.to_owned(), value))
        .collect()
}

/// The whole of what a table cell may cut off.
fn tell(finding: &Finding) {
    say!(
        "{}: {}",
        finding.view,
        finding.difference.as_deref().unwrap_or("differs")
    );
    if let Some(part) = &finding.part {
        say!("  wrong in {part}");
    }
    if let Some(coverage) = &finding.coverage {
        say!(
            "  the answer covers {}",
            json!({ "generation": coverage.generation, "until": coverage.until })
        );
    }
}
