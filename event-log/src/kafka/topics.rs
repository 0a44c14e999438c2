//! What the brokers say of topics: which life they live, how many partitions they have, what they do to records.
//!
//! librdkafka goes on reading by name when a topic was deleted and created again, at the offset where it was. So the
//! life of a topic is asked for again *after* records came, and before they are handed out: one question for all
//! readers of a topic that wait for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rdkafka::admin::{NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::client::{ASK_WITHIN, Clients};
use super::ffi;
use crate::{LogError, Topic, TopicPartition};

/// What is known of a topic is believed so long where a little age does no harm.
const BELIEVED: Duration = Duration::from_secs(5);
/// How long a topic that was created, or grew, may take to show.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A batch of records needs a little more than its records.
const BATCH_OVERHEAD: usize = 64 << 10;

/// Who sets the timestamps of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timestamps {
    /// The broker, when it appends.
    Appended,
    /// The producer, and the broker refuses what is older than this many milliseconds.
    Within(i64),
    /// The producer, as it likes.
    Unbounded,
}

/// Every topic that was asked for.
#[derive(Debug)]
pub(super) struct Topics {
    clients: Arc<Clients>,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
    /// Who is asked where there is no controller.
    broker: OnceLock<i32>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Held while the brokers are asked.
    asking: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Debug, Default, Clone)]
struct Known {
    topic: Option<Topic>,
    /// When the brokers were asked last, and what went wrong if something did.
    asked: Option<Instant>,
    failed: Option<String>,
    timestamps: Option<Timestamps>,
    record_bytes_max: Option<usize>,
    keeps_ms: Option<u64>,
}

impl Topics {
    pub(super) fn new(clients: Arc<Clients>) -> Self {
        Self {
            clients,
            entries: Mutex::default(),
            broker: OnceLock::new(),
        }
    }

    /// The topic as the brokers describe it now.
    pub(super) async fn now(&self, name: &str) -> Result<Topic, LogError> {
        self.since(name, Instant::now()).await
    }

    /// The topic as it was described not long ago.
    pub(super) async fn recent(&self, name: &str) -> Result<Topic, LogError> {
        let now = Instant::now();
        self.since(name, now.checked_sub(BELIEVED).unwrap_or(now)).await
    }

    /// The topic as the brokers described it at `since` or later.
    async fn since(&self, name: &str, since: Instant) -> Result<Topic, LogError> {
        let entry = self.entry(name);
        if let Some(outcome) = self.heard(&entry, name, since) {
            return outcome;
        }
        let _asking = entry.asking.lock().await;
        if let Some(outcome) = self.heard(&entry, name, since) {
            return outcome;
        }
        let asked = Instant::now();
        let topic = name.to_owned();
        let broker = self.broker.get().copied();
        let question = move |client: &_| ffi::describe_topic(client, &topic, broker, ASK_WITHIN);
        let outcome = self.clients.ask(asking_for(name), question).await?;
        if broker.is_none() && matches!(outcome, Err((RDKafkaErrorCode::OperationTimedOut, _))) {
            let question = |client: &_| Ok(ffi::without_controller(client, ASK_WITHIN));
            if let Ok(Some(broker)) = self.clients.ask(asking_for(name), question).await? {
                let _ = self.broker.set(broker);
            }
        }
        let mut known = entry.known();
        known.asked = Some(asked);
        known.failed = None;
        match outcome {
            Ok((incarnation, partitions)) => {
                let topic = Topic {
                    name: name.to_owned(),
                    incarnation,
                    partitions,
                };
                if known
                    .topic
                    .as_ref()
                    .is_some_and(|before| before.incarnation != incarnation)
                {
                    known.timestamps = None;
                    known.record_bytes_max = None;
                }
                known.topic = Some(topic);
            }
            Err((RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic, _)) => known.topic = None,
            Err((code, reason)) => known.failed = Some(format!("{reason} ({code})")),
        }
        drop(known);
        self.heard(&entry, name, since)
            .unwrap_or_else(|| Err(LogError::UnknownTopic(name.to_owned())))
    }

    /// What was heard at `since` or later.
    fn heard(&self, entry: &Entry, name: &str, since: Instant) -> Option<Result<Topic, LogError>> {
        let known = entry.known();
        known.asked.filter(|asked| *asked >= since)?;
        Some(match (&known.failed, &known.topic) {
            (Some(reason), _) => Err(self.clients.failed(asking_for(name), reason)),
            (None, Some(topic)) => Ok(topic.clone()),
            (None, None) => Err(LogError::UnknownTopic(name.to_owned())),
        })
    }

