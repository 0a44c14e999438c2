//! What the views must answer, by loops over the bytes in the log. Shares no code with the platform.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime};
use serde_json::{Map, Value};

const MINUTE_US: i64 = 60_000_000;
const DAY_US: i64 = 24 * 60 * MINUTE_US;

/// A record as it lies in the log.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) timestamp_ms: i64,
    pub(crate) bytes: Vec<u8>,
}

/// A row of an answer, as text.
pub(crate) type Row = Vec<String>;
/// The rows of every view.
pub(crate) type Answers = BTreeMap<&'static str, Vec<Row>>;
/// The first offset that does not count, by topic and partition.
pub(crate) type Untils = BTreeMap<(&'static str, u32), u64>;

/// What the declaration of a stream says about judging its rows.
struct Rules {
    event_time: &'static str,
    is_date: bool,
    not_null: &'static [&'static str],
    unique: &'static str,
    lateness_us: i64,
    max_skew_us: i64,
    unique_within_ms: i64,
}

const REVIEWS: Rules = Rules {
    event_time: "review_date",
    is_date: true,
    not_null: &["review_id", "product_id"],
    unique: "review_id",
    lateness_us: 2 * DAY_US,
    max_skew_us: DAY_US,
    unique_within_ms: 7 * 86_400_000,
};

const SHOP: Rules = Rules {
    event_time: "event_time",
    is_date: false,
    not_null: &["event_id", "user_id", "session_id", "event_type"],
    unique: "event_id",
    lateness_us: 60 * MINUTE_US,
    max_skew_us: 5 * MINUTE_US,
    unique_within_ms: 86_400_000,
};

pub(crate) const REVIEW_TOPIC: &str = "reviews";
pub(crate) const SHOP_TOPIC: &str = "shop_events";

/// A record that is not malformed.
struct Event {
    partition: u32,
    offset: u64,
    record_time_ms: i64,
    /// Microseconds.
    time: i64,
    fields: Map<String, Value>,
    late: bool,
    duplicate: bool,
}

impl Event {
    fn text(&self, column: &str) -> Option<String> {
        text(self.fields.get(column))
    }

    fn required(&self, column: &str) -> String {
        self.text(column).unwrap()
    }

    fn int(&self, column: &str) -> Option<i64> {
        let value = scaled(self.fields.get(column), 0)?;
        i32::try_from(value).ok().map(i64::from)
    }

    /// Hundredths of DECIMAL(12, 2).
    fn cents(&self, column: &str) -> Option<i128> {
        scaled(self.fields.get(column), 2).filter(|cents| cents.abs() < 1_000_000_000_000)
    }

    fn day(&self) -> i64 {
        self.time.div_euclid(DAY_US)
    }

    /// Before whom it comes when ordered by time.
    fn order(&self) -> (i64, u32, u64) {
        (self.time, self.partition, self.offset)
    }

    fn paid(&self) -> Option<i128> {
        Some(self.cents("price")? * i128::from(self.int("quantity")?))
    }

    fn is(&self, event_type: &str) -> bool {
        self.required("event_type") == event_type
    }
}

/// Every row of both topics, judged.
pub(crate) struct Oracle {
    records: BTreeMap<&'static str, Vec<Record>>,
    reviews: Vec<Event>,
    shop: Vec<Event>,
}

/// How many rows were judged how.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Judgements {
    pub(crate) records: usize,
    pub(crate) malformed: usize,
    pub(crate) late: usize,
    pub(crate) duplicates: usize,
    /// Rows whose unique key was kept before, but longer ago than the horizon.
    pub(crate) again: usize,
}

impl Oracle {
    /// Judges `records`: each topic in log order.
    pub(crate) fn new(records: BTreeMap<&'static str, Vec<Record>>) -> Self {
        Self {
            reviews: judge(&REVIEWS, &records[REVIEW_TOPIC]),
            shop: judge(&SHOP, &records[SHOP_TOPIC]),
            records,
        }
    }

