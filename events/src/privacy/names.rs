//! Host names in texts: where one stands, and where clients stand that have one.
//!
//! Invariants
//! - A name is found in any case and whole: in `www.a.example` there is no `a.example`.
//! - The time taken grows with the text's length only.

use std::ops::Range;

/// Places in a text where a name stands, ascending.
pub fn places<'a>(text: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let mut from = 0;
    std::iter::from_fn(move || {
        let [first, ..] = name else { return None };
        let [lower, upper] = [first.to_ascii_lowercase(), first.to_ascii_uppercase()];
        loop {
            let start = from + memchr::memchr2(lower, upper, text.get(from..)?)?;
            let end = start + name.len();
            from = start + 1;
            // Where it begins is looked at first: each word is compared once.
            if begins(text, start) && ends(text, end) && text[start..end].eq_ignore_ascii_case(name) {
                from = end;
                return Some(start..end);
            }
        }
    })
}

fn is_part(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') || b >= 0x80
}

/// Whether nothing before a place is part of the name that begins there. An escape (`%20`, `\n`, `\u0022`) is not.
fn begins(text: &[u8], start: usize) -> bool {
    match &text[..start] {
        [.., b'%', a, b] | [.., b'\\', b'x', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => true,
        [.., b'\\', b'u', a, b, c, d] if [a, b, c, d].iter().all(|b| b.is_ascii_hexdigit()) => true,
        [.., b'\\', b'b' | b'f' | b'n' | b'r' | b't' | b'v'] => true,
        [.., part, b'.'] | [.., part] => !is_part(*part),
        [] => true,
    }
}

/// Whether nothing behind a place is part of the name that ends there: a stop may follow it.
fn ends(text: &[u8], end: usize) -> bool {
    match text.get(end..) {
        Some([b'.', part, ..]) => !is_part(*part),
        Some([part, ..]) => !is_part(*part),
        Some([]) => true,
        None => false,
    }
}

/// Whether a text can be the name of a host in a domain: parts of letters, digits and hyphens, and no address.
pub fn is_host(text: &[u8]) -> bool {
    text.len() <= 255 && text.contains(&b'.') && top(text).is_some() && text.split(|b| *b == b'.').all(is_label)
}

fn is_label(label: &[u8]) -> bool {
    !label.is_empty() && label.len() <= 63 && label.iter().all(|b| is_part(*b))
}

/// Where the last part of a name begins, where that is one of a name and not of an address.
fn top(name: &[u8]) -> Option<usize> {
    let at = name.iter().rposition(|b| *b == b'.')? + 1;
    (is_label(&name[at..]) && !name[at..].iter().all(u8::is_ascii_digit)).then_some(at)
}

/// A name without its first part and all but the last two, in whose place stands `*`; all of it where it is no host's.
pub(super) fn without_the_first(name: &[u8]) -> Vec<u8> {
    let mut labels = name.split(|b| *b == b'.');
    let first = labels.next().unwrap_or_default();
    let rest: Vec<&[u8]> = labels.collect();
    let is_odd = |label: &&[u8]| !is_label(label);
    let odd_first = !first.is_empty() && first != b"*" && !is_label(first);
    let mut shown = b"*".to_vec();
    if odd_first || rest.is_empty() || rest.iter().any(is_odd) || top(name).is_none() {
        return shown;
    }
    for label in &rest[rest.len().saturating_sub(2)..] {
        shown.push(b'.');
        shown.extend_from_slice(label);
    }
    shown
}

/// What stands before a client in lines of servers and programs.
const BEFORE: &[&[u8]] = &[b"[client ", b"client: ", b"client=", b"client\":\"", b"client\": \"", b"rhost="];

/// What keys end in whose values of JSON are clients.
const KEYS: &[&[u8]] = &[b"addr\"", b"host\"", b"ip\"", b"client\"", b"remote\"", b"peer\"", b"\"log\""];

/// How long what carried a line can be where it is looked for in JSON.
const PREFIXES: usize = 256;

/// Where host names stand that are clients, most likely, in a line of a format that is not known: at its beginning, behind a
/// server's name and port there, behind what carried it, behind `[client `, and as values of JSON named so. Ascending.
pub fn where_clients_stand(line: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut places: Vec<Range<usize>> = Vec::new();
    let mut add = |start: usize| {
        let length = line[start..].iter().take_while(|b| is_part(**b) || **b == b'.').count();
        let end = start + length - usize::from(length > 0 && line[start + length - 1] == b'.');
        if is_host(&line[start..end]) {
            places.push(start..end);
        }
    };
    add(0);
    add(crate::formats::message_of(line));
    let first = memchr::memchr(b' ', line).unwrap_or(line.len());
    let port = memchr::memrchr(b':', &line[..first]).map_or(&[][..], |at| &line[at + 1..first]);
    if !port.is_empty() && port.iter().all(u8::is_ascii_digit) {
        add((first + 1).min(line.len()));
    }
    for before in BEFORE {
        memchr::memmem::find_iter(line, before).for_each(|at| add(at + before.len()));
    }
    for at in memchr::memchr_iter(b':', line) {
        let key = line[..at].trim_ascii_end();
        let value = at + 1 + usize::from(line.get(at + 1) == Some(&b' '));
        if KEYS.iter().any(|end| key.ends_with(end)) && line.get(value) == Some(&b'"') {
            add(value + 1);
            if key.ends_with(b"\"log\"") {
                add(value + 1 + crate::formats::message_of(&line[value + 1..line.len().min(value + 1 + PREFIXES)]));
            }
        }
    }
    places.sort_by_key(|place| place.start);
    places.dedup();
    let mut end = 0;
    places.retain(|place| {
        let is_behind = place.start >= end;
        end = end.max(place.end);
        is_behind
    });
    places.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_whole() {
        let rows: &[(&str, &str, &[&str])] = &[
            ("a.example - -", "a.example", &["a.example"]),
            ("A.Example:80, a.example.", "a.example", &["A.Example", "a.example"]),
            ("a.example", "a.example.", &["a.example"]),
            ("www.a.example a.example.org a.examples ba.example -a.example a_a.example", "a.example", &[]),
            ("http://a.example/x?h=a.example&y", "a.example", &["a.example", "a.example"]),
            ("%20a.example \\na.example \\u0020a.example \\x20a.example", "a.example", &["a.example"; 4]),
            ("...a.example", "a.example", &["a.example"]),
            ("pc is pc's, not mypc or pc.local", "pc", &["pc", "pc"]),
            ("", "a.example", &[]),
            ("a.example", "", &[]),
            ("a.exampl", "a.example", &[]),
        ];
        for (text, name, want) in rows {
            let found: Vec<&str> = places(text.as_bytes(), name.as_bytes()).map(|place| &text[place]).collect();
            assert_eq!(found, *want, "{text}: {name}");
        }
        assert_eq!(places("a.".repeat(1 << 20).as_bytes(), "a.".repeat(1 << 19).as_bytes()).count(), 0);
    }

    #[test]
    fn clients_stand_where_formats_have_them() {
        let rows: &[(&str, &[&str])] = &[
            ("p5.dip0.example.de - - [10/Oct/2000:13:55:36 +0000] \"GET /a.b", &["p5.dip0.example.de"]),
            ("www.example.com:443 p5.example.de - - x", &["www.example.com", "p5.example.de"]),
            ("[Wed] [error] [client p5.example.de:1234] File: /a.b", &["p5.example.de"]),
            ("2020/01/01 x: *1 open() failed, client: p5.example.de, server: www.example.com", &["p5.example.de"]),
            (r#"{"remote_addr":"p5.example.de","path":"/x.y"}"#, &["p5.example.de"]),
            (r#"{"Client" : "p5.example.de", "remote_host": "p6.example.de"}"#, &["p6.example.de"]),
            ("sshd[1]: x; rhost=p5.example.de.", &["p5.example.de"]),
            ("Mar 05 12:00:00 web1 nginx[1]: p5.example.de - - [x", &["p5.example.de"]),
            ("2026-03-05T12:00:00Z stdout P p5.example.de - - [x", &["p5.example.de"]),
            ("web-1 | 2026-03-05T12:00:00Z p5.example.de - - [broken", &["p5.example.de"]),
            ("web-1 | 2026-03-05T12:00:00Z stdout F p5.example.de - - [broken", &["p5.example.de"]),
            (r#"{"log":"2026-03-05T12:00:00Z stdout F p5.example.de - - [x"}"#, &["p5.example.de"]),
            (r#"{"log":"p5.example.de - - [x"}"#, &["p5.example.de"]),
            ("1.2.3.4 - - x", &[]),
            ("localhost - -", &[]),
            ("INFO com.example.Service: started", &[]),
            ("a:80", &[]),
            ("", &[]),
        ];
        for (line, want) in rows {
            let found: Vec<&str> = where_clients_stand(line.as_bytes()).map(|place| &line[place]).collect();
            assert_eq!(found, *want, "{line}");
        }
    }
}
