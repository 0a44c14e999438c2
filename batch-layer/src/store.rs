//! Object storage: create-only puts that tell a lost race from a lost reply, and checksummed reads.
//!
//! Every create-only object carries a random attempt id in its JSON. After `AlreadyExists` it is read back: absent
//! means try again (S3 answers 409 to two writers that meet), my attempt means done, another one means lost. A put
//! that fails in a way that leaves open whether it was stored is simply put again: if it was, the answer is
//! `AlreadyExists`, and reading back finds my attempt.
//!
//! Works for single puts only: multipart uploads and copies are not create-only on every store.

pub mod contract;
mod place;
mod synced;

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use place::{Patience, PlaceError, open, prove_create_only};
pub use synced::SyncedFiles;

/// A put is tried this often in all before its failure is passed on.
const PUT_TRIES: u32 = 6;
/// Wait after the first failed try; doubles with every further one.
const FIRST_RETRY_MS: u64 = 25;
/// One try of a put or get takes at most this long; then it counts as failed with unknown outcome. Longer than the
/// 180 s for which `object_store` itself tries.
const TRY_SECONDS_MAX: u64 = 240;

/// A store in a folder of this machine, created if missing. What it acknowledges is synced to disk.
pub fn local(folder: &FilePath) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    Ok(Arc::new(SyncedFiles::open(folder)?))
}

/// A small JSON object of a fixed shape, written create-only. It has a field `version` that equals `VERSION`.
pub trait Record: Serialize + DeserializeOwned + Send + Sync {
    /// Format number that this code reads and writes.
    const VERSION: u32;

    /// Random id of the attempt that wrote it.
    fn attempt(&self) -> Uuid;
}

/// Records of version 1 whose attempt stands in a field of that name.
macro_rules! records {
    ($($record:ty),*) => {$(
        impl $crate::store::Record for $record {
            const VERSION: u32 = 1;

            fn attempt(&self) -> uuid::Uuid {
                self.attempt
            }
        }
    )*};
}
pub(crate) use records;

/// Outcome of a create-only put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created<T> {
    /// The object is ours.
    Mine,
    /// Somebody else's object stands there: this one.
    Theirs(T),
}

/// What storage can answer instead.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer or not well; a put *may* have happened.
    #[error("the object store failed while {attempt}")]
    Failed {
        /// What was attempted.
        attempt: String,
        /// Cause.
        source: object_store::Error,
    },
    /// Nothing is there.
    #[error("{path} is missing")]
    Missing {
        /// Path.
        path: String,
    },
    /// What is there is not what was written, or of a version that this program does not know.
    #[error("cannot read {path}: {reason}")]
    Damaged {
        /// Path.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    fn failed(attempt: impl Into<String>, source: object_store::Error) -> Self {
        Self::Failed {
            attempt: attempt.into(),
            source,
        }
    }
}

/// Creates `path` with `record`, or says whose record stands there. Nothing is ever overwritten.
///
/// | store answers | read back | outcome |
/// | --- | --- | --- |
/// | stored | | `Mine` |
/// | exists | my attempt | `Mine` (an earlier reply was lost) |
/// | exists | another attempt | `Theirs` |
/// | exists | nothing there | tried again, a bounded number of times |
/// | failed, outcome unknown | | tried again, a bounded number of times |
/// | refused (rights, path) | | error at once |
pub async fn create_only<T: Record>(
    store: &dyn ObjectStore,
    path: &Path,
    record: &T,
) -> Result<Created<T>, StoreError> {
    let json = serde_json::to_vec(record).map_err(|error| StoreError::Damaged {
        path: path.to_string(),
        reason: format!("the record does not encode: {error}"),
    })?;
    let json = Bytes::from(json);
    let mut failed = 0;
    loop {
        let error = match put_if_absent(store, path, json.clone()).await {
            Ok(()) => return Ok(Created::Mine),
            Err(error) => error,
        };
        if stands_there(&error) {
            match read_json::<T>(store, path).await {
                Ok(found) if found.attempt() == record.attempt() => return Ok(Created::Mine),
                Ok(found) => return Ok(Created::Theirs(found)),
                Err(StoreError::Missing { .. }) => {}
                Err(StoreError::Failed { source, .. }) if outcome_unknown(&source) => {}
                Err(error) => return Err(error),
            }
        } else if !outcome_unknown(&error) {
            return Err(StoreError::failed(format!("creating {path}"), error));
        }
        failed += 1;
        tracing::warn!(%path, failed, error = &error as &dyn std::error::Error, "creating an object failed");
        if failed == PUT_TRIES {
            return Err(StoreError::failed(
                format!("creating {path} for the {failed}th time"),
                error,
            ));
        }
        back_off(failed).await;
    }
}

