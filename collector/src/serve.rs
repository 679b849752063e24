//! `why502 serve`: puts the parts together, and takes them down again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::chain::chain;
use crate::clock::Beat;
use crate::config::Config;
use crate::http;
use crate::incident::Incidents;
use crate::ingest::{self, Door, Presences};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use crate::tls;
use crate::view::{self, View};

/// Time for streams, requests and the last commit when told to stop; systemd waits longer.
const STOP_MAX: Duration = Duration::from_secs(4);
/// A writer or a round that did not go around its loop for this long hangs: the watchdog is not fed.
const ALIVE_WITHIN: Duration = Duration::from_secs(15);
/// How often health and certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Why the collector cannot run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be used.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// The certificates are no good.
    #[error("TLS cannot be served")]
    Tls(#[from] tls::TlsError),
    /// An address is taken or not this machine's.
    #[error("cannot listen on {address} ({what})")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The setting.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// A part ended that never should.
    #[error("{0} ended")]
    Ended(&'static str),
    /// The database is damaged; the next start sets it aside.
    #[error("the database is damaged")]
    Damaged,
}

impl ServeError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Store(StoreError::Locked { .. }) => {
                "stop the other one, or give this one another directory with --state-dir"
            }
            Self::Store(StoreError::Newer { .. }) => {
                "start that version, or give another directory with --state-dir"
            }
            Self::Store(_) => "look at the disk, or give another directory with --state-dir",
            Self::Tls(_) => "give PEM files with --tls-cert, --tls-key and --tls-client-ca",
            Self::Listen { .. } => {
                "give another address with --grpc or --http, or stop what has it"
            }
            Self::Signals(_) | Self::Ended(_) => "start it again, and report this with its log",
            Self::Damaged => "start it again: it will be set aside",
        }
    }
}

/// Runs the collector until SIGTERM or SIGINT. `started` is called with the addresses once both are open.
///
/// # Errors
/// See [`ServeError`]; a damaged database that was found at the start is none.
pub async fn serve(
    config: Config,
    state_dir: &std::path::Path,
    started: impl FnOnce(SocketAddr, SocketAddr),
) -> Result<(), ServeError> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let current_tls = config.tls_files().map(tls::Current::load).transpose()?;
    let grpc = listen("grpc", config.grpc).await?;
    let http = listen("http", config.http).await?;
    let metrics = Metrics::default();
    let store = Store::open(state_dir, config.retention(), &metrics)?;
    let changes = view::changes();
    let presences = Presences::new(changes.clone());
    let (stop, stopping) = watch::channel(false);
    let view = View::new(
        store.clone(),
        presences.clone(),
        metrics.clone(),
        changes.clone(),
        config.warnings(),
        current_tls.clone(),
        &config.name,
    );
    let own_name = config.name.clone();
    let commits = store.commits();
    let incidents = Incidents::restore(store.clone(), metrics, changes, own_name.clone()).await?;
    let beat = incidents.beat();
    let addresses = (local(&grpc, config.grpc), local(&http, config.http));
    let mut parts = JoinSet::new();
    part(&mut parts, "the incident engine", incidents.run(commits, stopping.clone()));
    let heard = (store.clone(), presences.clone());
    let silence = ingest::watch_for_silence(heard.0, heard.1, own_name.clone(), stopping.clone());
    part(&mut parts, "the watch for silent agents", silence);
    part(&mut parts, "the live view", view.clone().tell_of_facts(stopping.clone()));
    let page = serve_http(view.clone(), http, stopping.clone());
    part(&mut parts, "the page", page);
    let door = Door { store: store.clone(), presences, view, own_name, stopping };
    part(&mut parts, "gRPC", serve_grpc(door, grpc, current_tls.clone()));
    started(addresses.0, addresses.1);
    notify(&[NotifyState::Ready]);
    let ended = attend(&store, &beat, current_tls.as_ref(), &mut parts).await;
    notify(&[NotifyState::Stopping]);
    // Receivers that are gone have stopped already.
    let _all_gone = stop.send(true);
    let stopped = timeout(STOP_MAX, async {
        while parts.join_next().await.is_some() {}
        store.close().await;
    });
    if stopped.await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    ended
}

/// Feeds the watchdog, reads certificates again, and waits for a reason to stop.
async fn attend(
    store: &Store,
    beat: &Beat,
    tls: Option<&tls::Current>,
    parts: &mut JoinSet<&'static str>,
) -> Result<(), ServeError> {
    let listen_to = |kind| signal(kind).map_err(ServeError::Signals);
    let mut terminate = listen_to(SignalKind::terminate())?;
    let mut interrupt = listen_to(SignalKind::interrupt())?;
    let mut hang_up = listen_to(SignalKind::hangup())?;
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(LOOK, |within| (within / 3).min(LOOK));
    let mut look = tokio::time::interval(every);
    let received = |signal: Option<()>| signal.is_some();
    loop {
        tokio::select! {
            got = Signal::recv(&mut terminate) => if received(got) { return Ok(()) },
            got = Signal::recv(&mut interrupt) => if received(got) { return Ok(()) },
            got = Signal::recv(&mut hang_up) => if received(got)
                && let Some(tls) = tls { tls.reload(true); },
            ended = parts.join_next() => {
                return Err(ServeError::Ended(ended.and_then(Result::ok).unwrap_or("a part")));
            }
            _ = look.tick() => {
                if store.damaged() {
                    return Err(ServeError::Damaged);
                }
                if let Some(tls) = tls {
                    tls.reload(false);
                }
                let working = beat.alive(ALIVE_WITHIN) || store.blocked();
                if watchdog.is_some() && store.alive(ALIVE_WITHIN) && working {
                    notify(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

/// Starts a part; its name is what is said if it ends before it should.
fn part(
    parts: &mut JoinSet<&'static str>,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    parts.spawn(async move {
        work.await;
        name
    });
}

async fn serve_grpc(door: Door, listener: TcpListener, tls: Option<tls::Current>) {
    if let Err(error) = ingest::serve(door, listener, tls).await {
        tracing::error!("gRPC failed: {}", chain(error.as_ref()));
    }
}

async fn serve_http(view: View, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
    let shutdown = async move {
        let _sender_gone_is_a_stop_too = stopping.wait_for(|stop| *stop).await;
    };
    if let Err(error) = http::serve(view, listener, shutdown).await {
        tracing::error!("the page failed: {error}");
    }
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, what, source })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("systemd cannot be told: {error}");
    }
}
