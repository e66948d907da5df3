//! The thread beside the reading one that watches the cluster: the ends of the logs, partitions that appear, partitions
//! that are gone.
//!
//! Invariants
//! - A partition is gone that [`GONE_AFTER`] whole answers running did not name. It is told once, and no longer known.
//! - A topic made anew after that is new: it is told once all of the deleted one is judged, whose batches have the same
//!   numbers.

use super::client::{self, Consumer};
use super::connect::{clash, mine};
use super::offsets::{self, Key};
use super::settings::KafkaSettings;
use super::source::{KafkaPartition, KafkaSource};
use super::status::KafkaStatus;
use super::topics::{ProcessShare, partition_id};
use crate::feed::Feed;
use crate::source::SourceError;
use crossbeam_channel::{Sender, TrySendError};
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::Offset;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tidewatch_events::batch::PartitionId;
use tracing::warn;

/// How often the ends of the logs are asked for.
const WATCH: Duration = Duration::from_secs(1);
/// How long one such question may take before the partitions count as disconnected.
const WATCH_LIMIT: Duration = Duration::from_secs(2);
/// How many looks running a partition must be missing: one answer may come from a broker that does not know it yet.
const GONE_AFTER: u32 = 3;

/// What the watching thread tells.
pub(super) enum News {
    /// The ends of the logs; a partition whose leader did not answer is missing.
    Ends(BTreeMap<PartitionId, u64>),
    /// A partition that was not there at start.
    Found(KafkaPartition),
    /// Partitions that are no more.
    Gone(Vec<PartitionId>),
    /// The source cannot go on.
    Failed(SourceError),
}

/// Looks for new partitions and for the ends of the logs.
pub(super) struct Watch {
    settings: KafkaSettings,
    share: ProcessShare,
    index: usize,
    consumer: Arc<Consumer>,
    feed: Arc<Feed>,
    status: Arc<KafkaStatus>,
    known: BTreeMap<PartitionId, Key>,
    /// Known partitions that were not there, and in how many looks running.
    missing: BTreeMap<PartitionId, u32>,
    tell: Sender<News>,
}

impl Watch {
    pub(super) fn new(source: &KafkaSource, feed: Arc<Feed>, tell: Sender<News>) -> Watch {
        Watch {
            settings: source.settings.clone(),
            share: source.share,
            index: source.index,
            consumer: source.consumer.clone(),
            feed,
            status: source.status.clone(),
            known: source.partitions.iter().map(|p| (p.id, (p.topic.clone(), p.partition))).collect(),
            missing: BTreeMap::new(),
            tell,
        }
    }

    pub(super) fn run(mut self) {
        let mut refreshed = Instant::now();
        let mut watched = Instant::now();
        while !self.feed.stopped() {
            thread::sleep(Duration::from_millis(50));
            if watched.elapsed() >= WATCH {
                let ends = self.ends();
                // Here, because the reader may be waiting for the feed: consumer lag is of most interest just then.
                for (id, end) in &ends {
                    self.status.update(*id, |status| status.log_end = status.log_end.max(*end));
                }
                // A reader that waits has news enough; the next ones are newer.
                if let Err(TrySendError::Disconnected(_)) = self.tell.try_send(News::Ends(ends)) {
                    return;
                }
                watched = Instant::now();
            }
            if refreshed.elapsed() >= self.settings.refresh_every {
                self.refresh();
                refreshed = Instant::now();
            }
        }
    }

    fn ends(&self) -> BTreeMap<PartitionId, u64> {
        // One that is missing may keep the answer for all others back.
        let there = self.known.iter().filter(|(id, _)| !self.missing.contains_key(id));
        let keys: Vec<Key> = there.map(|(_, key)| key.clone()).collect();
        if keys.is_empty() {
            return BTreeMap::new();
        }
        match offsets::find(&self.consumer, &keys, Offset::End, WATCH_LIMIT) {
            Ok(found) => {
                let ends = found.into_iter().filter_map(|((topic, partition), end)| {
                    Some((partition_id(self.index, &topic, partition), end.ok()??))
                });
                ends.collect()
            }
            Err(_) => BTreeMap::new(),
        }
    }

