//! Findings as the explanation that people and programs read.

use why502_proto::v1::{self, Fault, Phase};
use why502_proto::{FactId, Kind, rfc3339, value_name};

use crate::Question;
use crate::effect::{Effect, Symptom};
use crate::engine::{Findings, Way, newest, observed, predicted, walk};
use crate::rule::{Confidence, Missing};
use crate::snapshot::{Seen, Sight, Snapshot};

/// A predicted fault is told only when it has lasted this long: restarts and deploys pass through such moments.
const SETTLED_US: i64 = 5_000_000;
/// Lists are for people: more than this many entries of one kind help nobody.
const LIST_MAX: usize = 12;

/// See [`crate::explain`].
pub(crate) fn explain(snapshot: &Snapshot, question: &Question) -> Option<v1::Explanation> {
    if let Some(symptom) = observed(snapshot, question) {
        let findings = walk(snapshot, &Effect::Symptom(symptom.clone()), 0);
        if best(&findings).is_none()
            && let Some(later) = newest(snapshot, &symptom)
        {
            let again = walk(snapshot, &Effect::Symptom(later.clone()), 0);
            if best(&again).is_some() {
                return Some(render(snapshot, question, &later, &again));
            }
        }
        return Some(render(snapshot, question, &symptom, &findings));
    }
    predicted(snapshot, question).iter().find_map(|symptom| {
        if symptom.fault == Fault::Unspecified {
            return None;
        }
        let findings = walk(snapshot, &Effect::Symptom(symptom.clone()), 0);
        let way = best(&findings)?;
        let settled = snapshot.now_us() - way.cause.at_us >= SETTLED_US;
        // Nobody has failed: only what is proven is worth waking anybody.
        (settled && way.confidence() == Confidence::Proven)
            .then(|| render(snapshot, question, symptom, &findings))
    })
}

fn best<'f, 'a>(findings: &'f Findings<'a>) -> Option<&'f Way<'a>> {
    findings.ways.first().filter(|way| way.confidence() > Confidence::Possible)
}

fn render(
    snapshot: &Snapshot,
    question: &Question,
    symptom: &Symptom<'_>,
    findings: &Findings<'_>,
) -> v1::Explanation {
    let best = best(findings);
    let links = best.map(Way::links).unwrap_or_default();
    let root = links.last();
    let missing = missing(snapshot, symptom, findings, best.is_some());
    v1::Explanation {
        kind: if symptom.predicted() { "predicted" } else { "observed" }.to_owned(),
        gateway: question.gateway.clone(),
        route: route(question, symptom),
        endpoint: question.endpoint.clone(),
        symptom: Some(symptom_view(symptom)),
        verdict: if best.is_some() { "explained" } else { "unknown" }.to_owned(),
        root_cause: root.map(|way| way.rule.id.to_owned()).unwrap_or_default(),
        confidence: best.map_or(Confidence::Possible, Way::confidence).as_str().to_owned(),
        headline: headline(symptom, &links, &missing),
        chain: links.iter().map(|way| link(way)).collect(),
        ruled_out: ruled_out(findings, &links),
        also: also(findings, root.map(|way| way.rule.id)),
        check: root.map_or_else(|| check_unknown(symptom), |way| way.cause.check.clone()),
        check_host: root
            .map(|way| way.cause.host.clone())
            .unwrap_or_else(|| symptom.host.unwrap_or(symptom.gateway).to_owned()),
        fix: root.map(|way| way.cause.fix.clone()).unwrap_or_default(),
        hosts: hosts(symptom),
        missing,
        ..v1::Explanation::default()
    }
}

fn route(question: &Question, symptom: &Symptom<'_>) -> String {
    match (&symptom.failed, symptom.declared) {
        _ if !question.route.is_empty() => question.route.clone(),
        (Some((_, failed)), _) => failed.route.clone(),
        (None, Some((_, declared))) => declared.route.clone(),
        (None, None) => String::new(),
    }
}

fn hosts(symptom: &Symptom<'_>) -> Vec<String> {
    let mut hosts = vec![symptom.gateway.to_owned()];
    if let Some(host) = symptom.host.filter(|host| *host != symptom.gateway) {
        hosts.push(host.to_owned());
    }
    hosts
}

fn symptom_view(symptom: &Symptom<'_>) -> v1::Symptom {
    let count = symptom.failures.iter().map(|fact| match &fact.kind {
        Kind::RequestFailed(failed) => u64::from(failed.count.max(1)),
        _ => 0,
    });
    let at = |fact: Option<&&Seen>| fact.map(|fact| rfc3339(fact.at_us)).unwrap_or_default();
    v1::Symptom {
        status: symptom
            .failed
            .map_or(0, |(_, failed)| failed.status.unwrap_or_else(|| status(symptom))),
        phase: phase_word(symptom.phase),
        error: fault_word(symptom.fault),
        count: count.sum(),
        first: at(symptom.failures.first()),
        last: at(symptom.failures.last()),
        message: symptom.failed.map(|(_, failed)| failed.message.clone()).unwrap_or_default(),
    }
}

/// What nginx answers where its log does not say: a label, never a reason.
fn status(symptom: &Symptom<'_>) -> u32 {
    match symptom.fault {
        Fault::Timeout => 504,
        Fault::Emfile | Fault::Enfile | Fault::ConnectionLimit | Fault::NoPort => 500,
        _ => 502,
    }
}

