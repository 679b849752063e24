//! What rules ask a snapshot: listeners at a moment, how a process ended, what became of a unit.

use why502_proto::Kind;
use why502_proto::v1::{ListenerClosed, ListenerOpened, Source, UnitState};

use crate::address::{Address, Coverage};
use crate::effect::Ended;
use crate::rule::Missing;
use crate::snapshot::{Seen, Sight, Snapshot};

/// Two sources of one host may tell of one event this far apart: teardown of memory, journald's 0.4 s, and the second
/// to which a gateway's log rounds.
pub(crate) const SLACK_US: i64 = 1_500_000;

/// A listener that is open at a moment, and how it stands to the address that is asked for.
pub(crate) struct Open<'a> {
    pub(crate) fact: &'a Seen,
    pub(crate) listener: &'a ListenerOpened,
    pub(crate) coverage: Coverage,
}

/// All listeners of the agent's own network namespace that were open at `at_us`.
pub(crate) fn listeners<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    wanted: &Address,
    at_us: i64,
) -> Vec<Open<'a>> {
    snapshot
        .states(host, "listener", at_us)
        .filter_map(|fact| match &fact.kind {
            Kind::ListenerOpened(listener) if listener.netns == 0 => {
                let address = Address::parse(&listener.address)?;
                let coverage = address.coverage(wanted, listener.v6_only);
                Some(Open { fact, listener, coverage })
            }
            _ => None,
        })
        .collect()
}

/// The listener that took connections for `wanted` at `at_us`. One that closed within the slack is no proof that the
/// connection could be taken.
pub(crate) fn covering<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    wanted: &Address,
    at_us: i64,
) -> Option<Open<'a>> {
    let open = listeners(snapshot, host, wanted, at_us)
        .into_iter()
        .find(|open| open.coverage == Coverage::Covers)?;
    let closes = snapshot.between(host, at_us - SLACK_US, at_us + SLACK_US).any(|fact| {
        matches!(&fact.kind, Kind::ListenerClosed(closed) if covers(closed, wanted) && closed.last)
    });
    (!closes).then_some(open)
}

/// Who listened last before, or around, `at_us`.
pub(crate) fn last_closed<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    wanted: &Address,
    at_us: i64,
) -> Option<(&'a Seen, &'a ListenerClosed)> {
    snapshot.of_host(host).rev().skip_while(|fact| fact.at_us > at_us + SLACK_US).find_map(|fact| {
        match &fact.kind {
            Kind::ListenerClosed(closed) if covers(closed, wanted) => Some((fact, closed)),
            _ => None,
        }
    })
}

fn covers(closed: &ListenerClosed, wanted: &Address) -> bool {
    closed.netns == 0
        && Address::parse(&closed.address)
            .is_some_and(|address| address.coverage(wanted, false) == Coverage::Covers)
}

/// State of a unit at a moment.
pub(crate) fn unit<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    at_us: i64,
) -> Option<(&'a Seen, &'a UnitState)> {
    if unit.is_empty() {
        return None;
    }
    snapshot.of_host(host).rev().skip_while(|fact| fact.at_us > at_us).find_map(|fact| match &fact
        .kind
    {
        Kind::UnitState(state) if state.unit == unit => Some((fact, state)),
        _ => None,
    })
}

/// How one process ended, put together from everything that was said of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exit<'a> {
    pub(crate) at_us: i64,
    pub(crate) pid: u32,
    pub(crate) main: bool,
    pub(crate) comm: String,
    pub(crate) signal: Option<u32>,
    pub(crate) status: Option<u32>,
    pub(crate) lifetime_ms: Option<u64>,
    pub(crate) facts: Vec<&'a Seen>,
}

