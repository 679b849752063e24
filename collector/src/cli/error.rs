//! Why a verb failed, in words that end with what to do, and in the exit codes of sysexits.h.

use std::process::ExitCode;

/// Messages do not repeat their source: it is printed once, behind them.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// Not an address that can be asked.
    #[error("{url:?} is no address of a collector")]
    Url { url: String, hint: &'static str },
    /// A certificate file is no good.
    #[error("https cannot be used")]
    Tls(#[source] crate::tls::TlsError),
    /// The system has no authorities that it trusts.
    #[error("https cannot be used: this system has no CA certificates")]
    NoCa,
    /// Nobody answers.
    #[error("cannot reach the collector at {url}")]
    Unreachable { url: String, source: Box<ureq::Error> },
    /// It answered with an error.
    #[error("{detail}")]
    Refused { status: u16, detail: String, hint: String },
    /// What answers is no collector, or one of another version.
    #[error("what answers at {url} does not speak like a collector of version {}: {what}", env!("CARGO_PKG_VERSION"))]
    Protocol { url: String, what: String },
    /// The catalogue has no such rule.
    #[error("there is no rule {id:?}")]
    NoRule { id: String, hint: String },
    /// Standard output.
    #[error("cannot write the answer")]
    Write(#[from] std::io::Error),
}

impl CliError {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Url { .. } | Self::Refused { status: 400, .. } => 64,
            Self::NoRule { .. } | Self::Refused { status: 404, .. } => 66,
            Self::Tls(_) | Self::NoCa => 78,
            Self::Unreachable { .. } | Self::Refused { .. } => 69,
            Self::Write(_) => 74,
            Self::Protocol { .. } => 76,
        })
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Url { hint, .. } => (*hint).to_owned(),
            Self::Tls(_) => "give PEM files with --tls-ca, --tls-cert and --tls-key".to_owned(),
            Self::NoCa => "give one with --tls-ca, or install ca-certificates".to_owned(),
            Self::Unreachable { source, .. } if is_about_certificates(source) => {
                "check that --url has the name that is in its certificate, that --tls-ca is the CA \
                 of it, and, where it asks who you are, --tls-cert and --tls-key"
                    .to_owned()
            }
            Self::Unreachable { .. } => {
                "start it with `why502 serve` or `systemctl start why502`, or say where \
                 it is with --url or WHY502_URL"
                    .to_owned()
            }
            Self::Refused { hint, .. } | Self::NoRule { hint, .. } => hint.clone(),
            Self::Protocol { .. } => {
                "check --url, and compare `why502 --version` here with /health there".to_owned()
            }
            Self::Write(_) => "check the disk, or where the output goes".to_owned(),
        }
    }
}

/// Whether TLS was spoken, and the two sides did not like each other.
fn is_about_certificates(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
        ureq::Error::Io(error) => error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    }
}
