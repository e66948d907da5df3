//! The table of one plan's pane on the worker that reads: one short row a key, found by the key's number.
//!
//! Invariants
//! - Rows are numbered 0, 1, 2 … in order of arrival; the measure's column has that many parts.
//! - Counts that pass 32 bits are noted in `wrapped`.

use super::local::{PanePartials, PaneRow};
use super::values::{LocalValues, Values};
use super::{Origin, owner};
use crate::lanes::LANES;
use crate::names::Names;
use crate::tally::{Candidate, Keyed, Tally};
use tidewatch_events::batch::PartitionId;

pub(super) struct Table {
    rows: Tally<Entry>,
    pub(super) values: LocalValues,
    /// Rows whose count went past 32 bits, once for each time.
    wrapped: Vec<u32>,
}

/// 24 bytes.
#[derive(Clone, Copy)]
struct Entry {
    /// The key's number.
    key: u32,
    n: u32,
    /// Offset of the least event.
    offset: u64,
    /// Its distance from the pane's start (ms, 40 bits) and the number of its partition (24 bits).
    place: u64,
}

impl Keyed for Entry {
    #[inline]
    fn key(&self) -> u64 {
        self.key.into()
    }
}

const PARTITION_BITS: u32 = 24;
const PARTITION_MASK: u64 = (1 << PARTITION_BITS) - 1;
/// 34 years in one pane; the least event of a longer one may be shown with an earlier time.
const MAX_DISTANCE: u64 = (1 << (64 - PARTITION_BITS)) - 1;

/// Numbers for partitions, so that an entry holds 24 bits instead of 64.
pub(super) struct Partitions {
    ids: Vec<u64>,
    last: (u64, u64),
    numbers: std::collections::HashMap<u64, u64>,
}

impl Partitions {
    pub(super) fn new() -> Partitions {
        Partitions { ids: Vec::new(), last: (0, 0), numbers: std::collections::HashMap::new() }
    }

    #[inline]
    pub(super) fn number(&mut self, id: PartitionId) -> u64 {
        if self.last.0 == id.0 && !self.ids.is_empty() {
            return self.last.1;
        }
        let next = self.ids.len() as u64;
        let number = *self.numbers.entry(id.0).or_insert(next);
        if number == next {
            self.ids.push(id.0);
        }
        self.last = (id.0, number);
        number
    }

    /// Whether so many were numbered that all tables should be emptied and the numbers given anew.
    pub(super) fn is_full(&self) -> bool {
        self.ids.len() as u64 >= PARTITION_MASK / 2
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.numbers.clear();
    }
}

/// Where an event stands in a pane: its time and its partition's number.
#[inline]
pub(super) fn place(distance: u64, partition: u64) -> u64 {
    distance.min(MAX_DISTANCE) << PARTITION_BITS | partition
}

impl Table {
    pub(super) fn new(values: LocalValues) -> Table {
        Table { rows: Tally::default(), values, wrapped: Vec::new() }
    }

    /// Rows, and distinct values.
    pub(super) fn rows(&self) -> usize {
        self.rows.len() + if let LocalValues::Distinct(all) = &self.values { all.len() } else { 0 }
    }

    /// Where the row of a key is likely to stand.
    #[inline]
    pub(super) fn candidate(&self, key: u32) -> Candidate {
        self.rows.candidate(key.into())
    }

    /// Whether loading rows beforehand gains nothing.
    #[inline]
    pub(super) fn is_small(&self) -> bool {
        self.rows.is_small()
    }

    /// Loads the row that [`Table::count`] needs. The result has no meaning but must be used.
    #[inline]
    pub(super) fn touch(&self, candidate: Candidate) -> u64 {
        self.rows.touch(candidate)
    }

    /// Counts an event of a key; says its row and whether that is new.
    #[inline]
    pub(super) fn count(
        &mut self,
        key: u32,
        candidate: Candidate,
        place: u64,
        offset: u64,
        partitions: &Partitions,
    ) -> (u32, bool) {
        let position = match self.rows.position_at(key.into(), candidate) {
            Ok(position) => position,
            Err(at) => {
                self.values.push();
                return (self.rows.insert(at, Entry { key, offset, place, n: 1 }) as u32, true);
            }
        };
        let entry = self.rows.row_mut(position);
        entry.n = entry.n.wrapping_add(1);
        if entry.n == 0 {
            entry.n = 1;
            self.wrapped.push(position as u32);
        }
        if place >> PARTITION_BITS <= entry.place >> PARTITION_BITS {
            entry.see(place, offset, partitions);
        }
        (position as u32, false)
    }

