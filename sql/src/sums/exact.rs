//! The exact sum of doubles, rounded once when it is asked for.
//!
//! Every finite double is an integer multiple of the smallest one, 2^-1074: of one unit. So a sum of doubles is an
//! integer of up to 2,098 bits and as many more as the number of rows has. Adding integers has no order, hence neither has
//! this sum. Values of one column mostly lie close together: 128 bits at a chosen place hold their sum, and only what does
//! not fit moves to the full width, an accumulator of 32-bit digits with room for carries as in R. M. Neal, "Fast exact
//! summation using small and large superaccumulators" (2015, arXiv:1505.05571).

use std::mem::size_of;

use super::integer::{Integer, top};

/// Binary exponent of a unit.
pub(super) const UNIT: i32 = -1074;
/// Bits of the fraction of a double.
const FRACTION: u32 = 52;
/// The exponent field of infinities and NaN.
const SPECIAL: u32 = 0x7ff;
/// No place of any double is within reach of this base.
const NO_WINDOW: u32 = 1 << 16;
/// The window keeps one bit for the sign and one for the carry of an addition.
const WINDOW_BITS: u32 = 126;
/// A mantissa of 53 bits that is shifted by more would touch them.
const LARGEST_SHIFT: u32 = WINDOW_BITS - FRACTION - 1;
/// Room below the first value of a window, at most: smaller values come later.
const ROOM_BELOW: u32 = 32;
/// Digits of 32 bits: 2,098 bits of doubles, 64 of the count of rows, and one digit that catches the sign.
const DIGITS: usize = 70;
/// Bits that a stored sum may reach up to.
const STORED_BITS: usize = 2_200;
/// Additions after which carries must be propagated: each adds less than 2^33 to a digit of 63 bits.
const ADDITIONS: u32 = 1 << 29;

/// Bits of the first byte of an encoded sum.
mod flag {
    pub(super) const NEGATIVE: u8 = 1;
    pub(super) const NAN: u8 = 2;
    pub(super) const POSITIVE_INFINITY: u8 = 4;
    pub(super) const NEGATIVE_INFINITY: u8 = 8;
}

/// Bytes of a stored state that were not written as one.
#[derive(Debug, thiserror::Error)]
#[error("a stored state of {bytes} bytes is damaged: rebuild the partial that holds it")]
pub(crate) struct Damaged {
    pub(super) bytes: usize,
}

/// The exact sum of the doubles that were added, in any order.
#[derive(Debug)]
pub(crate) struct ExactSum {
    /// The sum is `window * 2^base` units, unless it is in `wide`.
    window: i128,
    /// A multiple of 8, or [`NO_WINDOW`].
    base: u32,
    wide: Option<Box<Wide>>,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self {
            window: 0,
            base: NO_WINDOW,
            wide: None,
        }
    }
}

/// What a double is made of: `mantissa * 2^place` units; none for NaN and infinities.
fn parts(value: f64) -> Option<(i64, u32)> {
    let bits = value.to_bits();
    let exponent = (bits >> FRACTION) as u32 & SPECIAL;
    if exponent == SPECIAL {
        return None;
    }
    let fraction = bits & ((1 << FRACTION) - 1);
    let magnitude = (fraction | u64::from(exponent != 0) << FRACTION).cast_signed();
    let mantissa = if value.is_sign_negative() {
        -magnitude
    } else {
        magnitude
    };
    Some((mantissa, exponent.saturating_sub(1)))
}

impl ExactSum {
    /// Adds `value`. Returns the bytes that this allocated.
    #[inline]
    pub(crate) fn add(&mut self, value: f64) -> usize {
        let Some((mantissa, place)) = parts(value) else {
            return self.special(value, 1);
        };
        let shift = place.wrapping_sub(self.base);
        if shift <= LARGEST_SHIFT
            && let Some(sum) = self.window.checked_add(i128::from(mantissa) << shift)
        {
            self.window = sum;
            return 0;
        }
        self.add_elsewhere(i128::from(mantissa), place)
    }

    /// Takes away a `value` that was added.
    pub(crate) fn remove(&mut self, value: f64) -> usize {
        if value.is_finite() {
            self.add(-value)
        } else {
            self.special(value, -1)
        }
    }

