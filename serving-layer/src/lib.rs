//! The serving half: close the seam, merge, finish, answer.
//!
//! In the order of an answer's way: [`seam`] finds the newest generation from whose cut a gapless chain of segments
//! leads on, [`merge`] gathers the partials of both halves, [`finish`] makes rows of them, [`coverage`] says what they
//! contain; [`read`] answers by key and range, [`query`] by read-only SQL behind [`fence`], [`http`] speaks to the
//! world. It reads the stores of both halves and never runs an engine.

pub mod coverage;
pub mod fence;
pub mod finish;
pub mod http;
pub mod merge;
pub mod query;
pub mod read;
pub mod seam;
pub mod serving;
pub mod status;

mod points;
mod room;
mod tables;

pub use coverage::AnswerCoverage;
pub use query::QueryError;
pub use read::{Filter, Operator, ReadRequest, Sort};
pub use room::QueryRoom;
pub use seam::{Gap, Mode, Place, Seam, SeamError};
pub use serving::{Answer, Limits, ServedTopic, Serving, ServingParts, ViewState};
pub use status::{Count, Status, StatusSource};
