//! Firewall rules that decide against connections, each from its coming to its end.

use std::collections::BTreeMap;
use std::net::IpAddr;

use why502_proto::Kind;
use why502_proto::v1::{FirewallBlock, FirewallDirection, Source};

use super::{Said, Snapshot, kinds::Tag};
use crate::address::Address;

/// One rule, for one address, over one stretch of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier<'a> {
    /// As it was said last.
    pub(crate) said: Said<'a, FirewallBlock>,
    /// As it was said first in this stretch.
    pub(crate) first: Said<'a, FirewallBlock>,
    /// `i64::MIN`: it was there when the agent began to look.
    pub(crate) from_us: i64,
    pub(crate) to_us: i64,
    confirmed: bool,
}

impl Barrier<'_> {
    /// Its counter has moved since it was seen first.
    pub(crate) fn counted(&self) -> Option<u64> {
        let moved = self.said.what.packets?.saturating_sub(self.first.what.packets?);
        (moved > 0).then_some(moved)
    }

    /// It stands between these two.
    pub(crate) fn is_between(
        &self,
        direction: FirewallDirection,
        address: Address<'_>,
        from: IpAddr,
    ) -> bool {
        let block = self.said.what;
        block.direction() == direction
            && Address::parse(&block.address) == Some(address)
            && (block.sources.is_empty() || block.sources.iter().any(|own| includes(own, from)))
    }

    /// "inet filter input handle 12"
    pub(crate) fn name(&self) -> String {
        let block = self.said.what;
        let handle = match block.handle {
            0 => String::new(),
            handle => format!(" handle {handle}"),
        };
        format!("{} {} {}{handle}", block.family, block.table, block.chain)
    }
}

/// Whether "10.0.0.0/8", "10.0.0.1" or "10.0.0.1-10.0.0.9" has this address in it.
fn includes(text: &str, address: IpAddr) -> bool {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    if let Some((first, last)) = text.split_once('-') {
        let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>()) else {
            return false;
        };
        let same = first.is_ipv4() == address.is_ipv4();
        return same && number(first) <= number(address) && number(address) <= number(last);
    }
    let (network, length) = text.split_once('/').map_or((text, None), |(n, l)| (n, Some(l)));
    let Ok(network) = network.parse::<IpAddr>() else { return false };
    let bits: u32 = if network.is_ipv4() { 32 } else { 128 };
    let length = length.and_then(|text| text.parse().ok()).unwrap_or(bits);
    let shift = |ip| number(ip).checked_shr(bits.saturating_sub(length)).unwrap_or(0);
    network.is_ipv4() == address.is_ipv4() && shift(network) == shift(address)
}

impl Snapshot {
    /// The rules of `host` that were in force at some moment of the stretch.
    pub(crate) fn barriers<'a>(&'a self, host: &str, from_us: i64, to_us: i64) -> Vec<Barrier<'a>> {
        let Some(index) = self.hosts.get(host) else { return Vec::new() };
        let tags =
            [Tag::FirewallBlock, Tag::FirewallBlockGone, Tag::AgentStarted, Tag::SourceSeeing];
        let mut over = Vec::new();
        let mut open: BTreeMap<Key<'a>, Barrier<'a>> = BTreeMap::new();
        for at in index.merged(&self.facts, &tags) {
            let fact = &self.facts[at];
            if fact.at_us > to_us {
                continue;
            }
            match &fact.kind {
                Kind::AgentStarted(_) => open.values_mut().for_each(|b| b.confirmed = false),
                Kind::SourceSeeing(seeing) if seeing.source() == Source::Network => {
                    // All that is there now has been said: what was not went while the agent was away.
                    let gone = open.iter().filter(|(_, barrier)| !barrier.confirmed);
                    let gone: Vec<Key<'a>> = gone.map(|(key, _)| *key).collect();
                    for key in gone {
                        over.extend(open.remove(&key).map(|b| Barrier { to_us: fact.at_us, ..b }));
                    }
                }
                Kind::FirewallBlock(block) => {
                    let said = Said { seen: fact, what: block };
                    let barrier = Barrier {
                        said,
                        first: said,
                        from_us: if block.existing { i64::MIN } else { fact.at_us },
                        to_us: i64::MAX,
                        confirmed: true,
                    };
                    let known = open.entry(key(block)).or_insert(barrier);
                    (known.said, known.confirmed) = (said, true);
                }
                Kind::FirewallBlockGone(gone) => {
                    let key = (
                        gone.address.as_str(),
                        gone.direction,
                        (gone.family.as_str(), gone.table.as_str(), gone.chain.as_str()),
                        gone.handle,
                    );
                    over.extend(open.remove(&key).map(|b| Barrier { to_us: fact.at_us, ..b }));
                }
                _ => {}
            }
        }
        over.extend(open.into_values());
        over.retain(|barrier| barrier.from_us <= to_us && barrier.to_us > from_us);
        over
    }

    /// The addresses that `gateway` may come from when it goes to `destination`: the one its route names, else all that
    /// it has.
    pub(crate) fn leaves_from(
        &self,
        gateway: &str,
        destination: IpAddr,
        at_us: i64,
    ) -> Vec<IpAddr> {
        use why502_proto::v1::{HostAddress, Route};
        let routed = self
            .on::<Route>(gateway)
            .rfind(|route| {
                route.at_us() <= at_us && route.what.destination.parse() == Ok(destination)
            })
            .and_then(|route| route.what.source.parse::<IpAddr>().ok());
        if let Some(source) = routed {
            return vec![source];
        }
        if destination.is_loopback() {
            return vec![destination];
        }
        let own = self.on::<HostAddress>(gateway).filter_map(|own| {
            let text = own.what.address.split('%').next()?;
            text.parse::<IpAddr>().ok()
        });
        own.filter(|ip| ip.is_ipv4() == destination.is_ipv4() && !ip.is_loopback()).collect()
    }
}

type Key<'a> = (&'a str, i32, (&'a str, &'a str, &'a str), u64);

fn key(block: &FirewallBlock) -> Key<'_> {
    let chain = (block.family.as_str(), block.table.as_str(), block.chain.as_str());
    (&block.address, block.direction, chain, block.handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_in_prefixes_and_ranges() {
        let check = |text: &str, ip: &str, expected: bool| {
            assert_eq!(includes(text, ip.parse().unwrap()), expected, "{text} {ip}");
        };
        check("10.0.0.0/8", "10.9.9.9", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.0.0.1", "10.0.0.1", true);
        check("10.0.0.1-10.0.0.9", "10.0.0.5", true);
        check("10.0.0.1-10.0.0.9", "10.0.0.10", false);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("::/0", "1.2.3.4", false);
        check("fd00::/8", "fd00::1", true);
    }
}
