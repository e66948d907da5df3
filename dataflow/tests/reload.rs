//! Changed rules while `run` goes on, through the binary: what takes effect, what is told, what is refused.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

/// A running `tidewatch run`; killed where a test fails.
struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Running {
    fn start(config: &Path, dir: &Path) -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(["run", "--no-page", "-w", "2", "-c"])
            .arg(config)
            .arg("--data-dir")
            .arg(dir.join("data"))
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| to.send(line).is_ok()));
        Running { child, lines, said: Vec::new() }
    }

    /// Waits for a line with these words.
    fn hears(&mut self, words: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(_) => panic!("{words:?} was not said in:\n{}", self.said.join("\n")),
            }
        }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration with one rule of its own, and its log.
struct Setup {
    dir: tempfile::TempDir,
    log: PathBuf,
    config: PathBuf,
}

impl Setup {
    fn new() -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let (log, config) = (dir.path().join("access.log"), dir.path().join("tidewatch.toml"));
        std::fs::write(&log, "").unwrap();
        Setup { dir, log, config }
    }

    fn configure(&self, rule: &str) {
        let text = format!(
            "[time]\nmax_out_of_order = \"0s\"\nallowed_lateness = \"0s\"\nmax_ahead = \"0s\"\nidle_after = \"1h\"\n\
             [[source]]\nname = \"web\"\nkind = \"file\"\npaths = [{:?}]\nformat = \"combined\"\nfrom = \"beginning\"\n\
             [sink.files]\ndir = {:?}\n[[rule]]\nname = \"own\"\ngroup_by = [\"client_ip\"]\n{rule}\n",
            self.log,
            self.dir.path().join("out"),
        );
        std::fs::write(&self.config, text).unwrap();
    }

    /// Writes so many requests of a client at second `at` of a minute.
    fn ask(&self, at: u64, client: &str, times: usize) {
        let line = format!("{client} - - [01/Jan/2024:00:00:{at:02} +0000] \"GET / HTTP/1.1\" 200 12 \"-\" \"x\"\n");
        OpenOptions::new().append(true).open(&self.log).unwrap().write_all(line.repeat(times).as_bytes()).unwrap();
    }

    fn alerts(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out/alerts.jsonl")).unwrap_or_default()
    }
}

#[test]
fn changed_rules_hold_from_then_on_and_are_previewed() {
    let setup = Setup::new();
    setup.configure("window = \"1s\"\nthreshold = 100");
    setup.ask(1, "10.0.0.1", 60);
    setup.ask(1, "10.0.0.2", 40);
    setup.ask(4, "10.0.0.9", 1);
    let mut run = Running::start(&setup.config, setup.dir.path());
    // The windows of the first seconds have closed when points of them are there.
    let end = Instant::now() + LIMIT;
    while !std::fs::read_to_string(setup.dir.path().join("out/metrics.lp")).is_ok_and(|m| m.contains("10.0.0.1")) {
        assert!(Instant::now() < end, "{:?}", run.said);
        std::thread::sleep(Duration::from_millis(20));
    }

    setup.configure("window = \"1s\"\nthreshold = 55\nseverity = \"critical\"");
    run.signal("-HUP");
    run.hears("rules reloaded");
    // The change has its tick; the next event passes it.
    setup.ask(8, "10.0.0.9", 1);
    let told = run.hears("the rule has changed");
    for words in ["rule=own", "threshold=55", "found=1", "client_ip=10.0.0.1 60 at 2024-01-01T00:00:01"] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    assert!(!setup.alerts().contains("\"own\""), "a preview alerts nobody: {}", setup.alerts());

    setup.configure("window = \"1s\"\nthreshold = 5x");
    run.signal("-HUP");
    run.hears("the configuration was not reloaded");
    setup.configure("window = \"2s\"\nmeasure = \"distinct(path)\"\nthreshold = 1");
    run.signal("-HUP");
    run.hears("rule `own`: `measure` cannot change while it runs: restart");
    run.hears("rule `own`: `window` cannot change while it runs: restart");
    run.hears("the rules were not reloaded");

    setup.ask(20, "10.0.0.3", 55);
    setup.ask(20, "10.0.0.4", 54);
    setup.ask(30, "10.0.0.9", 1);
    while !setup.alerts().contains("\"own\"") {
        assert!(Instant::now() < end + LIMIT, "no alert; said: {:?}", run.said);
        std::thread::sleep(Duration::from_millis(20));
    }
    setup.configure("window = \"1s\"\nthreshold = 55\nenabled = false");
    run.signal("-HUP");
    run.hears("rules reloaded");
    setup.ask(40, "10.0.0.5", 99);
    setup.ask(50, "10.0.0.9", 1);
    run.hears("the rule is off");
    run.signal("-TERM");
    assert_eq!(run.child.wait().unwrap().code(), Some(0));
    let alerts = setup.alerts();
    let own: Vec<&str> = alerts.lines().filter(|line| line.contains("\"own\"")).collect();
    assert!(own.iter().all(|a| a.contains("10.0.0.3") && a.contains("\"threshold\":55")), "{alerts}");
    assert!(own.iter().all(|a| a.contains("\"critical\"")), "{alerts}");
}

#[test]
fn without_a_configuration_a_hang_up_ends_it() {
    let setup = Setup::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(["run", "--no-page", "--input"])
        .arg(&setup.log)
        .arg("--data-dir")
        .arg(setup.dir.path().join("data"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), None, "ended by the signal");
}
