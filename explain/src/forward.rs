//! Looking forward: what would fail if a request came now, and whether what failed is over.

use why502_proto::v1::{
    AcceptQueue, EndpointDeclared, Explanation, Fault, ProcessResumed, ProcessStalled,
    RequestCounts, Source, UnixPathState, UnixSocketPath,
};

use crate::Question;
use crate::address::Address;
use crate::answer::{Asked, answer};
use crate::effect::Effect;
use crate::engine::walk;
use crate::snapshot::{Listening, Place, Said, Snapshot, Window};
use crate::symptom::{Names, last_failure};

/// What would fail is told once it has been so for this long: a restart of a small service takes less.
const LASTS_US: i64 = 5_000_000;
/// A service that is being restarted, or starts, is given this long: TimeoutStartSec= is 90 s by default, and nobody
/// should wait so long.
const START_LASTS_US: i64 = 30_000_000;
/// Causes that pass by themselves.
const PASSING: [&str; 2] = ["process.restarting", "process.starting_slow"];
/// Without any request a symptom is over after this, if nothing is wrong looking forward.
const QUIET_US: i64 = 60_000_000;
/// With successes a symptom is over after this: one success among failures is none.
const SUCCESS_QUIET_US: i64 = 5_000_000;

/// What would fail, when it would be explained.
pub(crate) fn predict(snapshot: &Snapshot, question: &Question) -> Option<Explanation> {
    let gateway = snapshot.host_name(&question.gateway)?;
    let now_us = snapshot.now_us();
    let declared = snapshot.declared(gateway, now_us).into_iter().find(|declared| {
        declared.what.endpoint == question.endpoint
            && (question.route.is_empty() || declared.what.route == question.route)
    })?;
    if declared.what.down || declared.what.backup {
        return None;
    }
    let addresses = if declared.what.addresses.is_empty() {
        std::slice::from_ref(&declared.what.endpoint)
    } else {
        declared.what.addresses.as_slice()
    };
    let mut effects = Vec::new();
    for address in addresses {
        let place = snapshot.place(gateway, address, now_us)?;
        // One address that works is enough: the gateway tries the next.
        effects.push(would_fail(snapshot, place, declared)?);
    }
    let since_us = effects.iter().map(|(_, since_us)| *since_us).max()?;
    let effects: Vec<Effect<'_>> = effects.into_iter().map(|(effect, _)| effect).collect();
    let findings = walk(snapshot, &effects);
    let asked = Asked { question, failures: None, effects, until_us: now_us };
    let explanation = answer(&asked, &findings);
    let passing = PASSING.contains(&explanation.root_cause.as_str());
    let lasts_us = if passing { START_LASTS_US } else { LASTS_US };
    // Something is wrong, or nothing is said: a guess is no reason to wake anybody.
    let sure = explanation.verdict == "explained";
    (sure && now_us.saturating_sub(since_us) >= lasts_us).then_some(explanation)
}

/// What a request would meet at this address, and since when.
pub(crate) fn would_fail<'a>(
    snapshot: &'a Snapshot,
    place: Place<'a>,
    declared: Said<'a, EndpointDeclared>,
) -> Option<(Effect<'a>, i64)> {
    let host = place.host()?;
    let now_us = snapshot.now_us();
    let during = Window { from_us: now_us, at_us: now_us, to_us: now_us };
    if let Address::Unix(address) = place.address
        && let Some((fault, since_us)) = unix_fault(snapshot, host, address)
    {
        return Some((Effect::UnixConnect { place, during, fault }, since_us));
    }
    let listener = match snapshot.listening(host, place.address, during) {
        Listening::Covered(listener) => listener,
        Listening::Gap { last, proof } if matches!(place.address, Address::Tcp(_)) => {
            snapshot.sight(host, Source::Listener, now_us).seeing()?;
            let closed_us = last.filter(|l| l.to_us < i64::MAX).map(|l| l.to_us);
            let since_us = closed_us.unwrap_or(proof.at_us).max(declared.at_us());
            return Some((Effect::NothingListens { place, during }, since_us));
        }
        _ => return None,
    };
    let stalled = snapshot.on::<ProcessStalled>(host).rev().find(|stall| {
        stall.what.pid == listener.pid || stall.what.listeners.contains(&listener.address)
    });
    if let Some(stalled) = stalled
        && !snapshot.on::<ProcessResumed>(host).any(|resumed| {
            resumed.what.pid == stalled.what.pid && resumed.at_us() >= stalled.at_us()
        })
        && !snapshot
            .deaths(host)
            .iter()
            .any(|death| death.pid == stalled.what.pid && death.at_us >= stalled.at_us())
    {
        return Some((Effect::Busy { host, listener, during }, stalled.at_us()));
    }
    let queue = snapshot.on::<AcceptQueue>(host).rfind(|queue| {
        queue.what.address == listener.address && queue.what.netns == listener.netns
    })?;
    let effect = if matches!(place.address, Address::Unix(_)) {
        Effect::UnixConnect { place, during, fault: Fault::Eagain }
    } else {
        Effect::ConnectTimeout { place, during }
    };
    queue.what.full.then_some((effect, queue.at_us()))
}

/// What connecting to a unix path would give, by what is there now.
pub(crate) fn unix_fault(snapshot: &Snapshot, host: &str, address: &str) -> Option<(Fault, i64)> {
    snapshot.sight(host, Source::Listener, snapshot.now_us()).seeing()?;
    let mut state: Option<(Said<'_, UnixSocketPath>, i64)> = None;
    for said in snapshot.on::<UnixSocketPath>(host).filter(|said| said.what.address == address) {
        let since_us = match state {
            Some((last, since_us)) if last.what.state == said.what.state => since_us,
            _ => said.at_us(),
        };
        state = Some((said, since_us));
    }
    let (said, since_us) = state?;
    let fault = match said.what.state() {
        UnixPathState::Missing => Fault::Enoent,
        UnixPathState::Stale => Fault::Econnrefused,
        UnixPathState::Alive if !said.what.denied_at.is_empty() => Fault::Eacces,
        _ => return None,
    };
    Some((fault, since_us))
}

/// See [`crate::recovered`].
pub(crate) fn recovered(snapshot: &Snapshot, question: &Question) -> bool {
    let now_us = snapshot.now_us();
    let Some(last_us) = last_failure(snapshot, question) else {
        return predict(snapshot, question).is_none();
    };
    if snapshot.sight(&question.gateway, Source::Gateway, now_us).seeing().is_none() {
        return false;
    }
    let names = Names::of(snapshot, question);
    let counts = snapshot.on::<RequestCounts>(&question.gateway).filter(|counts| {
        (question.route.is_empty() || counts.what.route == question.route)
            && names.count(&counts.what.endpoint)
            && counts.at_us() > last_us
    });
    let mut succeeds = false;
    for counts in counts {
        let what = counts.what;
        let failed = what.bad_gateway + what.unavailable + what.gateway_timeout;
        succeeds = failed == 0 && what.success + what.redirect + what.client_error > 0;
    }
    let quiet_us = now_us.saturating_sub(last_us);
    if succeeds && quiet_us >= SUCCESS_QUIET_US {
        return true;
    }
    quiet_us >= QUIET_US && predict(snapshot, question).is_none()
}
