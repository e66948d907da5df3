//! What the binary says of what is right and not meant, of addresses that are taken, and of alerts in words; and that
//! documents name no command that it does not have.

use crate::support::{run_over, tidewatch};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

#[test]
fn the_last_line_counts_warnings() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "access.log", "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n");
    let source = "[[source]]\nkind = \"file\"\npaths = [\"access.log\"]\n";
    let misspelt = "[[rule]]\nname = \"path-scn\"\nwindow = \"10s\"\nthreshold = 5\n";
    let impossible = "where = { status = 700, path = \"admin\" }\n";
    let rows = [
        (source.to_owned(), 0, "the configuration is right\n", "7 rules are right: 7 built in"),
        (
            format!("{source}{misspelt}"),
            1,
            "the configuration is right, with 1 warning\n",
            "8 rules are right, with 1 warning: 7 built in, 1 of your own",
        ),
        (
            format!("{source}{misspelt}{impossible}"),
            3,
            "the configuration is right, with 3 warnings\n",
            "8 rules are right, with 3 warnings: ",
        ),
    ];
    for (text, warnings, checked, linted) in rows {
        write(dir.path(), "c.toml", &text);
        for (arguments, want) in [("check -c c.toml", checked), ("rules lint -c c.toml", linted)] {
            let ran = tidewatch(dir.path(), arguments);
            assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
            assert!(ran.out.contains(want), "{arguments}: {want:?} is not in\n{}", ran.out);
            assert_eq!(ran.err.matches("warning: ").count(), warnings, "{arguments}: {}", ran.err);
        }
    }
}

#[test]
fn a_taken_address_is_a_refused_service_wherever_it_is_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    for kind in ["tcp", "syslog"] {
        let text = format!("[[source]]\nkind = \"{kind}\"\nlisten = \"{address}\"\nformat = \"combined\"\n");
        write(dir.path(), &format!("{kind}.toml"), &text);
    }
    write(dir.path(), "page.toml", &format!("[page]\nlisten = \"{address}\"\n"));
    write(dir.path(), "hosts", &format!("{address}\n127.0.0.1:1\n"));
    write(dir.path(), "empty", "");
    write(
        dir.path(),
        "ship.toml",
        &format!(
            "data_dir = \"ship\"\n[metrics]\nlisten = \"{address}\"\n[[input]]\npaths = [\"empty\"]\n[output]\nkind = \"kafka\"\nbrokers = \"127.0.0.1:1\"\ntopic = \"t\"\n"
        ),
    );
    let another = format!("cannot listen on {address}: another program does; end it (`ss -tulpn` names it)");
    let rows: &[(&str, String)] = &[
        ("run -c tcp.toml --no-page", format!("error: source `tcp`: {another}")),
        ("run -c syslog.toml --no-page", format!("error: source `syslog`: {another}")),
        (
            "run -c page.toml --input empty",
            format!("error: [page] {address} is taken by another program\n hint: end it"),
        ),
        (
            &format!("run --input empty --port {port}"),
            format!("error: --port {port}: {address} is taken by another program\n hint: end it, give another --port"),
        ),
        (&format!("demo --port {port}"), format!("error: --port {port}: {address} is taken")),
        ("run --input empty --no-page -n 2 -h hosts", format!("error: process 0: {another}")),
        (&format!("generate --to tcp-listen://{address} --count 1"), format!("error: {another}")),
        ("ship -c ship.toml", format!("error: metrics: {another}")),
    ];
    for (arguments, want) in rows {
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!(ran.code, Some(3), "{arguments}: {}", ran.err);
        assert!(ran.err.contains(want), "{arguments}: {want:?} is not in\n{}", ran.err);
    }
}

#[test]
fn an_attack_after_the_end_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let generate = "generate --to - --no-pace --start 2026-03-05T00:00:00Z --rate 10";
    let begins = "warning: --attack path-scan: it begins after 10s, when --duration is over";
    let ended = "warning: --attack path-scan: the lines ended before it";
    let rows: &[(&str, &[&str])] = &[
        ("--duration 11s --attack path-scan:10s:5s", &[]),
        ("--duration 10s --attack path-scan:10s:5s", &[begins]),
        ("--count 150 --attack path-scan:10s:5s", &[]),
        ("--count 50 --attack path-scan:10s:5s --attack ip-spike:0s:1s", &[ended]),
    ];
    for (arguments, want) in rows {
        let ran = tidewatch(dir.path(), &format!("{generate} {arguments}"));
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), want.len(), "{arguments}: {}", ran.err);
        assert!(want.iter().all(|words| ran.err.contains(words)), "{arguments}: {}", ran.err);
    }
}

