//! Late and duplicate rows (design D4): functions of the log, judged per partition in offset order.
//!
//! [`Marks`] walks over the records of one partition. Its [`MarkState`] and the keys of the duplicate horizon are all
//! that it needs to go on from an offset; the keys come back from where rows are kept ([`Horizon`]).
//!
//! Example, lateness 10 s, skew 5 s, `unique_within` 60 s:
//!
//! | record time | event time | key | clamped | largest before | marks |
//! | --- | --- | --- | --- | --- | --- |
//! | 100 | 98 | a | 98 | - | |
//! | 101 | 500 | b | 106 | 98 | |
//! | 102 | 95 | a | 95 | 106 | late (95 < 106 - 10), duplicate of the first |
//! | 160 | 96 | a | 96 | 106 | not late: exactly 10 s behind; not duplicate: 60 s after the first |

mod keys;

use std::io;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use foldline_sql::Stream;
use serde::{Deserialize, Serialize};
use siphasher::sip128::SipHasher13;
use uuid::Uuid;

use crate::{Offset, RecordTime, TopicPartition};
use keys::Keys;
pub use keys::KeysOnDisk;

/// Name of the column with the record time, that is the running maximum, Int64, milliseconds.
pub const RECORD_TIME_MAX: &str = "_record_time_max";

/// Where the marks of a partition stand after the records below an offset. With the keys of the duplicate horizon
/// ([`Horizon`]) this is all that judging the next record needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkState {
    /// Largest timestamp so far; `None` before the first record.
    pub record_time: Option<RecordTime>,
    /// Largest clamped event time of the rows so far, microseconds since 1970; malformed records do not count.
    pub max_event_time: Option<i64>,
}

/// What a [`Horizon`] fails with.
pub type HorizonError = Box<dyn std::error::Error + Send + Sync>;
/// Takes rows of a [`Horizon`].
pub type TakeKept<'a> = &'a mut (dyn FnMut(&RecordBatch) -> Result<(), HorizonError> + Send);

/// Gives back the keys of the duplicate horizon at an offset, from wherever rows are kept (the archive).
#[async_trait]
pub trait Horizon: Send + Sync + std::fmt::Debug {
    /// Hands to `take` the rows of `partition` below `until` that were kept (not malformed, not duplicate) and whose record
    /// time is at least `since`, in offset order: the columns `columns`, then `_record_time_max` (Int64: the record time,
    /// that is the running maximum, in milliseconds).
    async fn kept_rows(
        &self,
        partition: &TopicPartition,
        until: Offset,
        since: RecordTime,
        columns: &[String],
        take: TakeKept<'_>,
    ) -> Result<(), HorizonError>;

    /// Where keys lie that are too many for memory; `None`: they all stay there.
    fn keys_on_disk(&self) -> Option<KeysOnDisk> {
        None
    }
}

/// A horizon without rows: for a stream without a unique key, and for a partition read from its origin.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHorizon;

#[async_trait]
impl Horizon for NoHorizon {
    async fn kept_rows(
        &self,
        _partition: &TopicPartition,
        _until: Offset,
        _since: RecordTime,
        _columns: &[String],
        _take: TakeKept<'_>,
    ) -> Result<(), HorizonError> {
        Ok(())
    }
}

/// Keys taken back at once: between them those that are too many go to disk.
const RESTORE_ROWS: usize = 16 << 10;

/// What can be wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The key columns cannot be hashed.
    #[error("cannot hash the unique key")]
    Key(#[from] ArrowError),
    /// The rows of the horizon are not what was asked for.
    #[error("the duplicate horizon is damaged: {0}")]
    Horizon(String),
    /// The keys cannot be written to the disk or read from it. Nothing was judged.
    #[error("cannot keep the keys of the duplicate horizon on disk")]
    Disk(#[source] io::Error),
}

/// Marks the rows of one partition.
#[derive(Debug)]
pub struct Marks {
    lateness_us: Option<i64>,
    max_skew_us: i64,
    state: MarkState,
    unique: Option<Unique>,
}

/// Marks of a run of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Record time after each record, milliseconds.
    pub record_times: Vec<i64>,
    /// Largest clamped event time after each record, microseconds.
    pub max_event_times: Vec<Option<i64>>,
    /// Whether each row is late.
    pub late: Vec<bool>,
    /// Whether each row is a duplicate.
    pub duplicate: Vec<bool>,
}

