//! Views made by chance ([`generated`]) answer as plain SQL does; what fails is shrunken before it is shown.
//!
//! | setting | does |
//! | --- | --- |
//! | `FOLDLINE_GRAMMAR=n` | n views; 0 goes on without end; `make grammar` takes 2,000 |
//! | `FOLDLINE_GRAMMAR_SEED=n` | other views; it is printed |

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::choices::{Choices, shrunken};
use super::*;
use crate::corpus::generated;
use crate::corpus::oracle::{Untils, run_plan};

/// Of generated views that are refused, at most so many of a hundred: with more the test would say little.
const REFUSED_PERCENT: usize = 40;
/// One view of so many goes through all layers.
const EVERY_LAYER: usize = 25;
/// Failures after which it is enough.
const FAILURES: usize = 8;
const TRIES: usize = 250;

/// The events of a file: many in few places, many at one time, around the end of summer time, months apart.
const EVENTS: &[&str] = &[
    "shop records=45",
    "shop records=40 grid=720 seed=5",
    "shop records=40 from=2024-10-25 days=5 grid=15 seed=3",
    "shop records=40 days=300 grid=60 seed=4",
    "shop records=6 seed=2",
];

enum Outcome {
    Agrees,
    /// Plain SQL has no answer, such as a sum that is out of range, nor has the platform.
    Fails,
    Refused(String),
    Wrong(String),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn generated_views_answer_as_plain_sql_does() {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<usize>().unwrap());
    let seed = setting("FOLDLINE_GRAMMAR_SEED").unwrap_or(1);
    let views = match setting("FOLDLINE_GRAMMAR") {
        Some(0) => usize::MAX,
        views => views.unwrap_or(150),
    };
    println!("FOLDLINE_GRAMMAR_SEED={seed}");
    let started = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let failures = Arc::new(AtomicUsize::new(0));
    let workers = std::thread::available_parallelism().unwrap().get();
    let workers: Vec<_> = (0..workers)
        .map(|_| {
            let (next, failures) = (Arc::clone(&next), Arc::clone(&failures));
            tokio::spawn(async move {
                let (mut counts, mut wrong, mut refused) = ([0; 3], Vec::new(), BTreeMap::<String, usize>::new());
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= views || failures.load(Ordering::Relaxed) >= FAILURES {
                        return (counts, wrong, refused);
                    }
                    let (outcome, made) = outcome((seed * 1_000_003 + number) as u64).await;
                    match outcome {
                        Outcome::Agrees => counts[0] += 1,
                        Outcome::Fails => counts[1] += 1,
                        Outcome::Refused(reason) => {
                            counts[2] += 1;
                            *refused.entry(reason).or_default() += 1;
                        }
                        Outcome::Wrong(failure) => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            let failure = shown(made, failure).await;
                            println!("seed {seed}, number {number}: {failure}\n");
                            wrong.push(format!("number {number}: {failure}"));
                        }
                    }
                    if number % 1000 == 999 {
                        println!("{} views in {:?}", number + 1, started.elapsed());
                    }
                }
            })
        })
        .collect();
    let (mut counts, mut failures, mut refused) = ([0; 3], Vec::new(), BTreeMap::<String, usize>::new());
    for worker in workers {
        let (counted, wrong, reasons) = worker.await.unwrap();
        counts.iter_mut().zip(counted).for_each(|(all, more)| *all += more);
        failures.extend(wrong);
        for (reason, times) in reasons {
            *refused.entry(reason).or_default() += times;
        }
    }
    let [agree, fail, no] = counts;
    println!(
        "{agree} views agree, {fail} fail in both, {no} are refused, in {:?}",
        started.elapsed()
    );
    let mut refused: Vec<_> = refused.into_iter().map(|(reason, times)| (times, reason)).collect();
    refused.sort_unstable();
    for (times, reason) in refused.iter().rev().take(12) {
        println!("  {times} refused: {reason}");
    }
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n\n"));
    assert!(no * 100 <= (agree + fail + no) * REFUSED_PERCENT, "{no} refused");
    assert!(fail * 10 <= agree + fail + no, "{fail} without an answer");
}

/// What comes of the view that `seed` makes, and the choices that made it.
async fn outcome(seed: u64) -> (Outcome, Vec<u32>) {
    let mut choices = Choices::random(seed);
    let case = generated_case(&mut choices);
    (judged(case, seed).await, choices.made)
}

