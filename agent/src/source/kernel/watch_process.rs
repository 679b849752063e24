//! Reading processes: connector, pidfd, scan.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::CapabilitySet;
use why502_proto::{Kind, v1};

use super::connector::{Connector, ProcEvent};
use super::exit::{Ending, exited};
use super::pidfds::Told;
use super::proc_file;
use super::thread_state::{Kernel, Task, Token};
use crate::source::cgroup::Membership;

/// Where the connector is silent: have pids been given out?
pub(super) const NEW_PIDS_US: u64 = 1_000_000;
/// Events taken before other things get their turn.
const EVENTS_MAX: usize = 2048;
/// Forks in one wake-up of which /proc is read, some 15 us each; in a storm the parent's record must do.
const FORK_READS_MAX: u32 = 64;
/// Nothing was left out for so long: all is said again.
const LEFT_OUT_OVER_US: u64 = 2_000_000;
/// The connector is tried again after it was refused: a capability may have been granted with a new user.
const RETRY_US: u64 = 300_000_000;
/// A listener is not opened by the exec but some milliseconds after it.
pub(super) const LOOK_AFTER_START_US: u64 = 20_000;

/// What is known about how well processes are seen.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Pids that cannot come to matter, from the last scan.
    pub(super) ignored: BTreeSet<u32>,
    pub(super) last_pid: u32,
    /// Whether the last scan could list /proc.
    pub(super) scanned: Option<bool>,
    /// Events were lost at this boot time.
    overrun_us: Option<u64>,
    /// When starts and exits were left out last.
    left_out_us: Option<u64>,
    /// New pids that did not matter at the first look: systemd may not have moved them yet.
    pub(super) young: Vec<u32>,
    /// Tells of new cgroups where the connector is silent.
    pub(super) slices: Option<OwnedFd>,
    /// Pids that were started lately: who opens a listener is mostly one of them.
    pub(super) recent: std::collections::VecDeque<u32>,
}

/// Recently started pids that are kept.
const RECENT_MAX: usize = 64;

impl Sight {
    pub(super) fn started(&mut self, pid: u32) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(pid);
    }
}