#[test]
fn forget_names_the_memory_of_a_process_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.log", "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n");
    let ran = run_over(dir.path(), "a.log", "run --input - --no-page");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let said = || tidewatch(dir.path(), "forget --client 1.2.3.4").out;
    assert!(said().contains("removed") && !said().contains("memory"), "{}", said());
    let lock = std::fs::File::open(dir.path().join("tidewatch-data/run.lock")).unwrap();
    lock.lock().unwrap();
    assert!(said().contains("not touched: what the running process holds in memory"), "{}", said());
}

#[test]
fn forget_says_that_logs_are_read_again_and_that_there_was_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.log", "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n");
    let ran = run_over(dir.path(), "a.log", "run --input - --no-page");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let sources = "[[source]]\nname = \"web\"\nkind = \"file\"\nfrom = \"beginning\"\npaths = [\"a.log\", \"b*.log\"]\n\
                   [[source]]\nname = \"bus\"\nkind = \"kafka\"\nbrokers = \"k:9092\"\ntopics = [\"x\", \"y\"]\n\
                   [[source]]\nname = \"net\"\nkind = \"tcp\"\nlisten = \"127.0.0.1:5514\"\nformat = \"combined\"\n";
    write(dir.path(), "c.toml", sources);
    let found = tidewatch(dir.path(), "forget -c c.toml --client 1.2.3.4");
    assert_eq!(found.code, Some(0), "{}", found.err);
    let web = "not touched: the logs of source `web` (a.log, b*.log): a start that reads lines of the client again";
    for want in ["1.2.3.4: removed ", web, "source `bus` (topics x, y at k:9092): "] {
        assert!(found.out.contains(want), "{want:?} is not in\n{}", found.out);
    }
    assert!(!found.out.contains("`net`") && !found.out.contains("nothing"), "{}", found.out);
    let none = tidewatch(dir.path(), "forget --client 192.0.2.9");
    assert_eq!(none.code, Some(0), "{}", none.err);
    assert!(none.out.starts_with("nothing of 192.0.2.9 was found\n"), "{}", none.out);
    assert!(none.out.contains("not touched: the logs that `run --input` reads: "), "{}", none.out);
    let unnamed = "not touched: files that a configuration names";
    assert!(none.out.contains(unnamed) && !found.out.contains(unnamed), "{}", none.out);
}

#[test]
fn forget_erases_a_client_from_the_files_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = "[sink.files]\ndir = \"out\"\n[[route]]\nkind = \"file\"\npath = \"told.jsonl\"\n";
    write(dir, "c.toml", config);
    let others = attacked(301).replace("192.0.2.7 ", "192.0.2.77 ");
    let unreadable = "no line of 192.0.2.7\n[::ffff:192.0.2.7] \\x3192.0.2.7 \"192\\x2E0.2.7\"\n";
    write(dir, "a.log", &format!("{}{others}{unreadable}", attacked(301)));
    let ran = run_over(dir, "a.log", "run -c c.toml --input - --no-page");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let names = ["out/metrics.lp", "out/alerts.jsonl", "out/rejected.jsonl", "told.jsonl"];
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let holds = |text: &str| text.replace("192.0.2.77", "").contains("192.0.2.7");
    for name in names {
        assert!(holds(&read(name)), "{name}: {}", read(name));
        std::fs::copy(dir.join(name), dir.join(format!("{name}.1"))).unwrap();
    }
    let of_others = names.map(|name| read(name).matches("192.0.2.77").count());
    // Something that cannot be written: it runs.
    let busy = dir.join("told.jsonl.1");
    std::fs::rename(&busy, dir.join("kept")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tidewatch"), &busy).unwrap();
    let forgot = tidewatch(dir, "forget -c c.toml --client 192.0.2.7");
    assert_eq!(forgot.code, Some(1), "{}", forgot.out);
    assert!(forgot.err.contains("told.jsonl.1") && forgot.err.contains("not erased there"), "{}", forgot.err);
    std::fs::rename(dir.join("kept"), &busy).unwrap();
    let forgot = tidewatch(dir, "forget -c c.toml --client 192.0.2.7");
    assert_eq!(forgot.code, Some(0), "{}", forgot.err);
    assert!(!forgot.out.contains("not touched: files") && !forgot.out.contains("told.jsonl"), "{}", forgot.out);
    for (name, others) in names.iter().zip(of_others) {
        for name in [(*name).to_owned(), format!("{name}.1")] {
            let text = read(&name);
            assert!(
                !holds(&text) && !text.contains("2E0.2.7") && !text.contains("x3192") && text.contains("*********"),
                "{name}: {text}"
            );
            assert_eq!(text.matches("192.0.2.77").count(), others, "{name}");
            for line in text.lines() {
                let is_right = match name.contains(".lp") {
                    true => tidewatch_events::line_protocol::parse_line(line).is_ok(),
                    false => serde_json::from_str::<serde_json::Value>(line).is_ok(),
                };
                assert!(is_right, "{name}: {line}");
            }
        }
    }
}

