//! The way from gateway to service: routes, neighbours, links, hosts and addresses.

use why502_proto::v1::{
    AgentSilent, Fault, HostAddress, HostAddressGone, LinkState, Neighbor, Route, RouteOutcome,
    Source,
};

use super::Rule;
use super::listener::declared_at;
use super::words::clock;
use crate::effect::Effect;
use crate::snapshot::{Located, Place, Said, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// The kernel's notice of a change is read this soon after what it does to connections.
const READ_LATE_US: i64 = 150_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "host.down",
        summary: "the host behind the endpoint is down, or cut off",
        doc: "\"No route to host\" or connect timeouts, its address no longer answers on the link, and its agent has \
                fallen silent: two witnesses. One alone is not enough.",
        check: "ping -c 3 {address}",
        fix: "bring {host} back; after its return its boot id tells whether it was rebooted",
        applies_to: |effect| matches!(effect, Effect::PathLost { .. }),
        judge: host_down,
    },
    Rule {
        id: "link.down",
        summary: "a network interface on the way is down",
        doc: "On the gateway: \"network is unreachable\" at once. On the service's host: timeouts, then \"no route to \
                host\".",
        check: "ip -br link show {interface}",
        fix: "ip link set {interface} up, or see to its cable, switch port or virtual network",
        applies_to: |effect| {
            matches!(effect, Effect::PathLost { .. } | Effect::ConnectTimeout { .. })
        },
        judge: link_down,
    },
    Rule {
        id: "gateway.upstream_address_mismatch",
        summary: "the gateway connects to an address that the service's host does not have",
        doc: "Timeouts, \"no route to host\" or refused, and nobody has that address any more: the host was given another \
                one, or the configuration names the wrong one.",
        check: "ip -br address",
        fix: "change {endpoint} to {address} in the gateway's configuration{place}",
        applies_to: |effect| {
            matches!(effect, Effect::PathLost { .. } | Effect::ConnectTimeout { .. })
        },
        judge: address_mismatch,
    },
    Rule {
        id: "route.missing",
        summary: "the gateway's host has no route to the endpoint",
        doc: "\"Network is unreachable\" (101) at once.",
        check: "ip route get {address}",
        fix: "add the route to {address} on {host}, and where it is made permanent",
        applies_to: |effect| failed(effect, Fault::Enetunreach),
        judge: |snapshot, effect| route(snapshot, effect, RouteOutcome::Missing),
    },
    Rule {
        id: "route.blackhole",
        summary: "a blackhole route swallows what goes to the endpoint",
        doc: "\"Invalid argument\" (22) from connect. fail2ban and routing daemons use such routes.",
        check: "ip route get {address}",
        fix: "delete the blackhole route that covers {address} on {host}",
        applies_to: |effect| failed(effect, Fault::Einval),
        judge: |snapshot, effect| route(snapshot, effect, RouteOutcome::Blackhole),
    },
    Rule {
        id: "route.prohibit",
        summary: "a prohibit route forbids what goes to the endpoint",
        doc: "\"Permission denied\" (13) from connect to an IP address.",
        check: "ip route get {address}",
        fix: "delete the prohibit route that covers {address} on {host}",
        applies_to: |effect| failed(effect, Fault::Eacces),
        judge: |snapshot, effect| route(snapshot, effect, RouteOutcome::Prohibit),
    },
    Rule {
        id: "route.unreachable",
        summary: "an unreachable route refuses what goes to the endpoint",
        doc: "\"No route to host\" (113) at once; a neighbour that does not answer takes three seconds.",
        check: "ip route get {address}",
        fix: "delete the unreachable route that covers {address} on {host}",
        applies_to: |effect| failed(effect, Fault::Ehostunreach),
        judge: |snapshot, effect| route(snapshot, effect, RouteOutcome::Unreachable),
    },
    Rule {
        id: "neighbor.unreachable",
        summary: "nobody answers for the endpoint's address, or its next hop, on the link",
        doc: "\"No route to host\" (113) after three seconds; with a shorter connect timer a timeout. The host is down, \
                or has another address, or is in another network.",
        check: "ip neigh show {hop}",
        fix: "find out who should have {hop}: the host is down, or its address is wrong",
        applies_to: |effect| {
            failed(effect, Fault::Ehostunreach) || matches!(effect, Effect::ConnectTimeout { .. })
        },
        judge: neighbor,
    },
];

