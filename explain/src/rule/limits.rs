//! Limits of the service's process and of its host.

use why502_proto::v1::{
    AppEvent, AppServerEvent, ConntrackFull, CpuThrottled, Fault, FdUse, ForkRejected, Source,
};

use super::Rule;
use super::capacity::{Serving, listener_of};
use super::death::is_main_end;
use super::systemd::last_words;
use super::words::clock;
use crate::effect::{Effect, WORDS_LATE_US};
use crate::snapshot::{Said, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// A complaint about a limit holds this long: it is not repeated with every request.
const HOLDS_US: i64 = 60_000_000;
/// Throttling is said every 10 s at most.
const THROTTLED_HOLDS_US: i64 = 13_000_000;
/// A connect that timed out may have begun so long before: nginx waits 60 s by default.
const CONNECT_BEGAN_US: i64 = 61_000_000;
/// How programs say ENOSPC.
const NO_SPACE: [&str; 3] = ["no space left on device", "enospc", "disk quota exceeded"];

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "fd.exhausted.origin",
        summary: "the service has no file descriptor left, and cannot take connections",
        doc: "It listens and its accept queue fills: accept fails with EMFILE. Connect or header timeouts; where the handler \
                itself fails to open a file, a connection that is closed. Some servers say \"Too many open files\".",
        check: "ls /proc/{pid}/fd | wc -l; grep 'open files' /proc/{pid}/limits",
        fix: "raise LimitNOFILE= of {unit}, or find what it leaves open: ls -l /proc/{pid}/fd",
        applies_to: |effect| {
            matches!(
                effect,
                Effect::Busy { .. } | Effect::NoAnswer { .. } | Effect::ConnectionLost { .. }
            )
        },
        judge: files,
    },
    Rule {
        id: "pids_limit.hit",
        summary: "the service's cgroup may have no further process or thread",
        doc: "fork or clone fails with EAGAIN: \"can't start new thread\", \"fork() failed\"; workers are missing.",
        check: "systemctl show {unit} -p TasksCurrent,TasksMax",
        fix: "raise TasksMax= of {unit}, or find why it has so many processes and threads",
        applies_to: |effect| {
            matches!(
                effect,
                Effect::Busy { .. } | Effect::NoAnswer { .. } | Effect::ConnectionLost { .. }
            )
        },
        judge: forks,
    },
    Rule {
        id: "cpu.throttled",
        summary: "the service's CPU quota holds it back",
        doc: "Slow everywhere, then 504: its cgroup has used its CPU time in most periods and waits for the next.",
        check: "systemctl show {unit} -p CPUQuotaPerSecUSec; cat /sys/fs/cgroup{cgroup}/cpu.stat",
        fix: "raise CPUQuota= of {unit} (it has {quota} of a CPU), or let it run fewer threads",
        applies_to: |effect| matches!(effect, Effect::Busy { .. } | Effect::NoAnswer { .. }),
        judge: throttled,
    },
    Rule {
        id: "conntrack.table_full",
        summary: "the connection tracking table is full, and new connections are dropped",
        doc: "New connections time out, established ones go on; the kernel log says \"nf_conntrack: table full, dropping \
                packet\", on the service's host or on the gateway's.",
        check: "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        fix: "raise net.netfilter.nf_conntrack_max on {host}, or find what opens so many connections",
        applies_to: |effect| matches!(effect, Effect::ConnectTimeout { .. }),
        judge: table_full,
    },
    Rule {
        id: "disk_full.origin",
        summary: "a file system of the service's host is full",
        doc: "The service ends, or cannot start, and says \"No space left on device\".",
        check: "df -h; df -i",
        fix: "make room on {host}, then: systemctl restart {unit}",
        applies_to: is_main_end,
        judge: disk_full,
    },
    Rule {
        id: "disk_full.gateway_temp",
        summary: "the gateway cannot write its temporary files: the file system is full",
        doc: "\"No space left on device\" (28) while it buffers an answer or a request: \
              clients get 500 or a cut answer.",
        check: "df -h; df -i",
        fix: "make room on {host} where the gateway keeps its temporary files",
        applies_to: |effect| {
            let Effect::Failed { failed, .. } = effect else { return false };
            failed.what.fault() == Fault::Enospc
        },
        judge: gateway_disk_full,
    },
];

/// The last of them before the failure; else the first that came soon after, from somebody who was
/// asked by it.
fn nearest<'a, T>(
    all: impl Iterator<Item = Said<'a, T>>,
    during: Window,
    holds_us: i64,
) -> Option<Said<'a, T>> {
    let mut before = None;
    for said in all.filter(|said| during.from_us - holds_us <= said.at_us()) {
        if said.at_us() > during.at_us {
            let late = said.at_us() <= during.at_us.saturating_add(WORDS_LATE_US);
            return before.or(late.then_some(said));
        }
        before = Some(said);
    }
    before
}

/// What a server of this unit said lately.
fn complaint<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    event: AppEvent,
    during: Window,
) -> Option<Said<'a, AppServerEvent>> {
    let own = snapshot
        .on::<AppServerEvent>(host)
        .filter(|said| said.what.event() == event && !unit.is_empty() && said.what.unit == unit);
    nearest(own, during, HOLDS_US)
}

