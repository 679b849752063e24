//! A Caddyfile: sites, and which of their requests go where.
//!
//! Directives are asked in Caddy's order, not in that of the file: `handle` and `route` before
//! `respond` before
//! `reverse_proxy` before `php_fastcgi`, and of one directive the longest path first.
//! Page: <https://caddyserver.com/docs/caddyfile/directives#sorting-algorithm>.

use std::collections::BTreeMap;

use why502_proto::v1::Protocol;

use super::config::{Config, Route, Transport, duration_ms, peers};
use super::json::{ADMIN, add, admin_address, listen_address, target};
use super::syntax::Node;
use crate::effective::Target;
use crate::place::Problem;

/// Blocks inside of blocks.
const DEPTH_MAX: usize = 24;

/// What a tree means.
pub fn effective(nodes: &[Node]) -> Config {
    let mut config = Config { admin: Some(ADMIN.to_owned()), ..Config::default() };
    let mut default_log = false;
    let named: BTreeMap<&str, &Node> = nodes
        .iter()
        .filter_map(|node| Some((node.name().strip_prefix("&(")?.strip_suffix(')')?, node)))
        .collect();
    // Without braces the first line has the addresses, and all others are of that one site.
    let bare = nodes.iter().find(|node| !node.words.is_empty()).filter(|node| !node.braces);
    for (index, node) in nodes.iter().enumerate() {
        if node.words.is_empty() && index == 0 {
            options(node, &mut config, &mut default_log);
        } else if bare.is_none() && !node.name().starts_with("&(") && node.braces {
            site(node, &node.block, &named, &mut config);
        } else if bare.is_none() && !node.braces {
            config.problems.push(Problem {
                place: node.place(),
                text: "directive stands in no site".to_owned(),
            });
        }
    }
    if let Some(first) = bare {
        let at = nodes.iter().position(|node| std::ptr::eq(node, first)).unwrap_or(0);
        site(first, &nodes[at + 1..], &named, &mut config);
    }
    if !default_log {
        config.logs.push(Target::Stdio);
    }
    config.listens.sort();
    config.listens.dedup();
    config
}

fn options(node: &Node, config: &mut Config, default_log: &mut bool) {
    for option in &node.block {
        match option.name() {
            "admin" if option.word(1) == "off" => config.admin = None,
            "admin" if !option.word(1).is_empty() => {
                config.admin = Some(admin_address(option.word(1)));
            }
            "log" => {
                *default_log |= matches!(option.word(1), "" | "default");
                config.logs.extend(output(option, true));
            }
            _ => {}
        }
    }
}

/// The target of a `log` block. `default`: it writes to stderr without `output`.
fn output(log: &Node, default: bool) -> Option<Target> {
    let output = log.block.iter().find(|node| node.name() == "output");
    match output {
        Some(output) => target(output.word(1), output.word(2)),
        None => default.then_some(Target::Stdio),
    }
}

fn site(node: &Node, block: &[Node], named: &BTreeMap<&str, &Node>, config: &mut Config) {
    let addresses: Vec<Address> = node
        .words
        .iter()
        .flat_map(|word| word.split(','))
        .filter(|w| !w.is_empty())
        .map(address)
        .collect();
    for log in block.iter().filter(|node| node.name() == "log") {
        config.logs.extend(output(log, false));
    }
    let hosts: Vec<String> =
        addresses.iter().map(|a| a.host.clone()).filter(|host| !host.is_empty()).collect();
    let port = addresses.first().map_or(0, |address| address.port);
    for address in &addresses {
        config.listens.push(listen_address(&format!(":{}", address.port)));
        // `https://` sites are reached by HTTP too, which sends on to them.
        if address.port == 443 {
            config.listens.push("[::]:80".to_owned());
        }
    }
    let paths: Vec<Vec<String>> = addresses
        .first()
        .filter(|address| !address.path.is_empty())
        .map(|address| vec![address.path.clone()])
        .into_iter()
        .collect();
    let around = Route { hosts, port, paths, ..Route::default() };
    let mut reader = Reader { named, matchers: BTreeMap::new(), config };
    reader.block(block, &around, true, 0);
}

