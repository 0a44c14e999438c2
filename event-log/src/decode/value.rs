//! The values of a column, as JSON texts, to an array of its type.
//!
//! What fits: numbers and their text form alike, as long as no digit is lost; `true` and `false` and their text form;
//! a number or boolean as TEXT, as it is written. BYTEA is hexadecimal text, with or without `\x` before it. An item of
//! an array or a field of a struct that does not fit becomes NULL inside it.

use std::borrow::Cow;

use arrow::array::builder::{BinaryBuilder, BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow::array::{ArrayRef, ListArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields, TimeUnit};
use arrow::error::ArrowError;
use std::sync::Arc;

use super::number::{Rest, double, scaled};
use super::scan::{self, Scanner};
use super::time::{TimeReader, time_of_day};

/// Reads the values of one column.
#[derive(Debug, Clone)]
pub(super) struct ValueReader {
    data_type: DataType,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Boolean,
    Int,
    BigInt,
    Double,
    Decimal {
        precision: u8,
        scale: i8,
    },
    Text,
    Date(TimeReader),
    Time,
    Timestamp(TimeReader),
    Bytes,
    List {
        item: FieldRef,
        items: Box<ValueReader>,
    },
    Struct {
        fields: Fields,
        scanner: Scanner,
        readers: Vec<ValueReader>,
    },
}

impl ValueReader {
    /// Reads `data_type`, times as `times` says (within lists and structs: ISO 8601).
    pub(super) fn new(data_type: &DataType, times: TimeReader) -> Result<Self, String> {
        let inner = |field: &FieldRef| {
            if !field.is_nullable() {
                return Err(format!(
                    "field \"{}\" within {data_type} must be nullable",
                    field.name()
                ));
            }
            Self::new(field.data_type(), TimeReader::iso8601())
        };
        let kind = match data_type {
            DataType::Boolean => Kind::Boolean,
            DataType::Int32 => Kind::Int,
            DataType::Int64 => Kind::BigInt,
            DataType::Float64 => Kind::Double,
            DataType::Decimal128(precision, scale) => Kind::Decimal {
                precision: *precision,
                scale: *scale,
            },
            DataType::Utf8 => Kind::Text,
            DataType::Date32 => Kind::Date(times),
            DataType::Time64(TimeUnit::Microsecond) => Kind::Time,
            DataType::Timestamp(TimeUnit::Microsecond, None) => Kind::Timestamp(times),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => Kind::Timestamp(times),
            DataType::Binary => Kind::Bytes,
            DataType::List(item) => Kind::List {
                item: Arc::clone(item),
                items: Box::new(inner(item)?),
            },
            DataType::Struct(fields) => Kind::Struct {
                fields: fields.clone(),
                scanner: Scanner::new(fields.iter().map(|field| field.name().as_str())),
                readers: fields.iter().map(inner).collect::<Result<_, _>>()?,
            },
            other => return Err(format!("type {other} cannot be read from JSON")),
        };
        Ok(Self {
            data_type: data_type.clone(),
            kind,
        })
    }

    /// The type's name in SQL.
    pub(super) fn sql_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match &self.kind {
            Kind::Boolean => "BOOLEAN",
            Kind::Int => "INT",
            Kind::BigInt => "BIGINT",
            Kind::Double => "DOUBLE",
            Kind::Decimal { precision, scale } => return Cow::Owned(format!("DECIMAL({precision},{scale})")),
            Kind::Text => "TEXT",
            Kind::Date(_) => "DATE",
            Kind::Time => "TIME",
            Kind::Timestamp(_) if self.data_type == DataType::Timestamp(TimeUnit::Microsecond, None) => "TIMESTAMP",
            Kind::Timestamp(_) => "TIMESTAMPTZ",
            Kind::Bytes => "BYTEA",
            Kind::List { items, .. } => return Cow::Owned(format!("{}[]", items.sql_name())),
            Kind::Struct { .. } => "STRUCT",
        })
    }

    /// Reads `texts`. The places of those that do not fit are added to `misfits`, ascending, and are NULL.
    pub(super) fn read(&mut self, texts: &[Option<&str>], misfits: &mut Vec<u32>) -> Result<ArrayRef, ArrowError> {
        let data_type = &self.data_type;
        Ok(match &mut self.kind {
            Kind::Boolean => booleans(texts, misfits),
            Kind::Int => primitives::<Int32Type>(data_type, texts, misfits, |text, _| {
                i32::try_from(scaled(text, 0, Rest::Zero)?).ok()
            }),
            Kind::BigInt => primitives::<Int64Type>(data_type, texts, misfits, |text, _| {
                i64::try_from(scaled(text, 0, Rest::Zero)?).ok()
            }),
            Kind::Double => primitives::<Float64Type>(data_type, texts, misfits, |text, _| double(text)),
            Kind::Decimal { precision, scale } => {
                let (scale, limit) = (i64::from(*scale), 10_i128.pow(u32::from(*precision)));
                primitives::<Decimal128Type>(data_type, texts, misfits, |text, _| {
                    scaled(text, scale, Rest::Zero).filter(|value| value.abs() < limit)
                })
            }
            Kind::Text => strings(texts, misfits),
            Kind::Date(times) => {
                primitives::<Date32Type>(data_type, texts, misfits, |text, quoted| times.date(text, quoted))
            }
            Kind::Time => primitives::<Time64MicrosecondType>(data_type, texts, misfits, |text, _| time_of_day(text)),
            Kind::Timestamp(times) => {
                let read = |text: &str, quoted| times.instant(text, quoted);
                primitives::<TimestampMicrosecondType>(data_type, texts, misfits, read)
            }
            Kind::Bytes => bytes(texts, misfits),
            Kind::List { item, items } => lists(item, items, texts, misfits)?,
            Kind::Struct {
                fields,
                scanner,
                readers,
            } => structs(fields, scanner, readers, texts, misfits)?,
        })
    }
}

