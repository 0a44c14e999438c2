//! What a view may not say. It is refused here, with its position and what to write instead, before DataFusion plans it,
//! so that no SQL compiles and then gives another answer than plain SQL. What needs types or a plan to be told is refused
//! where that is known (`split`, `windows`, `total_order`).

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{
    self, Distinct, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, GroupByExpr, Query, Select, SelectItem, SetExpr, Spanned, TableFactor, Visit, Visitor,
    visit_expressions_mut, visit_relations,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use crate::aggregates::{AGGREGATES, Folding, ORDER_SENSITIVE, folding};
use crate::parse::{Place, identifier};
use crate::refusal::Refusal;

/// Functions that make much out of little: a few bytes of SQL would fill the memory. They are not there where answers
/// are computed.
pub const MULTIPLYING_FUNCTIONS: &[&str] = &[
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "generate_series",
    "lpad",
    "range",
    "gen_series",
    "repeat",
    "rpad",
    "version",
];

/// What a view reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Stream,
    View,
}

/// The names of the tables that `query` reads, with their positions; not those that it names itself by WITH.
pub(crate) fn sources(place: &Place<'_>, query: &Query, at: Location) -> Result<Vec<(String, Location)>, Refusal> {
    let named = with_names(query);
    let mut sources = Vec::new();
    let refusal = visit_relations(query, |relation| {
        let here = position(relation.span().start, at);
        match relation.0.as_slice() {
            [part] => {
                let name = part.as_ident().map_or_else(|| relation.to_string(), identifier);
                if !named.contains(&name) {
                    sources.push((name, here));
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(place.refuse(
                here,
                format!("\"{relation}\" has several parts"),
                "streams and views have plain names: write the name alone",
            )),
        }
    });
    match refusal {
        ControlFlow::Break(refusal) => Err(refusal),
        ControlFlow::Continue(()) if sources.is_empty() => Err(place.refuse(
            position(start_of(query).start, at),
            "a view reads a stream or a view",
            "write FROM with the name of one",
        )),
        ControlFlow::Continue(()) => Ok(sources),
    }
}

/// What every WITH in `query` names.
fn with_names(query: &Query) -> Vec<String> {
    struct Names(Vec<String>);

    impl Visitor for Names {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let tables = query.with.iter().flat_map(|with| &with.cte_tables);
            self.0.extend(tables.map(|table| identifier(&table.alias.name)));
            ControlFlow::Continue(())
        }
    }

    let mut names = Names(Vec::new());
    let _ = query.visit(&mut names);
    names.0
}

/// `query` with the named argument of `tumble(..., timezone => 'zone')` and `hop` in its place.
pub(crate) fn positional(mut query: Box<Query>) -> Box<Query> {
    let _ = visit_expressions_mut(&mut query, |expression| {
        if let Expr::Function(function) = expression
            && let Some(lengths) = lengths(&function.name.to_string().to_lowercase())
            && let FunctionArguments::List(list) = &mut function.args
            && let Some((zone, positional)) = timezone(&list.args)
        {
            let none = || FunctionArg::Unnamed(FunctionArgExpr::Expr(zero_interval()));
            list.args = positional;
            while list.args.len() <= lengths {
                list.args.push(none());
            }
            list.args.push(FunctionArg::Unnamed(zone));
        }
        ControlFlow::<()>::Continue(())
    });
    query
}

/// How many lengths stand before the zone of a window, which may be left out.
fn lengths(window: &str) -> Option<usize> {
    ["tumble", "hop"].contains(&window).then_some(2)
}

/// The named zone among `arguments`, and the others.
fn timezone(arguments: &[FunctionArg]) -> Option<(FunctionArgExpr, Vec<FunctionArg>)> {
    let named = |argument: &FunctionArg| match argument {
        FunctionArg::Named { name, arg, .. } if identifier(name) == "timezone" => Some(arg.clone()),
        FunctionArg::ExprNamed {
            name: Expr::Identifier(name),
            arg,
            ..
        } if identifier(name) == "timezone" => Some(arg.clone()),
        _ => None,
    };
    let zone = arguments.iter().find_map(named)?;
    let others = arguments.iter().filter(|argument| named(argument).is_none()).cloned();
    Some((zone, others.collect()))
}

fn zero_interval() -> Expr {
    Expr::Interval(ast::Interval {
        value: Box::new(Expr::Value(
            ast::Value::SingleQuotedString("0 seconds".to_owned()).with_empty_span(),
        )),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    })
}

/// Refuses whatever a view over `over` may not say.
pub(crate) fn query(
    place: &Place<'_>,
    query: &Query,
    over: Over,
    state: &SessionState,
    at: Location,
) -> Result<(), Refusal> {
    let mut checks = Checks {
        place,
        over,
        state,
        at,
        named: with_names(query),
    };
    match query.visit(&mut checks) {
        ControlFlow::Break(refusal) => Err(refusal),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Where `query` begins.
fn start_of(query: &Query) -> Span {
    if let Some(with) = &query.with {
        return with.with_token.0.span;
    }
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::Select(select) => return select.select_token.0.span,
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            SetExpr::Query(query) => body = query.body.as_ref(),
            _ => return Span::empty(),
        }
    }
}

fn position(found: Location, otherwise: Location) -> Location {
    if found.line > 0 { found } else { otherwise }
}

struct Checks<'a> {
    place: &'a Place<'a>,
    over: Over,
    state: &'a SessionState,
    at: Location,
    /// What WITH names.
    named: Vec<String>,
}

