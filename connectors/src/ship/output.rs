//! Where chunks go, as the agent sees it; and Kafka as such a place.

use super::chunk::{Chunk, Origin};
use super::forward::CollectorOutput;
use super::guard::sender;
use super::settings::{KeyBy, OutputSettings, ShipSettings};
use super::upstream::Upstream;
use crate::kafka::{Batches, KafkaSettings, Outcome, ProducerSettings, RecordProducer, Sent, ShippedRecord};
use crate::log_limit::LogLimit;
use crate::sink::backoff::Backoff;
use crate::source::SourceError;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What became of chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything of the chunk of this number is with the other side, or refused for good.
    Delivered(u64),
    /// A record of a chunk is refused for good: the chunk, the record's index, the reason.
    Refused(u64, usize, String),
    /// The output is of no use any more; nothing that is not delivered will be.
    Failed(String),
}

/// A place that takes chunks in order and says when it has them.
pub trait Output: Send {
    /// Takes a chunk. Numbers grow.
    fn send(&mut self, number: u64, chunk: &Arc<Chunk>);

    /// Works, for at most about `wait` while nothing happens, and says what happened.
    fn poll(&mut self, wait: Duration, events: &mut Vec<Event>);

    /// Why nothing is acknowledged, as far as is known.
    fn trouble(&self) -> Option<String>;
}

/// What an agent's outputs share, one after the other.
pub struct Common {
    /// This process's number.
    pub agent: u64,
    /// The collectors before it.
    pub upstream: Arc<Upstream>,
    /// How much goes to Kafka together.
    pub batches: Arc<Mutex<Batches>>,
}

/// Opens the output.
///
/// # Errors
/// `Usage` for settings that cannot be; `Io` where no thread can be started.
pub fn open(settings: &ShipSettings, common: &Common) -> Result<Box<dyn Output>, SourceError> {
    Ok(match &settings.output {
        OutputSettings::Kafka { settings: kafka, topic, compression, linger, key } => {
            let with = ProducerSettings {
                compression: *compression,
                linger: *linger,
                queue_bytes: settings.in_flight * 2,
                ..ProducerSettings::default()
            };
            Box::new(KafkaOutput::new((kafka, with), topic.clone(), *key, common.batches.clone())?)
        }
        OutputSettings::Collector { addresses, tls, token } => {
            let sender = sender(settings, common.agent, &common.upstream);
            Box::new(CollectorOutput::start(addresses.clone(), tls.as_ref(), token.clone(), sender)?)
        }
    })
}

/// When an output that failed is opened anew: with back-off, and said sparingly.
pub struct Retry {
    at: Instant,
    attempts: u32,
    opened: Instant,
    failures: LogLimit,
}

/// An output that has not failed for so long works.
const WORKS_AFTER: Duration = Duration::from_secs(10);

impl Retry {
    /// At once.
    pub fn new(now: Instant) -> Retry {
        Retry { at: now, attempts: 0, opened: now, failures: LogLimit::new() }
    }

    /// Whether it is time.
    pub fn is_due(&self) -> bool {
        Instant::now() >= self.at
    }

    /// It was opened; the moment.
    pub fn opened(&mut self) -> Instant {
        self.opened = Instant::now();
        self.opened
    }

    /// It acknowledged something. One that does and fails at once, again and again, is waited for ever longer.
    pub fn works(&mut self) {
        if self.opened.elapsed() >= WORKS_AFTER {
            self.attempts = 0;
        }
    }

    /// It failed.
    pub fn failed(&mut self, words: &str) {
        self.attempts += 1;
        let backoff = Backoff { first: Duration::from_millis(250), most: Duration::from_secs(15) };
        let wait = backoff.delay(self.attempts, u64::from(std::process::id()), None);
        self.at = Instant::now() + wait;
        if let Some(held_back) = self.failures.may_say() {
            let again_ms = wait.as_millis() as u64;
            tracing::warn!(error = %words, again_ms, held_back, "the output failed; reopening it");
        }
    }
}

/// Bits of a record's number that are its index in the chunk.
const INDEX_BITS: u32 = 16;

/// Kafka.
pub struct KafkaOutput {
    producer: RecordProducer,
    /// What producers are made of.
    made_of: (Box<KafkaSettings>, ProducerSettings),
    batches: Arc<Mutex<Batches>>,
    /// Records that the producer has.
    under_way: usize,
    /// The topic of what names none.
    topic: String,
    key: KeyBy,
    /// Chunks that are not wholly queued, with the next record.
    waiting: VecDeque<(u64, Arc<Chunk>, usize)>,
    /// Records of queued chunks without an outcome, and where they come from.
    missing: HashMap<u64, (usize, Arc<Origin>)>,
    broken: Option<String>,
}

