//! The task of one partition: judged rows in, snapshots out.
//!
//! Each round applies what `retain` asks for, looks at the budget, reads one batch and folds it. Nothing here ends the
//! task but the cancel token: whatever goes wrong stands in the snapshot as the reason why the partition is stopped,
//! and is tried again, at most every half minute, or when `retain` brings something new.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use foldline_event_log::{
    EventBatch, EventLog, Horizon, LogError, Offset, Progress, ReadError, ReaderStart, RecordTime, StreamReader,
    TopicPartition, with_causes,
};
use foldline_sql::{Stream, system_columns};
use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accumulate::{AccumulateError, Accumulator, Folds, Start};
use crate::checkpoint::{Checkpoints, Image, SaveError};
use crate::layer::{Budget, Slot};
use crate::retire::Retention;
use crate::{PartitionView, SpeedSettings};

/// How long a read waits at the end of the log; so often an idle partition's `complete_to` moves.
const READ_WAIT: Duration = Duration::from_millis(250);
/// How often a partition stopped at the budget looks whether it may go on.
const BUDGET_WAIT: Duration = Duration::from_millis(100);
/// How long to wait after a failure, doubled from one to the other.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often the end of the log is looked up while it is not reached.
const SPAN_EVERY: Duration = Duration::from_secs(1);
/// A floor this many offsets ahead is jumped to: opening a reader there costs less than reading on.
const JUMP_OFFSETS: u64 = 50_000;
/// Boundaries taken away in one round, so that reading goes on in between.
const JOINS_PER_ROUND: usize = 8;

/// What a partition's task works with.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) partition: TopicPartition,
    pub(crate) origin: Offset,
    pub(crate) folds: Folds,
    pub(crate) horizon: Arc<dyn Horizon>,
    pub(crate) settings: Arc<SpeedSettings>,
    pub(crate) retention: watch::Receiver<Arc<Retention>>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) cancel: CancellationToken,
}

/// Why a round ended early. Each is shown and tried again.
#[derive(Debug, thiserror::Error)]
enum Halt {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Fold(#[from] AccumulateError),
    #[error("{behind}; it goes on when a generation's cut lies within, the oldest readable one cuts at {floor}")]
    Behind { behind: LogError, floor: Offset },
}

/// The task of one partition.
#[derive(Debug)]
pub(crate) struct Ingest {
    sources: Sources,
    columns: Vec<String>,
    state: Accumulator,
    slot: Arc<Slot>,
    reader: Option<StreamReader>,
    /// Until a reader was opened once, segments of the checkpoint may be given up for one that opens earlier.
    opened: bool,
    /// Whether the segments are shown: not before it is known how much of the checkpoint stays, so that coverage does
    /// not go back.
    shown: bool,
    /// Segments to give up next.
    give_up: usize,
    /// Read, but not folded: its fold failed.
    pending: Option<EventBatch>,
    /// What `retain` asked for, as far as it was applied.
    applied: Option<Arc<Retention>>,
    /// Boundaries may be left to take away.
    thinning: bool,
    end: Offset,
    /// Everything below this was handed out: behind the last record there may be offsets that hold none, which no batch
    /// covers.
    read_to: Offset,
    end_looked_up: Option<Instant>,
    /// Records below this were in the log when the partition was opened, or had been folded before it went back.
    replay_until: Option<Offset>,
    complete_to: Option<RecordTime>,
    stopped: Option<String>,
    over_budget: bool,
    retry_wait: Duration,
    weight: usize,
    checkpoints: Checkpoints,
    checkpoint_due: Instant,
    saving: Option<JoinHandle<Result<(), SaveError>>>,
    saved_until: Option<Offset>,
}

impl Ingest {
    /// Reads the checkpoint, or begins at the cut.
    pub(crate) async fn restore(sources: Sources) -> Self {
        let retention = Arc::clone(&sources.retention.borrow());
        let cut = retention.floor_of(&sources.partition, sources.origin);
        let checkpoints = Checkpoints::new(
            &sources.settings.checkpoints,
            &sources.partition,
            sources.stream.judging_id(),
            sources.settings.cut_every_ms,
        );
        let state = from_checkpoint(&sources, &checkpoints, cut).await;
        let state =
            state.unwrap_or_else(|| Accumulator::new(sources.partition.clone(), Arc::clone(&sources.folds), cut));
        let span = sources.log.span(&sources.partition).await;
        let mut ingest = Self {
            columns: columns_of(&sources),
            slot: Arc::new(Slot::new(PartitionView {
                segments: Vec::new(),
                until: cut.next,
                read_to: cut.next,
                end: cut.next,
                complete_to: None,
                replaying_to: None,
                stopped: None,
            })),
            end: state.until(),
            read_to: Offset(0),
            complete_to: state.marks().record_time,
            saved_until: None,
            state,
            reader: None,
            opened: false,
            shown: false,
            give_up: 1,
            pending: None,
            applied: None,
            thinning: true,
            end_looked_up: None,
            replay_until: span.ok().map(|span| span.end),
            stopped: None,
            over_budget: false,
            retry_wait: RETRY_WAIT.0,
            weight: 0,
            checkpoints,
            checkpoint_due: Instant::now() + Duration::from_millis(sources.settings.checkpoint_every_ms),
            saving: None,
            sources,
        };
        ingest.publish();
        ingest
    }

