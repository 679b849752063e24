//! The HTTP side of the collector: JSON API, page, live events, metrics, all of which ask the one [`View`]; and one
//! address to which failures of gateways without an agent are pushed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::push::Push;
use crate::view::View;

mod api;
mod connection;
mod events;
mod evidence;
mod guard;
mod page;
mod problem;
mod push;
mod query;

#[cfg(test)]
pub(crate) mod served;
#[cfg(test)]
mod tests;

use problem::Problem;

/// How long a client may leave its events unread before its connection is closed.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Clients that follow the events at once; fewer than the connections there may be, so that pages and health checks
/// always find room.
const FOLLOWERS_MAX: usize = 256;

/// What every handler has at hand.
#[derive(Clone, Debug)]
struct App {
    view: View,
    push: Push,
    /// The address that is listened on.
    bound: SocketAddr,
    stopping: watch::Receiver<bool>,
    stall_max: Duration,
    followers: Arc<Semaphore>,
}

impl App {
    fn new(view: View, bound: SocketAddr, stopping: watch::Receiver<bool>) -> Self {
        let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
        Self { push: view.push(), view, bound, stopping, stall_max: STALL_MAX, followers }
    }
}

/// Answers until `shutdown` is done, then lets open requests end.
///
/// # Errors
/// If the listener's own address cannot be told.
pub async fn serve(
    view: View,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopping, stops) = watch::channel(false);
    let bound = listener.local_addr()?;
    let app = App::new(view, bound, stops);
    connection::accept(router(app), listener, stopping, shutdown).await
}

/// Every address there is, in the order of openapi.json; a test holds the two together.
fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        ("/api/v1/incidents", get(api::incidents)),
        ("/api/v1/incidents/{id}", get(api::incident)),
        ("/api/v1/explain", get(api::explain)),
        ("/api/v1/timeline", get(api::timeline)),
        ("/api/v1/hosts", get(api::hosts)),
        ("/api/v1/rules", get(api::rules)),
        ("/api/v1/rules/{id}", get(api::rule)),
        ("/api/v1/failures", post(push::failures)),
        ("/api/v1/events", get(events::events)),
        ("/health", get(api::health)),
        ("/metrics", get(api::metrics)),
        ("/openapi.json", get(api::openapi)),
        ("/", get(page::incidents)),
        ("/incidents/{id}", get(page::incident)),
        ("/hosts", get(page::hosts)),
        ("/hosts/{host}", get(page::host)),
        ("/rules", get(page::rules)),
        ("/rules/{id}", get(page::rule)),
        ("/assets/why502.css", get(page::css)),
        ("/assets/why502.js", get(page::js)),
        ("/assets/icon.svg", get(page::icon)),
    ]
}

fn router(app: App) -> Router {
    let mut router = Router::new();
    for (path, handler) in routes() {
        router = router.route(path, handler);
    }
    router
        .fallback(nothing_here)
        .method_not_allowed_fallback(read_only)
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

async fn nothing_here(request: Request) -> Response {
    let path: String = request.uri().path().chars().take(200).collect();
    let problem = Problem::not_found(
        &format!("page {path}"),
        "begin at / for people, or at /openapi.json for programs",
    );
    if path.starts_with("/api/") { problem.into_response() } else { page::error(&problem) }
}

async fn read_only(method: Method) -> Problem {
    Problem {
        status: axum::http::StatusCode::METHOD_NOT_ALLOWED,
        detail: format!("{method} is not possible here"),
        hint: "everything here is read with GET; only failures are pushed, to /api/v1/failures"
            .into(),
    }
}
