//! From findings to the words that people read.

use std::collections::BTreeSet;

use why502_proto::v1::{Candidate, Explanation, Fault, Link, Missing, Phase, Symptom};
use why502_proto::{rfc3339, value_name};

use crate::Question;
use crate::Seen;
use crate::effect::Effect;
use crate::engine::{Excluded, Findings, Path, Step};
use crate::symptom::Failures;
use crate::verdict::Confidence;

/// Facts that one link cites; more are repetitions of one event.
const FACTS_MAX: usize = 12;
/// Excluded causes and further candidates that are worth reading.
const OTHERS_MAX: usize = 8;

/// What is asked, and of which hosts.
pub(crate) struct Asked<'a> {
    pub(crate) question: &'a Question,
    /// `None`: nothing has failed yet.
    pub(crate) failures: Option<Failures<'a>>,
    pub(crate) effects: Vec<Effect<'a>>,
    /// Facts after this moment are not evidence.
    pub(crate) until_us: i64,
}

/// Puts the explanation together.
pub(crate) fn answer(asked: &Asked<'_>, findings: &Findings<'_>) -> Explanation {
    let best = findings.paths.first();
    let confidence = best.map_or(Confidence::Possible, Path::confidence);
    let explained = best.filter(|_| confidence > Confidence::Possible);
    let known = match (explained, best) {
        (Some(path), _) => path.steps.as_slice(),
        // What is known for sure on the way to what is not.
        (None, Some(path)) => &path.steps[..path.known()],
        (None, None) => &[],
    };
    let mut explanation = Explanation {
        kind: if asked.failures.is_some() { "observed" } else { "predicted" }.to_owned(),
        gateway: asked.question.gateway.clone(),
        route: asked.question.route.clone(),
        endpoint: asked.question.endpoint.clone(),
        symptom: Some(asked.failures.as_ref().map(symptom).unwrap_or_default()),
        verdict: if explained.is_some() { "explained" } else { "unknown" }.to_owned(),
        confidence: confidence.name().to_owned(),
        chain: chain(asked, known),
        ruled_out: ruled_out(asked, findings, known),
        missing: missing(findings),
        also: also(asked, findings, known),
        hosts: hosts(asked, findings),
        ..Explanation::default()
    };
    let effect = clause(asked);
    match explained.and_then(|path| path.steps.last()) {
        Some(root) => {
            explanation.root_cause = root.rule.id.to_owned();
            let refused = root.rule.id == "firewall.reject" && refused(asked);
            let effect = if refused { refuses(asked) } else { effect };
            explanation.headline = headline(root, known, &effect);
            explanation.check = fill(root.cause.check.as_deref().unwrap_or(root.rule.check), root);
            explanation.check_host.clone_from(&root.cause.host);
            explanation.fix = fill(root.cause.fix.as_deref().unwrap_or(root.rule.fix), root);
        }
        None => unknown(&mut explanation, asked, known, &effect),
    }
    explanation
}

fn symptom(failures: &Failures<'_>) -> Symptom {
    let what = failures.lead.what;
    Symptom {
        status: failures.status,
        phase: value_name(what.phase().as_str_name(), "PHASE"),
        error: fault_name(what.fault()),
        count: failures.count,
        first: rfc3339(failures.first_us),
        last: rfc3339(failures.last_us),
        message: what.message.clone(),
    }
}

/// Errno names stand in upper case.
pub(crate) fn fault_name(fault: Fault) -> String {
    let name = value_name(fault.as_str_name(), "FAULT");
    let errno = (1..=i32::from(Fault::OtherErrno)).contains(&i32::from(fault));
    if errno { name.to_ascii_uppercase() } else { name }
}

/// Several witnesses of one event report within this: a cause is cited by those that spoke before its effect.
const WITNESSES_US: i64 = 200_000;

