//! `run` that is killed and started again over a topic, and over files that are rotated while it is down: what stands in
//! its files is what one life would have written, for windows of rules too that were open when it was killed.
//!
//! Those over a topic are skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` names a broker;
//! `scripts/kafka-up` starts one.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::{KafkaSettings, LineProducer, ProducerSettings};
use tidewatch_connectors::source::file::kept::{self, Kept};
use tidewatch_e2e::expected::{self, Expected, dead_letters};
use tidewatch_e2e::process::{Cluster, Running, tidewatch};
use tidewatch_e2e::servers::{Topics, kafka, unique};
use tidewatch_e2e::shipping::create_topic;
use tidewatch_events::time::EventTime;
use tidewatch_reference::{FieldValue, Point, compare_points};

/// 2026-03-05T10:00:00Z, ms.
const START: u64 = 1_772_704_800_000;

/// Size of windows of results, `max_out_of_order` and `allowed_lateness`, seconds.
const WINDOW: u64 = 10;
const OPEN_FOR: u64 = 10;

/// How long an attack lasts, from and to in seconds: one that is over when the first life ends, and two that go on over a
/// kill. None reaches its threshold in a part of a window.
const ATTACKS: [(&str, u64, u64); 3] = [("192.0.2.1", 5, 50), ("192.0.2.2", 75, 120), ("192.0.2.3", 130, 180)];

fn line(at: u64, client: &str, path: &str) -> Vec<u8> {
    let time = EventTime(START + at * 1000).to_string();
    format!(
        r#"{{"time_iso8601":"{time}","host":"web1","server_port":443,"remote_addr":"{client}","request":"GET {path} HTTP/1.1","status":200,"body_bytes_sent":7,"request_time":0.002}}"#
    )
    .into_bytes()
}

/// Makes the lines of what happens in some seconds: of three partitions, up to 4 s out of order.
fn lines(seconds: std::ops::Range<u64>, mut send: impl FnMut(u64, usize, &[u8])) {
    for second in seconds {
        for n in 0..6 {
            let at = (second + (n * 7 + second * 3) % 5).saturating_sub(4);
            send(second, n as usize % 3, &line(at, &format!("198.51.100.{}", (second * 6 + n) % 200), "/"));
        }
        for (client, from, to) in ATTACKS {
            if (from..to).contains(&second) {
                send(second, second as usize % 3, &line(second, client, &format!("/{second}")));
            }
        }
        // All of them are dealt with when the first life ends.
        if second < 40 && second % 10 == 0 {
            send(second, 0, b"no event");
        }
        if (30..40).contains(&second) {
            send(second, 1, &line(0, "203.0.113.9", "/late"));
        }
    }
}

