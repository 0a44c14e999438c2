//! What lies in `fjall`: frames in one keyspace per incarnation of a topic, everything else in two small ones.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `frames-<incarnation>` | partition, base offset (big endian) | a frame |
//! | `meta` | `format` | version of this table |
//! | | `lease` | the largest time that can have been promised |
//! | | `topic/<name>` | incarnation and number of partitions, JSON |
//! | | `start/<incarnation><partition>` | where a trimmed partition starts |
//! | `producers` | `by-name/<producer>` | last sequence, and when |
//! | | `by-time/<time><producer>` | nothing; only for producers that are forgotten |

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frame::Frame;
use crate::LogError;

const FORMAT: u64 = 1;
/// Block cache of the whole store.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// All journals together: what a start after a crash has to read.
const JOURNAL_BYTES: u64 = 256 * 1024 * 1024;
/// Memory for what is not yet in tables, per topic.
const MEMTABLE_BYTES: u64 = 32 * 1024 * 1024;
/// Frames from here on are stored beside the tree, so that compaction does not copy them.
const SEPARATED_BYTES: u32 = 4 * 1024;

#[derive(Clone)]
pub(super) struct Store {
    pub(super) database: Database,
    pub(super) meta: Keyspace,
    pub(super) producers: Keyspace,
}

/// The record of a topic.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicRecord {
    pub(super) incarnation: Uuid,
    pub(super) partitions: u32,
}

/// Where a trimmed partition starts. Without trimming that is (0, 0, 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Start {
    pub(super) earliest: u64,
    /// Bytes of the frames that were removed.
    pub(super) bytes_before: u64,
    /// Timestamp of the last frame that was removed.
    pub(super) timestamp_ms: i64,
}

/// What a log knows of a partition when it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) start: Start,
    pub(super) end: u64,
    pub(super) bytes_until: u64,
    pub(super) timestamp_ms: i64,
}

impl Store {
    pub(super) fn open(folder: &Path) -> Result<Self, LogError> {
        let open = || -> fjall::Result<Self> {
            let database = Database::builder(folder)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(JOURNAL_BYTES)
                .journal_compression(fjall::CompressionType::Lz4)
                .open()?;
            let meta = database.keyspace("meta", KeyspaceCreateOptions::default)?;
            let producers = database.keyspace("producers", KeyspaceCreateOptions::default)?;
            Ok(Self {
                database,
                meta,
                producers,
            })
        };
        let store = open().map_err(|cause| failed(format!("opening {}", folder.display()), cause))?;
        match store.number(b"format")? {
            None => {
                let mut batch = store.batch();
                batch.insert(&store.meta, "format", FORMAT.to_be_bytes());
                batch
                    .commit()
                    .map_err(|cause| failed("writing the format of a new log", cause))?;
            }
            Some(FORMAT) => {}
            Some(other) => {
                return Err(LogError::Damaged {
                    at: folder.display().to_string(),
                    reason: format!("format {other}, this foldline reads format {FORMAT}"),
                });
            }
        }
        Ok(store)
    }

    /// A batch that is synced when `commit` returns.
    pub(super) fn batch(&self) -> fjall::OwnedWriteBatch {
        self.database.batch().durability(Some(PersistMode::SyncData))
    }

