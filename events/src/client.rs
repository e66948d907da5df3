//! Who the client is when servers stand behind proxies: addresses from log text, and the right-most untrusted one.
//!
//! A header such as `X-Forwarded-For` is written by everyone on the way, the attacker first; only what trusted proxies
//! appended, at its right end, can be believed.
//!
//! Invariants
//! - The header of a peer that is not trusted is never looked at.
//! - IPv4-mapped IPv6 addresses are IPv4 everywhere.

use crate::networks::Networks;
use crate::swar;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The header that carries the client's address through proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientHeader {
    /// `X-Forwarded-For: client, proxy, proxy`.
    XForwardedFor,
    /// `Forwarded: for=client;proto=https, for=proxy` (RFC 7239).
    Forwarded,
    /// `X-Real-IP: client`.
    XRealIp,
}

/// Which peers are our own proxies, and which header they write.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Networks of trusted proxies.
    pub trusted: Networks,
    /// The header they write; `None`: the peer is the client.
    pub header: Option<ClientHeader>,
}

impl Proxies {
    /// Whether an address is one of our own proxies.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.contain(address)
    }

    /// The client behind a peer: the right-most untrusted address of the header where the peer is trusted, else the
    /// peer. Where the header names no address (or one that is none, such as `unknown`), the last trusted hop before it.
    pub fn resolve(&self, peer: IpAddr, header: &[u8]) -> IpAddr {
        if self.trusts(peer) { self.rightmost(header).unwrap_or(peer) } else { peer }
    }

    /// The right-most untrusted address of the header's value; the left-most trusted one where all are trusted; `None`
    /// where its right end is no address.
    pub fn rightmost(&self, header: &[u8]) -> Option<IpAddr> {
        let mut known = None;
        for element in from_the_right(header) {
            let address = match self.header {
                Some(ClientHeader::Forwarded) => forwarded_for(element).and_then(parse_endpoint),
                _ => parse_endpoint(element),
            };
            let Some(address) = address else { break };
            known = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        known
    }
}

/// The elements of a header's list, the last one first. Empty ones are skipped, as RFC 9110 (5.6.1) asks.
pub(crate) fn from_the_right(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.rsplit(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// The node of the `for=` parameter of one element of a `Forwarded` header.
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    let pair = element
        .split(|b| *b == b';')
        .map(<[u8]>::trim_ascii)
        .find(|pair| pair.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"for=")))?;
    let node = &pair[4..];
    Some(node.strip_prefix(b"\"").map_or(node, |rest| rest.strip_suffix(b"\"").unwrap_or(rest)))
}

/// An address as logs write it: IPv4, IPv6, IPv6 in brackets or with a zone (`fe80::1%eth0`). `None` for anything else,
/// host names among them.
#[inline]
pub fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    match ipv4_prefix(text) {
        Some((ip, used)) if used == text.len() => Some(IpAddr::V4(ip)),
        _ => parse_ipv6(text),
    }
}

/// An address that may carry a port: `1.2.3.4:80`, `[::1]:80`, or just the address.
pub fn parse_endpoint(text: &[u8]) -> Option<IpAddr> {
    if let Some((ip, used)) = ipv4_prefix(text)
        && text.get(used).is_none_or(|b| *b == b':')
        && text.get(used + 1..).unwrap_or_default().iter().all(u8::is_ascii_digit)
    {
        return Some(IpAddr::V4(ip));
    }
    if text.first() == Some(&b'[') {
        let close = memchr::memchr(b']', text)?;
        let port = &text[close + 1..];
        let digits = port.strip_prefix(b":").unwrap_or(port);
        return if digits.iter().all(u8::is_ascii_digit) { parse_ipv6(&text[1..close]) } else { None };
    }
    parse_ipv6(text).or_else(|| mapped_endpoint(text))
}

/// `::ffff:1.2.3.4:80`: behind the dots of IPv4 a colon can only be a port's.
#[cold]
fn mapped_endpoint(text: &[u8]) -> Option<IpAddr> {
    let at = memchr::memrchr(b':', text)?;
    let (address, port) = (&text[..at], &text[at + 1..]);
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    if is_port && address.contains(&b'.') { parse_ipv6(address) } else { None }
}

fn parse_ipv6(text: &[u8]) -> Option<IpAddr> {
    match eight_groups(text) {
        Some(ip) => Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)),
        None => parse_any_ipv6(text),
    }
}

