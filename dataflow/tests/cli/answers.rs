//! Exit codes and messages: what is refused has no effect, what is asked for goes to standard output.

use crate::support::{folder, tidewatch};
use std::process::{Command, Stdio};

#[test]
fn refusals_have_a_code_a_message_and_no_effect() {
    // name, arguments, exit code, what standard error says (parts)
    let rows: &[(&str, &str, i32, &[&str])] = &[
        ("no command", "", 2, &["Usage: tidewatch"]),
        ("unknown command", "relpay", 2, &["unrecognized subcommand 'relpay'", "'replay'"]),
        ("unknown flag", "run --inptu x", 2, &["unexpected argument '--inptu'", "--input"]),
        ("nothing to read", "run", 2, &["error: `run` has nothing to read", "hint: try `tidewatch run --input"]),
        (
            "a configuration without sources",
            "run -c empty.toml",
            2,
            &["error: `run` has nothing to read", "hint: try `tidewatch run --input"],
        ),
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
        ("replay without --from", "replay --out x", 2, &["--from <PATH|TOPIC>"]),
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
        ("no workers", "replay --from access.log --out x -w 0", 2, &["0 is not in 1..=1024"]),
        (
            "index beyond the cluster",
            "run --input access.log -n 2 -p 2",
            2,
            &["error: process 2 of 2: -p is at most 1"],
        ),
        (
            "more addresses than processes",
            "run --input x.log -n 2 -p 0 -h three",
            2,
            &[
                "warning: the host file three has 3 addresses, and -n says 2 processes\n hint: ",
                "error: x.log does not exist",
            ],
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
        (
            "check of another host's files",
            "check -c far.toml --elsewhere",
            &["source far: files, format combined\n", "the configuration is right\n"],
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
