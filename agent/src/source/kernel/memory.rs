//! Memory cgroups of what matters from one reading to the next: limits, how near the use is to them, and kills.
//!
//! Pure: takes readings and says facts.

use std::collections::{BTreeMap, VecDeque};

use why502_proto::{Kind, v1};

use super::facts::Facts;
use super::memory_file::{Place, Reading};
use crate::source::cgroup::of_path;

/// Cgroups kept at once, some 400 B each.
const CGROUPS_MAX: usize = 1024;
/// Removed cgroups that are still known, and for how long: the kernel's line about a kill may be read after systemd has
/// removed the cgroup.
const GONE_MAX: usize = 64;
const GONE_KEPT_US: u64 = 2_000_000;
/// `memory_limit` is said when the use passes one of these shares of the limit.
const STEPS_PERCENT: [u64; 3] = [80, 90, 95];
/// `memory_limit_reached` at most once in this time for each cgroup.
const REACHED_US: u64 = 1_000_000;

/// A memory cgroup.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub(super) place: Place,
    /// Tells a cgroup from an earlier one of the same path.
    pub(super) inode: u64,
    pub(super) last: Reading,
    /// When that was.
    pub(super) read_us: u64,
    /// How many of [`STEPS_PERCENT`] the use was above when it was said last.
    step: usize,
    said_limit: Option<u64>,
    reached_said_us: u64,
    /// Last kill that its counter showed.
    pub(super) killed_us: Option<u64>,
}

/// All memory cgroups of what matters.
#[derive(Debug, Default)]
pub(super) struct Memory {
    cgroups: BTreeMap<String, Cgroup>,
    /// Removed ones: when that was noticed.
    gone: VecDeque<(u64, Cgroup)>,
}

impl Memory {
    pub(super) fn get(&self, path: &str) -> Option<&Cgroup> {
        self.cgroups.get(path)
    }

    /// The cgroup that is at `path`, or was until a moment before `at_us`.
    pub(super) fn get_late(&self, path: &str, at_us: u64) -> Option<&Cgroup> {
        let late = |(gone_us, cgroup): &&(u64, Cgroup)| {
            cgroup.place.path == path && gone_us + GONE_KEPT_US >= at_us
        };
        let gone = || self.gone.iter().rev().find(late).map(|(_, cgroup)| cgroup);
        self.get(path).or_else(gone)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Cgroup> {
        self.cgroups.values()
    }

    /// From here on a cgroup matters. `begun` is what its counters stood at before anything was missed.
    pub(super) fn watch(&mut self, place: Place, inode: u64, begun: Reading, now_us: u64) -> bool {
        if self.cgroups.get(&place.path).is_some_and(|known| known.inode == inode) {
            return false;
        }
        if self.cgroups.len() >= CGROUPS_MAX {
            return false;
        }
        let cgroup = Cgroup {
            inode,
            last: begun,
            read_us: now_us,
            step: 0,
            said_limit: None,
            reached_said_us: 0,
            killed_us: None,
            place,
        };
        self.cgroups.insert(cgroup.place.path.clone(), cgroup);
        true
    }

    /// The cgroup is gone, with what its counters showed last.
    pub(super) fn forget(&mut self, path: &str, now_us: u64) {
        let Some(cgroup) = self.cgroups.remove(path) else { return };
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back((now_us, cgroup));
    }

    /// A new reading of a cgroup, taken at `at_us`.
    pub(super) fn read(&mut self, path: &str, reading: Reading, at_us: u64, facts: &mut Facts) {
        let Some(cgroup) = self.cgroups.get_mut(path) else { return };
        let before = std::mem::replace(&mut cgroup.last, reading);
        cgroup.read_us = at_us;
        cgroup.say_limit(facts);
        cgroup.say_reached(before, at_us, facts);
        let killed = reading.oom_kill.saturating_sub(before.oom_kill);
        if killed > 0 {
            if let Some(cgroup) = self.cgroups.get_mut(path) {
                cgroup.killed_us = Some(at_us);
            }
            self.say_kill(path, before, killed, at_us, facts);
        }
    }

    fn say_kill(&self, path: &str, before: Reading, count: u64, at_us: u64, facts: &mut Facts) {
        let Some(cgroup) = self.cgroups.get(path) else { return };
        let above = cgroup.place.ancestors().filter_map(|place| self.cgroups.get(&place.path));
        let limited: Vec<&Cgroup> =
            std::iter::once(cgroup).chain(above).filter(|c| c.last.limit.is_some()).collect();
        let met = limited
            .iter()
            .find(|c| (c.place.path == path && c.last.max > before.max) || c.share_percent() >= 90);
        let (scope, limit) = match (met, limited.as_slice()) {
            (Some(met), _) => (v1::OomScope::Cgroup, Some(*met)),
            (None, []) => (v1::OomScope::Global, None),
            // The killer freed memory before this reading; with one limit above it there is no other candidate.
            (None, [only]) => (v1::OomScope::Cgroup, Some(*only)),
            (None, _) => (v1::OomScope::Unspecified, None),
        };
        let member = of_path(path);
        facts.say_at(
            at_us,
            Kind::OomKill(v1::OomKill {
                scope: scope.into(),
                unit: member.unit,
                container: member.container,
                cgroup: path.to_owned(),
                limit_cgroup: limit.map_or_else(String::new, |c| c.place.path.clone()),
                limit_bytes: limit.and_then(|c| c.last.limit),
                count: u32::try_from(count).unwrap_or(u32::MAX),
                witness: v1::Witness::Cgroup.into(),
                ..v1::OomKill::default()
            }),
        );
    }
}

impl Cgroup {
    /// How much of the limit is used.
    pub(super) fn share_percent(&self) -> u64 {
        match self.last.limit {
            Some(limit) if limit > 0 => self.last.current.saturating_mul(100) / limit,
            _ => 0,
        }
    }

