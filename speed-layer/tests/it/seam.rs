//! Law 2 and 3: from any cut on, a gapless chain of segments that gives the answer of plain SQL.

use foldline_event_log::{Cut, Offset};

use crate::world::{STREAM, VIEWS, World, chain, next_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_any_cut_on_the_answer_is_that_of_plain_sql() {
    for seed in 0..6 {
        let world = World::new(&format!("{STREAM}{VIEWS}"), seed).await;
        world.append(120, 4_000).await;
        let start = if seed == 0 {
            Cut::default()
        } else {
            world.cut_at(world.some_tick()).await
        };
        let running = world.start(&start, world.settings()).await;
        world.assert_catches_up(&running, &start).await;
        world.append(30, 4_000).await;
        world.assert_catches_up(&running, &start).await;

        let snapshot = running.layer.snapshot();
        for (partition, view) in &snapshot.partitions {
            let begins = view
                .segments
                .first()
                .map_or(view.until, |segment| segment.offsets.start);
            assert_eq!(begins, next_of(&start, partition), "the chain begins at the cut");
        }
        for _ in 0..8 {
            let tick = world.some_tick();
            if Some(tick) > start.tick {
                world.assert_agrees(&snapshot, &world.cut_at(tick).await).await;
            }
        }
        let status = running.end().await;
        let counted = |count: fn(&foldline_speed_layer::PartitionStatus) -> u64| status.iter().map(count).sum::<u64>();
        assert!(counted(|one| one.counters.late) > 0 && counted(|one| one.counters.duplicates) > 0);
        assert!(counted(|one| one.counters.dead_letters) > 0 && counted(|one| one.counters.replayed) > 0);
        assert!(counted(|one| one.counters.replayed) < counted(|one| one.events));
        let read: u64 = status
            .iter()
            .map(|one| one.until.0 - next_of(&start, &one.partition).0)
            .sum();
        assert_eq!(
            counted(|one| one.events),
            read,
            "every offset of this log holds a record"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_snapshot_while_reading_is_a_prefix_for_all_views() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 21).await;
    world.append(60, 4_000).await;
    let settings = foldline_speed_layer::SpeedSettings {
        batch_bytes: 300,
        ..world.settings()
    };
    let running = world.start(&Cut::default(), settings).await;
    let mut seen = std::collections::BTreeSet::new();
    let ends = world.ends().await;
    while seen.len() < 400 {
        let snapshot = running.layer.snapshot();
        let until: Vec<Offset> = snapshot.partitions.values().map(|view| view.until).collect();
        let done = snapshot
            .partitions
            .iter()
            .all(|(partition, view)| view.until == ends[partition]);
        if seen.insert(until) && seen.len() % 8 == 1 {
            world.assert_agrees(&snapshot, &Cut::default()).await;
        }
        if done {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(seen.len() > 3, "{} snapshots", seen.len());
    world.assert_catches_up(&running, &Cut::default()).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thinned_out_and_retained_the_kept_cuts_still_agree() {
    for seed in 40..44 {
        let world = World::new(&format!("{STREAM}{VIEWS}"), seed).await;
        world.append(60, 20_000).await;
        let protected: Vec<_> = (0..3).map(|_| world.some_tick()).collect();
        let floor = world.cut_at(*protected.iter().min().unwrap()).await;
        let running = world.start(&floor, world.settings()).await;
        running.layer.retain(&floor, &protected);
        for _ in 0..6 {
            world.append(25, 20_000).await;
            running.layer.wait_until(&world.ends().await).await.unwrap();
        }
        let all = world.batches(&world.partitions()[0]).await;
        let ticks: std::collections::BTreeSet<_> = all.iter().map(|batch| batch.tick).collect();
        running
            .wait_for("thinned out", |status| status[0].segments < ticks.len() / 2)
            .await;
        for tick in &protected {
            world
                .assert_agrees(&running.layer.snapshot(), &world.cut_at(*tick).await)
                .await;
        }
        // Cuts near now close, too; in between, only some do, and the others are seen not to.
        let newest = world.newest_tick();
        world
            .assert_agrees(&running.layer.snapshot(), &world.cut_at(newest).await)
            .await;
        let (mut open, snapshot) = (0, running.layer.snapshot());
        for _ in 0..60 {
            let cut = world.cut_at(world.some_tick()).await;
            let closes = |(partition, view): (&_, &std::sync::Arc<_>)| chain(view, next_of(&cut, partition)).is_some();
            open += usize::from(!snapshot.partitions.iter().all(closes));
        }
        assert!(open > 0, "some boundary is gone");
        running.end().await;
    }
}
