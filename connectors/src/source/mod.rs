//! Sources: bytes in. Each source runs on threads of its own and hands raw batches to the process's [`Feed`].
//!
//! What every source promises
//! - It announces a partition ([`Feed::open`]) before its first batch; ids are the same in every run and process.
//! - Batches of a partition are in order, cut at line ends, `seq` without gaps, about 512 KiB when there is plenty and
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

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidewatch_events::batch::{PartitionId, WallTime};

pub mod file;
pub mod frame;
pub mod recent;
pub mod stdin;
pub mod syslog;
pub mod tcp;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;

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

impl SourceError {
    /// The same, said of what it happened to.
    pub fn of(self, what: &str) -> SourceError {
        match self {
            SourceError::Usage(message) => SourceError::Usage(format!("{what}: {message}")),
            SourceError::Service(message) => SourceError::Service(format!("{what}: {message}")),
            SourceError::Io(message) => SourceError::Io(format!("{what}: {message}")),
        }
    }
}

/// Why an address cannot be listened on, and what to do: a taken one may be free at the next start, any other is a mistake.
pub fn cannot_listen(listen: &str, error: &io::Error) -> SourceError {
    let message = |why: &str| format!("cannot listen on {listen}: {why}");
    match error.kind() {
        ErrorKind::AddrInUse => SourceError::Service(message(
            "another program does; end it (`ss -tulpn` names it), or choose another address",
        )),
        ErrorKind::AddrNotAvailable => SourceError::Usage(message("this machine has no such address")),
        ErrorKind::PermissionDenied => SourceError::Usage(message(
            "it is not permitted; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
        )),
        _ => SourceError::Usage(message(&error.to_string())),
    }
}

/// A record's value without the ends of lines behind it, which are no part of it.
pub fn without_end(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |at| at + 1);
    &value[..end]
}

/// Which configured source this is, and what its partitions inherit from it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its position in the configuration.
    pub index: usize,
    /// Its name in outputs: the configured one, or its kind.
    pub name: Arc<str>,
    /// The configured host of lines that name none; without it, each source has its own default.
    pub host: Option<Arc<[u8]>>,
}

/// What tells a source the time.
pub type Clock = fn() -> WallTime;

/// This machine's clock. Zero if it stands before 1970.
pub fn wall_clock() -> WallTime {
    WallTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

/// The id of the partition at a position of a source whose partitions are known and numbered from the start.
pub fn partition_id(source: usize, position: usize) -> PartitionId {
    PartitionId(((source as u64) << 32) | position as u64)
}

/// The id of a partition that is known by its name only, at any time: a followed file. The same in every run; different
/// in every process, as each has files of its own.
pub fn named_partition_id(process: usize, source: usize, name: &[u8]) -> PartitionId {
    const HASH: u64 = (1 << 44) - 1;
    let (process, source) = (process as u64 & 0x3ff, source as u64 & 0xff);
    PartitionId(1 << 62 | process << 52 | source << 44 | tidewatch_events::hash::of(name) & HASH)
}

/// The id of a partition that is numbered as it comes: a connection.
pub fn arriving_partition_id(process: usize, source: usize, number: u64) -> PartitionId {
    const NUMBER: u64 = (1 << 45) - 1;
    let (process, source) = (process as u64 & 0x3ff, source as u64 & 0xff);
    PartitionId(1 << 63 | process << 53 | source << 45 | number & NUMBER)
}

/// Whether the records of a partition are in a log, to be read again: what arrived by a connection is not.
fn is_in_a_log(id: PartitionId) -> bool {
    id.0 >> 63 == 0
}
