//! Names of topics and partitions: who reads which, and what they are called everywhere else.
//!
//! Invariant: both answers follow from (source, topic, partition, number of processes) alone, so that processes that
//! see a new partition at different moments still agree, and every run gives a partition the same identity.

use tidewatch_events::batch::PartitionId;
use tidewatch_events::hash;

/// Which part of the partitions this process reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessShare {
    index: usize,
    count: usize,
}

impl ProcessShare {
    /// All of them: a single process.
    pub const WHOLE: ProcessShare = ProcessShare { index: 0, count: 1 };

    /// The share of process `index` of `count`; `None` unless `index < count`.
    pub fn new(index: usize, count: usize) -> Option<ProcessShare> {
        (index < count).then_some(ProcessShare { index, count })
    }

    /// Whether this process reads the partition: the partitions of a topic go round the processes, beginning at one that
    /// the topic's name decides, so that many small topics are spread as well.
    pub fn holds(&self, topic: &str, partition: i32) -> bool {
        let first = hash::of(topic.as_bytes()) % self.count as u64;
        (first + u64::from(partition.unsigned_abs())) % self.count as u64 == self.index as u64
    }
}

/// The identity of a topic's partition within the source at position `source` of the configuration: 8 bits of source,
/// 24 bits of the topic's hash, 32 bits of partition.
pub fn partition_id(source: usize, topic: &str, partition: i32) -> PartitionId {
    let topic = hash::of(topic.as_bytes()) & 0xff_ffff;
    PartitionId((source as u64) << 56 | topic << 32 | u64::from(partition.unsigned_abs()))
}

/// The name most like `wanted`, if one is close enough that it may be meant.
pub(super) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let reach = (wanted.chars().count() / 3).clamp(1, 4);
    names
        .into_iter()
        .map(|name| (distance(wanted, name), name))
        .filter(|(far, _)| *far <= reach)
        .min()
        .map(|(_, name)| name)
}

/// How many letters to change, add or take away.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_partition_is_read_exactly_once_at_any_count() {
        let topics = ["web-logs", "a", "app.errors"];
        for count in 1..=9 {
            for topic in topics {
                for partition in 0..32 {
                    let holders =
                        (0..count).filter(|i| ProcessShare { index: *i, count }.holds(topic, partition)).count();
                    assert_eq!(holders, 1, "{topic}/{partition} of {count}");
                }
                let most =
                    (0..count).map(|i| (0..32).filter(|p| ProcessShare { index: i, count }.holds(topic, *p)).count());
                assert!(most.max().unwrap_or(0) <= 32usize.div_ceil(count), "{topic} is spread evenly over {count}");
            }
        }
        assert!(ProcessShare::new(2, 2).is_none() && ProcessShare::new(0, 0).is_none());
    }

    #[test]
    fn identities_are_stable_and_different() {
        assert_eq!(partition_id(0, "web-logs", 3).0 & 0xffff_ffff, 3);
        assert_eq!(partition_id(2, "web-logs", 0).0 >> 56, 2);
        let mut seen = HashSet::new();
        for source in 0..3 {
            for topic in ["a", "b", "web-logs"] {
                assert!((0..100).all(|p| seen.insert(partition_id(source, topic, p))));
            }
        }
        // Written into recovery records: a change of this number is a change of the format.
        assert_eq!(partition_id(1, "web-logs", 7).0, 0x0100_0000_0000_0007 | (hash::of(b"web-logs") & 0xff_ffff) << 32);
    }

    #[test]
    fn the_nearest_name_is_offered_only_where_it_may_be_meant() {
        let names = ["web-logs", "app", "metrics"];
        let rows = [
            ("weblogs", Some("web-logs")),
            ("web-log", Some("web-logs")),
            ("ap", Some("app")),
            ("orders", None),
            ("", None),
        ];
        for (wanted, want) in rows {
            assert_eq!(nearest(wanted, names), want, "{wanted}");
        }
    }
}
