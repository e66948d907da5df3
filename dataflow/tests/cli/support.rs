//! The binary, run to its end: its exit code and what it says.

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

/// A folder with an access log and configurations right and wrong.
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("access.log", "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n"),
        ("hosts", "a:1\na:1\n"),
        ("three", "a:1\nb:2\nc:3\n"),
        ("good.toml", "[[source]]\nkind = \"file\"\npaths = [\"access.log\"]\n"),
        ("bad.toml", "[time]\nidle_after = 30\n[windows]\nsise = \"1s\"\n"),
        ("gone.toml", "[[source]]\nkind = \"file\"\npaths = [\"gone.log\", \"*.none\"]\n"),
        (
            "far.toml",
            "[[source]]\nname = \"far\"\nkind = \"file\"\npaths = [\"/not/on/this/host.log\", \"/nor/*.log\"]\nformat = \"combined\"\n",
        ),
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
