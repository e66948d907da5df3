//! Log formats: what turns raw lines into events.
//!
//! A [`Format`] is compiled once from a name or a pasted `log_format` / `LogFormat` string and shared. A [`Parser`] is a
//! format, what the source says of itself ([`SourceOptions`]), and what it remembers from line to line to save work.
//!
//! | name | lines |
//! |---|---|
//! | `nginx-json` | a JSON object a line; the usual keys, or a mapping of our fields to keys |
//! | `combined`, `common` | Apache's and Nginx's, also with a virtual host in front or fields appended |
//! | `nginx-error`, `apache-error` | the servers' error logs |
//! | `app` | `TIMESTAMP [LEVEL] SERVICE - MESSAGE \| IP: x \| User: y \| ResponseTime: Nms` |
//! | `syslog` | RFC 3164 and RFC 5424 |
//! | `auto` | any of these, recognised line by line |
//!
//! Invariants
//! - Every line is exactly one event or one reject. No line makes the parser panic or allocate per event.
//! - What a line means depends on the line, the format, the options and when it was read (its record's timestamp, else that
//!   of its batch, by which dates without a year are completed): not on the lines before it, nor on how the input was cut
//!   into batches.

mod app;
mod combined;
mod detect;
mod error_logs;
mod json;
mod json_format;
mod line;
mod log_format;
mod marks;
mod pattern;
mod request;
mod scan;
mod shape;
mod time;
mod wrapper;

use crate::batch::{Batch, Framing, Reject, Span, WallTime};
use crate::client::{ClientHeader, Proxies};
use crate::dead_letter::Reason;
use crate::event::{Event, Kind};
use crate::networks::Networks;
use crate::time::EventTime;
use jiff::tz::TimeZone;
use line::{Context, NO_SLOTS, Slot, Slots};
use marks::{Marks, STRETCH};
use scan::Escape;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use detect::detect;
pub use log_format::format_of;
pub(crate) use wrapper::message_of;

/// The names of the formats, as configuration gives them; of two that read the same lines the more specific first.
pub const NAMES: &[&str] =
    &["nginx-json", "combined", "common", "nginx-error", "apache-error", "app", "syslog", "auto"];

/// Why a format's description is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Neither a name nor a pattern.
    #[error("{found:?} is not a format; expected one of {}, or an Nginx log_format or Apache LogFormat string", NAMES.join(", "))]
    Unknown {
        /// What was given.
        found: String,
        /// The name that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A pattern's variable or directive that does not exist.
    #[error("{found:?} at byte {at} is no variable of a log format; expected {expected}")]
    Variable {
        /// As written.
        found: String,
        /// Where in the text.
        at: usize,
        /// What could stand there.
        expected: &'static str,
    },
    /// A quote or brace is never closed.
    #[error("{what:?} at byte {at} is not closed")]
    Unclosed {
        /// The opening.
        what: &'static str,
        /// Where in the text.
        at: usize,
    },
    /// Nothing tells where one value ends and the next begins.
    #[error(
        "{second:?} at byte {at} follows {first:?} directly; expected a character between them that tells where one ends"
    )]
    Adjacent {
        /// The value before.
        first: String,
        /// The value after.
        second: String,
        /// Where the second stands in the text.
        at: usize,
    },
    /// A pattern without time.
    #[error("the pattern has no time; expected one of $time_local, $time_iso8601, $msec (Nginx) or %t (Apache)")]
    NoTime,
    /// A pattern of which nothing but the time is read.
    #[error(
        "the pattern reads nothing but a time; expected $remote_addr, $request, $status (Nginx) or %h, %r, %>s (Apache)"
    )]
    OnlyTime,
    /// A pattern with too many parts.
    #[error("the pattern has more than {parts} parts")]
    TooLong {
        /// The limit.
        parts: usize,
    },
    /// A mapping names a field that does not exist.
    #[error("{found:?} is not a field; expected one of {expected}")]
    UnknownField {
        /// What was given.
        found: String,
        /// The fields there are.
        expected: String,
    },
    /// A mapping was given for a format that has no keys.
    #[error("format {format:?} takes no field mapping; only nginx-json does")]
    NoMapping {
        /// The format's name.
        format: String,
    },
}

