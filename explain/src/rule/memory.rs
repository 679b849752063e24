//! The upstream ran out of memory, or waits for it.

use why502_proto::v1::{
    MemoryLimit, MemoryLimitReached, MemoryPressure, OomKill, OomScope, Source,
};

use super::Rule;
use super::death::{Ended, Oom, ended, is_end, of_scope, oom};
use super::words::{bytes, clock};
use crate::effect::Effect;
use crate::snapshot::{Said, Snapshot};
use crate::verdict::{Cause, Confidence, Verdict};

/// All tasks of the cgroup waited for memory for a tenth of the last ten seconds: thrashing, not mere reclaim.
const FULL_PERMYRIAD_MIN: u32 = 1_000;

/// The limit is met now and then by any service whose files are cached; while one request waits, so often only in need.
const REACHED_MIN: usize = 2;
/// The request waited as long as the gateway did; only its last seconds count.
const WAITED_MAX_US: i64 = 5_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "process.oom_killed.cgroup",
        summary: "the kernel killed the process because its cgroup reached its memory limit",
        doc: "Requests in flight are closed or reset, then connections are refused until the service is back. \
                The process ends by SIGKILL (137), as with kill -9: only the kernel's line or the \
                oom_kill counter of its own unit tells them apart. The limit may be that of a slice above the unit.",
        check: "systemctl show -p MemoryMax,MemoryPeak,Result,NRestarts {unit}",
        fix: "raise MemoryMax= of {unit}, run fewer workers, or find what makes it grow",
        applies_to: is_end,
        judge: oom_cgroup,
    },
    Rule {
        id: "process.oom_killed.global",
        summary: "the kernel killed the process because the host had no memory left",
        doc: "As with a cgroup limit, but the victim need not be the one that used the memory.",
        check: "journalctl -k -g 'Out of memory|oom-kill'",
        fix: "find what uses the memory of {host} (the kernel's line lists all processes), limit it or add memory; \
              OOMScoreAdjust= decides who is spared",
        applies_to: is_end,
        judge: oom_global,
    },
    Rule {
        id: "process.oom_killed.oomd",
        summary: "systemd-oomd, or another killer in user space, killed the unit for memory pressure",
        doc: "SIGKILL without any OOM line of the kernel; systemd-oomd's own message names the unit.",
        check: "journalctl -u systemd-oomd -g {unit}",
        fix: "lower the memory use of {unit}, or change ManagedOOMMemoryPressure= and its limit for it",
        applies_to: is_end,
        judge: oom_userspace,
    },
    Rule {
        id: "memory.pressure",
        summary: "the service waits for memory more than it works",
        doc: "Everything gets slow at once, then timeouts, often an OOM kill at the end. The stall shows in \
                memory.pressure of the cgroup or of the host.",
        check: "systemctl show -p MemoryCurrent,MemoryHigh,MemoryMax {unit}; cat /proc/pressure/memory",
        fix: "give {unit} more memory (MemoryHigh=, MemoryMax=, or the host itself), or run fewer workers",
        applies_to: |effect| matches!(effect, Effect::Busy { .. } | Effect::NoAnswer { .. }),
        judge: pressure,
    },
];

fn oom_cgroup<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    judge_oom(snapshot, effect, OomScope::Cgroup)
}

fn oom_global<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    judge_oom(snapshot, effect, OomScope::Global)
}

fn oom_userspace<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    judge_oom(snapshot, effect, OomScope::Userspace)
}

