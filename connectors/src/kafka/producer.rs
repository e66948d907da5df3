//! Producers: lines into a topic for the generator and the host agent, and the acknowledged writing that sinks stand on.
//!
//! Invariants
//! - Every producer is idempotent and waits for all replicas: a retry inside the client never writes a record twice.
//! - What is neither acknowledged nor failed is in the client's queue, which is bounded; a full one makes the caller wait.
//! - A record counts as delivered only by the broker's acknowledgement of it.

use super::client::{self, Context, creation};
use super::settings::{KafkaSettings, KafkaSettingsError};
use super::status::KafkaStatus;
use crate::source::SourceError;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How records are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compression {
    None,
    #[default]
    Lz4,
    Zstd,
}

impl Compression {
    /// The name in configuration and in Kafka.
    pub fn as_str(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// How a producer works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSettings {
    /// Packing of batches. Default lz4.
    pub compression: Compression,
    /// How long a record waits for company. Default 5 ms.
    pub linger: Duration,
    /// A record not acknowledged in this time has failed. Default 30 s.
    pub deliver_within: Duration,
    /// Bytes of records that wait for the broker; more make the caller wait. Default 64 MiB.
    pub queue_bytes: usize,
    /// The most bytes and records that are sent together. Default 1 MB, 10,000.
    pub batch: (usize, usize),
}

impl Default for ProducerSettings {
    fn default() -> ProducerSettings {
        ProducerSettings {
            compression: Compression::Lz4,
            linger: Duration::from_millis(5),
            deliver_within: Duration::from_secs(30),
            queue_bytes: 64 << 20,
            batch: (1_000_000, 10_000),
        }
    }
}

/// Why a record was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The broker refuses this record for good, e.g. as too large.
    #[error("kafka topic {topic} refuses the record: {words}")]
    Record {
        /// The topic.
        topic: String,
        /// librdkafka's words.
        words: String,
    },
    /// Nothing can be written until a person changes something: no such topic, not allowed.
    #[error("kafka topic {topic}: {words}")]
    Refused {
        /// The topic.
        topic: String,
        /// librdkafka's words.
        words: String,
    },
    /// The broker did not acknowledge in time. It may later.
    #[error("kafka topic {topic}: {missing} records were not acknowledged in time: {words}")]
    Unacknowledged {
        /// The topic.
        topic: String,
        /// How many records.
        missing: u64,
        /// librdkafka's words.
        words: String,
    },
}

/// What a producer did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerCounts {
    /// Records given to it.
    pub sent: u64,
    /// Records the brokers acknowledged.
    pub acknowledged: u64,
    /// Records that failed.
    pub failed: u64,
    /// Errors of the connection that passed or may pass.
    pub errors: u64,
}

/// What became of a record, by its number.
pub(super) type Outcome = (usize, Result<(), RDKafkaErrorCode>);

/// Receives acknowledgements. The opaque number of a record is the caller's.
pub(super) struct Deliveries {
    context: Context,
    status: Arc<KafkaStatus>,
    failed: AtomicU64,
    /// Of failures that were not reported yet, the one that says most about all of them: see [`Verdict`].
    worst: Mutex<Option<RDKafkaErrorCode>>,
    /// Outcome by the record's number; used by those who need to know which.
    outcomes: Option<Mutex<Vec<Outcome>>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.context.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, message)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                tracing::trace!(topic = message.topic(), %code, "record not delivered");
                let mut worst = self.worst.lock();
                *worst = Some(worse(*worst, code));
                Err(code)
            }
        };
        if let Some(outcomes) = &self.outcomes {
            outcomes.lock().push((number, outcome));
        }
    }
}

/// What an error means for a record that failed with it. Of several the last one here counts for all: that one record is
/// refused says nothing of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// This record can never be written; others can.
    Record,
    /// None can until a person changes something.
    Refused,
    /// It may be written later.
    Later,
}

pub(super) fn verdict(code: RDKafkaErrorCode) -> Verdict {
    use RDKafkaErrorCode as E;
    match code {
        E::MessageSizeTooLarge | E::InvalidMessage | E::InvalidMessageSize | E::InvalidRecord | E::InvalidTimestamp => {
            Verdict::Record
        }
        E::UnknownTopicOrPartition
        | E::UnknownTopic
        | E::UnknownPartition
        | E::InvalidTopic
        | E::TopicAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::Authentication
        | E::SaslAuthenticationFailed
        | E::PolicyViolation => Verdict::Refused,
        _ => Verdict::Later,
    }
}

/// Which of two errors counts for both; the later one where they mean the same.
fn worse(before: Option<RDKafkaErrorCode>, code: RDKafkaErrorCode) -> RDKafkaErrorCode {
    before.filter(|before| verdict(*before) > verdict(code)).unwrap_or(code)
}

