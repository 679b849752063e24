//! A rule in nft's own words, as near as is needed to find it again.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::compat::Match;
use super::expression::{Compare, Expression, Load, Reject, Verdict, WORDS};
use super::ruleset::{IP6, Name, Rule, Ruleset};

/// Longest text of a rule.
const TEXT_MAX: usize = 300;
/// Elements of a set that are shown.
const ELEMENTS_SHOWN: usize = 6;

/// "ip saddr 10.0.0.0/8 tcp dport 8080 counter drop"
pub(super) fn rule_text(ruleset: &Ruleset, chain: &Name, rule: &Rule) -> String {
    let mut fields: [Option<Load>; WORDS] = [None; WORDS];
    let mut words: Vec<String> = Vec::new();
    for expression in &rule.expressions {
        match expression {
            Expression::Load { load, to, .. } => fields[*to] = Some(*load),
            Expression::Mask { from, to, .. } => fields[*to] = fields[*from],
            Expression::Compare { from, how, with } => {
                let Some(load) = fields[*from] else { continue };
                // What the words before a port say anyway.
                if matches!(load, Load::Transported | Load::NetworkFamily | Load::EtherType) {
                    continue;
                }
                words.push(format!("{} {}{}", name(chain, load), sign(*how), value(load, with)));
            }
            Expression::Range { from, inside, first, last } => {
                let Some(load) = fields[*from] else { continue };
                let not = if *inside { "" } else { "!= " };
                let (first, last) = (value(load, first), value(load, last));
                words.push(format!("{} {not}{first}-{last}", name(chain, load)));
            }
            Expression::Lookup { from, set, inside, .. } => {
                let Some(load) = fields[*from] else { continue };
                let not = if *inside { "" } else { "!= " };
                words.push(format!(
                    "{} {not}{}",
                    name(chain, load),
                    elements(ruleset, chain, set, load)
                ));
            }
            Expression::Matches(Match::Ports { ranges, inverted, .. }) => {
                let one = |&(first, last): &(u16, u16)| {
                    if first == last { first.to_string() } else { format!("{first}-{last}") }
                };
                let ranges: Vec<String> = ranges.iter().map(one).collect();
                let not = if *inverted { "!= " } else { "" };
                words.push(format!("tcp dport {not}{}", ranges.join(",")));
            }
            Expression::Matches(Match::TrackState { bits, .. }) => {
                words.push(format!("ct state {}", states(u32::from(*bits))));
            }
            Expression::Perhaps(name) | Expression::Unknown { name, .. } => {
                words.push(format!("[{name}]"));
            }
            Expression::Decide(verdict) => words.push(decision(verdict)),
            Expression::Counter { .. } => words.push("counter".to_owned()),
            _ => {}
        }
    }
    let mut text = words.join(" ");
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
    }
    text
}

fn decision(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Reject(Reject::Refused) => "reject (connection refused)".to_owned(),
        Verdict::Reject(Reject::Unreachable) => "reject (unreachable)".to_owned(),
        Verdict::Jump(to) => format!("jump {to}"),
        Verdict::Goto(to) => format!("goto {to}"),
        Verdict::Return => "return".to_owned(),
        Verdict::Translate => "dnat".to_owned(),
        Verdict::Queue => "queue".to_owned(),
    }
}

fn sign(how: Compare) -> &'static str {
    match how {
        Compare::Equal => "",
        Compare::Differs => "!= ",
        Compare::Less => "< ",
        Compare::LessOrEqual => "<= ",
        Compare::Greater => "> ",
        Compare::GreaterOrEqual => ">= ",
    }
}

fn name(chain: &Name, load: Load) -> &'static str {
    match load {
        Load::Network { offset: 12 } if chain.0 != IP6 => "ip saddr",
        Load::Network { offset: 16 } if chain.0 != IP6 => "ip daddr",
        Load::Network { offset: 8 } => "ip6 saddr",
        Load::Network { offset: 24 } => "ip6 daddr",
        Load::Network { offset: 9 } => "ip protocol",
        Load::Network { .. } => "[ip header]",
        Load::Transport { offset: 0 } => "tcp sport",
        Load::Transport { offset: 2 } => "tcp dport",
        Load::Transport { offset: 13 } => "tcp flags",
        Load::Transport { .. } => "[tcp header]",
        Load::InterfaceIn => "iif",
        Load::InterfaceOut => "oif",
        Load::InterfaceNameIn => "iifname",
        Load::InterfaceNameOut => "oifname",
        Load::NetworkFamily => "meta nfproto",
        Load::EtherType => "meta protocol",
        Load::Transported => "meta l4proto",
        Load::PacketType => "meta pkttype",
        Load::TrackState => "ct state",
        Load::DestinationType => "fib daddr type",
        Load::Other(name) => name,
    }
}

fn value(load: Load, bytes: &[u8]) -> String {
    let host = || {
        <[u8; 4]>::try_from(bytes)
            .map_or_else(|_| String::new(), |b| u32::from_ne_bytes(b).to_string())
    };
    match (load, bytes.len()) {
        (Load::Network { offset: 12 | 16 }, 1..=3) => {
            let mut four = [0; 4];
            four[..bytes.len()].copy_from_slice(bytes);
            format!("{}/{}", Ipv4Addr::from(four), bytes.len() * 8)
        }
        (Load::Network { offset: 12 | 16 }, 4) => <[u8; 4]>::try_from(bytes)
            .map_or_else(|_| String::new(), |b| Ipv4Addr::from(b).to_string()),
        (Load::Network { offset: 8 | 24 }, 1..=16) => {
            let mut all = [0; 16];
            all[..bytes.len()].copy_from_slice(bytes);
            let prefix =
                if bytes.len() < 16 { format!("/{}", bytes.len() * 8) } else { String::new() };
            format!("{}{prefix}", Ipv6Addr::from(all))
        }
        (Load::Transport { offset: 0 | 2 }, 2) => {
            bytes.iter().fold(0u32, |port, byte| port << 8 | u32::from(*byte)).to_string()
        }
        (Load::InterfaceNameIn | Load::InterfaceNameOut, _) => {
            format!("\"{}\"", super::expression::text(bytes))
        }
        (Load::TrackState, 4) => <[u8; 4]>::try_from(bytes)
            .map_or_else(|_| String::new(), |b| states(u32::from_ne_bytes(b))),
        (Load::InterfaceIn | Load::InterfaceOut | Load::Other(_), 4) => host(),
        _ => bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

fn states(bits: u32) -> String {
    let names = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
    let named: Vec<&str> =
        names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    named.join(",")
}

fn elements(ruleset: &Ruleset, chain: &Name, set: &str, load: Load) -> String {
    let name = (chain.0, chain.1.clone(), set.to_owned());
    // Sets without a name of their own are "__set0", and shown by what is in them.
    let (Some(found), true) = (ruleset.sets.get(&name), set.starts_with("__")) else {
        return format!("@{set}");
    };
    let one = |element: &super::ruleset::Element| {
        let (first, last) = (value(load, &element.first), value(load, &element.last));
        if first == last { first } else { format!("{first}-{last}") }
    };
    let mut shown: Vec<String> = found.elements.iter().take(ELEMENTS_SHOWN).map(one).collect();
    if found.elements.len() > ELEMENTS_SHOWN {
        shown.push("...".to_owned());
    }
    format!("{{ {} }}", shown.join(", "))
}
