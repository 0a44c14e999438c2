//! Errors as problem documents (RFC 9457). This is the one place where they get their status and `type`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use foldline_batch_layer::GenerationError;
use foldline_speed_layer::shared::StoreError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::merge::MergeError;
use crate::query::QueryError;

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable name of the kind of problem: `urn:foldline:problem:...`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the kind means.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time, with names and numbers.
    pub detail: String,
}

/// An error on its way out.
#[derive(Debug)]
pub struct ApiError(Problem);

/// (kind, title, status) of an error.
type Meaning = (&'static str, &'static str, StatusCode);

fn meaning(error: &QueryError) -> Meaning {
    use QueryError as E;
    match error {
        E::UnknownView { .. } => ("unknown-view", "there is no such view", StatusCode::NOT_FOUND),
        E::UnknownTable { .. } => (
            "unknown-table",
            "there is no such view or stream",
            StatusCode::BAD_REQUEST,
        ),
        E::UnknownColumn { .. } => ("unknown-column", "the view has no such column", StatusCode::BAD_REQUEST),
        E::BadValue { .. } => ("bad-value", "a value does not fit its column", StatusCode::BAD_REQUEST),
        E::BadParameter { .. } => ("bad-parameter", "a parameter makes no sense", StatusCode::BAD_REQUEST),
        E::Refused(_) => (
            "refused",
            "only queries that read are answered",
            StatusCode::BAD_REQUEST,
        ),
        E::Plan(_) => ("bad-query", "the query cannot be planned", StatusCode::BAD_REQUEST),
        E::Run(_) => (
            "query-failed",
            "the query failed when it ran",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        E::NoLateRows { .. } => (
            "no-late-rows",
            "the view leaves no late rows out",
            StatusCode::BAD_REQUEST,
        ),
        E::NoArchive(_) => ("no-archive", "streams cannot be queried here", StatusCode::BAD_REQUEST),
        E::StreamInSpeed(_) => (
            "batch-only",
            "streams are answered in batch only",
            StatusCode::BAD_REQUEST,
        ),
        E::TooLarge { .. } => (
            "answer-too-large",
            "the answer is too large",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        E::OutOfMemory(_) => (
            "out-of-memory",
            "the query needs too much memory",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        E::TimedOut { .. } => ("timed-out", "the query took too long", StatusCode::GATEWAY_TIMEOUT),
        E::Merge(MergeError::Building { .. }) => (
            "view-building",
            "the view is still building",
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        E::Merge(MergeError::Speed {
            source: StoreError::Unavailable { .. } | StoreError::TooSlow(_) | StoreError::Unfit(_),
            ..
        }) => (
            "realtime-away",
            "the store of realtime views does not answer in time",
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        E::NoGeneration => (
            "no-generation",
            "there is no generation yet",
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        E::Seam(_) => (
            "open-seam",
            "batch and speed do not touch",
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        E::Generation(GenerationError::Unknown(_)) => (
            "unknown-generation",
            "there is no such generation",
            StatusCode::NOT_FOUND,
        ),
        E::Generation(_) | E::Merge(_) | E::Archive(_) => (
            "damaged",
            "stored state cannot be read",
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
        E::Finish(_) => (
            "finish-failed",
            "the view cannot be finished",
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
        E::Columns(_) | E::Panicked => ("defect", "foldline is at fault", StatusCode::INTERNAL_SERVER_ERROR),
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let (kind, title, status) = meaning(&error);
        let detail = error.chain();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(kind, %detail, "question failed");
        }
        Self::new(kind, title, status, detail)
    }
}

impl ApiError {
    fn new(kind: &str, title: &str, status: StatusCode, detail: String) -> Self {
        Self(Problem {
            kind: format!("urn:foldline:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
        })
    }

    /// A request that cannot be understood.
    pub fn bad_request(detail: &str) -> Self {
        Self::rejected(StatusCode::BAD_REQUEST, detail)
    }

    /// A request whose body cannot be understood, for the reason that `status` gives.
    pub fn rejected(status: StatusCode, detail: &str) -> Self {
        Self::new(
            "bad-request",
            "the request cannot be understood",
            status,
            detail.to_owned(),
        )
    }

    /// None of the accepted formats.
    pub fn not_acceptable(accepted: &str, formats: &str) -> Self {
        let detail = format!("cannot answer as \"{accepted}\"; there are: {formats}");
        let title = "none of the accepted formats";
        Self::new("not-acceptable", title, StatusCode::NOT_ACCEPTABLE, detail)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
