//! Archived events as a table: every row of a stream below the cut of a generation, once, by the UTC date of its event time.
//!
//! ```text
//! commits of each partition ── files by date, below the cut ── hash of their names and checksums ─┬─ as the ledger says
//!                                                                                                 └─ else: streamed
//! ```
//!
//! The archive holds every offset once, and its commits name what each date has: so what changed is known without a row.
//! A late event changes the day that it is of. The columns are those of the declaration, then the place in the log, the
//! record time, and the marks: late and repeated rows are there, and can be told.
//!
//! | a stream | is divided by |
//! | --- | --- |
//! | with an event time | that column, as the archive is |
//! | without one | `_event_time`, the running maximum of record times, which is its event time |

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use chrono::{Datelike, NaiveDate};
use foldline_event_log::{TopicPartition, with_causes};
use foldline_sql::{Stream, system_columns};
use futures::StreamExt;
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::load::{Loader, Piece, Wanted};
use super::tables::{YEARS, described};
use super::{Slice, SliceRows, Table, Tables, WarehouseError, shaped, shaped_schema};
use crate::archive::DateRows;
use crate::{Archive, ArchiveError, Generation};

/// The time that divides a stream which declares none.
const EVENT_TIME: &str = "_event_time";
/// What a row is told by, behind the declared columns.
const BEHIND: [&str; 5] = [
    system_columns::PARTITION,
    system_columns::OFFSET,
    system_columns::RECORD_TIME,
    system_columns::LATE,
    system_columns::DUPLICATE,
];
/// Days loaded at the same time: each has files of the archive in memory.
const AT_ONCE: usize = 1;
/// Days of one plan.
const PLAN_JOBS: usize = 4;

/// The rows of one day, read when they are asked for.
struct Day {
    archive: Archive,
    stream: Arc<Stream>,
    table: String,
    columns: Vec<String>,
    schema: SchemaRef,
    date: NaiveDate,
    partitions: Vec<(TopicPartition, DateRows)>,
}

/// The table of `stream` with the rows below the cut of `generation`.
pub(super) async fn wanted(
    loader: &Loader,
    stream: &Arc<Stream>,
    generation: &Generation,
    owner: Uuid,
) -> Result<Wanted, WarehouseError> {
    let table = loader.tables.events_table(stream, owner)?;
    let unfit = |reason: String| WarehouseError::Unfit {
        table: table.name.clone(),
        reason,
    };
    let Some(archive) = &loader.archive else {
        return Err(unfit("there is no archive here".to_owned()));
    };
    let mut days: BTreeMap<NaiveDate, Vec<(TopicPartition, DateRows)>> = BTreeMap::new();
    let cuts = generation.cut.partitions.iter();
    for cut in cuts.filter(|cut| cut.partition.topic == stream.topic) {
        let dates = archive.dates_below(&cut.partition, cut.next).await;
        for (date, rows) in dates.map_err(|error| of_archive(&table.name, &error))? {
            days.entry(date).or_default().push((cut.partition.clone(), rows));
        }
    }
    let (columns, _) = columns(stream);
    let mut slices = BTreeMap::new();
    let mut made_of = Sha256::new();
    made_of.update(format!("{} {:?}\n", table.shape(), table.expire_ms));
    for (date, partitions) in days {
        if !YEARS.contains(&date.year()) {
            let rows: u64 = partitions.iter().map(|(_, rows)| rows.rows).sum();
            return Err(unfit(format!(
                "{rows} events are of {date}, a date that no warehouse divides by"
            )));
        }
        let hash = hash_of(&table, &partitions);
        made_of.update(format!("{date} {hash}\n"));
        let rows: Arc<dyn SliceRows> = Arc::new(Day {
            archive: archive.clone(),
            stream: Arc::clone(stream),
            table: table.name.clone(),
            columns: columns.clone(),
            schema: Arc::clone(&table.schema),
            date,
            partitions,
        });
        slices.insert(Slice::Day(date), Piece { rows, hash });
    }
    Ok(Wanted {
        made_of: Some(hex(made_of)),
        slices,
        table,
        at_once: AT_ONCE,
        plan_jobs: PLAN_JOBS,
    })
}

