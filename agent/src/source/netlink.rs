//! Netlink messages: framing, attributes, sockets (netlink(7), include/uapi/linux/netlink.h).
//!
//! Everything here takes bytes that the kernel wrote and never panics on them: a message that does not fit its
//! own length ends the walk.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto,
    socket_with, sockopt,
};

/// `NLMSG_ERROR`
pub(super) const MESSAGE_ERROR: u16 = 2;
/// `NLMSG_DONE`
pub(super) const MESSAGE_DONE: u16 = 3;
/// `NLM_F_REQUEST`
pub(super) const FLAGS_REQUEST: u16 = 0x1;
/// `NLM_F_REQUEST | NLM_F_DUMP`
pub(super) const FLAGS_DUMP: u16 = 0x1 | 0x300;

/// `sizeof(struct nlmsghdr)`
const HEADER: usize = 16;
/// How many datagrams one dump may have; 100,000 sockets fit into some 2,000.
const DATAGRAMS_MAX: usize = 16_384;

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// `nlmsg_type`
    pub(super) kind: u16,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

/// The messages of one datagram.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let kind = u16_at(datagram, 4)?;
        let payload = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, payload })
    })
}

/// The attributes behind a message's fixed part: type without its flags, and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A request with its header.
pub(super) fn request(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence and port: replies are matched by the socket, which asks one thing at a time.
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes
}

/// Two bytes in host order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Four bytes in host order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Eight bytes in host order.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A netlink socket that never blocks.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
}

/// What a receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A datagram of this length.
    Datagram(usize),
    /// Nothing more for now.
    Empty,
    /// The kernel had to drop messages since the last receive.
    Overrun,
}

impl Socket {
    /// Opens a socket and joins `groups`, a mask. No protocol is `NETLINK_ROUTE`.
    pub(super) fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd })
    }

    /// Asks for a receive buffer of `bytes`, beyond the host's limit where that is allowed.
    pub(super) fn widen(&self, bytes: usize) {
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes).is_err() {
            // Bounded by net.core.rmem_max then; overruns are noticed either way.
            let _ = sockopt::set_socket_recv_buffer_size(&self.fd, bytes);
        }
    }

    /// Sends to the kernel.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        sendto(&self.fd, message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Takes the next datagram without waiting.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((_, length)) => return Ok(Received::Datagram(length)),
                Err(Errno::AGAIN) => return Ok(Received::Empty),
                Err(Errno::NOBUFS) => return Ok(Received::Overrun),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes all that waits, `max` datagrams at most, and hands each message to `each`. `true`: some were lost.
    pub(super) fn drain(
        &self,
        max: usize,
        buffer: &mut [u8],
        mut each: impl FnMut(Message<'_>),
    ) -> io::Result<bool> {
        let mut lost = false;
        for _ in 0..max {
            match self.receive(buffer)? {
                Received::Datagram(length) => {
                    messages(buffer.get(..length).unwrap_or_default()).for_each(&mut each);
                }
                Received::Overrun => lost = true,
                Received::Empty => break,
            }
        }
        Ok(lost)
    }

    /// Sends a dump request and hands every message of the answer to `each`. The kernel fills the answer within the
    /// calls, so an empty socket is its end.
    pub(super) fn dump(
        &self,
        request: &[u8],
        buffer: &mut [u8],
        mut each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        self.send(request)?;
        for _ in 0..DATAGRAMS_MAX {
            let length = match self.receive(buffer)? {
                Received::Datagram(length) => length,
                Received::Empty | Received::Overrun => {
                    return Err(io::Error::other("the dump ended before its end"));
                }
            };
            for message in messages(buffer.get(..length).unwrap_or_default()) {
                match message.kind {
                    MESSAGE_DONE => return Ok(()),
                    MESSAGE_ERROR => {
                        let errno = u32_at(message.payload, 0).unwrap_or(0).cast_signed();
                        return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
                    }
                    _ => each(message),
                }
            }
        }
        Err(io::Error::other("the dump has no end"))
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_length_lies() {
        let mut datagram = request(7, 0, b"abcde");
        datagram.extend([0; 3]);
        datagram.extend(request(8, 0, b""));
        let kinds: Vec<_> = messages(&datagram).map(|m| (m.kind, m.payload)).collect();
        assert_eq!(kinds, [(7, &b"abcde"[..]), (8, b"")]);
        assert_eq!(messages(&datagram[..10]).count(), 0);
        assert_eq!(messages(&datagram[..20]).count(), 0, "a cut message is none");
        // A length below the header would not move on.
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[6, 0, 2, 0x80, 1, 2]).collect::<Vec<_>>(), [(2, &[1u8, 2][..])]);
    }
}
