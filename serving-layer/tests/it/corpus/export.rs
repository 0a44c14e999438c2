//! Rows and merged answers of a case as files that another engine reads: `case.json`, `<stream>.ndjson` with the events as
//! they arrived, and `<view>.parquet`.

use std::fmt::Write as _;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use foldline_serving_layer::Mode;
use parquet::arrow::ArrowWriter;
use serde_json::json;

use super::case::Case;
use super::oracle::Logged;
use crate::agreement::{everything, one_batch};
use crate::platform::{PARTITIONS, Platform, between};

pub(crate) async fn export(case: &Case, platform: &Platform, logged: &Logged, folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).unwrap();
    let mut streams = Vec::new();
    for (index, stream) in platform.catalog.streams().iter().enumerate() {
        let mut lines = String::new();
        for ((number, offset), json) in logged.arrivals.iter().zip(&logged.json) {
            if (number / PARTITIONS) as usize != index {
                continue;
            }
            let row = between(&logged.log[number], *offset..offset + 1);
            let mark = |name: &str| row.column_by_name(name).unwrap().as_boolean().value(0);
            let record_time = row.column_by_name("_record_time").unwrap();
            let record_time = arrow::util::display::array_value_to_string(record_time, 0).unwrap();
            writeln!(
                lines,
                "{{\"_partition\":{},\"_offset\":{offset},\"_record_time\":\"{record_time}\",\"_late\":{},\
                 \"_duplicate\":{},{}",
                number % PARTITIONS,
                mark("_late"),
                mark("_duplicate"),
                json.strip_prefix('{').unwrap(),
            )
            .unwrap();
        }
        std::fs::write(folder.join(format!("{}.ndjson", stream.name)), lines).unwrap();
        let columns = stream.columns.iter();
        let columns = columns.map(|column| json!([column.name, type_name(&column.data_type)]));
        streams.push(json!({"name": stream.name, "columns": columns.collect::<Vec<_>>()}));
    }
    let mut views = Vec::new();
    for view in platform
        .catalog
        .views()
        .iter()
        .filter(|view| !case.fails.contains_key(&view.name))
    {
        let answer = platform.serving.read_view(&view.name, everything(), Mode::Merged).await;
        let rows = one_batch(&answer.map_err(|error| error.chain())?);
        let file = std::fs::File::create(folder.join(format!("{}.parquet", view.name))).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let sql = case.duckdb.get(&view.name).or_else(|| case.plain.get(&view.name));
        views.push(json!({
            "name": view.name,
            "sql": sql.unwrap_or(&view.sql),
            "drops_late": case.drops_late(&view.name, &view.sql),
            "own_dialect": case.duckdb.contains_key(&view.name),
        }));
    }
    let written = json!({"streams": streams, "views": views}).to_string();
    std::fs::write(folder.join("case.json"), written).unwrap();
    Ok(())
}

/// A type as SQL spells it; times are UTC's, without a zone.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Utf8 => "VARCHAR".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(..) => "TIMESTAMP".to_owned(),
        DataType::List(item) => format!("{}[]", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|field| format!("{} {}", field.name(), type_name(field.data_type())));
            format!("STRUCT({})", fields.collect::<Vec<_>>().join(", "))
        }
        other => panic!("{other} has no name"),
    }
}
