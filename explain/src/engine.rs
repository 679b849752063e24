//! The walk back from a symptom to its root, and which way to believe.

use std::collections::BTreeSet;

use why502_proto::Kind;
use why502_proto::v1::{EndpointDeclared, Fault, Phase, RequestFailed, UnixPathState};

use crate::Question;
use crate::address::Address;
use crate::effect::{Effect, Symptom};
use crate::rule::{Cause, Confidence, Missing, Rule, Verdict, catalog};
use crate::snapshot::{Seen, Snapshot};

/// Longest chain. Turns two rules that explain each other into a short answer instead of an endless one.
const DEPTH_MAX: usize = 8;
/// Failures older than this are history and no longer the question.
const RECENT_US: i64 = 600_000_000;
/// Failures of one kind with no larger gap between them are one streak; its beginning is what has to be explained.
const STREAK_GAP_US: i64 = 15_000_000;

/// A way back: one rule, what it found, and the way behind it.
pub(crate) struct Way<'a> {
    pub(crate) rule: &'static Rule,
    pub(crate) cause: Cause<'a>,
    pub(crate) deeper: Option<Box<Self>>,
}

impl<'a> Way<'a> {
    /// Symptom side first.
    pub(crate) fn links(&self) -> Vec<&Self> {
        let mut links = vec![self];
        while let Some(deeper) = &links[links.len() - 1].deeper {
            links.push(deeper);
        }
        links
    }

    /// The weakest link.
    pub(crate) fn confidence(&self) -> Confidence {
        let links = self.links();
        links.iter().map(|way| way.cause.confidence).min().unwrap_or(Confidence::Possible)
    }
}

/// Everything that the walk found.
#[derive(Default)]
pub(crate) struct Findings<'a> {
    /// Best first.
    pub(crate) ways: Vec<Way<'a>>,
    pub(crate) ruled_out: Vec<(&'static Rule, String, Vec<&'a Seen>)>,
    pub(crate) missing: Vec<(&'static Rule, Missing)>,
}

/// Judges `effect` by every rule, and what they find in turn.
pub(crate) fn walk<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>, depth: usize) -> Findings<'a> {
    let mut findings = Findings::default();
    if depth >= DEPTH_MAX {
        return findings;
    }
    for rule in catalog().filter(|rule| (rule.applies_to)(effect)) {
        match (rule.judge)(snapshot, effect) {
            Verdict::Explained(cause) => {
                let mut deeper = None;
                if let Some(next) = &cause.next {
                    let mut behind = walk(snapshot, next, depth + 1);
                    findings.ruled_out.append(&mut behind.ruled_out);
                    findings.missing.append(&mut behind.missing);
                    // A guess behind a fact would only weaken it.
                    deeper = behind
                        .ways
                        .into_iter()
                        .find(|way| way.cause.confidence > Confidence::Possible)
                        .map(Box::new);
                }
                findings.ways.push(Way { rule, cause, deeper });
            }
            Verdict::RuledOut { text, by } => findings.ruled_out.push((rule, text, by)),
            Verdict::Undecided(missing) => findings.missing.push((rule, missing)),
            Verdict::Silent => {}
        }
    }
    // Stable: among equals the catalogue's order holds.
    findings.ways.sort_by_key(|way| std::cmp::Reverse(way.confidence()));
    findings
}

/// Every question that the snapshot raises.
pub(crate) fn questions(snapshot: &Snapshot) -> Vec<Question> {
    let mut questions = BTreeSet::new();
    for fact in snapshot.facts() {
        let Kind::RequestFailed(failed) = &fact.kind else { continue };
        if fact.at_us >= snapshot.now_us() - RECENT_US {
            questions.insert(Question {
                gateway: fact.id.host.clone(),
                route: failed.route.clone(),
                endpoint: failed.endpoint.clone(),
            });
        }
    }
    for host in snapshot.hosts() {
        for fact in snapshot.states(host, "endpoint", snapshot.now_us()) {
            let Kind::EndpointDeclared(declared) = &fact.kind else { continue };
            questions.insert(Question {
                gateway: host.to_owned(),
                route: declared.route.clone(),
                endpoint: declared.endpoint.clone(),
            });
        }
    }
    questions.into_iter().collect()
}

/// The failures of a question, oldest first: of its route, at its endpoint or one of the endpoint's addresses.
fn failures<'a>(
    snapshot: &'a Snapshot,
    question: &Question,
    declared: Option<&EndpointDeclared>,
) -> Vec<(&'a Seen, &'a RequestFailed)> {
    let ours = |failed: &RequestFailed| {
        let endpoint = failed.endpoint == question.endpoint
            || declared.is_some_and(|declared| {
                !failed.endpoint.is_empty() && declared.addresses.contains(&failed.endpoint)
            });
        endpoint && (question.route.is_empty() || failed.route == question.route)
    };
    snapshot
        .between(&question.gateway, snapshot.now_us() - RECENT_US, snapshot.now_us())
        .filter_map(|fact| match &fact.kind {
            Kind::RequestFailed(failed) if ours(failed) => Some((fact, failed)),
            _ => None,
        })
        .collect()
}

