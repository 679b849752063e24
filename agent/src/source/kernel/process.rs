//! The processes that matter, and what becomes of them.
//!
//! Pure: who read it (connector, pidfd, scan) hands in what was read and takes the facts out. A process is named by its
//! pid and its start, so a pid that was given out again is another process. Every process of a unit or container is
//! kept; it *matters*, and facts speak of it, once its unit owns a listener or was named by the unit source. Outside
//! of units the owners of listeners and their children matter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use why502_proto::{Kind, v1};

use super::facts::Facts;
use super::proc_file::Stat;
use crate::source::cgroup::Membership;

/// Processes kept at once, some 300 B each. A fork storm beyond it loses the youngest, and a scan finds what stays.
const LIVE_MAX: usize = 8192;
/// Units that matter at once. Transient units come and go; the ones without processes make room.
const UNITS_MAX: usize = 2048;
/// Exits kept because their unit may turn out to matter: the unit source speaks some milliseconds later.
const DEAD_MAX: usize = 64;
/// How long such an exit is kept.
const DEAD_KEPT_US: u64 = 3_000_000;
/// Starts and exits with status 0 of ordinary workers that are said in a second; owners, main processes and
/// failures are said beyond it.
const ORDINARY_PER_SECOND_MAX: u32 = 200;
/// Failures of ordinary workers that are said in a second.
const FAILED_PER_SECOND_MAX: u32 = 1000;
/// The coarsest difference between two readings of one start: one tick of the kernel, either way.
const SAME_START_US: u64 = 10_000;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) ppid: u32,
    pub(super) started_us: u64,
    pub(super) comm: String,
    pub(super) member: Membership,
    /// Facts speak of it.
    pub(super) matters: bool,
    /// Its unit's main process.
    pub(super) main: bool,
    /// It was found to hold a listener. Its workers, which inherit it, are told by the listener.
    pub(super) owns: bool,
    /// Its start was said, so its exit will be.
    said: bool,
}

impl Process {
    /// Outside of units: its children are workers of the listener that it holds. Those of systemd, which holds sockets
    /// too, are services that it has not moved yet.
    fn has_workers(&self) -> bool {
        self.owns && home(&self.member).is_empty() && !self.member.path.ends_with("/init.scope")
    }
}

/// How a process ended, and who saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// As wait(2) gives it. `None`: nobody could tell.
    pub(super) code: Option<u32>,
    pub(super) witness: v1::Witness,
    /// Boot time of the end.
    pub(super) at_us: u64,
}

/// All processes that matter or may come to.
#[derive(Debug)]
pub(super) struct Processes {
    live: BTreeMap<u32, Process>,
    /// Units and containers that matter; the main process, where the unit source told it.
    units: BTreeMap<String, Option<u32>>,
    dead: VecDeque<(Process, Ending)>,
    ordinary: Quota,
    failed: Quota,
    /// Boot time at which the agent began to look: what started before existed.
    begun_us: u64,
    /// Processes that facts began to speak of since [`Self::take_watchable`].
    watchable: BTreeSet<u32>,
}

impl Processes {
    pub(super) fn new(begun_us: u64) -> Self {
        Self {
            live: BTreeMap::new(),
            units: BTreeMap::new(),
            dead: VecDeque::new(),
            ordinary: Quota::new(ORDINARY_PER_SECOND_MAX),
            failed: Quota::new(FAILED_PER_SECOND_MAX),
            begun_us,
            watchable: BTreeSet::new(),
        }
    }

    pub(super) fn get(&self, pid: u32) -> Option<&Process> {
        self.live.get(&pid)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Process> {
        self.live.values()
    }

    /// The processes that became watchable since the last call.
    pub(super) fn take_watchable(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.watchable)
    }

    /// Whether facts speak of this unit or container.
    pub(super) fn minds(&self, member: &Membership) -> bool {
        self.units.contains_key(home(member))
    }

