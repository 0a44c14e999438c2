//! Text to statements: `CREATE STREAM`, which no SQL dialect has, and `CREATE VIEW`, with the position of everything
//! that can be refused.

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano_config;
use arrow::compute::kernels::cast_utils::{IntervalParseConfig, IntervalUnit};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{
    self, ArrayElemTypeDef, ColumnOption, ExactNumberInfo, Expr, SqlOption, Statement, StructField, TimezoneInfo, Value,
};
use datafusion::sql::sqlparser::dialect::{GenericDialect, PostgreSqlDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::bounds::check_tokens;
use crate::catalog::{Column, EventTimeFormat, SourceFile, Stream, UniqueKey};
use crate::refusal::Refusal;

/// Deeper nesting than this is refused before it can exhaust the stack.
const RECURSION_LIMIT: usize = 100;

/// Options that `CREATE STREAM ... WITH (...)` takes.
const STREAM_OPTIONS: &[&str] = &[
    "topic",
    "format",
    "partitions",
    "key",
    "event_time",
    "event_time_format",
    "timezone",
    "lateness",
    "max_skew",
    "unique_key",
    "unique_within",
    "archive_raw",
];

/// A statement of a pipelines file.
pub(crate) enum Declaration {
    Stream { stream: Box<Stream>, at: Location },
    View { view: Box<ast::CreateView>, at: Location },
}

/// Where refusals of one file come from.
pub(crate) struct Place<'a> {
    pub(crate) file: &'a str,
}

impl Place<'_> {
    pub(crate) fn refuse(&self, at: Location, reason: impl Into<String>, instead: impl Into<String>) -> Refusal {
        Refusal {
            file: self.file.to_owned(),
            line: at.line.max(1),
            column: at.column.max(1),
            reason: reason.into(),
            instead: instead.into(),
        }
    }
}

/// Parses every statement of `file`. After a refusal it goes on behind the next semicolon.
pub(crate) fn parse_file(file: &SourceFile, refusals: &mut Vec<Refusal>) -> Vec<Declaration> {
    let place = Place { file: &file.name };
    let dialect = PostgreSqlDialect {};
    let tokens = match Tokenizer::new(&dialect, &file.text).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(error) => {
            refusals.push(place.refuse(error.location, error.message, "close what was opened, or quote it"));
            return Vec::new();
        }
    };
    let mut declarations = Vec::new();
    for statement in tokens.split(|token| token.token == Token::SemiColon) {
        let Some(first) = statement
            .iter()
            .find(|token| !matches!(token.token, Token::Whitespace(_)))
        else {
            continue;
        };
        let at = first.span.start;
        let bounded = check_tokens(statement).map_err(|large| place.refuse(large.at, large.reason, large.instead));
        match bounded.and_then(|()| parse_statement(&place, statement, at)) {
            Ok(declaration) => declarations.push(declaration),
            Err(refusal) => refusals.push(refusal),
        }
    }
    declarations
}

fn parse_statement(place: &Place<'_>, tokens: &[TokenWithSpan], at: Location) -> Result<Declaration, Refusal> {
    let dialect = PostgreSqlDialect {};
    // PostgreSQL has no STRUCT.
    let mut parser = Parser::new(&GenericDialect {})
        .with_recursion_limit(RECURSION_LIMIT)
        .with_tokens_with_locations(tokens.to_vec());
    let failed = |error: ParserError, at: Location| syntax_refusal(place, error, at);
    if parser.parse_keyword(Keyword::CREATE) && next_word_is(&parser, "STREAM") {
        parser.next_token();
        let stream = parse_stream(place, &mut parser)?;
        return Ok(Declaration::Stream {
            stream: Box::new(stream),
            at,
        });
    }
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(RECURSION_LIMIT)
        .with_tokens_with_locations(tokens.to_vec());
    let statement = parser.parse_statement().map_err(|error| failed(error, at))?;
    expect_end(place, &parser)?;
    match statement {
        Statement::CreateView(view) => Ok(Declaration::View {
            view: Box::new(view),
            at,
        }),
        other => Err(place.refuse(
            at,
            format!("{} does not belong in a pipeline", first_words(&other.to_string())),
            "a pipeline file holds CREATE STREAM and CREATE VIEW only",
        )),
    }
}

fn next_word_is(parser: &Parser<'_>, word: &str) -> bool {
    matches!(parser.peek_token().token, Token::Word(found) if found.value.eq_ignore_ascii_case(word))
}

