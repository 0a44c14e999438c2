//! Removing what is old and needed by nobody: whole frames from the front of a partition, never at or above its floor.

use super::Shared;
use super::frame::Frame;
use super::store::{Start, base_offset, damaged, failed, frame_key, start_key};
use super::topic::{Extent, PartitionState, TopicState};
use crate::LogError;

/// Frames removed by one batch, at most.
const FRAMES_AT_ONCE: usize = 256;

/// Trims every partition that has something to trim. What cannot be trimmed stays, and is logged: it harms no append.
pub(super) fn trim(shared: &Shared) {
    if shared.settings.retention_ms.is_none() && shared.settings.retention_bytes.is_none() {
        return;
    }
    for topic in shared.topics() {
        for partition in topic.partitions() {
            if let Err(error) = trim_partition(shared, &topic, &partition) {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a partition cannot be trimmed"
                );
            }
        }
    }
}

fn trim_partition(shared: &Shared, topic: &TopicState, partition: &PartitionState) -> Result<(), LogError> {
    while trim_some(shared, topic, partition)? {}
    Ok(())
}

/// Trims at most [`FRAMES_AT_ONCE`] frames; says whether it stopped because of that.
fn trim_some(shared: &Shared, topic: &TopicState, partition: &PartitionState) -> Result<bool, LogError> {
    let extent = *partition.extent();
    let Some(floor) = extent.floor.filter(|floor| *floor > extent.earliest) else {
        return Ok(false);
    };
    let end = partition.end();
    let trimming = |cause| failed(format!("trimming {}/{}", topic.name, partition.index), cause);

    let mut batch = shared.store.batch();
    let mut start = None;
    let mut removed = 0;
    let first = frame_key(partition.index, extent.earliest);
    for entry in topic.frames.range(first..frame_key(partition.index, end)) {
        let (key, value) = entry.into_inner().map_err(trimming)?;
        let base = base_offset(&key);
        let frame = Frame::parse(&value).map_err(|reason| damaged(&topic.name, partition.index, base, reason))?;
        let until = base + frame.count as u64;
        if until > floor || !has_expired(shared, &extent, &frame, value.len() as u64) {
            break;
        }
        batch.remove(&topic.frames, key);
        start = Some(Start {
            earliest: until,
            bytes_before: frame.bytes_before + value.len() as u64,
            timestamp_ms: frame.timestamp_ms,
        });
        removed += 1;
        if removed == FRAMES_AT_ONCE {
            break;
        }
    }
    let Some(start) = start else { return Ok(false) };
    batch.insert(
        &shared.store.meta,
        start_key(topic.incarnation, partition.index),
        start.encode(),
    );
    batch.commit().map_err(trimming)?;
    partition.extent().earliest = start.earliest;
    tracing::debug!(
        topic = topic.name,
        partition = partition.index,
        earliest = start.earliest,
        frames = removed,
        "log trimmed"
    );
    Ok(removed == FRAMES_AT_ONCE)
}

fn has_expired(shared: &Shared, extent: &Extent, frame: &Frame<'_>, frame_bytes: u64) -> bool {
    let now_ms = shared.clock.now_ms();
    let too_old = shared
        .settings
        .retention_ms
        .is_some_and(|keep_ms| frame.timestamp_ms < now_ms - keep_ms);
    let left = extent.bytes_until - frame.bytes_before - frame_bytes;
    too_old || shared.settings.retention_bytes.is_some_and(|keep| left >= keep)
}
