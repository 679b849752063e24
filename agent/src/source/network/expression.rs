//! One expression of an nf_tables rule, from its netlink attributes (include/uapi/linux/netfilter/nf_tables.h).

use super::compat;
use crate::source::netlink::{attributes, u16_at};

/// Where a value stands: a word of the register file, 16 words of 4 bytes.
pub(super) type Word = usize;

/// Words of the register file.
pub(super) const WORDS: usize = 16;

/// What a rule does with a packet that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    /// The reason is its kind of ICMP message, or a TCP reset.
    Reject(Reject),
    Jump(String),
    Goto(String),
    Return,
    /// Its destination becomes another one.
    Translate,
    /// Somebody in user space decides.
    Queue,
}

/// What the one who connects feels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reject {
    /// ECONNREFUSED
    Refused,
    /// EHOSTUNREACH, ENETUNREACH
    Unreachable,
}

/// How two values compare (enum nft_cmp_ops).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Differs,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What can be loaded, as far as it is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Network { offset: u32 },
    Transport { offset: u32 },
    InterfaceIn,
    InterfaceOut,
    InterfaceNameIn,
    InterfaceNameOut,
    NetworkFamily,
    EtherType,
    Transported,
    PacketType,
    TrackState,
    DestinationType,
    Other(&'static str),
}

/// An expression, as far as it is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    Load {
        load: Load,
        to: Word,
        length: usize,
    },
    Constant {
        to: Word,
        bytes: Vec<u8>,
    },
    Mask {
        from: Word,
        to: Word,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Compare {
        from: Word,
        how: Compare,
        with: Vec<u8>,
    },
    Range {
        from: Word,
        inside: bool,
        first: Vec<u8>,
        last: Vec<u8>,
    },
    Lookup {
        from: Word,
        set: String,
        inside: bool,
        maps: bool,
    },
    Decide(Verdict),
    Counter {
        packets: u64,
    },
    Matches(compat::Match),
    /// Does not change what happens to the packet: log, notrack, marks, masquerading.
    Nothing,
    /// Takes the packet or not, by something that is not followed; its name.
    Perhaps(String),
    /// Something that is not followed ends in this word.
    Unknown {
        to: Word,
        length: usize,
        name: String,
    },
}

/// All expressions of a rule, `NFTA_RULE_EXPRESSIONS`.
pub(super) fn expressions(bytes: &[u8], ip6: bool) -> Vec<Expression> {
    attributes(bytes)
        .map(|(_, element)| {
            let name = text(find(element, 1).unwrap_or_default());
            expression(&name, find(element, 2).unwrap_or_default(), ip6)
                .unwrap_or(Expression::Perhaps(name))
        })
        .collect()
}

/// The value of one attribute.
pub(super) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A string with or without its NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Four bytes in network order, as nf_tables writes its numbers.
pub(super) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// Eight bytes in network order.
pub(super) fn be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

fn number(bytes: &[u8], attribute: u16) -> Option<u32> {
    be32(find(bytes, attribute)?)
}

/// `NFT_REG_1` to `NFT_REG_4` have 16 bytes each, `NFT_REG32_00` and on 4.
fn word(bytes: &[u8], attribute: u16) -> Option<Word> {
    let register = usize::try_from(number(bytes, attribute)?).ok()?;
    let word = match register {
        1..=4 => (register - 1) * 4,
        8.. => register - 8,
        _ => return None,
    };
    (word < WORDS).then_some(word)
}

/// `NFTA_DATA_VALUE` of a nested value.
pub(super) fn value(bytes: &[u8]) -> Option<Vec<u8>> {
    find(bytes, 1).map(<[u8]>::to_vec)
}

/// `NFTA_DATA_VERDICT` of a nested value. `None`: the rule goes on.
pub(super) fn verdict(bytes: &[u8]) -> Option<Verdict> {
    let verdict = find(bytes, 2)?;
    let chain = || text(find(verdict, 2).unwrap_or_default());
    Some(match number(verdict, 1)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        3 => Verdict::Queue,
        -3 => Verdict::Jump(chain()),
        -4 => Verdict::Goto(chain()),
        -5 => Verdict::Return,
        _ => return None,
    })
}

