//! Publishing, reading, rolling back and pinning.

use std::sync::Arc;

use foldline_batch_layer::{Draft, GenerationError, RunKind};
use foldline_event_log::{Cut, MarkState, Offset, PartitionCut, Tick};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use uuid::Uuid;

use crate::clicks::CUT_EVERY_MS;
use crate::faulty::Fault;
use crate::world::{LONGEST_QUERY_MS, World, empty_draft, files_of, fold_of, number, topic};

fn cut(tick: i64, offsets: [Option<u64>; 2]) -> Cut {
    let entries = topic().all_partitions().into_iter().zip(offsets);
    Cut {
        tick: Some(Tick(tick)),
        partitions: entries
            .filter_map(|(partition, next)| {
                Some(PartitionCut {
                    partition,
                    next: Offset(next?),
                    marks: MarkState::default(),
                })
            })
            .collect(),
    }
}

#[tokio::test]
async fn a_number_is_published_once() {
    let world = World::new().await;
    let draft = empty_draft(None);
    let first = world.generations.publish(None, draft.clone()).await.unwrap();
    assert_eq!(first.number.0, 1);

    // The same attempt again: done already, as it was.
    world.clock.advance(5);
    let again = world.fresh_generations().publish(None, draft).await.unwrap();
    assert_eq!(again, first);

    // Another attempt: lost, and nothing overwritten.
    let lost = world
        .fresh_generations()
        .publish(None, empty_draft(None))
        .await
        .unwrap_err();
    assert!(matches!(lost, GenerationError::Lost { number: n, winner } if n.0 == 1 && winner == first.attempt));
    assert_eq!(*world.fresh_generations().get(number(1)).await.unwrap(), *first);
}

#[tokio::test]
async fn a_lost_reply_is_no_lost_race() {
    let world = World::new().await;
    world.store.plan("generations/", &[Fault::LostReply]);
    assert_eq!(
        world
            .generations
            .publish(None, empty_draft(None))
            .await
            .unwrap()
            .number
            .0,
        1
    );
}

#[tokio::test]
async fn of_32_publishers_one_wins() {
    let world = World::new().await;
    let publishers: Vec<_> = (0..32)
        .map(|_| {
            let generations = world.fresh_generations();
            tokio::spawn(async move { generations.publish(None, empty_draft(None)).await })
        })
        .collect();
    let outcomes = futures::future::join_all(publishers).await;
    let won: Vec<_> = outcomes
        .into_iter()
        .filter_map(|outcome| outcome.unwrap().ok())
        .collect();
    assert_eq!(won.len(), 1);
    assert_eq!(*world.fresh_generations().get(number(1)).await.unwrap(), *won[0]);
}

#[tokio::test]
async fn a_number_that_became_free_again_is_not_used() {
    let world = World::new().await;
    let first = world.generations.publish(None, empty_draft(None)).await.unwrap();
    let second = world
        .generations
        .publish(Some(&first), empty_draft(Some(&first)))
        .await
        .unwrap();
    let third = world
        .generations
        .publish(Some(&second), empty_draft(Some(&second)))
        .await
        .unwrap();
    let path = Path::from("generations/00000000000000000002.json");
    world.store.delete(&path).await.unwrap();
    let late = world
        .generations
        .publish(Some(&first), empty_draft(Some(&first)))
        .await
        .unwrap_err();
    assert!(matches!(late, GenerationError::Lost { winner, .. } if winner == third.attempt));
    assert!(world.store.head(&path).await.is_err());
}

