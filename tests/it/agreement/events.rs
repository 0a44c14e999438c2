//! Generated events: late, repeated, malformed, of equal times, with NULLs and misfits; the same product and the same
//! user in several partitions.

use bytes::Bytes;
use chrono::DateTime;
use foldline_event_log::NewRecord;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 2024-02-27T00:00:00Z, a Tuesday: a leap day and a change of month are near.
pub(crate) const START_MS: i64 = 1_708_992_000_000;

/// Before which steps time jumps by how much.
const HORIZONS: [(usize, i64); 4] = [(6, DAY_MS - 1), (12, DAY_MS), (18, 7 * DAY_MS - 1), (24, 7 * DAY_MS)];

/// What is appended at one time.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) at_ms: i64,
    pub(crate) reviews: Vec<NewRecord>,
    pub(crate) shop: Vec<NewRecord>,
}

/// Appends of one log.
pub(crate) struct Events {
    random: StdRng,
    now_ms: i64,
    /// Users and products are of this many.
    keys: usize,
    made: usize,
    sent: [Vec<(Option<Bytes>, String)>; 2],
}

impl Events {
    pub(crate) fn new(seed: u64, keys: usize) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            now_ms: START_MS,
            keys,
            made: 0,
            sent: Default::default(),
        }
    }

    /// `count` steps with up to `events` events of each topic.
    pub(crate) fn steps(mut self, count: usize, events: usize) -> Vec<Step> {
        (0..count).map(|_| self.step(events)).collect()
    }

    fn step(&mut self, events: usize) -> Step {
        // Mostly within a tick or to the next; sometimes to a full minute, over the lateness, or over a horizon.
        let usual = match self.below(40) {
            0..6 => 0,
            6..10 => 1,
            10..18 => 1000 - self.now_ms % 1000,
            18..34 => self.random.random_range(1..3000),
            34..36 => MINUTE_MS - self.now_ms % MINUTE_MS,
            36..38 => 20 * MINUTE_MS,
            _ => *self.pick(&[7 * HOUR_MS, DAY_MS, HOUR_MS, 6 * HOUR_MS]),
        };
        // And once each just short of a horizon and just over it.
        let horizon = HORIZONS.iter().find(|(step, _)| *step == self.made);
        self.now_ms += horizon.map_or(usual, |(_, jump)| *jump);
        self.made += 1;
        let mut records = |stream: usize| {
            let again = horizon.and_then(|_| self.again(stream));
            let count = self.below(events + 1);
            again
                .into_iter()
                .chain((0..count).map(|_| self.record(stream)))
                .collect()
        };
        let (reviews, shop) = (records(0), records(1));
        Step {
            at_ms: self.now_ms,
            reviews,
            shop,
        }
    }

    /// The last event that has a key, word for word: to the same partition.
    fn again(&self, stream: usize) -> Option<NewRecord> {
        let keyed = self.sent[stream].iter().rfind(|(key, _)| key.is_some())?;
        Some(NewRecord {
            key: keyed.0.clone(),
            value: Bytes::from(keyed.1.clone()),
            headers: Vec::new(),
        })
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn record(&mut self, stream: usize) -> NewRecord {
        let (key, text) = match self.below(100) {
            // Word for word what was sent before, mostly to the same partition.
            0..8 if !self.sent[stream].is_empty() => {
                let back = self.below(self.sent[stream].len().min(60)) + 1;
                let (key, text) = self.sent[stream][self.sent[stream].len() - back].clone();
                (if self.below(5) == 0 { self.key() } else { key }, text)
            }
            8..13 => (self.key(), self.broken()),
            _ => {
                let event = if stream == 0 { self.review() } else { self.shop_event() };
                (self.key(), self.written(event))
            }
        };
        self.sent[stream].push((key.clone(), text.clone()));
        NewRecord {
            key,
            value: Bytes::from(text),
            headers: Vec::new(),
        }
    }

    /// Few keys, so that some partitions stay empty.
    fn key(&mut self) -> Option<Bytes> {
        let key = *self.pick(&["a", "b", "c", "d", "e", ""]);
        (!key.is_empty()).then(|| Bytes::from(key))
    }

    fn broken(&mut self) -> String {
        (*self.pick(&[
            "",
            "null",
            "[]",
            "{",
            "{\"review_id\":\"x\",\"product_id\":\"p0\",\"review_date\":\"2024-02-28\"",
            "{\"review_id\":\"x\",\"product_id\":\"p0\",\"review_date\":\"2024-02-30\"}",
            "{\"review_id\":\"x\",\"product_id\":\"p0\",\"review_date\":\"2024-02-28T10:00:00Z\"}",
            "{\"review_id\":null,\"product_id\":\"p0\",\"review_date\":\"2024-02-28\"}",
            "{\"review_id\":\"x\",\"product_id\":\"p0\",\"review_date\":\"2200-01-01\"}",
            "{\"event_id\":\"x\",\"user_id\":\"u0\",\"session_id\":\"s\",\"event_type\":\"view\",\"event_time\":1709000000}",
            "{\"event_id\":\"x\",\"user_id\":\"u0\",\"session_id\":\"s\",\"event_type\":{},\"event_time\":\"2024-02-28\"}",
            "{\"event_id\":\"x\",\"user_id\":\"u0\",\"event_type\":\"view\",\"event_time\":\"2024-02-28\"}",
            "{\"event_id\":\"x\",\"user_id\":\"u0\",\"session_id\":\"s\",\"event_type\":\"view\",\"event_time\":\"1970-12-31T23:59:59Z\"}",
            "{\"event_id\":\"x\",\"user_id\":\"u0\",\"session_id\":\"s\",\"event_type\":\"view\",\"event_time\":\"2024-02-28\"} {}",
        ]))
        .to_owned()
    }

    /// An id that was perhaps used before, for another event.
    fn id(&mut self, stream: usize) -> String {
        let count = self.sent[stream].len();
        match self.below(12) {
            0 => format!("id{}", count.saturating_sub(self.below(80))),
            _ => format!("id{count}"),
        }
    }

    fn product(&mut self) -> String {
        format!("p{}", self.below(self.keys))
    }

    fn review(&mut self) -> Value {
        let days = match self.below(20) {
            0 => 400,
            1 => -3,
            2 => -1,
            3..7 => 2,
            7..10 => 3,
            10..14 => 1,
            _ => 0,
        };
        let date = DateTime::from_timestamp_millis(self.now_ms - days * DAY_MS).unwrap();
        let formats = ["%Y-%m-%d", "%Y-%m-%d", "%Y-%m-%dT00:00:00Z", " %Y-%m-%d "];
        let date = date.format(self.pick::<&str>(&formats));
        json!({
            "review_id": self.id(0),
            "product_id": self.product(),
            "customer_id": self.below(5),
            "star_rating": self.number(5),
            "helpful_votes": self.number(100),
            "total_votes": self.number(100),
            "review_body": "so \u{e9}\n\"good\"",
            "review_date": date.to_string(),
        })
    }

    fn shop_event(&mut self) -> Value {
        let time_ms = match self.below(20) {
            0 => self.now_ms - 2 * DAY_MS,
            1 => self.now_ms + 20 * MINUTE_MS,
            2 => self.now_ms + 5 * MINUTE_MS,
            3 => self.now_ms - HOUR_MS,
            4..8 => self.now_ms - self.random.random_range(0..3 * HOUR_MS),
            // Whole tens of minutes: many equal times, and times exactly as old as the lateness.
            8..15 => {
                let tens = self.below(8) as i64;
                self.now_ms / (10 * MINUTE_MS) * 10 * MINUTE_MS - tens * 10 * MINUTE_MS
            }
            _ => self.now_ms,
        };
        let time = DateTime::from_timestamp_millis(time_ms).unwrap();
        let time = match self.below(3) {
            0 => time.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
            1 => time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            _ => {
                let zone = chrono::FixedOffset::east_opt(7200).unwrap();
                time.with_timezone(&zone).to_rfc3339()
            }
        };
        let user = format!("u{}", self.below(self.keys));
        let price = match self.below(8) {
            0 => json!(null),
            1 => json!("9999999999.99"),
            2 => json!("1.005"),
            3 => json!(self.below(40)),
            4 => json!(0.1),
            _ => json!(format!("{}.{:02}", self.below(500), self.below(100))),
        };
        json!({
            "event_id": self.id(1),
            "user_id": user,
            "session_id": format!("s{}", self.below(3)),
            "event_type": *self.pick(&["view", "view", "view", "cart", "purchase", "purchase", "search", ""]),
            "product_id": if self.below(6) == 0 { json!(null) } else { json!(self.product()) },
            "category": self.pick(&[json!(null), json!("a"), json!("b"), json!(7), json!([1]), json!("")]).clone(),
            "price": price,
            "quantity": self.number(4),
            "referrer": self.pick(&[json!(null), json!(null), json!("mail"), json!("search"), json!(true)]).clone(),
            "user_agent": self.pick(&[json!(null), json!("firefox"), json!("NULL")]).clone(),
            "event_time": time,
        })
    }

    /// INT, NULL, or what does not fit INT.
    fn number(&mut self, bound: usize) -> Value {
        match self.below(16) {
            0 => json!(null),
            1 => json!("many"),
            2 => json!(1.5),
            3 => json!(i64::from(i32::MAX) + 1),
            4 => json!(i32::MAX),
            5 => json!(self.below(bound).to_string()),
            6 => json!(-(self.below(bound) as i64)),
            7 => json!("3.0"),
            _ => json!(self.below(bound) + 1),
        }
    }

    /// As JSON: sometimes without its NULLs, sometimes with a field twice, of which the last one counts.
    fn written(&mut self, mut event: Value) -> String {
        let choice = self.below(10);
        let fields = event.as_object_mut().unwrap();
        if choice < 4 {
            fields.retain(|_, value| !value.is_null());
        }
        let text = event.to_string();
        if choice == 9 {
            return text.replacen(
                '{',
                "{\"product_id\":\"not this\",\"quantity\":1000,\"unknown\":[{}],",
                1,
            );
        }
        text
    }
}
