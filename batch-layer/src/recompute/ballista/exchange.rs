//! How partials travel from the tasks that fold to those that merge, and the proof that all of them arrived.
//!
//! ```text
//! task 0 ──► part 0: piece 0, 1, ... last (checksum)      a part is some (view, date) places
//!       └──► part 1: ...                                  merging begins only over what every task sent
//! task 1 ──► part 0: ...
//! ```
//!
//! Each task sends one stream to every part, also where it has nothing for it, cut into pieces that are rows of a
//! shuffle. Whoever merges a part counts: the streams of all tasks, each piece of them once, and the checksum. So a piece
//! that is lost, repeated, or of another attempt is an error, whatever Ballista did; it never becomes another number.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, LargeBinaryArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use bytes::{Buf, Bytes, BytesMut};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::DatePartial;

/// A piece has at most this many bytes, so that messages stay below what gRPC takes.
const PIECE_BYTES: usize = 1 << 20;
/// Lengths before a parcel: of what it says, and of what it holds.
const HEADER_BYTES: usize = 12;

/// Columns of a shuffle: part, task, number of the piece, checksum of the whole stream (in its last piece only), bytes.
pub(super) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let number = |name: &str, nullable| Field::new(name, DataType::UInt32, nullable);
    Arc::new(Schema::new(vec![
        number("part", false),
        number("task", false),
        number("piece", false),
        number("crc32", true),
        Field::new("bytes", DataType::LargeBinary, false),
    ]))
});

/// What a stream consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Parcel {
    /// An encoded partial follows.
    Partial { job: usize, date: NaiveDate },
    /// A partial that went to the store, as there was too much of all.
    PutAside { job: usize, file: DatePartial },
    /// A view that cannot be computed.
    Failed { job: usize, reason: String },
    /// The task folded so many rows in all. Comes last.
    Rows(u64),
}

/// The stream of one task to one part.
#[derive(Debug)]
pub(super) struct Outgoing {
    task: u32,
    part: u32,
    piece: u32,
    waiting: BytesMut,
    checksum: crc32fast::Hasher,
}

impl Outgoing {
    pub(super) fn new(task: u32, part: u32) -> Self {
        Self {
            task,
            part,
            piece: 0,
            waiting: BytesMut::new(),
            checksum: crc32fast::Hasher::new(),
        }
    }

    /// Adds a parcel; returns the pieces that are full.
    pub(super) fn send(&mut self, parcel: &Parcel, held: &[u8]) -> Vec<RecordBatch> {
        let said = serde_json::to_vec(parcel).expect("a parcel is plain data");
        let lengths = (said.len() as u32, held.len() as u64);
        self.waiting.extend_from_slice(&lengths.0.to_le_bytes());
        self.waiting.extend_from_slice(&lengths.1.to_le_bytes());
        self.waiting.extend_from_slice(&said);
        self.waiting.extend_from_slice(held);
        let mut full = Vec::new();
        while self.waiting.len() >= PIECE_BYTES {
            let bytes = self.waiting.split_to(PIECE_BYTES);
            full.push(self.piece(&bytes, false));
        }
        full
    }

    /// Ends the stream.
    pub(super) fn end(mut self, rows: u64) -> Vec<RecordBatch> {
        let mut pieces = self.send(&Parcel::Rows(rows), &[]);
        let bytes = self.waiting.split();
        pieces.push(self.piece(&bytes, true));
        pieces
    }

    fn piece(&mut self, bytes: &[u8], last: bool) -> RecordBatch {
        self.checksum.update(bytes);
        let number = |number: u32| Arc::new(UInt32Array::from(vec![number])) as ArrayRef;
        let checksum = last.then(|| self.checksum.clone().finalize());
        let columns = vec![
            number(self.part),
            number(self.task),
            number(self.piece),
            Arc::new(UInt32Array::from(vec![checksum])) as ArrayRef,
            Arc::new(LargeBinaryArray::from_vec(vec![bytes])) as ArrayRef,
        ];
        self.piece += 1;
        RecordBatch::try_new(Arc::clone(&SCHEMA), columns).expect("the columns are those of the schema")
    }
}

