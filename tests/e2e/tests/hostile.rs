//! What goes wrong around `tidewatch run`, as processes: services that refuse, peers that differ, die or freeze, strangers
//! at the cluster port. Each ends with the exit code the command line promises, and says why in one line.
//!
//! The tests of clusters need no server; those of services say `SKIPPED` without one.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidewatch_e2e::process::{Cluster, Running, Signal, binary, free_ports, tidewatch_ok};
use tidewatch_e2e::servers::{Influx, Topics, kafka, unique};
use tidewatch_e2e::until;
use tidewatch_events::time::EventTime;

fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).unwrap();
    path
}

/// A configuration with a TCP source at this port and files as its sink.
fn over_tcp(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "data_dir = \"{dir}/data\"\n[[source]]\nkind = \"tcp\"\nlisten = \"127.0.0.1:{port}\"\nformat = \"combined\"\n\
         host = \"web\"\n[windows]\nearly_every = \"100ms\"\n[sink.files]\ndir = \"{dir}/out\"\n"
    )
}

/// Two processes that have formed a cluster and show results.
struct Formed {
    dir: tempfile::TempDir,
    cluster: Cluster,
    line: TcpStream,
}

impl Formed {
    fn new() -> Formed {
        Formed::with("")
    }

    /// With more in its configuration.
    fn with(more: &str) -> Formed {
        let dir = tempfile::tempdir().unwrap();
        let port = free_ports(1)[0];
        let config = write(dir.path().join("tidewatch.toml"), &(over_tcp(dir.path(), port) + more));
        let cluster = Cluster::start(&[&config, &config], dir.path(), "run");
        Formed::show(dir, cluster, port)
    }

    /// Sends lines until there are results of them: then everything stands.
    fn show(dir: tempfile::TempDir, mut cluster: Cluster, port: u16) -> Formed {
        let limit = Duration::from_secs(60);
        let line = until("the source listens", limit, || {
            cluster.assert_running();
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let mut formed = Formed { dir, cluster, line };
        until("results", limit, || {
            formed.cluster.assert_running();
            formed.send();
            formed.results().contains("http_stats").then_some(())
        });
        formed
    }

    fn send(&mut self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = EventTime(now.as_millis() as u64).to_string();
        // 2026-03-05T10:00:00.000Z, as Apache writes it.
        let (date, time) = now.split_once('T').unwrap();
        let parts: Vec<&str> = date.split('-').collect();
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let month = months[parts[1].parse::<usize>().unwrap() - 1];
        let at = format!("{}/{month}/{}:{} +0000", parts[2], parts[0], &time[..8]);
        writeln!(self.line, "10.0.0.1 - - [{at}] \"GET / HTTP/1.1\" 200 5 \"-\" \"e2e\"").unwrap();
    }

    fn results(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out/metrics.lp")).unwrap_or_default()
    }
}

#[test]
fn it_runs_on_while_nobody_is_connected() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_ports(1)[0];
    let config = write(dir.path().join("tidewatch.toml"), &over_tcp(dir.path(), port));
    let mut cluster = Cluster::start(&[&config, &config], dir.path(), "run");
    // Process 1 never reads anything, process 0 nothing yet.
    until("the source listens", Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).ok());
    std::thread::sleep(Duration::from_secs(1));
    cluster.assert_running();
    let mut formed = Formed::show(dir, cluster, port);
    // The only connection ends, and another one comes.
    formed.line = TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let before = formed.results().len();
    until("results of another connection", Duration::from_secs(120), || {
        formed.cluster.assert_running();
        formed.send();
        (formed.results().len() > before).then_some(())
    });
    formed.cluster.stop();
}

#[test]
fn sigterm_of_one_process_drains_both() {
    for asked in [0, 1] {
        let mut formed = Formed::new();
        formed.cluster.processes[asked].signal(Signal::TERM);
        for (index, process) in formed.cluster.processes.iter_mut().enumerate() {
            let (code, _) = process.wait(Duration::from_secs(60));
            assert_eq!(code, 0, "process {index} after SIGTERM of {asked}: {}", process.said());
        }
    }
}

