//! One process a data directory: a lock that ends with the process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long another process may take to leave: one that was just killed is not gone at once.
const WITHIN: Duration = Duration::from_secs(2);

/// Locks a file, made if need be, for as long as the returned value lives. `None`: another process holds it.
///
/// # Errors
/// Where the file cannot be made or locked.
pub fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let deadline = Instant::now() + WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Says to those who ask [`is_free`] that this process writes into a directory, for as long as the returned value lives.
/// `None` where another one says so already, and where the file system has no locks: nobody is kept from anything.
pub fn hold(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Whether no process holds the lock of a file or directory now; nothing is made or kept.
///
/// # Errors
/// Where the file cannot be read or locked.
pub fn is_free(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
