//! systemd starts it again and again, or gave up.

use why502_proto::Kind;

use crate::effect::{Effect, Ended};
use crate::find::{self, Exit, SLACK_US};
use crate::rule::process::stop_job;
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::{Seen, Snapshot};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "systemd.start_limit_hit",
        summary: "systemd gave up starting the unit",
        doc: "\"Start request repeated too quickly\": by default 5 starts in 10 s. systemd 252 may show Result=exit-code meanwhile; the message is the proof. What made it fail is the root.",
        check: "systemctl status UNIT",
        fix: "mend the failure, then systemctl reset-failed UNIT and start it",
        applies_to: outer,
        judge: start_limit_hit,
    },
    Rule {
        id: "process.restart_loop",
        summary: "the unit fails and is started again, over and over",
        doc: "The number of restarts rises and each run is short. The first failure is the one to read, not the last.",
        check: "journalctl -u UNIT",
        fix: "mend the first failure",
        applies_to: outer,
        judge: restart_loop,
    },
];

/// A process that lives at least this long has served; the failure that ended it begins a new story.
const HEALTHY_MS: u64 = 10_000;
/// How far back the first failure may lie.
const LOOP_US: i64 = 600_000_000;
/// Fewer automatic restarts are no loop.
const RESTARTS_MIN: usize = 3;

fn outer(effect: &Effect<'_>) -> bool {
    matches!(effect, Effect::Ended(ended) if !ended.worker && !ended.unit.is_empty() && !ended.looked)
}

fn start_limit_hit<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Ended(ended) = effect else { return Verdict::Silent };
    let limit = snapshot
        .between(ended.host, ended.at_us - SLACK_US, i64::MAX)
        .find(|fact| matches!(&fact.kind, Kind::UnitStartLimitHit(hit) if hit.unit == ended.unit))
        .or_else(|| {
            snapshot.between(ended.host, ended.at_us - SLACK_US, i64::MAX).find(|fact| {
                matches!(&fact.kind, Kind::UnitState(state)
                    if state.unit == ended.unit && state.result == "start-limit-hit")
            })
        });
    let Some(limit) = limit else { return Verdict::Silent };
    // Brought back to life by hand meanwhile: then it is not why requests fail.
    if limit.at_us > ended.felt_us.max(ended.at_us) + LOOP_US {
        return Verdict::Silent;
    }
    Verdict::Explained(Cause {
        host: ended.host.to_owned(),
        at_us: limit.at_us,
        text: format!("systemd gave up starting {}: it failed too often", ended.unit),
        confidence: Confidence::Proven,
        evidence: vec![limit],
        next: first_failure(snapshot, ended).map(Effect::Ended),
        check: format!("systemctl status {}", ended.unit),
        fix: format!(
            "mend the failure, then systemctl reset-failed {0} && systemctl start {0}",
            ended.unit
        ),
    })
}

fn restart_loop<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Ended(ended) = effect else { return Verdict::Silent };
    if stop_job(snapshot, ended).is_some() {
        return Verdict::Silent;
    }
    let scheduled: Vec<&Seen> = snapshot
        .between(ended.host, ended.at_us - LOOP_US, i64::MAX)
        .filter(|fact| match &fact.kind {
            Kind::UnitRestartScheduled(restart) => restart.unit == ended.unit,
            Kind::UnitState(state) => state.unit == ended.unit && state.sub == "auto-restart",
            _ => false,
        })
        .collect();
    let restarts = scheduled.iter().filter_map(|fact| match &fact.kind {
        Kind::UnitRestartScheduled(restart) => Some(restart.restarts),
        Kind::UnitState(state) => Some(state.restarts),
        _ => None,
    });
    let restarts: std::collections::BTreeSet<u32> = restarts.collect();
    if restarts.len() < RESTARTS_MIN {
        return Verdict::Silent;
    }
    let Some(last) = scheduled.last() else { return Verdict::Silent };
    Verdict::Explained(Cause {
        host: ended.host.to_owned(),
        at_us: last.at_us,
        text: format!(
            "{} fails and is started again: {} restarts",
            ended.unit,
            restarts.last().copied().unwrap_or_default()
        ),
        confidence: Confidence::Proven,
        evidence: scheduled.iter().rev().take(3).copied().collect(),
        next: first_failure(snapshot, ended).map(Effect::Ended),
        check: format!("journalctl -u {} -n 50", ended.unit),
        fix: "mend the first failure; the later ones only repeat it".to_owned(),
    })
}

/// The failure that began it: the earliest of a row of ends between which nothing lived long enough to serve.
fn first_failure<'a>(snapshot: &'a Snapshot, ended: &Ended<'a>) -> Option<Ended<'a>> {
    let until = ended.felt_us.max(ended.at_us) + LOOP_US;
    let exits = find::exits(snapshot, ended.host, &ended.unit, 0, ended.at_us - LOOP_US, until);
    let mains: Vec<&Exit<'_>> = exits.iter().filter(|exit| exit.main).collect();
    let pool: Vec<&Exit<'_>> = if mains.is_empty() { exits.iter().collect() } else { mains };
    let mut first = None;
    for exit in pool.iter().rev() {
        first = Some(*exit);
        if exit.lifetime_ms.is_some_and(|ms| ms >= HEALTHY_MS) {
            break;
        }
    }
    let first = first?;
    let mut effect = find::ended(ended.host, &ended.unit, first, ended.felt_us, false);
    effect.looked = true;
    Some(effect)
}
