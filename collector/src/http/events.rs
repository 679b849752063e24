//! Live changes as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>):
//! `incident` and `host`, and `fact` for whoever asks with `facts=true`.
//!
//! A client that falls behind is told to `reload` and let go: it has missed something, and the page or the API has
//! the whole truth. One that does not read at all is cut off.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::App;
use super::connection::Cut;
use super::problem::Problem;
use super::query::Query;
use crate::view::Change;

/// Proxies and browsers close connections that are silent for 30 s and more.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// When a browser tries again.
const RETRY: Duration = Duration::from_secs(2);
/// Events on their way to one client, beside the bound that all clients share (the view's).
const QUEUE_MAX: usize = 64;

pub(super) async fn events(
    State(app): State<App>,
    RawQuery(raw): RawQuery,
    cut: Option<Extension<Cut>>,
) -> Result<Response, Problem> {
    let query = Query::parse(raw.as_deref(), &["facts"])?;
    let facts = query.choice("facts", &["true", "false"])? == "true";
    let room = Arc::clone(&app.followers).try_acquire_owned().map_err(|_full| Problem {
        status: StatusCode::SERVICE_UNAVAILABLE,
        detail: "too many clients follow the events".into(),
        hint: "close some, or ask /api/v1/incidents now and then".into(),
    })?;
    let (client, receiver) = mpsc::channel(QUEUE_MAX);
    // Subscribed before the answer begins: what happens from then on is not missed.
    let changes = app.view.changes();
    // It ends with the client or the server, whichever is first.
    tokio::spawn(async move {
        forward(app, changes, client, facts, cut.map(|Extension(cut)| cut)).await;
        drop(room);
    });
    let stream = tokio_stream::StreamExt::map(ReceiverStream::new(receiver), Ok::<_, Infallible>);
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("still here");
    Ok(Sse::new(stream).keep_alive(heartbeat).into_response())
}

async fn forward(
    mut app: App,
    mut changes: broadcast::Receiver<Change>,
    client: mpsc::Sender<Event>,
    facts: bool,
    cut: Option<Cut>,
) {
    let mut next = Some(Event::default().retry(RETRY).event("hello").data("{}"));
    loop {
        if let Some(event) = next.take() {
            match client.send_timeout(event, app.stall_max).await {
                Ok(()) => {}
                Err(mpsc::error::SendTimeoutError::Closed(_)) => return,
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    tracing::info!("a client of the events does not read: cut off");
                    if let Some(cut) = cut {
                        cut.cut();
                    }
                    return;
                }
            }
        }
        let change = tokio::select! {
            change = changes.recv() => change,
            () = client.closed() => return,
            _stopping = app.stopping.wait_for(|stopping| *stopping) => return,
        };
        match change {
            Ok(change) => next = event(&change, facts),
            Err(broadcast::error::RecvError::Closed) => return,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                let data = serde_json::json!({ "missed": missed }).to_string();
                let reload = Event::default().event("reload").data(data);
                // If even that does not get through, the end of the stream says the same.
                let _stalled = client.send_timeout(reload, app.stall_max).await;
                return;
            }
        }
    }
}

fn event(change: &Change, facts: bool) -> Option<Event> {
    let (name, data) = match change {
        Change::Incident(explanation) => {
            ("incident", why502_proto::to_json(explanation.as_ref()).ok()?)
        }
        Change::Host(host) => ("host", serde_json::json!({ "host": host })),
        Change::Fact(entry) if facts => ("fact", why502_proto::to_json(entry.as_ref()).ok()?),
        Change::Fact(_) => return None,
    };
    Some(Event::default().event(name).data(data.to_string()))
}
