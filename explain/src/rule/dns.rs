//! Names of endpoints: what the gateway's resolver answers, and whether the gateway goes where the name leads now.

use why502_proto::v1::{Fault, NameResolved, Phase};

use super::Rule;
use super::listener::declared_at;
use super::words::list;
use crate::effect::Effect;
use crate::snapshot::{Place, Said, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// A name is looked up after a failure, and not again for some time.
const LOOKED_UP_US: i64 = 600_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "dns.stale",
        summary: "the endpoint's name leads elsewhere now, and the gateway still goes to the old address",
        doc: "Refused, timeouts or \"no route to host\" at an address that the name no longer has. nginx resolves names of \
                its configuration when it is started or reloaded.",
        check: "getent ahosts {name}",
        fix: "reload the gateway; to follow such changes, nginx: `resolver` and a variable in proxy_pass, or `resolve` on \
              the server line",
        applies_to: |effect| {
            matches!(
                effect,
                Effect::NothingListens { .. }
                    | Effect::ConnectTimeout { .. }
                    | Effect::PathLost { .. }
            ) || unreachable(effect)
        },
        judge: stale,
    },
    Rule {
        id: "dns.nxdomain",
        summary: "the endpoint's name does not exist, says the gateway's resolver",
        doc: "nginx: \"could not be resolved (3: Host not found)\"; no upstream is named.",
        check: "getent ahosts {name}",
        fix: "correct the name in the gateway's configuration, or create it in the DNS zone",
        applies_to: |effect| resolving(effect, Fault::DnsNotFound),
        judge: |_, effect| unresolved(effect, "there is no such name"),
    },
    Rule {
        id: "dns.servfail_refused",
        summary: "the gateway's resolver fails, or refuses to answer",
        doc: "\"Server failure\" (2) or \"refused\" (5): the resolver's own upstream, its rights, or DNSSEC.",
        check: "resolvectl query {name}",
        fix: "look at the resolver that the gateway is told to use: it answers with an error",
        applies_to: |effect| resolving(effect, Fault::DnsFailed),
        judge: |_, effect| unresolved(effect, "the resolver answers with an error"),
    },
    Rule {
        id: "dns.timeout",
        summary: "the gateway's resolver does not answer",
        doc: "nginx: \"could not be resolved (110: Operation timed out)\" after resolver_timeout, 30 s by default.",
        check: "resolvectl query {name}",
        fix: "bring back the resolver that the gateway is told to use, or name another one",
        applies_to: |effect| resolving(effect, Fault::DnsTimeout),
        judge: |_, effect| unresolved(effect, "the resolver does not answer"),
    },
    Rule {
        id: "dns.no_resolver",
        summary: "the gateway is to resolve a name and has no resolver",
        doc: "nginx: \"no resolver defined to resolve\": proxy_pass has a variable in it.",
        check: "grep -rn 'resolver ' /etc/nginx",
        fix: "add `resolver ADDRESS;` to the gateway's configuration",
        applies_to: |effect| resolving(effect, Fault::NoResolver),
        judge: |_, effect| unresolved(effect, "it has no resolver"),
    },
];

fn resolving(effect: &Effect<'_>, fault: Fault) -> bool {
    matches!(effect, Effect::Failed { failed, .. } if failed.what.fault() == fault)
}

fn unreachable(effect: &Effect<'_>) -> bool {
    let Effect::Failed { place: Some(_), failed, .. } = effect else { return false };
    let fault = failed.what.fault();
    let unreachable = matches!(fault, Fault::Ehostunreach | Fault::Enetunreach);
    unreachable || (failed.what.phase() == Phase::Connect && fault == Fault::Unspecified)
}

/// What the newest look at the name found, if the gateway's address was not among it.
fn led_elsewhere<'a>(
    snapshot: &'a Snapshot,
    place: Place<'a>,
    during: Window,
) -> Option<Said<'a, NameResolved>> {
    let of_place = |found: &Said<'a, NameResolved>| {
        found.what.declared.iter().any(|address| address == place.endpoint)
            && found.at_us() >= during.from_us - LOOKED_UP_US
            && found.at_us() <= during.to_us
    };
    snapshot.on::<NameResolved>(place.gateway).rfind(of_place).filter(|found| {
        let now = &found.what.addresses;
        !now.is_empty() && !now.iter().any(|address| address == place.endpoint)
    })
}

fn stale<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place().filter(|place| place.address.tcp().is_some()) else {
        return Verdict::NoSign;
    };
    let during = effect.during();
    let Some(found) = led_elsewhere(snapshot, place, during) else { return Verdict::NoSign };
    let name = found.what.endpoint.rsplit_once(':').map_or("", |(name, _)| name);
    let gateway = place.gateway;
    let what = format!(
        "{name} leads to {} now, and the gateway on {gateway} still goes to {}",
        list(&found.what.addresses),
        place.endpoint
    );
    let declared = super::listener::declaration(snapshot, &place);
    Cause::new(gateway, during.at_us, Confidence::Proven, what.clone())
        .text(format!("{what}{}.", declared_at(snapshot, &place)))
        .because(declared.map(|declared| declared.seen))
        .because([found.seen])
        .name("name", name)
        .explained()
}

fn unresolved<'a>(effect: &Effect<'a>, why: &str) -> Verdict<'a> {
    let Effect::Failed { gateway, failed, .. } = *effect else { return Verdict::NoSign };
    let message = &failed.what.message;
    // "app.internal could not be resolved (3: Host not found)", "no resolver defined to resolve app.internal"
    let name = message
        .split_once(" could not be resolved")
        .map(|(name, _)| name)
        .or_else(|| message.split_once("to resolve ").map(|(_, name)| name))
        .and_then(|name| name.split_whitespace().next_back())
        .unwrap_or("the name of the endpoint");
    let what = format!("{gateway} cannot resolve {name}: {why}");
    Cause::new(gateway, failed.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}. \"{message}\""))
        .because([failed.seen])
        .name("name", name)
        .explained()
}
