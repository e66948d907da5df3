//! Parts of a window put together: every key once, with what all parts have of it.
//!
//! Most keys stand in one part only. Their rows are not copied: an index of 4-byte words finds the first row of a key, and only
//! what other parts add to it is kept beside.
//!
//! Invariant: of each key, the row that came first stands for it; the others are marked as repeated.

use super::part::{Part, Place, Row, mix};
use super::{Counts, Dimension, Settings};
use crate::prefetch::prefetch;
use crate::rules::{SHARDS, shard};
use std::collections::HashMap;
use std::ops::Range;
use tidewatch_events::hash;

/// How many rows are looked up before the first is worked on.
const TOGETHER: usize = 32;

/// A row that adds to one before it.
const REPEATED: u32 = u32::MAX;

/// Parts of a window put together.
pub(super) struct Merged<'a> {
    parts: &'a [Part],
    /// Names of all hosts.
    pub hosts: Vec<Vec<u8>>,
    /// Of each part, which of them its hosts are.
    places: Vec<Vec<u32>>,
    /// Requests whose key found no room, by dimension.
    pub overflow: [u64; 4],
    /// Of each row, in order of the parts: one more than the position of what is added to it; 0 where nothing is;
    /// [`REPEATED`] where it is added to one before.
    fates: Vec<u32>,
    added: Vec<Added>,
    /// Of paths with durations in several parts.
    buckets: Vec<u16>,
    /// Which keys find room, where not all do.
    cut: Option<Cut>,
}

/// What other parts add to a row.
#[derive(Default)]
struct Added {
    counts: Counts,
    longest_us: u32,
    /// Where the buckets of all parts are, if others have any.
    buckets: Range<usize>,
}

/// The first rows of keys.
struct Index<'a> {
    /// Open addressing with linear probing, at most two thirds full: above, a piece of the key's hash; in the bits of `low`, one
    /// more than the row's number; 0 is free.
    words: Vec<u32>,
    low: u32,
    /// How many rows all parts have.
    room: usize,
    parts: &'a [Part],
    /// Of each part, how many rows stand before it.
    firsts: Vec<usize>,
    /// Of each row, where it stands in its part.
    rows: Vec<Place>,
}

/// A row about to be looked up.
struct Ahead<'a> {
    hash: u64,
    row: Row<'a>,
    place: Place,
}

impl<'a> Merged<'a> {
    /// Puts parts together.
    pub fn new(settings: &Settings, parts: &'a [Part]) -> Merged<'a> {
        let mut index = Index::new(parts);
        let rows = index.room;
        let mut merged = Merged {
            parts,
            hosts: Vec::new(),
            places: Vec::with_capacity(parts.len()),
            overflow: [0; 4],
            fates: Vec::with_capacity(rows),
            added: Vec::new(),
            buckets: Vec::new(),
            cut: None,
        };
        let mut by_name: HashMap<&[u8], u32> = HashMap::new();
        let mut keys = [[0u32; SHARDS]; 4];
        let mut ahead: Vec<Ahead<'_>> = Vec::with_capacity(TOGETHER);
        for part in parts {
            index.firsts.push(index.rows.len());
            merged.overflow.iter_mut().zip(part.overflow).for_each(|(sum, more)| *sum += more);
            let place = |name: &'a Vec<u8>| {
                *by_name.entry(name).or_insert_with(|| {
                    merged.hosts.push(name.clone());
                    merged.hosts.len() as u32 - 1
                })
            };
            merged.places.push(part.hosts.iter().map(place).collect());
            let hashes: Vec<u64> = part.hosts.iter().map(|name| hash::of(name)).collect();
            let mut rows = part.iter();
            loop {
                // Look-ups go ahead of the work, so that they wait for memory together.
                ahead.clear();
                while ahead.len() < TOGETHER {
                    let place = part.place_of_next(&rows);
                    let Some(row) = rows.next() else { break };
                    let hash = mix(hash::of(row.key), hashes[row.host as usize], row.dimension);
                    index.prefetch(hash);
                    ahead.push(Ahead { hash, row, place });
                }
                if ahead.is_empty() {
                    break;
                }
                assert!(index.rows.len() + ahead.len() <= index.room, "a part has as many rows as it says");
                let candidates = ahead.iter().map(|ahead| index.candidate(ahead.hash));
                candidates.for_each(|candidate| prefetch(&index.rows, candidate));
                ahead.iter().for_each(|ahead| index.prefetch_row(index.candidate(ahead.hash)));
                for Ahead { hash, row, place } in &ahead {
                    let host = merged.places[merged.places.len() - 1][row.host as usize];
                    match index.find(*hash, row, host, &merged.places) {
                        Ok((first, same)) => merged.add(first, &same, row),
                        Err(at) => {
                            index.insert(at, *hash);
                            merged.fates.push(0);
                            keys[row.dimension as usize][shard(*hash)] += 1;
                        }
                    }
                    index.rows.push(*place);
                }
            }
        }
        let per_shard = settings.max_keys.div_ceil(SHARDS);
        if keys.iter().flatten().any(|keys| *keys as usize > per_shard) {
            merged.cut(per_shard);
        }
        merged
    }

