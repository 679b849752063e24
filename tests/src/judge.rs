//! Whether an explanation is right. Pure: what the scenario expects and what the collector said go
//! in, a judgement comes out.

use std::collections::{BTreeMap, BTreeSet};

use why502_proto::v1;

use crate::baseline;
use crate::client::Request;
use crate::scenario::Scenario;
use crate::view::{Look, Store, parse_time};

/// Several witnesses of one death report within this: the kernel tears memory down for 0.1 ms per MiB between closing
/// the port and telling the parent.
const WITNESSES_US: i64 = 250_000;
/// `got` beyond this is not looked at by anybody.
const GOT_MAX: usize = 8;

/// What was seen of one run.
#[derive(Debug, Default)]
pub struct Seen {
    /// Nobody was asked: only the client counts.
    pub dry: bool,
    /// When the agents were ready and the client saw 200.
    pub healthy_us: i64,
    /// When `break` began.
    pub broken_us: i64,
    /// When the answer is taken.
    pub judged_us: i64,
    /// All that the collector said.
    pub looks: Vec<Look>,
    /// All that it stored.
    pub store: Store,
    /// All that the client saw.
    pub requests: Vec<Request>,
}

/// One scenario's result, as the contract's JSON has it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Name of the folder.
    pub name: String,
    /// Program that speaks with the client.
    pub gateway: String,
    /// What the scenario expects.
    pub expected: String,
    /// What was said, best first.
    pub got: Vec<String>,
    /// "explained", "unknown", or "none" without an incident.
    pub verdict: String,
    /// "proven", "likely", "possible" or "".
    pub confidence: String,
    /// Symptom side first.
    pub chain: Vec<String>,
    /// The expected root cause, on the expected host, came first.
    pub right_first: bool,
    /// It was among the first three.
    pub right_in_three: bool,
    /// Every cited fact is stored, of a named host, and before its effect.
    pub grounded: bool,
    /// Something wrong came first, with confidence.
    pub confidently_wrong: bool,
    /// "Not known" was said.
    pub abstained: bool,
    /// What the client saw, by status, from the last healthy moment on.
    pub statuses: BTreeMap<String, u64>,
    /// From the first failed request to the right explanation in the store.
    pub seconds: Option<f64>,
    /// Why it was not run to its end.
    pub skipped: Option<String>,
    /// Incidents that should not have been.
    #[serde(skip)]
    pub false_incidents: u32,
    /// What the gateway's errno alone would have answered was right.
    #[serde(skip)]
    pub errno_only_right: bool,
    /// What is wrong, in words; empty: all is well.
    #[serde(skip)]
    pub problems: Vec<String>,
    /// The one sentence of the answer.
    #[serde(skip)]
    pub headline: String,
}

impl Outcome {
    /// A scenario that could not be run to its end: never passed.
    pub fn skipped(scenario: &Scenario, why: String) -> Self {
        Self {
            name: scenario.name.clone(),
            gateway: scenario.gateway.clone(),
            expected: scenario.expect.root_cause.clone(),
            skipped: Some(why),
            ..Self::default()
        }
    }

    /// Everything is as the scenario wants it.
    pub fn ok(&self) -> bool {
        self.skipped.is_none() && self.problems.is_empty()
    }
}

/// The explanation that speaks of the client's symptom: of the gateway's observed incidents the one on the requested
/// path, and of those the one with most failures.
pub fn choose<'a>(
    scenario: &Scenario,
    look: &'a Look,
    since_us: i64,
) -> Option<&'a v1::Explanation> {
    let of_gateway = |e: &&v1::Explanation| {
        e.kind == "observed"
            && e.gateway == scenario.gateway_host()
            && parse_time(&e.updated).or(parse_time(&e.opened)).is_none_or(|at| at >= since_us)
    };
    let rank = |e: &&v1::Explanation| {
        let on_path = e.routes.iter().chain([&e.route]).any(|r| scenario.path() == route_path(r));
        let count = e.symptom.as_ref().map_or(0, |symptom| symptom.count);
        (e.state == "open", on_path, e.verdict == "explained", count)
    };
    // The list is newest first, and the first of equals shall win.
    look.incidents.iter().rev().filter(of_gateway).max_by_key(rank)
}

/// The location in "shop.example:80/api".
fn route_path(route: &str) -> &str {
    route.find('/').map_or("/", |at| &route[at..])
}

/// The root cause is one that the scenario takes, on a host that it names.
fn is_right(scenario: &Scenario, explanation: &v1::Explanation) -> bool {
    explanation.verdict == "explained"
        && accepts(scenario, &explanation.root_cause)
        && on_right_host(scenario, explanation)
}

fn accepts(scenario: &Scenario, cause: &str) -> bool {
    let expect = &scenario.expect;
    (expect.root_cause == cause || expect.accept.iter().any(|other| other == cause))
        && !expect.never.iter().any(|never| never == cause)
}

