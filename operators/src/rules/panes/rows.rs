//! The rows of a key: one list in order of panes, walked from either end.

use super::{PaneStore, Row};

impl PaneStore {
    /// The rows of a key from `start` to `end`, oldest first; `row` is one of them.
    pub(in crate::rules) fn rows_around(&self, row: u32, start: u64, end: u64) -> Rows<'_> {
        let mut at = row;
        while let Some(before) = self.rows.get(self.rows[at as usize].before as usize).filter(|row| row.pane >= start) {
            debug_assert!(before.pane < self.rows[at as usize].pane, "rows are in order of their panes");
            at = self.rows[at as usize].before;
        }
        Rows { rows: &self.rows, at, end }
    }

    /// The rows of a key in the running window that ends at `end`, oldest first.
    pub(in crate::rules) fn rows_in(&self, slot: u32, end: u64) -> Rows<'_> {
        Rows { rows: &self.rows, at: self.slots[slot as usize].head, end }
    }
}

/// A key's rows, oldest first, up to an end.
#[derive(Clone)]
pub(in crate::rules) struct Rows<'a> {
    rows: &'a [Row],
    at: u32,
    end: u64,
}

impl<'a> Iterator for Rows<'a> {
    type Item = (u32, &'a Row);

    fn next(&mut self) -> Option<(u32, &'a Row)> {
        let at = self.at;
        let row = self.rows.get(at as usize).filter(|row| row.pane < self.end)?;
        self.at = row.next;
        Some((at, row))
    }
}
