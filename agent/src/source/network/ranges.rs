//! Sets of source addresses as sorted ranges: what part of the world a firewall rule still sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Inclusive ranges, sorted, without overlap. IPv4 addresses are the numbers below 2^32.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u128, u128)>);

/// Which family the numbers are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn last(self) -> u128 {
        match self {
            Self::V4 => u128::from(u32::MAX),
            Self::V6 => u128::MAX,
        }
    }

    /// Bytes of an address.
    pub(super) fn length(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

/// An address as a number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// Bytes in network order as a number.
pub(super) fn number_of(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

impl Ranges {
    /// Every address.
    pub(super) fn all(ip: Ip) -> Self {
        Self(vec![(0, ip.last())])
    }

    /// Everything from `first` to `last`.
    pub(super) fn range(first: u128, last: u128) -> Self {
        if first > last { Self::default() } else { Self(vec![(first, last)]) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        for &(a, b) in &self.0 {
            both.extend(other.0.iter().filter_map(|&(c, d)| {
                let (first, last) = (a.max(c), b.min(d));
                (first <= last).then_some((first, last))
            }));
        }
        both.sort_unstable();
        Self(both)
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for &(c, d) in &other.0 {
            left = left
                .into_iter()
                .flat_map(|(a, b)| {
                    let before = (a < c).then(|| (a, b.min(c.saturating_sub(1))));
                    let after = (b > d).then(|| (a.max(d.saturating_add(1)), b));
                    [before, after].into_iter().flatten()
                })
                .collect();
        }
        Self(left)
    }

    pub(super) fn or(&self, other: &Self) -> Self {
        let mut all: Vec<(u128, u128)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut joined: Vec<(u128, u128)> = Vec::new();
        for (first, last) in all {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    pub(super) fn complement(&self, ip: Ip) -> Self {
        Self::all(ip).without(self)
    }

    /// "10.0.0.0/8", "10.0.0.1", "10.0.0.1-10.0.0.9"; nothing for every address.
    pub(super) fn texts(&self, ip: Ip) -> Vec<String> {
        if *self == Self::all(ip) {
            return Vec::new();
        }
        self.0.iter().map(|&(first, last)| text(ip, first, last)).collect()
    }
}

fn text(ip: Ip, first: u128, last: u128) -> String {
    let size = last.wrapping_sub(first);
    let bits = size.count_ones();
    let length = u32::try_from(ip.length() * 8).unwrap_or(0);
    let is_prefix = size & size.wrapping_add(1) == 0 && first & size == 0;
    match (is_prefix, bits) {
        (true, 0) => ip.address(first).to_string(),
        (true, bits) => format!("{}/{}", ip.address(first), length.saturating_sub(bits)),
        (false, _) => format!("{}-{}", ip.address(first), ip.address(last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(first: &str, last: &str) -> Ranges {
        let number = |text: &str| number(text.parse::<Ipv4Addr>().unwrap().into());
        Ranges::range(number(first), number(last))
    }

    #[test]
    fn what_is_taken_away_is_gone_and_the_rest_reads_as_prefixes() {
        let ten = v4("10.0.0.0", "10.255.255.255");
        assert_eq!(ten.texts(Ip::V4), ["10.0.0.0/8"]);
        assert_eq!(Ranges::all(Ip::V4).texts(Ip::V4), Vec::<String>::new());
        let one = v4("10.0.0.1", "10.0.0.1");
        let rest = ten.without(&one);
        assert_eq!(rest.texts(Ip::V4), ["10.0.0.0", "10.0.0.2-10.255.255.255"]);
        assert_eq!(rest.or(&one), ten);
        assert!(rest.and(&one).is_empty());
        assert_eq!(one.complement(Ip::V4).complement(Ip::V4), one);
        let all = Ranges::all(Ip::V6);
        assert!(all.without(&all).is_empty());
        assert_eq!(all.and(&all), all);
    }
}
