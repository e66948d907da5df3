//! Threads of the process, each with a name.

use crate::exit::Failure;
use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread.
///
/// # Errors
/// 1 where the system starts no more of them.
pub fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Failure> {
    Builder::new().name(name.to_owned()).spawn(run).map_err(cannot)
}

/// The failure of a thread that did not start.
pub fn cannot(error: io::Error) -> Failure {
    Failure::failed(format!("cannot start a thread: {error}"))
}
