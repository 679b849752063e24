//! The JSON API. Bodies are the view's messages with the field names of query.proto.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use why502_proto::v1;

use super::App;
use super::problem::Problem;
use super::query::Query;

/// The bounds of query.proto.
pub(super) const INCIDENTS_MAX: u32 = 1_000;
pub(super) const TIMELINE_MAX: u32 = 10_000;

pub(super) type ApiResult = Result<Json<Value>, Problem>;
pub(super) type Id = Result<Path<String>, PathRejection>;

pub(super) async fn incidents(State(app): State<App>, RawQuery(raw): RawQuery) -> ApiResult {
    let query = Query::parse(raw.as_deref(), &["state", "gateway", "limit"])?;
    let request = v1::ListIncidentsRequest {
        state: query.choice("state", &["open", "resolved"])?,
        gateway: query.text("gateway"),
        limit: query.number("limit", INCIDENTS_MAX)?.unwrap_or_default(),
    };
    body(&app.view.incidents(request).await?)
}

pub(super) async fn incident(State(app): State<App>, RawQuery(raw): RawQuery, id: Id) -> ApiResult {
    Query::parse(raw.as_deref(), &[])?;
    body(&app.view.incident(&path_text(id)?).await?)
}

pub(super) async fn explain(State(app): State<App>, RawQuery(raw): RawQuery) -> ApiResult {
    let query = Query::parse(raw.as_deref(), &["gateway", "route", "endpoint", "at"])?;
    let request = v1::ExplainRequest {
        gateway: query.text("gateway"),
        route: query.text("route"),
        endpoint: query.text("endpoint"),
        at: query.time("at", Timestamp::now())?,
    };
    body(&app.view.explain(request).await?)
}

pub(super) async fn timeline(State(app): State<App>, RawQuery(raw): RawQuery) -> ApiResult {
    let query = Query::parse(raw.as_deref(), &["host", "since", "until", "limit"])?;
    let now = Timestamp::now();
    let request = v1::GetTimelineRequest {
        host: query.text("host"),
        since: query.time("since", now)?,
        until: query.time("until", now)?,
        limit: query.number("limit", TIMELINE_MAX)?.unwrap_or_default(),
    };
    body(&app.view.timeline(request).await?)
}

pub(super) async fn hosts(State(app): State<App>, RawQuery(raw): RawQuery) -> ApiResult {
    Query::parse(raw.as_deref(), &[])?;
    body(&app.view.hosts().await?)
}

pub(super) async fn rules(RawQuery(raw): RawQuery) -> ApiResult {
    Query::parse(raw.as_deref(), &[])?;
    Ok(Json(crate::rules::all_to_json()))
}

pub(super) async fn rule(RawQuery(raw): RawQuery, id: Id) -> ApiResult {
    Query::parse(raw.as_deref(), &[])?;
    let id = path_text(id)?;
    let rule = crate::rules::find(&id)
        .ok_or_else(|| Problem::not_found(&format!("rule {id:?}"), crate::rules::hint(&id)))?;
    Ok(Json(crate::rules::to_json(rule)))
}

/// Fine only while the store answers: what a load balancer or a service manager should ask.
pub(super) async fn health(State(app): State<App>) -> ApiResult {
    let hosts = app.view.hosts().await?.hosts.len();
    let warnings = app.view.warnings();
    let version = env!("CARGO_PKG_VERSION");
    Ok(Json(json!({"status": "ok", "version": version, "hosts": hosts, "warnings": warnings})))
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.view.metrics().encode()).into_response()
}

pub(super) async fn openapi() -> Response {
    let text = include_str!("../../assets/openapi.json");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The text between slashes, decoded.
pub(super) fn path_text(id: Id) -> Result<String, Problem> {
    let readable = id.ok().map(|Path(id)| id).filter(|id| !id.chars().any(char::is_control));
    readable.filter(|id| id.len() <= 1024).ok_or_else(|| {
        Problem::bad_request(
            "the name in the path is not readable",
            "write it percent-encoded in UTF-8, without control characters, at most 1024 bytes",
        )
    })
}

fn body<M: prost::Message + prost::Name>(message: &M) -> ApiResult {
    match why502_proto::to_json(message) {
        Ok(json) => Ok(Json(json)),
        // Only a message that is not in the descriptor does that; a test serves each.
        Err(error) => Err(Problem {
            status: axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            detail: error.to_string(),
            hint: "report this with the version of the collector".into(),
        }),
    }
}
