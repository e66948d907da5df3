//! The binary under test, as processes.
//!
//! Taken from `TIDEWATCH_BIN` where that is set, else built once by cargo, so that it is never an old one.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The binary.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("TIDEWATCH_BIN") {
            return given.into();
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bin", "tidewatch"])
            .current_dir(root())
            .status();
        assert!(built.as_ref().is_ok_and(ExitStatus::success), "cargo build of the binary: {built:?}");
        // Tests lie in TARGET/PROFILE/deps.
        let test = std::env::current_exe().unwrap_or_default();
        test.ancestors().nth(2).unwrap_or(Path::new(".")).join("tidewatch")
    })
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs the binary to its end.
pub fn tidewatch(args: &[&str], environment: &[(&str, &str)]) -> Said {
    finish(Command::new(binary()).args(args).envs(environment.iter().copied()))
}

/// Runs the binary to its end and expects 0.
pub fn tidewatch_ok(args: &[&str], environment: &[(&str, &str)]) -> Said {
    let said = tidewatch(args, environment);
    assert_eq!(said.code, Some(0), "tidewatch {args:?}: {said:#?}");
    said
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Said {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A running process; killed when dropped.
pub struct Running {
    child: Child,
    /// Where its standard error goes.
    pub log: PathBuf,
}

impl Running {
    /// Starts the binary; its output goes to `log`.
    pub fn start(args: &[&str], log: PathBuf) -> Running {
        let file = File::create(&log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let copy = file.try_clone().unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let child = Command::new(binary()).args(args).stdin(Stdio::null()).stdout(copy).stderr(file).spawn();
        Running { child: child.unwrap_or_else(|e| panic!("{args:?}: {e}")), log }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// The exit code, once it has ended. A process that a signal ended has −1.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().unwrap_or_else(|e| panic!("{e}"))?;
        Some(status.code().unwrap_or(-1))
    }

    /// Waits for its end; the exit code and how long it took. Panics with its log after `limit`.
    pub fn wait(&mut self, limit: Duration) -> (i32, Duration) {
        let begin = Instant::now();
        loop {
            if let Some(code) = self.ended() {
                return (code, begin.elapsed());
            }
            assert!(begin.elapsed() < limit, "it runs on after {limit:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has used so far: processor time, and the most memory at once, in bytes. Of Linux.
    pub fn used(&self) -> (Duration, u64) {
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_default();
        let (stat, status) = (read("stat"), read("status"));
        // Behind the name, which may hold anything: the 12th and 13th field are ticks, a hundred a second.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        (Duration::from_millis(ticks * 10), peak.unwrap_or(0u64) << 10)
    }

    /// What it wrote so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that nobody listens on now.
pub fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).filter_map(|_| TcpListener::bind("127.0.0.1:0").ok()).collect();
    let ports: Vec<u16> = held.iter().filter_map(|l| Some(l.local_addr().ok()?.port())).collect();
    assert_eq!(ports.len(), count, "no free ports");
    ports
}

/// Processes of one cluster on this machine.
pub struct Cluster {
    /// By index.
    pub processes: Vec<Running>,
    /// Their ports.
    pub ports: Vec<u16>,
}

impl Cluster {
    /// Starts `tidewatch run -w 2 -n N`, a process for each configuration; logs go to `dir`.
    pub fn start(configs: &[&Path], dir: &Path, name: &str) -> Cluster {
        let ports = free_ports(configs.len());
        let hosts = dir.join(format!("{name}.hosts"));
        let text: String = ports.iter().map(|port| format!("127.0.0.1:{port}\n")).collect();
        std::fs::write(&hosts, text).unwrap_or_else(|e| panic!("{}: {e}", hosts.display()));
        let (count, hosts) = (configs.len().to_string(), hosts.display().to_string());
        let start = |(index, config): (usize, &&Path)| {
            let (index, config) = (index.to_string(), config.display().to_string());
            let args = ["run", "-c", &config, "-w", "2", "-n", &count, "-p", &index, "-h", &hosts];
            Running::start(&args, dir.join(format!("{name}-{index}.log")))
        };
        Cluster { processes: configs.iter().enumerate().map(start).collect(), ports }
    }

    /// Asks all to drain and expects 0 of each.
    pub fn stop(&mut self) {
        for process in &self.processes {
            process.signal(Signal::TERM);
        }
        for (index, process) in self.processes.iter_mut().enumerate() {
            let (code, _) = process.wait(Duration::from_secs(120));
            assert_eq!(code, 0, "process {index} after SIGTERM: {}", process.said());
        }
    }

    /// Panics where one has ended.
    pub fn assert_running(&mut self) {
        for (index, process) in self.processes.iter_mut().enumerate() {
            if let Some(code) = process.ended() {
                panic!("process {index} ended with {code}: {}", process.said());
            }
        }
    }
}
