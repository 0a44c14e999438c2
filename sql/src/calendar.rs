//! Windows of time: where one begins, and where it ends.
//!
//! A size is either a fixed length (`INTERVAL '10 seconds'`, `'1 day'`) or a number of calendar months (`'1 month'`,
//! `'1 year'`). Fixed windows begin at multiples of the size since 1970-01-01T00:00:00, those of whole weeks on
//! Mondays; month windows at multiples of the months since January 1970. The offset shifts them all.
//!
//! With a time zone all of that is counted on the clocks of that zone, so that a day has 23 or 25 hours when they
//! change. A window whose beginning the clocks show twice begins at the later of the two that its time has reached; one
//! whose beginning they skip begins when they have skipped it.

use std::fmt;

use arrow::datatypes::IntervalMonthDayNano;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone};
use chrono_tz::Tz;
use datafusion::common::{Result, plan_err};

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// 1970-01-05 was a Monday.
const FIRST_MONDAY: i64 = 4;

/// A length of time, microseconds or calendar months; positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Length {
    Fixed(i64),
    Months(i64),
}

impl Length {
    /// `interval` as the `what` of a window function.
    pub(crate) fn of(interval: IntervalMonthDayNano, what: &str) -> Result<Self> {
        let micros = micros(interval, what)?;
        match (i64::from(interval.months), micros) {
            (months, 0) if months > 0 => Ok(Self::Months(months)),
            (0, micros) if micros > 0 => Ok(Self::Fixed(micros)),
            _ => plan_err!("the {what} of a window is either months or a fixed length, and positive"),
        }
    }

    fn is_whole_days(self) -> bool {
        match self {
            Self::Fixed(micros) => micros % MICROS_PER_DAY == 0,
            Self::Months(_) => true,
        }
    }
}

/// Units of lengths, the largest first, in microseconds.
const UNITS: &[(i64, &str)] = &[
    (7 * MICROS_PER_DAY, "week"),
    (MICROS_PER_DAY, "day"),
    (3_600_000_000, "hour"),
    (60_000_000, "minute"),
    (1_000_000, "second"),
    (1_000, "millisecond"),
    (1, "microsecond"),
];
/// The same in months.
const CALENDAR_UNITS: &[(i64, &str)] = &[(12, "year"), (1, "month")];

/// In the largest unit that it is a multiple of: `90 minutes`, `1 day`.
impl fmt::Display for Length {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (length, units) = match *self {
            Self::Fixed(micros) => (micros, UNITS),
            Self::Months(months) => (months, CALENDAR_UNITS),
        };
        let whole = units.iter().find(|(unit, _)| length % unit == 0);
        let (unit, name) = whole.expect("every length is a multiple of 1");
        let count = length / unit;
        write!(formatter, "{count} {name}{}", if count == 1 { "" } else { "s" })
    }
}

/// The fixed part of `interval` in microseconds.
fn micros(interval: IntervalMonthDayNano, what: &str) -> Result<i64> {
    if interval.nanoseconds % 1000 != 0 {
        return plan_err!("the {what} of a window is counted in microseconds, not in nanoseconds");
    }
    let days = i64::from(interval.days).checked_mul(MICROS_PER_DAY);
    match days.and_then(|days| days.checked_add(interval.nanoseconds / 1000)) {
        Some(micros) => Ok(micros),
        None => plan_err!("the {what} of a window is longer than time is counted"),
    }
}

/// Windows of one length that follow each other. Times are microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Windows {
    size: Length,
    /// Microseconds or months, as the size.
    origin: i64,
    zone: Option<Tz>,
}

impl Windows {
    pub(crate) fn new(size: Length, offset: IntervalMonthDayNano, zone: Option<Tz>) -> Result<Self> {
        let shift = micros(offset, "offset")?;
        let origin = match size {
            Length::Months(_) if shift == 0 => offset.months.into(),
            Length::Months(_) => return plan_err!("the offset of windows of months is a number of months"),
            Length::Fixed(_) if offset.months != 0 => {
                return plan_err!("the offset of windows of a fixed length is one, too");
            }
            Length::Fixed(size) if size % (7 * MICROS_PER_DAY) == 0 => FIRST_MONDAY * MICROS_PER_DAY + shift,
            Length::Fixed(_) => shift,
        };
        Ok(Self { size, origin, zone })
    }

    /// Their length.
    pub(crate) fn size(&self) -> Length {
        self.size
    }

    /// Windows of another length at the same origin.
    pub(crate) fn with_size(self, size: Length) -> Self {
        Self { size, ..self }
    }

    /// Whether they begin at midnights: then they are windows of DATEs, too.
    pub(crate) fn are_whole_days(&self) -> bool {
        self.size.is_whole_days() && (matches!(self.size, Length::Months(_)) || self.origin % MICROS_PER_DAY == 0)
    }

    /// Beginning of the window that `time` lies in. `None` when it is out of range.
    pub(crate) fn start(&self, time: i64) -> Option<i64> {
        match self.zone {
            None => self.floor(time),
            Some(zone) => {
                let local = self.floor(local(zone, time)?)?;
                let (first, second) = instants(zone, local)?;
                Some(if second <= time { second } else { first })
            }
        }
    }

