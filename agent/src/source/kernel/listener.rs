//! Listening sockets from one look to the next: which opened, which closed, and how full their queues are.
//!
//! Pure: takes what a dump found and says facts. A socket is named by its inode, so a listener that was closed and
//! opened again between two looks is both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use why502_proto::{Kind, v1};

use super::facts::Facts;
use super::owner::HOLDERS_MAX;
use super::process::Process;
use crate::source::sock_diag::Socketed;

/// Listeners kept at once, some 300 B each.
const LISTENERS_MAX: usize = 8192;
/// Closed listeners kept for the exit of their owner, which may be seen a moment later.
const CLOSED_MAX: usize = 256;
/// How long.
const CLOSED_KEPT_US: u64 = 2_000_000;

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// As in facts: "0.0.0.0:8080".
    pub(super) address: String,
    /// Inode of its network namespace; 0: the agent's own.
    pub(super) netns: u64,
    pub(super) inode: u64,
    pub(super) file_inode: Option<u32>,
    /// Pids that hold it, as far as known.
    pub(super) holders: Vec<u32>,
    /// The oldest holder, as facts speak of it. It stays here after its death.
    pub(super) owner: Option<Process>,
    /// How often its owner was looked for in vain.
    pub(super) searches: u8,
    /// It listened already when the agent began to look.
    existing: bool,
    /// `listener_opened` was said.
    said: bool,
    uid: u32,
    limit: u32,
    v6_only: bool,
    depth: u32,
    queue: Queue,
}

/// What was said of an accept queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queue {
    /// Looks in a row at which connections waited.
    waiting: u8,
    said_waiting: bool,
    said_full: bool,
}

/// All listeners of the host that can be seen.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: BTreeMap<(u64, u64), Listener>,
    closed: VecDeque<(u64, Listener)>,
    /// The first listing of a namespace is over.
    listed: BTreeSet<u64>,
    /// What is listed for the first time until then existed when the agent began to look.
    pub(super) existing_until_us: u64,
}

impl Listeners {
    /// Takes a whole look at one network namespace. Says what closed and how the queues are; what opened waits for its
    /// owner and is said by [`Self::say_opened`]. Tells whether something opened or closed.
    pub(super) fn look(&mut self, netns: u64, found: Vec<Socketed>, facts: &mut Facts) -> bool {
        let first = self.listed.insert(netns);
        let existing = first && (netns == 0 || facts.now_us() < self.existing_until_us);
        let mut gone: BTreeSet<u64> =
            self.open.range((netns, 0)..=(netns, u64::MAX)).map(|((_, inode), _)| *inode).collect();
        let mut changed = false;
        for socket in found {
            gone.remove(&socket.inode);
            if let Some(listener) = self.open.get_mut(&(netns, socket.inode)) {
                listener.depth = socket.depth;
                listener.limit = socket.limit;
                listener.say_queue(facts);
            } else if self.open.len() < LISTENERS_MAX {
                changed = true;
                self.open.insert((netns, socket.inode), Listener::new(netns, socket, existing));
            }
        }
        changed |= !gone.is_empty();
        for inode in gone {
            self.close((netns, inode), facts);
        }
        changed
    }

    /// A network namespace is gone, with all that listened in it.
    pub(super) fn forget_namespace(&mut self, netns: u64, facts: &mut Facts) {
        if self.listed.remove(&netns) {
            self.look(netns, Vec::new(), facts);
            self.listed.remove(&netns);
        }
    }

    /// Inodes whose owner is not known or holds them no more, searched for fewer than `searches_max` times.
    pub(super) fn unowned(&self, searches_max: u8) -> BTreeSet<u64> {
        let left = |l: &Listener| l.owner.as_ref().is_none_or(|o| !l.holders.contains(&o.pid));
        let unowned = |l: &&Listener| left(l) && l.searches < searches_max;
        self.open.values().filter(unowned).map(|listener| listener.inode).collect()
    }

    /// Sets who holds a socket, oldest first, and who of them facts name.
    pub(super) fn set_holders(&mut self, inode: u64, holders: &[u32], owner: Option<Process>) {
        for listener in self.open.values_mut().filter(|listener| listener.inode == inode) {
            listener.searches = listener.searches.saturating_add(1);
            if !holders.is_empty() {
                listener.holders = holders.to_vec();
            }
            if let Some(owner) = owner.as_ref()
                && listener.owner.as_ref().map(|p| (p.pid, p.started_us))
                    != Some((owner.pid, owner.started_us))
            {
                listener.owner = Some(owner.clone());
                // Somebody else holds it now, or somebody is known at last: another fact.
                listener.said = false;
            }
        }
    }

