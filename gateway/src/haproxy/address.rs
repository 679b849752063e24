//! Addresses of `bind`, `server` and `log`: section 11 "Address formats" of the manual, `str2sa_range()` of src/tools.c.

use std::path::Path;

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host as written, without brackets; "" and "*" are every address. Port as written: "", "80", "+100", "80-90".
    Inet {
        /// An address or a name.
        host: String,
        /// As written.
        port: String,
        /// Written as `udp@` or `quic4@`: datagrams.
        datagrams: bool,
    },
    /// A socket in the file system.
    Unix(String),
    /// An abstract socket, a descriptor, another section: nothing that can be looked at.
    Other,
}

/// Takes an address apart.
pub fn parse(text: &str) -> Address {
    let (prefix, rest) = match text.split_once('@') {
        Some((prefix, rest)) if prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+') => {
            (prefix, rest)
        }
        _ => ("", text),
    };
    let transport = prefix.rsplit('+').next().unwrap_or("");
    match transport {
        "unix" | "uxst" | "uxdg" => return Address::Unix(rest.to_owned()),
        "" if rest.starts_with('/') => return Address::Unix(rest.to_owned()),
        "" | "ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6" | "mptcp" | "mptcp4" | "mptcp6" => {}
        "udp" | "udp4" | "udp6" | "quic4" | "quic6" => {}
        _ => return Address::Other,
    }
    let datagrams = transport.starts_with("udp") || transport.starts_with("quic");
    let (host, port) = match rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or("")),
        None => rest.rsplit_once(':').unwrap_or((rest, "")),
    };
    Address::Inet { host: host.to_owned(), port: port.to_owned(), datagrams }
}

/// Host and port as facts have them: IPv6 in brackets.
pub fn joined(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Whether it is an address and no name.
pub fn is_numeric(endpoint: &str) -> bool {
    endpoint.starts_with("unix:") || endpoint.parse::<std::net::SocketAddr>().is_ok()
}

/// What a `bind` listens on: "0.0.0.0:80", "[::]:443", "unix:/run/x.sock". `v6`: an IPv6 wildcard is meant.
pub fn listens(text: &str, unix_prefix: &str) -> Vec<String> {
    let one = |text: &str| match parse(text) {
        Address::Unix(path) => vec![format!("unix:{unix_prefix}{path}")],
        Address::Inet { host, port, datagrams: false } => {
            let wild = if text.starts_with("ipv6@") { "::" } else { "0.0.0.0" };
            let host = if host.is_empty() || host == "*" { wild } else { host.as_str() };
            ports(&port).into_iter().map(|port| joined(host, &port.to_string())).collect()
        }
        Address::Inet { .. } | Address::Other => Vec::new(),
    };
    text.split(',').flat_map(one).collect()
}

/// Ports of one `bind`: a range has some tens.
const PORTS_MAX: usize = 64;

fn ports(text: &str) -> Vec<u16> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.parse::<u16>(), to.parse::<u16>()) {
        (Ok(from), Ok(to)) => (from..=to).take(PORTS_MAX).collect(),
        _ => Vec::new(),
    }
}

/// The path of a socket to connect to, below what the process has as its root.
pub fn in_chroot(path: &str, chroot: Option<&str>) -> String {
    let below = |root: &str| Path::new(root).join(path.trim_start_matches('/'));
    chroot
        .filter(|root| *root != "/")
        .map_or_else(|| path.to_owned(), |root| below(root).to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let inet = |host: &str, port: &str| Address::Inet {
            host: host.to_owned(),
            port: port.to_owned(),
            datagrams: false,
        };
        assert_eq!(parse("10.0.0.1:80"), inet("10.0.0.1", "80"));
        assert_eq!(parse("app.internal"), inet("app.internal", ""));
        assert_eq!(parse("ipv6@::1:80"), inet("::1", "80"));
        assert_eq!(parse("[::1]:80"), inet("::1", "80"));
        assert_eq!(parse(":+100"), inet("", "+100"));
        assert_eq!(parse("/run/a.sock"), Address::Unix("/run/a.sock".to_owned()));
        assert_eq!(parse("unix@run/a.sock"), Address::Unix("run/a.sock".to_owned()));
        assert_eq!(parse("abns@x"), Address::Other);
    }

    #[test]
    fn binds() {
        assert_eq!(listens(":80,*:81", ""), ["0.0.0.0:80", "0.0.0.0:81"]);
        assert_eq!(listens(":::443", ""), ["[::]:443"]);
        assert_eq!(listens("ipv6@:443", ""), ["[::]:443"]);
        assert_eq!(listens("127.0.0.1:9000-9002", "").len(), 3);
        assert_eq!(listens("unix@/x.sock", "/run"), ["unix:/run/x.sock"]);
        assert!(listens("quic4@:443,fd@3", "").is_empty());
        assert_eq!(
            in_chroot("/run/a.sock", Some("/var/lib/haproxy")),
            "/var/lib/haproxy/run/a.sock"
        );
    }
}
