//! Finds addresses in texts of any kind, as people and programs write them.
//!
//! Invariants
//! - `1.2.3.4:80`, `[::1]:80`, `::ffff:1.2.3.4:80` and a full stop behind an address: neither port nor stop are part of it.
//! - Escapes (`%2E`, `\x2e`, `\u002e`, and `\\x2e` as it stands in JSON) are the characters they stand for.
//! - What has a digit or a part more (`1.2.3.45`, `1.2.3.4.5`) is another address, or none.
//! - The time taken grows with the text's length only.

use crate::{client, escape};
use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

/// More than the longest address with its port has.
const LONGEST: usize = 64;

/// The shortest address (`::1`).
const SHORTEST: usize = 3;

/// All addresses of a text in their order, and where they stand.
pub fn of(text: &[u8]) -> impl Iterator<Item = (Range<usize>, IpAddr)> {
    let (text, escapes) = plain(text);
    Addresses { text, escapes, at: 0, end: 0 }
}

/// An escape that was read: the place behind it in the text without escapes, and by how much it and all before it are longer.
struct Escape {
    behind: usize,
    longer: usize,
}

/// The text without its escapes; as it is where it has none.
fn plain(text: &[u8]) -> (Cow<'_, [u8]>, Vec<Escape>) {
    let mut plain = Vec::new();
    let mut escapes = Vec::new();
    let (mut copied, mut longer) = (0, 0);
    for at in memchr::memchr2_iter(b'%', b'\\', text) {
        // In JSON the backslash of an escape of the log is two.
        let doubled = usize::from(text[at..].starts_with(b"\\\\"));
        if at >= copied
            && let Some((b, used)) = escape::first(&text[at + doubled..]).map(|(b, used)| (b, used + doubled))
            && used > 1 + doubled
        {
            plain.extend_from_slice(&text[copied..at]);
            plain.push(b);
            copied = at + used;
            longer += used - 1;
            escapes.push(Escape { behind: plain.len(), longer });
        }
    }
    if escapes.is_empty() {
        return (Cow::Borrowed(text), escapes);
    }
    plain.extend_from_slice(&text[copied..]);
    (Cow::Owned(plain), escapes)
}

struct Addresses<'a> {
    text: Cow<'a, [u8]>,
    escapes: Vec<Escape>,
    /// What is left of the word being looked at.
    at: usize,
    end: usize,
}

impl Addresses<'_> {
    /// Where a place in the text without escapes is in the text as it was given.
    fn place(&self, at: usize) -> usize {
        let before = self.escapes.partition_point(|escape| escape.behind <= at);
        at + before.checked_sub(1).map_or(0, |last| self.escapes[last].longer)
    }
}

impl Iterator for Addresses<'_> {
    type Item = (Range<usize>, IpAddr);

    fn next(&mut self) -> Option<(Range<usize>, IpAddr)> {
        let is_part = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b'.' | b':');
        loop {
            if self.at < self.end {
                let start = self.at;
                let word = &self.text[start..self.end];
                if let Some((place, ip)) = whole(word).or_else(|| ipv4_within(word)) {
                    self.at = start + place.end;
                    return Some((self.place(start + place.start)..self.place(self.at), ip));
                }
                self.at = self.end;
            }
            let rest = self.text.get(self.at..)?;
            self.at += rest.iter().position(is_part)?;
            self.end = self.at + self.text[self.at..].iter().take_while(|b| is_part(b)).count();
        }
    }
}

/// The address that a word begins with, where nothing but a port or a stop is left of it.
fn whole(word: &[u8]) -> Option<(Range<usize>, IpAddr)> {
    if word.len() > LONGEST {
        return None;
    }
    // `client:2001:db8::1`
    let start = usize::from(matches!(word, [b':', b, ..] if *b != b':'));
    let stop = word.len() - usize::from(matches!(word, [.., b'.' | b':']));
    let port = word[..stop].iter().rposition(|b| *b == b':').unwrap_or(stop);
    [word.len(), stop, port].into_iter().filter(|end| *end >= start + SHORTEST).find_map(|end| {
        let ip = client::parse_ip(&word[start..end])?;
        Some((start..end, ip))
    })
}

