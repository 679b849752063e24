//! Reading memory: which cgroups, when to read them, and pressure.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{Mode, OFlags, inotify, open, stat};
use why502_proto::{Kind, v1};

use super::memory_file::{self, Place, Reading, Version};
use super::proc_file;
use super::process::Process;
use super::thread_state::{Kernel, Task, Token};
use crate::source::cgroup::of_path;

/// Where the numbers of v1 notices begin.
pub(super) const OOM_TOKENS: u64 = 2 << 32;
/// Where the numbers of pressure triggers begin.
pub(super) const PRESSURE_TOKENS: u64 = 3 << 32;
/// Cgroups are looked at this often when they are near their limit.
const LOOK_US: u64 = 1_000_000;
/// And so many looks apart otherwise: those with a limit, and those without.
const LOOKS_LIMITED: u64 = 5;
const LOOKS_UNLIMITED: u64 = 30;
/// From this share of its limit a cgroup is looked at every time.
const NEAR_PERCENT: u64 = 80;
/// The v1 notice comes before the killer has chosen, so the counter is read again after these times.
const REREADS_US: [u64; 4] = [1_000, 5_000, 20_000, 80_000];
/// Re-reads that may wait.
const REREADS_MAX: usize = 256;
/// Pressure triggers at once; each is a descriptor and a timer in the kernel.
const PRESSURES_MAX: usize = 64;
/// Tasks waited for memory for a tenth of two seconds. Windows of 2 s need no capability.
const TRIGGER: &[u8] = b"some 200000 2000000\0";
/// While there is pressure it is read this often.
const PRESSURE_LOOK_US: u64 = 2_000_000;
/// Without triggers.
const PRESSURE_POLL_US: u64 = 5_000_000;
/// The stall is over when `some` fell below this and no trigger came for ten seconds.
const PRESSURE_OVER_PERMYRIAD: u32 = 200;
const PRESSURE_OVER_US: u64 = 10_000_000;
/// Pressure is said again when `some` or `full` passes one of these.
const PRESSURE_STEPS: [u32; 5] = [500, 1000, 2000, 4000, 7000];

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
    looks: u64,
    pressures: BTreeMap<u64, Pressure>,
    next_pressure: u64,
}

/// Pressure of the host (empty path) or of a cgroup.
#[derive(Debug)]
struct Pressure {
    cgroup: String,
    file: PathBuf,
    trigger: Option<OwnedFd>,
    /// `memory_pressure` was said, with this many steps passed.
    said: Option<(usize, usize)>,
    triggered_us: u64,
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
        let Ok(text) = proc_file::read(&self.roots.proc.join(format!("{pid}/cgroup"))) else {
            return;
        };
        let Some(place) = memory_file::place(&String::from_utf8_lossy(&text)) else { return };
        self.memory_sight.of_pid.insert(pid, place.path.clone());
        for above in place.ancestors() {
            if above.read(&self.roots.sys).is_some_and(|reading| reading.limit.is_some()) {
                self.watch_cgroup(above);
            }
        }
        self.watch_cgroup(place);
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
        if !self.memory.watch(place, found.st_ino, begun) {
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
        let Some(path) = own.or_else(|| self.memory_sight.of_pid.get(&process.ppid).cloned())
        else {
            return;
        };
        if code.is_none_or(|code| code & 0x7f == 9) {
            self.flush();
            self.read_memory(&path, at_us);
            self.flush();
        }
    }

