//! Which route and which declared endpoint a line is about.
//!
//! A line of the error log has the peer, or the path, and seldom both. With a path the route is
//! found as httpd finds it; with only a peer, the route is the most general of those that lead
//! there.

use std::net::SocketAddr;

use why502_proto::v1::Protocol;

use super::config::{Peer, Route};
use super::logs::Log;

/// Protocols that one module of httpd speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Not known.
    #[default]
    Any,
    /// HTTP, with and without TLS; HTTP/2 and WebSockets too.
    Http,
    /// FastCGI
    Fastcgi,
    /// SCGI
    Scgi,
    /// uwsgi
    Uwsgi,
    /// AJP
    Ajp,
}

impl Class {
    /// Of the name before "attempt to connect".
    pub fn of_scheme(scheme: &str) -> Self {
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" | "ws" | "wss" | "h2" | "h2c" => Self::Http,
            "fcgi" => Self::Fastcgi,
            "scgi" => Self::Scgi,
            "uwsgi" => Self::Uwsgi,
            "ajp" => Self::Ajp,
            _ => Self::Any,
        }
    }

    /// Of the module that wrote the line.
    pub fn of_module(module: &str) -> Self {
        match module {
            "proxy_http" | "proxy_http2" | "proxy_wstunnel" => Self::Http,
            _ => module.strip_prefix("proxy_").map_or(Self::Any, Self::of_scheme),
        }
    }

    fn has(self, peer: &Peer) -> bool {
        self == Self::Any || self == Self::of_scheme(peer.scheme)
    }
}

/// What a line says of the request.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// As the configuration names the peer: "app:8080", "app".
    pub name: String,
    /// As it was connected to: "10.0.0.7:8080", "/run/a.sock".
    pub address: String,
    /// What it speaks.
    pub class: Class,
    /// "ws", "http", where the line says it so exactly.
    pub scheme: String,
    /// Only members of balancers are meant.
    pub member: bool,
    /// Path of the request.
    pub path: String,
    /// Name of the balancer.
    pub balancer: String,
    /// Address of the client.
    pub client: String,
}

impl Asked {
    /// Of a peer.
    pub fn new(name: &str, class: Class) -> Self {
        Self { name: name.to_ascii_lowercase(), class, ..Self::default() }
    }

    fn fits(&self, peer: &Peer) -> bool {
        if !self.class.has(peer) || self.member && peer.declared.upstream.is_empty() {
            return false;
        }
        let endpoint = peer.declared.endpoint.as_str();
        if let Some(path) = endpoint.strip_prefix("unix:") {
            // Messages about a request name the host of the URL behind the socket.
            return if self.address.is_empty() {
                self.name.is_empty()
                    || self.name.starts_with("localhost")
                    || self.name.starts_with("httpd-uds")
            } else {
                self.address == path
            };
        }
        if self.address.starts_with('/') {
            return false;
        }
        let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        self.name.is_empty()
            || self.name == endpoint
            || (self.name == host
                && (self.address.is_empty() || port(&self.address) == port(endpoint)))
            || self.address == endpoint
    }
}

/// What a line is about.
#[derive(Clone, Debug, Default)]
pub struct Attributed {
    /// Name of the route; "" where it is not known.
    pub route: String,
    /// As declared, else as the line names it.
    pub endpoint: String,
    /// The balancer.
    pub upstream: String,
    /// How many peers may answer instead.
    pub peers: u32,
}

/// Finds it.
pub fn attribute(log: &Log, asked: &Asked) -> Attributed {
    let (config, hosts) = (&log.config, log.hosts.as_slice());
    let named = !asked.name.is_empty() || !asked.address.is_empty();
    if !asked.balancer.is_empty() {
        let of = |route: &&Route| {
            route.peers.first().is_some_and(|peer| peer.declared.upstream == asked.balancer)
        };
        let route = general(config.routes(hosts).filter(of));
        return Attributed {
            route: route.map(|route| route.name.clone()).unwrap_or_default(),
            upstream: asked.balancer.clone(),
            ..Attributed::default()
        };
    }
    let peer_of = |route: &'_ Route| route.peers.iter().position(|peer| asked.fits(peer));
    if !asked.path.is_empty() {
        let takes = |route: &&Route| route.matcher.takes(&asked.path) && peer_of(route).is_some();
        // As httpd finds it, if that leads to the peer; else whatever takes the path and leads
        // there.
        let first = match hosts {
            [_] => config.by_path(hosts, &asked.path).filter(|route| peer_of(route).is_some()),
            _ => None,
        };
        let route = first.or_else(|| config.routes(hosts).find(takes));
        if let Some((route, at)) = route.and_then(|route| Some((route, peer_of(route)?))) {
            // Without a name any peer of the route may be meant.
            let only = named || route.peers.len() == 1;
            return attributed(route, &route.peers[at], only);
        }
    }
    let leading = || config.routes(hosts).filter(|route| peer_of(route).is_some());
    if named {
        let exact = || {
            leading().filter(|route| {
                peer_of(route).is_some_and(|at| route.peers[at].scheme == asked.scheme)
            })
        };
        let route = general(exact()).or_else(|| general(leading()));
        if let Some((route, at)) = route.and_then(|route| Some((route, peer_of(route)?))) {
            let of = attributed(route, &route.peers[at], true);
            // Any of these routes may be meant: whether another peer answered is only known if it
            // is in none.
            let peers =
                leading().filter_map(|route| Some(route.peers[peer_of(route)?].declared.peers));
            // Where a name leads to several addresses, the line says which one it was.
            let address = Some(&asked.address).filter(|text| text.parse::<SocketAddr>().is_ok());
            let endpoint = address.cloned().unwrap_or(of.endpoint);
            return Attributed { peers: peers.max().unwrap_or(of.peers), endpoint, ..of };
        }
        let name = if asked.address.is_empty() { &asked.name } else { &asked.address };
        let unix = if name.starts_with('/') { "unix:" } else { "" };
        let endpoint = if name.contains(':') || !unix.is_empty() { name.as_str() } else { "" };
        return Attributed { endpoint: format!("{unix}{endpoint}"), ..Attributed::default() };
    }
    // Only what speaks this protocol can be meant; if that is one address, it is.
    let Some(first) = leading().next() else { return Attributed::default() };
    let mut peers = leading().flat_map(|route| &route.peers).filter(|peer| asked.fits(peer));
    let endpoint = &first.peers[0].declared.endpoint;
    if asked.class != Class::Any && peers.all(|peer| peer.declared.endpoint == *endpoint) {
        return attributed(general(leading()).unwrap_or(first), &first.peers[0], true);
    }
    Attributed::default()
}

/// The most general: the one with the shortest name, of equals the first.
fn general<'a>(routes: impl Iterator<Item = &'a Route>) -> Option<&'a Route> {
    routes.min_by_key(|route| route.name.len())
}

fn attributed(route: &Route, peer: &Peer, certain: bool) -> Attributed {
    Attributed {
        route: route.name.clone(),
        endpoint: if certain { peer.declared.endpoint.clone() } else { String::new() },
        upstream: peer.declared.upstream.clone(),
        peers: peer.declared.peers,
    }
}

/// Silence in the error log means something for these: what fails there is always logged.
pub fn complains(route: &Route) -> bool {
    let sure = |peer: &Peer| {
        matches!(peer.declared.protocol(), Protocol::Http | Protocol::Https | Protocol::Fastcgi)
            && !peer.scheme.starts_with("h2")
    };
    route.peers.iter().all(sure)
}
