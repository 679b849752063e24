//! Which packets a rule takes: its expressions one by one, over a register file that knows what stands in each word.

use super::compat::Match;
use super::expression::{Compare, Expression, Load, Verdict, WORDS, Word};
use super::ranges::{Ip, Ranges, number_of};
use super::ruleset::{Name, Rule, Ruleset, Set};
use super::walk::Packet;

/// `ct state new`
const NEW: u32 = 8;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
const IPPROTO_TCP: u8 = 6;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`
const PROTO_V4: u8 = 2;
const PROTO_V6: u8 = 10;

/// Some of the sources, and what the rule does with their packets.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) sources: Ranges,
    /// Only if something holds that is not followed.
    pub(super) perhaps: bool,
    pub(super) verdict: Verdict,
}

/// What stands in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Known([u8; 4]),
    /// Four bytes of the source address, from this byte on, behind this mask.
    Source(usize, [u8; 4]),
    Unknown,
}

/// What a comparison says.
enum Answer {
    Yes,
    No,
    /// For these sources.
    For(Ranges),
    Perhaps,
}

/// What stands in several words.
enum Value {
    Known(Vec<u8>),
    /// The first bytes of the source address, and which bits of them count.
    Source(Vec<u8>),
    Unknown,
}

pub(super) fn take(ruleset: &Ruleset, chain: &Name, rule: &Rule, packet: &Packet) -> Vec<Taken> {
    let mut look = Look {
        packet,
        words: [Stored::Unknown; WORDS],
        sources: Ranges::all(packet.ip),
        perhaps: false,
    };
    for expression in &rule.expressions {
        let answer = match expression {
            Expression::Decide(verdict) => return look.decided(verdict.clone()),
            Expression::Lookup { from, set, inside, maps } => {
                let name = (chain.0, chain.1.clone(), set.clone());
                let Some(set) = ruleset.sets.get(&name) else { return Vec::new() };
                if *maps && set.elements.iter().any(|element| element.verdict.is_some()) {
                    return look.mapped(*from, set);
                }
                look.lookup(*from, set, *inside)
            }
            other => look.step(other),
        };
        match answer {
            Answer::Yes => {}
            Answer::No => return Vec::new(),
            Answer::For(sources) => look.sources = look.sources.and(&sources),
            Answer::Perhaps => look.perhaps = true,
        }
    }
    Vec::new()
}

struct Look<'p> {
    packet: &'p Packet,
    words: [Stored; WORDS],
    sources: Ranges,
    perhaps: bool,
}

impl Look<'_> {
    fn decided(self, verdict: Verdict) -> Vec<Taken> {
        vec![Taken { sources: self.sources, perhaps: self.perhaps, verdict }]
    }

    fn step(&mut self, expression: &Expression) -> Answer {
        match expression {
            Expression::Load { load, to, length } => self.load(*load, *to, *length),
            Expression::Constant { to, bytes } => self.store(*to, bytes),
            Expression::Mask { from, to, mask, xor } => self.mask(*from, *to, mask, xor),
            Expression::Unknown { to, length, .. } => self.spoil(*to, *length),
            Expression::Compare { from, how, with } => {
                return self.compare(*from, *how, with);
            }
            Expression::Range { from, inside, first, last } => {
                return match self.value(*from, first.len()) {
                    Value::Known(value) => yes((*first <= value && value <= *last) == *inside),
                    Value::Source(_) => self.sources_in(first, last, *inside),
                    Value::Unknown => Answer::Perhaps,
                };
            }
            Expression::Matches(matching) => return self.matches(matching),
            Expression::Perhaps(_) => return Answer::Perhaps,
            Expression::Counter { .. } | Expression::Nothing => {}
            Expression::Decide(_) | Expression::Lookup { .. } => {}
        }
        Answer::Yes
    }

    fn store(&mut self, to: Word, bytes: &[u8]) {
        for (word, part) in self.words.iter_mut().skip(to).zip(bytes.chunks(4)) {
            let mut four = [0; 4];
            four[..part.len()].copy_from_slice(part);
            *word = Stored::Known(four);
        }
    }

    fn spoil(&mut self, to: Word, length: usize) {
        for word in self.words.iter_mut().skip(to).take(length.div_ceil(4).max(1)) {
            *word = Stored::Unknown;
        }
    }

    fn load(&mut self, load: Load, to: Word, length: usize) {
        let packet = self.packet;
        let (source_at, destination_at) = match packet.ip {
            Ip::V4 => (12, 16),
            Ip::V6 => (8, 24),
        };
        let family = if packet.ip == Ip::V4 { PROTO_V4 } else { PROTO_V6 };
        let mut name = packet.interface.1.clone().into_bytes();
        name.resize(16, 0);
        let index = packet.interface.0.to_ne_bytes();
        match load {
            Load::Network { offset } if offset == source_at => {
                for (at, word) in
                    self.words.iter_mut().skip(to).take(length.div_ceil(4)).enumerate()
                {
                    *word = Stored::Source(at * 4, [0xff; 4]);
                }
            }
            Load::Network { offset } if offset == destination_at => {
                let bytes = packet.destination.get(..length).map(<[u8]>::to_vec);
                self.store(to, &bytes.unwrap_or_default());
            }
            // The protocol in an IPv4 header, the next header in an IPv6 header.
            Load::Network { offset } if length == 1 && offset == protocol_at(packet.ip) => {
                self.store(to, &[IPPROTO_TCP]);
            }
            Load::Transport { offset: 2 } if length == 2 => {
                self.store(to, &packet.port.to_be_bytes());
            }
            // The flags of the first packet: SYN, and nothing that firewalls ask for besides.
            Load::Transport { offset: 13 } if length == 1 => self.store(to, &[0x02]),
            Load::NetworkFamily => self.store(to, &[family]),
            Load::EtherType => {
                let kind: u16 = if packet.ip == Ip::V4 { 0x0800 } else { 0x86dd };
                self.store(to, &kind.to_be_bytes());
            }
            Load::Transported => self.store(to, &[IPPROTO_TCP]),
            Load::TrackState => self.store(to, &NEW.to_ne_bytes()),
            Load::PacketType if packet.incoming => self.store(to, &[0]),
            Load::DestinationType if packet.incoming => self.store(to, &LOCAL.to_ne_bytes()),
            Load::InterfaceIn if packet.incoming => self.store(to, &index),
            Load::InterfaceOut if !packet.incoming => self.store(to, &index),
            Load::InterfaceNameIn if packet.incoming => self.store(to, &name),
            Load::InterfaceNameOut if !packet.incoming => self.store(to, &name),
            Load::InterfaceIn | Load::InterfaceOut => self.store(to, &[0; 4]),
            Load::InterfaceNameIn | Load::InterfaceNameOut => self.store(to, &[0; 16]),
            _ => self.spoil(to, length),
        }
    }

    fn mask(&mut self, from: Word, to: Word, mask: &[u8], xor: &[u8]) {
        let words = self.words;
        for (at, (mask, xor)) in mask.chunks(4).zip(xor.chunks(4)).enumerate() {
            let (Some(old), Some(new)) = (words.get(from + at), self.words.get_mut(to + at)) else {
                return;
            };
            let and = |bytes: [u8; 4]| {
                let mut bytes = bytes;
                for (byte, mask) in bytes.iter_mut().zip(mask.iter().chain(std::iter::repeat(&0))) {
                    *byte &= mask;
                }
                bytes
            };
            *new = match *old {
                Stored::Known(bytes) => {
                    let mut bytes = and(bytes);
                    for (byte, xor) in bytes.iter_mut().zip(xor) {
                        *byte ^= xor;
                    }
                    Stored::Known(bytes)
                }
                Stored::Source(first, bits) if xor.iter().all(|&xor| xor == 0) => {
                    Stored::Source(first, and(bits))
                }
                _ => Stored::Unknown,
            };
        }
    }

    fn value(&self, from: Word, length: usize) -> Value {
        let words = self.words.iter().skip(from).take(length.div_ceil(4));
        let (mut known, mut bits) = (Vec::new(), Vec::new());
        for (at, word) in words.enumerate() {
            match word {
                Stored::Known(bytes) => known.extend(bytes),
                Stored::Source(first, mask) if *first == at * 4 => bits.extend(mask),
                _ => return Value::Unknown,
            }
        }
        known.truncate(length);
        bits.truncate(length);
        match (known.len() == length, bits.len() == length) {
            (true, _) => Value::Known(known),
            (_, true) => Value::Source(bits),
            _ => Value::Unknown,
        }
    }

    fn compare(&self, from: Word, how: Compare, with: &[u8]) -> Answer {
        match self.value(from, with.len()) {
            Value::Known(value) => {
                let order = value.as_slice().cmp(with);
                yes(match how {
                    Compare::Equal => order.is_eq(),
                    Compare::Differs => order.is_ne(),
                    Compare::Less => order.is_lt(),
                    Compare::LessOrEqual => order.is_le(),
                    Compare::Greater => order.is_gt(),
                    Compare::GreaterOrEqual => order.is_ge(),
                })
            }
            Value::Source(bits) => {
                // Of a prefix: everything below it.
                let Some(last) = end_of_prefix(with, &bits) else { return Answer::Perhaps };
                match how {
                    Compare::Equal => self.sources_in(with, &last, true),
                    Compare::Differs => self.sources_in(with, &last, false),
                    Compare::LessOrEqual => self.sources_in(&vec![0; with.len()], &last, true),
                    Compare::Greater => self.sources_in(&vec![0; with.len()], &last, false),
                    Compare::GreaterOrEqual => self.sources_in(with, &vec![0xff; with.len()], true),
                    Compare::Less => self.sources_in(with, &vec![0xff; with.len()], false),
                }
            }
            Value::Unknown => Answer::Perhaps,
        }
    }

    /// Sources whose first bytes lie in a range.
    fn sources_in(&self, first: &[u8], last: &[u8], inside: bool) -> Answer {
        let (mut first, mut last) = (first.to_vec(), last.to_vec());
        first.resize(self.packet.ip.length(), 0);
        last.resize(self.packet.ip.length(), 0xff);
        let ranges = Ranges::range(number_of(&first), number_of(&last));
        Answer::For(if inside { ranges } else { ranges.complement(self.packet.ip) })
    }

    fn lookup(&self, from: Word, set: &Set, inside: bool) -> Answer {
        match self.value(from, set.key_length) {
            Value::Known(key) => yes(set.elements.iter().any(|e| set.holds(e, &key)) == inside),
            Value::Source(bits) if bits.iter().all(|&bits| bits == 0xff) => {
                let mut all = Ranges::default();
                for element in &set.elements {
                    if let Answer::For(one) = self.sources_in(&element.first, &element.last, true) {
                        all = all.or(&one);
                    }
                }
                Answer::For(if inside { all } else { all.complement(self.packet.ip) })
            }
            _ => Answer::Perhaps,
        }
    }

    /// A verdict for each key.
    fn mapped(self, from: Word, set: &Set) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut left = self.sources.clone();
        let value = self.value(from, set.key_length);
        for element in &set.elements {
            let (sources, perhaps) = match &value {
                Value::Known(key) if set.holds(element, key) => (left.clone(), self.perhaps),
                Value::Known(_) => continue,
                Value::Source(_) => match self.sources_in(&element.first, &element.last, true) {
                    Answer::For(sources) => (left.and(&sources), self.perhaps),
                    _ => continue,
                },
                Value::Unknown => (left.clone(), true),
            };
            if !matches!(value, Value::Unknown) {
                left = left.without(&sources);
            }
            if let Some(verdict) = element.verdict.clone() {
                taken.push(Taken { sources, perhaps, verdict });
            }
        }
        if let Some(verdict) = set.otherwise.clone() {
            let perhaps = self.perhaps || matches!(value, Value::Unknown);
            taken.push(Taken { sources: left, perhaps, verdict });
        }
        taken
    }

    fn matches(&self, matching: &Match) -> Answer {
        match matching {
            Match::Comment(_) => Answer::Yes,
            Match::TrackState { bits, inverted } => yes((u32::from(*bits) & NEW != 0) != *inverted),
            Match::Ports { ranges, inverted, others } => {
                let port = self.packet.port;
                let inside = ranges.iter().any(|&(first, last)| first <= port && port <= last);
                match (inside != *inverted, others) {
                    (false, _) => Answer::No,
                    (true, true) => Answer::Perhaps,
                    (true, false) => Answer::Yes,
                }
            }
        }
    }
}

fn yes(is: bool) -> Answer {
    if is { Answer::Yes } else { Answer::No }
}

fn protocol_at(ip: Ip) -> u32 {
    match ip {
        Ip::V4 => 9,
        Ip::V6 => 6,
    }
}

/// The last value with the same first bits. `None`: the bits that count are not the first ones.
fn end_of_prefix(first: &[u8], bits: &[u8]) -> Option<Vec<u8>> {
    let ones: u32 = bits.iter().map(|bits| bits.leading_ones()).sum();
    let all: u32 = bits.iter().map(|bits| bits.count_ones()).sum();
    let leading = bits.iter().skip_while(|&&bits| bits == 0xff).skip(1).all(|&bits| bits == 0);
    (ones == all && leading)
        .then(|| first.iter().zip(bits).map(|(byte, bits)| byte | !bits).collect())
}
