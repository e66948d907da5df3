//! What `run` commits to its consumer group from the start on, and what it does where another run commits to it too.
//!
//! Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` names a broker; `scripts/kafka-up` starts one.
#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::{KafkaSettings, KafkaSource, LineProducer, ProcessShare, ProducerSettings};
use tidewatch_e2e::process::{Running, Signal, tidewatch};
use tidewatch_e2e::servers::{Topics, kafka, kafka_tool, unique};
use tidewatch_e2e::shipping::create_topic;
use tidewatch_events::time::EventTime;
use tidewatch_reference::{FieldValue, Point};

/// 2026-03-05T10:00:00Z, ms.
const START: u64 = 1_772_704_800_000;

/// Lines of a second.
const PER_SECOND: u64 = 3;

/// A topic, and the directory of the runs that read it.
struct Scenario {
    topics: Topics,
    dir: tempfile::TempDir,
}

impl Scenario {
    fn new(test: &str) -> Option<Scenario> {
        let topics = Topics { broker: kafka(test)?, names: vec![unique("groups")] };
        create_topic(&topics.broker, &topics.names[0]);
        Some(Scenario { topics, dir: tempfile::tempdir().unwrap() })
    }

    fn topic(&self) -> &str {
        &self.topics.names[0]
    }

    /// A configuration of a run that has a directory of its own and shares topic and group with the others.
    fn config(&self, name: &str, more: &str) -> PathBuf {
        let (at, topic, broker) = (self.dir.path().join(name), self.topic(), &self.topics.broker);
        let text = format!(
            "data_dir = {at:?}\n[[source]]\nkind = \"kafka\"\nbrokers = \"{broker}\"\ntopics = [\"{topic}\"]\n\
             group = \"{topic}\"\nstart = \"latest\"\nformat = \"nginx-json\"\n[time]\nmax_out_of_order = \"5s\"\n\
             allowed_lateness = \"5s\"\nidle_after = \"1h\"\nmax_ahead = \"10s\"\n[sink.files]\ndir = {:?}\n{more}",
            at.join("out")
        );
        let path = self.dir.path().join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn start(&self, config: &Path, log: &str) -> Running {
        Running::start(&["run", "-c", &config.display().to_string()], self.dir.path().join(log))
    }

    /// Writes what happens in some seconds, to all three partitions.
    fn write(&self, seconds: Range<u64>) {
        let settings = KafkaSettings::for_topic(&self.topics.broker, self.topic()).unwrap();
        let mut producer = LineProducer::connect(&settings, self.topic(), &ProducerSettings::default()).unwrap();
        for (second, partition) in seconds.flat_map(|second| (0..PER_SECOND).map(move |n| (second, n as i32))) {
            let time = EventTime(START + second * 1000).to_string();
            let line = format!(
                r#"{{"time_iso8601":"{time}","host":"web1","server_port":443,"remote_addr":"198.51.100.7","request":"GET / HTTP/1.1","status":200,"body_bytes_sent":7,"request_time":0.002}}"#
            );
            let at = Some(START + second * 1000);
            producer.send(None, None, line.as_bytes(), at, Some(partition)).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    }

    /// What the group holds of each partition: the offset and its text.
    fn committed(&self) -> Vec<(Option<u64>, String)> {
        let settings = KafkaSettings::for_topic(&self.topics.broker, self.topic()).unwrap();
        let settings = settings.with_group(self.topic()).unwrap();
        let source = KafkaSource::connect(settings, ProcessShare::WHOLE, 0).unwrap();
        let keys: Vec<_> = (0..3).map(|partition| (self.topic().into(), partition)).collect();
        let committed = source.committer().committed(&keys, Duration::from_secs(60)).unwrap();
        committed.into_iter().map(|at| (at.next_offset, at.metadata)).collect()
    }

    /// Waits until all partitions are committed by such a cluster; their offsets and its life.
    fn held(&self, cluster: &str, later_than: u64, run: &Running) -> (Vec<u64>, u64) {
        let mut held = None;
        until("the group is held", run, || {
            let committed = self.committed();
            let life = |text: &str| text.rsplit_once(&format!(" cluster={cluster} life="))?.1.parse::<u64>().ok();
            let lives: Option<Vec<u64>> = committed.iter().map(|(_, text)| life(text)).collect();
            let offsets: Option<Vec<u64>> = committed.iter().map(|(offset, _)| *offset).collect();
            let lives = lives.filter(|lives| lives[0] > later_than && lives.iter().all(|life| *life == lives[0]));
            held = offsets.zip(lives.map(|lives| lives[0]));
            held.is_some()
        });
        held.unwrap()
    }

    /// The requests that the last version of the first window has counted.
    fn first_window(&self, name: &str) -> i64 {
        let metrics = std::fs::read_to_string(self.dir.path().join(name).join("out/metrics.lp")).unwrap_or_default();
        // The last line may be half written.
        let metrics = metrics.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = metrics.lines().filter(|line| line.starts_with("http_stats,"));
        let mut points = lines.map(|line| Point::parse(line).unwrap());
        let last = points.rfind(|point| point.time == START);
        match last.and_then(|point| point.fields.get("requests").cloned()) {
            Some(FieldValue::Int(requests)) => requests,
            _ => 0,
        }
    }
}

fn until(what: &str, run: &Running, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(90), "{what}: {}", run.said());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_life_that_was_killed_before_a_window_closed_goes_on_where_it_began() {
    let test = "a_life_that_was_killed_before_a_window_closed_goes_on_where_it_began";
    let Some(scenario) = Scenario::new(test) else { return };
    let config = scenario.config("run", "");
    scenario.write(0..2);

    let first = scenario.start(&config, "first.log");
    let (begun, life) = scenario.held("tidewatch", 0, &first);
    assert_eq!(begun, [2; 3], "the end, as `start` says");
    scenario.write(0..5);
    until("the first lines are read", &first, || scenario.first_window("run") == 15);
    // Killed.
    drop(first);
    let offsets: Vec<Option<u64>> = scenario.committed().into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [Some(2); 3], "no window had closed");
    scenario.write(5..10);

    let mut second = scenario.start(&config, "second.log");
    let (begun, _) = scenario.held("tidewatch", life, &second);
    assert_eq!(begun, [2; 3], "where the life before began");
    scenario.write(10..60);
    let moved = |offsets: &[u64]| offsets.iter().all(|offset| *offset > 2);
    until("windows close", &second, || moved(&scenario.held("tidewatch", life, &second).0));
    assert_eq!(scenario.first_window("run"), 30, "nothing is missing, nothing counted twice: {}", second.said());
    second.signal(Signal::TERM);
    assert_eq!(second.wait(Duration::from_secs(60)).0, 0, "{}", second.said());
}

#[test]
fn two_runs_with_one_group_do_not_take_each_others_records() {
    let Some(scenario) = Scenario::new("two_runs_with_one_group_do_not_take_each_others_records") else { return };
    let one = scenario.config("one", "");
    let two = scenario.config("two", "");
    let other = scenario.config("other", "[cluster]\nid = \"other\"\n");

    let mut first = scenario.start(&one, "one.log");
    let (_, life) = scenario.held("tidewatch", 0, &first);
    let mut second = scenario.start(&two, "two.log");
    let (_, life) = scenario.held("tidewatch", life, &second);
    assert_eq!(first.wait(Duration::from_secs(60)).0, 75, "{}", first.said());
    let words = format!("commits to group `{}`: this one ends", scenario.topic());
    assert!(first.said().contains("another run of cluster `tidewatch`, begun at 20"), "{}", first.said());
    assert!(first.said().contains(&words), "{}", first.said());

    // A supervisor starts it again: then it is the later one.
    let mut first = scenario.start(&one, "one-again.log");
    scenario.held("tidewatch", life, &first);
    assert_eq!(second.wait(Duration::from_secs(60)).0, 75, "{}", second.said());

    let refused = tidewatch(&["run", "-c", &other.display().to_string()], &[]);
    assert_eq!(refused.code, Some(3), "{refused:#?}");
    let words =
        format!("the offsets of group `{}` are of cluster `tidewatch`, and this is cluster `other`", scenario.topic());
    assert!(refused.err.contains(&words), "{refused:#?}");
    assert_eq!(first.ended(), None, "{}", first.said());
    first.signal(Signal::TERM);
    assert_eq!(first.wait(Duration::from_secs(60)).0, 0, "{}", first.said());

    // As the message says.
    let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let args = ["--all-topics", "--reset-offsets", "--to-current", "--execute"];
    let names: [&str; 4] = ["--bootstrap-server", &scenario.topics.broker, "--group", scenario.topic()];
    let before: Vec<_> = scenario.committed().into_iter().map(|(offset, _)| (offset, String::new())).collect();
    let said = kafka_tool(class, &[&names[..], &args[..]].concat());
    assert_eq!((said.code, scenario.committed()), (Some(0), before), "{said:#?}");
    let third = scenario.start(&other, "other.log");
    scenario.held("other", 0, &third);
    let refused = tidewatch(&["run", "-c", &one.display().to_string()], &[]);
    assert_eq!(refused.code, Some(3), "{refused:#?}");
}
