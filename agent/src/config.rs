//! `/etc/why502/agent.toml`. The packaged file is the documentation, and a test keeps it true.

use std::path::{Path, PathBuf};

use crate::stream::TlsFiles;

/// The configuration file. Every key is optional; an unknown one is an error.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Address of the collector's gRPC port.
    pub collector: String,
    /// Name of this host; "": the kernel's.
    pub host: String,
    /// Where facts wait for the collector; "": the default of [`Config::state_dir`].
    pub state_dir: PathBuf,
    /// Bound on the facts that wait, in MiB. The oldest are dropped first, and a fact says so.
    pub spool_max_mib: u64,
    /// Allow http:// to other machines. For test labs.
    pub insecure_plaintext: bool,
    /// PEM file of the authority that signed the collector's certificate; "": no TLS.
    pub tls_ca: PathBuf,
    /// PEM file of this host's certificate.
    pub tls_cert: PathBuf,
    /// PEM file of its key.
    pub tls_key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            collector: "http://127.0.0.1:8502".to_owned(),
            host: String::new(),
            state_dir: PathBuf::new(),
            spool_max_mib: 256,
            insecure_plaintext: false,
            tls_ca: PathBuf::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
        }
    }
}

/// Why the configuration cannot be used. Exit code 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no configuration; the source has line and column.
    #[error("{} is not a configuration of why502-agent", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, and where.
        source: toml::de::Error,
    },
    /// Plaintext to another machine.
    #[error(
        "{url} would send facts in plain text to another machine: use https:// with tls-ca, tls-cert and tls-key, or \
         --insecure-plaintext in a test lab"
    )]
    Plaintext {
        /// Where to.
        url: String,
    },
    /// https without certificates.
    #[error("{url} needs tls-ca (and tls-cert with tls-key, if the collector asks who we are)")]
    NoCertificates {
        /// Where to.
        url: String,
    },
}

/// Read where no `--config` is given, if it is there.
pub const DEFAULT_FILE: &str = "/etc/why502/agent.toml";

impl Config {
    /// Reads `file`, or the default file if it is there.
    ///
    /// # Errors
    /// If it cannot be read or is no configuration.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|source| ConfigError::Parse { path: path.to_owned(), source }),
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Certificate files, as far as they are set.
    pub fn tls(&self) -> TlsFiles {
        let set = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        TlsFiles { ca: set(&self.tls_ca), cert: set(&self.tls_cert), key: set(&self.tls_key) }
    }

    /// Refuses what would let somebody read along.
    ///
    /// # Errors
    /// If the address is plain text beyond loopback, or TLS without certificates.
    pub fn check_transport(&self) -> Result<(), ConfigError> {
        let url = self.collector.clone();
        if url.starts_with("https://") {
            let missing = self.tls_ca.as_os_str().is_empty();
            return if missing { Err(ConfigError::NoCertificates { url }) } else { Ok(()) };
        }
        let plain = !self.insecure_plaintext && !is_loopback(&url);
        if plain { Err(ConfigError::Plaintext { url }) } else { Ok(()) }
    }

    /// Where the spool is: as configured, systemd's $STATE_DIRECTORY, /var/lib for root, else the user's own.
    pub fn state_dir(&self) -> PathBuf {
        if !self.state_dir.as_os_str().is_empty() {
            return self.state_dir.clone();
        }
        let env =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(dir) = env("STATE_DIRECTORY") {
            return dir;
        }
        if rustix::process::geteuid().is_root() {
            return "/var/lib/why502-agent".into();
        }
        let home = || env("HOME").unwrap_or_else(|| "/tmp".into()).join(".local/state");
        env("XDG_STATE_HOME").unwrap_or_else(home).join("why502-agent")
    }

    /// The host's name: as configured, or the kernel's.
    pub fn host_name(&self) -> String {
        if self.host.is_empty() {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            self.host.clone()
        }
    }
}

fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_file_states_every_key_with_its_default() {
        let packaged: toml::Table = include_str!("../../packaging/agent.toml").parse().unwrap();
        assert_eq!(packaged, toml::Table::try_from(Config::default()).unwrap());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let error = toml::from_str::<Config>("\ncolector = 'x'").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`collector`"), "{error}");
    }

    #[test]
    fn plain_text_stays_on_loopback() {
        let check =
            |url: &str| Config { collector: url.into(), ..Config::default() }.check_transport();
        assert!(check("http://127.0.0.1:8502").is_ok());
        assert!(check("http://[::1]:8502").is_ok());
        assert!(check("http://localhost:8502").is_ok());
        assert!(matches!(check("http://10.0.0.1:8502"), Err(ConfigError::Plaintext { .. })));
        assert!(matches!(check("http://127.0.0.1.evil:8502"), Err(ConfigError::Plaintext { .. })));
        assert!(matches!(check("https://c:8502"), Err(ConfigError::NoCertificates { .. })));
    }
}
