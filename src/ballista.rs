//! `foldline ballista`: the processes that fold and merge for batch runs, where `batch.engine = "ballista"`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use foldline_batch_layer::ballista::{self, ExecutorSettings, ProcessError};
use foldline_event_log::SystemClock;

use crate::failure::Failure;
use crate::{Setting, platform};

/// Processes that compute batch runs on several machines
#[derive(Debug, Args)]
pub(crate) struct BallistaCommand {
    #[command(subcommand)]
    process: Process,
}

#[derive(Debug, Subcommand)]
enum Process {
    /// Hand out the tasks of batch runs to executors
    #[command(after_help = "Example:\n  foldline ballista scheduler --address 10.0.0.5:50050")]
    Scheduler {
        /// Address that it listens on; whoever reaches it can have executors run any plan
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
        address: SocketAddr,
        /// Name or address by which executors reach it, if that is another one
        #[arg(long, value_name = "HOST")]
        advertise: Option<String>,
    },
    /// Do tasks of batch runs, on the store of the settings
    #[command(
        after_help = "Example:\n  foldline ballista executor --scheduler 10.0.0.5:50050 --address 10.0.0.6:50051"
    )]
    Executor {
        /// The scheduler
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
        scheduler: String,
        /// Address that it listens on; it takes the next port as well
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
        address: SocketAddr,
        /// Name or address by which the others reach it, if that is another one
        #[arg(long, value_name = "HOST")]
        advertise: Option<String>,
        /// Folder in which ballista-PORT is for what tasks send each other, emptied at the start [default: data_dir]
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// Tasks at the same time [default: as many as there are cores]
        #[arg(long, value_name = "N")]
        tasks: Option<usize>,
    },
}

impl BallistaCommand {
    /// Runs until it is told to stop.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        match self.process {
            Process::Scheduler { address, advertise } => {
                let mut told = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
                tokio::select! {
                    ended = ballista::scheduler(address, advertise) => ended.map_err(failure)?,
                    _ = told.recv() => {}
                    told = tokio::signal::ctrl_c() => told?,
                }
            }
            Process::Executor {
                scheduler,
                address,
                advertise,
                folder,
                tasks,
            } => {
                let settings = &setting.merged.settings;
                let cores = || std::thread::available_parallelism().map_or(1, usize::from);
                let folder = folder.unwrap_or_else(|| settings.data_dir.clone());
                // Nothing else is ever removed: the folder that was named may hold something else.
                let folder = folder.join(format!("ballista-{}", address.port()));
                let settings = ExecutorSettings {
                    scheduler: host_and_port(&scheduler)?,
                    address,
                    advertise,
                    folder: std::path::absolute(folder)?,
                    tasks: tasks.unwrap_or_else(cores),
                    memory_bytes: settings.batch.memory_bytes,
                    store: platform::open_store(settings).await?,
                    clock: Arc::new(SystemClock),
                    work: setting.work.clone(),
                };
                ballista::executor(settings).await.map_err(failure)?;
            }
        }
        Ok(())
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), Failure> {
    let parts = text.rsplit_once(':');
    let parts = parts.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let parts = parts.filter(|(host, _)| !host.is_empty());
    parts.ok_or_else(|| Failure::Usage(format!("--scheduler must be HOST:PORT, and is \"{text}\"")))
}

fn failure(error: ProcessError) -> anyhow::Error {
    let sentence = foldline_event_log::with_causes(&error);
    match error {
        ProcessError::Ballista { .. } => Failure::Unreachable(sentence).into(),
        _ => Failure::Usage(sentence).into(),
    }
}
