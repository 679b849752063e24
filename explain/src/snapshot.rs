//! What is known at one moment: the facts of all hosts that matter, in one order of time.
//!
//! Within a host and boot the order is that of the boot clock; across hosts times compare by the collector's clock,
//! within the tolerance that each fact carries. Everything that rules ask for is indexed once, in [`Snapshot::new`].

mod barriers;
mod kinds;
mod listeners;
mod places;
mod processes;
mod sight;
mod units;

use std::collections::BTreeMap;

use why502_proto::{Entity, FactId, Kind};

pub(crate) use barriers::Barrier;
pub(crate) use kinds::{FactKind, Said};
pub(crate) use listeners::{Listener, Listening};
pub(crate) use places::{Located, Place};
pub(crate) use processes::{Death, SIGABRT, SIGKILL, SIGTERM, signal_name};
pub use sight::Sight;
pub(crate) use sight::blind_since;
pub(crate) use units::{Planned, Run};

/// A fact, where and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its name; the host is in it.
    pub id: FactId,
    /// When it happened, microseconds since 1970, by the collector's clock.
    pub at_us: i64,
    /// How far off `at_us` may be when compared with another host.
    pub tolerance_us: u64,
    /// Microseconds since the boot of its host: the order within one host and boot.
    pub boottime_us: u64,
    /// What happened.
    pub kind: Kind,
}

/// The facts to explain from. Owns them; verdicts borrow from it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    facts: Vec<Seen>,
    now_us: i64,
    hosts: BTreeMap<String, HostIndex>,
}

/// What one host said, by kind, each list in the host's own order.
#[derive(Clone, Debug, Default)]
struct HostIndex {
    by_kind: BTreeMap<kinds::Tag, Vec<usize>>,
    /// An agent spoke for it; not only the collector.
    agent: bool,
    listeners: Vec<Listener>,
    deaths: Vec<Death>,
}

/// A stretch of time on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from_us: i64,
    /// The moment itself, as near as is known.
    pub(crate) at_us: i64,
    pub(crate) to_us: i64,
}

impl Snapshot {
    /// Takes facts in any order; a fact that is there twice counts once. `now_us` is the moment that the snapshot
    /// describes, microseconds since 1970 by the collector's clock; facts after it are left out.
    pub fn new(mut facts: Vec<Seen>, now_us: i64) -> Self {
        facts.retain(|fact| fact.at_us <= now_us);
        facts.sort_by(|a, b| (a.at_us, &a.id).cmp(&(b.at_us, &b.id)));
        facts.dedup_by(|a, b| a.id == b.id);
        let hosts = index(&facts);
        let mut snapshot = Self { facts, now_us, hosts };
        let names: Vec<String> = snapshot.hosts.keys().cloned().collect();
        for host in &names {
            let listeners = listeners::collect(&snapshot, host);
            let deaths = processes::collect(&snapshot, host);
            if let Some(index) = snapshot.hosts.get_mut(host) {
                index.listeners = listeners;
                index.deaths = deaths;
            }
        }
        snapshot
    }

    /// All facts, in order of time.
    pub fn facts(&self) -> &[Seen] {
        &self.facts
    }

    /// The moment that it describes.
    pub fn now_us(&self) -> i64 {
        self.now_us
    }

