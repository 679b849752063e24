//! The process that should serve is not there, or ended.

use why502_proto::Kind;
use why502_proto::v1::{OomKill, Source, UnitState};

use crate::address::Address;
use crate::effect::{Effect, Ended, Symptom};
use crate::find::{self, SLACK_US, signal_name};
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::{Seen, Snapshot};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "process.not_running",
        summary: "the process that should serve is not running",
        doc: "The gateway is refused at once. Nothing listens on the endpoint, and its last owner is gone or its unit is down. A process that is alive and listens elsewhere is listener.absent_port.",
        check: "systemctl status UNIT",
        fix: "start the unit, and see why it stopped",
        applies_to: |effect| matches!(effect, Effect::Symptom(_)),
        judge: not_running,
    },
    Rule {
        id: "process.restarting",
        summary: "a planned restart left a gap",
        doc: "Requests under way are cut, then refused until the new process listens. A restart or stop-and-start job was asked for; without one it is a crash.",
        check: "journalctl -u UNIT",
        fix: "let the new process take over the socket (socket activation, graceful reload), or let the gateway retry",
        applies_to: is_ended,
        judge: restarting,
    },
    Rule {
        id: "process.crashed.signal",
        summary: "the process died by a signal of its own fault",
        doc: "SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP or SIGSYS. SIGABRT leaves no line in the kernel log.",
        check: "coredumpctl info UNIT",
        fix: "take the core to the developers; roll back the last release",
        applies_to: is_ended,
        judge: crashed,
    },
    Rule {
        id: "process.start_failed",
        summary: "the unit cannot start",
        doc: "The program cannot be executed, or ends at once with an error.",
        check: "journalctl -u UNIT -n 20",
        fix: "mend what its last words say",
        applies_to: is_ended,
        judge: start_failed,
    },
    Rule {
        id: "process.killed_external",
        summary: "somebody outside of it killed the process",
        doc: "SIGKILL or another signal, no out-of-memory kill, no stop job, no timeout of its own. 137 alone is not out-of-memory.",
        check: "journalctl -u UNIT",
        fix: "find who sends the signal: deploy tool, cron, health check, a person",
        applies_to: is_ended,
        judge: killed,
    },
];

/// The end of a main process or unit.
fn is_ended(effect: &Effect<'_>) -> bool {
    matches!(effect, Effect::Ended(ended) if !ended.worker)
}

fn not_running<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let path_dead = matches!(symptom.addresses.first(), Some(Address::Unix(_)))
        && symptom.fault == why502_proto::v1::Fault::Enoent;
    if !(symptom.refused() || symptom.dropped() || path_dead) {
        return Verdict::Silent;
    }
    let Some(host) = symptom.host else { return Verdict::Silent };
    if let Some(missing) =
        find::blind(snapshot, host, Source::Listener, symptom.at_us, "whether anything listened")
    {
        return Verdict::Undecided(missing);
    }
    let Some(address) = symptom.addresses.first() else { return Verdict::Silent };
    if symptom.dropped() {
        return cut_by_death(snapshot, symptom, host, address);
    }
    if let Some(open) = find::covering(snapshot, host, address, symptom.at_us) {
        let text = format!("{} listened on {}", holder_name(open.listener), open.listener.address);
        return Verdict::RuledOut { text, by: vec![open.fact] };
    }
    match find::last_closed(snapshot, host, address, symptom.at_us) {
        Some((fact, closed)) => {
            let about = Owner { unit: &closed.unit, pid: closed.pid, comm: &closed.comm };
            owner_gone(snapshot, symptom, host, fact, &about)
        }
        None => never_listened(snapshot, symptom, host),
    }
}

struct Owner<'a> {
    unit: &'a str,
    pid: u32,
    comm: &'a str,
}

fn holder_name(listener: &why502_proto::v1::ListenerOpened) -> String {
    if listener.unit.is_empty() { listener.comm.clone() } else { listener.unit.clone() }
}

