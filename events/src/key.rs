//! Group keys: the values of a rule's `group_by` fields in a compact, comparable, self-describing form of bytes.
//!
//! One value is a tag byte and a payload: `0` nothing, `1` text (length as two bytes, big-endian, then the bytes),
//! `2` IPv4 (4 bytes), `3` IPv6 (16 bytes), `4` number (8 bytes, big-endian). A key is its values one after another.
//! Text longer than [`crate::text::MAX_VALUE_BYTES`] is cut as [`crate::text::bounded`] says, so keys are bounded.

use crate::field::Value;
use crate::text;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

/// Appends a value to a key. IPv6 addresses are cut to their first `ipv6_prefix` bits (0–128).
#[inline]
pub fn push(key: &mut Vec<u8>, value: Value<'_>, ipv6_prefix: u8) {
    match value {
        Value::None => key.push(0),
        Value::Text(bytes) => {
            let cut;
            let bytes = if bytes.len() <= text::MAX_VALUE_BYTES {
                bytes
            } else {
                cut = text::bounded(bytes);
                cut.as_bytes()
            };
            key.push(1);
            key.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            key.extend_from_slice(bytes);
        }
        Value::Ip(IpAddr::V4(ip)) => {
            key.push(2);
            key.extend_from_slice(&ip.octets());
        }
        Value::Ip(IpAddr::V6(ip)) => {
            key.push(3);
            key.extend_from_slice(&mask(ip, ipv6_prefix).octets());
        }
        Value::Number(n) => {
            key.push(4);
            key.extend_from_slice(&n.to_be_bytes());
        }
    }
}

/// The first `prefix` bits of an address, the others zero.
pub fn mask(ip: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let keep = u32::from(prefix.min(128));
    let mask = if keep == 0 { 0 } else { u128::MAX << (128 - keep) };
    Ipv6Addr::from(u128::from(ip) & mask)
}

/// The values of a key as text for people: addresses in their usual form, an IPv6 group as `2001:db8::/64` where
/// `ipv6_prefix` is below 128, text made printable, nothing as `-`.
///
/// # Panics
/// If the bytes are not a key made by [`push`].
pub fn show(mut key: &[u8], ipv6_prefix: u8) -> Vec<String> {
    let mut out = Vec::new();
    while !key.is_empty() {
        let mut text = String::new();
        key = show_next(key, ipv6_prefix, &mut text);
        out.push(text);
    }
    out
}

/// Appends the first value of a key as [`show`] has it; gives the rest of the key. Nothing of an empty key.
///
/// # Panics
/// If the bytes are not a key made by [`push`].
pub fn show_next<'k>(key: &'k [u8], ipv6_prefix: u8, out: &mut String) -> &'k [u8] {
    let Some((tag, rest)) = key.split_first() else { return key };
    // Writing to a string cannot fail.
    let used = match tag {
        0 => {
            out.push('-');
            0
        }
        1 => {
            let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            out.push_str(&text::bounded(&rest[2..2 + len]));
            2 + len
        }
        2 => {
            let _ = write!(out, "{}", IpAddr::from(<[u8; 4]>::try_from(&rest[..4]).expect("four bytes")));
            4
        }
        3 => {
            let ip = IpAddr::from(<[u8; 16]>::try_from(&rest[..16]).expect("sixteen bytes"));
            let _ = write!(out, "{ip}");
            if ipv6_prefix < 128 {
                let _ = write!(out, "/{ipv6_prefix}");
            }
            16
        }
        4 => {
            let number = u64::from_be_bytes(rest[..8].try_into().expect("eight bytes"));
            out.push_str(itoa::Buffer::new().format(number));
            8
        }
        other => panic!("a key's tag is 0 to 4, not {other}"),
    };
    &rest[used..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_show_what_was_pushed() {
        let mut key = Vec::new();
        push(&mut key, Value::Ip("1.2.3.4".parse().unwrap()), 64);
        push(&mut key, Value::Ip("2001:db8:1:2:3::4".parse().unwrap()), 64);
        push(&mut key, Value::Text(b"/a\x1b"), 64);
        push(&mut key, Value::Number(404), 64);
        push(&mut key, Value::None, 64);
        assert_eq!(show(&key, 64), ["1.2.3.4", "2001:db8:1:2::/64", "/a\\x1B", "404", "-"]);
        let long = vec![b'x'; 70_000];
        let mut key = Vec::new();
        push(&mut key, Value::Text(&long), 64);
        assert!(key.len() < 300);
    }
}