/// It failed so, or the gateway did not say how.
fn failed(effect: &Effect<'_>, fault: Fault) -> bool {
    let Effect::Failed { place: Some(place), failed, .. } = effect else { return false };
    let said = failed.what.fault();
    place.address.tcp().is_some() && (said == fault || said == Fault::Unspecified)
}

/// The states of something that held at some moment of the window, newest last.
fn held<'a, T>(all: impl Iterator<Item = Said<'a, T>>, during: Window) -> Vec<Said<'a, T>> {
    let mut held: Vec<Said<'a, T>> = Vec::new();
    for said in all.filter(|said| said.at_us() <= during.at_us.saturating_add(READ_LATE_US)) {
        if said.at_us() <= during.from_us {
            held.clear();
        }
        held.push(said);
    }
    held
}

fn routes<'a>(snapshot: &'a Snapshot, place: Place<'a>) -> impl Iterator<Item = Said<'a, Route>> {
    let destination = place.address.tcp().map(|address| address.ip());
    snapshot
        .on::<Route>(place.gateway)
        .filter(move |route| route.what.destination.parse().ok() == destination)
}

fn route<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>, outcome: RouteOutcome) -> Verdict<'a> {
    let (Some(place), during) = (effect.place(), effect.during()) else { return Verdict::NoSign };
    let gateway = place.gateway;
    let found = held(routes(snapshot, place), during);
    let Some(route) = found.iter().rfind(|route| route.what.outcome() == outcome) else {
        let told = "whether there is a route";
        let missing = snapshot.first_blind(gateway, &[Source::Network], during.at_us, told);
        let proof = found.last().map(|route| route.seen);
        return match (missing, proof) {
            (Some(blind), _) => Verdict::Undecided { missing: vec![blind] },
            (None, Some(proof)) => Verdict::RuledOut {
                by: vec![proof],
                text: format!("{gateway} had a route to {}.", place.owner_name()),
            },
            (None, None) => Verdict::NoSign,
        };
    };
    let kind = match outcome {
        RouteOutcome::Missing => "has no route",
        RouteOutcome::Blackhole => "has a blackhole route",
        RouteOutcome::Prohibit => "has a prohibit route",
        _ => "has an unreachable route",
    };
    let what = format!("{gateway} {kind} to {}", place.owner_name());
    let since = if route.what.existing {
        String::new()
    } else {
        format!(" since {}", clock(route.at_us()))
    };
    let mut cause = Cause::new(gateway, route.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}{since}."))
        .because([route.seen])
        .name("address", place.owner_name())
        .name("host", gateway);
    if outcome == RouteOutcome::Missing {
        cause = cause.next(Effect::PathLost { place, during });
    }
    cause.explained()
}

/// The next hop towards the endpoint, where it does not answer.
fn silent_hop<'a>(
    snapshot: &'a Snapshot,
    place: Place<'a>,
    during: Window,
) -> Option<Said<'a, Neighbor>> {
    let destination = place.address.tcp()?.ip().to_string();
    let via = routes(snapshot, place).filter(|route| route.at_us() <= during.to_us).last();
    let hop = via.map(|route| &route.what.via).filter(|via| !via.is_empty());
    let hop = hop.unwrap_or(&destination);
    let told = snapshot.on::<Neighbor>(place.gateway).filter(|n| n.what.address == *hop);
    held(told, during).into_iter().rfind(|neighbor| neighbor.what.failed)
}

fn neighbor<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place().filter(|place| place.address.tcp().is_some()) else {
        return Verdict::NoSign;
    };
    let during = effect.during();
    let Some(silent) = silent_hop(snapshot, place, during) else {
        let told = "whether anybody answers for that address on the link";
        let missing = snapshot.first_blind(place.gateway, &[Source::Network], during.at_us, told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    };
    let hop = &silent.what.address;
    let gateway = place.gateway;
    let role = if *hop == place.owner_name() { "" } else { ", the next hop," };
    let what = format!("{hop}{role} does not answer on {} of {gateway}", silent.what.interface);
    Cause::new(gateway, silent.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what} since {}.", clock(silent.at_us())))
        .because([silent.seen])
        .name("hop", hop)
        .next(Effect::PathLost { place, during })
        .explained()
}