    /// The keyspace of the frames of `incarnation`.
    pub(super) fn frames(&self, incarnation: Uuid) -> Result<Keyspace, LogError> {
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .with_kv_separation(Some(
                    KvSeparationOptions::default().separation_threshold(SEPARATED_BYTES),
                ))
        };
        let name = format!("frames-{}", incarnation.simple());
        self.database
            .keyspace(&name, options)
            .map_err(|cause| failed(format!("opening keyspace {name}"), cause))
    }

    pub(super) fn topics(&self) -> Result<Vec<(String, TopicRecord)>, LogError> {
        let mut topics = Vec::new();
        for entry in self.meta.prefix("topic/") {
            let (key, value) = entry.into_inner().map_err(|cause| failed("listing topics", cause))?;
            let name = String::from_utf8_lossy(&key["topic/".len()..]).into_owned();
            let record = serde_json::from_slice(&value).map_err(|cause| LogError::Damaged {
                at: format!("the record of topic \"{name}\""),
                reason: cause.to_string(),
            })?;
            topics.push((name, record));
        }
        Ok(topics)
    }

    pub(super) fn put_topic(&self, name: &str, record: &TopicRecord) -> Result<(), LogError> {
        let value = serde_json::to_vec(record).expect("a topic record is plain JSON");
        let mut batch = self.batch();
        batch.insert(&self.meta, format!("topic/{name}"), value);
        batch
            .commit()
            .map_err(|cause| failed(format!("storing topic \"{name}\""), cause))
    }

    /// A number in `meta`.
    pub(super) fn number(&self, key: &[u8]) -> Result<Option<u64>, LogError> {
        let value = self.meta.get(key).map_err(|cause| failed("reading a number", cause))?;
        value.map(|value| parse_u64(&value, key)).transpose()
    }

    /// The largest time that can have been promised.
    pub(super) fn lease(&self) -> Result<i64, LogError> {
        Ok(self.number(b"lease")?.map_or(0, u64::cast_signed))
    }

    /// Where `partition` starts and ends.
    pub(super) fn find(
        &self,
        topic: &str,
        incarnation: Uuid,
        frames: &Keyspace,
        partition: u32,
    ) -> Result<Found, LogError> {
        let key = start_key(incarnation, partition);
        let start = match self
            .meta
            .get(&key)
            .map_err(|cause| failed("reading the start of a partition", cause))?
        {
            None => Start::default(),
            Some(value) => Start {
                earliest: parse_u64(&value[..8.min(value.len())], &key)?,
                bytes_before: parse_u64(&value[8.min(value.len())..16.min(value.len())], &key)?,
                timestamp_ms: parse_u64(&value[16.min(value.len())..], &key)?.cast_signed(),
            },
        };
        let every = frame_key(partition, 0)..=frame_key(partition, u64::MAX);
        let Some(last) = frames.range(every).next_back() else {
            return Ok(Found {
                start,
                end: start.earliest,
                bytes_until: start.bytes_before,
                timestamp_ms: start.timestamp_ms,
            });
        };
        let (key, value) = last
            .into_inner()
            .map_err(|cause| failed("reading the last frame of a partition", cause))?;
        let base = base_offset(&key);
        let frame = Frame::parse(&value).map_err(|reason| damaged(topic, partition, base, reason))?;
        Ok(Found {
            start,
            end: base + frame.count as u64,
            bytes_until: frame.bytes_before + value.len() as u64,
            timestamp_ms: frame.timestamp_ms,
        })
    }
}

impl Start {
    pub(super) fn encode(&self) -> Vec<u8> {
        let words = [self.earliest, self.bytes_before, self.timestamp_ms.cast_unsigned()];
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }
}

/// The key of the frame that starts at `base`.
pub(super) fn frame_key(partition: u32, base: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4..].copy_from_slice(&base.to_be_bytes());
    key
}

/// The offset in a frame's key.
pub(super) fn base_offset(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[4..12].try_into().expect("keys of frames have twelve bytes"))
}

/// The key of a partition's [`Start`].
pub(super) fn start_key(incarnation: Uuid, partition: u32) -> Vec<u8> {
    let mut key = b"start/".to_vec();
    key.extend_from_slice(incarnation.as_bytes());
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

/// A storage error.
pub(super) fn failed(
    attempt: impl Into<String>,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> LogError {
    LogError::Storage {
        attempt: attempt.into(),
        source: cause.into(),
    }
}

/// A frame that does not read as written.
pub(super) fn damaged(topic: &str, partition: u32, offset: u64, reason: impl Into<String>) -> LogError {
    LogError::Damaged {
        at: format!("{topic}/{partition} offset {offset}"),
        reason: reason.into(),
    }
}

fn parse_u64(value: &[u8], key: &[u8]) -> Result<u64, LogError> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| LogError::Damaged {
        at: format!("the entry \"{}\"", String::from_utf8_lossy(key)),
        reason: format!("{} bytes where a number of 8 is kept", value.len()),
    })
}
