//! `foldline run`: the platform, or some of its roles, until it is told to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::Setting;
use crate::instance::is_locked;
use crate::output::say;
use crate::pipelines;
use crate::platform::{Platform, Role, Start};

/// Who starts anew waits so long for a command that holds the data.
const LOCKED_WITHIN: Duration = Duration::from_secs(60);
const LOCKED_AGAIN: Duration = Duration::from_millis(100);

/// Run the platform until SIGINT or SIGTERM
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline run --data-dir ./foldline-data --listen 127.0.0.1:8080")]
pub(crate) struct Run {
    /// Roles of this process [default: all]
    #[arg(long = "role", value_enum, value_delimiter = ',')]
    roles: Vec<Role>,
}

impl Run {
    /// Runs it.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let settings = &setting.merged.settings;
        let stopped = told_to_stop();
        tokio::pin!(stopped);
        let mut again_until: Option<Instant> = None;
        loop {
            let start = Start {
                roles: if self.roles.is_empty() {
                    Role::ALL.to_vec()
                } else {
                    self.roles.clone()
                },
                listen: settings.http.listen.clone(),
                files: pipelines::read(&settings.pipelines)?,
                stays: true,
            };
            let platform = tokio::select! {
                stopped = &mut stopped => return stopped,
                platform = Platform::start(&setting, start) => platform,
            };
            let platform = match platform {
                // A command that found nobody meanwhile opens the data itself, for moments.
                Err(error) if is_locked(&error) && again_until.is_some_and(|until| Instant::now() < until) => {
                    tokio::time::sleep(LOCKED_AGAIN).await;
                    continue;
                }
                platform => platform?,
            };
            say!("foldline is listening on {}", platform.url());
            let core = Arc::clone(platform.core());
            let stopped = tokio::select! {
                stopped = &mut stopped => Some(stopped),
                () = core.grown.notified() => None,
            };
            drop(core);
            tracing::info!("stopping");
            platform.stop().await;
            if let Some(stopped) = stopped {
                return stopped;
            }
            again_until = Some(Instant::now() + LOCKED_WITHIN);
        }
    }
}

/// Returns at SIGINT or SIGTERM.
pub(crate) async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
