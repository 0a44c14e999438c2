//! Judged rows to Parquet files, one per event date, and the record of what is in them. CPU work without IO.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use chrono::{Days, NaiveDate};
use foldline_event_log::{DeadLetter, EventBatch, Offset, TopicPartition};
use foldline_sql::{Stream, system_columns};
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use uuid::Uuid;

use super::path::FileName;
use super::{ArchiveError, ArchivedFile, Boundary, Commit, RAW, RECORD_TIME_MAX, VERSION, follows};

/// Rows of a row group: some 40 MB of 600-byte events, so that a reader of a few columns skips whole chunks.
const ROW_GROUP_ROWS: usize = 65_536;
/// Fast; higher levels cost the archiver more than they save here.
const ZSTD_LEVEL: i32 = 1;
const DICTIONARY_BYTES: usize = 64 << 10;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Columns of a dead-letter file, beside the system columns.
pub(super) const REASON: &str = "reason";

/// A file ready to be stored.
#[derive(Debug)]
pub(super) struct EncodedFile {
    pub(super) path: Path,
    pub(super) file: ArchivedFile,
    pub(super) bytes: Bytes,
}

/// Encodes `batches`, which follow each other in one partition, as files of `attempt`. Hands each file to `store` as
/// soon as it is encoded; stops when that says false. Returns the commit, its files not yet filled in.
pub(super) fn encode(
    stream: &Stream,
    batches: &[EventBatch],
    attempt: Uuid,
    mut store: impl FnMut(EncodedFile) -> bool,
) -> Result<Commit, ArchiveError> {
    let commit = describe(stream, batches, attempt)?;
    let name = FileName {
        incarnation: commit.partition.incarnation,
        partition: commit.partition.partition,
        first: commit.offsets.start,
        attempt,
    };
    let encoded = encode_files(stream, batches, &commit.partition, name, &mut store);
    encoded.map_err(|source| ArchiveError::Encode {
        partition: commit.partition.clone(),
        source,
    })?;
    Ok(commit)
}

/// What `batches` contain, checked: they touch, and each offset is one row, one dead letter, or in a hole.
fn describe(stream: &Stream, batches: &[EventBatch], attempt: Uuid) -> Result<Commit, ArchiveError> {
    let (first, last) = match batches {
        [] => panic!("a commit of no batches: the archiver rolls only what it holds"),
        [first, .., last] => (first, last),
        [only] => (only, only),
    };
    let partition = &first.partition;
    let mut boundaries = Vec::new();
    for pair in batches.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        follows(partition, before.offsets.end, after.offsets.start)?;
        if let Some(record_time) = before.marks.record_time
            && before.tick != after.tick
        {
            boundaries.push(Boundary {
                before: record_time,
                after: after.tick,
                next: before.offsets.end,
                marks: before.marks,
            });
        }
    }
    let mut commit = Commit {
        version: VERSION,
        attempt,
        partition: partition.clone(),
        offsets: first.offsets.start..last.offsets.end,
        first_tick: first.tick,
        judged_by: stream.judging_id(),
        files: Vec::new(),
        dead_letters: None,
        holes: Vec::new(),
        boundaries,
        marks: last.marks,
        late: 0,
        duplicates: 0,
        nulled: BTreeMap::new(),
        gap: None,
    };
    let unreadable = |source: ParquetError| ArchiveError::Encode {
        partition: partition.clone(),
        source,
    };
    for batch in batches {
        commit.holes.extend(holes(batch).map_err(unreadable)?);
        commit.late += count_true(&batch.rows, system_columns::LATE).map_err(unreadable)?;
        commit.duplicates += count_true(&batch.rows, system_columns::DUPLICATE).map_err(unreadable)?;
        for (column, count) in &batch.nulled {
            *commit.nulled.entry(column.clone()).or_default() += count;
        }
    }
    Ok(commit)
}

/// The ranges inside the batch that hold no record. Rows and dead letters must ascend, and never share an offset.
fn holes(batch: &EventBatch) -> Result<Vec<Range<Offset>>, ParquetError> {
    let rows = offsets_of(&batch.rows)?;
    let mut rows = rows.iter().map(|&offset| offset.cast_unsigned()).peekable();
    let mut dead = batch.dead_letters.iter().map(|letter| letter.offset.0).peekable();
    let mut holes = Vec::new();
    let mut next = batch.offsets.start.0;
    loop {
        let offset = match (rows.peek(), dead.peek()) {
            (Some(row), Some(letter)) if row < letter => rows.next(),
            (_, Some(_)) => dead.next(),
            (_, None) => rows.next(),
        };
        let Some(offset) = offset else { break };
        if offset < next || offset >= batch.offsets.end.0 {
            return Err(ParquetError::General(format!(
                "offset {offset} comes twice, out of order, or outside of {}..{}",
                batch.offsets.start, batch.offsets.end
            )));
        }
        if offset > next {
            holes.push(Offset(next)..Offset(offset));
        }
        next = offset + 1;
    }
    if next < batch.offsets.end.0 {
        holes.push(Offset(next)..batch.offsets.end);
    }
    Ok(holes)
}

