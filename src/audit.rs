//! The audit: a view recomputed from the raw log up to exactly the answer's coverage, compared cell by cell.
//!
//! The answer goes its ordinary way: close the seam, gather the partials of both halves, merge, finish. The other side
//! shares none of that: it reads rows (the archive as far as it reaches, behind it the log) and runs the view's plain
//! SQL over them in one ordinary aggregation. It takes the rows as they were decoded and judged when they were archived:
//! that decoding and judging are right is not what it proves. When they differ, each part of the answer is compared with the rows that
//! it stands for, so that the audit can say not only which key is wrong but where it went wrong: a date partial of the
//! generation, a segment of the speed layer, or neither, which leaves the merge.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::{gt_eq, lt};
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use chrono::NaiveDate;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use foldline_batch_layer::Generations;
use foldline_event_log::{Offset, Progress, StreamReader, TopicPartition};
use foldline_serving_layer::merge::{self, Keys, MergeError};
use foldline_serving_layer::seam::{self, Seam, SeamError};
use foldline_serving_layer::{AnswerCoverage, finish};
use foldline_speed_layer::Partials;
use foldline_speed_layer::shared::{StoreError, StoredPartials};
use foldline_sql::{
    Class, Derived, Fold, FoldError, KeyLookup, Partial, Stream, View, ViewKind, session_context, system_columns,
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::platform::Core;

/// Doubles of an answer of class rounding may differ by this part of their size.
const ROUNDING: f64 = 1e-9;
/// Batches of rows that wait to be aggregated.
const BATCHES_AHEAD: usize = 2;
/// Raw bytes read from the log at once.
const READ_BYTES: usize = 4 << 20;
/// The log holds what the answer covers: waiting for it this long without getting it is an error.
const READ_WAIT: Duration = Duration::from_secs(10);

/// What the audit of one view found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// Name of the view.
    pub(crate) view: String,
    /// Whether the answer equals plain SQL over the raw log; `None`: there is no answer now that could be compared.
    pub(crate) equal: Option<bool>,
    /// Rows of the answer.
    pub(crate) rows: u64,
    /// Raw rows that it was recomputed from.
    pub(crate) raw_rows: u64,
    /// What the answer covers.
    pub(crate) coverage: Option<AnswerCoverage>,
    /// The first difference, the error that ended the audit, or why there is nothing to compare.
    pub(crate) difference: Option<String>,
    /// Where it went wrong, with its coverage.
    pub(crate) part: Option<String>,
}

/// Audits `view`; `progress` is told the raw rows read so far. An error on the way is a finding too: what cannot be
/// read is not right. A view that is refused to everybody now, because it is building or speed has not caught up with
/// batch, is neither right nor wrong; nor is one that does not fit in `serve.query_memory_bytes`.
pub(crate) async fn audit(core: &Core, view: &View, progress: &(dyn Fn(u64) + Send + Sync)) -> Finding {
    let outcome = match &view.kind {
        ViewKind::Fold(fold) => audit_fold(core, view, fold, progress).await,
        ViewKind::Derived(above) => audit_derived(core, view, above, progress).await,
    };
    outcome.unwrap_or_else(|error| Finding {
        view: view.name.clone(),
        equal: (!not_comparable(&error)).then_some(false),
        rows: 0,
        raw_rows: 0,
        coverage: None,
        difference: Some(crate::failure::sentence(&error)),
        part: None,
    })
}

fn not_comparable(error: &anyhow::Error) -> bool {
    let building = matches!(error.downcast_ref(), Some(MergeError::Building { .. }));
    let too_large = match error.downcast_ref() {
        Some(FoldError::Run { source, .. }) => matches!(source.find_root(), DataFusionError::ResourcesExhausted(_)),
        _ => false,
    };
    let is_no_room = |error: &StoreError| matches!(error, StoreError::NoRoom { .. });
    let no_room = match error.downcast_ref() {
        Some(MergeError::Speed { source, .. }) => is_no_room(source),
        _ => error.downcast_ref().is_some_and(is_no_room),
    };
    building || too_large || no_room || error.downcast_ref::<SeamError>().is_some()
}

