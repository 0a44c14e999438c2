//! What processes tell of themselves: an object `cluster/nodes/<node>.json` each, overwritten at every beat.
//!
//! Whether a process lives is seen by its beats: others count for how long *they* saw none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldline_batch_layer::store::{self, Record, StoreError};
use foldline_event_log::{Offset, RecordTime, TopicPartition};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::platform::Role;

const FOLDER: &str = "cluster/nodes";
/// Whose beat did not change for so long is taken for dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// Whose beat did not change for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// What a process tells of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    version: u32,
    /// Of this start of the process.
    pub(crate) instance: Uuid,
    /// The same after a restart.
    pub(crate) node: Uuid,
    /// `http://host:port`
    pub(crate) url: String,
    /// Names of its roles.
    pub(crate) roles: Vec<String>,
    beat: u64,
    /// How far the partitions are archived that it archives.
    pub(super) archived: Vec<Archived>,
}

/// How far a partition is archived.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Archived {
    pub(super) partition: TopicPartition,
    pub(super) until: Offset,
    /// Everything before this is archived.
    pub(super) complete_to: RecordTime,
    /// Why it stands still, if it does.
    pub(super) stopped: Option<String>,
}

impl Record for Note {
    const VERSION: u32 = 1;

    fn attempt(&self) -> Uuid {
        self.instance
    }
}

/// The notes of all processes.
#[derive(Debug)]
pub(crate) struct Notes {
    store: Arc<dyn ObjectStore>,
    mine: Note,
    beats: AtomicU64,
    /// The last beat of each start of a process, and when it was seen first.
    seen: Mutex<HashMap<Uuid, (u64, Instant)>>,
}

impl Notes {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        node: Uuid,
        instance: Uuid,
        url: String,
        roles: Vec<String>,
    ) -> Self {
        let mine = Note {
            version: Note::VERSION,
            instance,
            node,
            url,
            roles,
            beat: 0,
            archived: Vec::new(),
        };
        Self {
            store,
            mine,
            beats: AtomicU64::new(0),
            seen: Mutex::default(),
        }
    }

    /// Writes ours.
    pub(super) async fn write(&self, archived: Vec<Archived>) -> Result<(), StoreError> {
        let note = Note {
            beat: self.beats.fetch_add(1, Ordering::Relaxed),
            archived,
            ..self.mine.clone()
        };
        let path = path(note.node);
        let bytes = serde_json::to_vec(&note).expect("a note serialises");
        let put = self.store.put(&path, bytes.into()).await;
        put.map(drop).map_err(|source| StoreError::Failed {
            attempt: format!("writing {path}"),
            source,
        })
    }

    /// Takes ours away.
    pub(super) async fn withdraw(&self) -> Result<(), object_store::Error> {
        self.store.delete(&path(self.mine.node)).await
    }

    /// Every note, of whoever lives or not.
    pub(super) async fn read(&self) -> Result<Vec<Note>, StoreError> {
        let (notes, unreadable) = read(&*self.store).await?;
        for error in unreadable {
            tracing::warn!(error, "a process's note is left out");
        }
        Ok(notes)
    }

    /// The notes of the others whose beats go on, or were never seen to stop.
    pub(crate) async fn others(&self) -> Result<Vec<Note>, StoreError> {
        let notes = self.read().await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let beats = |note: &Note| {
            let last = seen.entry(note.instance).or_insert((note.beat, now));
            if last.0 != note.beat {
                *last = (note.beat, now);
            }
            now.duration_since(last.1) < DEAD_AFTER
        };
        let others = notes.into_iter().filter(|note| note.node != self.mine.node);
        Ok(others.filter(beats).collect())
    }

    /// Removes the notes of those that are dead for long. Whoever lives after all writes it again.
    pub(super) async fn forget_dead(&self) -> Result<(), StoreError> {
        drop(self.others().await?);
        let dead = |note: &Note| {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let beat = seen.get(&note.instance);
            beat.is_some_and(|(_, since)| since.elapsed() > FORGOTTEN_AFTER)
        };
        for note in self.read().await?.into_iter().filter(dead) {
            drop(self.store.delete(&path(note.node)).await);
        }
        Ok(())
    }
}

/// Waits until those with one of `roles` among the notes in `store` are known to be dead. `Err`: where one of them lives.
pub(crate) async fn all_dead(store: &dyn ObjectStore, roles: &[Role]) -> Result<Result<(), String>, StoreError> {
    let ours = |note: &Note| {
        roles
            .iter()
            .any(|role| note.roles.iter().any(|name| name == role.name()))
    };
    let beat = |note: &Note| (note.instance, note.beat);
    let mut since = Instant::now();
    let mut before: Option<Vec<(Uuid, u64)>> = None;
    loop {
        let (notes, unreadable) = read(store).await?;
        if let Some(unreadable) = unreadable.first() {
            return Ok(Err(format!("an address that cannot be read: {unreadable}")));
        }
        let notes: Vec<Note> = notes.into_iter().filter(ours).collect();
        let before = before.get_or_insert_with(|| {
            since = Instant::now();
            notes.iter().map(beat).collect()
        });
        if let Some(alive) = notes.iter().find(|note| !before.contains(&beat(note))) {
            return Ok(Err(alive.url.clone()));
        }
        if notes.is_empty() || since.elapsed() > DEAD_AFTER {
            return Ok(Ok(()));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Every note, of whoever lives or not, and why others cannot be read.
async fn read(store: &dyn ObjectStore) -> Result<(Vec<Note>, Vec<String>), StoreError> {
    let objects = store::list(store, &Path::from(FOLDER)).await?;
    let reads = objects
        .iter()
        .map(|object| store::read_json::<Note>(store, &object.location));
    let (mut notes, mut unreadable) = (Vec::new(), Vec::new());
    for read in futures::future::join_all(reads).await {
        match read {
            Ok(note) => notes.push(note),
            Err(StoreError::Missing { .. }) => {}
            // Perhaps of a process of another version.
            Err(error @ StoreError::Damaged { .. }) => unreadable.push(foldline_event_log::with_causes(&error)),
            Err(error) => return Err(error),
        }
    }
    Ok((notes, unreadable))
}

fn path(node: Uuid) -> Path {
    Path::from(format!("{FOLDER}/{node}.json"))
}