/// The rows of one event date: pieces of batches, in offset order.
#[derive(Debug)]
struct DateRows {
    /// Batch, and which of its rows; `None` for all.
    pieces: Vec<(usize, Option<UInt32Array>)>,
    event_times: (i64, i64),
}

fn encode_files(
    stream: &Stream,
    batches: &[EventBatch],
    partition: &TopicPartition,
    name: FileName,
    store: &mut impl FnMut(EncodedFile) -> bool,
) -> Result<(), ParquetError> {
    for (day, rows) in split_by_day(stream, batches)? {
        let date = date_of(day)?;
        let pieces = rows.pieces.iter().map(|(batch, taken)| {
            let rows = file_columns(stream, &batches[*batch].rows)?;
            Ok(match taken {
                Some(taken) => take_record_batch(&rows, taken)?,
                None => rows,
            })
        });
        let encoded = write_file(
            name.rows(&partition.topic, date),
            Some(date),
            Some(rows.event_times),
            pieces,
        )?;
        if !store(encoded) {
            return Err(ParquetError::General(
                "abandoned, because a file could not be stored".to_owned(),
            ));
        }
    }
    let letters: Vec<&DeadLetter> = batches.iter().flat_map(|batch| &batch.dead_letters).collect();
    if !letters.is_empty() {
        let rows = dead_letter_rows(partition, &letters);
        let encoded = write_file(
            name.dead_letters(&partition.topic),
            None,
            None,
            std::iter::once(Ok(rows)),
        )?;
        if !store(encoded) {
            return Err(ParquetError::General(
                "abandoned, because a file could not be stored".to_owned(),
            ));
        }
    }
    Ok(())
}

fn split_by_day(stream: &Stream, batches: &[EventBatch]) -> Result<BTreeMap<i64, DateRows>, ParquetError> {
    let mut days: BTreeMap<i64, DateRows> = BTreeMap::new();
    for (index, batch) in batches.iter().enumerate() {
        let times = event_times(stream, &batch.rows)?;
        let mut of_batch: BTreeMap<i64, (Vec<u32>, (i64, i64))> = BTreeMap::new();
        for (row, &time) in (0u32..).zip(times.values()) {
            let (rows, span) = of_batch
                .entry(time.div_euclid(MICROS_PER_DAY))
                .or_insert((Vec::new(), (time, time)));
            rows.push(row);
            *span = (span.0.min(time), span.1.max(time));
        }
        let single = of_batch.len() == 1;
        for (day, (rows, span)) in of_batch {
            let date = days.entry(day).or_insert(DateRows {
                pieces: Vec::new(),
                event_times: span,
            });
            let taken = if single { None } else { Some(UInt32Array::from(rows)) };
            date.pieces.push((index, taken));
            date.event_times = (date.event_times.0.min(span.0), date.event_times.1.max(span.1));
        }
    }
    Ok(days)
}

/// Event times in microseconds since 1970; without an event-time column, the record times.
fn event_times(stream: &Stream, rows: &RecordBatch) -> Result<Int64Array, ParquetError> {
    let Some(name) = &stream.event_time else {
        let millis = column(rows, RECORD_TIME_MAX)?
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| ParquetError::General(format!("column {RECORD_TIME_MAX} is not Int64")))?;
        return Ok(millis.unary(|time| time.saturating_mul(1000)));
    };
    let times = column(rows, name)?;
    let times = match times.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => Arc::clone(times),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            arrow::compute::cast(times, &DataType::Timestamp(TimeUnit::Microsecond, None))?
        }
        other => {
            return Err(ParquetError::General(format!(
                "event time \"{name}\" is {other}, not a time"
            )));
        }
    };
    if times.null_count() > 0 {
        return Err(ParquetError::General(format!(
            "event time \"{name}\" is NULL in a row that was not judged malformed"
        )));
    }
    Ok(times.as_primitive::<TimestampMicrosecondType>().reinterpret_cast())
}

fn date_of(day: i64) -> Result<NaiveDate, ParquetError> {
    let date = match u64::try_from(day) {
        Ok(days) => NaiveDate::default().checked_add_days(Days::new(days)),
        Err(_) => NaiveDate::default().checked_sub_days(Days::new(day.unsigned_abs())),
    };
    date.ok_or_else(|| ParquetError::General(format!("day {day} since 1970 is no date")))
}

