//! Reading memory: which cgroups, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{Mode, OFlags, inotify, open, stat};
use why502_proto::{Kind, v1};

use super::memory_file::{self, Place, Reading, Version};
use super::proc_file;
use super::process::Process;
use super::thread_state::{Kernel, Task, Token};

/// Where the numbers of v1 notices begin.
pub(super) const OOM_TOKENS: u64 = 2 << 32;
/// Cgroups are looked at this often when they are near their limit.
const LOOK_US: u64 = 1_000_000;
/// And so many looks apart otherwise: those with a limit, and those without.
const LOOKS_LIMITED: u64 = 5;
const LOOKS_UNLIMITED: u64 = 30;
/// From this share of its limit a cgroup is looked at every time.
const NEAR_PERCENT: u64 = 80;
/// The v1 notice comes before the killer has chosen, so the counter is read again after these times.
const REREADS_US: [u64; 4] = [1_000, 5_000, 20_000, 80_000];
/// A young process that is not in its unit's memory cgroup is looked at so often, so far apart. Units without a
/// memory cgroup of their own stay so.
const SETTLES_MAX: u8 = 6;
const SETTLE_US: u64 = 40_000;
/// Re-reads that may wait.
const REREADS_MAX: usize = 256;
/// What the thread keeps to read memory.
#[derive(Debug, Default)]
pub(super) struct MemorySight {
    /// Where the memory of each watched process is counted.
    of_pid: BTreeMap<u32, String>,
    /// v1 notices by token: the eventfd, and the path that it is for.
    notices: BTreeMap<u64, (OwnedFd, String)>,
    next_notice: u64,
    inotify: Option<OwnedFd>,
    /// v2 paths by watch of inotify.
    watches: BTreeMap<i32, String>,
    rereads: BTreeSet<(u64, String)>,
    /// Young processes whose cgroup is not yet their unit's, and how often it was read.
    unsettled: BTreeMap<u32, u8>,
    looks: u64,
}

