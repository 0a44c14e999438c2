//! The shared store on Apache Cassandra or ScyllaDB.
//!
//! ```text
//! state     ((view_id, bucket), segment, key, until desc, chunk)     chunks, state
//! coverage  ((partition), era desc, until desc, number desc, id)     previous, says
//! format    ((name))                                                 value: of the tables, and how nodes sync
//! ```
//!
//! *Wide keys.* A partition of the database is a bucket of a view: a segment with many keys of a view spreads them over
//! 64 of them by the hash of the first key column, one with few has them in one, so that reading it all is one read.
//!
//! *Hot keys.* A key that changes all the time gets a version for each flush and no lock, and all of them go with their
//! segment; a segment that has become heavy with them is written anew.
//!
//! *Large states.* A mutation of Cassandra is at most half a segment of its commit log (16 MiB), and cells should stay below
//! a few MiB: so a state comes in chunks, each a row that says how many there are.
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
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use foldline_event_log::{Offset, TopicPartition};
use futures::TryStreamExt;
use futures::future::{join_all, try_join_all};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::cluster::Node;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::frame::types::Consistency as Level;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
pub use scylla::policies::timestamp_generator::TimestampGenerator;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Cell, EXPIRY, HEADS, Head, REWRITE_AFTER, Rank, SharedStore, StoreError, Stored, Versions, Wanted};

/// Format of the tables.
const FORMAT: &str = "2";
/// Name of that in the table `format`.
const FORMAT_NAME: &str = "tables";
/// Versions of one bucket that go in one mutation: what servers warn about is 5 KiB.
const BATCH_BYTES: usize = 4 << 10;
const BATCH_ROWS: usize = 64;
/// Rows of a page, which servers make in memory, and about how many bytes.
const PAGE_ROWS: usize = 2_000;
const PAGE_BYTES: usize = 8 << 20;
/// Nodes are asked this often how they sync their commit logs.
const ASK_EVERY: Duration = Duration::from_secs(10);

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
    session: Arc<Session>,
    statements: Statements,
    in_flight: Semaphore,
    /// Why it is not used any more.
    unfit: Arc<OnceLock<String>>,
    asking: Option<JoinHandle<()>>,
}

