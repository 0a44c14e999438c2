//! A parsed view to a [`View`]: checks, plan, fold, identity.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::Diagnostic;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, CreateTableOptions, SqlOption};
use datafusion::sql::sqlparser::tokenizer::Location;

use crate::catalog::{Catalog, Stream, View, ViewKind, short_hash};
use crate::check::{self, Over};
use crate::fold::FOLD_FORMAT;
use crate::parse::{Place, duration_ms, identifier, option_text};
use crate::refusal::Refusal;
use crate::session::RowlessTable;
use crate::{Class, Fold};

/// Compiles `view` and makes it known to `context`, so that later views can read it.
pub(crate) async fn view(
    place: &Place<'_>,
    context: &SessionContext,
    catalog: &Catalog,
    view: &ast::CreateView,
    at: Location,
) -> Result<View, Refusal> {
    let name = name(place, catalog, view, at)?;
    let retention = options(place, view, at)?;
    let state = context.state();
    let (source, source_at) = check::source(place, &view.query, at)?;
    let over = if catalog.stream(&source).is_some() {
        Over::Stream
    } else if catalog.view(&source).is_some() {
        Over::View
    } else {
        return Err(unknown_source(place, catalog, &source, source_at));
    };
    check::query(place, &view.query, over, &state, at)?;

    let failed = |error: DataFusionError| plan_refusal(place, &error, at);
    let statement = Statement::Statement(Box::new(ast::Statement::Query(view.query.clone())));
    let raw = state.statement_to_plan(statement).await.map_err(failed)?;
    let plan = state
        .analyzer()
        .execute_and_check(raw, state.config_options(), |_, _| {})
        .map_err(failed)?;
    let windowed = windowed(&plan).map_err(failed)?;
    let class = class(&plan, catalog.view(&source)).map_err(failed)?;
    let schema = answer_schema(place, &plan, at)?;
    let retention = match retention {
        Some(hidden_after_ms) => Some((hidden_after_ms, window_column(place, &plan, &schema, at)?)),
        None => None,
    };
    let sql = view.query.to_string();
    let (id, kind) = match catalog.stream(&source) {
        Some(stream) => {
            let fold = Fold::compile(&name, Arc::clone(stream), &plan, &schema, windowed, &state).await;
            let fold = fold.map_err(failed)?;
            (
                fold_id(&sql, stream, &fold, retention.as_ref()),
                ViewKind::Fold(Arc::new(fold)),
            )
        }
        None => {
            let base = catalog.view(&source).expect("a source is a stream or a view");
            (
                short_hash(&format!("{FOLD_FORMAT} {} {sql} {retention:?}", base.id)),
                ViewKind::Derived { sql: sql.clone() },
            )
        }
    };
    let table = Arc::new(RowlessTable {
        schema: Arc::clone(&schema),
    });
    context.register_table(name.as_str(), table).map_err(failed)?;
    Ok(View {
        name,
        id,
        sql,
        schema,
        class,
        reads: vec![source],
        retention,
        kind,
    })
}

fn name(place: &Place<'_>, catalog: &Catalog, view: &ast::CreateView, at: Location) -> Result<String, Refusal> {
    let [part] = view.name.0.as_slice() else {
        return Err(place.refuse(
            at,
            format!("view name {} has several parts", view.name),
            "write one name",
        ));
    };
    let name = part.as_ident().map(identifier).unwrap_or_default();
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !plain {
        return Err(place.refuse(
            at,
            format!("view name {} is not plain", view.name),
            "use letters, digits and _",
        ));
    }
    if catalog.stream(&name).is_some() || catalog.view(&name).is_some() {
        return Err(place.refuse(
            at,
            format!("\"{name}\" is declared twice"),
            "name each stream and view once over all pipelines",
        ));
    }
    let decorated = view.or_replace || view.or_alter || view.materialized || view.if_not_exists || view.temporary;
    if decorated || view.to.is_some() || view.params.is_some() || view.secure {
        return Err(place.refuse(
            at,
            "a view is declared as CREATE VIEW name AS SELECT",
            "leave out the other words",
        ));
    }
    if !view.columns.is_empty() {
        return Err(place.refuse(
            at,
            "columns are not named behind the view's name",
            "write AS name in the SELECT",
        ));
    }
    Ok(name)
}

/// Milliseconds of `WITH (retention = ...)`.
fn options(place: &Place<'_>, view: &ast::CreateView, at: Location) -> Result<Option<i64>, Refusal> {
    let options = match &view.options {
        CreateTableOptions::None => return Ok(None),
        CreateTableOptions::With(options) => options,
        _ => {
            return Err(place.refuse(
                at,
                "options are written as WITH (...)",
                "write WITH (retention = '48 hours')",
            ));
        }
    };
    let mut retention = None;
    for option in options {
        let instead = "the option of a view is retention = '48 hours'";
        let SqlOption::KeyValue { key, value } = option else {
            return Err(place.refuse(at, format!("option {option} is not known"), instead));
        };
        if identifier(key) != "retention" {
            return Err(place.refuse(key.span.start, format!("option {key} is not known"), instead));
        }
        let length = option_text(value)
            .and_then(|text| duration_ms(&text))
            .filter(|length| *length > 0);
        retention = Some(length.ok_or_else(|| {
            place.refuse(
                key.span.start,
                format!("retention = {value} is not a length of time"),
                instead,
            )
        })?);
    }
    Ok(retention)
}

