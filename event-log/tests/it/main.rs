//! Tests of the log from outside.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod collect;
mod embedded;
mod import;
