//! Incidents: what explanations come to over time. Pure: time is a parameter, writing is the caller's.
//!
//! One incident per endpoint and root cause: routes that fail for the same reason share it, and an explanation
//! that gets better (unknown, then explained; a link deeper) stays the same incident. A symptom that is gone for
//! `RESOLVED_AFTER_US` resolves it; one that comes back soon opens it again.

mod incident;

use std::collections::{BTreeMap, BTreeSet};

use why502_explain::Question;
use why502_proto::v1;

use super::id;
use crate::store::IncidentRow;
use incident::Incident;

/// The same cause within this time after it was resolved opens the same incident again.
const REOPENED_WITHIN_US: i64 = 30_000_000;
/// A resolved incident is explained anew for this long when facts come late (journald's words, an agent that was
/// away).
pub(super) const LATE_WITHIN_US: i64 = 120_000_000;
/// Incidents that are open at once; each is some 4 KiB. Beyond it nothing more is opened, and a log line says so.
const OPEN_MAX: usize = 10_000;
/// Routes that one incident names.
const ROUTES_MAX: usize = 64;

/// What was asked, and what came out.
pub(super) type Answer = (Question, Option<v1::Explanation>);

/// All open incidents, and those that were resolved a while ago.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    incidents: BTreeMap<String, Incident>,
}

/// An incident whose end of symptom is known, to be explained as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Late {
    /// Id of the incident.
    pub(super) incident: String,
    /// What to ask.
    pub(super) question: Question,
    /// As of when.
    pub(super) held_us: i64,
}

impl Ledger {
    /// Goes on with what is stored.
    pub(super) fn restore(rows: Vec<IncidentRow>) -> Self {
        let restored =
            |row: IncidentRow| (row.explanation.incident.clone(), Incident::restored(row));
        Self { incidents: rows.into_iter().map(restored).collect() }
    }

    /// Incidents that are open.
    pub(super) fn open(&self) -> usize {
        self.incidents.values().filter(|incident| incident.is_open()).count()
    }

    /// Whether `gateway` has incidents that change with time alone.
    pub(super) fn watches(&self, gateway: &str) -> bool {
        self.of(gateway).any(Incident::is_open)
    }

    /// Incidents of `gateway` whose symptom is gone, for facts that come late.
    pub(super) fn late(&self, gateway: &str) -> Vec<Late> {
        let gone = self.of(gateway).filter(|incident| incident.clear_since_us.is_some());
        gone.map(|incident| {
            let explanation = &incident.row.explanation;
            let question = Question {
                gateway: gateway.to_owned(),
                route: explanation.route.clone(),
                endpoint: explanation.endpoint.clone(),
            };
            let incident_id = explanation.incident.clone();
            Late { incident: incident_id, question, held_us: incident.row.held_us }
        })
        .collect()
    }

    /// Names of the facts that the incidents of `gateway` rest on.
    pub(super) fn evidence(&self, gateway: &str) -> BTreeSet<String> {
        let links = self.of(gateway).flat_map(|incident| &incident.row.explanation.chain);
        links.flat_map(|link| link.facts.iter().cloned()).collect()
    }

    /// Takes in the answers about `gateway`; `complete` if every question was asked. Gives what is to be
    /// written.
    pub(super) fn take(
        &mut self,
        gateway: &str,
        answers: Vec<Answer>,
        complete: bool,
        now_us: i64,
    ) -> Vec<IncidentRow> {
        let mut asked: BTreeSet<(String, String)> = BTreeSet::new();
        let mut groups: BTreeMap<(String, String), Vec<v1::Explanation>> = BTreeMap::new();
        for (question, answer) in answers {
            if let Some(explanation) = answer {
                groups
                    .entry((explanation.endpoint.clone(), explanation.root_cause.clone()))
                    .or_default()
                    .push(explanation);
            }
            asked.insert((question.endpoint, question.route));
        }
        let merged: Vec<_> = groups.into_values().filter_map(merge).collect();
        let mut held = BTreeSet::new();
        let mut writes = Vec::new();
        // Endpoints first: what failed without one is often what these explain.
        let (of_endpoint, of_none): (Vec<_>, Vec<_>) =
            merged.into_iter().partition(|explanation| !explanation.endpoint.is_empty());
        for explanation in of_endpoint.into_iter().chain(of_none) {
            if let Some((id, row)) = self.hold(gateway, explanation, &held, now_us) {
                held.insert(id);
                writes.extend(row);
            }
        }
        for (id, incident) in &mut self.incidents {
            if incident.row.explanation.gateway == gateway && !held.contains(id) {
                writes.extend(incident.pass(&asked, complete, now_us));
            }
        }
        self.incidents.retain(|_, incident| !incident.is_forgotten(now_us));
        writes
    }

