//! Dates and times, from text or numbers.
//!
//! An instant keeps microseconds; what is finer is cut off towards the past, since many producers write nanoseconds.
//! A DATE, however, takes nothing but a date: a time of day other than midnight does not fit, as 5.7 does not fit INT.
//! Text without a zone is UTC, or in the stream's `timezone` if the column is its event time. There, a time that occurs
//! twice means the first occurrence, and a time that is skipped is read with the offset that held before the gap
//! (02:30 in a night without it is 03:30).

use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone};
use chrono_tz::Tz;
use foldline_sql::{EventTimeFormat, Stream};

use super::number::{Rest, scaled};

pub(super) const DAY_US: i64 = 86_400_000_000;
const SECOND_US: i64 = 1_000_000;
/// Days from 0001-01-01 to 1970-01-01.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;

/// How the times of a column are written.
#[derive(Debug, Clone)]
pub(super) struct TimeReader {
    format: Format,
    zone: Option<Tz>,
}

#[derive(Debug, Clone)]
enum Format {
    Iso8601,
    /// A number of units of `10^-scale` seconds.
    Unix {
        scale: i64,
    },
    Pattern(Vec<Item<'static>>),
}

/// A date and time as written: local if without offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    days: i64,
    time_us: i64,
    offset_s: Option<i32>,
}

impl TimeReader {
    /// Times of ordinary columns.
    pub(super) fn iso8601() -> Self {
        Self {
            format: Format::Iso8601,
            zone: None,
        }
    }

    /// Times of the event time column.
    pub(super) fn of_event_time(stream: &Stream) -> Result<Self, String> {
        let format = match &stream.event_time_format {
            EventTimeFormat::Iso8601 => Format::Iso8601,
            EventTimeFormat::UnixSeconds => Format::Unix { scale: 0 },
            EventTimeFormat::UnixMillis => Format::Unix { scale: 3 },
            EventTimeFormat::UnixMicros => Format::Unix { scale: 6 },
            EventTimeFormat::Pattern(pattern) => Format::Pattern(pattern_items(pattern)?),
        };
        let zone = match &stream.timezone {
            Some(name) => Some(name.parse().map_err(|_| format!("unknown timezone \"{name}\""))?),
            None => None,
        };
        Ok(Self { format, zone })
    }

    /// Reads days since 1970. `quoted`: whether JSON had it as text.
    pub(super) fn date(&self, text: &str, quoted: bool) -> Option<i32> {
        let (days, time_us) = match &self.format {
            Format::Unix { scale } => {
                let instant = unix(text, *scale)?;
                (instant.div_euclid(DAY_US), instant.rem_euclid(DAY_US))
            }
            _ => {
                let written = self.written(text, quoted)?;
                (written.days, written.time_us)
            }
        };
        if time_us != 0 {
            return None;
        }
        i32::try_from(days).ok()
    }

    /// Reads microseconds since 1970, UTC.
    pub(super) fn instant(&self, text: &str, quoted: bool) -> Option<i64> {
        if let Format::Unix { scale } = &self.format {
            return unix(text, *scale);
        }
        let written = self.written(text, quoted)?;
        let local = written.days.checked_mul(DAY_US)?.checked_add(written.time_us)?;
        match (written.offset_s, self.zone) {
            (Some(offset), _) => local.checked_sub(i64::from(offset) * SECOND_US),
            (None, None) => Some(local),
            (None, Some(zone)) => in_zone(zone, local),
        }
    }

    fn written(&self, text: &str, quoted: bool) -> Option<Written> {
        match &self.format {
            Format::Iso8601 if quoted => iso8601(text),
            Format::Pattern(items) => by_pattern(items, text),
            _ => None,
        }
    }
}

/// Reads the microseconds of a time of day, `HH:MM[:SS[.fraction]]`.
pub(super) fn time_of_day(text: &str) -> Option<i64> {
    match clock(text.as_bytes())? {
        (time_us, []) if time_us < DAY_US => Some(time_us),
        _ => None,
    }
}

fn unix(text: &str, scale: i64) -> Option<i64> {
    let micros = scaled(text, 6 - scale, Rest::Floor)?;
    i64::try_from(micros).ok()
}