/// One side and the other, over the same coverage.
struct Sides {
    seam: Seam,
    generations: Generations,
    answer: RecordBatch,
    plain: RecordBatch,
    raw_rows: u64,
}

async fn audit_fold(
    core: &Core,
    view: &View,
    fold: &Arc<Fold>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> anyhow::Result<Finding> {
    let (seam, generations) = close(core, &[fold.stream().name.as_str()]).await?;
    let sides = both_sides(core, view, fold, seam, generations, progress).await?;
    let difference = first_difference(view.class, &key_columns(fold), &sides.answer, &sides.plain)?;
    let part = match &difference {
        Some(_) => Some(wrong_part(core, view, fold, &sides).await?),
        None => None,
    };
    Ok(finding(
        core,
        view,
        &sides.seam,
        &sides.answer,
        sides.raw_rows,
        difference,
        part,
    ))
}

/// A view over views: its SQL over the answers of its bases, and over its bases recomputed from the raw log, all at one
/// seam.
async fn audit_derived(
    core: &Core,
    view: &View,
    above: &Derived,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> anyhow::Result<Finding> {
    let mut bases = Vec::new();
    bases_of(core, view, &mut bases);
    let streams: Vec<&str> = bases
        .iter()
        .filter_map(|base| Some(fold_of(base)?.stream().name.as_str()))
        .collect();
    let (seam, generations) = close(core, &streams).await?;
    let session = session_context(SessionConfig::new());
    let (mut answers, mut plains) = (BTreeMap::new(), BTreeMap::new());
    let (mut raw_rows, mut different) = (0, None);
    for base in &bases {
        let Some(fold) = fold_of(base) else {
            let ViewKind::Derived(above) = &base.kind else {
                continue;
            };
            for tables in [&mut answers, &mut plains] {
                let rows = derived(&session, base, above, tables, &seam).await?;
                tables.insert(base.name.clone(), rows);
            }
            continue;
        };
        let before = raw_rows;
        let told = |rows| progress(before + rows);
        let sides = both_sides(core, base, fold, seam.clone(), generations.clone(), &told).await?;
        raw_rows += sides.raw_rows;
        if different.is_none()
            && first_difference(base.class, &key_columns(fold), &sides.answer, &sides.plain)?.is_some()
        {
            different = Some(format!("the view \"{}\" that it reads", base.name));
        }
        answers.insert(base.name.clone(), sides.answer);
        plains.insert(base.name.clone(), sides.plain);
    }
    let answer = derived(&session, view, above, &answers, &seam).await?;
    let plain = derived(&session, view, above, &plains, &seam).await?;
    let keys: Vec<usize> = (0..answer.num_columns()).collect();
    let difference = first_difference(view.class, &keys, &answer, &plain)?;
    let part = difference
        .as_ref()
        .map(|_| different.unwrap_or_else(|| "its own SQL".to_owned()));
    Ok(finding(core, view, &seam, &answer, raw_rows, difference, part))
}

/// The rows of a view over `tables`, in an order of their own, without what its retention hides.
async fn derived(
    session: &SessionContext,
    view: &View,
    above: &Derived,
    tables: &BTreeMap<String, RecordBatch>,
    seam: &Seam,
) -> anyhow::Result<RecordBatch> {
    let plan = above.over(&mut |name| {
        let rows = tables
            .get(name)
            .context("a view stands after the views that it reads")?;
        let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?;
        let scan = LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(Arc::new(table)), None)?;
        Ok::<_, anyhow::Error>(scan.build()?)
    });
    let plan = plan.with_context(|| format!("cannot plan view \"{}\"", view.name))?;
    let frame = DataFrame::new(session.state(), plan);
    let rows = in_order(frame.collect().await?, &view.schema)?;
    Ok(finish::retain(view, rows, seam.as_of())?)
}

fn finding(
    core: &Core,
    view: &View,
    seam: &Seam,
    answer: &RecordBatch,
    raw_rows: u64,
    difference: Option<String>,
    part: Option<String>,
) -> Finding {
    Finding {
        view: view.name.clone(),
        equal: Some(difference.is_none()),
        rows: answer.num_rows() as u64,
        raw_rows,
        coverage: Some(AnswerCoverage::of(seam, view.class, core.clock.now_ms())),
        difference,
        part,
    }
}

/// The views below `view`, each after those that it reads.
fn bases_of(core: &Core, view: &View, bases: &mut Vec<Arc<View>>) {
    for name in &view.reads {
        if let Some(base) = core.catalog.view(name)
            && !bases.iter().any(|known| known.name == base.name)
        {
            bases_of(core, base, bases);
            bases.push(Arc::clone(base));
        }
    }
}

fn fold_of(view: &View) -> Option<&Arc<Fold>> {
    match &view.kind {
        ViewKind::Fold(fold) => Some(fold),
        ViewKind::Derived(_) => None,
    }
}

/// Columns of the answer that are the key, unchanged.
fn key_columns(fold: &Fold) -> Vec<usize> {
    let columns = fold.output_schema().fields().iter().enumerate();
    columns
        .filter(|(_, field)| fold.key_of_output(field.name()).is_some())
        .map(|(at, _)| at)
        .collect()
}

/// Closes the seam over `streams` with fresh eyes: nothing that serving keeps in memory of the batch half is trusted.
async fn close(core: &Core, streams: &[&str]) -> anyhow::Result<(Seam, Generations)> {
    let generations = core.fresh_generations()?;
    generations.refresh().await?;
    let places: Vec<_> = core
        .served_topics()
        .filter(|topic| streams.contains(&topic.stream.name.as_str()))
        .flat_map(|topic| topic.places())
        .collect();
    let readable = generations.readable();
    if core.speed.is_none() && core.shared.is_none() {
        bail!("the audit needs the speed layer, and this foldline runs without it");
    }
    let seam = seam::close(&readable, &core.realtime.snapshot(), &places)?;
    Ok((seam, generations))
}

async fn both_sides(
    core: &Core,
    view: &View,
    fold: &Arc<Fold>,
    seam: Seam,
    generations: Generations,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> anyhow::Result<Sides> {
    let room = core.serving.room();
    let partials = merge::gather(view, fold, &seam, &generations, &Keys::all(), &room).await?;
    let answer = finish::finish(view, fold, &partials, seam.as_of_topic(&fold.stream().topic)).await?;
    drop((partials, room));
    let raw_rows = AtomicU64::new(0);
    let (rows, plain) = plain(core, fold);
    let feed = async {
        for (partition, closed) in &seam.partitions {
            if partition.topic == fold.stream().topic {
                let told = |count: u64| progress(raw_rows.fetch_add(count, Ordering::Relaxed) + count);
                raw(core, fold, partition, closed.origin..closed.until, &rows, &told).await?;
            }
        }
        drop(rows);
        Ok(())
    };
    let plain = fed(feed, plain).await?;
    let raw_rows = raw_rows.into_inner();
    let plain = finish::retain(view, plain, seam.as_of_topic(&fold.stream().topic))?;
    Ok(Sides {
        seam,
        generations,
        answer,
        plain,
        raw_rows,
    })
}

/// Plain SQL over the rows that are sent, while they are sent: the whole log is never in memory. What the aggregation
/// holds is bounded as queries are; what is more goes to temporary files.
fn plain<'a>(
    core: &Core,
    fold: &'a Arc<Fold>,
) -> (
    mpsc::Sender<RecordBatch>,
    impl Future<Output = anyhow::Result<RecordBatch>> + use<'a>,
) {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(core.settings.serve.query_memory_bytes, 1.0);
    let rows = futures::stream::unfold(receiver, |mut rows: mpsc::Receiver<RecordBatch>| async {
        Some((rows.recv().await?, rows))
    });
    let plain = async move { Ok(fold.plain_stream(rows, runtime.build_arc()?).await?) };
    (sender, plain)
}

/// What `plain` says once `feed` has sent all. Rows that cannot be read end early what is sent, so that error counts first.
async fn fed(
    feed: impl Future<Output = anyhow::Result<()>>,
    plain: impl Future<Output = anyhow::Result<RecordBatch>>,
) -> anyhow::Result<RecordBatch> {
    let (fed, plain) = tokio::join!(feed, plain);
    fed?;
    plain
}

/// The columns that `fold` reads, and the offset.
fn columns_of(fold: &Fold) -> Vec<String> {
    let mut columns = fold.input_columns().to_vec();
    if !columns.iter().any(|column| column == system_columns::OFFSET) {
        columns.push(system_columns::OFFSET.to_owned());
    }
    columns
}

/// Sends the rows of `partition` within `offsets`, from the archive as far as it reaches and from the log behind it.
async fn raw(
    core: &Core,
    fold: &Fold,
    partition: &TopicPartition,
    offsets: Range<Offset>,
    rows: &mpsc::Sender<RecordBatch>,
    told: &(dyn Fn(u64) + Send + Sync),
) -> anyhow::Result<()> {
    let stream = fold.stream();
    let columns = columns_of(fold);
    let resume = core.archive.resume(partition).await?;
    let resume = resume.with_context(|| format!("the archive does not know {partition}"))?;
    let archived = offsets.start..resume.next.min(offsets.end);
    if archived.start < archived.end {
        let mut batches = core.archive.rows(stream, partition, archived, &columns);
        while let Some((_, batch)) = batches.try_next().await? {
            told(batch.num_rows() as u64);
            if rows.send(only(&batch, &columns)?).await.is_err() {
                // Whoever reads them has failed, and says why.
                return Ok(());
            }
        }
    }
    if resume.next < offsets.end {
        logged(core, stream, partition, resume, offsets, &columns, rows, told).await?;
    }
    Ok(())
}

/// Sends the rows of the log behind the archive, within `offsets`.
#[allow(
    clippy::too_many_arguments,
    reason = "every one is a different thing, named by its type"
)]
async fn logged(
    core: &Core,
    stream: &Arc<Stream>,
    partition: &TopicPartition,
    resume: foldline_event_log::ReaderStart,
    offsets: Range<Offset>,
    columns: &[String],
    rows: &mpsc::Sender<RecordBatch>,
    told: &(dyn Fn(u64) + Send + Sync),
) -> anyhow::Result<()> {
    let declared: Vec<String> = stream
        .columns
        .iter()
        .map(|column| column.name.clone())
        .filter(|name| columns.contains(name))
        .collect();
    let cut_every_ms = core.settings.speed.cut_every_ms;
    let (log, partition_) = (Arc::clone(&core.log), partition.clone());
    let mut reader = StreamReader::open(
        log,
        Arc::clone(stream),
        partition_,
        resume,
        &declared,
        false,
        cut_every_ms,
        &core.archive,
    )
    .await?;
    loop {
        match reader.next(READ_BYTES, READ_WAIT).await? {
            Progress::Batch(batch) => {
                let done = batch.offsets.end >= offsets.end;
                let batch = within(&only(&batch.rows, columns)?, &offsets)?;
                told(batch.num_rows() as u64);
                if rows.send(batch).await.is_err() || done {
                    return Ok(());
                }
            }
            Progress::End { end, .. } if end < offsets.end => {
                bail!(
                    "the log of {partition} ends at {end}, before {} that the answer covers",
                    offsets.end
                )
            }
            // Only holes are left up to the answer's end.
            Progress::End { .. } => return Ok(()),
        }
    }
}

