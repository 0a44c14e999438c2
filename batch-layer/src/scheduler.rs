//! When to run: cron, a persisted ledger, catch-up, no overlap.
//!
//! [`Schedule`] says which instants are due, [`Ledger`] remembers what happened at them, [`Scheduler`] waits and runs.
//! The rules, each with a test:
//!
//! * One run at a time. A time that comes while a run is under way is skipped, and caught up right after that run.
//! * Times that passed while nobody ran (the process was down, a run was skipped, stopped or died) are caught up by
//!   exactly **one** run, at once, which stands for all of them. A run that failed is not repeated before its next time.
//! * A scheduled time is claimed create-only, so that it never runs twice, whoever else schedules on the same store.
//! * A clock that was set back counts: times that it shows once more have run, those that have not are due.
//!
//! ```text
//! due      10:00      11:00      12:00 13:00         14:00
//! run      10:00──┐   11:00────────────────────┐13:00──┐ 14:00─
//!                                     skipped ─┘ stands for 12:00 and 13:00
//! ```

mod ledger;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use foldline_event_log::{Clock, ManualClock, SystemClock};
use tokio_util::sync::CancellationToken;

pub(crate) use ledger::RUNS_KEPT;
pub use ledger::{Ledger, LedgerError, Loaded, Outcome, Run, RunState, Started};
pub use schedule::{Schedule, ScheduleError};

/// A waiting scheduler looks at the clock at least this often: clocks step, and machines sleep.
const LOOK_AGAIN_MS: i64 = 1_000;
/// Pause before the ledger is tried again after it failed.
const LEDGER_RETRY_MS: i64 = 10_000;
/// How often a clock that is moved by hand is looked at.
const MANUAL_POLL_MS: u64 = 5;

/// A clock that can be waited for.
#[async_trait]
pub trait Alarm: Clock {
    /// Returns when the clock shows `at_ms` or later, or was set back meanwhile: then it is time to look again.
    async fn sleep_until(&self, at_ms: i64);
}

#[async_trait]
impl Alarm for SystemClock {
    async fn sleep_until(&self, at_ms: i64) {
        let mut seen = i64::MIN;
        loop {
            let now = self.now_ms();
            if now >= at_ms || now < seen {
                return;
            }
            seen = now;
            let left = at_ms.saturating_sub(now).min(LOOK_AGAIN_MS);
            tokio::time::sleep(Duration::from_millis(left.unsigned_abs())).await;
        }
    }
}

#[async_trait]
impl Alarm for ManualClock {
    async fn sleep_until(&self, at_ms: i64) {
        let since = self.now_ms();
        while (since..at_ms).contains(&self.now_ms()) {
            tokio::time::sleep(Duration::from_millis(MANUAL_POLL_MS)).await;
        }
    }
}

/// Runs a job at the times of a schedule.
#[derive(Debug)]
pub struct Scheduler {
    schedule: Schedule,
    ledger: Ledger,
    clock: Arc<dyn Alarm>,
}

impl Scheduler {
    /// Of `schedule`, remembering its runs in `ledger`.
    pub fn new(schedule: Schedule, ledger: Ledger, clock: Arc<dyn Alarm>) -> Self {
        Self {
            schedule,
            ledger,
            clock,
        }
    }

    /// Runs `job` at each scheduled time until `cancel` fires, beginning with one run for what was missed. A run under
    /// way when `cancel` fires is dropped and recorded as stopped; it is caught up at the next start.
    ///
    /// A ledger that fails is tried again later, and nothing runs meanwhile: it lies in the store that a run needs too.
    pub async fn run<J, F>(&self, cancel: CancellationToken, mut job: J)
    where
        J: FnMut(Started) -> F,
        F: Future<Output = Outcome>,
    {
        let mut done_until = None;
        while !cancel.is_cancelled() {
            if let Err(error) = self.step(&cancel, &mut done_until, &mut job).await {
                tracing::error!(error = &error as &dyn std::error::Error, "the ledger of runs failed");
                self.wait(&cancel, self.clock.now_ms() + LEDGER_RETRY_MS).await;
            }
        }
    }

    /// Waits for one scheduled time, or runs what is due. `done_until`: up to when every scheduled time is done;
    /// `None` at the start, when the ledger says so and runs that died may be tried again.
    async fn step<J, F>(
        &self,
        cancel: &CancellationToken,
        done_until: &mut Option<i64>,
        job: &mut J,
    ) -> Result<(), LedgerError>
    where
        J: FnMut(Started) -> F,
        F: Future<Output = Outcome>,
    {
        let (since, at_start) = match *done_until {
            Some(since) => (since.min(self.clock.now_ms()), false),
            None => (self.ledger.done_until(self.clock.now_ms()).await?, true),
        };
        let Some(_) = self.schedule.due(since, self.clock.now_ms()) else {
            *done_until = Some(since);
            match self.schedule.next_after(since) {
                Some(next) => self.wait(cancel, next).await,
                None => {
                    tracing::warn!(schedule = %self.schedule, "the schedule has no further times");
                    cancel.cancelled().await;
                }
            }
            return Ok(());
        };
        let _gate = self.ledger.gate().await;
        // A run by hand may have held the gate for long: look again at what is due.
        let Some((first, last)) = self.schedule.due(since, self.clock.now_ms()) else {
            return Ok(());
        };
        if cancel.is_cancelled() {
            return Ok(());
        }
        let skipped = self.schedule.count_between(first, last);
        let tried = if at_start {
            self.ledger.tries_over(last).await?
        } else {
            0
        };
        let claim = self.ledger.claim(first, last, skipped, tried, self.clock.now_ms());
        let claimed = claim.await?;
        *done_until = Some(last);
        let Some(started) = claimed else {
            tracing::info!(scheduled_ms = last, "another scheduler took this time");
            return Ok(());
        };
        if skipped > 0 {
            tracing::info!(
                first_ms = first,
                last_ms = last,
                skipped,
                "one run catches up on several times"
            );
        }
        let outcome = tokio::select! {
            outcome = job(started.clone()) => outcome,
            () = cancel.cancelled() => Outcome::Stopped,
        };
        self.ledger.finish(&started, outcome, self.clock.now_ms()).await
    }

    async fn wait(&self, cancel: &CancellationToken, until_ms: i64) {
        tokio::select! {
            () = self.clock.sleep_until(until_ms) => {}
            () = cancel.cancelled() => {}
        }
    }
}
