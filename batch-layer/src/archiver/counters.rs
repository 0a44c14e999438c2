//! What the archiver counts, for metrics.

use std::collections::BTreeMap;

use foldline_event_log::EventBatch;
use foldline_sql::Stream;

use crate::Commit;

/// Kinds of dead letters that are counted apart; the rest counts as `other`.
const KINDS_MAX: usize = 64;

/// What was archived since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiverCounters {
    /// Commits.
    pub commits: u64,
    /// Files, dead letters' included.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Bytes of keys and values as they arrived.
    pub raw_bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Rows marked late.
    pub late: u64,
    /// Rows marked duplicate.
    pub duplicates: u64,
    /// Dead letters by stream and kind of reason (its text up to the first name or number).
    pub dead_letters: BTreeMap<(String, String), u64>,
    /// Values that became NULL because they did not fit, by stream and column.
    pub nulled: BTreeMap<(String, String), u64>,
    /// Commits by what caused them.
    pub rolls: BTreeMap<RollReason, u64>,
    /// Commits lost to another archiver.
    pub lost: u64,
    /// Tries that failed and were, or will be, made again.
    pub retries: u64,
    /// Bytes held in memory now, raw bytes and columns.
    pub held_bytes: u64,
}

/// Why held rows became a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RollReason {
    /// The oldest record was held long enough.
    Age,
    /// Enough bytes were held.
    Size,
    /// Memory ran out, and this partition held most.
    Memory,
    /// Somebody waits for a tick.
    Reach,
    /// The commit record would name too many ticks.
    Ticks,
    /// The archiver, or the reading of this partition, ends.
    End,
}

impl ArchiverCounters {
    pub(super) fn committed(&mut self, stream: &Stream, commit: &Commit, counted: &Counted, reason: RollReason) {
        let rows: u64 = commit.files.iter().map(|file| file.rows).sum();
        let files = commit.files.iter().chain(&commit.dead_letters);
        let (count, bytes) = files.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.bytes));
        self.commits += 1;
        self.files += count;
        self.bytes += bytes;
        self.raw_bytes += counted.raw_bytes;
        self.rows += rows;
        self.late += commit.late;
        self.duplicates += commit.duplicates;
        *self.rolls.entry(reason).or_default() += 1;
        for (column, nulled) in &commit.nulled {
            *self.nulled.entry((stream.name.clone(), column.clone())).or_default() += nulled;
        }
        for (kind, letters) in &counted.dead_letters {
            let mut key = (stream.name.clone(), kind.clone());
            if self.dead_letters.len() >= KINDS_MAX && !self.dead_letters.contains_key(&key) {
                "other".clone_into(&mut key.1);
            }
            *self.dead_letters.entry(key).or_default() += letters;
        }
    }
}

/// What only the batches of a roll know.
#[derive(Debug, Default)]
pub(super) struct Counted {
    raw_bytes: u64,
    dead_letters: BTreeMap<String, u64>,
}

impl Counted {
    pub(super) fn of(batches: &[EventBatch]) -> Self {
        let mut counted = Self::default();
        for batch in batches {
            counted.raw_bytes += batch.raw_bytes as u64;
            for letter in &batch.dead_letters {
                *counted.dead_letters.entry(kind(&letter.reason)).or_default() += 1;
            }
        }
        counted
    }
}

/// The words of a reason before its first name, number or detail.
fn kind(reason: &str) -> String {
    let until = reason.find(|letter: char| letter.is_ascii_digit() || ":\"'(`".contains(letter));
    let kind = reason[..until.unwrap_or(reason.len())].trim();
    if kind.is_empty() {
        "other".to_owned()
    } else {
        kind.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_carry_no_names() {
        for (reason, expected) in [
            ("not valid JSON: expected `,` at column 7", "not valid JSON"),
            ("column \"price\" is NULL", "column"),
            ("empty", "empty"),
            ("7", "other"),
        ] {
            assert_eq!(kind(reason), expected);
        }
    }
}
