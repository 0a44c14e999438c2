//! A warehouse in memory: the contract and nothing else, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::{LoadName, Prepared, Settled, Slice, SliceRows, Table, Warehouse, WarehouseError};

/// Tables and loads in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryWarehouse {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    tables: BTreeMap<String, (Table, BTreeMap<Slice, RecordBatch>)>,
    loads: BTreeMap<LoadName, Settled>,
    replaced: Vec<LoadName>,
}

impl MemoryWarehouse {
    /// Nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every load that replaced something, in order.
    pub fn replaced(&self) -> Vec<LoadName> {
        self.lock().replaced.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The table of that name, if it is the same owner's.
    fn owned(&self, table: &Table) -> Result<Option<&Table>, WarehouseError> {
        match self.tables.get(&table.name) {
            Some((found, _)) if found.owner != table.owner => Err(WarehouseError::Foreign {
                table: table.name.clone(),
                found: found.owner.to_string(),
            }),
            found => Ok(found.map(|(found, _)| found)),
        }
    }
}

#[async_trait]
impl Warehouse for MemoryWarehouse {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn exists(&self, table: &Table) -> Result<bool, WarehouseError> {
        Ok(self.lock().owned(table)?.is_some())
    }

    async fn prepare(&self, table: &Table) -> Result<Prepared, WarehouseError> {
        let mut inner = self.lock();
        let found = inner.owned(table)?.map(Table::shape);
        match found {
            None => {
                inner
                    .tables
                    .insert(table.name.clone(), (table.clone(), BTreeMap::new()));
                Ok(Prepared::Made)
            }
            Some(shape) if shape == table.shape() => {
                let (found, _) = inner.tables.get_mut(&table.name).expect("it was found");
                *found = table.clone();
                Ok(Prepared::There)
            }
            Some(shape) => Err(WarehouseError::Refused {
                attempt: format!("preparing table \"{}\"", table.name),
                reason: format!("it has {shape}"),
            }),
        }
    }

    async fn load(&self, table: &Table, name: &LoadName, rows: &dyn SliceRows) -> Result<(), WarehouseError> {
        let batches: Vec<RecordBatch> = rows.batches().try_collect().await?;
        let rows = concat_batches(&table.schema, &batches).map_err(|error| WarehouseError::Unfit {
            table: table.name.clone(),
            reason: error.to_string(),
        })?;
        let mut inner = self.lock();
        match inner.loads.get(name) {
            Some(Settled::Loaded) => return Ok(()),
            Some(_) => {
                return Err(WarehouseError::Superseded {
                    table: table.name.clone(),
                });
            }
            None => {}
        }
        let missing = || WarehouseError::Refused {
            attempt: format!("loading {name}"),
            reason: "there is no such table".to_owned(),
        };
        inner.owned(table)?;
        let (_, slices) = inner.tables.get_mut(&table.name).ok_or_else(missing)?;
        match rows.num_rows() {
            0 => drop(slices.remove(&name.slice)),
            _ => drop(slices.insert(name.slice, rows)),
        }
        inner.loads.insert(name.clone(), Settled::Loaded);
        inner.replaced.push(name.clone());
        Ok(())
    }

    async fn settle(&self, _table: &Table, name: &LoadName) -> Result<Settled, WarehouseError> {
        Ok(*self.lock().loads.entry(name.clone()).or_insert(Settled::Nothing))
    }

    async fn remove(&self, table: &Table) -> Result<(), WarehouseError> {
        let mut inner = self.lock();
        inner.owned(table)?;
        inner.tables.remove(&table.name);
        Ok(())
    }

    async fn expire(&self, table: &Table, slices: &[Slice]) -> Result<(), WarehouseError> {
        let mut inner = self.lock();
        if let Some((_, held)) = inner.tables.get_mut(&table.name) {
            held.retain(|slice, _| !slices.contains(slice));
        }
        Ok(())
    }

    fn batches<'a>(&'a self, table: &'a Table, slice: Slice) -> BoxStream<'a, Result<RecordBatch, WarehouseError>> {
        let inner = self.lock();
        let held = inner.tables.get(&table.name).and_then(|(_, slices)| slices.get(&slice));
        futures::stream::iter(held.cloned().map(Ok)).boxed()
    }

    async fn slices(&self, table: &Table) -> Result<Vec<Slice>, WarehouseError> {
        let inner = self.lock();
        let held = inner.tables.get(&table.name);
        Ok(held
            .map(|(_, slices)| slices.keys().copied().collect())
            .unwrap_or_default())
    }
}
