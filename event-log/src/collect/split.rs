//! A file to rows: unpacked if it is gzip, cut into lines at `\n` alone, lines cut into fields.
//!
//! Nothing is held but one row, and no row may grow without bound: a line beyond the bound is counted and skipped, and
//! a quote that never closes costs its own line, not the rest of the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

/// A row of a quoted file goes over at most this many lines and bytes; else its opening quote is taken for a stray one.
const QUOTED_LINES_MAX: usize = 1_000;
const QUOTED_BYTES_MAX: usize = 1024 * 1024;
const READ_BYTES: usize = 256 * 1024;

/// The bytes of a file as they are read.
pub(super) struct Stored {
    file: File,
    /// Bytes still to read: what is written behind them meanwhile is not part of it.
    left: u64,
    hasher: Sha256,
    read: Arc<AtomicU64>,
}

impl Stored {
    /// Opens the first `bytes` of `path`; `read` tells how many of them were read.
    pub(super) fn open(path: &Path, bytes: u64, read: Arc<AtomicU64>) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            left: bytes,
            hasher: Sha256::new(),
            read,
        })
    }

    /// Reads to the end, and gives the hash of the whole.
    pub(super) fn hash(mut self) -> io::Result<[u8; 32]> {
        io::copy(&mut BufReader::with_capacity(READ_BYTES, &mut self), &mut io::sink())?;
        Ok(self.hasher.finalize().into())
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let bytes = self.file.read(&mut buffer[..most])?;
        self.left -= bytes as u64;
        self.hasher.update(&buffer[..bytes]);
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// The text of a file.
pub(super) enum Text {
    Plain(BufReader<Stored>),
    Gzip(Box<BufReader<MultiGzDecoder<BufReader<Stored>>>>),
}

impl Text {
    /// The text of `stored`, which is gzip if it starts as gzip does.
    pub(super) fn of(mut stored: Stored) -> io::Result<Self> {
        let mut start = [0; 4];
        let mut bytes = 0;
        while bytes < start.len() {
            match stored.file.read(&mut start[bytes..])? {
                0 => break,
                more => bytes += more,
            }
        }
        stored.file.rewind()?;
        let stored = BufReader::with_capacity(READ_BYTES, stored);
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(BufReader::with_capacity(
                READ_BYTES,
                MultiGzDecoder::new(stored),
            )))),
            [0x28, 0xb5, 0x2f, 0xfd] => Err(io::Error::other("the file is packed with zstd: unpack it first")),
            [b'P', b'A', b'R', b'1'] => Err(io::Error::other("the file is Parquet: CSV, TSV and NDJSON are read")),
            _ => Ok(Self::Plain(stored)),
        }
    }

    /// Reads what is left, which shows whether a packed file is whole, and gives the hash of the stored bytes.
    pub(super) fn hash(mut self) -> io::Result<[u8; 32]> {
        io::copy(self.reader(), &mut io::sink())?;
        match self {
            Self::Plain(text) => text.into_inner().hash(),
            Self::Gzip(text) => text.into_inner().into_inner().into_inner().hash(),
        }
    }

    fn reader(&mut self) -> &mut dyn BufRead {
        match self {
            Self::Plain(text) => text,
            Self::Gzip(text) => text,
        }
    }
}

/// How lines are cut into fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cutting {
    /// Not at all.
    Whole,
    /// At every delimiter; quotes are data.
    Plain(u8),
    /// As RFC 4180 says.
    Quoted(u8),
}

/// What a row is. Its bytes and fields are in the [`Splitter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    /// It was cut into fields.
    Fields,
    /// It cannot be cut into fields, or need not be.
    Whole,
    /// It has more bytes than a row may have, and is gone.
    TooLong(u64),
}

/// Cuts text into rows.
pub(super) struct Splitter {
    text: Text,
    cutting: Cutting,
    line_bytes_max: usize,
    lines: u64,
    /// Lines that were read ahead.
    ahead: VecDeque<Line>,
    row: Line,
    fields: Fields,
}

#[derive(Debug, Default)]
struct Line {
    number: u64,
    bytes: Vec<u8>,
    too_long: Option<u64>,
}

impl Splitter {
    pub(super) fn new(text: Text, cutting: Cutting, line_bytes_max: usize) -> Self {
        Self {
            text,
            cutting,
            line_bytes_max,
            lines: 0,
            ahead: VecDeque::new(),
            row: Line::default(),
            fields: Fields::default(),
        }
    }

