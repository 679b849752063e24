//! Sections and what is in force in them: sections 4 "Proxies" and 4.1 "Proxy keywords matrix" of the manual.
//!
//! A proxy takes what the `defaults` before it say, or those that `from` names; its own lines come after.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::load::Line;
use super::server::Options;
use super::time;

/// What requests are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Bytes.
    #[default]
    Tcp,
    /// HTTP.
    Http,
    /// Logs, agents: nothing that is told here.
    Other,
}

/// What a section says of its log lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// "Connect from ...": nothing is told about the upstream.
    #[default]
    Bare,
    /// `option tcplog`
    Tcp,
    /// `option httplog`
    Http,
    /// `option httplog clf`
    Clf,
    /// `option httpslog`
    Https,
    /// `log-format`
    Written(Rc<str>),
}

/// What is in force in a proxy, beside its servers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `mode`
    pub mode: Mode,
    /// `timeout connect`, milliseconds; 0: none.
    pub connect_ms: u64,
    /// `timeout server`, milliseconds; 0: none.
    pub server_ms: u64,
    /// `http-reuse` is `aggressive` or `always`: a request that was not sent before may meet a connection that closes.
    pub reuses: bool,
    /// Each request has a connection of its own.
    pub closes: bool,
    /// Targets of `log`, words behind it.
    pub logs: Vec<Rc<[String]>>,
    /// What lines look like.
    pub shape: Shape,
    /// `default-server`
    pub server: Options,
    /// `default_backend`
    pub backend: String,
    /// Where responses are refused or their status is changed: such a status is no sign of the server.
    pub meddles: bool,
    /// `use-fcgi-app`
    pub fcgi: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Tcp,
            connect_ms: 0,
            server_ms: 0,
            reuses: false,
            closes: false,
            logs: Vec::new(),
            shape: Shape::Bare,
            server: Options::new(),
            backend: String::new(),
            meddles: false,
            fcgi: false,
        }
    }
}

impl Settings {
    /// Takes one line of a section in.
    pub fn take(&mut self, line: &Line) {
        let (name, value) = (line.word(0), line.word(1));
        match name {
            "mode" => {
                self.mode = match value {
                    "http" => Mode::Http,
                    "tcp" => Mode::Tcp,
                    _ => Mode::Other,
                }
            }
            "timeout" => self.timeout(value, line.word(2)),
            "contimeout" => self.timeout("connect", value),
            "srvtimeout" => self.timeout("server", value),
            "http-reuse" => self.reuses = matches!(value, "always" | "aggressive"),
            "log" => self.logs.push(line.behind(1).into()),
            "no" if value == "log" => self.logs.clear(),
            "log-format" => self.shape = Shape::Written(value.into()),
            "option" => self.option(value, line.word(2), true),
            "no" if value == "option" => self.option(line.word(2), "", false),
            "default-server" => self.server.take(line.behind(1)),
            "default_backend" => value.clone_into(&mut self.backend),
            "use-fcgi-app" => self.fcgi = true,
            "http-response" | "http-after-response" => {
                self.meddles |= meddles(value);
            }
            "rspdeny" | "rspideny" => self.meddles = true,
            _ => {}
        }
    }

    fn timeout(&mut self, which: &str, value: &str) {
        let Some(value) = time::milliseconds(value) else { return };
        match which {
            "connect" => self.connect_ms = value,
            "server" => self.server_ms = value,
            _ => {}
        }
    }

    fn option(&mut self, name: &str, value: &str, on: bool) {
        match name {
            "httplog" if value == "clf" => self.shape = Shape::Clf,
            "httplog" => self.shape = Shape::Http,
            "httpslog" => self.shape = Shape::Https,
            "tcplog" => self.shape = Shape::Tcp,
            "httpclose" | "http-server-close" | "forceclose" => self.closes = on,
            _ => {}
        }
    }
}

/// A section.
#[derive(Debug)]
pub struct Section<'a> {
    /// "frontend", "global", ...
    pub kind: &'a str,
    /// Its name, "" where it has none.
    pub name: &'a str,
    /// Its first line.
    pub head: &'a Line,
    /// The lines behind it.
    pub lines: &'a [Line],
}