/// Of what the rows of a day are made of: where it is the same, so are the rows.
fn hash_of(table: &Table, partitions: &[(TopicPartition, DateRows)]) -> String {
    let mut hash = Sha256::new();
    hash.update(table.shape());
    for (partition, rows) in partitions {
        for (path, crc32, rows) in &rows.files {
            hash.update(format!(
                "\n{partition} {} {path} {crc32:08x} {rows}",
                partition.incarnation
            ));
        }
    }
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The columns to be read of a stream, and those of its table.
fn columns(stream: &Stream) -> (Vec<String>, Schema) {
    let declared = stream.columns.iter().map(|column| column.name.as_str());
    let names: Vec<String> = declared.chain(BEHIND).map(str::to_owned).collect();
    let all = stream.table_schema();
    let fields = names.iter().filter_map(|name| all.field_with_name(name).ok().cloned());
    let mut fields: Vec<Field> = fields.collect();
    if stream.event_time.is_none() {
        fields.push(Field::new(EVENT_TIME, instant(), false));
    }
    (names, Schema::new(fields))
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl Tables {
    /// The table of the events of `stream`.
    fn events_table(&self, stream: &Stream, owner: Uuid) -> Result<Table, WarehouseError> {
        let unfit = |reason| WarehouseError::Unfit {
            table: stream.name.clone(),
            reason,
        };
        if self.views().any(|view| view.name == stream.name) {
            return Err(unfit("a view has that name, too".to_owned()));
        }
        let (_, schema) = columns(stream);
        let schema = shaped_schema(&schema).map_err(unfit)?;
        let expire_of = self.options.expire_of.get(&stream.name).copied();
        let key = stream.key.iter().filter(|key| {
            let field = schema.field_with_name(key.as_str());
            field.is_ok_and(|field| super::tables::clusters(field.data_type()))
        });
        Ok(Table {
            description: described(format!(
                "Foldline stream {}: every archived event, late ones and repeated ones too (_late, _duplicate)",
                stream.name
            )),
            day: Some(stream.event_time.clone().unwrap_or_else(|| EVENT_TIME.to_owned())),
            cluster: key.cloned().collect(),
            expire_ms: expire_of.unwrap_or(self.options.expire_ms),
            name: stream.name.clone(),
            schema,
            owner,
        })
    }
}

impl SliceRows for Day {
    fn count(&self) -> u64 {
        self.partitions.iter().map(|(_, rows)| rows.rows).sum()
    }

    fn batches(&self) -> BoxStream<'_, Result<RecordBatch, WarehouseError>> {
        let partitions = futures::stream::iter(&self.partitions);
        partitions
            .flat_map(|(partition, rows)| self.of(partition, rows))
            .boxed()
    }
}

impl Day {
    /// The rows of one partition. As many as its commits say, or an error.
    fn of<'a>(
        &'a self,
        partition: &'a TopicPartition,
        rows: &'a DateRows,
    ) -> BoxStream<'a, Result<RecordBatch, WarehouseError>> {
        let (archive, stream) = (&self.archive, &self.stream);
        let read = archive.rows_of_date(stream, partition, rows.offsets.clone(), &self.columns, self.date);
        let read = read.map(move |batch| {
            let batch = batch.map_err(|error| of_archive(&self.table, &error))?;
            self.shaped(&batch)
                .map_err(|error| super::load::unfit_arrow(&self.table, &error))
        });
        let counted = read.map(Some).chain(futures::stream::iter([None]));
        let counted = counted.scan(0u64, move |found, batch| {
            let item = match batch {
                Some(batch) => {
                    *found += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
                    Some(batch)
                }
                None if *found == rows.rows => None,
                None => Some(Err(WarehouseError::Damaged {
                    what: format!("{} of {partition} in the archive", self.date),
                    reason: format!("it gives {found} rows, its commits say {}", rows.rows),
                })),
            };
            futures::future::ready(Some(item))
        });
        counted.filter_map(futures::future::ready).boxed()
    }

    fn shaped(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        // The last one is the record time as the archive counts it, in milliseconds.
        let last = batch.num_columns() - 1;
        let mut columns: Vec<ArrayRef> = batch.columns()[..last].to_vec();
        if self.schema.fields().len() > last {
            let times = batch.column(last).as_primitive::<Int64Type>();
            let times: TimestampMicrosecondArray = times.unary(|ms| ms.saturating_mul(1000));
            columns.push(Arc::new(times.with_timezone("UTC")));
        }
        let (_, schema) = self::columns(&self.stream);
        shaped(&[RecordBatch::try_new(Arc::new(schema), columns)?], &self.schema)
    }
}

/// What went wrong with the archive is no reason to try the warehouse again.
fn of_archive(table: &str, error: &ArchiveError) -> WarehouseError {
    WarehouseError::Damaged {
        what: format!("the events of table \"{table}\""),
        reason: with_causes(error),
    }
}