    /// Adds the product of two doubles, exact down to a unit (what is smaller is cut off), and what overflows as an
    /// infinity.
    pub(crate) fn add_product(&mut self, one: f64, other: f64) -> usize {
        self.change_by_product(one, other, 1)
    }

    /// Takes away a product that was added.
    pub(crate) fn remove_product(&mut self, one: f64, other: f64) -> usize {
        self.change_by_product(one, other, -1)
    }

    fn change_by_product(&mut self, one: f64, other: f64, times: i64) -> usize {
        let product = one * other;
        let (Some(one), Some(other), true) = (parts(one), parts(other), product.is_finite()) else {
            return self.special(product, times);
        };
        let mantissa = i128::from(one.0) * i128::from(other.0) * i128::from(times);
        let place = (one.1 + other.1).cast_signed() + UNIT;
        match u32::try_from(place) {
            Ok(place) => self.add_mantissa(mantissa, place),
            Err(_) => {
                let below = place.unsigned_abs().min(i128::BITS - 1);
                let cut = (mantissa.unsigned_abs() >> below).cast_signed();
                self.add_mantissa(if mantissa < 0 { -cut } else { cut }, 0)
            }
        }
    }

    /// The sum as an integer of units; none where it is no finite number.
    pub(super) fn integer(&self) -> Option<Integer> {
        let Some(wide) = &self.wide else {
            if self.window == 0 {
                return Some(Integer::default());
            }
            // In whole digits.
            let (place, shift) = (self.base as usize / 32, self.base % 32);
            let magnitude = self.window.unsigned_abs();
            let low = magnitude << shift;
            let mut digits = [0, 32, 64, 96, 0].map(|down| (low >> down) as u32);
            digits[4] = magnitude.checked_shr(u128::BITS - shift).unwrap_or(0) as u32;
            return Some(Integer::new(self.window < 0, place, &digits));
        };
        if wide.flags() != 0 {
            return None;
        }
        let (negative, digits) = wide.digits();
        Some(Integer::new(negative, 0, &digits))
    }

    fn special(&mut self, value: f64, times: i64) -> usize {
        let (wide, allocated) = self.widened();
        let count = if value.is_nan() {
            &mut wide.nans
        } else if value > 0.0 {
            &mut wide.positive_infinities
        } else {
            &mut wide.negative_infinities
        };
        *count += times;
        allocated
    }

    /// Adds `mantissa * 2^place` units where the window does not take them as it stands.
    #[cold]
    fn add_elsewhere(&mut self, mantissa: i128, place: u32) -> usize {
        if mantissa == 0 || (self.wide.is_none() && self.add_with_moved_window(mantissa, place)) {
            return 0;
        }
        let (wide, allocated) = self.widened();
        wide.add(mantissa, place);
        allocated
    }

    /// Moves the window so that it holds what it does and `mantissa * 2^place` units more, unless its bits are too few.
    fn add_with_moved_window(&mut self, mantissa: i128, place: u32) -> bool {
        let mut low = place + mantissa.trailing_zeros();
        let mut high = place + bits(mantissa);
        if self.window != 0 {
            low = low.min(self.base + self.window.trailing_zeros());
            high = high.max(self.base + bits(self.window));
        }
        // A base that is a multiple of 8 can lie 7 bits lower than wanted.
        let Some(spare) = (WINDOW_BITS - 7).checked_sub(high - low) else {
            return false;
        };
        let base = low.saturating_sub(ROOM_BELOW.min(spare / 2)) / 8 * 8;
        let moved = |mantissa: i128, from: u32| match from.checked_sub(base) {
            Some(up) => mantissa << up,
            None => mantissa >> (base - from),
        };
        let window = if self.window == 0 {
            0
        } else {
            moved(self.window, self.base)
        };
        self.window = window + moved(mantissa, place);
        self.base = base;
        true
    }

    fn widened(&mut self) -> (&mut Wide, usize) {
        let allocated = if self.wide.is_some() { 0 } else { size_of::<Wide>() };
        let (window, base) = (self.window, self.base);
        let wide = self.wide.get_or_insert_with(|| {
            let mut wide = Box::<Wide>::default();
            if window != 0 {
                wide.add(window, base);
            }
            wide
        });
        self.window = 0;
        self.base = NO_WINDOW;
        (wide, allocated)
    }

