//! The serving half: close the seam, merge, finish, answer.
//!
//! In the order of an answer's way: [`seam`] finds the newest generation from whose cut a gapless chain of segments
//! leads on, [`merge`] gathers the partials of both halves, [`finish`] makes rows of them, [`query`] runs read-only SQL
//! over them, [`http`] speaks to the world. It reads the stores of both halves and never runs an engine.

pub mod finish;
pub mod http;
pub mod merge;
pub mod query;
pub mod seam;