fn place(row: usize) -> u32 {
    u32::try_from(row).expect("a column array has less than 2^32 rows")
}

/// Reads numbers and texts; the reader is told whether it was text.
fn primitives<T: ArrowPrimitiveType>(
    data_type: &DataType,
    texts: &[Option<&str>],
    misfits: &mut Vec<u32>,
    read: impl Fn(&str, bool) -> Option<T::Native>,
) -> ArrayRef {
    let mut values = PrimitiveBuilder::<T>::with_capacity(texts.len()).with_data_type(data_type.clone());
    let mut scratch = String::new();
    for (row, text) in texts.iter().enumerate() {
        let value = text.and_then(|text| {
            let (plain, quoted) = scalar(text, &mut scratch)?;
            read(plain, quoted)
        });
        if value.is_none() && text.is_some() {
            misfits.push(place(row));
        }
        values.append_option(value);
    }
    Arc::new(values.finish())
}

fn booleans(texts: &[Option<&str>], misfits: &mut Vec<u32>) -> ArrayRef {
    let mut values = BooleanBuilder::with_capacity(texts.len());
    for (row, text) in texts.iter().enumerate() {
        let value = text.and_then(|text| match text.trim_matches('"') {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        });
        if value.is_none() && text.is_some() {
            misfits.push(place(row));
        }
        values.append_option(value);
    }
    Arc::new(values.finish())
}

fn strings(texts: &[Option<&str>], misfits: &mut Vec<u32>) -> ArrayRef {
    let bytes = texts.iter().flatten().map(|text| text.len()).sum();
    let mut values = StringBuilder::with_capacity(texts.len(), bytes);
    let mut scratch = String::new();
    for (row, text) in texts.iter().enumerate() {
        let Some(text) = text else {
            values.append_null();
            continue;
        };
        let value = match text.as_bytes() {
            [b'"', ..] => unquoted(text, &mut scratch),
            [b'{' | b'[', ..] => None,
            _ => Some(*text),
        };
        if value.is_none() {
            misfits.push(place(row));
        }
        values.append_option(value);
    }
    Arc::new(values.finish())
}

fn bytes(texts: &[Option<&str>], misfits: &mut Vec<u32>) -> ArrayRef {
    let mut values = BinaryBuilder::new();
    let (mut scratch, mut decoded) = (String::new(), Vec::new());
    for (row, text) in texts.iter().enumerate() {
        let Some(text) = text else {
            values.append_null();
            continue;
        };
        decoded.clear();
        let digits = if text.starts_with('"') {
            unquoted(text, &mut scratch)
        } else {
            None
        };
        if digits.and_then(|digits| unhex(digits, &mut decoded)).is_some() {
            values.append_value(&decoded);
        } else {
            misfits.push(place(row));
            values.append_null();
        }
    }
    Arc::new(values.finish())
}

fn unhex(digits: &str, decoded: &mut Vec<u8>) -> Option<()> {
    let digits = digits.strip_prefix("\\x").unwrap_or(digits).as_bytes();
    let half = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    for pair in digits.chunks_exact(2) {
        decoded.push((half(pair[0])? << 4) | half(pair[1])?);
    }
    Some(())
}

