//! Names and types in BigQuery.
//!
//! | in a warehouse | in BigQuery |
//! | --- | --- |
//! | BOOLEAN, INT64, FLOAT64, TEXT, BYTEA, DATE, TIME | BOOL, INT64, FLOAT64, STRING, BYTES, DATE, TIME |
//! | DECIMAL(p, s), s up to 9 and p - s up to 29 | NUMERIC; any other BIGNUMERIC |
//! | TIMESTAMP | DATETIME |
//! | TIMESTAMPTZ | TIMESTAMP |
//! | struct | RECORD |
//! | array | RECORD of a repeated `list` of `element`, as BigQuery reads Parquet by itself: its own arrays know no NULL, neither in them nor for them, and no arrays of arrays |
//!
//! A name that BigQuery does not take gets underscores for what it may not have: <https://cloud.google.com/bigquery/docs/schemas>.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::warehouse::{Slice, Table};

/// Beginnings of names that BigQuery keeps for itself.
const RESERVED: [&str; 7] = [
    "_table_",
    "_file_",
    "_partition",
    "_row_timestamp",
    "__root__",
    "_colidentifier",
    "_change_",
];
/// Digits after and before the point that NUMERIC has.
const NUMERIC_SCALE: i8 = 9;
const NUMERIC_WHOLE: i16 = 29;

/// The id of a table: its name, or where that is none, one that is told apart by a hash.
pub(super) fn table_id(name: &str) -> String {
    let fit = plain(name);
    if fit == name && name.len() <= 200 {
        return fit;
    }
    let hash = Sha256::digest(name.as_bytes());
    let hash: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let short: String = fit.chars().take(180).collect();
    format!("{short}_{hash}")
}

/// What follows the `$` of a partition decorator.
pub(super) fn slice_suffix(slice: Slice) -> Option<String> {
    match slice {
        Slice::Whole => None,
        Slice::Day(day) => Some(day.format("%Y%m%d").to_string()),
    }
}

/// The id of what holds a slice.
pub(super) fn slice_id(table: &str, slice: Slice) -> String {
    let id = table_id(table);
    match slice_suffix(slice) {
        None => id,
        Some(day) => format!("{id}${day}"),
    }
}

fn plain(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() || letter == '_' {
                letter
            } else {
                '_'
            }
        })
        .collect();
    match plain.chars().next() {
        Some(first) if first.is_ascii_digit() => format!("_{plain}"),
        None => "_".to_owned(),
        Some(_) => plain,
    }
}

/// The columns of a table with their names there: without case they are told apart, too.
pub(super) fn columns(table: &Table) -> Vec<(String, String)> {
    let mut used = BTreeSet::new();
    let names = table.schema.fields().iter().map(|field| field.name().clone());
    names
        .map(|name| {
            let id = unused(&name, &mut used);
            (name, id)
        })
        .collect()
}

fn unused(name: &str, used: &mut BTreeSet<String>) -> String {
    let mut plain: String = plain(name).chars().take(290).collect();
    if RESERVED
        .iter()
        .any(|reserved| plain.to_lowercase().starts_with(reserved))
    {
        plain.insert(0, 'x');
    }
    let mut id = plain.clone();
    let mut number = 2;
    while !used.insert(id.to_lowercase()) {
        id = format!("{plain}_{number}");
        number += 1;
    }
    id
}

/// The rows under the names of their columns there.
pub(super) fn renamed(table: &Table, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let ids = columns(table);
    let fields = table.schema.fields().iter().zip(ids);
    let fields: Vec<Field> = fields
        .map(|(field, (_, id))| field.as_ref().clone().with_name(id))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), rows.columns().to_vec())
}

/// The columns as BigQuery writes them.
pub(super) fn fields(table: &Table) -> Vec<Value> {
    let ids = columns(table);
    let fields = table.schema.fields().iter().zip(ids);
    fields
        .map(|(field, (_, id))| described(&id, field.data_type(), "NULLABLE"))
        .collect()
}

fn described(name: &str, data_type: &DataType, mode: &str) -> Value {
    let plain = |kind: &str| json!({ "name": name, "type": kind, "mode": mode });
    let record = |fields: Vec<Value>| json!({ "name": name, "type": "RECORD", "mode": mode, "fields": fields });
    match data_type {
        DataType::Boolean => plain("BOOLEAN"),
        DataType::Int64 => plain("INTEGER"),
        DataType::Float64 => plain("FLOAT"),
        DataType::Binary => plain("BYTES"),
        DataType::Date32 => plain("DATE"),
        DataType::Time64(_) => plain("TIME"),
        DataType::Timestamp(_, None) => plain("DATETIME"),
        DataType::Timestamp(_, Some(_)) => plain("TIMESTAMP"),
        DataType::Decimal128(digits, scale)
            if *scale <= NUMERIC_SCALE && i16::from(*digits) - i16::from(*scale) <= NUMERIC_WHOLE =>
        {
            plain("NUMERIC")
        }
        DataType::Decimal128(..) => plain("BIGNUMERIC"),
        DataType::Struct(fields) => record(
            fields
                .iter()
                .map(|field| described(field.name(), field.data_type(), "NULLABLE"))
                .collect(),
        ),
        DataType::List(item) => {
            let element = described("element", item.data_type(), "NULLABLE");
            let list = json!({ "name": "list", "type": "RECORD", "mode": "REPEATED", "fields": [element] });
            record(vec![list])
        }
        // Every other type has become one of these, or text.
        _ => plain("STRING"),
    }
}

/// How the table that was found differs in what cannot be changed; `None`: it does not.
pub(super) fn differs(found: &Value, table: &Table) -> Option<String> {
    let there = names_and_types(&found["schema"]["fields"]);
    let wanted = names_and_types(&Value::Array(fields(table)));
    if there != wanted {
        return Some(format!("it has columns {}", there.join(", ")));
    }
    let by = found["timePartitioning"]["field"].as_str();
    let ids = columns(table);
    let day = table
        .day
        .as_ref()
        .and_then(|day| ids.iter().find(|(name, _)| name == day));
    let day = day.map(|(_, id)| id.as_str());
    (by != day).then(|| format!("it is divided by {}", by.unwrap_or("nothing")))
}

fn names_and_types(fields: &Value) -> Vec<String> {
    let none = Vec::new();
    let fields = fields.as_array().unwrap_or(&none);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    fields
        .iter()
        .map(|field| {
            let kind = match text(&field["type"]).as_str() {
                "BOOL" => "BOOLEAN".to_owned(),
                "INT64" => "INTEGER".to_owned(),
                "FLOAT64" => "FLOAT".to_owned(),
                "STRUCT" => "RECORD".to_owned(),
                other => other.to_owned(),
            };
            let parts = names_and_types(&field["fields"]);
            match parts.is_empty() {
                true => format!("{} {kind}", text(&field["name"])),
                false => format!("{} {kind}({})", text(&field["name"]), parts.join(", ")),
            }
        })
        .collect()
}

/// Whether nothing has to be brought up to date.
pub(super) fn is_described(found: &Value, described: &Value) -> bool {
    let expires = |table: &Value| table["timePartitioning"]["expirationMs"].as_str().map(str::to_owned);
    found["description"] == described["description"]
        && found["clustering"]["fields"] == described["clustering"]["fields"]
        && expires(found) == expires(described)
}
