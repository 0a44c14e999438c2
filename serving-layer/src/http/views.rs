//! Views as the catalog shows them.

use foldline_sql::View;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::coverage::{AnswerCoverage, type_name};
use crate::serving::{Serving, ViewState};

/// The seam is closed.
const READY: &str = "ready";
/// A half is missing that the next generation brings.
const BUILDING: &str = "building";
/// The seam is open, or partials cannot be read.
pub(super) const BROKEN: &str = "broken";

/// A view.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct ViewInfo {
    /// Name.
    pub(super) name: String,
    /// Columns, in order.
    pub(super) columns: Vec<ColumnInfo>,
    /// `exact`, `rounding` or `approximate`.
    pub(super) class: String,
    /// Streams and views that it reads.
    pub(super) reads: Vec<String>,
    /// Its query.
    pub(super) sql: String,
    /// Milliseconds of `as_of` that its windows stay visible for.
    pub(super) retention_ms: Option<i64>,
    /// `ready`, `building` or `broken`.
    pub(super) state: String,
    /// Why it is not ready.
    pub(super) reason: Option<String>,
    /// What an answer would cover now.
    pub(super) coverage: Option<AnswerCoverage>,
}

/// A column.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct ColumnInfo {
    /// Name.
    pub(super) name: String,
    /// SQL type.
    #[serde(rename = "type")]
    pub(super) data_type: String,
}

/// Every view of the catalog, as it is now.
pub(super) fn describe(serving: &Serving) -> Vec<ViewInfo> {
    let views = serving.catalog().views().iter();
    views.map(|view| describe_one(serving, view)).collect()
}

fn describe_one(serving: &Serving, view: &View) -> ViewInfo {
    let (state, reason, coverage) = match serving.state(view) {
        ViewState::Ready(coverage) => (READY, None, Some(coverage)),
        ViewState::Building(reason) => (BUILDING, Some(reason), None),
        ViewState::Broken(reason) => (BROKEN, Some(reason), None),
    };
    let columns = view.schema.fields().iter();
    ViewInfo {
        name: view.name.clone(),
        columns: columns
            .map(|field| ColumnInfo {
                name: field.name().clone(),
                data_type: type_name(field.data_type()),
            })
            .collect(),
        class: format!("{:?}", view.class).to_lowercase(),
        reads: view.reads.clone(),
        sql: view.sql.clone(),
        retention_ms: view.retention.as_ref().map(|(retention_ms, _)| *retention_ms),
        state: state.to_owned(),
        reason,
        coverage,
    }
}
