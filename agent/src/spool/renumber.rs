//! A state directory that was lost or replaced within a boot.

use std::collections::VecDeque;

use tracing::warn;

use super::record::Entry;
use super::{Cursor, Spool, remove};

impl Spool {
    /// The collector knows facts of this boot that this spool never held: the state directory was lost. Gives the facts
    /// that wait here new places behind `stored_seq`, so that they are not taken for those.
    pub fn renumber_after(&mut self, stored_seq: u64) {
        if stored_seq < self.next_seq {
            return;
        }
        warn!(
            stored_seq,
            next_seq = self.next_seq,
            "the collector knows more of this boot than the spool; facts are renumbered"
        );
        self.active = None;
        self.cursor = Cursor::default();
        let (old, other): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.segments)
            .into_iter()
            .partition(|segment| segment.boot == self.boot);
        self.segments = other;
        let waiting = self.queue.take();
        self.next_seq = stored_seq + 1;
        for mut segment in old {
            let mut entries = Vec::new();
            if let Err(error) = segment.scan(|entry| entries.push(entry.clone())) {
                warn!(%error, path = %segment.path.display(), "cannot read the spool");
            }
            entries.into_iter().for_each(|entry| self.push_again(entry));
            if self.write_queue() {
                remove(&segment.path);
            }
        }
        waiting.into_iter().for_each(|entry| self.push_again(entry));
        self.write_queue();
        self.forget(&self.boot.clone(), stored_seq);
    }

    fn push_again(&mut self, entry: Entry) {
        if let Some(mut fact) = entry.fact {
            fact.seq = self.next_seq;
            self.next_seq += 1;
            self.queue.push(fact, None);
        }
    }
}
