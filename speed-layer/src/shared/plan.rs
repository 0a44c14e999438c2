//! Which stored segments a new record names: those of the last one as far as they fit what is folded here, and new ones.
//!
//! With `[` and `]` for boundaries of stored segments (S) and folded ones (F):
//!
//! | | |
//! | --- | --- |
//! | S `[a]`, F `[a]` | kept |
//! | S `[a]` is the last one, F `[a...]` goes on | goes on if this process wrote it: keys changed since |
//! | the same, another process wrote it, or a flush of this one failed since | written as F has it |
//! | S `[a][b][c]`, F `[abc]` (F thinned out) | kept while they are few, else written as one: `[abc]` |
//! | S `[abc]`, F `[a][b][c]` (a fresh replay) | kept: batch cuts at none of these any more |
//! | S `[ab]`, F begins at b, or has no boundary where S ends | written as F has it |
//! | S lacks a view that F has, is old, or heavy with superseded versions | written as F has it |
//! | F begins before S (a rollback, another floor) | what is missing is written before it |
//! | S begins before F | no longer named |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldline_event_log::Offset;
use uuid::Uuid;

use super::record::StoredSegment;
use crate::{PartitionView, Segment};

/// Stored segments that became one in memory become one in the store when there are so many.
const ABSORBED_MIN: usize = 8;
/// A segment that goes on is written anew when it holds so many versions for each key...
const VERSIONS_PER_KEY: u64 = 4;
/// ... and at least so many.
const VERSIONS_MIN: u64 = 50_000;

/// Keys of a view in a segment are spread over buckets from this number on.
pub(super) const SPREAD_KEYS: u64 = 4096;
/// A segment whose keys are not spread, and have become so many times as many, is written anew.
const SPREAD_LATE: u64 = 8;

/// What is to be done about one segment of the new record.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// As it is.
    Keep(StoredSegment),
    /// It goes on.
    Extend(StoredSegment, Arc<Segment>),
    /// It is written.
    Write(Arc<Segment>),
}

/// Steps that lead to `view` from what is `stored`; segments that began before `oldest_ms` are written anew, and none goes
/// on but `own`: what others wrote to theirs, or a flush that failed to its own, may lie beyond what a record names, and
/// would be taken for newer than what comes. Those that are named now and not by the steps are garbage then.
pub(super) fn plan(stored: &[StoredSegment], view: &PartitionView, oldest_ms: i64, own: Option<Uuid>) -> Vec<Step> {
    let folded = &view.segments;
    let boundaries: BTreeSet<Offset> = folded
        .iter()
        .flat_map(|segment| [segment.offsets.start, segment.offsets.end])
        .collect();
    let starts: BTreeMap<Offset, usize> = (0..)
        .zip(stored)
        .map(|(at, segment)| (segment.offsets.start, at))
        .collect();
    let mut steps = Vec::new();
    let mut at = 0;
    while let Some(segment) = folded.get(at) {
        let found = starts.get(&segment.offsets.start);
        let found = found.map_or(&[][..], |first| &stored[*first..]);
        if let Some(wide) = found.first()
            && wide.offsets.end >= segment.offsets.end
            && boundaries.contains(&wide.offsets.end)
            && is_fit(wide, oldest_ms)
        {
            let within = folded[at..]
                .iter()
                .take_while(|one| one.offsets.end <= wide.offsets.end);
            let within: Vec<_> = within.collect();
            if within.iter().all(|one| has_views(wide, one)) {
                at += within.len();
                steps.push(Step::Keep(wide.clone()));
                continue;
            }
        }
        steps.extend(narrow(found, segment, oldest_ms, own));
        at += 1;
    }
    steps
}

/// Steps for `segment` where `found` begins with it and is not as long.
fn narrow(found: &[StoredSegment], segment: &Arc<Segment>, oldest_ms: i64, own: Option<Uuid>) -> Vec<Step> {
    let run = found
        .iter()
        .take_while(|one| one.offsets.end <= segment.offsets.end)
        .count();
    let (run, behind) = found.split_at(run);
    let whole = run.last().is_some_and(|last| last.offsets.end == segment.offsets.end);
    let fit = run.iter().all(|one| is_fit(one, oldest_ms) && has_views(one, segment));
    match run {
        _ if fit && whole && !is_worth_absorbing(run) => run.iter().cloned().map(Step::Keep).collect(),
        // A view that is stored and failed since is garbage of the old segment: the new one would not know of it.
        [open] if fit && !whole && behind.is_empty() && own == Some(open.id) && has_no_other(open, segment) => {
            vec![Step::Extend(open.clone(), Arc::clone(segment))]
        }
        _ => vec![Step::Write(Arc::clone(segment))],
    }
}

/// Geometric: so much that is new for it as is written again.
fn is_worth_absorbing(run: &[StoredSegment]) -> bool {
    let keys = run.iter().map(StoredSegment::keys);
    let (all, largest) = (keys.clone().sum::<u64>(), keys.max().unwrap_or_default());
    run.len() >= ABSORBED_MIN && (2 * (all - largest) >= largest || run.len() >= ABSORBED_MIN * ABSORBED_MIN)
}

fn is_fit(stored: &StoredSegment, oldest_ms: i64) -> bool {
    let heavy = stored.versions() >= VERSIONS_MIN && stored.versions() > VERSIONS_PER_KEY * stored.keys();
    let crowded = |view: &super::record::StoredView| !view.spread && view.keys > SPREAD_LATE * SPREAD_KEYS;
    stored.since_ms >= oldest_ms && !heavy && !stored.views.values().any(crowded)
}

fn has_no_other(stored: &StoredSegment, folded: &Segment) -> bool {
    stored.views.keys().all(|id| folded.views.contains_key(id))
}

fn has_views(stored: &StoredSegment, folded: &Segment) -> bool {
    folded.views.keys().all(|id| stored.views.contains_key(id))
}