/// Nothing listens, and we know who did.
fn owner_gone<'a>(
    snapshot: &'a Snapshot,
    symptom: &Symptom<'a>,
    host: &'a str,
    closed: &'a Seen,
    owner: &Owner<'_>,
) -> Verdict<'a> {
    let around = (closed.at_us - 2 * SLACK_US, symptom.at_us.max(closed.at_us) + SLACK_US);
    let exits = find::exits(snapshot, host, owner.unit, owner.pid, around.0, around.1);
    let exit = exits
        .iter()
        .find(|exit| exit.pid == owner.pid && owner.pid != 0)
        .or_else(|| exits.iter().find(|exit| exit.main))
        .or_else(|| exits.first().filter(|_| owner.unit.is_empty()));
    let unit = find::unit(snapshot, host, owner.unit, symptom.at_us + SLACK_US);
    let down = unit.filter(|(_, state)| is_down(state));
    let name = if owner.unit.is_empty() { owner.comm } else { owner.unit };
    let listened = format!("nothing listens on {} since it closed", symptom.endpoint);
    let (mut evidence, mut ended, text) = match (exit, down) {
        (Some(exit), _) => (
            vec![closed],
            find::ended(host, owner.unit, exit, symptom.at_us, false),
            format!("{name} is not running; {listened}"),
        ),
        (None, Some((fact, state))) => (
            vec![closed, fact],
            from_state(host, fact, state, symptom.at_us),
            format!("{name} is {}; {listened}", state.active),
        ),
        // Its owner may be alive and listen elsewhere; that is for the listener rules.
        (None, None) => return Verdict::Silent,
    };
    let mut text = text;
    if let Some((job, "stop", by)) = stop_job(snapshot, &ended) {
        text = format!("{name} was stopped; {listened}");
        if !by.is_empty() {
            text = format!("{name} was stopped by {by}; {listened}");
        }
        evidence.push(job);
    }
    evidence.extend(ended.facts.iter().copied());
    ended.facts.push(closed);
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: closed.at_us,
        text,
        confidence: Confidence::Proven,
        evidence,
        next: Some(Effect::Ended(ended)),
        check: status_command(owner.unit, owner.pid),
        fix: start_advice(owner.unit),
    })
}

/// A request under way was cut when the process that served it died.
fn cut_by_death<'a>(
    snapshot: &'a Snapshot,
    symptom: &Symptom<'a>,
    host: &'a str,
    address: &Address,
) -> Verdict<'a> {
    let Some((fact, closed)) = find::last_closed(snapshot, host, address, symptom.at_us) else {
        return Verdict::Silent;
    };
    if (fact.at_us - symptom.at_us).abs() > 2 * SLACK_US {
        return Verdict::Silent;
    }
    let owner = Owner { unit: &closed.unit, pid: closed.pid, comm: &closed.comm };
    owner_gone(snapshot, symptom, host, fact, &owner)
}

/// Nothing ever listened there as far as the agent looks back: a unit that is down may be the one, if it is the only
/// one.
fn never_listened<'a>(snapshot: &'a Snapshot, symptom: &Symptom<'a>, host: &'a str) -> Verdict<'a> {
    let down: Vec<_> = snapshot
        .states(host, "unit", symptom.at_us + SLACK_US)
        .filter_map(|fact| match &fact.kind {
            Kind::UnitState(state) if is_down(state) && state.unit.ends_with(".service") => {
                Some((fact, state))
            }
            _ => None,
        })
        .collect();
    let failing: Vec<_> = down.iter().filter(|(_, state)| state.active != "inactive").collect();
    let only = match (failing.as_slice(), down.as_slice()) {
        ([only], _) => **only,
        ([], [only]) => *only,
        _ => {
            return Verdict::Explained(Cause {
                host: host.to_owned(),
                at_us: symptom.at_us,
                text: format!(
                    "nothing listens on {}, and nothing did since the agent looks",
                    symptom.endpoint
                ),
                confidence: Confidence::Possible,
                evidence: symptom.failures.first().copied().into_iter().collect(),
                next: None,
                check: "systemctl list-units --failed".to_owned(),
                fix: "start the service that should listen there".to_owned(),
            });
        }
    };
    let (fact, state) = only;
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: fact.at_us,
        text: format!(
            "nothing has listened on {} since the agent looks, and {} is {}",
            symptom.endpoint,
            state.unit,
            describe(state)
        ),
        confidence: Confidence::Likely,
        evidence: vec![fact],
        next: Some(Effect::Ended(from_state(host, fact, state, symptom.at_us))),
        check: status_command(&state.unit, 0),
        fix: start_advice(&state.unit),
    })
}

pub(super) fn is_down(state: &UnitState) -> bool {
    matches!(state.active.as_str(), "failed" | "inactive" | "deactivating")
        || (state.active == "activating" && state.sub == "auto-restart")
        || matches!(state.load.as_str(), "masked" | "not-found")
}

fn describe(state: &UnitState) -> String {
    if state.load == "masked" { "masked".to_owned() } else { state.active.clone() }
}

