//! One partition from the log into the archive.

use std::sync::Arc;
use std::time::Duration;

use foldline_event_log::{
    EventBatch, LogError, Offset, Progress, ReadError, ReaderStart, RecordTime, StreamReader, Tick, TopicPartition,
};
use foldline_sql::{Stream, own_bytes};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::counters::Counted;
use super::{ArchiverPosition, RollReason, Shared};
use crate::{ArchiveError, Commit};

/// How long a read waits at the end of the log, and while somebody waits for a tick.
const WAIT_MS: u64 = 500;
const WAIT_WHEN_WANTED_MS: u64 = 20;
/// Waits between tries: doubling from the first to the last.
const FIRST_RETRY_MS: u64 = 50;
const LAST_RETRY_MS: u64 = 30_000;
/// Tries of a commit after the archiver was cancelled.
const LAST_TRIES: u32 = 3;
/// A commit record names at most about this many meetings of ticks.
const BOUNDARIES_MAX: usize = 4096;
/// While a roll is under way, this many times `roll_bytes` may be read behind it.
const HELD_ROLLS_MAX: usize = 2;

/// How a partition stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// Next offset to archive; 0 until it is known.
    pub(super) until: u64,
    /// End of the log; 0 until it is known.
    pub(super) end: u64,
    /// `None` before anything is known.
    pub(super) complete_to: Option<RecordTime>,
    pub(super) stop: Option<Stop>,
}

/// Why a partition stands still.
#[derive(Debug, Clone)]
pub(super) enum Stop {
    /// It will be tried again.
    Passing(String),
    /// Offsets that are next left the log unread. Nothing is held. It will be tried again.
    Gone(String),
    /// Somebody must act.
    ForGood(String),
}

impl Standing {
    pub(super) fn position(&self) -> ArchiverPosition {
        ArchiverPosition {
            until: Offset(self.until),
            end: Offset(self.end),
            complete_to: self.complete_to.unwrap_or(RecordTime(i64::MIN)),
            stopped: self.stop.as_ref().map(|stop| match stop {
                Stop::Passing(reason) | Stop::Gone(reason) => format!("{reason} (trying again)"),
                Stop::ForGood(reason) => reason.clone(),
            }),
        }
    }

    fn complete(&mut self, to: Option<RecordTime>) {
        self.complete_to = self.complete_to.max(to);
    }
}

/// Archives one partition.
#[derive(Debug)]
pub(super) struct PartitionArchiver {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    partition: TopicPartition,
    standing: Arc<watch::Sender<Standing>>,
    target: watch::Receiver<Option<Tick>>,
    /// Fires when the archiver ends, or gives the partition up.
    stop: CancellationToken,
}

/// What was read since the log was opened.
#[derive(Debug)]
struct Session {
    reader: StreamReader,
    held: Held,
    rolling: Option<Rolling>,
    /// Every record before this was handed out by the reader.
    read_to: Option<RecordTime>,
}

/// Batches that wait for a roll.
#[derive(Debug, Default)]
struct Held {
    batches: Vec<EventBatch>,
    since: Option<Instant>,
    raw_bytes: usize,
    boundaries: usize,
}

/// A commit under way.
#[derive(Debug)]
struct Rolling {
    task: JoinHandle<Result<Arc<Commit>, ArchiveError>>,
    counted: Counted,
    reason: RollReason,
    /// What the archive is complete to once this is committed.
    complete_to: Option<RecordTime>,
}

