//! CPU quotas of those who listen: read only where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use why502_proto::{Kind, v1};

use crate::observe::Observer;
use crate::source::Roots;
use crate::source::cgroup::of_path;
use crate::source::kernel::proc_file;
use crate::source::limits::{Throttle, throttle};

/// How often a quota is looked at, and how often it is said that it holds back.
const LOOK: Duration = Duration::from_secs(2);
const SAY: Duration = Duration::from_secs(10);
/// How often a quota is looked for where there was none: `systemctl set-property` gives one to what runs.
const SEARCH: Duration = Duration::from_secs(10);
/// Percent of the periods of a look in which a cgroup was held back, that are worth a word.
const THROTTLED_PERCENT: u64 = 20;
/// Cgroups that are watched.
const CGROUPS_MAX: usize = 256;

pub(super) struct Quotas {
    roots: Roots,
    observer: Observer,
    /// Who listens.
    pids: BTreeSet<u32>,
    watched: BTreeMap<String, Watched>,
    looked: Instant,
    searched: Instant,
}

#[derive(Clone, Copy)]
struct Watched {
    last: Throttle,
    said: Option<Instant>,
}

impl Quotas {
    pub(super) fn new(roots: Roots, observer: Observer) -> Self {
        let now = Instant::now();
        let (pids, watched) = (BTreeSet::new(), BTreeMap::new());
        Self { roots, observer, pids, watched, looked: now, searched: now }
    }

    /// When to look again.
    pub(super) fn due(&self) -> Option<Instant> {
        let pause = if self.watched.is_empty() { SEARCH } else { LOOK };
        (!self.pids.is_empty()).then(|| self.looked + pause)
    }

    pub(super) fn set_processes(&mut self, pids: BTreeSet<u32>) {
        self.pids = pids;
        self.search();
    }

    /// Looks for quotas that were not there before.
    pub(super) fn search(&mut self) {
        self.searched = Instant::now();
        let pids = &self.pids;
        let members = pids.iter().filter_map(|pid| proc_file::member(&self.roots.proc, *pid).ok());
        let paths: BTreeSet<String> = members.map(|member| member.path).collect();
        self.watched.retain(|path, _| paths.contains(path));
        for path in paths {
            if self.watched.len() < CGROUPS_MAX
                && !self.watched.contains_key(&path)
                && let Some(last) = throttle(&self.roots, &path)
            {
                self.watched.insert(path, Watched { last, said: None });
            }
        }
    }

    pub(super) fn look(&mut self) {
        self.looked = Instant::now();
        if self.watched.is_empty() || self.searched.elapsed() >= SEARCH {
            self.search();
        }
        let mut gone = Vec::new();
        for (path, watched) in &mut self.watched {
            let Some(now) = throttle(&self.roots, path) else {
                gone.push(path.clone());
                continue;
            };
            let last = std::mem::replace(&mut watched.last, now);
            let periods = now.periods.saturating_sub(last.periods);
            let throttled = now.throttled.saturating_sub(last.throttled);
            let rests = watched.said.is_some_and(|said| said.elapsed() < SAY);
            if periods == 0 || throttled * 100 < periods * THROTTLED_PERCENT || rests {
                continue;
            }
            watched.said = Some(self.looked);
            self.observer.observe(Kind::CpuThrottled(v1::CpuThrottled {
                cgroup: path.clone(),
                unit: of_path(path).unit,
                periods,
                throttled,
                throttled_us: now.throttled_us.saturating_sub(last.throttled_us),
                quota_us: now.quota_us,
            }));
        }
        for path in gone {
            self.watched.remove(&path);
        }
    }
}
