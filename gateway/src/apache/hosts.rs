//! From the tree to hosts and routes.

use std::collections::BTreeMap;

use super::config::{Config, Host, Member, Scope, all, worker_key};
use super::routes;
use super::syntax::Node;
use super::worker::{Parameters, time_ms};
use crate::place::Problem;

/// httpd's own default of `Timeout`; Debian's file says 300 s.
const TIMEOUT_MS: u64 = 60_000;

/// What a tree means.
pub fn effective(nodes: Vec<Node>) -> Config {
    let (virtual_hosts, nodes): (Vec<Node>, Vec<Node>) =
        nodes.into_iter().partition(|node| node.is("virtualhost"));
    let nodes = nodes.as_slice();
    let mut config = Config::default();
    config.listens = listens(nodes);
    formats(nodes, &mut config.formats);
    let main = Server { nodes };
    let mut names = Vec::new();
    config.answers_itself = answers_itself(nodes);
    let port = match config.listens.as_slice() {
        [only] => only.rsplit_once(':').and_then(|(_, port)| port.parse().ok()),
        _ => None,
    };
    let (timeout, workers) = (timeout_ms(nodes, None, None), main.workers());
    let balancers = main.balancers(&mut config.problems);
    add(&mut config, &main, port, timeout, &workers, &balancers, &mut names);
    let main_proxy_timeout = all(nodes, "proxytimeout").next_back();
    let main_timeout = all(nodes, "timeout").next_back();
    // What was read is let go host by host: there may be tens of thousands.
    for node in virtual_hosts {
        let server = Server { nodes: &node.inner };
        config.answers_itself |= answers_itself(&node.inner);
        formats(&node.inner, &mut config.formats);
        let port = node.args.iter().find_map(|address| port_of(address));
        let timeout = timeout_ms(&node.inner, main_proxy_timeout, main_timeout);
        let (mut own_workers, mut own_balancers) =
            (server.workers(), server.balancers(&mut config.problems));
        // Most hosts have none of their own: nothing is copied for them.
        let (workers, balancers) = if own_workers.is_empty() && own_balancers.is_empty() {
            (&workers, &balancers)
        } else {
            for (key, of) in &workers {
                own_workers.entry(key.clone()).or_insert_with(|| of.clone());
            }
            for (key, of) in &balancers {
                own_balancers.entry(key.clone()).or_insert_with(|| of.clone());
            }
            (&own_workers, &own_balancers)
        };
        add(&mut config, &server, port, timeout, workers, balancers, &mut names);
    }
    config.index(names.into_iter());
    config
}

fn add(
    config: &mut Config,
    server: &Server<'_>,
    port: Option<u16>,
    timeout_ms: u64,
    workers: &BTreeMap<String, Parameters>,
    balancers: &BTreeMap<String, Vec<Member>>,
    names: &mut Vec<(String, usize)>,
) {
    let nodes = server.nodes;
    let name = all(nodes, "servername").next_back().map_or("", |node| node.arg(0));
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    let (name, own_port) = match name.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()),
        None => (name, None),
    };
    let name = name.to_ascii_lowercase();
    let prefix = match port.or(own_port) {
        Some(port) if port != 80 && port != 443 => format!("{name}:{port}"),
        _ => name.clone(),
    };
    let index = config.hosts.len();
    let aliases = all(nodes, "serveralias").flat_map(|node| &node.args);
    names.extend(aliases.map(|alias| (alias.to_ascii_lowercase(), index)));
    names.push((name.clone(), index));
    let scope = Scope { timeout_ms, workers, balancers, no_keepalive: no_keepalive(nodes) };
    let mut host = Host { name, prefix, ..Host::default() };
    host.error_log = all(nodes, "errorlog").next_back().map(|node| node.args.join(" "));
    for node in nodes {
        match node.name {
            "customlog" | "globallog" => {
                host.access_logs.push((node.arg(0).to_owned(), node.arg(1).to_owned()))
            }
            "transferlog" => host.access_logs.push((node.arg(0).to_owned(), String::new())),
            _ => {}
        }
    }
    routes::add(&mut host, nodes, &scope, &mut config.problems);
    config.hosts.push(host);
}

/// The main server, or a virtual host.
struct Server<'a> {
    nodes: &'a [Node],
}

