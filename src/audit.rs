//! The audit: a view recomputed from the raw log up to exactly the answer's coverage, compared cell by cell.
//!
//! The answer goes its ordinary way: close the seam, gather the partials of both halves, merge, finish. The other side
//! shares none of that: it reads rows (the archive as far as it reaches, behind it the log) and runs the view's plain
//! SQL over them in one ordinary aggregation. When they differ, each part of the answer is compared with the rows that
//! it stands for, so that the audit can say not only which key is wrong but where it went wrong: a date partial of the
//! generation, a segment of the speed layer, or neither, which leaves the merge.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::{gt_eq, lt};
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use chrono::NaiveDate;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionConfig;
use foldline_batch_layer::Generations;
use foldline_event_log::{Offset, Progress, StreamReader, TopicPartition};
use foldline_serving_layer::merge::{self, Keys};
use foldline_serving_layer::seam::{self, Seam};
use foldline_serving_layer::{AnswerCoverage, finish};
use foldline_sql::{Class, Fold, Partial, Stream, View, ViewKind, session_context, system_columns};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::platform::Core;

/// Doubles of an answer of class rounding may differ by this part of their size.
const ROUNDING: f64 = 1e-9;
/// Raw bytes read from the log at once.
const READ_BYTES: usize = 4 << 20;
/// The log holds what the answer covers: waiting for it this long without getting it is an error.
const READ_WAIT: Duration = Duration::from_secs(10);

/// What the audit of one view found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// Name of the view.
    pub(crate) view: String,
    /// Whether the answer equals plain SQL over the raw log.
    pub(crate) equal: bool,
    /// Rows of the answer.
    pub(crate) rows: u64,
    /// Raw rows that it was recomputed from.
    pub(crate) raw_rows: u64,
    /// What the answer covers.
    pub(crate) coverage: Option<AnswerCoverage>,
    /// The first difference, or the error that ended the audit.
    pub(crate) difference: Option<String>,
    /// Where it went wrong, with its coverage.
    pub(crate) part: Option<String>,
}

