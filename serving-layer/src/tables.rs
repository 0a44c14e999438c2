//! Views and archived streams as tables of DataFusion, all at one closed seam.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, TableProviderFilterPushDown, Volatility,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use foldline_batch_layer::Archive;
use foldline_sql::{Fold, Stream, View, system_columns};
use futures::{StreamExt, TryStreamExt};

use crate::merge::{Keys, MergeError};
use crate::query::QueryError;
use crate::seam::Seam;
use crate::serving::Inner;

/// A fold view at one seam.
#[derive(Debug)]
pub(crate) struct FoldTable {
    pub(crate) inner: Arc<Inner>,
    pub(crate) view: Arc<View>,
    pub(crate) fold: Arc<Fold>,
    pub(crate) seam: Arc<Seam>,
}

#[async_trait]
impl TableProvider for FoldTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.fold.output_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(self.fold.supports_filters(filters))
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = Keys::left_by(&self.fold, filters);
        let keys =
            keys.map_err(|error| DataFusionError::External(Box::new(QueryError::from(MergeError::from(error)))))?;
        let rows = self.inner.rows_of(&self.view, &self.fold, &self.seam, &keys).await;
        let rows = rows.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let rows = RecordBatch::try_new(self.schema(), rows.columns().to_vec())?;
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], self.schema(), projection.cloned())?;
        Ok(plan)
    }
}

/// The archived rows of a stream up to the cut of a seam.
#[derive(Debug)]
pub(crate) struct StreamTable {
    pub(crate) archive: Archive,
    pub(crate) stream: Arc<Stream>,
    pub(crate) seam: Arc<Seam>,
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        self.stream.table_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(projection) => Arc::new(self.schema().project(projection)?),
            None => self.schema(),
        };
        let rows = ArchivedRows {
            archive: self.archive.clone(),
            stream: Arc::clone(&self.stream),
            seam: Arc::clone(&self.seam),
            schema: Arc::clone(&schema),
        };
        // One after the other: an answer must not depend on which partition is read faster.
        let plan = StreamingTableExec::try_new(schema, vec![Arc::new(rows)], None, Vec::new(), false, limit)?;
        Ok(Arc::new(plan))
    }
}

#[derive(Debug)]
struct ArchivedRows {
    archive: Archive,
    stream: Arc<Stream>,
    seam: Arc<Seam>,
    schema: SchemaRef,
}

impl PartitionStream for ArchivedRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut columns: Vec<String> = self.schema.fields().iter().map(|field| field.name().clone()).collect();
        if columns.is_empty() {
            columns.push(system_columns::OFFSET.to_owned()); // Somebody has to tell how many rows there are.
        }
        let mut partitions = Vec::new();
        for (partition, closed) in &self.seam.partitions {
            if partition.topic == self.stream.topic && closed.origin < closed.cut {
                partitions.push((partition.clone(), closed.origin..closed.cut));
            }
        }
        let (archive, stream, schema) = (self.archive.clone(), Arc::clone(&self.stream), Arc::clone(&self.schema));
        let rows = futures::stream::iter(partitions)
            .map(move |(partition, offsets)| archive.rows(&stream, &partition, offsets, &columns))
            .flatten()
            .map_err(|error| DataFusionError::External(Box::new(crate::QueryError::Archive(error))))
            .and_then(move |(_, rows)| {
                let projected = project(&rows, &schema);
                async move { projected }
            });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

fn project(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = rows.column_by_name(field.name()).ok_or_else(|| {
            DataFusionError::Internal(format!("the archive gave rows without column \"{}\"", field.name()))
        })?;
        columns.push(Arc::clone(column));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// `as_of()`: the largest event time that the answer covers.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct AsOf {
    micros: Option<i64>,
    signature: Signature,
}

impl AsOf {
    pub(crate) fn new(micros: Option<i64>) -> Self {
        Self {
            micros,
            signature: Signature::nullary(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for AsOf {
    fn name(&self) -> &str {
        "as_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let value = ScalarValue::TimestampMicrosecond(self.micros, Some("UTC".into()));
        Ok(ColumnarValue::Scalar(value))
    }
}
