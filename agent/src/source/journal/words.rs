//! The last lines of each unit, kept until the unit fails: what it said before it died is often the answer.

use std::collections::BTreeMap;

use why502_proto::{Kind, v1};

use why502_gateway::redact;

/// How many lines of a unit are kept.
const LINES_MAX: usize = 3;

/// How much of a line is kept; what is said of it is shorter still.
const LINE_MAX: usize = 1024;

/// How many units are kept; the one that was silent longest goes first. 1.5 MiB at most, as good as never reached.
const UNITS_MAX: usize = 512;

/// A line that journald took in up to this much later than the death belongs to it: the pipe of a process is read
/// after its end.
const AFTER_US: u64 = 1_000_000;

/// The same for a process that had said nothing before: shorter than RestartSec= usually is (100 ms), or the line could
/// be of the next one.
const AFTER_SILENCE_US: u64 = 50_000;

/// Last lines by unit.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    units: BTreeMap<String, Words>,
    /// Counts lines: the age of a unit's last one.
    clock: u64,
}

#[derive(Debug, Default)]
struct Words {
    lines: Vec<String>,
    pid: u32,
    spoke: u64,
    /// The unit failed at this boot time, and its words are to be said, or said again with what came late.
    failed_us: Option<u64>,
    due: bool,
}

impl LastWords {
    /// A unit wrote a line. Gives back what is to be said of a process before the one that wrote it.
    pub(super) fn heard(
        &mut self,
        unit: &str,
        pid: u32,
        line: &str,
        at_us: u64,
    ) -> Option<(u64, Kind)> {
        if line.trim().is_empty() {
            return None;
        }
        let mut before = None;
        self.clock += 1;
        let clock = self.clock;
        let words = self.entry(unit);
        words.spoke = clock;
        match words.failed_us {
            Some(failed) if words.is_late(pid, at_us.saturating_sub(failed)) => words.due = true,
            // Another process begins anew.
            Some(_) => {
                before = words.take(unit);
                words.lines.clear();
                words.failed_us = None;
            }
            None => {}
        }
        words.pid = pid;
        if words.lines.len() == LINES_MAX {
            words.lines.remove(0);
        }
        let end = line.floor_char_boundary(line.len().min(LINE_MAX));
        words.lines.push(line[..end].to_owned());
        before
    }

    /// A process of a unit ended in failure.
    pub(super) fn died(&mut self, unit: &str, at_us: u64) {
        let words = self.entry(unit);
        if words.failed_us.is_some() {
            // These were of an earlier death.
            words.lines.clear();
        }
        words.failed_us = Some(at_us);
        words.due = true;
    }

    /// The start of a unit failed; if that was because its process ended, its words were said.
    pub(super) fn not_started(&mut self, unit: &str, at_us: u64) {
        if self.entry(unit).failed_us.is_none() {
            self.died(unit, at_us);
        }
    }

    /// What is to be said now, with the moment of each failure.
    pub(super) fn take_due(&mut self) -> Vec<(u64, Kind)> {
        self.units.iter_mut().filter_map(|(unit, words)| words.take(unit)).collect()
    }

    fn entry(&mut self, unit: &str) -> &mut Words {
        if !self.units.contains_key(unit) && self.units.len() >= UNITS_MAX {
            let silent = self.units.iter().min_by_key(|(_, words)| words.spoke);
            if let Some(silent) = silent.map(|(unit, _)| unit.clone()) {
                self.units.remove(&silent);
            }
        }
        self.units.entry(unit.to_owned()).or_default()
    }
}

impl Words {
    fn take(&mut self, unit: &str) -> Option<(u64, Kind)> {
        if !std::mem::take(&mut self.due) || self.lines.is_empty() {
            return None;
        }
        let fact = v1::UnitLastWords {
            unit: unit.to_owned(),
            pid: self.pid,
            lines: self.lines.iter().map(redact::line).collect(),
        };
        Some((self.failed_us.unwrap_or_default(), Kind::UnitLastWords(fact)))
    }

    /// Whether a line of `pid`, so long after the death, is of the one that died.
    fn is_late(&self, pid: u32, after_us: u64) -> bool {
        if self.lines.is_empty() {
            after_us < AFTER_SILENCE_US
        } else {
            pid == self.pid && after_us < AFTER_US
        }
    }
}

#[cfg(test)]
mod tests {
    use why502_proto::fields_text;

    use super::*;

    fn due(words: &mut LastWords) -> String {
        words.take_due().iter().map(|(at, kind)| format!("{at} {}", fields_text(kind))).collect()
    }

    #[test]
    fn three_lines_are_said_once() {
        let mut words = LastWords::default();
        for n in 1..=5 {
            words.heard("api.service", 7, &format!("line {n}"), n);
        }
        words.heard("api.service", 7, "  ", 6);
        assert_eq!(due(&mut words), "");
        words.died("api.service", 10);
        words.not_started("api.service", 11);
        let said = r#"10 unit=api.service pid=7 lines="line 3" lines="line 4" lines="line 5""#;
        assert_eq!(due(&mut words), said);
        assert_eq!(due(&mut words), "");
    }

    #[test]
    fn a_line_that_comes_after_the_death_is_said_too() {
        let mut words = LastWords::default();
        words.heard("api.service", 7, "begin", 1);
        words.died("api.service", 10);
        assert_eq!(due(&mut words), "10 unit=api.service pid=7 lines=begin");
        words.heard("api.service", 7, "late", 11);
        assert_eq!(due(&mut words), "10 unit=api.service pid=7 lines=begin lines=late");
    }

    #[test]
    fn the_next_process_has_words_of_its_own() {
        let mut words = LastWords::default();
        words.heard("api.service", 7, "old", 1);
        words.died("api.service", 10);
        assert_eq!(due(&mut words), "10 unit=api.service pid=7 lines=old");
        words.heard("api.service", 8, "new", 20);
        words.died("api.service", 30);
        assert_eq!(due(&mut words), "30 unit=api.service pid=8 lines=new");
    }

    #[test]
    fn lines_that_all_come_late_are_of_the_one_that_died() {
        let mut words = LastWords::default();
        words.heard("api.service", 7, "old", 1);
        words.died("api.service", 10);
        assert_eq!(due(&mut words), "10 unit=api.service pid=7 lines=old");
        words.died("api.service", 20_000);
        words.heard("api.service", 8, "new", 20_005);
        assert_eq!(due(&mut words), "20000 unit=api.service pid=8 lines=new");
        words.died("api.service", 30_000);
        words.heard("api.service", 9, "the next one starts", 130_000);
        assert_eq!(due(&mut words), "");
    }

    #[test]
    fn the_next_process_does_not_hide_words_that_are_due() {
        let mut words = LastWords::default();
        assert_eq!(words.heard("api.service", 7, "old", 1), None);
        words.died("api.service", 10);
        let before = words.heard("api.service", 8, "new", 20);
        assert_eq!(before.map(|(at, _)| at), Some(10));
        assert_eq!(due(&mut words), "");
    }

    #[test]
    fn silent_units_are_forgotten_first() {
        let mut words = LastWords::default();
        for n in 0..=UNITS_MAX {
            words.heard(&format!("u{n}.service"), 1, "x", 1);
        }
        assert_eq!(words.units.len(), UNITS_MAX);
        assert!(!words.units.contains_key("u0.service"));
    }
}
