//! Realtime views in another process, and partitions that are taken and given up.

use std::collections::BTreeSet;

use foldline_event_log::Cut;
use foldline_speed_layer::Snapshot;
use foldline_speed_layer::wire::{FRAME_PREFIX, Reader, Update, WireError, Writer};

use crate::world::{STREAM, VIEWS, World, catalog};

/// Has `reader` take `frame` as it comes over the wire.
fn take(reader: &mut Reader, frame: &[u8]) -> Result<Update, WireError> {
    let (prefix, body) = frame.split_first_chunk::<FRAME_PREFIX>().unwrap();
    let (bytes, crc32) = Reader::expect(*prefix);
    assert_eq!(bytes, body.len() as u64);
    reader.take(body, crc32)
}

/// What another process shows.
struct Elsewhere {
    reader: Reader,
    shown: Snapshot,
}

impl Elsewhere {
    fn show(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            match take(&mut self.reader, frame).unwrap() {
                Update::Nothing => {}
                Update::Folded(partition, view) => drop(self.shown.partitions.insert(partition, view)),
                Update::GivenUp(partition) => drop(self.shown.partitions.remove(&partition)),
            }
        }
    }
}

/// The frames that bring a reader of `writer` to `snapshot`.
fn frames(writer: &mut Writer, snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let sent = writer.send(snapshot, &mut |frame| {
        frames.push(frame);
        true
    });
    assert!(sent.unwrap());
    frames
}

fn bytes(frames: &[Vec<u8>]) -> usize {
    frames.iter().map(Vec::len).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_shows_what_is_folded_here_and_gets_nothing_twice() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 41).await;
    let running = world.start(&Cut::default(), world.settings()).await;
    let mut writer = Writer::default();
    let mut elsewhere = Elsewhere {
        reader: Reader::new(&world.catalog),
        shown: Snapshot::default(),
    };
    for _ in 0..12 {
        world.append(25, 4_000).await;
        world.assert_catches_up(&running, &Cut::default()).await;
        let snapshot = running.layer.snapshot();
        elsewhere.show(&frames(&mut writer, &snapshot));
        assert!(frames(&mut writer, &snapshot).is_empty(), "nothing is new");
        world.assert_agrees(&elsewhere.shown, &Cut::default()).await;
    }
    world.append(2, 10).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    let snapshot = running.layer.snapshot();
    let new = frames(&mut writer, &snapshot);
    let all = frames(&mut Writer::default(), &snapshot);
    assert!(
        bytes(&new) * 4 < bytes(&all),
        "{} of {} bytes",
        bytes(&new),
        bytes(&all)
    );
    elsewhere.show(&new);
    world.assert_agrees(&elsewhere.shown, &Cut::default()).await;

    // What is no longer folded there is no longer shown here.
    let first = world.partitions()[0].clone();
    running.layer.assign(&BTreeSet::from([first.clone()])).await;
    elsewhere.show(&frames(&mut writer, &running.layer.snapshot()));
    let shown: Vec<_> = elsewhere.shown.partitions.keys().collect();
    assert_eq!(shown, [&first]);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_that_only_the_other_side_knows_are_left_out() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 42).await;
    world.append(40, 4_000).await;
    let running = world.start(&Cut::default(), world.settings()).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    let fewer = catalog(&format!(
        "{STREAM}CREATE VIEW whole AS SELECT count(*) AS n, count(DISTINCT user_id) AS users FROM clicks;"
    ))
    .await;
    let mut elsewhere = Elsewhere {
        reader: Reader::new(&fewer),
        shown: Snapshot::default(),
    };
    elsewhere.show(&frames(&mut Writer::default(), &running.layer.snapshot()));
    let whole = &fewer.view("whole").unwrap().id;
    for view in elsewhere.shown.partitions.values() {
        for segment in &view.segments {
            assert_eq!(segment.views.keys().collect::<Vec<_>>(), [whole]);
        }
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_frames_and_other_versions_are_refused() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 43).await;
    world.append(5, 1_000).await;
    let running = world.start(&Cut::default(), world.settings()).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    let all = frames(&mut Writer::default(), &running.layer.snapshot());
    let frame = &all[0];
    assert!(take(&mut Reader::new(&world.catalog), frame).is_ok());
    for at in (FRAME_PREFIX..frame.len()).step_by(97) {
        let mut damaged = frame.clone();
        damaged[at] ^= 1;
        let refused = take(&mut Reader::new(&world.catalog), &damaged);
        assert!(matches!(refused, Err(WireError::Damaged(_))), "byte {at}: {refused:?}");
    }
    // A frame that builds upon others, without these.
    let mut writer = Writer::default();
    frames(&mut writer, &running.layer.snapshot());
    world.append(3, 10).await;
    world.assert_catches_up(&running, &Cut::default()).await;
    let later = frames(&mut writer, &running.layer.snapshot());
    let mut refused = later.iter().map(|frame| take(&mut Reader::new(&world.catalog), frame));
    assert!(refused.any(|refused| matches!(refused, Err(WireError::Damaged(_)))));

    let header = br#"{"version":2,"partition":"whatever comes next"}"#;
    let mut body = (header.len() as u32).to_le_bytes().to_vec();
    body.extend(header);
    let refused = Reader::new(&world.catalog).take(&body, crc32fast::hash(&body));
    assert!(matches!(refused, Err(WireError::Version { found: 2 })), "{refused:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_move_to_and_fro_are_folded_once_by_each() {
    let world = World::new(&format!("{STREAM}{VIEWS}"), 44).await;
    let settings = foldline_speed_layer::SpeedSettings {
        checkpoint_every_ms: 1,
        ..world.settings()
    };
    let other = foldline_speed_layer::SpeedSettings {
        checkpoints: world.folder.path().join("others"),
        ..settings.clone()
    };
    let (here, there) = (
        world.start(&Cut::default(), settings).await,
        world.start(&Cut::default(), other).await,
    );
    let all = world.partitions();
    let mut folded = 0;
    for round in 0..8 {
        world.append(20, 4_000).await;
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..).zip(&all).partition(|(partition, _)| (partition + round) % 2 == 0);
        let set = |some: &[(usize, &foldline_event_log::TopicPartition)]| -> BTreeSet<_> {
            some.iter().map(|(_, partition)| (*partition).clone()).collect()
        };
        here.layer.assign(&set(&ours)).await;
        there.layer.assign(&set(&theirs)).await;
        let ends = world.ends().await;
        let of = |some: &[(usize, &foldline_event_log::TopicPartition)]| {
            some.iter()
                .map(|(_, partition)| ((*partition).clone(), ends[*partition]))
                .collect()
        };
        here.layer.wait_until(&of(&ours)).await.unwrap();
        there.layer.wait_until(&of(&theirs)).await.unwrap();
        // Since each partition was taken.
        folded += here
            .layer
            .status()
            .iter()
            .chain(&there.layer.status())
            .map(|one| one.events)
            .sum::<u64>();
        let mut both = here.layer.snapshot();
        assert_eq!(both.partitions.len(), ours.len());
        both.partitions.extend(there.layer.snapshot().partitions);
        world.assert_agrees(&both, &Cut::default()).await;
    }
    // From the checkpoints that each wrote when it gave them up; else half of them would be folded again every time.
    let records: u64 = world.ends().await.values().map(|end| end.0).sum();
    assert!(folded < 5 * records / 2, "{folded} of {records} records were folded");
    here.end().await;
    there.end().await;
}
