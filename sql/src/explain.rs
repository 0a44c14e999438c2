//! What a view compiles to, described once: for people as text, for programs as JSON (by serde), and as a graph.

mod dot;
mod text;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, TableReference, plan_err};
use datafusion::datasource::{TableType, provider_as_source};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use serde::Serialize;

use crate::calendar::Length;
use crate::{Catalog, Class, Derived, Fold, Growth, View, ViewKind, session_context};

/// A view, and every view and part of one that it is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The view itself.
    #[serde(flatten)]
    pub view: ViewPlan,
    /// What it reads, and what that reads, each once and after what it reads.
    pub below: Vec<ViewPlan>,
}

/// What one view compiles to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ViewPlan {
    /// Name in SQL; the parts of a view are numbered.
    pub view: String,
    /// Identity of its state.
    pub id: String,
    /// The view that this is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
    /// The query.
    pub sql: String,
    /// How exact the answer is.
    pub class: Class,
    /// Streams, views and parts.
    pub reads: Vec<String>,
    /// Names of the columns of the answer.
    pub columns: Vec<StateColumn>,
    /// Which windows are hidden.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Fold, or query above folds.
    pub plan: ViewShape,
}

/// `WITH (retention = ...)`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retention {
    /// Milliseconds before the largest event time.
    pub hidden_after_ms: i64,
    /// Window column of the answer.
    pub column: String,
}

impl Retention {
    /// The length as people write it.
    fn length(&self) -> Length {
        Length::Fixed(self.hidden_after_ms.saturating_mul(1000))
    }
}

/// The two kinds of plans.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ViewShape {
    /// One aggregation over a stream.
    Fold(Box<FoldPlan>),
    /// A query over merged answers.
    Derived(AboveFolds),
}

/// What a fold does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoldPlan {
    /// The stream.
    pub stream: String,
    /// Columns of the stream that are decoded for it, marks included.
    pub columns_read: Vec<String>,
    /// Rows that are judged and not counted.
    pub left_out: Vec<&'static str>,
    /// Windows of the GROUP BY.
    pub windows: Vec<Window>,
    /// Rows to state, filters among them: the plan's lines.
    pub partial: Vec<String>,
    /// Key columns of a partial, in the order that it is sorted by.
    pub keys: Vec<Key>,
    /// State behind the key.
    pub aggregates: Vec<Aggregate>,
    /// What a key weighs with its state.
    pub bytes_per_key: Bytes,
    /// States to state.
    pub merge: String,
    /// Merged states to answer: the plan's lines.
    pub finish: Vec<String>,
    /// Columns of the answer whose filters are searched for in stored partials.
    pub searched_by: Vec<SearchedBy>,
}

/// A column of state or of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StateColumn {
    /// Name.
    pub name: String,
    /// Arrow type.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// A key column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key {
    /// Name and type.
    #[serde(flatten)]
    pub column: StateColumn,
    /// The columns of the answer that it is, or that are computed with it.
    pub gives: Vec<String>,
    /// What it weighs.
    pub bytes: Bytes,
}

/// An aggregate and its state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Aggregate {
    /// As planned: what a view writes may take several, which others share.
    pub name: String,
    /// The columns of the answer that are computed with it.
    pub gives: Vec<String>,
    /// How exact it is.
    pub class: Class,
    /// How its state grows.
    pub growth: Growth,
    /// Columns of its state.
    pub state: Vec<StateColumn>,
    /// What the state of one key weighs.
    pub bytes: Bytes,
}

/// Estimated bytes of the columns. Text and bytes are taken for [`VARIABLE_BYTES`] long, exact sums of doubles for
/// those of prices; bits of NULL are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// Whatever the rows.
    pub fixed: u64,
    /// For each row, different value or bucket that the state grows with.
    #[serde(skip_serializing_if = "is_zero")]
    pub per_item: u64,
}

/// A window of the GROUP BY.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Window {
    /// Kind and lengths.
    #[serde(flatten)]
    pub window: WindowKind,
    /// What is stored, and how the window is made of it.
    pub put_together: &'static str,
}

/// Kind and lengths of a window.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum WindowKind {
    /// Windows that follow each other.
    Tumble {
        /// Length.
        size: String,
        /// The zone on whose clocks it is counted.
        #[serde(skip_serializing_if = "Option::is_none")]
        timezone: Option<String>,
    },
    /// Windows that overlap.
    Hop {
        /// From one beginning to the next.
        slide: String,
        /// Length.
        size: String,
        /// Length of the pieces that are stored.
        pane: String,
    },
    /// Windows that end with a pause.
    Session {
        /// The pause.
        gap: String,
    },
}

/// A column of the answer that is a stored key column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchedBy {
    /// Name in the answer.
    pub column: String,
    /// Place in the key, from 1. Equality is searched for by any; a range where all before are fixed.
    pub key: usize,
}

/// A query over merged answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AboveFolds {
    /// The plan's lines.
    pub finish: Vec<String>,
    /// Its own filters that stored partials are searched by.
    pub pushed_down: Vec<Pushed>,
}

