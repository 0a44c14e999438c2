//! A warehouse of Parquet files in a folder or bucket, which DuckDB, Polars and Spark read as it stands.
//!
//! ```text
//! page_days/_day=2024-05-01/rows.parquet     a day: one file, replaced by one put
//! totals/rows.parquet                        a table that is not divided
//! _foldline/rows.parquet                     the marker
//! _foldline/_owner.json                      whose they are; likewise in every table
//! ```
//!
//! A put of one object is atomic, and so is the end of one in parts: so a reader sees each day whole, of one generation or another; there is no put of many
//! objects, so while a load goes on different days may be of different generations. `_foldline` is replaced last and names
//! the generation that all tables held. Files keep their names: a pattern of names never matches a day twice. A put that
//! somebody sent long ago and that arrives late cannot be refused here: who settles a load says that it does not know.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use foldline_event_log::with_causes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::file::{self, Encoder, Stored};
use super::{LoadName, Prepared, Settled, Slice, SliceRows, Table, Warehouse, WarehouseError};
use crate::store::{self, Created, Record, StoreError};

const ROWS: &str = "rows.parquet";
const OWNER: &str = "_owner.json";
const DAY: &str = "_day=";
/// A file above this size goes in parts.
const PART_BYTES: usize = 16 << 20;

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

    async fn load(&self, table: &Table, name: &LoadName, rows: &dyn SliceRows) -> Result<(), WarehouseError> {
        let path = path(table, name.slice);
        if rows.count() == 0 && name.slice != Slice::Whole {
            return self.delete(&path).await;
        }
        // One put where it is small; else parts that are one object once the last one is there.
        let mut file =
            BufWriter::with_capacity(Arc::clone(&self.store), path.clone(), PART_BYTES).with_max_concurrency(1);
        if let Err(error) = write(table, rows, &mut file, &path).await {
            drop(file.abort().await);
            return Err(error);
        }
        // From here on the file cannot be given up any more: asked to, it panics.
        file.shutdown().await.map_err(|error| {
            let attempt = format!("writing {path}");
            match error
                .get_ref()
                .and_then(|cause| cause.downcast_ref::<object_store::Error>())
            {
                Some(cause) => WarehouseError::of_store(attempt, cause),
                None => WarehouseError::Unclear {
                    attempt,
                    reason: with_causes(&error),
                },
            }
        })
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

    fn batches<'a>(&'a self, table: &'a Table, slice: Slice) -> BoxStream<'a, Result<RecordBatch, WarehouseError>> {
        let path = path(table, slice);
        let opened = async move {
            let bytes = match self.store.head(&path).await {
                Ok(there) => there.size,
                Err(object_store::Error::NotFound { .. }) => return Ok(futures::stream::empty().boxed()),
                Err(error) => return Err(WarehouseError::of_store(format!("reading {path}"), &error)),
            };
            let file = Stored {
                store: Arc::clone(&self.store),
                path: path.clone(),
                bytes,
            };
            let unread = move |error: ParquetError| unread(&path, error);
            let builder = ParquetRecordBatchStreamBuilder::new(file).await.map_err(&unread)?;
            let rows = builder.build().map_err(&unread)?;
            Ok(rows
                .map(move |batch| {
                    file::chosen(&batch.map_err(&unread)?, &table.schema).map_err(|error| unread(error.into()))
                })
                .boxed())
        };
        futures::stream::once(opened).try_flatten().boxed()
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

async fn write(table: &Table, rows: &dyn SliceRows, file: &mut BufWriter, path: &Path) -> Result<(), WarehouseError> {
    let unfit = |error: ParquetError| WarehouseError::Unfit {
        table: table.name.clone(),
        reason: error.to_string(),
    };
    let failed = |error: object_store::Error| WarehouseError::of_store(format!("writing {path}"), &error);
    let mut encoder = Encoder::new(&table.schema).map_err(unfit)?;
    let mut batches = rows.batches();
    while let Some(batch) = batches.next().await {
        encoder.write(&batch?).map_err(unfit)?;
        let bytes = encoder.take();
        if !bytes.is_empty() {
            file.put(bytes).await.map_err(failed)?;
        }
    }
    file.put(encoder.finish().map_err(unfit)?).await.map_err(failed)
}

fn unread(path: &Path, error: ParquetError) -> WarehouseError {
    if let ParquetError::External(cause) = &error
        && let Some(cause) = cause.downcast_ref::<object_store::Error>()
        && !matches!(cause, object_store::Error::NotFound { .. })
    {
        return WarehouseError::of_store(format!("reading {path}"), cause);
    }
    WarehouseError::Damaged {
        what: path.to_string(),
        reason: error.to_string(),
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
