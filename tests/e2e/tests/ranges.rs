//! `replay` of topics, also beside files: what it writes equals the reference model over the records that lie there, at any
//! `-w` and `-n`, and the alerts of `run`.
//!
//! Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` names a broker; `scripts/kafka-up` starts one.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidewatch_e2e::expected::{self, Expected, compare, dead_letters, last_alerts};
use tidewatch_e2e::process::{Cluster, Running, free_ports, tidewatch, tidewatch_ok};
use tidewatch_e2e::servers::{Topics, kafka, unique};
use tidewatch_e2e::{traffic, until};
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::time::EventTime;
use tidewatch_reference::compare_points;

/// 2026-03-05T10:00:00Z, ms.
const START: u64 = 1_772_704_800_000;
/// Event time of the first and of the second part, seconds.
const FIRST: u64 = 900;
const SECOND: u64 = 600;

/// The files of a replay that are the same at any `-w` and `-n`.
const FILES: [&str; 4] = ["metrics.lp", "alerts.jsonl", "rejected.jsonl", "late.jsonl"];

struct Scenario {
    dir: tempfile::TempDir,
    topics: Topics,
    config: PathBuf,
    text: String,
}

impl Scenario {
    /// A topic of four partitions: one an hour ahead, two that end early, attacks, disorder, lines hours late, from the
    /// future, and none at all.
    fn new(test: &str) -> Option<Scenario> {
        let broker = kafka(test)?;
        let dir = tempfile::tempdir().unwrap();
        let topic = unique("range");
        let topics = Topics { broker, names: vec![topic.clone()] };
        let text = format!(
            r#"
data_dir = "{dir}/data"
[[source]]
kind = "kafka"
name = "access"
brokers = "{broker}"
topics = ["{topic}"]
group = "{topic}"
format = "nginx-json"
partitions = 4
retention = "3650d"
[time]
max_out_of_order = "5s"
allowed_lateness = "1m"
idle_after = "1s"
max_ahead = "1m"
[sink.files]
dir = "{dir}/live"
[store]
enabled = false
"#,
            dir = dir.path().display(),
            broker = topics.broker,
        );
        let config = dir.path().join("tidewatch.toml");
        std::fs::write(&config, &text).unwrap();
        tidewatch_ok(&["setup", "kafka", "-c", &config.display().to_string()], &[]);
        let scenario = Scenario { dir, topics, config, text };
        let attacks =
            ["ip-spike:2m:1m", "error-surge:4m:3m:host=web2", "path-scan:5m:4m", "dark-paths:3m:10m:clients=8"];
        let mut more = vec!["--hosts", "4", "--seed", "7", "--disorder", "80s", "--skew", "3:+1h"];
        attacks.iter().for_each(|attack| more.extend(["--attack", attack]));
        traffic::generate(&scenario.url(""), START, 50_000, FIRST, &more);
        let now = START + FIRST * 1000;
        traffic::produce(&scenario.topics.broker, &topic, now, &traffic::strange_lines(now));
        // Only hosts web1 and web2: partitions 2 and 3 have ended.
        let more = ["--hosts", "2", "--seed", "8", "--disorder", "80s", "--attack", "ip-spike:5m:30s"];
        traffic::generate(&scenario.url(""), now, 30_000, SECOND, &more);
        Some(scenario)
    }

    fn url(&self, range: &str) -> String {
        format!("kafka://{}/{}{range}", self.topics.broker, self.topics.names[0])
    }

    /// Replays a range with so many workers; where the results are.
    fn replay(&self, range: &str, workers: &str) -> PathBuf {
        self.replay_of(&[&self.url(range)], workers)
    }

    fn replay_of(&self, from: &[&str], workers: &str) -> PathBuf {
        let out = self.dir.path().join(unique("out"));
        let (config, to) = (self.config.display().to_string(), out.display().to_string());
        let args = ["replay", "-c", &config, "--out", &to, "-w", workers, "--from"];
        tidewatch_ok(&[&args[..], from].concat(), &[]);
        out
    }

