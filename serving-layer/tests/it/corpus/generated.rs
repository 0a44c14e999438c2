//! Views made by chance: an aggregation over the stream, or its rows, and whatever may be stacked upon it.
//!
//! Every part is written twice, for the platform and as plain SQL: they differ where a hop, a session or the end of a
//! window stands.

use std::fmt::Write as _;

use super::choices::Choices;

pub(crate) const STREAM: &str = "CREATE STREAM events (
  id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount INT, big BIGINT, price DECIMAL(18, 2), ratio DOUBLE, day DATE,
  member BOOLEAN, local TIMESTAMP, at TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Text,
    Int,
    Decimal,
    Double,
    Bool,
    Date,
    /// With a zone.
    Instant,
    Local,
    /// Whatever can only be handed on.
    Other,
}

use Type::{Bool, Date, Decimal, Double, Instant, Int, Local, Other, Text};

type Columns = Vec<(String, Type)>;

const STREAM_COLUMNS: &[(&str, Type)] = &[
    ("user_id", Text),
    ("kind", Text),
    ("amount", Int),
    ("big", Int),
    ("price", Decimal),
    ("ratio", Double),
    ("day", Date),
    ("member", Bool),
    ("local", Local),
    ("at", Instant),
    ("id", Int),
];

/// SQL that gives rows.
#[derive(Debug, Clone)]
struct Rows {
    ours: String,
    plain: String,
    columns: Columns,
}

impl Rows {
    /// `template` with `{0}`, `{1}` and so on in place of `parts`, each a query, as tables.
    fn of(template: &str, parts: &[&Rows], columns: Columns) -> Self {
        let (mut ours, mut plain) = (template.to_owned(), template.to_owned());
        for (index, part) in parts.iter().enumerate() {
            ours = ours.replace(&format!("{{{index}}}"), &part.ours);
            plain = plain.replace(&format!("{{{index}}}"), &part.plain);
        }
        Self { ours, plain, columns }
    }
}

/// Streams, views, and plain SQL of those that need it, as a file of the corpus.
pub(crate) fn file(choices: &mut Choices) -> String {
    let mut generator = Generator {
        choices,
        names: 0,
        views: Vec::new(),
    };
    let mut rows = generator.bottom();
    for _ in 0..[0, 1, 1, 2, 3][generator.choices.pick(5)] {
        if generator.choices.rarely(4) {
            rows = generator.declared(rows);
        }
        rows = generator.above(rows);
    }
    generator.declared(rows);
    let mut text = STREAM.to_owned();
    for (name, view) in &generator.views {
        write!(
            text,
            "CREATE VIEW {name} AS {};\n-- plain {name}: {}\n",
            view.ours, view.plain
        )
        .unwrap();
    }
    text
}

struct Generator<'a> {
    choices: &'a mut Choices,
    names: usize,
    views: Vec<(String, Rows)>,
}