impl Drop for CassandraStore {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
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
        let session = Arc::new(connect(&settings).await?);
        make(&session, &settings).await?;
        let statements = Statements::prepare(&session, keyspace).await?;
        let unfit = Arc::new(OnceLock::new());
        let asking = match settings.accept_periodic_sync {
            true => None,
            false => {
                let mut nodes = Nodes::new(Arc::clone(&session), keyspace);
                nodes.ask_at_start().await?;
                Some(tokio::spawn(nodes.ask_on(Arc::clone(&unfit))))
            }
        };
        Ok(Self {
            session,
            statements,
            in_flight: Semaphore::new(settings.in_flight.max(1)),
            unfit,
            asking,
        })
    }

    /// Refused is what may be lost by a crash of one node.
    fn refuse_unfit(&self) -> Result<(), StoreError> {
        self.unfit
            .get()
            .map_or(Ok(()), |reason| Err(StoreError::Unfit(reason.clone())))
    }

    /// Writes `cells`, all of one bucket.
    async fn write_some(&self, versions: &Versions, cells: &[&Cell]) -> Result<(), StoreError> {
        let values: Vec<_> = cells
            .iter()
            .map(|cell| {
                (
                    versions.view.as_str(),
                    cell.bucket,
                    versions.segment,
                    cell.key.as_ref(),
                    signed(versions.until),
                    cell.chunk as i32,
                    cell.chunks as i32,
                    cell.state.as_ref(),
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
    // Only what is missing is made: to make what is there takes rights, too, and all nodes' consent.
    let there = tables(session, keyspace).await?;
    let missing = |table: &str| !there.iter().any(|name| name == table);
    if missing("format") {
        let made = format!("CREATE TABLE IF NOT EXISTS {keyspace}.format (name text PRIMARY KEY, value text)");
        run(session, made, "make the tables").await?;
    }
    let asked = format!("SELECT value FROM {keyspace}.format WHERE name = '{FORMAT_NAME}'");
    let found = first_row::<(String,)>(session, asked.into(), (), "read the format").await?;
    if let Some((format,)) = found.as_ref().filter(|(format,)| format != FORMAT) {
        return Err(StoreError::Unfit(format!(
            "keyspace \"{keyspace}\" holds realtime views in format {format}, this foldline writes {FORMAT}; name another \
             keyspace"
        )));
    }
    let (expiry, records) = (EXPIRY.as_secs(), REWRITE_AFTER.as_secs());
    if missing("state") {
        let made = format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.state (view_id text, bucket int, segment uuid, key blob, until bigint, \
             chunk int, chunks int, state blob, PRIMARY KEY ((view_id, bucket), segment, key, until, chunk)) WITH \
             CLUSTERING ORDER BY (segment ASC, key ASC, until DESC, chunk ASC) AND default_time_to_live = {expiry} AND \
             gc_grace_seconds = 3600"
        );
        run(session, made, "make the tables").await?;
    }
    if missing("coverage") {
        let made = format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.coverage (partition text, era bigint, until bigint, number bigint, id \
             uuid, previous uuid, says blob, PRIMARY KEY (partition, era, until, number, id)) WITH CLUSTERING ORDER BY \
             (era DESC, until DESC, number DESC, id DESC) AND default_time_to_live = {records} AND gc_grace_seconds = 3600"
        );
        run(session, made, "make the tables").await?;
    }
    if found.is_none() {
        let noted = format!("INSERT INTO {keyspace}.format (name, value) VALUES ('{FORMAT_NAME}', '{FORMAT}')");
        run(session, noted, "note the format").await?;
    }
    Ok(())
}

async fn run(session: &Session, statement: String, attempted: &'static str) -> Result<(), StoreError> {
    let ran = session.query_unpaged(statement, ()).await;
    ran.map(drop).map_err(unavailable(attempted))
}

/// The first row of what `statement` finds.
async fn first_row<R>(
    session: &Session,
    statement: Statement,
    values: impl SerializeRow,
    attempted: &'static str,
) -> Result<Option<R>, StoreError>
where
    R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
{
    let found = session.query_unpaged(statement, values).await;
    let found = found.map_err(unavailable(attempted))?.into_rows_result();
    let found = found.map_err(unavailable(attempted))?;
    found.maybe_first_row().map_err(unavailable(attempted))
}

/// The tables that `keyspace` has.
async fn tables(session: &Session, keyspace: &str) -> Result<Vec<String>, StoreError> {
    let asked = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let found = session.query_unpaged(asked, (keyspace,)).await;
    let found = found.map_err(unavailable("read the tables"))?.into_rows_result();
    let found = found.map_err(unavailable("read the tables"))?;
    let rows = found.rows::<(String,)>().map_err(unavailable("read the tables"))?;
    let names = rows.map(|row| row.map(|(name,)| name));
    names.collect::<Result<_, _>>().map_err(unavailable("read the tables"))
}

/// Copies by datacenter (or over all); `None` where there is no such keyspace.
async fn copies(session: &Session, keyspace: &str) -> Result<Option<BTreeMap<String, u32>>, StoreError> {
    let asked = "SELECT replication, durable_writes FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let found = first_row::<(BTreeMap<String, String>, bool)>(session, asked.into(), (keyspace,), "read the keyspaces");
    let Some((replication, durable)) = found.await? else {
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

/// How nodes sync their commit logs: whoever acknowledges before has lost what was acknowledged after a crash.
///
/// | a node | is |
/// | --- | --- |
/// | says `group` or `batch` | fit, and what it said is remembered in the keyspace, by its host id |
/// | says `periodic`, or something that is not known | refused: at the start, and by every request from then on |
/// | does not answer, and said `group` or `batch` before | fit until it answers, when it is asked again |
/// | does not answer, and nobody ever asked it | refused at the start |
///
/// So one node that is down stops nobody. All are asked every [`ASK_EVERY`]: as long a node whose setting was changed while
/// it was away may acknowledge what it has not synced.
struct Nodes {
    session: Arc<Session>,
    keyspace: String,
    /// By host id: what is remembered.
    said: BTreeMap<Uuid, String>,
}

impl Nodes {
    fn new(session: Arc<Session>, keyspace: &str) -> Self {
        Self {
            session,
            keyspace: keyspace.to_owned(),
            said: BTreeMap::new(),
        }
    }

    async fn ask_at_start(&mut self) -> Result<(), StoreError> {
        for (node, said) in self.ask_all().await {
            let before = match &said {
                Some(said) => {
                    self.remember(node.host_id, said).await?;
                    None
                }
                None => self.remembered(node.host_id).await?,
            };
            judge(&node.address.to_string(), said.as_deref(), before.as_deref()).map_err(StoreError::Unfit)?;
            if said.is_none() {
                tracing::warn!(
                    node = %node.address,
                    "a node of the shared store does not answer; it synced its commit log in time when it was asked last"
                );
            }
        }
        Ok(())
    }

    /// Goes on asking, until one is `unfit`.
    async fn ask_on(mut self, unfit: Arc<OnceLock<String>>) {
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            for (node, said) in self.ask_all().await {
                let Some(said) = said else { continue };
                // First: who starts while the node is away must know it.
                if let Err(error) = self.remember(node.host_id, &said).await {
                    tracing::debug!(%error, "what a node said is not remembered");
                }
                if let Err(reason) = judge(&node.address.to_string(), Some(&said), None) {
                    tracing::error!(reason, "the shared store is not used any more");
                    unfit.get_or_init(|| reason);
                    return;
                }
            }
        }
    }

    /// What each node says now.
    async fn ask_all(&self) -> Vec<(Arc<Node>, Option<String>)> {
        let state = self.session.get_cluster_state();
        let nodes = state.get_nodes_info().iter().cloned();
        join_all(nodes.map(|node| async move {
            let said = self.ask(&node).await;
            (node, said)
        }))
        .await
    }

    /// What the node itself says. ScyllaDB has the same setting elsewhere. `None` where it does not answer.
    async fn ask(&self, node: &Arc<Node>) -> Option<String> {
        for table in ["system_views.settings", "system.config"] {
            let mut asked = Statement::new(format!("SELECT value FROM {table} WHERE name = 'commitlog_sync'"));
            let target = NodeIdentifier::Node(Arc::clone(node));
            asked.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(target, None)));
            asked.set_consistency(Level::One);
            match self.session.query_unpaged(asked, ()).await {
                Ok(answer) => {
                    let rows = answer.into_rows_result().ok();
                    let row = rows.and_then(|rows| rows.maybe_first_row::<(String,)>().ok().flatten());
                    if let Some((value,)) = row {
                        return Some(value.trim_matches('"').to_owned());
                    }
                }
                // It answers that there is no such table, or none for us.
                Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                    DbError::Invalid | DbError::Unauthorized,
                    _,
                ))) => {}
                // Too slow, too busy, gone: that says nothing.
                Err(_) => return None,
            }
        }
        Some(UNKNOWN.to_owned())
    }

    async fn remembered(&self, host: Uuid) -> Result<Option<String>, StoreError> {
        let asked = format!("SELECT value FROM {}.format WHERE name = ?", self.keyspace);
        let found =
            first_row::<(String,)>(&self.session, asked.into(), (sync_name(host),), "read what nodes said").await?;
        Ok(found.map(|(said,)| said))
    }

    /// Where it is something else than before.
    async fn remember(&mut self, host: Uuid, said: &str) -> Result<(), StoreError> {
        if self.said.get(&host).is_some_and(|known| known == said) {
            return Ok(());
        }
        let noted = format!("INSERT INTO {}.format (name, value) VALUES (?, ?)", self.keyspace);
        let noted = self.session.query_unpaged(noted, (sync_name(host), said)).await;
        noted.map_err(unavailable("note what nodes said"))?;
        self.said.insert(host, said.to_owned());
        Ok(())
    }
}