/// Two processes of which the second reads lines that cannot be read, so many of this; the directory of results.
fn junk(dir: &Path, line: &str, lines: usize) -> (Cluster, PathBuf) {
    std::fs::write(dir.join("junk.log"), line.repeat(lines)).unwrap();
    let text = format!(
        "data_dir = \"{0}/data\"\nmemory = \"64MiB\"\n[[source]]\nkind = \"file\"\npaths = [\"{0}/junk.log\"]\nfrom = \"beginning\"\n\
         process = 1\nformat = \"combined\"\nhost = \"web\"\n[store]\nenabled = false\n[sink.files]\ndir = \"{0}/out\"\n",
        dir.display()
    );
    let config = write(dir.join("tidewatch.toml"), &text);
    (Cluster::start(&[&config, &config], dir, "run"), dir.join("out"))
}

/// How many lines dead letters stand for.
fn letters(out: &Path) -> u64 {
    let text = std::fs::read(out.join("rejected.jsonl")).unwrap_or_default();
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[test]
fn dead_letters_of_another_process_take_bounded_memory() {
    const LINES: usize = 2_200_000;
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, out) = junk(dir.path(), "x\n", LINES);
    until("all letters", Duration::from_secs(180), || {
        cluster.assert_running();
        (letters(&out) == LINES as u64).then_some(())
    });
    for (index, process) in cluster.processes.iter().enumerate() {
        let held = process.used().1 >> 20;
        assert!(held < 600, "process {index}: {held} MiB");
    }
    cluster.stop();
}

#[test]
fn a_stop_waits_for_what_other_processes_have_read() {
    // Where this thread got no time while all was read, it tells nothing, and is tried again.
    let is_tried = (0..3).any(|_| {
        let dir = tempfile::tempdir().unwrap();
        let (mut cluster, out) = junk(dir.path(), &("x".repeat(499) + "\n"), 400_000);
        until("some letters", Duration::from_secs(120), || {
            cluster.assert_running();
            (letters(&out) > 0).then_some(())
        });
        let before = letters(&out);
        cluster.stop();
        let said = cluster.processes[1].said();
        let rest = said.split("process 1 of 2: ").nth(1).unwrap();
        let read: u64 = rest.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(letters(&out), read, "{said}");
        before < read
    });
    assert!(is_tried, "it was never stopped on the way");
}

#[test]
fn a_process_that_waits_for_peers_ends_when_asked() {
    for (signal, want) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let dir = tempfile::tempdir().unwrap();
        let config = write(dir.path().join("tidewatch.toml"), &over_tcp(dir.path(), free_ports(1)[0]));
        let ports = free_ports(2);
        let hosts = write(dir.path().join("hosts"), &format!("127.0.0.1:{}\n127.0.0.1:{}\n", ports[0], ports[1]));
        let (config, hosts) = (config.display().to_string(), hosts.display().to_string());
        let args = ["run", "-c", &config, "-n", "2", "-p", "0", "-h", &hosts];
        let mut waiting = Running::start(&args, dir.path().join("run.log"));
        let port = ports[0];
        until("the cluster port listens", Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).ok());
        waiting.signal(signal);
        let (code, _) = waiting.wait(Duration::from_secs(30));
        assert_eq!(code, want, "{}", waiting.said());
    }
}

#[test]
fn a_killed_process_is_lost_at_once() {
    // A long lease is for those that pause: a connection that ends tells more.
    for (killed, more) in [(0, ""), (1, ""), (0, "[cluster]\nlease = \"5m\"\n"), (1, "[cluster]\nlease = \"5m\"\n")] {
        let mut formed = Formed::with(more);
        formed.cluster.processes[killed].signal(Signal::KILL);
        let left = &mut formed.cluster.processes[1 - killed];
        let (code, _) = left.wait(Duration::from_secs(20));
        assert_eq!(code, 75, "{}", left.said());
        // It is seen to have gone, not missed after a while.
        assert!(!left.said().contains("silent"), "{}", left.said());
        assert_eq!(left.said().matches("was lost").count(), 1, "{}", left.said());
    }
}

