//! A parsed view to a [`View`]: checks, plan, fold, identity.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Diagnostic, TableReference};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection, cast};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, CreateTableOptions, SqlOption};
use datafusion::sql::sqlparser::tokenizer::Location;

use crate::aggregates;
use crate::arithmetic::{float_of_rank, float_place};
use crate::bounds::{WRITTEN_OUT_MAX, check_plan, written_out};
use crate::catalog::{Catalog, Derived, Stream, View, ViewKind, short_hash};
use crate::check::{self, Over};
use crate::fold::FOLD_FORMAT;
use crate::parse::{Place, duration_ms, identifier, option_text};
use crate::refusal::Refusal;
use crate::session::RowlessTable;
use crate::{Class, Fold, above, split, system_columns, windows};

/// A view with the folds that it was taken apart into.
pub(crate) struct Compiled {
    pub(crate) view: View,
    pub(crate) parts: Vec<View>,
}

/// Compiles `view` and makes it known to `context`, so that later views can read it.
pub(crate) async fn view(
    place: &Place<'_>,
    context: &SessionContext,
    catalog: &Catalog,
    view: &ast::CreateView,
    at: Location,
) -> Result<Compiled, Refusal> {
    let name = name(place, catalog, view, at)?;
    let options = options(place, view, at)?;
    let state = context.state();
    let mut reads = Vec::new();
    for (source, source_at) in check::sources(place, &view.query, at)? {
        if catalog.stream(&source).is_none() && catalog.view(&source).is_none() {
            return Err(unknown_source(place, catalog, &source, source_at));
        }
        if !reads.contains(&source) {
            reads.push(source);
        }
    }
    let over = match reads.iter().any(|name| catalog.stream(name).is_some()) {
        true => Over::Stream,
        false => Over::View,
    };
    let size = written_out(&view.query, &|name| catalog.size_of(name));
    if size > WRITTEN_OUT_MAX {
        return Err(place.refuse(
            at,
            format!(
                "the view has more than {WRITTEN_OUT_MAX} SELECTs and tables when what it reads by WITH and from views is \
                 written out"
            ),
            "read each table once or twice, and aggregate first what several views read",
        ));
    }
    check::query(place, &view.query, over, &state, at)?;

    let failed = |error: DataFusionError| plan_refusal(place, &error, at);
    let query = check::positional(view.query.clone());
    let statement = Statement::Statement(Box::new(ast::Statement::Query(query)));
    let raw = state.statement_to_plan(statement).await.map_err(failed)?;
    check_plan(&raw).map_err(failed)?;
    let prepared = windows::prepare(raw).map_err(failed)?;
    let windowed = windowed(&prepared).map_err(failed)?;
    let streams = |name: &str| catalog.stream(name).is_some();
    let over_stream = |plan: &LogicalPlan| split::stream_of(plan, &streams).is_some();
    let prepared = above::written_out(prepared, &over_stream).map_err(failed)?;
    let plan = state
        .analyzer()
        .execute_and_check(prepared, state.config_options(), |_, _| {})
        .map_err(failed)?;
    let plan = split::distinct_as_groups(plan, &streams).map_err(failed)?;
    let plan = match split::stream_of(&plan, &streams) {
        Some(_) => row_groups(place, plan, &options, at)?,
        None if options.key.is_some() => {
            return Err(place.refuse(
                at,
                "key is the option of a view of single rows, and this one aggregates",
                "leave it out: the columns of GROUP BY are the key",
            ));
        }
        None => plan,
    };
    let misplaced = windows::misplaced(&plan, &over_stream).map_err(failed)?;
    if let Some(window) = misplaced {
        return Err(place.refuse(
            at,
            format!("{window} stands elsewhere than in a GROUP BY"),
            "group by it, and select it under a name for what stands above",
        ));
    }
    let drops_late = options.late.unwrap_or(true) && windowed;
    let class = class(&plan, &reads, catalog).map_err(failed)?;
    let schema = answer_schema(place, &plan, at)?;
    let window = window_column(place, &plan, &schema, at);
    let (retention, window) = match options.retention {
        Some(hidden_after_ms) => {
            let window = window?;
            (Some((hidden_after_ms, window.clone())), Some(window))
        }
        None => (None, window.ok()),
    };
    let sql = view.query.to_string();
    let declared = format!("{sql} {retention:?} {drops_late} {:?}", options.key);
    let mut parts = Vec::new();
    let (id, kind) = match split::single_fold(&plan, &streams) {
        Some(stream) => {
            let stream = Arc::clone(catalog.stream(&stream).expect("a fold is over a stream"));
            let fold = Fold::compile(&name, Arc::clone(&stream), &plan, &schema, drops_late, &state).await;
            let fold = fold.map_err(failed)?;
            (fold_id(&declared, &stream, &fold), ViewKind::Fold(Arc::new(fold)))
        }
        None => {
            let (above, below) = split::split(plan, &name, &streams).map_err(failed)?;
            for part in below {
                let stream = Arc::clone(catalog.stream(&part.stream).expect("a fold is over a stream"));
                let part_schema = crate::fold::nullable(part.plan.schema().as_arrow());
                let fold = Fold::compile(
                    &part.name,
                    Arc::clone(&stream),
                    &part.plan,
                    &part_schema,
                    drops_late,
                    &state,
                );
                let fold = fold.await.map_err(failed)?;
                parts.push(View {
                    id: fold_id(&format!("{} of {declared}", part.name), &stream, &fold),
                    name: part.name,
                    sql: sql.clone(),
                    schema: part_schema,
                    class,
                    reads: vec![part.stream],
                    part_of: Some(name.clone()),
                    retention: None,
                    window: None,
                    kind: ViewKind::Fold(Arc::new(fold)),
                });
            }
            reads.retain(|name| catalog.stream(name).is_none());
            reads.extend(parts.iter().map(|part| part.name.clone()));
            let ids: Vec<&str> = reads
                .iter()
                .filter_map(|name| catalog.view(name).map(|view| view.id.as_str()))
                .chain(parts.iter().map(|part| part.id.as_str()))
                .collect();
            (
                short_hash(&format!("{FOLD_FORMAT} {} {declared}", ids.join(" "))),
                ViewKind::Derived(Derived::new(above, size).map_err(failed)?),
            )
        }
    };
    let table = Arc::new(RowlessTable {
        schema: Arc::clone(&schema),
    });
    context
        .register_table(TableReference::bare(name.as_str()), table)
        .map_err(failed)?;
    Ok(Compiled {
        view: View {
            name,
            id,
            sql,
            schema,
            class,
            reads,
            part_of: None,
            retention,
            window,
            kind,
        },
        parts,
    })
}

