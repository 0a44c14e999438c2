//! Settings: defaults, overridden by `foldline.toml`, by `FOLDLINE__SECTION__KEY`, and by flags.
//!
//! [`Settings`] is the one place where every setting and its default stand. A key that is not there is refused, whoever
//! sets it, with the keys that exist; and each merged value knows where it came from, which `foldline config` prints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};
use foldline_batch_layer::store::Patience;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The configuration file that is read where none is named.
const DEFAULT_FILE: &str = "foldline.toml";
/// Origin of what nobody set.
const DEFAULT: &str = "default";
/// Parts of key names whose values are never printed.
const SECRET_WORDS: [&str; 8] = [
    "secret",
    "password",
    "token",
    "credential",
    "private",
    "key.pem",
    "jaas",
    "oauthbearer",
];
/// Under this, keys of librdkafka are passed on as they are.
const PASSED_ON: &str = "log.kafka.";

/// The bound of everything, and the sixteenths of it that budgets get. What is left is for the process itself.
const MEMORY: &str = "memory_bytes";
const MEMORY_SHARES: [(&str, u64); 6] = [
    ("archive.memory_bytes", 2),
    ("batch.memory_bytes", 2),
    ("speed.memory_bytes", 4),
    ("serve.query_memory_bytes", 2),
    ("serve.batch_cache_bytes", 2),
    ("realtime.cache_bytes", 1),
];

/// Every setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Folder that holds the log, the archive, generations and checkpoints. Default `./foldline-data`.
    pub(crate) data_dir: PathBuf,
    /// What the process may hold in memory: 13 sixteenths are shared out among those of `archive.memory_bytes`,
    /// `batch.memory_bytes`, `speed.memory_bytes`, `serve.query_memory_bytes`, `serve.batch_cache_bytes` and `realtime.cache_bytes` that are not
    /// set; 0: each has its own default. Default 0.
    pub(crate) memory_bytes: usize,
    /// Folder of pipelines: each sub-folder is one. Default `./sql/pipelines`.
    pub(crate) pipelines: PathBuf,
    /// The HTTP side.
    pub(crate) http: Http,
    /// The log.
    pub(crate) log: Log,
    /// Where archive and generations lie.
    pub(crate) store: Store,
    /// Several processes as one foldline.
    pub(crate) cluster: Cluster,
    /// The archiver.
    pub(crate) archive: Archive,
    /// Recompute and its schedule.
    pub(crate) batch: Batch,
    /// The speed layer.
    pub(crate) speed: Speed,
    /// Where other processes find realtime views.
    pub(crate) realtime: Realtime,
    /// The serving layer.
    pub(crate) serve: Serve,
    /// Where analysts read batch views.
    pub(crate) warehouse: Warehouse,
}

/// `http`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    /// Address to listen on; port 0 takes a free one. Default `127.0.0.1:8080`.
    pub(crate) listen: String,
}

/// `log`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    /// Where events are: `embedded`, on this machine, or `kafka`. Default `embedded`.
    pub(crate) kind: LogKind,
    /// Kafka's brokers: `host:port`, several with commas. Default none.
    pub(crate) brokers: String,
    /// Copies of topics that are created on Kafka; 0: as the brokers say. Default 0.
    pub(crate) replication: i32,
    /// How far clocks of brokers may lie behind this one, copying included. Default 2 s.
    pub(crate) clock_skew_ms: u64,
    /// Bytes fetched from Kafka ahead of each reader of a partition. Default 2 MiB.
    pub(crate) fetch_bytes: usize,
    /// Topic of Kafka in which the numbers of appends are kept. Default `foldline-progress`.
    pub(crate) progress_topic: String,
    /// Topics, with commas, that may be compacted. Default none.
    pub(crate) accept_compacted: String,
    /// Topics, with commas, whose producers may set timestamps without a bound. Default none.
    pub(crate) accept_create_time: String,
    /// Settings of librdkafka, `[log.kafka]`. Default none.
    #[serde(skip)]
    pub(crate) kafka: PassedOn,
    /// Events older than this may leave the log once they are archived and below every readable cut. Default 7 days.
    pub(crate) retention_ms: u64,
    /// Bytes per partition beyond which the same holds. Default 8 GiB.
    pub(crate) retention_bytes: u64,
    /// Largest event. Default 8 MiB.
    pub(crate) record_bytes_max: usize,
}

