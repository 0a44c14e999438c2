//! A partial key by key, for stores that hold each key as a row of its own.
//!
//! Both encodings are our own and stable, held by golden bytes in `sql/tests/it/keyed.rs`; another one needs another
//! [`FORMAT`], which is the first byte of each.
//!
//! A **key** is ordered as its columns are (ascending, NULLs first), so that what begins alike lies together and a range
//! of a column is a range of bytes: for each column 0 where it is NULL, else 1 and
//!
//! | type | bytes |
//! | --- | --- |
//! | integers, decimals, dates, times | big-endian, sign bit flipped |
//! | floats | the same of their total order |
//! | text, bytes | themselves with `00` as `00 ff`, then `00` |
//! | lists, structs, intervals | their state as text: equal where they are equal, in no order |
//!
//! A **state** is all columns, keys included: for each 0 where it is NULL, else 1 and its fixed width in little-endian, or
//! its length and its bytes, or its number of elements and these.
//!
//! The start of a session is no part of a stored key, as it moves when an earlier event comes or two sessions become one:
//! a row that stayed under the old start would count twice. So a row is what its *other* key columns have, and its state
//! is the number of their sessions, then the columns of each:
//!
//! ```text
//! user, session, n           key     state
//! ann   10:00    3           ann     2 sessions: ann 10:00 3, ann 11:30 1
//! ann   11:30    1           bob     1 session:  bob 10:10 7
//! bob   10:10    7
//! ```

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, LargeBinaryArray, LargeBinaryBuilder,
    RecordBatch, RecordBatchOptions, make_array,
};
use arrow::buffer::{Buffer, MutableBuffer, NullBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use siphasher::sip::SipHasher13;

use super::Partial;
use crate::{Fold, FoldError, KeyLookup};

/// First byte of every key and state.
const FORMAT: u8 = 1;
/// Ends what begins alike: above every byte that a further column begins with.
const BEYOND: u8 = 0xff;

/// The keys of a partial, one row each. A key has no session's start, and its state all sessions that it has.
#[derive(Debug, Clone)]
pub struct KeyedRows {
    /// Keys, none of them twice.
    pub keys: LargeBinaryArray,
    /// States, the keys' columns included.
    pub states: LargeBinaryArray,
    /// Hashes of the first column of the key alone, or of nothing: rows that share it belong together.
    pub groups: Vec<u64>,
}

impl KeyedRows {
    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        let columns = self.keys.get_buffer_memory_size() + self.states.get_buffer_memory_size();
        columns + self.groups.capacity() * size_of::<u64>()
    }
}

/// The keys that a lookup may mean, and maybe others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeySpan {
    /// The group that they are in, if it is one: see [`KeyedRows::groups`].
    pub group: Option<u64>,
    /// Smallest key.
    pub from: Vec<u8>,
    /// What all keys lie below.
    pub until: Vec<u8>,
}

impl Partial {
    /// Its keys, one row each.
    pub fn to_rows(&self, fold: &Fold) -> Result<KeyedRows, FoldError> {
        self.rows(fold.session_key())
            .map_err(|source| FoldError::Columns { source })
    }

    fn rows(&self, session: Option<usize>) -> Result<KeyedRows, ArrowError> {
        let columns = self.batch.columns().iter().map(Column::over);
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let key_columns = (0..self.key_columns).filter(|column| Some(*column) != session);
        let key_columns: Vec<&Column> = key_columns.map(|column| &columns[column]).collect();
        let (mut keys, mut states) = (LargeBinaryBuilder::new(), LargeBinaryBuilder::new());
        let mut groups = Vec::with_capacity(self.keys());
        let (mut key, mut state) = (Vec::new(), Vec::new());
        let mut add = |together: &[usize]| {
            key.clear();
            state.clear();
            groups.push(write_stored_key(&key_columns, together[0], &mut key));
            state.push(FORMAT);
            if session.is_some() {
                write_length(together.len(), &mut state);
            }
            for row in together {
                for column in &columns {
                    column.write(*row, &mut state);
                }
            }
            keys.append_value(&key);
            states.append_value(&state);
        };
        match session {
            None => (0..self.keys()).for_each(|row| add(&[row])),
            Some(_) => self.of_one_key(&key_columns).iter().for_each(|rows| add(rows)),
        }
        Ok(KeyedRows {
            keys: keys.finish(),
            states: states.finish(),
            groups,
        })
    }

    /// The rows that share a stored key, by key: they may lie apart.
    fn of_one_key(&self, key_columns: &[&Column]) -> Vec<Vec<usize>> {
        let mut rows: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for row in 0..self.keys() {
            let mut key = Vec::new();
            write_stored_key(key_columns, row, &mut key);
            rows.entry(key).or_default().push(row);
        }
        rows.into_values().collect()
    }

