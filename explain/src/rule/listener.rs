//! The owner is alive, but does not listen where the gateway asks.

use why502_proto::Kind;
use why502_proto::v1::{ListenerOpened, Source};

use crate::address::{Address, Coverage};
use crate::effect::{Effect, Symptom};
use crate::find::{self, Open, SLACK_US};
use crate::rule::process::is_down;
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::{Seen, Snapshot};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "listener.bound_to_loopback",
        summary: "it listens on loopback only, and the gateway comes from outside",
        doc: "Refused at once, although the service runs and answers on the host itself.",
        check: "ss -ltnp 'sport = :PORT'",
        fix: "bind 0.0.0.0 or the private address; on one host, proxy to 127.0.0.1",
        applies_to: refused,
        judge: bound_to_loopback,
    },
    Rule {
        id: "listener.wrong_family",
        summary: "it listens on the other IP family only",
        doc: "A name like localhost resolves to ::1 and 127.0.0.1; the gateway tries both, and one is refused.",
        check: "ss -ltnp 'sport = :PORT'",
        fix: "name 127.0.0.1 or [::1] in the gateway, or listen on both",
        applies_to: refused,
        judge: wrong_family,
    },
    Rule {
        id: "listener.wrong_interface",
        summary: "it listens on another address of the host",
        doc: "Refused at once; the port is right and the address is not.",
        check: "ss -ltnp 'sport = :PORT'",
        fix: "bind the address that the gateway asks, or all",
        applies_to: refused,
        judge: wrong_interface,
    },
    Rule {
        id: "process.starting_slow",
        summary: "the process runs and does not listen yet",
        doc: "Refused between the start of the process and its first listener.",
        check: "systemctl status UNIT",
        fix: "Type=notify and a rollout that waits for readiness",
        applies_to: refused,
        judge: starting_slow,
    },
    Rule {
        id: "gateway.upstream_port_mismatch",
        summary: "the gateway asks one port, the service listens on another",
        doc: "The service is alive and listens; nothing ever listened on the port that the gateway has.",
        check: "ss -ltnp",
        fix: "make the two ports equal: in the gateway's configuration or in the service's",
        applies_to: refused,
        judge: port_mismatch,
    },
    Rule {
        id: "listener.absent_port",
        summary: "the service is alive and no longer listens on the port",
        doc: "The process that listened there is alive and has closed its listener.",
        check: "ss -ltnp",
        fix: "see why the service closed its listener; restart it",
        applies_to: refused,
        judge: absent_port,
    },
];

fn refused(effect: &Effect<'_>) -> bool {
    matches!(effect, Effect::Symptom(symptom) if symptom.refused())
}

fn who(listener: &ListenerOpened) -> String {
    if listener.unit.is_empty() { listener.comm.clone() } else { listener.unit.clone() }
}

/// Listeners of the port, if none of them covers the address.
fn uncovered<'a>(
    snapshot: &'a Snapshot,
    symptom: &Symptom<'a>,
) -> Option<(&'a str, Address, Vec<Open<'a>>)> {
    let host = symptom.host?;
    let wanted = symptom.addresses.first()?.clone();
    wanted.port()?;
    let open = find::listeners(snapshot, host, &wanted, symptom.at_us);
    open.iter().all(|open| open.coverage != Coverage::Covers).then_some((host, wanted, open))
}

fn with_coverage<'a>(
    snapshot: &'a Snapshot,
    effect: &Effect<'a>,
    coverage: Coverage,
    text: fn(&ListenerOpened, &Symptom<'_>) -> String,
    fix: fn(&ListenerOpened, &Symptom<'_>) -> String,
) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some((host, wanted, open)) = uncovered(snapshot, symptom) else { return Verdict::Silent };
    let Some(found) = open.iter().find(|open| open.coverage == coverage) else {
        return Verdict::Silent;
    };
    let port = wanted.port().unwrap_or_default();
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: found.fact.at_us,
        text: text(found.listener, symptom),
        confidence: Confidence::Proven,
        evidence: vec![found.fact],
        next: None,
        check: format!("ss -ltnp 'sport = :{port}'"),
        fix: fix(found.listener, symptom),
    })
}