    /// The next row that is not blank.
    pub(super) fn next_row(&mut self) -> io::Result<Option<Row>> {
        loop {
            let Some(line) = self.next_line()? else { return Ok(None) };
            self.row = line;
            if let Some(bytes) = self.row.too_long {
                return Ok(Some(Row::TooLong(bytes)));
            }
            if !self.row.bytes.trim_ascii().is_empty() {
                return self.cut().map(Some);
            }
        }
    }

    /// The line that the row starts at, from 1.
    pub(super) fn line(&self) -> u64 {
        self.row.number
    }

    /// The bytes of the row without its end of line.
    pub(super) fn bytes(&self) -> &[u8] {
        without_return(&self.row.bytes)
    }

    /// The fields of the row, if they are text.
    pub(super) fn fields(&self) -> Option<Vec<&str>> {
        let text = std::str::from_utf8(&self.fields.text).ok()?;
        let mut start = 0;
        let mut fields = Vec::with_capacity(self.fields.ends.len());
        for end in &self.fields.ends {
            // A field can only end within a character when the bytes of the row were no text.
            fields.push(text.get(start..*end)?);
            start = *end;
        }
        Some(fields)
    }

    /// The text, to be read on.
    pub(super) fn into_text(self) -> Text {
        self.text
    }

    fn cut(&mut self) -> io::Result<Row> {
        match self.cutting {
            Cutting::Whole => Ok(Row::Whole),
            Cutting::Plain(delimiter) => {
                self.fields.clear();
                for field in without_return(&self.row.bytes).split(|byte| *byte == delimiter) {
                    self.fields.text.extend_from_slice(field);
                    self.fields.end();
                }
                Ok(Row::Fields)
            }
            Cutting::Quoted(delimiter) => self.cut_quoted(delimiter),
        }
    }

    fn cut_quoted(&mut self, delimiter: u8) -> io::Result<Row> {
        self.fields.clear();
        let mut more: Vec<Line> = Vec::new();
        let mut bytes = 0;
        loop {
            let line = more.last().map_or(&self.row.bytes, |line| &line.bytes);
            bytes += line.len();
            self.fields.feed(without_return(line), delimiter);
            if self.fields.mode != Mode::Quoted {
                break;
            }
            if line.ends_with(b"\r") {
                self.fields.feed(b"\r", delimiter);
            }
            self.fields.feed(b"\n", delimiter);
            let next = if more.len() < QUOTED_LINES_MAX && bytes < QUOTED_BYTES_MAX {
                self.next_line()?
            } else {
                None
            };
            let Some(next) = next else {
                return Ok(self.give_back(more));
            };
            let too_long = next.too_long.is_some();
            more.push(next);
            if too_long {
                return Ok(self.give_back(more));
            }
        }
        for line in more {
            self.row.bytes.push(b'\n');
            self.row.bytes.extend_from_slice(&line.bytes);
        }
        self.fields.end();
        Ok(if self.fields.broken { Row::Whole } else { Row::Fields })
    }

    /// The row is its first line alone; the others are read again.
    fn give_back(&mut self, more: Vec<Line>) -> Row {
        for line in more.into_iter().rev() {
            self.ahead.push_front(line);
        }
        Row::Whole
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::new();
        let reader = self.text.reader();
        let max = self.line_bytes_max as u64 + 2;
        let read = Read::take(&mut *reader, max).read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.lines += 1;
        let mut too_long = None;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if read == max {
            too_long = Some(read + skip_line(reader)?);
        }
        if too_long.is_none() && without_return(&bytes).len() > self.line_bytes_max {
            too_long = Some(bytes.len() as u64);
        }
        if too_long.is_some() {
            bytes = Vec::new();
        }
        if self.lines == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Ok(Some(Line {
            number: self.lines,
            bytes,
            too_long,
        }))
    }
}

/// Reads to the end of the line and gives the number of bytes before it.
fn skip_line(reader: &mut dyn BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let length = buffer.len();
        if length == 0 {
            return Ok(skipped);
        }
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            reader.consume(end + 1);
            return Ok(skipped + end as u64);
        }
        reader.consume(length);
        skipped += length as u64;
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Fields of a row, one after another.
#[derive(Debug, Default)]
struct Fields {
    text: Vec<u8>,
    ends: Vec<usize>,
    mode: Mode,
    /// A closing quote was followed by something else than a delimiter.
    broken: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    #[default]
    Start,
    Plain,
    Quoted,
    /// After a quote within quotes: it closes, or it is the first of two.
    Closed,
}

