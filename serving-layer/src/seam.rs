//! The seam: where batch ends and speed begins, for one answer (design D3, laws 2 and 3).
//!
//! A generation says in its cut, per partition, which offset comes next. The speed layer holds segments, each with the
//! offsets that it contains. The reader puts them together:
//!
//! ```text
//!   reviews/0   0 ........ batch ........ 120 | 120..180 | 180..204 |      until = 204
//!   reviews/1   0 .... batch .... 90 |    90..131    |                    until = 131
//!                                    cut             segments
//! ```
//!
//! Generation 7 closes here: from 120 and from 90 a chain of touching segments leads to `until`. Were the segment
//! `120..180` missing, generation 7 would not close, whatever reviews/1 has, and the next older one is tried: its cut
//! lies further left, where the segments below 120 (no part of any newer chain) may still be. Only when no readable
//! generation closes is it an error, and that names both ends in each of them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use foldline_batch_layer::{Generation, GenerationNumber};
use foldline_event_log::{Offset, RecordTime, TopicPartition};
use foldline_speed_layer::{Segment, Snapshot};
use uuid::Uuid;

/// Which halves an answer contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Batch up to the cut, speed behind it.
    #[default]
    Merged,
    /// The current generation alone, at its cut.
    BatchOnly,
    /// This generation alone, at its cut; it need not be readable, only stored.
    At(GenerationNumber),
    /// What lies behind the cut, alone.
    SpeedOnly,
}

/// A partition that an answer has to cover, and where it begins for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which partition.
    pub partition: TopicPartition,
    /// Its origin: where it stands in a cut that does not name it.
    pub origin: Offset,
}

/// A closed seam: what one answer is computed from.
#[derive(Debug, Clone)]
pub struct Seam {
    /// The batch half; `None` before the first generation: the empty cut, everything from the origins on.
    pub generation: Option<Arc<Generation>>,
    /// The partitions covered.
    pub partitions: BTreeMap<TopicPartition, Closed>,
    /// Whether the batch half is part of the answer.
    pub with_batch: bool,
}

/// One partition of a closed seam.
#[derive(Debug, Clone)]
pub struct Closed {
    /// Where the partition begins for us.
    pub origin: Offset,
    /// Where batch ends and the chain begins.
    pub cut: Offset,
    /// Largest clamped event time below the cut, microseconds since 1970.
    pub cut_event_time: Option<i64>,
    /// Segments that lead from `cut` to `until`, each touching the one before.
    pub chain: Vec<Arc<Segment>>,
    /// Where the answer ends.
    pub until: Offset,
    /// Every record before this is in the answer.
    pub complete_to: Option<RecordTime>,
}

impl Seam {
    /// Largest clamped event time that the answer covers (`as_of`), microseconds since 1970.
    pub fn as_of(&self) -> Option<i64> {
        self.as_of_where(|_| true)
    }

    /// The same of `topic` alone: what a view hides must not hang on what else the query reads.
    pub fn as_of_topic(&self, topic: &str) -> Option<i64> {
        self.as_of_where(|partition| partition.topic == topic)
    }

    fn as_of_where(&self, covers: impl Fn(&TopicPartition) -> bool) -> Option<i64> {
        let of_partition = |closed: &Closed| match closed.chain.last() {
            Some(segment) => segment.marks.max_event_time.max(closed.cut_event_time),
            None => closed.cut_event_time,
        };
        let partitions = self.partitions.iter().filter(|(partition, _)| covers(partition));
        partitions.filter_map(|(_, closed)| of_partition(closed)).max()
    }

    /// The partitions of one topic.
    pub fn of_topic<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = (&'a TopicPartition, &'a Closed)> {
        self.partitions
            .iter()
            .filter(move |(partition, _)| partition.topic == topic)
    }

    /// Whether the batch half holds nothing: no generation, or every partition is cut at its origin.
    pub fn batch_is_empty(&self) -> bool {
        self.generation.is_none() || self.partitions.values().all(|closed| closed.cut == closed.origin)
    }
}

