//! Files into the log: `foldline import`.
//!
//! A file is known by its content: the hash of its stored bytes, of what decides how it is cut into rows, and of the
//! stream's name. It is read once for that, and a second time, as far as then, for its rows. They are appended in chunks
//! whose bounds follow from the file alone, each with the number of its last row as its sequence. So an import that is
//! started again, after whatever end, goes on behind the last row that is in, appends nothing twice, and knows a file
//! that is in already.
//!
//! A row of CSV or TSV becomes a JSON object by column names; an empty field is left out. What cannot be cut into the
//! right number of fields, or is no text, goes into the log as its bytes and becomes a dead letter there. Only a line
//! larger than a record may be is not stored: it is counted and named in the report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use foldline_sql::Stream;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::key::key_of;
use super::row::RowEncoder;
use super::split::{Cutting, Row, Splitter, Stored, Text};
use crate::{Appended, EventLog, LogError, NewRecord, ProducerSequence};

/// The sequence that says that a file is in. (The largest integer that every reader of JSON keeps.)
pub const FINISHED: u64 = (1 << 53) - 1;

/// Part of a file's name: changes when files are cut into chunks in another way.
const CUTTING_VERSION: u8 = 1;
/// A chunk ends at this many rows or bytes of the file. With a rate, a chunk goes in parts.
const CHUNK_ROWS: usize = 8_192;
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks that wait for the log.
const CHUNKS_AHEAD: usize = 4;
/// With a rate: so many parts a second.
const PARTS_A_SECOND: u64 = 10;
/// A log that is full is asked again for so long.
const FULL_FOR: Duration = Duration::from_secs(300);
/// Rows named in a report.
const NAMED_MAX: usize = 100;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// Comma separated, quoted as RFC 4180 says unless told otherwise.
    Csv,
    /// Tab separated, quotes are data unless told otherwise.
    Tsv,
    /// One JSON event a line.
    Ndjson,
}

/// How a file is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// Format; by the extension if not given.
    pub format: Option<FileFormat>,
    /// Whether the first line names the columns; if not given, it does when it names a declared column.
    pub header: Option<bool>,
    /// Whether quotes quote.
    pub quoting: Option<bool>,
    /// Names of the columns; otherwise the header's, otherwise the declared ones in order.
    pub columns: Option<Vec<String>>,
    /// Events a second, at most.
    pub rate: Option<u64>,
    /// Whether to import a file that is in already.
    pub again: bool,
    /// The largest record that the log takes.
    pub record_bytes_max: usize,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            format: None,
            header: None,
            quoting: None,
            columns: None,
            rate: None,
            again: false,
            record_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// Where rows go.
#[async_trait]
pub trait ImportSink: Send + Sync {
    /// The last sequence stored of `file`, if any.
    async fn last_sequence(&self, file: &str) -> Result<Option<u64>, LogError>;

    /// Appends all records or none, unless `sequence` of `file` is in already.
    async fn append(&self, file: &str, sequence: u64, records: Vec<NewRecord>) -> Result<Appended, LogError>;
}

/// A log as a sink.
#[derive(Debug, Clone)]
pub struct LogSink {
    log: Arc<dyn EventLog>,
    stream: String,
    topic: String,
}

impl LogSink {
    /// The topic of `stream` in `log`; created when it is not there.
    pub async fn open(log: Arc<dyn EventLog>, stream: &Stream) -> Result<Self, LogError> {
        log.ensure_topic(&stream.topic, stream.partitions).await?;
        Ok(Self {
            log,
            stream: stream.name.clone(),
            topic: stream.topic.clone(),
        })
    }
}

#[async_trait]
impl ImportSink for LogSink {
    async fn last_sequence(&self, file: &str) -> Result<Option<u64>, LogError> {
        self.log.last_sequence(&producer(file, &self.stream)).await
    }

    async fn append(&self, file: &str, sequence: u64, records: Vec<NewRecord>) -> Result<Appended, LogError> {
        let producer = producer(file, &self.stream);
        self.log
            .append(&self.topic, records, Some(ProducerSequence { producer, sequence }))
            .await
    }
}

