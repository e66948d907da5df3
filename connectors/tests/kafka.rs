//! The Kafka connectors against a real broker. Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA=host:port`
//! names one (`scripts/kafka-up` starts one). Topics get names of their own, so the broker may be used by others.
//! The tests of restarts and of TLS start brokers of their own with `scripts/kafka-up`.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used)]

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::{Feed, Message};
use tidewatch_connectors::kafka::*;
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::{DeadLetterRecord, Delivery, Sink, SinkError};
use tidewatch_connectors::source::SourceError;
use tidewatch_events::batch::{Batch, Framing, PartitionId};

/// The broker to test with; says that a test is skipped where there is none.
fn broker(test: &str) -> Option<String> {
    let broker = std::env::var("TIDEWATCH_TEST_KAFKA").ok().filter(|b| !b.is_empty());
    if broker.is_none() {
        eprintln!("SKIPPED: {test}: TIDEWATCH_TEST_KAFKA names no broker");
    }
    broker
}

fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("test-{name}-{now}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn topic_settings(broker: &str, topic: &str) -> KafkaSettings {
    let mut settings = KafkaSettings::new(broker, &format!("group-{topic}"), Topics::parse(&[topic]).unwrap()).unwrap();
    settings.start = Start::Earliest;
    settings
}

fn plan(name: &str, partitions: u32) -> TopicPlan {
    TopicPlan { name: name.to_owned(), partitions, retention_ms: None, replication: None, compact: false }
}