/// A compiled format; cheap to clone.
#[derive(Clone, Debug)]
pub struct Format {
    name: Arc<str>,
    inner: Arc<Inner>,
    remarks: Arc<[String]>,
    /// What was found where it was recognised, if there is more to say than its name.
    found: Option<Arc<str>>,
}

#[derive(Debug)]
enum Inner {
    Json(json::Keys),
    Combined,
    Common,
    Pattern(pattern::Pattern),
    NginxError,
    ApacheError,
    App,
    Syslog,
    Auto(json::Keys),
}

impl Format {
    /// Compiles a format from its name or a pasted pattern. `mapping` (our field → JSON key) is for `nginx-json` only.
    ///
    /// # Errors
    /// Says what was found, at which byte, and what is expected.
    pub fn compile(text: &str, mapping: &BTreeMap<String, String>) -> Result<Format, FormatError> {
        let text = text.trim();
        let mut remarks = Vec::new();
        let inner = match text {
            "nginx-json" | "json" => {
                let mut mapped = Vec::new();
                for (field, key) in mapping {
                    let slot = Slot::NAMES.iter().find(|(name, _)| name == field).map(|(_, slot)| *slot);
                    let slot = slot.ok_or_else(|| FormatError::UnknownField {
                        found: field.clone(),
                        expected: Slot::NAMES.map(|(name, _)| name).join(", "),
                    })?;
                    mapped.push((slot, key.as_str()));
                }
                Inner::Json(json::Keys::new(&mapped))
            }
            _ if !mapping.is_empty() => return Err(FormatError::NoMapping { format: text.to_owned() }),
            "combined" => Inner::Combined,
            "common" => Inner::Common,
            "nginx-error" => Inner::NginxError,
            "apache-error" => Inner::ApacheError,
            "app" => Inner::App,
            "syslog" => Inner::Syslog,
            "auto" => Inner::Auto(json::Keys::new(&[])),
            _ => match log_format::compile(text) {
                None => return Err(FormatError::Unknown { found: text.to_owned(), nearest: nearest(text) }),
                Some(Err(error)) => return Err(error),
                Some(Ok(log_format::Compiled::Json(template))) => {
                    remarks = template.remarks;
                    Inner::Json(json::Keys::exactly(&template.keys))
                }
                Some(Ok(log_format::Compiled::Pattern(pattern))) => match log_format::well_known(&pattern) {
                    Some(true) => Inner::Combined,
                    Some(false) => Inner::Common,
                    None => Inner::Pattern(pattern),
                },
            },
        };
        Ok(Format { name: text.into(), inner: Arc::new(inner), remarks: remarks.into(), found: None })
    }

    /// The name or pattern it was compiled from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What [`detect`] found: its name, or what most lines are and what they are wrapped in.
    pub fn recognised_as(&self) -> &str {
        self.found.as_deref().unwrap_or(&self.name)
    }

    /// What a pasted string holds that is not read, and why; a sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Whether a line of it can hold this header. Where it cannot, every client behind a proxy is the proxy.
    pub fn carries(&self, header: ClientHeader) -> bool {
        let slot = match header {
            ClientHeader::XForwardedFor => Slot::XForwardedFor,
            ClientHeader::Forwarded => Slot::Forwarded,
            ClientHeader::XRealIp => Slot::XRealIp,
        };
        match &*self.inner {
            Inner::Json(keys) | Inner::Auto(keys) => keys.may_find(slot),
            Inner::Pattern(pattern) => pattern.may_find(slot),
            // What is appended to the line.
            Inner::Combined | Inner::Common => header == ClientHeader::XForwardedFor,
            Inner::NginxError | Inner::ApacheError | Inner::App | Inner::Syslog => false,
        }
    }

    /// Whether each line is recognised by itself.
    pub fn is_auto(&self) -> bool {
        matches!(*self.inner, Inner::Auto(_))
    }
}

/// The format's name that shares the most letters with a text, where any does to a degree that helps.
fn nearest(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase().replace('_', "-");
    let common = |name: &str| {
        let start = name.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let end = name.bytes().rev().zip(text.bytes().rev()).take_while(|(a, b)| a == b).count();
        (start + end).min(name.len())
    };
    NAMES.iter().copied().filter(|name| common(name) * 2 >= name.len()).max_by_key(|name| common(name))
}

