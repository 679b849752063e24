//! Limits that the kernel's log says were reached, with what they are now.

use why502_proto::{Kind, v1};

use super::thread_state::Kernel;
use crate::source::limits;

/// The kernel says it many times a second.
const TABLE_FULL_US: u64 = 1_000_000;
/// A line that does not say where is this host's own if its table is as full as this, in percent.
const FULL_PERCENT: u64 = 90;

impl Kernel<'_> {
    /// `netns`: inode of the network namespace that the line names.
    pub(super) fn table_full(&mut self, netns: Option<u64>) {
        let now_us = self.facts.now_us();
        if now_us < self.log_sight.table_full_us.saturating_add(TABLE_FULL_US) {
            return;
        }
        let read = |name: &str| {
            let path = self.roots.proc.join("sys/net/netfilter").join(name);
            std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
        };
        let count = read("nf_conntrack_count").unwrap_or(0);
        let max = read("nf_conntrack_max").unwrap_or(0);
        let own = match netns {
            Some(netns) => self.own_netns() == Some(netns),
            None => max > 0 && count.saturating_mul(100) >= max.saturating_mul(FULL_PERCENT),
        };
        if own {
            self.log_sight.table_full_us = now_us;
            let witness = v1::Witness::KernelLog.into();
            self.facts.say(Kind::ConntrackFull(v1::ConntrackFull { count, max, witness }));
        }
    }

    fn own_netns(&self) -> Option<u64> {
        let link = std::fs::read_link(self.roots.proc.join("self/ns/net")).ok()?;
        link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
    }

    /// The path is the real root's; it is this host's if one of its ends is, and its counter has moved.
    pub(super) fn fork_rejected(&mut self, cgroup: &str) {
        let Some(path) = self.own_path(cgroup, self.facts.now_us()) else { return };
        if let Some(fact) = limits::forks(self.roots, &path) {
            self.facts.say(fact);
        }
    }
}
