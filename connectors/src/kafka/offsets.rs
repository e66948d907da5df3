//! Offsets: where partitions begin and end, where reading starts, and what the consumer group is told.
//!
//! Invariants
//! - The group's offsets move only by [`Committer::commit`].
//! - A start below the log's beginning or beyond its end is an error, never a silent reset: records would be missing, or
//!   the topic is another one of the same name.

use super::client::{Consumer, ask, seconds, tidy};
use super::settings::Start;
use crate::source::SourceError;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A topic and a partition's number.
pub(super) type Key = (Arc<str>, i32);

/// The first offset of a partition's log and the one after its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// An offset to commit: everything before it is durable downstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The first offset not yet done.
    pub next_offset: u64,
    /// A text that is kept with it, of at most a few kilobytes (the broker's limit is 4096 bytes).
    pub metadata: String,
}

/// What the group holds for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The offset, where one was committed.
    pub next_offset: Option<u64>,
    /// The text committed with it.
    pub metadata: String,
}

/// Commits to the consumer group and reads what was committed. May be used from any thread, also while the source reads.
#[derive(Clone)]
pub struct Committer {
    pub(super) consumer: Arc<Consumer>,
    pub(super) brokers: Arc<str>,
    pub(super) group: Arc<str>,
}

impl Committer {
    /// The addresses of the brokers, as configured.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The group's name.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Commits the offsets and returns when the broker has acknowledged all of them. While no coordinator answers it fails after about 10 s, with the request in
    /// flight after one minute more at most. Not to be called by a thread that others wait for.
    pub fn commit(&self, offsets: &[Commit]) -> Result<(), SourceError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let fail = |words: String| {
            SourceError::Service(format!("kafka at {}: group {}: commit: {words}", self.brokers, self.group))
        };
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for commit in offsets {
            let mut element = list.add_partition(&commit.topic, commit.partition);
            let offset = i64::try_from(commit.next_offset)
                .map_err(|_| fail(format!("offset {} is too large", commit.next_offset)))?;
            element.set_offset(Offset::Offset(offset)).map_err(|error| fail(error.to_string()))?;
            element.set_metadata(&commit.metadata);
        }
        self.consumer.commit(&list, CommitMode::Sync).map_err(|error| fail(reason(&error)))
    }

    /// The committed offsets of these partitions.
    pub fn committed(&self, partitions: &[(Arc<str>, i32)], within: Duration) -> Result<Vec<Committed>, SourceError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let list = list(partitions.iter(), None);
        let answer = ask(&self.consumer, within, |limit| self.consumer.committed_offsets(list.clone(), limit))
            .map_err(|words| {
                let (brokers, group) = (&self.brokers, &self.group);
                SourceError::Service(format!(
                    "kafka at {brokers}: group {group}: no committed offsets within {}: {words}",
                    seconds(within)
                ))
            })?;
        let found = answer.elements().into_iter().map(|element| {
            // What is not said is not nothing.
            let fail = |error| {
                let place = (element.topic(), element.partition());
                let words = tidy(&reason(&error)).to_owned();
                SourceError::Service(format!("kafka {}/{}: group {}: {words}", place.0, place.1, self.group))
            };
            element.error().map_err(fail)?;
            Ok(Committed {
                topic: element.topic().into(),
                partition: element.partition(),
                next_offset: number(element.offset()),
                metadata: element.metadata().to_owned(),
            })
        });
        found.collect()
    }
}

fn list<'a>(partitions: impl Iterator<Item = &'a Key>, at: Option<Offset>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        let mut element = list.add_partition(topic, *partition);
        if let Some(offset) = at {
            // Fails only for negative offsets; those given here are positions or times.
            let _ = element.set_offset(offset);
        }
    }
    list
}

fn number(offset: Offset) -> Option<u64> {
    match offset {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    }
}

fn reason(error: &KafkaError) -> String {
    error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string())
}

/// An answer per partition: the offset, or why there is none.
pub(super) type Found = BTreeMap<Key, Result<Option<u64>, String>>;

/// One request per broker for all partitions: the beginning, the end, or the first record at or after a time (`None`
/// where there is no such record).
pub(super) fn find(consumer: &Consumer, partitions: &[Key], at: Offset, limit: Duration) -> Result<Found, KafkaError> {
    let answer = consumer.offsets_for_times(list(partitions.iter(), Some(at)), limit)?;
    let found = answer.elements().into_iter().map(|element| {
        let key: Key = (element.topic().into(), element.partition());
        (key, element.error().map(|()| number(element.offset())).map_err(|error| tidy(&reason(&error)).to_owned()))
    });
    Ok(found.collect())
}

