//! Where objects lie, by URL, and the proof that what everything rests on holds there.
//!
//! Credentials come from each cloud's usual chain: environment variables, files they name, and the metadata service of the
//! machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, ObjectStoreScheme};
use url::Url;
use uuid::Uuid;

use super::{back_off, local, outcome_unknown, put_if_absent, stands_there};

/// Writers that meet in the self-test.
const WRITERS: u8 = 4;
/// A writer of the self-test tries this often in all, as store and network may fail meanwhile.
const TRIES: u32 = 4;

/// How long a store may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// One request, from sending it to the last byte of its answer.
    pub request: Duration,
    /// All tries of one request together.
    pub retries: Duration,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It does not read as one.
    #[error(
        "\"{url}\" is no place for objects: {reason}; write file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
    )]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The program is built without it.
    #[error("\"{url}\" needs a program that is built with the feature \"cloud\"")]
    NotBuiltIn {
        /// The URL.
        url: String,
    },
    /// It is set up wrongly, or its credentials are.
    #[error("cannot use {url}")]
    Setup {
        /// The URL.
        url: String,
        /// Cause.
        source: object_store::Error,
    },
    /// It did not answer, or refused.
    #[error("{url} does not answer as a store should, while {attempt}")]
    Unreachable {
        /// The URL.
        url: String,
        /// What was attempted.
        attempt: &'static str,
        /// Cause.
        source: object_store::Error,
    },
    /// It overwrites what stands there, or lets two writers win.
    #[error(
        "{url} cannot hold an archive: {reason}. Foldline needs a store whose create-only puts (If-None-Match) hold"
    )]
    NotCreateOnly {
        /// The URL.
        url: String,
        /// What it did.
        reason: String,
    },
}

impl PlaceError {
    fn unknown(url: &str) -> Self {
        Self::Url {
            url: url.to_owned(),
            reason: "no store that foldline knows has such addresses".into(),
        }
    }
}

/// The store at `url`: `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Asks it
/// nothing.
pub fn open(url: &str, patience: Patience) -> Result<Arc<dyn ObjectStore>, PlaceError> {
    let refused = |reason: String| PlaceError::Url {
        url: url.to_owned(),
        reason,
    };
    // Not printed before it is known to hold no secret.
    let hidden = |reason: String| PlaceError::Url {
        url: format!(
            "{}...",
            url.split_inclusive("//")
                .next()
                .filter(|scheme| scheme.len() < 12)
                .unwrap_or_default()
        ),
        reason,
    };
    let parsed = Url::parse(url).map_err(|error| hidden(error.to_string()))?;
    let bare = parsed.username().is_empty() && parsed.password().is_none();
    if !bare || parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(hidden(
            "it holds more than a place; credentials belong into the cloud's own variables or files".into(),
        ));
    }
    let (scheme, path) = ObjectStoreScheme::parse(&parsed).map_err(|error| refused(error.to_string()))?;
    if scheme == ObjectStoreScheme::Local {
        let folder = parsed
            .to_file_path()
            .map_err(|()| refused("it names no folder of this machine".into()))?;
        return local(&folder).map_err(|source| PlaceError::Setup {
            url: url.to_owned(),
            source,
        });
    }
    let bucket = cloud::bucket(&scheme, url, patience)?;
    Ok(match path.as_ref() {
        "" => bucket,
        _ => Arc::new(PrefixStore::new(bucket, path)),
    })
}

#[cfg(feature = "cloud")]
mod cloud {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreScheme, RetryConfig};

    use super::{Arc, Patience, PlaceError};

    const CONNECT: &str = "5s";

    /// The whole bucket, or why its settings do not do.
    pub(super) fn bucket(
        scheme: &ObjectStoreScheme,
        url: &str,
        patience: Patience,
    ) -> Result<Arc<dyn ObjectStore>, PlaceError> {
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: usize::MAX,
            retry_timeout: patience.retries,
        };
        let request = format!("{}ms", patience.request.as_millis());
        let (connect, whole) = (ClientConfigKey::ConnectTimeout, ClientConfigKey::Timeout);
        let built: Result<Arc<dyn ObjectStore>, object_store::Error> = match scheme {
            ObjectStoreScheme::AmazonS3 => AmazonS3Builder::from_env()
                .with_url(url)
                .with_config(AmazonS3ConfigKey::Client(connect), CONNECT)
                .with_config(AmazonS3ConfigKey::Client(whole), request)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            ObjectStoreScheme::GoogleCloudStorage => GoogleCloudStorageBuilder::from_env()
                .with_url(url)
                .with_config(GoogleConfigKey::Client(connect), CONNECT)
                .with_config(GoogleConfigKey::Client(whole), request)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            ObjectStoreScheme::MicrosoftAzure => MicrosoftAzureBuilder::from_env()
                .with_url(url)
                .with_config(AzureConfigKey::Client(connect), CONNECT)
                .with_config(AzureConfigKey::Client(whole), request)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            _ => return Err(PlaceError::unknown(url)),
        };
        built.map_err(|source| PlaceError::Setup {
            url: url.to_owned(),
            source,
        })
    }
}

