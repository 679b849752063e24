//! The effective configuration: what a tree of directives means for requests that are passed on.
//!
//! Inheritance as in nginx: a directive holds for nested blocks unless they have one of that name themselves; only
//! `proxy_pass` and its siblings are not inherited. `if` and `limit_except` count as part of their location.
//!
//! # Names of routes
//!
//! `NAME[:PORT]LOCATION`: the first server name if it is one ("_" and "" are none), the port of the first `listen` unless
//! the server listens on 80 or 443, and the location: `/api` for prefixes, `=/api` for exact ones, `~\.php$` and
//! `~*\.php$` for regexes, `@app` for named ones. So "shop.example/api", ":8080/", "/api". A stream server is
//! `tcp:PORT`.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::{Regex, RegexBuilder};

use super::pass::{self, Pass, Peer};
use super::scope::Scope;
use super::syntax::Directive;
use super::version::Version;
use crate::place::{Place, Problem};

/// Locations inside locations. nginx has no bound; nobody nests ten.
const LOCATION_DEPTH_MAX: usize = 32;

/// What requests meet.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// In the order of the file: the first of a name wins.
    pub servers: Vec<Server>,
    /// `(level, path)` of every `error_log` that is in force somewhere; "" is the one that is compiled in.
    pub error_logs: BTreeSet<ErrorLog>,
    /// Access logs that are in force somewhere.
    pub access_logs: BTreeMap<String, AccessLog>,
    /// Text of the `log_format`s by name.
    pub log_formats: BTreeMap<String, LogFormat>,
    /// What was not understood.
    pub problems: Vec<Problem>,
}

/// An `error_log`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErrorLog {
    /// As written: a path, "stderr" or "syslog:...".
    pub target: String,
    /// It lets lines of level `error` pass.
    pub errors: bool,
}

/// An `access_log` and who writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLog {
    /// Name of its format.
    pub format: String,
    /// Indexes of the servers that write it.
    pub servers: BTreeSet<usize>,
}

/// A `log_format`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFormat {
    /// Its text, with variables.
    pub text: String,
    /// `escape=json`.
    pub json: bool,
}

/// A `server` block.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// As the error log names it: the first name, without a leading dot.
    pub name: String,
    /// All names.
    pub names: Vec<String>,
    /// Ports that it listens on.
    pub ports: BTreeSet<u16>,
    /// As written.
    pub listens: Vec<String>,
    /// Of `stream {}`.
    pub stream: bool,
    /// In the order of the file.
    pub locations: Vec<Location>,
    /// Where `try_files` outside of any location leads.
    pub fallback: Option<String>,
    /// Statuses that it sends by itself (`return 503`), or may (`limit_req` that does not log).
    pub own_statuses: BTreeSet<u16>,
    /// Targets of the error logs in force in it.
    pub error_logs: BTreeSet<String>,
}

/// A `location`, or a stream server as a whole.
#[derive(Clone, Debug)]
pub struct Location {
    /// Which paths.
    pub matcher: Matcher,
    /// Name of the route.
    pub route: String,
    /// Where it sends requests.
    pub passes: Vec<Pass>,
    /// Locations in it.
    pub nested: Vec<Self>,
    /// Last argument of `try_files`, when it is a path or a named location.
    pub fallback: Option<String>,
    /// The status of a failure may be changed on its way to the client (`error_page 502 =200 ...`).
    pub status_rewritten: bool,
}

/// Which paths a location takes.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// `location = /path`
    Exact(String),
    /// `location /path`; the flag is `^~`: regexes are not asked.
    Prefix(String, bool),
    /// `location ~ regex`; `None`: this engine cannot read it, so it is not known what it takes.
    Regex(Option<Regex>),
    /// `location @name`
    Named(String),
    /// A stream server.
    Everything,
}

impl Location {
    /// Every peer of every pass.
    pub fn peers(&self) -> impl Iterator<Item = (&Pass, &Peer)> {
        self.passes.iter().flat_map(|pass| pass.peers.iter().map(move |peer| (pass, peer)))
    }
}

impl Config {
    /// Every location of every server, nested ones too.
    pub fn locations(&self) -> Vec<&Location> {
        let mut all = Vec::new();
        let mut left: Vec<&Location> =
            self.servers.iter().rev().flat_map(|server| server.locations.iter().rev()).collect();
        while let Some(location) = left.pop() {
            all.push(location);
            left.extend(location.nested.iter().rev());
        }
        all
    }

    /// Every peer, to fill in what its name resolves to.
    pub fn peers_mut(&mut self) -> Vec<&mut Peer> {
        let mut all = Vec::new();
        let mut left: Vec<&mut Location> =
            self.servers.iter_mut().flat_map(|server| server.locations.iter_mut()).collect();
        while let Some(location) = left.pop() {
            all.extend(location.passes.iter_mut().flat_map(|pass| pass.peers.iter_mut()));
            left.extend(location.nested.iter_mut());
        }
        all
    }
}