/// A view of single rows as the GROUP BY that it is: by its key, then by the rows' place in the log, then by what it
/// selects. So it is stored, merged and looked up as every other fold.
fn row_groups(place: &Place<'_>, plan: LogicalPlan, options: &Options, at: Location) -> Result<LogicalPlan, Refusal> {
    let failed = |error: DataFusionError| plan_refusal(place, &error, at);
    let LogicalPlan::Projection(selected) = plan else {
        return Err(place.refuse(at, "a view of single rows selects columns", "name the columns"));
    };
    let names: Vec<String> = selected
        .schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let mut keys = Vec::new();
    for key in options.key.iter().flatten() {
        if !names.contains(key) || keys.contains(key) {
            return Err(place.refuse(
                at,
                format!("the key \"{key}\" is not one of the columns that the view selects, once"),
                format!("it selects {}", names.join(", ")),
            ));
        }
        keys.push(key.clone());
    }
    let build = || -> Result<LogicalPlan, DataFusionError> {
        // A GROUP BY has one zero, and rows have two.
        let floating = |name: &str| {
            let field = selected.schema.field_with_unqualified_name(name);
            field
                .ok()
                .map(|field| field.data_type().clone())
                .filter(DataType::is_floating)
        };
        let mut rows: Vec<Expr> = (selected.expr.iter().zip(&names))
            .map(|(expression, name)| {
                let value = expression.clone().unalias();
                let key = match floating(name) {
                    Some(_) => float_place(cast(value, DataType::Float64)),
                    None => value,
                };
                key.alias(name)
            })
            .collect();
        let place_in_log = [
            ("_row_partition", system_columns::PARTITION),
            ("_row_offset", system_columns::OFFSET),
        ];
        for (name, column) in place_in_log {
            rows.push(column_of(selected.input.schema(), column)?.alias(name));
        }
        let rows = Projection::try_new(rows, Arc::clone(&selected.input))?;
        let column = |name: &str| Expr::Column(Column::new_unqualified(name));
        let mut groups: Vec<Expr> = keys.iter().map(|key| column(key)).collect();
        groups.extend(place_in_log.map(|(name, _)| column(name)));
        groups.extend(
            names
                .iter()
                .filter(|name| !keys.contains(name))
                .map(|name| column(name)),
        );
        let groups = Aggregate::try_new(Arc::new(LogicalPlan::Projection(rows)), groups, Vec::new())?;
        let answer = names.iter().map(|name| match floating(name) {
            Some(data_type) => cast(float_of_rank(column(name)), data_type).alias(name),
            None => column(name),
        });
        let answer = answer.collect();
        let answer = Projection::try_new(answer, Arc::new(LogicalPlan::Aggregate(groups)))?;
        Ok(LogicalPlan::Projection(answer))
    };
    build().map_err(failed)
}

