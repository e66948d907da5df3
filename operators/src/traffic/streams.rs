//! The Timely shells of [`Shard`] and [`Boards`]: they hold one capability per window that is not closed, drain input,
//! and close what the frontier allows.
//!
//! Early results of open windows are written when the engine raises the [`Early`] signal, never by a clock in here.

use super::boards::Boards;
use super::part::Part;
use super::shard::Shard;
use super::{Dimension, HostDelta, Settings, Summary, host_shard, tick};
use crate::inexact::{Place, Tell};
use crate::rules::Missed;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use tidewatch_events::hash;
use tidewatch_events::privacy::Privacy;
use timely::PartialOrder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::activate::Activator;

/// Points of closed windows, or early ones of open windows, as line protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Points {
    /// Lines, each ended by `\n`.
    pub lines: Vec<u8>,
    /// Lines that only the embedded store has, of the same windows.
    pub for_store: Vec<u8>,
    /// How many of them are `http_stats`.
    pub windows: u64,
    /// Of how many hosts and windows there are `error_events` among them.
    pub message_windows: u64,
    /// Whether their windows are closed: these lines are the truth.
    pub closed: bool,
    /// Counts of hosts that closed windows do not tell apart, to be added up in one place.
    pub others: Vec<HostDelta>,
}

/// The engine's signal that early results are due: a number that grows. Cloning gives another handle.
///
/// An operator that has something to show waits for it: nothing else may come that would make it run. While old records are
/// caught up with, it also says of which windows nothing is to be told before they are closed.
#[derive(Clone, Default)]
pub struct Early {
    raised: Rc<Cell<u64>>,
    waiting: Rc<RefCell<Vec<Activator>>>,
    past: Rc<Cell<u64>>,
    hushed: Rc<RefCell<Vec<Activator>>>,
}

impl Early {
    /// Raises the signal to `to`, and wakes who waits for it.
    pub fn raise(&self, to: u64) {
        if self.raised.replace(to) != to {
            self.waiting.borrow_mut().drain(..).for_each(|operator| operator.activate());
        }
    }

    fn get(&self) -> u64 {
        self.raised.get()
    }

    /// Rules say nothing of windows that end at or before this (ms) until they are closed; 0: of all they do.
    pub fn past(&self) -> u64 {
        self.past.get()
    }

    /// Has rules say nothing of windows that end at or before `past` (ms) until they are closed.
    pub fn hush(&self, past: u64) {
        self.past.set(past);
    }

    /// Has rules speak of all open windows from now on, and at once of what they were silent about.
    pub fn speak(&self) {
        self.past.set(0);
        self.hushed.borrow_mut().drain(..).for_each(|operator| operator.activate());
    }

    /// Whether rules are to be silent about a window that ends at `end`, ms.
    pub fn is_hushed(&self, end: u64) -> bool {
        end <= self.past.get()
    }

    /// Whether rules may speak of all open windows.
    pub fn speaks(&self) -> bool {
        self.past.get() == 0
    }

    /// Has an operator run once rules may speak of all open windows.
    pub fn when_it_speaks(&self, operator: Activator) {
        self.hushed.borrow_mut().push(operator);
    }
}

/// An operator's side of [`Early`].
struct Waiter {
    early: Early,
    activator: Activator,
    seen: u64,
    waits: bool,
}

impl Waiter {
    fn new(early: Early, activator: Activator) -> Waiter {
        let seen = early.get();
        Waiter { early, activator, seen, waits: false }
    }

    /// Whether the signal was raised since this was last asked.
    fn is_due(&mut self) -> bool {
        let is_due = self.early.get() != self.seen;
        if is_due {
            (self.seen, self.waits) = (self.early.get(), false);
        }
        is_due
    }

    /// Has the operator run when the signal is raised next.
    fn wait(&mut self) {
        if !std::mem::replace(&mut self.waits, true) {
            self.early.waiting.borrow_mut().push(self.activator.clone());
        }
    }
}

/// The frontier of an input as a number: the least tick that may still come, or `None` when nothing may.
pub fn least(frontier: &MutableAntichain<u64>) -> Option<u64> {
    frontier.frontier().iter().min().copied()
}

