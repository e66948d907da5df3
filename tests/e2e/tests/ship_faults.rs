//! The host agent where something is wrong: a broker that goes with records under way, a spool that is full, files that are
//! none, topics that are refused, certificates that are missing. Against real brokers, started by each test.
//!
//! Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` names a broker.
#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidewatch_e2e::process::{Signal, finish, free_ports, tidewatch};
use tidewatch_e2e::servers::{Topics, kafka, unique};
use tidewatch_e2e::shipping::{
    Broker, OwnBroker, certificates, compare, counted, create_topic, create_topic_with, end_agent, line, metric, once,
    records, ship_to, shipped, shown, start_agent, until, write,
};

/// A position stands behind the acknowledgement. Were it moved when a record is sent, what the client of a broker that is
/// away holds in memory would be gone with the agent.
#[test]
fn what_was_sent_to_a_broker_that_is_gone_is_sent_again_by_the_next_agent() {
    let Some(own) = OwnBroker::start("what_was_sent_to_a_broker_that_is_gone_is_sent_again_by_the_next_agent") else {
        return;
    };
    let OwnBroker { dir, broker, address, topic, port } = &own;
    let log = dir.path().join("a.log");
    // The spool must not come to the rescue: the output is given ten minutes.
    let config = own.config(std::slice::from_ref(&log), "[spool]\nafter = \"10m\"\n");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (path, stop) = (log.clone(), stop.clone());
        std::thread::spawn(move || write(&path, "a", false, &stop))
    };
    let value = |name: &str| counted(*port, name);
    for round in 0..2 {
        let agent = start_agent(&config, dir.path().join(format!("agent-{round}.log")));
        until("records are acknowledged", Duration::from_secs(120), || value("records_acknowledged_total") > 500);
        broker.tell("down");
        std::thread::sleep(Duration::from_millis(300));
        until("positions were written since", Duration::from_secs(120), || value("bytes_in_flight") > 4000);
        let (read, known) = (value("records_read_total"), value("records_acknowledged_total"));
        std::thread::sleep(Duration::from_millis(600));
        assert!(read > known, "the fault took effect: {read} read, {known} acknowledged");
        agent.signal(Signal::KILL);
        drop(agent);
        broker.tell("up");
    }
    let last = start_agent(&config, dir.path().join("agent-last.log"));
    std::thread::sleep(Duration::from_secs(1));
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap();
    shipped(*port);
    end_agent(last);
    let (got, twice) = once(records(address, topic));
    eprintln!("{} lines written, {twice} came twice", written.len());
    compare(got, &written);
}