/// What a source says of its lines.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The zone of times that name none.
    pub zone: TimeZone,
    /// Networks of our own proxies.
    pub trusted_proxies: Networks,
    /// The header by which they name the client; `None`: the peer is the client.
    pub client_header: Option<ClientHeader>,
    /// The time by which dates without a year are completed, where a batch was read no later (a file's lines in a replay,
    /// which says not when it reads) and the record has no timestamp.
    pub reference_time: WallTime,
    /// Whether a line without a time happened when it was read: lines that are sent, not those of files. A record's
    /// timestamp is believed in any case.
    pub live: bool,
    /// The longest line that is parsed, in bytes; longer ones are rejected as `too_long`.
    pub max_line: usize,
}

impl Default for SourceOptions {
    /// UTC, no proxies, lines of at most 1 MiB, dates without year completed by the epoch.
    fn default() -> SourceOptions {
        SourceOptions {
            zone: TimeZone::UTC,
            trusted_proxies: Networks::default(),
            client_header: None,
            reference_time: WallTime(0),
            live: false,
            max_line: 1 << 20,
        }
    }
}

/// Parses batches of one source. See the module.
pub struct Parser {
    format: Format,
    max_line: usize,
    reference_time: WallTime,
    live: bool,
    proxies: Proxies,
    clock: time::Clock,
    memory: wrapper::Memory,
    marks: Marks,
}

impl Parser {
    /// A parser of a format with a source's options.
    pub fn new(format: Format, options: SourceOptions) -> Parser {
        let SourceOptions { zone, trusted_proxies, client_header, reference_time, live, max_line } = options;
        Parser {
            format,
            max_line,
            reference_time,
            live,
            proxies: Proxies { trusted: trusted_proxies, header: client_header },
            clock: time::Clock::new(zone),
            memory: wrapper::Memory::default(),
            marks: Marks::default(),
        }
    }

    /// The format.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Divides the batch's bytes into lines and reads each into `batch.events` or `batch.rejects`, in line order.
    pub fn parse(&mut self, batch: &mut Batch) {
        let Batch { raw, extra, events, rejects, is_zoneless, .. } = batch;
        let buffer = &raw.bytes[..];
        let marked = self.format.inner.is_read_by_marks() && buffer.len() < u32::MAX as usize;
        let mut marks = std::mem::take(&mut self.marks);
        let mut out = Out { buffer, extra, events, rejects };
        let written_by = self.reference_time.max(raw.read_at);
        let received = Some(raw.read_at).filter(|at| self.live && at.0 > 0);
        self.clock.read_by(written_by, received);
        match &raw.framing {
            Framing::Lines { offset } if marked => self.lines(*offset, &mut marks, &mut out),
            Framing::Lines { offset } => {
                let mut start = 0;
                for end in memchr::memchr_iter(b'\n', buffer) {
                    self.line(start, end, offset + start as u64, Span::NONE, &mut out);
                    start = end + 1;
                }
                if start < buffer.len() {
                    self.line(start, buffer.len(), offset + start as u64, Span::NONE, &mut out);
                }
            }
            Framing::Torn { offset } => {
                let end = buffer.strip_suffix(b"\n").unwrap_or(buffer).len();
                out.rejects.push(Reject { line: Span::new(0, end), offset: *offset, reason: Reason::Damaged });
            }
            Framing::Records(records) => {
                // Read by its marks, a record without a year takes a closer look: only then its timestamp is needed.
                self.clock.forget_reading();
                for record in records {
                    let (start, mut end) = record.value.range();
                    while end > start && matches!(buffer[end - 1], b'\n' | b'\r') {
                        end -= 1;
                    }
                    let read = marked && end - start <= STRETCH && {
                        let marks = marks.find(buffer, start, end);
                        self.line_by_marks(start, marks, record.offset, record.host, &mut out)
                    };
                    if !read && self.holds_lines(&buffer[start..end]) {
                        let line = Span::new(start, end);
                        out.rejects.push(Reject { line, offset: record.offset, reason: Reason::Format });
                    } else if !read {
                        let stamp = record.timestamp.map(|at| at.min(written_by));
                        self.clock.read_by(stamp.unwrap_or(written_by), stamp.or(received));
                        self.line(start, end, record.offset, record.host, &mut out);
                        self.clock.forget_reading();
                    }
                }
            }
        }
        self.marks = marks;
        *is_zoneless = self.clock.took_zone();
    }