fn declaration<'a>(
    snapshot: &'a Snapshot,
    question: &Question,
) -> Option<(&'a Seen, &'a EndpointDeclared)> {
    let all = || {
        snapshot.states(&question.gateway, "endpoint", snapshot.now_us()).filter_map(|fact| {
            match &fact.kind {
                Kind::EndpointDeclared(declared) => Some((fact, declared)),
                _ => None,
            }
        })
    };
    let route =
        |declared: &EndpointDeclared| question.route.is_empty() || declared.route == question.route;
    all().find(|(_, d)| route(d) && d.endpoint == question.endpoint).or_else(|| {
        all().find(|(_, d)| {
            route(d) && !question.endpoint.is_empty() && d.addresses.contains(&question.endpoint)
        })
    })
}

/// A failed request as a symptom of its own.
pub(crate) fn symptom_of<'a>(
    snapshot: &'a Snapshot,
    fact: &'a Seen,
    failed: &'a RequestFailed,
) -> Symptom<'a> {
    let question = Question {
        gateway: fact.id.host.clone(),
        route: failed.route.clone(),
        endpoint: failed.endpoint.clone(),
    };
    let declared = declaration(snapshot, &question);
    let addresses = Address::parse(&failed.endpoint).map_or_else(
        || declared.map(|(_, declared)| parse_all(declared)).unwrap_or_default(),
        |address| vec![address],
    );
    let gateway = fact.id.host.as_str();
    Symptom {
        gateway,
        endpoint: failed.endpoint.clone(),
        host: addresses.first().and_then(|address| snapshot.owner(gateway, address)),
        addresses,
        phase: failed.phase(),
        fault: failed.fault(),
        at_us: fact.at_us,
        failed: Some((fact, failed)),
        failures: vec![fact],
        declared,
    }
}

fn parse_all(declared: &EndpointDeclared) -> Vec<Address> {
    declared.addresses.iter().filter_map(|address| Address::parse(address)).collect()
}

/// What failed, by the newest kind of failure, from the beginning of its streak.
pub(crate) fn observed<'a>(snapshot: &'a Snapshot, question: &Question) -> Option<Symptom<'a>> {
    let declared = declaration(snapshot, question);
    let all = failures(snapshot, question, declared.map(|(_, declared)| declared));
    let (_, newest) = all.last()?;
    let same =
        |failed: &RequestFailed| failed.phase == newest.phase && failed.fault == newest.fault;
    let mut first = all.last()?;
    for (fact, failed) in all.iter().rev().filter(|(_, failed)| same(failed)) {
        if first.0.at_us - fact.at_us > STREAK_GAP_US {
            break;
        }
        first = all.iter().find(|(other, _)| std::ptr::eq(*other, *fact)).unwrap_or(first);
        let _ = failed;
    }
    let mut symptom = symptom_of(snapshot, first.0, first.1);
    symptom.failures = all.iter().map(|(fact, _)| *fact).collect();
    symptom.declared = symptom.declared.or(declared);
    Some(symptom)
}

/// The same kind of failure, but the newest of it.
pub(crate) fn newest<'a>(snapshot: &'a Snapshot, symptom: &Symptom<'a>) -> Option<Symptom<'a>> {
    let last = symptom.failures.last()?;
    let Kind::RequestFailed(failed) = &last.kind else { return None };
    let mut newest = symptom_of(snapshot, last, failed);
    newest.failures.clone_from(&symptom.failures);
    newest.declared = newest.declared.or(symptom.declared);
    Some(newest)
}

/// What would fail at each address of a declared endpoint.
pub(crate) fn predicted<'a>(snapshot: &'a Snapshot, question: &Question) -> Vec<Symptom<'a>> {
    let Some((fact, declared)) = declaration(snapshot, question) else { return Vec::new() };
    if declared.down || declared.backup {
        return Vec::new();
    }
    let gateway = fact.id.host.as_str();
    parse_all(declared)
        .into_iter()
        .map(|address| Symptom {
            gateway,
            endpoint: if declared.addresses.len() == 1 {
                declared.endpoint.clone()
            } else {
                display(&address)
            },
            host: snapshot.owner(gateway, &address),
            fault: unix_fault(snapshot, gateway, &address),
            addresses: vec![address],
            phase: Phase::Connect,
            at_us: snapshot.now_us(),
            failed: None,
            failures: Vec::new(),
            declared: Some((fact, declared)),
        })
        .collect()
}

fn display(address: &Address) -> String {
    match address {
        Address::Tcp(ip, port) => std::net::SocketAddr::new(*ip, *port).to_string(),
        Address::Unix(path) => format!("unix:{path}"),
    }
}

/// What connecting would give: for a path what the agent saw at it, else a refusal (which the rules must then prove).
fn unix_fault(snapshot: &Snapshot, gateway: &str, address: &Address) -> Fault {
    let Address::Unix(path) = address else { return Fault::Econnrefused };
    let wanted = format!("unix:{path}");
    let state =
        snapshot.states(gateway, "unix_path", snapshot.now_us()).find_map(|fact| {
            match &fact.kind {
                Kind::UnixSocketPath(state) if state.address == wanted => Some(state),
                _ => None,
            }
        });
    match state {
        Some(state) if state.state() == UnixPathState::Missing => Fault::Enoent,
        Some(state) if !state.denied_at.is_empty() => Fault::Eacces,
        Some(state) if state.state() == UnixPathState::Stale => Fault::Econnrefused,
        _ => Fault::Unspecified,
    }
}
