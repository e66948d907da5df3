//! The owner of keys: merges panes, slides windows over them, and says what each window of a key came to.
//!
//! One [`PaneStore`] per plan. A pane's rows enter the running window of their keys when the window that ends with the pane
//! is closed, and leave it one window later, so a window costs the rows that enter and leave, plus the keys that reach the
//! plan's floor ("hot"), whatever window / hop is. Windows in which nothing changes and no key is hot are skipped, so a gap
//! of a year costs nothing.
//!
//! Invariants
//! - Windows are closed in order of their ends, each once, when end + allowed lateness <= frontier.
//! - A key's rows hang in one list in order of panes; the running value is the sum of those between the window's ends.
//! - Everything of a pane is freed when the last window that needs it is closed.
//! - A window is judged by the versions of conditions that hold for its start, and kept from the floor of those that are
//!   loaded at its closing tick, whenever a change of rules was heard of.

mod closest;
mod find;
mod merge;
mod rows;
mod slide;

use super::baseline::Baselines;
use super::closed::ClosedRow;
use super::closest::Closest;
use super::dark::DarkCounts;
use super::keys::KeyBytes;
use super::measured::Measured;
use super::partials::PanePartials;
use super::plan::MeasurePlan;
use super::provisional::Said;
use super::sparse::Sparse;
use super::versions::{Floor, Reload, Versions};
use super::{Limits, Missed, Origin};
use hashbrown::{HashMap, HashTable};
use std::collections::{BTreeMap, VecDeque};
use tidewatch_events::hash;
use tidewatch_events::time::Millis;

const NONE: u32 = u32::MAX;

/// The panes and running windows of one plan's keys that one worker owns.
pub struct PaneStore {
    plan: MeasurePlan,
    limits: Limits,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    table: HashTable<u32>,
    rows: Vec<Row>,
    free_rows: Vec<u32>,
    measured: Measured,
    /// Panes that are in no running window yet.
    waiting: BTreeMap<u64, Pane>,
    /// Messages of such panes that nobody looks at before: merged when the pane enters, so that the rows at work are those
    /// of one window, whatever the allowed lateness.
    deferred: BTreeMap<u64, Vec<PanePartials>>,
    /// Rows in them, and distinct values.
    deferred_rows: usize,
    /// Panes of the running window.
    running: BTreeMap<u64, Vec<(u32, u32)>>,
    /// Changes of numbers of dark paths, by the end of the first window they hold for.
    dark: BTreeMap<u64, Vec<(KeyBytes, i64)>>,
    /// Keys that reached the floor in the last window.
    hot: BTreeMap<u32, Hot>,
    /// Whether a slot is among them: most are not.
    is_hot: Vec<bool>,
    /// Panes as they came, in the place of slots, where that costs less.
    sparse: Option<Sparse>,
    /// Whether rows that are no finding now are handed over too: a change of rules may make them one.
    keeps: bool,
    /// Whether baselines learn from windows.
    learns: bool,
    /// Room for the slots that a window touches.
    touched: Vec<u32>,
    /// The conditions.
    versions: Versions,
    /// Ticks of changes of rules, in order, after which no window was closed yet: then all keys are looked at.
    changed: VecDeque<u64>,
    /// One for each rule of the plan.
    baselines: Vec<Baselines>,
    /// What was said last, by (slot, rule), of a key's windows that are not closed.
    said: HashMap<(u32, u32), Said>,
    /// How many keys were said, by window (its start) and rule; those of windows that are not closed.
    told: BTreeMap<(u64, u32), usize>,
    /// End of the last window closed, or skipped because nothing was in it.
    closed: u64,
    /// What that was at the start of this life.
    resumed: u64,
    missed: Missed,
    /// Rows of messages taken since rows were last searched for those to be forgotten.
    since_shed: usize,
    /// The windows that came closest to the conditions, by rule; `None` where nobody asks.
    closest: Option<BTreeMap<u32, Closest>>,
}

/// A key.
struct Slot {
    key: KeyBytes,
    /// Oldest and newest row.
    head: u32,
    tail: u32,
    /// Events in the running window.
    n: u64,
    /// Events in all rows.
    held: u64,
    /// End of the last window in which a row entered or left, plus one.
    touched: u64,
    /// Pane of the newest row, where there is one: most rows come in order, and need not look at it.
    newest: u64,
}

