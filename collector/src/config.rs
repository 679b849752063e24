//! The collector's settings: defaults, then the file, then flags and `WHY502_*` variables.
//!
//! The packaged file documents every key; a test holds it to the defaults here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ingest::is_host_name;
use crate::store::Retention;
use crate::tls;

/// Why the settings are no good. All of them need a person.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}:{line}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// The settings do not fit together.
    #[error("{0}")]
    Unfit(String),
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => "give a file that can be read with --config, or none",
            Self::File { .. } => "mend the file; the packaged collector.toml documents every key",
            Self::Unfit(_) => "see why502 serve --help, or the packaged collector.toml",
        }
    }
}

/// Contents of `collector.toml`. Every key is optional; an unknown one is an error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where agents report.
    pub grpc: SocketAddr,
    /// Where the page and the API are.
    pub http: SocketAddr,
    /// Directory of the database; "": see [`Config::state_dir`].
    pub state_dir: PathBuf,
    /// Name under which the collector writes facts.
    pub name: String,
    /// Certificate; "": no TLS.
    pub tls_cert: PathBuf,
    /// Its key.
    pub tls_key: PathBuf,
    /// CA of the agents' certificates.
    pub tls_client_ca: PathBuf,
    /// Plaintext beyond loopback is allowed.
    pub insecure_plaintext: bool,
    /// What is logged.
    pub log: Level,
    /// How much is kept.
    pub retention: RetentionConfig,
}

/// The `[retention]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {
    /// Days that facts and resolved incidents are kept.
    pub days: u32,
    /// MiB that the database may have.
    pub size_mib: u32,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of every logger")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// What flags and variables say; they come before the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// Configuration file (TOML); none is needed
    #[arg(long, value_name = "FILE", env = "WHY502_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address and port that agents report to [default: 127.0.0.1:8502]
    #[arg(long, value_name = "ADDR:PORT", env = "WHY502_GRPC")]
    pub grpc: Option<SocketAddr>,
    /// Address and port of the page and the API [default: 127.0.0.1:8503]
    #[arg(long, value_name = "ADDR:PORT", env = "WHY502_HTTP")]
    pub http: Option<SocketAddr>,
    /// Directory of the database [default: /var/lib/why502]
    #[arg(long, value_name = "DIR", env = "WHY502_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Name under which the collector itself writes facts [default: why502-collector]
    #[arg(long, value_name = "NAME", env = "WHY502_NAME")]
    pub name: Option<String>,
    /// Certificate of the collector, PEM; with --tls-key and --tls-client-ca
    #[arg(long, value_name = "FILE", env = "WHY502_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE", env = "WHY502_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// CA of the agents' certificates, PEM
    #[arg(long, value_name = "FILE", env = "WHY502_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,
    /// Days that facts and resolved incidents are kept [default: 30]
    #[arg(long, value_name = "DAYS", env = "WHY502_RETENTION_DAYS")]
    pub retention_days: Option<u32>,
    /// MiB that the database may have [default: 4096]
    #[arg(long, value_name = "MIB", env = "WHY502_RETENTION_SIZE_MIB")]
    pub retention_size_mib: Option<u32>,
    /// Allow plaintext beyond loopback (test labs only)
    #[arg(long, env = "WHY502_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,
    /// What is written to standard error [default: info]
    #[arg(long, value_name = "LEVEL", env = "WHY502_LOG")]
    pub log: Option<Level>,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            grpc: loopback(8502),
            http: loopback(8503),
            state_dir: PathBuf::new(),
            name: "why502-collector".into(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_client_ca: PathBuf::new(),
            insecure_plaintext: false,
            log: Level::Info,
            retention: RetentionConfig::default(),
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { days: 30, size_mib: 4096 }
    }
}

