//! SQL text to catalog to fold: the one place where the meaning of a view is written.
//!
//! The crate does no IO. It turns the text of `CREATE STREAM` and `CREATE VIEW` into a [`Catalog`], compiles each view
//! into a [`Fold`] on DataFusion's two-phase aggregation, and refuses, with a position, what does not fold.
//! It does not know what a log, an offset or a generation is.

mod above;
mod aggregates;
mod arithmetic;
pub mod bounds;
mod calendar;
mod catalog;
mod check;
mod compile;
pub mod explain;
mod fold;
mod parse;
mod partial;
mod percentile;
mod point;
mod refusal;
mod regroup;
mod session;
mod split;
mod sums;
mod total_order;
mod windows;

pub use aggregates::Growth;
pub use catalog::{Catalog, Column, Derived, EventTimeFormat, SourceFile, Stream, UniqueKey, View, ViewKind};
pub use check::MULTIPLYING_FUNCTIONS;
pub use fold::{Class, FOLD_FORMAT, Fold, FoldError};
pub use parse::duration_ms;
pub use partial::{KeyLookup, KeyRange, KeySpan, KeyedRows, Partial, PartialIdentity, own_bytes};
pub use point::{FixedColumn, PointPlan};
pub use refusal::Refusal;
pub use session::{execution_config, session_context};

/// Names of the system columns that every stream has beside its declared ones.
pub mod system_columns {
    /// Topic of the record, TEXT.
    pub const TOPIC: &str = "_topic";
    /// Partition of the record, INT.
    pub const PARTITION: &str = "_partition";
    /// Offset of the record in its partition, BIGINT.
    pub const OFFSET: &str = "_offset";
    /// The raw timestamp of the record, TIMESTAMPTZ (microseconds, UTC).
    pub const RECORD_TIME: &str = "_record_time";
    /// Key of the record, BYTEA, NULL when it has none.
    pub const KEY: &str = "_key";
    /// Whether the row is late (design D4), BOOLEAN, never NULL.
    pub const LATE: &str = "_late";
    /// Whether the row repeats a unique key within its horizon (design D4), BOOLEAN, never NULL.
    pub const DUPLICATE: &str = "_duplicate";
}
