//! What the gateway did to itself.

use why502_proto::Kind;
use why502_proto::v1::{Fault, Phase};

use crate::effect::{Effect, Symptom};
use crate::engine::symptom_of;
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::{Seen, Snapshot};

pub(super) const RULES: &[Rule] = &[Rule {
    id: "gateway.no_live_upstreams",
    summary: "the gateway had taken every peer out of use",
    doc: "Never a root: the first real error of each peer, within fail_timeout before it, is the cause.",
    check: "grep 'temporarily disabled' /var/log/nginx/error.log",
    fix: "mend the first real error; max_fails=0 where there is only one peer to ask",
    applies_to: |effect| {
        matches!(effect, Effect::Symptom(symptom)
        if symptom.fault == Fault::NoLiveUpstreams)
    },
    judge: no_live_upstreams,
}];

/// How long before it the real error may lie: nginx asks a failed peer again after fail_timeout, 10 s by default, and
/// each new failure prolongs it.
const BEFORE_US: i64 = 60_000_000;

fn no_live_upstreams<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some((fact, failed)) = symptom.failed else { return Verdict::Silent };
    let real =
        snapshot.between(symptom.gateway, symptom.at_us - BEFORE_US, fact.at_us).rfind(|earlier| {
            match &earlier.kind {
                Kind::RequestFailed(other) => {
                    other.upstream == failed.upstream
                        && other.instance == failed.instance
                        && other.fault() != Fault::NoLiveUpstreams
                        && !matches!(other.phase(), Phase::Unspecified | Phase::Select)
                }
                _ => false,
            }
        });
    let disabled: Vec<&Seen> = snapshot
        .between(symptom.gateway, symptom.at_us - BEFORE_US, fact.at_us)
        .filter(|fact| {
            matches!(&fact.kind, Kind::EndpointDisabled(disabled)
                if disabled.upstream == failed.upstream || disabled.upstream.is_empty())
        })
        .take(4)
        .collect();
    let next = real.and_then(|fact| match &fact.kind {
        Kind::RequestFailed(failed) => Some(symptom_of(snapshot, fact, failed)),
        _ => None,
    });
    Verdict::Explained(Cause {
        host: symptom.gateway.to_owned(),
        at_us: disabled.first().map_or(symptom.at_us, |fact| fact.at_us),
        text: format!(
            "{} took every peer of upstream {} out of use after they had failed",
            failed.gateway, failed.upstream
        ),
        confidence: Confidence::Proven,
        evidence: std::iter::once(fact).chain(disabled).chain(real).collect(),
        next: next.map(|symptom: Symptom<'a>| Effect::Symptom(symptom)),
        check: "grep -e 'temporarily disabled' -e 'no live upstreams' /var/log/nginx/error.log"
            .to_owned(),
        fix: "mend what the peers failed of".to_owned(),
    })
}