fn lists(
    item: &FieldRef,
    items: &mut ValueReader,
    texts: &[Option<&str>],
    misfits: &mut Vec<u32>,
) -> Result<ArrayRef, ArrowError> {
    let mut found = Vec::new();
    // `ends[row]`: where the items of the row end; `bad[row]`: it holds something that does not fit.
    let mut ends = Vec::with_capacity(texts.len());
    let mut valid = Vec::with_capacity(texts.len());
    let mut bad = vec![false; texts.len()];
    for (row, text) in texts.iter().enumerate() {
        let array = text.filter(|text| text.starts_with('['));
        bad[row] = text.is_some() && array.is_none();
        valid.push(array.is_some());
        if let Some(array) = array {
            scan::items(array, &mut found).map_err(ArrowError::JsonError)?;
        }
        ends.push(found.len());
    }
    let mut inner_misfits = Vec::new();
    let values = items.read(&found, &mut inner_misfits)?;
    for misfit in inner_misfits {
        bad[ends.partition_point(|end| *end <= misfit as usize)] = true;
    }
    mark(&bad, misfits);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let lengths = starts.zip(&ends).map(|(start, end)| end - start);
    let list = ListArray::try_new(
        Arc::clone(item),
        OffsetBuffer::from_lengths(lengths),
        values,
        nulls(valid),
    )?;
    Ok(Arc::new(list))
}

fn structs(
    fields: &Fields,
    scanner: &mut Scanner,
    readers: &mut [ValueReader],
    texts: &[Option<&str>],
    misfits: &mut Vec<u32>,
) -> Result<ArrayRef, ArrowError> {
    let mut slots = scanner.slots(texts.len());
    let mut valid = Vec::with_capacity(texts.len());
    let mut bad = vec![false; texts.len()];
    for (row, text) in texts.iter().enumerate() {
        // The record's syntax is right, so only a name with half a surrogate pair can fail here.
        let scanned = text.map(|text| scanner.scan(text, &mut slots, row).is_ok());
        valid.push(scanned == Some(true));
        bad[row] = scanned == Some(false);
    }
    let mut columns = Vec::with_capacity(readers.len());
    for (reader, texts) in readers.iter_mut().zip(&slots) {
        let mut inner_misfits = Vec::new();
        columns.push(reader.read(texts, &mut inner_misfits)?);
        for misfit in inner_misfits {
            bad[misfit as usize] = true;
        }
    }
    mark(&bad, misfits);
    let array = StructArray::try_new_with_length(fields.clone(), columns, nulls(valid), texts.len())?;
    Ok(Arc::new(array))
}

fn mark(bad: &[bool], misfits: &mut Vec<u32>) {
    misfits.extend(
        bad.iter()
            .enumerate()
            .filter(|(_, bad)| **bad)
            .map(|(row, _)| place(row)),
    );
}

fn nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    Some(NullBuffer::from(valid)).filter(|nulls| nulls.null_count() > 0)
}

/// The characters of a number, or of a text without the spaces around it; and whether it was text.
fn scalar<'t>(text: &'t str, scratch: &'t mut String) -> Option<(&'t str, bool)> {
    match text.as_bytes() {
        [b'"', ..] => Some((unquoted(text, scratch)?.trim_ascii(), true)),
        [b'-' | b'0'..=b'9', ..] => Some((text, false)),
        _ => None,
    }
}

/// The characters of a JSON string. `None` for half a surrogate pair, the one thing the syntax check lets through.
fn unquoted<'t>(text: &'t str, scratch: &'t mut String) -> Option<&'t str> {
    let inside = &text[1..text.len() - 1];
    let Some(first) = memchr::memchr(b'\\', inside.as_bytes()) else {
        return Some(inside);
    };
    scratch.clear();
    scratch.push_str(&inside[..first]);
    let mut rest = &inside[first..];
    while let Some(escape) = rest.find('\\') {
        scratch.push_str(&rest[..escape]);
        rest = unescaped(&rest[escape + 1..], scratch)?;
    }
    scratch.push_str(rest);
    Some(scratch)
}

/// Appends what stands after a backslash and returns the rest.
fn unescaped<'t>(escape: &'t str, out: &mut String) -> Option<&'t str> {
    out.push(match escape.as_bytes().first()? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return code_point(escape, out),
        other => char::from(*other),
    });
    Some(&escape[1..])
}

fn code_point<'t>(escape: &'t str, out: &mut String) -> Option<&'t str> {
    let unit = |digits: Option<&str>| u32::from_str_radix(digits?, 16).ok();
    let high = unit(escape.get(1..5))?;
    if !(0xD800..0xDC00).contains(&high) {
        out.push(char::from_u32(high)?);
        return Some(&escape[5..]);
    }
    if escape.get(5..7) != Some("\\u") {
        return None;
    }
    let low = unit(escape.get(7..11)).filter(|low| (0xDC00..0xE000).contains(low))?;
    out.push(char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00))?);
    Some(&escape[11..])
}
