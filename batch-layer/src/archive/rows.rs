//! Archived rows read back. Nothing of a file is handed out before its size, checksum and row count are proven.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::kernels::cmp::gt_eq;
use arrow::compute::{and, concat_batches, filter_record_batch, not, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{DeadLetter, Horizon, HorizonError, KeysOnDisk, Offset, RecordTime, TakeKept, TopicPartition};
use foldline_sql::{Stream, system_columns};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::statistics::Statistics;
use tokio::sync::mpsc;

use super::encode::{REASON, offsets_of};
use super::{Archive, ArchiveError, ArchivedFile, RAW, RECORD_TIME_MAX};
use crate::store::{self, StoreError};

/// Rows of a batch that is handed out.
const BATCH_ROWS: usize = 8192;
/// Whole files in memory at the same time: one being decoded, one being fetched.
const FILES_AHEAD: usize = 2;
/// Decoded batches that wait for their reader.
const BATCHES_AHEAD: usize = 2;

/// What a reader wants of a file.
#[derive(Debug)]
struct Wanted {
    topic: String,
    partition: TopicPartition,
    offsets: Range<Offset>,
    /// The columns handed out, in order.
    fields: Vec<FieldRef>,
    /// The declaration, with which columns that a file lacks are read out of `_raw`.
    stream: Option<Arc<Stream>>,
}

impl Archive {
    /// The archived rows of `partition` within `offsets`, file by file (not in offset order across dates), with the
    /// date of each batch: the columns `columns` of the stream's table schema by name, then `_record_time_max`.
    /// A column declared later than a file was written is read out of `_raw`, and is NULL where the stream keeps no
    /// `_raw`. Each file's size and checksum are checked before its first row is handed out. Fails unless the commits
    /// cover `offsets` whole.
    pub fn rows(
        &self,
        stream: &Arc<Stream>,
        partition: &TopicPartition,
        offsets: Range<Offset>,
        columns: &[String],
    ) -> BoxStream<'static, Result<(chrono::NaiveDate, RecordBatch), ArchiveError>> {
        self.read_rows(stream, partition, offsets, columns, None)
    }

    /// As [`Archive::rows`], of one event date alone.
    pub fn rows_of_date(
        &self,
        stream: &Arc<Stream>,
        partition: &TopicPartition,
        offsets: Range<Offset>,
        columns: &[String],
        date: chrono::NaiveDate,
    ) -> BoxStream<'static, Result<RecordBatch, ArchiveError>> {
        let rows = self.read_rows(stream, partition, offsets, columns, Some(date));
        rows.map_ok(|(_, rows)| rows).boxed()
    }

    fn read_rows(
        &self,
        stream: &Arc<Stream>,
        partition: &TopicPartition,
        offsets: Range<Offset>,
        columns: &[String],
        date: Option<chrono::NaiveDate>,
    ) -> BoxStream<'static, Result<(chrono::NaiveDate, RecordBatch), ArchiveError>> {
        let archive = self.clone();
        let (stream, partition, columns) = (Arc::clone(stream), partition.clone(), columns.to_vec());
        let plan = async move {
            let mut files = archive.row_files(&partition, &offsets).await?;
            files.retain(|file| date.is_none() || file.date == date);
            let wanted = Arc::new(Wanted {
                topic: partition.topic.clone(),
                fields: fields_of(&stream, &columns)?,
                stream: Some(stream),
                partition,
                offsets,
            });
            Ok::<_, ArchiveError>(archive.read_all(files, wanted))
        };
        futures::stream::once(plan).try_flatten().boxed()
    }

    /// The dead letters of `partition` within `offsets`, in offset order. Fails unless the commits cover `offsets`.
    pub fn dead_letters(
        &self,
        partition: &TopicPartition,
        offsets: Range<Offset>,
    ) -> BoxStream<'static, Result<DeadLetter, ArchiveError>> {
        let archive = self.clone();
        let partition = partition.clone();
        let plan = async move {
            let commits = archive.covering(&partition, &offsets).await?;
            let files: Vec<ArchivedFile> = commits
                .iter()
                .filter_map(|commit| commit.dead_letters.clone())
                .filter(|file| touches(file, &offsets))
                .collect();
            let letters = futures::stream::iter(files).then(move |file| {
                let (archive, partition, offsets) = (archive.clone(), partition.clone(), offsets.clone());
                async move {
                    let letters = archive.read_dead_letters(&partition, file).await?;
                    let within = move |letter: &DeadLetter| offsets.contains(&letter.offset);
                    Ok::<_, ArchiveError>(futures::stream::iter(letters.into_iter().filter(within).map(Ok)))
                }
            });
            Ok::<_, ArchiveError>(letters.try_flatten())
        };
        futures::stream::once(plan).try_flatten().boxed()
    }

    /// The row files that hold offsets of `offsets`, in the order of their commits.
    async fn row_files(
        &self,
        partition: &TopicPartition,
        offsets: &Range<Offset>,
    ) -> Result<Vec<ArchivedFile>, ArchiveError> {
        let commits = self.covering(partition, offsets).await?;
        let files = commits.iter().flat_map(|commit| &commit.files);
        Ok(files.filter(|file| touches(file, offsets)).cloned().collect())
    }

    fn read_all(
        &self,
        files: Vec<ArchivedFile>,
        wanted: Arc<Wanted>,
    ) -> impl futures::Stream<Item = Result<(chrono::NaiveDate, RecordBatch), ArchiveError>> + Send + use<> {
        let archive = self.clone();
        let fetched = futures::stream::iter(files).map(move |file| {
            let (archive, wanted) = (archive.clone(), Arc::clone(&wanted));
            async move {
                let bytes = archive.verified(&wanted.partition, &file).await?;
                Ok::<_, ArchiveError>(decode_beside(file, bytes, wanted))
            }
        });
        fetched.buffered(FILES_AHEAD).try_flatten()
    }

    /// The bytes of a file, exactly as the commit says.
    pub(super) async fn verified(
        &self,
        partition: &TopicPartition,
        file: &ArchivedFile,
    ) -> Result<Bytes, ArchiveError> {
        let path = Path::parse(&file.path).map_err(|error| damaged(partition, file, error.to_string()))?;
        match store::read_file(&*self.store, &path, file.bytes, file.crc32).await {
            Ok(bytes) => Ok(bytes),
            Err(StoreError::Missing { .. }) => Err(damaged(partition, file, "it is missing".to_owned())),
            Err(StoreError::Damaged { reason, .. }) => Err(damaged(partition, file, reason)),
            Err(error) => Err(error.into()),
        }
    }

    /// Offsets of the rows of a file of either kind.
    pub(super) async fn offsets_in(
        &self,
        partition: &TopicPartition,
        file: &ArchivedFile,
    ) -> Result<Vec<i64>, ArchiveError> {
        let bytes = self.verified(partition, file).await?;
        let (partition, file) = (partition.clone(), file.clone());
        in_background(move || {
            let mut offsets = Vec::new();
            let unreadable = |error: ParquetError| damaged(&partition, &file, error.to_string());
            for rows in open(bytes, &file, &[system_columns::OFFSET], None).map_err(unreadable)? {
                let rows = rows.map_err(|error| unreadable(error.into()))?;
                offsets.extend_from_slice(&offsets_of(&rows).map_err(unreadable)?);
            }
            Ok(offsets)
        })
        .await
    }

    async fn read_dead_letters(
        &self,
        partition: &TopicPartition,
        file: ArchivedFile,
    ) -> Result<Vec<DeadLetter>, ArchiveError> {
        let bytes = self.verified(partition, &file).await?;
        let partition = partition.clone();
        in_background(move || {
            let unreadable = |error: ParquetError| damaged(&partition, &file, error.to_string());
            let columns = [
                system_columns::OFFSET,
                system_columns::RECORD_TIME,
                system_columns::KEY,
                RAW,
                REASON,
            ];
            let mut letters = Vec::new();
            for rows in open(bytes, &file, &columns, None).map_err(unreadable)? {
                let rows = rows.map_err(|error| unreadable(error.into()))?;
                letters.extend(letters_of(&rows).map_err(unreadable)?);
            }
            Ok(letters)
        })
        .await
    }
}

