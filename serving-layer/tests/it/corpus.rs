//! The corpus: every view of `tests/agreement/*.sql` answers as plain SQL does over the rows that count, wherever the log
//! is cut and however it is folded. A case is a file: see [`case`].
//!
//! | setting | does |
//! | --- | --- |
//! | `FOLDLINE_CORPUS=part` | only files with that in their names |
//! | `FOLDLINE_CORPUS_SEED=n` | another sample of cuts; it is printed with what fails |
//! | `FOLDLINE_SOAK` | many more cuts |
//! | `FOLDLINE_CORPUS_OUT=folder` | writes rows and merged answers there, for another engine to compare |

mod case;
mod choices;
mod events;
mod export;
mod generated;
mod grammar;
mod oracle;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use foldline_serving_layer::{Filter, Mode, Operator, ReadRequest};
use foldline_sql::{Catalog, Fold, FoldError, Partial, SourceFile, View, ViewKind};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::Semaphore;

use case::Case;
use oracle::{Answer, Logged, Said, answers};

use crate::agreement::{everything, one_batch};
use crate::platform::{ORIGIN, Platform};

/// A case that takes no event, or none that counts, checks little; these mean to.
const WITHOUT_ROWS: &str = "empty_";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_view_answers_as_plain_sql_does() {
    let wanted = std::env::var("FOLDLINE_CORPUS").unwrap_or_default();
    let seed = std::env::var("FOLDLINE_CORPUS_SEED").map_or(1, |seed| seed.parse().unwrap());
    let files = case::files(&case::folder());
    assert!(files.len() >= 150, "{} files", files.len());
    let wanted = files.into_iter().filter(|(name, _)| name.contains(&wanted));
    let at_once = Arc::new(Semaphore::new(std::thread::available_parallelism().unwrap().get()));
    let cases: Vec<_> = wanted
        .map(|(name, text)| {
            let (at_once, case) = (Arc::clone(&at_once), name.clone());
            let checked = async move {
                let _permit = at_once.acquire().await.unwrap();
                checked(Case::new(name, text), seed).await
            };
            (case, tokio::spawn(checked))
        })
        .collect();
    let mut failures = Vec::new();
    for (case, checked) in cases {
        match checked.await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => failures.push(failure),
            Err(panicked) => failures.push(format!("{case}: {panicked}")),
        }
    }
    assert!(
        failures.is_empty(),
        "{} cases, seed {seed}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

async fn checked(case: Case, seed: u64) -> Result<(), String> {
    let failed = |error: String| format!("{}: {error}", case.name);
    let file = SourceFile {
        name: format!("{}.sql", case.name),
        text: case.text.clone(),
    };
    let refused = Catalog::compile(&[file]).await.err().unwrap_or_default();
    if let Some(refusal) = refused.first() {
        return Err(failed(refusal.to_string()));
    }
    let platform = Platform::new(&case.text).await;
    let logged = Logged::new(&case, &platform.catalog);
    every_cut(&platform, &logged, seed).await.map_err(failed)?;
    every_layer(&case, &platform, &logged, seed).await.map_err(failed)
}

/// Each fold alone. Row by row in any order, cut behind every row: the two halves, each merged row by row and
/// through its stored form, are finished together. In batches, merged as a tree. And as the plain SQL of the audit, over rows
/// that stream by.
async fn every_cut(platform: &Platform, logged: &Logged, seed: u64) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    for view in platform.catalog.views_and_parts() {
        let ViewKind::Fold(fold) = &view.kind else { continue };
        let streams = platform.catalog.streams();
        let stream = streams
            .iter()
            .position(|stream| stream.name == fold.stream().name)
            .unwrap();
        let all = logged.rows(stream, &logged.untils(logged.arrivals.len()));
        let mut rows: Vec<RecordBatch> = (0..all.num_rows()).map(|row| all.slice(row, 1)).collect();
        rows.shuffle(&mut random);
        let error = |error: FoldError| format!("{}: {error:?}", view.name);
        let said = |answer: Result<RecordBatch, FoldError>| match answer {
            Ok(rows) => Ok(Answer::new(&rows, view.class)),
            Err(failure) => Err(error(failure)),
        };
        let plain = said(fold.plain(std::slice::from_ref(&all)).await);
        let batches = in_batches(&all, &mut random);
        let runtime = RuntimeEnvBuilder::new().build_arc().unwrap();
        let streamed = fold.plain_stream(futures::stream::iter(batches.clone()), runtime).await;
        Answer::compare(&said(streamed), &plain, &format!("{} streamed", view.name))?;
        let tree = merged_as_tree(fold, batches, &mut random).await.map_err(error)?;
        let answer = said(fold.finish(&tree).await);
        Answer::compare(&answer, &plain, &format!("{} in batches", view.name))?;
        let before = merged_one_by_one(fold, rows.iter()).await.map_err(error)?;
        let behind = merged_one_by_one(fold, rows.iter().rev()).await.map_err(error)?;
        for (cut, before) in before.iter().enumerate() {
            let mut halves = [before.clone(), behind[rows.len() - cut].clone()];
            halves.shuffle(&mut random);
            let answer = said(fold.finish(&halves).await);
            let what = format!("{} cut behind {cut} rows, folded alone", view.name);
            Answer::compare(&answer, &plain, &what)?;
        }
    }
    Ok(())
}

