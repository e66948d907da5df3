//! The host agent against a real broker: files that rotate under load, an agent that is killed again and again, a broker
//! that is restarted; a collector between. What stands in the topic, read with Kafka's own consumer and counted once by the
//! headers, is exactly what was written, and `tidewatch run` over it says the same.
//!
//! Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` names a broker. The test of restarts starts one of its own.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidewatch_e2e::process::{Running, Signal, finish, free_ports, root};
use tidewatch_e2e::servers::{Topics, kafka, kafka_tool, unique};

/// A broker of this test's own, stopped and wiped when dropped.
struct Broker {
    port: u16,
    home: PathBuf,
}

impl Broker {
    fn start(dir: &Path) -> Broker {
        // It takes this port and the next.
        let port = loop {
            let port = free_ports(1)[0];
            if port < 65_000 && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
                break port;
            }
        };
        let broker = Broker { port, home: dir.join("kafka") };
        broker.tell("up");
        broker
    }

    fn tell(&self, what: &str) {
        let mut command = Command::new(root().join("scripts/kafka-up"));
        let said = finish(
            command
                .arg(what)
                .env("KAFKA_PORT", self.port.to_string())
                .env("KAFKA_HOME", &self.home)
                .env("KAFKA_HEAP", "256m"),
        );
        assert_eq!(said.code, Some(0), "kafka-up {what}: {said:#?}");
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let mut command = Command::new(root().join("scripts/kafka-up"));
        let _ = command.arg("wipe").env("KAFKA_PORT", self.port.to_string()).env("KAFKA_HOME", &self.home).output();
    }
}

fn create_topic(broker: &str, topic: &str) {
    let class = "org.apache.kafka.tools.TopicCommand";
    let args = ["--bootstrap-server", broker, "--create", "--topic", topic, "--partitions", "3"];
    let said = kafka_tool(class, &args);
    assert_eq!(said.code, Some(0), "{said:#?}");
}

/// A record as Kafka's own consumer shows it.
#[derive(Clone, Debug)]
struct Seen {
    host: String,
    stream: String,
    end: u64,
    line: String,
}

/// All records of a topic, partition by partition in order.
fn records(broker: &str, topic: &str) -> Vec<Seen> {
    let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let args = [
        "--bootstrap-server",
        broker,
        "--topic",
        topic,
        "--from-beginning",
        "--timeout-ms",
        "4000",
        "--formatter-property",
        "print.headers=true",
    ];
    let said = kafka_tool(class, &args);
    let parse = |text: &str| {
        let (headers, line) = text.split_once('\t').unwrap_or_else(|| panic!("no headers: {text}"));
        let header = |name: &str| {
            let found = headers.split(',').find_map(|h| h.strip_prefix(name)?.strip_prefix(':'));
            found.unwrap_or_else(|| panic!("no header {name}: {text}")).to_owned()
        };
        let position = header("tidewatch-position");
        let parts: Vec<&str> = position.split(':').collect();
        Seen {
            host: header("host"),
            stream: parts[0].to_owned(),
            end: parts[2].parse().unwrap(),
            line: line.to_owned(),
        }
    };
    said.out.lines().filter(|text| !text.is_empty()).map(parse).collect()
}

/// The lines once each, by the rule of docs/SHIP.md (the streams of a test are in one partition each), and how many came twice.
fn once(all: Vec<Seen>) -> (Vec<String>, usize) {
    let mut far: BTreeMap<(String, String), u64> = BTreeMap::new();
    let (mut lines, mut twice) = (Vec::new(), 0);
    for Seen { host, stream, end, line } in all {
        let far = far.entry((host, stream)).or_default();
        if end > *far {
            *far = end;
            lines.push(line);
        } else {
            twice += 1;
        }
    }
    (lines, twice)
}

/// The value of a metric, where it is served.
fn metric(port: u16, name: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse::<f64>().ok().map(|value| value as u64)
}

fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Line `n` of a writer, in the combined format; the time goes on a second each hundred lines.
fn line(writer: &str, n: usize) -> String {
    let (minute, second) = (n / 6000, n / 100 % 60);
    format!(
        "10.0.0.{} - - [05/Mar/2026:10:{minute:02}:{second:02} +0000] \"GET /{writer}/{n} HTTP/1.1\" 200 {n} \"-\" \"test\"",
        n % 200
    )
}

