//! What a view may say for now. Everything else is refused here, with its position and what to write instead, before
//! DataFusion plans it, so that no SQL compiles and then gives another answer than plain SQL.

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{
    self, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgumentClause, FunctionArguments, GroupByExpr,
    Query, Select, SelectItem, SetExpr, Spanned, TableFactor, visit_expressions,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use crate::aggregates::ORDER_SENSITIVE;
use crate::parse::{Place, identifier};
use crate::refusal::Refusal;

/// Aggregates that fold.
const AGGREGATES: &[&str] = &[
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "first_value",
    "last_value",
    "array_agg",
];

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

/// The name of the one table that `query` reads, with its position.
pub(crate) fn source(place: &Place<'_>, query: &Query, at: Location) -> Result<(String, Location), Refusal> {
    let select = body(place, query, at)?;
    let select_at = position(select.span().start, at);
    let [from] = select.from.as_slice() else {
        return Err(place.refuse(
            select_at,
            format!("a view reads one stream or one view, not {}", select.from.len()),
            "write FROM with a single name; joins are not taken yet",
        ));
    };
    if let Some(join) = from.joins.first() {
        return Err(place.refuse(
            position(join.span().start, select_at),
            "a view reads one stream or one view: joins are not taken yet",
            "write one view per stream, and join them in the query that reads them",
        ));
    }
    match &from.relation {
        TableFactor::Table {
            name,
            args: None,
            with_hints,
            version: None,
            partitions,
            sample: None,
            ..
        } if name.0.len() == 1 && with_hints.is_empty() && partitions.is_empty() => {
            let ident = name.0[0].as_ident();
            let name = ident.map_or_else(|| name.to_string(), identifier);
            Ok((name, position(from.relation.span().start, select_at)))
        }
        other => Err(place.refuse(
            position(other.span().start, select_at),
            "a view reads one stream or one view by its name",
            "write the inner query as a view of its own, and read that",
        )),
    }
}

/// Refuses whatever a view over `over` may not say.
pub(crate) fn query(
    place: &Place<'_>,
    query: &Query,
    over: Over,
    state: &SessionState,
    at: Location,
) -> Result<(), Refusal> {
    let select = body(place, query, at)?;
    clauses(place, select, at)?;
    let refusal = visit_expressions(query, |expression| {
        match expression_of(place, expression, over, state, at) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refusal) => ControlFlow::Break(refusal),
        }
    });
    if let ControlFlow::Break(refusal) = refusal {
        return Err(refusal);
    }
    if over == Over::Stream && !aggregates(select, state) {
        return Err(place.refuse(
            position(select.span().start, at),
            "a view over a stream has a GROUP BY or an aggregate: views of single rows are not taken yet",
            "group by the key that you look rows up by, and keep them with array_agg(...)",
        ));
    }
    Ok(())
}

fn position(found: Location, otherwise: Location) -> Location {
    if found.line > 0 { found } else { otherwise }
}

fn body<'a>(place: &Place<'_>, query: &'a Query, at: Location) -> Result<&'a Select, Refusal> {
    if let Some(with) = &query.with {
        return Err(place.refuse(
            position(with.span().start, at),
            "WITH is not taken in a view yet",
            "write the inner query as a view of its own, and read that",
        ));
    }
    if let Some(order) = &query.order_by {
        return Err(place.refuse(
            position(order.span().start, at),
            "ORDER BY is not taken in a view yet",
            "write ORDER BY in the query that reads the view",
        ));
    }
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return Err(place.refuse(
            position(query.span().end, at),
            "LIMIT is not taken in a view yet",
            "write LIMIT in the query that reads the view",
        ));
    }
    if !query.locks.is_empty()
        || query.for_clause.is_some()
        || query.settings.is_some()
        || query.format_clause.is_some()
        || !query.pipe_operators.is_empty()
    {
        return Err(place.refuse(at, "a view is a plain SELECT", "leave out what follows the SELECT"));
    }
    match query.body.as_ref() {
        SetExpr::Select(select) => Ok(select),
        other => Err(place.refuse(
            position(other.span().start, at),
            "a view is one SELECT: UNION, VALUES and the like are not taken yet",
            "write a view per SELECT, and combine them in the query that reads them",
        )),
    }
}