impl Server<'_> {
    /// What `<Proxy URL>` and `ProxySet` say of workers that are no members.
    fn workers(&self) -> BTreeMap<String, Parameters> {
        let mut workers: BTreeMap<String, Parameters> = BTreeMap::new();
        for section in all(self.nodes, "proxy") {
            let key = section.arg(0);
            if key == "*" || is_balancer(key) {
                continue;
            }
            let of = workers.entry(worker_key(key)).or_default();
            let words = all(&section.inner, "proxyset").flat_map(|node| &node.args);
            words.for_each(|word| of.set(word));
        }
        for node in all(self.nodes, "proxyset").filter(|node| node.arg(0).contains("://")) {
            if !is_balancer(node.arg(0)) {
                let of = workers.entry(worker_key(node.arg(0))).or_default();
                node.args.iter().skip(1).for_each(|word| of.set(word));
            }
        }
        workers
    }

    fn balancers(&self, problems: &mut Vec<Problem>) -> BTreeMap<String, Vec<Member>> {
        let mut balancers: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        for section in all(self.nodes, "proxy").filter(|section| is_balancer(section.arg(0))) {
            let members = balancers.entry(balancer_name(section.arg(0))).or_default();
            for node in all(&section.inner, "balancermember") {
                members.push(member(&node.args, node));
            }
            // `ProxySet` with a URL speaks of that member.
            for node in all(&section.inner, "proxyset").filter(|node| node.arg(0).contains("://")) {
                let key = worker_key(node.arg(0));
                let of = members.iter_mut().filter(|member| worker_key(&member.url) == key);
                of.for_each(|member| {
                    node.args.iter().skip(1).for_each(|word| member.parameters.set(word));
                });
            }
        }
        for node in all(self.nodes, "balancermember") {
            match node.args.split_first() {
                Some((balancer, rest)) if is_balancer(balancer) => {
                    let members = balancers.entry(balancer_name(balancer)).or_default();
                    members.push(member(rest, node));
                }
                _ => problems.push(Problem {
                    place: node.place.clone(),
                    text: "BalancerMember outside of <Proxy> names no balancer".to_owned(),
                }),
            }
        }
        balancers
    }
}

fn member(words: &[String], node: &Node) -> Member {
    let mut parameters = Parameters::default();
    words.iter().skip(1).for_each(|word| parameters.set(word));
    Member {
        url: words.first().cloned().unwrap_or_default(),
        parameters,
        place: node.place.clone(),
    }
}

fn is_balancer(url: &str) -> bool {
    url.get(..11).is_some_and(|scheme| scheme.eq_ignore_ascii_case("balancer://"))
}

fn balancer_name(url: &str) -> String {
    url[11..].split('/').next().unwrap_or_default().to_ascii_lowercase()
}

/// `ProxyTimeout` of the nearest level, else `Timeout`.
fn timeout_ms(nodes: &[Node], proxy: Option<&Node>, any: Option<&Node>) -> u64 {
    let proxy = all(nodes, "proxytimeout").next_back().or(proxy);
    let any = all(nodes, "timeout").next_back().or(any);
    let ms = |node: Option<&Node>| node.and_then(|node| time_ms(node.arg(0)));
    ms(proxy).or_else(|| ms(any)).unwrap_or(TIMEOUT_MS)
}

fn no_keepalive(nodes: &[Node]) -> bool {
    all(nodes, "setenv").any(|node| {
        matches!(node.arg(0), "proxy-nokeepalive" | "force-proxy-request-1.0")
            && node.args.get(1).is_none_or(|value| value != "0")
    })
}

/// httpd is told to answer 502, 503 or 504 without asking anybody.
fn answers_itself(nodes: &[Node]) -> bool {
    let unavailable = |text: &str| ["502", "503", "504"].iter().any(|status| text.contains(status));
    nodes.iter().any(|node| match node.name {
        "rewriterule" => node.args.get(2).is_some_and(|flags| unavailable(flags)),
        "redirect" => node.args.iter().any(|word| unavailable(word)),
        "sec" => true,
        _ => answers_itself(&node.inner),
    })
}

fn formats(nodes: &[Node], formats: &mut BTreeMap<String, String>) {
    for node in all(nodes, "logformat") {
        formats.insert(node.arg(1).to_owned(), node.arg(0).to_owned());
    }
}

/// "Listen 80" takes both families.
fn listens(nodes: &[Node]) -> Vec<String> {
    let address = |node: &Node| {
        let address = node.arg(0);
        match address.parse::<u16>() {
            Ok(port) => format!("[::]:{port}"),
            Err(_) => address.replace("*:", "[::]:"),
        }
    };
    let mut listens: Vec<String> = all(nodes, "listen").map(address).collect();
    listens.dedup();
    listens
}

/// The port of "*:80", "10.0.0.1:8080", "[::1]:80", "_default_:443".
fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}