    /// The same with two processes.
    fn replay_by_two(&self, range: &str) -> PathBuf {
        let (out, hosts) = (self.dir.path().join(unique("out")), self.dir.path().join("hosts"));
        let addresses: String = free_ports(2).iter().map(|port| format!("127.0.0.1:{port}\n")).collect();
        std::fs::write(&hosts, addresses).unwrap();
        let (config, from) = (self.config.display().to_string(), self.url(range));
        let (to, hosts) = (out.display().to_string(), hosts.display().to_string());
        let start = |index: &str| {
            let args = ["replay", "-c", &config, "--from", &from, "--out", &to, "-n", "2", "-p", index, "-h", &hosts];
            Running::start(&args, self.dir.path().join(format!("replay-{index}.log")))
        };
        let mut both = ["0", "1"].map(start);
        for process in &mut both {
            let (code, _) = process.wait(Duration::from_secs(120));
            assert_eq!(code, 0, "{}", process.said());
        }
        out
    }
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_default()
}

/// `summary.json` without the fields that the wall clock decides.
fn summary(dir: &Path) -> serde_json::Value {
    let mut summary: serde_json::Value = serde_json::from_str(&read(dir, "summary.json")).unwrap();
    for field in ["wall_seconds", "events_per_second"] {
        assert!(summary.as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    summary
}

fn same_bytes(one: &Path, other: &Path, what: &str) {
    for name in FILES {
        assert!(read(one, name) == read(other, name), "{what}: {name} differs");
    }
    assert_eq!(summary(one), summary(other), "{what}");
}

fn equals_the_model(dir: &Path, expected: &Expected, what: &str) {
    let results = &expected.results;
    compare_points(&results.points, &read(dir, "metrics.lp")).unwrap_or_else(|e| panic!("{what}: {e}"));
    let alerts = last_alerts(&read(dir, "alerts.jsonl"));
    compare(&expected.alerts_of_replay(), &alerts).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(expected.rejected, dead_letters(&read(dir, "rejected.jsonl")), "{what}");
    assert_eq!(expected.late, dead_letters(&read(dir, "late.jsonl")), "{what}");
    let summary = summary(dir);
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!((count("lines"), count("events")), (expected.lines, results.events), "{what}");
    assert_eq!((count("late"), count("future")), (results.late, results.future), "{what}");
}

#[test]
fn a_replayed_topic_equals_the_model_and_the_live_run() {
    let Some(scenario) = Scenario::new("a_replayed_topic_equals_the_model_and_the_live_run") else { return };
    let config = expected::config(&scenario.text);
    let whole = scenario.replay("", "1");
    let expected = Expected::of(&config);
    let kinds: BTreeSet<&str> = expected.results.alerts.iter().map(|a| a.alert.rule.as_str()).collect();
    for rule in ["ip-spike", "error-surge", "path-scan", "dark-paths"] {
        assert!(kinds.contains(rule), "no alert of {rule} is in the input");
    }
    assert!(expected.results.late >= 80 && expected.results.future == 4 * 22 && expected.rejected.len() == 20);
    equals_the_model(&whole, &expected, "the whole topic");
    let first = read(&whole, "rejected.jsonl");
    let first: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert_eq!(first["source"], "access", "{first}");
    for workers in ["2", "3"] {
        same_bytes(&whole, &scenario.replay("", workers), &format!("-w {workers}"));
    }
    same_bytes(&whole, &scenario.replay_by_two(""), "-n 2");

    // Ranges by time, and by offsets.
    let ms = |seconds: u64| START + seconds * 1000;
    for (from, until) in [(Some(ms(240)), Some(ms(600))), (None, Some(ms(500))), (Some(ms(FIRST - 60)), None)] {
        let shown = |time: Option<u64>| time.map_or(String::new(), |time| EventTime(time).to_string());
        let range = format!("@{}..{}", shown(from), shown(until));
        let part = expected::between(expected::read(&config), from.unwrap_or(0), until.unwrap_or(u64::MAX));
        let expected = Expected::of_partitions(&config, part);
        assert!(expected.lines > 5_000, "{range}: {} lines", expected.lines);
        let one = scenario.replay(&range, "1");
        equals_the_model(&one, &expected, &range);
        same_bytes(&one, &scenario.replay(&range, "2"), &range);
    }
    let some = scenario.replay("@0:100..1100,2:50..75", "2");
    assert_eq!(summary(&some)["lines"], 1025);

    // What `run` says of the same records, once all of their windows are closed.
    let mut live = Cluster::start(&[&scenario.config], scenario.dir.path(), "live");
    until("everything read and durable", Duration::from_secs(120), || {
        live.assert_running();
        expected::positions(&config).values().all(|(next, end)| next == end).then_some(())
    });
    live.stop();
    let log = |dir: &Path| last_alerts(&read(dir, "alerts.jsonl"));
    let resolved = |alerts: BTreeMap<String, Alert>| -> Vec<Alert> {
        alerts.into_values().map(|alert| Alert { state: AlertState::Resolved, ..alert }).collect()
    };
    compare(&resolved(log(&whole)), &log(&scenario.dir.path().join("live"))).unwrap_or_else(|e| panic!("live: {e}"));
}

#[test]
fn a_topic_and_a_file_replayed_together_equal_the_model() {
    let Some(scenario) = Scenario::new("a_topic_and_a_file_replayed_together_equal_the_model") else { return };
    let file = scenario.dir.path().join("access.log");
    // The same hosts at the same time, so that both are in the same windows; and an attack of which each has a part.
    let to = format!("file:{}", file.display());
    let more = ["--format", "nginx-json", "--hosts", "4", "--seed", "9", "--attack", "ip-spike:2m:1m"];
    traffic::generate(&to, START, 20_000, FIRST + SECOND, &more);
    let name = file.display().to_string();
    let both = [&*name, &*scenario.url("")];
    let one = scenario.replay_of(&both, "1");
    // Files come first, in whatever order they are named.
    let mut config = expected::config(&scenario.text);
    let mut sources = config.input_sources(std::slice::from_ref(&file));
    sources.append(&mut config.sources);
    config.sources = sources;
    let mut partitions = vec![expected::replayed_file((0, &config.sources[0].name), &file)];
    partitions.extend(expected::read(&config));
    let expected = Expected::of_partitions(&config, partitions);
    assert_eq!(expected.names.len(), 5, "{:?}", expected.names);
    equals_the_model(&one, &expected, "both");
    for workers in ["2", "3"] {
        same_bytes(&one, &scenario.replay_of(&[both[1], both[0]], workers), &format!("-w {workers}"));
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let Some(broker) = kafka("what_is_not_there_is_refused") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = unique("refused");
    let topics = Topics { broker: broker.clone(), names: vec![topic.clone()] };
    let config = dir.path().join("c.toml");
    let text = format!(
        "[[source]]\nkind = \"kafka\"\nbrokers = \"{broker}\"\ntopics = [\"{topic}\"]\nformat = \"combined\"\npartitions = 2\nretention = \"3650d\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let (config, out) = (config.display().to_string(), dir.path().join("out").display().to_string());
    tidewatch_ok(&["setup", "kafka", "-c", &config], &[]);
    traffic::produce(&broker, &topic, START, &[(0, b"one".to_vec()), (0, b"two".to_vec())]);
    let has_none = format!("has no topic {topic}x; did you mean {topic}?");
    let not_held = format!("kafka {topic}/0: offset 7 is not in the log, which begins at 0 and ends at 2");
    // name, what is read, exit code, what is said
    let rows: &[(&str, String, i32, &str)] = &[
        ("no such topic", format!("kafka://{broker}/{topic}x"), 3, &has_none),
        (
            "no such partition",
            format!("kafka://{broker}/{topic}@2:0.."),
            3,
            "has no partition 2; its partitions are 0 to 1",
        ),
        ("no such offset", format!("kafka://{broker}/{topic}@0:7.."), 3, &not_held),
        ("no such broker", format!("kafka://127.0.0.1:1/{topic}"), 3, "gives no answer within 10 s"),
        ("a range that is none", format!("kafka://{broker}/{topic}@now.."), 2, "\"now\" is not a time"),
        ("nothing in the range", format!("kafka://{broker}/{topic}@2026-03-06.."), 0, "there is nothing in this range"),
        ("all of it", format!("kafka://{broker}/{topic}"), 0, "2 lines: 0 events, 2 rejected"),
    ];
    for (name, from, code, want) in rows {
        let said = tidewatch(&["replay", "-c", &config, "--from", from, "--out", &out], &[]);
        assert_eq!(said.code, Some(*code), "{name}: {said:#?}");
        assert!(format!("{}{}", said.out, said.err).contains(want), "{name}: {said:#?}");
    }
    drop(topics);
}