fn from_state<'a>(host: &'a str, fact: &'a Seen, state: &UnitState, felt_us: i64) -> Ended<'a> {
    let (signal, status) = match state.exit_code.as_str() {
        "killed" | "dumped" => (state.exit_status, None),
        "exited" => (None, state.exit_status),
        _ => (None, None),
    };
    Ended {
        host,
        unit: state.unit.clone(),
        pid: 0,
        facts: vec![fact],
        signal,
        status,
        lifetime_ms: None,
        at_us: fact.at_us,
        felt_us,
        worker: false,
        looked: false,
    }
}

pub(super) fn status_command(unit: &str, pid: u32) -> String {
    if unit.is_empty() { format!("ps -fp {pid}") } else { format!("systemctl status {unit}") }
}

fn start_advice(unit: &str) -> String {
    if unit.is_empty() {
        "start it again, best as a systemd service with Restart=on-failure".to_owned()
    } else {
        format!("systemctl start {unit}, once the reason is known")
    }
}

/// The job that asked for the end, if one did: queued up to 90 s (DefaultTimeoutStopSec) before it.
pub(super) fn stop_job<'a>(
    snapshot: &'a Snapshot,
    ended: &Ended<'a>,
) -> Option<(&'a Seen, &'a str, &'a str)> {
    const STOP_TIMEOUT_US: i64 = 90_000_000;
    if ended.unit.is_empty() {
        return None;
    }
    snapshot
        .between(ended.host, ended.at_us - STOP_TIMEOUT_US, ended.at_us + SLACK_US)
        .rev()
        .find_map(|fact| match &fact.kind {
            Kind::UnitJob(job)
                if job.unit == ended.unit
                    && matches!(job.job.as_str(), "stop" | "restart" | "try-restart") =>
            {
                Some((fact, job.job.as_str(), job.by.as_str()))
            }
            _ => None,
        })
}

fn restarting<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Ended(ended) = effect else { return Verdict::Silent };
    let Some((fact, job, by)) = stop_job(snapshot, ended) else { return Verdict::Silent };
    let back = snapshot.between(ended.host, ended.at_us, i64::MAX).find(|later| {
        matches!(&later.kind, Kind::UnitState(state)
            if state.unit == ended.unit && matches!(state.active.as_str(), "active" | "activating"))
    });
    if job == "stop" && back.is_none() {
        return Verdict::Silent;
    }
    let who = if by.is_empty() { String::new() } else { format!(", asked for by {by}") };
    Verdict::Explained(Cause {
        host: ended.host.to_owned(),
        at_us: fact.at_us,
        text: format!("{} was being restarted{who}", ended.unit),
        confidence: Confidence::Proven,
        evidence: std::iter::once(fact).chain(back).collect(),
        next: None,
        check: format!("journalctl -u {} --since '10 min ago'", ended.unit),
        fix: "close the gap: socket activation or a graceful reload, or let the gateway try again \
              on connection errors"
            .to_owned(),
    })
}

/// A kill for lack of memory that fits this end: the same process, or the same unit where only a counter spoke.
pub(super) fn oom_of<'a>(
    snapshot: &'a Snapshot,
    ended: &Ended<'a>,
) -> Option<(&'a Seen, &'a OomKill)> {
    snapshot
        .between(ended.host, ended.at_us - 2 * SLACK_US, ended.at_us + 2 * SLACK_US)
        .filter_map(|fact| match &fact.kind {
            Kind::OomKill(kill)
                if (kill.pid != 0 && kill.pid == ended.pid)
                    || (!kill.unit.is_empty()
                        && kill.unit == ended.unit
                        && (kill.pid == 0 || ended.pid == 0)) =>
            {
                Some((fact, kill))
            }
            _ => None,
        })
        // The one with the most to say.
        .max_by_key(|(_, kill)| (kill.pid != 0, kill.limit_bytes.is_some(), kill.anon_rss_kib))
}

fn crashed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Ended(ended) = effect else { return Verdict::Silent };
    let Some(signal @ (4 | 5 | 6 | 7 | 8 | 11 | 31)) = ended.signal else { return Verdict::Silent };
    let report = snapshot.between(ended.host, ended.at_us - 2 * SLACK_US, ended.at_us + 30_000_000);
    let report = report.filter(|fact| {
        matches!(&fact.kind, Kind::CrashReported(crash)
            if (crash.pid == ended.pid && ended.pid != 0)
                || (!crash.unit.is_empty() && crash.unit == ended.unit))
    });
    let reports: Vec<&Seen> = report.take(2).collect();
    let words = reports.iter().find_map(|fact| match &fact.kind {
        Kind::CrashReported(crash) if !crash.text.is_empty() => Some(format!(": {}", crash.text)),
        _ => None,
    });
    Verdict::Explained(Cause {
        host: ended.host.to_owned(),
        at_us: ended.at_us,
        text: format!(
            "{} crashed with {}{}",
            ended.name(),
            signal_name(signal),
            words.unwrap_or_default()
        ),
        confidence: Confidence::Proven,
        evidence: ended.facts.iter().copied().chain(reports).collect(),
        next: None,
        check: format!("coredumpctl info {}", ended.unit),
        fix:
            "take the backtrace to its developers; roll back the last release if it began with one"
                .to_owned(),
    })
}

