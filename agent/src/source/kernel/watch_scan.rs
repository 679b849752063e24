//! The net below the events: all of /proc from time to time and, where the connector is silent, every new pid.

use std::collections::BTreeSet;

use rustix::fs::inotify;
use why502_proto::v1;

use super::proc_file;
use super::thread_state::{Kernel, Task, Token};
use super::watch_process::{LOOK_AFTER_START_US, NEW_PIDS_US};

/// The net below the events: all of /proc. Reads only names where nothing is new.
const SCAN_US: u64 = 30_000_000;
/// New pids looked at one by one; beyond it a scan is cheaper.
const NEW_PIDS_MAX: u32 = 256;
/// New pids are looked at a second time so soon.
const YOUNG_US: u64 = 30_000;
/// Where systemd makes the cgroups of services: v2, v1, and v2 beside v1.
const SLICES: [&str; 3] =
    ["fs/cgroup/system.slice", "fs/cgroup/systemd/system.slice", "fs/cgroup/unified/system.slice"];

impl Kernel<'_> {
    /// systemd makes a cgroup for every service that it starts: notice enough to look for its processes.
    pub(super) fn watch_slices(&mut self) {
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

    /// Compares what is known with all of /proc.
    pub(super) fn scan_processes(&mut self) {
        self.plan(Task::Scan, SCAN_US);
        let Ok(pids) = proc_file::pids(&self.roots.proc) else {
            if self.sight.scanned != Some(false) {
                self.flush();
                let reason = format!("cannot list {}", self.roots.proc.display());
                self.observer.blinded(v1::Source::Process, "", &reason, "mount /proc");
            }
            self.sight.scanned = Some(false);
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
        if self.sight.scanned.replace(true) == Some(false) {
            // Behind all that is true now.
            self.watch_new();
            self.flush();
            self.observer.seeing(v1::Source::Process, "");
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
            if proc_file::is_thread(&self.roots.proc, pid) {
                continue;
            }
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
