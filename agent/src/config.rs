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
    /// Addresses that a gateway sends requests to which no agent can read: "app:8080", "unix:/run/app.sock".
    pub endpoints: Vec<String>,
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
            endpoints: Vec::new(),
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
    /// The file is no configuration.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// Where in the line, from 1.
        column: usize,
        /// What is wrong, and the known key that is nearest.
        reason: String,
    },
    /// The address is no URL.
    #[error("{url:?} is not an address like http://127.0.0.1:8502")]
    Url {
        /// What was given.
        url: String,
    },
    /// An endpoint that no gateway could connect to.
    #[error("endpoint {endpoint:?} is neither like \"app:8080\" nor like \"unix:/run/app.sock\"")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// One half of an identity.
    #[error("tls-cert and tls-key belong together: set both, or neither")]
    HalfIdentity,
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
            Ok(text) => toml::from_str(&text).map_err(|error| parse_error(path, &text, &error)),
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

    /// Refuses what cannot work, or would let somebody read along.
    ///
    /// # Errors
    /// If an endpoint is no address, the collector's is plain text beyond loopback, or TLS has no certificates.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_endpoints()?;
        self.check_transport()
    }

    fn check_endpoints(&self) -> Result<(), ConfigError> {
        let fine = |endpoint: &&String| match endpoint.strip_prefix("unix:") {
            Some(path) => path.starts_with('/'),
            None => endpoint.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            }),
        };
        match self.endpoints.iter().find(|endpoint| !fine(endpoint)) {
            Some(endpoint) => Err(ConfigError::Endpoint { endpoint: endpoint.clone() }),
            None => Ok(()),
        }
    }

    fn check_transport(&self) -> Result<(), ConfigError> {
        let url = self.collector.clone();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(ConfigError::Url { url });
        }
        if self.tls_cert.as_os_str().is_empty() != self.tls_key.as_os_str().is_empty() {
            return Err(ConfigError::HalfIdentity);
        }
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

fn parse_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let mut reason = error.message().to_owned();
    // The list of all keys says less than the one that was meant.
    if let Some(key) =
        reason.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next())
    {
        reason = match nearest(key) {
            Some(known) => format!("unknown key `{key}`; did you mean `{known}`?"),
            None => format!("unknown key `{key}`; the known ones are in the packaged agent.toml"),
        };
    }
    ConfigError::Parse { path: path.to_owned(), line, column, reason }
}

/// The known key that is at most three edits away.
fn nearest(key: &str) -> Option<String> {
    let known = toml::Table::try_from(Config::default()).ok()?;
    let by_distance = known.keys().map(|known| (edits(key, known), known.clone()));
    by_distance.min().filter(|(edits, _)| *edits <= 3).map(|(_, known)| known)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
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
    fn endpoints_are_addresses() {
        let check = |endpoint: &str| {
            Config { endpoints: vec![endpoint.into()], ..Config::default() }.check().is_ok()
        };
        assert!(check("app:8080") && check("[::1]:80") && check("unix:/run/app.sock"));
        assert!(!check("8080") && !check(":80") && !check("app:0") && !check("unix:app.sock"));
    }

    #[test]
    fn the_packaged_file_states_every_key_with_its_default() {
        let packaged: toml::Table = include_str!("../../packaging/agent.toml").parse().unwrap();
        assert_eq!(packaged, toml::Table::try_from(Config::default()).unwrap());
    }

    #[test]
    fn errors_name_the_place_and_the_key_that_was_meant() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent.toml");
            std::fs::write(&path, text).unwrap();
            let error = Config::load(Some(&path)).unwrap_err().to_string();
            assert_eq!(error.strip_prefix(&path.display().to_string()).unwrap(), expected);
        }
        check("\ncolector = 'x'", ":2:1: unknown key `colector`; did you mean `collector`?");
        check("tls_ca = 'x'", ":1:1: unknown key `tls_ca`; did you mean `tls-ca`?");
        let nothing_like_it =
            "unknown key `elephants`; the known ones are in the packaged agent.toml";
        check("host = 'a'\n  elephants = 1", &format!(":2:3: {nothing_like_it}"));
        check("spool-max-mib = 'x'", ":1:17: invalid type: string \"x\", expected u64");
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
        assert!(matches!(check("10.0.0.1:8502"), Err(ConfigError::Url { .. })));
        let half = Config { tls_cert: "/a".into(), ..Config::default() };
        assert!(matches!(half.check_transport(), Err(ConfigError::HalfIdentity)));
    }
}
