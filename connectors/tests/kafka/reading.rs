//! Records as they are read: once each and in order, shared by processes, held back, found again one by one.

use crate::support::{Engine, Seen, broker, make_topic, produce, read, topic_settings, unique};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::{Feed, Message};
use tidewatch_connectors::kafka::*;
use tidewatch_connectors::source::SourceError;
use tidewatch_events::batch::Framing;

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
    assert!(one.is_connected() && one.queued > 0);
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
