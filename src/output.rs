//! How data is printed: a table for people, JSON or CSV for programs.

use std::io::Write;

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::Setting;
use crate::instance::Instance;
use crate::platform::Role;

/// Widest cell of a table, in characters; longer ones are cut and marked. JSON and CSV cut nothing.
const CELL_WIDTH_MAX: usize = 60;

/// Format of printed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// One JSON document.
    Json,
    /// Comma separated, with a header.
    Csv,
}

/// One row by column name.
pub(crate) type Row = Map<String, Value>;

/// Rows of objects as text. `columns` names what is shown, in order.
pub(crate) fn render(columns: &[&str], rows: &[Row], format: Format) -> String {
    match format {
        Format::Json => {
            let mut text = serde_json::to_string_pretty(rows).expect("JSON values serialise");
            text.push('\n');
            text
        }
        Format::Csv => csv(columns, rows),
        Format::Table => table(columns, rows),
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no error.
pub(crate) fn write(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        tracing::warn!(%error, "cannot write to stdout");
    }
}

/// A line on stdout, as `println!` writes it, through [`write`].
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::output::write((format!($($argument)*) + "\n").as_bytes())
    };
}
pub(crate) use say;

/// Prints `columns` of `rows`.
pub(crate) fn print(columns: &[&str], rows: &[Row], format: Format) {
    write(render(columns, rows, format).as_bytes());
}

/// Prints `columns` of the rows that `path` of a foldline with `roles` answers with.
pub(crate) async fn print_from(
    setting: &Setting,
    roles: &[Role],
    path: &str,
    columns: &[&str],
    format: Format,
) -> anyhow::Result<()> {
    let instance = Instance::open(setting, roles).await?;
    let rows = instance.client().get_json::<Vec<Row>>(path).await;
    instance.close().await;
    print(columns, &rows?, format);
    Ok(())
}

fn csv(columns: &[&str], rows: &[Row]) -> String {
    let mut text = columns
        .iter()
        .map(|column| quoted(column))
        .collect::<Vec<_>>()
        .join(",")
        + "\n";
    for row in rows {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| quoted(&cell(row.get(*column), "")))
            .collect();
        text += &cells.join(",");
        text.push('\n');
    }
    text
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

fn table(columns: &[&str], rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            columns
                .iter()
                .map(|column| short(&cell(row.get(*column), "NULL")))
                .collect()
        })
        .collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let widest = cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
            widest.max(column.chars().count())
        })
        .collect();
    let numeric: Vec<bool> = columns
        .iter()
        .map(|column| !rows.is_empty() && rows.iter().all(|row| row.get(*column).is_none_or(looks_numeric)))
        .collect();
    let line = |values: &[String]| {
        let padded: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let gap = " ".repeat(widths[at].saturating_sub(value.chars().count()));
                if numeric[at] { gap + value } else { value.clone() + &gap }
            })
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>());
    text += &line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
    for row in &cells {
        text += &line(row);
    }
    text += &format!("({} rows)\n", rows.len());
    text
}

/// Numbers, and numbers in quotes: 64-bit integers and decimals travel as text so that no digit is lost.
fn looks_numeric(value: &Value) -> bool {
    match value {
        Value::Null | Value::Number(_) => true,
        Value::String(text) => !text.is_empty() && text.parse::<f64>().is_ok(),
        _ => false,
    }
}

fn cell(value: Option<&Value>, null: &str) -> String {
    match value {
        None | Some(Value::Null) => null.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// One line of at most [`CELL_WIDTH_MAX`] characters.
fn short(cell: &str) -> String {
    let line: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= CELL_WIDTH_MAX {
        return line;
    }
    line.chars().take(CELL_WIDTH_MAX - 1).collect::<String>() + "…"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> Vec<Row> {
        let rows =
            json!([{"name": "a,\"b\"", "reviews": 3, "note": null}, {"name": "c\nd", "reviews": 12, "note": "x"}]);
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row.as_object().unwrap().clone())
            .collect()
    }

    const COLUMNS: [&str; 3] = ["name", "reviews", "note"];

    #[test]
    fn tables_align_and_numbers_stand_right() {
        let text = render(&COLUMNS, &rows(), Format::Table);
        assert_eq!(
            text,
            "name   reviews  note\n-----  -------  ----\na,\"b\"        3  NULL\nc d         12  x\n(2 rows)\n"
        );
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            render(&COLUMNS, &rows(), Format::Csv),
            "name,reviews,note\n\"a,\"\"b\"\"\",3,\n\"c\nd\",12,x\n"
        );
    }

    #[test]
    fn long_cells_are_cut_in_tables_only() {
        let rows = vec![Row::from_iter([("text".to_owned(), json!("x".repeat(100)))])];
        assert!(render(&["text"], &rows, Format::Table).contains('…'));
        assert!(render(&["text"], &rows, Format::Csv).contains(&"x".repeat(100)));
    }
}
