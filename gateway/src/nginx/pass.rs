//! Where requests are sent: `proxy_pass` and its siblings, upstream groups, and what variables in them may hold.
//!
//! Pages: ngx_http_upstream_module, ngx_http_proxy_module, ngx_http_fastcgi_module, ... of nginx.org/en/docs. A
//! variable that is given only constants (`set`, `map`, `geo`, `split_clients`) is each of them; any other is a name
//! that only the gateway itself can know at run time.

use std::collections::BTreeMap;

use why502_proto::v1::Protocol;

use super::scope::Scope;
use super::syntax::Directive;
use super::time::{MINUTE_MS, time_ms};
use super::version::Version;
use crate::place::{Place, Problem};

/// Values that one target may take through its variables; a map with more backends is cut here.
const VALUES_MAX: usize = 256;
/// Variables that are made of variables.
const VARIABLE_DEPTH_MAX: usize = 4;

/// A directive that passes requests on.
struct Passing {
    name: &'static str,
    protocol: Protocol,
    /// Of `http://host` without a port; `None`: the port must be there.
    port: Option<u16>,
}

const PASSINGS: [Passing; 6] = [
    Passing { name: "proxy", protocol: Protocol::Http, port: Some(80) },
    Passing { name: "fastcgi", protocol: Protocol::Fastcgi, port: None },
    Passing { name: "uwsgi", protocol: Protocol::Uwsgi, port: None },
    Passing { name: "scgi", protocol: Protocol::Scgi, port: None },
    Passing { name: "grpc", protocol: Protocol::Grpc, port: Some(80) },
    Passing { name: "memcached", protocol: Protocol::Memcached, port: Some(11211) },
];

/// One target of one location.
#[derive(Clone, Debug)]
pub struct Pass {
    /// How it speaks.
    pub protocol: Protocol,
    /// Name of the upstream group; "" where there is none.
    pub upstream: String,
    /// As the error log names it where no peer was chosen: the group, or the host.
    pub host: String,
    /// Where to.
    pub peers: Vec<Peer>,
    /// Effective timeouts.
    pub connect_ms: u64,
    /// Between two reads.
    pub read_ms: u64,
    /// Between two writes.
    pub send_ms: u64,
    /// How long an idle connection is kept; `None`: none is.
    pub keepalive_ms: Option<u64>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// "10.0.0.7:8080", "app:8080", "unix:/run/app.sock".
    pub endpoint: String,
    /// What the endpoint resolved to; itself where it is an address.
    pub addresses: Vec<String>,
    /// A name that is to be resolved on this host, as nginx does when it starts.
    pub name: bool,
    /// Where it is declared.
    pub place: Place,
    /// `down`
    pub down: bool,
    /// `backup`
    pub backup: bool,
    /// `max_fails=`
    pub max_fails: u32,
    /// `fail_timeout=`
    pub fail_timeout_ms: u64,
    /// `max_conns=`
    pub max_conns: u32,
}

impl Peer {
    fn new(endpoint: String, place: Place) -> Self {
        let endpoint = plain(&endpoint);
        let unix = endpoint.starts_with("unix:");
        let address = unix || endpoint.parse::<std::net::SocketAddr>().is_ok();
        Self {
            addresses: if address { vec![endpoint.clone()] } else { Vec::new() },
            name: !address && !endpoint.contains('$'),
            endpoint,
            place,
            down: false,
            backup: false,
            max_fails: 1,
            fail_timeout_ms: 10_000,
            max_conns: 0,
        }
    }
}

/// Upstream groups and constant variables of an `http` or `stream` block.
pub struct Groups<'a> {
    upstreams: BTreeMap<String, Group>,
    maps: BTreeMap<&'a str, Vec<&'a str>>,
    version: Version,
    stream: bool,
}

#[derive(Clone)]
struct Group {
    peers: Vec<Peer>,
    keepalive_ms: Option<u64>,
}

impl<'a> Groups<'a> {
    /// Reads them from `block`.
    pub fn read(
        block: &'a [Directive],
        version: Version,
        stream: bool,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut groups =
            Self { upstreams: BTreeMap::new(), maps: BTreeMap::new(), version, stream };
        for directive in block {
            let Some(inner) = directive.block.as_deref() else { continue };
            match directive.name.as_str() {
                "upstream" => {
                    let group = group(inner, version, problems);
                    groups.upstreams.insert(directive.arg(0).to_owned(), group);
                }
                "map" | "geo" | "split_clients" => {
                    let Some(name) = directive.args.last().and_then(|v| v.strip_prefix('$')) else {
                        continue;
                    };
                    let values = inner.iter().filter(|entry| entry.args.len() == 1);
                    let values = values.map(|entry| entry.arg(0)).filter(|value| !value.is_empty());
                    groups.maps.insert(name, values.take(VALUES_MAX).collect());
                }
                _ => {}
            }
        }
        groups
    }
}