fn only(batch: &RecordBatch, columns: &[String]) -> anyhow::Result<RecordBatch> {
    let positions: Result<Vec<usize>, _> = columns.iter().map(|column| batch.schema().index_of(column)).collect();
    Ok(batch.project(&positions?)?)
}

fn within(batch: &RecordBatch, offsets: &Range<Offset>) -> anyhow::Result<RecordBatch> {
    let column = batch
        .column_by_name(system_columns::OFFSET)
        .context("rows without offsets")?;
    let column = column.as_primitive::<Int64Type>();
    let bound = |offset: Offset| i64::try_from(offset.0).map(Int64Array::new_scalar);
    let chosen = and(
        &gt_eq(column, &bound(offsets.start)?)?,
        &lt(column, &bound(offsets.end)?)?,
    )?;
    Ok(filter_record_batch(batch, &chosen)?)
}

/// Which part of the answer is not what its rows give: a date partial, or a segment.
async fn wrong_part(core: &Core, view: &View, fold: &Arc<Fold>, sides: &Sides) -> anyhow::Result<String> {
    if let Some(part) = wrong_date(core, view, fold, sides).await? {
        return Ok(part);
    }
    for (partition, closed) in &sides.seam.partitions {
        for segment in &closed.chain {
            let (rows, plain) = plain(core, fold);
            let feed = async {
                raw(core, fold, partition, segment.offsets.clone(), &rows, &|_| {}).await?;
                drop(rows);
                Ok(())
            };
            let plain = fed(feed, plain).await?;
            // Until the partials are used up.
            let room = core.serving.room();
            let partials = match segment.views.get(&view.id) {
                Some(Partials::Held(partials)) => partials.clone(),
                Some(Partials::Stored(stored)) => {
                    StoredPartials::fetch(&[Arc::clone(stored)], &[KeyLookup::default()], &room).await?
                }
                None => Vec::new(),
            };
            if let Some(difference) = part_difference(view, fold, &partials, &plain).await? {
                return Ok(format!(
                    "segment {}..{} of {partition}: {difference}",
                    segment.offsets.start, segment.offsets.end
                ));
            }
        }
    }
    Ok("every date partial and every segment equals its rows: what is wrong is how they are put together".to_owned())
}