fn bound_to_loopback<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    with_coverage(
        snapshot,
        effect,
        Coverage::LoopbackOnly,
        |listener, symptom| {
            format!(
                "{} listens on {} only; {} asks {}",
                who(listener),
                listener.address,
                symptom.gateway,
                symptom.endpoint
            )
        },
        |listener, symptom| {
            format!(
                "let {} bind {} or 0.0.0.0 instead of loopback",
                who(listener),
                symptom.endpoint
            )
        },
    )
}

fn wrong_family<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    with_coverage(
        snapshot,
        effect,
        Coverage::OtherFamily,
        |listener, symptom| {
            format!(
                "{} listens on {} only; {} asks {}, the other IP family",
                who(listener),
                listener.address,
                symptom.gateway,
                symptom.endpoint
            )
        },
        |listener, symptom| match symptom.declared {
            Some((_, declared)) => format!(
                "name {} instead of {} in {}:{}",
                listener.address, declared.endpoint, declared.file, declared.line
            ),
            None => format!("let {} listen on both families", who(listener)),
        },
    )
}

fn wrong_interface<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    with_coverage(
        snapshot,
        effect,
        Coverage::OtherInterface,
        |listener, symptom| {
            format!(
                "{} listens on {} only; {} asks {}",
                who(listener),
                listener.address,
                symptom.gateway,
                symptom.endpoint
            )
        },
        |listener, symptom| format!("let {} bind {} or 0.0.0.0", who(listener), symptom.endpoint),
    )
}

/// A unit that has run this long without a listener is not starting any more.
const STARTING_US: i64 = 180_000_000;

fn starting_slow<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some((host, wanted, _)) = uncovered(snapshot, symptom) else { return Verdict::Silent };
    // Who came to listen there afterwards, and was already running.
    let later =
        snapshot.between(host, symptom.at_us, symptom.at_us + STARTING_US).find_map(|fact| {
            match &fact.kind {
                Kind::ListenerOpened(listener)
                    if Address::parse(&listener.address).is_some_and(|own| {
                        own.coverage(&wanted, listener.v6_only) == Coverage::Covers
                    }) =>
                {
                    Some((fact, listener.unit.as_str()))
                }
                _ => None,
            }
        });
    let closed = find::last_closed(snapshot, host, &wanted, symptom.at_us);
    let unit = later
        .map(|(_, unit)| unit.to_owned())
        .or_else(|| closed.map(|(_, closed)| closed.unit.clone()))
        .filter(|unit| !unit.is_empty());
    let starting = |fact: &'a Seen| match &fact.kind {
        Kind::UnitState(state)
            if unit.as_ref().is_none_or(|unit| *unit == state.unit)
                && state.unit.ends_with(".service")
                && matches!(state.active.as_str(), "active" | "activating")
                && state.sub != "auto-restart"
                && !state.existing =>
        {
            Some((fact, state))
        }
        _ => None,
    };
    let candidates: Vec<_> = snapshot
        .between(host, symptom.at_us - STARTING_US, symptom.at_us + SLACK_US)
        .filter_map(starting)
        .collect();
    let Some((fact, state)) = candidates.last() else { return Verdict::Silent };
    let units: std::collections::BTreeSet<_> =
        candidates.iter().map(|(_, state)| state.unit.as_str()).collect();
    // Without a listener that names the unit, only a single candidate is evidence.
    if unit.is_none() && units.len() > 1 {
        return Verdict::Silent;
    }
    let now = find::unit(snapshot, host, &state.unit, symptom.at_us + SLACK_US);
    if now.is_some_and(|(_, state)| is_down(state)) {
        return Verdict::Silent;
    }
    let other = find::listeners(snapshot, host, &wanted, snapshot.now_us())
        .iter()
        .any(|open| open.listener.unit == state.unit && open.coverage == Coverage::Elsewhere);
    if later.is_none() && other {
        return Verdict::Silent;
    }
    let confidence = if later.is_some() { Confidence::Proven } else { Confidence::Likely };
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: fact.at_us,
        text: format!("{} is starting and does not listen on {} yet", state.unit, symptom.endpoint),
        confidence,
        evidence: std::iter::once(*fact).chain(later.map(|(fact, _)| fact)).collect(),
        next: None,
        check: format!("systemctl status {}", state.unit),
        fix: "Type=notify for the unit, and a rollout that waits until it is ready".to_owned(),
    })
}

