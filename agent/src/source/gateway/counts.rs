//! Answers of routes, counted: every 10 s, and within a second when something fails or comes back.

use std::collections::{BTreeMap, BTreeSet};

use why502_proto::v1;

/// The longest that a count waits.
const PERIOD_US: u64 = 10_000_000;
/// How soon failures, and the first success after them, are told.
const SOON_US: u64 = 1_000_000;
/// Routes and peers that are counted at a time; at the bound the counts are told at once.
const ROUTES_MAX: usize = 4096;

/// Counts of one log that were not told yet.
#[derive(Debug, Default)]
pub struct Counts {
    waiting: BTreeMap<(String, String), v1::RequestCounts>,
    /// Routes whose last counts had server errors.
    failing: BTreeSet<(String, String)>,
    since_us: u64,
    due_us: Option<u64>,
    told_us: u64,
}

impl Counts {
    /// Counts one answer. `one` names route and endpoint and has a 1 where it belongs.
    pub fn add(&mut self, now_us: u64, one: &v1::RequestCounts) {
        if self.waiting.is_empty() {
            self.since_us = now_us;
        }
        let name = (one.route.clone(), one.endpoint.clone());
        let soon = one.server_error > 0 || self.failing.contains(&name);
        let wait =
            if soon { (self.told_us + SOON_US).max(now_us) } else { self.since_us + PERIOD_US };
        self.due_us = Some(self.due_us.map_or(wait, |due| due.min(wait)));
        if self.waiting.len() >= ROUTES_MAX {
            self.due_us = Some(now_us);
        }
        let sum = self.waiting.entry(name).or_insert_with(|| v1::RequestCounts {
            gateway: one.gateway.clone(),
            instance: one.instance.clone(),
            route: one.route.clone(),
            endpoint: one.endpoint.clone(),
            ..v1::RequestCounts::default()
        });
        sum.informational += one.informational;
        sum.success += one.success;
        sum.redirect += one.redirect;
        sum.client_error += one.client_error;
        sum.server_error += one.server_error;
        sum.relayed += one.relayed;
        sum.bad_gateway += one.bad_gateway;
        sum.unavailable += one.unavailable;
        sum.gateway_timeout += one.gateway_timeout;
        sum.slowest_ms = sum.slowest_ms.max(one.slowest_ms);
    }

    /// When counts that wait have to be told. `None`: nothing waits.
    pub fn due_us(&self) -> Option<u64> {
        self.due_us
    }

    /// All that waits.
    pub fn take(&mut self, now_us: u64) -> Vec<v1::RequestCounts> {
        self.due_us = None;
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.told_us = now_us;
        let period_ms = (now_us.saturating_sub(self.since_us) / 1000).max(1);
        let waiting = std::mem::take(&mut self.waiting);
        for (name, counts) in &waiting {
            if counts.server_error > 0 {
                self.failing.insert(name.clone());
            } else {
                self.failing.remove(name);
            }
        }
        waiting.into_values().map(|counts| v1::RequestCounts { period_ms, ..counts }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(route: &str, server_error: u32) -> v1::RequestCounts {
        let success = 1 - server_error;
        v1::RequestCounts {
            route: route.into(),
            success,
            server_error,
            ..v1::RequestCounts::default()
        }
    }

    #[test]
    fn slowly_while_well_at_once_when_not_and_when_it_is_well_again() {
        let mut counts = Counts::default();
        counts.add(20_000_000, &one("a", 0));
        assert_eq!(counts.due_us(), Some(30_000_000));
        counts.add(21_000_000, &one("a", 1));
        assert_eq!(counts.due_us(), Some(21_000_000));
        let told = counts.take(21_000_000);
        assert_eq!((told[0].success, told[0].server_error, told[0].period_ms), (1, 1, 1000));
        assert_eq!(counts.due_us(), None);
        counts.add(21_100_000, &one("a", 1));
        assert_eq!(counts.due_us(), Some(22_000_000));
        counts.take(22_000_000);
        counts.add(25_000_000, &one("a", 0));
        assert_eq!(counts.due_us(), Some(25_000_000));
        counts.take(25_000_000);
        counts.add(26_000_000, &one("a", 0));
        assert_eq!(counts.due_us(), Some(36_000_000));
    }
}
