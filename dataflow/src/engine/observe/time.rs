//! How each partition's time stands, since when, and who holds the frontier and why.
//!
//! Looked at now and then from outside: the ledger and the feed tell how they stand, and what is different from the last
//! look began with this one. No cost per event or batch.
//!
//! Invariants
//! - A state lasts from the look that found it to the look that found another.
//! - Who holds time is the partition with the least watermark of those that hold it; among equals the least id.
//! - A partition at its end is idle only after [`QUIET_MS`] without a line: between two batches of a live log it is at its
//!   end as well.
//! - How long nothing was written is known only once a line was seen to come: what was there at the start may be of any age.

use super::super::ledger::{Ledger, Standing};
use std::collections::{BTreeMap, BTreeSet};
use tidewatch_connectors::feed::Feed;
use tidewatch_dashboard::view::{PartitionState, Why};
use tidewatch_events::batch::PartitionId;

/// How long nothing must come until a partition at its end is called idle, and how long one that was at its end still
/// follows its writer although it has a little to read.
const QUIET_MS: u64 = 2000;

/// What was seen of the partitions of this process.
#[derive(Debug, Default)]
pub struct Watch {
    states: BTreeMap<PartitionId, (PartitionState, u64)>,
    flows: BTreeMap<PartitionId, Flow>,
    was_full: bool,
    holder: Option<Holder>,
}

/// How lines of a partition come, wall clock, ms.
#[derive(Clone, Copy, Debug)]
struct Flow {
    lines: u64,
    /// When there was a line more than before.
    moved: u64,
    /// When all there was had been read.
    at_end: Option<u64>,
    /// Whether lines came after all there was had been read once.
    grew: bool,
}

impl Flow {
    fn next(before: Option<&Flow>, one: &Standing, now: u64) -> Flow {
        let lines = one.totals.lines;
        let moved = before.filter(|before| before.lines == lines).map_or(now, |before| before.moved);
        let at_end = if one.at_end { Some(now) } else { before.and_then(|before| before.at_end) };
        let grew = before.is_some_and(|before| before.grew || before.at_end.is_some() && before.lines < lines);
        Flow { lines, moved, at_end, grew }
    }

    /// For how long nothing was written, ms; the largest number where that began before the start.
    fn quiet_ms(&self, now: u64) -> u64 {
        if self.grew { now.saturating_sub(self.moved) } else { u64::MAX }
    }

    fn why(&self, now: u64) -> Why {
        let lately = |at: u64| now.saturating_sub(at) < QUIET_MS;
        match self.at_end {
            Some(at) if lately(at) && lately(self.moved) => Why::Following,
            Some(at) if lately(at) => Why::Idle,
            _ => Why::Slow,
        }
    }
}

/// The partition that holds time here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub id: PartitionId,
    /// Since when, wall clock, ms.
    pub since: u64,
    /// Why.
    pub why: Why,
    /// For how long nothing was written to it, ms; the largest number where that began before the start.
    pub quiet_ms: u64,
    /// Its watermark, and how many events of the future it had brought, when that last moved.
    watermark: u64,
    future: u64,
}

impl Watch {
    /// Looks at all partitions at wall clock `now`, ms.
    pub fn look(&mut self, ledger: &Ledger, feed: &Feed, now: u64) {
        let standings = ledger.standings();
        let pressure = feed.pressure();
        let ahead: BTreeSet<PartitionId> = pressure.ahead.into_iter().collect();
        // Full for a moment is how reading fast looks.
        let pressed = pressure.paused || pressure.full && self.was_full;
        self.was_full = pressure.full;
        self.see(&standings, &ahead, pressed, now);
    }

