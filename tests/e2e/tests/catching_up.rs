//! `run` over logs that have grown long before it starts: until it has caught up only closed windows leave, what they come to
//! is what a replay and the model say, and then an attack is told at once.
//!
//! What is checked of the old windows is that each point of them was written exactly once: an early point, or one of a
//! provisional finding, would stand in the file beside the closed one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidewatch_connectors::kafka::{KafkaSettings, LineProducer, ProducerSettings};
use tidewatch_e2e::expected::{self, Expected, last_alerts};
use tidewatch_e2e::process::{Cluster, finish, tidewatch_ok};
use tidewatch_e2e::servers::{Topics, kafka, unique};
use tidewatch_e2e::shipping::create_topic;
use tidewatch_e2e::until;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::time::EventTime;
use tidewatch_reference::{FieldValue, Point, compare_points};

const LIMIT: Duration = Duration::from_secs(120);

/// How far the backlog goes back, and where it ends, seconds before now.
const FROM: u64 = 3 * 3600;
const TO: u64 = 3600;

/// `allowed_lateness` and `max_out_of_order` below, ms.
const OPEN_FOR: u64 = 65_000;

const TIME: &str = "[time]\nallowed_lateness = \"1m\"\nmax_out_of_order = \"5s\"\nidle_after = \"1s\"\n\
    [windows]\nearly_every = \"100ms\"\n";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Generates the backlog: two hours that end an hour ago, an attack in its middle and one at its end.
fn generate(to: &str, seed: &str, count: u64) {
    let start = EventTime(now() - FROM * 1000).to_string();
    let (rate, count) = ((count / (FROM - TO)).to_string(), count.to_string());
    let args = ["generate", "--format", "combined", "--to", to, "--start", &start, "--no-pace", "--seed", seed];
    let more = ["--count", &count, "--rate", &rate, "--attack", "ip-spike:60m:1m", "--attack", "path-scan:70m:2m"];
    tidewatch_ok(&[&args[..], &more, &["--attack", "ip-spike:118m:3m"]].concat(), &[]);
}

/// An attack of this moment.
fn attack() -> String {
    let said = finish(std::process::Command::new("date").args(["-u", "+%d/%b/%Y:%H:%M:%S +0000"]).env("LC_ALL", "C"));
    let line = format!("192.0.2.99 - - [{}] \"GET /now HTTP/1.1\" 200 5 \"-\" \"e2e\"\n", said.out.trim());
    line.repeat(150)
}

/// What a run wrote to its files.
struct Written {
    metrics: String,
    alerts: String,
}

impl Written {
    fn read(dir: &Path) -> Written {
        // A last line may be half written.
        let whole = |text: String| text[..text.rfind('\n').map_or(0, |at| at + 1)].to_owned();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).map(whole).unwrap_or_default();
        Written { metrics: read("metrics.lp"), alerts: read("alerts.jsonl") }
    }

    fn points(&self) -> Vec<Point> {
        let own = |line: &&str| !line.starts_with("tidewatch");
        self.metrics.lines().filter(own).map(|line| Point::parse(line).unwrap()).collect()
    }
}

/// When the window of a point closes by the clock of its partition, event time.
fn closes(point: &Point) -> u64 {
    let length = match point.fields.get("window_ms") {
        Some(FieldValue::Int(length)) => *length as u64,
        _ => 10_000,
    };
    point.time + length + OPEN_FOR
}

/// Up to when all hosts wrote of old: one that ends before holds time back until it is idle, and windows of others stay open.
fn end_of_old(points: &[Point]) -> u64 {
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for point in points.iter().filter(|p| p.measurement == "http_stats" && p.time < now() - TO * 1000 / 2) {
        let end = ends.entry(&point.tags["host"]).or_default();
        *end = point.time.max(*end);
    }
    ends.into_values().min().unwrap()
}

/// Points of windows that close by `time`, as text, in order: written twice, they are there twice.
fn closed(points: &[Point], time: u64) -> Vec<Point> {
    let mut old: Vec<Point> = points.iter().filter(|point| closes(point) <= time).cloned().collect();
    old.sort_by(|a, b| a.identity().cmp(&b.identity()));
    old
}

fn text(points: &[Point]) -> String {
    points.iter().map(|point| point.line() + "\n").collect()
}

/// Rule, start, end, value and number of findings of alerts that were over by `time`, by id.
fn over(alerts: &BTreeMap<String, Alert>, time: u64) -> BTreeMap<String, (String, u64, u64, u64, u64)> {
    let over = alerts.iter().filter(|(_, alert)| alert.last.0 + OPEN_FOR + 60_000 <= time);
    let fact = |a: &Alert| (a.rule.clone(), a.first.0, a.last.0, a.value.to_bits(), a.findings);
    over.map(|(id, alert)| (id.clone(), fact(alert))).collect()
}

