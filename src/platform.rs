//! Everything wired in one process, by roles.
//!
//! Three runtimes: requests are accepted on the one that calls [`Platform::start`], answers are computed on a second
//! unless they take less than that, everything that goes on by itself (archiver, speed layer, batch runs) on a third. The
//! embedded log is always open here, because one process at a time may have it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use clap::ValueEnum;
use foldline_batch_layer::scheduler::Ledger;
use foldline_batch_layer::store::{self, Patience, PlaceError};
use foldline_batch_layer::{Archive, Archiver, ArchiverHandle, ArchiverSettings, Generations, Recompute};
use foldline_event_log::collect::{self, http::Collector};
use foldline_event_log::{
    Clock, EventLog, KeysOnDisk, LogError, Offset, SystemClock, Topic, TopicPartition, with_causes,
};
use foldline_serving_layer::{Limits, ServedTopic, Serving, ServingParts};
use foldline_speed_layer::shared::{Reader as StoreReader, ReaderSettings, SharedStore, Writer};
use foldline_speed_layer::{Gaps, RealtimeStore, Snapshot, SpeedLayer, SpeedSettings};
use foldline_sql::{Catalog, SourceFile, Stream};
use object_store::ObjectStore;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Setting;
use crate::batch_runs::{self, BatchParts, BatchRuns};
use crate::cluster::realtime::Realtime;
use crate::cluster::{self, Cluster, Joined, stored};
use crate::config::{BatchEngine, RealtimeStoreKind, Settings};
use crate::failure::Failure;
use crate::instance::Address;
use crate::log::OpenLog;
use crate::report::Report;
use crate::turns::Turns;
use crate::warehouse::WarehouseRuns;
use crate::{admin, installation, maintenance, pipelines};

/// Requests in flight get this long to end when the platform stops.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// A start gives up when the object store does not answer for so long.
const START_WITHIN: Duration = Duration::from_secs(10);

/// A partition that nobody writes to the shared store for so long is shown as one that grows old.
const SILENT: Duration = Duration::from_secs(15);

/// A process that starts says so often that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// A log that is away at the start is asked again after this.
const LOG_AGAIN: Duration = Duration::from_secs(1);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Take events over HTTP.
    Collect,
    /// Archive the log.
    Archive,
    /// Fold the log into realtime views.
    Speed,
    /// Recompute views from the archive.
    Batch,
    /// Answer.
    Serve,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: [Self; 5] = [Self::Collect, Self::Archive, Self::Speed, Self::Batch, Self::Serve];

    /// As in `--role`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Collect => "collect",
            Self::Archive => "archive",
            Self::Speed => "speed",
            Self::Batch => "batch",
            Self::Serve => "serve",
        }
    }
}

/// The parts of a running platform that commands ask for.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: Arc<dyn EventLog>,
    /// Each stream with its topic and the origin of each partition.
    pub(crate) topics: Vec<(Arc<Stream>, Topic, Vec<Offset>)>,
    pub(crate) archive: Archive,
    pub(crate) archiver: Option<ArchiverHandle>,
    pub(crate) generations: Generations,
    pub(crate) speed: Option<SpeedLayer>,
    pub(crate) collector: Option<Collector>,
    /// What answers are made from, of this process and of others.
    pub(crate) realtime: Arc<dyn RealtimeStore>,
    /// The same where others may fold, too.
    pub(crate) shared: Option<Arc<Realtime>>,
    /// Brings to the shared store what is folded here, until it is started.
    pub(crate) writer: Mutex<Option<Writer>>,
    /// This process among others, if there may be any.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) runs: BatchRuns,
    pub(crate) report: Arc<Report>,
    pub(crate) serving: Arc<Serving>,
    pub(crate) ledger: Ledger,
    /// Where analysts read batch views, in a process with the role batch.
    pub(crate) warehouse: Option<WarehouseRuns>,
    /// Whether what goes on by itself goes on here: batch runs by the schedule, and a load after each.
    pub(crate) stays: bool,
    /// Told when a topic has more partitions than this foldline reads: it starts anew then.
    pub(crate) grown: tokio::sync::Notify,
    /// Held while the floors of the log are set: by releasing what no readable generation needs any more, and by a
    /// rollback, which makes an older generation readable again.
    pub(crate) floors: tokio::sync::Mutex<()>,
    /// Where work goes on.
    pub(crate) work: Handle,
    /// Random, another one at each start.
    pub(crate) instance: Uuid,
}

