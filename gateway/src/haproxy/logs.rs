//! Where it logs: `log` of section 3.1 "global" and 4.2 of the manual, and why a log tells nothing of requests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::address::{self, Address};
use super::proxy::{Mode, Settings, Shape};
use crate::effective::Target;
use crate::files::below;

/// Levels, the least urgent last: the lines of requests are `info`.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
/// Where rsyslog of the distributions puts what HAProxy sends it.
const FILES: [&str; 2] = ["/var/log/haproxy.log", "/var/log/haproxy/haproxy.log"];

/// Where one `log` line leads; the flag: lines of requests go there too. `words` stand behind `log`.
pub fn target(words: &[String], root: &Path) -> Option<(Target, bool)> {
    let address = words.first()?;
    let mut rest = words[1..].iter().map(String::as_str);
    let mut plain = Vec::new();
    while let Some(word) = rest.next() {
        match word {
            "len" | "format" | "sample" | "profile" => drop(rest.next()),
            _ => plain.push(word),
        }
    }
    // Facility, then the least urgent level that passes.
    let requests = plain
        .get(1)
        .is_none_or(|level| LEVELS.iter().position(|l| l == level).is_none_or(|at| at >= 6));
    let by_daemon = |reason: String| {
        let there = FILES.iter().map(Path::new).find(|path| below(root, path).is_file());
        there.map_or_else(
            || Target::Elsewhere {
                reason,
                grant: "add `log /dev/log local0` to the section global".to_owned(),
            },
            |path| Target::File(PathBuf::from(path)),
        )
    };
    let target = match address.as_str() {
        "stdout" | "stderr" | "fd@1" | "fd@2" => Target::Stdio,
        _ if address.ends_with("/dev/log") => Target::Syslog(String::new()),
        _ if address.starts_with("ring@") => Target::Elsewhere {
            reason: format!("its lines go to {address}"),
            grant: "add `log /dev/log local0` to the section global".to_owned(),
        },
        _ => match address::parse(address) {
            Address::Inet { host, port, .. } => {
                let port = if port.is_empty() { "514" } else { port.as_str() };
                let to = address::joined(&host, port);
                let local =
                    matches!(host.as_str(), "localhost" | "::1") || host.starts_with("127.");
                let reason = format!("its lines go by network to {to}");
                if local {
                    by_daemon(reason)
                } else {
                    let grant = "add `log /dev/log local0` to the section global".to_owned();
                    Target::Elsewhere { reason, grant }
                }
            }
            Address::Unix(path) => by_daemon(format!("its lines go to the socket {path}")),
            Address::Other => by_daemon(format!("its lines go to {address}")),
        },
    };
    Some((target, requests))
}

/// What is known of all logs.
#[derive(Debug, Default)]
pub struct Logs {
    targets: BTreeSet<Target>,
    /// Texts of formats, in their order.
    pub formats: Vec<Rc<str>>,
    /// Frontends whose lines tell nothing, and why.
    dark: BTreeSet<(String, String)>,
}

impl Logs {
    /// Takes a frontend in; `global` are the words of `log` lines of section global.
    pub fn add(&mut self, name: &str, settings: &Settings, global: &[Rc<[String]>], root: &Path) {
        let tcp = settings.mode == Mode::Tcp;
        let format = match &settings.shape {
            Shape::Bare => None,
            // It falls back to this, with a warning.
            Shape::Http | Shape::Https | Shape::Clf if tcp => Some(super::format::TCP.into()),
            Shape::Written(text) => Some(Rc::clone(text)),
            Shape::Tcp => Some(super::format::TCP.into()),
            Shape::Http => Some(super::format::HTTP.into()),
            Shape::Https => Some(super::format::HTTPS.into()),
            Shape::Clf => Some(super::format::CLF.into()),
        };
        let tells = format.as_ref().is_some_and(|text| super::format::Format::new(text).tells());
        if let Some(text) = format.filter(|text| tells && !self.formats.contains(text)) {
            self.formats.push(text);
        }
        let mut requests = false;
        for words in &settings.logs {
            let own = std::slice::from_ref(words);
            let lines =
                if words.first().is_some_and(|word| word == "global") { global } else { own };
            for (target, passes) in lines.iter().filter_map(|words| target(words, root)) {
                if passes {
                    requests = true;
                    self.targets.insert(target);
                }
            }
        }
        let why = match (requests, tells) {
            (false, _) => ("does not log its requests", "add `log global` to it"),
            (true, false) => {
                ("does not log how requests ended", "add `option httplog` or `option tcplog` to it")
            }
            (true, true) => return,
        };
        self.dark.insert((format!("the frontend {name} {}", why.0), why.1.to_owned()));
    }

    /// Where to read; the first of them also has what HAProxy says of itself.
    pub fn targets(&self) -> Vec<Target> {
        let journal = |target: &&Target| matches!(target, Target::Syslog(_) | Target::Stdio);
        // A line that goes to two places is one line: the journal has it sooner than a daemon's file.
        let mut targets = match self.targets.iter().find(journal) {
            Some(target) => vec![target.clone()],
            None => {
                let files = self.targets.iter().filter(|target| matches!(target, Target::File(_)));
                let mut all: Vec<Target> = vec![Target::Stdio];
                all.extend(files.cloned());
                if all.len() == 1 {
                    all.extend(self.targets.iter().cloned());
                }
                all
            }
        };
        let reasons = self.dark.iter().take(1);
        targets.extend(reasons.map(|(reason, grant)| Target::Elsewhere {
            reason: match self.dark.len() {
                1 => reason.clone(),
                all => format!("{reason}, nor {} others", all - 1),
            },
            grant: grant.clone(),
        }));
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_lines_go() {
        let root = tempfile::tempdir().unwrap();
        let check = |words: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            target(&words, root.path()).unwrap()
        };
        assert_eq!(check("/dev/log local0"), (Target::Syslog(String::new()), true));
        assert_eq!(check("/dev/log local1 notice"), (Target::Syslog(String::new()), false));
        assert_eq!(check("stdout format raw local0 debug"), (Target::Stdio, true));
        assert!(matches!(check("10.0.0.9:514 local0").0, Target::Elsewhere { .. }));
        assert!(matches!(check("127.0.0.1 len 4096 local2").0, Target::Elsewhere { .. }));
        std::fs::create_dir_all(root.path().join("var/log")).unwrap();
        std::fs::write(root.path().join("var/log/haproxy.log"), "").unwrap();
        assert!(matches!(check("127.0.0.1 local2").0, Target::File(_)));
    }
}
