//! The input of the model: whole partitions of plain, owned events, and the way to and from batches.
//!
//! Invariants
//! - The events of a partition are in the partition's own order: offsets ascend.
//! - Every value here is the value itself; "absent" is `None` (status and port: 0).

use std::net::IpAddr;
use std::sync::Arc;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, RecordMeta, Span, WallTime};
use tidewatch_events::event::{Client, Event, Kind, LogLevel, Method};
use tidewatch_events::field::{Field, Value};
use tidewatch_events::time::EventTime;

/// Everything that was ever read.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    /// The partitions; their ids differ.
    pub partitions: Vec<Partition>,
}

/// Gives events of hosts that are not among these the host `other`; of these there is one spelling. The default host is none
/// that a line made up. An entry `*.x` stands for all that ends in `.x`.
pub fn settle_hosts(events: &mut [RefEvent], default_host: &[u8], hosts: &[String]) {
    for event in events.iter_mut().filter(|event| event.host != default_host) {
        let lower = event.host.to_ascii_lowercase();
        let is_own = hosts.iter().any(|entry| match entry.to_ascii_lowercase().strip_prefix('*') {
            Some(end) => lower.len() > end.len() && lower.ends_with(end.as_bytes()),
            None => lower == entry.to_ascii_lowercase().as_bytes(),
        });
        event.host = if is_own && lower.len() <= 253 { lower } else { b"other".to_vec() };
    }
}

/// One ordered sequence of events.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    /// Its identity, by which ties between equal times are broken.
    pub id: PartitionId,
    /// The decisions that depended on arrival: (offset, floor in ms). A floor holds from its offset on.
    pub floors: Vec<(u64, u64)>,
    /// The lines that parsed, in order.
    pub events: Vec<RefEvent>,
}

/// Who a line speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefClient {
    /// Nobody.
    None,
    /// An address.
    Ip(IpAddr),
    /// A name that is not an address.
    Name(Vec<u8>),
}

/// One parsed line with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefEvent {
    /// Event time, ms.
    pub time: u64,
    /// Offset in the partition.
    pub offset: u64,
    /// The record's own timestamp, ms, where it has one.
    pub record_time: Option<u64>,
    /// The wall clock when the line was read, ms.
    pub read_at: u64,
    /// Which kind of log.
    pub kind: Kind,
    /// The client.
    pub client: RefClient,
    /// The host: the line's, else the batch's default.
    pub host: Vec<u8>,
    /// Path of the request target.
    pub path: Option<Vec<u8>>,
    /// Query of the request target.
    pub query: Option<Vec<u8>>,
    /// `User-Agent`.
    pub agent: Option<Vec<u8>>,
    /// `Referer`.
    pub referrer: Option<Vec<u8>>,
    /// User.
    pub user: Option<Vec<u8>>,
    /// Message of an error-log or application line.
    pub message: Option<Vec<u8>>,
    /// Module, logger or service.
    pub logger: Option<Vec<u8>>,
    /// Response size in bytes.
    pub bytes: u64,
    /// Duration in microseconds.
    pub latency_us: Option<u32>,
    /// Response status, 0 where absent.
    pub status: u16,
    /// Port, 0 where absent.
    pub port: u16,
    /// Request method.
    pub method: Method,
    /// Level.
    pub level: LogLevel,
    /// The whole line.
    pub line: Vec<u8>,
}

impl RefEvent {
    /// An event of a kind at a time on host `h`, with everything else absent.
    pub fn new(kind: Kind, time: u64, offset: u64) -> RefEvent {
        RefEvent {
            time,
            offset,
            record_time: None,
            read_at: 0,
            kind,
            client: RefClient::None,
            host: b"h".to_vec(),
            path: None,
            query: None,
            agent: None,
            referrer: None,
            user: None,
            message: None,
            logger: None,
            bytes: 0,
            latency_us: None,
            status: 0,
            port: 0,
            method: Method::Other,
            level: LogLevel::None,
            line: format!("line {offset}").into_bytes(),
        }
    }

