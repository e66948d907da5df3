//! The whole of it against the real servers: generated traffic in a topic, two processes of two workers, InfluxDB; what
//! stands there equals the reference model, every point and alert.
//!
//! Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` and `TIDEWATCH_TEST_INFLUX` (`_ORG`, `_TOKEN`) name
//! servers; `scripts/kafka-up` and `scripts/influx-up` start them. `TIDEWATCH_E2E_EVENTS=2000000` is the full size.
//!
//! What is in the topic: disorder within and beyond the lateness, one partition an hour ahead, one that ends early,
//! events hours late, events dated minutes after their record, lines that are none, and every attack the generator knows.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidewatch_e2e::expected::{self, Expected, compare, dead_letters, last_alerts};
use tidewatch_e2e::process::{Cluster, tidewatch_ok};
use tidewatch_e2e::servers::{Influx, Topics, describe_group, kafka, unique};
use tidewatch_e2e::{traffic, until};
use tidewatch_events::event::Verdict;
use tidewatch_events::time::EventTime;
use tidewatch_reference::{FieldValue, Point, compare_points};

/// 2026-03-05T10:00:00Z, ms.
const START: u64 = 1_772_704_800_000;
/// Event time of the first and of the second part, seconds.
const FIRST: u64 = 1800;
const SECOND: u64 = 1200;

const MEASUREMENTS: [&str; 9] = [
    "anomaly",
    "error_events",
    "http_methods",
    "http_stats",
    "slow_paths",
    "top_agents",
    "top_clients",
    "top_paths",
    "top_referrers",
];

const ATTACKS: [&str; 12] = [
    "ip-spike:2m:1m",
    "error-surge:4m:3m:host=web2",
    "path-scan:5m:4m",
    "port-scan:6m:2m",
    "dark-paths:3m:20m:clients=8",
    "login-bruteforce:8m:3m",
    "slow-scan:1m:25m",
    "credential-stuffing:10m:4m",
    "injection:12m:3m",
    "exfiltration:14m:2m",
    "silence:18m:2m:host=web1",
    "ip-spike:21m:30s:rate=40",
];

/// How many lines of traffic are generated, about.
fn events() -> u64 {
    let given = std::env::var("TIDEWATCH_E2E_EVENTS").ok().filter(|text| !text.is_empty());
    given.map_or(200_000, |text| text.parse().expect("TIDEWATCH_E2E_EVENTS is a number"))
}

/// A topic of traffic, a topic of error logs, a bucket, and the configuration that joins them.
struct Scenario {
    dir: tempfile::TempDir,
    topics: Topics,
    influx: Influx,
    config: PathBuf,
    text: String,
}

impl Scenario {
    fn new(test: &str) -> Option<Scenario> {
        let broker = kafka(test)?;
        let influx = Influx::new(test)?;
        let dir = tempfile::tempdir().unwrap();
        let name = unique("logs");
        let topics = Topics { broker, names: vec![name.clone(), format!("{name}-errors")] };
        let token = dir.path().join("token");
        let (broker, logs, errors) = (&topics.broker, &topics.names[0], &topics.names[1]);
        let text = format!(
            r#"
data_dir = "{dir}/data"
[[source]]
kind = "kafka"
name = "access"
brokers = "{broker}"
topics = ["{logs}"]
group = "{logs}"
format = "nginx-json"
partitions = 4
retention = "3650d"
[[source]]
kind = "kafka"
name = "errors"
brokers = "{broker}"
topics = ["{errors}"]
group = "{logs}"
format = "nginx-error"
partitions = 2
retention = "3650d"
[time]
max_out_of_order = "5s"
allowed_lateness = "1m"
idle_after = "1s"
max_ahead = "1m"
[windows]
size = "10s"
# A rule over tumbling windows; the built-in ones hop.
[[rule]]
name = "slow-host"
where = {{ kind = "access" }}
group_by = ["host"]
measure = "quantile(latency_ms, 0.99)"
window = "30s"
threshold = 400
at_least = 50
severity = "low"
[[rule]]
name = "much-sent"
where = {{ kind = "access" }}
group_by = ["client_ip"]
measure = "sum(bytes)"
window = "1m"
threshold = 50000000
severity = "medium"
[sink.influx]
url = "{url}"
org = "{org}"
bucket = "{bucket}"
token = "file:{token}"
[sink.files]
dir = "{dir}/out"
"#,
            dir = dir.path().display(),
            url = influx.url,
            org = influx.org,
            bucket = influx.bucket,
            token = token.display(),
        );
        let config = dir.path().join("tidewatch.toml");
        std::fs::write(&config, &text).unwrap();
        let path = config.display().to_string();
        tidewatch_ok(&["setup", "kafka", "-c", &path], &[]);
        let token = token.display().to_string();
        let operator = [("INFLUX_OPERATOR_TOKEN", influx.operator.as_str())];
        tidewatch_ok(&["setup", "influx", "-c", &path, "--token-file", &token], &operator);
        Some(Scenario { dir, topics, influx, config, text })
    }