impl Core {
    /// Every partition of every stream.
    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        self.topics
            .iter()
            .flat_map(|(_, topic, _)| topic.all_partitions())
            .collect()
    }

    /// The topics as the serving layer takes them.
    pub(crate) fn served_topics(&self) -> impl Iterator<Item = ServedTopic> {
        served(&self.topics)
    }

    /// The generations as they lie in the store: nothing of them is in memory yet.
    pub(crate) fn fresh_generations(&self) -> anyhow::Result<Generations> {
        generations(&self.settings, self.archive.store(), &self.clock)
    }
}

/// A running platform.
#[derive(Debug)]
pub(crate) struct Platform {
    core: Arc<Core>,
    url: String,
    announced: bool,
    /// Stops the archiver, the speed layer, the scheduler and maintenance.
    stop_work: CancellationToken,
    /// Stops accepting requests.
    stop_http: CancellationToken,
    http: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    joined: Joined,
    log: OpenLog,
}

/// How a platform is started.
#[derive(Debug)]
pub(crate) struct Start {
    /// Its roles.
    pub(crate) roles: Vec<Role>,
    /// Address to listen on.
    pub(crate) listen: String,
    /// Pipelines.
    pub(crate) files: Vec<SourceFile>,
    /// Whether batch runs start by the schedule, and others may find it by `<data_dir>/address`.
    pub(crate) stays: bool,
}

impl Platform {
    /// Starts one for the length of a command: on a free port, without schedule, found by nobody.
    pub(crate) async fn start_aside(setting: &Setting, roles: &[Role]) -> anyhow::Result<Self> {
        let settings = &setting.merged.settings;
        let start = Start {
            roles: roles.to_vec(),
            listen: "127.0.0.1:0".into(),
            files: pipelines::read(&settings.pipelines)?,
            stays: false,
        };
        Self::start(setting, start).await
    }

