//! What partitions hold: where they begin, where they end, and up to which time they are complete.
//!
//! The end is the *last stable offset*: behind it transactions are open. An idle partition is complete up to the time
//! when its end was asked for, less what clocks may differ and copies may take ([`KafkaSettings::clock_skew_ms`]
//! (super::KafkaSettings)), for the broker gives whatever comes later a later timestamp. That holds only where nothing
//! lies behind the stable end: the records of an open transaction are stamped already. So the high watermark is asked
//! for *before* the stable end, and where that does not reach it, no time is said. A clock that is further off than
//! stated makes a cut and a boundary differ, which readers refuse; no answer depends on it.
//!
//! One question goes out for all partitions that are read, however many readers wait.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode;
use tokio::time::{Instant, sleep};

use super::client::{ASK_WITHIN, Clients};
use super::ffi::{self, Edge, EdgeOffset};
use super::topics::{Timestamps, Topics};
use crate::{Clock, LogError, Offset, RecordTime, Span, Topic, TopicPartition};

/// A partition that nobody asked for in this time is not asked for on behalf of others.
const ASKED_FOR: Duration = Duration::from_secs(5);
/// How long a new partition may take to have a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A transaction takes about so long to end.
const SETTLES_SOON: Duration = Duration::from_millis(3);

/// What is known of every partition.
#[derive(Debug)]
pub(super) struct Ends {
    clients: Arc<Clients>,
    topics: Arc<Topics>,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    /// Held while the brokers are asked.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    partitions: HashMap<TopicPartition, Partition>,
}

#[derive(Debug, Clone)]
struct Partition {
    wanted: Instant,
    /// When the brokers were asked last.
    asked: Option<Instant>,
    outcome: Result<Span, (RDKafkaErrorCode, String)>,
    /// The high watermark.
    written: Offset,
    complete_to: i64,
}

impl Ends {
    pub(super) fn new(clients: Arc<Clients>, topics: Arc<Topics>, clock: Arc<dyn Clock>) -> Self {
        Self {
            clients,
            topics,
            clock,
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// What `partition` holds now.
    pub(super) async fn now(&self, partition: &TopicPartition) -> Result<Span, LogError> {
        self.since(partition, Instant::now()).await
    }

    /// What `partition` held when it was asked for last, if it was.
    pub(super) fn last(&self, partition: &TopicPartition) -> Option<Span> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let partition = known.partitions.get(partition)?;
        partition.asked?;
        partition.outcome.as_ref().ok().copied()
    }

    /// What `partition` held at `since` or later.
    pub(super) async fn since(&self, partition: &TopicPartition, since: Instant) -> Result<Span, LogError> {
        if let Some(outcome) = self.heard(partition, since) {
            return outcome;
        }
        let _asking = self.asking.lock().await;
        if let Some(outcome) = self.heard(partition, since) {
            return outcome;
        }
        self.ask().await?;
        match self.heard(partition, since) {
            Some(outcome) => outcome,
            None => Err(self.clients.failed(asking_for(partition), &"it was not in the answer")),
        }
    }

    /// What `partition` holds once every transaction that is open in it now has ended.
    pub(super) async fn settled(&self, partition: &TopicPartition, within: Duration) -> Result<Span, LogError> {
        let deadline = Instant::now() + within;
        let mut span = self.now(partition).await?;
        let written = self.written(partition);
        while span.end < written {
            if Instant::now() >= deadline {
                let open = format!("a transaction of another producer stays open at offset {}", span.end);
                return Err(self.clients.failed(asking_for(partition), &open));
            }
            sleep(SETTLES_SOON).await;
            span = self.now(partition).await?;
        }
        Ok(span)
    }

    /// Where `partition` ended when it was asked for last, open transactions included.
    fn written(&self, partition: &TopicPartition) -> Offset {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.partitions.get(partition).map_or(Offset(0), |known| known.written)
    }

    /// Waits until the stable end of `partition` is `end` at least. `false`: it did not come in time.
    pub(super) async fn await_end(&self, partition: &TopicPartition, end: Offset, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Ok(span) = self.now(partition).await
                && span.end >= end
            {
                return true;
            }
            sleep(Duration::from_millis(1)).await;
        }
        false
    }

