//! The reading thread of a Kafka source.
//!
//! Each partition is read from a queue of its own, so that the feed decides which one is next and one that must wait
//! (back-pressure, alignment) keeps what librdkafka already fetched of it, within the queue's limit. The reader sleeps
//! until a queue gets something. A partition that trickles is read at most every [`LINGER`], so that batches are not
//! tiny at a middling rate; one that has plenty is read at once and gives batches of about 1 MiB.
//!
//! Watching blocks (metadata, ends of logs), so it has a thread of its own ([`super::watch`]) that tells the reader by
//! a channel.
//!
//! Invariants
//! - `caught_up` is said when the end was read from the partition's own queue, behind its last record: never while it is
//!   paused, and not again before another batch.
//! - When a partition's leader stops answering after `caught_up` was said, an **empty batch** is sent: the engine then
//!   knows that the partition is not idle but may have more. When it answers and there is nothing, `caught_up` is said again.
//! - An error that passes is counted and logged once; one that would lose records ends the source.
//! - A partition that is gone with its topic has ended: it must not hold event time. One of a named topic ends the
//!   source. A topic made anew is read from its beginning, once all of the deleted one is judged.

use super::client::{Consumer, serve};
use super::dedup::Seen;
use super::gap::{Gap, Wanted, judge};
use super::native::{PartitionQueue, TAKE, Taken, Wake};
use super::offsets::{self, Key};
use super::reading::{ReadOutcome, Reading, Taking};
use super::settings::KafkaSettings;
use super::source::{KafkaPartition, KafkaSource, first_status};
use super::status::KafkaStatus;
use super::watch::{News, Watch};
use crate::feed::{Feed, PartitionInfo, Unit, Unread};
use crate::source::SourceError;
use crossbeam_channel::{Receiver, bounded};
use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidewatch_events::batch::{Framing, PartitionId, RawBatch, WallTime};
use tracing::{info, warn};

/// The least time between two small batches of one partition.
pub(super) const LINGER: Duration = Duration::from_millis(4);
/// As many records are read without waiting for more.
pub(super) const PLENTY: usize = 2000;
/// How long the feed is asked for a partition before queues are looked at again.
pub(super) const PATIENCE: Duration = Duration::from_millis(10);
/// How often librdkafka's events are handled and positions compared, at least.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// How many records before its start are looked at, over all partitions, for what the host agent sent; and of one.
pub(super) const LOOK_BACK: u64 = 400_000;
const LOOK_BACK_EACH: u64 = 100_000;
/// How long the question may take where a log begins. It is repeated.
const BEGIN_LIMIT: Duration = Duration::from_secs(2);

struct Partition {
    key: Key,
    queue: PartitionQueue,
    seq: u64,
    position: u64,
    read_at: Instant,
    /// `caught_up` was said, and no batch was sent since.
    caught_up: bool,
    connected: bool,
    /// What the host agent sent so far.
    seen: Seen,
    /// Records before this offset are only looked at for what the agent sent.
    from: u64,
    /// The record to be looked at next, while that is before `from`.
    looked_at: u64,
    /// Records before this offset were dealt with by an earlier life.
    dealt_with: u64,
    /// The log does not hold what is to be read next.
    is_out_of_log: bool,
    /// Bytes of a record, as last seen: so that about as many are taken as fill a batch.
    average: usize,
    /// Its topic was deleted.
    gone: bool,
}

/// The reading thread's state.
pub(super) struct Reader {
    settings: KafkaSettings,
    index: usize,
    consumer: Arc<Consumer>,
    status: Arc<KafkaStatus>,
    feed: Arc<Feed>,
    wake: Arc<Wake>,
    partitions: BTreeMap<PartitionId, Partition>,
    /// How many records of each partition may be looked at before its start.
    share: u64,
    /// The rules that see less where records are missing that were dealt with.
    readers: Arc<str>,
    taken: Taken,
    news: Receiver<News>,
}

