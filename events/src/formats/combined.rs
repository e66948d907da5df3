//! The common and the combined format, by hand.
//!
//! `CLIENT IDENT USER [TIME] "REQUEST" STATUS BYTES`, and in the combined format `"REFERRER" "AGENT"` and anything a
//! site appended: a quoted list of addresses is taken as `X-Forwarded-For`, a decimal number (also as `rt=0.123`) as the
//! request's duration in seconds. Debian's `HOST:PORT` in front is understood.
//!
//! A line is read from the left with quotes and escapes as servers write them since 2004. Where that does not work out
//! (raw quotes in a request, a broken agent) it is read again from the right, where the shape `" 404 1234 "` is sought.
//!
//! Invariants
//! - Linear in the line's length, whatever it holds.

use super::line::{self, Context, Headers, Piece};
use super::request;
use super::scan::{self, Escape, closing_quote};
use crate::batch::Span;
use crate::client::{self, ClientHeader, Proxies};
use crate::dead_letter::Reason;
use crate::event::{Client, Event, Kind};
use std::net::IpAddr;

/// What must follow the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Referrer and agent.
    Required,
    /// Nothing, or what the combined format has.
    Optional,
}

/// Reads a line. Its trailing blanks are cut already.
pub(super) fn parse(cx: &mut Context<'_>, tail: Tail) -> Result<Event, Reason> {
    let line = cx.line;
    // Nearly every line starts with `1.2.3.4 - - [`.
    if let Some((ip, n)) = client::ipv4_prefix(line)
        && line[n..].starts_with(b" - - [")
        && line.get(n + 32..n + 35) == Some(b"] \"")
    {
        let time = cx.clock.clf(&line[n + 6..n + 32])?;
        let mut event = Event::new(Kind::Access, time);
        event.client = Client::Ip(ip.into());
        let fields = fields(line, n + 35, tail).ok_or_else(|| why(line, n + 35))?;
        if !cx.proxies.trusted.is_empty() {
            event.client = cx.client(Piece::new(0, n, false), &fields.headers(), Escape::Log);
        }
        finish(cx, &mut event, fields);
        return Ok(event);
    }
    parse_any(cx, tail)
}

/// Quotes of a usual line.
pub(super) const MARKS: usize = 6;

/// Reads a usual line by its marks into an event that is still empty: `marks` are those of the line and that of its end.
/// `None` where the line takes a closer look; else the event is the one that [`parse`] makes of it.
#[inline(always)]
pub(super) fn parse_marked(cx: &mut Context<'_>, marks: &[u32], event: &mut Event) -> Option<()> {
    let line = cx.line;
    let marks: &[u32; MARKS + 1] = marks.try_into().ok()?;
    let [open, close, referrer, referrer_end, agent, agent_end, end] = marks.map(|mark| mark as usize - cx.base);
    let n = open.checked_sub(34)?;
    // Six quotes where a line has them, and no backslash: each is one that opens or closes a value.
    let words = line.get(close..close + 6)?;
    let usual = line[n..].starts_with(b" - - [")
        && &line[n + 32..=open] == b"] \""
        && words[..2] == *b"\" "
        && words[5] == b' '
        && line[referrer - 1..=referrer] == *b" \""
        && line[referrer_end..].starts_with(b"\" \"")
        && agent == referrer_end + 2
        && agent_end + 1 == end
        && line[agent_end] == b'"'
        && cx.proxies.trusted.is_empty();
    if !usual {
        return None;
    }
    let status = line::status(&words[2..5]).ok()?;
    let bytes = cx.decimal(Piece::new(close + 6, referrer - 1, false))?;
    event.client = Client::Ip(match client::ipv4_prefix(line) {
        Some((ip, used)) if used == n => ip.into(),
        _ => client::parse_ip(&line[..n])?,
    });
    event.time = cx.clock.clf(&line[n + 6..n + 32]).ok()?;
    let fields = Fields {
        request: Piece::new(open + 1, close, false),
        status,
        bytes,
        referrer: Piece::new(referrer + 1, referrer_end, false),
        agent: Piece::new(agent + 1, agent_end, false),
        ..Fields::EMPTY
    };
    finish(cx, event, fields);
    Some(())
}

/// The same for lines whose head is less usual.
fn parse_any(cx: &mut Context<'_>, tail: Tail) -> Result<Event, Reason> {
    let line = cx.line;
    if holds_lines(line) {
        return Err(Reason::Format);
    }
    let (open, close) = find_time(line).ok_or(Reason::Format)?;
    let head = split_head(&line[..open - 1], cx.proxies).ok_or(Reason::Format)?;
    let fields = fields(line, close + 3, tail).ok_or_else(|| why(line, close + 3))?;
    let time = cx.clock.clf(&line[open + 1..close])?;
    let mut event = Event::new(Kind::Access, time);
    event.client = match head.is_list {
        false => cx.client(head.client, &fields.headers(), Escape::Log),
        true => forwarded(cx, head.client).ok_or(Reason::Format)?,
    };
    event.user = cx.value(head.user, Escape::Log);
    // Apache's way to write an empty name.
    if cx.bytes(event.user) == b"\"\"" {
        event.user = Span::NONE;
    }
    if let Some((name, port)) = head.host {
        event.host = cx.value(name, Escape::Log);
        event.port = port;
    }
    finish(cx, &mut event, fields);
    Ok(event)
}

