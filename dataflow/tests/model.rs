//! The engine against the naive model (`tests/reference`): random logs, configurations, rules, workers, batches and
//! delays. What a replay writes is compared point by point, alert by alert and record by record, and byte by byte
//! between different numbers of workers.
//!
//! `PROPTEST_CASES=500 cargo test -p tidewatch --test model` looks longer.
// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use support::direct::{self, Dice, Schedule};
use support::logs::{self, Log, Style};
use support::model::{self, Expected, Written};
use support::setup::{self, Setup};
use support::{cases, within};
use tidewatch::cli::options::{ReplayInputs, ReplayOptions};
use tidewatch::config::Config;
use tidewatch::config::diagnostic::SourceText;
use tidewatch::engine::inputs;
use tidewatch::engine::trial::{self, Input, Trial};
use tidewatch_connectors::generator::{Generator, GeneratorSpec, flags};
use tidewatch_events::alert::Alert;
use tidewatch_events::time::EventTime;
use tidewatch_reference::{Guard, Partition, Settings, arb};

const LIMIT: Duration = Duration::from_secs(120);

/// Files, for a replay.
fn from(files: Vec<PathBuf>) -> ReplayInputs {
    ReplayInputs { files, ..ReplayInputs::default() }
}

fn config(default: u32) -> ProptestConfig {
    ProptestConfig {
        cases: cases(default),
        failure_persistence: None,
        max_shrink_iters: 1_000,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}

/// Random partitions, each written in a style, and a configuration. Some events lie exactly where a verdict turns.
fn logs_and_setup(partitions: usize, events: usize) -> impl Strategy<Value = (Vec<Log>, Setup)> {
    let styles = prop::collection::vec(
        prop_oneof![
            4 => Just(Style::Json),
            2 => Just(Style::Pasted),
            1 => Just(Style::App),
            1 => Just(Style::NginxError)
        ],
        partitions,
    );
    let garbage = prop::collection::vec(prop::bool::weighted(0.05), 31);
    let rotated = prop::collection::vec(prop_oneof![2 => Just(0usize), 1 => 0usize..30], partitions);
    let edges = prop::collection::vec(prop::option::weighted(0.1, 0usize..4), 37);
    (arb::feed(partitions, events), setup::setup(4), styles, garbage, any::<bool>(), rotated, edges).prop_map(
        |(mut feed, setup, styles, garbage, ends, rotated, edges)| {
            for partition in &mut feed.partitions {
                put_on_edges(partition, &setup.settings, &edges);
            }
            (logs::logs(&feed, &styles, &garbage, ends, &rotated), setup)
        },
    )
}

/// Moves some events to where a verdict turns: just late, just not, just a jump, just not.
fn put_on_edges(partition: &mut Partition, settings: &Settings, edges: &[Option<usize>]) {
    let mut newest: Option<u64> = None;
    for (event, edge) in partition.events.iter_mut().zip(edges.iter().cycle()) {
        if let (Some(newest), Some(edge)) = (newest, edge) {
            let limit = newest - settings.max_out_of_order - settings.allowed_lateness;
            let ahead = newest + settings.max_ahead;
            event.time = [limit - 1, limit, ahead, ahead + 1][*edge];
        }
        if newest.is_none_or(|newest| event.time > newest && event.time <= newest + settings.max_ahead.max(1_000)) {
            newest = Some(event.time);
        }
    }
}

/// Files on disk, a configuration for them, and what the model makes of both.
struct Case {
    dir: tempfile::TempDir,
    files: Vec<PathBuf>,
    config: Config,
    inputs: Vec<model::Input>,
    expected: Expected,
}

impl Case {
    fn new(logs: &[Log], setup: &Setup) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let (files, sources) = setup::write(logs, &setup.hosts, dir.path());
        let config = setup.config(&sources);
        let inputs = model::inputs(&config, &files);
        let expected = Expected::of(&config, &files, &inputs, &setup.model(&config));
        Case { dir, files, config, inputs, expected }
    }

    /// The same lines as records with timestamps.
    fn of_records(logs: &[Log], setup: &Setup, seed: u64) -> Case {
        let mut case = Case::new(logs, setup);
        let parsers = model::parsers(&case.config, &case.files);
        let mut dice = Dice::new(seed);
        for input in &mut case.inputs {
            input.become_records(&parsers, setup.settings.max_ahead, &mut dice);
        }
        let settings = Settings { guard: Guard::Record, ..setup.model(&case.config) };
        case.expected = Expected::of(&case.config, &case.files, &case.inputs, &settings);
        case
    }

    fn replay(&self, workers: usize) -> Result<Written, String> {
        let out = self.dir.path().join(format!("out-{workers}"));
        let options =
            ReplayOptions { from: from(self.files.clone()), out: out.clone(), workers, cluster: None, labels: None };
        let config = self.config.clone();
        within(LIMIT, move || tidewatch::engine::replay(&config, options).map_err(|e| e.to_string()))??;
        Written::read(&out)
    }

    fn trial(&self, workers: usize) -> Result<Trial, String> {
        let (config, named) = (self.config.clone(), inputs::named(&self.config, &from(self.files.clone())));
        within(LIMIT, move || trial::run(&config, Input::Named(named), workers, false).map_err(|e| e.to_string()))?
    }

    fn direct(&self, schedule: Schedule) -> Result<Written, String> {
        let (config, files, inputs) = (self.config.clone(), self.files.clone(), self.inputs.clone());
        let out = self.dir.path().join("direct");
        within(LIMIT, move || direct::run(&config, &files, &inputs, schedule, &out))?
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn a_replay_writes_what_the_model_says((logs, setup) in logs_and_setup(4, 80)) {
        let case = Case::new(&logs, &setup);
        let mut first: Option<Written> = None;
        for workers in 1..=3 {
            let written = case.replay(workers).map_err(|e| TestCaseError::fail(format!("-w {workers}: {e}")))?;
            if let Err(problems) = case.expected.compare(&written) {
                prop_assert!(false, "-w {}:\n{}{}", workers, problems, setup.toml(""));
            }
            if let Some(first) = &first {
                let same = first.same_bytes(&written);
                prop_assert!(same.is_ok(), "-w 1 and -w {}: {}", workers, same.unwrap_err());
            }
            first.get_or_insert(written);
        }
        for workers in [1, 3] {
            let trial = case.trial(workers).map_err(TestCaseError::fail)?;
            if let Err(problems) = case.expected.compare_trial(&trial) {
                prop_assert!(false, "-w {}: {}\n{}", workers, problems, setup.toml(""));
            }
        }
    }

    #[test]
    fn batches_and_delays_change_nothing(
        (logs, setup) in logs_and_setup(5, 120),
        workers in 1usize..4,
        threads in 1usize..4,
        lines in prop_oneof![Just(1usize), 1usize..50],
        bytes in prop_oneof![Just(1usize), 100usize..2_000, Just(64usize << 20)],
        seed in any::<u64>(),
    ) {
        let case = Case::new(&logs, &setup);
        let schedule = Schedule { workers, threads, lines, bytes, seed };
        let written = case.direct(schedule).map_err(TestCaseError::fail)?;
        if let Err(problems) = case.expected.compare(&written) {
            prop_assert!(false, "{}{}", problems, setup.toml(""));
        }
    }

    #[test]
    fn records_are_measured_by_their_timestamps(
        (logs, setup) in logs_and_setup(4, 80),
        workers in 1usize..4,
        lines in prop_oneof![Just(1usize), 1usize..50],
        seed in any::<u64>(),
    ) {
        let case = Case::of_records(&logs, &setup, seed);
        let schedule = Schedule { workers, threads: 2, lines, bytes: 2_000, seed };
        let written = case.direct(schedule).map_err(TestCaseError::fail)?;
        if let Err(problems) = case.expected.compare(&written) {
            prop_assert!(false, "{}{}", problems, setup.toml(""));
        }
    }
}

/// Generated traffic with every attack, as files by host; what was injected comes with it.
fn attacked(dir: &Path, count: u64) -> (Vec<PathBuf>, Vec<tidewatch_connectors::generator::Label>) {
    let mut spec = GeneratorSpec::demo(7, EventTime(1_772_704_800_000));
    spec.count = Some(count);
    for extra in
        ["slow-scan:10s:100s", "credential-stuffing:15s:60s", "exfiltration:30s:30s", "silence:80s:20s:host=web3"]
    {
        spec.attacks.push(flags::attack(extra).unwrap());
    }
    let mut generator = Generator::new(spec).unwrap();
    let mut logs = vec![Vec::new(); generator.hosts().len()];
    let mut line = Vec::new();
    while let Some(meta) = generator.next_line(&mut line) {
        logs[meta.host].append(&mut line);
        if logs[meta.host].last() != Some(&b'\n') {
            logs[meta.host].push(b'\n');
        }
    }
    let write = |(i, log): (usize, Vec<u8>)| {
        let path = dir.join(format!("web{}.log", i + 1));
        std::fs::write(&path, log).unwrap();
        path
    };
    (logs.into_iter().enumerate().map(write).collect(), generator.labels())
}

/// The defaults, for files of this format.
fn defaults(dir: &Path) -> (Config, PathBuf) {
    let paths = dir.join("*.log").display().to_string();
    let text = format!("[[source]]\nkind = \"file\"\npaths = [{paths:?}]\nformat = \"nginx-json\"\nhost = \"web\"\n");
    let path = dir.join("tidewatch.toml");
    std::fs::write(&path, &text).unwrap();
    let source = SourceText::new("tidewatch.toml", text.as_str());
    let config = tidewatch::config::parse(source, &Default::default(), &|_| None).unwrap();
    (config, path)
}

/// `MODEL_EVENTS=200000` looks longer.
#[test]
fn built_in_rules_find_what_was_injected_as_the_model_says() {
    let events = std::env::var("MODEL_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(24_000);
    let dir = tempfile::tempdir().unwrap();
    let (files, labels) = attacked(dir.path(), events);
    let (config, _) = defaults(dir.path());
    let inputs = model::inputs(&config, &files);
    let time = config.time;
    let settings = Settings { rules: config.rules.clone(), ..Settings::default() };
    let as_configured = (time.max_out_of_order.0, time.allowed_lateness.0, time.max_ahead.0, config.windows.size.0);
    let defaults = (settings.max_out_of_order, settings.allowed_lateness, settings.max_ahead, settings.window_size);
    assert_eq!(as_configured, defaults);
    let expected = Expected::of(&config, &files, &inputs, &settings);
    let case = Case { dir, files, config, inputs, expected };
    let one = case.replay(1).unwrap();
    case.expected.compare(&one).unwrap();
    case.replay(3).unwrap().same_bytes(&one).unwrap();
    let alerts: Vec<Alert> = one.alerts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let missed: Vec<_> = (labels.iter())
        .filter(|label| {
            label.rule.is_some_and(|rule| {
                !alerts.iter().any(|alert| {
                    let subject = label.subject.iter().all(|(field, value)| alert.subject.get(*field) == Some(value));
                    alert.rule == rule && subject && alert.first <= label.to && label.from <= alert.last
                })
            })
        })
        .collect();
    assert!(missed.is_empty(), "{} of {} not found: {missed:#?}", missed.len(), labels.len());
    assert!(labels.iter().filter(|label| label.rule.is_some()).count() >= 5);
}

/// A case of files of a format, each of these texts one, and what else a configuration says.
fn case_of(format: &str, files: &[String], more: &str) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let name = |at: usize| dir.path().join(format!("{at}.log"));
    (0..files.len()).for_each(|at| std::fs::write(name(at), &files[at]).unwrap());
    let paths = dir.path().join("*.log").display().to_string();
    let text = format!(
        "[windows]\nmax_hosts = 16\n[[source]]\nkind = \"file\"\npaths = [{paths:?}]\nformat = \"{format}\"\n{more}"
    );
    let source = SourceText::new("tidewatch.toml", text.as_str());
    let config = tidewatch::config::parse(source, &Default::default(), &|_| None).unwrap();
    let files: Vec<PathBuf> = (0..files.len()).map(name).collect();
    let inputs = model::inputs(&config, &files);
    let settings = Settings { rules: config.rules.clone(), max_hosts: 16, ..Settings::default() };
    let expected = Expected::of(&config, &files, &inputs, &settings);
    Case { dir, files, config, inputs, expected }
}

impl Case {
    /// What one worker writes, and two, as the model says.
    fn written(&self) -> Written {
        let one = self.replay(1).unwrap();
        self.expected.compare(&one).unwrap();
        self.replay(2).unwrap().same_bytes(&one).unwrap();
        one
    }
}

#[test]
fn hosts_that_clients_made_up_crowd_nobody_out_where_hosts_are_named() {
    let hash = |name: &str| tidewatch_events::hash::of(name.as_bytes());
    let shop = "shop.example";
    // Of the shop's shard, and before it by hash: more than are kept until a window closes.
    let crafted = (0..).map(|n| format!("x{n}.evil.example"));
    let is_before = |name: &String| hash(name) >> 40 & 15 == hash(shop) >> 40 & 15 && hash(name) < hash(shop);
    let crafted: Vec<String> = crafted.filter(is_before).take(20).collect();
    let line = |host: &str, status: u16| {
        format!(
            "{{\"time_iso8601\":\"2026-03-05T12:00:00+00:00\",\"host\":\"{host}\",\"remote_addr\":\"192.0.2.1\",\
             \"request\":\"GET / HTTP/1.1\",\"status\":{status},\"body_bytes_sent\":1}}\n"
        )
    };
    // The shop's name comes in two spellings, and one of its hosts below the domain.
    let own: String = [shop, "SHOP.example", "A.shop.example"].map(|host| line(host, 500).repeat(10)).concat();
    let files = [own, crafted.iter().map(|host| line(host, 500).repeat(10)).collect()];
    let rule = "[[rule]]\nname = \"errors-of-a-host\"\nwhere = { status = 500 }\ngroup_by = [\"host\"]\n\
                measure = \"count\"\nwindow = \"10s\"\nthreshold = 10\n";
    let requests = |written: &Written, host: &str| -> Option<u64> {
        let line = written.metrics.lines().find(|line| line.starts_with(&format!("http_stats,host={host} ")))?;
        line.split("requests=").nth(1)?.split('i').next()?.parse().ok()
    };
    let all = case_of("nginx-json", &files, rule).written();
    assert_eq!(requests(&all, shop), None, "it is crowded out where any host counts");
    assert!(all.alerts.contains("evil"));
    for hosts in
        ["hosts = [\"shop.example\", \"*.shop.example\"]\n", "hosts = [\"*.SHOP.example\", \"Shop.example\"]\n"]
    {
        let own = case_of("nginx-json", &files, &format!("{hosts}{rule}")).written();
        assert_eq!((requests(&own, shop), requests(&own, "a.shop.example")), (Some(20), Some(10)));
        assert_eq!(requests(&own, "other"), Some(200));
        let subjects: BTreeSet<String> = (own.alerts.lines())
            .map(|line| serde_json::from_str::<Alert>(line).unwrap())
            .filter(|alert| alert.rule == "errors-of-a-host")
            .map(|alert| alert.subject["host"].clone())
            .collect();
        let want = [shop, "a.shop.example", "other"].map(str::to_owned);
        assert_eq!(subjects, want.into_iter().collect(), "{hosts}");
        assert!(own.alerts.contains("evil"), "lines stay as they are");
        assert!(!own.metrics.contains("evil") && own.metrics.contains("host=other"));
    }
}

#[test]
fn templates_that_clients_made_up_are_others() {
    // Words without digits, so that each message is a template of its own: more than are told apart.
    let word = |mut n: usize| {
        let mut word = String::new();
        for _ in 0..4 {
            word.push((b'a' + (n % 26) as u8) as char);
            n /= 26;
        }
        word
    };
    let line = |level: &str, n: usize| format!("2026/03/05 12:00:00 [{level}] 31#31: *1 made up {}\n", word(n));
    let all = 16 * 200 + 300;
    let levels = ["error", "crit", "warn"];
    let halves: Vec<String> = (0..2)
        .map(|half| {
            // Some come twice, in both files or in one.
            let here = (0..all).filter(|n| n % 2 == half || n % 7 == 0);
            here.map(|n| line(levels[n % 3], n).repeat(1 + usize::from(n % 5 == 0))).collect()
        })
        .collect();
    let events: usize = halves.iter().map(|text| text.lines().count()).sum();
    let written = case_of("nginx-error", &halves, "host = \"web\"\n").written();
    let points: Vec<&str> = written.metrics.lines().filter(|line| line.starts_with("error_events")).collect();
    let count = |line: &str| line.split("count=").nth(1).unwrap().split('i').next().unwrap().parse::<usize>().unwrap();
    assert_eq!(points.iter().map(|line| count(line)).sum::<usize>(), events, "nothing is lost");
    assert_eq!(points.len(), 200 + levels.len());
}

/// The processes of a cluster, each with the file it writes to; those that are left are killed.
struct Cluster(Vec<(Child, PathBuf)>);

impl Cluster {
    /// Starts `tidewatch replay` in two processes on this machine.
    fn start(dir: &Path, config: &Path, from: &[PathBuf], workers: usize) -> Cluster {
        let listeners: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let hosts: String = listeners.iter().map(|l| format!("{}\n", l.local_addr().unwrap())).collect();
        drop(listeners);
        let hostfile = dir.join("hosts");
        std::fs::write(&hostfile, hosts).unwrap();
        let start = |index: usize| {
            let log = dir.join(format!("said-{index}"));
            let file = std::fs::File::create(&log).unwrap();
            let child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
                .arg("replay")
                .args(["-w", &workers.to_string(), "-n", "2", "-p", &index.to_string(), "-h"])
                .arg(&hostfile)
                .arg("-c")
                .arg(config)
                .arg("--out")
                .arg(dir.join("cluster"))
                .arg("--from")
                .args(from)
                .stdout(file.try_clone().unwrap())
                .stderr(file)
                .spawn()
                .unwrap();
            (child, log)
        };
        Cluster(vec![start(0), start(1)])
    }

    /// What a process said so far.
    fn said(&self, index: usize) -> String {
        std::fs::read_to_string(&self.0[index].1).unwrap()
    }

    /// Waits for the end of a process; what it said.
    fn end(&mut self, index: usize, limit: Duration) -> (ExitStatus, String) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0[index].0.try_wait().unwrap() {
                return (status, self.said(index));
            }
            assert!(started.elapsed() < limit, "process {index} has not ended after {limit:?}: {}", self.said(index));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (process, _) in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn two_processes_write_the_same_bytes_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let (files, _) = attacked(dir.path(), 8_000);
    let (config, path) = defaults(dir.path());
    let mut cluster = Cluster::start(dir.path(), &path, &files, 2);
    for index in [0, 1] {
        let (status, said) = cluster.end(index, LIMIT);
        assert!(status.success(), "process {index}: {said}");
    }
    let out = dir.path().join("one");
    let options = ReplayOptions { from: from(files), out: out.clone(), workers: 1, cluster: None, labels: None };
    within(LIMIT, move || tidewatch::engine::replay(&config, options)).unwrap().unwrap();
    Written::read(&out).unwrap().same_bytes(&Written::read(&dir.path().join("cluster")).unwrap()).unwrap();
}

/// A cluster that reads from a pipe that nobody closes while the second value lives, and is connected.
fn endless(dir: &Path) -> (Cluster, std::fs::File) {
    let pipe = dir.join("access.log");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (_, path) = defaults(dir);
    let mut cluster = Cluster::start(dir, &path, std::slice::from_ref(&pipe), 1);
    let writer = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let begun = Instant::now();
    for index in [0, 1] {
        while !cluster.said(index).contains("connected to all processes of the cluster") {
            assert_eq!(cluster.0[index].0.try_wait().unwrap(), None, "process {index}: {}", cluster.said(index));
            assert!(begun.elapsed() < LIMIT, "process {index}: {}", cluster.said(index));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    (cluster, writer)
}

#[test]
fn every_process_of_a_replay_hears_a_signal() {
    for index in [1, 0] {
        let dir = tempfile::tempdir().unwrap();
        let (mut cluster, _writer) = endless(dir.path());
        let process = rustix::process::Pid::from_child(&cluster.0[index].0);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        let (status, said) = cluster.end(index, LIMIT);
        assert_eq!(status.code(), Some(130), "process {index}: {said}");
        let (status, said) = cluster.end(1 - index, LIMIT);
        assert_eq!(status.code(), Some(75), "the other one: {said}");
    }
}

#[test]
fn a_process_whose_peer_is_killed_ends_with_75() {
    for killed in [1, 0] {
        let dir = tempfile::tempdir().unwrap();
        let (mut cluster, writer) = endless(dir.path());
        cluster.0[killed].0.kill().unwrap();
        let (status, said) = cluster.end(1 - killed, Duration::from_secs(30));
        assert_eq!(status.code(), Some(75), "{said}");
        // It is seen to have gone, not missed after a while.
        assert!(!said.contains("silent"), "{said}");
        let lines: Vec<&str> = said.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert_eq!(lines.len(), 1, "{said}");
        assert!(lines[0].contains(&format!("process {killed}")), "{said}");
        drop(writer);
    }
}

#[test]
fn a_replay_that_cannot_write_reads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A pipe that nobody closes: whoever reads it never ends.
    let pipe = dir.path().join("access.log");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _writer = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let (config, file) = defaults(dir.path());
    let out = file.join("out");
    let options = ReplayOptions { from: from(vec![pipe]), out, workers: 2, cluster: None, labels: None };
    let failure = within(LIMIT, move || tidewatch::engine::replay(&config, options)).unwrap().unwrap_err();
    assert!(failure.to_string().contains("cannot create"), "{failure}");
}
