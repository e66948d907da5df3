//! What a worker does for the keys that it owns: one [`PaneStore`] per plan, what leaves them when windows close, and what is
//! said of windows before that.
//!
//! It knows neither streams nor capabilities: [`super::streams`] gives it messages, says how far time has come, and sends on
//! what it hands out.
//!
//! Invariants
//! - Rows leave in order of the ticks at which their windows close.
//! - What may not be said when it comes, as windows are hushed then, is said once they no longer are, where it still holds.

use super::closed::ClosedRow;
use super::closest::TellClosest;
use super::dark::DarkCounts;
use super::finals::{Finals, Reached};
use super::panes::PaneStore;
use super::partials::PanePartials;
use super::plan::{MeasurePlan, RuleSet};
use super::streams::RuleSettings;
use super::versions::Reload;
use super::{Finding, Missed};
use crate::traffic::streams::Early;
use std::sync::Arc;

/// See the module.
pub(super) struct Owner {
    rules: Arc<RuleSet>,
    /// By plan.
    stores: Vec<PaneStore>,
    finals: Finals,
    speak_early: bool,
    signal: Early,
    /// What is to be said of windows that are not closed.
    early: Vec<Finding>,
    /// Whether there may be something to say that was not said when it came.
    owes: bool,
    /// What was missed when that was asked for last, by plan.
    told: Vec<Missed>,
    closest: Option<TellClosest>,
}

impl Owner {
    /// Of no key yet.
    pub fn new(rules: Arc<RuleSet>, settings: RuleSettings, signal: Early) -> Owner {
        let RuleSettings { limits, speak_early, may_change, resumed, closest, .. } = settings;
        let store = |plan: &MeasurePlan| {
            let mut store = PaneStore::new(plan, limits);
            store.resume(resumed);
            let store = if may_change || speak_early { store } else { store.only_findings() };
            if closest.is_some() && !plan.only_exempt { store.noting_closest() } else { store }
        };
        let stores: Vec<PaneStore> = rules.plans.iter().map(store).collect();
        Owner {
            finals: Finals::new(&stores, limits, speak_early),
            speak_early,
            signal,
            early: Vec::new(),
            owes: false,
            told: vec![Missed::default(); stores.len()],
            stores,
            rules,
            closest,
        }
    }

    /// Adds a message. When the next window of its plan closes, ms.
    pub fn merge(&mut self, partials: PanePartials) -> Option<u64> {
        let (store, plan) = (&mut self.stores[partials.plan as usize], &self.rules.plans[partials.plan as usize]);
        self.finals.merge(&partials);
        if self.speak_early && !plan.only_exempt {
            self.owes |= store.merge_speaking(partials, self.signal.past(), &mut self.early);
        } else {
            store.merge(partials);
        }
        store.next_close()
    }

    /// Adds changes of numbers of dark paths. When the next window of their plan closes, ms, where they are for that.
    pub fn merge_dark(&mut self, counts: &DarkCounts) -> Option<u64> {
        if counts.of_final {
            self.finals.merge_dark(counts);
            return None;
        }
        let store = &mut self.stores[counts.plan as usize];
        store.merge_dark(counts);
        store.next_close()
    }

    /// Takes a change of rules, in the order of their times. When the next window of all closes, ms.
    pub fn change(&mut self, reload: &Reload) -> Option<u64> {
        self.stores.iter_mut().for_each(|store| store.change(reload));
        self.finals.change(reload, &self.stores);
        self.next_close()
    }

    /// When the next window of all closes in which anything may change or be found, ms.
    pub fn next_close(&self) -> Option<u64> {
        self.stores.iter().filter_map(PaneStore::next_close).min()
    }

    /// Closes all windows that close at or before `reached` (ms). What they came to, in order of their closing ticks.
    pub fn close(&mut self, reached: u64) -> Vec<ClosedRow> {
        let mut rows: Vec<ClosedRow> = self.stores.iter_mut().flat_map(|store| store.close(reached)).collect();
        rows.sort_by_key(|row| row.closed);
        rows
    }

    /// Looks for what is to be said of windows that are not closed; all that close by then are.
    pub fn speak(&mut self, reached: Reached) {
        self.finals.close(reached, &self.stores, &self.signal, &mut self.early);
        if self.owes && self.signal.speaks() {
            self.owes = false;
            let may_speak = self.stores.iter_mut().zip(&self.rules.plans).filter(|(_, plan)| !plan.only_exempt);
            may_speak.for_each(|(store, _)| store.speak(&mut self.early));
        }
    }

    /// What is to be said of windows that are not closed, once.
    pub fn said(&mut self) -> impl ExactSizeIterator<Item = Finding> {
        self.early.drain(..)
    }

    /// What could not be counted since this was asked for last, by plan.
    pub fn newly_missed(&mut self) -> impl Iterator<Item = (usize, Missed)> {
        let each = self.stores.iter().zip(&mut self.told).enumerate();
        each.filter_map(|(plan, (store, told))| Some((plan, store.missed().since_told(told)?)))
    }

    /// Says which windows came closest to the conditions, once everything is closed.
    pub fn tell_closest(&mut self) {
        if let Some(tell) = self.closest.take() {
            self.stores.iter_mut().flat_map(PaneStore::take_closest).for_each(|closest| tell(closest));
        }
    }

    /// The stores, by plan.
    #[cfg(test)]
    pub fn stores(&self) -> &[PaneStore] {
        &self.stores
    }
}

#[cfg(test)]
#[path = "owner_tests.rs"]
mod tests;
