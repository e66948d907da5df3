//! Results and dead letters as they are written, and what a broker refuses of them.

use crate::support::{admin, answer, broker, make_topic, read, topic_settings, unique};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use std::collections::BTreeMap;
use std::time::Duration;
use tidewatch_connectors::kafka::*;
use tidewatch_connectors::sink::{DeadLetterRecord, Delivery, Sink, SinkError};

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
    let delivery = Delivery { seq: 1, points, alerts: Vec::new(), dead_letters: vec![letter], ..Delivery::default() };
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
    let most = most.to_string();
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("max.message.bytes", &most);
    let made = answer(admin(broker).create_topics([&topic], &AdminOptions::new()), name);
    assert!(made.unwrap().iter().all(Result::is_ok));
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
