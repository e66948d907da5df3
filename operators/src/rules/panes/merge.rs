//! What a store takes: messages merged into the rows of their panes, at once or when their pane enters the running window.
//!
//! Invariants
//! - A message is merged once, or counted as missed where its windows are closed.
//! - Nothing is taken beyond the bounds of keys in a pane and of rows; what is not is counted.
//! - A full store makes room ([`PaneStore::shed`]): keys with few events give way to those that come, never the other way round.

use super::{NONE, Pane, PaneStore, Row, Slot, Touched};
use crate::rules::keys::KeyBytes;
use crate::rules::partials::PanePartials;
use crate::rules::values::Values;
use crate::rules::{Origin, SHARDS, shard};
use tidewatch_events::hash;

/// How many keys of a message are looked up before the first is worked on.
const TOGETHER: usize = 32;

/// Fewer rows than this part of all that may be kept, or than this, are not worth a search for those to be forgotten.
const LEAST_SHED: usize = 64;

/// How much a key weighs with so many events: its logarithm.
fn weight(held: u64) -> usize {
    (u64::BITS - held.leading_zeros()) as usize
}

/// A key looked up.
struct Sought {
    hash: u64,
    slot: Option<u32>,
}

impl PaneStore {
    /// Adds a message of this plan; its rows are looked at when a window closes.
    pub fn merge(&mut self, partials: PanePartials) {
        if self.is_too_late(&partials) {
            return;
        }
        let pane = partials.pane;
        let is_full = self.kept() + partials.pieces() >= self.limits.max_rows;
        // Merged, messages that may share values take less room.
        let shares = matches!(partials.values, Values::Distinct { .. })
            && (self.waiting.contains_key(&pane) || self.deferred.contains_key(&pane));
        if is_full || shares {
            let panes = if is_full { 0..=u64::MAX } else { pane..=pane };
            self.merge_deferred(panes);
            self.make_room(partials.pieces());
            return self.merge_now(partials, None);
        }
        self.deferred_rows += partials.pieces();
        self.deferred.entry(pane).or_default().push(partials);
    }

    /// Merges the messages of some panes that were deferred.
    pub(in crate::rules) fn merge_deferred(&mut self, panes: std::ops::RangeInclusive<u64>) {
        while let Some((pane, _)) = self.deferred.range(panes.clone()).next() {
            let pane = *pane;
            for partials in self.deferred.remove(&pane).into_iter().flatten() {
                self.deferred_rows -= partials.pieces();
                self.merge_now(partials, None);
            }
        }
    }

    /// Whether messages of some of these panes are deferred.
    pub(in crate::rules) fn sets_aside(&self, panes: &std::ops::Range<u64>) -> bool {
        self.deferred.range(panes.clone()).next().is_some()
    }

    /// Merges all that was deferred. Pane, slot and row of what is in no running window yet, of keys with at least so many
    /// events in all their rows.
    pub(in crate::rules) fn waiting_rows(&mut self, least: u64) -> Vec<(u64, u32, u32)> {
        self.merge_deferred(0..=u64::MAX);
        let rows = self.waiting.iter().flat_map(|(pane, of)| of.rows.iter().map(|(slot, row)| (*pane, *slot, *row)));
        rows.filter(|(_, slot, _)| self.slots[*slot as usize].held >= least).collect()
    }

    /// Adds a message at once; notes the keys it touched.
    pub(in crate::rules) fn merge_noting(&mut self, partials: PanePartials, touched: Option<&mut Touched>) {
        if !self.is_too_late(&partials) {
            self.make_room(partials.pieces());
            self.merge_now(partials, touched);
        }
    }

    /// Sheds where a message of so many pieces would find no room.
    #[inline]
    fn make_room(&mut self, pieces: usize) {
        if self.kept() + pieces > self.limits.max_rows {
            self.merge_deferred(0..=u64::MAX);
            if self.kept() + pieces > self.limits.max_rows {
                self.shed(pieces);
            }
        }
    }

