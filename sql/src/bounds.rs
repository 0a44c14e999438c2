//! How large a statement may be, so that to parse it, plan it and drop it takes bounded time and stack. One measure for
//! views and for queries from outside.
//!
//! | bound | because |
//! | --- | --- |
//! | brackets in each other | the parser tries several readings of each: its time may double with every level |
//! | operators and brackets around one value | a chain of operators is a tree as deep as it is long, and dropping a tree recurses |
//! | joins, set operations and window functions | the same, of the tree of a plan |
//! | columns and arguments beside each other | each is looked for among all others |
//! | SELECTs and tables, written out | each table of a WITH, read twice by the next, doubles the plan |
//! | columns, written out | each column that is the one below twice doubles the filters that are pushed down |

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion, TreeNodeVisitor};
use datafusion::common::{Result as Planned, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Visit, Visitor};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use crate::parse::identifier;

/// Most brackets, and CASE to END, in each other.
const BRACKETS_MAX: usize = 16;
/// Most operators and brackets from the outermost to the innermost value. The planner writes the name of an expression at
/// each of its levels again and again: its time grows with the fourth power.
const DEPTH_MAX: usize = 120;
/// Most joins, set operations and window functions of a statement.
const JOINED_MAX: usize = 50;
/// Most columns, arguments or branches beside each other; what stands behind IN may be more. As many columns as a table
/// of PostgreSQL has.
const ITEMS_MAX: usize = 1600;
/// Most tokens of a statement.
const TOKENS_MAX: usize = 50_000;
/// Most SELECTs and tables of a query in which what WITH names, and the views that are read, stand written out.
pub const WRITTEN_OUT_MAX: usize = 500;

/// Most columns of an expression in which what it reads stands written out.
const EXPRESSION_MAX: usize = 100_000;

/// What planning may recurse through. An unoptimised build takes 36 KiB for each level of an expression.
const STACK_BYTES: usize = 128 << 20;

/// Runs `work` where there is stack enough for whatever the bounds let pass.
pub fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).expect("a thread can be started");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A statement that is larger than it may be.
#[derive(Debug)]
pub struct TooLarge {
    /// Where it becomes too large.
    pub at: Location,
    /// What is too large.
    pub reason: String,
    /// What to write instead.
    pub instead: &'static str,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Opened {
    #[default]
    Bracket,
    /// `<` of a type.
    Angle,
    Case,
}

/// What stands between two brackets.
#[derive(Default)]
struct Level {
    by: Opened,
    /// What it counts for among those that are open.
    depth: usize,
    /// Operators since the last comma or clause.
    operators: usize,
    /// Commas and branches since the last clause.
    items: usize,
    /// Behind IN.
    list: bool,
    /// Groups of `[...]` directly behind each other: each is the type or the element of the one before.
    groups: usize,
}

