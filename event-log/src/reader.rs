//! A partition read as judged rows: bytes in, [`EventBatch`]es out.
//!
//! One read of the log is decoded and marked as a whole and then cut where the tick changes. A batch ends one past its
//! last record, so offsets without records belong to the batch of the record after them: the same boundaries come out
//! however the log is read.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use foldline_sql::Stream;

use crate::decode::{Decoded, Decoder};
use crate::marks::{Judged, MarkError, Marks, RECORD_TIME_MAX};
use crate::{EventLog, Horizon, LogError, MarkState, Offset, RecordTime, Records, Tick, TopicPartition};

/// Name of the column with the bytes as they arrived.
const RAW: &str = "_raw";
/// Columns of so many rows are kept however small reads are.
const PLACE_ROWS: usize = 1_024;
/// How often in a row a log may say that there is more and give nothing.
const EMPTY_READS_MAX: usize = 16;

/// A run of one partition's records, decoded and judged. It never crosses a tick: all of its records lie in `tick`.
#[derive(Debug, Clone)]
pub struct EventBatch {
    /// Where it comes from.
    pub partition: TopicPartition,
    /// Offsets that it stands for: from where the last batch ended until one past its last record (holes inside are
    /// covered). Batches of a partition follow each other without a gap.
    pub offsets: Range<Offset>,
    /// The tick of its records.
    pub tick: Tick,
    /// Good rows in offset order, late and duplicate ones included and marked. Columns: the ones asked for and the
    /// stream's judging columns, in the order of the declaration; then the system columns; then `_record_time_max`
    /// (Int64, the record time in milliseconds); then, if the reader was asked for it, `_raw` (Binary).
    pub rows: RecordBatch,
    /// Malformed records.
    pub dead_letters: Vec<DeadLetter>,
    /// Values that became NULL because they did not fit their column: (column, count).
    pub nulled: Vec<(String, u64)>,
    /// State of the marks after the last record.
    pub marks: MarkState,
    /// Bytes of keys and values as they arrived.
    pub raw_bytes: usize,
}

/// A malformed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp as stored, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its bytes.
    pub raw: Bytes,
    /// Why it is malformed.
    pub reason: String,
}

/// What a read brought.
#[derive(Debug)]
pub enum Progress {
    /// Rows.
    Batch(EventBatch),
    /// The end was reached: every record with a record time before `complete_to` has been handed out.
    End {
        /// See above.
        complete_to: RecordTime,
        /// Offset that the next record gets.
        end: Offset,
    },
}

/// Reads one partition of a stream from an offset on.
#[derive(Debug)]
pub struct StreamReader {
    log: Arc<dyn EventLog>,
    stream: Arc<Stream>,
    partition: TopicPartition,
    cut_every_ms: i64,
    raw: bool,
    schema: SchemaRef,
    decoder: Decoder,
    marks: Marks,
    place: Place,
    /// Where the log is read next.
    next: Offset,
    /// Where the last batch ended.
    covered: Offset,
    /// Decoded batches that were not handed out yet, and then perhaps the end.
    ready: VecDeque<Progress>,
}

/// How a [`StreamReader`] starts.
#[derive(Debug, Clone)]
pub struct ReaderStart {
    /// Where to read first.
    pub next: Offset,
    /// State of the marks there.
    pub marks: MarkState,
}

/// What a [`StreamReader`] can run into.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log did not give the records.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The keys of the duplicate horizon could not be read back.
    #[error("cannot read the duplicate horizon of {partition} before offset {until}")]
    Horizon {
        /// Partition.
        partition: TopicPartition,
        /// Offset.
        until: Offset,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The decoder could not be built for the declaration, or its columns could not.
    #[error("cannot decode stream \"{stream}\": {reason}")]
    Decode {
        /// Stream.
        stream: String,
        /// Why.
        reason: String,
    },
    /// The log broke its contract: the records do not follow from where they were asked for.
    #[error("the log gave what does not follow from {partition} at offset {asked}: {found}")]
    Disorder {
        /// Partition.
        partition: TopicPartition,
        /// Asked offset.
        asked: Offset,
        /// What came.
        found: String,
    },
}

