//! The checks that every shared store passes. They panic with what is wrong, as tests do, and promise nothing of their
//! own: each check is one sentence of [`SharedStore`](super::SharedStore), and none knows which store it runs on.
//!
//! Every check takes partitions and views of its own, so that all of them can run on one store.

use std::sync::Arc;

use foldline_event_log::{Offset, Partition, TopicPartition};
use uuid::Uuid;

use super::{BUCKETS, Cell, HEADS, Head, ONE_BUCKET, Rank, SharedStore, Stored, Versions, Wanted};

/// More than a page of any store.
const MANY: usize = 12_000;

/// Runs every check on `store`.
pub async fn check_all(store: Arc<dyn SharedStore>) {
    versions_come_back(store.as_ref()).await;
    only_what_is_asked_for_comes_back(store.as_ref()).await;
    the_same_once_more_changes_nothing(store.as_ref()).await;
    many_and_large_versions_come_back(store.as_ref()).await;
    chunks_come_back_also_where_some_are_missing(store.as_ref()).await;
    writers_at_once_lose_nothing(Arc::clone(&store)).await;
    a_removal_hides_nothing_else(store.as_ref()).await;
    heads_come_newest_first(store.as_ref()).await;
    records_come_back(store.as_ref()).await;
    retired_records_are_gone_and_newer_ones_stay(store.as_ref()).await;
}

/// Every version of a key is kept, with its state.
pub async fn versions_come_back(store: &dyn SharedStore) {
    let (view, segment) = (fresh_view(), Uuid::new_v4());
    for (until, state) in [(10, "at 10"), (30, "at 30"), (20, "at 20")] {
        let some = versions(&view, segment, until, ONE_BUCKET, &[(b"k", state)]);
        store.write(&some).await.expect("written");
    }
    let found = read(store, &view, ONE_BUCKET, &[segment], b"", b"\xff").await;
    let wanted = [(10, "at 10"), (20, "at 20"), (30, "at 30")];
    let wanted = wanted.map(|(until, state)| stored(segment, ONE_BUCKET, b"k", until, state));
    assert_eq!(
        found, wanted,
        "a later version overwrites no earlier one, nor the other way round"
    );
}

/// Other views, buckets, segments and keys are other versions; ranges are half-open and in the order of bytes.
pub async fn only_what_is_asked_for_comes_back(store: &dyn SharedStore) {
    let (view, other) = (fresh_view(), fresh_view());
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let keys: [(&[u8], &str); 6] = [
        (b"\x00", "zero"),
        (b"a", "a"),
        (b"a\x00", "a0"),
        (b"ab", "ab"),
        (b"b", "b"),
        (b"\xfe\xff", "high"),
    ];
    for segment in [one, two] {
        for bucket in [ONE_BUCKET, 0, BUCKETS - 1] {
            store
                .write(&versions(&view, segment, 5, bucket, &keys))
                .await
                .expect("written");
        }
    }
    store
        .write(&versions(&other, one, 5, 0, &[(b"a", "other")]))
        .await
        .expect("written");
    let ranges: [(&[u8], &[u8], &[&str]); 5] = [
        (b"", b"\xff", &["zero", "a", "a0", "ab", "b", "high"]),
        (b"a", b"b", &["a", "a0", "ab"]),
        (b"a\x00", b"ab", &["a0"]),
        (b"b", b"b\xff", &["b"]),
        (b"c", b"d", &[]),
    ];
    for (from, until, wanted) in ranges {
        for segments in [&[one][..], &[two, one], &[Uuid::new_v4()]] {
            let found = read(store, &view, 0, segments, from, until).await;
            for segment in segments {
                let known = [one, two].contains(segment);
                let states = found.iter().filter(|version| version.segment == *segment);
                let states: Vec<_> = states.map(|version| version.cell.state.as_ref()).collect();
                let wanted: Vec<_> = wanted.iter().filter(|_| known).map(|state| state.as_bytes()).collect();
                assert_eq!(states, wanted, "{from:?}..{until:?} of {} segments", segments.len());
            }
            assert!(found.iter().all(|version| segments.contains(&version.segment)));
        }
    }
    assert!(read(store, &view, 1, &[one, two], b"", b"\xff").await.is_empty());
    assert!(read(store, &view, 0, &[], b"", b"\xff").await.is_empty());
}

/// Writing a version again changes nothing.
pub async fn the_same_once_more_changes_nothing(store: &dyn SharedStore) {
    let (view, segment) = (fresh_view(), Uuid::new_v4());
    let some = versions(&view, segment, 7, 3, &[(b"k", "state"), (b"l", "")]);
    for _ in 0..3 {
        store.write(&some).await.expect("written");
    }
    let found = read(store, &view, 3, &[segment], b"", b"\xff").await;
    assert_eq!(
        found,
        [stored(segment, 3, b"k", 7, "state"), stored(segment, 3, b"l", 7, "")]
    );
    store
        .write(&versions(&view, segment, 8, 3, &[]))
        .await
        .expect("nothing is written");
}

