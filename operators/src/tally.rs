//! A table of rows found by a number, which stand in order of arrival.
//!
//! An index of 4-byte words finds the rows: the words of a busy window fit into the caches, rows of keys that come often
//! are the first ones. A word holds a piece of its key's hash beside the row's position, as many bits as are left, so that
//! rows of other keys are hardly ever loaded.
//!
//! Whoever looks up many keys asks for all [`Tally::candidate`]s first, then [prefetches](Tally::prefetch) them, then uses them:
//! each step waits for memory once for all.

use crate::names::secret;
use crate::prefetch::prefetch;
use std::hint::select_unpredictable;

/// What stands in a [`Tally`].
pub trait Keyed {
    /// The number by which it is found.
    fn key(&self) -> u64;
}

/// Rows by number.
pub struct Tally<R> {
    /// Open addressing with linear probing, at most half full: above, a piece of the key's hash; in the `bits` below, one more
    /// than a row's position; 0 is free.
    index: Vec<u32>,
    /// The index has so many words to the power of two.
    bits: u32,
    /// Odd: spreads keys over the index, differently in every process.
    factor: u64,
    rows: Vec<R>,
}

/// Where the row of a key is likely to stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate(u32);

const LEAST_BITS: u32 = 6;

const FEW: usize = 256;

impl<R> Default for Tally<R> {
    fn default() -> Tally<R> {
        Tally { index: vec![0; 1 << LEAST_BITS], bits: LEAST_BITS, factor: secret() | 1, rows: Vec::new() }
    }
}

impl<R: Keyed> Tally<R> {
    /// Where the row of a number is likely to stand, by the first two words of the index, without a look at rows.
    #[inline]
    pub fn candidate(&self, key: u64) -> Candidate {
        let (at, piece) = self.start(key);
        let mask = self.index.len() - 1;
        let (first, second) = (self.index[at & mask], self.index[(at + 1) & mask]);
        let word = select_unpredictable(self.is_of(first, piece), first, second);
        Candidate((word & self.low()).wrapping_sub(1))
    }

    /// Asks for the row of a candidate.
    #[inline]
    pub fn prefetch(&self, candidate: Candidate) {
        prefetch(&self.rows, candidate.0 as usize);
    }

    /// Asks for the words of the index that [`Tally::candidate`] looks at.
    #[inline]
    pub fn prefetch_index(&self, key: u64) {
        prefetch(&self.index, self.start(key).0);
    }

    /// The position of the row of a number, or where in the index it would be found.
    #[inline]
    pub fn position_at(&self, key: u64, candidate: Candidate) -> Result<usize, usize> {
        match self.rows.get(candidate.0 as usize) {
            Some(row) if row.key() == key => Ok(candidate.0 as usize),
            _ => {
                // Most keys without a candidate are new, and find the first word free.
                let (at, _) = self.start(key);
                if self.index.get(at) == Some(&0) { Err(at) } else { self.position(key) }
            }
        }
    }

    /// The same without a candidate.
    #[inline(never)]
    pub fn position(&self, key: u64) -> Result<usize, usize> {
        let (mut at, piece) = self.start(key);
        let mask = self.index.len() - 1;
        loop {
            let word = self.index[at & mask];
            if word == 0 {
                return Err(at & mask);
            }
            if self.is_of(word, piece) {
                let row = (word & self.low()) as usize - 1;
                if self.rows[row].key() == key {
                    return Ok(row);
                }
            }
            at += 1;
        }
    }

    /// Where a number's search begins, and the piece of its hash as it stands in a word.
    #[inline]
    fn start(&self, key: u64) -> (usize, u32) {
        let product = key.wrapping_mul(self.factor);
        let piece = (product >> (32 - self.bits)) as u32;
        ((product >> (64 - self.bits)) as usize, piece & !self.low())
    }

    /// Whether a word may be of a key with this piece; a free word is of none, or leads to no row.
    #[inline]
    fn is_of(&self, word: u32, piece: u32) -> bool {
        word & !self.low() == piece
    }