struct Address {
    host: String,
    port: u16,
    path: String,
}

/// "shop.example", "http://shop.example:8080/path", ":80".
fn address(word: &str) -> Address {
    let (scheme, rest) = word.split_once("://").unwrap_or(("", word));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let named = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let (host, port) = match named {
        Some((host, port)) => (host, port.parse().unwrap_or(0)),
        None => (authority, if scheme == "http" { 80 } else { 443 }),
    };
    let host = if host == "*" { "" } else { host };
    Address { host: host.to_ascii_lowercase(), port, path: path.to_owned() }
}

struct Reader<'a> {
    named: &'a BTreeMap<&'a str, &'a Node>,
    matchers: BTreeMap<String, Matcher>,
    config: &'a mut Config,
}

#[derive(Clone, Default)]
struct Matcher {
    hosts: Vec<String>,
    paths: Vec<String>,
    more: bool,
}

/// Caddy's order of directives, of those that answer.
fn rank(name: &str) -> Option<u8> {
    Some(match name {
        "redir" => 1,
        "handle" | "handle_path" | "route" | "invoke" => 2,
        "abort" | "error" => 3,
        "respond" => 4,
        "reverse_proxy" => 5,
        "php_fastcgi" => 6,
        _ => return None,
    })
}

impl Reader<'_> {
    fn block(&mut self, nodes: &[Node], around: &Route, sorted: bool, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        for node in nodes.iter().filter(|node| node.name().starts_with('@')) {
            let matcher = named_matcher(node);
            self.matchers.insert(node.name().to_owned(), matcher);
        }
        let mut directives: Vec<(u8, &Node)> =
            nodes.iter().filter_map(|node| Some((rank(node.name())?, node))).collect();
        if sorted {
            // No path is asked last, and the longest path first.
            directives.sort_by_key(|(rank, node)| {
                let path = self.first_path(node).len();
                (*rank, std::cmp::Reverse(path))
            });
        }
        for (_, node) in directives {
            self.directive(node, around, depth);
        }
    }

    fn first_path(&self, node: &Node) -> String {
        let word = node.word(1);
        if word.starts_with('/') {
            return word.to_owned();
        }
        let named = self.matchers.get(word).and_then(|matcher| matcher.paths.first());
        named.cloned().unwrap_or_default()
    }

    /// The route inside of `around`, and how many words its matcher takes.
    fn inside(&self, node: &Node, around: &Route) -> (Route, usize) {
        let mut route = around.clone();
        let word = node.word(1);
        match word.chars().next() {
            Some('/') => route.paths.push(vec![word.to_owned()]),
            Some('*') if word == "*" => {}
            Some('@') => match self.matchers.get(word) {
                Some(matcher) => {
                    if !matcher.hosts.is_empty() {
                        route.hosts.clone_from(&matcher.hosts);
                    }
                    if !matcher.paths.is_empty() {
                        route.paths.push(matcher.paths.clone());
                    }
                    route.conditional |= matcher.more;
                }
                None => route.conditional = true,
            },
            _ => return (route, 0),
        }
        (route, 1)
    }

    fn directive(&mut self, node: &Node, around: &Route, depth: usize) {
        let (route, taken) = self.inside(node, around);
        let words = node.words.get(1 + taken..).unwrap_or(&[]);
        match node.name() {
            "handle" | "handle_path" => self.block(&node.block, &route, true, depth + 1),
            "route" => self.block(&node.block, &route, false, depth + 1),
            "invoke" => {
                let named = words.first().and_then(|name| self.named.get(name.as_str()).copied());
                if let Some(named) = named {
                    self.block(&named.block, &route, false, depth + 1);
                }
            }
            "reverse_proxy" => self.proxy(node, words, route, false),
            "php_fastcgi" => self.proxy(node, words, route, true),
            // An answer of its own, for some paths.
            _ if route.paths.len() > around.paths.len() => add(route, &mut self.config.routes),
            _ => {}
        }
    }

    fn proxy(&mut self, node: &Node, words: &[String], mut route: Route, php: bool) {
        let mut transport = Transport::default();
        if php {
            transport.protocol = Protocol::Fastcgi;
            transport.keepalive_ms = None;
        }
        let mut dials = Vec::new();
        for word in words {
            dials.extend(upstream(word, &mut transport));
        }
        for option in &node.block {
            match option.name() {
                "to" => {
                    for word in &option.words[1..] {
                        dials.extend(upstream(word, &mut transport));
                    }
                }
                // `dynamic a app 8080`
                "dynamic" if option.word(1) == "a" => {
                    let name = |key: &str, index: usize| {
                        let inner = option.block.iter().find(|node| node.name() == key);
                        inner.map_or(option.word(index), |node| node.word(1)).to_owned()
                    };
                    let (host, port) = (name("name", 2), name("port", 3));
                    let port = if port.is_empty() { "80" } else { &port };
                    dials.push(format!("{host}:{port}"));
                }
                "transport" => set_transport(option, &mut transport),
                "fail_duration" => {
                    transport.fail_ms = duration_ms(option.word(1)).unwrap_or(0);
                    transport.max_fails = transport.max_fails.max(1);
                }
                "max_fails" => transport.max_fails = option.word(1).parse().unwrap_or(1),
                // php_fastcgi has the options of its transport beside its own.
                "dial_timeout" | "read_timeout" | "write_timeout" if php => {
                    set_option(option, &mut transport);
                }
                _ => {}
            }
        }
        if transport.fail_ms == 0 {
            transport.max_fails = 0;
        }
        route.peers = peers(&dials, &transport, &node.file, node.line);
        if dials.is_empty() && node.block.iter().all(|option| option.name() != "dynamic") {
            self.config
                .problems
                .push(Problem { place: node.place(), text: "has no upstream".to_owned() });
        }
        add(route, &mut self.config.routes);
    }
}

