//! What one partition's folding does to the others, to errors, and without views.

use foldline_event_log::{Cut, Offset};
use foldline_speed_layer::{RealtimeStore, SpeedError};

use crate::world::{STREAM, VIEWS, World};

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
async fn a_fold_error_stops_the_partition_and_names_view_and_offsets() {
    let views =
        format!("{VIEWS} CREATE VIEW shares AS SELECT user_id, sum(100 / amount) AS s FROM clicks GROUP BY user_id;");
    let world = World::new(&format!("{STREAM}{views}"), 2).await;
    let click = |id: u64, amount: i64| {
        let at = "2023-11-14T22:13:20";
        let value =
            format!("{{\"click_id\":\"{id}\",\"user_id\":\"u\",\"page\":\"/\",\"amount\":{amount},\"at\":\"{at}\"}}");
        vec![world.record("u", value)]
    };
    let append = async |id, amount| world.log.append("clicks", click(id, amount), None).await.unwrap();
    append(1, 5).await;
    world.clock.advance(20_000);
    append(2, 0).await;
    append(3, 7).await;
    let partition = world
        .ends()
        .await
        .into_iter()
        .find(|(_, end)| *end == Offset(3))
        .unwrap()
        .0;
    let running = world.start(&Cut::default(), world.settings()).await;
    let target = [(partition.clone(), Offset(3))].into();
    let stopped = running.layer.wait_until(&target).await.unwrap_err();
    assert!(
        matches!(&stopped, SpeedError::Stopped { until: Offset(1), .. }),
        "{stopped}"
    );
    let stopped = stopped.to_string();
    let named = format!("cannot fold offsets 1..3 of {partition} into view \"shares\"");
    assert!(stopped.contains(&named) && stopped.contains("zero"), "{stopped}");
    assert!(
        running
            .layer
            .status()
            .iter()
            .filter(|one| one.partition != partition)
            .all(|one| one.stopped.is_none()),
        "only this partition stops"
    );
    let snapshot = running.layer.snapshot();
    assert_eq!(
        snapshot.partitions[&partition].segments.len(),
        1,
        "no view has more than another"
    );

    // A generation that covers the offsets is jumped to.
    world.clock.advance(20_000);
    append(4, 9).await;
    let cut = world.cut_at(world.newest_tick()).await;
    running.layer.retain(&cut, &[]);
    running
        .wait_for("jumped", |status| status.iter().all(|one| one.stopped.is_none()))
        .await;
    running
        .layer
        .wait_until(&[(partition.clone(), Offset(4))].into())
        .await
        .unwrap();
    assert_eq!(
        running.layer.snapshot().partitions[&partition].segments[0].offsets,
        Offset(3)..Offset(4)
    );
    running.end().await;
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
        let partials: Vec<_> = segments.flat_map(|segment| segment.views.values().flatten()).collect();
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