/// A read gives back all of many versions, and long keys and states.
pub async fn many_and_large_versions_come_back(store: &dyn SharedStore) {
    let (view, segment) = (fresh_view(), Uuid::new_v4());
    let names: Vec<Vec<u8>> = (0..MANY).map(|number| format!("{number:09}").into_bytes()).collect();
    let many: Vec<(&[u8], &str)> = names.iter().map(|name| (name.as_slice(), "state")).collect();
    store
        .write(&versions(&view, segment, 1, 0, &many))
        .await
        .expect("written");
    let found = read(store, &view, 0, &[segment], b"", b"\xff").await;
    assert_eq!(found.len(), MANY);
    assert!(found.iter().zip(&names).all(|(version, name)| version.cell.key == name));
    let some = read(store, &view, 0, &[segment], &names[4_000], &names[4_010]).await;
    assert_eq!(some.len(), 10);

    let (key, state) = (vec![b'k'; 8_000], "s".repeat(1 << 20));
    let large = versions(&view, segment, 2, 1, &[(&key, &state), (b"l", &state)]);
    store.write(&large).await.expect("written");
    let found = read(store, &view, 1, &[segment], b"", b"\xff").await;
    assert_eq!(
        found,
        [stored(segment, 1, &key, 2, &state), stored(segment, 1, b"l", 2, &state)]
    );
}

/// Every chunk of a version is kept by itself, with its number and how many there are; of several versions, too.
pub async fn chunks_come_back_also_where_some_are_missing(store: &dyn SharedStore) {
    let (view, segment) = (fresh_view(), Uuid::new_v4());
    let mut wanted = Vec::new();
    for (until, key, written) in [(10, b"k", 0..3), (20, b"k", 1..2), (10, b"l", 0..3), (30, b"k", 0..1)] {
        let chunks = if until == 30 { 1 } else { 3 };
        for chunk in written {
            let mut some = versions(&view, segment, until, 4, &[(key, &format!("{chunk} at {until}"))]);
            (some.cells[0].chunk, some.cells[0].chunks) = (chunk, chunks);
            store.write(&some).await.expect("written");
            wanted.push(Stored {
                segment,
                until: Offset(until),
                cell: some.cells.swap_remove(0),
            });
        }
    }
    sort(&mut wanted);
    assert_eq!(read(store, &view, 4, &[segment], b"", b"\xff").await, wanted);
}

