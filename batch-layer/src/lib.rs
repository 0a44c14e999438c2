//! The batch half: archive the log, recompute views from the archive, publish generations.
//!
//! In the order of the data's way: [`archiver`] reads the log and rolls files, [`archive`] holds files and the commit
//! records that alone say what is in it, [`recompute`] folds archived rows into partials per event date,
//! [`generations`] publishes them with their cut in one create-only write, [`garbage`] removes what nobody can still
//! name, [`scheduler`] decides when, [`warehouse`] loads finished rows where analysts read them. The crate knows nothing of the speed layer.

pub mod archive;
pub mod archiver;
pub mod garbage;
pub mod generations;
pub mod recompute;
pub mod scheduler;
pub mod store;
pub mod warehouse;

pub use archive::{Archive, ArchiveError, ArchivedFile, AuditFinding, AuditReport, Boundary, Commit, PartitionAudit};
pub use archiver::{Archiver, ArchiverCounters, ArchiverHandle, ArchiverPosition, ArchiverSettings, RollReason};
pub use garbage::{GarbageError, GarbageReport};
pub use generations::{BatchView, DatePartial, Draft, Generation, GenerationError, GenerationNumber, Generations};
#[cfg(feature = "ballista")]
pub use recompute::ballista;
pub use recompute::{Recompute, RecomputeError, RunKind, RunReport};
pub use scheduler::{Alarm, Ledger, LedgerError, Outcome, Run, RunState, Schedule, ScheduleError, Scheduler, Started};
