//! One memory budget: at it reading stops and says so, nothing is dropped, and freed memory lets it go on.

use foldline_event_log::{Cut, Offset, Tick};
use foldline_speed_layer::{SpeedError, SpeedSettings};

use crate::world::{CUT_EVERY_MS, START_MS, STREAM, VIEWS, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_stops_at_the_budget_and_goes_on_when_batch_has_covered_it() {
    // With duplicates: the keys of their horizon are not freed by a batch run, and must not count.
    let world = World::new(&format!("{STREAM}{VIEWS}"), 5).await;
    world.append(150, 4_000).await;
    let whole = world.start(&Cut::default(), world.settings()).await;
    world.assert_catches_up(&whole, &Cut::default()).await;
    let held: usize = whole.end().await.iter().map(|one| one.bytes).sum();

    let settings = SpeedSettings {
        memory_bytes: held / 3,
        batch_bytes: 1_000,
        ..world.settings()
    };
    let running = world.start(&Cut::default(), settings.clone()).await;
    let mut cut = Cut::default();
    let mut stops = 0;
    loop {
        let waited = running.layer.wait_until(&world.ends().await).await;
        let Err(stopped) = waited else { break };
        assert!(matches!(stopped, SpeedError::Stopped { .. }), "{stopped}");
        let named = format!("memory budget of {} bytes reached", settings.memory_bytes);
        assert!(
            stopped.to_string().contains(&named) && stopped.to_string().contains("batch run"),
            "{stopped}"
        );
        running
            .wait_for("all stand still", |status| {
                let caught_up = |one: &foldline_speed_layer::PartitionStatus| one.until == one.end;
                status.iter().all(|one| one.stopped.is_some() || caught_up(one))
            })
            .await;
        world.assert_agrees(&running.layer.snapshot(), &cut).await;

        // Batch covers all that is folded, and in some partitions more.
        let snapshot = running.layer.snapshot();
        let views = snapshot.partitions.values();
        let newest = views
            .filter_map(|view| view.segments.last())
            .map(|segment| segment.ticks.1)
            .max();
        // Those that have not freed anything yet still show what lies below the cut, which never goes back.
        let beyond = newest.map(|newest| Tick(newest.0 + CUT_EVERY_MS));
        if beyond > cut.tick {
            cut = world.cut_at(beyond.unwrap()).await;
            stops += 1;
        }
        running.layer.retain(&cut, &[cut.tick.unwrap()]);
        running
            .wait_for("freed", |status| status.iter().any(|one| one.stopped.is_none()))
            .await;
    }
    // How much is folded before all have stopped is a matter of who is how fast.
    assert!(stops > 0, "it never stopped");
    world.assert_catches_up(&running, &cut).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_begins_anew_at_the_budget_says_why_it_stands_still() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 6).await;
    world.append(100, 4_000).await;
    let settings = SpeedSettings {
        memory_bytes: 1,
        ..world.settings()
    };
    let mut cut = world.cut_at(Tick(START_MS + 11 * CUT_EVERY_MS)).await;
    let running = world.start(&cut, settings).await;
    running
        .wait_for("all stand still", |status| {
            status.iter().all(|one| one.stopped.is_some())
        })
        .await;
    let status = running.layer.status();
    let holder = status.iter().position(|one| one.bytes > 0).unwrap();
    let other = &status[(holder + 1) % status.len()].partition;
    // Only this one goes back; what the others hold is the budget still.
    cut.partitions.retain(|cut| cut.partition != *other);
    running.layer.retain(&cut, &[cut.tick.unwrap()]);
    running
        .wait_for("begun anew, and told why it waits", |status| {
            let one = status.iter().find(|one| one.partition == *other).unwrap();
            let reason = one.stopped.as_deref().unwrap_or_default();
            one.until == Offset(0) && reason.contains("memory budget")
        })
        .await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_shown_also_where_it_fills_the_budget() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 7).await;
    world.append(60, 4_000).await;
    let settings = SpeedSettings {
        checkpoint_every_ms: 3_600_000,
        ..world.settings()
    };
    let running = world.start(&Cut::default(), settings.clone()).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    running.end().await;
    let settings = SpeedSettings {
        memory_bytes: 1,
        ..settings
    };
    let running = world.start(&Cut::default(), settings).await;
    running
        .wait_for("all stand still", |status| {
            status.iter().all(|one| one.stopped.is_some())
        })
        .await;
    let ends = world.ends().await;
    for one in running.layer.status() {
        assert_eq!((one.until, one.events), (ends[&one.partition], 0), "{}", one.partition);
    }
    world.assert_agrees(&running.layer.snapshot(), &Cut::default()).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_the_duplicate_horizon_do_not_count() {
    let view = "CREATE VIEW whole AS SELECT count(*) AS n FROM clicks;";
    let world = World::new(&format!("{STREAM}{view}"), 8).await;
    world.append(300, 0).await;
    let whole = world.start(&Cut::default(), world.settings()).await;
    world.assert_catches_up(&whole, &Cut::default()).await;
    let status = whole.end().await;
    let partials: usize = status.iter().map(|one| one.bytes).sum();
    let horizon: usize = status.iter().map(|one| one.horizon_bytes).sum();
    assert!(horizon > 3 * partials, "{horizon} and {partials} bytes");
    let settings = SpeedSettings {
        memory_bytes: 3 * partials,
        ..world.settings()
    };
    let running = world.start(&Cut::default(), settings).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    running.end().await;
}
