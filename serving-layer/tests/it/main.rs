//! Tests of the serving layer: seam, fence, answers, HTTP.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on has failed")]

mod agreement;
mod corpus;
mod fences;
mod figures;
mod http;
mod platform;
mod queries;
mod reads;
mod seams;
