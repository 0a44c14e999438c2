//! `foldline migrate`: an embedded installation to Kafka and another store.
//!
//! Every record gets the partition, the offset and the timestamp on Kafka that it has in the embedded log, so that whatever
//! was judged and archived stays as it is: the archive is copied, its files unchanged, with another life of each topic in
//! its names. Generations are not carried: the first batch run makes one.
//!
//! Stopped at any moment, the same command goes on. The target's store knows the lives of the topics from before the first
//! record (`migration.json`), and Kafka itself how far it got.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use foldline_batch_layer::Archive;
use foldline_batch_layer::archive::PartitionAudit;
use foldline_batch_layer::store::{self, Created, Record, StoreError};
use foldline_event_log::{EventLog, KafkaLog, LogError, RecordTime, Tick, Topic, TopicPartition};
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::config::{self, LogKind, Merged};
use crate::failure::Failure;
use crate::instance;
use crate::output::{self, Format, Row, say};
use crate::platform::{Core, Platform, Role, open_store};
use crate::{Setting, installation, log, progress};

/// Carry an embedded installation to Kafka and another store
#[derive(Debug, Args)]
#[command(
    after_help = "Example: with log.kind = \"kafka\", log.brokers, store.url and another data_dir in kafka.toml\n  \
                        foldline migrate --to kafka.toml\n  foldline --config kafka.toml run"
)]
pub(crate) struct Migrate {
    /// Configuration file of the installation that is to go on
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

const COLUMNS: [&str; 6] = ["partition", "from", "until", "rows", "dead_letters", "files"];
const OBJECT: &str = "migration.json";

/// Which life of each topic goes on as which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Migration {
    version: u32,
    attempt: Uuid,
    topics: BTreeMap<String, Lives>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Lives {
    from: Uuid,
    to: Uuid,
}

impl Record for Migration {
    const VERSION: u32 = 1;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

impl Migrate {
    /// Carries, audits and prints.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let target = self.target(&setting)?;
        let data_dir = &setting.merged.settings.data_dir;
        if instance::find(data_dir).await.is_some() {
            let help = format!("a foldline runs on {}: stop it first", data_dir.display());
            return Err(Failure::No(help).into());
        }
        let (brokers, store) = (&target.settings.log.brokers, target.settings.store_url()?);
        let (note, says) = (log::migrated(data_dir), format!("Kafka at {brokers} and {store}\n"));
        let go_on = format!("go on with: foldline --config {} run", self.to.display());
        // Whoever was ended behind the last step.
        if std::fs::read_to_string(&note).is_ok_and(|noted| noted == says) {
            say!("{} was carried and audited before; {go_on}", data_dir.display());
            return Ok(());
        }
        // Open until the note is written: nobody else takes events there meanwhile.
        let source = Platform::start_aside(&setting, &[Role::Archive]).await?;
        let to = Setting {
            merged: target,
            ..setting.clone()
        };
        let done = carry_and_audit(source.core(), &setting, &to).await;
        if done.is_ok() {
            std::fs::write(&note, says)
                .and_then(|()| std::fs::File::open(&note)?.sync_all())
                .with_context(|| format!("cannot write {}", note.display()))?;
        }
        source.stop().await;
        output::print(&COLUMNS, &done?, self.format);
        say!("the audit found every offset; {go_on}");
        Ok(())
    }

