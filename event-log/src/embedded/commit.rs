//! Group commit: one thread takes all waiting appends, writes them as one batch, syncs once, and only then shows them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Shared;
use super::frame::{self, FRAME_BYTES, FRAME_RECORDS};
use super::producers::{self, Forgotten, Sequences};
use super::retention::{self, Trim};
use super::store::{failed, frame_key};
use super::topic::{PartitionState, TopicState};
use crate::{Appended, LogError, NewRecord, ProducerSequence};

/// One commit takes about this much, and one whole append at least.
const GROUP_BYTES: usize = 32 * 1024 * 1024;
/// What a waiting append weighs beside its keys and values.
pub(super) const APPEND_OVERHEAD: usize = 512;
/// What a waiting record weighs beside its key and value.
pub(super) const RECORD_OVERHEAD: usize = 96;
/// The retention of every partition is looked at this often, also without a release.
const TRIM_EVERY: Duration = Duration::from_secs(5);

/// An append that waits for its commit.
pub(super) struct Pending {
    pub(super) topic: Arc<TopicState>,
    pub(super) records: Vec<NewRecord>,
    pub(super) partitions: Vec<u32>,
    pub(super) sequence: Option<ProducerSequence>,
    pub(super) bytes: usize,
    pub(super) done: oneshot::Sender<Result<Appended, LogError>>,
}

/// What waits for the committer.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    appends: VecDeque<Pending>,
    bytes: usize,
    /// Those who wait for a longer lease.
    leases: Vec<oneshot::Sender<()>>,
    /// Partitions to trim.
    trims: Vec<Trim>,
    closing: bool,
    /// Nobody takes from the queue any more.
    ended: Option<String>,
}

/// What one turn of the committer does.
#[derive(Default)]
struct Turn {
    appends: Vec<Pending>,
    leases: Vec<oneshot::Sender<()>>,
    trims: Vec<Trim>,
}

impl Queue {
    /// Adds an append; [`LogError::Full`] when `bytes_max` are waiting.
    pub(super) fn push(&self, pending: Pending, bytes_max: usize) -> Result<(), LogError> {
        let mut state = self.lock();
        state.check_open()?;
        if state.bytes > 0 && state.bytes + pending.bytes > bytes_max {
            return Err(LogError::Full(format!(
                "{} bytes wait to be synced, {} more would exceed {bytes_max}",
                state.bytes, pending.bytes
            )));
        }
        state.bytes += pending.bytes;
        state.appends.push_back(pending);
        self.changed.notify_one();
        Ok(())
    }

    /// Asks for a longer lease; `None` when the log does not give any more.
    pub(super) fn ask_for_lease(&self) -> Option<oneshot::Receiver<()>> {
        self.ask(|state, done| state.leases.push(done))
    }

    /// Asks for a trim of `partition` now.
    pub(super) fn ask_for_trim(
        &self,
        topic: Arc<TopicState>,
        partition: Arc<PartitionState>,
    ) -> Option<oneshot::Receiver<()>> {
        self.ask(|state, done| {
            state.trims.push(Trim {
                topic,
                partition,
                _done: Some(done),
            });
        })
    }

    /// Lets the committer end after what is waiting.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_one();
    }

    fn ask(&self, push: impl FnOnce(&mut QueueState, oneshot::Sender<()>)) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        state.check_open().ok()?;
        let (done, wait) = oneshot::channel();
        push(&mut state, done);
        self.changed.notify_one();
        Some(wait)
    }

    /// Takes what waits; waits for it unless there is `more` to do. `None`: everything is done and the log closes.
    fn take(&self, more: bool) -> Option<Turn> {
        let mut state = self.lock();
        while !more && state.is_empty() && !state.closing {
            let (again, waited) = self
                .changed
                .wait_timeout(state, TRIM_EVERY)
                .unwrap_or_else(PoisonError::into_inner);
            state = again;
            if waited.timed_out() {
                break;
            }
        }
        if state.is_empty() && state.closing {
            return None;
        }
        let mut turn = Turn {
            appends: Vec::new(),
            leases: std::mem::take(&mut state.leases),
            trims: std::mem::take(&mut state.trims),
        };
        let mut bytes = 0;
        while let Some(next) = state.appends.front() {
            if bytes > 0 && bytes + next.bytes > GROUP_BYTES {
                break;
            }
            bytes += next.bytes;
            turn.appends.extend(state.appends.pop_front());
        }
        state.bytes -= bytes;
        Some(turn)
    }

    /// Says that nobody takes from the queue any more, and why.
    fn end(&self, reason: String) {
        let mut state = self.lock();
        let left = std::mem::take(&mut *state);
        state.ended = Some(reason);
        drop(state);
        // Whoever waits learns it by the end of their channel.
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.leases.is_empty() && self.trims.is_empty()
    }

    fn check_open(&self) -> Result<(), LogError> {
        match &self.ended {
            Some(reason) => Err(LogError::Closed(reason.clone())),
            None if self.closing => Err(LogError::Closed("it is being closed".to_owned())),
            None => Ok(()),
        }
    }
}

