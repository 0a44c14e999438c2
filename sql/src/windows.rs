//! `tumble`, `hop` and `session`: which window an event lies in, as functions of SQL.
//!
//! | written in GROUP BY | value while rows are folded | value in the answer |
//! | --- | --- | --- |
//! | `tumble(time, size [, offset] [, timezone => 'Europe/Berlin'])` | start of the window | the same |
//! | `hop(time, slide, size [, timezone => 'Europe/Berlin'])` | start of the pane: hops are made of panes when they are finished (D8) | start of the hop |
//! | `session(time, gap)` | the time: a fragment of one moment; fragments are united by [`crate::regroup`] | first time of the session |
//!
//! `window_end(w)` is the end of any of them, not in it; a session ends one gap after its last event. A start has the
//! type of the time: a DATE for a DATE, whose windows are whole days.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, ListArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, IntervalUnit, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use chrono_tz::Tz;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue, exec_err, plan_err};
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, LogicalPlan, Projection, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};

use crate::calendar::{Length, Windows};
use crate::explain::WindowKind;

/// The functions that a GROUP BY may hold as its window.
pub(crate) const WINDOWS: &[&str] = &["tumble", "hop", "session"];
/// Column of the last time of a session, beside what its view selects.
pub(crate) const SESSION_END: &str = "__session_end";
/// Marks the aggregate that gives it.
pub(crate) const SESSION_TIME: &str = "session_time";

/// Most windows that one event may lie in.
const HOPS_MAX: i64 = 10_000;

/// Every function of this module, to be known to a session.
pub(crate) fn functions() -> Vec<ScalarUDF> {
    let all = [Role::Tumble, Role::Hop, Role::Session, Role::End];
    all.into_iter().map(|role| ScalarUDF::from(Window::new(role))).collect()
}

/// Whether `expression` is one of [`WINDOWS`].
pub(crate) fn is_window(expression: &Expr) -> bool {
    matches!(expression, Expr::ScalarFunction(function) if WINDOWS.contains(&function.name()))
}

/// Whether a column called `name` is the window of a GROUP BY.
pub(crate) fn names_window(name: &str) -> bool {
    WINDOWS.iter().any(|window| is_call(name, window))
}

/// The same of a window whose states are regrouped.
pub(crate) fn names_regrouped(name: &str) -> bool {
    is_call(name, "hop") || is_call(name, "session")
}