/// Understands `directives`. `hostname` is what `$hostname` stands for in server names.
pub fn effective(directives: &[Directive], version: Version, hostname: &str) -> Config {
    let mut config = Config::default();
    let main = Scope::new(None, directives);
    for (name, stream) in [("http", false), ("stream", true)] {
        let blocks = directives.iter().filter(|directive| directive.name == name);
        for block in blocks.filter_map(|directive| directive.block.as_deref()) {
            let scope = Scope::new(Some(&main), block);
            let groups = pass::Groups::read(block, version, stream, &mut config.problems);
            for format in scope.own("log_format").iter().filter(|_| !stream) {
                let json = format.arg(1) == "escape=json";
                let skip = 1 + usize::from(format.arg(1).starts_with("escape="));
                let text = format.args.iter().skip(skip).map(String::as_str).collect();
                config.log_formats.insert(format.arg(0).to_owned(), LogFormat { text, json });
            }
            let mut reader = Reader { config: &mut config, groups: &groups, stream, hostname };
            reader.servers(block, &scope);
        }
    }
    error_logs(&main, &mut config);
    config
}

struct Reader<'a> {
    config: &'a mut Config,
    groups: &'a pass::Groups<'a>,
    stream: bool,
    hostname: &'a str,
}

impl Reader<'_> {
    fn servers(&mut self, block: &[Directive], outer: &Scope<'_>) {
        for directive in block {
            if let ("server", Some(inner)) = (directive.name.as_str(), directive.block.as_deref()) {
                self.server(inner, outer);
            }
        }
    }

    fn server(&mut self, block: &[Directive], outer: &Scope<'_>) {
        let scope = Scope::new(Some(outer), block);
        let mut server = Server { stream: self.stream, ..Server::default() };
        server.names = scope
            .own("server_name")
            .iter()
            .flat_map(|directive| &directive.args)
            .map(|name| server_name(name, self.hostname))
            .collect();
        server.name = server.names.first().cloned().unwrap_or_default();
        for listen in scope.own("listen") {
            server.listens.push(listen.arg(0).to_owned());
            server.ports.extend(pass::port_of(listen.arg(0)).or((!self.stream).then_some(80)));
        }
        if server.listens.is_empty() && !self.stream {
            server.listens.push("*:80".to_owned());
            server.ports.insert(80);
        }
        let prefix = route_prefix(&server);
        own_statuses(block, &scope, &mut server.own_statuses);
        self.logs(&scope, &mut server);
        server.fallback = fallback(&scope);
        // A datagram has no connection that could be refused, and no listener that could be missing.
        let datagrams =
            scope.own("listen").iter().any(|listen| listen.args.iter().any(|a| a == "udp"));
        if self.stream {
            if datagrams {
                return;
            }
            if let Some(pass) = self.passes(&scope).pop() {
                server.locations.push(Location {
                    matcher: Matcher::Everything,
                    route: prefix,
                    passes: vec![pass],
                    nested: Vec::new(),
                    fallback: None,
                    status_rewritten: false,
                });
            }
        } else {
            server.locations = self.locations(block, &scope, &prefix, &mut server.own_statuses, 0);
        }
        self.config.servers.push(server);
        // A `}` was forgotten above: nginx would refuse, but what was meant is plain.
        for directive in block {
            if let ("server", Some(inner)) = (directive.name.as_str(), directive.block.as_deref()) {
                self.problem(&directive.place, "\"server\" inside \"server\"");
                self.server(inner, outer);
            }
        }
    }

    fn locations(
        &mut self,
        block: &[Directive],
        outer: &Scope<'_>,
        prefix: &str,
        statuses: &mut BTreeSet<u16>,
        depth: usize,
    ) -> Vec<Location> {
        let mut locations = Vec::new();
        for directive in block.iter().filter(|directive| directive.name == "location") {
            let Some(inner) = directive.block.as_deref() else { continue };
            let Some((matcher, written)) = self.matcher(directive) else { continue };
            let scope = Scope::new(Some(outer), inner);
            own_statuses(inner, &scope, statuses);
            error_logs(&scope, self.config);
            let nested = if depth < LOCATION_DEPTH_MAX {
                self.locations(inner, &scope, prefix, statuses, depth + 1)
            } else {
                Vec::new()
            };
            locations.push(Location {
                matcher,
                route: format!("{prefix}{written}"),
                passes: self.passes(&scope),
                nested,
                fallback: fallback(&scope),
                status_rewritten: rewrites_status(&scope),
            });
        }
        locations
    }

    /// What a location takes, and how its route is written.
    fn matcher(&mut self, directive: &Directive) -> Option<(Matcher, String)> {
        let (operator, path) = match directive.args.as_slice() {
            [path] => {
                // `location ~\.php$` without a space is allowed.
                let operator = ["^~", "~*", "~", "="].into_iter().find(|op| path.starts_with(op));
                let operator = operator.unwrap_or("");
                (operator, &path[operator.len()..])
            }
            [operator, path] => (operator.as_str(), path.as_str()),
            _ => {
                self.problem(&directive.place, "location takes a path, or a modifier and a path");
                return None;
            }
        };
        let matcher = match operator {
            "" if path.starts_with('@') => Matcher::Named(path.to_owned()),
            "" | "^~" => Matcher::Prefix(path.to_owned(), operator == "^~"),
            "=" => Matcher::Exact(path.to_owned()),
            "~" | "~*" => {
                let regex = RegexBuilder::new(path).case_insensitive(operator == "~*").build();
                Matcher::Regex(regex.ok())
            }
            _ => {
                self.problem(&directive.place, "unknown modifier of location");
                return None;
            }
        };
        let shown = if operator == "^~" { "" } else { operator };
        Some((matcher, format!("{shown}{path}")))
    }

    fn passes(&mut self, scope: &Scope<'_>) -> Vec<Pass> {
        pass::passes(scope, self.groups, &mut self.config.problems)
    }

    fn logs(&mut self, scope: &Scope<'_>, server: &mut Server) {
        error_logs(scope, self.config);
        for log in scope.all("error_log") {
            server.error_logs.insert(log.arg(0).to_owned());
        }
        if self.stream {
            return;
        }
        let index = self.config.servers.len();
        let logs = scope.all("access_log");
        let default = [("", "combined")];
        let written = logs.iter().map(|log| (log.arg(0), log.args.get(1).map_or("", |a| a)));
        let all: Vec<(&str, &str)> =
            if logs.is_empty() { default.to_vec() } else { written.collect() };
        for (target, format) in all {
            if target == "off" || target.contains('$') {
                continue;
            }
            let plain = format.is_empty() || format.contains('=');
            let log = self.config.access_logs.entry(target.to_owned()).or_default();
            log.format = if plain { "combined" } else { format }.to_owned();
            log.servers.insert(index);
        }
    }

    fn problem(&mut self, place: &Place, text: &str) {
        self.config.problems.push(Problem { place: place.clone(), text: text.to_owned() });
    }
}

