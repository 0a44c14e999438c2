//! Who leads batch runs: a chain of create-only objects `cluster/lease/<epoch>.json`.
//!
//! Who creates epoch n+1 holds the lease, and renews it by creating the next one. Everybody else sees the chain grow;
//! once it has not for [`EXPIRES_AFTER`], by the watcher's own clock, the watcher creates the next epoch itself. Of two
//! that do, the store lets one win. A leader that was away and does not know finds its next epoch taken. It may still
//! publish what it computed: generations are create-only, too, so its heir or it loses, and nothing is wrong either way.
//!
//! An epoch also says at which tick a run cuts: archivers archive up to there at once, and speed nodes keep that boundary.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldline_batch_layer::store::{self, Created, Record, StoreError};
use foldline_event_log::Tick;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const FOLDER: &str = "cluster/lease";
/// The holder renews it this often.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Others take it when nobody renewed it for so long.
const EXPIRES_AFTER: Duration = Duration::from_secs(12);
/// Older epochs are removed. Never the newest: so none is created twice by anybody who looks afterwards.
const EPOCHS_KEPT: u64 = 16;

/// A put whose reply was lost is known for ours by its attempt, for so many of them.
const ATTEMPTS_KNOWN: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    version: u32,
    attempt: Uuid,
    node: Uuid,
    /// Where the holder is reached.
    url: String,
    /// Where a run under way cuts.
    tick: Option<Tick>,
}

impl Record for Epoch {
    const VERSION: u32 = 1;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

/// The lease as it was seen last.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    /// 0 before the first.
    epoch: u64,
    /// When this epoch was seen first.
    since: Instant,
    /// Whether it is ours.
    pub(crate) ours: bool,
    /// Where the holder is reached.
    pub(crate) url: String,
    /// Where a run under way cuts.
    pub(crate) tick: Option<Tick>,
}

/// The lease.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Arc<dyn ObjectStore>,
    node: Uuid,
    url: String,
    board: Mutex<Board>,
    /// What the next epoch says.
    announced: Mutex<Option<Tick>>,
    /// Held by who creates an epoch.
    creating: tokio::sync::Mutex<()>,
    /// Of the epochs that this process tried to create last.
    attempts: Mutex<VecDeque<Uuid>>,
}

impl Lease {
    pub(super) fn new(store: Arc<dyn ObjectStore>, node: Uuid, url: String) -> Self {
        let board = Board {
            epoch: 0,
            since: Instant::now(),
            ours: false,
            url: String::new(),
            tick: None,
        };
        Self {
            store,
            node,
            url,
            board: Mutex::new(board),
            announced: Mutex::default(),
            creating: tokio::sync::Mutex::default(),
            attempts: Mutex::default(),
        }
    }