    /// Bytes on the heap.
    pub(crate) fn heap(&self) -> usize {
        if self.wide.is_some() { size_of::<Wide>() } else { 0 }
    }

    /// The double next to the sum, of two the even one: NaN if one was added or both infinities were, an infinity if it
    /// was added or the sum lies beyond all doubles. A sum of zero is 0.0, also that of -0.0 alone.
    pub(crate) fn rounded(&self) -> f64 {
        self.divided(1)
    }

    /// The double next to the sum divided by `count`, rounded as [`ExactSum::rounded`] is, and only once.
    pub(crate) fn divided(&self, count: u64) -> f64 {
        if let Some(special) = self.wide.as_ref().and_then(|wide| wide.special()) {
            return special;
        }
        let (negative, (magnitude, exponent, more)) = match &self.wide {
            Some(wide) => {
                let (negative, digits) = wide.digits();
                match top(&digits) {
                    Some(top) => (negative, top),
                    None => return 0.0,
                }
            }
            None if self.window == 0 => return 0.0,
            None => {
                let magnitude = self.window.unsigned_abs();
                let zeros = magnitude.leading_zeros();
                let exponent = self.base.cast_signed() - zeros.cast_signed();
                (self.window < 0, (magnitude << zeros, exponent, false))
            }
        };
        let count = u128::from(count);
        let (quotient, rest) = match count {
            1 => (magnitude, 0),
            _ => (magnitude / count, magnitude % count),
        };
        let value = nearest(quotient, exponent + UNIT, more || rest != 0);
        if negative { -value } else { value }
    }

    /// Appends the bytes of the sum. They depend on the sum alone, and not on how it came to be: flags; where the sum is
    /// finite and not zero also its lowest byte's place (in bytes, 2 bytes, little endian) and its magnitude without zeros at
    /// either end, little endian.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let Some(wide) = &self.wide else {
            let place = if self.window == 0 { 0 } else { self.base as usize / 8 };
            return encode(self.window < 0, &self.window.unsigned_abs().to_le_bytes(), place, bytes);
        };
        let special = wide.flags();
        if special != 0 {
            bytes.push(special);
            return;
        }
        let (negative, digits) = wide.digits();
        let mut magnitude = [0; 4 * DIGITS];
        for (bytes, digit) in magnitude.chunks_exact_mut(4).zip(digits) {
            bytes.copy_from_slice(&digit.to_le_bytes());
        }
        encode(negative, &magnitude, 0, bytes);
    }

    /// Adds a sum that [`ExactSum::encode`] wrote. Returns the bytes that this allocated.
    pub(crate) fn add_encoded(&mut self, encoded: &[u8]) -> Result<usize, Damaged> {
        let damaged = Damaged { bytes: encoded.len() };
        let (flags, magnitude) = match encoded {
            [flags] => (*flags, None),
            [flags, low, high, magnitude @ ..] => (*flags, Some((u16::from_le_bytes([*low, *high]), magnitude))),
            _ => return Err(damaged),
        };
        if flags >= flag::NEGATIVE_INFINITY << 1 {
            return Err(damaged);
        }
        let specials = [
            (flag::NAN, f64::NAN),
            (flag::POSITIVE_INFINITY, f64::INFINITY),
            (flag::NEGATIVE_INFINITY, f64::NEG_INFINITY),
        ];
        let mut allocated = 0;
        for (flag, value) in specials {
            if flags & flag != 0 {
                allocated += self.special(value, 1);
            }
        }
        let Some((place, magnitude)) = magnitude else {
            return Ok(allocated);
        };
        if (usize::from(place) + magnitude.len()) * 8 > STORED_BITS {
            return Err(damaged);
        }
        let mut place = u32::from(place) * 8;
        for part in magnitude.chunks(MANTISSA_BYTES) {
            let mut mantissa = [0; 16];
            mantissa[..part.len()].copy_from_slice(part);
            let mantissa = i128::from_le_bytes(mantissa);
            let mantissa = if flags & flag::NEGATIVE != 0 {
                -mantissa
            } else {
                mantissa
            };
            allocated += self.add_mantissa(mantissa, place);
            place += 8 * MANTISSA_BYTES as u32;
        }
        Ok(allocated)
    }

    fn add_mantissa(&mut self, mantissa: i128, place: u32) -> usize {
        let shift = place.wrapping_sub(self.base);
        if shift < WINDOW_BITS
            && shift + bits(mantissa) <= WINDOW_BITS
            && let Some(sum) = self.window.checked_add(mantissa << shift)
        {
            self.window = sum;
            return 0;
        }
        self.add_elsewhere(mantissa, place)
    }
}

