//! A set of networks, however many: whether an address is in one of them is asked for every event.
//!
//! Invariants
//! - Ranges ascend and neither overlap nor touch, so that an address is in at most one.
//! - An IPv4 address is in no IPv6 network, and the other way round.

use ipnet::IpNet;
use std::net::IpAddr;

/// Networks, to be looked up by address.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    given: Vec<IpNet>,
    /// First and last addresses.
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Networks {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// The networks as they were given.
    pub fn given(&self) -> &[IpNet] {
        &self.given
    }

    /// Whether an address is in one of them.
    #[inline]
    pub fn contain(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => is_in(&self.v4, address.to_bits()),
            IpAddr::V6(address) => is_in(&self.v6, address.to_bits()),
        }
    }
}

impl From<Vec<IpNet>> for Networks {
    fn from(given: Vec<IpNet>) -> Networks {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in &given {
            match network {
                IpNet::V4(network) => v4.push((network.network().to_bits(), network.broadcast().to_bits())),
                IpNet::V6(network) => v6.push((network.network().to_bits(), network.broadcast().to_bits())),
            }
        }
        let v4 = merged(v4, |last, first| last.checked_add(1).is_none_or(|next| first <= next));
        let v6 = merged(v6, |last, first| last.checked_add(1).is_none_or(|next| first <= next));
        Networks { given, v4, v6 }
    }
}

/// So few are compared one by one: that is as fast as to search among them.
const FEW: usize = 8;

#[inline]
fn is_in<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    if ranges.len() <= FEW {
        return ranges.iter().any(|(first, last)| *first <= address && address <= *last);
    }
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    behind > 0 && address <= ranges[behind - 1].1
}

/// Ranges in order; those that overlap or touch (`joins` says so of the end of one and the beginning of a later one) are one.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>, joins: impl Fn(T, T) -> bool) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if joins(*end, first) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_networks_as_by_looking_at_each() {
        let many = |n: u32| format!("10.{}.{}.0/24", n % 7, n * 37 % 256);
        let many_v6 = |n: u32| format!("2001:db8:{:x}::/48", n * 31 % 97);
        let rows: &[(&str, Vec<String>)] = &[
            ("none", vec![]),
            ("all of IPv4", vec!["0.0.0.0/0".into(), "10.0.0.0/8".into()]),
            ("all of IPv6", vec!["::/0".into(), "2001:db8::/32".into()]),
            ("one address", vec!["10.3.37.0/32".into(), "2001:db8:1f::/128".into()]),
            ("the last", vec!["255.255.255.255/32".into(), "ffff::/16".into(), "240.0.0.0/4".into()]),
            ("within another, and beside it", vec!["10.3.0.0/17".into(), "10.3.5.0/24".into(), "10.3.128.0/17".into()]),
            ("many", (0..200).map(many).chain((0..50).map(many_v6)).collect()),
        ];
        for (name, networks) in rows {
            let given: Vec<IpNet> = networks.iter().map(|text| text.parse().unwrap()).collect();
            let table = Networks::from(given.clone());
            let edges = given.iter().chain(&given).flat_map(|network| match network {
                IpNet::V4(network) => {
                    let (first, last) = (network.network().to_bits(), network.broadcast().to_bits());
                    [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(|bits| IpAddr::V4(bits.into()))
                }
                IpNet::V6(network) => {
                    let (first, last) = (network.network().to_bits(), network.broadcast().to_bits());
                    [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(|bits| IpAddr::V6(bits.into()))
                }
            });
            let some =
                ["10.3.37.0", "192.0.2.1", "0.0.0.0", "255.255.255.255", "::", "2001:db8:1f::", "::ffff:10.3.37.0"];
            for address in edges.chain(some.map(|text| text.parse().unwrap())) {
                let want = given.iter().any(|network| network.contains(&address));
                assert_eq!(table.contain(address), want, "{name}: {address}");
            }
            assert_eq!((table.given(), table.is_empty()), (&given[..], given.is_empty()), "{name}");
        }
    }

    #[test]
    fn networks_that_touch_are_one_range() {
        let networks = (0..=255u32).rev().map(|n| format!("10.0.{n}.0/24").parse().unwrap()).collect::<Vec<IpNet>>();
        assert_eq!(Networks::from(networks).v4, [(0x0a00_0000, 0x0a00_ffff)]);
    }
}
