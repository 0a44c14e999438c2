//! Numbers, exactly: no value goes through a double on its way to an integer or a decimal.

/// What happens to digits beyond the wanted scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// They must be zeros.
    Zero,
    /// They are cut off, towards minus infinity.
    Floor,
}

/// Reads `text` (`-12.50`, `1e3`) as an integer count of `10^-scale`. `None`: not a number, or it does not fit.
pub(super) fn scaled(text: &str, scale: i64, rest: Rest) -> Option<i128> {
    if scale == 0
        && let Some(value) = short_integer(text.as_bytes())
    {
        return Some(i128::from(value));
    }
    let number = Number::split(text.as_bytes())?;
    let (kept, dropped_nonzero) = number.shifted(scale)?;
    match (rest, dropped_nonzero, number.negative) {
        (_, false, negative) => Some(if negative { -kept } else { kept }),
        (Rest::Zero, true, _) => None,
        (Rest::Floor, true, false) => Some(kept),
        (Rest::Floor, true, true) => Some(-kept - 1),
    }
}

/// A finite double. What is beyond its range, and `NaN` and infinities, which JSON does not have, do not fit.
pub(super) fn double(text: &str) -> Option<f64> {
    let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    if !text.bytes().all(plain) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// By far the most common numbers: a sign and up to 18 digits.
fn short_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0_i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    Some(if negative { -value } else { value })
}

/// The parts of a number: `-12.5e3` is negative, whole `12`, fraction `5`, exponent 3.
struct Number<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Number<'a> {
    fn split(text: &'a [u8]) -> Option<Self> {
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (whole, rest) = digits(unsigned);
        let (fraction, rest) = match rest {
            [b'.', rest @ ..] => digits(rest),
            rest => (&[][..], rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => exponent(rest)?,
            _ => return None,
        };
        Some(Self {
            negative,
            whole,
            fraction,
            exponent,
        })
    }

    /// The magnitude times `10^scale`: its whole part, and whether there is more than that.
    fn shifted(&self, scale: i64) -> Option<(i128, bool)> {
        let point = i64::try_from(self.whole.len()).ok()? + self.exponent + scale;
        let mut kept = 0_i128;
        let mut dropped_nonzero = false;
        let mut place = 0_i64;
        for &digit in self.whole.iter().chain(self.fraction) {
            if place < point {
                kept = kept.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
            } else {
                dropped_nonzero |= digit != b'0';
            }
            place += 1;
        }
        // Zeros that the exponent appends; zero stays zero however many they are.
        while kept != 0 && place < point {
            kept = kept.checked_mul(10)?;
            place += 1;
        }
        Some((kept, dropped_nonzero))
    }
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// An exponent; beyond a million all are alike, since no type holds such numbers.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, unsigned) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (found, rest) = digits(unsigned);
    if found.is_empty() || !rest.is_empty() {
        return None;
    }
    // 20 MB of digits before the exponent are possible, so the limit is far above what a record holds.
    let add = |value: i64, digit: &u8| (value * 10 + i64::from(digit - b'0')).min(1_000_000_000_000);
    let value = found.iter().fold(0, add);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn integers_are_exact_or_nothing() {
        let whole = |text| scaled(text, 0, Rest::Zero);
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("007", 7),
            ("+5", 5),
            ("5.0", 5),
            ("5.", 5),
            ("5e0", 5),
            ("1.5e1", 15),
            ("120e-1", 12),
            ("0e999999999999999999999", 0),
            ("9223372036854775808", 9_223_372_036_854_775_808),
        ] {
            assert_eq!(whole(text), Some(value), "{text}");
        }
        for text in [
            "",
            "-",
            ".",
            "5.7",
            "1e-1",
            "1e",
            "1e+",
            "1-2",
            "0x10",
            "1 2",
            "1e999999999999999999999",
            "--1",
            "NaN",
            "Infinity",
            "1_000",
            "٣",
        ] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_take_zeros_but_no_rounding() {
        let cents = |text| scaled(text, 2, Rest::Zero);
        assert_eq!(cents("12.5"), Some(1250));
        assert_eq!(cents("-12.50"), Some(-1250));
        assert_eq!(
            cents("12.5000000000000000000000000000000000000000000000000"),
            Some(1250)
        );
        assert_eq!(cents(".5"), Some(50));
        assert_eq!(cents("12.505"), None);
        assert_eq!(cents("1.2505e1"), None);
        assert_eq!(cents("1.25e1"), Some(1250));
        assert_eq!(cents("1e60"), None);
    }

    #[test]
    fn floor_goes_down_on_both_sides_of_zero() {
        assert_eq!(scaled("1.9999999", 6, Rest::Floor), Some(1_999_999));
        assert_eq!(scaled("-1.9999999", 6, Rest::Floor), Some(-2_000_000));
        assert_eq!(scaled("-1.999999", 6, Rest::Floor), Some(-1_999_999));
        assert_eq!(scaled("1e-9", 6, Rest::Floor), Some(0));
        assert_eq!(scaled("-1e-9", 6, Rest::Floor), Some(-1));
    }

    #[test]
    fn doubles_are_finite() {
        assert_eq!(double("1.5e3"), Some(1500.0));
        assert_eq!(double("1e400"), None);
        assert_eq!(double("NaN"), None);
        assert_eq!(double("inf"), None);
        assert_eq!(double(""), None);
    }
}