#[tokio::test]
async fn a_cut_may_go_nowhere_below_the_last() {
    let world = World::new().await;
    let draft = |tick, offsets, kind| Draft {
        cut: cut(tick, offsets),
        kind,
        ..empty_draft(None)
    };
    let first = world
        .generations
        .publish(None, draft(10, [Some(5), Some(7)], RunKind::Full))
        .await
        .unwrap();
    let refused = [
        (
            20,
            [Some(4), Some(9)],
            "its cut of clicks/0 is offset 4, that of generation 1 is offset 5",
        ),
        (20, [Some(5), None], "whose cut in generation 1 is offset 7"),
        (9, [Some(5), Some(7)], "it is cut at tick 9, generation 1 at tick 10"),
    ];
    for (tick, offsets, reason) in refused {
        for kind in [RunKind::Incremental, RunKind::Full] {
            let outcome = world
                .generations
                .publish(Some(&first), draft(tick, offsets, kind))
                .await;
            let error = outcome.unwrap_err();
            assert!(matches!(error, GenerationError::Behind { number: n, .. } if n.0 == 2));
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
    assert_eq!(world.paths("generations").await.len(), 1);
    let equal = draft(10, [Some(5), Some(7)], RunKind::Incremental);
    world.generations.publish(Some(&first), equal).await.unwrap();
}

#[tokio::test]
async fn an_unknown_version_is_refused_with_the_path() {
    let world = World::new().await;
    world.generations.publish(None, empty_draft(None)).await.unwrap();
    let path = Path::from("generations/00000000000000000002.json");
    world
        .store
        .put(&path, PutPayload::from_static(br#"{"version":2,"news":true}"#))
        .await
        .unwrap();
    let generations = world.fresh_generations();
    for error in [
        generations.refresh().await.unwrap_err(),
        generations.get(number(2)).await.unwrap_err(),
        generations.list().await.unwrap_err(),
    ] {
        assert!(matches!(error, GenerationError::Damaged { .. }));
        let text = error.to_string();
        assert!(text.contains(path.as_ref()) && text.contains("version 2"), "{text}");
    }
    // A manifest under another number's name, too.
    let first = world
        .store
        .get(&Path::from("generations/00000000000000000001.json"))
        .await
        .unwrap();
    world
        .store
        .put(&path, PutPayload::from(first.bytes().await.unwrap()))
        .await
        .unwrap();
    let text = generations.refresh().await.unwrap_err().to_string();
    assert!(text.contains("says that it is generation 1"), "{text}");
}

#[tokio::test]
async fn a_superseded_generation_is_readable_for_the_longest_query_time() {
    let world = World::new().await;
    let reader = world.fresh_generations();
    assert!(!reader.refresh().await.unwrap());
    assert!(reader.readable().is_empty());
    let mut base = None;
    for _ in 0..4 {
        let published = world
            .generations
            .publish(base.as_deref(), empty_draft(base.as_deref()))
            .await
            .unwrap();
        base = Some(published);
        world.clock.advance(LONGEST_QUERY_MS / 2);
    }
    let numbers = |generations: &foldline_batch_layer::Generations| -> Vec<u64> {
        generations
            .readable()
            .iter()
            .map(|generation| generation.number.0)
            .collect()
    };
    // 4 was published half a query time ago, 3 a whole one.
    for generations in [&world.generations, &reader] {
        generations.refresh().await.unwrap();
        assert_eq!(numbers(generations), [4, 3]);
    }
    assert!(!reader.refresh().await.unwrap());
    world.clock.advance(LONGEST_QUERY_MS / 2 - 1);
    assert_eq!(numbers(&reader), [4, 3]);
    world.clock.advance(1);
    assert_eq!(numbers(&reader), [4]);
    // A clock that steps back does not make a generation older than the one before it.
    world.clock.set(5);
    let fifth = world
        .generations
        .publish(base.as_deref(), empty_draft(base.as_deref()))
        .await
        .unwrap();
    assert_eq!(fifth.published_ms, base.unwrap().published_ms);
}

#[tokio::test]
async fn partials_are_loaded_once_and_dropped_when_nobody_can_ask() {
    let mut world = World::filled(11, 60).await;
    let first = world
        .run(RunKind::Incremental, world.end_tick())
        .await
        .unwrap()
        .generation;
    let view = Arc::clone(world.catalog.view("days").unwrap());
    let fold = fold_of(&view);
    let generations = world.fresh_generations();
    generations.refresh().await.unwrap();
    let asked = (0..8).map(|_| generations.partials(&first, &view.id, &fold));
    let loaded = futures::future::join_all(asked).await;
    let loaded: Vec<_> = loaded.into_iter().map(|loaded| loaded.unwrap().unwrap()).collect();
    assert!(loaded.iter().all(|one| Arc::ptr_eq(one, &loaded[0])));
    assert!(
        generations
            .partials(&first, "no such view", &fold)
            .await
            .unwrap()
            .is_none()
    );

    // The second generation shares the dates that did not change: they are not read again.
    let mut random = rand::SeedableRng::seed_from_u64(1);
    world.archive_more(&mut random, 0, 1).await;
    let second = world
        .run(RunKind::Incremental, world.end_tick())
        .await
        .unwrap()
        .generation;
    let shared: Vec<Path> = files_of(&first)
        .iter()
        .filter(|path| files_of(&second).contains(path) && path.contains(&view.id))
        .map(|path| Path::parse(path).unwrap())
        .collect();
    assert!(!shared.is_empty());
    let saved = world.store.get(&shared[0]).await.unwrap().bytes().await.unwrap();
    world.store.delete(&shared[0]).await.unwrap();
    generations.refresh().await.unwrap();
    // Nor does the first reader of the second wait for its own: they are in memory before anybody can ask for them.
    let new = files_of(&second)
        .into_iter()
        .find(|path| !files_of(&first).contains(path) && path.contains(&view.id));
    world.store.delete(&Path::parse(new.unwrap()).unwrap()).await.unwrap();
    generations.partials(&second, &view.id, &fold).await.unwrap();
    generations.partials(&first, &view.id, &fold).await.unwrap();
    world.store.put(&shared[0], PutPayload::from(saved)).await.unwrap();

    // Once the first is no longer readable, its own files leave the memory.
    world.clock.advance(LONGEST_QUERY_MS);
    generations.refresh().await.unwrap();
    let own = files_of(&first)
        .into_iter()
        .find(|path| !files_of(&second).contains(path) && path.contains(&view.id));
    world.store.delete(&Path::parse(own.unwrap()).unwrap()).await.unwrap();
    let gone = generations.partials(&first, &view.id, &fold).await;
    assert!(matches!(gone, Err(GenerationError::Damaged { .. })));
}

#[tokio::test]
async fn rolling_back_publishes_the_older_files_and_cut_and_runs_go_on_from_there() {
    let world = World::filled(12, 120).await;
    let third = Tick(world.end_tick().0 / 3 / CUT_EVERY_MS * CUT_EVERY_MS);
    let first = world.run(RunKind::Incremental, third).await.unwrap().generation;
    world.run(RunKind::Incremental, world.end_tick()).await.unwrap();
    let back = world.generations.rollback(number(1)).await.unwrap();
    assert_eq!(
        (back.number.0, back.kind, back.based_on),
        (3, RunKind::Rollback, Some(number(1)))
    );
    assert_eq!((&back.cut, &back.views), (&first.cut, &first.views));
    assert_eq!(world.generations.current().unwrap(), back);
    world.agrees(&back).await;
    assert!(
        world.paths("generations/holds").await.is_empty(),
        "the hold is taken away"
    );

    let fourth = world
        .run(RunKind::Incremental, world.end_tick())
        .await
        .unwrap()
        .generation;
    assert_eq!((fourth.number.0, fourth.based_on), (4, Some(number(3))));
    world.agrees(&fourth).await;
    assert!(matches!(world.generations.rollback(number(9)).await, Err(GenerationError::Unknown(n)) if n.0 == 9));
}

#[tokio::test]
async fn a_rollback_to_missing_files_is_refused() {
    let world = World::filled(13, 60).await;
    let first = world.run(RunKind::Full, world.end_tick()).await.unwrap().generation;
    world.run(RunKind::Full, world.end_tick()).await.unwrap();
    let path = files_of(&first).pop().unwrap();
    world.store.delete(&Path::parse(&path).unwrap()).await.unwrap();
    let text = world.generations.rollback(number(1)).await.unwrap_err().to_string();
    assert!(text.contains(&path) && text.contains("missing"), "{text}");
    assert_eq!(world.fresh_generations().list().await.unwrap().len(), 2);
    assert!(world.paths("generations/holds").await.is_empty());
}

#[tokio::test]
async fn of_a_rollback_and_a_run_on_the_same_base_one_wins() {
    let world = World::filled(13, 60).await;
    let first = world.run(RunKind::Full, world.end_tick()).await.unwrap().generation;
    let second = world.run(RunKind::Full, world.end_tick()).await.unwrap().generation;
    world.generations.rollback(first.number).await.unwrap();
    let run = world
        .generations
        .publish(Some(&second), empty_draft(Some(&second)))
        .await;
    assert!(matches!(run, Err(GenerationError::Lost { number: n, .. }) if n.0 == 3));
}

#[tokio::test]
async fn pins_are_listed_and_taken_away() {
    let world = World::new().await;
    let first = world.generations.publish(None, empty_draft(None)).await.unwrap();
    world
        .generations
        .publish(Some(&first), empty_draft(Some(&first)))
        .await
        .unwrap();
    let listed = async || -> Vec<(u64, bool)> {
        let list = world.generations.list().await.unwrap();
        list.into_iter()
            .map(|(generation, pinned)| (generation.number.0, pinned))
            .collect()
    };
    world.generations.pin(number(1)).await.unwrap();
    world.generations.pin(number(1)).await.unwrap();
    assert_eq!(listed().await, [(2, false), (1, true)]);
    world.generations.unpin(number(1)).await.unwrap();
    world.generations.unpin(number(1)).await.unwrap();
    assert_eq!(listed().await, [(2, false), (1, false)]);
    assert!(matches!(
        world.generations.pin(number(7)).await,
        Err(GenerationError::Unknown(_))
    ));
    assert!(matches!(
        world.generations.unpin(number(7)).await,
        Err(GenerationError::Unknown(_))
    ));
    assert_ne!(first.attempt, Uuid::nil());
}

#[tokio::test]
async fn partials_in_memory_keep_within_their_bound() {
    let world = World::filled(41, 300).await;
    let generation = world.run(RunKind::Full, world.end_tick()).await.unwrap().generation;
    let unbounded = world.fresh_generations();
    let mut largest = 0;
    for view in world.catalog.views() {
        let (before, _) = unbounded.cached_bytes();
        world.finished(&unbounded, &generation, view).await.unwrap();
        largest = largest.max(unbounded.cached_bytes().0 - before);
    }
    let (all, _) = unbounded.cached_bytes();
    assert!(largest < all);

    let bounded = world.fresh_generations().caching(largest);
    for _ in 0..2 {
        for view in world.catalog.views() {
            let one = world.finished(&bounded, &generation, view).await.unwrap();
            assert_eq!(one, world.plain(view, &generation.cut).await);
            assert!(bounded.cached_bytes().0 <= largest);
        }
    }
    // What was asked for last is still there: it is read without the store.
    let last = world.catalog.views().last().unwrap();
    for file in &generation.views[&last.id].dates {
        world.store.delete(&Path::parse(&file.path).unwrap()).await.unwrap();
    }
    world.finished(&bounded, &generation, last).await.unwrap();
    let tiny = world.fresh_generations().caching(1);
    let first = &world.catalog.views()[0];
    world.finished(&tiny, &generation, first).await.unwrap();
    assert!(tiny.cached_bytes().0 > 1, "one view stays, however large");
    for view in &world.catalog.views()[1..2] {
        world.finished(&tiny, &generation, view).await.unwrap();
    }
    let (two, _) = tiny.cached_bytes();
    assert!(two < all, "the other one went");
}