/// Bytes of a stored magnitude that are added at once, below the sign.
const MANTISSA_BYTES: usize = 15;

/// Bits of the magnitude of `mantissa`.
fn bits(mantissa: i128) -> u32 {
    u128::BITS - mantissa.unsigned_abs().leading_zeros()
}

/// Appends flags, place and magnitude; `place` is that of the first byte of `magnitude`.
fn encode(negative: bool, magnitude: &[u8], place: usize, bytes: &mut Vec<u8>) {
    let Some(first) = magnitude.iter().position(|byte| *byte != 0) else {
        bytes.push(0);
        return;
    };
    let until = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let place = u16::try_from(place + first).expect("a sum of doubles has a few hundred bytes");
    bytes.push(if negative { flag::NEGATIVE } else { 0 });
    bytes.extend(place.to_le_bytes());
    bytes.extend(&magnitude[first..until]);
}

/// The double next to `magnitude * 2^exponent`, or to a little `more` than that, of two the even one. If there is more,
/// `magnitude` has at least 55 bits.
pub(super) fn nearest(magnitude: u128, exponent: i32, more: bool) -> f64 {
    let bits = (u128::BITS - magnitude.leading_zeros()).cast_signed();
    if bits + exponent > f64::MAX_EXP {
        return f64::INFINITY;
    }
    // The last bit that a double of this size has; below it is rounded.
    let last = (bits + exponent - f64::MANTISSA_DIGITS.cast_signed()).max(UNIT);
    let Ok(dropped) = u32::try_from(last - exponent) else {
        return magnitude as f64 * power_of_two(exponent);
    };
    if dropped == 0 {
        return magnitude as f64 * power_of_two(exponent);
    }
    let Some(half) = 1_u128.checked_shl(dropped - 1) else {
        return 0.0;
    };
    let kept = magnitude.checked_shr(dropped).unwrap_or(0);
    let below = magnitude & (half | (half - 1));
    let up = below > half || (below == half && (more || kept & 1 == 1));
    (kept + u128::from(up)) as f64 * power_of_two(last)
}

/// 2^exponent, for the exponents of doubles.
fn power_of_two(exponent: i32) -> f64 {
    let normal = u64::try_from(exponent - f64::MIN_EXP + 1);
    f64::from_bits(match normal {
        Ok(above) => (above + 1) << FRACTION,
        Err(_) => 1 << (exponent - UNIT),
    })
}

/// A sum of any size, and what is no finite number.
#[derive(Debug)]
struct Wide {
    /// The sum is that of `digits[i] * 2^(32 i)` units.
    digits: [i64; DIGITS],
    /// Additions since carries were propagated.
    additions: u32,
    nans: i64,
    positive_infinities: i64,
    negative_infinities: i64,
}

impl Default for Wide {
    fn default() -> Self {
        Self {
            digits: [0; DIGITS],
            additions: 0,
            nans: 0,
            positive_infinities: 0,
            negative_infinities: 0,
        }
    }
}

impl Wide {
    fn add(&mut self, mantissa: i128, place: u32) {
        if self.additions == ADDITIONS {
            propagate(&mut self.digits);
            self.additions = 1;
        }
        self.additions += 1;
        let sign = if mantissa < 0 { -1 } else { 1 };
        let mut rest = mantissa.unsigned_abs();
        let mut index = place as usize / 32;
        while rest != 0 {
            let digits = u64::from(rest as u32) << (place % 32);
            self.digits[index] += sign * i64::from(digits as u32);
            self.digits[index + 1] += sign * i64::from((digits >> 32) as u32);
            rest >>= 32;
            index += 1;
        }
    }

