//! How far connections may hold time back together.
//!
//! A connection is expected to go on as the clock does. From where time stood when connections began to hold it, it goes on
//! with the steady clock; they may be `idle_after` behind that, which is what one that falls silent may be. Those at their
//! ends that are further behind have it as their floor, so that no new one starts from where the ones before it held time.
//!
//! Invariants
//! - Nobody who goes on as fast as the clock is moved, however far behind, nor who has more to read than came meanwhile.
//! - Nobody is moved beyond what holds time otherwise in this process (logs, and connections that have more to read) or beyond
//!   the clock.
//! - A pause of reading does not count.

use super::Inner;
use std::iter::once;
use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_events::time::{EventTime, Millis};

/// Where time would be if connections had gone on as the clock did, ms.
#[derive(Default)]
pub(super) struct Pace(Option<u64>);

impl Pace {
    /// After so long: the least of connections that hold time, that of all others that do, and where time would be if nobody
    /// did. The time that no connection may hold back.
    fn look(&mut self, passed: u64, least: u64, others: Option<u64>, clock: u64, slack: Millis) -> u64 {
        let at = self.0.map_or(least, |at| at.saturating_add(passed).min(clock).max(least));
        self.0 = Some(at);
        at.saturating_sub(slack.0).min(others.unwrap_or(u64::MAX))
    }
}

impl Inner {
    /// Moves on connections that hold time too long; the one that was the least far, where there is any. `clock`: where time
    /// would be if nobody held it. `is_alone`: there are no other processes.
    pub(super) fn keep_pace(
        &mut self,
        now: Millis,
        passed: u64,
        clock: u64,
        slack: Millis,
        is_alone: bool,
    ) -> Option<PartitionInfo> {
        let least = self.least(|e| e.holds() && e.keeps_pace(now));
        let others = self.least(|e| e.holds() && !e.keeps_pace(now));
        // One that is the first to send anything holds back nobody, however slowly it sends what is old.
        let readers = self.partitions.values().filter(|e| e.has_read()).count();
        let is_first = is_alone && readers <= 1 && self.ended.is_empty();
        let Some(least) = least.filter(|least| !is_first && others.is_none_or(|others| *least < others)) else {
            self.pace = Pace::default();
            return None;
        };
        let floor = EventTime(self.pace.look(passed, least, others, clock, slack));
        let behind = self.partitions.values_mut().filter(|e| e.holds() && e.keeps_pace(now) && e.reached < floor);
        let mut moved = None;
        for entry in behind.filter(|e| e.is_at_end()) {
            let before = entry.reached;
            entry.follow(floor);
            moved = moved.into_iter().chain(once((before, &entry.info))).min_by_key(|(at, _)| *at);
        }
        moved.map(|(_, info)| info.clone())
    }
}
