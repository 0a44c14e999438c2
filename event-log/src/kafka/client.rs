//! Settings, and the clients that they make.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::ffi;
use crate::LogError;

/// A question to the brokers is answered within this, or fails.
pub(super) const ASK_WITHIN: Duration = Duration::from_secs(5);

/// What a user may not change: the answers would no longer be exact.
const OWN_SETTINGS: [&str; 13] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "auto.offset.reset",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "partition.assignment.strategy",
    "transactional.id",
    "partitioner",
];
/// Parts of names of settings whose values are never shown.
const SECRET_WORDS: [&str; 6] = ["password", "secret", "token", "credential", "private", "key.pem"];

/// How a [`KafkaLog`](super::KafkaLog) finds its brokers, and what it asks of topics.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `host:port,...`
    pub brokers: String,
    /// Settings of librdkafka that are passed on as they are.
    pub librdkafka: BTreeMap<String, String>,
    /// Name of our transactions: the same after a restart, so that what a crash left open is ended at once, and
    /// another one for every installation.
    pub transactional_id: String,
    /// Name of the topic that holds the numbers of appends, compacted. May be shared with others.
    pub progress_topic: String,
    /// Copies of topics that are created; `None`: as the brokers say.
    pub replication: Option<i32>,
    /// The largest record that is appended (key, value and headers), and of topics that are created.
    pub record_bytes_max: usize,
    /// When more than this waits to be stored, an append is refused with [`LogError::Full`].
    pub pending_bytes_max: usize,
    /// Bytes that may wait in memory, fetched but not read, per partition and reader.
    pub fetch_bytes: usize,
    /// By how much the clocks of brokers may lie behind ours, and how long a record may wait for its copies. An idle
    /// partition is known to be complete up to now less this.
    pub clock_skew_ms: u64,
    /// Topics that may be compacted although records vanish from them.
    pub accept_compacted: Vec<String>,
    /// Topics whose producers may set timestamps although the topic does not bound them: they are complete only up to
    /// their newest record.
    pub accept_create_time: Vec<String>,
}

impl KafkaSettings {
    /// The default settings for `brokers`.
    pub fn new(brokers: impl Into<String>, transactional_id: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            librdkafka: BTreeMap::new(),
            transactional_id: transactional_id.into(),
            progress_topic: "foldline-progress".to_owned(),
            replication: None,
            record_bytes_max: 8 << 20,
            pending_bytes_max: 64 << 20,
            fetch_bytes: 2 << 20,
            clock_skew_ms: 2_000,
            accept_compacted: Vec::new(),
            accept_create_time: Vec::new(),
        }
    }

    /// What is wrong with the settings that are passed on, without the values of secrets.
    pub fn check(&self) -> Result<(), String> {
        if self.brokers.trim().is_empty() {
            return Err("no brokers are named: say \"host:port\", several with commas".into());
        }
        if let Some(own) = OWN_SETTINGS.iter().find(|own| self.librdkafka.contains_key(**own)) {
            return Err(format!("\"{own}\" cannot be passed on: foldline sets it itself"));
        }
        for (key, value) in &self.librdkafka {
            if !cfg!(feature = "kafka-tls") && needs_tls(key, value) {
                return Err(self.redacted(format!(
                    "\"{key}\" = \"{value}\" needs TLS, and this foldline was built without it: build it with \
                     --features kafka-tls"
                )));
            }
            let mut config = ClientConfig::new();
            config.set(key, value);
            if let Err(error) = config.create_native_config() {
                return Err(self.redacted(match &error {
                    KafkaError::ClientConfig(_, reason, key, _) => format!("librdkafka refuses \"{key}\": {reason}"),
                    other => format!("librdkafka refuses \"{key}\": {other}"),
                }));
            }
        }
        Ok(())
    }

    /// `text` without the values of secrets.
    fn redacted(&self, mut text: String) -> String {
        for secret in self.secrets().filter(|secret| !secret.is_empty()) {
            if text.contains(secret) {
                text = text.replace(secret, "********");
            }
        }
        text
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let secrets = self.librdkafka.iter().filter(|(key, _)| is_secret(key));
        secrets.map(|(_, value)| value.as_str())
    }
}