/// A key in a pane.
pub(super) struct Row {
    pub(super) pane: u64,
    pub(super) n: u64,
    pub(super) origin: Origin,
    next: u32,
    before: u32,
}

/// Keys that a message adds to, as far as they may matter.
pub(super) struct Touched {
    /// With fewer events in all its rows a key does not matter.
    pub least: u64,
    /// Their places, and the rows that were added to.
    pub slots: Vec<(u32, u32)>,
}

#[derive(Default)]
struct Pane {
    /// (slot, row)
    rows: Vec<(u32, u32)>,
    shards: Vec<u32>,
}

/// A window that is closed.
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) closes: u64,
    floor: Floor,
    /// Whether baselines take part of it.
    notes: bool,
}

/// What the last window of a key came to.
#[derive(Clone, Copy)]
pub(super) struct Hot {
    pub(super) n: u64,
    pub(super) value: f64,
    pub(super) end: u64,
}

impl PaneStore {
    /// An empty one for a plan.
    pub fn new(plan: &MeasurePlan, limits: Limits) -> PaneStore {
        PaneStore {
            measured: Measured::of(&plan.measure),
            baselines: plan.rules.iter().map(|_| Baselines::new(limits.max_keys)).collect(),
            versions: Versions::new(plan, limits.allowed_lateness.0),
            changed: VecDeque::new(),
            plan: plan.clone(),
            limits,
            slots: Vec::new(),
            free_slots: Vec::new(),
            table: HashTable::new(),
            rows: Vec::new(),
            free_rows: Vec::new(),
            waiting: BTreeMap::new(),
            deferred: BTreeMap::new(),
            deferred_rows: 0,
            running: BTreeMap::new(),
            dark: BTreeMap::new(),
            hot: BTreeMap::new(),
            is_hot: Vec::new(),
            sparse: None,
            keeps: true,
            learns: true,
            touched: Vec::new(),
            said: HashMap::new(),
            told: BTreeMap::new(),
            closed: 0,
            resumed: 0,
            missed: Missed::default(),
            since_shed: 0,
            closest: None,
        }
    }

    /// Windows that end at or before this (ms) were closed in an earlier life: they are not closed again.
    pub fn resume(&mut self, closed: u64) {
        self.closed = closed - closed % self.plan.hop;
        self.resumed = self.closed;
    }

    /// Hands over only rows that are findings by the conditions that hold when their window closes: where these never change,
    /// no other is of use. Its limits are those of what it is given, not of a worker's share of it: what it hands over is the
    /// same with any number of workers, but that full shards of panes in slots keep the keys that come first.
    pub fn only_findings(self) -> PaneStore {
        let sparse = Sparse::new(&self.plan, &self.limits, &self.versions);
        let limits = Limits { max_rows: usize::MAX, ..self.limits };
        PaneStore { keeps: false, sparse, limits, ..self }
    }

    /// One for windows that are final, of which a first store that takes the same messages says later what they came to:
    /// allows no lateness, hands over only rows that may be findings, and leaves what is usual to the first.
    pub(super) fn of_final(first: &PaneStore, limits: Limits) -> PaneStore {
        let limits = Limits { allowed_lateness: Millis(0), ..limits };
        let versions = first.versions.clone();
        PaneStore { keeps: false, learns: false, versions, ..PaneStore::new(&first.plan, limits) }
    }

    /// What could not be counted so far.
    pub fn missed(&self) -> Missed {
        self.missed
    }

    /// Rows kept, and distinct values.
    pub fn kept(&self) -> usize {
        self.rows.len() - self.free_rows.len()
            + self.measured.kept()
            + self.deferred_rows
            + self.sparse.as_ref().map_or(0, Sparse::kept)
    }

    /// The baselines of each rule of the plan, in their order.
    pub fn baselines(&self) -> &[Baselines] {
        &self.baselines
    }

    /// What is usual for a key in windows of a rule that start at `start`, as far as windows are closed; none that closes
    /// later may be closed by then.
    pub(super) fn usual(&self, rule: u32, key: &[u8], start: u64) -> Option<f64> {
        let own = self.plan.rules.iter().position(|other| *other == rule)?;
        self.baselines[own].peek(key, start)
    }

    /// Adds changes of numbers of dark paths.
    pub fn merge_dark(&mut self, counts: &DarkCounts) {
        let changes = self.dark.entry(counts.end).or_default();
        changes.extend(counts.iter().map(|(key, change)| (KeyBytes::new(key), change)));
    }

