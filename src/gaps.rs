//! `foldline gaps`: offsets that left the log before they were archived.

use anyhow::Context;
use clap::{Args, Subcommand};
use foldline_event_log::Offset;
use foldline_serving_layer::coverage::rfc3339_millis;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Setting;
use crate::cluster::notes;
use crate::failure::Failure;
use crate::instance::Instance;
use crate::output::{self, Format, Row, say};
use crate::platform::{Core, Role};

/// Offsets that left the log before they were archived
#[derive(Debug, Args)]
pub(crate) struct GapsCommand {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// List the gaps, open and accepted
    #[command(after_help = "Example:\n  foldline gaps list")]
    List {
        /// Format of the output
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Record that the open gaps of a stream are lost, and go on behind them
    #[command(after_help = "Example:\n  foldline gaps accept clicks")]
    Accept {
        /// Stream
        stream: String,
    },
}

const OPEN: &str = "open";
const ACCEPTED: &str = "accepted";
const COLUMNS: [&str; 6] = ["stream", "partition", "from", "until", "state", "reason"];

/// A range of offsets that no answer holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Gap {
    stream: String,
    partition: u32,
    from: u64,
    until: u64,
    /// `open` stops its partition, `accepted` is recorded.
    state: String,
    reason: String,
}

impl Gap {
    /// Whether it stops its partition.
    pub(crate) fn is_open(&self) -> bool {
        self.state == OPEN
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            stream,
            partition,
            from,
            until,
            ..
        } = self;
        write!(formatter, "offsets {from}..{until} of {stream}/{partition}")
    }
}

/// The gaps of a foldline.
pub(crate) async fn ask(instance: &Instance) -> anyhow::Result<Vec<Gap>> {
    instance.client().get_json("/v1/admin/gaps").await
}

impl GapsCommand {
    /// Lists or accepts.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let instance = Instance::open(&setting, &[Role::Archive]).await?;
        let client = instance.client();
        let answer: anyhow::Result<Value> = match &self.act {
            Act::List { .. } => client.get_json("/v1/admin/gaps").await,
            Act::Accept { stream } => client.post_json("/v1/admin/gaps", &json!({ "stream": stream })).await,
        };
        instance.close().await;
        let gaps: Vec<Row> = serde_json::from_value(answer?)?;
        match self.act {
            Act::List { format } => output::print(&COLUMNS, &gaps, format),
            Act::Accept { .. } => {
                output::print(&COLUMNS, &gaps, Format::Table);
                say!("{} gaps accepted; the next batch run cuts behind them", gaps.len());
            }
        }
        Ok(())
    }
}

/// Every gap: the accepted ones as they are recorded, the open ones as log and archive stand now.
pub(crate) async fn list(core: &Core) -> anyhow::Result<Vec<Gap>> {
    let mut gaps = Vec::new();
    for (stream, topic, origins) in &core.topics {
        for (partition, origin) in topic.all_partitions().iter().zip(origins) {
            let gap = |from: Offset, until: Offset, state: &str, reason: String| Gap {
                stream: stream.name.clone(),
                partition: partition.partition.0,
                from: from.0,
                until: until.0,
                state: state.to_owned(),
                reason,
            };
            let commits = core.archive.commits(partition).await?;
            for commit in commits.iter() {
                if let Some(reason) = &commit.gap {
                    gaps.push(gap(commit.offsets.start, commit.offsets.end, ACCEPTED, reason.clone()));
                }
            }
            let archived = commits.last().map_or(*origin, |last| last.offsets.end);
            let earliest = core.log.span(partition).await?.earliest;
            if archived < earliest {
                gaps.push(gap(archived, earliest, OPEN, "the log begins behind it".to_owned()));
            }
        }
    }
    Ok(gaps)
}

/// Other processes would go on showing what they folded of a gap, and behind it by what was lost, or may hold records of it
/// that they are about to archive: they must not run.
async fn nobody_else(core: &Core) -> anyhow::Result<()> {
    let name = &core.settings.cluster.name;
    if name.is_empty() {
        return Ok(());
    }
    let stop = "in a cluster gaps are accepted while no process archives, folds or answers: stop the processes with the \
                roles archive, speed and serve, then run this command again";
    if core.cluster.is_some() {
        return Err(Failure::No(stop.to_owned()).into());
    }
    let roles = [Role::Archive, Role::Speed, Role::Serve];
    match notes::all_dead(core.archive.store().as_ref(), &roles).await? {
        Ok(()) => Ok(()),
        Err(url) => Err(Failure::No(format!("{stop} (one is at {url})")).into()),
    }
}

/// Records the open gaps of a stream.
pub(crate) async fn accept(core: &Core, name: &str) -> anyhow::Result<Vec<Gap>> {
    let known = core.topics.iter().find(|(stream, _, _)| stream.name == name);
    let (stream, topic, _) = known.ok_or_else(|| Failure::Usage(format!("there is no stream \"{name}\"")))?;
    nobody_else(core).await?;
    let mut accepted: Vec<Gap> = Vec::new();
    let archiver = core.archiver.as_ref();
    let archiver = archiver.ok_or_else(|| Failure::Usage("no archiver runs here that could accept gaps".to_owned()))?;
    for partition in topic.all_partitions() {
        let gap = archiver
            .gap(&partition)
            .await
            .with_context(|| match accepted.as_slice() {
                [] => "no gap was accepted".to_owned(),
                accepted => format!(
                    "accepted so far: {}",
                    accepted.iter().map(Gap::to_string).collect::<Vec<_>>().join(", ")
                ),
            })?;
        let Some(gap) = gap else { continue };
        let earliest = gap.end;
        let at = rfc3339_millis(core.clock.now_ms()).unwrap_or_default();
        let reason = format!("the log began at {earliest} when it was accepted, {at}");
        // First: what speed folded of the gap must be gone before anything is judged as if it had never been.
        if let Some(speed) = &core.speed {
            speed.lose(&partition, gap);
        }
        let commit = core
            .archive
            .accept_gap(stream, &partition, earliest, reason.clone())
            .await?;
        if let Some(commit) = commit {
            tracing::warn!(%partition, from = commit.offsets.start.0, until = commit.offsets.end.0, "gap accepted");
            accepted.push(Gap {
                stream: stream.name.clone(),
                partition: partition.partition.0,
                from: commit.offsets.start.0,
                until: commit.offsets.end.0,
                state: ACCEPTED.to_owned(),
                reason,
            });
        }
    }
    nobody_else(core).await.context(
        "the gaps are accepted, but a process was started meanwhile that may not know of them: start it once more",
    )?;
    Ok(accepted)
}
