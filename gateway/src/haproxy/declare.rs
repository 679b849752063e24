//! From proxies to facts: the ways from frontends to backends, what is declared on them, and what the readers of logs
//! need to know.

use std::collections::{BTreeSet, HashMap, HashSet};

use why502_proto::v1::{self, Protocol};

use super::proxy::Mode;
use super::request::{About, Model};
use super::route::{self, Asks, Routes};
use super::server::Server;
use super::{NAME, Proxy, address};

/// Ways that only a request decides, by the names of frontends and backends.
const DYNAMIC_MAX: usize = 50_000;

/// Every way from a frontend to a backend.
pub(super) fn routes(proxies: &[Proxy<'_>]) -> Routes {
    let mut routes = Routes::default();
    let mut dynamic: Vec<&Proxy<'_>> = Vec::new();
    let taking = |proxy: &&Proxy<'_>| proxy.takes_requests() && proxy.settings.mode != Mode::Other;
    for proxy in proxies.iter().filter(taking) {
        let (name, mode) = (proxy.section.name, proxy.settings.mode);
        let acls = route::acls(&proxy.section);
        let mut open = false;
        for (backend, condition) in route::uses(&proxy.section) {
            let asks = route::asks(condition, &acls);
            match backend {
                Some(backend) => {
                    routes.add(name, backend, route::prefix(mode, &proxy.listens, &asks));
                }
                None => open = true,
            }
        }
        let last = &proxy.settings.backend;
        if proxy.section.kind == "listen" {
            routes.add(name, name, plain(proxy));
        }
        open |= last.contains('%');
        if !last.is_empty() && !last.contains('%') {
            routes.add(name, last, plain(proxy));
        }
        dynamic.extend(open.then_some(proxy));
    }
    // Any backend that nothing else leads to may be meant.
    let led: HashSet<String> = routes.pairs.iter().map(|(_, backend)| backend.clone()).collect();
    let backends = proxies.iter().filter(|proxy| proxy.section.kind == "backend");
    let free: Vec<&str> =
        backends.map(|proxy| proxy.section.name).filter(|name| !led.contains(*name)).collect();
    let ways = dynamic.iter().flat_map(|proxy| free.iter().map(move |name| (*proxy, *name)));
    for (proxy, name) in ways.take(DYNAMIC_MAX) {
        routes.add(proxy.section.name, name, format!("{} {name}", plain(proxy)));
    }
    routes
}

/// Route of what no condition leads elsewhere.
fn plain(proxy: &Proxy<'_>) -> String {
    route::prefix(proxy.settings.mode, &proxy.listens, &Asks::default())
}

/// The port that requests to a backend come in by; `None`: there are several.
pub(super) fn ports(proxies: &[Proxy<'_>], routes: &Routes) -> HashMap<String, Option<u16>> {
    let port = |listen: &String| listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let own: HashMap<&str, BTreeSet<u16>> = proxies
        .iter()
        .filter(|proxy| proxy.takes_requests())
        .map(|proxy| (proxy.section.name, proxy.listens.iter().filter_map(port).collect()))
        .collect();
    let mut all: HashMap<String, BTreeSet<u16>> = HashMap::new();
    for (frontend, backend) in &routes.pairs {
        let ports = own.get(frontend.as_str()).into_iter().flatten();
        all.entry(backend.clone()).or_default().extend(ports);
    }
    let only = |ports: &BTreeSet<u16>| ports.first().copied().filter(|_| ports.len() == 1);
    all.into_iter().map(|(name, ports)| (name, only(&ports))).collect()
}

/// Proxies with servers, by name.
fn by_name<'a, 'b>(proxies: &'b [Proxy<'a>]) -> HashMap<&'a str, &'b Proxy<'a>> {
    let backs = proxies.iter().filter(|proxy| proxy.section.kind != "frontend");
    backs.map(|proxy| (proxy.section.name, proxy)).collect()
}

/// What the readers of logs need to know.
pub(super) fn model(proxies: &[Proxy<'_>], routes: &Routes, instance: &str) -> Model {
    let mut model =
        Model { instance: instance.to_owned(), routes: routes.by_pair.clone(), ..Model::default() };
    for proxy in proxies {
        let settings = &proxy.settings;
        let about = model.proxies.entry(proxy.section.name.to_owned()).or_default();
        if proxy.takes_requests() {
            about.route = plain(proxy);
        }
        *about = About {
            route: std::mem::take(&mut about.route),
            meddles: about.meddles || settings.meddles,
            page: about.page || (proxy.own_page && proxy.servers.is_empty()),
        };
        if !proxy.servers.is_empty() {
            let endpoint = |server: &Server| (server.name.clone(), server.endpoint.to_string());
            let servers = proxy.servers.iter().map(endpoint).collect();
            model.servers.insert(proxy.section.name.to_owned(), servers);
        }
    }
    model
}

/// Facts of every server of every way.
pub(super) fn declared(
    proxies: &[Proxy<'_>],
    routes: &Routes,
    instance: &str,
) -> Vec<v1::EndpointDeclared> {
    let proxies = by_name(proxies);
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    let mut facts = Vec::new();
    for pair in &routes.pairs {
        let (Some(proxy), Some(route)) = (proxies.get(pair.1.as_str()), routes.by_pair.get(pair))
        else {
            continue;
        };
        for server in &proxy.servers {
            if seen.insert((route, &server.endpoint)) {
                facts.push(endpoint(proxy, server, route, instance));
            }
        }
    }
    facts
}

fn endpoint(
    proxy: &Proxy<'_>,
    server: &Server,
    route: &str,
    instance: &str,
) -> v1::EndpointDeclared {
    let (settings, options) = (&proxy.settings, &server.options);
    let name = server.endpoint.to_string();
    // Without `aggressive` or `always` a request that was never sent before gets a connection that is new, or one on
    // which its client has had answers; a failure of that is not shown to the client.
    let keeps = settings.mode == Mode::Http && settings.reuses && !settings.closes && options.pool;
    v1::EndpointDeclared {
        gateway: NAME.to_owned(),
        instance: instance.to_owned(),
        route: route.to_owned(),
        addresses: if address::is_numeric(&name) { vec![name.clone()] } else { Vec::new() },
        endpoint: name,
        upstream: proxy.section.name.to_owned(),
        peers: u32::try_from(proxy.servers.len()).unwrap_or(u32::MAX),
        protocol: protocol(settings.mode, settings.fcgi, &options.proto, options.tls).into(),
        file: server.place.file.to_string(),
        line: server.place.line,
        connect_timeout_ms: settings.connect_ms,
        read_timeout_ms: settings.server_ms,
        send_timeout_ms: settings.server_ms,
        keepalive_ms: keeps.then_some(options.pool_purge_ms),
        down: options.disabled,
        backup: options.backup,
        max_fails: if options.observe { options.error_limit } else { 0 },
        fail_timeout_ms: 0,
        max_conns: options.max_conns,
    }
}

fn protocol(mode: Mode, fcgi: bool, proto: &str, tls: bool) -> Protocol {
    match (mode, tls) {
        (Mode::Http, _) if fcgi || proto == "fcgi" => Protocol::Fastcgi,
        (Mode::Http, true) => Protocol::Https,
        (Mode::Http, false) => Protocol::Http,
        (Mode::Tcp | Mode::Other, _) => Protocol::Tcp,
    }
}
