//! Rows of a view by key and range, without SQL: `product_id=B001&day=gte.2024-01-01&order=day.desc&limit=50`.
//!
//! Equality on key columns is looked up in the partials, so that a point read finishes a handful of rows; everything
//! is then evaluated once more on the finished rows, with the literals cast to the columns' types.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, RecordBatch, Scalar, StringArray, UInt32Array,
};
use arrow::compute::kernels::{cmp, numeric};
use arrow::compute::{
    CastOptions, SortColumn, SortOptions, and_kleene, cast_with_options, concat_batches, filter_record_batch,
    is_not_null, is_null, lexsort_to_indices, like, or_kleene, take_record_batch,
};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, SortExpr, lit};
use foldline_batch_layer::GenerationNumber;
use foldline_sql::{Derived, View, ViewKind, own_bytes};

use crate::coverage::type_name;
use crate::merge::{Keys, MergeError};
use crate::query::QueryError;
use crate::seam::{Mode, Seam};
use crate::serving::{Answer, Inner, Serving};

/// Rows of an answer when nobody says how many.
pub const LIMIT_DEFAULT: usize = 100;
/// Most values of one `in.(...)`.
const VALUES_MAX: usize = 1000;

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `eq.`, or nothing.
    Eq,
    /// `neq.`
    Neq,
    /// `gt.`
    Gt,
    /// `gte.`
    Gte,
    /// `lt.`
    Lt,
    /// `lte.`
    Lte,
    /// `in.(a,b)`
    In,
    /// `like.`, with `%` and `_` (or `*` for `%`)
    Like,
    /// `is.null`
    IsNull,
    /// `not.is.null`
    IsNotNull,
}

/// A condition on one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Column.
    pub column: String,
    /// Operator.
    pub operator: Operator,
    /// Operand as text; for [`Operator::In`], what stands between the parentheses.
    pub value: String,
}

impl Filter {
    /// Reads `value` of `column=value`: an operator, a dot and an operand. What does not begin with an operator is
    /// compared as it stands.
    pub fn parse(column: &str, value: &str) -> Self {
        let filter = |operator, value: &str| Self {
            column: column.to_owned(),
            operator,
            value: value.to_owned(),
        };
        match value {
            "is.null" => return filter(Operator::IsNull, ""),
            "not.is.null" => return filter(Operator::IsNotNull, ""),
            _ => {}
        }
        let Some((operator, operand)) = value.split_once('.') else {
            return filter(Operator::Eq, value);
        };
        match operator {
            "eq" => filter(Operator::Eq, operand),
            "neq" => filter(Operator::Neq, operand),
            "gt" => filter(Operator::Gt, operand),
            "gte" => filter(Operator::Gte, operand),
            "lt" => filter(Operator::Lt, operand),
            "lte" => filter(Operator::Lte, operand),
            "like" => filter(Operator::Like, operand),
            "in" => match operand.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
                Some(list) => filter(Operator::In, list),
                None => filter(Operator::Eq, value),
            },
            _ => filter(Operator::Eq, value),
        }
    }
}

/// One column of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sort {
    /// Column.
    pub column: String,
    /// Largest first.
    pub descending: bool,
    /// NULL before everything. As in PostgreSQL, that is the default where `descending`.
    pub nulls_first: bool,
}

impl Sort {
    /// Reads `order=col.desc,col2`.
    pub fn parse(order: &str) -> Result<Vec<Self>, QueryError> {
        let mut sorts = Vec::new();
        for item in order.split(',').filter(|item| !item.is_empty()) {
            let mut words: Vec<&str> = item.split('.').collect();
            let nulls_first = match words.last() {
                Some(&"nullsfirst") => Some(true),
                Some(&"nullslast") => Some(false),
                _ => None,
            };
            if nulls_first.is_some() {
                words.pop();
            }
            let descending = match words.last() {
                Some(&"desc") => Some(true),
                Some(&"asc") => Some(false),
                _ => None,
            };
            if descending.is_some() {
                words.pop();
            }
            let column = words.join(".");
            if column.is_empty() {
                return Err(QueryError::BadParameter {
                    parameter: "order",
                    reason: format!("\"{item}\" names no column; write order=column.desc,other"),
                });
            }
            let descending = descending.unwrap_or(false);
            sorts.push(Self {
                column,
                descending,
                nulls_first: nulls_first.unwrap_or(descending),
            });
        }
        Ok(sorts)
    }
}