fn make_topic(settings: &KafkaSettings, name: &str, partitions: u32) {
    setup(settings, &[plan(name, partitions)]).unwrap();
    // A topic just made has leaders a moment later.
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Err(error) = check(&settings.with_topic(name).unwrap()) {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A record as it came out of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    offset: u64,
    timestamp: Option<u64>,
    host: Option<String>,
    value: Vec<u8>,
}

/// Plays the engine: takes everything, stamps and credits it at once.
struct Engine {
    feed: Arc<Feed>,
    seen: BTreeMap<PartitionId, Vec<Seen>>,
    names: BTreeMap<PartitionId, String>,
    caught_up: BTreeMap<PartitionId, usize>,
    next_seq: BTreeMap<PartitionId, u64>,
    empty_batches: usize,
    listed: bool,
    opened_later: Vec<PartitionId>,
    ended: Vec<String>,
    failed: Option<SourceError>,
    watermark: Box<dyn Fn(PartitionId) -> u64>,
}

impl Engine {
    fn new(feed: &Arc<Feed>) -> Engine {
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

    fn step(&mut self) {
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

    fn until(&mut self, what: &str, mut done: impl FnMut(&Engine) -> bool) {
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

    fn total(&self) -> usize {
        self.seen.values().map(Vec::len).sum()
    }

    fn by_name(&self, name: &str) -> &[Seen] {
        let id = self.names.iter().find(|(_, n)| *n == name).map(|(id, _)| id);
        id.and_then(|id| self.seen.get(id)).map_or(&[], Vec::as_slice)
    }
}

fn feed() -> Arc<Feed> {
    Arc::new(Feed::new(64 << 20, u64::MAX / 2, || {}))
}

/// Runs a source until the closure is content, then stops it and waits for its threads.
fn read(source: KafkaSource, what: &str, done: impl FnMut(&Engine) -> bool) -> Engine {
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until(what, done);
    feed.stop();
    thread.join().unwrap();
    engine
}

fn produce(settings: &KafkaSettings, topic: &str, lines: impl IntoIterator<Item = (i32, String)>) {
    let mut producer = LineProducer::connect(settings, topic, &ProducerSettings::default()).unwrap();
    for (partition, line) in lines {
        producer.send(None, None, line.as_bytes(), None, Some(partition)).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
}

#[test]
fn every_record_comes_once_in_order_with_offset_timestamp_and_host() {
    let Some(broker) = broker("every_record_comes_once_in_order") else { return };
    let topic = unique("order");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 4);
    const LINES: u64 = 40_000;
    let mut producer = LineProducer::connect(&settings, &topic, &ProducerSettings::default()).unwrap();
    for i in 0..LINES {
        let host = format!("web{}", i % 5);
        // Kinds of records: host in the header, host in the key, a key that is no host, neither.
        let (key, header): (Option<&[u8]>, Option<&str>) = match i / 4 % 4 {
            0 => (Some(b"other"), Some(&host)),
            1 => (Some(host.as_bytes()), None),
            2 => (Some(b"\xff\x00"), None),
            _ => (None, None),
        };
        producer
            .send(key, header, format!("line {i}").as_bytes(), Some(1_700_000_000_000 + i), Some((i % 4) as i32))
            .unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    assert_eq!(producer.counts().acknowledged, LINES);

    let source = KafkaSource::connect(settings, ProcessShare::WHOLE, 3).unwrap();
    assert!(source.cluster_id().is_some_and(|id| !id.is_empty()));
    let status = source.status();
    let engine = read(source, "all lines", |e| e.total() as u64 == LINES && e.caught_up.len() == 4);
    assert!(engine.listed && engine.opened_later.is_empty());
    for partition in 0..4u64 {
        let id = partition_id(3, &topic, partition as i32);
        let seen = &engine.seen[&id];
        for (n, record) in seen.iter().enumerate() {
            let i = n as u64 * 4 + partition;
            let host = (i / 4 % 4 < 2).then(|| format!("web{}", i % 5));
            let value = format!("line {i}").into_bytes();
            let want = Seen { offset: n as u64, timestamp: Some(1_700_000_000_000 + i), host, value };
            assert_eq!(*record, want, "partition {partition}");
        }
        assert_eq!(engine.names[&id], format!("{topic}/{partition}"));
    }
    for partition in status.snapshot() {
        assert_eq!(
            (partition.position, partition.log_end, partition.lag()),
            (LINES / 4, LINES / 4, 0),
            "{}",
            partition.name
        );
    }
}

#[test]
fn processes_share_the_partitions() {
    let Some(broker) = broker("processes_share_the_partitions") else { return };
    let topic = unique("share");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 5);
    produce(&settings, &topic, (0..500).map(|i| (i % 5, i.to_string())));
    let mut values = Vec::new();
    for index in 0..3 {
        let source = KafkaSource::connect(settings.clone(), ProcessShare::new(index, 3).unwrap(), 0).unwrap();
        let own = source.partitions().len();
        let engine = read(source, "a share", |e| e.total() == own * 100 && e.caught_up.len() == own);
        values.extend(
            engine
                .seen
                .into_values()
                .flatten()
                .map(|seen| String::from_utf8(seen.value).unwrap().parse::<u32>().unwrap()),
        );
    }
    values.sort_unstable();
    assert_eq!(values, (0..500).collect::<Vec<u32>>());
}

#[test]
fn partitions_and_topics_that_appear_are_read_from_their_beginning() {
    let Some(broker) = broker("partitions_and_topics_that_appear") else { return };
    let prefix = unique("grow");
    let (first, second) = (format!("{prefix}-a"), format!("{prefix}-b"));
    let make = topic_settings(&broker, &first);
    make_topic(&make, &first, 2);
    produce(&make, &first, [(0, "old".to_owned())]);

    let topics = Topics::parse(&[format!("^{prefix}-")]).unwrap();
    let mut settings = KafkaSettings::new(&broker, &prefix, topics).unwrap();
    settings.start = Start::Latest;
    settings.refresh_every = Duration::from_secs(1);
    let source = KafkaSource::connect(settings, ProcessShare::WHOLE, 0).unwrap();
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until("the end of both", |e| e.caught_up.len() == 2);
    assert_eq!(engine.total(), 0, "started at the end");

    // Written before the source can know of them, so only reading from the beginning finds these lines.
    make_topic(&make, &first, 4);
    make_topic(&make, &second, 1);
    produce(&make, &first, [(3, "new partition".to_owned()), (1, "known partition".to_owned())]);
    produce(&make, &second, [(0, "new topic".to_owned())]);
    engine.until("the new partitions", |e| e.total() == 3 && e.names.len() == 5);
    assert_eq!((engine.opened_later.len(), engine.ended.len()), (3, 0));
    assert_eq!(engine.by_name(&format!("{first}/3"))[0].value, b"new partition");
    assert_eq!(engine.by_name(&format!("{second}/0"))[0].value, b"new topic");
    feed.stop();
    thread.join().unwrap();
}

fn delete_topic(broker: &str, name: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker).create().unwrap();
    let names = [name];
    let options = AdminOptions::new();
    let mut answer = pin!(admin.delete_topics(&names, &options));
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => return assert!(answer.unwrap().iter().all(Result::is_ok)),
            Poll::Pending => assert!(Instant::now() < deadline, "{name} is not deleted"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_topic_of_a_pattern_that_is_deleted_has_ended_and_may_come_again() {
    let Some(broker) = broker("a_topic_of_a_pattern_that_is_deleted") else { return };
    let prefix = unique("gone");
    let (stays, goes) = (format!("{prefix}-a"), format!("{prefix}-b"));
    let make = topic_settings(&broker, &stays);
    make_topic(&make, &stays, 1);
    make_topic(&make, &goes, 2);
    produce(&make, &goes, [(0, "one".to_owned()), (1, "two".to_owned())]);

    let mut settings = KafkaSettings::new(&broker, &prefix, Topics::parse(&[format!("^{prefix}-")]).unwrap()).unwrap();
    settings.start = Start::Committed;
    settings.refresh_every = Duration::from_secs(1);
    let source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    let (committer, status) = (source.committer(), source.status());
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until("both are read", |e| e.total() == 2 && e.caught_up.len() == 3);
    let commit =
        |next_offset| Commit { topic: goes.as_str().into(), partition: 0, next_offset, metadata: "floor".to_owned() };
    committer.commit(&[commit(1)]).unwrap();

    delete_topic(&broker, &goes);
    engine.until("its partitions end", |e| e.ended.len() == 2);
    engine.ended.sort();
    assert_eq!(engine.ended, [format!("{goes}/0"), format!("{goes}/1")]);
    assert_eq!(status.snapshot().iter().map(|p| &*p.name).collect::<Vec<_>>(), [format!("{stays}/0")]);
    produce(&make, &stays, [(0, "three".to_owned())]);
    engine.until("the other one is read on, and is at its end", |e| e.total() == 3 && e.caught_up.len() == 1);
    assert!(status.snapshot()[0].connected);

    // Made anew it is another log: read from its first record, whatever was committed of the one before.
    make_topic(&make, &goes, 1);
    produce(&make, &goes, [(0, "four".to_owned())]);
    engine.until("the new one is read", |e| e.total() == 4 && e.caught_up.len() == 2);
    let last = engine.by_name(&format!("{goes}/0")).last().unwrap();
    assert_eq!((last.offset, &last.value[..]), (0, &b"four"[..]));
    let committed = committer.committed(&[(goes.as_str().into(), 0)], Duration::from_secs(60)).unwrap();
    assert_eq!(committed[0].next_offset, None, "the group's offset went with the topic");
    committer.commit(&[commit(1)]).unwrap();
    assert_eq!(engine.ended.len(), 2);
    feed.stop();
    thread.join().unwrap();
}

#[test]
fn a_named_topic_that_is_deleted_ends_the_source() {
    let Some(broker) = broker("a_named_topic_that_is_deleted") else { return };
    let topic = unique("named");
    let mut settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 1);
    settings.refresh_every = Duration::from_secs(1);
    let source = KafkaSource::connect(settings, ProcessShare::WHOLE, 0).unwrap();
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until("it is at its end", |e| e.caught_up.len() == 1);
    delete_topic(&broker, &topic);
    let deadline = Instant::now() + Duration::from_secs(120);
    while engine.failed.is_none() {
        assert!(Instant::now() < deadline, "the source goes on");
        engine.step();
        std::thread::sleep(Duration::from_millis(10));
    }
    let want = format!("kafka topic {topic} was deleted, and the source names it");
    assert!(matches!(&engine.failed, Some(SourceError::Service(words)) if *words == want), "{:?}", engine.failed);
    feed.stop();
    thread.join().unwrap();
}

#[test]
fn commits_are_read_again_and_decide_the_start() {
    let Some(broker) = broker("commits_are_read_again") else { return };
    let topic = unique("commit");
    let mut settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 2);
    produce(&settings, &topic, (0..200).map(|i| (i % 2, i.to_string())));
    settings.start = Start::Committed;
    let name: Arc<str> = topic.as_str().into();

    let source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    assert!(source.partitions().iter().all(|p| p.start == 0), "nothing committed: the beginning");
    let committer = source.committer();
    read(source, "all", |e| e.total() == 200);
    let commit = |partition, next_offset, metadata: &str| Commit {
        topic: name.clone(),
        partition,
        next_offset,
        metadata: metadata.to_owned(),
    };
    committer.commit(&[commit(1, 60, "epoch=7 replay=55")]).unwrap();

    let source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    let keys = [(name.clone(), 0), (name.clone(), 1)];
    let committed = source.committer().committed(&keys, Duration::from_secs(60)).unwrap();
    assert_eq!(committed[0].next_offset, None);
    assert_eq!((committed[1].next_offset, committed[1].metadata.as_str()), (Some(60), "epoch=7 replay=55"));
    let starts: Vec<u64> = source.partitions().iter().map(|p| p.start).collect();
    assert_eq!(starts, [0, 60]);
    let engine = read(source, "the rest", |e| e.total() == 140 && e.caught_up.len() == 2);
    assert_eq!(engine.by_name(&format!("{topic}/1"))[0].offset, 60);

    // A recovery record's offsets win, and a partition it does not know starts at its beginning.
    let mut source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    source.resume(&BTreeMap::from([(partition_id(0, &topic, 0), 99)])).unwrap();
    let starts: Vec<u64> = source.partitions().iter().map(|p| p.start).collect();
    assert_eq!(starts, [99, 0]);
    let beyond = source.resume(&BTreeMap::from([(partition_id(0, &topic, 0), 101)])).unwrap_err();
    assert!(matches!(&beyond, SourceError::Service(s) if s.contains("beyond the end of the log at 100")), "{beyond}");

    // Whatever `start` is, it is for what was never committed.
    let rows = [
        ("the beginning", Start::Earliest, [0, 60]),
        ("the end", Start::Latest, [100, 60]),
        ("a time after all", Start::Time(i64::MAX as u64), [100, 60]),
        ("a time before all", Start::Time(0), [0, 60]),
    ];
    for (words, start, want) in rows {
        let mut settings = settings.clone();
        settings.start = start;
        let source = KafkaSource::connect(settings, ProcessShare::WHOLE, 0).unwrap();
        let starts: Vec<u64> = source.partitions().iter().map(|p| p.start).collect();
        assert_eq!(starts, want, "{words}");
        let committed: Vec<_> = source.partitions().iter().map(|p| p.committed.as_deref()).collect();
        assert_eq!(committed, [None, Some("epoch=7 replay=55")], "{words}");
    }

    committer.commit(&[commit(0, 5000, "")]).unwrap();
    let error = KafkaSource::connect(settings, ProcessShare::WHOLE, 0).err().unwrap();
    assert!(
        matches!(&error, SourceError::Service(s) if s.contains(&format!("{topic}/0")) && s.contains("5000")),
        "{error}"
    );
}

#[test]
fn a_start_may_be_a_time_or_the_end() {
    let Some(broker) = broker("a_start_may_be_a_time") else { return };
    let topic = unique("time");
    let mut settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 1);
    let mut producer = LineProducer::connect(&settings, &topic, &ProducerSettings::default()).unwrap();
    for i in 0..10u64 {
        producer.send(None, None, b"x", Some(1_700_000_000_000 + i * 1000), Some(0)).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    let rows = [
        ("before all", Start::Time(0), 0),
        ("one after a record", Start::Time(1_700_000_003_001), 4),
        ("at a record", Start::Time(1_700_000_003_000), 3),
        ("after all", Start::Time(1_800_000_000_000), 10),
        ("the end", Start::Latest, 10),
        ("the beginning", Start::Earliest, 0),
    ];
    for (name, start, want) in rows {
        settings.start = start;
        let source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
        assert_eq!(source.partitions()[0].start, want, "{name}");
    }
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let Some(broker) = broker("what_cannot_work_is_said_at_once") else { return };
    let topic = unique("errors");
    make_topic(&topic_settings(&broker, &topic), &topic, 1);
    let typo = format!("{topic}x");
    let error = KafkaSource::connect(topic_settings(&broker, &typo), ProcessShare::WHOLE, 0).err().unwrap();
    let want = format!("kafka at {broker} has no topic {typo}; did you mean {topic}?");
    assert!(matches!(&error, SourceError::Service(s) if s.starts_with(&want)), "{error}");

    let pattern = Topics::parse(&["^no-such-topic-"]).unwrap();
    let error =
        KafkaSource::connect(KafkaSettings::new(&broker, "g", pattern).unwrap(), ProcessShare::WHOLE, 0).err().unwrap();
    assert!(
        matches!(&error, SourceError::Service(s) if s.contains("no topic that matches ^no-such-topic-")),
        "{error}"
    );

    let mut settings = topic_settings("127.0.0.1:1", &topic);
    settings.connect_within = Duration::from_secs(2);
    let error = KafkaSource::connect(settings, ProcessShare::WHOLE, 0).err().unwrap();
    let words = error.to_string();
    assert!(
        words.contains("127.0.0.1:1") && words.contains("within 2 s") && words.contains("Connection refused"),
        "{words}"
    );
}

#[test]
fn lag_is_counted_while_the_engine_holds_back() {
    let Some(broker) = broker("lag_is_counted") else { return };
    let topic = unique("lag");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 1);
    produce(&settings, &topic, (0..30_000).map(|i| (0, format!("{i:0200}"))));
    let source = KafkaSource::connect(settings, ProcessShare::WHOLE, 0).unwrap();
    let status = source.status();
    // Room for about one batch, and nothing is credited: the source must stop reading.
    let feed = Arc::new(Feed::new(1 << 20, u64::MAX / 2, || {}));
    let thread = source.spawn(feed.clone()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while feed.bytes_in_flight() < 1 << 20 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(1500));
    let one = status.snapshot().remove(0);
    assert!(feed.bytes_in_flight() <= 3 << 20, "{} bytes", feed.bytes_in_flight());
    let mut handed = 0;
    while let Some(message) = feed.take() {
        match message {
            Message::Batch(batch) => {
                let Framing::Records(records) = &batch.framing else { panic!("records") };
                handed += records.len() as u64;
            }
            Message::CaughtUp(_) => panic!("not caught up: it is held back"),
            _ => {}
        }
    }
    assert_eq!((one.position, one.log_end, one.lag()), (handed, 30_000, 30_000 - handed));
    assert!(one.connected && one.queued > 0);
    feed.stop();
    thread.join().unwrap();
}

#[test]
fn a_partition_that_must_wait_is_not_caught_up() {
    let Some(broker) = broker("a_partition_that_must_wait") else { return };
    let topic = unique("align");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 2);
    produce(&settings, &topic, [(0, "far ahead".to_owned()), (1, "behind".to_owned())]);
    let ahead = partition_id(0, &topic, 0);
    let feed = Arc::new(Feed::new(64 << 20, 60_000, || {}));
    let mut engine = Engine::new(&feed);
    engine.watermark = Box::new(move |id| if id == ahead { 10_000_000 } else { 1 });
    let source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until("both first lines", |e| e.total() == 2);
    engine.until("the one behind", |e| e.caught_up.contains_key(&partition_id(0, &topic, 1)));
    produce(&settings, &topic, (0..100).map(|i| (0, format!("waits {i}"))));
    std::thread::sleep(Duration::from_millis(1500));
    engine.step();
    assert_eq!(engine.seen[&ahead].len(), 1, "it is ten thousand seconds ahead");
    let before = engine.caught_up.get(&ahead).copied();
    // The other one comes along.
    engine.watermark = Box::new(|_| 10_000_000);
    produce(&settings, &topic, [(1, "caught up".to_owned())]);
    engine.until("the one that waited", |e| e.seen[&ahead].len() == 101 && e.caught_up.contains_key(&ahead));
    assert!(before.is_none_or(|n| n == 1), "at most once, before the new lines came: {before:?}");
    feed.stop();
    thread.join().unwrap();
}

#[test]
fn single_lines_are_found_again() {
    let Some(broker) = broker("single_lines_are_found_again") else { return };
    let topic = unique("fetch");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 3);
    produce(&settings, &topic, (0..3000).map(|i| (i % 2, format!("line {}", i / 2))));
    let away = unique("nowhere");
    let limit = Duration::from_secs(20);
    // What is wanted, as (partition, offset), and whether it is there.
    type Row<'a> = (&'a str, &'a str, &'a [(i32, u64, bool)]);
    let rows: &[Row] = &[
        ("one", &topic, &[(1, 0, true)]),
        ("the last", &topic, &[(0, 1499, true)]),
        ("near ones and far ones, in any order", &topic, &[(1, 1400, true), (1, 7, true), (1, 9, true), (1, 8, true)]),
        ("of several partitions", &topic, &[(0, 900, true), (1, 1, true), (0, 3, true), (1, 1499, true)]),
        ("some not yet there", &topic, &[(0, 2, true), (1, 1500, false), (1, 1600, false), (1, 3, true)]),
        ("beyond the log", &topic, &[(1, 5_000_000, false)]),
        ("beyond the log, of several", &topic, &[(0, 5_000_000, false), (1, 5, true), (0, 4, true), (2, 0, false)]),
        ("no such topic", &away, &[(0, 5, false), (1, 6, false)]),
        ("nothing", &topic, &[]),
    ];
    let fetcher = LineFetcher::new(&settings).unwrap();
    let fetch = |fetcher: &LineFetcher, wanted: &[RecordPlace], within| {
        let mut lines = vec![None; wanted.len()];
        let ended = fetcher.fetch(wanted, within, &mut |at, line| lines[at] = Some(line));
        (lines, ended)
    };
    let place = |topic: &str, partition, offset| RecordPlace { topic: topic.into(), partition, offset };
    for (name, topic, wanted) in rows {
        let places: Vec<_> = wanted.iter().map(|(partition, offset, _)| place(topic, *partition, *offset)).collect();
        let want: Vec<_> = wanted
            .iter()
            .map(|(_, offset, is_there)| Some(is_there.then(|| format!("line {offset}").into_bytes())))
            .collect();
        let (lines, ended) = fetch(&fetcher, &places, limit);
        assert!(ended.is_ok(), "{name}: {ended:?}");
        assert_eq!(lines, want, "{name}");
    }
    let unreachable = LineFetcher::new(&topic_settings("127.0.0.1:1", &topic)).unwrap();
    let begin = Instant::now();
    assert!(fetch(&unreachable, &[place(&topic, 1, 0)], Duration::from_secs(1)).1.is_err());
    assert!(begin.elapsed() < Duration::from_secs(30), "bounded");
}