async fn wrong_date(core: &Core, view: &View, fold: &Arc<Fold>, sides: &Sides) -> anyhow::Result<Option<String>> {
    let Some(generation) = &sides.seam.generation else {
        return Ok(None);
    };
    let Some(batch_view) = generation.views.get(&view.id) else {
        return Ok(None);
    };
    let mut dates = BTreeSet::new();
    for partition in sides.seam.partitions.keys() {
        let commits = core.archive.commits(partition).await?;
        dates.extend(
            commits
                .iter()
                .flat_map(|commit| &commit.files)
                .filter_map(|file| file.date),
        );
    }
    let partials = sides
        .generations
        .partials(generation, &view.id, fold)
        .await?
        .unwrap_or_default();
    let partials: BTreeMap<NaiveDate, Partial> = partials.iter().cloned().collect();
    dates.extend(partials.keys());
    let columns = columns_of(fold);
    for date in dates {
        let (rows, plain) = plain(core, fold);
        let feed = async {
            for (partition, closed) in &sides.seam.partitions {
                let below = closed.origin..closed.cut;
                let archive = &core.archive;
                let mut batches = archive.rows_of_date(fold.stream(), partition, below, &columns, date);
                while let Some(batch) = batches.try_next().await? {
                    if rows.send(only(&batch, &columns)?).await.is_err() {
                        return Ok(());
                    }
                }
            }
            drop(rows);
            Ok(())
        };
        let plain = fed(feed, plain).await?;
        let partial: Vec<Partial> = partials.get(&date).cloned().into_iter().collect();
        if let Some(difference) = part_difference(view, fold, &partial, &plain).await? {
            let file = batch_view.dates.iter().find(|stored| stored.date == date);
            let path = file.map_or("no file", |stored| stored.path.as_str());
            return Ok(Some(format!(
                "date {date} of generation {} ({path}): {difference}",
                generation.number.0
            )));
        }
    }
    Ok(None)
}

