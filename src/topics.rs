//! `foldline topics create`: the declared topics on the brokers.

use std::sync::Arc;

use clap::{Args, Subcommand};
use foldline_event_log::{EventLog, SystemClock};

use crate::config::LogKind;
use crate::failure::Failure;
use crate::output::say;
use crate::{Setting, log, pipelines};

/// Topics of a log on Kafka
#[derive(Debug, Args)]
pub(crate) struct TopicsCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create the topics of the declared streams, and add partitions that are missing
    #[command(after_help = "Example:\n  foldline topics create")]
    Create,
}

impl TopicsCommand {
    /// Creates and prints.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let Action::Create = self.action;
        let settings = &setting.merged.settings;
        if settings.log.kind != LogKind::Kafka {
            let help = "the embedded log makes topics by itself; this command is for log.kind = \"kafka\"";
            return Err(Failure::Usage(help.into()).into());
        }
        let catalog = pipelines::compile(&pipelines::read(&settings.pipelines)?).await?;
        let log: Arc<dyn EventLog> = log::kafka(settings, Arc::new(SystemClock))?;
        for stream in catalog.streams() {
            let topic = log.ensure_topic(&stream.topic, stream.partitions).await?;
            let (name, partitions, life) = (&topic.name, topic.partitions, topic.incarnation);
            say!("{name}: {partitions} partitions, id {life}");
        }
        drop(tokio::task::spawn_blocking(move || drop(log)).await);
        Ok(())
    }
}
