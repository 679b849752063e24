//! What logs told, by kind of failure.

use std::collections::BTreeMap;

use why502_gateway::lines::{Told, What};
use why502_proto::v1::RequestFailed;

/// Names of routes or endpoints that are kept for one kind of failure; requests beyond count as of others.
const NAMES_MAX: usize = 10_000;
/// Kinds of failure: gateways times phases times faults, which is far less.
const KINDS_MAX: usize = 4096;
/// Other events that are kept.
const EVENTS_MAX: usize = 200;

/// What makes failures the same: gateway, phase, fault, and whether a unix socket was asked.
type Kind = (String, i32, i32, bool);

/// All that was found.
#[derive(Debug, Default)]
pub struct Tally {
    /// Lines that were looked at.
    pub lines: u64,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Kinds of logs, and how many of their lines were read.
    pub formats: BTreeMap<&'static str, u64>,
    kinds: BTreeMap<Kind, Failures>,
    /// What else happened: peers that were taken out, workers that crashed, configurations that were refused.
    pub events: BTreeMap<String, Times>,
}

/// How often, and from when to when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How often.
    pub count: u64,
    /// Of the first, microseconds since 1970, where a line told it.
    pub first_us: Option<i64>,
    /// Of the last.
    pub last_us: Option<i64>,
}

/// Failures of one kind.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// The first that was found.
    pub example: RequestFailed,
    /// How many.
    pub count: u64,
    /// When.
    pub times: Times,
    /// What clients were sent, where it is known.
    pub statuses: BTreeMap<u32, u64>,
    /// On which routes.
    pub routes: Names,
    /// At which endpoints; groups where no endpoint is named.
    pub endpoints: Names,
}

/// Names, and how often each.
#[derive(Clone, Debug, Default)]
pub struct Names {
    counts: BTreeMap<String, u64>,
    others: u64,
}

impl Names {
    fn add(&mut self, name: &str, count: u64) {
        if name.is_empty() {
            return;
        }
        if let Some(known) = self.counts.get_mut(name) {
            *known += count;
        } else if self.counts.len() < NAMES_MAX {
            self.counts.insert(name.to_owned(), count);
        } else {
            self.others += count;
        }
    }

    /// The `most` most frequent, and how many requests are of others.
    pub fn top(&self, most: usize) -> (Vec<(&str, u64)>, u64) {
        let mut all: Vec<(&str, u64)> =
            self.counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let rest: u64 = all.iter().skip(most).map(|(_, count)| count).sum();
        all.truncate(most);
        (all, rest + self.others)
    }
}

impl Times {
    fn add(&mut self, count: u64, at_us: Option<i64>) {
        self.count += count;
        self.first_us = [self.first_us, at_us].into_iter().flatten().min();
        self.last_us = self.last_us.max(at_us);
    }
}

impl Tally {
    /// A line was one of this kind.
    pub fn known(&mut self, name: &'static str) {
        *self.formats.entry(name).or_default() += 1;
    }

    /// Takes what a line told.
    pub fn add(&mut self, told: Told) {
        let at_us = told.at_us;
        match told.what {
            What::Failed(failed) => self.failed(failed, at_us),
            What::Answered(_) => {}
            What::Disabled(gone) => {
                let of = if gone.upstream.is_empty() { "" } else { " of " };
                let text = format!("{}{of}{} was taken out", gone.endpoint, gone.upstream);
                self.event(text, at_us);
            }
            What::Reloaded(taken) if taken.error.is_empty() => {}
            What::Reloaded(refused) => {
                let text =
                    format!("{} refused its configuration: {}", refused.gateway, refused.error);
                self.event(text, at_us);
            }
            What::Event(event) => self.event(format!("{}: {}", event.server, event.text), at_us),
        }
    }

    fn event(&mut self, text: String, at_us: Option<i64>) {
        if self.events.len() < EVENTS_MAX || self.events.contains_key(&text) {
            self.events.entry(text).or_default().add(1, at_us);
        }
    }

    fn failed(&mut self, failed: RequestFailed, at_us: Option<i64>) {
        let unix = failed.endpoint.starts_with("unix:");
        let kind = (failed.gateway.clone(), failed.phase, failed.fault, unix);
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            return;
        }
        let count = u64::from(failed.count.max(1));
        let kind = self.kinds.entry(kind).or_default();
        kind.count += count;
        kind.times.add(count, at_us);
        if let Some(status) = failed.status {
            *kind.statuses.entry(status).or_default() += count;
        }
        kind.routes.add(&failed.route, count);
        let endpoint = if failed.endpoint.is_empty() { &failed.upstream } else { &failed.endpoint };
        kind.endpoints.add(endpoint, count);
        if kind.count == count {
            kind.example = failed;
        }
    }

    /// Kinds of failure by gateway, the most frequent first; those of which only the status is known last.
    pub fn failures(&self) -> Vec<(&str, &Failures)> {
        let mut all: Vec<(&str, &Failures)> =
            self.kinds.iter().map(|((gateway, ..), kind)| (gateway.as_str(), kind)).collect();
        all.sort_by_key(|(_, kind)| (status_only(&kind.example), std::cmp::Reverse(kind.count)));
        all
    }
}

/// Nothing but the status is known.
pub fn status_only(failed: &RequestFailed) -> bool {
    failed.phase == 0 && failed.fault == 0
}
