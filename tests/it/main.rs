//! Tests of the `foldline` command and of the house.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that meets a surprise should stop right there"
)]

mod agreement;
mod arrows;
#[cfg(feature = "ballista")]
mod ballista;
mod cli;
#[cfg(feature = "kafka")]
mod cluster;
mod crashes;
mod explain;
mod infra;
mod installation;
#[cfg(feature = "kafka")]
mod kafka;
mod memory;
mod secrets;
mod servers;
#[cfg(all(feature = "kafka", feature = "cassandra"))]
mod shared_store;
mod warehouse;
