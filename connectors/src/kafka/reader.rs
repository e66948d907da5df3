//! The reading thread of a Kafka source.
//!
//! Each partition is read from a queue of its own ([`super::reading`]), so that the feed decides which one is next and one
//! that must wait (back-pressure, alignment) keeps what librdkafka already fetched of it, within the queue's limit. The
//! reader sleeps until a queue gets something.
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

use super::client::{self, Consumer};
use super::gap::{Gap, Wanted, judge};
use super::native::{Taken, Wake};
use super::offsets::{self, Key};
use super::reading::{
    self, PATIENCE, PartitionReader, ReadOutcome, TICK, assign_again, is_out_of_log, look_back, lost,
};
use super::settings::KafkaSettings;
use super::source::{KafkaPartition, KafkaSource, first_status};
use super::status::KafkaStatus;
use super::watch::{News, Watch};
use crate::feed::{Feed, PartitionInfo, Unit, Unread};
use crate::source::{SourceError, wall_clock};
use crossbeam_channel::{Receiver, bounded};
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tidewatch_events::batch::{Framing, PartitionId, RawBatch};
use tracing::{info, warn};

/// How long the question may take where a log begins. It is repeated.
const BEGIN_LIMIT: Duration = Duration::from_secs(2);

struct Partition {
    reader: PartitionReader,
    /// `caught_up` was said, and no batch was sent since.
    caught_up: bool,
    connected: bool,
    /// Records before this offset were dealt with by an earlier life.
    dealt_with: u64,
    /// The log does not hold what is to be read next.
    is_out_of_log: bool,
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
            let soon = reading::worth_reading(self.partitions.values().map(|p| &p.reader), &mut ready);
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
        self.share = reading::share_of_look_back(partitions.len());
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in &partitions {
            self.open(partition, &mut list)?;
        }
        self.consumer.assign(&list).map_err(|error| SourceError::Service(format!("kafka: {error}")))
    }

    /// Announces a partition and takes its queue. It is read once it is assigned.
    fn open(&mut self, partition: &KafkaPartition, list: &mut TopicPartitionList) -> Result<(), SourceError> {
        let KafkaPartition { id, topic, partition: number, start, dealt_with, .. } = partition;
        let key = (topic.clone(), *number);
        let looked_at = look_back(*start, partition.log_begin, self.share);
        let reader = PartitionReader::open(&self.consumer, &self.wake, (*id, key), *start..u64::MAX, looked_at)?;
        reader.add_to(list, looked_at)?;
        let opened = Partition {
            reader,
            caught_up: false,
            connected: true,
            dealt_with: *dealt_with,
            is_out_of_log: false,
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
            reference_time: wall_clock(),
            unread: Some(Unread { from: *start, to: partition.log_end, unit: Unit::Records }),
        });
        Ok(())
    }

    /// Reads what one partition has, up to about one batch of full size.
    fn read(&mut self, id: PartitionId) -> Result<(), SourceError> {
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let (feed, status) = (&*self.feed, &*self.status);
        let ReadOutcome { end, sent, failed } =
            partition.reader.read(&mut self.taken, feed, status, self.settings.host_from);
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
        let reader = &partition.reader;
        if at_end && reader.queue.len() == 0 && !partition.caught_up && partition.connected {
            partition.caught_up = true;
            self.feed.caught_up(id);
        }
        let (position, queued) = (reader.position, reader.queue.len() as u64);
        let log_end = reader.queue.log_end().unwrap_or(0);
        self.status.update(id, |status| {
            status.position = position;
            status.queued = queued;
            status.log_end = status.log_end.max(log_end).max(position);
        });
    }

    /// An error that came in a partition's own queue.
    fn error(&mut self, id: PartitionId, code: i32, words: &str) -> Result<(), SourceError> {
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let reader = &partition.reader;
        if !is_out_of_log(code) {
            self.consumer.context().trouble(&format!("{}: {words}", reader.name()));
            return Ok(());
        }
        if reader.position < partition.dealt_with || reader.looked_at < reader.from {
            // What is gone may all have been dealt with; where the log begins is asked for at the next tick.
            partition.is_out_of_log = true;
            return Ok(());
        }
        Err(lost(&reader.name(), reader.position, words))
    }

    /// Goes on with partitions whose logs no longer hold what is to be read next, where nothing is lost by that.
    fn find_begins(&mut self) -> Result<(), SourceError> {
        let out: Vec<Key> =
            self.partitions.values().filter(|p| p.is_out_of_log && !p.gone).map(|p| p.reader.key.clone()).collect();
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
            let reader = &mut partition.reader;
            let Some(begin) = begins.get(&reader.key).map(|bounds| bounds.begin) else { continue };
            let asked = if reader.position > reader.from { reader.position } else { reader.looked_at };
            let wanted = Wanted { asked, from: reader.from, dealt_with: partition.dealt_with };
            let name = reader.name();
            match judge(wanted, begin) {
                Gap::GoOn(missing) => {
                    if missing > 0 {
                        let (partition, rules, until) = (&name, &self.readers, wanted.dealt_with);
                        warn!(
                            %partition, missing, begin, until, %rules,
                            "kafka: the log no longer holds records that rules should see again; reading continues after them"
                        );
                    }
                    reader.position = reader.position.max(begin);
                    (reader.looked_at, partition.is_out_of_log) = (begin, false);
                    self.status.update(*id, |status| {
                        status.position = reader.position;
                        status.missing += missing;
                    });
                    reader.add_to(&mut list, begin)?;
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
        assign_again(&self.consumer, &list)
    }

    fn tick(&mut self) -> Result<(), SourceError> {
        client::serve_or_fail(&self.consumer)?;
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
        let over = self.partitions.extract_if(.., |_, partition| partition.gone && partition.reader.queue.len() == 0);
        for (id, partition) in over {
            let (topic, number) = &partition.reader.key;
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
            let (seq, bytes) = (partition.reader.seq, Vec::new());
            self.feed.send(RawBatch { partition: id, seq, bytes, framing: nothing, read_at: wall_clock() });
            partition.reader.seq += 1;
        }
        if partition.connected {
            partition.connected = false;
            self.status.update(id, |status| status.away_since = Some(wall_clock()));
        }
    }

    fn connected(&mut self, id: PartitionId, end: u64) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let again = !partition.connected;
        partition.connected = true;
        let at_end = partition.reader.position >= end && partition.reader.queue.len() == 0;
        if again && at_end && !partition.caught_up {
            partition.caught_up = true;
            self.feed.caught_up(id);
        }
        let queued = partition.reader.queue.len() as u64;
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