    fn url(&self, topic: usize) -> String {
        format!("kafka://{}/{}", self.topics.broker, self.topics.names[topic])
    }

    /// Fills both topics; how many records there are.
    fn fill(&self) -> u64 {
        let (first, second) = (events() * 3 / 5, events() * 2 / 5);
        let mut more = vec!["--hosts", "4", "--seed", "7", "--disorder", "80s", "--skew", "3:+1h"];
        for attack in &ATTACKS {
            more.extend(["--attack", attack]);
        }
        traffic::generate(&self.url(0), START, first, FIRST, &more);
        let strange = self.produce_strange_lines();
        // Only hosts web1 and web2: partitions 2 and 3 have ended.
        let more = ["--hosts", "2", "--seed", "8", "--disorder", "80s", "--attack", "ip-spike:5m:30s"];
        traffic::generate(&self.url(0), START + FIRST * 1000, second, SECOND, &more);
        let errors =
            ["--format", "nginx-error", "--hosts", "3", "--seed", "9", "--attack", "error-surge:10m:2m:host=web3"];
        traffic::generate(&self.url(1), START, 6000, FIRST + SECOND, &errors);
        first + second + strange + 6000
    }

    /// Between the two parts: lines that are no events, events hours late, events from the future. How many.
    fn produce_strange_lines(&self) -> u64 {
        let now = START + FIRST * 1000;
        traffic::produce(&self.topics.broker, &self.topics.names[0], now, &traffic::strange_lines(now))
    }

    fn cluster(&self, name: &str) -> Cluster {
        Cluster::start(&[&self.config, &self.config], self.dir.path(), name)
    }

    fn out(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("out").join(name)).unwrap_or_default()
    }
}

/// What stood in InfluxDB at a moment, and what was committed before.
struct Sample {
    committed: BTreeMap<String, (u64, u64)>,
    stats: Vec<Point>,
}

/// Collects what is wrong, so that one run tells everything.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn check(&mut self, what: &str, result: Result<(), String>) {
        if let Err(words) = result {
            self.0.push(format!("{what}: {words}"));
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, want: T, got: T) {
        if want != got {
            self.0.push(format!("{what}: want {want:?}, got {got:?}"));
        }
    }

    fn same_list<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, want: &[T], got: &[T]) {
        if want != got {
            let at = want.iter().zip(got).take_while(|(a, b)| a == b).count();
            let (a, b) = (want.get(at), got.get(at));
            self.0.push(format!("{what}: want {}, got {}; number {at}: want {a:?}, got {b:?}", want.len(), got.len()));
        }
    }
}

fn lines(points: &[Point]) -> String {
    points.iter().map(|point| point.line() + "\n").collect()
}

