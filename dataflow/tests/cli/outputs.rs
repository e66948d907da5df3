//! Outputs that cannot be written: what is said there is lost, and nothing else.

use crate::support::folder;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// A disk that is full, and a reader that has left.
fn broken() -> [(&'static str, Stdio); 2] {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    [("full", full.into()), ("left", writer.into())]
}

fn command(dir: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
    command.args(arguments.split(' ')).current_dir(dir).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
    command
}

/// An alert, a line that cannot be read, and a configuration with a warning.
fn noisy() -> tempfile::TempDir {
    let dir = folder();
    let line = |second: u32| format!("1.2.3.4 - - [05/Mar/2026:10:00:{second:02} +0000] \"GET / HTTP/1.1\" 200 5\n");
    std::fs::write(dir.path().join("busy.log"), (0..6).map(line).collect::<String>() + "nonsense\n").unwrap();
    let config = "[[rule]]\nname = \"ip-spike\"\nthreshold = 3\n[[silence]]\nrules = [\"path-scan\"]\nreason = \"r\"\nuntil = 2020-01-01\n";
    std::fs::write(dir.path().join("noisy.toml"), config).unwrap();
    dir
}

#[test]
fn standard_error_that_cannot_be_written_ends_nothing() {
    let rows = [
        ("run -c noisy.toml --input - --no-page", 0),
        ("run -c noisy.toml --input - --no-page --log-format json", 0),
        ("run --input gone.log", 2),
        ("replay -c noisy.toml --from busy.log --out out", 0),
        ("demo --port 0 --duration 1s", 0),
        ("check -c noisy.toml", 0),
        ("check -c bad.toml", 2),
        ("capture", 2),
        ("run noisy.toml", 2),
    ];
    for (arguments, code) in rows {
        for (name, stderr) in broken() {
            let dir = noisy();
            let input = std::fs::File::open(dir.path().join("busy.log")).unwrap();
            let ran =
                command(dir.path(), arguments).stdin(input).stdout(Stdio::piped()).stderr(stderr).output().unwrap();
            assert_eq!(ran.status.code(), Some(code), "{arguments}: {name}: {}", ran.status);
            if arguments.starts_with("run -c") {
                assert!(String::from_utf8_lossy(&ran.stdout).contains("ip-spike"), "{arguments}: {name}: no alert");
            }
        }
    }
}

#[test]
fn standard_output_that_cannot_be_written_aborts_nothing() {
    // What a command is for cannot be written to a full disk: that is a failure. A reader that left has seen enough.
    let rows = [
        ("run -c noisy.toml --input - --no-page", [1, 0]),
        ("replay -c noisy.toml --from busy.log --out out", [1, 0]),
        ("check -c noisy.toml", [1, 0]),
        ("demo --port 0 --duration 1s", [0, 0]),
    ];
    for (arguments, codes) in rows {
        for ((name, stdout), code) in broken().into_iter().zip(codes) {
            let dir = noisy();
            let input = std::fs::File::open(dir.path().join("busy.log")).unwrap();
            let ran = command(dir.path(), arguments).stdin(input).stdout(stdout).output().unwrap();
            let said = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(code), "{arguments}: {name}: {}\n{said}", ran.status);
            assert!(!said.contains("panicked"), "{arguments}: {name}: {said}");
        }
    }
}

#[test]
fn an_agent_goes_on_without_standard_error() {
    for (name, stderr) in broken() {
        let dir = noisy();
        let collector = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = format!(
            "data_dir = \"data\"\n[[input]]\npaths = [\"busy.log\"]\n[output]\nkind = \"tidewatch\"\naddresses = [\"{}\"]\n",
            collector.local_addr().unwrap()
        );
        std::fs::write(dir.path().join("ship.toml"), config).unwrap();
        let mut agent = command(dir.path(), "ship -c ship.toml").stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
        // It says that the collector is away when the first connection ends, and tries again.
        for _ in 0..2 {
            drop(accept(&collector, &mut agent, name));
        }
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
}

/// The next connection of an agent that lives.
fn accept(collector: &TcpListener, agent: &mut std::process::Child, name: &str) -> std::net::TcpStream {
    collector.set_nonblocking(true).unwrap();
    loop {
        match collector.accept() {
            Ok((connection, _)) => return connection,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
        let ended = agent.try_wait().unwrap();
        assert!(ended.is_none(), "{name}: it ended: {ended:?}");
    }
}
