//! The shared store on Apache Cassandra or ScyllaDB.
//!
//! ```text
//! state     ((view_id, bucket), segment, key, until desc)            state
//! coverage  ((partition), era desc, until desc, number desc, id)     previous, says
//! ```
//!
//! *Wide keys.* A partition of the database is a bucket of a view: a segment with many keys of a view spreads them over
//! 64 of them by the hash of the first key column, one with few has them in one, so that reading it all is one read.
//!
//! *Hot keys.* A key that changes all the time gets a version for each flush and no lock, and all of them go with their
//! segment; a segment that has become heavy with them is written anew.
//!
//! *Ranges.* Keys that share their first column are in one bucket, in the order of their columns: the days of a product
//! are one slice of each segment.
//!
//! *Tombstones.* Segment comes before key: a removal is one range tombstone for each bucket, and as a segment's id is never
//! used again it lies where no read ever looks. The same for records: what is removed ranks below what reads ask for, and
//! reads end before it. So `gc_grace_seconds` may be short: what a replica missed and shows again is named by nobody.
//!
//! *Clocks.* No version and no record is overwritten, so that the timestamps of writes decide nothing; a tombstone that is
//! stamped too early leaves rows that nobody names until they expire.
//!
//! *Expiry* is a safety net for what nobody removed. Records expire long before the versions that they name: segments
//! are written anew at a quarter of the time.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::Array;
use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{Offset, TopicPartition};
use futures::TryStreamExt;
use futures::future::try_join_all;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::frame::types::Consistency as Level;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
pub use scylla::policies::timestamp_generator::TimestampGenerator;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{EXPIRY, HEADS, Head, REWRITE_AFTER, Rank, SharedStore, StoreError, Stored, Versions};

/// Format of the tables.
const FORMAT: &str = "1";
/// Versions of one bucket that go in one mutation: what servers warn about is 5 KiB.
const BATCH_BYTES: usize = 4 << 10;
const BATCH_ROWS: usize = 64;
const PAGE_ROWS: i32 = 2_000;

/// How many replicas acknowledge a write and answer a read. Only those that let a read see every write acknowledged
/// before it: anything less would show coverage without what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// One: where there is one copy.
    One,
    /// Most of the local datacenter: where all copies are in one.
    LocalQuorum,
    /// Most of all.
    Quorum,
    /// All.
    All,
}

/// Settings.
#[derive(Clone)]
pub struct CassandraSettings {
    /// `host:port` of some nodes.
    pub nodes: Vec<String>,
    /// Keyspace, made where there is none.
    pub keyspace: String,
    /// Copies, where the keyspace is made.
    pub replication: u32,
    /// Of writes and reads.
    pub consistency: Consistency,
    /// User, or empty.
    pub user: String,
    /// Password.
    pub password: String,
    /// One request may take this long.
    pub request: Duration,
    /// Requests under way at once.
    pub in_flight: usize,
    /// Whether commit logs may be synced after a write is acknowledged.
    pub accept_periodic_sync: bool,
    /// Who stamps writes; `None`: the servers. No answer depends on it.
    pub timestamps: Option<Arc<dyn TimestampGenerator>>,
}

impl fmt::Debug for CassandraSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CassandraSettings")
            .field("nodes", &self.nodes)
            .field("keyspace", &self.keyspace)
            .finish_non_exhaustive()
    }
}

/// A keyspace.
pub struct CassandraStore {
    session: Session,
    statements: Statements,
    in_flight: Semaphore,
}

impl fmt::Debug for CassandraStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CassandraStore").finish_non_exhaustive()
    }
}

struct Statements {
    write: PreparedStatement,
    read: PreparedStatement,
    remove: PreparedStatement,
    heads: PreparedStatement,
    record: PreparedStatement,
    cover: PreparedStatement,
    retire: PreparedStatement,
}

