//! nginx: what its configuration declares, and what its logs say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use why502_proto::v1;

use self::config::{Config, Location};
use self::pass::{Pass, Peer};
use self::version::{Build, Version};
use crate::effective::Target;
use crate::place::Problem;

pub mod access_log;
pub mod answers;
pub mod attribute;
pub mod config;
pub mod error_log;
pub mod lines;
pub mod load;
pub mod message;
pub mod pass;
pub mod scope;
pub mod syntax;
pub mod time;
pub mod version;

/// The program's name in facts.
pub const NAME: &str = "nginx";

/// Where an instance's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Main configuration file: the name of the instance.
    pub conf: PathBuf,
    /// What relative logs are relative to.
    pub prefix: PathBuf,
    /// Main error log where the configuration names none.
    pub error_log: String,
    /// Access log where the configuration names none.
    pub access_log: String,
}

/// Words of its command line that say where its files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-c`
    pub conf: Option<String>,
    /// `-p`
    pub prefix: Option<String>,
    /// `-e`
    pub error_log: Option<String>,
    /// `-g`: directives of the main level.
    pub directives: String,
}

/// As `ngx_process_options` has it: `-c` is relative to the prefix, not to the working directory.
pub fn paths(build: &Build, options: &Options, directory: Option<&Path>) -> Paths {
    let prefix = options.prefix.as_deref().unwrap_or(&build.prefix);
    let prefix = directory.unwrap_or(Path::new("/")).join(prefix);
    let conf = options.conf.as_deref().unwrap_or(&build.conf);
    let error_log = options.error_log.as_deref();
    Paths {
        conf: clean(&prefix.join(conf)),
        prefix,
        error_log: error_log.unwrap_or(&build.error_log).to_owned(),
        access_log: build.http_log.clone(),
    }
}

/// Without `//` and `/./`.
fn clean(path: &Path) -> PathBuf {
    path.components().collect()
}

/// What a configuration means, and where it came from.
#[derive(Debug, Default)]
pub struct Effective {
    /// Its meaning.
    pub config: Arc<Config>,
    /// What was not understood, of text and meaning.
    pub problems: BTreeSet<Problem>,
    /// Files and directories that it depends on.
    pub watched: Vec<PathBuf>,
    /// The main file could be read.
    pub readable: bool,
}

/// Reads the configuration of an instance. Blocks on the disk.
pub fn read(
    root: &Path,
    paths: &Paths,
    directives: &str,
    version: &str,
    hostname: &str,
) -> Effective {
    let loaded = load::load(root, &paths.conf, directives);
    let mut config = config::effective(&loaded.directives, Version::parse(version), hostname);
    let mut problems: BTreeSet<Problem> = loaded.problems.into_iter().collect();
    problems.append(&mut std::mem::take(&mut config.problems).into_iter().collect());
    Effective {
        config: Arc::new(config),
        problems,
        watched: loaded.watched,
        readable: loaded.readable,
    }
}

/// What is declared, by route and endpoint.
pub type Declared = BTreeMap<(String, String), v1::EndpointDeclared>;

/// Facts of every endpoint of every route.
pub fn declared(config: &Config, instance: &str) -> Declared {
    let mut declared = Declared::new();
    for location in config.locations() {
        for (pass, peer) in location.peers() {
            let fact = endpoint(location, pass, peer, instance);
            let name = (fact.route.clone(), fact.endpoint.clone());
            declared.entry(name).or_insert(fact);
        }
    }
    declared
}

fn endpoint(location: &Location, pass: &Pass, peer: &Peer, instance: &str) -> v1::EndpointDeclared {
    v1::EndpointDeclared {
        gateway: NAME.to_owned(),
        instance: instance.to_owned(),
        route: location.route.clone(),
        endpoint: peer.endpoint.clone(),
        addresses: peer.addresses.clone(),
        upstream: pass.upstream.clone(),
        peers: u32::try_from(pass.peers.len()).unwrap_or(u32::MAX),
        protocol: pass.protocol.into(),
        file: peer.place.file.to_string(),
        line: peer.place.line,
        connect_timeout_ms: pass.connect_ms,
        read_timeout_ms: pass.read_ms,
        send_timeout_ms: pass.send_ms,
        keepalive_ms: pass.keepalive_ms,
        down: peer.down,
        backup: peer.backup,
        max_fails: peer.max_fails,
        fail_timeout_ms: peer.fail_timeout_ms,
        max_conns: peer.max_conns,
    }
}