/// An IPv6 address written in full, as most clients' are: eight groups of one to four digits.
fn eight_groups(text: &[u8]) -> Option<Ipv6Addr> {
    const LONGEST: usize = 39;
    if text.len() > LONGEST {
        return None;
    }
    // Every group ends at a colon, and eight bytes can be loaded wherever one begins.
    let mut padded = [b':'; LONGEST + 9];
    padded[..text.len()].copy_from_slice(text);
    let (mut groups, mut at) = ([0; 8], 0);
    for group in &mut groups {
        let word = u64::from_le_bytes(*padded.get(at..)?.first_chunk()?);
        let length = swar::find_in(word, b':');
        *group = swar::hexadecimal(word as u32, length)?;
        at += length + 1;
    }
    (at == text.len() + 1).then(|| Ipv6Addr::from(groups))
}

#[cold]
fn parse_any_ipv6(text: &[u8]) -> Option<IpAddr> {
    let text = text.strip_prefix(b"[").and_then(|t| t.strip_suffix(b"]")).unwrap_or(text);
    let text = text.split(|b| *b == b'%').next().unwrap_or_default();
    if !text.contains(&b':') || text.len() > 45 {
        return None;
    }
    let ip: Ipv6Addr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
}

/// The IPv4 address a text starts with, and its length. Numbers have no leading zeros, as RFC 6943 asks.
#[inline]
pub(crate) fn ipv4_prefix(text: &[u8]) -> Option<(Ipv4Addr, usize)> {
    match text.first_chunk() {
        Some(block) => ipv4_of_block(block),
        None => ipv4_of_bytes(text),
    }
}

/// The address at the beginning of 16 bytes: one more than the longest has, so that its end is seen.
#[inline]
fn ipv4_of_block(block: &[u8; 16]) -> Option<(Ipv4Addr, usize)> {
    let (mut no_digits, mut dots) = (0, 0);
    for (n, half) in block.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*half);
        no_digits |= swar::bits(swar::no_digits(word)) << (8 * n);
        dots |= (swar::bits(swar::other_than(word, b'.')) ^ 0xff) << (8 * n);
    }
    let mut ends = [0; 4];
    let mut rest = no_digits;
    for end in &mut ends {
        *end = rest.trailing_zeros() as usize;
        rest &= rest.wrapping_sub(1);
    }
    if ends[3] > 15 || (1 << ends[0] | 1 << ends[1] | 1 << ends[2]) & !dots != 0 {
        return None;
    }
    let (mut address, mut start, mut fits) = (0, 0, true);
    for end in ends {
        let length = end - start;
        if length.wrapping_sub(1) > 2 {
            return None;
        }
        let word = u32::from_le_bytes(*block.get(start..)?.first_chunk()?);
        let digits = word << (32 - 8 * length);
        let value = (digits >> 24 & 15) + (digits >> 16 & 15) * 10 + (digits >> 8 & 15) * 100;
        fits &= value <= 255 && (length == 1 || word & 15 != 0);
        address = address << 8 | value;
        start = end + 1;
    }
    fits.then(|| (Ipv4Addr::from(address), ends[3]))
}