/// The producer that stands for a file and a stream.
pub(super) fn producer(file: &str, stream: &str) -> String {
    format!("import/{file}/{stream}")
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// Bytes of the file, as stored, that were read.
    pub bytes_done: u64,
    /// Bytes of the file.
    pub bytes_total: u64,
    /// Rows that are in the log.
    pub rows: u64,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReport {
    /// Name of the file in the log.
    pub file: String,
    /// The file was in before: nothing was done. `--again` forces it.
    pub already_imported: bool,
    /// Rows that were appended now.
    pub appended: u64,
    /// Rows that an earlier import of the file had appended.
    pub skipped: u64,
    /// Of the appended ones: rows that could not be cut into fields and went in as their bytes.
    pub unsplit: u64,
    /// Rows that are larger than a record may be and were not stored.
    pub rejected: u64,
    /// The first rejected rows: line and reason.
    pub rejected_rows: Vec<(u64, String)>,
}

/// Why a file was not imported, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read, or not to its end.
    #[error("cannot read {}{}: {source}", .path.display(), after(*.rows))]
    Read {
        /// Which.
        path: PathBuf,
        /// Rows that are in.
        rows: u64,
        /// Cause.
        source: std::io::Error,
    },
    /// The extension says nothing.
    #[error("cannot tell the format of {}: name one of csv, tsv, ndjson", .0.display())]
    UnknownFormat(PathBuf),
    /// The file is one JSON array.
    #[error("{} is a JSON array: write one event a line, for example with jq -c '.[]'", .0.display())]
    Array(PathBuf),
    /// The columns do not fit the stream.
    #[error("{} does not fit stream \"{stream}\": {reason}; its columns are {}; the stream declares {}",
        .path.display(), .columns.join(", "), .declared.join(", "))]
    Columns {
        /// File.
        path: PathBuf,
        /// Stream.
        stream: String,
        /// What does not fit.
        reason: String,
        /// The file's.
        columns: Vec<String>,
        /// The stream's.
        declared: Vec<String>,
    },
    /// The file is another one now than when it was looked at first. Imported again, it is a new file to the log.
    #[error(
        "{} changed while it was imported, and {rows} rows of it are in: importing it again appends them a second time, \
         so import what is missing as a file of its own", .path.display()
    )]
    Changed {
        /// Which.
        path: PathBuf,
        /// Rows that are in.
        rows: u64,
    },
    /// The file became longer while it was imported. What was there at first is in.
    #[error(
        "{} grew while it was imported: the {rows} rows of its first {bytes} bytes are in; import what follows as a file \
         of its own", .path.display()
    )]
    Grew {
        /// Which.
        path: PathBuf,
        /// Its bytes when it was looked at first.
        bytes: u64,
        /// Rows that are in.
        rows: u64,
    },
    /// The log did not take the rows. What is in is in: the same command goes on behind it.
    #[error("the log took {rows} rows of {} and then failed", .path.display())]
    Log {
        /// File.
        path: PathBuf,
        /// Rows that are in.
        rows: u64,
        /// Cause.
        source: LogError,
    },
}

fn after(rows: u64) -> String {
    if rows == 0 {
        return String::new();
    }
    format!(" beyond its first {rows} rows, which are in")
}