/// Audits `view`; `progress` is told the raw rows read so far. An error on the way is a finding too: what cannot be
/// read is not right.
pub(crate) async fn audit(core: &Core, view: &View, progress: &(dyn Fn(u64) + Send + Sync)) -> Finding {
    let outcome = match &view.kind {
        ViewKind::Fold(fold) => audit_fold(core, view, fold, progress).await,
        ViewKind::Derived { sql } => audit_derived(core, view, sql, progress).await,
    };
    outcome.unwrap_or_else(|error| Finding {
        view: view.name.clone(),
        equal: false,
        rows: 0,
        raw_rows: 0,
        coverage: None,
        difference: Some(crate::failure::sentence(&error)),
        part: None,
    })
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
    fold: &Fold,
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
    sql: &str,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> anyhow::Result<Finding> {
    let mut bases = Vec::new();
    bases_of(core, view, &mut bases);
    let streams: Vec<&str> = bases
        .iter()
        .filter_map(|base| Some(fold_of(base)?.stream().name.as_str()))
        .collect();
    let (seam, generations) = close(core, &streams).await?;
    let (answers, plains) = (
        session_context(SessionConfig::new()),
        session_context(SessionConfig::new()),
    );
    let (mut raw_rows, mut different) = (0, None);
    for base in &bases {
        let Some(fold) = fold_of(base) else {
            let ViewKind::Derived { sql } = &base.kind else {
                continue;
            };
            for session in [&answers, &plains] {
                let frame = session
                    .sql(sql)
                    .await
                    .with_context(|| format!("cannot plan view \"{}\"", base.name))?;
                session.register_table(base.name.as_str(), frame.into_view())?;
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
        for (session, rows) in [(&answers, sides.answer), (&plains, sides.plain)] {
            let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
            session.register_table(base.name.as_str(), Arc::new(table))?;
        }
    }
    let answer = in_order(answers.sql(sql).await?.collect().await?, &view.schema)?;
    let plain = in_order(plains.sql(sql).await?.collect().await?, &view.schema)?;
    let keys: Vec<usize> = (0..answer.num_columns()).collect();
    let difference = first_difference(view.class, &keys, &answer, &plain)?;
    let part = difference
        .as_ref()
        .map(|_| different.unwrap_or_else(|| "its own SQL".to_owned()));
    Ok(finding(core, view, &seam, &answer, raw_rows, difference, part))
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
        equal: difference.is_none(),
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

fn fold_of(view: &View) -> Option<&Fold> {
    match &view.kind {
        ViewKind::Fold(fold) => Some(fold),
        ViewKind::Derived { .. } => None,
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
    let speed = core
        .speed
        .as_ref()
        .context("the audit needs the speed layer, and this foldline runs without it")?;
    let seam = seam::close(&readable, &speed.snapshot(), &places)?;
    Ok((seam, generations))
}

async fn both_sides(
    core: &Core,
    view: &View,
    fold: &Fold,
    seam: Seam,
    generations: Generations,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> anyhow::Result<Sides> {
    let partials = merge::gather(view, fold, &seam, &generations, &Keys::all()).await?;
    let answer = finish::finish(view, fold, &partials, seam.as_of_topic(&fold.stream().topic)).await?;
    drop(partials);
    let mut rows = Vec::new();
    let mut raw_rows = 0;
    for (partition, closed) in &seam.partitions {
        if partition.topic != fold.stream().topic {
            continue;
        }
        let read = raw(
            core,
            fold,
            partition,
            closed.origin..closed.until,
            |batch: &RecordBatch| {
                raw_rows += batch.num_rows() as u64;
                progress(raw_rows);
            },
        );
        rows.extend(read.await?.into_iter().map(|(_, batch)| batch));
    }
    let plain = fold.plain(&rows).await?;
    let plain = finish::retain(view, plain, seam.as_of_topic(&fold.stream().topic))?;
    Ok(Sides {
        seam,
        generations,
        answer,
        plain,
        raw_rows,
    })
}

/// The rows of `partition` within `offsets`, from the archive as far as it reaches and from the log behind it; archived
/// ones with their date.
async fn raw(
    core: &Core,
    fold: &Fold,
    partition: &TopicPartition,
    offsets: Range<Offset>,
    mut on_batch: impl FnMut(&RecordBatch),
) -> anyhow::Result<Vec<(Option<NaiveDate>, RecordBatch)>> {
    let stream = fold.stream();
    let mut columns = fold.input_columns().to_vec();
    if !columns.iter().any(|column| column == system_columns::OFFSET) {
        columns.push(system_columns::OFFSET.to_owned());
    }
    let mut rows = Vec::new();
    let resume = core.archive.resume(partition).await?;
    let resume = resume.with_context(|| format!("the archive does not know {partition}"))?;
    let archived = offsets.start..resume.next.min(offsets.end);
    if archived.start < archived.end {
        let mut batches = core.archive.rows(stream, partition, archived, &columns);
        while let Some((date, batch)) = batches.try_next().await? {
            let batch = only(&batch, &columns)?;
            on_batch(&batch);
            rows.push((Some(date), batch));
        }
    }
    if resume.next < offsets.end {
        for batch in logged(core, stream, partition, resume, offsets, &columns).await? {
            on_batch(&batch);
            rows.push((None, batch));
        }
    }
    Ok(rows)
}

/// Rows of the log behind the archive, within `offsets`.
async fn logged(
    core: &Core,
    stream: &Arc<Stream>,
    partition: &TopicPartition,
    resume: foldline_event_log::ReaderStart,
    offsets: Range<Offset>,
    columns: &[String],
) -> anyhow::Result<Vec<RecordBatch>> {
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
    let mut rows = Vec::new();
    loop {
        match reader.next(READ_BYTES, READ_WAIT).await? {
            Progress::Batch(batch) => {
                let done = batch.offsets.end >= offsets.end;
                rows.push(within(&only(&batch.rows, columns)?, &offsets)?);
                if done {
                    return Ok(rows);
                }
            }
            Progress::End { end, .. } if end < offsets.end => {
                bail!(
                    "the log of {partition} ends at {end}, before {} that the answer covers",
                    offsets.end
                )
            }
            // Only holes are left up to the answer's end.
            Progress::End { .. } => return Ok(rows),
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
async fn wrong_part(core: &Core, view: &View, fold: &Fold, sides: &Sides) -> anyhow::Result<String> {
    if let Some(part) = wrong_date(core, view, fold, sides).await? {
        return Ok(part);
    }
    for (partition, closed) in &sides.seam.partitions {
        for segment in &closed.chain {
            let rows = raw(core, fold, partition, segment.offsets.clone(), |_| {}).await?;
            let rows: Result<Vec<RecordBatch>, _> =
                rows.iter().map(|(_, batch)| within(batch, &segment.offsets)).collect();
            let partials = segment.views.get(&view.id).cloned().unwrap_or_default();
            if let Some(difference) = part_difference(view, fold, &partials, &rows?).await? {
                return Ok(format!(
                    "segment {}..{} of {partition}: {difference}",
                    segment.offsets.start, segment.offsets.end
                ));
            }
        }
    }
    Ok("every date partial and every segment equals its rows: what is wrong is how they are put together".to_owned())
}

async fn wrong_date(core: &Core, view: &View, fold: &Fold, sides: &Sides) -> anyhow::Result<Option<String>> {
    let Some(generation) = &sides.seam.generation else {
        return Ok(None);
    };
    let Some(batch_view) = generation.views.get(&view.id) else {
        return Ok(None);
    };
    let mut by_date: BTreeMap<NaiveDate, Vec<RecordBatch>> = BTreeMap::new();
    for (partition, closed) in &sides.seam.partitions {
        let below = closed.origin..closed.cut;
        for (date, batch) in raw(core, fold, partition, below.clone(), |_| {}).await? {
            let date = date.with_context(|| format!("{partition} is cut at {} but not archived so far", closed.cut))?;
            by_date.entry(date).or_default().push(within(&batch, &below)?);
        }
    }
    let partials = sides
        .generations
        .partials(generation, &view.id, fold)
        .await?
        .unwrap_or_default();
    let partials: BTreeMap<NaiveDate, Partial> = partials.iter().cloned().collect();
    let dates: std::collections::BTreeSet<NaiveDate> = by_date.keys().chain(partials.keys()).copied().collect();
    for date in dates {
        let rows = by_date.remove(&date).unwrap_or_default();
        let partial: Vec<Partial> = partials.get(&date).cloned().into_iter().collect();
        if let Some(difference) = part_difference(view, fold, &partial, &rows).await? {
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

/// How the partials of a part differ from the rows that it stands for.
async fn part_difference(
    view: &View,
    fold: &Fold,
    partials: &[Partial],
    rows: &[RecordBatch],
) -> anyhow::Result<Option<String>> {
    let answer = fold.finish(partials).await?;
    let plain = fold.plain(rows).await?;
    first_difference(view.class, &key_columns(fold), &answer, &plain)
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