#[test]
fn setup_may_be_repeated_and_reports_what_differs() {
    let Some(broker) = broker("setup_may_be_repeated") else { return };
    let topic = unique("setup");
    let settings = topic_settings(&broker, &topic);
    let mut want = TopicPlan { retention_ms: Some(3_600_000), ..plan(&topic, 2) };
    let go = |want: &TopicPlan| {
        let mut report = setup(&settings, std::slice::from_ref(want)).unwrap();
        report.topics.remove(0)
    };
    let first = go(&want);
    assert_eq!((first.action, first.partitions, first.differs.as_slice()), (TopicAction::Created, 2, &[][..]));
    assert_eq!(go(&want).action, TopicAction::Unchanged);
    want.partitions = 3;
    let grown = go(&want);
    assert_eq!((grown.action, grown.partitions), (TopicAction::Grown { from: 2 }, 3));
    (want.partitions, want.retention_ms, want.replication, want.compact) = (1, Some(-1), Some(2), true);
    let differs = go(&want).differs;
    let expected = [
        "has 3 partitions, 1 planned; partitions cannot be taken away",
        "retention.ms is 3600000, -1 planned",
        "has 1 copies of a partition, 2 planned",
        "cleanup.policy is delete, compact planned",
    ];
    assert_eq!(differs, expected);
    let report = check(&settings).unwrap();
    assert_eq!((report.brokers, report.partitions.len()), (1, 3));
    assert!(report.cluster_id.is_some());
    let error = setup(&settings, &[TopicPlan { replication: Some(9), ..plan(&unique("nine"), 1) }]).unwrap_err();
    assert!(matches!(&error, SourceError::Service(s) if s.contains("cannot be created")), "{error}");
}

