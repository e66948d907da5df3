//! The rows of the `tidewatch` measurement: what each worker read of each partition, and how far the partition's time is.
//!
//! A partition has a row for each worker that read some of it, for any worker may parse any batch, and one in any case for
//! the first worker of its process; that one carries the consumer lag, so that a sum over rows counts it once.
//!
//! Invariants
//! - A partition that does not hold time (idle, ended) stands where the frontier is: it keeps nobody waiting.
//! - Of partitions that share a name, the least that holds time decides.
//! - Tags are bounded: all connections of a source are one partition, and of files the first [`NAMED`] of a source have
//!   names; connections, and files named by date or container, come and go for ever.

use super::super::ledger::Shares;
use super::super::peers::Health;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidewatch_events::batch::WallTime;

/// How many files of a source are told apart, in the life of a process.
const NAMED: usize = 100;

/// The partition under which connections are summed up.
const CONNECTIONS: &str = "connections";

/// The partition under which files beyond [`NAMED`] are summed up.
const OTHER: &str = "other";

/// A point, but for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub topic: Arc<str>,
    pub partition: Arc<str>,
    pub worker: usize,
    pub events: u64,
    pub rejected: u64,
    pub late: u64,
    /// Of Kafka, in the partition's first row, while its leader answers.
    pub lag_messages: Option<u64>,
    pub lag_ms: u64,
    /// 0 before the first event.
    pub watermark: u64,
}

/// Which partitions there are rows of.
pub(super) struct Partitions {
    begun: WallTime,
    named: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

/// Partitions of one name in one process.
#[derive(Default)]
struct Group {
    shares: Shares,
    lag: Option<u64>,
    /// Least watermark of those that hold time.
    holding: Option<u64>,
    /// Largest of the others.
    other: u64,
}

impl Partitions {
    /// Of a run that began now.
    pub fn new(begun: WallTime) -> Partitions {
        Partitions { begun, named: BTreeMap::new() }
    }

    /// The rows of partitions that stand so at wall clock `now`, in order of their tags.
    pub fn rows(&mut self, health: &[Health], now: WallTime) -> Vec<Row> {
        let mut groups: BTreeMap<(Arc<str>, Arc<str>, usize), Group> = BTreeMap::new();
        for one in health {
            let (topic, partition) = self.names(one);
            let group = groups.entry((topic, partition, one.first_worker)).or_default();
            group.shares.of(one.first_worker);
            group.shares.merge(&one.shares);
            group.lag = group.lag.into_iter().chain(one.lag).reduce(|a, b| a.saturating_add(b));
            match one.holds {
                true => group.holding = group.holding.into_iter().chain([one.totals.watermark]).min(),
                false => group.other = group.other.max(one.totals.watermark),
            }
        }
        let least = groups.values().filter_map(|group| group.holding).min();
        // Where nobody holds time it goes with the clock, as those say that are idle.
        let frontier = least.or_else(|| groups.values().map(|group| group.other).max()).unwrap_or(0);
        let mut rows = Vec::new();
        for ((topic, partition, first), group) in groups {
            let watermark = group.holding.unwrap_or(group.other.max(frontier));
            let since = match watermark {
                // Nothing was ever read: time stands since the beginning, if anybody holds it.
                0 if least.is_some() => self.begun.0,
                0 => now.0,
                watermark => watermark,
            };
            for share in group.shares.iter() {
                rows.push(Row {
                    topic: topic.clone(),
                    partition: partition.clone(),
                    worker: share.worker,
                    events: share.events,
                    rejected: share.rejected,
                    late: share.late,
                    lag_messages: group.lag.filter(|_| share.worker == first),
                    lag_ms: now.0.saturating_sub(since),
                    watermark,
                });
            }
        }
        rows.sort_by(|a, b| (&a.partition, &a.topic, a.worker).cmp(&(&b.partition, &b.topic, b.worker)));
        rows
    }