/// `store`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    /// `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; credentials come from
    /// each cloud's usual chain. Default empty: the folder `objects` of `data_dir`.
    pub(crate) url: String,
    /// One request may take this long, its answer included. Default 60 s.
    pub(crate) request_ms: u64,
    /// All tries of one request together. Default 180 s.
    pub(crate) retries_ms: u64,
}

/// Where events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogKind {
    /// On this machine.
    Embedded,
    /// On Kafka brokers.
    Kafka,
}

/// Settings that are passed on. Their values may be secrets and are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct PassedOn(pub(crate) BTreeMap<String, String>);

impl std::fmt::Debug for PassedOn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// `cluster`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    /// The same in every process that shares this log and this store, and begins the names of its consumer groups;
    /// empty: this process does everything of its roles alone. Default empty.
    pub(crate) name: String,
    /// Where other processes reach this one, `http://host:port`; empty: where it listens. Default empty.
    pub(crate) advertise: String,
}

/// `archive`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Archive {
    /// An archive file is written when its oldest event has waited this long. Default 60 s.
    pub(crate) roll_age_ms: u64,
    /// An archive file is written at this many raw bytes of its partition. Default 64 MiB.
    pub(crate) roll_bytes: usize,
    /// Raw bytes that wait in memory for all partitions together. Default 256 MiB.
    pub(crate) memory_bytes: usize,
}

/// `batch`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    /// When to recompute: cron with seconds. Empty: only by hand. Default `0 0 3 * * *` (every night at three).
    pub(crate) schedule: String,
    /// IANA zone of the schedule. Default `UTC`.
    pub(crate) timezone: String,
    /// This many generations stay stored, besides pinned ones. Default 7.
    pub(crate) keep: usize,
    /// Bytes of the partials that a run gathers; beyond it they go to the store and come back. Default 1 GiB.
    pub(crate) memory_bytes: usize,
    /// Where runs are computed. Default `local`.
    pub(crate) engine: BatchEngine,
    /// `host:port` of Ballista's scheduler. Default none.
    pub(crate) ballista: String,
}

/// Where batch runs are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BatchEngine {
    /// In this process.
    Local,
    /// On Ballista's executors.
    Ballista,
}

/// `speed`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Speed {
    /// Length of a tick: batch can cut at its multiples. May not change under a `data_dir` in use. Default 10 s.
    pub(crate) cut_every_ms: i64,
    /// Bytes of all partials together, at which reading the log stops. Default 2 GiB.
    pub(crate) memory_bytes: usize,
    /// Raw bytes folded at once. Default 4 MiB.
    pub(crate) batch_bytes: usize,
    /// Time between checkpoints; 0: none. Default 60 s.
    pub(crate) checkpoint_every_ms: u64,
}

/// `realtime`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Realtime {
    /// Where the processes of a cluster find realtime views: in `memory` of whoever folds them, or in `cassandra` (or
    /// ScyllaDB). Default `memory`.
    pub(crate) store: RealtimeStoreKind,
    /// Nodes of Cassandra: `host:port`, several with commas. Default none.
    pub(crate) nodes: String,
    /// Keyspace, of this cluster alone; made where there is none. Default `foldline`.
    pub(crate) keyspace: String,
    /// Copies, where the keyspace is made. Default 3.
    pub(crate) replication: u32,
    /// Replicas that acknowledge a write and answer a read: `one`, `local_quorum`, `quorum` or `all`. Default `quorum`.
    pub(crate) consistency: RealtimeConsistency,
    /// User. Default none.
    pub(crate) user: String,
    /// Password. Default none.
    pub(crate) password: Secret,
    /// One request may take this long. Default 10 s.
    pub(crate) request_ms: u64,
    /// Requests under way at once. Default 128.
    pub(crate) in_flight: usize,
    /// Whether commit logs may be synced after a write is acknowledged. Default false.
    pub(crate) accept_periodic_sync: bool,
    /// Time between two writes of what was folded meanwhile. Default 1 s.
    pub(crate) flush_ms: u64,
    /// Time between two looks for what is new. Default 250 ms.
    pub(crate) poll_ms: u64,
    /// Memory of the partials that answers were made of last. Default 256 MiB.
    pub(crate) cache_bytes: usize,
}