    /// Starts one.
    pub(crate) async fn start(setting: &Setting, start: Start) -> anyhow::Result<Self> {
        let catalog = Arc::new(pipelines::compile(&start.files).await?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (log_settings, log_clock) = (setting.merged.settings.clone(), Arc::clone(&clock));
        // Its own threads are started from this one, and give way as it does.
        let opening = setting
            .work
            .spawn_blocking(move || OpenLog::open(&log_settings, log_clock));
        let log = opening.await.context("opening the log panicked")??;
        let store = open_store(&setting.merged.settings).await?;
        let settings = installation::settle(&setting.merged, store.as_ref()).await?;
        let listener = TcpListener::bind(&start.listen).await.map_err(|error| {
            let listen = &start.listen;
            Failure::Unreachable(format!(
                "cannot listen on {listen}: {error}; name another address with --listen"
            ))
        })?;
        let url = format!("http://{}", listener.local_addr()?);
        let instance = Uuid::new_v4();
        let cluster = match settings.cluster.name.as_str() {
            // A command alone does its work by itself: it takes nobody's partitions.
            name if !name.is_empty() && start.stays => {
                let url = match settings.cluster.advertise.as_str() {
                    "" => reached_at(listener.local_addr()?)?,
                    advertised => advertised.to_owned(),
                };
                let data_dir = &settings.data_dir;
                let store = Arc::clone(&store);
                let cluster = Cluster::new(name, data_dir, url, &start.roles, instance, store)?;
                cluster.appear().await?;
                Some(cluster)
            }
            _ => None,
        };
        // Whoever looks for the living sees this one from its first note on, however long the start takes.
        let _beats = cluster.clone().map(|cluster| {
            let started = CancellationToken::new();
            let beats = started.clone().drop_guard();
            setting.work.spawn(async move {
                while started.run_until_cancelled(tokio::time::sleep(BEAT)).await.is_some() {
                    drop(cluster.appear().await);
                }
            });
            beats
        });
        let stop_work = CancellationToken::new();
        let building = Building {
            cluster,
            instance,
            settings,
            files: start.files.clone(),
            catalog,
            clock,
            log: log.log(),
            store,
            stays: start.stays,
            roles: start.roles.clone(),
            answers: setting.answers.clone(),
            work: setting.work.clone(),
            stop: stop_work.clone(),
        };
        // Everything that goes on by itself must be spawned on the work runtime.
        let core = setting
            .work
            .spawn(building.core())
            .await
            .context("the start panicked")?;
        let core = Arc::new(core?);
        core.report.on(&core);
        core.report.look(&core).await?;

        let joined = match &core.cluster {
            Some(cluster) => cluster::join(cluster, &core, &log, &stop_work)?,
            None => Joined::default(),
        };
        let stop_http = CancellationToken::new();
        let router = router(&core, &start.roles, &stop_http);
        let http = tokio::spawn(serve(listener, router, stop_http.clone()));
        let tasks = maintenance::start(&core, &start, &stop_work)?;
        if start.stays {
            let address = Address {
                url: url.clone(),
                instance: core.instance,
            };
            address.write(&core.settings.data_dir)?;
        }
        Ok(Self {
            core,
            url,
            announced: start.stays,
            stop_work,
            stop_http,
            http,
            tasks,
            joined,
            log,
        })
    }

    /// `http://host:port`
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its parts.
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Stops in the order of an event's way: no new requests, then the layers (the archiver commits what it holds, the
    /// speed layer writes a checkpoint), then the log.
    pub(crate) async fn stop(self) {
        if self.announced {
            Address::remove(&self.core.settings.data_dir);
        }
        self.stop_http.cancel();
        if tokio::time::timeout(STOP_WITHIN, self.http).await.is_err() {
            tracing::warn!("requests were still running and are cut off");
        }
        // First: others take over while this process still commits and saves.
        let joined = self.joined.leave().await;
        self.stop_work.cancel();
        for task in self.tasks.into_iter().chain(joined) {
            drop(tokio::time::timeout(STOP_WITHIN, task).await);
        }
        if let Some(archiver) = &self.core.archiver
            && tokio::time::timeout(STOP_WITHIN, archiver.ended()).await.is_err()
        {
            tracing::warn!("the last commit was not finished; the next start archives more");
        }
        if let Some(speed) = &self.core.speed
            && tokio::time::timeout(STOP_WITHIN, speed.ended()).await.is_err()
        {
            tracing::warn!("the last checkpoint was not finished; the next start replays more");
        }
        let log = self.log;
        drop(self.core);
        drop(tokio::task::spawn_blocking(move || log.close()).await);
    }
}

/// Where other processes reach this one, unless `cluster.advertise` says otherwise: who listens on every address is
/// reached by the name of the machine.
fn reached_at(listens: std::net::SocketAddr) -> anyhow::Result<String> {
    if !listens.ip().is_unspecified() {
        return Ok(format!("http://{listens}"));
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the name of this machine")?;
    Ok(format!("http://{}:{}", name.trim(), listens.port()))
}

/// The store that the settings name, once it has proved that it can hold an archive.
pub(crate) async fn open_store(settings: &Settings) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let url = settings.store_url()?;
    let patience = settings.patience();
    let failure = |error: PlaceError| {
        let sentence = foldline_event_log::with_causes(&error);
        match error {
            PlaceError::Unreachable { .. } => Failure::Unreachable(sentence),
            _ => Failure::Usage(sentence),
        }
    };
    let store = store::open(&url, patience).map_err(failure)?;
    let start = Patience {
        retries: patience.retries.min(START_WITHIN),
        ..patience
    };
    let asked = store::open(&url, start).map_err(failure)?;
    store::prove_create_only(asked.as_ref(), &url).await.map_err(failure)?;
    Ok(store)
}

/// `recompute` where the settings say that runs are computed. `files`: what its catalog was compiled from.
fn on_engine(recompute: Recompute, settings: &Settings, files: &[SourceFile]) -> anyhow::Result<Recompute> {
    if settings.batch.engine == BatchEngine::Local {
        return Ok(recompute);
    }
    #[cfg(feature = "ballista")]
    {
        let scheduler = settings.batch.ballista.as_str();
        let ballista = foldline_batch_layer::ballista::Ballista::new(scheduler, files.to_vec());
        Ok(recompute.on_ballista(ballista))
    }
    #[cfg(not(feature = "ballista"))]
    {
        let _ = files;
        let refusal =
            "batch.engine = \"ballista\", and this foldline was built without it; build it with --features ballista";
        Err(Failure::Usage(refusal.into()).into())
    }
}

/// What the parts are built from.
struct Building {
    settings: Settings,
    files: Vec<SourceFile>,
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    log: Arc<dyn EventLog>,
    store: Arc<dyn ObjectStore>,
    stays: bool,
    roles: Vec<Role>,
    cluster: Option<Cluster>,
    instance: Uuid,
    answers: Handle,
    work: Handle,
    stop: CancellationToken,
}

impl Building {
    async fn core(self) -> anyhow::Result<Core> {
        let settings = &self.settings;
        let store = Arc::clone(&self.store);
        let archive = Archive::new(Arc::clone(&store)).with_keys_on_disk(keys_on_disk(&settings.data_dir)?);
        let topics = self.topics(&archive).await?;
        let generations = generations(settings, &store, &self.clock)?;
        let ledger = Ledger::new(Arc::clone(&store));
        generations.refresh().await?;
        let archiver = self.archiver(&archive).await?;
        let speed = self.speed(&archive, &generations, &topics).await?;
        let recompute = Recompute::new(
            Arc::clone(&self.catalog),
            archive.clone(),
            generations.clone(),
            Arc::clone(&self.clock),
        )
        .bounded(settings.batch.memory_bytes);
        let recompute = match self.roles.contains(&Role::Batch) {
            true => on_engine(recompute, settings, &self.files)?,
            false => recompute,
        };
        let stored = match self.cluster {
            Some(_) if self.roles.iter().any(|role| [Role::Speed, Role::Serve].contains(role)) => {
                stored::open(settings).await?
            }
            _ => None,
        };
        let shared = self.cluster.is_some() && self.roles.contains(&Role::Serve);
        let shared = shared.then(|| {
            Arc::new(match &stored {
                Some(store) => Realtime::of_store(self.reader(store, &topics)),
                None => Realtime::new(speed.clone()),
            })
        });
        let writer = match &stored {
            Some(store) if speed.is_some() => {
                let (store, clock) = (Arc::clone(store), Arc::clone(&self.clock));
                let gaps = accepted_gaps(&archive, &topics).await?;
                Some(stored::writer(store, &self.catalog, gaps, clock, settings))
            }
            _ => None,
        };
        let realtime: Arc<dyn RealtimeStore> = match (&shared, &speed) {
            (Some(shared), _) => Arc::clone(shared) as _,
            (None, Some(speed)) => Arc::new(speed.clone()),
            (None, None) => Arc::new(NoSpeed),
        };
        let turns = Arc::new(Turns::default());
        let runs = BatchRuns::new(BatchParts {
            archiver: archiver.clone(),
            cluster: self.cluster.clone(),
            clock: Arc::clone(&self.clock),
            cut_every_ms: settings.speed.cut_every_ms,
            ledger: ledger.clone(),
            generations: generations.clone(),
            recompute,
            speed: speed.clone(),
            topics: topics.iter().map(|(_, topic, _)| topic.clone()).collect(),
            turns: Arc::clone(&turns),
        });
        runs.retain();
        let serving = Arc::new(self.serving(&archive, &generations, &realtime, &topics));
        let warehouse = match self.roles.contains(&Role::Batch) {
            true => WarehouseRuns::open(settings, &self.catalog, &archive, &serving, &self.clock, turns)?,
            false => None,
        };
        let collector = self.roles.contains(&Role::Collect).then(|| {
            let streams = self.catalog.streams().iter().cloned();
            Collector::new(Arc::clone(&self.log), streams).with_record_bytes_max(self.settings.log.record_bytes_max)
        });
        Ok(Core {
            settings: self.settings,
            catalog: self.catalog,
            clock: self.clock,
            log: self.log,
            topics,
            archive,
            archiver,
            generations,
            speed,
            collector,
            realtime,
            shared,
            writer: Mutex::new(writer),
            cluster: self.cluster,
            runs,
            report: Arc::new(Report::default()),
            serving,
            ledger,
            warehouse,
            stays: self.stays,
            floors: tokio::sync::Mutex::default(),
            grown: tokio::sync::Notify::new(),
            work: self.work,
            instance: self.instance,
        })
    }