#[test]
fn results_are_written_as_json_and_acknowledged() {
    let Some(broker) = broker("results_are_written_as_json") else { return };
    let (topic, letters) = (unique("results"), unique("letters"));
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 1);
    make_topic(&settings, &letters, 1);
    let with = ProducerSettings { deliver_within: Duration::from_secs(60), ..ProducerSettings::default() };
    let mut points = Vec::new();
    for i in 0..5000 {
        points.extend_from_slice(format!("http_stats,host=web{} requests={i}i {i}\n", i % 3).as_bytes());
    }
    points.extend_from_slice(b"no point\n");
    let letter = DeadLetterRecord {
        source: "kafka".into(),
        partition: "t/0".into(),
        offset: 7,
        reason: "format".into(),
        line: "\u{1b}[31m".into(),
        ..DeadLetterRecord::default()
    };
    let delivery = Delivery { seq: 1, points, alerts: Vec::new(), dead_letters: vec![letter] };
    let mut sink = KafkaSink::new(&settings, &topic, with.clone()).unwrap();
    let delivered = sink.deliver(&delivery).unwrap();
    assert_eq!(delivered.refused.len(), 1);
    DeadLetterTopic::new(&settings, &letters, with.clone()).unwrap().deliver(&delivery).unwrap();

    let engine =
        read(KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap(), "points", |e| e.total() == 5000);
    let seen = engine.by_name(&format!("{topic}/0"));
    for (i, record) in seen.iter().enumerate() {
        let value: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(
            (&value["type"], &value["fields"]["requests"], &value["time"]),
            (&"metric".into(), &i.into(), &i.into())
        );
        assert_eq!(record.host.as_deref(), Some(format!("web{}", i % 3).as_str()), "the key");
    }
    let of_letters = settings.with_topic(&letters).unwrap();
    let engine = read(KafkaSource::connect(of_letters, ProcessShare::WHOLE, 0).unwrap(), "letters", |e| e.total() == 1);
    let want = r#"{"source":"kafka","partition":"t/0","offset":7,"reason":"format","line":"\u001b[31m"}"#;
    assert_eq!(std::str::from_utf8(&engine.by_name(&format!("{letters}/0"))[0].value).unwrap(), want);

    // A record that is too large is refused alone; a topic that is not there needs a person; a broker away does not.
    let big = format!("http_stats,host=a message=\"{}\" 1\nhttp_stats,host=a requests=1i 2\n", "x".repeat(2 << 20));
    let delivered = sink.deliver(&Delivery { seq: 2, points: big.into_bytes(), ..Delivery::default() }).unwrap();
    assert_eq!(delivered.refused.len(), 1);
    assert!(delivered.refused[0].1.contains("MessageSizeTooLarge"), "{}", delivered.refused[0].1);
    let short = ProducerSettings { deliver_within: Duration::from_secs(5), ..with.clone() };
    let mut nowhere = KafkaSink::new(&settings, &unique("nowhere"), short).unwrap();
    let error = nowhere.deliver(&delivery).unwrap_err();
    assert!(matches!(error, SinkError::Refused(_)), "{error}");
    let short = ProducerSettings { deliver_within: Duration::from_secs(1), ..with };
    let mut away = KafkaSink::new(&topic_settings("127.0.0.1:1", &topic), &topic, short).unwrap();
    let error = away.deliver(&delivery).unwrap_err();
    assert!(matches!(&error, SinkError::Retry { message, .. } if message.contains("Connection refused")), "{error}");
}