    /// Puts the rows into the messages of their owners and forgets them; `names` are those of the keys.
    pub(super) fn drain(&mut self, pane: u64, names: &Names, partitions: &Partitions, messages: &mut [PanePartials]) {
        self.wrapped.sort_unstable();
        let others = match &mut self.values {
            LocalValues::Distinct(all) => all.others(),
            _ => Vec::new(),
        };
        // Room for an even share and a little more, so that no message grows by doubling.
        let (all, peers) = (self.rows.len(), messages.len());
        let share = if peers > 1 { all / peers + all / 64 + 8 } else { all };
        for message in &mut *messages {
            message.rows.reserve_exact(share);
            message.keys.reserve(share * 6);
        }
        let entries = self.rows.rows();
        let mut touched = 0;
        for (position, entry) in (0..).zip(entries) {
            if (position as usize).is_multiple_of(LANES) {
                // Names go ahead of the work, so that it waits for memory once for all.
                let next = entries[position as usize..].iter().take(LANES);
                touched ^= next.fold(0, |all, entry| all ^ names.touch(entry.key));
            }
            let hash = names.name(entry.key).hash;
            let message = &mut messages[owner(hash, peers)];
            names.push_text(entry.key, &mut message.keys);
            // Each time the count went from 2^32 − 1 to 1, that many more than one were counted.
            let wraps = match self.wrapped.as_slice() {
                [] => 0,
                all => (all.partition_point(|r| *r <= position) - all.partition_point(|r| *r < position)) as u64,
            };
            message.rows.push(PaneRow {
                hash,
                key_end: message.keys.len() as u32,
                n: u64::from(entry.n) + wraps * u64::from(u32::MAX),
                origin: Origin {
                    time: pane + (entry.place >> PARTITION_BITS),
                    partition: partitions.ids[(entry.place & PARTITION_MASK) as usize],
                    offset: entry.offset,
                },
            });
            let row = position as usize;
            match (&mut message.values, &mut self.values) {
                (Values::Sums(out), LocalValues::Sums(all)) => out.push(all[row]),
                (Values::Histograms(out), LocalValues::Histograms(all)) => out.push(std::mem::take(&mut all[row])),
                (Values::Inner(out), LocalValues::Inner(all)) => out.push(all[row]),
                (Values::Distinct { ends, hashes: out }, LocalValues::Distinct(all)) => {
                    all.values_of(position, &others, out);
                    ends.push(out.len() as u32);
                }
                _ => {}
            }
        }
        std::hint::black_box(touched);
        self.rows.clear();
        self.values.clear();
        self.wrapped.clear();
    }
}

impl Entry {
    /// Takes an event for the least if it is.
    #[inline]
    fn see(&mut self, place: u64, offset: u64, partitions: &Partitions) {
        let order = |place: u64, offset: u64| {
            (place >> PARTITION_BITS, partitions.ids[(place & PARTITION_MASK) as usize], offset)
        };
        if order(place, offset) < order(self.place, self.offset) {
            (self.place, self.offset) = (place, offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::rule::Measure;

    fn drained(table: &mut Table, names: &Names, partitions: &Partitions) -> Vec<(Vec<u8>, u64, Origin)> {
        let mut messages = vec![PanePartials {
            dest: 0,
            plan: 0,
            pane: 1000,
            keys: Vec::new(),
            rows: Vec::new(),
            values: Values::of(&Measure::Count),
        }];
        table.drain(1000, names, partitions, &mut messages);
        let mut rows: Vec<_> = messages[0].iter().map(|(key, row)| (key.to_vec(), row.n, row.origin)).collect();
        rows.sort();
        rows
    }

    #[test]
    fn the_least_event_is_by_time_then_partition_then_offset() {
        let mut partitions = Partitions::new();
        let (high, low) = (partitions.number(PartitionId(90)), partitions.number(PartitionId(7)));
        let rows: &[(&str, &[(u64, u64, u64)], (u64, u64, u64))] = &[
            ("earlier time", &[(5, high, 1), (4, high, 9)], (4, 90, 9)),
            ("same time, lower partition", &[(5, high, 1), (5, low, 9)], (5, 7, 9)),
            ("same time and partition, lower offset", &[(5, low, 9), (5, low, 8)], (5, 7, 8)),
            ("later in every way", &[(5, low, 1), (6, low, 0)], (5, 7, 1)),
        ];
        let mut names = Names::default();
        let key = names.number(b"k");
        for (name, events, (distance, partition, offset)) in rows {
            let mut table = Table::new(LocalValues::Count);
            for (distance, partition, offset) in *events {
                table.count(key, table.candidate(key), place(*distance, *partition), *offset, &partitions);
            }
            let want = Origin { time: 1000 + distance, partition: *partition, offset: *offset };
            assert_eq!(drained(&mut table, &names, &partitions), [(b"k".to_vec(), 2, want)], "{name}");
            assert_eq!(table.rows(), 0);
        }
    }

    #[test]
    fn every_key_keeps_its_own_count() {
        let mut partitions = Partitions::new();
        let partition = partitions.number(PartitionId(3));
        let (mut names, mut table) = (Names::default(), Table::new(LocalValues::Count));
        let keys: Vec<Vec<u8>> = (0..1000u32).map(|i| i.to_be_bytes().to_vec()).collect();
        for round in 0..3 {
            for key in &keys {
                let number = names.number(key);
                table.count(number, table.candidate(number), place(round, partition), 1, &partitions);
            }
        }
        let rows = drained(&mut table, &names, &partitions);
        assert_eq!(rows.iter().map(|(key, ..)| key.clone()).collect::<Vec<_>>(), keys);
        assert!(rows.iter().all(|(_, n, _)| *n == 3));
    }

    #[test]
    fn a_count_goes_past_32_bits() {
        let mut partitions = Partitions::new();
        let partition = partitions.number(PartitionId(0));
        let (mut names, mut table) = (Names::default(), Table::new(LocalValues::Count));
        let key = names.number(b"k");
        let count = |table: &mut Table| table.count(key, table.candidate(key), place(0, partition), 0, &partitions);
        count(&mut table);
        count(&mut table);
        table.rows.row_mut(0).n = u32::MAX;
        count(&mut table);
        assert_eq!(drained(&mut table, &names, &partitions)[0].1, 1 << 32);
    }
}
