//! What was read of one log and not told yet: failures, counts, and all else, told together so that the place up to
//! which everything was told is always exact.

use why502_gateway::lines::{Told, What};
use why502_proto::Kind;

use super::counts::Counts;
use super::failures::Failures;
use super::stamp;
use crate::clock::Moment;

/// Facts that wait.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Answers that were counted.
    pub counts: Counts,
    /// Failures.
    pub failures: Failures,
    /// Other facts.
    pub others: Vec<(Moment, Kind)>,
}

impl Gathered {
    /// Takes what a line told that was read at `now`; `true`: the gateway took its configuration anew.
    pub fn add(&mut self, told: Told, now: Moment) -> bool {
        let at = stamp::moment(told.at_us, now);
        match told.what {
            What::Failed(failed) => self.failures.add(at, now, failed),
            What::Answered(count) => self.counts.add(now.boottime_us, &count),
            What::Disabled(disabled) => self.others.push((at, Kind::EndpointDisabled(disabled))),
            What::Event(event) => self.others.push((at, Kind::AppServerEvent(event))),
            What::Reloaded(reloaded) => {
                let taken = reloaded.error.is_empty();
                self.others.push((at, Kind::GatewayReloaded(reloaded)));
                return taken;
            }
        }
        false
    }

    /// When something that waits has to be told, boot time. `None`: nothing waits.
    pub fn due_us(&self) -> Option<u64> {
        let others = (!self.others.is_empty()).then_some(0);
        let dues = [self.failures.due_us(), self.counts.due_us(), others];
        dues.into_iter().flatten().min()
    }

    /// Something else is told now, so all that waits is told with it.
    pub fn urge(&mut self, now: Moment) {
        self.failures.urge();
        let counts = self.counts.take(now.boottime_us).into_iter();
        self.others.extend(counts.map(|counts| (now, Kind::RequestCounts(counts))));
    }

    /// Everything that waits, in the order of its time, once one of it is due.
    pub fn take(&mut self, now: Moment) -> Vec<(Moment, Kind)> {
        if self.due_us().is_none_or(|due| due > now.boottime_us) {
            return Vec::new();
        }
        self.urge(now);
        let mut facts = std::mem::take(&mut self.others);
        let failures = self.failures.take(now).into_iter();
        facts.extend(failures.map(|(at, failed)| (at, Kind::RequestFailed(failed))));
        facts.sort_by_key(|(at, _)| at.boottime_us);
        facts
    }
}
