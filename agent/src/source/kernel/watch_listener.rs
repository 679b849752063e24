//! Reading listeners: who holds them, and when to look.

use std::collections::{BTreeMap, BTreeSet};

use why502_proto::v1;

use super::listener::LISTENERS_MAX;
use super::owner;
use super::process::Process;
use super::thread_state::{Kernel, Task, Token};
use crate::source::sock_diag::Destroyed;

/// A look at all listeners: 0.1 ms on most hosts.
const LOOK_US: u64 = 1_000_000;
/// While connections wait in a queue.
const LOOK_WAITING_US: u64 = 200_000;
/// Further looks after a process was started, which mostly opens its listener within three seconds.
const LOOKS_AFTER_START_US: [u64; 10] =
    [80_000, 200_000, 250_000, 250_000, 300_000, 300_000, 300_000, 400_000, 400_000, 500_000];
/// An owner is looked for so often before it is left unknown: once among the likely ones and twice everywhere.
const SEARCHES_MAX: u8 = 3;
/// Destroyed sockets in a row without a listener among them, at which the multicast costs more than looking.
const DESTROYED_BUSY: usize = 200;
/// How long to do without the multicast then.
const DESTROYED_PAUSE_US: u64 = 10_000_000;
/// How often to look meanwhile.
const LOOK_BUSY_US: u64 = 50_000;

/// When to look at listeners again.
#[derive(Debug, Default)]
pub(super) struct Looks {
    wanted: bool,
    /// Index into [`LOOKS_AFTER_START_US`].
    after_start: Option<usize>,
    /// Destroyed sockets since this boot time, and how many.
    destroyed: (u64, usize),
    /// The multicast is left alone until then.
    paused_until_us: u64,
    /// Not every listener is known.
    pub(super) failed: bool,
    denied: bool,
}

impl Looks {
    /// Looks at the end of this wake-up.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// A process was started: looks several times. Under a steady stream of starts the looks stay apart.
    pub(super) fn after_start(&mut self) {
        self.after_start = Some(0);
    }
}

