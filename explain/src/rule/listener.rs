//! The service runs, and does not listen where the gateway connects.

use why502_proto::v1::{EndpointDeclared, EndpointWithdrawn, GatewaySeen, UnitLastWords};

use super::Rule;
use super::owner::{Owner, owner};
use super::words::{clock, list};
use crate::Seen;
use crate::address::Address;
use crate::effect::{Effect, Tie};
use crate::snapshot::{Listener, Listening, Place, Run, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// Two ports that one service held at once for longer than this are two ports, not one that moved.
const MOVED_OVERLAP_US: i64 = 1_000_000;
/// Words of a failed start come within this of it.
const WORDS_NEAR_US: i64 = 5_000_000;
/// Programs that listen on most hosts and are nobody's upstream.
const NOT_UPSTREAMS: [&str; 10] = [
    "sshd",
    "systemd",
    "systemd-resolve",
    "systemd-resolved",
    "cupsd",
    "master",
    "exim4",
    "rpcbind",
    "why502",
    "why502-agent",
];

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
        fix: "publish port {port} of the container, or restart what forwards it",
        applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
        judge: wrong_netns,
    },
    Rule {
        id: "listener.absent_port",
        summary: "the service runs, but does not listen on that port",
        doc: "Refused at once although the unit is active; it listens elsewhere or nowhere.",
        check: "ss -ltnp",
        fix: "look at the port that {unit} is configured for; it {listens}",
        applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
        judge: absent_port,
    },
];

/// The place, its host and who should serve it, where at some moment nobody listened.
struct Gap<'a> {
    place: Place<'a>,
    host: &'a str,
    during: Window,
    proof: &'a Seen,
    owner: Option<Owner<'a>>,
}

fn gap<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Option<Gap<'a>> {
    let Effect::NothingListens { place, during } = *effect else { return None };
    let host = place.host()?;
    let Listening::Gap { proof, .. } = snapshot.listening(host, place.address, during) else {
        return None;
    };
    Some(Gap { place, host, during, proof, owner: owner(snapshot, host, place.address, during) })
}

/// Sockets of the same port that were open, and do not take the connection.
fn same_port<'a>(snapshot: &'a Snapshot, gap: &Gap<'a>) -> impl Iterator<Item = &'a Listener> {
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
                && !own.ip().is_loopback()
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
    if gap.owner.is_some() {
        return Verdict::NoSign;
    }
    let found = snapshot.listeners(gap.host).iter().find(|l| {
        let port = l.socket().is_some_and(|own| own.port() == gap.place.address.port());
        l.netns != 0 && l.open_at(gap.during.at_us) && port
    });
    let Some(listener) = found else { return Verdict::NoSign };
    let what = format!(
        "{} on {} listens on {} in a network namespace of its own",
        listener.owner(),
        gap.host,
        listener.address
    );
    Cause::new(gap.host, gap.during.at_us, Confidence::Possible, what)
        .because(listener.opened(snapshot))
        .name("port", gap.place.address.port().to_string())
        .explained()
}

fn absent_port<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(gap) = gap(snapshot, effect) else { return Verdict::NoSign };
    if matches!(gap.place.address, Address::Unix(_)) || same_port(snapshot, &gap).next().is_some() {
        return Verdict::NoSign;
    }
    match &gap.owner {
        Some(owner) => silent_owner(snapshot, &gap, owner),
        None => unknown_owner(snapshot, &gap),
    }
}

/// The service that listened there runs, and no longer does.
fn silent_owner<'a>(snapshot: &'a Snapshot, gap: &Gap<'a>, owner: &Owner<'a>) -> Verdict<'a> {
    let (unit, host, during) = (owner.unit, gap.host, gap.during);
    let proof = if unit.is_empty() {
        let alive = owner.death.is_none()
            && snapshot
                .sight(host, why502_proto::v1::Source::Process, during.at_us)
                .seeing()
                .is_some();
        match owner.listener.and_then(|l| l.opened(snapshot)).filter(|_| alive) {
            Some(proof) => proof,
            None => return moved(snapshot, gap),
        }
    } else {
        match snapshot.run(host, unit, during.at_us, during.to_us) {
            Run::Up { proof, .. } => proof,
            _ => return moved(snapshot, gap),
        }
    };
    let last_end = owner.listener.map_or(i64::MIN, |l| l.to_us);
    let mine: Vec<&Listener> = others(snapshot, gap)
        .filter(|l| if unit.is_empty() { l.pid == owner.pid } else { l.unit == unit })
        .collect();
    let fresh = mine.iter().find(|l| l.from_us.saturating_add(MOVED_OVERLAP_US) >= last_end);
    // Without any socket of its own it may still be starting: that is another rule's matter until it has had its time.
    if mine.is_empty() && still_starting(snapshot, host, unit, during) {
        return Verdict::NoSign;
    }
    let mut cause = absent(snapshot, gap, &service(owner), &mine, Confidence::Proven)
        .because([proof, gap.proof])
        .because(owner.facts.iter().copied());
    if !unit.is_empty() {
        cause = cause.check(format!(
            "systemctl status {unit}; ss -ltnp | grep ':{}'",
            gap.place.address.port()
        ));
    }
    if let Some(listener) = fresh {
        let effect = Effect::Elsewhere { place: gap.place, listener, during, tie: Tie::SameUnit };
        cause = cause.next(effect);
    } else if let Some((listener, tie)) = declared_before(snapshot, gap) {
        cause = cause.next(Effect::Elsewhere { place: gap.place, listener, during, tie });
    }
    cause.explained()
}

