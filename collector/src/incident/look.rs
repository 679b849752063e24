//! One look at one gateway: ask every question that its facts raise, for as long as a look may take.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use why502_explain::{Question, Seen, Snapshot, explain, questions, recovered};
use why502_proto::v1::Explanation;

use super::ledger::{Answer, Late};

/// Facts of the event itself that are dated a little after the failure: "api.service: Failed with result ...".
const AFTERWORDS_US: i64 = 1_000_000;

/// What to look at.
pub(super) struct Look {
    pub(super) gateway: String,
    pub(super) facts: Vec<Seen>,
    pub(super) now_us: i64,
    pub(super) urgent: BTreeSet<String>,
    pub(super) rest_from: Option<Question>,
    pub(super) late: Vec<Late>,
    pub(super) longest: Duration,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) answers: Vec<Answer>,
    /// Every question was asked.
    pub(super) complete: bool,
    /// The first question that was not.
    pub(super) rest_from: Option<Question>,
    /// New explanations of incidents as they were.
    pub(super) late: Vec<(String, Explanation)>,
}

impl Look {
    pub(super) fn run(self) -> Found {
        let began = Instant::now();
        let mut found = Found::default();
        for late in &self.late {
            if began.elapsed() > self.longest / 2 {
                break;
            }
            let better = [late.held_us.saturating_add(AFTERWORDS_US), late.held_us]
                .into_iter()
                .map(|as_of_us| Snapshot::new(self.facts.clone(), as_of_us.min(self.now_us)))
                .find_map(|snapshot| explain(&snapshot, &late.question));
            found.late.extend(better.map(|explanation| (late.incident.clone(), explanation)));
        }
        let snapshot = Snapshot::new(self.facts, self.now_us);
        let mut all = questions(&snapshot);
        all.retain(|question| question.gateway == self.gateway);
        if let Some(rest_from) = &self.rest_from {
            let at = all.iter().position(|question| question >= rest_from).unwrap_or(0);
            all.rotate_left(at);
        }
        // Stable: within each half the order stays.
        all.sort_by_key(|question| !self.urgent.contains(&question.endpoint));
        let began = Instant::now();
        let mut rest = all.into_iter();
        for question in rest.by_ref() {
            let over = |e: &Explanation| e.kind == "observed" && recovered(&snapshot, &question);
            let answer = explain(&snapshot, &question).filter(|answer| !over(answer));
            found.answers.push((question, answer));
            if began.elapsed() > self.longest {
                break;
            }
        }
        found.rest_from = rest.next();
        found.complete = found.rest_from.is_none() && self.rest_from.is_none();
        found
    }
}
