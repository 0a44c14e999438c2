//! The warehouse: finished rows of the batch views of a generation, where analysts read them.
//!
//! ```text
//! generation 7 ─► finished rows of a view ─► slices by day ─► hashes ─┬─ as the ledger says: left alone
//!                                                                     └─ else: a plan, one load each, done
//!                                              every table done ─► the table _foldline: generation and cut
//! ```
//!
//! A load replaces exactly one [`Slice`] of a table, whole or not at all. What is loaded stands in the ledger
//! ([`ledger`]), by hash of the rows: not the event's day says what changed, as a session, a week or a running sum changes
//! other days too. A [`Warehouse`] knows nothing of that: it replaces slices under names that are used once. [`load`]
//! decides what is replaced, [`verify`] reads it back and compares.
//!
//! Archived events become tables by the same steps ([`events`]): there the commits of the archive say what a day holds.
//!
//! Worked example: generation 6 is loaded, 30 days. One late event changes May 3rd; its session ended on May 4th. At
//! generation 7 the hashes of May 3rd and 4th and of the new day differ: three loads, and one of `_foldline`.

#[cfg(feature = "cloud")]
mod bigquery;
pub mod contract;
mod events;
mod file;
pub mod ledger;
mod load;
mod local;
mod memory;
mod shape;
mod tables;
mod verify;

use std::fmt;
use std::str::FromStr;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[cfg(feature = "cloud")]
pub use bigquery::{BigQuery, BigQuerySettings};
pub use load::{FinishedRows, LoadReport, Loader, NoRows, TableReport};
pub use local::LocalWarehouse;
pub use memory::MemoryWarehouse;
pub use shape::{RowsHash, hash_of, shaped, shaped_schema};
pub use tables::{TableOptions, Tables};
pub use verify::{Difference, verify};

use crate::GenerationNumber;
use crate::store::StoreError;

/// The table that says which generation the others hold; written last.
pub const MARKER: &str = "_foldline";

/// What a load replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Slice {
    /// The whole of a table that is not divided by day.
    Whole,
    /// The rows of one UTC date.
    Day(NaiveDate),
}

impl fmt::Display for Slice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => formatter.write_str("all"),
            Self::Day(day) => day.fmt(formatter),
        }
    }
}

impl From<Slice> for String {
    fn from(slice: Slice) -> Self {
        slice.to_string()
    }
}

impl FromStr for Slice {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::Whole),
            day => Ok(Self::Day(day.parse()?)),
        }
    }
}

impl TryFrom<String> for Slice {
    type Error = chrono::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A table as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Name: that of the view, or [`MARKER`].
    pub name: String,
    /// For people.
    pub description: String,
    /// Columns, in the types of a warehouse ([`shaped_schema`]).
    pub schema: SchemaRef,
    /// The column by whose UTC date it is divided; `None`: it is replaced whole.
    pub day: Option<String>,
    /// Columns that rows of a day lie together by, most telling first; at most four.
    pub cluster: Vec<String>,
    /// A day is gone this long after its midnight in UTC, milliseconds; `None`: never.
    pub expire_ms: Option<i64>,
    /// Whose table it is: random, made when a ledger begins. Another one's table is never touched.
    pub owner: Uuid,
}

impl Table {
    /// What cannot change without making the table anew: columns and the column of the day.
    pub fn shape(&self) -> String {
        let columns = self.schema.fields().iter();
        let columns: Vec<String> = columns
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        format!("{} by {}", columns.join(", "), self.day.as_deref().unwrap_or("nothing"))
    }

    /// Whether the rows of `slice` are gone at `now_ms`. Counted from the beginning of the day, as BigQuery counts
    /// `expirationMs` from the boundary of a partition.
    pub fn expired(&self, slice: Slice, now_ms: i64) -> bool {
        let (Slice::Day(day), Some(expire_ms)) = (slice, self.expire_ms) else {
            return false;
        };
        day.and_time(NaiveTime::MIN)
            .and_utc()
            .timestamp_millis()
            .saturating_add(expire_ms)
            <= now_ms
    }
}

