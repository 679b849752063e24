//! One link: from an effect back to its cause.

use why502_proto::v1::Source;

use crate::effect::Effect;
use crate::snapshot::{Seen, Snapshot};

mod capacity;
mod gateway;
mod listener;
mod memory;
mod process;
mod systemd;
mod unix_socket;
mod upstream;
mod worker;

/// Families in the order an operator should read them: closest to the symptom first. Among equally proven causes the
/// earlier one leads.
const FAMILIES: &[&[Rule]] = &[
    gateway::RULES,
    listener::RULES,
    unix_socket::RULES,
    systemd::RULES,
    memory::RULES,
    worker::RULES,
    process::RULES,
    capacity::RULES,
    upstream::RULES,
];

/// Every cause that why502 knows, in reading order.
pub fn catalog() -> impl Iterator<Item = &'static Rule> {
    FAMILIES.iter().copied().flatten()
}

/// A cause of a 502, with everything that is known about it in one place.
///
/// The ids are a public contract and never renamed.
#[derive(Debug)]
pub struct Rule {
    /// "process.oom_killed.cgroup"
    pub id: &'static str,
    /// What went wrong, in one line without a full stop.
    pub summary: &'static str,
    /// How it looks, and what tells it from its look-alikes.
    pub doc: &'static str,
    /// The command that shows it, in general; an explanation has it with the names filled in.
    pub check: &'static str,
    /// What to do about it.
    pub fix: &'static str,
    /// Which effects it may explain.
    pub(crate) applies_to: fn(&Effect<'_>) -> bool,
    /// Whether it does.
    pub(crate) judge: for<'a> fn(&'a Snapshot, &Effect<'a>) -> Verdict<'a>,
}

/// How well a link is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Confidence {
    /// It would fit.
    Possible,
    /// Counters or configuration say so.
    Likely,
    /// A fact names the same process, listener or unit.
    Proven,
}

impl Confidence {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Proven => "proven",
        }
    }
}

/// What a rule concluded. Evidence is borrowed from the snapshot, so a rule cannot cite what was not observed.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    /// It brought the effect about.
    Explained(Cause<'a>),
    /// The facts show that it did not.
    RuledOut {
        /// Why not, as a sentence without a full stop.
        text: String,
        /// The facts that exclude it.
        by: Vec<&'a Seen>,
    },
    /// The facts do not decide it, because a source was not seeing.
    Undecided(Missing),
    /// Nothing speaks for it and nothing needs to be said.
    Silent,
}

/// A cause that was found.
#[derive(Debug)]
pub(crate) struct Cause<'a> {
    /// Where it happened.
    pub(crate) host: String,
    /// When, by the collector's clock.
    pub(crate) at_us: i64,
    /// One sentence without a full stop: who, where, what, with the numbers.
    pub(crate) text: String,
    pub(crate) confidence: Confidence,
    pub(crate) evidence: Vec<&'a Seen>,
    /// What has to be explained next. `None`: this is as deep as it goes.
    pub(crate) next: Option<Effect<'a>>,
    /// One command that shows it, to run on `host`.
    pub(crate) check: String,
    /// What to do, with the numbers.
    pub(crate) fix: String,
}

/// What could not be seen, and would have decided something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Missing {
    pub(crate) host: String,
    /// `None`: there is no agent at all.
    pub(crate) source: Option<Source>,
    pub(crate) since_us: i64,
    /// What it would have told, and how to let it.
    pub(crate) text: String,
}