/// The client of a list of addresses in its place. Whom of them to believe is known only where that is configured.
fn forwarded(cx: &mut Context<'_>, list: Piece) -> Option<Client> {
    cx.proxies.header.filter(|header| *header == ClientHeader::XForwardedFor)?;
    let headers = Headers { x_forwarded_for: list, ..Headers::NONE };
    Some(cx.client(Piece::ABSENT, &headers, Escape::Log)).filter(|client| *client != Client::None)
}

/// Whether this is more than one line. Servers escape what ends a line: a value that holds one would hold another line.
fn holds_lines(line: &[u8]) -> bool {
    memchr::memchr(b'\n', line).is_some()
}

/// What is wrong with a line whose request begins at `start`: its status, its size, or all of it.
#[cold]
fn why(line: &[u8], start: usize) -> Reason {
    let words = closing_quote(line, start).and_then(|(close, _)| line[close + 1..].strip_prefix(b" "));
    let mut words = words.unwrap_or_default().split(|b| *b == b' ');
    let (status, size) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let numeric = |word: &[u8]| word.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-');
    if holds_lines(line) {
        Reason::Format
    } else if numeric(status) && line::status(status).is_err() {
        Reason::BadStatus
    } else if numeric(status) && numeric(size) && line::size(size).is_err() {
        Reason::BadNumber
    } else {
        Reason::Format
    }
}

/// Where `[TIME] "` stands: the first such place, so that a user name that holds brackets does no harm.
fn find_time(line: &[u8]) -> Option<(usize, usize)> {
    let dated = |open: &usize| *open > 0 && line[open - 1] == b' ' && line.get(open + 3) == Some(&b'/');
    memchr::memchr_iter(b'[', line).filter(dated).find_map(|open| {
        let end = line.len().min(open + 40);
        let close = open + memchr::memchr(b']', &line[open..end])?;
        line[close..].starts_with(b"] \"").then_some((open, close))
    })
}

struct Head {
    host: Option<(Piece, u16)>,
    client: Piece,
    /// Whether the client's place holds a list of addresses, as `X-Forwarded-For` does.
    is_list: bool,
    user: Piece,
}

/// Divides `CLIENT IDENT USER`, where the user may hold blanks, or `HOST:PORT CLIENT IDENT USER`. `None` where what begins the
/// line is something else: the word taken for its client would be a wrong one.
fn split_head(head: &[u8], proxies: &Proxies) -> Option<Head> {
    let blank = |from: usize| memchr::memchr(b' ', head.get(from..)?).map(|at| from + at);
    let escaped = |start: usize, end: usize| Piece::new(start, end, head[start..end].contains(&b'\\'));
    let mut first = blank(0).filter(|at| *at > 0)?;
    let is_list = head[..first].contains(&b',');
    while head[..first].ends_with(b",") {
        first = blank(first + 1)?;
    }
    let client = &head[..first];
    let second = blank(first + 1);
    let word = &head[first + 1..second.unwrap_or(head.len())];
    let address = client::parse_endpoint(client);
    if is_list {
        // A blank that a client put into the list does not end it; nor is its peer known where that stands behind it.
        if names_another(&head[first..], b' ') {
            return None;
        }
    } else if client::parse_ip(client).is_none() {
        if address.is_none() && !is_name(client) {
            return None;
        }
        let behind = second.map_or(&b""[..], |second| &head[second + 1..]);
        let is_named = has_port(client) && word != b"-" && is_name(word) && behind.starts_with(b"- ");
        if client::parse_ip(word).is_some() || is_named {
            let (second, third) = second.and_then(|second| Some((second, blank(second + 1)?)))?;
            let is_asked = &head[second + 1..third] != b"-";
            let may_go_on = may_be_list(client::parse_ip(word), proxies);
            if (is_asked && names_another(&head[second..], b' ')) || (may_go_on && names_another(&head[third..], b','))
            {
                return None;
            }
            let (name_end, port) = match client.iter().rposition(|b| *b == b':') {
                Some(colon) => (colon, scan::unsigned(&client[colon + 1..]).and_then(|port| u16::try_from(port).ok())?),
                None => (first, 0),
            };
            let host = Some((escaped(0, name_end), port));
            let client = escaped(first + 1, second);
            return Some(Head { host, client, is_list, user: escaped(third + 1, head.len()) });
        }
        // Hardly a server asks who the user is there: more words than three were put before the line.
        if address.is_none()
            && word != b"-"
            && let Some(second) = second
            && (blank(second + 1).is_some() || client::parse_ip(&head[second + 1..]).is_some())
        {
            return None;
        }
    }
    // What a user is named is for the client to say, and no reason to reject its lines. But where lists are read, and where
    // an ident stands that no server asks for, a list can begin with the first word.
    let is_peer = client == b"unix:" || !may_be_list(address, proxies);
    if !is_list && (word != b"-" || !is_peer) && names_another(&head[first..], b',') {
        return None;
    }
    // A head of two words has lost its user (seen where ident is switched off by patch).
    let user = second.unwrap_or(first);
    Some(Head { host: None, client: escaped(0, first), is_list, user: escaped(user + 1, head.len()) })
}

