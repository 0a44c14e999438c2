// Licensed to the Apache Software Foundation (ASF) under one
// or more contributor license agreements.  See the NOTICE file
// distributed with this work for additional information
// regarding copyright ownership.  The ASF licenses this file
// to you under the Apache License, Version 2.0 (the
// "License"); you may not use this file except in compliance
// with the License.  You may obtain a copy of the License at
//
//   http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing,
// software distributed under the License is distributed on an
// "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY
// KIND, either express or implied.  See the License for the
// specific language governing permissions and limitations
// under the License.

//! CteWorkTable implementation used for recursive queries

use futures::future::BoxFuture;
use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion_common::error::Result;
use datafusion_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType};
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::work_table::WorkTableExec;

use crate::{ScanArgs, ScanResult, Session, TableProvider};

/// The temporary working table where the previous iteration of a recursive query is stored
/// Naming is based on PostgreSQL's implementation.
/// See here for more details: www.postgresql.org/docs/11/queries-with.html#id-1.5.6.12.5.4
#[derive(Debug)]
pub struct CteWorkTable {
    /// The name of the CTE work table
    name: String,
    /// Schema exposed by recursive self-references while planning the recursive term.
    ///
    /// This is a conservative work-table schema, not the final recursive query output
    /// schema. For example, the SQL planner may mark fields nullable here so recursive
    /// references do not inherit unsound anchor-term nullability assumptions.
    table_schema: SchemaRef,
}

impl CteWorkTable {
    /// Construct a new CteWorkTable with the given name and self-reference schema.
    pub fn new(name: &str, table_schema: SchemaRef) -> Self {
        Self {
            name: name.to_owned(),
            table_schema,
        }
    }

    /// The user-provided name of the CTE
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema exposed by scans of the recursive self-reference.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table_schema)
    }
}

#[async_trait]
impl TableProvider for CteWorkTable {
    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        None
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table_schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    fn scan<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 self,
        state: &'life1 dyn Session,
        projection: Option<&'life2 Vec<usize>>,
        filters: &'life3 [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'async_trait, Result<Arc<dyn ExecutionPlan>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        cte_work_table_scan(self, state, projection, filters, limit)
    }

    fn scan_with_args<'a, 'life0, 'life1, 'async_trait>(
        &'life0 self,
        _state: &'life1 dyn Session,
        args: ScanArgs<'a>,
    ) -> BoxFuture<'async_trait, Result<ScanResult>>
    where
        'a: 'async_trait,
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        cte_work_table_scan_with_args(self, _state, args)
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // TODO: should we support filter pushdown?
        Ok(vec![
            TableProviderFilterPushDown::Unsupported;
            filters.len()
        ])
    }
}

/// The future of `TableProvider::scan`, built where no lifetimes are bounded: its proof of `Send` is then cached.
fn cte_work_table_scan<'a>(
    table: &'a CteWorkTable,
    state: &'a dyn Session,
    projection: Option<&'a Vec<usize>>,
    filters: &'a [Expr],
    limit: Option<usize>,
) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
    async fn run<'a>(
        table: &'a CteWorkTable,
        state: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ScanArgs::default()
            .with_projection(projection.map(|p| p.as_slice()))
            .with_filters(Some(filters))
            .with_limit(limit);
        Ok(table.scan_with_args(state, options).await?.into_inner())
    }
    Box::pin(run(table, state, projection, filters, limit))
}

/// The future of `TableProvider::scan_with_args`, built where no lifetimes are bounded: its proof of `Send` is then cached.
fn cte_work_table_scan_with_args<'a>(
    table: &'a CteWorkTable,
    _state: &'a dyn Session,
    args: ScanArgs<'a>,
) -> BoxFuture<'a, Result<ScanResult>> {
    async fn run<'a>(
        table: &'a CteWorkTable,
        _state: &'a dyn Session,
        args: ScanArgs<'a>,
    ) -> Result<ScanResult> {
        Ok(ScanResult::new(Arc::new(WorkTableExec::new(
            table.name.clone(),
            Arc::clone(&table.table_schema),
            args.projection().map(|p| p.to_vec()),
        )?)))
    }
    Box::pin(run(table, _state, args))
}