/// Writes lines until told to stop; rotates every so many. Returns them.
fn write(path: &Path, writer: &str, copy: bool, stop: &AtomicBool) -> Vec<String> {
    let rotated = |n: usize| PathBuf::from(format!("{}.{n}", path.display()));
    let open = || OpenOptions::new().create(true).append(true).open(path).unwrap();
    let mut file: File = open();
    let mut written = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut text = String::new();
        for _ in 0..20 {
            let line = line(writer, written.len());
            text.push_str(&line);
            text.push('\n');
            written.push(line);
        }
        file.write_all(text.as_bytes()).unwrap();
        if written.len() % 4000 == 0 {
            (1..8).rev().for_each(|n| drop(std::fs::rename(rotated(n), rotated(n + 1))));
            if copy {
                std::fs::copy(path, rotated(1)).unwrap();
                file.set_len(0).unwrap();
            } else {
                std::fs::rename(path, rotated(1)).unwrap();
                file = open();
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    written
}

fn compare(got: Vec<String>, want: &[String]) {
    let (unique, all): (BTreeSet<&String>, BTreeSet<&String>) = (got.iter().collect(), want.iter().collect());
    let missing: Vec<_> = all.difference(&unique).take(5).collect();
    let odd: Vec<_> = unique.difference(&all).take(5).collect();
    assert!(
        missing.is_empty() && odd.is_empty(),
        "{} of {} are missing: {missing:#?}; never written: {odd:#?}",
        all.difference(&unique).count(),
        all.len()
    );
    assert_eq!((got.len(), unique.len()), (want.len(), all.len()), "each once");
}

#[test]
fn every_line_arrives_once_through_rotation_kills_and_a_restart_of_the_broker() {
    if kafka("every_line_arrives_once_through_rotation_kills_and_a_restart_of_the_broker").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let (address, topic) = (broker.address(), unique("ship"));
    create_topic(&address, &topic);
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let ports = free_ports(2);
    let config = dir.path().join("ship.toml");
    let (data, pattern) = (dir.path().join("data"), logs.join("*.log"));
    std::fs::write(
        &config,
        format!(
            "data_dir = {data:?}\nhost = \"web1\"\n[[input]]\npaths = [{pattern:?}]\n[output]\nkind = \"kafka\"\nbrokers = {address:?}\n\
             topic = {topic:?}\npartition_by = \"file\"\n[spool]\nafter = \"500ms\"\n[metrics]\nlisten = \"127.0.0.1:{}\"\n",
            ports[0]
        ),
    )
    .unwrap();
    let args = ["ship", "-c", config.to_str().unwrap()];
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [("renamed", false), ("copied", true)]
        .into_iter()
        .map(|(name, copy)| {
            let (path, stop) = (logs.join(format!("{name}.log")), stop.clone());
            std::thread::spawn(move || write(&path, name, copy, &stop))
        })
        .collect();
    // Killed again and again, at moments that have nothing to do with the writers'.
    for round in 0..9u64 {
        let running = Running::start(&args, dir.path().join(format!("ship-{round}.log")));
        std::thread::sleep(Duration::from_millis(700 + 230 * (round % 4)));
        if round == 4 {
            // The broker goes while the agent runs: what comes goes into the spool.
            broker.tell("down");
            until("the spool is used", Duration::from_secs(20), || {
                metric(ports[0], "tidewatch_ship_records_spooled_total").is_some_and(|n| n > 2000)
            });
        }
        running.signal(Signal::KILL);
        drop(running);
        if round == 4 {
            broker.tell("up");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let written: Vec<String> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    let mut last = Running::start(&args, dir.path().join("ship-last.log"));
    until("everything is shipped", Duration::from_secs(40), || {
        let is = |name: &str, value: u64| metric(ports[0], name) == Some(value);
        let read = metric(ports[0], "tidewatch_ship_files").is_some_and(|files| files == 2);
        // Behind is looked at every 5 s.
        read && is("tidewatch_ship_bytes_behind", 0)
            && is("tidewatch_ship_bytes_in_flight", 0)
            && is("tidewatch_ship_spool_bytes", 0)
            && last.said().contains("shipping")
    });
    std::thread::sleep(Duration::from_secs(6));
    let lost = ["tidewatch_ship_bytes_lost_total", "tidewatch_ship_spool_damaged_frames_total"];
    assert_eq!(lost.map(|name| metric(ports[0], name)), [Some(0), Some(0)]);
    last.signal(Signal::TERM);
    assert_eq!(last.wait(Duration::from_secs(20)).0, 0, "{}", last.said());
    let all = records(&address, &topic);
    let total = all.len();
    let (got, twice) = once(all);
    eprintln!("{} lines written, {total} records in the topic, {twice} of them twice", written.len());
    compare(got, &written);
    // The same as the engine sees it.
    let run = dir.path().join("run.toml");
    std::fs::write(
        &run,
        format!(
            "data_dir = {:?}\n[[source]]\nkind = \"kafka\"\nbrokers = {address:?}\ntopics = [{topic:?}]\nstart = \"earliest\"\nformat = \"combined\"\n\
             [page]\nlisten = \"127.0.0.1:{}\"\n",
            dir.path().join("run"),
            ports[1]
        ),
    )
    .unwrap();
    let mut engine = Running::start(&["run", "-c", run.to_str().unwrap()], dir.path().join("run.log"));
    let counts = || {
        let count = |name: &str| metric(ports[1], name).unwrap_or(0);
        (
            count("tidewatch_events_parsed_total"),
            count("tidewatch_lines_rejected_total"),
            count("tidewatch_kafka_duplicates_total"),
        )
    };
    until("the engine has read all", Duration::from_secs(30), || {
        let (events, rejected, duplicates) = counts();
        events + rejected + duplicates >= total as u64
    });
    assert_eq!(counts(), (written.len() as u64, 0, twice as u64), "events, rejected, duplicates");
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait(Duration::from_secs(30)).0, 0, "{}", engine.said());
}

/// An authority and a certificate for 127.0.0.1.
fn certificates(dir: &Path) {
    let script = "set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=test CA' -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=collector' -keyout collector.key -out collector.csr
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' > san
openssl x509 -req -in collector.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out collector.pem";
    let said = finish(Command::new("sh").arg("-c").arg(script).current_dir(dir));
    assert_eq!(said.code, Some(0), "{said:#?}");
}

#[test]
fn every_line_arrives_once_through_a_collector_that_is_killed_as_the_agent_is() {
    let Some(address) = kafka("every_line_arrives_once_through_a_collector_that_is_killed_as_the_agent_is") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let topics = Topics { broker: address.clone(), names: vec![unique("ship")] };
    let topic = &topics.names[0];
    create_topic(&address, topic);
    certificates(dir.path());
    let at = |name: &str| dir.path().join(name);
    let ports = free_ports(3);
    let (collector, agent, stranger) = (at("collector.toml"), at("agent.toml"), at("stranger.toml"));
    std::fs::write(
        &collector,
        format!(
            "data_dir = {:?}\nhost = \"collector\"\n[collector]\nlisten = \"127.0.0.1:{}\"\ncert = {:?}\nkey = {:?}\ntoken = \"let me in\"\n\
             [output]\nkind = \"kafka\"\nbrokers = {address:?}\ntopic = {topic:?}\n[metrics]\nlisten = \"127.0.0.1:{}\"\n",
            at("collector-data"), ports[0], at("collector.pem"), at("collector.key"), ports[1]
        ),
    )
    .unwrap();
    let agent_text = |data: &Path, token: &str, metrics: u16| {
        format!(
            "data_dir = {data:?}\nhost = \"web1\"\n[[input]]\npaths = [{:?}]\n[output]\nkind = \"tidewatch\"\naddresses = [\"127.0.0.1:{}\"]\n\
             token = {token:?}\ntls = {{ ca = {:?} }}\n[spool]\nafter = \"500ms\"\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n",
            at("a.log"),
            ports[0],
            at("ca.pem")
        )
    };
    std::fs::write(&agent, agent_text(&at("agent-data"), "let me in", ports[2])).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (path, stop) = (at("a.log"), stop.clone());
        std::thread::spawn(move || write(&path, "a", false, &stop))
    };
    let start = |config: &Path, name: &str| Running::start(&["ship", "-c", config.to_str().unwrap()], at(name));
    let mut both = (start(&collector, "collector-0.log"), start(&agent, "agent-0.log"));
    for round in 1..8 {
        std::thread::sleep(Duration::from_millis(600 + 170 * (round % 3)));
        let (which, config, name) = match round % 2 {
            0 => (&mut both.0, &collector, format!("collector-{round}.log")),
            _ => (&mut both.1, &agent, format!("agent-{round}.log")),
        };
        which.signal(Signal::KILL);
        which.wait(Duration::from_secs(5));
        *which = start(config, &name);
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap();
    until("everything is shipped", Duration::from_secs(40), || {
        let is = |port: u16, name: &str| metric(port, name) == Some(0);
        is(ports[2], "tidewatch_ship_bytes_in_flight")
            && is(ports[2], "tidewatch_ship_spool_bytes")
            && is(ports[2], "tidewatch_ship_bytes_behind")
            && is(ports[1], "tidewatch_ship_bytes_in_flight")
            && is(ports[1], "tidewatch_ship_spool_bytes")
    });
    std::thread::sleep(Duration::from_secs(6));
    // One that does not know the token is not let in.
    std::fs::write(&stranger, agent_text(&at("stranger-data"), "or me", free_ports(1)[0])).unwrap();
    let mut third = start(&stranger, "stranger.log");
    until("the stranger is refused", Duration::from_secs(10), || {
        third.said().contains("the token is not the collector's")
    });
    assert!(metric(ports[1], "tidewatch_ship_connections_refused_total").is_some_and(|n| n > 0));
    for process in [&mut third, &mut both.1, &mut both.0] {
        process.signal(Signal::TERM);
        assert_eq!(process.wait(Duration::from_secs(20)).0, 0, "{}", process.said());
    }
    let all = records(&address, topic);
    assert!(all.iter().all(|seen| seen.host == "web1"), "the host stays that of the agent");
    let (got, twice) = once(all);
    eprintln!("{} lines written, {twice} came twice", written.len());
    compare(got, &written);
}