/// Which rows of a view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadRequest {
    /// Conditions, all of which hold.
    pub filters: Vec<Filter>,
    /// Order; without it rows come in key order.
    pub order: Vec<Sort>,
    /// Most rows; [`LIMIT_DEFAULT`] where it is not said.
    pub limit: Option<usize>,
    /// Rows to leave out at the beginning.
    pub offset: usize,
    /// Columns; all of them where it is not said.
    pub columns: Option<Vec<String>>,
}

impl Serving {
    /// Rows of `view`.
    pub async fn read_view(&self, view: &str, request: ReadRequest, mode: Mode) -> Result<Answer, QueryError> {
        let since = Instant::now();
        let inner = Arc::clone(&self.inner);
        let view = inner.view(view)?;
        // The lock of what is in memory, only for those that it may serve.
        if mode == Mode::Merged && request.is_short(&view) && inner.parts.generations.holds(&view.id) {
            return self.run_here(inner.read_view(&view, &request, mode, since)).await;
        }
        self.run(async move { inner.read_view(&view, &request, mode, since).await })
            .await
    }
}

impl Serving {
    /// Every row of `view` in a stored generation, at its cut and without speed. For whoever copies whole views: the time is
    /// not bounded, nor is the number of rows, but they are no more than `bytes_max` bytes. Works on the runtime that asks.
    pub async fn whole(
        &self,
        view: &str,
        generation: GenerationNumber,
        bytes_max: usize,
    ) -> Result<Vec<RecordBatch>, QueryError> {
        let inner = &self.inner;
        let view = inner.view(view)?;
        let mut streams = Vec::new();
        inner.streams_under(&view, &mut streams);
        let seam = inner.close(&streams, Mode::At(generation)).await?;
        inner.building_under(&view, &seam)?;
        let batches = match &view.kind {
            ViewKind::Fold(fold) => vec![inner.finish_rows(&view, fold, &seam, &Keys::all()).await?],
            ViewKind::Derived(derived) => {
                let session = inner.session(&seam, &[]).await?;
                let frame = inner.derived_frame(&session, &view, derived, &seam)?;
                inner.collect_whole(frame, bytes_max).await?
            }
        };
        let bytes: usize = batches.iter().map(own_bytes).sum();
        if bytes > bytes_max {
            let what = format!("{bytes_max} bytes");
            return Err(QueryError::TooLarge { what });
        }
        Ok(batches)
    }
}

impl ReadRequest {
    /// Whether it takes no longer than to wake up another thread.
    fn is_short(&self, view: &View) -> bool {
        let ViewKind::Fold(fold) = &view.kind else {
            return false;
        };
        let fixed = self.filters.iter().filter(|filter| filter.operator == Operator::Eq);
        fold.is_short_by(fixed.map(|filter| filter.column.as_str()))
    }
}

impl Inner {
    /// The view called `name`; else an error that lists those that exist.
    pub(crate) fn view(&self, name: &str) -> Result<Arc<View>, QueryError> {
        let catalog = &self.parts.catalog;
        let view = catalog.view(name).cloned();
        view.ok_or_else(|| QueryError::UnknownView {
            name: name.to_owned(),
            known: catalog.views().iter().map(|view| view.name.clone()).collect(),
        })
    }

    async fn read_view(
        self: &Arc<Self>,
        view: &Arc<View>,
        request: &ReadRequest,
        mode: Mode,
        since: Instant,
    ) -> Result<Answer, QueryError> {
        let conditions = conditions(view, &request.filters)?;
        let plan = Shape::of(view, request, self.parts.limits.answer_rows)?;
        let mut streams = Vec::new();
        self.streams_under(view, &mut streams);
        let seam = self.close(&streams, mode).await?;
        let rows = match &view.kind {
            ViewKind::Fold(fold) => {
                let filters = conditions.iter().map(Condition::expression);
                let filters = filters.collect::<Result<Vec<_>, _>>()?;
                let keys = Keys::left_by(fold, &filters).map_err(MergeError::Fold)?;
                self.rows_of(view, fold, &seam, &keys).await?
            }
            ViewKind::Derived(derived) => {
                let point = match self.point_plan(view, &conditions).await {
                    Some(point) => match self.point_rows(view, &point, &seam, &conditions).await {
                        // The other conditions, the columns and the limit may leave little of it: they go into the plan.
                        Err(QueryError::TooLarge { .. }) => None,
                        rows => Some(rows?),
                    },
                    None => None,
                };
                let rows = match point {
                    Some(rows) => {
                        let plan = plan.completed(&view.schema);
                        plan.apply(rows, &conditions).map_err(QueryError::Columns)?
                    }
                    None => self.derived_rows(view, derived, &seam, &conditions, &plan).await?,
                };
                return Ok(self.answer(rows.schema(), vec![rows], &seam, view.class, since));
            }
        };
        let rows = plan.apply(rows, &conditions).map_err(QueryError::Columns)?;
        Ok(self.answer(rows.schema(), vec![rows], &seam, view.class, since))
    }