    pub(crate) fn partition(&self) -> &TopicPartition {
        &self.sources.partition
    }

    pub(crate) fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.slot)
    }

    /// Works until the token fires; a panic becomes a stopped partition, not a silent one.
    pub(crate) async fn run(mut self) {
        let worked = std::panic::AssertUnwindSafe(self.work()).catch_unwind().await;
        let reason = match worked {
            Ok(()) => "the speed layer has ended".to_owned(),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no text");
                format!("its task panicked ({text}); restart foldline, and report this")
            }
        };
        self.stopped = Some(reason);
        self.publish();
        self.sources.budget.change(self.weight, 0);
    }

    async fn work(&mut self) {
        while !self.sources.cancel.is_cancelled() {
            self.save_if_due().await;
            match self.round().await {
                Ok(()) => self.retry_wait = RETRY_WAIT.0,
                Err(halt) => {
                    self.stop(with_causes(&halt), true);
                    self.pause(self.retry_wait).await;
                    self.retry_wait = (self.retry_wait * 2).min(RETRY_WAIT.1);
                }
            }
            tokio::task::yield_now().await;
        }
        self.save_last().await;
    }

    async fn round(&mut self) -> Result<(), Halt> {
        self.apply_retention().await;
        // Before anything that may hold reading up: with the first reader open, what the checkpoint gave is shown.
        if self.reader.is_none() && !self.open_reader().await? {
            return Ok(());
        }
        self.thin().await?;
        if self.stop_at_budget().await {
            return Ok(());
        }
        if let Some(batch) = self.pending.take() {
            return self.fold(batch).await;
        }
        let Some(mut reader) = self.reader.take() else {
            return Ok(());
        };
        let progress = tokio::select! {
            biased;
            () = self.sources.cancel.cancelled() => None,
            () = changed(&mut self.sources.retention) => None,
            progress = reader.next(self.sources.settings.batch_bytes, READ_WAIT) => Some(progress),
        };
        self.reader = Some(reader);
        match progress {
            None => Ok(()),
            Some(Ok(Progress::Batch(batch))) => self.fold(batch).await,
            Some(Ok(Progress::End { complete_to, end })) => {
                self.end = end;
                self.read_to = end;
                self.complete_to = self.complete_to.max(Some(complete_to));
                self.replay_until = None;
                self.stopped = None;
                self.publish();
                Ok(())
            }
            Some(Err(failed)) => self.jump_or_halt(failed).await,
        }
    }

    /// Folds `batch` and shows it. On failure it stays pending.
    async fn fold(&mut self, batch: EventBatch) -> Result<(), Halt> {
        let began = match self.state.append(&batch).await {
            Ok(began) => began,
            Err(failed) => {
                self.pending = Some(batch);
                return Err(failed.into());
            }
        };
        self.count(&batch);
        self.thinning |= began;
        self.stopped = None;
        self.complete_to = self.complete_to.max(batch.marks.record_time);
        self.look_up_end().await;
        self.publish();
        if self.state.compact().await? {
            self.publish();
        }
        Ok(())
    }

    fn count(&self, batch: &EventBatch) {
        let add = |counter: &AtomicU64, more: u64| counter.fetch_add(more, Ordering::Relaxed);
        let counted = &self.slot.counted;
        let events = (batch.rows.num_rows() + batch.dead_letters.len()) as u64;
        add(&counted.events, events);
        add(&counted.late, marked(&batch.rows, system_columns::LATE));
        add(&counted.duplicates, marked(&batch.rows, system_columns::DUPLICATE));
        add(&counted.dead_letters, batch.dead_letters.len() as u64);
        add(&counted.nulled, batch.nulled.iter().map(|(_, count)| count).sum());
        add(&counted.batches, 1);
        add(&counted.raw_bytes, batch.raw_bytes as u64);
        if self.replay_until.is_some_and(|until| batch.offsets.end <= until) {
            add(&counted.replayed, events);
        }
    }

    /// How far behind the log reading is, while it is behind. A failure shows at the next read.
    async fn look_up_end(&mut self) {
        let until = self.state.until();
        self.end = self.end.max(until);
        if self.end_looked_up.is_some_and(|at| at.elapsed() < SPAN_EVERY) {
            return;
        }
        self.end_looked_up = Some(Instant::now());
        if let Ok(span) = self.sources.log.span(&self.sources.partition).await {
            self.end = span.end.max(until);
        }
    }

    async fn thin(&mut self) -> Result<(), Halt> {
        let Some(retention) = self.applied.clone().filter(|_| self.thinning) else {
            return Ok(());
        };
        let floor = retention.floor_of(&self.sources.partition, self.sources.origin);
        let cut_every_ms = self.sources.settings.cut_every_ms;
        self.thinning = self.state.thin(&retention, floor.next, cut_every_ms, JOINS_PER_ROUND);
        if self.thinning {
            self.publish();
        }
        if self.state.compact().await? {
            self.publish();
        }
        Ok(())
    }

    /// Shows why reading stands still at the budget, and waits a little. Nothing is dropped.
    async fn stop_at_budget(&mut self) -> bool {
        let Some(reason) = self.sources.budget.refuses(self.over_budget) else {
            if std::mem::take(&mut self.over_budget) {
                tracing::info!(partition = %self.sources.partition, "memory freed, reading goes on");
                self.stopped = None;
                self.publish();
            }
            return false;
        };
        // Also where the partition has begun anew meanwhile, which cleared the reason.
        if !std::mem::replace(&mut self.over_budget, true) || self.stopped.is_none() {
            self.stop(reason, false);
        }
        self.pause(BUDGET_WAIT).await;
        true
    }

    /// Takes over what `retain` asked for, if it is new, or if the partition stands still and may be helped by it.
    async fn apply_retention(&mut self) {
        let retention = Arc::clone(&self.sources.retention.borrow_and_update());
        let known = self
            .applied
            .as_ref()
            .is_some_and(|applied| Arc::ptr_eq(applied, &retention));
        if known && self.stopped.is_none() {
            return;
        }
        self.applied = Some(Arc::clone(&retention));
        self.thinning |= !known;
        if !known {
            self.forget_gaps(&retention);
        }
        let floor = retention.floor_of(&self.sources.partition, self.sources.origin);
        if self.state.drop_below(floor.next) {
            self.publish();
        }
        let ahead = floor.next.0.saturating_sub(self.state.until().0);
        let stuck = ahead > 0 && self.pending.is_some();
        let better_there = stuck || ahead >= JUMP_OFFSETS || self.must_replay(floor, &retention);
        if better_there && let Err(failed) = self.begin_at_if_held(floor).await {
            let (partition, reason) = (&self.sources.partition, with_causes(&failed));
            tracing::warn!(%partition, floor = floor.next.0, reason, "cannot begin at the floor, reading on");
        }
    }

    /// What was folded of an accepted gap goes, with all that was judged by it. The log begins behind the gap, so the
    /// partition stands still until a generation does, too.
    fn forget_gaps(&mut self, retention: &Retention) {
        let until = self.state.until();
        let mut before_gap = false;
        for gap in retention.gaps_of(&self.sources.partition) {
            self.state.forget_through(gap);
            before_gap |= self.state.until() < gap.end;
        }
        if !before_gap {
            return;
        }
        // They may hold records of the gap.
        self.reader = None;
        self.pending = None;
        let (partition, to) = (&self.sources.partition, self.state.until());
        if to == until {
            return;
        }
        tracing::warn!(%partition, from = until.0, to = to.0, "a gap was accepted, folding anew behind it");
        self.read_to = Offset(0);
        self.complete_to = self.state.marks().record_time;
        self.saved_until = None;
        self.publish();
    }

    /// Whether no chain can begin at the floor nor at any cut above: the floor went back below the first segment, or
    /// was cut where the boundary is gone.
    fn must_replay(&self, floor: Start, retention: &Retention) -> bool {
        if floor.next > self.state.until() || self.state.has_boundary_at(floor.next) {
            return false;
        }
        let above = retention.protected.iter().flatten();
        let mut above = above.filter(|tick| retention.floor.tick.is_none_or(|floor| **tick > floor));
        floor.next < self.state.start().next || !above.any(|tick| self.state.has_boundary_at_tick(*tick))
    }

    /// Begins anew at `floor`, if the log still has what follows it.
    async fn begin_at_if_held(&mut self, floor: Start) -> Result<(), ReadError> {
        let span = self.sources.log.span(&self.sources.partition).await?;
        if (span.earliest..=span.end).contains(&floor.next) {
            self.begin_at(floor).await?;
        }
        Ok(())
    }

    /// Begins anew at `floor`. What was folded stays until a reader is open there.
    async fn begin_at(&mut self, floor: Start) -> Result<(), ReadError> {
        let reader = self.open(floor).await?;
        let (partition, from) = (&self.sources.partition, self.state.until());
        tracing::info!(%partition, from = from.0, to = floor.next.0, "beginning anew at the cut of a generation");
        self.replay_until = self.replay_until.max(Some(from));
        self.read_to = Offset(0);
        self.state.begin_at(floor);
        self.complete_to = floor.marks.record_time;
        self.pending = None;
        self.reader = Some(reader);
        self.opened = true;
        self.shown = true;
        self.stopped = None;
        self.saved_until = None;
        self.publish();
        Ok(())
    }

    /// Opens a reader where the state ends. `false`: look again in the next round.
    async fn open_reader(&mut self) -> Result<bool, Halt> {
        let start = Start {
            next: self.state.until(),
            marks: self.state.marks(),
        };
        let opened = self.open(start).await;
        if !self.opened && matches!(opened, Err(ReadError::Horizon { .. })) && !self.state.pieces().is_empty() {
            self.give_up_segments();
            return Ok(false);
        }
        if !std::mem::replace(&mut self.shown, true) {
            self.publish();
        }
        match opened {
            Ok(reader) => {
                self.opened = true;
                self.reader = Some(reader);
                Ok(true)
            }
            Err(failed) => self.jump_or_halt(failed).await.map(|()| false),
        }
    }

    /// The duplicate horizon is kept in the archive, which may not reach as far as the checkpoint. Then the checkpoint
    /// is taken as far as the archive does reach: twice as many segments are given up each time, so that few are folded
    /// again that need not be, and few tries lead there.
    fn give_up_segments(&mut self) {
        let until = self.state.until();
        self.read_to = Offset(0);
        self.state.forget_last(self.give_up);
        self.give_up *= 2;
        self.complete_to = self.state.marks().record_time;
        let (partition, to) = (&self.sources.partition, self.state.until());
        tracing::info!(%partition, from = until.0, to = to.0, "the horizon's keys end before the checkpoint, replaying");
        self.publish();
    }

    async fn open(&mut self, start: Start) -> Result<StreamReader, ReadError> {
        let sources = &self.sources;
        if self.replay_until.is_none() && !self.opened {
            self.replay_until = Some(sources.log.span(&sources.partition).await?.end);
        }
        StreamReader::open(
            Arc::clone(&sources.log),
            Arc::clone(&sources.stream),
            sources.partition.clone(),
            ReaderStart {
                next: start.next,
                marks: start.marks,
            },
            &self.columns,
            false,
            sources.settings.cut_every_ms,
            sources.horizon.as_ref(),
        )
        .await
    }

    /// What the log no longer has can only be skipped where a generation covers it. Anything else stops the partition.
    async fn jump_or_halt(&mut self, failed: ReadError) -> Result<(), Halt> {
        let ReadError::Log(behind @ LogError::OutOfRange { span, .. }) = failed else {
            return Err(failed.into());
        };
        let retention = Arc::clone(&self.sources.retention.borrow());
        let floor = retention.floor_of(&self.sources.partition, self.sources.origin);
        if floor.next > self.state.until() && (span.earliest..=span.end).contains(&floor.next) {
            return Ok(self.begin_at(floor).await?);
        }
        Err(Halt::Behind {
            behind,
            floor: floor.next,
        })
    }

    fn stop(&mut self, reason: String, failed: bool) {
        if self.stopped.as_ref() == Some(&reason) {
            return;
        }
        let (partition, until) = (&self.sources.partition, self.state.until());
        if failed {
            tracing::error!(%partition, until = until.0, reason, "partition stopped");
        } else {
            tracing::warn!(%partition, until = until.0, reason, "partition stopped");
        }
        self.stopped = Some(reason);
        self.publish();
    }

    async fn pause(&mut self, wait: Duration) {
        tokio::select! {
            () = self.sources.cancel.cancelled() => {}
            () = changed(&mut self.sources.retention) => self.retry_wait = RETRY_WAIT.0,
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// Swaps the snapshot: every view of the partition at one `until`.
    fn publish(&mut self) {
        let (segments, until) = if self.shown {
            (self.state.segments(), self.state.until())
        } else {
            (Vec::new(), self.state.start().next)
        };
        self.slot.publish(PartitionView {
            segments,
            until,
            read_to: self.read_to.max(until),
            end: self.end.max(until),
            complete_to: self.complete_to.filter(|_| self.shown),
            replaying_to: self.replay_until.filter(|to| until < *to),
            stopped: self.stopped.clone(),
        });
        let horizon_bytes = self.reader.as_ref().map_or(0, StreamReader::horizon_bytes);
        let bytes = self.state.bytes();
        self.slot.weigh(bytes, horizon_bytes);
        // The horizon is not in the budget: only reading on takes keys out of it, so stopping would be for ever.
        self.sources.budget.change(self.weight, bytes);
        self.weight = bytes;
    }

    /// Starts a checkpoint in the background if it is time, one at a time.
    async fn save_if_due(&mut self) {
        if self.saving.as_ref().is_some_and(|saving| saving.is_finished()) {
            self.finish_saving().await;
        }
        let every_ms = self.sources.settings.checkpoint_every_ms;
        let due = every_ms > 0 && self.saving.is_none() && Instant::now() >= self.checkpoint_due;
        if due {
            self.checkpoint_due = Instant::now() + Duration::from_millis(every_ms);
            self.begin_saving();
        }
    }

    fn begin_saving(&mut self) {
        if self.saved_until == Some(self.state.until()) {
            return;
        }
        self.saved_until = Some(self.state.until());
        let (checkpoints, image) = (self.checkpoints.clone(), Image::of(&self.state));
        self.saving = Some(tokio::task::spawn_blocking(move || checkpoints.save(&image)));
    }

    async fn finish_saving(&mut self) {
        let Some(saving) = self.saving.take() else { return };
        let failed = match saving.await {
            Ok(Ok(())) => {
                self.slot.counted.checkpoints.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(Err(failed)) => with_causes(&failed),
            Err(panicked) => panicked.to_string(),
        };
        self.saved_until = None;
        let partition = &self.sources.partition;
        tracing::warn!(%partition, reason = failed, "checkpoint failed, the one before stays");
    }

    async fn save_last(&mut self) {
        self.finish_saving().await;
        if self.sources.settings.checkpoint_every_ms > 0 {
            self.begin_saving();
            self.finish_saving().await;
        }
    }
}

/// The state in the checkpoint, if it fits and a chain from `cut` on lies in it.
async fn from_checkpoint(sources: &Sources, checkpoints: &Checkpoints, cut: Start) -> Option<Accumulator> {
    if sources.settings.checkpoint_every_ms == 0 {
        return None;
    }
    let partition = &sources.partition;
    let (reading, folds) = (checkpoints.clone(), Arc::clone(&sources.folds));
    let loaded = match tokio::task::spawn_blocking(move || reading.load(&folds)).await {
        Ok(Ok(loaded)) => Ok(loaded?),
        Ok(Err(misfit)) => Err(with_causes(&misfit)),
        Err(panicked) => Err(panicked.to_string()),
    };
    let span = sources.log.span(partition).await;
    let retention = Arc::clone(&sources.retention.borrow());
    let fits = loaded.and_then(|mut state| {
        // First: what is dropped below the cut would take with it the knowledge that the rest was judged by a gap.
        for gap in retention.gaps_of(partition) {
            state.forget_through(gap);
        }
        let until = state.until();
        match span {
            Ok(span) if !(span.earliest..=span.end).contains(&until) => Err(format!(
                "it ends at offset {until}, the log holds {}..{}",
                span.earliest, span.end
            )),
            Err(failed) => Err(with_causes(&failed)),
            Ok(_) if !state.has_boundary_at(cut.next) => Err(format!(
                "it holds offsets {}..{until}, and no boundary at the cut's offset {}",
                state.start().next,
                cut.next
            )),
            Ok(_) => Ok(state),
        }
    });
    match fits {
        Ok(mut state) => {
            state.drop_below(cut.next);
            let (from, until) = (cut.next.0, state.until().0);
            tracing::info!(%partition, from, until, "going on from the checkpoint");
            Some(state)
        }
        Err(reason) => {
            let from = cut.next.0;
            tracing::warn!(%partition, reason, from, "the checkpoint is not used, replaying from the cut");
            None
        }
    }
}

/// The declared columns that some fold reads.
fn columns_of(sources: &Sources) -> Vec<String> {
    let read = |name: &String| {
        let mut folds = sources.folds.iter();
        folds.any(|(_, fold)| fold.input_columns().contains(name))
    };
    let declared = sources.stream.columns.iter().map(|column| column.name.clone());
    declared.filter(read).collect()
}

/// Rows of `rows` that are true in the Boolean column `name`.
fn marked(rows: &RecordBatch, name: &str) -> u64 {
    let column = rows.column_by_name(name).and_then(|column| column.as_boolean_opt());
    column.map_or(0, |marks| marks.true_count() as u64)
}

/// Waits for the next call of `retain`.
async fn changed(retention: &mut watch::Receiver<Arc<Retention>>) {
    // Nobody holds the layer any more: nothing will change, but folding goes on until it is cancelled.
    if retention.changed().await.is_err() {
        std::future::pending().await
    }
}
