//! Columns declared after a file was written, read out of the bytes as they arrived.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray};
use arrow::datatypes::FieldRef;
use foldline_event_log::decode::Decoder;
use foldline_sql::Stream;

/// Decodes the columns `fields` of `stream` out of `raw`, one value per row: what does not fit, or was not sent yet,
/// is NULL. Every one of these records was judged good, and later columns are nullable: so every one decodes.
pub(super) fn decode(
    stream: &Stream,
    fields: &[&FieldRef],
    raw: &BinaryArray,
) -> Result<Vec<(String, ArrayRef)>, String> {
    let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
    let mut decoder = Decoder::new(stream, &names).map_err(|error| error.to_string())?;
    let decoded = decoder.decode(raw).map_err(|error| error.to_string())?;
    if let Some((row, reason)) = decoded.malformed.first() {
        return Err(format!(
            "row {row} of a batch was archived as a good one, but its bytes are malformed: {reason}"
        ));
    }
    if decoded.rows.num_rows() != raw.len() {
        return Err(format!("{} rows decode to {}", raw.len(), decoded.rows.num_rows()));
    }
    let column = |name: &String| {
        let values = decoded.rows.column_by_name(name);
        values.ok_or_else(|| format!("column \"{name}\" was not decoded"))
    };
    names
        .iter()
        .map(|name| Ok((name.clone(), Arc::clone(column(name)?))))
        .collect()
}