    /// Topic and partition as they are tags.
    fn names(&mut self, one: &Health) -> (Arc<str>, Arc<str>) {
        let name = &one.name;
        if one.of_topic
            && let Some((topic, partition)) = name.partition.rsplit_once('/')
        {
            return (topic.into(), partition.into());
        }
        if one.passing {
            return (name.source.clone(), CONNECTIONS.into());
        }
        let named = self.named.entry(name.source.clone()).or_default();
        let has_name = named.contains(&name.partition) || named.len() < NAMED && named.insert(name.partition.clone());
        (name.source.clone(), if has_name { name.partition.clone() } else { OTHER.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ledger::Totals;
    use super::super::super::peers::Name;
    use super::*;

    const NOW: WallTime = WallTime(1_000_000);

    /// A partition of source `s` that worker `first_worker` read five events of.
    fn health(name: &str, watermark: u64, holds: bool) -> Health {
        let mut shares = Shares::default();
        shares.of(0).events = 5;
        Health {
            name: Name { index: 0, source: "s".into(), partition: name.into() },
            totals: Totals { events: 5, watermark, ..Totals::default() },
            of_topic: false,
            lag: None,
            shares,
            holds,
            passing: false,
            first_worker: 0,
        }
    }

    fn rows(health: &[Health]) -> Vec<(String, u64, u64)> {
        let rows = Partitions::new(WallTime(999_000)).rows(health, NOW);
        rows.iter().map(|row| (format!("{} {}", row.topic, row.partition), row.watermark, row.lag_ms)).collect()
    }

    #[test]
    fn who_holds_no_time_stands_where_the_frontier_is() {
        let it = |name: &str, watermark, lag| (format!("s {name}"), watermark, lag);
        let named: &[(&str, Vec<Health>, Vec<(String, u64, u64)>)] = &[
            (
                "a quiet one beside a live one",
                vec![health("a", 995_000, true), health("b", 400_000, false)],
                vec![it("a", 995_000, 5000), it("b", 995_000, 5000)],
            ),
            (
                "a stuck one beside a live one",
                vec![health("a", 995_000, true), health("b", 400_000, true)],
                vec![it("a", 995_000, 5000), it("b", 400_000, 600_000)],
            ),
            (
                "all are quiet: the clock goes on",
                vec![health("a", 994_000, false), health("b", 400_000, false)],
                vec![it("a", 994_000, 6000), it("b", 994_000, 6000)],
            ),
            (
                "a quiet one is never moved back",
                vec![health("a", 990_000, true), health("b", 999_000, false)],
                vec![it("a", 990_000, 10_000), it("b", 999_000, 1000)],
            ),
            (
                "one without an event holds time since the beginning",
                vec![health("a", 0, true), health("b", 0, false)],
                vec![it("a", 0, 1000), it("b", 0, 1000)],
            ),
            ("nothing was read, nobody waits", vec![health("a", 0, false)], vec![it("a", 0, 0)]),
            ("ahead of the clock", vec![health("a", 1_000_500, true)], vec![it("a", 1_000_500, 0)]),
            ("none", vec![], vec![]),
        ];
        for (name, given, want) in named {
            assert_eq!(rows(given), *want, "{name}");
        }
    }

    #[test]
    fn of_connections_the_least_that_holds_time_decides() {
        let connection = |name: &str, watermark, holds| Health { passing: true, ..health(name, watermark, holds) };
        let all = [
            connection("192.0.2.1:5", 999_000, true),
            connection("192.0.2.2:6", 900_000, true),
            connection("ended connections", 100, false),
        ];
        assert_eq!(rows(&all), [("s connections".to_owned(), 900_000, 100_000)]);
        let rows = Partitions::new(NOW).rows(&all, NOW);
        assert_eq!((rows.len(), rows[0].events), (1, 15));
    }

    #[test]
    fn each_worker_has_a_row_and_the_first_has_the_consumer_lag() {
        let mut shares = Shares::default();
        (shares.of(3).events, shares.of(5).late) = (7, 2);
        let kafka =
            Health { of_topic: true, lag: Some(40), shares, first_worker: 2, ..health("web/logs/3", 999_000, true) };
        let kafka = Health { name: Name { partition: "web/logs/3".into(), ..kafka.name.clone() }, ..kafka };
        // Of one whose broker does not answer the lag is not known, and it is the same series.
        let away = Health { lag: None, ..kafka.clone() };
        let rows = Partitions::new(NOW).rows(&[away], NOW);
        let told: Vec<_> = rows.iter().map(|r| (&*r.topic, &*r.partition, r.worker, r.lag_messages)).collect();
        assert_eq!(told, [2, 3, 5].map(|worker| ("web/logs", "3", worker, None)));
        let rows = Partitions::new(NOW).rows(&[kafka, health("/a", 999_000, true)], NOW);
        let told: Vec<_> =
            rows.iter().map(|r| (&*r.topic, &*r.partition, r.worker, r.events, r.late, r.lag_messages)).collect();
        let want = [
            ("s", "/a", 0, 5, 0, None),
            ("web/logs", "3", 2, 0, 0, Some(40)),
            ("web/logs", "3", 3, 7, 0, None),
            ("web/logs", "3", 5, 0, 2, None),
        ];
        assert_eq!(told, want);
    }

    #[test]
    fn names_are_bounded_and_stay() {
        let mut partitions = Partitions::new(NOW);
        let files = |from: usize, to: usize| -> Vec<Health> {
            (from..to).map(|at| health(&format!("{at:05}"), 900_000 - at as u64, true)).collect()
        };
        assert_eq!(partitions.rows(&files(0, NAMED), NOW).len(), NAMED);
        let rows = partitions.rows(&files(1, NAMED + 900), NOW);
        let other = rows.last().unwrap();
        assert_eq!((rows.len(), &*other.partition), (NAMED, OTHER));
        assert_eq!((other.events, other.watermark), (5 * 900, 900_000 - (NAMED as u64 + 899)), "the least of them");
        assert_eq!(
            &*partitions.rows(&files(NAMED + 900, NAMED + 901), NOW)[0].partition,
            OTHER,
            "what went has its name"
        );
    }
}
