//! Runs: incremental equals full equals plain SQL, whatever the cuts; races, crashes and damage.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use foldline_batch_layer::{GenerationError, RecomputeError, RunKind};
use foldline_event_log::{Tick, Topic};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::clicks::CUT_EVERY_MS;
use crate::faulty::Fault;
use crate::world::{VIEWS, World, catalog, everything_is_complete, files_of, number, topic};

#[tokio::test]
async fn incremental_equals_full_equals_plain_sql_at_random_cuts() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new().await;
        let mut tick = Tick(0);
        for _ in 0..6 {
            // Sometimes more is archived than is cut, sometimes nothing is.
            for partition in 0..2 {
                let count = [0, 1, 15, 60][random.random_range(0..4)];
                world.archive_more(&mut random, partition, count).await;
            }
            let ahead = (world.complete_tick().0 - tick.0) / CUT_EVERY_MS;
            tick = Tick(tick.0 + random.random_range(0..=ahead.max(0)) * CUT_EVERY_MS);
            let report = world.run(RunKind::Incremental, tick).await.unwrap();
            world.agrees(&report.generation).await;
        }
        let last = world
            .run(RunKind::Incremental, world.end_tick())
            .await
            .unwrap()
            .generation;
        world.agrees(&last).await;
        let full = world.run(RunKind::Full, world.end_tick()).await.unwrap();
        assert!(full.published);
        assert_eq!(full.generation.number.0, last.number.0 + 1);
        for view in world.catalog.views() {
            let one = world.finished(&world.generations, &last, view).await.unwrap();
            let other = world
                .finished(&world.generations, &full.generation, view)
                .await
                .unwrap();
            assert_eq!(one, other, "{}", view.name);
        }
    }
}

#[tokio::test]
async fn many_rows_are_folded_in_pieces_and_every_row_counts_once() {
    let world = World::filled(3, 6_000).await;
    let middle = Tick(world.end_tick().0 / 2 / CUT_EVERY_MS * CUT_EVERY_MS);
    let seen = std::sync::Mutex::new(Vec::new());
    for tick in [middle, world.end_tick()] {
        let topics = [(topic(), everything_is_complete())];
        let progress = |done: u64, total: u64| seen.lock().unwrap().push((done, total));
        let recompute = world.recompute().sized(2_000, 300);
        let run = recompute.run(RunKind::Incremental, tick, &topics, &progress).await;
        let report = run.unwrap();
        world.agrees(&report.generation).await;
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen[0].0, 0);
        let (done, total) = *seen.last().unwrap();
        assert_eq!(done, total);
        assert!(report.rows <= total && report.rows > 4_000 && report.files > 0);
    }
}

#[tokio::test]
async fn what_is_too_much_for_memory_goes_to_the_store_and_comes_back() {
    let world = World::filled(4, 6_000).await;
    let middle = Tick(world.end_tick().0 / 2 / CUT_EVERY_MS * CUT_EVERY_MS);
    let topics = [(topic(), everything_is_complete())];
    let run = async |kind, tick, memory_bytes| {
        let recompute = world.recompute().sized(1_000, 100).bounded(memory_bytes);
        let report = recompute.run(kind, tick, &topics, &|_, _| ()).await.unwrap();
        assert_eq!(
            report.spilled > 0,
            memory_bytes < usize::MAX,
            "{} spilled",
            report.spilled
        );
        report.generation
    };
    run(RunKind::Incremental, middle, 1).await;
    let spilling = run(RunKind::Incremental, world.end_tick(), 20_000).await;
    world.agrees(&spilling).await;
    let full = run(RunKind::Full, world.end_tick(), 1).await;
    world.agrees(&full).await;
    let whole = run(RunKind::Full, world.end_tick(), usize::MAX).await;
    for view in world.catalog.views() {
        let one = world.finished(&world.generations, &full, view).await.unwrap();
        let other = world.finished(&world.generations, &whole, view).await.unwrap();
        assert_eq!(one, other, "{}", view.name);
    }
    // Nothing is left of what was put aside.
    let stored: Vec<_> = world
        .store
        .list(Some(&Path::from("views")))
        .try_collect()
        .await
        .unwrap();
    let stored: BTreeSet<String> = stored.iter().map(|file| file.location.to_string()).collect();
    let generations = world.generations.list().await.unwrap();
    let named: BTreeSet<String> = generations
        .iter()
        .flat_map(|(generation, _)| files_of(generation))
        .collect();
    assert_eq!(stored, named);
}

