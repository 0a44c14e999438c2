//! What the `.sql` files of a pipelines folder declare: streams and views.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};

use crate::{Class, Fold, Refusal};

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
}

impl Catalog {
    /// Parses and compiles `files`. On any refusal, all refusals are returned, in file order.
    pub async fn compile(_files: &[SourceFile]) -> Result<Self, Vec<Refusal>> {
        todo!()
    }

    /// Streams in the order of their declaration.
    pub fn streams(&self) -> &[Arc<Stream>] {
        &self.streams
    }

    /// Views in the order of their declaration: a view stands after the views that it reads.
    pub fn views(&self) -> &[Arc<View>] {
        &self.views
    }

    /// The stream called `name`.
    pub fn stream(&self, name: &str) -> Option<&Arc<Stream>> {
        self.streams.iter().find(|stream| stream.name == name)
    }

    /// The view called `name`.
    pub fn view(&self, name: &str) -> Option<&Arc<View>> {
        self.views.iter().find(|view| view.name == name)
    }

    /// The folds over `stream`, with the views that they belong to: what a layer runs over that stream's rows.
    pub fn folds_of(&self, stream: &str) -> Vec<(Arc<View>, Arc<Fold>)> {
        self.views
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
        todo!()
    }

    /// The stream as a table: the declared columns, then the [`crate::system_columns`] in the order of that module.
    pub fn table_schema(&self) -> SchemaRef {
        todo!()
    }

    /// Columns that decide whether a row is malformed, late or a duplicate: event time, NOT NULL, unique key.
    /// Every layer decodes these, whatever else it reads (law 4).
    pub fn judging_columns(&self) -> Vec<&str> {
        todo!()
    }

    /// Identity of everything in the declaration that judges rows; it may not change under a stream with data.
    pub fn judging_id(&self) -> String {
        todo!()
    }
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
    /// `WITH (retention = ...)`, milliseconds before `as_of`, and the window column that it hides by.
    pub retention: Option<(i64, String)>,
    /// Fold over a stream, or a query over views finished at read time.
    pub kind: ViewKind,
}

/// What a view compiles to.
#[derive(Debug)]
pub enum ViewKind {
    /// GROUP BY over one stream.
    Fold(Arc<Fold>),
    /// A view over views: `sql`, with every ordering completed (law 2), to be planned over the finished base views.
    Derived {
        /// Query text for DataFusion.
        sql: String,
    },
}