/// Where realtime views are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RealtimeStoreKind {
    /// In memory of those that fold them.
    Memory,
    /// On Cassandra or ScyllaDB.
    Cassandra,
}

/// How many replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RealtimeConsistency {
    /// One.
    One,
    /// Most of the local datacenter.
    LocalQuorum,
    /// Most.
    Quorum,
    /// All.
    All,
}

/// A value that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("********")
    }
}

/// `serve`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Serve {
    /// A query is cut off after this long, and a superseded generation stays readable as long. Default 60 s.
    pub(crate) longest_query_ms: u64,
    /// Memory of all running queries together. Default 512 MiB.
    pub(crate) query_memory_bytes: usize,
    /// Memory of the partials of batch views that answers were made of last. Default 1 GiB.
    pub(crate) batch_cache_bytes: usize,
}

/// `warehouse`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Warehouse {
    /// What it is: `local` (Parquet files), `bigquery` or `none`. Default `local`.
    pub(crate) kind: WarehouseKind,
    /// Of `local`: where the files lie, as in `store.url`. Default empty: the folder `warehouse` of `data_dir`, or of
    /// `store.url` where that is set.
    pub(crate) url: String,
    /// Of `bigquery`: the project. Default none.
    pub(crate) project: String,
    /// Of `bigquery`: the dataset, which must be there. Default none.
    pub(crate) dataset: String,
    /// Of `bigquery`: the dataset's location; a job's id is one of its location. Default none.
    pub(crate) location: String,
    /// Of `bigquery`: the service. Default `https://bigquery.googleapis.com`.
    pub(crate) endpoint: String,
    /// Of `bigquery`: file of a service account's key. Default empty: the environment's.
    pub(crate) credentials: String,
    /// Of `bigquery`: one request may take this long, the upload of a day included. Default 300 s.
    pub(crate) request_ms: u64,
    /// Views, with commas, that become tables. Default empty: all.
    pub(crate) views: String,
    /// Streams, with commas, whose archived events become tables. Default empty: none.
    pub(crate) events: String,
    /// How long a day stays: `3 days`, `48 hours` or `none`. Default `none`.
    pub(crate) expire: String,
    /// The same by view or stream: `view: 3 days, other: none`. Default none.
    pub(crate) expire_of: String,
    /// By which column a table is divided by day, by view: `view: column, other: none`. Default none: see
    /// `docs/warehouse.md`.
    pub(crate) day_of: String,
}

/// What the warehouse is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WarehouseKind {
    /// There is none.
    None,
    /// Parquet files.
    Local,
    /// BigQuery.
    Bigquery,
}

impl Default for Settings {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            data_dir: "./foldline-data".into(),
            memory_bytes: 0,
            pipelines: "./sql/pipelines".into(),
            http: Http {
                listen: "127.0.0.1:8080".into(),
            },
            log: Log {
                kind: LogKind::Embedded,
                brokers: String::new(),
                replication: 0,
                clock_skew_ms: 2_000,
                fetch_bytes: 2 * MIB,
                progress_topic: "foldline-progress".to_owned(),
                accept_compacted: String::new(),
                accept_create_time: String::new(),
                kafka: PassedOn::default(),
                retention_ms: 7 * 24 * 3_600_000,
                retention_bytes: 8 << 30,
                record_bytes_max: 8 * MIB,
            },
            store: Store {
                url: String::new(),
                request_ms: 60_000,
                retries_ms: 180_000,
            },
            cluster: Cluster {
                name: String::new(),
                advertise: String::new(),
            },
            archive: Archive {
                roll_age_ms: 60_000,
                roll_bytes: 64 * MIB,
                memory_bytes: 256 * MIB,
            },
            batch: Batch {
                schedule: "0 0 3 * * *".into(),
                timezone: "UTC".into(),
                keep: 7,
                memory_bytes: 1024 * MIB,
                engine: BatchEngine::Local,
                ballista: String::new(),
            },
            speed: Speed {
                cut_every_ms: 10_000,
                memory_bytes: 2048 * MIB,
                batch_bytes: 4 * MIB,
                checkpoint_every_ms: 60_000,
            },
            realtime: Realtime {
                store: RealtimeStoreKind::Memory,
                nodes: String::new(),
                keyspace: "foldline".to_owned(),
                replication: 3,
                consistency: RealtimeConsistency::Quorum,
                user: String::new(),
                password: Secret::default(),
                request_ms: 10_000,
                in_flight: 128,
                accept_periodic_sync: false,
                flush_ms: 1_000,
                poll_ms: 250,
                cache_bytes: 256 * MIB,
            },
            serve: Serve {
                longest_query_ms: 60_000,
                query_memory_bytes: 512 * MIB,
                batch_cache_bytes: 1024 * MIB,
            },
            warehouse: Warehouse {
                kind: WarehouseKind::Local,
                url: String::new(),
                project: String::new(),
                dataset: String::new(),
                location: String::new(),
                endpoint: "https://bigquery.googleapis.com".into(),
                credentials: String::new(),
                request_ms: 300_000,
                views: String::new(),
                events: String::new(),
                expire: "none".into(),
                expire_of: String::new(),
                day_of: String::new(),
            },
        }
    }
}

