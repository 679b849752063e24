//! The thread: everything that can wake it, and when it looks by itself.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;
use rustix::thread::{CapabilitySet, capabilities};
use rustix::time::{ClockId, Timespec, clock_gettime};
use why502_proto::v1::Source;

use super::Shared;
use super::connector::Connector;
use super::facts::Facts;
use super::listener::Listeners;
use super::memory::Memory;
use super::pidfds::Pidfds;
use super::process::Processes;
use super::watch_host::HostSight;
use super::watch_kmsg::LogSight;
use super::watch_listener::Looks;
use super::watch_memory::{MemorySight, OOM_TOKENS};
use super::watch_namespace::NamespaceSight;
use super::watch_pressure::{PRESSURE_TOKENS, PressureSight};
use super::watch_process::Sight;
use super::watch_stall::StallSight;
use super::watch_unix_path::PathSight;
use crate::clock::Moment;
use crate::observe::Observer;
use crate::source::sock_diag::{Destroyed, SockDiag};
use crate::source::{Interest, Roots};

/// Events taken in one wake-up; the rest wakes us again at once.
const EVENTS_MAX: usize = 64;
/// Plans this far ahead or further fall on whole seconds.
const TICK_US: u64 = 1_000_000;
/// What is found until then existed when the agent began to look.
const FIRST_LISTING_US: u64 = 2_000_000;
/// Where the numbers of notices from other network namespaces begin.
pub(super) const NAMESPACE_TOKENS: u64 = 4 << 32;
/// Where the numbers of pidfds begin.
const PIDFD_TOKENS: u64 = 1 << 32;

/// Everything but pidfds that can wake the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Token {
    Wake = 0,
    Connector = 1,
    Destroyed = 2,
    MemoryEvents = 3,
    KernelLog = 4,
    Addresses = 5,
    UnixPaths = 6,
    Slices = 7,
}

/// Everything that the thread does by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Looks at all listeners.
    Listeners,
    /// Looks for new processes by the pid that was given out last, where the connector is silent.
    NewPids,
    /// Compares what is known with all of /proc.
    Scan,
    /// Tries again for what was refused.
    Retry,
    /// Reads the memory cgroups that matter.
    Memory,
    /// Reads a memory cgroup again soon after a notice.
    Reread,
    /// Looks again at the memory cgroups of young processes.
    Settle,
    /// Reads pressure while there is some.
    Pressure,
    /// Looks at the unix socket paths that gateways declare.
    UnixPaths,
    /// Looks whether the processes behind listeners run.
    Stalls,
    /// Reads how many connections were refused.
    Overflow,
    /// Looks at the listeners of other network namespaces.
    Namespaces,
    /// Reads the host's addresses.
    Addresses,
}

/// All that the thread knows.
#[derive(Debug)]
pub(super) struct Kernel<'a> {
    pub(super) roots: &'a Roots,
    pub(super) observer: &'a Observer,
    pub(super) epoll: OwnedFd,
    pub(super) facts: Facts,
    /// When the agent began to look.
    pub(super) begun: Moment,
    pub(super) agenda: BTreeMap<Task, u64>,
    pub(super) capabilities: CapabilitySet,

    pub(super) processes: Processes,
    pub(super) connector: Option<Connector>,
    pub(super) pidfds: Pidfds,
    pub(super) sight: Sight,

    pub(super) memory: Memory,
    pub(super) memory_sight: MemorySight,
    pub(super) pressure_sight: PressureSight,

    pub(super) log_sight: LogSight,

    pub(super) listeners: Listeners,
    pub(super) sock_diag: SockDiag,
    pub(super) destroyed: Option<Destroyed>,
    pub(super) looks: Looks,
    pub(super) path_sight: PathSight,
    pub(super) stall_sight: StallSight,
    pub(super) namespace_sight: NamespaceSight,
    pub(super) host_sight: HostSight,
}