fn is_call(name: &str, function: &str) -> bool {
    name.strip_prefix(function).is_some_and(|rest| rest.starts_with('('))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    Tumble,
    Hop,
    Session,
    /// `window_end` as written; [`prepare`] leaves none of it.
    End,
    /// Its meaning: start, then the arguments of the window behind its time.
    TumbleEnd,
    HopEnd,
    SessionEnd,
    /// The time of an event, under a name of its own.
    SessionTime,
    /// The starts of all hops that a time lies in.
    HopStarts,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Window {
    role: Role,
    signature: Signature,
}

impl Window {
    fn new(role: Role) -> Self {
        Self {
            role,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    fn call(role: Role, arguments: Vec<Expr>) -> Expr {
        ScalarUDF::from(Self::new(role)).call(arguments)
    }

    /// How many arguments it takes, at least and at most.
    fn arity(&self) -> (usize, usize) {
        match self.role {
            Role::Tumble | Role::TumbleEnd => (2, 4),
            Role::Hop | Role::HopEnd | Role::HopStarts => (3, 4),
            Role::Session | Role::SessionEnd => (2, 2),
            Role::End | Role::SessionTime => (1, 1),
        }
    }
}

impl ScalarUDFImpl for Window {
    fn name(&self) -> &str {
        match self.role {
            Role::Tumble => "tumble",
            Role::Hop => "hop",
            Role::Session => "session",
            Role::End => "window_end",
            Role::TumbleEnd => "tumble_end",
            Role::HopEnd => "hop_end",
            Role::SessionEnd => "session_end",
            Role::SessionTime => SESSION_TIME,
            Role::HopStarts => "hop_starts",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (name, (least, most)) = (self.name(), self.arity());
        if !(least..=most).contains(&types.len()) {
            return plan_err!("{name} takes {least} to {most} arguments, not {}", types.len());
        }
        if !matches!(types[0], DataType::Date32 | DataType::Timestamp(..)) {
            return plan_err!(
                "{name} takes a DATE, TIMESTAMP or TIMESTAMPTZ as its time, not {}",
                types[0]
            );
        }
        if let DataType::Timestamp(_, Some(zone)) = &types[0]
            && !matches!(zone.as_ref(), "UTC" | "+00:00" | "Z")
        {
            return plan_err!(
                "{name} takes times of UTC, not of {zone}: write timezone => '{zone}' instead of AT TIME ZONE"
            );
        }
        if types[0] == DataType::Date32 && types.len() > 3 {
            return plan_err!("{name} over a DATE has no timezone: its days are those of the calendar already");
        }
        let mut coerced = vec![types[0].clone()];
        for (index, data_type) in types.iter().enumerate().skip(1) {
            coerced.push(match data_type {
                DataType::Interval(_) if index < 3 => DataType::Interval(IntervalUnit::MonthDayNano),
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if index == 3 => DataType::Utf8,
                other => {
                    return plan_err!("{name} takes INTERVALs behind its time, such as INTERVAL '1 day', not {other}");
                }
            });
        }
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match self.role {
            Role::HopStarts => DataType::List(Field::new_list_field(types[0].clone(), true).into()),
            _ => types[0].clone(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constants = constants(&args.args[1..])?;
        let map: Box<dyn Fn(i64) -> Option<i64>> = match self.role {
            Role::Tumble => {
                let windows = tumbling(&constants)?;
                on_dates(&windows, args.args[0].data_type())?;
                Box::new(move |time| windows.start(time))
            }
            Role::Hop => {
                let hops = Hops::new(&constants)?;
                on_dates(&hops.panes, args.args[0].data_type())?;
                Box::new(move |time| hops.panes.start(time))
            }
            Role::Session => {
                gap(&constants)?;
                Box::new(Some)
            }
            Role::SessionTime => Box::new(Some),
            Role::TumbleEnd => {
                let windows = tumbling(&constants)?;
                Box::new(move |start| windows.end(start))
            }
            Role::HopEnd => {
                let hops = Hops::new(&constants)?;
                Box::new(move |start| hops.end(start))
            }
            Role::SessionEnd => {
                let gap = gap(&constants)?;
                Box::new(move |last| last.checked_add(gap))
            }
            Role::HopStarts => {
                let hops = Hops::new(&constants)?;
                on_dates(&hops.panes, args.args[0].data_type())?;
                let times = args.args[0].to_array(args.number_rows)?;
                return Ok(ColumnarValue::Array(Arc::new(hops.starts(&times)?)));
            }
            Role::End => return exec_err!("window_end stands above the GROUP BY that its window is in"),
        };
        match &args.args[0] {
            ColumnarValue::Array(times) => Ok(ColumnarValue::Array(map_times(times, &map)?)),
            ColumnarValue::Scalar(time) => {
                let mapped = map_times(&time.to_array()?, &map)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&mapped, 0)?))
            }
        }
    }
}

/// `times`, of any type of time, mapped as microseconds since 1970.
pub(crate) fn map_times(times: &ArrayRef, map: &dyn Fn(i64) -> Option<i64>) -> Result<ArrayRef> {
    let outside = || ArrowError::ComputeError("the window of a time lies outside the range of times".to_owned());
    let micros = to_micros(times)?;
    let mapped: TimestampMicrosecondArray = micros.try_unary(|time| map(time).ok_or_else(outside))?;
    from_micros(mapped, times.data_type())
}

/// `times` as microseconds since 1970.
pub(crate) fn to_micros(times: &ArrayRef) -> Result<TimestampMicrosecondArray> {
    let micros = cast(times, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    Ok(micros.as_primitive::<TimestampMicrosecondType>().clone())
}

/// The inverse of [`to_micros`].
pub(crate) fn from_micros(micros: TimestampMicrosecondArray, data_type: &DataType) -> Result<ArrayRef> {
    // Through the zone by name and not by a cast, which would take the times for local ones.
    match data_type {
        DataType::Timestamp(TimeUnit::Microsecond, zone) => Ok(Arc::new(micros.with_timezone_opt(zone.clone()))),
        DataType::Timestamp(unit, zone) => {
            let counted = cast(&micros, &DataType::Timestamp(*unit, None))?;
            Ok(arrow::array::make_array(
                counted
                    .to_data()
                    .into_builder()
                    .data_type(DataType::Timestamp(*unit, zone.clone()))
                    .build()?,
            ))
        }
        other => Ok(cast(&micros, other)?),
    }
}

/// What stands behind the time: lengths, and a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Constants {
    intervals: Vec<IntervalMonthDayNano>,
    zone: Option<Tz>,
}

fn constants(values: &[ColumnarValue]) -> Result<Constants> {
    let mut constants = Constants::default();
    for value in values {
        match value {
            ColumnarValue::Scalar(value) => constants.push(value)?,
            ColumnarValue::Array(_) => return plan_err!("windows have constant lengths"),
        }
    }
    Ok(constants)
}

impl Constants {
    fn push(&mut self, value: &ScalarValue) -> Result<()> {
        match value {
            ScalarValue::IntervalMonthDayNano(Some(interval)) => self.intervals.push(*interval),
            ScalarValue::Utf8(Some(zone)) => match zone.parse() {
                Ok(parsed) => self.zone = Some(parsed),
                Err(_) => return plan_err!("'{zone}' is no IANA time zone, such as 'Europe/Berlin'"),
            },
            other => return plan_err!("windows have constant lengths, such as INTERVAL '1 day', not {other}"),
        }
        Ok(())
    }

    /// Of the arguments of a window in a plan, behind its time.
    fn of(arguments: &[Expr]) -> Result<Self> {
        let mut constants = Self::default();
        for argument in arguments {
            match argument {
                Expr::Literal(value, _) => constants.push(value)?,
                other => return plan_err!("windows have constant lengths, not {other}"),
            }
        }
        Ok(constants)
    }

    fn interval(&self, index: usize) -> IntervalMonthDayNano {
        self.intervals.get(index).copied().unwrap_or_default()
    }
}

fn tumbling(constants: &Constants) -> Result<Windows> {
    Windows::new(
        Length::of(constants.interval(0), "size")?,
        constants.interval(1),
        constants.zone,
    )
}

fn on_dates(windows: &Windows, data_type: DataType) -> Result<()> {
    if data_type == DataType::Date32 && !windows.are_whole_days() {
        return plan_err!("windows over a DATE are whole days: cast it to TIMESTAMP for shorter ones");
    }
    Ok(())
}

/// The gap between sessions, microseconds.
fn gap(constants: &Constants) -> Result<i64> {
    match Length::of(constants.interval(0), "gap")? {
        Length::Fixed(gap) => Ok(gap),
        Length::Months(_) => plan_err!("the gap of a session is a fixed length"),
    }
}

/// Windows that overlap: of `size`, one beginning every slide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hops {
    /// Windows one slide long.
    slides: Windows,
    /// The pieces that all windows are made of.
    panes: Windows,
    size: Length,
}

impl Hops {
    fn new(constants: &Constants) -> Result<Self> {
        let slide = Length::of(constants.interval(0), "slide")?;
        let size = Length::of(constants.interval(1), "size")?;
        let slides = Windows::new(slide, IntervalMonthDayNano::default(), constants.zone)?;
        if constants.zone.is_some() && !(slides.are_whole_days() && slides.with_size(size).are_whole_days()) {
            return plan_err!("slide and size of a hop with a timezone are whole days, weeks or months");
        }
        let (pane, hops) = match (slide, size) {
            (Length::Fixed(slide), Length::Fixed(size)) => (
                Length::Fixed(greatest_common_divisor(slide, size)),
                size.div_euclid(slide),
            ),
            (Length::Months(slide), Length::Months(size)) if size % slide == 0 => (Length::Months(slide), size / slide),
            _ => {
                return plan_err!(
                    "slide and size of a hop are both fixed lengths, or both months and the size a multiple"
                );
            }
        };
        if hops > HOPS_MAX {
            return plan_err!("an event would lie in {hops} windows; at most {HOPS_MAX} are taken");
        }
        Ok(Self {
            slides,
            panes: slides.with_size(pane),
            size,
        })
    }

    fn kind(&self) -> WindowKind {
        WindowKind::Hop {
            slide: self.slides.size().to_string(),
            size: self.size.to_string(),
            pane: self.panes.size().to_string(),
        }
    }

    /// Starts of the windows that the pane which begins at `pane` lies in, the latest first. `None` when one is out of
    /// range.
    pub(crate) fn of_pane(&self, pane: i64) -> Option<Vec<i64>> {
        let mut starts = Vec::new();
        let pane = self.slides.on_clocks(pane)?;
        let mut start = self.slides.floor(pane)?;
        while self.sized().later(start, 1)? > pane {
            let begin = self.slides.instant(start)?;
            // A window all of whose first slide the clocks skip would begin with the next one.
            if self.slides.floor(self.slides.on_clocks(begin)?)? == start {
                starts.push(begin);
            }
            start = self.slides.later(start, -1)?;
        }
        Some(starts)
    }

    fn end(&self, start: i64) -> Option<i64> {
        // The clocks may have skipped the start.
        let start = self.slides.floor(self.slides.on_clocks(start)?)?;
        self.slides.instant(self.sized().later(start, 1)?)
    }

    fn sized(&self) -> Windows {
        self.slides.with_size(self.size)
    }

    /// The starts of the windows that each of `times` lies in; NULL is that of a NULL.
    fn starts(&self, times: &ArrayRef) -> Result<ListArray> {
        let (mut starts, mut lengths) = (Vec::new(), Vec::new());
        for time in to_micros(times)?.iter() {
            let of_time = match time {
                Some(time) => self.panes.start(time).and_then(|pane| self.of_pane(pane)),
                None => {
                    starts.push(None);
                    lengths.push(1);
                    continue;
                }
            };
            let Some(of_time) = of_time else {
                return exec_err!("the window of a time lies outside the range of times");
            };
            lengths.push(of_time.len());
            starts.extend(of_time.into_iter().map(Some));
        }
        let starts = from_micros(TimestampMicrosecondArray::from(starts), times.data_type())?;
        let field = Field::new_list_field(times.data_type().clone(), true);
        Ok(ListArray::try_new(
            field.into(),
            OffsetBuffer::from_lengths(lengths),
            starts,
            None,
        )?)
    }
}

fn greatest_common_divisor(one: i64, other: i64) -> i64 {
    if other == 0 {
        one
    } else {
        greatest_common_divisor(other, one % other)
    }
}

/// How the states of a GROUP BY are grouped anew when they are merged or finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Regrouping {
    Hop(Hops),
    /// With its gap, microseconds.
    Session(i64),
}

/// The regrouping that `group`, one expression of a GROUP BY, asks for.
pub(crate) fn regrouping(group: &Expr) -> Result<Option<Regrouping>> {
    let group = group.clone().unalias();
    let Expr::ScalarFunction(function) = &group else {
        return Ok(None);
    };
    let constants = || Constants::of(function.args.get(1..).unwrap_or_default());
    Ok(match function.name() {
        "hop" => Some(Regrouping::Hop(Hops::new(&constants()?)?)),
        "session" => Some(Regrouping::Session(gap(&constants()?)?)),
        _ => None,
    })
}

/// The windows in the GROUP BY of `plan`, each once.
pub(crate) fn windows_of(plan: &LogicalPlan) -> Result<Vec<WindowKind>> {
    let mut found = Vec::new();
    let mut add = |expression: &Expr| -> Result<TreeNodeRecursion> {
        if let Expr::ScalarFunction(function) = expression
            && is_window(expression)
        {
            let constants = Constants::of(function.args.get(1..).unwrap_or_default());
            let kind = match (function.name(), constants) {
                ("hop", constants) => Hops::new(&constants?)?.kind(),
                ("session", constants) => WindowKind::Session {
                    gap: Length::Fixed(gap(&constants?)?).to_string(),
                },
                (_, Ok(constants)) => WindowKind::Tumble {
                    size: Length::of(constants.interval(0), "size")?.to_string(),
                    timezone: constants.zone.map(|zone| zone.name().to_owned()),
                },
                // Its length is computed, and known when it runs.
                (_, Err(_)) => WindowKind::Tumble {
                    size: function.args.get(1).map(Expr::to_string).unwrap_or_default(),
                    timezone: None,
                },
            };
            if !found.contains(&kind) {
                found.push(kind);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            for group in &aggregate.group_expr {
                group.apply(&mut add)?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// A hop or session of `plan` that is not a whole expression of the GROUP BY of a stream, where alone it means a window.
pub(crate) fn misplaced(plan: &LogicalPlan, over_stream: &dyn Fn(&LogicalPlan) -> bool) -> Result<Option<String>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        let groups = match node {
            LogicalPlan::Aggregate(aggregate) if over_stream(&aggregate.input) => aggregate.group_expr.as_slice(),
            _ => &[],
        };
        for expression in node.expressions() {
            if groups.contains(&expression) && is_window(&expression.clone().unalias()) {
                continue;
            }
            expression.apply(|expression| {
                if let Expr::ScalarFunction(function) = expression
                    && matches!(function.name(), "hop" | "session")
                {
                    found = Some(format!("{}(...)", function.name()));
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// The starts of all windows that the time of a hop with these `arguments` lies in, a list.
pub(crate) fn hop_starts(arguments: Vec<Expr>) -> Expr {
    Window::call(Role::HopStarts, arguments)
}

/// The gap of a session with these `arguments`, microseconds.
pub(crate) fn session_gap(arguments: &[Expr]) -> Result<i64> {
    gap(&Constants::of(arguments.get(1..).unwrap_or_default())?)
}

/// Gives every session its end, and every `window_end` its meaning. Runs before anything else looks at the plan.
pub(crate) fn prepare(plan: LogicalPlan) -> Result<LogicalPlan> {
    let grouped = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) => ends_above(aggregate),
        other => Ok(Transformed::no(other)),
    })?;
    let with_ends = grouped.data.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) => with_session_end(aggregate),
        other => Ok(Transformed::no(other)),
    })?;
    let resolved = with_ends.data.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        let inputs: Vec<LogicalPlan> = node.inputs().into_iter().cloned().collect();
        node.map_expressions(|expression| {
            let name = names.save(&expression);
            let resolved = expression.transform_up(|expression| match &expression {
                Expr::ScalarFunction(function) if function.name() == "window_end" => {
                    let [window] = function.args.as_slice() else {
                        return plan_err!("window_end takes one window");
                    };
                    Ok(Transformed::yes(end_of(window, &inputs)?))
                }
                _ => Ok(Transformed::no(expression)),
            })?;
            Ok(resolved.update_data(|expression| name.restore(expression)))
        })
    })?;
    Ok(resolved.data)
}

/// Takes the ends of windows out of a GROUP BY that also holds the windows: they say nothing more, and are known above.
fn ends_above(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let window_of = |group: &Expr| match group {
        Expr::ScalarFunction(function) if function.name() == "window_end" => match function.args.as_slice() {
            [window] if aggregate.group_expr.contains(window) => Some(window.clone()),
            _ => None,
        },
        _ => None,
    };
    if aggregate.group_expr.iter().all(|group| window_of(group).is_none()) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let named = |expression: &Expr| {
        let (relation, name) = expression.qualified_name();
        Expr::Column(Column::new(relation, name))
    };
    let mut columns = Vec::new();
    let mut groups = Vec::new();
    for group in &aggregate.group_expr {
        match (group, window_of(group)) {
            (Expr::ScalarFunction(function), Some(window)) => {
                let end = function.func.call(vec![named(&window)]);
                columns.push(end.alias(group.schema_name().to_string()));
            }
            _ => {
                columns.push(named(group));
                groups.push(group.clone());
            }
        }
    }
    columns.extend(aggregate.aggr_expr.iter().map(named));
    let aggregate = Aggregate::try_new(aggregate.input, groups, aggregate.aggr_expr)?;
    let projection = Projection::try_new(columns, Arc::new(LogicalPlan::Aggregate(aggregate)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}

/// `plan` with the end of its sessions as a last column, so that no rule finds it unused.
pub(crate) fn carry_session_end(plan: LogicalPlan) -> Result<LogicalPlan> {
    let carried = plan.transform_up(|node| {
        let LogicalPlan::Projection(mut projection) = node else {
            return Ok(Transformed::no(node));
        };
        let end = projection
            .input
            .schema()
            .iter()
            .find(|(_, field)| field.name() == SESSION_END);
        let end = end.map(|found| Expr::Column(Column::from(found)));
        match end.filter(|end| !projection.expr.contains(end)) {
            Some(end) => {
                projection.expr.push(end);
                let projection = Projection::try_new(projection.expr, projection.input)?;
                Ok(Transformed::yes(LogicalPlan::Projection(projection)))
            }
            None => Ok(Transformed::no(LogicalPlan::Projection(projection))),
        }
    })?;
    Ok(carried.data)
}

fn with_session_end(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    static TIME: LazyLock<ScalarUDF> = LazyLock::new(|| ScalarUDF::from(Window::new(Role::SessionTime)));
    let time = aggregate.group_expr.iter().find_map(|group| match group {
        Expr::ScalarFunction(function) if function.name() == "session" => function.args.first().cloned(),
        _ => None,
    });
    let Some(time) = time else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let last = AggregateFunction::new_udf(max_udaf(), vec![TIME.call(vec![time])], false, None, Vec::new(), None);
    let mut aggregates = aggregate.aggr_expr;
    aggregates.push(Expr::AggregateFunction(last).alias(SESSION_END));
    let aggregate = Aggregate::try_new(aggregate.input, aggregate.group_expr, aggregates)?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
}

/// The end of `window`, a column of one of `inputs` that is a window.
fn end_of(window: &Expr, inputs: &[LogicalPlan]) -> Result<Expr> {
    let found = inputs.iter().find_map(|input| origin(window, input, true));
    let Some((Expr::ScalarFunction(function), direct)) = found else {
        return plan_err!("window_end takes a window of a GROUP BY below it, not {window}");
    };
    let arguments = || {
        std::iter::once(window.clone())
            .chain(function.args.iter().skip(1).cloned())
            .collect()
    };
    match function.name() {
        "tumble" => Ok(Window::call(Role::TumbleEnd, arguments())),
        "hop" => Ok(Window::call(Role::HopEnd, arguments())),
        _ if !direct => plan_err!("window_end of a session stands in the SELECT that groups by it"),
        _ => {
            let gap = function.args.get(1).cloned().unwrap_or_else(|| lit(ScalarValue::Null));
            let last = Expr::Column(Column::new_unqualified(SESSION_END));
            Ok(Window::call(Role::SessionEnd, vec![last, gap]))
        }
    }
}

/// The window function that `expression` over `plan` is, and whether nothing but filters stands between it and its GROUP
/// BY.
fn origin(expression: &Expr, plan: &LogicalPlan, direct: bool) -> Option<(Expr, bool)> {
    match expression {
        Expr::Alias(alias) => origin(&alias.expr, plan, direct),
        expression if is_window(expression) => Some((expression.clone(), direct)),
        Expr::Column(column) => {
            let index = plan.schema().maybe_index_of_column(column)?;
            match plan {
                LogicalPlan::Aggregate(aggregate) => {
                    let group = aggregate.group_expr.get(index)?.clone().unalias();
                    is_window(&group).then_some((group, direct))
                }
                LogicalPlan::Projection(projection) => origin(projection.expr.get(index)?, &projection.input, false),
                LogicalPlan::Filter(filter) => origin(expression, &filter.input, direct),
                LogicalPlan::SubqueryAlias(alias) => {
                    let below = Column::from(alias.input.schema().qualified_field(index));
                    origin(&Expr::Column(below), &alias.input, false)
                }
                LogicalPlan::Window(window) => origin(expression, &window.input, false),
                LogicalPlan::Sort(sort) => origin(expression, &sort.input, false),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::{DateTime, Days, NaiveDate, TimeZone};

    use super::*;

    /// The first instant at which the clocks of `zone` show midnight of `date`, or have skipped it, minute by minute.
    fn midnight(zone: Tz, date: NaiveDate) -> i64 {
        let about = date.and_hms_opt(0, 0, 0).expect("midnight").and_utc() - chrono::TimeDelta::hours(16);
        let mut minutes = (0..32 * 60).map(|minute| about + chrono::TimeDelta::minutes(minute));
        let shows = |time: &DateTime<chrono::Utc>| zone.from_utc_datetime(&time.naive_utc()).date_naive() >= date;
        minutes.find(shows).expect("the day begins").timestamp_micros()
    }

    #[test]
    fn hops_of_a_zone_are_days_of_its_calendar() {
        // Clocks change at midnight, at two, and by half an hour; a day is left out.
        for (zone, from) in [
            ("Europe/Berlin", "2024-10-20T00:00:00Z"),
            ("Europe/Berlin", "2024-03-24T00:00:00Z"),
            ("Asia/Beirut", "2022-03-20T00:00:00Z"),
            ("America/Havana", "2024-10-28T00:00:00Z"),
            ("Australia/Lord_Howe", "2024-03-30T00:00:00Z"),
            ("Pacific/Apia", "2011-12-26T00:00:00Z"),
        ] {
            for (slide, size) in [(1, 3), (2, 3), (3, 2), (7, 14)] {
                let zone: Tz = zone.parse().expect("a zone");
                let days = |days: i64| IntervalMonthDayNano::new(0, i32::try_from(days).expect("few days"), 0);
                let hops = Hops::new(&Constants {
                    intervals: vec![days(slide), days(size)],
                    zone: Some(zone),
                });
                let hops = hops.expect("whole days");
                let from = from.parse::<DateTime<chrono::Utc>>().expect("a time");
                for time in (0..14 * 48).map(|half| from + chrono::TimeDelta::minutes(30 * half)) {
                    let micros = time.timestamp_micros();
                    let today = zone.from_utc_datetime(&time.naive_utc()).date_naive();
                    // Weeks begin on Mondays, others are counted from 1970 on.
                    let first = if slide % 7 == 0 { 4 } else { 0 };
                    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a date");
                    let mut expected = BTreeSet::new();
                    for back in 0..u64::try_from(size).expect("positive") {
                        let begin = today - Days::new(back);
                        let shown = DateTime::from_timestamp_micros(midnight(zone, begin)).expect("a time");
                        let shown = zone.from_utc_datetime(&shown.naive_utc()).date_naive();
                        let exists = (shown - begin).num_days() < slide;
                        if exists && ((begin - epoch).num_days() - first) % slide == 0 {
                            let end = begin + Days::new(u64::try_from(size).expect("positive"));
                            expected.insert((midnight(zone, begin), midnight(zone, end)));
                        }
                    }
                    let pane = hops.panes.start(micros).expect("in range");
                    let starts = hops.of_pane(pane).expect("in range").into_iter();
                    let found = starts.map(|start| (start, hops.end(start).expect("in range")));
                    assert_eq!(found.collect::<BTreeSet<_>>(), expected, "{zone} {slide} {size} {time}");
                }
            }
        }
    }
}
