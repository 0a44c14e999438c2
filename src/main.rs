//! Foldline, the command: one file per subcommand, wiring only.
//!
//! `platform` wires the crates to one process, `admin` is its side door for the commands here, `instance` finds the
//! foldline that runs on a `data_dir` or starts one for the length of a command. So every command that needs data is
//! an HTTP client, and works the same whether the platform runs or not.

mod admin;
mod archive;
mod audit;
#[cfg(feature = "ballista")]
mod ballista;
mod batch;
mod batch_runs;
mod bench;
mod check;
mod client;
mod cluster;
mod config;
mod config_command;
mod counts;
mod demo;
mod explain;
mod failure;
mod gaps;
mod generations;
mod generator;
mod import;
mod installation;
mod instance;
mod log;
mod maintenance;
#[cfg(feature = "kafka")]
mod migrate;
mod output;
mod pipelines;
mod platform;
mod progress;
mod query;
mod report;
mod run;
mod status;
mod topics;
mod turns;
mod verify;
mod warehouse;
mod warehouse_command;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing_subscriber::EnvFilter;

use crate::config::{FlagValue, Merged};

// Decoding and folding allocate in many threads at once; the system's allocator is slower there and gives less back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads of each runtime: one accepts, one computes answers, one works. None starves another.
const THREADS: usize = 2;

/// Views written once in SQL; one exact answer, merged from batch and speed.
#[derive(Debug, Parser)]
#[command(name = "foldline", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
struct Flags {
    /// Configuration file [default: ./foldline.toml, if there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the data
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Folder of the pipelines
    #[arg(long, global = true, value_name = "DIR")]
    pipelines: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, global = true, value_name = "HOST:PORT")]
    listen: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Run(run::Run),
    Check(check::Check),
    Explain(explain::Explain),
    Import(import::Import),
    Query(query::Query),
    Batch(batch::Batch),
    Generations(generations::GenerationsCommand),
    Verify(verify::Verify),
    Archive(archive::ArchiveCommand),
    Warehouse(warehouse_command::WarehouseCommand),
    Status(status::Status),
    Gaps(gaps::GapsCommand),
    Topics(topics::TopicsCommand),
    Config(config_command::ConfigCommand),
    #[cfg(feature = "kafka")]
    Migrate(migrate::Migrate),
    Bench(bench::Bench),
    #[cfg(feature = "ballista")]
    Ballista(ballista::BallistaCommand),
}

/// What every command gets: the merged configuration, and runtimes for answers and work beside the one that it runs on.
#[derive(Debug, Clone)]
struct Setting {
    merged: Merged,
    answers: Handle,
    work: Handle,
}