impl Config {
    /// Reads the file that `overrides` names, if it does, and puts the overrides above it.
    ///
    /// # Errors
    /// If the file is no good, or the settings do not fit together.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut config = match &overrides.config {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                Self::parse(path, &text)?
            }
        };
        config.override_with(overrides.clone());
        config.check()?;
        Ok(config)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
            ConfigError::File { path: path.to_owned(), line, what: error.message().to_owned() }
        })
    }

    fn override_with(&mut self, overrides: Overrides) {
        let Overrides { config: _, grpc, http, state_dir, name, .. } = &overrides;
        self.grpc = grpc.unwrap_or(self.grpc);
        self.http = http.unwrap_or(self.http);
        let set = |slot: &mut PathBuf, value: &Option<PathBuf>| {
            if let Some(value) = value {
                slot.clone_from(value);
            }
        };
        set(&mut self.state_dir, state_dir);
        set(&mut self.tls_cert, &overrides.tls_cert);
        set(&mut self.tls_key, &overrides.tls_key);
        set(&mut self.tls_client_ca, &overrides.tls_client_ca);
        if let Some(name) = name {
            self.name.clone_from(name);
        }
        self.retention.days = overrides.retention_days.unwrap_or(self.retention.days);
        self.retention.size_mib = overrides.retention_size_mib.unwrap_or(self.retention.size_mib);
        self.insecure_plaintext |= overrides.insecure_plaintext;
        self.log = overrides.log.unwrap_or(self.log);
    }

    fn check(&self) -> Result<(), ConfigError> {
        let unfit = |what: String| Err(ConfigError::Unfit(what));
        if !is_host_name(&self.name) {
            return unfit(format!("name: {:?} is not a host name", self.name));
        }
        let tls = [&self.tls_cert, &self.tls_key, &self.tls_client_ca];
        let given = tls.iter().filter(|path| !path.as_os_str().is_empty()).count();
        if given != 0 && given != tls.len() {
            return unfit(
                "tls-cert, tls-key and tls-client-ca belong together: give all or none".into(),
            );
        }
        if self.retention.days == 0 || self.retention.size_mib == 0 {
            return unfit("retention: days and size-mib are at least 1".into());
        }
        let plain = [("grpc", self.grpc, given > 0), ("http", self.http, false)];
        for (what, address, protected) in plain {
            if !address.ip().is_loopback() && !protected && !self.insecure_plaintext {
                let how = match what {
                    "grpc" => "give tls-cert, tls-key and tls-client-ca",
                    _ => "listen on 127.0.0.1 and put a reverse proxy with a log-in in front",
                };
                return unfit(format!(
                    "{what}: {address} is beyond loopback and would be plaintext: {how}, or say \
                     insecure-plaintext (test labs)"
                ));
            }
        }
        Ok(())
    }

    /// What is to be warned of at every start and on the page.
    pub fn warnings(&self) -> Vec<String> {
        let plain = |what: &str, address: SocketAddr| {
            format!(
                "{what} on {address} is plaintext beyond loopback: anybody on the path can read and forge"
            )
        };
        let mut warnings = Vec::new();
        if !self.grpc.ip().is_loopback() && self.tls_files().is_none() {
            warnings.push(plain("gRPC", self.grpc));
        }
        if !self.http.ip().is_loopback() {
            warnings.push(plain("HTTP", self.http));
        }
        warnings
    }

    /// The TLS files, if there are any.
    pub fn tls_files(&self) -> Option<tls::Files> {
        (!self.tls_cert.as_os_str().is_empty()).then(|| tls::Files {
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            client_ca: self.tls_client_ca.clone(),
        })
    }

    /// How much is kept.
    pub fn retention(&self) -> Retention {
        Retention {
            age_max: Duration::from_secs(u64::from(self.retention.days) * 86_400),
            size_max_bytes: u64::from(self.retention.size_mib) << 20,
        }
    }

    /// The directory of the database, by what `variable` says of the environment.
    pub fn state_dir(&self, variable: impl Fn(&str) -> Option<String>) -> PathBuf {
        if !self.state_dir.as_os_str().is_empty() {
            return self.state_dir.clone();
        }
        // systemd may give several; the unit asks for one.
        if let Some(dirs) = variable("STATE_DIRECTORY") {
            return dirs.split(':').next().map(PathBuf::from).unwrap_or_default();
        }
        let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
        if let Some(state) = variable("XDG_STATE_HOME") {
            return PathBuf::from(state).join("why502");
        }
        match variable("USER").as_deref() {
            Some("root") | None => PathBuf::from("/var/lib/why502"),
            Some(_) if home.as_os_str().is_empty() => PathBuf::from("/var/lib/why502"),
            Some(_) => home.join(".local/state/why502"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGED: &str = include_str!("../../packaging/collector.toml");

    fn check(text: &str) -> String {
        let parsed = Config::parse(Path::new("c.toml"), text);
        match parsed.and_then(|config| config.check().map(|()| config)) {
            Ok(_) => "ok".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn packaged_file_states_every_key_with_its_default() {
        let packaged: toml::Table = PACKAGED.parse().unwrap();
        assert_eq!(packaged, toml::Table::try_from(Config::default()).unwrap());
    }

    #[test]
    fn every_key_of_the_file_is_a_flag_and_a_variable_too() {
        use clap::Args as _;
        let command = Overrides::augment_args(clap::Command::new("serve"));
        let mut keys = toml::Table::try_from(Config::default()).unwrap();
        let retention = keys.remove("retention").unwrap();
        let of_table = retention.as_table().unwrap().keys().map(|key| format!("retention-{key}"));
        for key in keys.keys().cloned().chain(of_table) {
            let flag = command.get_arguments().find(|flag| flag.get_long() == Some(key.as_str()));
            let variable = flag.and_then(clap::Arg::get_env).unwrap_or_default();
            let expected = format!("WHY502_{}", key.to_uppercase().replace('-', "_"));
            assert_eq!(variable.to_str(), Some(expected.as_str()), "{key}");
        }
    }

    #[test]
    fn a_mistake_is_shown_with_its_line() {
        assert_eq!(
            check("# x\ngrcp = \"127.0.0.1:1\"").split('`').next().unwrap(),
            "c.toml:2: unknown field "
        );
        assert!(check("\n\nhttp = \"nowhere\"").starts_with("c.toml:3: "));
        assert!(check("[retention]\ndays = -1").starts_with("c.toml:2: "));
        assert!(check("grpc = ").starts_with("c.toml:1: "));
    }

    #[test]
    fn plaintext_beyond_loopback_needs_a_word() {
        assert_eq!(check("grpc = \"[::1]:1\""), "ok");
        assert!(check("grpc = \"0.0.0.0:1\"").starts_with("grpc: 0.0.0.0:1 is beyond loopback"));
        assert!(check("http = \"10.0.0.1:1\"").starts_with("http: 10.0.0.1:1 is beyond loopback"));
        assert_eq!(check("grpc = \"0.0.0.0:1\"\ninsecure-plaintext = true"), "ok");
        let tls = "tls-cert = \"a\"\ntls-key = \"b\"\ntls-client-ca = \"c\"";
        assert_eq!(check(&format!("grpc = \"0.0.0.0:1\"\n{tls}")), "ok");
        assert!(check(&format!("http = \"0.0.0.0:1\"\n{tls}")).contains("http"), "TLS is gRPC's");
        assert!(check("tls-cert = \"a\"").contains("belong together"));
    }

    #[test]
    fn plaintext_is_warned_of() {
        let config: Config =
            toml::from_str("grpc = \"0.0.0.0:1\"\ninsecure-plaintext = true").unwrap();
        assert_eq!(config.warnings().len(), 1);
        assert!(Config::default().warnings().is_empty());
    }

    #[test]
    fn the_state_is_where_the_environment_says() {
        let dir = |vars: &[(&str, &str)]| {
            let get = |name: &str| {
                vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            Config::default().state_dir(get).display().to_string()
        };
        assert_eq!(dir(&[("STATE_DIRECTORY", "/s/a:/s/b"), ("USER", "x")]), "/s/a");
        assert_eq!(dir(&[("XDG_STATE_HOME", "/x")]), "/x/why502");
        assert_eq!(dir(&[("USER", "root"), ("HOME", "/root")]), "/var/lib/why502");
        assert_eq!(dir(&[("USER", "ann"), ("HOME", "/home/ann")]), "/home/ann/.local/state/why502");
    }
}
