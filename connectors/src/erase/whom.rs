//! A client that is looked for in texts: its addresses in any spelling, its names in any case.

use std::net::IpAddr;
use std::ops::Range;
use tidewatch_events::privacy::names;

/// Who is to be erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whom {
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Host names, or other names that clients have in logs.
    pub names: Vec<String>,
}

impl From<&[IpAddr]> for Whom {
    fn from(addresses: &[IpAddr]) -> Whom {
        Whom { addresses: addresses.to_vec(), names: Vec::new() }
    }
}

impl Whom {
    /// Where the client stands in a text, ascending: its addresses, networks (`ADDRESS/BITS`, IPv6 from /48 on) that hold them,
    /// without their bits, and its names.
    pub(crate) fn places(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut places = Vec::new();
        if !self.addresses.is_empty() {
            let found = tidewatch_events::addresses::of(text);
            places.extend(found.filter(|(place, ip)| self.holds(*ip, &text[place.end..])).map(|(place, _)| place));
        }
        if !self.names.is_empty() {
            places.extend(self.names.iter().flat_map(|name| names::places(text, name.as_bytes())));
            one_behind_the_other(&mut places);
        }
        places
    }

    /// Whether an address with what follows it in a text is one that is looked for.
    fn holds(&self, ip: IpAddr, rest: &[u8]) -> bool {
        let bits = network_bits(rest);
        self.addresses.iter().any(|address| match (bits, address, ip) {
            (Some(bits), IpAddr::V6(address), IpAddr::V6(ip)) if bits >= 48 => {
                (u128::from(*address) ^ u128::from(ip)).leading_zeros() >= bits
            }
            _ => *address == ip,
        })
    }
}

/// Puts places in order, and leaves out what lies in another or begins in it.
pub(crate) fn one_behind_the_other(places: &mut Vec<Range<usize>>) {
    places.sort_by_key(|place| (place.start, std::cmp::Reverse(place.end)));
    let mut end = 0;
    places.retain(|place| {
        let is_behind = place.start >= end;
        end = end.max(place.end);
        is_behind
    });
}

/// The bits of `/64` at the start of a text.
fn network_bits(rest: &[u8]) -> Option<u32> {
    let digits = rest.strip_prefix(b"/")?;
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(digits.get(..count)?).ok()?.parse().ok().filter(|bits| *bits <= 128)
}
