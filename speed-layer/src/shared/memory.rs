//! A shared store in memory: what tests run on, and what says in few lines what a store does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{Offset, TopicPartition};
use uuid::Uuid;

use super::{Cell, HEADS, Head, Rank, SharedStore, StoreError, Stored, Versions, Wanted};

/// View, bucket, segment, key, until, chunk.
type Place = (String, i32, Uuid, Bytes, Offset, u32);

/// In order of rank.
type Records = BTreeMap<(Rank, Uuid), (Head, Bytes)>;

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    cells: BTreeMap<Place, Cell>,
    records: BTreeMap<TopicPartition, Records>,
}

impl MemoryStore {
    /// How many cells it holds.
    pub fn cells(&self) -> usize {
        self.held().cells.len()
    }

    /// The segments that it holds something of.
    pub fn segments(&self) -> BTreeSet<Uuid> {
        let held = self.held();
        held.cells.keys().map(|(_, _, segment, ..)| *segment).collect()
    }

    /// Forgets the last chunk of every state that has several.
    pub fn lose_last_chunks(&self) {
        let stays = |cell: &Cell| cell.chunks == 1 || cell.chunk + 1 < cell.chunks;
        self.held().cells.retain(|_, cell| stays(cell));
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
        for cell in &versions.cells {
            let (view, segment) = (versions.view.clone(), versions.segment);
            let place = (view, cell.bucket, segment, cell.key.clone(), versions.until, cell.chunk);
            held.cells.insert(place, cell.clone());
        }
        Ok(())
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Vec<Stored>, StoreError> {
        let held = self.held();
        let mut found = Vec::new();
        for segment in wanted.segments {
            let place = |key: &[u8]| {
                let key = Bytes::copy_from_slice(key);
                (wanted.view.to_owned(), wanted.bucket, *segment, key, Offset(0), 0)
            };
            let range = held.cells.range(place(wanted.from)..place(wanted.until));
            found.extend(range.map(|((_, _, segment, _, until, _), cell)| Stored {
                segment: *segment,
                until: *until,
                cell: cell.clone(),
            }));
        }
        Ok(found)
    }

    async fn remove(&self, view: &str, buckets: &[i32], segment: Uuid) -> Result<(), StoreError> {
        let stays = |(of, bucket, id, ..): &Place| of != view || *id != segment || !buckets.contains(bucket);
        self.held().cells.retain(|place, _| stays(place));
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
