//! A shared store in memory: what tests run on, and what says in few lines what a store does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow::array::Array;
use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{Offset, TopicPartition};
use uuid::Uuid;

use super::{HEADS, Head, Rank, SharedStore, StoreError, Stored, Versions};

/// View, bucket, segment, key, until.
type Place = (String, i32, Uuid, Bytes, Offset);

/// In order of rank.
type Records = BTreeMap<(Rank, Uuid), (Head, Bytes)>;

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    versions: BTreeMap<Place, Bytes>,
    records: BTreeMap<TopicPartition, Records>,
}

impl MemoryStore {
    /// How many versions it holds.
    pub fn versions(&self) -> usize {
        self.held().versions.len()
    }

    /// Forgets a record of `partition`, the newest being number 0, as a store that acknowledged what it had not synced.
    pub fn lose_record(&self, partition: &TopicPartition, number: usize) {
        let mut held = self.held();
        let Some(records) = held.records.get_mut(partition) else {
            return;
        };
        if let Some(place) = records.keys().rev().nth(number).copied() {
            records.remove(&place);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SharedStore for MemoryStore {
    async fn write(&self, versions: &Versions) -> Result<(), StoreError> {
        let mut held = self.held();
        for row in 0..versions.keys.len() {
            let key = Bytes::copy_from_slice(versions.keys.value(row));
            let place = (
                versions.view.clone(),
                versions.buckets[row],
                versions.segment,
                key,
                versions.until,
            );
            let state = Bytes::copy_from_slice(versions.states.value(row));
            held.versions.insert(place, state);
        }
        Ok(())
    }

    async fn read(
        &self,
        view: &str,
        bucket: i32,
        segments: &[Uuid],
        from: &[u8],
        until: &[u8],
    ) -> Result<Vec<Stored>, StoreError> {
        let held = self.held();
        let place = |segment: &Uuid, key: &[u8]| {
            (
                view.to_owned(),
                bucket,
                *segment,
                Bytes::copy_from_slice(key),
                Offset(0),
            )
        };
        let mut found = Vec::new();
        for segment in segments {
            let range = held.versions.range(place(segment, from)..place(segment, until));
            found.extend(range.map(|((_, _, segment, key, until), state)| Stored {
                segment: *segment,
                key: key.clone(),
                until: *until,
                state: state.clone(),
            }));
        }
        Ok(found)
    }

    async fn remove(&self, view: &str, buckets: &[i32], segment: Uuid) -> Result<(), StoreError> {
        let stays = |(of, bucket, id, ..): &Place| of != view || *id != segment || !buckets.contains(bucket);
        self.held().versions.retain(|place, _| stays(place));
        Ok(())
    }

    async fn heads(&self, partition: &TopicPartition) -> Result<Vec<Head>, StoreError> {
        let held = self.held();
        let records = held.records.get(partition).into_iter().flatten();
        let newest: Vec<Head> = records.map(|(_, (head, _))| *head).collect();
        Ok(newest.into_iter().rev().take(HEADS).collect())
    }

    async fn record(&self, partition: &TopicPartition, head: &Head) -> Result<Option<Bytes>, StoreError> {
        let held = self.held();
        let record = held
            .records
            .get(partition)
            .and_then(|records| records.get(&(head.rank, head.id)));
        Ok(record.map(|(_, says)| says.clone()))
    }

    async fn cover(&self, partition: &TopicPartition, head: &Head, says: &[u8]) -> Result<(), StoreError> {
        let mut held = self.held();
        let records = held.records.entry(partition.clone()).or_default();
        records.insert((head.rank, head.id), (*head, Bytes::copy_from_slice(says)));
        Ok(())
    }

    async fn retire(&self, partition: &TopicPartition, rank: Rank) -> Result<(), StoreError> {
        if let Some(records) = self.held().records.get_mut(partition) {
            records.retain(|(of, _), _| *of >= rank);
        }
        Ok(())
    }
}
