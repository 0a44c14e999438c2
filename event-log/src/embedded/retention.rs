//! Removing what is old and needed by nobody: whole frames from the front of a partition, never at or above its floor.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shared;
use super::frame::Frame;
use super::store::{Start, base_offset, damaged, failed, frame_key, start_key};
use super::topic::{Extent, Oldest, PartitionState, TopicState};
use crate::LogError;

/// A piece has at most so many frames, and is read no further than this: appends wait for it.
const PIECE_FRAMES: usize = 256;
const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// A partition to trim.
pub(super) struct Trim {
    pub(super) topic: Arc<TopicState>,
    pub(super) partition: Arc<PartitionState>,
    /// Whoever waits for it learns by the end of the channel that nothing is left to trim.
    pub(super) _done: Option<oneshot::Sender<()>>,
}

/// Every partition, as nothing but time may have passed.
pub(super) fn every_partition(shared: &Shared) -> Vec<Trim> {
    let mut trims = Vec::new();
    for topic in shared.topics() {
        trims.extend(topic.partitions().into_iter().map(|partition| Trim {
            topic: Arc::clone(&topic),
            partition,
            _done: None,
        }));
    }
    trims
}

/// Removes one piece of what may go from the first of `trims` that has any; those that have none are done. What cannot
/// be trimmed stays, and is logged: it harms no append.
pub(super) fn trim_a_piece(shared: &Shared, trims: &mut VecDeque<Trim>) {
    while let Some(trim) = trims.pop_front() {
        match trim_some(shared, &trim.topic, &trim.partition) {
            Ok(true) => {
                // There may be more; in its turn, so that one partition does not hold the others up.
                trims.push_back(trim);
                return;
            }
            Ok(false) => {}
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "a partition cannot be trimmed"
            ),
        }
    }
}

/// Removes a piece; says whether there was any.
fn trim_some(shared: &Shared, topic: &TopicState, partition: &PartitionState) -> Result<bool, LogError> {
    let extent = *partition.extent();
    let Some(floor) = extent.floor.filter(|floor| *floor > extent.earliest) else {
        return Ok(false);
    };
    if extent
        .oldest
        .is_some_and(|oldest| !may_go(shared, &extent, &oldest, floor))
    {
        return Ok(false);
    }
    let end = partition.end();
    let trimming = |cause| failed(format!("trimming {}/{}", topic.name, partition.index), cause);

    let mut batch = shared.store.batch();
    let mut start = None;
    let mut left = None;
    let (mut removed, mut bytes) = (0, 0);
    let first = frame_key(partition.index, extent.earliest);
    for entry in topic.frames.range(first..frame_key(partition.index, end)) {
        let (key, value) = entry.into_inner().map_err(trimming)?;
        let base = base_offset(&key);
        let frame = Frame::parse(&value).map_err(|reason| damaged(&topic.name, partition.index, base, reason))?;
        let oldest = Oldest {
            until: base + frame.count as u64,
            timestamp_ms: frame.timestamp_ms,
            bytes_until: frame.bytes_before + value.len() as u64,
        };
        if !may_go(shared, &extent, &oldest, floor) {
            left = Some(oldest);
            break;
        }
        batch.remove(&topic.frames, key);
        start = Some(Start {
            earliest: oldest.until,
            bytes_before: oldest.bytes_until,
            timestamp_ms: oldest.timestamp_ms,
        });
        removed += 1;
        bytes += value.len();
        if removed == PIECE_FRAMES || bytes >= PIECE_BYTES {
            break;
        }
    }
    let Some(start) = start else {
        partition.extent().oldest = left;
        return Ok(false);
    };
    batch.insert(
        &shared.store.meta,
        start_key(topic.incarnation, partition.index),
        start.encode(),
    );
    // Before the frames go: who then misses one finds that it lies below the start.
    {
        let mut extent = partition.extent();
        extent.earliest = start.earliest;
        extent.oldest = left;
    }
    if let Err(cause) = batch.commit() {
        let mut now = partition.extent();
        now.earliest = extent.earliest;
        now.oldest = extent.oldest;
        return Err(trimming(cause));
    }
    tracing::debug!(
        topic = topic.name,
        partition = partition.index,
        earliest = start.earliest,
        frames = removed,
        "log trimmed"
    );
    Ok(true)
}

/// Whether nobody needs the frame, and it is too old or one too many.
fn may_go(shared: &Shared, extent: &Extent, frame: &Oldest, floor: u64) -> bool {
    let settings = &shared.settings;
    let now_ms = shared.clock.now_ms();
    let too_old = settings
        .retention_ms
        .is_some_and(|keep_ms| frame.timestamp_ms < now_ms - keep_ms);
    let left = extent.bytes_until - frame.bytes_until;
    frame.until <= floor && (too_old || settings.retention_bytes.is_some_and(|keep| left >= keep))
}