/// The columns that go into a row file: all but the topic, which the path has, and the bytes if they are not wanted.
fn file_columns(stream: &Stream, rows: &RecordBatch) -> Result<RecordBatch, ParquetError> {
    let schema = rows.schema();
    let kept: Vec<usize> = (0..schema.fields().len())
        .filter(|&index| match schema.field(index).name().as_str() {
            system_columns::TOPIC => false,
            RAW => stream.archive_raw,
            _ => true,
        })
        .collect();
    if stream.archive_raw && schema.index_of(RAW).is_err() {
        return Err(ParquetError::General(format!("rows without {RAW}")));
    }
    Ok(rows.project(&kept)?)
}

fn dead_letter_rows(partition: &TopicPartition, letters: &[&DeadLetter]) -> RecordBatch {
    let columns: [(&str, ArrayRef, bool); 6] = [
        (
            system_columns::PARTITION,
            Arc::new(Int32Array::from(vec![
                partition.partition.0.cast_signed();
                letters.len()
            ])),
            false,
        ),
        (
            system_columns::OFFSET,
            Arc::new(Int64Array::from_iter_values(
                letters.iter().map(|letter| letter.offset.0.cast_signed()),
            )),
            false,
        ),
        (
            system_columns::RECORD_TIME,
            Arc::new(Int64Array::from_iter_values(
                letters.iter().map(|letter| letter.timestamp_ms),
            )),
            false,
        ),
        (
            system_columns::KEY,
            Arc::new(BinaryArray::from_iter(
                letters.iter().map(|letter| letter.key.as_deref()),
            )),
            true,
        ),
        (
            RAW,
            Arc::new(BinaryArray::from_iter_values(letters.iter().map(|letter| &letter.raw))),
            false,
        ),
        (
            REASON,
            Arc::new(StringArray::from_iter_values(
                letters.iter().map(|letter| &letter.reason),
            )),
            false,
        ),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, values, nullable)| Field::new(*name, values.data_type().clone(), *nullable))
        .collect();
    let columns = columns.into_iter().map(|(_, values, _)| values).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length, built as declared")
}

fn write_file(
    path: Path,
    date: Option<NaiveDate>,
    event_times: Option<(i64, i64)>,
    pieces: impl Iterator<Item = Result<RecordBatch, ParquetError>>,
) -> Result<EncodedFile, ParquetError> {
    let mut pieces = pieces.peekable();
    let schema = match pieces.peek() {
        Some(Ok(rows)) => rows.schema(),
        Some(Err(_)) | None => Arc::new(Schema::empty()),
    };
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties()?))?;
    let mut rows = 0;
    let mut span: Option<(i64, i64)> = None;
    for piece in pieces {
        let piece = piece?;
        writer.write(&piece)?;
        rows += piece.num_rows() as u64;
        if let [first, .., last] | [first @ last] = &offsets_of(&piece)?[..] {
            span = Some((span.map_or(*first, |(first, _)| first), *last));
        }
    }
    let bytes = Bytes::from(writer.into_inner()?);
    let (first, last) = span.ok_or_else(|| ParquetError::General("a file without rows".to_owned()))?;
    let file = ArchivedFile {
        path: path.to_string(),
        date,
        rows,
        bytes: bytes.len() as u64,
        crc32: crc32fast::hash(&bytes),
        first_offset: Offset(first.cast_unsigned()),
        last_offset: Offset(last.cast_unsigned()),
        event_times,
    };
    Ok(EncodedFile { path, file, bytes })
}

/// Statistics by row group on what readers select by, and none on the rest. A dictionary that does not stay small is
/// given up early: building one of values that hardly repeat costs more than it saves.
fn properties() -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_column_dictionary_enabled(ColumnPath::from(RAW), false);
    for ascending in [system_columns::OFFSET, system_columns::RECORD_TIME, RECORD_TIME_MAX] {
        properties = properties
            .set_column_statistics_enabled(ColumnPath::from(ascending), EnabledStatistics::Chunk)
            .set_column_dictionary_enabled(ColumnPath::from(ascending), false)
            .set_column_encoding(ColumnPath::from(ascending), Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

fn count_true(rows: &RecordBatch, name: &str) -> Result<u64, ParquetError> {
    let marks = column(rows, name)?
        .as_boolean_opt()
        .ok_or_else(|| ParquetError::General(format!("column {name} is not Boolean")))?;
    Ok(marks.true_count() as u64)
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ParquetError> {
    rows.column_by_name(name)
        .ok_or_else(|| ParquetError::General(format!("rows without column {name}")))
}

pub(super) fn offsets_of(rows: &RecordBatch) -> Result<arrow::buffer::ScalarBuffer<i64>, ParquetError> {
    let offsets = column(rows, system_columns::OFFSET)?
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(|| ParquetError::General(format!("column {} is not Int64", system_columns::OFFSET)))?;
    Ok(offsets.values().clone())
}
