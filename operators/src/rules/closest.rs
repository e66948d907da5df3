//! Which window came closest to the condition of a rule, whether it was a finding or not: why a rule did not fire.
//!
//! Asked for beside the results, once all input has ended; where nobody asks, nothing is looked at for it.

use super::keys::KeyBytes;
use std::cmp::Ordering;
use std::sync::Arc;

/// Told of the window that came closest to each condition, as far as one owner of keys knows.
pub type TellClosest = Arc<dyn Fn(Closest) + Send + Sync>;

/// A window of a key, and how far it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Closest {
    /// Position of the rule in the [`super::plan::RuleSet`].
    pub rule: u32,
    /// The key's bytes.
    pub key: KeyBytes,
    /// How far it came.
    pub reach: Reach,
}

/// How far a window came towards a condition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    /// Start of the window, ms.
    pub start: u64,
    /// Its end, ms.
    pub end: u64,
    /// Events of the key in it.
    pub n: u64,
    /// The measure; `None` where no event carries what is measured.
    pub value: Option<f64>,
    /// What the value must reach.
    pub limit: f64,
    /// Whether there are as many events as the condition asks for.
    pub is_enough: bool,
}

impl Reach {
    /// The value where it counts: of enough events.
    pub fn counted(&self) -> Option<f64> {
        self.value.filter(|_| self.is_enough)
    }

    /// The closer one first: by value over limit where there are enough events, else by their number; then the earlier.
    fn order(&self, other: &Reach) -> Ordering {
        let share = |reach: &Reach| reach.counted().map(|value| value / reach.limit);
        let by_value = match (share(self), share(other)) {
            (Some(own), Some(other)) => other.total_cmp(&own),
            (None, None) => other.n.cmp(&self.n),
            (own, other) => other.is_some().cmp(&own.is_some()),
        };
        by_value.then(self.start.cmp(&other.start))
    }

    /// Whether it came closer than another; of equal ones that of the lesser key did.
    pub(super) fn is_closer(&self, key: &[u8], other: &Closest) -> bool {
        self.order(&other.reach).then_with(|| key.cmp(other.key.as_bytes())).is_lt()
    }
}

impl Closest {
    /// Keeps the closer one.
    pub fn merge(&mut self, other: Closest) {
        if other.reach.is_closer(other.key.as_bytes(), self) {
            *self = other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_comes_first() {
        let reach = |start, n, value, limit, is_enough| Reach { start, end: start + 10, n, value, limit, is_enough };
        // From the closest on.
        let rows = [
            ("above its limit", b"b", reach(50, 9, Some(30.0), 20.0, true)),
            ("a lower value against a lower limit", b"b", reach(20, 9, Some(9.0), 10.0, true)),
            ("half way", b"b", reach(10, 5, Some(10.0), 20.0, true)),
            ("as far, of a greater key", b"c", reach(10, 5, Some(5.0), 10.0, true)),
            ("as far, later", b"a", reach(20, 5, Some(10.0), 20.0, true)),
            ("nothing, of enough events", b"a", reach(0, 7, Some(0.0), 20.0, true)),
            ("too few events", b"a", reach(0, 4, Some(40.0), 20.0, false)),
            ("fewer events", b"a", reach(0, 3, Some(50.0), 20.0, false)),
            ("no value", b"a", reach(0, 2, None, 20.0, true)),
        ];
        for (at, (name, key, reach)) in rows.iter().enumerate() {
            for (other_at, (_, key_too, other)) in rows.iter().enumerate() {
                let other = Closest { rule: 0, key: KeyBytes::new(*key_too), reach: *other };
                assert_eq!(reach.is_closer(*key, &other), at < other_at, "{name}, {other_at}");
            }
        }
    }
}
