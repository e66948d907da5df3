//! The limit of open files: what stands between many connections and everything else that needs a file descriptor.
//!
//! Many systems start processes with a low soft limit, which was made for programs that use `select`, and a hard limit that
//! is high enough.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// The most that is asked for.
const MOST: u64 = 1 << 20;

/// So many descriptors, but a quarter at most, are kept from connections: for files, sinks, routes and the page.
const RESERVE: u64 = 256;

/// Raises the soft limit towards so many, as far as the hard limit lets it. What it is then.
pub fn allow(files: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let want = files.min(MOST).min(limit.maximum.unwrap_or(MOST));
    if limit.current.is_some_and(|current| current < want) {
        // Where that is refused, the limit stays as it is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(want), maximum: limit.maximum });
    }
    current()
}

fn current() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(MOST)
}

/// How many descriptors there may be before none is left for connections.
pub fn for_connections() -> u64 {
    without_reserve(current())
}

fn without_reserve(limit: u64) -> u64 {
    limit - RESERVE.min(limit / 4)
}

/// Whether an error says that there are no more descriptors.
pub(crate) fn are_exhausted(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| [Errno::MFILE, Errno::NFILE].contains(&Errno::from_raw_os_error(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_and_leaves_most_to_connections() {
        for (limit, want) in [(0, 0), (3, 3), (64, 48), (1023, 768), (1024, 768), (1025, 769), (65_536, 65_280)] {
            assert_eq!(without_reserve(limit), want, "{limit}");
        }
    }

    #[test]
    fn the_limit_is_never_lowered() {
        let before = current();
        assert!(allow(1) >= before);
        assert_eq!(Some(allow(u64::MAX)), getrlimit(Resource::Nofile).maximum.map(|most| most.min(MOST).max(before)));
    }
}
