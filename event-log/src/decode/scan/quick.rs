//! Objects as most producers write them: in one line, names without escapes.
//!
//! Takes nothing that `serde_json` would not take, and finds the same places in it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Scanner, Slots};

/// A string is looked through by words, and beyond so many of them by a search that is slower to begin.
const WORDS: usize = 4;

impl Scanner {
    /// Puts the values of the object `text` at `row`. `false`: it must be looked at more closely; nothing is put then.
    pub(super) fn quick<'a>(&mut self, text: &'a str, slots: &mut Slots<'a>, row: usize) -> bool {
        let put = self.walk(text, slots, row).is_some();
        if !put {
            for field in slots.iter_mut() {
                field[row] = None;
            }
        }
        put
    }

    fn walk<'a>(&mut self, text: &'a str, slots: &mut Slots<'a>, row: usize) -> Option<()> {
        let bytes = text.as_bytes();
        // Neither a string with control characters in it, nor spaces other than those of one line.
        if !bytes.iter().fold(true, |so_far, byte| so_far & (*byte >= b' ')) {
            return None;
        }
        let mut at = expect(bytes, spaces(bytes, 0), b'{')?;
        for position in 0.. {
            at = expect(bytes, spaces(bytes, at), b'"')?;
            let (field, end) = self.name(position, text, at)?;
            let start = spaces(bytes, expect(bytes, spaces(bytes, end), b':')?);
            at = value_end(text, start)?;
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

    /// The field whose name begins at `at`, and what follows the name.
    fn name(&mut self, position: usize, text: &str, at: usize) -> Option<(Option<usize>, usize)> {
        let rest = &text.as_bytes()[at..];
        if let Some((known, field)) = self.shape.get(position)
            && rest.starts_with(known.as_bytes())
            && rest.get(known.len()) == Some(&b'"')
            && !known.contains(['"', '\\'])
        {
            return Some((*field, at + known.len() + 1));
        }
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if rest[length] == b'\\' {
            return None;
        }
        let field = self.field(position, &text[at..at + length]);
        Some((field, at + length + 1))
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
fn value_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let word = |word: &str| bytes[at..].starts_with(word.as_bytes()).then_some(at + word.len());
    match bytes.get(at)? {
        b'"' => string_end(bytes, at + 1),
        b'-' | b'0'..=b'9' => number_end(bytes, at),
        b'n' => word("null"),
        b't' => word("true"),
        b'f' => word("false"),
        b'[' | b'{' => {
            let mut json = serde_json::Deserializer::from_str(&text[at..]);
            let value = <&RawValue>::deserialize(&mut json).ok()?;
            Some(at + value.get().len())
        }
        _ => None,
    }
}

/// What follows the string whose characters begin at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = special(bytes, at)?;
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

/// Where the next quotation mark or backslash is.
fn special(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let (words, _) = rest.as_chunks::<8>();
    for (index, word) in words.iter().take(WORDS).enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ repeated(b'"')) | zeros(word ^ repeated(b'\\'));
        if found != 0 {
            return Some(at + 8 * index + found.trailing_zeros() as usize / 8);
        }
    }
    let looked_at = 8 * words.len().min(WORDS);
    Some(at + looked_at + memchr::memchr2(b'"', b'\\', &rest[looked_at..])?)
}

/// Whose highest bits say which bytes are 0: the lowest that does is right (Mycroft 1987).
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(repeated(1)) & !word & repeated(0x80)
}

fn repeated(byte: u8) -> u64 {
    u64::from(byte) * 0x0101_0101_0101_0101
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
    const VALUES: [&str; 24] = [
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
        assert!(taken > 20_000 && refused > 20_000, "{taken} taken, {refused} refused");
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