fn group(block: &[Directive], version: Version, problems: &mut Vec<Problem>) -> Group {
    let mut peers = Vec::new();
    let mut keepalive = version.keeps_alive();
    let mut keepalive_ms = MINUTE_MS;
    for directive in block {
        match directive.name.as_str() {
            "server" if directive.args.is_empty() || directive.block.is_some() => {
                problems.push(Problem {
                    place: directive.place.clone(),
                    text: "server of an upstream takes an address".to_owned(),
                });
            }
            "server" => peers.push(peer(directive)),
            "keepalive" => keepalive = directive.arg(0).parse::<u32>().is_ok_and(|n| n > 0),
            "keepalive_timeout" => keepalive_ms = time_ms(directive.arg(0)).unwrap_or(MINUTE_MS),
            _ => {}
        }
    }
    Group { peers, keepalive_ms: keepalive.then_some(keepalive_ms) }
}

fn peer(directive: &Directive) -> Peer {
    let mut peer = Peer::new(with_port(directive.arg(0), Some(80)), directive.place.clone());
    for arg in directive.args.iter().skip(1) {
        let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
        match name {
            "down" => peer.down = true,
            "backup" => peer.backup = true,
            "max_fails" => peer.max_fails = value.parse().unwrap_or(1),
            "fail_timeout" => peer.fail_timeout_ms = time_ms(value).unwrap_or(10_000),
            "max_conns" => peer.max_conns = value.parse().unwrap_or(0),
            // Asked again while it runs, of its own resolver.
            "resolve" | "service" => peer.name = false,
            _ => {}
        }
    }
    peer
}

/// The passes of one location.
pub fn passes(scope: &Scope<'_>, groups: &Groups<'_>, problems: &mut Vec<Problem>) -> Vec<Pass> {
    let mut passes = Vec::new();
    for passing in &PASSINGS {
        let name = format!("{}_pass", passing.name);
        let conditional = scope.conditional.iter().copied().filter(|inner| inner.name == name);
        let own = scope.own(&name).last().copied();
        for directive in own.into_iter().chain(conditional) {
            let [target] = directive.args.as_slice() else {
                problems.push(Problem {
                    place: directive.place.clone(),
                    text: format!("{name} takes one address; is a \";\" missing?"),
                });
                continue;
            };
            for value in expand(target, scope, groups, 0) {
                passes.push(pass(&value, target, directive, passing, scope, groups));
            }
        }
    }
    passes
}

fn pass(
    value: &str,
    written: &str,
    directive: &Directive,
    passing: &Passing,
    scope: &Scope<'_>,
    groups: &Groups<'_>,
) -> Pass {
    let (scheme, rest) = value.split_once("://").unwrap_or(("", value));
    let (protocol, port) = match (groups.stream, passing.protocol, scheme) {
        (true, ..) => (Protocol::Tcp, None),
        (_, Protocol::Http, "https") => (Protocol::Https, Some(443)),
        (_, Protocol::Grpc, "grpcs") => (Protocol::Grpcs, Some(443)),
        (_, protocol, _) => (protocol, passing.port),
    };
    let host = authority(rest);
    let group = groups.upstreams.get(host);
    let peers = group.map_or_else(
        || {
            let mut peer = Peer::new(with_port(host, port), directive.place.clone());
            // A host out of a variable is resolved at run time, by the gateway's own resolver.
            peer.name &= written == value;
            vec![peer]
        },
        |group| group.peers.clone(),
    );
    let time = |kind: &str, default| {
        let name = format!("{}_{kind}", passing.name);
        scope.last(&name).and_then(|time| time_ms(time.arg(0))).unwrap_or(default)
    };
    let (read, send) = if groups.stream {
        let both = time("timeout", 10 * MINUTE_MS);
        (both, both)
    } else {
        (time("read_timeout", MINUTE_MS), time("send_timeout", MINUTE_MS))
    };
    Pass {
        protocol,
        upstream: if group.is_some() { host.to_owned() } else { String::new() },
        host: host.to_owned(),
        peers,
        connect_ms: time("connect_timeout", MINUTE_MS),
        read_ms: read,
        send_ms: send,
        keepalive_ms: group
            .and_then(|group| group.keepalive_ms)
            .filter(|_| reusable(protocol, scope, groups.version)),
    }
}

