//! What a log line means, whatever its format: one flat record of numbers and spans.

use crate::batch::{Batch, Span};
use crate::time::EventTime;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Which kind of log a line is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A request: access logs.
    Access,
    /// A server's error log.
    Error,
    /// An application's log.
    App,
}

/// The client a line speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The line names none.
    None,
    /// An address. IPv4-mapped IPv6 addresses are stored as IPv4.
    Ip(IpAddr),
    /// Something that is not an address: a host name, or an application's own name.
    Name(Span),
}

impl Client {
    /// The name, where it is none but that.
    #[inline]
    pub fn name<'a>(&self, batch: &'a Batch) -> Option<&'a [u8]> {
        match self {
            Client::Name(span) => Some(batch.get(*span)),
            _ => None,
        }
    }
}

/// A request method. Anything but the nine standard ones is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other,
}

impl Method {
    /// All, in the order of their numbers.
    pub const ALL: [Method; 10] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Connect,
        Method::Options,
        Method::Trace,
        Method::Patch,
        Method::Other,
    ];

    /// The method a token names; methods are case-sensitive (RFC 9110).
    #[inline]
    pub fn from_token(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"CONNECT" => Method::Connect,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            _ => Method::Other,
        }
    }

    /// The name in results: the token, or `other`.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
            Method::Other => "other",
        }
    }
}

/// Severity of an error-log or application line, in syslog's order: lower is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum LogLevel {
    Emerg,
    Alert,
    Crit,
    Error,
    Warn,
    Notice,
    Info,
    Debug,
    Trace,
    /// The line says nothing of it (access logs).
    None,
}

impl LogLevel {
    /// All that a line can say, the worst first: syslog's eight severities in their order, and `Trace`.
    pub const ALL: [LogLevel; 9] = [
        LogLevel::Emerg,
        LogLevel::Alert,
        LogLevel::Crit,
        LogLevel::Error,
        LogLevel::Warn,
        LogLevel::Notice,
        LogLevel::Info,
        LogLevel::Debug,
        LogLevel::Trace,
    ];

    /// The level a word names, in any case: Nginx's, Apache's, syslog's and the usual application words.
    pub fn from_word(word: &[u8]) -> Option<LogLevel> {
        let mut lower = [0u8; 9];
        let lower = lower.get_mut(..word.len())?;
        lower.copy_from_slice(word);
        lower.make_ascii_lowercase();
        Some(match &*lower {
            b"emerg" | b"emergency" | b"panic" => LogLevel::Emerg,
            b"alert" => LogLevel::Alert,
            b"crit" | b"critical" | b"fatal" => LogLevel::Crit,
            b"err" | b"error" | b"severe" => LogLevel::Error,
            b"warn" | b"warning" => LogLevel::Warn,
            b"notice" => LogLevel::Notice,
            b"info" => LogLevel::Info,
            b"debug" => LogLevel::Debug,
            b"trace" => LogLevel::Trace,
            w if w.len() == 6 && w.starts_with(b"trace") && w[5].is_ascii_digit() => LogLevel::Trace,
            _ => return None,
        })
    }

    /// The level a number names: those of pino and bunyan up to 60, of Monolog from 100.
    pub fn from_number(number: &[u8]) -> Option<LogLevel> {
        Some(match number {
            b"600" => LogLevel::Emerg,
            b"550" => LogLevel::Alert,
            b"60" | b"500" => LogLevel::Crit,
            b"50" | b"400" => LogLevel::Error,
            b"40" | b"300" => LogLevel::Warn,
            b"250" => LogLevel::Notice,
            b"30" | b"200" => LogLevel::Info,
            b"20" | b"100" => LogLevel::Debug,
            b"10" => LogLevel::Trace,
            _ => return None,
        })
    }

    /// The name in results.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Emerg => "emerg",
            LogLevel::Alert => "alert",
            LogLevel::Crit => "crit",
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Notice => "notice",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
            LogLevel::None => "none",
        }
    }
}

