//! `tumble(time, size [, offset])`: the start of the window that a time lies in.
//!
//! A size is either a fixed length (`INTERVAL '10 seconds'`, `'1 day'`) or a number of calendar months (`'1 month'`,
//! `'1 year'`). Fixed windows begin at multiples of the size since 1970-01-01T00:00:00Z, those of whole weeks on
//! Mondays; month windows at multiples of the months since January 1970. The offset shifts them all. The start has the
//! type of the time: a DATE for a DATE, which is why its windows are whole days.

use std::sync::Arc;

use arrow::array::types::{Date32Type, TimestampMicrosecondType, TimestampMillisecondType};
use arrow::array::types::{TimestampNanosecondType, TimestampSecondType};
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use chrono::{Datelike, NaiveDate};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

const NANOS_PER_DAY: i64 = 86_400_000_000_000;
/// 1970-01-05 was a Monday.
const FIRST_MONDAY: i64 = 4;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tumble {
    signature: Signature,
}

impl Default for Tumble {
    fn default() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Tumble {
    fn name(&self) -> &str {
        "tumble"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if !(2..=3).contains(&types.len()) {
            return plan_err!(
                "tumble takes a time, a size and perhaps an offset, not {} arguments",
                types.len()
            );
        }
        if !matches!(types[0], DataType::Date32 | DataType::Timestamp(..)) {
            return plan_err!(
                "tumble takes a DATE, TIMESTAMP or TIMESTAMPTZ as its time, not {}",
                types[0]
            );
        }
        if let DataType::Timestamp(_, Some(zone)) = &types[0]
            && !matches!(zone.as_ref(), "UTC" | "+00:00" | "Z")
        {
            return plan_err!("tumble counts days in UTC, not in {zone}");
        }
        if let Some(other) = types[1..].iter().find(|other| !matches!(other, DataType::Interval(_))) {
            return plan_err!("tumble takes INTERVALs as its size and offset, such as INTERVAL '1 day', not {other}");
        }
        let interval = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
        Ok(std::iter::once(types[0].clone())
            .chain(types[1..].iter().map(|_| interval.clone()))
            .collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let size = interval(&args.args[1])?;
        let offset = args.args.get(2).map(interval).transpose()?.unwrap_or_default();
        let windows = Windows::new(size, offset)?;
        match &args.args[0] {
            ColumnarValue::Array(times) => Ok(ColumnarValue::Array(starts(times, &windows)?)),
            ColumnarValue::Scalar(time) => {
                let start = starts(&time.to_array()?, &windows)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&start, 0)?))
            }
        }
    }
}

fn interval(value: &ColumnarValue) -> Result<IntervalMonthDayNano> {
    match value {
        ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(interval))) => Ok(*interval),
        _ => exec_err!("tumble takes a constant INTERVAL as its size and offset"),
    }
}

/// Windows of one size. Lengths are nanoseconds.
enum Windows {
    Fixed { size: i128, origin: i128 },
    Months { size: i64, origin: i64 },
}

impl Windows {
    fn new(size: IntervalMonthDayNano, offset: IntervalMonthDayNano) -> Result<Self> {
        let fixed = |interval: IntervalMonthDayNano| {
            i128::from(interval.days) * i128::from(NANOS_PER_DAY) + i128::from(interval.nanoseconds)
        };
        let length = fixed(size);
        if size.months != 0 {
            if length != 0 || size.months < 0 {
                return plan_err!("the size of tumble is either months or a fixed length, and positive");
            }
            if fixed(offset) != 0 {
                return plan_err!("the offset of a tumble of months is a number of months");
            }
            return Ok(Self::Months {
                size: size.months.into(),
                origin: offset.months.into(),
            });
        }
        if length <= 0 || offset.months != 0 {
            return plan_err!("the size of tumble is positive, and its offset of the same kind");
        }
        let week = i128::from(NANOS_PER_DAY) * 7;
        let monday = if length % week == 0 {
            i128::from(FIRST_MONDAY * NANOS_PER_DAY)
        } else {
            0
        };
        Ok(Self::Fixed {
            size: length,
            origin: monday + fixed(offset),
        })
    }

