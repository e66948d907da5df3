//! Topics and partitions that appear and go, and those that `setup` makes.

use crate::support::{Engine, admin, answer, broker, feed, make_topic, plan, produce, topic_settings, unique};
use rdkafka::admin::AdminOptions;
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::*;
use tidewatch_connectors::source::SourceError;

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
    let deleted = answer(admin(broker).delete_topics(&[name], &AdminOptions::new()), name);
    assert!(deleted.unwrap().iter().all(Result::is_ok));
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
    assert!(status.snapshot()[0].is_connected());

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