    /// Reads lines, a stretch of the buffer at a time: what one pass finds in it, the next goes by.
    #[inline(always)]
    fn lines(&mut self, offset: u64, marks: &mut Marks, out: &mut Out<'_>) {
        let buffer = out.buffer;
        let mut start = 0;
        while start < buffer.len() {
            let stretch = buffer.len().min(start + STRETCH);
            let mut rest = marks.find(buffer, start, stretch);
            let begin = start;
            // The last mark is the stretch's end, which ends no line.
            while rest.len() > 1 {
                let expected = self.expected_marks();
                let at = offset + start as u64;
                if let Some(end) = rest.get(expected).map(|end| *end as usize)
                    && end < stretch
                    && buffer[end] == b'\n'
                    && self.line_by_marks(start, &rest[..=expected], at, Span::NONE, out)
                {
                    (start, rest) = (end + 1, &rest[expected + 1..]);
                    continue;
                }
                let Some(n) = rest[..rest.len() - 1].iter().position(|mark| buffer[*mark as usize] == b'\n') else {
                    break;
                };
                let end = rest[n] as usize;
                self.line(start, end, at, Span::NONE, out);
                (start, rest) = (end + 1, &rest[n + 1..]);
            }
            if start == begin || stretch == buffer.len() {
                // A long line, or the last one without its end.
                if start == buffer.len() {
                    break;
                }
                let end = memchr::memchr(b'\n', &buffer[start..]).map_or(buffer.len(), |at| start + at);
                self.line(start, end, offset + start as u64, Span::NONE, out);
                start = end + 1;
            }
        }
    }

    /// Whether a record holds several lines where one is an event. Access logs escape what ends a line; read as one line,
    /// what stands behind the first would be part of a value.
    fn holds_lines(&self, record: &[u8]) -> bool {
        let is_access = matches!(*self.format.inner, Inner::Combined | Inner::Common | Inner::Pattern(_));
        is_access && record.len() <= self.max_line && memchr::memchr(b'\n', record).is_some()
    }

    /// How many marks the usual line has.
    #[inline]
    fn expected_marks(&self) -> usize {
        match *self.format.inner {
            Inner::Json(_) => self.memory.json.expected_marks().unwrap_or(usize::MAX),
            _ => combined::MARKS,
        }
    }

    /// Reads a line that is as usual; `marks` are its own and its end. False where it takes a closer look: then nothing has
    /// happened.
    #[inline(always)]
    fn line_by_marks(&mut self, start: usize, marks: &[u32], offset: u64, host: Span, out: &mut Out<'_>) -> bool {
        let Some((end, _)) = marks.split_last() else { return false };
        let end = *end as usize;
        if end - start > self.max_line || start == end {
            return false;
        }
        let Parser { format, proxies, clock, memory, .. } = self;
        let line = &out.buffer[start..end];
        let mut cx = Context { line, base: start, buffer: out.buffer, extra: out.extra, clock, proxies };
        // The event is made where it stays.
        out.events.push(Event::new(Kind::Access, EventTime(0)));
        let Some(event) = out.events.last_mut() else { return false };
        let read = match *format.inner {
            Inner::Json(_) => memory.json.read_marked(&mut cx, marks, event),
            _ => combined::parse_marked(&mut cx, marks, event),
        };
        if read.is_none() {
            out.events.pop();
            return false;
        }
        event.line = Span::new(start, end);
        event.offset = offset;
        if event.host.is_empty() {
            event.host = host;
        }
        true
    }

    #[inline]
    fn line(&mut self, start: usize, mut end: usize, offset: u64, host: Span, out: &mut Out<'_>) {
        let Out { buffer, extra, events, rejects } = out;
        if end > start && buffer[end - 1] == b'\r' {
            end -= 1;
        }
        let line = Span::new(start, end);
        let parsed = if start == end {
            Err(Reason::Empty)
        } else if end - start > self.max_line {
            Err(Reason::TooLong)
        } else {
            self.read(buffer, start, end, extra)
        };
        match parsed {
            Ok(mut event) => {
                event.line = line;
                event.offset = offset;
                if event.host.is_empty() {
                    event.host = host;
                }
                events.push(event);
            }
            Err(reason) => rejects.push(Reject { line, offset, reason }),
        }
    }