#[cfg(not(feature = "cloud"))]
mod cloud {
    use object_store::{ObjectStore, ObjectStoreScheme};

    use super::{Arc, Patience, PlaceError};

    pub(super) fn bucket(
        scheme: &ObjectStoreScheme,
        url: &str,
        _: Patience,
    ) -> Result<Arc<dyn ObjectStore>, PlaceError> {
        match scheme {
            ObjectStoreScheme::AmazonS3 | ObjectStoreScheme::GoogleCloudStorage | ObjectStoreScheme::MicrosoftAzure => {
                Err(PlaceError::NotBuiltIn { url: url.to_owned() })
            }
            _ => Err(PlaceError::unknown(url)),
        }
    }
}

/// Proves that create-only puts hold in `store`, which lies at `url`: of writers that meet at one new key exactly one
/// wins, a later one is refused, and what is there afterwards is what the winner wrote. The key is random and goes
/// afterwards.
pub async fn prove_create_only(store: &dyn ObjectStore, url: &str) -> Result<(), PlaceError> {
    let path = Path::from(format!("self-test/{}", Uuid::new_v4()));
    let proof = Proof { store, url, path };
    let outcome = proof.run().await;
    // Where it may not delete, a few bytes stay behind, and harm nobody.
    drop(store.delete(&proof.path).await);
    outcome
}

struct Proof<'a> {
    store: &'a dyn ObjectStore,
    url: &'a str,
    path: Path,
}

impl Proof<'_> {
    async fn run(&self) -> Result<(), PlaceError> {
        let met = join_all((0..WRITERS).map(|writer| self.create(writer))).await;
        let met = met.into_iter().collect::<Result<Vec<bool>, PlaceError>>()?;
        let late = self.create(WRITERS).await?;
        let read = async { self.store.get(&self.path).await?.bytes().await };
        let found = read
            .await
            .map_err(|source| self.unreachable("reading it back", source))?;
        let winner = found.first().copied().filter(|_| found.len() == 1);
        let won: Vec<u8> = (0..=WRITERS)
            .zip(met.iter().chain([&late]))
            .filter(|(_, won)| **won)
            .map(|(writer, _)| writer)
            .collect();
        // A winner whose answer was lost was told that the key exists: then nobody may think to have won.
        if won.len() > 1 || winner.is_none() || won.first().is_some_and(|won| Some(*won) != winner) {
            return Err(PlaceError::NotCreateOnly {
                url: self.url.to_owned(),
                reason: format!(
                    "of {} writers that created one key, {} were told that they did, and the key holds {found:?}",
                    WRITERS + 1,
                    won.len()
                ),
            });
        }
        Ok(())
    }

    /// Whether the store says that `writer` created the key.
    async fn create(&self, writer: u8) -> Result<bool, PlaceError> {
        let mut failed = 0;
        loop {
            let error = match put_if_absent(self.store, &self.path, Bytes::copy_from_slice(&[writer])).await {
                Ok(()) => return Ok(true),
                Err(error) if stands_there(&error) => return Ok(false),
                Err(error) => error,
            };
            failed += 1;
            if failed == TRIES || !outcome_unknown(&error) {
                return Err(self.unreachable("creating an object for the self-test", error));
            }
            back_off(failed).await;
        }
    }

    fn unreachable(&self, attempt: &'static str, source: object_store::Error) -> PlaceError {
        PlaceError::Unreachable {
            url: self.url.to_owned(),
            attempt,
            source,
        }
    }
}
