//! What a log holds in memory of its topics and partitions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use fjall::Keyspace;
use tokio::sync::watch;
use uuid::Uuid;

use super::partitioner::partition_of;
use super::store::Found;
use crate::{NewRecord, Topic};

pub(super) struct TopicState {
    pub(super) name: String,
    pub(super) incarnation: Uuid,
    pub(super) frames: Keyspace,
    partitions: RwLock<Vec<Arc<PartitionState>>>,
    next_keyless: AtomicU32,
}

pub(super) struct PartitionState {
    pub(super) index: u32,
    /// The end that readers see: one past the last synced record.
    pub(super) end: watch::Sender<u64>,
    extent: Mutex<Extent>,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) earliest: u64,
    /// Bytes of all frames ever stored. Only the committer changes it.
    pub(super) bytes_until: u64,
    /// No reader needs anything below.
    pub(super) floor: Option<u64>,
    /// The first frame, once a trim has looked at it and left it.
    pub(super) oldest: Option<Oldest>,
}

/// What decides whether a frame may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Oldest {
    /// One past its last record.
    pub(super) until: u64,
    pub(super) timestamp_ms: i64,
    /// Bytes of all frames up to and with it.
    pub(super) bytes_until: u64,
}

impl TopicState {
    pub(super) fn new(name: String, incarnation: Uuid, frames: Keyspace) -> Self {
        let next_keyless = AtomicU32::new(0);
        Self {
            name,
            incarnation,
            frames,
            partitions: RwLock::default(),
            next_keyless,
        }
    }

    pub(super) fn describe(&self) -> Topic {
        Topic {
            name: self.name.clone(),
            incarnation: self.incarnation,
            partitions: self.len(),
        }
    }

    pub(super) fn partitions(&self) -> Vec<Arc<PartitionState>> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn len(&self) -> u32 {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).len() as u32
    }

    pub(super) fn partition(&self, index: u32) -> Option<Arc<PartitionState>> {
        self.partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(index as usize)
            .cloned()
    }

    pub(super) fn add_partition(&self, found: Found) {
        let mut partitions = self.partitions.write().unwrap_or_else(PoisonError::into_inner);
        let extent = Extent {
            earliest: found.start.earliest,
            bytes_until: found.bytes_until,
            floor: None,
            oldest: None,
        };
        let index = partitions.len() as u32;
        partitions.push(Arc::new(PartitionState {
            index,
            end: watch::Sender::new(found.end),
            extent: Mutex::new(extent),
        }));
    }

    /// The partition of each record. All records without a key go to one, which changes with every append.
    pub(super) fn assign(&self, records: &[NewRecord]) -> Vec<u32> {
        let partitions = self.len();
        let keyless = if records.iter().any(|record| record.key.is_none()) {
            self.next_keyless.fetch_add(1, Ordering::Relaxed) % partitions
        } else {
            0
        };
        let assign = |record: &NewRecord| record.key.as_ref().map_or(keyless, |key| partition_of(key, partitions));
        records.iter().map(assign).collect()
    }
}

impl PartitionState {
    pub(super) fn extent(&self) -> MutexGuard<'_, Extent> {
        self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self) -> u64 {
        *self.end.borrow()
    }
}