    /// Counts in how many looks running known partitions were not there, and tells of those that are gone. False where
    /// nobody listens, or the source has ended.
    fn miss(&mut self, there: &[Key]) -> bool {
        let there: BTreeSet<PartitionId> = there.iter().map(|key| partition_id(self.index, &key.0, key.1)).collect();
        let gone = count_missing(&self.known, &there, &mut self.missing);
        let mut topics: BTreeMap<Arc<str>, Vec<PartitionId>> = BTreeMap::new();
        for id in gone {
            if let Some((topic, _)) = self.known.remove(&id) {
                topics.entry(topic).or_default().push(id);
            }
        }
        for (topic, ids) in topics {
            if self.settings.topics().names().iter().any(|name| **name == *topic) {
                let words = format!("kafka topic {topic} was deleted, and the source names it");
                let _ = self.tell.send(News::Failed(SourceError::Service(words)));
                return false;
            }
            let (source, partitions) = (&self.settings.name, ids.len());
            warn!(%source, %topic, partitions, "kafka: a topic was deleted; what was read from it stays counted");
            if self.tell.send(News::Gone(ids)).is_err() {
                return false;
            }
        }
        true
    }

    /// A new partition starts at its beginning: nothing of it was read before.
    fn refresh(&mut self) {
        let layout = match client::found(&self.consumer, &self.settings, WATCH_LIMIT) {
            Ok(layout) => layout,
            // Not a whole answer: nothing is known to be gone.
            Err(error) => {
                self.consumer.context().trouble(&error.to_string());
                return;
            }
        };
        let there = mine(&layout, self.share);
        if !self.miss(&there) {
            return;
        }
        let mut new = Vec::new();
        for key in there {
            let id = partition_id(self.index, &key.0, key.1);
            match self.known.get(&id) {
                // Of a topic made anew: not before all of the deleted one is judged.
                None if self.feed.holds(id) => {}
                None => new.push(key),
                Some((topic, _)) if *topic != key.0 => {
                    let _ = self.tell.send(News::Failed(SourceError::Usage(clash(topic, &key.0))));
                }
                Some(_) => {}
            }
        }
        if new.is_empty() {
            return;
        }
        let bounds = match offsets::bounds(&self.consumer, &new, WATCH_LIMIT) {
            Ok(bounds) => bounds,
            Err(words) => {
                warn!(source = %self.settings.name, error = words, "kafka: new partitions are not ready, retrying");
                return;
            }
        };
        for ((topic, partition), bounds) in bounds {
            let id = partition_id(self.index, &topic, partition);
            self.known.insert(id, (topic.clone(), partition));
            let found = KafkaPartition {
                id,
                topic,
                partition,
                start: bounds.begin,
                dealt_with: bounds.begin,
                committed: None,
                log_begin: bounds.begin,
                log_end: bounds.end,
            };
            if self.tell.send(News::Found(found)).is_err() {
                return;
            }
        }
    }
}

/// Counts in how many looks running known partitions were missing; those that are gone are not counted on.
fn count_missing(
    known: &BTreeMap<PartitionId, Key>,
    there: &BTreeSet<PartitionId>,
    missing: &mut BTreeMap<PartitionId, u32>,
) -> Vec<PartitionId> {
    missing.retain(|id, _| !there.contains(id));
    for id in known.keys().filter(|id| !there.contains(id)) {
        *missing.entry(*id).or_default() += 1;
    }
    missing.extract_if(.., |_, times| *times >= GONE_AFTER).map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_gone_that_was_missing_often_enough() {
        let ids = |n: &[u64]| n.iter().copied().map(PartitionId).collect::<BTreeSet<_>>();
        let known = |n: &[u64]| ids(n).into_iter().map(|id| (id, ("t".into(), 0))).collect();
        // name, what is there at each look, and what is gone after the last
        let rows: &[(&str, &[&[u64]], &[u64])] = &[
            ("all are there", &[&[1, 2], &[1, 2], &[1, 2]], &[]),
            ("twice", &[&[1], &[1]], &[]),
            ("three times", &[&[1], &[1], &[1]], &[2]),
            ("told once", &[&[1], &[1], &[1], &[1]], &[]),
            ("not running", &[&[1], &[1], &[1, 2], &[1], &[1]], &[]),
            ("others are new", &[&[1, 3], &[1, 3], &[1, 3]], &[2]),
            ("all", &[&[], &[], &[]], &[1, 2]),
        ];
        for (name, looks, want) in rows {
            let (mut missing, mut gone) = (BTreeMap::new(), Vec::new());
            for there in *looks {
                gone = count_missing(&known(&[1, 2]), &ids(there), &mut missing);
            }
            assert_eq!(gone, ids(want).into_iter().collect::<Vec<_>>(), "{name}");
        }
    }
}
