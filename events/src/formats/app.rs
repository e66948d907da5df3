//! Application logs, and lines in syslog's form.
//!
//! ```text
//! 2025-01-02 03:04:05,678 [ERROR] payment - card refused | IP: 1.2.3.4 | User: bob | ResponseTime: 120ms
//! Dec 10 06:55:46 web1 sshd[24200]: Failed password for root from 1.2.3.4 port 38926 ssh2
//! <34>1 2003-10-11T22:14:15.003Z web1 su 17 ID47 - 'su root' failed
//! <13>only a priority
//! ```
//!
//! A header is what the syslog listener takes for one: after a priority everything else may lack. A message without time
//! happened when it was received, where that is known ([`Clock::received`](super::time::Clock::received)).
//!
//! Messages repeat what users typed, and so do the values that follow them. Where a line says twice who the client is, it
//! names none rather than a wrong one.

use super::error_logs;
use super::line::{self, Context, Headers, Piece};
use super::scan::{self, Escape};
use super::time::month;
use crate::addresses;
use crate::batch::Span;
use crate::client;
use crate::dead_letter::Reason;
use crate::event::{Client, Event, Kind, LogLevel};
use memchr::memmem;

/// Reads `TIMESTAMP [LEVEL] SERVICE - MESSAGE | IP: x | User: y | ResponseTime: Nms`, where everything after the level may lack;
/// or a line with a [bare level](bare).
pub(super) fn app(cx: &mut Context<'_>) -> Result<Event, Reason> {
    let line = cx.line;
    let Some((open, close, level)) = bracketed_level(line) else { return bare(cx) };
    let time = cx.clock.any(&line[..open])?;
    let mut event = Event::new(Kind::App, time);
    event.level = level;
    let mut at = close + 1;
    at += line[at..].iter().take_while(|b| **b == b' ').count();
    // A service's name is a word or two; a dash further on belongs to the message.
    if let Some(dash) = memmem::find(&line[at..line.len().min(at + 128)], b" - ") {
        event.logger = cx.value(Piece::new(at, at + dash, false), Escape::Log);
        at += dash + 3;
    }
    let end = read_appended(cx, at, &mut event)?;
    event.message = cx.value(Piece::new(at, end, false), Escape::Log);
    Ok(event)
}

/// How much of a line its time, and what stands before its level, can take: no time is longer than forty bytes.
const TIME: usize = 48;

/// Where ` [LEVEL]` begins behind a time, and where its bracket closes.
fn bracketed_level(line: &[u8]) -> Option<(usize, usize, LogLevel)> {
    let open = memmem::find(&line[..line.len().min(TIME)], b" [")?;
    let close = open + memchr::memchr(b']', &line[open..line.len().min(open + 16)])?;
    Some((open, close, LogLevel::from_word(line[open + 2..close].trim_ascii())?))
}

/// The level that a program writes behind a time, and where it ends: a word in capitals, or in any letters before a colon.
/// Other words may be hosts.
fn bare_level(line: &[u8], at: usize) -> Option<(LogLevel, usize)> {
    let start = at + line[at..].iter().take(8).take_while(|b| **b == b' ').count();
    let word = line[start..].iter().take(16).take_while(|b| b.is_ascii_alphanumeric()).count();
    let (word, after) = line[start..].split_at(word);
    let is_one = match after {
        [] | [b' ', ..] => !word.iter().any(u8::is_ascii_lowercase),
        [b':', rest @ ..] => rest.first().is_none_or(|b| *b == b' '),
        _ => false,
    };
    let level = LogLevel::from_word(word).filter(|_| is_one)?;
    Some((level, start + word.len() + usize::from(after.first() == Some(&b':'))))
}

