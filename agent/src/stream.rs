//! The stream to the collector: the only file of the agent that names tonic.
//!
//! It reads the spool and never pushes past the collector's credit; what is acknowledged is forgotten. Either side may
//! end the stream at any time, and the next one begins behind the last acknowledged fact.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use why502_proto::v1::ingest_client::IngestClient;
use why502_proto::v1::{
    Batch, Hello, Ping, ReportRequest, ReportResponse, Welcome, report_request, report_response,
};

use crate::clock::Moment;
use crate::delivery::{Delivery, End};
use crate::spool::Spool;

/// Versions of `ingest.proto` that this agent speaks.
const PROTOCOL: u32 = 1;
/// Bounds of one batch, from `ingest.proto`.
const BATCH_FACTS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Between two pings, see `ingest.proto`.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A peer that answers nothing for this long is gone: with the ping before it, noticed within 20 s.
const DEAD_AFTER: Duration = Duration::from_secs(12);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Credit where the collector names none.
const CREDIT_DEFAULT: u64 = 4096;

/// Certificate files. Read anew for every connection, so that renewed ones work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whom to trust. `None`: no TLS.
    pub ca: Option<PathBuf>,
    /// Who this host is.
    pub cert: Option<PathBuf>,
    /// Key of `cert`.
    pub key: Option<PathBuf>,
}

/// Where to, and as whom.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// `http://127.0.0.1:8502`, or https with [`TlsFiles`].
    pub url: String,
    /// Name of this host.
    pub host: String,
    /// Boot that runs.
    pub boot: String,
    /// Certificates.
    pub tls: TlsFiles,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A certificate file cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The address is no URL.
    #[error("{url:?} is not an address like http://127.0.0.1:8502")]
    Url {
        /// What was given.
        url: String,
    },
    /// The collector cannot be reached.
    #[error("cannot reach the collector at {url}")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The collector ended the stream or refused it.
    #[error("the collector said: {}", .0.message())]
    Status(Box<Status>),
    /// Nothing came back for too long.
    #[error("the collector at {url} answers nothing")]
    Silent {
        /// Where.
        url: String,
    },
}

/// What spool and stream share.
#[derive(Debug)]
pub struct Shared {
    /// The spool.
    pub spool: Mutex<Spool>,
    /// Rung when there are new facts in it.
    pub appended: Notify,
}

/// Delivers until it is dropped.
pub async fn run(config: StreamConfig, shared: Arc<Shared>) {
    let mut delivery = Delivery::default();
    let mut said = String::new();
    loop {
        let Err(error) = connection(&config, &shared, &mut delivery, &mut said).await;
        let end = match &error {
            StreamError::Status(status)
                if matches!(
                    status.code(),
                    Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition
                ) =>
            {
                End::Refused
            }
            _ => End::Broken,
        };
        let text = crate::run::error_chain(&error);
        // The same reason again and again is one event.
        if text != said {
            tracing::warn!("{text}; facts wait in the spool{}", advice(&error));
            said = text;
        }
        tokio::time::sleep(delivery.pause(end, random())).await;
    }
}

fn advice(error: &StreamError) -> &'static str {
    match error {
        StreamError::Connect { .. } => "; start it with: why502 serve",
        StreamError::Status(status) => match status.code() {
            Code::PermissionDenied => "; the agent's certificate must name this host (--host)",
            Code::Unauthenticated => "; set tls-cert and tls-key",
            Code::FailedPrecondition => "; install the same version of agent and collector",
            _ => "",
        },
        _ => "",
    }
}

/// Jitter needs no quality: address randomisation and time are enough, and spare a dependency.
fn random() -> u32 {
    let now = Moment::now();
    let mixed = (now.boottime_us ^ u64::from(std::process::id()).rotate_left(32))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u32::try_from(mixed >> 32).unwrap_or(0)
}

/// Checks the configuration without connecting.
///
/// # Errors
/// If the address or a certificate file cannot be used.
pub fn check(url: &str, tls: &TlsFiles) -> Result<(), StreamError> {
    endpoint(url, tls).map(|_| ())
}