fn in_batches(rows: &RecordBatch, random: &mut StdRng) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    let mut from = 0;
    while from < rows.num_rows() {
        let length = random.random_range(1..=rows.num_rows() / 4 + 1);
        let length = length.min(rows.num_rows() - from);
        batches.push(rows.slice(from, length));
        from += length;
    }
    batches
}

/// The partials of `batches`, shuffled, some of them merged with each other at a time until three at most are left.
async fn merged_as_tree(
    fold: &Fold,
    batches: Vec<RecordBatch>,
    random: &mut StdRng,
) -> Result<Vec<Partial>, FoldError> {
    let mut partials = Vec::new();
    for batch in batches {
        partials.push(fold.partial(&batch).await?);
    }
    partials.shuffle(random);
    while partials.len() > 3 {
        let some = partials.split_off(partials.len() - random.random_range(2..=3));
        let merged = fold.merge(&some).await?;
        partials.insert(random.random_range(0..=partials.len()), merged);
    }
    Ok(partials)
}

/// What is merged of no row, of the first, of the first two, and so on.
async fn merged_one_by_one<'a>(
    fold: &Fold,
    rows: impl Iterator<Item = &'a RecordBatch>,
) -> Result<Vec<Partial>, FoldError> {
    let mut merged = vec![Partial::empty(fold)];
    for row in rows {
        let row = fold.partial(row).await?;
        let next = fold.merge(&[merged[merged.len() - 1].clone(), row]).await?;
        merged.push(Partial::decode(&next.encode()?, fold)?);
    }
    Ok(merged)
}

/// Speed alone; then generations and segments behind them: merged answers and those of batch alone.
async fn every_layer(case: &Case, platform: &Platform, logged: &Logged, seed: u64) -> Result<(), String> {
    let rounds = if std::env::var_os("FOLDLINE_SOAK").is_some() {
        60
    } else {
        3
    };
    let mut random = StdRng::seed_from_u64(seed);
    let ends = logged.untils(logged.arrivals.len());
    let expected = answers(case, &platform.catalog, logged, &ends).await;
    for (view, said) in &expected {
        match (said, case.fails.get(view)) {
            (Ok(_), None) => {}
            (Err(error), Some(reason)) if error.contains(reason) => {}
            (Err(error), _) => return Err(error.clone()),
            (Ok(_), Some(reason)) => return Err(format!("{view} does not fail with \"{reason}\"")),
        }
    }
    let empty = |said: &Said| said.as_ref().is_ok_and(Answer::is_empty);
    if !case.name.starts_with(WITHOUT_ROWS) && expected.values().all(empty) {
        return Err("no view has a row".to_owned());
    }
    let bounds = ends.iter().map(|(partition, end)| {
        let middle = random.random_range(ORIGIN..=*end);
        let mut bounds = vec![ORIGIN, middle, *end];
        bounds.dedup();
        (*partition, bounds)
    });
    platform.fold_speed(&logged.log, &bounds.collect(), &[]).await;
    agree(platform, Mode::Merged, &expected, "speed alone").await?;
    // Time goes on: what has come by the end of a round, and where batch has cut, never goes back. In the last round all
    // has come.
    let mut come: Vec<usize> = (1..rounds)
        .map(|_| random.random_range(0..=logged.arrivals.len()))
        .chain([logged.arrivals.len()])
        .collect();
    come.sort_unstable();
    let mut cuts = logged.untils(0);
    for (round, come) in (0..).zip(come) {
        let untils = logged.untils(come);
        for (partition, cut) in &mut cuts {
            *cut = match random.random_range(0..6) {
                0 => *cut,
                1 => untils[partition],
                _ => random.random_range(*cut..=untils[partition]),
            };
        }
        platform.seam_at(&logged.log, &cuts, &untils, seed + round).await;
        let context = format!("cut {cuts:?}, until {untils:?}");
        let merged = match untils == ends {
            true => None,
            false => Some(answers(case, &platform.catalog, logged, &untils).await),
        };
        agree(platform, Mode::Merged, merged.as_ref().unwrap_or(&expected), &context).await?;
        let batch = answers(case, &platform.catalog, logged, &cuts).await;
        agree(platform, Mode::BatchOnly, &batch, &context).await?;
    }
    match std::env::var_os("FOLDLINE_CORPUS_OUT") {
        Some(folder) => export::export(case, platform, logged, &std::path::Path::new(&folder).join(&case.name)).await,
        None => Ok(()),
    }
}

