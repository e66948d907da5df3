//! What commands are given to read, from outside: patterns, names of any bytes, and files that would be written over.

use crate::support::tidewatch;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn line(second: u32) -> String {
    format!("1.2.3.4 - - [05/Mar/2026:10:00:{second:02} +0000] \"GET / HTTP/1.1\" 200 5\n")
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

/// Runs `run` until standard output of `report` holds something, then ends it; what it said on standard error.
fn run_until(dir: &Path, arguments: &[&str], is_done: impl Fn(&Path) -> bool) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(["run", "--no-page"])
        .args(arguments)
        .current_dir(dir)
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(dir.join("said")).unwrap())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    while Instant::now() < end && !is_done(dir) && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let status = child.wait().unwrap();
    let said = std::fs::read_to_string(dir.join("said")).unwrap();
    assert!(status.success(), "{said}");
    said
}

#[test]
fn run_follows_what_a_pattern_names_also_later() {
    let (one, two) = (line(1).repeat(3), line(2).repeat(2));
    let dir = folder(&[("access-a.log", &one), ("access-b.log", &two), ("other.log", &one)]);
    let is_followed = |dir: &Path, name: &str| {
        let said = std::fs::read_to_string(dir.join("said")).unwrap_or_default();
        said.lines().any(|line| line.contains("following") && line.contains(name))
    };
    let late = dir.path().join("access-c.log");
    let said = run_until(dir.path(), &["--input", "access*.log"], |dir| {
        if is_followed(dir, "access-b.log") && !late.exists() {
            std::fs::write(&late, &one).unwrap();
        }
        is_followed(dir, "access-c.log")
    });
    assert!(said.contains("8 lines: 8 events") && !said.contains("other.log"), "{said}");
}