impl Judged {
    /// State of the marks after record `record`.
    pub fn state_after(&self, record: usize) -> MarkState {
        MarkState {
            record_time: Some(RecordTime(self.record_times[record])),
            max_event_time: self.max_event_times[record],
        }
    }
}

impl Marks {
    /// Marks rows of `stream` from `state` on; the horizon is empty. `on_disk`: where its keys lie that are too many for
    /// memory.
    pub fn new(stream: &Stream, state: MarkState, on_disk: Option<KeysOnDisk>) -> Self {
        Self {
            lateness_us: stream.lateness_ms.map(|lateness| lateness.saturating_mul(1000)),
            max_skew_us: stream.max_skew_ms.saturating_mul(1000),
            state,
            unique: stream
                .unique
                .as_ref()
                .map(|unique| Unique::new(unique.within_ms, on_disk)),
        }
    }

    /// The state after the last record.
    pub fn state(&self) -> MarkState {
        self.state
    }

    /// The oldest record time whose kept rows matter to the next record; `None`: no kept rows are needed.
    pub fn horizon_since(&self) -> Option<RecordTime> {
        let unique = self.unique.as_ref()?;
        let now = self.state.record_time?.0;
        Some(RecordTime(now.saturating_sub(unique.within_ms).saturating_add(1)))
    }

    /// Takes back what [`Horizon::kept_rows`] hands over for `columns` since [`Marks::horizon_since`].
    pub fn restore(&mut self, rows: &RecordBatch, columns: &[String]) -> Result<(), MarkError> {
        let mut first = 0;
        while first < rows.num_rows() {
            let count = RESTORE_ROWS.min(rows.num_rows() - first);
            self.restore_some(&rows.slice(first, count), columns)?;
            first += count;
        }
        Ok(())
    }

    fn restore_some(&mut self, rows: &RecordBatch, columns: &[String]) -> Result<(), MarkError> {
        let (Some(unique), Some(now)) = (&mut self.unique, self.state.record_time) else {
            return Ok(());
        };
        let times = kept_times(rows)?;
        let mut last = times.values().first().copied().unwrap_or_default();
        for (time, (hash, before)) in times
            .values()
            .iter()
            .zip(unique.look_up(last, &key_columns(rows, columns)?)?)
        {
            if *time > now.0 {
                return Err(MarkError::Horizon(format!(
                    "it has a row of record time {time} before an offset whose record time is {}",
                    now.0
                )));
            }
            if *time < last {
                return Err(MarkError::Horizon(format!(
                    "its record times go back from {last} to {time}"
                )));
            }
            last = *time;
            if unique.keys.repeats(*time, hash, before) {
                return Err(MarkError::Horizon(format!(
                    "two rows with one key were kept within {} ms, the second at record time {time}",
                    unique.within_ms
                )));
            }
        }
        Ok(())
    }

    /// Judges the records with these timestamps. `good`: which of them the rows are; `event_times` (microseconds; none:
    /// the record time is the event time) and the unique key's columns `keys` are those of the rows.
    pub fn judge(
        &mut self,
        timestamps_ms: &[i64],
        good: &[usize],
        event_times: Option<&[i64]>,
        keys: &[ArrayRef],
    ) -> Result<Judged, MarkError> {
        let now = self.state.record_time.map_or(i64::MIN, |time| time.0);
        let found = match &mut self.unique {
            Some(unique) => unique.look_up(now, keys)?,
            None => Vec::new(),
        };
        let mut judged = Judged {
            record_times: Vec::with_capacity(timestamps_ms.len()),
            max_event_times: Vec::with_capacity(timestamps_ms.len()),
            late: Vec::with_capacity(good.len()),
            duplicate: Vec::with_capacity(good.len()),
        };
        let mut row = 0;
        for (record, timestamp) in timestamps_ms.iter().enumerate() {
            let seen = self.state.record_time.map_or(*timestamp, |time| time.0.max(*timestamp));
            self.state.record_time = Some(RecordTime(seen));
            if good.get(row) == Some(&record) {
                let now_us = seen.saturating_mul(1000);
                let event_time = event_times.map_or(now_us, |times| times[row]);
                judged.late.push(self.late(event_time));
                let clamped = event_time.min(now_us.saturating_add(self.max_skew_us));
                self.state.max_event_time = self.state.max_event_time.max(Some(clamped));
                let duplicate = self.unique.as_mut().map(|unique| {
                    let (hash, before) = found[row];
                    unique.keys.repeats(seen, hash, before)
                });
                judged.duplicate.push(duplicate.unwrap_or(false));
                row += 1;
            }
            judged.record_times.push(seen);
            judged.max_event_times.push(self.state.max_event_time);
        }
        Ok(judged)
    }