/// Where `try_files` leads in the end; it is not inherited.
fn fallback(scope: &Scope<'_>) -> Option<String> {
    let last = scope.own("try_files").last()?.args.last()?;
    last.starts_with(['/', '@']).then(|| last.clone())
}

fn error_logs(scope: &Scope<'_>, config: &mut Config) {
    let logs = scope.all("error_log");
    if logs.is_empty() {
        config.error_logs.insert(ErrorLog { target: String::new(), errors: true });
    }
    for log in logs {
        let level = log.args.get(1).map_or("error", String::as_str);
        let errors = !matches!(level, "crit" | "alert" | "emerg");
        config.error_logs.insert(ErrorLog { target: log.arg(0).to_owned(), errors });
    }
}

/// A server name as the error log writes it (`ngx_http_core_server_name`).
fn server_name(name: &str, hostname: &str) -> String {
    match name {
        "$hostname" => hostname.to_ascii_lowercase(),
        _ if name.starts_with('~') => name.to_owned(),
        _ => name.strip_prefix('.').unwrap_or(name).to_ascii_lowercase(),
    }
}

fn route_prefix(server: &Server) -> String {
    let port = server.listens.iter().find_map(|listen| pass::port_of(listen));
    if server.stream {
        let port = port.map_or_else(|| server.listens.first().cloned(), |p| Some(p.to_string()));
        return format!("tcp:{}", port.unwrap_or_default());
    }
    let name = if server.name == "_" { "" } else { &server.name };
    match server.ports.first() {
        Some(port) if !server.ports.contains(&80) && !server.ports.contains(&443) => {
            format!("{name}:{port}")
        }
        _ => name.to_owned(),
    }
}

/// Statuses that nginx sends by itself here, so that they are no sign of the upstream.
fn own_statuses(block: &[Directive], scope: &Scope<'_>, statuses: &mut BTreeSet<u16>) {
    let own = scope.own("return").iter().chain(scope.conditional.iter()).copied();
    let returns = own.filter(|directive| directive.name == "return");
    statuses.extend(returns.filter_map(|directive| directive.arg(0).parse::<u16>().ok()));
    let pages = block.iter().filter(|directive| directive.name == "error_page");
    for page in pages {
        let to = page.args.iter().filter_map(|arg| arg.strip_prefix('='));
        statuses.extend(to.filter_map(|to| to.parse::<u16>().ok()));
    }
    for kind in ["limit_req", "limit_conn"] {
        let quiet = scope.last(&format!("{kind}_log_level"));
        if quiet.is_some_and(|level| matches!(level.arg(0), "info" | "notice")) {
            let status = scope.last(&format!("{kind}_status"));
            statuses.insert(status.and_then(|s| s.arg(0).parse().ok()).unwrap_or(503));
        }
    }
}

fn rewrites_status(scope: &Scope<'_>) -> bool {
    scope.all("error_page").iter().any(|page| {
        page.args.iter().any(|arg| arg.starts_with('='))
            && page.args.iter().any(|arg| matches!(arg.as_str(), "502" | "503" | "504"))
    })
}