    /// A process was read. Returns `false` when it cannot come to matter and need not be read again.
    pub(super) fn seen(
        &mut self,
        pid: u32,
        stat: &Stat,
        member: Membership,
        witness: v1::Witness,
        facts: &mut Facts,
    ) -> bool {
        if let Some(known) = self.live.get_mut(&pid) {
            if known.started_us.abs_diff(stat.started_us) <= SAME_START_US {
                known.comm.clone_from(&stat.comm);
                known.ppid = stat.ppid;
                if known.member == member {
                    return true;
                }
                return self.moved(pid, member, witness, facts);
            }
            let ending = Ending {
                code: None,
                witness: v1::Witness::Scan,
                at_us: stat.started_us.max(known.started_us),
            };
            self.ended(pid, ending, Vec::new(), facts);
        }
        let child_of_owner = self.live.get(&stat.ppid).is_some_and(Process::has_workers);
        if home(&member).is_empty() && !child_of_owner {
            return false;
        }
        let process = Process {
            pid,
            ppid: stat.ppid,
            started_us: stat.started_us,
            comm: stat.comm.clone(),
            matters: child_of_owner || self.minds(&member),
            member,
            main: false,
            owns: false,
            said: false,
        };
        self.insert(process, witness, facts);
        true
    }

    /// The connector told of a fork. `read` is what /proc said, where there was time to read it.
    pub(super) fn forked(
        &mut self,
        (parent, child): (u32, u32),
        started_us: u64,
        read: Option<Stat>,
        facts: &mut Facts,
    ) {
        let Some(from) = self.live.get(&parent) else { return };
        let in_unit = !home(&from.member).is_empty();
        if !in_unit && !from.has_workers() {
            return;
        }
        let process = Process {
            pid: child,
            ppid: parent,
            started_us: read.as_ref().map_or(started_us, |stat| stat.started_us),
            comm: read.map_or_else(|| from.comm.clone(), |stat| stat.comm),
            matters: from.matters,
            member: from.member.clone(),
            main: false,
            owns: false,
            said: false,
        };
        self.insert(process, v1::Witness::Connector, facts);
    }

    /// A process holds a listener, so it and its unit matter.
    pub(super) fn owns(&mut self, pid: u32, stat: &Stat, member: &Membership, facts: &mut Facts) {
        let home = home(member).to_owned();
        if !home.is_empty() {
            self.mind(home, facts);
        }
        if self
            .live
            .get(&pid)
            .is_none_or(|p| p.started_us.abs_diff(stat.started_us) > SAME_START_US)
        {
            let process = Process {
                pid,
                ppid: stat.ppid,
                started_us: stat.started_us,
                comm: stat.comm.clone(),
                member: member.clone(),
                matters: true,
                main: false,
                owns: true,
                said: false,
            };
            self.insert(process, v1::Witness::Scan, facts);
        } else if let Some(process) = self.live.get_mut(&pid) {
            process.owns = true;
            process.matters = true;
            process.comm.clone_from(&stat.comm);
            self.say_started(pid, v1::Witness::Scan, facts);
        }
    }

    /// Another program runs in it, or it named itself anew.
    pub(super) fn renamed(&mut self, pid: u32, comm: String) {
        if let Some(process) = self.live.get_mut(&pid) {
            process.comm = comm;
        }
    }

    /// The process holds no listener any more.
    pub(super) fn owns_no_more(&mut self, pid: u32) {
        if let Some(process) = self.live.get_mut(&pid) {
            process.owns = false;
        }
    }

    /// The unit source told the main process of a unit; 0 when it has none.
    pub(super) fn main_pid(&mut self, unit: &str, pid: u32, facts: &mut Facts) {
        self.mind(unit.to_owned(), facts);
        if pid == 0 {
            return;
        }
        self.units.insert(unit.to_owned(), Some(pid));
        if let Some(process) = self.live.get_mut(&pid)
            && process.member.unit == unit
        {
            process.main = true;
        }
    }

    /// A process ended. `listeners` are the addresses that it held. Says it at once or, where its unit may yet turn out
    /// to matter, then. Returns the process where facts speak of it.
    pub(super) fn ended(
        &mut self,
        pid: u32,
        ending: Ending,
        listeners: Vec<String>,
        facts: &mut Facts,
    ) -> Option<Process> {
        let mut process = self.live.remove(&pid)?;
        self.watchable.remove(&pid);
        process.main = process.main || self.is_main(&process);
        if !process.matters {
            if self.dead.len() == DEAD_MAX {
                self.dead.pop_front();
            }
            self.dead.push_back((process, ending));
            return None;
        }
        self.say_ended(&process, ending, listeners, facts);
        Some(process)
    }

