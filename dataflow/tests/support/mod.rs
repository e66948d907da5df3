//! What the tests against the reference model share: random logs as files, a configuration as a user writes it, what
//! the model says of exactly these files, and runs of the engine in a time limit.

pub mod direct;
pub mod logs;
pub mod model;
pub mod setup;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Runs `what` on a thread of its own and gives up after `limit`: an engine that hangs is a failed test.
pub fn within<T: Send + 'static>(limit: Duration, what: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, result) = channel();
    let thread = std::thread::spawn(move || {
        let _ = done.send(what());
    });
    match result.recv_timeout(limit) {
        Ok(value) => Ok(value),
        Err(RecvTimeoutError::Timeout) => Err(format!("no result after {limit:?}")),
        Err(RecvTimeoutError::Disconnected) => Err(match thread.join() {
            Err(panic) => match panic.downcast_ref::<String>() {
                Some(message) => format!("panicked: {message}"),
                None => "panicked".to_owned(),
            },
            Ok(()) => "ended without a result".to_owned(),
        }),
    }
}

/// The number of random cases: `PROPTEST_CASES` where it is set.
pub fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}