/// The links, each resting on what was there before its effect.
fn chain(asked: &Asked<'_>, known: &[Step<'_>]) -> Vec<Link> {
    let mut effect_us = asked.failures.as_ref().map_or(asked.until_us, |f| f.last_us);
    let mut links = Vec::new();
    for step in known {
        let limit = |fact: &Seen| {
            let tolerance = i64::try_from(fact.tolerance_us).unwrap_or(i64::MAX / 4);
            effect_us.saturating_add(tolerance).saturating_add(WITNESSES_US)
        };
        let mut before: Vec<&Seen> =
            step.cause.evidence.iter().copied().filter(|fact| fact.at_us <= limit(fact)).collect();
        if before.is_empty() {
            // A counter that is read late: better late evidence than none.
            before.extend(step.cause.evidence.iter().min_by_key(|fact| fact.at_us));
        }
        let newest_us = before.iter().map(|fact| fact.at_us).max();
        effect_us = newest_us.unwrap_or(effect_us).max(step.cause.at_us);
        links.push(link(asked, step, &before));
    }
    links
}

fn link(asked: &Asked<'_>, step: &Step<'_>, evidence: &[&Seen]) -> Link {
    Link {
        cause: step.rule.id.to_owned(),
        host: step.cause.host.clone(),
        at: if step.cause.at_us > 0 { rfc3339(step.cause.at_us) } else { String::new() },
        text: capital(&step.cause.text),
        facts: facts(asked, evidence),
        confidence: step.cause.confidence.name().to_owned(),
    }
}

/// Names of the facts, each once, as they were cited; none from after the symptom.
fn facts(asked: &Asked<'_>, evidence: &[&Seen]) -> Vec<String> {
    let mut named = BTreeSet::new();
    evidence
        .iter()
        .filter(|fact| fact.at_us <= asked.until_us && named.insert(&fact.id))
        .take(FACTS_MAX)
        .map(|fact| fact.id.to_string())
        .collect()
}

