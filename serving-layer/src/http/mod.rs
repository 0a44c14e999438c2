//! The world's way in: HTTP, JSON and a page.
//!
//! [`answer`] writes rows in the format that was asked for, [`problem`] maps every error to a problem document,
//! [`metrics`] is what Prometheus scrapes, and `page.html` is the page at `/`.

pub mod answer;
pub mod metrics;
pub mod problem;

mod views;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use foldline_batch_layer::GenerationNumber;
use foldline_sql::own_bytes;
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use crate::query::QueryError;
use crate::read::{Filter, ReadRequest, Sort};
use crate::seam::Mode;
use crate::serving::Serving;
use crate::status::{Status, StatusSource};
use answer::Format;
use metrics::{Metrics, Way};
use problem::{ApiError, Problem};
use views::ViewInfo;

/// So many bytes of rows are written by the thread that asks, which takes less than waking another.
const WRITTEN_HERE_MAX: usize = 32 << 10;

/// Parameters of `GET /v1/views/{view}` that are not columns. A view's column of such a name can be filtered with SQL.
pub const RESERVED_PARAMETERS: &[&str] = &["select", "order", "limit", "offset", "at", "batch_only", "speed_only"];

#[derive(Debug, Clone)]
struct App {
    serving: Arc<Serving>,
    status: Arc<dyn StatusSource>,
    metrics: Arc<Metrics>,
    /// Whether views are answered here.
    answers: bool,
}

impl App {
    fn new(serving: Arc<Serving>, status: Arc<dyn StatusSource>, answers: bool) -> Self {
        Self {
            serving,
            status,
            metrics: Arc::new(Metrics::new()),
            answers,
        }
    }

    fn views(&self) -> Vec<ViewInfo> {
        if self.answers {
            views::describe(&self.serving)
        } else {
            Vec::new()
        }
    }
}

/// The routes of the serving role. Merge the collector's into them.
pub fn router(serving: Arc<Serving>, status: Arc<dyn StatusSource>) -> Router {
    let answers = Router::new()
        .route("/", get(page))
        .route("/v1/views", get(list_views))
        .route("/v1/views/{view}", get(read_view))
        .route("/v1/query", post(run_query))
        .route("/openapi.json", get(openapi));
    answers.merge(operations()).with_state(App::new(serving, status, true))
}

/// The routes of a process that answers nothing: status, health, readiness, metrics.
pub fn router_without_views(serving: Arc<Serving>, status: Arc<dyn StatusSource>) -> Router {
    operations().with_state(App::new(serving, status, false))
}

fn operations() -> Router<App> {
    Router::new()
        .route("/v1/status", get(show_status))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
}

/// The description of the routes.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "foldline",
        description = "Views written once in SQL, one merged and exact answer."
    ),
    paths(list_views, read_view, run_query, show_status, healthy, ready, scrape),
    components(schemas(
        Status,
        Problem,
        QueryRequest,
        Catalog,
        Readiness,
        FullStatus,
        ViewInfo,
        answer::AnswerDocument,
        crate::coverage::AnswerCoverage
    ))
)]
struct Description;

async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}

async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

/// The views.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Catalog {
    /// In the order of their declaration.
    views: Vec<ViewInfo>,
}

/// The catalog: columns, types, class, lineage, freshness.
#[utoipa::path(get, path = "/v1/views", responses((status = 200, body = Catalog)))]
async fn list_views(State(app): State<App>) -> Json<Catalog> {
    Json(Catalog {
        views: views::describe(&app.serving),
    })
}

/// Rows of a view by key and range. Every parameter that is not reserved is a column: `column=value`, or
/// `column=operator.value` with `eq`, `neq`, `gt`, `gte`, `lt`, `lte`, `like`, `in.(a,b)`, `is.null`, `not.is.null`.
#[utoipa::path(
    get,
    path = "/v1/views/{view}",
    params(
        ("view" = String, Path, description = "name of the view"),
        ("select" = Option<String>, Query, description = "columns, separated by commas"),
        ("order" = Option<String>, Query, description = "`column.desc,other`; without it, key order"),
        ("limit" = Option<u64>, Query, description = "most rows, 100 by default"),
        ("offset" = Option<u64>, Query, description = "rows to leave out at the beginning"),
        ("at" = Option<u64>, Query, description = "this generation alone, at its cut"),
        ("batch_only" = Option<bool>, Query, description = "the current generation alone, at its cut"),
        ("speed_only" = Option<bool>, Query, description = "only what lies behind the cut"),
    ),
    responses(
        (status = 200, body = answer::AnswerDocument),
        (status = 400, body = Problem),
        (status = 404, body = Problem),
        (status = 503, body = Problem),
    )
)]
async fn read_view(
    State(app): State<App>,
    Path(view): Path<String>,
    headers: HeaderMap,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let since = Instant::now();
    let format = Format::accepted(&headers)?;
    let Query(parameters) = parameters.map_err(|rejection| ApiError::bad_request(&rejection.body_text()))?;
    let (request, mode) = read_request(&parameters)?;
    let answer = app.serving.read_view(&view, request, mode).await;
    app.metrics.answered(Way::View, answer.is_ok(), since.elapsed());
    write_answer(&app, answer?, format).await
}

/// Writing many rows is CPU work too: it is done where answers are computed.
async fn write_answer(app: &App, answer: crate::Answer, format: Format) -> Result<Response, ApiError> {
    let few = answer.batches.iter().map(own_bytes).sum::<usize>() <= WRITTEN_HERE_MAX;
    let written = async move { answer::write(&answer, format).map_err(QueryError::Columns) };
    Ok(if few {
        app.serving.run_here(written).await?
    } else {
        app.serving.run(written).await?
    })
}

