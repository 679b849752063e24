//! Listeners and what they send where: HTTP connection managers with their route tables, and TCP proxies
//! (envoy.config.listener.v3, envoy.config.route.v3).
//!
//! # Names of routes
//!
//! As nginx's: `NAME[:PORT]LOCATION`. The name is the first domain of the virtual host if it is not `*`, the port that
//! of the listener unless it is 80 or 443; `/api` for prefixes, `=/api` for exact paths, `~^/a.*` for regexes. A TCP
//! proxy is `tcp:PORT`, with the server name behind a blank where the filter chain asks for one.

use std::collections::BTreeSet;

use regex_lite::Regex;

use super::cluster::endpoint;
use super::resources::{At, Resources, kind};
use crate::document::Node;
use crate::document::duration::proto_ms;
use crate::place::Problem;

/// Timeout of a route where it names none.
const ROUTE_MS: u64 = 15_000;
/// stream_idle_timeout of a connection manager: what is left where a route has no timeout.
const STREAM_IDLE_MS: u64 = 300_000;
/// idle_timeout of a TCP proxy.
const TCP_IDLE_MS: u64 = 3_600_000;

/// One route of one listener.
#[derive(Debug)]
pub(super) struct Route {
    /// As facts name it.
    pub(super) name: String,
    /// Port of the listener; 0: a pipe.
    pub(super) port: u16,
    /// Lower case: "shop.example", "*.example", "*"; none for TCP.
    pub(super) domains: Vec<String>,
    /// Which paths.
    pub(super) matcher: Matcher,
    /// It also asks for headers, methods or parameters, so that others may follow for the same path.
    pub(super) conditional: bool,
    /// Where to; none where it answers by itself.
    pub(super) clusters: Vec<String>,
    /// How long an answer may take.
    pub(super) timeout_ms: u64,
    /// It is a TCP proxy.
    pub(super) tcp: bool,
}

/// Which paths a route takes.
#[derive(Debug)]
pub(super) enum Matcher {
    Prefix(String),
    /// Whole parts of a path.
    Separated(String),
    Exact(String),
    /// `None`: not understood, so nobody knows what it takes.
    Regex(Option<Regex>),
    /// Every path.
    All,
}

impl Matcher {
    /// Whether it takes `path`.
    pub(super) fn takes(&self, path: &str) -> bool {
        match self {
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::Separated(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Exact(exact) => path == exact,
            Self::Regex(regex) => regex.as_ref().is_some_and(|regex| regex.is_match(path)),
            Self::All => true,
        }
    }
}

/// What listens, what is sent where, and where that is logged.
#[derive(Debug, Default)]
pub(super) struct Listeners<'a> {
    pub(super) routes: Vec<Route>,
    pub(super) listens: BTreeSet<String>,
    /// Access logs.
    pub(super) logs: Vec<At<'a>>,
    /// Listeners that write none.
    pub(super) silent: Vec<String>,
    pub(super) problems: BTreeSet<Problem>,
}

/// Reads all listeners.
pub(super) fn listeners<'a>(resources: &Resources<'a>) -> Listeners<'a> {
    let mut all = Listeners::default();
    for at in &resources.listeners {
        let address = at.node.get("address").and_then(endpoint);
        let Some((address, _)) = address else { continue };
        let port = match address.strip_prefix("unix:") {
            Some(_) => 0,
            None => address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0),
        };
        let before = all.logs.len();
        all.logs.extend(at.node.list("access_log").iter().map(|log| at.with(log)));
        let routes = all.routes.len();
        let chains = at.node.list("filter_chains").iter();
        for chain in chains.chain(at.node.get("default_filter_chain")) {
            for filter in chain.list("filters") {
                let typed = filter.get("typed_config").or_else(|| filter.get("config"));
                let typed = typed.unwrap_or(filter);
                match kind(typed) {
                    "HttpConnectionManager" => all.http(at.with(typed), port, resources),
                    "TcpProxy" => all.tcp(at.with(typed), port, chain),
                    other if other.ends_with("Proxy") => {
                        let text = format!("{other} is not read");
                        all.problems.insert(at.problem(typed, text));
                    }
                    _ => {}
                }
            }
        }
        if all.logs.len() == before && all.routes.len() > routes {
            all.silent.push(address.clone());
        }
        all.listens.insert(address);
    }
    all
}

impl<'a> Listeners<'a> {
    fn tcp(&mut self, at: At<'a>, port: u16, chain: &Node) {
        self.logs.extend(at.node.list("access_log").iter().map(|log| at.with(log)));
        let name = chain.list("filter_chain_match.server_names").first().and_then(Node::scalar);
        let name = name.map_or_else(|| format!("tcp:{port}"), |name| format!("tcp:{port} {name}"));
        self.routes.push(Route {
            name,
            port,
            domains: Vec::new(),
            matcher: Matcher::All,
            conditional: false,
            clusters: targets(at.node),
            timeout_ms: proto_ms(at.node.text("idle_timeout")).unwrap_or(TCP_IDLE_MS),
            tcp: true,
        });
    }

