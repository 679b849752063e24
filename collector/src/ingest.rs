//! The gRPC door: agents report here, and programs ask here. The only file of the collector that names tonic.
//!
//! A batch is dated, stored, and acknowledged after the commit; while one commit is under way, what arrives
//! meanwhile is put together for the next. Nothing else happens on that path. See ingest.proto.

mod batch;
mod hello;
mod pending;
mod presence;
mod silence;

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming, TlsConnectInfo};
use tonic::{Code, Request, Response, Status, Streaming};
use why502_proto::v1::{self, ingest_server, query_server, report_request, report_response};

pub use hello::{Identity, PROTOCOL, Refusal, is_host_name};
pub use presence::{Presence, Presences, SILENT_AFTER};
pub use silence::watch_for_silence;

use crate::chain::chain;
use crate::clock::{BootClock, Moment};
use crate::metrics::Metrics;
use crate::store::{Greeting, Standing, Store, StoreError};
use crate::tls;
use crate::view::{View, ViewError};
use pending::{CREDIT_FACTS, Pending};

/// A stream that says nothing for this long, four pings, is dead.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Time for the first message of a stream.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// HTTP/2 pings, so that a peer that vanished without a FIN is noticed within 20 s in all.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Largest message: a batch of 1 MiB and its frame.
const MESSAGE_BYTES_MAX: usize = 2 << 20;
/// Answers that may wait for an agent to read them.
const ANSWERS_MAX: usize = 64;
/// Streams on one connection: an agent needs one, a program that asks a few.
const STREAMS_PER_CONNECTION_MAX: u32 = 32;

/// What the gRPC services work with.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where facts go.
    pub store: Store,
    /// Who is there.
    pub presences: Presences,
    /// What programs ask.
    pub view: View,
    /// Name under which the collector itself writes facts.
    pub own_name: String,
    /// Turns true when the collector stops.
    pub stopping: watch::Receiver<bool>,
}

/// Serves gRPC on `listener` until the door's `stopping`. With `tls`, every connection is TLS.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    door: Door,
    listener: TcpListener,
    tls: Option<tls::Current>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match tls {
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            serve_on(door, incoming).await?;
        }
        Some(tls) => serve_on(door, ReceiverStream::new(tls::accept(listener, tls))).await?,
    }
    Ok(())
}

