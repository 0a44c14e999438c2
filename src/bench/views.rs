//! What views of each kind cost: read, decode, judge and fold of the same log, and bytes of state per key.

use anyhow::anyhow;
use foldline_sql::{Catalog, SourceFile, ViewKind};

use super::{PIPELINE, Work};
use crate::output::say;

const VIEWS: &[(&str, &str)] = &[
    (
        "tumble: a day by partner",
        "SELECT partner_id, tumble(date, INTERVAL '1 day') AS w, count(*) AS n FROM clicks GROUP BY 1, 2",
    ),
    (
        "hop: 10 minutes by 10 seconds",
        "SELECT hop(date, INTERVAL '10 seconds', INTERVAL '10 minutes') AS w, count(*) AS n FROM clicks GROUP BY 1",
    ),
    (
        "session: of a partner, gap 30 minutes",
        "SELECT partner_id, session(date, INTERVAL '30 minutes') AS w, count(*) AS n FROM clicks GROUP BY 1, 2",
    ),
    (
        "count(DISTINCT user) by partner",
        "SELECT partner_id, count(DISTINCT user_id) AS n FROM clicks GROUP BY 1",
    ),
    (
        "approx_distinct(user) by partner",
        "SELECT partner_id, approx_distinct(user_id) AS n FROM clicks GROUP BY 1",
    ),
    (
        "percentile_cont by partner",
        "SELECT partner_id, percentile_cont(0.9) WITHIN GROUP (ORDER BY cart_amount) AS p FROM clicks GROUP BY 1",
    ),
    (
        "approx_percentile_cont by partner",
        "SELECT partner_id, approx_percentile_cont(cart_amount, 0.9) AS p FROM clicks GROUP BY 1",
    ),
    (
        "top 10 partners of a day",
        "SELECT w, partner_id, n FROM (SELECT tumble(date, INTERVAL '1 day') AS w, partner_id, count(*) AS n FROM clicks \
         GROUP BY 1, 2) QUALIFY row_number() OVER (PARTITION BY w ORDER BY n DESC, partner_id) <= 10",
    ),
];

/// Folds the log into each view.
pub(super) async fn measure(work: &Work) -> anyhow::Result<()> {
    let stream = PIPELINE.split("CREATE VIEW").next().unwrap_or_default();
    for (what, query) in VIEWS {
        let file = SourceFile {
            name: "bench.sql".into(),
            text: format!("{stream} CREATE VIEW v AS {query};"),
        };
        let catalog = Catalog::compile(&[file]).await;
        let catalog = catalog.map_err(|refusals| anyhow!("{}", refusals[0]))?;
        for part in catalog.views_and_parts() {
            if let ViewKind::Fold(fold) = &part.kind {
                let state = work.read_and_fold(fold, what).await?;
                let (bytes, keys) = (state.bytes(), state.keys().max(1));
                say!("{:<44} {:>9} keys, {} bytes each", "  its state", keys, bytes / keys);
            }
        }
    }
    Ok(())
}
