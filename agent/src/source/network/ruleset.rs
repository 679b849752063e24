//! All of nf_tables that decides about packets: base chains with their hooks, rules, sets.

use std::collections::BTreeMap;
use std::io;

use rustix::net::netlink::NETFILTER;

use super::expression::{self, Expression, Verdict, be32, be64, expressions, find, text};
use crate::source::netlink::{self, Message, Socket};

/// `NFNL_SUBSYS_NFTABLES << 8`
const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAINS: u16 = SUBSYSTEM | 4;
const GET_RULES: u16 = SUBSYSTEM | 7;
const GET_SETS: u16 = SUBSYSTEM | 10;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
/// `NFNLGRP_NFTABLES`, as a mask.
const NOTICES: u32 = 1 << 6;
/// Datagrams of a dump are at most 32 KiB.
const BUFFER_BYTES: usize = 32 << 10;
/// More rules, or more elements of sets, are not followed: a host with so many has a program that writes them.
const RULES_MAX: usize = 20_000;
const ELEMENTS_MAX: usize = 100_000;
/// `NFPROTO_*`
pub(super) const INET: u8 = 1;
pub(super) const IP: u8 = 2;
pub(super) const NETDEV: u8 = 5;
pub(super) const IP6: u8 = 10;

/// Family, table, and name of a chain or set.
pub(super) type Name = (u8, String, String);

/// A chain that packets enter by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) hook: u32,
    pub(super) priority: i32,
    pub(super) drops: bool,
    /// netdev only.
    pub(super) device: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) handle: u64,
    pub(super) expressions: Vec<Expression>,
    pub(super) comment: String,
}

/// One element: first and last key, and for maps what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
    pub(super) verdict: Option<Verdict>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) intervals: bool,
    pub(super) concatenated: bool,
    pub(super) key_length: usize,
    pub(super) elements: Vec<Element>,
    /// The verdict of keys that no element has.
    pub(super) otherwise: Option<Verdict>,
}

/// Everything, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) bases: BTreeMap<Name, Base>,
    pub(super) rules: BTreeMap<Name, Vec<Rule>>,
    pub(super) sets: BTreeMap<Name, Set>,
    /// There was more than is followed.
    pub(super) cut: bool,
}

/// Asks for the rules of the network namespace that it was opened in. Needs CAP_NET_ADMIN.
#[derive(Debug)]
pub(super) struct Tables {
    socket: Socket,
}

impl Tables {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Some(NETFILTER), 0)? })
    }

    /// A socket that has something to read whenever rules change.
    pub(super) fn notices() -> io::Result<Socket> {
        Socket::open(Some(NETFILTER), NOTICES)
    }

    pub(super) fn read(&self) -> io::Result<Ruleset> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut ruleset = Ruleset::default();
        self.dump(GET_CHAINS, 0, &[], &mut buffer, |m| ruleset.chain(m.payload))?;
        if ruleset.bases.is_empty() {
            return Ok(ruleset);
        }
        self.dump(GET_RULES, 0, &[], &mut buffer, |m| ruleset.rule(m.payload))?;
        self.dump(GET_SETS, 0, &[], &mut buffer, |m| ruleset.set(m.payload))?;
        let names: Vec<Name> = ruleset.sets.keys().cloned().collect();
        let mut left = ELEMENTS_MAX;
        for name in names {
            let mut wanted = attribute(1, &name.1);
            wanted.extend(attribute(2, &name.2));
            let mut found = Vec::new();
            self.dump(GET_ELEMENTS, name.0, &wanted, &mut buffer, |m| {
                elements(m.payload, &mut found, left);
            })?;
            left = left.saturating_sub(found.len());
            ruleset.cut |= left == 0;
            if let Some(set) = ruleset.sets.get_mut(&name) {
                set.fill(found);
            }
        }
        Ok(ruleset)
    }

    fn dump(
        &self,
        kind: u16,
        family: u8,
        attributes: &[u8],
        buffer: &mut [u8],
        each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        // struct nfgenmsg: family, version, resource.
        let mut payload = vec![family, 0, 0, 0];
        payload.extend(attributes);
        self.socket.dump(&netlink::request(kind, netlink::FLAGS_DUMP, &payload), buffer, each)
    }
}

