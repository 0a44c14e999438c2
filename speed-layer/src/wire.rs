//! Realtime views over a wire: what one process folded, as another one shows it.
//!
//! A writer sends frames. Some bring partials of a partition, and one behind them brings the partition at one moment: the
//! list of its segments, and those of them that the reader does not have yet. As folding merges partials like the runs of an LSM tree, a key crosses the
//! wire about as often as it is merged. Both sides keep what the last frame of a partition named, and forget the rest.
//! Nothing is remembered beyond a connection: a reader that lost it begins with everything.
//!
//! ```text
//! u64 bytes that follow | u32 crc32 of these | u32 bytes of the header | header, JSON | partials, one after the other
//! ```

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use foldline_event_log::{MarkState, Offset, RecordTime, Tick, TopicPartition};
use foldline_sql::{Catalog, Fold, FoldError, Partial, ViewKind};
use serde::{Deserialize, Serialize};

use crate::{Partials, PartitionView, Segment, Snapshot};

/// Format of frames.
const VERSION: u32 = 1;
/// Bytes of a frame before what its length and its checksum count.
pub const FRAME_PREFIX: usize = 12;
/// Partials are sent when so many bytes of them are encoded.
const PARCEL_BYTES: usize = 4 << 20;
/// Bytes before the header: its length.
const PREFIX: usize = 4;

