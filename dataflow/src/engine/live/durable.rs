//! How far results and dead letters are durable: what all of has left the dataflow, in which step the last of it went to
//! the sinks, and which steps every sink has acknowledged.
//!
//! Points come at the end of one chain of operators, findings and alerts at the end of another, which may lag behind.
//!
//! Invariants
//! - A window is durable once no tick at which it closes may come any more, from neither chain: only then are all of its
//!   points, findings and alerts in steps.
//! - What is durable never goes back.

use super::super::dead_letters::Counts;
use std::collections::VecDeque;

/// Of how many steps it is known which dead letters were in each: while sinks are away for long there are ever more.
const STEPS: usize = 1024;

/// How far all of has left the dataflow, and which steps carry it.
#[derive(Debug)]
pub struct Durable {
    /// How long after its end a window closes, ms.
    lateness: u64,
    /// Size of the windows whose ends may be made durable, ms.
    size: u64,
    /// The least tick that may still come, of points and of findings; 0 until something was said.
    points: u64,
    findings: u64,
    /// The lesser of them when a step was last offered.
    noted: u64,
    /// What was reached when alerts were still away for their lines: how many of them must be back first.
    held: VecDeque<(u64, u64)>,
    /// Steps that carried the end of something, and what is durable once they are acknowledged.
    waiting: VecDeque<(u64, u64)>,
    /// Dead letters of the next step, and of those that are not acknowledged.
    letters: Counts,
    unkept: VecDeque<(u64, Counts)>,
}

impl Durable {
    /// Of windows of this size (ms), which close so long after their end.
    pub fn new(size: u64, lateness: u64) -> Durable {
        Durable {
            lateness,
            size: size.max(1),
            points: 0,
            findings: 0,
            noted: 0,
            held: VecDeque::new(),
            waiting: VecDeque::new(),
            letters: Counts::new(),
            unkept: VecDeque::new(),
        }
    }

    /// All points of windows that close before this tick have come; `None`: all there will ever be.
    pub fn reach(&mut self, tick: Option<u64>) {
        self.points = self.points.max(tick.unwrap_or(u64::MAX));
    }

    /// The same of findings.
    pub fn judge(&mut self, tick: Option<u64>) {
        self.findings = self.findings.max(tick.unwrap_or(u64::MAX));
    }

    /// So many dead letters of a worker have come.
    pub fn count(&mut self, worker: usize, letters: usize) {
        *self.letters.entry(worker).or_default() += letters as u64;
    }

    /// What has come so far is in steps up to `seq`, but for alerts that are away: `given` ever were, `returned` are back.
    pub fn offered(&mut self, seq: u64, (given, returned): (u64, u64)) {
        if !self.letters.is_empty() {
            if self.unkept.len() == STEPS
                && let Some((_, before)) = self.unkept.pop_back()
            {
                add(&mut self.letters, before);
            }
            self.unkept.push_back((seq, std::mem::take(&mut self.letters)));
        }
        let reached = self.points.min(self.findings);
        if reached > self.noted {
            self.noted = reached;
            self.held.push_back((given, reached));
        }
        while let Some((_, reached)) = self.held.pop_front_if(|(given, _)| *given <= returned) {
            // The tick itself may still come: what closes at it is not all there.
            let ended = reached.saturating_sub(self.lateness.saturating_add(1));
            self.waiting.push_back((seq, ended - ended % self.size));
        }
    }

    /// Steps up to `seq` are acknowledged: the dead letters in them that were not before.
    pub fn kept(&mut self, seq: u64) -> Counts {
        let mut kept = Counts::new();
        while let Some((_, letters)) = self.unkept.pop_front_if(|(step, _)| *step <= seq) {
            add(&mut kept, letters);
        }
        kept
    }

    /// Steps up to `seq` are acknowledged: the event time (ms) up to which windows are durable, where that moves.
    pub fn acknowledged(&mut self, seq: u64) -> Option<u64> {
        let mut durable = None;
        while let Some((_, ended)) = self.waiting.pop_front_if(|(step, _)| *step <= seq) {
            durable = Some(ended);
        }
        durable
    }
}

