//! Bytes to columns, and which records are malformed.
//!
//! A record is malformed if it is not exactly one JSON object, if its event time, a NOT NULL column or a column of the
//! unique key is missing, null or does not fit, or if its event time is not within 1971..2200. Any other value that
//! does not fit its column becomes NULL and is counted.
//!
//! The verdict on a record never depends on its neighbours or on the columns asked for (law 4): [`scan`] checks the
//! syntax of one whole record on its own, and [`value`] turns the texts found, column by column, into arrays. (The
//! decoder of `arrow-json` reads records as one stream, where a truncated record is completed by the next one; it turns
//! 5.7 into INT 5, cuts decimals, and takes a bare number as a time, so it is not used.)
//!
//! What fits which type is said in [`value`] and [`time`].

mod number;
mod scan;
mod time;
mod value;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use chrono::{DateTime, SecondsFormat};
use foldline_sql::{Column, Stream};

use scan::{Scanner, Slots};
use time::TimeReader;
use value::ValueReader;

/// 1971-01-01, in microseconds since 1970: an event time before it is a zero or a truncated number, not a time.
const EARLIEST_US: i64 = 31_536_000_000_000;
/// 2200-01-01, in microseconds since 1970.
const LATEST_US: i64 = 7_258_118_400_000_000;
/// A reason shows this much of a value.
const SHOWN_BYTES: usize = 80;

/// Why a [`Decoder`] cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The stream has no such column.
    #[error("stream \"{stream}\" has no column \"{column}\"")]
    UnknownColumn {
        /// Stream.
        stream: String,
        /// Asked column.
        column: String,
    },
    /// The declaration of a column cannot be read from JSON.
    #[error("column \"{column}\": {reason}")]
    Column {
        /// Column.
        column: String,
        /// Why.
        reason: String,
    },
    /// Arrow refused to build the columns.
    #[error("cannot build the columns")]
    Arrow(#[from] ArrowError),
}

/// Decodes the records of a stream.
#[derive(Debug, Clone)]
pub struct Decoder {
    columns: Vec<DecodedColumn>,
    scanner: Scanner,
    schema: SchemaRef,
    event_time: Option<usize>,
}

#[derive(Debug, Clone)]
struct DecodedColumn {
    name: String,
    judges: bool,
    reader: ValueReader,
}

/// Decoded records.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The good ones: [`Decoder::schema`].
    pub rows: RecordBatch,
    /// Which record each row is.
    pub good: Vec<usize>,
    /// The malformed ones, ascending, each with the reason.
    pub malformed: Vec<(usize, String)>,
    /// Per column, the rows (not records), ascending, whose value did not fit and is NULL; only columns with any.
    pub nulled: Vec<(String, Vec<u32>)>,
    /// Event time of each row, microseconds since 1970; `None` if the stream declares none.
    pub event_times: Option<Vec<i64>>,
}