impl Settings {
    /// Where objects lie, as a URL.
    pub(crate) fn store_url(&self) -> anyhow::Result<String> {
        if !self.store.url.is_empty() {
            return Ok(self.store.url.clone());
        }
        self.folder_url("objects")
    }

    /// Where the files of a local warehouse lie, as a URL.
    pub(crate) fn warehouse_url(&self) -> anyhow::Result<String> {
        match (self.warehouse.url.as_str(), self.store.url.as_str()) {
            ("", "") => self.folder_url("warehouse"),
            ("", store) => Ok(format!("{}/warehouse", store.trim_end_matches('/'))),
            (url, _) => Ok(url.trim_end_matches('/').to_owned()),
        }
    }

    /// What a local warehouse is known as where it lies beside the data, and moves with them.
    pub(crate) fn warehouse_key(&self) -> Option<&'static str> {
        let beside = self.warehouse.kind == WarehouseKind::Local && self.warehouse.url.is_empty();
        (beside && self.store.url.is_empty()).then_some("the folder warehouse of data_dir")
    }

    /// How long a store may take.
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            request: Duration::from_millis(self.store.request_ms),
            retries: Duration::from_millis(self.store.retries_ms),
        }
    }

    fn folder_url(&self, name: &str) -> anyhow::Result<String> {
        let folder = std::path::absolute(self.data_dir.join(name))?;
        let url = url::Url::from_file_path(&folder);
        url.map(Into::into)
            .map_err(|()| anyhow::anyhow!("{} is no folder that a URL can name", folder.display()))
    }

    /// What a type cannot say: bounds that would make the platform stand still.
    fn check(&self) -> Result<(), Failure> {
        let positive = [
            ("speed.cut_every_ms", self.speed.cut_every_ms > 0),
            ("speed.memory_bytes", self.speed.memory_bytes > 0),
            ("speed.batch_bytes", self.speed.batch_bytes > 0),
            ("store.request_ms", self.store.request_ms > 0),
            ("archive.roll_bytes", self.archive.roll_bytes > 0),
            ("archive.memory_bytes", self.archive.memory_bytes > 0),
            ("log.record_bytes_max", self.log.record_bytes_max > 0),
            ("log.fetch_bytes", self.log.fetch_bytes > 0),
            ("batch.keep", self.batch.keep > 0),
            ("batch.memory_bytes", self.batch.memory_bytes > 0),
            ("serve.longest_query_ms", self.serve.longest_query_ms > 0),
            ("realtime.replication", self.realtime.replication > 0),
            ("realtime.request_ms", self.realtime.request_ms > 0),
            ("realtime.in_flight", self.realtime.in_flight > 0),
            ("realtime.flush_ms", self.realtime.flush_ms > 0),
            ("realtime.poll_ms", self.realtime.poll_ms > 0),
            ("serve.query_memory_bytes", self.serve.query_memory_bytes > 0),
            ("warehouse.request_ms", self.warehouse.request_ms > 0),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, holds)| !holds) {
            return Err(Failure::Usage(format!("setting \"{key}\" must be above zero")));
        }
        let userinfo = |url: &str| {
            url.split("://")
                .nth(1)
                .is_some_and(|rest| rest.split('/').next().unwrap_or_default().contains('@'))
        };
        let urls = [
            ("store.url", &self.store.url),
            ("warehouse.url", &self.warehouse.url),
            ("warehouse.endpoint", &self.warehouse.endpoint),
        ];
        if let Some((key, _)) = urls.iter().find(|(_, url)| userinfo(url)) {
            return Err(Failure::Usage(format!(
                "setting \"{key}\" may hold no name or password: credentials come from the environment"
            )));
        }
        if !self.warehouse.url.is_empty()
            && self.warehouse.url.trim_end_matches('/') == self.store.url.trim_end_matches('/')
        {
            let help = "setting \"warehouse.url\" must be another place than store.url, where views could have the names of folders";
            return Err(Failure::Usage(help.into()));
        }
        self.warehouse.check()?;
        if self.log.kind == LogKind::Kafka && self.log.brokers.trim().is_empty() {
            let help = "setting \"log.brokers\" must name Kafka's brokers: \"host:port\", several with commas";
            return Err(Failure::Usage(help.into()));
        }
        if self.batch.engine == BatchEngine::Ballista && !self.batch.ballista.contains(':') {
            let help =
                "setting \"batch.engine\" is \"ballista\": set batch.ballista to \"host:port\" of its scheduler, too";
            return Err(Failure::Usage(help.into()));
        }
        if !self.cluster.name.is_empty() && (self.log.kind != LogKind::Kafka || self.store.url.is_empty()) {
            let help = "setting \"cluster.name\" is for processes that share a log and a store: set log.kind = \"kafka\" \
                        and store.url, too";
            return Err(Failure::Usage(help.into()));
        }
        let apart = self.realtime.store != RealtimeStoreKind::Memory;
        if apart && (self.realtime.nodes.trim().is_empty() || self.cluster.name.is_empty()) {
            let help = "setting \"realtime.store\" is for processes that share realtime views: set realtime.nodes (\"host:port\", \
                        several with commas) and cluster.name, too";
            return Err(Failure::Usage(help.into()));
        }
        Ok(())
    }
}

