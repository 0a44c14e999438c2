//! Generators of events. The same settings give the same events.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::platform::PARTITIONS;

/// An event on its way into the log.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) stream: String,
    pub(crate) partition: u32,
    /// When the log took it.
    pub(crate) timestamp_ms: i64,
    pub(crate) json: String,
}

/// What is written behind `-- events:`: a generator and its settings.
pub(crate) fn generated(written: &str) -> Vec<Record> {
    let mut words = written.split_whitespace();
    let generator = words.next().unwrap();
    let settings = Settings(words.map(|word| word.split_once('=').unwrap()).collect());
    match generator {
        "shop" => shop(&settings),
        "nexmark" => nexmark(&settings),
        other => panic!("there is no generator {other}"),
    }
}

struct Settings<'a>(BTreeMap<&'a str, &'a str>);

impl Settings<'_> {
    fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.0.get(name).map_or(otherwise, |value| value.parse().unwrap())
    }

    /// Milliseconds since 1970.
    fn time(&self, name: &str, otherwise: &str) -> i64 {
        let written = format!("{}T00:00:00Z", self.0.get(name).unwrap_or(&otherwise));
        DateTime::parse_from_rfc3339(&written).unwrap().timestamp_millis()
    }
}

fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms)
        .unwrap()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// One object out of names and JSON values.
fn object(fields: &[(&str, String)]) -> String {
    let mut json = String::from("{");
    for (index, (name, value)) in fields.iter().enumerate() {
        write!(json, "{}\"{name}\":{value}", if index > 0 { "," } else { "" }).unwrap();
    }
    json + "}"
}

fn quoted(text: impl AsRef<str>) -> String {
    serde_json::to_string(text.as_ref()).unwrap()
}

/// Stream `events`, `records` of them within `days` from `from` on: few users, many NULLs, event times on a grid of
/// `grid` minutes, so that they are often equal in different partitions; some of them out of order, some late by hours,
/// some repeated. Doubles are multiples of a quarter, so that their sums are exact. Ids lie beyond 2^53.
fn shop(settings: &Settings<'_>) -> Vec<Record> {
    let records = settings.number("records", 45);
    let days = settings.number("days", 3) as i64;
    let grid = settings.number("grid", 10) as i64 * 60_000;
    let from = settings.time("from", "2024-01-10");
    let mut random = StdRng::seed_from_u64(settings.number("seed", 1));
    let mut ids: Vec<Vec<i64>> = vec![Vec::new(); PARTITIONS as usize];
    let mut made = Vec::new();
    for index in 0..records as i64 {
        let mut pick = |below: i64| random.random_range(0..below);
        let partition = pick(PARTITIONS.into()) as usize;
        let now = from + index * days * 86_400_000 / records as i64;
        let delay = if pick(9) == 0 { 120 + pick(600) } else { pick(50) };
        let at = (now - delay * 60_000).div_euclid(grid) * grid;
        let mut id = 9_007_199_254_740_993 + index * 2;
        if let (true, Some(earlier)) = (pick(11) == 0, ids[partition].last()) {
            id = *earlier;
        }
        ids[partition].push(id);
        let mut or_null = |value: String| if pick(8) == 0 { "null".to_owned() } else { value };
        let (user, kind, amount) = (or_null(String::new()), or_null(String::new()), or_null(String::new()));
        let (big, price, ratio) = (or_null(String::new()), or_null(String::new()), or_null(String::new()));
        let (day, member) = (or_null(String::new()), or_null(String::new()));
        let kept = |null: String, value: String| if null.is_empty() { value } else { null };
        let cents = pick(100_000);
        let fields = [
            ("id", id.to_string()),
            ("user_id", kept(user, quoted(format!("u{}", pick(5))))),
            (
                "kind",
                kept(kind, quoted(["view", "cart", "buy", "it's", ""][pick(5) as usize])),
            ),
            ("amount", kept(amount, (pick(41) - 20).to_string())),
            (
                "big",
                kept(big, (9_007_199_254_740_993 * (pick(5) - 2) + pick(3)).to_string()),
            ),
            (
                "price",
                kept(price, quoted(format!("{}.{:02}", cents * 100_003 / 100, cents % 100))),
            ),
            ("ratio", kept(ratio, format!("{}", (pick(80) - 20) as f64 / 4.0))),
            ("day", kept(day, quoted(&time(at)[..10]))),
            ("member", kept(member, (pick(2) == 0).to_string())),
            ("local", quoted(&time(at)[..19])),
            ("at", quoted(time(at))),
        ];
        made.push(Record {
            stream: "events".to_owned(),
            partition: partition as u32,
            timestamp_ms: now,
            json: object(&fields),
        });
    }
    made
}