pub(super) type Producer = BaseProducer<Deliveries>;

/// Makes a producer; connects to nothing yet.
pub(super) fn producer(
    settings: &KafkaSettings,
    producer: &ProducerSettings,
    status: &Arc<KafkaStatus>,
    outcomes: bool,
) -> Result<Producer, KafkaSettingsError> {
    let deliveries = Deliveries {
        context: Context::new(&settings.name, status),
        status: status.clone(),
        failed: AtomicU64::new(0),
        worst: Mutex::new(None),
        outcomes: outcomes.then(Mutex::default),
    };
    let mut config = settings.producer(producer)?;
    // Who does not ask which records were acknowledged is told of failures only.
    config.set("delivery.report.only.error", if outcomes { "false" } else { "true" });
    let made = config.create_with_context(deliveries);
    made.map_err(|error| KafkaSettingsError::Property(creation(&config, &error)))
}

impl Deliveries {
    /// What became of records since the last call.
    pub(super) fn take_outcomes(&self) -> Vec<Outcome> {
        let outcomes = self.outcomes.as_ref().map(|o| std::mem::take(&mut *o.lock()));
        outcomes.unwrap_or_default()
    }

    /// The connection's trouble, else the words of an error code.
    pub(super) fn words(&self, code: Option<RDKafkaErrorCode>) -> String {
        let trouble = self.context.refused().or_else(|| self.status.trouble());
        trouble.or_else(|| code.map(|code| code.to_string())).unwrap_or_else(|| "no answer".to_owned())
    }

    pub(super) fn works(&self) {
        self.context.works();
    }
}

/// Writes raw lines to one topic, as fast as the brokers take them.
///
/// [`LineProducer::send`] only puts a line into the queue; [`LineProducer::flush`] says whether all of them are durable.
/// One thread uses it at a time.
pub struct LineProducer {
    producer: Producer,
    topic: String,
    deliver_within: Duration,
    sent: u64,
    /// Failures already reported by a flush.
    reported: u64,
    unpolled: u32,
    /// Whether its user is asked to stop.
    stop: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

/// How long one who is asked to stop waits on while the brokers acknowledge nothing.
const LAST_CALL: Duration = Duration::from_millis(1500);

/// A wait for brokers.
struct Wait {
    until: Instant,
    acknowledged: u64,
    /// When it was last seen that they acknowledge, or that nobody is asked to stop.
    hopeful: Instant,
}

impl LineProducer {
    /// Connects to the topic, which must exist, within `settings.connect_within`. [`KafkaSettings::for_topic`] makes
    /// settings for this.
    ///
    /// # Errors
    /// Those of [`KafkaSource::connect`](super::KafkaSource::connect).
    pub fn connect(
        settings: &KafkaSettings,
        topic: &str,
        with: &ProducerSettings,
    ) -> Result<LineProducer, SourceError> {
        let settings = settings.with_topic(topic).map_err(client::usage)?;
        let status = Arc::new(KafkaStatus::default());
        let context = Context::new(&settings.name, &status);
        let scout = client::consumer(&settings.consumer(1).map_err(client::usage)?, context)?;
        client::layout(&scout, &settings, settings.connect_within)?;
        let producer = producer(&settings, with, &status, false).map_err(client::usage)?;
        let deliver_within = with.deliver_within;
        let topic = topic.to_owned();
        Ok(LineProducer { producer, topic, deliver_within, sent: 0, reported: 0, unpolled: 0, stop: None })
    }

    /// Says when its user is asked to stop: a wait then ends once nothing was acknowledged for a second and a half,
    /// instead of at its own end.
    pub fn stop_when(&mut self, stop: Arc<dyn Fn() -> bool + Send + Sync>) {
        self.stop = Some(stop);
    }

    fn begin_wait(&self, within: Duration) -> Wait {
        let now = Instant::now();
        Wait { until: now + within, acknowledged: self.counts().acknowledged, hopeful: now }
    }

    fn is_over(&self, wait: &mut Wait) -> bool {
        let (now, acknowledged) = (Instant::now(), self.counts().acknowledged);
        let is_asked = self.stop.as_ref().is_some_and(|stop| stop());
        if !is_asked || acknowledged > wait.acknowledged {
            (wait.acknowledged, wait.hopeful) = (acknowledged, now);
        }
        now >= wait.until || now.duration_since(wait.hopeful) >= LAST_CALL
    }