    fn http(&mut self, at: At<'a>, port: u16, resources: &Resources<'a>) {
        self.logs.extend(at.node.list("access_log").iter().map(|log| at.with(log)));
        let idle = proto_ms(at.node.text("stream_idle_timeout")).unwrap_or(STREAM_IDLE_MS);
        let named = at.node.text("rds.route_config_name");
        let own = at.node.get("route_config").map(|table| at.with(table));
        let Some(table) = own.or_else(|| resources.tables.get(named).copied()) else {
            if at.node.get("scoped_routes").is_some() {
                self.problems.insert(at.problem(at.node, "scoped_routes are not read"));
            }
            return;
        };
        for host in table.node.list("virtual_hosts") {
            if host.get("matcher").is_some() {
                self.problems.insert(table.problem(host, "a matcher tree of routes is not read"));
            }
            let domains: Vec<String> = host
                .list("domains")
                .iter()
                .filter_map(Node::scalar)
                .map(str::to_ascii_lowercase)
                .collect();
            for node in host.list("routes") {
                match route(node, &domains, port, idle) {
                    Some(route) => self.routes.push(route),
                    None => {
                        let text = "a route that is not understood";
                        self.problems.insert(table.problem(node, text));
                    }
                }
            }
        }
    }
}

fn route(node: &Node, domains: &[String], port: u16, idle_ms: u64) -> Option<Route> {
    let asks = node.get("match")?;
    let (matcher, written) = matcher(asks)?;
    let action = node.get("route");
    let clusters = action.map(targets).unwrap_or_default();
    let timeout = action.and_then(|action| proto_ms(action.text("timeout"))).unwrap_or(ROUTE_MS);
    let tries = action.and_then(|action| proto_ms(action.text("retry_policy.per_try_timeout")));
    let timeout = if timeout == 0 {
        action.and_then(|action| proto_ms(action.text("idle_timeout"))).unwrap_or(idle_ms)
    } else {
        timeout
    };
    let conditional = [
        "headers",
        "query_parameters",
        "cookies",
        "runtime_fraction",
        "grpc",
        "tls_context",
        "dynamic_metadata",
    ];
    Some(Route {
        name: format!("{}{written}", prefix(domains, port)),
        port,
        domains: domains.to_vec(),
        matcher,
        conditional: conditional.iter().any(|name| asks.get(name).is_some()),
        clusters,
        timeout_ms: tries.filter(|tries| *tries > 0 && *tries < timeout).unwrap_or(timeout),
        tcp: false,
    })
}

fn prefix(domains: &[String], port: u16) -> String {
    let name = domains.first().map_or("*", String::as_str);
    let name = if name == "*" { "" } else { name };
    let bare = name.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let name = bare.map_or(name, |(name, _)| name);
    if matches!(port, 0 | 80 | 443) { name.to_owned() } else { format!("{name}:{port}") }
}

fn matcher(asks: &Node) -> Option<(Matcher, String)> {
    let text = |name: &str| asks.get(name).and_then(Node::scalar).map(str::to_owned);
    if let Some(prefix) = text("prefix") {
        return Some((Matcher::Prefix(prefix.clone()), prefix));
    }
    if let Some(path) = text("path") {
        let written = format!("={path}");
        return Some((Matcher::Exact(path), written));
    }
    if let Some(prefix) = text("path_separated_prefix") {
        return Some((Matcher::Separated(prefix.clone()), prefix));
    }
    if let Some(regex) = asks.at("safe_regex.regex").and_then(Node::scalar) {
        // The whole path must match.
        return Some((
            Matcher::Regex(Regex::new(&format!("^(?:{regex})$")).ok()),
            format!("~{regex}"),
        ));
    }
    if asks
        .entries()
        .iter()
        .any(|(name, _)| &**name == "connect_matcher" || &**name == "connectMatcher")
    {
        return Some((Matcher::Exact(String::new()), "=CONNECT".to_owned()));
    }
    let template = asks.at("path_match_policy.typed_config.path_template")?.scalar()?;
    Some((Matcher::Regex(None), format!("~{template}")))
}

/// Clusters of a route or a TCP proxy.
fn targets(action: &Node) -> Vec<String> {
    let weighted = action.list("weighted_clusters.clusters").iter().map(|node| node.text("name"));
    let one = action.get("cluster").and_then(Node::scalar);
    let all = one.into_iter().chain(weighted).filter(|name| !name.is_empty());
    all.map(str::to_owned).collect()
}