    /// The rows of a view over views: conditions, order and bounds are the planner's, which knows how far down they may
    /// go.
    async fn derived_rows(
        self: &Arc<Self>,
        view: &Arc<View>,
        derived: &Derived,
        seam: &Arc<Seam>,
        conditions: &[Condition],
        shape: &Shape,
    ) -> Result<RecordBatch, QueryError> {
        let session = self.session(seam, &[]).await?;
        let mut frame = self.derived_frame(&session, view, derived, seam)?;
        for condition in conditions {
            frame = frame.filter(condition.expression()?).map_err(QueryError::Plan)?;
        }
        let frame = shape.of_frame(frame, &view.schema).map_err(QueryError::Plan)?;
        let schema: SchemaRef = Arc::clone(frame.schema().inner());
        let batches = self.collect(frame).await?;
        concat_batches(&schema, &batches).map_err(QueryError::Columns)
    }
}

/// A filter with its operands in the type of the column.
pub(crate) struct Condition {
    index: usize,
    column: String,
    operator: Operator,
    values: Vec<ArrayRef>,
}

fn conditions(view: &View, filters: &[Filter]) -> Result<Vec<Condition>, QueryError> {
    let mut conditions = Vec::with_capacity(filters.len());
    for filter in filters {
        let index = column_index(view, &filter.column)?;
        let data_type = view.schema.field(index).data_type();
        let values = match filter.operator {
            Operator::IsNull | Operator::IsNotNull => Vec::new(),
            Operator::Like => vec![pattern(filter, data_type)?],
            Operator::In => {
                let literals = split_list(&filter.value);
                if literals.len() > VALUES_MAX {
                    return Err(bad_value(filter, data_type, &format!("more than {VALUES_MAX} values")));
                }
                let typed = literals.iter().map(|literal| typed(filter, literal, data_type));
                typed.collect::<Result<_, _>>()?
            }
            _ => vec![typed(filter, &filter.value, data_type)?],
        };
        conditions.push(Condition {
            index,
            column: filter.column.clone(),
            operator: filter.operator,
            values,
        });
    }
    Ok(conditions)
}

fn column_index(view: &View, column: &str) -> Result<usize, QueryError> {
    view.schema.index_of(column).map_err(|_| QueryError::UnknownColumn {
        view: view.name.clone(),
        column: column.to_owned(),
        valid: view.schema.fields().iter().map(|field| field.name().clone()).collect(),
    })
}

fn bad_value(filter: &Filter, data_type: &DataType, reason: &str) -> QueryError {
    QueryError::BadValue {
        column: filter.column.clone(),
        data_type: type_name(data_type),
        value: filter.value.clone(),
        reason: reason.to_owned(),
    }
}

/// `literal` as one value of `data_type`; never rounded or cut off: then it would match what it is not.
fn typed(filter: &Filter, literal: &str, data_type: &DataType) -> Result<ArrayRef, QueryError> {
    let bad = |reason: &str| bad_value(filter, data_type, reason);
    match data_type {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => {
            let decimals = literal.split_once('.').map_or("", |(_, decimals)| decimals);
            if decimals.trim_end_matches('0').len() > usize::try_from(*scale).unwrap_or(0) {
                return Err(bad("it has more digits after the point than the column"));
            }
        }
        DataType::Binary | DataType::LargeBinary => {
            return bytes(literal, data_type).ok_or_else(|| bad("write it in hexadecimal, as it is shown"));
        }
        DataType::Date32 if literal.len() != 10 => return Err(bad("write a date as 2024-01-31")),
        _ => {}
    }
    let text: ArrayRef = Arc::new(StringArray::from(vec![literal]));
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(&text, data_type, &options).map_err(|error| bad(&error.to_string()))
}

