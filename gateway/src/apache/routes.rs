//! Which requests of a host are sent where: `ProxyPass` and its kin, in the order in which httpd
//! asks them.
//!
//! `RewriteRule ... [P]` of the server is asked first, then `ProxyPass` of the `<Location>`s, of
//! which the last one that fits counts, then that of the server, of which the first one counts;
//! handlers come last.

use why502_proto::v1::EndpointDeclared;

use super::config::{Host, Matcher, Pattern, Peer, Route, Scope, all, worker_key};
use super::syntax::Node;
use super::worker::{Parameters, Scheme, Url, url};
use crate::place::{Place, Problem};

/// Default of `retry=`.
const RETRY_MS: u64 = 60_000;

/// Adds the routes of a host's directives.
pub fn add(host: &mut Host, nodes: &[Node], scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let mut adding = Adding { host, scope, problems };
    adding.rewrites(nodes);
    for node in nodes.iter().rev() {
        adding.section(node);
    }
    for node in nodes {
        match node.name {
            "proxypass" => {
                let path = node.arg(0);
                adding.pass(
                    Matcher::Prefix(path.to_owned()),
                    path,
                    node.args.get(1..).unwrap_or(&[]),
                    &node.place,
                );
            }
            "proxypassmatch" => {
                let (regex, written) = (node.arg(0), format!("~{}", node.arg(0)));
                let matcher = Matcher::Path(Pattern::new(regex));
                adding.pass(matcher, &written, node.args.get(1..).unwrap_or(&[]), &node.place);
            }
            _ => {}
        }
    }
    for node in nodes.iter().rev() {
        adding.handlers(node);
    }
    for node in all(nodes, "sethandler") {
        adding.handler(node, Matcher::Any, "/");
    }
}

fn is_on(word: &str) -> bool {
    word.eq_ignore_ascii_case("on")
}

/// What a section takes, and how that is written.
fn section(node: &Node) -> Option<(Matcher, String)> {
    let first = node.arg(0);
    // `<Location ~ "regex">`
    let tilde = (first == "~").then(|| node.arg(1));
    match node.name {
        "location" if tilde.is_none() => {
            Some((Matcher::Prefix(first.to_owned()), first.to_owned()))
        }
        "location" | "locationmatch" => {
            let regex = tilde.unwrap_or(first);
            Some((Matcher::Path(Pattern::new(regex)), format!("~{regex}")))
        }
        "files" if tilde.is_none() => {
            let regex = glob_regex(first);
            Some((Matcher::File(Pattern::new(&regex)), format!("~{regex}")))
        }
        "files" | "filesmatch" => {
            let regex = tilde.unwrap_or(first);
            Some((Matcher::File(Pattern::new(regex)), format!("~{regex}")))
        }
        // Which paths are in a directory is not asked.
        "directory" | "directorymatch" => Some((Matcher::Any, "/".to_owned())),
        _ => None,
    }
}

/// `*.php` as a regular expression.
fn glob_regex(glob: &str) -> String {
    let mut regex = String::from("^");
    for c in glob.chars() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            _ if c.is_alphanumeric() => regex.push(c),
            _ => {
                regex.push('\\');
                regex.push(c);
            }
        }
    }
    regex + "$"
}