impl PartitionArchiver {
    pub(super) fn new(
        shared: Arc<Shared>,
        stream: Arc<Stream>,
        partition: TopicPartition,
        standing: watch::Sender<Standing>,
        target: watch::Receiver<Option<Tick>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            stream,
            partition,
            standing: Arc::new(standing),
            target,
            stop,
        }
    }

    /// Archives until cancelled, or until an error that trying again does not cure.
    pub(super) async fn run(mut self) {
        let standing = Arc::clone(&self.standing);
        let (budget, partition) = (Arc::clone(&self.shared.budget), self.partition.clone());
        let outcome = tokio::spawn(async move { self.run_sessions().await }).await;
        budget.forget(&partition);
        let error = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => foldline_event_log::with_causes(&error),
            Err(failure) => format!("its task failed: {failure}"),
        };
        tracing::error!(%partition, error, "archiving has stopped");
        standing.send_modify(|standing| standing.stop = Some(Stop::ForGood(error)));
    }

    async fn run_sessions(&mut self) -> Result<(), ArchiveError> {
        let mut failed = 0;
        loop {
            let before = self.standing.borrow().until;
            let outcome = self.run_session().await;
            self.shared.budget.forget(&self.partition);
            match outcome {
                Ok(()) => return Ok(()),
                Err(ArchiveError::Lost { first, winner, .. }) => {
                    self.shared.counters().lost += 1;
                    tracing::warn!(partition = %self.partition, %first, %winner, "another archiver committed first");
                }
                Err(error) if may_pass(&error) => {
                    failed = if self.standing.borrow().until > before {
                        1
                    } else {
                        failed + 1
                    };
                    if !self.pause(&error, failed).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads and archives from the end of the archive on. Returns when cancelled and all is committed.
    async fn run_session(&mut self) -> Result<(), ArchiveError> {
        let mut session = Session {
            reader: self.open().await?,
            held: Held::default(),
            rolling: None,
            read_to: None,
        };
        self.shared
            .budget
            .horizon(&self.partition, session.reader.horizon_bytes());
        let cancel = self.stop.clone();
        let mut memory = self.shared.budget.watch();
        loop {
            memory.mark_unchanged();
            if session.rolling.is_none()
                && let Some(reason) = self.due(&session)
            {
                self.roll(&mut session, reason);
            }
            let held_max = self.shared.settings.roll_bytes.saturating_mul(HELD_ROLLS_MAX);
            let may_read = self.shared.budget.open() && session.held.raw_bytes <= held_max;
            let due_at = session.held.since.filter(|_| session.rolling.is_none());
            let due_at = due_at.map(|since| since + Duration::from_millis(self.shared.settings.roll_age_ms));
            let wait = Duration::from_millis(if self.wanted() { WAIT_WHEN_WANTED_MS } else { WAIT_MS });
            tokio::select! {
                biased;
                () = cancel.cancelled() => return self.finish(&mut session).await,
                committed = ended(&mut session.rolling) => self.rolled(&mut session, committed)?,
                () = at(due_at) => {}
                _ = memory.changed() => {}
                _ = self.target.changed() => {}
                progress = session.reader.next(self.shared.read_bytes, wait), if may_read => match progress {
                    Ok(progress) => {
                        self.shared.budget.horizon(&self.partition, session.reader.horizon_bytes());
                        self.read(&mut session, progress);
                    }
                    Err(error) => {
                        // What was read before the error is as good as ever.
                        self.finish(&mut session).await?;
                        return Err(error.into());
                    }
                },
            }
        }
    }

    /// Opens the log where the archive ends.
    async fn open(&mut self) -> Result<StreamReader, ArchiveError> {
        let Shared { log, archive, .. } = &*self.shared;
        archive.judged_alike(&self.stream, &self.partition).await?;
        let span = log.span(&self.partition).await.map_err(ReadError::from)?;
        let start = match archive.resume(&self.partition).await? {
            Some(start) => start,
            None => ReaderStart {
                next: archive.origin(&self.partition, span.earliest).await?,
                marks: Default::default(),
            },
        };
        let declared: Vec<String> = self.stream.columns.iter().map(|column| column.name.clone()).collect();
        let reader = StreamReader::open(
            Arc::clone(log),
            Arc::clone(&self.stream),
            self.partition.clone(),
            start.clone(),
            &declared,
            self.stream.archive_raw,
            self.shared.settings.cut_every_ms,
            archive,
        )
        .await?;
        self.standing.send_modify(|standing| {
            standing.until = start.next.0;
            standing.end = span.end.0;
            standing.complete(start.marks.record_time);
            standing.stop = None;
        });
        Ok(reader)
    }

    fn read(&self, session: &mut Session, progress: Progress) {
        match progress {
            Progress::Batch(batch) => {
                self.shared.budget.hold(&self.partition, weight(&batch));
                session.read_to = session.read_to.max(batch.marks.record_time);
                let end = batch.offsets.end.0;
                session.held.push(batch);
                self.standing.send_if_modified(|standing| {
                    standing.end = standing.end.max(end);
                    false
                });
            }
            Progress::End { complete_to, end } => {
                session.read_to = session.read_to.max(Some(complete_to));
                let idle = session.held.batches.is_empty() && session.rolling.is_none();
                self.standing.send_modify(|standing| {
                    standing.end = end.0;
                    if idle {
                        standing.complete(session.read_to);
                    }
                });
            }
        }
    }

    /// Why what is held should be rolled now.
    fn due(&self, session: &Session) -> Option<RollReason> {
        let (held, settings) = (&session.held, &self.shared.settings);
        let since = held.since?;
        let target = *self.target.borrow();
        if held.raw_bytes >= settings.roll_bytes {
            Some(RollReason::Size)
        } else if since.elapsed() >= Duration::from_millis(settings.roll_age_ms) {
            Some(RollReason::Age)
        } else if self.wanted() && session.read_to.map(|time| time.0) >= target.map(|tick| tick.0) {
            Some(RollReason::Reach)
        } else if held.boundaries >= BOUNDARIES_MAX {
            Some(RollReason::Ticks)
        } else if self.shared.budget.wants(&self.partition) {
            Some(RollReason::Memory)
        } else {
            None
        }
    }

    /// Whether somebody waits for a tick that is not reached.
    fn wanted(&self) -> bool {
        let target = self.target.borrow().map(|tick| tick.0);
        target.is_some() && self.standing.borrow().complete_to.map(|time| time.0) < target
    }

    /// Starts a commit of all that is held.
    fn roll(&self, session: &mut Session, reason: RollReason) {
        let held = std::mem::take(&mut session.held);
        self.shared.budget.roll(&self.partition);
        session.rolling = Some(Rolling {
            counted: Counted::of(&held.batches),
            reason,
            complete_to: session.read_to,
            task: tokio::spawn(commit(
                Arc::clone(&self.shared),
                Arc::clone(&self.stream),
                self.partition.clone(),
                Arc::new(held.batches),
                Arc::clone(&self.standing),
                self.stop.clone(),
            )),
        });
    }

    /// Takes note of the end of a commit.
    fn rolled(&self, session: &mut Session, committed: Result<Arc<Commit>, ArchiveError>) -> Result<(), ArchiveError> {
        self.shared.budget.rolled(&self.partition);
        let Some(rolling) = session.rolling.take() else {
            return Ok(());
        };
        let commit = committed?;
        let idle = session.held.batches.is_empty();
        self.shared
            .counters()
            .committed(&self.stream, &commit, &rolling.counted, rolling.reason);
        tracing::info!(
            partition = %self.partition,
            from = commit.offsets.start.0,
            until = commit.offsets.end.0,
            files = commit.files.len(),
            reason = ?rolling.reason,
            "archived"
        );
        self.standing.send_modify(|standing| {
            standing.until = commit.offsets.end.0;
            standing.complete(if idle { session.read_to } else { rolling.complete_to });
            standing.stop = None;
        });
        Ok(())
    }

    /// Commits all that is held.
    async fn finish(&self, session: &mut Session) -> Result<(), ArchiveError> {
        loop {
            if session.rolling.is_none() {
                if session.held.batches.is_empty() {
                    return Ok(());
                }
                self.roll(session, RollReason::End);
            }
            let committed = ended(&mut session.rolling).await;
            self.rolled(session, committed)?;
        }
    }

    /// Waits before another try; false when cancelled meanwhile.
    async fn pause(&self, error: &ArchiveError, failed: u32) -> bool {
        note_failure(&self.shared, &self.partition, &self.standing, error);
        let wait = tokio::time::sleep(retry_after(failed));
        self.stop.run_until_cancelled(wait).await.is_some()
    }
}

impl Held {
    fn push(&mut self, batch: EventBatch) {
        self.since.get_or_insert_with(Instant::now);
        self.raw_bytes += batch.raw_bytes;
        let meets = self.batches.last().is_some_and(|last| last.tick != batch.tick);
        self.boundaries += usize::from(meets);
        self.batches.push(batch);
    }
}

/// Commits `batches`, trying again while the store is away. After `stop` only a few times.
async fn commit(
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    partition: TopicPartition,
    batches: Arc<Vec<EventBatch>>,
    standing: Arc<watch::Sender<Standing>>,
    stop: CancellationToken,
) -> Result<Arc<Commit>, ArchiveError> {
    let mut attempts = Vec::new();
    let mut after_cancel = 0;
    loop {
        let attempt = Uuid::new_v4();
        attempts.push(attempt);
        let permit = shared.rolls.acquire().await.expect("the semaphore is never closed");
        let outcome = shared.archive.append(&stream, Arc::clone(&batches), attempt).await;
        drop(permit);
        let error = match outcome {
            Err(ArchiveError::Lost { winner, .. }) if attempts.contains(&winner) => {
                // An earlier try was stored after all.
                let commits = shared.archive.commits(&partition).await?;
                match commits.iter().rfind(|commit| commit.attempt == winner) {
                    Some(commit) => return Ok(Arc::clone(commit)),
                    None => continue,
                }
            }
            Err(error) if may_pass(&error) => error,
            other => return other,
        };
        after_cancel += u32::from(stop.is_cancelled());
        if after_cancel >= LAST_TRIES {
            return Err(error);
        }
        note_failure(&shared, &partition, &standing, &error);
        let wait = retry_after(if after_cancel > 0 {
            after_cancel
        } else {
            attempts.len() as u32
        });
        stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        if after_cancel > 0 {
            tokio::time::sleep(wait).await;
        }
    }
}

fn note_failure(shared: &Shared, partition: &TopicPartition, standing: &watch::Sender<Standing>, error: &ArchiveError) {
    let mut reason = foldline_event_log::with_causes(error);
    let gone = matches!(error, ArchiveError::Read(ReadError::Log(LogError::OutOfRange { .. })));
    if gone {
        reason += "; what was between is gone unread: foldline gaps accept";
    }
    tracing::warn!(%partition, error = reason, "archiving failed; trying again");
    shared.counters().retries += 1;
    let stop = if gone {
        Stop::Gone(reason)
    } else {
        Stop::Passing(reason)
    };
    standing.send_modify(|standing| standing.stop = Some(stop));
}

fn retry_after(failed: u32) -> Duration {
    let doublings = failed.saturating_sub(1).min(16);
    Duration::from_millis((FIRST_RETRY_MS << doublings).min(LAST_RETRY_MS))
}

/// Whether trying again may help.
fn may_pass(error: &ArchiveError) -> bool {
    match error {
        ArchiveError::Store { source, .. } => !matches!(
            source,
            object_store::Error::InvalidPath { .. }
                | object_store::Error::NotSupported { .. }
                | object_store::Error::NotImplemented { .. }
        ),
        // Offsets that are gone: until somebody acknowledges the gap.
        ArchiveError::Read(ReadError::Log(LogError::OutOfRange { asked, span, .. })) => *asked < span.earliest,
        ArchiveError::Read(ReadError::Log(error)) => matches!(error, LogError::Storage { .. } | LogError::Full(_)),
        ArchiveError::Read(ReadError::Horizon { source, .. }) => {
            source.downcast_ref::<ArchiveError>().is_some_and(may_pass)
        }
        _ => false,
    }
}

/// Bytes that a batch keeps in memory: those that arrived, and its columns.
fn weight(batch: &EventBatch) -> usize {
    let letters: usize = batch.dead_letters.iter().map(|letter| letter.raw.len()).sum();
    batch.raw_bytes + own_bytes(&batch.rows) + letters
}

/// The outcome of the roll under way; pends for ever when there is none. Dropping the wait loses nothing.
async fn ended(rolling: &mut Option<Rolling>) -> Result<Arc<Commit>, ArchiveError> {
    match rolling {
        Some(rolling) => match (&mut rolling.task).await {
            Ok(outcome) => outcome,
            Err(failure) => std::panic::resume_unwind(failure.into_panic()),
        },
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