/// Imports the file at `path` into `stream`.
pub async fn import(
    sink: &dyn ImportSink,
    stream: &Stream,
    path: &Path,
    options: &ImportOptions,
    progress: &mut (dyn FnMut(ImportProgress) + Send),
) -> Result<ImportReport, ImportError> {
    let plan = {
        let (path, stream, options) = (path.to_owned(), stream.clone(), options.clone());
        Arc::new(blocking(path.clone(), move || Plan::of(path, stream, &options)).await?)
    };
    let mut report = ImportReport {
        file: plan.file.clone(),
        ..ImportReport::default()
    };
    let failed = |rows: u64| {
        move |source| ImportError::Log {
            path: path.to_owned(),
            rows,
            source,
        }
    };
    let last = sink.last_sequence(&plan.file).await.map_err(failed(0))?;
    if last == Some(FINISHED) {
        report.already_imported = true;
        return Ok(report);
    }
    let rows_in = last.map_or(0, |last| last + 1);
    report.skipped = rows_in;

    let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    let reading = {
        let plan = Arc::clone(&plan);
        tokio::task::spawn_blocking(move || plan.read(rows_in, &sender))
    };
    let mut pace = options.rate.map(Pace::new);
    let mut rows = rows_in;
    while let Some(chunk) = chunks.recv().await {
        let Chunk {
            records,
            rows_until,
            bytes_done,
            unsplit,
            rejected,
        } = chunk;
        let mut rest = records;
        // Rejected rows have numbers too, so only without them do records tell the number of the last row of a part.
        let part_records = match &pace {
            Some(pace) if rejected.is_empty() => pace.part(),
            _ => usize::MAX,
        };
        while rest.len() > part_records {
            let part: Vec<NewRecord> = rest.drain(..part_records).collect();
            let part_rows = rows + part.len() as u64;
            append(sink, &plan.file, part_rows - 1, part, &mut pace)
                .await
                .map_err(failed(rows))?;
            rows = part_rows;
            report.appended += part_records as u64;
            progress(ImportProgress {
                bytes_done,
                bytes_total: plan.bytes,
                rows,
            });
        }
        report.appended += rest.len() as u64;
        append(sink, &plan.file, rows_until - 1, rest, &mut pace)
            .await
            .map_err(failed(rows))?;
        rows = rows_until;
        report.unsplit += unsplit;
        report.rejected += rejected.len() as u64;
        let room = NAMED_MAX.saturating_sub(report.rejected_rows.len());
        report.rejected_rows.extend(rejected.into_iter().take(room));
        progress(ImportProgress {
            bytes_done,
            bytes_total: plan.bytes,
            rows,
        });
    }
    let read = reading.await.unwrap_or_else(|cause| Err(std::io::Error::other(cause)));
    let path = path.to_owned();
    match read {
        Ok(content) if content == plan.content => {}
        Ok(_) => return Err(ImportError::Changed { path, rows }),
        Err(source) => return Err(ImportError::Read { path, rows, source }),
    }
    append(sink, &plan.file, FINISHED, Vec::new(), &mut None)
        .await
        .map_err(failed(rows))?;
    progress(ImportProgress {
        bytes_done: plan.bytes,
        bytes_total: plan.bytes,
        rows,
    });
    let bytes = plan.bytes;
    if tokio::fs::metadata(&path).await.is_ok_and(|now| now.len() > bytes) {
        return Err(ImportError::Grew { path, bytes, rows });
    }
    Ok(report)
}

/// Appends at the pace, and asks a full log again.
async fn append(
    sink: &dyn ImportSink,
    file: &str,
    sequence: u64,
    records: Vec<NewRecord>,
    pace: &mut Option<Pace>,
) -> Result<(), LogError> {
    if let Some(pace) = pace {
        pace.wait_for(records.len() as u64).await;
    }
    let give_up = Instant::now() + FULL_FOR;
    let mut pause = Duration::from_millis(50);
    loop {
        match sink.append(file, sequence, records.clone()).await {
            Ok(_) => return Ok(()),
            Err(LogError::Full(_)) if Instant::now() < give_up => {
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Events at a rate.
struct Pace {
    rate: u64,
    start: Instant,
    events: u64,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            start: Instant::now(),
            events: 0,
        }
    }

    /// Events that go at once.
    fn part(&self) -> usize {
        (self.rate / PARTS_A_SECOND).max(1) as usize
    }

    async fn wait_for(&mut self, events: u64) {
        sleep_until(self.start + Duration::from_secs_f64(self.events as f64 / self.rate as f64)).await;
        self.events += events;
    }
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
) -> Result<T, ImportError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(cause) => Err(unreadable(&path)(std::io::Error::other(cause))),
    }
}

/// What is known of a file before it is imported.
struct Plan {
    path: PathBuf,
    stream: Stream,
    /// Its name in the log.
    file: String,
    bytes: u64,
    content: [u8; 32],
    cutting: Cutting,
    header: bool,
    /// Not for NDJSON.
    encoder: Option<RowEncoder>,
    record_bytes_max: usize,
}

/// Rows that go in together.
struct Chunk {
    records: Vec<NewRecord>,
    /// Number of rows of the file up to here.
    rows_until: u64,
    bytes_done: u64,
    unsplit: u64,
    rejected: Vec<(u64, String)>,
}