async fn agree(
    platform: &Platform,
    mode: Mode,
    expected: &BTreeMap<String, Said>,
    context: &str,
) -> Result<(), String> {
    for view in platform.catalog.views() {
        let answer = platform.serving.read_view(&view.name, everything(), mode).await;
        let found = match answer {
            Ok(answer) => Ok(Answer::new(&one_batch(&answer), view.class)),
            Err(error) => Err(error.chain()),
        };
        Answer::compare(
            &found,
            &expected[&view.name],
            &format!("{} {mode:?}, {context}", view.name),
        )?;
        if mode == Mode::Merged {
            point_reads_agree(platform, view, context).await?;
        }
    }
    Ok(())
}

/// Reads by a value that a row of the view has, in each of the first columns, are those rows of the whole answer.
async fn point_reads_agree(platform: &Platform, view: &View, context: &str) -> Result<(), String> {
    let read = async |filters: Vec<Filter>| {
        let request = ReadRequest {
            filters,
            ..everything()
        };
        let answer = platform.serving.read_view(&view.name, request, Mode::Merged).await;
        answer.map(|answer| one_batch(&answer)).map_err(|error| error.chain())
    };
    let Ok(whole) = read(Vec::new()).await else {
        return Ok(());
    };
    let asked = |field: &&arrow::datatypes::FieldRef| {
        matches!(
            field.data_type(),
            DataType::Utf8 | DataType::Int32 | DataType::Int64 | DataType::Date32
        )
    };
    for field in view.schema.fields().iter().filter(asked).take(2) {
        let Some((value, rows)) = of_some_value(&whole, field.name()) else {
            continue;
        };
        let expected = Answer::new(&rows, view.class);
        let filter = Filter {
            column: field.name().clone(),
            operator: Operator::Eq,
            value: value.clone(),
        };
        let found = read(vec![filter]).await.map(|rows| Answer::new(&rows, view.class));
        let what = format!("{} where {} is {value}, {context}", view.name, field.name());
        Answer::compare(&found, &Ok(expected), &what)?;
    }
    Ok(())
}

/// The last value in `column` that is not NULL, and the rows that have it.
fn of_some_value(rows: &RecordBatch, column: &str) -> Option<(String, RecordBatch)> {
    let column = rows.column_by_name(column).unwrap();
    let formatter = ArrayFormatter::try_new(column, &FormatOptions::default()).unwrap();
    let written = |row: usize| column.is_valid(row).then(|| formatter.value(row).to_string());
    let value = (0..column.len()).rev().find_map(written)?;
    let equal: BooleanArray = (0..column.len())
        .map(|row| Some(written(row).as_ref() == Some(&value)))
        .collect();
    Some((value, filter_record_batch(rows, &equal).unwrap()))
}

/// Nexmark's queries that the platform does not take yet, with what it says: the last lines of each file. `REWRITE=1`
/// writes them anew.
#[tokio::test]
async fn what_is_refused_says_why() {
    let folder = case::folder().join("refused");
    for (name, text) in case::files(&folder) {
        let sql: Vec<&str> = text.lines().filter(|line| !line.starts_with("-- refused: ")).collect();
        let sql = sql.join("\n") + "\n";
        let file = SourceFile {
            name: format!("{name}.sql"),
            text: sql.clone(),
        };
        let refusals = Catalog::compile(&[file]).await.err().unwrap_or_default();
        assert!(!refusals.is_empty(), "{name} is taken");
        let refusals: Vec<String> = refusals
            .iter()
            .map(|refusal| format!("-- refused: {refusal}\n"))
            .collect();
        let golden = sql + &refusals.concat();
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(folder.join(format!("{name}.sql")), &golden).unwrap();
        } else {
            assert_eq!(text, golden, "{name}");
        }
    }
}
