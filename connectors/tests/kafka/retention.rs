//! Records that retention, or an administrator, removes between finding a start and reading there.

use crate::support::{Engine, admin, answer, broker, feed, make_topic, produce, topic_settings, unique};
use rdkafka::admin::AdminOptions;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::*;

/// Moves the beginnings of logs.
pub fn delete_records(broker: &str, topic: &str, before: &[(i32, u64)]) {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in before {
        list.add_partition_offset(topic, *partition, Offset::Offset(i64::try_from(*offset).unwrap())).unwrap();
    }
    let deleted = answer(admin(broker).delete_records(&list, &AdminOptions::new()), topic).unwrap();
    assert!(deleted.elements().iter().all(|element| element.error().is_ok()), "{deleted:?}");
}

/// A topic of two partitions with a hundred records in each, of which the group committed 60 of the first.
fn topic_with_commit(broker: &str, name: &str) -> (KafkaSettings, String) {
    let topic = unique(name);
    let settings = topic_settings(broker, &topic);
    make_topic(&settings, &topic, 2);
    produce(&settings, &topic, (0..200).map(|i| (i % 2, (i / 2).to_string())));
    let source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    let commit =
        |partition| Commit { topic: topic.as_str().into(), partition, next_offset: 60, metadata: String::new() };
    source.committer().commit(&[commit(0), commit(1)]).unwrap();
    (settings, topic)
}

#[test]
fn what_was_dealt_with_may_be_gone_and_reading_goes_on() {
    let Some(broker) = broker("what_was_dealt_with_may_be_gone") else { return };
    // name; where partition 0 is read again from; what is removed of it; the first record that comes, how many are missing
    let rows: &[(&str, Option<u64>, u64, u64, u64)] = &[
        ("nothing", Some(20), 0, 20, 0),
        ("what is before it", Some(20), 20, 20, 0),
        ("a part of what is read again", Some(20), 45, 45, 25),
        ("all of what is read again", Some(20), 60, 60, 40),
        ("what was only looked at", None, 50, 60, 0),
    ];
    for (name, again, removed, first, missing) in rows {
        let (settings, topic) = topic_with_commit(&broker, "lookback");
        let mut source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
        let id = partition_id(0, &topic, 0);
        source.read_again(&again.iter().map(|from| (id, *from)).collect(), "dark-paths");
        if *removed > 0 {
            delete_records(&broker, &topic, &[(0, *removed)]);
        }
        let status = source.status();
        let feed = feed();
        let mut engine = Engine::new(&feed);
        let thread = source.spawn(feed.clone()).unwrap();
        let one = format!("{topic}/0");
        let wanted = usize::try_from(100 - first).unwrap();
        engine.until(name, |e| e.by_name(&one).len() == wanted && e.caught_up.len() == 2);
        let offsets: Vec<u64> = engine.by_name(&one).iter().map(|seen| seen.offset).collect();
        assert_eq!(offsets, (*first..100).collect::<Vec<_>>(), "{name}: each once, in order");
        assert_eq!(engine.by_name(&format!("{topic}/1")).len(), 40, "{name}: the other partition");
        let counted: Vec<u64> = status.snapshot().iter().map(|p| p.missing).collect();
        assert_eq!(counted.iter().sum::<u64>(), *missing, "{name}: counted");
        // It goes on as any other.
        produce(&settings, &topic, [(0, "later".to_owned())]);
        engine.until(name, |e| e.by_name(&one).last().is_some_and(|seen| seen.value == b"later"));
        feed.stop();
        thread.join().unwrap();
    }
}

#[test]
fn what_nobody_dealt_with_must_not_be_gone() {
    let Some(broker) = broker("what_nobody_dealt_with") else { return };
    for (name, again, removed) in [("read again", Some(20), 61), ("not read again", None, 70)] {
        let (settings, topic) = topic_with_commit(&broker, "loss");
        let mut source = KafkaSource::connect(settings, ProcessShare::WHOLE, 0).unwrap();
        let id = partition_id(0, &topic, 0);
        source.read_again(&again.iter().map(|from| (id, *from)).collect(), "dark-paths");
        delete_records(&broker, &topic, &[(0, removed)]);
        let feed = feed();
        let mut engine = Engine::new(&feed);
        let thread = source.spawn(feed.clone()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        while engine.failed.is_none() {
            assert!(Instant::now() < deadline, "{name}: not said");
            engine.step();
            std::thread::sleep(Duration::from_millis(10));
        }
        let failed = engine.failed.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(failed.contains(&format!("{topic}/0")) && failed.contains("no longer in the log"), "{name}: {failed}");
        assert!(engine.by_name(&format!("{topic}/0")).is_empty(), "{name}: nothing behind the gap is read");
        feed.stop();
        thread.join().unwrap();
    }
}