impl Warehouse {
    fn check(&self) -> Result<(), Failure> {
        if self.kind != WarehouseKind::Bigquery {
            return Ok(());
        }
        // They become parts of addresses and of SQL.
        let plain = |text: &str| {
            text.chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "-_.:".contains(letter))
        };
        for (key, value, needed) in [
            ("project", &self.project, true),
            ("dataset", &self.dataset, true),
            ("location", &self.location, true),
        ] {
            if !plain(value) || (needed && value.is_empty()) {
                let help = format!("setting \"warehouse.{key}\" must name the {key} of BigQuery's tables");
                return Err(Failure::Usage(help));
            }
        }
        Ok(())
    }
}

/// One value with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Origin {
    /// `section.key`
    pub(crate) key: String,
    /// The merged value; secrets are hidden.
    pub(crate) value: String,
    /// `default`, a file, an environment variable, or a flag.
    pub(crate) origin: String,
}

/// Merged settings, and where each came from.
#[derive(Debug, Clone)]
pub(crate) struct Merged {
    /// The settings.
    pub(crate) settings: Settings,
    /// Every value, in order of its key.
    pub(crate) origins: Vec<Origin>,
}

impl Merged {
    /// Whether nobody set `key`.
    pub(crate) fn is_default(&self, key: &str) -> bool {
        self.origins
            .iter()
            .any(|origin| origin.key == key && origin.origin == DEFAULT)
    }
}

/// One flag that sets a key: (key, flag, value).
pub(crate) type FlagValue = (&'static str, &'static str, String);

/// Merges the defaults, `file` (or `./foldline.toml`, where there is one), the environment and `flags`.
pub(crate) fn load(file: Option<&Path>, flags: &[FlagValue]) -> anyhow::Result<Merged> {
    merge(
        file,
        Environment::with_prefix("FOLDLINE")
            .prefix_separator("__")
            .separator("__"),
        flags,
    )
}