impl Visitor for Checks<'_> {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Refusal> {
        broken(self.clauses_of_query(query))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Refusal> {
        broken(self.clauses_of_select(select))
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<Refusal> {
        broken(self.table(table))
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Refusal> {
        // The span of a whole expression is found by looking at all of it.
        match expression {
            Expr::Function(function) => {
                let here = self.here(function.name.span());
                broken(function_of(self.place, function, self.over, self.state, here))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn broken(outcome: Result<(), Refusal>) -> ControlFlow<Refusal> {
    match outcome {
        Ok(()) => ControlFlow::Continue(()),
        Err(refusal) => ControlFlow::Break(refusal),
    }
}

impl Checks<'_> {
    fn here(&self, span: Span) -> Location {
        position(span.start, self.at)
    }

    fn refuse(&self, span: Span, reason: impl Into<String>, instead: impl Into<String>) -> Result<(), Refusal> {
        Err(self.place.refuse(self.here(span), reason, instead))
    }

    fn clauses_of_query(&self, query: &Query) -> Result<(), Refusal> {
        let span = start_of(query);
        if let Some(with) = &query.with
            && with.recursive
        {
            return self.refuse(
                with.with_token.0.span,
                "WITH RECURSIVE is not taken in a view",
                "write the steps that it takes as views over each other",
            );
        }
        if (query.limit_clause.is_some() || query.fetch.is_some()) && query.order_by.is_none() {
            return self.refuse(
                span,
                "LIMIT without ORDER BY has no one answer",
                "write ORDER BY before it, by columns that say which rows come first",
            );
        }
        let more = !query.locks.is_empty()
            || query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty();
        if more {
            return self.refuse(span, "a view is a plain SELECT", "leave out what follows the SELECT");
        }
        match query.body.as_ref() {
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::SetOperation { .. } => Ok(()),
            other => self.refuse(
                other.span(),
                "a view is made of SELECTs: VALUES, TABLE and the like are not taken",
                "write SELECT",
            ),
        }
    }

    fn clauses_of_select(&self, select: &Select) -> Result<(), Refusal> {
        let span = select.select_token.0.span;
        if let Some(Distinct::On(_)) = &select.distinct {
            return self.refuse(
                span,
                "SELECT DISTINCT ON is not taken in a view",
                "write first_value(x ORDER BY ...) with GROUP BY, or QUALIFY row_number() OVER (...) = 1",
            );
        }
        let unknown = select.top.is_some()
            || select.exclude.is_some()
            || select.into.is_some()
            || !select.lateral_views.is_empty()
            || select.prewhere.is_some()
            || !select.connect_by.is_empty()
            || !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty()
            || select.select_modifiers.is_some()
            || select.value_table_mode.is_some();
        if unknown {
            return self.refuse(
                span,
                "a view is SELECT ... FROM ... WHERE ... GROUP BY ... HAVING ... QUALIFY ... ORDER BY ... LIMIT",
                "leave out the other clauses",
            );
        }
        let modified = match &select.group_by {
            GroupByExpr::All(modifiers) => !modifiers.is_empty(),
            GroupByExpr::Expressions(_, modifiers) => !modifiers.is_empty(),
        };
        if modified {
            return self.refuse(
                span,
                "modifiers of GROUP BY are not taken",
                "write GROUP BY ROLLUP (...), CUBE or GROUPING SETS",
            );
        }
        let wildcard = select
            .projection
            .iter()
            .find(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
        let declared = |table: &TableFactor| match table {
            TableFactor::Table { name, .. } => {
                let ident = name.0.first().and_then(|part| part.as_ident());
                ident.is_some_and(|ident| !self.named.contains(&identifier(ident)))
            }
            _ => false,
        };
        let mut tables = select
            .from
            .iter()
            .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
        match wildcard {
            Some(item) if tables.any(declared) => self.refuse(
                item.span(),
                "SELECT * would change the view's columns with the declaration of what it reads",
                "name the columns",
            ),
            _ => Ok(()),
        }
    }

    fn table(&self, table: &TableFactor) -> Result<(), Refusal> {
        let plain = match table {
            TableFactor::Table {
                args: None,
                with_hints,
                version: None,
                partitions,
                sample: None,
                with_ordinality: false,
                ..
            } => with_hints.is_empty() && partitions.is_empty(),
            TableFactor::Derived {
                lateral, sample: None, ..
            } => !lateral,
            TableFactor::NestedJoin { .. } => true,
            _ => false,
        };
        if plain {
            return Ok(());
        }
        self.refuse(
            table.span(),
            "a view reads streams, views and subqueries by their names",
            "leave out table functions, samples, LATERAL and the like",
        )
    }
}

fn function_of(
    place: &Place<'_>,
    function: &Function,
    over: Over,
    state: &SessionState,
    at: Location,
) -> Result<(), Refusal> {
    let name = function.name.to_string().to_lowercase();
    match name.as_str() {
        "tumble" => return window(place, function, &name, 2..=3, at),
        "hop" => return window(place, function, &name, 3..=3, at),
        "session" => return window(place, function, &name, 2..=2, at),
        _ => {}
    }
    if let Some(known) = state.aggregate_functions().get(&name) {
        return aggregate(place, function, known.name(), at);
    }
    let Some(scalar) = state.scalar_functions().get(&name) else {
        if state.window_functions().contains_key(&name) {
            return Ok(());
        }
        return if state.higher_order_functions().contains_key(&name) {
            Err(place.refuse(at, format!("{name}(...) is not taken in a view yet"), "leave it out"))
        } else {
            let mut known: Vec<&str> = state.scalar_functions().keys().map(String::as_str).collect();
            known.sort_unstable();
            known.extend(AGGREGATES.iter().map(|(name, ..)| *name));
            Err(place.refuse(at, format!("there is no function {name}"), nearest(&name, &known)))
        };
    };
    if over == Over::View && MULTIPLYING_FUNCTIONS.contains(&name.as_str()) {
        return Err(place.refuse(
            at,
            format!("{name}() is not taken in a view over views, which is computed anew for every answer"),
            "use it in the view over the stream, or where the answer is shown",
        ));
    }
    if scalar.signature().volatility != Volatility::Immutable {
        return Err(place.refuse(
            at,
            format!("{name}() is not a function of the log: the answer would depend on when it is asked"),
            "use a column of the event, or write it in the query that reads the view",
        ));
    }
    Ok(())
}

fn nearest(name: &str, known: &[&str]) -> String {
    let likeness = |other: &str| datafusion::common::utils::datafusion_strsim::normalized_levenshtein(name, other);
    match known
        .iter()
        .max_by(|left, right| likeness(left).total_cmp(&likeness(right)))
    {
        Some(other) if likeness(other) >= 0.5 => format!("did you mean {other}?"),
        _ => "write one of DataFusion's scalar functions, or an aggregate that folds".to_owned(),
    }
}

fn aggregate(place: &Place<'_>, function: &Function, name: &str, at: Location) -> Result<(), Refusal> {
    match folding(name) {
        None => {
            let known: Vec<&str> = AGGREGATES.iter().map(|(name, ..)| *name).collect();
            return Err(place.refuse(
                at,
                format!("aggregate {name} is not taken"),
                format!("the aggregates that fold are {}", known.join(", ")),
            ));
        }
        Some(Folding::Refused(reason, instead)) => {
            return Err(place.refuse(at, format!("aggregate {name} is not taken: {reason}"), instead));
        }
        Some(_) => {}
    }
    if function.over.is_some() && ["approx_median", "approx_percentile_cont"].contains(&name) {
        return Err(place.refuse(
            at,
            format!("{name} is not taken as a window function: its answer would depend on the order of rows"),
            "write it with GROUP BY in a view of its own",
        ));
    }
    let FunctionArguments::List(list) = &function.args else {
        return Ok(());
    };
    let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    let separated = usize::from(name == "string_agg");
    if distinct && list.args.len() != 1 + separated {
        return Err(place.refuse(
            at,
            format!("{name}(DISTINCT ...) takes one value"),
            "group by the values in one view, and count the rows of that view in another",
        ));
    }
    let ordered = list
        .clauses
        .iter()
        .any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)));
    if ordered && !ORDER_SENSITIVE.contains(&name) {
        return Err(place.refuse(at, format!("{name} does not depend on order"), "leave out ORDER BY"));
    }
    match list.clauses.iter().find(|clause| {
        !matches!(
            clause,
            FunctionArgumentClause::OrderBy(_) | FunctionArgumentClause::IgnoreOrRespectNulls(_)
        )
    }) {
        Some(clause) => Err(place.refuse(at, format!("{name} does not take {clause}"), "leave it out")),
        None => Ok(()),
    }
}

fn window(
    place: &Place<'_>,
    function: &Function,
    name: &str,
    arity: std::ops::RangeInclusive<usize>,
    at: Location,
) -> Result<(), Refusal> {
    let instead = match name {
        "hop" => {
            "write hop(time, INTERVAL '10 seconds', INTERVAL '10 minutes'): slide, then size; or hop(time, INTERVAL '1 day', \
             INTERVAL '7 days', timezone => 'Europe/Berlin')"
        }
        "session" => "write session(time, INTERVAL '30 minutes')",
        _ => {
            "write tumble(time, INTERVAL '1 day'), tumble(time, INTERVAL '1 day', INTERVAL '6 hours'), or tumble(time, \
             INTERVAL '1 day', timezone => 'Europe/Berlin')"
        }
    };
    let FunctionArguments::List(list) = &function.args else {
        return Err(place.refuse(at, format!("{name} takes a time and a length"), instead));
    };
    let mut arguments = list.args.clone();
    if lengths(name).is_some()
        && let Some((zone, others)) = timezone(&arguments)
    {
        let text = match &zone {
            FunctionArgExpr::Expr(Expr::Value(value)) => value.value.clone().into_string(),
            _ => None,
        };
        if text.is_none_or(|zone| zone.parse::<chrono_tz::Tz>().is_err()) {
            return Err(place.refuse(at, format!("{zone} is no IANA time zone"), instead));
        }
        arguments = others;
    }
    let constant =
        |argument: &FunctionArg| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Interval(_))));
    if !arity.contains(&arguments.len()) || !arguments[1..].iter().all(constant) {
        return Err(place.refuse(at, format!("{name} takes a time and constant lengths"), instead));
    }
    Ok(())
}