    /// Says every listener that was not said yet.
    pub(super) fn say_opened(&mut self, facts: &mut Facts) {
        for listener in self.open.values_mut().filter(|listener| !listener.said) {
            listener.said = true;
            let kind = Kind::ListenerOpened(listener.opened());
            facts.say(kind);
            listener.say_queue(facts);
        }
    }

    /// A child inherits what its parent holds.
    pub(super) fn forked(&mut self, parent: u32, child: u32) {
        for listener in self.open.values_mut() {
            if listener.holders.contains(&parent) && listener.holders.len() < HOLDERS_MAX {
                listener.holders.push(child);
            }
        }
    }

    /// The process does not hold the sockets other than `kept`: another program runs in it, or it ended.
    pub(super) fn dropped(&mut self, pid: u32, kept: &BTreeSet<u64>) {
        for listener in self.open.values_mut() {
            if !kept.contains(&listener.inode) && listener.holders.contains(&pid) {
                listener.holders.retain(|&holder| holder != pid);
                listener.searches = 0;
            }
        }
    }

    /// Inodes that a process holds.
    pub(super) fn inodes_of(&self, pid: u32) -> BTreeSet<u64> {
        let held = self.open.values().filter(|listener| listener.holders.contains(&pid));
        held.map(|listener| listener.inode).collect()
    }

    /// Addresses that a process holds, or held until a moment ago.
    pub(super) fn addresses_of(&self, pid: u32, now_us: u64) -> Vec<String> {
        let recent = self.closed.iter().filter(|(at, _)| at + CLOSED_KEPT_US >= now_us);
        let all = self.open.values().chain(recent.map(|(_, listener)| listener));
        let held = all.filter(|listener| listener.holders.contains(&pid));
        let addresses: BTreeSet<&String> = held.map(|listener| &listener.address).collect();
        addresses.into_iter().cloned().collect()
    }

    /// Some queue holds connections.
    pub(super) fn any_waiting(&self) -> bool {
        self.open.values().any(|listener| listener.depth > 0)
    }

    /// Addresses of one namespace whose queue was full at the last look.
    pub(super) fn full(&self, netns: u64) -> Vec<String> {
        let full = self.open.values().filter(|l| l.netns == netns && l.is_full());
        full.map(|listener| listener.address.clone()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.open.values()
    }

    fn close(&mut self, key: (u64, u64), facts: &mut Facts) {
        let Some(mut listener) = self.open.remove(&key) else { return };
        let last = !self
            .open
            .values()
            .any(|other| other.netns == listener.netns && other.address == listener.address);
        if last {
            listener.depth = 0;
            listener.say_queue(facts);
        }
        if listener.said {
            facts.say(Kind::ListenerClosed(listener.closed(last)));
        }
        if self.closed.len() == CLOSED_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back((facts.now_us(), listener));
    }
}

impl Listener {
    fn new(netns: u64, socket: Socketed, existing: bool) -> Self {
        Self {
            address: socket.address.to_string(),
            netns,
            inode: socket.inode,
            file_inode: socket.file_inode,
            holders: Vec::new(),
            owner: None,
            searches: 0,
            existing,
            said: false,
            uid: socket.uid,
            limit: socket.limit,
            v6_only: socket.v6_only,
            depth: socket.depth,
            queue: Queue::default(),
        }
    }

    /// 0 where it is not known, as facts say it.
    fn known_limit(&self) -> u32 {
        if self.limit == u32::MAX { 0 } else { self.limit }
    }

    /// The kernel takes one connection more than the limit.
    fn is_full(&self) -> bool {
        self.depth > self.limit
    }

    fn say_queue(&mut self, facts: &mut Facts) {
        if !self.said {
            return;
        }
        let full = self.is_full();
        self.queue.waiting = if self.depth == 0 { 0 } else { self.queue.waiting.saturating_add(1) };
        let waiting = self.queue.waiting >= 2 || (full && self.depth > 0);
        let emptied = self.depth == 0 && self.queue.said_waiting;
        let begins = waiting && !self.queue.said_waiting;
        if !emptied && !begins && full == self.queue.said_full {
            return;
        }
        self.queue.said_full = full;
        self.queue.said_waiting = self.depth > 0 && (waiting || self.queue.said_waiting);
        facts.say(Kind::AcceptQueue(v1::AcceptQueue {
            address: self.address.clone(),
            netns: self.netns,
            depth: self.depth,
            limit: self.known_limit(),
            full,
            pid: self.owner.as_ref().map_or(0, |owner| owner.pid),
            unit: self.owner.as_ref().map_or_else(String::new, |owner| owner.member.unit.clone()),
        }));
    }

