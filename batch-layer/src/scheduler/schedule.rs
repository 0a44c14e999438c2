//! Cron expressions in a time zone: which instants are due.
//!
//! The rules:
//!
//! * Six fields, **seconds first**: second, minute, hour, day of month, month, day of week; a seventh, the year, may
//!   follow. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` stand for what they say.
//! * Days of the week by **name** (`MON-FRI`, `SUN`), or `*`. Numbers are refused: 1 is Sunday to some programs and
//!   Monday to others.
//! * Times are local times of the zone, UTC unless it is named.
//! * A local time that the clock jumps over in spring runs once, at the first instant after the jump (several such
//!   times: still once).
//! * A local time that the clock shows twice in autumn runs the first time only. So `0 */10 * * * *` in such a zone
//!   pauses for an hour once a year; in UTC it never does.

use std::fmt;

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// Position of the day of the week among the fields.
const WEEKDAY_FIELD: usize = 5;
/// No zone is further than this from UTC, and none has jumped further.
const ZONE_REACH: TimeDelta = TimeDelta::hours(26);
/// Skipped times are counted up to this many.
const COUNTED_MAX: u64 = 1_000;

/// What a schedule cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not as many fields as needed.
    #[error(
        "schedule \"{expression}\" has {fields} fields: write second, minute, hour, day of month, month and day of \
         week, for example \"0 */10 * * * *\" for every ten minutes"
    )]
    Fields {
        /// As written.
        expression: String,
        /// How many there are.
        fields: usize,
    },
    /// Weekdays by number.
    #[error(
        "schedule \"{expression}\" has weekday \"{weekdays}\": write weekdays by name, for example MON-FRI, because 1 \
         is Sunday to some programs and Monday to others"
    )]
    NumericWeekday {
        /// As written.
        expression: String,
        /// The field.
        weekdays: String,
    },
    /// Cron cannot read it.
    #[error("cannot read schedule \"{expression}\": {reason}")]
    Expression {
        /// As written.
        expression: String,
        /// Why.
        reason: String,
    },
    /// No such zone.
    #[error("unknown time zone \"{0}\": write an IANA name, for example Europe/Berlin or UTC")]
    Zone(String),
}

/// When to run.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: cron::Schedule,
    zone: Tz,
}

impl Schedule {
    /// Reads `expression`, whose times are local times of `timezone` (UTC unless named).
    pub fn parse(expression: &str, timezone: Option<&str>) -> Result<Self, ScheduleError> {
        let expression = expression.trim();
        let zone = timezone.unwrap_or("UTC");
        let zone: Tz = zone.parse().map_err(|_| ScheduleError::Zone(zone.to_owned()))?;
        if !expression.starts_with('@') {
            let fields: Vec<&str> = expression.split_whitespace().collect();
            if !(6..=7).contains(&fields.len()) {
                return Err(ScheduleError::Fields {
                    expression: expression.to_owned(),
                    fields: fields.len(),
                });
            }
            let weekdays = fields[WEEKDAY_FIELD];
            if weekdays.chars().any(|character| character.is_ascii_digit()) {
                return Err(ScheduleError::NumericWeekday {
                    expression: expression.to_owned(),
                    weekdays: weekdays.to_owned(),
                });
            }
        }
        let cron = expression
            .parse()
            .map_err(|error: cron::error::Error| ScheduleError::Expression {
                expression: expression.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self { cron, zone })
    }

    /// The first scheduled instant after `instant_ms`; `None` when the expression names no later year.
    pub fn next_after(&self, instant_ms: i64) -> Option<i64> {
        let instant = DateTime::from_timestamp_millis(instant_ms)?;
        let local = instant.with_timezone(&self.zone).naive_local();
        // Cron counts on the local clock face alone; a face is put back onto the time line by `instant_of`, which
        // never runs backwards as faces advance. So the first face whose instant lies after ours is the answer.
        self.cron
            .after(&Utc.from_utc_datetime(&local))
            .filter_map(|face| self.instant_of(face.naive_utc()))
            .find(|&due| due > instant_ms)
    }

    /// The first and the last scheduled instant after `since_ms` and up to `now_ms`.
    pub fn due(&self, since_ms: i64, now_ms: i64) -> Option<(i64, i64)> {
        let first = self.next_after(since_ms).filter(|&first| first <= now_ms)?;
        // `next_after` ascends: halve the span in which it is still due.
        let (mut last, mut beyond) = (first, now_ms);
        while last < beyond {
            let middle = last + (beyond - last).div_euclid(2);
            match self.next_after(middle) {
                Some(due) if due <= now_ms => last = due,
                _ => beyond = middle,
            }
        }
        Some((first, last))
    }

    /// How many scheduled instants there are from `first_ms` on before `last_ms`, counted up to a thousand.
    pub fn count_between(&self, first_ms: i64, last_ms: i64) -> u64 {
        let (mut count, mut at) = (0, first_ms);
        while at < last_ms && count < COUNTED_MAX {
            count += 1;
            at = self.next_after(at).unwrap_or(last_ms);
        }
        count
    }

    /// The instant at which the local clock first shows `face`, or first shows a later one if it never does.
    fn instant_of(&self, face: NaiveDateTime) -> Option<i64> {
        match self.zone.from_local_datetime(&face) {
            LocalResult::Single(instant) => Some(instant.timestamp_millis()),
            LocalResult::Ambiguous(first, _) => Some(first.timestamp_millis()),
            LocalResult::None => self.after_gap(face),
        }
    }

    /// The first whole second whose local time is not before `face`.
    fn after_gap(&self, face: NaiveDateTime) -> Option<i64> {
        let shows = |second: i64| {
            let instant = DateTime::from_timestamp(second, 0)?;
            Some(instant.with_timezone(&self.zone).naive_local())
        };
        let mut before = (face - ZONE_REACH).and_utc().timestamp();
        let mut after = (face + ZONE_REACH).and_utc().timestamp();
        while after - before > 1 {
            let middle = before + (after - before).div_euclid(2);
            if shows(middle)? < face {
                before = middle;
            } else {
                after = middle;
            }
        }
        Some(after * 1_000)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.cron.source(), self.zone)
    }
}
