//! Rows as `tabledata.list` gives them, `{"f": [{"v": "1"}, ...]}`, in the columns of a table. Numbers and times are text
//! there, times as microseconds where that is asked for.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Int64Array, ListArray, RecordBatch, RecordBatchOptions, StringArray, StructArray,
    new_empty_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Fields, SchemaRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// `rows` as a batch, or what does not read.
pub(super) fn batch(rows: &[Value], schema: &SchemaRef) -> Result<RecordBatch, String> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (at, field) in schema.fields().iter().enumerate() {
        let cells: Vec<&Value> = rows.iter().map(|row| &row["f"][at]["v"]).collect();
        let column = column(&cells, field.data_type());
        columns.push(column.map_err(|reason| format!("column \"{}\": {reason}", field.name()))?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|error| error.to_string())
}

fn column(cells: &[&Value], data_type: &DataType) -> Result<ArrayRef, String> {
    match data_type {
        DataType::Struct(fields) => parts(cells, fields),
        DataType::List(item) => {
            let mut items: Vec<&Value> = Vec::new();
            let mut lengths = Vec::with_capacity(cells.len());
            for cell in cells {
                // The record, in it the repeated `list`, in that records of one `element`.
                let list = cell["f"][0]["v"].as_array();
                let before = items.len();
                items.extend(list.into_iter().flatten().map(|entry| &entry["v"]["f"][0]["v"]));
                lengths.push(items.len() - before);
            }
            let nulls = NullBuffer::from_iter(cells.iter().map(|cell| !cell.is_null()));
            let values = match items.is_empty() {
                true => new_empty_array(item.data_type()),
                false => column(&items, item.data_type())?,
            };
            let offsets = OffsetBuffer::from_lengths(lengths);
            let list = ListArray::try_new(Arc::clone(item), offsets, values, Some(nulls));
            Ok(Arc::new(list.map_err(|error| error.to_string())?))
        }
        DataType::Binary => {
            let decoded = cells.iter().map(|cell| match cell.as_str() {
                None => Ok(None),
                Some(text) => STANDARD.decode(text).map(Some).map_err(|error| error.to_string()),
            });
            let decoded = decoded.collect::<Result<Vec<_>, String>>()?;
            Ok(Arc::new(BinaryArray::from_iter(decoded)))
        }
        DataType::Timestamp(_, Some(_)) => {
            let micros = cells.iter().map(|cell| match cell.as_str() {
                None => Ok(None),
                Some(text) => text
                    .parse::<i64>()
                    .map(Some)
                    .map_err(|error| format!("\"{text}\": {error}")),
            });
            let micros: Int64Array = micros.collect::<Result<Vec<_>, String>>()?.into();
            cast(&(Arc::new(micros) as ArrayRef), data_type)
        }
        _ => {
            let text = cells.iter().map(|cell| match cell {
                Value::Null => Ok(None),
                Value::String(text) => Ok(Some(text.as_str())),
                other => Err(format!("{other} is no text")),
            });
            let text: ArrayRef = Arc::new(StringArray::from(text.collect::<Result<Vec<_>, String>>()?));
            cast(&text, data_type)
        }
    }
}

fn parts(cells: &[&Value], fields: &Fields) -> Result<ArrayRef, String> {
    let columns = fields.iter().enumerate().map(|(at, field)| {
        let cells: Vec<&Value> = cells.iter().map(|cell| &cell["f"][at]["v"]).collect();
        column(&cells, field.data_type())
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let nulls = NullBuffer::from_iter(cells.iter().map(|cell| !cell.is_null()));
    let parts = StructArray::try_new(fields.clone(), columns, Some(nulls));
    Ok(Arc::new(parts.map_err(|error| error.to_string())?))
}

fn cast(values: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let cast = cast_with_options(values, data_type, &options).map_err(|error| error.to_string())?;
    match cast.null_count() == values.null_count() {
        true => Ok(cast),
        false => Err("a value is lost".to_owned()),
    }
}