fn files<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(Serving { host, listener }) = listener_of(snapshot, effect) else {
        return Verdict::NoSign;
    };
    let during = effect.during();
    let said = complaint(snapshot, host, &listener.unit, AppEvent::FdsExhausted, during);
    let own = snapshot.on::<FdUse>(host).filter(|counted| {
        counted.what.pid == listener.pid
            || (!listener.unit.is_empty() && counted.what.unit == listener.unit)
    });
    let counted = nearest(own, during, HOLDS_US);
    let full = counted.filter(|counted| u64::from(counted.what.used) >= counted.what.limit);
    if said.is_none() && full.is_none() {
        return counted.map_or(Verdict::NoSign, |counted| Verdict::RuledOut {
            by: vec![counted.seen],
            text: format!(
                "{} on {host} has {} of {} files open.",
                listener.owner(),
                counted.what.used,
                counted.what.limit
            ),
        });
    }
    let owner = listener.owner();
    let what = format!("{owner} on {host} has no file descriptor left");
    let numbers = full.map_or_else(String::new, |counted| {
        format!(" It has {} files open, and may have {}.", counted.what.used, counted.what.limit)
    });
    let words = said.map_or_else(String::new, |said| format!(" It says \"{}\".", said.what.text));
    let pid = full.map_or(listener.pid, |counted| counted.what.pid);
    let at_us = said.map_or(during.at_us, |said| said.at_us());
    Cause::new(host, at_us, Confidence::Proven, what.clone())
        .text(format!("{what}.{numbers}{words}"))
        .because(said.map(|said| said.seen))
        .because(full.map(|counted| counted.seen))
        .name("unit", owner)
        .name("pid", pid.to_string())
        .explained()
}

fn forks<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(Serving { host, listener }) = listener_of(snapshot, effect) else {
        return Verdict::NoSign;
    };
    let (during, unit) = (effect.during(), listener.unit.as_str());
    let own = snapshot
        .on::<ForkRejected>(host)
        .filter(|rejected| !unit.is_empty() && rejected.what.unit == unit);
    let rejected = nearest(own, during, HOLDS_US);
    let Some(rejected) = rejected else { return Verdict::NoSign };
    let said = complaint(snapshot, host, unit, AppEvent::ForkFailed, during);
    let limit = rejected.what.limit.map_or_else(|| "its limit of".to_owned(), |l| l.to_string());
    let what = format!("{unit} on {host} has {limit} processes and threads, and may have no more");
    let words = said.map_or_else(String::new, |said| format!(" It says \"{}\".", said.what.text));
    Cause::new(host, rejected.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what} since {}.{words}", clock(rejected.at_us())))
        .because([rejected.seen])
        .because(said.map(|said| said.seen))
        .name("unit", unit)
        .explained()
}

fn throttled<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(Serving { host, listener }) = listener_of(snapshot, effect) else {
        return Verdict::NoSign;
    };
    let (during, unit) = (effect.during(), listener.unit.as_str());
    let own =
        snapshot.on::<CpuThrottled>(host).filter(|held| !unit.is_empty() && held.what.unit == unit);
    let held = nearest(own, during, THROTTLED_HOLDS_US);
    let Some(held) = held else { return Verdict::NoSign };
    if super::capacity::stands_still(snapshot, effect) {
        return Verdict::NoSign;
    }
    let (throttled, periods) = (held.what.throttled, held.what.periods.max(1));
    let share = throttled.saturating_mul(100) / periods;
    // Below it the quota is felt, but most of the time is not lost to it.
    let confidence = if share >= 50 { Confidence::Likely } else { Confidence::Possible };
    let quota = format!("{} %", held.what.quota_us / 1000);
    let what = format!("the CPU quota of {quota} holds {unit} on {host} back");
    let text = format!("{what}: it had to wait in {throttled} of {periods} periods ({share} %).");
    Cause::new(host, held.at_us(), confidence, what)
        .text(text)
        .because([held.seen])
        .name("unit", unit)
        .name("quota", quota)
        .name("cgroup", held.what.cgroup.clone())
        .explained()
}

fn table_full<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place() else { return Verdict::NoSign };
    let during = effect.during();
    let ends = [Some(place.gateway), place.host()];
    let found = ends.into_iter().flatten().find_map(|host| {
        let full = snapshot.on::<ConntrackFull>(host).rfind(|full| {
            during.from_us - CONNECT_BEGAN_US <= full.at_us() && full.at_us() <= during.at_us
        })?;
        Some((host, full))
    });
    let Some((host, full)) = found else {
        let told = "whether the connection tracking table is full";
        let blind = ends
            .into_iter()
            .flatten()
            .find_map(|host| snapshot.first_blind(host, &[Source::KernelLog], during.at_us, told));
        return blind.map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    };
    let what = format!("the connection tracking table of {host} is full");
    let numbers = match full.what.max {
        0 => String::new(),
        max => format!(": {} of {max}", full.what.count),
    };
    Cause::new(host, full.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}{numbers}; the kernel drops new connections."))
        .because([full.seen])
        .name("host", host)
        .explained()
}

fn disk_full<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let (host, unit, death) = match *effect {
        Effect::Down { host, unit, death: Some(death), .. } => (host, unit, death),
        Effect::Ended { host, death, .. } => (host, death.unit.as_str(), death),
        _ => return Verdict::NoSign,
    };
    let words = last_words(snapshot, host, unit, death).filter(|words| {
        words.what.lines.iter().any(|line| {
            let line = line.to_ascii_lowercase();
            NO_SPACE.iter().any(|said| line.contains(said))
        })
    });
    let Some(words) = words else { return Verdict::NoSign };
    let what = format!("{unit} on {host} has no room left on a file system");
    let quoted = super::systemd::quote(words);
    Cause::new(host, words.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}.{quoted}"))
        .because([words.seen])
        .name("unit", unit)
        .name("host", host)
        .explained()
}

fn gateway_disk_full<'a>(_: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Failed { gateway, failed, .. } = *effect else { return Verdict::NoSign };
    let what = format!("the gateway on {gateway} has no room for its temporary files");
    Cause::new(gateway, failed.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}: \"{}\".", failed.what.message))
        .because([failed.seen])
        .name("host", gateway)
        .explained()
}
