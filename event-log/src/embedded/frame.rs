//! A frame: many records of one partition as columns, the unit that is stored.
//!
//! All records of a frame were appended at the same moment and share its timestamp. Version 1, little endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | version |
//! | 1 | flags: 1 some record has a key, 2 some record has headers |
//! | 2 | zero |
//! | 4 | number of records, at least 1 |
//! | 8 | timestamp, milliseconds since 1970 |
//! | 8 | bytes of the frames that this partition stored before this one, so that a span of frames can be weighed |
//! | 4, 4, 4 | bytes of all keys, of all values, of all headers |
//! | 4 | zero |
//! | 4 per record | end of its value |
//! | 4 per record, 1 bit per record | end of its key, whether it has one (with flag 1) |
//! | 4 per record | end of its headers (with flag 2) |
//! | | keys, values, headers (each: name length 4, name, value length 4, value) |
//! | 4 | CRC-32 of everything before |

use std::ops::Range;

use crate::NewRecord;

/// The version that is written.
pub(super) const VERSION: u8 = 1;
/// A frame is closed when its keys and values reach this; only a single larger record exceeds it.
pub(super) const FRAME_BYTES: usize = 1024 * 1024;
/// A frame is closed at this many records.
pub(super) const FRAME_RECORDS: usize = 65_536;

const HEAD: usize = 40;
const CRC: usize = 4;
const HAS_KEYS: u8 = 1;
const HAS_HEADERS: u8 = 2;

/// Encodes `records` (not empty) as one frame.
pub(super) fn encode(records: &[&NewRecord], timestamp_ms: i64, bytes_before: u64) -> Vec<u8> {
    let (mut keys, mut values, mut headers, mut flags) = (0, 0, 0, 0);
    for record in records {
        values += record.value.len();
        if let Some(key) = &record.key {
            keys += key.len();
            flags |= HAS_KEYS;
        }
        if !record.headers.is_empty() {
            headers += headers_bytes(record);
            flags |= HAS_HEADERS;
        }
    }
    let mut frame = Vec::with_capacity(HEAD + records.len() * 13 + keys + values + headers + CRC);
    frame.extend_from_slice(&[VERSION, flags, 0, 0]);
    frame.extend_from_slice(&length(records.len()));
    frame.extend_from_slice(&timestamp_ms.to_le_bytes());
    frame.extend_from_slice(&bytes_before.to_le_bytes());
    frame.extend_from_slice(&length(keys));
    frame.extend_from_slice(&length(values));
    frame.extend_from_slice(&length(headers));
    frame.extend_from_slice(&[0; 4]);

    push_ends(&mut frame, records, |record| record.value.len());
    if flags & HAS_KEYS != 0 {
        push_ends(&mut frame, records, |record| {
            record.key.as_ref().map_or(0, |key| key.len())
        });
        for eight in records.chunks(8) {
            let mut bits = 0_u8;
            for (place, record) in eight.iter().enumerate() {
                bits |= u8::from(record.key.is_some()) << place;
            }
            frame.push(bits);
        }
    }
    if flags & HAS_HEADERS != 0 {
        push_ends(&mut frame, records, headers_bytes);
    }
    for record in records {
        if let Some(key) = &record.key {
            frame.extend_from_slice(key);
        }
    }
    for record in records {
        frame.extend_from_slice(&record.value);
    }
    for (name, value) in records.iter().flat_map(|record| &record.headers) {
        frame.extend_from_slice(&length(name.len()));
        frame.extend_from_slice(name.as_bytes());
        frame.extend_from_slice(&length(value.len()));
        frame.extend_from_slice(value);
    }
    let crc = crc32fast::hash(&frame);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame
}

/// What a record adds to a frame.
pub(super) fn record_bytes(record: &NewRecord) -> usize {
    record.key.as_ref().map_or(0, |key| key.len()) + record.value.len() + headers_bytes(record)
}

fn headers_bytes(record: &NewRecord) -> usize {
    record
        .headers
        .iter()
        .map(|(name, value)| 8 + name.len() + value.len())
        .sum()
}

fn push_ends(frame: &mut Vec<u8>, records: &[&NewRecord], len: impl Fn(&NewRecord) -> usize) {
    let mut end = 0;
    for record in records {
        end += len(record);
        frame.extend_from_slice(&length(end));
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes)
        .expect("frames are bounded far below 4 GiB")
        .to_le_bytes()
}

