//! Log formats: what turns raw lines into events.
//!
//! A [`Format`] is compiled once from a name or a pasted `log_format` / `LogFormat` string and shared. A [`Parser`] is a
//! format, what the source says of itself ([`SourceOptions`]), and what it remembers from line to line to save work.
//!
//! | name | lines |
//! |---|---|
//! | `nginx-json` | a JSON object a line; the usual keys, or a mapping of our fields to keys |
//! | `combined`, `common` | Apache's and Nginx's, also with a virtual host in front or fields appended |
//!
//! Invariants
//! - Every line is exactly one event or one reject. No line makes the parser panic or allocate per event.
//! - What a line means depends on the line, the format and the options alone: not on the lines before it, nor on how the
//!   input was cut into batches.

mod combined;
mod json;
mod line;
mod request;
mod scan;
mod time;

use crate::batch::{Batch, Framing, Reject, Span, WallTime};
use crate::client::{ClientHeader, Proxies};
use crate::dead_letter::Reason;
use crate::event::Event;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use line::{Context, NO_SLOTS, Slot, Slots};
use scan::Escape;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The names of the formats, as configuration gives them.
pub const NAMES: &[&str] = &["nginx-json", "combined", "common"];

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
}

#[derive(Debug)]
enum Inner {
    Json(json::Keys),
    Combined,
    Common,
}

impl Format {
    /// Compiles a format from its name or a pasted pattern. `mapping` (our field → JSON key) is for `nginx-json` only.
    ///
    /// # Errors
    /// Says what was found, at which byte, and what is expected.
    pub fn compile(text: &str, mapping: &BTreeMap<String, String>) -> Result<Format, FormatError> {
        let text = text.trim();
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
            _ => {
                return Err(FormatError::Unknown {
                    found: text.to_owned(),
                    nearest: NAMES.iter().find(|name| name.starts_with(text)).copied(),
                });
            }
        };
        Ok(Format { name: text.into(), inner: Arc::new(inner) })
    }

    /// The name or pattern it was compiled from.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a source says of its lines.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The zone of times that name none.
    pub zone: TimeZone,
    /// Networks of our own proxies.
    pub trusted_proxies: Vec<IpNet>,
    /// The header by which they name the client; `None`: the peer is the client.
    pub client_header: Option<ClientHeader>,
    /// The time by which dates without a year are completed.
    pub reference_time: WallTime,
    /// The longest line that is parsed, in bytes; longer ones are rejected as `too_long`.
    pub max_line: usize,
}

impl Default for SourceOptions {
    /// UTC, no proxies, lines of at most 1 MiB, dates without year completed by the epoch.
    fn default() -> SourceOptions {
        SourceOptions {
            zone: TimeZone::UTC,
            trusted_proxies: Vec::new(),
            client_header: None,
            reference_time: WallTime(0),
            max_line: 1 << 20,
        }
    }
}

/// Parses batches of one source. See the module.
pub struct Parser {
    format: Format,
    max_line: usize,
    proxies: Proxies,
    clock: time::Clock,
    json: json::Reader,
}

impl Parser {
    /// A parser of a format with a source's options.
    pub fn new(format: Format, options: SourceOptions) -> Parser {
        let SourceOptions { zone, trusted_proxies, client_header, reference_time, max_line } = options;
        Parser {
            format,
            max_line,
            proxies: Proxies { trusted: trusted_proxies, header: client_header },
            clock: time::Clock::new(zone, reference_time),
            json: json::Reader::default(),
        }
    }

    /// The format.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Divides the batch's bytes into lines and reads each into `batch.events` or `batch.rejects`, in line order.
    pub fn parse(&mut self, batch: &mut Batch) {
        let Batch { raw, extra, events, rejects, .. } = batch;
        let buffer = &raw.bytes[..];
        match &raw.framing {
            Framing::Lines { offset } => {
                let mut start = 0;
                for end in memchr::memchr_iter(b'\n', buffer) {
                    self.line(buffer, (start, end), offset + start as u64, Span::NONE, extra, events, rejects);
                    start = end + 1;
                }
                if start < buffer.len() {
                    self.line(buffer, (start, buffer.len()), offset + start as u64, Span::NONE, extra, events, rejects);
                }
            }
            Framing::Records(records) => {
                for record in records {
                    let (start, mut end) = record.value.range();
                    while end > start && matches!(buffer[end - 1], b'\n' | b'\r') {
                        end -= 1;
                    }
                    self.line(buffer, (start, end), record.offset, record.host, extra, events, rejects);
                }
            }
        }
    }

    #[inline]
    fn line(
        &mut self,
        buffer: &[u8],
        (start, mut end): (usize, usize),
        offset: u64,
        host: Span,
        extra: &mut Vec<u8>,
        events: &mut Vec<Event>,
        rejects: &mut Vec<Reject>,
    ) {
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
        let Parser { format, proxies, clock, json, .. } = self;
        let mut end = end;
        let mut start = start;
        while end > start && matches!(buffer[end - 1], b' ' | b'\t') {
            end -= 1;
        }
        // Some tools wrap whole lines in a pair of quotes.
        if end - start > 2 && buffer[start] == b'"' && buffer[end - 1] == b'"' {
            (start, end) = (start + 1, end - 1);
        }
        let line = &buffer[start..end];
        let mut cx = Context { line, base: start, buffer, extra, clock, proxies };
        let result = match &*format.inner {
            Inner::Combined => combined::parse(&mut cx, combined::Tail::Required),
            Inner::Common => combined::parse(&mut cx, combined::Tail::Optional),
            Inner::Json(keys) => {
                let mut slots: Slots = NO_SLOTS;
                json.read(keys, line, &mut slots).and_then(|()| line::assemble(&mut cx, &slots, Escape::Json, None))
            }
        };
        result.map_err(|reason| blame(line, reason))
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
