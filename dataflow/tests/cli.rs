//! The command line from outside: exit codes, messages, and that nothing is created by a command that refuses.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

#[path = "support/command.rs"]
mod command;

use command::{run_over, tidewatch};
use std::path::Path;
use std::process::Command;

/// A folder with a few files.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("access.log", "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n"),
        ("hosts", "a:1\na:1\n"),
        ("good.toml", "[[source]]\nkind = \"file\"\npaths = [\"access.log\"]\n"),
        ("bad.toml", "[time]\nidle_after = 30\n[windows]\nsise = \"1s\"\n"),
        ("gone.toml", "[[source]]\nkind = \"file\"\npaths = [\"gone.log\", \"*.none\"]\n"),
        (
            "influx.toml",
            "[sink.influx]\ntoken = \"${HAS_NO_TOKEN}\"\n\n[[source]]\nkind = \"tcp\"\nlisten = \"127.0.0.1:0\"\nformat = \"combined\"\n",
        ),
        ("empty.toml", ""),
        ("tar.toml", "[[source]]\nkind = \"file\"\npaths = [\"logs.tar\"]\n"),
        ("route.toml", "[[route]]\nkind = \"webhook\"\nurl = \"${HAS_NO_URL}\"\nca = \"hosts\"\n"),
    ];
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let mut archive = vec![0; 1024];
    archive[257..263].copy_from_slice(b"ustar\0");
    std::fs::write(dir.path().join("logs.tar"), archive).unwrap();
    dir
}