/// A filter that reaches the partials of a fold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pushed {
    /// The fold.
    pub view: String,
    /// The filter.
    pub filter: String,
}

/// Assumed length of text and bytes.
pub const VARIABLE_BYTES: u64 = 16;
/// Length of an exact sum of numbers like prices.
const EXACT_SUM_BYTES: u64 = 10;
/// Distance and count of a bucket.
const BUCKET_BYTES: u64 = 3;
/// Registers of DataFusion's HyperLogLog.
const HYPERLOGLOG_BYTES: u64 = 16_384;
/// Where the value of one row ends among the bytes of a column.
const OFFSET_BYTES: u64 = 4;

impl Explanation {
    /// Describes `view` of `catalog`.
    pub fn new(catalog: &Catalog, view: &View) -> Result<Self> {
        // Who is read stands before who reads.
        let mut wanted = view.reads.clone();
        let mut below = Vec::new();
        for known in catalog.views_and_parts().iter().rev() {
            if wanted.contains(&known.name) {
                wanted.extend(known.reads.iter().cloned());
                below.push(ViewPlan::new(catalog, known)?);
            }
        }
        below.reverse();
        Ok(Self {
            view: ViewPlan::new(catalog, view)?,
            below,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        text::draw(self)
    }

    /// For Graphviz.
    pub fn dot(&self) -> String {
        dot::draw(self)
    }
}

impl ViewPlan {
    fn new(catalog: &Catalog, view: &View) -> Result<Self> {
        let retention = view.retention.as_ref().map(|(hidden_after_ms, column)| Retention {
            hidden_after_ms: *hidden_after_ms,
            column: column.clone(),
        });
        let plan = match &view.kind {
            ViewKind::Fold(fold) => ViewShape::Fold(Box::new(fold.describe()?)),
            ViewKind::Derived(derived) => ViewShape::Derived(AboveFolds {
                finish: derived.plan_lines(),
                pushed_down: pushed_down(catalog, derived)?,
            }),
        };
        let class = match (&plan, &view.part_of) {
            // A part has the class of its whole view only where it computes something of that class.
            (ViewShape::Fold(fold), Some(_)) => {
                let classes = fold.aggregates.iter().map(|aggregate| aggregate.class);
                classes.max().unwrap_or(Class::Exact)
            }
            _ => view.class,
        };
        Ok(Self {
            view: view.name.clone(),
            id: view.id.clone(),
            part_of: view.part_of.clone(),
            sql: view.sql.clone(),
            class,
            reads: view.reads.clone(),
            columns: view
                .schema
                .fields()
                .iter()
                .map(|field| StateColumn::new(field.name(), field.data_type()))
                .collect(),
            retention,
            plan,
        })
    }
}

impl StateColumn {
    pub(crate) fn new(name: &str, data_type: &DataType) -> Self {
        Self {
            name: name.to_owned(),
            data_type: data_type.to_string(),
        }
    }
}

impl Window {
    pub(crate) fn new(window: WindowKind) -> Self {
        let put_together = match window {
            WindowKind::Tumble { .. } => "the start of the window is a key column: nothing is put together",
            WindowKind::Hop { .. } => "panes are stored, and finish takes each for every window that it lies in",
            WindowKind::Session { .. } => {
                "fragments are stored (start, last time, state); every merge unites those of a key that are closer than \
                 the gap"
            }
        };
        Self { window, put_together }
    }
}

impl fmt::Display for WindowKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tumble { size, timezone: None } => write!(formatter, "tumble, {size}"),
            Self::Tumble {
                size,
                timezone: Some(zone),
            } => write!(formatter, "tumble, {size} on the clocks of {zone}"),
            Self::Hop { slide, size, pane } => write!(formatter, "hop, {size} every {slide}, panes of {pane}"),
            Self::Session { gap } => write!(formatter, "session, gap {gap}"),
        }
    }
}

impl Bytes {
    /// Of a column of `data_type` whose values do not grow.
    pub(crate) fn of(data_type: &DataType) -> Self {
        let fixed = |fixed| Self { fixed, per_item: 0 };
        match data_type {
            DataType::Null => fixed(0),
            DataType::Boolean => fixed(1),
            DataType::Utf8 | DataType::Binary => fixed(OFFSET_BYTES + VARIABLE_BYTES),
            DataType::LargeUtf8 | DataType::LargeBinary => fixed(2 * OFFSET_BYTES + VARIABLE_BYTES),
            DataType::List(item) => Self {
                fixed: OFFSET_BYTES,
                per_item: Self::of(item.data_type()).whole(),
            },
            DataType::Struct(fields) => {
                let fields = fields.iter().map(|field| Self::of(field.data_type()));
                fields.fold(Self::default(), Self::and)
            }
            other => fixed(other.primitive_width().map_or(VARIABLE_BYTES, |width| width as u64)),
        }
    }

