//! Signals while a start waits for others, and who may start beside whom.

use super::support::{folder, tidewatch};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn start(dir: &Path, arguments: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(arguments.split(' '))
        .current_dir(dir)
        .env("HAS_TOKEN", "0123456789")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Its exit code and what it said; it ends within ten seconds.
fn end(mut child: Child) -> (Option<i32>, String) {
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(10) {
            let _ = child.kill();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    (status.code(), said)
}

#[test]
fn a_hang_up_does_not_end_a_process_that_waits_for_its_peers() {
    let dir = folder();
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    std::fs::write(dir.path().join("two"), format!("{}\n{}\n", ports[0], ports[1])).unwrap();
    let child = start(dir.path(), "run -c good.toml --no-page -n 2 -p 0 -h two");
    let begun = Instant::now();
    while TcpStream::connect(ports[0]).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&child, Signal::HUP);
    signal(&child, Signal::TERM);
    let (code, said) = end(child);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("asked to end while waiting for peers"), "{said}");
}

#[test]
fn who_waits_for_a_silent_server_hears_that_it_is_to_end() {
    let influx = "[sink.influx]\nurl = \"http://ADDRESS\"\norg = \"o\"\nbucket = \"b\"\ntoken = \"${HAS_TOKEN}\"\n";
    let rows = [
        ("InfluxDB", influx),
        ("Kafka", "[sink.kafka]\nbrokers = \"ADDRESS\"\ntopic = \"results\"\n"),
        ("Kafka", "[sink.dead_letters]\nbrokers = \"ADDRESS\"\ntopic = \"dead\"\n"),
    ];
    for (server, text) in rows {
        let dir = folder();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = text.replace("ADDRESS", &silent.local_addr().unwrap().to_string());
        std::fs::write(dir.path().join("silent.toml"), &text).unwrap();
        let child = start(dir.path(), "run -c silent.toml --input access.log --no-page");
        let _asked = silent.accept().unwrap();
        signal(&child, Signal::TERM);
        let (code, said) = end(child);
        assert_eq!(code, Some(0), "{text}: {said}");
        assert!(said.contains(&format!("asked to end while waiting for {server}")), "{text}: {said}");
    }
}

#[test]
fn two_demonstrations_do_not_write_into_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path(), "demo --port 0");
    let store = dir.path().join("tidewatch-data/demo/store.db");
    let begun = Instant::now();
    while !store.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = tidewatch(dir.path(), "demo --port 0 --duration 1s");
    signal(&first, Signal::TERM);
    assert_eq!(second.code, Some(2), "{}{}", second.out, second.err);
    assert!(second.err.contains("another tidewatch runs in"), "{}", second.err);
    assert_eq!(end(first).0, Some(0));
}