/// `YYYY-MM-DD`, then perhaps `T` or a space and `HH:MM[:SS[.fraction]]`, then perhaps `Z`, ` UTC`, `+HH:MM`, `+HHMM`
/// or `+HH`.
fn iso8601(text: &str) -> Option<Written> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10)?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    let days = days_of(date);
    let (time_us, zone) = match rest {
        [] => {
            return Some(Written {
                days,
                time_us: 0,
                offset_s: None,
            });
        }
        [b'T' | b't' | b' ', rest @ ..] => clock(rest)?,
        _ => return None,
    };
    Some(Written {
        days,
        time_us,
        offset_s: offset(zone)?,
    })
}

fn days_of(date: NaiveDate) -> i64 {
    i64::from(date.num_days_from_ce() - EPOCH_DAYS_FROM_CE)
}

/// Reads a time of day and returns what follows it. A leap second counts as the second after it.
fn clock(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (minutes, rest) = bytes.split_at_checked(5)?;
    let (hour, minute) = (number(&minutes[..2])?, number(&minutes[3..])?);
    if minutes[2] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let minutes_us = i64::from(hour * 60 + minute) * 60 * SECOND_US;
    let [b':', rest @ ..] = rest else {
        return Some((minutes_us, rest));
    };
    let (seconds, rest) = rest.split_at_checked(2)?;
    let second = number(seconds)?;
    if second > 60 {
        return None;
    }
    let seconds_us = minutes_us + i64::from(second) * SECOND_US;
    let [b'.' | b',', rest @ ..] = rest else {
        return Some((seconds_us, rest));
    };
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    let (fraction, rest) = rest.split_at(end);
    if fraction.is_empty() {
        return None;
    }
    let mut micros = 0;
    for place in 0..6 {
        let digit = fraction.get(place).map_or(0, |digit| digit - b'0');
        micros = micros * 10 + i64::from(digit);
    }
    Some((seconds_us + micros, rest))
}