/// Why a generation does not close in one partition. Both ends are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// The speed layer does not have the partition.
    NotFolded {
        /// Where batch ends.
        cut: Offset,
    },
    /// Offsets of another life of the topic.
    OtherIncarnation {
        /// Who holds them: `batch` or `speed`.
        holder: &'static str,
        /// Theirs.
        found: Uuid,
        /// The log's.
        expected: Uuid,
    },
    /// Batch covers a partition that is not among those of the topic.
    NotInLog {
        /// Where batch ends.
        cut: Offset,
    },
    /// Batch is ahead of speed.
    BatchAhead {
        /// Where batch ends.
        cut: Offset,
        /// Where speed ends.
        until: Offset,
    },
    /// No segment begins where the chain has come to.
    Hole {
        /// Where batch ends.
        cut: Offset,
        /// Where the chain has come to.
        reached: Offset,
        /// The nearest segment that begins before `reached`.
        before: Option<Range<Offset>>,
        /// The nearest segment that begins after `reached`, or where speed says that it ends.
        after: Range<Offset>,
    },
    /// Two segments of the chain hold the same offsets.
    Overlap {
        /// The first of them.
        one: Range<Offset>,
        /// The second.
        other: Range<Offset>,
    },
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFolded { cut } => {
                write!(
                    formatter,
                    "batch ends at {cut} and speed does not have the partition (yet)"
                )
            }
            Self::OtherIncarnation {
                holder,
                found,
                expected,
            } => write!(
                formatter,
                "{holder} has offsets of incarnation {found}, the log has incarnation {expected}"
            ),
            Self::NotInLog { cut } => {
                write!(
                    formatter,
                    "batch ends at {cut} but the log's topic does not have the partition"
                )
            }
            Self::BatchAhead { cut, until } => {
                write!(
                    formatter,
                    "batch ends at {cut}, ahead of speed, which ends at {until} (yet)"
                )
            }
            Self::Hole {
                cut,
                reached,
                before,
                after,
            } => {
                write!(
                    formatter,
                    "batch ends at {cut}, the chain of segments at {reached}; no segment begins there: "
                )?;
                match before {
                    Some(before) => write!(formatter, "the one before is {}..{}, ", before.start, before.end)?,
                    None => formatter.write_str("there is none before, ")?,
                }
                write!(formatter, "speed goes on at {}..{}", after.start, after.end)
            }
            Self::Overlap { one, other } => write!(
                formatter,
                "segments {}..{} and {}..{} overlap",
                one.start, one.end, other.start, other.end
            ),
        }
    }
}

/// A generation that does not close, with every partition where it does not. `None` is the empty cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Which generation.
    pub generation: Option<GenerationNumber>,
    /// Where and why.
    pub gaps: Vec<(TopicPartition, Gap)>,
}

/// The seam does not close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeamError {
    /// Every generation tried, newest first.
    pub tried: Vec<Tried>,
}

/// Messages list at most this many partitions per generation.
const GAPS_LISTED_MAX: usize = 4;