/// A cluster catches up, and then an attack comes: `append` writes the lines, `want` says what there should be afterwards.
fn catches_up(
    config: &Path,
    dir: &Path,
    append: impl FnOnce(&str),
    want: impl FnOnce() -> (Vec<Point>, BTreeMap<String, Alert>),
) {
    let mut cluster = Cluster::start(&[config, config], dir, "run");
    let out = dir.join("out");
    until("all have caught up", LIMIT, || {
        cluster.assert_running();
        cluster.processes.iter().all(|process| process.said().contains("caught up:")).then_some(())
    });
    for process in &cluster.processes {
        assert!(process.said().contains("catching up with what is in the logs"), "{}", process.said());
    }
    // What was open then is shown, and told, although nothing comes any more.
    let since = now() - (TO + 300) * 1000;
    until("the attack at the end is told", LIMIT, || {
        let fires = |alert: &&Alert| alert.rule == "ip-spike" && alert.first.0 > since;
        last_alerts(&Written::read(&out).alerts).values().find(fires).map(drop)
    });
    append(&attack());
    // Its window closes in a minute.
    until("the attack of this moment is told", Duration::from_secs(45), || {
        let is_it = |alert: &&Alert| alert.subject.values().any(|value| value == "192.0.2.99");
        last_alerts(&Written::read(&out).alerts).values().find(is_it).map(|alert| {
            assert_eq!(alert.state, AlertState::Firing);
        })
    });
    cluster.stop();

    let got = Written::read(&out);
    let (points, alerts) = want();
    let end = end_of_old(&points);
    let (old, want) = (closed(&got.points(), end), closed(&points, end));
    assert!(want.len() > 1000 && want.iter().any(|point| point.measurement == "anomaly"), "{} points", want.len());
    compare_points(&want, &text(&old)).unwrap();
    let (old, want) = (over(&last_alerts(&got.alerts), end), over(&alerts, end));
    assert!(want.values().any(|alert| alert.0 == "ip-spike"), "{want:?}");
    assert_eq!(old, want);
    let told = got.alerts.lines().map(|line| serde_json::from_str::<Alert>(line).unwrap());
    let wrong: Vec<Alert> = told.filter(|a| a.state == AlertState::Withdrawn && a.last.0 < end).collect();
    assert!(wrong.is_empty(), "told, and did not hold: {wrong:?}");
}

fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn files_of_two_processes_are_caught_up_with() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let logs = [dir.path().join("a.log"), dir.path().join("b.log")];
    // The one is read long before the other.
    generate(&format!("file:{}", logs[0].display()), "1", 30_000);
    generate(&format!("file:{}", logs[1].display()), "2", 150_000);
    let source = |process: usize| {
        let log = logs[process].display();
        format!(
            "[[source]]\nkind = \"file\"\nname = \"s{process}\"\npaths = [\"{log}\"]\nformat = \"combined\"\nfrom = \"beginning\"\n\
             process = {process}\nhost = \"web{process}\"\n"
        )
    };
    let settings = format!("{}{}{TIME}", source(0), source(1));
    let text = format!("data_dir = \"{at}/data\"\n{settings}[sink.files]\ndir = \"{at}/out\"\n");
    let config = write(dir.path().join("tidewatch.toml"), &text);
    let append = |lines: &str| {
        for log in &logs {
            std::fs::OpenOptions::new().append(true).open(log).unwrap().write_all(lines.as_bytes()).unwrap();
        }
    };
    catches_up(&config, dir.path(), append, || {
        // The files are the sources of the configuration, by name.
        let (out, config) = (dir.path().join("replayed"), config.display().to_string());
        let files = logs.each_ref().map(|log| log.display().to_string());
        let out_dir = out.display().to_string();
        let args = ["replay", "-c", &config, "--from", &files[0], "--from", &files[1], "--out", &out_dir];
        tidewatch_ok(&args, &[]);
        let replayed = Written::read(&out);
        (replayed.points(), last_alerts(&replayed.alerts))
    });
}

#[test]
fn topics_are_caught_up_with() {
    let Some(broker) = kafka("topics_are_caught_up_with") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (at, topic) = (dir.path().display(), unique("catching-up"));
    let topics = Topics { broker, names: vec![topic.clone()] };
    let text = format!(
        "data_dir = \"{at}/data\"\n[[source]]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"{topic}\"]\n\
         group = \"{topic}\"\nstart = \"earliest\"\nformat = \"combined\"\nhost = \"web\"\n\
         {TIME}[sink.files]\ndir = \"{at}/out\"\n",
        topics.broker
    );
    let config = write(dir.path().join("tidewatch.toml"), &text);
    create_topic(&topics.broker, &topic);
    generate(&format!("kafka://{}/{topic}", topics.broker), "3", 120_000);
    let append = |lines: &str| {
        let settings = KafkaSettings::for_topic(&topics.broker, &topic).unwrap();
        let mut producer = LineProducer::connect(&settings, &topic, &ProducerSettings::default()).unwrap();
        for (n, line) in lines.lines().enumerate() {
            producer.send(None, None, line.as_bytes(), Some(now()), Some(n as i32 % 3)).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    };
    catches_up(&config, dir.path(), append, || {
        let expected = Expected::of(&expected::config(&text));
        let alerts = expected.alerts().into_iter().map(|alert| (alert.id.clone(), alert)).collect();
        (expected.results.points, alerts)
    });
}