/// A process that lives shorter than this has not served: it failed to start.
const START_FAILED_MS: u64 = 5_000;

fn start_failed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Ended(ended) = effect else { return Verdict::Silent };
    if ended.unit.is_empty() || stop_job(snapshot, ended).is_some() {
        return Verdict::Silent;
    }
    let mut spawn = None;
    let mut words: Option<(&Seen, String)> = None;
    let mut job = None;
    for fact in snapshot.between(ended.host, ended.at_us - 2 * SLACK_US, ended.at_us + 2 * SLACK_US)
    {
        match &fact.kind {
            Kind::UnitSpawnFailed(failed) if failed.unit == ended.unit => {
                spawn = Some((fact, format!("{}: {}", failed.executable, failed.error)));
            }
            Kind::UnitStartFailed(failed) if failed.unit == ended.unit => job = Some(fact),
            Kind::UnitLastWords(last) if last.unit == ended.unit => {
                words = last.lines.last().map(|line| (fact, line.clone()));
            }
            _ => {}
        }
    }
    let status = ended.status.filter(|status| *status != 0);
    let short = ended.lifetime_ms.is_some_and(|ms| ms < START_FAILED_MS);
    let by_systemd = status.is_some_and(|status| (200..=243).contains(&status));
    if spawn.is_none() && job.is_none() && !by_systemd && !(short && status.is_some()) {
        return Verdict::Silent;
    }
    let mut text = format!("{} cannot start", ended.unit);
    if let Some(status) = status {
        text.push_str(&format!(": exit status {status}{}", status_meaning(status)));
    }
    let mut evidence = ended.facts.clone();
    for (fact, said) in spawn.into_iter().chain(words) {
        text.push_str(&format!("; it said \"{said}\""));
        evidence.push(fact);
    }
    evidence.extend(job);
    Verdict::Explained(Cause {
        host: ended.host.to_owned(),
        at_us: ended.at_us,
        text,
        confidence: Confidence::Proven,
        evidence,
        next: None,
        check: format!("journalctl -u {} -n 20", ended.unit),
        fix: format!("mend what it says, then systemctl restart {}", ended.unit),
    })
}

/// systemd's own exit statuses, systemd.exec(5).
fn status_meaning(status: u32) -> &'static str {
    match status {
        200 => " (CHDIR: the working directory is missing)",
        203 => " (EXEC: the program cannot be executed)",
        208 => " (STDIN)",
        216 => " (GROUP: no such group)",
        217 => " (USER: no such user)",
        218 => " (CAPABILITIES)",
        226 => " (NAMESPACE: a path of its sandbox is missing)",
        228 => " (SECCOMP)",
        233 => " (RUNTIME_DIRECTORY)",
        243 => " (CREDENTIALS)",
        _ => "",
    }
}

fn killed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Ended(ended) = effect else { return Verdict::Silent };
    let Some(signal @ (1 | 2 | 3 | 9 | 13 | 14 | 15)) = ended.signal else {
        return Verdict::Silent;
    };
    if let Some((fact, _)) = oom_of(snapshot, ended) {
        return Verdict::RuledOut {
            text: "it was killed for lack of memory".to_owned(),
            by: vec![fact],
        };
    }
    if let Some((fact, job, _)) = stop_job(snapshot, ended) {
        return Verdict::RuledOut { text: format!("a {job} was asked for"), by: vec![fact] };
    }
    if signal == 9
        && let Some(missing) = find::blind(
            snapshot,
            ended.host,
            Source::Memory,
            ended.at_us,
            "whether it was killed for lack of memory",
        )
    {
        return Verdict::Undecided(missing);
    }
    Verdict::Explained(Cause {
        host: ended.host.to_owned(),
        at_us: ended.at_us,
        text: format!(
            "{} was killed from outside by {}: no lack of memory, no stop job",
            ended.name(),
            signal_name(signal)
        ),
        confidence: Confidence::Proven,
        evidence: ended.facts.clone(),
        next: None,
        check: format!("journalctl --since '10 min ago' | grep -i -e {} -e kill", ended.name()),
        fix: "find who sent the signal: a deploy tool, cron, a health check, a person".to_owned(),
    })
}
