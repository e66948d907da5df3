//! The fields of an event by name: what filters test, rules group by and measures sum.

use crate::batch::{Batch, Span};
use crate::event::{Client, Event, Kind, LogLevel};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A field of an event, by the name rules use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Field {
    ClientIp,
    Host,
    Method,
    Path,
    Query,
    Status,
    Bytes,
    LatencyMs,
    UserAgent,
    Referrer,
    User,
    Port,
    Severity,
    Message,
    Logger,
    /// `access`, `error` or `app`.
    Kind,
    /// The template of a message (`events::message_template`).
    Pattern,
}

/// The value of a field in one event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// The line carries none.
    None,
    /// Bytes as in the line (unescaped).
    Text(&'a [u8]),
    /// An address.
    Ip(IpAddr),
    /// A whole number; durations in microseconds.
    Number(u64),
}

impl Field {
    /// Every field and its name, in the order documentation lists them.
    pub const ALL: [(Field, &'static str); 17] = [
        (Field::ClientIp, "client_ip"),
        (Field::Host, "host"),
        (Field::Method, "method"),
        (Field::Path, "path"),
        (Field::Query, "query"),
        (Field::Status, "status"),
        (Field::Bytes, "bytes"),
        (Field::LatencyMs, "latency_ms"),
        (Field::UserAgent, "user_agent"),
        (Field::Referrer, "referrer"),
        (Field::User, "user"),
        (Field::Port, "port"),
        (Field::Severity, "severity"),
        (Field::Message, "message"),
        (Field::Logger, "logger"),
        (Field::Kind, "kind"),
        (Field::Pattern, "pattern"),
    ];

    /// The field of a name.
    pub fn from_name(name: &str) -> Option<Field> {
        Field::ALL.iter().find(|(_, n)| *n == name).map(|(f, _)| *f)
    }

    /// The name of the field.
    pub fn name(self) -> &'static str {
        Field::ALL.iter().find(|(f, _)| *f == self).map(|(_, n)| *n).expect("every field is listed in ALL")
    }

    /// What it is, in words for people who write rules.
    pub fn meaning(self) -> &'static str {
        match self {
            Field::ClientIp => "the client's address (behind trusted proxies the real one), or its host name",
            Field::Host => "the host that the line comes from",
            Field::Method => "the method, in upper case",
            Field::Path => "the path of the request, without its query",
            Field::Query => "what follows `?`",
            Field::Status => "the status of the answer",
            Field::Bytes => "bytes sent to the client",
            Field::LatencyMs => "how long the request took, ms",
            Field::UserAgent => "the `User-Agent`",
            Field::Referrer => "the `Referer`",
            Field::User => "the user of HTTP authentication, or of an application's line",
            Field::Port => "the port that was asked for, where the log has it",
            Field::Severity => "the severity of a line of an error or application log: `trace` to `emerg`",
            Field::Message => "its message",
            Field::Logger => "the module that wrote it",
            Field::Kind => "`access`, `error` or `app`: which kind of log the line is of",
            Field::Pattern => "the message with numbers, addresses and the like replaced",
        }
    }

    /// Whether the field is a number: can be summed, averaged, compared.
    pub fn is_number(self) -> bool {
        matches!(self, Field::Status | Field::Bytes | Field::LatencyMs | Field::Port)
    }

    /// Whether it is text of a kind that may hold parameters whose values are secrets, or addresses of clients.
    pub fn may_hold_secrets(self) -> bool {
        use Field::{Logger, Message, Path, Query, Referrer, User, UserAgent};
        matches!(self, Path | Query | UserAgent | Referrer | Message | User | Logger)
    }

    /// The field's value in an event. `Pattern` is computed by `events::message_template` and is `None` here.
    #[inline]
    pub fn value<'a>(self, batch: &'a Batch, event: &Event) -> Value<'a> {
        let text = |span: Span| if span.is_none() { Value::None } else { Value::Text(batch.get(span)) };
        match self {
            Field::ClientIp => match event.client {
                Client::None => Value::None,
                Client::Ip(ip) => Value::Ip(ip),
                Client::Name(span) => text(span),
            },
            Field::Host => Value::Text(batch.host(event)),
            Field::Method if event.path.is_none() => Value::None,
            Field::Method => Value::Text(event.method.as_str().as_bytes()),
            Field::Path => text(event.path),
            Field::Query => text(event.query),
            Field::Status if event.status == 0 => Value::None,
            Field::Status => Value::Number(event.status.into()),
            Field::Bytes => Value::Number(event.bytes),
            Field::LatencyMs => event.latency().map_or(Value::None, |us| Value::Number(us.into())),
            Field::UserAgent => text(event.agent),
            Field::Referrer => text(event.referrer),
            Field::User => text(event.user),
            Field::Port if event.port == 0 => Value::None,
            Field::Port => Value::Number(event.port.into()),
            Field::Severity if event.level == LogLevel::None => Value::None,
            Field::Severity => Value::Text(event.level.as_str().as_bytes()),
            Field::Message => text(event.message),
            Field::Logger => text(event.logger),
            Field::Kind => Value::Text(match event.kind {
                Kind::Access => b"access",
                Kind::Error => b"error",
                Kind::App => b"app",
            }),
            Field::Pattern => Value::None,
        }
    }
}
