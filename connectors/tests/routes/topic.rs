//! Alerts as records of a topic.
//!
//! Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` names a broker.

use super::receivers::wait;
use super::{HOSTILE, alert, fired};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::{KafkaSettings, TopicPlan, check, setup};
use tidewatch_connectors::route::topic::ToTopic;
use tidewatch_connectors::route::{Body, Channel as _, Item, Message, Notice, SendError, What};
use tidewatch_events::alert::{Alert, AlertState};

/// Keys and values of the first records of a topic's only partition, by a client of its own.
fn records(broker: &str, topic: &str, count: usize) -> Vec<(Option<String>, serde_json::Value)> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", broker).set("group.id", topic).create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut all = Vec::new();
    while all.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came: {all:?}", all.len());
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            let record = record.unwrap();
            let key = record.key().map(|key| String::from_utf8(key.to_vec()).unwrap());
            all.push((key, serde_json::from_slice(record.payload().unwrap()).unwrap()));
        }
    }
    assert!(consumer.poll(Duration::from_millis(500)).is_none(), "there are more than {count}");
    all
}

#[test]
fn a_topic_gets_a_record_an_alert_by_its_key() {
    let Some(broker) = std::env::var("TIDEWATCH_TEST_KAFKA").ok().filter(|broker| !broker.is_empty()) else {
        eprintln!("SKIPPED: a_topic_gets_a_record_an_alert_by_its_key: TIDEWATCH_TEST_KAFKA names no broker");
        return;
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let topic = format!("test-route-{now}-{}", std::process::id());
    let settings = KafkaSettings::for_topic(&broker, &topic).unwrap();
    let to_topic = |within: Duration| {
        let runbooks = BTreeMap::from([("ip-spike".to_owned(), "https://wiki/x".to_owned())]);
        ToTopic::new(settings.clone(), &broker, &topic, within, runbooks)
    };
    // A topic that is not there is made by a person; nothing is sent until then.
    match to_topic(Duration::from_secs(3)).send(&fired("b-0", "10.0.0.9")) {
        Err(SendError::Away { words, .. }) => assert!(words.contains(&topic), "{words}"),
        other => panic!("{other:?}"),
    }
    let plan = TopicPlan { name: topic.clone(), partitions: 1, retention_ms: None, replication: None, compact: false };
    setup(&settings, &[plan]).unwrap();
    wait("the topic", || check(&settings).ok());
    let mut route = to_topic(Duration::from_secs(10));
    assert_eq!(route.probe().unwrap(), format!("topic {topic} at {broker} is there"));
    route.send(&fired("b-1", HOSTILE)).unwrap();
    let items = vec![Item { what: What::Resolved, alert: alert("10.0.0.9", AlertState::Resolved) }];
    let notice = Notice { items, notes: vec!["Held back.".into()], ..Notice::default() };
    route.send(&Message { id: "b-2".into(), at: 0, body: Body::Alerts(notice) }).unwrap();
    let all = records(&broker, &topic, 3);
    let keys: Vec<Option<&str>> = all.iter().map(|(key, _)| key.as_deref()).collect();
    let (hostile, plain) = (alert(HOSTILE, AlertState::Firing), alert("10.0.0.9", AlertState::Resolved));
    assert_eq!(keys, [Some(hostile.key.as_str()), Some(&plain.key), Some("b-2")]);
    assert_eq!(serde_json::from_value::<Alert>(all[0].1.clone()).unwrap(), hostile);
    let seen = (&all[0].1["event"], &all[0].1["notification"], &all[0].1["runbook"]);
    assert_eq!(seen, (&"fired".into(), &"b-1".into(), &"https://wiki/x".into()));
    assert_eq!((&all[1].1["event"], &all[1].1["state"]), (&"resolved".into(), &"resolved".into()));
    assert_eq!((&all[2].1["event"], &all[2].1["note"]), (&"note".into(), &"Held back.".into()));
    // One record of a message is too large: the others are there.
    let large = Alert { evidence: vec!["x".repeat(2 << 20)], ..alert("10.0.0.1", AlertState::Firing) };
    let items = [large, alert("10.0.0.22", AlertState::Firing)];
    let items = items.map(|alert| Item { what: What::Fired, alert }).into();
    let notice = Notice { items, ..Notice::default() };
    let sent = route.send(&Message { id: "b-3".into(), at: 0, body: Body::Alerts(notice) });
    assert!(matches!(sent, Err(SendError::Rejected(_))), "{sent:?}");
    assert_eq!(records(&broker, &topic, 4)[3].1["subject"]["client_ip"], "10.0.0.22");
}
