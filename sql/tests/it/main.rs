//! Tests of the sql crate: what compiles, what is refused, and the laws of folds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod explain;
mod folds;
mod keyed;
mod mutations;
mod pipelines;
mod refusals;
mod rows;
mod sums;
mod windows;
