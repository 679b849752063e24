//! The netlink process connector: every fork, exec and exit of the host, as it happens
//! (drivers/connector/cn_proc.c, include/uapi/linux/cn_proc.h).
//!
//! It speaks only in the first network and pid namespaces, needs CAP_NET_ADMIN, and drops events when the reader
//! is slow: an overrun is an answer of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::netlink::CONNECTOR;

use crate::source::netlink::{self, Received, Socket, messages, u16_at, u32_at, u64_at};

/// `CN_IDX_PROC` and `CN_VAL_PROC`
const PROC: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`
const LISTEN: u32 = 1;
/// `sizeof(struct cn_msg)`
const CN_MSG: usize = 20;
/// `sizeof(what, cpu, timestamp_ns)` of `struct proc_event`
const EVENT_HEADER: usize = 16;
/// Holds about 20,000 events: two seconds of a heavy fork storm.
const BUFFER_BYTES: usize = 8 << 20;

/// What happened to a process. Threads that are not the leader of their process are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcEvent {
    /// `parent` made `child`.
    Forked { parent: u32, child: u32 },
    /// The process runs another program.
    Execed { pid: u32 },
    /// The process ended; `code` as wait(2) gives it.
    Exited { pid: u32, parent: u32, code: u32 },
    /// Answer to the subscription: 0 or an errno.
    Acknowledged { errno: u32 },
}

/// Reads one event and its time, nanoseconds of CLOCK_MONOTONIC.
pub(super) fn parse(payload: &[u8]) -> Option<(ProcEvent, u64)> {
    if (u32_at(payload, 0)?, u32_at(payload, 4)?) != (PROC, PROC) {
        return None;
    }
    let length = usize::from(u16_at(payload, 16)?);
    let event = payload.get(CN_MSG..CN_MSG + length)?;
    let data = event.get(EVENT_HEADER..)?;
    let word = |at: usize| u32_at(data, 4 * at);
    let parsed = match u32_at(event, 0)? {
        0 => ProcEvent::Acknowledged { errno: word(0)? },
        0x1 => {
            let (child_thread, child) = (word(2)?, word(3)?);
            if child_thread != child {
                return None;
            }
            ProcEvent::Forked { parent: word(1)?, child }
        }
        0x2 => ProcEvent::Execed { pid: word(1)? },
        0x8000_0000 => {
            let (thread, pid) = (word(0)?, word(1)?);
            if thread != pid {
                return None;
            }
            // The parent stands there since 4.18.
            ProcEvent::Exited { pid, parent: word(5).unwrap_or(0), code: word(2)? }
        }
        _ => return None,
    };
    Some((parsed, u64_at(event, 8)?))
}

/// The subscription.
#[derive(Debug)]
pub(super) struct Connector {
    socket: Socket,
}

impl Connector {
    /// Subscribes. An error says that this namespace or user does not get the events.
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::open(Some(CONNECTOR), PROC)?;
        socket.widen(BUFFER_BYTES);
        let mut payload = Vec::with_capacity(CN_MSG + 4);
        for word in [PROC, PROC, 0, 0] {
            payload.extend(word.to_ne_bytes());
        }
        payload.extend(4u16.to_ne_bytes());
        payload.extend(0u16.to_ne_bytes());
        payload.extend(LISTEN.to_ne_bytes());
        socket.send(&netlink::request(netlink::MESSAGE_DONE, 0, &payload))?;
        Ok(Self { socket })
    }

    /// Hands every waiting event to `each`; `true` when events were lost before this call ended.
    pub(super) fn drain(
        &self,
        events_max: usize,
        mut each: impl FnMut(ProcEvent, u64),
    ) -> io::Result<bool> {
        let mut buffer = [0u8; 1024];
        let mut overrun = false;
        for _ in 0..events_max {
            match self.socket.receive(&mut buffer)? {
                Received::Empty => break,
                Received::Overrun => overrun = true,
                Received::Datagram(length) => {
                    for message in messages(buffer.get(..length).unwrap_or_default()) {
                        if let Some((event, at_ns)) = parse(message.payload) {
                            each(event, at_ns);
                        }
                    }
                }
            }
        }
        Ok(overrun)
    }
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as cn_proc.c lays it out.
    fn event(what: u32, words: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [PROC, PROC, 17, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        let length = u16::try_from(EVENT_HEADER + 4 * words.len()).unwrap();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(what.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend(987_654_321u64.to_ne_bytes());
        for word in words {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn processes_are_told_from_threads() {
        let parsed = |what, words: &[u32]| parse(&event(what, words)).map(|(event, _)| event);
        assert_eq!(parsed(1, &[10, 10, 20, 20]), Some(ProcEvent::Forked { parent: 10, child: 20 }));
        assert_eq!(parsed(1, &[10, 10, 21, 10]), None, "a thread");
        assert_eq!(parsed(2, &[20, 20]), Some(ProcEvent::Execed { pid: 20 }));
        assert_eq!(
            parsed(0x8000_0000, &[20, 20, 9, 17, 10, 10]),
            Some(ProcEvent::Exited { pid: 20, parent: 10, code: 9 })
        );
        // Kernels before 4.18 do not name the parent.
        assert_eq!(
            parsed(0x8000_0000, &[20, 20, 256, 17]),
            Some(ProcEvent::Exited { pid: 20, parent: 0, code: 256 })
        );
        assert_eq!(parsed(0x8000_0000, &[21, 20, 0, 17, 10, 10]), None, "a thread");
        assert_eq!(parsed(0, &[111]), Some(ProcEvent::Acknowledged { errno: 111 }));
        assert_eq!(parsed(0x200, &[20, 20, 0, 0, 0, 0]), None, "a new name");
    }

    #[test]
    fn cut_messages_are_none() {
        let whole = event(0x8000_0000, &[20, 20, 9, 17, 10, 10]);
        assert_eq!(parse(&whole).unwrap().1, 987_654_321);
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None, "{end}");
        }
    }
}
