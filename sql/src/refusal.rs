//! A refusal: where, why, and what to write instead.

use std::fmt;

/// SQL that foldline does not take, with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the file.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1, in characters.
    pub column: u64,
    /// Why.
    pub reason: String,
    /// What to write instead.
    pub instead: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}:{}: {}; {}",
            self.file, self.line, self.column, self.reason, self.instead
        )
    }
}

impl std::error::Error for Refusal {}
