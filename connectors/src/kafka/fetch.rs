//! Reads single lines again by topic, partition and offset: the evidence of alerts, a dead letter to look at.

use super::client::{self, Consumer, Context, seconds, serve};
use super::settings::KafkaSettings;
use super::status::KafkaStatus;
use crate::source::{SourceError, without_end};
use parking_lot::Mutex;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many records are read over to the next that is wanted, rather than asking for it anew.
const NEAR: u64 = 256;

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: u64,
}

/// Offsets of one partition that are wanted, ascending, each with its position in the question.
type Wanted = VecDeque<(u64, usize)>;

/// A small consumer beside the source; it commits nothing and shares nothing with it. May be used from several threads,
/// which wait for each other.
pub struct LineFetcher {
    consumer: Mutex<Consumer>,
}

impl LineFetcher {
    /// Makes the consumer; it connects at the first fetch.
    ///
    /// # Errors
    /// `Usage` for settings that librdkafka does not accept.
    pub fn new(settings: &KafkaSettings) -> Result<LineFetcher, SourceError> {
        let mut config = settings.consumer(1).map_err(client::usage)?;
        config
            .set("queued.max.messages.kbytes", "1024")
            .set("queued.min.messages", "1")
            .set("fetch.message.max.bytes", "65536")
            // What was read is known to the brokers, or gone.
            .set("topic.metadata.propagation.max.ms", "1000");
        let context = Context::new(&settings.name, &Arc::new(KafkaStatus::default()));
        Ok(LineFetcher { consumer: Mutex::new(client::consumer(&config, context)?) })
    }

    /// Says the values of records, by their positions in `wanted`, as they come; `None` where the log no longer (or not yet)
    /// holds that offset, or the topic does not exist. All partitions of a topic are read at the same time.
    ///
    /// # Errors
    /// `Service` where not all of them came within that time.
    pub fn fetch(
        &self,
        wanted: &[RecordPlace],
        within: Duration,
        found: &mut dyn FnMut(usize, Option<Vec<u8>>),
    ) -> Result<(), SourceError> {
        let consumer = self.consumer.lock();
        let mut topics: BTreeMap<&str, BTreeMap<i32, Wanted>> = BTreeMap::new();
        for (at, place) in wanted.iter().enumerate() {
            let partitions = topics.entry(&place.topic).or_default();
            partitions.entry(place.partition).or_default().push_back((place.offset, at));
        }
        let deadline = Instant::now() + within;
        serve(&consumer);
        for (topic, mut partitions) in topics {
            partitions.values_mut().for_each(|wanted| wanted.make_contiguous().sort_unstable());
            let mut together = usize::MAX;
            while !partitions.is_empty() {
                let round = Round { consumer: &consumer, topic, deadline };
                match round.read(&mut partitions, together, found) {
                    // It is not said which partition it is of.
                    Ok(Ended::OneIsNotThere) => together = 1,
                    Ok(Ended::Answered) => {}
                    Err(words) => {
                        let _ = consumer.unassign();
                        let fail = format!("kafka {topic}: no answer within {}: {words}", seconds(within));
                        return Err(SourceError::Service(fail));
                    }
                }
            }
        }
        // What was fetched ahead is dropped with the assignment.
        let _ = consumer.unassign();
        Ok(())
    }
}

/// How a round ended.
#[derive(PartialEq)]
enum Ended {
    Answered,
    /// One of several partitions has no such offset, or is not there.
    OneIsNotThere,
}

/// One assignment of a topic's partitions.
struct Round<'a> {
    consumer: &'a Consumer,
    topic: &'a str,
    deadline: Instant,
}

impl Round<'_> {
    /// Reads what is wanted first of the first partitions, and what comes soon after it; takes out what was answered.
    fn read(
        &self,
        partitions: &mut BTreeMap<i32, Wanted>,
        together: usize,
        found: &mut dyn FnMut(usize, Option<Vec<u8>>),
    ) -> Result<Ended, String> {
        let mut open: Vec<i32> = partitions.keys().copied().take(together).collect();
        let mut list = TopicPartitionList::with_capacity(open.len());
        for partition in &open {
            let offset = partitions.get(partition).and_then(|wanted| wanted.front()).map_or(0, |(offset, _)| *offset);
            // No log is so long: it answers that it has no such offset.
            let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
            list.add_partition_offset(self.topic, *partition, offset).map_err(|error| error.to_string())?;
        }
        self.consumer.assign(&list).map_err(|error| error.to_string())?;
        let mut words = "no record".to_owned();
        while !open.is_empty() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(words);
            }
            let partition = match self.consumer.poll(left.min(Duration::from_millis(100))) {
                None => continue,
                Some(Ok(message)) => {
                    let partition = message.partition();
                    let at = u64::try_from(message.offset()).unwrap_or_default();
                    let Some(wanted) = partitions.get_mut(&partition).filter(|_| open.contains(&partition)) else {
                        continue;
                    };
                    // A compacted log may have skipped some.
                    while let Some((offset, index)) = wanted.pop_front_if(|(offset, _)| *offset <= at) {
                        let line = || without_end(message.payload().unwrap_or_default()).to_vec();
                        found(index, (offset == at).then(line));
                    }
                    if wanted.front().is_some_and(|(offset, _)| *offset - at <= NEAR) {
                        continue;
                    }
                    partition
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    // The log ends before what is wanted.
                    let rest = partitions.remove(&partition);
                    rest.into_iter().flatten().for_each(|(_, index)| found(index, None));
                    partition
                }
                Some(Err(error)) => match error.rdkafka_error_code() {
                    Some(
                        RDKafkaErrorCode::AutoOffsetReset
                        | RDKafkaErrorCode::OffsetOutOfRange
                        | RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::UnknownPartition
                        | RDKafkaErrorCode::UnknownTopic,
                    ) => match open[..] {
                        // The next one may be there: the first was before the log's start.
                        [partition] => {
                            let first = partitions.get_mut(&partition).and_then(VecDeque::pop_front);
                            first.into_iter().for_each(|(_, index)| found(index, None));
                            partition
                        }
                        _ => return Ok(Ended::OneIsNotThere),
                    },
                    _ => {
                        words = self.consumer.context().refused().unwrap_or_else(|| error.to_string());
                        continue;
                    }
                },
            };
            open.retain(|open| *open != partition);
            partitions.retain(|_, wanted| !wanted.is_empty());
            if !open.is_empty() {
                // While others are waited for it would be fetched on and on, and a batch may hold thousands of records.
                let mut done = TopicPartitionList::with_capacity(1);
                done.add_partition(self.topic, partition);
                self.consumer.incremental_unassign(&done).map_err(|error| error.to_string())?;
            }
        }
        Ok(Ended::Answered)
    }
}
