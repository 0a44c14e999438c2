//! A shared store between which and its users everything fails: replies are lost, writes come late or twice.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::TopicPartition;
use foldline_speed_layer::shared::{Head, Rank, SharedStore, StoreError, Stored, Versions, Wanted};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// How often what goes wrong, of 100.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Done, and the reply is lost.
    pub lost: u32,
    /// Not done.
    pub refused: u32,
    /// Not done now but later, after others.
    pub late: u32,
    /// Takes its time.
    pub slow: u32,
}

impl Rates {
    pub const HARD: Self = Self {
        lost: 20,
        refused: 5,
        late: 5,
        slow: 20,
    };
}

#[derive(Debug, Clone)]
enum Write {
    Versions(Versions),
    Cover(TopicPartition, Head, Vec<u8>),
    Remove(String, Vec<i32>, Uuid),
    Retire(TopicPartition, Rank),
}

#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn SharedStore>,
    rates: Rates,
    random: Mutex<StdRng>,
    late: Mutex<Vec<Write>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Lost,
    Refused,
    Late,
}

#[derive(Debug, thiserror::Error)]
#[error("no reply came")]
struct NoReply;

pub fn no_reply() -> StoreError {
    StoreError::Unavailable {
        attempted: "do what was asked",
        source: Box::new(NoReply),
    }
}

impl Faulty {
    pub fn over(inner: Arc<dyn SharedStore>, rates: Rates, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner,
            rates,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            late: Mutex::default(),
        })
    }

    async fn fate(&self) -> Fate {
        let (dice, slow) = {
            let mut random = self.random.lock().unwrap();
            (random.random_range(0..100), random.random_range(0..100))
        };
        if slow < self.rates.slow {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let Rates {
            lost, refused, late, ..
        } = self.rates;
        match dice {
            dice if dice < lost => Fate::Lost,
            dice if dice < lost + refused => Fate::Refused,
            dice if dice < lost + refused + late => Fate::Late,
            _ => Fate::Done,
        }
    }

    async fn apply(&self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Versions(versions) => self.inner.write(versions).await,
            Write::Cover(partition, head, says) => self.inner.cover(partition, head, says).await,
            Write::Remove(view, buckets, segment) => self.inner.remove(view, buckets, *segment).await,
            Write::Retire(partition, rank) => self.inner.retire(partition, *rank).await,
        }
    }

    async fn do_or_not(&self, write: Write) -> Result<(), StoreError> {
        let fate = self.fate().await;
        // What was late comes now and then, in any order.
        let come = {
            let mut late = self.late.lock().unwrap();
            let mut random = self.random.lock().unwrap();
            if late.is_empty() || random.random_bool(0.8) {
                None
            } else {
                let at = random.random_range(0..late.len());
                Some(late.swap_remove(at))
            }
        };
        if let Some(come) = come {
            self.apply(&come).await?;
        }
        match fate {
            Fate::Done => self.apply(&write).await,
            Fate::Lost => {
                self.apply(&write).await?;
                Err(no_reply())
            }
            Fate::Refused => Err(no_reply()),
            Fate::Late => {
                self.late.lock().unwrap().push(write);
                Err(no_reply())
            }
        }
    }

    async fn reads(&self) -> Result<(), StoreError> {
        match self.fate().await {
            Fate::Done | Fate::Late => Ok(()),
            Fate::Lost | Fate::Refused if self.random.lock().unwrap().random_bool(0.8) => Ok(()),
            Fate::Lost | Fate::Refused => Err(no_reply()),
        }
    }
}

#[async_trait]
impl SharedStore for Faulty {
    async fn write(&self, versions: &Versions) -> Result<(), StoreError> {
        self.do_or_not(Write::Versions(versions.clone())).await
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Vec<Stored>, StoreError> {
        // Many make up one answer.
        if self.random.lock().unwrap().random_bool(0.001) {
            return Err(no_reply());
        }
        self.inner.read(wanted).await
    }

    async fn remove(&self, view: &str, buckets: &[i32], segment: Uuid) -> Result<(), StoreError> {
        self.do_or_not(Write::Remove(view.to_owned(), buckets.to_vec(), segment))
            .await
    }

    async fn heads(&self, partition: &TopicPartition) -> Result<Vec<Head>, StoreError> {
        self.reads().await?;
        self.inner.heads(partition).await
    }

    async fn record(&self, partition: &TopicPartition, head: &Head) -> Result<Option<Bytes>, StoreError> {
        self.reads().await?;
        self.inner.record(partition, head).await
    }

    async fn cover(&self, partition: &TopicPartition, head: &Head, says: &[u8]) -> Result<(), StoreError> {
        self.do_or_not(Write::Cover(partition.clone(), *head, says.to_vec()))
            .await
    }

    async fn retire(&self, partition: &TopicPartition, rank: Rank) -> Result<(), StoreError> {
        self.do_or_not(Write::Retire(partition.clone(), rank)).await
    }
}

/// Tries again until there is a reply.
#[derive(Debug)]
pub struct Patient(pub Arc<Faulty>);

macro_rules! again {
    ($attempt:expr) => {
        loop {
            match $attempt.await {
                Err(StoreError::Unavailable { .. }) => {}
                outcome => return outcome,
            }
        }
    };
}

#[async_trait]
impl SharedStore for Patient {
    async fn write(&self, versions: &Versions) -> Result<(), StoreError> {
        again!(self.0.write(versions))
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Vec<Stored>, StoreError> {
        again!(self.0.read(wanted))
    }

    async fn remove(&self, view: &str, buckets: &[i32], segment: Uuid) -> Result<(), StoreError> {
        again!(self.0.remove(view, buckets, segment))
    }

    async fn heads(&self, partition: &TopicPartition) -> Result<Vec<Head>, StoreError> {
        again!(self.0.heads(partition))
    }

    async fn record(&self, partition: &TopicPartition, head: &Head) -> Result<Option<Bytes>, StoreError> {
        again!(self.0.record(partition, head))
    }

    async fn cover(&self, partition: &TopicPartition, head: &Head, says: &[u8]) -> Result<(), StoreError> {
        again!(self.0.cover(partition, head, says))
    }

    async fn retire(&self, partition: &TopicPartition, rank: Rank) -> Result<(), StoreError> {
        again!(self.0.retire(partition, rank))
    }
}
