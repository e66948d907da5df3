//! The Timely shells of the rules: they route partials to the owners of their keys and close what the frontier allows.
//!
//! Each holds one capability, at the tick at which the next window in which anything may change is closed: the output
//! frontier stops there, so findings of one window are complete when the frontier has passed its tick. What is said of
//! windows that are open or final leaves at once, and holds nothing: it needs a window that is not closed, for which the
//! capability is held. What closed windows came to goes on to [`super::closed_streams`].

use super::closed::ClosedRow;
use super::closed_streams::{self, Preview};
use super::closest::TellClosest;
use super::crowd::Beyond;
use super::dark::{DarkCounts, DarkPart, DarkStore};
use super::finals::{self, Reached};
use super::owner::Owner;
use super::partials::PanePartials;
use super::plan::RuleSet;
use super::versions::Reload;
use super::{Finding, Limits, Missed};
use crate::inexact::{Place, Tell};
use crate::traffic::streams::{Early, least};
use crate::traffic::tick;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tidewatch_events::time::Millis;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::core::{Concat, OkErr};
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Capability, InputCapability};

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Judged {
    /// Of a closed window: the truth.
    Closed(Finding),
    /// Of a closed window too: what of one worker's findings does not count, as it found stronger ones.
    Beyond(Beyond),
    /// Of a window that is not closed: what there is so far is enough.
    Provisional(Finding),
    /// What a changed rule would have found.
    Preview(Preview),
    /// The rules changed; said once, before anything that a window that starts at the change or later brings about.
    Changed(Reload),
}

/// A change of rules on its way to one worker: all of them get it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The worker.
    pub dest: u64,
    /// The change; it is sent before its tick.
    pub reload: Reload,
}

/// What an owner of keys gets beside panes.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Beside {
    Counts(DarkCounts),
    Notice(Notice),
}

/// How rules are evaluated.
#[derive(Clone)]
pub struct RuleSettings {
    /// Bounds of the state.
    pub limits: Limits,
    /// Whether to speak before windows close: at once where more events cannot undo it, else when they are final.
    pub speak_early: bool,
    /// Whether rules may change: then rows are kept that are no findings yet.
    pub may_change: bool,
    /// How long closed rows are kept for previews.
    pub retain: Millis,
    /// Windows that end at or before this (ms) were closed in an earlier life; 0: there was none.
    pub resumed: u64,
    /// Told at the end of all input which windows came closest to the conditions; `None` where nobody asks, as that takes a
    /// look at all windows of all keys.
    pub closest: Option<TellClosest>,
}

/// Findings of closed windows, from the panes of all workers, and what else the rules say.
pub fn findings<'s>(
    panes: StreamVec<'s, u64, PanePartials>,
    dark: StreamVec<'s, u64, DarkPart>,
    changes: StreamVec<'s, u64, Notice>,
    rules: Arc<RuleSet>,
    settings: RuleSettings,
    signal: Early,
    tell: Tell,
) -> StreamVec<'s, u64, Judged> {
    let (limits, retain) = (settings.limits, settings.retain);
    let beside = dark_counts(dark, &rules, &settings, tell.clone())
        .map(Beside::Counts)
        .concat(changes.clone().map(Beside::Notice));
    let (rows, early) = close_panes(panes, beside, rules.clone(), settings, signal, tell).ok_err(|said| said);
    let told = closed_streams::judge(rows, changes.clone(), &rules, limits, retain);
    let changed = changes.flat_map(|notice| (notice.dest == 0).then_some(Judged::Changed(notice.reload)));
    told.concat(early.map(|finding| Judged::Provisional(*finding))).concat(changed)
}

/// What closed windows came to, or what is said early.
type Said = Result<ClosedRow, Box<Finding>>;

fn close_panes<'s>(
    panes: StreamVec<'s, u64, PanePartials>,
    beside: StreamVec<'s, u64, Beside>,
    rules: Arc<RuleSet>,
    settings: RuleSettings,
    signal: Early,
    tell: Tell,
) -> StreamVec<'s, u64, Said> {
    let scope = panes.scope();
    let by_owner = Exchange::new(|p: &PanePartials| p.dest);
    let by_owner_too = Exchange::new(|b: &Beside| match b {
        Beside::Counts(counts) => counts.dest,
        Beside::Notice(notice) => notice.dest,
    });
    panes.binary_frontier::<_, CapacityContainerBuilder<Vec<Said>>, _, _, _, _>(
        beside,
        by_owner,
        by_owner_too,
        "Panes",
        move |capability, info| {
            drop(capability);
            signal.when_it_speaks(scope.activator_for(info.address));
            let mut owner = Owner::new(rules, settings, signal);
            let mut held = Held::default();
            let provisional = |finding| Err(Box::new(finding));
            move |(input, frontier), (input_too, frontier_too), output| {
                input.for_each_time(|time, batches| {
                    for partials in batches.flat_map(|batch| batch.drain(..)) {
                        held.reach(&time, owner.merge(partials));
                    }
                    let said = owner.said();
                    if said.len() > 0 {
                        output.session(&time).give_iterator(said.map(provisional));
                    }
                });
                input_too.for_each_time(|time, batches| {
                    let mut reloads = Vec::new();
                    for beside in batches.flat_map(|batch| batch.drain(..)) {
                        match beside {
                            Beside::Counts(counts) => held.reach(&time, owner.merge_dark(&counts)),
                            Beside::Notice(notice) => reloads.push(notice.reload),
                        }
                    }
                    reloads.sort_by_key(|reload| reload.from);
                    for reload in &reloads {
                        held.reach(&time, owner.change(reload));
                    }
                });
                owner.newly_missed().for_each(|(plan, missed)| tell(Place::Plan(plan), missed));
                // Changes of dark paths come at the very tick at which their window closes: wait until it has passed.
                // Changes of rules come before any window that they concern.
                let (here, beside) = (least(frontier), least(frontier_too));
                let passed = beside.map_or(u64::MAX, |t| t.saturating_sub(1));
                let passed = here.unwrap_or(u64::MAX).min(passed);
                if held.time().is_some_and(|t| t <= passed) {
                    let mut rows = owner.close(passed).into_iter().peekable();
                    while let Some(closes) = rows.peek().map(|row| row.closed) {
                        held.downgrade(closes);
                        debug_assert_eq!(
                            held.time(),
                            Some(closes),
                            "a row leaves at the tick at which its window closes"
                        );
                        let at_once = std::iter::from_fn(|| rows.next_if(|row| row.closed == closes));
                        if let Some(capability) = &held.capability {
                            output.session(capability).give_iterator(at_once.map(Ok));
                        }
                    }
                    held.settle(owner.next_close());
                }
                if here.is_none() && beside.is_none() {
                    owner.tell_closest();
                }
                let frontier = here.unwrap_or(u64::MAX).min(beside.unwrap_or(u64::MAX));
                owner.speak(Reached { frontier, passed });
                let said = owner.said();
                // Where nothing is held, nothing is open: what is said of open windows has what holds it in the first stores.
                if let Some(capability) = held.capability.as_ref().filter(|_| said.len() > 0) {
                    output.session(capability).give_iterator(said.map(provisional));
                }
            }
        },
    )
}

