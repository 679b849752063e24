//! Failed requests, gathered: the first of a kind is told at once, the following ones once a second with their count.
//!
//! All that waits is told together, so that the place in the log up to which everything was told is always exact.

use std::collections::BTreeMap;

use why502_proto::v1;

use crate::clock::Moment;

/// A kind that was told is not told again sooner.
const PAUSE_US: u64 = 1_000_000;
/// Kinds that wait: routes times peers times errors of one second; at the bound they are told at once.
const KINDS_MAX: usize = 512;
/// Kinds that are remembered as told lately.
const TOLD_MAX: usize = 4096;

/// What makes failures the same: route, endpoint, upstream, phase, fault.
type Kind = (String, String, String, i32, i32);

/// Failures of one log that were read and not yet told.
#[derive(Debug, Default)]
pub struct Failures {
    waiting: BTreeMap<Kind, (Moment, v1::RequestFailed)>,
    told: BTreeMap<Kind, u64>,
    urgent: bool,
}

impl Failures {
    /// Takes a failure (`count` 1) that happened at `at`.
    pub fn add(&mut self, at: Moment, now: Moment, failed: v1::RequestFailed) {
        let kind = (
            failed.route.clone(),
            failed.endpoint.clone(),
            failed.upstream.clone(),
            failed.phase,
            failed.fault,
        );
        let told = self.told.get(&kind);
        self.urgent |= told.is_none_or(|told| now.boottime_us.saturating_sub(*told) >= PAUSE_US);
        self.waiting
            .entry(kind)
            .and_modify(|(_, first)| first.count = first.count.saturating_add(failed.count))
            .or_insert((at, failed));
        self.urgent |= self.waiting.len() >= KINDS_MAX;
    }

    /// Something else is told now, so all that waits is told with it.
    pub fn urge(&mut self) {
        self.urgent = true;
    }

    /// When something that waits has to be told, boot time. `None`: nothing waits.
    pub fn due_us(&self) -> Option<u64> {
        if self.urgent {
            return Some(0);
        }
        let told = self.waiting.keys().filter_map(|kind| self.told.get(kind));
        told.min().map(|told| told + PAUSE_US)
    }

    /// Everything that waits, once one of them is due.
    pub fn take(&mut self, now: Moment) -> Vec<(Moment, v1::RequestFailed)> {
        if self.due_us().is_none_or(|due| due > now.boottime_us) {
            return Vec::new();
        }
        self.urgent = false;
        self.told.retain(|_, told| now.boottime_us.saturating_sub(*told) < PAUSE_US);
        let waiting = std::mem::take(&mut self.waiting);
        if self.told.len() + waiting.len() <= TOLD_MAX {
            self.told.extend(waiting.keys().map(|kind| (kind.clone(), now.boottime_us)));
        }
        let mut failures: Vec<_> = waiting.into_values().collect();
        failures.sort_by_key(|(at, _)| at.boottime_us);
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment { boottime_us: ms * 1000, realtime_us: 0 }
    }

    fn failed(route: &str) -> v1::RequestFailed {
        v1::RequestFailed { route: route.into(), count: 1, ..v1::RequestFailed::default() }
    }

    fn take(failures: &mut Failures, ms: u64) -> String {
        let taken = failures.take(at(ms)).into_iter().map(|(at, failed)| {
            format!("{}@{}x{}", failed.route, at.boottime_us / 1000, failed.count)
        });
        taken.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn first_at_once_then_once_a_second_and_all_together() {
        let mut failures = Failures::default();
        failures.add(at(5000), at(5000), failed("a"));
        assert_eq!(take(&mut failures, 5000), "a@5000x1");
        failures.add(at(5100), at(5100), failed("a"));
        failures.add(at(5200), at(5200), failed("a"));
        assert_eq!(failures.due_us(), Some(6_000_000));
        assert_eq!(take(&mut failures, 5900), "");
        assert_eq!(take(&mut failures, 6000), "a@5100x2");
        failures.add(at(6100), at(6100), failed("a"));
        failures.add(at(6200), at(6200), failed("b"));
        assert_eq!(take(&mut failures, 6200), "a@6100x1 b@6200x1");
        assert_eq!(failures.due_us(), None);
        failures.add(at(9000), at(9000), failed("a"));
        assert_eq!(take(&mut failures, 9000), "a@9000x1");
    }

    #[test]
    fn kinds_are_bounded() {
        let mut failures = Failures::default();
        for n in 0..KINDS_MAX {
            failures.add(at(1), at(1), failed(&n.to_string()));
        }
        assert_eq!(failures.take(at(1)).len(), KINDS_MAX);
    }
}
