//! Create-only puts and checked reads.

use std::sync::Arc;

use bytes::Bytes;
use foldline_batch_layer::store::{Created, Record, StoreError, create_only, local, put_own, read_file, read_json};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::faulty::{Fault, Faulty};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    attempt: Uuid,
    text: String,
}

impl Record for Note {
    const VERSION: u32 = 1;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

fn note(text: &str) -> Note {
    Note {
        version: 1,
        attempt: Uuid::new_v4(),
        text: text.to_owned(),
    }
}

fn store() -> (tempfile::TempDir, Faulty) {
    let folder = tempfile::tempdir().unwrap();
    let faulty = Faulty::new(local(&folder.path().join("new/store")).unwrap());
    (folder, faulty)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_32_writers_one_wins_and_all_others_learn_who() {
    let (_folder, store) = store();
    for round in 0..10 {
        let path = Path::from(format!("race/{round}.json"));
        let writers: Vec<_> = (0..32)
            .map(|writer| {
                let (store, path) = (store.clone(), path.clone());
                tokio::spawn(async move {
                    let mine = note(&writer.to_string());
                    (create_only(&store, &path, &mine).await.unwrap(), mine)
                })
            })
            .collect();
        let mut winners = Vec::new();
        let mut named = Vec::new();
        for writer in writers {
            match writer.await.unwrap() {
                (Created::Mine, mine) => winners.push(mine),
                (Created::Theirs(theirs), _) => named.push(theirs),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(named, vec![winners[0].clone(); 31]);
        assert_eq!(read_json::<Note>(&store, &path).await.unwrap(), winners[0]);
    }
}

#[tokio::test]
async fn a_lost_reply_is_not_a_lost_race() {
    let (_folder, store) = store();
    let path = Path::from("a.json");
    store.plan("a.json", &[Fault::LostReply]);
    let mine = note("mine");
    assert_eq!(create_only(&store, &path, &mine).await.unwrap(), Created::Mine);
    assert_eq!(store.puts(), 2, "put again, and told that it exists");
    let other = note("other");
    store.plan("a.json", &[Fault::FailedBefore]);
    assert_eq!(
        create_only(&store, &path, &other).await.unwrap(),
        Created::Theirs(mine.clone())
    );
    assert_eq!(read_json::<Note>(&store, &path).await.unwrap(), mine);
}

#[tokio::test]
async fn what_was_not_stored_is_tried_again() {
    let (_folder, store) = store();
    for fault in [Fault::FailedBefore, Fault::Met] {
        let path = Path::from(format!("{fault:?}.json"));
        store.plan("json", &[fault, fault]);
        let mine = note("mine");
        assert_eq!(create_only(&store, &path, &mine).await.unwrap(), Created::Mine);
        assert_eq!(store.puts(), 3);
        assert_eq!(read_json::<Note>(&store, &path).await.unwrap(), mine);
    }
}

#[tokio::test]
async fn tries_are_bounded_and_refusals_are_not_repeated() {
    let (_folder, store) = store();
    let path = Path::from("a.json");
    for (fault, puts) in [(Fault::FailedBefore, 6), (Fault::Met, 6), (Fault::Refused, 1)] {
        store.plan("a.json", &[fault; 20]);
        let error = create_only(&store, &path, &note("mine")).await.unwrap_err();
        assert!(error.to_string().contains("creating a.json"), "{error}");
        assert_eq!(store.puts(), puts, "{fault:?}");
        store.plan("a.json", &[fault; 20]);
        put_own(&store, &path, Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(store.puts(), puts, "{fault:?}");
    }
    assert!(matches!(
        read_json::<Note>(&store, &path).await,
        Err(StoreError::Missing { path }) if path == "a.json"
    ));
}

#[tokio::test]
async fn an_own_file_survives_a_lost_reply_and_is_never_overwritten() {
    let (_folder, store) = store();
    let path = Path::from("a.bin");
    store.plan("a.bin", &[Fault::Met, Fault::LostReply]);
    put_own(&store, &path, Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(store.puts(), 3);
    put_own(&store, &path, Bytes::from_static(b"four")).await.unwrap_err();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
}

#[tokio::test]
async fn unknown_versions_and_rubbish_are_refused_by_name() {
    let (_folder, store) = store();
    for (text, reason) in [
        (
            r#"{"version":2,"entirely":"other"}"#,
            "format version 2, this program knows version 1",
        ),
        (r#"{"version":1}"#, "attempt"),
        ("", "not a record"),
        ("[]", "not a record"),
    ] {
        let path = Path::from("notes/a.json");
        store.put(&path, text.into()).await.unwrap();
        let error = read_json::<Note>(&store, &path).await.unwrap_err().to_string();
        assert!(error.contains("notes/a.json") && error.contains(reason), "{error}");
        // Standing there, it is neither overwritten nor taken for anybody's.
        create_only(&store, &path, &note("mine")).await.unwrap_err();
    }
}

#[tokio::test]
async fn files_are_checked_before_they_are_handed_out() {
    let (_folder, store) = store();
    let path = Path::from("a.bin");
    let bytes = b"some bytes";
    let crc32 = 0x3d4e_1d6e_u32;
    let right = crc32fast_of(bytes);
    store.put(&path, bytes.to_vec().into()).await.unwrap();
    assert_eq!(read_file(&store, &path, 10, right).await.unwrap(), &bytes[..]);
    for (size, sum, reason) in [(11, right, "10 bytes instead of 11"), (10, crc32 ^ right, "instead of")] {
        let error = read_file(&store, &path, size, sum).await.unwrap_err().to_string();
        assert!(error.contains("a.bin") && error.contains(reason), "{error}");
    }
    assert!(matches!(
        read_file(&store, &Path::from("b.bin"), 10, right).await,
        Err(StoreError::Missing { .. })
    ));
}

/// CRC-32 (IEEE), bit by bit.
fn crc32fast_of(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

#[tokio::test]
async fn local_files_behave_as_an_object_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path()).unwrap();
    let path = Path::from("deep/er/a.txt");
    store
        .put_opts(&path, "one".into(), PutMode::Create.into())
        .await
        .unwrap();
    assert!(matches!(
        store.put_opts(&path, "two".into(), PutMode::Create.into()).await,
        Err(object_store::Error::AlreadyExists { .. })
    ));
    store.put(&path, "three".into()).await.unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
    // An unfinished put is no object, and nothing is left of finished ones.
    assert_eq!(std::fs::read_dir(folder.path().join(".staging")).unwrap().count(), 0);
    std::fs::write(folder.path().join(".staging/put#12"), "torn").unwrap();
    let listed: Vec<_> = store
        .list(None)
        .map_ok(|object| object.location)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(listed, vec![path.clone()]);
    let top = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(top.common_prefixes, vec![Path::from("deep")]);
    // Somebody cleans up behind our back: the next put makes the folder again.
    store.delete(&path).await.unwrap();
    std::fs::remove_dir_all(folder.path().join("deep")).unwrap();
    store
        .put_opts(&path, "four".into(), PutMode::Create.into())
        .await
        .unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "four");
}

#[tokio::test]
async fn odd_names_are_objects_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = local(folder.path()).unwrap();
    let names = ["a b", "a%20b", "a#1", "ä/ö", "..", ".", "*?", "a\\b", "%2E%2E"];
    for name in names {
        let path = Path::from_iter(["t", name, "x.json"]);
        let mine = note(name);
        assert_eq!(
            create_only(&*store, &path, &mine).await.unwrap(),
            Created::Mine,
            "{name}"
        );
        assert_eq!(read_json::<Note>(&*store, &path).await.unwrap(), mine);
        let listed: Vec<_> = store
            .list(Some(&Path::from_iter(["t", name])))
            .try_collect()
            .await
            .unwrap();
        assert_eq!(listed.len(), 1, "{name}");
        assert_eq!(listed[0].location, path);
    }
    let all: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(all.len(), names.len());
}