fn first_words(sql: &str) -> String {
    sql.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn expect_end(place: &Place<'_>, parser: &Parser<'_>) -> Result<(), Refusal> {
    let token = parser.peek_token();
    match token.token {
        Token::EOF => Ok(()),
        other => Err(place.refuse(
            token.span.start,
            format!("unexpected {other} after the end of the statement"),
            "end each statement with a semicolon",
        )),
    }
}

/// sqlparser puts the position into the text: `... at Line: 3, Column: 7`.
fn syntax_refusal(place: &Place<'_>, error: ParserError, fallback: Location) -> Refusal {
    let text = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return place.refuse(
                fallback,
                format!("the statement nests deeper than {RECURSION_LIMIT} levels"),
                "split it into several views",
            );
        }
    };
    let (reason, position) = match text.rsplit_once(" at Line: ") {
        Some((reason, position)) => (reason.to_owned(), position.split_once(", Column: ")),
        None => (text.clone(), None),
    };
    let at = position
        .and_then(|(line, column)| {
            Some(Location {
                line: line.parse().ok()?,
                column: column.parse().ok()?,
            })
        })
        .filter(|at| at.line > 0)
        .unwrap_or(fallback);
    let reason = reason.trim_start_matches("sql parser error: ").to_owned();
    place.refuse(at, lowercase_first(&reason), "correct the syntax here")
}

fn lowercase_first(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().collect::<String>() + characters.as_str(),
        None => String::new(),
    }
}

/// The name of an identifier: folded to lower case unless quoted, as in PostgreSQL.
pub(crate) fn identifier(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

fn parse_stream(place: &Place<'_>, parser: &mut Parser<'_>) -> Result<Stream, Refusal> {
    let here = parser.peek_token().span.start;
    let name = parser
        .parse_identifier()
        .map_err(|error| syntax_refusal(place, error, here))?;
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if name.value.is_empty() || !plain(&name.value) {
        return Err(place.refuse(
            here,
            format!("stream name {name} is not plain"),
            "use letters, digits and _; name the topic with topic = '...'",
        ));
    }
    let columns_at = parser.peek_token().span.start;
    let (definitions, constraints) = parser
        .parse_columns()
        .map_err(|error| syntax_refusal(place, error, columns_at))?;
    if !constraints.is_empty() {
        return Err(place.refuse(
            columns_at,
            "table constraints are not taken in CREATE STREAM",
            "write NOT NULL behind a column, or unique_key in WITH (...)",
        ));
    }
    let mut columns = Vec::new();
    for definition in &definitions {
        columns.push(column(place, definition, &columns)?);
    }
    if columns.is_empty() {
        return Err(place.refuse(
            here,
            format!("stream \"{}\" has no columns", name.value),
            "declare at least one column in parentheses",
        ));
    }
    let options_at = parser.peek_token().span.start;
    let options = parser
        .parse_options(Keyword::WITH)
        .map_err(|error| syntax_refusal(place, error, options_at))?;
    expect_end(place, parser)?;
    let mut stream = Stream {
        topic: identifier(&name),
        name: identifier(&name),
        columns,
        partitions: 1,
        key: None,
        event_time: None,
        event_time_format: EventTimeFormat::Iso8601,
        timezone: None,
        lateness_ms: None,
        max_skew_ms: 3_600_000,
        unique: None,
        archive_raw: true,
    };
    StreamOptions {
        place,
        stream: &mut stream,
        unique_key: None,
        unique_within: None,
    }
    .apply(&options, here)?;
    Ok(stream)
}

fn column(place: &Place<'_>, definition: &ast::ColumnDef, before: &[Column]) -> Result<Column, Refusal> {
    let at = definition.name.span.start;
    let name = identifier(&definition.name);
    if name.starts_with('_') {
        return Err(place.refuse(
            at,
            format!("column \"{name}\" begins with an underscore, which system columns do"),
            "name it without the underscore",
        ));
    }
    if before.iter().any(|column| column.name == name) {
        return Err(place.refuse(
            at,
            format!("column \"{name}\" is declared twice"),
            "name each column once",
        ));
    }
    let data_type =
        data_type(&definition.data_type).ok_or_else(|| {
            place.refuse(
            at,
            format!("column \"{name}\" has type {}, which streams do not have", definition.data_type),
            "write one of BOOLEAN, INT, BIGINT, DOUBLE, DECIMAL(p,s), TEXT, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, BYTEA, \
             or an array or STRUCT of these",
        )
        })?;
    let mut nullable = true;
    for option in &definition.options {
        match option.option {
            ColumnOption::NotNull => nullable = false,
            ColumnOption::Null => {}
            _ => {
                return Err(place.refuse(
                    at,
                    format!("column \"{name}\" has {}, which streams do not have", option.option),
                    "only NOT NULL is taken behind a column",
                ));
            }
        }
    }
    Ok(Column {
        name,
        data_type,
        nullable,
    })
}

/// The Arrow type of a declared SQL type; `None` for those that streams do not have.
fn data_type(sql: &ast::DataType) -> Option<DataType> {
    use ast::DataType as Sql;
    Some(match sql {
        Sql::Boolean | Sql::Bool => DataType::Boolean,
        Sql::Int(_) | Sql::Integer(_) | Sql::Int4(_) => DataType::Int32,
        Sql::BigInt(_) | Sql::Int8(_) => DataType::Int64,
        Sql::Double(_) | Sql::DoublePrecision | Sql::Float8 | Sql::Float64 => DataType::Float64,
        Sql::Decimal(info) | Sql::Numeric(info) => decimal(info)?,
        Sql::Text | Sql::String(_) | Sql::Varchar(_) | Sql::CharacterVarying(_) => DataType::Utf8,
        Sql::Date => DataType::Date32,
        Sql::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => DataType::Time64(TimeUnit::Microsecond),
        Sql::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            DataType::Timestamp(TimeUnit::Microsecond, None)
        }
        Sql::Timestamp(_, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        Sql::Bytea => DataType::Binary,
        Sql::Array(ArrayElemTypeDef::SquareBracket(item, _) | ArrayElemTypeDef::AngleBracket(item)) => {
            DataType::List(Field::new_list_field(data_type(item)?, true).into())
        }
        Sql::Struct(fields, _) => {
            let fields: Option<Vec<Field>> = fields.iter().map(struct_field).collect();
            DataType::Struct(Fields::from(fields?))
        }
        _ => return None,
    })
}

fn struct_field(field: &StructField) -> Option<Field> {
    Some(Field::new(
        identifier(field.field_name.as_ref()?),
        data_type(&field.field_type)?,
        true,
    ))
}

fn decimal(info: &ExactNumberInfo) -> Option<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::None => return None,
    };
    let fits = (1..=38).contains(&precision) && scale >= 0 && scale <= i64::try_from(precision).ok()?;
    fits.then_some(DataType::Decimal128(
        u8::try_from(precision).ok()?,
        i8::try_from(scale).ok()?,
    ))
}