impl KafkaOutput {
    fn new(
        (kafka, with): (&KafkaSettings, ProducerSettings),
        topic: String,
        key: KeyBy,
        batches: Arc<Mutex<Batches>>,
    ) -> Result<KafkaOutput, SourceError> {
        let with = ProducerSettings { batch: batches.lock().size(), ..with };
        Ok(KafkaOutput {
            producer: RecordProducer::new(kafka, &topic, &with)?,
            made_of: (Box::new(kafka.clone()), with),
            batches,
            under_way: 0,
            topic,
            key,
            waiting: VecDeque::new(),
            missing: HashMap::new(),
            broken: None,
        })
    }

    /// Takes a producer with larger batches when it is time. `false` while what the one there is has must be waited for.
    fn widen(&mut self) -> bool {
        let now = Instant::now();
        if !self.batches.lock().is_due(now) {
            return true;
        }
        if self.under_way > 0 {
            return false;
        }
        let mut batches = self.batches.lock();
        batches.widen(now);
        self.made_of.1.batch = batches.size();
        // Where none can be made, the one there is does.
        if let Ok(producer) = RecordProducer::new(&self.made_of.0, &self.topic, &self.made_of.1) {
            self.producer = producer;
        }
        true
    }

    /// The topic of a chunk.
    fn topic_of(&self, chunk: u64) -> &str {
        let topic = self.missing.get(&chunk).map_or("", |(_, origin)| &origin.topic);
        if topic.is_empty() { &self.topic } else { topic }
    }

    /// Queues what there is room for.
    fn push(&mut self, events: &mut Vec<Event>) {
        if !self.widen() {
            return;
        }
        while let Some((number, chunk, next)) = self.waiting.front_mut() {
            let origin = &*chunk.origin;
            let topic = if origin.topic.is_empty() { &self.topic } else { &origin.topic };
            let by_file;
            let key = match self.key {
                KeyBy::Host => origin.host.as_bytes(),
                KeyBy::File => {
                    by_file = [origin.host.as_bytes(), b" ", origin.file.as_bytes()].concat();
                    &by_file
                }
            };
            while let Some(record) = chunk.records.get(*next) {
                let shipped = ShippedRecord {
                    topic,
                    key,
                    host: &origin.host,
                    file: &origin.file,
                    stream: origin.stream,
                    place: record.start..record.end,
                    line: chunk.bytes_of(record),
                    timestamp: chunk.read_at,
                };
                let sent = self.producer.send(&shipped, (*number << INDEX_BITS) as usize | *next);
                match sent {
                    Sent::Queued => self.under_way += 1,
                    Sent::Full => return,
                    Sent::Refused(words) => {
                        events.push(Event::Refused(*number, *next, words));
                        outcome(&mut self.missing, *number, events);
                    }
                    Sent::Broken(words) => {
                        self.broken = Some(words);
                        return;
                    }
                }
                *next += 1;
            }
            self.waiting.pop_front();
        }
    }
}

/// One record less is missing.
fn outcome(missing: &mut HashMap<u64, (usize, Arc<Origin>)>, number: u64, events: &mut Vec<Event>) {
    if let Some((left, _)) = missing.get_mut(&number) {
        *left -= 1;
        if *left == 0 {
            missing.remove(&number);
            events.push(Event::Delivered(number));
        }
    }
}

impl Output for KafkaOutput {
    fn send(&mut self, number: u64, chunk: &Arc<Chunk>) {
        self.missing.insert(number, (chunk.records.len(), chunk.origin.clone()));
        self.waiting.push_back((number, chunk.clone(), 0));
    }

    fn poll(&mut self, wait: Duration, events: &mut Vec<Event>) {
        self.push(events);
        let wait = if self.missing.is_empty() { Duration::ZERO } else { wait };
        for (number, what) in self.producer.outcomes(wait) {
            self.under_way = self.under_way.saturating_sub(1);
            let (chunk, index) = ((number >> INDEX_BITS) as u64, number & ((1 << INDEX_BITS) - 1));
            match what {
                Outcome::Acknowledged => outcome(&mut self.missing, chunk, events),
                Outcome::Refused(words) => {
                    self.batches.lock().found(Instant::now());
                    events.push(Event::Refused(chunk, index, words));
                    outcome(&mut self.missing, chunk, events);
                }
                Outcome::Together(words) => {
                    if self.broken.is_none() {
                        self.batches.lock().narrow(Instant::now());
                        let topic = self.topic_of(chunk);
                        self.broken = Some(format!("kafka topic {topic}: {words}: sending smaller batches"));
                    }
                }
                Outcome::Failed(words) => {
                    let topic = self.topic_of(chunk);
                    self.broken = Some(format!("kafka topic {topic}: {words}"));
                }
            }
        }
        self.push(events);
        if let Some(words) = self.broken.take() {
            events.push(Event::Failed(words));
        }
    }

    fn trouble(&self) -> Option<String> {
        self.producer.trouble()
    }
}