fn unknown_source(place: &Place<'_>, catalog: &Catalog, source: &str, at: Location) -> Refusal {
    let streams = catalog.streams().iter().map(|stream| stream.name.as_str());
    let names: Vec<&str> = streams
        .chain(catalog.views().iter().map(|view| view.name.as_str()))
        .collect();
    place.refuse(
        at,
        format!("there is no stream or view \"{source}\" before this view"),
        format!("declared so far: {}", names.join(", ")),
    )
}

fn plan_refusal(place: &Place<'_>, error: &DataFusionError, at: Location) -> Refusal {
    let reason = error.find_root().strip_backtrace();
    let reason = reason.lines().next().unwrap_or_default();
    // What follows lists every signature that was tried.
    let reason = reason.split(", errors: ").next().unwrap_or_default();
    // A function's own words stand between DataFusion's.
    let reason = reason
        .split_once("coercion failed with: ")
        .map_or(reason, |(_, own)| own);
    let reason = reason.split(" No function matches").next().unwrap_or_default();
    let reason = [
        "Error during planning: ",
        "Schema error: ",
        "Execution error: ",
        "Internal error: ",
        "This feature is not implemented: ",
    ]
    .iter()
    .find_map(|prefix| reason.strip_prefix(prefix))
    .unwrap_or(reason);
    let diagnostic = error.diagnostic();
    let span = diagnostic.and_then(|diagnostic| diagnostic.span);
    let at = span.map_or(at, |span| Location {
        line: span.start.line,
        column: span.start.column,
    });
    let mut characters = reason.chars();
    let reason = characters
        .next()
        .map(|first| first.to_lowercase().collect::<String>() + characters.as_str());
    place.refuse(
        at,
        reason.unwrap_or_default().trim_end_matches('.'),
        instead(diagnostic),
    )
}

fn instead(diagnostic: Option<&Diagnostic>) -> String {
    let words = diagnostic
        .into_iter()
        .flat_map(|diagnostic| diagnostic.helps.iter().map(|help| help.message.clone()));
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        "correct the view's SQL here".to_owned()
    } else {
        words.join("; ")
    }
}

/// Whether the GROUP BY holds a window: only such views leave late rows out.
fn windowed(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let mut found = false;
    plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            for group in &aggregate.group_expr {
                found |= group.exists(|expression| Ok(is_window(expression)))?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn is_window(expression: &Expr) -> bool {
    matches!(expression, Expr::ScalarFunction(function) if function.name() == "tumble")
}

/// SUM and AVG of doubles round; every other aggregate that is taken is exact.
fn class(plan: &LogicalPlan, base: Option<&Arc<View>>) -> Result<Class, DataFusionError> {
    let mut class = base.map_or(Class::Exact, |view| view.class);
    plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            for expression in &aggregate.aggr_expr {
                let expression = &expression.clone().unalias();
                let Expr::AggregateFunction(function) = expression else {
                    continue;
                };
                let sums = matches!(function.func.name(), "sum" | "avg");
                let data_type =
                    datafusion::logical_expr::ExprSchemable::get_type(expression, aggregate.input.schema())?;
                if sums && data_type.is_floating() {
                    class = class.max(Class::Rounding);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(class)
}

fn answer_schema(place: &Place<'_>, plan: &LogicalPlan, at: Location) -> Result<SchemaRef, Refusal> {
    let fields: Vec<_> = plan
        .schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|other| other.name() == field.name()) {
            return Err(place.refuse(
                at,
                format!("the view has two columns called \"{}\"", field.name()),
                "give each a name of its own with AS",
            ));
        }
        if matches!(field.data_type(), DataType::Null) {
            return Err(place.refuse(
                at,
                format!("column \"{}\" is always NULL and has no type", field.name()),
                "write CAST(NULL AS TEXT) or leave it out",
            ));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The output column that is the view's window, which retention hides by.
fn window_column(place: &Place<'_>, plan: &LogicalPlan, schema: &Schema, at: Location) -> Result<String, Refusal> {
    let LogicalPlan::Projection(projection) = plan else {
        return Err(no_window(place, at));
    };
    let window = projection
        .expr
        .iter()
        .position(|expression| match expression.clone().unalias() {
            Expr::Column(column) => column.name.starts_with("tumble("),
            _ => false,
        });
    window
        .map(|index| schema.field(index).name().clone())
        .ok_or_else(|| no_window(place, at))
}

fn no_window(place: &Place<'_>, at: Location) -> Refusal {
    place.refuse(
        at,
        "retention hides old windows, and this view has no window column",
        "add tumble(...) to SELECT and GROUP BY, or leave retention out",
    )
}

/// Identity of a fold: its SQL, and what the declaration says about the columns that it reads.
fn fold_id(sql: &str, stream: &Stream, fold: &Fold, retention: Option<&(i64, String)>) -> String {
    let read: Vec<String> = stream
        .columns
        .iter()
        .filter(|column| fold.input_columns().contains(&column.name))
        .map(|column| format!("{}:{}", column.name, column.data_type))
        .collect();
    short_hash(&format!(
        "{FOLD_FORMAT} {sql} {} {} {read:?} {retention:?}",
        stream.topic,
        stream.judging_id()
    ))
}
