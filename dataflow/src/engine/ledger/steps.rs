//! Times that go with offsets, a few of them: how lines were judged that a later life reads again.
//!
//! Invariants
//! - They rise, in both.

use std::fmt;

/// At most so many are kept: they go with every commit.
const MOST: usize = 3;

/// Offsets with a time (ms) each, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps([Option<(u64, u64)>; MOST]);

impl Steps {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied().flatten()
    }

    /// Adds one behind the others. Where they are too many, the one goes that is nearest to what comes after it.
    pub fn push(&mut self, offset: u64, time: u64) {
        let time = self.iter().last().map_or(time, |(_, last)| last.max(time));
        let mut all: Vec<_> = self.iter().filter(|step| *step < (offset, time) && step.1 < time).collect();
        all.push((offset, time));
        if all.len() > MOST
            && let Some(nearest) = (0..MOST).min_by_key(|at| all[at + 1].1.saturating_sub(all[*at].1))
        {
            all.remove(nearest);
        }
        *self = all.into_iter().collect();
    }

    /// The time that goes with the first offset behind this one.
    pub fn behind(&self, offset: u64) -> Option<u64> {
        self.iter().find(|(behind, _)| *behind > offset).map(|(_, time)| time)
    }

    /// With other times.
    pub fn map(self, time: impl Fn(u64) -> u64) -> Steps {
        self.iter().map(|(offset, at)| (offset, time(at))).collect()
    }

    /// Reads what is written by `Display`; what cannot be read is left out.
    pub fn parse(text: &str) -> Steps {
        let step = |step: &str| {
            let (offset, time) = step.split_once(':')?;
            Some((offset.parse().ok()?, time.parse().ok()?))
        };
        text.split(',').filter_map(step).collect()
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (offset, time)) in self.iter().enumerate() {
            write!(f, "{}{offset}:{time}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromIterator<(u64, u64)> for Steps {
    /// The last of them.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(steps: I) -> Steps {
        let mut all = Steps::default();
        for step in steps {
            if all.0[MOST - 1].is_some() {
                all.0.rotate_left(1);
                all.0[MOST - 1] = None;
            }
            let free = all.0.iter().position(Option::is_none).unwrap_or(MOST - 1);
            all.0[free] = Some(step);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_kept_as_far_apart_as_can_be() {
        // What is added, what is kept
        let rows: &[(&str, &[(u64, u64)], &str)] = &[
            ("none", &[], ""),
            ("one", &[(7, 100)], "7:100"),
            ("as many as there may be", &[(1, 10), (2, 20), (3, 30)], "1:10,2:20,3:30"),
            ("the first is nearest to the next", &[(1, 10), (2, 15), (3, 30), (4, 90)], "2:15,3:30,4:90"),
            ("the last but one is", &[(1, 10), (2, 30), (3, 85), (4, 90)], "1:10,2:30,4:90"),
            ("at the same time", &[(1, 10), (5, 10)], "5:10"),
            ("by a clock that was set back", &[(1, 10), (5, 8), (6, 12)], "5:10,6:12"),
        ];
        for (name, added, want) in rows {
            let mut steps = Steps::default();
            added.iter().for_each(|(offset, time)| steps.push(*offset, *time));
            assert_eq!(steps.to_string(), *want, "{name}");
            assert_eq!(Steps::parse(want), steps, "{name}");
        }
        let steps = Steps::parse("1:10,x,2:,5:20,:7,8:30,9:40");
        assert_eq!(steps.to_string(), "5:20,8:30,9:40", "what can be read, and the last of it");
        let behind = [0, 4, 5, 8, 9].map(|offset| steps.behind(offset));
        assert_eq!(behind, [Some(20), Some(20), Some(30), Some(40), None]);
    }
}
