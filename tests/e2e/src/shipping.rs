//! What tests of the host agent share: a broker of their own, writers of logs, and what stands in a topic.
#![allow(clippy::unwrap_used)]

use crate::process::{Running, Said, Signal, finish, free_ports, root};
use crate::servers::{kafka, kafka_tool, unique};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A broker of this test's own, stopped and wiped when dropped.
pub struct Broker {
    port: u16,
    home: PathBuf,
    /// Whether clients of the listener with TLS need a certificate; without, there is no such listener.
    is_secure: bool,
}

impl Broker {
    /// One without TLS.
    pub fn start(dir: &Path) -> Broker {
        Broker::start_as(dir, false)
    }

    /// One with a listener that wants a password and a certificate of each client.
    pub fn secure(dir: &Path) -> Broker {
        Broker::start_as(dir, true)
    }

    fn start_as(dir: &Path, is_secure: bool) -> Broker {
        // It takes this port and the next two, and somebody else may be quicker.
        let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        for attempt in 1.. {
            let port = free_ports(1)[0];
            if port >= 65_000 || !is_free(port + 1) || !is_free(port + 2) {
                continue;
            }
            let broker = Broker { port, home: dir.join(format!("kafka-{port}")), is_secure };
            let said = broker.try_to_tell("up");
            if said.code == Some(0) {
                return broker;
            }
            let is_taken = ["something else listens", "Address already in use"].iter().any(|w| said.err.contains(w));
            assert!(is_taken && attempt < 100, "kafka-up up: {said:#?}");
        }
        unreachable!("the attempts have an end");
    }

    /// `up` or `down`.
    pub fn tell(&self, what: &str) {
        let said = self.try_to_tell(what);
        assert_eq!(said.code, Some(0), "kafka-up {what}: {said:#?}");
    }

    fn try_to_tell(&self, what: &str) -> Said {
        let mut command = Command::new(root().join("scripts/kafka-up"));
        finish(
            command
                .arg(what)
                .env("KAFKA_PORT", self.port.to_string())
                .env("KAFKA_HOME", &self.home)
                .env("KAFKA_HEAP", "256m")
                .envs(
                    self.is_secure
                        .then_some([("KAFKA_SECURE", "1"), ("KAFKA_CLIENT_CERTS", "1")])
                        .into_iter()
                        .flatten(),
                ),
        )
    }

    /// `security` of a configuration for the listener with TLS; without a certificate of its own where `cert` is not.
    pub fn security(&self, cert: bool) -> String {
        let tls = |name: &str| self.home.join("tls").join(name);
        let own = format!(", cert = {:?}, key = {:?}", tls("client.crt"), tls("client.key"));
        format!(
            "security = {{ protocol = \"sasl_ssl\", mechanism = \"SCRAM-SHA-256\", username = \"tidewatch\", \
             password = \"tidewatch-secret\", ca = {:?}{} }}\n",
            tls("ca.crt"),
            if cert { own.as_str() } else { "" }
        )
    }

    /// The listener with TLS.
    pub fn secure_address(&self) -> String {
        format!("127.0.0.1:{}", self.port + 2)
    }

    /// The listener without.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let mut command = Command::new(root().join("scripts/kafka-up"));
        let _ = command.arg("wipe").env("KAFKA_PORT", self.port.to_string()).env("KAFKA_HOME", &self.home).output();
    }
}

/// A broker of a test's own, a topic there, and a directory and a port for the agent.
pub struct OwnBroker {
    /// Of the test.
    pub dir: tempfile::TempDir,
    /// Stopped when dropped.
    pub broker: Broker,
    /// The broker's listener without TLS.
    pub address: String,
    /// A topic of three partitions.
    pub topic: String,
    /// For the agent's metrics.
    pub port: u16,
}

impl OwnBroker {
    /// `None`, with a line that says so, where tests may not use a broker.
    pub fn start(test: &str) -> Option<OwnBroker> {
        kafka(test)?;
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(dir.path());
        let (address, topic, port) = (broker.address(), unique("ship"), free_ports(1)[0]);
        create_topic(&address, &topic);
        Some(OwnBroker { dir, broker, address, topic, port })
    }

    /// See [`ship_to`].
    pub fn config(&self, paths: &[PathBuf], rest: &str) -> PathBuf {
        ship_to(self.dir.path(), paths, (&self.address, &self.topic), rest, self.port)
    }
}

/// A configuration of an agent that ships files to a topic; `rest` are more keys of `[output]`, and tables.
pub fn ship_to(dir: &Path, paths: &[PathBuf], (address, topic): (&str, &str), rest: &str, port: u16) -> PathBuf {
    let config = dir.join("ship.toml");
    let text = format!(
        "data_dir = {:?}\nhost = \"web1\"\n[[input]]\npaths = {paths:?}\n[output]\nkind = \"kafka\"\nbrokers = {address:?}\n\
         topic = {topic:?}\n{rest}[metrics]\nlisten = \"127.0.0.1:{port}\"\n",
        dir.join("data"),
    );
    std::fs::write(&config, text).unwrap();
    config
}

