//! The Timely shells of the rules: they route partials to the owners of their keys and close what the frontier allows.
//!
//! Each holds one capability, at the tick at which the next window in which anything may change is closed: the output
//! frontier stops there, so findings of one window are complete when the frontier has passed its tick.

use super::dark::{DarkCounts, DarkPart, DarkStore};
use super::local::PanePartials;
use super::panes::PaneStore;
use super::plan::RuleSet;
use super::{Finding, Limits};
use crate::traffic::streams::least;
use crate::traffic::tick;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::{Capability, InputCapability};

/// A finding, and whether its window is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The finding.
    pub finding: Finding,
    /// Of a closed window: the truth. Else provisional: what there is so far is enough.
    pub closed: bool,
}

/// Findings of closed windows, from the panes of all workers. With `speak_early` also provisional ones, at once, where
/// more events cannot undo them.
pub fn findings<'s>(
    panes: StreamVec<'s, u64, PanePartials>,
    dark: StreamVec<'s, u64, DarkPart>,
    rules: Arc<RuleSet>,
    limits: Limits,
    speak_early: bool,
) -> StreamVec<'s, u64, Judged> {
    let counts = dark_counts(dark, &rules, limits);
    let by_owner = Exchange::new(|p: &PanePartials| p.dest);
    let by_owner_too = Exchange::new(|c: &DarkCounts| c.dest);
    panes.binary_frontier::<_, CapacityContainerBuilder<Vec<Judged>>, _, _, _, _>(
        counts,
        by_owner,
        by_owner_too,
        "Panes",
        move |capability, _| {
            drop(capability);
            let mut stores: Vec<PaneStore> = rules.plans.iter().map(|plan| PaneStore::new(plan, limits)).collect();
            let mut held = Held::default();
            let mut early = Vec::new();
            move |(input, frontier), (input_too, frontier_too), output| {
                input.for_each_time(|time, batches| {
                    for partials in batches.flat_map(|batch| batch.drain(..)) {
                        let store = &mut stores[partials.plan as usize];
                        if speak_early && !rules.plans[partials.plan as usize].only_exempt {
                            store.merge_testing(partials, &mut early);
                        } else {
                            store.merge(partials);
                        }
                        held.reach(&time, store.next_end(), limits);
                    }
                    if !early.is_empty() {
                        let early = early.drain(..).map(|finding| Judged { finding, closed: false });
                        output.session(&time).give_iterator(early);
                    }
                });
                input_too.for_each_time(|time, batches| {
                    for counts in batches.flat_map(|batch| batch.drain(..)) {
                        let store = &mut stores[counts.plan as usize];
                        store.merge_dark(&counts);
                        held.reach(&time, store.next_end(), limits);
                    }
                });
                // Changes of dark paths come at the very tick at which their window closes: wait until it has passed.
                let passed = least(frontier_too).map_or(u64::MAX, |t| t.saturating_sub(1));
                let reached = least(frontier).unwrap_or(u64::MAX).min(passed);
                if held.time().is_some_and(|t| t <= reached) {
                    let mut found: Vec<Finding> = Vec::new();
                    for store in &mut stores {
                        found.extend(store.close(reached));
                    }
                    found.sort_by_key(|finding| finding.end);
                    for finding in found {
                        let closes = tick(finding.end.saturating_add(limits.allowed_lateness.0));
                        held.downgrade(closes);
                        debug_assert_eq!(
                            held.time(),
                            Some(closes),
                            "a finding leaves at the tick at which its window closes"
                        );
                        if let Some(capability) = &held.capability {
                            output.session(capability).give(Judged { finding, closed: true });
                        }
                    }
                    held.settle(stores.iter().filter_map(PaneStore::next_end).min(), limits);
                }
            }
        },
    )
}

/// How the numbers of dark paths of clients change from window to window.
fn dark_counts<'s>(
    dark: StreamVec<'s, u64, DarkPart>,
    rules: &RuleSet,
    limits: Limits,
) -> StreamVec<'s, u64, DarkCounts> {
    let peers = dark.scope().peers();
    let mut store = DarkStore::new(rules, limits);
    dark.unary_frontier::<CapacityContainerBuilder<Vec<DarkCounts>>, _, _, _>(
        Exchange::new(|p: &DarkPart| p.dest),
        "Dark",
        move |capability, _| {
            drop(capability);
            let mut held = Held::default();
            move |(input, frontier), output| {
                let Some(store) = &mut store else {
                    input.for_each_time(|_, batches| batches.for_each(Vec::clear));
                    return;
                };
                input.for_each_time(|time, batches| {
                    for part in batches.flat_map(|batch| batch.drain(..)) {
                        store.merge(&part);
                        held.reach(&time, store.next_end(), limits);
                    }
                });
                let reached = least(frontier).unwrap_or(u64::MAX);
                if held.time().is_some_and(|t| t <= reached) {
                    let mut changes = store.close(reached, peers);
                    changes.sort_by_key(|change| change.end);
                    for change in changes {
                        held.downgrade(tick(change.end.saturating_add(limits.allowed_lateness.0)));
                        if let Some(capability) = &held.capability {
                            output.session(capability).give(change);
                        }
                    }
                    held.settle(store.next_end(), limits);
                }
            }
        },
    )
}

/// The capability for the next window that closes.
#[derive(Default)]
struct Held {
    capability: Option<Capability<u64>>,
}

impl Held {
    fn time(&self) -> Option<u64> {
        self.capability.as_ref().map(|c| *c.time())
    }

    /// A message came, after which the next window of its store ends at `next_end`.
    fn reach(&mut self, message: &InputCapability<u64>, next_end: Option<u64>, limits: Limits) {
        let Some(closes) = next_end.map(|end| tick(end.saturating_add(limits.allowed_lateness.0))) else { return };
        if self.time().is_none_or(|held| held > closes) {
            self.capability = Some(message.delayed(&closes.max(*message.time()), 0));
        }
    }

    fn downgrade(&mut self, to: u64) {
        if let Some(capability) = self.capability.as_mut().filter(|c| *c.time() < to) {
            capability.downgrade(&to);
        }
    }

    /// Everything up to the frontier is closed; the next window of all ends at `next_end`.
    fn settle(&mut self, next_end: Option<u64>, limits: Limits) {
        match next_end {
            Some(end) => self.downgrade(tick(end.saturating_add(limits.allowed_lateness.0))),
            None => self.capability = None,
        }
    }
}
