//! Routes, neighbours, links and addresses by rtnetlink(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use why502_proto::v1::RouteOutcome;

use crate::source::netlink::{self, Message, Received, Socket, attributes, u16_at, u32_at};

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
pub(super) const NEW_NEIGHBOR: u16 = 28;
const GET_NEIGHBOR: u16 = 30;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`
pub(super) const LINKS: u32 = 0x1 | 0x10 | 0x100;
/// `RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_ROUTE`
pub(super) const ROUTES: u32 = 0x4 | 0x40 | 0x80 | 0x400;
/// `NUD_FAILED`, and the states in which the neighbour is known to answer.
const FAILED: u16 = 0x20;
const ANSWERS: u16 = 0x02 | 0x40 | 0x80;
const BUFFER_BYTES: usize = 32 << 10;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) carrier: bool,
    pub(super) loopback: bool,
}

/// How packets to an address leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) outcome: RouteOutcome,
    pub(super) interface: u32,
    pub(super) via: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    /// The address is this host's own.
    pub(super) local: bool,
}

/// A neighbour at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbor {
    pub(super) address: IpAddr,
    pub(super) interface: u32,
    /// `None`: it is being asked, or was not asked for a while.
    pub(super) failed: Option<bool>,
    pub(super) lladdr: String,
}

/// Asks the network namespace that it was opened in. Any user may.
#[derive(Debug)]
pub(super) struct Rtnetlink {
    socket: Socket,
}

impl Rtnetlink {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(None, 0)? })
    }

    pub(super) fn links(&self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.dump(GET_LINK, &[0; 16], |message| links.extend(link(message.payload)))?;
        Ok(links)
    }

    /// Each address with the index of its interface.
    pub(super) fn addresses(&self) -> io::Result<Vec<(IpAddr, u32)>> {
        let mut addresses = Vec::new();
        self.dump(GET_ADDRESS, &[0; 8], |message| addresses.extend(address(message.payload)))?;
        Ok(addresses)
    }

    pub(super) fn neighbors(&self) -> io::Result<Vec<Neighbor>> {
        let mut neighbors = Vec::new();
        self.dump(GET_NEIGHBOR, &[0; 12], |message| neighbors.extend(neighbor(message.payload)))?;
        Ok(neighbors)
    }

    /// The way to an address, as connect(2) would take it.
    pub(super) fn way(&self, to: IpAddr) -> io::Result<Way> {
        let (family, octets) = match to {
            IpAddr::V4(to) => (AF_INET, to.octets().to_vec()),
            IpAddr::V6(to) => (AF_INET6, to.octets().to_vec()),
        };
        let bits = u8::try_from(octets.len() * 8).unwrap_or(0);
        // struct rtmsg: family, length of the destination, and nothing else; then RTA_DST.
        let mut payload = vec![family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        payload.extend(u16::try_from(4 + octets.len()).unwrap_or(0).to_ne_bytes());
        payload.extend(1u16.to_ne_bytes());
        payload.extend(octets);
        self.socket.send(&netlink::request(GET_ROUTE, netlink::FLAGS_REQUEST, &payload))?;
        let mut buffer = [0; 4096];
        let Received::Datagram(length) = self.socket.receive(&mut buffer)? else {
            return Err(io::Error::other("no answer for a route"));
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        let message = netlink::messages(datagram).next();
        let message = message.ok_or_else(|| io::Error::other("a cut answer for a route"))?;
        if message.kind == netlink::MESSAGE_ERROR {
            let errno = u32_at(message.payload, 0).unwrap_or(0).cast_signed().wrapping_neg();
            return refused(errno).ok_or_else(|| io::Error::from_raw_os_error(errno));
        }
        way(message.payload).ok_or_else(|| io::Error::other("a cut answer for a route"))
    }

    fn dump(&self, kind: u16, payload: &[u8], each: impl FnMut(Message<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        self.socket.dump(&netlink::request(kind, netlink::FLAGS_DUMP, payload), &mut buffer, each)
    }
}

/// What the kernel answers where there is no way: see net/ipv4/fib_semantics.c, `fib_props`.
fn refused(errno: i32) -> Option<Way> {
    let is = |known: rustix::io::Errno| known.raw_os_error() == errno;
    let outcome = if is(rustix::io::Errno::NETUNREACH) {
        RouteOutcome::Missing
    } else if is(rustix::io::Errno::INVAL) {
        RouteOutcome::Blackhole
    } else if is(rustix::io::Errno::ACCESS) {
        RouteOutcome::Prohibit
    } else if is(rustix::io::Errno::HOSTUNREACH) {
        RouteOutcome::Unreachable
    } else {
        return None;
    };
    Some(Way { outcome, interface: 0, via: None, source: None, local: false })
}

fn way(payload: &[u8]) -> Option<Way> {
    let kind = *payload.get(7)?;
    let mut way = Way {
        // RTN_UNICAST, RTN_LOCAL and so on reach it; IPv6 tells of the others by type too.
        outcome: match kind {
            6 => RouteOutcome::Blackhole,
            7 => RouteOutcome::Unreachable,
            8 => RouteOutcome::Prohibit,
            _ => RouteOutcome::Reachable,
        },
        interface: 0,
        via: None,
        source: None,
        local: kind == 2,
    };
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            4 => way.interface = u32_at(value, 0)?,
            5 => way.via = ip(value),
            7 => way.source = ip(value),
            _ => {}
        }
    }
    Some(way)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn link(payload: &[u8]) -> Option<Link> {
    // struct ifinfomsg: family, type, index, flags (IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP), change.
    let flags = u32_at(payload, 8)?;
    let name = attributes(payload.get(16..)?).find(|(kind, _)| *kind == 3)?.1;
    Some(Link {
        index: u32_at(payload, 4)?,
        name: super::expression::text(name),
        up: flags & 0x1 != 0,
        carrier: flags & 0x1_0000 != 0,
        loopback: flags & 0x8 != 0,
    })
}

fn address(payload: &[u8]) -> Option<(IpAddr, u32)> {
    let index = u32_at(payload, 4)?;
    let (mut far, mut own) = (None, None);
    for (kind, value) in attributes(payload.get(8..)?) {
        match kind {
            1 => far = ip(value),
            2 => own = ip(value),
            _ => {}
        }
    }
    Some((own.or(far)?, index))
}

pub(super) fn neighbor(payload: &[u8]) -> Option<Neighbor> {
    let state = u16_at(payload, 8)?;
    let (mut address, mut lladdr) = (None, String::new());
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            1 => address = ip(value),
            2 => {
                let octets: Vec<String> = value.iter().map(|byte| format!("{byte:02x}")).collect();
                lladdr = octets.join(":");
            }
            _ => {}
        }
    }
    let failed =
        if state & FAILED != 0 { Some(true) } else { (state & ANSWERS != 0).then_some(false) };
    Some(Neighbor { address: address?, interface: u32_at(payload, 4)?, failed, lladdr })
}
