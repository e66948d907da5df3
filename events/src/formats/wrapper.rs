//! Lines inside of what carried them: a syslog daemon, a container's runtime or its tools wrote something around each.
//!
//! | wrapper | a line in it |
//! |---|---|
//! | syslog | `Mar 05 12:00:00 web1 nginx[123]: LINE`, also behind a priority, and RFC 5424 |
//! | CRI | `2026-03-05T12:00:00.000000000Z stdout F LINE` |
//! | JSON | `{"log":"LINE\n","stream":"stdout","time":"2026-03-05T12:00:00.000000000Z"}` |
//! | Compose | <code>web-1  &#124; LINE</code> |
//! | a time | `2026-03-05T12:00:00.000000000Z LINE` |
//!
//! The wrapper's time counts where the line carries none, and its host where the line names none.
//!
//! Invariants
//! - How the line begins tells whether it is wrapped. Of what stands behind a syslog header nothing more is unwrapped:
//!   messages repeat what clients sent.
//! - A line in no wrapper costs a look at its first bytes.

use super::line::{Context, NO_SLOTS, Piece, Slot, is_only_time};
use super::pattern::Class;
use super::scan::{self, Escape};
use super::time::month;
use super::{Inner, app, json};
use crate::dead_letter::Reason;
use crate::event::Event;
use crate::time::EventTime;
use std::sync::LazyLock;

/// How deep wrappers are looked into: a line in JSON in CRI's form behind a container's name.
const DEPTH: u8 = 3;

/// What lines are wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wrapper {
    Syslog,
    Cri,
    Json,
    Compose,
    Time,
}

impl Wrapper {
    /// How it is reported.
    pub fn as_str(self) -> &'static str {
        match self {
            Wrapper::Syslog => "behind syslog headers",
            Wrapper::Cri => "in CRI lines",
            Wrapper::Json => "in JSON with a `log` key",
            Wrapper::Compose => "behind names of containers",
            Wrapper::Time => "behind timestamps",
        }
    }
}

/// What stands before a line.
#[derive(Clone, Copy, Debug)]
struct Prefix {
    wrapper: Wrapper,
    /// Where its time stands.
    time: Option<(usize, usize)>,
    /// Where the host stands that it names; empty where it names none.
    host: (usize, usize),
    /// Where the line begins.
    message: usize,
    /// Whether the line goes on in the next one.
    is_partial: bool,
}

/// What a parser remembers of JSON lines.
#[derive(Default)]
pub(super) struct Memory {
    pub json: json::Reader,
    /// The same of lines that have others in them.
    outer: json::Reader,
    /// A line that stood in JSON.
    text: Vec<u8>,
}

/// The keys of Docker's json-file driver, and of Fluent Bit.
static KEYS: LazyLock<json::Keys> = LazyLock::new(|| {
    let keys = [
        ("log", Slot::Message),
        ("stream", Slot::Logger),
        ("time", Slot::Time),
        ("@timestamp", Slot::Time),
        ("date", Slot::Time),
    ];
    json::Keys::exactly(&keys.map(|(key, slot)| (key.to_owned(), slot)))
});

/// Reads a line, or the one that is wrapped in it.
#[inline]
pub(super) fn read(format: &Inner, cx: &mut Context<'_>, memory: &mut Memory) -> Result<Event, Reason> {
    match cx.line {
        // The hole that a file has where it was truncated under a program that goes on writing behind it.
        [0, ..] => Err(Reason::Binary),
        [b'{', rest @ ..] if !rest.starts_with(b"\"log\"") => match format.read(cx, &mut memory.json) {
            Err(reason) => log_of_unread(format, cx, memory, DEPTH, reason),
            result => result,
        },
        [b'<' | b'{' | b'a'..=b'z' | b'A'..=b'Z', ..] | [b'0'..=b'9', _, _, _, b'-', ..] => {
            unwrap(format, cx, memory, DEPTH)
        }
        _ => format.read(cx, &mut memory.json),
    }
}

