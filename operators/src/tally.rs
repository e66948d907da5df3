//! A table of rows found by a number, which stand in order of arrival.
//!
//! An index of 4-byte words finds the rows: the words of a busy window fit into the caches, rows of keys that come often
//! are the first ones.

use crate::names::secret;

/// What stands in a [`Tally`].
pub trait Keyed {
    /// The number by which it is found.
    fn key(&self) -> u64;
}

/// Rows by number.
pub struct Tally<R> {
    /// Open addressing with linear probing, at most half full: one more than a row's position; 0 is free.
    index: Vec<u32>,
    /// How far a product is shifted to be a position in the index.
    shift: u32,
    /// Odd: spreads keys over the index, differently in every process.
    factor: u64,
    rows: Vec<R>,
}

const LEAST_BITS: u32 = 6;

impl<R> Default for Tally<R> {
    fn default() -> Tally<R> {
        Tally { index: vec![0; 1 << LEAST_BITS], shift: 64 - LEAST_BITS, factor: secret() | 1, rows: Vec::new() }
    }
}

impl<R: Keyed> Tally<R> {
    /// The position of the row of a number, or where in the index it would be found.
    #[inline]
    pub fn position(&self, key: u64) -> Result<usize, usize> {
        let mask = self.index.len() - 1;
        let mut at = self.start(key);
        loop {
            let row = self.index[at & mask].wrapping_sub(1) as usize;
            match self.rows.get(row) {
                None => return Err(at & mask),
                Some(found) if found.key() == key => return Ok(row),
                Some(_) => at += 1,
            }
        }
    }

    /// Loads what [`Tally::position`] needs. The result has no meaning but must be used.
    #[inline]
    pub fn touch(&self, key: u64) -> u64 {
        let row = self.index[self.start(key) & (self.index.len() - 1)].wrapping_sub(1);
        self.rows.get(row as usize).map_or(0, Keyed::key)
    }

    #[inline]
    fn start(&self, key: u64) -> usize {
        (key.wrapping_mul(self.factor) >> self.shift) as usize
    }

    /// Adds the row of a number that was not found; `at` is what [`Tally::position`] said. Says the row's position.
    pub fn insert(&mut self, at: usize, row: R) -> usize {
        self.rows.push(row);
        self.index[at] = self.rows.len() as u32;
        if self.rows.len() > self.index.len() / 2 {
            self.resize(self.index.len().trailing_zeros() + 1);
        }
        self.rows.len() - 1
    }

    #[cold]
    fn resize(&mut self, bits: u32) {
        self.index.clear();
        self.index.resize(1 << bits, 0);
        self.shift = 64 - bits;
        let mask = self.index.len() - 1;
        for (position, row) in self.rows.iter().enumerate() {
            let mut at = self.start(row.key());
            while self.index[at & mask] > 0 {
                at += 1;
            }
            self.index[at & mask] = position as u32 + 1;
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
    fn rows_are_found_again_through_growth_and_clearing() {
        let mut tally: Tally<(u64, u32)> = Tally::default();
        for keys in [5_000u64, 7, 300, 0, 9_000] {
            for _ in 0..2 {
                for key in (0..keys).map(|k| k * 0x1_0000_0001) {
                    match tally.position(key) {
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
        }
    }
}