impl Plan {
    fn of(path: PathBuf, stream: Stream, options: &ImportOptions) -> Result<Self, ImportError> {
        let format = options
            .format
            .or_else(|| format_of(&path))
            .ok_or_else(|| ImportError::UnknownFormat(path.clone()))?;
        let cutting = match (format, options.quoting) {
            (FileFormat::Ndjson, _) => Cutting::Whole,
            (FileFormat::Csv, Some(false)) => Cutting::Plain(b','),
            (FileFormat::Csv, _) => Cutting::Quoted(b','),
            (FileFormat::Tsv, Some(true)) => Cutting::Quoted(b'\t'),
            (FileFormat::Tsv, _) => Cutting::Plain(b'\t'),
        };
        let read = Arc::new(AtomicU64::new(0));
        let content = Stored::open(&path, u64::MAX, Arc::clone(&read))
            .and_then(Text::of)
            .and_then(Text::hash)
            .map_err(unreadable(&path))?;
        let mut plan = Self {
            file: String::new(),
            bytes: read.load(Ordering::Relaxed),
            content,
            cutting,
            header: false,
            encoder: None,
            record_bytes_max: options.record_bytes_max,
            path,
            stream,
        };
        if cutting == Cutting::Whole {
            plan.refuse_array()?;
        } else {
            plan.find_columns(options)?;
        }
        plan.file = plan.name(options);
        Ok(plan)
    }

    /// An array over many lines would become as many dead letters.
    fn refuse_array(&self) -> Result<(), ImportError> {
        let mut splitter = self.splitter(Arc::default()).map_err(unreadable(&self.path))?;
        let first = splitter.next_row().map_err(unreadable(&self.path))?;
        if first.is_some() && splitter.bytes().trim_ascii_start().starts_with(b"[") {
            return Err(ImportError::Array(self.path.clone()));
        }
        Ok(())
    }

    fn find_columns(&mut self, options: &ImportOptions) -> Result<(), ImportError> {
        let declared: Vec<String> = self.stream.columns.iter().map(|column| column.name.clone()).collect();
        let mut splitter = self.splitter(Arc::default()).map_err(unreadable(&self.path))?;
        let first = splitter.next_row().map_err(unreadable(&self.path))?;
        let first = if first == Some(Row::Fields) {
            splitter.fields().unwrap_or_default()
        } else {
            Vec::new()
        };
        self.header = options
            .header
            .unwrap_or_else(|| first.iter().any(|name| declared.iter().any(|one| one == name)));
        let columns = match &options.columns {
            Some(columns) => columns.clone(),
            None if self.header => first.into_iter().map(str::to_owned).collect(),
            None => declared.clone(),
        };
        let empty = self.bytes == 0;
        if let Some(reason) = self.misfit(&columns).filter(|_| !empty) {
            let (path, stream) = (self.path.clone(), self.stream.name.clone());
            return Err(ImportError::Columns {
                path,
                stream,
                reason,
                columns,
                declared,
            });
        }
        self.encoder = Some(RowEncoder::new(&columns, &self.stream));
        Ok(())
    }

    /// Why rows with these columns could not become rows of the stream.
    fn misfit(&self, columns: &[String]) -> Option<String> {
        if let Some(twice) = columns
            .iter()
            .enumerate()
            .find(|(place, name)| columns[..*place].contains(name))
        {
            return Some(format!("column \"{}\" is there twice", twice.1));
        }
        let stream = &self.stream;
        let mut needed: Vec<&str> = stream
            .columns
            .iter()
            .filter(|column| !column.nullable)
            .map(|column| column.name.as_str())
            .collect();
        needed.extend(stream.key.as_deref());
        needed.extend(stream.event_time.as_deref());
        needed.extend(
            stream
                .unique
                .iter()
                .flat_map(|unique| unique.columns.iter().map(String::as_str)),
        );
        needed.retain(|name| !columns.iter().any(|column| column == name));
        let mut missing: Vec<&str> = Vec::new();
        needed.into_iter().for_each(|name| {
            if !missing.contains(&name) {
                missing.push(name);
            }
        });
        (!missing.is_empty()).then(|| format!("it lacks {}", missing.join(", ")))
    }