    /// The values of a parsed event.
    pub fn from(batch: &Batch, event: &Event) -> RefEvent {
        let text = |span: Span| (!span.is_none()).then(|| batch.get(span).to_vec());
        let record_time = match &batch.raw.framing {
            Framing::Lines { .. } | Framing::Torn { .. } => None,
            Framing::Records(records) => {
                records.iter().find(|r| r.offset == event.offset).and_then(|r| r.timestamp).map(|t| t.0)
            }
        };
        RefEvent {
            time: event.time.0,
            offset: event.offset,
            record_time,
            read_at: batch.raw.read_at.0,
            kind: event.kind,
            client: match event.client {
                Client::None => RefClient::None,
                Client::Ip(ip) => RefClient::Ip(ip),
                Client::Name(span) => text(span).map_or(RefClient::None, RefClient::Name),
            },
            host: batch.host(event).to_vec(),
            path: text(event.path),
            query: text(event.query),
            agent: text(event.agent),
            referrer: text(event.referrer),
            user: text(event.user),
            message: text(event.message),
            logger: text(event.logger),
            bytes: event.bytes,
            latency_us: event.latency(),
            status: event.status,
            port: event.port,
            method: event.method,
            level: event.level,
            line: batch.get(event.line).to_vec(),
        }
    }

    /// The client's name, where it is none but that.
    pub fn name(&self) -> Option<&[u8]> {
        match &self.client {
            RefClient::Name(name) => Some(name),
            _ => None,
        }
    }

    /// The field's value, except `pattern`, which needs the template function.
    pub(crate) fn field(&self, field: Field) -> Value<'_> {
        fn text(value: &Option<Vec<u8>>) -> Value<'_> {
            value.as_deref().map_or(Value::None, Value::Text)
        }
        fn number(n: u64, absent: bool) -> Value<'static> {
            if absent { Value::None } else { Value::Number(n) }
        }
        match field {
            Field::ClientIp => match &self.client {
                RefClient::None => Value::None,
                RefClient::Ip(ip) => Value::Ip(*ip),
                RefClient::Name(name) => Value::Text(name),
            },
            Field::Host => Value::Text(&self.host),
            Field::Method if self.path.is_none() => Value::None,
            Field::Method => Value::Text(self.method.as_str().as_bytes()),
            Field::Path => text(&self.path),
            Field::Query => text(&self.query),
            Field::Status => number(self.status.into(), self.status == 0),
            Field::Bytes => Value::Number(self.bytes),
            Field::LatencyMs => self.latency_us.map_or(Value::None, |us| Value::Number(us.into())),
            Field::UserAgent => text(&self.agent),
            Field::Referrer => text(&self.referrer),
            Field::User => text(&self.user),
            Field::Port => number(self.port.into(), self.port == 0),
            Field::Severity if self.level == LogLevel::None => Value::None,
            Field::Severity => Value::Text(self.level.as_str().as_bytes()),
            Field::Message => text(&self.message),
            Field::Logger => text(&self.logger),
            Field::Kind => Value::Text(match self.kind {
                Kind::Access => b"access",
                Kind::Error => b"error",
                Kind::App => b"app",
            }),
            Field::Pattern => Value::None,
        }
    }
}

/// A batch that holds these events, for feeding operators: lines in the main buffer, values in the side buffer.
///
/// Events whose host is `default_host` name none. Where any event has a record timestamp the batch has records, else
/// lines. The batch is read at the `read_at` of its first event: where the wall clock matters, cut batches where
/// `read_at` changes ([`batches_of`] does).
pub fn batch_of(events: &[RefEvent], partition: PartitionId, seq: u64, default_host: &[u8]) -> Batch {
    let mut bytes = Vec::new();
    let mut lines = Vec::new();
    for event in events {
        let start = bytes.len();
        bytes.extend_from_slice(&event.line);
        lines.push(Span::new(start, bytes.len()));
        bytes.push(b'\n');
    }
    let framing = if events.iter().any(|e| e.record_time.is_some()) {
        let meta = |(event, value): (&RefEvent, &Span)| RecordMeta {
            value: *value,
            offset: event.offset,
            timestamp: event.record_time.map(WallTime),
            host: Span::NONE,
        };
        Framing::Records(events.iter().zip(&lines).map(meta).collect())
    } else {
        Framing::Lines { offset: events.first().map_or(0, |e| e.offset) }
    };
    let read_at = WallTime(events.first().map_or(0, |e| e.read_at));
    let mut batch = Batch::new(RawBatch { partition, seq, bytes, framing, read_at }, Arc::from(default_host));
    for (source, line) in events.iter().zip(lines) {
        let mut put = |value: &[u8]| {
            let start = batch.extra.len();
            batch.extra.extend_from_slice(value);
            Span::in_extra(start, batch.extra.len())
        };
        let mut event = Event::new(source.kind, EventTime(source.time));
        event.offset = source.offset;
        event.bytes = source.bytes;
        event.line = line;
        event.client = match &source.client {
            RefClient::None => Client::None,
            RefClient::Ip(ip) => Client::Ip(*ip),
            RefClient::Name(name) => Client::Name(put(name)),
        };
        if source.host != default_host {
            event.host = put(&source.host);
        }
        for (value, span) in [
            (&source.path, &mut event.path),
            (&source.query, &mut event.query),
            (&source.agent, &mut event.agent),
            (&source.referrer, &mut event.referrer),
            (&source.user, &mut event.user),
            (&source.message, &mut event.message),
            (&source.logger, &mut event.logger),
        ] {
            if let Some(value) = value {
                *span = put(value);
            }
        }
        event.latency_us = source.latency_us.unwrap_or(Event::NO_LATENCY);
        event.status = source.status;
        event.port = source.port;
        event.method = source.method;
        event.level = source.level;
        batch.events.push(event);
    }
    batch
}

