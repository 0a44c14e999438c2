//! A warehouse that does what warehouses do on a bad day.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use foldline_batch_layer::warehouse::{
    LoadName, Prepared, Settled, Slice, SliceRows, Table, Warehouse, WarehouseError,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

/// Wraps a warehouse.
#[derive(Debug, Clone)]
pub(crate) struct FaultyWarehouse {
    warehouse: Arc<dyn Warehouse>,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    /// Of a hundred operations so many fail, half of them after they were done.
    percent: usize,
    random: Mutex<StdRng>,
    operations: AtomicUsize,
    /// The operation, from 1, in which the process dies: it never returns. 0: none.
    dies_in: AtomicUsize,
    /// It dies after the operation was done.
    after: AtomicBool,
    died: Notify,
}

impl FaultyWarehouse {
    pub(crate) fn new(warehouse: Arc<dyn Warehouse>, percent: usize, seed: u64) -> Self {
        Self {
            warehouse,
            faults: Arc::new(Faults {
                percent,
                random: Mutex::new(StdRng::seed_from_u64(seed)),
                operations: AtomicUsize::new(0),
                dies_in: AtomicUsize::new(0),
                after: AtomicBool::new(false),
                died: Notify::new(),
            }),
        }
    }

    /// Counting from now, dies in this operation.
    pub(crate) fn dies_in(&self, operation: usize, after: bool) {
        self.faults.operations.store(0, Ordering::Relaxed);
        self.faults.dies_in.store(operation, Ordering::Relaxed);
        self.faults.after.store(after, Ordering::Relaxed);
    }

    /// Once it has died.
    pub(crate) async fn died(&self) {
        self.faults.died.notified().await;
    }

    async fn meet<T>(
        &self,
        attempt: &str,
        operation: impl Future<Output = Result<T, WarehouseError>>,
    ) -> Result<T, WarehouseError> {
        let faults = &self.faults;
        let number = faults.operations.fetch_add(1, Ordering::Relaxed) + 1;
        let dies = number == faults.dies_in.load(Ordering::Relaxed);
        let (fails, after) = {
            let mut random = faults.random.lock().unwrap();
            (
                random.random_range(0..100) < faults.percent,
                random.random_range(0..2) == 0,
            )
        };
        let after = if dies {
            faults.after.load(Ordering::Relaxed)
        } else {
            after
        };
        let done = match (dies || fails) && !after {
            true => None,
            false => Some(operation.await),
        };
        if dies {
            faults.died.notify_one();
            return std::future::pending().await;
        }
        match done.filter(|_| !fails) {
            Some(done) => done,
            None => Err(WarehouseError::Unclear {
                attempt: attempt.to_owned(),
                reason: "connection reset".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Warehouse for FaultyWarehouse {
    fn place(&self) -> String {
        self.warehouse.place()
    }

    async fn exists(&self, table: &Table) -> Result<bool, WarehouseError> {
        self.meet("exists", self.warehouse.exists(table)).await
    }

    async fn prepare(&self, table: &Table) -> Result<Prepared, WarehouseError> {
        self.meet("prepare", self.warehouse.prepare(table)).await
    }

    async fn load(&self, table: &Table, name: &LoadName, rows: &dyn SliceRows) -> Result<(), WarehouseError> {
        self.meet("load", self.warehouse.load(table, name, rows)).await
    }

    async fn settle(&self, table: &Table, name: &LoadName) -> Result<Settled, WarehouseError> {
        self.meet("settle", self.warehouse.settle(table, name)).await
    }

    async fn remove(&self, table: &Table) -> Result<(), WarehouseError> {
        self.meet("remove", self.warehouse.remove(table)).await
    }

    async fn expire(&self, table: &Table, slices: &[Slice]) -> Result<(), WarehouseError> {
        self.meet("expire", self.warehouse.expire(table, slices)).await
    }

    fn batches<'a>(&'a self, table: &'a Table, slice: Slice) -> BoxStream<'a, Result<RecordBatch, WarehouseError>> {
        let read = self.meet("rows", self.warehouse.batches(table, slice).try_collect::<Vec<_>>());
        let read = read.map_ok(|batches| futures::stream::iter(batches.into_iter().map(Ok)));
        futures::stream::once(read).try_flatten().boxed()
    }

    async fn slices(&self, table: &Table) -> Result<Vec<Slice>, WarehouseError> {
        self.meet("slices", self.warehouse.slices(table)).await
    }
}
