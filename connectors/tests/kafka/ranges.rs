//! Ranges of topics, read from one end to the other.

use crate::retention::delete_records;
use crate::support::{Engine, Seen, broker, feed, make_topic, produce, read, topic_settings, unique};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::*;
use tidewatch_connectors::source::SourceError;
use tidewatch_events::batch::WallTime;

/// Reads to the end.
fn read_range(source: ReplayTopic, what: &str) -> Engine {
    let count = source.slices().len();
    let (read, total) = (source.read_records(), source.total_records());
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed).unwrap();
    engine.until(what, |e| e.ended.len() == count);
    thread.join().unwrap();
    engine.step();
    assert!(engine.listed && engine.opened_later.is_empty() && engine.caught_up.is_empty(), "{what}");
    assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), total, "{what}: progress");
    engine
}

/// Reads until it fails; the sentence.
fn failure(source: ReplayTopic, what: &str) -> (Engine, String) {
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while engine.failed.is_none() {
        assert!(Instant::now() < deadline, "{what}: not said");
        engine.step();
        std::thread::sleep(Duration::from_millis(10));
    }
    thread.join().unwrap();
    let Some(SourceError::Service(words)) = engine.failed.take() else { panic!("{what}") };
    (engine, words)
}

fn offsets(engine: &Engine, topic: &str, partition: i32) -> Vec<u64> {
    engine.by_name(&format!("{topic}/{partition}")).iter().map(|seen| seen.offset).collect()
}

#[test]
fn a_range_holds_what_the_live_source_reads_of_it() {
    let Some(broker) = broker("a_range_holds_what_the_live_source_reads") else { return };
    let topic = unique("range");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 4);
    const BASE: u64 = 1_700_000_000_000;
    let mut producer = LineProducer::connect(&settings, &topic, &ProducerSettings::default()).unwrap();
    // Partition 3 has nothing, partition 2 little; timestamps are up to 50 ms out of order.
    for i in 0..20_000u64 {
        let partition = if i % 100 == 0 { 2 } else { (i % 2) as i32 };
        let time = BASE + i + (i * 7919) % 50;
        producer.send(Some(b"web1"), None, format!("line {i}").as_bytes(), Some(time), Some(partition)).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    let live =
        read(KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 2).unwrap(), "live", |e| e.total() == 20_000);
    let time = |ms: u64| Some(WallTime(BASE + ms));
    let times = |from, until| Range::Times { from, until };
    let some = |named: &[(i32, Option<u64>, Option<u64>)]| {
        Range::Offsets(
            named.iter().map(|(partition, from, until)| (*partition, Offsets { from: *from, until: *until })).collect(),
        )
    };
    let rows = [
        ("all", Range::WHOLE),
        ("from a time", times(time(5_000), None)),
        ("until a time", times(None, time(5_000))),
        ("between times", times(time(5_000), time(15_000))),
        ("a millisecond", times(time(5_000), time(5_001))),
        ("before all", times(None, time(0))),
        ("after all", times(time(1_000_000), None)),
        ("offsets", some(&[(0, Some(17), Some(4_242)), (2, None, Some(3)), (3, None, None)])),
        ("one record", some(&[(1, Some(9_999), Some(10_000))])),
    ];
    let mut readers = Vec::new();
    for (name, range) in &rows {
        let source = ReplayTopic::connect(settings.clone(), range, 2).unwrap();
        let lines = source.fetcher().unwrap();
        readers.push((name, range, source, lines));
    }
    // What is written after the ends were asked for is in none of them.
    produce(&settings, &topic, (0..4).map(|partition| (partition, "later".to_owned())));
    for (name, range, source, lines) in readers {
        let engine = read_range(source, name);
        let named = |partition: i32| match range {
            Range::Times { .. } => true,
            Range::Offsets(named) => named.contains_key(&partition),
        };
        for partition in 0..4 {
            let all = live.by_name(&format!("{topic}/{partition}"));
            let want: Vec<Seen> = match range {
                Range::Times { from, until } => {
                    let first = |time: &Option<WallTime>, otherwise: usize| match time {
                        None => otherwise,
                        Some(time) => all.iter().position(|seen| seen.timestamp >= Some(time.0)).unwrap_or(all.len()),
                    };
                    all[first(from, 0)..first(until, all.len())].to_vec()
                }
                Range::Offsets(ranges) => {
                    let Offsets { from, until } =
                        ranges.get(&partition).copied().unwrap_or(Offsets { from: None, until: Some(0) });
                    let is_in =
                        |seen: &&Seen| seen.offset >= from.unwrap_or(0) && seen.offset < until.unwrap_or(u64::MAX);
                    all.iter().filter(is_in).cloned().collect()
                }
            };
            let got = engine.by_name(&format!("{topic}/{partition}"));
            assert!(got == want, "{name}: partition {partition}: {} records instead of {}", got.len(), want.len());
            assert_eq!(
                engine.ended.iter().filter(|n| **n == format!("{topic}/{partition}")).count(),
                usize::from(named(partition))
            );
        }
        let wanted: Vec<_> = engine.seen.iter().filter_map(|(id, seen)| Some((*id, seen.last()?.offset))).collect();
        let want: Vec<_> = engine.seen.values().filter_map(|seen| Some(seen.last()?.value.clone())).map(Some).collect();
        assert_eq!(lines.fetch(&wanted, Duration::from_secs(20)).unwrap(), want, "{name}: read again");
    }
    let group = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    let keys: Vec<_> = (0..4).map(|partition| (topic.as_str().into(), partition)).collect();
    let committed = group.committer().committed(&keys, Duration::from_secs(60)).unwrap();
    assert!(committed.iter().all(|c| c.next_offset.is_none()), "nothing is committed");
}