/// What librdkafka can do only with OpenSSL.
fn needs_tls(key: &str, value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    match key {
        "security.protocol" => matches!(value.as_str(), "ssl" | "sasl_ssl"),
        "sasl.mechanism" | "sasl.mechanisms" => value.starts_with("scram-"),
        _ => key.starts_with("ssl."),
    }
}

fn is_secret(key: &str) -> bool {
    SECRET_WORDS.iter().any(|word| key.contains(word)) || key == "sasl.jaas.config" || key == "sasl.oauthbearer.config"
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("librdkafka", &self.librdkafka.keys())
            .field("transactional_id", &self.transactional_id)
            .finish_non_exhaustive()
    }
}

/// Hands on what librdkafka says, without secrets, and remembers why it last lost or did not get a connection: of that,
/// answers only say that they did not come.
#[derive(Debug, Clone)]
pub(super) struct Context {
    settings: Arc<KafkaSettings>,
    lost: Arc<Mutex<Option<(Instant, String)>>>,
}

/// A reason for a lost connection that is older explains nothing.
const EXPLAINS_FOR: Duration = Duration::from_secs(30);

impl Context {
    fn new(settings: Arc<KafkaSettings>) -> Self {
        Self {
            settings,
            lost: Arc::default(),
        }
    }

    fn lost(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was attempted, where, and why it failed.
    fn failed(&self, attempt: impl Into<String>, cause: &dyn fmt::Display) -> LogError {
        let mut reason = self.settings.redacted(cause.to_string());
        if let Some((at, lost)) = self.lost().as_ref()
            && at.elapsed() < EXPLAINS_FOR
            && !reason.contains(lost)
        {
            reason = format!("{reason}; the last connection failed: {lost}");
        }
        LogError::Storage {
            attempt: format!("{} (Kafka at {})", attempt.into(), self.settings.brokers),
            source: reason.into(),
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let text = self.settings.redacted(text.to_owned());
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error
                if facility == "FAIL" =>
            {
                tracing::info!(target: "librdkafka", facility, "{text}");
                *self.lost() = Some((Instant::now(), text));
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(target: "librdkafka", facility, "{text}");
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{text}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.settings.redacted(reason.to_owned());
        tracing::warn!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Context {}

/// Makes clients, and asks questions.
pub(super) struct Clients {
    settings: Arc<KafkaSettings>,
    context: Context,
    admin: Arc<AdminClient<Context>>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(formatter)
    }
}

impl Clients {
    pub(super) fn new(settings: KafkaSettings) -> Result<Self, LogError> {
        settings.check().map_err(|reason| LogError::Storage {
            attempt: "reading the settings for Kafka".into(),
            source: reason.into(),
        })?;
        let settings = Arc::new(settings);
        let context = Context::new(Arc::clone(&settings));
        let admin = AdminClient::from_config_and_context(&base(&settings), context.clone())
            .map_err(|cause| context.failed("making a client", &cause))?;
        Ok(Self {
            settings,
            context,
            admin: Arc::new(admin),
        })
    }

    pub(super) fn settings(&self) -> &KafkaSettings {
        &self.settings
    }

    pub(super) fn context(&self) -> Context {
        self.context.clone()
    }

    pub(super) fn admin(&self) -> &AdminClient<Context> {
        &self.admin
    }

    pub(super) fn admin_options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(ASK_WITHIN))
            .operation_timeout(Some(ASK_WITHIN))
    }

    /// Asks the brokers on a thread that may wait.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        attempt: impl Into<String>,
        question: impl FnOnce(&Client<Context>) -> Result<T, (RDKafkaErrorCode, String)> + Send + 'static,
    ) -> Result<Result<T, (RDKafkaErrorCode, String)>, LogError> {
        self.take_logged();
        let admin = Arc::clone(&self.admin);
        let asked = tokio::task::spawn_blocking(move || question(admin.inner())).await;
        asked.map_err(|cause| self.failed(attempt, &cause))
    }

    /// The client that asks has nobody else who takes what it logs.
    fn take_logged(&self) {
        ffi::logged(self.admin.inner(), |level, facility, text| {
            let level = match level {
                ..=3 => RDKafkaLogLevel::Error,
                4 => RDKafkaLogLevel::Warning,
                5 | 6 => RDKafkaLogLevel::Info,
                _ => RDKafkaLogLevel::Debug,
            };
            self.context.log(level, facility, text);
        });
    }

    /// A consumer that reads what it is told to, and nothing else.
    pub(super) fn consumer(&self) -> Result<BaseConsumer<Context>, LogError> {
        let mut config = base(&self.settings);
        let defaults = [
            ("fetch.queue.backoff.ms", "5".to_owned()),
            ("fetch.wait.max.ms", "100".to_owned()),
            (
                "queued.max.messages.kbytes",
                (self.settings.fetch_bytes / 1024).max(1).to_string(),
            ),
            ("queued.min.messages", "100000".to_owned()),
        ];
        let own = [
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            // Asked for where partitions are assigned by hand, and of no use.
            ("group.id", "foldline"),
            ("isolation.level", "read_committed"),
        ];
        self.fill(&mut config, &defaults, &own);
        BaseConsumer::from_config_and_context(&config, self.context())
            .map_err(|cause| self.failed("making a consumer", &cause))
    }

    /// The settings of a member of `group` that reads nothing.
    pub(super) fn member(&self, group: &str) -> ClientConfig {
        let mut config = base(&self.settings);
        let defaults = [
            // Whoever dies is missed after this.
            ("session.timeout.ms", "10000".to_owned()),
            ("heartbeat.interval.ms", "2000".to_owned()),
        ];
        let own = [
            ("group.id", group),
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("partition.assignment.strategy", "cooperative-sticky"),
        ];
        self.fill(&mut config, &defaults, &own);
        config
    }

    /// The settings of a producer of transactions.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = base(&self.settings);
        let settings = &self.settings;
        let defaults = [
            ("compression.type", "zstd".to_owned()),
            ("linger.ms", "0".to_owned()),
            (
                "message.max.bytes",
                (settings.record_bytes_max + (64 << 10)).to_string(),
            ),
            ("queue.buffering.max.messages", "1000000".to_owned()),
            ("transaction.timeout.ms", "15000".to_owned()),
            ("message.timeout.ms", "10000".to_owned()),
        ];
        let own = [
            ("enable.idempotence", "true"),
            ("transactional.id", settings.transactional_id.as_str()),
        ];
        self.fill(&mut config, &defaults, &own);
        config
    }