/// Refuses `tokens`, one statement, before anything is built of them.
pub fn check_tokens(tokens: &[TokenWithSpan]) -> Result<(), TooLarge> {
    let mut levels = vec![Level::default()];
    let (mut joined, mut explains) = (0, 0);
    let mut before = &Token::EOF;
    let written = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)));
    for (count, token) in written.enumerate() {
        let last = levels.last_mut().expect("the outermost level stays");
        let word = match &token.token {
            // Behind a period stands a name, whatever it is.
            Token::Word(word) if *before != Token::Period => word.keyword,
            _ => Keyword::NoKeyword,
        };
        match (&token.token, word) {
            (Token::LParen | Token::LBracket | Token::LBrace, _) | (_, Keyword::CASE) => {
                last.operators += 1;
                let follows = token.token == Token::LBracket && *before == Token::RBracket;
                last.groups = if follows { last.groups + 1 } else { 0 };
                levels.push(Level {
                    by: if word == Keyword::CASE {
                        Opened::Case
                    } else {
                        Opened::Bracket
                    },
                    depth: match before {
                        Token::Word(word) if RETRIED.contains(&word.keyword) => 2,
                        _ => 1,
                    },
                    list: matches!(before, Token::Word(word) if word.keyword == Keyword::IN),
                    ..Level::default()
                });
            }
            (Token::Lt, _) if opens_type(before) => levels.push(Level {
                by: Opened::Angle,
                depth: 1,
                ..Level::default()
            }),
            (Token::RParen | Token::RBracket | Token::RBrace, _) => {
                let opened = levels.iter().rposition(|level| level.by == Opened::Bracket);
                levels.truncate(opened.unwrap_or_default().max(1));
            }
            (_, Keyword::END) if last.by == Opened::Case => drop(levels.pop()),
            (Token::Gt, _) if last.by == Opened::Angle => drop(levels.pop()),
            (Token::ShiftRight, _) if last.by == Opened::Angle => {
                levels.pop();
                levels.pop_if(|outer| outer.by == Opened::Angle);
            }
            (Token::Comma, _) | (_, Keyword::WHEN) => {
                last.operators = 0;
                last.items += usize::from(!last.list);
            }
            (_, Keyword::THEN | Keyword::ELSE) => last.operators = 0,
            (_, word) if CLAUSES.contains(&word) && !goes_on(before) => (last.operators, last.items) = (0, 0),
            (_, word) if JOINING.contains(&word) => joined += 1,
            (_, Keyword::EXPLAIN) => explains += 1,
            (_, word) if CHAINING.contains(&word) => last.operators += 1,
            (Token::Word(_) | Token::Number(..) | Token::SingleQuotedString(_), _) => {}
            (Token::SemiColon | Token::EOF, _) => {}
            _ => last.operators += 1,
        }
        before = &token.token;
        let groups = levels.iter().map(|level| level.groups).max().unwrap_or_default();
        let depth: usize = levels.iter().map(|level| level.operators).sum();
        let items = levels.last().map_or(0, |level| level.items);
        let brackets: usize = levels.iter().map(|level| level.depth).sum();
        let (reason, instead) = if brackets > BRACKETS_MAX || groups >= BRACKETS_MAX {
            (
                format!(
                    "the statement nests deeper than {BRACKETS_MAX} levels, of which CAST, EXTRACT, NOT and the like take two"
                ),
                "name the inner parts by WITH, or split it into several views",
            )
        } else if depth > DEPTH_MAX {
            (
                format!("an expression of more than {DEPTH_MAX} operators and brackets"),
                "instead of many comparisons write column IN ('a', 'b', ...), or split it into several columns",
            )
        } else if joined > JOINED_MAX {
            (
                format!("more than {JOINED_MAX} joins, set operations and window functions"),
                "split it into several views",
            )
        } else if items >= ITEMS_MAX {
            (
                format!("more than {ITEMS_MAX} columns, arguments or branches beside each other"),
                "split it into several views, or write IN for a long list of values",
            )
        } else if count > TOKENS_MAX {
            (
                format!("the statement has more than {TOKENS_MAX} words and signs"),
                "split it into several views",
            )
        } else if explains > 1 {
            ("more than one EXPLAIN".to_owned(), "write it once")
        } else {
            continue;
        };
        return Err(TooLarge {
            at: token.span.start,
            reason,
            instead,
        });
    }
    Ok(())
}

fn opens_type(before: &Token) -> bool {
    matches!(before, Token::Word(word) if matches!(word.keyword, Keyword::ARRAY | Keyword::STRUCT | Keyword::MAP))
}

/// Whether an expression goes on behind what is a clause elsewhere: WITHIN GROUP, IS DISTINCT FROM.
fn goes_on(before: &Token) -> bool {
    matches!(before, Token::Word(word) if matches!(word.keyword, Keyword::WITHIN | Keyword::DISTINCT))
}

/// Words that the parser reads as a function's name once more where what stands in the brackets behind them is wrong: so
/// its time doubles with each of them, and doubles again.
const RETRIED: &[Keyword] = &[
    Keyword::CAST,
    Keyword::CEIL,
    Keyword::CONVERT,
    Keyword::EXISTS,
    Keyword::EXTRACT,
    Keyword::FLOOR,
    Keyword::INTERVAL,
    Keyword::MATCH,
    Keyword::NOT,
    Keyword::OVERLAY,
    Keyword::POSITION,
    Keyword::PRIOR,
    Keyword::SAFE_CAST,
    Keyword::STRUCT,
    Keyword::SUBSTR,
    Keyword::SUBSTRING,
    Keyword::TRIM,
    Keyword::TRY_CAST,
    Keyword::TRY_CONVERT,
];

/// Words behind which an expression begins anew.
const CLAUSES: &[Keyword] = &[
    Keyword::SELECT,
    Keyword::FROM,
    Keyword::ON,
    Keyword::WHERE,
    Keyword::GROUP,
    Keyword::HAVING,
    Keyword::QUALIFY,
    Keyword::ORDER,
    Keyword::LIMIT,
];

/// Words that make the tree of a plan deeper.
const JOINING: &[Keyword] = &[
    Keyword::JOIN,
    Keyword::UNION,
    Keyword::INTERSECT,
    Keyword::EXCEPT,
    Keyword::OVER,
];

