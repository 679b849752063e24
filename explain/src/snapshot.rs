//! What is known at one moment: the facts of all hosts that matter, in one order of time.
//!
//! A snapshot answers two kinds of question: what was so at a moment, and who could have seen it. The second is
//! never guessed: a source that did not say that it saw, did not see.

use std::collections::BTreeMap;
use std::net::IpAddr;

use why502_proto::v1::{Source, SourceBlinded};
use why502_proto::{Entity, FactId, Kind};

use crate::address::Address;

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

impl Seen {
    /// The host that observed it.
    pub fn host(&self) -> &str {
        &self.id.host
    }
}

/// Whether a source could see at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sight<'a> {
    /// It saw everything it is for.
    Seeing(&'a Seen),
    /// It did not, since that fact.
    Blind(&'a Seen),
    /// The host has an agent, and it said nothing of this source yet.
    Unknown,
    /// Nothing was ever heard from the host.
    NoAgent,
}

/// The facts to explain from. Owns them; verdicts borrow from it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    facts: Vec<Seen>,
    now_us: i64,
    by_host: BTreeMap<String, Vec<usize>>,
    /// Facts about each entity of each host, in order.
    by_entity: BTreeMap<(String, String), Vec<usize>>,
}

impl Snapshot {
    /// Takes facts in any order; a fact that is there twice counts once. `now_us` is the moment that the snapshot
    /// describes, microseconds since 1970 by the collector's clock; facts after it are left out.
    pub fn new(mut facts: Vec<Seen>, now_us: i64) -> Self {
        facts.retain(|fact| fact.at_us <= now_us);
        facts.sort_by(|a, b| (a.at_us, &a.id).cmp(&(b.at_us, &b.id)));
        facts.dedup_by(|a, b| a.id == b.id);
        let mut by_host: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut by_entity: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for (index, fact) in facts.iter().enumerate() {
            by_host.entry(fact.id.host.clone()).or_default().push(index);
            if let Some(entity) = Entity::of(&fact.kind) {
                by_entity.entry((fact.id.host.clone(), entity.name)).or_default().push(index);
            }
        }
        Self { facts, now_us, by_host, by_entity }
    }

    /// All facts, in order of time.
    pub fn facts(&self) -> &[Seen] {
        &self.facts
    }

    /// The moment that it describes.
    pub fn now_us(&self) -> i64 {
        self.now_us
    }

    /// Hosts that any fact is of.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.by_host.keys().map(String::as_str)
    }

    /// Facts of one host, in order of time.
    pub fn of_host<'a>(
        &'a self,
        host: &str,
    ) -> impl DoubleEndedIterator<Item = &'a Seen> + use<'a> {
        let indexes: &[usize] = self.by_host.get(host).map_or(&[], Vec::as_slice);
        indexes.iter().map(|index| &self.facts[*index])
    }

    /// Facts of one host from `from_us` to `to_us`, both included.
    pub fn between<'a>(
        &'a self,
        host: &str,
        from_us: i64,
        to_us: i64,
    ) -> impl DoubleEndedIterator<Item = &'a Seen> + use<'a> {
        let indexes: &[usize] = self.by_host.get(host).map_or(&[], Vec::as_slice);
        let first = indexes.partition_point(|index| self.facts[*index].at_us < from_us);
        let last = indexes.partition_point(|index| self.facts[*index].at_us <= to_us);
        indexes[first..last.max(first)].iter().map(|index| &self.facts[*index])
    }

    /// The fact that held for every entity of a host whose name begins with `about`, at `at_us`: the last one until
    /// then. Entities that had ended are left out.
    pub fn states<'a>(
        &'a self,
        host: &str,
        about: &str,
        at_us: i64,
    ) -> impl Iterator<Item = &'a Seen> + use<'a> {
        let from = (host.to_owned(), format!("{about} "));
        let to = (host.to_owned(), format!("{about}!"));
        self.by_entity.range(from..to).filter_map(move |(_, indexes)| {
            let until = indexes.partition_point(|index| self.facts[*index].at_us <= at_us);
            let fact = &self.facts[*indexes.get(until.checked_sub(1)?)?];
            let ended = Entity::of(&fact.kind).is_some_and(|entity| entity.ends);
            (!ended).then_some(fact)
        })
    }

    /// The host that owns an address, as `from` would reach it: loopback and unix sockets are its own.
    pub fn owner<'a>(&'a self, from: &'a str, address: &Address) -> Option<&'a str> {
        let ip = match address {
            Address::Unix(_) => return Some(from),
            Address::Tcp(ip, _) if ip.is_loopback() || ip.is_unspecified() => return Some(from),
            Address::Tcp(ip, _) => *ip,
        };
        // The gateway's own address first: an address may stand on several hosts by mistake.
        std::iter::once(from)
            .chain(self.hosts())
            .find(|host| self.addresses(host).any(|(own, _)| own == ip))
    }

    /// Addresses of a host, now.
    pub fn addresses<'a>(
        &'a self,
        host: &str,
    ) -> impl Iterator<Item = (IpAddr, &'a Seen)> + use<'a> {
        self.states(host, "host_address", self.now_us).filter_map(|fact| match &fact.kind {
            Kind::HostAddress(address) => Some((address.address.parse().ok()?, fact)),
            _ => None,
        })
    }

    /// Whether `source` of `host` could see at `at_us`.
    pub fn sight<'a>(&'a self, host: &str, source: Source, at_us: i64) -> Sight<'a> {
        if !self.by_host.contains_key(host) {
            return Sight::NoAgent;
        }
        if let Some(silent) = self.agent_silent(host, at_us) {
            return Sight::Blind(silent);
        }
        let mut sight = Sight::Unknown;
        let mut blind_before = None;
        for fact in self.of_host(host) {
            match &fact.kind {
                // A new run of the agent sees again only when it says so.
                Kind::AgentStarted(_) if fact.at_us <= at_us => sight = Sight::Unknown,
                Kind::SourceSeeing(seeing)
                    if seeing.source() == source
                        && seeing.scope.is_empty()
                        && fact.at_us <= at_us =>
                {
                    sight = Sight::Seeing(fact);
                }
                Kind::SourceBlinded(blinded)
                    if blinded.source() == source && blinded.scope.is_empty() =>
                {
                    if fact.at_us <= at_us {
                        sight = Sight::Blind(fact);
                    } else if blind_since(fact, blinded) <= at_us {
                        blind_before = Some(fact);
                    }
                }
                _ => {}
            }
        }
        blind_before.map_or(sight, Sight::Blind)
    }

    fn agent_silent(&self, host: &str, at_us: i64) -> Option<&Seen> {
        let last = self.facts.iter().rfind(|fact| {
            matches!(&fact.kind, Kind::AgentSilent(silent) if silent.host == host)
                && fact.at_us <= at_us
        })?;
        matches!(&last.kind, Kind::AgentSilent(silent) if !silent.ended).then_some(last)
    }
}

/// When the source went blind, on the collector's clock.
fn blind_since(fact: &Seen, blinded: &SourceBlinded) -> i64 {
    let Some(since) = blinded.since_us else { return fact.at_us };
    let ago = fact.boottime_us.saturating_sub(since);
    fact.at_us.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
}