/// How the partials of a part differ from plain SQL over the rows that it stands for.
async fn part_difference(
    view: &View,
    fold: &Fold,
    partials: &[Partial],
    plain: &RecordBatch,
) -> anyhow::Result<Option<String>> {
    let answer = fold.finish(partials).await?;
    first_difference(view.class, &key_columns(fold), &answer, plain)
}

/// The first row, in order, that `answer` and `plain` do not share; both are in key order.
fn first_difference(
    class: Class,
    keys: &[usize],
    answer: &RecordBatch,
    plain: &RecordBatch,
) -> anyhow::Result<Option<String>> {
    let shared = answer.num_rows().min(plain.num_rows());
    let mut first = None;
    // Keys first: where they differ, the other columns of the row say nothing.
    let others = (0..answer.num_columns()).filter(|column| !keys.contains(column));
    for column in keys.iter().copied().chain(others) {
        let until = first.map_or(shared, |(row, _)| row);
        let (one, other) = (
            answer.column(column).slice(0, until),
            plain.column(column).slice(0, until),
        );
        if let Some(row) = first_unequal(class, &one, &other) {
            first = Some((row, column));
        }
    }
    let Some((row, column)) = first else {
        return Ok(match answer.num_rows().cmp(&plain.num_rows()) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Less => Some(format!("{} is missing in the answer", row_name(keys, plain, shared)?)),
            std::cmp::Ordering::Greater => Some(format!(
                "{} is in the answer, and not in the raw log",
                row_name(keys, answer, shared)?
            )),
        });
    };
    if keys.contains(&column) {
        return Ok(Some(match key_order(keys, answer, plain, row)? {
            std::cmp::Ordering::Less => {
                format!(
                    "{} is in the answer, and not in the raw log",
                    row_name(keys, answer, row)?
                )
            }
            _ => format!("{} is missing in the answer", row_name(keys, plain, row)?),
        }));
    }
    Ok(Some(format!(
        "{}: column {} is {} in the answer and {} over the raw log",
        row_name(keys, answer, row)?,
        answer.schema().field(column).name(),
        cell(answer.column(column), row)?,
        cell(plain.column(column), row)?,
    )))
}

