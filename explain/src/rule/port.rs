//! The service runs, and listens on another port or on none.

use why502_proto::v1::{EndpointWithdrawn, GatewaySeen, Source};

use super::Rule;
use super::listener::{Gap, declaration, gap, same_port};
use super::owner::Owner;
use super::starting::{STARTING_MAX_US, just_closed};
use super::words::{clock, list};
use crate::address::Address;
use crate::effect::{Effect, Tie};
use crate::snapshot::{Listener, Run, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// Two ports that one service held at once for longer than this are two ports, not one that moved.
const MOVED_OVERLAP_US: i64 = 1_000_000;
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

pub(super) const RULES: &[Rule] = &[Rule {
    id: "listener.absent_port",
    summary: "the service runs, but does not listen on that port",
    doc: "Refused at once although the unit is active; it listens elsewhere or nowhere.",
    check: "ss -ltnp",
    fix: "look at the port that {unit} is configured for; it {listens}",
    applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
    judge: absent_port,
}];

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
            && snapshot.sight(host, Source::Process, during.at_us).seeing().is_some();
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
    let starting = still_starting(snapshot, host, unit, during);
    if mine.is_empty() && (starting || just_closed(snapshot, owner, i64::MIN)) {
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
        // Whoever cannot be named cannot be the service that was meant.
        if only.pid == 0 && only.unit.is_empty() {
            return Verdict::NoSign;
        }
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
    snapshot.on::<EndpointWithdrawn>(gap.place.gateway).rev().find_map(|gone| {
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
    })
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
