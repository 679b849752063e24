//! Facts on their way out of one wake-up of the kernel thread.

use why502_proto::Kind;

use crate::clock::Moment;
use crate::observe::Observer;

/// What one wake-up has to say, in order.
#[derive(Debug)]
pub(super) struct Facts {
    now: Moment,
    said: Vec<(Moment, Kind)>,
}

impl Facts {
    pub(super) fn new(now: Moment) -> Self {
        Self { now, said: Vec::new() }
    }

    /// A new moment, after a wait.
    pub(super) fn set_now(&mut self, now: Moment) {
        self.now = now;
    }

    /// Boot time of this wake-up.
    pub(super) fn now_us(&self) -> u64 {
        self.now.boottime_us
    }

    /// It is so now.
    pub(super) fn say(&mut self, kind: Kind) {
        self.said.push((self.now, kind));
    }

    /// It happened at this boot time.
    pub(super) fn say_at(&mut self, boottime_us: u64, kind: Kind) {
        self.said.push((self.now.at_boottime(boottime_us.min(self.now.boottime_us)), kind));
    }

    /// Hands everything over.
    pub(super) fn flush(&mut self, observer: &Observer) {
        for (at, kind) in self.said.drain(..) {
            observer.observe_at(at, kind);
        }
        // A listing of ten thousand facts must not stay allocated.
        self.said.shrink_to(64);
    }

    /// Takes what was said, as text.
    #[cfg(test)]
    pub(super) fn take_text(&mut self) -> String {
        let mut text = String::new();
        for (_, kind) in self.said.drain(..) {
            text.push_str(&why502_proto::kind_name(&kind));
            text.push(' ');
            text.push_str(&why502_proto::fields_text(&kind));
            text.push('\n');
        }
        text
    }
}