fn generated_case(choices: &mut Choices) -> Case {
    let events = choices.one(EVENTS);
    let text = format!("-- events: {events}\n{}", generated::file(choices));
    // Empty answers are as good as others here.
    Case::new(format!("{WITHOUT_ROWS}generated"), text)
}

/// A panic is a failure like any other.
async fn judged(case: Case, seed: u64) -> Outcome {
    match tokio::spawn(async move { judge(&case, seed).await }).await {
        Ok(outcome) => outcome,
        Err(panicked) => Outcome::Wrong(panicked.to_string()),
    }
}

async fn judge(case: &Case, seed: u64) -> Outcome {
    let file = SourceFile {
        name: "generated.sql".to_owned(),
        text: case.text.clone(),
    };
    let catalog = match Catalog::compile(&[file]).await {
        Ok(catalog) => catalog,
        Err(refusals) => return Outcome::Refused(refusals[0].reason.clone()),
    };
    let mut random = StdRng::seed_from_u64(seed);
    let logged = Logged::new(case, &catalog);
    let ends = logged.untils(logged.arrivals.len());
    let expected = answers(case, &catalog, &logged, &ends).await;
    for _ in 0..2 {
        let found = folded(&catalog, &logged, &ends, &mut random).await;
        for view in catalog.views() {
            if let Err(failure) = Answer::compare(&found[&view.name], &expected[&view.name], &view.name) {
                return Outcome::Wrong(failure);
            }
        }
    }
    if expected.values().any(Result::is_err) {
        return Outcome::Fails;
    }
    if seed.is_multiple_of(EVERY_LAYER as u64) {
        let platform = Platform::new(&case.text).await;
        if let Err(failure) = every_layer(case, &platform, &logged, seed).await {
            return Outcome::Wrong(failure);
        }
    }
    Outcome::Agrees
}

/// What every view of `catalog` says of its folds over the rows below `untils`, in batches that are merged as a tree, some
/// through their stored form.
async fn folded(catalog: &Catalog, logged: &Logged, untils: &Untils, random: &mut StdRng) -> BTreeMap<String, Said> {
    let session = foldline_sql::session_context(SessionConfig::new());
    let mut finished: BTreeMap<String, Result<RecordBatch, String>> = BTreeMap::new();
    let rows = logged.rows(0, untils);
    for view in catalog.views_and_parts() {
        let answer = match &view.kind {
            ViewKind::Fold(fold) => merged(fold, &rows, random).await.map_err(|error| format!("{error:?}")),
            ViewKind::Derived(_) => derived(&session, view, &finished).await,
        };
        finished.insert(view.name.clone(), answer);
    }
    let said = |view: &Arc<View>| finished[&view.name].clone().map(|rows| Answer::new(&rows, view.class));
    catalog
        .views()
        .iter()
        .map(|view| (view.name.clone(), said(view)))
        .collect()
}

async fn merged(fold: &Fold, rows: &RecordBatch, random: &mut StdRng) -> Result<RecordBatch, FoldError> {
    let mut partials = Vec::new();
    for partial in merged_as_tree(fold, in_batches(rows, random), random).await? {
        partials.push(match random.random_range(0..2) {
            0 => partial,
            _ => Partial::decode(&partial.encode()?, fold)?,
        });
    }
    fold.finish(&partials).await
}

async fn derived(
    session: &SessionContext,
    view: &View,
    finished: &BTreeMap<String, Result<RecordBatch, String>>,
) -> Result<RecordBatch, String> {
    let ViewKind::Derived(derived) = &view.kind else {
        unreachable!("a view is a fold or above some");
    };
    if let Some(error) = view.reads.iter().find_map(|name| finished[name].as_ref().err()) {
        return Err(error.clone());
    }
    let plan = derived.over::<DataFusionError>(&mut |name| {
        let rows = finished[name].clone().map_err(DataFusionError::Execution)?;
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
        LogicalPlanBuilder::scan(name.replace('.', "_"), provider_as_source(Arc::new(table)), None)?.build()
    });
    let plan = plan.map_err(|error| error.to_string())?;
    run_plan(session, plan).await.map_err(|error| error.to_string())
}

/// The failure of the least view found that fails, with its SQL.
async fn shown(made: Vec<u32>, failure: String) -> String {
    let fails = async |made: Vec<u32>| match judged(generated_case(&mut Choices::again(made)), 0).await {
        Outcome::Wrong(failure) => Some(failure),
        _ => None,
    };
    let (made, failure) = shrunken(made, failure, TRIES, fails).await;
    let case = generated_case(&mut Choices::again(made));
    format!("{failure}\n{}", case.text)
}
