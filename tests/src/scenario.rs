//! A scenario: a folder with `scenario.toml` and the executables `setup` and `break`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The client and the collector are hosts too, beside those of the scenario.
pub const CLIENT: &str = "client";
/// See [`CLIENT`].
pub const COLLECTOR: &str = "collector";

/// How long an explanation may take, where the scenario does not say.
const WITHIN_S: u64 = 20;

/// Why a folder is not a scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A file is missing or cannot be read.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not what a scenario may say.
    #[error("{}: {what}", path.display())]
    Toml {
        /// Which.
        path: PathBuf,
        /// Key, line, and what is wrong with it.
        what: String,
    },
    /// A key says something impossible.
    #[error("{}: {key}: {what}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

/// What a scenario says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What happens, in one sentence.
    pub about: String,
    /// Hosts in the order of their addresses.
    pub hosts: Vec<String>,
    /// Program that speaks with the client.
    pub gateway: String,
    /// What the client requests: 200 before `break`.
    pub url: String,
    /// What is to be said about it.
    pub expect: Expect,
    /// Debian packages that must be there.
    #[serde(default)]
    pub packages: Vec<String>,
    /// "host:source" that is switched off.
    #[serde(default)]
    pub blind: Vec<String>,
    /// Hosts with an agent. Absent: all.
    #[serde(default)]
    pub agents: Option<Vec<String>>,
    /// Method of the client's requests.
    #[serde(default = "get")]
    pub requests: String,
    /// What the client sees after `break`. Absent: any failure.
    #[serde(default)]
    pub expect_status: Option<u16>,
    /// Parallel requests beside the client's own, from `break` on.
    #[serde(default)]
    pub load: u32,
    /// How long an explanation may take.
    #[serde(default = "within_s")]
    pub within_s: u64,
    /// Name of the folder.
    #[serde(skip)]
    pub name: String,
    /// The folder.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// The `[expect]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Id of the catalogue, or "unknown", or "none" for a healthy control.
    pub root_cause: String,
    /// Links that the chain must have, symptom side first. Others may stand between them.
    #[serde(default)]
    pub chain: Vec<String>,
    /// Where the root cause is.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Wrong answers.
    #[serde(default)]
    pub never: Vec<String>,
    /// As right as `root_cause`.
    #[serde(default)]
    pub accept: Vec<String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn within_s() -> u64 {
    WITHIN_S
}

impl Scenario {
    /// Reads the scenario in `dir`.
    ///
    /// # Errors
    /// With file and key, if something is missing, unknown or impossible.
    pub fn read(dir: &Path) -> Result<Self, ScenarioError> {
        let path = dir.join("scenario.toml");
        let text = fs::read_to_string(&path)
            .map_err(|source| ScenarioError::Io { path: path.clone(), source })?;
        let mut scenario = Self::parse(&path, &text)?;
        scenario.dir = fs::canonicalize(dir)
            .map_err(|source| ScenarioError::Io { path: dir.to_owned(), source })?;
        let name = scenario.dir.file_name().unwrap_or_default();
        scenario.name = name.to_string_lossy().into_owned();
        for program in ["setup", "break"] {
            let path = dir.join(program);
            if let Err(source) = fs::metadata(&path) {
                return Err(ScenarioError::Io { path, source });
            }
        }
        Ok(scenario)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| ScenarioError::Toml {
            path: path.to_owned(),
            what: error.to_string(),
        })?;
        match scenario.impossible() {
            Some((key, what)) => Err(ScenarioError::Key { path: path.to_owned(), key, what }),
            None => Ok(scenario),
        }
    }

    /// The first key that says something impossible.
    fn impossible(&self) -> Option<(&'static str, String)> {
        if self.hosts.is_empty() {
            return Some(("hosts", "names no host".to_owned()));
        }
        let mut names = BTreeSet::from([CLIENT, COLLECTOR]);
        for host in &self.hosts {
            let fits = !host.is_empty()
                && host.len() <= 32
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !fits {
                return Some(("hosts", format!("{host:?} is not a host name")));
            }
            if !names.insert(host) {
                return Some(("hosts", format!("{host:?} is taken")));
            }
        }
        let unknown = |host: &str| !self.hosts.iter().any(|known| known == host);
        for host in self.agents.iter().flatten() {
            if unknown(host) {
                return Some(("agents", format!("there is no host {host:?}")));
            }
        }
        for host in &self.expect.hosts {
            if unknown(host) {
                return Some(("expect.hosts", format!("there is no host {host:?}")));
            }
        }
        for blind in &self.blind {
            match blind.split_once(':') {
                Some((host, source)) if !unknown(host) && SOURCES.contains(&source) => {}
                _ => return Some(("blind", format!("{blind:?} is not host:source"))),
            }
        }
        None
    }

    /// Host on which the gateway runs: the one that `url` names, else the first.
    pub fn gateway_host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let end = rest.find(['/', ':', '?']).unwrap_or(rest.len());
        let named = self.hosts.iter().find(|host| **host == rest[..end]);
        named.or(self.hosts.first()).map_or("", String::as_str)
    }

    /// Path of `url`, without the query.
    pub fn path(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        path.split('?').next().unwrap_or("/")
    }

    /// Hosts that have an agent.
    pub fn agents(&self) -> &[String] {
        self.agents.as_deref().unwrap_or(&self.hosts)
    }

    /// A healthy control.
    pub fn is_control(&self) -> bool {
        self.expect.root_cause == "none"
    }

    /// Nobody can know the cause.
    pub fn is_unknowable(&self) -> bool {
        self.expect.root_cause == "unknown"
    }
}

