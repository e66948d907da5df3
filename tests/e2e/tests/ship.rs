//! The host agent against a real broker: files that rotate under load, an agent that is killed again and again, a broker
//! that is restarted; a collector between. What stands in the topic, read with Kafka's own consumer and counted once by the
//! headers, is exactly what was written, and `tidewatch run` over it says the same.
//!
//! Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA` names a broker. The test of restarts starts one of its own.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidewatch_e2e::process::{Running, Signal, free_ports};
use tidewatch_e2e::servers::{Topics, kafka, unique};
use tidewatch_e2e::shipping::{
    OwnBroker, certificates, compare, counted, create_topic, end_agent, metric, once, records, shipped, start_agent,
    until, write,
};

#[test]
fn every_line_arrives_once_through_rotation_kills_and_a_restart_of_the_broker() {
    let test = "every_line_arrives_once_through_rotation_kills_and_a_restart_of_the_broker";
    let Some(own) = OwnBroker::start(test) else { return };
    let OwnBroker { dir, broker, address, topic, port } = &own;
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let config = own.config(&[logs.join("*.log")], "partition_by = \"file\"\n[spool]\nafter = \"500ms\"\n");
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
            until("the spool is used", Duration::from_secs(120), || counted(*port, "records_spooled_total") > 2000);
        }
        running.signal(Signal::KILL);
        drop(running);
        if round == 4 {
            broker.tell("up");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let written: Vec<String> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    let last = Running::start(&args, dir.path().join("ship-last.log"));
    until("both files are followed", Duration::from_secs(120), || {
        counted(*port, "files") == 2 && last.said().contains("shipping")
    });
    shipped(*port);
    let lost = ["tidewatch_ship_bytes_lost_total", "tidewatch_ship_spool_damaged_frames_total"];
    assert_eq!(lost.map(|name| metric(*port, name)), [Some(0), Some(0)]);
    end_agent(last);
    let all = records(address, topic);
    let total = all.len();
    let (got, twice) = once(all);
    eprintln!("{} lines written, {total} records in the topic, {twice} of them twice", written.len());
    compare(got, &written);
    // The same as the engine sees it.
    let (run, page) = (dir.path().join("run.toml"), free_ports(1)[0]);
    std::fs::write(
        &run,
        format!(
            "data_dir = {:?}\n[[source]]\nkind = \"kafka\"\nbrokers = {address:?}\ntopics = [{topic:?}]\nstart = \"earliest\"\nformat = \"combined\"\n\
             [page]\nlisten = \"127.0.0.1:{page}\"\n",
            dir.path().join("run"),
        ),
    )
    .unwrap();
    let mut engine = Running::start(&["run", "-c", run.to_str().unwrap()], dir.path().join("run.log"));
    let counts = || {
        let count = |name: &str| metric(page, name).unwrap_or(0);
        (
            count("tidewatch_events_parsed_total"),
            count("tidewatch_lines_rejected_total"),
            count("tidewatch_kafka_duplicates_total"),
        )
    };
    until("the engine has read all", Duration::from_secs(180), || {
        let (events, rejected, duplicates) = counts();
        events + rejected + duplicates >= total as u64
    });
    assert_eq!(counts(), (written.len() as u64, 0, twice as u64), "events, rejected, duplicates");
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait(Duration::from_secs(30)).0, 0, "{}", engine.said());
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
    let start = |config: &Path, name: &str| start_agent(config, at(name));
    let mut both = (start(&collector, "collector-0.log"), start(&agent, "agent-0.log"));
    for round in 1..8 {
        std::thread::sleep(Duration::from_millis(600 + 170 * (round % 3)));
        let (which, config, name) = match round % 2 {
            0 => (&mut both.0, &collector, format!("collector-{round}.log")),
            _ => (&mut both.1, &agent, format!("agent-{round}.log")),
        };
        which.signal(Signal::KILL);
        which.wait(Duration::from_secs(30));
        *which = start(config, &name);
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap();
    // What the agent has sent is acknowledged by the collector when that has it durable: the agent's end first.
    shipped(ports[2]);
    shipped(ports[1]);
    // One that does not know the token is not let in.
    std::fs::write(&stranger, agent_text(&at("stranger-data"), "or me", free_ports(1)[0])).unwrap();
    let third = start(&stranger, "stranger.log");
    until("the stranger is refused", Duration::from_secs(120), || {
        third.said().contains("the token is not the collector's")
    });
    assert!(metric(ports[1], "tidewatch_ship_connections_refused_total").is_some_and(|n| n > 0));
    for process in [third, both.1, both.0] {
        end_agent(process);
    }
    let all = records(&address, topic);
    assert!(all.iter().all(|seen| seen.host == "web1"), "the host stays that of the agent");
    let (got, twice) = once(all);
    eprintln!("{} lines written, {twice} came twice", written.len());
    compare(got, &written);
}