impl CassandraStore {
    /// Connects, makes keyspace and tables where there are none, and refuses what would break a promise: copies that a
    /// read may miss, and commit logs that are synced after the acknowledgement unless that is accepted.
    pub async fn open(settings: CassandraSettings) -> Result<Self, StoreError> {
        let keyspace = settings.keyspace.as_str();
        let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        if !keyspace.starts_with(|first: char| first.is_ascii_lowercase()) || !keyspace.chars().all(plain) {
            return Err(StoreError::Unfit(format!(
                "\"{keyspace}\" is no name for a keyspace: use small letters, digits and underscores"
            )));
        }
        let session = connect(&settings).await?;
        make(&session, &settings).await?;
        let statements = Statements::prepare(&session, keyspace).await?;
        Ok(Self {
            session,
            statements,
            in_flight: Semaphore::new(settings.in_flight.max(1)),
        })
    }

    /// Writes the rows at `places`, all of one bucket.
    async fn write_some(&self, versions: &Versions, places: &[usize]) -> Result<(), StoreError> {
        let values: Vec<_> = places
            .iter()
            .map(|row| {
                (
                    versions.view.as_str(),
                    versions.buckets[*row],
                    versions.segment,
                    versions.keys.value(*row),
                    signed(versions.until),
                    versions.states.value(*row),
                )
            })
            .collect();
        let _under_way = self.in_flight.acquire().await;
        let write = &self.statements.write;
        let written = match values.as_slice() {
            [one] => self.session.execute_unpaged(write, one).await,
            several => {
                let statements = vec![BatchStatement::PreparedStatement(write.clone()); several.len()];
                let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
                batch.set_is_idempotent(true);
                self.session.batch(&batch, &values).await
            }
        };
        written.map(drop).map_err(unavailable("write"))
    }
}

async fn connect(settings: &CassandraSettings) -> Result<Session, StoreError> {
    let level = match settings.consistency {
        Consistency::One => Level::One,
        Consistency::LocalQuorum => Level::LocalQuorum,
        Consistency::Quorum => Level::Quorum,
        Consistency::All => Level::All,
    };
    let profile = ExecutionProfile::builder()
        .consistency(level)
        .request_timeout(Some(settings.request))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&settings.nodes)
        .connection_timeout(settings.request)
        .default_execution_profile_handle(profile.into_handle());
    if !settings.user.is_empty() {
        builder = builder.user(&settings.user, &settings.password);
    }
    if let Some(timestamps) = &settings.timestamps {
        builder = builder.timestamp_generator(Arc::clone(timestamps));
    }
    builder.build().await.map_err(unavailable("connect"))
}

/// Keyspace and tables, and whether they are fit.
async fn make(session: &Session, settings: &CassandraSettings) -> Result<(), StoreError> {
    let keyspace = &settings.keyspace;
    if copies(session, keyspace).await?.is_none() {
        let copies = settings.replication;
        let made = format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': {copies}}}"
        );
        session
            .query_unpaged(made, ())
            .await
            .map_err(unavailable("make the keyspace"))?;
    }
    let copies = copies(session, keyspace).await?.unwrap_or_default();
    refuse_missed_reads(settings, &copies)?;
    if !settings.accept_periodic_sync {
        refuse_late_sync(session).await?;
    }
    let (expiry, records) = (EXPIRY.as_secs(), REWRITE_AFTER.as_secs());
    let tables = [
        format!("CREATE TABLE IF NOT EXISTS {keyspace}.format (name text PRIMARY KEY, value text)"),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.state (view_id text, bucket int, segment uuid, key blob, until bigint, \
             state blob, PRIMARY KEY ((view_id, bucket), segment, key, until)) WITH CLUSTERING ORDER BY (segment ASC, key \
             ASC, until DESC) AND default_time_to_live = {expiry} AND gc_grace_seconds = 3600"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.coverage (partition text, era bigint, until bigint, number bigint, id \
             uuid, previous uuid, says blob, PRIMARY KEY (partition, era, until, number, id)) WITH CLUSTERING ORDER BY \
             (era DESC, until DESC, number DESC, id DESC) AND default_time_to_live = {records} AND gc_grace_seconds = 3600"
        ),
    ];
    for table in tables {
        session
            .query_unpaged(table, ())
            .await
            .map_err(unavailable("make the tables"))?;
    }
    let asked = format!("SELECT value FROM {keyspace}.format WHERE name = 'tables'");
    let found = session
        .query_unpaged(asked, ())
        .await
        .map_err(unavailable("read the format"))?;
    let found = found.into_rows_result().map_err(unavailable("read the format"))?;
    let found = found
        .maybe_first_row::<(String,)>()
        .map_err(unavailable("read the format"))?;
    match found {
        Some((format,)) if format == FORMAT => Ok(()),
        Some((format,)) => Err(StoreError::Unfit(format!(
            "keyspace \"{keyspace}\" holds realtime views in format {format}, this foldline writes {FORMAT}; name another \
             keyspace"
        ))),
        None => {
            let noted = format!("INSERT INTO {keyspace}.format (name, value) VALUES ('tables', '{FORMAT}')");
            let noted = session.query_unpaged(noted, ()).await;
            noted.map(drop).map_err(unavailable("note the format"))
        }
    }
}

