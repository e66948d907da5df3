//! Where reading starts: what was committed, a time, an end, the offsets of a recovery record.

use crate::support::{broker, make_topic, produce, read, topic_settings, unique};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidewatch_connectors::kafka::*;
use tidewatch_connectors::source::SourceError;

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
