//! Late and duplicate rows (design D4): functions of the log, judged per partition in offset order.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Offset, RecordTime, TopicPartition};

/// Where the marks of a partition stand after the records below an offset. With the keys of the duplicate horizon
/// ([`Horizon`]) this is all that judging the next record needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkState {
    /// Largest timestamp so far; `None` before the first record.
    pub record_time: Option<RecordTime>,
    /// Largest clamped event time of the rows so far, microseconds since 1970; malformed records do not count.
    pub max_event_time: Option<i64>,
}

/// Gives back the keys of the duplicate horizon at an offset, from wherever rows are kept (the archive).
#[async_trait]
pub trait Horizon: Send + Sync + std::fmt::Debug {
    /// The rows of `partition` below `until` that were kept (not malformed, not duplicate) and whose record time is at
    /// least `since`, in offset order: the columns `columns`, then `_record_time_max` (Int64: the record time, that is
    /// the running maximum, in milliseconds).
    async fn kept_rows(
        &self,
        partition: &TopicPartition,
        until: Offset,
        since: RecordTime,
        columns: &[String],
    ) -> Result<Vec<RecordBatch>, Box<dyn std::error::Error + Send + Sync>>;
}
