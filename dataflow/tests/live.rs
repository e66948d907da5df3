//! `run` and `replay` as processes: what is told while windows are open, what is read at the end, what masses of lines that
//! cannot be read cost, and what is said where nothing can be written.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A `run` over `access.log`, without a page, its data in `data`.
struct Run {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Run {
    fn new(log: &str) -> Run {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("access.log"), log).unwrap();
        Run { dir, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self) {
        let started = tidewatch(self.dir.path(), &["run", "--input", "access.log", "--no-page", "--data-dir", "data"]);
        self.child = Some(started);
    }

    fn append(&self, text: &str) {
        let mut file = std::fs::OpenOptions::new().append(true).open(self.path("access.log")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Rule, id and value of each line of the alert log.
    fn alerts(&self) -> Vec<(String, String, f64)> {
        let text = std::fs::read_to_string(self.path("data/results/alerts.jsonl")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole
            .map(|line| {
                let alert: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| alert[key].as_str().unwrap().to_owned();
                (text("rule"), text("id"), alert["value"].as_f64().unwrap())
            })
            .filter(|(rule, ..)| rule == "ip-spike")
            .collect()
    }

    fn until(&self, what: &str, holds: impl Fn(&Run) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}; {:?}", self.alerts());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Interrupts it; its exit code and what it said on standard error.
    fn stop(&mut self) -> (Option<i32>, String) {
        let child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
        }
    }
}

fn tidewatch(dir: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Requests of one client, at so many seconds after ten o'clock.
fn requests(count: usize, second: u64) -> String {
    let mut text = String::new();
    for _ in 0..count {
        let (minute, second) = (second / 60, second % 60);
        let time = format!("05/Mar/2026:10:{minute:02}:{second:02} +0000");
        writeln!(text, "192.0.2.7 - - [{time}] \"GET / HTTP/1.1\" 200 5 \"-\" \"curl\"").unwrap();
    }
    text
}

#[test]
fn an_alert_follows_its_attack_before_the_window_closes() {
    let mut run = Run::new(&requests(150, 2));
    run.start();
    run.until("the attack is told", |run| !run.alerts().is_empty());
    run.append(&requests(20_000, 4));
    run.until("its size is told", |run| run.alerts().last().is_some_and(|(.., value)| *value >= 10_075.0));
    let (code, said) = run.stop();
    assert_eq!(code, Some(130), "{said}");
    let alerts = run.alerts();
    assert!(alerts.len() <= 10, "no more often than it doubles: {alerts:?}");
    assert!(alerts.iter().all(|(_, id, _)| *id == alerts[0].1), "one alert: {alerts:?}");
}

#[test]
fn a_second_attack_is_told_before_the_first_is_confirmed() {
    let mut run = Run::new(&(requests(150, 2) + &requests(150, 92)));
    run.start();
    let ids = |run: &Run| run.alerts().into_iter().map(|(_, id, _)| id).collect::<std::collections::BTreeSet<_>>();
    run.until("both are told", |run| ids(run).len() == 2);
    assert_eq!(run.stop().0, Some(130));
}
