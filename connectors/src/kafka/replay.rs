//! Reads a range of a topic from one end to the other, for `replay` and captures: no consumer group, nothing committed.
//!
//! Where each partition begins and ends is asked once, before anything is read ([`Range`]). One thread reads all partitions,
//! each from a queue of its own, as the live source does ([`super::reader`]); what is handed over is the same, but for the end.
//!
//! Invariants
//! - A partition has ended once its position is at the end of its range, by a record, by one behind it, or by the end of the
//!   log: markers of transactions and what compaction removed do not keep it open. One with nothing in it ends at once.
//! - Brokers that go away are waited for. Where a log no longer holds what is to be read next, ends before the range, or was
//!   deleted, reading fails: it never skips anything.

use super::client::{self, Consumer};
use super::connect::{Connected, clash, connect};
use super::fetch::{LineFetcher, RecordPlace};
use super::native::{Taken, Wake};
use super::offsets::{self, Key};
use super::range::Range;
use super::reading::{
    self, PATIENCE, PartitionReader, ReadOutcome, TICK, assign_again, is_out_of_log, look_back, lost,
};
use super::settings::KafkaSettings;
use super::status::{KafkaStatus, PartitionStatus};
use super::topics::{ProcessShare, partition_id};
use crate::feed::{Feed, PartitionInfo, Unit, Unread};
use crate::source::{SourceError, wall_clock};
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tidewatch_events::batch::PartitionId;
use tracing::info;

/// After so long without a record it is asked whether the logs are still there, and again as long after that.
const STALLED: Duration = Duration::from_secs(2);
/// How long such a question may take.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// In how many answers running a partition must be missing.
const GONE_AFTER: u32 = 3;

/// What is read of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSlice {
    /// Its identity: that of the live source at the same position of a configuration.
    pub id: PartitionId,
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The first offset.
    pub from: u64,
    /// The offset after the last; not below `from`.
    pub until: u64,
    /// The first offset of the log, as it was at connecting.
    pub log_begin: u64,
}

impl TopicSlice {
    /// `TOPIC/PARTITION`.
    pub fn name(&self) -> Arc<str> {
        format!("{}/{}", self.topic, self.partition).into()
    }
}

/// A range of a topic that is resolved and not yet read.
pub struct ReplayTopic {
    settings: KafkaSettings,
    index: usize,
    consumer: Arc<Consumer>,
    status: Arc<KafkaStatus>,
    slices: Vec<TopicSlice>,
    read: Arc<AtomicU64>,
}

impl ReplayTopic {
    /// Connects within `settings.connect_within` and resolves the range in all topics of the settings; `start` and the group
    /// of those do not matter. `index` is the source's position in the configuration, at most 255.
    ///
    /// # Errors
    /// `Usage` for settings that librdkafka does not accept; `Service` where no broker answers or lets us in, a topic or
    /// partition does not exist, or an offset is not in the log. The sentence names broker, topic or partition and the reason.
    pub fn connect(settings: KafkaSettings, range: &Range, index: usize) -> Result<ReplayTopic, SourceError> {
        let within = settings.connect_within;
        let Connected { consumer, status, bounds, .. } =
            connect(&settings, index, ProcessShare::WHOLE, |topic, partitions| range.among(topic, partitions))?;
        let mut slices: BTreeMap<PartitionId, TopicSlice> = BTreeMap::new();
        for ((topic, partition), slice) in range.resolve(&consumer, &bounds, within)? {
            let id = partition_id(index, &topic, partition);
            let log_begin = bounds.get(&(topic.clone(), partition)).map_or(slice.begin, |log| log.begin);
            let slice = TopicSlice { id, topic, partition, from: slice.begin, until: slice.end, log_begin };
            if let Some(other) = slices.insert(id, slice)
                && let Some(slice) = slices.get(&id)
            {
                return Err(SourceError::Usage(clash(&other.topic, &slice.topic)));
            }
        }
        let slices = slices.into_values().collect();
        Ok(ReplayTopic { settings, index, consumer, status, slices, read: Arc::default() })
    }

    /// The cluster's id, where its brokers give one.
    pub fn cluster_id(&self) -> Option<String> {
        rdkafka::consumer::Consumer::client(self.consumer.as_ref()).fetch_cluster_id(self.settings.connect_within)
    }

    /// What is read, by identity.
    pub fn slices(&self) -> &[TopicSlice] {
        &self.slices
    }

    /// How many offsets the range has; as many records or fewer are in it.
    pub fn total_records(&self) -> u64 {
        self.slices.iter().map(|slice| slice.until - slice.from).sum()
    }

    /// The offsets passed so far, out of [`ReplayTopic::total_records`]; grows while the source runs.
    pub fn read_records(&self) -> Arc<AtomicU64> {
        self.read.clone()
    }