    /// End of the window that begins at `start`, which is the beginning of the next one.
    pub(crate) fn end(&self, start: i64) -> Option<i64> {
        let Some(zone) = self.zone else {
            return self.later(start, 1);
        };
        let here = local(zone, start)?;
        let (_, second) = instants(zone, here)?;
        if second > start {
            return Some(second);
        }
        instants(zone, self.later(self.floor(here)?, 1)?).map(|(first, _)| first)
    }

    /// Beginning of the window `count` windows behind the one that begins at `start`; counted without a zone.
    pub(crate) fn later(&self, start: i64, count: i64) -> Option<i64> {
        match self.size {
            Length::Fixed(size) => start.checked_add(size.checked_mul(count)?),
            Length::Months(size) => {
                let day = start.div_euclid(MICROS_PER_DAY);
                let month = month_of(day)?.checked_add(size.checked_mul(count)?)?;
                first_of(month)?
                    .checked_mul(MICROS_PER_DAY)?
                    .checked_add(start.rem_euclid(MICROS_PER_DAY))
            }
        }
    }

    /// What the clocks of the zone show at `time`, as if it were UTC.
    pub(crate) fn on_clocks(&self, time: i64) -> Option<i64> {
        match self.zone {
            Some(zone) => local(zone, time),
            None => Some(time),
        }
    }

    /// The first instant at which the clocks of the zone show `shown`, or have skipped it.
    pub(crate) fn instant(&self, shown: i64) -> Option<i64> {
        match self.zone {
            Some(zone) => instants(zone, shown).map(|(first, _)| first),
            None => Some(shown),
        }
    }

    /// Beginning of the window that the time `time` lies in; counted without a zone.
    pub(crate) fn floor(&self, time: i64) -> Option<i64> {
        match self.size {
            Length::Fixed(size) => {
                let since = i128::from(time) - i128::from(self.origin);
                i64::try_from(i128::from(time) - since.rem_euclid(size.into())).ok()
            }
            Length::Months(size) => {
                let month = month_of(time.div_euclid(MICROS_PER_DAY))?;
                first_of(month - (month - self.origin).rem_euclid(size))?.checked_mul(MICROS_PER_DAY)
            }
        }
    }
}

/// Months since January 1970 of a day since 1970.
fn month_of(day: i64) -> Option<i64> {
    let date = NaiveDate::from_epoch_days(i32::try_from(day).ok()?)?;
    Some((i64::from(date.year()) - 1970) * 12 + i64::from(date.month0()))
}

/// First day of a month, both since 1970.
fn first_of(month: i64) -> Option<i64> {
    let year = i32::try_from(month.div_euclid(12) + 1970).ok()?;
    let first = NaiveDate::from_ymd_opt(year, u32::try_from(month.rem_euclid(12)).ok()? + 1, 1)?;
    Some(first.to_epoch_days().into())
}

/// What the clocks of `zone` show at `time`, as if it were UTC.
fn local(zone: Tz, time: i64) -> Option<i64> {
    let instant = DateTime::from_timestamp_micros(time)?;
    let ahead = zone
        .offset_from_utc_datetime(&instant.naive_utc())
        .fix()
        .local_minus_utc();
    time.checked_add(i64::from(ahead) * 1_000_000)
}

