//! Says of a partition that holds back everybody's time although lines of it keep coming: its event time stands still, or is
//! far behind that of the others and comes no nearer. Mostly a clock is to blame.
//!
//! Invariants
//! - It is said of the one partition that is the least far, once it has been so for [`WATCHED`] and [`LEAST_LINES`] lines,
//!   and of the same one again at most every [`SAY_EVERY`].
//! - One that catches up, or has more to read than came meanwhile, is none of these: that is consumer lag.
//! - Of connections that time waits for no longer it is said by source, as often: each may be there for a moment.

use super::peers::{Health, Name};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_events::time::{EventTime, Millis};

/// How much further than partitions may drift apart the others must be, ms.
const BEYOND_DRIFT: u64 = 60_000;

/// How much further the others must be at least, ms.
const LEAST_GAP: u64 = 120_000;

/// For how long it is watched before anything is said.
const WATCHED: Duration = Duration::from_secs(60);

/// How many lines must have come meanwhile.
const LEAST_LINES: u64 = 10;

/// How long nothing is said again.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// A partition that holds back time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    name: Name,
    /// Whether its time hardly moves at all.
    is_still: bool,
    /// Its event time, ms.
    at: u64,
    /// How much further the others are.
    behind: Millis,
    /// Since when (wall clock, ms) it has been seen to be that far behind.
    since: u64,
}

/// How a partition stood when it was first seen, or last caught up.
struct Watched {
    name: Name,
    at: Instant,
    since: u64,
    watermark: u64,
    lines: u64,
    /// Whether it was found to hold back time when that was last to be told.
    holds: bool,
    said: Option<Instant>,
}

/// What was seen of the partition that holds back the others.
pub struct Stalls {
    gap: u64,
    watched: Option<Watched>,
}

impl Stalls {
    /// Of partitions of which one may be read so far ahead of another.
    pub fn new(max_drift: Millis) -> Stalls {
        Stalls { gap: max_drift.0.saturating_add(BEYOND_DRIFT).max(LEAST_GAP), watched: None }
    }

    /// Looks at all partitions at wall clock `wall` (ms), and gives what there is to say.
    pub fn look(&mut self, health: &[Health], now: Instant, wall: u64) -> Option<Stall> {
        let farthest = health.iter().map(|row| row.totals.watermark).max().unwrap_or(0);
        let holding = health.iter().filter(|row| row.holds && row.totals.watermark > 0);
        let least = holding.min_by_key(|row| (row.totals.watermark, &row.name.source, &row.name.partition));
        let Some(row) = least.filter(|row| farthest.saturating_sub(row.totals.watermark) >= self.gap) else {
            self.watched = None;
            return None;
        };
        let (watermark, lines) = (row.totals.watermark, row.totals.lines);
        let fresh =
            Watched { name: row.name.clone(), at: now, since: wall, watermark, lines, holds: false, said: None };
        let watched = match &mut self.watched {
            Some(watched) if watched.name == row.name => watched,
            other => other.insert(fresh),
        };
        let elapsed = now.saturating_duration_since(watched.at);
        let came = lines.saturating_sub(watched.lines);
        if elapsed < WATCHED || came < LEAST_LINES {
            return None;
        }
        let passed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let moved = watermark.saturating_sub(watched.watermark);
        let said = watched.said;
        (watched.at, watched.watermark, watched.lines) = (now, watermark, lines);
        watched.holds = moved <= passed.saturating_add(passed / 4) && row.lag.is_none_or(|lag| lag <= came);
        if !watched.holds {
            watched.since = wall;
            return None;
        }
        if said.is_some_and(|at| now.saturating_duration_since(at) < SAY_EVERY) {
            return None;
        }
        watched.said = Some(now);
        Some(Stall {
            name: row.name.clone(),
            is_still: moved < passed / 10,
            at: watermark,
            behind: Millis(farthest - watermark),
            since: watched.since,
        })
    }

    /// The partition that holds back time, whether that is to be said or was.
    pub fn holder(&self) -> Option<&Name> {
        self.watched.as_ref().filter(|watched| watched.holds).map(|watched| &watched.name)
    }
}

impl Stall {
    /// Says it to the log.
    pub fn warn(&self) {
        let Stall { name, is_still, at, behind, since } = self;
        let behind = Millis(behind.0 - behind.0 % 1000);
        let what = if *is_still { "stands still" } else { "is far behind that of the others" };
        tracing::warn!(
            source = %name.source, partition = %name.partition, event_time = %EventTime(*at), %behind, since = %EventTime(*since),
            "the event time of a source {what} while its lines keep coming: windows from there on stay open, and rules that \
             wait for their end; set the clock of the host that writes them, or end that sender"
        );
    }
}

/// Since when, and until when, time has waited for no connection of a source that was too far behind.
struct Moved {
    since: Instant,
    last: Instant,
    said: Option<Instant>,
}

/// Sources whose connections held back time for longer than they may.
#[derive(Default)]
pub struct Holders(BTreeMap<Arc<str>, Moved>);

impl Holders {
    /// Takes note of a connection that time waits for no longer; whether that is to be said.
    pub fn look(&mut self, info: &PartitionInfo, now: Instant) -> bool {
        let new = || Moved { since: now, last: now, said: None };
        let moved = self.0.entry(info.source_name.clone()).or_insert_with(new);
        let is_past = |at: Instant, long| now.saturating_duration_since(at) >= long;
        if is_past(moved.last, WATCHED) {
            moved.since = now;
        }
        moved.last = now;
        let is_due = is_past(moved.since, WATCHED) && moved.said.is_none_or(|at| is_past(at, SAY_EVERY));
        if is_due {
            moved.said = Some(now);
        }
        is_due
    }

