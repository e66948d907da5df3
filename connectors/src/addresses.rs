//! Finds addresses in texts, in any spelling.

use std::net::IpAddr;
use std::ops::Range;

/// Where some addresses stand in a text, and networks (`ADDRESS/BITS`, IPv6 from /48 on) that hold them, without their bits.
pub(crate) fn places(text: &[u8], addresses: &[IpAddr]) -> Vec<Range<usize>> {
    let is_meant = |(place, ip): &(Range<usize>, IpAddr)| {
        let bits = network_bits(&text[place.end..]);
        addresses.iter().any(|address| match (bits, address, ip) {
            (Some(bits), IpAddr::V6(address), IpAddr::V6(ip)) if bits >= 48 => {
                (u128::from(*address) ^ u128::from(*ip)).leading_zeros() >= bits
            }
            _ => address == ip,
        })
    };
    tidewatch_events::addresses::of(text).filter(is_meant).map(|(place, _)| place).collect()
}

/// The bits of `/64` at the start of a text.
fn network_bits(rest: &[u8]) -> Option<u32> {
    let digits = rest.strip_prefix(b"/")?;
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(digits.get(..count)?).ok()?.parse().ok().filter(|bits| *bits <= 128)
}
