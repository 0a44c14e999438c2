//! The log on Apache Kafka, on the brokers that `FOLDLINE_TEST_KAFKA` names (`make test-services` starts some).

use std::sync::Arc;

use foldline_event_log::{KafkaLog, KafkaSettings, SystemClock, contract};
use uuid::Uuid;

/// The brokers, if there are any for tests.
fn brokers() -> Option<String> {
    let brokers = std::env::var("FOLDLINE_TEST_KAFKA")
        .ok()
        .filter(|brokers| !brokers.is_empty());
    if brokers.is_none() {
        eprintln!("skipped: FOLDLINE_TEST_KAFKA names no brokers");
    }
    brokers
}

fn settings(brokers: &str) -> KafkaSettings {
    let mut settings = KafkaSettings::new(brokers, format!("foldline-test-{}", Uuid::new_v4()));
    settings.clock_skew_ms = 50;
    // Tests read from the beginning again and again.
    settings.librdkafka.insert("fetch.wait.max.ms".into(), "10".into());
    settings
}

fn open(brokers: &str) -> Arc<KafkaLog> {
    KafkaLog::open(settings(brokers), Arc::new(SystemClock)).expect("the settings fit")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let Some(brokers) = brokers() else { return };
    let log = open(&brokers);
    contract::check_all(async || Arc::clone(&log)).await;
}
