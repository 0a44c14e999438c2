//! Restarts: from a checkpoint, from a damaged one, from none, killed at any moment, the answer is the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use foldline_event_log::embedded::EmbeddedSettings;
use foldline_event_log::{Cut, EmbeddedLog, EventLog, Offset, TopicPartition};
use foldline_speed_layer::{PartitionStatus, SpeedSettings};
use rand::RngExt;

use crate::world::{Gated, STREAM, VIEWS, World, catalog, next_of};

fn with_checkpoints(world: &World, every_ms: u64) -> SpeedSettings {
    SpeedSettings {
        checkpoint_every_ms: every_ms,
        ..world.settings()
    }
}

fn events(status: &[PartitionStatus]) -> u64 {
    status.iter().map(|one| one.events).sum()
}

fn checkpoint_files(world: &World) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(world.folder.path().join("checkpoints")).unwrap();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// A world with a log of which some is in a last checkpoint.
async fn checkpointed(seed: u64) -> World {
    let world = World::new(&format!("{STREAM}{VIEWS}"), seed).await;
    world.append(60, 4_000).await;
    let running = world.start(&Cut::default(), with_checkpoints(&world, 3_600_000)).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    let status = running.end().await;
    assert!(
        status.iter().all(|one| one.counters.checkpoints == 1),
        "each wrote its last one"
    );
    world
}