    /// Finds lines again by partition and offset. Each has a connection of its own.
    ///
    /// # Errors
    /// `Usage` for settings that librdkafka does not accept.
    pub fn fetcher(&self) -> Result<TopicLines, SourceError> {
        let place = |slice: &TopicSlice| (slice.id, (slice.topic.clone(), slice.partition));
        Ok(TopicLines {
            fetcher: LineFetcher::new(&self.settings)?,
            partitions: self.slices.iter().map(place).collect(),
        })
    }

    /// Starts reading, on a thread of its own, until all is read or the feed stops.
    ///
    /// # Errors
    /// `Io` where no thread can be started.
    pub fn spawn(self, feed: Arc<Feed>) -> Result<JoinHandle<()>, SourceError> {
        let io = |error: std::io::Error| SourceError::Io(format!("kafka: no thread could be started: {error}"));
        thread::Builder::new().name("kafka-replay".into()).spawn(move || self.run(&feed)).map_err(io)
    }

    fn run(self, feed: &Arc<Feed>) {
        let (status, name, total) = (self.status.clone(), self.settings.name.clone(), self.total_records());
        if total == 0 {
            let topics = self.settings.topics();
            tracing::warn!(source = %name, %topics, "kafka: there is nothing in this range of the topic");
        }
        let reader = Reader {
            feed,
            wake: Arc::default(),
            partitions: BTreeMap::new(),
            taken: Taken::new(),
            came: Instant::now(),
            missing: 0,
            of: self,
        };
        if let Err(error) = reader.run() {
            feed.fail(error);
        }
        let duplicates: u64 = status.snapshot().iter().map(|partition| partition.duplicates).sum();
        if duplicates > 0 {
            info!(source = %name, duplicates, "kafka: records that the host agent sent twice were read once");
        }
    }
}

/// A partition being read.
struct Partition {
    slice: TopicSlice,
    reader: PartitionReader,
}

/// The reading thread's state.
struct Reader<'a> {
    feed: &'a Arc<Feed>,
    wake: Arc<Wake>,
    partitions: BTreeMap<PartitionId, Partition>,
    taken: Taken,
    /// When something came, or it was asked why nothing does.
    came: Instant,
    /// How many answers running lacked a partition.
    missing: u32,
    of: ReplayTopic,
}