impl Fields {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.mode = Mode::Start;
        self.broken = false;
    }

    fn end(&mut self) {
        self.ends.push(self.text.len());
        self.mode = Mode::Start;
    }

    fn feed(&mut self, bytes: &[u8], delimiter: u8) {
        for byte in bytes {
            match (self.mode, *byte) {
                (Mode::Start, b'"') => self.mode = Mode::Quoted,
                (Mode::Quoted, b'"') => self.mode = Mode::Closed,
                (Mode::Quoted, other) => self.text.push(other),
                (Mode::Closed, b'"') => {
                    self.text.push(b'"');
                    self.mode = Mode::Quoted;
                }
                (_, other) if other == delimiter => self.end(),
                (mode, other) => {
                    self.broken |= mode == Mode::Closed;
                    self.text.push(other);
                    self.mode = Mode::Plain;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(content: &[u8], cutting: Cutting, max: usize) -> Vec<(u64, Row, Vec<u8>, Vec<String>)> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, content).expect("written");
        let text = Text::of(Stored::open(&path, u64::MAX, Arc::default()).expect("opened")).expect("text");
        let mut splitter = Splitter::new(text, cutting, max);
        let mut rows = Vec::new();
        while let Some(row) = splitter.next_row().expect("read") {
            let fields = splitter
                .fields()
                .unwrap_or_default()
                .into_iter()
                .map(str::to_owned)
                .collect();
            let fields = if row == Row::Fields { fields } else { Vec::new() };
            rows.push((splitter.line(), row, splitter.bytes().to_vec(), fields));
        }
        rows
    }

    fn fields(content: &str, cutting: Cutting) -> Vec<Vec<String>> {
        rows(content.as_bytes(), cutting, 1000)
            .into_iter()
            .map(|row| row.3)
            .collect()
    }

    #[test]
    fn quoted_rows_are_cut_as_rfc_4180_says() {
        let text = "\u{feff}a,b\r\n\"x,\"\"y\"\"\",\"two\r\nlines\"\r\n,\r\n\r\n5\" pipe,\"\"\n";
        assert_eq!(
            fields(text, Cutting::Quoted(b',')),
            [["a", "b"], ["x,\"y\"", "two\r\nlines"], ["", ""], ["5\" pipe", ""]]
        );
    }

    #[test]
    fn a_quote_that_never_closes_costs_its_line() {
        let text = "a,b\n\"open,1\nc,d\n\"x\"y,2\n\"e\",f";
        let found = rows(text.as_bytes(), Cutting::Quoted(b','), 1000);
        let kinds: Vec<_> = found.iter().map(|row| (row.0, row.1, row.2.as_slice())).collect();
        assert_eq!(
            kinds,
            [
                (1, Row::Fields, &b"a,b"[..]),
                // The quote before x closes this one, so what follows it is out of place.
                (2, Row::Whole, b"\"open,1\nc,d\n\"x\"y,2"),
                (5, Row::Fields, b"\"e\",f"),
            ]
        );
        let found = rows(b"a,b\n\"open,1\nc,d\ne,f", Cutting::Quoted(b','), 1000);
        let kinds: Vec<_> = found.iter().map(|row| (row.0, row.1)).collect();
        assert_eq!(
            kinds,
            [(1, Row::Fields), (2, Row::Whole), (3, Row::Fields), (4, Row::Fields)]
        );
    }

    #[test]
    fn without_quoting_quotes_are_data_and_only_a_line_feed_ends_a_line() {
        let text = "\"a\tb\u{2028}c\rd\n\"\t\u{85}\r\n";
        assert_eq!(
            fields(text, Cutting::Plain(b'\t')),
            [["\"a", "b\u{2028}c\rd"], ["\"", "\u{85}"]]
        );
    }

    #[test]
    fn long_lines_are_counted_and_skipped() {
        let text = format!("ok\n{}\n{}\r\nend", "x".repeat(11), "y".repeat(10));
        let kinds: Vec<_> = rows(text.as_bytes(), Cutting::Whole, 10)
            .into_iter()
            .map(|row| (row.0, row.1))
            .collect();
        assert_eq!(
            kinds,
            [(1, Row::Whole), (2, Row::TooLong(11)), (3, Row::Whole), (4, Row::Whole)]
        );
        let text = format!("{}\nend", "x".repeat(1_000_000));
        let kinds: Vec<_> = rows(text.as_bytes(), Cutting::Whole, 10)
            .into_iter()
            .map(|row| (row.0, row.1))
            .collect();
        assert_eq!(kinds, [(1, Row::TooLong(1_000_000)), (2, Row::Whole)]);
    }
}
