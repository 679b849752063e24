//! Sockets that listened, each from its opening to its end.

use std::net::SocketAddr;

use why502_proto::Kind;
use why502_proto::v1::Source;

use super::{Seen, Sight, Snapshot, Window, kinds::Tag};
use crate::address::{Address, covers, tcp};

/// One listening socket.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// As the facts write it.
    pub(crate) address: String,
    tcp: Option<SocketAddr>,
    v6_only: bool,
    pub(crate) netns: u64,
    pub(crate) pid: u32,
    pub(crate) unit: String,
    pub(crate) comm: String,
    pub(crate) queue_limit: u32,
    inode: u64,
    boot: String,
    opened: Option<usize>,
    closed: Option<usize>,
    /// `i64::MIN`: it listened already when the agent began to look.
    pub(crate) from_us: i64,
    /// `i64::MAX`: it still does.
    pub(crate) to_us: i64,
    /// Said again since the agent started last.
    confirmed: bool,
}

impl Listener {
    pub(crate) fn socket(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// It takes connections to `address` that come from its own network namespace's side.
    pub(crate) fn takes(&self, address: Address<'_>) -> bool {
        self.netns == 0 && self.would_take(address)
    }

    /// It would, were it in the right network namespace.
    pub(crate) fn would_take(&self, address: Address<'_>) -> bool {
        match (address, self.tcp) {
            (Address::Tcp(dialled), Some(own)) => covers(own, self.v6_only, dialled),
            (Address::Unix(path), None) => self.address == path,
            _ => false,
        }
    }

    pub(crate) fn open_at(&self, at_us: i64) -> bool {
        self.from_us <= at_us && at_us < self.to_us
    }

    /// The facts that tell of it.
    pub(crate) fn facts<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a Seen> {
        [self.opened, self.closed]
            .into_iter()
            .flatten()
            .filter_map(|at| snapshot.fact(at))
            .collect()
    }

    pub(crate) fn opened<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Seen> {
        self.opened.and_then(|at| snapshot.fact(at))
    }

    pub(crate) fn closed<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Seen> {
        self.closed.and_then(|at| snapshot.fact(at))
    }

    /// "api.service", else "node (pid 12)", else "an unknown process".
    pub(crate) fn owner(&self) -> String {
        match (&self.unit, &self.comm, self.pid) {
            (unit, _, _) if !unit.is_empty() => unit.clone(),
            (_, comm, pid) if pid != 0 && !comm.is_empty() => format!("{comm} (pid {pid})"),
            (_, _, pid) if pid != 0 => format!("pid {pid}"),
            _ => "a process that is not visible".to_owned(),
        }
    }
}

/// Whether anybody listened on an address during a stretch of time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listening<'a> {
    /// All the time: by this socket at its end.
    Covered(&'a Listener),
    /// At some moment nobody did.
    Gap {
        /// The last that had, if any is known.
        last: Option<&'a Listener>,
        /// The fact that proves it: its closing, or that the source sees.
        proof: &'a Seen,
    },
    /// It could not be seen.
    Unseen(Sight<'a>),
}

impl Snapshot {
    /// The window, its moment moved to one at which nobody listened, if there is any: failures that are counted for a
    /// second lie before their report, and a socket's end may be seen after it.
    pub(crate) fn uncovered(&self, host: &str, address: Address<'_>, during: Window) -> Window {
        let taking = || self.listeners(host).iter().filter(|l| l.takes(address));
        let free = |at_us: &i64| !taking().any(|l| l.open_at(*at_us));
        let before = taking()
            .map(|l| l.from_us.saturating_sub(1))
            .filter(|us| during.from_us <= *us && *us <= during.at_us);
        let after =
            taking().map(|l| l.to_us).filter(|us| during.at_us <= *us && *us <= during.to_us);
        let at_us = [during.at_us]
            .into_iter()
            .find(free)
            .or_else(|| before.filter(free).max())
            .or_else(|| after.filter(free).min());
        Window { at_us: at_us.unwrap_or(during.at_us), ..during }
    }

    /// Whether anybody listened for `address` on `host` all through the window.
    pub(crate) fn listening<'a>(
        &'a self,
        host: &str,
        address: Address<'_>,
        during: Window,
    ) -> Listening<'a> {
        let taking = || self.listeners(host).iter().filter(|l| l.takes(address));
        // Sweep: how far from the start the sockets reach without a break.
        let (mut reached, mut covering) = (during.from_us, None);
        while let Some(next) =
            taking().filter(|l| l.from_us <= reached && l.to_us > reached).max_by_key(|l| l.to_us)
        {
            (reached, covering) = (next.to_us, Some(next));
            if reached > during.to_us {
                break;
            }
        }
        let last =
            taking().filter(|l| l.from_us <= during.at_us).max_by_key(|l| (l.to_us, l.from_us));
        let sight = self.sight(host, Source::Listener, during.at_us);
        match (covering, sight) {
            (Some(listener), Sight::Seeing(_)) if reached > during.to_us => {
                Listening::Covered(listener)
            }
            (_, Sight::Seeing(proof)) => {
                let closed = last.and_then(|l| l.closed(self));
                Listening::Gap { last, proof: closed.unwrap_or(proof) }
            }
            (_, sight) => match last.and_then(|l| l.closed(self)) {
                Some(proof) if proof.at_us <= during.to_us => Listening::Gap { last, proof },
                _ => Listening::Unseen(sight),
            },
        }
    }
}