#[tokio::test]
async fn dates_that_did_not_change_keep_their_file() {
    let mut world = World::filled(1, 100).await;
    let first = world
        .run(RunKind::Incremental, world.end_tick())
        .await
        .unwrap()
        .generation;
    let mut random = StdRng::seed_from_u64(1);
    world.archive_more(&mut random, 0, 3).await;
    let second = world
        .run(RunKind::Incremental, world.end_tick())
        .await
        .unwrap()
        .generation;
    world.agrees(&second).await;
    let before = files_of(&first);
    let kept = files_of(&second).iter().filter(|path| before.contains(path)).count();
    assert!(kept > 0 && kept < before.len(), "{kept} of {} kept", before.len());
}

#[tokio::test]
async fn nothing_new_publishes_nothing() {
    let world = World::filled(2, 50).await;
    let end = world.end_tick();
    assert!(world.run(RunKind::Incremental, end).await.unwrap().published);
    for tick in [end, Tick(end.0 - CUT_EVERY_MS), Tick(end.0 + 10 * CUT_EVERY_MS)] {
        let report = world.run(RunKind::Incremental, tick).await.unwrap();
        assert_eq!(
            (report.published, report.rows, report.generation.number.0),
            (false, 0, 1)
        );
    }
    assert!(world.run(RunKind::Full, end).await.unwrap().published);
}

#[tokio::test]
async fn an_empty_archive_gives_a_generation_without_rows() {
    let world = World::new().await;
    let report = world.run(RunKind::Incremental, Tick(5000)).await.unwrap();
    assert!(report.published);
    assert_eq!(report.generation.cut.partitions.len(), 2);
    world.agrees(&report.generation).await;
}

#[tokio::test]
async fn a_new_view_is_computed_from_the_origin_and_a_dropped_one_is_forgotten() {
    let mut world = World::filled(4, 200).await;
    let middle = Tick(world.end_tick().0 / 2 / CUT_EVERY_MS * CUT_EVERY_MS);
    let first = world.run(RunKind::Incremental, middle).await.unwrap().generation;
    let days = world.catalog.view("days").unwrap().id.clone();

    let more = format!("{VIEWS} CREATE VIEW ids AS SELECT id, count(*) AS n FROM clicks GROUP BY 1;");
    world.catalog = catalog(&more).await;
    // At a tick that is not beyond the current cut, the cut stays where it is.
    let second = world
        .run(RunKind::Incremental, Tick(middle.0 - CUT_EVERY_MS))
        .await
        .unwrap();
    assert!(second.published);
    assert_eq!(second.generation.cut, first.cut);
    assert_eq!(second.generation.views[&days], first.views[&days]);
    world.agrees(&second.generation).await;

    // And together with a moving cut: some views go on, one begins.
    let other = format!("{VIEWS} CREATE VIEW ids AS SELECT id, max(at) AS n FROM clicks GROUP BY 1;");
    world.catalog = catalog(&other).await;
    let third = world
        .run(RunKind::Incremental, world.end_tick())
        .await
        .unwrap()
        .generation;
    world.agrees(&third).await;
    assert_eq!(third.views.len(), 5);
    let old = second.generation.views.keys().find(|id| !third.views.contains_key(*id));
    assert!(
        old.is_some(),
        "the changed view has another id, and its old id is no longer named"
    );
}

