//! Generations: one published set of batch views, all computed at one cut, with the cut in the same write.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldline_event_log::{Clock, Cut};
use foldline_sql::{Fold, Partial};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Number of a generation, from 1. The highest that exists is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationNumber(pub u64);

/// A published generation. Written create-only; never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Format of this record: 1. Another number is refused.
    pub version: u32,
    /// Its number.
    pub number: GenerationNumber,
    /// Random id of the attempt that wrote it.
    pub attempt: Uuid,
    /// Where batch ends.
    pub cut: Cut,
    /// Batch views by view id.
    pub views: BTreeMap<String, BatchView>,
    /// The generation that it started from, or rolled back to.
    pub based_on: Option<GenerationNumber>,
    /// How it came to be: `incremental`, `full` or `rollback`.
    pub kind: crate::RunKind,
    /// When it was published, milliseconds since 1970.
    pub published_ms: i64,
}

/// The batch half of a view in a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchView {
    /// Name of the view when it was computed.
    pub name: String,
    /// One partial per event date that has rows.
    pub dates: Vec<DatePartial>,
}

/// A partial of one event date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatePartial {
    /// UTC date of the event times.
    pub date: chrono::NaiveDate,
    /// Path in the store.
    pub path: String,
    /// Keys.
    pub keys: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 of the file.
    pub crc32: u32,
}

/// What generations can answer instead.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The store did not answer or not well.
    #[error("the object store failed while {attempt}")]
    Store {
        /// What was attempted.
        attempt: String,
        /// Cause.
        source: object_store::Error,
    },
    /// A record or partial that does not read as written.
    #[error("cannot read {path}: {reason}")]
    Damaged {
        /// Path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// No such generation.
    #[error("generation {} does not exist; `foldline generations list` shows those that do", .0 .0)]
    Unknown(GenerationNumber),
    /// Another run published this number first.
    #[error("lost generation {} to another run (attempt {winner})", .number.0)]
    Lost {
        /// Number.
        number: GenerationNumber,
        /// The attempt that won.
        winner: Uuid,
    },
    /// A cut below that of the generation it is based on.
    #[error("refused to publish generation {}: {reason}", .number.0)]
    Behind {
        /// Number.
        number: GenerationNumber,
        /// Both ends, named.
        reason: String,
    },
}

/// The published generations in a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Generations {
    _store: Arc<dyn ObjectStore>,
}

impl Generations {
    /// The generations under `generations/` of `store`, their partials under `views/`. A superseded generation stays
    /// readable for `longest_query_ms`; the last `keep` and pinned ones stay stored.
    pub fn new(_store: Arc<dyn ObjectStore>, _clock: Arc<dyn Clock>, _longest_query_ms: i64, _keep: usize) -> Self {
        todo!()
    }

    /// Looks for newer generations in the store; true if there are any. [`Generations::readable`] shows them then.
    pub async fn refresh(&self) -> Result<bool, GenerationError> {
        todo!()
    }

    /// Readable generations, newest first: the current one, and those superseded less than the longest query time
    /// ago. Empty before the first publication. Does no IO.
    pub fn readable(&self) -> Vec<Arc<Generation>> {
        todo!()
    }

    /// The current generation, if any. Does no IO.
    pub fn current(&self) -> Option<Arc<Generation>> {
        todo!()
    }

    /// A stored generation by number.
    pub async fn get(&self, _number: GenerationNumber) -> Result<Arc<Generation>, GenerationError> {
        todo!()
    }

    /// Every stored generation, newest first, with whether it is pinned.
    pub async fn list(&self) -> Result<Vec<(Arc<Generation>, bool)>, GenerationError> {
        todo!()
    }

    /// The partials of a batch view, checked against size and checksum, shared between callers and kept in memory
    /// while they are asked for. `None` where the generation has no such view (it is still `building`).
    pub async fn partials(
        &self,
        _generation: &Generation,
        _view_id: &str,
        _fold: &Fold,
    ) -> Result<Option<Arc<Vec<(chrono::NaiveDate, Partial)>>>, GenerationError> {
        todo!()
    }

    /// Publishes n+1 that names the files of `to`, and so lowers the cut.
    pub async fn rollback(&self, _to: GenerationNumber) -> Result<Arc<Generation>, GenerationError> {
        todo!()
    }

    /// Pins a generation: it is kept until it is unpinned.
    pub async fn pin(&self, _number: GenerationNumber) -> Result<(), GenerationError> {
        todo!()
    }

    /// Takes a pin away.
    pub async fn unpin(&self, _number: GenerationNumber) -> Result<(), GenerationError> {
        todo!()
    }
}
