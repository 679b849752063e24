//! The network between gateway and service. No source looks at firewalls and routes yet: these rules say so, and never
//! guess.

use super::Rule;
use crate::effect::Effect;
use crate::snapshot::{Listening, Located, Place, Snapshot};
use crate::verdict::{Blind, Verdict};

/// Sources of the network family are not built yet; their name is the design's.
const NETWORK: &str = "network";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "firewall.reject",
        summary: "a firewall rule rejects the connection",
        doc: "Refused, although a socket listens on that address: a rule with `reject` answers in its place, on the \
                origin, on the gateway or in between.",
        check: "nft list ruleset",
        fix: "allow the gateway's address to {address} in the firewall of {host}",
        applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
        judge: reject,
    },
    Rule {
        id: "firewall.drop.origin",
        summary: "a firewall rule drops the connection",
        doc: "Connect timeouts while the service listens and its queue is empty.",
        check: "nft list ruleset",
        fix: "allow the gateway's address to {address} in the firewall of {host}",
        applies_to: |effect| matches!(effect, Effect::ConnectTimeout { .. }),
        judge: dropped,
    },
    Rule {
        id: "keepalive.race",
        summary: "the service closed an idle connection just as the gateway used it again",
        doc: "Now and then a lost request on a reused connection, mostly POST, and no process ends.",
        check: "grep -E 'keepalive|proxy_http_version' -r /etc/nginx",
        fix: "let the service keep idle connections longer than the gateway does",
        applies_to: |effect| matches!(effect, Effect::ConnectionLost { reused: Some(true), .. }),
        judge: keepalive_race,
    },
];

/// Nobody looks at the host behind an address.
pub(super) fn nobody_there(place: Place<'_>) -> Blind {
    let text = match place.located {
        Located::Several => format!(
            "several hosts have the address of {}: which of them the gateway means cannot be told",
            place.endpoint
        ),
        _ => format!(
            "what happens on the host behind {}: no agent owns that address; install why502-agent there",
            place.endpoint
        ),
    };
    Blind { host: place.owner_name(), source: "agent", since_us: None, text }
}

fn unseen(host: &str, text: String) -> Verdict<'static> {
    let blind = Blind { host: host.to_owned(), source: NETWORK, since_us: None, text };
    Verdict::Undecided { missing: vec![blind] }
}

fn reject<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::NothingListens { place, during } = *effect else { return Verdict::NoSign };
    let Some(host) = place.host() else { return Verdict::NoSign };
    if place.address.tcp().is_none() {
        return Verdict::NoSign;
    }
    match snapshot.listening(host, place.address, during) {
        Listening::Covered(listener) => {
            let owner = listener.owner();
            unseen(
                host,
                format!(
                    "why {} is refused although {owner} listened there all the time: a firewall rule that rejects, or another \
                 network namespace; no source looks at firewalls yet",
                    place.endpoint
                ),
            )
        }
        Listening::Gap { proof, .. } => Verdict::RuledOut {
            by: vec![proof],
            text: format!(
                "Nothing listened on {} of {host}: no firewall is needed to refuse.",
                place.address.short()
            ),
        },
        Listening::Unseen(_) => unseen(host, "whether a firewall rejects the connection".into()),
    }
}

fn dropped<'a>(_snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place() else { return Verdict::NoSign };
    match place.host() {
        None => Verdict::Undecided { missing: vec![nobody_there(place)] },
        Some(host) => unseen(
            host,
            "whether a firewall, a route or the link drops the connection: no source looks at them yet"
                .into(),
        ),
    }
}

fn keepalive_race<'a>(_snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place() else { return Verdict::NoSign };
    let Some(host) = place.host() else { return Verdict::NoSign };
    unseen(
        host,
        "whether the service closed the connection for being idle: no source looks at single connections yet".into(),
    )
}