#[test]
fn refusals_have_a_code_a_message_and_no_effect() {
    // name, arguments, exit code, what standard error says (parts)
    let rows: &[(&str, &str, i32, &[&str])] = &[
        ("no command", "", 2, &["Usage: tidewatch"]),
        ("unknown command", "relpay", 2, &["unrecognized subcommand 'relpay'", "'replay'"]),
        ("unknown flag", "run --inptu x", 2, &["unexpected argument '--inptu'", "--input"]),
        ("nothing to read", "run", 2, &["error: `run` has nothing to read", "hint: try `tidewatch run --input"]),
        ("a configuration without sources", "run -c empty.toml", 2, &["error: `run` has nothing to read"]),
        (
            "a configuration that is not there",
            "run -c x.toml",
            2,
            &["error: the configuration x.toml cannot be read: No such file"],
        ),
        ("a folder as configuration", "check -c .", 2, &["the configuration . cannot be read"]),
        (
            "all mistakes of a configuration",
            "run -c bad.toml",
            2,
            &[
                "bad.toml:2:14: error: `idle_after` has no unit",
                "bad.toml:4:1: error: [windows] has no key `sise`\n",
                "did you mean `size`?",
            ],
        ),
        ("the same from check", "check -c bad.toml", 2, &["bad.toml:2:14: error:", "bad.toml:4:1: error:"]),
        (
            "missing inputs, all of them",
            "run --input a.log b.log",
            2,
            &["error: a.log does not exist", "error: b.log does not exist"],
        ),
        ("a folder as input", "run --input .", 2, &["error: . is a directory, not a file"]),
        ("a missing configured file", "run -c gone.toml", 2, &["error: source `file`: gone.log does not exist"]),
        (
            "the same from check",
            "check -c gone.toml",
            2,
            &["gone.log does not exist", "warning: source `file`: no file matches *.none yet"],
        ),
        (
            "a missing token",
            "run -c influx.toml --input access.log",
            2,
            &["the environment has no variable HAS_NO_TOKEN"],
        ),
        (
            "the same from check",
            "check -c influx.toml",
            2,
            &["influx.toml:2:9: error: the environment has no variable HAS_NO_TOKEN", " hint: export HAS_NO_TOKEN=…"],
        ),
        (
            "all that is wrong with a route",
            "check -c route.toml",
            2,
            &[
                "route.toml:3:7: error: the environment has no variable HAS_NO_URL",
                "route.toml:4:6: error: `ca` hosts is no file of certificates (PEM)",
                " hint: name a file of certificates",
            ],
        ),
        (
            "an archive",
            "replay --from logs.tar --out x",
            2,
            &["logs.tar is a tar archive, not a log", " hint: unpack it"],
        ),
        (
            "an archive to follow",
            "run --input logs.tar",
            2,
            &["logs.tar is a tar archive, not a log", " hint: unpack it"],
        ),
        (
            "the same from check",
            "check -c tar.toml",
            2,
            &["source `file`: logs.tar is a tar archive, not a log", " hint: unpack it"],
        ),
        ("a page and none", "run --input access.log --port 1 --no-page", 2, &["cannot be used with"]),
        (
            "a wait of no length",
            "setup kafka -c gone.toml --wait soon",
            2,
            &["it is a length of time of at most an hour, such as 2m"],
        ),
        ("a report without a store", "report", 2, &["there is no store at ./tidewatch-data/store.db"]),
        ("a report of no length", "report --since 1parsec", 2, &["not a length of time: write 15m, 1h, 7d"]),
        ("a report in no form", "report --format pdf", 2, &["[possible values: text, html, json]"]),
        ("a report until never", "report --until tomorrow", 2, &["not a time: write 2026-03-05T10:00:00Z"]),
        ("a report from two places", "report --data-dir x --url http://h", 2, &["cannot be used with"]),
        ("a token for nobody", "report --token x", 2, &["--url <URL>"]),
        ("a report from no page", "report --url 127.0.0.1:8080", 2, &["is not the address of a page"]),
        (
            "a report from nobody",
            "report --url http://127.0.0.1:1/",
            3,
            &["cannot reach Tidewatch at http://127.0.0.1:1: Connection refused"],
        ),
        ("no terminal", "top", 2, &["error: `top` needs a terminal; `tidewatch report` writes"]),
        ("replay without --from", "replay --out x", 2, &["--from <PATH>"]),
        ("replay without --out", "replay --from access.log", 2, &["--out <DIR>"]),
        (
            "replay of missing files",
            "replay --from gone.log *.none --out x",
            2,
            &["gone.log does not exist", "no file matches *.none"],
        ),
        ("replay of standard input", "replay --from - --out x", 2, &["a replay reads files, not standard input"]),
        ("a file as --out", "replay --from access.log --out hosts", 2, &["--out hosts is not a directory"]),
        (
            "labels that are none",
            "replay --from access.log --out x --labels access.log",
            2,
            &["access.log:1: this is no label", "hint: a label is {"],
        ),
        ("missing labels", "replay --from access.log --out x --labels l", 2, &["error: --labels l does not exist"]),
        ("no speed", "replay --from access.log --out x --speed fast", 2, &["not a speed: write max, 1x, 10x"]),
        ("no workers", "replay --from access.log --out x -w 0", 2, &["0 is not in 1..=1024"]),
        (
            "index beyond the cluster",
            "run --input access.log -n 2 -p 2",
            2,
            &["error: process 2 of 2: -p is at most 1"],
        ),
        (
            "a host file that is not there",
            "run --input access.log -n 2 -h nope",
            2,
            &["error: the host file nope cannot be read"],
        ),
        (
            "a host twice",
            "run --input access.log -n 2 -h hosts",
            2,
            &["hosts:2:1: error: a:1 is listed twice", "line 1 has it too"],
        ),
        (
            "too few hosts",
            "replay --from access.log --out x -n 3 -h hosts",
            2,
            &["hosts:2:4: error: -n 3 needs 3 addresses, the file has 2"],
        ),
        ("no address to bind", "run --input access.log --bind here", 2, &["\"here\" is not an address to listen on"]),
        ("no level of a module", "rules list --log-level tidewatch=loud", 2, &["is not a level"]),
        ("no level", "rules list --log-level debg", 2, &["error: --log-level \"debg\" is not a level"]),
        ("rules of a bad configuration", "rules lint -c bad.toml", 2, &["bad.toml:2:14: error:"]),
        ("no duration", "demo --duration soon", 2, &["not a length of time: write 500ms, 30s, 5m"]),
    ];
    for (name, arguments, code, parts) in rows {
        let dir = folder();
        let files = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = files();
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!(ran.code, Some(*code), "{name}: {}", ran.err);
        for part in *parts {
            assert!(ran.err.contains(part), "{name}: {part:?} is not in\n{}", ran.err);
        }
        assert_eq!(ran.out, "", "{name}: nothing on standard output");
        assert_eq!(files(), before, "{name}: something was created");
    }
}

