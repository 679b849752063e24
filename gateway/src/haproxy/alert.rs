//! Lines that are about no request: servers that go down, connections that cannot be made, configurations.

use super::check;
use why502_proto::v1::{Fault, Phase};

/// What such a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert<'a> {
    /// A server takes no more requests.
    Down {
        /// Its backend.
        backend: &'a str,
        /// Its name.
        server: &'a str,
        /// What its check felt.
        phase: Phase,
        /// What its check felt.
        fault: Fault,
    },
    /// A connection of a backend could not be made, for this.
    Connect {
        /// The backend.
        backend: &'a str,
        /// Why.
        fault: Fault,
    },
    /// The configuration was refused: the first line that says why.
    Refused,
    /// A worker ended by itself.
    WorkerEnded {
        /// Its pid.
        pid: u32,
        /// Its exit status, above 128 the signal and 128.
        status: u32,
    },
    /// No more descriptors or connections.
    Exhausted,
    /// Known, and nothing that is told.
    Nothing,
}

type Reader = for<'a> fn(&'a str) -> Option<Alert<'a>>;

/// An example of each, and what reads it.
pub const ALERTS: [(&str, Reader); 8] = [
    (
        "Server checked/s1 is DOWN, reason: Layer4 connection problem, info: \"Connection refused\", check duration: 0ms. \
         0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.",
        down,
    ),
    (
        "Server app/s1 is going DOWN for maintenance (DNS NX status). 0 active and 0 backup servers left.",
        maintenance,
    ),
    (
        "[WARNING]  (3903) : config : [/etc/haproxy/haproxy.cfg:120] : 'server dns/s1' : could not resolve address \
         'app.invalid', disabling server.",
        unresolved,
    ),
    ("backend checked has no server available!", no_server),
    (
        "Connect() failed for backend socket-full: can't connect to destination unix socket, check backlog size on the server.",
        connect,
    ),
    ("[ALERT]    (812) : config : Fatal errors found in configuration.", refused),
    ("[ALERT]    (812) : Current worker (813) exited with code 139 (Segmentation fault)", worker),
    (
        "Proxy shop reached process FD limit (maxsock=1024). Please check 'ulimit-n' and restart.",
        exhausted,
    ),
];

/// What a line says; `None`: it is none of these.
pub fn read(line: &str) -> Option<Alert<'_>> {
    ALERTS.iter().find_map(|(_, reader)| reader(line))
}

/// Without "[WARNING]  (3903) : ", which its own output has before them; `None`: there is none.
pub fn unlabelled(line: &str) -> Option<&str> {
    let rest = line.strip_prefix('[')?;
    let (level, rest) = rest.split_once(']')?;
    let known = matches!(level, "ALERT" | "WARNING" | "NOTICE" | "DIAG");
    // Before 2.4 a time stood before the pid.
    let (_, rest) = rest.split_once(" : ").filter(|_| known)?;
    Some(rest)
}

fn name(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.strip_prefix("Backup ").unwrap_or(text);
    let (name, rest) = text.strip_prefix("Server ")?.split_once(' ')?;
    let (backend, server) = name.split_once('/')?;
    Some((backend, server, rest))
}

fn down(line: &str) -> Option<Alert<'_>> {
    let (backend, server, rest) = name(line)?;
    let rest = rest.strip_prefix("is DOWN")?;
    let reason = rest.split_once("reason: ").map_or("", |(_, reason)| reason);
    let words = reason.split([',', '.']).next().unwrap_or("");
    let part = |name: &str| rest.split_once(name).map_or("", |(_, part)| part);
    let status = part("code: ").split(',').next().unwrap_or("");
    let info = part("info: \"").split('"').next().unwrap_or("");
    let (phase, fault) = check::felt(words, status, info);
    Some(Alert::Down { backend, server, phase, fault })
}

fn maintenance(line: &str) -> Option<Alert<'_>> {
    let (backend, server, rest) = name(line)?;
    let words = [
        "is going DOWN for maintenance",
        "is entering maintenance",
        "was DOWN and now enters maintenance",
    ];
    let rest = words.iter().find_map(|words| rest.strip_prefix(words))?;
    let (phase, fault) = match rest {
        _ if rest.contains("NX status") => (Phase::Resolve, Fault::DnsNotFound),
        _ if rest.contains("DNS timeout") => (Phase::Resolve, Fault::DnsTimeout),
        _ if rest.contains("DNS") => (Phase::Resolve, Fault::DnsFailed),
        _ => (Phase::Unspecified, Fault::Unspecified),
    };
    Some(Alert::Down { backend, server, phase, fault })
}