/// What the partition's clock said of an event's time, event by event (docs/WINDOWING.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Not judged yet.
    Unjudged,
    /// Counted in its windows.
    InTime,
    /// Older than the partition's effective watermark minus the allowed lateness.
    Late,
    /// Further ahead than `max_ahead`.
    Future,
    /// In time and counted in an earlier life, whose windows of results are closed; read again for longer windows of rules.
    Again,
}

/// One parsed line. Spans point into its batch.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// When it happened, by the line.
    pub time: EventTime,
    /// Offset of the line in its partition.
    pub offset: u64,
    /// Response size in bytes; 0 where absent.
    pub bytes: u64,
    /// The whole line, without its end.
    pub line: Span,
    /// The client, after trusted proxies were looked through.
    pub client: Client,
    /// The host the line or record names; [`Span::NONE`] for the batch's default host.
    pub host: Span,
    /// The request target's path, without query.
    pub path: Span,
    /// The request target's query, without `?`.
    pub query: Span,
    /// `User-Agent`.
    pub agent: Span,
    /// `Referer`.
    pub referrer: Span,
    /// The authenticated or application user.
    pub user: Span,
    /// The message of an error-log or application line.
    pub message: Span,
    /// The module or logger (Apache), or the service (application logs).
    pub logger: Span,
    /// Request duration in microseconds; [`Event::NO_LATENCY`] where absent.
    pub latency_us: u32,
    /// Response status, 0 where absent.
    pub status: u16,
    /// Server port, 0 where absent.
    pub port: u16,
    /// Request method.
    pub method: Method,
    /// Level of an error-log or application line.
    pub level: LogLevel,
    /// Which kind of log.
    pub kind: Kind,
    /// What the partition's clock said.
    pub verdict: Verdict,
}

impl Event {
    /// Whether it is a message that no window counts: an application's, below a warning. Rules may still go by it.
    pub fn is_quiet(&self) -> bool {
        self.kind == Kind::App && self.level > LogLevel::Warn
    }

    /// Whether it looks like a request that was read as a message which no window counts.
    pub fn is_unseen_request(&self, batch: &Batch) -> bool {
        let message = batch.get(self.message);
        // A request's line stands near the beginning.
        let head = &message[..message.len().min(4096)];
        self.is_quiet() && (message.is_empty() || memchr::memmem::find(head, b"HTTP/").is_some())
    }

    /// The value of `latency_us` where a line carries no duration. Durations beyond 71 minutes are counted as one
    /// microsecond less than this.
    pub const NO_LATENCY: u32 = u32::MAX;

    /// An event of a kind at a time, with everything else absent.
    pub fn new(kind: Kind, time: EventTime) -> Event {
        Event {
            time,
            offset: 0,
            bytes: 0,
            line: Span::NONE,
            client: Client::None,
            host: Span::NONE,
            path: Span::NONE,
            query: Span::NONE,
            agent: Span::NONE,
            referrer: Span::NONE,
            user: Span::NONE,
            message: Span::NONE,
            logger: Span::NONE,
            latency_us: Event::NO_LATENCY,
            status: 0,
            port: 0,
            method: Method::Other,
            level: LogLevel::None,
            kind,
            verdict: Verdict::Unjudged,
        }
    }

    /// The same event, where the buffer that its values stand in was copied to the batch's side buffer from `at` on.
    pub(crate) fn copied_to_extra(self, at: usize) -> Event {
        let copied = |span: Span| span.copied_to_extra(at);
        Event {
            client: match self.client {
                Client::Name(span) => Client::Name(copied(span)),
                client => client,
            },
            host: copied(self.host),
            path: copied(self.path),
            query: copied(self.query),
            agent: copied(self.agent),
            referrer: copied(self.referrer),
            user: copied(self.user),
            message: copied(self.message),
            logger: copied(self.logger),
            ..self
        }
    }

    /// Request duration in microseconds, where the line carries one.
    #[inline]
    pub fn latency(&self) -> Option<u32> {
        (self.latency_us != Event::NO_LATENCY).then_some(self.latency_us)
    }
}