/// Copies by datacenter (or over all); `None` where there is no such keyspace.
async fn copies(session: &Session, keyspace: &str) -> Result<Option<BTreeMap<String, u32>>, StoreError> {
    let asked = "SELECT replication, durable_writes FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let found = session.query_unpaged(asked, (keyspace,)).await;
    let found = found.map_err(unavailable("read the keyspaces"))?;
    let found = found.into_rows_result().map_err(unavailable("read the keyspaces"))?;
    let found = found.maybe_first_row::<(BTreeMap<String, String>, bool)>();
    let Some((replication, durable)) = found.map_err(unavailable("read the keyspaces"))? else {
        return Ok(None);
    };
    if !durable {
        return Err(StoreError::Unfit(format!(
            "keyspace \"{keyspace}\" has durable_writes = false, so that acknowledged writes are in no commit log"
        )));
    }
    let numbers = replication
        .into_iter()
        .filter_map(|(place, copies)| Some((place, copies.parse().ok()?)));
    Ok(Some(numbers.collect()))
}

/// A read must see every write that was acknowledged before.
fn refuse_missed_reads(settings: &CassandraSettings, copies: &BTreeMap<String, u32>) -> Result<(), StoreError> {
    let all: u32 = copies.values().sum();
    let refused = match settings.consistency {
        Consistency::One if all > 1 => "consistency \"one\" with several copies",
        Consistency::LocalQuorum if copies.len() > 1 => {
            "consistency \"local_quorum\" with copies in several datacenters"
        }
        _ => return Ok(()),
    };
    let keyspace = &settings.keyspace;
    Err(StoreError::Unfit(format!(
        "{refused} lets a read miss what was acknowledged, and keyspace \"{keyspace}\" has {copies:?}; use \"quorum\""
    )))
}

/// Asks every node whether it syncs its commit log before it acknowledges. ScyllaDB has the same setting elsewhere.
async fn refuse_late_sync(session: &Session) -> Result<(), StoreError> {
    let state = session.get_cluster_state();
    for node in state.get_nodes_info() {
        let mut found = None;
        for table in ["system_views.settings", "system.config"] {
            let mut asked = Statement::new(format!("SELECT value FROM {table} WHERE name = 'commitlog_sync'"));
            let target = NodeIdentifier::Node(Arc::clone(node));
            asked.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(target, None)));
            asked.set_consistency(Level::One);
            let Ok(answer) = session.query_unpaged(asked, ()).await else {
                continue;
            };
            let rows = answer.into_rows_result().map_err(unavailable("read settings"))?;
            let row = rows
                .maybe_first_row::<(String,)>()
                .map_err(unavailable("read settings"))?;
            found = found.or(row.map(|(value,)| value.trim_matches('"').to_owned()));
        }
        let synced = found.as_deref().is_some_and(|sync| sync != "periodic");
        if !synced {
            let (address, sync) = (node.address, found.as_deref().unwrap_or("unknown"));
            return Err(StoreError::Unfit(format!(
                "node {address} syncs its commit log after it acknowledges (commitlog_sync: {sync}), so that a crash loses \
                 what answers are made of; set commitlog_sync: group there, or accept it with \
                 realtime.accept_periodic_sync = true"
            )));
        }
    }
    Ok(())
}