fn endpoint(url: &str, tls: &TlsFiles) -> Result<Endpoint, StreamError> {
    let bad = || StreamError::Url { url: url.to_owned() };
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(bad());
    }
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|_| bad())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(DEAD_AFTER)
        .keep_alive_while_idle(true);
    let Some(ca) = &tls.ca else { return Ok(endpoint) };
    let authority = Certificate::from_pem(pem(ca, certificates)?);
    let mut config = ClientTlsConfig::new().ca_certificate(authority);
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        let (cert, key) = (pem(cert, certificates)?, pem(key, private_key)?);
        config = config.identity(Identity::from_pem(cert, key));
    }
    endpoint.tls_config(config).map_err(|error| StreamError::Certificate {
        path: tls.cert.clone().unwrap_or_else(|| ca.clone()),
        reason: crate::run::error_chain(&error),
    })
}

/// tonic takes a wrong PEM silently until the first call: `check` looks at it here.
fn pem(path: &Path, check: fn(&[u8]) -> Result<(), String>) -> Result<Vec<u8>, StreamError> {
    let error = |reason: String| StreamError::Certificate { path: path.to_owned(), reason };
    let bytes = fs::read(path).map_err(|source| error(source.to_string()))?;
    check(&bytes).map_err(error)?;
    Ok(bytes)
}

fn certificates(pem: &[u8]) -> Result<(), String> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        certificate.map_err(|error| error.to_string())?;
        count += 1;
    }
    if count == 0 { Err("there is no certificate in it".to_owned()) } else { Ok(()) }
}

fn private_key(pem: &[u8]) -> Result<(), String> {
    PrivateKeyDer::from_pem_slice(pem).map(|_| ()).map_err(|error| error.to_string())
}

/// One connection, until it ends.
async fn connection(
    config: &StreamConfig,
    shared: &Shared,
    delivery: &mut Delivery,
    said: &mut String,
) -> Result<std::convert::Infallible, StreamError> {
    let url = config.url.clone();
    let channel: Channel = endpoint(&config.url, &config.tls)?
        .connect()
        .await
        .map_err(|source| StreamError::Connect { url: url.clone(), source })?;
    // Two: one batch under way and one being built.
    let (sender, receiver) = mpsc::channel::<ReportRequest>(2);
    let silent = || StreamError::Silent { url: url.clone() };
    send(&sender, report_request::Message::Hello(hello(config))).await.ok_or_else(silent)?;
    let mut answers = IngestClient::new(channel)
        .report(ReceiverStream::new(receiver))
        .await
        .map_err(|status| StreamError::Status(Box::new(status)))?
        .into_inner();
    let first = tokio::time::timeout(DEAD_AFTER, answers.next()).await.map_err(|_| silent())?;
    let Some(report_response::Message::Welcome(welcome)) = message(first)? else {
        return Err(silent());
    };
    tracing::info!("connected to the collector at {url}");
    said.clear();
    let mut link = Link::begin(config, shared, &welcome).await?;
    let mut ping = tokio::time::interval(PING_EVERY);
    let mut heard = Instant::now();
    loop {
        while let Some(batch) = link.next_batch(shared).await? {
            // Filling the window must not stop the acknowledgements that reopen it.
            let sent = send(&sender, report_request::Message::Batch(batch));
            tokio::select! {
                sent = sent => sent.ok_or_else(silent)?,
                answer = answers.next() => {
                    heard = Instant::now();
                    link.handle(message(answer)?, shared, delivery).await;
                    link.resend();
                }
            }
        }
        tokio::select! {
            () = shared.appended.notified() => {}
            answer = answers.next() => {
                heard = Instant::now();
                link.handle(message(answer)?, shared, delivery).await;
            }
            _ = ping.tick() => {
                if heard.elapsed() > DEAD_AFTER {
                    return Err(silent());
                }
                let ping = link.ping();
                send(&sender, report_request::Message::Ping(ping)).await.ok_or_else(silent)?;
            }
        }
    }
}

async fn send(
    sender: &mpsc::Sender<ReportRequest>,
    message: report_request::Message,
) -> Option<()> {
    sender.send(ReportRequest { message: Some(message) }).await.ok()
}