/// What of one stream has arrived.
#[derive(Debug, Default)]
struct Incoming {
    next: u32,
    /// Pieces that came before those in front of them.
    early: BTreeMap<u32, (Bytes, Option<u32>)>,
    waiting: BytesMut,
    checksum: crc32fast::Hasher,
    rows: Option<u64>,
    whole: bool,
}

/// The streams of all tasks to some parts.
#[derive(Debug)]
pub(super) struct Arrivals {
    tasks: u32,
    streams: BTreeMap<(u32, u32), Incoming>,
}

impl Arrivals {
    /// Of `tasks` tasks.
    pub(super) fn of(tasks: u32) -> Self {
        Self {
            tasks,
            streams: BTreeMap::new(),
        }
    }

    /// Takes rows of a shuffle; returns the parcels that are complete. The error says what is wrong with them.
    pub(super) fn take(&mut self, rows: &RecordBatch) -> Result<Vec<(Parcel, Bytes)>, String> {
        let numbers = |column: usize| rows.column(column).as_primitive_opt::<UInt32Type>();
        let (Some(parts), Some(tasks), Some(pieces), Some(checksums), Some(bytes)) = (
            numbers(0),
            numbers(1),
            numbers(2),
            numbers(3),
            rows.column(4).as_binary_opt::<i64>(),
        ) else {
            return Err(format!("the shuffle has columns {:?}", rows.schema()));
        };
        let mut parcels = Vec::new();
        for row in 0..rows.num_rows() {
            let (part, task) = (parts.value(row), tasks.value(row));
            if task >= self.tasks {
                return Err(format!("there are {} tasks, and a piece is of task {task}", self.tasks));
            }
            let checksum = arrow::array::Array::is_valid(checksums, row).then(|| checksums.value(row));
            let bytes = Bytes::copy_from_slice(bytes.value(row));
            let stream = self.streams.entry((part, task)).or_default();
            stream
                .take(pieces.value(row), bytes, checksum, &mut parcels)
                .map_err(|reason| format!("what task {task} sent to part {part} {reason}"))?;
        }
        Ok(parcels)
    }

    /// How many rows each task folded, for each part that came; an error unless all of every stream did.
    pub(super) fn end(self) -> Result<BTreeMap<u32, Vec<u64>>, String> {
        let mut parts: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for ((part, task), stream) in self.streams {
            let rows = parts.entry(part).or_default();
            // They come in order of their tasks.
            if rows.len() as u64 != u64::from(task) {
                return Err(format!("part {part} lacks what task {} sent", rows.len()));
            }
            match stream.rows {
                Some(sent) if stream.whole => rows.push(sent),
                _ => {
                    let pieces = stream.next;
                    return Err(format!("part {part} has only {pieces} pieces of what task {task} sent"));
                }
            }
        }
        match parts
            .iter()
            .find(|(_, rows)| rows.len() as u64 != u64::from(self.tasks))
        {
            Some((part, rows)) => Err(format!("part {part} lacks what task {} sent", rows.len())),
            None => Ok(parts),
        }
    }
}

impl Incoming {
    fn take(
        &mut self,
        piece: u32,
        bytes: Bytes,
        checksum: Option<u32>,
        parcels: &mut Vec<(Parcel, Bytes)>,
    ) -> Result<(), String> {
        if self.whole || piece < self.next || self.early.contains_key(&piece) {
            return Err(format!("came twice: piece {piece}"));
        }
        self.early.insert(piece, (bytes, checksum));
        while let Some((bytes, checksum)) = self.early.remove(&self.next) {
            self.next += 1;
            self.checksum.update(&bytes);
            self.waiting.extend_from_slice(&bytes);
            self.parcels(parcels)?;
            if let Some(sent) = checksum {
                let arrived = self.checksum.clone().finalize();
                if arrived != sent || !self.waiting.is_empty() || !self.early.is_empty() || self.rows.is_none() {
                    return Err(format!(
                        "arrived damaged: checksum {arrived:08x} instead of {sent:08x}, {} bytes and {} pieces too many",
                        self.waiting.len(),
                        self.early.len()
                    ));
                }
                self.whole = true;
            }
        }
        Ok(())
    }