#[test]
fn what_stands_in_influxdb_equals_the_reference_model() {
    let Some(scenario) = Scenario::new("what_stands_in_influxdb_equals_the_reference_model") else { return };
    let mut clock = Instant::now();
    let mut lap = |what: &str| {
        eprintln!("{:>6.1} s  {what}", clock.elapsed().as_secs_f64());
        clock = Instant::now();
    };
    let written = scenario.fill();
    lap(&format!("{written} records written"));
    let config = expected::config(&scenario.text);

    let mut cluster = scenario.cluster("first");
    let mut samples: Vec<Sample> = Vec::new();
    let mut described = BTreeMap::new();
    let limit = Duration::from_secs(60 + events() / 2000);
    until("everything read and durable", limit, || {
        cluster.assert_running();
        let committed = expected::positions(&config);
        let done = committed.values().all(|(next, end)| next == end);
        if !done && committed.values().any(|(next, _)| *next > 0) && samples.len() < 40 {
            samples.push(Sample { committed, stats: scenario.influx.points(&["http_stats"]) });
            if described.is_empty() {
                described = describe_group(&scenario.topics.broker, &scenario.topics.names[0]);
            }
        } else if !done {
            std::thread::sleep(Duration::from_millis(300));
        }
        done.then_some(())
    });
    lap(&format!("read, closed, durable, committed; {} samples on the way", samples.len()));
    let group = describe_group(&scenario.topics.broker, &scenario.topics.names[0]);
    cluster.stop();
    lap("described and stopped");

    let got = scenario.influx.points(&MEASUREMENTS);
    lap(&format!("{} points read back", got.len()));
    let expected = Expected::of(&config);
    let r = &expected.results;
    lap(&format!(
        "reference: {} lines, {} events, {} late, {} future, {} rejected, {} points, {} alerts",
        expected.lines,
        r.events,
        r.late,
        r.future,
        expected.rejected.len(),
        r.points.len(),
        r.alerts.len()
    ));
    let mut problems = Problems::default();

    // The input holds what this test is about.
    let kinds: BTreeSet<&str> = r.alerts.iter().map(|a| a.alert.rule.as_str()).collect();
    for rule in ["ip-spike", "error-surge", "path-scan", "port-scan", "dark-paths", "slow-host", "much-sent"] {
        assert!(kinds.contains(rule), "no alert of {rule} is in the input");
    }
    assert!(r.late > 80 && r.future == 4 * 22, "{} late, {} future", r.late, r.future);
    assert_eq!(expected.rejected.len(), 20);

    // Points and alerts.
    let (withdrawn, standing): (Vec<Point>, Vec<Point>) =
        got.into_iter().partition(|p| p.fields.get("state") == Some(&FieldValue::Text("retracted".into())));
    let scored = withdrawn.iter().filter(|p| p.fields.get("score") != Some(&FieldValue::Float(0.0))).count();
    problems.equal("retracted findings with a score", 0, scored);
    for name in MEASUREMENTS {
        let of = |points: &[Point]| points.iter().filter(|p| p.measurement == name).cloned().collect::<Vec<_>>();
        problems.check(name, compare_points(&of(&r.points), &lines(&of(&standing))));
    }
    problems.check("alerts", compare(&expected.alerts(), &last_alerts(&scenario.out("alerts.jsonl"))));
    let known: BTreeSet<String> =
        MEASUREMENTS.iter().copied().chain(["tidewatch", "tidewatch_process"]).map(str::to_owned).collect();
    problems.equal("measurements", known, scenario.influx.measurements().into_iter().collect());

    // Accounting: every record is somewhere, once.
    problems.equal("records", written, expected.lines);
    let requests: i64 = (standing.iter().filter(|p| p.measurement == "http_stats"))
        .map(|p| match p.fields.get("requests") {
            Some(FieldValue::Int(n)) => *n,
            other => panic!("requests are {other:?}"),
        })
        .sum();
    let messages = expected.input.partitions.iter().zip(&r.verdicts).flat_map(|(p, v)| p.events.iter().zip(v));
    let in_time = messages.filter(|(e, v)| **v == Verdict::InTime && e.status > 0).count();
    problems.equal("sum of http_stats.requests", in_time as i64, requests);
    problems.same_list("rejected.jsonl", &expected.rejected, &dead_letters(&scenario.out("rejected.jsonl")));
    problems.same_list("late.jsonl", &expected.late, &dead_letters(&scenario.out("late.jsonl")));

    // Offsets: at the end of the logs now, and never beyond what was durable.
    problems.equal("partitions of the group", 6, group.len());
    for (partition, line) in &group {
        problems.equal(&format!("lag of {partition:?}"), (Some(line.log_end), Some(0)), (line.committed, line.lag));
    }
    assert!(!samples.is_empty(), "everything was read before the first look: more events are needed");
    problems.equal("partitions of the group, on the way", 6, described.len());
    // By the time Kafka's own tool has started, all may be read: what was committed at each look is known better.
    let lag = |sample: &Sample| sample.committed.values().map(|(next, end)| end.saturating_sub(*next)).sum::<u64>();
    if samples.iter().all(|sample| lag(sample) == 0) {
        problems.0.push(format!("no lag on the way: {described:?}"));
    }
    for (i, sample) in samples.iter().enumerate() {
        problems.check(&format!("sample {i}"), durable(&expected, sample));
    }

    // A restart after the end changes nothing.
    let alerts = last_alerts(&scenario.out("alerts.jsonl"));
    let mut cluster = scenario.cluster("second");
    std::thread::sleep(Duration::from_secs(6));
    cluster.assert_running();
    cluster.stop();
    let again = scenario.influx.points(&MEASUREMENTS);
    let mut before = standing;
    before.extend(withdrawn);
    before.sort_by(|a, b| a.identity().cmp(&b.identity()));
    problems.check("after a restart", compare_points(&before, &lines(&again)));
    problems.equal("alerts after a restart", alerts, last_alerts(&scenario.out("alerts.jsonl")));
    lap("restarted and compared");
    if !problems.0.is_empty() {
        for log in ["first-0.log", "first-1.log", "second-0.log", "second-1.log"] {
            eprintln!("--- {log}\n{}", std::fs::read_to_string(scenario.dir.path().join(log)).unwrap_or_default());
        }
    }
    assert!(problems.0.is_empty(), "\n{}", problems.0.join("\n"));
}

