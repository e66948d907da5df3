//! How the process ends: exit codes, failures on their way to `main`, panics, and signals.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; SIGTERM drained |
//! | 1 | failed at run time |
//! | 2 | bad usage or configuration |
//! | 3 | a service that is needed refused |
//! | 70 | a worker panicked |
//! | 75 | a peer of the cluster was lost: start me again |
//! | 130 | interrupted (SIGINT) after a clean drain, or by a second signal (SIGTERM or SIGINT) at once |
//!
//! Invariants
//! - A panic in any thread ends the process at once: a Timely worker that dies leaves the others waiting for ever.
//! - The first signal only asks ([`stop_requested`]); nothing is cut off by it. A later one of either kind ends the process
//!   at once, in every command, unless it follows within [`SAME_WISH`].
//! - An output that cannot be written (a reader that left, a full disk, a terminal that was closed) ends no process: the words
//!   are lost, and nothing else.

use crate::config::{Diagnostic, Diagnostics};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The name of the page's threads.
const PAGE: &str = "page";

/// Why the process ends, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Failed at run time: disk, unwritable output, a verification that failed.
    Failed = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// A service that is needed refused or is not there.
    Refused = 3,
    /// A worker panicked.
    Panicked = 70,
    /// A peer of the cluster was lost.
    PeerLost = 75,
    /// Interrupted.
    Interrupted = 130,
}

/// A failure on its way to `main`: what to say on standard error, and the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code; `Done` where it was asked to end before it had begun.
    pub code: ExitCode,
    /// What went wrong: lower case, without `error:`. Several lines are allowed.
    pub message: String,
    /// Whether the message is complete as it is: diagnostics say `error:` themselves. What somebody wished for is no error.
    is_rendered: bool,
}

impl Failure {
    /// A failure with a code.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), is_rendered: false }
    }

    /// Failed at run time: exit code 1.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::new(ExitCode::Failed, message)
    }

    /// Bad usage: exit code 2.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(ExitCode::Usage, message)
    }

    /// A needed service refused: exit code 3.
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::new(ExitCode::Refused, message)
    }

    /// Failed at run time, with all that `error` says and its causes: exit code 1.
    pub fn caused(error: &dyn std::error::Error) -> Failure {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message += &format!(": {error}");
            cause = error.source();
        }
        Failure::failed(message)
    }

    /// Says it on standard error and ends the process at once, from any thread, without running exit handlers.
    pub fn exit(&self) -> ! {
        stderr(format_args!("tidewatch: {self}\n"));
        signal_hook::low_level::exit(self.code as i32)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_wished = matches!(self.code, ExitCode::Done | ExitCode::Interrupted);
        if !self.is_rendered && !is_wished {
            f.write_str("error: ")?;
        }
        // Lines are the message's own; what else hides text or moves a terminal's cursor came with somebody's words.
        for (at, line) in self.message.trim_end().split('\n').enumerate() {
            f.write_str(if at > 0 { "\n" } else { "" })?;
            f.write_str(&tidewatch_events::text::printable(line.as_bytes()))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<Diagnostics> for Failure {
    fn from(problems: Diagnostics) -> Failure {
        Failure { code: ExitCode::Usage, message: problems.to_string(), is_rendered: true }
    }
}

impl From<Diagnostic> for Failure {
    fn from(problem: Diagnostic) -> Failure {
        Diagnostics::from(problem).into()
    }
}

impl From<tidewatch_connectors::source::SourceError> for Failure {
    fn from(error: tidewatch_connectors::source::SourceError) -> Failure {
        use tidewatch_connectors::source::SourceError::{Io, Service, Usage};
        match error {
            Usage(message) => Failure::usage(message),
            Service(message) => Failure::refused(message),
            Io(message) => Failure::failed(message),
        }
    }
}

/// How panics of Timely's network threads begin when a peer has gone.
const PEER_LOST: &str = "timely communication error:";

static LEAVING: AtomicBool = AtomicBool::new(false);

/// Whether a thread has said already that a peer was lost, and ends the process.
static LOST: AtomicBool = AtomicBool::new(false);

/// How long the control connection has to say which peer was lost: it ends at the same moment as those for data, but its
/// thread may have to wait for a processor.
const CONTROL_SPEAKS: Duration = Duration::from_millis(700);

/// Takes it upon the calling thread to say that a peer was lost, and to end the process. Does not return where another one
/// has: of many threads that notice, one speaks.
pub fn speak_of_lost_peer() {
    if LOST.swap(true, Ordering::AcqRel) {
        park()
    }
    // Whoever should read standard error may not: the end does not wait for that for ever.
    let end = || {
        std::thread::sleep(Duration::from_secs(5));
        signal_hook::low_level::exit(ExitCode::PeerLost as i32)
    };
    let _ = std::thread::Builder::new().spawn(end);
}

/// Waits for the end of the process.
fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// From here on a peer's data connection may end: this process has drained and says farewell, and whether a peer is lost
/// before it said so too is decided by its control connection alone.
pub fn expect_peers_to_leave() {
    LEAVING.store(true, Ordering::Release);
}

/// Makes a panic in any thread end the process, with one line on standard error: exit code 70, or 75 where a peer of
/// the cluster was lost.
///
/// The process ends without running exit handlers: other threads are in the middle of something, and must stay there.
///
/// But for the page's threads: what they hold is theirs, and results go on without them.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".into());
        let message = tidewatch_events::text::printable(message.as_bytes()).into_owned();
        let code = if message.starts_with(PEER_LOST) { ExitCode::PeerLost } else { ExitCode::Panicked };
        if code == ExitCode::PeerLost && LEAVING.load(Ordering::Acquire) {
            // Were it to unwind, workers would panic over what it leaves behind.
            park()
        }
        match code {
            ExitCode::PeerLost => {
                // It knows which peer it was.
                std::thread::sleep(CONTROL_SPEAKS);
                if LEAVING.load(Ordering::Acquire) {
                    park()
                }
                speak_of_lost_peer();
                stderr(format_args!("tidewatch: a peer of the cluster was lost: {message}\n"));
            }
            _ => {
                let thread = std::thread::current();
                let thread = thread.name().unwrap_or("without a name");
                let place = info.location().map(|place| format!(" at {place}")).unwrap_or_default();
                stderr(format_args!("tidewatch: thread {thread} panicked{place}: {message}\n"));
                if std::env::var_os("RUST_BACKTRACE").is_some() {
                    stderr(format_args!("{}\n", std::backtrace::Backtrace::force_capture()));
                }
                // The page's server answers this one request with an error, and the next as before.
                if thread == PAGE {
                    return;
                }
            }
        }
        signal_hook::low_level::exit(code as i32);
    }));
}

