//! `run` where file descriptors are few, and senders many.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `run` with a page and a source that listens, under a limit of open files as the shell sets it.
struct Limited {
    dir: tempfile::TempDir,
    child: Child,
    page: SocketAddr,
    source: SocketAddr,
}

impl Limited {
    fn start(limit: &str) -> Limited {
        let dir = tempfile::tempdir().unwrap();
        let [page, source] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let text = format!(
            "data_dir = \"data\"\n[page]\nlisten = \"{page}\"\n[[source]]\nkind = \"tcp\"\nlisten = \"{source}\"\n\
             format = \"combined\"\n[sink.files]\ndir = \"out\"\n"
        );
        std::fs::write(dir.path().join("c.toml"), text).unwrap();
        let said = std::fs::File::create(dir.path().join("said")).unwrap();
        let script = format!("ulimit {limit} && exec \"$0\" run -c c.toml");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_tidewatch")]).current_dir(dir.path()).env_remove("RUST_LOG");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().unwrap();
        let limited = Limited { dir, child, page, source };
        limited.until("the page answers", Limited::is_healthy);
        limited
    }

    fn said(&self) -> String {
        std::fs::read_to_string(Path::new(self.dir.path()).join("said")).unwrap()
    }

    fn until(&self, what: &str, holds: impl Fn(&Limited) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}; {}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.page)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Sends a line, and keeps the connection if it was let in.
    fn send(&self, line: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(self.source).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.write_all(line.as_bytes()).ok()?;
        let waits = |error: &std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        stream.read(&mut [0]).is_err_and(|error| waits(&error)).then_some(stream)
    }

    fn stop(&mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.said()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn senders_of_half_lines_take_no_descriptor_that_others_need() {
    let mut limited = Limited::start("-n 128");
    assert!(limited.said().contains("the limit of open files is too low for max_connections"), "{}", limited.said());
    let half: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(limited.source).ok()).collect();
    half.iter().for_each(|mut stream| _ = stream.write_all(b"192.0.2.1 - - ["));
    limited.until("descriptors run out", |limited| limited.said().contains("file descriptors run out"));
    assert!(limited.is_healthy(), "{}", limited.said());
    let line = "192.0.2.7 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 7 \"-\" \"honest\"\n";
    limited.until("an honest sender is let in", |limited| limited.send(line).is_some());
    drop(half);
    let said = limited.stop();
    assert!(said.contains(" 1 events"), "{said}");
}

#[test]
fn a_soft_limit_that_is_low_is_raised() {
    let mut limited = Limited::start("-Sn 64");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", limited.child.id())).unwrap();
    let open = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<u64> = open.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[0] > 64 && numbers[0] == numbers[1].min(1 << 20), "{open}");
    limited.stop();
}
