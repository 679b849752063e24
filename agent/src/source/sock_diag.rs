//! Listening sockets by sock_diag(7): TCP of both families with their accept queues, unix sockets with their
//! paths, and the multicast that tells of destroyed TCP sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::net::netlink::SOCK_DIAG;

use super::netlink::{self, Received, Socket, attributes, messages, u16_at, u32_at};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `1 << TCP_LISTEN`, the same number for unix sockets.
const LISTENING: u32 = 1 << 10;
const AF_UNIX: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// `TCP_TIME_WAIT`
const TIME_WAIT: u8 = 6;
/// `sizeof(struct inet_diag_msg)`
const INET_MSG: usize = 72;
/// `INET_DIAG_SKV6ONLY`
const SKV6ONLY: u16 = 11;
/// `sizeof(struct unix_diag_msg)`
const UNIX_MSG: usize = 16;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID`
const UNIX_SHOW: u32 = 0x1 | 0x2 | 0x10 | 0x40;
/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY`, as a mask.
const DESTROYED: u32 = 1 << 0 | 1 << 2;
/// Datagrams of a dump are at most 32 KiB.
const BUFFER_BYTES: usize = 32 << 10;
/// Destroyed sockets looked at for one wake-up; more wait for the next.
const DESTROYED_MAX: usize = 256;

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A path, as it was bound: relative ones stay so.
    Path(PathBuf),
    /// A name in the abstract namespace, without the leading NUL.
    Abstract(Vec<u8>),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => {
                write!(f, "unix:@{}", String::from_utf8_lossy(name).replace('\0', "@"))
            }
        }
    }
}

/// A listening socket at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socketed {
    pub(super) address: Address,
    /// Inode of the socket itself.
    pub(super) inode: u64,
    pub(super) uid: u32,
    /// Connections that wait.
    pub(super) depth: u32,
    pub(super) limit: u32,
    pub(super) v6_only: bool,
    /// Inode of the file at the path (low 32 bits), unix only.
    pub(super) file_inode: Option<u32>,
}