    /// Starts and exits that were left out since the last call, because there were too many.
    pub(super) fn take_left_out(&mut self) -> u64 {
        self.ordinary.take_left_out() + self.failed.take_left_out()
    }

    fn insert(&mut self, process: Process, witness: v1::Witness, facts: &mut Facts) {
        if self.live.len() >= LIVE_MAX && !process.owns {
            self.ordinary.leave_out();
            return;
        }
        let pid = process.pid;
        self.live.insert(pid, process);
        let main = self.live.get(&pid).is_some_and(|process| self.is_main(process));
        if let Some(process) = self.live.get_mut(&pid) {
            process.main = main;
        }
        self.say_started(pid, witness, facts);
    }

    /// A process was moved to another cgroup: systemd forks before it moves, and sessions leave their service.
    fn moved(
        &mut self,
        pid: u32,
        member: Membership,
        witness: v1::Witness,
        facts: &mut Facts,
    ) -> bool {
        let minded = self.minds(&member);
        let Some(process) = self.live.get_mut(&pid) else { return false };
        process.member = member;
        process.main = false;
        if home(&process.member).is_empty() && !process.owns {
            self.live.remove(&pid);
            return false;
        }
        process.matters = process.owns || minded;
        self.say_started(pid, witness, facts);
        true
    }

    /// From here on a unit or container matters, with every process that it has, and those that just ended.
    fn mind(&mut self, home: String, facts: &mut Facts) {
        if self.units.contains_key(&home) {
            return;
        }
        if self.units.len() >= UNITS_MAX {
            let inhabited: BTreeSet<&str> =
                self.live.values().map(|process| self::home(&process.member)).collect();
            self.units.retain(|unit, _| inhabited.contains(unit.as_str()));
        }
        self.units.insert(home.clone(), None);
        let members: Vec<u32> = self
            .live
            .values()
            .filter(|process| self::home(&process.member) == home)
            .map(|process| process.pid)
            .collect();
        for pid in members {
            if let Some(process) = self.live.get_mut(&pid) {
                process.matters = true;
            }
            self.say_started(pid, v1::Witness::Scan, facts);
        }
        self.say_recently_dead(&home, facts);
    }

    fn say_recently_dead(&mut self, home: &str, facts: &mut Facts) {
        let dead = std::mem::take(&mut self.dead);
        for (process, ending) in dead {
            if ending.at_us + DEAD_KEPT_US < facts.now_us() {
                continue;
            }
            if self::home(&process.member) == home {
                self.say_ended(&process, ending, Vec::new(), facts);
            } else {
                self.dead.push_back((process, ending));
            }
        }
    }

    /// The main process is the one that the unit source named; while it named none that lives, the one whose parent is
    /// outside of the unit.
    fn is_main(&self, process: &Process) -> bool {
        let home = home(&process.member);
        if home.is_empty() {
            return false;
        }
        match self.units.get(home) {
            Some(Some(pid)) if *pid == process.pid => true,
            Some(Some(pid)) if self.live.contains_key(pid) => false,
            _ => self.live.get(&process.ppid).is_none_or(|p| self::home(&p.member) != home),
        }
    }

    fn say_started(&mut self, pid: u32, witness: v1::Witness, facts: &mut Facts) {
        let Some(process) = self.live.get_mut(&pid) else { return };
        if !process.matters || process.said {
            return;
        }
        let existing = process.started_us < self.begun_us;
        let ordinary = !process.owns && !process.main && !existing;
        if ordinary && !self.ordinary.take(facts.now_us()) {
            return;
        }
        process.said = true;
        self.watchable.insert(pid);
        let fact = Kind::ProcessStarted(v1::ProcessStarted {
            pid,
            ppid: process.ppid,
            unit: process.member.unit.clone(),
            container: process.member.container.clone(),
            comm: process.comm.clone(),
            started_us: process.started_us,
            existing,
            witness: witness.into(),
        });
        if existing { facts.say(fact) } else { facts.say_at(process.started_us, fact) }
    }

    fn say_ended(
        &mut self,
        process: &Process,
        ending: Ending,
        listeners: Vec<String>,
        facts: &mut Facts,
    ) {
        let ordinary = !process.owns && !process.main;
        let quota = if ending.code == Some(0) { &mut self.ordinary } else { &mut self.failed };
        if ordinary && !quota.take(facts.now_us()) {
            return;
        }
        facts.say_at(ending.at_us, Kind::ProcessExited(exited(process, ending, listeners)));
    }
}

