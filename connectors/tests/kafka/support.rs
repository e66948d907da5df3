//! The broker to test with, topics on it, and an engine that takes what a source reads.

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::{Feed, Message};
use tidewatch_connectors::kafka::*;
use tidewatch_connectors::source::SourceError;
use tidewatch_events::batch::{Batch, Framing, PartitionId};

/// The broker to test with; says that a test is skipped where there is none.
pub fn broker(test: &str) -> Option<String> {
    let broker = std::env::var("TIDEWATCH_TEST_KAFKA").ok().filter(|b| !b.is_empty());
    if broker.is_none() {
        eprintln!("SKIPPED: {test}: TIDEWATCH_TEST_KAFKA names no broker");
    }
    broker
}

pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("test-{name}-{now}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn topic_settings(broker: &str, topic: &str) -> KafkaSettings {
    let mut settings = KafkaSettings::new(broker, &format!("group-{topic}"), Topics::parse(&[topic]).unwrap()).unwrap();
    settings.start = Start::Earliest;
    settings
}

pub fn plan(name: &str, partitions: u32) -> TopicPlan {
    TopicPlan { name: name.to_owned(), partitions, retention_ms: None, replication: None, compact: false }
}

pub fn make_topic(settings: &KafkaSettings, name: &str, partitions: u32) {
    setup(settings, &[plan(name, partitions)]).unwrap();
    // A topic just made has leaders a moment later.
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Err(error) = check(&settings.with_topic(name).unwrap()) {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub fn admin(broker: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", broker).create().unwrap()
}

/// Waits for what an [`admin`] asked for.
pub fn answer<T>(question: impl Future<Output = T>, what: &str) -> T {
    let mut question = pin!(question);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match question.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => assert!(Instant::now() < deadline, "{what}: no answer"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A record as it came out of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub offset: u64,
    pub timestamp: Option<u64>,
    pub host: Option<String>,
    pub value: Vec<u8>,
}

/// Plays the engine: takes everything, stamps and credits it at once.
pub struct Engine {
    feed: Arc<Feed>,
    pub seen: BTreeMap<PartitionId, Vec<Seen>>,
    pub names: BTreeMap<PartitionId, String>,
    pub caught_up: BTreeMap<PartitionId, usize>,
    next_seq: BTreeMap<PartitionId, u64>,
    pub empty_batches: usize,
    pub listed: bool,
    pub opened_later: Vec<PartitionId>,
    pub ended: Vec<String>,
    pub failed: Option<SourceError>,
    pub watermark: Box<dyn Fn(PartitionId) -> u64>,
}

impl Engine {
    pub fn new(feed: &Arc<Feed>) -> Engine {
        Engine {
            feed: feed.clone(),
            seen: BTreeMap::new(),
            names: BTreeMap::new(),
            caught_up: BTreeMap::new(),
            next_seq: BTreeMap::new(),
            empty_batches: 0,
            listed: false,
            opened_later: Vec::new(),
            ended: Vec::new(),
            failed: None,
            watermark: Box::new(|_| 1),
        }
    }

    pub fn step(&mut self) {
        while let Some(message) = self.feed.take() {
            match message {
                Message::Opened(info) => {
                    if self.listed {
                        self.opened_later.push(info.id);
                    }
                    self.names.insert(info.id, info.name.to_string());
                }
                Message::Batch(raw) => {
                    let id = raw.partition;
                    assert!(self.names.contains_key(&id), "opened before its first batch");
                    let seq = self.next_seq.entry(id).or_default();
                    assert_eq!(raw.seq, *seq, "batches of a partition have no gap");
                    *seq += 1;
                    let Framing::Records(records) = raw.framing.clone() else { panic!("kafka has records") };
                    self.empty_batches += usize::from(records.is_empty());
                    let batch = Batch::new(raw, (&b""[..]).into());
                    let seen = records.iter().map(|record| Seen {
                        offset: record.offset,
                        timestamp: record.timestamp.map(|t| t.0),
                        host: (!record.host.is_none())
                            .then(|| String::from_utf8_lossy(batch.get(record.host)).into_owned()),
                        value: batch.get(record.value).to_vec(),
                    });
                    self.seen.entry(id).or_default().extend(seen);
                    self.caught_up.remove(&id);
                    self.feed.advance(id, (self.watermark)(id));
                    self.feed.credit(batch.raw.bytes);
                }
                Message::CaughtUp(id) => *self.caught_up.entry(id).or_default() += 1,
                Message::Ended(id) => {
                    self.ended.push(self.names[&id].clone());
                    self.next_seq.remove(&id);
                    self.caught_up.remove(&id);
                    self.feed.retire(id);
                }
                Message::Listed => self.listed = true,
                Message::Failed(error) => self.failed = Some(error),
            }
        }
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Engine) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            self.step();
            if done(self) {
                return;
            }
            assert!(self.failed.is_none(), "{what}: {:?}", self.failed);
            assert!(Instant::now() < deadline, "{what}: not within five minutes; {} records", self.total());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn total(&self) -> usize {
        self.seen.values().map(Vec::len).sum()
    }

    pub fn by_name(&self, name: &str) -> &[Seen] {
        let id = self.names.iter().find(|(_, n)| *n == name).map(|(id, _)| id);
        id.and_then(|id| self.seen.get(id)).map_or(&[], Vec::as_slice)
    }
}

pub fn feed() -> Arc<Feed> {
    Arc::new(Feed::new(64 << 20, u64::MAX / 2, || {}))
}

/// Runs a source until the closure is content, then stops it and waits for its threads.
pub fn read(source: KafkaSource, what: &str, done: impl FnMut(&Engine) -> bool) -> Engine {
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until(what, done);
    feed.stop();
    thread.join().unwrap();
    engine
}

pub fn produce(settings: &KafkaSettings, topic: &str, lines: impl IntoIterator<Item = (i32, String)>) {
    let mut producer = LineProducer::connect(settings, topic, &ProducerSettings::default()).unwrap();
    for (partition, line) in lines {
        producer.send(None, None, line.as_bytes(), None, Some(partition)).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
}
