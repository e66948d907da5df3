//! Speaking before a window closes: conditions that more events can only meet are tested as partials arrive.
//!
//! Only measures that grow (count, distinct, sum) without baseline are tested. A key is tested when a partial touches it,
//! and only while all it has near the touched pane could be enough. What is said here is provisional: closing the
//! window says it again, or `episodes` withdraws it.

use super::Finding;
use super::evidence::EVIDENCE;
use super::keys::KeyBytes;
use super::local::PanePartials;
use super::measured::Prefix;
use super::panes::{PaneStore, Touched};
use super::plan::Condition;
use tidewatch_events::rule::Measure;

impl PaneStore {
    /// Adds a message, and says where a condition holds now in a window that is not closed: the earliest such window of the
    /// key that holds the touched pane. Said once per rule, key and window's length.
    pub fn merge_testing(&mut self, partials: PanePartials, out: &mut Vec<Finding>) {
        let speaks = self.versions().iter().any(|v| v.condition.baseline_factor.is_none());
        if !self.plan().measure.is_monotone() || !speaks {
            // What arrives piece by piece takes less room merged.
            return self.merge_noting(partials, None);
        }
        let from = out.len();
        let pane = partials.pane;
        let mut touched = Touched { least: self.least_held(), slots: Vec::new() };
        self.merge_noting(partials, Some(&mut touched));
        let mut near = Vec::new();
        for (slot, row) in touched.slots {
            self.test(slot, row, pane, &mut near, out);
        }
        out[from..].sort_unstable_by(|a, b| (a.end, a.rule, &a.key).cmp(&(b.end, b.rule, &b.key)));
    }

    /// With fewer events in all its rows a key cannot meet the condition of any version.
    fn least_held(&self) -> u64 {
        let least = self.versions().least();
        match self.plan().measure {
            Measure::Sum(_) => least.n,
            // A count and a number of distinct values are at most the number of events.
            _ => least.n.max(least.value.ceil() as u64),
        }
    }

    /// Tests the windows of a key that hold `pane`, of which `row` is its row. `near` is room for numbers of rows.
    fn test(&mut self, slot: u32, row: u32, pane: u64, near: &mut Vec<u32>, out: &mut Vec<Finding>) {
        let (window, hop) = (self.plan().window, self.plan().hop);
        let reach = (pane + hop).saturating_sub(window)..pane + window;
        near.clear();
        near.extend(self.rows_around(row, reach.start, reach.end).map(|(number, _)| number));
        for index in 0..self.versions().iter().count() {
            let Some(version) = self.versions().iter().nth(index).copied() else { continue };
            let condition = &version.condition;
            let said = self.said(slot, condition.rule);
            if condition.baseline_factor.is_some() || said.is_some_and(|end| end > reach.start) {
                continue;
            }
            let (events, most) = near.iter().fold((0, 0.0), |(events, most), number| {
                let n = self.row_at(*number).n;
                (events + n, most + self.measured().at_most(self.plan(), n, *number as usize))
            });
            if events < condition.at_least || most < condition.threshold {
                continue;
            }
            let open = self.closed_end().saturating_sub(window) + if self.closed_end() >= window { hop } else { 0 };
            let mut start = reach.start.max(open);
            while start <= pane {
                let found = version.holds_for(start).then(|| self.test_window(slot, condition, start, near)).flatten();
                if let Some(found) = found {
                    self.say(slot, condition.rule, found.end);
                    out.push(found);
                    break;
                }
                start += hop;
            }
        }
    }

    /// Whether a condition holds in the window that starts at `start`, by the rows known so far.
    fn test_window(&self, slot: u32, condition: &Condition, start: u64, near: &[u32]) -> Option<Finding> {
        let (mut n, mut value, mut fired) = (0, 0.0, None);
        let mut prefix = Prefix::default();
        let mut evidence = Vec::with_capacity(EVIDENCE);
        for number in near {
            let row = self.row_at(*number);
            if row.pane < start || row.pane >= start + self.plan().window {
                continue;
            }
            n += row.n;
            value = self.measured().value_of(self.plan(), n, &mut prefix, *number as usize);
            if evidence.len() < EVIDENCE {
                evidence.push(row.origin);
            }
            if fired.is_none() && condition.reached(n, value, None).is_some() {
                fired = Some(row.pane + self.plan().hop);
            }
        }
        Some(Finding {
            rule: condition.rule,
            key: KeyBytes::new(self.key_of(slot)),
            start,
            end: start + self.plan().window,
            n,
            value,
            limit: condition.threshold,
            fired: fired?,
            evidence: evidence.into_iter().collect(),
        })
    }
}
