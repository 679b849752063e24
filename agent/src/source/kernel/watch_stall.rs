//! Reading whether the processes behind listeners run, and whether the kernel refuses connections.

use std::collections::{BTreeMap, BTreeSet};

use why502_proto::{Kind, v1};

use super::proc_file;
use super::process::Process;
use super::stall::{Look, Stalls};
use super::thread_state::{Kernel, Task};

/// The oldest holder of each listener is looked at this often, some 15 us each.
const LOOK_US: u64 = 2_000_000;
/// While connections wait in a queue, or something stalls.
const LOOK_SUSPECT_US: u64 = 1_000_000;
/// Main processes are looked at as often for so long after their start: they may open a listener yet.
const YOUNG_US: u64 = 60_000_000;
/// Its workers are looked at every so many looks.
const LOOKS_OF_WORKERS: u64 = 3;
/// Processes looked at in one look.
const PROCESSES_MAX: usize = 512;
/// The counters of refused connections are read this often, and more often while a queue is not empty.
const OVERFLOW_US: u64 = 5_000_000;
const OVERFLOW_SUSPECT_US: u64 = 1_000_000;

/// What the thread keeps of processes that stall and of queues that overflow.
#[derive(Debug, Default)]
pub(super) struct StallSight {
    stalls: Stalls,
    looks: u64,
    /// Last counters by network namespace, and when they were read.
    overflow: BTreeMap<u64, (Refused, u64)>,
}

/// `ListenOverflows` and `ListenDrops` of TcpExt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    overflows: u64,
    drops: u64,
}

impl Refused {
    /// Reads /proc/net/netstat: lines in pairs, names above numbers.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
        let (names, numbers) = (lines.next()?, lines.next()?);
        let value = |wanted: &str| {
            let at = names.split_ascii_whitespace().position(|name| name == wanted)?;
            numbers.split_ascii_whitespace().nth(at)?.parse().ok()
        };
        Some(Self { overflows: value("ListenOverflows")?, drops: value("ListenDrops")? })
    }
}