impl Reader {
    /// Opens the partitions and reads on a new thread.
    pub(super) fn spawn(source: KafkaSource, feed: Arc<Feed>) -> Result<JoinHandle<()>, SourceError> {
        let (tell, news) = bounded(16);
        let watch = Watch::new(&source, feed.clone(), tell);
        let reader = Reader {
            settings: source.settings,
            index: source.index,
            consumer: source.consumer,
            status: source.status,
            feed,
            wake: Arc::default(),
            partitions: BTreeMap::new(),
            share: 0,
            readers: source.readers,
            taken: Taken::new(),
            news,
        };
        let partitions = source.partitions;
        let io = |error: std::io::Error| SourceError::Io(format!("kafka: no thread could be started: {error}"));
        let watcher = thread::Builder::new().name("kafka-watch".into()).spawn(move || watch.run()).map_err(io)?;
        thread::Builder::new()
            .name("kafka-read".into())
            .spawn(move || {
                reader.run(partitions);
                // It looks at the feed at least every second, or between two questions that are limited in time.
                let _ = watcher.join();
            })
            .map_err(io)
    }

    fn run(mut self, partitions: Vec<KafkaPartition>) {
        let feed = self.feed.clone();
        if let Err(error) = self.begin(partitions) {
            feed.fail(error);
            return;
        }
        feed.listed();
        let mut served = Instant::now();
        let mut ready = Vec::new();
        while !feed.stopped() {
            if served.elapsed() >= TICK {
                served = Instant::now();
                if let Err(error) = self.tick() {
                    feed.fail(error);
                    return;
                }
            }
            ready.clear();
            let soon = self.ready(&mut ready);
            if ready.is_empty() {
                self.wake.wait(soon);
            } else if let Some(chosen) = feed.choose(&ready, PATIENCE)
                && let Err(error) = self.read(chosen)
            {
                feed.fail(error);
                return;
            }
        }
    }

    fn begin(&mut self, partitions: Vec<KafkaPartition>) -> Result<(), SourceError> {
        self.share = LOOK_BACK / (partitions.len() as u64).max(1);
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in &partitions {
            self.open(partition, &mut list)?;
        }
        self.consumer.assign(&list).map_err(|error| SourceError::Service(format!("kafka: {error}")))
    }

    /// Announces a partition and takes its queue. It is read once it is assigned.
    fn open(&mut self, partition: &KafkaPartition, list: &mut TopicPartitionList) -> Result<(), SourceError> {
        let KafkaPartition { id, topic, partition: number, start, dealt_with, .. } = partition;
        let refuse = || SourceError::Service(format!("kafka {topic}/{number}: offset {start} cannot be read"));
        let queue = PartitionQueue::split(&self.consumer, topic, *number, &self.wake).ok_or_else(refuse)?;
        let looked_at = look_back(*start, partition.log_begin, self.share);
        let offset = i64::try_from(looked_at).map_err(|_| refuse())?;
        list.add_partition_offset(topic, *number, Offset::Offset(offset)).map_err(|_| refuse())?;
        let now = Instant::now();
        let opened = Partition {
            key: (topic.clone(), *number),
            queue,
            seq: 0,
            position: *start,
            read_at: now.checked_sub(LINGER).unwrap_or(now),
            caught_up: false,
            connected: true,
            seen: Seen::default(),
            from: *start,
            looked_at,
            dealt_with: *dealt_with,
            is_out_of_log: false,
            average: 512,
            gone: false,
        };
        self.partitions.insert(*id, opened);
        self.status.open(first_status(partition));
        self.feed.open(PartitionInfo {
            id: *id,
            source: self.index,
            source_name: self.settings.name.clone(),
            name: partition.name(),
            default_host: self.settings.default_host.clone(),
            passing: false,
            reference_time: now_ms(),
            unread: Some(Unread { from: *start, to: partition.log_end, unit: Unit::Records }),
        });
        Ok(())
    }

    /// The partitions worth reading now, and how long to wait where there are none.
    fn ready(&self, ready: &mut Vec<PartitionId>) -> Duration {
        let now = Instant::now();
        let mut soon = TICK;
        for (id, partition) in &self.partitions {
            let waiting = partition.queue.len();
            if waiting == 0 {
                continue;
            }
            let rest = LINGER.saturating_sub(now.saturating_duration_since(partition.read_at));
            if waiting >= PLENTY || rest.is_zero() {
                ready.push(*id);
            } else {
                soon = soon.min(rest);
            }
        }
        soon
    }