/// What `blind` may switch off.
pub const SOURCES: &[&str] =
    &["process", "unit", "memory", "listener", "kernel_log", "journal", "gateway"];

/// A folder's name and what is in it; each may be wrong by itself.
pub type Found = Vec<(String, Result<Scenario, ScenarioError>)>;

/// All scenarios below `dirs`, in the order of the folders and their names.
///
/// # Errors
/// If a folder cannot be read.
pub fn find(dirs: &[PathBuf]) -> Result<Found, ScenarioError> {
    let mut found = Vec::new();
    for dir in dirs {
        if dir.join("scenario.toml").exists() {
            found.push((name_of(dir), Scenario::read(dir)));
            continue;
        }
        let io = |source| ScenarioError::Io { path: dir.clone(), source };
        let mut folders = Vec::new();
        for entry in fs::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.join("scenario.toml").exists() {
                folders.push(path);
            }
        }
        folders.sort();
        found.extend(folders.iter().map(|folder| (name_of(folder), Scenario::read(folder))));
    }
    Ok(found)
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "about = \"a\"\nhosts = [\"gw\", \"app1\"]\ngateway = \"nginx\"\n\
        url = \"http://gw/api?x=1\"\n";

    fn parse(more: &str, expect: &str) -> Result<Scenario, String> {
        let text = format!("{LEAST}{more}\n[expect]\n{expect}\n");
        Scenario::parse(Path::new("s.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let scenario = parse("", "root_cause = \"none\"").unwrap();
        assert_eq!((scenario.within_s, scenario.load), (20, 0));
        assert_eq!(scenario.agents(), ["gw", "app1"]);
        assert_eq!(scenario.requests, "GET");
        assert_eq!((scenario.gateway_host(), scenario.path()), ("gw", "/api"));
        assert!(scenario.is_control());
    }

    #[test]
    fn every_key_of_the_contract_is_known() {
        let more = "packages = [\"nginx\"]\nblind = [\"app1:journal\"]\nagents = [\"gw\"]\n\
            requests = \"POST\"\nexpect_status = 504\nload = 9\nwithin_s = 3";
        let expect = "root_cause = \"a.b\"\nchain = [\"a.b\"]\nhosts = [\"app1\"]\nnever = [\"c\"]\n\
            accept = [\"d\"]";
        let scenario = parse(more, expect).unwrap();
        assert_eq!(scenario.expect_status, Some(504));
        assert_eq!(scenario.expect.accept, ["d"]);
    }

    #[test]
    fn wrong_keys_are_named_with_file_and_line() {
        let error = parse("withinn_s = 3", "root_cause = \"x\"").unwrap_err();
        assert!(error.starts_with("s.toml: ") && error.contains("withinn_s"), "{error}");
        assert!(error.contains("line 5"), "{error}");
        let error = parse("blind = [\"app2:journal\"]", "root_cause = \"x\"").unwrap_err();
        assert_eq!(error, "s.toml: blind: \"app2:journal\" is not host:source");
        let error = parse("agents = [\"db\"]", "root_cause = \"x\"").unwrap_err();
        assert_eq!(error, "s.toml: agents: there is no host \"db\"");
    }
}
