//! What of a line is masked once it is old: of addresses what is below their network, of names what is below their domain.
//!
//! Invariants
//! - The rest is no address, and shows the network: `203.0.113.**`, `2001:db8:1:******`, `********.example.org`.
//! - Nothing but values is touched: a line of JSON or of line protocol stays one.

use crate::erase::whom::one_behind_the_other;
use std::borrow::Cow;
use std::ops::Range;
use tidewatch_events::addresses;
use tidewatch_events::privacy::names;

/// What is masked in a line of results, ascending.
pub(super) fn hidden(line: &[u8]) -> Vec<Range<usize>> {
    hidden_with(line, named(line))
}

/// What is masked in a line of a log, ascending.
pub(super) fn hidden_in_log(line: &[u8]) -> Vec<Range<usize>> {
    let mut all: Vec<Vec<u8>> = names::where_clients_stand(line).map(|place| line[place].to_vec()).collect();
    all.sort();
    all.dedup();
    hidden_with(line, all)
}

fn hidden_with(line: &[u8], named: Vec<Vec<u8>>) -> Vec<Range<usize>> {
    let mut places: Vec<Range<usize>> =
        addresses::of(line).filter_map(|(place, _)| below_the_network(line, place)).collect();
    for name in named {
        places.extend(names::places(line, &name).filter_map(|place| below_the_domain(line, place)));
    }
    one_behind_the_other(&mut places);
    places
}

/// The part of an address that is its own; all of one that is written in any other way than usual.
fn below_the_network(line: &[u8], place: Range<usize>) -> Option<Range<usize>> {
    let text = &line[place.clone()];
    let from = if text.iter().all(|b| b.is_ascii_digit() || *b == b'.') {
        memchr::memrchr(b'.', text).map_or(0, |at| at + 1)
    } else if text.iter().all(|b| b.is_ascii_hexdigit() || *b == b':') {
        let zeros = memchr::memmem::find(text, b"::").map_or(text.len(), |at| at + 2);
        let third = memchr::memchr_iter(b':', text).nth(2).map_or(text.len(), |at| at + 1);
        zeros.min(third)
    } else {
        0
    };
    (from < text.len()).then(|| place.start + from..place.end)
}

/// The parts of a name before the last two, the first in any case. One without a domain is masked where it is a whole value or
/// begins one: elsewhere it may be any word.
fn below_the_domain(line: &[u8], place: Range<usize>) -> Option<Range<usize>> {
    let mut dots = memchr::memrchr_iter(b'.', &line[place.clone()]);
    let (last, second) = (dots.next(), dots.next());
    match second.or(last) {
        Some(dot) => Some(place.start..place.start + dot),
        None => {
            let is_key = line[place.end..].starts_with(b"\":") || line[place.end..].starts_with(b"=");
            let begins = matches!(line[..place.start].last(), Some(b'"' | b'='));
            (begins && !is_key).then_some(place)
        }
    }
}

/// The names of clients in a line: behind `client_ip`, and where lines of logs have them that it quotes.
fn named(line: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for at in memchr::memmem::find_iter(line, b"client_ip") {
        let rest = &line[at + b"client_ip".len()..];
        let from = rest.iter().take_while(|b| matches!(b, b'"' | b'\\' | b':' | b'=' | b' ')).count();
        let length = rest[from..].iter().take_while(|b| is_of_a_name(**b)).count();
        // `fe80::1`
        if rest.get(from + length) != Some(&b':') {
            all.push(rest[from..from + length].to_vec());
        }
    }
    for quoted in quoted(line) {
        let text = quoted.as_bytes();
        all.extend(names::where_clients_stand(text).map(|place| text[place].to_vec()));
    }
    all.retain(|name| name.iter().any(u8::is_ascii_alphabetic) && !name.contains(&b'*'));
    all.sort();
    all.dedup();
    all
}

fn is_of_a_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.') || b >= 0x80
}

/// The lines of logs in a line of results: evidence of an alert, and a dead letter.
fn quoted(line: &[u8]) -> Vec<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Quoting<'a> {
        #[serde(borrow, default)]
        evidence: Vec<Cow<'a, str>>,
        #[serde(borrow, default)]
        line: Option<Cow<'a, str>>,
    }
    if line.first() != Some(&b'{') {
        return Vec::new();
    }
    match serde_json::from_slice::<Quoting<'_>>(line) {
        Ok(quoting) => quoting.evidence.into_iter().chain(quoting.line).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_domains_stay() {
        let rows: &[(&str, &str)] = &[
            (r#"{"a":"203.0.113.77:80"}"#, r#"{"a":"203.0.113.**:80"}"#),
            (r#"{"a":"2001:db8:1:2::/64"}"#, r#"{"a":"2001:db8:1:***/64"}"#),
            (r#"{"a":"2001:db8::7"}"#, r#"{"a":"2001:db8::*"}"#),
            (r#"{"a":"2001:db8:1::"}"#, r#"{"a":"2001:db8:1:*"}"#),
            (r#"{"a":"::ffff:10.0.0.1"}"#, r#"{"a":"***************"}"#),
            (r#"{"a":"\\x310.0.0.1"}"#, r#"{"a":"************"}"#),
            (
                r#"{"subject":{"client_ip":"p5.dip0.example.org"},"evidence":["p5.dip0.example.org - - \"GET /p5.dip0.example.org\""]}"#,
                r#"{"subject":{"client_ip":"*******.example.org"},"evidence":["*******.example.org - - \"GET /*******.example.org\""]}"#,
            ),
            (
                r#"{"subject":{"client_ip":"rule","host":"rule"},"rule":"r","evidence":["rule - - /rule"]}"#,
                r#"{"subject":{"client_ip":"****","host":"****"},"rule":"r","evidence":["**** - - /rule"]}"#,
            ),
            (
                r#"{"reason":"late","line":"p5.example.org - - [x] \"GET /a.b.c\""}"#,
                r#"{"reason":"late","line":"**.example.org - - [x] \"GET /a.b.c\""}"#,
            ),
            (r#"{"line":"x [client alice.local:80] y"}"#, r#"{"line":"x [client *****.local:80] y"}"#),
            (
                r#"top_clients,host=h,rank=1 client_ip="p5.example.org",requests=1i 1700000000000"#,
                r#"top_clients,host=h,rank=1 client_ip="**.example.org",requests=1i 1700000000000"#,
            ),
            (
                r#"anomaly,host=h subject="host=h,client_ip=10.0.0.1",window_ms=1i 1700000000000"#,
                r#"anomaly,host=h subject="host=h,client_ip=10.0.0.*",window_ms=1i 1700000000000"#,
            ),
            (
                r#"{"told":"2026-01-02T03:04:05Z","state":"firing"}"#,
                r#"{"told":"2026-01-02T03:04:05Z","state":"firing"}"#,
            ),
            (r#"{"client_ip":"fe80::1"}"#, r#"{"client_ip":"fe80::*"}"#),
            ("", ""),
        ];
        let masked = |line: &str| {
            let mut bytes = line.as_bytes().to_vec();
            hidden(line.as_bytes()).into_iter().for_each(|place| bytes[place].fill(b'*'));
            String::from_utf8(bytes).unwrap()
        };
        for (line, want) in rows {
            assert_eq!(masked(line), *want);
            assert_eq!(masked(want), *want, "twice");
        }
    }
}
