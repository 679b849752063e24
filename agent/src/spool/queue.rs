//! What is not on disk yet: facts, marks, and losses that wait to be told.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;
use why502_proto::v1;

use super::mark_entry;
use super::record::{Entry, PAYLOAD_MAX};
use crate::observe::Mark;

/// Bytes of facts that wait in memory while the disk refuses: some 20,000, and well below the memory limit of the unit.
const WAITING_MAX: usize = 4 * 1024 * 1024;

/// Facts that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) count: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) reason: &'static str,
}

/// In the order in which it will be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Last position of marks that came without a fact, written behind the facts.
    marks: BTreeMap<String, Entry>,
    /// One per reason.
    losses: BTreeMap<&'static str, Loss>,
}

impl Queue {
    pub(super) fn push(&mut self, fact: v1::Fact, mark: Option<Mark>) {
        let seq = fact.seq;
        let mut entry = Entry { fact: Some(fact), ..Entry::default() };
        if let Some(mark) = mark {
            self.marks.remove(&mark.name);
            entry = Entry { mark: mark.name, position: mark.position, ..entry };
        }
        let length = entry.encoded_len();
        if length > PAYLOAD_MAX {
            self.lose(Loss { count: 1, first_seq: seq, last_seq: seq, reason: "fact too large" });
            // What is behind it was read all the same.
            if !entry.mark.is_empty() {
                self.mark(Mark { name: entry.mark, position: entry.position });
            }
            return;
        }
        self.bytes += length;
        self.entries.push_back(entry);
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        let entry = mark_entry(&mark.name, &mark.position);
        self.marks.insert(mark.name, entry);
    }

    /// No fact waits.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Neither fact nor mark waits.
    pub(super) fn is_saved(&self) -> bool {
        self.entries.is_empty() && self.marks.is_empty()
    }

    pub(super) fn first_seq(&self) -> Option<u64> {
        self.facts().next().map(|fact| fact.seq)
    }

    /// Facts in the order of `seq`.
    pub(super) fn facts(&self) -> impl Iterator<Item = &v1::Fact> {
        self.entries.iter().filter_map(|entry| entry.fact.as_ref())
    }

    /// Everything that waits, in the order in which it is to be written.
    pub(super) fn entries(&self) -> Vec<&Entry> {
        self.entries.iter().chain(self.marks.values()).collect()
    }

    /// Everything is on disk.
    pub(super) fn saved(&mut self) {
        self.entries = VecDeque::new();
        self.bytes = 0;
        self.marks.clear();
    }

    pub(super) fn take(&mut self) -> VecDeque<Entry> {
        self.bytes = 0;
        std::mem::take(&mut self.entries)
    }

    /// Facts that the collector has need no disk; their marks do.
    pub(super) fn forget(&mut self, seq: u64) {
        while self
            .entries
            .front()
            .and_then(|entry| entry.fact.as_ref())
            .is_some_and(|fact| fact.seq <= seq)
        {
            self.drop_first();
        }
    }

    /// Drops the oldest facts until the rest is within the bound.
    pub(super) fn hold_bound(&mut self) {
        while self.bytes > WAITING_MAX {
            let Some(fact) = self.drop_first() else { return };
            let reason = "spool cannot be written";
            self.lose(Loss { count: 1, first_seq: fact.seq, last_seq: fact.seq, reason });
        }
    }

    fn drop_first(&mut self) -> Option<v1::Fact> {
        let entry = self.entries.pop_front()?;
        self.bytes = self.bytes.saturating_sub(entry.encoded_len());
        let waits = self.entries.iter().any(|later| later.mark == entry.mark);
        if !entry.mark.is_empty() && !waits && !self.marks.contains_key(&entry.mark) {
            self.mark(Mark { name: entry.mark, position: entry.position });
        }
        entry.fact
    }

    /// Remembers a loss until it can be told; those of one reason add up.
    pub(super) fn lose(&mut self, loss: Loss) {
        let known = self.losses.entry(loss.reason).or_insert(Loss { count: 0, ..loss });
        known.count += loss.count;
        known.first_seq = known.first_seq.min(loss.first_seq);
        known.last_seq = known.last_seq.max(loss.last_seq);
    }

    pub(super) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses).into_values().collect()
    }
}
