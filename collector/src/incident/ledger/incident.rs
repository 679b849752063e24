//! One incident over time.

use std::collections::BTreeSet;

use why502_proto::{rfc3339, v1};

use super::{LATE_WITHIN_US, ROUTES_MAX, rank};
use crate::store::IncidentRow;

/// A symptom must be gone for this long: a service that restarts every second is one incident.
const RESOLVED_AFTER_US: i64 = 3_000_000;
/// A count alone is written this seldom.
const COUNT_EVERY_US: i64 = 5_000_000;
/// Words alone ("for 5 s") are written this seldom; another answer is written at once.
const WORDS_EVERY_US: i64 = 1_000_000;

/// An incident, and what decides about its next step.
#[derive(Clone, Debug)]
pub(super) struct Incident {
    pub(super) row: IncidentRow,
    /// Since when the symptom is gone.
    pub(super) clear_since_us: Option<i64>,
    /// Routes that were asked about since the symptom was last there: a look at a large gateway asks only for some.
    passed: BTreeSet<String>,
    /// What is on disk, and since when.
    written: v1::Explanation,
    written_us: i64,
}

impl Incident {
    pub(super) fn begin(
        id: String,
        gateway: &str,
        mut explanation: v1::Explanation,
        now_us: i64,
    ) -> Self {
        explanation.incident = id;
        explanation.gateway = gateway.to_owned();
        explanation.state = "open".into();
        explanation.opened = rfc3339(now_us);
        explanation.updated = rfc3339(now_us);
        let written = explanation.clone();
        let row =
            IncidentRow { explanation, opened_us: now_us, updated_us: now_us, held_us: now_us };
        Self { row, clear_since_us: None, passed: BTreeSet::new(), written, written_us: now_us }
    }

    pub(super) fn restored(row: IncidentRow) -> Self {
        let resolved = row.explanation.state != "open";
        let clear_since_us = resolved.then_some(row.updated_us);
        let (written, written_us) = (row.explanation.clone(), row.updated_us);
        Self { row, clear_since_us, passed: BTreeSet::new(), written, written_us }
    }

    pub(super) fn is_open(&self) -> bool {
        self.row.explanation.state == "open"
    }

    pub(super) fn is_forgotten(&self, now_us: i64) -> bool {
        !self.is_open() && now_us - self.row.updated_us > LATE_WITHIN_US
    }

    /// The symptom is there, and explained so.
    pub(super) fn update(
        &mut self,
        explanation: v1::Explanation,
        now_us: i64,
    ) -> Option<IncidentRow> {
        let reopened = !self.is_open();
        self.clear_since_us = None;
        self.passed.clear();
        self.row.held_us = now_us;
        let before = self.row.explanation.clone();
        if before.verdict == "explained" && !takes_over(&before, &explanation) {
            self.add_routes(&explanation.routes);
            self.count(explanation.symptom, &explanation.kind);
        } else {
            self.replace(explanation, now_us);
        }
        let now = &mut self.row.explanation;
        now.state = "open".into();
        now.resolved = String::new();
        let age_us = now_us - self.written_us;
        let due = reopened
            || answer(now) != answer(&self.written)
            || (age_us >= WORDS_EVERY_US && words(now) != words(&self.written))
            || (age_us >= COUNT_EVERY_US && now.symptom != self.written.symptom);
        due.then(|| self.write(now_us))
    }

    /// Another failure that this incident accounts for.
    pub(super) fn share(
        &mut self,
        explanation: &v1::Explanation,
        now_us: i64,
    ) -> Option<IncidentRow> {
        let before = self.row.explanation.routes.len();
        self.add_routes(&explanation.routes);
        (self.row.explanation.routes.len() != before).then(|| self.write(now_us))
    }