#[test]
fn a_frozen_process_is_lost_and_leaves_when_it_wakes() {
    for frozen in [0, 1] {
        let mut formed = Formed::new();
        formed.cluster.processes[frozen].signal(Signal::STOP);
        let [first, second] = &mut formed.cluster.processes[..] else { panic!("two processes") };
        let (asleep, left) = if frozen == 0 { (first, second) } else { (second, first) };
        let (code, took) = left.wait(Duration::from_secs(30));
        assert_eq!(code, 75, "{}", left.said());
        assert!(left.said().contains("silent for 5 s"), "{}", left.said());
        // Its last words may have come before it was asleep.
        assert!(took > Duration::from_secs(4), "{took:?}");
        // It must not go on as if nothing had happened.
        asleep.signal(Signal::CONT);
        let (code, _) = asleep.wait(Duration::from_secs(30));
        assert_eq!(code, 75, "{}", asleep.said());
    }
}

#[test]
fn a_pause_within_the_lease_is_survived() {
    for paused in [0, 1] {
        let mut formed = Formed::with("[cluster]\nlease = \"2m\"\n");
        formed.cluster.processes[paused].signal(Signal::STOP);
        // Longer than the lease is by default.
        std::thread::sleep(Duration::from_secs(7));
        formed.cluster.processes[paused].signal(Signal::CONT);
        let before = formed.results().len();
        until("results after the pause", Duration::from_secs(120), || {
            formed.cluster.assert_running();
            formed.send();
            (formed.results().len() > before).then_some(())
        });
        formed.cluster.stop();
    }
}

#[test]
fn strangers_at_the_cluster_port_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(3);
    let config = write(dir.path().join("tidewatch.toml"), &over_tcp(dir.path(), ports[2]));
    let mut strangers = Vec::new();
    let hosts = write(dir.path().join("hosts"), &format!("127.0.0.1:{}\n127.0.0.1:{}\n", ports[0], ports[1]));
    let start = |index: &str| {
        let (config, hosts) = (config.display().to_string(), hosts.display().to_string());
        let args = ["run", "-c", &config, "-w", "2", "-n", "2", "-p", index, "-h", &hosts];
        Running::start(&args, dir.path().join(format!("run-{index}.log")))
    };
    let zero = start("0");
    let address = ("127.0.0.1", ports[0]);
    // Silent, hanging up, another protocol, half a greeting, and Timely's own.
    strangers.push(until("the cluster port listens", Duration::from_secs(60), || TcpStream::connect(address).ok()));
    drop(TcpStream::connect(address));
    let timely = [0xCAFE_F00D_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat();
    for greeting in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"TIDEWTC1\xff\xff", b"TIDEW", &[0; 4096], &timely] {
        let mut stranger = TcpStream::connect(address).unwrap();
        let _ = stranger.write_all(greeting);
        strangers.push(stranger);
    }
    for _ in 0..100 {
        strangers.extend(TcpStream::connect(address).ok());
    }
    let one = start("1");
    let cluster = Cluster { processes: vec![zero, one], ports: ports[..2].to_vec() };
    let mut formed = Formed::show(dir, cluster, ports[2]);
    // And while it runs.
    strangers.extend(TcpStream::connect(address).ok());
    let mut late = TcpStream::connect(address).unwrap();
    let _ = late.write_all(b"GET / HTTP/1.1\r\n\r\n");
    std::thread::sleep(Duration::from_millis(300));
    formed.cluster.stop();
}

#[test]
fn a_process_of_another_configuration_is_turned_away_and_the_right_one_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_ports(1)[0];
    let text = over_tcp(dir.path(), port);
    let config = write(dir.path().join("a.toml"), &text);
    let other = write(dir.path().join("b.toml"), &(text + "[[rule]]\nname = \"ip-spike\"\nthreshold = 7\n"));
    let mut cluster = Cluster::start(&[&config, &other], dir.path(), "run");
    let (code, _) = cluster.processes[1].wait(Duration::from_secs(60));
    assert_eq!(code, 2, "{}", cluster.processes[1].said());
    for process in &cluster.processes {
        assert!(process.said().contains("another configuration"), "{}", process.said());
    }
    let (config, hosts) = (config.display().to_string(), dir.path().join("run.hosts").display().to_string());
    let args = ["run", "-c", &config, "-w", "2", "-n", "2", "-p", "1", "-h", &hosts];
    cluster.processes[1] = Running::start(&args, dir.path().join("right.log"));
    Formed::show(dir, cluster, port).cluster.stop();
}