fn sync_name(host: Uuid) -> String {
    format!("commitlog_sync of {host}")
}

/// What a node says that does not know the setting.
const UNKNOWN: &str = "unknown";

/// Why the node at `address` is not fit, if it is not: by what it says now, or, where it does not answer, said before.
fn judge(address: &str, says: Option<&str>, said: Option<&str>) -> Result<(), String> {
    match says.or(said) {
        Some("group" | "batch") => Ok(()),
        Some(sync) => Err(format!(
            "node {address} syncs its commit log after it acknowledges (commitlog_sync: {sync}), so that a crash loses what \
             answers are made of; set commitlog_sync: group there, or accept it with realtime.accept_periodic_sync = true"
        )),
        None => Err(format!(
            "node {address} does not answer, and nobody knows yet how it syncs its commit log; start it, remove it from the \
             database's cluster, or set realtime.accept_periodic_sync = true"
        )),
    }
}

impl Statements {
    async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let prepare = async |text: String| {
            let mut statement = Statement::new(text);
            statement.set_page_size(PAGE_ROWS as i32);
            let prepared = session.prepare(statement).await;
            let mut prepared = prepared.map_err(unavailable("prepare statements"))?;
            prepared.set_is_idempotent(true);
            Ok::<_, StoreError>(prepared)
        };
        let newest = format!("SELECT era, until, number, id, previous FROM {keyspace}.coverage WHERE partition = ?");
        Ok(Self {
            write: prepare(format!(
                "INSERT INTO {keyspace}.state (view_id, bucket, segment, key, until, chunk, chunks, state) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            ))
            .await?,
            read: prepare(format!(
                "SELECT segment, key, until, chunk, chunks, state FROM {keyspace}.state WHERE view_id = ? AND bucket = ? AND segment IN ? \
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
        self.refuse_unfit()?;
        let mut cells: Vec<&Cell> = versions.cells.iter().collect();
        cells.sort_by_key(|cell| cell.bucket);
        let parts = mutations(&cells);
        let writes = parts.into_iter().map(|part| self.write_some(versions, &cells[part]));
        try_join_all(writes).await.map(drop)
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Vec<Stored>, StoreError> {
        self.refuse_unfit()?;
        let Wanted {
            view,
            bucket,
            segments,
            from,
            until,
            cell_bytes,
        } = wanted;
        if segments.is_empty() {
            return Ok(Vec::new());
        }
        let _under_way = self.in_flight.acquire().await;
        let mut read = self.statements.read.clone();
        read.set_page_size((PAGE_BYTES / cell_bytes.max(1)).clamp(1, PAGE_ROWS) as i32);
        let values = (view, bucket, segments, from, until);
        let pages = self.session.execute_iter(read, values).await;
        let rows = pages.map_err(unavailable("read"))?;
        let rows = rows
            .rows_stream::<(Uuid, Bytes, i64, i32, i32, Bytes)>()
            .map_err(unavailable("read"))?;
        let stored = rows.map_ok(|(segment, key, until, chunk, chunks, state)| Stored {
            segment,
            until: unsigned(until),
            cell: Cell {
                bucket,
                key,
                chunk: chunk as u32,
                chunks: chunks as u32,
                state,
            },
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
        self.refuse_unfit()?;
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

/// Stretches of `cells`, each of one bucket and not too large for one mutation.
fn mutations(cells: &[&Cell]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, cell) in cells.iter().enumerate() {
        let own = cell.key.len() + cell.state.len();
        let fits = |part: &&mut Range<usize>| {
            let same = cells[part.start].bucket == cell.bucket;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_down_stops_nobody_who_knows_how_it_syncs() {
        for sync in ["group", "batch"] {
            assert_eq!(judge("a:1", Some(sync), None), Ok(()));
            assert_eq!(judge("a:1", None, Some(sync)), Ok(()), "as it said before");
            assert_eq!(judge("a:1", Some(sync), Some("periodic")), Ok(()), "it was set since");
        }
        for (says, said) in [
            (Some("periodic"), None),
            (Some("periodic"), Some("group")),
            (Some(UNKNOWN), Some("group")),
            (None, Some("periodic")),
        ] {
            let refused = judge("a:1", says, said).unwrap_err();
            assert!(refused.contains("node a:1 syncs"), "{says:?}, {said:?}: {refused}");
        }
        let refused = judge("a:1", None, None).unwrap_err();
        assert!(
            refused.contains("node a:1 does not answer") && refused.contains("accept_periodic_sync"),
            "{refused}"
        );
    }
}