/// Makes a topic of one partition that takes records of at most so many bytes.
fn make_small_topic(broker: &str, name: &str, most: usize) {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let admin: AdminClient<_> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", broker).create().expect("an admin client");
    let most = most.to_string();
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("max.message.bytes", &most);
    let options = AdminOptions::new();
    let mut made = Box::pin(admin.create_topics([&topic], &options));
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while made.as_mut().poll(&mut context).is_pending() {
        assert!(Instant::now() < deadline, "no topic {name}");
        std::thread::sleep(Duration::from_millis(10));
    }
    make_topic(&topic_settings(broker, name), name, 1);
}

/// Text that does not pack.
fn noise(bytes: usize) -> String {
    let mut state = bytes as u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 60) as u8)
    };
    (0..bytes).map(|_| letter()).collect()
}

/// Brokers refuse a batch as a whole: for one record in it, and where it is larger than the topic takes.
#[test]
fn no_result_is_refused_for_the_sake_of_another() {
    let Some(broker) = broker("no_result_is_refused") else { return };
    let (results, letters) = (unique("small-results"), unique("small-letters"));
    make_small_topic(&broker, &results, 20_000);
    make_small_topic(&broker, &letters, 20_000);
    let settings = topic_settings(&broker, &results);
    let with = ProducerSettings { deliver_within: Duration::from_secs(60), ..ProducerSettings::default() };
    let values = |topic: &str, count: usize| {
        let of_topic = topic_settings(&broker, topic);
        let engine = read(KafkaSource::connect(of_topic, ProcessShare::WHOLE, 0).unwrap(), topic, |e| {
            e.total() >= count && e.caught_up.len() == 1
        });
        let seen = engine.by_name(&format!("{topic}/0")).iter();
        seen.map(|s| serde_json::from_slice(&s.value).unwrap()).collect::<Vec<serde_json::Value>>()
    };

    // 300 points, one of them twice, and one in the middle that is too large by itself.
    let mut points = String::new();
    for i in 0..300 {
        let text = noise(if i == 150 { 30_000 } else { 500 + i });
        points += &format!("http_stats,host=a message=\"{text}\",number={i}i {i}\n");
    }
    points += "http_stats,host=a number=1000i 7\n";
    let delivery = Delivery { seq: 1, points: points.into_bytes(), ..Delivery::default() };
    let mut sink = KafkaSink::new(&settings, &results, with.clone()).unwrap();
    let refused = sink.deliver(&delivery).unwrap().refused;
    assert_eq!(refused.len(), 1, "{:?}", refused.iter().map(|(_, words)| words).collect::<Vec<_>>());
    assert!(refused[0].0.contains("\"number\":150") && refused[0].1.contains("MessageSizeTooLarge"));
    let mut last = BTreeMap::new();
    for value in values(&results, 300) {
        last.insert(value["time"].as_u64().unwrap(), value["fields"]["number"].as_u64().unwrap());
    }
    let want = (0..300).filter(|i| *i != 150).map(|i| (i, if i == 7 { 1000 } else { i }));
    assert_eq!(last, want.collect(), "of each point the last version stays the last");

    // Dead letters that are too large keep as much of their line as goes in; each is there once.
    let letter = |offset: u64, line: String| DeadLetterRecord {
        source: "s".into(),
        partition: "p".into(),
        offset,
        reason: "format".into(),
        line,
        ..DeadLetterRecord::default()
    };
    let mut all: Vec<DeadLetterRecord> = (0..100).map(|i| letter(i, noise(500 + i as usize))).collect();
    all[30].line = format!("{}é{}", "\u{1}".repeat(1023), noise(100_000));
    all[60].line = noise(2_000_000);
    let delivery = Delivery { seq: 1, dead_letters: all.clone(), ..Delivery::default() };
    let mut sink = DeadLetterTopic::new(&settings, &letters, with.clone()).unwrap();
    assert_eq!(sink.deliver(&delivery).unwrap().refused, []);
    let mut got = values(&letters, 100);
    got.sort_by_key(|value| value["offset"].as_u64());
    for index in [30, 60] {
        all[index].cut = Some(all[index].line.len() as u64);
        all[index].line.truncate(if index == 30 { 1023 } else { 1024 });
    }
    assert_eq!(got, all.iter().map(|letter| serde_json::to_value(letter).unwrap()).collect::<Vec<_>>());

    // A topic that takes more keeps more.
    let large = unique("letters");
    make_topic(&settings, &large, 1);
    let delivery = Delivery { seq: 1, dead_letters: vec![letter(1, noise(1 << 20))], ..Delivery::default() };
    let mut sink = DeadLetterTopic::new(&settings, &large, with).unwrap();
    assert_eq!(sink.deliver(&delivery).unwrap().refused, []);
    let got = values(&large, 1);
    assert_eq!((got[0]["line"].as_str().unwrap().len(), got[0]["cut"].as_u64()), (64 << 10, Some(1 << 20)));
}