    fn flags(&self) -> u8 {
        let set = |count: i64, flag: u8| if count > 0 { flag } else { 0 };
        set(self.nans, flag::NAN)
            | set(self.positive_infinities, flag::POSITIVE_INFINITY)
            | set(self.negative_infinities, flag::NEGATIVE_INFINITY)
    }

    fn special(&self) -> Option<f64> {
        match self.flags() {
            0 => None,
            flag::POSITIVE_INFINITY => Some(f64::INFINITY),
            flag::NEGATIVE_INFINITY => Some(f64::NEG_INFINITY),
            _ => Some(f64::NAN),
        }
    }

    /// Whether the sum is negative, and the digits of its magnitude.
    fn digits(&self) -> (bool, [u32; DIGITS]) {
        let mut digits = self.digits;
        propagate(&mut digits);
        let negative = digits[DIGITS - 1] < 0;
        if negative {
            digits.iter_mut().for_each(|digit| *digit = -*digit);
            propagate(&mut digits);
        }
        (negative, digits.map(|digit| digit as u32))
    }
}

/// Leaves digits of 32 bits; the highest takes the sign.
fn propagate(digits: &mut [i64; DIGITS]) {
    let mut carry = 0;
    for digit in digits.iter_mut().take(DIGITS - 1) {
        let sum = *digit + carry;
        *digit = sum & i64::from(u32::MAX);
        carry = sum >> 32;
    }
    digits[DIGITS - 1] += carry;
}

