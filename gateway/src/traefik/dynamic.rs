//! Routers and services, of files or of the answer to `/api/rawdata` (doc.traefik.io, "Routing").

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use why502_proto::v1::Protocol;

use super::rule;
use crate::document::duration::go_ms;
use crate::document::{Document, Node};
use crate::place::{Place, Problem};

const DIAL_MS: u64 = 30_000;
const IDLE_MS: u64 = 90_000;
/// Services of services of services.
const DEPTH_MAX: usize = 8;

/// How long what may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    pub(super) dial_ms: u64,
    /// 0: no limit.
    pub(super) header_ms: u64,
    /// `None`: no connection is kept.
    pub(super) idle_ms: Option<u64>,
}

impl Transport {
    pub(super) const DEFAULT: Self =
        Self { dial_ms: DIAL_MS, header_ms: 0, idle_ms: Some(IDLE_MS) };

    /// Of a serversTransport; what it does not say is as by default.
    pub(super) fn of(node: &Node) -> Self {
        let time = |name: &str| {
            let own = node.at("forwardingTimeouts").and_then(|times| times.get(name));
            own.or_else(|| node.get(name)).and_then(Node::scalar).and_then(go_ms)
        };
        let kept = node.text("maxIdleConnsPerHost").parse::<i64>().is_ok_and(|kept| kept < 0);
        Self {
            dial_ms: time("dialTimeout").unwrap_or(DIAL_MS),
            header_ms: time("responseHeaderTimeout").unwrap_or(0),
            idle_ms: (!kept).then_some(time("idleConnTimeout").unwrap_or(IDLE_MS)),
        }
    }
}

/// A router.
#[derive(Clone, Debug)]
pub(super) struct Router {
    /// "shop@file".
    pub(super) name: String,
    pub(super) rule: rule::Rule,
    /// Empty: the default ones.
    pub(super) entry_points: Vec<String>,
    pub(super) service: String,
    pub(super) tcp: bool,
    pub(super) place: Place,
}

/// A service.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    pub(super) servers: Vec<Server>,
    /// Services that it divides requests between; `true`: only asked where others fail.
    pub(super) parts: Vec<(String, bool)>,
    /// Name of its serversTransport; "": the default one.
    pub(super) transport: String,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) endpoint: String,
    pub(super) protocol: Protocol,
    pub(super) place: Place,
}

impl Server {
    /// Itself where it is an address; a name is for the agent to resolve.
    pub(super) fn addresses(&self) -> Vec<String> {
        let address =
            self.endpoint.starts_with("unix:") || self.endpoint.parse::<SocketAddr>().is_ok();
        if address { vec![self.endpoint.clone()] } else { Vec::new() }
    }
}

/// All of them, with the provider behind their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Dynamic {
    pub(super) routers: Vec<Router>,
    /// By kind of protocol ("http" or "tcp") and name.
    pub(super) services: BTreeMap<(bool, String), Service>,
    pub(super) transports: BTreeMap<(bool, String), Transport>,
    /// Servers that health checks took out, and their services.
    pub(super) down: BTreeSet<(String, String)>,
    pub(super) problems: BTreeSet<Problem>,
}

/// "name@provider".
pub(super) fn qualified(name: &str, provider: &str) -> String {
    if name.contains('@') || name.is_empty() {
        name.to_owned()
    } else {
        format!("{name}@{provider}")
    }
}

impl Dynamic {
    /// Adds what a file of the file provider holds.
    pub(super) fn add_file(&mut self, document: &Document) {
        for (tcp, section) in [(false, "http"), (true, "tcp")] {
            let at = |name: &str| document.root.map(&format!("{section}.{name}"));
            for (name, node) in at("routers") {
                self.router(document, &qualified(name, "file"), node, tcp);
            }
            for (name, node) in at("services") {
                self.service(document, &qualified(name, "file"), node, tcp);
            }
            for (name, node) in at("serversTransports") {
                let key = (tcp, qualified(name, "file"));
                self.transports.insert(key, Transport::of(node));
            }
        }
    }

    /// Adds what it runs with, by `/api/rawdata`.
    pub(super) fn add_raw(&mut self, document: &Document) {
        for (tcp, routers, services) in
            [(false, "routers", "services"), (true, "tcpRouters", "tcpServices")]
        {
            for (name, node) in document.root.map(routers) {
                let usable = node.text("status") != "disabled" && !name.ends_with("@internal");
                if usable {
                    self.router(document, name, node, tcp);
                }
            }
            for (name, node) in document.root.map(services) {
                self.service(document, name, node, tcp);
                for (server, status) in node.map("serverStatus") {
                    if status.scalar() == Some("DOWN") {
                        self.down.insert((endpoint(server).0, name.to_string()));
                    }
                }
            }
        }
        self.routers.sort_by(|a, b| (a.tcp, &a.name).cmp(&(b.tcp, &b.name)));
    }

