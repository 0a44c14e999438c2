//! Objects as most producers write them: in one line, names without escapes.
//!
//! Takes nothing that `serde_json` would not take, and finds the same places in it. Quotation marks are found first, 32
//! bytes at a time, as in simdjson (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", 2019): a string ends at
//! the next one, however long it is.

use wide::u8x32;

use super::{Scanner, Slots};

/// Arrays and objects in values are walked through to so many levels.
const DEPTH_MAX: usize = 32;

impl Scanner {
    /// Puts the values of the object `text` at `row`. `false`: it must be looked at more closely; nothing is put then.
    pub(super) fn quick<'a>(&mut self, text: &'a str, slots: &mut Slots<'a>, row: usize) -> bool {
        let mut quotes = std::mem::take(&mut self.quotes);
        // Neither a string with control characters in it, nor spaces other than those of one line.
        let put = quotes.find(text.as_bytes()) && self.walk(text, &quotes, slots, row).is_some();
        self.quotes = quotes;
        if !put {
            for field in slots.iter_mut() {
                field[row] = None;
            }
        }
        put
    }

    fn walk<'a>(&mut self, text: &'a str, quotes: &Quotes, slots: &mut Slots<'a>, row: usize) -> Option<()> {
        let bytes = text.as_bytes();
        let mut at = expect(bytes, spaces(bytes, 0), b'{')?;
        for position in 0.. {
            at = expect(bytes, spaces(bytes, at), b'"')?;
            let end = quotes.next(at)?;
            let field = self.field(position, &text[at..end]);
            at = spaces(bytes, expect(bytes, end, b'"')?);
            let start = spaces(bytes, expect(bytes, at, b':')?);
            at = value_end(bytes, quotes, start, DEPTH_MAX)?;
            if let Some(field) = field {
                let value = &text[start..at];
                slots[field][row] = (value != "null").then_some(value);
            }
            at = spaces(bytes, at);
            match bytes.get(at)? {
                b',' => at += 1,
                b'}' => break,
                _ => return None,
            }
        }
        (spaces(bytes, at + 1) == bytes.len()).then_some(())
    }
}

/// Where a record has quotation marks and backslashes: bit `i` of word `w` stands for byte `64 w + i`.
#[derive(Debug, Clone, Default)]
pub(super) struct Quotes(Vec<u64>);

impl Quotes {
    /// Those of `bytes`. `false`: it has control characters.
    fn find(&mut self, bytes: &[u8]) -> bool {
        self.0.clear();
        let mut controls = u8x32::ZERO;
        let mut look = |half: &[u8; 32]| {
            let half = u8x32::new(*half);
            controls |= half.simd_eq(half.min(u8x32::splat(0x1f)));
            u64::from((half.simd_eq(u8x32::splat(b'"')) | half.simd_eq(u8x32::splat(b'\\'))).to_bitmask())
        };
        let mut look_at_all = |word: &[u8; 64]| {
            let (halves, _) = word.as_chunks::<32>();
            self.0.push(look(&halves[0]) | look(&halves[1]) << 32);
        };
        let (words, rest) = bytes.as_chunks::<64>();
        words.iter().for_each(&mut look_at_all);
        let mut last = [b' '; 64];
        last[..rest.len()].copy_from_slice(rest);
        look_at_all(&last);
        !controls.any()
    }

    /// The next one from `at` on.
    fn next(&self, at: usize) -> Option<usize> {
        let mut word = at / 64;
        let mut bits = self.0.get(word)? & (u64::MAX << (at % 64));
        while bits == 0 {
            word += 1;
            bits = *self.0.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }
}

fn spaces(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at) == Some(&b' ') {
        at += 1;
    }
    at
}

fn expect(bytes: &[u8], at: usize, wanted: u8) -> Option<usize> {
    (bytes.get(at) == Some(&wanted)).then_some(at + 1)
}

/// Where the value that begins at `at` ends.
fn value_end(bytes: &[u8], quotes: &Quotes, at: usize, depth: usize) -> Option<usize> {
    let word = |word: &[u8]| bytes[at..].starts_with(word).then_some(at + word.len());
    match bytes.get(at)? {
        b'"' => string_end(bytes, quotes, at + 1),
        b'-' | b'0'..=b'9' => number_end(bytes, at),
        b'n' => word(b"null"),
        b't' => word(b"true"),
        b'f' => word(b"false"),
        b'[' => items_end(bytes, quotes, at + 1, b']', depth.checked_sub(1)?),
        b'{' => items_end(bytes, quotes, at + 1, b'}', depth.checked_sub(1)?),
        _ => None,
    }
}

