//! Foldline's own scheduler and executors: Ballista's, which know the steps of a run.
//!
//! What they say to each other is neither authenticated nor encrypted, and whoever reaches a scheduler can have it run any
//! plan: they belong into a network of their own.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use foldline_event_log::Clock;
use object_store::ObjectStore;
use tokio::runtime::Handle;

use super::nodes::StepCodec;
use super::work::Worker;

/// An executor says so often that it lives.
const BEAT_SECONDS: u64 = 5;
/// One that is silent for so long is dead, and its tasks are given to others.
const DEAD_AFTER_SECONDS: u64 = 20;
/// How often the dead are looked for.
const LOOK_SECONDS: u64 = 3;
/// Runs fail when there was no executor for so long.
const NOBODY_SECONDS: u64 = 30;
/// An executor that starts waits so long for its scheduler.
const CONNECT_SECONDS: u16 = 30;
/// What died without clearing up after itself leaves files of shuffles that are removed after this.
const SHUFFLE_SECONDS: u64 = 24 * 60 * 60;

/// Why a process did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It cannot listen there.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// The folder for shuffles cannot be made or cleared.
    #[error("cannot use the folder {} for shuffles", .folder.display())]
    Folder {
        /// Folder.
        folder: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Executors would not find it.
    #[error("a scheduler on {address} must be told how executors reach it: name its host with --advertise")]
    Unnamed {
        /// Address.
        address: SocketAddr,
    },
    /// Ballista gave up.
    #[error("{what}: {reason}")]
    Ballista {
        /// `the scheduler ended` or the like.
        what: &'static str,
        /// What it says.
        reason: String,
    },
}

/// What an executor needs.
#[derive(Debug)]
pub struct ExecutorSettings {
    /// `host:port` of the scheduler.
    pub scheduler: (String, u16),
    /// Where it listens for those that fetch shuffles; for tasks at the next port.
    pub address: SocketAddr,
    /// Name or address at which others reach it, where that is another one.
    pub advertise: Option<String>,
    /// Folder for shuffles; what is in it is removed.
    pub folder: PathBuf,
    /// Tasks at the same time; each has a part of `memory_bytes`.
    pub tasks: usize,
    /// For partials, all tasks together.
    pub memory_bytes: usize,
    /// The store that runs are started on.
    pub store: Arc<dyn ObjectStore>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where folding goes on, on stacks that are large enough for deep plans.
    pub work: Handle,
}

/// A scheduler at `address`, until it fails. `advertise`: how executors reach it, where that is another name.
pub async fn scheduler(address: SocketAddr, advertise: Option<String>) -> Result<(), ProcessError> {
    if address.ip().is_unspecified() && advertise.is_none() {
        return Err(ProcessError::Unnamed { address });
    }
    refuse_taken(address)?;
    let config = SchedulerConfig {
        bind_host: address.ip().to_string(),
        bind_port: address.port(),
        external_host: advertise.unwrap_or_else(|| address.ip().to_string()),
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        executor_timeout_seconds: DEAD_AFTER_SECONDS,
        expire_dead_executor_interval_seconds: LOOK_SECONDS,
        no_executors_grace_period_seconds: NOBODY_SECONDS,
        override_physical_codec: Some(Arc::new(StepCodec::default())),
        ..SchedulerConfig::default()
    };
    let failed = |error: BallistaError| ended("the scheduler ended", &error);
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(failed)?;
    tracing::info!(%address, "scheduler");
    start_server(cluster, address, Arc::new(config)).await.map_err(failed)
}

/// An executor, until it is told to stop (SIGTERM, SIGINT) or fails.
pub async fn executor(settings: ExecutorSettings) -> Result<(), ProcessError> {
    let address = settings.address;
    let grpc = SocketAddr::new(address.ip(), address.port().wrapping_add(1));
    refuse_taken(address)?;
    refuse_taken(grpc)?;
    clear(&settings.folder).map_err(|source| ProcessError::Folder {
        folder: settings.folder.clone(),
        source,
    })?;
    let tasks = settings.tasks.max(1);
    let worker = Arc::new(Worker::new(
        address.to_string(),
        settings.store,
        settings.clock,
        settings.work,
        settings.memory_bytes / tasks,
    ));
    let config = ExecutorProcessConfig {
        bind_host: bound_to(address.ip()),
        external_host: settings.advertise,
        port: address.port(),
        grpc_port: grpc.port(),
        scheduler_host: settings.scheduler.0,
        scheduler_port: settings.scheduler.1,
        scheduler_connect_timeout_seconds: CONNECT_SECONDS,
        vcores: tasks,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(settings.folder.display().to_string()),
        job_data_ttl_seconds: SHUFFLE_SECONDS,
        job_data_clean_up_interval_seconds: SHUFFLE_SECONDS / 24,
        executor_heartbeat_interval_seconds: BEAT_SECONDS,
        // Partials are bounded by `memory_bytes`, shuffles by the settings of a run.
        memory_pool_size: Some(0),
        override_physical_codec: Some(Arc::new(StepCodec::of(worker))),
        ..ExecutorProcessConfig::default()
    };
    tracing::info!(%address, tasks, "executor");
    start_executor_process(Arc::new(config))
        .await
        .map_err(|error| ended("the executor ended", &error))
}

fn ended(what: &'static str, error: &BallistaError) -> ProcessError {
    ProcessError::Ballista {
        what,
        reason: error.to_string(),
    }
}

fn bound_to(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Ballista tells that an address is taken in a log, after the start.
fn refuse_taken(address: SocketAddr) -> Result<(), ProcessError> {
    let listens = TcpListener::bind(address);
    listens
        .map(drop)
        .map_err(|source| ProcessError::Listen { address, source })
}

/// Nobody else has the folder: it belongs to whoever has the port.
fn clear(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(folder)
}
