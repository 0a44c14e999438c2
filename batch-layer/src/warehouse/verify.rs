//! The warehouse against a generation: every slice read back, and its hash compared with that of the finished rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldline_event_log::with_causes;
use serde::{Deserialize, Serialize};

use super::load::{Wanted, unfit_arrow, wanted};
use super::{FinishedRows, Loader, MARKER, NoRows, Slice, WarehouseError, hash_of};
use crate::Generation;

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
    let mut found = Vec::new();
    let holds = loader.holds().await?;
    found.push(Difference {
        table: MARKER.to_owned(),
        equal: Some(holds == Some(generation.number)),
        difference: (holds != Some(generation.number)).then(|| match holds {
            None => "nothing was loaded to its end yet".to_owned(),
            Some(holds) => format!("it names generation {}, not {}", holds.0, generation.number.0),
        }),
        ..Difference::default()
    });
    for view in loader.tables.views() {
        progress(&view.name);
        let compared = compare(loader, view, generation, rows).await;
        found.push(compared.unwrap_or_else(|error| Difference {
            table: view.name.clone(),
            difference: Some(with_causes(&error)),
            ..Difference::default()
        }));
    }
    Ok(found)
}

async fn compare(
    loader: &Loader,
    view: &Arc<foldline_sql::View>,
    generation: &Arc<Generation>,
    rows: &dyn FinishedRows,
) -> Result<Difference, WarehouseError> {
    let owner = loader.ledger.owner().await?;
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
    let wanted = wanted(table, &made, None).map_err(|error| unfit_arrow(&view.name, &error))?;
    drop(made);
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
            Some((rows, wanted)) => (rows.num_rows(), *wanted == hash),
            None => (0, held.num_rows() == 0),
        };
        difference.slices += 1;
        difference.rows += rows as u64;
        // Asked again, as it may have expired meanwhile.
        if !equal && !gone() {
            let held = held.num_rows();
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
