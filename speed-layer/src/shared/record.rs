//! What a coverage record says.

use std::collections::BTreeMap;
use std::ops::Range;

use foldline_event_log::{MarkState, Offset, RecordTime, Tick, TopicPartition};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::StoreError;

/// Format of records, and of all that they name.
const VERSION: u32 = 2;

/// What the store holds of a partition, and how its folding stood then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) partition: TopicPartition,
    /// In offset order, without gap.
    pub(super) segments: Vec<StoredSegment>,
    /// What is not named any more and not removed yet.
    pub(super) garbage: Vec<Garbage>,
    /// What is not named any more stays for so long at least.
    pub(super) kept_ms: u64,
    pub(super) until: Offset,
    pub(super) read_to: Offset,
    pub(super) end: Offset,
    pub(super) complete_to: Option<RecordTime>,
    pub(super) replaying_to: Option<Offset>,
    pub(super) stopped: Option<String>,
}

/// A segment as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredSegment {
    pub(super) id: Uuid,
    pub(super) offsets: Range<Offset>,
    pub(super) ticks: (Tick, Tick),
    pub(super) marks: MarkState,
    /// By view id.
    pub(super) views: BTreeMap<String, StoredView>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) failed: BTreeMap<String, String>,
    /// When it was begun, by the clock of whoever began it.
    pub(super) since_ms: i64,
}

/// A view in a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredView {
    pub(super) keys: u64,
    /// Versions written for it, superseded ones included.
    pub(super) versions: u64,
    /// Bytes of all of these, keys and states.
    pub(super) bytes: u64,
    /// Bytes of the largest cell, key and chunk.
    pub(super) cell_bytes: u64,
    /// Whether the keys are spread over buckets.
    pub(super) spread: bool,
}

/// A segment to remove: for each view whether its keys are spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Garbage {
    pub(super) id: Uuid,
    pub(super) views: BTreeMap<String, bool>,
}

impl StoredSegment {
    pub(super) fn garbage(&self) -> Garbage {
        let views = self.views.iter().map(|(id, view)| (id.clone(), view.spread));
        Garbage {
            id: self.id,
            views: views.collect(),
        }
    }

    /// Versions of all views.
    pub(super) fn versions(&self) -> u64 {
        self.views.values().map(|view| view.versions).sum()
    }

    /// Keys of all views.
    pub(super) fn keys(&self) -> u64 {
        self.views.values().map(|view| view.keys).sum()
    }
}

impl Record {
    /// Where its segments begin.
    pub(super) fn start(&self) -> Offset {
        self.segments.first().map_or(self.until, |first| first.offsets.start)
    }

    /// View ids are long and the same in every segment: they are written once.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut names: Vec<&String> = Vec::new();
        let mut places: BTreeMap<&String, usize> = BTreeMap::new();
        let ids = self.segments.iter().flat_map(|segment| segment.views.keys());
        let ids = ids.chain(self.segments.iter().flat_map(|segment| segment.failed.keys()));
        let ids = ids.chain(self.garbage.iter().flat_map(|garbage| garbage.views.keys()));
        for id in ids {
            places.entry(id).or_insert_with(|| {
                names.push(id);
                names.len() - 1
            });
        }
        let short = |id: &String| places[id].to_string();
        let mut written = self.clone();
        for segment in &mut written.segments {
            segment.views = rename(&segment.views, short);
            segment.failed = rename(&segment.failed, short);
        }
        for garbage in &mut written.garbage {
            garbage.views = rename(&garbage.views, short);
        }
        let views = names.into_iter().cloned().collect();
        let envelope = Envelope {
            version: VERSION,
            views,
            record: written,
        };
        serde_json::to_vec(&envelope).expect("a record serialises")
    }

    /// Reads what [`Record::encode`] wrote of `partition`.
    pub(super) fn decode(bytes: &[u8], partition: &TopicPartition) -> Result<Self, StoreError> {
        let damaged = |reason: String| StoreError::Damaged(format!("a coverage record of {partition}: {reason}"));
        let Version { version } = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if version != VERSION {
            return Err(StoreError::Unfit(format!(
                "a coverage record of {partition} is of format {version}, this foldline reads {VERSION}; run one version \
                 of it, or give this one another keyspace"
            )));
        }
        let Envelope { views, mut record, .. } =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        let names = |short: &String| short.parse().ok().and_then(|place: usize| views.get(place)).cloned();
        for segment in &mut record.segments {
            let known = segment
                .views
                .keys()
                .chain(segment.failed.keys())
                .all(|id| names(id).is_some());
            if !known {
                return Err(damaged("it names a view that it does not list".to_owned()));
            }
            segment.views = rename(&segment.views, |short| names(short).unwrap_or_default());
            segment.failed = rename(&segment.failed, |short| names(short).unwrap_or_default());
        }
        for garbage in &mut record.garbage {
            garbage.views = rename(&garbage.views, |short| names(short).unwrap_or_default());
        }
        if record.partition != *partition {
            return Err(damaged(format!("it is of {}", record.partition)));
        }
        let mut reached = record.start();
        for segment in &record.segments {
            if segment.offsets.start != reached {
                return Err(damaged(format!("a hole at offset {reached}")));
            }
            reached = segment.offsets.end;
        }
        if reached != record.until {
            return Err(damaged(format!(
                "its segments end at {reached}, not at {}",
                record.until
            )));
        }
        Ok(record)
    }
}

fn rename<V: Clone>(map: &BTreeMap<String, V>, name: impl Fn(&String) -> String) -> BTreeMap<String, V> {
    map.iter().map(|(id, value)| (name(id), value.clone())).collect()
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    version: u32,
    /// Ids of the views that the record names by their places here.
    views: Vec<String>,
    record: Record,
}

/// What every format begins with.
#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}