fn phase_word(phase: Phase) -> String {
    value_name(phase.as_str_name(), "PHASE")
}

fn fault_word(fault: Fault) -> String {
    let word = value_name(fault.as_str_name(), "FAULT");
    // An errno is written as errno(3) has it.
    let errno = word.starts_with('e') && !word.contains('_');
    if errno { word.to_ascii_uppercase() } else { word }
}

fn link(way: &Way<'_>) -> v1::Link {
    v1::Link {
        cause: way.rule.id.to_owned(),
        host: way.cause.host.clone(),
        at: rfc3339(way.cause.at_us),
        text: way.cause.text.clone(),
        facts: names(&way.cause.evidence),
        confidence: way.cause.confidence.as_str().to_owned(),
    }
}

fn names(facts: &[&Seen]) -> Vec<String> {
    let ids: std::collections::BTreeSet<&FactId> = facts.iter().map(|fact| &fact.id).collect();
    ids.into_iter().map(ToString::to_string).collect()
}

fn headline(symptom: &Symptom<'_>, links: &[&Way<'_>], missing: &[v1::Missing]) -> String {
    let felt = if symptom.predicted() { "would answer 502" } else { "fails" };
    let Some(root) = links.last() else {
        let why = missing.first().map_or_else(
            || "the facts do not decide it".to_owned(),
            |missing| format!("{} on {} could not be seen", missing.source, missing.host),
        );
        return format!(
            "not known why {} on {} {felt}, because {why}",
            symptom.endpoint, symptom.gateway
        );
    };
    let text = &root.cause.text;
    let place = &root.cause.host;
    let on = if text.contains(place.as_str()) { String::new() } else { format!(" (on {place})") };
    let endpoint = &symptom.endpoint;
    if links.len() > 1 && !text.contains(endpoint.as_str()) {
        format!("{text}{on}; {endpoint} {felt}")
    } else {
        format!("{text}{on}")
    }
}

fn ruled_out(findings: &Findings<'_>, links: &[&Way<'_>]) -> Vec<v1::Link> {
    let mut seen = std::collections::BTreeSet::new();
    findings
        .ruled_out
        .iter()
        .filter(|(rule, ..)| links.iter().all(|way| way.rule.id != rule.id) && seen.insert(rule.id))
        .take(LIST_MAX)
        .map(|(rule, text, by)| v1::Link {
            cause: rule.id.to_owned(),
            host: by.first().map(|fact| fact.id.host.clone()).unwrap_or_default(),
            at: by.first().map(|fact| rfc3339(fact.at_us)).unwrap_or_default(),
            text: text.clone(),
            facts: names(by),
            confidence: Confidence::Proven.as_str().to_owned(),
        })
        .collect()
}

fn also(findings: &Findings<'_>, root: Option<&str>) -> Vec<v1::Candidate> {
    let mut seen = std::collections::BTreeSet::new();
    findings
        .ways
        .iter()
        .filter_map(|way| way.links().last().copied())
        .filter(|way| Some(way.rule.id) != root && seen.insert(way.rule.id))
        .take(LIST_MAX)
        .map(|way| v1::Candidate {
            cause: way.rule.id.to_owned(),
            confidence: way.cause.confidence.as_str().to_owned(),
            text: way.cause.text.clone(),
            facts: names(&way.cause.evidence),
        })
        .collect()
}

/// What could not be seen. Where the answer is unknown and no rule missed anything, a host without an agent is named.
fn missing(
    snapshot: &Snapshot,
    symptom: &Symptom<'_>,
    findings: &Findings<'_>,
    explained: bool,
) -> Vec<v1::Missing> {
    let mut by_gap: std::collections::BTreeMap<&Missing, Vec<String>> = Default::default();
    for (rule, missing) in &findings.missing {
        by_gap.entry(missing).or_default().push(rule.id.to_owned());
    }
    let mut list: Vec<v1::Missing> = by_gap
        .into_iter()
        .map(|(missing, mut causes)| {
            causes.dedup();
            v1::Missing {
                host: missing.host.clone(),
                source: missing.source.map_or_else(
                    || "agent".to_owned(),
                    |source| value_name(source.as_str_name(), "SOURCE"),
                ),
                since: if missing.since_us > 0 { rfc3339(missing.since_us) } else { String::new() },
                text: missing.text.clone(),
                causes,
            }
        })
        .take(LIST_MAX)
        .collect();
    if list.is_empty() && !explained && symptom.host.is_none() {
        list.push(v1::Missing {
            host: symptom.endpoint.clone(),
            source: "agent".to_owned(),
            text: format!(
                "no host with an agent has the address {}: run why502-agent there",
                symptom.endpoint
            ),
            ..v1::Missing::default()
        });
    }
    if let Some(host) = symptom.host
        && list.is_empty()
        && !explained
        && matches!(snapshot.sight(host, v1::Source::Listener, symptom.at_us), Sight::Seeing(_))
    {
        list.push(v1::Missing {
            host: host.to_owned(),
            source: "network".to_owned(),
            text:
                "nothing on the host explains it; firewalls and the path between the hosts are not \
                   watched yet"
                    .to_owned(),
            ..v1::Missing::default()
        });
    }
    list
}

fn check_unknown(symptom: &Symptom<'_>) -> String {
    if symptom.endpoint.starts_with("unix:") {
        "ss -xl".to_owned()
    } else {
        format!("curl -sv -o /dev/null http://{}/", symptom.endpoint)
    }
}
