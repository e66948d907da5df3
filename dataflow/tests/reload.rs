//! Changed rules while `run` goes on, through the binary: what takes effect, what is told, what is refused.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// A running `tidewatch run`; killed where a test fails.
struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Running {
    fn start(config: &Path, dir: &Path, more: &[&str]) -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(["run", "--no-page", "-w", "2", "-c"])
            .arg(config)
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(more)
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

/// A configuration with one rule of its own, and a log of each process.
struct Setup {
    dir: tempfile::TempDir,
    logs: Vec<PathBuf>,
    config: PathBuf,
}

impl Setup {
    fn new() -> Setup {
        Setup::of(1)
    }

    fn of(processes: usize) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let logs: Vec<_> = (0..processes).map(|at| dir.path().join(format!("access{at}.log"))).collect();
        logs.iter().for_each(|log| std::fs::write(log, "").unwrap());
        Setup { logs, config: dir.path().join("tidewatch.toml"), dir }
    }

    fn configure(&self, rule: &str) {
        let source = |(at, log): (usize, &PathBuf)| {
            format!(
                "[[source]]\nname = \"web{at}\"\nkind = \"file\"\npaths = [{log:?}]\nformat = \"combined\"\n\
                 from = \"beginning\"\nprocess = {at}\n"
            )
        };
        let text = format!(
            "[time]\nmax_out_of_order = \"0s\"\nallowed_lateness = \"0s\"\nmax_ahead = \"0s\"\nidle_after = \"1h\"\n\
             {}[sink.files]\ndir = {:?}\n[[rule]]\nname = \"own\"\ngroup_by = [\"client_ip\"]\n{rule}\n",
            self.logs.iter().enumerate().map(source).collect::<String>(),
            self.dir.path().join("out"),
        );
        std::fs::write(&self.config, text).unwrap();
    }

    /// Writes so many requests of a client at second `at` of a minute, into the first log.
    fn ask(&self, at: u64, client: &str, times: usize) {
        self.ask_at(0, at, client, times);
    }

    fn ask_at(&self, log: usize, at: u64, client: &str, times: usize) {
        let line = format!("{client} - - [01/Jan/2024:00:00:{at:02} +0000] \"GET / HTTP/1.1\" 200 12 \"-\" \"x\"\n");
        OpenOptions::new()
            .append(true)
            .open(&self.logs[log])
            .unwrap()
            .write_all(line.repeat(times).as_bytes())
            .unwrap();
    }

    /// Waits until windows of this client are closed.
    fn closes(&self, client: &str, run: &Running) {
        let end = Instant::now() + LIMIT;
        let metrics = self.dir.path().join("out/metrics.lp");
        while !std::fs::read_to_string(&metrics).is_ok_and(|m| m.contains(client)) {
            assert!(Instant::now() < end, "{:?}", run.said);
            std::thread::sleep(Duration::from_millis(20));
        }
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
    let mut run = Running::start(&setup.config, setup.dir.path(), &[]);
    // The windows of the first seconds have closed when points of them are there.
    setup.closes("10.0.0.1", &run);
    let end = Instant::now() + LIMIT;

    setup.configure("window = \"1s\"\nthreshold = 55\nseverity = \"critical\"");
    run.signal("-HUP");
    run.hears("rules reloaded");
    // The change has its tick; the next event passes it.
    setup.ask(8, "10.0.0.9", 1);
    let told = run.hears("the rule has changed");
    for words in ["rule=own", "threshold=55", "windows=", "found=1", "client_ip=10.0.0.1 60 at 2024-01-01T00:00:01"] {
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
    // What came before the change was through every worker may have fired for a moment: it was withdrawn.
    let stands = |line: &str| line.contains("\"own\"") && !line.contains("10.0.0.5");
    assert!(
        alerts.lines().rfind(|line| line.contains("10.0.0.5")).is_none_or(|line| line.contains("withdrawn")),
        "{alerts}"
    );
    let own: Vec<&str> = alerts.lines().filter(|line| stands(line)).collect();
    assert!(own.iter().all(|a| a.contains("10.0.0.3") && a.contains("\"threshold\":55")), "{alerts}");
    assert!(own.iter().all(|a| a.contains("\"critical\"")), "{alerts}");
}

#[test]
fn a_preview_of_no_window_says_so() {
    let setup = Setup::new();
    setup.configure("window = \"1h\"\nthreshold = 100");
    setup.ask(1, "10.0.0.1", 60);
    setup.ask(4, "10.0.0.9", 1);
    let mut run = Running::start(&setup.config, setup.dir.path(), &[]);
    setup.closes("10.0.0.1", &run);
    setup.configure("window = \"1h\"\nthreshold = 55");
    run.signal("-HUP");
    run.hears("rules reloaded");
    setup.ask(8, "10.0.0.9", 1);
    let told = run.hears("the rule has changed");
    for words in ["nothing was judged", "rule=own", "threshold=55", "first_event=2024-01-01T00:00:01"] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    assert!(!told.contains("found="), "{told}");
}

#[test]
fn in_a_cluster_process_0_reloads_for_all() {
    let setup = Setup::of(2);
    let hosts = setup.dir.path().join("hosts.txt");
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (a, b) = (port(), port());
    std::fs::write(&hosts, format!("{}\n{}\n", a.local_addr().unwrap(), b.local_addr().unwrap())).unwrap();
    drop((a, b));
    setup.configure("window = \"1s\"\nthreshold = 100");
    // What the other process reads, whose keys belong to the workers of both.
    let clients: Vec<String> = (1..=8).map(|n| format!("10.0.0.{n}")).collect();
    clients.iter().for_each(|client| setup.ask_at(1, 1, client, 60));
    (0..2).for_each(|log| setup.ask_at(log, 4, "10.0.1.1", 1));
    let start = |index: &str| {
        let data = setup.dir.path().join(index);
        std::fs::create_dir(&data).unwrap();
        Running::start(&setup.config, &data, &["-n", "2", "-p", index, "-h", &hosts.display().to_string()])
    };
    let (mut first, mut second) = (start("0"), start("1"));
    setup.closes("10.0.0.1", &first);
    assert!(!setup.alerts().contains("\"own\""), "{}", setup.alerts());

    setup.configure("window = \"1s\"\nthreshold = 55");
    second.signal("-HUP");
    second.hears("process 0 reloads the rules for all processes");
    first.signal("-HUP");
    first.hears("rules reloaded");
    (0..2).for_each(|log| setup.ask_at(log, 8, "10.0.1.1", 1));
    let told = first.hears("the rule has changed");
    assert!(told.contains("found=8"), "rows of every worker are in the preview: {told}");

    clients.iter().for_each(|client| setup.ask_at(1, 20, client, 55));
    setup.ask_at(0, 20, "10.0.2.2", 54);
    (0..2).for_each(|log| setup.ask_at(log, 30, "10.0.1.1", 1));
    let end = Instant::now() + LIMIT;
    while !clients.iter().all(|client| setup.alerts().contains(&format!("{client}\""))) {
        assert!(Instant::now() < end, "{} said: {:?} {:?}", setup.alerts(), first.said, second.said);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!setup.alerts().contains("10.0.2.2"), "{}", setup.alerts());
    second.signal("-TERM");
    first.signal("-TERM");
    assert_eq!((first.child.wait().unwrap().code(), second.child.wait().unwrap().code()), (Some(0), Some(0)));
}

#[test]
fn without_a_configuration_a_hang_up_ends_it() {
    let setup = Setup::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(["run", "--no-page", "--input"])
        .arg(&setup.logs[0])
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
