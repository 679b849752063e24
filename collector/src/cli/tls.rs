//! https to a collector whose page is behind a reverse proxy: whom to trust, and who asks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

use super::error::CliError;
use crate::tls::{TlsError, certificates};

/// Where distributions keep the authorities that they trust: Debian and Alpine, Fedora and its kin, openSUSE.
const SYSTEM_CA: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Certificate files for https; http needs none.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct TlsFiles {
    /// CA of the certificate at an https address, PEM [default: the system's]
    #[arg(long, value_name = "FILE", env = "WHY502_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Certificate to show there if one is asked for, PEM; with --tls-key
    #[arg(long, value_name = "FILE", env = "WHY502_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of that certificate, PEM
    #[arg(long, value_name = "FILE", env = "WHY502_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that is no good.
    pub(super) fn read(&self) -> Result<TlsConfig, CliError> {
        let system = SYSTEM_CA.iter().map(PathBuf::from).find(|path| path.exists());
        let ca = self.tls_ca.clone().or(system).ok_or(CliError::NoCa)?;
        let own = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                Some(ClientCert::new_with_certs(&read(cert)?, own_key(key)?))
            }
            _ => None,
        };
        Ok(TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&read(&ca)?))
            .client_cert(own)
            .build())
    }
}

fn read(path: &Path) -> Result<Vec<Certificate<'static>>, CliError> {
    let found = certificates(path).map_err(CliError::Tls)?;
    Ok(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}

fn own_key(path: &Path) -> Result<PrivateKey<'static>, CliError> {
    let bad = |source: Box<dyn std::error::Error + Send + Sync>| {
        CliError::Tls(TlsError::File { path: path.to_owned(), what: "private key", source })
    };
    let pem = std::fs::read(path).map_err(|source| bad(source.into()))?;
    PrivateKey::from_pem(&pem).map_err(|source| bad(source.into()))
}