impl fmt::Display for SeamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("batch and speed do not touch")?;
        for tried in &self.tried {
            match tried.generation {
                Some(number) => write!(formatter, "; generation {}:", number.0)?,
                None => formatter.write_str("; no generation:")?,
            }
            for (index, (partition, gap)) in tried.gaps.iter().take(GAPS_LISTED_MAX).enumerate() {
                write!(formatter, "{} {partition}: {gap}", if index == 0 { "" } else { "," })?;
            }
            if tried.gaps.len() > GAPS_LISTED_MAX {
                write!(
                    formatter,
                    ", and {} more partitions",
                    tried.gaps.len() - GAPS_LISTED_MAX
                )?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for SeamError {}

/// Closes the seam: the newest of `generations` (readable ones, newest first) from whose cut a gapless chain of
/// segments leads on in every one of `places`.
///
/// With `c` the cut of a partition, `u` the end of what speed folded, segments as half-open ranges:
///
/// | batch | speed | the partition closes? |
/// | --- | --- | --- |
/// | c = 100 | 100..150, 150..170, u = 170 | yes, chain 100..150, 150..170 |
/// | c = 100 | 50..100, 100..170, u = 170 | yes, chain 100..170; 50..100 lies outside the chain |
/// | c = 100 | 50..100, u = 100 | yes, with an empty chain |
/// | c = 100 | no segment, u = 100 | yes, with an empty chain |
/// | not named, origin 7 | 7..20, u = 20 | yes, chain 7..20 |
/// | no generation, origin 7 | 7..20, u = 20 | yes, chain 7..20 |
/// | c = 100 | 50..170, u = 170 | no, a hole: no segment begins at 100 |
/// | c = 100 | 100..150, 160..170 | no, a hole: 150 to 160 |
/// | c = 100 | 110..170 | no, a hole: 100 to 110 |
/// | c = 100 | 100..150, u = 170 | no, a hole: 150 to 170 |
/// | c = 100 | 100..150, 140..170 | no, an overlap |
/// | c = 100 | u = 90 | no, batch is ahead of speed |
/// | c = 100 | partition missing | no |
/// | c or speed of another incarnation | | no |
/// | names a partition that is none of the topic's | | no |
///
/// One partition that does not close refuses the generation; the next older one is tried. Without any generation the
/// empty cut is tried, and only then: where a generation exists, the origins are below what speed keeps.
pub fn close(generations: &[Arc<Generation>], snapshot: &Snapshot, places: &[Place]) -> Result<Seam, SeamError> {
    let mut tried = Vec::new();
    if generations.is_empty() {
        match close_one(None, snapshot, places) {
            Ok(seam) => return Ok(seam),
            Err(gaps) => tried.push(Tried { generation: None, gaps }),
        }
    }
    for generation in generations {
        match close_one(Some(generation), snapshot, places) {
            Ok(seam) => return Ok(seam),
            Err(gaps) => tried.push(Tried {
                generation: Some(generation.number),
                gaps,
            }),
        }
    }
    Err(SeamError { tried })
}

/// The seam of `generation` alone: every partition ends at its cut. Refused where the cut is one of another life of a
/// topic.
pub fn at_cut(generation: &Arc<Generation>, places: &[Place]) -> Result<Seam, SeamError> {
    let mut gaps = strangers(generation, places);
    let mut partitions = BTreeMap::new();
    for place in places {
        match start_of(Some(generation), place) {
            Ok((cut, cut_event_time)) => {
                let closed = Closed {
                    origin: place.origin,
                    cut,
                    cut_event_time,
                    chain: Vec::new(),
                    until: cut,
                    complete_to: generation.cut.tick.map(|tick| RecordTime(tick.0)),
                };
                partitions.insert(place.partition.clone(), closed);
            }
            Err(gap) => gaps.push((place.partition.clone(), gap)),
        }
    }
    if gaps.is_empty() {
        return Ok(Seam {
            generation: Some(Arc::clone(generation)),
            partitions,
            with_batch: true,
        });
    }
    let tried = Tried {
        generation: Some(generation.number),
        gaps,
    };
    Err(SeamError { tried: vec![tried] })
}

type Gaps = Vec<(TopicPartition, Gap)>;

fn close_one(generation: Option<&Arc<Generation>>, snapshot: &Snapshot, places: &[Place]) -> Result<Seam, Gaps> {
    let mut gaps = generation.map_or_else(Vec::new, |generation| strangers(generation, places));
    let mut partitions = BTreeMap::new();
    for place in places {
        match close_partition(generation, snapshot, place) {
            Ok(closed) => {
                partitions.insert(place.partition.clone(), closed);
            }
            Err(gap) => gaps.push((place.partition.clone(), gap)),
        }
    }
    if !gaps.is_empty() {
        return Err(gaps);
    }
    Ok(Seam {
        generation: generation.cloned(),
        partitions,
        with_batch: true,
    })
}

/// Partitions of the topics of `places` that the generation covers and `places` does not name: the batch half holds
/// rows of them, so an answer without them in its coverage would be a lie.
fn strangers(generation: &Generation, places: &[Place]) -> Gaps {
    let ours = |partition: &TopicPartition| {
        let of_topic = |place: &Place| place.partition.topic == partition.topic;
        let same = |place: &Place| of_topic(place) && place.partition.partition == partition.partition;
        !places.iter().any(of_topic) || places.iter().any(same)
    };
    let cuts = generation.cut.partitions.iter();
    cuts.filter(|cut| !ours(&cut.partition))
        .map(|cut| (cut.partition.clone(), Gap::NotInLog { cut: cut.next }))
        .collect()
}

/// Where speed has to begin in a partition, and the largest clamped event time below.
fn start_of(generation: Option<&Arc<Generation>>, place: &Place) -> Result<(Offset, Option<i64>), Gap> {
    let Some(generation) = generation else {
        return Ok((place.origin, None));
    };
    if let Some(cut) = generation.cut.of(&place.partition) {
        return Ok((cut.next, cut.marks.max_event_time));
    }
    let other_life = |partition: &TopicPartition| {
        partition.topic == place.partition.topic && partition.partition == place.partition.partition
    };
    match generation.cut.partitions.iter().find(|cut| other_life(&cut.partition)) {
        Some(cut) => Err(Gap::OtherIncarnation {
            holder: "batch",
            found: cut.partition.incarnation,
            expected: place.partition.incarnation,
        }),
        None => Ok((place.origin, None)),
    }
}

fn close_partition(generation: Option<&Arc<Generation>>, snapshot: &Snapshot, place: &Place) -> Result<Closed, Gap> {
    let (cut, cut_event_time) = start_of(generation, place)?;
    let Some(view) = snapshot.partitions.get(&place.partition) else {
        let other_life = |partition: &&TopicPartition| {
            partition.topic == place.partition.topic && partition.partition == place.partition.partition
        };
        return Err(match snapshot.partitions.keys().find(other_life) {
            Some(other) => Gap::OtherIncarnation {
                holder: "speed",
                found: other.incarnation,
                expected: place.partition.incarnation,
            },
            None => Gap::NotFolded { cut },
        });
    };
    if view.until < cut {
        return Err(Gap::BatchAhead { cut, until: view.until });
    }
    let chain = chain(&view.segments, cut, view.until)?;
    let cut_tick = generation.and_then(|generation| generation.cut.tick);
    Ok(Closed {
        origin: place.origin,
        cut,
        cut_event_time,
        chain,
        until: view.until,
        complete_to: view.complete_to.max(cut_tick.map(|tick| RecordTime(tick.0))),
    })
}

/// The segments that lead from `cut` to `until`. What ends at or before `cut` is no part of it.
fn chain(segments: &[Arc<Segment>], cut: Offset, until: Offset) -> Result<Vec<Arc<Segment>>, Gap> {
    let mut reached = cut;
    let mut chain: Vec<Arc<Segment>> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let offsets = &segment.offsets;
        if offsets.end <= cut {
            continue;
        }
        if offsets.start == reached {
            chain.push(Arc::clone(segment));
            reached = offsets.end;
            continue;
        }
        return Err(match chain.last() {
            Some(last) if offsets.start < reached => Gap::Overlap {
                one: last.offsets.clone(),
                other: offsets.clone(),
            },
            _ if offsets.start < reached => Gap::Hole {
                cut,
                reached,
                before: Some(offsets.clone()),
                after: segments
                    .get(index + 1)
                    .map_or(until..until, |next| next.offsets.clone()),
            },
            _ => Gap::Hole {
                cut,
                reached,
                before: index.checked_sub(1).map(|before| segments[before].offsets.clone()),
                after: offsets.clone(),
            },
        });
    }
    if reached != until {
        return Err(Gap::Hole {
            cut,
            reached,
            before: segments.last().map(|segment| segment.offsets.clone()),
            after: until..until,
        });
    }
    Ok(chain)
}