/// The committer's thread.
pub(super) fn run(shared: &Shared) {
    // Also when a turn panics: an append must never wait for a thread that is gone.
    let ending = Ending(shared);
    let mut trims = VecDeque::new();
    let mut all_trimmed = Instant::now();
    let mut forgotten = Forgotten::default();
    while let Some(mut turn) = shared.queue.take(!trims.is_empty()) {
        trims.extend(std::mem::take(&mut turn.trims));
        if trims.is_empty() && all_trimmed.elapsed() >= TRIM_EVERY {
            trims.extend(retention::every_partition(shared));
            all_trimmed = Instant::now();
        }
        if let Err(error) = take_turn(shared, turn, &mut forgotten) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the log takes no more appends"
            );
            shared.queue.end(format!("its storage failed earlier: {error}"));
            std::mem::forget(ending);
            return;
        }
        // One piece a turn, so that appends wait for no more than that.
        retention::trim_a_piece(shared, &mut trims);
    }
    if let Err(error) = store_exact_time(shared) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "closed without storing the log's time"
        );
    }
}

struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.queue.end("it was closed".to_owned());
    }
}

fn take_turn(shared: &Shared, turn: Turn, forgotten: &mut Forgotten) -> Result<(), LogError> {
    let Turn { appends, leases, .. } = turn;
    if !appends.is_empty() || !leases.is_empty() {
        commit(shared, appends, forgotten)?;
    }
    leases.into_iter().for_each(|done| _ = done.send(()));
    Ok(())
}

/// Records of one partition in this commit.
struct Part<'a> {
    topic: &'a TopicState,
    partition: Arc<PartitionState>,
    records: Vec<&'a NewRecord>,
}

fn commit(shared: &Shared, appends: Vec<Pending>, forgotten: &mut Forgotten) -> Result<(), LogError> {
    let timestamp_ms = shared.timeline.begin_commit();
    let written = write(shared, &appends, timestamp_ms, forgotten);
    match written {
        Ok((outcomes, ends)) => {
            for (partition, end, bytes_until) in ends {
                partition.extent().bytes_until = bytes_until;
                partition.end.send_replace(end);
            }
            shared.timeline.end_commit();
            for (append, outcome) in appends.into_iter().zip(outcomes) {
                _ = append.done.send(Ok(outcome));
            }
            Ok(())
        }
        Err(cause) => {
            // The commit stays in flight: what it wrote may be on disk, so nothing later may be promised.
            let cause = Arc::new(cause);
            for append in appends {
                let attempt = format!(
                    "appending {} records to \"{}\"",
                    append.records.len(),
                    append.topic.name
                );
                _ = append.done.send(Err(failed(attempt, Arc::clone(&cause))));
            }
            Err(failed("committing a group of appends", cause))
        }
    }
}

type Ends = Vec<(Arc<PartitionState>, u64, u64)>;

fn write(
    shared: &Shared,
    appends: &[Pending],
    timestamp_ms: i64,
    forgotten: &mut Forgotten,
) -> Result<(Vec<Appended>, Ends), LogError> {
    let store = &shared.store;
    let mut batch = store.batch();
    let mut sequences = Sequences::default();
    let mut outcomes = Vec::with_capacity(appends.len());
    let mut parts: BTreeMap<(uuid::Uuid, u32), Part<'_>> = BTreeMap::new();
    for append in appends {
        if let Some(sequence) = &append.sequence
            && !sequences.take(store, sequence, timestamp_ms)?
        {
            outcomes.push(Appended::Already);
            continue;
        }
        outcomes.push(Appended::Stored);
        spread(append, &mut parts);
    }
    let mut ends = Vec::with_capacity(parts.len());
    for part in parts.values() {
        let mut end = part.partition.end();
        let mut bytes_until = part.partition.extent().bytes_until;
        for records in frames_of(&part.records) {
            let value = frame::encode(records, timestamp_ms, bytes_until);
            bytes_until += value.len() as u64;
            batch.insert(&part.topic.frames, frame_key(part.partition.index, end), value);
            end += records.len() as u64;
        }
        ends.push((Arc::clone(&part.partition), end, bytes_until));
    }
    sequences.write(store, &mut batch, timestamp_ms);
    producers::forget(store, &mut batch, timestamp_ms, forgotten)?;
    let lease = shared.timeline.lease_to_store();
    if let Some(lease) = lease {
        batch.insert(&store.meta, "lease", lease.to_be_bytes());
    }
    batch
        .commit()
        .map_err(|cause| failed("writing and syncing a batch", cause))?;
    if let Some(lease) = lease {
        shared.timeline.leased(lease);
    }
    Ok((outcomes, ends))
}

/// Adds the records of `append` to their partitions.
fn spread<'a>(append: &'a Pending, parts: &mut BTreeMap<(uuid::Uuid, u32), Part<'a>>) {
    let incarnation = append.topic.incarnation;
    for (record, partition) in append.records.iter().zip(&append.partitions) {
        let part = parts.entry((incarnation, *partition)).or_insert_with(|| Part {
            topic: &append.topic,
            partition: append
                .topic
                .partition(*partition)
                .expect("partitions are never removed"),
            records: Vec::new(),
        });
        part.records.push(record);
    }
}

/// Cuts `records` into frames.
fn frames_of<'a, 'r>(records: &'a [&'r NewRecord]) -> impl Iterator<Item = &'a [&'r NewRecord]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut until = 0;
        while until < rest.len() && until < FRAME_RECORDS {
            bytes += frame::record_bytes(rest[until]);
            if bytes > FRAME_BYTES && until > 0 {
                break;
            }
            until += 1;
        }
        let (frame, after) = rest.split_at(until);
        rest = after;
        (!frame.is_empty()).then_some(frame)
    })
}

/// So that a log which opens again goes on exactly here, not at the end of the lease.
fn store_exact_time(shared: &Shared) -> Result<(), LogError> {
    let mut batch = shared.store.batch();
    batch.insert(&shared.store.meta, "lease", shared.timeline.last_ms().to_be_bytes());
    batch.commit().map_err(|cause| failed("storing the log's time", cause))
}
