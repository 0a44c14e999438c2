//! Where the floor can lie, and what the log may no longer have.

use std::sync::Arc;
use std::time::Duration;

use foldline_event_log::{Cut, Offset, PartitionCut, Tick};
use foldline_speed_layer::{Gaps, PartitionStatus, SpeedError, SpeedSettings};

use crate::world::{CUT_EVERY_MS, Gated, START_MS, STREAM, VIEWS, World, next_of};

fn tick(number: i64) -> Tick {
    Tick(START_MS + number * CUT_EVERY_MS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_below_the_floor_go_and_nothing_else() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 11).await;
    world.append(100, 4_000).await;
    let running = world.start(&Cut::default(), world.settings()).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    for number in [3, 8, 12] {
        let floor = world.cut_at(tick(number)).await;
        for _ in 0..3 {
            running.layer.retain(&floor, &[tick(number)]);
        }
        running
            .wait_for("dropped", |status| {
                status.iter().all(|one| one.from == next_of(&floor, &one.partition))
            })
            .await;
        world.assert_agrees(&running.layer.snapshot(), &floor).await;
    }
    assert_eq!(
        running
            .layer
            .status()
            .iter()
            .map(|one| one.counters.replayed - one.events)
            .sum::<u64>(),
        0
    );
    let read: u64 = world.ends().await.values().map(|end| end.0).sum();
    assert_eq!(
        running.end().await.iter().map(|one| one.events).sum::<u64>(),
        read,
        "nothing was read twice"
    );
}

