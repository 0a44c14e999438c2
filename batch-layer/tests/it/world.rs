//! A log of clicks in an archive, views over it, and what plain SQL says about them.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Int64Type;
use foldline_batch_layer::{
    Archive, Draft, Generation, GenerationError, GenerationNumber, Generations, Recompute, RecomputeError, RunKind,
    RunReport,
};
use foldline_event_log::{Cut, EventBatch, ManualClock, Offset, RecordTime, Tick, Topic, TopicPartition};
use foldline_sql::{Catalog, Fold, SourceFile, Stream, View, ViewKind};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::clicks::{CUT_EVERY_MS, Click, DAY_US, MAY_US, batches};
use crate::faulty::Faulty;

pub(crate) const STREAM: &str = "
CREATE STREAM clicks (id TEXT NOT NULL, at TIMESTAMPTZ NOT NULL, amount BIGINT)
WITH (topic = 'clicks', event_time = 'at', lateness = '1 day', partitions = 2);
";

pub(crate) const VIEWS: &str = "
CREATE VIEW days AS
SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS clicks, sum(amount) AS amount FROM clicks GROUP BY 1;
CREATE VIEW kinds AS
SELECT amount % 5 AS kind, last_value(id ORDER BY at) AS newest, array_agg(amount ORDER BY at DESC) AS amounts,
       count(DISTINCT id) AS ids
FROM clicks GROUP BY 1;
CREATE VIEW totals AS SELECT count(*) AS clicks, max(at) AS newest FROM clicks;
CREATE VIEW rare AS SELECT amount AS amount, min(at) AS first FROM clicks WHERE amount % 50 = 0 GROUP BY 1;
";

/// Longest query time of every world.
pub(crate) const LONGEST_QUERY_MS: i64 = 60_000;
const INCARNATION: u128 = 77;

pub(crate) struct World {
    pub(crate) store: Faulty,
    pub(crate) clock: ManualClock,
    pub(crate) archive: Archive,
    pub(crate) generations: Generations,
    pub(crate) catalog: Arc<Catalog>,
    /// By partition: what is archived, and its clicks.
    pub(crate) log: Vec<(Vec<EventBatch>, Vec<Click>)>,
}

pub(crate) async fn catalog(views: &str) -> Arc<Catalog> {
    let compiled = Catalog::compile(&[SourceFile {
        name: "clicks.sql".to_owned(),
        text: format!("{STREAM}{views}"),
    }])
    .await;
    Arc::new(compiled.unwrap_or_else(|refusals| panic!("{}", refusals[0])))
}

pub(crate) fn topic() -> Topic {
    Topic {
        name: "clicks".to_owned(),
        incarnation: Uuid::from_u128(INCARNATION),
        partitions: 2,
    }
}

pub(crate) fn fold_of(view: &View) -> Arc<Fold> {
    match &view.kind {
        ViewKind::Fold(fold) => Arc::clone(fold),
        ViewKind::Derived(_) => panic!("{} is not a fold", view.name),
    }
}

pub(crate) fn everything_is_complete() -> Vec<RecordTime> {
    vec![RecordTime(i64::MAX); 2]
}

impl World {
    /// Nothing archived yet.
    pub(crate) async fn new() -> Self {
        Self::in_store(Arc::new(InMemory::new())).await
    }

    pub(crate) async fn in_store(store: Arc<dyn ObjectStore>) -> Self {
        let store = Faulty::new(store);
        let clock = ManualClock::new(1_000_000);
        let archive = Archive::new(Arc::new(store.clone()));
        for partition in topic().all_partitions() {
            archive.origin(&partition, Offset(0)).await.unwrap();
        }
        Self {
            archive,
            generations: Generations::new(Arc::new(store.clone()), Arc::new(clock.clone()), LONGEST_QUERY_MS, 3),
            store,
            clock,
            catalog: catalog(VIEWS).await,
            log: vec![(Vec::new(), Vec::new()), (Vec::new(), Vec::new())],
        }
    }

    /// Two partitions of random clicks, all archived.
    pub(crate) async fn filled(seed: u64, clicks: usize) -> Self {
        let mut world = Self::new().await;
        let mut random = StdRng::seed_from_u64(seed);
        world.fill(&mut random, clicks).await;
        world
    }

    pub(crate) async fn fill(&mut self, random: &mut StdRng, clicks: usize) {
        for partition in 0..2 {
            self.archive_more(random, partition, clicks).await;
        }
    }