/// Reads a line with a level that has no brackets, as Rust's tracing and Spring Boot write it by default, and others often:
///
/// ```text
/// 2026-03-05T12:00:00.123456Z ERROR shop::db: connection lost
/// 2026-03-05T12:00:00.123Z ERROR 1 --- [           main] c.e.shop.Pay                  : card service down
/// 2026-03-05 12:00:00,123 ERROR [main] c.e.shop.Pay - card service down
/// 2026-03-05T12:00:00.123Z error: connection lost
/// ```
///
/// No client is read from it: what its end looks like is for whoever typed the message to say.
fn bare(cx: &mut Context<'_>) -> Result<Event, Reason> {
    let line = cx.line;
    // A time is one word to three: `2026-03-05T12:00:00Z`, `2026-03-05 12:00:00`, `Mar  5 12:00:00`.
    let blanks = memchr::memchr_iter(b' ', &line[..line.len().min(TIME)]).filter(|at| *at > 0 && line[at - 1] != b' ');
    let found = blanks.take(3).find_map(|at| Some((at, bare_level(line, at)?)));
    let (time_end, (level, at)) = found.ok_or(Reason::Format)?;
    let mut event = Event::new(Kind::App, cx.clock.any(&line[..time_end])?);
    event.level = level;
    let mut at = skip_blanks(line, at);
    if let Some((start, end, message)) = logger(line, at) {
        event.logger = cx.value(Piece::new(start, end, false), Escape::Log);
        at = message;
    }
    event.message = cx.value(Piece::new(at, line.len(), false), Escape::Log);
    Ok(event)
}

/// The logger behind a bare level, and where its message begins: `shop::db: `, `[main] c.e.Pay - ` or, with the process,
/// `1 --- [main] c.e.Pay    : `.
fn logger(line: &[u8], mut at: usize) -> Option<(usize, usize, usize)> {
    let digits = line[at..].iter().take(12).take_while(|b| b.is_ascii_digit()).count();
    if digits > 0 && line[at + digits..].starts_with(b" --- ") {
        at += digits + 5;
    }
    // The thread, and the application or the trace.
    for _ in 0..3 {
        if line.get(at) == Some(&b'[') {
            at = skip_blanks(line, at + memchr::memchr(b']', &line[at..line.len().min(at + 128)])? + 1);
        }
    }
    let is_part =
        |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'$' | b'-' | b'/' | b':' | b'[' | b']');
    let word = line[at..].iter().take(128).take_while(|b| is_part(b)).count();
    let end = at + word;
    if let [.., b':'] = line[at..end] {
        return (word > 1 && line.get(end).is_none_or(|b| *b == b' ')).then(|| (at, end - 1, skip_blanks(line, end)));
    }
    let after = skip_blanks(line, end);
    let divides = after > end && matches!(line[after..], [b':' | b'-', b' ', ..]);
    (word > 0 && divides).then_some((at, end, after + 2))
}

fn skip_blanks(line: &[u8], at: usize) -> usize {
    at + line[at..].iter().take_while(|b| **b == b' ').count()
}

/// Reads ` | Key: value` from the line's end; where the message ends.
///
/// A value or the message may hold what looks like more of them. So of a line in which one of the keys read stands once more,
/// wherever, neither client nor user count; nor does a duration that stands there twice.
fn read_appended(cx: &mut Context<'_>, from: usize, event: &mut Event) -> Result<usize, Reason> {
    let line = cx.line;
    let (mut end, mut values, mut twice) = (line.len(), [Piece::ABSENT; APPENDED.len()], [false; APPENDED.len()]);
    let (mut at, mut is_unbroken) = (end, true);
    while let Some(bar) = memmem::rfind(&line[from..at], b" | ").map(|n| from + n) {
        let value = appended(&line[bar + 3..at]);
        is_unbroken &= value.is_some_and(|(key, _)| values[key].is_absent());
        if let Some((key, start)) = value {
            match is_unbroken {
                true => values[key] = Piece::new(bar + 3 + start, at, false),
                false => twice[key] |= !values[key].is_absent(),
            }
        }
        if is_unbroken {
            end = bar;
        }
        at = bar;
    }
    let [client, user, duration] = values;
    if !twice.contains(&true) {
        event.client = cx.client(client, &Headers::NONE, Escape::Log);
        event.user = cx.value(user, Escape::Log);
    }
    if !duration.is_absent() && !twice[2] {
        let (start, stop) = duration.range();
        event.latency_us = response_time(&line[start..stop])?;
    }
    Ok(end)
}

