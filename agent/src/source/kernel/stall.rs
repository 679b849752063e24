//! Processes that hold listeners and do not run: stopped, traced, stuck in the kernel, frozen.
//!
//! Pure: takes looks at processes and says when one begins and ends to stall.

use std::collections::BTreeMap;

use why502_proto::Kind;
use why502_proto::v1::{ProcessResumed, ProcessStalled, StallKind};

use super::facts::Facts;
use super::process::Process;

/// State D must last so long, without CPU time, before it is a stall: every disk access is one for some milliseconds.
const BLOCKED_US: u64 = 2_000_000;

/// One look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) state: u8,
    pub(super) cpu_ticks: u64,
    /// Its cgroup is frozen.
    pub(super) frozen: bool,
}

/// A process that was in state D at the last look.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    since_us: u64,
    cpu_ticks: u64,
}

/// The processes that stall, by pid and start.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    said: BTreeMap<(u32, u64), StallKind>,
    blocked: BTreeMap<(u32, u64), Blocked>,
}

impl Stalls {
    /// Takes a look. `holder`: it holds the listener for its workers. `listeners`: what it listens on.
    pub(super) fn look(
        &mut self,
        process: &Process,
        look: Look,
        holder: bool,
        listeners: impl FnOnce() -> Vec<String>,
        facts: &mut Facts,
    ) {
        let key = (process.pid, process.started_us);
        let kind = self.kind(key, look, facts.now_us());
        if self.said.get(&key) == kind.as_ref() {
            return;
        }
        let Some(kind) = kind else {
            self.said.remove(&key);
            facts.say(Kind::ProcessResumed(ProcessResumed {
                pid: process.pid,
                unit: process.member.unit.clone(),
                comm: process.comm.clone(),
                started_us: process.started_us,
            }));
            return;
        };
        self.said.insert(key, kind);
        facts.say(Kind::ProcessStalled(ProcessStalled {
            pid: process.pid,
            unit: process.member.unit.clone(),
            comm: process.comm.clone(),
            started_us: process.started_us,
            kind: kind.into(),
            listeners: listeners(),
            main: process.main || holder,
        }));
    }

    /// Forgets those that are no more.
    pub(super) fn keep(&mut self, lives: impl Fn(u32, u64) -> bool) {
        self.said.retain(|(pid, started_us), _| lives(*pid, *started_us));
        self.blocked.retain(|(pid, started_us), _| lives(*pid, *started_us));
    }

    /// Some process may be about to be called stalled, or is.
    pub(super) fn any(&self) -> bool {
        !self.said.is_empty() || !self.blocked.is_empty()
    }

    fn kind(&mut self, key: (u32, u64), look: Look, now_us: u64) -> Option<StallKind> {
        if look.frozen {
            return Some(StallKind::Frozen);
        }
        if look.state != b'D' {
            self.blocked.remove(&key);
        }
        match look.state {
            b'T' => Some(StallKind::Stopped),
            b't' => Some(StallKind::Traced),
            b'D' => {
                let begun = Blocked { since_us: now_us, cpu_ticks: look.cpu_ticks };
                let blocked = self.blocked.entry(key).or_insert(begun);
                if blocked.cpu_ticks != look.cpu_ticks {
                    *blocked = begun;
                }
                (now_us >= blocked.since_us + BLOCKED_US).then_some(StallKind::BlockedIo)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::proc_file::Stat;
    use super::super::process::Processes;
    use super::*;
    use crate::clock::Moment;
    use crate::source::cgroup::membership;

    /// Looks at one process every two seconds: its state and its CPU time; `F` is frozen.
    #[track_caller]
    fn check(looks: &[(u8, u64)], expected: &Expect) {
        let mut facts = Facts::new(Moment { boottime_us: 1, realtime_us: 0 });
        let mut processes = Processes::new(0);
        let stat = Stat {
            comm: "api".to_owned(),
            state: b'S',
            ppid: 1,
            cpu_ticks: 0,
            threads: 1,
            started_us: 0,
            exit_code: 0,
        };
        processes.owns(7, &stat, &membership("0::/system.slice/api.service"), &mut facts);
        facts.take_text();
        let process = processes.get(7).unwrap();
        let mut stalls = Stalls::default();
        for (at, &(state, cpu_ticks)) in (1..).zip(looks) {
            facts.set_now(Moment { boottime_us: at * 2_000_000, realtime_us: 0 });
            let look = Look { state, cpu_ticks, frozen: state == b'F' };
            stalls.look(process, look, true, || vec!["0.0.0.0:80".to_owned()], &mut facts);
        }
        expected.assert_eq(&facts.take_text());
    }

    #[test]
    fn stopped_and_continued() {
        check(
            &[(b'S', 0), (b'T', 0), (b'T', 0), (b'R', 0), (b'S', 0)],
            &expect![[r#"
                process_stalled pid=7 unit=api.service comm=api kind=stopped listeners=0.0.0.0:80 main=true
                process_resumed pid=7 unit=api.service comm=api
            "#]],
        );
    }

    #[test]
    fn one_look_in_state_d_is_none() {
        check(&[(b'D', 5), (b'S', 5), (b'D', 6), (b'D', 7), (b'D', 8)], &expect![[""]]);
    }

    #[test]
    fn state_d_without_cpu_time() {
        check(
            &[(b'D', 5), (b'D', 5), (b'F', 5), (b'S', 6)],
            &expect![[r#"
                process_stalled pid=7 unit=api.service comm=api kind=blocked_io listeners=0.0.0.0:80 main=true
                process_stalled pid=7 unit=api.service comm=api kind=frozen listeners=0.0.0.0:80 main=true
                process_resumed pid=7 unit=api.service comm=api
            "#]],
        );
    }
}