/// Runs a configuration that some service refuses: what was said, and how long that took.
fn refused(dir: &Path, text: &str) -> (String, Duration) {
    let config = write(dir.join("refused.toml"), text).display().to_string();
    binary(); // built before the clock starts
    let begin = Instant::now();
    let mut process = Running::start(&["run", "-c", &config], dir.join("refused.log"));
    let (code, _) = process.wait(Duration::from_secs(60));
    let said = process.said();
    assert_eq!(code, 3, "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    (said, begin.elapsed())
}

fn from_kafka(dir: &Path, broker: &str, topic: &str) -> String {
    let dir = dir.display();
    format!(
        "data_dir = \"{dir}/data\"\n[[source]]\nkind = \"kafka\"\nbrokers = \"{broker}\"\ntopics = [\"{topic}\"]\n\
         group = \"{topic}\"\n[sink.files]\ndir = \"{dir}/out\"\n"
    )
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let (said, took) = refused(dir.path(), &from_kafka(dir.path(), &address, "logs"));
    assert!(said.contains(&address), "{said}");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn a_topic_that_does_not_exist_is_named() {
    let Some(broker) = kafka("a_topic_that_does_not_exist_is_named") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = unique("missing");
    let (said, _) = refused(dir.path(), &from_kafka(dir.path(), &broker, &topic));
    assert!(said.contains(&topic), "{said}");
}

#[test]
fn an_influxdb_that_refuses_is_named() {
    let Some(influx) = Influx::new("an_influxdb_that_refuses_is_named") else { return };
    let dir = tempfile::tempdir().unwrap();
    let nobody = format!("http://127.0.0.1:{}", free_ports(1)[0]);
    let with = |url: &str, org: &str, bucket: &str, token: &str| {
        over_tcp(dir.path(), free_ports(1)[0])
            + &format!("[sink.influx]\nurl = \"{url}\"\norg = \"{org}\"\nbucket = \"{bucket}\"\ntoken = \"{token}\"\n")
    };
    let good = write(dir.path().join("good.toml"), &with(&influx.url, &influx.org, &influx.bucket, "x"));
    let operator = [("INFLUX_OPERATOR_TOKEN", influx.operator.as_str())];
    tidewatch_ok(&["setup", "influx", "-c", &good.display().to_string()], &operator);
    let Influx { url, org, bucket, operator } = &influx;
    let rows = [
        ("wrong token", with(url, org, bucket, "not-the-token"), "token"),
        ("wrong bucket", with(url, org, "no-such-bucket", operator), "no-such-bucket"),
        ("wrong organisation", with(url, "no-such-org", bucket, operator), "no-such-org"),
        ("nobody there", with(&nobody, org, bucket, operator), nobody.as_str()),
    ];
    for (name, text, want) in rows {
        let (said, _) = refused(dir.path(), &text);
        assert!(said.contains(want), "{name}: {said}");
        assert!(
            !said.contains("not-the-token") && !said.contains(operator.as_str()),
            "{name}: a secret is shown: {said}"
        );
    }
}

#[test]
fn setup_may_be_repeated() {
    let Some(broker) = kafka("setup_may_be_repeated") else { return };
    let Some(influx) = Influx::new("setup_may_be_repeated") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topics = Topics { broker, names: vec![unique("setup")] };
    let text = from_kafka(dir.path(), &topics.broker, &topics.names[0])
        + &format!(
            "[sink.influx]\nurl = \"{}\"\norg = \"{}\"\nbucket = \"{}\"\ntoken = \"x\"\n",
            influx.url, influx.org, influx.bucket
        );
    let config = write(dir.path().join("tidewatch.toml"), &text).display().to_string();
    let operator = [("INFLUX_OPERATOR_TOKEN", influx.operator.as_str())];
    for expected in ["created", "was there"] {
        let said = tidewatch_ok(&["setup", "kafka", "-c", &config], &[]);
        assert!(said.out.contains(expected), "{said:?}");
    }
    for makes_token in [true, false] {
        let said = tidewatch_ok(&["setup", "influx", "-c", &config], &operator);
        assert_eq!(said.out.contains("shown only now"), makes_token, "{said:?}");
    }
}
