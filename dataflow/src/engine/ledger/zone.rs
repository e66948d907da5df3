//! By how much a partition's lines are off the clock, where that looks like another time zone: they name no zone, and keep coming
//! ahead of the clock, or behind it, by the same number of quarters of an hour.
//!
//! Looked at once per batch, by its first and its last event.
//!
//! Invariants
//! - It is said of at least [`LEAST_EVENTS`] events in a row: one line that is off says nothing.
//! - Being behind is said only once that has lasted [`LASTED`]: what was sent late comes in one go, and catches up.

use serde::{Deserialize, Serialize};
use tidewatch_events::time::{EventTime, Millis};

/// A quarter of an hour, ms: no two time zones differ by less.
pub const QUARTER: i64 = 900_000;

/// How far off the quarter a line may be, ms: what lies between writing and reading it, and between two clocks.
const NEAR: i64 = 60_000;

/// No two time zones differ by more quarters.
const MOST: i64 = 26 * 4;

/// Of how many events in a row it is said.
const LEAST_EVENTS: u64 = 3;

/// For how long lines must have been behind, and how far they may have come nearer meanwhile, ms.
const LASTED: Millis = Millis(10_000);
const STEADY: u64 = 5_000;

/// By how much lines are off the clock, as if of another time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Off {
    /// How many quarters of an hour they are ahead; below 0, behind.
    pub quarters: i16,
    /// By what the last of them was measured: what the clock showed, ms.
    pub at: u64,
}

/// How many quarters of an hour an event is ahead of the time by which it is measured; below 0, behind it. `None`: by none, or by
/// no number of them.
fn quarters(time: EventTime, by: EventTime) -> Option<i16> {
    let off = i64::try_from(time.0).ok()?.checked_sub(i64::try_from(by.0).ok()?)?;
    let quarters = off.checked_add(QUARTER / 2)?.div_euclid(QUARTER);
    let is_near = quarters != 0 && quarters.abs() <= MOST && (off - quarters * QUARTER).abs() <= NEAR;
    i16::try_from(quarters).ok().filter(|_| is_near)
}

/// How far an event is ahead of the time by which it is measured, ms.
fn ahead((time, by): (EventTime, EventTime)) -> i64 {
    time.0.wrapping_sub(by.0).cast_signed()
}

/// Events in a row that are off by the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    quarters: i16,
    events: u64,
    /// By what the first of them was measured.
    since: EventTime,
    /// How far it was ahead of that, ms.
    off: i64,
}

impl Run {
    /// Takes the first and the last of so many further events, each with the time by which it is measured. By how much all
    /// are off, where that is to be said.
    pub fn see(&mut self, first: (EventTime, EventTime), last: (EventTime, EventTime), events: u64) -> Option<Off> {
        let Some(off) = quarters(first.0, first.1).filter(|off| quarters(last.0, last.1) == Some(*off)) else {
            *self = Run::default();
            return None;
        };
        if self.quarters != off {
            *self = Run { quarters: off, events: 0, since: first.1, off: ahead(first) };
        }
        self.events = self.events.saturating_add(events);
        let has_stayed = last.1.since(self.since) >= LASTED && ahead(last).abs_diff(self.off) <= STEADY;
        let has_lasted = off > 0 || has_stayed;
        (self.events >= LEAST_EVENTS && has_lasted).then_some(Off { quarters: off, at: last.1.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_keep_coming_off_by_quarters_of_an_hour_are_in_another_zone() {
        const HOUR: i64 = 3_600_000;
        // name, events in batches of one: after so many seconds, how far off, ms; what is said after each
        type Row<'a> = (&'a str, &'a [(u64, i64)], &'a [Option<i16>]);
        let rows: &[Row<'_>] = &[
            ("ahead", &[(0, HOUR), (4, HOUR), (8, HOUR), (12, HOUR)], &[None, None, Some(4), Some(4)]),
            ("at once", &[(0, HOUR), (0, HOUR - 900), (0, HOUR)], &[None, None, Some(4)]),
            (
                "by no whole hour",
                &[(0, 11 * HOUR / 2), (1, 11 * HOUR / 2), (2, 11 * HOUR / 2)],
                &[None, None, Some(22)],
            ),
            ("as late as may be", &[(0, HOUR - NEAR), (1, HOUR), (2, HOUR - NEAR)], &[None, None, Some(4)]),
            ("later", &[(0, HOUR), (1, HOUR), (2, HOUR - NEAR - 1), (3, HOUR), (4, HOUR)], &[None; 5]),
            ("one stray line", &[(0, 0), (1, HOUR), (2, 0), (3, HOUR), (4, HOUR)], &[None; 5]),
            ("by another number", &[(0, HOUR), (1, HOUR), (2, 2 * HOUR), (3, 2 * HOUR), (4, HOUR)], &[None; 5]),
            ("mended", &[(0, HOUR), (1, HOUR), (2, HOUR), (3, 0)], &[None, None, Some(4), None]),
            ("more than any zone", &[(0, 27 * HOUR), (1, 27 * HOUR), (2, 27 * HOUR)], &[None; 3]),
            ("right", &[(0, 0), (1, -500), (2, 0)], &[None; 3]),
            ("behind", &[(0, -5 * HOUR), (5, -5 * HOUR - 900), (10, -5 * HOUR)], &[None, None, Some(-20)]),
            ("not for long", &[(0, -5 * HOUR), (5, -5 * HOUR), (9, -5 * HOUR)], &[None; 3]),
            ("rarely", &[(0, -HOUR), (3600, -HOUR), (7200, -HOUR)], &[None, None, Some(-4)]),
            ("sent late, in one go", &[(0, -HOUR), (0, -HOUR), (0, -HOUR), (10, 0), (11, -HOUR)], &[None; 5]),
        ];
        for (name, events, want) in rows {
            let mut run = Run::default();
            let mut see = |(second, off): &(u64, i64)| {
                let by = 1_772_704_800_000 + second * 1000;
                let event = (EventTime(by.checked_add_signed(*off).unwrap()), EventTime(by));
                let off = run.see(event, event, 1)?;
                assert_eq!(off.at, by, "{name}");
                Some(off.quarters)
            };
            assert_eq!(events.iter().map(&mut see).collect::<Vec<_>>(), *want, "{name}");
        }
        let at = |time: u64| (EventTime(time), EventTime(0));
        let hour = HOUR as u64;
        let of_batch = |first, last| Run::default().see(at(first), at(last), 3).map(|off| off.quarters);
        assert_eq!(of_batch(hour, hour + 5000), Some(4), "many in one batch");
        assert_eq!(of_batch(hour, 2 * hour), None, "a batch that goes over hours");
        assert_eq!(Run::default().see((EventTime(u64::MAX), EventTime(0)), at(hour), 3), None, "no such time");
    }
}
