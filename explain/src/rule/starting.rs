//! The service runs, and does not listen yet.

use super::Rule;
use super::owner::owner;
use super::process::{STARTING_MAX_US, just_began, just_closed, listens_since, restarts};
use super::words::{between, clock};
use crate::effect::Effect;
use crate::snapshot::{Listening, Run, Snapshot};
use crate::verdict::{Cause, Confidence, Verdict};

pub(super) const RULES: &[Rule] = &[Rule {
    id: "process.starting_slow",
    summary: "the process is up but does not listen yet",
    doc: "Connections are refused although the unit is active or activating.",
    check: "systemd-analyze blame; journalctl -u {unit} -n 30",
    fix: "let {unit} report when it is ready (Type=notify) and make deploys wait for it, or shorten what it does \
              before it binds its port",
    applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
    judge: starting_slow,
}];

fn starting_slow<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::NothingListens { place, during } = *effect else { return Verdict::NoSign };
    let Some(host) = place.host() else { return Verdict::NoSign };
    let Listening::Gap { proof: gap, .. } = snapshot.listening(host, place.address, during) else {
        return Verdict::NoSign;
    };
    let Some(owner) = owner(snapshot, host, place.address, during) else { return Verdict::NoSign };
    if owner.unit.is_empty() {
        return Verdict::NoSign;
    }
    let unit = owner.unit;
    let run = snapshot.run(host, unit, during.at_us, during.to_us);
    let (Run::Up { since_us, proof, .. } | Run::Starting { since_us, proof }) = run else {
        return Verdict::NoSign;
    };
    let up_us = during.at_us.saturating_sub(since_us);
    let listens = listens_since(snapshot, host, unit, since_us, during);
    if just_closed(snapshot, &owner, since_us) || up_us > STARTING_MAX_US || listens {
        return Verdict::NoSign;
    }
    let before = snapshot.main_deaths(host, unit, since_us.max(during.from_us)).next_back();
    let what = format!(
        "{unit} on {host} has been starting for {} and does not listen yet",
        between(since_us, during.at_us)
    );
    let cause = Cause::new(host, since_us, Confidence::Proven, what.clone())
        .text(format!("{what}: it runs since {}.", clock(since_us)))
        .because([proof, gap])
        .name("unit", unit);
    let waits = matches!(run, Run::Starting { .. }) && restarts(snapshot, host, before);
    if waits || just_began(before, since_us, during) {
        return Verdict::NoSign;
    }
    let planned = before.and_then(|death| snapshot.planned(host, death));
    match (before, planned) {
        (Some(death), None) if since_us - death.at_us <= STARTING_MAX_US && death.abnormal() => {
            cause.next(Effect::Down { host, unit, death: Some(death), during }).explained()
        }
        _ => cause.explained(),
    }
}
