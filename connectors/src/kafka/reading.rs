//! A partition that is read from a queue of its own: when it is worth a look, and one look, by which records become batches of
//! about full size.
//!
//! A partition that trickles is read at most every [`LINGER`], so that batches are not tiny at a middling rate; one that has
//! plenty is read at once and gives batches of about 1 MiB.
//!
//! Invariants
//! - Records before the start are looked at for what the host agent sent, and are in no batch; nor are records that it sent
//!   before. The position goes on behind all of them, but never past the last record that is wanted.

use super::batch::{BatchBuilder, FULL_BYTES};
use super::client::Consumer;
use super::dedup::Seen;
use super::native::{PartitionQueue, Received, Record, TAKE, Taken, Wake};
use super::offsets::Key;
use super::settings::HostFrom;
use super::status::KafkaStatus;
use crate::feed::Feed;
use crate::source::{SourceError, wall_clock};
use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::batch::{Framing, PartitionId, RawBatch};

/// The least time between two small batches of one partition.
const LINGER: Duration = Duration::from_millis(4);
/// As many records are read without waiting for more.
const PLENTY: usize = 2000;
/// How long the feed is asked for a partition before queues are looked at again.
pub(super) const PATIENCE: Duration = Duration::from_millis(10);
/// How often librdkafka's events are handled and positions compared, at least.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// How many records before its start are looked at, over all partitions, for what the host agent sent; and of one.
const LOOK_BACK: u64 = 400_000;
const LOOK_BACK_EACH: u64 = 100_000;
/// As many records that are not handed over are passed before queues are looked at again.
const MOST_PASSED: u64 = 1 << 16;

/// A partition with its queue, and how far it is read.
pub(super) struct PartitionReader {
    id: PartitionId,
    pub(super) key: Key,
    pub(super) queue: PartitionQueue,
    /// Number of the next batch.
    pub(super) seq: u64,
    /// The record to be handed over next.
    pub(super) position: u64,
    /// Records before this offset are only looked at for what the host agent sent.
    pub(super) from: u64,
    /// This record and those behind it are not wanted.
    until: u64,
    /// The record to be looked at next, while that is before `from`.
    pub(super) looked_at: u64,
    /// What the host agent sent so far.
    seen: Seen,
    /// Bytes of a record, as last seen: so that about as many are taken as fill a batch.
    average: usize,
    pub(super) read_at: Instant,
}

impl PartitionReader {
    /// Takes the queue of a partition of which these records are wanted, and those from `looked_at` on looked at. It is read
    /// once it is assigned.
    pub(super) fn open(
        consumer: &Arc<Consumer>,
        wake: &Arc<Wake>,
        (id, key): (PartitionId, Key),
        wanted: Range<u64>,
        looked_at: u64,
    ) -> Result<PartitionReader, SourceError> {
        let Range { start: from, end: until } = wanted;
        let queue = PartitionQueue::split(consumer, &key.0, key.1, wake).ok_or_else(|| unreadable(&key, from))?;
        let now = Instant::now();
        let read_at = now.checked_sub(LINGER).unwrap_or(now);
        let (seen, average) = (Seen::default(), 512);
        Ok(PartitionReader { id, key, queue, seq: 0, position: from, from, until, looked_at, seen, average, read_at })
    }

    /// `TOPIC/PARTITION`.
    pub(super) fn name(&self) -> String {
        let (topic, number) = &self.key;
        format!("{topic}/{number}")
    }

    /// Adds it to a list of what is to be assigned, from this offset on.
    pub(super) fn add_to(&self, list: &mut TopicPartitionList, offset: u64) -> Result<(), SourceError> {
        let (topic, number) = &self.key;
        let at = i64::try_from(offset).map_err(|_| unreadable(&self.key, offset))?;
        list.add_partition_offset(topic, *number, Offset::Offset(at)).map_err(|_| unreadable(&self.key, offset))
    }

    /// How long it should wait for more records; `None` where there are none yet.
    fn rest(&self, now: Instant) -> Option<Duration> {
        match self.queue.len() {
            0 => None,
            PLENTY.. => Some(Duration::ZERO),
            _ => Some(LINGER.saturating_sub(now.saturating_duration_since(self.read_at))),
        }
    }

    /// Reads what its queue has, up to about one batch of full size.
    pub(super) fn read(
        &mut self,
        taken: &mut Taken,
        feed: &Feed,
        status: &KafkaStatus,
        host_from: HostFrom,
    ) -> ReadOutcome {
        let PartitionReader { id, queue, seq, position, average, seen, from, until, looked_at, .. } = self;
        let (id, from, until, expected) = (*id, *from, *until, *average);
        let reading = Reading { id, feed, status, host_from, seq, position, average, seen, from, until, looked_at };
        let mut taking = Taking::new(reading, queue.len().min(FULL_BYTES / expected.max(16)));
        loop {
            let most = taking.room(expected).min(TAKE);
            let count = queue.take(most, taken, |received| taking.take(received));
            if count < most || taking.is_enough() {
                break;
            }
        }
        let outcome = taking.finish();
        self.read_at = Instant::now();
        outcome
    }
}

