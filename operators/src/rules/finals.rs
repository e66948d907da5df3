//! Speaking when a window is final: conditions that more events may undo are tested once its end has passed.
//!
//! Averages, quantiles, ratios, numbers of dark paths and what is compared with a baseline may fall while a window fills, so
//! nothing is said of them then ([`super::provisional`]), and closing would say it only after the allowed lateness. A plan with
//! such a condition has a second store that takes the same messages and allows no lateness: its windows close as soon as the
//! frontier has passed their ends, and what is found leaves at once. That is provisional: closing says it again, or `episodes`
//! withdraws it. Late events do not come here, closing counts them.
//!
//! Invariants
//! - Without late events what is said of a window is what its closing says, of each rule and window the strongest on its
//!   worker. Nothing is said of a window of which something is missing here: it found no room, or came before the store did.
//! - What is usual for a key is what the first store has learnt; here nothing is.
//! - A window is spoken of once, and not after it has closed.

use super::closed::ClosedRow;
use super::crowd::strongest;
use super::dark::DarkCounts;
use super::panes::PaneStore;
use super::partials::PanePartials;
use super::versions::{Reload, Version};
use super::{Finding, Limits, Missed};
use crate::traffic::streams::Early;
use tidewatch_events::rule::Measure;

/// Which part of the rows that windows may take until they close they may take until they are final, too.
pub(super) const SHARE: usize = 4;

/// The stores of one worker for windows that are final.
pub(super) struct Finals {
    limits: Limits,
    /// Whether anything is said before windows close.
    speak_early: bool,
    /// By plan.
    stores: Vec<Option<FinalStore>>,
    /// Findings of windows of which nothing is to be told yet.
    hushed: Vec<Finding>,
}

/// How far time has come, ms; at the end of all input both are `u64::MAX`.
#[derive(Clone, Copy)]
pub(super) struct Reached {
    /// The frontier: everything before it is there.
    pub frontier: u64,
    /// What is at or before this is there too.
    pub passed: u64,
}

/// That of one plan.
struct FinalStore {
    panes: PaneStore,
    /// Of windows that start before this (ms) something is missing.
    whole_from: u64,
    /// What was missed by then.
    missed: Missed,
}

impl Finals {
    /// Those that are needed beside the first stores; none where nothing is said early.
    pub fn new(first: &[PaneStore], limits: Limits, speak_early: bool) -> Finals {
        let limits = Limits { max_rows: limits.max_rows / SHARE, ..limits };
        let stores = first.iter().map(|_| None).collect();
        let mut finals = Finals { limits, speak_early, stores, hushed: Vec::new() };
        finals.open(first);
        finals
    }

    /// Opens stores for plans that need one and have none.
    fn open(&mut self, first: &[PaneStore]) {
        for (own, first) in self.stores.iter_mut().zip(first) {
            if self.speak_early && own.is_none() && needs_one(first) {
                let panes = PaneStore::of_final(first, self.limits);
                // What is read again after a restart is late here: time goes on where the earlier life stood, up to the lateness
                // beyond the last window that it closed.
                let lateness = self.limits.allowed_lateness.0;
                let again =
                    Some(first.closed_end()).filter(|end| *end > 0).map_or(0, |end| end.saturating_add(lateness));
                let whole_from = first.newest_end().max(again);
                *own = Some(FinalStore { panes, whole_from, missed: Missed::default() });
            }
        }
    }

    /// Adds a message that the first store of its plan gets too.
    pub fn merge(&mut self, partials: &PanePartials) {
        if let Some(own) = &mut self.stores[partials.plan as usize] {
            own.merge(partials);
        }
    }

    /// Adds changes of numbers of dark paths in windows that are final.
    pub fn merge_dark(&mut self, counts: &DarkCounts) {
        if let Some(own) = &mut self.stores[counts.plan as usize] {
            own.panes.merge_dark(counts);
        }
    }