fn add(to: &mut Counts, more: Counts) {
    more.into_iter().for_each(|(worker, count)| *to.entry(worker).or_default() += count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_durable_once_nothing_of_it_may_come_any_more() {
        // Windows of 10 s that close 20 s after their end; points and findings have come before these ticks.
        let rows: &[(&str, Option<u64>, Option<u64>, Option<u64>)] = &[
            ("its closing tick may come", Some(30_000), Some(30_000), Some(0)),
            ("it has passed", Some(30_100), Some(30_100), Some(10_000)),
            ("of points alone", Some(30_100), Some(30_000), Some(0)),
            ("of findings alone", Some(30_000), Some(30_100), Some(0)),
            ("before the next closes", Some(40_000), Some(39_900), Some(10_000)),
            ("no time has passed", Some(100), Some(100), Some(0)),
            ("the end of points", None, Some(40_100), Some(20_000)),
            ("the end of findings", Some(40_100), None, Some(20_000)),
            ("the end", None, None, Some((u64::MAX - 20_001) / 10_000 * 10_000)),
        ];
        for (name, points, findings, want) in rows {
            let mut durable = Durable::new(10_000, 20_000);
            durable.reach(*points);
            durable.offered(1, (0, 0));
            assert_eq!(durable.acknowledged(1), None, "{name}: nothing is known of findings");
            durable.judge(*findings);
            durable.offered(2, (0, 0));
            assert_eq!(durable.acknowledged(1), None, "{name}: not acknowledged");
            assert_eq!(durable.acknowledged(2), *want, "{name}");
            assert_eq!(durable.acknowledged(2), None, "{name}: once");
        }
    }

    #[test]
    fn letters_are_kept_with_their_steps() {
        let mut durable = Durable::new(10, 0);
        let counts = |rows: &[(usize, u64)]| rows.iter().copied().collect::<Counts>();
        durable.count(0, 2);
        durable.count(1, 1);
        durable.count(0, 1);
        assert_eq!(durable.kept(9), counts(&[]), "not offered");
        durable.offered(1, (0, 0));
        durable.offered(2, (0, 0));
        durable.count(0, 5);
        durable.offered(3, (0, 0));
        assert_eq!(durable.kept(0), counts(&[]));
        assert_eq!(durable.kept(2), counts(&[(0, 3), (1, 1)]));
        assert_eq!(durable.kept(3), counts(&[(0, 5)]));
        assert_eq!(durable.kept(3), counts(&[]), "once");
        let last = 10 + 2 * STEPS as u64;
        for seq in 10..=last {
            durable.count(0, 1);
            durable.offered(seq, (0, 0));
        }
        assert_eq!(durable.unkept.len(), STEPS, "bounded, however long nothing is acknowledged");
        assert_eq!(durable.kept(10), counts(&[(0, 1)]));
        assert_eq!(durable.kept(last - 1), counts(&[(0, STEPS as u64 - 2)]));
        assert_eq!(durable.kept(last), counts(&[(0, STEPS as u64 + 2)]), "the newest go together");
    }

    #[test]
    fn alerts_that_are_away_for_their_lines_are_waited_for() {
        let mut durable = Durable::new(10, 0);
        let reach = |durable: &mut Durable, tick| {
            durable.reach(Some(tick));
            durable.judge(Some(tick));
        };
        reach(&mut durable, 100);
        durable.offered(1, (3, 2));
        reach(&mut durable, 200);
        durable.offered(2, (4, 3));
        assert_eq!((durable.acknowledged(1), durable.acknowledged(2)), (None, Some(90)), "the third is in step 2");
        durable.offered(5, (4, 4));
        assert_eq!((durable.acknowledged(4), durable.acknowledged(5)), (None, Some(190)));
    }
}
