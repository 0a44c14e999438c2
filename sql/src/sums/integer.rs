//! Integers of any size: what exact sums are, multiplied and subtracted without rounding.

use super::exact::nearest;

/// An integer: sign, and digits of 32 bits, the first of them at `place` (counted in digits). Neither end is zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Integer {
    negative: bool,
    place: usize,
    digits: Vec<u32>,
}

impl Integer {
    pub(super) fn new(negative: bool, place: usize, digits: &[u32]) -> Self {
        let Some(first) = digits.iter().position(|digit| *digit != 0) else {
            return Self::default();
        };
        let until = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        Self {
            negative,
            place: place + first,
            digits: digits[first..until].to_vec(),
        }
    }

    /// `number * 2^(32 place)`.
    pub(super) fn from_number(number: u128, place: usize) -> Self {
        let digits = [0, 32, 64, 96].map(|shift| (number >> shift) as u32);
        Self::new(false, place, &digits)
    }

    pub(super) fn times(&self, other: &Self) -> Self {
        let mut digits = vec![0_u32; self.digits.len() + other.digits.len()];
        for (index, one) in self.digits.iter().enumerate() {
            let mut carry = 0;
            for (digit, two) in digits[index..].iter_mut().zip(&other.digits) {
                let sum = u64::from(*one) * u64::from(*two) + u64::from(*digit) + carry;
                *digit = sum as u32;
                carry = sum >> 32;
            }
            digits[index + other.digits.len()] = carry as u32;
        }
        Self::new(self.negative != other.negative, self.place + other.place, &digits)
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        let place = match (self.digits.is_empty(), other.digits.is_empty()) {
            (false, false) => self.place.min(other.place),
            (true, _) => other.place,
            (_, true) => self.place,
        };
        let until = |number: &Self| number.place + number.digits.len();
        // One digit more takes the carry.
        let length = until(self).max(until(other)) + 1 - place;
        let mut sums = vec![0_i64; length];
        for (number, sign) in [(self, 1), (other, -1)] {
            let sign = if number.negative { -sign } else { sign };
            for (index, digit) in number.digits.iter().enumerate() {
                sums[number.place - place + index] += sign * i64::from(*digit);
            }
        }
        let carried = |sums: &[i64]| {
            let mut carry = 0;
            let digits: Vec<u32> = (sums.iter())
                .map(|digit| {
                    let sum = digit + carry;
                    carry = sum >> 32;
                    sum as u32
                })
                .collect();
            (digits, carry < 0)
        };
        let (digits, negative) = carried(&sums);
        if !negative {
            return Self::new(false, place, &digits);
        }
        sums.iter_mut().for_each(|digit| *digit = -*digit);
        Self::new(true, place, &carried(&sums).0)
    }

    /// The double next to the integer times `2^unit`, divided by `one` and by `other`, of two the even one: rounded once
    /// where the product of these has fewer than 73 bits.
    pub(super) fn divided(&self, unit: i32, one: u64, other: u64) -> f64 {
        let Some((magnitude, exponent, more)) = top(&self.digits) else {
            return 0.0;
        };
        let (one, other) = (u128::from(one), u128::from(other));
        let (quotient, rest) = (magnitude / one, magnitude % one);
        let more = more || rest != 0 || quotient % other != 0;
        let exponent = exponent + 32 * self.place as i32 + unit;
        let value = nearest(quotient / other, exponent, more);
        if self.negative { -value } else { value }
    }
}

/// The first 128 bits of the number that `digits` are, the first of them 1, their exponent, and whether there is more.
/// None for zero.
pub(super) fn top(digits: &[u32]) -> Option<(u128, i32, bool)> {
    let highest = digits.iter().rposition(|digit| *digit != 0)?;
    let digit = |below: usize| highest.checked_sub(below).map_or(0, |index| digits[index]);
    let first = (0..4).fold(0, |first, below| first << 32 | u128::from(digit(below)));
    let shift = first.leading_zeros();
    let next = digit(4);
    let magnitude = first << shift | u128::from(next) >> (32 - shift);
    let below = highest.saturating_sub(4);
    let more = next << shift != 0 || digits[..below].iter().any(|digit| *digit != 0);
    Some((magnitude, 32 * (highest as i32 - 3) - shift.cast_signed(), more))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn integer(number: i128) -> Integer {
        let mut integer = Integer::from_number(number.unsigned_abs(), 0);
        integer.negative = number < 0;
        integer
    }

    fn number(integer: &Integer) -> i128 {
        let digits = integer.digits.iter().rev();
        let magnitude = digits.fold(0, |number: i128, digit| number << 32 | i128::from(*digit));
        let magnitude = magnitude << (32 * integer.place);
        if integer.negative { -magnitude } else { magnitude }
    }

    proptest! {
        #[test]
        fn integers_multiply_and_subtract_as_machine_words_do(one: i64, other: i64, shift in 0..63) {
            for (one, other) in [(one, other), (one >> shift, other), (one << shift, other >> shift), (one, one)] {
                let (one, other) = (i128::from(one), i128::from(other));
                prop_assert_eq!(number(&integer(one).times(&integer(other))), one * other);
                prop_assert_eq!(number(&integer(one).minus(&integer(other))), one - other);
                let product = integer(one).times(&integer(other));
                let difference = product.minus(&integer(one));
                prop_assert_eq!(number(&difference), one * other - one);
            }
        }

        #[test]
        fn quotients_are_those_of_doubles_where_these_are_exact(number in 0..1_i64 << 53, one in 1..1_u64 << 26) {
            let quotient = integer(number.into()).divided(0, one, 3);
            prop_assert_eq!(quotient, number as f64 / (one * 3) as f64);
        }
    }
}
