//! Processes that ended, each put together from all that was said of its end.

use why502_proto::{Kind, v1};

use super::{Seen, Snapshot, kinds::Tag};
use crate::address::{Address, covers, tcp};

/// Two reports about the end of one process lie at most this far apart: D-Bus and the journal follow the kernel
/// within a second, and a scan every two.
const SAME_DEATH_US: i64 = 3_000_000;

/// One process that ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Death {
    /// 0: only its unit is known.
    pub(crate) pid: u32,
    pub(crate) ppid: u32,
    started_us: u64,
    pub(crate) unit: String,
    pub(crate) comm: String,
    pub(crate) at_us: i64,
    pub(crate) status: Option<u32>,
    pub(crate) signal: Option<u32>,
    pub(crate) core: bool,
    pub(crate) lifetime_ms: Option<u64>,
    /// Its unit's main process.
    pub(crate) main: bool,
    pub(crate) listeners: Vec<String>,
    facts: Vec<usize>,
}

impl Death {
    pub(crate) fn facts<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a Seen> {
        self.facts.iter().filter_map(|&at| snapshot.fact(at)).collect()
    }

    /// The signal that ended it, also where a shell passed it on as 128 + n.
    pub(crate) fn by_signal(&self) -> Option<u32> {
        self.signal.or_else(|| self.status.filter(|s| (129..=159).contains(s)).map(|s| s - 128))
    }

    pub(crate) fn how_known(&self) -> bool {
        self.status.is_some() || self.signal.is_some()
    }

    /// It did not end as a process ends that was told to stop, or is done.
    pub(crate) fn abnormal(&self) -> bool {
        self.signal.is_some_and(|s| s != SIGTERM) || self.status.is_some_and(|s| s != 0)
    }

    pub(crate) fn held(&self, address: Address<'_>) -> bool {
        self.listeners.iter().any(|own| match (address, tcp(own)) {
            (Address::Tcp(dialled), Some(own)) => covers(own, false, dialled),
            (Address::Unix(path), None) => own == path,
            _ => false,
        })
    }

    /// "node (pid 12)"
    pub(crate) fn who(&self) -> String {
        match (self.comm.as_str(), self.pid) {
            ("", 0) => "its main process".to_owned(),
            ("", pid) => format!("pid {pid}"),
            (comm, 0) => comm.to_owned(),
            (comm, pid) => format!("{comm} (pid {pid})"),
        }
    }

    /// "was killed by SIGKILL", "exited with status 1", "ended"
    pub(crate) fn how(&self) -> String {
        match (self.signal, self.status) {
            (Some(signal), _) => format!("was ended by {}", signal_name(signal)),
            (None, Some(status)) => format!("exited with status {status}"),
            (None, None) => "ended".to_owned(),
        }
    }

    fn agrees(&self, status: Option<u32>, signal: Option<u32>) -> bool {
        !self.how_known()
            || (status.is_none() && signal.is_none())
            || (self.status == status && self.signal == signal)
    }
}

pub(crate) const SIGABRT: u32 = 6;
pub(crate) const SIGKILL: u32 = 9;
pub(crate) const SIGTERM: u32 = 15;

