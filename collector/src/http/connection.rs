//! Accepting connections, with a bound on everything that a client could use up: connections, header size, the time a
//! header may take, the time a response may stand still.
//!
//! Written against hyper, because `axum::serve` has no time limit on request headers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at once: a page holds two, a dashboard of a large team a few hundred.
const CONNECTIONS_MAX: usize = 512;
/// No request of ours is longer than a few KiB.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// A header that takes longer is no person's.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// What open requests get to end in after the order to shut down.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// Pause after an accept that failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends one connection from within its own request: how a client that does not read is dropped.
#[derive(Clone, Debug)]
pub(super) struct Cut(Arc<tokio::sync::Notify>);

impl Cut {
    fn new() -> Self {
        Self(Arc::new(tokio::sync::Notify::new()))
    }

    /// Closes the connection at once.
    pub(super) fn cut(&self) {
        self.0.notify_one();
    }
}

/// Serves `router` until `shutdown`; `stopping` becomes true first, so that endless responses end.
pub(super) async fn accept(
    router: Router,
    listener: TcpListener,
    stopping: watch::Sender<bool>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            () = &mut shutdown => break,
            permit = Arc::clone(&room).acquire_owned() => permit.map_err(io::Error::other)?,
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                let connection = connection(router.clone(), stream, stopping.subscribe());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    // Nobody listening to this is fine: then no connection is open.
    let _no_receiver = stopping.send(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
        connections.shutdown().await;
    }
    Ok(())
}

async fn connection(router: Router, stream: TcpStream, mut stopping: watch::Receiver<bool>) {
    // Small responses at once; a failure only costs 40 ms.
    let _best_effort = stream.set_nodelay(true);
    let cut = Cut::new();
    let extension = cut.clone();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(extension.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut draining = false;
    loop {
        tokio::select! {
            // A client that went away or spoke no HTTP is nobody's problem here.
            _ended = connection.as_mut() => return,
            () = cut.0.notified() => return,
            _changed = stopping.wait_for(|stopping| *stopping), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
