//! Single connections between gateway and service. No source looks at them yet: the rule says so, and never guesses.

use super::Rule;
use crate::effect::Effect;
use crate::snapshot::{Located, Place, Snapshot};
use crate::verdict::{Blind, Verdict};

/// The name of the source is the design's.
const NETWORK: &str = "network";

pub(super) const RULES: &[Rule] = &[Rule {
    id: "keepalive.race",
    summary: "the service closed an idle connection just as the gateway used it again",
    doc: "Now and then a lost request on a reused connection, mostly POST, and no process ends.",
    check: "grep -E 'keepalive|proxy_http_version' -r /etc/nginx",
    fix: "let the service keep idle connections longer than the gateway does",
    applies_to: |effect| matches!(effect, Effect::ConnectionLost { reused: Some(true), .. }),
    judge: keepalive_race,
}];

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

fn keepalive_race<'a>(_snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place() else { return Verdict::NoSign };
    let Some(host) = place.host() else { return Verdict::NoSign };
    unseen(
        host,
        "whether the service closed the connection for being idle: no source looks at single connections yet".into(),
    )
}