/// Access logs and error logs of one agent to two topics, through a collector that may write to both; the agent is killed
/// between.
#[test]
fn one_agent_ships_to_two_topics_through_a_collector() {
    let Some(address) = kafka("one_agent_ships_to_two_topics_through_a_collector") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topics = Topics { broker: address.clone(), names: vec![unique("web-logs"), unique("web-errors")] };
    topics.names.iter().for_each(|topic| create_topic(&address, topic));
    let [logs, errors] = &topics.names[..] else { panic!("two topics") };
    certificates(dir.path());
    let at = |name: &str| dir.path().join(name);
    let ports = free_ports(3);
    let collector_text = |topics: &str| {
        format!(
            "data_dir = {:?}\nhost = \"collector\"\n[collector]\nlisten = \"127.0.0.1:{}\"\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\n{topics}\
             [output]\nkind = \"kafka\"\nbrokers = {address:?}\ntopic = {logs:?}\n[metrics]\nlisten = \"127.0.0.1:{}\"\n",
            at("collector-data"),
            ports[0],
            at("collector.pem"),
            at("collector.key"),
            at("ca.pem"),
            ports[1]
        )
    };
    let agent_text = |own: &str| {
        format!(
            "data_dir = {:?}\nhost = \"web1\"\n[[input]]\npaths = [{:?}]\n[[input]]\nname = \"errors\"\npaths = [{:?}]\ntopic = {errors:?}\nhost = \"app1\"\n\
             multiline = {{ start = '^first', timeout = \"200ms\" }}\n[output]\nkind = \"tidewatch\"\naddresses = [\"127.0.0.1:{}\"]\n\
             tls = {{ ca = {:?}{own} }}\n[spool]\nafter = \"500ms\"\n[metrics]\nlisten = \"127.0.0.1:{}\"\n",
            at("agent-data"),
            at("access.log"),
            at("error.log"),
            ports[0],
            at("ca.pem"),
            ports[2]
        )
    };
    let own = format!(", cert = {:?}, key = {:?}", at("agent.pem"), at("agent.key"));
    let (collector, agent) = (at("collector.toml"), at("agent.toml"));
    let check = || tidewatch(&["ship", "-c", agent.to_str().unwrap(), "--check", "--connect"], &[]);

    // One that is not there, that wants a certificate, that does not take the topic.
    std::fs::write(&agent, agent_text(&own)).unwrap();
    let said = check();
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(said.err.contains(&format!("collector 127.0.0.1:{}: Connection refused", ports[0])), "{said:#?}");
    std::fs::write(&collector, collector_text("")).unwrap();
    let narrow = start_agent(&collector, at("narrow.log"));
    until("it listens", Duration::from_secs(120), || narrow.said().contains("collecting"));
    let said = check();
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(said.err.contains("is not among the `topics` of this [collector]"), "{said:#?}");
    std::fs::write(&agent, agent_text("")).unwrap();
    let said = check();
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(said.err.contains("CertificateRequired"), "{said:#?}");
    std::fs::write(&agent, agent_text(&own)).unwrap();
    // What is refused is said by the agent, too, and waits.
    for (name, lines) in [("access.log", 300), ("error.log", 50)] {
        let mut file = OpenOptions::new().create(true).append(true).open(at(name)).unwrap();
        for n in 0..lines {
            match name {
                "access.log" => writeln!(file, "{}", line("access", n)).unwrap(),
                _ => write!(file, "first {n}\n at {n}\n").unwrap(),
            }
        }
    }
    let first = start_agent(&agent, at("agent-0.log"));
    until("the refusal is said", Duration::from_secs(120), || {
        first.said().contains("is not among the `topics` of this [collector]")
    });
    first.signal(Signal::KILL);
    drop(first);
    end_agent(narrow);

    let topics_line = format!("topics = [{errors:?}]\n");
    std::fs::write(&collector, collector_text(&topics_line)).unwrap();
    let wide = start_agent(&collector, at("wide.log"));
    until("it listens", Duration::from_secs(120), || wide.said().contains("collecting"));
    let said = check();
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(said.out.contains("it lets this agent in") && said.out.contains(&format!("topic {errors}")), "{said:#?}");
    let second = start_agent(&agent, at("agent-1.log"));
    let count = |port: u16, what: &str, topic: &str| {
        metric(port, &format!("tidewatch_ship_topic_records_{what}_total{{topic=\"{topic}\"}}")).unwrap_or(0)
    };
    until("all of both is acknowledged", Duration::from_secs(120), || {
        count(ports[1], "acknowledged", logs) >= 300 && count(ports[1], "acknowledged", errors) >= 50
    });
    assert!(count(ports[2], "taken", errors) >= 1, "the agent counts by topic");
    end_agent(second);
    end_agent(wide);
    let (got, _) = once(records(&address, logs));
    compare(got, &(0..300).map(|n| line("access", n)).collect::<Vec<_>>());
    // Of a record with line ends in it, Kafka's tool shows the first line and the rest without headers.
    let text = shown(&address, errors);
    let firsts = text.lines().filter(|text| text.contains("host:app1,") && text.contains("\tfirst ")).count();
    let rests = text.lines().filter(|text| text.starts_with(" at ")).count();
    assert_eq!((firsts, rests), (50, 50), "{text}");
    let positions = std::fs::read_to_string(at("agent-data/positions.json")).unwrap();
    assert!(positions.contains(&format!("\"topic\":{errors:?}")), "{positions}");
}

