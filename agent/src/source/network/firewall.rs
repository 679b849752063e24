//! Which rules stand between gateways and listeners: what was told of them, and what changed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use why502_proto::{Kind, v1};

use super::expression::Reject;
use super::ranges::{Ip, Ranges, number};
use super::ruleset::{INET, IP, IP6, Name, Ruleset};
use super::walk::{Block, Packet, blocks, packets};
use super::words::rule_text;

/// Facts that may stand at a time: a host with more has its rules told in part, and says so.
pub(super) const BLOCKS_MAX: usize = 512;

/// Where connections go, and how they get there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) address: SocketAddr,
    /// Index and name.
    pub(super) interface: (u32, String),
    /// For those that leave: the address that this host sends from.
    pub(super) from: Option<IpAddr>,
    pub(super) incoming: bool,
}

/// What names a block: see the keys of `FirewallBlock`.
type Key = (String, i32, Name, u64);

/// The blocks that were told.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    said: BTreeMap<Key, v1::FirewallBlock>,
    /// More than are told.
    pub(super) full: bool,
}

impl Firewall {
    /// Nothing was told, so nothing can have changed.
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// Some rule has a counter that may move.
    pub(super) fn counts(&self) -> bool {
        self.said.values().any(|block| block.packets.is_some())
    }

    /// Follows the rules for every address, and gives what is new, has changed or is gone.
    pub(super) fn look(
        &mut self,
        ruleset: &Ruleset,
        wanted: &[Wanted],
        existing: bool,
    ) -> Vec<Kind> {
        let mut now: BTreeMap<Key, v1::FirewallBlock> = BTreeMap::new();
        self.full = false;
        for wanted in wanted {
            let packet = packet(wanted);
            for block in blocks(ruleset, &packet) {
                if now.len() >= BLOCKS_MAX {
                    self.full = true;
                    break;
                }
                let (key, mut fact) = fact(ruleset, wanted, packet.ip, &block);
                if let Some(known) = now.get_mut(&key) {
                    // One rule that decides about some for sure and about others perhaps.
                    known.unsure |= fact.unsure;
                    known.sources.append(&mut fact.sources);
                    continue;
                }
                fact.existing = self.said.get(&key).map_or(existing, |said| said.existing);
                now.insert(key, fact);
            }
        }
        let gone = self.said.iter().filter(|(key, _)| !now.contains_key(key));
        let mut facts: Vec<Kind> = gone.map(|(_, block)| end(block)).collect();
        let new = now.iter().filter(|(key, block)| self.said.get(key) != Some(block));
        facts.extend(new.map(|(_, block)| Kind::FirewallBlock(block.clone())));
        self.said = now;
        facts
    }
}

fn packet(wanted: &Wanted) -> Packet {
    let ip = Ip::of(wanted.address.ip());
    let destination = match wanted.address.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let one = |from: IpAddr| Ranges::range(number(from), number(from));
    Packet {
        ip,
        destination,
        port: wanted.address.port(),
        interface: wanted.interface.clone(),
        incoming: wanted.incoming,
        sources: wanted.from.map_or_else(|| Ranges::all(ip), one),
    }
}

fn fact(ruleset: &Ruleset, wanted: &Wanted, ip: Ip, block: &Block<'_>) -> (Key, v1::FirewallBlock) {
    let direction =
        if wanted.incoming { v1::FirewallDirection::In } else { v1::FirewallDirection::Out };
    let action = match block.reject {
        None => v1::FirewallAction::Drop,
        Some(Reject::Refused) => v1::FirewallAction::Refuse,
        Some(Reject::Unreachable) => v1::FirewallAction::Unreachable,
    };
    let fact = v1::FirewallBlock {
        address: wanted.address.to_string(),
        direction: direction.into(),
        family: family(block.chain.0).to_owned(),
        table: block.chain.1.clone(),
        chain: block.chain.2.clone(),
        handle: block.rule.map_or(0, |rule| rule.handle),
        action: action.into(),
        sources: block.sources.texts(ip),
        rule: block
            .rule
            .map_or_else(|| "policy drop".to_owned(), |rule| rule_text(ruleset, block.chain, rule)),
        comment: block.rule.map(comment).unwrap_or_default(),
        packets: block.rule.and_then(packets),
        unsure: block.unsure,
        existing: false,
    };
    ((fact.address.clone(), fact.direction, block.chain.clone(), fact.handle), fact)
}

fn comment(rule: &super::ruleset::Rule) -> String {
    let matched = rule.expressions.iter().find_map(|expression| match expression {
        super::expression::Expression::Matches(super::compat::Match::Comment(text)) => {
            Some(text.clone())
        }
        _ => None,
    });
    let text = matched.unwrap_or_else(|| rule.comment.clone());
    why502_gateway::redact::line(&text)
}

fn family(number: u8) -> &'static str {
    match number {
        IP => "ip",
        IP6 => "ip6",
        INET => "inet",
        _ => "netdev",
    }
}

fn end(block: &v1::FirewallBlock) -> Kind {
    Kind::FirewallBlockGone(v1::FirewallBlockGone {
        address: block.address.clone(),
        direction: block.direction,
        family: block.family.clone(),
        table: block.table.clone(),
        chain: block.chain.clone(),
        handle: block.handle,
    })
}
