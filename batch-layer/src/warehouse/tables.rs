//! Which table a view becomes, and its rows by day.
//!
//! | a view | divided by the UTC date of |
//! | --- | --- |
//! | of which it is said | the column that is named, or nothing |
//! | a fold | its window, else the first DATE or TIMESTAMP of its key |
//! | above folds | the column of that name in a view that it reads, else its first DATE or TIMESTAMP |
//! | without such a column, or with a NULL in it, or a date before 1960 or after 2159 (BigQuery has no partition for it) | nothing: it is replaced whole |
//!
//! Whatever the column is, the answer is right: a row that moves to another day changes both. A good one changes few days.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{cast, partition, sort_to_indices, take, take_record_batch};
use arrow::datatypes::{DataType, Date32Type, Schema};
use arrow::error::ArrowError;
use chrono::{Datelike, NaiveDate};
use foldline_sql::{Catalog, Stream, View, ViewKind};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{MARKER, Slice, Table, WarehouseError, date_of, shaped_schema};
use crate::Generation;

/// Columns that BigQuery clusters by, at most.
const CLUSTER_MAX: usize = 4;
/// Years that BigQuery has daily partitions for.
pub(super) const YEARS: std::ops::RangeInclusive<i32> = 1960..=2159;
/// Characters of a description that BigQuery takes, at most.
const DESCRIPTION_MAX: usize = 16_000;

/// What is said of tables beside what follows from their views.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// The views that become tables; empty: all.
    pub views: BTreeSet<String>,
    /// How long a day stays, milliseconds, of tables that nothing else is said of.
    pub expire_ms: Option<i64>,
    /// The same by view.
    pub expire_of: BTreeMap<String, Option<i64>>,
    /// The column of the day by view; `None`: not divided.
    pub day_of: BTreeMap<String, Option<String>>,
    /// The streams whose archived events become tables.
    pub events: BTreeSet<String>,
}

impl TableOptions {
    /// Refuses names that `catalog` does not have, with those that it has.
    pub fn check(&self, catalog: &Catalog) -> Result<(), String> {
        for name in &self.events {
            if !catalog.streams().iter().any(|stream| stream.name == *name) {
                let known: Vec<&str> = catalog.streams().iter().map(|stream| stream.name.as_str()).collect();
                return Err(format!(
                    "there is no stream \"{name}\"; there are: {}",
                    known.join(", ")
                ));
            }
        }
        let expiring = self.expire_of.keys().filter(|name| !self.events.contains(*name));
        for name in self.views.iter().chain(expiring).chain(self.day_of.keys()) {
            let view = catalog.views().iter().find(|view| view.name == *name);
            let Some(view) = view else {
                let known: Vec<&str> = catalog.views().iter().map(|view| view.name.as_str()).collect();
                return Err(format!("there is no view \"{name}\"; there are: {}", known.join(", ")));
            };
            if let Some(Some(column)) = self.day_of.get(name)
                && !view
                    .schema
                    .field_with_name(column)
                    .is_ok_and(|field| is_time(field.data_type()))
            {
                return Err(format!(
                    "view \"{name}\" has no column \"{column}\" of type DATE or TIMESTAMP"
                ));
            }
        }
        Ok(())
    }
}

/// The tables of a catalog.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Streams and views.
    pub catalog: Arc<Catalog>,
    /// What is said of them.
    pub options: TableOptions,
}