/// Words that are operators.
const CHAINING: &[Keyword] = &[
    Keyword::AND,
    Keyword::OR,
    Keyword::NOT,
    Keyword::IS,
    Keyword::NOTNULL,
    Keyword::LIKE,
    Keyword::ILIKE,
    Keyword::BETWEEN,
    Keyword::COLLATE,
    Keyword::AT,
    Keyword::IN,
    Keyword::XOR,
    Keyword::OVERLAPS,
    Keyword::SIMILAR,
    Keyword::REGEXP,
    Keyword::RLIKE,
    Keyword::DIV,
];

/// How many SELECTs and tables `query` has when every table of a WITH stands written out where it is read, and the other
/// tables count as `size_of` says.
pub fn written_out(query: &Query, size_of: &dyn Fn(&str) -> usize) -> usize {
    let mut written = WrittenOut {
        size_of,
        named: HashMap::new(),
        queries: vec![Written::default()],
    };
    let _ = query.visit(&mut written);
    written.queries.first().map_or(0, |outside| outside.size)
}

/// A query of which a part is counted.
#[derive(Default)]
struct Written {
    size: usize,
    /// The tables of its WITH that are not counted yet, the next one last: they are visited first.
    with: Vec<String>,
}

struct WrittenOut<'a> {
    size_of: &'a dyn Fn(&str) -> usize,
    named: HashMap<String, usize>,
    queries: Vec<Written>,
}

impl Visitor for WrittenOut<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        let mut with: Vec<String> = with.map(|table| identifier(&table.alias.name)).collect();
        with.reverse();
        self.queries.push(Written { size: 1, with });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        let size = self.queries.pop().map_or(0, |written| written.size);
        if let Some(outer) = self.queries.last_mut() {
            match outer.with.pop() {
                // Of several of one name the largest, whichever is meant.
                Some(name) => {
                    let named = self.named.entry(name).or_default();
                    *named = size.max(*named);
                }
                None => outer.size = outer.size.saturating_add(size),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = relation.0.last().and_then(|part| part.as_ident()).map(identifier);
        let name = name.unwrap_or_default();
        let size = self.named.get(&name).copied().unwrap_or_else(|| (self.size_of)(&name));
        if let Some(query) = self.queries.last_mut() {
            query.size = query.size.saturating_add(size);
        }
        ControlFlow::Continue(())
    }
}

/// Refuses `plan` if an expression of it would be too large with the expressions below in the place of its columns, as the
/// planner writes it where it pushes filters down.
pub fn check_plan(plan: &LogicalPlan) -> Planned<()> {
    plan.visit(&mut Weights { below: Vec::new() }).map(|_| ())
}

/// How many columns each column of a plan stands for; of the inputs of the node that is visited next.
struct Weights {
    below: Vec<Vec<usize>>,
}

impl<'n> TreeNodeVisitor<'n> for Weights {
    type Node = LogicalPlan;

    fn f_up(&mut self, node: &'n LogicalPlan) -> Planned<TreeNodeRecursion> {
        let inputs = node.inputs();
        let weights = self.below.split_off(self.below.len().saturating_sub(inputs.len()));
        let weight = |expression: &Expr| -> Planned<usize> {
            let mut sum = 1_usize;
            expression.apply(|part| {
                if let Expr::Column(column) = part {
                    let found = inputs.iter().zip(&weights).find_map(|(input, weights)| {
                        let index = input.schema().maybe_index_of_column(column)?;
                        weights.get(index)
                    });
                    sum = sum.saturating_add(found.copied().unwrap_or(1));
                }
                match part {
                    Expr::ScalarSubquery(subquery) => check_plan(&subquery.subquery)?,
                    Expr::InSubquery(within) => check_plan(&within.subquery.subquery)?,
                    Expr::Exists(exists) => check_plan(&exists.subquery.subquery)?,
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            if sum > EXPRESSION_MAX {
                return plan_err!(
                    "an expression reads more than {EXPRESSION_MAX} columns when those of the queries below it are written \
                     out"
                );
            }
            Ok(sum)
        };
        let own = node.expressions().iter().map(weight).collect::<Planned<Vec<_>>>()?;
        let columns = node.schema().fields().len();
        let mut given = match node {
            LogicalPlan::Projection(_) => own,
            // Grouping sets are one expression of many columns.
            LogicalPlan::Aggregate(aggregate) if matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]) => {
                vec![own.first().copied().unwrap_or(1); columns]
            }
            LogicalPlan::Aggregate(aggregate) => own.into_iter().take(aggregate.group_expr.len()).collect(),
            LogicalPlan::Union(_) => {
                let largest = |column: usize| weights.iter().filter_map(|weights| weights.get(column)).max().copied();
                (0..columns).map(|column| largest(column).unwrap_or(1)).collect()
            }
            _ => weights.concat(),
        };
        given.resize(columns, 1);
        self.below.push(given);
        Ok(TreeNodeRecursion::Continue)
    }
}
