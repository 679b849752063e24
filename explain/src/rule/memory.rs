//! Memory ran out, or nearly.

use why502_proto::Kind;
use why502_proto::v1::{OomKill, OomScope, Source};

use crate::effect::{Effect, Ended};
use crate::find::{self, SLACK_US, bytes};
use crate::rule::process::{oom_of, status_command};
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::{Seen, Snapshot};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "process.oom_killed.cgroup",
        summary: "the kernel killed the process at its cgroup's memory limit",
        doc: "The oom_kill counter of the unit's cgroup moved, or the kernel log names the process. On cgroup v1 systemd shows Result=signal, as for any kill -9: only the kernel's own words tell them apart.",
        check: "systemctl show UNIT -p MemoryMax -p MemoryCurrent",
        fix: "raise MemoryMax=, run fewer workers, or find the leak",
        applies_to: is_ended,
        judge: oom_cgroup,
    },
    Rule {
        id: "process.oom_killed.global",
        summary: "the host ran out of memory and the kernel chose this process",
        doc: "The victim need not be the culprit: the kernel takes the largest by oom_score.",
        check: "journalctl -k -g 'Out of memory'",
        fix: "give the host memory, or the real consumer a limit",
        applies_to: is_ended,
        judge: oom_global,
    },
    Rule {
        id: "process.oom_killed.oomd",
        summary: "systemd-oomd killed the unit under memory pressure",
        doc: "No line of the kernel: systemd-oomd acts before it, on pressure or swap.",
        check: "oomctl",
        fix: "raise ManagedOOMMemoryPressureLimit= for the unit, or give it memory",
        applies_to: is_ended,
        judge: oom_userspace,
    },
    Rule {
        id: "memory.pressure",
        summary: "tasks wait for memory instead of answering",
        doc: "Time-outs on everything, and PSI full above a tenth of the time or a cgroup at its limit. Comes before a kill.",
        check: "cat /proc/pressure/memory",
        fix: "more memory, a higher limit, or fewer workers",
        applies_to: |effect| {
            matches!(effect, Effect::Symptom(symptom)
            if symptom.header_timeout() || symptom.connect_timeout())
        },
        judge: pressure,
    },
];

fn is_ended(effect: &Effect<'_>) -> bool {
    matches!(effect, Effect::Ended(_))
}

fn oom_cgroup<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    by_scope(snapshot, effect, OomScope::Cgroup)
}

fn oom_global<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    by_scope(snapshot, effect, OomScope::Global)
}

fn oom_userspace<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    by_scope(snapshot, effect, OomScope::Userspace)
}

fn by_scope<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>, scope: OomScope) -> Verdict<'a> {
    let Effect::Ended(ended) = effect else { return Verdict::Silent };
    // With OOMPolicy=stop systemd ends the rest with SIGTERM; other signals are no out-of-memory kill.
    if !matches!(ended.signal, None | Some(9 | 15)) {
        return Verdict::Silent;
    }
    let Some((fact, kill)) = oom_of(snapshot, ended) else {
        // Only the commonest of the three speaks of what it could not see.
        return if scope == OomScope::Cgroup && ended.signal == Some(9) {
            unseen(snapshot, ended)
        } else {
            Verdict::Silent
        };
    };
    if kill.scope() != scope {
        return Verdict::Silent;
    }
    let limit = kill.limit_bytes.or_else(|| limit_of(snapshot, ended));
    Verdict::Explained(Cause {
        host: ended.host.to_owned(),
        at_us: fact.at_us,
        text: text(ended, kill, limit),
        confidence: Confidence::Proven,
        evidence: ended.facts.iter().copied().chain([fact]).collect(),
        next: None,
        check: check(ended, scope),
        fix: fix(ended, kill, scope, limit),
    })
}

fn unseen<'a>(snapshot: &'a Snapshot, ended: &Ended<'a>) -> Verdict<'a> {
    let tell = "whether it was killed for lack of memory";
    match find::blind(snapshot, ended.host, Source::Memory, ended.at_us, tell) {
        Some(missing) => Verdict::Undecided(missing),
        None => Verdict::RuledOut {
            text: "no out-of-memory kill was counted or logged for it".to_owned(),
            by: ended.facts.clone(),
        },
    }
}

fn limit_of(snapshot: &Snapshot, ended: &Ended<'_>) -> Option<u64> {
    if ended.unit.is_empty() {
        return None;
    }
    let told = snapshot.of_host(ended.host).rev().find_map(|fact| match &fact.kind {
        Kind::MemoryLimit(limit) if limit.unit == ended.unit => Some(limit.limit_bytes),
        _ => None,
    });
    told.or_else(|| {
        find::unit(snapshot, ended.host, &ended.unit, i64::MAX)
            .and_then(|(_, state)| state.memory_max_bytes)
    })
}

