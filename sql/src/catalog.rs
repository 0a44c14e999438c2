//! What the `.sql` files of a pipelines folder declare: streams and views.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::plan_err;
use datafusion::common::tree_node::Transformed;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection};
use datafusion::sql::sqlparser::tokenizer::Location;
use sha2::{Digest, Sha256};

use crate::bounds::on_deep_stack;
use crate::parse::{Declaration, Place, parse_file};
use crate::{Class, Fold, Refusal, compile, session, system_columns};

/// One `.sql` file: the name that refusals carry, and its text.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path as the user typed or would recognise it.
    pub name: String,
    /// Whole text of the file.
    pub text: String,
}

/// Every stream and view of one pipelines folder, compiled.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    streams: Vec<Arc<Stream>>,
    views: Vec<Arc<View>>,
    /// Declared views and the folds below them, each after what it reads.
    parts: Vec<Arc<View>>,
}

impl Catalog {
    /// Parses and compiles `files`. On any refusal, all refusals are returned, in file order.
    pub async fn compile(files: &[SourceFile]) -> Result<Self, Vec<Refusal>> {
        on_deep_stack(|| futures::executor::block_on(Self::compiled(files)))
    }

    async fn compiled(files: &[SourceFile]) -> Result<Self, Vec<Refusal>> {
        let mut refusals = Vec::new();
        let mut catalog = Self::default();
        let mut views = Vec::new();
        for file in files {
            for declaration in parse_file(file, &mut refusals) {
                match declaration {
                    Declaration::Stream { stream, at } => catalog.add_stream(*stream, file, at, &mut refusals),
                    Declaration::View { view, at } => views.push((file, view, at)),
                }
            }
        }
        let context = session::planning_context(&catalog.streams);
        for (file, view, at) in views {
            let place = Place { file: &file.name };
            match compile::view(&place, &context, &catalog, &view, at).await {
                Ok(compiled) => {
                    let parts = compiled.parts.into_iter().map(Arc::new);
                    catalog.parts.extend(parts);
                    let view = Arc::new(compiled.view);
                    catalog.parts.push(Arc::clone(&view));
                    catalog.views.push(view);
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        if refusals.is_empty() {
            Ok(catalog)
        } else {
            Err(refusals)
        }
    }

    fn add_stream(&mut self, stream: Stream, file: &SourceFile, at: Location, refusals: &mut Vec<Refusal>) {
        let place = Place { file: &file.name };
        if self.stream(&stream.name).is_some() {
            let reason = format!("stream \"{}\" is declared twice", stream.name);
            refusals.push(place.refuse(at, reason, "name each stream once over all pipelines"));
        } else if let Some(other) = self.streams.iter().find(|other| other.topic == stream.topic) {
            let reason = format!(
                "streams \"{}\" and \"{}\" share topic \"{}\"",
                other.name, stream.name, stream.topic
            );
            refusals.push(place.refuse(at, reason, "give each stream a topic of its own"));
        } else {
            self.streams.push(Arc::new(stream));
        }
    }

    /// Streams in the order of their declaration.
    pub fn streams(&self) -> &[Arc<Stream>] {
        &self.streams
    }

    /// Views in the order of their declaration: a view stands after the views that it reads.
    pub fn views(&self) -> &[Arc<View>] {
        &self.views
    }

    /// The same with the folds that views over streams were taken apart into, each before the view that it is a part
    /// of: everything that is folded, stored and merged.
    pub fn views_and_parts(&self) -> &[Arc<View>] {
        &self.parts
    }

    /// The stream called `name`.
    pub fn stream(&self, name: &str) -> Option<&Arc<Stream>> {
        self.streams.iter().find(|stream| stream.name == name)
    }

    /// The view, or the part of one, called `name`.
    pub fn view(&self, name: &str) -> Option<&Arc<View>> {
        self.parts.iter().find(|view| view.name == name)
    }

    /// SELECTs and tables of the view called `name`, with the views that it reads written out; 1 of a stream.
    pub(crate) fn size_of(&self, name: &str) -> usize {
        match self.view(name).map(|view| &view.kind) {
            Some(ViewKind::Derived(derived)) => derived.size,
            _ => 1,
        }
    }

    /// The folds over `stream`, with the views that they belong to: what a layer runs over that stream's rows.
    pub fn folds_of(&self, stream: &str) -> Vec<(Arc<View>, Arc<Fold>)> {
        self.parts
            .iter()
            .filter_map(|view| match &view.kind {
                ViewKind::Fold(fold) if fold.stream().name == stream => Some((Arc::clone(view), Arc::clone(fold))),
                _ => None,
            })
            .collect()
    }
}

/// A declared topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Name in SQL.
    pub name: String,
    /// Topic in the log.
    pub topic: String,
    /// Declared columns, in order.
    pub columns: Vec<Column>,
    /// Partitions of the topic when we create it.
    pub partitions: u32,
    /// Column whose value becomes the record's key.
    pub key: Option<String>,
    /// Column that holds the event time; without it the record time is the event time.
    pub event_time: Option<String>,
    /// How the event time is written in the event.
    pub event_time_format: EventTimeFormat,
    /// IANA zone of event times that carry none.
    pub timezone: Option<String>,
    /// Milliseconds after which a row is late; `None`: no row is ever late.
    pub lateness_ms: Option<i64>,
    /// Milliseconds by which an event time may run ahead of the record time.
    pub max_skew_ms: i64,
    /// The unique key, if declared.
    pub unique: Option<UniqueKey>,
    /// Whether the archive keeps the bytes as they arrived (`_raw`).
    pub archive_raw: bool,
}

impl Stream {
    /// The declared columns, nullable as declared, without system columns.
    pub fn declared_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.declared_fields()))
    }

    /// The stream as a table: the declared columns, then the [`crate::system_columns`] in the order of that module.
    pub fn table_schema(&self) -> SchemaRef {
        let mut fields = self.declared_fields();
        fields.extend([
            Field::new(system_columns::TOPIC, DataType::Utf8, false),
            Field::new(system_columns::PARTITION, DataType::Int32, false),
            Field::new(system_columns::OFFSET, DataType::Int64, false),
            Field::new(
                system_columns::RECORD_TIME,
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                false,
            ),
            Field::new(system_columns::KEY, DataType::Binary, true),
            Field::new(system_columns::LATE, DataType::Boolean, false),
            Field::new(system_columns::DUPLICATE, DataType::Boolean, false),
        ]);
        Arc::new(Schema::new(fields))
    }

    fn declared_fields(&self) -> Vec<Field> {
        let field = |column: &Column| Field::new(&column.name, column.data_type.clone(), column.nullable);
        self.columns.iter().map(field).collect()
    }

    /// Columns that decide whether a row is malformed, late or a duplicate: event time, NOT NULL, unique key, in the
    /// order of the declaration. Every layer decodes these, whatever else it reads (law 4).
    pub fn judging_columns(&self) -> Vec<&str> {
        self.columns
            .iter()
            .filter(|column| self.judges_by(column))
            .map(|column| column.name.as_str())
            .collect()
    }

    fn judges_by(&self, column: &Column) -> bool {
        let unique = self
            .unique
            .as_ref()
            .is_some_and(|unique| unique.columns.contains(&column.name));
        !column.nullable || unique || self.event_time.as_deref() == Some(&column.name)
    }

    /// Identity of everything in the declaration that judges rows; it may not change under a stream with data.
    pub fn judging_id(&self) -> String {
        let judging: Vec<&Column> = self.columns.iter().filter(|column| self.judges_by(column)).collect();
        let unique = self.unique.as_ref().map(|unique| (&unique.columns, unique.within_ms));
        let judged = format!(
            "{judging:?} {:?} {:?} {:?} {:?} {} {unique:?}",
            self.event_time, self.event_time_format, self.timezone, self.lateness_ms, self.max_skew_ms
        );
        short_hash(&judged)
    }
}

