//! The process that should answer stands still.

use why502_proto::v1::{ProcessResumed, ProcessStalled, Source, StallKind};

use super::Rule;
use super::words::clock;
use crate::effect::Effect;
use crate::snapshot::{Said, Snapshot};
use crate::verdict::{Cause, Confidence, Verdict};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "process.hung.stopped",
        summary: "the process is stopped: SIGSTOP, a debugger, or a frozen cgroup",
        doc: "Connections are accepted by the kernel and nobody answers: header timeouts, then connect timeouts once \
                the accept queue is full.",
        check: "grep State /proc/{pid}/status",
        fix: "kill -CONT {pid}, and find who stopped it",
        applies_to: |effect| matches!(effect, Effect::Busy { .. } | Effect::NoAnswer { .. }),
        judge: hung_stopped,
    },
    Rule {
        id: "process.hung.blocked",
        summary: "the process is blocked in the kernel (state D)",
        doc: "Header timeouts; the process uses no CPU and cannot even be killed: disk or network file system.",
        check: "cat /proc/{pid}/stack",
        fix: "look at the disk or the network file system that pid {pid} waits for",
        applies_to: |effect| matches!(effect, Effect::Busy { .. } | Effect::NoAnswer { .. }),
        judge: hung_blocked,
    },
];

fn hung_stopped<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    hung(snapshot, effect, &[StallKind::Stopped, StallKind::Traced, StallKind::Frozen])
}

fn hung_blocked<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    hung(snapshot, effect, &[StallKind::BlockedIo])
}

fn hung<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>, kinds: &[StallKind]) -> Verdict<'a> {
    let Some(serving) = super::capacity::listener_of(snapshot, effect) else {
        return Verdict::NoSign;
    };
    let (host, listener, during) = (serving.host, serving.listener, effect.during());
    let stall = snapshot
        .on::<ProcessStalled>(host)
        .filter(|stall| stall.at_us() <= during.to_us)
        .filter(|stall| kinds.contains(&stall.what.kind()))
        .filter(|stall| stall.what.pid == listener.pid || holds(stall.what, listener))
        .rfind(|stall| resumed(snapshot, host, *stall).is_none_or(|at| at > during.from_us));
    let Some(stall) = stall else {
        let told = format!("whether {} stands still", listener.owner());
        let missing = snapshot.first_blind(host, &[Source::Process], during.at_us, &told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    };
    let sole = stall.what.main || stall.what.pid == listener.pid;
    let state = match stall.what.kind() {
        StallKind::Traced => "is held by a debugger",
        StallKind::Frozen => "is frozen with its cgroup",
        StallKind::BlockedIo => "is blocked in the kernel (state D)",
        _ => "is stopped (state T)",
    };
    let who = if stall.what.comm.is_empty() { "the process" } else { &stall.what.comm };
    let what = format!(
        "{} on {host} stands still: {who} (pid {}) {state}",
        listener.owner(),
        stall.what.pid
    );
    let confidence = if sole { Confidence::Proven } else { Confidence::Likely };
    let mut cause = Cause::new(host, stall.at_us(), confidence, what.clone())
        .text(format!("{what} since {}.", clock(stall.at_us())))
        .because([stall.seen])
        .name("pid", stall.what.pid.to_string());
    if stall.what.kind() == StallKind::Frozen {
        cause = cause
            .check(format!("systemctl show -p FreezerState {}", listener.owner()))
            .fix(format!("systemctl thaw {}", listener.owner()));
    }
    cause.explained()
}

fn holds(stalled: &ProcessStalled, listener: &crate::snapshot::Listener) -> bool {
    stalled.listeners.contains(&listener.address)
        || (stalled.main && !stalled.unit.is_empty() && stalled.unit == listener.unit)
}

fn resumed(snapshot: &Snapshot, host: &str, stall: Said<'_, ProcessStalled>) -> Option<i64> {
    snapshot
        .on::<ProcessResumed>(host)
        .find(|resumed| resumed.what.pid == stall.what.pid && resumed.at_us() > stall.at_us())
        .map(|resumed| resumed.at_us())
}