    /// Refuses a partition of another life, or one that is not there.
    pub(super) async fn resolve(&self, partition: &TopicPartition) -> Result<(), LogError> {
        let recent = check(partition, &self.recent(&partition.topic).await?);
        match recent {
            // What was heard may be older than what the caller knows.
            Err(_) => check(partition, &self.now(&partition.topic).await?),
            Ok(()) => Ok(()),
        }
    }

    /// Refuses `partition` unless the brokers said at `since` or later that its topic lives on.
    pub(super) async fn lives(&self, partition: &TopicPartition, since: Instant) -> Result<(), LogError> {
        check(partition, &self.since(&partition.topic, since).await?)
    }

    /// The lives of the topics that were asked for.
    pub(super) fn lives_known(&self) -> Vec<Uuid> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries
            .values()
            .filter_map(|entry| entry.known().topic.as_ref().map(|topic| topic.incarnation));
        known.collect()
    }

    /// Who sets the timestamps of a topic; `None` before [`Topics::ensure`] has looked.
    pub(super) fn timestamps(&self, name: &str) -> Option<Timestamps> {
        self.entry(name).known().timestamps
    }

    /// How long a topic keeps records: as it was when [`Topics::ensure`] looked.
    pub(super) fn keeps_ms(&self, name: &str) -> Option<u64> {
        self.entry(name).known().keeps_ms
    }

    /// The largest record that a topic takes, where it is known.
    pub(super) fn record_bytes_max(&self, name: &str) -> usize {
        let bound = self.entry(name).known().record_bytes_max;
        bound
            .map_or(usize::MAX, |bytes| bytes)
            .min(self.clients.settings().record_bytes_max)
    }

    /// Creates the topic, or lets it grow, and refuses one that does not keep every record.
    pub(super) async fn ensure(&self, name: &str, partitions: u32) -> Result<Topic, LogError> {
        let topic = match self.now(name).await {
            Ok(topic) => topic,
            Err(LogError::UnknownTopic(_)) => self.create_with(name, partitions, &[]).await?,
            Err(error) => return Err(error),
        };
        let topic = if topic.partitions < partitions {
            self.grow(&topic, partitions).await?
        } else {
            topic
        };
        self.look_at_settings(name).await?;
        Ok(topic)
    }

    /// Creates a topic as foldline makes them, but for `other` settings.
    pub(super) async fn create_with(
        &self,
        name: &str,
        partitions: u32,
        other: &[(&'static str, &str)],
    ) -> Result<Topic, LogError> {
        let settings = self.settings_of_new(other);
        let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        self.create(name, partitions, &settings).await
    }

    /// The settings of the topics that foldline makes, but for `other` ones.
    pub(super) fn settings_of_new(&self, other: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
        let bytes = self.clients.settings().record_bytes_max + BATCH_OVERHEAD;
        let mut settings = BTreeMap::from([
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("cleanup.policy", "delete".to_owned()),
            ("max.message.bytes", bytes.to_string()),
        ]);
        settings.extend(other.iter().map(|(key, value)| (*key, (*value).to_owned())));
        settings
    }

    /// Creates a topic with these settings; one that is there already stays as it is.
    pub(super) async fn create(
        &self,
        name: &str,
        partitions: u32,
        settings: &[(&str, &str)],
    ) -> Result<Topic, LogError> {
        let attempt = || format!("creating the topic \"{name}\"");
        let count = i32::try_from(partitions).map_err(|cause| self.clients.failed(attempt(), &cause))?;
        let replication = TopicReplication::Fixed(self.clients.settings().replication.unwrap_or(-1));
        let mut new = NewTopic::new(name, count, replication);
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let created = self
            .clients
            .admin()
            .create_topics([&new], &self.clients.admin_options())
            .await;
        let outcomes = created.map_err(|cause| self.clients.failed(attempt(), &cause))?;
        for outcome in outcomes {
            match outcome {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(self.clients.failed(attempt(), &code)),
            }
        }
        self.shown(name, 1, attempt()).await
    }

    async fn grow(&self, topic: &Topic, partitions: u32) -> Result<Topic, LogError> {
        let attempt = || format!("adding partitions to the topic \"{}\"", topic.name);
        let wanted = NewPartitions::new(&topic.name, partitions as usize);
        let grown = self
            .clients
            .admin()
            .create_partitions([&wanted], &self.clients.admin_options())
            .await;
        let outcomes = grown.map_err(|cause| self.clients.failed(attempt(), &cause))?;
        for outcome in outcomes {
            match outcome {
                // Somebody else was faster.
                Ok(_) | Err((_, RDKafkaErrorCode::InvalidPartitions)) => {}
                Err((_, code)) => return Err(self.clients.failed(attempt(), &code)),
            }
        }
        self.shown(&topic.name, partitions, attempt()).await
    }

    /// Waits until the brokers show the topic with so many partitions.
    async fn shown(&self, name: &str, partitions: u32, attempt: String) -> Result<Topic, LogError> {
        let deadline = Instant::now() + SHOWN_WITHIN;
        loop {
            match self.now(name).await {
                Ok(topic) if topic.partitions >= partitions => return Ok(topic),
                Ok(_) | Err(LogError::UnknownTopic(_)) if Instant::now() < deadline => sleep(LOOK_EVERY).await,
                Ok(topic) => {
                    let reason = format!("it still has {} partitions", topic.partitions);
                    return Err(self.clients.failed(attempt, &reason));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the topic's settings, and refuses what would make records vanish or time stand still.
    async fn look_at_settings(&self, name: &str) -> Result<(), LogError> {
        let settings = self.clients.settings();
        let found = self.settings_of(name).await?;
        let get = |key: &str| found.get(key).map(String::as_str);
        let refuse = |reason: String| {
            Err(LogError::TopicMismatch {
                topic: name.to_owned(),
                reason,
            })
        };
        let listed = |accepted: &[String]| accepted.iter().any(|topic| topic == name);
        if get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) && !listed(&settings.accept_compacted)
        {
            return refuse(
                "it is compacted, so records vanish from it before they need be read; list it in \
                 \"log.accept_compacted\" if what is left is what you mean"
                    .into(),
            );
        }
        let within = get("message.timestamp.before.max.ms").and_then(|bound| bound.parse().ok());
        let timestamps = match (get("message.timestamp.type"), within) {
            (Some("LogAppendTime"), _) => Timestamps::Appended,
            (_, Some(bound)) if bound < i64::MAX / 2 => Timestamps::Within(bound),
            _ => Timestamps::Unbounded,
        };
        if timestamps == Timestamps::Unbounded && !listed(&settings.accept_create_time) {
            return refuse(
                "its producers set the timestamps without a bound; set message.timestamp.type=LogAppendTime or \
                 message.timestamp.before.max.ms, or list it in \"log.accept_create_time\""
                    .into(),
            );
        }
        let entry = self.entry(name);
        let mut known = entry.known();
        known.timestamps = Some(timestamps);
        // -1: for ever.
        known.keeps_ms = get("retention.ms").and_then(|time| time.parse().ok());
        known.record_bytes_max = get("max.message.bytes").and_then(|bytes| bytes.parse().ok());
        Ok(())
    }

    /// The settings of a topic, by name.
    pub(super) async fn settings_of(&self, name: &str) -> Result<HashMap<String, String>, LogError> {
        let attempt = || format!("reading the settings of the topic \"{name}\"");
        let wanted = [ResourceSpecifier::Topic(name)];
        let answer = self
            .clients
            .admin()
            .describe_configs(&wanted, &self.clients.admin_options())
            .await;
        let resources = answer.map_err(|cause| self.clients.failed(attempt(), &cause))?;
        let mut found = HashMap::new();
        for resource in resources {
            let resource = resource.map_err(|cause| self.clients.failed(attempt(), &cause))?;
            found.extend(
                resource
                    .entries
                    .into_iter()
                    .filter_map(|entry| Some((entry.name, entry.value?))),
            );
        }
        Ok(found)
    }

    fn entry(&self, name: &str) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(entries.entry(name.to_owned()).or_default())
    }
}

impl Entry {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn asking_for(name: &str) -> String {
    format!("asking for the topic \"{name}\"")
}

fn check(partition: &TopicPartition, topic: &Topic) -> Result<(), LogError> {
    let mismatch = |reason| {
        Err(LogError::TopicMismatch {
            topic: partition.topic.clone(),
            reason,
        })
    };
    if topic.incarnation != partition.incarnation {
        return mismatch(format!(
            "incarnation {} was asked for, it lives as {} now",
            partition.incarnation, topic.incarnation
        ));
    }
    if partition.partition.0 >= topic.partitions {
        return mismatch(format!(
            "partition {} was asked for, it has {}",
            partition.partition, topic.partitions
        ));
    }
    Ok(())
}