impl Tables {
    /// The views that become tables, in the order of their declaration.
    pub fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        let chosen = |view: &&Arc<View>| self.options.views.is_empty() || self.options.views.contains(&view.name);
        self.catalog.views().iter().filter(chosen)
    }

    /// The streams whose events become tables, in the order of their declaration.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        let chosen = |stream: &&Arc<Stream>| self.options.events.contains(&stream.name);
        self.catalog.streams().iter().filter(chosen)
    }

    /// The table of `view`, whose rows are `rows` in the columns of the table.
    pub(super) fn table(&self, view: &View, owner: Uuid) -> Result<Table, WarehouseError> {
        let schema = shaped_schema(&view.schema).map_err(|reason| WarehouseError::Unfit {
            table: view.name.clone(),
            reason,
        })?;
        if view.name == MARKER {
            return Err(WarehouseError::Unfit {
                table: view.name.clone(),
                reason: "the name is foldline's own".into(),
            });
        }
        let day = match self.options.day_of.get(&view.name) {
            Some(said) => said.clone(),
            None => self.day_of(view),
        };
        let expire_of = self.options.expire_of.get(&view.name).copied();
        Ok(Table {
            cluster: cluster_of(view, day.as_deref()),
            expire_ms: expire_of.unwrap_or(self.options.expire_ms).filter(|_| day.is_some()),
            name: view.name.clone(),
            description: described(format!("Foldline view {}: {}", view.name, view.sql)),
            schema,
            day,
            owner,
        })
    }

    fn day_of(&self, view: &View) -> Option<String> {
        let times = |schema: &Schema| -> Vec<String> {
            let times = schema.fields().iter().filter(|field| is_time(field.data_type()));
            times.map(|field| field.name().clone()).collect()
        };
        let times = times(&view.schema);
        if let Some((_, window)) = &view.retention {
            return Some(window.clone());
        }
        if let Some(window) = view.window.as_ref().filter(|window| times.contains(window)) {
            return Some(window.clone());
        }
        match &view.kind {
            ViewKind::Fold(fold) => times.into_iter().find(|name| fold.key_of_output(name).is_some()),
            ViewKind::Derived(_) => {
                let below = view.reads.iter().filter_map(|name| self.catalog.view(name));
                let below: Vec<String> = below.filter_map(|view| self.day_of(view)).collect();
                let first = times.first().cloned();
                times.into_iter().find(|name| below.contains(name)).or(first)
            }
        }
    }

    /// What the rows of `view` in `generation` are made of, by names that are used once: where two generations say the same,
    /// so do the rows. `None` where they hang on more than that (a retention) or are not there.
    pub(super) fn made_of(&self, view: &View, generation: &Generation) -> Option<String> {
        let mut hash = Sha256::new();
        hash.update(&view.id);
        self.add_files(view, generation, &mut hash)?;
        Some(hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn add_files(&self, view: &View, generation: &Generation, hash: &mut Sha256) -> Option<()> {
        if view.retention.is_some() {
            return None;
        }
        match &view.kind {
            ViewKind::Fold(_) => {
                for date in &generation.views.get(&view.id)?.dates {
                    hash.update(format!("{} {:08x}\n", date.path, date.crc32));
                }
            }
            ViewKind::Derived(_) => {
                for below in view.reads.iter().filter_map(|name| self.catalog.view(name)) {
                    self.add_files(below, generation, hash)?;
                }
            }
        }
        Some(())
    }

    /// Bytes of the stored partials that the rows of `view` are made of: those are read at once.
    pub fn bytes_of(&self, view: &View, generation: &Generation) -> u64 {
        match &view.kind {
            ViewKind::Fold(_) => {
                let stored = generation.views.get(&view.id);
                stored.map_or(0, |stored| stored.dates.iter().map(|date| date.bytes).sum())
            }
            ViewKind::Derived(_) => {
                let below = view.reads.iter().filter_map(|name| self.catalog.view(name));
                below.map(|below| self.bytes_of(below, generation)).sum()
            }
        }
    }
}

/// As much of a description as BigQuery takes.
pub(super) fn described(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(DESCRIPTION_MAX) {
        text.truncate(end);
    }
    text
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Timestamp(..))
}

/// Whether BigQuery clusters by such a column.
pub(super) fn clusters(data_type: &DataType) -> bool {
    data_type.is_integer() || is_time(data_type) || matches!(data_type, DataType::Utf8 | DataType::Boolean)
}

/// The key, without the day and what has no order in BigQuery.
fn cluster_of(view: &View, day: Option<&str>) -> Vec<String> {
    let ViewKind::Fold(fold) = &view.kind else {
        return Vec::new();
    };
    let columns = view.schema.fields().iter().filter(|field| {
        clusters(field.data_type()) && Some(field.name().as_str()) != day && fold.key_of_output(field.name()).is_some()
    });
    columns.map(|field| field.name().clone()).take(CLUSTER_MAX).collect()
}

/// The slices of `rows`. The table is not divided any more where a day is NULL, or none that a warehouse has.
pub(super) fn divided(table: &mut Table, rows: RecordBatch) -> Result<BTreeMap<Slice, RecordBatch>, ArrowError> {
    if let Some(column) = table.day.clone() {
        if let Some(slices) = by_day(&rows, &column)? {
            return Ok(slices);
        }
        *table = undivided(table.clone());
    }
    Ok(BTreeMap::from([(Slice::Whole, rows)]))
}

/// The same table, replaced whole. Without days nothing expires.
pub(super) fn undivided(table: Table) -> Table {
    Table {
        day: None,
        expire_ms: None,
        ..table
    }
}

fn by_day(rows: &RecordBatch, column: &str) -> Result<Option<BTreeMap<Slice, RecordBatch>>, ArrowError> {
    let (index, _) = rows
        .schema_ref()
        .column_with_name(column)
        .ok_or_else(|| ArrowError::SchemaError(format!("there is no column \"{column}\"")))?;
    let days = cast(rows.column(index), &DataType::Date32)?;
    if days.null_count() > 0 {
        return Ok(None);
    }
    // Stable within a day: rows stay in key order.
    let order = match days.as_primitive::<Date32Type>().values().is_sorted() {
        true => None,
        false => Some(sort_to_indices(&days, None, None)?),
    };
    let (days, rows) = match &order {
        None => (days, rows.clone()),
        Some(order) => (take(&days, order, None)?, take_record_batch(rows, order)?),
    };
    let mut slices = BTreeMap::new();
    for range in partition(&[Arc::clone(&days)])?.ranges() {
        let day = date_of(days.as_primitive::<Date32Type>().value(range.start));
        let Some(day) = day.filter(|day: &NaiveDate| YEARS.contains(&day.year())) else {
            return Ok(None);
        };
        slices.insert(Slice::Day(day), rows.slice(range.start, range.len()));
    }
    Ok(Some(slices))
}