fn unwrap(format: &Inner, cx: &mut Context<'_>, memory: &mut Memory, depth: u8) -> Result<Event, Reason> {
    if depth == 0 {
        return format.read(cx, &mut memory.json);
    }
    if cx.line.first() == Some(&b'{') {
        return read_object(format, cx, memory, depth);
    }
    // Most lines of such a file are its own, and are not read twice.
    if matches!(format, Inner::Syslog)
        && !cx.line.first().is_some_and(u8::is_ascii_digit)
        && let Ok(event) = format.read(cx, &mut memory.json)
    {
        return Ok(event);
    }
    let Some(prefix) = prefix(cx.line) else { return format.read(cx, &mut memory.json) };
    if prefix.is_partial {
        return Err(Reason::Format);
    }
    if format.may_begin_like(&prefix) {
        let own = format.read(cx, &mut memory.json);
        return own.or_else(|reason| behind(format, cx, &prefix, memory, depth).map_err(|_| reason));
    }
    if let (Inner::Auto(_), Wrapper::Time) = (format, prefix.wrapper)
        && let Ok(event) = app::app(cx)
    {
        return Ok(event);
    }
    behind(format, cx, &prefix, memory, depth).or_else(|reason| match (format, prefix.wrapper) {
        // A message of any program.
        (Inner::Auto(_), Wrapper::Syslog | Wrapper::Time) => app::syslog(cx).map_err(|_| reason),
        (Inner::Pattern(_), _) => format.read(cx, &mut memory.json).map_err(|_| reason),
        _ => Err(reason),
    })
}

impl Inner {
    /// Whether lines of this format may begin with this themselves.
    fn may_begin_like(&self, prefix: &Prefix) -> bool {
        match (self, prefix.wrapper) {
            (Inner::Syslog, Wrapper::Syslog | Wrapper::Time) | (Inner::App, Wrapper::Time) => true,
            (Inner::Pattern(pattern), wrapper) => {
                wrapper == Wrapper::Compose || pattern.opens_with(b'<') || pattern.opens_with_time()
            }
            _ => false,
        }
    }

    /// Whether `log` is a key of its own lines.
    fn has_log_key(&self) -> bool {
        matches!(self, Inner::Json(keys) | Inner::Auto(keys) if keys.of(b"log").is_some())
    }
}

/// Reads the line behind a prefix.
fn behind(
    format: &Inner,
    cx: &mut Context<'_>,
    prefix: &Prefix,
    memory: &mut Memory,
    depth: u8,
) -> Result<Event, Reason> {
    let (line, base) = (cx.line, cx.base);
    let depth = if prefix.wrapper == Wrapper::Syslog { 0 } else { depth - 1 };
    (cx.line, cx.base) = (&line[prefix.message..], base + prefix.message);
    let result = read_timed(format, cx, memory, depth, prefix.time.map(|(start, end)| &line[start..end]));
    (cx.line, cx.base) = (line, base);
    let mut event = result?;
    if event.host.is_empty() {
        event.host = cx.value(Piece::new(prefix.host.0, prefix.host.1, false), Escape::Log);
    }
    Ok(event)
}

/// Reads a line whose wrapper carries a time, which counts where the line has none.
fn read_timed(
    format: &Inner,
    cx: &mut Context<'_>,
    memory: &mut Memory,
    depth: u8,
    time: Option<&[u8]>,
) -> Result<Event, Reason> {
    match unwrap(format, cx, memory, depth) {
        Err(Reason::MissingTime) if let Some(Ok(time)) = time.map(|time| cx.clock.any(time)) => {
            cx.clock.carry(Some(time));
            let result = unwrap(format, cx, memory, depth);
            cx.clock.carry(None::<EventTime>);
            result
        }
        result => result,
    }
}

/// Reads an object: a line of the format, or one that has such a line as its `log`.
fn read_object(format: &Inner, cx: &mut Context<'_>, memory: &mut Memory, depth: u8) -> Result<Event, Reason> {
    if cx.line.starts_with(b"{\"log\"")
        && let Some(result) = log_of(format, cx, memory, depth, true)
    {
        // Its own fields count where its line does not.
        return result.or_else(|reason| format.read(cx, &mut memory.json).map_err(|_| reason));
    }
    format.read(cx, &mut memory.json).or_else(|reason| log_of_unread(format, cx, memory, depth, reason))
}

/// Reads the line in an object that is no line of the format itself.
#[cold]
fn log_of_unread(
    format: &Inner,
    cx: &mut Context<'_>,
    memory: &mut Memory,
    depth: u8,
    reason: Reason,
) -> Result<Event, Reason> {
    match reason {
        Reason::Format | Reason::MissingTime => log_of(format, cx, memory, depth, false).unwrap_or(Err(reason)),
        reason => Err(reason),
    }
}

