//! Rows as one Parquet file that every reader takes, and back.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::shaped;

/// Rows of a row group: readers fetch and skip by these.
const GROUP_ROWS: usize = 131_072;

/// `rows` as a file.
pub(super) fn write(rows: &RecordBatch) -> Result<Bytes, ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    // Without arrow's own copy of the schema: readers shall see what every other reader sees.
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), rows.schema(), options)?;
    writer.write(rows)?;
    Ok(writer.into_inner()?.into())
}

/// The rows of a file in the columns `schema`, found by name.
pub(super) fn read(file: Bytes, schema: &SchemaRef) -> Result<RecordBatch, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    let batches = reader.collect::<Result<Vec<RecordBatch>, ArrowError>>()?;
    let mut found = Vec::with_capacity(batches.len());
    for batch in batches {
        let wanted = schema
            .fields()
            .iter()
            .map(|field| batch.schema().index_of(field.name()));
        let batch = batch.project(&wanted.collect::<Result<Vec<_>, _>>()?)?;
        found.push(shaped(&[batch], schema)?);
    }
    Ok(concat_batches(schema, &found)?)
}