    /// The same, saying it to the log.
    pub fn warn(&mut self, info: &PartitionInfo) {
        if self.look(info, Instant::now()) {
            tracing::warn!(
                source = %info.source_name, partition = %info.name,
                "connections of a source hold back event time, one after the other or all along: time no longer waits for them, \
                 and their lines may be late; set the clocks of those senders, or close the source to them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Shares, Totals};
    use super::*;
    use tidewatch_events::batch::{PartitionId, WallTime};

    fn row(source: &str, watermark: u64, lines: u64, lag: Option<u64>) -> Health {
        let name = Name { index: 0, source: source.into(), partition: "p".into() };
        let totals = Totals { lines, watermark, ..Totals::default() };
        Health {
            name,
            totals,
            lag,
            shares: Shares::default(),
            holds: true,
            passing: false,
            of_topic: false,
            first_worker: 0,
        }
    }

    /// What is said at looks at (second, watermark of `slow` in seconds, its lines, its lag), where `live` moves with the
    /// clock from 10,000 s on.
    fn said(looks: &[(u64, u64, u64, Option<u64>)]) -> Vec<(u64, bool, u64, u64)> {
        let (begun, mut stalls) = (Instant::now(), Stalls::new(Millis::minutes(1)));
        let look = |(second, watermark, lines, lag): &(u64, u64, u64, Option<u64>)| {
            let health = [row("live", (10_000 + second) * 1000, 9, None), row("slow", watermark * 1000, *lines, *lag)];
            let found = stalls.look(&health, begun + Duration::from_secs(*second), second * 1000)?;
            assert_eq!((&*found.name.source, stalls.holder()), ("slow", Some(&found.name)));
            Some((*second, found.is_still, found.behind.0 / 1000, found.since / 1000))
        };
        looks.iter().filter_map(look).collect()
    }

    #[test]
    fn a_clock_that_stands_still_is_said_sparingly() {
        let looks: Vec<_> = (0..=900).step_by(10).map(|second| (second, 9_950, second, None)).collect();
        // Two minutes behind at 70 s; a minute later it is said, and again after ten.
        assert_eq!(said(&looks), [(130, true, 180, 70), (730, true, 780, 70)]);
    }

    #[test]
    fn only_what_holds_time_while_lines_come_is_said() {
        let every = |watermark: fn(u64) -> u64, lines: fn(u64) -> u64, lag: Option<u64>| {
            let looks: Vec<_> = (0..=300).step_by(10).map(|s| (s, watermark(s), lines(s), lag)).collect();
            said(&looks)
        };
        assert_eq!(every(|s| 9_000 + s, |s| s, None), [(60, false, 1000, 0)], "ten minutes slow, and goes on");
        assert_eq!(every(|s| 9_000 + s, |s| s, Some(20)), [(60, false, 1000, 0)], "a little lag");
        assert_eq!(every(|s| 9_950 + s, |s| s, None), [], "not far behind");
        assert_eq!(every(|_| 9_000, |_| 5, None), [], "no line comes: it is idle soon");
        assert_eq!(every(|s| 5_000 + 2 * s, |s| s, None), [], "it catches up");
        assert_eq!(every(|s| 9_000 + s, |s| s, Some(1000)), [], "it has much to read");
        assert_eq!(every(|_| 0, |s| s, None), [], "it has brought no event yet");
    }

    #[test]
    fn connections_that_hold_time_one_after_the_other_are_said_sparingly() {
        let begun = Instant::now();
        // name, when a connection of the source is moved, when that is said, s
        let rows: &[(&str, &[u64], &[u64])] = &[
            ("not for long", &[0, 10, 20, 30, 40, 59], &[]),
            ("for a minute", &[0, 30, 60, 90], &[60]),
            ("now and then", &[0, 60, 120, 180], &[]),
            ("for long", &[0, 59, 118, 177, 236, 295, 354, 413, 472, 531, 590, 649, 708, 767], &[118, 767]),
        ];
        for (name, moved, want) in rows {
            let mut holders = Holders::default();
            let info = |partition: u64| PartitionInfo {
                id: PartitionId(partition),
                source: 0,
                source_name: "s".into(),
                name: partition.to_string().into(),
                default_host: Arc::from(&b"h"[..]),
                passing: true,
                reference_time: WallTime(0),
                unread: None,
            };
            let said = moved.iter().filter(|at| holders.look(&info(**at), begun + Duration::from_secs(**at)));
            assert_eq!(said.copied().collect::<Vec<_>>(), *want, "{name}");
        }
    }

    #[test]
    fn who_does_not_hold_time_is_left_alone() {
        let mut stalls = Stalls::new(Millis::minutes(1));
        let begun = Instant::now();
        for second in (0..300).step_by(10) {
            let idle = Health { holds: false, ..row("idle", 1000, second, None) };
            let health = [row("live", (10_000 + second) * 1000, 9, None), idle];
            assert_eq!(stalls.look(&health, begun + Duration::from_secs(second), second), None);
            assert_eq!(stalls.holder(), None);
        }
    }
}