    /// Generations as another process sees them: with nothing in memory.
    pub(crate) fn fresh_generations(&self) -> Generations {
        let store = Arc::new(self.store.clone());
        Generations::new(store, Arc::new(self.clock.clone()), LONGEST_QUERY_MS, 3)
    }

    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.catalog.streams()[0]
    }

    /// Adds `count` random clicks to a partition, in commits of random size: rows for old dates, holes, late,
    /// duplicate and malformed ones among them.
    pub(crate) async fn archive_more(&mut self, random: &mut StdRng, partition: u32, count: usize) {
        let name = topic().partition(partition);
        let stream = Arc::clone(self.stream());
        let (archived, clicks) = &mut self.log[partition as usize];
        let already = clicks.len();
        for _ in 0..count {
            let (offset, time) = clicks.last().map_or((0, 0), |last| (last.offset + 1, last.record_time));
            let offset = offset + u64::from(random.random_range(0..10) == 0);
            let time = time + i64::from(random.random_range(0..400));
            let at = MAY_US + time % 10_000 * 60_000_000 - i64::from(random.random_range(0..5)) * DAY_US
                + i64::from(random.random_range(0..3_600_000)) * 1000;
            let mut click = Click::new(offset, time, at);
            click.late = random.random_range(0..9) == 0;
            click.duplicate = random.random_range(0..11) == 0;
            click.malformed = random.random_range(0..13) == 0;
            clicks.push(click);
        }
        let start = archived.last().map_or(0, |last| last.offsets.end.0);
        let rows_max = if count > 1000 { 400 } else { 9 };
        let mut new = batches(&stream, &name, start, &clicks[already..], rows_max);
        if let Some(before) = archived.last().map(|last| last.marks) {
            for batch in &mut new {
                batch.marks.record_time = batch.marks.record_time.max(before.record_time);
                batch.marks.max_event_time = batch.marks.max_event_time.max(before.max_event_time);
            }
        }
        let mut left = new.as_slice();
        while !left.is_empty() {
            let (commit, rest) = left.split_at(random.random_range(1..=left.len().min(6)));
            self.archive
                .append(&stream, Arc::new(commit.to_vec()), Uuid::new_v4())
                .await
                .unwrap();
            left = rest;
        }
        archived.extend(new);
    }

    /// The first tick that everything archived lies before.
    pub(crate) fn end_tick(&self) -> Tick {
        let times = self
            .log
            .iter()
            .filter_map(|(_, clicks)| Some(clicks.last()?.record_time));
        Tick(Tick::at(RecordTime(times.max().unwrap_or(0)), CUT_EVERY_MS).0 + CUT_EVERY_MS)
    }

    /// The newest tick before which nothing more will be archived.
    pub(crate) fn complete_tick(&self) -> Tick {
        let times = self
            .log
            .iter()
            .map(|(_, clicks)| clicks.last().map_or(0, |last| last.record_time));
        Tick::at(RecordTime(times.min().unwrap_or(0)), CUT_EVERY_MS)
    }

    pub(crate) fn recompute(&self) -> Recompute {
        self.recompute_with(&self.generations)
    }

    pub(crate) fn recompute_with(&self, generations: &Generations) -> Recompute {
        let (catalog, archive) = (Arc::clone(&self.catalog), self.archive.clone());
        let recompute = Recompute::new(catalog, archive, generations.clone(), Arc::new(self.clock.clone()));
        // So small that there are many units, folds and merges.
        recompute.sized(20, 3)
    }

    pub(crate) async fn run(&self, kind: RunKind, tick: Tick) -> Result<RunReport, RecomputeError> {
        let topics = [(topic(), everything_is_complete())];
        self.recompute().run(kind, tick, &topics, &|_, _| {}).await
    }

    /// The rows below `cut`, from what the tests made, in log order.
    pub(crate) fn rows_below(&self, cut: &Cut) -> Vec<RecordBatch> {
        let mut rows = Vec::new();
        for (partition, (archived, _)) in topic().all_partitions().iter().zip(&self.log) {
            let next = next_of(cut, partition).0.cast_signed();
            for batch in archived {
                let offsets = batch
                    .rows
                    .column_by_name("_offset")
                    .unwrap()
                    .as_primitive::<Int64Type>();
                let below = offsets.iter().map(|offset| Some(offset.unwrap() < next)).collect();
                rows.push(filter_record_batch(&batch.rows, &below).unwrap());
            }
        }
        rows
    }

    /// What plain SQL says about the rows below the cut.
    pub(crate) async fn plain(&self, view: &View, cut: &Cut) -> RecordBatch {
        let rows = self.rows_below(cut);
        let rows = match rows.first() {
            Some(first) => vec![concat_batches(&first.schema(), &rows).unwrap()],
            None => Vec::new(),
        };
        fold_of(view).plain(&rows).await.unwrap()
    }

    /// The finished rows of a view in a generation.
    pub(crate) async fn finished(
        &self,
        generations: &Generations,
        generation: &Generation,
        view: &View,
    ) -> Result<RecordBatch, GenerationError> {
        let fold = fold_of(view);
        let partials = generations.partials(generation, &view.id, &fold).await?.unwrap();
        let partials: Vec<_> = partials.iter().map(|(_, partial)| partial.clone()).collect();
        Ok(fold.finish(&partials).await.unwrap())
    }

    /// Every view of `generation`, read with nothing in memory, gives the answer of plain SQL at its cut.
    pub(crate) async fn agrees(&self, generation: &Generation) {
        let generations = self.fresh_generations();
        for view in self.catalog.views() {
            let finished = self.finished(&generations, generation, view).await.unwrap();
            let plain = self.plain(view, &generation.cut).await;
            assert_eq!(finished, plain, "{} at generation {}", view.name, generation.number.0);
        }
    }

    pub(crate) async fn paths(&self, folder: &str) -> Vec<String> {
        let listing = self.store.list(Some(&Path::from(folder)));
        let objects: Vec<_> = listing.try_collect().await.unwrap();
        let mut paths: Vec<String> = objects.into_iter().map(|object| object.location.to_string()).collect();
        paths.sort_unstable();
        paths
    }
}

pub(crate) fn next_of(cut: &Cut, partition: &TopicPartition) -> Offset {
    cut.of(partition).map_or(Offset(0), |cut| cut.next)
}

pub(crate) fn files_of(generation: &Generation) -> Vec<String> {
    let views = generation.views.values();
    views
        .flat_map(|view| &view.dates)
        .map(|file| file.path.clone())
        .collect()
}

/// A draft of nothing that may follow `base`.
pub(crate) fn empty_draft(base: Option<&Generation>) -> Draft {
    Draft {
        attempt: Uuid::new_v4(),
        cut: base.map(|base| base.cut.clone()).unwrap_or_default(),
        views: Default::default(),
        failed: Default::default(),
        kind: RunKind::Incremental,
        based_on: base.map(|base| base.number),
    }
}

pub(crate) fn number(number: u64) -> GenerationNumber {
    GenerationNumber(number)
}
