//! The realtime view of all speed nodes, in a process that answers.
//!
//! Each speed node sends what it folds, as it folds it, over `GET /v1/realtime` (frames of
//! [`foldline_speed_layer::wire`]). A reader has for every partition what each node that folds it showed last, and takes
//! whichever is further. What a node showed last stays when the node gives the partition up, or is gone, until another one
//! has come as far: so a partition that moves is neither left out in between, nor does coverage go back, nor is anything
//! counted twice, as one partition's rows are always one node's.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use foldline_event_log::{Offset, TopicPartition};
use foldline_speed_layer::shared::Reader as StoreReader;
use foldline_speed_layer::wire::{FRAME_PREFIX, Reader, Update, Writer};
use foldline_speed_layer::{PartitionView, RealtimeStore, Snapshot, SpeedLayer};
use foldline_sql::Catalog;
use futures::TryStreamExt;
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Cluster;
use crate::failure::{self, Failure};
use crate::platform::Role;

/// Where a speed node sends what it folds.
const PATH: &str = "/v1/realtime";
/// The header that says which start of a node answers.
const INSTANCE: HeaderName = HeaderName::from_static("foldline-instance");
/// A node looks this often whether there is something new to send.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// It sends something at least this often.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// A reader that heard nothing for so long connects anew.
const SILENT: Duration = Duration::from_secs(10);
/// Whoever waits for partitions to be folded gives up when none makes progress for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames that wait for a slow reader.
const FRAMES_AHEAD: usize = 4;
/// Between two looks for nodes, and two tries of a connection.
const NODES_EVERY: Duration = Duration::from_secs(1);
/// No partial is as large as this: such a frame is none.
const FRAME_BYTES_MAX: u64 = 4 << 30;

type Views = BTreeMap<TopicPartition, Arc<PartitionView>>;

/// What every speed node showed last.
#[derive(Debug)]
pub(crate) struct Realtime {
    /// Folded in this process.
    local: Option<SpeedLayer>,
    /// Where all of it is, if that is another place than the memory of processes: nothing else is shown then.
    stored: Option<StoreReader>,
    remote: RwLock<Remote>,
}

#[derive(Debug, Default)]
struct Remote {
    /// By start of a node.
    nodes: HashMap<Uuid, Views>,
    /// Of partitions that were given up by who showed them, where nobody has come as far yet.
    given_up: Views,
}

impl Realtime {
    /// With what `local` folds.
    pub(crate) fn new(local: Option<SpeedLayer>) -> Self {
        Self {
            local,
            stored: None,
            remote: RwLock::default(),
        }
    }

    /// With what lies in a shared store, whoever folds it.
    pub(crate) fn of_store(reader: StoreReader) -> Self {
        Self {
            local: None,
            stored: Some(reader),
            remote: RwLock::default(),
        }
    }

    /// The reader of the shared store, if there is one.
    pub(crate) fn stored(&self) -> Option<&StoreReader> {
        self.stored.as_ref()
    }

    /// Why what is shown of partitions grows old, or is not shown.
    pub(crate) fn stale(&self) -> BTreeMap<TopicPartition, String> {
        let Some(reader) = &self.stored else {
            return BTreeMap::new();
        };
        let snapshot = reader.snapshot().partitions.into_iter();
        let stopped = snapshot.filter_map(|(partition, view)| Some((partition, view.stopped.clone()?)));
        stopped.chain(reader.refused()).collect()
    }

    /// Has `local` give up all partitions but `kept`, and goes on showing what it showed of them.
    pub(super) fn give_up(&self, kept: &BTreeSet<TopicPartition>) {
        let Some(local) = &self.local else { return };
        // At once for whoever takes a snapshot.
        let mut remote = self.write();
        for (partition, view) in local.give_up(kept) {
            keep_further(&mut remote.given_up, partition, at_rest(&view));
        }
    }

