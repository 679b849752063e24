//! Addresses as facts write them: "0.0.0.0:8080", "[::]:8080", "unix:/run/app.sock", "app-1:8080".

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address<'a> {
    /// IP address and port; an IPv4 address in IPv6 clothes is IPv4.
    Tcp(SocketAddr),
    /// With its "unix:".
    Unix(&'a str),
    /// A name that nobody resolved, or an upstream group; and the port, 0 where none is said.
    Name(&'a str, u16),
}

impl<'a> Address<'a> {
    /// `None`: there is nothing to parse.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        if text.starts_with("unix:") {
            return Some(Self::Unix(text));
        }
        if let Some(socket) = tcp(text) {
            return Some(Self::Tcp(socket));
        }
        match text.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => {
                Some(Self::Name(name, port.parse().unwrap_or(0)))
            }
            _ => Some(Self::Name(text, 0)),
        }
    }

    /// Whether a socket that listens on `self` takes connections to `wanted`. See ipv6(7) for `v6_only`.
    pub fn covers(&self, wanted: &Address<'_>, v6_only: bool) -> bool {
        match (self, wanted) {
            (Self::Tcp(own), Address::Tcp(wanted)) => covers(*own, v6_only, *wanted),
            (own, wanted) => own == wanted,
        }
    }

    pub(crate) fn tcp(self) -> Option<SocketAddr> {
        if let Self::Tcp(socket) = self { Some(socket) } else { None }
    }

    /// The gateway reaches it without leaving its host.
    pub(crate) fn is_local(self) -> bool {
        match self {
            Self::Tcp(socket) => socket.ip().is_loopback() || socket.ip().is_unspecified(),
            Self::Unix(_) => true,
            Self::Name(name, _) => name == "localhost",
        }
    }

    /// ":8080", or the path.
    pub(crate) fn short(self) -> String {
        match self {
            Self::Tcp(socket) => format!(":{}", socket.port()),
            Self::Unix(path) => path.strip_prefix("unix:").unwrap_or(path).to_owned(),
            Self::Name(name, 0) => name.to_owned(),
            Self::Name(_, port) => format!(":{port}"),
        }
    }

    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Tcp(socket) => socket.port(),
            Self::Unix(_) => 0,
            Self::Name(_, port) => port,
        }
    }
}

/// "10.0.0.7:8080" or "[::1]:80"; an IPv4 address in IPv6 clothes is IPv4.
pub(crate) fn tcp(text: &str) -> Option<SocketAddr> {
    let socket: SocketAddr = text.parse().ok()?;
    Some(SocketAddr::new(socket.ip().to_canonical(), socket.port()))
}

/// A socket listening on `listener` takes connections to `dialled`.
pub(crate) fn covers(listener: SocketAddr, v6_only: bool, dialled: SocketAddr) -> bool {
    if listener.port() != dialled.port() {
        return false;
    }
    // Connecting to 0.0.0.0 connects to 127.0.0.1 (ip(7)).
    let dialled = match dialled.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => dialled.is_ipv4(),
        IpAddr::V6(ip) if ip.is_unspecified() => dialled.is_ipv6() || !v6_only,
        ip => ip == dialled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listener: &str, dialled: &str, expected: bool) {
        let (listener, dialled) = (tcp(listener).unwrap(), tcp(dialled).unwrap());
        assert_eq!(covers(listener, false, dialled), expected, "{listener} {dialled}");
    }

    #[test]
    fn a_wildcard_takes_every_address_of_its_family() {
        check("0.0.0.0:80", "10.0.0.7:80", true);
        check("0.0.0.0:80", "[::1]:80", false);
        check("[::]:80", "[::1]:80", true);
        check("[::]:80", "10.0.0.7:80", true);
        check("0.0.0.0:80", "10.0.0.7:81", false);
        check("127.0.0.1:80", "10.0.0.7:80", false);
        check("127.0.0.1:80", "0.0.0.0:80", true);
        check("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true);
    }

    #[test]
    fn v6_only_leaves_ipv4_alone() {
        let any = tcp("[::]:80").unwrap();
        assert!(!covers(any, true, tcp("10.0.0.7:80").unwrap()));
        assert!(covers(any, true, tcp("[fd00::1]:80").unwrap()));
    }

    #[test]
    fn addresses_are_told_apart() {
        assert_eq!(Address::parse("unix:/run/a.sock"), Some(Address::Unix("unix:/run/a.sock")));
        assert_eq!(Address::parse("app-1:8080"), Some(Address::Name("app-1", 8080)));
        assert_eq!(Address::parse("backend"), Some(Address::Name("backend", 0)));
        assert_eq!(Address::parse(""), None);
    }
}
