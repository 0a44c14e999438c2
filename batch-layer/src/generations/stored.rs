//! How generations lie in the store, and how to list them so that nothing that is protected is overlooked.
//!
//! ```text
//! generations/<number>.json                    manifest, create-only
//!             pins/<number>.json               copy of a pinned manifest
//!             holds/<number>-<attempt>.json    copy of a manifest that a rollback under way is about to name again
//! ```
//!
//! A pin and a hold are whole copies of the manifest, so they protect its files even where garbage collection has just
//! decided to remove the manifest itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Generation, GenerationError, GenerationNumber};
use crate::store::{self, Record, StoreError};

const FOLDER: &str = "generations";
const PINS: &str = "generations/pins";
const HOLDS: &str = "generations/holds";
/// Records read at the same time.
const READS: usize = 16;
/// A listing during which something disappeared is done again this often.
const LISTINGS_MAX: usize = 10;

/// A rollback under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hold {
    pub(crate) version: u32,
    pub(crate) attempt: Uuid,
    pub(crate) held_ms: i64,
    pub(crate) generation: Generation,
}

impl Record for Hold {
    const VERSION: u32 = 1;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

impl Record for Generation {
    const VERSION: u32 = super::VERSION;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

/// Everything that names files of batch views, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) manifests: BTreeMap<GenerationNumber, Arc<Generation>>,
    pub(crate) pins: BTreeMap<GenerationNumber, Arc<Generation>>,
    pub(crate) holds: Vec<(Path, Hold)>,
}

impl Stored {
    /// Manifests, pins and holds.
    pub(crate) fn generations(&self) -> impl Iterator<Item = &Generation> {
        let (manifests, pins) = (self.manifests.values(), self.pins.values());
        let named = manifests.chain(pins).map(Arc::as_ref);
        named.chain(self.holds.iter().map(|(_, hold)| &hold.generation))
    }
}

pub(crate) fn manifest_path(number: GenerationNumber) -> Path {
    Path::from(format!("{FOLDER}/{:020}.json", number.0))
}

pub(super) fn pin_path(number: GenerationNumber) -> Path {
    Path::from(format!("{PINS}/{:020}.json", number.0))
}

pub(super) fn hold_path(number: GenerationNumber, attempt: Uuid) -> Path {
    Path::from(format!("{HOLDS}/{:020}-{attempt}.json", number.0))
}

/// The manifest or pin at `path`, checked to be that of `number`; `None` if there is none.
pub(super) async fn read(
    store: &dyn ObjectStore,
    path: &Path,
    number: GenerationNumber,
) -> Result<Option<Generation>, GenerationError> {
    let generation: Generation = match store::read_json(store, path).await {
        Ok(generation) => generation,
        Err(StoreError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if generation.number != number {
        return Err(GenerationError::Damaged {
            path: path.to_string(),
            reason: format!("it says that it is generation {}", generation.number.0),
        });
    }
    Ok(Some(generation))
}

/// Numbers of the manifests after `after`, ascending.
pub(super) async fn numbers_after(
    store: &dyn ObjectStore,
    after: Option<GenerationNumber>,
) -> Result<Vec<GenerationNumber>, GenerationError> {
    let folder = Path::from(FOLDER);
    let listing = match after {
        Some(after) => store.list_with_offset(Some(&folder), &manifest_path(after)),
        None => store.list(Some(&folder)),
    };
    let found: Vec<Path> = listing
        .map_ok(|object| object.location)
        .try_collect()
        .await
        .map_err(|source| listing_failed(&folder, source))?;
    let mut numbers: Vec<_> = found
        .iter()
        .filter(|path| path.parts_count() == 2)
        .filter_map(number_of)
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Numbers of the pinned generations.
pub(super) async fn pinned(store: &dyn ObjectStore) -> Result<Vec<GenerationNumber>, GenerationError> {
    Ok(list(store, PINS).await?.iter().filter_map(number_of).collect())
}

/// Everything that names files: pins and holds first, manifests after them.
///
/// The order matters. A rollback writes its hold, then checks that the manifest is still stored, then publishes, then
/// takes its hold away. So whoever looks here *after* having removed manifests finds the hold, or the new generation,
/// or the rollback finds its manifest gone and refuses. What disappears while it is being read may be a step of such a
/// rollback, so the whole look starts over.
pub(crate) async fn everything(store: &dyn ObjectStore) -> Result<Stored, GenerationError> {
    for _ in 0..LISTINGS_MAX {
        if let Some(stored) = look(store).await? {
            return Ok(stored);
        }
    }
    Err(GenerationError::Restless {
        looks: LISTINGS_MAX as u64,
    })
}

async fn look(store: &dyn ObjectStore) -> Result<Option<Stored>, GenerationError> {
    let pins = list(store, PINS).await?;
    let holds = list(store, HOLDS).await?;
    let Some(pins) = read_all(store, pins.iter().filter_map(|path| Some((path, number_of(path)?)))).await? else {
        return Ok(None);
    };
    let mut held = Vec::new();
    for path in holds {
        match store::read_json::<Hold>(store, &path).await {
            Ok(hold) => held.push((path, hold)),
            Err(StoreError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    let numbers = numbers_after(store, None).await?;
    let paths: Vec<_> = numbers.iter().map(|&number| (manifest_path(number), number)).collect();
    let Some(manifests) = read_all(store, paths.iter().map(|(path, number)| (path, *number))).await? else {
        return Ok(None);
    };
    Ok(Some(Stored {
        manifests,
        pins,
        holds: held,
    }))
}

/// `None` when one of them is gone.
async fn read_all(
    store: &dyn ObjectStore,
    paths: impl Iterator<Item = (&Path, GenerationNumber)>,
) -> Result<Option<BTreeMap<GenerationNumber, Arc<Generation>>>, GenerationError> {
    let paths: Vec<(Path, GenerationNumber)> = paths.map(|(path, number)| (path.clone(), number)).collect();
    let read: Vec<Option<Generation>> = futures::stream::iter(paths)
        .map(|(path, number)| async move { read(store, &path, number).await })
        .buffered(READS)
        .try_collect()
        .await?;
    let named = |generation: Generation| (generation.number, Arc::new(generation));
    Ok(read.into_iter().map(|generation| generation.map(named)).collect())
}

async fn list(store: &dyn ObjectStore, folder: &str) -> Result<Vec<Path>, GenerationError> {
    let folder = Path::from(folder);
    store
        .list(Some(&folder))
        .map_ok(|object| object.location)
        .try_collect()
        .await
        .map_err(|source| listing_failed(&folder, source))
}

fn number_of(path: &Path) -> Option<GenerationNumber> {
    let digits = path.filename()?.strip_suffix(".json")?;
    let well_formed = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| well_formed).map(GenerationNumber)
}

fn listing_failed(folder: &Path, source: object_store::Error) -> GenerationError {
    GenerationError::Store {
        attempt: format!("listing {folder}"),
        source,
    }
}
