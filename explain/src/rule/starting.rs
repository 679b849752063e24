//! A service that was started and does not listen yet.

use super::owner::{Owner, owner};
use super::words::{between, clock};
use crate::effect::Effect;
use crate::snapshot::{Death, Listening, Planned, Run, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// A port closes before its process is gone; the end is told within this, by whoever tells it.
const END_TOLD_US: i64 = 1_500_000;
/// A process that has not bound its port after so long does not merely start.
pub(super) const STARTING_MAX_US: i64 = 60_000_000;
/// A service that is restarted takes about so long to bind: only beyond it is its start the slow
/// part.
const STARTING_NORMAL_US: i64 = 1_000_000;

/// The unit has opened a socket since, of whatever address.
pub(super) fn listens_since(
    snapshot: &Snapshot,
    host: &str,
    unit: &str,
    since_us: i64,
    during: Window,
) -> bool {
    snapshot
        .listeners(host)
        .iter()
        .any(|l| l.unit == unit && l.from_us >= since_us && l.open_at(during.at_us) && l.netns == 0)
}

/// The socket of a process that is said to run closed so recently that news of the process may
/// still be on their way.
pub(super) fn just_closed(snapshot: &Snapshot, owner: &Owner<'_>, since_us: i64) -> bool {
    owner.listener.is_some_and(|l| {
        l.to_us != i64::MAX
            && l.to_us >= since_us
            && snapshot.now_us().saturating_sub(l.to_us) < END_TOLD_US
    })
}

pub(super) fn just_began(before: Option<&Death>, since_us: i64, during: Window) -> bool {
    let up_us = during.at_us.saturating_sub(since_us);
    let gone = before.is_some_and(|death| since_us.saturating_sub(death.at_us) <= STARTING_MAX_US);
    up_us < STARTING_NORMAL_US && gone
}

pub(super) fn starting_slow<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
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
    if just_began(before, since_us, during) {
        return Verdict::NoSign;
    }
    let planned = before.and_then(|death| snapshot.planned(host, death));
    // Had it not ended, it would not have to start. Of a restart only what runs before the main
    // process is a part.
    let ended = before.filter(|death| since_us - death.at_us <= STARTING_MAX_US);
    let ended = ended.filter(|death| match planned {
        Some(Planned::Restart(_)) => matches!(run, Run::Starting { .. }),
        planned => planned.is_none() && death.abnormal(),
    });
    match ended {
        None => cause.explained(),
        death => cause.next(Effect::Down { host, unit, death, during }).explained(),
    }
}
