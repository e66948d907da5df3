//! A topic is captured: a replay of the capture is a replay of the topic, and rules tried on it come as far.
//!
//! Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` names a broker; `scripts/kafka-up` starts one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::{KafkaSettings, LineProducer, ProducerSettings, RecordProducer, ShippedRecord};
use tidewatch_e2e::process::{Running, Signal, tidewatch, tidewatch_ok};
use tidewatch_e2e::servers::{Topics, describe_group, kafka, kafka_tool, unique};
use tidewatch_e2e::until;
use tidewatch_events::time::EventTime;

/// 2026-03-05T10:00:00Z, ms.
const START: u64 = 1_772_704_800_000;

const PARTITIONS: i32 = 4;

struct Scenario {
    topics: Topics,
    dir: tempfile::TempDir,
    /// The lines of each partition, as they are exported.
    lines: BTreeMap<i32, Vec<Vec<u8>>>,
}

impl Scenario {
    fn new(test: &str) -> Option<Scenario> {
        let topics = Topics { broker: kafka(test)?, names: vec![unique("captures")] };
        let class = "org.apache.kafka.tools.TopicCommand";
        let made =
            ["--create", "--topic", &topics.names[0], "--partitions", &PARTITIONS.to_string()].map(str::to_owned);
        let args = [&["--bootstrap-server".to_owned(), topics.broker.clone()][..], &made].concat();
        let said = kafka_tool(class, &args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(said.code, Some(0), "{said:#?}");
        let scenario = Scenario { topics, dir: tempfile::tempdir().unwrap(), lines: BTreeMap::new() };
        let text = format!(
            "[[source]]\nname = \"shop\"\nkind = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"{}\"]\ngroup = \"{1}\"\n\
             format = \"nginx-json\"\n[time]\nmax_out_of_order = \"5s\"\nallowed_lateness = \"30s\"\nmax_ahead = \"20s\"\n\
             [[rule]]\nname = \"ip-spike\"\nthreshold = 20\n",
            scenario.topics.broker,
            scenario.topic()
        );
        std::fs::write(scenario.at("c.toml"), text).unwrap();
        Some(scenario)
    }

    fn topic(&self) -> &str {
        &self.topics.names[0]
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn settings(&self) -> KafkaSettings {
        KafkaSettings::for_topic(&self.topics.broker, self.topic()).unwrap()
    }

    /// Writes ten minutes of requests, with an attack, lines that are none, late and future ones, secrets, and some that the host
    /// agent sent twice.
    fn write(&mut self) {
        let mut producer = LineProducer::connect(&self.settings(), self.topic(), &ProducerSettings::default()).unwrap();
        for second in 0..600 {
            for partition in 0..PARTITIONS {
                let at = START + second * 1000 + partition as u64 * 7;
                let host = ["web1", "web2"][partition as usize % 2];
                let mut send = |time: u64, client: &str, path: &str, host: Option<&str>| {
                    let line = request(time, client, path);
                    producer.send(None, host, line.as_bytes(), Some(at), Some(partition)).unwrap();
                    let kept = line.trim_end().replace("s3cret", "***").into_bytes();
                    self.lines.entry(partition).or_default().push(kept);
                };
                send(at, &format!("198.51.100.{}", second % 50), "/", Some(host));
                send(at, "203.0.113.9", "/a?token=s3cret&b=1", None);
                match second {
                    100..=110 => (0..4).for_each(|n| send(at, "192.0.2.66", &format!("/{n}"), Some(host))),
                    200 => send(at - 90_000, "198.51.100.1", "/late", None),
                    // Beyond its record, and confirmed by the next.
                    300 => (0..3).for_each(|_| send(at + 3_600_000, "198.51.100.1", "/future", None)),
                    _ => {}
                }
                if second % 97 == 5 {
                    for line in [&b"no request"[..], b"\xff\xfe", b"", b"two\nlines"] {
                        producer.send(Some(b"key"), None, line, Some(at), Some(partition)).unwrap();
                        self.lines.entry(partition).or_default().push(line.to_vec());
                    }
                }
            }
        }
        producer.flush(Duration::from_secs(60)).unwrap();
        let mut agent = RecordProducer::new(&self.settings(), self.topic(), &ProducerSettings::default()).unwrap();
        for n in 0..40u64 {
            // The last ten again.
            let n = if n < 30 { n } else { n - 10 };
            let (line, at) = (request(START + 590_000, "198.51.100.3", &format!("/agent/{n}")), START + 590_000);
            let record = ShippedRecord {
                topic: self.topic(),
                key: b"web3",
                host: "web3",
                file: "/a.log",
                stream: 7,
                place: n * 10..n * 10 + 10,
                line: line.as_bytes(),
                timestamp: at,
            };
            agent.send(&record, n as usize);
        }
        let mut acknowledged = 0;
        until("the agent's records", Duration::from_secs(60), || {
            acknowledged += agent.outcomes(Duration::from_millis(100)).len();
            (acknowledged == 40).then_some(())
        });
    }

    fn capture(&self, name: &str, more: &[&str]) -> String {
        let (config, out) = (self.at("c.toml"), self.at(name));
        let args = ["capture", "-c", &config, "--topic", self.topic(), "--out", &out];
        tidewatch_ok(&[&args[..], more].concat(), &[]).out
    }

    /// The files of a replay with so many workers.
    fn replay(&self, from: &[&str], workers: &str) -> BTreeMap<String, Vec<u8>> {
        let out = self.at(&unique("out"));
        let config = self.at("c.toml");
        let args = ["replay", "-c", &config, "--out", &out, "-w", workers, "--from"];
        tidewatch_ok(&[&args[..], from].concat(), &[]);
        let files = ["metrics.lp", "alerts.jsonl", "rejected.jsonl", "late.jsonl"];
        files.iter().map(|file| ((*file).to_owned(), std::fs::read(Path::new(&out).join(file)).unwrap())).collect()
    }

    fn of_topic(&self, range: &str) -> String {
        format!("kafka://{}/{}{range}", self.topics.broker, self.topic())
    }
}

fn request(time: u64, client: &str, path: &str) -> String {
    let time = EventTime(time);
    format!(
        "{{\"time_iso8601\":\"{time}\",\"server_port\":443,\"remote_addr\":\"{client}\",\"request\":\"GET {path} HTTP/1.1\",\
         \"status\":200,\"body_bytes_sent\":7,\"request_time\":0.002}}\r\n"
    )
}

fn assert_same(one: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>, what: &str) {
    for (name, bytes) in one {
        let lines = |bytes: &[u8]| bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (wanted, found) = (lines(bytes), lines(&other[name]));
        let at = wanted.iter().zip(&found).take_while(|(one, other)| one == other).count();
        let line =
            |lines: &[Vec<u8>]| String::from_utf8_lossy(lines.get(at).map_or(&b""[..], |line| line)).into_owned();
        assert!(wanted == found, "{what}: {name} differs in line {}:\n{}\n{}", at + 1, line(&wanted), line(&found));
    }
}

#[test]
fn a_replay_of_a_capture_is_a_replay_of_its_topic() {
    let Some(mut scenario) = Scenario::new("a_replay_of_a_capture_is_a_replay_of_its_topic") else { return };
    scenario.write();
    let said = scenario.capture("whole", &[]);
    let groups = describe_group(&scenario.topics.broker, scenario.topic());
    assert!(groups.values().all(|line| line.committed.is_none()), "nothing is committed: {groups:?}");
    let whole = scenario.at("whole");
    let topic = scenario.replay(&[&scenario.of_topic("")], "1");
    assert!(
        topic.values().all(|file| !file.is_empty()),
        "{:?}",
        topic.iter().map(|(n, f)| (n, f.len())).collect::<Vec<_>>()
    );
    let alerts = String::from_utf8_lossy(&topic["alerts.jsonl"]).into_owned();
    assert!(alerts.contains("192.0.2.66") && alerts.contains("\"evidence\":[\"{"), "{alerts}");
    for workers in ["1", "2"] {
        assert_same(&topic, &scenario.replay(&[&whole], workers), &format!("a capture, -w {workers}"));
        assert_same(&topic, &scenario.replay(&[&scenario.of_topic("")], workers), &format!("the topic, -w {workers}"));
    }
    let records = 600 * 4 * 2 + 11 * 4 * 4 + 4 + 12 + 7 * 4 * 4 + 30;
    let info = tidewatch_ok(&["capture", "info", &whole, "--json"], &[]).out;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let all = info["partitions"].as_array().unwrap();
    let count: u64 = all.iter().filter_map(|partition| partition["records"].as_u64()).sum();
    assert_eq!((all.len(), count), (4, records), "{said}");
    assert!(info["about"]["cluster"].is_string(), "{info}");

    // Two parts are the whole, and each is a part of the topic.
    let middle = EventTime(START + 250_000).to_string();
    scenario.capture("first", &["--until", &middle]);
    scenario.capture("second", &["--from", &middle]);
    let (first, second) = (scenario.at("first"), scenario.at("second"));
    assert_same(&topic, &scenario.replay(&[&second, &first], "2"), "two captures");
    let part = scenario.replay(&[&scenario.of_topic(&format!("@..{middle}"))], "1");
    assert_same(&part, &scenario.replay(&[&first], "2"), "a part");
    assert!(part["metrics.lp"].len() < topic["metrics.lp"].len());

    // The lines.
    for (partition, lines) in &scenario.lines {
        let number = partition.to_string();
        let to = scenario.at(&format!("{partition}.log"));
        tidewatch_ok(&["capture", "export", &whole, "--partition", &number, "--to", &to], &[]);
        let exported = std::fs::read(&to).unwrap();
        // The agent's lines follow.
        let want = lines.join(&b"\n"[..]);
        assert!(exported.starts_with(&want), "partition {partition}");
    }
    let all = tidewatch_ok(&["capture", "export", &first, "--to", &scenario.at("all.log")], &[]);
    assert_eq!(all.out, "");
    let exported = std::fs::read(scenario.at("all.log")).unwrap();
    assert!(!exported.windows(6).any(|part| part == b"s3cret"));

    // A byte.
    assert!(tidewatch_ok(&["capture", "verify", &whole], &[]).out.contains("is as it was captured"));
    let path = Path::new(&whole).join("partition-2.zst");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let (config, out) = (scenario.at("c.toml"), scenario.at("damaged"));
    for args in [&["capture", "verify", &whole][..], &["replay", "-c", &config, "--from", &whole, "--out", &out]] {
        let said = tidewatch(args, &[]);
        assert_eq!(said.code, Some(1), "{said:#?}");
        assert!(said.err.contains("partition-2.zst is damaged at byte "), "{said:#?}");
    }
    assert!(!Path::new(&out).join("metrics.lp").exists(), "no results of half a capture");
}

#[test]
fn rules_are_tried_on_a_topic_as_on_its_capture() {
    let Some(mut scenario) = Scenario::new("rules_are_tried_on_a_topic_as_on_its_capture") else { return };
    scenario.write();
    scenario.capture("whole", &[]);
    let (config, whole, middle) = (scenario.at("c.toml"), scenario.at("whole"), EventTime(START + 150_000));
    let tried = |from: &str, workers: &str| {
        let args = ["rules", "test", "-c", &config, "--json", "--rule", "ip-spike", "-w", workers, "--from", from];
        tidewatch_ok(&args, &[]).out
    };
    let topic = tried(&scenario.of_topic(""), "1");
    for workers in ["1", "2"] {
        assert_eq!(topic, tried(&whole, workers), "-w {workers}");
    }
    assert_eq!(topic, tried(&scenario.of_topic(""), "2"));
    let figures: serde_json::Value = serde_json::from_str(&topic).unwrap();
    assert_eq!(figures["rule"], "ip-spike", "{topic}");
    // The attack, the client that is always there, and the burst of the agent.
    assert_eq!(figures["alerts"], 3, "{topic}");
    assert_eq!(figures["closest"]["subject"]["client_ip"], "192.0.2.66", "{topic}");
    // A part without the attack.
    let part = tried(&scenario.of_topic(&format!("@{middle}..")), "1");
    let figures: serde_json::Value = serde_json::from_str(&part).unwrap();
    assert_eq!(figures["alerts"], 2, "{part}");
    let groups = describe_group(&scenario.topics.broker, scenario.topic());
    assert!(groups.values().all(|line| line.committed.is_none()), "nothing is committed: {groups:?}");
}

#[test]
fn a_capture_that_is_interrupted_or_killed_is_none() {
    let Some(scenario) = Scenario::new("a_capture_that_is_interrupted_or_killed_is_none") else { return };
    let mut producer =
        LineProducer::connect(&scenario.settings(), scenario.topic(), &ProducerSettings::default()).unwrap();
    let filler = "x".repeat(2000);
    for n in 0..60_000u64 {
        let line = request(START + n, "198.51.100.1", &format!("/{n}/{filler}"));
        producer.send(None, None, line.as_bytes(), Some(START + n), Some((n % 4) as i32)).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    let config = scenario.at("c.toml");
    for (name, signal, code) in [("interrupted", Signal::INT, 130), ("killed", Signal::KILL, -1)] {
        let out = scenario.at(name);
        let args = ["capture", "-c", &config, "--topic", scenario.topic(), "--out", &out];
        let mut running = Running::start(&args, scenario.dir.path().join(format!("{name}.log")));
        let deadline = Instant::now() + Duration::from_secs(60);
        // As soon as something was written.
        while std::fs::metadata(Path::new(&out).join("partition-0.zst")).map_or(0, |meta| meta.len()) < 1000 {
            assert!(Instant::now() < deadline && running.ended().is_none(), "{}", running.said());
        }
        running.signal(signal);
        let (ended, _) = running.wait(Duration::from_secs(60));
        assert_eq!(ended, code, "{name}: {}", running.said());
        assert_eq!(Path::new(&out).exists(), name == "killed", "{name}");
    }
    let (killed, out) = (scenario.at("killed"), scenario.at("out"));
    let rows: [(&[&str], i32); 4] = [
        (&["capture", "verify", &killed], 1),
        (&["capture", "info", &killed], 2),
        (&["replay", "-c", &config, "--from", &killed, "--out", &out], 2),
        (&["capture", "-c", &config, "--topic", scenario.topic(), "--out", &killed], 2),
    ];
    for (args, code) in rows {
        let said = tidewatch(args, &[]);
        assert_eq!(said.code, Some(code), "{said:#?}");
        assert!(said.err.contains("an unfinished capture"), "{said:#?}");
    }
}
