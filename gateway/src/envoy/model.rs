//! What an instance runs with, ready to be declared and to be found again in log lines.

use std::collections::{BTreeMap, BTreeSet};

use why502_proto::v1;
use why502_proto::v1::Protocol;

use super::NAME;
use super::cluster::Cluster;
use super::route::Route;

/// Routes and clusters of one instance.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) instance: String,
    routes: Vec<Route>,
    clusters: BTreeMap<String, Cluster>,
    /// Indices of routes, in their order, by domain; "" for TCP.
    by_domain: BTreeMap<String, Vec<usize>>,
    /// Clusters by endpoint.
    by_endpoint: BTreeMap<String, BTreeSet<String>>,
}

/// What a line tells of the way of a request. "" where it does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way<'a> {
    pub(super) authority: &'a str,
    pub(super) path: &'a str,
    pub(super) peer: &'a str,
    pub(super) cluster: &'a str,
    /// Port at which it came in; 0: the line does not tell.
    pub(super) port: u16,
    pub(super) tcp: bool,
}

impl Model {
    pub(super) fn new(
        instance: &str,
        routes: Vec<Route>,
        clusters: BTreeMap<String, Cluster>,
    ) -> Self {
        let mut by_domain: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, route) in routes.iter().enumerate() {
            for domain in &route.domains {
                by_domain.entry(domain.clone()).or_default().push(index);
            }
            if route.tcp {
                by_domain.entry(String::new()).or_default().push(index);
            }
        }
        let mut by_endpoint: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, cluster) in &clusters {
            for peer in &cluster.peers {
                by_endpoint.entry(peer.endpoint.clone()).or_default().insert(name.clone());
            }
        }
        Self { instance: instance.to_owned(), routes, clusters, by_domain, by_endpoint }
    }

    /// Facts of every endpoint of every route.
    pub(super) fn declared(&self) -> Vec<v1::EndpointDeclared> {
        let mut facts = Vec::new();
        let mut known = BTreeSet::new();
        for route in &self.routes {
            for name in &route.clusters {
                let Some(cluster) = self.clusters.get(name) else { continue };
                for peer in &cluster.peers {
                    if known.insert((route.name.as_str(), peer.endpoint.as_str())) {
                        facts.push(self.fact(route, name, cluster, peer));
                    }
                }
            }
        }
        facts
    }

    fn fact(
        &self,
        route: &Route,
        name: &str,
        cluster: &Cluster,
        peer: &super::cluster::Peer,
    ) -> v1::EndpointDeclared {
        let protocol = match cluster.protocol {
            Protocol::Http if route.tcp => Protocol::Tcp,
            protocol => protocol,
        };
        v1::EndpointDeclared {
            gateway: NAME.to_owned(),
            instance: self.instance.clone(),
            route: route.name.clone(),
            endpoint: peer.endpoint.clone(),
            addresses: peer.addresses(),
            upstream: name.to_owned(),
            peers: u32::try_from(cluster.peers.len()).unwrap_or(u32::MAX),
            protocol: protocol.into(),
            file: peer.place.file.to_string(),
            line: peer.place.line,
            connect_timeout_ms: cluster.connect_ms,
            read_timeout_ms: route.timeout_ms,
            send_timeout_ms: 0,
            keepalive_ms: cluster.keepalive_ms.filter(|_| !route.tcp),
            down: peer.down,
            backup: peer.backup,
            max_fails: cluster.max_fails,
            fail_timeout_ms: cluster.fail_timeout_ms,
            max_conns: cluster.max_conns,
        }
    }

    /// The route that a request took, and the cluster where only one is possible.
    pub(super) fn find(&self, way: Way<'_>) -> (Option<&Route>, Option<(&str, &Cluster)>) {
        let domain = way.authority.to_ascii_lowercase();
        let candidates = if way.tcp { self.by_domain.get("") } else { self.host(&domain) };
        let candidates = candidates.map_or(&[][..], Vec::as_slice).iter();
        let candidates = candidates.filter_map(|index| self.routes.get(*index));
        let of_cluster = |route: &&Route| {
            way.cluster.is_empty() || route.clusters.iter().any(|name| name == way.cluster)
        };
        let sends = |route: &&Route| self.may_send(route, way.peer);
        let port = domain.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
        let at_port =
            |route: &&Route, port: u16| port == 0 || route.port == 0 || route.port == port;
        let all: Vec<&Route> = candidates
            .filter(|route| at_port(route, way.port) && (way.tcp || route.matcher.takes(way.path)))
            .filter(of_cluster)
            .collect();
        let found = all.iter().find(|route| sends(route) && at_port(route, port));
        let found = found.or_else(|| all.iter().find(|route| sends(route))).copied();
        // Of several TCP proxies that may have written a line without a peer, none is taken; nor of routes that ask for
        // more than a line shows.
        let blind = way.peer.is_empty() && way.cluster.is_empty();
        let other = |is: &dyn Fn(&Route, &Route) -> bool| {
            blind
                && found.is_some_and(|found| {
                    (found.conditional || way.tcp) && all.iter().any(|other| is(found, other))
                })
        };
        if other(&|found, other| found.name != other.name) {
            return (None, None);
        }
        if other(&|found, other| found.clusters != other.clusters) {
            return (found, None);
        }
        (found, self.cluster(found, way))
    }

    fn cluster(&self, route: Option<&Route>, way: Way<'_>) -> Option<(&str, &Cluster)> {
        let known = |name: &str| {
            self.clusters.get_key_value(name).map(|(name, cluster)| (name.as_str(), cluster))
        };
        if !way.cluster.is_empty() {
            return known(way.cluster);
        }
        let mut names = route?.clusters.clone();
        if let (Some(of), true) = (self.by_endpoint.get(way.peer), names.len() != 1) {
            names.retain(|name| of.contains(name));
        }
        let [name] = names.as_slice() else { return None };
        known(name)
    }

    /// The best virtual hosts for an authority: exact, then `*.example`, then `example.*`, then `*`.
    fn host(&self, authority: &str) -> Option<&Vec<usize>> {
        let bare = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let exact = self.by_domain.get(authority).or_else(|| self.by_domain.get(bare));
        let dots: Vec<usize> = bare.match_indices(['.', '-']).map(|(at, _)| at).collect();
        let suffix =
            || dots.iter().find_map(|at| self.by_domain.get(&format!("*{}", &bare[*at..])));
        let prefix =
            || dots.iter().rev().find_map(|at| self.by_domain.get(&format!("{}*", &bare[..=*at])));
        exact.or_else(suffix).or_else(prefix).or_else(|| self.by_domain.get("*"))
    }

    /// Whether a route leads to `peer`, or nobody can tell.
    fn may_send(&self, route: &Route, peer: &str) -> bool {
        if peer.is_empty() || route.clusters.is_empty() {
            return peer.is_empty();
        }
        match self.by_endpoint.get(peer) {
            Some(clusters) => route.clusters.iter().any(|name| clusters.contains(name)),
            // Declared by a name.
            None => route.clusters.iter().any(|name| {
                self.clusters.get(name).is_none_or(|cluster| {
                    cluster.peers.is_empty()
                        || cluster.peers.iter().any(|peer| peer.addresses().is_empty())
                })
            }),
        }
    }
}