/// Looks until the last handle is gone.
pub(super) fn run(roots: &Roots, observer: &Observer, shared: &Shared) -> io::Result<()> {
    let mut kernel = Kernel::new(roots, observer)?;
    kernel.add(&shared.wake, Token::Wake)?;
    kernel.begin();
    let mut events = Vec::with_capacity(EVENTS_MAX);
    while !shared.is_closed() {
        events.clear();
        let timeout = kernel.timeout();
        match epoll::wait(
            &kernel.epoll,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        kernel.facts.set_now(Moment::now());
        for event in &events {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == Token::Wake as u64 {
                kernel.take_interests(shared.take_inbox());
            } else {
                kernel.woken(data, flags);
            }
        }
        kernel.after_events();
        kernel.do_due();
    }
    Ok(())
}

impl<'a> Kernel<'a> {
    fn new(roots: &'a Roots, observer: &'a Observer) -> io::Result<Self> {
        let now = Moment::now();
        let capabilities = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        Ok(Self {
            roots,
            observer,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            facts: Facts::new(now),
            begun: now,
            agenda: BTreeMap::new(),
            capabilities,
            processes: Processes::new(now.boottime_us),
            connector: None,
            pidfds: Pidfds::new(PIDFD_TOKENS, capabilities.contains(CapabilitySet::SYS_PTRACE)),
            sight: Sight::default(),
            memory: Memory::default(),
            memory_sight: MemorySight::default(),
            pressure_sight: PressureSight::default(),
            log_sight: LogSight::default(),
            listeners: Listeners::default(),
            sock_diag: SockDiag::open()?,
            destroyed: None,
            looks: Looks::default(),
            path_sight: PathSight::default(),
            stall_sight: StallSight::default(),
            namespace_sight: NamespaceSight::default(),
            host_sight: HostSight::default(),
        })
    }

    /// Subscribes first and lists then, so that nothing falls between.
    fn begin(&mut self) {
        self.subscribe_processes();
        self.subscribe_listeners();
        self.subscribe_memory();
        self.subscribe_log();
        self.subscribe_addresses();
        self.listeners.existing_until_us = self.begun.boottime_us + FIRST_LISTING_US;
        self.scan_processes();
        self.look_at_listeners();
        self.look_at_namespaces();
        self.look_for_stalls();
        self.look_for_overflow();
        self.watch_new();
        self.flush();
        if self.sight.scanned == Some(true) {
            self.observer.seeing(Source::Process, "");
        }
        if !self.looks.failed {
            self.observer.seeing(Source::Listener, "");
        }
        self.tell_memory_sight();
    }

    fn take_interests(&mut self, interests: Vec<Interest>) {
        for interest in interests {
            match interest {
                Interest::MainPid { unit, pid } => self.main_pid(&unit, pid),
                Interest::UnixPaths(clients) => self.unix_paths_told(clients),
            }
        }
        self.flush();
    }

    fn woken(&mut self, token: u64, flags: epoll::EventFlags) {
        if self.pidfds.owns(token) {
            self.pidfd_woken(token, flags.contains(epoll::EventFlags::HUP));
        } else if token >= NAMESPACE_TOKENS {
            self.namespace_woken(token);
        } else if token >= PRESSURE_TOKENS {
            self.pressure_woken(token, flags);
        } else if token >= OOM_TOKENS {
            self.oom_noticed(token);
        } else if token == Token::MemoryEvents as u64 {
            self.memory_events_woken();
        } else if token == Token::KernelLog as u64 {
            self.log_woken();
        } else if token == Token::UnixPaths as u64 {
            self.unix_paths_woken();
        } else if token == Token::Slices as u64 {
            self.slices_woken();
        } else if token == Token::Addresses as u64 {
            self.addresses_woken();
        } else if token == Token::Connector as u64 {
            self.connector_woken();
        } else if token == Token::Destroyed as u64 {
            self.destroyed_woken();
        }
    }

    /// A death goes out before anything else is looked at.
    fn after_events(&mut self) {
        self.watch_new();
        self.match_waiting();
        self.flush();
        if self.looks.is_wanted() {
            self.look_at_listeners();
            self.flush();
        }
        if self.path_sight.is_wanted() {
            self.look_at_unix_paths();
            self.flush();
        }
    }

    fn do_due(&mut self) {
        let now_us = self.facts.now_us();
        let due: Vec<Task> =
            self.agenda.iter().filter(|(_, at)| **at <= now_us).map(|(task, _)| *task).collect();
        for task in due {
            self.agenda.remove(&task);
            match task {
                Task::Listeners => self.look_at_listeners(),
                Task::NewPids => self.look_for_new_pids(),
                Task::Scan => self.scan_processes(),
                Task::Retry => self.retry(),
                Task::Memory => self.look_at_memory(),
                Task::Reread => self.do_rereads(),
                Task::Settle => self.settle(),
                Task::Pressure => self.look_at_pressure(),
                Task::Stalls => self.look_for_stalls(),
                Task::Overflow => self.look_for_overflow(),
                Task::Namespaces => self.look_at_namespaces(),
                Task::Addresses => self.look_at_addresses(),
                Task::UnixPaths => self.unix_paths_due(),
            }
            self.watch_new();
            self.flush();
        }
    }

    /// Does `task` after `after_us`, or earlier if it is planned already.
    pub(super) fn plan(&mut self, task: Task, after_us: u64) {
        let at = self.facts.now_us() + after_us;
        // What is not urgent happens together, so that an idle host wakes the thread once a second.
        let at = if after_us >= TICK_US { at / TICK_US * TICK_US } else { at };
        let planned = self.agenda.entry(task).or_insert(at);
        *planned = at.min(*planned);
    }

    pub(super) fn flush(&mut self) {
        self.facts.flush(self.observer);
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?;
        Ok(())
    }

    pub(super) fn add_flags(
        &self,
        fd: impl AsFd,
        token: u64,
        flags: epoll::EventFlags,
    ) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)
    }

    /// Whole milliseconds, which every kernel's epoll takes; rounded up so as not to wake too early.
    fn timeout(&self) -> Option<Timespec> {
        let next_us = *self.agenda.values().min()?;
        let wait_ms = next_us.saturating_sub(Moment::now().boottime_us).div_ceil(1000);
        let wait_ms = i64::try_from(wait_ms).unwrap_or(i64::MAX);
        Some(Timespec { tv_sec: wait_ms / 1000, tv_nsec: wait_ms % 1000 * 1_000_000 })
    }

    /// The boot time of a moment that the kernel gave in CLOCK_MONOTONIC: they differ by the time asleep.
    pub(super) fn boottime_of(&self, monotonic_ns: u64) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        let ago_us = u64::try_from(now_us).unwrap_or(0).saturating_sub(monotonic_ns / 1000);
        Moment::now().boottime_us.saturating_sub(ago_us)
    }
}
