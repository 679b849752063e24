//! The facts of one host that explanations are made from: what holds now, and the last of each sort.
//!
//! Bounded by sort, so that a flood of one kind, or of failures of one endpoint, does not push out what explains
//! another. What an incident rests on is pinned as long as the incident is looked at.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem::Discriminant;

use why502_explain::Seen;
use why502_proto::{Entity, FactId, Kind};

use crate::store::{Committed, Store, StoreError, TimelineQuery};

/// How far back facts are used.
const SPAN_US: i64 = 24 * 3600 * 1_000_000;
/// Facts of one sort: an outage is told by the first and the last of them.
const PER_SORT_MAX: usize = 64;
/// Sorts with a subject of their own; beyond it the kind alone is the sort.
const SORTS_MAX: usize = 2048;
/// Facts read from the store to fill a window: some 50 ms.
const LOAD_MAX: u32 = 20_000;
/// What is read around what is closed or failed at present, however long ago that was.
const BEFORE_US: i64 = 10_000_000;
const AFTER_US: i64 = 2_000_000;
const AROUND_MAX: u32 = 200;
/// Current failures whose surroundings are read.
const FAILURES_MAX: usize = 32;

type Sort = (Discriminant<Kind>, String);

/// One host's facts.
#[derive(Clone, Debug, Default)]
pub struct Window {
    boot: String,
    newest_us: i64,
    current: BTreeMap<String, Seen>,
    recent: HashMap<Sort, VecDeque<Seen>>,
    pinned: BTreeMap<FactId, Seen>,
}

impl Window {
    /// Fills one from the store, as far as it was at `until_us`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn load(store: &Store, host: &str, until_us: i64) -> Result<Self, StoreError> {
        let mut window = Self::default();
        let mut current = store.current(host).await?;
        current.retain(|seen| seen.at_us <= until_us);
        let of = |since_us, until_us, limit| TimelineQuery {
            host: Some(host.to_owned()),
            since_us,
            until_us,
            limit,
        };
        let mut facts = Vec::new();
        let failures = current.iter().rev().filter(|seen| is_failure(&seen.kind));
        for failure in failures.take(FAILURES_MAX) {
            let until = failure.at_us.saturating_add(AFTER_US).min(until_us);
            let query = of(failure.at_us.saturating_sub(BEFORE_US), until, AROUND_MAX);
            facts.extend(store.facts(query).await?);
        }
        facts.extend(current);
        let since_us = until_us.saturating_sub(SPAN_US);
        facts.extend(store.facts(of(since_us, until_us, LOAD_MAX)).await?);
        facts.sort_by(|a, b| (a.at_us, &a.id).cmp(&(b.at_us, &b.id)));
        facts.dedup_by(|a, b| a.id == b.id);
        for seen in facts {
            let entity = Entity::of(&seen.kind);
            window.push(seen, entity.as_ref());
        }
        Ok(window)
    }

    /// Takes in what was stored.
    pub fn commit(&mut self, committed: &Committed) {
        for (seen, entity) in &committed.facts {
            self.push(seen.clone(), entity.as_ref());
        }
    }

    /// Keeps facts that an incident rests on.
    pub fn pin(&mut self, facts: impl IntoIterator<Item = Seen>) {
        self.pinned.extend(facts.into_iter().map(|seen| (seen.id.clone(), seen)));
    }

    /// Lets go of what is pinned and not among `kept`.
    pub fn unpin(&mut self, kept: impl Fn(&FactId) -> bool) {
        self.pinned.retain(|id, _| kept(id));
    }

    /// A fact by name.
    pub fn get(&self, id: &FactId) -> Option<&Seen> {
        self.facts_ref().find(|seen| seen.id == *id)
    }

    /// Everything in it, some of it twice.
    pub fn facts(&self) -> Vec<Seen> {
        let since_us = self.newest_us.saturating_sub(SPAN_US);
        let recent = self.recent.values().flatten().filter(|seen| seen.at_us >= since_us);
        self.current.values().chain(self.pinned.values()).chain(recent).cloned().collect()
    }

    fn facts_ref(&self) -> impl Iterator<Item = &Seen> {
        self.current.values().chain(self.pinned.values()).chain(self.recent.values().flatten())
    }

    fn push(&mut self, seen: Seen, entity: Option<&Entity>) {
        if seen.id.boot != self.boot {
            if seen.at_us < self.newest_us {
                // An earlier boot's states say nothing of now; its moments do.
                if entity.is_none() {
                    self.remember(seen, "");
                }
                return;
            }
            self.begin_boot(&seen.id.boot);
        }
        self.newest_us = self.newest_us.max(seen.at_us);
        match entity {
            Some(entity) if entity.ends => drop(self.current.remove(&entity.name)),
            Some(entity) => drop(self.current.insert(entity.name.clone(), seen.clone())),
            None => {}
        }
        let subject = subject(&seen.kind).to_owned();
        self.remember(seen, &subject);
    }

    /// The host was booted anew: nothing that held before holds now.
    fn begin_boot(&mut self, boot: &str) {
        self.boot = boot.to_owned();
        self.current.clear();
        let moments = |facts: &mut VecDeque<Seen>| {
            facts.retain(|seen| Entity::of(&seen.kind).is_none());
        };
        self.recent.values_mut().for_each(moments);
    }

    fn remember(&mut self, seen: Seen, subject: &str) {
        let kind = std::mem::discriminant(&seen.kind);
        let mut sort = (kind, subject.to_owned());
        if self.recent.len() >= SORTS_MAX && !self.recent.contains_key(&sort) {
            sort = (kind, String::new());
        }
        let facts = self.recent.entry(sort).or_default();
        if facts.len() >= PER_SORT_MAX {
            facts.pop_front();
        }
        facts.push_back(seen);
    }
}