/// What an agent counts under a name, 0 where it does not answer.
pub fn counted(port: u16, name: &str) -> u64 {
    metric(port, &format!("tidewatch_ship_{name}")).unwrap_or(0)
}

/// Waits until nothing is read, spooled or under way that is not shipped.
pub fn shipped(port: u16) {
    std::thread::sleep(Duration::from_secs(6)); // behind is looked at every 5 s
    until("everything is shipped", Duration::from_secs(180), || {
        ["bytes_behind", "bytes_in_flight", "spool_bytes"]
            .iter()
            .all(|name| metric(port, &format!("tidewatch_ship_{name}")) == Some(0))
    });
}

/// Makes a topic of three partitions.
pub fn create_topic(broker: &str, topic: &str) {
    create_topic_with(broker, topic, &[]);
}

/// The same, with more arguments of Kafka's tool.
pub fn create_topic_with(broker: &str, topic: &str, more: &[&str]) {
    let class = "org.apache.kafka.tools.TopicCommand";
    let args = ["--bootstrap-server", broker, "--create", "--topic", topic, "--partitions", "3"];
    let said = kafka_tool(class, &[&args[..], more].concat());
    assert_eq!(said.code, Some(0), "{said:#?}");
}

/// A record as Kafka's own consumer shows it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The header `host`.
    pub host: String,
    /// The stream of the position.
    pub stream: String,
    /// Where it ends in its file.
    pub end: u64,
    /// The line.
    pub line: String,
}

/// All records of a topic of a test's own, as Kafka's own consumer shows them with their headers.
pub fn shown(broker: &str, topic: &str) -> String {
    let said = kafka_tool("org.apache.kafka.tools.GetOffsetShell", &["--bootstrap-server", broker, "--topic", topic]);
    let ends = said.out.lines().filter_map(|line| line.strip_prefix(topic)?.rsplit(':').next()?.parse::<u64>().ok());
    let count: u64 = ends.sum();
    assert!(count > 0, "nothing is in topic {topic}: {said:#?}");
    let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let count = count.to_string();
    let args = [
        "--bootstrap-server",
        broker,
        "--topic",
        topic,
        "--from-beginning",
        "--max-messages",
        &count,
        "--timeout-ms",
        "120000",
        "--formatter-property",
        "print.headers=true",
    ];
    kafka_tool(class, &args).out
}

/// All records of a topic, partition by partition in order.
pub fn records(broker: &str, topic: &str) -> Vec<Seen> {
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
    shown(broker, topic).lines().filter(|text| !text.is_empty()).map(parse).collect()
}

/// The lines once each, by the rule of docs/SHIP.md (the streams of a test are in one partition each), and how many came twice.
pub fn once(all: Vec<Seen>) -> (Vec<String>, usize) {
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

/// Starts `tidewatch ship`; what it says goes to `log`.
pub fn start_agent(config: &Path, log: PathBuf) -> Running {
    Running::start(&["ship", "-c", config.to_str().unwrap()], log)
}

/// Ends one, expects 0 of it, and gives what it said.
pub fn end_agent(mut agent: Running) -> String {
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait(Duration::from_secs(60)).0, 0, "{}", agent.said());
    agent.said()
}

/// The value of a metric, where it is served.
pub fn metric(port: u16, name: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse::<f64>().ok().map(|value| value as u64)
}

/// Waits for something.
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    crate::until(what, limit, || done().then_some(()));
}

/// Line `n` of a writer, in the combined format; the time goes on a second each hundred lines.
pub fn line(writer: &str, n: usize) -> String {
    let (minute, second) = (n / 6000, n / 100 % 60);
    format!(
        "10.0.0.{} - - [05/Mar/2026:10:{minute:02}:{second:02} +0000] \"GET /{writer}/{n} HTTP/1.1\" 200 {n} \"-\" \"test\"",
        n % 200
    )
}

/// Writes lines until told to stop; rotates every so many. Returns them.
pub fn write(path: &Path, writer: &str, copy: bool, stop: &AtomicBool) -> Vec<String> {
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
            // Far more generations than are written while a broker starts.
            (1..60).rev().for_each(|n| drop(std::fs::rename(rotated(n), rotated(n + 1))));
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

/// Every line that was written, once, and no other.
pub fn compare(got: Vec<String>, want: &[String]) {
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

/// An authority (`ca.pem`), a certificate of it for 127.0.0.1 (`collector.pem`), and one for an agent (`agent.pem`).
pub fn certificates(dir: &Path) {
    let script = "set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=test CA' -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=collector' -keyout collector.key -out collector.csr
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' > san
openssl x509 -req -in collector.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out collector.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=web1' -keyout agent.key -out agent.csr
openssl x509 -req -in agent.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out agent.pem";
    let said = finish(Command::new("sh").arg("-c").arg(script).current_dir(dir));
    assert_eq!(said.code, Some(0), "{said:#?}");
}
