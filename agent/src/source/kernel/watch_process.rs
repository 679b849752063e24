//! Reading processes: connector, pidfd, scan.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::inotify;
use rustix::thread::CapabilitySet;
use why502_proto::{Kind, v1};

use super::connector::{Connector, ProcEvent};
use super::pidfds::Told;
use super::proc_file;
use super::process::{Ending, exited};
use super::thread_state::{Kernel, Task, Token};
use crate::source::cgroup::Membership;

/// The net below the events: all of /proc. Reads only names where nothing is new.
const SCAN_US: u64 = 30_000_000;
/// Where the connector is silent: have pids been given out?
const NEW_PIDS_US: u64 = 1_000_000;
/// New pids are looked at a second time so soon.
const YOUNG_US: u64 = 30_000;
/// Where systemd makes the cgroups of services: v2, v1, and v2 beside v1.
const SLICES: [&str; 3] =
    ["fs/cgroup/system.slice", "fs/cgroup/systemd/system.slice", "fs/cgroup/unified/system.slice"];
/// New pids looked at one by one; beyond it a scan is cheaper.
const NEW_PIDS_MAX: u32 = 256;
/// Events taken before other things get their turn.
const EVENTS_MAX: usize = 2048;
/// Forks in one wake-up of which /proc is read, some 15 us each; in a storm the parent's record must do.
const FORK_READS_MAX: u32 = 64;
/// Nothing was left out for so long: all is said again.
const LEFT_OUT_OVER_US: u64 = 2_000_000;
/// The connector is tried again after it was refused: a capability may have been granted with a new user.
const RETRY_US: u64 = 300_000_000;
/// A listener is not opened by the exec but some milliseconds after it.
const LOOK_AFTER_START_US: u64 = 20_000;

/// What is known about how well processes are seen.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Pids that cannot come to matter, from the last scan.
    ignored: BTreeSet<u32>,
    last_pid: u32,
    /// Events were lost at this boot time.
    overrun_us: Option<u64>,
    /// When starts and exits were left out last.
    left_out_us: Option<u64>,
    /// New pids that did not matter at the first look: systemd may not have moved them yet.
    young: Vec<u32>,
    /// Tells of new cgroups where the connector is silent.
    slices: Option<OwnedFd>,
    /// Pids that were started lately: who opens a listener is mostly one of them.
    pub(super) recent: std::collections::VecDeque<u32>,
}

/// Recently started pids that are kept.
const RECENT_MAX: usize = 64;

impl Sight {
    fn started(&mut self, pid: u32) {
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

    /// systemd makes a cgroup for every service that it starts: notice enough to look for its processes.
    fn watch_slices(&mut self) {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let Ok(fd) = inotify::init(flags) else { return };
        for slice in SLICES {
            let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::ONLYDIR;
            // Only one of them is there.
            let _ = inotify::add_watch(&fd, self.roots.sys.join(slice), flags);
        }
        if self.add(&fd, Token::Slices).is_ok() {
            self.sight.slices = Some(fd);
        }
    }

    pub(super) fn slices_woken(&mut self) {
        if let Some(fd) = &self.sight.slices {
            let mut buffer = [0u8; 4096];
            while rustix::io::read(fd, &mut buffer).is_ok_and(|length| length == buffer.len()) {}
        }
        self.plan(Task::NewPids, 0);
        self.looks.after_start();
        self.plan(Task::Listeners, LOOK_AFTER_START_US);
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
    fn process_ended(
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
    fn read_process(&mut self, pid: u32, witness: v1::Witness) -> bool {
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

    /// Compares what is known with all of /proc.
    pub(super) fn scan_processes(&mut self) {
        self.plan(Task::Scan, SCAN_US);
        let Ok(pids) = proc_file::pids(&self.roots.proc) else {
            self.flush();
            let reason = format!("cannot list {}", self.roots.proc.display());
            self.observer.blinded(v1::Source::Process, "", &reason, "mount /proc");
            return;
        };
        let mut ignored = BTreeSet::new();
        for &pid in &pids {
            if self.sight.ignored.contains(&pid) || !self.read_process(pid, v1::Witness::Scan) {
                ignored.insert(pid);
            }
        }
        self.sight.ignored = ignored;
        self.sight.last_pid = proc_file::last_pid(&self.roots.proc).unwrap_or(0);
        let gone: Vec<u32> = self
            .processes
            .iter()
            .map(|process| process.pid)
            .filter(|pid| pids.binary_search(pid).is_err() || self.is_zombie(*pid))
            .filter(|pid| !self.pidfds.is_watched(*pid))
            .collect();
        for pid in gone {
            let code = proc_file::stat(&self.roots.proc, pid).ok().map(|stat| stat.exit_code);
            let code = code.filter(|&code| code != 0);
            self.process_ended(pid, code, v1::Witness::Scan, self.facts.now_us());
        }
    }

    fn is_zombie(&self, pid: u32) -> bool {
        proc_file::stat(&self.roots.proc, pid)
            .is_ok_and(|stat| stat.state == b'Z' && stat.threads <= 1)
    }

    /// Where the connector is silent: looks at the pids that were given out since the last look.
    pub(super) fn look_for_new_pids(&mut self) {
        self.plan(Task::NewPids, NEW_PIDS_US);
        for pid in std::mem::take(&mut self.sight.young) {
            self.read_process(pid, v1::Witness::Scan);
        }
        let Some(last) = proc_file::last_pid(&self.roots.proc) else { return };
        let known = std::mem::replace(&mut self.sight.last_pid, last);
        if last == known {
            return;
        }
        if last < known || last - known > NEW_PIDS_MAX {
            // Wrapped around, or a great many: pids that were ignored may be others now.
            self.sight.ignored.clear();
            self.scan_processes();
            return;
        }
        for pid in known + 1..=last {
            self.sight.ignored.remove(&pid);
            self.sight.started(pid);
            if !self.read_process(pid, v1::Witness::Scan) {
                self.sight.young.push(pid);
            }
        }
        if !self.sight.young.is_empty() {
            self.plan(Task::NewPids, YOUNG_US);
        }
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