impl Kernel<'_> {
    pub(super) fn subscribe_processes(&mut self) {
        let refused = match Connector::open() {
            Ok(connector) => {
                // The kernel answers within the call; it answers nobody outside of its first namespaces.
                let mut errno = None;
                let drained = connector.drain(EVENTS_MAX, |event, _| {
                    if let ProcEvent::Acknowledged { errno: said } = event {
                        errno = Some(said);
                    }
                });
                match (drained, errno) {
                    (Ok(_), Some(0)) => match self.add(&connector, Token::Connector) {
                        Ok(()) => {
                            self.connector = Some(connector);
                            None
                        }
                        Err(error) => Some(error.to_string()),
                    },
                    (Ok(_), Some(errno)) => Some(refusal(errno.cast_signed())),
                    (Ok(_), None) => Some("it speaks only in the first pid namespace".to_owned()),
                    (Err(error), _) => Some(error.to_string()),
                }
            }
            Err(error) => Some(refusal(error.raw_os_error().unwrap_or(0))),
        };
        let Some(reason) = refused else {
            self.observer.seeing(v1::Source::Process, "connector");
            return;
        };
        let grant = if self.capabilities.contains(CapabilitySet::NET_ADMIN) {
            "run the agent in the host's own namespaces"
        } else {
            "CAP_NET_ADMIN"
        };
        let reason = format!("no process connector: {reason}; short-lived workers may be missed");
        self.observer.blinded(v1::Source::Process, "connector", &reason, grant);
        self.watch_slices();
        self.plan(Task::NewPids, NEW_PIDS_US);
        self.plan(Task::Retry, RETRY_US);
    }

    /// Tries again for what was refused.
    pub(super) fn retry(&mut self) {
        if self.connector.is_none()
            && let Ok(connector) = Connector::open()
            && self.add(&connector, Token::Connector).is_ok()
        {
            let mut heard = false;
            if connector.drain(EVENTS_MAX, |_, _| heard = true).is_ok() && heard {
                self.connector = Some(connector);
                self.agenda.remove(&Task::NewPids);
                self.scan_processes();
                self.flush();
                self.observer.seeing(v1::Source::Process, "connector");
                return;
            }
        }
        self.plan(Task::Retry, RETRY_US);
    }

    pub(super) fn connector_woken(&mut self) {
        let Some(connector) = self.connector.take() else { return };
        let mut reads_left = FORK_READS_MAX;
        let drained = connector.drain(EVENTS_MAX, |event, at_ns| match event {
            ProcEvent::Forked { parent, child } => {
                self.forked(parent, child, at_ns, &mut reads_left);
            }
            ProcEvent::Execed { pid } => self.execed(pid),
            ProcEvent::Exited { pid, parent, code } => self.exited(pid, parent, code, at_ns),
            ProcEvent::Acknowledged { .. } => {}
        });
        self.connector = Some(connector);
        match drained {
            Ok(false) => {}
            Ok(true) => self.overrun(),
            Err(error) => {
                self.connector = None;
                self.flush();
                let reason = format!("the process connector failed: {error}");
                self.observer.blinded(v1::Source::Process, "connector", &reason, "");
                self.plan(Task::NewPids, NEW_PIDS_US);
                self.plan(Task::Retry, RETRY_US);
            }
        }
    }

    fn forked(&mut self, parent: u32, child: u32, at_ns: u64, reads_left: &mut u32) {
        if self.processes.get(parent).is_none() {
            return;
        }
        self.listeners.forked(parent, child);
        let read = if *reads_left > 0 {
            *reads_left -= 1;
            proc_file::stat(&self.roots.proc, child).ok()
        } else {
            None
        };
        let started_us = proc_file::tick_us(self.boottime_of(at_ns));
        self.processes.forked((parent, child), started_us, read, &mut self.facts);
    }

    fn execed(&mut self, pid: u32) {
        self.sight.started(pid);
        self.looks.after_start();
        self.plan(Task::Listeners, LOOK_AFTER_START_US);
        let held = self.listeners.inodes_of(pid);
        if !held.is_empty() {
            // Sockets close on exec, mostly.
            let kept = super::owner::search(&self.roots.proc, [pid], &held);
            self.listeners.dropped(pid, &kept.holders.into_keys().collect());
            if self.listeners.inodes_of(pid).is_empty() {
                self.processes.owns_no_more(pid);
            }
        }
        self.read_process(pid, v1::Witness::Connector);
    }

    fn exited(&mut self, pid: u32, parent: u32, code: u32, at_ns: u64) {
        if self.processes.get(pid).is_none() {
            // Its fork or exec was lost; the zombie still tells where it belonged.
            if self.sight.overrun_us.is_none() || self.processes.get(parent).is_none() {
                return;
            }
            self.read_process(pid, v1::Witness::Connector);
        }
        if code == 0
            && let Ok(stat) = proc_file::stat(&self.roots.proc, pid)
            && stat.threads > 1
        {
            // Only its first thread has ended; the pidfd tells when the others have.
            if self.pidfds.watch(self.epoll.as_fd(), pid).is_ok() {
                return;
            }
        }
        let at_us = self.boottime_of(at_ns);
        self.process_ended(pid, Some(code), v1::Witness::Connector, at_us);
        self.pidfds.forget(pid);
    }

    /// Events were lost: what is known is compared with what is there.
    fn overrun(&mut self) {
        let at_us = *self.sight.overrun_us.get_or_insert(self.facts.now_us());
        self.flush();
        self.observer.observe(Kind::SourceBlinded(v1::SourceBlinded {
            source: v1::Source::Process.into(),
            scope: "connector".to_owned(),
            reason: "more process events than could be read; comparing with /proc".to_owned(),
            grant: String::new(),
            since_us: Some(at_us),
        }));
        self.scan_processes();
        self.flush();
        self.observer.seeing(v1::Source::Process, "connector");
        self.sight.overrun_us = None;
    }

    pub(super) fn pidfd_woken(&mut self, token: u64, hung_up: bool) {
        match self.pidfds.woken(&self.roots.proc, token, hung_up) {
            Told::Ended { pid, code, comm } => {
                if let Some(comm) = comm {
                    self.processes.renamed(pid, comm);
                }
                let now_us = self.facts.now_us();
                let listeners = self.listeners.addresses_of(pid, now_us);
                let ended = self.process_ended(pid, code, v1::Witness::Pidfd, now_us);
                match ended {
                    Some(process) if code.is_none() => {
                        self.pidfds.await_status(self.epoll.as_fd(), token, process, listeners);
                    }
                    _ => self.pidfds.drop_token(token),
                }
            }
            Told::Status { process, listeners, code } => {
                let ending = Ending {
                    code: Some(code),
                    witness: v1::Witness::Pidfd,
                    at_us: self.facts.now_us(),
                };
                let fact = exited(&process, ending, listeners);
                self.facts.say(Kind::ProcessExited(fact));
            }
            Told::Nothing => {}
        }
    }

    /// The end of a process, by whatever witness.
    pub(super) fn process_ended(
        &mut self,
        pid: u32,
        code: Option<u32>,
        witness: v1::Witness,
        at_us: u64,
    ) -> Option<super::process::Process> {
        let listeners = self.listeners.addresses_of(pid, at_us);
        let held = !self.listeners.inodes_of(pid).is_empty();
        let ended =
            self.processes.ended(pid, Ending { code, witness, at_us }, listeners, &mut self.facts);
        if held {
            self.listeners.dropped(pid, &BTreeSet::new());
            self.looks.want();
        }
        if let Some(process) = &ended {
            self.memory_after_exit(process, code, at_us);
            self.log_after_exit(process, code, at_us);
        }
        ended
    }

    /// Watches those by pidfd of whose end no connector would tell.
    pub(super) fn watch_new(&mut self) {
        let new = self.processes.take_watchable();
        for &pid in &new {
            self.watch_memory_of(pid);
        }
        self.tell_left_out();
        if self.connector.is_some() {
            return;
        }
        for pid in new {
            if self.pidfds.watch(self.epoll.as_fd(), pid).is_err() {
                // Gone already, or too many: the scan finds it.
                self.plan(Task::Scan, NEW_PIDS_US);
                continue;
            }
            // The pid may have been given out again between reading and watching.
            let read = proc_file::stat(&self.roots.proc, pid);
            let known = self.processes.get(pid).map(|process| process.started_us);
            if read.is_ok_and(|stat| known != Some(stat.started_us)) {
                self.pidfds.forget(pid);
                self.read_process(pid, v1::Witness::Scan);
            }
        }
    }

    fn tell_left_out(&mut self) {
        let now_us = self.facts.now_us();
        if self.processes.take_left_out() > 0 {
            if self.sight.left_out_us.replace(now_us).is_none() {
                self.flush();
                let reason = "more starts and exits of workers than are said in a second";
                self.observer.blinded(v1::Source::Process, "short-lived", reason, "");
            }
        } else if self.sight.left_out_us.is_some_and(|us| us + LEFT_OUT_OVER_US < now_us) {
            self.sight.left_out_us = None;
            self.flush();
            self.observer.seeing(v1::Source::Process, "short-lived");
        }
    }

    /// Reads a process that was not seen before, or that runs another program now.
    pub(super) fn read_process(&mut self, pid: u32, witness: v1::Witness) -> bool {
        let proc = &self.roots.proc;
        let (Ok(stat), Ok(member)) = (proc_file::stat(proc, pid), proc_file::member(proc, pid))
        else {
            return true;
        };
        self.processes.seen(pid, &stat, member, witness, &mut self.facts)
    }

    /// The unit source told a main process.
    pub(super) fn main_pid(&mut self, unit: &str, pid: u32) {
        if pid != 0 {
            self.sight.started(pid);
            self.read_process(pid, v1::Witness::Systemd);
            self.looks.after_start();
            self.plan(Task::Listeners, LOOK_AFTER_START_US);
        }
        self.processes.main_pid(unit, pid, &mut self.facts);
        self.looks.want();
    }

    /// A holder of a listener was found.
    pub(super) fn process_owns(&mut self, pid: u32) {
        let proc = &self.roots.proc;
        let Ok(stat) = proc_file::stat(proc, pid) else { return };
        let member = proc_file::member(proc, pid).unwrap_or_else(|_| Membership::default());
        self.processes.owns(pid, &stat, &member, &mut self.facts);
    }
}

/// What an errno of the connector means.
fn refusal(errno: i32) -> String {
    let refused = rustix::io::Errno::CONNREFUSED.raw_os_error();
    if errno == refused {
        return "it speaks only in the first network namespace".to_owned();
    }
    std::io::Error::from_raw_os_error(errno).to_string()
}