/// A frame, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    /// Number of records.
    pub(super) count: usize,
    /// Timestamp of all of them.
    pub(super) timestamp_ms: i64,
    /// Bytes of the partition's frames before this one.
    pub(super) bytes_before: u64,
    value_ends: &'a [u8],
    key_ends: Option<&'a [u8]>,
    key_bits: &'a [u8],
    header_ends: Option<&'a [u8]>,
    keys: &'a [u8],
    values: &'a [u8],
    headers: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a frame back, or says what is wrong with it.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let version = *bytes.first().ok_or("the frame is empty")?;
        if version != VERSION {
            return Err(format!(
                "frame version {version}, this foldline reads version {VERSION}"
            ));
        }
        if bytes.len() < HEAD + CRC {
            return Err(format!("a frame of {} bytes is shorter than its head", bytes.len()));
        }
        let (body, crc) = bytes.split_at(bytes.len() - CRC);
        let (stored, computed) = (u32_at(crc, 0), crc32fast::hash(body));
        if stored != computed {
            return Err(format!("checksum is {computed:08x} but {stored:08x} was stored"));
        }
        let flags = body[1];
        let count = u32_at(body, 4) as usize;
        let mut rest = Rest(&body[HEAD..]);
        let ends = count * 4;
        let has_keys = flags & HAS_KEYS != 0;
        let frame = Self {
            count,
            timestamp_ms: u64_at(body, 8).cast_signed(),
            bytes_before: u64_at(body, 16),
            value_ends: rest.take(ends)?,
            key_ends: if has_keys { Some(rest.take(ends)?) } else { None },
            key_bits: rest.take(if has_keys { count.div_ceil(8) } else { 0 })?,
            header_ends: if flags & HAS_HEADERS != 0 {
                Some(rest.take(ends)?)
            } else {
                None
            },
            keys: rest.take(u32_at(body, 24) as usize)?,
            values: rest.take(u32_at(body, 28) as usize)?,
            headers: rest.take(u32_at(body, 32) as usize)?,
        };
        if count == 0 || !rest.0.is_empty() {
            return Err(format!("{count} records and {} bytes too many", rest.0.len()));
        }
        Ok(frame)
    }

    /// Bytes of keys and values of the record at `index`.
    pub(super) fn record_bytes(&self, index: usize) -> usize {
        range(self.value_ends, index).len() + self.key_ends.map_or(0, |ends| range(ends, index).len())
    }

    /// The values of `records` one after another, and the end of each therein.
    pub(super) fn values(&self, records: Range<usize>) -> (&'a [u8], impl Iterator<Item = usize> + 'a) {
        columns(self.value_ends, self.values, records)
    }

    /// The keys of `records`, like [`Self::values`]; `None` where no record has one.
    pub(super) fn keys(&self, records: Range<usize>) -> Option<(&'a [u8], impl Iterator<Item = usize> + 'a)> {
        Some(columns(self.key_ends?, self.keys, records))
    }

    /// Whether the record at `index` has a key.
    pub(super) fn has_key(&self, index: usize) -> bool {
        self.key_ends.is_some() && self.key_bits[index / 8] >> (index % 8) & 1 == 1
    }

    /// Whether any record has headers.
    pub(super) fn has_headers(&self) -> bool {
        self.header_ends.is_some()
    }

    /// Name and value of each header of the record at `index`.
    pub(super) fn headers(&self, index: usize) -> Result<Vec<(&'a str, &'a [u8])>, String> {
        let Some(ends) = self.header_ends else {
            return Ok(Vec::new());
        };
        let mut rest = Rest(
            self.headers
                .get(range(ends, index))
                .ok_or("headers end beyond the frame")?,
        );
        let mut headers = Vec::new();
        while !rest.0.is_empty() {
            let name = rest.take_counted()?;
            let name = std::str::from_utf8(name).map_err(|_| "the name of a header is not UTF-8")?;
            headers.push((name, rest.take_counted()?));
        }
        Ok(headers)
    }
}

/// Bytes not taken yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or_else(|| format!("{bytes} bytes wanted, {} left", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn take_counted(&mut self) -> Result<&'a [u8], String> {
        let count = self.take(4)?;
        self.take(u32_at(count, 0) as usize)
    }
}

fn columns<'a>(ends: &'a [u8], bytes: &'a [u8], records: Range<usize>) -> (&'a [u8], impl Iterator<Item = usize> + 'a) {
    let start = start_of(ends, records.start);
    let until = start_of(ends, records.end);
    let ends = &ends[records.start * 4..records.end * 4];
    let ends = ends.chunks_exact(4).map(move |end| u32_at(end, 0) as usize - start);
    (&bytes[start..until], ends)
}

fn range(ends: &[u8], index: usize) -> Range<usize> {
    start_of(ends, index)..start_of(ends, index + 1)
}

/// Where the record at `index` starts: where the one before it ends.
fn start_of(ends: &[u8], index: usize) -> usize {
    if index == 0 {
        0
    } else {
        u32_at(ends, (index - 1) * 4) as usize
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<NewRecord> {
        vec![
            NewRecord {
                key: Some("k1".into()),
                value: "first".into(),
                headers: Vec::new(),
            },
            NewRecord {
                key: None,
                value: "".into(),
                headers: vec![("h".to_owned(), "x".into())],
            },
            NewRecord {
                key: Some("".into()),
                value: "third".into(),
                headers: Vec::new(),
            },
        ]
    }

    #[test]
    fn version_1_bytes_stay_readable() {
        let golden = "0103000003000000070000000000000009000000000000000200000000000000";
        let records = records();
        let bytes = encode(&records.iter().collect::<Vec<_>>(), 7, 9);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(hex.starts_with(&golden[..48]), "{hex}");
        let frame = Frame::parse(&bytes).expect("a frame just written");
        assert_eq!((frame.count, frame.timestamp_ms, frame.bytes_before), (3, 7, 9));
        let (values, ends) = frame.values(1..3);
        assert_eq!((values, ends.collect::<Vec<_>>()), (&b"third"[..], vec![0, 5]));
        assert_eq!(
            (0..3).map(|index| frame.has_key(index)).collect::<Vec<_>>(),
            [true, false, true]
        );
        assert_eq!(frame.headers(1), Ok(vec![("h", &b"x"[..])]));
        assert_eq!(frame.headers(2), Ok(Vec::new()));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let records = records();
        let bytes = encode(&records.iter().collect::<Vec<_>>(), 7, 9);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(Frame::parse(&damaged).is_err(), "byte {at}");
            assert!(Frame::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