fn host_down<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::PathLost { place, during } = *effect else { return Verdict::NoSign };
    let Some(host) = place.host().filter(|host| *host != place.gateway) else {
        return Verdict::NoSign;
    };
    let Some(silent) = snapshot.on::<AgentSilent>(host).next_back() else {
        return Verdict::NoSign;
    };
    let (Some(hop), false) = (silent_hop(snapshot, place, during), silent.what.ended) else {
        return Verdict::NoSign;
    };
    // Another hop that does not answer says nothing of this host.
    if hop.what.address != place.owner_name() {
        return Verdict::NoSign;
    }
    let what = format!("{host} is down or cut off");
    let text = format!(
        "{what}: nothing was heard from its agent since {}, and {} does not answer on the link.",
        clock(silent.at_us()),
        hop.what.address
    );
    Cause::new(host, hop.at_us().min(silent.at_us()), Confidence::Likely, what)
        .text(text)
        // The silence is the collector's own word, of no host of the chain.
        .because([hop.seen])
        .name("host", host)
        .name("address", place.owner_name())
        .explained()
}

/// The interface of a host on which something of the way lies, in a state that lets nothing through.
fn down<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    interface: &str,
    during: Window,
) -> Option<Said<'a, LinkState>> {
    let told = snapshot.on::<LinkState>(host).filter(|link| link.what.interface == interface);
    held(told, during).into_iter().rfind(|link| !link.what.up || !link.what.carrier)
}

fn link_down<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place().filter(|place| place.address.tcp().is_some()) else {
        return Verdict::NoSign;
    };
    let during = effect.during();
    let used = routes(snapshot, place)
        .filter(|route| route.at_us() <= during.to_us && !route.what.interface.is_empty())
        .last();
    let mut ends: Vec<(&str, &str)> = Vec::new();
    ends.extend(used.map(|route| (place.gateway, route.what.interface.as_str())));
    if let Some(host) = place.host() {
        let own =
            snapshot.on::<HostAddress>(host).rfind(|own| own.what.address == place.owner_name());
        ends.extend(own.map(|own| (host, own.what.interface.as_str())));
    }
    let found = ends
        .into_iter()
        .filter_map(|(host, name)| Some((host, down(snapshot, host, name, during)?)))
        // Of two ends of one link, the one that was switched off took the carrier of the other.
        .min_by_key(|(_, link)| link.what.up);
    let Some((host, link)) = found else { return Verdict::NoSign };
    let interface = &link.what.interface;
    let state = match (link.what.gone, link.what.up) {
        (true, _) => "was removed",
        (_, false) => "is switched off",
        _ => "has no carrier",
    };
    let what = format!("interface {interface} of {host} {state}");
    Cause::new(host, link.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what} since {}.", clock(link.at_us())))
        .because([link.seen])
        .name("interface", interface)
        .explained()
}

/// A host had the address, and has another one now.
fn address_mismatch<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place() else { return Verdict::NoSign };
    let (Some(address), during) = (place.address.tcp(), effect.during()) else {
        return Verdict::NoSign;
    };
    if place.located != Located::NoAgent {
        return Verdict::NoSign;
    }
    let lost = snapshot.hosts().find_map(|host| {
        let gone = snapshot
            .on::<HostAddressGone>(host)
            .rfind(|gone| gone.what.address.parse() == Ok(address.ip()))
            .filter(|gone| gone.at_us() <= during.to_us)?;
        Some((host, gone))
    });
    let Some((host, gone)) = lost else { return Verdict::NoSign };
    let has = |own: &Said<'a, HostAddress>| {
        let newer = snapshot
            .on::<HostAddressGone>(host)
            .any(|gone| gone.what.address == own.what.address && gone.at_us() >= own.at_us());
        let family = own.what.address.parse::<std::net::IpAddr>();
        own.what.interface == gone.what.interface
            && !newer
            && family.is_ok_and(|ip| ip.is_ipv4() == address.is_ipv4())
    };
    let now = snapshot.on::<HostAddress>(host).rfind(has);
    let instead = now.map_or_else(String::new, |own| format!("; it has {} now", own.what.address));
    let what = format!("{host} no longer has the address {}{instead}", address.ip());
    let new = now.map_or_else(
        || format!("the address that {host} has now"),
        |own| {
            let ip = own.what.address.parse().unwrap_or(address.ip());
            std::net::SocketAddr::new(ip, address.port()).to_string()
        },
    );
    let text = format!(
        "{what}. It lost it at {}; the gateway still connects to {}{}.",
        clock(gone.at_us()),
        place.endpoint,
        declared_at(snapshot, &place)
    );
    Cause::new(host, gone.at_us(), Confidence::Proven, what)
        .text(text)
        .because([gone.seen])
        .because(now.map(|own| own.seen))
        .name("endpoint", place.endpoint)
        .name("address", new)
        .name("place", declared_at(snapshot, &place))
        .explained()
}