#[async_trait]
impl Horizon for Archive {
    async fn kept_rows(
        &self,
        partition: &TopicPartition,
        until: Offset,
        since: RecordTime,
        columns: &[String],
        take: TakeKept<'_>,
    ) -> Result<(), HorizonError> {
        let (origin, commits) = self.chain(partition).await?;
        let start = origin.unwrap_or(until);
        // A commit whose last record time lies before `since` holds nothing newer: record times ascend.
        let first = commits.partition_point(|commit| commit.marks.record_time.is_some_and(|end| end < since));
        let from = commits.get(first).map_or(start, |commit| commit.offsets.start);
        for commit in self.covering(partition, &(from.min(until)..until)).await? {
            let mut rows = Vec::new();
            for file in commit.files.iter().filter(|file| touches(file, &(from..until))) {
                let bytes = self.verified(partition, file).await?;
                let (partition, file, columns) = (partition.clone(), file.clone(), columns.to_vec());
                rows.extend(in_background(move || kept_of(bytes, &partition, &file, until, since, &columns)).await?);
            }
            if let Some(kept) = by_offset(&rows)? {
                take(&kept)?;
            }
        }
        // Also when nothing was to be read: an archive that ends before `until` cannot know what was kept.
        if let Some(last) = commits.last().filter(|last| last.offsets.end < until) {
            return Err(Box::new(ArchiveError::NotCovered {
                partition: partition.clone(),
                holds: start..last.offsets.end,
                asked: start..until,
            }));
        }
        Ok(())
    }

