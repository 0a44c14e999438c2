//! What one partition's folding does to the others, to errors, and without views.

use std::sync::Arc;

use foldline_event_log::{Cut, Offset};
use foldline_speed_layer::{RealtimeStore, SpeedSettings};

use crate::world::{STREAM, VIEWS, World, catalog};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_views_is_covered_all_the_same() {
    let world = World::new(STREAM, 1).await;
    world.append(40, 4_000).await;
    let running = world.start(&Cut::default(), world.settings()).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    let snapshot = RealtimeStore::snapshot(&running.layer);
    assert!(
        snapshot
            .partitions
            .values()
            .all(|view| view.segments.iter().all(|segment| segment.views.is_empty()))
    );
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_fails_a_view_stops_that_view_alone_and_is_named() {
    let shares = "CREATE VIEW shares AS SELECT user_id, sum(100 / amount) AS s FROM clicks GROUP BY user_id;";
    let world = World::new(&format!("{STREAM}{VIEWS}"), 2).await;
    let catalog = catalog(&format!("{STREAM}{VIEWS}{shares}")).await;
    let id = &catalog.view("shares").unwrap().id;
    let append = async |id: u64, amount: i64| {
        let at = "2023-11-14T22:13:20";
        let value =
            format!("{{\"click_id\":\"{id}\",\"user_id\":\"u\",\"page\":\"/\",\"amount\":{amount},\"at\":\"{at}\"}}");
        world
            .log
            .append("clicks", vec![world.record("u", value)], None)
            .await
            .unwrap()
    };
    append(1, 5).await;
    world.clock.advance(20_000);
    for (number, amount) in [(2, 6), (3, 0), (4, 7)] {
        append(number, amount).await;
    }
    world.clock.advance(20_000);
    append(5, 9).await;
    let ends = world.ends().await;
    let partition = ends.iter().find(|(_, end)| **end == Offset(5)).unwrap().0;
    let settings = SpeedSettings {
        checkpoint_every_ms: 3_600_000,
        ..world.settings()
    };
    // Folded the first time, from the checkpoint the second.
    for folded in [5, 0] {
        let running = world
            .start_with(Arc::clone(&catalog), &Cut::default(), settings.clone())
            .await;
        world.assert_catches_up(&running, &Cut::default()).await;
        let snapshot = running.layer.snapshot();
        let segments = &snapshot.partitions[partition].segments;
        let has_it: Vec<_> = segments
            .iter()
            .map(|segment| (segment.offsets.end.0, segment.views.contains_key(id)))
            .collect();
        assert_eq!(has_it, [(1, true), (4, false), (5, true)]);
        let named = format!("the row at offset 2 of {partition}");
        let reason = &segments[1].failed[id];
        assert!(reason.contains(&named) && reason.contains("zero"), "{reason}");
        let status = running.end().await;
        assert_eq!(status.iter().map(|one| one.events).sum::<u64>(), folded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_an_ended_layer_or_an_unknown_partition_fails() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 3).await;
    world.append(3, 100).await;
    let running = world.start(&Cut::default(), world.settings()).await;
    let layer = running.layer.clone();
    world.assert_catches_up(&running, &Cut::default()).await;
    let beyond = world
        .ends()
        .await
        .into_iter()
        .map(|(partition, end)| (partition, Offset(end.0 + 1)))
        .collect();
    let waiting = tokio::spawn(async move { layer.wait_until(&beyond).await });
    let status = running.layer.status();
    let mut unknown = status[0].partition.clone();
    unknown.partition.0 = 77;
    let refused = running
        .layer
        .wait_until(&[(unknown, Offset(1))].into())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("does not fold clicks/77"), "{refused}");
    running.end().await;
    let refused = waiting.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("the speed layer has ended"), "{refused}");
}

/// Figures of whatever build this is: `cargo test --workspace --test it -- --ignored --nocapture figures`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, checks nothing"]
async fn figures() {
    for users in [1_000, 200_000] {
        let sql = format!(
            "{} CREATE VIEW users AS SELECT user_id, count(*) AS n, sum(amount) AS total FROM clicks GROUP BY user_id;",
            STREAM.replace(
                "unique_key = 'click_id', unique_within = '2 minutes'",
                "archive_raw = true"
            )
        );
        let world = World::new(&sql, 4).await;
        let events = 200_000;
        for start in (0..events).step_by(5_000) {
            let click = |id: u64| {
                let user = format!("user-{}", id.wrapping_mul(2_654_435_761) % users);
                let value = format!(
                    "{{\"click_id\":\"{id}\",\"user_id\":\"{user}\",\"page\":\"/\",\"amount\":{id},\"at\":\"2023-11-14T22:13:20\"}}"
                );
                world.record(&user, value)
            };
            world
                .log
                .append("clicks", (start..start + 5_000).map(click).collect(), None)
                .await
                .unwrap();
            world.clock.advance(1_000);
        }
        let settings = foldline_speed_layer::SpeedSettings {
            batch_bytes: 1 << 20,
            ..world.settings()
        };
        let began = std::time::Instant::now();
        let running = world.start(&Cut::default(), settings).await;
        running.layer.wait_until(&world.ends().await).await.unwrap();
        let took = began.elapsed();
        let snapshot = running.layer.snapshot();
        let segments = snapshot.partitions.values().flat_map(|view| &view.segments);
        let partials: Vec<_> = segments
            .flat_map(|segment| segment.views.values().flat_map(|partials| partials.held().unwrap()))
            .collect();
        let keys: usize = partials.iter().map(|partial| partial.keys()).sum();
        let bytes: usize = running.layer.status().iter().map(|one| one.bytes).sum();
        println!(
            "{users} users: {:.0} events/s on 2 threads; {keys} keys in {} partials, {} bytes per key",
            events as f64 / took.as_secs_f64(),
            partials.len(),
            bytes / keys
        );
        running.end().await;
    }
}