    /// Names of all hosts that anything is known of.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// The fact that held at `at_us` for every entity of a host whose name begins with `about`. Entities that had ended
    /// are left out. Slow: rules ask for kinds instead.
    pub fn states<'a>(
        &'a self,
        host: &str,
        about: &str,
        at_us: i64,
    ) -> impl Iterator<Item = &'a Seen> + use<'a> {
        let mut held: BTreeMap<String, &'a Seen> = BTreeMap::new();
        let mut all: Vec<&'a Seen> =
            self.facts.iter().filter(|fact| host_of(fact) == host && fact.at_us <= at_us).collect();
        let boots = boots_of(&self.facts);
        all.sort_by_key(|fact| {
            let boot = boots.get(&(host_of(fact), fact.id.boot.as_str())).copied();
            (boot, &fact.id.boot, fact.boottime_us, fact.id.seq)
        });
        for fact in all {
            let Some(entity) = Entity::of(&fact.kind) else { continue };
            if entity.name.split(' ').next() != Some(about) {
                continue;
            }
            if entity.ends {
                held.remove(&entity.name);
            } else {
                held.insert(entity.name, fact);
            }
        }
        held.into_values()
    }

    /// The snapshot's own copy of a host's name.
    pub(crate) fn host_name(&self, host: &str) -> Option<&str> {
        self.hosts.get_key_value(host).map(|(name, _)| name.as_str())
    }

    /// Facts of one kind on `host`, in the host's own order.
    pub(crate) fn on<'a, T: FactKind>(
        &'a self,
        host: &str,
    ) -> impl DoubleEndedIterator<Item = Said<'a, T>> + use<'a, T> {
        let list: &[usize] = self
            .hosts
            .get(host)
            .and_then(|index| index.by_kind.get(&T::TAG))
            .map_or(&[], Vec::as_slice);
        list.iter().filter_map(|&at| {
            let seen = self.facts.get(at)?;
            T::of(&seen.kind).map(|what| Said { seen, what })
        })
    }

    pub(crate) fn fact(&self, at: usize) -> Option<&Seen> {
        self.facts.get(at)
    }

    /// All sockets that listened on `host`, in order of their opening.
    pub(crate) fn listeners(&self, host: &str) -> &[Listener] {
        self.hosts.get(host).map_or(&[], |index| index.listeners.as_slice())
    }

    /// All processes that ended on `host`, in the host's own order.
    pub(crate) fn deaths(&self, host: &str) -> &[Death] {
        self.hosts.get(host).map_or(&[], |index| index.deaths.as_slice())
    }
}

/// Host of a fact: the collector speaks of others.
fn host_of(fact: &Seen) -> &str {
    match &fact.kind {
        Kind::AgentSilent(silent) if !silent.host.is_empty() => &silent.host,
        _ => &fact.id.host,
    }
}

/// When each boot of each host was first heard of.
fn boots_of(facts: &[Seen]) -> BTreeMap<(&str, &str), i64> {
    let mut boots: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for fact in facts {
        let first = boots.entry((host_of(fact), &fact.id.boot)).or_insert(fact.at_us);
        *first = (*first).min(fact.at_us);
    }
    boots
}

fn index(facts: &[Seen]) -> BTreeMap<String, HostIndex> {
    let mut hosts: BTreeMap<String, HostIndex> = BTreeMap::new();
    let boots = boots_of(facts);
    for (at, fact) in facts.iter().enumerate() {
        let host = host_of(fact);
        if !hosts.contains_key(host) {
            hosts.insert(host.to_owned(), HostIndex::default());
        }
        let Some(index) = hosts.get_mut(host) else { continue };
        index.agent |= !matches!(fact.kind, Kind::AgentSilent(_));
        index.by_kind.entry(kinds::tag(&fact.kind)).or_default().push(at);
    }
    for (host, index) in &mut hosts {
        for list in index.by_kind.values_mut() {
            list.sort_by_key(|&at| {
                let fact = &facts[at];
                let boot = boots.get(&(host.as_str(), fact.id.boot.as_str())).copied();
                (boot, &fact.id.boot, fact.boottime_us, fact.id.seq)
            });
        }
    }
    hosts
}

impl HostIndex {
    /// Positions of facts of two kinds, merged in the host's own order.
    fn merged(&self, facts: &[Seen], tags: &[kinds::Tag]) -> Vec<usize> {
        let mut all: Vec<usize> =
            tags.iter().filter_map(|tag| self.by_kind.get(tag)).flatten().copied().collect();
        let mut boots: BTreeMap<&str, i64> = BTreeMap::new();
        for &at in &all {
            let first = boots.entry(&facts[at].id.boot).or_insert(facts[at].at_us);
            *first = (*first).min(facts[at].at_us);
        }
        all.sort_by_key(|&at| {
            let fact = &facts[at];
            let boot = boots.get(fact.id.boot.as_str()).copied();
            (boot, &fact.id.boot, fact.boottime_us, fact.id.seq)
        });
        all
    }
}