impl Flags {
    fn values(&self) -> Vec<FlagValue> {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        [
            ("data_dir", "--data-dir", self.data_dir.as_ref().map(path)),
            ("pipelines", "--pipelines", self.pipelines.as_ref().map(path)),
            ("http.listen", "--listen", self.listen.clone()),
        ]
        .into_iter()
        .filter_map(|(key, flag, value)| value.map(|value| (key, flag, value)))
        .collect()
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(&cli.command);
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("foldline: {}", failure::sentence(&error));
            failure::exit_code(&error)
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let merged = config::load(cli.flags.config.as_deref(), &cli.flags.values())?;
    keep_memory();
    without_huge_pages();
    raise_open_files();
    let nice = niceness();
    let accept = runtime("accept", move || go_soon(nice))?;
    let answers = runtime("answer", move || go_soon(nice))?;
    let work = runtime("work", move || give_way(nice))?;
    let setting = Setting {
        merged,
        answers: answers.handle().clone(),
        work: work.handle().clone(),
    };
    let outcome = accept.block_on(dispatch(cli.command, setting));
    // Whatever still runs has been told to stop, and is safe to lose: see the crash tests.
    work.shutdown_timeout(Duration::from_secs(5));
    answers.shutdown_timeout(Duration::from_secs(1));
    accept.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn dispatch(command: Command, setting: Setting) -> anyhow::Result<()> {
    match command {
        Command::Demo(demo) => demo.run(setting).await,
        Command::Run(run) => run.run(setting).await,
        Command::Check(check) => check.run(setting).await,
        Command::Explain(explain) => explain.run(setting).await,
        Command::Import(import) => import.run(setting).await,
        Command::Query(query) => query.run(setting).await,
        Command::Batch(batch) => batch.run(setting).await,
        Command::Generations(generations) => generations.run(setting).await,
        Command::Verify(verify) => verify.run(setting).await,
        Command::Archive(archive) => archive.run(setting).await,
        Command::Warehouse(warehouse) => warehouse.run(setting).await,
        Command::Status(status) => status.run(setting).await,
        Command::Gaps(gaps) => gaps.run(setting).await,
        Command::Topics(topics) => topics.run(setting).await,
        Command::Config(config) => config.run(&setting),
        #[cfg(feature = "kafka")]
        Command::Migrate(migrate) => migrate.run(setting).await,
        Command::Bench(bench) => bench.run(setting).await,
        #[cfg(feature = "ballista")]
        Command::Ballista(ballista) => ballista.run(setting).await,
    }
}

/// Lets every other thread of the process go first: who asks waits for an answer, what goes on by itself waits for
/// nobody. Without it a point read waits for whole batches of the speed layer.
fn give_way(nice: i32) {
    schedule(nice + 10, Duration::from_millis(100));
}

/// Goes before whoever gives way, and for long enough to answer. A thread that wakes up goes before one that is in the
/// midst of a longer slice; one that has used up its own waits, however little it asked for, until the kernel looks
/// again, 4 ms later.
fn go_soon(nice: i32) {
    schedule(nice, Duration::from_millis(5));
}

/// How nice the process was made by whoever started it.
#[allow(unsafe_code, reason = "the standard library has no priorities of threads")]
fn niceness() -> i32 {
    #[cfg(target_os = "linux")]
    // SAFETY: no memory is involved. 0 means the calling thread.
    return unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    #[cfg(not(target_os = "linux"))]
    return 0;
}

/// Makes the calling thread this nice (-20 to 19) and asks for slices of time of this length, 0.1 to 100 ms (Linux 6.12
/// and later; `sched_setattr(2)`).
#[allow(unsafe_code, reason = "the standard library has no priorities of threads")]
fn schedule(nice: i32, slice: Duration) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all of its fields are integers, for which zero is a value.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        attributes.size = size_of::<libc::sched_attr>() as u32;
        attributes.sched_nice = nice.min(19);
        attributes.sched_runtime = slice.as_nanos() as u64;
        // SAFETY: 0 means the calling thread, and `attributes` outlives the call. A thread may always be made nicer; a
        // kernel that does not know slices ignores them. Where the call is forbidden the old one is not.
        unsafe {
            if libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) != 0 {
                libc::setpriority(libc::PRIO_PROCESS, 0, attributes.sched_nice);
            }
        }
    }
}

/// Memory that was freed goes back to the system this much later, in milliseconds. Buffers of a size come again within
/// seconds; the system clears every page that it gives, and that took a third of the time over Kafka.
const KEEP_MS: std::ffi::c_long = 10_000;
/// `mi_option_purge_delay` of mimalloc 3, which has no name in its crate.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// What it is as shipped, so that neither another option nor what somebody set is changed.
const PURGE_DELAY_MS: std::ffi::c_long = 1_000;

#[allow(unsafe_code, reason = "the crate of the allocator has no safe way")]
fn keep_memory() {
    // SAFETY: both calls read and write a number of the allocator's own.
    unsafe {
        if libmimalloc_sys::mi_option_get(PURGE_DELAY) == PURGE_DELAY_MS {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, KEEP_MS);
        }
    }
}

/// The allocator asks for huge pages, which make a process of many threads that allocate a little each about twice as large,
/// and most of what the system clears then is never used (Linux, `PR_SET_THP_DISABLE`).
#[allow(unsafe_code, reason = "the standard library knows nothing of huge pages")]
fn without_huge_pages() {
    #[cfg(target_os = "linux")]
    // SAFETY: no memory is handed over. Where the call is forbidden nothing changes.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// As many open files as the system allows: the log, the keys of duplicate horizons and connections have some for every
/// partition, and the usual 1,024 are a bound for programs that ask `select(2)`.
#[allow(unsafe_code, reason = "the standard library knows no limits")]
fn raise_open_files() {
    #[cfg(unix)]
    // SAFETY: `limit` outlives both calls. Where raising it is forbidden nothing changes.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Planning a query recurses, and deeply so in a debug build. What is not used is not there.
const STACK_BYTES: usize = 16 << 20;

fn runtime(name: &str, on_start: impl Fn() + Send + Sync + 'static) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name(name)
        .thread_stack_size(STACK_BYTES)
        .on_thread_start(on_start)
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the {name} threads"))
}

/// Long-running commands tell their steps; the others only what went wrong. `RUST_LOG` overrides.
fn log_to_stderr(command: &Command) {
    let level = match command {
        Command::Run(_) => "info",
        #[cfg(feature = "ballista")]
        Command::Ballista(_) => "info,ballista_core=warn,ballista_executor=warn,ballista_scheduler=warn",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
