//! Who should serve an endpoint: whoever did, as far as anybody saw.

use why502_proto::v1::{GatewaySeen, UnitLastWords, UnitState};

use crate::Seen;
use crate::address::Address;
use crate::snapshot::{Death, Listener, Said, Snapshot, Window};
use crate::verdict::Confidence;

/// Whoever is responsible for an address.
#[derive(Clone, Debug)]
pub(super) struct Owner<'a> {
    /// "" outside of units.
    pub(super) unit: &'a str,
    pub(super) pid: u32,
    pub(super) facts: Vec<&'a Seen>,
    /// Its last socket for the address, if one was seen.
    pub(super) listener: Option<&'a Listener>,
    pub(super) death: Option<&'a Death>,
    pub(super) confidence: Confidence,
}

pub(super) fn owner<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    address: Address<'_>,
    during: Window,
) -> Option<Owner<'a>> {
    let listener = snapshot
        .listeners(host)
        .iter()
        .filter(|l| l.takes(address) && l.from_us <= during.at_us)
        .max_by_key(|l| (l.to_us, l.from_us));
    let held = snapshot
        .deaths(host)
        .iter()
        .rfind(|death| death.held(address) && death.at_us <= during.to_us);
    match (listener, held) {
        (Some(listener), held) => Some(of_listener(snapshot, host, listener, held, during)),
        (None, Some(death)) => Some(Owner {
            unit: &death.unit,
            pid: death.pid,
            facts: death.facts(snapshot),
            listener: None,
            death: Some(death),
            confidence: Confidence::Proven,
        }),
        (None, None) => failing_unit(snapshot, host, address, during),
    }
}

fn of_listener<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    listener: &'a Listener,
    held: Option<&'a Death>,
    during: Window,
) -> Owner<'a> {
    let by_pid = snapshot
        .deaths(host)
        .iter()
        .rfind(|death| death.pid == listener.pid && death.pid != 0 && death.at_us <= during.to_us);
    let death = by_pid.or(held);
    let unit = match death {
        Some(death) if listener.unit.is_empty() => &death.unit,
        _ => &listener.unit,
    };
    Owner {
        unit,
        pid: listener.pid,
        facts: listener.facts(snapshot),
        listener: Some(listener),
        death,
        confidence: Confidence::Proven,
    }
}

/// Where nothing was ever seen listening: the one service of the host that fails. With two of them nobody can know.
fn failing_unit<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    address: Address<'_>,
    during: Window,
) -> Option<Owner<'a>> {
    let mut states: std::collections::BTreeMap<&str, Said<'a, UnitState>> =
        std::collections::BTreeMap::new();
    for state in snapshot.on::<UnitState>(host).filter(|state| state.at_us() <= during.to_us) {
        states.insert(&state.what.unit, state);
    }
    let gateways: Vec<&str> =
        snapshot.on::<GatewaySeen>(host).map(|gateway| gateway.what.unit.as_str()).collect();
    let mut failing = states.into_values().filter(|state| {
        let what = state.what;
        let fails = what.active == "failed" || what.sub == "auto-restart";
        let serves = what.unit.ends_with(".service") && what.r#type != "oneshot";
        let listens = snapshot.listeners(host).iter().any(|l| l.unit == what.unit);
        fails && serves && !listens && !gateways.contains(&what.unit.as_str())
    });
    let (only, None) = (failing.next()?, failing.next()) else { return None };
    let unit = only.what.unit.as_str();
    let words = says_port(snapshot, host, unit, address, during);
    Some(Owner {
        unit,
        pid: 0,
        facts: words.into_iter().chain([only.seen]).collect(),
        listener: None,
        death: None,
        confidence: if words.is_some() { Confidence::Proven } else { Confidence::Likely },
    })
}

/// The unit's last words name the port.
fn says_port<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    address: Address<'_>,
    during: Window,
) -> Option<&'a Seen> {
    let port = address.port().to_string();
    let names = |line: &String| line.split(|c: char| !c.is_ascii_digit()).any(|word| word == port);
    snapshot
        .on::<UnitLastWords>(host)
        .filter(|words| words.what.unit == unit && words.at_us() <= during.to_us)
        .find(|words| words.what.lines.iter().any(names))
        .map(|words| words.seen)
}