/// What follows the array or object whose first item begins at `at`, and which `close` ends.
fn items_end(bytes: &[u8], quotes: &Quotes, at: usize, close: u8, depth: usize) -> Option<usize> {
    let mut at = spaces(bytes, at);
    if bytes.get(at) == Some(&close) {
        return Some(at + 1);
    }
    loop {
        if close == b'}' {
            let name_end = string_end(bytes, quotes, expect(bytes, at, b'"')?)?;
            at = spaces(bytes, expect(bytes, spaces(bytes, name_end), b':')?);
        }
        at = spaces(bytes, value_end(bytes, quotes, at, depth)?);
        match bytes.get(at)? {
            b',' => at = spaces(bytes, at + 1),
            found if *found == close => return Some(at + 1),
            _ => return None,
        }
    }
}

/// What follows the string whose characters begin at `at`.
fn string_end(bytes: &[u8], quotes: &Quotes, mut at: usize) -> Option<usize> {
    loop {
        at = quotes.next(at)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += match bytes.get(at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' if bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return None,
        };
    }
}

/// What follows the number that begins at `at`.
fn number_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + usize::from(bytes[at] == b'-');
    at = match bytes.get(at)? {
        b'0' => at + 1,
        _ => digits_end(bytes, at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = digits_end(bytes, at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        at = digits_end(bytes, at)?;
    }
    Some(at)
}

/// What follows the digits at `at`, of which there is one at least.
fn digits_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let digits = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    (digits > 0).then_some(at + digits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const NAMES: [&str; 6] = ["a", "b", "long name of a field", "ü", "a", ""];
    const VALUES: [&str; 31] = [
        "1",
        "-0",
        "0",
        "12.5",
        "1e9",
        "-3.25E-7",
        "01",
        "1.",
        "-",
        "null",
        "true",
        "nulL",
        "\"\"",
        "\"x\"",
        "\"a longer text, over several words of eight bytes each\"",
        "\"q\\\"uo\\\\te\"",
        "\"\\u00e9\\ud800\"",
        "\"\\u00g0\"",
        "\"\\x\"",
        "[1,[2,{}],\"]\"]",
        "{\"a\":{\"b\":[]}}",
        "[1,]",
        "[ ]",
        "{ }",
        "[ 1 , [ ] ,{ } ]",
        "{\"a\" : \"x\\n\" , \"b\":[null,true ],\"\":{}}",
        "{\"a\":1,}",
        "{1:1}",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        "\"tab\there\"",
        "\"ümläut 日本\"",
    ];

    fn object(random: &mut StdRng) -> String {
        let mut text = String::from("{");
        for field in 0..random.random_range(0..5) {
            let space = ["", "", "", " ", "  ", "\n"].choose(random).unwrap();
            let comma = if field > 0 { "," } else { "" };
            let (name, value) = (NAMES.choose(random).unwrap(), VALUES.choose(random).unwrap());
            text += &format!("{comma}{space}\"{name}\":{space}{value}{space}");
        }
        text + "}"
    }

    /// Changes some bytes of `text`, or cuts it.
    fn spoiled(text: &str, random: &mut StdRng) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..random.random_range(0..3) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes.truncate(at.max(1)),
                1 => {
                    bytes.remove(at);
                    bytes.push(b' ');
                }
                2 => bytes[at] = *b"\"\\{}[]:, 01-.eEnul\x01\x7f".choose(random).unwrap(),
                _ => bytes.insert(at, *b"\"\\{}[]:, 01-.eEnul\t".choose(random).unwrap()),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn nothing_is_taken_that_serde_json_refuses_and_the_same_is_found() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut quick, mut slow) = (
            Scanner::new(["a", "b", "long name of a field"]),
            Scanner::new(["a", "b", "long name of a field"]),
        );
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let text = spoiled(&object(&mut random), &mut random);
            let (mut found, mut expected) = (quick.slots(1), slow.slots(1));
            let took = quick.quick(&text, &mut found, 0);
            let valid = slow.scan_slowly(&text, &mut expected, 0);
            if took {
                assert!(valid.is_ok(), "{text:?}: {valid:?}");
                assert_eq!(found, expected, "{text:?}");
                taken += 1;
            } else {
                assert!(found.iter().all(|field| field[0].is_none()), "{text:?}");
                refused += usize::from(valid.is_err());
            }
        }
        assert!(taken > 15_000 && refused > 20_000, "{taken} taken, {refused} refused");
    }

    #[test]
    fn what_most_producers_write_is_taken() {
        let mut scanner = Scanner::new(["a", "b"]);
        for text in [
            "{\"a\":1,\"b\":\"x\"}",
            " { \"a\" : 1 , \"c\" : [1, 2] , \"b\" : null } ",
            "{\"b\":\"a \\\"text\\\" with \\u00e9\",\"c\":{\"a\":0},\"a\":-1.5e+3}",
        ] {
            let mut slots = scanner.slots(1);
            assert!(scanner.quick(text, &mut slots, 0), "{text}");
        }
    }
}