    fn keys_on_disk(&self) -> Option<KeysOnDisk> {
        self.keys_on_disk.clone()
    }
}

/// The kept rows of one file: the columns, `_record_time_max`, then `_offset`.
fn kept_of(
    bytes: Bytes,
    partition: &TopicPartition,
    file: &ArchivedFile,
    until: Offset,
    since: RecordTime,
    columns: &[String],
) -> Result<Vec<RecordBatch>, ArchiveError> {
    let unreadable = |error: ParquetError| damaged(partition, file, error.to_string());
    let mut handed_out: Vec<&str> = columns.iter().map(String::as_str).collect();
    handed_out.extend([RECORD_TIME_MAX, system_columns::OFFSET]);
    let mut read = handed_out.clone();
    read.push(system_columns::DUPLICATE);
    let mut kept = Vec::new();
    for rows in open(bytes, file, &read, Some(&(Offset(0)..until))).map_err(unreadable)? {
        let rows = rows.map_err(|error| unreadable(error.into()))?;
        let chosen = kept_mask(&rows, until, since).map_err(unreadable)?;
        let rows = filter_record_batch(&rows, &chosen).map_err(|error| unreadable(error.into()))?;
        if rows.num_rows() > 0 {
            let handed_out = select(&rows, &handed_out).map_err(unreadable)?;
            kept.push(handed_out);
        }
    }
    Ok(kept)
}

fn kept_mask(rows: &RecordBatch, until: Offset, since: RecordTime) -> Result<BooleanArray, ParquetError> {
    let duplicate = named(rows, system_columns::DUPLICATE)?
        .as_boolean_opt()
        .ok_or_else(|| ParquetError::General("_duplicate is not Boolean".to_owned()))?;
    let times = int64s(rows, RECORD_TIME_MAX)?;
    let recent = gt_eq(times, &Int64Array::new_scalar(since.0))?;
    let below = within(rows, &(Offset(0)..until))?;
    Ok(and(&and(&not(duplicate)?, &recent)?, &below)?)
}

/// Brings the rows of a commit's dates into one batch in offset order, and drops the offsets (the last column).
fn by_offset(rows: &[RecordBatch]) -> Result<Option<RecordBatch>, ArrowError> {
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let all = concat_batches(&first.schema(), rows)?;
    let offsets = all.num_columns() - 1;
    let order: UInt32Array = sort_to_indices(all.column(offsets), None, None)?;
    let columns: Vec<usize> = (0..offsets).collect();
    Ok(Some(take_record_batch(&all.project(&columns)?, &order)?))
}

fn fields_of(stream: &Stream, columns: &[String]) -> Result<Vec<FieldRef>, ArchiveError> {
    let schema = stream.table_schema();
    let mut fields = Vec::with_capacity(columns.len() + 1);
    for name in columns {
        let (_, field) = schema.fields().find(name).ok_or_else(|| ArchiveError::UnknownColumn {
            stream: stream.name.clone(),
            column: name.clone(),
        })?;
        fields.push(Arc::clone(field));
    }
    fields.push(Arc::new(Field::new(RECORD_TIME_MAX, DataType::Int64, false)));
    Ok(fields)
}

/// Decodes a file on a thread of its own, a few batches ahead of its reader.
fn decode_beside(
    file: ArchivedFile,
    bytes: Bytes,
    wanted: Arc<Wanted>,
) -> impl futures::Stream<Item = Result<(chrono::NaiveDate, RecordBatch), ArchiveError>> + Send + 'static {
    let (decoded, batches) = mpsc::channel(BATCHES_AHEAD);
    let decoding = tokio::task::spawn_blocking(move || {
        if let Err(error) = decode(&file, bytes, &wanted, |rows| decoded.blocking_send(Ok(rows)).is_ok()) {
            // Nobody listens any more: nobody needs the error.
            let _ = decoded.blocking_send(Err(error));
        }
    });
    futures::stream::unfold((batches, Some(decoding)), |(mut batches, decoding)| async move {
        match batches.recv().await {
            Some(item) => Some((item, (batches, decoding))),
            None => {
                // The end of the channel is the end of the file only if the thread came to its end.
                if let Err(failure) = decoding?.await {
                    std::panic::resume_unwind(failure.into_panic());
                }
                None
            }
        }
    })
}

