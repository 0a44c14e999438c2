//! What each producer appended last: a compacted topic of our own, written in the same transactions as the records.
//!
//! So a repeated append is recognised by whoever comes next, after a crash too: either both are there or neither is.
//! A number stands under the id of the topic and the name of the producer: a topic that was created again knows nothing
//! of what its former life was given. Requests are forgotten after a day. Two processes that append for one producer at
//! the same moment would both see that nothing is stored yet: one file is imported by one process at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::Array;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::ends::Ends;
use super::fetch::Fetcher;
use super::topics::Topics;
use crate::{Clock, LogError, Offset, ProducerSequence, Topic};

/// Producers with this prefix are forgotten: each stands for one request.
const FORGOTTEN_PREFIX: &str = "request/";
const FORGET_AFTER_MS: i64 = 24 * 60 * 60 * 1000;
/// Tombstones written at once, at most.
const FORGET_AT_ONCE: usize = 1_000;
/// Longest name.
pub(super) const NAME_BYTES_MAX: usize = 4_096;
const READ_BYTES: usize = 4 << 20;
const READ_WAIT: Duration = Duration::from_millis(100);
/// How long others' transactions are waited for. One whose process was killed stays open for longer.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Producers {
    /// Name of the topic.
    topic: String,
    topics: Arc<Topics>,
    ends: Arc<Ends>,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// What was read of the topic.
#[derive(Debug, Default)]
pub(super) struct State {
    topic: Option<Topic>,
    next: u64,
    last: HashMap<String, (u64, i64)>,
    /// Requests in the order of their times.
    requests: VecDeque<(i64, String)>,
    /// Forgotten here, but not in the topic.
    forgotten: Vec<String>,
}

impl Producers {
    pub(super) fn new(
        topic: String,
        topics: Arc<Topics>,
        ends: Arc<Ends>,
        fetcher: Arc<Fetcher>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            topic,
            topics,
            ends,
            fetcher,
            clock,
            state: Mutex::default(),
        }
    }

    pub(super) async fn last_sequence(&self, producer: &str) -> Result<Option<u64>, LogError> {
        let state = self.caught_up().await?;
        // A producer appends to one topic; which one, its name does not say.
        let lives = self.topics.lives_known().into_iter();
        let found = lives.filter_map(|life| state.last.get(&name_of(life, producer)));
        Ok(found.map(|(sequence, _)| *sequence).max())
    }

    /// Everything that is stored now.
    pub(super) async fn caught_up(&self) -> Result<MutexGuard<'_, State>, LogError> {
        let mut state = self.state.lock().await;
        let topic = match self.topics.recent(&self.topic).await {
            Ok(topic) => topic,
            Err(LogError::UnknownTopic(_)) => {
                let settings = [
                    ("cleanup.policy", "compact"),
                    ("message.timestamp.type", "LogAppendTime"),
                ];
                let topic = self.topics.create(&self.topic, 1, &settings).await?;
                self.ends.await_leaders(&topic).await?;
                topic
            }
            Err(error) => return Err(error),
        };
        if state
            .topic
            .as_ref()
            .is_none_or(|known| known.incarnation != topic.incarnation)
        {
            *state = State {
                topic: Some(topic.clone()),
                ..State::default()
            };
        }
        let partition = topic.partition(0);
        // Others write here, too: behind an open transaction of theirs may lie a number of ours.
        let span = self.ends.settled(&partition, SETTLED_WITHIN).await?;
        state.next = state.next.max(span.earliest.0);
        while state.next < span.end.0 {
            let from = Offset(state.next);
            let records = self.fetcher.read(&partition, from, READ_BYTES, READ_WAIT).await?;
            for index in 0..records.len() {
                let (key, value) = (&records.keys, &records.values);
                let name = String::from_utf8_lossy(key.value(index)).into_owned();
                if value.is_null(index) {
                    state.last.remove(&name);
                    continue;
                }
                let sequence = std::str::from_utf8(value.value(index))
                    .ok()
                    .and_then(|text| text.parse().ok());
                let Some(sequence) = sequence else {
                    return Err(LogError::Damaged {
                        at: format!("{partition} at offset {}", records.offsets[index]),
                        reason: format!("the last sequence of \"{name}\" is no number"),
                    });
                };
                state.note(name, sequence, records.timestamps_ms[index]);
            }
            state.next = records.next.0;
        }
        state.forget(self.clock.now_ms());
        Ok(state)
    }

    /// Refuses a name that is too long.
    pub(super) fn check(sequence: &ProducerSequence) -> Result<(), LogError> {
        let bytes = sequence.producer.len();
        if bytes > NAME_BYTES_MAX {
            return Err(LogError::TooLarge {
                bytes,
                max: NAME_BYTES_MAX,
            });
        }
        Ok(())
    }
}

impl State {
    /// Whether `sequence` is new. A request appends once: its sequence is a fingerprint, not a number, so any other one
    /// is another body under its name and no later append.
    pub(super) fn is_new(&self, life: Uuid, sequence: &ProducerSequence) -> bool {
        let request = sequence.producer.starts_with(FORGOTTEN_PREFIX);
        let last = self.last.get(&name_of(life, &sequence.producer));
        last.is_none_or(|(last, _)| !request && sequence.sequence > *last)
    }

    /// Notes the number of a producer under its [`name_of`].
    fn note(&mut self, producer: String, sequence: u64, time_ms: i64) {
        let request = producer
            .split_once('/')
            .is_some_and(|(_, name)| name.starts_with(FORGOTTEN_PREFIX));
        if request {
            self.requests.push_back((time_ms, producer.clone()));
        }
        self.last.insert(producer, (sequence, time_ms));
    }

    fn forget(&mut self, now_ms: i64) {
        while let Some((time_ms, _)) = self.requests.front()
            && *time_ms <= now_ms - FORGET_AFTER_MS
        {
            let Some((time_ms, producer)) = self.requests.pop_front() else {
                return;
            };
            // It may have been noted again since: then a younger entry is there for it.
            if self
                .last
                .get(&producer)
                .is_some_and(|(_, noted_ms)| *noted_ms == time_ms)
            {
                self.last.remove(&producer);
                self.forgotten.push(producer);
            }
        }
    }

    /// Producers to put tombstones for: not for one that was noted again, or is about to be in `progress`.
    pub(super) fn tombstones(&mut self, progress: &[(String, Option<u64>)]) -> Vec<String> {
        let count = self.forgotten.len().min(FORGET_AT_ONCE);
        let noted = |name: &String| self.last.contains_key(name) || progress.iter().any(|(noted, _)| noted == name);
        self.forgotten.drain(..count).filter(|name| !noted(name)).collect()
    }
}

/// What the number of `producer` stands under.
pub(super) fn name_of(life: Uuid, producer: &str) -> String {
    format!("{life}/{producer}")
}