    /// The partial of `states`, as [`Partial::to_rows`] made them, each key once. Anything else is an error.
    pub fn from_rows<'a>(fold: &Fold, states: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, FoldError> {
        let refuse = |reason: String| FoldError::Shape {
            what: "stored state",
            view: fold.view().to_owned(),
            reason,
        };
        let schema = fold.state_schema();
        let cells = schema.fields().iter().map(|field| Cells::of(field.data_type()));
        let mut cells = cells
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| refuse(error.to_string()))?;
        let columns_count = cells.len();
        let mut rows = 0;
        for mut state in states {
            let format = state.split_off_first().copied();
            if format != Some(FORMAT) {
                return Err(refuse(format!("its format is {format:?}, not {FORMAT}")));
            }
            let together = match fold.session_key() {
                Some(_) => read_length(&mut state).filter(|sessions| *sessions > 0),
                None => Some(1),
            };
            let read = together.and_then(|together| {
                let mut columns = (0..together).flat_map(|_| 0..columns_count);
                columns.try_for_each(|column| cells[column].read(&mut state))
            });
            if read.is_none() || !state.is_empty() {
                return Err(refuse("it does not end where its columns do".to_owned()));
            }
            rows += together.unwrap_or_default();
        }
        let arrays = cells.into_iter().zip(schema.fields());
        let arrays = arrays
            .map(|(column, field)| column.finish(field.data_type()))
            .collect::<Result<Vec<_>, _>>();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        arrays
            .and_then(|arrays| RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options))
            .and_then(|batch| Self::sorted(schema, fold.key_columns(), &[batch]))
            .map_err(|error| refuse(error.to_string()))
    }
}

impl KeyLookup {
    /// Where the keys of `fold` lie that it means.
    pub fn span(&self, fold: &Fold) -> Result<KeySpan, FoldError> {
        let session = fold.session_key();
        // Position in the stored key, which is without the start of a session.
        let stored = |position: usize| match session {
            Some(session) if position == session => None,
            Some(session) if position > session => Some(position - 1),
            _ => Some(position),
        };
        let span = || -> Result<KeySpan, ArrowError> {
            let mut from = vec![FORMAT];
            let mut group = None;
            let fixed = self.columns.iter();
            let fixed = fixed.filter_map(|(position, value)| Some((stored(*position)?, value)));
            // The columns that the key begins with.
            let prefix = (0..).zip(fixed).take_while(|(index, (position, _))| index == position);
            let mut prefix_columns = 0;
            for (_, (_, value)) in prefix {
                Column::over(value)?.write_key(0, &mut from);
                group.get_or_insert_with(|| group_of(&from));
                prefix_columns += 1;
            }
            let mut until = from.clone();
            let mut ranges = self.range.iter();
            if let Some(range) = ranges.find(|range| stored(range.position) == Some(prefix_columns)) {
                let ordered = |bound: &&ArrayRef| is_ordered(bound.data_type());
                if let Some(lower) = range.lower.as_ref().filter(ordered) {
                    Column::over(lower)?.write_key(0, &mut from);
                }
                if let Some(upper) = range.upper.as_ref().filter(ordered) {
                    Column::over(upper)?.write_key(0, &mut until);
                }
            }
            until.push(BEYOND);
            Ok(KeySpan { group, from, until })
        };
        span().map_err(|source| FoldError::Columns { source })
    }
}

/// Writes the key of `row`. Returns its group.
fn write_stored_key(columns: &[&Column], row: usize, out: &mut Vec<u8>) -> u64 {
    out.push(FORMAT);
    let mut group = None;
    for column in columns {
        column.write_key(row, out);
        group.get_or_insert_with(|| group_of(out));
    }
    group.unwrap_or_else(|| group_of(out))
}

fn group_of(key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(key);
    hasher.finish()
}

/// Whether keys of this type are ordered as their bytes are.
fn is_ordered(data_type: &DataType) -> bool {
    !data_type.is_nested() && !matches!(data_type, DataType::Interval(_))
}

/// How the values of a type lie in memory.
enum Layout {
    Null,
    Bool,
    /// Bytes of each value.
    Fixed(usize),
    Bytes,
    List(DataType),
    Struct(Vec<DataType>),
}