    /// Takes in an explanation of an incident as it was, made from facts that came late.
    pub(super) fn improve(
        &mut self,
        id: &str,
        explanation: v1::Explanation,
        now_us: i64,
    ) -> Option<IncidentRow> {
        let incident = self.incidents.get_mut(id)?;
        let old = &incident.row.explanation;
        let better = explanation.verdict == "explained"
            && (old.verdict != "explained"
                || (rank(&explanation), explanation.chain.len()) > (rank(old), old.chain.len()));
        if !better {
            return None;
        }
        incident.replace(explanation, now_us);
        Some(incident.write(now_us))
    }

    fn of<'a>(&'a self, gateway: &'a str) -> impl Iterator<Item = &'a Incident> {
        self.incidents.values().filter(move |incident| incident.row.explanation.gateway == gateway)
    }

    /// The symptom is there: finds or opens its incident. Gives the id, and the row if it is to be written.
    fn hold(
        &mut self,
        gateway: &str,
        explanation: v1::Explanation,
        held: &BTreeSet<String>,
        now_us: i64,
    ) -> Option<(String, Option<IncidentRow>)> {
        let found = self.find(gateway, &explanation, held, now_us);
        if let Some(id) = found {
            let incident = self.incidents.get_mut(&id)?;
            let row = if held.contains(&id) {
                incident.share(&explanation, now_us)
            } else {
                incident.update(explanation, now_us)
            };
            return Some((id, row));
        }
        if self.open() >= OPEN_MAX {
            tracing::error!("{OPEN_MAX} incidents are open: no more are opened");
            return None;
        }
        let salt = format!("{gateway} {} {}", explanation.endpoint, explanation.route);
        let id = id::incident_id(now_us, &salt, |id| self.incidents.contains_key(id));
        let incident = Incident::begin(id.clone(), gateway, explanation, now_us);
        let row = incident.row.clone();
        self.incidents.insert(id.clone(), incident);
        Some((id, Some(row)))
    }

    fn find(
        &self,
        gateway: &str,
        explanation: &v1::Explanation,
        held: &BTreeSet<String>,
        now_us: i64,
    ) -> Option<String> {
        let near = |incident: &&Incident| {
            incident.is_open() || now_us - incident.row.updated_us < REOPENED_WITHIN_US
        };
        let same_place = |incident: &&Incident| {
            let other = &incident.row.explanation;
            other.endpoint == explanation.endpoint
                && (!other.endpoint.is_empty() || shares_route(other, explanation))
        };
        let at = || self.of(gateway).filter(near).filter(same_place);
        let same_cause = |i: &&Incident| i.row.explanation.root_cause == explanation.root_cause;
        let id = |incident: &Incident| incident.row.explanation.incident.clone();
        if let Some(incident) = at().filter(same_cause).max_by_key(|i| i.is_open()) {
            return Some(id(incident));
        }
        // Another cause on the same routes: the explanation moved on, unless another one holds it already.
        let moved_on = |i: &&Incident| {
            i.is_open() && !held.contains(&id(i)) && shares_route(&i.row.explanation, explanation)
        };
        if let Some(incident) = at().find(moved_on) {
            return Some(id(incident));
        }
        // No endpoint was chosen, because of what another incident says of one.
        let same_root = |i: &&Incident| {
            i.is_open()
                && held.contains(&id(i))
                && (shares_root(&i.row.explanation, explanation)
                    || (explanation.verdict != "explained"
                        && shares_route(&i.row.explanation, explanation)))
        };
        let endpointless = explanation.endpoint.is_empty();
        self.of(gateway).filter(|_| endpointless).find(same_root).map(id)
    }
}

/// One explanation for several routes with the same endpoint and cause: the route that failed first leads.
fn merge(mut explanations: Vec<v1::Explanation>) -> Option<v1::Explanation> {
    let first = |e: &v1::Explanation| {
        let symptom = e.symptom.clone().unwrap_or_default();
        (e.kind != "observed", symptom.first, e.route.clone())
    };
    explanations.sort_by_key(first);
    let mut explanations = explanations.into_iter();
    let mut lead = explanations.next()?;
    lead.routes = vec![lead.route.clone()];
    for other in explanations {
        if lead.routes.len() < ROUTES_MAX && !lead.routes.contains(&other.route) {
            lead.routes.push(other.route);
        }
        if let (Some(sum), Some(symptom)) = (&mut lead.symptom, other.symptom) {
            sum.count += symptom.count;
            sum.last = std::mem::take(&mut sum.last).max(symptom.last);
        }
    }
    Some(lead)
}

fn shares_route(a: &v1::Explanation, b: &v1::Explanation) -> bool {
    a.routes.iter().any(|route| b.routes.contains(route))
}

fn shares_root(a: &v1::Explanation, b: &v1::Explanation) -> bool {
    let root = |e: &v1::Explanation| e.chain.last().map(|link| link.facts.clone());
    let (Some(a), Some(b)) = (root(a), root(b)) else { return false };
    a.iter().any(|fact| b.contains(fact))
}

fn rank(explanation: &v1::Explanation) -> u8 {
    match explanation.confidence.as_str() {
        "proven" => 3,
        "likely" => 2,
        "possible" => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
