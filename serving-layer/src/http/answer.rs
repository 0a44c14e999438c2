//! Rows in the format that `Accept` asks for.
//!
//! Integers of 64 bits and decimals are written with every digit, times in RFC 3339 in UTC, dates as `2024-01-31`,
//! bytes as hexadecimal text, doubles that are no number as `null`. Formats other than JSON have no place for the
//! coverage: it stands in the header `Foldline-Coverage`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow_json::WriterBuilder;
use arrow_json::writer::{JsonArray, JsonFormat, LineDelimited};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::ApiError;
use crate::coverage::{AnswerCoverage, type_name};
use crate::serving::Answer;

/// Timestamps without a zone are UTC.
const TIMESTAMP_FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.fZ";
const COVERAGE_HEADER: HeaderName = HeaderName::from_static("foldline-coverage");

/// A format of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/x-ndjson`
    NdJson,
    /// `text/csv`
    Csv,
    /// `application/vnd.apache.arrow.stream`
    ArrowStream,
    /// `application/vnd.apache.parquet`
    Parquet,
}

const FORMATS: &[(Format, &str)] = &[
    (Format::Json, "application/json"),
    (Format::NdJson, "application/x-ndjson"),
    (Format::Csv, "text/csv"),
    (Format::ArrowStream, "application/vnd.apache.arrow.stream"),
    (Format::Parquet, "application/vnd.apache.parquet"),
];

impl Format {
    fn media_type(self) -> &'static str {
        let found = FORMATS.iter().find(|(format, _)| *format == self);
        found.expect("every format is in the list").1
    }

    /// The format that a request accepts: the best by `q`, then the first named. Without `Accept`, JSON.
    pub fn accepted(headers: &HeaderMap) -> Result<Self, ApiError> {
        let values = headers.get_all(header::ACCEPT).iter();
        let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        let accepted = values.join(",");
        if accepted.trim().is_empty() {
            return Ok(Self::Json);
        }
        let mut best: Option<(f32, Self)> = None;
        for range in accepted.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts
                .find_map(|part| part.strip_prefix("q="))
                .and_then(|q| q.parse().ok());
            let quality: f32 = quality.unwrap_or(1.0);
            let Some(format) = Self::of_media_type(&media) else {
                continue;
            };
            if quality > 0.0 && best.is_none_or(|(other, _)| quality > other) {
                best = Some((quality, format));
            }
        }
        let known: Vec<&str> = FORMATS.iter().map(|(_, media)| *media).collect();
        best.map(|(_, format)| format)
            .ok_or_else(|| ApiError::not_acceptable(&accepted, &known.join(", ")))
    }

    fn of_media_type(media: &str) -> Option<Self> {
        match media {
            "*/*" | "application/*" => Some(Self::Json),
            "text/*" => Some(Self::Csv),
            "application/ndjson" | "application/jsonl" => Some(Self::NdJson),
            "application/parquet" => Some(Self::Parquet),
            _ => FORMATS
                .iter()
                .find(|(_, known)| *known == media)
                .map(|(format, _)| *format),
        }
    }
}

/// A column of an answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ColumnMeta {
    /// Name.
    pub name: String,
    /// SQL type.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// How an answer was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Statistics {
    /// Milliseconds that it took.
    pub elapsed_ms: f64,
}

/// An answer in JSON.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AnswerDocument {
    /// Columns, in order.
    pub meta: Vec<ColumnMeta>,
    /// Rows, as objects.
    #[schema(value_type = Vec<Object>)]
    pub data: Box<serde_json::value::RawValue>,
    /// Number of rows.
    pub rows: usize,
    /// How it was made.
    pub statistics: Statistics,
    /// What it covers.
    pub coverage: AnswerCoverage,
}

