//! Sources: bytes in. Each source runs on threads of its own and hands raw batches to the process's [`Feed`].
//!
//! What every source promises
//! - It announces a partition ([`Feed::open`]) before its first batch; ids are the same in every run and process.
//! - Batches of a partition are in order, cut at line ends, `seq` without gaps, about 1 MiB when there is plenty and
//!   small when there is little; a line never spans two batches. A line longer than [`MAX_LINE_BYTES`] is cut: its first
//!   `MAX_LINE_BYTES + 1` bytes are handed over (the parser rejects it as `too_long`), the rest is skipped, and the batch
//!   ends there so that offsets stay true.
//! - It asks [`Feed::choose`] or [`Feed::may_read`] before it reads: back-pressure and alignment are the feed's.
//! - At the end of what there is it says `caught_up` once (live) or `end` (bounded).
//! - It never panics on input, and ends soon after [`Feed::stopped`] turns true.
//!
//! [`Feed`]: crate::feed::Feed
//! [`Feed::open`]: crate::feed::Feed::open
//! [`Feed::choose`]: crate::feed::Feed::choose
//! [`Feed::may_read`]: crate::feed::Feed::may_read
//! [`Feed::stopped`]: crate::feed::Feed::stopped

/// The longest line that is parsed; longer ones become dead letters with reason `too_long`.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// Why a source cannot go on, or cannot start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// The user asked for something that is not there or not possible: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A service that is needed refused or is not reachable: exit code 3.
    #[error("{0}")]
    Service(String),
    /// Reading failed at run time: exit code 1.
    #[error("{0}")]
    Io(String),
}
