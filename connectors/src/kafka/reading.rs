//! One look into a partition's queue: its records become batches of about full size.
//!
//! Invariants
//! - Records before the start are looked at for what the host agent sent, and are in no batch; nor are records that it sent
//!   before. The position goes on behind all of them, but never past the last record that is wanted.

use super::batch::BatchBuilder;
use super::dedup::Seen;
use super::native::{Received, Record};
use super::reader::now_ms;
use super::settings::HostFrom;
use super::status::KafkaStatus;
use crate::feed::Feed;
use tidewatch_events::batch::{Framing, PartitionId, RawBatch};

/// As many records that are not handed over are passed before queues are looked at again.
const MOST_PASSED: u64 = 1 << 16;

/// What a partition keeps from one look to the next.
pub(super) struct Reading<'a> {
    pub(super) id: PartitionId,
    pub(super) feed: &'a Feed,
    pub(super) status: &'a KafkaStatus,
    pub(super) host_from: HostFrom,
    pub(super) seq: &'a mut u64,
    pub(super) position: &'a mut u64,
    /// Bytes of a record, as last seen.
    pub(super) average: &'a mut usize,
    /// What the host agent sent so far.
    pub(super) seen: &'a mut Seen,
    /// Records before this offset are only looked at.
    pub(super) from: u64,
    /// This record and those behind it are not wanted.
    pub(super) until: u64,
    /// The record to be looked at next, while that is before `from`.
    pub(super) looked_at: &'a mut u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct ReadOutcome {
    /// The end of the partition, where nothing follows it; or of what is wanted of it, once it was reached.
    pub(super) end: Option<u64>,
    /// A batch was handed over.
    pub(super) sent: bool,
    /// The error that came in the queue, if one did: Kafka's number and librdkafka's words.
    pub(super) failed: Option<(i32, String)>,
}

/// Takes what comes out of the queue.
pub(super) struct Taking<'a> {
    of: Reading<'a>,
    batch: BatchBuilder,
    /// How many records there is room for in a new batch.
    records: usize,
    outcome: ReadOutcome,
    duplicates: u64,
    /// Records that are in no batch.
    passed: u64,
}

impl<'a> Taking<'a> {
    /// Begins a look, in which so many records may come.
    pub(super) fn new(of: Reading<'a>, records: usize) -> Taking<'a> {
        let batch = BatchBuilder::new(of.feed.buffer(), records);
        Taking { of, batch, records, outcome: ReadOutcome::default(), duplicates: 0, passed: 0 }
    }

    /// How many more records of this size fill the batch.
    pub(super) fn room(&self, average: usize) -> usize {
        self.batch.room(average)
    }

    /// Whether other partitions should have their turn.
    pub(super) fn is_enough(&self) -> bool {
        let ReadOutcome { end, sent, failed } = &self.outcome;
        let is_over = *end == Some(self.of.until);
        *sent || self.batch.is_full() || failed.is_some() || is_over || self.passed >= MOST_PASSED
    }

    #[inline]
    pub(super) fn take(&mut self, received: Received<'_>) {
        match received {
            Received::Record(record) => self.take_record(&record),
            Received::End(offset) => self.outcome.end = Some(offset.min(self.of.until)),
            Received::Error(code, words) => self.outcome.failed = Some((code, words)),
        }
    }

    #[inline]
    fn take_record(&mut self, record: &Record<'_>) {
        if self.batch.is_full() {
            let empty = BatchBuilder::new(self.of.feed.buffer(), self.records);
            let full = std::mem::replace(&mut self.batch, empty);
            self.send(full);
        }
        if record.offset >= self.of.until {
            self.outcome.end = Some(self.of.until);
            return;
        }
        self.outcome.end = None;
        let headers = record.headers();
        let at = headers.last(c"tidewatch-position");
        let is_again = at.is_some_and(|at| self.of.seen.is_duplicate(headers.last(c"host").unwrap_or_default(), at));
        if record.offset < self.of.from {
            *self.of.looked_at = record.offset + 1;
            self.passed += 1;
            return;
        }
        if is_again {
            (self.passed, self.duplicates) = (self.passed + 1, self.duplicates + 1);
            self.batch.skip(record.offset);
            return;
        }
        let host = match self.of.host_from {
            HostFrom::Nothing => None,
            HostFrom::Header => headers.last(c"host"),
            HostFrom::HeaderOrKey => headers.last(c"host").or((!record.key.is_empty()).then_some(record.key)),
        };
        self.batch.push(record.offset, record.timestamp, record.value, host);
    }

    fn send(&mut self, batch: BatchBuilder) {
        let Reading { id, feed, status, seq, position, average, .. } = &mut self.of;
        let next = batch.next_offset().unwrap_or(**position);
        **average = batch.average().unwrap_or(**average);
        let (bytes, records) = batch.finish();
        let framing = Framing::Records(records);
        feed.send(RawBatch { partition: *id, seq: **seq, bytes, framing, read_at: now_ms() });
        **seq += 1;
        **position = next;
        status.update(*id, |status| status.position = next);
        self.outcome.sent = true;
    }

    /// Hands over what is left, and moves the position behind all that came.
    pub(super) fn finish(mut self) -> ReadOutcome {
        let batch = std::mem::replace(&mut self.batch, BatchBuilder::new(Vec::new(), 0));
        if batch.is_empty() {
            let position = &mut *self.of.position;
            *position = batch.next_offset().unwrap_or(*position).max(*position);
            self.of.feed.credit(batch.finish().0);
        } else {
            self.send(batch);
        }
        if self.duplicates > 0 {
            self.of.status.add_duplicates(self.of.id, self.duplicates);
        }
        if let Some(end) = self.outcome.end {
            // Behind the last record there may be markers of transactions, which are no records.
            *self.of.position = end.max(*self.of.position);
        }
        self.outcome
    }
}