impl Reader<'_> {
    fn run(mut self) -> Result<(), SourceError> {
        self.begin()?;
        self.feed.listed();
        let mut served = Instant::now();
        let mut ready = Vec::new();
        while !self.partitions.is_empty() && !self.feed.stopped() {
            if served.elapsed() >= TICK {
                served = Instant::now();
                client::serve_or_fail(&self.of.consumer)?;
            }
            ready.clear();
            let soon = reading::worth_reading(self.partitions.values().map(|p| &p.reader), &mut ready);
            if ready.is_empty() {
                self.wake.wait(soon);
                self.ask_why_nothing_comes()?;
            } else if let Some(chosen) = self.feed.choose(&ready, PATIENCE) {
                self.read(chosen)?;
            } else {
                // It is not the brokers that are waited for.
                self.came = Instant::now();
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), SourceError> {
        let slices = self.of.slices.clone();
        let share = reading::share_of_look_back(slices.len());
        let mut list = TopicPartitionList::with_capacity(slices.len());
        for slice in &slices {
            self.announce(slice);
        }
        for slice in slices {
            if slice.from >= slice.until {
                self.feed.end(slice.id);
                continue;
            }
            let (id, key, wanted) = (slice.id, (slice.topic.clone(), slice.partition), slice.from..slice.until);
            let looked_at = look_back(slice.from, slice.log_begin, share);
            let reader = PartitionReader::open(&self.of.consumer, &self.wake, (id, key), wanted, looked_at)?;
            reader.add_to(&mut list, looked_at)?;
            self.partitions.insert(id, Partition { slice, reader });
        }
        self.of.consumer.assign(&list).map_err(|error| SourceError::Service(format!("kafka: {error}")))
    }

    fn announce(&self, slice: &TopicSlice) {
        self.of.status.open(PartitionStatus {
            id: slice.id,
            name: slice.name(),
            topic: slice.topic.clone(),
            partition: slice.partition,
            begun: slice.from,
            position: slice.from,
            log_end: slice.until,
            queued: 0,
            duplicates: 0,
            missing: 0,
            away_since: None,
        });
        self.feed.open(PartitionInfo {
            id: slice.id,
            source: self.of.index,
            source_name: self.of.settings.name.clone(),
            name: slice.name(),
            default_host: self.of.settings.default_host.clone(),
            passing: false,
            // Of records that have no timestamp.
            reference_time: wall_clock(),
            unread: Some(Unread { from: slice.from, to: slice.until, unit: Unit::Records }),
        });
    }

    /// Reads what one partition has, up to about one batch of full size.
    fn read(&mut self, id: PartitionId) -> Result<(), SourceError> {
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let (feed, status, before) = (&**self.feed, &*self.of.status, partition.reader.position);
        let ReadOutcome { sent, failed, .. } =
            partition.reader.read(&mut self.taken, feed, status, self.of.settings.host_from);
        self.came = partition.reader.read_at;
        self.of.read.fetch_add(partition.reader.position - before, Ordering::Relaxed);
        if partition.reader.position >= partition.slice.until {
            return self.end(id);
        }
        match failed {
            Some((code, words)) => self.error(id, code, &words),
            None => {
                if sent && !self.feed.stopped() {
                    self.of.consumer.context().works();
                }
                Ok(())
            }
        }
    }

    /// All of a partition was read. What was fetched beyond is dropped.
    fn end(&mut self, id: PartitionId) -> Result<(), SourceError> {
        let Some(partition) = self.partitions.remove(&id) else { return Ok(()) };
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&partition.slice.topic, partition.slice.partition);
        self.feed.end(id);
        self.of.consumer.incremental_unassign(&list).map_err(|error| SourceError::Service(format!("kafka: {error}")))
    }

    /// An error that came in a partition's own queue.
    fn error(&mut self, id: PartitionId, code: i32, words: &str) -> Result<(), SourceError> {
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let reader = &mut partition.reader;
        if !is_out_of_log(code) {
            self.of.consumer.context().trouble(&format!("{}: {words}", reader.name()));
            return Ok(());
        }
        if reader.looked_at >= reader.from {
            return Err(lost(&reader.name(), reader.position, words));
        }
        // Records before the range are only looked at, and some of them are gone.
        reader.looked_at = reader.from;
        let mut list = TopicPartitionList::with_capacity(1);
        reader.add_to(&mut list, reader.from)?;
        assign_again(&self.of.consumer, &list)
    }

    /// Where nothing came for a while, asks whether what is waited for can still come. Without an answer it is waited for.
    fn ask_why_nothing_comes(&mut self) -> Result<(), SourceError> {
        if self.came.elapsed() < STALLED {
            return Ok(());
        }
        let layout = client::found(&self.of.consumer, &self.of.settings, ASK_LIMIT);
        self.came = Instant::now();
        let Ok(layout) = layout else { return Ok(()) };
        let gone = self.partitions.values().find(|partition| {
            let Partition { slice, .. } = partition;
            layout.get(&*slice.topic).is_none_or(|partitions| !partitions.contains(&slice.partition))
        });
        if let Some(gone) = gone {
            self.missing += 1;
            // One answer may come from a broker that does not know it yet.
            return match self.missing >= GONE_AFTER {
                true => Err(SourceError::Service(format!(
                    "kafka {}: it was deleted while it was read, at offset {} of {}",
                    gone.slice.name(),
                    gone.reader.position,
                    gone.slice.until
                ))),
                false => Ok(()),
            };
        }
        self.missing = 0;
        let keys: Vec<Key> = self.partitions.values().map(|partition| partition.reader.key.clone()).collect();
        let Ok(ends) = offsets::find(&self.of.consumer, &keys, Offset::End, ASK_LIMIT) else { return Ok(()) };
        for partition in self.partitions.values() {
            let Some(Ok(Some(end))) = ends.get(&partition.reader.key) else { continue };
            if *end < partition.slice.until {
                return Err(SourceError::Service(format!(
                    "kafka {}: the log ends at {end}, and ended at {} or later when reading began: records are missing",
                    partition.slice.name(),
                    partition.slice.until
                )));
            }
        }
        Ok(())
    }
}

/// Finds lines of a replayed topic again.
pub struct TopicLines {
    fetcher: LineFetcher,
    partitions: BTreeMap<PartitionId, Key>,
}

impl TopicLines {
    /// The lines at these offsets of partitions, in the order asked for; `None` where a partition is of another source, or its
    /// log no longer holds that offset.
    ///
    /// # Errors
    /// `Service` where not all of them came within that time: they may, when they are asked for again.
    pub fn fetch(&self, wanted: &[(PartitionId, u64)], within: Duration) -> Result<Vec<Option<Vec<u8>>>, SourceError> {
        let mut lines = vec![None; wanted.len()];
        let (mut places, mut positions) = (Vec::new(), Vec::new());
        for (at, (id, offset)) in wanted.iter().enumerate() {
            let Some((topic, partition)) = self.partitions.get(id) else { continue };
            places.push(RecordPlace { topic: topic.clone(), partition: *partition, offset: *offset });
            positions.push(at);
        }
        if !places.is_empty() {
            self.fetcher.fetch(&places, within, &mut |at, line| lines[positions[at]] = line)?;
        }
        Ok(lines)
    }

    /// `TOPIC/PARTITION` of a partition, where it is of this topic.
    pub fn name(&self, id: PartitionId) -> Option<String> {
        self.partitions.get(&id).map(|(topic, partition)| format!("{topic}/{partition}"))
    }
}