/// The spool's bound is reached while the broker is away: said, counted, and nothing is lost.
#[test]
fn a_full_spool_is_said_and_the_files_wait() {
    let Some(own) = OwnBroker::start("a_full_spool_is_said_and_the_files_wait") else { return };
    let OwnBroker { dir, broker, address, topic, port } = &own;
    let log = dir.path().join("a.log");
    let bound = 64 << 20;
    let config = own.config(std::slice::from_ref(&log), "[spool]\nafter = \"500ms\"\nmax_size = \"64MiB\"\n");
    std::fs::write(&log, "first\n").unwrap();
    let agent = start_agent(&config, dir.path().join("agent.log"));
    let value = |name: &str| counted(*port, name);
    until("the first is acknowledged", Duration::from_secs(120), || value("records_acknowledged_total") == 1);
    broker.tell("down");
    let mut random = letters();
    let mut file = std::io::BufWriter::new(OpenOptions::new().append(true).open(&log).unwrap());
    let count = 120_000;
    for n in 0..count {
        writeln!(file, "{n} {}", random(1000)).unwrap();
    }
    file.flush().unwrap();
    drop(file);
    until("the spool is full", Duration::from_secs(120), || value("spool_full") == 1);
    std::thread::sleep(Duration::from_secs(6));
    assert!(value("spool_bytes") <= bound, "{} bytes", value("spool_bytes"));
    let read = value("records_read_total");
    assert!(read < count, "the files wait: {read} read");
    assert!(value("bytes_behind") > 10 << 20, "what waits is counted: {}", value("bytes_behind"));
    assert_eq!(agent.said().matches("the spool is full").count(), 1, "{}", agent.said());
    // Killed while it is full: nothing is forgotten, and it is said again.
    agent.signal(Signal::KILL);
    drop(agent);
    // The file is renamed and deleted meanwhile, as rotation does: its rest is found under its new name.
    std::fs::rename(&log, dir.path().join("a.log.1")).unwrap();
    std::fs::write(&log, "last\n").unwrap();
    let agent = start_agent(&config, dir.path().join("agent-1.log"));
    until("the spool is full again", Duration::from_secs(120), || value("spool_full") == 1);
    broker.tell("up");
    until("all is acknowledged", Duration::from_secs(120), || value("spool_bytes") == 0 && value("spool_full") == 0);
    shipped(*port);
    let lost = ["bytes_lost_total", "files_lost_total", "spool_damaged_frames_total"].map(value);
    assert_eq!(lost, [0; 3]);
    end_agent(agent);
    let (got, twice) = once(records(address, topic));
    let number = |text: &String| text.split(' ').next().unwrap().to_owned();
    let got: Vec<String> = got.iter().map(number).collect();
    let want: Vec<String> =
        ["first".into()].into_iter().chain((0..count).map(|n| n.to_string())).chain(["last".into()]).collect();
    eprintln!("{} lines, {twice} came twice", got.len());
    compare(got, &want);
}

/// Brokers refuse a batch as a whole, for its size or for one record in it. What they take alone gets there all the same, in
/// order; what they do not is kept, with the reason.
#[test]
fn only_what_brokers_refuse_alone_is_refused() {
    let Some(own) = OwnBroker::start("only_what_brokers_refuse_alone_is_refused") else { return };
    let OwnBroker { dir, address, port, .. } = &own;
    let topic = &unique("small");
    create_topic_with(address, topic, &["--config", "max.message.bytes=20000"]);
    let log = dir.path().join("a.log");
    // Far more than fits together, and does not pack; one line in the middle is too long by itself.
    let (mut random, mut lines) = (letters(), Vec::new());
    for n in 0..2000 {
        lines.push(format!("{n} {}", random(if n == 1000 { 50_000 } else { 200 })));
    }
    std::fs::write(&log, lines.join("\n") + "\n").unwrap();
    let config = ship_to(dir.path(), std::slice::from_ref(&log), (address, topic), "", *port);
    let agent = start_agent(&config, dir.path().join("agent.log"));
    until("all is settled", Duration::from_secs(120), || counted(*port, "records_acknowledged_total") >= 2000);
    shipped(*port);
    assert_eq!(counted(*port, "records_refused_total"), 1);
    let said = end_agent(agent);
    assert!(said.contains("sending smaller batches"), "{said}");
    let refused = std::fs::read_to_string(dir.path().join("data/refused.jsonl")).unwrap();
    assert!(refused.contains("MessageSizeTooLarge") && refused.contains(&lines[1000]), "{} bytes", refused.len());
    assert_eq!(refused.lines().count(), 1);
    lines.remove(1000);
    let (got, _) = once(records(address, topic));
    compare(got, &lines);
}