    pub(crate) fn judgements(&self) -> Judgements {
        let mut judgements = Judgements::default();
        for (rules, topic, events) in [(&REVIEWS, REVIEW_TOPIC, &self.reviews), (&SHOP, SHOP_TOPIC, &self.shop)] {
            judgements.records += self.records[topic].len();
            judgements.malformed += self.records[topic].len() - events.len();
            judgements.late += events.iter().filter(|event| event.late && !event.duplicate).count();
            judgements.duplicates += events.iter().filter(|event| event.duplicate).count();
            let key = |event: &Event| (event.partition, event.required(rules.unique));
            let kept = events.iter().filter(|event| !event.duplicate);
            let keys: Vec<_> = kept.map(key).collect();
            judgements.again += keys.len() - keys.iter().collect::<BTreeSet<_>>().len();
        }
        judgements
    }

    /// Everything in the log.
    pub(crate) fn ends(&self) -> Untils {
        self.cut(i64::MAX)
    }

    /// Where each partition that has records is cut at `tick`: the first offset whose record time reaches it.
    pub(crate) fn cut(&self, tick: i64) -> Untils {
        let mut untils = Untils::new();
        for (topic, records) in &self.records {
            let mut newest = BTreeMap::new();
            for record in records {
                let newest = newest.entry(record.partition).or_insert(i64::MIN);
                *newest = record.timestamp_ms.max(*newest);
                let until = untils.entry((*topic, record.partition)).or_insert(0);
                if *newest < tick {
                    *until = record.offset + 1;
                }
            }
        }
        untils
    }

    /// Partition and offset of the reviews before `untils` that come too late for windows.
    pub(crate) fn late_reviews(&self, untils: &Untils) -> Vec<Row> {
        let until = |event: &Event| untils.get(&(REVIEW_TOPIC, event.partition)).copied().unwrap_or(0);
        let late = self
            .reviews
            .iter()
            .filter(|event| event.late && !event.duplicate && event.offset < until(event));
        let mut rows: Vec<Row> = late
            .map(|event| vec![event.partition.to_string(), event.offset.to_string()])
            .collect();
        rows.sort();
        rows
    }

    /// The answers over what lies before `untils`.
    pub(crate) fn answers(&self, untils: &Untils) -> Answers {
        let below = |topic: &'static str, event: &&Event| {
            !event.duplicate && event.offset < untils.get(&(topic, event.partition)).copied().unwrap_or(0)
        };
        let reviews: Vec<&Event> = self.reviews.iter().filter(|event| below(REVIEW_TOPIC, event)).collect();
        let shop: Vec<&Event> = self.shop.iter().filter(|event| below(SHOP_TOPIC, event)).collect();
        let mut answers = Answers::from([
            ("product_days", product_days(&reviews)),
            ("products", products(&reviews)),
            ("product_seasons", product_seasons(&reviews)),
            ("user_profiles", user_profiles(&shop)),
            ("product_activity", product_activity(&shop)),
            ("new_users", new_users(&shop)),
            ("session_events", session_events(&shop)),
        ]);
        answers.values_mut().for_each(|rows| rows.sort());
        answers
    }
}

/// Judges as the design says (D4), each row by looking at all records before it in its partition.
fn judge(rules: &Rules, records: &[Record]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let earlier = records[..=index]
            .iter()
            .filter(|other| other.partition == record.partition);
        let record_time_ms = earlier.map(|other| other.timestamp_ms).max().unwrap();
        let Some((fields, time)) = parse(rules, &record.bytes) else {
            continue;
        };
        let mut largest = i64::MIN;
        let mut duplicate = false;
        let key = text(fields.get(rules.unique));
        for other in events.iter().filter(|other| other.partition == record.partition) {
            largest = largest.max(other.time.min(other.record_time_ms * 1000 + rules.max_skew_us));
            duplicate |= !other.duplicate
                && other.text(rules.unique) == key
                && record_time_ms - other.record_time_ms < rules.unique_within_ms;
        }
        events.push(Event {
            partition: record.partition,
            offset: record.offset,
            record_time_ms,
            time,
            fields,
            late: largest != i64::MIN && time < largest - rules.lateness_us,
            duplicate,
        });
    }
    events
}

