//! The error logs of Nginx and Apache.
//!
//! ```text
//! 2025/01/02 03:04:05 [error] 31#31: *1 open() "/srv/x" failed (2: No such file or directory), client: 1.2.3.4, server: a.example, request: "GET /x HTTP/1.1", host: "a.example"
//! [Sun Dec 04 04:47:44 2005] [error] [client 1.2.3.4] File does not exist: /srv/x, referer: http://a.example/
//! [Wed Oct 11 14:32:52.123456 2000] [core:error] [pid 35708:tid 4328636416] [client 1.2.3.4:5678] AH00128: File does not exist: /srv/x
//! ```
//!
//! Both repeat what the client sent, so a line may claim several clients. What the server wrote is told from what it
//! repeated by place and quotes; where two different addresses remain, the line names none rather than a wrong one.
//!
//! Invariants
//! - The message excludes time, level, process, client and what Nginx appends after the client.

use super::line::{Context, Headers, Piece};
use super::request;
use super::scan::Escape;
use crate::client;
use crate::dead_letter::Reason;
use crate::event::{Client, Event, Kind, LogLevel};
use crate::time::EventTime;
use memchr::memmem;

/// Reads a line of an Nginx error log.
pub(super) fn nginx(cx: &mut Context<'_>) -> Result<Event, Reason> {
    let line = cx.line;
    let stamp = line.get(..19).filter(|stamp| stamp[4] == b'/' && line[19..].starts_with(b" ["));
    let time = cx.clock.iso(stamp.ok_or(Reason::Format)?)?;
    let close = memchr::memchr(b']', &line[21..]).map(|at| at + 21).ok_or(Reason::Format)?;
    let level = LogLevel::from_word(&line[21..close]).ok_or(Reason::Format)?;
    let mut at = after_process(line, close + 1);
    if line[at..].starts_with(b"*") {
        let digits = line[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 && line.get(at + 1 + digits) == Some(&b' ') {
            at += digits + 2;
        }
    }
    let mut event = Event::new(Kind::Error, time);
    event.level = level;
    let appended = find_client(&line[at..]);
    let end = at + appended.map_or(line.len() - at, |found| found.at);
    event.message = cx.span(at, end);
    if let Some(found) = appended {
        let (start, end) = (at + found.address.0, at + found.address.1);
        if !found.disputed {
            event.client = cx.client(Piece::new(start, end, false), &Headers::NONE, Escape::Log);
        }
        read_appended(cx, end, &mut event);
    }
    Ok(event)
}

/// Skips ` 31#31: `.
fn after_process(line: &[u8], at: usize) -> usize {
    let rest = line[at..].strip_prefix(b" ").unwrap_or(&line[at..]);
    let start = line.len() - rest.len();
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let process = digits(rest);
    if process > 0 && rest.get(process) == Some(&b'#') {
        let thread = digits(&rest[process + 1..]);
        let end = process + 1 + thread;
        if rest[end..].starts_with(b":") {
            return start + end + 1 + usize::from(rest.get(end + 1) == Some(&b' '));
        }
    }
    start
}

#[derive(Clone, Copy)]
struct Found {
    /// Where `, client: ` begins.
    at: usize,
    address: (usize, usize),
    /// Another address stands in such a place.
    disputed: bool,
}

/// How many places that look like the client's are examined.
const MAX_PLACES: usize = 8;

/// Finds the `, client: ADDRESS` that the server wrote.
///
/// A message can hold one that the client typed (a path, a user name), and so can the request behind it. Where all
/// that follows the first place is whole up to the line's end, with no quote inside a value, it is the server's. Else
/// every place counts from which the rest can be read at all; where they differ, the address is disputed.
fn find_client(text: &[u8]) -> Option<Found> {
    const KEY: &[u8] = b", client: ";
    let mut found: Option<(Found, bool)> = None;
    for (place, at) in memmem::find_iter(text, KEY).enumerate() {
        let start = at + KEY.len();
        let end = memchr::memchr(b',', &text[start..]).map_or(text.len(), |n| start + n);
        let address = &text[start..end];
        if place >= MAX_PLACES {
            found = found.map(|(found, whole)| (Found { disputed: true, ..found }, whole));
            break;
        }
        if client::parse_ip(address).is_none() && !address.starts_with(b"unix:") {
            continue;
        }
        let shape = appended(text, end, |_, _| ());
        let this = Found { at, address: (start, end), disputed: false };
        match (&mut found, shape) {
            (None, Shape::Strict) => return Some(this),
            (None, _) => found = Some((this, shape != Shape::Broken)),
            // The log cuts long lines off: the first place counts if none is whole.
            (Some((first, true)), Shape::Strict | Shape::Loose) | (Some((first, false)), Shape::Broken) => {
                first.disputed |= text[first.address.0..first.address.1] != *address;
            }
            (Some((_, true)), Shape::Broken) => {}
            (found @ Some((_, false)), _) => *found = Some((this, true)),
        }
    }
    found.map(|(found, _)| found)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Read to the line's end, no quote inside a value.
    Strict,
    /// Read to the line's end.
    Loose,
    Broken,
}

/// Reads `, server: …, request: "…", upstream: "…", host: "…", referrer: "…"` at `at`; each value is handed over.
fn appended(text: &[u8], mut at: usize, mut take: impl FnMut(&[u8], (usize, usize))) -> Shape {
    const KEYS: [&[u8]; 6] = [b"request", b"subrequest", b"upstream", b"host", b"referrer", b"login"];
    let key_at = |at: usize| {
        let rest = text.get(at..)?.strip_prefix(b", ")?;
        KEYS.iter().position(|key| rest.strip_prefix(*key).is_some_and(|rest| rest.starts_with(b": \"")))
    };
    if let Some(rest) = text[at..].strip_prefix(b", server: ") {
        let start = text.len() - rest.len();
        let end = memchr::memchr2(b',', b'"', rest).map_or(text.len(), |n| start + n);
        take(b"server", (start, end));
        at = end;
    }
    let (mut seen, mut shape) = ([false; KEYS.len()], Shape::Strict);
    while at < text.len() {
        let Some(key) = key_at(at).filter(|key| !seen[*key]) else { return Shape::Broken };
        seen[key] = true;
        let start = at + 2 + KEYS[key].len() + 3;
        let closes = |n: &usize| start + n + 1 == text.len() || key_at(start + n + 1).is_some();
        let first = memchr::memchr(b'"', &text[start..]);
        let Some(close) = memchr::memchr_iter(b'"', &text[start..]).find(closes) else { return Shape::Broken };
        if first != Some(close) {
            shape = Shape::Loose;
        }
        take(KEYS[key], (start, start + close));
        at = start + close + 1;
    }
    shape
}

/// Reads what Nginx appends after the client.
fn read_appended(cx: &mut Context<'_>, at: usize, event: &mut Event) {
    let line = cx.line;
    let (mut server, mut request, mut host, mut referrer) =
        (Piece::ABSENT, Piece::ABSENT, Piece::ABSENT, Piece::ABSENT);
    appended(line, at, |key, (start, end)| {
        let piece = Piece::new(start, end, false);
        match key {
            b"server" if !matches!(&line[start..end], b"_") => server = piece,
            b"request" => request = piece,
            b"host" => host = piece,
            b"referrer" => referrer = piece,
            _ => {}
        }
    });
    let request = cx.value(request, Escape::Log);
    if !request.is_none() {
        request::read(cx, request, event);
    }
    event.referrer = cx.value(referrer, Escape::Log);
    event.host = cx.host(if host.is_absent() { server } else { host }, Escape::Log);
}

/// Reads a line of an Apache error log: 1.3, 2.0, 2.2 or 2.4.
pub(super) fn apache(cx: &mut Context<'_>) -> Result<Event, Reason> {
    let line = cx.line;
    if line.first() != Some(&b'[') {
        return Err(Reason::Format);
    }
    let close = memchr::memchr(b']', line).ok_or(Reason::Format)?;
    let time = cx.clock.any(&line[1..close])?;
    apache_after_time(cx, close + 1, time)
}

/// Reads what follows the time, which syslog may have written instead.
pub(super) fn apache_after_time(cx: &mut Context<'_>, at: usize, time: EventTime) -> Result<Event, Reason> {
    let line = cx.line;
    let mut event = Event::new(Kind::Error, time);
    let mut at = at;
    let mut client = None;
    while client.is_none()
        && let Some((start, end)) = bracket(line, at)
    {
        let inner = &line[start..end];
        if let Some(word) = inner.strip_prefix(b"client ").or(inner.strip_prefix(b"remote ")) {
            client = Some((end - word.len(), end));
        } else if inner.starts_with(b"pid ") || inner.starts_with(b"tid ") {
            // The process says nothing that results carry.
        } else if event.level == LogLevel::None
            && let Some((module, level)) = module_and_level(inner)
        {
            event.level = level;
            if module > 0 {
                event.logger = cx.span(start, start + module);
            }
        } else {
            break;
        }
        at = end + 1;
    }
    if event.level == LogLevel::None {
        return Err(Reason::Format);
    }
    at += usize::from(line.get(at) == Some(&b' '));
    // An error of the operating system stands before the client: `(13)Permission denied: [client 1.2.3.4:5] …`.
    if client.is_none()
        && line[at..].starts_with(b"(")
        && let Some(before) = memmem::find(&line[at..], b": [client ")
        && let Some((start, end)) = bracket(line, at + before + 1)
    {
        client = Some((start + b"client ".len(), end));
        at = end + 1 + usize::from(line.get(end + 1) == Some(&b' '));
    }
    if let Some((start, end)) = client {
        event.client = match client::parse_endpoint(&line[start..end]) {
            Some(ip) => Client::Ip(ip),
            None => cx.client(Piece::new(start, end, false), &Headers::NONE, Escape::Log),
        };
    }
    let mut end = line.len();
    if let Some(referrer) = memmem::rfind(&line[at..], b", referer: ").map(|n| at + n) {
        event.referrer = cx.value(Piece::new(referrer + 11, end, line[referrer..].contains(&b'\\')), Escape::Log);
        end = referrer;
    }
    event.message = cx.value(Piece::new(at, end, line[at..end].contains(&b'\\')), Escape::Log);
    if memmem::find(&line[at..end], b"ModSecurity: ").is_some() {
        let quoted = |key: &[u8]| {
            let start = at + memmem::rfind(&line[at..end], key)? + key.len();
            let stop = start + memmem::find(&line[start..end], b"\"]")?;
            Some(Piece::new(start, stop, line[start..stop].contains(&b'\\')))
        };
        if let Some(piece) = quoted(b"[hostname \"") {
            event.host = cx.host(piece, Escape::Log);
        }
        if let Some(piece) = quoted(b"[uri \"") {
            let target = cx.value(piece, Escape::Log);
            if !target.is_none() {
                request::read_target(cx, target, &mut event);
            }
        }
    }
    Ok(event)
}

/// The inside of ` [ … ]` at `at`; an address in brackets may stand in it.
fn bracket(line: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = line.get(at..)?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest).strip_prefix(b"[")?;
    let start = line.len() - rest.len();
    let mut end = memchr::memchr(b']', rest)?;
    if rest.starts_with(b"client [") || rest.starts_with(b"remote [") {
        end += 1 + memchr::memchr(b']', &rest[end + 1..])?;
    }
    Some((start, start + end))
}

/// `error`, `core:error` or `:error`: the length of the module's name, and the level.
fn module_and_level(text: &[u8]) -> Option<(usize, LogLevel)> {
    let colon = text.iter().rposition(|b| *b == b':');
    let level = LogLevel::from_word(&text[colon.map_or(0, |at| at + 1)..])?;
    Some((colon.unwrap_or(0), level))
}