    fn see(&mut self, standings: &[Standing], ahead: &BTreeSet<PartitionId>, pressed: bool, now: u64) {
        let mut states = BTreeMap::new();
        for one in standings {
            let state = state(one, ahead.contains(&one.id), pressed);
            let since =
                self.states.get(&one.id).filter(|(before, _)| *before == state).map_or(now, |(_, since)| *since);
            states.insert(one.id, (state, since));
        }
        self.states = states;
        self.flows = standings.iter().map(|one| (one.id, Flow::next(self.flows.get(&one.id), one, now))).collect();
        let holding = standings.iter().filter(|one| !one.done && !one.idle);
        let least = holding.min_by_key(|one| (one.totals.watermark, one.id));
        self.holder = least.map(|one| {
            let before = self.holder.filter(|before| before.id == one.id);
            let moved = before.is_none_or(|before| before.watermark != one.totals.watermark);
            let future = if moved { one.totals.future } else { before.map_or(0, |before| before.future) };
            let why = match self.state(one.id).0 {
                PartitionState::Starting if one.totals.future == 0 => Why::Starting,
                PartitionState::BackPressured => Why::BackPressured,
                PartitionState::Aligned => Why::Aligned,
                _ if one.totals.future > future || one.totals.events == one.totals.future && one.totals.future > 0 => {
                    Why::Future
                }
                _ => self.flows.get(&one.id).map_or(Why::Slow, |flow| flow.why(now)),
            };
            let since = before.map_or(now, |before| before.since);
            let quiet_ms = self.flows.get(&one.id).map_or(0, |flow| flow.quiet_ms(now));
            Holder { id: one.id, since, why, quiet_ms, watermark: one.totals.watermark, future }
        });
    }

    /// How a partition stands, and since when (wall clock, ms).
    pub fn state(&self, id: PartitionId) -> (PartitionState, u64) {
        self.states.get(&id).copied().unwrap_or_default()
    }

    /// Who holds time here.
    pub fn holder(&self) -> Option<Holder> {
        self.holder
    }
}