async fn serve_on<I, IO, E>(door: Door, incoming: I) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = Result<IO, E>>,
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut stopping = door.stopping.clone();
    let ingest =
        ingest_server::IngestServer::new(door.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_service(ingest)
        .add_service(query_server::QueryServer::new(door))
        .serve_with_incoming_shutdown(incoming, async move { stopped(&mut stopping).await })
        .await
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ReportResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ingest_server::Ingest for Door {
    type ReportStream = Answers;

    async fn report(
        &self,
        request: Request<Streaming<v1::ReportRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let peer = request.remote_addr().map(|addr| addr.to_string()).unwrap_or_default();
        let identity = identity(&request);
        let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
        let reporting = Reporting {
            metrics: self.view.metrics().clone(),
            door: self.clone(),
            incoming: request.into_inner(),
            answers: answers.clone(),
            peer,
            identity,
        };
        tokio::spawn(async move {
            let peer = reporting.peer.clone();
            let metrics = reporting.metrics.clone();
            if let Err(status) = reporting.run().await {
                if status.code() != Code::Cancelled {
                    tracing::warn!(%peer, "stream ended: {:?}: {}", status.code(), status.message());
                    metrics.streams_refused.inc();
                }
                // An agent that is gone needs no reason.
                let _gone = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

fn identity<T>(request: &Request<T>) -> Identity {
    if request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().is_none() {
        return Identity::Plaintext;
    }
    match request.peer_certs().as_deref().map(|certs| certs.first()) {
        Some(Some(leaf)) => Identity::Certificate(tls::host_names(leaf)),
        _ => Identity::Anonymous,
    }
}

/// One stream of one agent.
struct Reporting {
    door: Door,
    metrics: Metrics,
    incoming: Streaming<v1::ReportRequest>,
    answers: mpsc::Sender<Result<v1::ReportResponse, Status>>,
    peer: String,
    identity: Identity,
}

impl Reporting {
    async fn run(mut self) -> Result<(), Status> {
        let hello = match timeout(HELLO_MAX, self.incoming.message()).await {
            Ok(message) => match message?.and_then(|request| request.message) {
                Some(report_request::Message::Hello(hello)) => hello,
                _ => return Err(Status::invalid_argument("the first message must be hello")),
            },
            Err(_) => return Err(Status::deadline_exceeded("no hello came")),
        };
        hello::check(&hello, &self.identity, &self.door.own_name).map_err(refuse)?;
        let now = Moment::now();
        let claim = self.door.presences.claim(&hello.host, &self.peer, now).map_err(refuse)?;
        let standing = self.greet(&hello, now.wall_us).await?;
        self.welcome(&standing)?;
        let clock =
            BootClock::begin(standing.epoch, hello.boottime_us, hello.realtime_us, now.wall_us);
        claim.heard(now, clock.offset_us(), clock.epoch().tolerance_us);
        tracing::info!(host = hello.host, peer = self.peer, seq = standing.stored_seq, "connected");
        self.metrics.streams.inc();
        let ended = self.listen(&hello, &claim, clock).await;
        self.metrics.streams.dec();
        tracing::info!(host = hello.host, peer = self.peer, "disconnected");
        ended
    }

    async fn greet(&self, hello: &v1::Hello, now_us: i64) -> Result<Standing, Status> {
        let greeting = Greeting {
            host: hello.host.clone(),
            boot: hello.boot_id.clone(),
            agent_version: hello::clipped(&hello.agent_version).to_owned(),
            peer: self.peer.clone(),
            tls: self.identity != Identity::Plaintext,
            offset_us: hello.realtime_us.saturating_sub(now_us),
            heard_us: now_us,
        };
        self.door.store.greet(greeting).await.map_err(|error| not_stored(&error))
    }

    fn welcome(&self, standing: &Standing) -> Result<(), Status> {
        self.send(report_response::Message::Welcome(v1::Welcome {
            protocol: PROTOCOL,
            collector_version: env!("CARGO_PKG_VERSION").into(),
            stored_seq: standing.stored_seq,
            credit_facts: CREDIT_FACTS,
        }))
    }

    async fn listen(
        &mut self,
        hello: &v1::Hello,
        claim: &presence::Claim,
        mut clock: BootClock,
    ) -> Result<(), Status> {
        let mut pending = Pending::default();
        let mut stopping = self.door.stopping.clone();
        let mut silent_at = Instant::now() + IDLE_MAX;
        loop {
            tokio::select! {
                biased;
                (boot_id, stored) = pending.committed() => {
                    let stored_seq = stored.map_err(|error| not_stored(&error))?;
                    self.send(report_response::Message::Ack(v1::Ack { boot_id, stored_seq }))?;
                    pending.begin_commit(&self.door.store);
                }
                () = claim.replaced.notified() => {
                    return Err(Status::aborted("a newer stream speaks for this host"));
                }
                () = stopped(&mut stopping) => {
                    return Err(Status::unavailable("the collector stops"));
                }
                message = timeout_at(silent_at, self.incoming.message()) => {
                    let Ok(message) = message else {
                        return Err(Status::deadline_exceeded("nothing was heard for 20 s"));
                    };
                    let Some(request) = message? else { break };
                    silent_at = Instant::now() + IDLE_MAX;
                    let now = Moment::now();
                    self.take(request, hello, &mut clock, &mut pending, now.wall_us)?;
                    claim.heard(now, clock.offset_us(), clock.epoch().tolerance_us);
                }
            }
        }
        // The agent ended the stream: what it sent is stored, and needs no answer.
        pending.drain(&self.door.store).await.map_err(|error| not_stored(&error))
    }

    fn take(
        &self,
        request: v1::ReportRequest,
        hello: &v1::Hello,
        clock: &mut BootClock,
        pending: &mut Pending,
        now_us: i64,
    ) -> Result<(), Status> {
        match request.message {
            Some(report_request::Message::Batch(batch)) => {
                let origin =
                    batch::Origin { host: &hello.host, boot: &hello.boot_id, clock, now_us };
                let append = batch::prepare(batch, &origin, &self.metrics).map_err(refuse)?;
                pending.push(append).map_err(refuse)?;
                pending.begin_commit(&self.door.store);
                Ok(())
            }
            Some(report_request::Message::Ping(ping)) => {
                clock.hear(ping.boottime_us, ping.realtime_us, ping.round_trip_us, now_us);
                let pong = v1::Pong { boottime_us: ping.boottime_us };
                self.send(report_response::Message::Pong(pong))
            }
            Some(report_request::Message::Hello(_)) => {
                Err(Status::invalid_argument("hello comes once"))
            }
            // A message of a later version: it may be left out.
            None => Ok(()),
        }
    }

    fn send(&self, message: report_response::Message) -> Result<(), Status> {
        let response = v1::ReportResponse { message: Some(message) };
        match self.answers.try_send(Ok(response)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(Status::resource_exhausted("the answers are not read"))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(Status::cancelled("the agent is gone"))
            }
        }
    }
}

/// Waits until the collector stops; its being gone means the same.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _stop = stopping.wait_for(|stop| *stop).await;
}

fn refuse(refusal: Refusal) -> Status {
    let code = match refusal {
        Refusal::Invalid(_) => Code::InvalidArgument,
        Refusal::Protocol { .. } => Code::FailedPrecondition,
        Refusal::NoCertificate => Code::Unauthenticated,
        Refusal::NotYou { .. } => Code::PermissionDenied,
        Refusal::Taken { .. } => Code::AlreadyExists,
        Refusal::Bound(_) => Code::ResourceExhausted,
    };
    Status::new(code, refusal.to_string())
}

fn not_stored(error: &StoreError) -> Status {
    Status::unavailable(format!("the facts could not be stored: {}", chain(error)))
}

fn answer<T>(result: Result<T, ViewError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| {
        let code = match error {
            ViewError::NotFound { .. } => Code::NotFound,
            ViewError::BadRequest { .. } => Code::InvalidArgument,
            ViewError::Store(_) => Code::Unavailable,
        };
        Status::new(code, error.to_string())
    })
}

#[tonic::async_trait]
impl query_server::Query for Door {
    async fn list_incidents(
        &self,
        request: Request<v1::ListIncidentsRequest>,
    ) -> Result<Response<v1::ListIncidentsResponse>, Status> {
        answer(self.view.incidents(request.into_inner()).await)
    }

    async fn get_incident(
        &self,
        request: Request<v1::GetIncidentRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        answer(self.view.incident(&request.into_inner().incident).await)
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        answer(self.view.explain(request.into_inner()).await)
    }

    async fn get_timeline(
        &self,
        request: Request<v1::GetTimelineRequest>,
    ) -> Result<Response<v1::GetTimelineResponse>, Status> {
        answer(self.view.timeline(request.into_inner()).await)
    }

    async fn list_hosts(
        &self,
        _request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        answer(self.view.hosts().await)
    }
}
