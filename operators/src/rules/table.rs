//! The table of one plan's pane on the worker that reads: one short row a key, found by the key's number.
//!
//! Invariants
//! - Rows are numbered 0, 1, 2 … in order of arrival; the measure's column has that many parts.
//! - Counts that pass 32 bits are noted in `wrapped`.

use super::partials::{PanePartials, Place};
use super::rows::{Numbered, Rows};
use super::values::{LocalValues, Taken, Values};
use super::{SHARDS, owner, shard};
use crate::lanes::{LANES, bits, each};
use crate::names::Names;
use tidewatch_events::batch::PartitionId;
use tidewatch_events::event::Event;

pub(super) struct Table {
    rows: Rows<Entry>,
    pub(super) values: LocalValues,
    /// Rows whose count went past 32 bits, once for each time.
    wrapped: Vec<u32>,
}

/// Events being counted in a pane.
pub(super) struct Seen<'a> {
    pub(super) events: &'a [Event],
    /// Which of them.
    pub(super) mask: u32,
    /// Start of the pane, ms.
    pub(super) start: u64,
    /// The number of their partition.
    pub(super) partition: usize,
    pub(super) partitions: &'a Partitions,
}

impl Seen<'_> {
    /// An event, as one that may be the least.
    #[inline]
    pub(super) fn least(&self, lane: usize) -> Least {
        let Event { time, offset, .. } = self.events[lane];
        Least { offset, place: Place::new(time.0 - self.start, self.partition) }
    }
}

/// 24 bytes.
#[derive(Clone, Copy)]
struct Entry {
    /// The key's number.
    key: u32,
    n: u32,
    least: Least,
}

/// The least of a row's events.
#[derive(Clone, Copy)]
pub(super) struct Least {
    pub(super) offset: u64,
    pub(super) place: Place,
}

impl Numbered for Entry {
    #[inline]
    fn number(&self) -> u32 {
        self.key
    }
}

/// Numbers for partitions, so that an entry holds 24 bits instead of 64.
pub(super) struct Partitions {
    ids: Vec<u64>,
    last: (u64, usize),
    numbers: std::collections::HashMap<u64, usize>,
    /// One more than the number within the messages being put together; 0 where there is none.
    within: Vec<u32>,
    /// The partitions that have one, in their order.
    used: Vec<u32>,
}

impl Partitions {
    pub(super) fn new() -> Partitions {
        Partitions {
            ids: Vec::new(),
            last: (0, 0),
            numbers: std::collections::HashMap::new(),
            within: Vec::new(),
            used: Vec::new(),
        }
    }

    #[inline]
    pub(super) fn number(&mut self, id: PartitionId) -> usize {
        if self.last.0 == id.0 && !self.ids.is_empty() {
            return self.last.1;
        }
        let next = self.ids.len();
        let number = *self.numbers.entry(id.0).or_insert(next);
        if number == next {
            self.ids.push(id.0);
        }
        self.last = (id.0, number);
        number
    }

    /// Whether so many were numbered that all tables should be emptied and the numbers given anew.
    pub(super) fn is_full(&self) -> bool {
        self.ids.len() >= Place::PARTITIONS / 2
    }

    /// The number of a partition within the messages being put together.
    #[inline]
    fn within(&mut self, number: usize) -> usize {
        match self.within.get(number) {
            Some(within) if *within > 0 => *within as usize - 1,
            _ => self.use_one(number),
        }
    }

    #[cold]
    fn use_one(&mut self, number: usize) -> usize {
        self.within.resize(self.ids.len(), 0);
        self.used.push(number as u32);
        self.within[number] = self.used.len() as u32;
        self.used.len() - 1
    }

    /// Messages are put together: says of what partitions, by their numbers within.
    fn all_within(&mut self) -> Vec<u64> {
        let all = self.used.iter().map(|number| self.ids[*number as usize]).collect();
        for number in self.used.drain(..) {
            self.within[number as usize] = 0;
        }
        all
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.numbers.clear();
    }
}

impl Table {
    pub(super) fn new(values: LocalValues) -> Table {
        Table { rows: Rows::default(), values, wrapped: Vec::new() }
    }

    /// Rows, and distinct values.
    pub(super) fn rows(&self) -> usize {
        self.rows.len() + if let LocalValues::Distinct(all) = &self.values { all.len() } else { 0 }
    }

    /// Asks for what finds the rows of the keys of the events of a mask.
    #[inline]
    pub(super) fn prefetch_places(&self, mask: u32, keys: &[u32; LANES]) {
        each(mask, |lane| self.rows.prefetch_place(keys[lane]));
    }

    /// Asks for those rows.
    #[inline]
    pub(super) fn prefetch(&self, mask: u32, keys: &[u32; LANES]) {
        self.rows.prefetch(bits(mask).map(|lane| keys[lane]));
    }