/// Reads a `struct inet_diag_msg` with its attributes.
fn parse_inet(payload: &[u8]) -> Option<Socketed> {
    let attribute_bytes = payload.get(INET_MSG..)?;
    let port = u16::from_be_bytes(payload.get(4..6)?.try_into().ok()?);
    let ip = ip(*payload.first()?, payload.get(8..24)?)?;
    let v6_only = attributes(attribute_bytes)
        .any(|(kind, value)| kind == SKV6ONLY && value.first().is_some_and(|&on| on != 0));
    Some(Socketed {
        address: Address::Tcp(SocketAddr::new(ip, port)),
        inode: u32_at(payload, 68)?.into(),
        uid: u32_at(payload, 64)?,
        depth: u32_at(payload, 56)?,
        limit: u32_at(payload, 60)?,
        v6_only,
        file_inode: None,
    })
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => {
            let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        AF_INET6 => {
            let octets: [u8; 16] = bytes.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Reads a `struct unix_diag_msg` with its attributes. Sockets without a name cannot be reached and are none.
fn parse_unix(payload: &[u8]) -> Option<Socketed> {
    let inode = u32_at(payload, 4)?.into();
    let mut address = None;
    let (mut depth, mut limit, mut uid, mut file_inode) = (0, 0, 0, None);
    for (kind, value) in attributes(payload.get(UNIX_MSG..)?) {
        match kind {
            0 => address = unix_name(value),
            1 => file_inode = u32_at(value, 0),
            4 => (depth, limit) = (u32_at(value, 0)?, u32_at(value, 4)?),
            7 => uid = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Socketed { address: address?, inode, uid, depth, limit, v6_only: false, file_inode })
}

fn unix_name(bytes: &[u8]) -> Option<Address> {
    match bytes {
        [] => None,
        [0, name @ ..] => Some(Address::Abstract(name.to_vec())),
        path => {
            let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
            let path = std::ffi::OsString::from_vec(path[..end].to_vec());
            Some(Address::Path(path.into()))
        }
    }
}

/// Whether a destroyed socket may have been a listener: it had a port of its own and no peer.
fn may_have_listened(payload: &[u8]) -> bool {
    u16_at(payload, 4).is_some_and(|port| port != 0) && u16_at(payload, 6) == Some(0)
}

/// Asks for listening sockets of the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct SockDiag {
    socket: Socket,
}

impl SockDiag {
    /// Any user may ask.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Some(SOCK_DIAG), 0)? })
    }

    /// All listening sockets with an address.
    pub(super) fn listeners(&self) -> io::Result<Vec<Socketed>> {
        // One buffer for as long as a look takes: there may be a socket for each network namespace.
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut found = Vec::new();
        self.tcp(&mut buffer, &mut found)?;
        self.unix(&mut buffer, &mut found)?;
        Ok(found)
    }

    /// Where TCP sockets listen, and whether only for IPv6.
    pub(super) fn tcp_listeners(&self) -> io::Result<Vec<(SocketAddr, bool)>> {
        let mut found = Vec::new();
        self.tcp(&mut vec![0; BUFFER_BYTES], &mut found)?;
        let tcp = |socket: Socketed| match socket.address {
            Address::Tcp(address) => Some((address, socket.v6_only)),
            Address::Path(_) | Address::Abstract(_) => None,
        };
        Ok(found.into_iter().filter_map(tcp).collect())
    }

    /// How many sockets have this peer, in any state but LISTEN, and how many of them are in TIME_WAIT.
    pub(super) fn towards(&self, peer: SocketAddr) -> io::Result<(u32, u32)> {
        let family = if peer.is_ipv4() { AF_INET } else { AF_INET6 };
        let mut payload = vec![family, IPPROTO_TCP, 0, 0];
        payload.extend((!LISTENING).to_ne_bytes());
        // struct inet_diag_sockid: any; a dump does not filter by it.
        payload.extend([0; 48]);
        let (mut all, mut waiting) = (0, 0);
        let request = netlink::request(BY_FAMILY, netlink::FLAGS_DUMP, &payload);
        self.socket.dump(&request, &mut vec![0; BUFFER_BYTES], |message| {
            let port = message.payload.get(6..8).map(|port| u16::from_be_bytes([port[0], port[1]]));
            let address = message.payload.get(24..40).and_then(|bytes| ip(family, bytes));
            if (port, address) == (Some(peer.port()), Some(peer.ip())) {
                all += 1;
                waiting += u32::from(message.payload.get(1) == Some(&TIME_WAIT));
            }
        })?;
        Ok((all, waiting))
    }

    /// All listening TCP sockets, both families.
    fn tcp(&self, buffer: &mut [u8], into: &mut Vec<Socketed>) -> io::Result<()> {
        for family in [AF_INET, AF_INET6] {
            let mut payload = vec![family, IPPROTO_TCP, 0, 0];
            payload.extend(LISTENING.to_ne_bytes());
            // struct inet_diag_sockid: any.
            payload.extend([0; 48]);
            let request = netlink::request(BY_FAMILY, netlink::FLAGS_DUMP, &payload);
            let result = self.socket.dump(&request, buffer, |message| {
                into.extend(parse_inet(message.payload));
            });
            match result {
                // A kernel without IPv6 has no such sockets either.
                Err(error) if family == AF_INET6 && error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// All listening unix sockets that have a name.
    fn unix(&self, buffer: &mut [u8], into: &mut Vec<Socketed>) -> io::Result<()> {
        let mut payload = vec![AF_UNIX, 0, 0, 0];
        payload.extend(LISTENING.to_ne_bytes());
        payload.extend(0u32.to_ne_bytes());
        payload.extend(UNIX_SHOW.to_ne_bytes());
        payload.extend([0; 8]);
        let request = netlink::request(BY_FAMILY, netlink::FLAGS_DUMP, &payload);
        self.socket.dump(&request, buffer, |message| {
            into.extend(parse_unix(message.payload));
        })
    }
}

/// The multicast of destroyed TCP sockets. Needs CAP_NET_ADMIN.
#[derive(Debug)]
pub(super) struct Destroyed {
    socket: Socket,
}

impl Destroyed {
    /// Joins the groups of both families.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Some(SOCK_DIAG), DESTROYED)? })
    }

    /// Takes what waits. Tells whether a listener may be among it (an overrun may hide one), and how many messages
    /// there were.
    pub(super) fn drain(&self) -> io::Result<(bool, usize)> {
        let mut buffer = [0u8; 2048];
        let mut listener = false;
        for count in 0..DESTROYED_MAX {
            match self.socket.receive(&mut buffer)? {
                Received::Empty => return Ok((listener, count)),
                Received::Overrun => listener = true,
                Received::Datagram(length) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    listener |= messages(datagram).any(|m| may_have_listened(m.payload));
                }
            }
        }
        Ok((listener, DESTROYED_MAX))
    }
}

impl AsFd for Destroyed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet(family: u8, ip: &[u8], port: u16, queue: (u32, u32)) -> Vec<u8> {
        let mut bytes = vec![family, 10, 0, 0];
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(ip);
        bytes.resize(56, 0);
        for word in [queue.0, queue.1, 33, 0x1234_5678] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn tcp_listeners_of_both_families() {
        let four = parse_inet(&inet(AF_INET, &[10, 0, 0, 7], 8080, (2, 1))).unwrap();
        assert_eq!(four.address.to_string(), "10.0.0.7:8080");
        assert_eq!((four.depth, four.limit, four.uid, four.inode), (2, 1, 33, 0x1234_5678));
        let mut six = inet(AF_INET6, &[0; 16], 80, (0, 511));
        six.extend([5, 0, 11, 0, 1, 0, 0, 0]);
        let six = parse_inet(&six).unwrap();
        assert_eq!((six.address.to_string().as_str(), six.v6_only), ("[::]:80", true));
        assert_eq!(parse_inet(&inet(AF_INET, &[0; 4], 1, (0, 0))[..71]), None);
        assert_eq!(parse_inet(&inet(99, &[0; 4], 1, (0, 0))), None);
    }

    #[test]
    fn unix_listeners_by_path_and_abstract() {
        let message = |name: &[u8]| {
            let mut bytes = vec![AF_UNIX, 1, 10, 0];
            bytes.extend(77u32.to_ne_bytes());
            bytes.extend([0; 8]);
            let mut attribute = |kind: u16, value: &[u8]| {
                let length = u16::try_from(4 + value.len()).unwrap();
                bytes.extend(length.to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(value);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            };
            attribute(0, name);
            attribute(1, &[9, 0, 0, 0, 3, 0, 0, 0]);
            attribute(4, &[1, 0, 0, 0, 128, 0, 0, 0]);
            attribute(7, &33u32.to_ne_bytes());
            bytes
        };
        let socket = parse_unix(&message(b"/run/app.sock\0")).unwrap();
        assert_eq!(socket.address.to_string(), "unix:/run/app.sock");
        assert_eq!((socket.depth, socket.limit, socket.uid), (1, 128, 33));
        assert_eq!((socket.inode, socket.file_inode), (77, Some(9)));
        let socket = parse_unix(&message(b"\0app")).unwrap();
        assert_eq!(socket.address.to_string(), "unix:@app");
        assert_eq!(parse_unix(&message(b"")), None, "no name");
    }

    #[test]
    fn only_a_socket_without_a_peer_may_have_listened() {
        let mut message = inet(AF_INET, &[0; 4], 8080, (0, 0));
        assert!(may_have_listened(&message));
        message[6] = 1;
        assert!(!may_have_listened(&message), "an accepted connection");
        assert!(!may_have_listened(&inet(AF_INET, &[0; 4], 0, (0, 0))), "never bound");
        assert!(!may_have_listened(&[]));
    }
}