/// Starts again and says how many events were folded until everything was.
async fn restarted(world: &World, cut: &Cut) -> u64 {
    let running = world.start(cut, with_checkpoints(world, 3_600_000)).await;
    world.assert_catches_up(&running, cut).await;
    events(&running.end().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_from_the_checkpoint() {
    for seed in 60..63 {
        let world = checkpointed(seed).await;
        assert_eq!(restarted(&world, &Cut::default()).await, 0);
        world.append(1, 100).await;
        let more = restarted(&world, &Cut::default()).await;
        assert!((1..12).contains(&more), "only the new events: {more}");
        let cut = world.cut_at(world.some_tick()).await;
        assert_eq!(restarted(&world, &cut).await, 0, "a cut within the checkpoint");
        let running = world.start(&cut, with_checkpoints(&world, 3_600_000)).await;
        for one in running.layer.status() {
            assert_eq!(one.from, next_of(&cut, &one.partition));
        }
        running.end().await;
        let all: u64 = world.ends().await.values().map(|end| end.0).sum();
        assert_eq!(
            restarted(&world, &Cut::default()).await,
            all,
            "what lies below the cut is gone: replay"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_checkpoint_never_gives_numbers() {
    let world = checkpointed(70).await;
    let files = checkpoint_files(&world);
    assert_eq!(files.len(), 6, "a pack and a manifest per partition: {files:?}");
    let read = |path: &Path| std::fs::read(path).unwrap();
    let good: BTreeMap<PathBuf, Vec<u8>> = files.iter().map(|path| (path.clone(), read(path))).collect();
    let restore = || {
        for path in checkpoint_files(&world) {
            std::fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &good {
            std::fs::write(path, bytes).unwrap();
        }
    };
    let mut damages = 0;
    for (path, bytes) in &good {
        for _ in 0..12 {
            restore();
            let mut damaged = bytes.clone();
            let (at, how) = {
                let mut random = world.random.lock().unwrap();
                (random.random_range(0..bytes.len()), random.random_range(0..4))
            };
            match how {
                0 => damaged.truncate(at),
                1 => damaged[at] ^= 1,
                2 => damaged[at] = if damaged[at] == b'7' { b'8' } else { b'7' },
                _ => damaged.clear(),
            }
            std::fs::write(path, &damaged).unwrap();
            let folded = restarted(&world, &Cut::default()).await;
            assert!(folded > 0, "{path:?} with byte {at} damaged ({how}) was used");
            damages += 1;
        }
        restore();
        std::fs::remove_file(path).unwrap();
        assert!(restarted(&world, &Cut::default()).await > 0, "{path:?} is missing");
    }
    assert_eq!(damages, 72);
    restore();
    assert_eq!(restarted(&world, &Cut::default()).await, 0, "undamaged, it is used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_declaration_tick_length_or_view_set_is_replayed() {
    let world = checkpointed(71).await;
    let all: u64 = world.ends().await.values().map(|end| end.0).sum();
    let manifests: Vec<_> = checkpoint_files(&world)
        .into_iter()
        .filter(|path| path.ends_with("manifest.json"))
        .collect();
    let texts: Vec<_> = manifests
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for (path, text) in manifests.iter().zip(&texts) {
        assert!(text.contains("\"version\":1,"), "{text}");
        std::fs::write(path, text.replace("\"version\":1,", "\"version\":2,")).unwrap();
    }
    assert_eq!(restarted(&world, &Cut::default()).await, all);

    let start = async |sql: String, cut_every_ms| {
        let settings = SpeedSettings {
            cut_every_ms,
            ..with_checkpoints(&world, 3_600_000)
        };
        let running = world.start_with(catalog(&sql).await, &Cut::default(), settings).await;
        running.layer.wait_until(&world.ends().await).await.unwrap();
        events(&running.end().await)
    };
    let more = format!("{STREAM}{VIEWS} CREATE VIEW more AS SELECT page, count(*) AS n FROM clicks GROUP BY page;");
    assert_eq!(start(format!("{STREAM}{VIEWS}"), 10_000).await, 0);
    assert_eq!(start(more.clone(), 10_000).await, all, "a new view");
    assert_eq!(start(more, 10_000).await, 0);
    assert_eq!(start(format!("{STREAM}{VIEWS}"), 10_000).await, 0, "a view less");
    assert_eq!(
        start(format!("{STREAM}{VIEWS}"), 20_000).await,
        all,
        "another tick length"
    );
    let judged = STREAM.replace("lateness = '20 seconds'", "lateness = '21 seconds'");
    assert_eq!(start(format!("{judged}{VIEWS}"), 20_000).await, all, "another lateness");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_beyond_the_horizons_keys_is_used_as_far_as_they_reach() {
    let world = checkpointed(72).await;
    let all: u64 = world.ends().await.values().map(|end| end.0).sum();
    let archived = world.cut_at(world.cut_at(world.some_tick()).await.tick.unwrap()).await;
    let reaches: BTreeMap<TopicPartition, Offset> = archived
        .partitions
        .iter()
        .map(|cut| (cut.partition.clone(), cut.next))
        .collect();
    *world.horizon.reaches.lock().unwrap() = Some(reaches.clone());
    let least: u64 = all - reaches.values().map(|offset| offset.0).sum::<u64>();
    let running = world.start(&Cut::default(), with_checkpoints(&world, 3_600_000)).await;
    // The checkpoint reaches the end already: what is given up of it is given up only when the horizon is asked for.
    running.wait_for("replayed", |status| events(status) >= least).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    let replayed = events(&running.end().await);
    assert!(
        0 < least && least <= replayed && replayed <= all,
        "{replayed} of {all}, at least {least}"
    );
}

/// On one thread, so that the first look comes before anything else.
#[tokio::test]
async fn of_a_checkpoint_no_more_is_shown_than_stays_and_no_more_given_up_than_must() {
    let world = checkpointed(74).await;
    let all: u64 = world.ends().await.values().map(|end| end.0).sum();
    let archived = world.cut_at(world.newest_tick()).await;
    let reaches = archived.partitions.iter().map(|cut| (cut.partition.clone(), cut.next));
    *world.horizon.reaches.lock().unwrap() = Some(reaches.collect());
    let beyond: u64 = all - archived.partitions.iter().map(|cut| cut.next.0).sum::<u64>();
    assert!(0 < beyond && beyond < all / 4, "{beyond} of {all}: a segment at most");

    let log = Gated::new(&world.log, false);
    let (catalog, settings) = (Arc::clone(&world.catalog), with_checkpoints(&world, 3_600_000));
    let running = world
        .start_on(Arc::clone(&log) as _, catalog, &Cut::default(), settings)
        .await;
    let mut shown = running.layer.snapshot();
    let shown_all =
        |status: &[PartitionStatus]| status.iter().all(|one| one.until == next_of(&archived, &one.partition));
    let on_the_way = std::cell::RefCell::new(&mut shown);
    running
        .wait_for("shown as far as the horizon reaches", |status| {
            let now = running.layer.snapshot();
            let mut before = on_the_way.borrow_mut();
            for (partition, view) in &now.partitions {
                assert!(
                    view.until >= before.partitions[partition].until,
                    "{partition} went back"
                );
            }
            **before = now;
            shown_all(status)
        })
        .await;
    for one in running.layer.status() {
        let cut = archived.of(&one.partition).unwrap();
        assert_eq!(one.complete_to, cut.marks.record_time, "{}", one.partition);
    }
    log.set(true);
    world.assert_catches_up(&running, &Cut::default()).await;
    assert_eq!(
        events(&running.end().await),
        beyond,
        "only what lies beyond is folded again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_beyond_the_end_of_the_log_is_replayed() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 75).await;
    world.append(30, 4_000).await;
    let shorter = world.folder.path().join("shorter");
    copy(&world.folder.path().join("log"), &shorter);
    world.append(30, 4_000).await;
    let running = world.start(&Cut::default(), with_checkpoints(&world, 3_600_000)).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    running.end().await;

    // As after a disk lost what it had said to be synced: the same incarnation, and less of it.
    let log = EmbeddedLog::open(EmbeddedSettings::new(shorter), Arc::new(world.clock.clone())).unwrap();
    let mut ends = BTreeMap::new();
    for partition in world.partitions() {
        let end = log.span(&partition).await.unwrap().end;
        ends.insert(partition, end);
    }
    let (catalog, settings) = (Arc::clone(&world.catalog), with_checkpoints(&world, 3_600_000));
    let running = world.start_on(log, catalog, &Cut::default(), settings).await;
    running.layer.wait_until(&ends).await.unwrap();
    for one in running.end().await {
        assert_eq!((one.until, one.events), (ends[&one.partition], ends[&one.partition].0));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if entry.is_dir() {
            copy(&entry, &to.join(name));
        } else {
            std::fs::copy(entry, to.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_leaves_behind_is_ignored_and_removed() {
    let world = checkpointed(73).await;
    let before = checkpoint_files(&world);
    for manifest in before.iter().filter(|path| path.ends_with("manifest.json")) {
        let folder = manifest.parent().unwrap();
        std::fs::write(folder.join("half.pack"), b"half a pack").unwrap();
        let text = std::fs::read(manifest).unwrap();
        std::fs::write(folder.join("manifest.json.new"), &text[..text.len() / 2]).unwrap();
    }
    assert_eq!(restarted(&world, &Cut::default()).await, 0);
    world.append(40, 4_000).await;
    assert!(restarted(&world, &Cut::default()).await > 0);
    let left = checkpoint_files(&world);
    assert!(
        !left
            .iter()
            .any(|path| path.ends_with("half.pack") || path.ends_with("manifest.json.new")),
        "{left:?}"
    );
}

#[test]
fn killed_at_any_moment_the_answer_is_the_same() {
    let steady = tokio::runtime::Runtime::new().unwrap();
    let world = steady.block_on(World::new(&format!("{STREAM}{VIEWS}"), 80));
    let mut from_checkpoints = 0;
    for _ in 0..25 {
        steady.block_on(world.append(10, 4_000));
        let mortal = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let wait = Duration::from_micros(world.random.lock().unwrap().random_range(0..60_000));
        mortal.block_on(async {
            let running = world.start(&Cut::default(), with_checkpoints(&world, 1)).await;
            tokio::time::sleep(wait).await;
            // Offsets begin at 0 and have no holes: what was not folded came from a checkpoint.
            let restored = |one: &PartitionStatus| one.until.0 > one.events;
            from_checkpoints += usize::from(running.layer.status().iter().any(restored));
        });
        // Tasks die wherever they wait; a checkpoint under way is finished, as it has no other life to meet.
        mortal.shutdown_timeout(Duration::from_secs(10));
    }
    assert!(from_checkpoints > 5, "{from_checkpoints} starts from a checkpoint");
    steady.block_on(async {
        let last = world.start(&Cut::default(), with_checkpoints(&world, 1)).await;
        world.assert_catches_up(&last, &Cut::default()).await;
        for _ in 0..5 {
            let cut = world.cut_at(world.some_tick()).await;
            world.assert_agrees(&last.layer.snapshot(), &cut).await;
        }
        last.end().await;
    });
    let packs = checkpoint_files(&world).len();
    // A checkpoint every millisecond; a pack stays while a segment that nothing was merged into yet lies in it.
    assert!(packs < 150, "{packs} files");
}