/// Requests of one client in one second of the fifth minute after ten, and one of another at `end` seconds after ten.
fn attacked(end: u32) -> String {
    let line = |client: &str, at: u32| {
        let (minute, second) = (at / 60, at % 60);
        format!("{client} - - [05/Mar/2026:10:{minute:02}:{second:02} +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"x\"\n")
    };
    line("192.0.2.1", 0) + &line("192.0.2.7", 300).repeat(150) + &line("192.0.2.1", end)
}

#[test]
fn a_run_over_all_of_its_input_ends_alerts_as_a_replay_does() {
    let last = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        let mut alerts = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut last = alerts.rfind(|alert| alert["rule"] == "ip-spike").unwrap();
        last.as_object_mut().unwrap().remove("replaces");
        last
    };
    // The spike's last window ends at 310 s; it is over a minute later.
    for (end, state) in [(301, "firing"), (369, "firing"), (370, "resolved")] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.log", &attacked(end));
        let ran = run_over(dir.path(), "a.log", "run --input - --no-page");
        assert_eq!(ran.code, Some(0), "{end}: {}", ran.err);
        let live = last(&dir.path().join("tidewatch-data/results/alerts.jsonl"));
        assert_eq!(tidewatch(dir.path(), "replay --from a.log --out out").code, Some(0));
        let replayed = last(&dir.path().join("out/alerts.jsonl"));
        assert_eq!(replayed["state"], state, "{end}");
        assert_eq!(live, replayed, "{end}");
        let lines: Vec<&str> = ran.out.lines().filter(|line| line.contains("ip-spike")).collect();
        assert!(lines[0].ends_with(", firing"), "{end}: {}", ran.out);
        let want = if state == "firing" { ", firing" } else { ", resolved" };
        assert!(lines[lines.len() - 1].ends_with(want), "{end}: {}", ran.out);
        // And by two processes, of which the second has nothing to read.
        let ports: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let hosts: String = ports.iter().map(|port| format!("{}\n", port.local_addr().unwrap())).collect();
        write(dir.path(), "hosts", &hosts);
        drop(ports);
        let process = |index: u32| format!("run --input - --no-page -n 2 -p {index} -h hosts --data-dir data-{index}");
        let other = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(process(1).split(' '))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let ran = run_over(dir.path(), "a.log", &process(0));
        assert_eq!((ran.code, other.unwrap().wait().unwrap().code()), (Some(0), Some(0)), "{end}: {}", ran.err);
        assert_eq!(last(&dir.path().join("data-0/results/alerts.jsonl")), replayed, "{end}, by two processes");
    }
}

#[test]
fn labels_find_masked_clients() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.log", &attacked(310));
    write(
        dir.path(),
        "labels.jsonl",
        r#"{"rule":"ip-spike","subject":{"client_ip":"192.0.2.7"},"from":"2026-03-05T10:05:00Z","to":"2026-03-05T10:05:01Z"}"#,
    );
    for privacy in ["client = \"full\"", "client = \"truncate\"", "client = \"hmac\"\nkey = \"0123456789abcdef\""] {
        write(dir.path(), "c.toml", &format!("[privacy]\n{privacy}\n"));
        let ran = tidewatch(dir.path(), "replay -c c.toml --from a.log --out out --labels labels.jsonl");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let summary: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap()).unwrap();
        let verdict = &summary["judged"]["ip-spike"];
        assert_eq!((&verdict["right"], &verdict["found"]), (&1.into(), &1.into()), "{privacy}: {verdict}");
    }
}

#[test]
fn one_file_in_two_spellings_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.log", "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n");
    std::os::unix::fs::symlink("a.log", dir.path().join("link.log")).unwrap();
    for (files, is_said) in [("a.log a.log", false), ("a.log ./a.log", true), ("*.log a.log", true)] {
        let ran = tidewatch(dir.path(), &format!("replay --from {files} --out out"));
        assert!(ran.code == Some(0) && ran.out.starts_with("1 lines: "), "{files}: {}{}", ran.out, ran.err);
        assert_eq!(ran.err.contains("the same file was named twice; it is read once"), is_said, "{files}: {}", ran.err);
    }
}