/// Whether a first address can be the first of a list: where lists are read, unless it is that of a trusted peer.
fn may_be_list(address: Option<IpAddr>, proxies: &Proxies) -> bool {
    proxies.header == Some(ClientHeader::XForwardedFor) && !address.is_some_and(|address| proxies.trusts(address))
}

/// Whether an address stands behind a comma, or behind this other separator.
fn names_another(text: &[u8], separator: u8) -> bool {
    memchr::memchr2_iter(b',', separator, text).any(|at| {
        // No address is longer.
        let rest = text[at + 1..text.len().min(at + 65)].trim_ascii_start();
        let end = memchr::memchr2(b',', b' ', rest).unwrap_or(rest.len());
        client::parse_endpoint(&rest[..end]).is_some()
    })
}

/// Whether a host has its port behind it.
fn has_port(host: &[u8]) -> bool {
    host.iter().rposition(|b| *b == b':').is_some_and(|at| scan::unsigned(&host[at + 1..]).is_some())
}

/// Whether a word can be the name of a client or of a host.
fn is_name(word: &[u8]) -> bool {
    let is_odd = |b: &u8| *b <= b' ' || *b == 0x7f || b"\"'(),;<=>[]{|}".contains(b);
    !word.iter().any(is_odd) && (!word.ends_with(b":") || word == b"unix:")
}

/// What follows the time.
struct Fields {
    request: Piece,
    status: u16,
    bytes: u64,
    referrer: Piece,
    agent: Piece,
    x_forwarded_for: Piece,
    latency_us: u32,
}

impl Fields {
    fn headers(&self) -> Headers {
        Headers { x_forwarded_for: self.x_forwarded_for, ..Headers::NONE }
    }
}

/// Reads what follows the request's opening quote, which ends before `start`.
#[inline]
fn fields(line: &[u8], start: usize, tail: Tail) -> Option<Fields> {
    if let Some((close, escaped)) = closing_quote(line, start)
        && let Some((status, bytes, at)) = status_and_size(line, close + 1)
    {
        let request = Piece::new(start, close, escaped);
        let mut fields = Fields { request, status, bytes, ..Fields::EMPTY };
        if at == line.len() {
            return (tail == Tail::Optional).then_some(fields);
        }
        if rest(line, at, &mut fields).is_ok() {
            return Some(fields);
        }
    }
    from_the_right(line, start, tail)
}

impl Fields {
    const EMPTY: Fields = Fields {
        request: Piece::ABSENT,
        status: 0,
        bytes: 0,
        referrer: Piece::ABSENT,
        agent: Piece::ABSENT,
        x_forwarded_for: Piece::ABSENT,
        latency_us: Event::NO_LATENCY,
    };
}