/// Bytes from hexadecimal, in which they are shown.
fn bytes(literal: &str, data_type: &DataType) -> Option<ArrayRef> {
    let digits = literal.as_bytes().chunks(2);
    let bytes =
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok());
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    let value: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&bytes]));
    arrow::compute::cast(&value, data_type).ok()
}

fn pattern(filter: &Filter, data_type: &DataType) -> Result<ArrayRef, QueryError> {
    if !matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return Err(bad_value(filter, data_type, "like needs a column of text"));
    }
    typed(filter, &filter.value.replace('*', "%"), data_type)
}

/// Splits what stands between the parentheses of `in.(...)`; values with commas stand in double quotes.
fn split_list(list: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut quoted = false;
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        let last = values.last_mut().expect("there is always a last value");
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => last.extend(characters.next()),
            ',' if !quoted => values.push(String::new()),
            other => last.push(other),
        }
    }
    values
}

impl Condition {
    /// Rows of `rows` where it holds.
    fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let column = &one_zero(rows.column(self.index))?;
        let scalar = |value: &ArrayRef| Ok::<_, ArrowError>(Scalar::new(one_zero(value)?));
        let by =
            |kernel: fn(&dyn arrow::array::Datum, &dyn arrow::array::Datum) -> Result<BooleanArray, ArrowError>| {
                let value = self.values.first().expect("a comparison has an operand");
                kernel(column, &scalar(value)?)
            };
        match self.operator {
            Operator::Eq => by(cmp::eq),
            Operator::Neq => by(cmp::neq),
            Operator::Gt => by(cmp::gt),
            Operator::Gte => by(cmp::gt_eq),
            Operator::Lt => by(cmp::lt),
            Operator::Lte => by(cmp::lt_eq),
            Operator::Like => by(like),
            Operator::IsNull => is_null(column),
            Operator::IsNotNull => is_not_null(column),
            Operator::In => {
                let mut any = BooleanArray::from(vec![false; rows.num_rows()]);
                for value in &self.values {
                    any = or_kleene(&any, &cmp::eq(column, &scalar(value)?)?)?;
                }
                Ok(any)
            }
        }
    }

    /// Whether it leaves only some values to its column.
    pub(crate) fn fixes(&self) -> bool {
        matches!(self.operator, Operator::Eq | Operator::In)
    }

    pub(crate) fn column(&self) -> &str {
        &self.column
    }

    /// The same for the planner.
    fn expression(&self) -> Result<Expr, QueryError> {
        self.expression_over(&self.column)
    }

    /// The same of another column of its type.
    pub(crate) fn expression_over(&self, column: &str) -> Result<Expr, QueryError> {
        let scalars = self
            .values
            .iter()
            .map(|value| ScalarValue::try_from_array(value, 0).map(lit));
        let mut scalars: Vec<Expr> = scalars.collect::<Result<_, _>>().map_err(QueryError::Plan)?;
        let column = plain_column(column);
        if self.operator == Operator::In {
            return Ok(column.in_list(scalars, false));
        }
        let operand = scalars.pop().unwrap_or_else(|| lit(ScalarValue::Null));
        Ok(match self.operator {
            Operator::Eq | Operator::In => column.eq(operand),
            Operator::Neq => column.not_eq(operand),
            Operator::Gt => column.gt(operand),
            Operator::Gte => column.gt_eq(operand),
            Operator::Lt => column.lt(operand),
            Operator::Lte => column.lt_eq(operand),
            Operator::Like => column.like(operand),
            Operator::IsNull => column.is_null(),
            Operator::IsNotNull => column.is_not_null(),
        })
    }
}

/// `values` with 0.0 for -0.0, which the planner takes for equal and kernels do not.
fn one_zero(values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match values.data_type() {
        DataType::Float64 => numeric::add(values, &Float64Array::new_scalar(0.0)),
        DataType::Float32 => numeric::add(values, &Float32Array::new_scalar(0.0)),
        _ => Ok(Arc::clone(values)),
    }
}