    /// The settings of a producer that writes in order and without gaps.
    pub(super) fn carrier(&self) -> ClientConfig {
        let mut config = base(&self.settings);
        let bytes = (self.settings.record_bytes_max + (64 << 10)).to_string();
        let defaults = [
            ("compression.type", "zstd".to_owned()),
            ("linger.ms", "20".to_owned()),
            ("message.max.bytes", bytes),
            ("queue.buffering.max.kbytes", (64 << 10).to_string()),
        ];
        let own = [("enable.idempotence", "true"), ("enable.gapless.guarantee", "true")];
        self.fill(&mut config, &defaults, &own);
        config
    }

    /// `defaults` where the user says nothing, and `own` whatever the user says.
    fn fill(&self, config: &mut ClientConfig, defaults: &[(&str, String)], own: &[(&str, &str)]) {
        for (key, value) in defaults {
            if !self.settings.librdkafka.contains_key(*key) {
                config.set(*key, value);
            }
        }
        for (key, value) in own {
            config.set(*key, *value);
        }
    }

    pub(super) fn failed(&self, attempt: impl Into<String>, cause: &dyn fmt::Display) -> LogError {
        self.take_logged();
        self.context.failed(attempt, cause)
    }
}

/// What every client has in common.
fn base(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.brokers);
    config.set("client.id", "foldline");
    // A broker that comes back is found within this, not within ten seconds.
    config.set("reconnect.backoff.max.ms", "1000");
    config.set("log.connection.close", "false");
    config.set_log_level(if tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    for (key, value) in &settings.librdkafka {
        config.set(key, value);
    }
    config
}
