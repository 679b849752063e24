//! What is known at one moment: the facts of all hosts that matter, in one order of time.

use why502_proto::{FactId, Kind};

/// A fact, where and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its name; the host is in it.
    pub id: FactId,
    /// When it happened, microseconds since 1970, by the collector's clock.
    pub at_us: i64,
    /// How far off `at_us` may be when compared with another host.
    pub tolerance_us: u64,
    /// Microseconds since the boot of its host: the order within one host and boot.
    pub boottime_us: u64,
    /// What happened.
    pub kind: Kind,
}

/// The facts to explain from. Owns them; verdicts borrow from it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    facts: Vec<Seen>,
    now_us: i64,
}

impl Snapshot {
    /// Takes facts in any order; a fact that is there twice counts once. `now_us` is the moment that the snapshot
    /// describes, microseconds since 1970 by the collector's clock; facts after it are left out.
    pub fn new(mut facts: Vec<Seen>, now_us: i64) -> Self {
        facts.retain(|fact| fact.at_us <= now_us);
        facts.sort_by(|a, b| (a.at_us, &a.id).cmp(&(b.at_us, &b.id)));
        facts.dedup_by(|a, b| a.id == b.id);
        Self { facts, now_us }
    }

    /// All facts, in order of time.
    pub fn facts(&self) -> &[Seen] {
        &self.facts
    }

    /// The moment that it describes.
    pub fn now_us(&self) -> i64 {
        self.now_us
    }
}