    /// Of a column of the state of `aggregate` that grows as `growth` says.
    pub(crate) fn of_state(aggregate: &str, growth: Growth, name: &str, data_type: &DataType) -> Self {
        let (fixed, per_item) = match (growth, data_type) {
            (Growth::Buckets, DataType::Binary) => (OFFSET_BYTES, BUCKET_BYTES),
            (Growth::Rows, DataType::LargeUtf8) => (2 * OFFSET_BYTES, VARIABLE_BYTES),
            (Growth::Rows, DataType::Utf8) => (OFFSET_BYTES, VARIABLE_BYTES),
            (_, DataType::Binary) if name.contains("hll_registers") => (OFFSET_BYTES + HYPERLOGLOG_BYTES, 0),
            (_, DataType::Binary) if matches!(aggregate, "sum" | "avg") || aggregate.starts_with("exact_sum") => {
                (OFFSET_BYTES + EXACT_SUM_BYTES, 0)
            }
            _ => return Self::of(data_type),
        };
        Self { fixed, per_item }
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            fixed: self.fixed + other.fixed,
            per_item: self.per_item + other.per_item,
        }
    }

    /// With one item.
    fn whole(self) -> u64 {
        self.fixed + self.per_item
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl Growth {
    /// As a sentence's end: "grows ...".
    fn how(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::DistinctValues => "grows with the distinct values of a key",
            Self::Buckets => "grows with the buckets that the values of a key lie in",
            Self::Rows => "grows with the rows of a key",
        }
    }
}

impl Class {
    fn word(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Rounding => "rounding",
            Self::Approximate => "approximate",
        }
    }
}

/// The lines of what is displayed.
pub(crate) fn lines(displayed: &dyn fmt::Display) -> Vec<String> {
    displayed.to_string().lines().map(str::to_owned).collect()
}

/// `name` of a plan as it would be written: `count(*)`, and intervals as their lengths.
pub(crate) fn tidy(name: &str) -> String {
    const INTERVAL: &str = "IntervalMonthDayNano { ";
    let mut tidied = String::new();
    let mut rest = name;
    while let Some((before, behind)) = rest.split_once(INTERVAL) {
        let Some((fields, behind)) = behind.split_once(" }") else {
            break;
        };
        let quoted = before
            .strip_suffix("IntervalMonthDayNano(\"")
            .zip(behind.strip_prefix("\")"));
        let (before, behind) = quoted.unwrap_or((before, behind));
        tidied += before;
        tidied += &interval(fields).unwrap_or_else(|| format!("{INTERVAL}{fields} }}"));
        rest = behind;
    }
    (tidied + rest).replace("count(Int64(1))", "count(*)")
}

/// `months: 0, days: 1, nanoseconds: 0` as a length.
fn interval(fields: &str) -> Option<String> {
    let mut numbers = fields.split(", ").map(|field| field.split_once(": ")?.1.parse().ok());
    let (months, days, nanoseconds): (i64, i64, i64) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let micros = days.checked_mul(86_400_000_000)?.checked_add(nanoseconds / 1000)?;
    match (months, micros) {
        (months, 0) if months != 0 => Some(Length::Months(months).to_string()),
        (0, micros) => Some(Length::Fixed(micros).to_string()),
        _ => None,
    }
}

/// The filters of `derived` itself that reach the folds below, as the optimiser leaves them.
fn pushed_down(catalog: &Catalog, derived: &Derived) -> Result<Vec<Pushed>> {
    let state = session_context(SessionConfig::new()).state();
    let plan = state.optimize(&over_answers(catalog, derived)?)?;
    let mut pushed = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            pushed.extend(scan.filters.iter().map(|filter| Pushed {
                view: scan.table_name.table().to_owned(),
                filter: filter.to_string(),
            }));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(pushed)
}

fn over_answers(catalog: &Catalog, derived: &Derived) -> Result<LogicalPlan> {
    derived.over(&mut |name| {
        let Some(below) = catalog.view(name) else {
            return plan_err!("a view reads \"{name}\", which is none");
        };
        match &below.kind {
            ViewKind::Derived(derived) => over_answers(catalog, derived),
            ViewKind::Fold(fold) => {
                let table = provider_as_source(Arc::new(Answer(Arc::clone(fold))));
                LogicalPlanBuilder::scan(TableReference::bare(name), table, None)?.build()
            }
        }
    })
}

/// The answer of a fold, to plan over.
#[derive(Debug)]
struct Answer(Arc<Fold>);

#[async_trait]
impl TableProvider for Answer {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.output_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(self.0.supports_filters(filters))
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan_err!("what is explained is not run")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tidied_and_what_is_no_interval_is_left() {
        let day = "IntervalMonthDayNano { months: 0, days: 1, nanoseconds: 0 }";
        let name = format!("tumble(at, {day}) as tumble(at,IntervalMonthDayNano(\"{day}\"),Utf8(\"UTC\"))");
        assert_eq!(tidy(&name), "tumble(at, 1 day) as tumble(at,1 day,Utf8(\"UTC\"))");
        assert_eq!(tidy("count(Int64(1))@2 > 1"), "count(*)@2 > 1");
        for left in [
            "IntervalMonthDayNano { months: 1, days: 1, nanoseconds: 0 }",
            "IntervalMonthDayNano { months: 1",
            "IntervalMonthDayNano { x }",
        ] {
            assert_eq!(tidy(left), left);
        }
    }
}