fn decode(
    file: &ArchivedFile,
    bytes: Bytes,
    wanted: &Wanted,
    mut hand_out: impl FnMut((chrono::NaiveDate, RecordBatch)) -> bool,
) -> Result<(), ArchiveError> {
    let unreadable = |error: ParquetError| damaged(&wanted.partition, file, error.to_string());
    let date = file
        .date
        .ok_or_else(|| damaged(&wanted.partition, file, "its commit gives it no date".to_owned()))?;
    let schema = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())
        .map_err(unreadable)?
        .schema()
        .clone();
    let lacking: Vec<&FieldRef> = wanted.fields.iter().filter(|field| lacks(&schema, field)).collect();
    let whole = wanted.offsets.start <= file.first_offset && file.last_offset < wanted.offsets.end;
    let mut read: Vec<&str> = wanted.fields.iter().map(|field| field.name().as_str()).collect();
    read.retain(|name| !lacking.iter().any(|field| field.name() == name));
    if !whole {
        read.push(system_columns::OFFSET);
    }
    let raw_kept = schema.index_of(RAW).is_ok();
    if raw_kept && !lacking.is_empty() {
        read.push(RAW);
    }
    for rows in open(bytes, file, &read, Some(&wanted.offsets)).map_err(unreadable)? {
        let mut rows = rows.map_err(|error| unreadable(error.into()))?;
        if !whole {
            let chosen = within(&rows, &wanted.offsets).map_err(unreadable)?;
            rows = filter_record_batch(&rows, &chosen).map_err(|error| unreadable(error.into()))?;
        }
        if rows.num_rows() == 0 {
            continue;
        }
        let later = later_columns(file, wanted, &schema, &lacking, &rows)?;
        let rows = assemble(wanted, &rows, &later).map_err(unreadable)?;
        if !hand_out((date, rows)) {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the file has no such column: it was declared later, or as another type. The topic is in no file.
fn lacks(schema: &Schema, field: &Field) -> bool {
    field.name() != system_columns::TOPIC
        && !schema
            .field_with_name(field.name())
            .is_ok_and(|archived| archived.data_type() == field.data_type())
}

/// The columns that the file lacks, out of `_raw`.
fn later_columns(
    file: &ArchivedFile,
    wanted: &Wanted,
    archived: &Schema,
    lacking: &[&FieldRef],
    rows: &RecordBatch,
) -> Result<Vec<(String, ArrayRef)>, ArchiveError> {
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    if let (Some(raw), Some(stream)) = (rows.column_by_name(RAW), &wanted.stream) {
        let unreadable = |reason: String| damaged(&wanted.partition, file, reason);
        let raw = raw
            .as_binary_opt::<i32>()
            .ok_or_else(|| unreadable(format!("{RAW} is not Binary")))?;
        return super::later::decode(stream, lacking, raw).map_err(unreadable);
    }
    let nulls = lacking.iter().map(|field| {
        if let Ok(other) = archived.field_with_name(field.name()) {
            return Err(damaged(
                &wanted.partition,
                file,
                format!(
                    "column \"{}\" was archived as {} and is now declared {}, and the stream keeps no {RAW}",
                    field.name(),
                    other.data_type(),
                    field.data_type()
                ),
            ));
        }
        let nulls = arrow::array::new_null_array(field.data_type(), rows.num_rows());
        Ok((field.name().clone(), nulls))
    });
    nulls.collect()
}

/// The wanted columns in their order.
fn assemble(wanted: &Wanted, rows: &RecordBatch, later: &[(String, ArrayRef)]) -> Result<RecordBatch, ParquetError> {
    let columns: Result<Vec<ArrayRef>, ParquetError> = wanted
        .fields
        .iter()
        .map(|field| {
            if field.name() == system_columns::TOPIC {
                let topic = std::iter::repeat_n(&wanted.topic, rows.num_rows());
                return Ok(Arc::new(StringArray::from_iter_values(topic)) as ArrayRef);
            }
            match later.iter().find(|(name, _)| name == field.name()) {
                Some((_, values)) => Ok(Arc::clone(values)),
                None => named(rows, field.name()).cloned(),
            }
        })
        .collect();
    let schema: SchemaRef = Arc::new(Schema::new(wanted.fields.clone()));
    Ok(RecordBatch::try_new(schema, columns?)?)
}

/// Opens a proven file: its row count must be what the commit says. Row groups without offsets of `offsets` are left
/// out. Columns come in the order of the file.
fn open(
    bytes: Bytes,
    file: &ArchivedFile,
    columns: &[&str],
    offsets: Option<&Range<Offset>>,
) -> Result<ParquetRecordBatchReader, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let rows = builder.metadata().file_metadata().num_rows();
    if u64::try_from(rows) != Ok(file.rows) {
        return Err(ParquetError::General(format!(
            "it has {rows} rows instead of {}",
            file.rows
        )));
    }
    let mut roots = Vec::with_capacity(columns.len());
    for name in columns.iter().filter(|name| **name != system_columns::TOPIC) {
        roots.push(builder.schema().index_of(name)?);
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let groups = offsets.map(|offsets| groups_touching(&builder, offsets)).transpose()?;
    let mut builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
    if let Some(groups) = groups {
        builder = builder.with_row_groups(groups);
    }
    builder.build()
}

fn groups_touching(
    builder: &ParquetRecordBatchReaderBuilder<Bytes>,
    offsets: &Range<Offset>,
) -> Result<Vec<usize>, ParquetError> {
    let column = builder.schema().index_of(system_columns::OFFSET)?;
    let leaf = (0..builder.parquet_schema().num_columns())
        .find(|&leaf| builder.parquet_schema().get_column_root_idx(leaf) == column)
        .ok_or_else(|| ParquetError::General("no column _offset".to_owned()))?;
    let groups = builder.metadata().row_groups().iter().enumerate();
    let touching = groups.filter(|(_, group)| match group.column(leaf).statistics() {
        Some(Statistics::Int64(span)) => match (span.min_opt(), span.max_opt()) {
            (Some(first), Some(last)) => {
                first.cast_unsigned() < offsets.end.0 && last.cast_unsigned() >= offsets.start.0
            }
            _ => true,
        },
        _ => true,
    });
    Ok(touching.map(|(index, _)| index).collect())
}

fn within(rows: &RecordBatch, offsets: &Range<Offset>) -> Result<BooleanArray, ParquetError> {
    let values = int64s(rows, system_columns::OFFSET)?;
    let range = offsets.start.0..offsets.end.0;
    Ok(BooleanArray::from_unary(values, |offset| {
        range.contains(&offset.cast_unsigned())
    }))
}

fn touches(file: &ArchivedFile, offsets: &Range<Offset>) -> bool {
    file.first_offset < offsets.end && file.last_offset >= offsets.start
}

fn letters_of(rows: &RecordBatch) -> Result<Vec<DeadLetter>, ParquetError> {
    let shape = || ParquetError::General("dead letters of another shape".to_owned());
    let offsets = int64s(rows, system_columns::OFFSET)?;
    let times = int64s(rows, system_columns::RECORD_TIME)?;
    let keys = named(rows, system_columns::KEY)?
        .as_binary_opt::<i32>()
        .ok_or_else(shape)?;
    let raws = named(rows, RAW)?.as_binary_opt::<i32>().ok_or_else(shape)?;
    let reasons = named(rows, REASON)?.as_string_opt::<i32>().ok_or_else(shape)?;
    let letter = |row: usize| DeadLetter {
        offset: Offset(offsets.value(row).cast_unsigned()),
        timestamp_ms: times.value(row),
        key: keys.is_valid(row).then(|| Bytes::copy_from_slice(keys.value(row))),
        raw: Bytes::copy_from_slice(raws.value(row)),
        reason: reasons.value(row).to_owned(),
    };
    Ok((0..rows.num_rows()).map(letter).collect())
}

fn select(rows: &RecordBatch, names: &[&str]) -> Result<RecordBatch, ParquetError> {
    let schema = rows.schema();
    let indices: Result<Vec<usize>, ArrowError> = names.iter().map(|name| schema.index_of(name)).collect();
    Ok(rows.project(&indices?)?)
}

fn named<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ParquetError> {
    rows.column_by_name(name)
        .ok_or_else(|| ParquetError::General(format!("it has no column {name}")))
}

fn int64s<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a Int64Array, ParquetError> {
    named(rows, name)?
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(|| ParquetError::General(format!("column {name} is not Int64")))
}

async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}

pub(super) fn damaged(partition: &TopicPartition, file: &ArchivedFile, reason: String) -> ArchiveError {
    ArchiveError::Damaged {
        path: file.path.clone(),
        partition: partition.clone(),
        first: file.first_offset,
        last: file.last_offset,
        reason,
    }
}
