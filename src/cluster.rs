//! Several processes as one foldline: they share the log (Kafka), the store, and the setting `cluster.name`.
//!
//! | who | shares work by | what makes it exact |
//! | --- | --- | --- |
//! | archivers | a consumer group | commits are create-only: of two that archive a partition, one wins |
//! | speed nodes | a consumer group | a fold says the same on every node: readers take whichever is further |
//! | batch | a lease in the store ([`lease`]) | generations are create-only: of two leaders, one publishes |
//! | serving nodes | nothing, each has all ([`realtime`]), or reads a store that all share ([`stored`]) | the seam closes over what they have, or they refuse |
//!
//! Nothing here is needed for right answers: whoever believes wrongly that a partition or the lease is theirs loses when
//! storing, or folds what another one folds, too. Nobody compares clocks of two machines: whoever waits counts for how long
//! *it* saw nothing change. Processes find each other by notes in the store ([`notes`]).

pub(crate) mod lease;
pub(crate) mod notes;
pub(crate) mod realtime;
pub(crate) mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use foldline_batch_layer::ArchiverHandle;
use foldline_event_log::{Offset, RecordTime, Tick, Topic, TopicPartition};
use foldline_speed_layer::SpeedLayer;
use object_store::ObjectStore;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::failure::{self, Failure};
use crate::log::{Leave, OpenLog};
use crate::platform::{Core, Role};
use lease::Lease;
use notes::{Archived, Notes};

/// The rhythm of everything here.
const EVERY: Duration = Duration::from_secs(1);
/// The leader looks every so many of them for the notes of the dead.
const FORGET_DEAD_STEPS: u64 = 300;
/// The leader looks this often how far the archivers are.
const REACHED_EVERY: Duration = Duration::from_millis(250);
/// The leader waits so long for an archiver that makes no progress.
const REACH_PATIENCE: Duration = Duration::from_secs(60);

/// This process among the others. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// The setting `cluster.name`.
    pub(crate) name: String,
    /// Which batch runs are under way, and who leads them.
    pub(crate) lease: Arc<Lease>,
    /// Where processes tell of themselves.
    pub(crate) notes: Arc<Notes>,
    roles: Vec<Role>,
}

impl Cluster {
    /// The process that keeps its data in `data_dir`, is reached at `url` and has `roles`.
    pub(crate) fn new(
        name: &str,
        data_dir: &Path,
        url: String,
        roles: &[Role],
        instance: Uuid,
        store: Arc<dyn ObjectStore>,
    ) -> anyhow::Result<Self> {
        let node = crate::log::lasting_id(data_dir, "node", "")?;
        let node: Uuid = node.parse().context("the file \"node\" of the data_dir holds no id")?;
        let names = roles.iter().map(|role| role.name().to_owned()).collect();
        Ok(Self {
            name: name.to_owned(),
            lease: Arc::new(Lease::new(Arc::clone(&store), node, url.clone())),
            notes: Arc::new(Notes::new(store, node, instance, url, names)),
            roles: roles.to_vec(),
        })
    }

    /// The name of the consumer group of `role`.
    pub(crate) fn group(&self, role: Role) -> String {
        format!("{}-{}", self.name, role.name())
    }

    /// Keeps the note and the lease, and tells the archiver what batch waits for, until `stop` fires.
    pub(crate) async fn work(self, archiver: Option<ArchiverHandle>, stop: CancellationToken) {
        let mut failing = false;
        for step in 1_u64.. {
            if step % FORGET_DEAD_STEPS == 0
                && self.lease.board().ours
                && let Err(error) = self.notes.forget_dead().await
            {
                tracing::debug!(%error, "dead notes stay");
            }
            let worked = stop.run_until_cancelled(self.step(archiver.as_ref())).await;
            match worked {
                None => break,
                Some(Ok(())) => failing = false,
                Some(Err(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = failure::sentence(&error), "the cluster's notes cannot be kept");
                    }
                }
            }
            stop.run_until_cancelled(tokio::time::sleep(EVERY)).await;
        }
        if let Err(error) = self.notes.withdraw().await {
            tracing::debug!(%error, "the note was not withdrawn");
        }
    }

    /// The note first, and whatever becomes of the lease: others must know that this process lives.
    async fn step(&self, archiver: Option<&ArchiverHandle>) -> anyhow::Result<()> {
        self.notes.write(archiver.map(archived).unwrap_or_default()).await?;
        self.lease.look().await?;
        if self.roles.contains(&Role::Batch) {
            self.lease.contend().await?;
        }
        let board = self.lease.board();
        if let (Some(archiver), Some(tick)) = (archiver, board.tick) {
            archiver.want(tick);
        }
        Ok(())
    }

    /// Writes the note for the first time: before this process looks at what it must know of gaps.
    pub(crate) async fn appear(&self) -> anyhow::Result<()> {
        Ok(self.notes.write(Vec::new()).await?)
    }

    /// Returns when every one of `partitions` is archived up to `tick`, by whichever processes; with how far each is.
    pub(crate) async fn reach(
        &self,
        tick: Tick,
        partitions: &BTreeSet<TopicPartition>,
    ) -> anyhow::Result<BTreeMap<TopicPartition, RecordTime>> {
        // That a partition is archived up to a time stays true whoever says so, and whatever becomes of them.
        let mut reached: BTreeMap<TopicPartition, RecordTime> = BTreeMap::new();
        let mut missing: BTreeMap<&TopicPartition, Missing> = partitions
            .iter()
            .map(|partition| (partition, Missing::default()))
            .collect();
        loop {
            for archived in self.notes.read().await?.into_iter().flat_map(|note| note.archived) {
                if let Some(missing) = missing.get_mut(&archived.partition) {
                    missing.hear(&archived);
                }
                if archived.complete_to.0 >= tick.0 {
                    missing.remove(&archived.partition);
                    reached.insert(archived.partition, archived.complete_to);
                }
            }
            if missing.is_empty() {
                return Ok(reached);
            }
            let given_up = missing
                .iter()
                .find(|(_, missing)| missing.since.elapsed() > REACH_PATIENCE);
            if let Some((partition, stuck)) = given_up {
                let reason = stuck.stopped.clone().unwrap_or_else(|| {
                    format!("does a process with the role archive run in cluster \"{}\"?", self.name)
                });
                let (count, all, tick) = (missing.len(), partitions.len(), tick.0);
                return Err(Failure::No(format!(
                    "{count} of {all} partitions are not archived up to tick {tick}; {partition}: {reason}"
                ))
                .into());
            }
            tokio::time::sleep(REACHED_EVERY).await;
        }
    }
}

