//! Finds the foldline that runs on a `data_dir`, or starts one for the length of a command.
//!
//! A running platform writes `<data_dir>/address`: its URL and a random id. The file alone proves nothing, since a
//! killed process leaves it behind: the id that `/v1/admin/instance` answers with must be the one in the file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use foldline_event_log::LogError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Setting;
use crate::client::Client;
use crate::failure::Failure;
use crate::platform::{Platform, Role};
use crate::progress;

/// How long a command waits for another short command that holds the data.
const BUSY_WAIT: Duration = Duration::from_secs(20);
/// Between two looks at a busy `data_dir`.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// A live instance answers its id within this.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// What `<data_dir>/address` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Address {
    /// `http://host:port`
    pub(crate) url: String,
    /// Random, another one at each start.
    pub(crate) instance: Uuid,
}

impl Address {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("address")
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(data_dir);
        let part = data_dir.join("address.part");
        let text = serde_json::to_string(self).expect("an address serialises");
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes it.
    pub(crate) fn remove(data_dir: &Path) {
        if let Err(error) = std::fs::remove_file(Self::path(data_dir)) {
            tracing::debug!(%error, "address not removed");
        }
    }

    fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(data_dir)).ok()?).ok()
    }

    /// A client of the instance that wrote this, if it still lives.
    async fn alive(&self) -> Option<Client> {
        let client = Client::new(self.url.clone()).ok()?;
        let ask = client.get_json::<Value>("/v1/admin/instance");
        let answer = tokio::time::timeout(ALIVE_WITHIN, ask).await.ok()?.ok()?;
        (answer["instance"] == json!(self.instance)).then_some(client)
    }
}

/// A foldline to talk to.
#[derive(Debug)]
pub(crate) struct Instance {
    client: Client,
    ours: Option<Platform>,
}

impl Instance {
    /// The one that runs on the configured `data_dir`; else one with `roles`, started here, without scheduled runs.
    pub(crate) async fn open(setting: &Setting, roles: &[Role]) -> anyhow::Result<Self> {
        let data_dir = &setting.merged.settings.data_dir;
        let deadline = tokio::time::Instant::now() + BUSY_WAIT;
        loop {
            if let Some(client) = find(data_dir).await {
                return Ok(Self { client, ours: None });
            }
            match Platform::start_aside(setting, roles).await {
                Ok(platform) => {
                    let client = Client::new(platform.url())?;
                    return Ok(Self {
                        client,
                        ours: Some(platform),
                    });
                }
                Err(error) if is_locked(&error) => {
                    if tokio::time::Instant::now() > deadline {
                        let sentence = format!("{} is in use: {error:#}", data_dir.display());
                        return Err(Failure::Unreachable(sentence).into());
                    }
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How to talk to it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether this command started it.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours.is_some()
    }

    /// Returns when everything that is in the log now is in the answers.
    pub(crate) async fn catch_up(&self) -> anyhow::Result<()> {
        let spinner = progress::spinner("folding what is in the log");
        let done = self
            .client
            .follow("/v1/admin/caught-up", &json!({}), |line| progress::show(&spinner, line))
            .await;
        spinner.finish_and_clear();
        done.map(drop)
    }

    /// Stops it, if this command started it.
    pub(crate) async fn close(self) {
        if let Some(platform) = self.ours {
            platform.stop().await;
        }
    }
}

/// A client of the instance that runs on `data_dir`.
pub(crate) async fn find(data_dir: &Path) -> Option<Client> {
    Address::read(data_dir)?.alive().await
}

/// Whether another process has the data.
pub(crate) fn is_locked(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<LogError>(), Some(LogError::Locked(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_address_finds_nobody() {
        let folder = tempfile::tempdir().unwrap();
        assert!(find(folder.path()).await.is_none(), "no file");
        // Another server got the port of the one that was killed.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (other, mine) = (Uuid::new_v4(), Uuid::new_v4());
        let answer = json!({ "instance": other }).to_string();
        let router = axum::Router::new().route("/v1/admin/instance", axum::routing::get(async move || answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Address {
            url: url.clone(),
            instance: mine,
        }
        .write(folder.path())
        .unwrap();
        assert!(find(folder.path()).await.is_none(), "another instance answers");
        Address { url, instance: other }.write(folder.path()).unwrap();
        assert!(find(folder.path()).await.is_some());
        Address::remove(folder.path());
        assert!(find(folder.path()).await.is_none());
    }
}
