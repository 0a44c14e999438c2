//! Rows as one Parquet file that every reader takes, and back.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;

use super::shaped;

/// Rows of a row group: readers fetch and skip by these.
const GROUP_ROWS: usize = 131_072;
/// A row group ends before that at so many bytes: so much of a file is in memory.
const GROUP_BYTES: usize = 32 << 20;

/// A file while its rows come, of which no more than a row group is in memory.
pub(super) struct Encoder {
    writer: ArrowWriter<Vec<u8>>,
}

impl Encoder {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self, ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        // Without arrow's own copy of the schema: readers shall see what every other reader sees.
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), SchemaRef::clone(schema), options)?;
        Ok(Self { writer })
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        self.writer.write(rows)?;
        if self.writer.in_progress_size() > GROUP_BYTES {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// The bytes of the file that were not taken yet, without the row group under way.
    pub(super) fn take(&mut self) -> Bytes {
        mem::take(self.writer.inner_mut()).into()
    }

    /// The rest of the file.
    pub(super) fn finish(self) -> Result<Bytes, ParquetError> {
        Ok(self.writer.into_inner()?.into())
    }
}

/// A file in a store, of which is read what is asked for.
pub(super) struct Stored {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) bytes: u64,
}

impl AsyncFileReader for Stored {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.store.get_range(&self.path, range).map_err(of_store).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(of_store) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let bytes = self.bytes;
        async move {
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

fn of_store(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// The rows of a batch that was read in the columns `schema`, found by name.
pub(super) fn chosen(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let wanted = schema
        .fields()
        .iter()
        .map(|field| batch.schema().index_of(field.name()));
    let batch = batch.project(&wanted.collect::<Result<Vec<_>, _>>()?)?;
    shaped(&[batch], schema)
}