/// Words that begin a section.
const SECTIONS: [&str; 19] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "ring",
    "cache",
    "program",
    "http-errors",
    "fcgi-app",
    "log-forward",
    "crt-store",
    "traces",
    "log-profile",
    "acme",
];

/// Words that begin lines of proxies and of section global which mean something here.
const READ: [&str; 28] = [
    "acl",
    "bind",
    "chroot",
    "contimeout",
    "default-server",
    "default_backend",
    "errorfile",
    "errorloc",
    "errorloc302",
    "errorloc303",
    "http-after-response",
    "http-response",
    "http-reuse",
    "log",
    "log-format",
    "mode",
    "no",
    "option",
    "rspdeny",
    "rspideny",
    "server",
    "server-template",
    "srvtimeout",
    "stats",
    "timeout",
    "unix-bind",
    "use-fcgi-app",
    "use_backend",
];

/// Whether a line with these words is looked at again: a large configuration has ten times as many that are not.
pub fn matters(words: &[String]) -> bool {
    let (first, second) = (words[0].as_str(), words.get(1).map_or("", String::as_str));
    match first {
        "http-response" | "http-after-response" => meddles(second),
        "option" | "no" => second.contains("log") || second.contains("close") || second == "option",
        _ => READ.contains(&first) || SECTIONS.contains(&first),
    }
}

/// Whether a rule on responses may make a status that is not the server's.
fn meddles(action: &str) -> bool {
    matches!(action, "deny" | "set-status" | "return")
}

/// Cuts lines into sections. Lines before the first are given to nobody.
pub fn sections(lines: &[Line]) -> Vec<Section<'_>> {
    let begins = |line: &Line| SECTIONS.contains(&line.word(0)) && !is_directive(line);
    let heads: Vec<usize> =
        lines.iter().enumerate().filter(|(_, l)| begins(l)).map(|(at, _)| at).collect();
    let ends = heads.iter().skip(1).copied().chain([lines.len()]);
    heads
        .iter()
        .zip(ends)
        .map(|(&begin, end)| {
            let head = &lines[begin];
            Section { kind: head.word(0), name: head.word(1), head, lines: &lines[begin + 1..end] }
        })
        .collect()
}

/// `cache` and `peers` are words of other sections' lines only behind others, so the first word decides; a `log global`
/// begins with `log`.
fn is_directive(line: &Line) -> bool {
    line.word(0) == "cache" && line.words.len() > 2
}

/// `defaults` sections, by name, and the last.
#[derive(Debug, Default)]
pub struct Defaults<'a> {
    named: BTreeMap<&'a str, Rc<Settings>>,
    last: Rc<Settings>,
}

impl<'a> Defaults<'a> {
    /// Takes a `defaults` section in.
    pub fn add(&mut self, section: &Section<'a>) {
        let mut settings = match from(section.head) {
            Some(name) => (*self.get(Some(name))).clone(),
            None => Settings::default(),
        };
        section.lines.iter().for_each(|line| settings.take(line));
        self.last = Rc::new(settings);
        if !section.name.is_empty() && section.name != "from" {
            self.named.insert(section.name, Rc::clone(&self.last));
        }
    }

    /// Those with this name, or the last.
    fn get(&self, name: Option<&str>) -> Rc<Settings> {
        let named = name.and_then(|name| self.named.get(name));
        Rc::clone(named.unwrap_or(&self.last))
    }

    /// What is in force in a proxy.
    pub fn settings(&self, section: &Section<'_>) -> Settings {
        let mut settings = (*self.get(from(section.head))).clone();
        let inherited = std::mem::take(&mut settings.logs);
        section.lines.iter().for_each(|line| settings.take(line));
        // Own `log` lines stand in for those of `defaults`.
        let none =
            section.lines.iter().any(|line| line.words.starts_with(&["no".into(), "log".into()]));
        if settings.logs.is_empty() && !none {
            settings.logs = inherited;
        }
        settings
    }
}

fn from(head: &Line) -> Option<&str> {
    let at = head.words.iter().position(|word| word == "from")?;
    (at > 0).then(|| head.word(at + 1))
}