/// The partitions worth reading now, and how long to wait where there are none.
pub(super) fn worth_reading<'a>(
    partitions: impl Iterator<Item = &'a PartitionReader>,
    ready: &mut Vec<PartitionId>,
) -> Duration {
    let now = Instant::now();
    let mut soon = TICK;
    for partition in partitions {
        match partition.rest(now) {
            None => {}
            Some(rest) if rest.is_zero() => ready.push(partition.id),
            Some(rest) => soon = soon.min(rest),
        }
    }
    soon
}

/// How many records before the start of each of so many partitions are looked at.
pub(super) fn share_of_look_back(partitions: usize) -> u64 {
    LOOK_BACK / (partitions as u64).max(1)
}

/// Where to begin to look at records, for a start and where the log begins. Not at the very beginning of the log, which
/// retention may be deleting now.
pub(super) fn look_back(start: u64, log_begin: u64, share: u64) -> u64 {
    let most = share.min(LOOK_BACK_EACH).min(start.saturating_sub(log_begin) / 2);
    start - most
}

fn unreadable((topic, number): &Key, offset: u64) -> SourceError {
    SourceError::Service(format!("kafka {topic}/{number}: offset {offset} cannot be read"))
}

/// Records are missing that nobody dealt with.
pub(super) fn lost(name: &str, offset: u64, words: &str) -> SourceError {
    SourceError::Service(format!(
        "kafka {name}: offset {offset} is no longer in the log; records are missing, and tidewatch does not go on as if \
         they were not: {words}"
    ))
}

/// Whether an error in a partition's queue says that the log does not hold what was asked for.
pub(super) fn is_out_of_log(code: i32) -> bool {
    [Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET as i32, Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE as i32]
        .contains(&code)
}

/// Goes on at other offsets after such an error. Not a seek: the partitions are no longer fetched.
pub(super) fn assign_again(consumer: &Consumer, list: &TopicPartitionList) -> Result<(), SourceError> {
    let again = consumer.incremental_unassign(list).and_then(|()| consumer.incremental_assign(list));
    again.map_err(|error| SourceError::Service(format!("kafka: {error}")))
}

/// What a look at a partition changes of it, and what it needs.
struct Reading<'a> {
    id: PartitionId,
    feed: &'a Feed,
    status: &'a KafkaStatus,
    host_from: HostFrom,
    seq: &'a mut u64,
    position: &'a mut u64,
    average: &'a mut usize,
    seen: &'a mut Seen,
    from: u64,
    until: u64,
    looked_at: &'a mut u64,
}

/// What came of a look.
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
struct Taking<'a> {
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
    fn new(of: Reading<'a>, records: usize) -> Taking<'a> {
        let batch = BatchBuilder::new(of.feed.buffer(), records);
        Taking { of, batch, records, outcome: ReadOutcome::default(), duplicates: 0, passed: 0 }
    }

    /// How many more records of this size fill the batch.
    fn room(&self, average: usize) -> usize {
        self.batch.room(average)
    }

    /// Whether other partitions should have their turn.
    fn is_enough(&self) -> bool {
        let ReadOutcome { end, sent, failed } = &self.outcome;
        let is_over = *end == Some(self.of.until);
        *sent || self.batch.is_full() || failed.is_some() || is_over || self.passed >= MOST_PASSED
    }

    #[inline]
    fn take(&mut self, received: Received<'_>) {
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
        feed.send(RawBatch { partition: *id, seq: **seq, bytes, framing, read_at: wall_clock() });
        **seq += 1;
        **position = next;
        status.update(*id, |status| status.position = next);
        self.outcome.sent = true;
    }

    /// Hands over what is left, and moves the position behind all that came.
    fn finish(mut self) -> ReadOutcome {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_looked_at_from_some_records_before_it() {
        // name, start, log begin, share, from
        let rows = [
            ("at the beginning", 0, 0, 1000, 0),
            ("at the beginning of what is left", 500, 500, 1000, 500),
            ("near it", 600, 500, 1000, 550),
            ("far from it", 1_000_000, 0, 1000, 999_000),
            ("the most", 1_000_000, 0, u64::MAX, 900_000),
            ("no share", 1_000_000, 0, 0, 1_000_000),
            ("before the log", 5, 10, 1000, 5),
        ];
        for (name, start, begin, share, want) in rows {
            assert_eq!(look_back(start, begin, share), want, "{name}");
        }
    }
}