    fn target(&self, setting: &Setting) -> anyhow::Result<Merged> {
        let usage = |reason: String| Err(Failure::Usage(reason).into());
        let (from, target) = (&setting.merged.settings, config::load(Some(&self.to), &[])?);
        let to = &target.settings;
        if from.log.kind != LogKind::Embedded || to.log.kind != LogKind::Kafka {
            return usage(format!(
                "an embedded log is carried to Kafka: set log.kind = \"kafka\" in {} alone",
                self.to.display()
            ));
        }
        if from.data_dir == to.data_dir || from.store_url()? == to.store_url()? {
            let file = self.to.display();
            return usage(format!(
                "{file} must name another data_dir and another store than those that are carried"
            ));
        }
        let (ours, theirs) = (from.speed.cut_every_ms, to.speed.cut_every_ms);
        if ours != theirs && !target.is_default("speed.cut_every_ms") {
            return usage(format!(
                "the archive was made with speed.cut_every_ms = {ours}, which cannot change to {theirs}"
            ));
        }
        Ok(target)
    }
}

async fn carry_and_audit(source: &Arc<Core>, setting: &Setting, to: &Setting) -> anyhow::Result<Vec<Row>> {
    carry(source, setting, &to.merged).await?;
    let report = source.archive.audit(&source.partitions()).await?;
    audit(&report.partitions, to).await
}

/// Carries everything, and makes the topics as any others.
async fn carry(source: &Arc<Core>, setting: &Setting, target: &Merged) -> anyhow::Result<()> {
    archive_all(source).await?;
    let (settings, clock) = (target.settings.clone(), Arc::clone(&source.clock));
    let opening = setting.work.spawn_blocking(move || log::kafka(&settings, clock));
    let kafka = opening.await.context("opening the log panicked")??;
    let store = open_store(&target.settings).await?;
    let mut made_with = target.clone();
    made_with.settings.speed.cut_every_ms = source.settings.speed.cut_every_ms;
    installation::settle(&made_with, store.as_ref()).await?;

    let topics = begin(source, &kafka, store.as_ref()).await?;
    let archive = Archive::new(store);
    for ((_, from, _), to) in source.topics.iter().zip(&topics) {
        for partition in from.all_partitions() {
            carry_partition(source, &kafka, &archive, &partition, to).await?;
        }
    }
    for topic in &topics {
        kafka.carried(topic).await?;
    }
    drop(tokio::task::spawn_blocking(move || drop(kafka)).await);
    Ok(())
}

/// Kafka may delete what is older than it keeps: all of it must be archived before.
async fn archive_all(source: &Core) -> anyhow::Result<()> {
    let archiver = source
        .archiver
        .as_ref()
        .context("the source was opened with an archiver")?;
    let spinner = progress::spinner("archiving what is in the log");
    // The tick behind the one that now lies in: everything before now is below it.
    let cut_every_ms = source.settings.speed.cut_every_ms;
    let tick = Tick::at(RecordTime(source.clock.now_ms() + cut_every_ms), cut_every_ms);
    let positions = archiver.reach(tick).await;
    spinner.finish_and_clear();
    for (partition, position) in positions? {
        let end = source.log.span(&partition).await?.end;
        anyhow::ensure!(
            position.until == end,
            "the archive of {partition} ends at {}, the log at {end}",
            position.until
        );
    }
    Ok(())
}

/// The topics to carry to, made here or by an earlier try.
async fn begin(source: &Core, kafka: &KafkaLog, store: &dyn ObjectStore) -> anyhow::Result<Vec<Topic>> {
    let object = Path::from(OBJECT);
    let mut topics = Vec::new();
    let begun = match store::read_json::<Migration>(store, &object).await {
        Ok(begun) => begun,
        Err(StoreError::Missing { .. }) => {
            for (_, from, _) in &source.topics {
                refuse_existing(kafka, &from.name).await?;
            }
            let mut lives = BTreeMap::new();
            for (_, from, _) in &source.topics {
                let to = kafka.create_for_carrying(&from.name, from.partitions).await?;
                let of_topic = Lives {
                    from: from.incarnation,
                    to: to.incarnation,
                };
                lives.insert(from.name.clone(), of_topic);
            }
            let begun = Migration {
                version: Migration::VERSION,
                attempt: Uuid::new_v4(),
                topics: lives,
            };
            match store::create_only(store, &object, &begun).await? {
                Created::Mine => begun,
                Created::Theirs(_) => anyhow::bail!("another migration to this store has just begun"),
            }
        }
        Err(error) => return Err(error.into()),
    };
    for (_, from, _) in &source.topics {
        let to = kafka.topic(&from.name).await?;
        let lives = Lives {
            from: from.incarnation,
            to: to.incarnation,
        };
        if begun.topics.get(&from.name) != Some(&lives) || to.partitions != from.partitions {
            return Err(Failure::No(format!(
                "{OBJECT} of the store says that another topic than this \"{}\" is carried there: begin anew with another \
                 store, and delete the topic",
                from.name
            ))
            .into());
        }
        kafka.carrying(&to).await?;
        topics.push(to);
    }
    Ok(topics)
}

async fn refuse_existing(kafka: &KafkaLog, name: &str) -> anyhow::Result<()> {
    match kafka.topic(name).await {
        Err(LogError::UnknownTopic(_)) => Ok(()),
        Ok(_) => Err(Failure::No(format!(
            "the topic \"{name}\" is on Kafka already, and offsets are carried to new topics alone: delete it, or give the \
             stream another topic there"
        ))
        .into()),
        Err(error) => Err(error.into()),
    }
}

async fn carry_partition(
    source: &Core,
    kafka: &KafkaLog,
    archive: &Archive,
    partition: &TopicPartition,
    to: &Topic,
) -> anyhow::Result<()> {
    let end = source.log.span(partition).await?.end;
    let begun = kafka.span(&to.partition(partition.partition.0)).await?.end;
    let bar = progress::bar(&format!("records of {}/{}", partition.topic, partition.partition));
    bar.set_length(end.0.saturating_sub(begun.0));
    kafka
        .carry(source.log.as_ref(), partition, to, &|sent| bar.inc(sent))
        .await?;
    bar.finish_and_clear();
    let bar = progress::spinner(&format!("reading {}/{} back", partition.topic, partition.partition));
    kafka
        .compare_carried(source.log.as_ref(), partition, to, &|read| bar.inc(read))
        .await?;
    bar.finish_and_clear();
    let bar = progress::spinner(&format!("archive of {}/{}", partition.topic, partition.partition));
    let to = to.partition(partition.partition.0);
    archive
        .carry(&source.archive, partition, &to, &|rows| bar.inc(rows))
        .await?;
    bar.finish_and_clear();
    Ok(())
}

/// Opens what was carried, as it will be opened from now on, reads all of its archive, and compares it with what the audit
/// of the other one found: a row for each partition.
async fn audit(source: &[PartitionAudit], to: &Setting) -> anyhow::Result<Vec<Row>> {
    let platform = Platform::start_aside(to, &[Role::Archive]).await?;
    let core = platform.core();
    let report = core.archive.audit(&core.partitions()).await;
    platform.stop().await;
    let target = report?.partitions;
    let wrong = |audit: &PartitionAudit| audit.findings_in_all > 0;
    let finding = source.iter().chain(&target).find(|audit| wrong(audit));
    if let Some(audit) = finding {
        let what = audit.findings.first().map_or("", |finding| finding.what.as_str());
        return Err(Failure::No(format!("the audit of {} found: {what}", audit.partition)).into());
    }
    let mut rows = Vec::new();
    for (before, after) in source.iter().zip(&target) {
        let counts = |audit: &PartitionAudit| {
            let offsets = audit.offsets.start.0..audit.offsets.end.0;
            (offsets, audit.rows, audit.dead_letters, audit.holes, audit.gaps)
        };
        anyhow::ensure!(
            counts(before) == counts(after),
            "the archive of {} holds {:?} (offsets, rows, dead letters, holes, gaps), and what was carried of it {:?}",
            before.partition,
            counts(before),
            counts(after)
        );
        let row = json!({
            "partition": format!("{}/{}", after.partition.topic, after.partition.partition),
            "from": after.offsets.start,
            "until": after.offsets.end,
            "rows": after.rows,
            "dead_letters": after.dead_letters,
            "files": after.files,
        });
        rows.push(serde_json::from_value(row)?);
    }
    anyhow::ensure!(source.len() == target.len(), "not every partition was carried");
    Ok(rows)
}
