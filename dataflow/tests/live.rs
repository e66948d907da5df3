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
        let arguments = ["run", "--input", "access.log", "--no-page", "--data-dir", "data"];
        let said = std::fs::File::create(self.path("said")).unwrap();
        self.child = Some(command(self.dir.path(), &arguments).stderr(said).spawn().unwrap());
    }

    fn append(&self, text: &str) {
        let mut file = std::fs::OpenOptions::new().append(true).open(self.path("access.log")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Lines of the alert log about a rule.
    fn told_of(&self, rule: &str) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path("data/results/alerts.jsonl")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|alert: &serde_json::Value| alert["rule"] == rule)
            .collect()
    }

    /// Rule, id and value of each line of the alert log about `ip-spike`.
    fn alerts(&self) -> Vec<(String, String, f64)> {
        let facts = |alert: serde_json::Value| {
            let text = |key: &str| alert[key].as_str().unwrap().to_owned();
            (text("rule"), text("id"), alert["value"].as_f64().unwrap())
        };
        self.told_of("ip-spike").into_iter().map(facts).collect()
    }

    fn until(&self, what: &str, holds: impl Fn(&Run) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let said = || std::fs::read_to_string(self.path("said"));
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "not within 120 s: {what}; {:?} {:?}",
                self.alerts(),
                said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Interrupts it; its exit code and what it said on standard error.
    fn stop(&mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let status = child.wait().unwrap();
        (status.code(), std::fs::read_to_string(self.path("said")).unwrap())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
        }
    }
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
    command.args(arguments).current_dir(dir).env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn tidewatch(dir: &Path, arguments: &[&str]) -> Child {
    command(dir, arguments).stderr(Stdio::piped()).spawn().unwrap()
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

#[test]
fn a_log_of_another_time_zone_is_named_while_it_is_read() {
    let line = |off: i64| {
        let local = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(off);
        format!("{} [error] 7#7: *1 open() failed\n", local.strftime("%Y/%m/%d %H:%M:%S"))
    };
    let named = |off: i64, zone: &str| {
        let mut run = Run::new("");
        run.start();
        run.until(zone, |run| {
            run.append(&line(off));
            std::thread::sleep(Duration::from_millis(500));
            std::fs::read_to_string(run.path("said")).unwrap().contains(&format!("time_zone=\"{zone}\""))
        });
        let (_, said) = run.stop();
        assert!(said.contains("lines name no time zone") && !said.contains("the event time of a source"), "{said}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| named(11 * 1800, "+05:30"));
        scope.spawn(|| named(-5 * 3600, "-05:00"));
    });
}

/// Answers of a status to many clients, at so many seconds after ten o'clock.
fn answers(count: usize, status: u16, second: u64) -> String {
    let time = format!("05/Mar/2026:10:{:02}:{:02} +0000", second / 60, second % 60);
    (0..count).fold(String::new(), |mut text, client| {
        writeln!(text, "192.0.2.{} - - [{time}] \"GET / HTTP/1.1\" {status} 5 \"-\" \"curl\"", client % 200 + 1)
            .unwrap();
        text
    })
}

#[test]
fn a_ratio_is_told_when_its_window_ends_and_withdrawn_if_late_lines_undo_it() {
    // Windows of a minute end every ten seconds; by default they close two minutes later.
    let surge = answers(100, 200, 1) + &answers(60, 500, 2);
    for (name, before) in [("read at the start", true), ("written later", false)] {
        let end = answers(1, 200, 15);
        let mut run = Run::new(&(if before { surge.clone() + &end } else { answers(1, 200, 0) }));
        run.start();
        if !before {
            run.until("something is read", |run| {
                run.path("data/store.db-wal").metadata().is_ok_and(|wal| wal.len() > 0)
            });
            run.append(&surge);
            std::thread::sleep(Duration::from_secs(1));
            assert!(run.told_of("error-surge").is_empty(), "{name}: not before a window ends");
            run.append(&end);
        }
        let begun = Instant::now();
        run.until("the surge is told", |run| !run.told_of("error-surge").is_empty());
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
        let first = run.told_of("error-surge").remove(0);
        assert_eq!(
            (&first["state"], &first["fired"]),
            (&"firing".into(), &"2026-03-05T10:00:10.000Z".into()),
            "{name}"
        );
        let evidence = first["evidence"].to_string();
        assert!(evidence.contains("\\\" 500 5 "), "{name}: the errors are shown: {evidence}");
        run.append(&answers(4_000, 200, 2));
        run.append(&answers(1, 200, 300));
        run.until("it is withdrawn", |run| run.told_of("error-surge").last().unwrap()["state"] == "withdrawn");
        assert_eq!(run.stop().0, Some(130));
        let ids: std::collections::BTreeSet<String> =
            run.told_of("error-surge").iter().map(|alert| alert["id"].to_string()).collect();
        assert_eq!(ids.len(), 1, "{name}: one alert: {:?}", run.told_of("error-surge"));
        assert!(run.told_of("error-surge").len() <= 4, "{name}: {:?}", run.told_of("error-surge"));
    }
}

#[test]
fn a_last_line_that_no_newline_ends_is_read_at_the_end() {
    let mut run = Run::new(&("nonsense\n".to_owned() + requests(3, 2).trim_end()));
    run.start();
    run.until("it is read", |run| {
        std::fs::read_to_string(run.path("data/results/rejected.jsonl")).is_ok_and(|text| text.ends_with('\n'))
    });
    let (code, said) = run.stop();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("4 lines: 3 events, 1 rejected"), "{said}");
}