/// Text that does not pack: random letters.
fn letters() -> impl FnMut(usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(LETTERS[(state >> 33) as usize % 64])
    };
    move |count| (0..count).map(|_| next()).collect()
}

/// What is no file among `paths` ends nothing; what cannot be read is said and read once it can be.
#[test]
fn what_is_no_file_is_left_out_and_said() {
    let Some(address) = kafka("what_is_no_file_is_left_out_and_said") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topics = Topics { broker: address.clone(), names: vec![unique("ship")] };
    let topic = &topics.names[0];
    create_topic(&address, topic);
    let at = |name: &str| dir.path().join("logs").join(name);
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    std::fs::create_dir(at("dir.log")).unwrap();
    std::fs::create_dir(at("closed")).unwrap();
    let fifo = finish(std::process::Command::new("mkfifo").args([at("fifo.log"), at("a.log.1"), at("named-fifo")]));
    assert_eq!(fifo.code, Some(0), "{fifo:#?}");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.log")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("zero.log")).unwrap();
    std::os::unix::fs::symlink("..", at("round")).unwrap();
    std::fs::write(at("a.log"), "one\n").unwrap();
    let port = free_ports(1)[0];
    let paths = [at("*.log"), at("**/**/*.log"), at("named-fifo"), at("dir.log"), PathBuf::from("/dev/null")];
    let config = ship_to(dir.path(), &paths, (&address, topic), "", port);
    let said = tidewatch(&["ship", "-c", config.to_str().unwrap(), "--check"], &[]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    for want in [
        "fifo.log: is a named pipe; left out",
        "socket.log: is a socket; left out",
        "zero.log: is a device; left out",
        "dir.log: is a directory; left out",
        "/dev/null: is a device; left out",
        "a.log: can be read",
    ] {
        assert!(said.out.contains(want), "{want}: {}", said.out);
    }
    let mut agent = start_agent(&config, dir.path().join("agent.log"));
    let value = |name: &str| counted(port, name);
    until("the line is acknowledged", Duration::from_secs(120), || value("records_acknowledged_total") == 1);
    until("they are counted", Duration::from_secs(120), || value("paths_left_out") > 0);
    std::fs::remove_dir(at("dir.log")).unwrap();
    std::fs::write(at("dir.log"), "two\n").unwrap();
    until("the file is followed", Duration::from_secs(120), || value("records_acknowledged_total") == 2);
    assert!(agent.ended().is_none());
    let said = end_agent(agent);
    assert_eq!(said.matches("it is a socket").count(), 1, "said once: {said}");
}

/// A certificate of the agent's own towards the brokers.
#[test]
fn a_broker_that_wants_a_certificate_gets_the_agents() {
    if kafka("a_broker_that_wants_a_certificate_gets_the_agents").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::secure(dir.path());
    let topic = unique("ship");
    create_topic(&broker.address(), &topic);
    let (config, log, port) = (dir.path().join("ship.toml"), dir.path().join("a.log"), free_ports(1)[0]);
    std::fs::write(&log, "one\ntwo\n").unwrap();
    let check = |cert: bool| {
        let to = (broker.secure_address(), broker.security(cert));
        ship_to(dir.path(), std::slice::from_ref(&log), (&to.0, &topic), &to.1, port);
        tidewatch(&["ship", "-c", config.to_str().unwrap(), "--check", "--connect"], &[])
    };
    let said = check(false);
    assert_eq!(said.code, Some(3), "{said:#?}");
    assert!(said.err.to_lowercase().contains("certificate"), "{said:#?}");
    let said = check(true);
    assert_eq!(said.code, Some(0), "{said:#?}");
    let agent = start_agent(&config, dir.path().join("agent.log"));
    until("both are acknowledged", Duration::from_secs(120), || {
        metric(port, "tidewatch_ship_records_acknowledged_total") == Some(2)
    });
    end_agent(agent);
    let (got, _) = once(records(&broker.address(), &topic));
    compare(got, &["one".to_owned(), "two".to_owned()]);
}