/// signal(7), the numbers that all architectures but Alpha, MIPS and SPARC share.
pub(crate) fn signal_name(signal: u32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

/// What a unit's own words say of how its process ended: (status, signal).
fn unit_words(code: &str, number: u32) -> (Option<u32>, Option<u32>) {
    match code {
        "exited" => (Some(number), None),
        "killed" | "dumped" => (None, Some(number)),
        _ => (None, None),
    }
}

/// Puts everything that was said of each end together.
pub(super) fn collect(snapshot: &Snapshot, host: &str) -> Vec<Death> {
    let Some(index) = snapshot.hosts.get(host) else { return Vec::new() };
    let mut deaths: Vec<Death> = Vec::new();
    let first = index.merged(&snapshot.facts, &[Tag::ProcessExited]);
    for at in first {
        if let Kind::ProcessExited(exited) = &snapshot.facts[at].kind {
            process_exited(&mut deaths, at, &snapshot.facts[at], exited);
        }
    }
    let words = index.merged(&snapshot.facts, &[Tag::UnitProcessExit, Tag::UnitState]);
    let mut mains: std::collections::BTreeMap<&str, u32> = std::collections::BTreeMap::new();
    for at in words {
        let fact = &snapshot.facts[at];
        match &fact.kind {
            Kind::UnitProcessExit(exit) => {
                let how = unit_words(&exit.code, exit.status);
                unit_exit(&mut deaths, at, fact, &exit.unit, None, how);
            }
            Kind::UnitState(state) => {
                let was = mains.insert(&state.unit, state.main_pid).unwrap_or(0);
                if was != 0 && was != state.main_pid {
                    let number = state.exit_status.unwrap_or(0);
                    let how = unit_words(&state.exit_code, number);
                    unit_exit(&mut deaths, at, fact, &state.unit, Some(was), how);
                }
            }
            _ => {}
        }
    }
    name_mains(snapshot, host, &mut deaths);
    deaths.sort_by_key(|death| (death.at_us, death.pid));
    deaths
}

fn process_exited(deaths: &mut Vec<Death>, at: usize, fact: &Seen, exited: &v1::ProcessExited) {
    let same = |death: &&mut Death| {
        let near = (death.at_us - fact.at_us).abs() <= SAME_DEATH_US;
        let start = if death.started_us == 0 || exited.started_us == 0 {
            near
        } else {
            death.started_us == exited.started_us
        };
        death.pid == exited.pid && start && death.agrees(exited.status, exited.signal)
    };
    let known = deaths.iter_mut().rev().find(same);
    let death = match known {
        Some(death) => death,
        None => {
            deaths.push(Death {
                pid: exited.pid,
                started_us: exited.started_us,
                at_us: fact.at_us,
                ..Death::default()
            });
            let Some(death) = deaths.last_mut() else { return };
            death
        }
    };
    death.facts.push(at);
    death.ppid = death.ppid.max(exited.ppid);
    death.status = death.status.or(exited.status);
    death.signal = death.signal.or(exited.signal);
    death.core |= exited.core;
    death.lifetime_ms = death.lifetime_ms.or(exited.lifetime_ms);
    death.main |= exited.main;
    if death.unit.is_empty() {
        death.unit.clone_from(&exited.unit);
    }
    if death.comm.is_empty() {
        death.comm.clone_from(&exited.comm);
    }
    for listener in &exited.listeners {
        if !death.listeners.contains(listener) {
            death.listeners.push(listener.clone());
        }
    }
}

/// systemd's report of an end: adds to what the kernel said, or stands alone.
fn unit_exit(
    deaths: &mut Vec<Death>,
    at: usize,
    fact: &Seen,
    unit: &str,
    pid: Option<u32>,
    (status, signal): (Option<u32>, Option<u32>),
) {
    let near = |death: &Death| (death.at_us - fact.at_us).abs() <= SAME_DEATH_US;
    let same = |death: &&mut Death| {
        near(death)
            && death.unit == unit
            && death.agrees(status, signal)
            && (death.main || death.pid == 0 || pid == Some(death.pid))
    };
    if let Some(known) = deaths.iter_mut().rev().find(same) {
        known.facts.push(at);
        known.main = true;
        known.status = known.status.or(status);
        known.signal = known.signal.or(signal);
        return;
    }
    // A state may skip a short process: then it names the old pid with the end of another, and tells nothing new.
    if pid.is_some_and(|pid| deaths.iter().any(|death| near(death) && death.pid == pid)) {
        return;
    }
    // Control processes (ExecStartPre=) end well without the unit ending: such a report stands alone only if it failed.
    if pid.is_none() && status == Some(0) {
        return;
    }
    deaths.push(Death {
        pid: pid.unwrap_or(0),
        unit: unit.to_owned(),
        at_us: fact.at_us,
        status,
        signal,
        main: true,
        facts: vec![at],
        ..Death::default()
    });
}

/// Before the main process, systemd runs others (ExecStartPre=, ExecCondition=), and then says that there is no main
/// process yet. Who sees only processes may take one of those for it.
fn goes_before(snapshot: &Snapshot, host: &str, death: &Death) -> bool {
    let Some(lived_us) = death.lifetime_ms.and_then(|ms| i64::try_from(ms * 1000).ok()) else {
        return false;
    };
    let lived = death.at_us - lived_us..=death.at_us + SAME_DEATH_US;
    let states = || snapshot.on::<v1::UnitState>(host).filter(|s| s.what.unit == death.unit);
    let named = states().any(|state| state.what.main_pid == death.pid);
    let before = |sub: &str| matches!(sub, "start-pre" | "condition");
    !named && states().any(|s| before(&s.what.sub) && lived.contains(&s.at_us()))
}

/// Main processes that nobody called so: systemd named the pid before.
fn name_mains(snapshot: &Snapshot, host: &str, deaths: &mut [Death]) {
    for death in deaths.iter_mut().filter(|death| death.main && death.pid != 0) {
        death.main = death.unit.is_empty() || !goes_before(snapshot, host, death);
    }
    for death in deaths.iter_mut().filter(|death| !death.main && death.pid != 0) {
        death.main = snapshot.on::<v1::UnitState>(host).any(|state| {
            state.what.main_pid == death.pid
                && (death.unit.is_empty() || state.what.unit == death.unit)
                && state.at_us() <= death.at_us + SAME_DEATH_US
        });
    }
}
