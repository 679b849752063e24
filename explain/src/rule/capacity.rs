//! It listens, but does not take the connection or the request.

use why502_proto::Kind;
use why502_proto::v1::{AcceptQueue, AppEvent, ProcessStalled, Source, StallKind};

use crate::effect::{Effect, Holder, Symptom};
use crate::find::{self, SLACK_US};
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::{Seen, Snapshot};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "accept_queue.overflow",
        summary: "the kernel's accept queue is full and new connections are dropped",
        doc: "The gateway's connects time out, with latency steps of 1, 3 and 7 s. Nobody takes connections fast enough: workers are the reason, the queue only shows it.",
        check: "ss -ltn; nstat -az TcpExtListenOverflows",
        fix: "more or faster workers first, then a larger backlog and net.core.somaxconn",
        applies_to: |effect| {
            matches!(effect, Effect::Symptom(symptom)
            if symptom.connect_timeout() || symptom.header_timeout())
        },
        judge: overflow,
    },
    Rule {
        id: "process.hung.stopped",
        summary: "the process is stopped and does nothing",
        doc: "State T (SIGSTOP, a debugger) or a frozen cgroup. Connections are taken by the kernel until its queue is full, and nobody answers.",
        check: "ps -o pid,stat,wchan,cmd -C COMM",
        fix: "kill -CONT PID; find who stopped it",
        applies_to: waits,
        judge: stopped,
    },
    Rule {
        id: "process.hung.blocked",
        summary: "the process is blocked in the kernel",
        doc: "State D at several looks without CPU time between them: a disk, a network file system.",
        check: "cat /proc/PID/stack",
        fix: "mend the disk or mount it waits for",
        applies_to: waits,
        judge: blocked,
    },
    Rule {
        id: "workers.saturated",
        summary: "every worker is busy, and requests wait in the accept queue",
        doc: "The queue stays above zero while its owner runs. php-fpm says max_children only with pm=dynamic or ondemand; silence of a static pool proves nothing.",
        check: "ss -ltn; systemctl status UNIT",
        fix: "workers needed = requests per second x seconds each; find the slow dependency",
        applies_to: waits,
        judge: saturated,
    },
];

/// A wait at the endpoint, or a full queue behind one.
fn waits(effect: &Effect<'_>) -> bool {
    match effect {
        Effect::Symptom(symptom) => symptom.header_timeout() || symptom.connect_timeout(),
        Effect::QueueStuck(_) => true,
        Effect::Ended(_) => false,
    }
}

/// A wait lasts as long as the gateway's time-out, a minute by default, and is told when it is over.
const WAIT_US: i64 = 65_000_000;

/// Who holds the listener that the effect is about.
fn holder<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Option<Holder<'a>> {
    match effect {
        Effect::QueueStuck(holder) => Some(holder.clone()),
        Effect::Symptom(symptom) => {
            let host = symptom.host?;
            let address = symptom.addresses.first()?;
            let open = find::covering(snapshot, host, address, symptom.at_us)?;
            Some(Holder {
                host,
                address: open.listener.address.clone(),
                unit: open.listener.unit.clone(),
                pid: open.listener.pid,
                at_us: symptom.at_us,
                listener: open.fact,
            })
        }
        Effect::Ended(_) => None,
    }
}

fn stalled<'a>(
    snapshot: &'a Snapshot,
    holder: &Holder<'_>,
    kinds: &[StallKind],
) -> Option<(&'a Seen, &'a ProcessStalled)> {
    snapshot.states(holder.host, "process_run_state", holder.at_us + SLACK_US).find_map(|fact| {
        match &fact.kind {
            Kind::ProcessStalled(stall)
                if kinds.contains(&stall.kind())
                    && (stall.pid == holder.pid
                        || stall.listeners.contains(&holder.address)
                        || (!holder.unit.is_empty() && stall.unit == holder.unit)) =>
            {
                Some((fact, stall))
            }
            _ => None,
        }
    })
}

fn stopped<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let kinds = [StallKind::Stopped, StallKind::Traced, StallKind::Frozen];
    by_stall(snapshot, effect, &kinds)
}

fn blocked<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    by_stall(snapshot, effect, &[StallKind::BlockedIo])
}

fn by_stall<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>, kinds: &[StallKind]) -> Verdict<'a> {
    let Some(holder) = holder(snapshot, effect) else { return Verdict::Silent };
    let Some((fact, stall)) = stalled(snapshot, &holder, kinds) else { return Verdict::Silent };
    let whose = if stall.unit.is_empty() { stall.comm.as_str() } else { stall.unit.as_str() };
    let pid = stall.pid;
    let (how, check, fix) = match stall.kind() {
        StallKind::Frozen => (
            "its cgroup is frozen",
            format!("systemctl show {whose} -p FreezerState"),
            format!("systemctl thaw {whose}"),
        ),
        StallKind::Traced => (
            "a debugger holds it (state t)",
            format!("grep TracerPid /proc/{pid}/status"),
            "let the debugger go on".to_owned(),
        ),
        StallKind::BlockedIo => (
            "it is blocked in the kernel (state D)",
            format!("cat /proc/{pid}/stack"),
            "mend the disk or mount that it waits for".to_owned(),
        ),
        _ => (
            "it is stopped (state T)",
            format!("ps -o pid,stat,cmd -p {pid}"),
            format!("kill -CONT {pid}, and find who stopped it"),
        ),
    };
    Verdict::Explained(Cause {
        host: holder.host.to_owned(),
        at_us: fact.at_us,
        text: format!("process {pid} of {whose} does not run: {how}"),
        confidence: Confidence::Proven,
        evidence: vec![fact, holder.listener],
        next: None,
        check,
        fix,
    })
}

