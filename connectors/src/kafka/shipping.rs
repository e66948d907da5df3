//! The host agent's producer: records with headers, and for each of them what became of it.
//!
//! A record carries the headers `host`, `file` (the path) and [`POSITION_HEADER`], by which readers drop what comes
//! twice. The client tries without end: when to give up waiting is the agent's to decide.
//!
//! Invariants
//! - Records with one key reach the topic in the order they were given, each at least once until the producer is dropped.
//! - Dropping the producer drops what it still holds; the agent then sends it again.

use super::client::{self, Context, ask};
use super::producer::{Producer, ProducerSettings, Verdict, producer, verdict};
use super::settings::KafkaSettings;
use super::status::KafkaStatus;
use crate::source::SourceError;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The header that names a record's place: `STREAM:START:END`, the stream in 16 hexadecimal digits.
pub const POSITION_HEADER: &str = "tidewatch-position";

/// What became of giving a record to the producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is queued; an [`Outcome`] follows.
    Queued,
    /// There is no room; try later.
    Full,
    /// It can never be written.
    Refused(String),
    /// The producer can no longer be used.
    Broken(String),
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The brokers have it.
    Acknowledged,
    /// They will never take it, e.g. as too large; others they do.
    Refused(String),
    /// They do not take it together with those it was sent with: brokers refuse a batch as a whole. Make another producer
    /// with a smaller one, and send again.
    Together(String),
    /// It was not written, and the producer may have lost its order: make another, and send again.
    Failed(String),
}

/// Whether a topic can be written to, as far as can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicState {
    /// It is there, with so many partitions.
    There(usize),
    /// No broker answers; the reason.
    Away(String),
    /// Something a person has to change: no such topic, not allowed, a wrong password.
    Refused(String),
}

/// Asks for a topic, for at most `within`.
///
/// # Errors
/// Settings that librdkafka does not accept.
pub fn look_at(settings: &KafkaSettings, topic: &str, within: Duration) -> Result<TopicState, SourceError> {
    let settings = settings.with_topic(topic).map_err(client::usage)?;
    let status = Arc::new(KafkaStatus::default());
    let scout = client::consumer(&settings.consumer(1).map_err(client::usage)?, Context::new(&settings.name, &status))?;
    match ask(&scout, within, |limit| scout.fetch_metadata(Some(topic), limit)) {
        Err(words) => {
            let words = format!("kafka at {}: {words}", settings.brokers());
            Ok(if scout.context().refused().is_some() { TopicState::Refused(words) } else { TopicState::Away(words) })
        }
        Ok(metadata) => {
            let partitions = metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len());
            if partitions > 0 {
                return Ok(TopicState::There(partitions));
            }
            Ok(match client::layout(&scout, &settings, within) {
                Ok(_) => TopicState::There(1),
                Err(error) => TopicState::Refused(error.to_string()),
            })
        }
    }
}

/// A record of a line that a host agent read.
pub struct ShippedRecord<'a> {
    /// The topic it goes to.
    pub topic: &'a str,
    /// Its key.
    pub key: &'a [u8],
    /// The host that wrote the line.
    pub host: &'a str,
    /// The file it is from.
    pub file: &'a str,
    /// Which content of that file, whatever its name.
    pub stream: u64,
    /// Where in that content it begins, and where the next begins.
    pub place: Range<u64>,
    /// The line.
    pub line: &'a [u8],
    /// When it was read (ms).
    pub timestamp: u64,
}

/// Writes records with headers.
pub struct RecordProducer {
    producer: Producer,
    status: Arc<KafkaStatus>,
    base: Option<(u64, OwnedHeaders)>,
    position: String,
    /// Whether each record is sent alone.
    is_single: bool,
}

impl RecordProducer {
    /// A producer whose records go to this topic, as a rule. Nothing is connected by it.
    ///
    /// # Errors
    /// `Usage` for settings that librdkafka does not accept.
    pub fn new(settings: &KafkaSettings, topic: &str, with: &ProducerSettings) -> Result<RecordProducer, SourceError> {
        let settings = settings.with_topic(topic).map_err(client::usage)?;
        let status = Arc::new(KafkaStatus::default());
        // As long as the client can count: 24 days.
        let with = ProducerSettings { deliver_within: Duration::from_millis(i32::MAX as u64), ..with.clone() };
        let producer = producer(&settings, &with, &status, true).map_err(client::usage)?;
        let is_single = with.batch.1 == 1;
        Ok(RecordProducer { producer, status, base: None, position: String::new(), is_single })
    }

    /// Gives it a record. `number` comes back with the outcome.
    pub fn send(&mut self, record: &ShippedRecord<'_>, number: usize) -> Sent {
        let ShippedRecord { topic, key, host, file, stream, ref place, line, timestamp } = *record;
        if self.base.as_ref().is_none_or(|(of, _)| *of != stream) {
            let headers = OwnedHeaders::new_with_capacity(3)
                .insert(Header { key: "host", value: Some(host) })
                .insert(Header { key: "file", value: Some(file) });
            self.base = Some((stream, headers));
        }
        self.position.clear();
        let _ = write!(self.position, "{stream:016x}:{}:{}", place.start, place.end);
        let position = Header { key: POSITION_HEADER, value: Some(self.position.as_str()) };
        let headers = self.base.as_ref().map(|(_, headers)| headers.clone().insert(position));
        let mut record = BaseRecord::with_opaque_to(topic, number).key(key).payload(line);
        record.headers = headers;
        record.timestamp = i64::try_from(timestamp).ok();
        match self.producer.send(record) {
            Ok(()) => Sent::Queued,
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                match (code, verdict(code)) {
                    (RDKafkaErrorCode::QueueFull, _) => Sent::Full,
                    (_, Verdict::Record) => Sent::Refused(code.to_string()),
                    _ => Sent::Broken(self.producer.context().words(Some(code))),
                }
            }
        }
    }

    /// What became of records, waiting for something at most `wait`.
    pub fn outcomes(&mut self, wait: Duration) -> Vec<(usize, Outcome)> {
        let deadline = Instant::now() + wait;
        let mut all = Vec::new();
        loop {
            self.producer.poll(Duration::ZERO);
            let some = self.producer.context().take_outcomes();
            if !some.is_empty() {
                all.extend(some);
                continue;
            }
            if !all.is_empty() || Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_micros(500).min(wait));
        }
        if all.iter().any(|(_, outcome)| outcome.is_ok()) {
            self.producer.context().works();
        }
        let words = |code: RDKafkaErrorCode| match verdict(code) {
            Verdict::Record if self.is_single => Outcome::Refused(code.to_string()),
            Verdict::Record => Outcome::Together(code.to_string()),
            Verdict::Refused => Outcome::Failed(code.to_string()),
            Verdict::Later => Outcome::Failed(self.producer.context().words(Some(code))),
        };
        all.into_iter()
            .map(|(number, outcome)| (number, outcome.map_or_else(words, |()| Outcome::Acknowledged)))
            .collect()
    }

    /// Why nothing is acknowledged, as far as is known.
    pub fn trouble(&self) -> Option<String> {
        self.status.trouble()
    }
}