    /// Queues a line. `host` goes into the header `host`; without `partition` the key decides, without a key it is
    /// spread. A host in the key costs the reader less than one in a header (about 150 ns a record). `timestamp` is in
    /// milliseconds since the epoch; without it the record carries the time of sending. Waits while the queue is full, at
    /// most `deliver_within`.
    pub fn send(
        &mut self,
        key: Option<&[u8]>,
        host: Option<&str>,
        line: &[u8],
        timestamp: Option<u64>,
        partition: Option<i32>,
    ) -> Result<(), ProduceError> {
        let mut record = BaseRecord::with_opaque_to(&self.topic, 0usize).payload(line);
        record.key = key;
        record.partition = partition;
        record.timestamp = timestamp.and_then(|ms| i64::try_from(ms).ok());
        if let Some(host) = host {
            record.headers = Some(OwnedHeaders::new_with_capacity(1).insert(Header { key: "host", value: Some(host) }));
        }
        let mut wait = None;
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((error, back)) => {
                    record = back;
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                    if code != RDKafkaErrorCode::QueueFull {
                        return Err(self.error(code, 1));
                    }
                    let wait = wait.get_or_insert_with(|| self.begin_wait(self.deliver_within));
                    if self.is_over(wait) {
                        return Err(self.unacknowledged());
                    }
                    self.producer.poll(Duration::from_millis(1));
                }
            }
        }
        self.sent += 1;
        self.unpolled += 1;
        if self.unpolled >= 1000 {
            self.unpolled = 0;
            self.producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    /// Waits until every line queued so far is acknowledged, at most `within`.
    ///
    /// # Errors
    /// Lines that failed since the last flush, or that are not acknowledged yet. Those may still arrive.
    pub fn flush(&mut self, within: Duration) -> Result<(), ProduceError> {
        let mut wait = self.begin_wait(within);
        self.unpolled = 0;
        // The client's own flush makes it send at once instead of waiting for company; it returns when none is left.
        while self.producer.in_flight_count() > 0 {
            if self.is_over(&mut wait) {
                return Err(self.unacknowledged());
            }
            let _ = self.producer.flush(Duration::from_millis(5));
        }
        let failed = self.producer.context().failed.load(Ordering::Relaxed);
        let new = failed - self.reported;
        if new > 0 {
            self.reported = failed;
            let code = self.producer.context().worst.lock().take();
            return Err(self.error(code.unwrap_or(RDKafkaErrorCode::Fail), new));
        }
        self.producer.context().works();
        Ok(())
    }

    /// What it did so far.
    pub fn counts(&self) -> ProducerCounts {
        let context = self.producer.context();
        let failed = context.failed.load(Ordering::Relaxed);
        let waiting = u64::try_from(self.producer.in_flight_count()).unwrap_or(0);
        ProducerCounts {
            sent: self.sent,
            acknowledged: self.sent.saturating_sub(failed + waiting),
            failed,
            errors: context.status.errors_total(),
        }
    }

    fn error(&self, code: RDKafkaErrorCode, missing: u64) -> ProduceError {
        let topic = self.topic.clone();
        match verdict(code) {
            Verdict::Record => ProduceError::Record { topic, words: code.to_string() },
            Verdict::Refused => ProduceError::Refused { topic, words: code.to_string() },
            Verdict::Later => {
                let words = self.producer.context().words(Some(code));
                ProduceError::Unacknowledged { topic, missing, words }
            }
        }
    }

    fn unacknowledged(&self) -> ProduceError {
        let missing = u64::try_from(self.producer.in_flight_count()).unwrap_or(0);
        let words = self.producer.context().words(None);
        ProduceError::Unacknowledged { topic: self.topic.clone(), missing, words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_records_the_persons_or_passes() {
        let rows = [
            (RDKafkaErrorCode::MessageSizeTooLarge, Verdict::Record),
            (RDKafkaErrorCode::UnknownTopicOrPartition, Verdict::Refused),
            (RDKafkaErrorCode::TopicAuthorizationFailed, Verdict::Refused),
            (RDKafkaErrorCode::MessageTimedOut, Verdict::Later),
            (RDKafkaErrorCode::NotEnoughReplicas, Verdict::Later),
            (RDKafkaErrorCode::QueueFull, Verdict::Later),
        ];
        for (code, want) in rows {
            assert_eq!(verdict(code), want, "{code:?}");
        }
    }

    #[test]
    fn a_record_that_is_refused_says_nothing_of_others() {
        use RDKafkaErrorCode::{MessageSizeTooLarge, MessageTimedOut, TopicAuthorizationFailed};
        let rows: &[(&[RDKafkaErrorCode], RDKafkaErrorCode)] = &[
            (&[MessageSizeTooLarge], MessageSizeTooLarge),
            (&[MessageTimedOut, MessageSizeTooLarge], MessageTimedOut),
            (&[MessageSizeTooLarge, MessageTimedOut], MessageTimedOut),
            (&[TopicAuthorizationFailed, MessageTimedOut, MessageSizeTooLarge], MessageTimedOut),
        ];
        for (codes, want) in rows {
            let got = codes.iter().fold(None, |before, code| Some(worse(before, *code)));
            assert_eq!(got, Some(*want), "{codes:?}");
        }
    }
}
