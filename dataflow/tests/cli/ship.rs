//! `ship` over a log that others write beside and rename.

use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An agent whose output is away: what it reads goes into the spool.
fn start(dir: &Path) -> Child {
    let text = "data_dir = \"data\"\nhost = \"web1\"\n[[input]]\npaths = [\"a.log\"]\n[output]\nkind = \"tidewatch\"\n\
                addresses = [\"127.0.0.1:9\"]\n[spool]\nafter = \"500ms\"\n";
    std::fs::write(dir.join("ship.toml"), text).unwrap();
    let said = std::fs::File::create(dir.join("said")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
    command.args(["ship", "-c", "ship.toml"]).current_dir(dir).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().unwrap()
}

fn said(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("said")).unwrap()
}

/// Waits until the position of the log is at its end.
fn until_all_is_kept(dir: &Path) {
    let begun = Instant::now();
    let length = std::fs::metadata(dir.join("a.log")).unwrap().len();
    let is_kept = || {
        let text = std::fs::read_to_string(dir.join("data/positions.json")).unwrap_or_default();
        let ends = text.split("\"offset\":").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
        ends.max() == Some(length)
    };
    while !is_kept() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", said(dir));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_log_that_is_replaced_by_a_copy_of_itself_is_shipped_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let line = |n: u64| format!("a line, number {n}\n");
    let write =
        |name: &str, lines: u64| std::fs::write(dir.join(name), (0..lines).map(line).collect::<String>()).unwrap();
    write("a.log", 100);
    let mut read = 0;
    for life in 0..2 {
        let mut agent = start(dir);
        until_all_is_kept(dir);
        for n in 1..4 {
            write("new", 100 + life * 3 + n);
            std::fs::rename(dir.join("new"), dir.join("a.log")).unwrap();
            until_all_is_kept(dir);
        }
        kill_process(Pid::from_child(&agent), Signal::TERM).unwrap();
        assert_eq!(agent.wait().unwrap().code(), Some(0), "{}", said(dir));
        let said = said(dir);
        let counts = said.split(" read=").last().and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        read += counts.unwrap();
        // The second life may find the first copy in the file's place when it starts.
        let copies = said.matches("a followed file was replaced by a copy of itself").count();
        assert!(copies == 3 || life == 1 && copies == 2, "{said}");
    }
    assert_eq!(read, 106);
}