    /// Start of the window of `time`; both count units of `unit` nanoseconds since 1970. `None` when out of range.
    fn start(&self, time: i64, unit: i64) -> Option<i64> {
        match self {
            Self::Fixed { size, origin } => {
                let nanos = i128::from(time) * i128::from(unit) - origin;
                let start = nanos - nanos.rem_euclid(*size) + origin;
                i64::try_from(start.div_euclid(i128::from(unit))).ok()
            }
            Self::Months { size, origin } => {
                let per_day = NANOS_PER_DAY / unit;
                let days = i32::try_from(time.div_euclid(per_day)).ok()?;
                let date = NaiveDate::from_epoch_days(days)?;
                let month = (i64::from(date.year()) - 1970) * 12 + i64::from(date.month0());
                let start = month - (month - origin).rem_euclid(*size);
                let year = i32::try_from(start.div_euclid(12) + 1970).ok()?;
                let first = NaiveDate::from_ymd_opt(year, u32::try_from(start.rem_euclid(12)).ok()? + 1, 1)?;
                i64::from(first.to_epoch_days()).checked_mul(per_day)
            }
        }
    }
}

fn starts(times: &ArrayRef, windows: &Windows) -> Result<ArrayRef> {
    match times.data_type() {
        DataType::Date32 => {
            if let Windows::Fixed { size, origin } = windows
                && (size % i128::from(NANOS_PER_DAY) != 0 || origin % i128::from(NANOS_PER_DAY) != 0)
            {
                return plan_err!("windows over a DATE are whole days: cast it to TIMESTAMP for shorter ones");
            }
            unary::<Date32Type>(times, |day| {
                i32::try_from(windows.start(day.into(), NANOS_PER_DAY)?).ok()
            })
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            unary::<TimestampSecondType>(times, |time| windows.start(time, 1_000_000_000))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            unary::<TimestampMillisecondType>(times, |time| windows.start(time, 1_000_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            unary::<TimestampMicrosecondType>(times, |time| windows.start(time, 1_000))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            unary::<TimestampNanosecondType>(times, |time| windows.start(time, 1))
        }
        other => exec_err!("tumble does not take {other}"),
    }
}

fn unary<T: ArrowPrimitiveType>(times: &ArrayRef, start: impl Fn(T::Native) -> Option<T::Native>) -> Result<ArrayRef> {
    let times = times.as_primitive::<T>();
    let starts = times.try_unary::<_, T, _>(|time| {
        start(time).ok_or_else(|| {
            arrow::error::ArrowError::ComputeError(format!("the window of {time:?} lies outside the range of times"))
        })
    })?;
    Ok(Arc::new(starts.with_data_type(times.data_type().clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(text: &str) -> i64 {
        text.parse::<NaiveDate>().expect("a date").to_epoch_days().into()
    }

    fn start(size: IntervalMonthDayNano, offset: IntervalMonthDayNano, date: &str) -> i64 {
        Windows::new(size, offset)
            .expect("a size")
            .start(days(date), NANOS_PER_DAY)
            .expect("in range")
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_first() {
        let none = IntervalMonthDayNano::default();
        let week = IntervalMonthDayNano::new(0, 7, 0);
        assert_eq!(start(week, none, "2024-02-29"), days("2024-02-26"));
        assert_eq!(start(week, none, "1969-12-28"), days("1969-12-22"));
        assert_eq!(
            start(week, IntervalMonthDayNano::new(0, -1, 0), "2024-02-29"),
            days("2024-02-25")
        );
        assert_eq!(
            start(IntervalMonthDayNano::new(1, 0, 0), none, "2024-02-29"),
            days("2024-02-01")
        );
        assert_eq!(
            start(IntervalMonthDayNano::new(3, 0, 0), none, "1969-11-30"),
            days("1969-10-01")
        );
        let year = IntervalMonthDayNano::new(12, 0, 0);
        assert_eq!(
            start(year, IntervalMonthDayNano::new(6, 0, 0), "2024-02-29"),
            days("2023-07-01")
        );
    }

    #[test]
    fn times_before_1970_lie_in_the_window_before() {
        let hour = Windows::new(
            IntervalMonthDayNano::new(0, 0, 3_600_000_000_000),
            IntervalMonthDayNano::default(),
        );
        assert_eq!(hour.expect("a size").start(-1, 1_000), Some(-3_600_000_000));
    }

    #[test]
    fn a_size_of_nothing_is_refused() {
        let none = IntervalMonthDayNano::default();
        assert!(Windows::new(none, none).is_err());
        assert!(Windows::new(IntervalMonthDayNano::new(1, 1, 0), none).is_err());
        assert!(Windows::new(IntervalMonthDayNano::new(0, -1, 0), none).is_err());
    }
}
