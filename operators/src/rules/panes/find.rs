//! What the windows of keys came to: which keys of a window that closes are looked at, and the rows made of them.

use super::{Hot, PaneStore, Slot, Window};
use crate::rules::baseline::Said;
use crate::rules::closed::{ClosedRow, Step};
use crate::rules::measured::Prefix;
use crate::rules::plan::Condition;
use crate::traffic::tick;

impl PaneStore {
    /// Looks at the window's keys: those that changed and those that are hot; all where a baseline takes part of it, after a
    /// change of rules, and in the first window of all, before which none was looked at.
    pub(super) fn find(&mut self, start: u64, end: u64, touched: &[u32], out: &mut Vec<ClosedRow>) {
        let from = out.len();
        let notes = self.learns && self.versions.has_baseline() && start.is_multiple_of(self.plan.window);
        let closes = tick(end.saturating_add(self.limits.allowed_lateness.0));
        let mut changed = false;
        while self.changed.pop_front_if(|from| *from <= closes).is_some() {
            changed = true;
        }
        let window = Window { start, end, closes, floor: self.versions.floor(closes), notes };
        if let Some(sparse) = &mut self.sparse {
            let versions = &self.versions;
            sparse.find(&self.plan, &window, |row| {
                if versions.at(start).any(|version| row.limit(&version.condition).is_some()) {
                    out.push(row);
                }
            });
        }
        let all = notes || changed || start == 0;
        if self.closest.is_some() {
            self.note_closest(&window, touched, all || self.versions.has_baseline());
        }
        if all {
            for slot in 0..self.slots.len() as u32 {
                if self.slots[slot as usize].n > 0 {
                    self.find_of(slot, &window, out);
                }
            }
        } else {
            let mark = end + 1;
            let hot = self.hot.keys().copied().filter(|slot| self.slots[*slot as usize].touched != mark);
            let hot: Vec<u32> = hot.collect();
            for slot in touched.iter().copied().chain(hot) {
                self.find_of(slot, &window, out);
            }
        }
        if all {
            let (slots, is_hot) = (&self.slots, &mut self.is_hot);
            self.hot.retain(|slot, _| {
                is_hot[*slot as usize] = slots[*slot as usize].n > 0;
                is_hot[*slot as usize]
            });
        }
        out[from..].sort_unstable();
    }

    fn find_of(&mut self, slot: u32, window: &Window, out: &mut Vec<ClosedRow>) {
        let Window { start, end, floor, notes, .. } = *window;
        let Slot { n, touched, .. } = self.slots[slot as usize];
        if n == 0 {
            return self.cool(slot);
        }
        let before = if self.is_hot[slot as usize] { self.hot.get(&slot).copied() } else { None };
        let cached = before.filter(|_| touched != end + 1).map(|hot| hot.value);
        let value = cached.or_else(|| {
            let interest = if self.learns && self.versions.has_baseline() { 0.0 } else { floor.value };
            if n < floor.n {
                return None;
            }
            let rows = self.rows_in(slot, end).map(|(row, _)| row as usize);
            self.measured.value(&self.plan, slot, n, rows, interest)
        });
        let reached = value.is_some_and(|value| floor.is_reached(n, value));
        if !reached {
            self.cool(slot);
            if !notes {
                return;
            }
        }
        let Some(value) = value else { return };
        let key = self.slots[slot as usize].key.as_bytes();
        let mut usual = Vec::new();
        for version in self.versions.at(start).filter(|v| self.learns && v.condition.baseline_factor.is_some()) {
            let condition = &version.condition;
            let Some(own) = self.plan.rules.iter().position(|rule| *rule == condition.rule) else { continue };
            let known = self.baselines[own].at(key, start);
            if reached {
                usual.extend(known.map(|known| (condition.rule, known)));
            }
            if notes && n >= condition.at_least {
                let closed_at = end.saturating_add(self.limits.allowed_lateness.0);
                let said = match (condition.reached(n, value, known), condition.baseline_factor) {
                    (Some(limit), Some(factor)) => Said::finding(limit, factor),
                    _ => Said::calm(value),
                };
                if !self.baselines[own].note(key, closed_at, said) {
                    self.missed.values += 1;
                }
            }
        }
        if reached {
            let before = before.filter(|hot| hot.end == end.saturating_sub(self.plan.hop));
            let usual_of = |rule: u32| usual.iter().find(|(own, _)| *own == rule).map(|(_, usual)| *usual);
            let mut versions = self.versions.at(start);
            let finds = |condition: &Condition| {
                let usual = condition.baseline_factor.and_then(|_| usual_of(condition.rule));
                condition.reached(n, value, usual).is_some()
            };
            if self.keeps || versions.any(|version| finds(&version.condition)) {
                out.push(self.row_of(slot, window, value, before, usual));
            }
            self.hot.insert(slot, Hot { n, value, end });
            self.is_hot[slot as usize] = true;
        }
    }

    /// A key did not reach the floor.
    #[inline]
    pub(super) fn cool(&mut self, slot: u32) {
        if std::mem::take(&mut self.is_hot[slot as usize]) {
            self.hot.remove(&slot);
        }
    }

    /// What a window of a key came to; `before`: what the one before it came to, where that reached the floor.
    fn row_of(&self, slot: u32, window: &Window, value: f64, before: Option<Hot>, usual: Vec<(u32, f64)>) -> ClosedRow {
        let owner = &self.slots[slot as usize];
        let rows = self.rows_in(slot, window.end);
        let shown = rows.filter(|(row, _)| self.measured.is_evidence(*row as usize, slot));
        ClosedRow {
            plan: self.plan.number,
            key: owner.key.clone(),
            start: window.start,
            end: window.end,
            closed: window.closes,
            n: owner.n,
            value,
            evidence: shown.take(3).map(|(_, row)| row.origin).collect(),
            steps: self.steps(slot, window, value, before),
            before: before.map(|hot| (hot.n, hot.value)),
            usual,
        }
    }

    /// The steps of a window that may be the first to meet a condition that the window before did not meet.
    fn steps(&self, slot: u32, window: &Window, value: f64, before: Option<Hot>) -> Vec<Step> {
        let rises = |n: u64, value: f64| before.is_none_or(|hot| n > hot.n || value > hot.value);
        if !self.plan.measure.is_monotone() || !rises(self.slots[slot as usize].n, value) {
            return Vec::new();
        }
        let (mut n, mut prefix, mut steps) = (0, Prefix::default(), Vec::new());
        for (number, row) in self.rows_in(slot, window.end) {
            n += row.n;
            let value = self.measured.value_of(&self.plan, n, &mut prefix, number as usize);
            if window.floor.is_reached(n, value) && rises(n, value) {
                steps.push(Step { end: row.pane + self.plan.hop, n, value });
            }
        }
        steps
    }
}