impl StreamReader {
    /// Opens `partition` of `stream` at `start`. Reads back the duplicate horizon where the stream has a unique key.
    /// `columns`: columns wanted beside the judging ones (system columns are always there); `raw`: whether `_raw` is
    /// wanted.
    #[allow(
        clippy::too_many_arguments,
        reason = "every one is a different thing, named by its type"
    )]
    pub async fn open(
        log: Arc<dyn EventLog>,
        stream: Arc<Stream>,
        partition: TopicPartition,
        start: ReaderStart,
        columns: &[String],
        raw: bool,
        cut_every_ms: i64,
        horizon: &dyn Horizon,
    ) -> Result<Self, ReadError> {
        let table = stream.table_schema();
        let system = &table.fields()[stream.columns.len()..];
        let declared: Vec<String> = columns
            .iter()
            .filter(|name| !system.iter().any(|field| field.name() == *name))
            .cloned()
            .collect();
        let decoder = Decoder::new(&stream, &declared).map_err(|error| undecodable(&stream, &error))?;
        let marks = restored(&stream, &partition, &start, horizon).await?;
        Ok(Self {
            schema: schema_of(&decoder, system, raw),
            log,
            stream,
            partition,
            cut_every_ms,
            raw,
            decoder,
            marks,
            place: Place::default(),
            next: start.next,
            covered: start.next,
            ready: VecDeque::new(),
        })
    }

    /// The next batch: at most about `max_bytes` of records, waiting up to `wait` at the end of the log.
    /// Cancel-safe: a dropped call loses nothing.
    ///
    /// The end is told as soon as the records before it are handed out, and again after each wait in vain.
    pub async fn next(&mut self, max_bytes: usize, wait: Duration) -> Result<Progress, ReadError> {
        let mut empty_reads = 0;
        loop {
            if let Some(progress) = self.ready.pop_front() {
                return Ok(progress);
            }
            // The only await: what follows a read is done at once, so nothing read can be lost.
            let records = self.log.read(&self.partition, self.next, max_bytes, wait).await?;
            self.check(&records)?;
            if records.is_empty() && records.next == self.next && records.next != records.span.end {
                // Records can arrive between the end of the wait and the look at the span.
                empty_reads += 1;
                if empty_reads == EMPTY_READS_MAX {
                    return Err(self.disorder(format!("nothing, though the log ends at {}", records.span.end)));
                }
            }
            self.take(&records)?;
        }
    }

    /// Bytes that the duplicate horizon holds in memory.
    pub fn horizon_bytes(&self) -> usize {
        self.marks.horizon_bytes()
    }

    fn disorder(&self, found: String) -> ReadError {
        ReadError::Disorder {
            partition: self.partition.clone(),
            asked: self.next,
            found,
        }
    }

    /// The records must lie between where they were asked for and where the log says to read next, ascending.
    fn check(&self, records: &Records) -> Result<(), ReadError> {
        let count = records.len();
        let columns = [records.timestamps_ms.len(), records.keys.len(), records.values.len()];
        if columns.iter().any(|length| *length != count) {
            return Err(self.disorder(format!("{count} offsets with columns of {columns:?} values")));
        }
        let mut expected = self.next;
        for offset in records.offsets.iter() {
            let found = u64::try_from(*offset)
                .ok()
                .map(Offset)
                .filter(|found| *found >= expected);
            let Some(found) = found else {
                return Err(self.disorder(format!("a record at {offset} where {expected} or later must follow")));
            };
            expected = Offset(found.0 + 1);
        }
        if records.next < expected || records.next > records.span.end {
            return Err(self.disorder(format!(
                "records until {expected}, to go on at {}, of a log that ends at {}",
                records.next, records.span.end
            )));
        }
        Ok(())
    }

    /// Decodes, marks and cuts `records`. What can fail fails before the marks move.
    fn take(&mut self, records: &Records) -> Result<(), ReadError> {
        if !records.is_empty() {
            let batches = self.batches(records)?;
            self.covered = batches.last().map_or(self.covered, |batch| batch.offsets.end);
            self.ready.extend(batches.into_iter().map(Progress::Batch));
        }
        self.next = records.next;
        if records.next == records.span.end {
            self.ready.push_back(Progress::End {
                complete_to: records.span.complete_to,
                end: records.span.end,
            });
        }
        Ok(())
    }

    fn batches(&mut self, records: &Records) -> Result<Vec<EventBatch>, ReadError> {
        let decoded = self.decoder.decode(&records.values);
        let decoded = decoded.map_err(|error| undecodable(&self.stream, &error))?;
        let keys = match &self.stream.unique {
            Some(unique) => unique
                .columns
                .iter()
                .map(|name| Arc::clone(&decoded.rows[name.as_str()]))
                .collect(),
            None => Vec::new(),
        };
        // What fails here does so before the marks change.
        let judged = self
            .marks
            .judge(
                &records.timestamps_ms,
                &decoded.good,
                decoded.event_times.as_deref(),
                &keys,
            )
            .map_err(|error| match error {
                MarkError::Disk(source) => keys_not_kept(source),
                MarkError::Key(_) | MarkError::Horizon(_) => undecodable(&self.stream, &error),
            })?;
        let rows = self.rows(records, &decoded, &judged);
        let rows = rows.map_err(|error| undecodable(&self.stream, &error))?;
        let run = Run {
            records,
            decoded: &decoded,
            judged: &judged,
            rows: &rows,
        };
        let mut batches = Vec::new();
        let mut from = self.covered;
        let mut first = 0;
        while first < records.len() {
            let tick = self.tick(&judged, first);
            let same = judged.record_times[first..].partition_point(|time| RecordTime(*time) < self.end_of(tick));
            let until = first + same;
            let batch = run.cut(&self.partition, from, tick, first..until);
            from = batch.offsets.end;
            batches.push(batch);
            first = until;
        }
        Ok(batches)
    }

    fn tick(&self, judged: &Judged, record: usize) -> Tick {
        Tick::at(RecordTime(judged.record_times[record]), self.cut_every_ms)
    }

    fn end_of(&self, tick: Tick) -> RecordTime {
        RecordTime(tick.0.saturating_add(self.cut_every_ms))
    }

    /// The decoded rows with the columns of the log and the marks beside them.
    fn rows(&mut self, records: &Records, decoded: &Decoded, judged: &Judged) -> Result<RecordBatch, ArrowError> {
        let good = &decoded.good;
        let (topic, partition) = self.place.of(&self.partition, good.len());
        let micros = |record: &usize| records.timestamps_ms[*record].saturating_mul(1000);
        let mut columns: Vec<ArrayRef> = decoded.rows.columns().to_vec();
        columns.extend([
            topic,
            partition,
            Arc::new(Int64Array::from_iter_values(
                good.iter().map(|record| records.offsets[*record]),
            )) as ArrayRef,
            Arc::new(TimestampMicrosecondArray::from_iter_values(good.iter().map(micros)).with_timezone("UTC")),
            of_rows(&records.keys, good)?,
            Arc::new(BooleanArray::from(judged.late.clone())),
            Arc::new(BooleanArray::from(judged.duplicate.clone())),
            Arc::new(Int64Array::from_iter_values(
                good.iter().map(|record| judged.record_times[*record]),
            )),
        ]);
        if self.raw {
            columns.push(of_rows(&records.values, good)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(good.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

/// Topic and partition as columns, which are the same in every row: those of a larger read before, and slices of them.
#[derive(Debug, Default)]
struct Place(Option<(ArrayRef, ArrayRef)>);

impl Place {
    fn of(&mut self, partition: &TopicPartition, rows: usize) -> (ArrayRef, ArrayRef) {
        // Not for ever: behind a catch-up, reads are small.
        let fits = rows..=rows.max(PLACE_ROWS).saturating_mul(4);
        let known = self.0.take().filter(|(topic, _)| fits.contains(&topic.len()));
        let (topic, index) = self.0.insert(known.unwrap_or_else(|| {
            let topic = StringArray::from_iter_values(std::iter::repeat_n(&partition.topic, rows));
            let index = i32::try_from(partition.partition.0).expect("a partition is an INT, as in Kafka");
            (Arc::new(topic), Arc::new(Int32Array::from_value(index, rows)))
        }));
        (topic.slice(0, rows), index.slice(0, rows))
    }
}

/// One read of the log, decoded and marked.
struct Run<'a> {
    records: &'a Records,
    decoded: &'a Decoded,
    judged: &'a Judged,
    rows: &'a RecordBatch,
}

impl Run<'_> {
    /// The batch of the records `span`, which lie in `tick`.
    fn cut(&self, partition: &TopicPartition, from: Offset, tick: Tick, span: Range<usize>) -> EventBatch {
        let row_at = |record: usize| self.decoded.good.partition_point(|good| *good < record);
        let rows = row_at(span.start)..row_at(span.end);
        let letter_at = |record: usize| self.decoded.malformed.partition_point(|(bad, _)| *bad < record);
        let letters = &self.decoded.malformed[letter_at(span.start)..letter_at(span.end)];
        let last = self.records.offsets[span.end - 1];
        let end = u64::try_from(last).expect("offsets were checked") + 1;
        EventBatch {
            partition: partition.clone(),
            offsets: from..Offset(end),
            tick,
            nulled: self.nulled(&rows),
            rows: self.rows.slice(rows.start, rows.len()),
            dead_letters: letters
                .iter()
                .map(|(record, reason)| self.dead_letter(*record, reason))
                .collect(),
            marks: self.judged.state_after(span.end - 1),
            raw_bytes: bytes_of(&self.records.keys, &span) + bytes_of(&self.records.values, &span),
        }
    }

    fn nulled(&self, rows: &Range<usize>) -> Vec<(String, u64)> {
        let mut counts = Vec::new();
        for (column, misfits) in &self.decoded.nulled {
            let before = |row: usize| misfits.partition_point(|misfit| (*misfit as usize) < row);
            let count = before(rows.end) - before(rows.start);
            if count > 0 {
                counts.push((column.clone(), count as u64));
            }
        }
        counts
    }

    fn dead_letter(&self, record: usize, reason: &str) -> DeadLetter {
        let bytes = |column: &BinaryArray| {
            let value = column.is_valid(record).then(|| column.value(record));
            value.map(Bytes::copy_from_slice)
        };
        DeadLetter {
            offset: Offset(u64::try_from(self.records.offsets[record]).expect("offsets were checked")),
            timestamp_ms: self.records.timestamps_ms[record],
            key: bytes(&self.records.keys),
            raw: bytes(&self.records.values).unwrap_or_default(),
            reason: reason.to_owned(),
        }
    }
}

/// Marks at `start`, with the keys of the duplicate horizon.
async fn restored(
    stream: &Stream,
    partition: &TopicPartition,
    start: &ReaderStart,
    horizon: &dyn Horizon,
) -> Result<Marks, ReadError> {
    let failed = |source| ReadError::Horizon {
        partition: partition.clone(),
        until: start.next,
        source,
    };
    let mut marks = Marks::new(stream, start.marks, horizon.keys_on_disk());
    let (Some(unique), Some(since)) = (&stream.unique, marks.horizon_since()) else {
        return Ok(marks);
    };
    let mut take = |rows: &RecordBatch| Ok(marks.restore(rows, &unique.columns)?);
    let given = horizon.kept_rows(partition, start.next, since, &unique.columns, &mut take);
    given.await.map_err(|error| match error.downcast::<MarkError>() {
        Ok(error) => match *error {
            MarkError::Disk(source) => keys_not_kept(source),
            error => failed(Box::new(error)),
        },
        Err(error) => failed(error),
    })?;
    Ok(marks)
}

/// A disk that is full or away: it may pass.
fn keys_not_kept(source: std::io::Error) -> ReadError {
    ReadError::Log(LogError::Storage {
        attempt: "keeping the keys of the duplicate horizon on disk".to_owned(),
        source: Box::new(source),
    })
}

fn schema_of(decoder: &Decoder, system: &[FieldRef], raw: bool) -> SchemaRef {
    let mut fields: Vec<_> = decoder.schema().fields().iter().chain(system).cloned().collect();
    fields.push(Arc::new(Field::new(RECORD_TIME_MAX, DataType::Int64, false)));
    if raw {
        fields.push(Arc::new(Field::new(RAW, DataType::Binary, false)));
    }
    Arc::new(Schema::new(fields))
}

fn undecodable(stream: &Stream, error: &dyn std::error::Error) -> ReadError {
    ReadError::Decode {
        stream: stream.name.clone(),
        reason: crate::with_causes(error),
    }
}

/// The values of the good records; shared where all are good.
fn of_rows(column: &BinaryArray, good: &[usize]) -> Result<ArrayRef, ArrowError> {
    if good.len() == column.len() {
        return Ok(Arc::new(column.clone()));
    }
    let indices = UInt64Array::from_iter_values(good.iter().map(|record| *record as u64));
    take(column, &indices, None)
}

fn bytes_of(column: &BinaryArray, span: &Range<usize>) -> usize {
    let offsets = column.value_offsets();
    usize::try_from(offsets[span.end] - offsets[span.start]).expect("offsets of a column ascend")
}