    /// Forgets rows that are in no running window yet until there is room for so many pieces and for a quarter of all: those
    /// of the keys with the fewest events in all their rows, of equal ones those of the oldest panes. What they hold is counted
    /// as missed. Keys of which something was said stay, and at least a quarter of the others. Where little came since the last
    /// time nothing is searched: a flood of keys that stay would have all of them looked at with every message.
    #[cold]
    fn shed(&mut self, pieces: usize) {
        let least = (self.limits.max_rows / LEAST_SHED).max(LEAST_SHED);
        let waiting: usize = self.waiting.values().map(|pane| pane.rows.len()).sum();
        if waiting < least || self.since_shed < least {
            return;
        }
        self.since_shed = 0;
        // What may go, by the logarithm of what its key holds.
        let mut by_weight = [0usize; u64::BITS as usize + 1];
        for (slot, row) in self.waiting.values().flat_map(|pane| &pane.rows).filter(|(slot, _)| !self.was_said(*slot)) {
            by_weight[weight(self.slots[*slot as usize].held)] += self.measured.pieces(*row as usize);
        }
        let may_go: usize = by_weight.iter().sum();
        let wanted = pieces.max(self.limits.max_rows / 4).min(may_go / 4 * 3);
        let (mut cut, mut lighter) = (0, 0);
        while lighter + by_weight[cut] < wanted {
            lighter += by_weight[cut];
            cut += 1;
        }
        let mut of_cut = wanted - lighter;
        // Weights are as they were before: the rows of a key go together, or by panes.
        let mut panes = std::mem::take(&mut self.waiting);
        let before: Vec<u8> = self.slots.iter().map(|slot| weight(slot.held) as u8).collect();
        for pane in panes.values_mut() {
            let Pane { rows, shards } = pane;
            rows.retain(|(slot, row)| {
                let own = usize::from(before[*slot as usize]);
                if own > cut || (own == cut && of_cut == 0) || self.was_said(*slot) {
                    return true;
                }
                if own == cut {
                    of_cut = of_cut.saturating_sub(self.measured.pieces(*row as usize));
                }
                let key = hash::of(self.slots[*slot as usize].key.as_bytes());
                shards[shard(key)] -= 1;
                self.drop_row(*slot, *row);
                false
            });
            rows.shrink_to_fit();
        }
        panes.retain(|_, pane| !pane.rows.is_empty());
        self.waiting = panes;
    }

    /// Whether something was said of a key's open windows.
    fn was_said(&self, slot: u32) -> bool {
        !self.said.is_empty() && self.plan.rules.iter().any(|rule| self.said.contains_key(&(slot, *rule)))
    }

    /// Forgets a row that is in no running window yet, and its key where it has no other.
    fn drop_row(&mut self, slot: u32, row: u32) {
        let Row { n, next, before, .. } = self.rows[row as usize];
        match next {
            NONE => self.slots[slot as usize].tail = before,
            next => self.rows[next as usize].before = before,
        }
        match before {
            NONE => self.slots[slot as usize].head = next,
            before => self.rows[before as usize].next = next,
        }
        let owner = &mut self.slots[slot as usize];
        owner.held -= n;
        if owner.tail != NONE {
            owner.newest = self.rows[owner.tail as usize].pane;
        }
        self.missed.events += n;
        self.measured.drop_row(row as usize);
        self.free_rows.push(row);
        self.forget(slot);
    }

    /// Whether the windows of a message are closed; counts what is missed.
    fn is_too_late(&mut self, partials: &PanePartials) -> bool {
        let pane = partials.pane;
        let resumes = self.closed == self.resumed;
        let reach = if resumes { self.plan.window } else { self.plan.hop };
        let is = pane.saturating_add(reach) <= self.closed;
        // What is read again and not needed was counted in an earlier life.
        if is && !resumes {
            self.missed.too_late += partials.events();
        }
        is
    }

