//! Plain SQL over rows that stream by: what the audit compares answers with.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{Stream, StreamExt};

use super::{Fold, FoldError, rows_schema};
use crate::session::task_context;

impl Fold {
    /// As [`Fold::plain`], over rows that need not be in memory together: what the aggregation holds is bounded by the
    /// memory pool of `runtime`. The rows of the answer are in memory.
    pub async fn plain_stream(
        self: &Arc<Self>,
        rows: impl Stream<Item = RecordBatch> + Send + 'static,
        runtime: Arc<RuntimeEnv>,
    ) -> Result<RecordBatch, FoldError> {
        let failed = |source| self.failed("finish", source);
        self.try_plain_stream(rows, runtime).await.map_err(failed)
    }

    async fn try_plain_stream(
        self: &Arc<Self>,
        rows: impl Stream<Item = RecordBatch> + Send + 'static,
        runtime: Arc<RuntimeEnv>,
    ) -> Result<RecordBatch> {
        let schema = rows_schema(self.partial.input())?;
        let fold = Arc::clone(self);
        let counted = rows.map(move |batch| fold.counted(&batch));
        let rows = Once {
            rows: Mutex::new(Some(Box::pin(RecordBatchStreamAdapter::new(
                Arc::clone(&schema),
                counted,
            )))),
            schema: Arc::clone(&schema),
        };
        let source = StreamingTableExec::try_new(schema, vec![Arc::new(rows)], None, [], false, None)?;
        let source: Arc<dyn ExecutionPlan> = Arc::new(source);
        let context = TaskContext::default()
            .with_session_config(task_context().session_config().clone())
            .with_runtime(runtime);
        self.plain_over(&source, Arc::new(context)).await
    }
}

/// Rows that can be read once.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Once").finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.unwrap_or_else(|| {
            let twice = DataFusionError::Internal("rows that stream by were read twice".to_owned());
            let rows = futures::stream::iter([Err(twice)]);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
        })
    }
}