/// The object and its event time; nothing if it is malformed.
fn parse(rules: &Rules, bytes: &[u8]) -> Option<(Map<String, Value>, i64)> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(bytes) else {
        return None;
    };
    if rules.not_null.iter().any(|column| text(fields.get(*column)).is_none()) {
        return None;
    }
    let Some(Value::String(written)) = fields.get(rules.event_time) else {
        return None;
    };
    let time = instant(written.trim())?;
    let range = instant("1971-01-01").unwrap()..instant("2200-01-01").unwrap();
    let fits = range.contains(&time) && (!rules.is_date || time.rem_euclid(DAY_US) == 0);
    fits.then_some((fields, time))
}

/// Microseconds of a date or a date and time, UTC where no offset is written.
fn instant(written: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(written) {
        return Some(time.timestamp_micros());
    }
    if let Ok(date) = NaiveDate::parse_from_str(written, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros());
    }
    let time = NaiveDateTime::parse_from_str(&written.replace('T', " "), "%Y-%m-%d %H:%M:%S%.f").ok()?;
    Some(time.and_utc().timestamp_micros())
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number without exponent, in its own or its text form, as a count of `10^-scale`, if that is exact.
fn scaled(value: Option<&Value>, scale: usize) -> Option<i128> {
    let written = match value? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let (whole, fraction) = written.split_once('.').unwrap_or((&written, ""));
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > scale || whole.is_empty() {
        return None;
    }
    format!("{whole}{fraction:0<scale$}").parse().ok()
}

/// NULL where there was nothing to add.
fn sum(values: impl Iterator<Item = Option<i128>>) -> Option<i128> {
    let values: Vec<i128> = values.flatten().collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn sum_of(events: &[&Event], column: &str) -> Option<i128> {
    sum(events.iter().map(|event| event.int(column).map(i128::from)))
}

fn average_of(events: &[&Event], column: &str) -> String {
    let values: Vec<i64> = events.iter().filter_map(|event| event.int(column)).collect();
    if values.is_empty() {
        return shown(None::<i64>);
    }
    format!("{:?}", values.iter().sum::<i64>() as f64 / values.len() as f64)
}

pub(crate) fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}

/// Texts are quoted, so that NULL is not "NULL".
pub(crate) fn quoted(value: Option<impl AsRef<str>>) -> String {
    shown(value.map(|text| format!("{:?}", text.as_ref())))
}

pub(crate) fn date(days: i64) -> String {
    DateTime::from_timestamp(days * 86_400, 0)
        .unwrap()
        .date_naive()
        .to_string()
}

pub(crate) fn time(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .unwrap()
        .format("%Y-%m-%dT%H:%M:%S%.6f")
        .to_string()
}

pub(crate) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn cents(value: Option<i128>) -> String {
    shown(value.map(|value| format!("{value}e-2")))
}

fn grouped<'e, K: Ord>(events: &[&'e Event], key: impl Fn(&Event) -> Option<K>) -> BTreeMap<K, Vec<&'e Event>> {
    let mut groups: BTreeMap<K, Vec<&Event>> = BTreeMap::new();
    for event in events {
        if let Some(key) = key(event) {
            groups.entry(key).or_default().push(event);
        }
    }
    groups
}

fn in_time<'e>(events: &[&'e Event]) -> Vec<&'e Event> {
    events.iter().filter(|event| !event.late).copied().collect()
}

fn product_days(reviews: &[&Event]) -> Vec<Row> {
    let groups = grouped(&in_time(reviews), |event| {
        Some((event.required("product_id"), event.day()))
    });
    let row = |((product, day), events): ((String, i64), Vec<&Event>)| {
        vec![
            quoted(Some(product)),
            date(day),
            average_of(&events, "star_rating"),
            shown(sum_of(&events, "helpful_votes")),
            shown(sum_of(&events, "total_votes")),
            events.len().to_string(),
        ]
    };
    groups.into_iter().map(row).collect()
}