#[test]
fn a_file_without_its_flag_is_helped_on() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [
        ("run a.log", "tip: `--input FILE` reads a file, `-c FILE` takes a configuration"),
        ("replay a.log --out x", "tip: `--from FILE` reads a file"),
        ("check c.toml", "tip: `-c FILE` takes a configuration"),
        (
            "replay --from kafka://b/t --out x",
            "error: kafka://b/t: \"b\" is not a broker\n hint: write kafka://HOST:PORT/TOPIC",
        ),
        (
            "replay --from kafka://b:1/t@yesterday.. --out x",
            "error: kafka://b:1/t@yesterday..: \"yesterday\" is not a time\n hint: write times as @2026-03-05T10:00:00Z..",
        ),
        ("replay --from kafka://b:1/t kafka://b:1/t@0:1.. --out x", "error: topic t is named twice"),
        ("replay --from . --out x", "hint: name files in it, as ./*"),
    ];
    for (arguments, want) in rows {
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.err);
        assert!(ran.err.contains(want), "{arguments}: {}", ran.err);
    }
    write(dir.path(), "a.log", &attacked(310));
    write(dir.path(), "hosts", "127.0.0.1:1\n127.0.0.1:2\n");
    let ran = tidewatch(dir.path(), "replay --from a.log --out out -h hosts");
    assert!(ran.code == Some(0) && ran.err.contains("warning: -h says nothing of one process"), "{}", ran.err);
    write(dir.path(), "host", "127.0.0.1:1\n");
    let ran = tidewatch(dir.path(), "replay --from a.log --out alone -n 1 -p 0 -h host");
    assert!(ran.code == Some(0) && !ran.err.contains("warning:"), "{}", ran.err);
    let ran = tidewatch(dir.path(), "check -c a.log");
    assert!(ran.code == Some(2) && ran.err.lines().count() < 70, "{}", ran.err);
    assert!(ran.err.contains(" more mistakes in a.log\n hint: is it a configuration?"), "{}", ran.err);
}

/// Ends with the test, also where that fails.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn messages_of_any_program_are_read_over_syslog() {
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    write(dir.path(), "c.toml", &format!("[[source]]\nkind = \"syslog\"\nlisten = \"127.0.0.1:{port}\"\n"));
    let file = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(["run", "-c", "c.toml", "--no-page", "--data-dir", "data"])
        .current_dir(dir.path())
        .env_remove("RUST_LOG")
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let begun = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(120), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let now = jiff::Timestamp::now();
    let (short, long) = (now.strftime("%b %e %H:%M:%S").to_string(), now.to_string());
    let request =
        now.strftime("1.2.3.4 - - [%d/%b/%Y:%H:%M:%S +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"x\"").to_string();
    let messages = [
        format!("<34>{short} web1 sshd[24200]: Failed password for root from 1.2.3.4 port 38926 ssh2"),
        format!("<34>1 {long} web1 su 17 ID47 - 'su root' failed"),
        format!("<190>{short} web1 nginx: {request}"),
        format!("<13>{short} web2 shop: {long} [CRITICAL] payment - card refused | IP: 1.2.3.4 | ResponseTime: 120ms"),
        "no syslog at all".to_owned(),
    ];
    stream.write_all((messages.join("\n") + "\n").as_bytes()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    messages.iter().for_each(|message| _ = socket.send_to(message.as_bytes(), ("127.0.0.1", port)).unwrap());
    // The last message of each way is one that cannot be read.
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    let is_read = || {
        let alerts = read("data/results/alerts.jsonl");
        read("data/results/rejected.jsonl").matches('\n').count() == 2
            && ["web1", "web2"].iter().all(|host| alerts.contains(&format!("\"host\":\"{host}\"")))
    };
    while !is_read() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", read("err"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-TERM", &child.0.id().to_string()]).status().unwrap().success());
    child.0.wait().unwrap();
    let (out, err) = (read("out"), read("err"));
    assert!(err.contains("10 lines: 8 events, 2 rejected, 0 late, 0 future"), "{err}");
    // Critical messages of two hosts, of which the header names severity and host.
    for host in ["web1", "web2"] {
        assert!(out.contains(&format!("error-log host={host} ")), "{host}: {out}{err}");
    }
}

/// Every `.md` file below a directory.
fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The words after `tidewatch` where a document quotes a command, in backticks or at the beginning of a line of code.
fn quoted(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, part) in text.split('`').enumerate() {
        // Between three backticks lies an odd part too.
        let commands = part.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line)).filter(|_| at % 2 == 1);
        let words = commands.filter_map(|line| line.strip_prefix("tidewatch ")?.split_whitespace().next());
        // `tidewatch demo: …` is what it says.
        found.extend(words.filter(|word| !word.ends_with(':')));
    }
    found
}

#[test]
fn documents_name_only_commands_there_are() {
    assert_eq!(quoted("`tidewatch a b` tidewatch c ```sh\n$ tidewatch d\n``` `x` `the tidewatch e`"), ["a", "d"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    documents(&root.join("docs"), &mut files);
    let mut named = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let words = quoted(&text).into_iter().filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        named.extend(words.map(|word| (word.to_owned(), file.clone())));
    }
    for (word, file) in named {
        let ran = tidewatch(&root, &format!("{word} --help"));
        assert_eq!(ran.code, Some(0), "{}: there is no `tidewatch {word}`", file.display());
    }
}