fn judge_oom<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>, scope: OomScope) -> Verdict<'a> {
    let Some(ended) = ended(effect) else { return Verdict::NoSign };
    match oom(snapshot, ended) {
        Oom::Killed { kills, confidence } => {
            // Of several witnesses of one kill the one that knows the scope decides.
            let named = kills.iter().find(|kill| kill.what.pid != 0).or(kills.first());
            if named.is_none_or(|kill| of_scope(&[*kill], scope).is_empty()) {
                return Verdict::NoSign;
            }
            explain_oom(snapshot, ended, &kills, scope, confidence).explained()
        }
        // One of the three speaks for all where nothing was found.
        _ if scope != OomScope::Cgroup => Verdict::NoSign,
        _ if ended.death.how_known()
            && ended.death.by_signal() != Some(crate::snapshot::SIGKILL) =>
        {
            Verdict::NoSign
        }
        Oom::Undecided(missing) => Verdict::Undecided { missing: vec![missing] },
        Oom::No { proof } => Verdict::RuledOut {
            by: vec![proof],
            text: format!(
                "No OOM kill was counted for {} around {}, and the memory source of {} was seeing.",
                ended.service(),
                clock(ended.death.at_us),
                ended.host
            ),
        },
    }
}

fn explain_oom<'a>(
    snapshot: &'a Snapshot,
    ended: Ended<'a>,
    kills: &[Said<'a, OomKill>],
    scope: OomScope,
    confidence: Confidence,
) -> Cause<'a> {
    let (service, host) = (ended.service(), ended.host);
    let limit = limit_of(snapshot, ended, kills);
    let elsewhere = kills.iter().map(|kill| kill.what).find(|kill| {
        !kill.limit_cgroup.is_empty() && !kill.cgroup.is_empty() && kill.limit_cgroup != kill.cgroup
    });
    let whose = elsewhere.map_or_else(
        || "its".to_owned(),
        |kill| format!("the {}", kill.limit_cgroup.rsplit('/').next().unwrap_or_default()),
    );
    let what = match (scope, limit) {
        (OomScope::Global, _) => {
            format!("{service} on {host} was OOM-killed because the host had no memory left")
        }
        (OomScope::Userspace, _) => {
            format!(
                "{service} on {host} was killed for memory pressure by systemd-oomd or its like"
            )
        }
        (_, Some(limit)) => {
            format!("{service} on {host} was OOM-killed at {whose} {} limit", bytes(limit))
        }
        (_, None) => format!("{service} on {host} was OOM-killed at {whose} memory limit"),
    };
    let anon = kills.iter().map(|kill| kill.what.anon_rss_kib).max().filter(|kib| *kib > 0);
    let held = anon.map_or_else(String::new, |kib| {
        format!(" It held {} of anonymous memory.", bytes(kib * 1024))
    });
    let text = format!(
        "{what} at {}: the kernel ended {} by SIGKILL.{held}",
        clock(ended.death.at_us),
        ended.death.who()
    );
    let fix = limit.filter(|_| scope == OomScope::Cgroup).map(|limit| {
        let at_death = anon.map_or_else(String::new, |kib| {
            format!("; it held {} anonymous at death", bytes(kib * 1024))
        });
        if elsewhere.is_some() {
            format!("raise {whose} limit of {}, or find the leak{at_death}", bytes(limit))
        } else {
            format!(
                "raise MemoryMax= of {service} above {}, run fewer workers, or find the leak{at_death}",
                bytes(limit)
            )
        }
    });
    let at_us = kills.iter().map(Said::at_us).min().unwrap_or(ended.death.at_us);
    let mut cause = Cause::new(host, at_us, confidence, what)
        .text(text)
        .because(kills.iter().map(|kill| kill.seen))
        .because(ended.death.facts(snapshot))
        .name("host", host);
    if ended.death.unit.is_empty() {
        cause = cause.check("journalctl -k -g 'oom-kill|Out of memory'");
    } else {
        cause = cause.name("unit", &ended.death.unit);
    }
    cause.fix = fix;
    cause
}