    /// Takes a change of rules, before any window closes whose start or closing tick it may concern.
    pub fn change(&mut self, reload: &Reload) {
        if !self.versions.change(reload).is_empty() {
            self.changed.push_back(reload.from);
        }
    }

    /// End (ms) of the next window in which anything may change or be found. `None`: nothing is kept that would.
    pub fn next_end(&self) -> Option<u64> {
        let MeasurePlan { window, hop, .. } = self.plan;
        let sparse = self.sparse.as_ref();
        let waiting = [self.waiting.keys().next().copied(), self.deferred.keys().next().copied()];
        let enters = waiting.into_iter().chain([sparse.and_then(Sparse::first_waiting)]).flatten().min();
        let enters = enters.map(|pane| pane + hop);
        let running = self.running.keys().next().copied().or_else(|| sparse.and_then(Sparse::first_running));
        let leaves = running.map(|pane| pane + window + hop);
        let dark = self.dark.keys().next().copied();
        let is_hot = !self.hot.is_empty() || sparse.is_some_and(|sparse| !sparse.hot.is_empty());
        // What is usual, and so the limit, may fall while nothing else changes.
        let is_hot = is_hot || running.is_some() && self.closest.is_some() && self.versions.has_baseline();
        let stays = is_hot.then(|| self.closed + hop);
        // A baseline takes every tumbling window in which there is anything.
        let notes = self.versions.baseline_from().filter(|_| self.learns && running.is_some());
        let notes = notes.map(|from| (self.closed.max(from) / window + 1) * window);
        // With another floor, windows may be of interest in which nothing else changed.
        let changed = self.changed.front().filter(|_| running.is_some());
        let changed = changed.map(|from| from.saturating_sub(self.limits.allowed_lateness.0).next_multiple_of(hop));
        // The first window of all ends with what came before it was whole.
        let first = (self.closed < window && running.is_some()).then_some(window);
        let next = [enters, leaves, dark, stays, notes, changed, first].into_iter().flatten().min()?;
        Some(next.max(self.closed + hop))
    }

    /// Closes all windows with end + allowed lateness <= `frontier` (ms; `u64::MAX`: all), in order. Says what those came to
    /// that reach the floor, in order of window and key.
    pub fn close(&mut self, frontier: u64) -> Vec<ClosedRow> {
        let mut out = Vec::new();
        while self.close_next(frontier, &mut out).is_some() {}
        self.pass(frontier);
        out
    }

    /// Closes the first of these windows; returns its end (ms).
    pub(super) fn close_next(&mut self, frontier: u64, out: &mut Vec<ClosedRow>) -> Option<u64> {
        let closes = |end: &u64| frontier == u64::MAX || end.saturating_add(self.limits.allowed_lateness.0) <= frontier;
        let end = self.next_end().filter(closes)?;
        self.close_window(end, out);
        Some(end)
    }

    /// All of these windows are closed.
    pub(super) fn pass(&mut self, frontier: u64) {
        if frontier != u64::MAX {
            // What was skipped is closed too.
            let passed = frontier.saturating_sub(self.limits.allowed_lateness.0);
            self.closed = self.closed.max(passed - passed % self.plan.hop);
            self.versions.forget(frontier);
        }
        let open = self.closed.saturating_sub(self.plan.window);
        while self.told.first_key_value().is_some_and(|((start, _), _)| *start < open) {
            self.told.pop_first();
        }
    }