fn merge(file: Option<&Path>, environment: Environment, flags: &[FlagValue]) -> anyhow::Result<Merged> {
    let defaults = config::Config::try_from(&Settings::default()).context("the default settings do not serialise")?;
    let mut merged: BTreeMap<String, (Value, String)> = flatten(defaults.collect()?)
        .into_iter()
        .map(|(key, value)| (key, (value, DEFAULT.to_owned())))
        .collect();
    for (key, value, origin) in layers(file, environment, flags)? {
        if !merged.contains_key(&key) && !key.starts_with(PASSED_ON) {
            return Err(unknown_key(&key, &origin, merged.keys()).into());
        }
        merged.insert(key, (value, origin));
    }

    share_memory(&mut merged)?;
    let mut builder = config::Config::builder();
    let mut passed_on = PassedOn::default();
    for (key, (value, _)) in &merged {
        match key.strip_prefix(PASSED_ON) {
            Some(key) => drop(passed_on.0.insert(key.to_owned(), value.to_string())),
            None => builder = builder.set_override(key, value.clone())?,
        }
    }
    let mut settings: Settings = builder
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|error| Failure::Usage(format!("the configuration does not fit: {error}")))?;
    settings.log.kafka = passed_on;
    settings.check()?;
    let origins = merged
        .into_iter()
        .map(|(key, (value, origin))| Origin {
            value: shown(&key, &value),
            key,
            origin,
        })
        .collect();
    Ok(Merged { settings, origins })
}

/// Budgets that nobody set are shares of `memory_bytes`, where that is set.
fn share_memory(merged: &mut BTreeMap<String, (Value, String)>) -> anyhow::Result<()> {
    let (all, _) = &merged[MEMORY];
    let does_not_fit = |error| Failure::Usage(format!("the configuration does not fit: {error}"));
    let all = all.clone().into_uint().map_err(does_not_fit)?;
    for (key, sixteenths) in MEMORY_SHARES.into_iter().filter(|_| all > 0) {
        if let Some(budget) = merged.get_mut(key).filter(|(_, origin)| origin == DEFAULT) {
            *budget = (Value::from(all / 16 * sixteenths), MEMORY.to_owned());
        }
    }
    Ok(())
}

/// What overrides the defaults, weakest first: (key, value, origin).
fn layers(
    file: Option<&Path>,
    environment: Environment,
    flags: &[FlagValue],
) -> anyhow::Result<Vec<(String, Value, String)>> {
    let mut layers = Vec::new();
    if let Some(path) = file.or_else(|| Path::new(DEFAULT_FILE).exists().then_some(Path::new(DEFAULT_FILE))) {
        let source = File::new(&path.to_string_lossy(), FileFormat::Toml);
        let values = source
            .collect()
            .map_err(|error| Failure::Usage(format!("cannot read {}: {}", path.display(), without_lines(&error))))?;
        let origin = path.display().to_string();
        layers.extend(
            flatten(values)
                .into_iter()
                .map(|(key, value)| (key, value, origin.clone())),
        );
    }
    let variables = environment
        .collect()
        .map_err(|error| Failure::Usage(error.to_string()))?;
    layers.extend(variables.into_iter().map(|(key, value)| {
        let variable = format!("FOLDLINE__{}", key.replace('.', "__").to_uppercase());
        (key, value, variable)
    }));
    layers.extend(flags.iter().map(|(key, flag, value)| {
        let value = Value::new(None, ValueKind::String(value.clone()));
        ((*key).to_owned(), value, (*flag).to_owned())
    }));
    Ok(layers)
}

/// What is wrong with a file, without the lines that the parser quotes: there may be a secret in them.
fn without_lines(error: &config::ConfigError) -> String {
    let text = error.to_string();
    let said = text
        .lines()
        .filter(|line| !line.contains('|') && !line.trim().is_empty());
    said.collect::<Vec<_>>().join(" ")
}

fn unknown_key<'a>(key: &str, origin: &str, known: impl Iterator<Item = &'a String>) -> Failure {
    let known: Vec<&str> = known.map(String::as_str).collect();
    Failure::Usage(format!(
        "unknown setting \"{key}\" in {origin}; settings are {}",
        known.join(", ")
    ))
}

/// Tables within tables as `section.key`.
fn flatten(table: Map<String, Value>) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value.kind {
            ValueKind::Table(inner) => {
                flat.extend(
                    flatten(inner)
                        .into_iter()
                        .map(|(rest, value)| (format!("{key}.{rest}"), value)),
                );
            }
            _ => flat.push((key, value)),
        }
    }
    flat
}