fn plain_column(name: &str) -> Expr {
    Expr::Column(datafusion::common::Column::new_unqualified(name))
}

/// Order, bounds and columns of an answer.
#[derive(Clone)]
struct Shape {
    order: Vec<(usize, SortOptions)>,
    offset: usize,
    limit: usize,
    columns: Option<Vec<usize>>,
}

impl Shape {
    fn of(view: &View, request: &ReadRequest, rows_max: usize) -> Result<Self, QueryError> {
        let limit = request.limit.unwrap_or(LIMIT_DEFAULT.min(rows_max));
        if limit > rows_max {
            return Err(QueryError::BadParameter {
                parameter: "limit",
                reason: format!("{limit} is more than {rows_max}; read in pages with offset"),
            });
        }
        let mut order = Vec::with_capacity(request.order.len());
        for sort in &request.order {
            let index = column_index(view, &sort.column)?;
            if view.schema.field(index).data_type().is_nested() {
                return Err(QueryError::BadParameter {
                    parameter: "order",
                    reason: format!("column \"{}\" is a list or struct and has no order", sort.column),
                });
            }
            let options = SortOptions {
                descending: sort.descending,
                nulls_first: sort.nulls_first,
            };
            order.push((index, options));
        }
        let indexes = |columns: &Vec<String>| columns.iter().map(|column| column_index(view, column)).collect();
        Ok(Self {
            order,
            offset: request.offset,
            limit,
            columns: request.columns.as_ref().map(indexes).transpose()?,
        })
    }

    /// The same with every column of `schema` that has an order at the end of the order.
    fn completed(&self, schema: &SchemaRef) -> Self {
        let mut order = self.order.clone();
        let rest = (0..schema.fields().len()).filter(|index| {
            !schema.field(*index).data_type().is_nested() && self.order.iter().all(|(ordered, _)| ordered != index)
        });
        order.extend(rest.map(|index| (index, SortOptions::new(false, true))));
        Self { order, ..self.clone() }
    }

    fn apply(&self, mut rows: RecordBatch, conditions: &[Condition]) -> Result<RecordBatch, ArrowError> {
        let mut kept: Option<BooleanArray> = None;
        for condition in conditions {
            let holds = condition.evaluate(&rows)?;
            kept = Some(match kept {
                Some(kept) => and_kleene(&kept, &holds)?,
                None => holds,
            });
        }
        if let Some(kept) = kept {
            rows = filter_record_batch(&rows, &kept)?;
        }
        if !self.order.is_empty() {
            rows = self.sorted(&rows)?;
        }
        let offset = self.offset.min(rows.num_rows());
        rows = rows.slice(offset, self.limit.min(rows.num_rows() - offset));
        if let Some(columns) = &self.columns {
            rows = rows.project(columns)?;
        }
        Ok(rows)
    }

    /// The same for the planner. Rows that are equal in the order are ordered by all columns that have an order: a page
    /// must not depend on how the planner joins and groups.
    fn of_frame(&self, frame: DataFrame, schema: &SchemaRef) -> datafusion::common::Result<DataFrame> {
        let by = |index: &usize| plain_column(schema.field(*index).name());
        let order = self.completed(schema).order;
        let order: Vec<SortExpr> = (order.iter())
            .map(|(index, options)| by(index).sort(!options.descending, options.nulls_first))
            .collect();
        let frame = frame.sort(order)?.limit(self.offset, Some(self.limit))?;
        match &self.columns {
            Some(columns) => frame.select(columns.iter().map(by).collect::<Vec<_>>()),
            None => Ok(frame),
        }
    }

    /// Rows that are equal in the order stay in key order: the answer depends on nothing else.
    fn sorted(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<SortColumn> = Vec::with_capacity(self.order.len() + 1);
        for (index, options) in &self.order {
            columns.push(SortColumn {
                values: Arc::clone(rows.column(*index)),
                options: Some(*options),
            });
        }
        let count = u32::try_from(rows.num_rows())
            .map_err(|_| ArrowError::ComputeError("more rows than can be sorted".to_owned()))?;
        columns.push(SortColumn {
            values: Arc::new(UInt32Array::from_iter_values(0..count)),
            options: None,
        });
        let end = self.offset.saturating_add(self.limit);
        let indices = lexsort_to_indices(&columns, Some(end))?;
        take_record_batch(rows, &indices)
    }
}