/// The first of three ports in a row that nobody listens on: below those that the system gives away.
fn free_ports() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() % 100;
    let ports = (0..200).map(|n| 19_492 + ((start + n) % 200) as u16 * 10);
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    ports.into_iter().find(|port| (0..3).all(|n| is_free(port + n))).expect("free ports")
}

/// A broker of our own, taken down at the end.
struct OwnBroker {
    port: u16,
    home: tempfile::TempDir,
}

impl OwnBroker {
    fn start() -> OwnBroker {
        let own = OwnBroker { port: free_ports(), home: tempfile::tempdir().unwrap() };
        own.run("up").unwrap();
        own
    }

    fn run(&self, command: &str) -> io::Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka-up");
        let output = Command::new(script)
            .arg(command)
            .env("KAFKA_PORT", self.port.to_string())
            .env("KAFKA_HOME", self.home.path())
            .env("KAFKA_HEAP", "256m")
            .env("KAFKA_SECURE", "1")
            .output()?;
        if output.status.success() {
            Ok(())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn secure(&self, topic: &str, password: &str) -> KafkaSettings {
        let mut settings = topic_settings(&format!("127.0.0.1:{}", self.port + 2), topic);
        settings.security = Security {
            protocol: Protocol::SaslTls,
            ca: Some(self.home.path().join("tls/ca.crt")),
            mechanism: Some(Mechanism::ScramSha256),
            username: Some("tidewatch".into()),
            password: Some(Secret::new(password)),
            ..Security::default()
        };
        settings
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let _ = self.run("down");
    }
}

#[test]
fn tls_and_an_account_are_needed_where_the_broker_wants_them() {
    if broker("tls_and_an_account").is_none() {
        return;
    }
    let own = OwnBroker::start();
    let topic = unique("secure");
    let settings = own.secure(&topic, "tidewatch-secret");
    make_topic(&settings, &topic, 1);
    produce(&settings, &topic, [(0, "secret".to_owned())]);
    let engine =
        read(KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap(), "secure", |e| e.total() == 1);
    assert_eq!(engine.by_name(&format!("{topic}/0"))[0].value, b"secret");

    // What is written: results and dead letters.
    let letter = DeadLetterRecord {
        source: "kafka".into(),
        partition: "t/0".into(),
        offset: 7,
        reason: "format".into(),
        line: "no line".into(),
        ..DeadLetterRecord::default()
    };
    let points = b"http_stats,host=web1 requests=1i 1\n".to_vec();
    let delivery = Delivery { seq: 1, points, alerts: Vec::new(), dead_letters: vec![letter] };
    let with = ProducerSettings { deliver_within: Duration::from_secs(60), ..ProducerSettings::default() };
    KafkaSink::new(&settings, &topic, with.clone()).unwrap().deliver(&delivery).unwrap();
    DeadLetterTopic::new(&settings, &topic, with.clone()).unwrap().deliver(&delivery).unwrap();
    let engine =
        read(KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap(), "secure", |e| e.total() == 3);
    let seen = engine.by_name(&format!("{topic}/0"));
    assert!(String::from_utf8_lossy(&seen[2].value).contains("no line"), "{seen:?}");
    let short = ProducerSettings { deliver_within: Duration::from_secs(5), ..with };
    let error =
        DeadLetterTopic::new(&own.secure(&topic, "hunter2"), &topic, short).unwrap().deliver(&delivery).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");

    let error = KafkaSource::connect(own.secure(&topic, "hunter2"), ProcessShare::WHOLE, 0).err().unwrap();
    assert!(
        matches!(&error, SourceError::Service(s) if s.contains("SASL") && s.contains("invalid credentials")),
        "{error}"
    );
    assert!(!error.to_string().contains("hunter2"), "{error}");

    let mut stranger = settings;
    stranger.security.ca = None;
    let error = KafkaSource::connect(stranger, ProcessShare::WHOLE, 0).err().unwrap();
    assert!(matches!(&error, SourceError::Service(s) if s.contains("certificate")), "{error}");
}

#[test]
fn a_broker_restart_loses_and_repeats_nothing() {
    if broker("a_broker_restart").is_none() {
        return;
    }
    let own = OwnBroker::start();
    let topic = unique("restart");
    let settings = topic_settings(&own.address(), &topic);
    make_topic(&settings, &topic, 2);
    produce(&settings, &topic, (0..1000).map(|i| (i % 2, i.to_string())));
    let source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    let (status, committer) = (source.status(), source.committer());
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until("before", |e| e.total() == 1000 && e.caught_up.len() == 2);

    own.run("down").unwrap();
    engine.until("the loss is noticed", |e| e.empty_batches >= 2 && e.caught_up.is_empty());
    assert!(status.snapshot().iter().all(|p| !p.connected));
    assert!(status.errors_total() > 0 && status.trouble().is_some());
    own.run("up").unwrap();
    engine.until("it is back", |e| e.caught_up.len() == 2);
    let name: Arc<str> = topic.as_str().into();
    committer.commit(&[Commit { topic: name, partition: 0, next_offset: 500, metadata: String::new() }]).unwrap();

    // Once more while records are being written and read.
    let writer = std::thread::spawn({
        let (settings, topic) = (settings.clone(), topic.clone());
        move || {
            let with = ProducerSettings { deliver_within: Duration::from_secs(300), ..ProducerSettings::default() };
            let mut producer = LineProducer::connect(&settings, &topic, &with).unwrap();
            for i in 1000..21_000 {
                producer.send(None, None, i.to_string().as_bytes(), None, Some(i % 2)).unwrap();
                if i % 20 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            producer.flush(Duration::from_secs(300)).unwrap();
        }
    });
    engine.until("some of it", |e| e.total() > 3000);
    own.run("down").unwrap();
    let at_stop = engine.total();
    assert!(at_stop < 21_000, "the restart is in the middle");
    own.run("up").unwrap();
    engine.until("all of it", |e| e.total() >= 21_000 && e.caught_up.len() == 2);
    writer.join().unwrap();
    feed.stop();
    thread.join().unwrap();
    for partition in 0..2 {
        let seen = engine.by_name(&format!("{topic}/{partition}"));
        let values: Vec<u32> = seen.iter().map(|s| String::from_utf8_lossy(&s.value).parse().unwrap()).collect();
        assert_eq!(values, (0..10_500).map(|n| n * 2 + partition).collect::<Vec<u32>>(), "each once, in order");
        assert!(seen.iter().enumerate().all(|(n, s)| s.offset == n as u64));
    }
}