    /// Counts the events of the mask, whose keys are given; notes their rows. Says how many rows are new.
    #[inline]
    pub(super) fn count(&mut self, seen: &Seen<'_>, keys: &[u32; LANES], rows: &mut [u32; LANES]) -> usize {
        let before = self.rows.len();
        for lane in bits(seen.mask) {
            let least = seen.least(lane);
            rows[lane] = match self.rows.position(keys[lane]) {
                Some(position) => {
                    let entry = self.rows.row_mut(position);
                    entry.n = entry.n.wrapping_add(1);
                    if entry.n == 0 {
                        entry.n = 1;
                        self.wrapped.push(position as u32);
                    }
                    entry.least.see(least, seen.partitions);
                    position as u32
                }
                None => self.insert(Entry { key: keys[lane], n: 1, least }),
            };
        }
        self.rows.len() - before
    }

    /// The same for events of a few different keys: those of one key are counted together. `earliest` is the least time of
    /// all.
    #[inline]
    pub(super) fn count_few(
        &mut self,
        seen: &Seen<'_>,
        keys: &[u32; LANES],
        earliest: u64,
        rows: &mut [u32; LANES],
    ) -> usize {
        let (mut left, before) = (seen.mask, self.rows.len());
        while left != 0 {
            let first = left.trailing_zeros() as usize % LANES;
            let key = keys[first];
            let mut same = 0;
            each(left, |lane| same |= u32::from(keys[lane] == key) << lane);
            left &= !same;
            let position = match self.rows.position(key) {
                Some(position) => position as u32,
                None => self.insert(Entry { key, n: 0, least: seen.least(first) }),
            };
            self.add(position, same.count_ones().into());
            let entry = self.rows.row_mut(position as usize);
            let is_earlier = earliest.saturating_sub(seen.start) <= entry.least.place.distance();
            for lane in bits(same) {
                rows[lane] = position;
                if is_earlier {
                    entry.least.see(seen.least(lane), seen.partitions);
                }
            }
        }
        self.rows.len() - before
    }

    /// Takes in what a pane counted that lies in this one and starts `later` (ms) after it. Says how many more rows, and
    /// distinct values, are kept.
    pub(super) fn take_in(&mut self, finer: &mut Table, later: u64, partitions: &Partitions) -> usize {
        let before = self.rows();
        finer.wrapped.sort_unstable();
        let others = finer.values.others();
        let mut taken = Taken { values: &finer.values, others: &others, later, partitions };
        let mut values = Vec::new();
        for (chunk, entries) in (0u32..).zip(finer.rows.all().chunks(LANES)) {
            self.rows.prefetch(entries.iter().map(|entry| entry.key));
            for (lane, entry) in (0u32..).zip(entries) {
                let from = chunk * LANES as u32 + lane;
                let least = entry.least.later(later);
                let own = match self.rows.position(entry.key) {
                    Some(position) => position as u32,
                    None => self.insert(Entry { key: entry.key, n: 0, least }),
                };
                self.rows.row_mut(own as usize).least.see(least, partitions);
                self.add(own, finer.n_of(from));
                self.values.add(own, &mut taken, from, &mut values);
            }
        }
        self.rows() - before
    }

    fn insert(&mut self, entry: Entry) -> u32 {
        self.values.push();
        self.rows.insert(entry) as u32
    }

    /// Adds to the number of events of a row.
    fn add(&mut self, position: u32, n: u64) {
        let entry = self.rows.row_mut(position as usize);
        let mut sum = u64::from(entry.n) + n;
        while sum > u64::from(u32::MAX) {
            sum -= u64::from(u32::MAX);
            self.wrapped.push(position);
        }
        entry.n = sum as u32;
    }

    /// The number of events of a row; `wrapped` is in order.
    fn n_of(&self, position: u32) -> u64 {
        // Each time the count went from 2^32 − 1 to 1, that many more than one were counted.
        let wraps = match self.wrapped.as_slice() {
            [] => 0,
            all => all.partition_point(|r| *r <= position) - all.partition_point(|r| *r < position),
        };
        u64::from(self.rows.all()[position as usize].n) + wraps as u64 * u64::from(u32::MAX)
    }