/// The keys of what follows a message.
const APPENDED: [&[u8]; 3] = [b"ip", b"user", b"responsetime"];

/// Which of the keys a field has, and where its value starts.
fn appended(field: &[u8]) -> Option<(usize, usize)> {
    let colon = memmem::find(field, b": ")?;
    let key = APPENDED.iter().position(|key| field[..colon].eq_ignore_ascii_case(key))?;
    Some((key, colon + 2))
}

/// `120ms`, `1.5s`, `900us`; a bare number is milliseconds.
fn response_time(text: &[u8]) -> Result<u32, Reason> {
    let unit = text.iter().position(|b| b.is_ascii_alphabetic() || *b == b' ' || *b > 0x7f).unwrap_or(text.len());
    let scale = match text[unit..].trim_ascii() {
        b"" | b"ms" => 1000,
        b"s" => 1_000_000,
        b"us" | b"\xc2\xb5s" => 1,
        _ => return Err(Reason::BadNumber),
    };
    line::duration(&text[..unit], scale)
}

/// What syslog writes before a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// `None` where there is none, or `-` for it.
    pub time: Option<(usize, usize)>,
    /// Empty where it is not named, as is `tag`.
    pub host: (usize, usize),
    pub tag: (usize, usize),
    /// Where the message begins.
    pub message: usize,
    pub level: LogLevel,
}

/// Reads a line in the form of RFC 3164 or RFC 5424, its priority optional.
pub(super) fn syslog(cx: &mut Context<'_>) -> Result<Event, Reason> {
    let header = header(cx.line).ok_or(Reason::Format)?;
    let time = match header.time {
        Some((start, end)) => cx.clock.any(&cx.line[start..end])?,
        None => cx.clock.received()?,
    };
    let tag = &cx.line[header.tag.0..header.tag.1];
    // Apache leaves the time to syslog.
    if (tag.starts_with(b"httpd") || tag.starts_with(b"apache"))
        && cx.line[header.message..].starts_with(b"[")
        && let Ok(mut event) = error_logs::apache_after_time(cx, header.message, time)
    {
        if event.host.is_none() {
            event.host = header.host(cx);
        }
        return Ok(event);
    }
    let mut event = Event::new(Kind::App, time);
    event.level = header.level;
    event.host = header.host(cx);
    event.logger = cx.value(Piece::new(header.tag.0, header.tag.1, false), Escape::Log);
    event.message = cx.value(Piece::new(header.message, cx.line.len(), false), Escape::Log);
    event.client = named_client(cx.bytes(event.message), tag);
    Ok(event)
}

impl Header {
    /// The host it names.
    pub fn host(&self, cx: &mut Context<'_>) -> Span {
        cx.value(Piece::new(self.host.0, self.host.1, false), Escape::Log)
    }
}

/// Finds the header of a line: after a priority whatever there is of it; else one that begins with a time.
pub(super) fn header(line: &[u8]) -> Option<Header> {
    if line.first() != Some(&b'<') {
        return rfc3164(line, 0, false);
    }
    let close = memchr::memchr(b'>', &line[..line.len().min(5)])?;
    let priority = scan::unsigned(&line[1..close]).filter(|p| *p < 192)?;
    let at = close + 1;
    let framed = line[at..].starts_with(b"1 ").then(|| rfc5424(line, at + 2)).flatten();
    // Only the priority is known: everything after it is the message (RFC 3164, 4.3.3).
    let bare = Header { time: None, host: (at, at), tag: (at, at), message: at, level: LogLevel::None };
    let header = framed.or_else(|| rfc3164(line, at, true)).unwrap_or(bare);
    Some(Header { level: LogLevel::ALL[(priority % 8) as usize], ..header })
}

