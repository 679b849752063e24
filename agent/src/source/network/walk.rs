//! What the rules of a host do with the first packet of a TCP connection, followed as the kernel would.
//!
//! Everything about the packet is known but, for incoming ones, who sends it: rules then split the world into those
//! whose connections they take and the rest. What cannot be followed (a rate, a mark, chance) makes the sources that it
//! may have taken unsure, never decided.

use super::expression::{Expression, Reject, Verdict};
use super::ranges::{Ip, Ranges};
use super::ruleset::{Base, INET, IP, IP6, NETDEV, Name, Rule, Ruleset};
use super::take::{Taken, take};

/// `NF_INET_PRE_ROUTING` and so on.
pub(super) const PREROUTING: u32 = 0;
pub(super) const INPUT: u32 = 1;
pub(super) const OUTPUT: u32 = 3;
pub(super) const POSTROUTING: u32 = 4;
/// `NF_INET_INGRESS`
const INET_INGRESS: u32 = 5;
/// `NFT_JUMP_STACK_SIZE`
const DEPTH_MAX: u8 = 16;

/// The first packet of a connection.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) ip: Ip,
    /// In network order.
    pub(super) destination: Vec<u8>,
    pub(super) port: u16,
    /// Index and name of the interface by which it comes, or goes.
    pub(super) interface: (u32, String),
    pub(super) incoming: bool,
    /// Who may send it.
    pub(super) sources: Ranges,
}

/// A rule or policy that decides against some of the sources.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    pub(super) chain: &'a Name,
    /// `None`: the chain's policy.
    pub(super) rule: Option<&'a Rule>,
    /// `None`: it drops.
    pub(super) reject: Option<Reject>,
    pub(super) sources: Ranges,
    pub(super) unsure: bool,
}

/// Whom the rules so far left alone.
#[derive(Clone, Debug)]
struct Flow<'a> {
    /// Their packets come here.
    here: Ranges,
    /// Of those, whose may have been decided before.
    unsure: Ranges,
    blocks: Vec<Block<'a>>,
}

/// Every rule that decides against connections like `packet`, in the order in which they meet them.
pub(super) fn blocks<'a>(ruleset: &'a Ruleset, packet: &Packet) -> Vec<Block<'a>> {
    let mut flow =
        Flow { here: packet.sources.clone(), unsure: Ranges::default(), blocks: Vec::new() };
    let mut chains: Vec<(&Name, &Base, u32)> = ruleset
        .bases
        .iter()
        .filter_map(|(name, base)| Some((name, base, stage(name, base, packet)?)))
        .collect();
    chains.sort_by_key(|(name, base, stage)| (*stage, base.priority, *name));
    for (name, base, _) in chains {
        let walk = Walk { ruleset, packet };
        let before = flow.here.clone();
        let translated_before = flow.blocks.len();
        let (left, translated) = walk.chain(name, flow.here.clone(), &mut flow, 0);
        if base.drops {
            walk.block(name, None, None, &left, false, &mut flow);
        }
        // Whom this chain accepted, the next one asks again; whom it dropped or sent elsewhere, nobody.
        let mut gone = translated;
        for block in flow.blocks.iter().skip(translated_before).filter(|block| !block.unsure) {
            gone = gone.or(&block.sources);
        }
        flow.here = before.without(&gone);
    }
    flow.blocks
}

/// When a base chain sees the packet; `None`: never.
fn stage(name: &Name, base: &Base, packet: &Packet) -> Option<u32> {
    let family = name.0;
    let ip = match packet.ip {
        Ip::V4 => IP,
        Ip::V6 => IP6,
    };
    if family == NETDEV {
        let mine = base.device.as_ref() == Some(&packet.interface.1);
        return (packet.incoming && mine && base.hook == 0).then_some(0);
    }
    if family != ip && family != INET {
        return None;
    }
    match (packet.incoming, base.hook) {
        (true, INET_INGRESS) => (base.device.as_ref() == Some(&packet.interface.1)).then_some(0),
        (true, PREROUTING) | (false, OUTPUT) => Some(1),
        (true, INPUT) | (false, POSTROUTING) => Some(2),
        _ => None,
    }
}

struct Walk<'a, 'p> {
    ruleset: &'a Ruleset,
    packet: &'p Packet,
}

impl<'a> Walk<'a, '_> {
    /// Follows a chain for `here`. Returns whom no rule decided, and whose packets were sent elsewhere.
    fn chain(
        &self,
        name: &'a Name,
        mut here: Ranges,
        flow: &mut Flow<'a>,
        depth: u8,
    ) -> (Ranges, Ranges) {
        let (mut returned, mut translated) = (Ranges::default(), Ranges::default());
        let rules = self.ruleset.rules.get(name).map_or(&[][..], Vec::as_slice);
        for rule in rules {
            for taken in take(self.ruleset, name, rule, self.packet) {
                let Taken { sources, perhaps, verdict } = taken;
                let hit = here.and(&sources);
                if hit.is_empty() {
                    continue;
                }
                match verdict {
                    Verdict::Drop => self.block(name, Some(rule), None, &hit, perhaps, flow),
                    Verdict::Reject(how) => {
                        self.block(name, Some(rule), Some(how), &hit, perhaps, flow);
                    }
                    Verdict::Accept | Verdict::Return => {}
                    Verdict::Queue => flow.unsure = flow.unsure.or(&hit),
                    Verdict::Translate => translated = translated.or(&hit),
                    Verdict::Jump(ref to) | Verdict::Goto(ref to) => {
                        let to = (name.0, name.1.clone(), to.clone());
                        let known = self.ruleset.rules.get_key_value(&to);
                        let Some((to, _)) = known.filter(|_| depth < DEPTH_MAX) else { continue };
                        if perhaps {
                            flow.unsure = flow.unsure.or(&hit);
                        }
                        let (left, elsewhere) = self.chain(to, hit.clone(), flow, depth + 1);
                        translated = translated.or(&elsewhere);
                        if !perhaps {
                            here = here.without(&hit);
                        }
                        if matches!(verdict, Verdict::Goto(_)) {
                            returned = returned.or(&left);
                        } else {
                            here = here.or(&left);
                        }
                        continue;
                    }
                }
                if perhaps {
                    flow.unsure = flow.unsure.or(&hit);
                    continue;
                }
                here = here.without(&hit);
                if verdict == Verdict::Return {
                    returned = returned.or(&hit);
                }
            }
        }
        (here.or(&returned), translated)
    }

    fn block(
        &self,
        chain: &'a Name,
        rule: Option<&'a Rule>,
        reject: Option<Reject>,
        hit: &Ranges,
        perhaps: bool,
        flow: &mut Flow<'a>,
    ) {
        let sure = if perhaps { Ranges::default() } else { hit.without(&flow.unsure) };
        for (sources, unsure) in [(hit.without(&sure), true), (sure, false)] {
            if !sources.is_empty() {
                flow.blocks.push(Block { chain, rule, reject, sources, unsure });
            }
        }
    }
}

/// What the counter of a rule shows.
pub(super) fn packets(rule: &Rule) -> Option<u64> {
    rule.expressions.iter().find_map(|expression| match expression {
        Expression::Counter { packets } => Some(*packets),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