/// Writes `answer` in `format`.
pub fn write(answer: &Answer, format: Format) -> Result<Response, ArrowError> {
    let body = match format {
        Format::Json => json(answer)?,
        Format::NdJson => json_rows::<LineDelimited>(&answer.batches)?,
        Format::Csv => csv(answer)?,
        Format::ArrowStream => arrow_stream(answer)?,
        Format::Parquet => parquet(answer)?,
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if format != Format::Json
        && let Ok(coverage) = serde_json::to_string(&answer.coverage)
        && let Ok(coverage) = HeaderValue::from_str(&coverage)
    {
        headers.insert(COVERAGE_HEADER, coverage);
    }
    Ok(response)
}

/// `answer` as the bytes of an [`AnswerDocument`].
pub fn json(answer: &Answer) -> Result<Vec<u8>, ArrowError> {
    let fields = answer.schema.fields().iter();
    let meta: Vec<ColumnMeta> = fields
        .map(|field| ColumnMeta {
            name: field.name().clone(),
            data_type: type_name(field.data_type()),
        })
        .collect();
    let statistics = Statistics {
        elapsed_ms: answer.elapsed.as_micros() as f64 / 1000.0,
    };
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"{\"meta\":");
    bytes.extend(part(&meta)?);
    bytes.extend_from_slice(b",\"data\":");
    if answer.rows() == 0 {
        bytes.extend_from_slice(b"[]");
    } else {
        bytes.extend(json_rows::<JsonArray>(&answer.batches)?);
    }
    bytes.extend_from_slice(format!(",\"rows\":{},\"statistics\":", answer.rows()).as_bytes());
    bytes.extend(part(&statistics)?);
    bytes.extend_from_slice(b",\"coverage\":");
    bytes.extend(part(&answer.coverage)?);
    bytes.push(b'}');
    Ok(bytes)
}

fn part(value: &impl Serialize) -> Result<Vec<u8>, ArrowError> {
    serde_json::to_vec(value).map_err(|error| ArrowError::JsonError(error.to_string()))
}

/// The rows of `batches` as JSON objects: an array, or one to a line.
pub fn json_rows<F: JsonFormat>(batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_timestamp_format(TIMESTAMP_FORMAT.to_owned())
        .build::<_, F>(Vec::new());
    for batch in batches {
        writer.write(&in_utc(batch)?)?;
    }
    writer.finish()?;
    Ok(writer.into_inner())
}

/// Times of other zones as the same instants in UTC.
fn in_utc(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    map_columns(batch, |column| match column.data_type() {
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() != "UTC" => {
            cast(column, &DataType::Timestamp(*unit, Some("UTC".into()))).map(Some)
        }
        _ => Ok(None),
    })
}

/// `batch` with the columns that `map` gives something for replaced.
fn map_columns(
    batch: &RecordBatch,
    map: impl Fn(&ArrayRef) -> Result<Option<ArrayRef>, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let mapped = map(column)?.unwrap_or_else(|| Arc::clone(column));
        fields.push(Field::new(field.name(), mapped.data_type().clone(), true));
        columns.push(mapped);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

fn csv(answer: &Answer) -> Result<Vec<u8>, ArrowError> {
    let mut writer = arrow::csv::WriterBuilder::new()
        .with_header(true)
        .with_timestamp_format(TIMESTAMP_FORMAT.to_owned())
        .build(Vec::new());
    let empty = RecordBatch::new_empty(Arc::clone(&answer.schema));
    let batches = if answer.batches.is_empty() {
        std::slice::from_ref(&empty)
    } else {
        &answer.batches[..]
    };
    for batch in batches {
        writer.write(&map_columns(&in_utc(batch)?, as_text)?)?;
    }
    Ok(writer.into_inner())
}

/// Lists and structs as JSON text, and times as CSV has no type for them.
fn as_text(column: &ArrayRef) -> Result<Option<ArrayRef>, ArrowError> {
    match column.data_type() {
        DataType::Timestamp(_, Some(_)) => cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None)).map(Some),
        data_type if data_type.is_nested() => {
            let field = Field::new("v", data_type.clone(), true);
            let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::clone(column)])?;
            let lines = json_rows::<LineDelimited>(&[batch])?;
            let lines = String::from_utf8(lines).map_err(|error| ArrowError::CsvError(error.to_string()))?;
            let mut texts = StringBuilder::new();
            for (row, line) in lines.lines().enumerate() {
                let value = line.strip_prefix("{\"v\":").and_then(|line| line.strip_suffix('}'));
                texts.append_option(value.filter(|_| column.is_valid(row)));
            }
            Ok(Some(Arc::new(texts.finish())))
        }
        _ => Ok(None),
    }
}

fn arrow_stream(answer: &Answer) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &answer.schema)?;
    for batch in &answer.batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writer.into_inner()
}

fn parquet(answer: &Answer) -> Result<Vec<u8>, ArrowError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&answer.schema), Some(properties))?;
    for batch in &answer.batches {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?)
}