    /// The symptom was not seen at this look, which asked for these endpoints and routes, or for all.
    pub(super) fn pass(
        &mut self,
        asked: &BTreeSet<(String, String)>,
        complete: bool,
        now_us: i64,
    ) -> Option<IncidentRow> {
        if !self.is_open() {
            return None;
        }
        let explanation = &self.row.explanation;
        let place = |route: &String| (explanation.endpoint.clone(), route.clone());
        let passed = explanation.routes.iter().filter(|&route| asked.contains(&place(route)));
        self.passed.extend(passed.cloned());
        if !complete && !explanation.routes.iter().all(|route| self.passed.contains(route)) {
            return None;
        }
        let since = *self.clear_since_us.get_or_insert(now_us);
        if now_us - since < RESOLVED_AFTER_US {
            return None;
        }
        self.row.explanation.state = "resolved".into();
        self.row.explanation.resolved = rfc3339(since);
        Some(self.write(now_us))
    }

    /// Takes other words for the same incident.
    pub(super) fn replace(&mut self, explanation: v1::Explanation, now_us: i64) {
        let old = std::mem::replace(&mut self.row.explanation, explanation);
        let (symptom, kind) =
            (self.row.explanation.symptom.take(), std::mem::take(&mut self.row.explanation.kind));
        let new_routes = std::mem::take(&mut self.row.explanation.routes);
        let now = &mut self.row.explanation;
        now.incident = old.incident;
        now.gateway = old.gateway;
        now.state = old.state;
        now.opened = old.opened;
        now.updated = old.updated;
        now.resolved = old.resolved;
        now.route = old.route;
        now.routes = old.routes;
        now.symptom = old.symptom;
        now.kind = old.kind;
        self.add_routes(&new_routes);
        self.count(symptom, &kind);
        self.row.updated_us = now_us;
    }

    /// Counts only grow: the window that they are taken from forgets.
    fn count(&mut self, symptom: Option<v1::Symptom>, kind: &str) {
        let now = &mut self.row.explanation;
        if kind == "observed" {
            now.kind = kind.to_owned();
        }
        let Some(mut new) = symptom else { return };
        if let Some(old) = now.symptom.take().filter(|old| old.count > 0) {
            new.count = new.count.max(old.count);
            if !old.first.is_empty() && (new.first.is_empty() || old.first < new.first) {
                new.first = old.first;
            }
            new.last = new.last.max(old.last);
        }
        now.symptom = Some(new);
    }

    fn add_routes(&mut self, routes: &[String]) {
        let known = &mut self.row.explanation.routes;
        for route in routes {
            if known.len() < ROUTES_MAX && !known.contains(route) {
                known.push(route.clone());
            }
        }
    }

    pub(super) fn write(&mut self, now_us: i64) -> IncidentRow {
        self.row.updated_us = now_us;
        self.row.explanation.updated = rfc3339(now_us);
        self.written = self.row.explanation.clone();
        self.written_us = now_us;
        self.row.clone()
    }
}

/// What an explanation comes to.
fn answer(explanation: &v1::Explanation) -> impl PartialEq {
    let chain = explanation.chain.iter().map(|link| (link.cause.clone(), link.host.clone()));
    (
        explanation.root_cause.clone(),
        explanation.confidence.clone(),
        explanation.kind.clone(),
        explanation.routes.clone(),
        chain.collect::<Vec<_>>(),
    )
}

/// Everything but its numbers.
fn words(explanation: &v1::Explanation) -> v1::Explanation {
    v1::Explanation { symptom: None, updated: String::new(), ..explanation.clone() }
}

/// Whether other words take the place of an explanation. Not where they know less: what explained it has aged out
/// of the window, and is true all the same. Nor where nothing failed since: what a service does afterwards (it
/// starts, slowly) is no reason for what failed before.
fn takes_over(old: &v1::Explanation, new: &v1::Explanation) -> bool {
    let last = |e: &v1::Explanation| e.symptom.clone().unwrap_or_default().last;
    let surer = (rank(new), new.chain.len()) > (rank(old), old.chain.len());
    let since = last(new) > last(old) || old.kind != "observed";
    new.verdict == "explained" && (new.root_cause == old.root_cause || since || surer)
}
