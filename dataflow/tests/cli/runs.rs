//! `run` over standard input: what it keeps, what it says, how it ends.

use crate::support::{folder, run_over, tidewatch};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn dead_letters_are_kept_whatever_the_sinks() {
    // name, sinks, where dead letters are, where they are not
    let rows: &[(&str, &str, &str, &str)] = &[
        ("no sink", "", "data/results/rejected.jsonl", "data/rejected.jsonl"),
        ("no files", "[sink.stdout]", "data/rejected.jsonl", "data/results/rejected.jsonl"),
        ("files", "[sink.files]\ndir = \"out\"", "out/rejected.jsonl", "data/rejected.jsonl"),
        (
            "a place of their own",
            "[sink.files]\ndir = \"out\"\n[sink.dead_letters]\npath = \"dead/x.jsonl\"",
            "dead/x.jsonl",
            "out/rejected.jsonl",
        ),
        (
            "the default place",
            "[sink.dead_letters]\nmax_size = \"1MiB\"",
            "data/rejected.jsonl",
            "data/results/rejected.jsonl",
        ),
    ];
    for (name, sinks, there, not_there) in rows {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("run.toml"), format!("data_dir = \"data\"\n{sinks}\n")).unwrap();
        std::fs::write(path("input"), "{\"time\":\"x\"} ?token=secret\n").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(["run", "-c", "run.toml", "--input", "-"])
            .current_dir(dir.path())
            .stdin(std::fs::File::open(path("input")).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        let text = std::fs::read_to_string(path(there)).unwrap_or_else(|e| panic!("{name}: {there}: {e}"));
        let letter: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(letter["source"] == "stdin" && letter["line"] == "{\"time\":\"x\"} ?token=***", "{name}: {letter}");
        assert!(!path(not_there).exists(), "{name}: {not_there}");
    }
}

/// Six requests of a client within six seconds, and a line that is none.
fn busy(dir: &Path) {
    let line = |second: u32| format!("1.2.3.4 - - [05/Mar/2026:10:00:{second:02} +0000] \"GET / HTTP/1.1\" 200 5\n");
    std::fs::write(dir.join("busy.log"), (0..6).map(line).collect::<String>() + "nonsense\n").unwrap();
}

#[test]
fn the_end_of_standard_input_is_summed_up() {
    let dir = folder();
    busy(dir.path());
    let want = "7 lines: 6 events, 1 rejected, 0 late, 0 future; 1 closed windows, 0 alerts; ";
    let ran = run_over(dir.path(), "busy.log", "run --input - --no-page");
    let line = format!("tidewatch: {want}");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
    assert_eq!(ran.err.lines().filter(|said| said.starts_with(&line)).count(), 1, "{}", ran.err);
    let ran = run_over(dir.path(), "busy.log", "run --input - --no-page --log-format json");
    let objects: Vec<serde_json::Value> = ran.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(objects.iter().any(|object| object["message"].as_str().unwrap().starts_with(want)), "{}", ran.err);
}

#[test]
fn windows_of_messages_are_told_apart_from_those_of_requests() {
    let dir = folder();
    busy(dir.path());
    let line = |second: u32| format!("2026/03/05 10:00:{second:02} [error] 7#7: *1 open() failed, client: 1.2.3.4\n");
    let lines: String = (0..25).map(line).collect();
    std::fs::write(dir.path().join("error.log"), &lines).unwrap();
    let rows = [
        (
            "error.log",
            "25 lines: 25 events, 0 rejected, 0 late, 0 future; 0 closed windows of requests, 3 of messages, 0 alerts; ",
        ),
        ("busy.log", "7 lines: 6 events, 1 rejected, 0 late, 0 future; 1 closed windows, 0 alerts; "),
    ];
    for (log, want) in rows {
        let ran = tidewatch(dir.path(), &format!("replay --from {log} --out out"));
        assert_eq!(ran.code, Some(0), "{log}: {}", ran.err);
        assert!(ran.out.starts_with(want), "{log}: {}", ran.out);
    }
    let ran = run_over(dir.path(), "error.log", "run --input - --no-page");
    assert!(ran.err.contains("0 closed windows of requests, 3 of messages"), "{}", ran.err);
    let summary = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
    assert!(summary.contains("\"windows\"") && !summary.contains("message_windows"), "{summary}");
}