#[tokio::test]
async fn a_cut_below_the_current_one_is_refused_with_both_ends() {
    let world = World::filled(5, 100).await;
    world.run(RunKind::Incremental, world.end_tick()).await.unwrap();
    let error = world.run(RunKind::Full, Tick(CUT_EVERY_MS)).await.unwrap_err();
    assert!(matches!(&error, RecomputeError::Generation(GenerationError::Behind { number: n, .. }) if n.0 == 2));
    let text = error.to_string();
    assert!(
        text.contains("clicks/0") && text.contains("generation 1 is offset"),
        "{text}"
    );

    // A topic that was deleted and created again: its offsets are no continuation.
    let again = Topic {
        incarnation: Uuid::from_u128(78),
        ..topic()
    };
    for partition in again.all_partitions() {
        world
            .archive
            .origin(&partition, foldline_event_log::Offset(0))
            .await
            .unwrap();
    }
    let topics = [(again, everything_is_complete())];
    let late = Tick(world.end_tick().0 + CUT_EVERY_MS);
    let run = world
        .recompute()
        .run(RunKind::Incremental, late, &topics, &|_, _| {})
        .await;
    let text = run.unwrap_err().to_string();
    assert!(text.contains("does not name clicks/0 of incarnation"), "{text}");
    assert_eq!(world.paths("generations").await.len(), 1);
}

#[tokio::test]
async fn a_stream_without_its_topic_is_refused() {
    let world = World::filled(5, 10).await;
    let run = world
        .recompute()
        .run(RunKind::Incremental, Tick(0), &[], &|_, _| {})
        .await;
    assert!(run.unwrap_err().to_string().contains("topic \"clicks\" is not among"));
    let short = [(topic(), vec![])];
    let run = world
        .recompute()
        .run(RunKind::Incremental, Tick(0), &short, &|_, _| {})
        .await;
    assert!(run.unwrap_err().to_string().contains("has 2 partitions"));
}

