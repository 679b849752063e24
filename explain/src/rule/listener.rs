//! The service runs, and does not listen where the gateway connects.

use why502_proto::v1::{EndpointDeclared, UnitLastWords};

use super::Rule;
use super::owner::{Owner, owner};
use crate::Seen;
use crate::effect::Effect;
use crate::snapshot::{Listener, Listening, Place, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// Words of a failed start come within this of it.
const WORDS_NEAR_US: i64 = 5_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "listener.bound_to_loopback",
        summary: "the service listens on loopback only, and the gateway comes from outside",
        doc: "Refused at once, while a request on the host itself succeeds.",
        check: "ss -ltn 'sport = :{port}'",
        fix: "let {owner} listen on {address} (or 0.0.0.0, with a firewall) instead of {bound}",
        applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
        judge: bound_to_loopback,
    },
    Rule {
        id: "listener.wrong_interface",
        summary: "the service listens on another address of the host",
        doc: "Refused at once; the port is right, the address is not.",
        check: "ss -ltn 'sport = :{port}'",
        fix: "let {owner} listen on {address}, or let the gateway connect to {bound}",
        applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
        judge: wrong_interface,
    },
    Rule {
        id: "listener.wrong_family",
        summary: "the service listens on IPv4 and the gateway connects over IPv6, or the other way round",
        doc: "`localhost` is both ::1 and 127.0.0.1: one of two attempts is refused.",
        check: "ss -ltn 'sport = :{port}'; getent ahosts {name}",
        fix: "name the address that is listened on ({bound}) in the gateway's configuration, or listen on both families",
        applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
        judge: wrong_family,
    },
    Rule {
        id: "listener.taken_by_other",
        summary: "another program has taken the port",
        doc: "The service fails with \"Address already in use\"; who listens instead is not it.",
        check: "ss -ltnp 'sport = :{port}'",
        fix: "stop {owner} or give it another port, then start {unit}",
        applies_to: |effect| matches!(effect, Effect::PortTaken { .. }),
        judge: taken_by_other,
    },
    Rule {
        id: "listener.wrong_netns",
        summary: "the service listens inside another network namespace whose port is not published",
        doc: "Refused, although a container listens on that very port.",
        check: "lsns -t net; ss -ltnp 'sport = :{port}'",
        fix: "publish port {port} of the container or restart what forwards it; of a service, take PrivateNetwork= or \
              NetworkNamespacePath= off its unit",
        applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
        judge: wrong_netns,
    },
];

/// The place, its host and who should serve it, where at some moment nobody listened.
pub(super) struct Gap<'a> {
    pub(super) place: Place<'a>,
    pub(super) host: &'a str,
    pub(super) during: Window,
    pub(super) proof: &'a Seen,
    pub(super) owner: Option<Owner<'a>>,
}

pub(super) fn gap<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Option<Gap<'a>> {
    let Effect::NothingListens { place, during } = *effect else { return None };
    let host = place.host()?;
    let Listening::Gap { proof, .. } = snapshot.listening(host, place.address, during) else {
        return None;
    };
    Some(Gap { place, host, during, proof, owner: owner(snapshot, host, place.address, during) })
}

/// Sockets of the same port that were open, and do not take the connection.
pub(super) fn same_port<'a>(
    snapshot: &'a Snapshot,
    gap: &Gap<'a>,
) -> impl Iterator<Item = &'a Listener> {
    let (port, at_us) = (gap.place.address.port(), gap.during.at_us);
    let address = gap.place.address;
    snapshot.listeners(gap.host).iter().filter(move |l| {
        l.netns == 0
            && l.open_at(at_us)
            && !l.takes(address)
            && l.socket().is_some_and(|socket| socket.port() == port)
    })
}

/// Whoever listens there is not the one who should.
fn is_other(gap: &Gap<'_>, listener: &Listener) -> bool {
    gap.owner.as_ref().is_some_and(|owner| {
        owner.confidence == Confidence::Proven
            && !owner.unit.is_empty()
            && !listener.unit.is_empty()
            && owner.unit != listener.unit
    })
}

fn misbound<'a>(
    snapshot: &'a Snapshot,
    gap: &Gap<'a>,
    listener: &'a Listener,
    but: &str,
) -> Cause<'a> {
    let owner = listener.owner();
    let what = format!("{owner} on {} listens on {} only, {but}", gap.host, listener.address);
    let at_us = listener.from_us.max(listener.opened(snapshot).map_or(i64::MIN, |f| f.at_us));
    Cause::new(gap.host, at_us, Confidence::Proven, what)
        .because(listener.opened(snapshot))
        .name("owner", owner)
        .name("port", gap.place.address.port().to_string())
        .name("bound", listener.address.clone())
        .name("address", gap.place.endpoint)
}

fn bound_to_loopback<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(gap) = gap(snapshot, effect) else { return Verdict::NoSign };
    let Some(dialled) = gap.place.address.tcp() else { return Verdict::NoSign };
    if dialled.ip().is_loopback() {
        return Verdict::NoSign;
    }
    let found = same_port(snapshot, &gap)
        .find(|l| l.socket().is_some_and(|s| s.ip().is_loopback()) && !is_other(&gap, l));
    let Some(listener) = found else { return Verdict::NoSign };
    let but = format!("and the gateway connects to {}", gap.place.endpoint);
    let mut cause = misbound(snapshot, &gap, listener, &but);
    if gap.place.gateway == gap.host {
        cause = cause.fix(format!(
            "the gateway is on the same host: let it connect to {} instead of {}{}",
            listener.address,
            gap.place.endpoint,
            declared_at(snapshot, &gap.place)
        ));
    }
    cause.explained()
}