/// What a flood of this kind could be about.
fn subject(kind: &Kind) -> &str {
    match kind {
        Kind::RequestFailed(failed) => &failed.endpoint,
        Kind::RequestCounts(counts) => &counts.route,
        Kind::EndpointDisabled(disabled) => &disabled.endpoint,
        Kind::EndpointDeclared(declared) => &declared.endpoint,
        Kind::ProcessStarted(process) => &process.unit,
        Kind::ProcessExited(process) => &process.unit,
        Kind::ProcessStalled(process) => &process.unit,
        Kind::UnitState(unit) => &unit.unit,
        Kind::UnitJob(unit) => &unit.unit,
        Kind::UnitRestartScheduled(unit) => &unit.unit,
        Kind::UnitProcessExit(unit) => &unit.unit,
        Kind::UnitLastWords(unit) => &unit.unit,
        Kind::OomKill(kill) => &kill.unit,
        Kind::MemoryLimitReached(limit) => &limit.unit,
        Kind::ListenerOpened(listener) => &listener.address,
        Kind::ListenerClosed(listener) => &listener.address,
        Kind::AcceptQueue(queue) => &queue.address,
        Kind::AppServerEvent(event) => &event.unit,
        Kind::AgentSilent(silent) => &silent.host,
        _ => "",
    }
}

/// States whose reasons are still asked for, however long they last.
fn is_failure(kind: &Kind) -> bool {
    match kind {
        Kind::ListenerClosed(_) | Kind::ProcessStalled(_) => true,
        Kind::UnitState(unit) => unit.active == "failed" || unit.active == "inactive",
        Kind::UnixSocketPath(path) => path.state() != why502_proto::v1::UnixPathState::Alive,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::tests::committed_in;

    fn window(lines: &str) -> Window {
        let mut window = Window::default();
        for (seq, line) in lines.lines().map(str::trim).filter(|l| !l.is_empty()).enumerate() {
            let (boot, line) = line.split_once(' ').unwrap();
            window.commit(&committed_in(boot, seq as u64 + 1, 0, line.parse().unwrap()));
        }
        window
    }

    fn names(window: &Window) -> Vec<u64> {
        let mut seqs: Vec<_> = window.facts().iter().map(|seen| seen.id.seq).collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }

    #[test]
    fn a_flood_on_one_endpoint_leaves_the_other_alone() {
        let mut lines = "b1 T+0.000 gw request_failed endpoint=a:1 count=1\n".to_owned();
        for _ in 0..1000 {
            lines.push_str("b1 T+1.000 gw request_failed endpoint=b:1 count=1\n");
        }
        let window = window(&lines);
        assert_eq!(window.facts().len(), PER_SORT_MAX + 1);
        assert_eq!(names(&window)[0], 1);
    }

    #[test]
    fn a_state_is_kept_however_many_follow() {
        let mut lines = "b1 T+0.000 app listener_opened address=a:1 pid=7\n".to_owned();
        for n in 0..200 {
            lines.push_str(&format!("b1 T+1.000 app agent_silent host=h{n}\n"));
        }
        assert_eq!(names(&window(&lines)).len(), 201);
    }

    #[test]
    fn a_boot_ends_the_states_of_the_last_one_but_not_its_moments() {
        let window = window(
            "b1 T+0.000 app listener_opened address=a:1 pid=7
             b1 T+1.000 app oom_kill unit=api.service pid=7
             b2 T+9.000 app agent_started version=1
             b1 T+2.000 app listener_opened address=b:1 pid=8",
        );
        assert_eq!(names(&window), [2, 3]);
    }
}