impl Statements {
    async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let prepare = async |text: String| {
            let mut statement = Statement::new(text);
            statement.set_page_size(PAGE_ROWS);
            let prepared = session.prepare(statement).await;
            let mut prepared = prepared.map_err(unavailable("prepare statements"))?;
            prepared.set_is_idempotent(true);
            Ok::<_, StoreError>(prepared)
        };
        let newest = format!("SELECT era, until, number, id, previous FROM {keyspace}.coverage WHERE partition = ?");
        Ok(Self {
            write: prepare(format!(
                "INSERT INTO {keyspace}.state (view_id, bucket, segment, key, until, state) VALUES (?, ?, ?, ?, ?, ?)"
            ))
            .await?,
            read: prepare(format!(
                "SELECT segment, key, until, state FROM {keyspace}.state WHERE view_id = ? AND bucket = ? AND segment IN ? \
                 AND key >= ? AND key < ?"
            ))
            .await?,
            remove: prepare(format!(
                "DELETE FROM {keyspace}.state WHERE view_id = ? AND bucket = ? AND segment = ?"
            ))
            .await?,
            heads: prepare(format!("{newest} LIMIT {HEADS}")).await?,
            record: prepare(format!(
                "SELECT says FROM {keyspace}.coverage WHERE partition = ? AND era = ? AND until = ? AND number = ? AND id = ?"
            ))
            .await?,
            cover: prepare(format!(
                "INSERT INTO {keyspace}.coverage (partition, era, until, number, id, previous, says) \
                 VALUES (?, ?, ?, ?, ?, ?, ?)"
            ))
            .await?,
            retire: prepare(format!(
                "DELETE FROM {keyspace}.coverage WHERE partition = ? AND (era, until, number) < (?, ?, ?)"
            ))
            .await?,
        })
    }
}

#[async_trait]
impl SharedStore for CassandraStore {
    async fn write(&self, versions: &Versions) -> Result<(), StoreError> {
        let mut order: Vec<usize> = (0..versions.keys.len()).collect();
        order.sort_by_key(|row| versions.buckets[*row]);
        let parts = mutations(versions, &order);
        let writes = parts.into_iter().map(|part| self.write_some(versions, &order[part]));
        try_join_all(writes).await.map(drop)
    }

    async fn read(
        &self,
        view: &str,
        bucket: i32,
        segments: &[Uuid],
        from: &[u8],
        until: &[u8],
    ) -> Result<Vec<Stored>, StoreError> {
        if segments.is_empty() {
            return Ok(Vec::new());
        }
        let _under_way = self.in_flight.acquire().await;
        let values = (view, bucket, segments, from, until);
        let pages = self.session.execute_iter(self.statements.read.clone(), values).await;
        let rows = pages.map_err(unavailable("read"))?;
        let rows = rows
            .rows_stream::<(Uuid, Bytes, i64, Bytes)>()
            .map_err(unavailable("read"))?;
        let stored = rows.map_ok(|(segment, key, until, state)| Stored {
            segment,
            key,
            until: unsigned(until),
            state,
        });
        stored.try_collect().await.map_err(unavailable("read"))
    }