#[test]
fn answers_go_to_standard_output() {
    let rows: &[(&str, &str, &[&str])] = &[
        ("help", "--help", &["Usage: tidewatch", "replay", "Examples:"]),
        ("-h without a file is help", "-h", &["Usage: tidewatch", "Examples:"]),
        ("-h of a command is help", "run -h", &["Usage: tidewatch run", "--hostfile", "Examples:"]),
        ("version", "--version", &["tidewatch "]),
        ("rules", "rules list", &["ip-spike", "distinct(path)", ">= 0.05, 3 x baseline or 0.15, n >= 50", "1h/10m"]),
        ("rules as JSON", "rules list --json", &["{\"at_least\":50,", "\"name\":\"dark-paths\""]),
        ("rules are right", "rules lint -c good.toml", &["7 rules are right: 7 built in, 0 of your own, 0 turned off"]),
        ("rules without the token of a sink", "rules lint -c influx.toml", &["7 rules are right"]),
        (
            "check",
            "check -c good.toml",
            &[
                "source file: files, format auto",
                "  access.log: recognised as common, 1 of the first 1 lines can be read\n    time 100 %, client 100 %, \
                 path 100 %, status 100 %, ",
                "rules: 7 on, 0 of them in shadow mode; 0 off",
                "sinks: store ./tidewatch-data/store.db; alerts and dead letters in ./tidewatch-data/results; \
                 alerts on standard output\n",
                "the configuration is right",
            ],
        ),
        (
            "check of another host's",
            "check -c influx.toml --elsewhere",
            &[
                "sinks: store ./tidewatch-data/store.db; influx at http://127.0.0.1:8086, ",
                "the configuration is right",
            ],
        ),
        ("the documentation", "config-docs", &["# Configuration", "| `max_ahead` |"]),
    ];
    for (name, arguments, parts) in rows {
        let dir = folder();
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.err);
        for part in *parts {
            assert!(ran.out.contains(part), "{name}: {part:?} is not in\n{}", ran.out);
        }
        assert_eq!(ran.err, "", "{name}: nothing on standard error");
    }
}

#[test]
fn check_says_what_run_would_miss() {
    let dir = folder();
    let ran = tidewatch(dir.path(), "check -c empty.toml");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("warning: there is no [[source]]"), "{}", ran.err);
    assert!(Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap().success());
    std::fs::write(dir.path().join("pipe.toml"), "[[source]]\nkind = \"file\"\npaths = [\"pipe\"]\n").unwrap();
    let ran = tidewatch(dir.path(), "check -c pipe.toml");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("pipe: it is a named pipe, not a file"), "{}", ran.err);
    let source = "[[source]]\nkind = \"tcp\"\nlisten = \"0.0.0.0:2101\"\nformat = \"combined\"\n";
    std::fs::write(dir.path().join("tcp.toml"), source).unwrap();
    let ran = tidewatch(dir.path(), "run -c tcp.toml -n 2 -p 0");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("would listen on 0.0.0.0:2101, where the cluster listens: localhost:2101"), "{}", ran.err);
}

#[test]
fn an_allow_list_is_seen_wherever_it_acts() {
    let dir = folder();
    let line = |second: u32| format!("1.2.3.4 - - [05/Mar/2026:10:00:{second:02} +0000] \"GET / HTTP/1.1\" 200 5\n");
    std::fs::write(dir.path().join("busy.log"), (0..6).map(line).collect::<String>()).unwrap();
    let text = "[[rule]]\nname = \"ip-spike\"\nthreshold = 3\n[[allow]]\nnetworks = [\"1.2.3.0/24\"]\n\
                rules = [\"ip-spike\"]\nuntil = \"2026-03-05T10:00:05Z\"\nreason = \"our own\\u001b checks\"\n";
    std::fs::write(dir.path().join("allow.toml"), text).unwrap();
    let shown = "allowed: \"our own\\x1B checks\", until 2026-03-05T10:00:05.000Z, for ip-spike: client_ip|cidr = [\"1.2.3.0/24\"]";
    for arguments in ["check -c allow.toml", "rules list -c allow.toml"] {
        let ran = tidewatch(dir.path(), arguments);
        assert!(
            ran.code == Some(0) && ran.out.lines().any(|line| line == shown),
            "{arguments}: {}{}",
            ran.out,
            ran.err
        );
    }
    let ran = tidewatch(dir.path(), "rules list --json -c allow.toml");
    let rules: Vec<serde_json::Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let exceptions = |name: &str| {
        let rule = rules.iter().find(|rule| rule["name"] == name).unwrap();
        rule["exceptions"].as_array().unwrap().len()
    };
    assert_eq!((exceptions("ip-spike"), exceptions("path-scan")), (1, 0));
    let ran = tidewatch(dir.path(), "replay -c allow.toml --from busy.log --out out");
    // Five events before its end; every window of ten seconds, one a second, that holds three of them or more.
    let said = "allowed by \"our own\\x1B checks\", until 2026-03-05T10:00:05.000Z, for ip-spike: 5 events\nprevented: 10 findings of ip-spike\n";
    assert!(ran.code == Some(0) && ran.out.ends_with(said), "{}{}", ran.out, ran.err);
    assert_eq!(std::fs::read_to_string(dir.path().join("out/alerts.jsonl")).unwrap(), "");
    let summary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["allowed"]["lists"][0]["events"], 5);
    assert_eq!(summary["allowed"]["prevented"]["ip-spike"], 10);
}