/// The first IPv4 address within a word.
fn ipv4_within(word: &[u8]) -> Option<(Range<usize>, IpAddr)> {
    let mut from = 0;
    word.split(|b| !b.is_ascii_digit() && *b != b'.').find_map(|run| {
        let start = from + run.iter().take_while(|b| **b == b'.').count();
        from += run.len() + 1;
        let stops = run.iter().rev().take_while(|b| **b == b'.').count();
        let end = from - 1 - stops;
        let (ip, used) = client::ipv4_prefix(word.get(start..end)?)?;
        (used == end - start).then_some((start..end, IpAddr::V4(ip)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_as_they_are_written() {
        let rows: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("1.2.3.4", &[("1.2.3.4", "1.2.3.4")]),
            ("1.2.3.4:80, 5.6.7.8.", &[("1.2.3.4", "1.2.3.4"), ("5.6.7.8", "5.6.7.8")]),
            ("1.2.3.4:5.6.7.8", &[("1.2.3.4", "1.2.3.4"), ("5.6.7.8", "5.6.7.8")]),
            ("ip:1.2.3.4", &[("1.2.3.4", "1.2.3.4")]),
            ("client:1.2.3.4:80", &[("1.2.3.4", "1.2.3.4")]),
            ("..1.2.3.4..", &[("1.2.3.4", "1.2.3.4")]),
            ("a%2C1.2.3.4%3A80", &[("1.2.3.4", "1.2.3.4")]),
            ("\\x2c1.2.3.4", &[("1.2.3.4", "1.2.3.4")]),
            ("%31.2.3%2E4\\u0026", &[("%31.2.3%2E4", "1.2.3.4")]),
            ("\\u00261\\u002e2.3.4\\x26", &[("1\\u002e2.3.4", "1.2.3.4")]),
            ("1\\\\x2E2.3.4\\\\n", &[("1\\\\x2E2.3.4", "1.2.3.4")]),
            ("2001%3Adb8%3A:1%2c::%31", &[("2001%3Adb8%3A:1", "2001:db8::1"), ("::%31", "::1")]),
            ("::ffff:1.2.3.4", &[("::ffff:1.2.3.4", "1.2.3.4")]),
            ("::ffff:1.2.3.4:1234", &[("::ffff:1.2.3.4", "1.2.3.4")]),
            ("::FFFF:1.2.3.4:1234.", &[("::FFFF:1.2.3.4", "1.2.3.4")]),
            ("[::ffff:1.2.3.4]:1234", &[("::ffff:1.2.3.4", "1.2.3.4")]),
            ("::ffff:102:304", &[("::ffff:102:304", "1.2.3.4")]),
            ("0:0:0:0:0:ffff:1.2.3.4:80", &[("0:0:0:0:0:ffff:1.2.3.4", "1.2.3.4")]),
            ("client:2001:db8::1", &[("2001:db8::1", "2001:db8::1")]),
            ("2001:db8::1: 2001:db8::.", &[("2001:db8::1", "2001:db8::1"), ("2001:db8::", "2001:db8::")]),
            ("[2001:db8::1]:443", &[("2001:db8::1", "2001:db8::1")]),
            ("fe80::1%eth0", &[("fe80::1", "fe80::1")]),
            ("1:2:3:4:5:6:7:8:8080", &[("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8")]),
            ("1.2.3.45.6 1.2.3 1.2.3.256 01.2.3.4 1203.0.113.7", &[]),
            ("15:49:10 :: std::fee: aa:bb:cc:dd:ee:ff 2020-06-01T15:49:10Z", &[("d::fee", "d::fee")]),
        ];
        for (text, want) in rows {
            let found: Vec<(&str, String)> =
                of(text.as_bytes()).map(|(place, ip)| (&text[place], ip.to_string())).collect();
            let want: Vec<(&str, String)> = want.iter().map(|(at, ip)| (*at, (*ip).to_owned())).collect();
            assert_eq!(found, want, "{text}");
        }
    }

    #[test]
    fn a_long_word_is_looked_at_once() {
        let text = "1.2.3.4:".repeat(100_000);
        assert_eq!(of(text.as_bytes()).count(), 100_000);
        assert_eq!(of("f".repeat(1 << 20).as_bytes()).count(), 0);
    }
}