/// Whether the final points of every event behind the committed offsets stood in InfluxDB.
fn durable(expected: &Expected, sample: &Sample) -> Result<(), String> {
    let key = |point: &Point| (point.tags["host"].clone(), point.time);
    let stood: BTreeMap<_, _> = sample.stats.iter().map(|p| (key(p), p.fields.get("requests"))).collect();
    let points = expected.results.points.iter().filter(|p| p.measurement == "http_stats");
    let last: BTreeMap<_, _> = points.map(|p| (key(p), p.fields.get("requests"))).collect();
    let mut wrong: BTreeSet<(String, u64)> = BTreeSet::new();
    for (i, partition) in expected.input.partitions.iter().enumerate() {
        let Some((committed, _)) = sample.committed.get(&expected.names[i]) else { continue };
        for (event, verdict) in partition.events.iter().zip(&expected.results.verdicts[i]) {
            if event.offset < *committed && *verdict == Verdict::InTime && event.status > 0 {
                let place = (String::from_utf8_lossy(&event.host).into_owned(), event.time - event.time % 10_000);
                if stood.get(&place) != last.get(&place) {
                    wrong.insert(place);
                }
            }
        }
    }
    match wrong.first() {
        None => Ok(()),
        Some((host, time)) => Err(format!(
            "{} windows behind the committed offsets {:?} were not final, the first of {host} at {}",
            wrong.len(),
            sample.committed,
            EventTime(*time)
        )),
    }
}