/// The streams `person`, `auction` and `bid` of the Nexmark benchmark, one event a second, with more persons and auctions
/// than there, so that a short log has some of each.
fn nexmark(settings: &Settings<'_>) -> Vec<Record> {
    const FIRST_ID: i64 = 1000;
    let mut random = StdRng::seed_from_u64(settings.number("seed", 1));
    let from = settings.time("from", "2024-01-10");
    let (mut persons, mut auctions) = (0, 0);
    let mut made = Vec::new();
    for index in 0..settings.number("records", 120) as i64 {
        let mut pick = |below: i64| random.random_range(0..below);
        let now = from + index * 1000;
        // A few come out of order, some of them late.
        let at = now - if pick(6) == 0 { pick(9) * 1000 } else { pick(4) * 250 };
        let at_text = quoted(time(at));
        let of = |names: &[&str], index: i64| names[index as usize % names.len()].to_owned();
        let extra = quoted("abc".repeat(pick(5) as usize));
        let partition = pick(PARTITIONS.into()) as u32;
        let (stream, fields) = match index % 10 {
            0 => {
                persons += 1;
                let first = of(&["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate"], pick(7));
                let last = of(&["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton"], pick(6));
                let card = [pick(10_000), pick(10_000), pick(10_000), pick(10_000)].map(|part| format!("{part:04}"));
                let fields = vec![
                    ("id", (FIRST_ID + persons - 1).to_string()),
                    ("name", quoted(format!("{first} {last}"))),
                    ("email_address", quoted(format!("{first}@{last}.com").to_lowercase())),
                    ("credit_card", quoted(card.join(" "))),
                    (
                        "city",
                        quoted(of(&["Phoenix", "Palo Alto", "Boise", "Portland", "Bend"], pick(5))),
                    ),
                    ("state", quoted(of(&["AZ", "CA", "ID", "OR", "WY"], pick(5)))),
                    ("date_time", at_text),
                    ("extra", extra),
                ];
                ("person", fields)
            }
            3 | 6 => {
                auctions += 1;
                let price = 100 + pick(1000);
                let fields = vec![
                    ("id", (FIRST_ID + auctions - 1).to_string()),
                    ("item_name", quoted(of(&["lamp", "chair", "clock", "vase"], pick(4)))),
                    ("description", quoted(of(&["old", "new", "broken"], pick(3)))),
                    ("initial_bid", price.to_string()),
                    ("reserve", (price + pick(1000)).to_string()),
                    ("date_time", at_text),
                    ("expires", quoted(time(at + 1000 * (10 + pick(40))))),
                    ("seller", (FIRST_ID + pick(persons)).to_string()),
                    ("category", (10 + pick(5)).to_string()),
                    ("extra", extra),
                ];
                ("auction", fields)
            }
            _ => {
                let channel = of(
                    &["Google", "Facebook", "Baidu", "Apple", "channel-7", "channel-42"],
                    pick(6),
                );
                let number = pick(1000);
                let id = if pick(3) == 0 {
                    String::new()
                } else {
                    format!("&channel_id={number}")
                };
                let fields = vec![
                    ("auction", (FIRST_ID + pick(auctions.max(1))).to_string()),
                    ("bidder", (FIRST_ID + pick(persons)).to_string()),
                    ("price", (50 + pick(40) * 50).to_string()),
                    ("channel", quoted(&channel)),
                    (
                        "url",
                        quoted(format!(
                            "https://www.nexmark.com/a{}/b{}/item.htm?query=1{id}",
                            pick(9),
                            pick(9)
                        )),
                    ),
                    ("date_time", at_text),
                    ("extra", extra),
                ];
                ("bid", fields)
            }
        };
        made.push(Record {
            stream: stream.to_owned(),
            partition,
            timestamp_ms: now,
            json: object(&fields),
        });
    }
    made
}
