//! Values of secret parameters (`[privacy] redact_query`) leave by no way: not as what alerts are about, nor as names or patterns.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
        if cfg!(feature = "store") {
            assert!(dir.join("data/store.db").exists());
        }
        clean(&dir.join("data"));
    }
}