fn limit_of(snapshot: &Snapshot, ended: Ended<'_>, kills: &[Said<'_, OomKill>]) -> Option<u64> {
    let until_us = ended.death.at_us;
    let unit = &ended.death.unit;
    kills
        .iter()
        .find_map(|kill| kill.what.limit_bytes)
        .or_else(|| {
            let limits = snapshot.on::<MemoryLimit>(ended.host);
            let mut own =
                limits.filter(|limit| limit.what.unit == *unit && limit.at_us() <= until_us);
            own.next_back().map(|limit| limit.what.limit_bytes)
        })
        .or_else(|| {
            snapshot
                .unit_states(ended.host, unit, until_us)
                .rev()
                .find_map(|s| s.what.memory_max_bytes)
        })
        .filter(|limit| *limit > 0)
}

/// cgroup v1 has no pressure of its own: a cgroup that meets its limit second after second does little else.
fn at_limit<'a>(host: &str, unit: &str, reached: &[Said<'a, MemoryLimitReached>]) -> Cause<'a> {
    let limit = reached.iter().map(|r| r.what.limit_bytes).find(|limit| *limit > 0);
    let limit = limit.map_or_else(String::new, |limit| format!(" of {}", bytes(limit)));
    let what =
        format!("{unit} on {host} keeps meeting its memory limit{limit} and waits for memory");
    let at_us = reached.first().map_or(0, Said::at_us);
    let text = format!("{what}: {} times while the request waited.", reached.len());
    Cause::new(host, at_us, Confidence::Likely, what)
        .text(text)
        .because(reached.iter().rev().take(8).map(|r| r.seen))
        .name("unit", unit)
}

/// Stalls of the unit's own cgroup, or of the host, while the effect lasted.
fn pressure<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some((host, unit)) = super::capacity::serving(snapshot, effect) else {
        return Verdict::NoSign;
    };
    let during = effect.during();
    let mut stalls: std::collections::BTreeMap<&str, Said<'a, MemoryPressure>> =
        std::collections::BTreeMap::new();
    for stall in snapshot.on::<MemoryPressure>(host).filter(|stall| stall.at_us() <= during.to_us) {
        let own = stall.what.unit == unit || stall.what.cgroup.is_empty();
        if !own {
            continue;
        }
        if !stall.what.ended && stall.what.full_permyriad >= FULL_PERMYRIAD_MIN {
            stalls.insert(&stall.what.cgroup, stall);
        } else if stall.at_us() < during.from_us {
            stalls.remove(stall.what.cgroup.as_str());
        }
    }
    let timeout_us =
        super::upstream::timeout_ms(snapshot, effect).unwrap_or(0).saturating_mul(1000);
    let waited_us = during.from_us - i64::try_from(timeout_us).unwrap_or(0).min(WAITED_MAX_US);
    let reached: Vec<Said<'a, MemoryLimitReached>> = snapshot
        .on::<MemoryLimitReached>(host)
        .filter(|r| r.what.unit == unit && !unit.is_empty())
        .filter(|r| waited_us <= r.at_us() && r.at_us() <= during.to_us)
        .collect();
    if stalls.is_empty() && reached.len() >= REACHED_MIN {
        return at_limit(host, unit, &reached).explained();
    }
    let Some(worst) = stalls.values().max_by_key(|stall| stall.what.full_permyriad) else {
        let told = "whether the service waits for memory";
        let missing = snapshot.first_blind(host, &[Source::Memory], during.at_us, told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    };
    let share = worst.what.full_permyriad / 100;
    let who = if worst.what.cgroup.is_empty() { host } else { unit };
    let mut what = format!("{who} stalled on memory {share} % of the time");
    if who != host {
        what.push_str(&format!(" on {host}"));
    }
    let limit = reached.iter().map(|r| r.what.limit_bytes).find(|limit| *limit > 0);
    let at_limit = limit.map_or_else(String::new, |limit| {
        format!(" {unit} keeps meeting its limit of {}.", bytes(limit))
    });
    let text = format!("{what} around {}.{at_limit}", clock(worst.at_us()));
    Cause::new(host, worst.at_us(), Confidence::Likely, what)
        .text(text)
        .because(stalls.values().map(|stall| stall.seen))
        .because(reached.iter().map(|r| r.seen))
        .name("unit", unit)
        .explained()
}
