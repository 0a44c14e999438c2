//! The log's time: never goes back, and never promises what a later append could break.
//!
//! One timeline serves the whole log. Appends take their timestamp from it and readers take `complete_to` from it, each
//! at least as large as everything handed out before. While appends are being synced, readers get the timestamp of
//! those appends: they are not visible yet, so nothing beyond it can be promised.
//!
//! A promise also holds after a crash on a machine whose clock then stepped back. So promises stay within a *lease*
//! that is on disk, and a log that opens starts at the lease that it finds (a clean close stores the exact time).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Clock;

/// How far ahead of the newest promise the lease is taken.
const LEASE_MS: i64 = 2_000;
/// A commit renews the lease in passing when less than this is left.
const RENEW_MS: i64 = 1_000;

#[derive(Debug)]
pub(super) struct Timeline {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The largest time handed out.
    last: i64,
    /// Nothing beyond this may be promised: a log that opens again goes on from at least here.
    lease: i64,
    /// Timestamp of the appends that are being synced.
    in_flight: Option<i64>,
}

/// What a reader may be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// This.
    Given(i64),
    /// Only this, because the lease ends here; more after it was renewed.
    Leased(i64),
}

impl Timeline {
    /// A timeline that goes on from `last`, the largest time that can have been handed out before.
    pub(super) fn new(clock: Arc<dyn Clock>, last: i64) -> Self {
        let state = State {
            last,
            lease: last,
            in_flight: None,
        };
        Self {
            clock,
            state: Mutex::new(state),
        }
    }

    /// Gives the timestamp of a commit; until [`Self::end_commit`] nothing beyond it is promised.
    pub(super) fn begin_commit(&self) -> i64 {
        let mut state = self.lock();
        let now = self.advance(&mut state);
        state.in_flight = Some(now);
        now
    }

    /// Says that the appends of the commit are visible, and on disk with their timestamp.
    pub(super) fn end_commit(&self) {
        let mut state = self.lock();
        if let Some(timestamp) = state.in_flight.take() {
            state.lease = state.lease.max(timestamp);
        }
    }

    /// What readers may be promised now. Ask before looking at the end of a partition.
    pub(super) fn promise(&self) -> Promise {
        let mut state = self.lock();
        if let Some(in_flight) = state.in_flight {
            return Promise::Given(in_flight.min(state.lease));
        }
        let now = self.clock.now_ms().max(state.last);
        if now > state.lease {
            return Promise::Leased(state.lease);
        }
        state.last = now;
        Promise::Given(now)
    }

    /// The lease to store now, if it should be renewed: with it, promises until then can be kept.
    pub(super) fn lease_to_store(&self) -> Option<i64> {
        let state = self.lock();
        let now = self.clock.now_ms().max(state.last);
        (now + RENEW_MS > state.lease).then_some(now + LEASE_MS)
    }

    /// Says that `lease` is on disk.
    pub(super) fn leased(&self, lease: i64) {
        let mut state = self.lock();
        state.lease = state.lease.max(lease);
    }

    /// The largest time handed out.
    pub(super) fn last_ms(&self) -> i64 {
        self.lock().last
    }

    fn advance(&self, state: &mut State) -> i64 {
        state.last = state.last.max(self.clock.now_ms());
        state.last
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn time_never_goes_back() {
        let clock = ManualClock::new(100);
        let timeline = Timeline::new(Arc::new(clock.clone()), 0);
        assert_eq!(timeline.begin_commit(), 100);
        timeline.end_commit();
        clock.set(50);
        assert_eq!(timeline.begin_commit(), 100);
    }

    #[test]
    fn nothing_beyond_a_commit_in_flight_is_promised() {
        let clock = ManualClock::new(100);
        let timeline = Timeline::new(Arc::new(clock.clone()), 0);
        timeline.leased(10_000);
        assert_eq!(timeline.begin_commit(), 100);
        clock.set(200);
        assert_eq!(timeline.promise(), Promise::Given(100));
        timeline.end_commit();
        assert_eq!(timeline.promise(), Promise::Given(200));
    }

    #[test]
    fn promises_stay_within_the_lease() {
        let clock = ManualClock::new(100);
        let timeline = Timeline::new(Arc::new(clock.clone()), 40);
        assert_eq!(timeline.promise(), Promise::Leased(40));
        let lease = timeline.lease_to_store().expect("none was taken yet");
        timeline.leased(lease);
        assert_eq!(timeline.promise(), Promise::Given(100));
        assert_eq!(timeline.lease_to_store(), None);
        clock.set(lease + 1);
        assert_eq!(timeline.promise(), Promise::Leased(lease));
    }
}