    /// Waits until every partition of `targets` is folded up to its offset, by whomever. Fails when one stands still.
    pub(crate) async fn wait_until(&self, targets: &BTreeMap<TopicPartition, Offset>) -> anyhow::Result<()> {
        let mut behind: BTreeMap<&TopicPartition, (Offset, Instant)> = targets
            .keys()
            .map(|partition| (partition, (Offset(0), Instant::now())))
            .collect();
        loop {
            let snapshot = self.snapshot();
            let view = |partition: &TopicPartition| snapshot.partitions.get(partition);
            behind.retain(|partition, (until, since)| {
                let now = view(partition).map_or(Offset(0), |view| view.read_to);
                if now > std::mem::replace(until, now) {
                    *since = Instant::now();
                }
                now < targets[*partition]
            });
            let stuck = |(partition, (until, since)): (&&TopicPartition, &(Offset, Instant))| {
                let stopped = view(partition).and_then(|view| view.stopped.clone());
                let reason = match stopped {
                    Some(stopped) => stopped,
                    None if since.elapsed() > PATIENCE => "no process with the role speed folds it".to_owned(),
                    None => return None,
                };
                let target = targets[*partition];
                Some(format!("{partition} is folded to {until}, not to {target}: {reason}"))
            };
            if let Some(stuck) = behind.iter().find_map(stuck) {
                return Err(Failure::No(stuck).into());
            }
            if behind.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn take(&self, node: Uuid, update: Update) {
        let mut remote = self.write();
        match update {
            Update::Nothing => {}
            Update::Folded(partition, view) => {
                let come_as_far = |given_up: &Arc<PartitionView>| given_up.until <= view.until;
                if remote.given_up.get(&partition).is_some_and(come_as_far) {
                    remote.given_up.remove(&partition);
                }
                remote.nodes.entry(node).or_default().insert(partition, view);
            }
            Update::GivenUp(partition) => {
                if let Some(view) = remote.nodes.entry(node).or_default().remove(&partition) {
                    keep_further(&mut remote.given_up, partition, at_rest(&view));
                }
            }
        }
    }

    /// Forgets what was given up where this process has come as far.
    fn prune(&self) {
        let Some(local) = &self.local else { return };
        let folded = local.snapshot().partitions;
        let behind = |partition: &TopicPartition, given_up: &mut Arc<PartitionView>| {
            folded.get(partition).is_none_or(|view| view.until < given_up.until)
        };
        self.write().given_up.retain(behind);
    }

    /// The connection to `node` is gone.
    fn lose(&self, node: Uuid) {
        let mut remote = self.write();
        for (partition, view) in remote.nodes.remove(&node).unwrap_or_default() {
            keep_further(&mut remote.given_up, partition, at_rest(&view));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Remote> {
        self.remote.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Remote> {
        self.remote.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RealtimeStore for Realtime {
    fn snapshot(&self) -> Snapshot {
        if let Some(reader) = &self.stored {
            return reader.snapshot();
        }
        let remote = self.read();
        // Behind the lock: what was given up meanwhile is then in one of the two.
        let local = self.local.as_ref().map(RealtimeStore::snapshot).unwrap_or_default();
        let mut partitions = local.partitions;
        for views in remote.nodes.values().chain([&remote.given_up]) {
            for (partition, view) in views {
                keep_further(&mut partitions, partition.clone(), Arc::clone(view));
            }
        }
        Snapshot { partitions }
    }
}

/// A view that nobody goes on with: why its node stood still is no longer so.
fn at_rest(view: &PartitionView) -> Arc<PartitionView> {
    Arc::new(PartitionView {
        stopped: None,
        replaying_to: None,
        ..view.clone()
    })
}

/// Two views of a partition say the same as far as both go: its fold depends on the log alone.
fn keep_further(views: &mut Views, partition: TopicPartition, view: Arc<PartitionView>) {
    match views.entry(partition) {
        std::collections::btree_map::Entry::Vacant(none) => drop(none.insert(view)),
        std::collections::btree_map::Entry::Occupied(mut known) => {
            if (known.get().until, known.get().complete_to) < (view.until, view.complete_to) {
                known.insert(view);
            }
        }
    }
}

/// What a speed node sends from.
#[derive(Debug, Clone)]
pub(crate) struct Sending {
    /// What it folds.
    pub(crate) speed: SpeedLayer,
    /// This start of it.
    pub(crate) instance: Uuid,
    /// Where frames are made.
    pub(crate) work: Handle,
    /// Ends it.
    pub(crate) stop: CancellationToken,
}

/// The route of a speed node.
pub(crate) fn router(sending: Sending) -> Router {
    Router::new().route(PATH, get(send)).with_state(sending)
}

/// Frames are made on a thread of their own for each reader, no faster than it takes them: a slow reader gets fewer moments.
async fn send(State(sending): State<Sending>) -> Response {
    let (frames, sent) = mpsc::channel::<Bytes>(FRAMES_AHEAD);
    let Sending { speed, work, stop, .. } = sending;
    work.spawn_blocking(move || {
        let mut writer = Writer::default();
        let mut last = Instant::now();
        let gone = || stop.is_cancelled() || frames.is_closed();
        while !gone() {
            let mut emit = |frame: Vec<u8>| {
                last = Instant::now();
                let mut frame = Bytes::from(frame);
                while let Err(TrySendError::Full(again)) = frames.try_send(frame) {
                    if gone() {
                        return false;
                    }
                    frame = again;
                    std::thread::sleep(LOOK_EVERY);
                }
                true
            };
            match writer.send(&speed.snapshot(), &mut emit) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let error = foldline_event_log::with_causes(&error);
                    return tracing::error!(error, "cannot send realtime views");
                }
            }
            if last.elapsed() >= ALIVE_EVERY {
                last = Instant::now();
                drop(frames.try_send(Writer::alive().into()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    });
    let sent = futures::stream::unfold(sent, |mut sent| async {
        let frame = sent.recv().await?;
        Some((Ok::<_, Infallible>(frame), sent))
    });
    (
        [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (INSTANCE, sending.instance.to_string()),
        ],
        Body::from_stream(sent),
    )
        .into_response()
}

/// Reads from every speed node that lives, until `stop` fires.
pub(crate) async fn follow_nodes(
    cluster: Cluster,
    realtime: Arc<Realtime>,
    catalog: Arc<Catalog>,
    stop: CancellationToken,
) {
    let mut followed: HashMap<Uuid, JoinHandle<()>> = HashMap::new();
    let listed = watch::Sender::new(HashSet::new());
    while !stop.is_cancelled() {
        match cluster.notes.others().await {
            Ok(notes) => {
                let speed = |role: &String| role == Role::Speed.name();
                let nodes = notes.into_iter().filter(|note| note.roles.iter().any(speed));
                let nodes: HashMap<Uuid, String> = nodes.map(|note| (note.instance, note.url)).collect();
                listed.send_replace(nodes.keys().copied().collect());
                followed.retain(|_, following| !following.is_finished());
                for (node, url) in nodes {
                    followed.entry(node).or_insert_with(|| {
                        let following = follow(
                            node,
                            url,
                            Arc::clone(&realtime),
                            Arc::clone(&catalog),
                            listed.subscribe(),
                        );
                        let stop = stop.clone();
                        tokio::spawn(async move {
                            stop.run_until_cancelled(following).await;
                        })
                    });
                }
            }
            Err(error) => tracing::warn!(
                error = foldline_event_log::with_causes(&error),
                "cannot look for speed nodes"
            ),
        }
        realtime.prune();
        stop.run_until_cancelled(tokio::time::sleep(NODES_EVERY)).await;
    }
}

/// Reads from the node at `url`, connecting anew as long as it is `listed`: what delivers is believed, whatever notes say.
async fn follow(
    node: Uuid,
    url: String,
    realtime: Arc<Realtime>,
    catalog: Arc<Catalog>,
    listed: watch::Receiver<HashSet<Uuid>>,
) {
    /// What was read is kept, whichever way the reading ends.
    struct Lost(Uuid, Arc<Realtime>);

    impl Drop for Lost {
        fn drop(&mut self) {
            self.1.lose(self.0);
        }
    }

    let mut said = String::new();
    while listed.borrow().contains(&node) {
        let connected = Lost(node, Arc::clone(&realtime));
        let Err(error) = receive(node, &url, &realtime, &catalog).await;
        drop(connected);
        let error = failure::sentence(&error);
        if error != said {
            tracing::warn!(url, error, "no realtime views from this speed node; trying again");
            said = error;
        }
        tokio::time::sleep(NODES_EVERY).await;
    }
}

async fn receive(node: Uuid, url: &str, realtime: &Realtime, catalog: &Catalog) -> anyhow::Result<Infallible> {
    let client = crate::client::Client::new(url)?;
    let answer = tokio::time::timeout(SILENT, client.get(PATH).send()).await;
    let answer = answer.context("no answer")??.error_for_status()?;
    let instance = answer.headers().get(INSTANCE.as_str()).and_then(|id| id.to_str().ok());
    if instance != Some(node.to_string().as_str()) {
        bail!("another process answers there");
    }
    let bytes = answer.bytes_stream().map_err(std::io::Error::other);
    let mut bytes = StreamReader::new(bytes);
    let mut reader = Reader::new(catalog);
    tracing::info!(url, "reading realtime views");
    loop {
        let mut prefix = [0; FRAME_PREFIX];
        let read = tokio::time::timeout(SILENT, bytes.read_exact(&mut prefix)).await;
        read.context("it is silent")??;
        let (length, crc32) = Reader::expect(prefix);
        if length > FRAME_BYTES_MAX {
            bail!("it sends something else than realtime views");
        }
        let mut frame = Vec::new();
        let mut rest = (&mut bytes).take(length);
        let read = tokio::time::timeout(SILENT * 6, rest.read_to_end(&mut frame)).await;
        let read = read.context("it is silent")??;
        if read as u64 != length {
            bail!("it ended within a frame");
        }
        realtime.take(node, reader.take(&frame, crc32)?);
    }
}
