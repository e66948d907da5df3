//! How the process ends: each case runs this test's own program again as a child and looks at its end.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message
#![allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tidewatch::exit;

/// What the child does; it is this same file, run with `TIDEWATCH_CHILD` set.
#[test]
fn child() {
    let Ok(case) = std::env::var("TIDEWATCH_CHILD") else { return };
    exit::install_panic_hook();
    let wait = || {
        while !exit::stop_requested() {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    match case.as_str() {
        "panic" => {
            std::thread::Builder::new().name("worker 1".into()).spawn(|| panic!("a key\nof \x1b[31m bytes")).unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
        "peer" => {
            std::thread::spawn(|| panic!("timely communication error: reading data: socket closed"));
            std::thread::sleep(Duration::from_secs(60));
        }
        "peers" => {
            // All threads that notice at once, and the control connection last.
            for _ in 0..8 {
                std::thread::spawn(|| panic!("timely communication error: reading data: socket closed"));
            }
            std::thread::sleep(Duration::from_millis(500));
            exit::speak_of_lost_peer();
            // Long enough for another to speak too.
            std::thread::sleep(Duration::from_secs(3));
            exit::Failure::new(exit::ExitCode::PeerLost, "process 1 was lost").exit();
        }
        "failure" => {
            std::thread::spawn(|| exit::Failure::refused("no broker answers").exit());
            std::thread::sleep(Duration::from_secs(60));
        }
        "drain" => {
            exit::handle_signals().unwrap();
            eprintln!("ready");
            wait();
            std::process::exit(if exit::interrupted() { 130 } else { 0 });
        }
        "stuck" => {
            exit::handle_signals().unwrap();
            eprintln!("ready");
            wait();
            eprintln!("stopping");
            std::thread::sleep(Duration::from_secs(1));
            eprintln!("still stopping");
            std::thread::sleep(Duration::from_secs(60));
        }
        other => panic!("there is no case {other}"),
    }
}

/// Runs a case, sends it signals as it says the words, and returns its exit code and what it said.
fn run(case: &str, signals: &[(&str, i32)]) -> (Option<i32>, String) {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("TIDEWATCH_CHILD", case)
        .env_remove("RUST_BACKTRACE")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let mut said = String::new();
    let mut signals = signals.iter();
    let mut next = signals.next();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        said.push_str(&line);
        said.push('\n');
        if let Some((word, signal)) = next
            && line.contains(word)
        {
            let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
            assert!(sent.success());
            next = signals.next();
        }
    }
    let code = child.wait().unwrap().code();
    assert!(started.elapsed() < Duration::from_secs(30), "{case}: it hung\n{said}");
    (code, said)
}

#[test]
fn the_process_ends_with_the_code_of_its_cause() {
    const INT: i32 = 2;
    const TERM: i32 = 15;
    let rows: &[(&str, &str, &[(&str, i32)], i32, &str)] = &[
        ("a worker panics", "panic", &[], 70, "thread worker 1 panicked at"),
        ("its message is made printable", "panic", &[], 70, "a key\\x0Aof \\x1B[31m bytes\n"),
        ("a peer is lost", "peer", &[], 75, "a peer of the cluster was lost: timely communication error"),
        ("many threads notice it, one speaks", "peers", &[], 75, "process 1 was lost"),
        ("a failure in a thread", "failure", &[], 3, "tidewatch: error: no broker answers\n"),
        ("SIGTERM drains", "drain", &[("ready", TERM)], 0, "ready\n"),
        ("SIGINT drains", "drain", &[("ready", INT)], 130, "ready\n"),
        ("a second SIGINT leaves at once", "stuck", &[("ready", INT), ("still", INT)], 130, "press Ctrl-C again"),
        ("a second SIGTERM does too", "stuck", &[("ready", TERM), ("still", TERM)], 130, "left at once"),
        ("SIGINT after SIGTERM", "stuck", &[("ready", TERM), ("still", INT)], 130, "left at once"),
        ("SIGTERM after SIGINT", "stuck", &[("ready", INT), ("still", TERM)], 130, "left at once"),
    ];
    for (name, case, signals, code, words) in rows {
        let (got, said) = run(case, signals);
        assert_eq!(got, Some(*code), "{name}\n{said}");
        assert!(said.contains(words), "{name}: {words:?} is not in\n{said}");
        if *code == 70 || *code == 75 {
            assert_eq!(
                said.lines().filter(|line| line.starts_with("tidewatch:")).count(),
                1,
                "{name}: one line\n{said}"
            );
        }
    }
}