impl Kernel<'_> {
    pub(super) fn look_for_stalls(&mut self) {
        let suspect = self.listeners.any_waiting() || self.stall_sight.stalls.any();
        self.plan(Task::Stalls, if suspect { LOOK_SUSPECT_US } else { LOOK_US });
        self.stall_sight.looks += 1;
        let workers_too = suspect || self.stall_sight.looks.is_multiple_of(LOOKS_OF_WORKERS);
        let holders: BTreeSet<u32> =
            self.listeners.iter().filter_map(|l| l.owner.as_ref()).map(|p| p.pid).collect();
        let own = std::process::id();
        let now_us = self.facts.now_us();
        let young = |p: &Process| p.main && p.started_us + YOUNG_US > now_us;
        let chosen: Vec<u32> = self
            .processes
            .iter()
            .filter(|p| holders.contains(&p.pid) || young(p) || (workers_too && (p.owns || p.main)))
            .map(|p| p.pid)
            .filter(|&pid| pid != own)
            .take(PROCESSES_MAX)
            .collect();
        let mut frozen = BTreeMap::new();
        for pid in chosen {
            self.look_at_run_state(pid, holders.contains(&pid), workers_too, &mut frozen);
        }
        let processes = &self.processes;
        self.stall_sight
            .stalls
            .keep(|pid, started| processes.get(pid).is_some_and(|p| p.started_us == started));
    }

    fn look_at_run_state(
        &mut self,
        pid: u32,
        holder: bool,
        look_frozen: bool,
        frozen: &mut BTreeMap<String, bool>,
    ) {
        let Ok(stat) = proc_file::stat(&self.roots.proc, pid) else { return };
        let Some(process) = self.processes.get(pid) else { return };
        // A zombie has ended; who watches exits says so.
        if process.started_us.abs_diff(stat.started_us) > 10_000 || stat.state == b'Z' {
            return;
        }
        let path = &process.member.path;
        let frozen = match frozen.get(path) {
            Some(&frozen) => frozen,
            // State D may be the v1 freezer's doing.
            None if look_frozen || stat.state == b'D' => {
                let is = is_frozen(&self.roots.sys, path);
                frozen.insert(path.clone(), is);
                is
            }
            None => false,
        };
        let look = Look { state: stat.state, cpu_ticks: stat.cpu_ticks, frozen };
        let (listeners, now_us) = (&self.listeners, self.facts.now_us());
        let addresses = || listeners.addresses_of(pid, now_us);
        self.stall_sight.stalls.look(process, look, holder, addresses, &mut self.facts);
    }

    pub(super) fn look_for_overflow(&mut self) {
        let suspect = self.listeners.any_waiting();
        self.plan(Task::Overflow, if suspect { OVERFLOW_SUSPECT_US } else { OVERFLOW_US });
        let mut namespaces = vec![(0, self.roots.proc.join("net/netstat"))];
        namespaces.extend(
            self.namespace_sight
                .readers()
                .map(|(netns, pid)| (netns, self.roots.proc.join(format!("{pid}/net/netstat")))),
        );
        let known: BTreeSet<u64> = namespaces.iter().map(|(netns, _)| *netns).collect();
        self.stall_sight.overflow.retain(|netns, _| known.contains(netns));
        for (netns, path) in namespaces {
            let Ok(text) = proc_file::read(&path) else { continue };
            if let Some(refused) = Refused::parse(&String::from_utf8_lossy(&text)) {
                self.refused(netns, refused);
            }
        }
    }

    fn refused(&mut self, netns: u64, refused: Refused) {
        let now_us = self.facts.now_us();
        let Some((last, at_us)) = self.stall_sight.overflow.insert(netns, (refused, now_us)) else {
            return;
        };
        let overflows = refused.overflows.saturating_sub(last.overflows);
        // Drops alone have other reasons; they are said beside overflows.
        if overflows == 0 {
            return;
        }
        self.facts.say(Kind::AcceptOverflow(v1::AcceptOverflow {
            netns,
            overflows,
            drops: refused.drops.saturating_sub(last.drops),
            period_ms: now_us.saturating_sub(at_us) / 1000,
            addresses: self.listeners.full(netns),
        }));
    }
}

/// Whether a cgroup is frozen, by the v2 file or the v1 freezer.
fn is_frozen(sys: &std::path::Path, path: &str) -> bool {
    let below = path.trim_start_matches('/');
    if below.is_empty() {
        return false;
    }
    let line = |file: std::path::PathBuf, wanted: &str| {
        proc_file::read(&file)
            .is_ok_and(|text| String::from_utf8_lossy(&text).lines().any(|line| line == wanted))
    };
    ["fs/cgroup", "fs/cgroup/unified"]
        .iter()
        .any(|mount| line(sys.join(mount).join(below).join("cgroup.events"), "frozen 1"))
        || line(sys.join("fs/cgroup/freezer").join(below).join("freezer.state"), "FROZEN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_below_their_names() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops Last\nTcpExt: 1 34 35 9\n\
            IpExt: InNoRoutes ListenDrops\nIpExt: 1 2\n";
        assert_eq!(Refused::parse(text), Some(Refused { overflows: 34, drops: 35 }));
        for garbage in ["", "TcpExt: ListenOverflows\n", "TcpExt: ListenOverflows\nTcpExt: x\n"] {
            assert_eq!(Refused::parse(garbage), None);
        }
    }

    #[test]
    fn frozen_by_either_freezer() {
        let sys = tempfile::tempdir().unwrap();
        let unified = sys.path().join("fs/cgroup/a.service");
        let v1 = sys.path().join("fs/cgroup/freezer/b.service");
        for directory in [&unified, &v1] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::fs::write(unified.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        std::fs::write(v1.join("freezer.state"), "FROZEN\n").unwrap();
        assert!(is_frozen(sys.path(), "/a.service"));
        assert!(is_frozen(sys.path(), "/b.service"));
        assert!(!is_frozen(sys.path(), "/c.service"));
        std::fs::write(unified.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(!is_frozen(sys.path(), "/a.service"));
    }
}
