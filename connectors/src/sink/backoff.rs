//! How long to wait before the next attempt: a pure function of the attempt.

use std::time::Duration;
use tidewatch_events::hash;

/// Exponential waiting times with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure, before jitter.
    pub first: Duration,
    /// No wait is longer, unless the destination asks for more.
    pub most: Duration,
}

/// The longest wait a destination is granted: an absurd `Retry-After` must not stop a sink for days.
const MOST_ASKED: Duration = Duration::from_secs(600);

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { first: Duration::from_millis(250), most: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait after the `attempt`-th failure in a row (from 1): doubled each time up to `most`, then between half of that
    /// and all of it, as `seed` decides; at least what the destination `asked` for.
    pub fn delay(&self, attempt: u32, seed: u64, asked: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1u32 << attempt.saturating_sub(1).min(20)).min(self.most);
        let share = hash::seeded(&attempt.to_le_bytes(), seed) as f64 / u64::MAX as f64;
        let own = doubled.mul_f64(0.5 + share / 2.0).min(self.most);
        asked.map_or(own, |asked| own.max(asked.min(MOST_ASKED)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let backoff = Backoff::default();
        let seconds = Duration::from_secs;
        let rows: &[(&str, u32, Option<Duration>, Duration, Duration)] = &[
            ("first", 1, None, Duration::from_millis(125), Duration::from_millis(250)),
            ("second", 2, None, Duration::from_millis(250), Duration::from_millis(500)),
            ("eighth", 8, None, seconds(15), seconds(30)),
            ("last", u32::MAX, None, seconds(15), seconds(30)),
            ("asked for less", 8, Some(seconds(1)), seconds(15), seconds(30)),
            ("asked for more", 1, Some(seconds(60)), seconds(60), seconds(60)),
            ("asked for a year", 1, Some(seconds(31_536_000)), MOST_ASKED, MOST_ASKED),
        ];
        for (name, attempt, asked, least, most) in rows {
            for seed in 0..50 {
                let delay = backoff.delay(*attempt, seed, *asked);
                assert!((*least..=*most).contains(&delay), "{name}: {delay:?}");
                assert_eq!(delay, backoff.delay(*attempt, seed, *asked), "{name}");
            }
        }
        let differ = (0..50).map(|seed| backoff.delay(3, seed, None)).collect::<std::collections::BTreeSet<_>>();
        assert!(differ.len() > 25, "senders with different seeds do not come back together");
    }
}