impl Generator<'_> {
    fn name(&mut self, start: &str) -> String {
        self.names += 1;
        format!("{start}{}", self.names)
    }

    /// `rows` as a view of its own: what reads it.
    fn declared(&mut self, rows: Rows) -> Rows {
        let name = self.name("v");
        let names: Vec<&str> = rows.columns.iter().map(|(name, _)| name.as_str()).collect();
        let read = format!("SELECT {} FROM {name}", names.join(", "));
        let columns = rows.columns.clone();
        self.views.push((name, rows));
        Rows::of(&read, &[], columns)
    }

    fn bottom(&mut self) -> Rows {
        match self.choices.pick(12) {
            0..=9 => self.aggregation(),
            10 => {
                let columns: Columns = owned(STREAM_COLUMNS);
                let mut selected = vec!["id".to_owned()];
                let mut named = vec![("id".to_owned(), Int)];
                for _ in 0..=self.choices.pick(4) {
                    let data_type = self.some_type();
                    let name = self.name("c");
                    selected.push(format!("{} AS {name}", self.scalar(&columns, data_type, 2)));
                    named.push((name, data_type));
                }
                let filter = self.filter("WHERE", &columns);
                Rows::of(
                    &format!("SELECT {} FROM events{filter}", selected.join(", ")),
                    &[],
                    named,
                )
            }
            _ => {
                let columns: Columns = owned(STREAM_COLUMNS);
                let (name, data_type) = (self.name("c"), self.some_type());
                let value = self.scalar(&columns, data_type, 2);
                let filter = self.filter("WHERE", &columns);
                let template = format!("SELECT DISTINCT {value} AS {name}, kind FROM events{filter}");
                Rows::of(&template, &[], vec![(name, data_type), ("kind".to_owned(), Text)])
            }
        }
    }

    fn some_type(&mut self) -> Type {
        [Text, Int, Decimal, Double, Bool, Date, Instant, Local][self.choices.pick(8)]
    }

    /// GROUP BY over the stream.
    fn aggregation(&mut self) -> Rows {
        let columns: Columns = owned(STREAM_COLUMNS);
        let mut keys: Vec<(String, String, Type)> = Vec::new();
        for _ in 0..[0, 1, 1, 2, 3][self.choices.pick(5)] {
            let data_type = [Text, Text, Text, Int, Bool, Date, Double, Decimal, Local][self.choices.pick(9)];
            let depth = [0, 0, 1, 2][self.choices.pick(4)];
            let (value, name) = (self.scalar(&columns, data_type, depth), self.name("k"));
            keys.push((value, name, data_type));
        }
        let filter = self.filter("WHERE", &columns);
        let window = self.choices.pick(7);
        if window > 4 {
            return self.regrouped(&columns, &keys, &filter, window == 5);
        }
        let mut ends = Rows::of("", &[], Vec::new());
        if window > 0 {
            let (window, data_type, end) = self.tumble();
            let name = self.name("w");
            if let (Some(end), true) = (end, self.choices.rarely(3)) {
                let column = self.name("e");
                ends.ours = format!(", window_end({window}) AS {column}");
                ends.plain = format!(", {window} + {end} AS {column}");
                ends.columns.push((column, data_type));
            }
            keys.push((window, name, data_type));
        }
        let mut named: Columns = keys
            .iter()
            .map(|(_, name, data_type)| (name.clone(), *data_type))
            .collect();
        let mut selected: Vec<String> = keys
            .iter()
            .map(|(value, name, _)| format!("{value} AS {name}"))
            .collect();
        let values: Vec<&str> = keys.iter().map(|(value, ..)| value.as_str()).collect();
        let mut grouped = self.grouping(&values);
        let sets = grouped.contains('(')
            && ["ROLLUP", "CUBE", "GROUPING SETS"]
                .iter()
                .any(|word| grouped.contains(word));
        if sets && self.choices.rarely(3) {
            let name = self.name("g");
            selected.push(format!("grouping({}) AS {name}", values[0]));
            named.push((name, Int));
        }
        if !ends.ours.is_empty() && sets {
            ends = Rows::of("", &[], Vec::new());
        }
        let mut aggregates = Vec::new();
        for _ in 0..=self.choices.pick(3) {
            let (mut aggregate, data_type) = self.aggregate(&columns);
            if sets {
                // Over no rows DataFusion's last_value of some types counts below zero, which builds with checks notice.
                aggregate = aggregate.replace("last_value(", "first_value(");
            }
            let name = self.name("a");
            aggregates.push(format!("{aggregate} AS {name}"));
            named.push((name, data_type));
        }
        named.append(&mut ends.columns);
        selected.extend(aggregates);
        grouped += &self.having(&columns);
        let template = format!("SELECT {}{{0}} FROM events{filter}{grouped}", selected.join(", "));
        Rows::of(&template, &[&ends], named)
    }

    fn grouping(&mut self, values: &[&str]) -> String {
        if values.is_empty() {
            return String::new();
        }
        let list = values.join(", ");
        match self.choices.pick(8) {
            0..=4 => format!(" GROUP BY {list}"),
            5 => format!(" GROUP BY ROLLUP ({list})"),
            6 => format!(" GROUP BY CUBE ({list})"),
            _ => {
                let first = self.choices.pick(values.len());
                let empty = if self.choices.pick(2) == 1 { ", ()" } else { "" };
                format!(" GROUP BY GROUPING SETS (({list}), ({}){empty})", values[first])
            }
        }
    }

    fn having(&mut self, columns: &Columns) -> String {
        if !self.choices.rarely(5) {
            return String::new();
        }
        let (aggregate, data_type) = self.aggregate(columns);
        match data_type {
            Int | Double | Decimal => format!(" HAVING {aggregate} > {}", self.choices.pick(4)),
            _ => format!(" HAVING {aggregate} IS NOT NULL"),
        }
    }

    /// A window, its type, and its length where its end is its start and that.
    fn tumble(&mut self) -> (String, Type, Option<String>) {
        let (time, data_type) =
            [("at", Instant), ("at", Instant), ("local", Local), ("day", Date)][self.choices.pick(4)];
        let sizes: &[&str] = match data_type {
            Date => &["1 day", "7 days", "1 month", "2 days", "1 year"],
            _ => &[
                "1 day",
                "1 hour",
                "15 minutes",
                "7 hours",
                "7 days",
                "1 month",
                "3 months",
                "1 year",
                "36 hours",
            ],
        };
        let size = self.choices.one(sizes);
        let length = Some(format!("INTERVAL '{size}'"));
        match self.choices.pick(6) {
            4 if data_type != Date => {
                let fixed = ["3 hours", "-90 minutes", "1 day 5 minutes"];
                let offset = if size.contains("month") || size.contains("year") {
                    "1 month"
                } else {
                    fixed[self.choices.pick(3)]
                };
                (
                    format!("tumble({time}, INTERVAL '{size}', INTERVAL '{offset}')"),
                    data_type,
                    length,
                )
            }
            5 if data_type == Instant => {
                let zones = [
                    "Europe/Berlin",
                    "America/New_York",
                    "Asia/Kolkata",
                    "Australia/Lord_Howe",
                    "Pacific/Apia",
                ];
                let zone = zones[self.choices.pick(zones.len())];
                (
                    format!("tumble(at, INTERVAL '{size}', timezone => '{zone}')"),
                    data_type,
                    None,
                )
            }
            _ => (format!("tumble({time}, INTERVAL '{size}')"), data_type, length),
        }
    }

    /// GROUP BY a hop or a session.
    fn regrouped(&mut self, columns: &Columns, keys: &[(String, String, Type)], filter: &str, hop: bool) -> Rows {
        let (time, data_type) = [("at", Instant), ("local", Local)][self.choices.pick(2)];
        let name = self.name("w");
        let selected: Vec<String> = keys
            .iter()
            .map(|(value, name, _)| format!("{value} AS {name}, "))
            .collect();
        let selected = selected.concat();
        let values: Vec<&str> = keys.iter().map(|(value, ..)| value.as_str()).collect();
        let list =
            |last: &str| -> String { values.iter().map(|value| format!("{value}, ")).collect::<String>() + last };
        let mut named: Columns = keys
            .iter()
            .map(|(_, name, data_type)| (name.clone(), *data_type))
            .collect();
        named.push((name.clone(), data_type));
        let with_end = self.choices.rarely(3).then(|| self.name("e"));
        let (window, start, end, from, group) = if hop {
            let hops: &[(&str, i64, i64)] = &[
                ("hours", 1, 3),
                ("hours", 6, 6),
                ("hours", 3, 4),
                ("hours", 5, 2),
                ("minutes", 20, 90),
                ("days", 1, 2),
                ("hours", 24, 168),
                ("months", 1, 3),
            ];
            let (unit, slide, size) = hops[self.choices.pick(hops.len())];
            let backs: Vec<String> = (0..(size + slide - 1) / slide)
                .map(|back| format!("(INTERVAL '{} {unit}')", back * slide))
                .collect();
            let window = format!("hop({time}, INTERVAL '{slide} {unit}', INTERVAL '{size} {unit}')");
            let from = format!(
                "(SELECT *, tumble({time}, INTERVAL '{slide} {unit}') - back AS hop_start FROM (SELECT * FROM \
                 events{filter}) CROSS JOIN (VALUES {}) AS hops(back)) WHERE {time} < hop_start + INTERVAL '{size} {unit}'",
                backs.join(", ")
            );
            let end = format!("hop_start + INTERVAL '{size} {unit}'");
            (window, "hop_start".to_owned(), end, from, list("hop_start"))
        } else {
            let gap = self.choices.one(&["3 hours", "20 minutes", "10 hours", "1 day"]);
            let window = format!("session({time}, INTERVAL '{gap}')");
            // By columns of their own: DataFusion does not plan every expression in PARTITION BY.
            let by: Vec<&str> = keys.iter().map(|(_, name, _)| name.as_str()).collect();
            let by = match by.is_empty() {
                true => String::new(),
                false => format!("PARTITION BY {} ", by.join(", ")),
            };
            let named_keys: String = keys
                .iter()
                .map(|(value, name, _)| format!(", {value} AS {name}"))
                .collect();
            let over = format!("OVER ({by}ORDER BY {time}, _partition, _offset");
            let from = format!(
                "(SELECT *, sum(begins) {over} ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN {time} < \
                 lag({time}) {over}) + INTERVAL '{gap}' THEN 0 ELSE 1 END AS begins FROM (SELECT *{named_keys}, {time} AS \
                 moment FROM events{filter})))"
            );
            // A name of its own: those of aggregates leave CASTs out, and min(CAST(at AS DATE)) may stand beside it.
            let end = format!("max(moment) + INTERVAL '{gap}'");
            (window, "min(moment)".to_owned(), end, from, list("number"))
        };
        let mut aggregates = String::new();
        for _ in 0..=self.choices.pick(2) {
            let (aggregate, data_type) = self.aggregate(columns);
            let name = self.name("a");
            write!(aggregates, ", {aggregate} AS {name}").unwrap();
            named.push((name, data_type));
        }
        let (mut our_end, mut plain_end) = (String::new(), String::new());
        if let Some(column) = with_end {
            our_end = format!(", window_end({window}) AS {column}");
            plain_end = format!(", {end} AS {column}");
            named.push((column, data_type));
        }
        let having = self.having(columns);
        Rows {
            ours: format!(
                "SELECT {selected}{window} AS {name}{aggregates}{our_end} FROM events{filter} GROUP BY {}{having}",
                list(&window)
            ),
            plain: format!(
                "SELECT {selected}{start} AS {name}{aggregates}{plain_end} FROM {from} GROUP BY {group}{having}"
            ),
            columns: named,
        }
    }

    /// An aggregate over `columns`, and its type.
    fn aggregate(&mut self, columns: &Columns) -> (String, Type) {
        let number = [Int, Int, Decimal, Double][self.choices.pick(4)];
        let depth = [0, 0, 0, 1, 2][self.choices.pick(5)];
        let any = self.some_type();
        let order = {
            let data_type = [Instant, Int, Text, Double, Local][self.choices.pick(5)];
            let key = self.scalar(columns, data_type, 0);
            let way = self.choices.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
            format!("ORDER BY {key}{way}")
        };
        let (mut sql, data_type) = match self.choices.pick(27) {
            0 => ("count(*)".to_owned(), Int),
            1 => (format!("count({})", self.scalar(columns, any, depth)), Int),
            2 => (format!("count(DISTINCT {})", self.scalar(columns, any, depth)), Int),
            3 | 4 => {
                let data_type = [Int, Int, Decimal, Double][self.choices.pick(4)];
                (format!("sum({})", self.scalar(columns, data_type, depth)), data_type)
            }
            5 => (format!("sum(DISTINCT {})", self.scalar(columns, number, depth)), number),
            6 => {
                let data_type = if number == Decimal { Decimal } else { Double };
                (format!("avg({})", self.scalar(columns, number, depth)), data_type)
            }
            7 | 8 => (format!("min({})", self.scalar(columns, any, depth)), any),
            9 => (format!("max({})", self.scalar(columns, any, depth)), any),
            10 => (format!("bool_and({})", self.scalar(columns, Bool, depth)), Bool),
            11 => (format!("bool_or({})", self.scalar(columns, Bool, depth)), Bool),
            12 => {
                let name = self.choices.one(&["bit_and", "bit_or", "bit_xor"]);
                (format!("{name}({})", self.scalar(columns, Int, depth)), Int)
            }
            13 => (
                format!("array_agg({} {order})", self.scalar(columns, any, depth)),
                Other,
            ),
            14 => (
                format!("array_agg(DISTINCT {})", self.scalar(columns, any, depth)),
                Other,
            ),
            15 => (format!("array_agg({})", self.scalar(columns, any, 0)), Other),
            16 => (
                format!("first_value({} {order})", self.scalar(columns, any, depth)),
                any,
            ),
            17 => (format!("last_value({} {order})", self.scalar(columns, any, depth)), any),
            18 => {
                let place = [1, 2, -1][self.choices.pick(3)];
                (
                    format!("nth_value({}, {place} {order})", self.scalar(columns, any, depth)),
                    any,
                )
            }
            19 => (
                format!("string_agg({}, ',' {order})", self.scalar(columns, Text, depth)),
                Text,
            ),
            20 => (
                format!("string_agg(DISTINCT {}, '-')", self.scalar(columns, Text, 0)),
                Text,
            ),
            21 => (format!("median({})", self.scalar(columns, number, depth)), number),
            22 => {
                let way = self.choices.one(&["", " DESC"]);
                let share = self.choices.one(&["0.5", "0.9", "0", "1"]);
                let value = self.scalar(columns, number, depth);
                (
                    format!("percentile_cont({share}) WITHIN GROUP (ORDER BY {value}{way})"),
                    Double,
                )
            }
            23 => {
                let name = self.choices.one(&["stddev", "var", "var_pop", "stddev_pop"]);
                (format!("{name}({})", self.scalar(columns, number, 0)), Double)
            }
            24 => {
                let name =
                    self.choices
                        .one(&["corr", "covar_pop", "covar_samp", "regr_slope", "regr_r2", "regr_count"]);
                let (y, x) = (self.scalar(columns, Double, 0), self.scalar(columns, Double, 1));
                (format!("{name}({y}, {x})"), Double)
            }
            25 => (format!("any_value({})", self.scalar(columns, any, 0)), any),
            _ => (format!("approx_distinct({})", self.scalar(columns, Text, 0)), Int),
        };
        if self.choices.rarely(4) {
            write!(sql, " FILTER (WHERE {})", self.predicate(columns, 1)).unwrap();
        }
        (sql, data_type)
    }

    fn filter(&mut self, word: &str, columns: &Columns) -> String {
        match self.choices.pick(3) {
            2 => format!(" {word} {}", self.predicate(columns, 2)),
            _ => String::new(),
        }
    }

    /// A value of `data_type` made of `columns`.
    fn scalar(&mut self, columns: &Columns, data_type: Type, depth: usize) -> String {
        let fitting: Vec<&str> = columns
            .iter()
            .filter(|(_, other)| *other == data_type)
            .map(|(name, _)| name.as_str())
            .collect();
        let form = if depth == 0 { 0 } else { self.choices.pick(8) };
        if form < 2 && !fitting.is_empty() {
            return self.choices.one(&fitting).to_owned();
        }
        if form < 2 || depth == 0 {
            return match data_type {
                Text => "'x'".to_owned(),
                Int => ["1", "7", "-3"][self.choices.pick(3)].to_owned(),
                Decimal => "CAST('12.50' AS DECIMAL(18, 2))".to_owned(),
                Double => "CAST(2.5 AS DOUBLE)".to_owned(),
                Bool => "true".to_owned(),
                Date => "DATE '2024-01-11'".to_owned(),
                Instant => "TIMESTAMP WITH TIME ZONE '2024-01-11T12:00:00Z'".to_owned(),
                Local | Other => "TIMESTAMP '2024-01-11T12:00:00'".to_owned(),
            };
        }
        if form == 2 {
            let (one, other) = (
                self.scalar(columns, data_type, depth - 1),
                self.scalar(columns, data_type, depth - 1),
            );
            return format!("coalesce({one}, {other})");
        }
        if form == 3 {
            let when = self.predicate(columns, depth - 1);
            let (one, other) = (
                self.scalar(columns, data_type, depth - 1),
                self.scalar(columns, data_type, depth - 1),
            );
            return format!("CASE WHEN {when} THEN {one} ELSE {other} END");
        }
        let of = |generator: &mut Self, data_type| generator.scalar(columns, data_type, depth - 1);
        match (data_type, form) {
            (Text, 4) => format!("upper({})", of(self, Text)),
            (Text, 5) => format!("substr({}, 1, 2)", of(self, Text)),
            (Text, 6) => format!("concat({}, '-', {})", of(self, Text), of(self, Text)),
            (Text, _) => format!("CAST({} AS TEXT)", of(self, Int)),
            (Int, 4) => format!("({} + {})", of(self, Int), of(self, Int)),
            (Int, 5) => format!("char_length({})", of(self, Text)),
            (Int, 6) => format!("({} % 7)", of(self, Int)),
            (Int, _) => format!("CAST(date_part('hour', {}) AS BIGINT)", of(self, Instant)),
            (Decimal, 4) => format!("-{}", of(self, Decimal)),
            (Decimal, 5) => format!("abs({})", of(self, Decimal)),
            (Decimal, 6) => format!("nullif({}, {})", of(self, Decimal), of(self, Decimal)),
            // No literal: by a key that is one for all rows but NULL in a grouping set, DataFusion does not order.
            (Decimal, _) => format!("CAST({} % 7 AS DECIMAL(18, 2))", of(self, Int)),
            (Double, 4) => format!("({} + {})", of(self, Double), of(self, Double)),
            (Double, 5) => format!("-{}", of(self, Double)),
            (Double, 6) => format!("({} / {})", of(self, Double), of(self, Double)),
            (Double, _) => format!("CAST({} AS DOUBLE)", of(self, Int)),
            (Bool, _) => format!("({})", self.predicate(columns, depth - 1)),
            (Date, _) => format!("CAST({} AS DATE)", of(self, Local)),
            (Instant, 4 | 5) => format!("date_trunc('hour', {})", of(self, Instant)),
            (Instant, _) => format!("{} + INTERVAL '1 day'", of(self, Instant)),
            (Local, 4 | 5) => format!("date_trunc('day', {})", of(self, Local)),
            (Local, _) => format!("CAST({} AS TIMESTAMP)", of(self, Date)),
            (Other, _) => of(self, Text),
        }
    }

    fn predicate(&mut self, columns: &Columns, depth: usize) -> String {
        let less = depth.saturating_sub(1);
        match self.choices.pick(if depth == 0 { 7 } else { 11 }) {
            0 => {
                let comparison = self.choices.one(&[">", "<=", "<>", "="]);
                format!(
                    "{} {comparison} {}",
                    self.scalar(columns, Int, less),
                    self.choices.pick(9)
                )
            }
            1 => format!("{} IN ('view', 'u1', 'buy', '')", self.scalar(columns, Text, less)),
            2 => {
                let data_type = self.some_type();
                let not = self.choices.one(&["NOT ", ""]);
                format!("{} IS {not}NULL", self.scalar(columns, data_type, less))
            }
            3 => format!("{} LIKE '%u%'", self.scalar(columns, Text, less)),
            4 => {
                let data_type = self.some_type();
                let (one, other) = (
                    self.scalar(columns, data_type, less),
                    self.scalar(columns, data_type, less),
                );
                format!("({one} IS DISTINCT FROM {other})")
            }
            5 => format!("{} BETWEEN 0 AND 10", self.scalar(columns, Double, less)),
            6 => self.scalar(columns, Bool, less),
            7 => format!(
                "({} AND {})",
                self.predicate(columns, less),
                self.predicate(columns, less)
            ),
            8 => format!(
                "({} OR {})",
                self.predicate(columns, less),
                self.predicate(columns, less)
            ),
            9 => format!("NOT ({})", self.predicate(columns, less)),
            _ => {
                let data_type = [Instant, Local, Date, Text, Double, Decimal][self.choices.pick(6)];
                let (one, other) = (
                    self.scalar(columns, data_type, less),
                    self.scalar(columns, data_type, less),
                );
                format!("({one} < {other})")
            }
        }
    }

    /// GROUP BY a hop or a session of a time of `rows`, if they have one.
    fn regrouped_above(&mut self, rows: &Rows, from: &str) -> Rows {
        let columns = &rows.columns;
        let times = columns
            .iter()
            .find(|(_, data_type)| matches!(data_type, Instant | Local));
        let Some((time, time_type)) = times else {
            return self.filtered(rows, from);
        };
        let mut keys = Columns::new();
        if self.choices.rarely(2) {
            keys.push(columns[self.choices.pick(columns.len())].clone());
        }
        let key: String = keys.iter().map(|(name, _)| format!("{name}, ")).collect();
        let name = self.name("w");
        let mut named = keys.clone();
        named.push((name.clone(), *time_type));
        let mut aggregates = String::new();
        for _ in 0..=self.choices.pick(2) {
            let (aggregate, data_type) = self.aggregate(columns);
            let name = self.name("a");
            write!(aggregates, ", {aggregate} AS {name}").unwrap();
            named.push((name, data_type));
        }
        let (window, plain) = if self.choices.pick(2) == 0 {
            let (slide, size) = [(1, 3), (6, 6), (3, 4), (5, 2)][self.choices.pick(4)];
            let backs: Vec<String> = (0..(size + slide - 1) / slide)
                .map(|back| format!("(INTERVAL '{} hours')", back * slide))
                .collect();
            (
                format!("hop({time}, INTERVAL '{slide} hours', INTERVAL '{size} hours')"),
                format!(
                    "SELECT {key}hop_start AS {name}{aggregates} FROM (SELECT *, tumble({time}, INTERVAL '{slide} hours') - \
                     back AS hop_start FROM (SELECT * {from}) CROSS JOIN (VALUES {}) AS hops(back)) WHERE {time} < \
                     hop_start + INTERVAL '{size} hours' OR {time} IS NULL AND back = INTERVAL '0 hours' GROUP BY \
                     {key}hop_start",
                    backs.join(", ")
                ),
            )
        } else {
            let gap = self.choices.one(&["3 hours", "20 minutes", "1 day"]);
            let by: String = keys
                .iter()
                .map(|(name, data_type)| match data_type {
                    // Partitions of a window function tell zeros apart.
                    Double => format!("{name} + CAST(0 AS DOUBLE), "),
                    _ => format!("{name}, "),
                })
                .collect();
            let over = format!("OVER (PARTITION BY {by}moment IS NULL ORDER BY moment");
            // RANGE: rows of one moment lie in one session, in whichever order each of the two windows meets them.
            (
                format!("session({time}, INTERVAL '{gap}')"),
                format!(
                    "SELECT {key}min(moment) AS {name}{aggregates} FROM (SELECT *, sum(begins) {over} RANGE UNBOUNDED \
                     PRECEDING) AS number FROM (SELECT *, CASE WHEN moment IS NULL OR moment < lag(moment) {over}) + \
                     INTERVAL '{gap}' THEN 0 ELSE 1 END AS begins FROM (SELECT *, {time} AS moment {from}))) GROUP BY \
                     {key}number, moment IS NULL"
                ),
            )
        };
        let ours = format!("SELECT {key}{window} AS {name}{aggregates} {from} GROUP BY {key}{window}");
        Rows {
            ours: ours.replace("{0}", &rows.ours),
            plain: plain.replace("{0}", &rows.plain),
            columns: named,
        }
    }

    /// One layer upon `rows`.
    fn above(&mut self, rows: Rows) -> Rows {
        let columns = rows.columns.clone();
        let table = self.name("t");
        let names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        let all = names.join(", ");
        let key = names[self.choices.pick(names.len())].clone();
        let from = match self.choices.pick(3) {
            0 => format!("FROM ({{0}}) AS {table}"),
            1 => format!("FROM (WITH c_{table} AS ({{0}}) SELECT {all} FROM c_{table}) AS {table}"),
            _ => format!("FROM (SELECT {all} FROM ({{0}}) AS s_{table}) AS {table}"),
        };
        match self.choices.pick(12) {
            0 => self.filtered(&rows, &from),
            11 => self.regrouped_above(&rows, &from),
            1 | 2 => {
                let mut keys = Vec::new();
                let mut named = Columns::new();
                for _ in 0..self.choices.pick(3) {
                    let (name, data_type) = columns[self.choices.pick(columns.len())].clone();
                    if !keys.contains(&name) {
                        keys.push(name.clone());
                        named.push((name, data_type));
                    }
                }
                let mut selected = keys.clone();
                for _ in 0..=self.choices.pick(2) {
                    let (aggregate, data_type) = self.aggregate(&columns);
                    let name = self.name("a");
                    selected.push(format!("{aggregate} AS {name}"));
                    named.push((name, data_type));
                }
                let filter = self.filter("WHERE", &columns);
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                let grouped = self.grouping(&keys) + &self.having(&columns);
                let template = format!("SELECT {} {from}{filter}{grouped}", selected.join(", "));
                Rows::of(&template, &[&rows], named)
            }
            3 | 4 => {
                let (function, data_type) = self.window_function(&columns);
                let (over, name) = (self.over(&names), self.name("x"));
                let mut named = columns.clone();
                named.push((name.clone(), data_type));
                Rows::of(
                    &format!("SELECT {all}, {function} OVER ({over}) AS {name} {from}"),
                    &[&rows],
                    named,
                )
            }
            5 => {
                let ranked = self.choices.one(&["row_number", "rank", "dense_rank"]);
                let (over, most) = (self.over(&names), self.choices.pick(3) + 1);
                let template = format!("SELECT {all} {from} QUALIFY {ranked}() OVER ({over}) <= {most}");
                Rows::of(&template, &[&rows], columns)
            }
            6 => {
                let way = self.choices.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
                let (limit, offset) = (self.choices.pick(6), self.choices.pick(3));
                let template = format!("SELECT {all} {from} ORDER BY {key}{way} LIMIT {limit} OFFSET {offset}");
                Rows::of(&template, &[&rows], columns)
            }
            7 => {
                let operator = self.choices.one(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT"]);
                let left = self.filtered(&rows, "FROM ({0}) AS l");
                let right = self.filtered(&rows, "FROM ({0}) AS r");
                let (left, right) = (self.aligned(left, &names, "l2"), self.aligned(right, &names, "r2"));
                Rows::of(&format!("{{0}} {operator} {{1}}"), &[&left, &right], columns)
            }
            8 => {
                let kinds = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
                let kind = kinds[self.choices.pick(4)];
                let other = match self.choices.pick(2) {
                    0 => rows.clone(),
                    _ => self.aggregation(),
                };
                let fitting: Vec<(&str, &str)> = columns
                    .iter()
                    .flat_map(|(one, data_type)| {
                        let same = other
                            .columns
                            .iter()
                            .filter(move |(_, other)| other == data_type && *other != Other);
                        same.map(move |(other, _)| (one.as_str(), other.as_str()))
                    })
                    .collect();
                let Some((one, two)) = fitting.get(self.choices.pick(fitting.len().max(1))).copied() else {
                    return rows;
                };
                let mut named = Columns::new();
                let mut selected = Vec::new();
                for (side, from) in [("l", &columns), ("r", &other.columns)] {
                    for (name, data_type) in from {
                        let column = self.name("j");
                        selected.push(format!("{side}.{name} AS {column}"));
                        named.push((column, *data_type));
                    }
                }
                let selected = selected.join(", ");
                let template = format!("SELECT {selected} FROM ({{0}}) AS l {kind} ({{1}}) AS r ON l.{one} = r.{two}");
                Rows::of(&template, &[&rows, &other], named)
            }
            9 => {
                let template = format!("SELECT DISTINCT {key} {from}");
                let found = columns.iter().find(|(name, _)| *name == key);
                Rows::of(&template, &[&rows], found.cloned().into_iter().collect())
            }
            _ => {
                let inner = self.filtered(&rows, "FROM ({0}) AS i");
                let not = self.choices.one(&["", "NOT "]);
                let template = match self.choices.pick(3) {
                    0 => format!("SELECT {all} {from} WHERE {key} {not}IN (SELECT {key} FROM ({{1}}) AS i2)"),
                    1 => format!("SELECT {all} {from} WHERE {key} <= (SELECT max({key}) FROM ({{1}}) AS i2)"),
                    _ => format!(
                        "SELECT {all} {from} WHERE {not}EXISTS (SELECT 1 FROM ({{1}}) AS i2 WHERE i2.{key} = {table}.{key})"
                    ),
                };
                Rows::of(&template, &[&rows, &inner], columns)
            }
        }
    }

    /// Some of the rows, with a value more at times.
    fn filtered(&mut self, rows: &Rows, from: &str) -> Rows {
        let mut named = rows.columns.clone();
        let mut selected: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
        if self.choices.rarely(3) {
            let data_type = self.some_type();
            let name = self.name("c");
            selected.push(format!("{} AS {name}", self.scalar(&rows.columns, data_type, 2)));
            named.push((name, data_type));
        }
        let filter = self.filter("WHERE", &rows.columns);
        Rows::of(
            &format!("SELECT {} {from}{filter}", selected.join(", ")),
            &[rows],
            named,
        )
    }

    fn aligned(&mut self, rows: Rows, names: &[String], table: &str) -> Rows {
        let template = format!("SELECT {} FROM ({{0}}) AS {table}", names.join(", "));
        let columns = rows
            .columns
            .iter()
            .filter(|(name, _)| names.contains(name))
            .cloned()
            .collect();
        Rows::of(&template, &[&rows], columns)
    }

    fn window_function(&mut self, columns: &Columns) -> (String, Type) {
        let data_type = self.some_type();
        let value = self.scalar(columns, data_type, 0);
        match self.choices.pick(9) {
            0 => ("row_number()".to_owned(), Int),
            1 => ("rank()".to_owned(), Int),
            2 => ("dense_rank()".to_owned(), Int),
            3 => (format!("lag({value})"), data_type),
            4 => (format!("lead({value}, 2)"), data_type),
            5 => ("count(*)".to_owned(), Int),
            6 => (format!("min({value})"), data_type),
            7 => (format!("sum({})", self.scalar(columns, Int, 0)), Int),
            _ => ("ntile(2)".to_owned(), Int),
        }
    }

    fn over(&mut self, names: &[String]) -> String {
        let mut name = || names[self.choices.pick(names.len())].clone();
        let (by, order) = (name(), name());
        let by = if self.choices.pick(2) == 1 {
            format!("PARTITION BY {by} ")
        } else {
            String::new()
        };
        format!(
            "{by}ORDER BY {order}{}",
            self.choices.one(&["", " DESC", " NULLS FIRST"])
        )
    }
}

fn owned(columns: &[(&str, Type)]) -> Columns {
    columns
        .iter()
        .map(|(name, data_type)| ((*name).to_owned(), *data_type))
        .collect()
}