    #[inline]
    fn read(&mut self, buffer: &[u8], start: usize, end: usize, extra: &mut Vec<u8>) -> Result<Event, Reason> {
        let Parser { format, proxies, clock, memory, .. } = self;
        let (mut start, mut end) = (start, end);
        while end > start && matches!(buffer[end - 1], b' ' | b'\t') {
            end -= 1;
        }
        if buffer[start] == 0xef && buffer[start..end].starts_with(b"\xef\xbb\xbf") {
            start += 3;
        }
        // Some tools wrap whole lines in a pair of quotes.
        let unwraps = match &*format.inner {
            Inner::Pattern(pattern) => !pattern.opens_with(b'"'),
            _ => true,
        };
        if end - start > 2 && buffer[start] == b'"' && buffer[end - 1] == b'"' && unwraps {
            (start, end) = (start + 1, end - 1);
        }
        let line = &buffer[start..end];
        let mut cx = Context { line, base: start, buffer, extra, clock, proxies };
        wrapper::read(&format.inner, &mut cx, memory).map_err(|reason| blame(line, reason))
    }
}

/// A batch being parsed.
struct Out<'a> {
    buffer: &'a [u8],
    extra: &'a mut Vec<u8>,
    events: &'a mut Vec<Event>,
    rejects: &'a mut Vec<Reject>,
}

impl Inner {
    /// Whether lines as usual are read by their marks.
    fn is_read_by_marks(&self) -> bool {
        matches!(self, Inner::Json(_) | Inner::Combined)
    }

    #[inline]
    fn read(&self, cx: &mut Context<'_>, reader: &mut json::Reader) -> Result<Event, Reason> {
        match self {
            Inner::Combined => combined::parse(cx, combined::Tail::Required),
            Inner::Common => combined::parse(cx, combined::Tail::Optional),
            Inner::Json(keys) => read_json(cx, keys, reader),
            Inner::Pattern(pattern) => pattern.parse(cx),
            Inner::NginxError => error_logs::nginx(cx),
            Inner::ApacheError => error_logs::apache(cx),
            Inner::App => app::app(cx),
            Inner::Syslog => app::syslog(cx),
            Inner::Auto(keys) => read_any(cx, keys, reader),
        }
    }
}

#[inline]
fn read_json(cx: &mut Context<'_>, keys: &json::Keys, reader: &mut json::Reader) -> Result<Event, Reason> {
    let mut slots: Slots = NO_SLOTS;
    reader.read(keys, cx.line, &mut slots)?;
    let event = line::assemble(cx, &slots, Escape::Json, None)?;
    // As of a pattern: nothing but a time is no event, whatever the object holds under keys of its own.
    if line::is_only_time(&slots) { Err(Reason::Format) } else { Ok(event) }
}

/// Reads a line in whatever format it is, told by how it begins.
fn read_any(cx: &mut Context<'_>, keys: &json::Keys, reader: &mut json::Reader) -> Result<Event, Reason> {
    let guess = match cx.line {
        [b'0'..=b'9', _, _, _, b'-', ..] => app::app(cx),
        [b'0'..=b'9', _, _, _, b'/', ..] => error_logs::nginx(cx).or_else(|_| app::app(cx)),
        _ => return read_server(cx, keys, reader),
    };
    guess.or_else(|reason| read_server(cx, keys, reader).map_err(|_| reason))
}

/// Reads a line in one of the formats of web servers, told by how it begins.
fn read_server(cx: &mut Context<'_>, keys: &json::Keys, reader: &mut json::Reader) -> Result<Event, Reason> {
    match cx.line {
        [b'{', ..] => read_json(cx, keys, reader),
        [b'[', ..] => error_logs::apache(cx),
        [b'0'..=b'9', _, _, _, b'/', ..] => error_logs::nginx(cx),
        _ => combined::parse(cx, combined::Tail::Optional),
    }
}

/// The reason of a line that did not parse: binary bytes explain more than a missing shape.
#[cold]
fn blame(line: &[u8], reason: Reason) -> Reason {
    let binary = |b: &u8| *b < 0x20 && !matches!(b, b'\t' | 0x1b);
    match reason {
        Reason::Format | Reason::Json if line.iter().take(64).any(binary) => Reason::Binary,
        reason => reason,
    }
}
