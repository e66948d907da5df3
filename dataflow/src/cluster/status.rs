//! What a process tells the others of itself with each heartbeat.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a start finds lost of files that an earlier life followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostFiles {
    /// Bytes that were read and not dealt with, and that are gone.
    pub bytes: u64,
    /// Contents that are gone: what was written to them after they were read last is not known.
    pub contents: u64,
}

/// What a process tells the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Least effective watermark (ms) of its partitions that hold time; `None` while all of them are idle.
    pub effective: Option<u64>,
    /// How far its time has moved, ms.
    pub reached: u64,
    /// Whether what is said here of its time is known yet.
    pub listed: bool,
    /// What it knows of an earlier life; `None` until it has looked.
    pub earlier: Option<Earlier>,
    /// What is lost of files that an earlier life followed.
    pub lost: LostFiles,
    /// How far it has caught up with what its logs held at its start.
    pub backlog: Backlog,
    /// Everything before this event time (ms) is durable at every sink. Meaningful from process 0.
    pub durable: u64,
    /// Whether its sinks can take no more for now, so that nobody may read on.
    pub full: bool,
    /// Whether its sinks can take no more because their destinations fail.
    pub stuck: bool,
    /// Of the dead letters that each process made, the bytes that take no memory any more. Meaningful from process 0.
    pub letters: Vec<u64>,
    /// How many dead letters of each worker every sink has acknowledged. Meaningful from process 0.
    pub kept: BTreeMap<usize, u64>,
    /// Whether it is draining and will leave.
    pub stopping: bool,
    /// Whether it has sent on all that it read.
    pub drained: bool,
    /// Where all its input has ended, the time of its last event, ms.
    #[serde(default)]
    pub end: Option<u64>,
    /// Said last: it has finished, and its silence means nothing from here on.
    pub farewell: bool,
}

/// What a process knows of an earlier life by what was committed with the logs that it reads, or that a group reads for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// End (ms) of the last window that was durable; `None` where nothing is known.
    pub durable: Option<u64>,
    /// Event time (ms) that had passed.
    pub floor: u64,
    /// The largest number of an earlier life.
    #[serde(default)]
    pub run: u64,
    /// A number for this life, above those of all earlier ones.
    #[serde(default)]
    pub life: u64,
    /// Whether some of what windows need that were open is not read again.
    #[serde(default)]
    pub partial: bool,
}

impl Earlier {
    /// This and what another process knows.
    pub fn with(self, other: &Earlier) -> Earlier {
        let Earlier { durable, floor, run, life, partial } = self;
        Earlier {
            durable: durable.max(other.durable),
            floor: floor.max(other.floor),
            run: run.max(other.run),
            life: life.max(other.life),
            partial: partial || other.partial,
        }
    }
}

/// What the logs of a process held when it opened them, and how much of that it has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// Whether that is known: all sources have listed their partitions.
    pub listed: bool,
    /// How many partitions held something.
    #[serde(default)]
    pub held: usize,
    /// How many partitions are not read that far.
    pub partitions: usize,
    /// Records of Kafka.
    pub records: Amount,
    /// Bytes of files.
    pub bytes: Amount,
}

/// How much there was, and how much of it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Read.
    pub read: u64,
    /// There at the start.
    pub total: u64,
}

impl Amount {
    fn with(self, other: Amount) -> Amount {
        Amount { read: self.read + other.read, total: self.total + other.total }
    }

    /// What there was, if anything.
    pub fn some(self) -> Option<u64> {
        (self.total > 0).then_some(self.total)
    }

    /// What is left.
    pub fn left(self) -> u64 {
        self.total.saturating_sub(self.read)
    }

    fn share(self) -> f64 {
        if self.total == 0 { 1.0 } else { (self.read as f64 / self.total as f64).min(1.0) }
    }
}

impl Backlog {
    /// This and another process's; known where both are.
    pub fn with(self, other: &Backlog) -> Backlog {
        Backlog {
            listed: self.listed && other.listed,
            held: self.held + other.held,
            partitions: self.partitions + other.partitions,
            records: self.records.with(other.records),
            bytes: self.bytes.with(other.bytes),
        }
    }

    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.records.total == 0 && self.bytes.total == 0
    }

    /// Grows with all that is read.
    pub fn read(&self) -> u64 {
        self.records.read + self.bytes.read
    }

    /// How much of it is read, 0 to 1: of records or of bytes, whichever is less.
    pub fn share(&self) -> f64 {
        self.records.share().min(self.bytes.share())
    }
}