/// Writes to standard error, in one piece. Unlike `eprint!` it does not panic where that cannot be written.
pub fn stderr(words: fmt::Arguments<'_>) {
    let _ = std::io::stderr().lock().write_all(words.to_string().as_bytes());
}

/// Writes to standard output what nobody waits for, at once. Unlike `print!` it does not panic where that cannot be written.
pub fn stdout(words: fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let _ = write!(stdout, "{words}").and_then(|()| stdout.flush());
}

static LOGS_ARE_JSON: AtomicBool = AtomicBool::new(false);

/// Logs are objects: what is said to a person from now on is one too.
pub fn logs_are_json() {
    LOGS_ARE_JSON.store(true, Ordering::Release);
}

/// Says something to whoever started the process, on standard error.
pub fn say(words: &str) {
    if LOGS_ARE_JSON.load(Ordering::Acquire) {
        tracing::info!("{words}");
    } else {
        stderr(format_args!("tidewatch: {words}\n"));
    }
}

static STOP: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether SIGTERM or SIGINT asked the process to drain and end.
pub fn stop_requested() -> bool {
    STOP.load(Ordering::Acquire)
}

/// Whether it was SIGINT, so that the exit code after draining is 130.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Notes that somebody interrupted what had no need to drain: the exit code is 130.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Release);
}

/// Asks the process to drain and end, as SIGTERM does.
fn request_stop() {
    STOP.store(true, Ordering::Release);
}

/// How a start ends that was asked to while it waited.
pub fn stopped_while(waiting: &str) -> Failure {
    let code = if interrupted() { ExitCode::Interrupted } else { ExitCode::Done };
    Failure::new(code, format!("asked to end while {waiting}; nothing was read"))
}

/// Takes SIGHUP: from here on it sets the flag instead of ending the process.
pub fn handle_reloads() -> Result<Arc<AtomicBool>, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, asked.clone())
        .map_err(|error| Failure::failed(format!("signals cannot be handled: {error}")))?;
    Ok(asked)
}

/// Signals that come together are one wish: a terminal's Ctrl-C reaches a script and what it started, and the script's trap
/// sends SIGTERM on; `timeout` sends its signal twice.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Takes SIGTERM and SIGINT: the first asks to drain, a second one of either kind ends the process at once with 130.
pub fn handle_signals() -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::failed(format!("signals cannot be handled: {error}"));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(cannot)?;
    let listen = move || {
        let mut first = None;
        for signal in signals.forever() {
            let wish = wish(&mut first, Instant::now());
            if wish == Wish::Leave {
                leave_at_once();
            }
            if signal == SIGINT {
                INTERRUPTED.store(true, Ordering::Release);
            }
            if wish == Wish::Drain {
                if signal == SIGINT {
                    say("draining; press Ctrl-C again to leave at once");
                }
                request_stop();
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(cannot)?;
    Ok(())
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Drain,
    /// What was asked for already.
    Same,
    Leave,
}

fn wish(first: &mut Option<Instant>, now: Instant) -> Wish {
    match first {
        None => {
            *first = Some(now);
            Wish::Drain
        }
        Some(first) if now.duration_since(*first) < SAME_WISH => Wish::Same,
        Some(_) => Wish::Leave,
    }
}

/// Ends the process where it is. Nobody may read standard error any more: it does not wait for that.
fn leave_at_once() -> ! {
    let spoken = std::thread::Builder::new().spawn(|| say("asked again: left at once, without an end to draining"));
    let until = Instant::now() + Duration::from_millis(200);
    while spoken.as_ref().is_ok_and(|speaker| !speaker.is_finished()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    signal_hook::low_level::exit(ExitCode::Interrupted as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_come_together_are_one_wish() {
        let begun = Instant::now();
        let mut first = None;
        let rows = [(0, Wish::Drain), (0, Wish::Same), (499, Wish::Same), (500, Wish::Leave), (60_000, Wish::Leave)];
        for (ms, want) in rows {
            assert_eq!(wish(&mut first, begun + Duration::from_millis(ms)), want, "after {ms} ms");
        }
    }
}