/// `Dec 10 06:55:46 HOST TAG[PID]: MESSAGE`, the host and the tag optional; the time may also be ISO 8601, as today's daemons
/// write it. Without a priority such a time may begin a line of any program: then the tag is not optional.
fn rfc3164(line: &[u8], at: usize, has_priority: bool) -> Option<Header> {
    let rest = &line[at..];
    let is_iso = rest.first()?.is_ascii_digit();
    let length = if is_iso { memchr::memchr(b' ', rest)? } else { 15 };
    let start = at + length + 1;
    // A bracket after the time opens a level: another format.
    if rest.get(length) != Some(&b' ') || length < 15 || line.get(start) == Some(&b'[') {
        return None;
    }
    let looks_timed = match is_iso {
        true => !has_priority || (rest[4] == b'-' && matches!(rest[10], b'T' | b't')),
        false => month(&rest[..3]).is_some() && rest[9] == b':' && rest[12] == b':',
    };
    if !looks_timed {
        return None;
    }
    // A program's own severity is no host of syslog's.
    if !has_priority && bare_level(line, at + length).is_some() {
        return None;
    }
    let time = Some((at, at + length));
    let level = LogLevel::None;
    let Some(word) = memchr::memchr(b' ', &line[start..]).map(|n| start + n) else {
        // One word: a message.
        let header = Header { time, host: (start, start), tag: (start, start), message: start, level };
        return (has_priority || !is_iso).then_some(header);
    };
    // Nginx can be told to leave its host out.
    let is_tag = line[start..word].ends_with(b":");
    let (host, tag) = if is_tag { ((start, start), start) } else { ((start, word), word + 1) };
    match memmem::find(&line[tag..line.len().min(tag + 80)], b": ").map(|n| tag + n) {
        Some(colon) => {
            let name = memchr::memchr2(b'[', b' ', &line[tag..colon]).map_or(colon, |n| tag + n);
            Some(Header { time, host, tag: (tag, name), message: colon + 2, level })
        }
        None if has_priority || !is_iso => Some(Header { time, host, tag: (tag, tag), message: tag, level }),
        None => None,
    }
}

/// `TIMESTAMP HOST APP PROCID MSGID STRUCTURED-DATA MESSAGE`.
fn rfc5424(line: &[u8], at: usize) -> Option<Header> {
    let mut start = at;
    let mut words = [(0, 0); 5];
    for word in &mut words {
        let end = start + memchr::memchr(b' ', &line[start..])?;
        *word = (start, end);
        start = end + 1;
    }
    let data_end = match line.get(start)? {
        b'-' => start + 1,
        b'[' => structured_data_end(line, start)?,
        _ => return None,
    };
    let message = line.len().min(data_end + 1);
    let mark = if line[message..].starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let time = Some(words[0]).filter(|(start, end)| &line[*start..*end] != b"-");
    Some(Header { time, host: words[1], tag: words[2], message: message + mark, level: LogLevel::None })
}

fn structured_data_end(line: &[u8], mut at: usize) -> Option<usize> {
    while line.get(at) == Some(&b'[') {
        at += 1;
        loop {
            match line.get(at)? {
                b']' => break,
                b'"' => at = scan::closing_quote(line, at + 1)?.0,
                _ => {}
            }
            at += 1;
        }
        at += 1;
    }
    Some(at)
}

/// The address a message names as its client's: behind ` from ` or `rhost=`, and in sshd's also before ` port N`.
///
/// Messages repeat what was typed, before such an address and behind it. So between quotes nobody is named, and nobody by a
/// message that holds another address too: a wrong client would be blamed for what somebody else did. Messages of sshd that end
/// in the address are an exception: by a name that holds another one a brute force would go unseen.
fn named_client(message: &[u8], tag: &[u8]) -> Client {
    if !CLAIMS.iter().any(|claim| memmem::find(message, claim).is_some()) {
        return Client::None;
    }
    if tag.starts_with(b"sshd")
        && let Some(client) = at_the_end(message)
    {
        return client;
    }
    let own =
        OWN.iter().find(|(begin, _)| message.starts_with(begin)).and_then(|(_, word)| memmem::find(message, word));
    let message = &message[..own.unwrap_or(message.len())];
    let quotes = [b'"', b'\''].map(|quote| memchr::memchr(quote, message).zip(memchr::memrchr(quote, message)));
    let is_quoted = |at: usize| quotes.iter().flatten().any(|(first, last)| (*first..*last).contains(&at));
    let user = memmem::find(message, b" user ");
    let (mut named, mut is_claimed) = (None, false);
    for (place, ip) in addresses::of(message) {
        if named.replace(ip).is_some_and(|other| other != ip) {
            return Client::None;
        }
        is_claimed = is_claimed || !is_quoted(place.start) && is_client(message, place.start, tag, user);
    }
    named.filter(|_| is_claimed).map_or(Client::None, Client::Ip)
}