fn port_mismatch<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some((host, wanted, open)) = uncovered(snapshot, symptom) else { return Verdict::Silent };
    if find::blind(snapshot, host, Source::Listener, symptom.at_us, "").is_some() {
        return Verdict::Silent;
    }
    // A unit that listened on the wanted port before and now on another one, or the only service of the host that no
    // gateway route leads to.
    let before = find::last_closed(snapshot, host, &wanted, symptom.at_us);
    let former = before.map(|(_, closed)| closed.unit.as_str()).filter(|unit| !unit.is_empty());
    let candidates: Vec<&Open<'_>> = open
        .iter()
        .filter(|open| open.coverage == Coverage::Elsewhere)
        .filter(|open| match former {
            Some(unit) => open.listener.unit == unit,
            None => {
                let port = Address::parse(&open.listener.address).and_then(|own| own.port());
                let unit = open.listener.unit.as_str();
                before.is_none()
                    && port.is_some_and(|port| port >= 1024 || port == 80)
                    && !unit.is_empty()
                    && !is_own_tool(open.listener)
                    && !is_declared(snapshot, symptom, host, open.listener)
            }
        })
        .collect();
    let units: std::collections::BTreeSet<&str> =
        candidates.iter().map(|open| open.listener.unit.as_str()).collect();
    let (Some(found), true) = (candidates.first(), units.len() == 1) else {
        return Verdict::Silent;
    };
    let place =
        symptom.declared.map(|(_, declared)| format!("{}:{}", declared.file, declared.line));
    let place = place.unwrap_or_else(|| "the gateway's configuration".to_owned());
    let confidence = if former.is_some() { Confidence::Proven } else { Confidence::Likely };
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: found.fact.at_us,
        text: format!(
            "{} asks {}, but {} listens on {}",
            symptom.gateway, symptom.endpoint, found.listener.unit, found.listener.address
        ),
        confidence,
        evidence: std::iter::once(found.fact)
            .chain(before.map(|(fact, _)| fact))
            .chain(symptom.declared.map(|(fact, _)| fact))
            .collect(),
        next: None,
        check: "ss -ltnp".to_owned(),
        fix: format!(
            "change {} to port {} in {place}, or let {} listen on {}",
            symptom.endpoint,
            Address::parse(&found.listener.address).and_then(|own| own.port()).unwrap_or_default(),
            found.listener.unit,
            wanted.port().unwrap_or_default()
        ),
    })
}

/// Listeners that every host has and no gateway route means.
fn is_own_tool(listener: &ListenerOpened) -> bool {
    matches!(
        listener.comm.as_str(),
        "sshd" | "systemd" | "systemd-resolve" | "nginx" | "why502" | "why502-agent" | "chronyd"
    )
}

fn is_declared(
    snapshot: &Snapshot,
    symptom: &Symptom<'_>,
    host: &str,
    listener: &ListenerOpened,
) -> bool {
    let Some(own) = Address::parse(&listener.address) else { return false };
    snapshot.states(symptom.gateway, "endpoint", symptom.at_us).any(|fact| match &fact.kind {
        Kind::EndpointDeclared(declared) => declared.addresses.iter().any(|address| {
            Address::parse(address).is_some_and(|wanted| {
                own.coverage(&wanted, listener.v6_only) == Coverage::Covers
                    && snapshot.owner(symptom.gateway, &wanted) == Some(host)
            })
        }),
        _ => false,
    })
}

fn absent_port<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some((host, wanted, _)) = uncovered(snapshot, symptom) else { return Verdict::Silent };
    let Some((fact, closed)) = find::last_closed(snapshot, host, &wanted, symptom.at_us) else {
        return Verdict::Silent;
    };
    let exits = find::exits(
        snapshot,
        host,
        &closed.unit,
        closed.pid,
        fact.at_us - 2 * SLACK_US,
        symptom.at_us + SLACK_US,
    );
    let state = find::unit(snapshot, host, &closed.unit, symptom.at_us + SLACK_US);
    let alive = state.is_some_and(|(_, state)| !is_down(state) && state.main_pid == closed.pid);
    if !exits.is_empty() || !alive {
        return Verdict::Silent;
    }
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: fact.at_us,
        text: format!("{} runs and no longer listens on {}", closed.unit, closed.address),
        confidence: Confidence::Proven,
        evidence: std::iter::once(fact).chain(state.map(|(fact, _)| fact)).collect(),
        next: None,
        check: format!("ss -ltnp; journalctl -u {} -n 20", closed.unit),
        fix: format!("see why it closed its listener, then systemctl restart {}", closed.unit),
    })
}