/// The pipeline without a unique key: the horizon of these tests is read from the log, which is cut off in some.
fn without_unique_key() -> String {
    let stream = STREAM.replace(
        "unique_key = 'click_id', unique_within = '2 minutes'",
        "archive_raw = true",
    );
    format!("{stream}{VIEWS}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_log_no_longer_has_stops_and_a_cut_beyond_it_is_jumped_to() {
    let world = World::new(&without_unique_key(), 12).await;
    world.append(100, 4_000).await;
    let (trimmed, newer) = (world.cut_at(tick(6)).await, world.cut_at(tick(9)).await);
    for cut in &trimmed.partitions {
        world.log.release(&cut.partition, cut.next).await.unwrap();
    }

    let running = world.start(&Cut::default(), world.settings()).await;
    running
        .wait_for("stopped", |status| status.iter().all(|one| one.stopped.is_some()))
        .await;
    for one in running.layer.status() {
        let (reason, span) = (one.stopped.unwrap(), world.log.span(&one.partition).await.unwrap());
        let named = format!("at offset 0: it holds {}..{}", span.earliest, span.end);
        assert!(reason.contains(&named), "{reason}");
        assert!(
            span.earliest > Offset(0) && one.until == Offset(0),
            "nothing was skipped"
        );
    }
    let waited = running.layer.wait_until(&world.ends().await).await;
    assert!(matches!(waited, Err(SpeedError::Stopped { .. })));

    // A cut that the log does not reach either changes nothing.
    running.layer.retain(&world.cut_at(tick(1)).await, &[tick(1)]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stopped = |one: &PartitionStatus| one.stopped.is_some() && one.until == Offset(0);
    assert!(running.layer.status().iter().all(stopped));

    running.layer.retain(&newer, &[tick(9)]);
    running
        .wait_for("jumped", |status| status.iter().all(|one| one.stopped.is_none()))
        .await;
    world.assert_catches_up(&running, &newer).await;
    assert!(
        running
            .layer
            .status()
            .iter()
            .all(|one| one.from == next_of(&newer, &one.partition))
    );
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_folded_of_a_gap_goes_with_all_that_was_judged_by_it() {
    let world = World::new(&without_unique_key(), 14).await;
    world.append(100, 4_000).await;
    let (before, behind) = (world.cut_at(tick(4)).await, world.cut_at(tick(9)).await);
    let running = world.start(&Cut::default(), world.settings()).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    for cut in &behind.partitions {
        world.log.release(&cut.partition, cut.next).await.unwrap();
        running
            .layer
            .lose(&cut.partition, next_of(&before, &cut.partition)..cut.next);
    }
    running
        .wait_for("stopped before the gap", |status| {
            let before_gap = |one: &PartitionStatus| one.until <= next_of(&before, &one.partition);
            status.iter().all(|one| one.stopped.is_some() && before_gap(one))
        })
        .await;
    running.layer.retain(&before, &[tick(4), tick(9)]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(running.layer.status().iter().all(|one| one.stopped.is_some()));
    running.layer.retain(&behind, &[tick(9)]);
    running
        .wait_for("jumped", |status| status.iter().all(|one| one.stopped.is_none()))
        .await;
    world.assert_catches_up(&running, &behind).await;
    let begun_behind = |one: &PartitionStatus| one.from == next_of(&behind, &one.partition);
    assert!(running.layer.status().iter().all(begun_behind));
    let read = running.layer.status().iter().map(|one| one.events).sum::<u64>();
    let once: u64 = world.ends().await.values().map(|end| end.0).sum();
    assert!(read > once, "what lies behind the gap was judged anew");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_across_a_gap_is_not_gone_on_from_behind_it() {
    let world = World::new(&without_unique_key(), 16).await;
    world.append(100, 4_000).await;
    let settings = SpeedSettings {
        checkpoint_every_ms: 50,
        ..world.settings()
    };
    let running = world.start(&Cut::default(), settings.clone()).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    running.end().await;
    // Where the checkpoint has a boundary.
    let (before, behind) = (world.cut_at(tick(4)).await, world.cut_at(tick(9)).await);
    let folded_behind = async |gaps: Gaps| {
        // Each from a copy, as what is dropped below the cut is dropped from the checkpoint, too.
        let copy = tempfile::tempdir().unwrap();
        for folder in std::fs::read_dir(&settings.checkpoints).unwrap() {
            let folder = folder.unwrap();
            let copied = copy.path().join(folder.file_name());
            std::fs::create_dir(&copied).unwrap();
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), copied.join(file.file_name())).unwrap();
            }
        }
        let settings = SpeedSettings {
            checkpoints: copy.path().to_owned(),
            ..settings.clone()
        };
        let (log, catalog) = (Arc::clone(&world.log), Arc::clone(&world.catalog));
        let running = world.start_behind(gaps, log, catalog, &behind, settings).await;
        world.assert_catches_up(&running, &behind).await;
        let status = running.end().await;
        status.iter().map(|one| one.events).sum::<u64>()
    };
    assert_eq!(folded_behind(Gaps::new()).await, 0, "the checkpoint holds everything");
    let gap = |cut: &PartitionCut| {
        let from = next_of(&before, &cut.partition);
        (cut.partition.clone(), vec![from..cut.next])
    };
    let gaps: Gaps = behind.partitions.iter().map(gap).collect();
    let left: u64 = world
        .ends()
        .await
        .iter()
        .map(|(partition, end)| end.0 - next_of(&behind, partition).0)
        .sum();
    assert_eq!(folded_behind(gaps).await, left, "all behind the gap was judged anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_below_the_first_segment_is_replayed() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 13).await;
    world.append(100, 4_000).await;
    let (older, newer) = (world.cut_at(tick(4)).await, world.cut_at(tick(11)).await);
    let running = world.start(&newer, world.settings()).await;
    world.assert_catches_up(&running, &newer).await;
    running.layer.retain(&older, &[tick(4), tick(11)]);
    running
        .wait_for("begun anew", |status| {
            status.iter().all(|one| one.from == next_of(&older, &one.partition))
        })
        .await;
    world.assert_catches_up(&running, &older).await;
    world.assert_agrees(&running.layer.snapshot(), &newer).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_replays_promises_no_more_than_is_folded_again() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 15).await;
    world.append(100, 4_000).await;
    let (older, newer) = (world.cut_at(tick(4)).await, world.cut_at(tick(11)).await);
    let log = Gated::new(&world.log, true);
    let catalog = Arc::clone(&world.catalog);
    let running = world
        .start_on(Arc::clone(&log) as _, catalog, &newer, world.settings())
        .await;
    world.assert_catches_up(&running, &newer).await;
    log.set(false);
    running.layer.retain(&older, &[tick(4), tick(11)]);
    running
        .wait_for("begun anew", |status| {
            status.iter().all(|one| one.until == next_of(&older, &one.partition))
        })
        .await;
    for one in running.layer.status() {
        let cut = older.of(&one.partition).unwrap();
        assert_eq!(one.complete_to, cut.marks.record_time, "{}", one.partition);
        assert_eq!(one.replaying_to, Some(one.end), "{}", one.partition);
    }
    log.set(true);
    world.assert_catches_up(&running, &older).await;
    running
        .wait_for("complete", |status| {
            let complete =
                |one: &PartitionStatus| one.complete_to > newer.of(&one.partition).unwrap().marks.record_time;
            status.iter().all(|one| complete(one) && one.replaying_to.is_none())
        })
        .await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_where_the_boundary_is_gone_is_replayed_unless_a_newer_cut_closes() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 14).await;
    world.append(200, 15_000).await;
    let running = world.start(&Cut::default(), world.settings()).await;
    running.layer.retain(&Cut::default(), &[]);
    running.layer.wait_until(&world.ends().await).await.unwrap();
    running
        .wait_for("thinned out", |status| status.iter().all(|one| one.segments < 70))
        .await;
    let snapshot = running.layer.snapshot();
    let mut gone = None;
    for number in (1..120).rev() {
        let straddled = |segment: &std::sync::Arc<foldline_speed_layer::Segment>| {
            segment.ticks.0 < tick(number) && tick(number) <= segment.ticks.1
        };
        if snapshot
            .partitions
            .values()
            .all(|view| view.segments.iter().any(straddled))
        {
            gone = Some(number);
            break;
        }
    }
    let floor = world
        .cut_at(tick(gone.expect("a tick whose boundary is gone everywhere")))
        .await;
    let newest = world.newest_tick();
    running.layer.retain(&floor, &[floor.tick.unwrap(), newest]);
    running
        .wait_for("dropped", |status| status.iter().all(|one| one.from > Offset(0)))
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let status = running.layer.status();
    assert!(
        status.iter().all(|one| one.from < next_of(&floor, &one.partition)),
        "the straddling segment stays"
    );
    world
        .assert_agrees(&running.layer.snapshot(), &world.cut_at(newest).await)
        .await;

    running.layer.retain(&floor, &[floor.tick.unwrap()]);
    running
        .wait_for("begun anew", |status| {
            status.iter().all(|one| one.from == next_of(&floor, &one.partition))
        })
        .await;
    world.assert_catches_up(&running, &floor).await;
    running.end().await;
}