    /// Waits until every partition has a leader that answers.
    pub(super) async fn await_leaders(&self, topic: &Topic) -> Result<(), LogError> {
        let deadline = Instant::now() + LEADER_WITHIN;
        for partition in topic.all_partitions() {
            while let Err(error) = self.now(&partition).await {
                if Instant::now() >= deadline {
                    return Err(error);
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    fn heard(&self, partition: &TopicPartition, since: Instant) -> Option<Result<Span, LogError>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let entry = known.partitions.entry(partition.clone()).or_insert_with(|| Partition {
            wanted: now,
            asked: None,
            outcome: Err((RDKafkaErrorCode::NoError, String::new())),
            written: Offset(0),
            complete_to: i64::MIN,
        });
        entry.wanted = now;
        entry.asked.filter(|asked| *asked >= since)?;
        Some(match &entry.outcome {
            Ok(span) => Ok(*span),
            Err((code, reason)) => Err(self
                .clients
                .failed(asking_for(partition), &format!("{reason} ({code})"))),
        })
    }

    /// Asks for everything that is wanted.
    async fn ask(&self) -> Result<(), LogError> {
        let asked = Instant::now();
        let wanted: Vec<TopicPartition> = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known
                .partitions
                .retain(|_, partition| asked.duration_since(partition.wanted) < ASKED_FOR);
            known.partitions.keys().cloned().collect()
        };
        // Two lives of a topic share a name, and only one answer.
        let place = |partition: &TopicPartition| (partition.topic.clone(), partition.partition.0.cast_signed());
        let places: Vec<(String, i32)> = wanted.iter().map(place).collect::<BTreeSet<_>>().into_iter().collect();
        let asked_for = places.clone();
        // Before the question: whatever is appended after it has a timestamp of about this, or a later one.
        let now_ms = self.clock.now_ms();
        let question = move |client: &_| {
            // The order matters: see above.
            let earliest = ffi::list_offsets(client, &places, Edge::Earliest, ASK_WITHIN)?;
            let latest = ffi::list_offsets(client, &places, Edge::Latest, ASK_WITHIN)?;
            let stable = ffi::list_offsets(client, &places, Edge::Stable, ASK_WITHIN)?;
            Ok((earliest, latest, stable))
        };
        let answer = self.clients.ask("asking for the ends of partitions", question).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok((earliest, latest, stable)) => {
                let answers = earliest.into_iter().zip(latest).zip(stable);
                let answers: HashMap<_, _> = asked_for.into_iter().zip(answers).collect();
                for partition in &wanted {
                    let answer = answers.get(&place(partition)).cloned();
                    let (Some(entry), Some(((earliest, latest), stable))) =
                        (known.partitions.get_mut(partition), answer)
                    else {
                        continue;
                    };
                    entry.asked = Some(asked);
                    if let Ok(latest) = latest {
                        entry.written = Offset(latest.max(0).cast_unsigned());
                    }
                    entry.outcome = self.span(partition, &mut entry.complete_to, now_ms, earliest, latest, stable);
                }
            }
            Err(failure) => {
                for partition in &wanted {
                    let Some(entry) = known.partitions.get_mut(partition) else {
                        continue;
                    };
                    entry.asked = Some(asked);
                    entry.outcome = Err(failure.clone());
                }
            }
        }
        Ok(())
    }

    fn span(
        &self,
        partition: &TopicPartition,
        complete_to: &mut i64,
        now_ms: i64,
        earliest: EdgeOffset,
        latest: EdgeOffset,
        stable: EdgeOffset,
    ) -> Result<Span, (RDKafkaErrorCode, String)> {
        let (earliest, latest, stable) = (earliest?, latest?, stable?);
        let skew = i64::try_from(self.clients.settings().clock_skew_ms).unwrap_or(i64::MAX);
        let behind = match self.topics.timestamps(&partition.topic) {
            Some(Timestamps::Appended) => Some(skew),
            Some(Timestamps::Within(bound)) => Some(skew.saturating_add(bound)),
            Some(Timestamps::Unbounded) | None => None,
        };
        if let Some(behind) = behind
            && stable >= latest
        {
            *complete_to = (*complete_to).max(now_ms.saturating_sub(behind));
        }
        Ok(Span {
            earliest: Offset(earliest.max(0).cast_unsigned()),
            end: Offset(stable.max(0).cast_unsigned()),
            complete_to: RecordTime(*complete_to),
        })
    }
}

fn asking_for(partition: &TopicPartition) -> String {
    format!("asking for the end of {partition}")
}