fn service(owner: &Owner<'_>) -> String {
    if owner.unit.is_empty() { format!("pid {}", owner.pid) } else { owner.unit.to_owned() }
}

fn still_starting(snapshot: &Snapshot, host: &str, unit: &str, during: Window) -> bool {
    const STARTING_MAX_US: i64 = 60_000_000;
    match snapshot.run(host, unit, during.at_us, during.to_us) {
        Run::Up { since_us, .. } => during.at_us.saturating_sub(since_us) <= STARTING_MAX_US,
        _ => true,
    }
}

/// The one who listened there is gone; but the gateway came to this port only now.
fn moved<'a>(snapshot: &'a Snapshot, gap: &Gap<'a>) -> Verdict<'a> {
    let Some((listener, tie)) = declared_before(snapshot, gap) else { return Verdict::NoSign };
    absent(snapshot, gap, &listener.owner(), &[listener], Confidence::Likely)
        .because([gap.proof])
        .next(Effect::Elsewhere { place: gap.place, listener, during: gap.during, tie })
        .explained()
}

/// Nobody was ever seen on that port.
fn unknown_owner<'a>(snapshot: &'a Snapshot, gap: &Gap<'a>) -> Verdict<'a> {
    let (listener, tie, confidence) = if let Some((listener, tie)) = declared_before(snapshot, gap)
    {
        (listener, tie, Confidence::Proven)
    } else {
        let mut free = others(snapshot, gap).filter(|l| unclaimed(snapshot, gap, l));
        let (Some(only), None) = (free.next(), free.next()) else { return Verdict::NoSign };
        (only, Tie::OnlyOneLeft, Confidence::Likely)
    };
    absent(snapshot, gap, &listener.owner(), &[listener], confidence)
        .because([gap.proof])
        .next(Effect::Elsewhere { place: gap.place, listener, during: gap.during, tie })
        .explained()
}

fn absent<'a>(
    snapshot: &'a Snapshot,
    gap: &Gap<'a>,
    who: &str,
    on: &[&'a Listener],
    confidence: Confidence,
) -> Cause<'a> {
    let short = gap.place.address.short();
    let places: Vec<String> = on.iter().map(|l| l.address.clone()).collect();
    let listens = if places.is_empty() {
        "listens nowhere".to_owned()
    } else {
        format!("listens on {}", list(&places))
    };
    let what = format!("{who} on {} runs, but does not listen on {short}: it {listens}", gap.host);
    let at_us = gap.proof.at_us;
    Cause::new(gap.host, at_us, confidence, what.clone())
        .text(format!("{what} (at {}).", clock(gap.during.at_us)))
        .because(on.iter().filter_map(|l| l.opened(snapshot)))
        .name("unit", who)
        .name("listens", listens)
}

/// Open sockets on other ports that would take the gateway's connections.
fn others<'a>(snapshot: &'a Snapshot, gap: &Gap<'a>) -> impl Iterator<Item = &'a Listener> {
    let (host, at_us, dialled) = (gap.host, gap.during.at_us, gap.place.address.tcp());
    snapshot.listeners(host).iter().filter(move |l| {
        let (Some(own), Some(dialled)) = (l.socket(), dialled) else { return false };
        let there = Address::Tcp(std::net::SocketAddr::new(dialled.ip(), own.port()));
        own.port() != dialled.port() && l.open_at(at_us) && l.takes(there)
    })
}

/// The gateway led the same endpoint's route to another port before, and somebody listens there.
fn declared_before<'a>(snapshot: &'a Snapshot, gap: &Gap<'a>) -> Option<(&'a Listener, Tie<'a>)> {
    let declared = declaration(snapshot, &gap.place)?;
    let withdrawn = snapshot.on::<EndpointWithdrawn>(gap.place.gateway).rev().find_map(|gone| {
        let same = gone.what.instance == declared.what.instance
            && gone.what.route == declared.what.route
            && gone.what.endpoint != declared.what.endpoint
            && gone.at_us() <= gap.during.to_us;
        let listener = same.then(|| {
            others(snapshot, gap).find(|l| {
                Address::parse(&gone.what.endpoint).is_some_and(|address| match address {
                    Address::Tcp(_) => l.takes(address),
                    other => l.socket().is_some_and(|own| own.port() == other.port()),
                })
            })
        })??;
        Some((listener, Tie::DeclaredBefore(gone)))
    });
    withdrawn
}

/// No gateway leads there, and it is not one of the programs that listen on most hosts.
fn unclaimed(snapshot: &Snapshot, gap: &Gap<'_>, listener: &Listener) -> bool {
    let Some(own) = listener.socket() else { return false };
    let known = NOT_UPSTREAMS.contains(&listener.comm.as_str());
    let gateway = snapshot.on::<GatewaySeen>(gap.host).any(|seen| {
        (!listener.unit.is_empty() && seen.what.unit == listener.unit)
            || (seen.what.pid != 0 && seen.what.pid == listener.pid)
            || (!listener.comm.is_empty() && seen.what.gateway == listener.comm)
    });
    let claimed = snapshot.hosts().any(|host| {
        snapshot.declared(host, gap.during.at_us).iter().any(|declared| {
            let named = std::iter::once(&declared.what.endpoint).chain(&declared.what.addresses);
            named.filter_map(|text| Address::parse(text)).any(|address| {
                snapshot.locate(host, address, gap.during.at_us) == gap.place.located
                    && address.port() == own.port()
            })
        })
    });
    !known && !gateway && !claimed
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