/// Messages of a server's own, in which its address follows the client's: how they begin, and what stands between the two.
const OWN: [(&[u8], &[u8]); 4] = [
    (b"Connection from ", b" on "),
    (b"drop connection #", b" on "),
    (b"Timeout before authentication for connection from ", b" to "),
    (b"Connect from ", b" to "),
];

/// How messages of sshd begin that end in the client's address, behind the name that the client typed.
const ENDING: [&[u8]; 11] = [
    b"Failed ",
    b"Accepted ",
    b"Postponed ",
    b"Partial ",
    b"Invalid user ",
    b"Connection closed by ",
    b"Connection reset by ",
    b"Disconnected from ",
    b"Did not receive identification string from ",
    b"Bad protocol version identification '",
    b"error: maximum authentication attempts exceeded for ",
];

/// sshd cuts messages of 1023 bytes: the end of one that is shorter is its own.
const WHOLE: usize = 1000;

/// The client of a message that ends in `from ADDRESS port N ssh2`, `ADDRESS port N [preauth]` or the like: nothing a user typed
/// stands there. It is nobody where a host's name or `UNKNOWN` does. `None`: the message ends in another way.
fn at_the_end(message: &[u8]) -> Option<Client> {
    if message.len() > WHOLE || !ENDING.iter().any(|begin| message.starts_with(begin)) {
        return None;
    }
    let message = message.strip_suffix(b" [preauth]").unwrap_or(message);
    let message = message.strip_suffix(b" ssh2").unwrap_or(message);
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let port = memmem::rfind(message, b" port ").filter(|at| is_number(&message[at + 6..]));
    let head = &message[..port.unwrap_or(message.len())];
    let (before, word) = head.split_at(memchr::memrchr(b' ', head)? + 1);
    let is_end = port.is_some() || before.ends_with(b" from ");
    is_end.then(|| client::parse_endpoint(word).map_or(Client::None, Client::Ip))
}

/// What stands beside addresses of clients.
const CLAIMS: [&[u8]; 3] = [b" from ", b"rhost=", b" port "];

/// More than the longest address with its port has.
const MAX_ENDPOINT: usize = 64;

/// Whether a word is an address, with a port or without; sshd also writes IPv4 in brackets.
fn is_endpoint(word: &[u8]) -> bool {
    let inner = word.strip_prefix(b"[").and_then(|rest| Some(&rest[..memchr::memchr(b']', rest)?]));
    client::parse_endpoint(word).is_some() || inner.is_some_and(|inner| client::parse_endpoint(inner).is_some())
}

/// Whether the address at a place of a message is said to be a client's; `user` is where the first ` user ` stands in it.
fn is_client(message: &[u8], at: usize, tag: &[u8], user: Option<usize>) -> bool {
    let before = message[..at].strip_suffix(b"[").unwrap_or(&message[..at]);
    let word = &message[before.len()..];
    // No further than an address goes: a message may hold many that no word ends behind.
    let end = word.iter().take(MAX_ENDPOINT + 1).take_while(|b| !matches!(b, b' ' | b',' | b';')).count();
    if end > MAX_ENDPOINT || !is_endpoint(&word[..end]) {
        return false;
    }
    // Modules of PAM, and sshd once, repeat a name alone, at the end.
    if before.ends_with(b"rhost=") {
        return user.is_none_or(|user| user > at);
    }
    if message.starts_with(b"pam_") || message.starts_with(b"input_userauth_request: ") {
        return false;
    }
    let port =
        |rest: &[u8]| rest.strip_prefix(b" port ").is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit));
    // `Server listening on`, `connect_to`, `connect to host`: nobody's who came.
    let is_other = || [&b"on "[..], b"to ", b"host "].iter().any(|word| before.ends_with(word));
    before.ends_with(b" from ") || (tag.starts_with(b"sshd") && port(&word[end..]) && !is_other())
}