fn wrong_interface<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(gap) = gap(snapshot, effect) else { return Verdict::NoSign };
    let Some(dialled) = gap.place.address.tcp() else { return Verdict::NoSign };
    let found = same_port(snapshot, &gap).find(|l| {
        l.socket().is_some_and(|own| {
            own.is_ipv4() == dialled.is_ipv4()
                // On loopback only, and dialled from outside: that is another cause.
                && (!own.ip().is_loopback() || dialled.ip().is_loopback())
                && !own.ip().is_unspecified()
                && own.ip() != dialled.ip()
        }) && !is_other(&gap, l)
    });
    let Some(listener) = found else { return Verdict::NoSign };
    let but = format!("and the gateway connects to {}", gap.place.endpoint);
    misbound(snapshot, &gap, listener, &but).explained()
}

fn wrong_family<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(gap) = gap(snapshot, effect) else { return Verdict::NoSign };
    let Some(dialled) = gap.place.address.tcp() else { return Verdict::NoSign };
    let found = same_port(snapshot, &gap).find(|l| {
        l.socket().is_some_and(|own| {
            let reach =
                own.ip().is_unspecified() || own.ip().is_loopback() == dialled.ip().is_loopback();
            own.is_ipv4() != dialled.is_ipv4() && reach
        }) && !is_other(&gap, l)
    });
    let Some(listener) = found else { return Verdict::NoSign };
    let (tried, has) = if dialled.is_ipv6() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
    let declared = declaration(snapshot, &gap.place);
    let name = declared.map_or(gap.place.endpoint, |d| d.what.endpoint.as_str());
    let resolves = if name == gap.place.endpoint {
        String::new()
    } else {
        format!(" ({name} is also {})", gap.place.endpoint)
    };
    let but = format!("which is {has}, and the gateway connects over {tried}{resolves}");
    let host_part = name.rsplit_once(':').map_or(name, |(host, _)| host).to_owned();
    misbound(snapshot, &gap, listener, &but)
        .because(declared.map(|declared| declared.seen))
        .name("name", host_part)
        .explained()
}

/// Somebody else listens on a port that the service had, or that it names in its last words.
fn taken_by_other<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::PortTaken { host, unit, during } = *effect else { return Verdict::NoSign };
    let until_us = during.to_us.saturating_add(WORDS_NEAR_US);
    let named = |port: u16| {
        let port = port.to_string();
        let is = |line: &String| line.split(|c: char| !c.is_ascii_digit()).any(|word| word == port);
        snapshot
            .on::<UnitLastWords>(host)
            .filter(|words| words.what.unit == unit && words.at_us() <= until_us)
            .find(|words| words.what.lines.iter().any(is))
    };
    let had = |port: u16| {
        let mut own = snapshot.listeners(host).iter().filter(|l| l.unit == unit);
        own.any(|l| l.socket().is_some_and(|socket| socket.port() == port))
    };
    let taken = snapshot.listeners(host).iter().find_map(|l| {
        let port = l.socket()?.port();
        let other = l.netns == 0 && l.unit != unit && l.open_at(during.at_us);
        let words = named(port);
        (other && (words.is_some() || had(port))).then_some((l, port, words))
    });
    let Some((listener, port, words)) = taken else { return Verdict::NoSign };
    let owner = listener.owner();
    let what =
        format!("{owner} has taken {} on {host}, and {unit} cannot bind it", listener.address);
    Cause::new(host, listener.from_us.max(0), Confidence::Proven, what)
        .because(listener.opened(snapshot))
        .because(words.map(|words| words.seen))
        .name("owner", owner)
        .name("unit", unit)
        .name("port", port.to_string())
        .explained()
}

fn wrong_netns<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(gap) = gap(snapshot, effect) else { return Verdict::NoSign };
    let owner = gap.owner.as_ref().map(|owner| owner.unit);
    let found = snapshot.listeners(gap.host).iter().find(|l| {
        let port = l.socket().is_some_and(|own| own.port() == gap.place.address.port());
        // Whoever else listens in a namespace of its own is not the service that was meant.
        let meant = owner.is_none_or(|unit| !unit.is_empty() && unit == l.unit);
        l.netns != 0 && l.open_at(gap.during.at_us) && port && meant
    });
    let Some(listener) = found else { return Verdict::NoSign };
    let what = format!(
        "{} on {} listens on {} in a network namespace of its own",
        listener.owner(),
        gap.host,
        listener.address
    );
    // The service that listened where the gateway connects is known; a stranger is only the best guess.
    let confidence = if owner.is_some() { Confidence::Proven } else { Confidence::Possible };
    let at_us = if owner.is_some() { listener.from_us.max(0) } else { gap.during.at_us };
    Cause::new(gap.host, at_us, confidence, what)
        .because(listener.opened(snapshot))
        .because(gap.owner.iter().flat_map(|owner| owner.facts.iter().copied()))
        .name("port", gap.place.address.port().to_string())
        .explained()
}

/// Where the gateway declares this endpoint.
pub(super) fn declaration<'a>(
    snapshot: &'a Snapshot,
    place: &Place<'a>,
) -> Option<crate::snapshot::Said<'a, EndpointDeclared>> {
    snapshot.on::<EndpointDeclared>(place.gateway).rev().find(|declared| {
        declared.what.endpoint == place.endpoint
            || declared.what.addresses.iter().any(|address| address == place.endpoint)
    })
}

/// " (/etc/nginx/nginx.conf:12)"
pub(super) fn declared_at(snapshot: &Snapshot, place: &Place<'_>) -> String {
    declaration(snapshot, place)
        .filter(|declared| !declared.what.file.is_empty())
        .map_or_else(String::new, |d| format!(" ({}:{})", d.what.file, d.what.line))
}
