//! What only the embedded log promises: files, crashes, retention, the lock.

use std::sync::Arc;

use foldline_event_log::{EmbeddedLog, EmbeddedSettings, SystemClock, contract};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_of_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(EmbeddedSettings::new(folder.path()), Arc::new(SystemClock)).unwrap();
    contract::check_all(async || Arc::clone(&log)).await;
}