/// The fact of an exit.
pub(super) fn exited(
    process: &Process,
    ending: Ending,
    listeners: Vec<String>,
) -> v1::ProcessExited {
    let signal = ending.code.map(|code| code & 0x7f).filter(|&signal| signal != 0);
    v1::ProcessExited {
        pid: process.pid,
        ppid: process.ppid,
        unit: process.member.unit.clone(),
        container: process.member.container.clone(),
        comm: process.comm.clone(),
        started_us: process.started_us,
        status: ending.code.filter(|_| signal.is_none()).map(|code| code >> 8 & 0xff),
        signal,
        core: ending.code.is_some_and(|code| code & 0x80 != 0),
        lifetime_ms: Some(ending.at_us.saturating_sub(process.started_us) / 1000),
        main: process.main,
        listeners,
        witness: ending.witness.into(),
    }
}

/// What binds processes together: the unit, or the container.
fn home(member: &Membership) -> &str {
    if member.unit.is_empty() { &member.container } else { &member.unit }
}

/// So many in a second, and a count of the rest.
#[derive(Debug)]
struct Quota {
    per_second_max: u32,
    second: u64,
    taken: u32,
    left_out: u64,
}

impl Quota {
    fn new(per_second_max: u32) -> Self {
        Self { per_second_max, second: 0, taken: 0, left_out: 0 }
    }

    fn take(&mut self, now_us: u64) -> bool {
        let second = now_us / 1_000_000;
        if second != self.second {
            (self.second, self.taken) = (second, 0);
        }
        if self.taken >= self.per_second_max {
            self.leave_out();
            return false;
        }
        self.taken += 1;
        true
    }

    fn leave_out(&mut self) {
        self.left_out += 1;
    }

    fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::clock::Moment;
    use crate::source::cgroup::membership;