/// Routes rows to their owners, merges them and summarises windows per host.
pub fn shards<'s>(
    parts: StreamVec<'s, u64, Part>,
    settings: Settings,
    early: Early,
    tell: Tell,
) -> StreamVec<'s, u64, Summary> {
    let scope = parts.scope();
    let (index, peers) = (scope.index() as u64, scope.peers());
    parts.unary_frontier(Exchange::new(|p: &Part| p.owner), "Shards", move |capability, info| {
        drop(capability);
        let mut shard = Shard::new(settings, index, peers);
        let mut held: BTreeMap<u64, Capability<u64>> = BTreeMap::new();
        let mut changed: BTreeSet<u64> = BTreeSet::new();
        let mut waiter = Waiter::new(early, scope.activator_for(info.address));
        move |(input, frontier), output| {
            input.for_each_time(|time, batches| {
                for part in batches.flat_map(|batch| batch.drain(..)) {
                    let closes = tick(settings.closes_at(part.window));
                    held.entry(part.window).or_insert_with(|| time.delayed(&closes, 0));
                    changed.insert(part.window);
                    shard.add(part);
                }
            });
            let mut summaries = Vec::new();
            if waiter.is_due() {
                // Sent at the closing tick's capability: early or closed, a summary replaces the one before.
                for window in std::mem::take(&mut changed) {
                    if let Some(capability) = held.get(&window) {
                        shard.peek(window, &mut summaries);
                        output.session(capability).give_iterator(summaries.drain(..));
                    }
                }
            }
            let reached = least(frontier).unwrap_or(u64::MAX);
            while let Some(first) = held.first_entry().filter(|w| settings.closes_at(*w.key()) <= reached) {
                let (window, capability) = first.remove_entry();
                changed.remove(&window);
                shard.close(settings.closes_at(window), &mut summaries);
                output.session(&capability).give_iterator(summaries.drain(..));
                for (dimension, events) in Dimension::ALL.into_iter().zip(shard.take_missed()).filter(|(_, n)| *n > 0) {
                    tell(Place::Keys(dimension), Missed { events, ..Missed::default() });
                }
            }
            if !changed.is_empty() {
                waiter.wait();
            }
        }
    })
}

/// Routes deltas and summaries to the owner of their host and writes the points of windows.
pub fn boards<'s>(
    deltas: StreamVec<'s, u64, HostDelta>,
    summaries: StreamVec<'s, u64, Summary>,
    settings: Settings,
    privacy: Arc<Privacy>,
    early: Early,
) -> StreamVec<'s, u64, Points> {
    let by_host = Exchange::new(|d: &HostDelta| host_shard(hash::of(&d.host)));
    let by_host_too = Exchange::new(|s: &Summary| host_shard(hash::of(&s.host)));
    let scope = deltas.scope();
    deltas.binary_frontier(summaries, by_host, by_host_too, "Boards", move |capability, info| {
        drop(capability);
        let mut boards = Boards::new(settings, privacy);
        let mut held: BTreeMap<u64, Capability<u64>> = BTreeMap::new();
        let mut waiter = Waiter::new(early, scope.activator_for(info.address));
        move |(input, frontier), (input_too, frontier_too), output| {
            input.for_each_time(|time, batches| {
                for delta in batches.flat_map(|batch| batch.drain(..)) {
                    let closes = tick(settings.closes_at(delta.window));
                    held.entry(closes).or_insert_with(|| time.delayed(&closes, 0));
                    boards.add(delta);
                }
            });
            input_too.for_each_time(|time, batches| {
                for summary in batches.flat_map(|batch| batch.drain(..)) {
                    let closes = tick(settings.closes_at(summary.window));
                    held.entry(closes).or_insert_with(|| time.delayed(&closes, 0));
                    boards.replace(summary);
                }
            });
            if waiter.is_due()
                && let Some((_, capability)) = held.first_key_value()
            {
                let mut points = Points::default();
                points.windows = boards.early(&mut points.lines).windows;
                if !points.lines.is_empty() {
                    points.for_store = boards.take_for_store();
                    output.session(capability).give(points);
                }
            }
            let reached = match (least(frontier), least(frontier_too)) {
                (None, None) => None,
                (a, b) => Some(a.unwrap_or(u64::MAX).min(b.unwrap_or(u64::MAX))),
            };
            while let Some(first) = held.first_entry().filter(|w| reached.is_none_or(|r| *w.key() < r)) {
                let (closes, capability) = first.remove_entry();
                let mut points = Points { closed: true, ..Points::default() };
                let written = boards.close(Some(closes + 1), &mut points.lines, &mut points.others);
                (points.windows, points.message_windows) = (written.windows, written.message_windows);
                if !points.lines.is_empty() || !points.others.is_empty() {
                    points.for_store = boards.take_for_store();
                    output.session(&capability).give(points);
                }
            }
            if boards.has_news() {
                waiter.wait();
            }
        }
    })
}

/// Whether a frontier has passed a tick: nothing at it or before it may come any more.
pub fn passed(frontier: &MutableAntichain<u64>, tick: u64) -> bool {
    !frontier.frontier().iter().any(|t| t.less_equal(&tick))
}
