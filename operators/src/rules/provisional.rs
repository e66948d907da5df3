//! Speaking before a window closes: conditions that more events can only meet are tested as partials arrive.
//!
//! Only measures that grow (count, distinct, sum) without baseline are tested; of others [`super::finals`] speaks. A key is tested when a partial touches it,
//! and only while all it has in open windows could be enough. What the windows that hold the touched pane come to is told by
//! the running window and the rows behind it, so a look costs the panes of the allowed lateness, not those of a window;
//! all rows near are looked at when a key is said. What is said here is provisional: closing the
//! window says it again, or `episodes` withdraws it. A key's value grows on until its windows close: within a window's
//! length it is said again each time it is twice what was said last, so never more often than a number has bits. Of one rule and
//! window `max_findings` keys are said at most, those that came first: which are the strongest, closing tells.

use super::Finding;
use super::evidence::EVIDENCE;
use super::keys::KeyBytes;
use super::measured::Prefix;
use super::panes::{PaneStore, Touched};
use super::partials::PanePartials;
use super::plan::Condition;
use super::versions::Version;
use std::ops::Range;
use tidewatch_events::rule::Measure;

/// How many times the value that was said last is said too.
const SAID_AGAIN_AT: f64 = 2.0;

/// A key that was said is looked at again where the bound of its value is so many times what it was at the last look: to unite
/// the same distinct values at each message would be work that whoever sends them chooses.
const LOOKED_AGAIN_AT: f64 = 1.25;

/// What was said last of a key's windows that are not closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    /// End of the last window, ms.
    end: u64,
    /// The value, in the measure's unit.
    value: f64,
    /// What the value could have been when the key was last looked at.
    bound: f64,
    /// Whether it was told: there may have been enough others.
    told: bool,
}

impl Said {
    fn is_far_below(self, value: f64) -> bool {
        value > self.value && value >= SAID_AGAIN_AT * self.value
    }
}

impl PaneStore {
    /// Adds a message, and says what its windows come to, unless its pane, or some that they hold, ends by `past` (ms) and is
    /// set aside: an alert would fire by a part of it. Whether there is something that [`PaneStore::speak`] must say.
    pub fn merge_speaking(&mut self, partials: PanePartials, past: u64, out: &mut Vec<Finding>) -> bool {
        let (reach, hop) = (self.reach(partials.pane), self.plan().hop);
        // What waits for these is of the present, and waits for nothing but them.
        let of_past = reach.start..reach.end.min(past.saturating_add(1).saturating_sub(hop));
        let waits = partials.pane.saturating_add(hop) <= past
            || (self.speaks_early() && !of_past.is_empty() && self.sets_aside(&of_past));
        if waits {
            self.merge(partials);
            return true;
        }
        if self.speaks_early() && self.sets_aside(&reach) {
            self.merge_deferred(reach.start..=reach.end - 1);
        }
        self.merge_testing(partials, out);
        false
    }