/// Whether what is sent to the upstream lets the connection live on.
fn reusable(protocol: Protocol, scope: &Scope<'_>, version: Version) -> bool {
    match protocol {
        Protocol::Http | Protocol::Https => {
            let http = scope.last("proxy_http_version").map(|directive| directive.arg(0));
            let mut headers = scope.all("proxy_set_header").iter();
            let connection =
                headers.rfind(|header| header.arg(0).eq_ignore_ascii_case("connection"));
            let connection = connection.map(|header| header.arg(1).to_ascii_lowercase());
            let closes = match connection.as_deref() {
                Some(value) => value == "close",
                None => !version.keeps_alive(),
            };
            !closes && http.map_or(version.keeps_alive(), |http| http != "1.0")
        }
        Protocol::Fastcgi => scope.last("fastcgi_keep_conn").is_some_and(|d| d.arg(0) == "on"),
        Protocol::Grpc | Protocol::Grpcs | Protocol::Memcached => true,
        _ => false,
    }
}

/// Values that `text` may have; itself, with its variables, where one of them is not known before run time.
fn expand(text: &str, scope: &Scope<'_>, groups: &Groups<'_>, depth: usize) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, variable) = rest.split_at(at);
        let (name, after) = variable_name(&variable[1..]);
        let known = if depth < VARIABLE_DEPTH_MAX { assigned(name, scope, groups) } else { vec![] };
        let mut parts: Vec<String> =
            known.iter().flat_map(|value| expand(value, scope, groups, depth + 1)).collect();
        if parts.is_empty() {
            parts.push(variable[..variable.len() - after.len()].to_owned());
        }
        values = values
            .iter()
            .flat_map(|value| parts.iter().map(move |part| format!("{value}{before}{part}")))
            .take(VALUES_MAX)
            .collect();
        rest = after;
    }
    values.iter_mut().for_each(|value| value.push_str(rest));
    values.sort();
    values.dedup();
    values
}

fn variable_name(text: &str) -> (&str, &str) {
    if let Some((name, after)) = text.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
        return (name, after);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

/// What the nearest unconditional `set` gives, and every `set` in an `if` on the way to it; else what a map gives.
fn assigned<'a>(name: &str, scope: &Scope<'a>, groups: &Groups<'a>) -> Vec<&'a str> {
    let sets = |directive: &&&'a Directive| {
        directive.name == "set" && directive.arg(0).strip_prefix('$') == Some(name)
    };
    let mut values = Vec::new();
    let mut level = Some(scope);
    while let Some(scope) = level {
        values.extend(scope.conditional.iter().filter(sets).map(|set| set.arg(1)));
        if let Some(set) = scope.own("set").iter().rfind(sets) {
            values.push(set.arg(1));
            return values;
        }
        level = scope.parent();
    }
    values.extend(groups.maps.get(name).into_iter().flatten().copied());
    values
}

/// "unix:///run/a.sock" is "unix:/run/a.sock".
pub fn plain(peer: &str) -> String {
    match peer.strip_prefix("unix:") {
        Some(path) if path.starts_with("//") => format!("unix:/{}", path.trim_start_matches('/')),
        _ => peer.to_owned(),
    }
}

/// "host:port" of "host:port/uri", "unix:/path" of "unix:/path:/uri".
fn authority(text: &str) -> &str {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.find(':').map_or(text, |at| &text[..at + "unix:".len()]);
    }
    // A variable may hold the path as well: "$backend$request_uri".
    let end = text.find(['/', '?']).unwrap_or(text.len());
    let end = text[..end].find("$request_uri").or(text[..end].find("$uri")).unwrap_or(end);
    &text[..end]
}

fn with_port(host: &str, port: Option<u16>) -> String {
    match port {
        Some(port)
            if !host.starts_with("unix:") && port_of(host).is_none() && !host.ends_with('$') =>
        {
            // "$host" may come with a port of its own.
            if host.contains('$') { host.to_owned() } else { format!("{host}:{port}") }
        }
        _ => host.to_owned(),
    }
}

/// The port of "8080", "*:8080", "10.0.0.1:8080", "[::]:8080".
pub fn port_of(text: &str) -> Option<u16> {
    if text.starts_with("unix:") {
        return None;
    }
    let port = match text.rsplit_once(':') {
        Some((_, port)) => port,
        None => text,
    };
    port.parse().ok()
}
