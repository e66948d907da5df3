//! Values of secret parameters (`[privacy] redact_query`) leave by no way: not as what alerts are about, nor as names or patterns,
//! in files, on the page, in reports or messages.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SECRET: &str = "swordfish";
const FIELDS: [&str; 6] = ["query", "referrer", "path", "user_agent", "message", "pattern"];

fn prepare(dir: &Path) {
    let mut config = String::from(
        "data_dir = \"data\"\n[[source]]\nkind = \"file\"\npaths = [\"access.log\"]\nformat = \"combined\"\n\
         [[source]]\nkind = \"file\"\npaths = [\"error.log\"]\nformat = \"nginx-error\"\n",
    );
    for field in FIELDS {
        let _ = write!(
            config,
            "[[rule]]\nname = \"by-{field}\"\ngroup_by = [\"{field}\"]\nmeasure = \"count\"\nwindow = \"10s\"\nthreshold = 2\n"
        );
    }
    std::fs::write(dir.join("run.toml"), config).unwrap();
    let (mut access, mut error) = (String::new(), String::new());
    for at in 0..4 {
        let secret = format!("{SECRET}{}", ["a", "b", "c", "d"][at]);
        let _ = writeln!(
            access,
            "1.2.3.4 - - [05/Mar/2026:10:00:0{at} +0000] \"GET /a;sid={secret}?token={secret}&page=1 HTTP/1.1\" 200 5 \"https://a.example/?Password={secret}\" \"agent?token={secret}\""
        );
        let _ = writeln!(error, "2026/03/05 10:00:0{at} [crit] 1#1: *{at} no session for token={secret}xyz");
    }
    std::fs::write(dir.join("access.log"), access).unwrap();
    std::fs::write(dir.join("error.log"), error).unwrap();
}

fn tidewatch(dir: &Path, input: &str, arguments: &[&str]) -> Output {
    let input = std::fs::File::open(dir.join(input)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::from(input))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes())
}

/// No file below a directory holds a secret.
fn clean(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            clean(&path);
        } else if let Ok(bytes) = std::fs::read(&path) {
            assert!(!has_secret(&bytes), "{} holds the secret", path.display());
        }
    }
}

#[test]
fn secrets_are_in_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepare(dir);
    let output = tidewatch(
        dir,
        "access.log",
        &["replay", "-c", "run.toml", "--from", "access.log", "--from", "error.log", "--out", "out"],
    );
    assert!(!has_secret(&output.stdout) && !has_secret(&output.stderr), "{output:?}");
    clean(&dir.join("out"));
    let alerts = std::fs::read_to_string(dir.join("out/alerts.jsonl")).unwrap();
    for field in FIELDS {
        // What differs only in the secret is about the same.
        let of = format!("\"rule\":\"by-{field}\"");
        let all: Vec<&str> = alerts.lines().filter(|line| line.contains(&of)).collect();
        assert!(all.len() == 1 && all[0].contains("***"), "{field}: {all:?}");
    }
    for input in ["access.log", "error.log"] {
        let output = tidewatch(dir, input, &["run", "-c", "run.toml", "--input", "-", "--no-page"]);
        assert!(!has_secret(&output.stdout) && !has_secret(&output.stderr), "{output:?}");
        assert!(dir.join("data/store.db").exists());
        clean(&dir.join("data"));
    }
}

/// What the page answers; `None` where it does not.
fn get(port: u16, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).ok()?;
    assert!(!has_secret(&answer), "{path} shows the secret");
    Some(String::from_utf8_lossy(&answer).into_owned()).filter(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[test]
fn secrets_are_in_no_answer_report_or_message() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepare(dir);
    let app = "2026-03-05 10:00:00 [ERROR] auth - no login by /cb?token=swordfish for password=swordfish | IP: 1.2.3.4 | User: bob\n";
    std::fs::write(dir.join("app.log"), app.repeat(4)).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let more = format!(
        "[[source]]\nkind = \"file\"\npaths = [\"app.log\"]\nformat = \"app\"\n[page]\nlisten = \"127.0.0.1:{port}\"\n\
         [sink.files]\ndir = \"files\"\n[[route]]\nkind = \"file\"\npath = \"told/alerts.jsonl\"\n"
    );
    std::fs::create_dir(dir.join("told")).unwrap();
    let config = std::fs::read_to_string(dir.join("run.toml")).unwrap();
    std::fs::write(dir.join("run.toml"), config + &more).unwrap();
    std::fs::create_dir(dir.join("said")).unwrap();
    let file = |name: &str| std::fs::File::create(dir.join("said").join(name)).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(["run", "-c", "run.toml"])
        .current_dir(dir)
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .unwrap();
    let is_told =
        || std::fs::read_to_string(dir.join("told/alerts.jsonl")).is_ok_and(|told| told.contains("by-message"));
    let holds = |path: &str, part: &str| get(port, path).is_some_and(|answer| answer.contains(part));
    let end = Instant::now() + Duration::from_secs(60);
    let range = "from=1772701200000&to=1772708400000";
    let asked = [
        (format!("/api/v1/alerts?{range}"), "by-pattern"),
        (format!("/api/v1/errors?{range}"), "no login by"),
        ("/api/v1/requests?limit=100".to_owned(), "token=***"),
        (format!("/api/v1/client?ip=1.2.3.4&{range}"), "1.2.3.4"),
        (format!("/api/v1/tops?kind=referrers&{range}"), "a.example"),
        (format!("/api/v1/tops?kind=agents&{range}"), "agent"),
        (format!("/api/v1/tops?kind=paths&{range}"), "/a"),
        ("/api/v1/status".to_owned(), "events"),
        ("/metrics".to_owned(), "tidewatch_events_parsed_total"),
    ];
    let mut missing: Vec<_> = asked.iter().collect();
    while !(missing.is_empty() && is_told()) && Instant::now() < end {
        missing.retain(|(path, part)| !holds(path, part));
        std::thread::sleep(Duration::from_millis(100));
    }
    let told = is_told();
    rustix::process::kill_process(rustix::process::Pid::from_child(&run), rustix::process::Signal::TERM).unwrap();
    assert!(run.wait().unwrap().success());
    assert!(missing.is_empty() && told, "{missing:?} say nothing; told: {told}");
    for form in ["text", "html", "json"] {
        let report =
            ["report", "--format", form, "--since", "2h", "--until", "2026-03-05T11:00:00Z", "--data-dir", "data"];
        let output = tidewatch(dir, "app.log", &report);
        assert!(!has_secret(&output.stdout) && !has_secret(&output.stderr), "{output:?}");
        assert!(output.stdout.windows(7).any(|part| part == b"1.2.3.4"), "it reports on them: {output:?}");
    }
    ["data", "files", "told", "said"].iter().for_each(|name| clean(&dir.join(name)));
}