#[test]
fn markers_of_transactions_do_not_keep_a_range_open() {
    let Some(broker) = broker("markers_of_transactions") else { return };
    let topic = unique("transactions");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 1);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker).set("transactional.id", &topic);
    let producer: BaseProducer = config.create().unwrap();
    let limit = Duration::from_secs(60);
    producer.init_transactions(limit).unwrap();
    let transaction = |values: &[&str], ends: Option<bool>| {
        producer.begin_transaction().unwrap();
        for value in values {
            producer.send(BaseRecord::<(), str>::to(&topic).partition(0).payload(value)).unwrap();
        }
        producer.flush(limit).unwrap();
        match ends {
            Some(true) => producer.commit_transaction(limit).unwrap(),
            Some(false) => producer.abort_transaction(limit).unwrap(),
            None => {}
        }
    };
    transaction(&["a", "b"], Some(true));
    transaction(&["undone"], Some(false));
    let whole = ReplayTopic::connect(settings.clone(), &Range::WHOLE, 0).unwrap();
    assert_eq!(whole.total_records(), 5, "three records and two markers");
    assert_eq!(offsets(&read_range(whole, "a marker at the end"), &topic, 0), [0, 1]);
    let only = Range::Offsets(BTreeMap::from([(0, Offsets { from: Some(2), until: Some(5) })]));
    let nothing = ReplayTopic::connect(settings.clone(), &only, 0).unwrap();
    assert_eq!(read_range(nothing, "nothing but markers and what was undone").total(), 0);
    // Of a transaction that is not over it is not known what it will be: the range ends before it.
    transaction(&["open"], None);
    let whole = ReplayTopic::connect(settings, &Range::WHOLE, 0).unwrap();
    assert_eq!(offsets(&read_range(whole, "an open transaction"), &topic, 0), [0, 1]);
}

#[test]
fn what_is_gone_before_it_is_read_is_said() {
    let Some(broker) = broker("what_is_gone_before_it_is_read") else { return };
    let topic = unique("gone");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 1);
    produce(&settings, &topic, (0..100).map(|i| (0, i.to_string())));
    let from = |from| Range::Offsets(BTreeMap::from([(0, Offsets { from: Some(from), until: None })]));
    let connect = |range: &Range| ReplayTopic::connect(settings.clone(), range, 0).unwrap();
    let (whole, looked_at, lines) =
        (connect(&Range::WHOLE), connect(&from(60)), connect(&Range::WHOLE).fetcher().unwrap());
    delete_records(&broker, &topic, &[(0, 50)]);
    let engine = read_range(looked_at, "records before the range are gone");
    assert_eq!(offsets(&engine, &topic, 0), (60..100).collect::<Vec<_>>());
    let (engine, words) = failure(whole, "records of the range are gone");
    assert!(words.contains(&format!("kafka {topic}/0: offset 0 is no longer in the log")), "{words}");
    assert_eq!(engine.total(), 0, "nothing behind the gap is read");
    let id = partition_id(0, &topic, 0);
    let again = lines.fetch(&[(id, 10), (id, 70)], Duration::from_secs(20)).unwrap();
    assert_eq!(again, [None, Some(b"70".to_vec())]);
    let error = ReplayTopic::connect(settings.clone(), &from(10), 0).err().unwrap().to_string();
    let want = format!("kafka {topic}/0: offset 10 is not in the log, which begins at 50 and ends at 100");
    assert_eq!(error, want);
}

#[test]
fn what_the_agent_sent_twice_is_read_once() {
    let Some(broker) = broker("what_the_agent_sent_twice") else { return };
    let topic = unique("twice");
    let settings = topic_settings(&broker, &topic);
    make_topic(&settings, &topic, 1);
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &broker).create().unwrap();
    for line in [0, 1, 2, 1, 2, 3, 2, 3, 4] {
        let position = format!("00000000000000aa:{}:{}", line * 10, line * 10 + 10);
        let headers = rdkafka::message::OwnedHeaders::new()
            .insert(rdkafka::message::Header { key: "host", value: Some("web1") })
            .insert(rdkafka::message::Header { key: POSITION_HEADER, value: Some(&position) });
        let value = line.to_string();
        producer.send(BaseRecord::<(), str>::to(&topic).partition(0).payload(&value).headers(headers)).unwrap();
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    let range = |from, until| Range::Offsets(BTreeMap::from([(0, Offsets { from: Some(from), until: Some(until) })]));
    // The records of the log are 0 1 2 1 2 3 2 3 4: what was sent before the range counts as well.
    for (name, range, want) in [
        ("all", Range::WHOLE, vec![0, 1, 2, 5, 8]),
        ("from the middle", range(5, 9), vec![5, 8]),
        ("it ends with one sent twice", range(0, 8), vec![0, 1, 2, 5]),
        ("nothing else", range(6, 8), vec![]),
    ] {
        let source = ReplayTopic::connect(settings.clone(), &range, 0).unwrap();
        assert_eq!(offsets(&read_range(source, name), &topic, 0), want, "{name}");
    }
}