#[test]
fn more_findings_than_count_are_said() {
    let dir = folder();
    let line = |word: &str| format!("2026/03/05 10:00:00 [crit] 12#0: *1 {word} failed\n");
    std::fs::write(dir.path().join("err.log"), ["one", "two", "three", "four", "five"].map(line).concat()).unwrap();
    let text = "[alerts]\nmax_findings = 2\nmax_open = 1\n";
    std::fs::write(dir.path().join("few.toml"), text).unwrap();
    let ran = tidewatch(dir.path(), "replay -c few.toml --from err.log --out out");
    // Windows of a minute, one each ten seconds: six hold them all.
    let said = "limited: error-log, 18 findings beyond `max_findings` in 6 windows, 6 findings began no alert: `max_open` were open\n";
    assert!(ran.code == Some(0) && ran.err.contains(said), "{}{}", ran.out, ran.err);
    let summary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["alerts"], 1);
    let limited = serde_json::json!([{"rule": "error-log", "findings": 18, "windows": 6, "unopened": 6}]);
    assert_eq!(summary["limited"], limited);
}

#[test]
fn a_file_that_two_sources_read_is_named() {
    let dir = folder();
    std::os::unix::fs::symlink("access.log", dir.path().join("link.log")).unwrap();
    std::fs::write(dir.path().join("other.log"), "").unwrap();
    let source = |name: &str, paths: &str| format!("[[source]]\nname = {name:?}\nkind = \"file\"\npaths = [{paths}]\n");
    let rows: &[(&str, String, &[&str])] = &[
        ("one source", source("a", "\"access.log\", \"*.log\""), &[]),
        ("two files", source("a", "\"access.log\"") + &source("b", "\"other.log\""), &[]),
        (
            "by name and by pattern",
            source("a", "\"access.log\"") + &source("b", "\"acc*.log\""),
            &[
                "warning: source `b`: access.log is read by source `a` too: its lines count twice\n hint: name it in one",
            ],
        ),
        (
            "by a link",
            source("a", "\"access.log\"") + &source("b", "\"link.log\""),
            &["source `b`: link.log is read by source `a` too (as access.log)"],
        ),
    ];
    for (name, text, want) in rows {
        std::fs::write(dir.path().join("two.toml"), text).unwrap();
        let ran = tidewatch(dir.path(), "check -c two.toml");
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.err);
        assert_eq!(ran.err.matches("too").count(), want.len(), "{name}: {}", ran.err);
        assert!(want.iter().all(|words| ran.err.contains(words)), "{name}: {}", ran.err);
    }
}

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
fn a_damaged_file_ends_a_replay() {
    let dir = folder();
    std::fs::write(dir.path().join("damaged.gz"), [0x1f, 0x8b, 8, 0, 0]).unwrap();
    for workers in [1, 2] {
        let ran = tidewatch(dir.path(), &format!("replay --from damaged.gz access.log --out out -w {workers}"));
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        let want = "reading damaged.gz failed at byte 0 of its (uncompressed) content";
        assert!(ran.err.contains(want) && !ran.err.contains("panicked"), "{}", ran.err);
    }
}

#[test]
fn a_data_directory_is_of_one_run() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
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
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
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

