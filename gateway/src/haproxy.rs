//! HAProxy 2.4 to 3.x: what its configuration declares, and what its logs and its stats socket say.
//!
//! Text to lines of words ([`load`]), to sections and what is in force in them ([`proxy`]), to servers
//! ([`server`]) and the routes that lead to them ([`route`]). Lines of logs are read by the format that wrote
//! them ([`format`](mod@format)) and mean what the termination state says ([`request`]).

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use self::format::Format;
use self::load::{Line, Loaded};
use self::logs::Logs;
use self::proxy::{Defaults, Mode, Section, Settings};
use self::server::{Around, Server};
use crate::effective::{ASK_EVERY, Admin, Effective, Log, Speech, Start};
use crate::kind::Kind;
use crate::place::Problem;

pub mod address;
pub mod alert;
pub mod answers;
pub mod arguments;
pub mod check;
pub mod condition;
mod declare;
pub mod format;
pub mod lines;
pub mod load;
pub mod logs;
pub mod prefix;
pub mod proxy;
pub mod request;
pub mod route;
pub mod server;
pub mod time;
pub mod words;

/// The program's name in facts.
pub const NAME: &str = "haproxy";

/// The file that the distributions' units start it with.
const USUAL: &str = "/etc/haproxy/haproxy.cfg";

/// This kind.
pub const KIND: Kind = Kind {
    name: NAME,
    programs: &[NAME],
    version_args: &["-v"],
    version,
    usual: &[USUAL],
    follows_files: false,
    read,
    answered: |effective, answers| answers::take(effective, answers),
    knows: lines::knows,
    lines: || Box::new(lines::Reader::plain()),
};

/// "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"; "HA-Proxy" before 2.4.
fn version(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("roxy version ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

/// Settings of section global that matter elsewhere.
#[derive(Debug, Default)]
struct Global {
    chroot: Option<String>,
    unix_prefix: String,
    logs: Vec<Rc<[String]>>,
    socket: Option<String>,
}

/// A frontend, backend or both.
struct Proxy<'a> {
    section: Section<'a>,
    settings: Settings,
    listens: Vec<String>,
    servers: Vec<Server>,
    own_page: bool,
}

impl Proxy<'_> {
    fn takes_requests(&self) -> bool {
        self.section.kind != "backend"
    }
}

fn read(start: &Start) -> Effective {
    let mut arguments = arguments::read(&start.argv, &start.directory);
    if arguments.files.is_empty() {
        arguments.files.push(USUAL.into());
    }
    let mut environment = start.environment.clone();
    let peer = arguments.peer.unwrap_or_else(|| start.hostname.clone());
    environment.insert("HAPROXY_LOCALPEER".to_owned(), peer);
    for name in ["HAPROXY_CFGFILES", "HAPROXY_CLI", "HAPROXY_MASTER_CLI"] {
        environment.entry(name.to_owned()).or_default();
    }
    for (name, text) in [("HTTP", format::HTTP), ("HTTPS", format::HTTPS), ("TCP", format::TCP)] {
        environment.insert(format!("HAPROXY_{name}_LOG_FMT"), text.to_owned());
    }
    let loaded = load::load(&start.root, &arguments.files, environment, &start.version);
    let instance = arguments.files[0].to_string_lossy().into_owned();
    effective(loaded, instance, start)
}

