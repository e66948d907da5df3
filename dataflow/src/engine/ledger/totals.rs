//! What was read of a partition: by all, by each worker, and what its first events are.
//!
//! Invariants
//! - In all of [`Totals`]: lines = events + rejected, events = in time + late + future.
//! - [`Shares`] add up to the totals, whichever worker parsed which batch.

use super::Off;
use serde::{Deserialize, Serialize};
use tidewatch_events::batch::Batch;
use tidewatch_events::event::{Client, Kind};

/// What one partition has read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Lines read.
    pub lines: u64,
    /// Parsed.
    pub events: u64,
    /// Not parsed.
    pub rejected: u64,
    /// Records of Kafka that the host agent had sent before: read, and not among the lines.
    #[serde(default)]
    pub duplicates: u64,
    /// Records of Kafka that rules were to see again, and that the log no longer held.
    #[serde(default)]
    pub missing: u64,
    /// Parsed, and too old.
    pub late: u64,
    /// Parsed, and too far in the future.
    pub future: u64,
    /// How far the last of those was ahead of the clock, ms, where there is one to be measured by.
    #[serde(default)]
    pub ahead: Option<u64>,
    /// Least time of an in-time event, ms.
    pub first_event: Option<u64>,
    /// Largest time of an in-time event, ms.
    pub last_event: Option<u64>,
    /// By how much its lines are off the clock, where they name no time zone and keep coming so.
    #[serde(default)]
    pub off: Option<Off>,
    /// The effective watermark, ms.
    pub watermark: u64,
    /// What the first of its events have.
    #[serde(default)]
    pub sample: Sample,
}

/// How many events of a partition are looked at for what they have.
const SAMPLED: u64 = 1000;

/// Of how many requests something is said that none of them has.
const LEAST_REQUESTS: u64 = 100;

/// What a partition's first events are, and which fields the requests among them have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Events that were looked at.
    pub events: u64,
    /// Those that are requests.
    pub requests: u64,
    /// Those that have a client.
    pub with_client: u64,
    /// Those that have a path.
    pub with_path: u64,
    /// Events that look like requests, and were read as messages that no window counts.
    #[serde(default)]
    pub unseen: u64,
}

impl Sample {
    /// Looks at the events that come next, as long as they are among the first.
    pub(super) fn look(&mut self, batch: &Batch) {
        let left = SAMPLED.saturating_sub(self.events).min(batch.events.len() as u64);
        self.events += left;
        for event in &batch.events[..left as usize] {
            if event.kind != Kind::Access {
                self.unseen += u64::from(event.is_unseen_request(batch));
                continue;
            }
            self.requests += 1;
            self.with_client += u64::from(event.client != Client::None);
            self.with_path += u64::from(!event.path.is_none());
        }
    }

    /// Whether there are many requests, and none has a client; and the same of paths.
    pub fn lacks(&self) -> (bool, bool) {
        let is_enough = self.requests >= LEAST_REQUESTS;
        (is_enough && self.with_client == 0, is_enough && self.with_path == 0)
    }

    /// Whether there are many events and no requests, but most look like some.
    pub fn is_unseen(&self) -> bool {
        self.events >= LEAST_REQUESTS && self.requests == 0 && self.unseen * 2 >= self.events
    }

    fn merge(&mut self, other: &Sample) {
        self.events += other.events;
        self.requests += other.requests;
        self.with_client += other.with_client;
        self.with_path += other.with_path;
        self.unseen += other.unseen;
    }
}

impl Totals {
    /// Events that count in windows.
    pub fn in_time(&self) -> u64 {
        self.events - self.late - self.future
    }

    /// Adds another partition's or process's.
    pub fn merge(&mut self, other: &Totals) {
        self.lines += other.lines;
        self.events += other.events;
        self.rejected += other.rejected;
        self.duplicates += other.duplicates;
        self.missing += other.missing;
        self.late += other.late;
        self.future += other.future;
        self.ahead = self.ahead.max(other.ahead);
        self.off = self.off.or(other.off);
        self.first_event = self.first_event.into_iter().chain(other.first_event).min();
        self.last_event = self.last_event.into_iter().chain(other.last_event).max();
        self.watermark = self.watermark.max(other.watermark);
        self.sample.merge(&other.sample);
    }
}

/// What one worker read of a partition: any worker may parse any batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The worker, of the cluster.
    pub worker: usize,
    /// Parsed.
    pub events: u64,
    /// Not parsed.
    pub rejected: u64,
    /// Parsed, and too old.
    pub late: u64,
}

/// What each worker read of a partition, for those that read something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares(Vec<Share>);

impl Shares {
    /// That of a worker.
    pub fn of(&mut self, worker: usize) -> &mut Share {
        let at = self.0.iter().position(|share| share.worker == worker).unwrap_or_else(|| {
            self.0.push(Share { worker, ..Share::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Adds those of another partition.
    pub fn merge(&mut self, other: &Shares) {
        for share in &other.0 {
            let sum = self.of(share.worker);
            sum.events += share.events;
            sum.rejected += share.rejected;
            sum.late += share.late;
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Share> {
        self.0.iter()
    }
}