fn shown(key: &str, value: &Value) -> String {
    if SECRET_WORDS.iter().any(|word| key.contains(word)) {
        return "********".to_owned();
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Environment::with_prefix("FOLDLINE")
            .prefix_separator("__")
            .separator("__")
            .source(Some(pairs))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn origin_of(merged: &Merged, key: &str) -> String {
        let origin = merged.origins.iter().find(|origin| origin.key == key);
        origin.unwrap().origin.clone()
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let file = file("data_dir = \"/from/file\"\n[speed]\ncut_every_ms = 5000\n[batch]\nkeep = 3\n");
        let environment = environment(&[
            ("FOLDLINE__SPEED__CUT_EVERY_MS", "2000"),
            ("FOLDLINE__BATCH__KEEP", "4"),
        ]);
        let flags = [("batch.keep", "--keep", "5".to_owned())];
        let merged = merge(Some(file.path()), environment, &flags).unwrap();
        assert_eq!(merged.settings.data_dir, Path::new("/from/file"));
        assert_eq!(merged.settings.speed.cut_every_ms, 2000);
        assert_eq!(merged.settings.batch.keep, 5);
        assert_eq!(merged.settings.http, Settings::default().http);
        let origin = |key: &str| origin_of(&merged, key);
        assert_eq!(origin("data_dir"), file.path().display().to_string());
        assert_eq!(origin("speed.cut_every_ms"), "FOLDLINE__SPEED__CUT_EVERY_MS");
        assert_eq!(origin("batch.keep"), "--keep");
        assert_eq!(origin("http.listen"), "default");
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let file = file("[speed]\ncut_evry_ms = 5000\n");
        let error = merge(Some(file.path()), environment(&[]), &[]).unwrap_err().to_string();
        assert!(error.contains("\"speed.cut_evry_ms\""), "{error}");
        assert!(error.contains("speed.cut_every_ms"), "{error}");
        let error = merge(None, environment(&[("FOLDLINE__HTTP__LISTN", "x")]), &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"http.listn\" in FOLDLINE__HTTP__LISTN"), "{error}");
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        let error = merge(None, environment(&[("FOLDLINE__BATCH__KEEP", "many")]), &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("keep"), "{error}");
        let error = merge(None, environment(&[("FOLDLINE__SPEED__CUT_EVERY_MS", "0")]), &[])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "setting \"speed.cut_every_ms\" must be above zero");
    }

    #[test]
    fn one_setting_bounds_the_memory_of_all_that_is_not_set() {
        let variables = [
            ("FOLDLINE__MEMORY_BYTES", "1600"),
            ("FOLDLINE__SPEED__MEMORY_BYTES", "7"),
        ];
        let merged = merge(None, environment(&variables), &[]).unwrap();
        let settings = &merged.settings;
        assert_eq!((settings.archive.memory_bytes, settings.speed.memory_bytes), (200, 7));
        assert_eq!(
            (settings.serve.query_memory_bytes, settings.serve.batch_cache_bytes),
            (200, 200)
        );
        let origin = |key: &str| origin_of(&merged, key);
        assert_eq!(origin("archive.memory_bytes"), "memory_bytes");
        let error = merge(None, environment(&[("FOLDLINE__MEMORY_BYTES", "-1")]), &[]).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }

    #[test]
    fn secrets_are_hidden() {
        assert_eq!(shown("store.secret_key", &Value::from("hush")), "********");
        assert_eq!(shown("http.listen", &Value::from("127.0.0.1:1")), "127.0.0.1:1");
    }

    #[test]
    fn what_is_passed_on_is_taken_as_it_is_and_its_secrets_are_hidden() {
        let file = file(
            "[log]\nkind = \"kafka\"\nbrokers = \"b:1\"\n[log.kafka]\n\"sasl.password\" = \"hush\"\nlinger.ms = 3\n",
        );
        let environment = environment(&[("FOLDLINE__LOG__KAFKA__SSL__KEY__PEM", "hush too")]);
        let merged = merge(Some(file.path()), environment, &[]).unwrap();
        let passed = &merged.settings.log.kafka.0;
        assert_eq!(passed["sasl.password"], "hush");
        assert_eq!(passed["ssl.key.pem"], "hush too");
        assert_eq!(passed["linger.ms"], "3");
        assert!(!format!("{:?}", merged.settings).contains("hush"));
        assert!(merged.origins.iter().all(|origin| !origin.value.contains("hush")));
        let broken = self::file("[log.kafka]\n\"sasl.password\" = \"hush\" oops\n");
        let error = merge(Some(broken.path()), self::environment(&[]), &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot read") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn kafka_needs_brokers() {
        let error = merge(None, environment(&[("FOLDLINE__LOG__KIND", "kafka")]), &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("log.brokers"), "{error}");
    }
}