#[test]
fn much_that_cannot_be_read_is_said_at_the_end() {
    let mut run = Run::new(&(requests(20, 2) + &"nonsense\n".repeat(20)));
    run.start();
    run.until("dead letters", |run| {
        std::fs::read_to_string(run.path("data/results/rejected.jsonl")).is_ok_and(|text| text.lines().count() == 20)
    });
    let (_, said) = run.stop();
    assert!(said.contains("warning: 20 of 40 lines could not be read"), "{said}");
}

/// The most memory a process has held, in MiB.
fn peak(mut child: Child) -> (u64, Option<i32>) {
    let mut most = 0;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let held =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(held.unwrap_or(0) / 1024);
        if let Some(status) = child.try_wait().unwrap() {
            return (most, status.code());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn lines_that_cannot_be_read_take_bounded_memory() {
    let rows: &[(&str, &str, usize, usize)] =
        // name, a line, how many, how many records they make
        &[("blank lines", "\n", 3_000_000, 6 * 101), ("lines of a byte", "x\n", 1_000_000, 1_000_000)];
    for (name, line, count, records) in rows {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.log"), line.repeat(*count)).unwrap();
        let (held, code) = peak(tidewatch(dir.path(), &["replay", "--from", "x.log", "--out", "out", "-w", "2"]));
        assert_eq!(code, Some(0), "{name}");
        assert!(held < 300, "{name}: {held} MiB");
        let text = std::fs::read_to_string(dir.path().join("out/rejected.jsonl")).unwrap();
        let letters: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(letters.len(), *records, "{name}");
        let lines: u64 = letters.iter().map(|letter| letter["lines"].as_u64().unwrap_or(1)).sum();
        assert_eq!(lines, *count as u64, "{name}");
        let last = letters.last().unwrap();
        let last = last["last_offset"].as_u64().or(last["offset"].as_u64());
        assert_eq!(last, Some(((count - 1) * line.len()) as u64), "{name}");
        let summary = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
        assert!(summary.contains(&format!("\"rejected\": {count}")), "{name}: {summary}");
    }
}

#[test]
fn lines_that_cannot_be_read_are_not_kept_until_the_next_event() {
    const BLANK: usize = 12_000_000;
    let dir = tempfile::tempdir().unwrap();
    let log = requests(1, 0) + &"\n".repeat(BLANK) + &requests(2, 5);
    std::fs::write(dir.path().join("x.log"), log).unwrap();
    let (held, code) = peak(tidewatch(dir.path(), &["replay", "--from", "x.log", "--out", "out"]));
    assert_eq!(code, Some(0));
    assert!(held < 200, "{held} MiB");
    let summary = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let count = |key: &str| summary[key].as_u64().unwrap();
    assert_eq!([count("lines"), count("events"), count("rejected")], [BLANK as u64 + 3, 3, BLANK as u64]);
}

#[test]
fn masked_clients_and_secrets_are_in_no_result() {
    for privacy in ["client = \"truncate\"", "client = \"hmac\"\nkey = \"0123456789abcdef\""] {
        let dir = tempfile::tempdir().unwrap();
        let secret = requests(1, 4).replace("\"-\" \"curl\"", "\"https://a.example/?token=s3cret\" \"curl\"");
        assert!(secret.contains("s3cret"));
        std::fs::write(dir.path().join("access.log"), requests(150, 2) + &secret).unwrap();
        std::fs::write(dir.path().join("c.toml"), format!("[privacy]\n{privacy}\n")).unwrap();
        let arguments = ["replay", "-c", "c.toml", "--from", "access.log", "--out", "out"];
        let output = tidewatch(dir.path(), &arguments).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let alerts = std::fs::read_to_string(dir.path().join("out/alerts.jsonl")).unwrap();
        assert_eq!(alerts.lines().count(), 1, "{alerts}");
        let metrics = std::fs::read_to_string(dir.path().join("out/metrics.lp")).unwrap();
        for text in [&alerts, &metrics] {
            assert!(!text.contains("192.0.2.7") && !text.contains("s3cret"), "{privacy}: {text}");
        }
        let alert: serde_json::Value = serde_json::from_str(&alerts).unwrap();
        let client = alert["subject"]["client_ip"].as_str().unwrap();
        assert!(alert["evidence"][0].as_str().unwrap().starts_with(&format!("{client} ")), "the same in its evidence");
        assert!(metrics.contains(&format!("client_ip=\"{client}\"")), "and in the results: {metrics}");
    }
}

#[test]
fn a_limit_of_file_size_is_an_error_with_a_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.log"), "x\n".repeat(100_000)).unwrap();
    let script = format!("ulimit -f 1000; exec {} replay --from x.log --out out", env!("CARGO_BIN_EXE_tidewatch"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: cannot write out/rejected.jsonl: File too large"), "{said}");
}

#[test]
fn a_full_disk_is_said_and_the_code_is_1() {
    // Writing to /dev/full fails as on a full disk.
    let full = |path: PathBuf| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/dev/full", path).unwrap();
    };
    let rows = [
        ("alerts.jsonl", ".alerts.jsonl.tmp", "No space left on device"),
        ("rejected.jsonl", ".rejected.jsonl.tmp", "No space left on device"),
        // A link is not followed there.
        ("summary.json", "summary.json.tmp/x", "Is a directory"),
    ];
    for (file, beside, why) in rows {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("access.log"), requests(150, 2) + "nonsense\n").unwrap();
        full(dir.path().join("out").join(beside));
        let child = tidewatch(dir.path(), &["replay", "--from", "access.log", "--out", "out"]);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{file}: {said}");
        assert!(said.contains(&format!("error: cannot write out/{file}: {why}")), "{file}: {said}");
        assert!(!dir.path().join("out/summary.json").exists(), "{file}: nothing looks complete");
    }
    // What cannot be written: few results, and more lines that cannot be read than may wait.
    let junk = requests(3, 2) + &"x\n".repeat(2_000_000);
    let rows = [("alerts.jsonl", requests(150, 2), " alerts, "), ("rejected.jsonl", junk, " dead letters")];
    for (file, log, left) in rows {
        let mut run = Run::new(&log);
        full(run.path(&format!("data/results/{file}")));
        run.start();
        run.until("it cannot be written", |run| {
            std::fs::read_to_string(run.path("said")).is_ok_and(|said| said.contains("the sink is away"))
        });
        // More comes meanwhile.
        std::thread::sleep(Duration::from_secs(2));
        let begun = Instant::now();
        let (code, said) = run.stop();
        let took = begun.elapsed();
        assert_eq!(code, Some(1), "{file}: {said}");
        assert!(said.contains(&format!("{file}: No space left on device")), "{file}: {said}");
        let sentence = said.lines().find(|line| line.contains("not everything was delivered before shutdown"));
        assert!(sentence.is_some_and(|sentence| sentence.contains(left)), "{file}: {said}");
        assert!(said.contains("error: not all results could be delivered before the end"), "{file}: {said}");
        assert!(took < Duration::from_secs(60), "{file}: it took {took:?}: {said}");
    }
}