/// What a frame cannot be read for. The connection is of no use then.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is not what was sent.
    #[error("a frame of realtime views is damaged: {0}")]
    Damaged(String),
    /// The other side writes another format.
    #[error(
        "the other foldline sends realtime views in format {found}, this one reads {VERSION}; run one version of both"
    )]
    Version {
        /// Theirs.
        found: u32,
    },
    /// What is in a shared store is read from there.
    #[error("realtime views of a shared store are not sent")]
    Stored,
    /// A partial.
    #[error("a partial cannot be sent or read")]
    Partial(#[from] FoldError),
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    /// `None`: nothing is new, the writer lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partition: Option<PartitionNote>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PartitionNote {
    partition: TopicPartition,
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
enum What {
    /// Partials that what follows is made of, in the order of their bytes.
    Parts(Vec<PartNote>),
    /// It is folded so far.
    Folded(ViewNote),
    /// It is no longer folded there.
    GivenUp,
}

#[derive(Debug, Serialize, Deserialize)]
struct ViewNote {
    until: Offset,
    read_to: Offset,
    end: Offset,
    complete_to: Option<RecordTime>,
    replaying_to: Option<Offset>,
    stopped: Option<String>,
    /// By number, in offset order.
    segments: Vec<u64>,
    new_segments: Vec<SegmentNote>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SegmentNote {
    number: u64,
    offsets: Range<Offset>,
    ticks: (Tick, Tick),
    marks: MarkState,
    /// Numbers of parts, by view id.
    views: BTreeMap<String, Vec<u64>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    failed: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PartNote {
    number: u64,
    view: String,
    bytes: u64,
}

/// Writes the frames of one connection.
#[derive(Debug, Default)]
pub struct Writer {
    sent: BTreeMap<TopicPartition, Sent>,
    numbers: u64,
}

/// What the reader has of a partition, by address. The view is held, so that no address is used again meanwhile.
#[derive(Debug)]
struct Sent {
    view: Arc<PartitionView>,
    segments: HashMap<usize, u64>,
    parts: HashMap<usize, u64>,
}

impl Writer {
    /// Hands `emit` the frames that bring a reader to `snapshot`, one by one, as they are made; stops with `false` where
    /// that says `false`. The reader is of no use then.
    pub fn send(&mut self, snapshot: &Snapshot, emit: &mut dyn FnMut(Vec<u8>) -> bool) -> Result<bool, WireError> {
        for (partition, view) in &snapshot.partitions {
            let before = self.sent.get(partition);
            if before.is_none_or(|before| !Arc::ptr_eq(&before.view, view)) && !self.send_one(partition, view, emit)? {
                return Ok(false);
            }
        }
        let given_up = self
            .sent
            .extract_if(.., |partition, _| !snapshot.partitions.contains_key(partition));
        for (partition, _) in given_up {
            let what = What::GivenUp;
            if !emit(frame(Some(PartitionNote { partition, what }), &[])) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The frame that says nothing but that the writer lives.
    pub fn alive() -> Vec<u8> {
        frame(None, &[])
    }

    fn send_one(
        &mut self,
        partition: &TopicPartition,
        view: &Arc<PartitionView>,
        emit: &mut dyn FnMut(Vec<u8>) -> bool,
    ) -> Result<bool, WireError> {
        let before = self.sent.remove(partition);
        let mut now = Sent {
            view: Arc::clone(view),
            segments: HashMap::with_capacity(view.segments.len()),
            parts: HashMap::new(),
        };
        let mut parcel = Parcel::new(partition);
        let (mut segments, mut new_segments) = (Vec::new(), Vec::new());
        for segment in &view.segments {
            let mut views = BTreeMap::new();
            for (id, partials) in &segment.views {
                let partials = partials.held().ok_or(WireError::Stored)?;
                let mut numbers = Vec::with_capacity(partials.len());
                for partial in partials {
                    let address = partial.address();
                    let known = before.as_ref().and_then(|before| before.parts.get(&address));
                    let number = match known.or_else(|| now.parts.get(&address)) {
                        Some(number) => *number,
                        None => {
                            let number = self.next_number();
                            parcel.add(number, id, partial.encode()?);
                            number
                        }
                    };
                    if parcel.bytes >= PARCEL_BYTES && !emit(parcel.frame()) {
                        return Ok(false);
                    }
                    now.parts.insert(address, number);
                    numbers.push(number);
                }
                views.insert(id.clone(), numbers);
            }
            let address = Arc::as_ptr(segment).addr();
            let known = before.as_ref().and_then(|before| before.segments.get(&address));
            let number = match known {
                Some(number) => *number,
                None => {
                    let number = self.next_number();
                    new_segments.push(SegmentNote {
                        number,
                        offsets: segment.offsets.clone(),
                        ticks: segment.ticks,
                        marks: segment.marks,
                        views,
                        failed: segment.failed.clone().into_iter().collect(),
                    });
                    number
                }
            };
            now.segments.insert(address, number);
            segments.push(number);
        }
        if parcel.bytes > 0 && !emit(parcel.frame()) {
            return Ok(false);
        }
        let note = ViewNote {
            until: view.until,
            read_to: view.read_to,
            end: view.end,
            complete_to: view.complete_to,
            replaying_to: view.replaying_to,
            stopped: view.stopped.clone(),
            segments,
            new_segments,
        };
        // Only now: until the new view is held here, the old one keeps its addresses.
        self.sent.insert(partition.clone(), now);
        let note = PartitionNote {
            partition: partition.clone(),
            what: What::Folded(note),
        };
        Ok(emit(frame(Some(note), &[])))
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

/// Partials on their way.
struct Parcel<'a> {
    partition: &'a TopicPartition,
    notes: Vec<PartNote>,
    bodies: Vec<Vec<u8>>,
    bytes: usize,
}

impl<'a> Parcel<'a> {
    fn new(partition: &'a TopicPartition) -> Self {
        Self {
            partition,
            notes: Vec::new(),
            bodies: Vec::new(),
            bytes: 0,
        }
    }

    fn add(&mut self, number: u64, view: &str, body: Vec<u8>) {
        self.notes.push(PartNote {
            number,
            view: view.to_owned(),
            bytes: body.len() as u64,
        });
        self.bytes += body.len();
        self.bodies.push(body);
    }

    /// What was added until now; the next one begins anew.
    fn frame(&mut self) -> Vec<u8> {
        self.bytes = 0;
        let note = PartitionNote {
            partition: self.partition.clone(),
            what: What::Parts(std::mem::take(&mut self.notes)),
        };
        frame(Some(note), &std::mem::take(&mut self.bodies))
    }
}

fn frame(partition: Option<PartitionNote>, bodies: &[Vec<u8>]) -> Vec<u8> {
    let header = Header {
        version: VERSION,
        partition,
    };
    let header = serde_json::to_vec(&header).expect("a header serialises");
    let bytes = PREFIX + header.len() + bodies.iter().map(Vec::len).sum::<usize>();
    let mut frame = Vec::with_capacity(FRAME_PREFIX + bytes);
    frame.extend((bytes as u64).to_le_bytes());
    frame.extend([0; 4]);
    frame.extend((header.len() as u32).to_le_bytes());
    frame.extend(header);
    for body in bodies {
        frame.extend(body);
    }
    let crc32 = crc32fast::hash(&frame[FRAME_PREFIX..]);
    frame[8..FRAME_PREFIX].copy_from_slice(&crc32.to_le_bytes());
    frame
}

/// What a frame brings.
#[derive(Debug)]
pub enum Update {
    /// Nothing to show yet.
    Nothing,
    /// A partition as it is folded now.
    Folded(TopicPartition, Arc<PartitionView>),
    /// A partition is no longer folded there.
    GivenUp(TopicPartition),
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub struct Reader {
    folds: HashMap<String, Arc<Fold>>,
    received: BTreeMap<TopicPartition, Received>,
}

#[derive(Debug, Default)]
struct Received {
    segments: HashMap<u64, (Arc<Segment>, SegmentNote)>,
    parts: HashMap<u64, Partial>,
}

impl Reader {
    /// For the views of `catalog`. Others are left out: to readers they are views that are not folded.
    pub fn new(catalog: &Catalog) -> Self {
        let folds = catalog.views().iter().filter_map(|view| match &view.kind {
            ViewKind::Fold(fold) => Some((view.id.clone(), Arc::clone(fold))),
            ViewKind::Derived(_) => None,
        });
        Self {
            folds: folds.collect(),
            received: BTreeMap::new(),
        }
    }

    /// How long the frame is that `prefix` begins, and its checksum.
    pub fn expect(prefix: [u8; FRAME_PREFIX]) -> (u64, u32) {
        let (bytes, crc32) = prefix.split_at(8);
        (
            u64::from_le_bytes(bytes.try_into().expect("eight bytes")),
            u32::from_le_bytes(crc32.try_into().expect("four bytes")),
        )
    }

    /// Takes the next frame in, without its prefix.
    pub fn take(&mut self, frame: &[u8], crc32: u32) -> Result<Update, WireError> {
        let damaged = |reason: &str| WireError::Damaged(reason.to_owned());
        if crc32fast::hash(frame) != crc32 {
            return Err(damaged("its checksum is another"));
        }
        let (header_bytes, rest) = frame
            .split_first_chunk::<PREFIX>()
            .ok_or_else(|| damaged("it is too short"))?;
        let header_bytes = u32::from_le_bytes(*header_bytes) as usize;
        let (header, bodies) = rest
            .split_at_checked(header_bytes)
            .ok_or_else(|| damaged("it is too short"))?;
        let version: Version = serde_json::from_slice(header).map_err(|error| WireError::Damaged(error.to_string()))?;
        if version.version != VERSION {
            return Err(WireError::Version { found: version.version });
        }
        let header: Header = serde_json::from_slice(header).map_err(|error| WireError::Damaged(error.to_string()))?;
        let Some(PartitionNote { partition, what }) = header.partition else {
            return Ok(Update::Nothing);
        };
        match what {
            What::Parts(parts) => {
                let received = self.received.entry(partition).or_default();
                receive_parts(&self.folds, received, parts, bodies)?;
                Ok(Update::Nothing)
            }
            What::Folded(view) => {
                let before = self.received.remove(&partition).unwrap_or_default();
                let (received, view) = self.receive(before, view)?;
                self.received.insert(partition.clone(), received);
                Ok(Update::Folded(partition, Arc::new(view)))
            }
            What::GivenUp => {
                self.received.remove(&partition);
                Ok(Update::GivenUp(partition))
            }
        }
    }

    fn receive(&self, mut received: Received, note: ViewNote) -> Result<(Received, PartitionView), WireError> {
        let damaged = |reason: String| WireError::Damaged(reason);
        for segment in note.new_segments {
            let mut views = HashMap::new();
            for (id, numbers) in segment.views.iter().filter(|(id, _)| self.folds.contains_key(*id)) {
                let parts = numbers.iter().map(|number| received.parts.get(number).cloned());
                let parts: Option<Vec<Partial>> = parts.collect();
                let parts = parts.ok_or_else(|| damaged(format!("segment {} lacks partials", segment.number)))?;
                views.insert(id.clone(), Partials::Held(parts));
            }
            let whole = Segment {
                offsets: segment.offsets.clone(),
                ticks: segment.ticks,
                views,
                failed: segment.failed.clone().into_iter().collect(),
                marks: segment.marks,
            };
            received.segments.insert(segment.number, (Arc::new(whole), segment));
        }
        let mut now = Received::default();
        let mut segments = Vec::with_capacity(note.segments.len());
        for number in note.segments {
            let (segment, of) = received
                .segments
                .remove(&number)
                .ok_or_else(|| damaged(format!("segment {number} is unknown")))?;
            for number in of.views.values().flatten() {
                if let Some(part) = received.parts.get(number) {
                    now.parts.insert(*number, part.clone());
                }
            }
            segments.push(Arc::clone(&segment));
            now.segments.insert(number, (segment, of));
        }
        let view = PartitionView {
            segments,
            until: note.until,
            read_to: note.read_to,
            end: note.end,
            complete_to: note.complete_to,
            replaying_to: note.replaying_to,
            stopped: note.stopped,
        };
        Ok((now, view))
    }
}

fn receive_parts(
    folds: &HashMap<String, Arc<Fold>>,
    received: &mut Received,
    parts: Vec<PartNote>,
    mut bodies: &[u8],
) -> Result<(), WireError> {
    for part in parts {
        let bytes = usize::try_from(part.bytes).unwrap_or(usize::MAX);
        let (body, rest) = bodies
            .split_at_checked(bytes)
            .ok_or_else(|| WireError::Damaged("it ends within a partial".to_owned()))?;
        bodies = rest;
        if let Some(fold) = folds.get(&part.view) {
            received.parts.insert(part.number, Partial::decode(body, fold)?);
        }
    }
    Ok(())
}

/// What every format begins with.
#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}
