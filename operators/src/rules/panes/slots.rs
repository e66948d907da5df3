//! From panes as they came to slots: what follows is as if all had been in slots from the first message on.

use super::PaneStore;
use crate::rules::sparse::Sparse;
use tidewatch_events::hash;

impl PaneStore {
    /// Puts all rows into slots, for good; those of the running window enter it.
    pub(in crate::rules) fn make_slots(&mut self) {
        let Some((running, waiting, hot)) = self.sparse.take().map(Sparse::take_apart) else { return };
        for partials in running {
            let pane = partials.pane;
            self.merge_now(partials, None);
            let Some(merged) = self.waiting.remove(&pane) else { continue };
            for (slot, row) in &merged.rows {
                self.slots[*slot as usize].n += self.rows[*row as usize].n;
                self.measured.add(*row as usize, *slot);
            }
            self.running.insert(pane, merged.rows);
        }
        waiting.into_iter().for_each(|partials| self.merge_now(partials, None));
        for (key, of_key) in hot {
            let found =
                self.table.find(hash::of(key.as_bytes()), |slot| self.slots[*slot as usize].key == key).copied();
            if let Some(slot) = found {
                self.hot.insert(slot, of_key);
                self.is_hot[slot as usize] = true;
            }
        }
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
