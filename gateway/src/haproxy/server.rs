//! `server`, `server-template` and `default-server` lines: sections 4.2 and 5.2 of the manual.

use std::rc::Rc;

use super::address::{self, Address};
use super::load::Line;
use super::time;
use super::words::{self, Environment};
use crate::place::Place;

/// Keywords with a word of their own behind them; those with more are handled where they are read.
const VALUED: &[&str] = &[
    "addr",
    "agent-addr",
    "agent-inter",
    "agent-port",
    "agent-send",
    "alpn",
    "ca-file",
    "ca-verify-file",
    "check-alpn",
    "check-pool-conn-name",
    "check-proto",
    "check-sni",
    "ciphers",
    "ciphersuites",
    "client-sigalgs",
    "cookie",
    "crl-file",
    "crt",
    "curves",
    "downinter",
    "error-limit",
    "fall",
    "fastinter",
    "fullconn",
    "guid",
    "hash-key",
    "id",
    "idle-ping",
    "init-addr",
    "init-state",
    "inter",
    "interface",
    "log-bufsize",
    "log-proto",
    "max-reuse",
    "maxconn",
    "maxqueue",
    "minconn",
    "namespace",
    "npn",
    "observe",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "pool-conn-name",
    "pool-low-conn",
    "pool-max-conn",
    "pool-purge-delay",
    "port",
    "proto",
    "proxy-v2-options",
    "redir",
    "resolve-net",
    "resolve-opts",
    "resolve-prefer",
    "resolvers",
    "rise",
    "shard",
    "sigalgs",
    "slowstart",
    "sni",
    "socks4",
    "source",
    "ssl-max-ver",
    "ssl-min-ver",
    "tcp-ut",
    "track",
    "usesrc",
    "verify",
    "verifyhost",
    "weight",
    "ws",
];

/// Options in force for a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// It speaks TLS.
    pub tls: bool,
    /// It is asked only when the others are down.
    pub backup: bool,
    /// It begins in maintenance.
    pub disabled: bool,
    /// A health check asks it.
    pub check: bool,
    /// `proto`: "h2", "fcgi"; "" for HTTP/1.
    pub proto: String,
    /// Connections at once; 0: no bound.
    pub max_conns: u32,
    /// Failures after which it counts as down, where traffic is observed.
    pub error_limit: u32,
    /// Traffic is observed.
    pub observe: bool,
    /// How long idle connections wait until half of them go, milliseconds.
    pub pool_purge_ms: u64,
    /// Idle connections are kept at all.
    pub pool: bool,
}

impl Options {
    /// As the program begins.
    pub fn new() -> Self {
        Self { error_limit: 10, pool_purge_ms: 5000, pool: true, ..Self::default() }
    }

    /// Takes words in.
    pub fn take(&mut self, words: &[String]) {
        let mut rest = words.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            let value = if VALUED.contains(&word) { rest.next().unwrap_or("") } else { "" };
            match word {
                "ssl" => self.tls = true,
                "no-ssl" => self.tls = false,
                "backup" => self.backup = true,
                "no-backup" | "non-backup" => self.backup = false,
                "disabled" => self.disabled = true,
                "enabled" => self.disabled = false,
                "check" | "track" => self.check = true,
                "no-check" => self.check = false,
                "proto" => value.clone_into(&mut self.proto),
                "maxconn" => self.max_conns = value.parse().unwrap_or(0),
                "observe" => self.observe = true,
                "error-limit" => self.error_limit = value.parse().unwrap_or(10),
                "pool-purge-delay" => self.pool_purge_ms = time::milliseconds(value).unwrap_or(0),
                "pool-max-conn" => self.pool = value != "0",
                "set-proxy-v2-tlv-fmt" => drop(rest.next()),
                _ => {}
            }
        }
    }
}

/// A server of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As logs name it.
    pub name: String,
    /// Where it is declared.
    pub place: Place,
    /// "10.0.0.7:8080", "unix:/run/x.sock".
    pub endpoint: Rc<str>,
    /// What is in force.
    pub options: Rc<Options>,
}

/// What an address is read with.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The environment.
    pub environment: &'a Environment,
    /// What the process has as its root.
    pub chroot: Option<&'a str>,
    /// The one port that requests come in by; `None`: there are several.
    pub port: Option<u16>,
}

/// Servers of a template: the largest pools have some hundreds.
const TEMPLATE_MAX: u32 = 4096;

/// Reads a line; the error is what is wrong with it.
pub fn read(line: &Line, defaults: &Options, around: Around<'_>) -> Result<Vec<Server>, String> {
    let template = line.word(0) == "server-template";
    let written = line.word(if template { 3 } else { 2 });
    if written.is_empty() {
        return Err("a server without an address".to_owned());
    }
    let endpoint = endpoint(&words::expand(written, around.environment), around)?;
    let mut options = defaults.clone();
    options.take(line.behind(if template { 4 } else { 3 }));
    let (endpoint, options) = (Rc::<str>::from(endpoint), Rc::new(options));
    let server = |name: String| Server {
        name,
        place: line.place.clone(),
        endpoint: Rc::clone(&endpoint),
        options: Rc::clone(&options),
    };
    if !template {
        return Ok(vec![server(line.word(1).to_owned())]);
    }
    let (from, to) = line.word(2).split_once('-').unwrap_or(("1", line.word(2)));
    let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) else {
        return Err("a template without a range of numbers".to_owned());
    };
    let to = to.min(from.saturating_add(TEMPLATE_MAX));
    Ok((from..=to).map(|n| server(format!("{}{n}", line.word(1)))).collect())
}

fn endpoint(written: &str, around: Around<'_>) -> Result<String, String> {
    let (host, port) = match address::parse(written) {
        Address::Unix(path) => {
            return Ok(format!("unix:{}", address::in_chroot(&path, around.chroot)));
        }
        Address::Inet { host, port, .. } => (host, port),
        Address::Other => return Err("this kind of address is not read".to_owned()),
    };
    if host.is_empty() || host == "*" || host == "0.0.0.0" {
        return Err("the address is that to which the client connected".to_owned());
    }
    let port = match (port.strip_prefix(['+', '-']), around.port) {
        (None, _) if !port.is_empty() => port.parse::<u16>().ok(),
        (None, own) => own,
        (Some(shift), Some(own)) => {
            let shift = shift.parse::<u16>().ok();
            shift.and_then(|by| {
                if port.starts_with('+') { own.checked_add(by) } else { own.checked_sub(by) }
            })
        }
        (Some(_), None) => None,
    };
    let port = port.ok_or("the port is that to which the client connected")?;
    Ok(address::joined(&host, &port.to_string()))
}
