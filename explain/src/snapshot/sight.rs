//! Who could see what when. Only what a seeing source did not say is proof of absence.

use why502_proto::v1::{self, Source};

use super::{Seen, Snapshot, kinds::Tag};

/// What a source could see at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sight<'a> {
    /// It saw everything it is for, since this fact.
    Seeing(&'a Seen),
    /// It did not, says this fact.
    Blind(&'a Seen),
    /// The host has an agent, and it said nothing of this source yet.
    Unknown,
    /// Nobody looks at this host.
    NoAgent,
}

/// Sources of one run may speak this long before the agent says that it has started.
const STARTING_US: i64 = 2_000_000;

impl<'a> Sight<'a> {
    pub(crate) fn seeing(self) -> Option<&'a Seen> {
        if let Self::Seeing(fact) = self { Some(fact) } else { None }
    }
}

impl Snapshot {
    /// Some agent has spoken for this host.
    pub(crate) fn has_agent(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|index| index.agent)
    }

    /// Could the source as a whole see at `at_us`?
    pub fn sight<'a>(&'a self, host: &str, source: Source, at_us: i64) -> Sight<'a> {
        self.sight_of(host, source, "", at_us)
    }

    /// Could this part of the source see at `at_us`? A part that never spoke for itself is as good as the whole.
    pub(crate) fn part_sight<'a>(
        &'a self,
        host: &str,
        source: Source,
        scope: &str,
        at_us: i64,
    ) -> Sight<'a> {
        let whole = self.sight(host, source, at_us);
        let part = self.sight_of(host, source, scope, at_us);
        match (whole, part) {
            (Sight::Seeing(_), Sight::Unknown) => whole,
            (Sight::Seeing(_), part) => part,
            (whole, _) => whole,
        }
    }

    fn sight_of<'a>(&'a self, host: &str, source: Source, scope: &str, at_us: i64) -> Sight<'a> {
        if !self.has_agent(host) {
            return Sight::NoAgent;
        }
        if let Some(silent) = self.silence(host, at_us) {
            return Sight::Blind(silent);
        }
        if let Some(drop) = self.dropped(host, at_us) {
            return Sight::Blind(drop);
        }
        let Some(index) = self.hosts.get(host) else { return Sight::NoAgent };
        let tags = [Tag::AgentStarted, Tag::AgentStopped, Tag::SourceSeeing, Tag::SourceBlinded];
        let mut sight = Sight::Unknown;
        for at in index.merged(&self.facts, &tags) {
            let fact = &self.facts[at];
            let reached = fact.at_us <= at_us;
            match &fact.kind {
                // A new run sees again only when it says so; sources may be a little faster than the agent's own word.
                why502_proto::Kind::AgentStarted(_) if reached => {
                    let own = matches!(sight, Sight::Seeing(seeing) | Sight::Blind(seeing)
                        if fact.at_us.saturating_sub(seeing.at_us) <= STARTING_US);
                    if !own {
                        sight = Sight::Unknown;
                    }
                }
                why502_proto::Kind::AgentStopped(_) if reached => {
                    sight = Sight::Blind(fact);
                }
                why502_proto::Kind::SourceSeeing(seeing)
                    if reached && seeing.source == i32::from(source) && seeing.scope == scope =>
                {
                    sight = Sight::Seeing(fact);
                }
                why502_proto::Kind::SourceBlinded(blinded)
                    if blinded.source == i32::from(source)
                        && blinded.scope == scope
                        && blind_since(fact, blinded) <= at_us =>
                {
                    sight = Sight::Blind(fact);
                }
                _ => {}
            }
        }
        sight
    }

    /// The agent fell silent before `at_us` and has not spoken since. What it saw meanwhile comes once it is back, so a
    /// silence that is over hides nothing.
    fn silence(&self, host: &str, at_us: i64) -> Option<&Seen> {
        let last = self.on::<v1::AgentSilent>(host).next_back()?;
        (!last.what.ended && last.at_us() <= at_us).then_some(last.seen)
    }

    /// Facts of that moment were lost on their way.
    fn dropped(&self, host: &str, at_us: i64) -> Option<&Seen> {
        self.on::<v1::FactsDropped>(host).find_map(|drop| {
            let before = self
                .facts
                .iter()
                .rfind(|fact| {
                    fact.id.host == drop.seen.id.host
                        && fact.id.boot == drop.seen.id.boot
                        && fact.id.seq < drop.what.first_seq
                })
                .map_or(i64::MIN, |fact| fact.at_us);
            (before <= at_us && at_us <= drop.at_us()).then_some(drop.seen)
        })
    }
}

/// When the blindness began, by the collector's clock.
pub(crate) fn blind_since(fact: &Seen, blinded: &v1::SourceBlinded) -> i64 {
    let Some(since_us) = blinded.since_us else { return fact.at_us };
    let before = i64::try_from(fact.boottime_us.saturating_sub(since_us)).unwrap_or(i64::MAX);
    fact.at_us.saturating_sub(before)
}
