//! Rows found by the numbers of their keys, which stand in order of arrival.
//!
//! Keys are numbered in order of arrival too, so a word for each number finds its row without hash or comparison, and the words
//! of keys that come often stand close together: the first ones.

use crate::prefetch::prefetch;
use std::hint::select_unpredictable;

const LEAST_PLACES: usize = 64;

/// Where a row has more places than this, the places are forgotten row by row.
const MANY_PLACES: usize = 32;

/// What stands in [`Rows`].
pub(super) trait Numbered: Copy {
    /// The number of its key.
    fn number(&self) -> u32;
}

/// Rows by the numbers of their keys.
pub(super) struct Rows<R> {
    /// By number: one more than the row's position; 0 where there is none.
    places: Vec<u32>,
    /// Those behind the first `len` mean nothing.
    rows: Vec<R>,
    len: usize,
}

impl<R> Default for Rows<R> {
    fn default() -> Rows<R> {
        Rows { places: Vec::new(), rows: Vec::new(), len: 0 }
    }
}

impl<R: Numbered> Rows<R> {
    /// The position of the row of a number.
    #[inline]
    pub(super) fn position(&self, number: u32) -> Option<usize> {
        let place = self.places.get(number as usize).copied().unwrap_or(0);
        (place as usize).checked_sub(1)
    }

    /// Asks for the word that finds the row of a number.
    #[inline]
    pub(super) fn prefetch_place(&self, number: u32) {
        prefetch(&self.places, number as usize);
    }

    /// Asks for the row of a number; says where it stands, or would stand if it were the next.
    #[inline]
    pub(super) fn prefetch(&self, number: u32) -> usize {
        let position = self.position(number).unwrap_or(self.len);
        prefetch(&self.rows, position);
        position
    }

    /// The position of the row of a number; where there is none, this one is added. Which of both cannot be guessed, so there
    /// is no branch on it: a row is written behind the last one, and counts if it is needed.
    #[inline]
    pub(super) fn entry(&mut self, row: R) -> usize {
        let (number, next) = (row.number() as usize, self.len);
        if number >= self.places.len() {
            self.grow(number + 1);
        }
        match self.rows.get_mut(next) {
            Some(spare) => *spare = row,
            None => self.rows.push(row),
        }
        let place = &mut self.places[number];
        let is_new = *place == 0;
        *place = select_unpredictable(is_new, next as u32 + 1, *place);
        self.len += usize::from(is_new);
        *place as usize - 1
    }

    #[cold]
    fn grow(&mut self, places: usize) {
        // Made anew: what was never written takes no memory.
        let mut places = vec![0; places.next_power_of_two().max(LEAST_PLACES)];
        places[..self.places.len()].copy_from_slice(&self.places);
        self.places = places;
    }

    /// Forgets all rows and keeps the room.
    pub(super) fn clear(&mut self) {
        if self.len < self.places.len() / MANY_PLACES {
            for row in &self.rows[..self.len] {
                self.places[row.number() as usize] = 0;
            }
        } else {
            self.places.fill(0);
        }
        self.len = 0;
    }
}

impl<R> Rows<R> {
    /// The rows, in order of arrival.
    #[inline]
    pub(super) fn all(&self) -> &[R] {
        &self.rows[..self.len]
    }

    /// The row at a position.
    #[inline]
    pub(super) fn row_mut(&mut self, position: usize) -> &mut R {
        &mut self.rows[position]
    }

    /// How many rows.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Numbered for (u32, u32) {
        fn number(&self) -> u32 {
            self.0
        }
    }

    #[test]
    fn rows_are_found_again_through_growth_and_clearing() {
        let mut rows: Rows<(u32, u32)> = Rows::default();
        for (count, step) in [(5_000u32, 1), (7, 40_000), (300, 3), (0, 1), (9_000, 20)] {
            for round in 0..2 {
                for number in (0..count).map(|n| n * step) {
                    let before = (rows.position(number), rows.len());
                    assert_eq!(before.0.is_none(), round == 0);
                    let position = rows.entry((number, 0));
                    assert_eq!((position, Some(position)), (before.0.unwrap_or(before.1), rows.position(number)));
                    rows.row_mut(position).1 += 1;
                }
                [0, step, u32::MAX].into_iter().for_each(|number| _ = rows.prefetch(number));
            }
            let want: Vec<(u32, u32)> = (0..count).map(|n| (n * step, 2)).collect();
            assert_eq!((rows.all(), rows.len()), (&want[..], count as usize), "{count} by {step}");
            assert_eq!(rows.position(count * step + 1), None);
            rows.clear();
            assert!((0..count).all(|n| rows.position(n * step).is_none()), "{count} by {step}");
        }
    }
}