fn state(one: &Standing, is_ahead: bool, pressed: bool) -> PartitionState {
    if one.done {
        PartitionState::Ended
    } else if one.idle {
        PartitionState::Idle
    } else if one.totals.events == 0 {
        PartitionState::Starting
    } else if pressed && !one.at_end {
        PartitionState::BackPressured
    } else if is_ahead {
        PartitionState::Aligned
    } else {
        PartitionState::Active
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ledger::Totals;
    use super::*;

    fn standing(id: u64, watermark: u64, events: u64) -> Standing {
        let totals = Totals { watermark, events, ..Totals::default() };
        Standing { id: PartitionId(id), totals, done: false, idle: false, at_end: false }
    }

    #[test]
    fn each_state_has_its_reason() {
        use PartitionState::*;
        let it = standing(1, 5, 9);
        let rows: Vec<(&str, Standing, bool, bool, PartitionState, Option<Why>)> = vec![
            ("no event yet", standing(1, 0, 0), false, false, Starting, Some(Why::Starting)),
            ("events come", it, false, false, Active, Some(Why::Slow)),
            ("at its end", Standing { at_end: true, ..it }, false, false, Active, Some(Why::Following)),
            ("for long", Standing { at_end: true, idle: true, ..it }, false, false, Idle, None),
            ("over", Standing { done: true, ..it }, false, false, Ended, None),
            ("no room", it, false, true, BackPressured, Some(Why::BackPressured)),
            ("no room, and no need", Standing { at_end: true, ..it }, false, true, Active, Some(Why::Following)),
            ("ahead", it, true, false, Aligned, Some(Why::Aligned)),
            (
                "only the future",
                Standing { totals: Totals { events: 3, future: 3, ..it.totals }, ..it },
                false,
                false,
                Active,
                Some(Why::Future),
            ),
        ];
        for (name, one, is_ahead, pressed, state, why) in rows {
            let mut watch = Watch::default();
            let ahead = if is_ahead { BTreeSet::from([one.id]) } else { BTreeSet::new() };
            watch.see(&[one], &ahead, pressed, 77);
            assert_eq!(watch.state(one.id), (state, 77), "{name}");
            assert_eq!(watch.holder().map(|holder| holder.why), why, "{name}");
        }
    }

    #[test]
    fn a_state_lasts_and_the_least_holds_time() {
        let mut watch = Watch::default();
        let none = BTreeSet::new();
        watch.see(&[standing(1, 10, 1), standing(2, 20, 1)], &none, false, 100);
        watch.see(&[standing(1, 15, 2), standing(2, 20, 2)], &none, false, 200);
        let holder = watch.holder().unwrap();
        assert_eq!((holder.id, holder.since, watch.state(PartitionId(1)).1), (PartitionId(1), 100, 100));
        watch.see(&[standing(1, 30, 3), standing(2, 20, 2)], &none, true, 300);
        let holder = watch.holder().unwrap();
        assert_eq!((holder.id, holder.since), (PartitionId(2), 300));
        assert_eq!(watch.state(PartitionId(1)), (PartitionState::BackPressured, 300));
        // Its watermark stands still while events of the future come.
        let future = Standing { totals: Totals { future: 4, ..standing(2, 20, 9).totals }, ..standing(2, 20, 9) };
        watch.see(&[standing(1, 30, 3), future], &none, false, 400);
        let holder = watch.holder().unwrap();
        assert_eq!((holder.id, holder.since, holder.why), (PartitionId(2), 300, Why::Future));
        watch.see(&[standing(1, 30, 3)], &none, false, 500);
        assert_eq!(watch.state(PartitionId(2)), Default::default(), "what is gone is forgotten");
    }

    #[test]
    fn a_live_log_is_not_idle_between_two_batches() {
        // name, wall clock, lines read so far, at its end
        let looks: &[(&str, u64, u64, bool, Why)] = &[
            ("the first batch is read", 500, 10, true, Why::Following),
            ("nothing yet", 1000, 10, true, Why::Following),
            ("a batch is being read", 1500, 20, false, Why::Following),
            ("the next is there already", 2000, 30, false, Why::Following),
            ("read up", 2500, 40, true, Why::Following),
            ("one before", 4499, 40, true, Why::Following),
            ("nothing came for two seconds", 4500, 40, true, Why::Idle),
            ("lines again", 5000, 50, true, Why::Following),
            ("more than can be read", 6000, 60, false, Why::Following),
            ("still", 7000, 70, false, Why::Slow),
            ("caught up", 7500, 80, true, Why::Following),
        ];
        let mut watch = Watch::default();
        for (name, now, lines, at_end, why) in looks {
            let totals = Totals { lines: *lines, events: *lines, watermark: 5, ..Totals::default() };
            let one = Standing { id: PartitionId(1), totals, done: false, idle: false, at_end: *at_end };
            watch.see(&[one], &BTreeSet::new(), false, *now);
            assert_eq!(watch.holder().map(|holder| holder.why), Some(*why), "{name}");
        }
        let totals = Totals { lines: 80, events: 80, watermark: 5, ..Totals::default() };
        let one = Standing { id: PartitionId(1), totals, done: false, idle: false, at_end: true };
        watch.see(&[one], &BTreeSet::new(), false, 12_000);
        let holder = watch.holder().unwrap();
        assert_eq!((holder.why, holder.quiet_ms), (Why::Idle, 4500), "no line since");
    }

    #[test]
    fn what_was_there_at_the_start_may_be_of_any_age() {
        // name, wall clock, lines read so far, at its end, for how long nothing was written
        let looks: &[(&str, u64, u64, bool, u64)] = &[
            ("a part of it is read", 500, 10, false, u64::MAX),
            ("the rest of it", 1000, 20, true, u64::MAX),
            ("nothing comes", 5000, 20, true, u64::MAX),
            ("the first line that comes", 5500, 21, false, 0),
            ("nothing since", 7500, 21, true, 2000),
        ];
        let mut watch = Watch::default();
        for (name, now, lines, at_end, quiet_ms) in looks {
            let one = Standing { at_end: *at_end, ..standing(1, 5, *lines) };
            let totals = Totals { lines: *lines, ..one.totals };
            watch.see(&[Standing { totals, ..one }], &BTreeSet::new(), false, *now);
            assert_eq!(watch.holder().map(|holder| holder.quiet_ms), Some(*quiet_ms), "{name}");
        }
    }
}
