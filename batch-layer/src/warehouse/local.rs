//! A warehouse of Parquet files in a folder or bucket, which DuckDB, Polars and Spark read as it stands.
//!
//! ```text
//! page_days/_day=2024-05-01/rows.parquet     a day: one file, replaced by one put
//! totals/rows.parquet                        a table that is not divided
//! _foldline/rows.parquet                     the marker
//! _foldline/_owner.json                      whose they are; likewise in every table
//! ```
//!
//! A put of one object is atomic, so a reader sees each day whole, of one generation or another; there is no put of many
//! objects, so while a load goes on different days may be of different generations. `_foldline` is replaced last and names
//! the generation that all tables held. Files keep their names: a pattern of names never matches a day twice. A put that
//! somebody sent long ago and that arrives late cannot be refused here: who settles a load says that it does not know.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{LoadName, Prepared, Settled, Slice, Table, Warehouse, WarehouseError, file};
use crate::store::{self, Created, Record, StoreError};

const ROWS: &str = "rows.parquet";
const OWNER: &str = "_owner.json";
const DAY: &str = "_day=";

/// Parquet files in an object store.
#[derive(Debug, Clone)]
pub struct LocalWarehouse {
    store: Arc<dyn ObjectStore>,
    place: String,
}

/// Whose table a folder is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    version: u32,
    attempt: Uuid,
    owner: Uuid,
}

impl Record for Owner {
    const VERSION: u32 = 1;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

impl LocalWarehouse {
    /// The files in `store`, which is the one at the URL `place`.
    pub fn new(store: Arc<dyn ObjectStore>, place: &str) -> Self {
        Self {
            store,
            place: place.to_owned(),
        }
    }

    async fn owner(&self, table: &Table) -> Result<Option<Uuid>, WarehouseError> {
        match store::read_json::<Owner>(self.store.as_ref(), &folder(table).join(OWNER)).await {
            Ok(found) if found.owner == table.owner => Ok(Some(found.owner)),
            Ok(found) => Err(foreign(table, &found)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, path: &Path) -> Result<(), WarehouseError> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(WarehouseError::of_store(format!("deleting {path}"), &error)),
        }
    }
}

#[async_trait]
impl Warehouse for LocalWarehouse {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn exists(&self, table: &Table) -> Result<bool, WarehouseError> {
        Ok(self.owner(table).await?.is_some())
    }

    async fn prepare(&self, table: &Table) -> Result<Prepared, WarehouseError> {
        if self.owner(table).await?.is_some() {
            return Ok(Prepared::There);
        }
        // Its owner's mark is the first file of a table, and the last one that goes.
        if !store::list(self.store.as_ref(), &folder(table)).await?.is_empty() {
            return Err(WarehouseError::Foreign {
                table: table.name.clone(),
                found: "files that no foldline put there".to_owned(),
            });
        }
        let mine = Owner {
            version: 1,
            attempt: Uuid::new_v4(),
            owner: table.owner,
        };
        match store::create_only(self.store.as_ref(), &folder(table).join(OWNER), &mine).await? {
            Created::Theirs(theirs) if theirs.owner != table.owner => Err(foreign(table, &theirs)),
            _ => Ok(Prepared::Made),
        }
    }

    async fn load(&self, table: &Table, name: &LoadName, rows: &RecordBatch) -> Result<(), WarehouseError> {
        let path = path(table, name.slice);
        if rows.num_rows() == 0 && name.slice != Slice::Whole {
            return self.delete(&path).await;
        }
        let file = file::write(rows).map_err(|error| WarehouseError::Unfit {
            table: table.name.clone(),
            reason: error.to_string(),
        })?;
        let put = self.store.put(&path, file.into()).await;
        put.map(drop)
            .map_err(|error| WarehouseError::of_store(format!("writing {path}"), &error))
    }

    async fn settle(&self, _table: &Table, _name: &LoadName) -> Result<Settled, WarehouseError> {
        Ok(Settled::Unknown)
    }

    async fn remove(&self, table: &Table) -> Result<(), WarehouseError> {
        if self.owner(table).await?.is_none() {
            return Ok(());
        }
        let mut paths: Vec<Path> = store::list(self.store.as_ref(), &folder(table))
            .await?
            .into_iter()
            .map(|object| object.location)
            .collect();
        // The owner's last: what is left of the table stays ours.
        paths.sort_by_key(|path| path.filename() == Some(OWNER));
        for path in paths {
            self.delete(&path).await?;
        }
        Ok(())
    }

    async fn expire(&self, table: &Table, slices: &[Slice]) -> Result<(), WarehouseError> {
        for slice in slices {
            self.delete(&path(table, *slice)).await?;
        }
        Ok(())
    }

    async fn rows(&self, table: &Table, slice: Slice) -> Result<RecordBatch, WarehouseError> {
        let path = path(table, slice);
        let read = async { self.store.get(&path).await?.bytes().await };
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(RecordBatch::new_empty(Arc::clone(&table.schema))),
            Err(error) => return Err(WarehouseError::of_store(format!("reading {path}"), &error)),
        };
        file::read(bytes, &table.schema).map_err(|error| WarehouseError::Damaged {
            what: path.to_string(),
            reason: error.to_string(),
        })
    }

    async fn slices(&self, table: &Table) -> Result<Vec<Slice>, WarehouseError> {
        let folder = folder(table);
        let listed: Result<Vec<_>, _> = self.store.list(Some(&folder)).try_collect().await;
        let listed = listed.map_err(|error| WarehouseError::of_store(format!("listing {folder}"), &error))?;
        let mut slices = BTreeSet::new();
        for object in listed.iter().filter(|object| object.location.filename() == Some(ROWS)) {
            let parts: Vec<PathPart<'_>> = object.location.parts().collect();
            let parent = parts
                .iter()
                .rev()
                .nth(1)
                .map(|part| part.as_ref().to_owned())
                .unwrap_or_default();
            slices.insert(match parent.strip_prefix(DAY).and_then(|day| day.parse().ok()) {
                Some(day) => Slice::Day(day),
                None => Slice::Whole,
            });
        }
        Ok(slices.into_iter().collect())
    }
}

fn folder(table: &Table) -> Path {
    Path::from_iter([PathPart::from(table.name.as_str())])
}

fn path(table: &Table, slice: Slice) -> Path {
    match slice {
        Slice::Whole => folder(table).join(ROWS),
        Slice::Day(day) => folder(table).join(format!("{DAY}{day}").as_str()).join(ROWS),
    }
}

fn foreign(table: &Table, found: &Owner) -> WarehouseError {
    WarehouseError::Foreign {
        table: table.name.clone(),
        found: format!("its owner is {}", found.owner),
    }
}