    fn reader(&self, store: &Arc<dyn SharedStore>, topics: &[(Arc<Stream>, Topic, Vec<Offset>)]) -> StoreReader {
        let realtime = &self.settings.realtime;
        let reading = ReaderSettings {
            every: Duration::from_millis(realtime.poll_ms),
            silent: SILENT,
            cache_bytes: realtime.cache_bytes,
        };
        let partitions = topics.iter().flat_map(|(_, topic, _)| topic.all_partitions());
        StoreReader::new(Arc::clone(store), &self.catalog, partitions, reading)
    }

    /// Creates the topics that are missing, and notes where each partition begins for us.
    async fn topics(&self, archive: &Archive) -> anyhow::Result<Vec<(Arc<Stream>, Topic, Vec<Offset>)>> {
        let mut topics = Vec::new();
        for stream in self.catalog.streams() {
            let topic = self.topic(stream).await?;
            if let Some(other) = archive.other_lives(&topic.name, topic.incarnation).await?.first() {
                let (name, now) = (&topic.name, topic.incarnation);
                return Err(Failure::No(format!(
                    "topic \"{name}\" was deleted and created again: it lives as {now} now, and rows of {other} are \
                     archived; an answer over both would be of neither: start with another data_dir, or give the stream \
                     another topic"
                ))
                .into());
            }
            let mut origins = Vec::new();
            for partition in topic.all_partitions() {
                archive.judged_alike(stream, &partition).await?;
                let earliest = self.log.span(&partition).await?.earliest;
                origins.push(archive.origin(&partition, earliest).await?);
            }
            topics.push((Arc::clone(stream), topic, origins));
        }
        Ok(topics)
    }