fn column_of(schema: &DFSchema, name: &str) -> Result<Expr, DataFusionError> {
    let found = schema.iter().find(|(_, field)| field.name() == name);
    let found = found.ok_or_else(|| {
        DataFusionError::Plan(format!(
            "a view of single rows reads a stream by its name: column {name} is hidden here"
        ))
    })?;
    Ok(Expr::Column(Column::from(found)))
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

/// `WITH (...)` of a view.
#[derive(Debug, Default)]
struct Options {
    /// Milliseconds.
    retention: Option<i64>,
    /// Whether late rows are left out of windows.
    late: Option<bool>,
    /// Columns of the key of a view of single rows.
    key: Option<Vec<String>>,
}

fn options(place: &Place<'_>, view: &ast::CreateView, at: Location) -> Result<Options, Refusal> {
    let mut options = Options::default();
    let written = match &view.options {
        CreateTableOptions::None => return Ok(options),
        CreateTableOptions::With(written) => written,
        _ => {
            return Err(place.refuse(
                at,
                "options are written as WITH (...)",
                "write WITH (retention = '48 hours')",
            ));
        }
    };
    for option in written {
        let instead = "the options of a view are retention = '48 hours', late = 'drop' or 'keep', and key = 'a, b'";
        let SqlOption::KeyValue { key, value } = option else {
            return Err(place.refuse(at, format!("option {option} is not known"), instead));
        };
        let refuse = |what: &str| place.refuse(key.span.start, format!("{key} = {value} is not {what}"), instead);
        let text = option_text(value);
        match identifier(key).as_str() {
            "retention" => {
                let length = text.and_then(|text| duration_ms(&text)).filter(|length| *length > 0);
                options.retention = Some(length.ok_or_else(|| refuse("a length of time"))?);
            }
            "late" => {
                options.late = Some(match text.as_deref() {
                    Some("drop") => true,
                    Some("keep") => false,
                    _ => return Err(refuse("'drop' or 'keep'")),
                });
            }
            "key" => {
                let names = text.ok_or_else(|| refuse("a list of columns"))?;
                options.key = Some(names.split(',').map(|name| name.trim().to_owned()).collect());
            }
            _ => return Err(place.refuse(key.span.start, format!("option {key} is not known"), instead)),
        }
    }
    Ok(options)
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
    if let Some(name) = reason.strip_prefix("Schema contains duplicate unqualified field name ") {
        return place.refuse(
            at,
            format!("two aggregates of one SELECT are called {name}: names leave CASTs out"),
            "cast in a subquery, and aggregate its column: FROM (SELECT ..., CAST(x AS DOUBLE) AS y FROM ...)",
        );
    }
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
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            for group in &aggregate.group_expr {
                found |= group.exists(|expression| Ok(windows::is_window(expression)))?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// The least exact of what a view reads and of what it computes.
fn class(plan: &LogicalPlan, reads: &[String], catalog: &Catalog) -> Result<Class, DataFusionError> {
    let below = reads
        .iter()
        .filter_map(|name| catalog.view(name))
        .map(|view| view.class)
        .max();
    let mut class = below.unwrap_or(Class::Exact);
    plan.apply_with_subqueries(|node| {
        for expression in node.expressions() {
            expression.apply(|expression| {
                class = class.max(aggregates::class_of(expression));
                Ok(TreeNodeRecursion::Continue)
            })?;
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
            Expr::Column(column) => windows::names_window(&column.name),
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
fn fold_id(declared: &str, stream: &Stream, fold: &Fold) -> String {
    let read: Vec<String> = stream
        .columns
        .iter()
        .filter(|column| fold.input_columns().contains(&column.name))
        .map(|column| format!("{}:{}", column.name, column.data_type))
        .collect();
    short_hash(&format!(
        "{FOLD_FORMAT} {declared} {} {} {read:?}",
        stream.topic,
        stream.judging_id()
    ))
}