    /// The lease as it was seen last.
    pub(crate) fn board(&self) -> Board {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks whether the chain grew.
    pub(super) async fn look(&self) -> Result<(), StoreError> {
        let Some(newest) = self.epochs().await?.into_iter().max() else {
            return Ok(());
        };
        if newest <= self.board().epoch {
            return Ok(());
        }
        match store::read_json::<Epoch>(&*self.store, &path(newest)).await {
            Ok(epoch) => {
                let ours = self.attempts().contains(&epoch.attempt);
                self.show(newest, epoch, ours);
            }
            // Removed since, as there are newer ones by now.
            Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Renews the lease when it is time, or takes it when nobody does.
    pub(super) async fn contend(&self) -> Result<(), StoreError> {
        let _creating = self.creating.lock().await;
        let board = self.board();
        let due = if board.ours { RENEW_EVERY } else { EXPIRES_AFTER };
        if board.epoch > 0 && board.since.elapsed() < due {
            return Ok(());
        }
        self.create(board.epoch + 1).await
    }

    /// Tells everybody at which tick a run cuts. `false`: the lease is not ours any more.
    pub(crate) async fn announce(&self, tick: Tick) -> Result<bool, StoreError> {
        *self.announced() = Some(tick);
        let _creating = self.creating.lock().await;
        let board = self.board();
        if board.ours {
            self.create(board.epoch + 1).await?;
        }
        Ok(self.board().ours)
    }

    /// The run has ended: the next renewal says so. Until then archivers and speed nodes do a little more than they need.
    pub(crate) fn forget(&self) {
        *self.announced() = None;
    }

    async fn create(&self, number: u64) -> Result<(), StoreError> {
        let mine = Epoch {
            version: Epoch::VERSION,
            attempt: Uuid::new_v4(),
            node: self.node,
            url: self.url.clone(),
            tick: *self.announced(),
        };
        {
            let mut attempts = self.attempts();
            attempts.push_back(mine.attempt);
            if attempts.len() > ATTEMPTS_KNOWN {
                attempts.pop_front();
            }
        }
        match store::create_only(&*self.store, &path(number), &mine).await? {
            Created::Theirs(theirs) => self.show(number, theirs, false),
            Created::Mine => {
                // Who was away may have created one that had been removed: then there are newer ones.
                let epochs = self.epochs().await?;
                let newest = epochs.iter().all(|epoch| *epoch <= number);
                self.show(number, mine, newest);
                for old in epochs
                    .into_iter()
                    .filter(|epoch| newest && epoch + EPOCHS_KEPT < number)
                {
                    drop(self.store.delete(&path(old)).await);
                }
            }
        }
        Ok(())
    }

    fn announced(&self) -> MutexGuard<'_, Option<Tick>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempts(&self) -> MutexGuard<'_, VecDeque<Uuid>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, number: u64, epoch: Epoch, ours: bool) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        if number < board.epoch || (number == board.epoch && board.ours) {
            return;
        }
        if ours != board.ours {
            tracing::info!(
                epoch = number,
                ours,
                holder = epoch.url,
                "the lease of batch runs changed hands"
            );
        }
        *board = Board {
            epoch: number,
            since: Instant::now(),
            ours,
            url: epoch.url,
            tick: epoch.tick,
        };
    }

    async fn epochs(&self) -> Result<Vec<u64>, StoreError> {
        let objects = store::list(&*self.store, &Path::from(FOLDER)).await?;
        let number = |path: &Path| path.filename()?.strip_suffix(".json")?.parse().ok();
        Ok(objects.iter().filter_map(|object| number(&object.location)).collect())
    }
}

fn path(number: u64) -> Path {
    Path::from(format!("{FOLDER}/{number:020}.json"))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn lease(store: &Arc<InMemory>, url: &str) -> Lease {
        Lease::new(Arc::clone(store) as _, Uuid::new_v4(), url.into())
    }

    /// Makes `lease` believe that nothing changed for long.
    fn wait(lease: &Lease) {
        let mut board = lease.board.lock().unwrap();
        board.since = board.since.checked_sub(EXPIRES_AFTER).unwrap();
    }

    #[tokio::test]
    async fn one_holds_it_until_it_is_not_renewed() {
        let store = Arc::new(InMemory::new());
        let (one, other) = (lease(&store, "one"), lease(&store, "other"));
        for lease in [&one, &other] {
            lease.look().await.unwrap();
            lease.contend().await.unwrap();
        }
        assert!(one.board().ours && !other.board().ours);
        assert_eq!(other.board().url, "one");

        assert!(one.announce(Tick(70)).await.unwrap());
        assert!(!other.announce(Tick(80)).await.unwrap());
        for lease in [&one, &other] {
            lease.look().await.unwrap();
            assert_eq!(lease.board().tick, Some(Tick(70)));
        }
        assert!(one.board().ours, "who looks at an own epoch");

        // Renewed, so the other one, who waited long, sees a newer epoch first.
        wait(&one);
        one.contend().await.unwrap();
        wait(&other);
        other.look().await.unwrap();
        other.contend().await.unwrap();
        assert!(one.board().ours && !other.board().ours);

        // Not renewed: the heir takes it, and who was away finds out when renewing.
        wait(&other);
        other.contend().await.unwrap();
        assert!(other.board().ours);
        wait(&one);
        one.contend().await.unwrap();
        assert!(!one.board().ours);
        assert_eq!(one.board().url, "other");
    }

    #[tokio::test]
    async fn an_epoch_that_was_removed_is_no_way_back_to_the_lease() {
        let store = Arc::new(InMemory::new());
        let (one, other) = (lease(&store, "one"), lease(&store, "other"));
        one.contend().await.unwrap();
        other.look().await.unwrap();
        wait(&other);
        other.contend().await.unwrap();
        for _ in 0..2 * EPOCHS_KEPT {
            wait(&other);
            other.contend().await.unwrap();
        }
        assert!(one.board().ours, "it does not know yet");
        // Its next epoch was the heir's first, and is gone.
        wait(&one);
        one.contend().await.unwrap();
        assert!(!one.board().ours);
        assert!(other.board().ours);
    }
}