impl Decoder {
    /// A decoder of `columns` and the judging columns of `stream`.
    pub fn new(stream: &Stream, columns: &[String]) -> Result<Self, DecodeError> {
        let judging = stream.judging_columns();
        if let Some(unknown) = columns.iter().find(|name| !declares(stream, name)) {
            return Err(DecodeError::UnknownColumn {
                stream: stream.name.clone(),
                column: unknown.clone(),
            });
        }
        let wanted = |column: &&Column| columns.contains(&column.name) || judging.contains(&column.name.as_str());
        let mut decoded = Vec::new();
        let mut fields = Vec::new();
        for column in stream.columns.iter().filter(wanted) {
            let reader = reader_of(stream, column).map_err(|reason| DecodeError::Column {
                column: column.name.clone(),
                reason,
            })?;
            decoded.push(DecodedColumn {
                name: column.name.clone(),
                judges: judging.contains(&column.name.as_str()),
                reader,
            });
            fields.push(Field::new(&column.name, column.data_type.clone(), column.nullable));
        }
        let event_time = |name: &String| decoded.iter().position(|column| column.name == *name);
        Ok(Self {
            event_time: stream.event_time.as_ref().and_then(event_time),
            scanner: Scanner::new(decoded.iter().map(|column| column.name.as_str())),
            columns: decoded,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// The columns that rows have: asked and judging ones, in the order of the declaration.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes `values`, one record each.
    pub fn decode(&mut self, values: &BinaryArray) -> Result<Decoded, DecodeError> {
        let mut verdicts = Verdicts::new(values.len());
        let slots = self.scan(values, &mut verdicts);
        let mut judging = self.judge(&slots, &mut verdicts)?;
        let event_times = self.event_times(&judging, &mut verdicts);
        let good = verdicts.good();
        let all_good = good.len() == values.len();
        let kept = BooleanArray::from(verdicts.reasons.iter().map(Option::is_none).collect::<Vec<_>>());
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        let mut nulled = Vec::new();
        for ((column, texts), judged) in self.columns.iter_mut().zip(&slots).zip(&mut judging) {
            let array = match judged.take() {
                Some(array) if all_good => array,
                Some(array) => filter(&array, &kept)?,
                None => {
                    let mut misfits = Vec::new();
                    let chosen: Vec<Option<&str>>;
                    let texts = if all_good {
                        texts
                    } else {
                        chosen = good.iter().map(|record| texts[*record]).collect();
                        &chosen
                    };
                    let array = column.reader.read(texts, &mut misfits)?;
                    if !misfits.is_empty() {
                        nulled.push((column.name.clone(), misfits));
                    }
                    array
                }
            };
            arrays.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(good.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?;
        Ok(Decoded {
            rows,
            event_times: event_times.map(|times| good.iter().map(|record| times[*record]).collect()),
            good,
            malformed: verdicts.malformed(),
            nulled,
        })
    }

    fn scan<'a>(&mut self, values: &'a BinaryArray, verdicts: &mut Verdicts) -> Slots<'a> {
        let mut slots = self.scanner.slots(values.len());
        for row in 0..values.len() {
            if values.is_null(row) {
                verdicts.condemn(row, || "the record has no value (a tombstone)".to_owned());
                continue;
            }
            let scanned = match std::str::from_utf8(values.value(row)) {
                Ok(text) => self.scanner.scan(text, &mut slots, row),
                Err(cause) => Err(cause.to_string()),
            };
            if let Err(cause) = scanned {
                verdicts.condemn(row, || format!("not one JSON object: {cause}"));
            }
        }
        slots
    }

    /// Reads the judging columns of all records and condemns those that lack or misfit one.
    fn judge(&mut self, slots: &Slots<'_>, verdicts: &mut Verdicts) -> Result<Vec<Option<ArrayRef>>, DecodeError> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (column, texts) in self.columns.iter_mut().zip(slots) {
            if !column.judges {
                arrays.push(None);
                continue;
            }
            let mut misfits = Vec::new();
            let array = column.reader.read(texts, &mut misfits)?;
            for misfit in misfits {
                let row = misfit as usize;
                verdicts.condemn(row, || {
                    let shown = shown(texts[row].unwrap_or("null"));
                    format!(
                        "column \"{}\": {shown} is not {}",
                        column.name,
                        column.reader.sql_name()
                    )
                });
            }
            if array.null_count() > 0 {
                for row in (0..array.len()).filter(|row| array.is_null(*row)) {
                    verdicts.condemn(row, || format!("column \"{}\" is missing or null", column.name));
                }
            }
            arrays.push(Some(array));
        }
        Ok(arrays)
    }

    /// Event times of all records, and condemns those out of range.
    fn event_times(&self, judged: &[Option<ArrayRef>], verdicts: &mut Verdicts) -> Option<Vec<i64>> {
        let column = self.event_time?;
        let array = judged[column].as_ref().expect("the event time judges rows");
        let times: Vec<i64> = if array.data_type() == &DataType::Date32 {
            let days = array.as_primitive::<Date32Type>().values();
            days.iter().map(|day| i64::from(*day) * time::DAY_US).collect()
        } else {
            array.as_primitive::<TimestampMicrosecondType>().values().to_vec()
        };
        for (row, time) in times.iter().enumerate() {
            if array.is_null(row) || (EARLIEST_US..LATEST_US).contains(time) {
                continue;
            }
            verdicts.condemn(row, || {
                let side = if *time < EARLIEST_US {
                    "lies before 1971"
                } else {
                    "does not lie before 2200"
                };
                format!("event time {} {side}", instant(*time))
            });
        }
        Some(times)
    }
}

/// The first reason against each record. (Columns are judged in the order of the declaration.)
struct Verdicts {
    reasons: Vec<Option<String>>,
}

impl Verdicts {
    fn new(records: usize) -> Self {
        Self {
            reasons: vec![None; records],
        }
    }

    fn condemn(&mut self, record: usize, reason: impl FnOnce() -> String) {
        self.reasons[record].get_or_insert_with(reason);
    }

    fn good(&self) -> Vec<usize> {
        let good = |record: &usize| self.reasons[*record].is_none();
        (0..self.reasons.len()).filter(good).collect()
    }

    fn malformed(self) -> Vec<(usize, String)> {
        let reasons = self.reasons.into_iter().enumerate();
        reasons.filter_map(|(record, reason)| Some((record, reason?))).collect()
    }
}

fn declares(stream: &Stream, name: &str) -> bool {
    stream.columns.iter().any(|column| column.name == name)
}

fn reader_of(stream: &Stream, column: &Column) -> Result<ValueReader, String> {
    if stream.event_time.as_ref() != Some(&column.name) {
        return ValueReader::new(&column.data_type, TimeReader::iso8601());
    }
    match column.data_type {
        DataType::Date32 | DataType::Timestamp(..) => {
            ValueReader::new(&column.data_type, TimeReader::of_event_time(stream)?)
        }
        _ => Err("an event time is DATE, TIMESTAMP or TIMESTAMPTZ".to_owned()),
    }
}

/// The beginning of a value.
fn shown(text: &str) -> String {
    if text.len() <= SHOWN_BYTES {
        return text.to_owned();
    }
    format!("{}...", &text[..text.floor_char_boundary(SHOWN_BYTES)])
}

fn instant(time_us: i64) -> String {
    match DateTime::from_timestamp_micros(time_us) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{time_us} microseconds after 1970"),
    }
}
