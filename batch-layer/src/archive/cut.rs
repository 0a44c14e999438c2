//! Which offset belongs to a tick.
//!
//! Record times ascend along a partition, so the cut at tick T is one past the last record before T:
//!
//! ```text
//! record time   3   8 | 12  14 |         31        ticks of 10
//! offset        0   1 |  2   3 |          7        (4..7 are holes)
//! cut at  0 ─► 0      10 ─► 2   20, 30 ─► 4   40 ─► 8, once the log is known to be complete to 40
//! ```
//!
//! Commits record where ticks meet inside them; where two commits meet, the second's first tick says the rest.

use foldline_event_log::{MarkState, Offset, PartitionCut, RecordTime, Tick, TopicPartition};

use super::{Archive, ArchiveError, Commit};

impl Archive {
    /// The cut of `partition` at `tick`: one past the last record before the tick. `complete_to` is how far the
    /// archiver has seen the log to be complete: with it an idle partition's cut is the archive's end.
    pub async fn cut_at(
        &self,
        partition: &TopicPartition,
        tick: Tick,
        complete_to: RecordTime,
    ) -> Result<PartitionCut, ArchiveError> {
        let (origin, commits) = self.chain(partition).await?;
        let cut = |next: Offset, marks: MarkState| {
            Ok(PartitionCut {
                partition: partition.clone(),
                next,
                marks,
            })
        };
        // The end of the commit before the one at `index`: where that one starts.
        let start_of = |index: usize| match index.checked_sub(1).map(|before| &commits[before]) {
            Some(before) => (before.offsets.end, before.marks),
            None => (origin.unwrap_or(Offset(0)), MarkState::default()),
        };

        let reaching = commits.partition_point(|commit| end_time(commit).is_some_and(|end| end.0 < tick.0));
        let (start, start_marks) = start_of(reaching);
        let Some(commit) = commits.get(reaching) else {
            if origin.is_none() || complete_to.0 < tick.0 {
                return Err(ArchiveError::NotReached {
                    partition: partition.clone(),
                    until: start,
                    reached: start_marks.record_time,
                    tick,
                });
            }
            return cut(start, start_marks);
        };
        if tick <= commit.first_tick {
            return cut(start, start_marks);
        }
        let at = commit.boundaries.partition_point(|boundary| boundary.after < tick);
        match commit.boundaries.get(at) {
            Some(boundary) if boundary.before.0 < tick.0 => cut(boundary.next, boundary.marks),
            _ => Err(ArchiveError::NoBoundary {
                partition: partition.clone(),
                tick,
                offsets: commit.offsets.clone(),
            }),
        }
    }
}

fn end_time(commit: &Commit) -> Option<RecordTime> {
    commit.marks.record_time
}