/// Puts openings and closings of a host together.
pub(super) fn collect(snapshot: &Snapshot, host: &str) -> Vec<Listener> {
    let Some(index) = snapshot.hosts.get(host) else { return Vec::new() };
    let tags = [Tag::ListenerOpened, Tag::ListenerClosed, Tag::AgentStarted, Tag::SourceSeeing];
    let mut listeners: Vec<Listener> = Vec::new();
    for at in index.merged(&snapshot.facts, &tags) {
        let fact = &snapshot.facts[at];
        for stale in listeners.iter_mut().filter(|l| l.boot != fact.id.boot) {
            stale.to_us = stale.to_us.min(fact.at_us);
        }
        match &fact.kind {
            Kind::AgentStarted(_) => listeners.iter_mut().for_each(|l| l.confirmed = false),
            Kind::SourceSeeing(seeing)
                if seeing.source() == Source::Listener && seeing.scope.is_empty() =>
            {
                // All that listens now has been said: what was not is gone since the agent was away.
                for gone in listeners.iter_mut().filter(|l| !l.confirmed && l.to_us == i64::MAX) {
                    (gone.to_us, gone.closed) = (fact.at_us, Some(at));
                }
            }
            Kind::ListenerOpened(opened) => open(&mut listeners, at, fact, opened),
            Kind::ListenerClosed(closed) => close(&mut listeners, at, fact, closed),
            _ => {}
        }
    }
    listeners
}

fn open(
    listeners: &mut Vec<Listener>,
    at: usize,
    fact: &Seen,
    opened: &why502_proto::v1::ListenerOpened,
) {
    let same = |l: &&mut Listener| {
        l.to_us == i64::MAX && l.address == opened.address && l.netns == opened.netns
    };
    if let Some(known) = listeners.iter_mut().filter(same).find(|l| {
        if l.inode != 0 && opened.inode != 0 {
            l.inode == opened.inode
        } else {
            l.pid == opened.pid
        }
    }) {
        known.confirmed = true;
        if known.pid == 0 {
            known.pid = opened.pid;
        }
        if known.unit.is_empty() {
            known.unit.clone_from(&opened.unit);
        }
        return;
    }
    listeners.push(Listener {
        address: opened.address.clone(),
        tcp: tcp(&opened.address),
        v6_only: opened.v6_only,
        netns: opened.netns,
        pid: opened.pid,
        unit: opened.unit.clone(),
        comm: opened.comm.clone(),
        queue_limit: opened.queue_limit,
        inode: opened.inode,
        boot: fact.id.boot.clone(),
        opened: Some(at),
        closed: None,
        from_us: if opened.existing { i64::MIN } else { fact.at_us },
        to_us: i64::MAX,
        confirmed: true,
    });
}

fn close(
    listeners: &mut Vec<Listener>,
    at: usize,
    fact: &Seen,
    closed: &why502_proto::v1::ListenerClosed,
) {
    let mut open: Vec<&mut Listener> = listeners
        .iter_mut()
        .filter(|l| l.to_us == i64::MAX && l.address == closed.address && l.netns == closed.netns)
        .collect();
    if open.is_empty() {
        if closed.last {
            listeners.push(Listener {
                address: closed.address.clone(),
                tcp: tcp(&closed.address),
                v6_only: false,
                netns: closed.netns,
                pid: closed.pid,
                unit: closed.unit.clone(),
                comm: closed.comm.clone(),
                queue_limit: 0,
                inode: 0,
                boot: fact.id.boot.clone(),
                opened: None,
                closed: Some(at),
                from_us: i64::MIN,
                to_us: fact.at_us,
                confirmed: true,
            });
        }
        return;
    }
    let alone = open.len() == 1;
    for listener in &mut open {
        if closed.last || (!alone && listener.pid == closed.pid) {
            (listener.to_us, listener.closed) = (fact.at_us, Some(at));
            if listener.unit.is_empty() {
                listener.unit.clone_from(&closed.unit);
            }
            if listener.pid == 0 {
                listener.pid = closed.pid;
            }
        }
    }
}