fn first_unequal(class: Class, one: &ArrayRef, other: &ArrayRef) -> Option<usize> {
    if one == other {
        return None;
    }
    let rounds = class == Class::Rounding && *one.data_type() == DataType::Float64;
    (0..one.len()).find(|row| {
        if rounds && one.is_valid(*row) && other.is_valid(*row) {
            let value = |array: &ArrayRef| array.as_primitive::<Float64Type>().value(*row);
            return !nearly_equal(value(one), value(other));
        }
        one.slice(*row, 1) != other.slice(*row, 1)
    })
}

fn nearly_equal(one: f64, other: f64) -> bool {
    one.total_cmp(&other).is_eq()
        || (one.is_nan() && other.is_nan())
        || (one - other).abs() <= ROUNDING * one.abs().max(other.abs())
}

fn key_order(
    keys: &[usize],
    answer: &RecordBatch,
    plain: &RecordBatch,
    row: usize,
) -> anyhow::Result<std::cmp::Ordering> {
    let fields = keys
        .iter()
        .map(|key| SortField::new(answer.column(*key).data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let columns =
        |batch: &RecordBatch| -> Vec<ArrayRef> { keys.iter().map(|key| batch.column(*key).slice(row, 1)).collect() };
    let (one, other) = (
        converter.convert_columns(&columns(answer))?,
        converter.convert_columns(&columns(plain))?,
    );
    Ok(one.row(0).cmp(&other.row(0)))
}

fn row_name(keys: &[usize], batch: &RecordBatch, row: usize) -> anyhow::Result<String> {
    if keys.is_empty() {
        return Ok(format!("row {row}"));
    }
    let schema = batch.schema();
    let cells: Result<Vec<String>, _> = keys
        .iter()
        .map(|key| {
            Ok::<_, anyhow::Error>(format!(
                "{} = {}",
                schema.field(*key).name(),
                cell(batch.column(*key), row)?
            ))
        })
        .collect();
    Ok(format!("key ({})", cells?.join(", ")))
}

fn cell(column: &ArrayRef, row: usize) -> anyhow::Result<String> {
    if column.is_null(row) {
        return Ok("NULL".to_owned());
    }
    Ok(array_value_to_string(column, row)?)
}

/// The rows of a view over views, in an order of their own: by all columns.
fn in_order(batches: Vec<RecordBatch>, schema: &SchemaRef) -> anyhow::Result<RecordBatch> {
    let Some(first) = batches.first() else {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    };
    let all = arrow::compute::concat_batches(&first.schema(), &batches)?;
    let fields = all
        .columns()
        .iter()
        .map(|column| SortField::new(column.data_type().clone()));
    let rows = RowConverter::new(fields.collect())?.convert_columns(all.columns())?;
    let mut order: Vec<u32> = (0..u32::try_from(all.num_rows())?).collect();
    order.sort_by(|one, other| rows.row(*one as usize).cmp(&rows.row(*other as usize)));
    Ok(arrow::compute::take_record_batch(&all, &UInt32Array::from(order))?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn rows(keys: &[&str], counts: &[i64], averages: &[Option<f64>]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("product", DataType::Utf8, true),
            Field::new("reviews", DataType::Int64, true),
            Field::new("stars", DataType::Float64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(keys.to_vec())),
            Arc::new(Int64Array::from(counts.to_vec())),
            Arc::new(Float64Array::from(averages.to_vec())),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn difference(class: Class, answer: &RecordBatch, plain: &RecordBatch) -> Option<String> {
        first_difference(class, &[0], answer, plain).unwrap()
    }

    #[test]
    fn equal_rows_have_no_difference() {
        let one = rows(&["a", "b"], &[1, 2], &[Some(f64::NAN), None]);
        assert_eq!(difference(Class::Exact, &one, &one.clone()), None);
        let empty = rows(&[], &[], &[]);
        assert_eq!(difference(Class::Exact, &empty, &empty), None);
    }

    #[test]
    fn the_first_wrong_cell_is_named_with_both_values() {
        let answer = rows(&["a", "b", "c"], &[1, 2, 3], &[None, Some(4.0), None]);
        let plain = rows(&["a", "b", "c"], &[1, 2, 9], &[None, None, None]);
        assert_eq!(
            difference(Class::Exact, &answer, &plain).unwrap(),
            "key (product = b): column stars is 4.0 in the answer and NULL over the raw log"
        );
    }

    #[test]
    fn missing_and_surplus_keys_are_named() {
        let all = rows(&["a", "b", "c"], &[1, 2, 3], &[None, None, None]);
        let fewer = rows(&["a", "c"], &[1, 3], &[None, None]);
        assert_eq!(
            difference(Class::Exact, &fewer, &all).unwrap(),
            "key (product = b) is missing in the answer"
        );
        assert_eq!(
            difference(Class::Exact, &all, &fewer).unwrap(),
            "key (product = b) is in the answer, and not in the raw log"
        );
        let short = rows(&["a", "b"], &[1, 2], &[None, None]);
        assert_eq!(
            difference(Class::Exact, &short, &all).unwrap(),
            "key (product = c) is missing in the answer"
        );
    }

    #[test]
    fn only_rounding_may_round() {
        let one = rows(&["a"], &[1], &[Some(0.1 + 0.2)]);
        let other = rows(&["a"], &[1], &[Some(0.3)]);
        assert!(difference(Class::Exact, &one, &other).is_some());
        assert_eq!(difference(Class::Rounding, &one, &other), None);
        let far = rows(&["a"], &[1], &[Some(0.300_001)]);
        assert!(difference(Class::Rounding, &one, &far).is_some());
    }

    #[test]
    fn rows_of_derived_views_are_compared_in_any_order() {
        let one = rows(&["b", "a"], &[2, 1], &[None, None]);
        let other = rows(&["a", "b"], &[1, 2], &[None, None]);
        let schema = one.schema();
        assert_eq!(
            in_order(vec![one], &schema).unwrap(),
            in_order(vec![other], &schema).unwrap()
        );
    }
}
