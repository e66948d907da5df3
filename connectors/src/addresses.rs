//! Finds addresses in texts, in any spelling.

use std::net::IpAddr;
use std::ops::Range;
use tidewatch_events::client;

/// Where some addresses stand in a text, and networks (`ADDRESS/BITS`, IPv6 from /48 on) that hold them, without their bits.
pub(crate) fn places(text: &[u8], addresses: &[IpAddr]) -> Vec<Range<usize>> {
    let is_part = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b'.' | b':');
    let (mut found, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let length = text[at..].iter().take_while(|b| is_part(b)).count();
        let (start, word) = (at, &text[at..at + length]);
        at += length.max(1);
        if length < 2 {
            continue;
        }
        // `1.2.3.4:80` and a full stop behind an address are no part of it.
        let colon = word.iter().position(|b| *b == b':').unwrap_or(length);
        let cuts = [length, length - usize::from(word.ends_with(b".") || word.ends_with(b":")), colon];
        let Some((cut, ip)) = cuts.into_iter().find_map(|cut| Some((cut, client::parse_ip(&word[..cut])?))) else {
            continue;
        };
        let bits = network_bits(&text[start + cut..]);
        let is_meant = addresses.iter().any(|address| match (bits, address, ip) {
            (Some(bits), IpAddr::V6(address), IpAddr::V6(ip)) if bits >= 48 => {
                (u128::from(*address) ^ u128::from(ip)).leading_zeros() >= bits
            }
            _ => *address == ip,
        });
        if is_meant {
            found.push(start..start + cut);
        }
    }
    found
}

/// The bits of `/64` at the start of a text.
fn network_bits(rest: &[u8]) -> Option<u32> {
    let digits = rest.strip_prefix(b"/")?;
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(digits.get(..count)?).ok()?.parse().ok().filter(|bits| *bits <= 128)
}