impl Layout {
    fn of(data_type: &DataType) -> Result<Self, ArrowError> {
        Ok(match data_type {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Bool,
            DataType::FixedSizeBinary(width) => Self::Fixed(usize::try_from(*width).unwrap_or_default()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Bytes,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Self::Bytes,
            DataType::List(element) => Self::List(element.data_type().clone()),
            DataType::Struct(fields) => Self::Struct(fields.iter().map(|field| field.data_type().clone()).collect()),
            other => match other.primitive_width() {
                Some(width) => Self::Fixed(width),
                None => {
                    let reason = format!("values of type {other} cannot be stored key by key");
                    return Err(ArrowError::NotYetImplemented(reason));
                }
            },
        })
    }
}

/// A column that is written value by value.
struct Column {
    nulls: Option<NullBuffer>,
    values: Values,
}

enum Values {
    Null,
    Bool(BooleanArray),
    Fixed { bytes: Buffer, width: usize, order: Order },
    Bytes(LargeBinaryArray),
    List { offsets: Vec<i32>, elements: Box<Column> },
    Struct(Vec<Column>),
}

/// How the bytes of a fixed width are made to be in order.
#[derive(Clone, Copy)]
enum Order {
    Signed,
    Unsigned,
    Float,
    AsTheyAre,
}

impl Column {
    fn over(array: &ArrayRef) -> Result<Self, ArrowError> {
        let data_type = array.data_type();
        let values = match Layout::of(data_type)? {
            Layout::Null => Values::Null,
            Layout::Bool => Values::Bool(array.as_boolean().clone()),
            Layout::Fixed(width) => {
                let data = array.to_data();
                let bytes = data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width);
                let order = match data_type {
                    DataType::FixedSizeBinary(_) | DataType::Interval(_) => Order::AsTheyAre,
                    _ if data_type.is_floating() => Order::Float,
                    _ if data_type.is_unsigned_integer() => Order::Unsigned,
                    _ => Order::Signed,
                };
                Values::Fixed { bytes, width, order }
            }
            Layout::Bytes => Values::Bytes(cast(array, &DataType::LargeBinary)?.as_binary().clone()),
            Layout::List(_) => {
                let list = array.as_list::<i32>();
                Values::List {
                    offsets: list.offsets().to_vec(),
                    elements: Box::new(Self::over(list.values())?),
                }
            }
            Layout::Struct(_) => {
                let columns = array.as_struct().columns().iter().map(Self::over);
                Values::Struct(columns.collect::<Result<_, _>>()?)
            }
        };
        Ok(Self {
            nulls: array.logical_nulls(),
            values,
        })
    }

    fn is_null(&self, row: usize) -> bool {
        matches!(self.values, Values::Null) || self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.push(0);
        }
        out.push(1);
        match &self.values {
            Values::Null => {}
            Values::Bool(values) => out.push(u8::from(values.value(row))),
            Values::Fixed { bytes, width, .. } => out.extend(&bytes[row * width..(row + 1) * width]),
            Values::Bytes(values) => {
                write_length(values.value(row).len(), out);
                out.extend(values.value(row));
            }
            Values::List { offsets, elements } => {
                let (from, until) = (offsets[row] as usize, offsets[row + 1] as usize);
                write_length(until - from, out);
                for element in from..until {
                    elements.write(element, out);
                }
            }
            Values::Struct(columns) => {
                for column in columns {
                    column.write(row, out);
                }
            }
        }
    }

    fn write_key(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.push(0);
        }
        out.push(1);
        match &self.values {
            Values::Null => {}
            Values::Bool(values) => out.push(u8::from(values.value(row))),
            Values::Fixed { bytes, width, order } => {
                write_ordered(&bytes[row * width..(row + 1) * width], *order, out);
            }
            Values::Bytes(values) => write_text(values.value(row), out),
            Values::List { .. } | Values::Struct(_) => {
                let mut state = Vec::new();
                self.write(row, &mut state);
                write_text(&state, out);
            }
        }
    }
}

