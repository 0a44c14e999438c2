//! Events of a small shop, from a seed: what `foldline demo` feeds the platform.
//!
//! A few products and users get most of the traffic, as in life. One event in fifty comes days late, one in fifty is
//! sent twice, one in a hundred is malformed (broken JSON, or a required field missing). The same seed and the same
//! times give the same events.

use std::collections::VecDeque;

use chrono::{DateTime, Days, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const PRODUCTS: usize = 400;
const USERS: usize = 3_000;
/// Sessions that go on at the same time.
const SESSIONS_OPEN: usize = 120;
/// Events that can still be sent a second time.
const RECENT: usize = 200;
/// One event in so many is a review.
const REVIEW_EVERY: u64 = 8;

const CATEGORIES: [&str; 8] = [
    "books", "garden", "kitchen", "music", "outdoor", "software", "toys", "travel",
];
const REFERRERS: [&str; 5] = [
    "https://search.example/",
    "https://news.example/deals",
    "newsletter",
    "https://friends.example/",
    "",
];
const USER_AGENTS: [&str; 4] = [
    "Firefox/128.0",
    "Safari/17.5 (iPhone)",
    "Chrome/126.0 (Android)",
    "Chrome/126.0",
];
const HEADLINES: [&str; 6] = [
    "Great",
    "Does what it says",
    "Broke after a week",
    "\"Best\" ever?",
    "Fine",
    "Würde ich wieder kaufen",
];

/// A line for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Stream that it is sent to.
    pub(crate) stream: &'static str,
    /// One line of NDJSON, well formed or not.
    pub(crate) text: String,
}

/// Makes events.
#[derive(Debug)]
pub(crate) struct Generator {
    random: StdRng,
    products: Skewed,
    users: Skewed,
    sessions: Vec<Session>,
    recent: VecDeque<Line>,
    made: u64,
}

#[derive(Debug, Clone)]
struct Session {
    id: String,
    user: String,
    referrer: &'static str,
    user_agent: &'static str,
    cart: Vec<usize>,
}

impl Generator {
    /// From `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            products: Skewed::new(PRODUCTS),
            users: Skewed::new(USERS),
            sessions: Vec::new(),
            recent: VecDeque::new(),
            made: 0,
        }
    }

    /// The next event, as it happens at `now`.
    pub(crate) fn next(&mut self, now: DateTime<Utc>) -> Line {
        self.made += 1;
        if self.random.random_bool(0.02)
            && let Some(again) = self.pick_recent()
        {
            return again;
        }
        let mut line = if self.made.is_multiple_of(REVIEW_EVERY) {
            self.review(now)
        } else {
            self.shop_event(now)
        };
        if self.random.random_bool(0.01) {
            line.text = self.broken(&line.text);
            return line;
        }
        self.recent.push_back(line.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        line
    }

    fn pick_recent(&mut self) -> Option<Line> {
        let len = self.recent.len();
        (len > 0).then(|| self.recent[self.random.random_range(0..len)].clone())
    }

    /// Every third one is no JSON at all, the others lack a required field.
    fn broken(&mut self, text: &str) -> String {
        if self.random.random_bool(0.33) {
            return text[..text.len() / 2].lines().next().unwrap_or("{").to_owned();
        }
        let mut event: Value = serde_json::from_str(text).expect("generated events are JSON");
        let object = event.as_object_mut().expect("generated events are objects");
        object.remove("event_time");
        object.remove("review_date");
        event.to_string()
    }

    fn shop_event(&mut self, now: DateTime<Utc>) -> Line {
        let at = self.session();
        let product = self.products.pick(&mut self.random);
        let dice = self.random.random_range(0..100);
        let (event_type, product) = match self.sessions[at].cart.pop() {
            Some(in_cart) if dice < 25 => ("purchase", in_cart),
            taken_back => {
                self.sessions[at].cart.extend(taken_back);
                if dice >= 85 {
                    ("cart", product)
                } else {
                    ("view", product)
                }
            }
        };
        if event_type == "cart" {
            self.sessions[at].cart.push(product);
        }
        let late = self.random.random_bool(0.02);
        let happened = now - TimeDelta::milliseconds(self.random.random_range(0..2_000));
        let happened = if late {
            happened - Days::new(self.random.random_range(2..6))
        } else {
            happened
        };
        let session = &self.sessions[at];
        let event = json!({
            "event_id": format!("e{:09}", self.made),
            "user_id": session.user,
            "session_id": session.id,
            "event_type": event_type,
            "product_id": product_id(product),
            "category": CATEGORIES[product % CATEGORIES.len()],
            "price": price(product),
            "quantity": if event_type == "view" { Value::Null } else { json!(self.random.random_range(1..4)) },
            "referrer": session.referrer,
            "user_agent": session.user_agent,
            "event_time": happened.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        });
        Line {
            stream: "shop_events",
            text: event.to_string(),
        }
    }

    /// One of the open sessions; now and then a new one takes the place of an old one.
    fn session(&mut self) -> usize {
        if self.sessions.len() < SESSIONS_OPEN || self.random.random_bool(0.03) {
            let session = Session {
                id: format!("s{:08x}", self.random.random::<u32>()),
                user: format!("u{:05}", self.users.pick(&mut self.random)),
                referrer: REFERRERS[self.random.random_range(0..REFERRERS.len())],
                user_agent: USER_AGENTS[self.random.random_range(0..USER_AGENTS.len())],
                cart: Vec::new(),
            };
            if self.sessions.len() < SESSIONS_OPEN {
                self.sessions.push(session);
                return self.sessions.len() - 1;
            }
            let at = self.random.random_range(0..SESSIONS_OPEN);
            self.sessions[at] = session;
            return at;
        }
        self.random.random_range(0..self.sessions.len())
    }

    fn review(&mut self, now: DateTime<Utc>) -> Line {
        let product = self.products.pick(&mut self.random);
        let late = self.random.random_bool(0.02);
        let days_ago = if late {
            self.random.random_range(4..9)
        } else {
            self.random.random_range(0..2)
        };
        let total_votes = self.random.random_range(0..20);
        let stars = [1, 2, 3, 4, 4, 5, 5, 5, 5][self.random.random_range(0..9)];
        let event = json!({
            "review_id": format!("R{:09}", self.made),
            "product_id": product_id(product),
            "customer_id": format!("u{:05}", self.users.pick(&mut self.random)),
            "star_rating": stars,
            "helpful_votes": self.random.random_range(0..=total_votes),
            "total_votes": total_votes,
            "verified_purchase": if self.random.random_bool(0.8) { "Y" } else { "N" },
            "review_headline": HEADLINES[self.random.random_range(0..HEADLINES.len())],
            "review_body": "x".repeat(self.random.random_range(20..400)),
            "review_date": (now.date_naive() - Days::new(days_ago)).to_string(),
        });
        Line {
            stream: "reviews",
            text: event.to_string(),
        }
    }
}