    fn read_memory(&mut self, path: &str, at_us: u64) {
        let Some(cgroup) = self.memory.get(path) else { return };
        match cgroup.place.read(&self.roots.sys) {
            Some(reading) => self.memory.read(path, reading, at_us, &mut self.facts),
            None => self.memory.forget(path),
        }
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

    /// Watches a pressure file. `false`: there is none.
    fn watch_pressure(&mut self, cgroup: String, file: PathBuf) -> bool {
        if proc_file::read(&file).is_err() {
            return false;
        }
        if self.memory_sight.pressures.len() >= PRESSURES_MAX {
            return true;
        }
        let token = PRESSURE_TOKENS + self.memory_sight.next_pressure;
        self.memory_sight.next_pressure += 1;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let armed = open(&file, flags, Mode::empty()).and_then(|fd| {
            rustix::io::write(&fd, TRIGGER)?;
            self.add_flags(&fd, token, epoll::EventFlags::PRI)?;
            Ok(fd)
        });
        // Without a trigger (before 6.6 it takes CAP_SYS_RESOURCE) the averages are read every few seconds.
        if armed.is_err() {
            self.plan(Task::Pressure, PRESSURE_POLL_US);
        }
        let trigger = armed.ok();
        let pressure = Pressure { cgroup, file, trigger, said: None, triggered_us: 0 };
        self.memory_sight.pressures.insert(token, pressure);
        true
    }

    pub(super) fn pressure_woken(&mut self, token: u64, flags: epoll::EventFlags) {
        if flags.contains(epoll::EventFlags::ERR) {
            // The cgroup is gone.
            self.end_pressure(token);
            return;
        }
        let now_us = self.facts.now_us();
        if let Some(pressure) = self.memory_sight.pressures.get_mut(&token) {
            pressure.triggered_us = now_us;
        }
        self.read_pressure(token);
        self.plan(Task::Pressure, PRESSURE_LOOK_US);
    }

    pub(super) fn look_at_pressure(&mut self) {
        let tokens: Vec<u64> = self.memory_sight.pressures.keys().copied().collect();
        for token in tokens {
            self.read_pressure(token);
        }
        let pressures = &self.memory_sight.pressures;
        let (active, polled) = (
            pressures.values().any(|p| p.said.is_some()),
            pressures.values().any(|p| p.trigger.is_none()),
        );
        if active {
            self.plan(Task::Pressure, PRESSURE_LOOK_US);
        } else if polled {
            self.plan(Task::Pressure, PRESSURE_POLL_US);
        }
    }

    fn read_pressure(&mut self, token: u64) {
        let Some(pressure) = self.memory_sight.pressures.get_mut(&token) else { return };
        let read = proc_file::read(&pressure.file)
            .ok()
            .and_then(|text| memory_file::pressure(&String::from_utf8_lossy(&text)));
        let Some((some, full)) = read else {
            self.end_pressure(token);
            return;
        };
        if let Some(fact) = pressure.look(some, full, self.facts.now_us()) {
            self.facts.say(Kind::MemoryPressure(fact));
        }
    }

    fn end_pressure(&mut self, token: u64) {
        let Some(mut pressure) = self.memory_sight.pressures.remove(&token) else { return };
        if pressure.said.take().is_some() {
            self.facts.say(Kind::MemoryPressure(pressure.fact(0, 0, true)));
        }
    }
}

impl Pressure {
    /// Takes a reading; the fact, if it is worth one.
    fn look(&mut self, some: u32, full: u32, now_us: u64) -> Option<v1::MemoryPressure> {
        let steps = |share: u32| PRESSURE_STEPS.iter().filter(|&&step| share >= step).count();
        let reached = (steps(some), steps(full));
        let triggered = self.triggered_us + PRESSURE_OVER_US > now_us && self.triggered_us > 0;
        match self.said {
            None if triggered || reached.0 > 1 || reached.1 > 0 => {
                self.said = Some(reached);
                Some(self.fact(some, full, false))
            }
            Some(_) if !triggered && some < PRESSURE_OVER_PERMYRIAD => {
                self.said = None;
                Some(self.fact(some, full, true))
            }
            Some(said) if reached.0 > said.0 || reached.1 > said.1 => {
                self.said = Some((reached.0.max(said.0), reached.1.max(said.1)));
                Some(self.fact(some, full, false))
            }
            _ => None,
        }
    }

    fn fact(&self, some: u32, full: u32, ended: bool) -> v1::MemoryPressure {
        v1::MemoryPressure {
            cgroup: self.cgroup.clone(),
            unit: of_path(&self.cgroup).unit,
            some_permyriad: some,
            full_permyriad: full,
            ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of `some` and `full`, 2 s apart; `true` where the trigger came.
    #[track_caller]
    fn check(readings: &[(bool, u32, u32)], expected: &[(u32, u32, bool)]) {
        let mut pressure = Pressure {
            cgroup: String::new(),
            file: PathBuf::new(),
            trigger: None,
            said: None,
            triggered_us: 0,
        };
        let mut said = Vec::new();
        for (at, &(triggered, some, full)) in (1u64..).zip(readings) {
            let now_us = 100_000_000 + at * PRESSURE_LOOK_US;
            if triggered {
                pressure.triggered_us = now_us;
            }
            let fact = pressure.look(some, full, now_us);
            said.extend(fact.map(|f| (f.some_permyriad, f.full_permyriad, f.ended)));
        }
        assert_eq!(said, expected);
    }

    #[test]
    fn pressure_begins_grows_and_ends() {
        let over = [(false, 100, 0); 5];
        let mut readings =
            vec![(true, 180, 50), (true, 300, 60), (true, 1200, 700), (false, 900, 0)];
        readings.extend(over);
        check(&readings, &[(180, 50, false), (1200, 700, false), (100, 0, true)]);
    }

    #[test]
    fn without_a_trigger_the_averages_tell() {
        check(&[(false, 1100, 0), (false, 150, 0)], &[(1100, 0, false), (150, 0, true)]);
        check(&[(false, 600, 0), (false, 150, 0)], &[]);
    }
}