    /// Puts the rows into the messages of their owners, which are empty, and forgets them; `names` are those of the keys.
    pub(super) fn drain(&mut self, names: &Names, partitions: &mut Partitions, messages: &mut [PanePartials]) {
        self.wrapped.sort_unstable();
        let others = self.values.others();
        let mut others = &others[..];
        // Room for an even share and a little more, so that no message grows by doubling.
        let (all, peers) = (self.rows.len(), messages.len());
        let share = if peers > 1 { all / peers + all / 64 + 8 } else { all };
        for message in &mut *messages {
            message.reserve(share, share * 6);
        }
        let entries = self.rows.all();
        let mut shards = vec![[0u32; SHARDS]; peers];
        let mut touched = 0;
        for (position, entry) in (0..).zip(entries) {
            if (position as usize).is_multiple_of(LANES) {
                // Names go ahead of the work, so that it waits for memory once for all.
                let next = entries[position as usize..].iter().take(LANES);
                touched ^= next.fold(0, |all, entry| all ^ names.touch(entry.key));
            }
            let hash = names.name(entry.key).hash;
            let owner = owner(hash, peers);
            shards[owner][shard(hash)] += 1;
            let message = &mut messages[owner];
            let row = position as usize;
            let least = self.values.least(&message.values, row).unwrap_or(entry.least);
            let place = least.place.with_partition(partitions.within(least.place.partition()));
            message.push(self.n_of(position), least.offset, place, |keys| names.push_text(entry.key, keys));
            match (&mut message.values, &mut self.values) {
                (Values::Sums(out), LocalValues::Sums(all)) => out.push(all[row]),
                (Values::Histograms(out), LocalValues::Histograms(all)) => out.push(std::mem::take(&mut all[row])),
                (Values::Inner(out), LocalValues::Inner(all)) => out.push(all[row].n),
                (Values::Distinct { ends, hashes: out }, LocalValues::Distinct(all)) => {
                    all.values_of(position, &mut others, out);
                    ends.push(out.len() as u32);
                }
                _ => {}
            }
        }
        std::hint::black_box(touched);
        let within = partitions.all_within();
        for (message, shards) in messages.iter_mut().zip(shards).filter(|(message, _)| !message.is_empty()) {
            message.set_partitions(&within);
            message.set_fullest_shard(shards.into_iter().max().unwrap_or(0));
        }
        self.rows.clear();
        self.values.clear();
        self.wrapped.clear();
    }
}

impl Least {
    /// Takes an event for the least if it is.
    #[inline]
    pub(super) fn see(&mut self, other: Least, partitions: &Partitions) {
        if other.place.distance() > self.place.distance() {
            return;
        }
        let order = |least: Least| (least.place.distance(), partitions.ids[least.place.partition()], least.offset);
        if order(other) < order(*self) {
            *self = other;
        }
    }

