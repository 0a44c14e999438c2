//! What an installation was made with, and cannot change: the object `installation.json` of its store.
//!
//! The archive notes where ticks meet, and generations are cut there. With another tick length those notes would have
//! gaps. So the first start writes the length down; later starts, of whichever process, use it, and refuse to be told
//! another one.

use foldline_batch_layer::store::{self, Created, Record, StoreError};
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{Merged, Settings};
use crate::failure::Failure;

const OBJECT: &str = "installation.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Installation {
    version: u32,
    attempt: Uuid,
    cut_every_ms: i64,
}

impl Record for Installation {
    const VERSION: u32 = 1;

    fn attempt(&self) -> Uuid {
        self.attempt
    }
}

/// The settings for the installation in `store`: those of `merged`, with the tick length that it was made with.
pub(crate) async fn settle(merged: &Merged, store: &dyn ObjectStore) -> anyhow::Result<Settings> {
    let mut settings = merged.settings.clone();
    let path = Path::from(OBJECT);
    let made_with = match store::read_json::<Installation>(store, &path).await {
        Ok(installation) => installation,
        Err(StoreError::Missing { .. }) => {
            let mine = Installation {
                version: Installation::VERSION,
                attempt: Uuid::new_v4(),
                cut_every_ms: settings.speed.cut_every_ms,
            };
            match store::create_only(store, &path, &mine).await? {
                Created::Mine => mine,
                Created::Theirs(theirs) => theirs,
            }
        }
        Err(error) => return Err(error.into()),
    };
    let made_with = made_with.cut_every_ms;
    if settings.speed.cut_every_ms == made_with {
        return Ok(settings);
    }
    if merged.is_default("speed.cut_every_ms") {
        settings.speed.cut_every_ms = made_with;
        return Ok(settings);
    }
    Err(Failure::Usage(format!(
        "the archive in {} was made with speed.cut_every_ms = {made_with} and cannot change to {}; leave the setting out, \
         or start with another store and data_dir",
        settings.store_url()?,
        settings.speed.cut_every_ms
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload};

    use super::*;
    use crate::config;

    fn merged(cut_every_ms: Option<i64>) -> Merged {
        let flags: Vec<_> = cut_every_ms
            .map(|ms| ("speed.cut_every_ms", "--test", ms.to_string()))
            .into_iter()
            .collect();
        config::load(None, &flags).unwrap()
    }

    #[tokio::test]
    async fn the_first_start_decides_the_tick_length() {
        let store = InMemory::new();
        for (told, settled) in [(Some(250), 250), (Some(250), 250), (None, 250)] {
            let settings = settle(&merged(told), &store).await.unwrap();
            assert_eq!(settings.speed.cut_every_ms, settled);
        }
        let refused = settle(&merged(Some(500)), &store).await.unwrap_err().to_string();
        assert!(
            refused.contains("made with speed.cut_every_ms = 250 and cannot change to 500"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn an_unknown_version_is_refused() {
        let store = InMemory::new();
        let text = PutPayload::from_static(br#"{"version":2,"cut_every_ms":250}"#);
        store.put(&Path::from(OBJECT), text).await.unwrap();
        let refused = settle(&merged(None), &store).await.unwrap_err().to_string();
        assert!(refused.contains("version 2"), "{refused}");
    }
}