fn on_right_host(scenario: &Scenario, explanation: &v1::Explanation) -> bool {
    let root = explanation.chain.last().map_or("", |link| link.host.as_str());
    scenario.expect.hosts.is_empty() || scenario.expect.hosts.iter().any(|host| host == root)
}

/// Judges one run.
pub fn judge(scenario: &Scenario, seen: &Seen) -> Outcome {
    let mut outcome = Outcome {
        name: scenario.name.clone(),
        gateway: scenario.gateway.clone(),
        expected: scenario.expect.root_cause.clone(),
        statuses: crate::client::statuses(&seen.requests, seen.healthy_us),
        verdict: "none".to_owned(),
        grounded: true,
        ..Outcome::default()
    };
    judge_client(scenario, seen, &mut outcome);
    if seen.dry {
        return outcome;
    }
    let before = early_incidents(seen);
    for headline in &before {
        outcome.problems.push(format!("incident before anything was broken: {headline}"));
    }
    outcome.false_incidents = u32::try_from(before.len()).unwrap_or(u32::MAX);
    if scenario.is_control() {
        judge_control(seen, &mut outcome);
    } else {
        judge_answer(scenario, seen, &mut outcome);
    }
    let failed = seen.store.facts.values().filter(|fact| {
        fact.kind == "request_failed"
            && fact.host == scenario.gateway_host()
            && fact.at_us >= seen.broken_us
    });
    let mut failed: Vec<_> = failed.collect();
    failed.sort_by_key(|fact| fact.at_us);
    let failed: Vec<_> = failed.iter().map(|fact| fact.text.as_str()).collect();
    outcome.errno_only_right = accepts(scenario, baseline::of_first_failure(&failed));
    outcome
}

/// The scenario itself must be what it says.
fn judge_client(scenario: &Scenario, seen: &Seen, outcome: &mut Outcome) {
    let failed = seen.requests.iter().filter(|r| r.failed() && r.ended_us >= seen.broken_us);
    let failed: Vec<u16> = failed.map(|request| request.status).collect();
    match scenario.expect_status {
        Some(status)
            if !failed.contains(&status)
                && !outcome.statuses.contains_key(&format!("{status:03}")) =>
        {
            outcome.problems.push(format!("the client never saw {status}"));
        }
        None if failed.is_empty() && !scenario.is_control() => {
            outcome.problems.push("the client saw no failure".to_owned());
        }
        None if scenario.is_control() && failed.iter().any(|status| *status >= 500) => {
            outcome.problems.push("the client saw failures of a healthy control".to_owned());
        }
        _ => {}
    }
}

/// Headlines of the incidents that were there before `break`.
fn early_incidents(seen: &Seen) -> BTreeSet<String> {
    let early = |e: &&v1::Explanation| {
        parse_time(&e.opened).is_some_and(|at| at >= seen.healthy_us && at < seen.broken_us)
    };
    let looks = seen.looks.iter().filter(|look| look.at_us <= seen.judged_us);
    let named = |e: &v1::Explanation| format!("{} {} {}", e.kind, e.root_cause, e.headline);
    let mut ids = BTreeMap::new();
    for incident in looks.flat_map(|look| &look.incidents).filter(early) {
        ids.insert(incident.incident.clone(), named(incident));
    }
    ids.into_values().collect()
}

/// A healthy control has no incident at all.
fn judge_control(seen: &Seen, outcome: &mut Outcome) {
    let mut late = BTreeMap::new();
    for look in &seen.looks {
        for incident in &look.incidents {
            if parse_time(&incident.opened).is_some_and(|at| at >= seen.broken_us) {
                late.insert(incident.incident.clone(), incident.clone());
            }
        }
    }
    for incident in late.values() {
        outcome.false_incidents += 1;
        outcome.got.push(cause_or_unknown(incident));
        outcome.verdict.clone_from(&incident.verdict);
        outcome.confidence.clone_from(&incident.confidence);
        outcome.headline.clone_from(&incident.headline);
        outcome.chain = incident.chain.iter().map(|link| link.cause.clone()).collect();
        outcome.confidently_wrong |= is_confident(incident);
        let what = format!("{} incident on a healthy control", incident.kind);
        outcome.problems.push(format!("{what}: {} {}", incident.root_cause, incident.headline));
    }
    outcome.right_first = late.is_empty();
    outcome.right_in_three = late.is_empty();
}

fn cause_or_unknown(explanation: &v1::Explanation) -> String {
    if explanation.verdict == "explained" {
        explanation.root_cause.clone()
    } else {
        "unknown".to_owned()
    }
}

fn is_confident(explanation: &v1::Explanation) -> bool {
    explanation.verdict == "explained"
        && matches!(explanation.confidence.as_str(), "proven" | "likely")
}