    /// What stays waits for a log that is away; a command says so and ends.
    async fn topic(&self, stream: &Stream) -> Result<Topic, LogError> {
        loop {
            match self.log.ensure_topic(&stream.topic, stream.partitions).await {
                Err(error @ LogError::Storage { .. }) if self.stays => {
                    tracing::warn!(error = with_causes(&error), "waiting for the log");
                    tokio::time::sleep(LOG_AGAIN).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn archiver(&self, archive: &Archive) -> anyhow::Result<Option<ArchiverHandle>> {
        if !self.roles.contains(&Role::Archive) {
            return Ok(None);
        }
        let settings = ArchiverSettings {
            roll_age_ms: self.settings.archive.roll_age_ms,
            roll_bytes: self.settings.archive.roll_bytes,
            memory_bytes: self.settings.archive.memory_bytes,
            cut_every_ms: self.settings.speed.cut_every_ms,
        };
        let streams = self.catalog.streams().to_vec();
        let stop = self.stop.child_token();
        let (log, archive) = (Arc::clone(&self.log), archive.clone());
        Ok(Some(match self.cluster {
            None => Archiver::start(log, archive, streams, settings, stop).await?,
            Some(_) => Archiver::idle(log, archive, streams, settings, stop).await?,
        }))
    }

    async fn speed(
        &self,
        archive: &Archive,
        generations: &Generations,
        topics: &[(Arc<Stream>, Topic, Vec<Offset>)],
    ) -> anyhow::Result<Option<SpeedLayer>> {
        if !self.roles.contains(&Role::Speed) {
            return Ok(None);
        }
        let settings = SpeedSettings {
            cut_every_ms: self.settings.speed.cut_every_ms,
            memory_bytes: self.settings.speed.memory_bytes,
            batch_bytes: self.settings.speed.batch_bytes,
            checkpoint_every_ms: self.settings.speed.checkpoint_every_ms,
            checkpoints: self.settings.data_dir.join("checkpoints"),
        };
        let speed = SpeedLayer::open(
            Arc::clone(&self.log),
            Arc::clone(&self.catalog),
            topics.to_vec(),
            batch_runs::floor(&generations.readable()),
            accepted_gaps(archive, topics).await?,
            Arc::new(archive.clone()),
            settings,
            self.stop.child_token(),
        );
        let speed = speed.await?;
        if self.cluster.is_none() {
            speed.assign_all().await;
        }
        Ok(Some(speed))
    }

    fn serving(
        &self,
        archive: &Archive,
        generations: &Generations,
        realtime: &Arc<dyn RealtimeStore>,
        topics: &[(Arc<Stream>, Topic, Vec<Offset>)],
    ) -> Serving {
        Serving::new(ServingParts {
            catalog: Arc::clone(&self.catalog),
            topics: served(topics).collect(),
            generations: generations.clone(),
            realtime: Arc::clone(realtime),
            archive: Some(archive.clone()),
            clock: Arc::clone(&self.clock),
            limits: Limits {
                query_time: Duration::from_millis(self.settings.serve.longest_query_ms),
                query_memory_bytes: self.settings.serve.query_memory_bytes,
                ..Limits::default()
            },
            workers: Some(self.answers.clone()),
        })
    }
}

/// Keys of the duplicate horizon that one partition has in memory, in each layer: less than a MiB.
const KEYS_IN_MEMORY: usize = 16 << 10;

fn keys_on_disk(data_dir: &Path) -> anyhow::Result<KeysOnDisk> {
    let folder = data_dir.join("keys");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
    Ok(KeysOnDisk {
        folder,
        keys_in_memory: KEYS_IN_MEMORY,
    })
}

/// The gaps that the archive has accepted.
async fn accepted_gaps(archive: &Archive, topics: &[(Arc<Stream>, Topic, Vec<Offset>)]) -> anyhow::Result<Gaps> {
    let mut gaps = Gaps::new();
    for partition in topics.iter().flat_map(|(_, topic, _)| topic.all_partitions()) {
        let commits = archive.commits(&partition).await?;
        let accepted = commits.iter().filter(|commit| commit.gap.is_some());
        let accepted: Vec<_> = accepted.map(|commit| commit.offsets.clone()).collect();
        if !accepted.is_empty() {
            gaps.insert(partition, accepted);
        }
    }
    Ok(gaps)
}

fn served(topics: &[(Arc<Stream>, Topic, Vec<Offset>)]) -> impl Iterator<Item = ServedTopic> {
    topics.iter().map(|(stream, topic, origins)| ServedTopic {
        stream: Arc::clone(stream),
        topic: topic.clone(),
        origins: origins.clone(),
    })
}

fn generations(
    settings: &Settings,
    store: &Arc<dyn ObjectStore>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Generations> {
    let longest_query_ms = i64::try_from(settings.serve.longest_query_ms)?;
    let (store, clock) = (Arc::clone(store), Arc::clone(clock));
    let generations = Generations::new(store, clock, longest_query_ms, settings.batch.keep);
    Ok(generations.caching(settings.serve.batch_cache_bytes))
}

/// The realtime view of a process without the role speed: nothing is folded here.
#[derive(Debug)]
struct NoSpeed;

impl RealtimeStore for NoSpeed {
    fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }
}

fn router(core: &Arc<Core>, roles: &[Role], stop: &CancellationToken) -> Router {
    let mut router = admin::router(Arc::clone(core));
    if let Some(collector) = &core.collector {
        router = router.merge(collect::http::router(collector.clone()));
    }
    if roles.contains(&Role::Serve) {
        router = router.merge(foldline_serving_layer::http::router(
            Arc::clone(&core.serving),
            core.report.clone(),
        ));
    } else {
        let status = foldline_serving_layer::http::router_without_views(Arc::clone(&core.serving), core.report.clone());
        router = router.merge(status);
    }
    let in_memory = core.settings.realtime.store == RealtimeStoreKind::Memory;
    if let (Some(speed), Some(_)) = (&core.speed, &core.cluster)
        && in_memory
    {
        router = router.merge(cluster::realtime::router(cluster::realtime::Sending {
            speed: speed.clone(),
            instance: core.instance,
            work: core.work.clone(),
            stop: stop.clone(),
        }));
    }
    router
}

async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP server ended");
    }
}
