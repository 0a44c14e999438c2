//! Messages as columns: each message's bytes are copied once, into the buffers that readers get.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BinaryBuilder, BooleanBufferBuilder, ListArray, StringBuilder, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};

use super::ffi::Message;
use crate::log::header_fields;
use crate::{Offset, Records, Span};

/// Offsets within arrow's arrays are 32 bits wide.
const BYTES_MAX: usize = 512 << 20;

/// Records as they are put together.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// As much as the records before took, which is room for these: buffers that grow are copied again and again.
    before: Size,
    offsets: Vec<i64>,
    timestamps_ms: Vec<i64>,
    keys: Bytes,
    values: Bytes,
    headers: Option<Headers>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Size {
    records: usize,
    key_bytes: usize,
    value_bytes: usize,
}

#[derive(Debug)]
struct Bytes {
    ends: Vec<i32>,
    bytes: Vec<u8>,
    there: BooleanBufferBuilder,
}

#[derive(Debug)]
struct Headers {
    ends: Vec<i32>,
    names: StringBuilder,
    values: BinaryBuilder,
    count: i32,
}

impl Columns {
    /// None yet; about as many as `before` are expected.
    pub(super) fn following(before: &Self) -> Self {
        Self {
            before: Size {
                records: before.offsets.len(),
                key_bytes: before.keys.bytes.len(),
                value_bytes: before.values.bytes.len(),
            },
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The largest timestamp.
    pub(super) fn max_timestamp_ms(&self) -> Option<i64> {
        self.timestamps_ms.iter().max().copied()
    }

    fn bytes(&self) -> usize {
        self.keys.bytes.len() + self.values.bytes.len()
    }

    /// Whether `message` still fits below `max_bytes`; the first one always does.
    pub(super) fn has_room(&self, message: &Message, max_bytes: usize) -> bool {
        let more = message.key().map_or(0, <[u8]>::len) + message.value().map_or(0, <[u8]>::len);
        self.is_empty() || self.bytes() + more <= max_bytes.min(BYTES_MAX)
    }

    pub(super) fn push(&mut self, message: &Message) {
        let before = self.offsets.len();
        if before == 0 {
            self.make_room();
        }
        self.offsets.push(message.offset());
        self.timestamps_ms.push(message.timestamp_ms());
        self.keys.push(message.key());
        self.values.push(message.value());
        let headers = &mut self.headers;
        message.headers(|name, value| {
            let headers = headers.get_or_insert_with(|| Headers::none(before));
            headers.names.append_value(name);
            headers.values.append_option(value);
            headers.count += 1;
        });
        if let Some(headers) = headers {
            headers.ends.push(headers.count);
        }
    }

    fn make_room(&mut self) {
        let Size {
            records,
            key_bytes,
            value_bytes,
        } = self.before;
        self.offsets.reserve(records);
        self.timestamps_ms.reserve(records);
        self.keys.reserve(records, key_bytes);
        self.values.reserve(records, value_bytes);
    }

    /// The records, with where to go on and what the partition held.
    pub(super) fn finish(self, next: Offset, span: Span) -> Records {
        Records {
            offsets: ScalarBuffer::from(self.offsets),
            timestamps_ms: ScalarBuffer::from(self.timestamps_ms),
            keys: self.keys.finish(),
            values: self.values.finish(),
            headers: self.headers.map(Headers::finish),
            next,
            span,
        }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self {
            ends: vec![0],
            bytes: Vec::new(),
            there: BooleanBufferBuilder::new(0),
        }
    }
}

impl Bytes {
    fn reserve(&mut self, records: usize, bytes: usize) {
        self.ends.reserve(records);
        // A little more than before, so that a few bytes do not double it.
        self.bytes.reserve(bytes + bytes / 16);
        self.there.reserve(records);
    }

    fn push(&mut self, bytes: Option<&[u8]>) {
        self.bytes.extend_from_slice(bytes.unwrap_or_default());
        self.ends
            .push(i32::try_from(self.bytes.len()).expect("a read is bounded to 512 MiB and one record"));
        self.there.append(bytes.is_some());
    }

    fn finish(mut self) -> BinaryArray {
        let nulls = NullBuffer::new(self.there.finish());
        let nulls = (nulls.null_count() > 0).then_some(nulls);
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

    fn finish(mut self) -> ArrayRef {
        let (item, fields) = header_fields();
        let columns: Vec<ArrayRef> = vec![Arc::new(self.names.finish()), Arc::new(self.values.finish())];
        let pairs = StructArray::new(fields, columns, None);
        let ends = OffsetBuffer::new(self.ends.into());
        Arc::new(ListArray::new(item, ends, Arc::new(pairs), None))
    }
}
