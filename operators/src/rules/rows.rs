//! Rows found by the numbers of their keys, which stand in order of arrival.
//!
//! Keys are numbered in order of arrival too, so a word for each number finds its row without hash or comparison, and the words
//! of keys that come often stand close together: the first ones.

use crate::prefetch::prefetch;

const LEAST_PLACES: usize = 64;

/// So many rows are few: to load them beforehand gains nothing, all are in the nearest cache.
const FEW: usize = 256;

/// Where a row has more places than this, the places are forgotten row by row.
const MANY_PLACES: usize = 32;

/// What stands in [`Rows`].
pub(super) trait Numbered {
    /// The number of its key.
    fn number(&self) -> u32;
}

/// Rows by the numbers of their keys.
pub(super) struct Rows<R> {
    /// By number: one more than the row's position; 0 where there is none.
    places: Vec<u32>,
    rows: Vec<R>,
}

impl<R> Default for Rows<R> {
    fn default() -> Rows<R> {
        Rows { places: Vec::new(), rows: Vec::new() }
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

    /// Asks for the rows of some numbers.
    #[inline]
    pub(super) fn prefetch(&self, numbers: impl Iterator<Item = u32>) {
        if self.rows.len() > FEW {
            numbers.for_each(|number| prefetch(&self.rows, self.position(number).unwrap_or(0)));
        }
    }

    /// Adds the row of a number that has none. Says its position.
    pub(super) fn insert(&mut self, row: R) -> usize {
        let number = row.number() as usize;
        if number >= self.places.len() {
            self.grow(number + 1);
        }
        self.rows.push(row);
        self.places[number] = self.rows.len() as u32;
        self.rows.len() - 1
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
        if self.rows.len() < self.places.len() / MANY_PLACES {
            for row in &self.rows {
                self.places[row.number() as usize] = 0;
            }
        } else {
            self.places.fill(0);
        }
        self.rows.clear();
    }
}

impl<R> Rows<R> {
    /// The rows, in order of arrival.
    #[inline]
    pub(super) fn all(&self) -> &[R] {
        &self.rows
    }

    /// The row at a position.
    #[inline]
    pub(super) fn row_mut(&mut self, position: usize) -> &mut R {
        &mut self.rows[position]
    }

    /// How many rows.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.rows.len()
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
                    match rows.position(number) {
                        Some(position) => rows.row_mut(position).1 += 1,
                        None => {
                            let position = rows.insert((number, 1));
                            assert_eq!((round, rows.position(number)), (0, Some(position)));
                        }
                    }
                }
                rows.prefetch([0, step, u32::MAX].into_iter());
            }
            let want: Vec<(u32, u32)> = (0..count).map(|n| (n * step, 2)).collect();
            assert_eq!((rows.all(), rows.len()), (&want[..], count as usize), "{count} by {step}");
            assert_eq!(rows.position(count * step + 1), None);
            rows.clear();
            assert!((0..count).all(|n| rows.position(n * step).is_none()), "{count} by {step}");
        }
    }
}
