//! The log on Apache Kafka, on librdkafka.
//!
//! Positions are never Kafka's business: readers bring their offsets, and no group offset is ever stored or believed. A
//! group may say which partitions are ours ([`member`]). An append is one transaction, shared by everyone who waits, so that it is there
//! whole or not at all, together with the number that says that it was done.
//!
//! Files: [`client`] settings and clients, [`topics`] what the brokers say of topics and their lives, [`ends`] what
//! partitions hold, [`fetch`] records, [`append`] transactions, [`producers`] appends that happen once, [`member`] who reads
//! which partitions, [`carry`] another log's records to topics, [`ffi`] the calls that the safe crate lacks.

mod append;
mod carry;
mod client;
mod columns;
mod ends;
mod fetch;
mod ffi;
mod member;
mod producers;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Appended, Clock, EventLog, LogError, NewRecord, Offset, ProducerSequence, Records, Span, Topic, TopicPartition,
};
use append::Appender;
use client::Clients;
pub use client::KafkaSettings;
use ends::Ends;
use fetch::Fetcher;
pub use member::Member;
use producers::Producers;
use topics::Topics;

/// A log on Kafka brokers. Dropping it ends its clients; transactions under way are aborted by the brokers.
#[derive(Debug)]
pub struct KafkaLog {
    clients: Arc<Clients>,
    topics: Arc<Topics>,
    ends: Arc<Ends>,
    fetcher: Arc<Fetcher>,
    producers: Arc<Producers>,
    appender: Appender,
}

impl KafkaLog {
    /// Sets the clients up, on the current runtime. No broker need be there yet: whatever needs one says so.
    pub fn open(settings: KafkaSettings, clock: Arc<dyn Clock>) -> Result<Arc<Self>, LogError> {
        let clients = Arc::new(Clients::new(settings)?);
        let topics = Arc::new(Topics::new(Arc::clone(&clients)));
        let ends = Arc::new(Ends::new(Arc::clone(&clients), Arc::clone(&topics), Arc::clone(&clock)));
        let fetcher = Fetcher::start(Arc::clone(&clients), Arc::clone(&topics), Arc::clone(&ends));
        let producers = Arc::new(Producers::new(
            clients.settings().progress_topic.clone(),
            Arc::clone(&topics),
            Arc::clone(&ends),
            Arc::clone(&fetcher),
            clock,
        ));
        let appender = Appender::start(
            Arc::clone(&clients),
            Arc::clone(&topics),
            Arc::clone(&ends),
            Arc::clone(&producers),
        );
        Ok(Arc::new(Self {
            clients,
            topics,
            ends,
            fetcher,
            producers,
            appender,
        }))
    }

    /// Joins the consumer group `group`, which shares the partitions of `topics` among its members.
    pub fn join(&self, group: &str, topics: Vec<Topic>) -> Result<Member, LogError> {
        Member::join(&self.clients, group, topics)
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    async fn ensure_topic(&self, name: &str, partitions: u32) -> Result<Topic, LogError> {
        let topic = self.topics.ensure(name, partitions).await?;
        self.ends.await_leaders(&topic).await?;
        Ok(topic)
    }

    async fn topic(&self, name: &str) -> Result<Topic, LogError> {
        self.topics.now(name).await
    }

    async fn span(&self, partition: &TopicPartition) -> Result<Span, LogError> {
        self.topics.resolve(partition).await?;
        self.ends.now(partition).await
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Records, LogError> {
        self.fetcher.read(partition, from, max_bytes, wait).await
    }

    async fn append(
        &self,
        topic: &str,
        records: Vec<NewRecord>,
        sequence: Option<ProducerSequence>,
    ) -> Result<Appended, LogError> {
        self.appender.append(topic, records, sequence).await
    }

    async fn last_sequence(&self, producer: &str) -> Result<Option<u64>, LogError> {
        self.appender.settle().await?;
        self.producers.last_sequence(producer).await
    }

    /// Retention is Kafka's: nothing is removed here.
    async fn release(&self, partition: &TopicPartition, _floor: Offset) -> Result<(), LogError> {
        self.topics.resolve(partition).await
    }

    fn keeps_ms(&self, topic: &str) -> Option<u64> {
        self.topics.keeps_ms(topic)
    }
}