#[test]
fn a_replay_is_judged_by_the_labels_of_its_attacks() {
    let dir = folder();
    let generate = "generate --format nginx-json --to file:attacked.log --start 2026-03-05T00:00:00Z --duration 3m --rate 20 --no-pace \
                    --seed 7 --attack ip-spike:1m:20s --labels labels.jsonl";
    assert_eq!(tidewatch(dir.path(), generate).code, Some(0));
    let summary = |arguments: &str| {
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let text = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
        (ran, serde_json::from_str::<serde_json::Value>(&text).unwrap())
    };
    let (ran, without) = summary("replay --from attacked.log --out out");
    assert!(without.get("judged").is_none() && !ran.err.contains("precision"), "{}", ran.err);
    let (ran, with) = summary("replay --from attacked.log --out out --labels labels.jsonl");
    let verdict = &with["judged"]["ip-spike"];
    let exact = (&verdict["precision"], &verdict["recall"], &verdict["found"]);
    assert_eq!(exact, (&1.0.into(), &1.0.into(), &1.into()), "{verdict}");
    assert!(verdict["time_to_detect_p95_s"].as_f64().is_some_and(|s| s <= 10.0), "{verdict}");
    assert!(ran.err.lines().any(|line| line.starts_with("ip-spike") && line.contains("1/1")), "{}", ran.err);
    assert!(with.get("unexpected").is_none() && !ran.err.contains("no rule"), "{}", ran.err);
    // The same label, of a kind for which there is no rule.
    let labels = std::fs::read_to_string(dir.path().join("labels.jsonl")).unwrap();
    let nobody = labels.replace("\"rule\":\"ip-spike\"", "\"rule\":null");
    std::fs::write(dir.path().join("labels2.jsonl"), format!("{labels}{nobody}")).unwrap();
    let (ran, left) = summary("replay --from attacked.log --out out --labels labels2.jsonl");
    assert!(ran.err.contains("1 label is of a kind that no rule is expected to find: ip-spike 1\n"), "{}", ran.err);
    assert_eq!(left["unexpected"], serde_json::json!({"ip-spike": 1}));
    let mut with = with;
    for key in ["judged", "wall_seconds", "events_per_second"] {
        with.as_object_mut().unwrap().remove(key);
    }
    assert!(with.as_object().unwrap().iter().all(|(key, value)| without[key] == *value), "{with}");
}

#[test]
fn every_command_shows_examples() {
    let dir = folder();
    let help = tidewatch(dir.path(), "--help").out;
    let commands = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let names: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        // A description that goes on in the next line is indented further.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() >= 5, "{help}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let ran = tidewatch(dir.path(), &format!("{name} --help"));
        assert_eq!(ran.code, Some(0), "{name}");
        assert!(ran.out.contains("Examples:\n"), "{name} has no examples:\n{}", ran.out);
        assert!(ran.out.contains(&format!("tidewatch {name}")), "{name}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    use std::process::Stdio;
    let dir = folder();
    for arguments in [["rules", "list"].as_slice(), &["config-docs"], &["--help"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(arguments)
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_files_zone_is_noticed() {
    let dir = folder();
    let now = std::time::SystemTime::now();
    let seconds = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let local =
        jiff::Timestamp::from_second(seconds as i64 + 2 * 3600).unwrap().strftime("%Y/%m/%d %H:%M:%S").to_string();
    std::fs::write(dir.path().join("error.log"), format!("{local} [error] 7#7: *1 open() failed\n")).unwrap();
    std::fs::write(
        dir.path().join("zone.toml"),
        "[[source]]\nkind = \"file\"\npaths = \"error.log\"\nformat = \"nginx-error\"\n",
    )
    .unwrap();
    let ran = tidewatch(dir.path(), "check -c zone.toml");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("warning: source `file`: error.log: its times are whole hours off"), "{}", ran.err);
    assert!(ran.err.contains("hint: write time_zone = \"+02:00\""), "{}", ran.err);
}

#[test]
fn check_warns_of_fields_that_no_line_has() {
    let dir = folder();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("bare.log", "[05/Mar/2026:10:00:00 +0000] - 200\n");
    write("bare.toml", "[[source]]\nkind = \"file\"\npaths = \"bare.log\"\nformat = \"%t %h %s\"\n");
    let ran = tidewatch(dir.path(), "check -c bare.toml");
    assert!(ran.out.contains("\n    time 100 %, client 0 %, path 0 %, status 100 %, "), "{}", ran.out);
    let want = "warning: source `file`: bare.log: none of the first 1 lines has a client or a path, read as %t %h %s\n";
    assert!(ran.err.contains(want), "{}", ran.err);
    let line = r#"{"msec":1772704800,"remote_addr":"10.0.0.1","request":"GET / HTTP/1.1","status":200}"#;
    write("proxied.log", &format!("{line}\n{line}\n"));
    let proxies = "trusted_proxies = \"10.0.0.0/8\"\nclient_header = \"x_real_ip\"\n";
    write("proxied.toml", &format!("[[source]]\nkind = \"file\"\npaths = \"proxied.log\"\n{proxies}"));
    let ran = tidewatch(dir.path(), "check -c proxied.toml");
    assert!(ran.err.contains("every client in the first lines is one of `trusted_proxies`"), "{}", ran.err);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}