fn ipv4_of_bytes(text: &[u8]) -> Option<(Ipv4Addr, usize)> {
    let (mut address, mut at) = (0u32, 0);
    for part in 0..4 {
        let digit = |at: usize| text.get(at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d <= 9).map(u32::from);
        let mut value = digit(at)?;
        at += 1;
        if let Some(second) = digit(at) {
            let leading = value;
            value = value * 10 + second;
            at += 1;
            if let Some(third) = digit(at) {
                value = value * 10 + third;
                at += 1;
            }
            if leading == 0 || value > 255 {
                return None;
            }
        }
        address = address << 8 | value;
        if part < 3 {
            if text.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
    }
    // A fourth digit makes the last part no part of an address.
    if text.get(at).is_some_and(u8::is_ascii_digit) { None } else { Some((Ipv4Addr::from(address), at)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_logs_write_them() {
        let rows: &[(&str, Option<&str>, Option<&str>)] = &[
            // text, as an address, as an endpoint
            ("1.2.3.4", Some("1.2.3.4"), Some("1.2.3.4")),
            ("255.255.255.255", Some("255.255.255.255"), Some("255.255.255.255")),
            ("1.2.3.256", None, None),
            ("1.2.3.1000", None, None),
            ("1.2.3.2551", None, None),
            ("1.2.3.0", Some("1.2.3.0"), Some("1.2.3.0")),
            ("1.2.3.00", None, None),
            ("01.2.3.4", None, None),
            ("1.2.3", None, None),
            ("1.2.3.4.5", None, None),
            ("1.2.3.4:80", None, Some("1.2.3.4")),
            ("1.2.3.4:x", None, None),
            ("2001:db8::1", Some("2001:db8::1"), Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1"), Some("2001:db8::1")),
            ("[2001:db8::1]:443", None, Some("2001:db8::1")),
            (
                "2a02:8083:19A6:1fbd:68f:84eb:a9:0",
                Some("2a02:8083:19a6:1fbd:68f:84eb:a9:0"),
                Some("2a02:8083:19a6:1fbd:68f:84eb:a9:0"),
            ),
            ("1:2:3:4:5:6:7", None, None),
            ("1:2:3:4:5:6:7:", None, None),
            ("1:2:3:4:5:6:7:8:9", None, None),
            ("1:2:3:4:5:6:7:12345", None, None),
            ("1:2:3:4:5:6:7:8:", None, None),
            (":1:2:3:4:5:6:7:8", None, None),
            ("1:2:3:4:5:6:7:g", None, None),
            (
                "aaaa:bbbb:cccc:dddd:eeee:ffff:0000:1111",
                Some("aaaa:bbbb:cccc:dddd:eeee:ffff:0:1111"),
                Some("aaaa:bbbb:cccc:dddd:eeee:ffff:0:1111"),
            ),
            ("0:0:0:0:0:ffff:a00:1", Some("10.0.0.1"), Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1"), Some("10.0.0.1")),
            ("::ffff:10.0.0.1:80", None, Some("10.0.0.1")),
            ("[::ffff:10.0.0.1]:80", None, Some("10.0.0.1")),
            ("::ffff:10.0.0.1:", None, None),
            ("fe80::1%eth0", Some("fe80::1"), Some("fe80::1")),
            ("", None, None),
            ("-", None, None),
            ("host.example", None, None),
            ("unix:", None, None),
        ];
        for (text, address, endpoint) in rows {
            let show = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string());
            assert_eq!(show(parse_ip(text.as_bytes())).as_deref(), *address, "{text}");
            assert_eq!(show(parse_endpoint(text.as_bytes())).as_deref(), *endpoint, "{text} as endpoint");
            for after in ["                ", "\"______________ ", ",1.2.3.4,1.2.3.4,", ":9999999999999999"] {
                let long = format!("{text}{after}");
                assert_eq!(ipv4_prefix(long.as_bytes()), ipv4_of_bytes(long.as_bytes()), "{long}");
            }
        }
    }

    #[test]
    fn the_right_most_untrusted_address_is_the_client() {
        use ClientHeader::{Forwarded, XForwardedFor, XRealIp};
        let rows: &[(&str, ClientHeader, &str, &str, &str)] = &[
            ("peer not trusted", XForwardedFor, "9.9.9.9", "1.1.1.1", "9.9.9.9"),
            ("one hop", XForwardedFor, "10.0.0.1", "1.1.1.1", "1.1.1.1"),
            ("forged entries on the left", XForwardedFor, "10.0.0.1", "6.6.6.6, 7.7.7.7, 1.1.1.1", "1.1.1.1"),
            ("trusted hops on the right", XForwardedFor, "10.0.0.1", "6.6.6.6, 1.1.1.1, 10.2.3.4", "1.1.1.1"),
            ("all trusted", XForwardedFor, "10.0.0.1", "10.0.0.9,10.0.0.8", "10.0.0.9"),
            ("absent", XForwardedFor, "10.0.0.1", "", "10.0.0.1"),
            ("empty elements", XForwardedFor, "10.0.0.1", "6.6.6.6, 2001:db8::2, , 10.2.3.4,,", "2001:db8::2"),
            ("empty elements only", XForwardedFor, "10.0.0.1", ", ,", "10.0.0.1"),
            ("unknown", XForwardedFor, "10.0.0.1", "1.1.1.1, unknown", "10.0.0.1"),
            ("unknown behind a trusted hop", XForwardedFor, "10.0.0.1", "1.1.1.1, unknown, 10.0.0.7", "10.0.0.7"),
            ("port", XForwardedFor, "10.0.0.1", "1.1.1.1:5000", "1.1.1.1"),
            ("mapped proxy", XForwardedFor, "10.0.0.1", "1.1.1.1, ::ffff:10.0.0.3", "1.1.1.1"),
            ("real ip", XRealIp, "10.0.0.1", "1.1.1.1", "1.1.1.1"),
            ("forwarded", Forwarded, "10.0.0.1", "for=6.6.6.6, For=\"[2001:db8::1]:47\";proto=https", "2001:db8::1"),
            ("forwarded, by first", Forwarded, "10.0.0.1", "by=10.0.0.2;for=1.1.1.1", "1.1.1.1"),
            ("forwarded, hidden", Forwarded, "10.0.0.1", "for=_secret", "10.0.0.1"),
            ("unclosed quote on the left", Forwarded, "10.0.0.1", "for=\"6.6.6.6, for=1.1.1.1", "1.1.1.1"),
        ];
        for (name, header, peer, value, want) in rows {
            let proxies = Proxies { trusted: vec!["10.0.0.0/8".parse().unwrap()].into(), header: Some(*header) };
            let got = proxies.resolve(peer.parse().unwrap(), value.as_bytes());
            assert_eq!(got.to_string(), *want, "{name}");
        }
    }
}