    /// Adds what a row has to the first one of its key.
    fn add(&mut self, first: usize, same: &Row<'_>, row: &Row<'_>) {
        self.fates.push(REPEATED);
        if self.fates[first] == 0 {
            self.added.push(Added::default());
            self.fates[first] = self.added.len() as u32;
        }
        let added = &mut self.added[self.fates[first] as usize - 1];
        added.counts.merge(&row.counts);
        if row.buckets.is_empty() {
            return;
        }
        added.longest_us = added.longest_us.max(row.longest_us);
        let (start, end) = (self.buckets.len(), added.buckets.end);
        if added.buckets.is_empty() {
            self.buckets.extend_from_slice(same.buckets);
        } else if end < start {
            // Those of another path stand behind them.
            self.buckets.extend_from_within(added.buckets.clone());
        }
        let start = if end == start && end > 0 { added.buckets.start } else { start };
        self.buckets.extend_from_slice(row.buckets);
        added.buckets = start..self.buckets.len();
    }

    /// Every key that finds room once, with what all parts have of it.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.all().filter(|row| self.cut.as_ref().is_none_or(|cut| cut.has_room(row.dimension, self.hash(row))))
    }

    /// Every key once.
    fn all(&self) -> impl Iterator<Item = Row<'_>> {
        let rows = self
            .parts
            .iter()
            .zip(&self.places)
            .flat_map(|(part, places)| part.iter().map(|row| Row { host: places[row.host as usize], ..row }));
        rows.zip(&self.fates).filter(|(_, fate)| **fate != REPEATED).map(|(mut row, fate)| {
            let Some(added) = (*fate as usize).checked_sub(1).map(|at| &self.added[at]) else { return row };
            row.counts.merge(&added.counts);
            row.longest_us = row.longest_us.max(added.longest_us);
            if !added.buckets.is_empty() {
                row.buckets = &self.buckets[added.buckets.clone()];
            }
            row
        })
    }

    /// The hash of a row of all.
    fn hash(&self, row: &Row<'_>) -> u64 {
        mix(hash::of(row.key), hash::of(&self.hosts[row.host as usize]), row.dimension)
    }

    /// Finds which keys have no room, and counts their requests as overflow.
    #[cold]
    fn cut(&mut self, per_shard: usize) {
        let mut hashes = [(); 4].map(|()| vec![Vec::new(); SHARDS]);
        for row in self.all() {
            let hash = self.hash(&row);
            hashes[row.dimension as usize][shard(hash)].push(hash);
        }
        let cut = Cut::new(hashes, per_shard);
        let mut overflow = self.overflow;
        for row in self.all().filter(|row| !cut.has_room(row.dimension, self.hash(row))) {
            overflow[row.dimension as usize] += row.counts.requests;
        }
        (self.overflow, self.cut) = (overflow, Some(cut));
    }

    /// As one part, in place of those of the window.
    pub fn into_part(self) -> Part {
        let (owner, window) = self.parts.first().map_or((0, 0), |part| (part.owner, part.window));
        let mut merged = Part::new(owner, window, Vec::new());
        let sizes = self.parts.iter().map(Part::size);
        merged.reserve(sizes.fold((0, 0), |most, size| (most.0.max(size.0), most.1 + size.1)));
        self.rows().for_each(|row| merged.push(row));
        (merged.hosts, merged.overflow) = (self.hosts, self.overflow);
        merged
    }
}

