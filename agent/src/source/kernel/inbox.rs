//! What other sources told the kernel thread to look at.
//!
//! All that holds is kept and not only what is new: a thread that begins anew after a fault of its own is told
//! everything again, which nobody else would.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Interest, UnixClient};

/// Units that are kept; each is some 100 B. Beyond it those without a main process make room.
const UNITS_MAX: usize = 4096;

/// The last word on each thing, and what the thread has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    main_pids: BTreeMap<String, u32>,
    clients: Vec<UnixClient>,
    fresh_units: BTreeSet<String>,
    fresh_clients: bool,
}

impl Inbox {
    /// Takes a word in, in place of an earlier one on the same thing.
    pub(super) fn put(&mut self, interest: Interest) {
        match interest {
            Interest::MainPid { unit, pid } => {
                if self.main_pids.len() >= UNITS_MAX {
                    self.main_pids.retain(|unit, pid| *pid != 0 || self.fresh_units.contains(unit));
                }
                self.fresh_units.insert(unit.clone());
                self.main_pids.insert(unit, pid);
            }
            Interest::UnixPaths(clients) => {
                self.clients = clients;
                self.fresh_clients = true;
            }
        }
    }

    /// What is new since the last call.
    pub(super) fn take(&mut self) -> Vec<Interest> {
        let mut new = Vec::new();
        for unit in std::mem::take(&mut self.fresh_units) {
            if let Some(&pid) = self.main_pids.get(&unit) {
                new.push(Interest::MainPid { unit, pid });
            }
        }
        if std::mem::take(&mut self.fresh_clients) {
            new.push(Interest::UnixPaths(self.clients.clone()));
        }
        new
    }

    /// Everything is new to the next who takes.
    pub(super) fn begin_anew(&mut self) {
        self.fresh_units = self.main_pids.keys().cloned().collect();
        self.fresh_clients |= !self.clients.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn main_pid(unit: &str, pid: u32) -> Interest {
        Interest::MainPid { unit: unit.into(), pid }
    }

    #[test]
    fn the_last_word_is_taken_once_and_all_of_it_by_a_new_thread() {
        let mut inbox = Inbox::default();
        let client = UnixClient { path: "/run/a.sock".into(), user: None };
        inbox.put(main_pid("a.service", 7));
        inbox.put(main_pid("b.service", 8));
        inbox.put(main_pid("a.service", 9));
        assert_eq!(inbox.take(), [main_pid("a.service", 9), main_pid("b.service", 8)]);
        assert_eq!(inbox.take(), []);
        inbox.put(Interest::UnixPaths(vec![client.clone()]));
        let paths = || Interest::UnixPaths(vec![client.clone()]);
        assert_eq!(inbox.take(), [paths()]);
        inbox.begin_anew();
        assert_eq!(inbox.take(), [main_pid("a.service", 9), main_pid("b.service", 8), paths()]);
    }

    #[test]
    fn units_without_a_main_process_make_room() {
        let mut inbox = Inbox::default();
        for n in 0..3 * UNITS_MAX {
            inbox.put(main_pid(&format!("run-{n}.service"), 0));
            inbox.take();
        }
        assert!(inbox.main_pids.len() <= UNITS_MAX);
    }
}