/// The partition as batches of the given sizes (the last size is repeated; 0 counts as 1), also cut where `read_at`
/// changes, `seq` from 0.
pub fn batches_of(partition: &Partition, sizes: &[usize], default_host: &[u8]) -> Vec<Batch> {
    let mut out = Vec::new();
    let mut rest = &partition.events[..];
    while !rest.is_empty() {
        let size = sizes.get(out.len()).or(sizes.last()).copied().unwrap_or(rest.len()).max(1);
        let same_clock = rest.iter().take_while(|e| e.read_at == rest[0].read_at).count();
        let (now, later) = rest.split_at(size.min(same_clock).min(rest.len()));
        out.push(batch_of(now, partition.id, out.len() as u64, default_host));
        rest = later;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> RefEvent {
        let some = |s: &str| Some(s.as_bytes().to_vec());
        RefEvent {
            record_time: Some(90),
            read_at: 95,
            client: RefClient::Ip("2001:db8::1".parse().unwrap()),
            host: b"web2".to_vec(),
            path: some("/a"),
            query: some(""),
            agent: some("curl/8"),
            referrer: some("http://r/"),
            user: some("u"),
            message: some("m"),
            logger: some("l"),
            bytes: 7,
            latency_us: Some(0),
            status: 404,
            port: 443,
            method: Method::Post,
            level: LogLevel::Crit,
            line: b"the whole \xff line".to_vec(),
            ..RefEvent::new(Kind::App, 100, 3)
        }
    }

    #[test]
    fn events_come_back_from_a_batch_as_they_went_in() {
        let named = RefEvent { client: RefClient::Name(b"db1".to_vec()), offset: 4, ..full() };
        let bare = RefEvent { read_at: 95, ..RefEvent::new(Kind::Access, 5, 9) };
        let events = [full(), named, bare];
        let batch = batch_of(&events, PartitionId(8), 2, b"h");
        let back: Vec<_> = batch.events.iter().map(|e| RefEvent::from(&batch, e)).collect();
        assert_eq!(back, events);
        assert!(batch.events[2].host.is_none(), "the default host is not spelled out");
        for (event, source) in batch.events.iter().zip(&events) {
            for (field, name) in Field::ALL {
                assert_eq!(field.value(&batch, event), source.field(field), "{name}");
            }
        }
    }

    #[test]
    fn batches_are_cut_by_size_and_by_the_wall_clock() {
        let events = (0..6).map(|i| RefEvent { read_at: i / 4, ..RefEvent::new(Kind::Access, i, i) }).collect();
        let partition = Partition { id: PartitionId(1), floors: vec![], events };
        let sizes = |list: &[usize]| -> Vec<usize> {
            batches_of(&partition, list, b"h").iter().map(|b| b.events.len()).collect()
        };
        assert_eq!(sizes(&[1, 2]), [1, 2, 1, 2]);
        assert_eq!(sizes(&[9]), [4, 2]);
        assert_eq!(sizes(&[]), [4, 2]);
        assert_eq!(batches_of(&partition, &[2], b"h").iter().map(|b| b.raw.seq).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