/// Writers at once, of the same and of other versions, lose nothing of each other.
pub async fn writers_at_once_lose_nothing(store: Arc<dyn SharedStore>) {
    let (view, segment) = (fresh_view(), Uuid::new_v4());
    let writers = (0..8).map(|writer: u64| {
        let (store, view) = (Arc::clone(&store), view.clone());
        tokio::spawn(async move {
            for until in (writer / 2)..20 {
                let state = format!("at {until}");
                let some = versions(&view, segment, until, 2, &[(b"same", &state), (b"too", &state)]);
                store.write(&some).await.expect("written");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer ends");
    }
    let found = read(&*store, &view, 2, &[segment], b"", b"\xff").await;
    assert_eq!(found.len(), 40);
    for version in found {
        assert_eq!(version.cell.state, format!("at {}", version.until));
    }
}

/// What is removed is gone; other segments, buckets and views, and what is written to them later, stay.
pub async fn a_removal_hides_nothing_else(store: &dyn SharedStore) {
    let (view, other) = (fresh_view(), fresh_view());
    let (gone, stays, later) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    for segment in [gone, stays] {
        for bucket in [0, 1] {
            for view in [&view, &other] {
                let some = versions(view, segment, 5, bucket, &[(b"k", "state")]);
                store.write(&some).await.expect("written");
            }
        }
    }
    for _ in 0..2 {
        store.remove(&view, &[0], gone).await.expect("removed");
    }
    store
        .write(&versions(&view, later, 6, 0, &[(b"k", "later")]))
        .await
        .expect("written");
    store
        .write(&versions(&view, stays, 6, 0, &[(b"k", "later")]))
        .await
        .expect("written");
    let all = [gone, stays, later];
    let found = read(store, &view, 0, &all, b"", b"\xff").await;
    let mut wanted = vec![
        stored(stays, 0, b"k", 5, "state"),
        stored(stays, 0, b"k", 6, "later"),
        stored(later, 0, b"k", 6, "later"),
    ];
    sort(&mut wanted);
    assert_eq!(found, wanted);
    assert_eq!(read(store, &view, 1, &all, b"", b"\xff").await.len(), 2);
    assert_eq!(read(store, &other, 0, &all, b"", b"\xff").await.len(), 2);
}

/// Heads come by era, offset and number, newest first, in whatever order they were written, and not more than are looked at.
pub async fn heads_come_newest_first(store: &dyn SharedStore) {
    let partition = fresh_partition();
    assert_eq!(store.heads(&partition).await.expect("no heads"), []);
    let ranks = [
        (0, 10, 1),
        (0, 10, 2),
        (0, 30, 3),
        (1, 5, 4),
        (0, 20, 9),
        (1, 5, 6),
        (1, 5, 5),
    ];
    let mut wanted: Vec<Head> = ranks.into_iter().map(head).collect();
    for head in &wanted {
        store.cover(&partition, head, b"says").await.expect("covered");
    }
    wanted.sort_by_key(|head| std::cmp::Reverse(head.rank));
    assert_eq!(store.heads(&partition).await.expect("heads"), wanted);
    for number in 0..20 {
        store
            .cover(&partition, &head((0, 1, number)), b"old")
            .await
            .expect("covered");
    }
    wanted.truncate(HEADS);
    assert_eq!(store.heads(&partition).await.expect("heads")[..wanted.len()], wanted);
    assert_eq!(store.heads(&partition).await.expect("heads").len(), HEADS);
    assert_eq!(store.heads(&fresh_partition()).await.expect("another partition"), []);
}

/// What a record says comes back; the same record once more changes nothing, another one at its rank is another one.
pub async fn records_come_back(store: &dyn SharedStore) {
    let partition = fresh_partition();
    let (one, two) = (head((0, 10, 1)), head((0, 10, 1)));
    for _ in 0..2 {
        store.cover(&partition, &one, b"one").await.expect("covered");
    }
    store.cover(&partition, &two, b"two").await.expect("covered");
    assert_eq!(store.heads(&partition).await.expect("heads").len(), 2);
    let says = async |head: &Head| store.record(&partition, head).await.expect("read");
    assert_eq!(says(&one).await.as_deref(), Some(&b"one"[..]));
    assert_eq!(says(&two).await.as_deref(), Some(&b"two"[..]));
    assert_eq!(says(&head((0, 10, 1))).await, None);
}

/// Records below a rank go, the others stay, and so do those that are written later.
pub async fn retired_records_are_gone_and_newer_ones_stay(store: &dyn SharedStore) {
    let partition = fresh_partition();
    let heads = [(0, 10, 1), (0, 10, 2), (0, 20, 3), (0, 20, 4), (1, 0, 5)].map(head);
    for head in &heads {
        store.cover(&partition, head, b"says").await.expect("covered");
    }
    for _ in 0..2 {
        store.retire(&partition, heads[3].rank).await.expect("retired");
    }
    assert_eq!(store.heads(&partition).await.expect("heads"), [heads[4], heads[3]]);
    let later = head((1, 1, 6));
    store.cover(&partition, &later, b"says").await.expect("covered");
    assert_eq!(
        store.heads(&partition).await.expect("heads"),
        [later, heads[4], heads[3]]
    );
}

fn fresh_view() -> String {
    format!("view-{}", Uuid::new_v4())
}

fn fresh_partition() -> TopicPartition {
    TopicPartition {
        topic: "contract".to_owned(),
        incarnation: Uuid::new_v4(),
        partition: Partition(3),
    }
}

fn head((era, until, number): (i64, u64, i64)) -> Head {
    Head {
        rank: Rank {
            era,
            until: Offset(until),
            number,
        },
        id: Uuid::new_v4(),
        previous: (number % 2 == 0).then(Uuid::new_v4),
    }
}

fn versions(view: &str, segment: Uuid, until: u64, bucket: i32, rows: &[(&[u8], &str)]) -> Versions {
    let cells = rows.iter().map(|(key, state)| cell(bucket, key, state));
    Versions {
        view: view.to_owned(),
        segment,
        until: Offset(until),
        cells: cells.collect(),
    }
}

fn cell(bucket: i32, key: &[u8], state: &str) -> Cell {
    Cell {
        bucket,
        key: key.to_vec().into(),
        chunk: 0,
        chunks: 1,
        state: state.to_owned().into(),
    }
}

fn stored(segment: Uuid, bucket: i32, key: &[u8], until: u64, state: &str) -> Stored {
    Stored {
        segment,
        until: Offset(until),
        cell: cell(bucket, key, state),
    }
}

async fn read(
    store: &dyn SharedStore,
    view: &str,
    bucket: i32,
    segments: &[Uuid],
    from: &[u8],
    until: &[u8],
) -> Vec<Stored> {
    let wanted = Wanted {
        view,
        bucket,
        segments,
        from,
        until,
        cell_bytes: 2 << 20,
    };
    let mut found = store.read(wanted).await.expect("read");
    sort(&mut found);
    found
}

fn sort(versions: &mut [Stored]) {
    versions.sort_by(|one, other| {
        let order = |version: &Stored| {
            (
                version.segment,
                version.cell.key.clone(),
                version.until,
                version.cell.chunk,
            )
        };
        order(one).cmp(&order(other))
    });
}
