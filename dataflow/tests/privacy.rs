//! `[privacy]`: clients leave as it says, whether they have addresses or names, and no longer than it says; they are told apart
//! and grouped as before; who is to be forgotten is, also while a process writes.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidewatch_reference::testing::until;

const NAME: &str = "p5b0c0a01.dip0.t-ipconnect.de";
const HIDDEN: &str = "p5b0c0a01";
const WAYS: [&str; 2] = ["client = \"truncate\"\n", "client = \"hmac\"\nkey = \"0123456789abcdef\"\n"];

fn tidewatch(dir: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
    command.args(arguments.split(' ')).current_dir(dir).env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap()
}

fn replay(dir: &Path, arguments: &str) {
    let output = tidewatch(dir, &format!("replay -c c.toml --out out {arguments}"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_default()
}

/// A request of a client so many seconds after ten o'clock.
fn request(client: &str, second: u64) -> String {
    let (minute, second) = (second / 60, second % 60);
    format!(
        "{client} - - [05/Mar/2026:10:{minute:02}:{second:02} +0000] \"GET /?from={client} HTTP/1.1\" 200 5 \"http://{client}/\" \"curl\"\n"
    )
}

fn spikes(dir: &Path) -> Vec<(String, f64)> {
    let alerts = read(dir, "out/alerts.jsonl");
    let all = alerts.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let spikes = all.filter(|alert| alert["rule"] == "ip-spike");
    spikes.map(|a| (a["subject"]["client_ip"].as_str().unwrap().to_owned(), a["value"].as_f64().unwrap())).collect()
}

#[test]
fn a_network_is_one_client_under_any_name() {
    // Each of 300 addresses asks once.
    let attack = |network: &dyn Fn(u32) -> String| {
        let lines = (0..300u32).map(|n| request(&format!("{}:{:x}::{n:x}", network(n), n * 7), 2));
        lines.collect::<String>() + &request("192.0.2.1", 400)
    };
    let within = attack(&|_| "2001:db8:1:2".into());
    let apart = attack(&|n| format!("2001:db8:{n:x}:2"));
    for way in ["client = \"full\"\n", WAYS[1]] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::write(dir.join("c.toml"), format!("[privacy]\n{way}")).unwrap();
        std::fs::write(dir.join("within.log"), &within).unwrap();
        std::fs::write(dir.join("apart.log"), &apart).unwrap();
        replay(dir, "--from within.log");
        let found = spikes(dir);
        assert_eq!(found.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [300.0], "{way}: {found:?}");
        assert!(found[0].0.ends_with("/64"), "{way}: {found:?}");
        assert_eq!(found[0].0.starts_with("2001:"), way.contains("full"), "{found:?}");
        // Addresses are told apart as before.
        assert!(read(dir, "out/metrics.lp").contains("clients=300i"), "{way}");
        replay(dir, "--from apart.log");
        assert_eq!(spikes(dir), [], "{way}: of different networks");
    }
}

#[test]
fn names_of_clients_are_in_no_result() {
    let mut access: String = (0..150).map(|_| request(NAME, 2)).collect();
    (0..3).for_each(|_| access += &request("192.0.2.1", 400));
    // Late, and cut off.
    access += &request(NAME, 3);
    access += &format!("{NAME} - - [05/Mar/2026:10:0\n");
    let error = |second: u32| {
        format!(
            "[Thu Mar 05 10:00:{second:02}.000000 2026] [core:crit] [pid 1] [client {NAME}:4711] AH1: no such thing for {NAME}\n"
        )
    };
    let errors: String = (0..5).map(error).collect();
    let all = [
        ("combined", access),
        ("apache-error", errors),
        (
            "json",
            (0..150)
                .map(|_| {
                    format!(
                        "{{\"time\":\"2026-03-05T10:00:02Z\",\"remote_addr\":\"{NAME}\",\"method\":\"GET\",\"uri\":\"/\",\"status\":200}}\n"
                    )
                })
                .collect(),
        ),
    ];
    for way in WAYS {
        for (format, log) in &all {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            let by_message = "[[rule]]\nname = \"by-message\"\ngroup_by = [\"message\"]\nmeasure = \"count\"\nwindow = \"10s\"\nthreshold = 2\n";
            std::fs::write(dir.join("c.toml"), format!("[privacy]\n{way}{by_message}")).unwrap();
            std::fs::write(dir.join("a.log"), log).unwrap();
            replay(dir, "--from a.log");
            let names = ["alerts.jsonl", "metrics.lp", "rejected.jsonl", "late.jsonl", "summary.json"];
            for name in names {
                let text = read(dir, &format!("out/{name}"));
                assert!(!text.contains(HIDDEN), "{way}{format}: {name}: {text}");
            }
            let alerts = read(dir, "out/alerts.jsonl");
            let shown = if way.contains("hmac") { ".invalid" } else { "*.t-ipconnect.de" };
            assert!(alerts.contains(shown), "{way}{format}: {alerts}");
            if *format == "combined" {
                let [(client, value)] = &spikes(dir)[..] else { panic!("{alerts}") };
                assert!(client.ends_with(shown) && *value == 150.0, "{client}");
                let evidence = format!("[\"{client} - - ");
                assert!(alerts.contains(&evidence), "{evidence}: {alerts}");
                assert!(read(dir, "out/metrics.lp").contains(&format!("client_ip=\"{client}\"")), "{way}");
                assert!(read(dir, "out/late.jsonl").contains(client), "{way}");
                assert!(read(dir, "out/rejected.jsonl").contains(client), "{way}");
            }
        }
    }
}

/// A run that reads standard input and writes files.
struct Run(std::process::Child);

impl Run {
    fn start(dir: &Path, arguments: &str) -> Run {
        let child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(arguments.split(' '))
            .current_dir(dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Run(child.unwrap())
    }

    fn say(&mut self, text: &str) {
        self.0.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[test]
fn who_is_forgotten_while_a_run_writes_is_gone_and_nobody_else() {
    for gone in ["192.0.2.7", NAME] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let config =
            "[sink.files]\ndir = \"out\"\n[store]\nenabled = true\n[[route]]\nkind = \"file\"\npath = \"told.jsonl\"\n";
        std::fs::write(dir.join("c.toml"), config).unwrap();
        let mut run = Run::start(dir, "run -c c.toml --input - --no-page");
        let (other, mut log) = ("192.0.2.77", String::new());
        (0..150).for_each(|_| log += &(request(gone, 2) + &request(other, 2)));
        (0..200).for_each(|n| writeln!(log, "unreadable {n} [client {gone}] of {other}").unwrap());
        // What there is to tell of both is told: the windows are closed and the alerts over.
        log += &request("192.0.2.1", 1200);
        run.say(&log);
        let files = ["out/metrics.lp", "out/alerts.jsonl", "out/rejected.jsonl", "told.jsonl"];
        let is_over = |text: &str| {
            let is_of_it = |line: &&str| line.contains(gone) && line.contains("\"state\":\"resolved\"");
            text.lines().filter(is_of_it).count() >= 1
        };
        until("the alerts are over", || is_over(&read(dir, "out/alerts.jsonl")) && is_over(&read(dir, "told.jsonl")));
        until("all is there", || read(dir, "out/rejected.jsonl").contains("unreadable 199 "));
        std::thread::sleep(Duration::from_secs(2));
        files.iter().for_each(|name| assert!(read(dir, name).contains(gone), "{name}"));
        // It writes on while `forget` erases.
        let is_erased = Arc::new(AtomicBool::new(false));
        let goes_on = is_erased.clone();
        let writer = std::thread::spawn(move || {
            let mut n = 0;
            while !goes_on.load(Ordering::Relaxed) {
                let attack = if n % 100 == 0 { request(other, 1200 + n / 50) } else { String::new() };
                run.say(&format!("{attack}later {n} of {other}\n"));
                n += 1;
                std::thread::sleep(Duration::from_micros(100));
            }
            (run, n as usize)
        });
        until("it writes on", || read(dir, "out/rejected.jsonl").contains("later 99 "));
        let begun = read(dir, "out/rejected.jsonl").len();
        let forgot = tidewatch(dir, &format!("forget -c c.toml --client {gone}"));
        let out = String::from_utf8_lossy(&forgot.stdout).into_owned();
        assert!(out.starts_with(&format!("{gone}: removed ")), "{out}{}", String::from_utf8_lossy(&forgot.stderr));
        until("it goes on writing", || read(dir, "out/rejected.jsonl").len() > begun);
        is_erased.store(true, Ordering::Relaxed);
        let (mut run, lines) = writer.join().unwrap();
        until("all is written", || read(dir, "out/rejected.jsonl").contains(&format!("later {} ", lines - 1)));
        kill_process(Pid::from_child(&run.0), Signal::TERM).unwrap();
        run.0.wait().unwrap();
        for name in files {
            let text = read(dir, name);
            let left = text.lines().find(|line| line.replace("192.0.2.77", "").contains(gone));
            assert_eq!(left, None, "{name}");
            assert!(text.contains(other), "{name}");
            for line in text.lines() {
                let is_whole = match name.ends_with(".lp") {
                    true => tidewatch_events::line_protocol::parse_line(line).is_ok(),
                    false => serde_json::from_str::<serde_json::Value>(line).is_ok(),
                };
                assert!(is_whole, "{name}: {line}");
            }
        }
        let rejected = read(dir, "out/rejected.jsonl");
        let left: Vec<&str> = rejected.lines().collect();
        assert_eq!(left.len(), 200 + lines);
        assert!((0..lines).all(|n| left[200 + n].contains(&format!("later {n} of {other}\""))), "in their order");
        let again = tidewatch(dir, &format!("forget -c c.toml --client {gone}"));
        let out = String::from_utf8_lossy(&again.stdout).into_owned();
        assert!(out.starts_with(&format!("nothing of {gone} was found")), "{out}");
        for name in ["store.db", "requests.db"] {
            let bytes = std::fs::read(dir.join("tidewatch-data").join(name)).unwrap();
            let text = String::from_utf8_lossy(&bytes).replace("192.0.2.77", "");
            assert!(!text.contains(gone), "{name}");
            assert!(String::from_utf8_lossy(&bytes).contains(other), "{name}");
        }
    }
}

#[test]
fn addresses_stay_in_files_no_longer_than_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = "[privacy]\nkeep_addresses = \"1h\"\n[sink.files]\ndir = \"out\"\n[sink.stdout]\n\
        [[route]]\nname = \"told\"\nkind = \"file\"\npath = \"told.jsonl\"\n";
    std::fs::write(dir.join("c.toml"), config).unwrap();
    std::fs::create_dir(dir.join("out")).unwrap();
    let line = format!("{{\"reason\":\"format\",\"line\":\"{NAME} - 192.0.2.7 x\"}}\n");
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    for name in ["out/alerts.jsonl", "out/late.jsonl", "out/rejected.jsonl.1", "told.jsonl"] {
        std::fs::write(dir.join(name), &line).unwrap();
        std::fs::File::options().write(true).open(dir.join(name)).unwrap().set_modified(old).unwrap();
    }
    std::fs::write(dir.join("out/rejected.jsonl"), &line).unwrap();
    let mut run = Run::start(dir, "run -c c.toml --input - --no-page");
    let masked = line.replace("p5b0c0a01.dip0.", "**************.").replace("192.0.2.7", "192.0.2.*");
    for name in ["out/alerts.jsonl", "out/late.jsonl", "out/rejected.jsonl.1", "told.jsonl"] {
        until(name, || read(dir, name) == masked);
    }
    run.say(&request("192.0.2.7", 2));
    kill_process(Pid::from_child(&run.0), Signal::TERM).unwrap();
    run.0.wait().unwrap();
    assert!(read(dir, "out/rejected.jsonl").starts_with(&line), "written just now");
    let check = tidewatch(dir, "check -c c.toml");
    let out = String::from_utf8_lossy(&check.stdout).into_owned();
    let want = "addresses: masked after 1h in the store and in files of results and routes; not in: standard output; journals of routes";
    assert!(out.contains(want), "{out}");
}
