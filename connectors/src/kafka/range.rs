//! The part of a topic that is read from one end to the other: resolved to offsets once, before anything is read.
//!
//! Invariants
//! - A range by time is cut by offsets: a partition is read from its first record with a timestamp at or after `from` up to,
//!   and without, its first one at or after `until`. What lies between is read whatever its timestamp is.
//! - What is written after the ends were asked for is not in a range.
//! - An offset that the log does not hold is an error, never a shorter range.

use super::client::Consumer;
use super::offsets::{Bounds, Key, find_all};
use crate::source::SourceError;
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeMap;
use std::time::Duration;
use tidewatch_events::batch::WallTime;

/// What of a topic is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// All partitions, by the timestamps of their records.
    Times {
        /// From the first record of this time or later; `None`: from the beginning.
        from: Option<WallTime>,
        /// Up to the first record of this time or later, without it; `None`: up to the end as it is at the start.
        until: Option<WallTime>,
    },
    /// Some partitions, by offsets.
    Offsets(BTreeMap<i32, Offsets>),
}

/// A range of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// The first offset; `None`: the beginning.
    pub from: Option<u64>,
    /// The offset after the last; `None`: the end as it is at the start.
    pub until: Option<u64>,
}

impl Range {
    /// The whole topic.
    pub const WHOLE: Range = Range::Times { from: None, until: None };

    /// Of these partitions, those that it names.
    ///
    /// # Errors
    /// Where it names one that is not there.
    pub(super) fn among(&self, topic: &str, partitions: &[i32]) -> Result<Vec<i32>, SourceError> {
        let Range::Offsets(named) = self else { return Ok(partitions.to_vec()) };
        if let Some(missing) = named.keys().find(|partition| !partitions.contains(partition)) {
            let last = partitions.last().copied().unwrap_or(0);
            let words = format!("kafka topic {topic} has no partition {missing}; its partitions are 0 to {last}");
            return Err(SourceError::Service(words));
        }
        Ok(named.keys().copied().collect())
    }

    /// The first offset and the one after the last, in logs with these bounds.
    pub(super) fn resolve(
        &self,
        consumer: &Consumer,
        bounds: &BTreeMap<Key, Bounds>,
        within: Duration,
    ) -> Result<BTreeMap<Key, Bounds>, SourceError> {
        match self {
            Range::Times { from, until } => {
                let keys: Vec<Key> = bounds.keys().cloned().collect();
                let at = |time: &Option<WallTime>| match time {
                    None => Ok(None),
                    Some(WallTime(time)) => {
                        let time = Offset::Offset(i64::try_from(*time).unwrap_or(i64::MAX));
                        find_all(consumer, &keys, time, within).map(Some)
                    }
                };
                let fail = |words: String| SourceError::Service(format!("kafka: no offsets for a time: {words}"));
                let (from, until) = (at(from).map_err(fail)?, at(until).map_err(fail)?);
                Ok(bounds
                    .iter()
                    .map(|(key, log)| (key.clone(), between(*log, key, from.as_ref(), until.as_ref())))
                    .collect())
            }
            Range::Offsets(named) => {
                let held = |(key, log): (&Key, &Bounds)| {
                    let Offsets { from, until } = named.get(&key.1).copied().unwrap_or_default();
                    Ok((key.clone(), held(key, *log, from, until)?))
                };
                bounds.iter().map(held).collect()
            }
        }
    }
}

/// What the broker found for a time: `None` where no record is of that time or later.
type Times = BTreeMap<Key, Option<u64>>;

/// The part of a log between two times, as they were found.
fn between(log: Bounds, key: &Key, from: Option<&Times>, until: Option<&Times>) -> Bounds {
    // No record of that time or later: the end. One that is past the end was written since.
    let at = |times: &Times| times.get(key).copied().flatten().unwrap_or(log.end).clamp(log.begin, log.end);
    let (begin, end) = (from.map_or(log.begin, at), until.map_or(log.end, at));
    Bounds { begin: begin.min(end), end }
}

/// The part of a log between two offsets.
fn held((topic, partition): &Key, log: Bounds, from: Option<u64>, until: Option<u64>) -> Result<Bounds, SourceError> {
    for at in [from, until].into_iter().flatten() {
        if at < log.begin || at > log.end {
            return Err(SourceError::Service(format!(
                "kafka {topic}/{partition}: offset {at} is not in the log, which begins at {} and ends at {}",
                log.begin, log.end
            )));
        }
    }
    Ok(Bounds { begin: from.unwrap_or(log.begin), end: until.unwrap_or(log.end) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_by_time_lies_between_two_records() {
        let key: Key = ("t".into(), 3);
        let log = Bounds { begin: 10, end: 50 };
        let times = |at: Option<u64>| Times::from([(key.clone(), at)]);
        // name; what was found for from and until, where asked; the range
        type Found = Option<Option<u64>>;
        let rows: &[(&str, Found, Found, (u64, u64))] = &[
            ("the whole log", None, None, (10, 50)),
            ("from a record", Some(Some(20)), None, (20, 50)),
            ("up to a record", None, Some(Some(20)), (10, 20)),
            ("between two", Some(Some(20)), Some(Some(30)), (20, 30)),
            ("the same one", Some(Some(20)), Some(Some(20)), (20, 20)),
            ("all is older than from", Some(None), None, (50, 50)),
            ("all is older than until", None, Some(None), (10, 50)),
            ("all is newer than until", None, Some(Some(10)), (10, 10)),
            ("found in what was written since", Some(Some(60)), Some(Some(70)), (50, 50)),
            ("found in what is gone by now", Some(Some(5)), None, (10, 50)),
        ];
        for (name, from, until, want) in rows {
            let (from, until) = (from.map(times), until.map(times));
            let range = between(log, &key, from.as_ref(), until.as_ref());
            assert_eq!((range.begin, range.end), *want, "{name}");
        }
    }

    #[test]
    fn offsets_that_the_log_does_not_hold_are_an_error() {
        let key: Key = ("t".into(), 3);
        let log = Bounds { begin: 10, end: 50 };
        let rows = [
            ("all", None, None, Ok((10, 50))),
            ("the first and the end", Some(10), Some(50), Ok((10, 50))),
            ("nothing at the end", Some(50), Some(50), Ok((50, 50))),
            ("before the log", Some(9), None, Err("offset 9")),
            ("behind it", None, Some(51), Err("offset 51")),
        ];
        for (name, from, until, want) in rows {
            match (held(&key, log, from, until), want) {
                (Ok(range), Ok(want)) => assert_eq!((range.begin, range.end), want, "{name}"),
                (Err(error), Err(at)) => {
                    let want = format!("kafka t/3: {at} is not in the log, which begins at 10 and ends at 50");
                    assert_eq!(error.to_string(), want, "{name}");
                }
                (range, _) => panic!("{name}: {range:?}"),
            }
        }
    }

    #[test]
    fn only_partitions_that_are_there_can_be_named() {
        let named = |partitions: &[i32]| {
            Range::Offsets(partitions.iter().map(|partition| (*partition, Offsets::default())).collect())
        };
        assert_eq!(Range::WHOLE.among("t", &[0, 1, 2]).unwrap(), [0, 1, 2]);
        assert_eq!(named(&[2, 0]).among("t", &[0, 1, 2]).unwrap(), [0, 2]);
        let error = named(&[1, 3]).among("t", &[0, 1, 2]).unwrap_err();
        assert_eq!(error.to_string(), "kafka topic t has no partition 3; its partitions are 0 to 2");
    }
}
