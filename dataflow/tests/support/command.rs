//! The binary, run to its end: its exit code and what it says.

#![allow(dead_code)] // each test uses its part

use std::path::Path;
use std::process::{Command, Output, Stdio};

pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs it with arguments that hold no spaces.
pub fn tidewatch(dir: &Path, arguments: &str) -> Ran {
    run(dir, arguments, Stdio::null())
}

/// The same over a file as standard input.
pub fn run_over(dir: &Path, input: &str, arguments: &str) -> Ran {
    run(dir, arguments, std::fs::File::open(dir.join(input)).unwrap().into())
}

fn run(dir: &Path, arguments: &str, stdin: Stdio) -> Ran {
    let arguments = arguments.split(' ').filter(|word| !word.is_empty());
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .env_remove("RUST_BACKTRACE")
        .env("HAS_TOKEN", "0123456789")
        .stdin(stdin)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), out: text(stdout), err: text(stderr) }
}