/// Ends of processes of a unit between two moments, in order of time. Where `unit` is "", of the process `pid`.
///
/// A main process is told of by up to three sources: its own exit, systemd's record, and the unit's state. What lies
/// within the slack of an exit is about that exit.
pub(crate) fn exits<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    pid: u32,
    from_us: i64,
    to_us: i64,
) -> Vec<Exit<'a>> {
    let mut exits: Vec<Exit<'a>> = Vec::new();
    for fact in snapshot.between(host, from_us, to_us) {
        let Kind::ProcessExited(exited) = &fact.kind else { continue };
        let matches = if unit.is_empty() { exited.pid == pid } else { exited.unit == unit };
        if !matches {
            continue;
        }
        let known = exits
            .iter_mut()
            .find(|exit| exit.pid == exited.pid && fact.at_us - exit.at_us < SLACK_US * 4);
        let exit = match known {
            Some(exit) => exit,
            None => {
                exits.push(Exit { at_us: fact.at_us, pid: exited.pid, ..Exit::default() });
                let last = exits.len() - 1;
                &mut exits[last]
            }
        };
        exit.main |= exited.main;
        exit.comm.clone_from(&exited.comm);
        exit.signal = exit.signal.or(exited.signal);
        exit.status = exit.status.or(exited.status);
        exit.lifetime_ms = exit.lifetime_ms.or(exited.lifetime_ms);
        exit.facts.push(fact);
    }
    for fact in snapshot.between(host, from_us, to_us + SLACK_US) {
        let Kind::UnitProcessExit(told) = &fact.kind else { continue };
        if unit.is_empty() || told.unit != unit {
            continue;
        }
        let (signal, status) = match told.code.as_str() {
            "killed" | "dumped" => (Some(told.status), None),
            _ => (None, Some(told.status)),
        };
        let near = exits.iter_mut().find(|exit| {
            (exit.at_us - fact.at_us).abs() <= SLACK_US
                && (exit.signal.is_none() || exit.signal == signal)
                && (exit.main || exit.signal.is_none() && exit.status.is_none())
        });
        match near {
            Some(exit) => {
                exit.main = true;
                exit.signal = exit.signal.or(signal);
                exit.status = exit.status.or(status);
                exit.facts.push(fact);
            }
            None => exits.push(Exit {
                at_us: fact.at_us,
                main: true,
                signal,
                status,
                facts: vec![fact],
                ..Exit::default()
            }),
        }
    }
    exits.sort_by_key(|exit| exit.at_us);
    exits
}

/// The end of whoever was responsible, as an effect to explain.
pub(crate) fn ended<'a>(
    host: &'a str,
    unit: &str,
    exit: &Exit<'a>,
    felt_us: i64,
    worker: bool,
) -> Ended<'a> {
    Ended {
        host,
        unit: unit.to_owned(),
        pid: exit.pid,
        facts: exit.facts.clone(),
        signal: exit.signal,
        status: exit.status,
        lifetime_ms: exit.lifetime_ms,
        at_us: exit.at_us,
        felt_us,
        worker,
        looked: false,
    }
}

/// `None` if the source was seeing; else what to say about it.
pub(crate) fn blind(
    snapshot: &Snapshot,
    host: &str,
    source: Source,
    at_us: i64,
    would_tell: &str,
) -> Option<Missing> {
    let missing =
        |source, since_us, text: String| Missing { host: host.to_owned(), source, since_us, text };
    match snapshot.sight(host, source, at_us) {
        Sight::Seeing(_) => None,
        Sight::NoAgent => {
            Some(missing(None, 0, format!("would tell {would_tell}: run why502-agent on {host}")))
        }
        Sight::Unknown => Some(missing(
            Some(source),
            0,
            format!("would tell {would_tell}; it has not said yet whether it can see"),
        )),
        Sight::Blind(fact) => {
            let (reason, grant) = match &fact.kind {
                Kind::SourceBlinded(blinded) => (blinded.reason.as_str(), blinded.grant.as_str()),
                _ => ("the agent is silent", "see why its stream ended"),
            };
            let grant =
                if grant.is_empty() { String::new() } else { format!("; to mend it: {grant}") };
            Some(missing(
                Some(source),
                fact.at_us,
                format!("would tell {would_tell}: {reason}{grant}"),
            ))
        }
    }
}

/// Name of a signal, as kill(1) has it.
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
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Bytes as people say them.
pub(crate) fn bytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes >= 10 << 30 {
        format!("{} GiB", bytes >> 30)
    } else if bytes >= MIB {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{} KiB", bytes >> 10)
    }
}
