//! Tests of the log from outside.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod collect;
mod decode;
mod embedded;
mod import;
#[cfg(feature = "kafka")]
mod kafka;
mod marks;
mod reader;
mod scripted;