    /// The name of the file in the log.
    fn name(&self, options: &ImportOptions) -> String {
        let mut hasher = Sha256::new();
        let cutting = match self.cutting {
            Cutting::Whole => [0, 0],
            Cutting::Plain(delimiter) => [1, delimiter],
            Cutting::Quoted(delimiter) => [2, delimiter],
        };
        hasher.update([CUTTING_VERSION, cutting[0], cutting[1], u8::from(self.header)]);
        hasher.update(self.content);
        let names = options.columns.iter().flatten().chain([&self.stream.name]);
        for name in names {
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
        }
        if options.again {
            hasher.update(Uuid::new_v4().as_bytes());
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn splitter(&self, read: Arc<AtomicU64>) -> std::io::Result<Splitter> {
        let text = Stored::open(&self.path, self.bytes, read).and_then(Text::of)?;
        Ok(Splitter::new(text, self.cutting, self.record_bytes_max))
    }

    /// Reads the file, sends the rows from number `rows_in` on, and gives the hash of what it read.
    fn read(&self, rows_in: u64, sender: &mpsc::Sender<Chunk>) -> std::io::Result<[u8; 32]> {
        let read = Arc::new(AtomicU64::new(0));
        let mut splitter = self.splitter(Arc::clone(&read))?;
        if self.header {
            splitter.next_row()?;
        }
        let mut rows = 0_u64;
        loop {
            let mut chunk = Chunk {
                records: Vec::new(),
                rows_until: 0,
                bytes_done: 0,
                unsplit: 0,
                rejected: Vec::new(),
            };
            let mut bytes = 0;
            let mut ended = true;
            let first = rows;
            while let Some(row) = splitter.next_row()? {
                if rows >= rows_in {
                    self.take(&splitter, row, &mut chunk);
                }
                rows += 1;
                bytes += splitter.bytes().len();
                if bytes >= CHUNK_BYTES || (rows - first) as usize >= CHUNK_ROWS {
                    ended = false;
                    break;
                }
            }
            chunk.rows_until = rows;
            chunk.bytes_done = read.load(Ordering::Relaxed);
            if rows > first && rows > rows_in && sender.blocking_send(chunk).is_err() {
                // Nobody waits for the rows any more.
                return Ok(self.content);
            }
            if ended {
                break;
            }
        }
        splitter.into_text().hash()
    }

    fn take(&self, splitter: &Splitter, row: Row, chunk: &mut Chunk) {
        let record = match row {
            Row::TooLong(bytes) => {
                return chunk.rejected.push((splitter.line(), self.too_long(bytes)));
            }
            Row::Fields => {
                let encoder = self.encoder.as_ref().expect("rows with fields have columns");
                splitter.fields().and_then(|fields| encoder.encode(&fields))
            }
            Row::Whole if self.cutting == Cutting::Whole => {
                let value = Bytes::copy_from_slice(splitter.bytes());
                let key = key_of(&value, self.stream.key.as_deref()).ok();
                key.map(|key| NewRecord {
                    key,
                    value,
                    headers: Vec::new(),
                })
            }
            Row::Whole => None,
        };
        let unsplit = record.is_none();
        let record = record.unwrap_or_else(|| NewRecord {
            value: Bytes::copy_from_slice(splitter.bytes()),
            ..NewRecord::default()
        });
        let bytes = record.value.len() + record.key.as_ref().map_or(0, Bytes::len);
        if bytes > self.record_bytes_max {
            return chunk.rejected.push((splitter.line(), self.too_long(bytes as u64)));
        }
        chunk.unsplit += u64::from(unsplit);
        chunk.records.push(record);
    }

    fn too_long(&self, bytes: u64) -> String {
        format!("{bytes} bytes, at most {} are taken", self.record_bytes_max)
    }
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::Read {
        path: path.clone(),
        rows: 0,
        source,
    }
}

/// The format that the extension names, below `.gz`.
fn format_of(path: &Path) -> Option<FileFormat> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" => Some(FileFormat::Csv),
        "tsv" | "tab" => Some(FileFormat::Tsv),
        "ndjson" | "jsonl" | "json" => Some(FileFormat::Ndjson),
        _ => None,
    }
}
