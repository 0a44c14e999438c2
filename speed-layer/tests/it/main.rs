//! The speed layer over a real log on disk, against plain SQL over the log.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

mod budget;
mod floor;
mod folding;
mod restart;
mod seam;
mod shared;
mod wire;
mod world;