impl Kernel<'_> {
    pub(super) fn subscribe_listeners(&mut self) {
        let opened = Destroyed::open();
        let result = opened.and_then(|destroyed| {
            self.add(&destroyed, Token::Destroyed)?;
            Ok(destroyed)
        });
        match result {
            Ok(destroyed) => self.destroyed = Some(destroyed),
            Err(error) => {
                let reason = format!(
                    "no notice of destroyed sockets: {error}; a closed listener is seen within a second"
                );
                self.observer.blinded(v1::Source::Listener, "notice", &reason, "CAP_NET_ADMIN");
            }
        }
    }

    pub(super) fn destroyed_woken(&mut self) {
        let Some(destroyed) = &self.destroyed else { return };
        let Ok((listener, count)) = destroyed.drain() else {
            // Looks close to each other stand in for it until it is opened again.
            self.destroyed = None;
            self.looks.paused_until_us = self.facts.now_us() + DESTROYED_PAUSE_US;
            self.plan(Task::Listeners, LOOK_BUSY_US);
            return;
        };
        if listener {
            self.looks.want();
        }
        let now_us = self.facts.now_us();
        let (since_us, seen) = self.looks.destroyed;
        if now_us - since_us > 1_000_000 {
            self.looks.destroyed = (now_us, count);
        } else {
            self.looks.destroyed.1 = seen + count;
            if seen + count > DESTROYED_BUSY {
                // A busy gateway closes thousands of connections in a second; a look is cheaper then.
                self.destroyed = None;
                self.looks.paused_until_us = now_us + DESTROYED_PAUSE_US;
                self.plan(Task::Listeners, LOOK_BUSY_US);
            }
        }
    }

    /// Looks at all listeners of the agent's own network namespace.
    pub(super) fn look_at_listeners(&mut self) {
        self.looks.wanted = false;
        self.plan_next_look();
        let found = match self.sock_diag.listeners() {
            Ok(found) => found,
            Err(error) => {
                // A part of the list would close listeners that are open.
                let reason = format!("cannot list listening sockets: {error}");
                self.listeners_blind(&reason, "load the modules inet_diag, tcp_diag and unix_diag");
                return;
            }
        };
        if self.listeners.look(0, found, &mut self.facts) {
            self.path_sight.want();
        }
        self.find_owners();
        self.listeners.say_opened(&mut self.facts);
        if self.listeners.overfull {
            let reason = format!("more than {LISTENERS_MAX} sockets listen");
            self.listeners_blind(&reason, "nothing: the agent keeps no more of them");
        } else if std::mem::replace(&mut self.looks.failed, false) {
            self.flush();
            self.observer.seeing(v1::Source::Listener, "");
        }
    }

    /// Not every listener is known: said once, until all are.
    fn listeners_blind(&mut self, reason: &str, grant: &str) {
        if !std::mem::replace(&mut self.looks.failed, true) {
            self.flush();
            self.observer.blinded(v1::Source::Listener, "", reason, grant);
        }
    }

    fn plan_next_look(&mut self) {
        let now_us = self.facts.now_us();
        let mut after_us = if self.listeners.any_waiting() { LOOK_WAITING_US } else { LOOK_US };
        if let Some(index) = self.looks.after_start {
            self.looks.after_start = (index + 1 < LOOKS_AFTER_START_US.len()).then_some(index + 1);
            after_us = after_us.min(LOOKS_AFTER_START_US[index]);
        }
        if self.looks.paused_until_us > now_us {
            after_us = after_us.min(LOOK_BUSY_US);
        } else if self.looks.paused_until_us > 0 {
            self.looks.paused_until_us = 0;
            self.looks.destroyed = (now_us, 0);
            self.subscribe_listeners();
        }
        self.agenda.remove(&Task::Listeners);
        self.plan(Task::Listeners, after_us);
    }

    /// Looks for the holders of listeners that have none: first among those that are likely, then everywhere.
    pub(super) fn find_owners(&mut self) {
        let wanted = self.listeners.unowned(SEARCHES_MAX);
        if wanted.is_empty() {
            return;
        }
        let likely = self.likely_owners();
        let mut found = owner::search(&self.roots.proc, likely, &wanted);
        let missing: BTreeSet<u64> =
            wanted.iter().filter(|inode| !found.holders.contains_key(inode)).copied().collect();
        if !missing.is_empty() {
            let all = super::proc_file::pids(&self.roots.proc).unwrap_or_default();
            let everywhere = owner::search(&self.roots.proc, all, &missing);
            found.denied |= everywhere.denied;
            found.holders.extend(everywhere.holders);
        }
        for inode in wanted {
            let pids = found.holders.remove(&inode).unwrap_or_default();
            self.set_holders(inode, pids);
        }
        self.tell_denied(found.denied);
    }

    fn likely_owners(&self) -> Vec<u32> {
        let recent = self.sight.recent.iter().copied();
        let owners = self.processes.iter().filter(|p| p.owns || p.main).map(|p| p.pid);
        let mut likely: BTreeSet<u32> = recent.chain(owners).collect();
        // The workers of those, which inherit.
        let workers = self.processes.iter().filter(|p| likely.contains(&p.ppid)).map(|p| p.pid);
        let workers: Vec<u32> = workers.collect();
        likely.extend(workers);
        likely.into_iter().collect()
    }

    fn set_holders(&mut self, inode: u64, pids: Vec<u32>) {
        let mut by_age: BTreeMap<(u64, u32), Process> = BTreeMap::new();
        for pid in pids {
            self.process_owns(pid);
            if let Some(process) = self.processes.get(pid) {
                by_age.insert((process.started_us, pid), process.clone());
            }
        }
        let holders: Vec<u32> = by_age.keys().map(|(_, pid)| *pid).collect();
        let oldest = by_age.into_values().next();
        self.listeners.set_holders(inode, &holders, oldest);
    }

    fn tell_denied(&mut self, denied: bool) {
        if denied == self.looks.denied {
            return;
        }
        self.looks.denied = denied;
        self.flush();
        if denied {
            let reason = format!("cannot read {}/PID/fd of others", self.roots.proc.display());
            let grant = "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH";
            self.observer.blinded(v1::Source::Listener, "owners", &reason, grant);
        } else {
            self.observer.seeing(v1::Source::Listener, "owners");
        }
    }
}
