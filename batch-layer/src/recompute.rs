//! Archive to partials per event date to a generation (design D6).

use std::sync::Arc;

use foldline_event_log::{Clock, Tick, Topic};
use foldline_sql::Catalog;
use serde::{Deserialize, Serialize};

use crate::{Archive, ArchiveError, Generation, GenerationError, Generations};

/// How a generation came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Rows since the last cut, merged onto its partials.
    Incremental,
    /// Every row, from raw.
    Full,
    /// Names the files of an older generation.
    Rollback,
}

/// What a run did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunReport {
    /// The generation that it published.
    pub generation: Arc<Generation>,
    /// Rows that it folded.
    pub rows: u64,
    /// Files that it read.
    pub files: u64,
    /// Milliseconds that it took.
    pub elapsed_ms: u64,
}

/// What a run can run into.
#[derive(Debug, thiserror::Error)]
pub enum RecomputeError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Generations.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A fold.
    #[error(transparent)]
    Fold(#[from] foldline_sql::FoldError),
}

/// Recomputes the views of a catalog.
#[derive(Debug, Clone)]
pub struct Recompute {}

impl Recompute {
    /// Over `archive`, publishing to `generations`.
    pub fn new(_catalog: Arc<Catalog>, _archive: Archive, _generations: Generations, _clock: Arc<dyn Clock>) -> Self {
        todo!()
    }

    /// One run at `tick`. `topics`: the topics of the catalog's streams as the log knows them, with how far each
    /// partition's archive is complete (from the archiver). `progress` is called with (rows done, rows to do).
    pub async fn run(
        &self,
        _kind: RunKind,
        _tick: Tick,
        _topics: &[(Topic, Vec<foldline_event_log::RecordTime>)],
        _progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<RunReport, RecomputeError> {
        todo!()
    }
}