    fn parcels(&mut self, parcels: &mut Vec<(Parcel, Bytes)>) -> Result<(), String> {
        while let Some(header) = self.waiting.first_chunk::<HEADER_BYTES>() {
            let mut header = header.as_slice();
            let (said, held) = (header.get_u32_le() as usize, header.get_u64_le() as usize);
            if self.waiting.len() < HEADER_BYTES + said + held {
                // Room for all of it at once: it comes piece by piece.
                self.waiting.reserve(HEADER_BYTES + said + held - self.waiting.len());
                break;
            }
            self.waiting.advance(HEADER_BYTES);
            let parcel = serde_json::from_slice(&self.waiting.split_to(said))
                .map_err(|error| format!("does not read: {error}"))?;
            let held = self.waiting.split_to(held).freeze();
            match parcel {
                Parcel::Rows(rows) => self.rows = Some(rows),
                parcel => parcels.push((parcel, held)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(job: usize) -> Parcel {
        let date = NaiveDate::from_ymd_opt(2024, 5, 1).unwrap();
        Parcel::Partial { job, date }
    }

    /// What two tasks send to one part: one partial of several pieces, one small.
    fn sent() -> Vec<RecordBatch> {
        let mut pieces = Vec::new();
        for (task, bytes) in [(0, vec![7; 3 * PIECE_BYTES + 5]), (1, vec![8; 9])] {
            let mut outgoing = Outgoing::new(task, 4);
            pieces.extend(outgoing.send(&partial(task as usize), &bytes));
            pieces.extend(outgoing.end(10 + u64::from(task)));
        }
        pieces
    }

    fn arrive(pieces: &[RecordBatch], tasks: u32) -> Result<(usize, BTreeMap<u32, Vec<u64>>), String> {
        let mut arrivals = Arrivals::of(tasks);
        let mut parcels = Vec::new();
        for piece in pieces {
            parcels.extend(arrivals.take(piece)?);
        }
        Ok((parcels.len(), arrivals.end()?))
    }

    #[test]
    fn what_was_sent_arrives_whole_in_any_order_of_pieces() {
        let mut pieces = sent();
        assert_eq!(pieces.len(), 5);
        for _ in 0..pieces.len() {
            pieces.rotate_left(1);
            let mut arrivals = Arrivals::of(2);
            let mut parcels: Vec<(Parcel, Bytes)> = Vec::new();
            for piece in &pieces {
                parcels.extend(arrivals.take(piece).unwrap());
            }
            parcels.sort_by_key(|(_, bytes)| bytes.len());
            assert_eq!(parcels[0], (partial(1), Bytes::from(vec![8; 9])));
            assert_eq!(parcels[1], (partial(0), Bytes::from(vec![7; 3 * PIECE_BYTES + 5])));
            assert_eq!(arrivals.end().unwrap(), BTreeMap::from([(4, vec![10, 11])]));
        }
    }

    #[test]
    fn a_piece_that_is_lost_or_repeated_or_changed_is_an_error() {
        let pieces = sent();
        for lost in 0..pieces.len() {
            let mut pieces = pieces.clone();
            let piece = pieces.remove(lost);
            let error = arrive(&pieces, 2).unwrap_err();
            assert!(
                error.contains("lacks what task") || error.contains("has only"),
                "{error}"
            );
            pieces.extend([piece.clone(), piece]);
            let error = arrive(&pieces, 2).unwrap_err();
            assert!(error.contains("came twice"), "{error}");
        }
        let mut changed = pieces.clone();
        let mut columns = changed[1].columns().to_vec();
        columns[4] = Arc::new(LargeBinaryArray::from_vec(vec![[0_u8; PIECE_BYTES].as_slice()]));
        changed[1] = RecordBatch::try_new(Arc::clone(&SCHEMA), columns).unwrap();
        let error = arrive(&changed, 2).unwrap_err();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn a_task_that_sent_nothing_is_missed() {
        assert_eq!(arrive(&sent(), 3).unwrap_err(), "part 4 lacks what task 2 sent");
        let error = arrive(&sent(), 1).unwrap_err();
        assert!(error.contains("of task 1"), "{error}");
        assert_eq!(arrive(&sent()[4..], 2).unwrap_err(), "part 4 lacks what task 0 sent");
        assert_eq!(arrive(&[], 2).unwrap().1, BTreeMap::new());
    }
}