fn unresolved(line: &str) -> Option<Alert<'_>> {
    let text = unlabelled(line)?;
    let (_, rest) = text.split_once("'server ")?;
    let (name, rest) = rest.split_once('\'')?;
    let (backend, server) = name.split_once('/')?;
    let known = rest.contains("could not resolve address") && rest.contains("disabling server");
    let (phase, fault) = (Phase::Resolve, Fault::DnsFailed);
    known.then_some(Alert::Down { backend, server, phase, fault })
}

fn no_server(line: &str) -> Option<Alert<'_>> {
    let rest = line.strip_prefix("backend ").or_else(|| line.strip_prefix("proxy "))?;
    rest.ends_with(" has no server available!").then_some(Alert::Nothing)
}

fn connect(line: &str) -> Option<Alert<'_>> {
    let prefix = "Cannot bind to source address before connect() for backend ";
    if let Some(rest) = line.strip_prefix(prefix) {
        let backend = rest.split(". ").next().unwrap_or(rest).trim_end_matches('.');
        return Some(Alert::Connect { backend, fault: Fault::Eaddrnotavail });
    }
    let (backend, why) = line.strip_prefix("Connect() failed for backend ")?.split_once(": ")?;
    let fault = match why {
        _ if why.starts_with("no free ports") => Fault::Eaddrnotavail,
        _ if why.starts_with("local address already in use") => Fault::Eaddrnotavail,
        _ if why.contains("unix socket") => Fault::Eagain,
        _ => return None,
    };
    Some(Alert::Connect { backend, fault })
}

fn refused(line: &str) -> Option<Alert<'_>> {
    let text = line.strip_prefix("[ALERT]")?;
    let (_, text) = text.split_once(" : ")?;
    let config = text.starts_with("config : ") || text.starts_with("parsing [");
    config.then_some(Alert::Refused)
}

fn worker(line: &str) -> Option<Alert<'_>> {
    let text = unlabelled(line)?;
    let rest =
        text.strip_prefix("Current worker ").or_else(|| text.strip_prefix("Former worker "))?;
    // "#1 (813)" before 2.5.
    let (pid, rest) = rest[rest.find('(')? + 1..].split_once(')')?;
    let rest = rest.strip_prefix(" exited with code ")?;
    let status = rest.split(' ').next()?.parse().ok()?;
    Some(Alert::WorkerEnded { pid: pid.parse().ok()?, status })
}

fn exhausted(line: &str) -> Option<Alert<'_>> {
    let rest = line.strip_prefix("Proxy ")?;
    let words =
        [" reached process FD limit", " reached system FD limit", " reached system memory limit"];
    words.iter().any(|words| rest.contains(words)).then_some(Alert::Exhausted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_is_read_by_its_own_row_and_no_other() {
        for (at, (example, _)) in ALERTS.iter().enumerate() {
            let readers =
                ALERTS.iter().enumerate().filter(|(_, (_, reader))| reader(example).is_some());
            assert_eq!(readers.map(|(row, _)| row).collect::<Vec<_>>(), [at], "{example}");
        }
    }

    #[test]
    fn what_a_check_felt() {
        let line = "Backup Server checked7/b1 is DOWN, reason: Layer7 wrong status, code: 502, info: \"Bad Gateway\", check \
                    duration: 0ms. 9 active and 1 backup servers left.";
        let expected = Alert::Down {
            backend: "checked7",
            server: "b1",
            phase: Phase::Header,
            fault: Fault::Relayed,
        };
        assert_eq!(read(line), Some(expected));
        let timeout = read(
            "Server a/s8 is DOWN, reason: Layer4 timeout, check duration: 201ms. 0 active and 0 backup",
        );
        assert!(matches!(timeout, Some(Alert::Down { fault: Fault::Timeout, .. })));
        assert_eq!(
            read("Server a/s8 is UP, reason: Layer4 check passed, check duration: 0ms."),
            None
        );
        assert_eq!(read("Server"), None);
    }
}