struct Adding<'a> {
    host: &'a mut Host,
    scope: &'a Scope<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Adding<'_> {
    fn rewrites(&mut self, nodes: &[Node]) {
        if !all(nodes, "rewriteengine").next_back().is_some_and(|node| is_on(node.arg(0))) {
            return;
        }
        for node in all(nodes, "rewriterule") {
            let flags = node.arg(2).trim_start_matches('[').trim_end_matches(']');
            let proxied = flags.split(',').any(|flag| matches!(flag.trim(), "P" | "p" | "proxy"));
            let Some(url) = url(node.arg(1)).filter(|_| proxied) else { continue };
            let (matcher, written) = match node.arg(0).strip_prefix('!') {
                Some(_) => (Matcher::Any, format!("~{}", node.arg(0))),
                None => (Matcher::Path(Pattern::new(node.arg(0))), format!("~{}", node.arg(0))),
            };
            let peers = self.peers(&url, node.arg(1), None, &node.place);
            // Conditions before it, which are not looked at, may keep a request from it.
            self.route(matcher, &written, peers, true);
        }
    }

    /// `ProxyPass` and `RewriteRule` of a section of paths.
    fn section(&mut self, node: &Node) {
        if section(node).is_none() {
            return;
        }
        for pass in node.inner.iter().filter(|pass| pass.name.starts_with("proxypass")) {
            let Some((matcher, written)) = section(node) else { continue };
            // The section says the path; a word of its own is an error, and older versions took it.
            let own = pass.args.len() > 1 && pass.arg(0).starts_with(['/', '^']);
            let words = pass.args.get(usize::from(own)..).unwrap_or(&[]);
            self.pass(matcher, &written, words, &pass.place);
        }
        self.rewrites(&node.inner);
    }

    /// `SetHandler` of a section and of those inside of it.
    fn handlers(&mut self, node: &Node) {
        node.inner.iter().rev().for_each(|inner| self.handlers(inner));
        for handler in all(&node.inner, "sethandler") {
            if let Some((matcher, written)) = section(node) {
                self.handler(handler, matcher, &written);
            }
        }
    }

    /// `SetHandler "proxy:unix:/run/php.sock|fcgi://localhost/"`
    fn handler(&mut self, node: &Node, matcher: Matcher, written: &str) {
        let Some(target) = node.arg(0).strip_prefix("proxy:") else { return };
        match url(target) {
            Some(url) => {
                let peers = self.peers(&url, target, None, &node.place);
                self.route(matcher, written, peers, false);
            }
            None => self.problem(&node.place, "sends to a scheme that is not known"),
        }
    }

    /// `words`: the URL and the parameters of its worker.
    fn pass(&mut self, matcher: Matcher, written: &str, words: &[String], place: &Place) {
        let Some((target, words)) = words.split_first() else {
            self.problem(place, "has no URL");
            return;
        };
        if target == "!" {
            self.route(matcher, written, Vec::new(), false);
            return;
        }
        let Some(url) = url(target) else {
            self.problem(place, "sends to a scheme that is not known");
            return;
        };
        let mut parameters = Parameters::default();
        words.iter().for_each(|word| parameters.set(word));
        let peers = self.peers(&url, target, Some(parameters), place);
        self.route(matcher, written, peers, false);
    }

    fn route(&mut self, matcher: Matcher, written: &str, peers: Vec<Peer>, conditional: bool) {
        let name = format!("{}{written}", self.host.prefix);
        let mut route = Route { name, matcher, peers, conditional };
        for peer in &mut route.peers {
            peer.declared.route.clone_from(&route.name);
        }
        self.host.routes.push(route);
    }

    /// `own`: the parameters of a directive that makes a worker of the URL.
    fn peers(
        &mut self,
        url: &Url,
        text: &str,
        own: Option<Parameters>,
        place: &Place,
    ) -> Vec<Peer> {
        match url {
            Url::AtRunTime => Vec::new(),
            Url::Peer { scheme, endpoint } => {
                let shared = self.scope.workers.get(&worker_key(text));
                let worker = own.is_some() || shared.is_some();
                let own = own.unwrap_or_default();
                let parameters = shared.map_or_else(|| own.clone(), |shared| own.or(shared));
                vec![self.peer(scheme, endpoint, &parameters, worker, place)]
            }
            Url::Balancer(name) => self.members(name, place),
        }
    }

    fn members(&mut self, name: &str, place: &Place) -> Vec<Peer> {
        let members = self.scope.balancers.get(name).map_or(&[][..], Vec::as_slice);
        if members.is_empty() {
            self.problem(place, &format!("balancer {name} has no members"));
        }
        let mut peers = Vec::new();
        for member in members {
            match url(&member.url) {
                Some(Url::Peer { scheme, endpoint }) => {
                    let mut peer =
                        self.peer(scheme, &endpoint, &member.parameters, true, &member.place);
                    let declared = &mut peer.declared;
                    name.clone_into(&mut declared.upstream);
                    // One failure, and it is not asked for a while.
                    declared.max_fails = 1;
                    declared.fail_timeout_ms = member.parameters.retry_ms.unwrap_or(RETRY_MS);
                    peers.push(peer);
                }
                _ => self.problem(&member.place, "member is no URL that is known"),
            }
        }
        let count = u32::try_from(peers.len()).unwrap_or(u32::MAX);
        peers.iter_mut().for_each(|peer| peer.declared.peers = count);
        peers
    }

    fn peer(
        &self,
        scheme: &'static Scheme,
        endpoint: &str,
        parameters: &Parameters,
        worker: bool,
        place: &Place,
    ) -> Peer {
        let timeout_ms = parameters.timeout_ms.unwrap_or(self.scope.timeout_ms);
        let address =
            endpoint.starts_with("unix:") || endpoint.parse::<std::net::SocketAddr>().is_ok();
        let keeps = worker && !self.scope.no_keepalive;
        let declared = EndpointDeclared {
            gateway: super::NAME.to_owned(),
            endpoint: endpoint.to_owned(),
            addresses: if address { vec![endpoint.to_owned()] } else { Vec::new() },
            peers: 1,
            protocol: scheme.protocol.into(),
            file: place.file.to_string(),
            line: place.line,
            connect_timeout_ms: parameters.connect_ms.unwrap_or(timeout_ms),
            read_timeout_ms: timeout_ms,
            send_timeout_ms: timeout_ms,
            keepalive_ms: parameters.keepalive_ms(scheme, keeps),
            down: parameters.down,
            backup: parameters.backup,
            ..EndpointDeclared::default()
        };
        Peer { declared, scheme: scheme.name }
    }

    fn problem(&mut self, place: &Place, text: &str) {
        self.problems.push(Problem { place: place.clone(), text: text.to_owned() });
    }
}