    /// Adds a message, and says where a condition holds now in a window that is not closed: the earliest such window of the
    /// key that holds the touched pane. Said once per rule, key and window's length, and again where the value has doubled.
    pub fn merge_testing(&mut self, partials: PanePartials, out: &mut Vec<Finding>) {
        if !self.speaks_early() {
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

    /// Says where conditions hold now in windows that are not closed, of what was only merged when it came.
    pub fn speak(&mut self, out: &mut Vec<Finding>) {
        if !self.speaks_early() {
            return;
        }
        let (from, least, mut near) = (out.len(), self.least_held(), Vec::new());
        for (pane, slot, row) in self.waiting_rows(least) {
            self.test(slot, row, pane, &mut near, out);
        }
        out[from..].sort_unstable_by(|a, b| (a.end, a.rule, &a.key).cmp(&(b.end, b.rule, &b.key)));
    }

    /// Whether any condition is one that more events can only meet.
    fn speaks_early(&self) -> bool {
        self.versions().iter().any(|version| !self.plan().may_uncross(&version.condition))
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

    /// What windows hold that hold `pane`, ms.
    fn reach(&self, pane: u64) -> Range<u64> {
        let (window, hop) = (self.plan().window, self.plan().hop);
        (pane + hop).saturating_sub(window)..pane + window
    }

    /// Tests the windows of a key that hold `pane`, of which `row` is its row. `near` is room for numbers of rows.
    fn test(&mut self, slot: u32, row: u32, pane: u64, near: &mut Vec<u32>, out: &mut Vec<Finding>) {
        let reach = self.reach(pane);
        let first = self.slide(slot, row, &reach);
        let (events, most) = self.at_most(&first, reach.end);
        let mut all = None;
        near.clear();
        for index in 0..self.versions().iter().count() {
            let Some(version) = self.versions().iter().nth(index).copied() else { continue };
            let condition = &version.condition;
            if self.plan().may_uncross(condition) {
                continue;
            }
            let said = self.said(slot, condition.rule).filter(|said| said.end > reach.start);
            let is_news = |value: f64| said.is_none_or(|said| said.is_far_below(value));
            let is_enough = |n: u64, value: f64| condition.reached(n, value, None).is_some() && is_news(value);
            if !is_enough(events, most) {
                continue;
            }
            let mut bound = None;
            if let Some(said) = said {
                let now = self.gather(row, &reach, near);
                if !said.is_far_below(now) || now < LOOKED_AGAIN_AT * said.bound {
                    continue;
                }
                self.say(slot, condition.rule, Said { bound: now, ..said });
                bound = Some(now);
            }
            let all = *all.get_or_insert_with(|| {
                let mut all = self.slide(slot, row, &reach);
                self.slide_to(&mut all, 0, reach.end);
                self.value_of(&all)
            });
            if !is_enough(events, all) {
                continue;
            }
            let Some(start) = self.first_window((slot, row, pane), &version, is_enough) else { continue };
            let bound = bound.unwrap_or_else(|| self.gather(row, &reach, near));
            if let Some(found) = self.test_window(slot, condition, start, near) {
                let end = said.map_or(found.end, |said| said.end.max(found.end));
                let told = said.map_or_else(|| self.may_tell(condition.rule, start), |said| said.told);
                self.say(slot, condition.rule, Said { end, value: found.value, bound, told });
                out.extend(told.then_some(found));
            }
        }
    }

    /// Looks up the rows of a key between these times, of which `row` is one, and bounds what any window comes to with them.
    fn gather(&self, row: u32, between: &Range<u64>, near: &mut Vec<u32>) -> f64 {
        if near.is_empty() {
            near.extend(self.rows_around(row, between.start, between.end).map(|(number, _)| number));
        }
        self.most_in_a_window(near)
    }

    /// The start of the first window that is not closed, that holds `pane`, a key's `row`, and that a version judges, in which
    /// there is enough.
    fn first_window(
        &self,
        (slot, row, pane): (u32, u32, u64),
        version: &Version,
        is_enough: impl Fn(u64, f64) -> bool,
    ) -> Option<u64> {
        let (window, hop, closed) = (self.plan().window, self.plan().hop, self.closed_end());
        let open = if closed >= window { closed - window + hop } else { 0 };
        let first = (pane + hop).saturating_sub(window);
        let mut start = first.max(open).max(version.from.checked_next_multiple_of(hop)?);
        let mut slide = self.slide(slot, row, &(first..pane + window));
        while start <= pane && version.holds_for(start) {
            self.slide_to(&mut slide, start, start + window);
            if is_enough(slide.n, self.value_of(&slide)) {
                return Some(start);
            }
            // There is more in no later window, but where a row enters.
            start = (self.enters_next(&slide)? + hop).saturating_sub(window).max(start + hop);
        }
        None
    }

    /// An upper bound of the measure in any window, of rows in order of their panes.
    fn most_in_a_window(&self, rows: &[u32]) -> f64 {
        let (mut most, mut whole, mut first) = (0, 0, 0);
        let part = |number: u32| self.measured().whole(number, self.row_at(number).n);
        for number in rows {
            whole += part(*number);
            while self.row_at(rows[first]).pane + self.plan().window <= self.row_at(*number).pane {
                whole -= part(rows[first]);
                first += 1;
            }
            most = most.max(whole);
        }
        self.measured().in_unit(self.plan(), most)
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

#[cfg(test)]
#[path = "provisional_tests.rs"]
mod tests;
