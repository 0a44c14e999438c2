//! Batch runs and loads of the warehouse take turns: each may hold `batch.memory_bytes`, so both at once would hold twice as
//! much. A run does not wait for long: a load that goes on is cut short, as it may be at any moment, and goes on behind it.
//!
//! ```text
//! load ████████████████▌ cut short            ┌► load goes on, with the generation that was published meanwhile
//! run          waits ··▌█████████ published ──┘
//!              GRACE ◄─►
//! ```

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, watch};

/// A batch run waits this long for a load: most of them end within it.
const GRACE: Duration = Duration::from_secs(60);

/// Who may work.
#[derive(Debug)]
pub(crate) struct Turns {
    turn: Mutex<()>,
    /// Batch runs that wait.
    waiting: watch::Sender<usize>,
    grace: Duration,
}

/// A batch run that waits.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            turn: Mutex::default(),
            waiting: watch::Sender::new(0),
            grace: GRACE,
        }
    }
}

impl Turns {
    /// The turn of a batch run: no load works while the answer is held.
    pub(crate) async fn run(&self) -> MutexGuard<'_, ()> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _waiting = Waiting(&self.waiting);
        self.turn.lock().await
    }

    /// Does `load` while no batch run works; `None` where one came and `load` took longer than it waits.
    pub(crate) async fn load<T>(&self, load: impl Future<Output = T>) -> Option<T> {
        let _turn = self.turn.lock().await;
        let mut waiting = self.waiting.subscribe();
        let cut_short = async {
            // The sender lives as long as this.
            drop(waiting.wait_for(|waiting| *waiting > 0).await);
            tokio::time::sleep(self.grace).await;
        };
        tokio::select! {
            biased;
            done = load => Some(done),
            () = cut_short => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn turns(grace: Duration) -> Arc<Turns> {
        Arc::new(Turns {
            grace,
            ..Turns::default()
        })
    }

    #[tokio::test]
    async fn a_load_without_end_holds_no_run_up() {
        let turns = turns(Duration::from_millis(1));
        let load = turns.load(std::future::pending::<()>());
        let run = async {
            tokio::task::yield_now().await;
            drop(turns.run().await);
        };
        let (loaded, ()) = tokio::join!(load, run);
        assert_eq!(loaded, None);
        assert_eq!(turns.load(async { 7 }).await, Some(7), "it goes on behind the run");
    }

    #[tokio::test]
    async fn a_run_waits_for_a_load_that_ends_soon_and_none_begins_beside_it() {
        let turns = turns(Duration::from_secs(3600));
        let working = AtomicUsize::new(0);
        let alone = async || {
            assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "somebody else works");
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            working.fetch_sub(1, Ordering::SeqCst);
        };
        let run = async {
            tokio::task::yield_now().await;
            let _turn = turns.run().await;
            alone().await;
        };
        let (first, (), second) = tokio::join!(turns.load(alone()), run, turns.load(alone()));
        assert_eq!((first, second), (Some(()), Some(())));
    }
}
