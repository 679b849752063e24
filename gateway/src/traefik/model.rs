//! What an instance runs with, ready to be declared and to be found again in log lines.

use std::collections::{BTreeMap, BTreeSet};

use why502_proto::v1;

use super::NAME;
use super::dynamic::{Dynamic, Router, Server, Transport};
use crate::place::Problem;

/// Routers by name, and servers by endpoint.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) instance: String,
    dynamic: Dynamic,
    /// Names of routes by name of router.
    routes: BTreeMap<String, String>,
    /// Indices of HTTP routers by name.
    by_name: BTreeMap<String, usize>,
    /// TCP routers by endpoint.
    tcp: BTreeMap<String, BTreeSet<String>>,
    /// There is an access log that has every request and that is read here.
    pub(super) has_access_log: bool,
}

impl Model {
    /// `entry_points` are their names, each with its port and whether it is one that routers have by default.
    pub(super) fn new(
        instance: &str,
        dynamic: Dynamic,
        entry_points: &BTreeMap<String, (u16, bool)>,
        has_access_log: bool,
    ) -> Self {
        let mut routes = BTreeMap::new();
        let mut tcp: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for router in &dynamic.routers {
            let name = route(router, entry_points);
            if router.tcp {
                for (server, ..) in dynamic.servers(true, &router.service) {
                    tcp.entry(server.endpoint.clone()).or_default().insert(name.clone());
                }
            }
            routes.insert(key(router.tcp, &router.name), name);
        }
        let http = dynamic.routers.iter().enumerate().filter(|(_, router)| !router.tcp);
        let by_name = http.map(|(index, router)| (router.name.clone(), index)).collect();
        Self { instance: instance.to_owned(), dynamic, routes, by_name, tcp, has_access_log }
    }

    /// Facts of every server of every router, and routers that lead nowhere.
    pub(super) fn declared(&self) -> (Vec<v1::EndpointDeclared>, BTreeSet<Problem>) {
        let mut facts = Vec::new();
        let mut problems = self.dynamic.problems.clone();
        let mut known = BTreeSet::new();
        for router in &self.dynamic.routers {
            let there = self.dynamic.services.contains_key(&(router.tcp, router.service.clone()));
            if !there && router.service.ends_with("@file") {
                let text = format!("there is no service {}", router.service);
                problems.insert(Problem { place: router.place.clone(), text });
            }
            let Some(route) = self.routes.get(&key(router.tcp, &router.name)) else { continue };
            let servers = self.dynamic.servers(router.tcp, &router.service);
            let mut peers: BTreeMap<&str, u32> = BTreeMap::new();
            servers.iter().for_each(|(_, service, _)| *peers.entry(service).or_default() += 1);
            for (server, service, backup) in servers {
                if known.insert((route.as_str(), server.endpoint.as_str())) {
                    let peers = peers.get(service).copied().unwrap_or(0);
                    let fact = self.fact(route, server, service, peers);
                    facts.push(v1::EndpointDeclared { backup, ..fact });
                }
            }
        }
        (facts, problems)
    }

    fn fact(
        &self,
        route: &str,
        server: &Server,
        service: &str,
        peers: u32,
    ) -> v1::EndpointDeclared {
        let tcp = server.protocol == v1::Protocol::Tcp;
        let transport = self.dynamic.transport(tcp, service);
        v1::EndpointDeclared {
            gateway: NAME.to_owned(),
            instance: self.instance.clone(),
            route: route.to_owned(),
            endpoint: server.endpoint.clone(),
            addresses: server.addresses(),
            upstream: service.to_owned(),
            peers,
            protocol: server.protocol.into(),
            file: server.place.file.to_string(),
            line: server.place.line,
            connect_timeout_ms: transport.dial_ms,
            read_timeout_ms: transport.header_ms,
            keepalive_ms: transport.idle_ms.filter(|_| !tcp),
            ..v1::EndpointDeclared::default()
        }
    }

    /// Peers that its health checks took out.
    pub(super) fn disabled(&self) -> Vec<v1::EndpointDisabled> {
        let fact = |(endpoint, upstream): &(String, String)| v1::EndpointDisabled {
            instance: self.instance.clone(),
            endpoint: endpoint.clone(),
            upstream: upstream.clone(),
            ..v1::EndpointDisabled::default()
        };
        self.dynamic.down.iter().map(fact).collect()
    }

    /// The route of a router; "": not known.
    pub(super) fn route(&self, router: &str) -> &str {
        self.routes.get(&key(false, router)).map_or("", String::as_str)
    }

    /// The one TCP route that leads to `endpoint`; "": none, or several.
    pub(super) fn tcp_route(&self, endpoint: &str) -> &str {
        let mut routes = self.tcp.get(endpoint).into_iter().flatten();
        match (routes.next(), routes.next()) {
            (Some(one), None) => one,
            _ => "",
        }
    }

    /// The service of a router, and how long its servers may take.
    pub(super) fn service(&self, router: &str, endpoint: &str) -> (String, Option<Transport>) {
        let found = self.by_name.get(router).and_then(|index| self.dynamic.routers.get(*index));
        let Some(router) = found else { return (String::new(), None) };
        let servers = self.dynamic.servers(false, &router.service);
        let of = servers.iter().find(|(server, ..)| server.endpoint == endpoint);
        let service = of.map_or(router.service.as_str(), |(_, service, _)| service);
        (service.to_owned(), Some(self.dynamic.transport(false, service)))
    }
}

/// HTTP and TCP routers may have one name.
fn key(tcp: bool, name: &str) -> String {
    if tcp { format!("tcp {name}") } else { name.to_owned() }
}

/// `NAME[:PORT]LOCATION` as nginx's; a TCP router is `tcp:PORT`, with the server name behind a blank.
fn route(router: &Router, entry_points: &BTreeMap<String, (u16, bool)>) -> String {
    let default = || entry_points.values().filter(|(_, default)| *default).map(|(port, _)| *port);
    let named = router.entry_points.iter().filter_map(|name| {
        entry_points
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, (port, _))| *port)
    });
    let ports: Vec<u16> =
        if router.entry_points.is_empty() { default().collect() } else { named.collect() };
    let rule = &router.rule;
    if router.tcp {
        let port = ports.first().map_or_else(String::new, u16::to_string);
        let name = if rule.host.is_empty() { String::new() } else { format!(" {}", rule.host) };
        return format!("tcp:{port}{name}");
    }
    let location = if rule.location.is_empty() { "/" } else { &rule.location };
    match ports.first() {
        Some(port) if !ports.contains(&80) && !ports.contains(&443) => {
            format!("{}:{port}{location}", rule.host)
        }
        _ => format!("{}{location}", rule.host),
    }
}
