//! Tests of the batch layer against its public surface, in one binary.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that panics has failed")]

mod archive;
mod archiver;
#[cfg(feature = "ballista")]
mod ballista;
mod clicks;
mod faulty;
mod garbage;
mod generations;
mod recompute;
mod scheduler;
mod store;
mod warehouse;
mod world;
