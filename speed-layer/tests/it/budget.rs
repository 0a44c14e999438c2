//! One memory budget: at it reading stops and says so, nothing is dropped, and freed memory lets it go on.

use foldline_event_log::{Cut, Tick};
use foldline_speed_layer::{SpeedError, SpeedSettings};

use crate::world::{CUT_EVERY_MS, STREAM, VIEWS, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_stops_at_the_budget_and_goes_on_when_batch_has_covered_it() {
    // No duplicates: the keys of their horizon are not freed by a batch run.
    let stream = STREAM.replace(
        "unique_key = 'click_id', unique_within = '2 minutes'",
        "archive_raw = true",
    );
    let world = World::new(&format!("{stream}{VIEWS}"), 5).await;
    world.append(150, 4_000).await;
    let whole = world.start(&Cut::default(), world.settings()).await;
    world.assert_catches_up(&whole, &Cut::default()).await;
    let held: usize = whole.end().await.iter().map(|one| one.bytes + one.horizon_bytes).sum();

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
        stops += 1;
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
        cut = world.cut_at(Tick(newest.unwrap().0 + CUT_EVERY_MS)).await;
        running.layer.retain(&cut, &[cut.tick.unwrap()]);
        running
            .wait_for("freed", |status| status.iter().any(|one| one.stopped.is_none()))
            .await;
    }
    assert!(stops > 1, "stopped {stops} times");
    world.assert_catches_up(&running, &cut).await;
    running.end().await;
}