/// Where a log goes that the configuration names so; "" is the default.
pub fn log_target(target: &str, default: &str, prefix: &Path) -> Target {
    /// What `/dev/log` leads to, and its older names (systemd-journald-dev-log.socket).
    const DEV_LOG: [&str; 3] = ["/dev/log", "/run/systemd/journal/dev-log", "/var/run/log"];
    const STDIO: [&str; 5] =
        ["stderr", "/dev/stderr", "/dev/stdout", "/proc/self/fd/1", "/proc/self/fd/2"];
    let target = if target.is_empty() { default } else { target };
    if STDIO.contains(&target) {
        return Target::Stdio;
    }
    if let Some(rest) = target.strip_prefix("syslog:") {
        let server = rest.split(',').find_map(|word| word.trim().strip_prefix("server="));
        let server = server.unwrap_or("");
        if server.strip_prefix("unix:").is_some_and(|path| DEV_LOG.contains(&path)) {
            // The tag that the configuration gives ends up in the text where the host's name stands before it.
            return Target::Syslog(String::new());
        }
        return Target::Elsewhere {
            reason: format!("it goes by syslog to {server}"),
            grant: "add a second log: syslog:server=unix:/dev/log, or a file".to_owned(),
        };
    }
    if target.starts_with("memory:") {
        return Target::Elsewhere {
            reason: "it goes to memory".to_owned(),
            grant: "add a second log that is a file".to_owned(),
        };
    }
    Target::File(clean(&prefix.join(target)))
}

/// The failure that a line tells, if it tells one.
pub fn failed(
    line: &error_log::ErrorLine<'_>,
    config: &Config,
    instance: &str,
) -> Option<v1::RequestFailed> {
    let message::Meaning::Failed { phase, fault, status, last } = message::meaning(line) else {
        return None;
    };
    let peer = &error_log::peer(line.upstream);
    let location = locate(line, config, peer);
    let pass = location.and_then(|location| pass_to(location, peer));
    let chosen = peer.starts_with("unix:") || peer.parse::<std::net::SocketAddr>().is_ok();
    let peers = pass.map_or(0, answers);
    let certain = last || peers == 1;
    let rewritten = location.is_none_or(|location| location.status_rewritten);
    let upstream = match (chosen, pass) {
        (true, pass) => pass.map_or("", |pass| pass.upstream.as_str()),
        (false, _) => peer.as_str(),
    };
    Some(v1::RequestFailed {
        gateway: NAME.to_owned(),
        instance: instance.to_owned(),
        route: location.map_or_else(
            || lines::route(line.server, line.host, line.path),
            |location| location.route.clone(),
        ),
        endpoint: if chosen { peer.clone() } else { String::new() },
        upstream: upstream.to_owned(),
        phase: phase.into(),
        fault: fault.into(),
        status: status.filter(|_| certain && !rewritten).map(u32::from),
        method: line.method.to_owned(),
        path: crate::redact::line(line.path),
        count: 1,
        elapsed_ms: None,
        reused: None,
        message: crate::redact::line(line.message),
    })
}

fn locate<'a>(
    line: &error_log::ErrorLine<'_>,
    config: &'a Config,
    peer: &str,
) -> Option<&'a Location> {
    if line.method.is_empty() {
        return attribute::stream(config, peer);
    }
    let (server, host, path) = (line.server, line.host, line.path);
    attribute::attribute(config, attribute::Request { server, host, path, peer })
}

fn pass_to<'a>(location: &'a Location, peer: &str) -> Option<&'a Pass> {
    let sends = |pass: &&Pass| {
        pass.upstream == peer
            || pass.host == peer
            || pass.peers.iter().any(|declared| {
                declared.endpoint == peer || declared.addresses.iter().any(|a| a == peer)
            })
    };
    location.passes.iter().find(sends).or(location.passes.first())
}

/// Addresses that nginx may try one after the other.
fn answers(pass: &Pass) -> usize {
    let peers = pass.peers.iter().filter(|peer| !peer.down);
    peers.map(|peer| peer.addresses.len()).sum()
}

/// The fact of "upstream server temporarily disabled".
pub fn disabled(
    line: &error_log::ErrorLine<'_>,
    config: &Config,
    instance: &str,
) -> v1::EndpointDisabled {
    let peer = &error_log::peer(line.upstream);
    let location = locate(line, config, peer);
    v1::EndpointDisabled {
        instance: instance.to_owned(),
        endpoint: peer.clone(),
        upstream: location
            .and_then(|location| pass_to(location, peer))
            .map(|pass| pass.upstream.clone())
            .unwrap_or_default(),
        ..v1::EndpointDisabled::default()
    }
}

/// The fact of "worker process 812 exited on signal 11"; `unit` is the one that nginx runs as.
pub fn crashed(
    line: &error_log::ErrorLine<'_>,
    unit: &str,
    pid: u32,
    signal: u32,
) -> v1::AppServerEvent {
    v1::AppServerEvent {
        server: NAME.to_owned(),
        event: v1::AppEvent::WorkerCrashed.into(),
        unit: unit.to_owned(),
        pid,
        signal: Some(signal),
        text: crate::redact::line(line.message),
        ..v1::AppServerEvent::default()
    }
}
