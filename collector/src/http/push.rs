//! Where failed requests of gateways without an agent are pushed. The only address that takes
//! anything.
//!
//! Who may write is decided as for agents without TLS: the port is on loopback, or was opened by
//! `insecure-plaintext`. A page of a stranger cannot: browsers ask before they send JSON to another
//! origin, and nobody answers them.

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::json;
use why502_proto::Kind;

use super::App;
use super::api::ApiResult;
use super::problem::Problem;
use super::query::Query;
use crate::ingest::is_host_name;
use crate::push::{Failure, PushError, of_lines};

/// Largest body: some thousand lines, or what Logpush sends when told so.
const BODY_MAX: usize = 4 << 20;
/// Most failures in one body of the documented JSON.
const FAILURES_MAX: usize = 4096;

const HINT: &str = "see POST /api/v1/failures in /openapi.json";

pub(super) async fn failures(
    State(app): State<App>,
    RawQuery(raw): RawQuery,
    request: Request,
) -> ApiResult {
    let query = Query::parse(raw.as_deref(), &["gateway"])?;
    let gateway = query.text("gateway");
    if !is_host_name(&gateway) {
        let detail = format!("gateway: {gateway:?} is not a name as hosts have them");
        return Err(Problem::bad_request(detail, "add ?gateway=NAME, the name to show it under"));
    }
    let lines = is_lines(request.headers())?;
    let body = to_bytes(request.into_body(), BODY_MAX).await.map_err(|_| Problem {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        detail: format!("the body is not complete, or has more than {BODY_MAX} bytes"),
        hint: "send it in parts".into(),
    })?;
    let (facts, unknown) = if lines {
        let (facts, unknown) = of_lines(&String::from_utf8_lossy(&body));
        (named(facts, &gateway), unknown)
    } else {
        (documented(&body, &gateway)?, 0)
    };
    let stored = facts.len();
    app.push.take(&gateway, facts).await.map_err(refused)?;
    Ok(Json(json!({"stored": stored, "unknown_lines": unknown})))
}

/// Whether the body is lines of a log; it is JSON else.
fn is_lines(headers: &HeaderMap) -> Result<bool, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    match kind.split(';').next().unwrap_or("").trim() {
        "application/json" => Ok(false),
        "application/x-ndjson" | "application/vnd.why502.lines" => Ok(true),
        _ => Err(Problem {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            detail: format!("{kind:?} is not taken"),
            hint: "Content-Type: application/json for the documented form, application/x-ndjson for lines of a log"
                .into(),
        }),
    }
}

fn documented(body: &Bytes, gateway: &str) -> Result<Vec<(Option<i64>, Kind)>, Problem> {
    let failures: Vec<Failure> = serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(format!("no list of failures: {error}"), HINT))?;
    if failures.len() > FAILURES_MAX {
        let detail = format!("{} failures, {FAILURES_MAX} are taken at once", failures.len());
        return Err(Problem::bad_request(detail, "send them in parts"));
    }
    let facts = failures.into_iter().enumerate().map(|(at, failure)| {
        let (at_us, failed) = failure
            .into_fact(gateway)
            .map_err(|what| Problem::bad_request(format!("failure {at}: {what}"), HINT))?;
        Ok((at_us, Kind::RequestFailed(failed)))
    });
    facts.collect()
}

/// Under the gateway's name: one instance, whatever its lines call it.
fn named(facts: Vec<(Option<i64>, Kind)>, gateway: &str) -> Vec<(Option<i64>, Kind)> {
    let named = |(at_us, mut kind): (Option<i64>, Kind)| {
        match &mut kind {
            Kind::RequestFailed(failed) if failed.instance.is_empty() => {
                gateway.clone_into(&mut failed.instance);
            }
            Kind::EndpointDisabled(gone) if gone.instance.is_empty() => {
                gateway.clone_into(&mut gone.instance);
            }
            _ => {}
        }
        (at_us, kind)
    };
    facts.into_iter().map(named).collect()
}

fn refused(error: PushError) -> Problem {
    let detail = error.to_string();
    match error {
        PushError::Taken(_) => {
            Problem { status: StatusCode::CONFLICT, detail, hint: "push under another name".into() }
        }
        PushError::Store(source) => crate::view::ViewError::Store(Box::new(source)).into(),
    }
}