#[test]
fn the_page_listens_where_the_command_line_says() {
    let dir = folder();
    busy(dir.path());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    let ran = run_over(dir.path(), "busy.log", &format!("run --input - --port {port}"));
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    assert!(ran.err.contains(&format!("error: --port {port}: ")), "{}", ran.err);
    drop(free);
    let ran = run_over(dir.path(), "busy.log", &format!("run --input - --port {port}"));
    let is_open = ran.err.contains("the page is open") && ran.err.contains(&format!("http://127.0.0.1:{port}/"));
    assert!(ran.code == Some(0) && is_open, "{}", ran.err);
}

#[test]
fn a_data_directory_is_of_one_run() {
    let dir = folder();
    busy(dir.path());
    let mut first = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(["run", "--input", "-", "--no-page"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut err = BufReader::new(first.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("no sink configured") {
        assert!(err.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let second = run_over(dir.path(), "busy.log", "run --input - --no-page");
    assert_eq!(second.code, Some(2), "{}", second.err);
    assert!(second.err.contains("another tidewatch runs in") && second.err.contains("--data-dir"), "{}", second.err);
    let elsewhere = run_over(dir.path(), "busy.log", "run --input - --no-page --data-dir other");
    assert_eq!(elsewhere.code, Some(0), "{}", elsewhere.err);
    drop(first.stdin.take());
    std::io::Read::read_to_string(&mut err, &mut said).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(0), "{said}");
    let after = run_over(dir.path(), "busy.log", "run --input - --no-page");
    assert_eq!(after.code, Some(0), "{}", after.err);
}

#[test]
fn a_route_has_standard_output_for_itself() {
    let dir = folder();
    busy(dir.path());
    let rule = "[[rule]]\nname = \"ip-spike\"\nthreshold = 3\n";
    std::fs::write(dir.path().join("text.toml"), rule).unwrap();
    std::fs::write(dir.path().join("json.toml"), format!("{rule}[[route]]\nkind = \"stdout\"\n")).unwrap();
    let ran = run_over(dir.path(), "busy.log", "run -c text.toml --input - --no-page --data-dir a");
    assert!(ran.out.contains("ip-spike") && !ran.out.contains('{'), "{}{}", ran.out, ran.err);
    let ran = run_over(dir.path(), "busy.log", "run -c json.toml --input - --no-page --data-dir b");
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    assert!(lines.iter().any(|line| line["event"] == "fired"), "{}{}", ran.out, ran.err);
    let said = tidewatch(dir.path(), "check -c json.toml").out;
    assert!(!said.contains("standard output") && said.contains("routes: stdout"), "{said}");
}

#[test]
fn an_interrupt_is_no_error() {
    let dir = folder();
    for (arguments, ready) in [("run --input - --no-page", "no sink configured"), ("demo --port 0", "")] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(arguments.split(' '))
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(if ready.is_empty() { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let mut out = child.stdout.take().map(BufReader::new);
        match &mut out {
            // It says where its page is once it listens to signals.
            Some(out) => assert!(out.read_line(&mut String::new()).unwrap() > 0),
            None => {
                while !said.contains(ready) {
                    assert!(err.read_line(&mut said).unwrap() > 0, "{arguments}: {said}");
                }
            }
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        std::io::Read::read_to_string(&mut err, &mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{arguments}: {said}");
        assert!(!said.contains("error:"), "{arguments}: {said}");
        assert!(said.ends_with("tidewatch: interrupted; everything read was drained\n"), "{arguments}: {said}");
    }
}