    fn close_window(&mut self, end: u64, out: &mut Vec<ClosedRow>) {
        let MeasurePlan { window, hop, .. } = self.plan;
        self.closed = end;
        let mut touched: Vec<u32> = std::mem::take(&mut self.touched);
        touched.clear();
        let mut emptied: Vec<u32> = Vec::new();
        while let Some(first) = self.running.first_entry() {
            if first.key() + window >= end {
                break;
            }
            for (slot, row) in first.remove() {
                self.leave(slot, row);
                self.touch(slot, end, &mut touched);
                if self.slots[slot as usize].head == NONE {
                    emptied.push(slot);
                }
            }
        }
        self.merge_deferred(0..=end.saturating_sub(hop));
        if let Some(sparse) = &mut self.sparse {
            sparse.slide(end, &self.plan);
        }
        while let Some(first) = self.waiting.first_entry() {
            if first.key() + hop > end {
                break;
            }
            let (start, pane) = first.remove_entry();
            for (slot, row) in &pane.rows {
                self.slots[*slot as usize].n += self.rows[*row as usize].n;
                self.measured.add(*row as usize, *slot);
                self.touch(*slot, end, &mut touched);
            }
            self.running.insert(start, pane.rows);
        }
        while let Some(first) = self.dark.first_entry() {
            if *first.key() > end {
                break;
            }
            for (key, change) in first.remove() {
                let found = self.table.find(hash::of(key.as_bytes()), |s| self.slots[*s as usize].key == key).copied();
                if let Some(slot) = found {
                    self.measured.change_dark(slot, change);
                    self.touch(slot, end, &mut touched);
                }
            }
        }
        // Windows start at 0 or later.
        if let Some(start) = end.checked_sub(window) {
            self.find(start, end, &touched, out);
        }
        self.touched = touched;
        for slot in emptied {
            self.forget(slot);
        }
    }

    fn touch(&mut self, slot: u32, end: u64, touched: &mut Vec<u32>) {
        let mark = &mut self.slots[slot as usize].touched;
        if *mark != end + 1 {
            *mark = end + 1;
            touched.push(slot);
        }
    }

    /// A row, the oldest of its key, leaves the running window.
    fn leave(&mut self, slot: u32, row: u32) {
        let owner = &mut self.slots[slot as usize];
        let old = &self.rows[row as usize];
        debug_assert_eq!(owner.head, row, "rows leave in the order of their panes");
        owner.n -= old.n;
        owner.held -= old.n;
        owner.head = old.next;
        match owner.head {
            NONE => owner.tail = NONE,
            head => self.rows[head as usize].before = NONE,
        }
        self.measured.remove(row as usize, slot);
        self.free_rows.push(row);
    }

    /// Forgets a key that has no rows.
    fn forget(&mut self, slot: u32) {
        let owner = &mut self.slots[slot as usize];
        if owner.head != NONE {
            return;
        }
        let key = std::mem::replace(&mut owner.key, KeyBytes::new(b""));
        if let Ok(entry) = self.table.find_entry(hash::of(key.as_bytes()), |other| *other == slot) {
            entry.remove();
        }
        self.cool(slot);
        if !self.said.is_empty() {
            self.plan.rules.iter().for_each(|rule| {
                self.said.remove(&(slot, *rule));
            });
        }
        self.measured.clear_slot(slot);
        self.free_slots.push(slot);
    }

    pub(super) fn plan(&self) -> &MeasurePlan {
        &self.plan
    }

    pub(super) fn measured(&self) -> &Measured {
        &self.measured
    }

    pub(super) fn row_at(&self, number: u32) -> &Row {
        &self.rows[number as usize]
    }

    pub(super) fn key_of(&self, slot: u32) -> &[u8] {
        self.slots[slot as usize].key.as_bytes()
    }

    /// When the next window closes in which anything may change or be found, ms.
    pub(super) fn next_close(&self) -> Option<u64> {
        Some(self.next_end()?.saturating_add(self.limits.allowed_lateness.0))
    }

    /// End of the newest pane of which anything is kept, ms.
    pub(super) fn newest_end(&self) -> u64 {
        let last = [self.waiting.keys().next_back(), self.deferred.keys().next_back(), self.running.keys().next_back()];
        last.into_iter().flatten().max().map_or(0, |pane| pane + self.plan.hop)
    }

    /// End of the last window closed.
    pub(super) fn closed_end(&self) -> u64 {
        self.closed
    }

    pub(super) fn versions(&self) -> &Versions {
        &self.versions
    }

    pub(super) fn said(&self, slot: u32, rule: u32) -> Option<Said> {
        self.said.get(&(slot, rule)).copied()
    }

    /// Whether one more key of a rule may be said of the window that starts at `start`; then it counts.
    pub(super) fn may_tell(&mut self, rule: u32, start: u64) -> bool {
        let told = self.told.entry((start, rule)).or_default();
        let may = *told < self.limits.max_findings;
        *told += usize::from(may);
        may
    }

    pub(super) fn say(&mut self, slot: u32, rule: u32, said: Said) {
        self.said.insert((slot, rule), said);
    }
}

#[cfg(test)]
#[path = "panes_tests.rs"]
mod tests;
