//! What is loaded, and what somebody set out to load: records in the object store, create-only.
//!
//! ```text
//! loads/<warehouse>/owner.json                         whose tables these are: made once, here, and so it moves with the store
//! loads/<warehouse>/<table>/<generation>-<again>.plan  which slices a load replaces, written before it begins
//!                                               .done  what the table holds now, written when it has ended
//! ```
//!
//! A plan without `done` is of a load that goes on, or died: nothing else is loaded into its table before every one of its
//! slices is settled. A plan may say that the table is empty from now on: it is written *before* a table is made, or made
//! anew, so that whoever comes next loads all of it. Whoever writes a plan looks for later ones *afterwards*: of two that meet, the one with the earlier
//! number sees the other and gives up, or was seen by it and is settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{LoadNumber, Slice};
use crate::GenerationNumber;
use crate::store::{self, Created, StoreError};

const FOLDER: &str = "loads";
const PLAN: &str = "plan.json";
const DONE: &str = "done.json";
const AT_ONCE: usize = 8;

/// One slice that a load replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Which.
    pub slice: Slice,
    /// Hash of its new rows; `None`: it becomes empty.
    pub hash: Option<String>,
    /// How many they are.
    pub rows: u64,
}

/// What a load sets out to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Format of this record: 1.
    pub version: u32,
    /// Random id of the attempt that wrote it.
    pub attempt: Uuid,
    /// Which load.
    pub number: LoadNumber,
    /// Columns and division of the table.
    pub shape: String,
    /// What is replaced.
    pub jobs: Vec<Job>,
    /// The table is made now, with nothing in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emptied: bool,
}

/// A slice that is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    /// Hash of its rows; `None`: nobody knows what it holds.
    pub hash: Option<String>,
    /// How many they are.
    pub rows: u64,
}

/// What a table holds after a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Format of this record: 1.
    pub version: u32,
    /// Random id of the attempt that wrote it.
    pub attempt: Uuid,
    /// After which load.
    pub number: LoadNumber,
    /// Columns and division of the table.
    pub shape: String,
    /// Its slices.
    pub slices: BTreeMap<Slice, Loaded>,
    /// The last generation that it held whole.
    pub holds: Option<GenerationNumber>,
    /// What the rows of `holds` were made of, where that can be said.
    pub made_of: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    version: u32,
    attempt: Uuid,
    place: String,
}

store::records!(Plan, Done, Owner);

/// The records of one warehouse.
#[derive(Debug, Clone)]
pub struct LoadLedger {
    store: Arc<dyn ObjectStore>,
    folder: String,
    key: String,
}

/// The records of one table.
#[derive(Debug, Clone, Default)]
pub struct TableRecords {
    /// The newest that has ended.
    pub done: Option<Done>,
    /// Those that have not, in order.
    pub open: Vec<Plan>,
    /// The greatest number of any record.
    pub newest: Option<LoadNumber>,
}

impl LoadLedger {
    /// The ledger in `store` of the warehouse that is known as `key`: its place, or where that moves with the store, what
    /// stays the same.
    pub fn new(store: Arc<dyn ObjectStore>, key: &str) -> Self {
        let id = Sha256::digest(key.as_bytes());
        let id: String = id[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            store,
            folder: format!("{FOLDER}/{id}"),
            key: key.to_owned(),
        }
    }

    /// Whose the tables are: the same for every process on this store.
    pub async fn owner(&self) -> Result<Uuid, StoreError> {
        let path = Path::from(format!("{}/owner.json", self.folder));
        match store::read_json::<Owner>(self.store.as_ref(), &path).await {
            Ok(owner) => return Ok(owner.attempt),
            Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        let mine = Owner {
            version: 1,
            attempt: Uuid::new_v4(),
            place: self.key.clone(),
        };
        Ok(match store::create_only(self.store.as_ref(), &path, &mine).await? {
            Created::Mine => mine.attempt,
            Created::Theirs(theirs) => theirs.attempt,
        })
    }

    fn table_folder(&self, table: &str) -> Path {
        Path::from(self.folder.as_str()).join(PathPart::from(table))
    }

    fn path(&self, table: &str, number: LoadNumber, kind: &str) -> Path {
        let LoadNumber { generation, again } = number;
        self.table_folder(table)
            .join(format!("{:020}-{again:010}.{kind}", generation.0).as_str())
    }

    /// The records of `table`.
    pub async fn read(&self, table: &str) -> Result<TableRecords, StoreError> {
        let mut found: BTreeMap<LoadNumber, bool> = BTreeMap::new();
        for object in store::list(self.store.as_ref(), &self.table_folder(table)).await? {
            if let Some((number, done)) = object.location.filename().and_then(parse) {
                *found.entry(number).or_default() |= done;
            }
        }
        let newest = found.keys().next_back().copied();
        let last_done = found.iter().rev().find(|(_, done)| **done).map(|(number, _)| *number);
        let done = match last_done {
            Some(number) => Some(store::read_json(self.store.as_ref(), &self.path(table, number, DONE)).await?),
            None => None,
        };
        let mut open = Vec::new();
        // Those before the newest done one are what is about to be removed.
        for number in found.keys().filter(|number| Some(**number) > last_done) {
            open.push(store::read_json(self.store.as_ref(), &self.path(table, *number, PLAN)).await?);
        }
        Ok(TableRecords { done, open, newest })
    }

    /// Writes `plan`; false where another one of its number is there. Nothing may be loaded before the records were read
    /// once more.
    pub async fn plan(&self, table: &str, plan: &Plan) -> Result<bool, StoreError> {
        let created = store::create_only(self.store.as_ref(), &self.path(table, plan.number, PLAN), plan).await?;
        Ok(created == Created::Mine)
    }

    /// Writes what `table` holds now, and removes the records before it.
    pub async fn done(&self, table: &str, done: &Done) -> Result<(), StoreError> {
        // Somebody else may have ended the same plan: it says the same.
        store::create_only(self.store.as_ref(), &self.path(table, done.number, DONE), done).await?;
        let objects = store::list(self.store.as_ref(), &self.table_folder(table)).await?;
        let old = objects.into_iter().map(|object| object.location);
        let old = old.filter(|path| {
            path.filename()
                .and_then(parse)
                .is_some_and(|(number, _)| number < done.number)
        });
        // What cannot be removed now is by the next load.
        futures::stream::iter(old)
            .for_each_concurrent(AT_ONCE, |path| async move { drop(self.store.delete(&path).await) })
            .await;
        Ok(())
    }
}

/// The number in the name of a record, and whether it is a `done`.
fn parse(name: &str) -> Option<(LoadNumber, bool)> {
    let (number, kind) = name.split_once('.')?;
    let (generation, again) = number.split_once('-')?;
    let number = LoadNumber {
        generation: GenerationNumber(generation.parse().ok()?),
        again: again.parse().ok()?,
    };
    match kind {
        PLAN => Some((number, false)),
        DONE => Some((number, true)),
        _ => None,
    }
}
