//! What a configuration means: hosts, and which of their requests go where.
//!
//! # Names of routes
//!
//! `ServerName`, the port unless it is 80 or 443, and what the requests have in common: `/api` for
//! `ProxyPass` and
//! `<Location>`, `~^/api/(.*)$` for patterns of `ProxyPassMatch`, `<LocationMatch>`, `RewriteRule`
//! and `<FilesMatch>`.
//! So "shop.example/api", ":8080/", "shop.example~\.php$". What stands outside of any
//! `<VirtualHost>` counts in each.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex_lite::Regex;
use why502_proto::v1::EndpointDeclared;

use super::syntax::Node;
use super::worker::Parameters;
use crate::place::{Place, Problem};

/// Everything that is declared.
#[derive(Debug, Default)]
pub struct Config {
    /// The main server first, then the virtual hosts in their order.
    pub hosts: Vec<Host>,
    /// Indexes of hosts by name and alias.
    by_name: BTreeMap<String, Vec<usize>>,
    /// `LogFormat` by nickname; "" is the one of `TransferLog`.
    pub formats: BTreeMap<String, String>,
    /// "0.0.0.0:80" and the like.
    pub listens: Vec<String>,
    /// What was not understood.
    pub problems: Vec<Problem>,
    /// Somewhere httpd is told to answer 502, 503 or 504 by itself (`Redirect 503`, `[R=503]`,
    /// mod_security).
    pub answers_itself: bool,
}

/// A server, or a virtual host.
#[derive(Debug, Default)]
pub struct Host {
    /// `ServerName` without its port; "" without one.
    pub name: String,
    /// Begins the names of its routes.
    pub prefix: String,
    /// In the order in which they are looked at.
    pub routes: Vec<Route>,
    /// `ErrorLog`, if it has its own.
    pub error_log: Option<String>,
    /// `CustomLog` and `TransferLog`: target, format or nickname.
    pub access_logs: Vec<(String, String)>,
}

/// Requests that are sent on.
#[derive(Debug)]
pub struct Route {
    /// Its name in facts.
    pub name: String,
    /// Which requests.
    pub matcher: Matcher,
    /// Where to; none: not at all (`!`), or where only a request tells.
    pub peers: Vec<Peer>,
    /// It stands behind conditions, or in `<If>`, or asks more than the path.
    pub conditional: bool,
}

/// Which requests a route takes.
#[derive(Debug)]
pub enum Matcher {
    /// Those of a path.
    Prefix(String),
    /// Those whose path matches.
    Path(Pattern),
    /// Those for files whose name matches.
    File(Pattern),
    /// All.
    Any,
}

/// A regular expression, compiled when it is needed first.
#[derive(Debug)]
pub struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

/// An address that requests of a route are sent to.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The fact, without gateway and instance.
    pub declared: EndpointDeclared,
    /// "fcgi"
    pub scheme: &'static str,
}

impl Pattern {
    /// Not compiled yet.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), compiled: OnceLock::new() }
    }

    fn matches(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| Regex::new(&self.text).ok());
        compiled.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

impl Matcher {
    /// Whether a request for `path` is one of them.
    pub fn takes(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            // As `alias_matches`: "/a" takes "/a" and "/a/b", not "/ab".
            Self::Prefix(prefix) => path.strip_prefix(prefix.as_str()).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/')
            }),
            Self::Path(pattern) => pattern.matches(path),
            Self::File(pattern) => pattern.matches(path.rsplit('/').next().unwrap_or_default()),
        }
    }
}

impl Config {
    /// Makes hosts findable by name.
    pub fn index(&mut self, names: impl Iterator<Item = (String, usize)>) {
        for (name, host) in names {
            self.by_name.entry(name).or_default().push(host);
        }
    }

    /// Hosts with this `ServerName` or `ServerAlias`.
    pub fn named(&self, name: &str) -> &[usize] {
        self.by_name.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// The route of a request for `path` on one of `hosts`, and on the main server, whose routes
    /// count in each.
    pub fn by_path<'a>(&'a self, hosts: &[usize], path: &str) -> Option<&'a Route> {
        let own = hosts.iter().find_map(|host| self.hosts.get(*host)?.route(path));
        let main = || self.hosts.first()?.route(path);
        own.or_else(main).filter(|route| !route.peers.is_empty())
    }

    /// Routes of `hosts`, and of the main server.
    pub fn routes<'a>(&'a self, hosts: &'a [usize]) -> impl Iterator<Item = &'a Route> {
        let main = (!hosts.contains(&0)).then_some(0);
        hosts
            .iter()
            .copied()
            .chain(main)
            .filter_map(|at| self.hosts.get(at))
            .flat_map(|h| &h.routes)
    }
}

impl Host {
    fn route(&self, path: &str) -> Option<&Route> {
        let certain = self.routes.iter().find(|r| !r.conditional && r.matcher.takes(path));
        // "!" keeps the path here.
        certain.or_else(|| self.routes.iter().find(|r| r.conditional && r.matcher.takes(path)))
    }
}

/// What a directive does where it stands.
pub struct Scope<'a> {
    /// Its server's `ProxyTimeout`, else `Timeout`.
    pub timeout_ms: u64,
    /// Workers that `<Proxy>` and `ProxySet` name, by URL up to the path.
    pub workers: &'a BTreeMap<String, Parameters>,
    /// Balancers: members and their parameters.
    pub balancers: &'a BTreeMap<String, Vec<Member>>,
    /// `SetEnv proxy-nokeepalive` and `force-proxy-request-1.0`.
    pub no_keepalive: bool,
}

/// A `BalancerMember`.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its URL.
    pub url: String,
    /// Its parameters.
    pub parameters: Parameters,
    /// Where it stands.
    pub place: Place,
}

/// `scheme://host:port` or `unix:/path|scheme:`: what names a worker.
pub fn worker_key(url: &str) -> String {
    let path = url.find("://").map_or(url.len(), |at| {
        url[at + 3..].find(['/', '$', '%']).map_or(url.len(), |end| at + 3 + end)
    });
    let key = url[..path].trim_end_matches('/');
    let key = if url.starts_with("unix:") { key.split("//").next().unwrap_or(key) } else { key };
    key.to_ascii_lowercase()
}

/// The directives of that name in `nodes`.
pub fn all<'a>(nodes: &'a [Node], name: &'a str) -> impl DoubleEndedIterator<Item = &'a Node> {
    nodes.iter().filter(move |node| node.is(name))
}
