//! What time it is for partitions that wait: the wall clock, held against one that nobody sets.
//!
//! Invariants
//! - A wall clock that is set is followed once it has stayed so for [`BELIEVED_AFTER`]. Until then time passes as on the
//!   steady clock, or not at all where the wall clock is behind that: windows may close later for it, never too early.
//! - The first look is believed.

use std::sync::LazyLock;
use std::time::Instant;
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::batch::WallTime;
use tidewatch_events::time::Millis;

/// How long a wall clock must have stayed where it was set. Also how long the time that a machine slept is missing, for
/// its steady clock may have slept too.
pub(super) const BELIEVED_AFTER: Millis = Millis(60_000);

/// Two clocks that are read one after the other, and one of which is slewed, differ by so much at most.
const SLEW: Millis = Millis(1_000);

/// A moment by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// As people set it.
    pub wall: WallTime,
    /// What has passed in the life of this process; nobody sets it.
    pub steady: Millis,
}

impl Moment {
    /// This one.
    pub fn now() -> Moment {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let steady = u64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(u64::MAX);
        Moment { wall: wall_clock(), steady: Millis(steady) }
    }

    /// What the wall clock shows at a later moment, if nobody sets it.
    fn at(self, later: Millis) -> u64 {
        self.wall.0.saturating_add(later.0.saturating_sub(self.steady.0))
    }

    /// Whether the wall clock was set in between.
    fn was_set(self, before: Moment) -> bool {
        self.wall.0.abs_diff(before.at(self.steady)) > SLEW.0
    }
}

/// When the wall clock was believed last.
#[derive(Default)]
pub(super) struct Believed {
    /// When the wall clock was believed last.
    last: Option<Moment>,
    /// Since when it says something else.
    set: Option<Moment>,
}

impl Believed {
    /// The time, as far as the wall clock is believed.
    pub fn look(&mut self, now: Moment) -> WallTime {
        if let Some(last) = self.last.filter(|last| now.was_set(*last)) {
            let set = self.set.filter(|set| !now.was_set(*set)).unwrap_or(now);
            if now.steady.0.saturating_sub(set.steady.0) < BELIEVED_AFTER.0 {
                self.set = Some(set);
                return WallTime(last.at(now.steady).min(now.wall.0));
            }
        }
        (self.last, self.set) = (Some(now), None);
        now.wall
    }

    /// What no wall clock that is believed is beyond; `None` before the first look.
    pub fn until(&self, steady: Millis) -> Option<WallTime> {
        self.last.map(|last| WallTime(last.at(steady).saturating_add(SLEW.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_believed_once_it_has_stayed_so() {
        const HOUR: i64 = 3_600_000;
        let wait = BELIEVED_AFTER.0;
        // Looked at after so long on the steady clock, with a wall clock so far ahead of it; what is believed, as far
        let rows: &[(&str, &[(u64, i64, i64)])] = &[
            ("both go on", &[(0, 0, 0), (HOUR as u64, 0, 0)]),
            ("slewed", &[(0, 0, 0), (5000, 1000, 1000), (10_000, 2000, 2000), (10_000, 1000, 1000)]),
            (
                "ahead for a moment",
                &[(0, 0, 0), (1000, HOUR, 0), (2000, 0, 0), (3000, HOUR, 0), (wait + 2999, HOUR, 0)],
            ),
            ("ahead from then on", &[(0, 0, 0), (1000, HOUR, 0), (wait + 999, HOUR, 0), (wait + 1000, HOUR, HOUR)]),
            ("further ahead", &[(0, 0, 0), (1000, HOUR, 0), (9000, 2 * HOUR, 0), (wait + 8999, 2 * HOUR, 0)]),
            ("not as far", &[(0, 0, 0), (1000, 2 * HOUR, 0), (9000, HOUR, 0), (wait + 9000, HOUR, HOUR)]),
            ("behind for a moment", &[(0, 0, 0), (1000, -HOUR, -HOUR), (2000, 0, 0)]),
            (
                "behind from then on",
                &[(0, 0, 0), (1000, -HOUR, -HOUR), (wait + 1000, -HOUR, -HOUR), (wait + 2000, 0, -HOUR)],
            ),
        ];
        for (name, looks) in rows {
            let mut believed = Believed::default();
            let wall = |steady: u64, ahead: i64| WallTime((10 * HOUR as u64 + steady).saturating_add_signed(ahead));
            for &(steady, ahead, want) in *looks {
                let now = Moment { wall: wall(steady, ahead), steady: Millis(steady) };
                assert_eq!(believed.look(now), wall(steady, want), "{name}: after {steady} ms");
            }
        }
    }
}