    fn router(&mut self, document: &Document, name: &str, node: &Node, tcp: bool) {
        let provider = name.rsplit_once('@').map_or("file", |(_, provider)| provider);
        let service = qualified(node.text("service"), provider);
        if service.is_empty() {
            let place = document.place(node);
            self.problems.insert(Problem { place, text: "a router without a service".to_owned() });
            return;
        }
        self.routers.push(Router {
            name: name.to_owned(),
            rule: rule::parse(node.text("rule")),
            entry_points: node
                .list("entryPoints")
                .iter()
                .filter_map(Node::scalar)
                .map(str::to_owned)
                .collect(),
            service,
            tcp,
            place: document.place(node),
        });
    }

    fn service(&mut self, document: &Document, name: &str, node: &Node, tcp: bool) {
        let provider = name.rsplit_once('@').map_or("file", |(_, provider)| provider);
        let mut service = Service::default();
        if let Some(balancer) = node.get("loadBalancer") {
            service.transport = qualified(balancer.text("serversTransport"), provider);
            for server in balancer.list("servers") {
                match self::server(document, server, tcp) {
                    Some(server) => service.servers.push(server),
                    None => {
                        let place = document.place(server);
                        let text = "a server without an address".to_owned();
                        self.problems.insert(Problem { place, text });
                    }
                }
            }
        }
        let mut part = |name: &str, backup| {
            if !name.is_empty() {
                service.parts.push((qualified(name, provider), backup));
            }
        };
        for kind in ["weighted", "highestRandomWeight"] {
            node.list(&format!("{kind}.services"))
                .iter()
                .for_each(|of| part(of.text("name"), false));
        }
        // What is mirrored is not answered to anybody.
        part(node.text("mirroring.service"), false);
        part(node.text("failover.service"), false);
        part(node.text("failover.fallback"), true);
        // The same name in two files: neither is used.
        self.services.insert((tcp, name.to_owned()), service);
    }

    /// Takes the places of what `files` declare, too; all else stands in no file.
    pub(super) fn place_as(&mut self, files: &Self) {
        for (key, service) in &mut self.services {
            let declared = files.services.get(key).map_or(&[][..], |service| &service.servers);
            for server in &mut service.servers {
                let same = declared.iter().find(|known| known.endpoint == server.endpoint);
                server.place = same.map_or_else(
                    || Place { line: 0, ..server.place.clone() },
                    |same| same.place.clone(),
                );
            }
        }
    }

    /// The servers behind a service, each with its service and whether it is only asked where others fail.
    pub(super) fn servers<'a>(
        &'a self,
        tcp: bool,
        name: &'a str,
    ) -> Vec<(&'a Server, &'a str, bool)> {
        let mut found = Vec::new();
        self.servers_of(tcp, name, false, DEPTH_MAX, &mut found);
        found
    }

    fn servers_of<'a>(
        &'a self,
        tcp: bool,
        name: &'a str,
        backup: bool,
        depth: usize,
        found: &mut Vec<(&'a Server, &'a str, bool)>,
    ) {
        let Some((key, service)) = self.services.get_key_value(&(tcp, name.to_owned())) else {
            return;
        };
        found.extend(service.servers.iter().map(|server| (server, key.1.as_str(), backup)));
        if depth > 0 {
            for (part, fallback) in &service.parts {
                self.servers_of(tcp, part, backup || *fallback, depth - 1, found);
            }
        }
    }

    /// Timeouts of a service.
    pub(super) fn transport(&self, tcp: bool, service: &str) -> Transport {
        let service = self.services.get(&(tcp, service.to_owned()));
        let name = service.map_or("", |service| service.transport.as_str());
        let name = if name.is_empty() { "default@internal" } else { name };
        self.transports.get(&(tcp, name.to_owned())).copied().unwrap_or(Transport::DEFAULT)
    }
}

fn server(document: &Document, node: &Node, tcp: bool) -> Option<Server> {
    let named = node.get(if tcp { "address" } else { "url" });
    let written = named.and_then(Node::scalar)?;
    let (endpoint, protocol) = endpoint(written);
    let protocol = if tcp { Protocol::Tcp } else { protocol };
    Some(Server { endpoint, protocol, place: document.place(named?) })
}

/// "10.0.0.7:8080" of "http://10.0.0.7:8080/path", and how it is spoken to.
pub(super) fn endpoint(url: &str) -> (String, Protocol) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme == "unix" {
        return (format!("unix:{rest}"), Protocol::Http);
    }
    let (protocol, port) = match scheme {
        "https" => (Protocol::Https, "443"),
        "h2c" => (Protocol::Grpc, "80"),
        _ => (Protocol::Http, "80"),
    };
    let host = rest.split(['/', '?']).next().unwrap_or("");
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let endpoint =
        if has_port || scheme.is_empty() { host.to_owned() } else { format!("{host}:{port}") };
    (endpoint, protocol)
}