    fn say_limit(&mut self, facts: &mut Facts) {
        let share = self.share_percent();
        let step = STEPS_PERCENT.iter().filter(|&&percent| share >= percent).count();
        let limit_changed = self.said_limit != self.last.limit;
        // Between the steps it may move both ways unsaid; falling below the first one is said.
        if !limit_changed && step <= self.step && (step > 0 || self.step == 0) {
            return;
        }
        self.step = step;
        self.said_limit = self.last.limit;
        let member = of_path(&self.place.path);
        facts.say(Kind::MemoryLimit(v1::MemoryLimit {
            cgroup: self.place.path.clone(),
            unit: member.unit,
            container: member.container,
            limit_bytes: self.last.limit.unwrap_or(0),
            current_bytes: self.last.current,
            anon_bytes: self.last.anon,
        }));
    }

    fn say_reached(&mut self, before: Reading, at_us: u64, facts: &mut Facts) {
        let max = self.last.max.saturating_sub(before.max);
        let high = self.last.high.saturating_sub(before.high);
        let Some(limit) = self.last.limit.filter(|_| max > 0 || high > 0) else { return };
        if at_us < self.reached_said_us + REACHED_US {
            // The counters stay behind, so that the next one counts these too.
            self.last.max = before.max;
            self.last.high = before.high;
            return;
        }
        self.reached_said_us = at_us;
        facts.say_at(
            at_us,
            Kind::MemoryLimitReached(v1::MemoryLimitReached {
                cgroup: self.place.path.clone(),
                unit: of_path(&self.place.path).unit,
                max_count: max,
                high_count: high,
                limit_bytes: limit,
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::memory_file::Version;
    use super::*;
    use crate::clock::Moment;

    fn reading(limit: Option<u64>, current: u64, oom_kill: u64, max: u64) -> Reading {
        Reading { limit, current, anon: None, oom_kill, max, high: 0 }
    }

    /// Reads one cgroup below a slice again and again, a second apart.
    #[track_caller]
    fn check(slice: Option<Reading>, readings: &[Reading], expected: &Expect) {
        let mut memory = Memory::default();
        let mut facts = Facts::new(Moment { boottime_us: 100_000_000, realtime_us: 0 });
        let place = |path: &str| Place { version: Version::V1, path: path.to_owned() };
        if let Some(slice) = slice {
            memory.watch(place("/app.slice"), 1, slice, 0);
        }
        memory.watch(place("/app.slice/api.service"), 2, readings[0], 0);
        for (at, reading) in (10..).zip(readings) {
            memory.read("/app.slice/api.service", *reading, at * 1_000_000, &mut facts);
        }
        expected.assert_eq(&facts.take_text());
    }

    #[test]
    fn a_kill_at_its_own_limit() {
        let limit = Some(1000);
        check(
            None,
            &[reading(limit, 100, 0, 0), reading(limit, 1000, 1, 3), reading(limit, 10, 1, 3)],
            &expect![[r#"
                memory_limit cgroup=/app.slice/api.service unit=api.service limit_bytes=1000 current_bytes=100
                memory_limit cgroup=/app.slice/api.service unit=api.service limit_bytes=1000 current_bytes=1000
                memory_limit_reached cgroup=/app.slice/api.service unit=api.service max_count=3 limit_bytes=1000
                oom_kill scope=cgroup unit=api.service cgroup=/app.slice/api.service limit_cgroup=/app.slice/api.service limit_bytes=1000 count=1 witness=cgroup
                memory_limit cgroup=/app.slice/api.service unit=api.service limit_bytes=1000 current_bytes=10
            "#]],
        );
    }

    #[test]
    fn a_kill_at_the_limit_of_the_slice() {
        check(
            Some(reading(Some(5000), 5000, 0, 9)),
            &[reading(None, 100, 0, 0), reading(None, 100, 1, 0)],
            &expect![[r#"
                oom_kill scope=cgroup unit=api.service cgroup=/app.slice/api.service limit_cgroup=/app.slice limit_bytes=5000 count=1 witness=cgroup
            "#]],
        );
    }

    #[test]
    fn a_kill_without_any_limit_is_the_hosts() {
        check(
            None,
            &[reading(None, 100, 4, 0), reading(None, 100, 6, 0)],
            &expect![[r#"
                oom_kill scope=global unit=api.service cgroup=/app.slice/api.service count=2 witness=cgroup
            "#]],
        );
    }

    #[test]
    fn a_full_cgroup_that_was_not_killed_is_no_kill() {
        let limit = Some(1000);
        check(
            None,
            &[reading(limit, 950, 2, 5), reading(limit, 1000, 2, 6), reading(limit, 910, 2, 6)],
            &expect![[r#"
                memory_limit cgroup=/app.slice/api.service unit=api.service limit_bytes=1000 current_bytes=950
                memory_limit_reached cgroup=/app.slice/api.service unit=api.service max_count=1 limit_bytes=1000
            "#]],
        );
    }

    #[test]
    fn a_removed_cgroup_is_known_for_a_moment() {
        let mut memory = Memory::default();
        let limit = Reading { limit: Some(64 << 20), ..Reading::default() };
        let place = |path: &str| Place { version: Version::V2, path: path.into() };
        memory.watch(place("/app.slice/api.service"), 2, limit, 1_000_000);
        memory.forget("/app.slice/api.service", 5_000_000);
        assert!(memory.get("/app.slice/api.service").is_none());
        let late = |at_us| memory.get_late("/app.slice/api.service", at_us);
        assert_eq!(late(5_100_000).and_then(|cgroup| cgroup.last.limit), Some(64 << 20));
        assert!(late(8_000_000).is_none(), "it may be another's by then");
        assert!(memory.get_late("/app.slice/api", 5_100_000).is_none());
    }
}
