//! Columns declared after a file was written, read out of the bytes as they arrived.

use arrow::array::{ArrayRef, BinaryArray};
use arrow::datatypes::FieldRef;
use foldline_sql::Stream;

/// Decodes the columns `fields` of `stream` out of `raw`, one value per row.
pub(super) fn decode(
    stream: &Stream,
    fields: &[&FieldRef],
    _raw: &BinaryArray,
) -> Result<Vec<(String, ArrayRef)>, String> {
    Err(format!(
        "column \"{}\" of \"{}\" is not in it",
        fields[0].name(),
        stream.name
    ))
}