    /// Reads what one partition has, up to about one batch of full size.
    fn read(&mut self, id: PartitionId) -> Result<(), SourceError> {
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let Partition { queue, seq, position, average, seen, from, looked_at, .. } = partition;
        let (feed, status, host_from, expected) = (&*self.feed, &*self.status, self.settings.host_from, *average);
        let (from, until) = (*from, u64::MAX);
        let reading = Reading { id, feed, status, host_from, seq, position, average, seen, from, until, looked_at };
        let mut taking = Taking::new(reading, queue.len().min(super::batch::FULL_BYTES / expected.max(16)));
        loop {
            let most = taking.room(expected).min(TAKE);
            let count = queue.take(most, &mut self.taken, |received| taking.take(received));
            if count < most || taking.is_enough() {
                break;
            }
        }
        let ReadOutcome { end, sent, failed } = taking.finish();
        partition.read_at = Instant::now();
        partition.caught_up &= !sent;
        if let Some((code, words)) = failed {
            self.error(id, code, &words)?;
        } else if sent && !self.feed.stopped() {
            self.consumer.context().works();
        }
        self.note(id, end.is_some());
        Ok(())
    }

    /// Takes note of where a partition stands after it was read, `at_end` where nothing followed its end.
    fn note(&mut self, id: PartitionId, at_end: bool) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if at_end && partition.queue.len() == 0 && !partition.caught_up && partition.connected {
            partition.caught_up = true;
            self.feed.caught_up(id);
        }
        let (position, queued) = (partition.position, partition.queue.len() as u64);
        let log_end = partition.queue.log_end().unwrap_or(0);
        self.status.update(id, |status| {
            status.position = position;
            status.queued = queued;
            status.log_end = status.log_end.max(log_end).max(position);
        });
    }

    /// An error that came in a partition's own queue.
    fn error(&mut self, id: PartitionId, code: i32, words: &str) -> Result<(), SourceError> {
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let (topic, number) = &partition.key;
        let name = format!("{topic}/{number}");
        let gone =
            [Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET as i32, Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE as i32];
        if !gone.contains(&code) {
            self.consumer.context().trouble(&format!("{name}: {words}"));
            return Ok(());
        }
        if partition.position < partition.dealt_with || partition.looked_at < partition.from {
            // What is gone may all have been dealt with; where the log begins is asked for at the next tick.
            partition.is_out_of_log = true;
            return Ok(());
        }
        Err(lost(&name, partition.position, words))
    }

    /// Goes on with partitions whose logs no longer hold what is to be read next, where nothing is lost by that.
    fn find_begins(&mut self) -> Result<(), SourceError> {
        let out: Vec<Key> =
            self.partitions.values().filter(|p| p.is_out_of_log && !p.gone).map(|p| p.key.clone()).collect();
        if out.is_empty() {
            return Ok(());
        }
        let begins = match offsets::bounds(&self.consumer, &out, BEGIN_LIMIT) {
            Ok(begins) => begins,
            Err(words) => {
                self.consumer.context().trouble(&words);
                return Ok(());
            }
        };
        let mut list = TopicPartitionList::with_capacity(begins.len());
        for (id, partition) in self.partitions.iter_mut().filter(|(_, p)| p.is_out_of_log) {
            let Some(begin) = begins.get(&partition.key).map(|bounds| bounds.begin) else { continue };
            let (topic, number) = &partition.key;
            let asked = if partition.position > partition.from { partition.position } else { partition.looked_at };
            let wanted = Wanted { asked, from: partition.from, dealt_with: partition.dealt_with };
            let name = format!("{topic}/{number}");
            match judge(wanted, begin) {
                Gap::GoOn(missing) => {
                    if missing > 0 {
                        let (partition, rules, until) = (&name, &self.readers, wanted.dealt_with);
                        warn!(
                            %partition, missing, begin, until, %rules,
                            "kafka: the log no longer holds records that rules should see again; reading continues after them"
                        );
                    }
                    partition.position = partition.position.max(begin);
                    (partition.looked_at, partition.is_out_of_log) = (begin, false);
                    self.status.update(*id, |status| {
                        status.position = partition.position;
                        status.missing += missing;
                    });
                    let refuse = || SourceError::Service(format!("kafka {name}: offset {begin} cannot be read"));
                    let offset = Offset::Offset(i64::try_from(begin).map_err(|_| refuse())?);
                    list.add_partition_offset(topic, *number, offset).map_err(|_| refuse())?;
                }
                Gap::Lost(records) => {
                    let words = format!("the log begins at {begin}, and {records} were not dealt with");
                    return Err(lost(&name, asked, &words));
                }
                Gap::Held => return Err(lost(&name, asked, &format!("the log begins at {begin}"))),
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        // Not a seek: after such an error the partition is no longer fetched.
        let again = self.consumer.incremental_unassign(&list).and_then(|()| self.consumer.incremental_assign(&list));
        again.map_err(|error| SourceError::Service(format!("kafka: {error}")))
    }

    fn tick(&mut self) -> Result<(), SourceError> {
        serve(&self.consumer);
        if let Some((code, words)) = self.consumer.client().fatal_error() {
            return Err(SourceError::Service(format!("kafka: {code}: {words}")));
        }
        if self.status.take_unreachable() {
            let all: Vec<PartitionId> = self.partitions.keys().copied().collect();
            for id in all {
                self.disconnected(id);
            }
        }
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Ends(ends) => self.ends(&ends),
                News::Found(partition) => self.found(&partition)?,
                News::Gone(ids) => {
                    for id in ids {
                        if let Some(partition) = self.partitions.get_mut(&id) {
                            partition.gone = true;
                        }
                    }
                }
                News::Failed(error) => return Err(error),
            }
        }
        self.end_gone();
        self.find_begins()
    }

    /// Ends partitions that are gone, once what was fetched of them is read.
    fn end_gone(&mut self) {
        let over = self.partitions.extract_if(.., |_, partition| partition.gone && partition.queue.len() == 0);
        for (id, partition) in over {
            let (topic, number) = &partition.key;
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition(topic, *number);
            if let Err(error) = self.consumer.incremental_unassign(&list) {
                self.consumer.context().trouble(&format!("{topic}/{number}: {error}"));
            }
            self.status.close(id);
            self.feed.end(id);
        }
    }

    fn ends(&mut self, ends: &BTreeMap<PartitionId, u64>) {
        let all: Vec<PartitionId> = self.partitions.keys().copied().collect();
        for id in all {
            match ends.get(&id) {
                Some(end) => self.connected(id, *end),
                None => self.disconnected(id),
            }
        }
    }

    /// A partition's leader does not answer: after `caught_up` the engine must hear that there may be more.
    fn disconnected(&mut self, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if partition.caught_up {
            partition.caught_up = false;
            let nothing = Framing::Records(Vec::new());
            let (seq, bytes) = (partition.seq, Vec::new());
            self.feed.send(RawBatch { partition: id, seq, bytes, framing: nothing, read_at: now_ms() });
            partition.seq += 1;
        }
        if partition.connected {
            partition.connected = false;
            self.status.update(id, |status| status.away_since = Some(now_ms()));
        }
    }

    fn connected(&mut self, id: PartitionId, end: u64) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let again = !partition.connected;
        partition.connected = true;
        let at_end = partition.position >= end && partition.queue.len() == 0;
        if again && at_end && !partition.caught_up {
            partition.caught_up = true;
            self.feed.caught_up(id);
        }
        let queued = partition.queue.len() as u64;
        self.status.update(id, |status| {
            status.away_since = None;
            status.log_end = status.log_end.max(end);
            status.queued = queued;
        });
    }

    fn found(&mut self, partition: &KafkaPartition) -> Result<(), SourceError> {
        if self.partitions.contains_key(&partition.id) {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(1);
        self.open(partition, &mut list)?;
        info!(source = %self.settings.name, partition = %partition.name(), "kafka: new partition");
        self.consumer
            .incremental_assign(&list)
            .map_err(|error| SourceError::Service(format!("kafka {}: {error}", partition.name())))
    }
}

/// Where to begin to look at records, for a start and where the log begins. Not at the very beginning of the log, which
/// retention may be deleting now.
pub(super) fn look_back(start: u64, log_begin: u64, share: u64) -> u64 {
    let most = share.min(LOOK_BACK_EACH).min(start.saturating_sub(log_begin) / 2);
    start - most
}

/// Records are missing that nobody dealt with.
pub(super) fn lost(name: &str, offset: u64, words: &str) -> SourceError {
    SourceError::Service(format!(
        "kafka {name}: offset {offset} is no longer in the log; records are missing, and tidewatch does not go on as if \
         they were not: {words}"
    ))
}

pub(super) fn now_ms() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
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