fn write_length(length: usize, out: &mut Vec<u8>) {
    let mut rest = length;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn write_text(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.push(0);
}

/// `bytes`: one value, little-endian.
fn write_ordered(bytes: &[u8], order: Order, out: &mut Vec<u8>) {
    let at = out.len();
    match order {
        Order::AsTheyAre => return out.extend(bytes),
        Order::Signed | Order::Unsigned | Order::Float => out.extend(bytes.iter().rev()),
    }
    let negative = out[at] & 0x80 != 0;
    match order {
        Order::Float if negative => out[at..].iter_mut().for_each(|byte| *byte = !*byte),
        Order::Float | Order::Signed => out[at] ^= 0x80,
        Order::Unsigned | Order::AsTheyAre => {}
    }
}

/// Values that are read one by one.
struct Cells {
    valid: BooleanBufferBuilder,
    kind: Kind,
}

enum Kind {
    Null,
    Bool(BooleanBufferBuilder),
    Fixed { bytes: MutableBuffer, width: usize },
    Bytes { offsets: Vec<i64>, bytes: Vec<u8> },
    List { offsets: Vec<i32>, elements: Box<Cells> },
    Struct(Vec<Cells>),
}

impl Cells {
    fn of(data_type: &DataType) -> Result<Self, ArrowError> {
        let kind = match Layout::of(data_type)? {
            Layout::Null => Kind::Null,
            Layout::Bool => Kind::Bool(BooleanBufferBuilder::new(0)),
            Layout::Fixed(width) => Kind::Fixed {
                bytes: MutableBuffer::new(0),
                width,
            },
            Layout::Bytes => Kind::Bytes {
                offsets: vec![0],
                bytes: Vec::new(),
            },
            Layout::List(element) => Kind::List {
                offsets: vec![0],
                elements: Box::new(Self::of(&element)?),
            },
            Layout::Struct(fields) => Kind::Struct(fields.iter().map(Self::of).collect::<Result<_, _>>()?),
        };
        Ok(Self {
            valid: BooleanBufferBuilder::new(0),
            kind,
        })
    }

    /// Takes a value off the front of `from`; `None` where there is none.
    fn read(&mut self, from: &mut &[u8]) -> Option<()> {
        match from.split_off_first()? {
            0 => {
                self.null();
                return Some(());
            }
            1 => self.valid.append(true),
            _ => return None,
        }
        match &mut self.kind {
            Kind::Null => return None,
            Kind::Bool(values) => values.append(*from.split_off_first()? != 0),
            Kind::Fixed { bytes, width } => bytes.extend_from_slice(from.split_off(..*width)?),
            Kind::Bytes { offsets, bytes } => {
                let length = read_length(from)?;
                bytes.extend(from.split_off(..length)?);
                offsets.push(i64::try_from(bytes.len()).ok()?);
            }
            Kind::List { offsets, elements } => {
                let length = read_length(from)?;
                for _ in 0..length {
                    elements.read(from)?;
                }
                let until = usize::try_from(*offsets.last()?).ok()?.checked_add(length)?;
                offsets.push(i32::try_from(until).ok()?);
            }
            Kind::Struct(columns) => columns.iter_mut().try_for_each(|column| column.read(from))?,
        }
        Some(())
    }

    fn null(&mut self) {
        self.valid.append(false);
        match &mut self.kind {
            Kind::Null => {}
            Kind::Bool(values) => values.append(false),
            Kind::Fixed { bytes, width } => bytes.extend_zeros(*width),
            Kind::Bytes { offsets, .. } => offsets.extend(offsets.last().copied()),
            Kind::List { offsets, .. } => offsets.extend(offsets.last().copied()),
            Kind::Struct(columns) => columns.iter_mut().for_each(Self::null),
        }
    }

    fn finish(mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        let rows = self.valid.len();
        let valid = self.valid.finish();
        let nulls = (valid.count_set_bits() < rows).then(|| NullBuffer::new(valid));
        let build = |data_type: &DataType, buffers: Vec<Buffer>, children: Vec<ArrayData>| {
            let data = ArrayData::builder(data_type.clone()).len(rows).nulls(nulls.clone());
            let data = data.buffers(buffers).child_data(children).build()?;
            Ok::<_, ArrowError>(make_array(data))
        };
        match self.kind {
            Kind::Null => Ok(arrow::array::new_null_array(data_type, rows)),
            Kind::Bool(mut values) => build(data_type, vec![values.finish().into_inner()], Vec::new()),
            Kind::Fixed { bytes, .. } => build(data_type, vec![bytes.into()], Vec::new()),
            Kind::Bytes { offsets, bytes } => {
                let buffers = vec![Buffer::from_vec(offsets), Buffer::from_vec(bytes)];
                let binary = build(&DataType::LargeBinary, buffers, Vec::new())?;
                let strict = CastOptions {
                    safe: false,
                    ..CastOptions::default()
                };
                cast_with_options(&binary, data_type, &strict)
            }
            Kind::List { offsets, elements } => {
                let DataType::List(element) = data_type else {
                    unreachable!("the layout of {data_type} is a list")
                };
                let elements = elements.finish(element.data_type())?.to_data();
                build(data_type, vec![Buffer::from_vec(offsets)], vec![elements])
            }
            Kind::Struct(columns) => {
                let DataType::Struct(fields) = data_type else {
                    unreachable!("the layout of {data_type} is a struct")
                };
                let children = columns.into_iter().zip(fields);
                let children = children
                    .map(|(column, field)| Ok(column.finish(field.data_type())?.to_data()))
                    .collect::<Result<Vec<_>, ArrowError>>()?;
                build(data_type, Vec::new(), children)
            }
        }
    }
}

fn read_length(from: &mut &[u8]) -> Option<usize> {
    let mut length = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = *from.split_off_first()?;
        length |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return usize::try_from(length).ok();
        }
    }
    None
}
