//! The table of one plan's pane on the worker that reads: 32 bytes a key, found by one touch of memory.
//!
//! Open addressing with linear probing, at most three quarters full. With many clients every look-up misses the caches;
//! [`Table::touch`] lets the look-ups of several events wait for memory together.
//!
//! Invariants
//! - An entry with `n == 0` is free; counts that pass 32 bits are noted in `wrapped`.
//! - Rows are numbered 0, 1, 2 … in order of arrival; the measure's column has that many parts.

use super::keys::Packed;
use super::local::{PanePartials, PaneRow};
use super::values::{LocalValues, Values};
use super::{Origin, owner};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::hash;

/// A key of the event being counted.
#[derive(Clone, Copy)]
pub(super) struct Lane {
    pub(super) hash: u64,
    /// The key if it is short, else [`Packed::NOT_SHORT`].
    pub(super) short: Packed,
    /// Where its bytes stand if it is not.
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Lane {
    /// Calls with the key's bytes; `bytes` holds them if it is long.
    #[inline]
    pub(super) fn with_key<R>(&self, bytes: &[u8], f: impl FnOnce(&[u8]) -> R) -> R {
        match self.short {
            Packed::NOT_SHORT => f(&bytes[self.start as usize..self.end as usize]),
            short => short.with(&[], f),
        }
    }
}

pub(super) struct Table {
    entries: Vec<Entry>,
    len: usize,
    keys: Vec<u8>,
    pub(super) values: LocalValues,
    /// Rows whose count went past 32 bits, once for each time.
    wrapped: Vec<u32>,
}

/// 32 bytes: two to a cache line.
#[derive(Clone, Copy)]
struct Entry {
    key: Packed,
    /// Offset of the least event.
    offset: u64,
    /// Its distance from the pane's start (ms, 40 bits) and the number of its partition (24 bits).
    place: u64,
    n: u32,
    row: u32,
}

const FREE: Entry = Entry { key: Packed::EMPTY, offset: 0, place: 0, n: 0, row: 0 };
const LEAST_CAPACITY: usize = 64;

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
        Table { entries: vec![FREE; LEAST_CAPACITY], len: 0, keys: Vec::new(), values, wrapped: Vec::new() }
    }

    /// Rows, and distinct values.
    pub(super) fn rows(&self) -> usize {
        self.len + if let LocalValues::Distinct(all) = &self.values { all.len() } else { 0 }
    }

    #[inline]
    fn mask(&self) -> usize {
        self.entries.len() - 1
    }

    /// Loads what a look-up of this hash will need first. The result has no meaning but must be used.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u32 {
        self.entries[hash as usize & self.mask()].n
    }

    /// Counts an event; says its row and whether that is new. `bytes` holds the lane's long key.
    #[inline]
    pub(super) fn count(
        &mut self,
        lane: &Lane,
        bytes: &[u8],
        place: u64,
        offset: u64,
        partitions: &Partitions,
    ) -> (u32, bool) {
        let mask = self.mask();
        let mut at = lane.hash as usize & mask;
        loop {
            let entry = &mut self.entries[at];
            if entry.n == 0 {
                return (self.insert(at, lane, bytes, place, offset), true);
            }
            let same = entry.key == lane.short
                || lane.short == Packed::NOT_SHORT
                    && entry.key.is_long(&self.keys, lane.hash, &bytes[lane.start as usize..lane.end as usize]);
            if same {
                entry.n = entry.n.wrapping_add(1);
                if entry.n == 0 {
                    entry.n = 1;
                    self.wrapped.push(entry.row);
                }
                if place >> PARTITION_BITS <= entry.place >> PARTITION_BITS {
                    entry.see(place, offset, partitions);
                }
                return (entry.row, false);
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, at: usize, lane: &Lane, bytes: &[u8], place: u64, offset: u64) -> u32 {
        let row = self.len as u32;
        let key = match lane.short {
            Packed::NOT_SHORT => {
                Packed::long(&mut self.keys, lane.hash, &bytes[lane.start as usize..lane.end as usize])
            }
            short => short,
        };
        self.entries[at] = Entry { key, offset, place, n: 1, row };
        self.len += 1;
        self.values.push();
        if self.len > self.entries.len() / 4 * 3 {
            self.grow();
        }
        row
    }

    #[cold]
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.entries);
        self.entries = vec![FREE; old.len() * 2];
        let mask = self.mask();
        for entry in old.into_iter().filter(|e| e.n > 0) {
            let mut at = entry.key.with(&self.keys, hash::of) as usize & mask;
            while self.entries[at].n > 0 {
                at = (at + 1) & mask;
            }
            self.entries[at] = entry;
        }
    }

    /// Puts the rows into the messages of their owners and forgets them.
    pub(super) fn drain(&mut self, pane: u64, peers: usize, partitions: &Partitions, messages: &mut [PanePartials]) {
        self.wrapped.sort_unstable();
        let others = match &mut self.values {
            LocalValues::Distinct(all) => all.others(),
            _ => Vec::new(),
        };
        // Room for an even share and a little more, so that no message grows by doubling.
        let share = |all: usize| all / peers.max(1) + all / 64 + 8;
        for message in &mut *messages {
            message.rows.reserve_exact(if peers > 1 { share(self.len) } else { self.len });
            message.keys.reserve_exact(share(self.keys.len() + 6 * self.len));
        }
        for entry in self.entries.iter().filter(|e| e.n > 0) {
            let message = entry.key.with(&self.keys, |key| {
                let message = &mut messages[owner(hash::of(key), peers)];
                message.keys.extend_from_slice(key);
                message
            });
            // Each time the count went from 2^32 − 1 to 1, that many more than one were counted.
            let wraps = match self.wrapped.as_slice() {
                [] => 0,
                all => (all.partition_point(|r| *r <= entry.row) - all.partition_point(|r| *r < entry.row)) as u64,
            };
            message.rows.push(PaneRow {
                key_end: message.keys.len() as u32,
                n: u64::from(entry.n) + wraps * u64::from(u32::MAX),
                origin: Origin {
                    time: pane + (entry.place >> PARTITION_BITS),
                    partition: partitions.ids[(entry.place & PARTITION_MASK) as usize],
                    offset: entry.offset,
                },
            });
            let row = entry.row as usize;
            match (&mut message.values, &mut self.values) {
                (Values::Sums(out), LocalValues::Sums(all)) => out.push(all[row]),
                (Values::Histograms(out), LocalValues::Histograms(all)) => out.push(std::mem::take(&mut all[row])),
                (Values::Inner(out), LocalValues::Inner(all)) => out.push(all[row]),
                (Values::Distinct { ends, hashes: out }, LocalValues::Distinct(all)) => {
                    all.values_of(entry.row, &others, out);
                    ends.push(out.len() as u32);
                }
                _ => {}
            }
        }
        self.clear();
    }

    fn clear(&mut self) {
        // A table that was mostly empty is made smaller: its next pane is likely to be like this one.
        if self.entries.len() > LEAST_CAPACITY && self.len < self.entries.len() / 8 {
            self.entries = vec![FREE; (self.len * 2).next_power_of_two().max(LEAST_CAPACITY)];
        } else {
            self.entries.fill(FREE);
        }
        self.len = 0;
        self.keys.clear();
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

    fn lane(key: &[u8]) -> Lane {
        Lane { hash: hash::of(key), short: Packed::short(key), start: 0, end: key.len() as u32 }
    }

    fn drained(table: &mut Table, partitions: &Partitions) -> Vec<(Vec<u8>, u64, Origin)> {
        let mut messages = vec![PanePartials {
            dest: 0,
            plan: 0,
            pane: 1000,
            keys: Vec::new(),
            rows: Vec::new(),
            values: Values::of(&Measure::Count),
        }];
        table.drain(1000, 1, partitions, &mut messages);
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
        for (name, events, (distance, partition, offset)) in rows {
            let mut table = Table::new(LocalValues::Count);
            for (distance, partition, offset) in *events {
                table.count(&lane(b"k"), b"k", place(*distance, *partition), *offset, &partitions);
            }
            let want = Origin { time: 1000 + distance, partition: *partition, offset: *offset };
            assert_eq!(drained(&mut table, &partitions), [(b"k".to_vec(), 2, want)], "{name}");
            assert_eq!(table.rows(), 0);
        }
    }

    #[test]
    fn keys_short_and_long_survive_growth() {
        let mut partitions = Partitions::new();
        let partition = partitions.number(PartitionId(3));
        let mut table = Table::new(LocalValues::Count);
        let keys: Vec<Vec<u8>> = (0..1000u32)
            .map(|i| if i % 2 == 0 { i.to_be_bytes().to_vec() } else { vec![i as u8; 8 + i as usize % 500] })
            .collect();
        for round in 0..3 {
            for key in &keys {
                table.count(&lane(key), key, place(round, partition), 1, &partitions);
            }
        }
        let mut different = keys.clone();
        different.sort();
        different.dedup();
        let rows = drained(&mut table, &partitions);
        assert_eq!(rows.iter().map(|(key, ..)| key.clone()).collect::<Vec<_>>(), different);
        assert_eq!(rows.iter().map(|(_, n, _)| n).sum::<u64>(), 3000);
    }

    #[test]
    fn a_count_goes_past_32_bits() {
        let mut partitions = Partitions::new();
        let partition = partitions.number(PartitionId(0));
        let mut table = Table::new(LocalValues::Count);
        let mut count = || table.count(&lane(b"k"), b"k", place(0, partition), 0, &partitions);
        count();
        count();
        let at = table.entries.iter().position(|e| e.n > 0).unwrap();
        table.entries[at].n = u32::MAX;
        table.count(&lane(b"k"), b"k", place(0, partition), 0, &partitions);
        assert_eq!(drained(&mut table, &partitions)[0].1, 1 << 32);
    }
}
