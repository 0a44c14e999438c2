//! Partials of batch views in memory, loaded once however many ask.
//!
//! Files never change, so they are cached by path: two generations share the partials of the dates that did not
//! change. What no readable generation names any more is dropped at the next refresh; so the cache holds at most the
//! readable generations, and what else was asked for since the last refresh.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldline_sql::{Fold, Partial};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::OnceCell;

use super::{BatchView, DatePartial, Generation, GenerationError, GenerationNumber};
use crate::store;

/// Files of one view loaded at the same time.
const LOADS: usize = 8;

/// Partials by event date, in order.
pub(super) type DatePartials = Arc<Vec<(chrono::NaiveDate, Partial)>>;

#[derive(Debug, Default)]
pub(super) struct PartialCache {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    files: HashMap<String, Arc<OnceCell<Partial>>>,
    views: HashMap<(GenerationNumber, String), Arc<OnceCell<DatePartials>>>,
}

impl PartialCache {
    pub(super) async fn partials(
        &self,
        store: &dyn ObjectStore,
        generation: &Generation,
        view_id: &str,
        view: &BatchView,
        fold: &Fold,
    ) -> Result<DatePartials, GenerationError> {
        let slot = {
            let mut slots = self.slots();
            Arc::clone(slots.views.entry((generation.number, view_id.to_owned())).or_default())
        };
        let load = || async {
            let files: Vec<_> = view
                .dates
                .iter()
                .map(|file| async move { Ok((file.date, self.file(store, file, fold).await?)) })
                .collect();
            let partials: Result<Vec<_>, GenerationError> =
                futures::stream::iter(files).buffered(LOADS).try_collect().await;
            partials.map(Arc::new)
        };
        slot.get_or_try_init(load).await.cloned()
    }

    /// Drops what none of `readable` names.
    pub(super) fn retain(&self, readable: &[Arc<Generation>]) {
        let numbers: HashSet<GenerationNumber> = readable.iter().map(|generation| generation.number).collect();
        let views = readable.iter().flat_map(|generation| generation.views.values());
        let paths: HashSet<&str> = views
            .flat_map(|view| &view.dates)
            .map(|file| file.path.as_str())
            .collect();
        let mut slots = self.slots();
        slots.views.retain(|(number, _), _| numbers.contains(number));
        slots.files.retain(|path, _| paths.contains(path.as_str()));
    }

    async fn file(&self, store: &dyn ObjectStore, file: &DatePartial, fold: &Fold) -> Result<Partial, GenerationError> {
        let slot = Arc::clone(self.slots().files.entry(file.path.clone()).or_default());
        slot.get_or_try_init(|| load(store, file, fold)).await.cloned()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a partial and checks that it is what the generation says.
pub(crate) async fn load(store: &dyn ObjectStore, file: &DatePartial, fold: &Fold) -> Result<Partial, GenerationError> {
    let damaged = |reason: String| GenerationError::Damaged {
        path: file.path.clone(),
        reason,
    };
    let path = Path::parse(&file.path).map_err(|error| damaged(error.to_string()))?;
    let bytes = store::read_file(store, &path, file.bytes, file.crc32).await?;
    let partial = Partial::decode(&bytes, fold).map_err(|error| damaged(chain(&error)))?;
    if partial.keys() as u64 != file.keys {
        return Err(damaged(format!(
            "it has {} keys instead of {}",
            partial.keys(),
            file.keys
        )));
    }
    Ok(partial)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