/// Name of the product at `rank`; rank 0 is the one most looked at.
pub(crate) fn product_id(rank: usize) -> String {
    format!("B{rank:03}")
}

/// Whole cents, so that the decimal text is exact.
fn price(product: usize) -> Value {
    let cents = 199 + (product * 7_919) % 40_000;
    Value::String(format!("{}.{:02}", cents / 100, cents % 100))
}

/// Ranks with Zipf's law: rank `r` comes up in proportion to `1 / (r + 1)`.
#[derive(Debug)]
struct Skewed {
    cumulative: Vec<f64>,
}

impl Skewed {
    fn new(len: usize) -> Self {
        let mut sum = 0.0;
        let cumulative = (0..len)
            .map(|rank| {
                sum += 1.0 / (rank as f64 + 1.0);
                sum
            })
            .collect();
        Self { cumulative }
    }

    fn pick(&self, random: &mut StdRng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let at = random.random_range(0.0..total);
        self.cumulative
            .partition_point(|sum| *sum <= at)
            .min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn lines(seed: u64) -> Vec<Line> {
        let now = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
        let mut generator = Generator::new(seed);
        (0..20_000).map(|_| generator.next(now)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_events() {
        assert_eq!(lines(7), lines(7));
        assert_ne!(lines(7), lines(8));
    }

    #[test]
    fn events_are_skewed_repeated_late_and_sometimes_malformed() {
        let lines = lines(1);
        let mut products: HashMap<String, u32> = HashMap::new();
        let mut ids: HashMap<String, u32> = HashMap::new();
        let (mut malformed, mut late) = (0, 0);
        for line in &lines {
            let event: Value = serde_json::from_str(&line.text).unwrap_or_default();
            let time = event
                .get("event_time")
                .or(event.get("review_date"))
                .and_then(Value::as_str);
            let Some(time) = time else {
                malformed += 1;
                continue;
            };
            late += u32::from(time < "2023-11-13");
            let id = event.get("event_id").or(event.get("review_id")).unwrap().to_string();
            *ids.entry(id).or_default() += 1;
            *products.entry(event["product_id"].to_string()).or_default() += 1;
        }
        let most = products.values().max().copied().unwrap();
        assert!(most > 20 * products.values().min().copied().unwrap(), "skew");
        assert!((100..400).contains(&malformed), "{malformed} malformed");
        assert!((200..800).contains(&late), "{late} late");
        assert!(ids.values().filter(|count| **count > 1).count() > 200, "repeats");
    }
}
