//! Create-only puts and checked reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldline_batch_layer::store::{
    Created, Patience, PlaceError, Record, StoreError, contract, create_only, local, open, prove_create_only, put_own,
    read_file, read_json,
};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};
use url::Url;
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

const PATIENCE: Patience = Patience {
    request: Duration::from_secs(20),
    retries: Duration::from_secs(20),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local_files_and_memory_keep_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(folder.path()).unwrap();
    for store in [open(url.as_str(), PATIENCE).unwrap(), Arc::new(InMemory::new())] {
        prove_create_only(store.as_ref(), "it").await.unwrap();
        contract::check_all(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_loses_replies_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = Faulty::new(local(folder.path()).unwrap());
    faulty.lose_every(5);
    prove_create_only(&faulty, "it").await.unwrap();
    contract::check_all(&(Arc::new(faulty) as Arc<dyn ObjectStore>)).await;
}

/// Against real servers, where FOLDLINE_TEST_STORES names buckets, separated by spaces: `make test-services`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_keep_the_contract() {
    let urls = std::env::var("FOLDLINE_TEST_STORES").unwrap_or_default();
    for url in urls.split_whitespace() {
        let store = open(&format!("{url}/{}", Uuid::new_v4()), PATIENCE).unwrap();
        prove_create_only(store.as_ref(), url).await.unwrap();
        contract::check_all(&store).await;
        println!("{url} keeps the contract");
    }
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let (_folder, store) = store();
    store.overwrite();
    let error = prove_create_only(&store, "s3://bucket").await.unwrap_err();
    assert!(matches!(error, PlaceError::NotCreateOnly { .. }), "{error}");
    assert!(
        error.to_string().contains("s3://bucket cannot hold an archive"),
        "{error}"
    );
    assert!(error.to_string().contains("5 were told that they did"), "{error}");
}

#[tokio::test]
async fn what_is_no_place_for_objects_is_refused() {
    for (url, reason) in [
        ("objects", "relative URL without a base"),
        ("ftp://x/y", "ftp://x/y"),
        ("https://example.com/x", "no store that foldline knows"),
        ("memory:///", "no store that foldline knows"),
        ("s3://me:hush@bucket/x", "credentials"),
        ("s3://me:hu/hush@bucket/x", "invalid port"),
        ("s3://bucket/x?sig=hush", "credentials"),
    ] {
        let error = open(url, PATIENCE).unwrap_err().to_string();
        assert!(error.contains(reason), "{url}: {error}");
        assert!(!error.contains("hush"), "{error}");
        assert!(error.contains("s3://bucket/prefix"), "{error}");
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

#[tokio::test]
async fn a_local_put_in_parts_is_there_once_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path()).unwrap();
    let path = Path::from("a/b.bin");
    let read = || async { store.get(&path).await.unwrap().bytes().await.unwrap() };
    let staged = || std::fs::read_dir(folder.path().join(".staging")).unwrap().count();
    store.put(&path, "old".into()).await.unwrap();
    let mut upload = store.put_multipart(&path).await.unwrap();
    let parts = [upload.put_part("first, ".into()), upload.put_part("second".into())];
    // Whichever comes first.
    for part in parts.into_iter().rev() {
        part.await.unwrap();
    }
    assert_eq!(read().await, "old");
    upload.complete().await.unwrap();
    drop(upload);
    assert_eq!(read().await, "first, second");
    let mut abandoned = store.put_multipart(&path).await.unwrap();
    abandoned.put_part("third".into()).await.unwrap();
    assert_eq!(staged(), 1);
    drop(abandoned);
    assert_eq!((read().await, staged()), (Bytes::from("first, second"), 0));
}