    /// What happens to processes, in the order in which it is read.
    enum Read {
        /// pid, parent, start in seconds, path of the cgroup
        Seen(u32, u32, u64, &'static str),
        Owns(u32, u32, u64, &'static str),
        Forked(u32, u32),
        MainPid(&'static str, u32),
        /// pid, code of wait(2)
        Ended(u32, u32),
    }

    fn stat(ppid: u32, second: u64) -> Stat {
        Stat {
            comm: "api".to_owned(),
            state: b'S',
            ppid,
            cpu_ticks: 0,
            threads: 1,
            started_us: second * 1_000_000,
            exit_code: 0,
        }
    }

    #[track_caller]
    fn check(reads: &[Read], expected: &Expect) {
        let mut facts = Facts::new(Moment { boottime_us: 100_000_000, realtime_us: 0 });
        let mut processes = Processes::new(50_000_000);
        for read in reads {
            let member = |path: &str| membership(&format!("0::{path}"));
            match *read {
                Read::Seen(pid, ppid, second, path) => {
                    let witness = v1::Witness::Scan;
                    processes.seen(pid, &stat(ppid, second), member(path), witness, &mut facts);
                }
                Read::Owns(pid, ppid, second, path) => {
                    processes.owns(pid, &stat(ppid, second), &member(path), &mut facts);
                }
                Read::Forked(parent, child) => {
                    processes.forked((parent, child), 60_000_000, None, &mut facts);
                }
                Read::MainPid(unit, pid) => processes.main_pid(unit, pid, &mut facts),
                Read::Ended(pid, code) => {
                    let ending = Ending {
                        code: Some(code),
                        witness: v1::Witness::Connector,
                        at_us: 99_000_000,
                    };
                    processes.ended(pid, ending, Vec::new(), &mut facts);
                }
            }
        }
        expected.assert_eq(&facts.take_text());
    }

    const API: &str = "/system.slice/api.service";

    #[test]
    fn a_unit_matters_once_it_owns_a_listener() {
        check(
            &[
                Read::Seen(7, 1, 1, API),
                Read::Seen(8, 7, 60, API),
                Read::Seen(9, 1, 1, "/system.slice/cron.service"),
                Read::Seen(10, 1, 1, "/user.slice/user-0.slice/session-1.scope"),
                Read::Owns(7, 1, 1, API),
                Read::Ended(9, 9),
                Read::Ended(8, 139),
            ],
            &expect![[r#"
                process_started pid=7 ppid=1 unit=api.service comm=api started_us=1000000 existing=true witness=scan
                process_started pid=8 ppid=7 unit=api.service comm=api started_us=60000000 witness=scan
                process_exited pid=8 ppid=7 unit=api.service comm=api started_us=60000000 signal=11 core=true lifetime_ms=39000 witness=connector
            "#]],
        );
    }

    #[test]
    fn a_child_is_of_its_parents_unit_without_being_read() {
        check(
            &[
                Read::Owns(7, 1, 1, API),
                Read::Forked(7, 8),
                Read::Ended(8, 0x300),
                Read::Forked(9, 10),
            ],
            &expect![[r#"
                process_started pid=7 ppid=1 unit=api.service comm=api started_us=1000000 existing=true witness=scan
                process_started pid=8 ppid=7 unit=api.service comm=api started_us=60000000 witness=connector
                process_exited pid=8 ppid=7 unit=api.service comm=api started_us=60000000 status=3 lifetime_ms=39000 witness=connector
            "#]],
        );
    }

    #[test]
    fn what_died_before_its_unit_was_told_is_said_then() {
        check(
            &[Read::Seen(7, 1, 60, API), Read::Ended(7, 0x100), Read::MainPid("api.service", 0)],
            &expect![[r#"
                process_exited pid=7 ppid=1 unit=api.service comm=api started_us=60000000 status=1 lifetime_ms=39000 main=true witness=connector
            "#]],
        );
        check(
            &[Read::Seen(7, 1, 60, API), Read::Ended(7, 0x100), Read::MainPid("b.service", 0)],
            &expect![[""]],
        );
    }

    #[test]
    fn a_pid_that_was_given_out_again_is_another_process() {
        check(
            &[Read::Owns(7, 1, 1, API), Read::Seen(7, 1, 70, API), Read::Ended(7, 9)],
            &expect![[r#"
                process_started pid=7 ppid=1 unit=api.service comm=api started_us=1000000 existing=true witness=scan
                process_exited pid=7 ppid=1 unit=api.service comm=api started_us=1000000 lifetime_ms=69000 main=true witness=scan
                process_started pid=7 ppid=1 unit=api.service comm=api started_us=70000000 witness=scan
                process_exited pid=7 ppid=1 unit=api.service comm=api started_us=70000000 signal=9 lifetime_ms=29000 main=true witness=connector
            "#]],
        );
    }

    #[test]
    fn outside_of_units_children_of_an_owner_matter_and_those_of_systemd_do_not() {
        check(
            &[
                Read::Owns(7, 1, 1, "/"),
                Read::Forked(7, 8),
                Read::Forked(8, 9),
                Read::Owns(1, 0, 1, "/init.scope"),
                Read::Forked(1, 10),
                Read::Seen(11, 1, 70, "/init.scope"),
            ],
            &expect![[r#"
                process_started pid=7 ppid=1 comm=api started_us=1000000 existing=true witness=scan
                process_started pid=8 ppid=7 comm=api started_us=60000000 witness=connector
                process_started pid=1 comm=api started_us=1000000 existing=true witness=scan
            "#]],
        );
    }

    #[test]
    fn a_storm_of_workers_is_bounded_and_failures_are_not_lost_in_it() {
        let mut facts = Facts::new(Moment { boottime_us: 100_000_000, realtime_us: 0 });
        let mut processes = Processes::new(50_000_000);
        processes.owns(7, &stat(1, 1), &membership("0::/system.slice/api.service"), &mut facts);
        facts.take_text();
        for child in 1000..21_000 {
            processes.forked((7, child), 60_000_000, None, &mut facts);
            let code = if child == 20_500 { 11 } else { 0 };
            let ending =
                Ending { code: Some(code), witness: v1::Witness::Connector, at_us: 99_000_000 };
            processes.ended(child, ending, Vec::new(), &mut facts);
        }
        let text = facts.take_text();
        assert_eq!(text.lines().count(), 201);
        assert!(text.contains("pid=20500 "), "the one that crashed");
        assert_eq!(processes.take_left_out(), 2 * 20_000 - 201);
        for child in 1000..21_000 {
            processes.forked((7, child), 60_000_000, None, &mut facts);
        }
        assert_eq!(processes.iter().count(), LIVE_MAX);
    }
}