/// The queue of the listener while the gateway waited.
fn queue<'a>(
    snapshot: &'a Snapshot,
    holder: &Holder<'_>,
    fits: fn(&AcceptQueue) -> bool,
) -> Option<(&'a Seen, &'a AcceptQueue)> {
    snapshot
        .between(holder.host, holder.at_us - WAIT_US, holder.at_us + 2 * SLACK_US)
        .filter_map(|fact| match &fact.kind {
            Kind::AcceptQueue(queue) if queue.address == holder.address && fits(queue) => {
                Some((fact, queue))
            }
            _ => None,
        })
        .max_by_key(|(_, queue)| queue.depth)
}

fn overflow<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some(holder) = holder(snapshot, effect) else {
        return unseen(snapshot, symptom);
    };
    let Some((fact, full)) = queue(snapshot, &holder, |queue| queue.full) else {
        return match unseen(snapshot, symptom) {
            Verdict::Silent if symptom.connect_timeout() => Verdict::RuledOut {
                text: format!("the accept queue of {} was not full", holder.address),
                by: vec![holder.listener],
            },
            other => other,
        };
    };
    let dropped =
        snapshot.between(holder.host, holder.at_us - WAIT_US, holder.at_us + 2 * SLACK_US).rfind(
            |fact| matches!(&fact.kind, Kind::AcceptOverflow(overflow) if overflow.overflows > 0),
        );
    let count = dropped.map_or_else(String::new, |fact| match &fact.kind {
        Kind::AcceptOverflow(overflow) => {
            format!("; the kernel dropped {} connections", overflow.overflows.max(overflow.drops))
        }
        _ => String::new(),
    });
    Verdict::Explained(Cause {
        host: holder.host.to_owned(),
        at_us: fact.at_us,
        text: format!(
            "the accept queue of {} is full: {} wait, {} are allowed{count}",
            holder.address, full.depth, full.limit
        ),
        confidence: Confidence::Proven,
        evidence: std::iter::once(fact).chain(dropped).collect(),
        check: format!("ss -ltn 'sport = :{}'", port(&holder.address)),
        fix: format!(
            "let {} take connections faster: more workers first; then a larger backlog, and \
             net.core.somaxconn with it",
            holder.unit
        ),
        next: Some(Effect::QueueStuck(holder)),
    })
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or(address)
}

fn unseen<'a>(snapshot: &'a Snapshot, symptom: &Symptom<'a>) -> Verdict<'a> {
    let Some(host) = symptom.host else { return Verdict::Silent };
    match find::blind(snapshot, host, Source::Listener, symptom.at_us, "whether its queue was full")
    {
        Some(missing) => Verdict::Undecided(missing),
        None => Verdict::Silent,
    }
}

fn saturated<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(holder) = holder(snapshot, effect) else { return Verdict::Silent };
    let all = [StallKind::Stopped, StallKind::Traced, StallKind::Frozen, StallKind::BlockedIo];
    if let Some((fact, _)) = stalled(snapshot, &holder, &all) {
        return Verdict::RuledOut {
            text: "its process does not run at all".to_owned(),
            by: vec![fact],
        };
    }
    let waiting = queue(snapshot, &holder, |queue| queue.depth > 0);
    let told = snapshot
        .between(holder.host, holder.at_us - WAIT_US, holder.at_us + 2 * SLACK_US)
        .rev()
        .find_map(|fact| match &fact.kind {
            Kind::AppServerEvent(event)
                if matches!(event.event(), AppEvent::WorkersSaturated | AppEvent::QueueFull)
                    && event.unit == holder.unit =>
            {
                Some((fact, event))
            }
            _ => None,
        });
    let text = match (&told, &waiting) {
        (Some((_, event)), _) => {
            format!("all workers of {} are busy: \"{}\"", holder.unit, event.text)
        }
        (None, Some((_, queue))) => format!(
            "all workers of {} are busy: {} connections wait on {}",
            holder.unit, queue.depth, queue.address
        ),
        (None, None) => return Verdict::Silent,
    };
    let evidence: Vec<&Seen> = waiting
        .map(|(fact, _)| fact)
        .into_iter()
        .chain(told.map(|(fact, _)| fact))
        .chain([holder.listener])
        .collect();
    Verdict::Explained(Cause {
        host: holder.host.to_owned(),
        at_us: evidence.first().map_or(holder.at_us, |fact| fact.at_us),
        text,
        confidence: if told.is_some() { Confidence::Proven } else { Confidence::Likely },
        evidence,
        next: None,
        check: format!("systemctl status {}; ss -tn state established", holder.unit),
        fix: format!(
            "give {} more workers (requests per second x seconds each, within its memory), or make \
             what it waits for faster",
            holder.unit
        ),
    })
}
