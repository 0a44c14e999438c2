//! The shared store of realtime views, as the settings name it.

use std::sync::Arc;
use std::time::Duration;

use foldline_event_log::Clock;
use foldline_speed_layer::Gaps;
use foldline_speed_layer::shared::{self, SharedStore, Writer, WriterSettings};
use foldline_sql::Catalog;

use crate::config::{RealtimeStoreKind, Settings};
use crate::failure::Failure;

/// A read with an older record may go on for so long beyond the longest query.
const KEPT_BEYOND: Duration = Duration::from_secs(30);
/// A record is written at least this often, and often enough for those that readers look at to be younger than what is
/// kept.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const ALIVE_PER_KEPT: u32 = 16;

/// The store, if realtime views are kept in one.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Option<Arc<dyn SharedStore>>> {
    match settings.realtime.store {
        RealtimeStoreKind::Memory => Ok(None),
        RealtimeStoreKind::Cassandra => cassandra(settings).await.map(Some),
    }
}

#[cfg(feature = "cassandra")]
async fn cassandra(settings: &Settings) -> anyhow::Result<Arc<dyn SharedStore>> {
    use foldline_speed_layer::shared::StoreError;
    use foldline_speed_layer::shared::cassandra::{CassandraSettings, CassandraStore, Consistency};

    use crate::config::RealtimeConsistency as Named;

    let realtime = &settings.realtime;
    let nodes = realtime.nodes.split(',').map(|node| node.trim().to_owned());
    let opened = CassandraStore::open(CassandraSettings {
        nodes: nodes.filter(|node| !node.is_empty()).collect(),
        keyspace: realtime.keyspace.clone(),
        replication: realtime.replication,
        consistency: match realtime.consistency {
            Named::One => Consistency::One,
            Named::LocalQuorum => Consistency::LocalQuorum,
            Named::Quorum => Consistency::Quorum,
            Named::All => Consistency::All,
        },
        user: realtime.user.clone(),
        password: realtime.password.0.clone(),
        request: Duration::from_millis(realtime.request_ms),
        in_flight: realtime.in_flight,
        accept_periodic_sync: realtime.accept_periodic_sync,
        timestamps: None,
    });
    let opened = opened.await.map_err(|error| {
        let sentence = foldline_event_log::with_causes(&error);
        match error {
            StoreError::Unavailable { .. } => Failure::Unreachable(sentence),
            _ => Failure::Usage(sentence),
        }
    })?;
    Ok(Arc::new(opened))
}

#[cfg(not(feature = "cassandra"))]
#[allow(clippy::unused_async, reason = "as with the feature")]
async fn cassandra(_: &Settings) -> anyhow::Result<Arc<dyn SharedStore>> {
    let help = "realtime.store = \"cassandra\": this foldline was built without the feature \"cassandra\"";
    Err(Failure::Usage(help.into()).into())
}

/// What brings to `store` what is folded here.
pub(crate) fn writer(
    store: Arc<dyn SharedStore>,
    catalog: &Catalog,
    gaps: Gaps,
    clock: Arc<dyn Clock>,
    settings: &Settings,
) -> Writer {
    let kept = Duration::from_millis(settings.serve.longest_query_ms) + KEPT_BEYOND;
    let writing = WriterSettings {
        every: Duration::from_millis(settings.realtime.flush_ms),
        alive: ALIVE_EVERY.min(kept / ALIVE_PER_KEPT),
        kept,
        rewrite_after: shared::REWRITE_AFTER,
        chunk_bytes: shared::CHUNK_BYTES,
    };
    Writer::new(store, catalog, gaps, clock, writing)
}