/// The first and the last instant at which the clocks of `zone` show `local`; if they skip it, the one at which they
/// have, twice.
fn instants(zone: Tz, local: i64) -> Option<(i64, i64)> {
    let shown: NaiveDateTime = DateTime::from_timestamp_micros(local)?.naive_utc();
    let micros = |time: DateTime<Tz>| time.timestamp_micros();
    if let (Some(first), Some(second)) = (
        zone.from_local_datetime(&shown).earliest(),
        zone.from_local_datetime(&shown).latest(),
    ) {
        return Some((micros(first), micros(second)));
    }
    // Clocks skip some hours at most: what they show a day before tells how far they were ahead.
    let before = zone.from_local_datetime(&(shown - TimeDelta::days(1))).earliest()?;
    let ahead = i64::from(before.offset().fix().local_minus_utc()) * 1_000_000;
    // The skipped reading at the old offset is an instant behind the change; the change is where the offset becomes
    // another one.
    let (mut low, mut high) = (micros(before), local - ahead);
    let offset = |time: i64| Some(self::local(zone, time)? - time);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if offset(middle)? == ahead {
            low = middle
        } else {
            high = middle
        }
    }
    Some((high, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).expect("a time").timestamp_micros()
    }

    fn windows(size: IntervalMonthDayNano, offset: IntervalMonthDayNano, zone: Option<&str>) -> Windows {
        let zone = zone.map(|zone| zone.parse().expect("a zone"));
        Windows::new(Length::of(size, "size").expect("a size"), offset, zone).expect("windows")
    }

    fn days(days: i32) -> IntervalMonthDayNano {
        IntervalMonthDayNano::new(0, days, 0)
    }

    fn months(months: i32) -> IntervalMonthDayNano {
        IntervalMonthDayNano::new(months, 0, 0)
    }

    fn hours(hours: i64) -> IntervalMonthDayNano {
        IntervalMonthDayNano::new(0, 0, hours * 3_600_000_000_000)
    }

    fn start(windows: Windows, time: &str) -> String {
        let start = windows.start(at(time)).expect("in range");
        DateTime::from_timestamp_micros(start).expect("a time").to_rfc3339()
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_first() {
        let none = IntervalMonthDayNano::default();
        let cases = [
            (days(7), none, "2024-02-29T05:00:00Z", "2024-02-26T00:00:00+00:00"),
            (days(7), none, "1969-12-28T05:00:00Z", "1969-12-22T00:00:00+00:00"),
            (days(7), days(-1), "2024-02-29T05:00:00Z", "2024-02-25T00:00:00+00:00"),
            (months(1), none, "2024-02-29T05:00:00Z", "2024-02-01T00:00:00+00:00"),
            (months(3), none, "1969-11-30T05:00:00Z", "1969-10-01T00:00:00+00:00"),
            (
                months(12),
                months(6),
                "2024-02-29T05:00:00Z",
                "2023-07-01T00:00:00+00:00",
            ),
            (hours(1), none, "1969-12-31T23:59:59Z", "1969-12-31T23:00:00+00:00"),
        ];
        for (size, offset, time, expected) in cases {
            assert_eq!(start(windows(size, offset, None), time), expected);
        }
    }

    #[test]
    fn days_of_a_zone_have_23_and_25_hours() {
        let berlin = windows(days(1), days(0), Some("Europe/Berlin"));
        // 2024-03-31 is short, 2024-10-27 is long.
        for (noon, expected, length) in [
            ("2024-03-31T10:00:00Z", "2024-03-30T23:00:00+00:00", 23),
            ("2024-10-27T11:00:00Z", "2024-10-26T22:00:00+00:00", 25),
            ("2024-07-01T10:00:00Z", "2024-06-30T22:00:00+00:00", 24),
        ] {
            assert_eq!(start(berlin, noon), expected);
            let begin = berlin.start(at(noon)).expect("in range");
            assert_eq!(berlin.end(begin), Some(begin + length * HOUR));
        }
        let month = windows(months(1), days(0), Some("America/New_York"));
        assert_eq!(start(month, "2024-03-31T10:00:00Z"), "2024-03-01T05:00:00+00:00");
        assert_eq!(month.end(at("2024-03-01T05:00:00Z")), Some(at("2024-04-01T04:00:00Z")));
    }

    #[test]
    fn a_midnight_that_the_clocks_skip_is_when_they_have_skipped_it() {
        // In Beirut the clocks went from 2022-03-27 00:00 to 01:00.
        let beirut = windows(days(1), days(0), Some("Asia/Beirut"));
        assert_eq!(start(beirut, "2022-03-27T10:00:00Z"), "2022-03-26T22:00:00+00:00");
        assert_eq!(start(beirut, "2022-03-26T21:59:59Z"), "2022-03-25T22:00:00+00:00");
        assert_eq!(beirut.end(at("2022-03-25T22:00:00Z")), Some(at("2022-03-26T22:00:00Z")));
    }

    #[test]
    fn every_window_ends_where_the_next_begins_in_every_zone() {
        for zone in [
            "Europe/Berlin",
            "America/Sao_Paulo",
            "Australia/Lord_Howe",
            "Asia/Kathmandu",
            "Africa/Casablanca",
        ] {
            for size in [hours(1), hours(6), days(1), days(7), months(1)] {
                let windows = windows(size, days(0), Some(zone));
                let mut time = at("2018-01-01T00:00:00Z");
                while time < at("2019-01-05T00:00:00Z") {
                    let begin = windows.start(time).expect("in range");
                    let end = windows.end(begin).expect("in range");
                    assert!(begin <= time && time < end, "{zone} {size:?} {time}: {begin}..{end}");
                    assert_eq!(windows.start(begin), Some(begin), "{zone} {size:?} {time}");
                    assert_eq!(windows.start(end), Some(end), "{zone} {size:?} {time}");
                    time += HOUR / 2;
                }
            }
        }
    }

    #[test]
    fn lengths_are_written_in_their_largest_unit() {
        let written = |interval| Length::of(interval, "size").expect("a size").to_string();
        assert_eq!(written(hours(1)), "1 hour");
        assert_eq!(
            written(IntervalMonthDayNano::new(0, 0, 5_400_000_000_000)),
            "90 minutes"
        );
        assert_eq!(written(hours(48)), "2 days");
        assert_eq!(written(days(14)), "2 weeks");
        assert_eq!(written(months(12)), "1 year");
        assert_eq!(written(months(15)), "15 months");
    }

    #[test]
    fn a_size_of_nothing_is_refused() {
        for size in [
            days(0),
            days(-1),
            IntervalMonthDayNano::new(1, 1, 0),
            IntervalMonthDayNano::new(0, 0, 1),
        ] {
            assert!(Length::of(size, "size").is_err(), "{size:?}");
        }
    }
}
