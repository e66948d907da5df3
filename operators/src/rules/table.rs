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
    /// Start of the pane, ms.
    pub(super) start: u64,
    rows: Rows<Entry>,
    pub(super) values: LocalValues,
    /// Rows whose count went past 32 bits, once for each time.
    wrapped: Vec<u32>,
    /// How many rows were handed over last, and the bytes of their keys.
    drained: (usize, usize),
}

/// So many bytes a key is likely to have: that of an IPv4 address has five.
const LIKELY_KEY: usize = 6;

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
        Table { start: 0, rows: Rows::default(), values, wrapped: Vec::new(), drained: (1, LIKELY_KEY) }
    }

    /// Rows, and distinct values.
    pub(super) fn rows(&self) -> usize {
        self.rows.len() + if let LocalValues::Distinct(all) = &self.values { all.len() } else { 0 }
    }

    /// Asks for what finds the row of a key.
    #[inline]
    pub(super) fn prefetch_place(&self, key: u32) {
        self.rows.prefetch_place(key);
    }

    /// Asks for that row.
    #[inline]
    pub(super) fn prefetch(&self, key: u32) {
        let position = self.rows.prefetch(key);
        self.values.prefetch(position);
    }

    /// Makes room for the measure's parts of as many new rows as events are taken together.
    #[inline]
    pub(super) fn make_room(&mut self) {
        self.values.make_room(self.rows.len() + LANES);
    }

    /// An event of a partition, as one that may be the least of its row.
    #[inline]
    pub(super) fn least(&self, event: &Event, partition: usize) -> Least {
        Least { offset: event.offset, place: Place::new(event.time.0 - self.start, partition) }
    }

    /// Counts an event of a key. Says its row.
    #[inline]
    pub(super) fn count(&mut self, key: u32, least: Least, partitions: &Partitions) -> u32 {
        let position = self.rows.entry(Entry { key, n: 0, least });
        let entry = self.rows.row_mut(position);
        entry.n = entry.n.wrapping_add(1);
        if entry.n == 0 {
            entry.n = 1;
            self.wrapped.push(position as u32);
        }
        entry.least.see(least, partitions);
        position as u32
    }

    /// The same for those of some events of one partition, given by a mask, that all have this key. Says their row.
    pub(super) fn count_same(
        &mut self,
        key: u32,
        events: &[Event],
        mask: u32,
        partition: usize,
        partitions: &Partitions,
    ) -> u32 {
        let first = self.least(&events[mask.trailing_zeros() as usize], partition);
        let position = self.rows.entry(Entry { key, n: 0, least: first }) as u32;
        self.add(position, mask.count_ones().into());
        let mut earliest = u64::MAX;
        each(mask, |lane| earliest = earliest.min(events[lane].time.0));
        if earliest - self.start <= self.rows.row_mut(position as usize).least.place.distance() {
            for lane in bits(mask) {
                let least = self.least(&events[lane], partition);
                self.rows.row_mut(position as usize).least.see(least, partitions);
            }
        }
        position
    }

    /// Takes in what a pane counted that lies in this one and starts `later` (ms) after it. Says how many more rows, and
    /// distinct values, are kept.
    pub(super) fn take_in(&mut self, finer: &mut Table, later: u64, partitions: &Partitions) -> usize {
        let before = self.rows();
        finer.wrapped.sort_unstable();
        let others = finer.values.others();
        let mut taken = Taken { values: &finer.values, others: &others, later, partitions };
        let mut values = Vec::new();
        let all = finer.rows.all();
        for (chunk, entries) in (0u32..).zip(all.chunks(LANES)) {
            let next = all.iter().skip((chunk as usize + 1) * LANES).take(LANES);
            next.for_each(|entry| self.prefetch_place(entry.key));
            entries.iter().for_each(|entry| self.prefetch(entry.key));
            self.make_room();
            for (lane, entry) in (0u32..).zip(entries) {
                let from = chunk * LANES as u32 + lane;
                let least = entry.least.later(later);
                let own = self.rows.entry(Entry { key: entry.key, n: 0, least }) as u32;
                self.rows.row_mut(own as usize).least.see(least, partitions);
                self.add(own, finer.n_of(from));
                self.values.add(own, &mut taken, from, &mut values);
            }
        }
        self.rows() - before
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
        let (rows, bytes) = self.drained;
        for message in &mut *messages {
            message.reserve(share, share * bytes / rows + share / 4 + 8);
        }
        let entries = self.rows.all();
        let mut shards = vec![[0u32; SHARDS]; peers];
        for (position, entry) in (0..).zip(entries) {
            names.prefetch_ahead(position as usize, |ahead| entries.get(ahead).map(|entry| entry.key));
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
        let within = partitions.all_within();
        for (message, shards) in messages.iter_mut().zip(shards).filter(|(message, _)| !message.is_empty()) {
            message.set_partitions(&within);
            message.set_fullest_shard(shards.into_iter().max().unwrap_or(0));
        }
        if all > 0 {
            self.drained = (all, messages.iter().map(PanePartials::key_bytes).sum());
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
        // One branch, which is nearly always taken: of a new row this is the same event, of another a later one.
        let is_behind = (other.place == self.place) & (other.offset >= self.offset);
        if is_behind | (other.place.distance() > self.place.distance()) {
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

    /// Events of one partition.
    struct Seen<'a> {
        events: &'a [Event],
        partition: usize,
        partitions: &'a Partitions,
    }

    /// A way to count events, whose keys are given.
    type Counting = fn(&mut Table, &Seen<'_>, &[u32]);

    const WAYS: [(&str, Counting); 2] = [
        ("one by one", |table, seen, keys| {
            table.make_room();
            for (event, key) in seen.events.iter().zip(keys) {
                let least = table.least(event, seen.partition);
                table.count(*key, least, seen.partitions);
            }
        }),
        ("by key", |table, seen, keys| {
            table.make_room();
            let mut left: Vec<usize> = (0..seen.events.len()).collect();
            while let Some(first) = left.first() {
                let key = keys[*first];
                let mask = left.iter().filter(|at| keys[**at] == key).fold(0, |mask, at| mask | 1 << at);
                left.retain(|at| keys[*at] != key);
                table.count_same(key, seen.events, mask, seen.partition, seen.partitions);
            }
        }),
    ];

    /// Of a pane that starts at 1000.
    fn table() -> Table {
        Table { start: 1000, ..Table::new(LocalValues::Count) }
    }

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
                let mut table = table();
                for (distance, partition, offset) in *events {
                    let events = [event(*distance, *offset)];
                    let seen = Seen { events: &events, partition: *partition, partitions: &partitions };
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
            let (mut names, mut table) = (Names::default(), table());
            for round in 0..3 {
                for some in names_of.chunks(20) {
                    // Twice each in one go, and the last lanes left out.
                    let mut keys = [NONE; LANES];
                    let some: Vec<u32> = some.iter().map(|name| names.number(name)).collect();
                    some.iter().chain(&some).take(30).zip(&mut keys).for_each(|(number, key)| *key = *number);
                    let events: Vec<Event> = (0..30).map(|n| event(round, n)).collect();
                    let seen = Seen { events: &events, partition, partitions: &partitions };
                    let before = table.rows();
                    count(&mut table, &seen, &keys);
                    assert_eq!(table.rows() - before, if round == 0 { 20 } else { 0 }, "{way}");
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
        let (mut names, mut table) = (Names::default(), table());
        for number in 0..3200u32 {
            let least = table.least(&event(0, 0), partition);
            table.count(names.number(&number.to_be_bytes()), least, &partitions);
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
            let mut table = table();
            let seen = |count| Seen { events: &events[..count], partition, partitions: &partitions };
            count(&mut table, &seen(2), &keys);
            table.rows.row_mut(0).n = u32::MAX;
            count(&mut table, &seen(3), &keys);
            let mut longer = Table::new(LocalValues::Count);
            longer.take_in(&mut table, 0, &partitions);
            assert_eq!(longer.take_in(&mut table, 0, &partitions), 0, "the row is known");
            assert_eq!(drained(&mut table, &names, &mut partitions)[0].1, (1 << 32) + 2, "{way}");
            assert_eq!(drained(&mut longer, &names, &mut partitions)[0].1, 2 * ((1 << 32) + 2), "{way}");
        }
    }
}
