//! Partials of batch views in memory, loaded once however many ask, within a bound.
//!
//! Files never change, so they are cached by path: two generations share the partials of the dates that did not
//! change. What no readable generation names any more is dropped at the next refresh. When the files take more than the
//! bound, the views that were asked for longest ago go, whole: an answer needs every date of its view. The view that was
//! asked for last stays even if it is larger by itself, since its answer holds it anyway.

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

#[derive(Debug)]
pub(super) struct PartialCache {
    bytes_max: usize,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// By path, with the bytes that it takes: those of the file, which is not compressed. A file that no view of `views`
    /// holds goes.
    files: HashMap<String, (u64, Arc<File>)>,
    views: HashMap<(GenerationNumber, String), Held>,
    /// Counts what was asked for.
    asked: u64,
}

type File = OnceCell<Partial>;

/// A view that was asked for.
#[derive(Debug)]
struct Held {
    files: Vec<Arc<File>>,
    partials: Arc<OnceCell<DatePartials>>,
    fold: Arc<Fold>,
    /// When it was asked for last, as counted.
    asked: u64,
}

impl PartialCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            slots: Mutex::default(),
        }
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of the partials in memory.
    pub(super) fn bytes(&self) -> usize {
        self.slots().bytes()
    }

    pub(super) async fn partials(
        &self,
        store: &dyn ObjectStore,
        generation: &Generation,
        view_id: &str,
        view: &BatchView,
        fold: &Arc<Fold>,
    ) -> Result<DatePartials, GenerationError> {
        let (files, partials) = self.slots().hold(generation.number, view_id, view, fold);
        let load = || async {
            let loads = view.dates.iter().zip(&files).map(|(file, slot)| async move {
                let partial = slot.get_or_try_init(|| load(store, file, fold)).await?;
                Ok((file.date, partial.clone()))
            });
            let loads: Vec<_> = loads.collect();
            let partials: Result<Vec<_>, GenerationError> =
                futures::stream::iter(loads).buffered(LOADS).try_collect().await;
            let partials = Arc::new(partials?);
            self.slots().make_room(self.bytes_max);
            Ok(partials)
        };
        partials.get_or_try_init(load).await.cloned()
    }

    /// Loads the views of `next` that are held for `current`, the one that was asked for last at last, so that it is
    /// the last to go when there is no room for all. What cannot be read is left to whoever asks for it.
    pub(super) async fn prepare(&self, store: &dyn ObjectStore, current: GenerationNumber, next: &Generation) {
        let held = self.slots().held(current);
        for (view_id, fold) in held {
            if let Some(view) = next.views.get(&view_id) {
                drop(self.partials(store, next, &view_id, view, &fold).await);
            }
        }
    }

    /// Whether the partials of a view are in memory.
    pub(super) fn holds(&self, number: GenerationNumber, view_id: &str) -> bool {
        let slots = self.slots();
        let held = slots.views.get(&(number, view_id.to_owned()));
        held.is_some_and(|held| held.partials.initialized())
    }

    /// Drops what none of `readable` names.
    pub(super) fn retain(&self, readable: &[Arc<Generation>]) {
        let numbers: HashSet<GenerationNumber> = readable.iter().map(|generation| generation.number).collect();
        let mut slots = self.slots();
        slots.views.retain(|(number, _), _| numbers.contains(number));
        slots.forget_files();
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// The places of a view's files and of all of them together, marked as asked for now.
    fn hold(
        &mut self,
        number: GenerationNumber,
        view_id: &str,
        view: &BatchView,
        fold: &Arc<Fold>,
    ) -> (Vec<Arc<File>>, Arc<OnceCell<DatePartials>>) {
        self.asked += 1;
        let held = self.views.entry((number, view_id.to_owned())).or_insert_with(|| Held {
            files: Vec::new(),
            partials: Arc::default(),
            fold: Arc::clone(fold),
            asked: 0,
        });
        held.asked = self.asked;
        if held.files.is_empty() {
            let files = view.dates.iter();
            held.files = files
                .map(|file| {
                    let (bytes, slot) = self.files.entry(file.path.clone()).or_default();
                    *bytes = file.bytes;
                    Arc::clone(slot)
                })
                .collect();
        }
        // Once the partials are there, nobody asks for the files one by one.
        let files = match held.partials.initialized() {
            true => Vec::new(),
            false => held.files.clone(),
        };
        (files, Arc::clone(&held.partials))
    }

    /// The views that are held for a generation, the one that was asked for longest ago first.
    fn held(&self, generation: GenerationNumber) -> Vec<(String, Arc<Fold>)> {
        let mut held: Vec<_> = self
            .views
            .iter()
            .filter(|((number, _), _)| *number == generation)
            .collect();
        held.sort_unstable_by_key(|(_, held)| held.asked);
        let named = |((_, view), held): (&(_, String), &Held)| (view.clone(), Arc::clone(&held.fold));
        held.into_iter().map(named).collect()
    }

    fn make_room(&mut self, bytes_max: usize) {
        while self.bytes() > bytes_max && self.views.len() > 1 {
            let oldest = self.views.iter().min_by_key(|(_, held)| held.asked);
            let Some(oldest) = oldest.map(|(place, _)| place.clone()) else {
                return;
            };
            self.views.remove(&oldest);
            self.forget_files();
        }
    }

    /// Drops the files that no view holds, nor anybody who is loading them.
    fn forget_files(&mut self) {
        self.files.retain(|_, (_, file)| Arc::strong_count(file) > 1);
    }

    fn bytes(&self) -> usize {
        let loaded = self.files.values().filter(|(_, file)| file.initialized());
        let bytes: u64 = loaded.map(|(bytes, _)| bytes).sum();
        usize::try_from(bytes).unwrap_or(usize::MAX)
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
    let partial = Partial::decode(&bytes, fold).map_err(|error| damaged(foldline_event_log::with_causes(&error)))?;
    if partial.keys() as u64 != file.keys {
        return Err(damaged(format!(
            "it has {} keys instead of {}",
            partial.keys(),
            file.keys
        )));
    }
    Ok(partial)
}
