//! The catalogue of causes: one file per family, one constant per rule. Ids are a public contract.

use crate::effect::Effect;
use crate::snapshot::Snapshot;
use crate::verdict::Verdict;

mod capacity;
mod death;
mod dns;
mod ending;
mod firewall;
mod gateway;
mod hung;
mod limits;
mod listener;
mod local;
mod memory;
mod network;
mod owner;
mod path;
mod port;
mod process;
mod start;
mod starting;
mod systemd;
mod tls;
mod unix_socket;
mod upstream;
mod words;
mod worker;

/// One link from an effect back to its cause.
#[derive(Debug)]
pub struct Rule {
    /// Never renamed: "process.oom_killed.cgroup".
    pub id: &'static str,
    /// One line, without full stop.
    pub summary: &'static str,
    /// What it looks like, and what separates it from what looks like it.
    pub doc: &'static str,
    /// One command that shows whether it is so; `{unit}` and the like stand for what the facts name.
    pub check: &'static str,
    /// What to do about it.
    pub fix: &'static str,
    pub(crate) applies_to: fn(&Effect<'_>) -> bool,
    pub(crate) judge: for<'a> fn(&'a Snapshot, &Effect<'a>) -> Verdict<'a>,
}

/// Families in the order in which they are to be read: nearest to the root first, because of two causes that fit
/// equally well the one that says more about what to mend comes first.
const FAMILIES: &[&[Rule]] = &[
    dns::RULES,
    memory::RULES,
    limits::RULES,
    ending::RULES,
    start::RULES,
    systemd::RULES,
    process::RULES,
    hung::RULES,
    worker::RULES,
    unix_socket::RULES,
    listener::RULES,
    port::RULES,
    firewall::RULES,
    path::RULES,
    tls::RULES,
    local::RULES,
    capacity::RULES,
    upstream::RULES,
    gateway::RULES,
    network::RULES,
];

/// Every rule, in reading order.
pub fn catalog() -> impl Iterator<Item = &'static Rule> {
    FAMILIES.iter().copied().flatten()
}
