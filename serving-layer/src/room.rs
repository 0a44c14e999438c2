//! The memory that queries share, for what they gather of a shared store.

use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use foldline_speed_layer::shared::{Room, StoreError};

/// A part of a memory pool, which is given back when this goes.
#[derive(Debug)]
pub struct QueryRoom {
    reserved: MemoryReservation,
}

impl QueryRoom {
    /// Out of `pool`; nothing yet.
    pub(crate) fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        Self {
            reserved: MemoryConsumer::new("realtime views").register(pool),
        }
    }
}

impl Room for QueryRoom {
    fn take(&self, bytes: usize) -> Result<(), StoreError> {
        let taken = self.reserved.try_grow(bytes);
        taken.map_err(|source| StoreError::NoRoom {
            bytes,
            source: Box::new(source),
        })
    }

    fn give_back(&self, bytes: usize) {
        self.reserved.shrink(bytes);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;
    use crate::QueryError;
    use crate::merge::MergeError;

    #[test]
    fn what_is_taken_is_given_back_and_too_much_is_the_query_s_matter() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let (one, other) = (QueryRoom::new(&pool), QueryRoom::new(&pool));
        one.take(80).unwrap();
        let refused = other.take(30).unwrap_err();
        one.give_back(20);
        other.take(30).unwrap();
        assert_eq!(pool.reserved(), 90);
        drop((one, other));
        assert_eq!(pool.reserved(), 0);

        let refused = QueryError::from(MergeError::Speed {
            view: "users".into(),
            source: refused,
        });
        assert!(!refused.is_damage());
        assert!(matches!(refused, QueryError::OutOfMemory(_)), "{refused:?}");
        assert!(
            refused.to_string().contains("more memory than queries may hold"),
            "{refused}"
        );
    }
}