    /// The same in a pane that starts so much (ms) earlier.
    #[inline]
    pub(super) fn later(self, by: u64) -> Least {
        Least { place: Place::new(self.place.distance() + by, self.place.partition()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NONE;
    use crate::rules::Origin;
    use tidewatch_events::event::Kind;
    use tidewatch_events::time::EventTime;

    /// A way to count events of one key.
    type Counting = fn(&mut Table, &Seen<'_>, &[u32; LANES]) -> usize;

    const WAYS: [(&str, Counting); 2] = [
        ("one by one", |table, seen, keys| table.count(seen, keys, &mut [0; LANES])),
        ("by key", |table, seen, keys| {
            let earliest = seen.events.iter().map(|event| event.time.0).min().unwrap_or(u64::MAX);
            table.count_few(seen, keys, earliest, &mut [0; LANES])
        }),
    ];

    /// An event at a distance from the pane's start, at an offset.
    fn event(distance: u64, offset: u64) -> Event {
        Event { offset, ..Event::new(Kind::Access, EventTime(1000 + distance)) }
    }

    fn drained(table: &mut Table, names: &Names, partitions: &mut Partitions) -> Vec<(Vec<u8>, u64, Origin)> {
        let mut messages = [PanePartials::new(0, 0, 1000, Values::Count)];
        table.drain(names, partitions, &mut messages);
        let mut rows: Vec<_> = messages[0].iter().map(|(key, n, origin)| (key.to_vec(), n, origin)).collect();
        rows.sort();
        rows
    }

    #[test]
    fn the_least_event_is_by_time_then_partition_then_offset() {
        let mut partitions = Partitions::new();
        let (high, low) = (partitions.number(PartitionId(90)), partitions.number(PartitionId(7)));
        let rows: &[(&str, &[(u64, usize, u64)], (u64, u64, u64))] = &[
            ("earlier time", &[(5, high, 1), (4, high, 9)], (4, 90, 9)),
            ("same time, lower partition", &[(5, high, 1), (5, low, 9)], (5, 7, 9)),
            ("same time and partition, lower offset", &[(5, low, 9), (5, low, 8)], (5, 7, 8)),
            ("later in every way", &[(5, low, 1), (6, low, 0)], (5, 7, 1)),
        ];
        let mut names = Names::default();
        let keys = [names.number(b"k"); LANES];
        for (way, count) in WAYS {
            for (name, events, (distance, partition, offset)) in rows {
                let mut table = Table::new(LocalValues::Count);
                for (distance, partition, offset) in *events {
                    let events = [event(*distance, *offset)];
                    let (mask, start) = (1, 1000);
                    let seen = Seen { events: &events, mask, start, partition: *partition, partitions: &partitions };
                    count(&mut table, &seen, &keys);
                }
                let want = Origin { time: 1000 + distance, partition: *partition, offset: *offset };
                let mut longer = Table::new(LocalValues::Count);
                assert_eq!(longer.take_in(&mut table, 500, &partitions), 1);
                assert_eq!(drained(&mut table, &names, &mut partitions), [(b"k".to_vec(), 2, want)], "{name}, {way}");
                assert_eq!(table.rows(), 0);
                let later = Origin { time: want.time + 500, ..want };
                assert_eq!(drained(&mut longer, &names, &mut partitions), [(b"k".to_vec(), 2, later)], "{name}, {way}");
            }
        }
    }

    #[test]
    fn every_key_keeps_its_own_count() {
        let mut partitions = Partitions::new();
        let partition = partitions.number(PartitionId(3));
        let names_of: Vec<Vec<u8>> = (0..1000u32).map(|i| i.to_be_bytes().to_vec()).collect();
        for (way, count) in WAYS {
            let (mut names, mut table) = (Names::default(), Table::new(LocalValues::Count));
            for round in 0..3 {
                for some in names_of.chunks(20) {
                    // Twice each in one go, and the last lanes left out.
                    let mut keys = [NONE; LANES];
                    let some: Vec<u32> = some.iter().map(|name| names.number(name)).collect();
                    some.iter().chain(&some).take(30).zip(&mut keys).for_each(|(number, key)| *key = *number);
                    let events: Vec<Event> = (0..30).map(|n| event(round, n)).collect();
                    let (mask, start) = ((1 << 30) - 1, 1000);
                    let seen = Seen { events: &events, mask, start, partition, partitions: &partitions };
                    let new = count(&mut table, &seen, &keys);
                    assert_eq!(new, if round == 0 { 20 } else { 0 }, "{way}");
                }
            }
            let rows = drained(&mut table, &names, &mut partitions);
            assert_eq!(rows.iter().map(|(key, ..)| key.clone()).collect::<Vec<_>>(), names_of, "{way}");
            for (position, (key, n, origin)) in rows.iter().enumerate() {
                let (first, twice) = (position as u64 % 20, position % 20 < 10);
                assert_eq!(
                    (*n, origin.time, origin.offset),
                    (if twice { 6 } else { 3 }, 1000, first),
                    "{way}, {key:?}"
                );
            }
        }
    }

    #[test]
    fn a_message_says_how_full_its_fullest_shard_is() {
        let mut partitions = Partitions::new();
        let partition = partitions.number(PartitionId(3));
        let (mut names, mut table) = (Names::default(), Table::new(LocalValues::Count));
        for some in 0..100u32 {
            let keys = std::array::from_fn(|lane| names.number(&(some * 32 + lane as u32).to_be_bytes()));
            let events = [event(0, 0); LANES];
            let seen = Seen { events: &events, mask: u32::MAX, start: 1000, partition, partitions: &partitions };
            table.count(&seen, &keys, &mut [0; LANES]);
        }
        let mut messages = [0, 1].map(|dest| PanePartials::new(dest, 0, 1000, Values::Count));
        table.drain(&names, &mut partitions, &mut messages);
        assert_eq!(messages.iter().map(PanePartials::len).sum::<usize>(), 3200);
        for message in &messages {
            let mut shards = [0; SHARDS];
            (0..message.len()).for_each(|row| shards[shard(tidewatch_events::hash::of(message.key(row)))] += 1);
            assert_eq!(message.fullest_shard(), shards.into_iter().max());
        }
    }

    #[test]
    fn a_count_goes_past_32_bits() {
        let mut partitions = Partitions::new();
        let partition = partitions.number(PartitionId(0));
        let mut names = Names::default();
        let keys = [names.number(b"k"); LANES];
        let events = [event(0, 0); 3];
        for (way, count) in WAYS {
            let mut table = Table::new(LocalValues::Count);
            let seen = |mask| Seen { events: &events, mask, start: 1000, partition, partitions: &partitions };
            count(&mut table, &seen(0b11), &keys);
            table.rows.row_mut(0).n = u32::MAX;
            count(&mut table, &seen(0b111), &keys);
            let mut longer = Table::new(LocalValues::Count);
            longer.take_in(&mut table, 0, &partitions);
            assert_eq!(longer.take_in(&mut table, 0, &partitions), 0, "the row is known");
            assert_eq!(drained(&mut table, &names, &mut partitions)[0].1, (1 << 32) + 2, "{way}");
            assert_eq!(drained(&mut longer, &names, &mut partitions)[0].1, 2 * ((1 << 32) + 2), "{way}");
        }
    }
}
