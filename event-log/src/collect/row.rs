//! Fields of a row to an event: a JSON object by column names, as the decoder takes it.

use arrow::datatypes::DataType;
use bytes::Bytes;
use foldline_sql::Stream;

use crate::NewRecord;

/// Makes events of rows.
pub(super) struct RowEncoder {
    columns: Vec<Column>,
}

struct Column {
    /// `"name":`
    label: Vec<u8>,
    writing: Writing,
    key: bool,
}

/// How a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// As a JSON string.
    Text,
    /// As the number that it is, with every digit; as a string if it is none.
    Number,
    /// As `true` or `false`; as a string if it is neither.
    Boolean,
    /// As the JSON that it is; as a string if it is none.
    Json,
}

impl RowEncoder {
    /// For rows with these columns. Columns that the stream does not declare are texts.
    pub(super) fn new(columns: &[String], stream: &Stream) -> Self {
        let column = |name: &String| {
            let declared = stream.columns.iter().find(|column| column.name == *name);
            let mut label = serde_json::to_vec(name).expect("a text is plain JSON");
            label.push(b':');
            let unix = stream.event_time.as_deref() == Some(name) && is_unix(stream);
            let writing = match declared.map(|column| &column.data_type) {
                _ if unix => Writing::Number,
                Some(data_type) => writing(data_type),
                None => Writing::Text,
            };
            Column {
                label,
                writing,
                key: stream.key.as_deref() == Some(name),
            }
        };
        Self {
            columns: columns.iter().map(column).collect(),
        }
    }

    /// The event of a row; `None` when the number of fields is another.
    pub(super) fn encode(&self, fields: &[&str]) -> Option<NewRecord> {
        if fields.len() != self.columns.len() {
            return None;
        }
        let mut event = Vec::with_capacity(fields.iter().map(|field| field.len() + 24).sum());
        let mut key = None;
        event.push(b'{');
        for (column, field) in self.columns.iter().zip(fields) {
            if field.is_empty() {
                continue;
            }
            if event.len() > 1 {
                event.push(b',');
            }
            event.extend_from_slice(&column.label);
            let literal = literal(column.writing, field);
            match literal {
                Some(literal) => event.extend_from_slice(literal.as_bytes()),
                None => serde_json::to_writer(&mut event, field).expect("writing to memory"),
            }
            // What the collector would take out of this event.
            if column.key && !(column.writing == Writing::Json && literal.is_some()) {
                key = Some(Bytes::copy_from_slice(literal.unwrap_or(field).as_bytes()));
            }
        }
        event.push(b'}');
        Some(NewRecord {
            key,
            value: event.into(),
            headers: Vec::new(),
        })
    }
}

fn is_unix(stream: &Stream) -> bool {
    use foldline_sql::EventTimeFormat::{Iso8601, Pattern, UnixMicros, UnixMillis, UnixSeconds};
    match stream.event_time_format {
        UnixSeconds | UnixMillis | UnixMicros => true,
        Iso8601 | Pattern(_) => false,
    }
}

fn writing(data_type: &DataType) -> Writing {
    match data_type {
        DataType::Boolean => Writing::Boolean,
        DataType::Int32 | DataType::Int64 | DataType::Float64 | DataType::Decimal128(..) => Writing::Number,
        DataType::List(_) | DataType::Struct(_) => Writing::Json,
        _ => Writing::Text,
    }
}

/// The field as a JSON literal, if it is one of its kind.
fn literal(writing: Writing, field: &str) -> Option<&str> {
    let bare = field.trim_ascii();
    match writing {
        Writing::Text => None,
        Writing::Number => is_number(bare).then_some(bare),
        Writing::Boolean
            if ["true", "t", "yes", "1"]
                .iter()
                .any(|yes| bare.eq_ignore_ascii_case(yes)) =>
        {
            Some("true")
        }
        Writing::Boolean if ["false", "f", "no", "0"].iter().any(|no| bare.eq_ignore_ascii_case(no)) => Some("false"),
        Writing::Boolean => None,
        Writing::Json => serde_json::from_str::<serde::de::IgnoredAny>(bare)
            .is_ok()
            .then_some(bare),
    }
}

/// Whether `text` is a JSON number: `-`, digits without a leading zero, fraction, exponent.
fn is_number(text: &str) -> bool {
    let digits = |text: &mut &[u8]| {
        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *text = &text[count..];
        count
    };
    let mut rest = text.as_bytes();
    rest = rest.strip_prefix(b"-").unwrap_or(rest);
    let leading_zero = rest.first() == Some(&b'0');
    let whole = digits(&mut rest);
    if whole == 0 || (leading_zero && whole > 1) {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        rest = fraction;
        if digits(&mut rest) == 0 {
            return false;
        }
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        rest = exponent
            .strip_prefix(b"-")
            .or_else(|| exponent.strip_prefix(b"+"))
            .unwrap_or(exponent);
        if digits(&mut rest) == 0 {
            return false;
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_json_numbers() {
        for number in ["0", "-0", "10", "9007199254740993", "1.50", "1e5", "-1.2E-3", "2574.07"] {
            assert!(is_number(number), "{number}");
        }
        for other in ["", "-", "+1", "01", "1.", ".5", "1e", "1 2", "NaN", "0x1", "1,5"] {
            assert!(!is_number(other), "{other}");
        }
    }
}
