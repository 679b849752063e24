//! Addresses of endpoints and listeners, as the facts write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// "10.0.0.7:8080", "[::1]:80", "unix:/run/app.sock".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// IP address and port.
    Tcp(IpAddr, u16),
    /// Path of a socket, or "@name".
    Unix(String),
}

/// How a listener stands to an address that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// It takes the connection.
    Covers,
    /// Same port, but only on loopback.
    LoopbackOnly,
    /// Same port, other family.
    OtherFamily,
    /// Same port and family, another address of the host.
    OtherInterface,
    /// Another port or path.
    Elsewhere,
}

impl Address {
    /// `None` for names that are no addresses.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Some(Self::Unix(path.to_owned()));
        }
        let address: SocketAddr = text.parse().ok()?;
        Some(Self::Tcp(address.ip(), address.port()))
    }

    /// Its port.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(_, port) => Some(*port),
            Self::Unix(_) => None,
        }
    }

    /// How a listener on `self` stands to a connection to `wanted`. See ipv6(7) for `v6_only`.
    pub fn coverage(&self, wanted: &Self, v6_only: bool) -> Coverage {
        let (Self::Tcp(own, own_port), Self::Tcp(ip, port)) = (self, wanted) else {
            return if self == wanted { Coverage::Covers } else { Coverage::Elsewhere };
        };
        if own_port != port {
            return Coverage::Elsewhere;
        }
        let (own, ip) = (own.to_canonical(), ip.to_canonical());
        if own == ip {
            return Coverage::Covers;
        }
        let dual = own == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !v6_only;
        if dual || (own == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && ip.is_ipv4()) {
            return Coverage::Covers;
        }
        if own == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && ip.is_ipv6() {
            return Coverage::Covers;
        }
        if own.is_loopback() && !ip.is_loopback() {
            return Coverage::LoopbackOnly;
        }
        if own.is_ipv4() != ip.is_ipv4() {
            return Coverage::OtherFamily;
        }
        // All of 127.0.0.0/8 is the host, but a listener takes only its own address.
        Coverage::OtherInterface
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listener: &str, wanted: &str, expected: Coverage) {
        let (listener, wanted) =
            (Address::parse(listener).unwrap(), Address::parse(wanted).unwrap());
        assert_eq!(listener.coverage(&wanted, false), expected);
    }

    #[test]
    fn wildcards_loopback_and_families() {
        check("0.0.0.0:80", "10.0.0.7:80", Coverage::Covers);
        check("[::]:80", "10.0.0.7:80", Coverage::Covers);
        check("[::ffff:10.0.0.7]:80", "10.0.0.7:80", Coverage::Covers);
        check("127.0.0.1:80", "10.0.0.7:80", Coverage::LoopbackOnly);
        check("[::1]:80", "10.0.0.7:80", Coverage::LoopbackOnly);
        check("0.0.0.0:80", "[::1]:80", Coverage::OtherFamily);
        check("127.0.0.1:80", "[::1]:80", Coverage::OtherFamily);
        check("10.0.0.8:80", "10.0.0.7:80", Coverage::OtherInterface);
        check("0.0.0.0:81", "10.0.0.7:80", Coverage::Elsewhere);
        check("unix:/run/a", "unix:/run/a", Coverage::Covers);
        check("unix:/run/a", "unix:/run/b", Coverage::Elsewhere);
        let any6 = Address::parse("[::]:80").unwrap();
        let wanted = Address::parse("10.0.0.7:80").unwrap();
        assert_eq!(any6.coverage(&wanted, true), Coverage::OtherFamily);
        assert_eq!(Address::parse("app-1:80"), None);
    }
}