impl<'a> Index<'a> {
    /// Empty, with room for the rows of all parts.
    fn new(parts: &'a [Part]) -> Index<'a> {
        let rows = parts.iter().map(Part::all_rows).sum::<usize>();
        let words = (rows + rows / 2).next_power_of_two().max(TOGETHER);
        assert!(words <= 1 << 31, "the parts of a window have fewer than 2^30 rows");
        Index {
            words: vec![0; words],
            low: words as u32 - 1,
            parts,
            firsts: Vec::with_capacity(parts.len()),
            rows: Vec::with_capacity(rows),
            room: rows,
        }
    }

    #[inline]
    fn prefetch(&self, hash: u64) {
        prefetch(&self.words, hash as usize & (self.words.len() - 1));
    }

    /// The piece of a hash that stands in a word.
    #[inline]
    fn piece(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 & !self.low
    }

    /// The row that a hash's first word names; it may be of another key, or none.
    #[inline]
    fn candidate(&self, hash: u64) -> usize {
        let word = self.words[hash as usize & (self.words.len() - 1)];
        ((word & self.low) as usize).wrapping_sub(1)
    }

    #[inline]
    fn prefetch_row(&self, number: usize) {
        if let Some(place) = self.rows.get(number) {
            self.parts[self.part_of(number)].prefetch(*place);
        }
    }

    #[inline]
    fn part_of(&self, number: usize) -> usize {
        self.firsts.partition_point(|first| *first <= number) - 1
    }

    /// The first row of a row's key, and its number; or where in the index it would be found. The row's host is `host` of all.
    #[inline]
    fn find(&self, hash: u64, row: &Row<'_>, host: u32, places: &[Vec<u32>]) -> Result<(usize, Row<'a>), usize> {
        let mask = self.words.len() - 1;
        let (mut at, piece) = (hash as usize & mask, self.piece(hash));
        loop {
            let word = self.words[at];
            if word == 0 {
                return Err(at);
            }
            if word & !self.low == piece {
                let number = (word & self.low) as usize - 1;
                let part = self.part_of(number);
                if let Some(same) = self.parts[part].row_at(self.rows[number])
                    && same.key == row.key
                    && same.dimension == row.dimension
                    && places[part][same.host as usize] == host
                {
                    return Ok((number, same));
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Notes the row that comes next as the first of its key; `at` is what [`Index::find`] said.
    #[inline]
    fn insert(&mut self, at: usize, hash: u64) {
        self.words[at] = self.piece(hash) | (self.rows.len() as u32 + 1);
    }
}

/// The greatest hashes that find room, by dimension and hash shard.
struct Cut([Vec<u64>; 4]);

impl Cut {
    fn new(hashes: [Vec<Vec<u64>>; 4], per_shard: usize) -> Cut {
        let greatest = |mut hashes: Vec<u64>| match hashes.len() {
            keys if keys <= per_shard => u64::MAX,
            _ => *hashes.select_nth_unstable(per_shard - 1).1,
        };
        Cut(hashes.map(|of_shards| of_shards.into_iter().map(greatest).collect()))
    }

    fn has_room(&self, dimension: Dimension, hash: u64) -> bool {
        hash <= self.0[dimension as usize][shard(hash)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use tidewatch_events::time::Millis;

    /// A row as it is pushed: dimension, host, key, requests, bytes, buckets of durations.
    type Pushed = (usize, u8, u8, u64, u64, Vec<u16>);

    fn settings(max_keys: usize) -> Settings {
        let (size, allowed_lateness) = (Millis(10), Millis(5));
        Settings { size, allowed_lateness, top: 2, max_keys, max_bytes: usize::MAX, max_hosts: 1000, host_room: 16 }
    }

    /// Keys of five bytes, as most are, and others.
    fn key(of: u8) -> Vec<u8> {
        vec![of; if of.is_multiple_of(3) { 1 + usize::from(of) } else { 5 }]
    }

    /// Rows as a part; of each key of a host there is one. Hosts stand in another order in every part.
    fn part(at: usize, rows: &[Pushed]) -> Part {
        let hosts: Vec<u8> = (0..3).map(|host| (host + at as u8) % 3).collect();
        let mut part = Part::new(0, 0, hosts.iter().map(|host| vec![*host]).collect());
        let mut seen = std::collections::BTreeSet::new();
        for (dimension, host, of, requests, bytes, buckets) in rows {
            if !seen.insert((dimension, host % 3, of)) {
                continue;
            }
            let dimension = Dimension::ALL[*dimension];
            let host = hosts.iter().position(|name| *name == host % 3).unwrap_or_default() as u32;
            let buckets = if dimension == Dimension::Path { &buckets[..] } else { &[] };
            let longest_us = buckets.iter().copied().max().unwrap_or(0).into();
            let counts = Counts { requests: *requests, bytes: *bytes, status_4xx: (bytes % 3) as u32, status_5xx: 0 };
            part.push(Row { dimension, host, key: &key(*of), counts, buckets, longest_us });
        }
        part
    }

    type Whole = BTreeMap<(Dimension, Vec<u8>, Vec<u8>), (Counts, Vec<u16>, u32)>;

    /// What all parts have of each key.
    fn model(parts: &[Part]) -> Whole {
        let mut all = Whole::new();
        for part in parts {
            for row in part.iter() {
                let host = part.hosts[row.host as usize].clone();
                let (counts, buckets, longest_us) = all.entry((row.dimension, host, row.key.to_vec())).or_default();
                counts.merge(&row.counts);
                buckets.extend(row.buckets);
                buckets.sort_unstable();
                *longest_us = row.longest_us.max(*longest_us);
            }
        }
        all
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let row =
            (0usize..4, any::<u8>(), 0u8..20, 1u64..300, 0u64..1 << 40, proptest::collection::vec(0u16..900, 0..4));
        proptest::collection::vec(proptest::collection::vec(row, 0..120), 0..5)
            .prop_map(|all| all.iter().enumerate().map(|(at, rows)| part(at, rows)).collect())
    }

    proptest! {
        #[test]
        fn every_key_comes_once_with_what_all_parts_have_of_it(parts in parts()) {
            let whole = model(&parts);
            let merged = Merged::new(&settings(1 << 20), &parts);
            prop_assert_eq!(merged.rows().count(), whole.len());
            let part = merged.into_part();
            prop_assert_eq!(model(std::slice::from_ref(&part)), whole);
        }

        #[test]
        fn which_keys_find_room_and_what_is_missed_does_not_depend_on_the_division(parts in parts(), order in any::<u64>()) {
            // One key a hash shard.
            let settings = settings(SHARDS);
            let merged = Merged::new(&settings, &parts);
            let kept = model(&[Merged::new(&settings, &parts).into_part()]);
            let requests = |of: &Whole| of.values().map(|(counts, ..)| counts.requests).sum::<u64>();
            prop_assert_eq!(merged.overflow.iter().sum::<u64>() + requests(&kept), requests(&model(&parts)));
            let mut others = parts.clone();
            others.rotate_left(order as usize % parts.len().max(1));
            let first = others.split_off(others.len().min(2));
            let mut others = vec![Merged::new(&settings, &others).into_part()];
            others.extend(first);
            let other = Merged::new(&settings, &others);
            prop_assert_eq!(other.overflow, merged.overflow);
            prop_assert_eq!(model(&[Merged::new(&settings, &others).into_part()]), kept);
        }
    }
}