fn text(ended: &Ended<'_>, kill: &OomKill, limit: Option<u64>) -> String {
    let whose = if ended.worker { format!("a worker of {}", ended.name()) } else { ended.name() };
    let held = if kill.anon_rss_kib > 0 {
        format!(", holding {}", bytes(kill.anon_rss_kib << 10))
    } else {
        String::new()
    };
    match (kill.scope(), limit) {
        (OomScope::Cgroup, Some(limit)) => {
            format!("{whose} was OOM-killed at its {} limit{held}", bytes(limit))
        }
        (OomScope::Cgroup, None) => format!("{whose} was OOM-killed at its memory limit{held}"),
        (OomScope::Userspace, _) => format!("{whose} was killed by systemd-oomd{held}"),
        _ => format!("{whose} was OOM-killed: the host had no memory left{held}"),
    }
}

fn check(ended: &Ended<'_>, scope: OomScope) -> String {
    match scope {
        OomScope::Cgroup if !ended.unit.is_empty() => {
            format!("systemctl show {} -p MemoryMax -p MemoryCurrent -p NRestarts", ended.unit)
        }
        OomScope::Userspace => "oomctl".to_owned(),
        OomScope::Global => "journalctl -k -g 'Out of memory'".to_owned(),
        _ => status_command(&ended.unit, ended.pid),
    }
}

fn fix(ended: &Ended<'_>, kill: &OomKill, scope: OomScope, limit: Option<u64>) -> String {
    let held = if kill.anon_rss_kib > 0 {
        format!(": it held {} at its death", bytes(kill.anon_rss_kib << 10))
    } else {
        String::new()
    };
    match (scope, limit) {
        (OomScope::Cgroup, Some(limit)) => format!(
            "raise MemoryMax={} of {}, or find the leak{held}",
            bytes(limit).replace(" MiB", "M").replace(" GiB", "G").replace(" KiB", "K"),
            ended.name()
        ),
        (OomScope::Cgroup, None) => {
            format!("raise the limit of {}, or find the leak{held}", ended.name())
        }
        (OomScope::Userspace, _) => {
            "give the unit memory, or see its ManagedOOM settings".to_owned()
        }
        _ => format!("give the host memory, or the largest consumer a limit{held}"),
    }
}

/// PSI full of a tenth of the time is thrashing.
const FULL_PERMYRIAD_MIN: u32 = 1_000;

fn pressure<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some(host) = symptom.host else { return Verdict::Silent };
    let unit = symptom
        .addresses
        .first()
        .and_then(|address| find::covering(snapshot, host, address, symptom.at_us))
        .map(|open| open.listener.unit.clone())
        .unwrap_or_default();
    // The stall began before the wait was over; a wait lasts as long as the gateway's time-out, a minute by default.
    let from = symptom.at_us - 60_000_000 - SLACK_US;
    let fits = |cgroup: &str, of: &str| cgroup.is_empty() || (!unit.is_empty() && of == unit);
    let found: Vec<(&Seen, String)> = snapshot
        .between(host, from, symptom.at_us + SLACK_US)
        .filter_map(|fact| match &fact.kind {
            Kind::MemoryPressure(psi)
                if !psi.ended
                    && psi.full_permyriad >= FULL_PERMYRIAD_MIN
                    && fits(&psi.cgroup, &psi.unit) =>
            {
                let whole = psi.full_permyriad / 100;
                let whose = if psi.unit.is_empty() { host } else { psi.unit.as_str() };
                Some((
                    fact,
                    format!("all tasks of {whose} waited for memory {whole} % of the time"),
                ))
            }
            Kind::MemoryLimitReached(reached) if !unit.is_empty() && reached.unit == unit => {
                let limit = bytes(reached.limit_bytes);
                Some((fact, format!("{unit} is at its memory limit of {limit} and reclaims")))
            }
            _ => None,
        })
        .collect();
    let Some((first, text)) = found.last() else { return Verdict::Silent };
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: first.at_us,
        text: text.clone(),
        confidence: Confidence::Likely,
        evidence: found.iter().map(|(fact, _)| *fact).take(5).collect(),
        next: None,
        check: "cat /proc/pressure/memory; systemd-cgtop -m -n 1".to_owned(),
        fix: "give it memory: raise the limit, run fewer workers, or move the largest consumer"
            .to_owned(),
    })
}