/// Reads ` 404 1234`: status, size, and where the size ends, which is a blank or the line's end.
#[inline]
fn status_and_size(line: &[u8], at: usize) -> Option<(u16, u64, usize)> {
    let rest = line.get(at..)?;
    let (status, used) = match rest {
        [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => {
            (u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'), 5)
        }
        [b' ', b'0', b'0', b'0', b' ', ..] => (0, 5),
        [b' ', b'-', b' ', ..] => (0, 3),
        _ => return None,
    };
    let size = &rest[used..];
    if let [b'-', after @ ..] = size {
        return matches!(after, [] | [b' ', ..]).then_some((status, 0, at + used + 1));
    }
    let mut bytes = 0u64;
    let mut digits = 0;
    while let Some(digit) = size.get(digits).map(|b| b.wrapping_sub(b'0')).filter(|d| *d <= 9) {
        bytes = bytes.checked_mul(10)?.checked_add(u64::from(digit))?;
        digits += 1;
    }
    (digits > 0 && matches!(size.get(digits), None | Some(b' '))).then_some((status, bytes, at + used + digits))
}

/// Where a line was found to have another shape.
struct Misfit(usize);

/// Reads ` "REFERRER" "AGENT"` and what follows to the line's end.
#[inline]
fn rest(line: &[u8], at: usize, fields: &mut Fields) -> Result<(), Misfit> {
    if line.get(at..at + 2) != Some(b" \"") {
        return Err(Misfit(at));
    }
    let (close, escaped) = closing_quote(line, at + 2).ok_or(Misfit(line.len()))?;
    if line.get(close..close + 3) != Some(b"\" \"") {
        return Err(Misfit(close));
    }
    let (end, agent_escaped) = closing_quote(line, close + 3).ok_or(Misfit(line.len()))?;
    fields.referrer = Piece::new(at + 2, close, escaped);
    fields.agent = Piece::new(close + 3, end, agent_escaped);
    if end + 1 == line.len() { Ok(()) } else { appended(line, end + 1, fields) }
}

/// Reads what a site appended to the combined format.
fn appended(line: &[u8], mut at: usize, fields: &mut Fields) -> Result<(), Misfit> {
    if holds_lines(line) {
        return Err(Misfit(line.len()));
    }
    // Another status and size with quotes behind it: the request holds a line of its own making. The right one counts.
    if status_and_size(line, at).is_some_and(|(.., end)| line[end..].starts_with(b" \"")) {
        return Err(Misfit(at));
    }
    while at < line.len() {
        if line[at] != b' ' {
            return Err(Misfit(at));
        }
        at += line[at..].iter().take_while(|b| **b == b' ').count();
        if line.get(at) == Some(&b'"') {
            let (close, escaped) = closing_quote(line, at + 1).ok_or(Misfit(line.len()))?;
            let last = client::from_the_right(&line[at + 1..close]).next().unwrap_or_default();
            // Proxies write at the line's end; what stands before it may be a host that the client named.
            if client::parse_endpoint(last).is_some() {
                fields.x_forwarded_for = Piece::new(at + 1, close, escaped);
            }
            at = close + 1;
        } else {
            let end = memchr::memchr(b' ', &line[at..]).map_or(line.len(), |n| at + n);
            let word = &line[at..end];
            let named = [&b"rt="[..], b"request_time="].into_iter().find_map(|name| word.strip_prefix(name));
            let seconds = named.unwrap_or(word);
            if fields.latency_us == Event::NO_LATENCY && (named.is_some() || seconds.contains(&b'.')) {
                fields.latency_us = line::duration(seconds, 1_000_000).unwrap_or(Event::NO_LATENCY);
            }
            at = end;
        }
    }
    Ok(())
}

/// How many times the length of a line is looked at in search of the place where its request ends.
const MAX_LOOKS: usize = 8;

/// Reads a line with raw quotes where they do not belong: the right-most place that can end the request and leaves a
/// whole rest; else the right-most that leaves a referrer and an agent, however broken. A line whose rests are found broken
/// far behind too many places is read as if none left a whole one.
#[cold]
fn from_the_right(line: &[u8], start: usize, tail: Tail) -> Option<Fields> {
    if holds_lines(line) {
        return None;
    }
    let (mut broken, mut looks) = (None, MAX_LOOKS * line.len());
    for close in memchr::memrchr_iter(b'"', &line[start..]).map(|at| start + at) {
        let Some((status, bytes, at)) = status_and_size(line, close + 1) else { continue };
        // Bytes that were logged raw hold no escapes to resolve.
        let request = Piece::new(start, close, false);
        let mut fields = Fields { request, status, bytes, ..Fields::EMPTY };
        if at == line.len() {
            if tail == Tail::Optional {
                return Some(fields);
            }
            continue;
        }
        let Err(Misfit(seen)) = rest(line, at, &mut fields) else { return Some(fields) };
        if broken.is_none() && line[at..].starts_with(b" \"") {
            broken = Some((at, Fields { request, status, bytes, ..Fields::EMPTY }));
        }
        let Some(left) = looks.checked_sub(seen - at) else { break };
        looks = left;
    }
    let (at, mut fields) = broken?;
    let referrer = at + 2;
    let between = memchr::memmem::find(&line[referrer..], b"\" \"")?;
    let agent = referrer + between + 3;
    let end = if line.len() > agent && line.ends_with(b"\"") { line.len() - 1 } else { line.len() };
    fields.referrer = Piece::new(referrer, referrer + between, false);
    fields.agent = Piece::new(agent, end, false);
    Some(fields)
}

#[inline]
fn finish(cx: &mut Context<'_>, event: &mut Event, fields: Fields) {
    event.status = fields.status;
    event.bytes = fields.bytes;
    event.latency_us = fields.latency_us;
    let request = cx.value(fields.request, Escape::Log);
    if !request.is_none() {
        request::read(cx, request, event);
    }
    event.referrer = cx.value(fields.referrer, Escape::Log);
    event.agent = cx.value(fields.agent, Escape::Log);
}
