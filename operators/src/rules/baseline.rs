//! Baselines: what is usual for a key, from its own earlier windows (docs/RULES.md, "Baseline").
//!
//! A window takes part once it is closed by another's start; until then it waits. Windows are noted and asked for in
//! order of time.

use super::keys::KeyBytes;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// How much a new window weighs, and what was usual before.
const NEW: (f64, f64) = (0.1, 0.9);
/// The same where the window is a finding: what goes on for long is the new usual.
const NEW_FINDING: (f64, f64) = (0.01, 0.99);

/// What a window says of what is usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said {
    value: f64,
    /// Where nothing is known of the key yet.
    first: f64,
    weights: (f64, f64),
}

impl Said {
    /// Of a window that is no finding.
    pub fn calm(value: f64) -> Said {
        Said { value, first: value, weights: NEW }
    }

    /// Of a finding: its limit, however far above that it was. The first one says no more than what would have had that
    /// limit.
    pub fn finding(limit: f64, factor: f64) -> Said {
        Said { value: limit, first: limit / factor, weights: NEW_FINDING }
    }

    fn after(self, usual: Option<f64>) -> f64 {
        let (new, old) = self.weights;
        usual.map_or(self.first, |usual| old * usual + new * self.value)
    }
}

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
    /// When its window is closed, ms, and what it says; in order.
    waiting: VecDeque<(u64, Said)>,
}

impl Baseline {
    /// Notes a window that will be closed at `closed_at`.
    pub fn note(&mut self, closed_at: u64, said: Said) {
        self.waiting.push_back((closed_at, said));
    }

    /// The baseline for a window that starts at `start`; `None`: no earlier window.
    pub fn at(&mut self, start: u64) -> Option<f64> {
        while let Some((_, said)) = self.waiting.pop_front_if(|(closed_at, _)| *closed_at <= start) {
            self.value = Some(said.after(self.value));
        }
        self.value
    }

    /// The same for a window that is not asked for in order of time.
    pub fn peek(&self, start: u64) -> Option<f64> {
        let closed = self.waiting.iter().take_while(|(closed_at, _)| *closed_at <= start);
        closed.fold(self.value, |usual, (_, said)| Some(said.after(usual)))
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

    /// The same, out of order: windows that start earlier may be asked for later.
    pub fn peek(&self, key: &[u8], start: u64) -> Option<f64> {
        self.keys.get(&KeyBytes::new(key))?.peek(start)
    }

    /// Notes a window of a key. Says whether there was room.
    pub fn note(&mut self, key: &[u8], closed_at: u64, said: Said) -> bool {
        let key = KeyBytes::new(key);
        let room = self.keys.len() < self.max_keys;
        match self.keys.get_mut(&key) {
            Some(baseline) => baseline.note(closed_at, said),
            None if room => self.keys.entry(key).or_default().note(closed_at, said),
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
    use super::super::plan::Condition;
    use super::*;

    #[test]
    fn a_window_counts_once_it_is_closed() {
        let mut baseline = Baseline::default();
        baseline.note(110, Said::calm(10.0));
        baseline.note(120, Said::calm(20.0));
        baseline.note(130, Said::finding(33.0, 3.0));
        let rows: &[(&str, u64, Option<f64>)] = &[
            ("before any is closed", 109, None),
            ("at the closing of the first", 110, Some(10.0)),
            ("before the second", 119, Some(10.0)),
            ("at the second", 120, Some(0.9 * 10.0 + 0.1 * 20.0)),
            ("a finding weighs less, and as its limit", 130, Some(0.99 * 11.0 + 0.01 * 33.0)),
            ("later", 500, Some(0.99 * 11.0 + 0.01 * 33.0)),
        ];
        for (name, start, want) in rows {
            assert_eq!(baseline.clone().peek(*start), *want, "{name}: ahead of time");
        }
        for (name, start, want) in rows {
            assert_eq!((baseline.peek(*start), baseline.at(*start)), (*want, *want), "{name}");
        }
        let mut all = Baselines::new(1);
        let first = Said::finding(6.0, 3.0);
        assert!(all.note(b"a", 1, first) && all.note(b"a", 2, Said::calm(2.0)) && !all.note(b"b", 1, first));
        assert_eq!(all.at(b"a", 1), Some(2.0), "a first finding says as much as would have had its limit");
    }

    #[test]
    fn a_slow_rise_is_found_and_what_stays_is_usual() {
        // The conditions of `error-surge`; a window of a minute is known two minutes after its end.
        let condition =
            Condition { rule: 0, threshold: 0.05, baseline_factor: Some(3.0), ceiling: Some(0.15), at_least: 50 };
        let found = |share: fn(u64) -> f64| -> Vec<u64> {
            let mut baseline = Baseline::default();
            let mut found = Vec::new();
            for minute in 0..1440 {
                let reached = condition.reached(100, share(minute), baseline.at(minute));
                let said = reached.map_or(Said::calm(share(minute)), |limit| Said::finding(limit, 3.0));
                baseline.note(minute + 3, said);
                found.extend(reached.map(|_| minute));
            }
            found
        };
        type Row = (&'static str, fn(u64) -> f64, Option<(u64, u64)>);
        let rows: &[Row] = &[
            ("1 % to 60 % in a day: at 15 %", |m| 0.01 + 0.59 * m as f64 / 1440.0, Some((342, 1439))),
            ("8 % from the beginning: half an hour", |_| 0.08, Some((0, 28))),
            ("8 % after 1 %: three quarters of an hour", |m| if m < 300 { 0.01 } else { 0.08 }, Some((300, 345))),
            ("14 % after 1 %", |m| if m < 300 { 0.01 } else { 0.14 }, Some((300, 375))),
            ("20 %: as long as it lasts", |_| 0.2, Some((0, 1439))),
            ("a surge of three hours", |m| if (300..480).contains(&m) { 0.4 } else { 0.01 }, Some((300, 479))),
            ("4 % is less than the threshold", |_| 0.04, None),
        ];
        for (name, share, want) in rows {
            let found = found(*share);
            assert_eq!(found.first().copied().zip(found.last().copied()), *want, "{name}");
            assert!(want.is_none_or(|(first, last)| found.len() as u64 == last - first + 1), "{name}: with gaps");
        }
    }
}
