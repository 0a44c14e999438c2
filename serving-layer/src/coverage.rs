//! What an answer contains (design D11), and how places and times are written in it.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use chrono::{DateTime, SecondsFormat, Utc};
use foldline_sql::Class;
use serde::{Deserialize, Serialize};

use crate::seam::Seam;

/// Coverage of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AnswerCoverage {
    /// Number of the generation that the batch half is of; `null` before the first one.
    pub generation: Option<u64>,
    /// Where batch ends, by `topic/partition`: next offset to read.
    pub cut: BTreeMap<String, u64>,
    /// Where the answer ends, by `topic/partition`: next offset to read.
    pub until: BTreeMap<String, u64>,
    /// Largest event time in the answer's coverage, RFC 3339, UTC.
    pub as_of: Option<String>,
    /// Seconds since the record time up to which everything is in the answer.
    pub freshness_seconds: Option<f64>,
    /// How exact the answer is.
    #[schema(value_type = String, example = "exact")]
    pub class: Class,
}

impl AnswerCoverage {
    /// What an answer over `seam` covers at `now_ms`.
    pub fn of(seam: &Seam, class: Class, now_ms: i64) -> Self {
        let mut cut = BTreeMap::new();
        let mut until = BTreeMap::new();
        for (partition, closed) in &seam.partitions {
            cut.insert(partition.to_string(), closed.cut.0);
            until.insert(partition.to_string(), closed.until.0);
        }
        Self {
            generation: seam.generation.as_ref().map(|generation| generation.number.0),
            cut,
            until,
            as_of: seam.as_of().and_then(rfc3339_micros),
            freshness_seconds: freshness_seconds(seam, now_ms),
            class,
        }
    }
}

/// Seconds from the record time up to which the stalest partition is complete until now; `None` where one partition
/// has not said.
fn freshness_seconds(seam: &Seam, now_ms: i64) -> Option<f64> {
    let mut stalest: Option<i64> = None;
    for closed in seam.partitions.values() {
        let complete_to = closed.complete_to?.0;
        stalest = Some(stalest.map_or(complete_to, |stalest| stalest.min(complete_to)));
    }
    stalest.map(|stalest| now_ms.saturating_sub(stalest).max(0) as f64 / 1000.0)
}

/// Microseconds since 1970 as RFC 3339 in UTC; `None` beyond the years that it can write.
pub fn rfc3339_micros(micros: i64) -> Option<String> {
    DateTime::<Utc>::from_timestamp_micros(micros).map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Milliseconds since 1970 as RFC 3339 in UTC; `None` beyond the years that it can write.
pub fn rfc3339_millis(millis: i64) -> Option<String> {
    DateTime::<Utc>::from_timestamp_millis(millis).map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The SQL name of a column's type, as people declare it.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "SMALLINT".to_owned(),
        DataType::Int32 | DataType::UInt16 => "INT".to_owned(),
        DataType::Int64 | DataType::UInt32 => "BIGINT".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 | DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "BYTEA".to_owned()
        }
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMPTZ".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            format!("{}[]", type_name(item.data_type()))
        }
        DataType::Struct(fields) => {
            let fields = fields.iter();
            let fields: Vec<String> = fields
                .map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
                .collect();
            format!("STRUCT({})", fields.join(", "))
        }
        DataType::Dictionary(_, values) => type_name(values),
        other => other.to_string().to_uppercase(),
    }
}