    /// Takes a change of rules that the first stores have taken.
    pub fn change(&mut self, reload: &Reload, first: &[PaneStore]) {
        self.stores.iter_mut().flatten().for_each(|own| own.panes.change(reload));
        self.open(first);
    }

    /// Says what windows came to that end at or before the frontier and have not closed; the first stores have closed all that
    /// do by then. Numbers of dark paths come at the tick at which a window ends, so these wait until it has `passed`.
    pub fn close(&mut self, reached: Reached, first: &[PaneStore], signal: &Early, out: &mut Vec<Finding>) {
        let lateness = self.limits.allowed_lateness.0;
        let is_open = |end: u64| reached.passed != u64::MAX && end.saturating_add(lateness) > reached.passed;
        for (own, first) in self.stores.iter_mut().zip(first) {
            let Some(store) = own else { continue };
            if reached.passed == u64::MAX || !needs_one(first) {
                *own = None;
                continue;
            }
            let is_dark = matches!(first.plan().measure, Measure::DarkPaths { .. });
            let reached = if is_dark { reached.passed } else { reached.frontier };
            let mut rows = Vec::new();
            while let Some(end) = store.close_next(reached, &mut rows) {
                if is_open(end) {
                    let to = if signal.is_hushed(end) { &mut self.hushed } else { &mut *out };
                    store.tell(end, &mut rows, first, self.limits.max_findings, to);
                }
                rows.clear();
            }
            store.panes.pass(reached);
        }
        self.hushed.retain(|finding| is_open(finding.end));
        if signal.speaks() {
            out.append(&mut self.hushed);
        }
    }

    /// Rows kept, and distinct values.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.stores.iter().flatten().map(|own| own.panes.kept()).sum()
    }
}

impl FinalStore {
    fn merge(&mut self, partials: &PanePartials) {
        let is_late = partials.pane.saturating_add(self.panes.plan().hop) <= self.panes.closed_end();
        if !is_late {
            self.panes.merge(partials.clone());
            self.look_what_is_missing(partials.pane.saturating_add(self.panes.plan().hop));
        }
    }

    fn close_next(&mut self, reached: u64, rows: &mut Vec<ClosedRow>) -> Option<u64> {
        let end = self.panes.close_next(reached, rows)?;
        self.look_what_is_missing(end);
        Some(end)
    }

    /// What found no room was of a pane that ends at or before `end` (ms), or of one that is kept.
    fn look_what_is_missing(&mut self, end: u64) {
        let missed = self.panes.missed();
        if missed != self.missed {
            self.missed = missed;
            self.whole_from = self.panes.newest_end().max(end);
        }
    }

    /// Says what the rows of the window that ends at `end` came to.
    fn tell(&self, end: u64, rows: &mut [ClosedRow], first: &PaneStore, most: usize, out: &mut Vec<Finding>) {
        let plan = self.panes.plan();
        let Some(start) = end.checked_sub(plan.window).filter(|start| *start >= self.whole_from) else { return };
        for Version { condition, .. } in self.panes.versions().at(start).filter(|v| plan.may_uncross(&v.condition)) {
            let found = rows.iter_mut().filter_map(|row| {
                if condition.baseline_factor.is_some() {
                    let usual = first.usual(condition.rule, row.key.as_bytes(), start);
                    row.usual.extend(usual.map(|usual| (condition.rule, usual)));
                }
                row.finding(condition)
            });
            let mut found: Vec<Finding> = found.collect();
            strongest(&mut found, most);
            found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            out.append(&mut found);
        }
    }
}

/// Whether a plan has, or may get without having been off, a condition of which nothing is said while windows fill. Numbers
/// of dark paths are told as changes, so theirs must be there from the beginning.
fn needs_one(first: &PaneStore) -> bool {
    let plan = first.plan();
    let may_uncross = || first.versions().iter().any(|version| plan.may_uncross(&version.condition));
    !plan.only_exempt && (matches!(plan.measure, Measure::DarkPaths { .. }) || may_uncross())
}

#[cfg(test)]
#[path = "finals_tests.rs"]
mod tests;