/// Which load of a table: of this generation, for the so manyth time. Greater is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LoadNumber {
    /// The generation.
    pub generation: GenerationNumber,
    /// 0, unless more of the same generation has to be loaded.
    pub again: u32,
}

/// The name of one load: never used for other rows. What a warehouse did under it once, it does not do again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadName {
    /// Whose.
    pub owner: Uuid,
    /// Table.
    pub table: String,
    /// What it replaces.
    pub slice: Slice,
    /// Which load of the table.
    pub number: LoadNumber,
    /// The attempt that planned it: of two ledgers with the same past, one does not take the other's loads for its own.
    pub plan: Uuid,
}

impl fmt::Display for LoadName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadNumber { generation, again } = self.number;
        write!(
            formatter,
            "{}/{} of generation {} ({again})",
            self.table, self.slice, generation.0
        )
    }
}

/// How a table was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// It was there.
    There,
    /// It was made just now, and is empty.
    Made,
}

/// What became of a load that somebody began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Its rows are the slice's, or were until a later load.
    Loaded,
    /// It changed nothing, and never will.
    Nothing,
    /// Nobody knows: the slice holds its rows or those before.
    Unknown,
}

/// What a warehouse can answer instead. Whoever tries again looks only at [`WarehouseError::again`].
#[derive(Debug, thiserror::Error)]
pub enum WarehouseError {
    /// No answer, or a failure of the other side: it may have happened.
    #[error("the warehouse failed while {attempt}: {reason}")]
    Unclear {
        /// What was attempted.
        attempt: String,
        /// What came back.
        reason: String,
    },
    /// Too much at once; it did not happen, and a moment later it may.
    #[error("the warehouse asked for patience while {attempt}: {reason}")]
    Busy {
        /// What was attempted.
        attempt: String,
        /// What came back.
        reason: String,
    },
    /// It did not happen, and trying again at once would not help: rights, a quota of the day, rows that do not fit.
    #[error("the warehouse refused {attempt}: {reason}")]
    Refused {
        /// What was attempted.
        attempt: String,
        /// What came back.
        reason: String,
    },
    /// Somebody loads a later generation, or has done so.
    #[error("table \"{table}\" is loaded with a later generation")]
    Superseded {
        /// Table.
        table: String,
    },
    /// The table is not ours.
    #[error(
        "table \"{table}\" is there and is not of this foldline ({found}): name another place for the warehouse, or remove it"
    )]
    Foreign {
        /// Table.
        table: String,
        /// Whose it seems to be.
        found: String,
    },
    /// The table is ours, and not as we left it.
    #[error(
        "table \"{table}\" is not as it was loaded: somebody changed it, or a foldline with a copy of this one's store loads \
         here, too: give each a warehouse of its own, then run foldline warehouse load --full"
    )]
    Changed {
        /// Table.
        table: String,
    },
    /// Rows that no warehouse takes.
    #[error("table \"{table}\" cannot be loaded: {reason}")]
    Unfit {
        /// Table.
        table: String,
        /// What does not fit.
        reason: String,
    },
    /// What is stored does not read as written.
    #[error("cannot read {what}: {reason}")]
    Damaged {
        /// What.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The ledger.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WarehouseError {
    /// Whether another try within seconds may help. Every operation may be tried again, whether it happened or not.
    pub fn again(&self) -> bool {
        matches!(self, Self::Unclear { .. } | Self::Busy { .. })
    }

    /// The object store behind a warehouse of files.
    fn of_store(attempt: String, error: &object_store::Error) -> Self {
        let reason = foldline_event_log::with_causes(error);
        if crate::store::outcome_unknown(error) {
            Self::Unclear { attempt, reason }
        } else {
            Self::Refused { attempt, reason }
        }
    }
}

