//! Which logs a configuration has, and who writes them.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::access_lines::AccessLines;
use super::access_log::Format;
use super::config::Config;
use super::error_lines::ErrorLines;
use super::error_log;
use crate::effective::{self, Target};
use crate::lines::Lines;

/// Complaints that are remembered: some seconds of a gateway whose every request fails.
const COMPLAINTS_MAX: usize = 8192;

/// `ErrorLog` where none is set: of a build of httpd.apache.org, below `ServerRoot`.
const ERROR_LOG: &str = "logs/error_log";

/// The format of `TransferLog` where none is set.
const COMMON: &str = "%h %l %u %t \"%r\" %>s %b";

/// What the readers of one log know.
#[derive(Debug)]
pub struct Log {
    /// The instance in facts.
    pub instance: String,
    /// All that is declared.
    pub config: Arc<Config>,
    /// Indexes of the hosts that write it.
    pub hosts: Vec<usize>,
    /// What the readers of one instance tell each other.
    pub shared: Arc<Shared>,
}

/// What the error logs said, for those who read what the clients were sent.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Errors>);

#[derive(Debug, Default)]
struct Errors {
    /// Clients, and the stamps of lines about them, as written but for the fraction.
    complaints: VecDeque<(String, String)>,
    seeing: bool,
}

impl Shared {
    /// An error log has a line about this client.
    pub fn complained(&self, client: &str, stamp: &str) {
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.complaints.len() >= COMPLAINTS_MAX {
            errors.complaints.pop_front();
        }
        errors.complaints.push_back((client.to_owned(), second(stamp)));
    }

    /// Whether the error log is read.
    pub fn errors_seen(&self, seeing: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seeing = seeing;
    }

    /// Whether an error log had a line about the client in one of these seconds; `None`: it is not
    /// read.
    pub fn complaint(&self, client: &str, seconds: &[String]) -> Option<bool> {
        let errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(named, second): &(String, String)| named == client && seconds.contains(second);
        errors.seeing.then(|| errors.complaints.iter().any(of))
    }
}

/// "Nov 27 21:58:41 2026" of "Fri Nov 27 21:58:41.689685 2026".
fn second(stamp: &str) -> String {
    let (time, year) = (stamp.get(4..19).unwrap_or(""), stamp.rsplit(' ').next().unwrap_or(""));
    format!("{time} {year}")
}

/// Logs of all hosts.
pub fn logs(config: &Arc<Config>, server_root: &Path, instance: &str) -> Vec<effective::Log> {
    let shared = Arc::new(Shared::default());
    let mut errors: BTreeMap<Target, Vec<usize>> = BTreeMap::new();
    let mut answers: BTreeMap<(Target, String), Vec<usize>> = BTreeMap::new();
    let main = config.hosts.first();
    for (index, host) in config.hosts.iter().enumerate() {
        let own = host.error_log.as_deref().or_else(|| main?.error_log.as_deref());
        if let Some(target) = target(own.unwrap_or(ERROR_LOG), server_root) {
            errors.entry(target).or_default().push(index);
        }
        let own = &host.access_logs;
        let logs =
            if own.is_empty() { main.map_or(&[][..], |main| &main.access_logs) } else { own };
        for (to, format) in logs {
            let format = match config.formats.get(format) {
                Some(format) => format.as_str(),
                None if format.contains('%') => format,
                None => COMMON,
            };
            // What is lost with an access log is not the failures: it needs no word where it
            // cannot be read.
            if let Some(target @ Target::File(_)) = target(to, server_root) {
                answers.entry((target, format.to_owned())).or_default().push(index);
            }
        }
    }
    let log = |hosts: Vec<usize>| {
        let (instance, config) = (instance.to_owned(), config.clone());
        Arc::new(Log { instance, config, hosts, shared: shared.clone() })
    };
    let mut logs = Vec::new();
    for (target, hosts) in errors {
        let lines: Box<dyn Lines> = Box::new(ErrorLines::new(log(hosts)));
        logs.push(effective::Log { target, lines });
    }
    for ((target, format), hosts) in answers {
        let lines: Box<dyn Lines> = Box::new(AccessLines::new(log(hosts), Format::new(&format)));
        logs.push(effective::Log { target, lines });
    }
    logs
}

/// Where `ErrorLog` and `CustomLog` write; `None`: nowhere.
fn target(text: &str, server_root: &Path) -> Option<Target> {
    if text == "/dev/null" {
        return None;
    }
    if let Some(rest) = text.strip_prefix("syslog") {
        // syslog:facility:tag
        let tag = rest.split(':').nth(2).unwrap_or("");
        return Some(Target::Syslog(tag.to_owned()));
    }
    let stdio = [
        "/dev/stderr",
        "/dev/stdout",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "/dev/fd/1",
        "/dev/fd/2",
    ];
    if stdio.contains(&text) {
        return Some(Target::Stdio);
    }
    if let Some(program) = text.strip_prefix('|') {
        let program = program.trim_start_matches(['|', '$']);
        let name = program.split_whitespace().next().unwrap_or("").rsplit('/').next();
        return Some(Target::Elsewhere {
            reason: format!("the log goes to the program {}", name.unwrap_or("")),
            grant: "add an ErrorLog that is a file, and rotate it with logrotate".to_owned(),
        });
    }
    Some(Target::File(server_root.join(text)))
}

/// Whether httpd wrote the line: an error log, or the format vhost_combined.
pub fn knows(line: &str) -> bool {
    if let Some(parsed) = error_log::parse(line) {
        return !parsed.module.is_empty() && line.contains("[pid ") || parsed.code == 526;
    }
    Format::new(super::access_lines::VHOST_COMBINED).read(line).is_some_and(|line| {
        line.host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    })
}

/// Reads lines of which no configuration is known.
pub fn without_configuration() -> Box<dyn Lines> {
    let shared = Arc::new(Shared::default());
    let log = Log { instance: String::new(), config: Arc::default(), hosts: Vec::new(), shared };
    Box::new(super::access_lines::Either::new(Arc::new(log)))
}