fn named_matcher(node: &Node) -> Matcher {
    let mut matcher = Matcher::default();
    let inline = Node { words: node.words.get(1..).unwrap_or(&[]).to_vec(), ..Node::default() };
    let lines = node.block.iter().chain((!inline.words.is_empty()).then_some(&inline));
    for line in lines {
        let words = line.words.get(1..).unwrap_or(&[]).iter();
        match line.name() {
            "path" => matcher.paths.extend(words.cloned()),
            "host" => matcher.hosts.extend(words.map(|host| host.to_ascii_lowercase())),
            _ => matcher.more = true,
        }
    }
    matcher
}

/// What is dialled for "app:8080", "https://app", "h2c://app:50051", "unix//run/a.sock", "app:8001-8003".
fn upstream(word: &str, transport: &mut Transport) -> Vec<String> {
    let (scheme, rest) = word.split_once("://").unwrap_or(("", word));
    if scheme == "https" {
        transport.protocol = Protocol::Https;
    }
    let range = rest.rsplit_once(':').and_then(|(host, ports)| {
        let (from, to) = ports.split_once('-')?;
        let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
        Some((host, from..=to.min(from.saturating_add(255))))
    });
    match range {
        Some((host, ports)) => ports.map(|port| format!("{host}:{port}")).collect(),
        None => vec![rest.to_owned()],
    }
}

fn set_transport(node: &Node, transport: &mut Transport) {
    if node.word(1) == "fastcgi" {
        transport.protocol = Protocol::Fastcgi;
        transport.keepalive_ms = None;
    }
    for option in &node.block {
        set_option(option, transport);
    }
}

fn set_option(option: &Node, transport: &mut Transport) {
    let time = duration_ms(option.word(1));
    match option.name() {
        "dial_timeout" => transport.connect_ms = time.unwrap_or(transport.connect_ms),
        "response_header_timeout" => transport.read_ms = time.unwrap_or(0),
        "read_timeout" if transport.protocol == Protocol::Fastcgi => {
            transport.read_ms = time.unwrap_or(0);
        }
        "write_timeout" => transport.send_ms = time.unwrap_or(0),
        "keepalive" if option.word(1) == "off" => transport.keepalive_ms = None,
        "keepalive" => transport.keepalive_ms = time.or(transport.keepalive_ms),
        name if name.starts_with("tls") => transport.protocol = Protocol::Https,
        _ => {}
    }
}