/// The first 128 bits of SHA-256, in hexadecimal: enough to tell declarations apart, short enough for a path.
pub(crate) fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A declared column. Types: Boolean, Int32, Int64, Float64, Decimal128, Utf8, Date32, Time64(us), Timestamp(us, None),
/// Timestamp(us, "UTC"), Binary, and List and Struct of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Name, as in JSON.
    pub name: String,
    /// Arrow type.
    pub data_type: DataType,
    /// False for NOT NULL.
    pub nullable: bool,
}

/// How an event time is written in the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventTimeFormat {
    /// ISO 8601 text (the default).
    Iso8601,
    /// Seconds since 1970, a number.
    UnixSeconds,
    /// Milliseconds since 1970, a number.
    UnixMillis,
    /// Microseconds since 1970, a number.
    UnixMicros,
    /// A strftime pattern (chrono's).
    Pattern(String),
}

/// `unique_key` with `unique_within`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueKey {
    /// Columns of the key.
    pub columns: Vec<String>,
    /// Horizon in milliseconds of record time.
    pub within_ms: i64,
}

/// A view: one SQL definition.
#[derive(Debug)]
pub struct View {
    /// Name in SQL.
    pub name: String,
    /// Hash of the parsed SQL and of the declarations of what it reads: state under another id is another view's.
    pub id: String,
    /// The query, as parsed and printed again.
    pub sql: String,
    /// Columns of the answer.
    pub schema: SchemaRef,
    /// How exact the answer is.
    pub class: Class,
    /// Names of the streams and views that it reads.
    pub reads: Vec<String>,
    /// The view that this is a part of, where it was not declared by itself.
    pub part_of: Option<String>,
    /// `WITH (retention = ...)`, milliseconds before `as_of`, and the window column that it hides by.
    pub retention: Option<(i64, String)>,
    /// The column that is the window of its GROUP BY, where that is in the answer.
    pub window: Option<String>,
    /// Fold over a stream, or a query over views finished at read time.
    pub kind: ViewKind,
}

