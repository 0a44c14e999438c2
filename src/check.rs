//! `foldline check`: what a pipelines folder declares, or why it is refused.

use std::path::PathBuf;

use clap::Args;
use foldline_sql::{Catalog, Class, Stream, View, ViewKind};
use serde_json::json;

use crate::Setting;
use crate::failure::Failure;
use crate::output::say;
use crate::output::{self, Format, Row};
use crate::pipelines;

/// Read a pipelines folder; print streams, views and the class of each, or every refusal with file:line:column
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline check sql/pipelines")]
pub(crate) struct Check {
    /// Folder of the pipelines [default: the setting `pipelines`]
    folder: Option<PathBuf>,
    /// Format of the output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

const COLUMNS: [&str; 6] = ["kind", "name", "class", "reads", "columns", "notes"];

impl Check {
    /// Compiles and prints.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let folder = self.folder.unwrap_or(setting.merged.settings.pipelines);
        let files = pipelines::read(&folder)?;
        match Catalog::compile(&files).await {
            Ok(catalog) => {
                output::print(&COLUMNS, &rows(&catalog), self.format);
                Ok(())
            }
            Err(refusals) => {
                say!("{}", pipelines::lines(&refusals));
                Err(Failure::No(format!("{} refusals in {}", refusals.len(), folder.display())).into())
            }
        }
    }
}

fn rows(catalog: &Catalog) -> Vec<Row> {
    let streams = catalog.streams().iter().map(|stream| stream_row(stream));
    streams
        .chain(catalog.views().iter().map(|view| view_row(view)))
        .collect()
}

fn stream_row(stream: &Stream) -> Row {
    let marks = match (stream.lateness_ms, &stream.unique) {
        (None, None) => "no row is late or a duplicate".to_owned(),
        (lateness, unique) => [
            lateness.map(|ms| format!("late after {ms} ms")),
            unique
                .as_ref()
                .map(|key| format!("unique by {} within {} ms", key.columns.join(", "), key.within_ms)),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", "),
    };
    row(
        "stream",
        &stream.name,
        "",
        &format!("topic {} x {}", stream.topic, stream.partitions),
        stream.columns.len(),
        &marks,
    )
}

fn view_row(view: &View) -> Row {
    let (class, how) = match &view.kind {
        ViewKind::Fold(fold) => (class(view.class), format!("fold, {} key columns", fold.key_columns())),
        ViewKind::Derived(_) => (class(view.class), "finished at read time".to_owned()),
    };
    row(
        "view",
        &view.name,
        class,
        &view.reads.join(", "),
        view.schema.fields().len(),
        &how,
    )
}

fn row(kind: &str, name: &str, class: &str, reads: &str, columns: usize, notes: &str) -> Row {
    [
        ("kind", json!(kind)),
        ("name", json!(name)),
        ("class", json!(class)),
        ("reads", json!(reads)),
        ("columns", json!(columns)),
        ("notes", json!(notes)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Exact => "exact",
        Class::Rounding => "rounding",
        Class::Approximate => "approximate",
    }
}
