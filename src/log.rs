//! Opens the log that the settings name.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use foldline_event_log::embedded::EmbeddedSettings;
use foldline_event_log::{Clock, EmbeddedLog, EventLog, LogError, Topic, TopicPartition};
use tokio::sync::watch;

use crate::config::{LogKind, Settings};
use crate::failure::Failure;

/// The partitions of this process, where several share a topic.
pub(crate) type Assigned = watch::Receiver<BTreeSet<TopicPartition>>;
/// Leaves a consumer group. Blocks until the brokers know.
pub(crate) type Leave = Box<dyn FnOnce() + Send>;

/// A log, and what it takes to close it.
#[derive(Debug)]
pub(crate) struct OpenLog {
    log: Arc<dyn EventLog>,
    embedded: Option<Arc<EmbeddedLog>>,
    #[cfg(feature = "kafka")]
    kafka: Option<Arc<foldline_event_log::KafkaLog>>,
    /// The embedded log has a lock of its own.
    _lock: Option<File>,
}

impl OpenLog {
    /// Opens it on the current runtime, for the one process that may have the `data_dir`. Blocks for moments.
    pub(crate) fn open(settings: &Settings, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        match settings.log.kind {
            LogKind::Embedded => {
                let embedded = embedded(settings, clock)?;
                Ok(Self {
                    log: Arc::clone(&embedded) as Arc<dyn EventLog>,
                    embedded: Some(embedded),
                    #[cfg(feature = "kafka")]
                    kafka: None,
                    _lock: None,
                })
            }
            LogKind::Kafka => {
                let lock = lock(&settings.data_dir)?;
                let kafka = kafka(settings, clock)?;
                Ok(Self {
                    log: Arc::clone(&kafka) as Arc<dyn EventLog>,
                    embedded: None,
                    #[cfg(feature = "kafka")]
                    kafka: Some(kafka),
                    _lock: Some(lock),
                })
            }
        }
    }

    /// The log.
    pub(crate) fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(&self.log)
    }

    /// Joins the consumer group `group`, which shares the partitions of `topics` among processes: those that are ours,
    /// as they change, and how to leave.
    #[cfg(feature = "kafka")]
    pub(crate) fn join(&self, group: &str, topics: Vec<Topic>) -> anyhow::Result<(Assigned, Leave)> {
        let kafka = self.kafka.as_ref().context("only Kafka has consumer groups")?;
        let member = kafka.join(group, topics)?;
        Ok((member.assigned(), Box::new(move || member.leave())))
    }

    /// Refuses what this foldline was built without.
    #[cfg(not(feature = "kafka"))]
    pub(crate) fn join(&self, _group: &str, _topics: Vec<Topic>) -> anyhow::Result<(Assigned, Leave)> {
        anyhow::bail!("only Kafka has consumer groups, and this foldline was built without it")
    }

    /// Stores what waits. Blocks.
    pub(crate) fn close(self) {
        if let Some(embedded) = &self.embedded {
            embedded.close();
        }
    }
}

/// The file of a `data_dir` that says where its log and archive were carried to.
pub(crate) fn migrated(data_dir: &Path) -> PathBuf {
    data_dir.join("migrated")
}

fn embedded(settings: &Settings, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<EmbeddedLog>> {
    let note = migrated(&settings.data_dir);
    if let Ok(to) = std::fs::read_to_string(&note) {
        return Err(Failure::No(format!(
            "{} was migrated to {}: events that are taken here would be missing there; use that one, or remove {} to go on \
             here all the same",
            settings.data_dir.display(),
            to.trim(),
            note.display()
        ))
        .into());
    }
    let mut log = EmbeddedSettings::new(settings.data_dir.join("log"));
    log.retention_ms = Some(i64::try_from(settings.log.retention_ms)?);
    log.retention_bytes = Some(settings.log.retention_bytes);
    log.record_bytes_max = settings.log.record_bytes_max;
    Ok(EmbeddedLog::open(log, clock)?)
}

/// The brokers of the settings; `data_dir` is not touched but for the name of our transactions.
#[cfg(feature = "kafka")]
pub(crate) fn kafka(settings: &Settings, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<foldline_event_log::KafkaLog>> {
    let kafka = kafka_settings(settings)?;
    kafka.check().map_err(Failure::Usage)?;
    Ok(foldline_event_log::KafkaLog::open(kafka, clock)?)
}

/// Refuses what this foldline was built without.
#[cfg(not(feature = "kafka"))]
pub(crate) fn kafka(_settings: &Settings, _clock: Arc<dyn Clock>) -> anyhow::Result<Arc<EmbeddedLog>> {
    let refusal = "log.kind = \"kafka\", and this foldline was built without the feature \"kafka\"";
    Err(Failure::Usage(refusal.into()).into())
}

#[cfg(feature = "kafka")]
fn kafka_settings(settings: &Settings) -> anyhow::Result<foldline_event_log::KafkaSettings> {
    let log = &settings.log;
    // What the last process of this data_dir left open is shut out by the same name.
    let name = lasting_id(&settings.data_dir, "transactions", "foldline-")?;
    let listed = |names: &str| {
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut kafka = foldline_event_log::KafkaSettings::new(log.brokers.clone(), name);
    kafka.librdkafka = log.kafka.0.clone();
    kafka.replication = (log.replication > 0).then_some(log.replication);
    kafka.record_bytes_max = log.record_bytes_max;
    kafka.fetch_bytes = log.fetch_bytes;
    kafka.clock_skew_ms = log.clock_skew_ms;
    kafka.progress_topic = log.progress_topic.clone();
    kafka.accept_compacted = listed(&log.accept_compacted);
    kafka.accept_create_time = listed(&log.accept_create_time);
    Ok(kafka)
}

/// An id in the file `name` of `data_dir`, made at the first call: the same after a restart, and another one in every
/// `data_dir`.
pub(crate) fn lasting_id(data_dir: &Path, name: &str, prefix: &str) -> anyhow::Result<String> {
    let path = data_dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(known) => return Ok(known.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    // Whole and synced, or not at all: another id would not be known for this one's.
    let new = format!("{prefix}{}", uuid::Uuid::new_v4());
    let part = path.with_extension("part");
    let written = std::fs::create_dir_all(data_dir)
        .and_then(|()| std::fs::write(&part, &new))
        .and_then(|()| File::open(&part)?.sync_all())
        .and_then(|()| std::fs::rename(&part, &path))
        .and_then(|()| File::open(data_dir)?.sync_all());
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(new)
}

/// One process at a time archives into a `data_dir`.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = std::fs::create_dir_all(data_dir).and_then(|()| File::create(&path));
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let held = format!("another process holds {}", path.display());
            Err(LogError::Locked(held).into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