#[test]
fn a_stop_reads_what_senders_have_sent() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = ("127.0.0.1", port);
    let text = format!("[[source]]\nkind = \"tcp\"\nlisten = \"127.0.0.1:{port}\"\nformat = \"common\"\n");
    let dir = folder(&[("run.toml", &text)]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(["run", "-c", "run.toml", "--no-page"])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(dir.path().join("said")).unwrap())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    let mut first = loop {
        match std::net::TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(e) if Instant::now() >= end || child.try_wait().unwrap().is_some() => panic!("it does not listen: {e}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    first.write_all(line(1).as_bytes()).unwrap();
    let signal = |signal| rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    // It stands still while they send, and is asked to stop before it looks at any of them.
    signal(rustix::process::Signal::STOP);
    let lines = line(2).repeat(300);
    let mut senders: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    senders.iter_mut().for_each(|sender| sender.write_all(lines.as_bytes()).unwrap());
    senders[0].write_all(line(3).trim_end().as_bytes()).unwrap();
    signal(rustix::process::Signal::TERM);
    signal(rustix::process::Signal::CONT);
    let status = child.wait().unwrap();
    let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
    assert!(status.success() && said.contains("12002 lines: 12002 events"), "{said}");
}

#[test]
fn patterns_that_name_nothing_and_names_of_other_bytes_are_told_apart() {
    let dir = folder(&[("a.log", &line(1))]);
    std::fs::write(dir.path().join(OsStr::from_bytes(b"b\xff.log")), line(2).repeat(2)).unwrap();
    for (arguments, want) in [
        ("run --input *.none", "error: no file matches *.none\n hint: it must match at the start"),
        ("run --input [", "error: \"[\" is not a pattern"),
        ("replay --from [ --out x", "error: \"[\" is not a pattern"),
        ("replay --from *.none --out x", "error: no file matches *.none"),
    ] {
        let ran = tidewatch(dir.path(), arguments);
        assert!(ran.code == Some(2) && ran.err.starts_with(want), "{arguments}: {}", ran.err);
    }
    let run = |first: &[&str], rest: &[&str]| {
        let command = |program: &mut Command| program.current_dir(dir.path()).output().unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        command(program.args(first).arg(OsStr::from_bytes(b"b\xff.log")).args(rest))
    };
    let ran = run(&["run", "--no-page", "--input"], &[]);
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(
        said.starts_with("error: b\\xFF.log: the name is not UTF-8\n hint: name it by a pattern: 'b?.log'"),
        "{said}"
    );
    let said = run_until(dir.path(), &["--input", "b?.log"], |dir| {
        std::fs::read_to_string(dir.join("said")).unwrap_or_default().contains("following")
    });
    assert!(said.contains("2 lines: 2 events"), "{said}");
    let ran = run(&["replay", "--from", "a.log"], &["--out", "out"]);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(said.starts_with("3 lines: 3 events"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn a_replay_keeps_off_the_results_of_a_running_process() {
    let dir = folder(&[("a.log", &line(1))]);
    run_until(dir.path(), &["--input", "a.log"], |dir| {
        let results = dir.join("tidewatch-data/results");
        if !results.join("alerts.jsonl").exists() {
            return false;
        }
        let ran = tidewatch(dir, "replay --from a.log --out tidewatch-data/results");
        assert_eq!(ran.code, Some(2), "{}", ran.err);
        let want =
            "error: a running tidewatch writes its results into --out tidewatch-data/results\n hint: name another";
        assert!(ran.err.starts_with(want), "{}", ran.err);
        true
    });
    let ran = tidewatch(dir.path(), "replay --from a.log --out tidewatch-data/results");
    assert_eq!(ran.code, Some(0), "nobody writes there now: {}", ran.err);
}

#[test]
fn nothing_overwrites_what_it_reads() {
    let log = line(1);
    let rows: &[(&str, &str)] = &[
        ("replay --from out/metrics.lp --out out", "error: out/metrics.lp is read, and --out out would overwrite it"),
        ("replay --from a.log --out out --labels out/alerts.jsonl", "error: out/alerts.jsonl is read, and --out out"),
        ("replay --from link.log --out ./out", "error: link.log is read, and --out ./out would overwrite it"),
        ("replay -c out/summary.json --from a.log --out out", "error: out/summary.json is read"),
        (
            "generate --to file:a.log --labels ./a.log --count 5 --no-pace",
            "error: --labels ./a.log is a file of --to: each would overwrite the other\n hint: name another file",
        ),
        (
            "generate --to file:{host}.log --labels web2.log --count 5 --no-pace --format nginx-json",
            "error: --labels web2.log is a file of --to",
        ),
    ];
    for (arguments, want) in rows {
        let dir =
            folder(&[("a.log", &log), ("out/metrics.lp", &log), ("out/alerts.jsonl", ""), ("out/summary.json", "")]);
        std::os::unix::fs::symlink("out/metrics.lp", dir.path().join("link.log")).unwrap();
        let ran = tidewatch(dir.path(), arguments);
        assert!(ran.code == Some(2) && ran.err.starts_with(want), "{arguments}: {:?} {}", ran.code, ran.err);
        for file in ["a.log", "out/metrics.lp"] {
            assert_eq!(std::fs::read_to_string(dir.path().join(file)).unwrap(), log, "{arguments}: {file}");
        }
        assert!(!dir.path().join("web2.log").exists(), "{arguments}");
    }
    let dir = folder(&[("a.log", &log)]);
    let ran = tidewatch(dir.path(), "replay --from a.log --out .");
    assert_eq!(ran.code, Some(0), "beside it: {}", ran.err);
}

#[test]
fn run_does_not_read_its_own_messages() {
    let dir = folder(&[("logs/a.log", &line(1)), ("logs/said.log", "")]);
    for stream in ["standard output", "standard error"] {
        let to = std::fs::File::create(dir.path().join("logs/said.log")).unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        run.args(["run", "--no-page", "--input", "logs/*.log"]).current_dir(dir.path());
        let ran = match stream {
            "standard output" => run.stdout(to).output().unwrap(),
            _ => run.stderr(to).output().unwrap(),
        };
        assert_eq!(ran.status.code(), Some(2), "{stream}");
        let file = std::fs::read(dir.path().join("logs/said.log")).unwrap();
        let said = String::from_utf8([ran.stderr, file].concat()).unwrap();
        let want = format!("error: --input names a file that Tidewatch writes itself: said.log, of {stream}\n hint: ");
        assert!(said.starts_with(&want), "{said}");
    }
}

#[test]
fn check_and_lint_find_their_configuration() {
    let dir = folder(&[("a.log", &line(1))]);
    let ran = tidewatch(dir.path(), "check");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.starts_with("configuration: the defaults; there is no tidewatch.toml here, -c names another\n"));
    assert!(ran.err.contains("warning: there is no [[source]]"), "{}", ran.err);
    let ran = tidewatch(dir.path(), "rules lint");
    assert!(ran.code == Some(0) && ran.out.contains("\n7 rules are right"), "{}{}", ran.out, ran.err);
    std::fs::write(dir.path().join("tidewatch.toml"), "[[source]]\nkind = \"file\"\npaths = \"a.log\"\n").unwrap();
    let ran = tidewatch(dir.path(), "check");
    let said =
        "configuration: tidewatch.toml (`run` takes it with -c tidewatch.toml)\nsource file: files, format auto\n";
    assert!(ran.code == Some(0) && ran.out.starts_with(said), "{}{}", ran.out, ran.err);
    std::fs::write(dir.path().join("tidewatch.toml"), "[time]\nidle_after = 30\n").unwrap();
    for arguments in ["check", "rules lint"] {
        let ran = tidewatch(dir.path(), arguments);
        assert!(ran.code == Some(2) && ran.err.starts_with("tidewatch.toml:2:14: error:"), "{arguments}: {}", ran.err);
    }
}

#[test]
fn a_source_that_no_process_reads_is_refused() {
    let text = "[[source]]\nkind = \"file\"\npaths = \"a.log\"\nprocess = 2\n";
    let dir = folder(&[("a.log", &line(1)), ("run.toml", text)]);
    for (arguments, count) in [("run -c run.toml", 1), ("run -c run.toml -n 2 -p 0", 2)] {
        let ran = tidewatch(dir.path(), arguments);
        let want = format!("-n {count})\n 4 | process = 2\n");
        assert!(ran.code == Some(2) && ran.err.starts_with("run.toml:4:11: error: `process = 2`"), "{}", ran.err);
        assert!(ran.err.contains(&want), "{}", ran.err);
    }
    assert_eq!(tidewatch(dir.path(), "check -c run.toml").code, Some(0), "it does not know how many there are");
}

#[test]
fn a_hint_stands_in_its_own_line() {
    let mut archive = vec![0; 1024];
    archive[257..263].copy_from_slice(b"ustar\0");
    let text = "[[source]]\nkind = \"file\"\npaths = \"logs.tar\"\n";
    let dir = folder(&[("run.toml", text)]);
    std::fs::write(dir.path().join("logs.tar"), archive).unwrap();
    for arguments in ["run --input logs.tar", "run -c run.toml", "check -c run.toml", "replay --from logs.tar --out x"]
    {
        let ran = tidewatch(dir.path(), arguments);
        assert!(ran.err.contains("archive, not a log\n hint: unpack it") && !ran.err.contains("\\x"), "{}", ran.err);
    }
}

#[test]
fn what_is_cut_is_not_taken_for_other_bytes() {
    let long = |before: &str| format!("{before}{}\n", "é".repeat(1 << 20));
    let label = |before: &str| format!("{{\"rule\":\"{before}{}", long(""));
    let dir = folder(&[
        ("even.log", &long("")),
        ("odd.log", &long("x")),
        ("even.jsonl", &label("")),
        ("odd.jsonl", &label("x")),
    ]);
    for name in ["even", "odd"] {
        let ran = tidewatch(dir.path(), &format!("replay --from {name}.log --out {name}"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let rejected = std::fs::read_to_string(dir.path().join(name).join("rejected.jsonl")).unwrap();
        let letter: serde_json::Value = serde_json::from_str(rejected.lines().next().unwrap()).unwrap();
        let kept = letter["line"].as_str().unwrap();
        assert_eq!(letter["reason"], "too_long");
        assert!(kept.ends_with("éé") && kept.len() > 1 << 16, "{name}: {}", &kept[kept.len() - 9..]);
        let ran = tidewatch(dir.path(), &format!("replay --from even.log --out x --labels {name}.jsonl"));
        let want = format!("error: {name}.jsonl:1: the line is longer than 64 KiB\n hint: is it a file of labels?");
        assert!(ran.code == Some(2) && ran.err.starts_with(&want), "{}", ran.err);
    }
}

#[test]
fn a_process_looks_only_for_what_it_reads() {
    let source = |name: &str, process: &str| {
        format!("[[source]]\nname = {name:?}\nkind = \"file\"\npaths = [\"{name}.log\"]\nprocess = {process}\n")
    };
    let text =
        [("first", "0"), ("second", "1"), ("all", "\"each\"")].map(|(name, process)| source(name, process)).concat();
    let route = "[[route]]\nkind = \"webhook\"\nurl = \"${HAS_NO_URL}\"\nca = \"gone.pem\"\n";
    let hosts = "192.0.2.1:2101\n192.0.2.2:2101\n";
    let dir = folder(&[("run.toml", &text), ("route.toml", &format!("{text}{route}")), ("hosts", hosts)]);
    let rows: [(&str, &[&str]); 4] = [
        ("-c run.toml -p 0", &["source `first`: first.log", "source `all`: all.log"]),
        ("-c run.toml -p 1", &["source `second`: second.log", "source `all`: all.log"]),
        ("-c route.toml -p 0", &["no variable HAS_NO_URL", "gone.pem"]),
        ("-c route.toml -p 1", &["source `second`: second.log", "source `all`: all.log"]),
    ];
    for (arguments, want) in rows {
        let ran = tidewatch(dir.path(), &format!("run -n 2 -h hosts {arguments}"));
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.err);
        assert_eq!(ran.err.matches("error: ").count(), want.len(), "{arguments}: {}", ran.err);
        assert!(want.iter().all(|words| ran.err.contains(words)), "{arguments}: {}", ran.err);
    }
}