fn clauses(place: &Place<'_>, select: &Select, at: Location) -> Result<(), Refusal> {
    let at = position(select.span().start, at);
    if select.distinct.is_some() {
        return Err(place.refuse(
            at,
            "SELECT DISTINCT is not taken in a view yet",
            "write GROUP BY with the same columns",
        ));
    }
    if select.qualify.is_some() || !select.named_window.is_empty() {
        return Err(place.refuse(
            at,
            "window functions are not taken in a view yet",
            "write them in the query that reads the view",
        ));
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
        return Err(place.refuse(
            at,
            "a view is SELECT ... FROM ... WHERE ... GROUP BY ... HAVING",
            "leave out the other clauses",
        ));
    }
    let modified = match &select.group_by {
        GroupByExpr::All(modifiers) => !modifiers.is_empty(),
        GroupByExpr::Expressions(_, modifiers) => !modifiers.is_empty(),
    };
    if modified {
        return Err(grouping_sets(place, at));
    }
    let wildcard = select
        .projection
        .iter()
        .find(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
    match wildcard {
        Some(item) => Err(place.refuse(
            position(item.span().start, at),
            "SELECT * would change the view's columns with the declaration of what it reads",
            "name the columns",
        )),
        None => Ok(()),
    }
}

fn grouping_sets(place: &Place<'_>, at: Location) -> Refusal {
    place.refuse(
        at,
        "ROLLUP, CUBE and GROUPING SETS are not taken in a view yet",
        "write a view per grouping, or a view over a view for the coarser one",
    )
}

fn expression_of(
    place: &Place<'_>,
    expression: &Expr,
    over: Over,
    state: &SessionState,
    at: Location,
) -> Result<(), Refusal> {
    let here = position(expression.span().start, at);
    match expression {
        Expr::Function(function) => function_of(place, function, over, state, here),
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } | Expr::AnyOp { .. } | Expr::AllOp { .. } => {
            Err(place.refuse(
                here,
                "subqueries are not taken in a view yet",
                "write the inner query as a view of its own, and join in the query that reads both",
            ))
        }
        Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_) => Err(grouping_sets(place, here)),
        _ => Ok(()),
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
    if function.over.is_some() {
        return Err(place.refuse(
            at,
            format!("{name}(...) OVER is a window function, which a view does not take yet"),
            "write it in the query that reads the view",
        ));
    }
    match name.as_str() {
        "tumble" => return tumble(place, function, at),
        "hop" | "session" | "window_end" => {
            return Err(place.refuse(at, format!("{name}(...) is not taken yet"), "write tumble(time, size)"));
        }
        "grouping" => return Err(grouping_sets(place, at)),
        _ => {}
    }
    if state.aggregate_functions().contains_key(&name) {
        return aggregate(place, function, &name, over, at);
    }
    let Some(scalar) = state.scalar_functions().get(&name) else {
        if state.window_functions().contains_key(&name) {
            return Err(place.refuse(
                at,
                format!("{name}(...) is a window function, which a view does not take yet"),
                "write it in the query that reads the view",
            ));
        }
        return if state.higher_order_functions().contains_key(&name) {
            Err(place.refuse(at, format!("{name}(...) is not taken in a view yet"), "leave it out"))
        } else {
            let mut known: Vec<&str> = state.scalar_functions().keys().map(String::as_str).collect();
            known.sort_unstable();
            known.extend(AGGREGATES);
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

fn aggregate(place: &Place<'_>, function: &Function, name: &str, over: Over, at: Location) -> Result<(), Refusal> {
    if !AGGREGATES.contains(&name) {
        return Err(place.refuse(
            at,
            format!("aggregate {name} is not taken yet"),
            format!("the aggregates that fold are {}", AGGREGATES.join(", ")),
        ));
    }
    if over == Over::View && ORDER_SENSITIVE.contains(&name) {
        return Err(place.refuse(
            at,
            format!("{name} depends on the order of rows, which the rows of a view do not have"),
            "use it in the view over the stream, or min or max here",
        ));
    }
    if function.null_treatment.is_some() || !function.within_group.is_empty() {
        return Err(place.refuse(
            at,
            format!("{name} takes neither IGNORE NULLS nor WITHIN GROUP yet"),
            "leave NULLs out with FILTER (WHERE column IS NOT NULL)",
        ));
    }
    let FunctionArguments::List(list) = &function.args else {
        return Ok(());
    };
    let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    if distinct && name != "count" && name != "min" && name != "max" {
        return Err(place.refuse(
            at,
            format!("{name}(DISTINCT ...) is not taken yet"),
            "count(DISTINCT ...) is; for other aggregates group by the value in one view and aggregate over it",
        ));
    }
    if distinct && list.args.len() != 1 {
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
    match list
        .clauses
        .iter()
        .find(|clause| !matches!(clause, FunctionArgumentClause::OrderBy(_)))
    {
        Some(clause) => Err(place.refuse(at, format!("{name} does not take {clause} yet"), "leave it out")),
        None => Ok(()),
    }
}

fn tumble(place: &Place<'_>, function: &Function, at: Location) -> Result<(), Refusal> {
    let instead = "write tumble(time, INTERVAL '1 day') or tumble(time, INTERVAL '1 day', INTERVAL '6 hours')";
    let FunctionArguments::List(list) = &function.args else {
        return Err(place.refuse(at, "tumble takes a time and a size", instead));
    };
    if let Some(named) = list
        .args
        .iter()
        .find(|argument| !matches!(argument, FunctionArg::Unnamed(_)))
    {
        return Err(place.refuse(
            at,
            format!("tumble(..., {named}) is not taken yet: windows begin in UTC"),
            instead,
        ));
    }
    let constant = |argument: &FunctionArg| {
        matches!(
            argument,
            FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(Expr::Interval(_)))
        )
    };
    if !(2..=3).contains(&list.args.len()) || !list.args[1..].iter().all(constant) {
        return Err(place.refuse(
            at,
            "tumble takes a time, a constant size and perhaps a constant offset",
            instead,
        ));
    }
    Ok(())
}

fn aggregates(select: &Select, state: &SessionState) -> bool {
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, _) => !expressions.is_empty(),
    };
    let found = visit_expressions(&select.projection, |expression| match expression {
        Expr::Function(function)
            if state
                .aggregate_functions()
                .contains_key(&function.name.to_string().to_lowercase()) =>
        {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    grouped || found.is_break()
}
