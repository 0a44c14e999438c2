//! What SQL from outside may do: read the views, and nothing else.
//!
//! Text is parsed first, and only one query (or the EXPLAIN of one) passes. Then the names that it reads are resolved
//! against the catalog: whatever is not a view or a stream does not exist, a file's path included. The session that
//! runs it knows no file format, no object store, no table function, and no function that makes much out of little.
//! So a statement that slips through one fence stands before the next.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Query, Select, SetExpr, Statement as SqlStatement,
    TableFactor, TableFunctionArgs, Value, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use foldline_sql::bounds::{TooLarge, WRITTEN_OUT_MAX, check_tokens, written_out};

/// Expressions nest at most this deep.
const NESTING_MAX: usize = 50;
/// Tables in a text.
const TABLES_MAX: usize = 32;

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not SQL.
    #[error("cannot parse the SQL: {0}")]
    Syntax(String),
    /// None or more than one statement.
    #[error("write exactly one query, not {0}")]
    Statements(usize),
    /// A statement that does not just read.
    #[error("{0} is refused: only queries (SELECT, VALUES, WITH ... SELECT, EXPLAIN of one) are answered here")]
    NotAQuery(String),
    /// A part of a query that does more than read.
    #[error("{0} is refused inside a query; views are read by name, and nothing is written")]
    Part(String),
    /// Too large.
    #[error("the query is too large: {0}")]
    TooLarge(String),
    /// A qualified name.
    #[error("\"{0}\" is refused: views have plain names, without catalog or schema")]
    Qualified(String),
}

/// A query that may be run.
#[derive(Debug)]
pub struct Fenced {
    /// The statement, for the planner.
    pub statement: Statement,
    /// Names of the tables that it reads.
    pub tables: Vec<String>,
    /// Those of the tables that are `late_rows('view')`, each with the name of the view.
    pub late_rows: BTreeMap<String, String>,
}

/// Lets `text` pass if it is one query that only reads.
pub fn fence(text: &str, bytes_max: usize) -> Result<Fenced, Refused> {
    if text.len() > bytes_max {
        return Err(Refused::TooLarge(format!("{} bytes, at most {bytes_max}", text.len())));
    }
    let dialect = PostgreSqlDialect {};
    let syntax = |error: &dyn std::fmt::Display| Refused::Syntax(error.to_string());
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location();
    let large = |large: TooLarge| Refused::TooLarge(format!("{}; {}", large.reason, large.instead));
    check_tokens(&tokens.map_err(|error| syntax(&error))?).map_err(large)?;
    let parser = DFParserBuilder::new(text)
        .with_dialect(&dialect)
        .with_recursion_limit(NESTING_MAX)
        .build();
    let statements = parser.and_then(|mut parser| parser.parse_statements());
    let mut statements = statements.map_err(|error| syntax(&error))?;
    let mut statement = match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => statement,
        (None, _) => return Err(Refused::Statements(0)),
        (Some(_), others) => return Err(Refused::Statements(others + 1)),
    };
    let mut late_rows = LateRows::default();
    if let Some(query) = query_of(&mut statement) {
        let _ = query.visit(&mut late_rows);
    }
    check_statement(&statement)?;
    let (references, _) = resolve_table_references(&statement, true).map_err(|error| syntax(&error))?;
    let mut tables = BTreeSet::new();
    for reference in references {
        if reference.schema().is_some() {
            return Err(Refused::Qualified(reference.to_string()));
        }
        tables.insert(reference.table().to_owned());
    }
    Ok(Fenced {
        statement,
        tables: tables.into_iter().collect(),
        late_rows: late_rows.0,
    })
}

/// What `statement` asks, or explains.
fn query_of(statement: &mut Statement) -> Option<&mut SqlStatement> {
    match statement {
        Statement::Statement(query) => Some(query),
        Statement::Explain(explain) => query_of(&mut explain.statement),
        _ => None,
    }
}

/// Turns `late_rows('view')` into a table with that name.
#[derive(Default)]
struct LateRows(BTreeMap<String, String>);

impl VisitorMut for LateRows {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args, .. } = factor
            && name.to_string().eq_ignore_ascii_case("late_rows")
            && let Some(view) = args.as_ref().and_then(one_text)
        {
            let table = format!("late_rows('{view}')");
            *name = ObjectName::from(vec![Ident::with_quote('"', &table)]);
            *args = None;
            self.0.insert(table, view);
        }
        ControlFlow::Continue(())
    }
}

fn one_text(arguments: &TableFunctionArgs) -> Option<String> {
    match arguments.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn check_statement(statement: &Statement) -> Result<(), Refused> {
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            SqlStatement::Query(query) => check_query(query),
            other => Err(Refused::NotAQuery(first_words(&other.to_string()))),
        },
        Statement::Explain(explain) => match explain.statement.as_ref() {
            Statement::Statement(inner) if matches!(inner.as_ref(), SqlStatement::Query(_)) => {
                check_statement(&explain.statement)
            }
            other => Err(Refused::NotAQuery(format!(
                "EXPLAIN {}",
                first_words(&other.to_string())
            ))),
        },
        other => Err(Refused::NotAQuery(first_words(&other.to_string()))),
    }
}

fn first_words(statement: &str) -> String {
    let words: Vec<&str> = statement.split_whitespace().take(2).collect();
    words.join(" ")
}

fn check_query(query: &Query) -> Result<(), Refused> {
    if written_out(query, &|_| 1) > WRITTEN_OUT_MAX {
        return Err(Refused::TooLarge(format!(
            "more than {WRITTEN_OUT_MAX} SELECTs and tables when what WITH names is written out"
        )));
    }
    let mut readers = OnlyReads { tables: 0 };
    match query.visit(&mut readers) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refused) => Err(*refused),
    }
}

/// Breaks at the first part that does more than read.
struct OnlyReads {
    tables: usize,
}

fn stop(part: &str) -> ControlFlow<Box<Refused>> {
    ControlFlow::Break(Box::new(Refused::Part(part.to_owned())))
}

impl Visitor for OnlyReads {
    type Break = Box<Refused>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if !query.locks.is_empty() {
            return stop("FOR UPDATE or FOR SHARE");
        }
        if query.settings.is_some() || query.format_clause.is_some() {
            return stop("SETTINGS or FORMAT");
        }
        let mut bodies = vec![query.body.as_ref()];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_ref(), right.as_ref()]),
                SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) | SetExpr::Table(_) => {}
                SetExpr::Insert(_) => return stop("INSERT"),
                SetExpr::Update(_) => return stop("UPDATE"),
                SetExpr::Delete(_) => return stop("DELETE"),
                SetExpr::Merge(_) => return stop("MERGE"),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if select.into.is_some() {
            return stop("SELECT ... INTO");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        self.tables += 1;
        if self.tables > TABLES_MAX {
            let refused = Refused::TooLarge(format!("more than {TABLES_MAX} tables"));
            return ControlFlow::Break(Box::new(refused));
        }
        match factor {
            TableFactor::Table { args: None, .. }
            | TableFactor::Derived { .. }
            | TableFactor::NestedJoin { .. }
            | TableFactor::UNNEST { .. } => ControlFlow::Continue(()),
            TableFactor::Table { name, .. } => stop(&format!("the table function {name}")),
            other => stop(&format!("\"{}\" as a table", first_words(&other.to_string()))),
        }
    }

    fn pre_visit_statement(&mut self, statement: &SqlStatement) -> ControlFlow<Self::Break> {
        match statement {
            SqlStatement::Query(_) => ControlFlow::Continue(()),
            other => stop(&first_words(&other.to_string())),
        }
    }
}
