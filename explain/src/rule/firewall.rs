//! Firewall rules between gateway and service, on either of their hosts.

use why502_proto::v1::{Fault, FirewallAction, FirewallDirection, Phase, RequestCounts, Source};

use super::Rule;
use super::network::nobody_there;
use crate::effect::Effect;
use crate::snapshot::{Barrier, Listening, Place, Sight, Snapshot, Window};
use crate::verdict::{Blind, Cause, Confidence, Verdict, blind};

/// The part of the network source that reads rules.
const RULES_PART: &str = "firewall";
/// A connect that timed out may have begun so long before: nginx waits 60 s by default.
const CONNECT_BEGAN_US: i64 = 61_000_000;
/// Connections that were there before a rule may serve requests for about so long.
const GO_ON_US: i64 = 120_000_000;
/// The kernel's notice of a change is read this soon after what it does to connections.
const READ_LATE_US: i64 = 150_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "firewall.reject",
        summary: "a firewall rule rejects the connection",
        doc: "Refused, or \"no route to host\", although a socket listens on that address and nothing is wrong with the \
                route: a rule with `reject` answers in its place, on the origin or on the gateway.",
        check: "nft -a list chain {chain}",
        fix: "allow {from} to reach {address} before that rule, or delete it: nft delete rule {rule}",
        applies_to: |effect| {
            matches!(effect, Effect::NothingListens { .. } | Effect::Failed { place: Some(_), .. })
        },
        judge: reject,
    },
    Rule {
        id: "firewall.drop.origin",
        summary: "a firewall rule of the service's host drops the connection",
        doc: "Connect timeouts while the service listens and its queue is empty: packets to that port vanish before the \
                socket sees them.",
        check: "nft -a list chain {chain}",
        fix: "allow {from} to reach {address} before that rule, or delete it: nft delete rule {rule}",
        applies_to: |effect| {
            matches!(effect, Effect::ConnectTimeout { .. }) || says_nothing(effect)
        },
        judge: dropped_by_origin,
    },
    Rule {
        id: "firewall.drop.gateway",
        summary: "a firewall rule of the gateway's own host drops the connection on its way out",
        doc: "Connect timeouts, and nothing of them arrives: an output or postrouting rule on the gateway.",
        check: "nft -a list chain {chain}",
        fix: "allow connections to {address} before that rule, or delete it: nft delete rule {rule}",
        applies_to: |effect| {
            matches!(effect, Effect::ConnectTimeout { .. }) || says_nothing(effect)
        },
        judge: dropped_by_gateway,
    },
];

/// A connection failed, and the gateway does not say how.
fn says_nothing(effect: &Effect<'_>) -> bool {
    let Effect::Failed { place: Some(_), failed, .. } = effect else { return false };
    failed.what.phase() == Phase::Connect && failed.what.fault() == Fault::Unspecified
}

/// Which rules of a host are in the way.
fn standing<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    direction: FirewallDirection,
    place: Place<'a>,
    during: Window,
    actions: &[FirewallAction],
) -> Option<Barrier<'a>> {
    let destination = place.address.tcp()?.ip();
    let from = snapshot.leaves_from(place.gateway, destination, during.at_us);
    let to_us = during.at_us.saturating_add(READ_LATE_US);
    snapshot
        .barriers(host, during.from_us, to_us)
        .into_iter()
        .filter(|barrier| actions.contains(&barrier.said.what.action()))
        .filter(|barrier| {
            // With several addresses, and none known to be the one, all of them have to meet it.
            !from.is_empty()
                && from.iter().all(|from| barrier.is_between(direction, place.address, *from))
        })
        .filter(|barrier| !lets_through(snapshot, place, barrier, during))
        .min_by_key(|barrier| (barrier.said.what.unsure, barrier.first.at_us()))
}

/// Requests of the gateway were answered long after the rule came: somebody in between gives them another source, and
/// the rule is not met. Connections that were there before it go on for some time.
fn lets_through<'a>(
    snapshot: &'a Snapshot,
    place: Place<'a>,
    barrier: &Barrier<'a>,
    during: Window,
) -> bool {
    // Of one that was there before the agent nobody knows when it came.
    let from_us = barrier.first.at_us().saturating_add(GO_ON_US);
    let declared = super::listener::declaration(snapshot, &place);
    let name = declared.map_or(place.endpoint, |declared| declared.what.endpoint.as_str());
    snapshot.on::<RequestCounts>(place.gateway).any(|counts| {
        let what = counts.what;
        (what.endpoint == place.endpoint || what.endpoint == name)
            && what.success + what.redirect + what.client_error > 0
            && from_us <= counts.at_us()
            && counts.at_us() < during.at_us
    })
}

