//! Rules as real firewalls have them, in the kernel's own bytes where nft or iptables wrote them.

use super::*;
use crate::source::network::expression::{Compare, Load};
use crate::source::network::ranges::number;
use crate::source::network::ruleset::Element;

const CHAIN: &str = "input";

fn name(chain: &str) -> Name {
    (INET, "filter".to_owned(), chain.to_owned())
}

/// A host with one base chain at `input`, and the rules of this and further chains.
fn host(drops: bool, chains: &[(&str, Vec<Vec<Expression>>)]) -> Ruleset {
    let mut ruleset = Ruleset::default();
    ruleset.bases.insert(name(CHAIN), Base { hook: INPUT, priority: 0, drops, device: None });
    let mut handle = 0;
    for (chain, rules) in chains {
        for expressions in rules {
            handle += 1;
            let rule = Rule { handle, expressions: expressions.clone(), comment: String::new() };
            ruleset.rules.entry(name(chain)).or_default().push(rule);
        }
    }
    ruleset
}

fn packet(port: u16) -> Packet {
    Packet {
        ip: Ip::V4,
        destination: vec![10, 0, 0, 7],
        port,
        interface: (2, "eth0".to_owned()),
        incoming: true,
        sources: Ranges::all(Ip::V4),
    }
}

fn load(load: Load, length: usize) -> Expression {
    Expression::Load { load, to: 0, length }
}

fn equal(with: &[u8]) -> Expression {
    Expression::Compare { from: 0, how: Compare::Equal, with: with.to_vec() }
}

/// `tcp dport PORT`
fn port(port: u16) -> Vec<Expression> {
    let tcp = [load(Load::Transported, 1), equal(&[6])];
    let port = [load(Load::Transport { offset: 2 }, 2), equal(&port.to_be_bytes())];
    [tcp, port].concat()
}

/// `ip saddr NETWORK/24`
fn from(network: [u8; 3]) -> Vec<Expression> {
    vec![load(Load::Network { offset: 12 }, 3), equal(&network)]
}

fn then(mut expressions: Vec<Expression>, verdict: Verdict) -> Vec<Expression> {
    expressions.push(Expression::Decide(verdict));
    expressions
}

/// `HANDLE sources`, with `?` where it is not sure; the policy's handle is 0.
#[track_caller]
fn check(ruleset: &Ruleset, packet: &Packet, expected: &[&str]) {
    let told: Vec<String> = blocks(ruleset, packet)
        .iter()
        .map(|block| {
            let handle = block.rule.map_or(0, |rule| rule.handle);
            let sure = if block.unsure { "?" } else { "" };
            format!("{handle}{sure} {}", block.sources.texts(Ip::V4).join(","))
        })
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn the_first_rule_that_takes_it_decides() {
    let rules = vec![
        then(port(22), Verdict::Drop),
        then(from([10, 0, 1]), Verdict::Accept),
        then(port(80), Verdict::Drop),
        then(port(80), Verdict::Accept),
    ];
    let ruleset = host(false, &[(CHAIN, rules)]);
    check(&ruleset, &packet(22), &["1 "]);
    check(&ruleset, &packet(80), &["3 0.0.0.0-10.0.0.255,10.0.2.0-255.255.255.255"]);
    check(&ruleset, &packet(443), &[]);
}

#[test]
fn what_no_rule_takes_meets_the_policy() {
    let rules = vec![then(from([10, 0, 1]), Verdict::Accept), then(port(22), Verdict::Accept)];
    let ruleset = host(true, &[(CHAIN, rules)]);
    check(&ruleset, &packet(22), &[]);
    check(&ruleset, &packet(80), &["0 0.0.0.0-10.0.0.255,10.0.2.0-255.255.255.255"]);
}

#[test]
fn chains_are_followed_and_come_back() {
    let jump = |to: &str| Verdict::Jump(to.to_owned());
    let goto = |to: &str| Verdict::Goto(to.to_owned());
    let inner = vec![then(port(80), Verdict::Return), then(port(81), Verdict::Drop)];
    let jumps = vec![then(vec![], jump("inner")), then(port(80), Verdict::Drop)];
    let ruleset = host(false, &[(CHAIN, jumps), ("inner", inner.clone())]);
    check(&ruleset, &packet(80), &["2 "]);
    check(&ruleset, &packet(81), &["4 "]);
    // After goto the rest of the calling chain is not seen.
    let gotos = vec![then(vec![], goto("inner")), then(port(80), Verdict::Drop)];
    let ruleset = host(false, &[("inner", inner), (CHAIN, gotos)]);
    check(&ruleset, &packet(80), &[]);
    // A chain that leads to itself ends somewhere.
    let own = vec![then(vec![], jump(CHAIN)), then(port(80), Verdict::Drop)];
    assert!(blocks(&host(false, &[(CHAIN, own)]), &packet(80)).len() < 64);
}

#[test]
fn what_cannot_be_followed_is_not_sure() {
    let chance = |port_too: u16| {
        let mut rule = vec![Expression::Perhaps("limit".to_owned())];
        rule.extend(port(port_too));
        rule
    };
    let rules = vec![then(chance(80), Verdict::Accept), then(port(80), Verdict::Drop)];
    check(&host(false, &[(CHAIN, rules)]), &packet(80), &["2? "]);
    let rules = vec![then(chance(80), Verdict::Drop)];
    let ruleset = host(false, &[(CHAIN, rules)]);
    check(&ruleset, &packet(80), &["1? "]);
    check(&ruleset, &packet(81), &[]);
}

#[test]
fn established_invalid_and_other_interfaces_are_not_meant() {
    let state = |bits: u32| {
        let mask =
            Expression::Mask { from: 0, to: 0, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] };
        let some = Expression::Compare { from: 0, how: Compare::Differs, with: vec![0, 0, 0, 0] };
        vec![load(Load::TrackState, 4), mask, some]
    };
    let mut lo = b"lo".to_vec();
    lo.resize(16, 0);
    let rules = vec![
        then(state(1), Verdict::Drop),
        then(state(2 | 4), Verdict::Accept),
        then(vec![load(Load::InterfaceNameIn, 16), equal(&lo)], Verdict::Drop),
        then(state(8), Verdict::Reject(Reject::Refused)),
    ];
    check(&host(false, &[(CHAIN, rules)]), &packet(80), &["4 "]);
}

