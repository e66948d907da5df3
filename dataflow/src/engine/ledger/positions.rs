//! Where a run ended and the next one starts: what an earlier life left of partitions, and what is kept for a later one.

use super::Steps;
use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_events::batch::PartitionId;

/// What an earlier life left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Of partitions.
    pub partitions: Vec<(PartitionId, Left)>,
    /// Windows that end at or before this (ms) were closed, those of rules too: these are filled again and go on. 0: not known.
    pub closed: u64,
    /// Windows of results begin here or later (ms): at `closed`, or after the window that holds it.
    pub results: u64,
}

/// How far a partition was dealt with.
#[derive(Clone, Debug)]
pub struct Position {
    /// Which.
    pub info: PartitionInfo,
    /// Everything before lies in windows of results that are durable, or in none.
    pub next_offset: u64,
    /// From where on events are needed that lie before it; `None`: none are.
    pub again: Option<Again>,
    /// How far it was read, in this life or before.
    pub read: u64,
    /// Largest time (ms) of an event of its records: they may be of clocks that are ahead of the one here. 0 of other logs.
    pub newest: u64,
    /// From which offsets on lines were late before which times (ms), although not by the lines before them.
    pub late: Steps,
    /// What was read before these offsets was read by these times of the wall clock (ms): where lines were from the future.
    pub future: Steps,
}

/// What an earlier life left of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Event time (ms) that had passed: windows that close by then were closed.
    pub floor: u64,
    /// End (ms) of the last window that was closed behind it.
    pub durable: u64,
    /// How far it was read; `None`: not known.
    pub read: Option<u64>,
    /// From where on it is read before what was dealt with, and the offset at which that ends.
    pub again: Option<(Again, u64)>,
    /// See [`Position::newest`].
    pub newest: u64,
    /// See [`Position::late`].
    pub late: Steps,
    /// See [`Position::future`].
    pub future: Steps,
}

/// From where on a partition is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// The offset.
    pub from: u64,
    /// The effective watermark (ms) just before it: by it the same verdicts are reached.
    pub at: u64,
}
