//! Frames to records: buffers are copied as they are, nothing is allocated per record.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BinaryBuilder, BooleanBufferBuilder, ListArray, StringBuilder, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use fjall::Keyspace;

use super::frame::Frame;
use super::store::{base_offset, damaged, failed, frame_key};
use crate::log::header_fields;
use crate::{LogError, Offset, Records, Span};

/// Offsets within arrow's arrays are 32 bits wide.
const READ_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Where to read.
#[derive(Debug, Clone)]
pub(super) struct Range<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) from: u64,
    /// Below the visible end.
    pub(super) until: u64,
    pub(super) max_bytes: usize,
}

/// Reads records, at least one. `Ok(None)`: the frame of `from` is not there (any more).
pub(super) fn read(frames: &Keyspace, range: &Range<'_>) -> Result<Option<Columns>, LogError> {
    let max_bytes = range.max_bytes.min(READ_BYTES_MAX);
    let reading = |cause| failed(format!("reading {}/{}", range.topic, range.partition), cause);
    let first = frame_key(range.partition, 0)..=frame_key(range.partition, range.from);
    let Some(first) = frames.range(first).next_back() else {
        return Ok(None);
    };
    let first = first.key().map_err(reading)?;

    let mut columns = Columns::new(range.from);
    for entry in frames.range(&*first..&frame_key(range.partition, range.until)[..]) {
        let (key, value) = entry.into_inner().map_err(reading)?;
        let base = base_offset(&key);
        let wrong = |reason: String| damaged(range.topic, range.partition, base, reason);
        let frame = Frame::parse(&value).map_err(wrong)?;
        let end = base + frame.count as u64;
        // Also where a later frame came first: a trim may fall between the two looks at the store.
        if columns.is_empty() && !(base..end).contains(&columns.next) {
            return Ok(None);
        }
        if !columns.is_empty() && columns.next != base {
            let reason = format!("the frame has {base}..{end} but {} is to follow", columns.next);
            return Err(damaged(range.topic, range.partition, base, reason));
        }
        if !columns.push(&frame, base, max_bytes).map_err(wrong)? {
            break;
        }
    }
    Ok((!columns.is_empty()).then_some(columns))
}

/// Records as they are put together.
#[derive(Debug)]
pub(super) struct Columns {
    next: u64,
    bytes: usize,
    offsets: Vec<i64>,
    timestamps_ms: Vec<i64>,
    keys: Bytes,
    has_key: BooleanBufferBuilder,
    values: Bytes,
    headers: Option<Headers>,
}

#[derive(Debug)]
struct Bytes {
    ends: Vec<i32>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Headers {
    ends: Vec<i32>,
    names: StringBuilder,
    values: BinaryBuilder,
    count: usize,
}

impl Columns {
    /// No records; the next one is at `next`.
    pub(super) fn new(next: u64) -> Self {
        Self {
            next,
            bytes: 0,
            offsets: Vec::new(),
            timestamps_ms: Vec::new(),
            keys: Bytes::new(),
            has_key: BooleanBufferBuilder::new(0),
            values: Bytes::new(),
            headers: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Takes records of `frame` until `max_bytes`, one at least if there is none yet. Says whether there is room left.
    fn push(&mut self, frame: &Frame<'_>, base: u64, max_bytes: usize) -> Result<bool, String> {
        let from = (self.next - base) as usize;
        let mut until = from;
        while until < frame.count {
            let bytes = self.bytes + frame.record_bytes(until);
            if bytes > max_bytes && (until > from || !self.is_empty()) {
                break;
            }
            self.bytes = bytes;
            until += 1;
        }
        let before = self.offsets.len();
        let first = base + from as u64;
        self.next = base + until as u64;
        self.offsets.extend(first.cast_signed()..self.next.cast_signed());
        self.timestamps_ms.resize(self.offsets.len(), frame.timestamp_ms);
        let (values, ends) = frame.values(from..until);
        self.values.push(values, ends);
        match frame.keys(from..until) {
            None => {
                self.keys.push_empty(until - from);
                self.has_key.append_n(until - from, false);
            }
            Some((keys, ends)) => {
                self.keys.push(keys, ends);
                (from..until).for_each(|index| self.has_key.append(frame.has_key(index)));
            }
        }
        if frame.has_headers() || self.headers.is_some() {
            let headers = self.headers.get_or_insert_with(|| Headers::none(before));
            for index in from..until {
                headers.push(&frame.headers(index)?);
            }
        }
        Ok(until == frame.count && self.bytes < max_bytes)
    }

    /// The records, with what the partition held.
    pub(super) fn finish(mut self, span: Span) -> Records {
        let keys = self.keys.finish(Some(NullBuffer::new(self.has_key.finish())));
        Records {
            offsets: ScalarBuffer::from(self.offsets),
            timestamps_ms: ScalarBuffer::from(self.timestamps_ms),
            keys,
            values: self.values.finish(None),
            headers: self.headers.filter(|headers| headers.count > 0).map(Headers::finish),
            next: Offset(self.next),
            span,
        }
    }
}

impl Bytes {
    fn new() -> Self {
        Self {
            ends: vec![0],
            bytes: Vec::new(),
        }
    }

    fn push(&mut self, bytes: &[u8], ends: impl Iterator<Item = usize>) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.ends.extend(ends.map(|end| (before + end) as i32));
    }

    fn push_empty(&mut self, records: usize) {
        let end = self.bytes.len() as i32;
        self.ends.resize(self.ends.len() + records, end);
    }

    fn finish(self, nulls: Option<NullBuffer>) -> BinaryArray {
        BinaryArray::new(OffsetBuffer::new(self.ends.into()), self.bytes.into(), nulls)
    }
}

impl Headers {
    fn none(records: usize) -> Self {
        Self {
            ends: vec![0; records + 1],
            names: StringBuilder::new(),
            values: BinaryBuilder::new(),
            count: 0,
        }
    }

    fn push(&mut self, headers: &[(&str, &[u8])]) {
        for (name, value) in headers {
            self.names.append_value(name);
            self.values.append_value(value);
        }
        self.count += headers.len();
        self.ends.push(self.count as i32);
    }

    fn finish(mut self) -> ArrayRef {
        let (item, fields) = header_fields();
        let columns: Vec<ArrayRef> = vec![Arc::new(self.names.finish()), Arc::new(self.values.finish())];
        let pairs = StructArray::new(fields, columns, None);
        Arc::new(ListArray::new(
            item,
            OffsetBuffer::new(self.ends.into()),
            Arc::new(pairs),
            None,
        ))
    }
}
