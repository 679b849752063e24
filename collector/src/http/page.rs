//! The page: rendered here, readable without a script, kept live by a small one that fetches it anew when something
//! changed. HTML is escaped by the templates (askama), never by hand.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use jiff::Timestamp;
use why502_proto::v1;

use super::api::{Id, path_text};
use super::problem::Problem;
use super::query::Query;
use super::{App, evidence};
use crate::rules as catalogue;
use crate::text::moment;
use crate::view::View;

mod hosts;
mod incident;
mod rules;

/// Resolved incidents that the list shows; the API has more.
const RESOLVED_MAX: u32 = 50;
/// Open ones. More than that at once have one cause that is among the first.
const OPEN_MAX: u32 = 200;
/// Facts that a host's page shows.
const ENTRIES_MAX: u32 = 1_000;

/// What stands around every page.
pub(super) struct Chrome {
    pub(super) tab: &'static str,
    pub(super) warnings: Vec<String>,
    pub(super) version: &'static str,
    pub(super) now: String,
}

impl Chrome {
    fn new(tab: &'static str, warnings: Vec<String>, now: Timestamp) -> Self {
        let now = format!("{now:.0}");
        Self { tab, warnings, version: env!("CARGO_PKG_VERSION"), now }
    }

    fn of(tab: &'static str, view: &View, now: Timestamp) -> Self {
        Self::new(tab, view.warnings(), now)
    }
}

/// A point in time in the forms that the templates need.
pub(super) struct Moment {
    pub(super) rfc3339: String,
    pub(super) clock: String,
    pub(super) clock_ms: String,
    pub(super) day_clock_ms: String,
    pub(super) ago: String,
}

impl Moment {
    fn read(text: &str, now: Timestamp) -> Option<Self> {
        let at = moment::parse(text)?;
        let clock = moment::clock(at, now);
        Some(Self {
            rfc3339: format!("{at:.3}"),
            clock_ms: moment::clock_ms(at),
            day_clock_ms: format!("{clock}{}", &moment::clock_ms(at)[8..]),
            clock,
            ago: moment::ago(at, now),
        })
    }
}

/// A page for a person, also when it is an error.
pub(super) struct PageError(Problem);

impl<T: Into<Problem>> From<T> for PageError {
    fn from(problem: T) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        error(&self.0)
    }
}

type Page = Result<Html<String>, PageError>;

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    chrome: Chrome,
    title: &'a str,
    detail: &'a str,
    hint: &'a str,
}

pub(super) fn error(problem: &Problem) -> Response {
    let page = ErrorPage {
        chrome: Chrome::new("", vec![], Timestamp::now()),
        title: problem.title(),
        detail: &problem.detail,
        hint: &problem.hint,
    };
    match page.render() {
        Ok(html) => (problem.status, Html(html)).into_response(),
        Err(_) => problem.clone().into_response(),
    }
}

fn render(page: &impl Template) -> Page {
    let failed = |error: askama::Error| Problem {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        detail: format!("the page could not be written: {error}"),
        hint: "use the API or the command line, and report this".into(),
    };
    Ok(Html(page.render().map_err(failed)?))
}

pub(super) async fn incidents(State(app): State<App>, RawQuery(raw): RawQuery) -> Page {
    Query::parse(raw.as_deref(), &[])?;
    let list = |state: &str, limit| v1::ListIncidentsRequest {
        state: state.into(),
        gateway: String::new(),
        limit,
    };
    let open = app.view.incidents(list("open", OPEN_MAX)).await?.incidents;
    let resolved = app.view.incidents(list("resolved", RESOLVED_MAX)).await?.incidents;
    let watched = app.view.hosts().await?.hosts;
    let now = Timestamp::now();
    render(&incident::list(
        Chrome::of("incidents", &app.view, now),
        &open,
        &resolved,
        &watched,
        now,
    ))
}

pub(super) async fn incident(State(app): State<App>, RawQuery(raw): RawQuery, id: Id) -> Page {
    Query::parse(raw.as_deref(), &[])?;
    let explanation = app.view.incident(&path_text(id)?).await?;
    let facts = evidence::cited(&app.view, &explanation).await;
    let now = Timestamp::now();
    let chrome = Chrome::of("incidents", &app.view, now);
    render(&incident::page(chrome, &explanation, &facts, now))
}

pub(super) async fn hosts(State(app): State<App>, RawQuery(raw): RawQuery) -> Page {
    Query::parse(raw.as_deref(), &[])?;
    let watched = app.view.hosts().await?.hosts;
    let now = Timestamp::now();
    render(&hosts::list(Chrome::of("hosts", &app.view, now), &watched, now))
}

pub(super) async fn host(State(app): State<App>, RawQuery(raw): RawQuery, id: Id) -> Page {
    let query = Query::parse(raw.as_deref(), &["since", "until"])?;
    let name = path_text(id)?;
    let now = Timestamp::now();
    if !app.view.hosts().await?.hosts.iter().any(|host| host.host == name) {
        return Err(Problem::not_found(&format!("host {name:?}"), "see the list: /hosts").into());
    }
    let request = v1::GetTimelineRequest {
        host: name.clone(),
        since: query.time("since", now)?,
        until: query.time("until", now)?,
        limit: ENTRIES_MAX,
    };
    let asked = (query.text("since"), query.text("until"));
    let entries = app.view.timeline(request).await?.entries;
    let chrome = Chrome::of("hosts", &app.view, now);
    render(&hosts::timeline(chrome, name, asked, &entries, now))
}

pub(super) async fn rules(State(app): State<App>, RawQuery(raw): RawQuery) -> Page {
    Query::parse(raw.as_deref(), &[])?;
    render(&rules::list(Chrome::of("rules", &app.view, Timestamp::now())))
}

pub(super) async fn rule(State(app): State<App>, RawQuery(raw): RawQuery, id: Id) -> Page {
    Query::parse(raw.as_deref(), &[])?;
    let id = path_text(id)?;
    let rule = catalogue::find(&id)
        .ok_or_else(|| Problem::not_found(&format!("cause {id:?}"), catalogue::hint(&id)))?;
    render(&rules::page(Chrome::of("rules", &app.view, Timestamp::now()), rule))
}

pub(super) async fn css() -> Response {
    asset("text/css; charset=utf-8", include_str!("../../assets/why502.css"))
}

pub(super) async fn js() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../../assets/why502.js"))
}

pub(super) async fn icon() -> Response {
    asset("image/svg+xml", include_str!("../../assets/icon.svg"))
}

/// Short-lived in caches: a new version of the collector must not be shown with the old style for long.
fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=60")];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests;