/// What lies in `folder`, and in the folders in it.
pub async fn list(store: &dyn ObjectStore, folder: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
    let listed = store.list(Some(folder)).try_collect().await;
    listed.map_err(|source| listing_failed(folder, source))
}

pub(crate) fn listing_failed(folder: &Path, source: object_store::Error) -> StoreError {
    StoreError::failed(format!("listing {folder}"), source)
}

/// Stores `bytes` at `path`, a name that carries an attempt id of the caller's own: so what already stands there is
/// an earlier try of the same bytes, and is left alone.
pub async fn put_own(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
    let mut failed = 0;
    loop {
        let error = match put_if_absent(store, path, bytes.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // Two writers that meet can both be told "exists" though neither was stored: only what is there counts.
        if stands_there(&error) && store.head(path).await.is_ok_and(|meta| meta.size == bytes.len() as u64) {
            return Ok(());
        }
        failed += 1;
        tracing::warn!(%path, failed, error = &error as &dyn std::error::Error, "storing an object failed");
        if failed == PUT_TRIES || !(stands_there(&error) || outcome_unknown(&error)) {
            return Err(StoreError::failed(format!("storing {path}"), error));
        }
        back_off(failed).await;
    }
}

/// Reads the record at `path`. Another `version` than `T::VERSION` is refused.
pub async fn read_json<T: Record>(store: &dyn ObjectStore, path: &Path) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }

    let bytes = get(store, path).await?;
    let damaged = |reason: String| StoreError::Damaged {
        path: path.to_string(),
        reason,
    };
    let Versioned { version } =
        serde_json::from_slice(&bytes).map_err(|error| damaged(format!("it is not a record: {error}")))?;
    if version != T::VERSION {
        return Err(damaged(format!(
            "it has format version {version}, this program knows version {}: use the program that wrote it, or a newer one",
            T::VERSION
        )));
    }
    serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
}

/// Reads a whole file and checks its size and CRC-32 before handing it out.
pub async fn read_file(store: &dyn ObjectStore, path: &Path, bytes: u64, crc32: u32) -> Result<Bytes, StoreError> {
    let read = get(store, path).await?;
    let damaged = |reason: String| {
        Err(StoreError::Damaged {
            path: path.to_string(),
            reason,
        })
    };
    if read.len() as u64 != bytes {
        return damaged(format!("it has {} bytes instead of {bytes}", read.len()));
    }
    let checksum = crc32fast::hash(&read);
    if checksum != crc32 {
        return damaged(format!("its CRC-32 is {checksum:08x} instead of {crc32:08x}"));
    }
    Ok(read)
}

async fn get(store: &dyn ObjectStore, path: &Path) -> Result<Bytes, StoreError> {
    let read = async { store.get(path).await?.bytes().await };
    match within_bound(read).await {
        Ok(bytes) => Ok(bytes),
        Err(object_store::Error::NotFound { .. }) => Err(StoreError::Missing { path: path.to_string() }),
        Err(error) => Err(StoreError::failed(format!("reading {path}"), error)),
    }
}

async fn put_if_absent(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<(), object_store::Error> {
    let options = PutOptions::from(PutMode::Create);
    within_bound(store.put_opts(path, PutPayload::from_bytes(bytes), options))
        .await
        .map(|_| ())
}

async fn within_bound<T>(call: impl Future<Output = Result<T, object_store::Error>>) -> Result<T, object_store::Error> {
    match tokio::time::timeout(Duration::from_secs(TRY_SECONDS_MAX), call).await {
        Ok(outcome) => outcome,
        Err(elapsed) => Err(object_store::Error::Generic {
            store: "foldline",
            source: Box::new(elapsed),
        }),
    }
}

async fn back_off(failed: u32) {
    tokio::time::sleep(Duration::from_millis(FIRST_RETRY_MS << failed.min(10))).await;
}

/// Whether the store says that something stands at the path. (Some stores call a failed If-None-Match a failed
/// precondition.)
fn stands_there(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
    )
}

/// Whether a call that failed like this may have happened all the same, and another try may help.
pub(crate) fn outcome_unknown(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::Generic { .. } | object_store::Error::JoinError { .. }
    )
}