fn expression(name: &str, data: &[u8], ip6: bool) -> Option<Expression> {
    Some(match name {
        "immediate" => {
            let given = find(data, 2)?;
            match find(given, 2) {
                Some(_) => verdict(given).map_or(Expression::Nothing, Expression::Decide),
                None => Expression::Constant { to: word(data, 1)?, bytes: value(given)? },
            }
        }
        "cmp" => Expression::Compare {
            from: word(data, 1)?,
            how: compare(number(data, 2)?)?,
            with: value(find(data, 3)?)?,
        },
        "range" => Expression::Range {
            from: word(data, 1)?,
            inside: number(data, 2)? == 0,
            first: value(find(data, 3)?)?,
            last: value(find(data, 4)?)?,
        },
        "lookup" => Expression::Lookup {
            from: word(data, 2)?,
            set: text(find(data, 1)?),
            inside: number(data, 5).unwrap_or(0) & 1 == 0,
            maps: find(data, 3).is_some(),
        },
        "bitwise" => Expression::Mask {
            from: word(data, 1)?,
            to: word(data, 2)?,
            mask: value(find(data, 4)?)?,
            xor: value(find(data, 5)?)?,
        },
        "payload" | "meta" | "ct" | "fib" => return load(name, data),
        "counter" => Expression::Counter { packets: be64(find(data, 2)?)? },
        "reject" => Expression::Decide(Verdict::Reject(reject(data)?)),
        "nat" if number(data, 1)? == 1 => Expression::Decide(Verdict::Translate),
        "redir" | "tproxy" => Expression::Decide(Verdict::Translate),
        "queue" => Expression::Decide(Verdict::Queue),
        "match" => Expression::Matches(compat::matching(
            &text(find(data, 1)?),
            number(data, 2)?,
            find(data, 3)?,
        )?),
        "target" => return compat::target(&text(find(data, 1)?), find(data, 3)?, ip6),
        "nat" | "masq" | "log" | "notrack" | "dup" | "last" | "flow_offload" | "synproxy"
        | "objref" | "secmark" => Expression::Nothing,
        // `add @set { ... }`: only with a condition of its own does it let packets pass by.
        "dynset" if find(data, 7).is_none() && find(data, 10).is_none() => Expression::Nothing,
        "numgen" | "hash" | "rt" | "exthdr" | "socket" | "osf" | "byteorder" | "tunnel"
        | "xfrm" => {
            // The register that they write is their first or, for some, another: all are spoilt.
            Expression::Unknown { to: 0, length: WORDS * 4, name: name.to_owned() }
        }
        _ => return None,
    })
}

fn compare(operation: u32) -> Option<Compare> {
    Some(match operation {
        0 => Compare::Equal,
        1 => Compare::Differs,
        2 => Compare::Less,
        3 => Compare::LessOrEqual,
        4 => Compare::Greater,
        5 => Compare::GreaterOrEqual,
        _ => return None,
    })
}

fn load(name: &str, data: &[u8]) -> Option<Expression> {
    // Without a destination it writes: a mark, a header field, which changes nothing that is followed.
    let Some(to) = word(data, 1) else { return Some(Expression::Nothing) };
    let key = number(data, 2)?;
    let (load, length) = match (name, key) {
        ("payload", base) => {
            let offset = number(data, 3)?;
            let length = usize::try_from(number(data, 4)?).ok()?.min(WORDS * 4);
            match base {
                1 => (Load::Network { offset }, length),
                2 => (Load::Transport { offset }, length),
                _ => (Load::Other("header"), length),
            }
        }
        ("meta", 1) => (Load::EtherType, 2),
        ("meta", 4) => (Load::InterfaceIn, 4),
        ("meta", 5) => (Load::InterfaceOut, 4),
        ("meta", 6) => (Load::InterfaceNameIn, 16),
        ("meta", 7) => (Load::InterfaceNameOut, 16),
        ("meta", 15) => (Load::NetworkFamily, 1),
        ("meta", 16) => (Load::Transported, 1),
        ("meta", 19) => (Load::PacketType, 1),
        ("meta", 3) => (Load::Other("meta mark"), 4),
        ("meta", 10) => (Load::Other("meta skuid"), 4),
        ("meta", _) => (Load::Other("meta"), 16),
        ("ct", 0) => (Load::TrackState, 4),
        ("ct", _) => (Load::Other("ct"), 16),
        // NFT_FIB_RESULT_ADDRTYPE of the destination.
        ("fib", 3) if number(data, 3)? & 2 != 0 => (Load::DestinationType, 4),
        ("fib", _) => (Load::Other("fib"), 16),
        _ => return None,
    };
    Some(Expression::Load { load, to, length })
}

fn reject(data: &[u8]) -> Option<Reject> {
    let code = find(data, 2).and_then(|code| code.first()).copied().unwrap_or(0);
    // NFT_REJECT_TCP_RST; "port unreachable" is 3 in ICMP, 4 in ICMPv6 (which nobody else uses), 1 in both at once.
    let refused = match number(data, 1)? {
        1 => true,
        0 => code == 3 || code == 4,
        _ => code == 1,
    };
    Some(if refused { Reject::Refused } else { Reject::Unreachable })
}

/// The comment of a rule, from its user data (libnftnl's udata.h): type, length, text.
pub(super) fn comment(mut bytes: &[u8]) -> String {
    while let [kind, length, rest @ ..] = bytes {
        let length = usize::from(*length);
        if *kind == 0 {
            return text(rest.get(..length).unwrap_or_default());
        }
        bytes = rest.get(length..).unwrap_or_default();
    }
    String::new()
}

/// Two bytes in the host's order, at a place.
pub(super) fn host16(bytes: &[u8], at: usize) -> Option<u16> {
    u16_at(bytes, at)
}
