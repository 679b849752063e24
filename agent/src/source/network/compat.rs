//! Matches and targets of iptables inside of nf_tables rules, as iptables-nft writes them (`man iptables-nft`,
//! include/uapi/linux/netfilter/xt_*.h).

use super::expression::{Expression, Reject, Verdict, host16};

/// A match of iptables, as far as it is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// Destination ports, one of these ranges or, inverted, none; and whether source ports are asked for too.
    Ports { ranges: Vec<(u16, u16)>, inverted: bool, others: bool },
    /// Bits as in `ct state`.
    TrackState { bits: u16, inverted: bool },
    /// `-m comment`
    Comment(String),
}

/// A state like `NEW` as `ct state` numbers it: both have the same bits.
const STATE_REV0: usize = 4;
/// Offset of `state_mask` in struct xt_conntrack_mtinfo2 and 3, behind addresses, times and ports.
const STATE_MASK: usize = 150;

pub(super) fn matching(name: &str, revision: u32, info: &[u8]) -> Option<Match> {
    match (name, revision) {
        ("tcp", _) => tcp(info),
        ("multiport", 1) => multiport(info),
        ("state", _) if info.len() >= STATE_REV0 => {
            Some(Match::TrackState { bits: host16(info, 0)?, inverted: false })
        }
        ("conntrack", 2 | 3) => {
            let (asked, inverted) = (host16(info, 146)?, host16(info, 148)?);
            // XT_CONNTRACK_STATE, and nothing else.
            let inverted = inverted & 1 != 0;
            (asked == 1).then_some(Match::TrackState { bits: host16(info, STATE_MASK)?, inverted })
        }
        ("comment", _) => Some(Match::Comment(super::expression::text(info))),
        _ => None,
    }
}

/// struct xt_tcp: source ports, destination ports, option, flags and their mask, what is inverted.
fn tcp(info: &[u8]) -> Option<Match> {
    let source = (host16(info, 0)?, host16(info, 2)?);
    let destination = (host16(info, 4)?, host16(info, 6)?);
    let [option, mask, wanted, inverse] = *info.get(8..12)? else { return None };
    // `--syn` takes every first packet of a connection.
    let syn = mask & 0x02 == 0 || wanted & 0x02 != 0;
    Some(Match::Ports {
        ranges: vec![destination],
        inverted: inverse & 0x02 != 0,
        others: source != (0, u16::MAX) || option != 0 || !syn || inverse & !0x02 != 0,
    })
}

/// struct xt_multiport_v1: which ports, how many, the ports, which of them begin a range, whether inverted.
fn multiport(info: &[u8]) -> Option<Match> {
    const PORTS: usize = 15;
    let count = usize::from(*info.get(1)?).min(PORTS);
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < count {
        let first = host16(info, 2 + at * 2)?;
        let begins = *info.get(2 + PORTS * 2 + at)? != 0;
        at += usize::from(begins);
        ranges.push((first, host16(info, 2 + at * 2)?));
        at += 1;
    }
    let inverted = *info.get(2 + PORTS * 3)? != 0;
    Some(Match::Ports { ranges, inverted, others: *info.first()? != 1 })
}

/// What a target does. Those that only write something change nothing here.
pub(super) fn target(name: &str, info: &[u8], ip6: bool) -> Option<Expression> {
    let decide = |verdict| Some(Expression::Decide(verdict));
    match name {
        "REJECT" => {
            // "port unreachable" and "tcp reset" of enum ipt_reject_with and enum ip6t_reject_with.
            let refused = if ip6 { [4, 6] } else { [3, 7] }.contains(&host16(info, 0)?);
            decide(Verdict::Reject(if refused { Reject::Refused } else { Reject::Unreachable }))
        }
        "DNAT" | "REDIRECT" | "TPROXY" => decide(Verdict::Translate),
        "NFQUEUE" => decide(Verdict::Queue),
        "TARPIT" => decide(Verdict::Drop),
        _ => Some(Expression::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_of_iptables_in_the_kernels_layout() {
        // -p tcp --dport 8000:8010, as struct xt_tcp.
        let mut info = Vec::new();
        for port in [0u16, 0xffff, 8000, 8010] {
            info.extend(port.to_ne_bytes());
        }
        info.extend([0, 0, 0, 0]);
        let ports =
            |inverted, others| Some(Match::Ports { ranges: vec![(8000, 8010)], inverted, others });
        assert_eq!(matching("tcp", 0, &info), ports(false, false));
        info[11] = 2;
        assert_eq!(matching("tcp", 0, &info), ports(true, false));
        info[0] = 1;
        assert_eq!(matching("tcp", 0, &info), ports(true, true));
        assert_eq!(matching("tcp", 0, &info[..9]), None);
        // -m multiport --dports 80,8000:8010
        let mut info = vec![1, 3];
        for port in [80u16, 8000, 8010] {
            info.extend(port.to_ne_bytes());
        }
        info.resize(32, 0);
        info.extend([0, 1]);
        info.resize(48, 0);
        let ranges = vec![(80, 80), (8000, 8010)];
        let expected = Match::Ports { ranges, inverted: false, others: false };
        assert_eq!(matching("multiport", 1, &info), Some(expected));
        // -m conntrack --ctstate ESTABLISHED
        let mut info = vec![0; 160];
        info[146..148].copy_from_slice(&1u16.to_ne_bytes());
        info[150..152].copy_from_slice(&2u16.to_ne_bytes());
        let expected = Match::TrackState { bits: 2, inverted: false };
        assert_eq!(matching("conntrack", 3, &info), Some(expected));
        assert_eq!(matching("recent", 1, &info), None);
    }

    #[test]
    fn a_reset_refuses_and_other_messages_do_not() {
        let with = |number: u32, ip6| target("REJECT", &number.to_ne_bytes(), ip6);
        let is = |how| Some(Expression::Decide(Verdict::Reject(how)));
        assert_eq!(with(7, false), is(Reject::Refused));
        assert_eq!(with(3, false), is(Reject::Refused));
        assert_eq!(with(6, true), is(Reject::Refused));
        assert_eq!(with(8, false), is(Reject::Unreachable));
        assert_eq!(with(1, true), is(Reject::Unreachable));
        assert_eq!(target("LOG", &[], false), Some(Expression::Nothing));
    }
}