fn ruled_out(asked: &Asked<'_>, findings: &Findings<'_>, known: &[Step<'_>]) -> Vec<Link> {
    let mut named: BTreeSet<&str> = known.iter().map(|step| step.rule.id).collect();
    let keep = |excluded: &&Excluded<'_>| !excluded.by.is_empty() && named.insert(excluded.rule.id);
    findings
        .excluded
        .iter()
        .filter(keep)
        .take(OTHERS_MAX)
        .map(|excluded| Link {
            cause: excluded.rule.id.to_owned(),
            host: excluded.host.unwrap_or_default().to_owned(),
            at: String::new(),
            text: capital(&excluded.text),
            facts: facts(asked, &excluded.by),
            confidence: Confidence::Proven.name().to_owned(),
        })
        .collect()
}

fn missing(findings: &Findings<'_>) -> Vec<Missing> {
    findings
        .missing
        .iter()
        .map(|(blind, causes)| Missing {
            host: blind.host.clone(),
            source: blind.source.to_owned(),
            since: blind.since_us.map(rfc3339).unwrap_or_default(),
            text: format!("{}.", capital(&blind.text)),
            causes: causes.iter().map(|&cause| cause.to_owned()).collect(),
        })
        .collect()
}

fn also(asked: &Asked<'_>, findings: &Findings<'_>, known: &[Step<'_>]) -> Vec<Candidate> {
    let mut named: BTreeSet<&str> = known.iter().map(|step| step.rule.id).collect();
    findings
        .paths
        .iter()
        .filter_map(|path| path.root().map(|root| (path, root)))
        .filter(|(_, root)| named.insert(root.rule.id))
        .take(OTHERS_MAX)
        .map(|(path, root)| Candidate {
            cause: root.rule.id.to_owned(),
            confidence: path.confidence().name().to_owned(),
            text: capital(&root.cause.text),
            facts: facts(asked, &root.cause.evidence),
        })
        .collect()
}

fn hosts(asked: &Asked<'_>, findings: &Findings<'_>) -> Vec<String> {
    let places = asked.effects.iter().filter_map(Effect::place).filter_map(|place| place.host());
    let steps = findings.paths.iter().flat_map(|path| &path.steps);
    let mut hosts: BTreeSet<&str> = steps.map(|step| step.cause.host.as_str()).collect();
    hosts.extend(places);
    hosts.remove(asked.question.gateway.as_str());
    let gateway = std::iter::once(asked.question.gateway.as_str());
    gateway.chain(hosts).map(str::to_owned).collect()
}

/// What the gateway sees of it, as the second half of a sentence.
fn clause(asked: &Asked<'_>) -> String {
    let endpoint = &asked.question.endpoint;
    let Some(failures) = &asked.failures else {
        return match asked.effects.first().and_then(Effect::place) {
            Some(place) => format!("requests to {} would fail", place.endpoint),
            None => format!("requests to {endpoint} would fail"),
        };
    };
    let what = failures.lead.what;
    let short = asked
        .effects
        .first()
        .and_then(Effect::place)
        .map_or_else(|| endpoint.clone(), |place| place.address.short());
    match (what.phase(), what.fault()) {
        (_, Fault::NoLiveUpstreams) => {
            format!("{} has no peer left to ask", asked.question.gateway)
        }
        (Phase::Connect, Fault::Econnrefused) => format!("nothing listens on {short}"),
        (Phase::Connect, Fault::Timeout) => format!("connections to {short} time out"),
        (Phase::Connect, Fault::Enoent) => format!("{short} is not there"),
        (Phase::Connect, Fault::Eacces) => format!("{short} is closed to the gateway"),
        (Phase::Connect, Fault::Eagain) => format!("{short} takes no more connections"),
        (Phase::Resolve, _) => format!("requests to {} fail", what.route),
        (Phase::Tls, _) => format!("the TLS handshake with {short} fails"),
        (_, Fault::Timeout) => format!("{short} does not answer in time"),
        (_, Fault::Relayed) => format!("{short} answers with an error of its own"),
        (_, Fault::Closed | Fault::Econnreset | Fault::Epipe) => {
            format!("requests to {short} were cut off")
        }
        (_, fault) => format!("requests to {short} fail with {}", fault_name(fault)),
    }
}

fn headline(root: &Step<'_>, known: &[Step<'_>], effect: &str) -> String {
    let told = known.len() > 1 || !root.cause.what.contains(effect);
    let words =
        if told { format!("{}; {effect}", root.cause.what) } else { root.cause.what.clone() };
    capital(&words)
}

fn refused(asked: &Asked<'_>) -> bool {
    let failures = asked.failures.as_ref();
    failures.is_some_and(|failures| failures.lead.what.fault() == Fault::Econnrefused)
}

fn refuses(asked: &Asked<'_>) -> String {
    format!("{} refuses connections", asked.question.endpoint)
}

fn unknown(explanation: &mut Explanation, asked: &Asked<'_>, known: &[Step<'_>], effect: &str) {
    // Whether nothing listens there is just what is not known.
    let effect =
        if refused(asked) && known.is_empty() { refuses(asked) } else { effect.to_owned() };
    let head = known.last().map_or_else(
        || format!("{effect}, and why is not known"),
        |step| format!("{}, and why is not known; {effect}", step.cause.what),
    );
    let blind = explanation.missing.first();
    let not_seen = blind.map_or_else(String::new, |missing| {
        format!(" ({} of {} could not be seen)", missing.source, missing.host)
    });
    explanation.headline = format!("{}{not_seen}", capital(&head));
    explanation.fix =
        blind.map(|missing| format!("let it be seen first. {}", missing.text)).unwrap_or_default();
    if let Some(step) = known.last() {
        explanation.check = fill(step.cause.check.as_deref().unwrap_or(step.rule.check), step);
        explanation.check_host.clone_from(&step.cause.host);
    }
}

/// Puts what the facts name in the places of a rule's text.
fn fill(text: &str, step: &Step<'_>) -> String {
    let mut filled = text.to_owned();
    for (key, value) in &step.cause.names {
        filled = filled.replace(&format!("{{{key}}}"), value);
    }
    filled
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    // A name stays as it is written, and so does that of a program, "node (pid 12)"; only a common word is raised.
    let mut words = text.split(' ');
    let first_word = words.next().unwrap_or_default();
    let program = words.next() == Some("(pid");
    if program || first_word.contains(['.', '/', ':', '-', '@']) || first_word == "systemd" {
        return text.to_owned();
    }
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