    /// The bits of a word that hold a position.
    #[inline]
    fn low(&self) -> u32 {
        (1 << self.bits) - 1
    }

    /// Adds the row of a number that was not found; `at` is what [`Tally::position`] said. Says the row's position.
    pub fn insert(&mut self, at: usize, row: R) -> usize {
        let (_, piece) = self.start(row.key());
        self.rows.push(row);
        self.index[at] = piece | self.rows.len() as u32;
        if self.rows.len() > self.index.len() / 2 {
            self.resize(self.bits + 1);
        }
        self.rows.len() - 1
    }

    #[cold]
    fn resize(&mut self, bits: u32) {
        assert!(bits < 32, "a table holds fewer than 2^30 rows");
        self.index.clear();
        self.index.resize(1 << bits, 0);
        self.bits = bits;
        let mask = self.index.len() - 1;
        for position in 0..self.rows.len() {
            let (mut at, piece) = self.start(self.rows[position].key());
            while self.index[at & mask] > 0 {
                at += 1;
            }
            self.index[at & mask] = piece | (position as u32 + 1);
        }
    }

    /// Forgets all rows and keeps the room, but for that of an index that was mostly empty: the next rows are likely to be
    /// as many.
    pub fn clear(&mut self) {
        let rows = self.rows.len();
        self.rows.clear();
        if self.index.len() > 1 << LEAST_BITS && rows < self.index.len() / 16 {
            self.index = Vec::new();
            self.resize((rows * 4).next_power_of_two().trailing_zeros().max(LEAST_BITS));
        } else {
            self.index.fill(0);
        }
    }
}

impl<R> Tally<R> {
    /// The rows, in order of arrival.
    #[inline]
    pub fn rows(&self) -> &[R] {
        &self.rows
    }

    /// The row at a position.
    #[inline]
    pub fn row_mut(&mut self, position: usize) -> &mut R {
        &mut self.rows[position]
    }

    /// Whether there are so few rows that all are in the nearest cache: to load them beforehand gains nothing.
    #[inline]
    pub fn is_small(&self) -> bool {
        self.rows.len() <= FEW
    }

    /// How many rows.
    #[inline]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for (u64, u32) {
        fn key(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn most_rows_are_where_their_candidates_say() {
        let mut tally: Tally<(u64, u32)> = Tally::default();
        let keys: Vec<u64> = (0..10_000u64).map(|k| tidewatch_events::hash::of(&k.to_le_bytes())).collect();
        for key in &keys {
            let at = tally.position(*key).expect_err("new");
            tally.insert(at, (*key, 1));
        }
        let found = keys.iter().filter(|key| tally.rows()[tally.candidate(**key).0 as usize].0 == **key).count();
        assert!(found > 9_000, "{found} of 10,000");
        let wrong = Candidate(3);
        assert_eq!(tally.position_at(keys[5], wrong), Ok(5), "a candidate of another key");
        assert!(tally.position_at(!keys[3], wrong).is_err(), "no such key");
    }

    #[test]
    fn rows_are_found_again_through_growth_and_clearing() {
        let mut tally: Tally<(u64, u32)> = Tally::default();
        for keys in [5_000u64, 7, 300, 0, 9_000] {
            for _ in 0..2 {
                for key in (0..keys).map(|k| k * 0x1_0000_0001) {
                    match tally.position_at(key, tally.candidate(key)) {
                        Ok(position) => tally.row_mut(position).1 += 1,
                        Err(at) => {
                            let position = tally.insert(at, (key, 1));
                            assert_eq!(tally.position(key), Ok(position));
                        }
                    }
                }
            }
            assert_eq!(tally.len() as u64, keys);
            assert!(tally.rows().iter().enumerate().all(|(n, row)| *row == (n as u64 * 0x1_0000_0001, 2)));
            tally.clear();
            assert!(tally.is_empty() && tally.position(0).is_err());
            assert_eq!(tally.candidate(0), Candidate(u32::MAX), "there is no row to ask for");
            tally.prefetch(tally.candidate(0));
        }
    }
}