#[tokio::test]
async fn an_archive_that_does_not_reach_the_tick_is_refused() {
    let world = World::filled(5, 10).await;
    let topics = [(topic(), vec![foldline_event_log::RecordTime(0); 2])];
    let run = world.recompute();
    let run = run
        .run(RunKind::Incremental, Tick(1_000_000_000), &topics, &|_, _| {})
        .await;
    let error = run.unwrap_err();
    assert!(matches!(
        error,
        RecomputeError::Archive(foldline_batch_layer::ArchiveError::NotReached { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_runs_on_the_same_base_one_wins_and_nothing_is_overwritten() {
    let world = Arc::new(World::filled(6, 300).await);
    let middle = Tick(world.end_tick().0 / 2 / CUT_EVERY_MS * CUT_EVERY_MS);
    world.run(RunKind::Incremental, middle).await.unwrap();
    let barrier = Arc::new(Barrier::new(2));
    let runs: Vec<_> = (0..2)
        .map(|_| {
            let (world, barrier) = (Arc::clone(&world), Arc::clone(&barrier));
            tokio::spawn(async move {
                let recompute = world.recompute_with(&world.fresh_generations());
                let topics = [(topic(), everything_is_complete())];
                // Both know their base before either publishes.
                let together = |done: u64, _: u64| {
                    if done == 0 {
                        // The other one may be next on this very thread.
                        tokio::task::block_in_place(|| barrier.wait());
                    }
                };
                recompute
                    .run(RunKind::Incremental, world.end_tick(), &topics, &together)
                    .await
            })
        })
        .collect();
    let outcomes = futures::future::join_all(runs).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    let won = won.into_iter().next().unwrap().unwrap().generation;
    match lost.into_iter().next().unwrap().unwrap_err() {
        RecomputeError::Generation(GenerationError::Lost { number, winner }) => {
            assert_eq!((number.0, winner), (2, won.attempt));
        }
        other => panic!("{other}"),
    }
    let stored = world.fresh_generations().get(number(2)).await.unwrap();
    assert_eq!(*stored, *won);
    world.agrees(&won).await;
}

/// Readers see the old pair of files and cut or the new one, and the next run gets it right.
async fn after_a_crash(world: &World, context: &str) -> bool {
    world.store.plan("", &[]);
    let readers = world.fresh_generations();
    readers.refresh().await.unwrap();
    let seen = readers.current().unwrap();
    assert!(seen.number.0 <= 2, "{context}");
    world.agrees(&seen).await;
    let report = world.run(RunKind::Incremental, world.end_tick()).await.unwrap();
    assert_eq!(report.generation.number.0, 2, "{context}");
    assert_eq!(report.published, seen.number.0 == 1, "{context}");
    world.agrees(&report.generation).await;
    seen.number.0 == 2
}

async fn half_way(seed: u64) -> World {
    let world = World::filled(seed, 20).await;
    let middle = Tick(world.end_tick().0 / 2 / CUT_EVERY_MS * CUT_EVERY_MS);
    world.run(RunKind::Incremental, middle).await.unwrap();
    world
}

#[tokio::test]
async fn a_run_that_fails_at_any_put_leaves_the_old_pair_or_the_new_one() {
    let mut published_despite_error = 0;
    for fault in [Fault::Refused, Fault::LostReply, Fault::FailedBefore] {
        for failing in 0.. {
            let world = half_way(7).await;
            let mut faults = vec![Fault::None; failing];
            faults.push(fault);
            world.store.plan("", &faults);
            let outcome = world.run(RunKind::Incremental, world.end_tick()).await;
            let reached = world.store.faults_left() == 0;
            let context = format!("{fault:?} at put {failing}");
            // A single reply that is lost, or a put of unknown outcome, is tried again.
            assert_eq!(outcome.is_err(), reached && fault == Fault::Refused, "{context}");
            let published = after_a_crash(&world, &context).await;
            published_despite_error += usize::from(published && outcome.is_err());
            if !reached {
                assert!(failing > 5, "the run made {failing} puts");
                break;
            }
        }
    }
    assert_eq!(published_despite_error, 0);
}

#[tokio::test]
async fn a_run_killed_at_any_put_leaves_the_old_pair_or_the_new_one() {
    let mut new_pairs = 0;
    for fault in [Fault::HangBefore, Fault::HangAfter] {
        for failing in 0.. {
            let world = half_way(8).await;
            let mut faults = vec![Fault::None; failing];
            faults.push(fault);
            world.store.plan("", &faults);
            let finished = {
                let run = world.run(RunKind::Incremental, world.end_tick());
                let killed = async {
                    while world.store.faults_left() > 0 {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    biased;
                    outcome = run => outcome.is_ok(),
                    () = killed => false,
                }
            };
            new_pairs += usize::from(after_a_crash(&world, &format!("{fault:?} at put {failing}")).await && !finished);
            if finished {
                break;
            }
        }
    }
    assert_eq!(
        new_pairs, 1,
        "killed right after the manifest was stored, the new pair stands"
    );
}

#[tokio::test]
async fn damage_is_named() {
    let world = half_way(9).await;
    let generation = world.generations.current().unwrap();
    let view = world.catalog.view("days").unwrap();
    let file = generation.views[&view.id].dates.last().unwrap();
    let path = Path::parse(&file.path).unwrap();
    let good = world.store.get(&path).await.unwrap().bytes().await.unwrap();
    let read = async || {
        let generations = world.fresh_generations();
        let error = world.finished(&generations, &generation, view).await.unwrap_err();
        assert!(matches!(error, GenerationError::Damaged { .. }));
        error.to_string()
    };

    let mut flipped = good.to_vec();
    flipped[good.len() / 2] ^= 1;
    world.store.put(&path, PutPayload::from(flipped)).await.unwrap();
    let text = read().await;
    assert!(text.contains(&file.path) && text.contains("CRC-32"), "{text}");
    // A run that would build on it is refused too.
    let run = world.run(RunKind::Incremental, world.end_tick()).await;
    assert!(run.unwrap_err().to_string().contains(&file.path));

    world.store.put(&path, PutPayload::from(good.slice(1..))).await.unwrap();
    assert!(read().await.contains("bytes instead of"));
    world.store.delete(&path).await.unwrap();
    let text = read().await;
    assert!(text.contains(&file.path) && text.contains("missing"), "{text}");

    // A full run needs none of it.
    let full = world.run(RunKind::Full, world.end_tick()).await.unwrap();
    world.agrees(&full.generation).await;
}

#[tokio::test]
async fn views_of_one_meaning_share_their_files() {
    let mut world = World::filled(31, 200).await;
    let select = "SELECT amount % 5 AS kind, count(*) AS clicks FROM clicks GROUP BY 1;";
    world.catalog = catalog(&format!("CREATE VIEW one AS {select}\nCREATE VIEW other AS {select}")).await;
    world.store.plan("views/", &[]);
    let report = world.run(RunKind::Full, world.end_tick()).await.unwrap();
    assert_eq!(
        report.generation.views.len(),
        1,
        "the name is no part of what a view means"
    );
    assert_eq!(
        world.store.puts(),
        files_of(&report.generation).len(),
        "each file is written once"
    );
    world.agrees(&report.generation).await;
}

#[tokio::test]
async fn a_view_that_fails_on_a_row_is_left_out_and_holds_up_no_other() {
    let mut world = World::filled(32, 60).await;
    let sound = "CREATE VIEW sound AS SELECT amount % 5 AS kind, count(*) AS clicks FROM clicks GROUP BY 1;";
    let failing =
        "CREATE VIEW failing AS SELECT amount % 5 AS kind, sum(100 / (amount - 17)) AS part FROM clicks GROUP BY 1;";
    world.catalog = catalog(&format!("{sound}\n{failing}")).await;
    let view_id = |world: &World, name: &str| world.catalog.view(name).unwrap().id.clone();
    for kind in [RunKind::Incremental, RunKind::Full] {
        let report = world.run(kind, world.end_tick()).await.unwrap();
        assert!(report.published);
        let names: Vec<&str> = report
            .generation
            .views
            .values()
            .map(|view| view.name.as_str())
            .collect();
        assert_eq!(names, ["sound"]);
        assert!(
            report.failed["failing"].contains("ivide by zero"),
            "{:?}",
            report.failed
        );
        assert!(report.generation.failed.contains_key(&view_id(&world, "failing")));
        let sound = Arc::clone(world.catalog.view("sound").unwrap());
        let finished = world
            .finished(&world.fresh_generations(), &report.generation, &sound)
            .await;
        assert_eq!(finished.unwrap(), world.plain(&sound, &report.generation.cut).await);
    }
    let again = world.run(RunKind::Incremental, world.end_tick()).await.unwrap();
    assert!(!again.published, "a view that fails is nothing new");
    assert!(again.failed.contains_key("failing"), "and is still named");
    // Mended, it is computed again from the first row.
    let mended = failing.replace("amount - 17", "amount + 17");
    world.catalog = catalog(&format!("{sound}\n{mended}")).await;
    let report = world.run(RunKind::Incremental, world.end_tick()).await.unwrap();
    assert!(report.published && report.failed.is_empty() && report.generation.failed.is_empty());
    world.agrees(&report.generation).await;
}

#[tokio::test]
async fn a_run_at_an_earlier_tick_says_that_it_is_behind() {
    let world = World::filled(33, 60).await;
    let report = world.run(RunKind::Incremental, world.end_tick()).await.unwrap();
    assert!(!report.behind);
    let report = world.run(RunKind::Incremental, Tick(CUT_EVERY_MS)).await.unwrap();
    assert!(!report.published && report.behind);
}