    fn opened(&self) -> v1::ListenerOpened {
        let owner = self.owner.as_ref();
        v1::ListenerOpened {
            address: self.address.clone(),
            netns: self.netns,
            pid: owner.map_or(0, |owner| owner.pid),
            unit: owner.map_or_else(String::new, |owner| owner.member.unit.clone()),
            container: owner.map_or_else(String::new, |owner| owner.member.container.clone()),
            comm: owner.map_or_else(String::new, |owner| owner.comm.clone()),
            uid: self.uid,
            queue_limit: self.known_limit(),
            v6_only: self.v6_only,
            existing: self.existing,
            inode: self.inode,
        }
    }

    fn closed(&self, last: bool) -> v1::ListenerClosed {
        let owner = self.owner.as_ref();
        v1::ListenerClosed {
            address: self.address.clone(),
            netns: self.netns,
            pid: owner.map_or(0, |owner| owner.pid),
            unit: owner.map_or_else(String::new, |owner| owner.member.unit.clone()),
            container: owner.map_or_else(String::new, |owner| owner.member.container.clone()),
            comm: owner.map_or_else(String::new, |owner| owner.comm.clone()),
            last,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::clock::Moment;
    use crate::source::sock_diag::Address;

    fn socket(port: u16, inode: u64, depth: u32) -> Socketed {
        Socketed {
            address: Address::Tcp(([0, 0, 0, 0], port).into()),
            inode,
            uid: 33,
            depth,
            limit: 2,
            v6_only: false,
            file_inode: None,
        }
    }

    /// Shows looks one after the other and compares what was said.
    #[track_caller]
    fn check(looks: &[&[Socketed]], expected: &Expect) {
        let mut listeners = Listeners::default();
        let mut facts = Facts::new(Moment { boottime_us: 1_000_000, realtime_us: 0 });
        for look in looks {
            listeners.look(0, look.to_vec(), &mut facts);
            listeners.say_opened(&mut facts);
        }
        expected.assert_eq(&facts.take_text());
    }

    #[test]
    fn a_listener_that_was_there_opens_and_closes() {
        check(
            &[&[socket(80, 5, 0)], &[socket(80, 5, 0)], &[], &[socket(80, 6, 0)]],
            &expect![[r#"
                listener_opened address=0.0.0.0:80 uid=33 queue_limit=2 existing=true inode=5
                listener_closed address=0.0.0.0:80 last=true
                listener_opened address=0.0.0.0:80 uid=33 queue_limit=2 inode=6
            "#]],
        );
    }

    #[test]
    fn one_of_two_sockets_of_an_address_is_not_the_last() {
        check(
            &[&[socket(80, 5, 0), socket(80, 6, 0)], &[socket(80, 6, 0)]],
            &expect![[r#"
                listener_opened address=0.0.0.0:80 uid=33 queue_limit=2 existing=true inode=5
                listener_opened address=0.0.0.0:80 uid=33 queue_limit=2 existing=true inode=6
                listener_closed address=0.0.0.0:80
            "#]],
        );
    }

    #[test]
    fn a_restart_between_two_looks_is_seen_by_the_inode() {
        check(
            &[&[socket(80, 5, 0)], &[socket(80, 6, 0)]],
            &expect![[r#"
                listener_opened address=0.0.0.0:80 uid=33 queue_limit=2 existing=true inode=5
                listener_closed address=0.0.0.0:80
                listener_opened address=0.0.0.0:80 uid=33 queue_limit=2 inode=6
            "#]],
        );
    }

    #[test]
    fn a_queue_is_said_when_it_lasts_is_full_is_not_full_and_is_empty() {
        let depths = [0, 1, 0, 1, 2, 3, 3, 1, 0, 0];
        let looks: Vec<Vec<Socketed>> = depths.iter().map(|&d| vec![socket(80, 5, d)]).collect();
        let looks: Vec<&[Socketed]> = looks.iter().map(Vec::as_slice).collect();
        check(
            &looks,
            &expect![[r#"
                listener_opened address=0.0.0.0:80 uid=33 queue_limit=2 existing=true inode=5
                accept_queue address=0.0.0.0:80 depth=2 limit=2
                accept_queue address=0.0.0.0:80 depth=3 limit=2 full=true
                accept_queue address=0.0.0.0:80 depth=1 limit=2
                accept_queue address=0.0.0.0:80 limit=2
            "#]],
        );
    }

    #[test]
    fn a_queue_that_died_with_its_listener_is_empty() {
        check(
            &[&[socket(80, 5, 3)], &[]],
            &expect![[r#"
                listener_opened address=0.0.0.0:80 uid=33 queue_limit=2 existing=true inode=5
                accept_queue address=0.0.0.0:80 depth=3 limit=2 full=true
                accept_queue address=0.0.0.0:80 limit=2
                listener_closed address=0.0.0.0:80 last=true
            "#]],
        );
    }
}