    async fn remove(&self, view: &str, buckets: &[i32], segment: Uuid) -> Result<(), StoreError> {
        let removals = buckets.iter().map(|bucket| async move {
            let _under_way = self.in_flight.acquire().await;
            let values = (view, bucket, segment);
            let removed = self.session.execute_unpaged(&self.statements.remove, values).await;
            removed.map(drop).map_err(unavailable("remove a segment"))
        });
        try_join_all(removals).await.map(drop)
    }

    async fn heads(&self, partition: &TopicPartition) -> Result<Vec<Head>, StoreError> {
        let found = self
            .session
            .execute_unpaged(&self.statements.heads, (name(partition),))
            .await;
        let found = found.map_err(unavailable("read coverage"))?;
        let rows = found.into_rows_result().map_err(unavailable("read coverage"))?;
        let rows = rows.rows::<(i64, i64, i64, Uuid, Option<Uuid>)>();
        let mut heads = Vec::with_capacity(HEADS);
        for row in rows.map_err(unavailable("read coverage"))? {
            let (era, until, number, id, previous) = row.map_err(unavailable("read coverage"))?;
            heads.push(Head {
                rank: Rank {
                    era,
                    until: unsigned(until),
                    number,
                },
                id,
                previous,
            });
        }
        Ok(heads)
    }

    async fn record(&self, partition: &TopicPartition, head: &Head) -> Result<Option<Bytes>, StoreError> {
        let Rank { era, until, number } = head.rank;
        let values = (name(partition), era, signed(until), number, head.id);
        let found = self.session.execute_unpaged(&self.statements.record, values).await;
        let found = found.map_err(unavailable("read coverage"))?;
        let rows = found.into_rows_result().map_err(unavailable("read coverage"))?;
        let row = rows
            .maybe_first_row::<(Bytes,)>()
            .map_err(unavailable("read coverage"))?;
        Ok(row.map(|(says,)| says))
    }

    async fn cover(&self, partition: &TopicPartition, head: &Head, says: &[u8]) -> Result<(), StoreError> {
        let Rank { era, until, number } = head.rank;
        let values = (
            name(partition),
            era,
            signed(until),
            number,
            head.id,
            head.previous,
            says,
        );
        let covered = self.session.execute_unpaged(&self.statements.cover, values).await;
        covered.map(drop).map_err(unavailable("write coverage"))
    }

    async fn retire(&self, partition: &TopicPartition, rank: Rank) -> Result<(), StoreError> {
        let values = (name(partition), rank.era, signed(rank.until), rank.number);
        let retired = self.session.execute_unpaged(&self.statements.retire, values).await;
        retired.map(drop).map_err(unavailable("remove coverage"))
    }
}

/// Stretches of `order`, each of one bucket and not too large for one mutation.
fn mutations(versions: &Versions, order: &[usize]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, row) in order.iter().enumerate() {
        let own = versions.keys.value(*row).len() + versions.states.value(*row).len();
        let fits = |part: &&mut Range<usize>| {
            let same = versions.buckets[order[part.start]] == versions.buckets[*row];
            same && bytes + own <= BATCH_BYTES && part.len() < BATCH_ROWS
        };
        match parts.last_mut().filter(fits) {
            Some(part) => {
                part.end = at + 1;
                bytes += own;
            }
            None => {
                parts.push(at..at + 1);
                bytes = own;
            }
        }
    }
    parts
}

fn name(partition: &TopicPartition) -> String {
    let TopicPartition {
        topic,
        incarnation,
        partition,
    } = partition;
    format!("{topic}/{incarnation}/{partition}")
}

/// Offsets are below 2^63: so are those of logs.
fn signed(offset: Offset) -> i64 {
    offset.0 as i64
}

fn unsigned(offset: i64) -> Offset {
    Offset(offset as u64)
}

fn unavailable<E: std::error::Error + Send + Sync + 'static>(attempted: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Unavailable {
        attempted,
        source: Box::new(error),
    }
}
