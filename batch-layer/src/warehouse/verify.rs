//! The warehouse against a generation: every slice read back, and its hash compared with that of the finished rows; the
//! marker with what was loaded, and with the generation's cut; events with the archive, both while they stream by.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use foldline_event_log::with_causes;
use foldline_sql::{Stream, View};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::load::{Wanted, marker_rows, marker_table, unfit_arrow, wanted};
use super::{FinishedRows, Loader, MARKER, NoRows, RowsHash, Slice, WarehouseError, events, hash_of};
use crate::{Generation, GenerationNumber};

/// How a table compares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its name.
    pub table: String,
    /// Whether it holds the rows of the generation; `None`: nothing could be compared.
    pub equal: Option<bool>,
    /// Slices that were compared.
    pub slices: u64,
    /// Rows of the generation in them.
    pub rows: u64,
    /// The first slice that differs and how, or why nothing could be compared.
    pub difference: Option<String>,
}

/// Compares every table with `generation`, day by day: days that have expired are left out, days that the generation does
/// not have are found, too. A table whose view the generation lacks is not compared.
pub async fn verify(
    loader: &Loader,
    generation: &Arc<Generation>,
    rows: &dyn FinishedRows,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Vec<Difference>, WarehouseError> {
    let owner = loader.ledger.owner().await?;
    progress(MARKER);
    let mut found = vec![told(MARKER, marker(loader, owner, generation).await)];
    for view in loader.tables.views() {
        progress(&view.name);
        found.push(told(&view.name, compare(loader, view, generation, owner, rows).await));
    }
    for stream in loader.tables.streams() {
        progress(&stream.name);
        found.push(told(
            &stream.name,
            compare_events(loader, stream, generation, owner).await,
        ));
    }
    Ok(found)
}

fn told(table: &str, compared: Result<Difference, WarehouseError>) -> Difference {
    compared.unwrap_or_else(|error| Difference {
        table: table.to_owned(),
        difference: Some(with_causes(&error)),
        ..Difference::default()
    })
}

/// The marker must be what was loaded, and that must be of `generation` and its cut.
async fn marker(loader: &Loader, owner: Uuid, generation: &Generation) -> Result<Difference, WarehouseError> {
    let unfit = |error: ArrowError| unfit_arrow(MARKER, &error);
    let done = loader.ledger.read(MARKER).await?.done;
    let difference = |equal, rows, difference: Option<String>| Difference {
        table: MARKER.to_owned(),
        equal: Some(equal),
        slices: 1,
        rows,
        difference,
    };
    let holds = done.as_ref().and_then(|done| done.holds);
    if holds != Some(generation.number) {
        let reason = match holds {
            None => "nothing was loaded to its end yet".to_owned(),
            Some(holds) => format!("it names generation {}, not {}", holds.0, generation.number.0),
        };
        return Ok(difference(false, 0, Some(reason)));
    }
    let table = marker_table(owner);
    let held = loader.tries(|| loader.warehouse.rows(&table, Slice::Whole)).await?;
    let hash = hash_of(&held).map_err(unfit)?;
    let loaded = done.as_ref().and_then(|done| done.slices.get(&Slice::Whole));
    if loaded.is_none_or(|loaded| loaded.hash.as_ref() != Some(&hash)) {
        let (rows, of) = (held.num_rows(), loaded.map_or(0, |loaded| loaded.rows));
        let reason = match rows as u64 == of {
            true => format!("{rows} rows, and other values than were loaded"),
            false => format!("{rows} rows, and {of} were loaded"),
        };
        return Ok(difference(false, of, Some(reason)));
    }
    let named = named(&held).ok_or_else(|| unfit(ArrowError::SchemaError("other columns".into())))?;
    let wanted = marker_rows(generation, &named)
        .and_then(|rows| hash_of(&rows))
        .map_err(unfit)?;
    let reason = format!("it does not name the cut of generation {}", generation.number.0);
    let equal = wanted == hash;
    Ok(difference(equal, held.num_rows() as u64, (!equal).then_some(reason)))
}

/// What the rows of a marker say of each table.
fn named(rows: &RecordBatch) -> Option<Vec<(String, GenerationNumber, u64)>> {
    let numbers = |name| rows.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let names = rows.column_by_name("table_name")?.as_string_opt::<i32>()?;
    let (generations, counts) = (numbers("table_generation")?, numbers("table_rows")?);
    let row = |row| {
        let generation = GenerationNumber(generations.value(row).cast_unsigned());
        (
            names.value(row).to_owned(),
            generation,
            counts.value(row).cast_unsigned(),
        )
    };
    Some((0..rows.num_rows()).map(row).collect())
}

/// Every row of both sides goes by; none is kept.
async fn compare_events(
    loader: &Loader,
    stream: &Arc<Stream>,
    generation: &Arc<Generation>,
    owner: Uuid,
) -> Result<Difference, WarehouseError> {
    let Wanted {
        table, slices: wanted, ..
    } = events::wanted(loader, stream, generation, owner).await?;
    let mut difference = Difference {
        table: table.name.clone(),
        ..Difference::default()
    };
    let there = loader.tries(|| loader.warehouse.slices(&table)).await?;
    let all: BTreeSet<Slice> = wanted.keys().copied().chain(there).collect();
    for slice in all {
        let gone = || table.expired(slice, loader.clock.now_ms());
        if gone() {
            continue;
        }
        let held = loader
            .tries(|| hash(&table.name, loader.warehouse.batches(&table, slice)))
            .await?;
        let archived = match wanted.get(&slice) {
            Some(piece) => hash(&table.name, piece.rows.batches()).await?,
            None => RowsHash::default(),
        };
        difference.slices += 1;
        difference.rows += archived.rows;
        if held != archived && !gone() {
            difference.equal = Some(false);
            difference.difference = Some(match held.rows == archived.rows {
                true => format!("{slice}: {} rows, and other values than the archive has", held.rows),
                false => format!("{slice}: {} rows, and the archive has {}", held.rows, archived.rows),
            });
            return Ok(difference);
        }
    }
    difference.equal = Some(true);
    Ok(difference)
}

async fn hash(
    table: &str,
    mut batches: BoxStream<'_, Result<RecordBatch, WarehouseError>>,
) -> Result<RowsHash, WarehouseError> {
    let mut hash = RowsHash::default();
    while let Some(batch) = batches.next().await {
        hash.add(&batch?).map_err(|error| unfit_arrow(table, &error))?;
    }
    Ok(hash)
}

async fn compare(
    loader: &Loader,
    view: &Arc<View>,
    generation: &Arc<Generation>,
    owner: Uuid,
    rows: &dyn FinishedRows,
) -> Result<Difference, WarehouseError> {
    let table = loader.tables.table(view, owner)?;
    let mut difference = Difference {
        table: table.name.clone(),
        ..Difference::default()
    };
    let made = match rows.rows(view, generation).await {
        Ok(made) => made,
        Err(NoRows::Building(reason) | NoRows::Failed(reason)) => {
            difference.difference = Some(reason);
            return Ok(difference);
        }
    };
    let wanted = wanted(table, made, None).map_err(|error| unfit_arrow(&view.name, &error))?;
    let Wanted {
        table, slices: wanted, ..
    } = wanted;
    let there: BTreeSet<Slice> = loader
        .tries(|| loader.warehouse.slices(&table))
        .await?
        .into_iter()
        .collect();
    let all: BTreeSet<Slice> = wanted.keys().chain(&there).copied().collect();
    for slice in all {
        let gone = || table.expired(slice, loader.clock.now_ms());
        if gone() {
            continue;
        }
        let held = loader.tries(|| loader.warehouse.rows(&table, slice)).await?;
        let hash = hash_of(&held).map_err(|error| unfit_arrow(&view.name, &error))?;
        let (rows, equal) = match wanted.get(&slice) {
            Some(piece) => (piece.rows.count(), piece.hash == hash),
            None => (0, held.num_rows() == 0),
        };
        difference.slices += 1;
        difference.rows += rows;
        // Asked again, as it may have expired meanwhile.
        if !equal && !gone() {
            let held = held.num_rows() as u64;
            difference.equal = Some(false);
            difference.difference = Some(match rows == held {
                true => format!("{slice}: {rows} rows, and other values than the generation has"),
                false => format!("{slice}: {held} rows, and the generation has {rows}"),
            });
            return Ok(difference);
        }
    }
    difference.equal = Some(true);
    Ok(difference)
}
