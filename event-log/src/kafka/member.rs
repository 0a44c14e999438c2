//! Which partitions are ours, where several processes share a topic: a consumer group decides, and reads nothing.
//!
//! A member polls on a thread of its own, so that nothing that takes long makes the brokers think it dead. What it is
//! assigned it pauses: records are read elsewhere, from offsets that are none of Kafka's business. So a member that was
//! taken for dead, and does not know it yet, still reads what its heir reads; whoever stores must be able to tell
//! (the archive does, by create-only commits) or say the same as the heir (the speed layer does).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::bindings::rd_kafka_resp_err_t as Event;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::watch;

use super::client::{Clients, Context};
use crate::{LogError, Topic, TopicPartition};

const POLL: Duration = Duration::from_millis(100);

/// A member of a consumer group. Leaves it when dropped, which may take a moment.
#[derive(Debug)]
pub struct Member {
    assigned: watch::Receiver<BTreeSet<TopicPartition>>,
    leave: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Member {
    /// Joins `group`, to share the partitions of `topics`.
    pub(super) fn join(clients: &Clients, group: &str, topics: Vec<Topic>) -> Result<Self, LogError> {
        let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
        let (told, assigned) = watch::channel(BTreeSet::new());
        let context = MemberContext {
            logs: clients.context(),
            topics,
            assigned: told,
        };
        let failed = |cause: KafkaError| clients.failed(format!("joining consumer group {group}"), &cause);
        let consumer = BaseConsumer::from_config_and_context(&clients.member(group), context).map_err(failed)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(failed)?;
        let leave = Arc::new(AtomicBool::new(false));
        let left = Arc::clone(&leave);
        let poll = move || {
            while !left.load(Ordering::Relaxed) {
                // Nothing is read here; errors are logged by the context, and pass or come again.
                drop(consumer.poll(POLL));
            }
        };
        let thread = std::thread::Builder::new().name("kafka-member".into()).spawn(poll);
        let thread = thread.map_err(|cause| clients.failed("starting a thread", &cause))?;
        Ok(Self {
            assigned,
            leave,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The partitions that are ours; changes as members come and go.
    pub fn assigned(&self) -> watch::Receiver<BTreeSet<TopicPartition>> {
        self.assigned.clone()
    }

    /// Leaves the group, and returns when the brokers know, so that others take over at once. Blocks.
    pub fn leave(&self) {
        self.leave.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(thread.map(JoinHandle::join));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
    }
}

struct MemberContext {
    logs: Context,
    topics: Vec<Topic>,
    assigned: watch::Sender<BTreeSet<TopicPartition>>,
}

impl MemberContext {
    /// Those of `list` that were there when we joined: a topic that grew is read after a new start.
    fn known<'a>(&'a self, list: &'a TopicPartitionList) -> impl Iterator<Item = TopicPartition> + 'a {
        list.elements().into_iter().filter_map(|element| {
            let topic = self.topics.iter().find(|topic| topic.name == element.topic())?;
            let partition = u32::try_from(element.partition()).ok()?;
            (partition < topic.partitions).then(|| topic.partition(partition))
        })
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.logs.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.logs.error(error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: Event, list: &mut TopicPartitionList) {
        let outcome = if event == Event::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Some offset, so that no committed one is looked for: nothing is read from it.
            let taken = list
                .set_all_offsets(Offset::End)
                .and_then(|()| consumer.incremental_assign(list))
                .and_then(|()| consumer.pause(list));
            self.assigned.send_modify(|assigned| assigned.extend(self.known(list)));
            taken
        } else {
            let given_up: BTreeSet<_> = self.known(list).collect();
            self.assigned
                .send_modify(|assigned| assigned.retain(|partition| !given_up.contains(partition)));
            consumer.incremental_unassign(list)
        };
        tracing::info!(
            partitions = self.assigned.borrow().len(),
            "the partitions of this process changed"
        );
        if let Err(error) = outcome {
            tracing::error!(%error, "a rebalance was not carried out");
        }
    }
}