/// Writes them to a topic.
fn write(topics: &Topics, seconds: std::ops::Range<u64>) {
    let topic = &topics.names[0];
    let settings = KafkaSettings::for_topic(&topics.broker, topic).unwrap();
    let mut producer = LineProducer::connect(&settings, topic, &ProducerSettings::default()).unwrap();
    lines(seconds, |at, partition, line| {
        let time = Some(START + at * 1000);
        producer.send(None, None, line, time, Some(partition as i32)).unwrap();
    });
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// Waits until offsets were committed and have not moved for a while.
fn settled(
    config: &tidewatch::config::Config,
    before: &BTreeMap<String, (u64, u64)>,
    cluster: &mut Cluster,
) -> BTreeMap<String, (u64, u64)> {
    let next = |at: &BTreeMap<String, (u64, u64)>| at.values().map(|(next, _)| *next).collect::<Vec<_>>();
    let (mut last, mut since, begun) = (expected::positions(config), Instant::now(), Instant::now());
    loop {
        cluster.assert_running();
        let now = expected::positions(config);
        if next(&now) != next(&last) {
            (last, since) = (now, Instant::now());
        } else if next(&now) != next(before) && since.elapsed() > Duration::from_secs(4) {
            return now;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{before:?} {last:?} {}", cluster.processes[0].said());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The last version of every point in a file, but for its own health; of windows that end by then (seconds).
fn stands(metrics: &str, until: u64) -> Vec<Point> {
    let points = metrics.lines().filter(|line| !line.starts_with("tidewatch")).map(|line| Point::parse(line).unwrap());
    let key = |point: &Point| (point.measurement.clone(), format!("{:?}", point.tags), point.time);
    let last: BTreeMap<_, Point> = points.map(|point| (key(&point), point)).collect();
    last.into_values().filter(|point| end(point) <= START + until * 1000).collect()
}

fn end(point: &Point) -> u64 {
    let length = match point.fields.get("window_ms") {
        Some(FieldValue::Int(length)) => *length as u64,
        _ => WINDOW * 1000,
    };
    point.time + length
}

/// Rule, subject, start and value of findings that stand.
fn findings(points: &[Point]) -> BTreeSet<(String, String, u64, String)> {
    let of = |point: &Point, field: &str| format!("{:?}", point.fields.get(field));
    let stands = points.iter().filter(|p| p.measurement == "anomaly" && !of(p, "state").contains("retracted"));
    stands.map(|p| (p.tags["rule"].clone(), of(p, "subject"), p.time, of(p, "value"))).collect()
}

fn text(points: &[Point]) -> String {
    points.iter().map(|point| point.line() + "\n").collect()
}

/// A configuration with these sources.
fn with_source(dir: &Path, sources: &str) -> String {
    let at = dir.display();
    format!(
        "data_dir = \"{at}/data\"\n{sources}[time]\nmax_out_of_order = \"5s\"\nallowed_lateness = \"5s\"\n\
         idle_after = \"1h\"\nmax_ahead = \"10s\"\n[sink.files]\ndir = \"{at}/out\"\nfsync = \"always\"\n\
         [[route]]\nkind = \"file\"\npath = \"{at}/told.jsonl\"\n\
         [[rule]]\nname = \"many\"\ngroup_by = [\"client_ip\"]\nmeasure = \"count\"\nwindow = \"1m\"\nhop = \"10s\"\n\
         threshold = 40\n[[rule]]\nname = \"paths\"\ngroup_by = [\"client_ip\"]\nmeasure = \"distinct(path)\"\n\
         window = \"2m\"\nhop = \"20s\"\nthreshold = 41\n[[rule]]\nname = \"dark-paths\"\nenabled = false\n"
    )
}

/// What is in a file of the results.
fn out(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join("out").join(name)).unwrap_or_default()
}

/// Compares what stands in the files with the model; `in_first` is how long the metrics were after the first life.
fn assert_as_one_life(dir: &Path, expected: &Expected, in_first: usize) {
    let until = 300 - OPEN_FOR - 2 * WINDOW;
    let want = stands(&text(&expected.results.points), until);
    let got = stands(&out(dir, "metrics.lp"), until);
    let results = |points: &[Point]| points.iter().filter(|p| p.measurement != "anomaly").cloned().collect::<Vec<_>>();
    assert!(results(&want).len() > 100);
    compare_points(&results(&want), &text(&results(&got))).unwrap();
    for (client, ..) in ATTACKS {
        for rule in ["many", "paths"] {
            let is_it = |(of, subject, ..): &(String, String, u64, String)| of == rule && subject.contains(client);
            assert!(findings(&want).iter().any(is_it), "{rule} does not find {client}");
        }
    }
    assert_eq!(findings(&want), findings(&got));
    // What was over is not said again.
    let later = &out(dir, "metrics.lp")[in_first..];
    let again = later.lines().filter(|line| line.contains("rule=many") && line.contains(ATTACKS[0].0));
    assert_eq!(again.collect::<Vec<_>>(), Vec::<&str>::new());
    assert_eq!(dead_letters(&out(dir, "rejected.jsonl")), expected.rejected);
    assert_eq!(dead_letters(&out(dir, "late.jsonl")), expected.late);
    assert_eq!((expected.rejected.len(), expected.late.len()), (4, 10));
}

/// Runs over the topic in three lives of so many processes.
fn three_lives(test: &str, processes: usize) {
    let Some(broker) = kafka(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = unique("restarts");
    let topics = Topics { broker, names: vec![topic.clone()] };
    let text_of = with_source(
        dir.path(),
        &format!(
            "[[source]]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"{topic}\"]\ngroup = \"{topic}\"\n\
             start = \"earliest\"\nformat = \"nginx-json\"\n",
            topics.broker
        ),
    );
    let config: PathBuf = dir.path().join("tidewatch.toml");
    std::fs::write(&config, &text_of).unwrap();
    create_topic(&topics.broker, &topic);
    let parsed = expected::config(&text_of);
    let configs: Vec<&Path> = vec![&config; processes];

    let mut before = BTreeMap::new();
    let mut in_first = 0;
    for (life, seconds) in [0..100, 100..160, 160..300].into_iter().enumerate() {
        write(&topics, seconds);
        let mut cluster = Cluster::start(&configs, dir.path(), &format!("life-{life}"));
        before = settled(&parsed, &before, &mut cluster);
        match life {
            0 => in_first = out(dir.path(), "metrics.lp").len(),
            1 => assert!(cluster.processes[0].said().contains("reads again"), "{}", cluster.processes[0].said()),
            _ => cluster.stop(),
        }
        // Else killed.
        drop(cluster);
    }

    assert_as_one_life(dir.path(), &Expected::of(&parsed), in_first);
}

/// Three logs of one host, and all that was ever written to each.
struct Logs {
    dir: PathBuf,
    written: [Vec<u8>; 3],
}

impl Logs {
    fn path(&self, log: usize, generation: &str) -> PathBuf {
        self.dir.join(format!("{log}.log{generation}"))
    }

    /// Writes what happens in some seconds.
    fn write(&mut self, seconds: std::ops::Range<u64>) {
        let mut fresh = <[Vec<u8>; 3]>::default();
        lines(seconds, |_, log, line| {
            fresh[log].extend_from_slice(line);
            fresh[log].push(b'\n');
        });
        for (log, bytes) in fresh.iter().enumerate() {
            let mut file = OpenOptions::new().append(true).create(true).open(self.path(log, "")).unwrap();
            file.write_all(bytes).unwrap();
            self.written[log].extend_from_slice(bytes);
        }
    }

    /// Rotates the first log by rename, the second by copy and truncation; the third is left alone.
    fn rotate(&self) {
        for log in [0, 1] {
            if self.path(log, ".1").exists() {
                std::fs::rename(self.path(log, ".1"), self.path(log, ".2")).unwrap();
            }
        }
        std::fs::rename(self.path(0, ""), self.path(0, ".1")).unwrap();
        std::fs::copy(self.path(1, ""), self.path(1, ".1")).unwrap();
        OpenOptions::new().write(true).truncate(true).open(self.path(1, "")).unwrap();
    }
}

/// Waits until all that processes keep of these many logs says that windows up to this time (seconds) are durable.
fn kept_up_to(dir: &Path, logs: usize, seconds: u64, cluster: &mut Cluster) {
    let want = START + seconds * 1000;
    let durable = |kept: &Kept| -> Option<u64> {
        kept.mark.as_ref()?.split(' ').find_map(|word| word.strip_prefix("durable="))?.parse().ok()
    };
    let begun = Instant::now();
    loop {
        cluster.assert_running();
        let of = |process: usize| kept::load(&dir.join(format!("data/positions-{process}.json"))).unwrap();
        let kept: Vec<Kept> = (0..cluster.processes.len()).flat_map(of).flat_map(|source| source.partitions).collect();
        if kept.len() == logs && kept.iter().all(|kept| durable(kept) >= Some(want)) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{kept:?} {}", cluster.processes[0].said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs over logs in three lives of so many processes; the last process reads the last log.
fn three_lives_over_files(processes: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut logs = Logs { dir: dir.path().join("logs"), written: Default::default() };
    std::fs::create_dir(&logs.dir).unwrap();
    let at = logs.dir.display();
    let source = |name: &str, paths: &str, process: usize| {
        format!(
            "[[source]]\nkind = \"file\"\nname = \"{name}\"\npaths = [\"{at}/{paths}\"]\nprocess = {process}\n\
             format = \"nginx-json\"\nhost = \"file\"\n"
        )
    };
    let last = processes - 1;
    let text_of = with_source(dir.path(), &(source("some", "[01].log*", 0) + &source("last", "2.log", last)));
    let config: PathBuf = dir.path().join("tidewatch.toml");
    std::fs::write(&config, &text_of).unwrap();
    let configs: Vec<&Path> = vec![&config; processes];

    let mut in_first = 0;
    for (life, end) in [100, 160, 300].into_iter().enumerate() {
        let begin = end - if life == 2 { 140 } else { 60 };
        if life == 0 {
            logs.write(0..begin);
        } else {
            // While nobody reads.
            logs.write(begin..begin + 20);
            logs.rotate();
            logs.write(begin + 20..begin + 30);
        }
        let mut cluster = Cluster::start(&configs, dir.path(), &format!("life-{life}"));
        logs.write(if life == 0 { begin..end } else { begin + 30..end });
        // Windows of ten seconds, 5 s until time passes them and 5 s until they close.
        kept_up_to(dir.path(), 3, end - 20, &mut cluster);
        let said = cluster.processes.iter().map(Running::said).collect::<String>();
        match life {
            0 => in_first = out(dir.path(), "metrics.lp").len(),
            _ => assert_eq!(said.matches("reads again").count(), processes, "{said}"),
        }
        assert!(!said.contains("WARN"), "{said}");
        if life == 2 {
            cluster.stop();
        }
        // Else killed.
        drop(cluster);
    }

    let partition = |log: usize| {
        let (process, source) = if log == 2 { (last, (1, "last")) } else { (0, (0, "some")) };
        expected::file(process, source, &logs.path(log, ""), logs.written[log].clone())
    };
    let expected = Expected::of_partitions(&expected::config(&text_of), (0..3).map(partition).collect());
    assert_as_one_life(dir.path(), &expected, in_first);
    // Each attack was told once by each rule, whatever was read again.
    let told = std::fs::read_to_string(dir.path().join("told.jsonl")).unwrap();
    let told = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let fired = told.filter(|told| told["event"] == "fired");
    let mut fired: Vec<String> =
        fired.map(|told| format!("{} {}", told["rule"], told["subject"]["client_ip"])).collect();
    fired.sort();
    let all = ["many", "paths"].iter().flat_map(|rule| ATTACKS.map(|(client, ..)| format!("\"{rule}\" \"{client}\"")));
    assert_eq!(fired, all.collect::<Vec<_>>());
}

#[test]
fn three_lives_over_rotated_files_write_what_one_would() {
    three_lives_over_files(1);
}

#[test]
fn three_lives_of_a_cluster_over_rotated_files_write_what_one_would() {
    three_lives_over_files(2);
}

#[test]
fn three_lives_of_a_process_write_what_one_would() {
    three_lives("three_lives_of_a_process_write_what_one_would", 1);
}

#[test]
fn three_lives_of_a_cluster_write_what_one_would() {
    three_lives("three_lives_of_a_cluster_write_what_one_would", 2);
}

#[test]
fn topics_that_are_written_to_are_asked_for() {
    let Some(broker) = kafka("topics_that_are_written_to_are_asked_for") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (at, topic) = (dir.path().display(), unique("written"));
    let topics = Topics { broker, names: vec![topic.clone()] };
    let broker = &topics.broker;
    let text = format!(
        "data_dir = \"{at}/data\"\n[[source]]\nkind = \"tcp\"\nlisten = \"127.0.0.1:0\"\nformat = \"combined\"\n\
         [sink.kafka]\nbrokers = \"{broker}\"\ntopic = \"{topic}\"\n\
         [sink.dead_letters]\nbrokers = \"{broker}\"\ntopic = \"{topic}-dead\"\n"
    );
    let config = dir.path().join("tidewatch.toml");
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let check = || tidewatch(&["check", "-c", &config, "--connect"], &[]);
    let run = || tidewatch(&["run", "-c", &config, "--no-page"], &[]);
    let said = run();
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(said.err.contains(&format!("[sink.kafka] kafka at {broker} has no topic {topic}")), "{said:#?}");
    let said = check();
    assert_eq!(said.code, Some(3), "{said:#?}");
    for words in [format!("[sink.kafka] kafka at {broker} has no topic {topic}"), format!("has no topic {topic}-dead")]
    {
        assert!(said.err.contains(&words), "{said:#?}");
    }
    create_topic(broker, &topic);
    let said = check();
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(said.out.contains(&format!("sink kafka: topic {topic} at {broker} is there, ")), "{said:#?}");
    assert!(said.err.contains("[sink.dead_letters]") && !said.err.contains("[sink.kafka]"), "{said:#?}");
    let said = run();
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(
        said.err.contains(&format!("[sink.dead_letters] kafka at {broker} has no topic {topic}-dead")),
        "{said:#?}"
    );
}