fn products(reviews: &[&Event]) -> Vec<Row> {
    let groups = grouped(reviews, |event| Some(event.required("product_id")));
    let row = |(product, events): (String, Vec<&Event>)| {
        vec![
            quoted(Some(product)),
            average_of(&events, "star_rating"),
            shown(sum_of(&events, "helpful_votes")),
            shown(sum_of(&events, "total_votes")),
            events.len().to_string(),
            date(events.iter().map(|event| event.day()).min().unwrap()),
            date(events.iter().map(|event| event.day()).max().unwrap()),
        ]
    };
    groups.into_iter().map(row).collect()
}

fn product_seasons(reviews: &[&Event]) -> Vec<Row> {
    let month = |event: &Event| DateTime::from_timestamp_micros(event.time).unwrap().month();
    let groups = grouped(&in_time(reviews), |event| {
        Some((event.required("product_id"), month(event)))
    });
    let row = |((product, month), events): ((String, u32), Vec<&Event>)| {
        vec![
            quoted(Some(product)),
            month.to_string(),
            events.len().to_string(),
            shown(sum_of(&events, "helpful_votes")),
            shown(sum_of(&events, "total_votes")),
        ]
    };
    groups.into_iter().map(row).collect()
}

fn user_profiles(shop: &[&Event]) -> Vec<Row> {
    let row = |(user, events): (String, Vec<&Event>)| {
        let count = |kind: &str| events.iter().filter(|event| event.is(kind)).count().to_string();
        let last = |column: &str| {
            let having = events.iter().filter(|event| event.text(column).is_some());
            quoted(
                having
                    .max_by_key(|event| event.order())
                    .map(|event| event.required(column)),
            )
        };
        let purchases = events.iter().filter(|event| event.is("purchase"));
        vec![
            quoted(Some(user)),
            time(events.iter().map(|event| event.time).min().unwrap()),
            time(events.iter().map(|event| event.time).max().unwrap()),
            count("purchase"),
            cents(sum(purchases.map(|event| event.paid()))),
            count("cart"),
            last("category"),
            last("referrer"),
            last("user_agent"),
        ]
    };
    let groups = grouped(shop, |event| Some(event.required("user_id")));
    groups.into_iter().map(row).collect()
}

fn product_activity(shop: &[&Event]) -> Vec<Row> {
    let groups = grouped(&in_time(shop), |event| Some((event.text("product_id")?, event.day())));
    let row = |((product, day), events): ((String, i64), Vec<&Event>)| {
        let count = |kind: &str| events.iter().filter(|event| event.is(kind)).count().to_string();
        let visitors: BTreeSet<String> = events.iter().map(|event| event.required("user_id")).collect();
        let purchases = events.iter().filter(|event| event.is("purchase"));
        vec![
            quoted(Some(product)),
            time(day * DAY_US),
            count("view"),
            count("cart"),
            count("purchase"),
            visitors.len().to_string(),
            cents(sum(purchases.map(|event| event.paid()))),
        ]
    };
    groups.into_iter().map(row).collect()
}

fn new_users(shop: &[&Event]) -> Vec<Row> {
    let mut days: BTreeMap<i64, usize> = BTreeMap::new();
    for events in grouped(shop, |event| Some(event.required("user_id"))).values() {
        let first = events.iter().map(|event| event.day()).min().unwrap();
        *days.entry(first).or_default() += 1;
    }
    days.into_iter()
        .map(|(day, users)| vec![time(day * DAY_US), users.to_string()])
        .collect()
}

fn session_events(shop: &[&Event]) -> Vec<Row> {
    let row = |((user, session), mut events): ((String, String), Vec<&Event>)| {
        events.sort_by_key(|event| event.order());
        vec![
            quoted(Some(user)),
            quoted(Some(session)),
            time(events[0].time),
            time(events[events.len() - 1].time),
            events.len().to_string(),
            list(events.iter().map(|event| quoted(event.text("event_type")))),
            list(events.iter().map(|event| quoted(event.text("product_id")))),
            list(events.iter().map(|event| time(event.time))),
        ]
    };
    let key = |event: &Event| Some((event.required("user_id"), event.required("session_id")));
    grouped(shop, key).into_iter().map(row).collect()
}