impl Kernel<'_> {
    pub(super) fn subscribe_memory(&mut self) {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        if let Ok(fd) = inotify::init(flags)
            && self.add(&fd, Token::MemoryEvents).is_ok()
        {
            self.memory_sight.inotify = Some(fd);
        }
        let file = self.roots.proc.join("pressure/memory");
        if self.watch_pressure(String::new(), file) {
            self.observer.seeing(v1::Source::Memory, "pressure");
        } else {
            let reason = "the kernel has no pressure stall information";
            self.observer.blinded(v1::Source::Memory, "pressure", reason, "boot with psi=1");
        }
        self.plan(Task::Memory, LOOK_US);
    }

    /// Counters that cannot be read count nothing: an OOM kill would look like any kill.
    pub(super) fn tell_memory_sight(&self) {
        let cgroups = self.roots.sys.join("fs/cgroup");
        let v1 = std::fs::read(cgroups.join("memory/memory.usage_in_bytes"));
        match v1.or_else(|_| std::fs::read(cgroups.join("cgroup.controllers"))) {
            Ok(_) => self.observer.seeing(v1::Source::Memory, ""),
            Err(error) => {
                let reason =
                    format!("cannot read the memory cgroups at {}: {error}", cgroups.display());
                let grant = "let the agent read /sys/fs/cgroup";
                self.observer.blinded(v1::Source::Memory, "", &reason, grant);
            }
        }
    }

    /// Where the memory of a process that matters is counted matters too.
    pub(super) fn watch_memory_of(&mut self, pid: u32) {
        let Some(process) = self.processes.get(pid) else { return };
        let parent = self.processes.get(process.ppid);
        if parent.is_some_and(|parent| parent.member == process.member)
            && let Some(path) = self.memory_sight.of_pid.get(&process.ppid)
        {
            // Inherited: no need to read it.
            self.memory_sight.of_pid.insert(pid, path.clone());
            return;
        }
        let unit = process.member.unit.clone();
        // systemd's own name for a process that does not run its program yet.
        let named = !process.comm.starts_with('(');
        let place = self.place_of(pid);
        // systemd moves a process into the hierarchies one after the other, and is seen doing so.
        let placed = unit.is_empty() || place.as_ref().is_some_and(|p| p.path.contains(&unit));
        if placed && named {
            self.memory_sight.unsettled.remove(&pid);
        } else {
            let tries = self.memory_sight.unsettled.entry(pid).or_insert(0);
            *tries += 1;
            if *tries <= SETTLES_MAX {
                self.plan(Task::Settle, SETTLE_US);
            } else {
                self.memory_sight.unsettled.remove(&pid);
            }
        }
        let Some(place) = place else { return };
        self.memory_sight.of_pid.insert(pid, place.path.clone());
        for above in place.ancestors() {
            if above.read(&self.roots.sys).is_some_and(|reading| reading.limit.is_some()) {
                self.watch_cgroup(above);
            }
        }
        self.watch_cgroup(place);
    }

    fn place_of(&self, pid: u32) -> Option<Place> {
        let text = proc_file::read(&self.roots.proc.join(format!("{pid}/cgroup"))).ok()?;
        memory_file::place(&String::from_utf8_lossy(&text))
    }

    /// Looks again where the memory of young processes is counted.
    pub(super) fn settle(&mut self) {
        let unsettled: Vec<u32> = self.memory_sight.unsettled.keys().copied().collect();
        for pid in unsettled {
            if let Ok(stat) = proc_file::stat(&self.roots.proc, pid) {
                self.processes.renamed(pid, stat.comm);
            }
            self.memory_sight.of_pid.remove(&pid);
            self.watch_memory_of(pid);
        }
    }

    fn watch_cgroup(&mut self, place: Place) {
        let directory = place.directory(&self.roots.sys);
        let (Ok(found), Some(now)) = (stat(&directory), place.read(&self.roots.sys)) else {
            return;
        };
        // A cgroup that was made after the agent began has lost nothing before: its counters begin at 0.
        let made_us = found.st_ctime.saturating_mul(1_000_000)
            + i64::try_from(found.st_ctime_nsec / 1000).unwrap_or(0);
        let begun = if made_us > self.begun.realtime_us {
            Reading { oom_kill: 0, max: 0, high: 0, ..now }
        } else {
            now
        };
        let (path, version) = (place.path.clone(), place.version);
        if !self.memory.watch(place, found.st_ino, begun, self.facts.now_us()) {
            return;
        }
        match version {
            Version::V1 => self.notify_v1(&path, &directory),
            Version::V2 => {
                if let Some(inotify) = &self.memory_sight.inotify
                    && let Ok(watch) = inotify::add_watch(
                        inotify,
                        directory.join("memory.events"),
                        inotify::WatchFlags::MODIFY,
                    )
                {
                    self.memory_sight.watches.insert(watch, path.clone());
                }
                self.watch_pressure(path.clone(), directory.join("memory.pressure"));
            }
        }
        self.memory.read(&path, now, self.facts.now_us(), &mut self.facts);
    }

    /// Asks the v1 controller to tell of a full cgroup. Needs the right to write; without it the exits tell.
    fn notify_v1(&mut self, path: &str, directory: &std::path::Path) {
        let armed = || -> rustix::io::Result<OwnedFd> {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let watched = open(directory.join("memory.oom_control"), flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let control = open(directory.join("cgroup.event_control"), flags, Mode::empty())?;
            let request = format!("{} {}", fd.as_raw_fd(), watched.as_raw_fd());
            rustix::io::write(&control, request.as_bytes())?;
            Ok(fd)
        };
        let Ok(fd) = armed() else { return };
        let token = OOM_TOKENS + self.memory_sight.next_notice;
        self.memory_sight.next_notice += 1;
        if self.add_flags(&fd, token, epoll::EventFlags::IN).is_ok() {
            self.memory_sight.notices.insert(token, (fd, path.to_owned()));
        }
    }

    /// A v1 cgroup is full, or gone.
    pub(super) fn oom_noticed(&mut self, token: u64) {
        let Some((fd, path)) = self.memory_sight.notices.get(&token) else { return };
        let _ = rustix::io::read(fd, &mut [0u8; 8]);
        let path = path.clone();
        self.read_memory(&path, self.facts.now_us());
        self.reread(&path);
        if self.memory.get(&path).is_none() {
            // The kernel signals once more when the cgroup is removed.
            self.memory_sight.notices.remove(&token);
        }
    }

    /// A v2 cgroup's events have changed.
    pub(super) fn memory_events_woken(&mut self) {
        let mut paths = BTreeSet::new();
        if let Some(fd) = &self.memory_sight.inotify {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
            let mut reader = inotify::Reader::new(fd, &mut buffer);
            while let Ok(event) = reader.next() {
                let watch = event.wd();
                if event.events().contains(inotify::ReadFlags::IGNORED) {
                    self.memory_sight.watches.remove(&watch);
                } else if let Some(path) = self.memory_sight.watches.get(&watch) {
                    paths.insert(path.clone());
                }
            }
        }
        for path in paths {
            self.read_memory(&path, self.facts.now_us());
        }
    }

    /// A process ended: if it was killed, its cgroup's counter tells by whom before anything else does.
    pub(super) fn memory_after_exit(&mut self, process: &Process, code: Option<u32>, at_us: u64) {
        let own = self.memory_sight.of_pid.remove(&process.pid);
        let unsettled = self.memory_sight.unsettled.remove(&process.pid).is_some();
        if code.is_some_and(|code| code & 0x7f != 9) {
            return;
        }
        self.flush();
        let known = own.filter(|_| !unsettled);
        let known = known.or_else(|| {
            // The zombie still tells where it was counted.
            let place = self.place_of(process.pid)?;
            self.watch_cgroup(place.clone());
            Some(place.path)
        });
        if let Some(path) = known.or_else(|| self.memory_sight.of_pid.get(&process.ppid).cloned()) {
            self.read_memory(&path, at_us);
            self.tell_uncounted(&path);
        }
        self.flush();
    }

    fn read_memory(&mut self, path: &str, at_us: u64) {
        let Some(cgroup) = self.memory.get(path) else { return };
        match cgroup.place.read(&self.roots.sys) {
            Some(reading) => self.memory.read(path, reading, at_us, &mut self.facts),
            None => self.memory.forget(path, self.facts.now_us()),
        }
    }

    /// A process was killed, and systemd removed its cgroup before the counters could be read. The kernel log tells the
    /// same a little later; who cannot read it either has not seen whether it was an OOM kill.
    fn tell_uncounted(&mut self, path: &str) {
        let now_us = self.facts.now_us();
        if self.memory.get(path).is_some() || self.log_is_read() {
            return;
        }
        let Some(cgroup) = self.memory.get_late(path, now_us) else { return };
        let blinded = v1::SourceBlinded {
            source: v1::Source::Memory.into(),
            scope: String::new(),
            reason: format!("{path} was removed before its counters could be read"),
            grant: "CAP_SYSLOG: the kernel log tells of the same kills".to_owned(),
            since_us: Some(cgroup.read_us),
        };
        self.flush();
        self.observer.observe(Kind::SourceBlinded(blinded));
        self.tell_memory_sight();
    }

    fn reread(&mut self, path: &str) {
        let now_us = self.facts.now_us();
        for after_us in REREADS_US {
            if self.memory_sight.rereads.len() < REREADS_MAX {
                self.memory_sight.rereads.insert((now_us + after_us, path.to_owned()));
            }
        }
        self.plan(Task::Reread, REREADS_US[0]);
    }

    pub(super) fn do_rereads(&mut self) {
        let now_us = self.facts.now_us();
        while let Some((due_us, path)) = self.memory_sight.rereads.first().cloned() {
            if due_us > now_us {
                self.plan(Task::Reread, due_us - now_us);
                return;
            }
            self.memory_sight.rereads.pop_first();
            self.read_memory(&path, now_us);
        }
    }

    /// The net below the notices.
    pub(super) fn look_at_memory(&mut self) {
        self.plan(Task::Memory, LOOK_US);
        self.memory_sight.looks += 1;
        let looks = self.memory_sight.looks;
        let is_due = |cgroup: &&super::memory::Cgroup| {
            cgroup.share_percent() >= NEAR_PERCENT
                || looks.is_multiple_of(LOOKS_UNLIMITED)
                || (cgroup.last.limit.is_some() && looks.is_multiple_of(LOOKS_LIMITED))
        };
        let due: Vec<String> =
            self.memory.iter().filter(is_due).map(|cgroup| cgroup.place.path.clone()).collect();
        for path in due {
            self.read_memory(&path, self.facts.now_us());
        }
        if looks.is_multiple_of(LOOKS_UNLIMITED) {
            let processes = &self.processes;
            self.memory_sight.of_pid.retain(|pid, _| processes.get(*pid).is_some());
            let memory = &self.memory;
            self.memory_sight.notices.retain(|_, (_, path)| memory.get(path).is_some());
        }
    }
}
