//! The shared store of realtime views, as the settings name it.

use std::sync::Arc;
use std::time::Duration;

use foldline_event_log::Clock;
use foldline_speed_layer::Gaps;
use foldline_speed_layer::shared::{SharedStore, Writer, WriterSettings};
use foldline_sql::{Catalog, View, ViewKind};

use crate::config::{RealtimeStoreKind, Settings};
use crate::failure::Failure;

/// A read with an older record may go on for so long beyond the longest query.
const KEPT_BEYOND: Duration = Duration::from_secs(30);
/// A record is written at least this often, and often enough for those that readers look at to be younger than what is
/// kept.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const ALIVE_PER_KEPT: u32 = 16;

/// The store takes the newest version of each key, and a key stays where it is: but the start of a session, which is part
/// of its key, moves when an earlier event comes or two sessions become one.
pub(crate) fn refuse_views(catalog: &Catalog, settings: &Settings) -> anyhow::Result<()> {
    let moves = |view: &&Arc<View>| matches!(&view.kind, ViewKind::Fold(fold) if fold.moves_keys());
    match catalog.views_and_parts().iter().find(moves) {
        Some(view) if settings.realtime.store != RealtimeStoreKind::Memory => Err(Failure::Usage(format!(
            "view \"{}\" has sessions, which a shared store does not take yet: set realtime.store = \"memory\", or leave \
             the view out",
            view.name
        ))
        .into()),
        _ => Ok(()),
    }
}

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
        rewrite_after: foldline_speed_layer::shared::REWRITE_AFTER,
    };
    Writer::new(store, catalog, gaps, clock, writing)
}

#[cfg(test)]
mod tests {
    use foldline_sql::SourceFile;

    use super::*;

    #[tokio::test]
    async fn sessions_are_refused_in_a_shared_store_alone() {
        let text = "CREATE STREAM clicks (id TEXT NOT NULL, at TIMESTAMPTZ NOT NULL) WITH (topic = 'clicks', event_time = 'at');
CREATE VIEW visits AS SELECT id, session(at, INTERVAL '15 minutes') AS visit, count(*) AS clicks FROM clicks GROUP BY 1, 2;";
        let file = SourceFile {
            name: "clicks.sql".into(),
            text: text.into(),
        };
        let catalog = Catalog::compile(&[file]).await.unwrap();
        let mut settings = Settings::default();
        refuse_views(&catalog, &settings).unwrap();
        settings.realtime.store = RealtimeStoreKind::Cassandra;
        let refused = refuse_views(&catalog, &settings).unwrap_err().to_string();
        assert!(refused.contains("view \"visits\" has sessions"), "{refused}");
    }
}
