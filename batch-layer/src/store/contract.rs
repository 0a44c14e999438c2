//! The checks that every store passes which foldline is to run on. They panic with what is wrong, as tests do, and none
//! knows which store it runs on.
//!
//! Every check works below a folder of its own, so that all of them can run in one bucket.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Created, Record, StoreError, create_only, put_own, read_file, read_json};

/// More keys than a page of a listing holds.
const KEYS: usize = 1_100;
/// Requests under way at the same time.
const AT_ONCE: usize = 16;
const RACES: usize = 10;
const WRITERS: usize = 32;
/// As large as an archive file may become by default, compressed badly.
const LARGE: usize = 32 << 20;

/// Runs every check.
pub async fn check_all(store: &Arc<dyn ObjectStore>) {
    of_many_writers_one_wins(store).await;
    an_own_file_is_never_overwritten(store).await;
    what_is_acknowledged_is_there_at_once(store).await;
    a_large_file_comes_back_whole_and_by_ranges(store).await;
    listings_are_complete_and_start_behind_any_key(store).await;
    what_is_removed_is_gone(store).await;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    attempt: Uuid,
}

impl Record for Note {
    const VERSION: u32 = 1;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

fn note() -> Note {
    Note {
        version: 1,
        attempt: Uuid::new_v4(),
    }
}

fn folder() -> String {
    format!("contract/{}", Uuid::new_v4())
}

/// A create-only put has one winner, whoever else puts at the same time or later, and all others learn who it is.
pub async fn of_many_writers_one_wins(store: &Arc<dyn ObjectStore>) {
    let folder = folder();
    for race in 0..RACES {
        let path = Path::from(format!("{folder}/{race}.json"));
        let writer = |_| {
            let (store, path) = (Arc::clone(store), path.clone());
            tokio::spawn(async move {
                let mine = note();
                let outcome = create_only(store.as_ref(), &path, &mine).await;
                (outcome.expect("created, or told who has"), mine)
            })
        };
        let mut winners = Vec::new();
        let mut named = Vec::new();
        for outcome in join_all((0..WRITERS).map(writer)).await {
            match outcome.expect("no writer panics") {
                (Created::Mine, mine) => winners.push(mine),
                (Created::Theirs(theirs), _) => named.push(theirs),
            }
        }
        assert_eq!(winners.len(), 1, "race {race}: winners");
        assert_eq!(named, vec![winners[0].clone(); WRITERS - 1], "race {race}");
        let late = create_only(store.as_ref(), &path, &note()).await.expect("told who has");
        assert_eq!(late, Created::Theirs(winners[0].clone()));
        let read: Note = read_json(store.as_ref(), &path).await.expect("it is there");
        assert_eq!(read, winners[0]);
    }
}

/// A file under a name of the writer's own is stored once, and putting it again changes nothing.
pub async fn an_own_file_is_never_overwritten(store: &Arc<dyn ObjectStore>) {
    let path = Path::from(format!("{}/own.parquet", folder()));
    put_own(store.as_ref(), &path, Bytes::from_static(b"one"))
        .await
        .expect("stored");
    put_own(store.as_ref(), &path, Bytes::from_static(b"one"))
        .await
        .expect("left alone");
    let other = put_own(store.as_ref(), &path, Bytes::from_static(b"other")).await;
    assert!(
        matches!(other, Err(StoreError::Failed { .. })),
        "another file got {other:?}"
    );
    let crc32 = crc32fast::hash(b"one");
    assert_eq!(
        read_file(store.as_ref(), &path, 3, crc32).await.expect("it is there"),
        "one"
    );
}

/// What was put can be read and is listed as soon as the put returns.
pub async fn what_is_acknowledged_is_there_at_once(store: &Arc<dyn ObjectStore>) {
    let folder = folder();
    for number in 0..50_u8 {
        let path = Path::from(format!("{folder}/{number:03}"));
        put_own(store.as_ref(), &path, Bytes::from(vec![number]))
            .await
            .expect("stored");
        let read = read_file(store.as_ref(), &path, 1, crc32fast::hash(&[number])).await;
        assert_eq!(read.expect("it is there")[0], number);
        let listed = list(store, &folder, None).await;
        assert_eq!(listed.len(), usize::from(number) + 1, "after {path} was stored");
    }
}

/// A file of many megabytes comes back as it was, also in parts.
pub async fn a_large_file_comes_back_whole_and_by_ranges(store: &Arc<dyn ObjectStore>) {
    let path = Path::from(format!("{}/large", folder()));
    let bytes: Vec<u8> = (0..LARGE).map(|place| (place ^ (place >> 11)) as u8).collect();
    let bytes = Bytes::from(bytes);
    put_own(store.as_ref(), &path, bytes.clone()).await.expect("stored");
    let read = read_file(store.as_ref(), &path, LARGE as u64, crc32fast::hash(&bytes)).await;
    assert!(
        read.expect("it is there") == bytes,
        "the large file came back otherwise"
    );
    let ranges = [0..1, 7..4_000_000, LARGE as u64 - 9..LARGE as u64];
    let parts = store.get_ranges(&path, &ranges).await.expect("parts of it are there");
    for (range, part) in ranges.iter().zip(parts) {
        let expected = &bytes[range.start as usize..range.end as usize];
        assert!(part == expected, "bytes {range:?} came back otherwise");
    }
}

/// A listing has every key below its folder and no other, over all of its pages, and can start behind any key.
pub async fn listings_are_complete_and_start_behind_any_key(store: &Arc<dyn ObjectStore>) {
    let folder = folder();
    let name = |number: usize| format!("{folder}/{number:05}.json");
    let puts = (0..KEYS).map(|number| {
        let path = Path::from(name(number));
        async move { put_own(store.as_ref(), &path, Bytes::from_static(b"{}")).await }
    });
    let puts: Vec<_> = futures::stream::iter(puts).buffer_unordered(AT_ONCE).collect().await;
    assert!(puts.iter().all(Result::is_ok), "{puts:?}");
    put_own(store.as_ref(), &Path::from(format!("{folder}-beside/x")), Bytes::new())
        .await
        .expect("stored");
    let all: BTreeSet<String> = (0..KEYS).map(name).collect();
    assert_eq!(list(store, &folder, None).await, all);
    for behind in [0, 1, 999, 1_000, KEYS - 1] {
        let expected: BTreeSet<String> = (behind + 1..KEYS).map(name).collect();
        assert_eq!(
            list(store, &folder, Some(&name(behind))).await,
            expected,
            "behind key {behind}"
        );
    }
    assert_eq!(list(store, &format!("{folder}-nothing"), None).await, BTreeSet::new());
}

/// A removed object is missing at once; removing it again, or what never was, does no harm.
pub async fn what_is_removed_is_gone(store: &Arc<dyn ObjectStore>) {
    let folder = folder();
    let path = Path::from(format!("{folder}/gone.json"));
    create_only(store.as_ref(), &path, &note()).await.expect("created");
    store.delete(&path).await.expect("removed");
    let read = read_json::<Note>(store.as_ref(), &path).await;
    assert!(matches!(read, Err(StoreError::Missing { .. })), "{read:?}");
    assert_eq!(list(store, &folder, None).await, BTreeSet::new());
    match store.delete(&path).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => panic!("removing what is gone: {error}"),
    }
}

async fn list(store: &Arc<dyn ObjectStore>, folder: &str, behind: Option<&str>) -> BTreeSet<String> {
    let folder = Path::from(folder);
    let listing = match behind {
        Some(behind) => store.list_with_offset(Some(&folder), &Path::from(behind)),
        None => store.list(Some(&folder)),
    };
    let listed: Vec<_> = listing.try_collect().await.expect("listed");
    let keys: BTreeSet<String> = listed.iter().map(|object| object.location.to_string()).collect();
    assert_eq!(keys.len(), listed.len(), "a key is listed twice");
    keys
}