#[test]
fn sets_and_maps() {
    let element = |first: &[u8], last: &[u8], verdict: Option<Verdict>| Element {
        first: first.to_vec(),
        last: last.to_vec(),
        verdict,
    };
    let lookup = |maps: bool| Expression::Lookup { from: 0, set: "s".into(), inside: true, maps };
    let set = |ruleset: &mut Ruleset, length: usize, elements: Vec<Element>| {
        let set = crate::source::network::ruleset::Set {
            key_length: length,
            elements,
            ..Default::default()
        };
        ruleset.sets.insert(name("s"), set);
    };
    let port = load(Load::Transport { offset: 2 }, 2);
    let mut ruleset =
        host(false, &[(CHAIN, vec![then(vec![port.clone(), lookup(false)], Verdict::Drop)])]);
    set(&mut ruleset, 2, vec![element(&[0, 80], &[0, 90], None)]);
    check(&ruleset, &packet(85), &["1 "]);
    check(&ruleset, &packet(91), &[]);
    let mut ruleset = host(false, &[(CHAIN, vec![vec![port, lookup(true)]])]);
    let drop = element(&[0, 80], &[0, 80], Some(Verdict::Drop));
    set(&mut ruleset, 2, vec![drop, element(&[0, 81], &[0, 81], Some(Verdict::Accept))]);
    check(&ruleset, &packet(80), &["1 "]);
    check(&ruleset, &packet(81), &[]);
    let source = load(Load::Network { offset: 12 }, 4);
    let mut ruleset =
        host(false, &[(CHAIN, vec![then(vec![source, lookup(false)], Verdict::Drop)])]);
    set(&mut ruleset, 4, vec![element(&[10, 0, 0, 0], &[10, 0, 0, 255], None)]);
    check(&ruleset, &packet(80), &["1 10.0.0.0/24"]);
}

#[test]
fn where_it_goes_elsewhere_this_host_does_not_decide() {
    let mut ruleset = host(true, &[]);
    let nat = (INET, "nat".to_owned(), "prerouting".to_owned());
    let base = Base { hook: PREROUTING, priority: -100, drops: false, device: None };
    ruleset.bases.insert(nat.clone(), base);
    let expressions = then(port(80), Verdict::Translate);
    let rule = Rule { handle: 9, expressions, comment: String::new() };
    ruleset.rules.insert(nat, vec![rule]);
    check(&ruleset, &packet(80), &[]);
    check(&ruleset, &packet(81), &["0 "]);
}

#[test]
fn what_leaves_meets_other_chains() {
    let mut ruleset = host(true, &[]);
    let out = (INET, "filter".to_owned(), "output".to_owned());
    let base = Base { hook: OUTPUT, priority: 0, drops: false, device: None };
    ruleset.bases.insert(out.clone(), base);
    let expressions = then(port(80), Verdict::Drop);
    ruleset.rules.insert(out, vec![Rule { handle: 3, expressions, comment: String::new() }]);
    let own = number("10.0.0.1".parse().unwrap());
    let leaving = Packet { incoming: false, sources: Ranges::range(own, own), ..packet(80) };
    check(&ruleset, &leaving, &["3 10.0.0.1"]);
    check(&ruleset, &packet(80), &["0 "]);
}