/// How the numbers of dark paths of clients change from window to window.
fn dark_counts<'s>(
    dark: StreamVec<'s, u64, DarkPart>,
    rules: &RuleSet,
    settings: &RuleSettings,
    tell: Tell,
) -> StreamVec<'s, u64, DarkCounts> {
    let peers = dark.scope().peers();
    let RuleSettings { limits, speak_early, resumed, .. } = *settings;
    let store = DarkStore::new(rules, limits);
    let mut store = store.map(|store| if speak_early { store.telling_finals(finals::SHARE) } else { store });
    if let Some(store) = &mut store {
        store.resume(resumed);
    }
    dark.unary_frontier::<CapacityContainerBuilder<Vec<DarkCounts>>, _, _, _>(
        Exchange::new(|p: &DarkPart| p.dest),
        "Dark",
        move |capability, _| {
            drop(capability);
            let mut held = Held::default();
            let mut told = Missed::default();
            move |(input, frontier), output| {
                let Some(store) = &mut store else {
                    input.for_each_time(|_, batches| batches.for_each(Vec::clear));
                    return;
                };
                input.for_each_time(|time, batches| {
                    for part in batches.flat_map(|batch| batch.drain(..)) {
                        store.merge(&part);
                        held.reach(&time, store.next_close());
                    }
                });
                if let Some(missed) = store.missed().since_told(&mut told) {
                    tell(Place::DarkPaths, missed);
                }
                let reached = least(frontier).unwrap_or(u64::MAX);
                if held.time().is_some_and(|t| t <= reached) {
                    let mut changes = store.close(reached, peers);
                    let closes = |change: &DarkCounts| {
                        change.end.saturating_add(if change.of_final { 0 } else { limits.allowed_lateness.0 })
                    };
                    changes.sort_by_key(closes);
                    for change in changes {
                        held.downgrade(tick(closes(&change)));
                        if let Some(capability) = &held.capability {
                            output.session(capability).give(change);
                        }
                    }
                    held.settle(store.next_close());
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

    /// A message came, after which the next window of its store closes at `next_close` (ms).
    fn reach(&mut self, message: &InputCapability<u64>, next_close: Option<u64>) {
        let Some(closes) = next_close.map(tick) else { return };
        // Messages of later times may come before what is held was looked at: it stays where it is then.
        let at = closes.max(*message.time());
        if self.time().is_none_or(|held| held > at) {
            self.capability = Some(message.delayed(&at, 0));
        }
    }

    fn downgrade(&mut self, to: u64) {
        if let Some(capability) = self.capability.as_mut().filter(|c| *c.time() < to) {
            capability.downgrade(&to);
        }
    }

    /// Everything up to the frontier is closed; the next window of all closes at `next_close` (ms).
    fn settle(&mut self, next_close: Option<u64>) {
        match next_close {
            Some(closes) => self.downgrade(tick(closes)),
            None => self.capability = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;
    use timely::dataflow::channels::pact::Pipeline;
    use timely::dataflow::operators::vec::Input;

    #[test]
    fn what_is_held_stays_where_a_message_of_a_later_time_comes_first() {
        // A message's time, when the next window of its store closes, and what is held then.
        let rows = [(0, 11_000, 11_000), (0, 9_000, 9_000), (10_000, 8_000, 9_000), (10_000, 30_000, 9_000)];
        let seen = timely::execute_directly(move |worker| {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let noted = seen.clone();
            let mut input = worker.dataflow::<u64, _, _>(|scope| {
                let (input, stream) = scope.new_input::<u64>();
                stream.unary_frontier::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(Pipeline, "Held", |_, _| {
                    let mut held = Held::default();
                    move |(input, frontier), _| {
                        input.for_each_time(|time, batches| {
                            for closes in batches.flat_map(|batch| batch.drain(..)) {
                                held.reach(&time, Some(closes));
                                noted.borrow_mut().extend(held.time());
                            }
                        });
                        if least(frontier).is_none() {
                            held.settle(None);
                        }
                    }
                });
                input
            });
            // All of them are there when the operator is run.
            for (time, closes, _) in rows {
                input.advance_to(time);
                input.send(closes);
            }
            input.flush();
            worker.step();
            seen.borrow().clone()
        });
        assert_eq!(seen, rows.map(|(.., want)| want));
    }
}