/// The rows of a slice, in the columns of its table.
pub trait SliceRows: Send + Sync {
    /// How many they are.
    fn count(&self) -> u64;

    /// All of them, in batches. Asked again, they are the same.
    fn batches(&self) -> BoxStream<'_, Result<RecordBatch, WarehouseError>>;
}

impl SliceRows for RecordBatch {
    fn count(&self) -> u64 {
        self.num_rows() as u64
    }

    fn batches(&self) -> BoxStream<'_, Result<RecordBatch, WarehouseError>> {
        futures::stream::iter([Ok(self.clone())]).boxed()
    }
}

/// Tables whose slices can be replaced.
///
/// Every operation may be called again after an error, and from several processes at once.
#[async_trait]
pub trait Warehouse: fmt::Debug + Send + Sync {
    /// Where it is, for people and to tell ledgers apart: nothing secret.
    fn place(&self) -> String;

    /// Whether the table is there.
    async fn exists(&self, table: &Table) -> Result<bool, WarehouseError>;

    /// Makes `table`, if it is not there; else brings description, clustering and expiration up to date. A table of
    /// another owner is left alone: `Foreign`.
    async fn prepare(&self, table: &Table) -> Result<Prepared, WarehouseError>;

    /// Makes the rows of the slice of `name` be `rows` (none: it is empty), whole or not at all, and returns when readers
    /// see them. Atomic for one slice; other slices are not touched.
    ///
    /// | a load of `name` was | outcome |
    /// | --- | --- |
    /// | never begun | loaded |
    /// | begun | waited for |
    /// | done | nothing happens |
    /// | failed | begun again, where trying again may help |
    /// | settled without having happened | `Superseded` |
    ///
    /// A warehouse that cannot tell replaces the slice again, by the same rows.
    async fn load(&self, table: &Table, name: &LoadName, rows: &dyn SliceRows) -> Result<(), WarehouseError>;

    /// Ends the load `name` of whoever began it or is about to: when this returns it is done, or will never change
    /// anything (`Unknown` where that cannot be promised).
    async fn settle(&self, table: &Table, name: &LoadName) -> Result<Settled, WarehouseError>;

    /// Removes a table with its rows; one that is not there is no error, another owner's is `Foreign`.
    async fn remove(&self, table: &Table) -> Result<(), WarehouseError>;

    /// Removes what has expired, where the warehouse does not do so by itself.
    async fn expire(&self, table: &Table, slices: &[Slice]) -> Result<(), WarehouseError>;

    /// The rows of a slice, in the columns of the table, in any order. None of a slice that never was.
    fn batches<'a>(&'a self, table: &'a Table, slice: Slice) -> BoxStream<'a, Result<RecordBatch, WarehouseError>>;

    /// The same at once.
    async fn rows(&self, table: &Table, slice: Slice) -> Result<RecordBatch, WarehouseError> {
        let batches: Vec<RecordBatch> = self.batches(table, slice).try_collect().await?;
        concat_batches(&table.schema, &batches).map_err(|error| WarehouseError::Damaged {
            what: format!("{slice} of table \"{}\"", table.name),
            reason: error.to_string(),
        })
    }

    /// The slices that have rows.
    async fn slices(&self, table: &Table) -> Result<Vec<Slice>, WarehouseError>;
}

/// "3 days", "48 hours" or "none", as milliseconds: what a retention of a view is written in.
pub fn parse_expiration(text: &str) -> Option<Option<i64>> {
    match text.trim() {
        "" | "none" => Some(None),
        length => foldline_sql::duration_ms(length).filter(|ms| *ms > 0).map(Some),
    }
}

/// A UTC date as the days since 1970 that arrow counts.
fn date_of(days: i32) -> Option<NaiveDate> {
    let day = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::try_days(i64::from(days))?;
    Some(day.date_naive())
}