/// What a view compiles to.
#[derive(Debug)]
pub enum ViewKind {
    /// GROUP BY over one stream.
    Fold(Arc<Fold>),
    /// Whatever stands above folds: planned over the finished rows of the views (and parts) that it reads, when it is
    /// read.
    Derived(Derived),
}

/// A query over finished views.
#[derive(Debug)]
pub struct Derived {
    plan: LogicalPlan,
    /// SELECTs and tables, with the views that it reads written out.
    size: usize,
}

impl Derived {
    /// `plan` with its columns under their plain names.
    pub(crate) fn new(plan: LogicalPlan, size: usize) -> Result<Self, DataFusionError> {
        let named = plan.schema().iter().map(|(qualifier, field)| {
            let column = datafusion::common::Column::new(qualifier.cloned(), field.name());
            Expr::Column(column).alias(field.name())
        });
        let named = named.collect();
        Ok(Self {
            plan: LogicalPlan::Projection(Projection::try_new(named, Arc::new(plan))?),
            size,
        })
    }

    /// The plan over `tables`, which gives the rows of what the view reads, by name: a table, or a plan of its own. Its
    /// columns are those of the view's schema, in order.
    pub fn over<E: From<DataFusionError>>(
        &self,
        tables: &mut dyn FnMut(&str) -> Result<LogicalPlan, E>,
    ) -> Result<LogicalPlan, E> {
        let mut failed = None;
        let replaced = self.plan.clone().transform_up_with_subqueries(|node| {
            let LogicalPlan::TableScan(scan) = &node else {
                return Ok(Transformed::no(node));
            };
            match tables(scan.table_name.table()) {
                Ok(rows) => {
                    let rows = LogicalPlanBuilder::from(rows).alias(scan.table_name.clone())?.build()?;
                    Ok(Transformed::yes(rows))
                }
                Err(error) => {
                    failed = Some(error);
                    plan_err!("a table of the view cannot be read")
                }
            }
        });
        match (replaced, failed) {
            (_, Some(error)) => Err(error),
            (replaced, None) => Ok(replaced?.data),
        }
    }

    /// The plan as DataFusion prints it.
    pub(crate) fn plan_lines(&self) -> Vec<String> {
        crate::explain::lines(&self.plan.display_indent())
    }
}
