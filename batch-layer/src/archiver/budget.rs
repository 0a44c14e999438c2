//! One memory budget over all partitions: what is held, and what is on its way into the store.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldline_event_log::TopicPartition;
use tokio::sync::watch;

/// Counts the bytes of all partitions against one limit.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    partitions: Mutex<BTreeMap<TopicPartition, Share>>,
    changed: watch::Sender<()>,
}

/// A partition's part.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    /// Read and not yet part of a roll.
    held: usize,
    /// Part of the roll under way.
    rolling: usize,
    /// Keys of the duplicate horizon: no roll frees them.
    horizon: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            partitions: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Bytes of all partitions.
    pub(super) fn used(&self) -> usize {
        let shares = self.shares();
        used(&shares) + horizons(&shares)
    }

    /// Whether more may be read.
    pub(super) fn open(&self) -> bool {
        let shares = self.shares();
        used(&shares) < self.room(&shares)
    }

    /// The keys of the duplicate horizon of `partition` take `bytes` now.
    pub(super) fn horizon(&self, partition: &TopicPartition, bytes: usize) {
        self.shares().entry(partition.clone()).or_default().horizon = bytes;
    }

    /// What records may take: the keys take the rest. A part is left to records whatever the keys take, because an
    /// archiver that stands still would keep the log for ever, and give no key free either.
    fn room(&self, shares: &BTreeMap<TopicPartition, Share>) -> usize {
        self.limit.saturating_sub(horizons(shares)).max(self.limit / 4)
    }

    /// Tells of every change after which somebody may read again or must roll early.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// `partition` has read `bytes` more.
    pub(super) fn hold(&self, partition: &TopicPartition, bytes: usize) {
        let mut shares = self.shares();
        let before = used(&shares);
        shares.entry(partition.clone()).or_default().held += bytes;
        let room = self.room(&shares);
        let closed_now = before < room && before + bytes >= room;
        drop(shares);
        if closed_now {
            self.changed.send_replace(());
        }
    }

    /// All that `partition` holds is being rolled.
    pub(super) fn roll(&self, partition: &TopicPartition) {
        self.change(|shares| {
            let share = shares.entry(partition.clone()).or_default();
            share.rolling += std::mem::take(&mut share.held);
        });
    }

    /// The roll of `partition` has ended.
    pub(super) fn rolled(&self, partition: &TopicPartition) {
        self.change(|shares| shares.entry(partition.clone()).or_default().rolling = 0);
    }

    /// `partition` holds nothing any more.
    pub(super) fn forget(&self, partition: &TopicPartition) {
        self.change(|shares| {
            shares.remove(partition);
        });
    }

    /// Whether `partition` should roll early: memory has run out, less than half of it will be freed by rolls under
    /// way, and no other partition without a roll holds more.
    pub(super) fn wants(&self, partition: &TopicPartition) -> bool {
        let shares = self.shares();
        let rolling: usize = shares.values().map(|share| share.rolling).sum();
        let room = self.room(&shares);
        if used(&shares) < room || rolling >= room / 2 {
            return false;
        }
        let idle = shares.iter().filter(|(_, share)| share.rolling == 0 && share.held > 0);
        let largest = idle.max_by_key(|(_, share)| share.held);
        largest.is_some_and(|(largest, _)| largest == partition)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<TopicPartition, Share>)) {
        change(&mut self.shares());
        self.changed.send_replace(());
    }

    fn shares(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Share>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn horizons(shares: &BTreeMap<TopicPartition, Share>) -> usize {
    shares.values().map(|share| share.horizon).sum()
}

fn used(shares: &BTreeMap<TopicPartition, Share>) -> usize {
    shares.values().map(|share| share.held + share.rolling).sum()
}

#[cfg(test)]
mod tests {
    use foldline_event_log::Partition;

    use super::*;

    fn partition(number: u32) -> TopicPartition {
        TopicPartition {
            topic: "clicks".to_owned(),
            incarnation: uuid::Uuid::nil(),
            partition: Partition(number),
        }
    }

    #[test]
    fn keys_of_the_horizon_count_and_leave_room_for_records() {
        let budget = Budget::new(100);
        budget.horizon(&partition(0), 50);
        budget.hold(&partition(1), 49);
        assert!(budget.open() && !budget.wants(&partition(1)), "99 of 100");
        budget.hold(&partition(1), 1);
        assert!(!budget.open() && budget.wants(&partition(1)));
        assert_eq!(budget.used(), 100);
        budget.roll(&partition(1));
        budget.rolled(&partition(1));
        budget.horizon(&partition(0), 500);
        assert!(budget.open(), "records go on");
        budget.hold(&partition(1), 25);
        assert!(!budget.open());
        budget.forget(&partition(0));
        assert!(budget.open());
    }

    #[test]
    fn the_largest_rolls_until_half_is_on_its_way() {
        let budget = Budget::new(100);
        for (number, bytes) in [(0, 20), (1, 45), (2, 34)] {
            budget.hold(&partition(number), bytes);
        }
        assert!(budget.open(), "99 of 100");
        assert!(!budget.wants(&partition(1)), "there is memory left");
        budget.hold(&partition(0), 1);
        assert!(!budget.open());
        assert!(budget.wants(&partition(1)) && !budget.wants(&partition(0)) && !budget.wants(&partition(2)));
        budget.roll(&partition(1));
        assert!(!budget.open(), "what is on its way is still in memory");
        assert!(budget.wants(&partition(2)), "45 are less than half of 100");
        budget.roll(&partition(2));
        assert!(!budget.wants(&partition(0)), "79 will be free");
        budget.rolled(&partition(1));
        assert!(budget.open());
        budget.forget(&partition(2));
        assert_eq!(budget.used(), 21);
    }
}
