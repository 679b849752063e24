//! TLS of the gRPC door: certificates by file, read again when they change.
//!
//! Clients are asked for a certificate of `client-ca`; the names in it are the hosts that they may speak for.
//! New handshakes use new files at once, old connections live on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::chain::chain;

/// Time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes at once; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 256;
/// Connections that passed their handshake and wait to be served.
const ACCEPTED_MAX: usize = 64;
/// Pause after the system refused to accept (no more descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The collector's certificate, with its chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// CA of the agents' certificates, PEM.
    pub client_ca: PathBuf,
}

/// Why the files give no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of its sort.
    #[error("{} holds no {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// They do not fit together.
    #[error("certificate {} and its key do not make a TLS server", cert.display())]
    Unfit {
        /// The certificate.
        cert: PathBuf,
        /// What rustls said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The configuration that new handshakes use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Current {
    files: Files,
    inner: Arc<Mutex<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    stamps: Stamps,
    warning: Option<String>,
}

/// When each file was last changed.
type Stamps = [Option<SystemTime>; 3];

impl Current {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that is no good.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let config = Arc::new(server_config(&files)?);
        let inner = Arc::new(Mutex::new(Loaded { config, stamps, warning: None }));
        Ok(Self { files, inner })
    }

    /// Reads the files again if one of them changed, or if `asked`. What is no good leaves the old in force.
    pub fn reload(&self, asked: bool) {
        let stamps = stamps(&self.files);
        {
            let mut loaded = self.lock();
            if !asked && loaded.stamps == stamps {
                return;
            }
            loaded.stamps = stamps;
        }
        let fresh = server_config(&self.files);
        let mut loaded = self.lock();
        match fresh {
            Ok(config) => {
                loaded.config = Arc::new(config);
                loaded.warning = None;
                tracing::info!("new TLS certificates are in force");
            }
            Err(error) => {
                let text = format!("the old TLS certificates stay in force: {}", chain(&error));
                tracing::warn!("{text}");
                loaded.warning = Some(text);
            }
        }
    }

    /// Why the newest files are not in force, if they are not.
    pub fn warning(&self) -> Option<String> {
        self.lock().warning.clone()
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.lock().config)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections of `listener` that passed their handshake. Ends when the receiver is dropped.
pub fn accept(
    listener: TcpListener,
    current: Current,
) -> mpsc::Receiver<io::Result<TlsStream<TcpStream>>> {
    let (accepted, receiver) = mpsc::channel(ACCEPTED_MAX);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    tokio::spawn(async move {
        while let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await {
            let connection = tokio::select! {
                connection = listener.accept() => connection,
                () = accepted.closed() => return,
            };
            let (socket, peer) = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!("cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            // Acks are small and must not wait for each other; a socket that refuses works all the same.
            let _slower = socket.set_nodelay(true);
            let acceptor = TlsAcceptor::from(current.config());
            let accepted = accepted.clone();
            tokio::spawn(async move {
                let _permit = permit;
                match timeout(HANDSHAKE_MAX, acceptor.accept(socket)).await {
                    Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::warn!(%peer, "TLS handshake failed: {error}"),
                    Err(_) => tracing::warn!(%peer, "TLS handshake took too long"),
                }
            });
        }
    });
    receiver
}

/// Hosts that a certificate may speak for: its DNS names, and the last segment of its SPIFFE ids.
pub fn host_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let of_spiffe = certificate
        .valid_uri_names()
        .filter_map(|uri| uri.strip_prefix("spiffe://")?.split_once('/')?.1.rsplit('/').next());
    certificate.valid_dns_names().chain(of_spiffe).map(str::to_owned).collect()
}

fn server_config(files: &Files) -> Result<ServerConfig, TlsError> {
    let unfit = |source: Box<dyn std::error::Error + Send + Sync>| TlsError::Unfit {
        cert: files.cert.clone(),
        source,
    };
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::File {
        path: files.key.clone(),
        what: "private key",
        source: source.into(),
    })?;
    let mut roots = RootCertStore::empty();
    for ca in certificates(&files.client_ca)? {
        roots.add(ca).map_err(|source| TlsError::File {
            path: files.client_ca.clone(),
            what: "CA certificate",
            source: source.into(),
        })?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Who shows no certificate gets past the handshake, to be told so in gRPC's words.
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|source| unfit(source.into()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| unfit(source.into()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| unfit(source.into()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The certificates in a PEM file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |source: Box<dyn std::error::Error + Send + Sync>| TlsError::File {
        path: path.to_owned(),
        what: "certificate",
        source,
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| bad(source.into()))?;
    if found.is_empty() { Err(bad("no PEM section".into())) } else { Ok(found) }
}

fn stamps(files: &Files) -> Stamps {
    [&files.cert, &files.key, &files.client_ca]
        .map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}
