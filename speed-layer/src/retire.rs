//! What must stay: the floor below which segments go, and the boundaries between segments that must not.
//!
//! The boundary between two neighbours `a` and `b` is the cut of every tick T with `a.ticks.1 < T <= b.ticks.0`: batch
//! may have cut, or be about to cut, at any of them.
//!
//! | boundary | |
//! | --- | --- |
//! | one of its ticks is protected (cut of a readable generation or of a run under way) | stays |
//! | one of its ticks is young, or coarse enough for its age ([`keeps_boundary`]) | stays |
//! | it is the floor | stays |
//! | before the first call of `retain` (what is protected is not known yet) | stays |
//! | any other | goes: both segments become one |

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use foldline_event_log::{Cut, MarkState, Offset, Tick, TopicPartition, keeps_boundary};

use crate::accumulate::Start;

/// Offsets that left the log unarchived, by partition, as somebody accepted: see [`SpeedLayer::lose`]
/// (crate::SpeedLayer::lose).
pub type Gaps = BTreeMap<TopicPartition, Vec<Range<Offset>>>;

/// What readers still need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retention {
    /// The cut of the oldest readable generation.
    pub(crate) floor: Cut,
    /// Ticks whose boundaries stay; `None` while they are not known.
    pub(crate) protected: Option<BTreeSet<Tick>>,
    pub(crate) gaps: Gaps,
}

impl Retention {
    /// The accepted gaps of `partition`.
    pub(crate) fn gaps_of(&self, partition: &TopicPartition) -> &[Range<Offset>] {
        self.gaps.get(partition).map_or(&[], Vec::as_slice)
    }

    /// Where the chain of `partition` begins: at the floor, or at its origin where the floor does not name it.
    pub(crate) fn floor_of(&self, partition: &TopicPartition, origin: Offset) -> Start {
        let named = self.floor.of(partition).map(|cut| Start {
            next: cut.next,
            marks: cut.marks,
        });
        named.unwrap_or(Start {
            next: origin,
            marks: MarkState::default(),
        })
    }
}

/// Whether the boundary between a segment that ends with tick `before` and one that begins with tick `after` stays.
/// `newest` is the newest tick of the partition.
pub(crate) fn boundary_stays(
    before: Tick,
    after: Tick,
    newest: Tick,
    cut_every_ms: i64,
    retention: &Retention,
) -> bool {
    let Some(protected) = &retention.protected else {
        return true;
    };
    let ticks = (Bound::Excluded(before), Bound::Included(after));
    let at_floor = retention.floor.tick.is_some_and(|tick| before < tick && tick <= after);
    if at_floor || protected.range(ticks).next().is_some() {
        return true;
    }
    // Ends soon: some multiples of ticks stay whatever their age, so a long gap has one of them.
    let mut tick = after;
    while tick > before {
        if keeps_boundary(tick, newest, cut_every_ms) {
            return true;
        }
        tick = Tick(tick.0 - cut_every_ms);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retention(floor: Option<i64>, protected: &[i64]) -> Retention {
        Retention {
            floor: Cut {
                tick: floor.map(Tick),
                partitions: Vec::new(),
            },
            protected: Some(protected.iter().copied().map(Tick).collect()),
            gaps: Gaps::new(),
        }
    }

    #[test]
    fn a_boundary_goes_only_when_none_of_its_ticks_is_needed() {
        let old = |keep: &Retention| boundary_stays(Tick(10), Tick(30), Tick(1_000_000), 10, keep);
        assert!(!old(&retention(None, &[])));
        assert!(
            !old(&retention(None, &[10, 40])),
            "10 lies in the segment before, 40 behind the boundary"
        );
        assert!(
            old(&retention(None, &[20])),
            "nobody wrote in tick 20, its cut is this boundary all the same"
        );
        assert!(old(&retention(None, &[30])));
        assert!(old(&retention(Some(30), &[])));
        assert!(!old(&retention(Some(10), &[])));
        let unknown = Retention {
            protected: None,
            ..retention(None, &[])
        };
        assert!(old(&unknown));
        assert!(
            boundary_stays(Tick(10), Tick(30), Tick(40), 10, &retention(None, &[])),
            "young"
        );
        assert!(
            boundary_stays(Tick(10), Tick(50_000), Tick(10_000_000), 10, &retention(None, &[])),
            "tick 40960 stays for ever and is cut here"
        );
    }
}