fn cause<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    place: Place<'a>,
    during: Window,
    barrier: &Barrier<'a>,
) -> Cause<'a> {
    let block = barrier.said.what;
    let does = match block.action() {
        FirewallAction::Drop => "drops",
        _ => "rejects",
    };
    let said = if block.handle == 0 {
        format!("the policy of chain {}", barrier.name())
    } else {
        format!("the rule \"{}\" ({})", block.rule, barrier.name())
    };
    let comment =
        if block.comment.is_empty() { String::new() } else { format!(" \"{}\"", block.comment) };
    let from = place.gateway;
    let what =
        format!("{said}{comment} on {host} {does} connections from {from} to {}", place.endpoint);
    let counted = barrier.counted().map_or_else(String::new, |packets| {
        format!(" It has met {packets} packets since it was seen first.")
    });
    let confidence = match (block.unsure, barrier.counted()) {
        (false, _) => Confidence::Proven,
        (true, Some(_)) => Confidence::Likely,
        (true, None) => Confidence::Possible,
    };
    let source = place.address.tcp().map(|own| own.ip()).and_then(|destination| {
        let from = snapshot.leaves_from(place.gateway, destination, during.at_us);
        from.first().map(ToString::to_string)
    });
    let chain = format!("{} {} {}", block.family, block.table, block.chain);
    let mut cause = Cause::new(host, barrier.first.at_us(), confidence, what.clone())
        .text(format!("{what}.{counted}"))
        .because([barrier.first.seen])
        .because(barrier.counted().map(|_| barrier.said.seen))
        .name("from", source.unwrap_or_else(|| from.to_owned()))
        .name("address", place.endpoint)
        .name("chain", chain.clone())
        .name("rule", barrier.name());
    if block.handle == 0 {
        let source = cause.names.first().map_or_else(String::new, |(_, from)| from.clone());
        let port = place.address.port();
        let near = match block.direction() {
            FirewallDirection::Out => format!("ip daddr {}", place.owner_name()),
            _ => format!("ip saddr {source}"),
        };
        cause = cause.fix(format!("allow it: nft add rule {chain} {near} tcp dport {port} accept"));
    }
    cause
}

/// What is said where no rule is in the way: that none is, or who could not see.
fn none_stands<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    place: Place<'a>,
    during: Window,
    verb: &str,
) -> Verdict<'a> {
    match seeing(snapshot, host, during) {
        Ok(proof) => Verdict::RuledOut {
            by: vec![proof],
            text: format!("No firewall rule of {host} {verb} connections to {}.", place.endpoint),
        },
        Err(blind) => Verdict::Undecided { missing: vec![blind] },
    }
}

fn seeing<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    during: Window,
) -> Result<&'a crate::Seen, Blind> {
    let sight = snapshot.part_sight(host, Source::Network, RULES_PART, during.at_us);
    match sight {
        Sight::Seeing(proof) => Ok(proof),
        sight => Err(blind(host, Source::Network, sight, "whether a firewall rule is in the way")),
    }
}

/// How a connection comes to the service: packets of a gateway on the same host come by loopback,
/// and were followed only for addresses of that.
fn followed(place: Place<'_>, host: &str) -> bool {
    host != place.gateway || place.address.tcp().is_some_and(|address| address.ip().is_loopback())
}

fn reject<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place().filter(|place| place.address.tcp().is_some()) else {
        return Verdict::NoSign;
    };
    let during = effect.during();
    let actions: &[FirewallAction] = match effect {
        Effect::NothingListens { .. } => &[FirewallAction::Refuse],
        Effect::Failed { failed, .. } if unreachable(failed.what.fault()) => {
            &[FirewallAction::Unreachable]
        }
        effect if says_nothing(effect) => &[FirewallAction::Refuse, FirewallAction::Unreachable],
        _ => return Verdict::NoSign,
    };
    let out = FirewallDirection::Out;
    if let Some(barrier) = standing(snapshot, place.gateway, out, place, during, actions) {
        return cause(snapshot, place.gateway, place, during, &barrier).explained();
    }
    let Some(host) = place.host() else { return Verdict::NoSign };
    if matches!(effect, Effect::NothingListens { .. }) {
        match snapshot.listening(host, place.address, during) {
            Listening::Covered(_) => {}
            Listening::Gap { proof, .. } => {
                return Verdict::RuledOut {
                    by: vec![proof],
                    text: format!(
                        "Nothing listened on {} of {host}: no firewall is needed to refuse.",
                        place.address.short()
                    ),
                };
            }
            Listening::Unseen(_) => {
                return match seeing(snapshot, host, during) {
                    Err(blind) => Verdict::Undecided { missing: vec![blind] },
                    Ok(_) => Verdict::NoSign,
                };
            }
        }
    }
    if !followed(place, host) {
        return Verdict::NoSign;
    }
    match standing(snapshot, host, FirewallDirection::In, place, during, actions) {
        Some(barrier) => cause(snapshot, host, place, during, &barrier).explained(),
        None => none_stands(snapshot, host, place, during, "rejects"),
    }
}

/// What an ICMP error other than "port unreachable" becomes.
fn unreachable(fault: Fault) -> bool {
    matches!(fault, Fault::Ehostunreach | Fault::Enetunreach | Fault::Eacces)
}

fn dropped_by_origin<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place().filter(|place| place.address.tcp().is_some()) else {
        return Verdict::NoSign;
    };
    let Some(host) = place.host() else {
        return Verdict::Undecided { missing: vec![nobody_there(place)] };
    };
    if !followed(place, host) {
        return Verdict::NoSign;
    }
    let during = effect.during();
    let during = Window { from_us: during.from_us.saturating_sub(CONNECT_BEGAN_US), ..during };
    let direction = FirewallDirection::In;
    match standing(snapshot, host, direction, place, during, &[FirewallAction::Drop]) {
        Some(barrier) => cause(snapshot, host, place, during, &barrier).explained(),
        None => none_stands(snapshot, host, place, during, "drops"),
    }
}

fn dropped_by_gateway<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place().filter(|place| place.address.tcp().is_some()) else {
        return Verdict::NoSign;
    };
    let during = effect.during();
    let during = Window { from_us: during.from_us.saturating_sub(CONNECT_BEGAN_US), ..during };
    let (host, direction) = (place.gateway, FirewallDirection::Out);
    match standing(snapshot, host, direction, place, during, &[FirewallAction::Drop]) {
        Some(barrier) => cause(snapshot, host, place, during, &barrier).explained(),
        None => none_stands(snapshot, host, place, during, "drops"),
    }
}