/// The same, with one answer for every partition or a sentence why not.
pub(super) fn find_all(
    consumer: &Consumer,
    partitions: &[Key],
    at: Offset,
    within: Duration,
) -> Result<BTreeMap<Key, Option<u64>>, String> {
    ask(consumer, within, |limit| {
        let found = find(consumer, partitions, at, limit)?;
        let whole = |key: &Key| matches!(found.get(key), Some(Ok(_)));
        if partitions.iter().all(whole) {
            Ok(Ok(found))
        } else {
            // A leader that is being elected answers in a moment; asked again until the limit.
            let missing = partitions.iter().find(|key| !whole(key));
            let why = missing.and_then(|key| Some((key, found.get(key)?.as_ref().err()?)));
            let why = why
                .map_or("no answer".to_owned(), |((topic, partition), words)| format!("{topic}/{partition}: {words}"));
            consumer.context().trouble(&why);
            Err(KafkaError::OffsetFetch(rdkafka::error::RDKafkaErrorCode::OperationTimedOut))
        }
    })
    .and_then(|found: Result<Found, String>| found)
    .map(|found| found.into_iter().filter_map(|(key, at)| Some((key, at.ok()?))).collect())
}

/// Beginning and end of each partition's log.
pub(super) fn bounds(
    consumer: &Consumer,
    partitions: &[Key],
    within: Duration,
) -> Result<BTreeMap<Key, Bounds>, String> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let begins = find_all(consumer, partitions, Offset::Beginning, within)?;
    let ends = find_all(consumer, partitions, Offset::End, within)?;
    let both = begins.into_iter().map(|(key, begin)| {
        let end = ends.get(&key).copied().flatten();
        (key, Bounds { begin: begin.unwrap_or(0), end: end.unwrap_or(0).max(begin.unwrap_or(0)) })
    });
    Ok(both.collect())
}

/// Where reading starts in a partition, and what was committed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    /// The first offset to be read.
    pub(super) at: u64,
    /// The text that the group committed with it; `None` where nothing was committed.
    pub(super) committed: Option<Arc<str>>,
}

/// Where reading starts: at what the group committed, where it did; `start` is for the others alone.
pub(super) fn starts(
    committer: &Committer,
    committed: &[Committed],
    bounds: &BTreeMap<Key, Bounds>,
    start: Start,
    within: Duration,
) -> Result<BTreeMap<Key, Begin>, SourceError> {
    let mut starts = BTreeMap::new();
    for found in committed {
        let Some(at) = found.next_offset else { continue };
        let key = (found.topic.clone(), found.partition);
        if let Some(bounds) = bounds.get(&key) {
            inside(&key, at, *bounds, "the group's committed offset")?;
            starts.insert(key, Begin { at, committed: Some(found.metadata.as_str().into()) });
        }
    }
    let new: Vec<Key> = bounds.keys().filter(|key| !starts.contains_key(*key)).cloned().collect();
    let times = match start {
        Start::Time(time) if !new.is_empty() => {
            let time = Offset::Offset(i64::try_from(time).unwrap_or(i64::MAX));
            find_all(&committer.consumer, &new, time, within).map_err(|words| {
                SourceError::Service(format!("kafka at {}: no offsets for a time: {words}", committer.brokers))
            })?
        }
        _ => BTreeMap::new(),
    };
    for key in new {
        let Some(bounds) = bounds.get(&key) else { continue };
        let at = match start {
            Start::Committed | Start::Earliest => bounds.begin,
            Start::Latest => bounds.end,
            // No record at or after that time: the end.
            Start::Time(_) => times.get(&key).copied().flatten().unwrap_or(bounds.end),
        };
        starts.insert(key, Begin { at, committed: None });
    }
    Ok(starts)
}

/// Whether reading may start at an offset.
pub(super) fn inside((topic, partition): &Key, at: u64, bounds: Bounds, what: &str) -> Result<(), SourceError> {
    let Bounds { begin, end } = bounds;
    if at < begin {
        return Err(SourceError::Service(format!(
            "kafka {topic}/{partition}: {what} {at} is no longer in the log, which begins at {begin}: {} records are missing; \
             to go on without them, set the group's offsets of the whole topic with kafka-consumer-groups.sh --reset-offsets --to-earliest",
            begin - at
        )));
    }
    if at > end {
        return Err(SourceError::Service(format!(
            "kafka {topic}/{partition}: {what} {at} is beyond the end of the log at {end}: this is not the log that was read before"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_outside_the_log_is_an_error_with_both_ends() {
        let key: Key = ("t".into(), 3);
        let bounds = Bounds { begin: 10, end: 20 };
        let rows = [
            (
                9,
                Some(
                    "kafka t/3: offset 9 is no longer in the log, which begins at 10: 1 records are missing; to go on without them, set the group's offsets of the whole topic with kafka-consumer-groups.sh --reset-offsets --to-earliest",
                ),
            ),
            (10, None),
            (20, None),
            (
                21,
                Some(
                    "kafka t/3: offset 21 is beyond the end of the log at 20: this is not the log that was read before",
                ),
            ),
        ];
        for (at, want) in rows {
            assert_eq!(inside(&key, at, bounds, "offset").err().map(|e| e.to_string()).as_deref(), want, "{at}");
        }
    }
}