/// A partition that is not archived as far as it is waited for.
#[derive(Debug)]
struct Missing {
    until: Option<Offset>,
    /// When it was heard to move last.
    since: Instant,
    stopped: Option<String>,
}

impl Default for Missing {
    fn default() -> Self {
        Self {
            until: None,
            since: Instant::now(),
            stopped: None,
        }
    }
}

impl Missing {
    fn hear(&mut self, archived: &Archived) {
        if self.until < Some(archived.until) {
            self.until = Some(archived.until);
            self.since = Instant::now();
        }
        self.stopped = archived.stopped.clone();
    }
}

/// What `archiver` may say of its partitions.
fn archived(archiver: &ArchiverHandle) -> Vec<Archived> {
    let positions = archiver.positions().into_iter();
    positions
        .map(|(partition, position)| Archived {
            partition,
            until: position.until,
            complete_to: position.complete_to,
            stopped: position.stopped,
        })
        .collect()
}

/// The places of this process in the consumer groups, and what it does by itself.
#[derive(Default)]
pub(crate) struct Joined {
    leave: Vec<Leave>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Joined")
            .field("groups", &self.leave.len())
            .finish_non_exhaustive()
    }
}

impl Joined {
    /// Gives every partition up. Returns the tasks, which end when they are told to stop.
    pub(crate) async fn leave(self) -> Vec<JoinHandle<()>> {
        let leaves = self.leave.into_iter().map(tokio::task::spawn_blocking);
        for left in futures::future::join_all(leaves).await {
            drop(left);
        }
        self.tasks
    }
}

/// Takes part: joins the groups of the roles of `core`, keeps note and lease, reads what others fold.
pub(crate) fn join(
    cluster: &Cluster,
    core: &Arc<Core>,
    log: &OpenLog,
    stop: &CancellationToken,
) -> anyhow::Result<Joined> {
    let topics: Vec<Topic> = core.topics.iter().map(|(_, topic, _)| topic.clone()).collect();
    let (mut leave, mut tasks) = (Vec::new(), Vec::new());
    tasks.push(
        core.work
            .spawn(cluster.clone().work(core.archiver.clone(), stop.clone())),
    );
    if let Some(shared) = &core.shared {
        let (shared, catalog) = (Arc::clone(shared), Arc::clone(&core.catalog));
        let following = match shared.stored() {
            Some(reader) => core.work.spawn(reader.clone().run(stop.clone())),
            None => core
                .work
                .spawn(realtime::follow_nodes(cluster.clone(), shared, catalog, stop.clone())),
        };
        tasks.push(following);
    }
    if let Some(speed) = &core.speed {
        let (assigned, left) = log.join(&cluster.group(Role::Speed), topics.clone())?;
        let folding = fold_assigned(speed.clone(), core.shared.clone(), assigned, stop.clone());
        tasks.push(core.work.spawn(folding));
        leave.push(left);
        let writer = core.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        tasks.extend(writer.map(|writer| core.work.spawn(writer.run(speed.clone(), stop.clone()))));
    }
    if let Some(archiver) = &core.archiver {
        let (assigned, left) = log.join(&cluster.group(Role::Archive), topics)?;
        let archiving = archive_assigned(archiver.clone(), assigned, stop.clone());
        tasks.push(core.work.spawn(archiving));
        leave.push(left);
    }
    Ok(Joined { leave, tasks })
}

/// Has `speed` fold what the group assigns to this process.
async fn fold_assigned(
    speed: SpeedLayer,
    shared: Option<Arc<realtime::Realtime>>,
    mut assigned: watch::Receiver<BTreeSet<TopicPartition>>,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(assigned.changed()).await {
        let ours = assigned.borrow_and_update().clone();
        tracing::info!(partitions = ours.len(), "folding");
        if let Some(shared) = &shared {
            shared.give_up(&ours);
        }
        speed.assign(&ours).await;
    }
}

/// Has `archiver` archive what the group assigns to this process.
async fn archive_assigned(
    archiver: ArchiverHandle,
    mut assigned: watch::Receiver<BTreeSet<TopicPartition>>,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(assigned.changed()).await {
        let ours = assigned.borrow_and_update().clone();
        tracing::info!(partitions = ours.len(), "archiving");
        if let Err(error) = archiver.assign(ours).await {
            // The archiver looks for partitions that it does not archive yet by itself.
            tracing::warn!(
                error = foldline_event_log::with_causes(&error),
                "cannot look at the topics"
            );
        }
    }
}