fn read_request(parameters: &[(String, String)]) -> Result<(ReadRequest, Mode), ApiError> {
    let mut request = ReadRequest::default();
    let mut modes = Modes::default();
    for (name, value) in parameters {
        match name.as_str() {
            "select" => request.columns = Some(value.split(',').map(|column| column.trim().to_owned()).collect()),
            "order" => request.order = Sort::parse(value)?,
            "limit" => request.limit = Some(number("limit", value)?),
            "offset" => request.offset = number("offset", value)?,
            "at" => modes.at = Some(number("at", value)?),
            "batch_only" => modes.batch_only = flag("batch_only", value)?,
            "speed_only" => modes.speed_only = flag("speed_only", value)?,
            column => request.filters.push(Filter::parse(column, value)),
        }
    }
    Ok((request, modes.mode()?))
}

fn number<T: std::str::FromStr>(parameter: &'static str, value: &str) -> Result<T, QueryError> {
    value.parse().map_err(|_| QueryError::BadParameter {
        parameter,
        reason: format!("\"{value}\" is not a whole number from 0 on"),
    })
}

fn flag(parameter: &'static str, value: &str) -> Result<bool, QueryError> {
    match value {
        "true" | "" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(QueryError::BadParameter {
            parameter,
            reason: format!("\"{value}\" is neither true nor false"),
        }),
    }
}

/// Which halves, as people ask for them.
#[derive(Debug, Clone, Copy, Default)]
struct Modes {
    at: Option<u64>,
    batch_only: bool,
    speed_only: bool,
}

impl Modes {
    fn mode(self) -> Result<Mode, QueryError> {
        match (self.at, self.batch_only, self.speed_only) {
            (Some(number), _, false) => Ok(Mode::At(GenerationNumber(number))),
            (None, true, false) => Ok(Mode::BatchOnly),
            (None, false, true) => Ok(Mode::SpeedOnly),
            (None, false, false) => Ok(Mode::Merged),
            _ => Err(QueryError::BadParameter {
                parameter: "speed_only",
                reason: "an answer is of batch alone or of speed alone; leave one of the two out".to_owned(),
            }),
        }
    }
}

/// A query.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct QueryRequest {
    /// One SELECT over views and streams.
    #[schema(example = "SELECT * FROM product_days ORDER BY reviews DESC LIMIT 10")]
    sql: String,
    /// This generation alone, at its cut.
    #[serde(default)]
    at: Option<u64>,
    /// The current generation alone, at its cut.
    #[serde(default)]
    batch_only: bool,
    /// Only what lies behind the cut.
    #[serde(default)]
    speed_only: bool,
}

/// Read-only SQL over views and, in batch only, over the archived streams.
#[utoipa::path(
    post,
    path = "/v1/query",
    request_body = QueryRequest,
    responses(
        (status = 200, body = answer::AnswerDocument),
        (status = 400, body = Problem),
        (status = 503, body = Problem),
    )
)]
async fn run_query(
    State(app): State<App>,
    headers: HeaderMap,
    request: Result<Json<QueryRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let since = Instant::now();
    let format = Format::accepted(&headers)?;
    let Json(request) = request.map_err(|rejection| ApiError::rejected(rejection.status(), &rejection.body_text()))?;
    let modes = Modes {
        at: request.at,
        batch_only: request.batch_only,
        speed_only: request.speed_only,
    };
    let answer = match modes.mode() {
        Ok(mode) => app.serving.sql(&request.sql, mode).await,
        Err(error) => Err(error),
    };
    app.metrics.answered(Way::Query, answer.is_ok(), since.elapsed());
    write_answer(&app, answer?, format).await
}

/// The process, and how each view can be answered.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct FullStatus {
    /// The process.
    #[serde(flatten)]
    status: Status,
    /// Whether it is ready.
    ready: bool,
    /// Why it is not.
    reasons: Vec<String>,
    /// The views.
    views: Vec<ViewInfo>,
}

/// Partitions, lag, cut, generation, and coverage and freshness per view.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = FullStatus)))]
async fn show_status(State(app): State<App>) -> Json<FullStatus> {
    let status = app.status.status();
    let views = app.views();
    let reasons = reasons(&status, &views);
    Json(FullStatus {
        status,
        ready: reasons.is_empty(),
        reasons,
        views,
    })
}

fn reasons(status: &Status, views: &[ViewInfo]) -> Vec<String> {
    let mut reasons = status.reasons();
    let broken = views.iter().filter(|view| view.state == views::BROKEN);
    reasons.extend(broken.map(|view| format!("view \"{}\": {}", view.name, view.reason.clone().unwrap_or_default())));
    reasons
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String)))]
async fn healthy() -> &'static str {
    "ok\n"
}

/// Whether it is ready, and why not.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Readiness {
    /// Whether it is.
    ready: bool,
    /// Why it is not.
    reasons: Vec<String>,
}

/// Ready when the seam is closed for every view that is not still building, and nothing stands still.
#[utoipa::path(
    get,
    path = "/readyz",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness))
)]
async fn ready(State(app): State<App>) -> Response {
    let reasons = reasons(&app.status.status(), &app.views());
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let readiness = Readiness {
        ready: reasons.is_empty(),
        reasons,
    };
    (status, Json(readiness)).into_response()
}

/// What Prometheus scrapes.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String)))]
async fn scrape(State(app): State<App>) -> Response {
    let status = app.status.status();
    let views = app.views();
    let text = app.metrics.encode(&status, app.status.counts(), &views);
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
        .into_response()
}