/// The offset from UTC in seconds that is all of `bytes`, if it is one; nothing is none.
#[allow(
    clippy::option_option,
    reason = "outside: whether it reads; inside: whether there is one"
)]
fn offset(bytes: &[u8]) -> Option<Option<i32>> {
    let bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
    let (sign, digits) = match bytes {
        [] => return Some(None),
        b"Z" | b"z" | b"UTC" => return Some(Some(0)),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.len() {
        2 => (digits, &b"00"[..]),
        4 => digits.split_at(2),
        5 if digits[2] == b':' => (&digits[..2], &digits[3..]),
        _ => return None,
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = i32::try_from(hours * 3600 + minutes * 60).ok()?;
    Some(Some(sign * seconds))
}

fn number(digits: &[u8]) -> Option<u32> {
    let add = |value: u32, digit: &u8| digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0'));
    digits.iter().try_fold(0, add)
}

/// A pattern that can be read back. `%Z` is refused: a zone's name cannot be read, and to ignore it would shift times.
fn pattern_items(pattern: &str) -> Result<Vec<Item<'static>>, String> {
    let unusable = |reason: &str| format!("event_time_format \"{pattern}\" cannot be read: {reason}");
    let items = StrftimeItems::new(pattern)
        .parse_to_owned()
        .map_err(|cause| unusable(&cause.to_string()))?;
    let named_zone = |item: &Item<'_>| *item == Item::Fixed(chrono::format::Fixed::TimezoneName);
    if items.iter().any(named_zone) {
        return Err(unusable(
            "%Z has no meaning here, write the zone's name as it stands and set timezone",
        ));
    }
    let sample = NaiveDate::from_ymd_opt(2024, 2, 29)
        .and_then(|date| date.and_hms_opt(0, 0, 0))
        .expect("a date that exists")
        .and_utc();
    let shown = sample.format_with_items(items.iter()).to_string();
    let date = by_pattern(&items, &shown).filter(|written| written.days == days_of(sample.date_naive()));
    if date.is_none() {
        return Err(unusable("it does not give a date, or hours without minutes"));
    }
    Ok(items)
}

fn by_pattern(items: &[Item<'_>], text: &str) -> Option<Written> {
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, items.iter()).ok()?;
    let (local, offset_s) = if parsed.timestamp().is_some() {
        (parsed.to_naive_datetime_with_offset(0).ok()?, Some(0))
    } else if parsed.hour_mod_12().is_none() && parsed.minute().is_none() && parsed.offset().is_none() {
        (parsed.to_naive_date().ok()?.and_time(NaiveTime::MIN), None)
    } else {
        let offset = parsed.offset();
        (parsed.to_naive_datetime_with_offset(offset.unwrap_or(0)).ok()?, offset)
    };
    let local_us = local.and_utc().timestamp_micros();
    Some(Written {
        days: local_us.div_euclid(DAY_US),
        time_us: local_us.rem_euclid(DAY_US),
        offset_s,
    })
}

/// The instant of a local time, see the module's rules.
fn in_zone(zone: Tz, local_us: i64) -> Option<i64> {
    let local: NaiveDateTime = DateTime::from_timestamp_micros(local_us)?.naive_utc();
    if let Some(instant) = zone.from_local_datetime(&local).earliest() {
        return Some(instant.timestamp_micros());
    }
    // No zone ever skipped more than a day (islands that crossed the date line).
    for quarters in 1..=100 {
        let back = TimeDelta::minutes(15 * quarters);
        let before = local.checked_sub_signed(back)?;
        if let Some(instant) = zone.from_local_datetime(&before).latest() {
            return Some(instant.timestamp_micros() + back.num_microseconds()?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn utc(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    fn reader(format: EventTimeFormat, zone: Option<&str>) -> TimeReader {
        let stream = Stream {
            name: "s".to_owned(),
            topic: "s".to_owned(),
            columns: Vec::new(),
            partitions: 1,
            key: None,
            event_time: None,
            event_time_format: format,
            timezone: zone.map(str::to_owned),
            lateness_ms: None,
            max_skew_ms: 0,
            unique: None,
            archive_raw: false,
        };
        TimeReader::of_event_time(&stream).unwrap()
    }

    #[test]
    fn iso8601_in_its_spellings() {
        let iso = TimeReader::iso8601();
        for (text, instant) in [
            ("2024-02-29", "2024-02-29T00:00:00Z"),
            ("2006-12-31 23:33", "2006-12-31T23:33:00Z"),
            ("2024-02-29T12:34:56", "2024-02-29T12:34:56Z"),
            ("2024-02-29T12:34:56.5Z", "2024-02-29T12:34:56.5Z"),
            ("2024-02-29t12:34:56,123456789z", "2024-02-29T12:34:56.123456Z"),
            ("2024-02-29 12:34:56 UTC", "2024-02-29T12:34:56Z"),
            ("2024-02-29T12:34:56+02:00", "2024-02-29T10:34:56Z"),
            ("2024-02-29T12:34:56-0530", "2024-02-29T18:04:56Z"),
            ("2024-02-29T12:34:56+02", "2024-02-29T10:34:56Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ] {
            assert_eq!(iso.instant(text, true), Some(utc(instant)), "{text}");
        }
        for text in [
            "",
            "2024",
            "2023-02-29",
            "2024-13-01",
            "2024-02-29T",
            "2024-02-29T12",
            "2024-02-29T24:00",
            "2024-02-29T12:60",
            "2024-02-29T12:34:61",
            "2024-02-29T12:34:56.",
            "2024-02-29T12:34:56 CET",
            "2024-02-29T12:34:56+2",
            "2024-02-29T12:34:56+99:00",
            "2024/02/29",
            "24-02-29",
            "2024-02-2\u{e9}",
            "+2024-02-29",
        ] {
            assert_eq!(iso.instant(text, true), None, "{text}");
        }
        assert_eq!(
            iso.instant("1511658000", false),
            None,
            "a bare number is no ISO 8601 time"
        );
    }

    #[test]
    fn a_date_is_nothing_but_a_date() {
        let iso = TimeReader::iso8601();
        assert_eq!(iso.date("1970-01-02", true), Some(1));
        assert_eq!(iso.date("1970-01-02T00:00:00.000+02:00", true), Some(1));
        assert_eq!(iso.date("1970-01-02T00:00:01", true), None);
        assert_eq!(iso.date("1", false), None, "a number is no date");
        let seconds = reader(EventTimeFormat::UnixSeconds, None);
        assert_eq!(seconds.date("86400", false), Some(1));
        assert_eq!(seconds.date("86401", false), None);
    }

    #[test]
    fn unix_times() {
        let seconds = reader(EventTimeFormat::UnixSeconds, None);
        assert_eq!(seconds.instant("1511658000", false), Some(1_511_658_000_000_000));
        assert_eq!(seconds.instant("1511658000", true), Some(1_511_658_000_000_000));
        assert_eq!(
            seconds.instant("1700000000.1234567", false),
            Some(1_700_000_000_123_456)
        );
        assert_eq!(seconds.instant("1e300", false), None);
        assert_eq!(seconds.instant("2024-01-01", true), None);
        let millis = reader(EventTimeFormat::UnixMillis, None);
        assert_eq!(millis.instant("1506826800026", false), Some(1_506_826_800_026_000));
        let micros = reader(EventTimeFormat::UnixMicros, None);
        assert_eq!(micros.instant("1506826800026001", false), Some(1_506_826_800_026_001));
    }

    #[test]
    fn patterns() {
        let rees46 = reader(EventTimeFormat::Pattern("%Y-%m-%d %H:%M:%S UTC".to_owned()), None);
        let instant = utc("2019-10-01T00:00:05Z");
        assert_eq!(rees46.instant("2019-10-01 00:00:05 UTC", true), Some(instant));
        assert_eq!(rees46.instant("2019-10-01 00:00:05 CET", true), None);
        assert_eq!(rees46.instant("2019-10-01 00:00:05 UTC!", true), None);
        let apache = reader(EventTimeFormat::Pattern("%d/%b/%Y:%H:%M:%S %z".to_owned()), None);
        let instant = utc("2015-05-17T08:05:03Z");
        assert_eq!(apache.instant("17/May/2015:10:05:03 +0200", true), Some(instant));
        let day = reader(EventTimeFormat::Pattern("%Y%m%d".to_owned()), None);
        assert_eq!(day.date("19700102", false), Some(1));
        assert_eq!(day.instant("19700102", true), Some(DAY_US));
        let seconds = reader(EventTimeFormat::Pattern("%s".to_owned()), Some("Europe/Berlin"));
        assert_eq!(seconds.instant("86400", false), Some(DAY_US));
    }

    #[test]
    fn patterns_that_cannot_be_read_are_refused() {
        for pattern in ["%H:%M", "%Y-%m-%d %H", "%Q", "%Y-%m-%d %H:%M %Z", "today", "%Y-%m"] {
            assert!(pattern_items(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn local_times_with_gap_and_overlap() {
        let berlin = reader(EventTimeFormat::Iso8601, Some("Europe/Berlin"));
        for (text, instant) in [
            ("2024-07-01 12:00:00", "2024-07-01T10:00:00Z"),
            ("2024-07-01 12:00:00Z", "2024-07-01T12:00:00Z"),
            // Skipped: 02:00 became 03:00.
            ("2024-03-31 02:30:00", "2024-03-31T01:30:00Z"),
            ("2024-03-31 03:30:00", "2024-03-31T01:30:00Z"),
            // Twice: first in summer time.
            ("2024-10-27 02:30:00", "2024-10-27T00:30:00Z"),
            ("2024-10-27 03:00:00", "2024-10-27T02:00:00Z"),
        ] {
            assert_eq!(berlin.instant(text, true), Some(utc(instant)), "{text}");
        }
        assert_eq!(berlin.date("2024-07-01", true), Some(19_905), "a date has no zone");
        let apia = reader(EventTimeFormat::Iso8601, Some("Pacific/Apia"));
        // The whole of 2011-12-30 was skipped.
        assert_eq!(
            apia.instant("2011-12-30 12:00:00", true),
            Some(utc("2011-12-30T22:00:00Z"))
        );
    }

    #[test]
    fn times_of_day() {
        assert_eq!(time_of_day("00:00:01.5"), Some(1_500_000));
        assert_eq!(time_of_day("23:59"), Some(DAY_US - 60_000_000));
        assert_eq!(time_of_day("23:59:60"), None);
        assert_eq!(time_of_day("12:00:00Z"), None);
        assert_eq!(time_of_day("12"), None);
    }
}