fn judge_answer(scenario: &Scenario, seen: &Seen, outcome: &mut Outcome) {
    let look = seen.looks.iter().rev().find(|look| look.at_us <= seen.judged_us);
    let answer = look.and_then(|look| choose(scenario, look, seen.broken_us));
    let Some(answer) = answer else {
        outcome.problems.push("no incident".to_owned());
        return;
    };
    outcome.verdict.clone_from(&answer.verdict);
    outcome.confidence.clone_from(&answer.confidence);
    outcome.headline.clone_from(&answer.headline);
    outcome.chain = answer.chain.iter().map(|link| link.cause.clone()).collect();
    if answer.verdict == "explained" {
        outcome.got.push(answer.root_cause.clone());
    }
    let also = answer.also.iter().map(|candidate| candidate.cause.clone());
    outcome.got.extend(also.take(GOT_MAX));
    outcome.abstained = answer.verdict == "unknown";
    let ungrounded = ungrounded(scenario, answer, &seen.store);
    outcome.grounded = ungrounded.is_empty();
    outcome.problems.extend(ungrounded);
    if scenario.is_unknowable() {
        outcome.right_first = outcome.abstained;
        outcome.right_in_three = outcome.abstained;
    } else {
        outcome.right_first = is_right(scenario, answer);
        outcome.right_in_three =
            outcome.right_first || outcome.got.iter().take(3).any(|cause| accepts(scenario, cause));
        outcome.seconds = seconds(scenario, seen);
    }
    outcome.confidently_wrong = is_confident(answer)
        && (scenario.is_unknowable() || !accepts(scenario, &answer.root_cause));
    if !outcome.right_first {
        let said = format!("{} {}", cause_or_unknown(answer), answer.confidence);
        outcome.problems.push(format!("said {said}: {}", answer.headline));
        if !on_right_host(scenario, answer) {
            outcome.problems.push("on the wrong host".to_owned());
        }
    } else if !is_subsequence(&scenario.expect.chain, &outcome.chain)
        && answer.root_cause == scenario.expect.root_cause
    {
        outcome.problems.push(format!("chain is {}", outcome.chain.join(" <- ")));
    }
}

fn is_subsequence(wanted: &[String], chain: &[String]) -> bool {
    let mut rest = chain.iter();
    wanted.iter().all(|link| rest.any(|there| there == link))
}

/// Citations that do not hold.
fn ungrounded(scenario: &Scenario, answer: &v1::Explanation, store: &Store) -> Vec<String> {
    let mut problems = Vec::new();
    let mut hosts: BTreeSet<&str> = answer.chain.iter().map(|link| link.host.as_str()).collect();
    hosts.insert(scenario.gateway_host());
    let last = answer.symptom.as_ref().and_then(|symptom| parse_time(&symptom.last));
    let mut effect_us = last.unwrap_or(i64::MAX);
    for link in &answer.chain {
        let mut link_us = parse_time(&link.at).unwrap_or(i64::MIN);
        for id in &link.facts {
            let Some(fact) = store.facts.get(id) else {
                problems.push(format!("{} cites {id}, which is not in the store", link.cause));
                continue;
            };
            if !hosts.contains(fact.host.as_str()) {
                problems.push(format!("{} cites {id} of a host it does not name", link.cause));
            }
            let tolerance = store.tolerance_us.get(&fact.host).copied().unwrap_or(0);
            let begun_us = fact.at_us - period_us(&fact.text);
            if begun_us > effect_us.saturating_add(tolerance + WITNESSES_US) {
                let late = begun_us - effect_us;
                problems.push(format!(
                    "{} cites {id} ({}), {} ms after its effect",
                    link.cause,
                    fact.kind,
                    late / 1000
                ));
            }
            link_us = link_us.max(fact.at_us);
        }
        if link_us > i64::MIN {
            effect_us = link_us;
        }
    }
    problems
}

/// A counter's fact is of a period, and is dated at its end.
fn period_us(text: &str) -> i64 {
    let ms = text.split(' ').find_map(|word| word.strip_prefix("period_ms=")?.parse::<i64>().ok());
    ms.unwrap_or(0).saturating_mul(1000)
}

/// From the first failed request to the first right explanation.
fn seconds(scenario: &Scenario, seen: &Seen) -> Option<f64> {
    let failed = seen.requests.iter().filter(|r| r.failed() && r.ended_us >= seen.broken_us);
    let failed_us = failed.map(|request| request.ended_us).min()?;
    let right = seen.looks.iter().find_map(|look| {
        let answer = choose(scenario, look, seen.broken_us)?;
        let stored = parse_time(&answer.updated).unwrap_or(look.at_us).min(look.at_us);
        is_right(scenario, answer).then_some(stored)
    })?;
    let us = u32::try_from((right - failed_us).max(0)).unwrap_or(u32::MAX);
    Some(f64::from(us) / 1e6)
}

#[cfg(test)]
mod tests;