/// The double next to `total / count`, of two the even one.
pub(crate) fn nearest_quotient(total: i128, count: u64) -> f64 {
    let magnitude = total.unsigned_abs();
    if magnitude == 0 {
        return 0.0;
    }
    let zeros = magnitude.leading_zeros();
    let (magnitude, count) = (magnitude << zeros, u128::from(count));
    let value = nearest(magnitude / count, -zeros.cast_signed(), magnitude % count != 0);
    if total < 0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Bits that the oracle counts with: of the units, and of fractions of one.
    const BITS: usize = 2_300;
    const FRACTIONS: usize = 70;

    /// The double next to the sum of finite `values` divided by `count`: how often each bit is there, carried, divided and
    /// rounded bit by bit.
    fn oracle(values: &[f64], count: u64) -> f64 {
        let mut bits = vec![0_i64; BITS];
        for value in values {
            let mantissa = value.to_bits() & ((1 << 53) - 1);
            let exponent = (value.to_bits() >> 52) as usize & 0x7ff;
            let (mantissa, place) = match exponent {
                0 => (mantissa, 0),
                _ => (mantissa & ((1 << 52) - 1) | 1 << 52, exponent - 1),
            };
            for bit in 0..53 {
                let one = i64::from(mantissa >> bit & 1 == 1);
                bits[FRACTIONS + place + bit] += if value.is_sign_negative() { -one } else { one };
            }
        }
        let carry = |bits: &mut [i64]| {
            let mut carry = 0;
            for bit in bits {
                let sum = *bit + carry;
                *bit = sum.rem_euclid(2);
                carry = sum.div_euclid(2);
            }
            carry < 0
        };
        let mut digits = bits.clone();
        let negative = carry(&mut digits);
        if negative {
            digits = bits.iter().map(|bit| -bit).collect();
            carry(&mut digits);
        }
        let mut rest = 0_u128;
        for bit in digits.iter_mut().rev() {
            rest = rest * 2 + u128::from(*bit == 1);
            *bit = i64::from(rest >= u128::from(count));
            rest -= if *bit == 1 { u128::from(count) } else { 0 };
        }
        let Some(highest) = digits.iter().rposition(|bit| *bit == 1) else {
            return 0.0;
        };
        let last = highest.saturating_sub(52).max(FRACTIONS);
        let mut mantissa = 0_u64;
        for bit in digits[last..].iter().rev().skip_while(|bit| **bit == 0) {
            mantissa = mantissa * 2 + u64::from(*bit == 1);
        }
        let below = rest > 0 || digits[..last - 1].contains(&1);
        if digits[last - 1] == 1 && (below || mantissa % 2 == 1) {
            mantissa += 1;
        }
        // The bit before the fraction counts the exponent up, as a carry out of it does.
        let bits = (((last - FRACTIONS) as u64) << 52) + mantissa;
        let value = f64::from_bits(bits.min(f64::INFINITY.to_bits()));
        if negative { -value } else { value }
    }

    fn encoded(sum: &ExactSum) -> Vec<u8> {
        let mut bytes = Vec::new();
        sum.encode(&mut bytes);
        bytes
    }

    fn sum_of(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        for value in values {
            sum.add(*value);
        }
        sum
    }

    /// The sum over a random order, split and tree of merges of encoded states.
    fn merged(values: &[f64], random: &mut StdRng) -> ExactSum {
        let mut values = values.to_vec();
        values.shuffle(random);
        let mut states = Vec::new();
        let mut rest = values.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.random_range(1..=rest.len()));
            states.push(encoded(&sum_of(piece)));
            rest = after;
        }
        while states.len() > 1 {
            let mut sum = ExactSum::default();
            for state in states.split_off(states.len() - random.random_range(2..=3.min(states.len()))) {
                sum.add_encoded(&state).unwrap();
            }
            states.insert(random.random_range(0..=states.len()), encoded(&sum));
        }
        let mut sum = ExactSum::default();
        for state in states {
            sum.add_encoded(&state).unwrap();
        }
        sum
    }

    /// Any finite double, ones of like size, money, ones that cancel each other, the ends of the range, and few bits.
    fn doubles() -> impl Strategy<Value = Vec<f64>> {
        let every = any::<u64>()
            .prop_map(f64::from_bits)
            .prop_filter("finite", |value| value.is_finite());
        let near = -1e6..1e6_f64;
        let money = (-1_000_000..1_000_000_i64).prop_map(|cents| cents as f64 / 100.0);
        let small = (0..1_u64 << 54).prop_map(f64::from_bits);
        let large = ((0x7fc0_0000_0000_0000..f64::INFINITY.to_bits()), any::<bool>())
            .prop_map(|(bits, negative)| f64::from_bits(bits) * if negative { -1.0 } else { 1.0 });
        let power = (-1074..1024_i32).prop_map(power_of_two);
        let list = |one: BoxedStrategy<f64>| prop::collection::vec(one, 1..40);
        let mixed = prop_oneof![
            every.clone(),
            near.clone(),
            money.clone(),
            small.clone(),
            large.clone(),
            power.clone()
        ];
        prop_oneof![
            list(every.boxed()),
            list(near.boxed()),
            list(money.boxed()),
            list(small.boxed()),
            list(large.boxed()),
            list(power.boxed()),
            list(mixed.boxed()),
        ]
        .prop_flat_map(|values| {
            // Some of them once more with the other sign, so that much cancels.
            (0..=values.len()).prop_map(move |cancelled| {
                let negated = values[..cancelled].iter().map(|value| -value);
                values.iter().copied().chain(negated).collect()
            })
        })
    }

    proptest! {
        #[test]
        fn any_order_split_and_merge_gives_the_nearest_double(values in doubles(), seed: u64, count in 1..u64::MAX) {
            let sum = sum_of(&values);
            let shuffled = merged(&values, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(encoded(&sum), encoded(&shuffled));
            for count in [1, values.len() as u64, 3, count] {
                let expected = oracle(&values, count);
                prop_assert_eq!(sum.divided(count).to_bits(), expected.to_bits(), "{:e} / {}", expected, count);
                prop_assert_eq!(shuffled.divided(count).to_bits(), expected.to_bits());
            }
        }

        #[test]
        fn what_is_taken_away_leaves_nothing(values in doubles(), taken in doubles()) {
            let mut sum = sum_of(&values);
            for value in taken.iter().chain([&f64::NAN, &f64::INFINITY]) {
                sum.add(*value);
            }
            for value in taken.iter().chain([&f64::INFINITY, &f64::NAN]) {
                sum.remove(*value);
            }
            prop_assert_eq!(encoded(&sum), encoded(&sum_of(&values)));
        }

        #[test]
        fn quotients_of_integers_are_the_nearest_doubles(total: i128, small: i64, count in 1..u64::MAX) {
            for (total, count) in [(total, count), (small.into(), count), (small.into(), count % 1_000 + 1)] {
                // The integer as a sum of doubles.
                let limbs = (0..5).map(|limb| {
                    let bits = (total.unsigned_abs() >> (26 * limb) & ((1 << 26) - 1)) as f64;
                    bits * power_of_two(26 * limb) * if total < 0 { -1.0 } else { 1.0 }
                });
                let limbs: Vec<f64> = limbs.collect();
                prop_assert_eq!(nearest_quotient(total, count).to_bits(), oracle(&limbs, count).to_bits());
            }
        }

        #[test]
        fn damaged_bytes_are_an_error_or_a_number_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut sum = sum_of(&[1.0]);
            if sum.add_encoded(&bytes).is_ok() {
                sum.divided(3);
                encoded(&sum);
            }
        }
    }

    #[test]
    fn ends_of_the_range_and_what_is_no_number() {
        let max = f64::MAX;
        let tiny = f64::from_bits(1);
        let half_last = power_of_two(970);
        for (values, expected) in [
            (vec![], 0.0),
            (vec![-0.0, -0.0], 0.0),
            (vec![1e308, 1e308, -1e308], 1e308),
            (vec![1e308, 1e308], f64::INFINITY),
            (vec![-1e308, -1e308], f64::NEG_INFINITY),
            (vec![max, half_last], f64::INFINITY),
            (vec![max, half_last, -tiny], max),
            (vec![1e16, 1.0, -1e16], 1.0),
            (vec![0.1, 0.2, 0.3], 0.6),
            (vec![1.0, power_of_two(-53)], 1.0),
            (vec![1.0, power_of_two(-53), tiny], 1.0 + f64::EPSILON),
            (vec![tiny, tiny], 2.0 * tiny),
            (vec![max, tiny, -max], tiny),
            (vec![1.0, f64::NAN], f64::NAN),
            (vec![max, max, f64::NEG_INFINITY], f64::NEG_INFINITY),
            (vec![f64::INFINITY, 5.0, f64::INFINITY], f64::INFINITY),
            (vec![f64::INFINITY, f64::NEG_INFINITY], f64::NAN),
        ] {
            for seed in 0..5 {
                let sum = merged(&values, &mut StdRng::seed_from_u64(seed));
                let same = sum.rounded().to_bits() == expected.to_bits() || sum.rounded().is_nan() && expected.is_nan();
                assert!(same, "{values:?}: {} and not {expected}", sum.rounded());
                assert_eq!(encoded(&sum), encoded(&sum_of(&values)), "{values:?}");
            }
        }
        // Half of the smallest double, to even.
        assert_eq!(sum_of(&[tiny]).divided(2).to_bits(), 0);
        assert_eq!(sum_of(&[tiny, tiny, tiny]).divided(2).to_bits(), 2);
        assert_eq!(sum_of(&[max, max]).divided(2), max);
    }

    #[test]
    fn carries_are_propagated_before_digits_overflow() {
        let mut sum = sum_of(&[f64::MAX, f64::from_bits(1)]);
        let wide = sum.wide.as_mut().unwrap();
        for _ in 0..3 {
            wide.additions = ADDITIONS;
            wide.digits[33] = i64::MAX / 2;
            wide.add(1, 33 * 32);
            assert!(wide.digits[33] <= 1 << 32);
        }
    }

    #[test]
    fn states_are_as_small_as_their_numbers() {
        let prices: Vec<f64> = (0..10_000).map(|cents| f64::from(cents) / 100.0).collect();
        let sum = sum_of(&prices);
        assert_eq!(
            (sum.heap(), encoded(&sum).len() <= 14),
            (0, true),
            "{}",
            encoded(&sum).len()
        );
        // Stored sums look like this: raise the fold format when they change.
        assert_eq!(encoded(&sum_of(&[0.0])), [0]);
        assert_eq!(encoded(&sum_of(&[1.5])), [0, 134, 0, 6]);
        assert_eq!(encoded(&sum_of(&[-1.5, 1e300, -1e300])), [1, 134, 0, 6]);
        assert_eq!(encoded(&sum_of(&[f64::INFINITY, 1.0, f64::NAN])), [6]);
        assert_eq!(encoded(&sum_of(&[1.0])).len(), 4);
    }
}