/// Reads the line that an object has as its `log`; `None` where it has none, or lacks the stream that it came from.
fn log_of(
    format: &Inner,
    cx: &mut Context<'_>,
    memory: &mut Memory,
    depth: u8,
    needs_stream: bool,
) -> Option<Result<Event, Reason>> {
    if format.has_log_key() {
        return None;
    }
    let outer = cx.line;
    let mut slots = NO_SLOTS;
    memory.outer.read(&KEYS, outer, &mut slots).ok()?;
    let value = |slot: Slot| &outer[slots[slot as usize].range().0..slots[slot as usize].range().1];
    if slots[Slot::Message as usize].is_absent() || (needs_stream && !is_stream(value(Slot::Logger))) {
        return None;
    }
    let from = cx.extra.len();
    scan::unescape(value(Slot::Message), Escape::Json, cx.extra);
    let length = cx.extra[from..].trim_ascii_end().len();
    cx.extra.truncate(from + length);
    let mut text = std::mem::take(&mut memory.text);
    text.clear();
    text.extend_from_slice(&cx.extra[from..]);
    let time = Some(value(Slot::Time)).filter(|time| !time.is_empty());
    let mut inner =
        Context { line: &text, base: 0, buffer: &text, extra: cx.extra, clock: cx.clock, proxies: cx.proxies };
    let result = read_timed(format, &mut inner, memory, depth - 1, time);
    memory.text = text;
    Some(match result {
        Ok(event) => Ok(event.copied_to_extra(from)),
        Err(reason) => {
            cx.extra.truncate(from);
            Err(reason)
        }
    })
}

fn is_stream(text: &[u8]) -> bool {
    matches!(text, b"stdout" | b"stderr")
}

/// What stands before the line proper.
fn prefix(line: &[u8]) -> Option<Prefix> {
    match line {
        [b'<', ..] => app::header(line).map(|header| Prefix::of_header(&header)),
        [b'0'..=b'9', ..] => dated(line),
        [_, _, _, b' ', ..] if month(&line[..3]).is_some() => {
            app::header(line).map(|header| Prefix::of_header(&header))
        }
        _ => compose(line),
    }
}

impl Prefix {
    fn new(wrapper: Wrapper, time: Option<(usize, usize)>, message: usize) -> Prefix {
        Prefix { wrapper, time, host: (0, 0), message, is_partial: false }
    }

    fn of_header(header: &app::Header) -> Prefix {
        Prefix { host: header.host, ..Prefix::new(Wrapper::Syslog, header.time, header.message) }
    }
}

/// A time in ISO 8601, alone or with what CRI or syslog write behind it.
fn dated(line: &[u8]) -> Option<Prefix> {
    let end = Class::IsoTime.length_of_time(line).filter(|end| line.get(*end) == Some(&b' '))?;
    let time = Some((0, end));
    let rest = &line[end + 1..];
    if let Some((stream, flag)) = rest.split_at_checked(7)
        && stream.strip_suffix(b" ").is_some_and(is_stream)
        && let [flag @ (b'F' | b'P'), after @ ..] = flag
        && matches!(after, [] | [b' ', ..])
    {
        let message = line.len().min(end + 10);
        return Some(Prefix { is_partial: *flag == b'P', ..Prefix::new(Wrapper::Cri, time, message) });
    }
    let header = app::header(line).filter(|header| is_tagged(line, header));
    Some(header.map_or(Prefix::new(Wrapper::Time, time, end + 1), |header| Prefix::of_header(&header)))
}

/// Whether the message follows a program's name, perhaps with its process id, and nothing else.
fn is_tagged(line: &[u8], header: &app::Header) -> bool {
    let (start, end) = header.tag;
    let id = &line[end..header.message.saturating_sub(2).max(end)];
    start < end && (id.is_empty() || (id.starts_with(b"[") && id.ends_with(b"]")))
}

/// The name of a container, blanks and a bar, as `docker compose logs` writes them.
fn compose(line: &[u8]) -> Option<Prefix> {
    let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let name = line.iter().take_while(|b| is_part(b)).count();
    let blanks = line[name..].iter().take_while(|b| **b == b' ').count();
    let bar = name + blanks;
    let is_whole = name > 0 && blanks > 0 && line[bar..].starts_with(b"| ");
    is_whole.then(|| Prefix::new(Wrapper::Compose, None, bar + 2))
}

/// What a line is wrapped in.
pub(super) fn of(line: &[u8]) -> Option<Wrapper> {
    if line.first() != Some(&b'{') {
        return prefix(line).map(|prefix| prefix.wrapper);
    }
    let mut slots = NO_SLOTS;
    json::Reader::default().read(&KEYS, line, &mut slots).ok()?;
    if slots[Slot::Message as usize].is_absent() {
        return None;
    }
    // A line with fields of its own has a `log` that is one of them.
    let mut own = NO_SLOTS;
    json::Reader::default().read(&json::Keys::new(&[]), line, &mut own).ok()?;
    is_only_time(&own).then_some(Wrapper::Json)
}

/// Where the line proper begins, behind all that stands before it.
pub(crate) fn message_of(line: &[u8]) -> usize {
    (0..DEPTH).fold(0, |at, _| prefix(&line[at..]).map_or(at, |prefix| at + prefix.message))
}