    fn merge_now(&mut self, mut partials: PanePartials, mut touched: Option<&mut Touched>) {
        let pane = partials.pane;
        if let Some(sparse) = &mut self.sparse {
            return sparse.merge(partials, &mut self.missed);
        }
        self.since_shed += partials.len();
        let mut values = std::mem::replace(&mut partials.values, Values::Count);
        let mut entry = self.waiting.remove(&pane).unwrap_or_default();
        entry.shards.resize(SHARDS, 0);
        let mut sought = Vec::with_capacity(TOGETHER);
        for first in (0..partials.len()).step_by(TOGETHER) {
            // Look-ups go ahead of the work, so that they wait for memory together. No key comes twice in a message.
            let rows = first..partials.len().min(first + TOGETHER);
            sought.clear();
            sought.extend(rows.clone().map(|row| self.seek(partials.key(row))));
            for (row, sought) in rows.zip(&sought) {
                let n = partials.n(row);
                let Some((slot, own)) = self.row(partials.key(row), sought, pane, &mut entry) else {
                    self.missed.events += n;
                    continue;
                };
                let kept = &mut self.rows[own as usize];
                kept.n += n;
                kept.origin = self.measured.least((own as usize, kept.origin), (&values, row, partials.origin(row)));
                let held = &mut self.slots[slot as usize].held;
                *held += n;
                let held = *held;
                let room = self.limits.max_rows.saturating_sub(self.kept());
                self.missed.values += self.measured.merge(own as usize, &mut values, row, room);
                if let Some(touched) = touched.as_mut().filter(|touched| held >= touched.least) {
                    touched.slots.push((slot, own));
                }
            }
        }
        if !entry.rows.is_empty() {
            self.waiting.insert(pane, entry);
        }
    }

    /// Looks a key up.
    #[inline]
    fn seek(&self, key: &[u8]) -> Sought {
        let hash = hash::of(key);
        let slot = self.table.find(hash, |slot| self.slots[*slot as usize].key.as_bytes() == key).copied();
        Sought { hash, slot }
    }

    /// The row of a key in a pane, made if need be. `None`: no room.
    fn row(&mut self, key: &[u8], sought: &Sought, pane: u64, entry: &mut Pane) -> Option<(u32, u32)> {
        let mut before = NONE;
        if let Some(slot) = sought.slot {
            let Slot { tail, newest, .. } = self.slots[slot as usize];
            before = tail;
            if tail != NONE && newest >= pane {
                // Of the same pane, or out of order: panes come nearly in order, so walk from the newest.
                while before != NONE && self.rows[before as usize].pane > pane {
                    before = self.rows[before as usize].before;
                }
                if before != NONE && self.rows[before as usize].pane == pane {
                    return Some((slot, before));
                }
            }
        }
        let keys = &mut entry.shards[shard(sought.hash)];
        if self.kept() >= self.limits.max_rows || *keys >= self.limits.keys_per_shard() {
            return None;
        }
        *keys += 1;
        let slot = sought.slot.unwrap_or_else(|| self.new_slot(sought.hash, key));
        let row = self.new_row(pane);
        let owner = &mut self.slots[slot as usize];
        let next = if before == NONE {
            std::mem::replace(&mut owner.head, row)
        } else {
            std::mem::replace(&mut self.rows[before as usize].next, row)
        };
        if next == NONE {
            owner.tail = row;
            owner.newest = pane;
        } else {
            self.rows[next as usize].before = row;
        }
        let added = &mut self.rows[row as usize];
        (added.next, added.before) = (next, before);
        entry.rows.push((slot, row));
        Some((slot, row))
    }

    fn new_slot(&mut self, hash: u64, key: &[u8]) -> u32 {
        let slot = Slot { key: KeyBytes::new(key), head: NONE, tail: NONE, n: 0, held: 0, touched: 0, newest: 0 };
        let number = match self.free_slots.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                self.is_hot.push(false);
                self.measured.push_slot();
                self.slots.len() as u32 - 1
            }
        };
        let slots = &self.slots;
        self.table.insert_unique(hash, number, |s| hash::of(slots[*s as usize].key.as_bytes()));
        number
    }

    fn new_row(&mut self, pane: u64) -> u32 {
        let origin = Origin { time: u64::MAX, partition: u64::MAX, offset: u64::MAX };
        let row = Row { pane, n: 0, origin, next: NONE, before: NONE };
        match self.free_rows.pop() {
            Some(number) => {
                self.rows[number as usize] = row;
                number
            }
            None => {
                self.rows.push(row);
                self.measured.push_row();
                self.rows.len() as u32 - 1
            }
        }
    }
}