/// An attribute with a string.
fn attribute(kind: u16, text: &str) -> Vec<u8> {
    let length = u16::try_from(5 + text.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(usize::from(length) + 3);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Family, table and name, as the attributes `table` and `name` have them.
fn name_of(payload: &[u8], table: u16, name: u16) -> Option<(Name, &[u8])> {
    let bytes = payload.get(4..)?;
    let key = (*payload.first()?, text(find(bytes, table)?), text(find(bytes, name)?));
    Some((key, bytes))
}

impl Ruleset {
    pub(super) fn chain(&mut self, payload: &[u8]) {
        let Some((name, bytes)) = name_of(payload, 1, 3) else { return };
        let Some(hook) = find(bytes, 4) else { return };
        let number = |kind| find(hook, kind).and_then(be32);
        let Some(at) = number(1) else { return };
        let base = Base {
            hook: at,
            priority: number(2).unwrap_or(0).cast_signed(),
            drops: find(bytes, 5).and_then(be32) == Some(0),
            device: find(hook, 3).map(text),
        };
        self.bases.insert(name, base);
    }

    pub(super) fn rule(&mut self, payload: &[u8]) {
        let Some((name, bytes)) = name_of(payload, 1, 2) else { return };
        if self.rules.values().map(Vec::len).sum::<usize>() >= RULES_MAX {
            self.cut = true;
            return;
        }
        let ip6 = name.0 == IP6;
        let expressions = expressions(find(bytes, 4).unwrap_or_default(), ip6);
        let comment = find(bytes, 7).map(expression::comment).unwrap_or_default();
        let handle = find(bytes, 3).and_then(be64).unwrap_or(0);
        self.rules.entry(name).or_default().push(Rule { handle, expressions, comment });
    }

    pub(super) fn set(&mut self, payload: &[u8]) {
        let Some((name, bytes)) = name_of(payload, 1, 2) else { return };
        let number = |kind| find(bytes, kind).and_then(be32).unwrap_or(0);
        let flags = number(3);
        self.sets.insert(
            name,
            Set {
                intervals: flags & 0x4 != 0,
                concatenated: flags & 0x80 != 0,
                key_length: usize::try_from(number(5)).unwrap_or(0),
                ..Set::default()
            },
        );
    }
}

/// An element as the kernel tells it.
#[derive(Debug)]
struct Raw {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    verdict: Option<Verdict>,
    ends: bool,
    catches_all: bool,
}

fn elements(payload: &[u8], into: &mut Vec<Raw>, max: usize) {
    let Some(list) = payload.get(4..).and_then(|bytes| find(bytes, 3)) else { return };
    for (_, element) in netlink::attributes(list) {
        if into.len() >= max {
            return;
        }
        let flags = find(element, 3).and_then(be32).unwrap_or(0);
        into.push(Raw {
            key: find(element, 1).and_then(expression::value).unwrap_or_default(),
            key_end: find(element, 10).and_then(expression::value),
            verdict: find(element, 2).and_then(expression::verdict),
            ends: flags & 1 != 0,
            catches_all: flags & 2 != 0,
        });
    }
}

impl Set {
    /// Whether an element has this key: field by field where several stand behind one another, each filled up to four
    /// bytes.
    pub(super) fn holds(&self, element: &Element, key: &[u8]) -> bool {
        let (first, last) = (element.first.as_slice(), element.last.as_slice());
        if !self.concatenated || first.len() != key.len() || last.len() != key.len() {
            return first <= key && key <= last;
        }
        let fields = key.chunks(4).zip(first.chunks(4).zip(last.chunks(4)));
        fields.into_iter().all(|(key, (first, last))| first <= key && key <= last)
    }

    /// Turns beginnings and ends into elements.
    fn fill(&mut self, mut raw: Vec<Raw>) {
        if let Some(at) = raw.iter().position(|raw| raw.catches_all) {
            self.otherwise = raw.swap_remove(at).verdict;
        }
        if !self.intervals || self.concatenated {
            let element = |raw: Raw| Element {
                last: raw.key_end.unwrap_or_else(|| raw.key.clone()),
                first: raw.key,
                verdict: raw.verdict,
            };
            self.elements = raw.into_iter().map(element).collect();
            return;
        }
        // An interval ends before the next beginning or end; an end stands before a beginning of the same key.
        raw.sort_by(|a, b| (&a.key, !a.ends).cmp(&(&b.key, !b.ends)));
        let mut open: Option<Raw> = None;
        for next in raw {
            if let Some(raw) = open.take() {
                let last = one_less(&next.key);
                self.elements.push(Element { first: raw.key, last, verdict: raw.verdict });
            }
            open = (!next.ends).then_some(next);
        }
        if let Some(raw) = open {
            let last = vec![0xff; raw.key.len()];
            self.elements.push(Element { first: raw.key, last, verdict: raw.verdict });
        }
    }
}

/// The number before this one, in network order.
fn one_less(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for byte in bytes.iter_mut().rev() {
        let (less, borrow) = byte.overflowing_sub(1);
        *byte = less;
        if !borrow {
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_end_before_what_follows() {
        let raw = |key: u8, ends| Raw {
            key: vec![key],
            key_end: None,
            verdict: None,
            ends,
            catches_all: false,
        };
        // { 10-19, 20, 200-255 } as the kernel tells it, in any order.
        let mut set = Set { intervals: true, key_length: 1, ..Set::default() };
        set.fill(vec![
            raw(200, false),
            raw(21, true),
            raw(20, false),
            raw(10, false),
            raw(0, true),
        ]);
        let elements: Vec<(u8, u8)> =
            set.elements.iter().map(|element| (element.first[0], element.last[0])).collect();
        assert_eq!(elements, [(10, 19), (20, 20), (200, 255)]);
        assert!(set.holds(&set.elements[0], &[15]) && !set.holds(&set.elements[0], &[20]));
    }

    #[test]
    fn fields_of_a_key_compare_one_by_one() {
        let element = Element {
            first: vec![10, 0, 0, 0, 0, 80, 0, 0],
            last: vec![10, 0, 0, 255, 0, 90, 0, 0],
            verdict: None,
        };
        let set = Set { concatenated: true, key_length: 8, ..Set::default() };
        assert!(set.holds(&element, &[10, 0, 0, 7, 0, 85, 0, 0]));
        assert!(!set.holds(&element, &[10, 0, 0, 7, 0, 95, 0, 0]));
    }

    #[test]
    fn garbage_is_no_rule() {
        let mut ruleset = Ruleset::default();
        for bytes in [&[][..], &[1], &[1, 0, 0, 0], &[1, 0, 0, 0, 255, 255, 1, 0, 0]] {
            ruleset.chain(bytes);
            ruleset.rule(bytes);
            ruleset.set(bytes);
        }
        assert_eq!(ruleset, Ruleset::default());
    }
}