/// Reads `WITH (...)` of a stream into it.
struct StreamOptions<'a> {
    place: &'a Place<'a>,
    stream: &'a mut Stream,
    unique_key: Option<Vec<String>>,
    unique_within: Option<i64>,
}

impl StreamOptions<'_> {
    fn apply(mut self, options: &[SqlOption], stream_at: Location) -> Result<(), Refusal> {
        let mut seen: Vec<String> = Vec::new();
        for option in options {
            let SqlOption::KeyValue { key, value } = option else {
                return Err(self.place.refuse(
                    stream_at,
                    format!("option {option} is not of the form name = value"),
                    format!("options are {}", STREAM_OPTIONS.join(", ")),
                ));
            };
            let (name, at) = (identifier(key), key.span.start);
            if seen.contains(&name) {
                return Err(self
                    .place
                    .refuse(at, format!("option {name} is given twice"), "give it once"));
            }
            self.set(&name, value, at)?;
            seen.push(name);
        }
        match (self.unique_key.take(), self.unique_within) {
            (Some(columns), Some(within_ms)) => self.stream.unique = Some(UniqueKey { columns, within_ms }),
            (None, None) => {}
            _ => {
                return Err(self.place.refuse(
                    stream_at,
                    "unique_key and unique_within belong together",
                    "give both: unique_within = '7 days' bounds how long a key is remembered",
                ));
            }
        }
        self.check_event_time(stream_at)
    }

    fn set(&mut self, name: &str, value: &Expr, at: Location) -> Result<(), Refusal> {
        match name {
            "topic" => self.stream.topic = self.text(name, value, at)?,
            "format" => match self.text(name, value, at)?.as_str() {
                "json" => {}
                other => {
                    return Err(self.place.refuse(
                        at,
                        format!("format '{other}' is not read"),
                        "write format = 'json'",
                    ));
                }
            },
            "partitions" => {
                let partitions = self.number(name, value, at)?;
                self.stream.partitions = u32::try_from(partitions)
                    .ok()
                    .filter(|n| (1..=1024).contains(n))
                    .ok_or_else(|| {
                        self.place.refuse(
                            at,
                            format!("partitions = {partitions}"),
                            "write a number from 1 to 1024",
                        )
                    })?;
            }
            "key" => self.stream.key = Some(self.column(name, value, at)?),
            "event_time" => self.stream.event_time = Some(self.column(name, value, at)?),
            "event_time_format" => {
                self.stream.event_time_format = match self.text(name, value, at)?.as_str() {
                    "iso8601" => EventTimeFormat::Iso8601,
                    "unix_s" => EventTimeFormat::UnixSeconds,
                    "unix_ms" => EventTimeFormat::UnixMillis,
                    "unix_us" => EventTimeFormat::UnixMicros,
                    pattern if pattern.contains('%') => EventTimeFormat::Pattern(pattern.to_owned()),
                    other => {
                        return Err(self.place.refuse(
                            at,
                            format!("event_time_format '{other}' is not known"),
                            "write 'iso8601', 'unix_s', 'unix_ms', 'unix_us' or a strftime pattern such as \
                             '%Y-%m-%d %H:%M:%S'",
                        ));
                    }
                }
            }
            "timezone" => {
                let zone = self.text(name, value, at)?;
                if zone.parse::<chrono_tz::Tz>().is_err() {
                    return Err(self.place.refuse(
                        at,
                        format!("timezone '{zone}' is not known"),
                        "write an IANA name such as 'Europe/Berlin'",
                    ));
                }
                self.stream.timezone = Some(zone);
            }
            "lateness" => self.stream.lateness_ms = Some(self.duration(name, value, at)?),
            "max_skew" => self.stream.max_skew_ms = self.duration(name, value, at)?,
            "unique_key" => {
                let names = self.text(name, value, at)?;
                let columns: Vec<String> = names.split(',').map(|column| column.trim().to_owned()).collect();
                for column in &columns {
                    self.declared(name, column, at)?;
                }
                self.unique_key = Some(columns);
            }
            "unique_within" => self.unique_within = Some(self.duration(name, value, at)?),
            "archive_raw" => match value.to_string().trim_matches('\'').to_lowercase().as_str() {
                "true" => self.stream.archive_raw = true,
                "false" => self.stream.archive_raw = false,
                other => {
                    return Err(self
                        .place
                        .refuse(at, format!("archive_raw = {other}"), "write true or false"));
                }
            },
            other => {
                return Err(self.place.refuse(
                    at,
                    format!("option {other} is not known"),
                    format!("options are {}", STREAM_OPTIONS.join(", ")),
                ));
            }
        }
        Ok(())
    }

    fn check_event_time(&self, at: Location) -> Result<(), Refusal> {
        let Some(name) = &self.stream.event_time else {
            return if self.stream.lateness_ms.is_some() {
                Err(self.place.refuse(
                    at,
                    "lateness without event_time",
                    "name the column: event_time = 'column'",
                ))
            } else {
                Ok(())
            };
        };
        let column = self
            .stream
            .columns
            .iter()
            .find(|column| column.name == *name)
            .expect("checked when it was set");
        match column.data_type {
            DataType::Date32 | DataType::Timestamp(..) => Ok(()),
            _ => Err(self.place.refuse(
                at,
                format!("event_time column \"{name}\" is not a time"),
                "declare it as DATE, TIMESTAMP or TIMESTAMPTZ; event_time_format says how it is written in the event",
            )),
        }
    }

    fn text(&self, name: &str, value: &Expr, at: Location) -> Result<String, Refusal> {
        option_text(value).ok_or_else(|| {
            self.place
                .refuse(at, format!("{name} = {value}"), format!("write {name} = '...'"))
        })
    }

    fn number(&self, name: &str, value: &Expr, at: Location) -> Result<i64, Refusal> {
        value.to_string().trim_matches('\'').parse().map_err(|_| {
            self.place
                .refuse(at, format!("{name} = {value}"), format!("write {name} = 8, a number"))
        })
    }

    fn column(&self, name: &str, value: &Expr, at: Location) -> Result<String, Refusal> {
        let column = self.text(name, value, at)?;
        self.declared(name, &column, at)?;
        Ok(column)
    }

    fn declared(&self, name: &str, column: &str, at: Location) -> Result<(), Refusal> {
        if self.stream.columns.iter().any(|declared| declared.name == column) {
            return Ok(());
        }
        let names: Vec<&str> = self.stream.columns.iter().map(|column| column.name.as_str()).collect();
        Err(self.place.refuse(
            at,
            format!(
                "{name} names column \"{column}\", which stream \"{}\" does not declare",
                self.stream.name
            ),
            format!("its columns are {}", names.join(", ")),
        ))
    }

    fn duration(&self, name: &str, value: &Expr, at: Location) -> Result<i64, Refusal> {
        option_text(value).and_then(|text| duration_ms(&text)).ok_or_else(|| {
            self.place.refuse(
                at,
                format!("{name} = {value} is not a length of time"),
                "write a number with ms, seconds, minutes, hours, days or weeks, such as '2 days'",
            )
        })
    }
}

/// The text of a quoted option value.
pub(crate) fn option_text(value: &Expr) -> Option<String> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Milliseconds of a fixed, non-negative length of time such as `2 days` or `1 hour 30 minutes`.
pub fn duration_ms(text: &str) -> Option<i64> {
    let interval = parse_interval_month_day_nano_config(text, IntervalParseConfig::new(IntervalUnit::Second)).ok()?;
    let days_ms = i64::from(interval.days) * 86_400_000;
    let total = days_ms.checked_add(interval.nanoseconds / 1_000_000)?;
    let bare_number = !text.chars().any(char::is_alphabetic);
    (interval.months == 0 && total >= 0 && !bare_number).then_some(total)
}
