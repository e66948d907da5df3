//! Baselines: what is usual for a key, from its own earlier windows (docs/RULES.md, "Baseline").
//!
//! A window takes part once it is closed by another's start; until then it waits. Windows are noted and asked for in
//! order of time.

use super::keys::KeyBytes;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// How much a new window weighs.
const NEW: f64 = 0.1;
/// How much what was usual before weighs.
const OLD: f64 = 0.9;

/// The baselines of the keys of one condition.
#[derive(Debug, Default)]
pub struct Baselines {
    keys: HashMap<KeyBytes, Baseline>,
    max_keys: usize,
}

/// What is usual for one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    value: Option<f64>,
    /// (when its window is closed, ms; the window's value), in order.
    waiting: VecDeque<(u64, f64)>,
}

impl Baseline {
    /// Notes a window that will be closed at `closed_at`.
    pub fn note(&mut self, closed_at: u64, value: f64) {
        self.waiting.push_back((closed_at, value));
    }

    /// The baseline for a window that starts at `start`; `None`: no earlier window.
    pub fn at(&mut self, start: u64) -> Option<f64> {
        while let Some((_, value)) = self.waiting.pop_front_if(|(closed_at, _)| *closed_at <= start) {
            self.value = Some(self.value.map_or(value, |usual| OLD * usual + NEW * value));
        }
        self.value
    }
}

impl Baselines {
    /// None yet; at most `max_keys` keys will have one, by order of arrival.
    pub fn new(max_keys: usize) -> Baselines {
        Baselines { keys: HashMap::new(), max_keys }
    }

    /// The baseline of a key for a window that starts at `start`.
    pub fn at(&mut self, key: &[u8], start: u64) -> Option<f64> {
        self.keys.get_mut(&KeyBytes::new(key))?.at(start)
    }

    /// Notes a window of a key. Says whether there was room.
    pub fn note(&mut self, key: &[u8], closed_at: u64, value: f64) -> bool {
        let key = KeyBytes::new(key);
        let room = self.keys.len() < self.max_keys;
        match self.keys.get_mut(&key) {
            Some(baseline) => baseline.note(closed_at, value),
            None if room => self.keys.entry(key).or_default().note(closed_at, value),
            None => return false,
        }
        true
    }

    /// Every key and its baseline, to be recorded.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Baseline)> {
        self.keys.iter().map(|(key, baseline)| (key.as_bytes(), baseline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_once_it_is_closed() {
        let mut baseline = Baseline::default();
        baseline.note(110, 10.0);
        baseline.note(120, 20.0);
        let rows: &[(&str, u64, Option<f64>)] = &[
            ("before any is closed", 109, None),
            ("at the closing of the first", 110, Some(10.0)),
            ("before the second", 119, Some(10.0)),
            ("at the second", 120, Some(0.9 * 10.0 + 0.1 * 20.0)),
            ("later", 500, Some(0.9 * 10.0 + 0.1 * 20.0)),
        ];
        for (name, start, want) in rows {
            assert_eq!(baseline.at(*start), *want, "{name}");
        }
        let mut all = Baselines::new(1);
        assert!(all.note(b"a", 1, 1.0) && all.note(b"a", 2, 1.0) && !all.note(b"b", 1, 1.0));
    }
}