    fn late(&self, event_time: i64) -> bool {
        match (self.lateness_us, self.state.max_event_time) {
            (Some(lateness), Some(largest)) => event_time < largest.saturating_sub(lateness),
            _ => false,
        }
    }

    /// Bytes of memory that the keys of the duplicate horizon hold.
    pub fn horizon_bytes(&self) -> usize {
        self.unique.as_ref().map_or(0, |unique| unique.keys.bytes())
    }
}

/// The columns `columns` of `rows`.
pub(crate) fn key_columns(rows: &RecordBatch, columns: &[String]) -> Result<Vec<ArrayRef>, MarkError> {
    let column = |name: &String| {
        let column = rows.column_by_name(name).cloned();
        column.ok_or_else(|| MarkError::Horizon(format!("there is no column \"{name}\"")))
    };
    columns.iter().map(column).collect()
}

fn kept_times(rows: &RecordBatch) -> Result<&Int64Array, MarkError> {
    let column = rows.column_by_name(RECORD_TIME_MAX);
    column
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .filter(|times| times.null_count() == 0)
        .ok_or_else(|| MarkError::Horizon(format!("{RECORD_TIME_MAX} is missing, NULL or not Int64")))
}

/// The keys kept within the horizon.
///
/// Keys are hashed to 128 bits with a secret of this process, so nobody can make two keys collide, and no two of n keys
/// do with a probability above n^2 / 2^129.
#[derive(Debug)]
struct Unique {
    within_ms: i64,
    hasher: SipHasher13,
    converter: Option<(Vec<DataType>, RowConverter)>,
    keys: Keys,
}

impl Unique {
    fn new(within_ms: i64, on_disk: Option<KeysOnDisk>) -> Self {
        let (key0, key1) = Uuid::new_v4().as_u64_pair();
        Self {
            within_ms,
            hasher: SipHasher13::new_with_keys(key0, key1),
            converter: None,
            keys: Keys::new(within_ms, on_disk),
        }
    }

    /// The hashes of keys that are looked at next, at record time `now` or later, and when each was kept last, of those
    /// on disk. All of it that can fail, fails here.
    fn look_up(&mut self, now: i64, keys: &[ArrayRef]) -> Result<Vec<(u128, Option<i64>)>, MarkError> {
        let hashes = self.hashes(keys)?;
        self.keys.make_room(now).map_err(MarkError::Disk)?;
        let mut found = self.keys.find(&hashes).map_err(MarkError::Disk)?;
        found.resize(hashes.len(), None);
        Ok(hashes.into_iter().zip(found).collect())
    }

    /// Hashes keys over arrow's row format, which is unambiguous: no two different keys have the same bytes.
    fn hashes(&mut self, keys: &[ArrayRef]) -> Result<Vec<u128>, ArrowError> {
        let types: Vec<DataType> = keys.iter().map(|column| column.data_type().clone()).collect();
        let (_, converter) = match self.converter.take() {
            Some(known) if known.0 == types => self.converter.insert(known),
            _ => {
                let fields = types.iter().cloned().map(SortField::new).collect();
                self.converter.insert((types, RowConverter::new(fields)?))
            }
        };
        let rows = converter.convert_columns(keys)?;
        Ok(rows.iter().map(|row| self.hasher.hash(row.data()).as_u128()).collect())
    }
}