fn hello(config: &StreamConfig) -> Hello {
    let now = Moment::now();
    Hello {
        host: config.host.clone(),
        boot_id: config.boot.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        boottime_us: now.boottime_us,
        realtime_us: now.realtime_us,
    }
}

fn message(
    answer: Option<Result<ReportResponse, Status>>,
) -> Result<Option<report_response::Message>, StreamError> {
    match answer {
        Some(Ok(answer)) => Ok(answer.message),
        Some(Err(status)) => Err(StreamError::Status(Box::new(status))),
        None => Err(StreamError::Status(Box::new(Status::unavailable("the stream ended")))),
    }
}

/// Where one connection stands.
struct Link {
    /// Boots that still have facts, oldest first; the running one is the last.
    boots: Vec<String>,
    /// Highest fact of `boots[0]` that was handed to the stream, and the one before the last batch.
    sent: u64,
    before: u64,
    acked: u64,
    /// What the collector had of the running boot when the stream began.
    stored: u64,
    credit: u64,
    round_trip_us: Option<u64>,
}

impl Link {
    async fn begin(
        config: &StreamConfig,
        shared: &Shared,
        welcome: &Welcome,
    ) -> Result<Self, StreamError> {
        let mut spool = shared.spool.lock().await;
        if welcome.stored_seq >= spool.next_seq() {
            spool.renumber_after(welcome.stored_seq);
        }
        spool.forget(&config.boot, welcome.stored_seq);
        let boots = spool.boots();
        // `stored_seq` speaks of the running boot; of earlier ones everything is sent again.
        let acked = if boots.len() == 1 { welcome.stored_seq } else { 0 };
        let credit =
            if welcome.credit_facts == 0 { CREDIT_DEFAULT } else { welcome.credit_facts.into() };
        let stored = welcome.stored_seq;
        Ok(Self { boots, sent: acked, before: acked, acked, stored, credit, round_trip_us: None })
    }

    async fn next_batch(&mut self, shared: &Shared) -> Result<Option<Batch>, StreamError> {
        let mut spool = shared.spool.lock().await;
        loop {
            let room = self.credit.saturating_sub(self.sent.saturating_sub(self.acked));
            let most = usize::try_from(room).unwrap_or(BATCH_FACTS_MAX).min(BATCH_FACTS_MAX);
            if most == 0 {
                return Ok(None);
            }
            let facts = spool.read_after(&self.boots[0], self.sent, most, BATCH_BYTES_MAX);
            if let Some(last) = facts.last() {
                self.before = self.sent;
                self.sent = last.seq;
                return Ok(Some(Batch { boot_id: self.boots[0].clone(), facts }));
            }
            // An earlier boot is done when all of it was acknowledged, or what is left of it cannot be read.
            if self.boots.len() == 1 || self.sent > self.acked {
                return Ok(None);
            }
            self.boots.remove(0);
            let from = if self.boots.len() == 1 { self.stored } else { 0 };
            (self.sent, self.before, self.acked) = (from, from, from);
        }
    }

    /// The last batch was not handed over: it is read again.
    fn resend(&mut self) {
        self.sent = self.before.max(self.acked);
    }

    async fn handle(
        &mut self,
        message: Option<report_response::Message>,
        shared: &Shared,
        delivery: &mut Delivery,
    ) {
        match message {
            Some(report_response::Message::Ack(ack)) => {
                delivery.stored();
                shared.spool.lock().await.forget(&ack.boot_id, ack.stored_seq);
                if ack.boot_id == self.boots[0] {
                    self.acked = self.acked.max(ack.stored_seq);
                }
            }
            Some(report_response::Message::Pong(pong)) => {
                self.round_trip_us =
                    Some(Moment::now().boottime_us.saturating_sub(pong.boottime_us));
            }
            _ => {}
        }
    }

    fn ping(&self) -> Ping {
        let now = Moment::now();
        Ping {
            boottime_us: now.boottime_us,
            realtime_us: now.realtime_us,
            round_trip_us: self.round_trip_us,
        }
    }
}