fn effective(loaded: Loaded, instance: String, start: &Start) -> Effective {
    let mut problems = loaded.problems;
    let mut global = Global::default();
    let mut defaults = Defaults::default();
    let mut proxies = Vec::new();
    for section in proxy::sections(&loaded.lines) {
        match section.kind {
            "global" => section.lines.iter().for_each(|line| take_global(line, &mut global)),
            "defaults" => defaults.add(&section),
            "frontend" | "backend" | "listen" => {
                let settings = defaults.settings(&section);
                proxies.push(Proxy {
                    section,
                    settings,
                    listens: Vec::new(),
                    servers: Vec::new(),
                    own_page: false,
                });
            }
            _ => {}
        }
    }
    for proxy in &mut proxies {
        take_binds(proxy, &global, &loaded.environment);
    }
    let routes = declare::routes(&proxies);
    let ports = declare::ports(&proxies, &routes);
    for proxy in &mut proxies {
        let around = Around {
            environment: &loaded.environment,
            chroot: global.chroot.as_deref(),
            port: ports.get(proxy.section.name).copied().flatten(),
        };
        take_servers(proxy, around, &mut problems);
    }
    let mut logs = Logs::default();
    for proxy in
        proxies.iter().filter(|proxy| proxy.takes_requests() && proxy.settings.mode != Mode::Other)
    {
        logs.add(proxy.section.name, &proxy.settings, &global.logs, &start.root);
    }
    let model = Arc::new(declare::model(&proxies, &routes, &instance));
    let formats: Arc<[Format]> = logs.formats.iter().map(|text| Format::new(text)).collect();
    let reader = lines::Reader::new(Arc::clone(&model), formats);
    Effective {
        endpoints: declare::declared(&proxies, &routes, &instance),
        listens: proxies.iter().flat_map(|proxy| proxy.listens.iter().cloned()).collect(),
        logs: logs
            .targets()
            .into_iter()
            .map(|target| Log { target, lines: Box::new(reader.clone()) })
            .collect(),
        admin: global.socket.map(|address| Admin {
            speech: Speech::Socket,
            address: words::expand(&address, &loaded.environment),
            questions: answers::QUESTIONS.map(str::to_owned).into(),
            every: ASK_EVERY,
        }),
        problems,
        watched: loaded.watched,
        readable: loaded.readable,
        instance,
        ..Effective::default()
    }
}

fn take_global(line: &Line, global: &mut Global) {
    match line.word(0) {
        "chroot" => global.chroot = Some(line.word(1).to_owned()),
        "unix-bind" if line.word(1) == "prefix" => line.word(2).clone_into(&mut global.unix_prefix),
        "log" => global.logs.push(line.behind(1).into()),
        "stats" if line.word(1) == "socket" && global.socket.is_none() => {
            global.socket = match address::parse(line.word(2)) {
                address::Address::Unix(path) => Some(format!("unix:{path}")),
                address::Address::Inet { host, port, .. } => {
                    let host = if host.is_empty() || host == "*" { "127.0.0.1" } else { &host };
                    Some(address::joined(host, &port))
                }
                address::Address::Other => None,
            };
        }
        _ => {}
    }
}

/// What it listens on: `bind`, and addresses behind its name.
fn take_binds(proxy: &mut Proxy<'_>, global: &Global, environment: &words::Environment) {
    if !proxy.takes_requests() {
        return;
    }
    let head = proxy.section.head.word(2);
    let own = Some(head).filter(|word| !word.is_empty() && *word != "from");
    let binds = proxy.section.lines.iter().filter(|line| line.word(0) == "bind");
    for written in own.into_iter().chain(binds.map(|line| line.word(1))) {
        let address = words::expand(written, environment);
        proxy.listens.extend(address::listens(&address, &global.unix_prefix));
    }
}

fn take_servers(proxy: &mut Proxy<'_>, around: Around<'_>, problems: &mut BTreeSet<Problem>) {
    for line in proxy.section.lines {
        match line.word(0) {
            "server" | "server-template" if proxy.settings.mode != Mode::Other => {
                match server::read(line, &proxy.settings.server, around) {
                    Ok(servers) => proxy.servers.extend(servers),
                    Err(text) => drop(problems.insert(Problem { place: line.place.clone(), text })),
                }
            }
            "errorfile" | "errorloc" | "errorloc302" | "errorloc303" if line.word(1) == "503" => {
                proxy.own_page = true;
            }
            _ => {}
        }
    }
}
